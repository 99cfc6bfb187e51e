/* lower_products.c: products, look-ups in weights, and what attention is made of, as launches. */
#include "gpu/program.h"

#include <stdio.h>
#include <string.h>

/* ---- products with packed weights ---- */

static ml_status lower_unit(ml_program *g, const ml_step *s, const ml_linear_unit *u, cu_unit *o) {
  cu_program program;
  o->n_weights = u->n_weights, o->n_extra = u->n_extra, o->n_out = u->n_outputs;
  o->outputs = ml_cuda_value(g, s->inputs[u->weights[0]])->shape[0];
  for (int i = 0; i < u->n_weights; i++) {
    o->dtypes[i] = (int32_t)ml_cuda_value(g, s->inputs[u->weights[i]])->dtype;
    ML_TRY(ml_cuda_put_address(g, s->inputs[u->weights[i]], &o->weights[i]));
  }
  for (int i = 0; i < u->n_extra; i++) ML_TRY(ml_cuda_operand(g, s->inputs[u->extra[i]], &o->extra[i]));
  for (int i = 0; i < u->n_outputs; i++) ML_TRY(ml_cuda_operand(g, s->outputs[u->first_output + i], &o->out[i]));
  if (!u->epilogue) return ML_OK;
  ml_cuda_program_of(u->epilogue, &program);
  return ml_cuda_put_constant(g, &program, sizeof program, &o->program);
}

/* The rows, normalised, in scratch. */
static ml_status lower_inner_norm(ml_program *g, const ml_step *s, size_t bytes) {
  const ml_linears *l = s->linears;
  const ml_value *v = ml_cuda_value(g, s->inputs[0]);
  cu_norm_args *a =
      ml_cuda_launch_add(g, "norm", "cuda_norm", sizeof *a, v->shape[0], 1, ml_cuda_row_threads(v->shape[1]));
  if (!a) return ML_MEMORY;
  a->op = (cu_row_op){.op = ML_OP_rms_norm, .dtype = (int32_t)v->dtype, .result = (int32_t)v->dtype};
  a->op.eps = (float)l->eps, a->op.offset = (float)l->norm_offset;
  a->n = v->shape[1], a->rows = v->shape[0];
  ML_TRY(ml_cuda_array(g, s->inputs[0], &a->x));
  ML_TRY(ml_cuda_vector(g, s->inputs[1], &a->weight));
  a->out = a->x;
  a->out.strides[0] = v->shape[1];
  return ml_cuda_put_scratch(g, bytes, &a->out.data);
}

ml_status ml_cuda_lower_linears(ml_program *g, const ml_step *s) {
  const ml_linears *l = s->linears;
  const ml_value *x = ml_cuda_value(g, s->inputs[0]);
  const int64_t M = x->shape[0], rows = M == 1 ? 1 : M <= 4 ? 4 : 8, columns = M == 1 ? 1 : M <= 4 ? 2 : 4;
  const size_t bytes = (size_t)(M * x->shape[1]) * sizeof(float);
  enum { WARPS = 8, MOST_DOWN = 65535 }; /* as gpu/linears.cu has them, and a grid */
  int64_t blocks = 0;
  for (int u = 0; u < l->n_units; u++)
    blocks += (ml_cuda_value(g, s->inputs[l->units[u].weights[0]])->shape[0] + WARPS * columns - 1) / (WARPS * columns);
  if (M > MOST_DOWN * rows)
    return ml_fail(ML_LIMIT, "products of %lld rows: expected %lld at most", (long long)M, (long long)MOST_DOWN * rows);
  /* One row is normalised by who multiplies it. */
  enum { MOST_SHARED = 46 << 10 };
  const bool inside = l->norm && M == 1 && bytes <= MOST_SHARED, before = l->norm && !inside;
  if (before) ML_TRY(lower_inner_norm(g, s, bytes));
  cu_linears_args *a = ml_cuda_launch_add(g, "linears",
                                          M == 1   ? "cuda_linears_1"
                                          : M <= 4 ? "cuda_linears_4"
                                                   : "cuda_linears_8",
                                          sizeof *a, blocks, (M + rows - 1) / rows, WARPS * 32);
  if (!a) return ML_MEMORY;
  a->M = M, a->K = x->shape[1], a->n_units = l->n_units;
  a->x_dtype = (int32_t)x->dtype, a->x_stride = before ? x->shape[1] : x->strides[0];
  ML_TRY(before ? ml_cuda_put_scratch(g, bytes, &a->x) : ml_cuda_put_address(g, s->inputs[0], &a->x));
  if (inside) {
    a->norm = 1, a->eps = (float)l->eps, a->offset = (float)l->norm_offset;
    ml_cuda_launch_shared(g, bytes);
    ML_TRY(ml_cuda_vector(g, s->inputs[1], &a->weight));
  }
  for (int u = 0; u < l->n_units; u++) ML_TRY(lower_unit(g, s, &l->units[u], &a->units[u]));
  return ML_OK;
}

