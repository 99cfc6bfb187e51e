// many.cuh: products of many rows with packed weights, with the bits that one row gets (gpu/product.cuh).
//
// Bytes: weights once for every ROWS rows, x once for every COLUMNS columns, mostly from the cache; flops: 2 M K N by
// ordinary multiply-adds, which are the limit.
//
// A product is 32 sums, a lane's each, added at the end: so lanes share out the inputs, and a warp keeps a tile of
// 16 rows by the 8 rows of weights of a bundle in each lane. Two warps take the same bundle. What lanes multiply comes
// through shared memory: pieces of weights three rounds deep; of x, as float32, the inputs of one four of each lane's
// piece, which is a step.
#ifndef ML_GPU_MANY_CUH
#define ML_GPU_MANY_CUH

#include "gpu/linears.cuh"

enum { MANY_STREAMS = 8, MANY_BUNDLES = 4, MANY_WARP_ROWS = 16, MANY_ROWS = 2 * MANY_WARP_ROWS, MANY_DEPTH = 3 };

// Inputs of four j, which is no constant.
template <int D> DEVICE void values_of(const read_piece<D> &w, uint32_t i, int j, float *f) {
  constexpr int fours = piece<D>::fours;
#define FOUR(n)                                                                                                        \
  case n: w.values(i, n < fours ? n : 0, f); return
  switch (j) {
    FOUR(1);
    FOUR(2);
    FOUR(3);
    FOUR(4);
    FOUR(5);
    FOUR(6);
    FOUR(7);
  default: w.values(i, 0, f);
  }
#undef FOUR
}

