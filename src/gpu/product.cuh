// product.cuh: rows times rows of a packed weight.
//
// A row is cut in pieces, of which 32, 64, 128 or 256 threads take one each, and again, one after another: as many
// warps as the row's length says (warps_of_row). A thread adds up what it has, one multiply-add after another; lanes
// are added by halves, then warp after warp. So a product's bits depend on the weight's dtype and the inner length
// alone, not on how many rows and columns are made at once, nor by which kernel.
#ifndef ML_GPU_PRODUCT_CUH
#define ML_GPU_PRODUCT_CUH

#include "gpu/row.cuh"
#include "gpu/weights.cuh"

enum { PRODUCT_WARPS = 8, PRODUCT_THREADS = PRODUCT_WARPS * WARP };

// Bytes of a piece's codes are 16 where the format allows it: one load.
template <int D> struct pieces {
  static constexpr bool wide = D == ML_Q4_0 || D == ML_Q4_1; // a block's nibbles are 16 bytes
  static constexpr int inputs = wide ? 32 : D == ML_Q8_0 ? 16 : 8;
  static constexpr int eights = inputs / 8;
};

// A piece of a row as it was read; what is made of it is not made before it is used.
template <int D> struct piece {
  typedef format<D> F;
  static constexpr bool halves = D == ML_F16 || D == ML_BF16, codes = pieces<D>::inputs > 8;
  static constexpr int words = codes || halves ? 4 : 8;
  uint32_t w[words]; // codes; or values, float16 and bfloat16 in pairs, else float32
  uint32_t scale;    // of codes: the block's scale, and minimum

  // Piece i of a row of K; one that lies beyond its end is nowhere used.
  DEVICE_MEMBER void load(const weight_row<D> &row, uint32_t i, uint32_t K) {
    const uint32_t k = i * pieces<D>::inputs;
    if constexpr (codes) {
      const uint32_t block = k / 32;
      take(*(const uint4 *)(row.codes + (D == ML_Q8_0 ? k : block * 16)), w);
      scale = D == ML_Q4_1 ? ((const uint32_t *)row.d)[block] : ((const uint16_t *)row.d)[block];
    } else if constexpr (F::floats) {
      if (K % 8 == 0) { // rows begin at 16 bytes
        const uint4 *from = (const uint4 *)(row.codes + k * F::bytes);
        take(from[0], w);
        if constexpr (!halves) take(from[1], w + 4);
      } else {
        float f[8];
        row.load(k, K, f);
        keep(f);
      }
    } else {
      float f[8];
      row.load(k, K, f);
      keep(f);
    }
  }

  // Inputs 8 j .. 8 j + 7 of it.
  DEVICE_MEMBER void values(int j, float *f) const {
    if constexpr (D == ML_Q8_0) {
      const float s = f16_float((uint16_t)scale);
#pragma unroll
      for (int i = 0; i < 8; i++) f[i] = s * (float)(int8_t)(w[2 * j + i / 4] >> 8 * (i % 4));
    } else if constexpr (codes) {
      const float s = f16_float((uint16_t)scale), m = D == ML_Q4_1 ? f16_float((uint16_t)(scale >> 16)) : 0.0f;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const uint32_t code = w[2 * (j % 2) + i / 4] >> (8 * (i % 4) + (j < 2 ? 0 : 4)) & 15;
        f[i] = D == ML_Q4_1 ? s * small_float(code) + m : s * (small_float(code) - 8);
      }
    } else if constexpr (halves) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        f[2 * i] = D == ML_F16 ? f16_float((uint16_t)w[i]) : bf16_float((uint16_t)w[i]);
        f[2 * i + 1] = D == ML_F16 ? f16_float((uint16_t)(w[i] >> 16)) : high_bf16(w[i]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++) f[i] = bits_float(w[i]);
    }
  }

private:
  static DEVICE_MEMBER void take(const uint4 &from, uint32_t *to) {
    to[0] = from.x, to[1] = from.y, to[2] = from.z, to[3] = from.w;
  }
  DEVICE_MEMBER void keep(const float *f) {
#pragma unroll
    for (int i = 0; i < words; i++) {
      if constexpr (D == ML_F16) w[i] = float_f16(f[2 * i]) | (uint32_t)float_f16(f[2 * i + 1]) << 16;
      else if constexpr (D == ML_BF16) w[i] = float_bf16(f[2 * i]) | (uint32_t)float_bf16(f[2 * i + 1]) << 16;
      else w[i] = float_bits(f[i]);
    }
  }
};

