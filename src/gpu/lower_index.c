/* lower_index.c: making, looking up, ordering, scanning and sampling, as launches. */
#include "gpu/program.h"

#include <string.h>

ml_status ml_cuda_lower_arange(ml_program *g, const ml_step *s) {
  const ml_value *o = ml_cuda_value(g, s->outputs[0]);
  cu_index_args *a = ml_cuda_launch_elements(g, "index", "cuda_arange", sizeof *a, ml_cuda_size(o));
  if (!a) return ML_MEMORY;
  a->count = ml_cuda_size(o), a->start = s->attrs->arange.start, a->step = s->attrs->arange.step;
  a->out_dtype = (int32_t)o->dtype;
  return ml_cuda_put_address(g, s->outputs[0], &a->out);
}

/* Entries of x along an axis. */
static void lines_of(const ml_value *x, int axis, cu_index_args *a) {
  a->dtype = (int32_t)x->dtype;
  a->outer = ml_shape_size(axis, x->shape), a->length = x->shape[axis];
  a->inner = ml_shape_size(x->ndim - axis - 1, x->shape + axis + 1);
}

static ml_status index_of(ml_program *g, const ml_step *s, cu_index_args *a) {
  a->op = s->op, a->index_dtype = (int32_t)ml_cuda_value(g, s->inputs[1])->dtype;
  ML_TRY(ml_cuda_put_address(g, s->inputs[0], &a->x));
  ML_TRY(ml_cuda_put_address(g, s->inputs[1], &a->index));
  ML_TRY(ml_cuda_put_address(g, s->outputs[0], &a->out));
  return ml_cuda_put_faults(g, &a->fault);
}

ml_status ml_cuda_lower_take(ml_program *g, const ml_step *s) {
  const int64_t count = ml_cuda_size(ml_cuda_value(g, s->inputs[1]));
  const int64_t size = ml_cuda_size(ml_cuda_value(g, s->outputs[0]));
  cu_index_args *a = ml_cuda_launch_elements(g, "index", "cuda_take", sizeof *a, size > count ? size : count);
  if (!a) return ML_MEMORY;
  lines_of(ml_cuda_value(g, s->inputs[0]), (int)s->attrs->take.axis, a);
  a->count = count;
  return index_of(g, s, a);
}

ml_status ml_cuda_lower_along(ml_program *g, const ml_step *s) {
  const ml_value *x = ml_cuda_value(g, s->inputs[0]), *index = ml_cuda_value(g, s->inputs[1]);
  const int axis = (int)s->attrs->take_along_axis.axis;
  const bool takes = s->op == ML_OP_take_along_axis;
  const int64_t size = ml_cuda_size(index), count = index->shape[axis];
  if (!takes) ML_TRY(ml_cuda_move(g, s->outputs[0], s->inputs[0]));
  cu_index_args *a = ml_cuda_launch_elements(g, "index", takes ? "cuda_take_along" : "cuda_put_along", sizeof *a,
                                             takes || !count ? size : size / count);
  if (!a) return ML_MEMORY;
  lines_of(x, axis, a);
  a->count = count;
  if (!takes) ML_TRY(ml_cuda_put_address(g, s->inputs[2], &a->values));
  return index_of(g, s, a);
}

ml_status ml_cuda_lower_order(ml_program *g, const ml_step *s) {
  const ml_value *x = ml_cuda_value(g, s->inputs[0]);
  const int axis = (int)(s->op == ML_OP_topk ? s->attrs->topk.axis : s->attrs->sort.axis);
  const int values = s->op == ML_OP_argsort ? -1 : s->outputs[0];
  const int indices = s->op == ML_OP_argsort ? s->outputs[0] : s->op == ML_OP_topk ? s->outputs[1] : -1;
  cu_index_args *a = ml_cuda_launch_elements(g, "index", "cuda_order", sizeof *a, ml_cuda_size(x));
  if (!a) return ML_MEMORY;
  lines_of(x, axis, a);
  a->op = s->op, a->step = s->op == ML_OP_topk ? s->attrs->topk.k : 0;
  if (indices >= 0) a->indices_dtype = (int32_t)ml_cuda_value(g, indices)->dtype;
  ML_TRY(ml_cuda_put_address(g, s->inputs[0], &a->x));
  ML_TRY(ml_cuda_put_address(g, values, &a->out));
  return ml_cuda_put_address(g, indices, &a->out_indices);
}

