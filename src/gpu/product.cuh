// product.cuh: rows times rows of a packed weight, by warps.
//
// Lane l takes inputs 8 l .. 8 l + 7 of every 256 in turn, one multiply-add after another; lanes are added by halves. So
// a product's bits depend on the inner length alone, not on how many are made at once.
#ifndef ML_GPU_PRODUCT_CUH
#define ML_GPU_PRODUCT_CUH

#include "gpu/row.cuh"
#include "gpu/weights.cuh"

enum { ABREAST = 4 };

// Where products have their inputs from.
struct inputs {
  const char *x;
  int64_t stride;
  int dtype;
  bool whole; // eight at a time lie at 16 bytes
};

DEVICE void load_inputs(const inputs &in, int64_t row, uint32_t k, uint32_t K, float *x) {
  const char *from = in.x + row * in.stride * item_of(in.dtype);
  if (in.whole) {
    const float4 *p = (const float4 *)(from + k * 4);
    const float4 a = p[0], b = p[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    return;
  }
  for (int i = 0; i < 8; i++) x[i] = k + i < K ? load_float(from, in.dtype, k + i) : 0.0f;
}

// Products of rows first_row.. with columns first.. of a weight: each lane's own of them, row lane / COLUMNS, column
// lane % COLUMNS. Rows and columns past the last are taken again from it.
template <int D, int ROWS, int COLUMNS>
DEVICE float multiply(int64_t inner, int64_t M, const inputs &in, const char *weight, int64_t N, int64_t first_row,
                      int64_t first) {
  const uint32_t lane = threadIdx.x % WARP, K = (uint32_t)inner;
  float sums[ROWS * COLUMNS];
#pragma unroll
  for (int i = 0; i < ROWS * COLUMNS; i++) sums[i] = 0;
  if constexpr (COLUMNS == 1 && ROWS == 1) {
    const weight_row<D> w(weight, first, K);
    // What four rounds read is asked for at once, whether or not there are so many.
    for (uint32_t k0 = lane * 8; k0 < K; k0 += ABREAST * WARP * 8) {
      float a[ABREAST][8], x[ABREAST][8];
#pragma unroll
      for (int r = 0; r < ABREAST; r++) {
        const uint32_t k = k0 + r * WARP * 8, there = k < K ? k : 0;
        w.load(there, K, a[r]);
        load_inputs(in, first_row, there, K, x[r]);
      }
#pragma unroll
      for (int r = 0; r < ABREAST; r++) {
        float sum = sums[0];
#pragma unroll
        for (int i = 0; i < 8; i++) sum = fmaf(x[r][i], a[r][i], sum);
        if (k0 + r * WARP * 8 < K) sums[0] = sum;
      }
    }
    for (int by = WARP / 2; by > 0; by /= 2) sums[0] += shuffle(sums[0], by);
    return sums[0];
  } else {
    for (uint32_t k = lane * 8; k < K; k += WARP * 8) {
      float a[COLUMNS][8];
#pragma unroll
      for (int c = 0; c < COLUMNS; c++) {
        const weight_row<D> w(weight, min64(first + c, N - 1), K);
        w.load(k, K, a[c]);
      }
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        float x[8];
        load_inputs(in, min64(first_row + r, M - 1), k, K, x);
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
#pragma unroll
          for (int i = 0; i < 8; i++) sums[r * COLUMNS + c] = fmaf(x[i], a[c][i], sums[r * COLUMNS + c]);
        }
      }
    }
    // The halves of the sums that a lane hands on are those that the other half of the lanes keeps.
    int by = WARP / 2;
#pragma unroll
    for (int n = ROWS * COLUMNS; n > 1; n /= 2) {
#pragma unroll
      for (int i = 0; i < n / 2; i++) {
        const float out = lane & by ? sums[i] : sums[i + n / 2], own = lane & by ? sums[i + n / 2] : sums[i];
        sums[i] = own + shuffle(out, by);
      }
      by /= 2;
    }
    for (; by > 0; by /= 2) sums[0] += shuffle(sums[0], by);
    return sums[0];
  }
}

// Rows from here on: of floats that lie apart by `stride` elements.
DEVICE inputs inputs_at(const char *x, int dtype, int64_t stride, int64_t K) {
  return {x, stride, dtype, dtype == ML_F32 && stride % 4 == 0 && K % 8 == 0 && (uintptr_t)x % 16 == 0};
}

#endif