// Warps that share a row of so many pieces: as many as have one for each lane. The host (lower_products.c) has the
// same.
DEVICE int warps_of_row(uint32_t count) { return count >= 256 ? 8 : count >= 128 ? 4 : count >= 64 ? 2 : 1; }
template <int D> DEVICE uint32_t count_pieces(int64_t K) {
  return ((uint32_t)K + pieces<D>::inputs - 1) / pieces<D>::inputs;
}

// Where rows that are multiplied come from.
struct inputs {
  const char *x;
  int64_t stride; // in elements
  int dtype;
  bool whole; // eight at a time lie at 16 bytes
};

DEVICE inputs inputs_at(const char *x, int dtype, int64_t stride, int64_t K) {
  const int of_line = dtype == ML_F32 ? 4 : 8;
  return {x, stride, dtype, stride % of_line == 0 && K % 8 == 0 && (uintptr_t)x % 16 == 0};
}

// Inputs k..k+7 of a row, those from K on zero.
DEVICE void load_inputs(const inputs &in, int64_t row, uint32_t k, uint32_t K, float *x) {
  const char *from = in.x + row * in.stride * item_of(in.dtype);
  if (!in.whole) {
    for (int i = 0; i < 8; i++) x[i] = k + i < K ? load_float(from, in.dtype, k + i) : 0.0f;
  } else if (in.dtype == ML_F32) {
    const float4 *p = (const float4 *)(from + k * 4);
    const float4 a = p[0], b = p[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
  } else {
    const uint4 a = *(const uint4 *)(from + k * 2);
    const uint32_t words[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      x[2 * i] = in.dtype == ML_F16 ? f16_float((uint16_t)words[i]) : bf16_float((uint16_t)words[i]);
      x[2 * i + 1] = in.dtype == ML_F16 ? f16_float((uint16_t)(words[i] >> 16)) : high_bf16(words[i]);
    }
  }
}

// COUNT sums of each lane, added over a warp: lane l gets sum l / (WARP / COUNT). Halves of the sums that a lane hands
// on are those that the other half of the lanes keeps.
template <int COUNT> DEVICE float add_lanes(float *sums) {
  const int lane = threadIdx.x % WARP;
  int by = WARP / 2;
#pragma unroll
  for (int n = COUNT; n > 1; n /= 2) {
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

// What lanes have of a row's sums is the group's: `room` of PRODUCT_WARPS x COUNT, which no thread reads any more.
// After a barrier, group_sum gives the sum of all `share` warps of a group.
template <int COUNT> DEVICE void put_lanes(float *sums, float *room) {
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const float sum = add_lanes<COUNT>(sums);
  if (lane % (WARP / COUNT) == 0) room[warp * COUNT + lane / (WARP / COUNT)] = sum;
}
template <int COUNT> DEVICE float group_sum(const float *room, int share, int i) {
  const int first = threadIdx.x / WARP / share * share;
  float sum = room[first * COUNT + i];
  for (int w = 1; w < share; w++) sum += room[(first + w) * COUNT + i];
  return sum;
}

// One product by each group of warps, of a row of its own: its first thread gets it. `room`: of PRODUCT_WARPS.
template <int D>
DEVICE float product(const char *weight, int64_t row, const inputs &in, int64_t in_row, int64_t inner, float *room) {
  const uint32_t K = (uint32_t)inner, count = count_pieces<D>(inner);
  const int share = warps_of_row(count);
  const uint32_t threads = share * WARP;
  const weight_row<D> w(weight, row, (int)K);
  float sums[1] = {0};
  for (uint32_t i = threadIdx.x % threads; i < count; i += threads) {
    piece<D> p;
    p.load(w, i, K);
#pragma unroll
    for (int j = 0; j < pieces<D>::eights; j++) {
      float x[8], f[8];
      load_inputs(in, in_row, (i * pieces<D>::eights + j) * 8, K, x);
      p.values(j, f);
#pragma unroll
      for (int k = 0; k < 8; k++) sums[0] = fmaf(x[k], f[k], sums[0]);
    }
  }
  __syncthreads(); // what was there before has been read
  put_lanes<1>(sums, room);
  __syncthreads();
  return group_sum<1>(room, share, 0);
}

#endif