template <int D> DEVICE void many(const cu_linears_args &t, float4 *room) {
  typedef piece<D> P;
  constexpr int STREAMS = MANY_STREAMS, HALF = STREAMS / 2, of_stream = P::bytes * WARP, part = of_stream * STREAMS;
  constexpr int X_EACH = MANY_ROWS / PRODUCT_WARPS, AT_ONCE_ROWS = WARP / STREAMS;
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, half = warp / MANY_BUNDLES;
  const uint32_t K = (uint32_t)t.K, count = P::count(t.K), rounds = (count + WARP - 1) / WARP;
  const int32_t bundle = (int32_t)blockIdx.y * MANY_BUNDLES + warp % MANY_BUNDLES;
  const bool there = bundle < t.bundles;
  const cu_unit &u = t.units[unit_of(t, there ? bundle : 0)];
  const bool two = u.n_weights > 1;
  const int outputs = outputs_of<STREAMS>(u);
  const uint32_t first = (uint32_t)(bundle - u.first_bundle) * (uint32_t)outputs;
  const int64_t first_row = (int64_t)blockIdx.x * MANY_ROWS;
  float4 *const xs = room;
  char *const rings = (char *)(room + 2 * MANY_ROWS * WARP) + warp % MANY_BUNDLES * part;
  const weight_row<D> own(u.weights[two && half], there ? first + (two ? 0 : half * HALF) : 0, (int)K, u.dtypes[0]);
  auto ask = [&](uint32_t round) { // half of the pieces of a round of the bundle
    const uint32_t i = round * WARP + lane;
    for (int s = 0; s < HALF && there && i < count; s++) {
      const weight_row<D> row(own, s, K);
      char *to = rings + round % MANY_DEPTH * (part * MANY_BUNDLES) + (half * HALF + s) * of_stream;
#pragma unroll
      for (int p = 0; p < P::wide; p++) copy_16(to + (p * WARP + lane) * 16, read_piece<D>::part(row, i, p));
#pragma unroll
      for (int p = 0; p < P::words; p++)
        if (read_piece<D>::has_word(row, p))
          copy_4(to + P::wide * WARP * 16 + (p * WARP + lane) * 4, read_piece<D>::word(row, i, p));
    }
    close_copies();
  };
  let_next_start();
  ask(0), ask(1);
  wait_for_all();
  const inputs in = inputs_at(t.x, t.x_dtype, t.x_stride, t.K);
  // Four inputs as they lie, which are looked at when all have been asked for. Behind a row's end nobody multiplies.
  uint4 next[X_EACH];
  const int item = item_of(t.x_dtype);
  const char *row_at[X_EACH];
#pragma unroll
  for (int q = 0; q < X_EACH; q++)
    row_at[q] = t.x + min64(first_row + warp + q * PRODUCT_WARPS, t.M - 1) * t.x_stride * item;
  auto fetch = [&](uint32_t round, int j) {
    uint32_t k = P::input(round * WARP + lane, j);
    if (k >= K) k = 0;
    if (!in.whole) {
#pragma unroll
      for (int q = 0; q < X_EACH; q++) {
        const float4 f = load_inputs(in, min64(first_row + warp + q * PRODUCT_WARPS, t.M - 1), k, K);
        next[q].x = float_bits(f.x), next[q].y = float_bits(f.y), next[q].z = float_bits(f.z);
        next[q].w = float_bits(f.w);
      }
    } else if (item == 4) {
#pragma unroll
      for (int q = 0; q < X_EACH; q++) next[q] = *(const uint4 *)(row_at[q] + k * 4);
    } else {
#pragma unroll
      for (int q = 0; q < X_EACH; q++) {
        const uint2 pairs = *(const uint2 *)(row_at[q] + k * 2);
        next[q].x = pairs.x, next[q].y = pairs.y;
      }
    }
  };
  auto store = [&](int turn) {
#pragma unroll
    for (int q = 0; q < X_EACH; q++) {
      float4 f;
      if (!in.whole || item == 4) {
        f.x = bits_float(next[q].x), f.y = bits_float(next[q].y), f.z = bits_float(next[q].z);
        f.w = bits_float(next[q].w);
      } else if (t.x_dtype == ML_F16) {
        f.x = f16_float((uint16_t)next[q].x), f.y = f16_float((uint16_t)(next[q].x >> 16));
        f.z = f16_float((uint16_t)next[q].y), f.w = f16_float((uint16_t)(next[q].y >> 16));
      } else {
        f.x = bits_float(next[q].x << 16), f.y = high_bf16(next[q].x);
        f.z = bits_float(next[q].y << 16), f.w = high_bf16(next[q].y);
      }
      xs[(turn * MANY_ROWS + warp + q * PRODUCT_WARPS) * WARP + lane] = f;
    }
  };
  float sums[STREAMS * MANY_WARP_ROWS];
#pragma unroll
  for (int i = 0; i < STREAMS * MANY_WARP_ROWS; i++) sums[i] = 0;
  fetch(0, 0);
  store(0);
  int turn = 0;
  for (uint32_t round = 0; round < rounds; round++) {
    const uint32_t i = round * WARP + lane;
    const char *pieces = rings + round % MANY_DEPTH * (part * MANY_BUNDLES);
#pragma unroll 1
    for (int j = 0; j < P::fours; j++, turn = !turn) {
      if (j == 0) wait_copies<1>();
      __syncthreads(); // this step's x and this round's pieces are there for all; the step before is done
      if (j == 0) ask(round + 2);
      const bool last = j + 1 == P::fours;
      if (!last || round + 1 < rounds) fetch(last ? round + 1 : round, last ? 0 : j + 1);
      if (there && i < count) {
        float f[STREAMS][4];
#pragma unroll
        for (int s = 0; s < STREAMS; s++) {
          read_piece<D> w;
          take_piece(&w, pieces + s * of_stream);
          w.form = read_piece<D>::form_of(u.dtypes[0], first + (uint32_t)(s >= outputs ? s - outputs : s), i, K);
          values_of<D>(w, i, j, f[s]);
        }
        const float4 *x = xs + (turn * MANY_ROWS + half * MANY_WARP_ROWS) * WARP + lane;
#pragma unroll
        for (int m = 0; m < MANY_WARP_ROWS; m++) {
          const float4 v = x[m * WARP];
#pragma unroll
          for (int s = 0; s < STREAMS; s++) {
            const int at = (m / AT_ONCE_ROWS * STREAMS + s) * AT_ONCE_ROWS + m % AT_ONCE_ROWS;
            sums[at] = add_four(sums[at], v, f[s]);
          }
        }
      }
      store(!turn);
    }
  }
  if (!there) return;
#pragma unroll
  for (int q = 0; q < MANY_WARP_ROWS / AT_ONCE_ROWS; q++) {
    const int64_t row = first_row + half * MANY_WARP_ROWS + q * AT_ONCE_ROWS;
    const slot added = load_added<STREAMS, AT_ONCE_ROWS>(t, u, bundle, row);
    end_bundle<STREAMS, AT_ONCE_ROWS>(t, u, bundle, row, added, sums + q * WARP);
  }
}

#define MANY_PRODUCTS(name, D)                                                                                         \
  KERNEL_EARLY(cuda_many_##name, cu_linears_args, PRODUCT_THREADS, 1) {                                                \
    DYNAMIC_SHARED(float4, room);                                                                                      \
    many<D>(t, room);                                                                                                  \
  }

#endif
