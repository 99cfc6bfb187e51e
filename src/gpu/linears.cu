// linears.cu: products of rows with packed weights (ML_STEP_LINEARS), and what a program does with them.
//
// Bytes: the weights once for every ROWS rows of x, x once for every COLUMNS columns (from the cache); one row: the
// weights alone count. Flops: 2 M K N, and a few instructions a weight to expand its code.
//
// A warp computes ROWS x COLUMNS products (product.cuh).
//
// One row is normalised by each block for itself, which costs less than another launch.
#include "gpu/product.cuh"

enum { LINEAR_WARPS = 8, EARLY = 2 }; // EARLY: operands of programs that are read beforehand

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
#define MULTIPLY(D) products[i] = multiply<D, ROWS, COLUMNS>(t.K, t.M, in, unit.weights[i], unit.outputs, first_row, first)
    FOR_PACKED(unit.dtypes[i], MULTIPLY)
  }
  __syncthreads();
  const cu_program *p = unit.program ? (const cu_program *)code : NULL;
  if (!ends) return;
  if (p && p->floats) finish_floats(unit, p, row, column, products, early);
  else finish(unit, p, row, column, products, early);
}

DEVICE inputs inputs_of(const cu_linears_args &t) { return inputs_at(t.x, t.x_dtype, t.x_stride, t.K); }

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
