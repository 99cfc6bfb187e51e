/* head.c: elementwise programs before reductions. */
#include "tensor/cpu/isa/head.h"

void K(head_prepare)(const ml_task *t, head *h) {
  const ml_arg *x = &t->in[0];
  h->ndim = 0;
  for (int d = 0; d < x->ndim; d++) {
    if (x->shape[d] == 1) continue;
    int last = h->ndim - 1;
    bool joins = last >= 0;
    for (int k = 0; k < t->n_in && joins; k++) joins = h->strides[k][last] == t->in[k].strides[d] * x->shape[d];
    int to = joins ? last : h->ndim++;
    h->shape[to] = joins ? h->shape[to] * x->shape[d] : x->shape[d];
    for (int k = 0; k < t->n_in; k++) h->strides[k][to] = t->in[k].strides[d];
  }
  if (h->ndim > 0) return;
  h->ndim = 1;
  h->shape[0] = 1;
  for (int k = 0; k < t->n_in; k++) h->strides[k][0] = 0;
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
  for (int64_t at = 0; at < n; at += TILE) {
    int count = (int)ml_min64(TILE, n - at);
    void *regs[ML_FUSED_MAX_INPUTS + ML_FUSED_MAX_CODE];
    tile_registers(regs, room, f);
    for (int k = 0; k < f->n_inputs; k++) {
      int64_t stride = h->strides[k][h->ndim - 1];
      const char *data = from[k] + at * stride * ml_dtype_infos[f->input_dtypes[k]].bytes;
      if (f->input_dtypes[k] == ML_F32 && stride == 1) regs[k] = (void *)(uintptr_t)data;
      else K(load_tile)(regs[k], data, f->input_dtypes[k], stride, count);
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