ml_status ml_cuda_lower_scan(ml_program *g, const ml_step *s) {
  const ml_value *o = ml_cuda_value(g, s->outputs[0]);
  const int axis = (int)s->attrs->cumsum.axis;
  const int64_t length = o->shape[axis], lines = length ? ml_cuda_size(o) / length : 0;
  cu_scan_args *a = ml_cuda_launch_elements(g, "index", "cuda_scan", sizeof *a, lines);
  if (!a) return ML_MEMORY;
  a->op = s->op, a->axis = axis, a->lines = lines;
  ML_TRY(ml_cuda_array(g, s->inputs[0], &a->x));
  return ml_cuda_array(g, s->outputs[0], &a->out);
}

ml_status ml_cuda_lower_ring_push(ml_program *g, const ml_step *s) {
  cu_ring_args *a =
      ml_cuda_launch_elements(g, "index", "cuda_ring_push", sizeof *a, ml_cuda_value(g, s->inputs[0])->shape[0]);
  if (!a) return ML_MEMORY;
  ML_TRY(ml_cuda_array(g, s->inputs[0], &a->ring));
  ML_TRY(ml_cuda_vector(g, s->inputs[1], &a->ids));
  return ml_cuda_vector(g, s->inputs[2], &a->position);
}

/* ---- sampling ---- */

ml_status ml_cuda_lower_sample(ml_program *g, const ml_step *s) {
  const ml_value *x = ml_cuda_value(g, s->inputs[0]);
  const ml_attrs *t = s->attrs;
  const bool draws = s->op == ML_OP_categorical;
  cu_sample_args *a = ml_cuda_launch_add(g, "sample", draws ? "cuda_categorical" : "cuda_sample", sizeof *a,
                                         draws || x->shape[1] ? x->shape[0] : 0, 1, CU_THREADS);
  if (!a) return ML_MEMORY;
  a->op = s->op, a->rows = x->shape[0], a->n = x->shape[1];
  ML_TRY(ml_cuda_put_address(g, s->inputs[0], &a->x));
  switch (s->op) {
  case ML_OP_top_k_mask: a->number = (double)t->top_k_mask.k; break;
  case ML_OP_top_p_mask: a->number = t->top_p_mask.p; break;
  case ML_OP_min_p_mask: a->number = t->min_p_mask.p; break;
  case ML_OP_temperature: a->number = t->temperature.t; break;
  case ML_OP_repeat_penalty: {
    const ml_value *recent = ml_cuda_value(g, s->inputs[1]);
    a->penalty = t->repeat_penalty.penalty, a->presence = t->repeat_penalty.presence;
    a->frequency = t->repeat_penalty.frequency;
    a->recent_dtype = (int32_t)recent->dtype, a->recent_count = recent->shape[1];
    ML_TRY(ml_cuda_put_address(g, s->inputs[1], &a->recent));
    break;
  }
  default: ML_TRY(ml_cuda_vector(g, s->inputs[1], &a->uniform)); return ml_cuda_put_address(g, s->outputs[0], &a->ids);
  }
  ML_TRY(ml_cuda_put_address(g, s->inputs[s->n_inputs - 1], &a->by_row));
  return ml_cuda_put_address(g, s->outputs[0], &a->out);
}

ml_status ml_cuda_lower_random_bits(ml_program *g, const ml_step *s) {
  const ml_value *key = ml_cuda_value(g, s->inputs[0]);
  const int64_t keys = key->ndim > 1 ? key->shape[0] : 1;
  const int64_t size = keys ? ml_cuda_size(ml_cuda_value(g, s->outputs[0])) / keys : 0;
  cu_random_args *a = ml_cuda_launch_elements(g, "random", "cuda_random_bits", sizeof *a, keys * ((size + 3) / 4));
  if (!a) return ML_MEMORY;
  a->keys = keys, a->size = size, a->words = key->shape[key->ndim - 1];
  ML_TRY(ml_cuda_put_address(g, s->inputs[0], &a->key));
  return ml_cuda_put_address(g, s->outputs[0], &a->out);
}

ml_status ml_cuda_lower_quantile(ml_program *g, const ml_step *s) {
  const ml_value *u = ml_cuda_value(g, s->inputs[0]), *o = ml_cuda_value(g, s->outputs[0]);
  cu_quantile_args *a = ml_cuda_launch_elements(g, "random", "cuda_normal_quantile", sizeof *a, ml_cuda_size(o));
  if (!a) return ML_MEMORY;
  a->u_dtype = (int32_t)u->dtype, a->out_dtype = (int32_t)o->dtype, a->size = ml_cuda_size(o);
  a->low = s->attrs->normal_quantile.low, a->high = s->attrs->normal_quantile.high;
  ML_TRY(ml_cuda_put_address(g, s->inputs[0], &a->u));
  return ml_cuda_put_address(g, s->outputs[0], &a->out);
}
