/* lower.c: steps of elements and rows as launches: elementwise programs, moves, norms, reductions. */
#include "gpu/program.h"

#include <string.h>

/* ---- elements ---- */

ml_status ml_cuda_lower_fused(ml_program *g, const ml_step *s) {
  const ml_value *o = ml_cuda_value(g, s->outputs[0]);
  const int64_t size = ml_cuda_size(o);
  const int n = s->n_inputs + s->n_outputs;
  cu_fused_args *a = ml_cuda_launch_elements(g, "elementwise", "cuda_fused", sizeof *a, size);
  cu_operand operands[CU_FUSED_INPUTS + CU_MOST_OUTPUTS];
  if (!a) return ML_MEMORY;
  a->n_in = s->n_inputs, a->n_out = s->n_outputs, a->size = size;
  memcpy(a->shape, o->shape, (size_t)o->ndim * sizeof *o->shape);
  for (int k = 0; k < n; k++)
    ML_TRY(ml_cuda_operand(g, k < s->n_inputs ? s->inputs[k] : s->outputs[k - s->n_inputs], &a->operands[k]));
  /* Outputs first, since the first of them gives the order. */
  for (int k = 0; k < n; k++) operands[k] = a->operands[(k + s->n_inputs) % n];
  a->ndim = ml_cuda_merge(o->ndim, a->shape, operands, n);
  for (int k = 0; k < n; k++)
    memcpy(a->operands[(k + s->n_inputs) % n].strides, operands[k].strides, sizeof operands[k].strides);
  ml_cuda_program_of(s->fused, &a->program);
  return ML_OK;
}

/* Elements of `from` to where they lie at `strides`; the address is still to be put in. */
static ml_status move_to(ml_program *g, const int64_t *strides, int from, cu_move_args **out) {
  const ml_value *v = ml_cuda_value(g, from);
  cu_operand operands[2] = {{0}};
  cu_move_args *a = ml_cuda_launch_elements(g, "elementwise", "cuda_move", sizeof *a, ml_cuda_size(v));
  if (!a) return ML_MEMORY;
  a->item = ml_dtype_infos[v->dtype].bytes, a->size = ml_cuda_size(v);
  memcpy(a->shape, v->shape, (size_t)v->ndim * sizeof *v->shape);
  memcpy(operands[0].strides, strides, (size_t)v->ndim * sizeof *v->strides);
  memcpy(operands[1].strides, v->strides, (size_t)v->ndim * sizeof *v->strides);
  a->ndim = ml_cuda_merge(v->ndim, a->shape, operands, 2);
  memcpy(a->to_strides, operands[0].strides, sizeof a->to_strides);
  memcpy(a->from_strides, operands[1].strides, sizeof a->from_strides);
  *out = a;
  return ml_cuda_put_address(g, from, &a->from);
}

/* The same to `to`, which has its shape, from `to_offset` elements on. */
static ml_status move(ml_program *g, int to, int64_t to_offset, int from) {
  cu_move_args *a;
  ML_TRY(move_to(g, ml_cuda_value(g, to)->strides, from, &a));
  return ml_cuda_put_offset(g, to, to_offset * a->item, &a->to);
}

ml_status ml_cuda_move_aside(ml_program *g, int from, size_t bytes) {
  const ml_value *v = ml_cuda_value(g, from);
  int64_t strides[ML_MAX_DIMS], stride = 1;
  cu_move_args *a;
  for (int d = v->ndim - 1; d >= 0; d--) strides[d] = stride, stride *= v->shape[d];
  ML_TRY(move_to(g, strides, from, &a));
  return ml_cuda_put_scratch(g, bytes, &a->to);
}

ml_status ml_cuda_lower_assign(ml_program *g, const ml_step *s) { return move(g, s->inputs[0], 0, s->inputs[1]); }

ml_status ml_cuda_move(ml_program *g, int to, int from) { return move(g, to, 0, from); }

