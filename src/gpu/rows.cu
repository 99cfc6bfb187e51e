// rows.cu: steps over rows (ML_STEP_ROWS): a block takes a row through all stages.
//
// Bytes: inputs and outputs once; what stages pass on lies in a room of the block's own, which stays in the cache. An
// element of it is written and read by the same thread; what there is once a row goes through shared memory.
#include "gpu/row.cuh"

enum { MOST_ROW_REGISTERS = CU_MOST_INPUTS };

struct row_run {
  const cu_rows_args *t;
  int64_t at[CU_FUSED_INPUTS + CU_MOST_OUTPUTS]; // where the row of each operand begins
  char *room;
  slot *narrow;
};

DEVICE int64_t inner_of(const row_run &r, int k) { return r.t->operands[k].strides[r.t->lead]; }

DEVICE slot get_register(const row_run &r, int reg, int64_t i) {
  if (reg < r.t->n_inputs) {
    const cu_operand &x = r.t->operands[reg];
    return load_slot(x.data, x.dtype, r.at[reg] + i * inner_of(r, reg));
  }
  const cu_row_register &info = r.t->registers[reg];
  if (info.narrow) return r.narrow[reg];
  slot s;
  s.u = 0;
  if (class_of(info.dtype) == CF) s.f = ((const float *)(r.room + info.offset))[i];
  else s.u = ((const uint64_t *)(r.room + info.offset))[i];
  return s;
}

// A register's element, which is its dtype's; where the register is an output, there too.
DEVICE void put_register(const row_run &r, int reg, int64_t i, slot s) {
  const cu_row_register &info = r.t->registers[reg];
  if (info.narrow) r.narrow[reg] = s;
  else if (class_of(info.dtype) == CF) ((float *)(r.room + info.offset))[i] = s.f;
  else ((uint64_t *)(r.room + info.offset))[i] = s.u;
  for (int k = 0; k < r.t->n_out; k++) {
    if (r.t->outputs[k] != reg) continue;
    const cu_operand &o = r.t->operands[r.t->n_inputs + k];
    store_slot(o.data, o.dtype, r.at[r.t->n_inputs + k] + i * inner_of(r, r.t->n_inputs + k), s);
  }
}

DEVICE void run_stage_program(const row_run &r, const cu_row_stage &s) {
  const cu_program *p = r.t->programs + s.program;
  slot regs[MOST_REGISTERS];
  const int64_t n = s.narrow ? 1 : r.t->length;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    for (int k = 0; k < p->n_inputs; k++) regs[k] = get_register(r, s.inputs[k], i);
    run_program(p, regs);
    for (int k = 0; k < s.n_results; k++) put_register(r, s.results[k], i, regs[s.from[k]]);
  }
}

DEVICE void run_row_op(const row_run &r, const cu_row_stage &s) {
  const int64_t n = r.t->length;
  const int to = s.results[0], dtype = r.t->registers[to].dtype;
  const bool weighted = s.n_inputs > 1 && s.inputs[1] >= 0, biased = s.n_inputs > 2 && s.inputs[2] >= 0;
  auto get = [&](int64_t i) { return get_register(r, s.inputs[0], i).f; };
  auto weight = [&](int64_t i) { return get_register(r, s.inputs[1], i).f; };
  auto bias = [&](int64_t i) { return get_register(r, s.inputs[2], i).f; };
  auto put = [&](int64_t i, float f) {
    slot v;
    v.u = 0, v.f = f;
    put_register(r, to, i, round_slot(v, dtype));
  };
  switch (s.op.op) {
  case CU_OP_rms_norm:
    rms_norm_row(
        s.op, n, [&](int64_t first, float *f) { load_each(first, n, get, 0.0f, f); }, weighted,
        [&](int64_t first, float *f) { load_each(first, n, weight, 1.0f, f); },
        [&](int64_t first, const float *f) {
          for (int k = 0; k < RUN && first + k < n; k++) put(first + k, f[k]);
        });
    return;
  case CU_OP_layer_norm: layer_norm_row(s.op, n, get, weighted, weight, biased, bias, put); return;
  case CU_OP_softmax:
  case CU_OP_log_softmax: softmax_row<float>(s.op.op == CU_OP_log_softmax, n, get, put); return;
  default: break;
  }
  const partial p = reduce_row(s.op, n, [&](int64_t i) { return get_register(r, s.inputs[0], i); });
  if (threadIdx.x == 0) put_register(r, to, 0, finish_partial(p, s.op, n));
}

KERNEL(cuda_rows, cu_rows_args) {
  __shared__ slot narrow[MOST_ROW_REGISTERS];
  row_run r;
  r.t = &t, r.room = t.scratch + (int64_t)blockIdx.x * t.room, r.narrow = narrow;
  for (int64_t row = blockIdx.x; row < t.rows; row += gridDim.x) {
    for (int k = 0; k < t.n_inputs + t.n_out; k++) r.at[k] = offset_of(t.lead, t.shape, t.operands[k].strides, row);
    for (int i = 0; i < t.n_stages; i++) {
      const cu_row_stage &s = t.stages[i];
      if (s.program >= 0) run_stage_program(r, s);
      else run_row_op(r, s);
      __syncthreads();
    }
  }
}