/* ---- products of strided operands ---- */

/* The stride of an axis of the batch, counted from its last one: 0 where the operand has no such axis, or one of 1. */
static int64_t batch_stride(const ml_value *v, int from_last) {
  const int axis = v->ndim - 3 - from_last;
  return axis < 0 || v->shape[axis] == 1 ? 0 : v->strides[axis];
}

/* Where the last axis of the batch goes on as a's rows do and b has no such axis, it is more rows. */
static void merge_rows(const ml_step *s, const ml_value *a, const ml_value *b, const ml_value *o, cu_matmul_args *m) {
  for (int merged = 0; m->axes > 0; m->axes--, merged++) {
    const int64_t size = o->shape[m->axes - 1], stride = batch_stride(a, merged);
    if (s->op == ML_OP_matmul && batch_stride(b, merged) != 0) return;
    if (size != 1 && m->M != 1 && stride != m->a_m * m->M) return;
    if (size != 1 && m->M == 1) m->a_m = stride;
    m->M *= size;
  }
}

ml_status ml_cuda_lower_matmul(ml_program *g, const ml_step *s) {
  const ml_value *a = ml_cuda_value(g, s->inputs[0]), *b = ml_cuda_value(g, s->inputs[1]),
                 *o = ml_cuda_value(g, s->outputs[0]);
  const bool packed = b->layout == ML_LAYOUT_PANELS;
  const int n = a->ndim;
  cu_matmul_args m = {.M = n > 1 ? a->shape[n - 2] : 1, .N = o->shape[o->ndim - 1], .K = a->shape[n - 1]};
  m.a_m = n > 1 ? a->strides[n - 2] : 0, m.a_k = a->strides[n - 1];
  if (s->op == ML_OP_matmul) m.b_k = b->strides[b->ndim - 2], m.b_n = b->strides[b->ndim - 1];
  else if (s->op == ML_OP_linear) m.b_k = b->strides[1], m.b_n = b->strides[0];
  else m.b_k = b->strides[0], m.b_n = b->strides[1];
  m.a_dtype = (int32_t)a->dtype, m.b_dtype = (int32_t)b->dtype, m.packed = packed;
  m.out_dtype = (int32_t)(s->fused ? s->fused->input_dtypes[0] : o->dtype);
  m.axes = o->ndim > 2 ? o->ndim - 2 : 0;
  merge_rows(s, a, b, o, &m);
  m.batch = ml_shape_size(m.axes, o->shape);
  memcpy(m.shape, o->shape, sizeof m.shape);
  for (int d = 0; d < m.axes; d++) {
    m.a_batch[d] = batch_stride(a, o->ndim - 3 - d);
    m.b_batch[d] = s->op == ML_OP_matmul ? batch_stride(b, o->ndim - 3 - d) : 0;
  }
  cu_matmul_args *own;
  if (packed) { /* a thread finds its row by the axes of y before the last */
    m.M *= m.batch, m.batch = 1, m.axes = n - 1;
    for (int d = 0; d < m.axes; d++) m.shape[d] = a->shape[d], m.a_batch[d] = a->strides[d];
    own = ml_cuda_launch_elements(g, "matmul", "cuda_linear_transposed", sizeof *own, m.M * ((m.N + 7) / 8));
  } else {
    enum { TILE = 64 }; /* as gpu/matmul.cu has it */
    const int64_t blocks = m.batch * ((m.M + TILE - 1) / TILE) * ((m.N + TILE - 1) / TILE);
    own = ml_cuda_launch_add(g, "matmul", m.out_dtype == ML_F64 ? "cuda_matmul_f64" : "cuda_matmul", sizeof *own,
                             blocks < INT32_MAX ? blocks : INT32_MAX, 1, CU_THREADS);
  }
  if (!own) return ML_MEMORY;
  *own = m;
  ML_TRY(ml_cuda_put_address(g, s->inputs[0], &own->a));
  ML_TRY(ml_cuda_put_address(g, s->inputs[1], &own->b));
  ML_TRY(ml_cuda_put_address(g, s->outputs[0], &own->out));
  return ml_cuda_tail(g, s, &own->tail);
}

