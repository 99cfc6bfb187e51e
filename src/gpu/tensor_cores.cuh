// tensor_cores.cuh: products of small matrices of bfloat16 or float16 by a warp, and how lanes come by their parts.
#ifndef ML_GPU_TENSOR_CORES_CUH
#define ML_GPU_TENSOR_CORES_CUH

#include "gpu/common.cuh"

// A matrix of 8 x 8 elements of two bytes is a word a lane: lane l has elements 2 (l % 4) and the next of row l / 4.
// Of four matrices: lane l says where row l % 8 of matrix l / 8 lies in shared memory, 16 bytes.
DEVICE void load_matrices(uint32_t *to, const void *row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"((uint32_t)__cvta_generic_to_shared(row))
               : "memory");
#else
  uint64_t rows[WARP];
  const int lane = threadIdx.x % WARP;
  emulated_gather((uint64_t)(uintptr_t)row, rows);
  for (int m = 0; m < 4; m++) to[m] = ((const uint32_t *)(uintptr_t)rows[m * 8 + lane / 4])[lane % 4];
#endif
}
// Of matrices whose columns lie side by side.
DEVICE void load_turned_matrices(uint32_t *to, const void *row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"((uint32_t)__cvta_generic_to_shared(row))
               : "memory");
#else
  uint64_t rows[WARP];
  const int lane = threadIdx.x % WARP;
  emulated_gather((uint64_t)(uintptr_t)row, rows);
  for (int m = 0; m < 4; m++) {
    const uint16_t *a = (const uint16_t *)(uintptr_t)rows[m * 8 + lane % 4 * 2],
                   *b = (const uint16_t *)(uintptr_t)rows[m * 8 + lane % 4 * 2 + 1];
    to[m] = a[lane / 4] | (uint32_t)b[lane / 4] << 16;
  }
#endif
}

// sums += a b: a of 16 x 16 (matrices: rows 0-7 and 8-15 of columns 0-7, then of 8-15), b of 16 x 8, by its columns
// (matrices: rows 0-7, rows 8-15). A lane has of the sums elements 2 (l % 4) and the next of rows l / 4 and 8 + l / 4.
template <int DTYPE> DEVICE void multiply_matrices(float *sums, const uint32_t *a, const uint32_t *b) {
#ifdef __CUDACC__
  if (DTYPE == ML_BF16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  uint64_t as[2][WARP], bs[WARP];
  const int lane = threadIdx.x % WARP;
  emulated_gather(a[0] | (uint64_t)a[1] << 32, as[0]);
  emulated_gather(a[2] | (uint64_t)a[3] << 32, as[1]);
  emulated_gather(b[0] | (uint64_t)b[1] << 32, bs);
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; k++) {
      const int of = k % 8 / 2, up = k % 2 * 16;
      const uint16_t x = (uint16_t)(as[k / 8][row * 4 + of] >> (i / 2 * 32 + up)),
                     y = (uint16_t)(bs[column * 4 + of] >> (k / 8 * 32 + up));
      sums[i] += DTYPE == ML_BF16 ? bf16_float(x) * bf16_float(y) : f16_float(x) * f16_float(y);
    }
  }
#endif
}

// 2^f as the hardware has it: within two units of the last place, those below 2^-126 as zero.
DEVICE float power_of_two(float f) {
#ifdef __CUDACC__
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(f));
  return power;
#else
  return exp2f(f);
#endif
}

// Two floats as a word of two elements.
template <int DTYPE> DEVICE uint32_t pack_pair(float low, float high) {
#ifdef __CUDACC__
  if (DTYPE == ML_BF16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&pair;
  }
  const __half2 pair = __floats2half2_rn(low, high);
  return *(const uint32_t *)&pair;
#else
  if (DTYPE == ML_BF16) return float_bf16(low) | (uint32_t)float_bf16(high) << 16;
  return float_f16(low) | (uint32_t)float_f16(high) << 16;
#endif
}
template <int DTYPE> DEVICE void unpack_pair(uint32_t pair, float *low, float *high) {
  *low = DTYPE == ML_BF16 ? bits_float(pair << 16) : f16_float((uint16_t)pair);
  *high = DTYPE == ML_BF16 ? high_bf16(pair) : f16_float((uint16_t)(pair >> 16));
}

#endif
