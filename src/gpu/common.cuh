// common.cuh: what all kernels share: elements of every dtype, indices, faults.
//
// The same text is compiled for the processor by tests/cuda, which puts threads, barriers and shuffles in CUDA's place.
#ifndef ML_GPU_COMMON_CUH
#define ML_GPU_COMMON_CUH

#include "gpu/params.h"
#include "tensor/dtype.h"

#include <math.h>
#include <string.h>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define DEVICE static __device__ __forceinline__
#define DEVICE_CALL static __device__ __noinline__
// Kernels may be started before those that they wait for are done (run.c): what these write is there after
// wait_for_all, to which each thread comes. What runs after this one may be started once all its blocks run.
static __device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
static __device__ __forceinline__ void wait_for_all() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Bytes on their way to shared memory, 16 or 4 a thread. Those asked for since the last close_copies are one lot; all
// but the last `left` lots have come to the thread that asked for them behind wait_copies.
static __device__ __forceinline__ void copy_16(void *to, const void *from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from));
}
static __device__ __forceinline__ void copy_4(void *to, const void *from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from));
}
// The same of what nobody reads again before the second-level cache would have forgotten it. It makes way first, so
// that instructions, arguments and what kernels hand on stay there, which would else come from memory with each launch.
static __device__ __forceinline__ uint64_t read_once() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
// A place in shared memory as a lane has it. Not as a sum of what is the lane's and what all lanes have in common: of
// copies to such CUDA 13.0 makes an instruction, where they say how they are cached, that no GPU has.
typedef uint32_t shared_place;
static __device__ __forceinline__ shared_place place_of_lane(void *p) {
  return __shfl_xor_sync(0xffffffffu, (uint32_t)__cvta_generic_to_shared(p), 0);
}
static __device__ __forceinline__ void copy_16_once(shared_place to, const void *from) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "l"(read_once()));
}
static __device__ __forceinline__ void copy_4_once(shared_place to, const void *from) {
  asm volatile("cp.async.ca.shared.global.L2::cache_hint [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "l"(read_once()));
}
static __device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;"); }
template <int LEFT> static __device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
// What a thread has written is there for others before what it writes next; and what others have written.
static __device__ __forceinline__ void fence() { __threadfence(); }
static __device__ __forceinline__ float fresh(const float *p) { return __ldcg(p); }
// A kernel takes one structure, named `t`. One that is EARLY waits by itself, and reads before only what no kernel
// writes: packed weights, constants.
#define KERNEL_EARLY(name, args, threads, blocks)                                                                      \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ args t)
#define KERNEL(name, args)                                                                                             \
  static __device__ __forceinline__ void name##_body(const args &t);                                                   \
  extern "C" __global__ void name(const __grid_constant__ args t) {                                                    \
    let_next_start();                                                                                                  \
    wait_for_all();                                                                                                    \
    name##_body(t);                                                                                                    \
  }                                                                                                                    \
  static __device__ __forceinline__ void name##_body(const args &t)
#define DEVICE_MEMBER __device__ __forceinline__
// Shared memory of the size that the launch asks for.
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#define FULL 0xffffffffu
#else
#include "emulate.h"
#endif

enum { WARP = 32 };

#ifdef __CUDACC__
DEVICE float f16_float(uint16_t h) { return __half2float(__ushort_as_half(h)); }
DEVICE float bf16_float(uint16_t h) { return __uint_as_float((uint32_t)h << 16); }
DEVICE uint16_t float_f16(float f) { return f != f ? 0x7e00 : __half_as_ushort(__float2half_rn(f)); }
DEVICE uint16_t float_bf16(float f) {
  uint32_t u = __float_as_uint(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 64);
  return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}
#else
DEVICE float f16_float(uint16_t h) { return ml_f16_to_f32(h); }
DEVICE float bf16_float(uint16_t h) { return ml_bf16_to_f32(h); }
DEVICE uint16_t float_f16(float f) { return ml_f32_to_f16(f); }
DEVICE uint16_t float_bf16(float f) { return ml_f32_to_bf16(f); }
#endif

#ifdef __CUDACC__
DEVICE float bits_float(uint32_t u) { return __uint_as_float(u); }
DEVICE uint32_t float_bits(float f) { return __float_as_uint(f); }
#else
DEVICE float bits_float(uint32_t u) {
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}
DEVICE uint32_t float_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}
#endif
// The upper of two bfloat16 in a word.
DEVICE float high_bf16(uint32_t pair) { return bits_float(pair & 0xffff0000u); }
// An integer below 2^23, by its place in a float's fraction: conversions run at a quarter of the rate of additions.
DEVICE float small_float(uint32_t i) { return bits_float(i | 0x4b000000u) - 8388608.0f; }