ml_status ml_cuda_lower_concat(ml_program *g, const ml_step *s) {
  const int axis = (int)s->attrs->concat.axis;
  const int64_t along = ml_cuda_value(g, s->outputs[0])->strides[axis];
  int64_t at = 0;
  for (int i = 0; i < s->n_inputs; i++) {
    ML_TRY(move(g, s->outputs[0], at * along, s->inputs[i]));
    at += ml_cuda_value(g, s->inputs[i])->shape[axis];
  }
  return ML_OK;
}

/* ---- rows ---- */

int ml_cuda_row_threads(int64_t n) {
  const int64_t whole = (n + 31) / 32 * 32;
  return whole < 32 ? 32 : whole < CU_THREADS ? (int)whole : CU_THREADS;
}

static int64_t row_blocks(const ml_program *g, int64_t rows, int threads) {
  const int64_t most = (int64_t)ml_cuda_multiprocessors(g) * (2048 / threads);
  return rows < most ? rows : most;
}

static void row_op(cu_row_op *o, int op, const ml_attrs *a, ml_dtype dtype, ml_dtype result) {
  *o = (cu_row_op){.op = op, .dtype = (int32_t)dtype, .result = (int32_t)result};
  if (op == ML_OP_rms_norm) o->eps = (float)a->rms_norm.eps, o->offset = (float)a->rms_norm.offset;
  if (op == ML_OP_layer_norm) o->eps = (float)a->layer_norm.eps;
  if (op == ML_OP_var || op == ML_OP_std) o->ddof = a->var.ddof;
}

ml_status ml_cuda_lower_norm(ml_program *g, const ml_step *s) {
  const ml_value *x = ml_cuda_value(g, s->inputs[0]), *o = ml_cuda_value(g, s->outputs[0]);
  const int64_t n = x->ndim ? x->shape[x->ndim - 1] : 1, rows = n ? ml_cuda_size(x) / n : 0;
  const int threads = ml_cuda_row_threads(n);
  cu_norm_args *a = ml_cuda_launch_add(g, "norm", "cuda_norm", sizeof *a, row_blocks(g, rows, threads), 1, threads);
  if (!a) return ML_MEMORY;
  row_op(&a->op, s->op, s->attrs, x->dtype, o->dtype);
  a->n = n, a->rows = rows;
  ML_TRY(ml_cuda_array(g, s->inputs[0], &a->x));
  if (s->n_inputs > 1) ML_TRY(ml_cuda_vector(g, s->inputs[1], &a->weight));
  if (s->n_inputs > 2) ML_TRY(ml_cuda_vector(g, s->inputs[2], &a->bias));
  return ml_cuda_array(g, s->outputs[0], &a->out);
}

/* Bytes of a row in a register, whose item is that of its dtype's class. */
static int64_t register_bytes(const ml_rows *r, int i) {
  const int64_t item = ml_dtype_class_of(r->registers[i].dtype) == ML_CLASS_FLOAT ? 4 : 8;
  return i < r->n_inputs || r->registers[i].narrow ? 0 : (r->length * item + 255) / 256 * 256;
}

/* Each register is laid, when it is written, into the first gap between those that are read then or later. */
static int64_t lay_registers(const ml_rows *r, cu_row_register *registers) {
  int until[CU_MOST_INPUTS] = {0}, laid[CU_MOST_INPUTS], n_laid = 0; /* until: the last stage that reads it */
  int64_t room = 0;
  for (int i = 0; i < r->n_registers; i++)
    registers[i] = (cu_row_register){(int32_t)r->registers[i].dtype, r->registers[i].narrow, 0};
  for (int i = 0; i < r->n_stages; i++) {
    for (int k = 0; k < r->stages[i].n_inputs; k++)
      if (r->stages[i].inputs[k] >= 0) until[r->stages[i].inputs[k]] = i;
  }
  for (int i = 0; i < r->n_stages; i++) {
    for (int k = 0; k < r->stages[i].n_results; k++) {
      const int own = r->stages[i].results[k];
      const int64_t bytes = register_bytes(r, own);
      if (until[own] < i) until[own] = i;
      for (int n = 0; n < n_laid;) {
        const int64_t from = registers[laid[n]].offset, to = from + register_bytes(r, laid[n]);
        const bool meets = until[laid[n]] >= i && registers[own].offset < to && from < registers[own].offset + bytes;
        if (meets) registers[own].offset = to, n = 0;
        else n++;
      }
      laid[n_laid++] = own;
      if (registers[own].offset + bytes > room) room = registers[own].offset + bytes;
    }
  }
  return room;
}

