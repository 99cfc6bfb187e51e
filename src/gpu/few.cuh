// few.cuh: products of up to 64 rows with packed weights of x's dtype, bfloat16 or float16, on tensor cores, where
// weights need not be multiplied exactly.
//
// Bytes: the weights once, x from the nearest cache; flops: 2 M K N. What a warp takes at a time, a bundle, is OUTPUTS
// rows of the weight, or half as many of each of two, so that a thread has both products of an output. `split` warps of
// a block share a bundle's inputs and add up what they have, in their order: how many do depends on the weight's shape
// alone, and so a row's bits do not depend on those beside it.
//
// A lane takes eight inputs in a row of two rows of weights, which are both of its parts of two matrices of 16 x 16:
// the inputs of a product may be in any order, if they are so on both sides. So it reads what it has asked for itself,
// as in linears.cuh.
#ifndef ML_GPU_FEW_CUH
#define ML_GPU_FEW_CUH

#include "gpu/linears.cuh"
#include "gpu/tensor_cores.cuh"

namespace few {

enum { OUTPUTS = 16, STEP = 64, DEPTH = 5, PIECES = 4, STAGE = PIECES * WARP * 16, RING = DEPTH * STAGE };

// The lanes of a warp go on together.
DEVICE void join_warp() {
#ifdef __CUDACC__
  __syncwarp();
#endif
}

// A warp's place in what it reads: inputs begin..end-1 of bundle after bundle, in steps of STEP; and the lane's place
// in the ring that it goes to.
struct reader {
  const char *rows[PIECES];
  shared_place first_room, room;
  int32_t bundle, step, begin, end;

  // Of outputs behind the last one the last one is read.
  DEVICE_MEMBER void find_rows(const cu_linears_args &t) {
    step = begin;
    if (bundle >= t.bundles) return;
    const int lane = threadIdx.x % WARP;
    const cu_unit &u = t.units[unit_of(t, bundle)];
    const bool two = u.n_weights > 1;
    const int32_t last = (int32_t)u.outputs - 1,
                  first = (bundle - u.first_bundle) * (two ? OUTPUTS / 2 : OUTPUTS) + lane / 4,
                  second = two ? first : first + OUTPUTS / 2;
    const uint64_t bytes = (uint64_t)t.K * 2;
    const uint64_t at = (uint64_t)begin * (STEP * 2) + lane % 4 * 16;
    rows[0] = u.weights[0] + (first < last ? first : last) * bytes + at;
    rows[2] = u.weights[two] + (second < last ? second : last) * bytes + at;
    rows[1] = rows[0] + STEP, rows[3] = rows[2] + STEP;
  }
  DEVICE_MEMBER void ask(const cu_linears_args &t, int32_t stride) {
    if (bundle < t.bundles) {
#pragma unroll
      for (int p = 0; p < PIECES; p++) copy_16_once(room + p * WARP * 16, rows[p]), rows[p] += STEP * 2;
      if (++step == end) bundle += stride, find_rows(t);
    }
    room += STAGE;
    if (room == first_room + RING) room = first_room;
    close_copies();
  }
};

// The one row of x, normalised where that is asked for, in its own dtype.
template <int X> DEVICE void stage_row(const cu_linears_args &t, const float *early, char *room) {
  auto put_run = [&](int64_t k, const float *f) {
    uint4 v;
    v.x = pack_pair<X>(f[0], f[1]), v.y = pack_pair<X>(f[2], f[3]);
    v.z = pack_pair<X>(f[4], f[5]), v.w = pack_pair<X>(f[6], f[7]);
    *(uint4 *)(room + k * 2) = v;
  };
  if (!t.norm) {
    for (uint32_t k = threadIdx.x * RUN; k < (uint32_t)t.K; k += blockDim.x * RUN)
      *(uint4 *)(room + k * 2) = *(const uint4 *)(t.x + k * 2);
    return;
  }
  cu_row_op op;
  op.eps = t.eps, op.offset = t.offset;
  rms_norm_row(
      op, t.K, [&](int64_t i, float *f) { load_run(t.x, X, i, t.K, 0.0f, f); }, t.weight.data != NULL,
      [&](int64_t i, float *f) { load_vector_run(t.weight, i, t.K, 1.0f, f); }, put_run, t.early_norm != 0, early);
}

// Eight inputs of a row, from k on. Rows that there are not are as the last: nobody looks at their sums, and lanes that
// went another way than the rest would not be back when matrices are multiplied.
template <int TILES>
DEVICE uint4 load_inputs_of(const cu_linears_args &t, const char *staged, uint32_t row, uint32_t k) {
  const uint32_t last = (uint32_t)t.M - 1;
  const bool is_staged = TILES == 1 && t.row_bytes;
  return *(const uint4 *)(is_staged ? staged + k * 2
                                    : t.x + ((row < last ? row : last) * (uint64_t)t.x_stride + k) * 2);
}

// Weights and inputs of a step, added to the sums.
template <int X, int TILES>
DEVICE void take_step(const cu_linears_args &t, const char *staged, const char *weights, uint32_t first_k,
                      float (*sums)[4]) {
  const int lane = threadIdx.x % WARP;
  uint4 w[PIECES];
#pragma unroll
  for (int p = 0; p < PIECES; p++) w[p] = *(const uint4 *)(weights + (p * WARP + lane) * 16);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const uint4 a = w[half], b = w[2 + half];
    const uint32_t low[4] = {a.x, b.x, a.y, b.y}, high[4] = {a.z, b.z, a.w, b.w};
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      const uint4 x = load_inputs_of<TILES>(t, staged, n * 8 + lane / 4, first_k + half * (STEP / 2) + lane % 4 * 8);
      const uint32_t first[2] = {x.x, x.y}, second[2] = {x.z, x.w};
      multiply_matrices<X>(sums[n], low, first);
      multiply_matrices<X>(sums[n], high, second);
    }
  }
}