// The value of the lane whose number differs by `by`.
template <typename T> DEVICE T shuffle(T v, int by) {
#ifdef __CUDACC__
  return __shfl_xor_sync(FULL, v, by);
#else
  return emulated_shuffle(v, by);
#endif
}

// An element in a register: float32, float64 or 64-bit integer by the class of its dtype.
union slot {
  float f;
  double d;
  int64_t i;
  uint64_t u;
};

enum cls { CF, CD, CI, CU };
DEVICE int class_of(int dtype) {
  if (dtype == ML_F64) return CD;
  if (dtype <= ML_BF16 || dtype == ML_F8_E4M3) return CF;
  return dtype == ML_U64 ? CU : CI;
}
DEVICE bool is_float(int dtype) { return dtype <= ML_F64; }
DEVICE int item_of(int dtype) {
  switch (dtype) {
  case ML_F64:
  case ML_I64:
  case ML_U64: return 8;
  case ML_F32:
  case ML_I32:
  case ML_U32: return 4;
  case ML_F16:
  case ML_BF16:
  case ML_I16:
  case ML_U16: return 2;
  default: return 1;
  }
}

DEVICE float load_float(const char *data, int dtype, int64_t i) {
  if (dtype == ML_F32) return ((const float *)data)[i];
  if (dtype == ML_F16) return f16_float(((const uint16_t *)data)[i]);
  return bf16_float(((const uint16_t *)data)[i]);
}

DEVICE void store_float(char *data, int dtype, int64_t i, float f) {
  if (dtype == ML_F32) ((float *)data)[i] = f;
  else if (dtype == ML_F16) ((uint16_t *)data)[i] = float_f16(f);
  else ((uint16_t *)data)[i] = float_bf16(f);
}

// Of any integer dtype or bool; of uint64 its bits.
DEVICE int64_t load_int(const char *data, int dtype, int64_t i) {
  switch (dtype) {
  case ML_I64:
  case ML_U64: return ((const int64_t *)data)[i];
  case ML_I32: return ((const int32_t *)data)[i];
  case ML_U32: return ((const uint32_t *)data)[i];
  case ML_I16: return ((const int16_t *)data)[i];
  case ML_U16: return ((const uint16_t *)data)[i];
  case ML_I8: return ((const int8_t *)data)[i];
  case ML_BOOL: return ((const uint8_t *)data)[i] != 0;
  default: return ((const uint8_t *)data)[i];
  }
}

DEVICE void store_int(char *data, int dtype, int64_t i, int64_t v) {
  switch (item_of(dtype)) {
  case 8: ((int64_t *)data)[i] = v; return;
  case 4: ((int32_t *)data)[i] = (int32_t)v; return;
  case 2: ((int16_t *)data)[i] = (int16_t)v; return;
  default: ((int8_t *)data)[i] = (int8_t)v;
  }
}

