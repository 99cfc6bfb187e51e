/* shape.c: the shape rules that rows of ops.def name, and the table made from it.
 *
 * A rule reads inputs and attributes, checks them, and fills dtype and shape. Axes arrive 0-based and may be negative.
 */
#include "tensor/shape.h"

#include <stdio.h>
#include <string.h>

typedef ml_shape_query query;

ml_status ml_shape_set(query *q, int ndim, const int64_t *shape) {
  q->ndim = ndim;
  memmove(q->shape, shape, (size_t)ndim * sizeof *shape);
  return ML_OK;
}

ml_status ml_shape_like(query *q, const ml_tensor *t) {
  q->dtype = t->dtype;
  return ml_shape_set(q, t->ndim, t->shape);
}

static ml_status want_plain(const ml_tensor *t, const char *name) {
  ml_dtype_class c = ml_dtype_class_of(t->dtype);
  if (c <= ML_CLASS_BOOL) return ML_OK;
  return ml_fail(ML_USAGE, "%s: dtype %s is stored, not computed with; dequantize or cast it first", name,
                 ml_dtype_name(t->dtype));
}

ml_status ml_want_integers(const ml_tensor *t, const char *name) {
  if (ml_dtype_class_of(t->dtype) == ML_CLASS_INT) return ML_OK;
  return ml_fail(ML_USAGE, "%s: expected an integer dtype, found %s", name, ml_dtype_name(t->dtype));
}

/* float32, float16 or bfloat16: what kernels that compute in float32 read. */
ml_status ml_want_floats(const ml_tensor *t, const char *name) {
  if (!t || ml_dtype_class_of(t->dtype) == ML_CLASS_FLOAT) return ML_OK;
  return ml_fail(ML_USAGE, "%s: expected float32, float16 or bfloat16, found %s", name, ml_dtype_name(t->dtype));
}

ml_status ml_want_ndim(const ml_tensor *t, const char *name, int ndim) {
  if (t->ndim == ndim) return ML_OK;
  return ml_fail(ML_MISMATCH, "%s: expected %d axes, found shape %s", name, ndim, SHAPE_TEXT(t));
}

static ml_status norm_axis(int64_t *axis, int ndim) {
  int64_t a = *axis < 0 ? *axis + ndim : *axis;
  if (a < 0 || a >= ndim)
    return ml_fail(ML_USAGE, "axis %lld is out of range for %d axes", (long long)(*axis < 0 ? *axis : *axis + 1), ndim);
  *axis = a;
  return ML_OK;
}

static ml_status named_twice(int64_t axis) {
  return ml_fail(ML_USAGE, "axis %lld is named twice", (long long)axis + 1);
}

/* ---- dtypes ---- */

static bool is_float_class(ml_dtype t) { return ml_dtype_is_float(t); }

/* The dtype that two operands meet at. A 0-dimensional constant written as a number gives way to the other's dtype,
 * unless it is a float among integers. */
static ml_dtype promote(ml_dtype a, ml_dtype b) {
  static const int rank[ML_DTYPE_COUNT] = {
      [ML_BOOL] = 1, [ML_U8] = 2,  [ML_I8] = 3,   [ML_U16] = 4,   [ML_I16] = 5,  [ML_U32] = 6, [ML_I32] = 7,
      [ML_U64] = 8,  [ML_I64] = 9, [ML_F16] = 10, [ML_BF16] = 11, [ML_F32] = 12, [ML_F64] = 13};
  if (a == b) return a;
  if ((a == ML_F16 && b == ML_BF16) || (a == ML_BF16 && b == ML_F16)) return ML_F32;
  ml_dtype high = rank[a] > rank[b] ? a : b, low = high == a ? b : a;
  if (high == ML_I8 && low == ML_U8) return ML_I16;
  if (high == ML_I16 && low == ML_U16) return ML_I32;
  if (high == ML_I32 && low == ML_U32) return ML_I64;
  if (high == ML_U32 && (low == ML_I8 || low == ML_I16)) return ML_I64;
  if (high == ML_U16 && low == ML_I8) return ML_I32;
  return high;
}

static ml_dtype meet(const ml_tensor *a, const ml_tensor *b) {
  if (ml_tensor_is_number(a) != ml_tensor_is_number(b)) {
    const ml_tensor *weak = ml_tensor_is_number(a) ? a : b, *strong = ml_tensor_is_number(a) ? b : a;
    if (is_float_class(strong->dtype)) return strong->dtype;
    if (is_float_class(weak->dtype)) return ML_F32;
    return strong->dtype == ML_BOOL ? weak->dtype : strong->dtype;
  }
  return promote(a->dtype, b->dtype);
}

/* ---- elementwise ---- */

