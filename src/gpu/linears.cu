// linears.cu: products of rows with packed weights (ML_STEP_LINEARS), and what a program does with them.
//
// Bytes: the weights once for every ROWS rows of x, x once for every COLUMNS columns (from the cache); one row: the
// weights alone count. Flops: 2 M K N, and a few instructions a weight to expand its code.
//
// A warp computes ROWS x COLUMNS products. Lane l takes inputs 8 l .. 8 l + 7 of every 256 in turn, one multiply-add
// after another; lanes are added by halves. So a product's bits depend on K alone, not on M.
//
// One row is normalised by each block for itself, which costs less than another launch.
#include "gpu/row.cuh"
#include "gpu/weights.cuh"

enum { LINEAR_WARPS = 8, ABREAST = 4, EARLY = 2 }; // EARLY: operands of programs that are read beforehand

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
DEVICE float multiply(const cu_linears_args &t, const inputs &in, const char *weight, int64_t N, int64_t first_row,
                      int64_t first) {
  const uint32_t lane = threadIdx.x % WARP, K = (uint32_t)t.K;
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
        load_inputs(in, min64(first_row + r, t.M - 1), k, K, x);
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

DEVICE slot load_extra(const cu_unit &u, int i, int64_t row, int64_t column) {
  const cu_operand &x = u.extra[i];
  return load_slot(x.data, x.dtype, row * x.strides[0] + column * x.strides[1]);
}

DEVICE void put(const cu_unit &u, int k, int64_t row, int64_t column, slot s) {
  const cu_operand &o = u.out[k];
  store_slot(o.data, o.dtype, row * o.strides[0] + column * o.strides[1], s);
}

DEVICE void finish_floats(const cu_unit &u, const cu_program *p, int64_t row, int64_t column, const float *products,
                          const slot *early) {
  float regs[CU_FUSED_INPUTS + CU_MOST_CODE];
  for (int i = 0; i < u.n_weights; i++) regs[i] = products[i];
  for (int i = 0; i < u.n_extra; i++)
    regs[u.n_weights + i] = i == 0 ? early[0].f : i == 1 ? early[1].f : load_extra(u, i, row, column).f;
  run_floats(p, regs);
  for (int k = 0; k < u.n_out; k++) {
    slot s;
    s.u = 0, s.f = regs[p->outputs[k]];
    put(u, k, row, column, s);
  }
}

DEVICE void finish(const cu_unit &u, const cu_program *p, int64_t row, int64_t column, const float *products,
                   const slot *early) {
  slot regs[CU_FUSED_INPUTS + CU_MOST_CODE];
  for (int i = 0; i < u.n_weights; i++) {
    regs[i].u = 0, regs[i].f = products[i];
    if (p) regs[i] = round_slot(regs[i], p->input_dtypes[i]);
  }
  for (int i = 0; i < u.n_extra; i++)
    regs[u.n_weights + i] = i == 0 ? early[0] : i == 1 ? early[1] : load_extra(u, i, row, column);
  if (p) run_program(p, regs);
  for (int k = 0; k < u.n_out; k++) put(u, k, row, column, regs[p ? p->outputs[k] : 0]);
}

template <int ROWS, int COLUMNS> DEVICE void linears(const cu_linears_args &t, const inputs &in) {
  __shared__ uint64_t code[sizeof(cu_program) / 8]; // the program is on its way while products are made
  const int lane = threadIdx.x % WARP;
  int64_t block = blockIdx.x;
  int u = 0;
  for (; u < t.n_units - 1; u++) { // units follow each other, each from a block's beginning on
    const int64_t blocks = (t.units[u].outputs + LINEAR_WARPS * COLUMNS - 1) / (LINEAR_WARPS * COLUMNS);
    if (block < blocks) break;
    block -= blocks;
  }
  const cu_unit &unit = t.units[u];
  if (unit.program && threadIdx.x < sizeof(cu_program) / 8)
    code[threadIdx.x] = ((const uint64_t *)unit.program)[threadIdx.x];
  const int64_t first_row = (int64_t)blockIdx.y * ROWS, first = (block * LINEAR_WARPS + threadIdx.x / WARP) * COLUMNS;
  // The lane's own product: the bits of its number from the highest on chose it.
  const int own = lane / (WARP / (ROWS * COLUMNS));
  const int64_t row = first_row + own / COLUMNS, column = first + own % COLUMNS;
  const bool ends = lane % (WARP / (ROWS * COLUMNS)) == 0 && row < t.M && column < unit.outputs;
  slot early[EARLY];
  for (int i = 0; i < EARLY; i++) {
    early[i].u = 0;
    if (ends && i < unit.n_extra) early[i] = load_extra(unit, i, row, column);
  }
  float products[CU_UNIT_WEIGHTS] = {0, 0};
  for (int i = 0; i < unit.n_weights && first < unit.outputs; i++) {
#define MULTIPLY(D) products[i] = multiply<D, ROWS, COLUMNS>(t, in, unit.weights[i], unit.outputs, first_row, first)
    FOR_PACKED(unit.dtypes[i], MULTIPLY)
  }
  __syncthreads();
  const cu_program *p = unit.program ? (const cu_program *)code : NULL;
  if (!ends) return;
  if (p && p->floats) finish_floats(unit, p, row, column, products, early);
  else finish(unit, p, row, column, products, early);
}

DEVICE inputs inputs_of(const cu_linears_args &t) {
  const bool whole = t.x_dtype == ML_F32 && t.x_stride % 4 == 0 && t.K % 8 == 0 && (uintptr_t)t.x % 16 == 0;
  return {t.x, t.x_stride, t.x_dtype, whole};
}

KERNEL(cuda_linears_1, cu_linears_args) {
  inputs in = inputs_of(t);
  if (t.norm) {
    DYNAMIC_SHARED(float4, room);
    float *normed = (float *)room;
    cu_row_op op;
    op.eps = t.eps, op.offset = t.offset;
    rms_norm_row(
        op, t.K, [&](int64_t i) { return load_float(t.x, t.x_dtype, i); }, t.weight.data != NULL,
        [&](int64_t i) { return load_float(t.weight.data, t.weight.dtype, i * t.weight.stride); },
        [&](int64_t i, float f) {
          slot s;
          s.u = 0, s.f = f;
          normed[i] = round_slot(s, t.x_dtype).f;
        });
    __syncthreads();
    in = {(const char *)normed, t.K, ML_F32, t.K % 8 == 0};
  }
  linears<1, 1>(t, in);
}
KERNEL(cuda_linears_4, cu_linears_args) { linears<4, 2>(t, inputs_of(t)); }
KERNEL(cuda_linears_8, cu_linears_args) { linears<8, 4>(t, inputs_of(t)); }
