// wide.cu: tiles.cuh for float weights of x's dtype, by products of four warps together: tiles of 128 rows and 128 or
// 256 columns.
//
// Two groups of four warps take 64 rows each. Of a unit of two weights the tile has half of its columns of each, so
// that a thread has both products of an output. Parts of 64 inputs come two ahead, in a ring of four: one is
// multiplied, one may still be, and two are on their way.
#include "gpu/tensor_groups.cuh"
#include "gpu/tiles.cuh"

enum { WIDE_STAGES = 4, WIDE_LINE = 1024 }; // WIDE_LINE: where tiles begin

template <int X, int COLUMNS> struct wide {
  static constexpr int of_x = TILE_ROWS * TILE_K * 2, stage = of_x + COLUMNS * TILE_K * 2, NT = COLUMNS / 8;

  const cu_linears_args &t;
  const cu_unit &u;
  char *room;
  uint32_t first_row, first_column; // first_column: of the unit's outputs
  bool two;

  // A thread copies a line of 16 bytes of every 32nd row.
  DEVICE_MEMBER void copy(int k, char *to) const {
    const int r = threadIdx.x / 8, line = threadIdx.x % 8;
    const uint32_t at = (uint32_t)(k * TILE_K + line * 8) * 2, rows = (uint32_t)t.M - 1, last = (uint32_t)u.outputs - 1;
    const uint64_t x_stride = (uint64_t)t.x_stride * 2, w_stride = (uint64_t)t.K * 2;
    char *own = line_at(to, r, line);
#pragma unroll
    for (int i = 0; i < TILE_ROWS / 32; i++) {
      const uint32_t row = first_row + r + i * 32;
      copy_16(own + i * 32 * TILE_K * 2, t.x + at + (row < rows ? row : rows) * x_stride);
    }
#pragma unroll
    for (int i = 0; i < COLUMNS / 32; i++) {
      const bool second = two && i >= COLUMNS / 64;
      const uint32_t row = first_column + r + (second ? i - COLUMNS / 64 : i) * 32;
      copy_16(own + of_x + i * 32 * TILE_K * 2, u.weights[second] + at + (row < last ? row : last) * w_stride);
    }
  }

  // What forms make of two neighbours.
  DEVICE_MEMBER uint32_t pair_of(const float *first, const float *second) const {
    const uint32_t product = pack_pair<X>(first[0], first[1]);
    if (u.form != CU_FORM_GATE) return product;
    float a, b, c, d;
    unpack_pair<X>(product, &a, &b);
    unpack_pair<X>(pack_pair<X>(second[0], second[1]), &c, &d);
    unpack_pair<X>(pack_pair<X>(float_op(CU_OP_silu, a, 0), float_op(CU_OP_silu, b, 0)), &a, &b);
    return pack_pair<X>(a * c, b * d);
  }

  // Whether eight neighbours of a row can be written at once.
  DEVICE_MEMBER bool writes_lines() const {
    const cu_operand &o = u.out[0], &e = u.extra[0];
    bool lines = u.n_out == 1 && o.dtype == X && o.strides[1] == 1 && o.strides[0] % 8 == 0 && u.outputs % 8 == 0 &&
                 (uintptr_t)o.data % 16 == 0;
    if (u.form == CU_FORM_ADD)
      lines = lines && u.dtype == X && e.dtype == X && e.strides[1] == 1 && e.strides[0] % 8 == 0 &&
              (uintptr_t)e.data % 16 == 0;
    else if (u.form == CU_FORM_GATE) lines = lines && u.dtype == X && u.act == CU_OP_silu;
    else lines = lines && u.form == CU_FORM_NONE;
    return lines;
  }

  // Of four eights of columns a lane has a pair each; of one of them it gets all eight.
  DEVICE_MEMBER void turn(uint32_t *w) const {
    const int lane = threadIdx.x % 4;
#pragma unroll
    for (int by = 1; by < 4; by *= 2) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (i & by) continue;
        const uint32_t out = lane & by ? w[i] : w[i | by], in = shuffle(out, by);
        if (lane & by) w[i] = in;
        else w[i | by] = in;
      }
    }
  }

  DEVICE_MEMBER void put_line(int64_t row, int64_t column, uint32_t *w) const {
    const cu_operand &o = u.out[0], &e = u.extra[0];
    if (row >= t.M || column >= u.outputs) return;
    if (u.form == CU_FORM_ADD) {
      const uint4 added = *(const uint4 *)(e.data + (row * e.strides[0] + column) * 2);
      const uint32_t own[4] = {added.x, added.y, added.z, added.w};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float a, b, c, d;
        unpack_pair<X>(own[i], &a, &b);
        unpack_pair<X>(w[i], &c, &d);
        w[i] = pack_pair<X>(a + c, b + d);
      }
    }
    uint4 v;
    v.x = w[0], v.y = w[1], v.z = w[2], v.w = w[3];
    *(uint4 *)(o.data + (row * o.strides[0] + column) * 2) = v;
  }

  DEVICE_MEMBER void finish_lines(float (*sums)[4]) const {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int64_t row = first_row + threadIdx.x / WARP * 16 + half * 8 + lane / 4;
#pragma unroll
      for (int n = 0; n < NT; n += 4) {
        uint32_t w[4];
        if (two && n >= NT / 2) continue;
#pragma unroll
        for (int i = 0; i < 4; i++) w[i] = pair_of(sums[n + i] + half * 2, sums[(n + i + NT / 2) % NT] + half * 2);
        turn(w);
        put_line(row, (int64_t)first_column + (n + lane % 4) * 8, w);
      }
    }
  }

  // Whatever else there is, by way of shared memory: what follows is compiled once.
  DEVICE_MEMBER void finish_any(float (*sums)[4]) const {
    const int lane = threadIdx.x % WARP, columns = two ? COLUMNS / 2 : COLUMNS;
    float *all = (float *)room;
    __syncthreads();
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++)
        all[(threadIdx.x / WARP * 16 + i / 2 * 8 + lane / 4) * COLUMNS + n * 8 + lane % 4 * 2 + i % 2] = sums[n][i];
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < TILE_ROWS * columns; i += TILE_THREADS) {
      const int64_t row = first_row + i / columns, column = first_column + i % columns;
      const float *own = all + i / columns * COLUMNS + i % columns;
      if (row >= t.M || column >= u.outputs) continue;
      slot added;
      added.u = 0;
      if (u.form == CU_FORM_ADD) added = load_extra(u, 0, row, column);
      finish(u, row, column, own[0], two ? own[columns] : 0.0f, added);
    }
  }

  DEVICE_MEMBER void run() const {
    const int steps = (int)(t.K / TILE_K), group = threadIdx.x / (4 * WARP);
    float sums[NT][4];
#pragma unroll
    for (int i = 0; i < NT; i++) sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0;
    for (int k = 0; k < 2; k++) {
      if (k < steps) copy(k, room + k * stage);
      close_copies();
    }
    for (int k = 0; k < steps; k++) {
      char *now = room + k % WIDE_STAGES * stage;
      wait_copies<1>();
      show_to_groups();
      __syncthreads(); // part k is there for all, and all have done with k - 2, where k + 2 goes
      if (k + 2 < steps) copy(k + 2, room + (k + 2) % WIDE_STAGES * stage);
      close_copies();
      open_products();
#pragma unroll
      for (int i = 0; i < TILE_K / 16; i++) multiply_group<X, COLUMNS>(sums, now + group * (of_x / 2), now + of_x, i);
      close_products();
      wait_products<1>();
    }
    wait_products<0>();
    if (writes_lines()) finish_lines(sums);
    else finish_any(sums);
  }
};