ml_status ml_shape_broadcast(query *q, const ml_tensor *a, const ml_tensor *b) {
  int64_t shape[ML_MAX_DIMS];
  int ndim = a->ndim > b->ndim ? a->ndim : b->ndim;
  for (int i = 0; i < ndim; i++) {
    int ia = i - (ndim - a->ndim), ib = i - (ndim - b->ndim);
    int64_t da = ia < 0 ? 1 : a->shape[ia], db = ib < 0 ? 1 : b->shape[ib];
    if (da != db && da != 1 && db != 1) {
      return ml_fail(ML_MISMATCH, "shapes %s and %s do not broadcast", SHAPE_TEXT(a), SHAPE_TEXT(b));
    }
    shape[i] = da == 1 ? db : da;
  }
  return ml_shape_set(q, ndim, shape);
}

/* One of the results of an operation that has several. */
static ml_status shape_result(query *q) {
  const ml_node *all = q->inputs[0]->node;
  ml_attrs attrs = all->attrs;
  query own = {.inputs = all->inputs,
               .n_inputs = all->n_inputs,
               .attrs = &attrs,
               .result = (int)q->attrs->result.index,
               .input_dtype = ML_DTYPE_COUNT};
  ML_TRY(ml_op_infos[all->op].shape(&own));
  q->dtype = own.dtype;
  return ml_shape_set(q, own.ndim, own.shape);
}

static ml_status shape_none(query *q) {
  (void)q;
  return ml_fail(ML_USAGE, "not an operation to call");
}

static ml_status shape_same(query *q) {
  ML_TRY(want_plain(q->inputs[0], "x"));
  ML_TRY(ml_shape_like(q, q->inputs[0]));
  return ML_OK;
}

static ml_status shape_cast(query *q) {
  ML_TRY(ml_shape_like(q, q->inputs[0]));
  ml_dtype to = (ml_dtype)q->attrs->astype.dtype;
  bool from_ok = ml_dtype_class_of(q->dtype) <= ML_CLASS_STORED, to_ok = ml_dtype_class_of(to) <= ML_CLASS_BOOL;
  if (!from_ok || !to_ok) {
    return ml_fail(ML_UNSUPPORTED,
                   "no cast from %s to %s: block formats are those of weights, which load rounds and dequantize reads",
                   ml_dtype_name(q->dtype), ml_dtype_name(to));
  }
  q->dtype = to;
  return ML_OK;
}

static ml_status shape_same_number(query *q) {
  ML_TRY(shape_same(q));
  if (q->dtype == ML_BOOL) q->dtype = q->input_dtype = ML_I32;
  return ML_OK;
}

static ml_status shape_floating(query *q) {
  ML_TRY(shape_same(q));
  if (!is_float_class(q->dtype)) q->dtype = q->input_dtype = ML_F32;
  return ML_OK;
}

static ml_status shape_quantile(query *q) {
  double low = q->attrs->normal_quantile.low, high = q->attrs->normal_quantile.high;
  if (!(low <= high)) return ml_fail(ML_USAGE, "expected low <= high, found %g and %g", low, high);
  return shape_floating(q);
}

static ml_status shape_predicate(query *q) {
  ML_TRY(shape_same(q));
  q->dtype = ML_BOOL;
  return ML_OK;
}

static ml_status two_operands(query *q) {
  ML_TRY(want_plain(q->inputs[0], "a"));
  ML_TRY(want_plain(q->inputs[1], "b"));
  q->dtype = q->input_dtype = meet(q->inputs[0], q->inputs[1]);
  return ml_shape_broadcast(q, q->inputs[0], q->inputs[1]);
}

static ml_status shape_arithmetic(query *q) {
  ML_TRY(two_operands(q));
  if (q->dtype == ML_BOOL) q->dtype = q->input_dtype = ML_I32;
  return ML_OK;
}

static ml_status shape_quotient(query *q) {
  ML_TRY(two_operands(q));
  if (!is_float_class(q->dtype)) q->dtype = q->input_dtype = ML_F32;
  return ML_OK;
}

/* Integers are compared by value, each in its own dtype, and with a plain float as float64; a float tensor among them
 * makes both floats of its kind. */
static ml_status shape_compare(query *q) {
  ML_TRY(two_operands(q));
  const ml_tensor *a = q->inputs[0], *b = q->inputs[1];
  bool plain_float = is_float_class(a->dtype) ? ml_tensor_is_number(a) && !is_float_class(b->dtype)
                                              : ml_tensor_is_number(b) && is_float_class(b->dtype);
  if (!is_float_class(q->input_dtype)) q->input_dtype = ML_DTYPE_COUNT;
  else if (plain_float) q->input_dtype = ML_F64;
  q->dtype = ML_BOOL;
  return ML_OK;
}

