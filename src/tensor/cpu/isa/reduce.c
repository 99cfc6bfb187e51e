/* reduce.c: reductions over axes and running reductions along one. Arithmetic is float32 for float types (float64 for
 * float64), int64 for integers (uint64 for uint64); long float sums are taken in blocks, so that their error grows
 * slowly. Means of integers and all sums of squares are wider than any dtype: 128 bits, and float64. */
#include "tensor/cpu/isa/simd.h"

/* Elements to add before a partial sum is put aside. */
enum { SUM_BLOCK = 128 };

/* Axes split into kept ones and reduced ones; neighbours of either that lie evenly in memory are one. */
typedef struct reduce_plan {
  int n_kept, n_reduced;
  int64_t kept_shape[ML_MAX_DIMS], kept_strides[ML_MAX_DIMS], shape[ML_MAX_DIMS], strides[ML_MAX_DIMS];
  int64_t count; /* elements reduced into one */
} reduce_plan;

/* Adds an axis behind n others, or makes the last one longer by it. */
static int add_axis(int n, int64_t *shape, int64_t *strides, int64_t length, int64_t stride) {
  bool joins = n > 0 && strides[n - 1] == length * stride;
  int at = joins ? n - 1 : n;
  shape[at] = joins ? shape[at] * length : length;
  strides[at] = stride;
  return at + 1;
}

ml_status K(reduce_prepare)(ml_task *t) {
  reduce_plan *r = ml_calloc(1, sizeof *r);
  if (!r) return ML_MEMORY;
  t->extra = r;
  const ml_arg *x = &t->in[0];
  unsigned reduced = 0;
  for (int i = 0; i < t->step->attrs.sum.axis.count; i++)
    reduced |= 1u << ml_attrs_list(&t->step->attrs, t->step->attrs.sum.axis)[i];
  r->count = 1;
  for (int d = 0; d < x->ndim; d++) {
    if (reduced & 1u << d) {
      r->n_reduced = add_axis(r->n_reduced, r->shape, r->strides, x->shape[d], x->strides[d]);
      r->count *= x->shape[d];
    } else {
      r->n_kept = add_axis(r->n_kept, r->kept_shape, r->kept_strides, x->shape[d], x->strides[d]);
    }
  }
  t->units = ml_shape_size(t->out[0].ndim, t->out[0].shape);
  t->grain = ml_max64(1, 16384 / ml_max64(1, r->count));
  t->cost = (double)t->units * (double)r->count;
  return ML_OK;
}

static int64_t offset_of(int64_t index, int n, const int64_t *shape, const int64_t *strides) {
  int64_t offset = 0;
  for (int d = n - 1; d > 0; d--) {
    offset += index % shape[d] * strides[d];
    index /= shape[d];
  }
  return n > 0 ? offset + index * strides[0] : 0;
}

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

/* Sum over the reduced index space: blocks of SUM_BLOCK in float32 (float64 for float64), their sums in float64. */
static double sum_floats(const ml_arg *x, const reduce_plan *r, int64_t base) {
  double total = 0;
  bool wide = x->dtype == ML_F64;
  for (int64_t b = 0; b < r->count; b += SUM_BLOCK) {
    int64_t end = ml_min64(b + SUM_BLOCK, r->count);
    double part = 0;
    float part_f = 0;
    for (int64_t i = b; i < end; i++) {
      int64_t at = base + offset_of(i, r->n_reduced, r->shape, r->strides);
      if (wide) part += ((const double *)x->data)[at];
      else part_f += load_float(x->data, x->dtype, at);
    }
    total += wide ? part : (double)part_f;
  }
  return total;
}

/* n elements of those that are reduced into one, from number `first` on, as float64. */
static void load_block(const ml_arg *x, const reduce_plan *r, int64_t base, int64_t first, int n, double *to) {
  if (r->n_reduced > 1 || !ml_dtype_is_float(x->dtype)) {
    for (int i = 0; i < n; i++) to[i] = get_double(x, base + offset_of(first + i, r->n_reduced, r->shape, r->strides));
    return;
  }
  int64_t step = r->n_reduced ? r->strides[0] : 0, at = base + first * step;
  if (x->dtype == ML_F32) {
    for (int i = 0; i < n; i++) to[i] = ((const float *)x->data)[at + i * step];
  } else {
    for (int i = 0; i < n; i++) to[i] = get_double(x, at + i * step);
  }
}

