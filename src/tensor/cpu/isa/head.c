/* head.c: elementwise programs before reductions. */
#include "tensor/cpu/isa/head.h"

void K(head_prepare)(const ml_task *t, head *h) {
  const ml_arg *x = &t->in[0];
  memcpy(h->shape, x->shape, (size_t)x->ndim * sizeof *h->shape);
  for (int k = 0; k < t->n_in; k++) memcpy(h->strides[k], t->in[k].strides, (size_t)x->ndim * sizeof **h->strides);
  h->ndim = K(merge_axes)(x->ndim, h->shape, h->strides, t->n_in);
}

size_t K(head_room)(const ml_task *t) { return tile_room(t->step->fused->n_inputs + t->step->fused->n_code); }

void K(head_begin)(const ml_task *t, char *room) {
  const ml_fused *f = t->step->fused;
  void *regs[ML_FUSED_MAX_INPUTS + ML_FUSED_MAX_CODE];
  tile_registers(regs, room, f);
  K(fused_constants)(f, regs, TILE);
}

/* Elements that follow each other along the last axis. */
static void run_piece(const ml_task *t, const head *h, const char *const *from, int64_t n, char *to, char *room) {
  const ml_fused *f = t->step->fused;
  const ml_dtype dtype = head_dtype(t);
  const int item = ml_dtype_infos[dtype].bytes;
  void *own[ML_FUSED_MAX_INPUTS + ML_FUSED_MAX_CODE], *regs[ML_FUSED_MAX_INPUTS + ML_FUSED_MAX_CODE];
  tile_registers(own, room, f);
  memcpy(regs, own, (size_t)(f->n_inputs + f->n_code) * sizeof *regs);
  for (int64_t at = 0; at < n; at += TILE) {
    int count = (int)ml_min64(TILE, n - at);
    for (int k = 0; k < f->n_inputs; k++) {
      int64_t stride = h->strides[k][h->ndim - 1], step = stride * ml_dtype_infos[f->input_dtypes[k]].bytes;
      regs[k] = read_tile(own[k], from[k] + at * step, f->input_dtypes[k], stride, count);
    }
    if (dtype == ML_F32) regs[f->outputs[0]] = to + at * item;
    K(fused_run)(f, regs, count);
    if (dtype != ML_F32) K(store_tile)(to + at * item, dtype, 1, regs[f->outputs[0]], count);
  }
}

void K(head_run)(const ml_task *t, const head *h, int64_t first, int64_t n, char *to, char *room) {
  const int64_t length = h->shape[h->ndim - 1], item = ml_dtype_infos[head_dtype(t)].bytes;
  for (int64_t m; n > 0; first += m, n -= m, to += m * item) {
    const char *from[ML_FUSED_MAX_INPUTS];
    m = ml_min64(n, length - first % length);
    for (int k = 0; k < t->n_in; k++) {
      int64_t at = ml_index_offset(h->ndim, h->shape, h->strides[k], first);
      from[k] = t->in[k].data + at * ml_dtype_infos[t->in[k].dtype].bytes;
    }
    run_piece(t, h, from, m, to, room);
  }
}