static ml_status shape_bits(query *q) {
  ML_TRY(two_operands(q));
  if (is_float_class(q->dtype)) return ml_fail(ML_USAGE, "expected integers, found %s", ml_dtype_name(q->dtype));
  return ML_OK;
}

static ml_status shape_where(query *q) {
  const ml_tensor *c = q->inputs[0], *a = q->inputs[1], *b = q->inputs[2];
  ML_TRY(want_plain(c, "condition"));
  ML_TRY(want_plain(a, "a"));
  ML_TRY(want_plain(b, "b"));
  ML_TRY(ml_shape_broadcast(q, a, b));
  ml_tensor both = {.ndim = q->ndim};
  memcpy(both.shape, q->shape, sizeof both.shape);
  ML_TRY(ml_shape_broadcast(q, c, &both));
  q->dtype = q->input_dtype = meet(a, b); /* ml_apply leaves the condition as it is */
  return ML_OK;
}

/* ---- views ---- */

/* The axes of a list that may name each once, counted from 0; all of them, by `all`, where none is given. */
static ml_status axes_of(query *q, ml_list *list, bool backwards, const int64_t **axes) {
  const int ndim = q->inputs[0]->ndim;
  int64_t *entries = q->attrs->list + list->first;
  if (!list->given) {
    entries = ml_attrs_give(q->attrs, list, ndim);
    for (int i = 0; i < ndim; i++) entries[i] = backwards ? ndim - 1 - i : i;
  }
  unsigned seen = 0;
  for (int i = 0; i < list->count; i++) {
    ML_TRY(norm_axis(&entries[i], ndim));
    if (seen & 1u << entries[i]) return named_twice(entries[i]);
    seen |= 1u << entries[i];
  }
  *axes = entries;
  return ML_OK;
}

static ml_status shape_reshape(query *q) {
  const ml_tensor *x = q->inputs[0];
  int64_t size = ml_tensor_size(x), known = 1;
  int unknown = -1, ndim = q->attrs->reshape.shape.count;
  int64_t *shape = q->attrs->list + q->attrs->reshape.shape.first;
  if (ndim > ML_MAX_DIMS) return ml_fail(ML_USAGE, "expected at most %d axes, found %d", ML_MAX_DIMS, ndim);
  for (int i = 0; i < ndim; i++) {
    int64_t d = shape[i];
    if (d == -1 && unknown < 0) unknown = i;
    else if (d < 0 || __builtin_mul_overflow(known, d, &known))
      return ml_fail(ML_USAGE, "size %lld of axis %d is not valid", (long long)d, i + 1);
  }
  if (unknown >= 0 && known > 0 && size % known == 0) {
    shape[unknown] = size / known;
    known = size;
  }
  if (known != size || (unknown >= 0 && shape[unknown] < 0)) {
    return ml_fail(ML_MISMATCH, "shape %s does not fit %s", SHAPE_TEXT(x),
                   ml_shape_text(ndim, shape, (char[160]){0}, 160));
  }
  q->dtype = x->dtype;
  return ml_shape_set(q, ndim, shape);
}

static ml_status shape_transpose(query *q) {
  const ml_tensor *x = q->inputs[0];
  ml_list *list = &q->attrs->transpose.axes;
  const int64_t *axes;
  if (list->given && list->count != x->ndim)
    return ml_fail(ML_USAGE, "expected %d axes, found %d", x->ndim, (int)list->count);
  ML_TRY(axes_of(q, list, true, &axes));
  int64_t shape[ML_MAX_DIMS];
  for (int i = 0; i < x->ndim; i++) shape[i] = x->shape[axes[i]];
  q->dtype = x->dtype;
  return ml_shape_set(q, x->ndim, shape);
}

static ml_status shape_broadcast_to(query *q) {
  const ml_tensor *x = q->inputs[0];
  int ndim = q->attrs->broadcast_to.shape.count;
  const int64_t *shape = ml_attrs_list(q->attrs, q->attrs->broadcast_to.shape);
  if (ndim < x->ndim || ndim > ML_MAX_DIMS)
    return ml_fail(ML_MISMATCH, "shape %s does not broadcast to %d axes", SHAPE_TEXT(x), ndim);
  for (int i = 0; i < ndim; i++) {
    int j = i - (ndim - x->ndim);
    int64_t to = shape[i];
    if (to < 0 || (j >= 0 && x->shape[j] != 1 && x->shape[j] != to)) {
      return ml_fail(ML_MISMATCH, "shape %s does not broadcast to %s", SHAPE_TEXT(x),
                     ml_shape_text(ndim, shape, (char[160]){0}, 160));
    }
  }
  q->dtype = x->dtype;
  return ml_shape_set(q, ndim, shape);
}