static ml_status rows_constants(ml_program *g, const ml_rows *r, cu_rows_args *a) {
  cu_row_register registers[CU_MOST_INPUTS];
  const size_t n = (size_t)r->n_stages;
  cu_row_stage *stages = ml_calloc(n, sizeof *stages);
  cu_program *programs = ml_calloc(n, sizeof *programs);
  int n_programs = 0;
  ml_status status = stages && programs ? ML_OK : ML_MEMORY;
  for (int i = 0; i < r->n_stages && status == ML_OK; i++) {
    const ml_row_stage *from = &r->stages[i];
    cu_row_stage *to = &stages[i];
    to->n_inputs = from->n_inputs, to->n_results = from->n_results, to->narrow = from->narrow;
    for (int k = 0; k < from->n_inputs; k++) to->inputs[k] = (int16_t)from->inputs[k];
    for (int k = 0; k < from->n_results; k++)
      to->results[k] = (int16_t)from->results[k], to->from[k] = (int16_t)from->from[k];
    to->program = from->program ? n_programs : CU_ROW_NO_PROGRAM;
    if (from->program) ml_cuda_program_of(from->program, &programs[n_programs++]);
    else
      row_op(&to->op, from->op, from->attrs, r->registers[from->inputs[0]].dtype, r->registers[from->results[0]].dtype);
  }
  a->room = lay_registers(r, registers);
  if (status == ML_OK)
    status = ml_cuda_put_constant(g, registers, (size_t)r->n_registers * sizeof *registers, &a->registers);
  if (status == ML_OK) status = ml_cuda_put_constant(g, stages, n * sizeof *stages, &a->stages);
  if (status == ML_OK && n_programs)
    status = ml_cuda_put_constant(g, programs, (size_t)n_programs * sizeof *programs, &a->programs);
  ml_free(stages);
  ml_free(programs);
  return status;
}

ml_status ml_cuda_lower_rows(ml_program *g, const ml_step *s) {
  const ml_rows *r = s->rows;
  const int threads = ml_cuda_row_threads(r->length);
  const int64_t rows = ml_shape_size(r->lead, r->shape), blocks = row_blocks(g, rows, threads);
  cu_rows_args *a = ml_cuda_launch_add(g, "rows", "cuda_rows", sizeof *a, blocks, 1, threads);
  if (!a) return ML_MEMORY;
  if (r->n_registers > CU_MOST_INPUTS)
    return ml_fail(ML_LIMIT, "a step over rows of %d registers: expected %d at most", r->n_registers, CU_MOST_INPUTS);
  a->length = r->length, a->rows = rows, a->lead = r->lead, a->n_inputs = r->n_inputs;
  a->n_registers = r->n_registers, a->n_stages = r->n_stages, a->n_out = s->n_outputs;
  for (int k = 0; k < s->n_outputs; k++) a->outputs[k] = (int16_t)r->outputs[k];
  memcpy(a->shape, r->shape, (size_t)r->lead * sizeof *r->shape);
  for (int k = 0; k < s->n_inputs + s->n_outputs; k++) {
    const int value = k < s->n_inputs ? s->inputs[k] : s->outputs[k - s->n_inputs];
    ML_TRY(ml_cuda_operand(g, value, &a->operands[k]));
    if (ml_cuda_value(g, value)->ndim <= r->lead) a->operands[k].strides[r->lead] = 1;
  }
  ML_TRY(rows_constants(g, r, a));
  return ml_cuda_put_scratch(g, (size_t)(a->room * (blocks > 0 ? blocks : 1)), &a->scratch);
}