/* Sum in float64 of d, or of its square, for d = each element - centre: eight sums at a time. */
ALWAYS_INLINE double sum_wide(const ml_arg *x, const reduce_plan *r, int64_t base, double centre, bool squares) {
  enum { SUMS = 8 };
  double sums[SUMS] = {0}, block[SUM_BLOCK], total = 0;
  for (int64_t b = 0; b < r->count; b += SUM_BLOCK) {
    int n = (int)ml_min64(SUM_BLOCK, r->count - b);
    load_block(x, r, base, b, n, block);
    for (int i = 0; i < n; i += SUMS) {
      int lanes = n - i < SUMS ? n - i : SUMS;
      for (int k = 0; k < lanes; k++) {
        double d = block[i + k] - centre;
        sums[k] += squares ? d * d : d;
      }
    }
  }
  for (int k = 0; k < SUMS; k++) total += sums[k];
  return total;
}

/* The mean of integers, and of what var and std measure distances from. Float sums are in float64 here, so that two
 * passes over float32 differ by rounding alone. */
static double mean_of(const ml_arg *x, const reduce_plan *r, int64_t base) {
  if (ml_dtype_is_float(x->dtype)) return sum_wide(x, r, base, 0, false) / (double)r->count;
  __int128 sum = 0;
  for (int64_t i = 0; i < r->count; i++) {
    int64_t k = load_index(x->data, x->dtype, base + offset_of(i, r->n_reduced, r->shape, r->strides));
    sum += x->dtype == ML_U64 ? (__int128)(uint64_t)k : k;
  }
  return (double)sum / (double)r->count;
}

/* Sum of squared distances from `centre`. */
static double sum_squares(const ml_arg *x, const reduce_plan *r, int64_t base, double centre) {
  return sum_wide(x, r, base, centre, true);
}

/* norm, var and std. The divisor n - ddof is 0 at the least, as NumPy has it: infinite, or NaN where all are equal. */
static double spread(const ml_task *t, int64_t base) {
  const reduce_plan *r = t->extra;
  const ml_arg *x = &t->in[0];
  if (t->step->op == ML_OP_norm) return sqrt(sum_squares(x, r, base, 0));
  double n = (double)r->count - t->step->attrs.var.ddof;
  double variance = sum_squares(x, r, base, mean_of(x, r, base)) / (n > 0 || n != n ? n : 0);
  return t->step->op == ML_OP_std ? sqrt(variance) : variance;
}

static double log_sum_exp(const ml_arg *x, const reduce_plan *r, int64_t base) {
  double m = -INFINITY, s = 0;
  for (int64_t i = 0; i < r->count; i++) {
    double v = get_double(x, base + offset_of(i, r->n_reduced, r->shape, r->strides));
    if (v > m || v != v) m = v;
  }
  if (m == -INFINITY || m == INFINITY || m != m) return m;
  for (int64_t i = 0; i < r->count; i++)
    s += exp(get_double(x, base + offset_of(i, r->n_reduced, r->shape, r->strides)) - m);
  return m + log(s);
}