// float8 E4M3: sign, 4 bits of exponent (bias 7), 3 of mantissa; all ones are NaN, and there is no infinity.
DEVICE float f8_float(uint8_t b) {
  int exponent = b >> 3 & 15, mantissa = b & 7;
  float f = exponent ? ldexpf(1.0f + (float)mantissa / 8, exponent - 7) : ldexpf((float)mantissa, -9);
  if ((b & 0x7f) == 0x7f) f = NAN;
  return b & 0x80 ? -f : f;
}

DEVICE slot load_slot(const char *data, int dtype, int64_t i) {
  slot s;
  s.u = 0;
  if (dtype <= ML_BF16) s.f = load_float(data, dtype, i);
  else if (dtype == ML_F64) s.d = ((const double *)data)[i];
  else if (dtype == ML_F8_E4M3) s.f = f8_float(((const uint8_t *)data)[i]);
  else s.i = load_int(data, dtype, i);
  return s;
}

DEVICE void store_slot(char *data, int dtype, int64_t i, slot s) {
  if (dtype <= ML_BF16) store_float(data, dtype, i, s.f);
  else if (dtype == ML_F64) ((double *)data)[i] = s.d;
  else store_int(data, dtype, i, s.i);
}

// Rounds or wraps a register to its dtype.
DEVICE slot round_slot(slot s, int dtype) {
  switch (dtype) {
  case ML_F16: s.f = f16_float(float_f16(s.f)); break;
  case ML_BF16: s.f = bf16_float(float_bf16(s.f)); break;
  case ML_I8: s.i = (int8_t)s.i; break;
  case ML_U8: s.i = (uint8_t)s.i; break;
  case ML_I16: s.i = (int16_t)s.i; break;
  case ML_U16: s.i = (uint16_t)s.i; break;
  case ML_I32: s.i = (int32_t)s.i; break;
  case ML_U32: s.i = (uint32_t)s.i; break;
  case ML_BOOL: s.i = s.i != 0; break;
  default: break;
  }
  return s;
}

// Where the index-th place of these axes lies, counted row-major; divisions of 32 bits are several times as fast.
DEVICE int64_t offset_of(int axes, const int64_t *shape, const int64_t *strides, int64_t index) {
  int64_t offset = 0;
  int d = axes - 1;
  for (; d > 0 && index > 0xffffffffll; d--) {
    offset += index % shape[d] * strides[d];
    index /= shape[d];
  }
  uint32_t rest = (uint32_t)index;
  if (index > 0xffffffffll) return offset + index * strides[0];
  for (; d > 0 && rest; d--) {
    if (shape[d] > 0xffffffffll) return offset + (int64_t)rest * strides[d];
    uint32_t n = (uint32_t)shape[d], q = rest / n;
    offset += (int64_t)(rest - q * n) * strides[d];
    rest = q;
  }
  return axes > 0 ? offset + (d == 0 ? (int64_t)rest * strides[0] : 0) : offset;
}

DEVICE int64_t vector_at(const cu_vector &v, int64_t i) { return load_int(v.data, v.dtype, i * v.stride); }

DEVICE void raise_fault(cu_fault *const *of_run, int op, int dtype, int64_t value, int64_t limit) {
  cu_fault *fault = *of_run;
  if (atomicCAS(&fault->raised, 0, op) != 0) return;
  fault->value = value, fault->limit = limit, fault->is_unsigned = dtype == ML_U64;
}

DEVICE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
DEVICE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

// The remainder of *i by n, and *i becomes the quotient; both are 0 or more.
DEVICE int64_t pop(int64_t *i, int64_t n) {
  if (((*i | n) >> 32) == 0) {
    const uint32_t a = (uint32_t)*i, b = (uint32_t)n, q = a / b;
    *i = q;
    return a - q * b;
  }
  const int64_t q = *i / n, rest = *i - q * n;
  *i = q;
  return rest;
}

DEVICE int64_t thread_index() { return (int64_t)blockIdx.x * blockDim.x + threadIdx.x; }
DEVICE int64_t thread_count() { return (int64_t)gridDim.x * blockDim.x; }

#endif