template <int X, int COLUMNS> DEVICE void multiply_wide(const cu_linears_args &t, char *room) {
  const int u = unit_of(t, (int32_t)blockIdx.y);
  const cu_unit &unit = t.units[u];
  const bool two = unit.n_weights > 1;
  const uint32_t across = (uint32_t)((int32_t)blockIdx.y - unit.first_bundle);
  room += (WIDE_LINE - (uintptr_t)room % WIDE_LINE) % WIDE_LINE;
  const wide<X, COLUMNS> own = {
      t, unit, room, (uint32_t)blockIdx.x * TILE_ROWS, across * (two ? COLUMNS / 2 : COLUMNS), two};
  own.run();
}

#define WIDE(name, X, COLUMNS)                                                                                         \
  KERNEL_EARLY(cuda_wide_##name##_##COLUMNS, cu_linears_args, TILE_THREADS, 1) {                                       \
    DYNAMIC_SHARED(float4, room);                                                                                      \
    let_next_start();                                                                                                  \
    wait_for_all();                                                                                                    \
    multiply_wide<X, COLUMNS>(t, (char *)room);                                                                        \
  }

WIDE(bfloat16, ML_BF16, 128)
WIDE(bfloat16, ML_BF16, 256)
WIDE(float16, ML_F16, 128)
WIDE(float16, ML_F16, 256)