/* Whether `count` indices from `start` on, `step` apart, all lie in 0..size-1; an empty range may begin anywhere. */
static bool range_fits(int64_t start, int64_t count, int64_t step, int64_t size) {
  int64_t last;
  if (count < 0 || count > size || step == 0) return false;
  if (count == 0) return true;
  if (__builtin_mul_overflow(count - 1, step, &last) || __builtin_add_overflow(last, start, &last)) return false;
  return start >= 0 && start < size && last >= 0 && last < size;
}

/* ranges: (start, count, step) an axis, checked by the binding's one converter, checked again here. */
static ml_status shape_slice(query *q) {
  const ml_tensor *x = q->inputs[0];
  ml_list ranges = q->attrs->slice.ranges;
  if (ranges.count != 3 * x->ndim)
    return ml_fail(ML_USAGE, "expected %d ranges, found %d", x->ndim, (int)ranges.count / 3);
  int64_t shape[ML_MAX_DIMS];
  for (int i = 0; i < x->ndim; i++) {
    const int64_t *r = ml_attrs_list(q->attrs, ranges) + 3 * i;
    if (!range_fits(r[0], r[1], r[2], x->shape[i])) {
      return ml_fail(ML_USAGE, "range of axis %d is out of range for size %lld", i + 1, (long long)x->shape[i]);
    }
    shape[i] = r[1];
  }
  q->dtype = x->dtype;
  return ml_shape_set(q, x->ndim, shape);
}

/* ---- reductions ---- */

static ml_status reduce_axes(query *q) {
  const ml_tensor *x = q->inputs[0];
  const int64_t *axes;
  ML_TRY(want_plain(x, "x"));
  ML_TRY(axes_of(q, &q->attrs->sum.axis, false, &axes));
  unsigned reduced = 0;
  for (int i = 0; i < q->attrs->sum.axis.count; i++) reduced |= 1u << axes[i];
  int64_t shape[ML_MAX_DIMS];
  int ndim = 0;
  for (int i = 0; i < x->ndim; i++) {
    if (!(reduced & 1u << i)) shape[ndim++] = x->shape[i];
    else if (q->attrs->sum.keepdims) shape[ndim++] = 1;
  }
  q->dtype = x->dtype;
  return ml_shape_set(q, ndim, shape);
}

/* What sums and products of a dtype are kept in. */
static ml_dtype widened(ml_dtype t) {
  bool narrow = t == ML_BOOL || t == ML_I8 || t == ML_U8 || t == ML_I16 || t == ML_U16;
  return narrow ? ML_I32 : t;
}

static ml_status shape_reduce(query *q) {
  ML_TRY(reduce_axes(q));
  q->dtype = widened(q->dtype);
  return ML_OK;
}

static ml_status shape_reduce_float(query *q) {
  ML_TRY(reduce_axes(q));
  if (!is_float_class(q->dtype)) q->dtype = ML_F32;
  return ML_OK;
}

static ml_status want_elements(query *q) {
  const ml_tensor *x = q->inputs[0];
  if (ml_tensor_size(x) == 0 && ml_shape_size(q->ndim, q->shape) > 0)
    return ml_fail(ML_USAGE, "no elements to choose from in shape %s", SHAPE_TEXT(x));
  return ML_OK;
}

static ml_status shape_reduce_same(query *q) {
  ML_TRY(reduce_axes(q));
  return want_elements(q);
}

static ml_status shape_reduce_bool(query *q) {
  ML_TRY(reduce_axes(q));
  q->dtype = ML_BOOL;
  return ML_OK;
}

/* What holds the indices of so many places. */
static ml_dtype index_dtype(int64_t places) { return places > INT32_MAX ? ML_I64 : ML_I32; }

static ml_status shape_reduce_index(query *q) {
  ml_list axis = q->attrs->argmax.axis;
  if (axis.given && axis.count > 1) return ml_fail(ML_USAGE, "expected one axis, found %d", (int)axis.count);
  ML_TRY(reduce_axes(q));
  int64_t places = ml_tensor_size(q->inputs[0]);
  if (axis.count == 1) places = q->inputs[0]->shape[*ml_attrs_list(q->attrs, q->attrs->argmax.axis)];
  q->dtype = index_dtype(places);
  return want_elements(q);
}

static ml_status shape_scan(query *q) {
  ML_TRY(shape_same_number(q));
  return norm_axis(&q->attrs->cumsum.axis, q->ndim);
}

static ml_status shape_scan_wide(query *q) {
  ML_TRY(shape_scan(q));
  q->dtype = widened(q->dtype); /* the kernel reads the narrow values as they are */
  return ML_OK;
}

/* ---- making, joining, indexing, ordering ---- */

