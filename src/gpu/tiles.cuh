// tiles.cuh: products of many rows with packed weights on tensor cores, where weights need not be multiplied exactly.
//
// Bytes: weights once for every ROWS rows, x once for every COLUMNS columns, mostly from the cache; flops: 2 M K N.
// Sums are float32, over the inputs in their order, 16 at a time: a row's bits do not depend on those beside it.
// Quantised weights become x's dtype on their way to shared memory.
//
// A tile of COLUMNS columns is split among WARPS_N warps; of a unit of two weights a warp takes half of its columns of
// each, so that a thread has both products of an output. In shared memory a row of 64 inputs is eight lines of 16
// bytes, line i of row r at i ^ r % 8: no two of those that are read at a time lie in the same banks.
#ifndef ML_GPU_TILES_CUH
#define ML_GPU_TILES_CUH

#include "gpu/linears.cuh"
#include "gpu/tensor_cores.cuh"

enum { TILE_K = 64, TILE_ROWS = 128, TILE_WARPS = 8, TILE_THREADS = TILE_WARPS * WARP };

DEVICE char *line_at(char *tile, int row, int line) { return tile + row * (TILE_K * 2) + ((line ^ row % 8) << 4); }

template <int D, int X, int COLUMNS> struct tile {
  static constexpr bool plain = D == X; // weights are copied as they are
  static constexpr int warps_n = COLUMNS / 32, warps_m = TILE_WARPS / warps_n, MT = TILE_ROWS / warps_m / 16, NT = 4;
  static constexpr int stages = 3, of_x = TILE_ROWS * TILE_K * 2, of_w = COLUMNS * TILE_K * 2, stage = of_x + of_w;
  static constexpr int each = COLUMNS * 4 / TILE_THREADS; // runs of 16 weights that a thread expands

  const cu_linears_args &t;
  const cu_unit &u;
  char *room;
  int64_t first_row, first_column; // first_column: of the unit's outputs
  bool two;

  // The output, and weight, of row n of the tile of weights.
  DEVICE_MEMBER const char *weight_of(int n, int64_t *row) const {
    const int in_warp = n % 32;
    *row = first_column + (two ? n / 32 * 16 + in_warp % 16 : n);
    *row = min64(*row, u.outputs - 1);
    return u.weights[two && in_warp >= 16];
  }

  // A thread copies a line of 16 bytes of every 32nd row: the same line, so that its place differs by whole rows.
  DEVICE_MEMBER void copy_x(int k, char *to) const {
    const int r = threadIdx.x / 8, line = threadIdx.x % 8;
    const char *from = t.x + (k * TILE_K + line * 8) * 2;
    const uint32_t first = (uint32_t)first_row + r, last = (uint32_t)t.M - 1, stride = (uint32_t)t.x_stride * 2;
    char *own = line_at(to, r, line);
#pragma unroll
    for (int i = 0; i < TILE_ROWS / 32; i++) {
      const uint32_t row = first + i * 32 < last ? first + i * 32 : last;
      copy_16(own + i * 32 * TILE_K * 2, from + (uint64_t)row * stride);
    }
  }
  DEVICE_MEMBER void copy_weights(int k, char *to) const {
    const int r = threadIdx.x / 8, line = threadIdx.x % 8;
    const char *from = u.weights[two && r >= 16] + (k * TILE_K + line * 8) * 2;
    const uint32_t first = (uint32_t)first_column + (two ? r % 16 : r), last = (uint32_t)u.outputs - 1;
    const uint32_t step = two ? 16 : 32, stride = (uint32_t)t.K * 2;
    char *own = line_at(to, r, line);
#pragma unroll
    for (int i = 0; i < COLUMNS / 32; i++) {
      const uint32_t row = first + i * step < last ? first + i * step : last;
      copy_16(own + i * 32 * TILE_K * 2, from + (uint64_t)row * stride);
    }
  }
  // Runs of 16 inputs of quantised weights, a thread's own.
  DEVICE_MEMBER void read_runs(int k, read_piece<D> *to) const {
#pragma unroll
    for (int i = 0; i < each; i++) {
      const int at = i * TILE_THREADS + threadIdx.x, n = at / 4;
      int64_t row;
      uint32_t j;
      const char *w = weight_of(n, &row);
      const uint32_t p = piece<D>::of_input((uint32_t)(k * TILE_K + at % 4 * 16), &j);
      to[i].load(weight_row<D>(w, row, (int)t.K, u.dtypes[0]), (uint32_t)row, p, (uint32_t)t.K);
    }
  }
  DEVICE_MEMBER void put_runs(int k, const read_piece<D> *from, char *to) const {
#pragma unroll
    for (int i = 0; i < each; i++) {
      const int at = i * TILE_THREADS + threadIdx.x, n = at / 4, run = at % 4;
      uint32_t first;
      const uint32_t p = piece<D>::of_input((uint32_t)(k * TILE_K + run * 16), &first);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float f[8];
        // A run is the first four fours of a piece or the last: which of them is a constant in each branch.
        if (first == 0) from[i].values(p, 2 * half, f), from[i].values(p, 2 * half + 1, f + 4);
        if constexpr (piece<D>::fours == 8) {
          if (first != 0) from[i].values(p, 4 + 2 * half, f), from[i].values(p, 5 + 2 * half, f + 4);
        }
        uint4 v;
        v.x = pack_pair<X>(f[0], f[1]), v.y = pack_pair<X>(f[2], f[3]);
        v.z = pack_pair<X>(f[4], f[5]), v.w = pack_pair<X>(f[6], f[7]);
        *(uint4 *)line_at(to, n, run * 2 + half) = v;
      }
    }
  }

  DEVICE_MEMBER void multiply(char *of_stage, float (*sums)[NT][4]) const {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, wm = warp / warps_n, wn = warp % warps_n;
    char *x = of_stage, *w = of_stage + of_x;
#pragma unroll
    for (int k = 0; k < TILE_K / 16; k++) {
      uint32_t a[MT][4], b[NT / 2][4];
#pragma unroll
      for (int m = 0; m < MT; m++) load_matrices(a[m], line_at(x, (wm * MT + m) * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
      for (int n = 0; n < NT / 2; n++)
        load_matrices(b[n], line_at(w, wn * 32 + n * 16 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int n = 0; n < NT; n++) multiply_matrices<X>(sums[m][n], a[m], b[n / 2] + n % 2 * 2);
      }
    }
  }

  // Two neighbours of a row. Whatever lies as most do goes as pairs.
  DEVICE_MEMBER void finish_pair(int64_t row, int64_t column, const float *first, const float *second) const {
    const cu_operand &o = u.out[0], &e = u.extra[0];
    const int64_t to = row * o.strides[0] + column, from = row * e.strides[0] + column;
    const bool pairs = u.form != CU_FORM_PROGRAM && u.n_out == 1 && o.dtype == X && o.strides[1] == 1 &&
                       column + 1 < u.outputs && ((uintptr_t)o.data + to * 2) % 4 == 0 &&
                       (u.form == CU_FORM_NONE || u.dtype == X);
    if (pairs && u.form == CU_FORM_NONE) *(uint32_t *)(o.data + to * 2) = pack_pair<X>(first[0], first[1]);
    else if (pairs && u.form == CU_FORM_ADD && e.dtype == X && e.strides[1] == 1 &&
             ((uintptr_t)e.data + from * 2) % 4 == 0) {
      float a, b, c, d;
      unpack_pair<X>(*(const uint32_t *)(e.data + from * 2), &a, &b);
      unpack_pair<X>(pack_pair<X>(first[0], first[1]), &c, &d);
      *(uint32_t *)(o.data + to * 2) = pack_pair<X>(a + c, b + d);
    } else if (pairs && u.form == CU_FORM_GATE && u.act == CU_OP_silu) {
      float a, b, c, d;
      unpack_pair<X>(pack_pair<X>(first[0], first[1]), &a, &b);
      unpack_pair<X>(pack_pair<X>(second[0], second[1]), &c, &d);
      unpack_pair<X>(pack_pair<X>(float_op(CU_OP_silu, a, 0), float_op(CU_OP_silu, b, 0)), &a, &b);
      *(uint32_t *)(o.data + to * 2) = pack_pair<X>(a * c, b * d);
    } else {
      for (int i = 0; i < 2 && column + i < u.outputs; i++) {
        slot added;
        added.u = 0;
        if (u.form == CU_FORM_ADD) added = load_extra(u, 0, row, column + i);
        finish(u, row, column + i, first[i], second[i], added);
      }
    }
  }

  DEVICE_MEMBER void finish_all(float (*sums)[NT][4]) const {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, wm = warp / warps_n, wn = warp % warps_n;
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int64_t row = first_row + (wm * MT + m) * 16 + half * 8 + lane / 4;
#pragma unroll
        for (int n = 0; n < NT; n++) {
          const int64_t column = first_column + wn * (two ? 16 : 32) + n * 8 + lane % 4 * 2;
          if (row >= t.M || column >= u.outputs || (two && n >= NT / 2)) continue;
          finish_pair(row, column, sums[m][n] + half * 2, sums[m][(n + NT / 2) % NT] + half * 2);
        }
      }
    }
  }

  DEVICE_MEMBER void run() const {
    const int steps = (int)(t.K / TILE_K);
    float sums[MT][NT][4];
    read_piece<D> runs[plain ? 1 : each];
#pragma unroll
    for (int i = 0; i < MT * NT * 4; i++) (&sums[0][0][0])[i] = 0;
    for (int k = 0; k < stages - 1; k++) {
      char *to = room + k * stage;
      if (k < steps) {
        copy_x(k, to);
        if constexpr (plain) copy_weights(k, to + of_x);
        else read_runs(k, runs), put_runs(k, runs, to + of_x);
      }
      close_copies();
    }
    for (int k = 0; k < steps; k++) {
      const int next = k + stages - 1;
      char *to = room + next % stages * stage;
      wait_copies<stages - 2>();
      __syncthreads(); // what is at k is there for all, and all have done with k - 1, where the next goes
      if (next < steps) {
        copy_x(next, to);
        if constexpr (plain) copy_weights(next, to + of_x);
        else read_runs(next, runs);
      }
      close_copies();
      multiply(room + k % stages * stage, sums);
      if constexpr (!plain) {
        if (next < steps) put_runs(next, runs, to + of_x);
      }
    }
    finish_all(sums);
  }
};

// A tile of one of the units, which follow each other along x.
template <int D, int X, int COLUMNS> DEVICE void tiles(const cu_linears_args &t, char *room) {
  const int u = unit_of(t, (int32_t)blockIdx.y);
  const cu_unit &unit = t.units[u];
  const bool two = unit.n_weights > 1;
  const tile<D, X, COLUMNS> own = {t,
                                   unit,
                                   room,
                                   (int64_t)blockIdx.x * TILE_ROWS,
                                   (int64_t)((int32_t)blockIdx.y - unit.first_bundle) * (two ? COLUMNS / 2 : COLUMNS),
                                   two};
  own.run();
}

#define TILES(name, D, X, COLUMNS)                                                                                     \
  KERNEL_EARLY(cuda_tiles_##name, cu_linears_args, TILE_THREADS, 2) {                                                  \
    DYNAMIC_SHARED(float4, room);                                                                                      \
    let_next_start();                                                                                                  \
    wait_for_all();                                                                                                    \
    tiles<D, X, COLUMNS>(t, (char *)room);                                                                             \
  }

#endif
