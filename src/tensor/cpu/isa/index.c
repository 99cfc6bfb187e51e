/* index.c: arange, joining, looking up along axes, state writes. */
#include "tensor/cpu/isa/move.h"
#include "tensor/cpu/isa/simd.h"

#include <stdlib.h>

static size_t item_bytes(const ml_arg *x) { return (size_t)ml_dtype_infos[x->dtype].bytes; }

/* ---- arange ---- */

ml_status K(arange_prepare)(ml_task *t) {
  t->units = ml_arg_size(&t->out[0]);
  t->grain = 4096;
  t->cost = (double)t->units;
  return ML_OK;
}

void K(arange)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)w;
  const ml_arg *o = &t->out[0];
  uint64_t start = (uint64_t)t->step->attrs->arange.start, step = (uint64_t)t->step->attrs->arange.step;
  for (int64_t i = begin; i < end; i++) {
    int64_t v = (int64_t)(start + (uint64_t)i * step);
    if (o->dtype == ML_F64) ((double *)o->data)[i] = (double)v;
    else if (ml_dtype_is_float(o->dtype)) store_float(o->data, o->dtype, i, (float)v);
    else memcpy(o->data + (size_t)i * item_bytes(o), &v, item_bytes(o));
  }
}

/* ---- concat ---- */

/* Where each operand begins along the axis. */
ml_status K(concat_prepare)(ml_task *t) {
  const int axis = (int)t->step->attrs->concat.axis;
  int64_t *begins = ml_bump_alloc(t->memory, (size_t)t->n_in, sizeof *begins);
  if (!begins) return ML_MEMORY;
  for (int u = 1; u < t->n_in; u++) begins[u] = begins[u - 1] + t->in[u - 1].shape[axis];
  t->extra = begins;
  t->units = t->n_in;
  t->cost = (double)ml_arg_size(&t->out[0]) * 1.5;
  return ML_OK;
}

/* Copies operand `u` to its place: rows of its last axis. */
void K(concat)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)w;
  const ml_arg *o = &t->out[0];
  const int64_t along = o->strides[t->step->attrs->concat.axis], *begins = t->extra;
  for (int64_t u = begin; u < end; u++) {
    const ml_arg *x = &t->in[u];
    int64_t base = begins[u] * along, last = x->ndim - 1, n = ml_arg_size(x), width = x->shape[last];
    size_t item = item_bytes(x);
    for (int64_t row = 0; width && row < n / width; row++) {
      int64_t from = ml_index_offset((int)last, x->shape, x->strides, row),
              to = base + ml_index_offset((int)last, x->shape, o->strides, row);
      if (x->strides[last] == 1 && o->strides[last] == 1)
        memcpy(o->data + (size_t)to * item, x->data + from * (int64_t)item, (size_t)width * item);
      else
        for (int64_t i = 0; i < width; i++)
          memcpy(o->data + (size_t)(to + i * o->strides[last]) * item,
                 x->data + (from + i * x->strides[last]) * (int64_t)item, item);
    }
  }
}

/* ---- look-ups ---- */

ml_status K(take_prepare)(ml_task *t) {
  t->units = ml_arg_size(&t->in[1]); /* which are looked at where there is nothing to copy too */
  t->cost = (double)ml_arg_size(&t->out[0]) * 2;
  return ML_OK;
}

void K(take)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const ml_arg *x = &t->in[0], *index = &t->in[1], *o = &t->out[0];
  int axis = (int)t->step->attrs->take.axis;
  int64_t outer = ml_shape_size(axis, x->shape), length = x->shape[axis], inner = ml_axes_size(x, axis + 1),
          count = ml_arg_size(index);
  size_t bytes = (size_t)inner * item_bytes(x);
  for (int64_t i = begin; i < end; i++) {
    int64_t at = checked_index(w, ML_OP_take, index, i, length);
    if (at < 0) continue;
    for (int64_t k = 0; k < outer; k++)
      memcpy(o->data + (size_t)(k * count + i) * bytes, x->data + (size_t)(k * length + at) * bytes, bytes);
  }
}

ml_status K(along_prepare)(ml_task *t) {
  t->units = 1;
  t->cost = (double)ml_arg_size(&t->in[1]) * 4;
  return ML_OK;
}

void K(take_along)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)begin, (void)end;
  const ml_arg *x = &t->in[0], *index = &t->in[1], *o = &t->out[0];
  bool put = t->step->op == ML_OP_put_along_axis;
  int axis = (int)t->step->attrs->take_along_axis.axis;
  int64_t inner = ml_axes_size(x, axis + 1), length = x->shape[axis], count = index->shape[axis],
          n = ml_arg_size(index);
  size_t item = item_bytes(x);
  if (put) memcpy(o->data, x->data, (size_t)ml_arg_size(x) * item);
  for (int64_t i = 0; i < n; i++) {
    int64_t at = checked_index(w, t->step->op, index, i, length);
    if (at < 0) continue;
    int64_t place = (i / (inner * count) * length + at) * inner + i % inner;
    if (put) memcpy(o->data + (size_t)place * item, t->in[2].data + (size_t)i * item, item);
    else memcpy(o->data + (size_t)i * item, x->data + (size_t)place * item, item);
  }
}

/* ---- state ---- */

/* The target may be a strided window on its state. */
ml_status K(assign_prepare)(ml_task *t) { return K(move_prepare)(t, &t->in[0], &t->in[1]); }

ml_status K(ring_push_prepare)(ml_task *t) {
  t->units = 1;
  t->cost = (double)ml_arg_size(&t->in[1]) * 2;
  return ML_OK;
}

void K(ring_push)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)begin, (void)end, (void)w;
  const ml_arg *ring = &t->in[0];
  int64_t n = ring->shape[1];
  for (int64_t b = 0; b < ring->shape[0]; b++) {
    int64_t id = load_index(t->in[1].data, t->in[1].dtype, b), position = load_index(t->in[2].data, t->in[2].dtype, b);
    if (n > 0 && position >= 0)
      ((int32_t *)ring->data)[b * ring->strides[0] + position % n * ring->strides[1]] = (int32_t)id;
  }
}