static ml_status shape_arange(query *q) {
  int64_t start = q->attrs->arange.start, step = q->attrs->arange.step, count = q->attrs->arange.count;
  q->dtype = (ml_dtype)q->attrs->arange.dtype;
  if (ml_dtype_class_of(q->dtype) >= ML_CLASS_BOOL)
    return ml_fail(ML_USAGE, "dtype %s cannot be counted in", ml_dtype_name(q->dtype));
  if (count < 0) return ml_fail(ML_USAGE, "a negative count");
  __int128 last = start + (__int128)(count - 1) * step;
  if (count > 0 && last != (int64_t)last) return ml_fail(ML_USAGE, "the last number does not fit dtype int64");
  for (int i = 0; count > 0 && i < 2; i++) ML_TRY(ml_dtype_want(q->dtype, i ? (int64_t)last : start));
  return ml_shape_set(q, 1, &count);
}

static ml_status shape_concat(query *q) {
  if (q->n_inputs == 0) return ml_fail(ML_USAGE, "no tensors to join");
  const ml_tensor *first = q->inputs[0];
  ML_TRY(ml_shape_like(q, first));
  ML_TRY(norm_axis(&q->attrs->concat.axis, q->ndim));
  int axis = (int)q->attrs->concat.axis;
  for (int n = 0; n < q->n_inputs; n++) {
    const ml_tensor *t = q->inputs[n];
    ML_TRY(want_plain(t, "tensors"));
    q->dtype = promote(q->dtype, t->dtype);
    bool fits = t->ndim == first->ndim;
    for (int i = 0; i < first->ndim && fits; i++) fits = i == axis || t->shape[i] == first->shape[i];
    if (!fits)
      return ml_fail(ML_MISMATCH, "tensor %d of shape %s does not join %s along axis %d", n + 1, SHAPE_TEXT(t),
                     SHAPE_TEXT(first), axis + 1);
    if (n > 0) q->shape[axis] += t->shape[axis];
  }
  q->input_dtype = q->dtype;
  return ML_OK;
}

static ml_status shape_take(query *q) {
  const ml_tensor *x = q->inputs[0], *index = q->inputs[1];
  ML_TRY(want_plain(x, "x"));
  ML_TRY(ml_want_integers(index, "index"));
  ML_TRY(norm_axis(&q->attrs->take.axis, x->ndim));
  int axis = (int)q->attrs->take.axis, ndim = x->ndim - 1 + index->ndim;
  if (ndim > ML_MAX_DIMS) return ml_fail(ML_USAGE, "the result would have %d axes, more than %d", ndim, ML_MAX_DIMS);
  int64_t shape[ML_MAX_DIMS];
  memcpy(shape, x->shape, (size_t)axis * sizeof *shape);
  memcpy(shape + axis, index->shape, (size_t)index->ndim * sizeof *shape);
  memcpy(shape + axis + index->ndim, x->shape + axis + 1, (size_t)(x->ndim - 1 - axis) * sizeof *shape);
  q->dtype = x->dtype;
  return ml_shape_set(q, ndim, shape);
}

static ml_status along(query *q, const ml_tensor *x, const ml_tensor *index) {
  ML_TRY(want_plain(x, "x"));
  ML_TRY(ml_want_integers(index, "index"));
  ML_TRY(ml_want_ndim(index, "index", x->ndim));
  ML_TRY(norm_axis(&q->attrs->take_along_axis.axis, x->ndim));
  for (int i = 0; i < x->ndim; i++) {
    if (i != q->attrs->take_along_axis.axis && index->shape[i] != x->shape[i]) {
      return ml_fail(ML_MISMATCH, "index of shape %s does not fit %s beside axis %d", SHAPE_TEXT(index), SHAPE_TEXT(x),
                     (int)q->attrs->take_along_axis.axis + 1);
    }
  }
  return ML_OK;
}

static ml_status shape_take_along(query *q) {
  ML_TRY(along(q, q->inputs[0], q->inputs[1]));
  q->dtype = q->inputs[0]->dtype;
  return ml_shape_set(q, q->inputs[1]->ndim, q->inputs[1]->shape);
}

static ml_status shape_put_along(query *q) {
  const ml_tensor *x = q->inputs[0], *index = q->inputs[1], *values = q->inputs[2];
  ML_TRY(along(q, x, index));
  if (!ml_same_shape(values->ndim, values->shape, index->ndim, index->shape)) {
    return ml_fail(ML_MISMATCH, "values of shape %s, index of shape %s", SHAPE_TEXT(values), SHAPE_TEXT(index));
  }
  if (values->dtype != x->dtype)
    return ml_fail(ML_MISMATCH, "values: expected dtype %s, found %s", ml_dtype_name(x->dtype),
                   ml_dtype_name(values->dtype));
  return ml_shape_like(q, x);
}

