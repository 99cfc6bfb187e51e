/* tail.c: elementwise programs behind products and attention. */
#include "tensor/cpu/isa/tail.h"

size_t K(tail_room)(const ml_task *t) {
  const ml_fused *f = t->step->fused;
  return f ? tile_room(f->n_inputs + f->n_code) : 0;
}

void K(tail_begin)(const ml_task *t, char *room) {
  const ml_fused *f = t->step->fused;
  void *regs[ML_FUSED_MAX_INPUTS + ML_FUSED_MAX_CODE];
  if (!f) return;
  tile_registers(regs, room, f);
  K(fused_constants)(f, regs, TILE);
}

/* Where an operand's row begins, whose last axis is the result's. */
static char *row_of(const ml_task *t, const ml_arg *x, int64_t row) {
  const ml_arg *o = &t->out[0];
  int64_t at = ml_index_offset(o->ndim - 1, o->shape, x->strides, row);
  return x->data + at * ml_dtype_infos[x->dtype].bytes;
}

void K(tail_run)(const ml_task *t, int64_t row, int64_t column, void *result, int64_t n, char *room) {
  const ml_fused *f = t->step->fused;
  const bool rounds = f->input_dtypes[0] != ML_F32 && f->input_dtypes[0] != ML_F64;
  const int last = t->out[0].ndim - 1;
  const ml_arg *extra = t->in + t->n_in - f->n_inputs; /* [0] would be the result */
  char *in[ML_FUSED_MAX_INPUTS], *out[ML_FUSED_MAX_OUTPUTS];
  for (int k = 1; k < f->n_inputs; k++) in[k] = row_of(t, &extra[k], row);
  for (int k = 0; k < t->n_out; k++) out[k] = row_of(t, &t->out[k], row);
  void *own[ML_FUSED_MAX_INPUTS + ML_FUSED_MAX_CODE], *regs[ML_FUSED_MAX_INPUTS + ML_FUSED_MAX_CODE];
  tile_registers(own, room, f);
  memcpy(regs, own, (size_t)(f->n_inputs + f->n_code) * sizeof *regs);
  for (int64_t at = 0; at < n; at += TILE) {
    int count = (int)ml_min64(TILE, n - at);
    regs[0] = (char *)result + (size_t)at * register_item(f->input_dtypes[0]);
    if (rounds) K(round_tile)(regs[0], f->input_dtypes[0], count);
    for (int k = 1; k < f->n_inputs; k++) {
      const ml_arg *x = &extra[k];
      int64_t stride = x->strides[last];
      char *from = in[k] + (column + at) * stride * ml_dtype_infos[x->dtype].bytes;
      regs[k] = read_tile(own[k], from, x->dtype, stride, count);
    }
    K(fused_run)(f, regs, count);
    for (int k = 0; k < t->n_out; k++) {
      const ml_arg *o = &t->out[k];
      char *to = out[k] + (column + at) * o->strides[last] * ml_dtype_infos[o->dtype].bytes;
      K(store_tile)(to, o->dtype, o->strides[last], regs[f->outputs[k]], count);
    }
  }
}