ml_status ml_cuda_lower_embedding(ml_program *g, const ml_step *s) {
  const ml_value *w = ml_cuda_value(g, s->inputs[0]), *ids = ml_cuda_value(g, s->inputs[1]);
  const int64_t count = ml_cuda_size(ids), inputs = w->shape[1], pieces = (inputs + 7) / 8;
  cu_embedding_args *a =
      ml_cuda_launch_elements(g, "embedding", "cuda_embedding", sizeof *a, count * (pieces ? pieces : 1));
  if (!a) return ML_MEMORY;
  a->dtype = (int32_t)w->dtype, a->packed = w->layout == ML_LAYOUT_PANELS, a->ids_dtype = (int32_t)ids->dtype;
  a->out_dtype = (int32_t)ml_cuda_value(g, s->outputs[0])->dtype;
  a->rows = w->shape[0], a->inputs = inputs, a->count = count;
  a->row_stride = w->strides[0], a->column_stride = w->strides[1];
  ML_TRY(ml_cuda_put_address(g, s->inputs[0], &a->weight));
  ML_TRY(ml_cuda_put_address(g, s->inputs[1], &a->ids));
  ML_TRY(ml_cuda_put_address(g, s->outputs[0], &a->out));
  return ml_cuda_put_faults(g, &a->fault);
}

ml_status ml_cuda_lower_gather_linear(ml_program *g, const ml_step *s) {
  const ml_value *x = ml_cuda_value(g, s->inputs[0]), *w = ml_cuda_value(g, s->inputs[1]),
                 *ids = ml_cuda_value(g, s->inputs[2]), *o = ml_cuda_value(g, s->outputs[0]);
  const bool packed = w->layout == ML_LAYOUT_PANELS;
  enum { WARPS = 8 }; /* as gpu/experts.cu has them */
  const int64_t pairs = ml_cuda_size(ids), all = pairs * (w->shape[1] ? w->shape[1] : 1),
                blocks = (all + WARPS - 1) / WARPS;
  cu_gather_args *a = packed ? ml_cuda_launch_add(g, "experts", "cuda_gather_linear", sizeof *a,
                                                  blocks < INT32_MAX ? (blocks ? blocks : 1) : INT32_MAX, 1, WARPS * 32)
                             : ml_cuda_launch_elements(g, "experts", "cuda_gather_strided", sizeof *a, all);
  if (!a) return ML_MEMORY;
  a->pairs = pairs, a->N = w->shape[1], a->K = w->shape[2], a->experts = w->shape[0];
  a->a_row = x->ndim == ids->ndim ? ids->shape[ids->ndim - 1] : 1;
  a->matrix = packed ? (int64_t)ml_cuda_packed_bytes(g->device, w->dtype, w->shape[1], w->shape[2]) : 0;
  for (int d = 0; d < 3; d++) a->strides[d] = w->strides[d];
  a->w_dtype = (int32_t)w->dtype;
  a->out_dtype = (int32_t)(s->fused ? s->fused->input_dtypes[0] : o->dtype);
  ML_TRY(ml_cuda_array(g, s->inputs[0], &a->x));
  ML_TRY(ml_cuda_array(g, s->inputs[2], &a->ids));
  ML_TRY(ml_cuda_put_address(g, s->inputs[1], &a->weight));
  ML_TRY(ml_cuda_put_address(g, s->outputs[0], &a->out));
  ML_TRY(ml_cuda_tail(g, s, &a->tail));
  return ml_cuda_put_faults(g, &a->fault);
}