static ml_status shape_sort(query *q) {
  ML_TRY(shape_same(q));
  return norm_axis(&q->attrs->sort.axis, q->ndim);
}

static ml_status shape_argsort(query *q) {
  ML_TRY(shape_sort(q));
  q->dtype = index_dtype(q->shape[q->attrs->argsort.axis]);
  return ML_OK;
}

static ml_status shape_topk(query *q) {
  ML_TRY(shape_same(q));
  ML_TRY(norm_axis(&q->attrs->topk.axis, q->ndim));
  int64_t *size = &q->shape[q->attrs->topk.axis], k = q->attrs->topk.k;
  if (k < 0 || k > *size)
    return ml_fail(ML_USAGE, "k: expected an integer from 0 to %lld, found %lld", (long long)*size, (long long)k);
  if (q->result == 1) q->dtype = index_dtype(*size);
  *size = k;
  return ML_OK;
}

/* ---- networks ---- */

static ml_status shape_floating_last(query *q) {
  ML_TRY(shape_floating(q));
  ML_TRY(norm_axis(&q->attrs->softmax.axis, q->ndim));
  if (q->attrs->softmax.axis != q->ndim - 1)
    return ml_fail(ML_USAGE, "expected the last axis, found axis %d", (int)q->attrs->softmax.axis + 1);
  return ML_OK;
}

ml_status ml_want_vector(const ml_tensor *t, const char *name, int64_t size) {
  if (!t || (t->ndim == 1 && t->shape[0] == size)) return ML_OK;
  return ml_fail(ML_MISMATCH, "%s: expected shape (%lld), found %s", name, (long long)size, SHAPE_TEXT(t));
}

/* One whole number a sequence of the batch. */
ml_status ml_want_numbers(const ml_tensor *t, const char *name, int64_t size) {
  if (!t) return ML_OK;
  ML_TRY(ml_want_vector(t, name, size));
  return ml_want_integers(t, name);
}

static ml_status shape_norm(query *q) {
  ML_TRY(shape_floating(q));
  const double eps = q->attrs->rms_norm.eps; /* which layer_norm has in the same place */
  if (!(eps >= 0)) return ml_fail(ML_USAGE, "eps: expected 0 or more, found %g", eps);
  if (q->ndim < 1) return ml_fail(ML_USAGE, "x: expected at least one axis");
  for (int i = 1; i < q->n_inputs; i++) {
    ML_TRY(ml_want_vector(q->inputs[i], i == 1 ? "weight" : "bias", q->shape[q->ndim - 1]));
    ML_TRY(ml_want_floats(q->inputs[i], i == 1 ? "weight" : "bias"));
  }
  q->input_dtype = ML_DTYPE_COUNT;
  return ml_want_floats(q->inputs[0], "x");
}

static ml_status shape_matmul(query *q) {
  const ml_tensor *a = q->inputs[0], *b = q->inputs[1];
  ML_TRY(want_plain(a, "a"));
  ML_TRY(want_plain(b, "b"));
  if (a->ndim < 2 || b->ndim < 2)
    return ml_fail(ML_USAGE, "expected at least two axes, found %s and %s", SHAPE_TEXT(a), SHAPE_TEXT(b));
  if (a->shape[a->ndim - 1] != b->shape[b->ndim - 2]) {
    return ml_fail(ML_MISMATCH, "shapes %s and %s: inner sizes %lld and %lld differ", SHAPE_TEXT(a), SHAPE_TEXT(b),
                   (long long)a->shape[a->ndim - 1], (long long)b->shape[b->ndim - 2]);
  }
  ml_tensor la = *a, lb = *b;
  la.ndim -= 2;
  lb.ndim -= 2;
  ML_TRY(ml_shape_broadcast(q, &la, &lb));
  q->dtype = q->input_dtype = meet(a, b);
  if (!is_float_class(q->dtype)) return ml_fail(ML_USAGE, "expected floats, found %s", ml_dtype_name(q->dtype));
  q->shape[q->ndim++] = a->shape[a->ndim - 2];
  q->shape[q->ndim++] = b->shape[b->ndim - 1];
  return ML_OK;
}

/* A weight that products and look-ups can read: packed, or plain floats. */
static ml_status want_weight(const ml_tensor *w, bool wide) {
  ML_TRY(ml_want_ndim(w, "weight", 2));
  if (w->layout == ML_LAYOUT_PANELS) return ML_OK;
  if (w->layout == ML_LAYOUT_BLOCKS)
    return ml_fail(ML_UNSUPPORTED, "weight: %s blocks in the order of the file; pack it first",
                   ml_dtype_name(w->dtype));
  if (wide && w->dtype == ML_F64) return ML_OK;
  return ml_want_floats(w, "weight");
}