// The sums of a bundle, of which a lane has two rows of x of two outputs in each tile.
template <int TILES> DEVICE void end_bundle(const cu_linears_args &t, int32_t bundle, float (*sums)[4]) {
  const int lane = threadIdx.x % WARP;
  const cu_unit &u = t.units[unit_of(t, bundle)];
  const bool two = u.n_weights > 1;
  const int64_t first = (int64_t)(bundle - u.first_bundle) * (two ? OUTPUTS / 2 : OUTPUTS) + lane / 4;
#pragma unroll
  for (int n = 0; n < TILES; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int64_t row = n * 8 + lane % 4 * 2 + i % 2, column = first + i / 2 * (OUTPUTS / 2);
      if (row >= t.M || column >= u.outputs || (two && i >= 2)) continue;
      slot added;
      added.u = 0;
      if (u.form == CU_FORM_ADD) added = load_extra(u, 0, row, column);
      finish(u, row, column, sums[n][i], sums[n][(i + 2) % 4], added);
    }
  }
}

template <int X, int TILES> DEVICE void products(const cu_linears_args &t, char *room) {
  typedef float tile_sums[TILES * 4][WARP];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, split = t.split, part = warp % split;
  const int32_t abreast = PRODUCT_WARPS / split, stride = (int32_t)gridDim.x * abreast, steps = (int32_t)(t.K / STEP);
  char *staged = room, *ring = room + t.row_bytes + warp * RING;
  tile_sums *exchange = (tile_sums *)(room + t.row_bytes + PRODUCT_WARPS * RING); // of each warp, in turn
  reader next;
  next.first_room = next.room = place_of_lane(ring + lane * 16);
  next.bundle = (int32_t)blockIdx.x * abreast + warp / split;
  next.begin = steps * part / split, next.end = steps * (part + 1) / split;
  next.find_rows(t);
  let_next_start();
  for (int i = 0; i < DEPTH - 1; i++) next.ask(t, stride);
  float norm[RUN];
  if (TILES == 1 && t.row_bytes) load_norm(t, norm);
  wait_for_all();
  if (TILES == 1 && t.row_bytes) {
    stage_row<X>(t, norm, staged);
    __syncthreads();
  }
  int at = 0, turn = 0; // in the ring, and among the exchanged
  for (int32_t first = (int32_t)blockIdx.x * abreast; first < t.bundles; first += stride) {
    const int32_t bundle = first + warp / split;
    join_warp();
    float sums[TILES][4];
#pragma unroll
    for (int i = 0; i < TILES * 4; i++) (&sums[0][0])[i] = 0;
    for (int32_t step = next.begin; step < next.end && bundle < t.bundles; step++) {
      next.ask(t, stride);
      wait_copies<DEPTH - 1>();
      take_step<X, TILES>(t, staged, ring + at * STAGE, (uint32_t)step * STEP, sums);
      at = at + 1 < DEPTH ? at + 1 : 0;
    }
    if (split > 1) {
      tile_sums *of_turn = exchange + turn * PRODUCT_WARPS;
      turn ^= 1;
#pragma unroll
      for (int i = 0; i < TILES * 4; i++) of_turn[warp][i][lane] = (&sums[0][0])[i];
      __syncthreads();
      if (part) continue;
      for (int other = 1; other < split; other++) {
#pragma unroll
        for (int i = 0; i < TILES * 4; i++) (&sums[0][0])[i] += of_turn[warp + other][i][lane];
      }
    }
    if (bundle < t.bundles) end_bundle<TILES>(t, bundle, sums);
  }
}

} // namespace few

// Up to 8 rows, 16, 32, 64.
#define FEW_KERNEL(name, X, TILES, BLOCKS)                                                                             \
  KERNEL_EARLY(cuda_few_##name, cu_linears_args, PRODUCT_THREADS, BLOCKS) {                                            \
    DYNAMIC_SHARED(float4, room);                                                                                      \
    few::products<X, TILES>(t, (char *)room);                                                                          \
  }
#define FEW(name, X)                                                                                                   \
  FEW_KERNEL(name##_8, X, 1, 2)                                                                                        \
  FEW_KERNEL(name##_16, X, 2, 2)                                                                                       \
  FEW_KERNEL(name##_32, X, 4, 2)                                                                                       \
  FEW_KERNEL(name##_64, X, 8, 1)

#endif