/* ---- reductions ---- */

enum { CHUNK = 2048, PARTIAL_BYTES = 32, MOST_ROWS = 65535 }; /* as gpu/row.cuh has the first two */

static bool is_choice(int op) { return op == ML_OP_max || op == ML_OP_min || op == ML_OP_argmax || op == ML_OP_argmin; }

/* Whether the elements of the one axis that is reduced do. */
static bool lies_side_by_side(const ml_value *x, unsigned reduced) {
  for (int d = 0; d < x->ndim; d++) {
    if (reduced == 1u << d) return x->strides[d] == 1;
  }
  return false;
}

ml_status ml_cuda_lower_reduce(ml_program *g, const ml_step *s) {
  const ml_value *x = ml_cuda_value(g, s->inputs[0]), *o = ml_cuda_value(g, s->outputs[0]);
  const ml_fused *f = s->fused;
  unsigned reduced = 0;
  for (int i = 0; i < s->attrs->sum.axis.count; i++) reduced |= 1u << ml_attrs_list(s->attrs, s->attrs->sum.axis)[i];
  int64_t results = 1, count = 1;
  for (int d = 0; d < x->ndim; d++) *(reduced & 1u << d ? &count : &results) *= x->shape[d];
  const int64_t chunks = count > CHUNK ? (count + CHUNK - 1) / CHUNK : 1;
  const bool chooses = is_choice(s->op) && !f && chunks > 1 && count < INT32_MAX && results <= MOST_ROWS &&
                       lies_side_by_side(x, reduced) && x->dtype <= ML_BF16;
  const int threads = ml_cuda_row_threads(count < CHUNK ? count : CHUNK);
  cu_reduce_args *a =
      chooses ? ml_cuda_launch_add(g, "reduce", "cuda_choose", sizeof *a, chunks, results, CU_CHOOSE_THREADS)
              : ml_cuda_launch_add(g, "reduce", "cuda_reduce", sizeof *a, row_blocks(g, results * chunks, threads), 1,
                                   threads);
  if (!a) return ML_MEMORY;
  row_op(&a->op, s->op, s->attrs, f ? f->code[f->outputs[0] - f->n_inputs].dtype : x->dtype, o->dtype);
  a->results = results, a->count = count, a->chunks = chunks, a->n_in = f ? s->n_inputs : 1;
  for (int d = 0; d < x->ndim; d++) {
    const bool is_reduced = reduced & 1u << d;
    int32_t *n = is_reduced ? &a->n_reduced : &a->n_kept;
    (is_reduced ? a->reduced_shape : a->kept_shape)[*n] = x->shape[d];
    for (int k = 0; k < a->n_in; k++)
      (is_reduced ? a->in[k].reduced : a->in[k].kept)[*n] = ml_cuda_value(g, s->inputs[k])->strides[d];
    ++*n;
  }
  for (int k = 0; k < a->n_in; k++) {
    a->in[k].dtype = (int32_t)ml_cuda_value(g, s->inputs[k])->dtype;
    ML_TRY(ml_cuda_put_address(g, s->inputs[k], &a->in[k].data));
  }
  if (f) {
    cu_program program;
    ml_cuda_program_of(f, &program);
    a->has_program = 1;
    ML_TRY(ml_cuda_put_constant(g, &program, sizeof program, &a->program));
  }
  ML_TRY(ml_cuda_put_address(g, s->outputs[0], &a->out));
  if (chunks == 1) return ML_OK;
  ML_TRY(ml_cuda_put_counts(g, results, &a->joined));
  return ml_cuda_put_scratch(g, (size_t)(results * chunks) * PARTIAL_BYTES, &a->partials);
}