static ml_status shape_linear(query *q) {
  const ml_tensor *x = q->inputs[0], *w = q->inputs[1];
  ML_TRY(want_weight(w, x->dtype == ML_F64));
  if (!is_float_class(x->dtype)) return ml_fail(ML_USAGE, "x: expected floats, found %s", ml_dtype_name(x->dtype));
  if (w->layout == ML_LAYOUT_PANELS && x->dtype == ML_F64)
    return ml_fail(ML_UNSUPPORTED, "x: a packed weight takes float32, float16 or bfloat16, found %s",
                   ml_dtype_name(x->dtype));
  if (x->dtype == ML_F64 && w->dtype != ML_F64)
    return ml_fail(ML_MISMATCH, "x of float64 wants a weight of float64, found %s", ml_dtype_name(w->dtype));
  if (x->ndim < 1 || x->shape[x->ndim - 1] != w->shape[1]) {
    return ml_fail(ML_MISMATCH, "last axis %lld, weight wants %lld", x->ndim ? (long long)x->shape[x->ndim - 1] : 0LL,
                   (long long)w->shape[1]);
  }
  ML_TRY(ml_shape_like(q, x));
  q->shape[q->ndim - 1] = w->shape[0];
  return ML_OK;
}

static ml_status shape_linear_transposed(query *q) {
  const ml_tensor *y = q->inputs[0], *w = q->inputs[1];
  ML_TRY(want_weight(w, false));
  ML_TRY(ml_want_floats(y, "y"));
  if (y->ndim < 1 || y->shape[y->ndim - 1] != w->shape[0]) {
    return ml_fail(ML_MISMATCH, "last axis %lld, weight has %lld outputs",
                   y->ndim ? (long long)y->shape[y->ndim - 1] : 0LL, (long long)w->shape[0]);
  }
  ML_TRY(ml_shape_like(q, y));
  q->shape[q->ndim - 1] = w->shape[1];
  return ML_OK;
}

static ml_status shape_embedding(query *q) {
  const ml_tensor *w = q->inputs[0], *ids = q->inputs[1];
  ML_TRY(want_weight(w, false));
  ML_TRY(ml_want_integers(ids, "ids"));
  if (ids->ndim + 1 > ML_MAX_DIMS) return ml_fail(ML_USAGE, "ids: too many axes");
  ML_TRY(ml_shape_like(q, ids));
  q->shape[q->ndim++] = w->shape[1];
  q->dtype = (ml_dtype)q->attrs->embedding.dtype;
  if (ml_dtype_class_of(q->dtype) == ML_CLASS_FLOAT) return ML_OK;
  return ml_fail(ML_USAGE, "dtype: expected float32, float16 or bfloat16, found %s", ml_dtype_name(q->dtype));
}

/* Of files of their own. */
#define shape_gather_linear ml_shape_gather_linear
#define shape_rope_table ml_shape_rope_table
#define shape_rope ml_shape_rope
#define shape_attention ml_shape_attention
#define shape_cache_append ml_shape_cache_append

/* ---- state ---- */

static ml_status shape_assign(query *q) {
  const ml_tensor *to = q->inputs[0], *from = q->inputs[1];
  if (to->dtype != from->dtype || !ml_same_shape(to->ndim, to->shape, from->ndim, from->shape)) {
    return ml_fail(ML_MISMATCH, "values %s %s do not fit target %s %s", ml_dtype_name(from->dtype), SHAPE_TEXT(from),
                   ml_dtype_name(to->dtype), SHAPE_TEXT(to));
  }
  return ml_shape_like(q, to);
}

static ml_status shape_ring_push(query *q) {
  const ml_tensor *ring = q->inputs[0];
  ML_TRY(ml_want_ndim(ring, "ring", 2));
  if (ring->dtype != ML_I32) return ml_fail(ML_USAGE, "ring: expected int32, found %s", ml_dtype_name(ring->dtype));
  ML_TRY(ml_want_numbers(q->inputs[1], "ids", ring->shape[0]));
  ML_TRY(ml_want_numbers(q->inputs[2], "position", ring->shape[0]));
  return ml_shape_like(q, ring);
}

/* ---- sampling ---- */

static ml_status want_logits(const ml_tensor *t) {
  ML_TRY(ml_want_ndim(t, "logits", 2));
  if (t->dtype != ML_F32) return ml_fail(ML_USAGE, "logits: expected float32, found %s", ml_dtype_name(t->dtype));
  return ML_OK;
}