/* ---- attention ---- */

ml_status ml_cuda_lower_rope_table(ml_program *g, const ml_step *s) {
  const ml_value *start = ml_cuda_value(g, s->inputs[0]), *o = ml_cuda_value(g, s->outputs[0]);
  const int64_t n = o->shape[2] / 2;
  cu_rope_table_args *a =
      ml_cuda_launch_elements(g, "attention", "cuda_rope_table", sizeof *a, o->shape[0] * o->shape[1] * n);
  if (!a) return ML_MEMORY;
  a->start_dtype = (int32_t)start->dtype, a->scale = (float)s->attrs->rope_table.scale;
  a->batch = o->shape[0], a->length = o->shape[1], a->n = n;
  ML_TRY(ml_cuda_put_address(g, s->inputs[0], &a->start));
  ML_TRY(ml_cuda_put_address(g, s->inputs[1], &a->frequencies));
  return ml_cuda_put_address(g, s->outputs[0], &a->out);
}

ml_status ml_cuda_lower_rope(ml_program *g, const ml_step *s) {
  const ml_value *x = ml_cuda_value(g, s->inputs[0]), *table = ml_cuda_value(g, s->inputs[1]);
  const int64_t each = x->shape[3] - table->shape[2] / 2; /* a thread takes a pair, or what is not rotated */
  cu_rope_args *a =
      ml_cuda_launch_elements(g, "attention", "cuda_rope", sizeof *a, x->shape[0] * x->shape[1] * x->shape[2] * each);
  if (!a) return ML_MEMORY;
  a->interleaved = s->attrs->rope.interleaved != 0;
  ML_TRY(ml_cuda_array(g, s->inputs[0], &a->x));
  ML_TRY(ml_cuda_array(g, s->inputs[1], &a->table));
  return ml_cuda_array(g, s->outputs[0], &a->out);
}

ml_status ml_cuda_lower_cache_append(ml_program *g, const ml_step *s) {
  cu_append_args *a = ml_cuda_launch_elements(g, "attention", "cuda_cache_append", sizeof *a,
                                              ml_cuda_size(ml_cuda_value(g, s->inputs[1])));
  if (!a) return ML_MEMORY;
  ML_TRY(ml_cuda_array(g, s->inputs[0], &a->cache));
  ML_TRY(ml_cuda_array(g, s->inputs[1], &a->x));
  ML_TRY(ml_cuda_vector(g, s->inputs[2], &a->slots));
  ML_TRY(ml_cuda_vector(g, s->inputs[3], &a->start));
  ML_TRY(ml_cuda_vector(g, s->inputs[4], &a->count));
  return ml_cuda_put_faults(g, &a->fault);
}

/* Whether all heads of keys or values lie at whole groups of four elements, and fill the lanes that share them. */
static bool lies_whole(const ml_program *g, const ml_step *s, int input) {
  const ml_value *v = ml_cuda_value(g, s->inputs[input]);
  const ml_storage *place = &g->plan->storages[v->storage];
  const bool known = place->place == ML_PLACE_ARENA || place->place == ML_PLACE_TENSOR; /* others begin anywhere */
  bool whole = known && v->shape[3] % 32 == 0 && (v->offset + (int64_t)place->offset) % 16 == 0;
  for (int d = 0; d < 3; d++) whole = whole && v->strides[d] % 4 == 0;
  return whole;
}