static void reduce_one(const ml_task *t, int64_t unit) {
  const reduce_plan *r = t->extra;
  const ml_arg *x = &t->in[0], *o = &t->out[0];
  int op = t->step->op;
  int64_t base = offset_of(unit, r->n_kept, r->kept_shape, r->kept_strides);
  bool floats = ml_dtype_is_float(x->dtype);
  switch (op) {
  case ML_OP_logsumexp: put(o, unit, log_sum_exp(x, r, base), 0); return;
  case ML_OP_norm:
  case ML_OP_var:
  case ML_OP_std: put(o, unit, spread(t, base), 0); return;
  default: break;
  }
  if (op == ML_OP_mean && !floats) {
    put(o, unit, mean_of(x, r, base), 0);
    return;
  }
  if (floats && (op == ML_OP_sum || op == ML_OP_mean)) {
    double s = sum_floats(x, r, base);
    put(o, unit, op == ML_OP_mean ? (x->dtype == ML_F64 ? s / (double)r->count : (float)s / (float)r->count) : s, 0);
    return;
  }
  double d = op == ML_OP_prod                        ? 1
             : op == ML_OP_max || op == ML_OP_argmax ? -INFINITY
             : op == ML_OP_min || op == ML_OP_argmin ? INFINITY
                                                     : 0;
  float f = op == ML_OP_prod ? 1 : 0;
  bool ordered = op == ML_OP_max || op == ML_OP_min || op == ML_OP_argmax || op == ML_OP_argmin;
  int64_t n = op == ML_OP_prod || op == ML_OP_all ? 1 : 0, best = 0;
  for (int64_t i = 0; i < r->count; i++) {
    int64_t at = base + offset_of(i, r->n_reduced, r->shape, r->strides);
    double v = floats ? get_double(x, at) : 0;
    int64_t k = floats ? 0 : ordered ? load_ordered(x, at) : load_index(x->data, x->dtype, at);
    bool more = floats ? v > d || (v != v && d == d) : k > n, less = floats ? v < d || (v != v && d == d) : k < n;
    bool first = i == 0 && (v == v || !floats);
    switch (op) {
    case ML_OP_sum: n = (int64_t)((uint64_t)n + (uint64_t)k); break;
    case ML_OP_prod: n = (int64_t)((uint64_t)n * (uint64_t)k), f *= (float)v, d *= v; break;
    case ML_OP_max:
    case ML_OP_argmax:
      if (more || first) d = v, n = k, best = i;
      break;
    case ML_OP_min:
    case ML_OP_argmin:
      if (less || first) d = v, n = k, best = i;
      break;
    case ML_OP_all: n = n && (floats ? v != 0 : k != 0); break;
    case ML_OP_any: n = n || (floats ? v != 0 : k != 0); break;
    default: break;
    }
  }
  if (ordered && x->dtype == ML_U64) n ^= INT64_MIN;
  if (op == ML_OP_prod && floats && x->dtype != ML_F64) d = f;
  if (op == ML_OP_argmax || op == ML_OP_argmin) n = best;
  put(o, unit, d, n);
}

/* The common case, a float32 row: sixteen running maxima, then the first index that holds the largest. The lanes lose a
 * NaN; the search then goes through all of the row. */
static int64_t argmax_row(const float *x, int64_t n) {
  v16f m = v_set1(-INFINITY);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) m = v_max(m, v_load(x + i));
  float lanes[LANES], best = -INFINITY;
  v_store(lanes, m);
  for (int k = 0; k < LANES; k++) best = lanes[k] > best ? lanes[k] : best;
  for (; i < n; i++) best = x[i] > best ? x[i] : best;
  int64_t first = n;
  unsigned nan = 0;
  for (i = 0; i < n; i++) nan |= x[i] != x[i];
  for (i = 0; i < n && first == n; i++) {
    if (nan ? x[i] != x[i] : x[i] == best) first = i;
  }
  return first;
}

void K(reduce)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)w;
  const reduce_plan *r = t->extra;
  const ml_arg *x = &t->in[0];
  bool row = t->step->op == ML_OP_argmax && x->dtype == ML_F32 && r->n_reduced == 1 && r->strides[0] == 1;
  for (int64_t unit = begin; unit < end; unit++) {
    if (!row) {
      reduce_one(t, unit);
      continue;
    }
    const float *data = (const float *)x->data + offset_of(unit, r->n_kept, r->kept_shape, r->kept_strides);
    ((int32_t *)t->out[0].data)[unit] = (int32_t)argmax_row(data, r->count);
  }
}

/* ---- running reductions ---- */

ml_status K(scan_prepare)(ml_task *t) {
  int axis = (int)t->step->attrs.cumsum.axis;
  int64_t length = t->out[0].shape[axis], size = ml_shape_size(t->out[0].ndim, t->out[0].shape);
  t->units = length ? size / length : 0;
  t->grain = ml_max64(1, 8192 / ml_max64(1, length));
  t->cost = (double)size * 2;
  return ML_OK;
}

void K(scan)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)w;
  const ml_arg *x = &t->in[0], *o = &t->out[0];
  int axis = (int)t->step->attrs.cumsum.axis, op = t->step->op;
  int64_t shape[ML_MAX_DIMS];
  memcpy(shape, x->shape, sizeof shape);
  shape[axis] = 1;
  bool floats = ml_dtype_is_float(o->dtype), narrow = floats && o->dtype != ML_F64;
  bool ordered = op == ML_OP_cummax || op == ML_OP_cummin;
  for (int64_t unit = begin; unit < end; unit++) {
    int64_t from = offset_of(unit, x->ndim, shape, x->strides), to = offset_of(unit, o->ndim, shape, o->strides);
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