/* Numbers of a step, row by row, if they are given. */
static ml_status want_by_row(const query *q, int input, int columns) {
  const ml_tensor *t = q->inputs[input];
  const int64_t shape[2] = {q->inputs[0]->shape[0], columns};
  if (!t) return ML_OK;
  if (t->dtype != ML_F64) return ml_fail(ML_USAGE, "by_row: expected float64, found %s", ml_dtype_name(t->dtype));
  if (ml_same_shape(t->ndim, t->shape, columns > 1 ? 2 : 1, shape)) return ML_OK;
  return ml_fail(ML_MISMATCH, "by_row: expected shape %s, found %s",
                 ml_shape_text(columns > 1 ? 2 : 1, shape, (char[160]){0}, 160), SHAPE_TEXT(t));
}

static ml_status shape_penalty(query *q) {
  const ml_tensor *logits = q->inputs[0], *recent = q->inputs[1];
  ML_TRY(want_logits(logits));
  ML_TRY(ml_want_ndim(recent, "recent", 2));
  ML_TRY(ml_want_integers(recent, "recent"));
  if (recent->shape[0] != logits->shape[0])
    return ml_fail(ML_MISMATCH, "recent of shape %s, logits of shape %s", SHAPE_TEXT(recent), SHAPE_TEXT(logits));
  ML_TRY(want_by_row(q, 2, 3));
  return ml_shape_like(q, logits);
}

static ml_status shape_sample_mask(query *q) {
  ML_TRY(want_logits(q->inputs[0]));
  ML_TRY(want_by_row(q, 1, 1));
  return ml_shape_like(q, q->inputs[0]);
}

static ml_status shape_temperature(query *q) {
  double t = q->attrs->temperature.t;
  if (!(t > 0)) return ml_fail(ML_USAGE, "t: expected a number above 0, found %g", t);
  return shape_sample_mask(q);
}

static ml_status shape_random_bits(query *q) {
  const ml_tensor *key = q->inputs[0];
  const ml_list shape = q->attrs->random_bits.shape;
  const int64_t *wanted = ml_attrs_list(q->attrs, shape), words = key->ndim ? key->shape[key->ndim - 1] : 0;
  if (key->dtype != ML_U32 || key->ndim < 1 || key->ndim > 2 || words < 2 || words > 3)
    return ml_fail(ML_USAGE, "key: expected 2 or 3 uint32 words, or rows of them, found %s %s",
                   ml_dtype_name(key->dtype), SHAPE_TEXT(key));
  if (key->ndim == 2 && (shape.count < 1 || wanted[0] != key->shape[0]))
    return ml_fail(ML_MISMATCH, "key of shape %s: expected one for each entry of the first axis of %s", SHAPE_TEXT(key),
                   ml_shape_text(shape.count, wanted, (char[160]){0}, 160));
  q->dtype = ML_U32;
  return ml_shape_set(q, shape.count, wanted);
}

static ml_status shape_categorical(query *q) {
  ML_TRY(want_logits(q->inputs[0]));
  ML_TRY(ml_want_vector(q->inputs[1], "uniform", q->inputs[0]->shape[0]));
  ML_TRY(ml_want_floats(q->inputs[1], "uniform"));
  q->dtype = ML_I32;
  return ml_shape_set(q, 1, q->inputs[0]->shape);
}

enum {
#define ML_PARAMETERS
#define TENSOR(name)
#define OPTIONAL(name)
#define LIST(name)
#define WEIGHT(name)
#define RESULT(name) +1
#define REAL(...)
#define INT(...)
#define BOOL(...)
#define DTYPE(...)
#define AXIS(...)
#define AXES(...)
#define SIZES(...)
#define RANGES(...)
#define OP(id, parameters, shape, kind, access, gradient, doc) RESULTS_##id = 0 parameters,
#include "tensor/ops.def"
};

const ml_op_info ml_op_infos[ML_OP_COUNT] = {
#define vjp_none false
#define ML_PARAMETERS
#define TENSOR(name) #name ":T "
#define OPTIONAL(name) #name ":T? "
#define LIST(name) #name ":T* "
#define WEIGHT(name) #name ":W "
#define RESULT(name) #name ":R "
#define REAL(name, ...) #name ":f" #__VA_ARGS__ " "
#define INT(name, ...) #name ":i" #__VA_ARGS__ " "
#define BOOL(name, ...) #name ":b" #__VA_ARGS__ " "
#define DTYPE(name, ...) #name ":D" #__VA_ARGS__ " "
#define AXIS(name, ...) #name ":A" #__VA_ARGS__ " "
#define AXES(name, ...) #name ":X" #__VA_ARGS__ " "
#define SIZES(name) #name ":S "
#define RANGES(name) #name ":L "
#define OP(id, parameters, shape, kind, access, gradient, doc)                                                         \
  {#id, "" parameters, doc, shape_##shape, ML_KIND_##kind, ML_ACCESS_##access, vjp_##gradient, RESULTS_##id},
#include "tensor/ops.def"
};
