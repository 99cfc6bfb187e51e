/* scatter.c: adding values at indices. One unit: entries are added in the order of `index`, so that a result does not
 * depend on the number of threads where an index comes twice. */
#include "tensor/cpu/isa/simd.h"

/* o[to] += values[from]; integers wrap. */
static void add_entry(char *o, ml_dtype dtype, int64_t to, const char *values, int64_t from) {
  if (dtype == ML_F64) {
    ((double *)o)[to] += ((const double *)values)[from];
    return;
  }
  if (ml_dtype_is_float(dtype)) {
    store_float(o, dtype, to, load_float(o, dtype, to) + load_float(values, dtype, from));
    return;
  }
  size_t item = (size_t)ml_dtype_infos[dtype].bytes;
  uint64_t a = 0, b = 0;
  memcpy(&a, o + (size_t)to * item, item);
  memcpy(&b, values + (size_t)from * item, item);
  a = dtype == ML_BOOL ? a | b : a + b;
  memcpy(o + (size_t)to * item, &a, item);
}

ml_status K(scatter_add_prepare)(ml_task *t) {
  t->units = 1;
  t->cost = (double)ml_arg_size(&t->in[0]) + (double)ml_arg_size(&t->in[1]) * 4;
  return ML_OK;
}

void K(scatter_add)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)begin, (void)end;
  const ml_arg *x = &t->in[0], *index = &t->in[1], *o = &t->out[0];
  int axis = (int)t->step->attrs->scatter_add.axis;
  int64_t inner = ml_axes_size(x, axis + 1), length = x->shape[axis], count = index->shape[axis];
  int64_t n = ml_arg_size(index);
  memcpy(o->data, x->data, (size_t)ml_arg_size(x) * (size_t)ml_dtype_infos[x->dtype].bytes);
  for (int64_t i = 0; i < n; i++) {
    int64_t at = checked_index(w, t->step->op, index, i, length);
    if (at < 0) continue;
    add_entry(o->data, x->dtype, (i / (inner * count) * length + at) * inner + i % inner, t->in[2].data, i);
  }
}
