/* emulate.h: CUDA's words for the processor, so that kernels can be run where there is no GPU.
 *
 * One thread of the system runs a grid: block after block, the threads of a block as fibers that change places at
 * barriers and shuffles (driver.cpp). It finds what is wrong in a kernel's arithmetic and indices, not what comes of
 * threads that really run at one time. */
#ifndef ML_TESTS_CUDA_EMULATE_H
#define ML_TESTS_CUDA_EMULATE_H

#include <stddef.h>
#include <stdint.h>

struct emulated_dim {
  unsigned x, y, z;
};
extern emulated_dim threadIdx, blockIdx, blockDim, gridDim;
extern "C" void emulated_barrier(void);
extern "C" uint64_t emulated_exchange(uint64_t value, int by);  /* that of the lane whose number differs by `by` */
extern "C" void emulated_gather(uint64_t value, uint64_t *all); /* those of all lanes */

struct float4 {
  float x, y, z, w;
};
struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};

#define DEVICE static inline
#define DEVICE_CALL static inline
#define DEVICE_MEMBER inline
#define __shared__ static
#define __syncthreads emulated_barrier
#define KERNEL(name, args)                                                                                             \
  static void name##_body(const args &t);                                                                              \
  extern "C" {                                                                                                         \
  __attribute__((visibility("default"))) size_t name##_bytes = sizeof(args);                                           \
  }                                                                                                                    \
  extern "C" __attribute__((visibility("default"))) void name(const void *t) { name##_body(*(const args *)t); }        \
  static void name##_body(const args &t)

#define KERNEL_EARLY(name, args, threads, blocks) KERNEL(name, args)
static inline void let_next_start(void) {}
static inline void wait_for_all(void) {}

static inline void fence(void) {}
static inline float fresh(const float *p) { return *p; }
static inline void copy_16(void *to, const void *from) { __builtin_memcpy(to, from, 16); }
static inline void copy_4(void *to, const void *from) { __builtin_memcpy(to, from, 4); }
typedef char *shared_place;
static inline shared_place place_of_lane(void *p) { return (char *)p; }
static inline void copy_16_once(shared_place to, const void *from) { copy_16(to, from); }
static inline void copy_4_once(shared_place to, const void *from) { copy_4(to, from); }
static inline void close_copies(void) {}
template <int LEFT> static inline void wait_copies(void) {}

extern "C" void *emulated_shared(void); /* of the launch's own size */
#define DYNAMIC_SHARED(type, name) type *const name = (type *)emulated_shared()

template <typename T> static inline T emulated_shuffle(T v, int by) {
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &v, sizeof v);
  bits = emulated_exchange(bits, by);
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}

static inline int32_t atomicCAS(int32_t *at, int32_t expected, int32_t value) {
  const int32_t old = *at;
  if (old == expected) *at = value;
  return old;
}
static inline int32_t atomicAdd(int32_t *at, int32_t value) {
  const int32_t old = *at;
  *at += value;
  return old;
}
static inline uint64_t atomicAdd(uint64_t *at, uint64_t value) {
  const uint64_t old = *at;
  *at += value;
  return old;
}

#endif
