/* scan.c: running reductions along an axis. Arithmetic is float32 for float types (float64 for float64), int64 for
 * integers. */
#include "tensor/cpu/isa/simd.h"

ALWAYS_INLINE double get_double(const ml_arg *x, int64_t at) {
  if (x->dtype == ML_F64) return ((const double *)x->data)[at];
  if (ml_dtype_is_float(x->dtype)) return load_float(x->data, x->dtype, at);
  if (x->dtype == ML_U64) return (double)((const uint64_t *)x->data)[at];
  return (double)load_index(x->data, x->dtype, at);
}

/* Integers in an order that int64 keeps: uint64 begins at the least of them. */
ALWAYS_INLINE int64_t load_ordered(const ml_arg *x, int64_t at) {
  int64_t k = load_index(x->data, x->dtype, at);
  return x->dtype == ML_U64 ? k ^ INT64_MIN : k;
}

static void put(const ml_arg *o, int64_t at, double d, int64_t i) {
  switch (o->dtype) {
  case ML_F64: ((double *)o->data)[at] = d; return;
  case ML_F32:
  case ML_F16:
  case ML_BF16: store_float(o->data, o->dtype, at, (float)d); return;
  case ML_I64:
  case ML_U64: ((int64_t *)o->data)[at] = i; return;
  case ML_I32:
  case ML_U32: ((int32_t *)o->data)[at] = (int32_t)i; return;
  case ML_I16:
  case ML_U16: ((int16_t *)o->data)[at] = (int16_t)i; return;
  default: ((int8_t *)o->data)[at] = (int8_t)i; return;
  }
}

/* The same of float32: what float64 gives of two of them and is rounded at once, float32 gives. */
#define SCAN(STEP)                                                                                                     \
  for (int64_t i = 1; i < n; i++) {                                                                                    \
    const float v = x[i * x_step];                                                                                     \
    d = STEP;                                                                                                          \
    o[i * o_step] = d;                                                                                                 \
  }
static void scan_floats(int op, const float *x, int64_t x_step, float *o, int64_t o_step, int64_t n) {
  if (n == 0) return;
  float d = o[0] = x[0];
  if (op == ML_OP_cumsum) SCAN(d + v)
  else if (op == ML_OP_cumprod) SCAN(d * v)
  else if (op == ML_OP_cummax) SCAN(v > d || v != v ? v : d)
  else SCAN(v < d || v != v ? v : d)
}

ml_status K(scan_prepare)(ml_task *t) {
  int axis = (int)t->step->attrs->cumsum.axis;
  int64_t length = t->out[0].shape[axis], size = ml_shape_size(t->out[0].ndim, t->out[0].shape);
  t->units = length ? size / length : 0;
  t->grain = ml_max64(1, 8192 / ml_max64(1, length));
  t->cost = (double)size * 2;
  return ML_OK;
}

void K(scan)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)w;
  const ml_arg *x = &t->in[0], *o = &t->out[0];
  int axis = (int)t->step->attrs->cumsum.axis, op = t->step->op;
  int64_t shape[ML_MAX_DIMS];
  memcpy(shape, x->shape, sizeof shape);
  shape[axis] = 1;
  bool floats = ml_dtype_is_float(o->dtype), narrow = floats && o->dtype != ML_F64;
  bool ordered = op == ML_OP_cummax || op == ML_OP_cummin, float32 = x->dtype == ML_F32 && o->dtype == ML_F32;
  for (int64_t unit = begin; unit < end; unit++) {
    int64_t from = ml_index_offset(x->ndim, shape, x->strides, unit);
    int64_t to = ml_index_offset(o->ndim, shape, o->strides, unit);
    if (float32) {
      scan_floats(op, (const float *)(const void *)x->data + from, x->strides[axis], (float *)(void *)o->data + to,
                  o->strides[axis], x->shape[axis]);
      continue;
    }
    double d = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < x->shape[axis]; i++, from += x->strides[axis], to += o->strides[axis]) {
      double v = floats ? get_double(x, from) : 0;
      int64_t k = floats ? 0 : ordered ? load_ordered(x, from) : load_index(x->data, x->dtype, from);
      if (i == 0) d = v, n = k;
      else if (op == ML_OP_cumsum) d += v, n = (int64_t)((uint64_t)n + (uint64_t)k);
      else if (op == ML_OP_cumprod) d *= v, n = (int64_t)((uint64_t)n * (uint64_t)k);
      else if (op == ML_OP_cummax) d = v > d || v != v ? v : d, n = k > n ? k : n;
      else d = v < d || v != v ? v : d, n = k < n ? k : n;
      if (narrow) d = (float)d;
      put(o, to, d, ordered && x->dtype == ML_U64 ? n ^ INT64_MIN : n);
    }
  }
}