static ml_status attention_args(ml_program *g, const ml_step *s, cu_attention_args *a) {
  a->scale = (float)s->attrs->attention.scale, a->softcap = (float)s->attrs->attention.softcap;
  a->causal = s->attrs->attention.causal != 0, a->window = s->attrs->attention.window;
  ML_TRY(ml_cuda_array(g, s->inputs[0], &a->q));
  ML_TRY(ml_cuda_array(g, s->inputs[1], &a->k));
  ML_TRY(ml_cuda_array(g, s->inputs[2], &a->v));
  ML_TRY(ml_cuda_vector(g, s->inputs[3], &a->slots));
  ML_TRY(ml_cuda_vector(g, s->inputs[4], &a->start));
  ML_TRY(ml_cuda_vector(g, s->inputs[5], &a->count));
  ML_TRY(ml_cuda_array(g, s->inputs[6], &a->mask));
  ML_TRY(ml_cuda_vector(g, s->inputs[7], &a->sinks));
  ML_TRY(ml_cuda_array(g, s->outputs[0], &a->out));
  ML_TRY(ml_cuda_tail(g, s, &a->tail));
  return ml_cuda_put_faults(g, &a->fault);
}

ml_status ml_cuda_lower_attention(ml_program *g, const ml_step *s) {
  const ml_value *q = ml_cuda_value(g, s->inputs[0]), *k = ml_cuda_value(g, s->inputs[1]),
                 *v = ml_cuda_value(g, s->inputs[2]);
  const int64_t widest = q->shape[3] > v->shape[3] ? q->shape[3] : v->shape[3], each = (widest + 31) / 32;
  const int64_t rows = q->shape[0] * q->shape[1] * q->shape[2];
  enum { THREADS = 256, SEGMENT = 256, BEFORE_VALUES = 3 }; /* as gpu/attention.cu has them */
  char kernel[32];
  if (each > 32)
    return ml_fail(ML_UNSUPPORTED, "attention: heads of %lld elements: expected 1024 at most", (long long)widest);
  const int pieces = each <= 1 ? 1 : each <= 2 ? 2 : each <= 4 ? 4 : each <= 8 ? 8 : 32;
  const bool whole = pieces > 1 && pieces <= 8 && k->dtype == v->dtype && lies_whole(g, s, 1) && lies_whole(g, s, 2);
  snprintf(kernel, sizeof kernel, "cuda_attention_%d%s", pieces,
           whole && k->dtype == ML_F32   ? "_f32"
           : whole && k->dtype == ML_F16 ? "_f16"
                                         : "");
  /* Few rows of many keys: each block takes a part of them. */
  int64_t segments = (k->shape[2] + SEGMENT - 1) / SEGMENT;
  if (segments < 2 || rows >= 2 * (int64_t)ml_cuda_multiprocessors(g) || segments > 65535) segments = 0;
  cu_attention_args *a = ml_cuda_launch_add(g, "attention", kernel, sizeof *a, rows, segments ? segments : 1, THREADS);
  if (!a) return ML_MEMORY;
  ML_TRY(attention_args(g, s, a));
  a->segments = segments;
  if (!segments) return ML_OK;
  const size_t bytes = (size_t)(rows * segments * (BEFORE_VALUES + v->shape[3])) * sizeof(float);
  ML_TRY(ml_cuda_put_scratch(g, bytes, &a->parts));
  cu_attention_args *join = ml_cuda_launch_add(g, "attention", "cuda_attention_join", sizeof *join, rows, 1, THREADS);
  if (!join) return ML_MEMORY;
  ML_TRY(attention_args(g, s, join));
  join->segments = segments;
  return ml_cuda_put_scratch(g, bytes, &join->parts);
}
