/* norm.c: normalisations and softmax along the last axis, one row a unit. Sums are float32 in sixteen lanes (float64
 * for float64), so that a row's result depends on its length alone. */
#include "tensor/cpu/isa/elementwise.h"
#include "tensor/cpu/isa/norm.h"

#include "tensor/cpu/isa/fold.h"

/* Offset of row r of an operand whose last axis is the row. */
static int64_t row_offset(const ml_arg *x, int64_t r) {
  return x->ndim == 2 ? r * x->strides[0] : ml_index_offset(x->ndim - 1, x->shape, x->strides, r);
}

ml_status K(row_prepare)(ml_task *t) {
  const ml_arg *x = &t->in[0];
  int64_t last = x->ndim ? x->shape[x->ndim - 1] : 1, size = ml_shape_size(x->ndim, x->shape);
  t->units = last ? size / last : 0;
  t->grain = ml_max64(1, 4096 / ml_max64(1, last));
  t->scratch = (size_t)(4 * last + LANES) * 4;
  t->cost = (double)size * (t->step->op == ML_OP_softmax || t->step->op == ML_OP_log_softmax ? 1.0 : 0.3);
  return ML_OK;
}

/* A row as float32: the row itself, or converted into `room`. */
static const float *float_row(const ml_arg *x, int64_t offset, int64_t n, float *room) {
  if (x->dtype == ML_F32) return (const float *)x->data + offset;
  K(load_tile)(room, x->data + offset * ml_dtype_infos[x->dtype].bytes, x->dtype, 1, (int)n);
  return room;
}

static void store_row(const ml_arg *o, int64_t offset, const float *row, int64_t n) {
  K(store_tile)(o->data + offset * ml_dtype_infos[o->dtype].bytes, o->dtype, 1, row, (int)n);
}

/* Lanes are added up in parts of a row, and those of a long one in float64, so that what it loses does not grow. */
enum { PART = 32 * LANES };

ALWAYS_INLINE v16f add_term(v16f s, v16f x, bool squares) { return squares ? v_fma(x, x, s) : v_add(s, x); }

ALWAYS_INLINE v16f sum_part(const float *x, int64_t n, bool squares) {
  v16f s = v_set1(0);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) s = add_term(s, v_load(x + i), squares);
  return i < n ? add_term(s, v_load_part(x + i, (int)(n - i), 0), squares) : s;
}

ALWAYS_INLINE float sum_parts(const float *x, int64_t n, bool squares) {
  if (n <= PART) return v_sum(sum_part(x, n, squares));
  v16d all = w_set1(0);
  for (int64_t i = 0; i < n; i += PART) all = w_add(all, w_widen(sum_part(x + i, ml_min64(n - i, PART), squares)));
  return (float)join_doubles(all, SUM);
}

static float sum_squares(const float *x, int64_t n) {
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
  if (n > 0 && n <= FEW) {
    __m256 few = few_load(x, (int)n, 0);
    return _mm256_cvtss_f32(few_sum(_mm256_mul_ps(few, few)));
  }
#endif
  return sum_parts(x, n, true);
}

static float sum_row(const float *x, int64_t n) { return sum_parts(x, n, false); }

/* Whether float32 holds a sum of squares well: it neither overflowed nor lost small ones that eps does not hide. */
ALWAYS_INLINE bool holds(float sum, float eps) { return sum < 1e38f && (sum > 1e-30f || eps > 1e-20f); }

/* (x - mean) / sqrt(variance + eps) in float64, for rows whose squares float32 does not hold. */
static __attribute__((noinline)) void normalise_wide(const float *x, bool centred, float eps, int64_t n, float *o) {
  double mean = 0, sum = 0;
  for (int64_t i = 0; i < n && centred; i++) mean += x[i];
  mean /= (double)n;
  for (int64_t i = 0; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
  double scale = 1 / sqrt(sum / (double)n + eps);
  for (int64_t i = 0; i < n; i++) o[i] = (float)((x[i] - mean) * scale);
}

void K(rms_norm_row)(const float *x, const float *weight, float offset, float eps, int64_t n, float *o) {
  float sum = sum_squares(x, n), r = 1.0f / sqrtf(sum / (float)n + eps);
  if (!holds(sum, eps)) {
    normalise_wide(x, false, eps, n, o);
    for (int64_t i = 0; i < n && weight; i++) o[i] *= offset + weight[i];
    return;
  }
  if (!weight) {
    for (int64_t i = 0; i < n; i++) o[i] = x[i] * r;
  } else if (offset == 0) {
    for (int64_t i = 0; i < n; i++) o[i] = x[i] * r * weight[i];
  } else {
    for (int64_t i = 0; i < n; i++) o[i] = x[i] * r * (offset + weight[i]);
  }
}

static const float *vector(const ml_arg *w, int64_t n, float *room) {
  return w->data ? float_row(w, 0, n, room) : NULL;
}

void K(rms_norm)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const ml_arg *x = &t->in[0], *o = &t->out[0];
  int64_t n = x->shape[x->ndim - 1];
  float *room = (float *)w->scratch, eps = (float)t->step->attrs->rms_norm.eps,
        offset = (float)t->step->attrs->rms_norm.offset;
  const float *weight = vector(&t->in[1], n, room + 2 * n);
  for (int64_t r = begin; r < end; r++) {
    const float *row = float_row(x, row_offset(x, r), n, room);
    int64_t to = row_offset(o, r);
    bool direct = o->dtype == ML_F32;
    float *result = direct ? (float *)o->data + to : room + n;
    K(rms_norm_row)(row, weight, offset, eps, n, result);
    if (!direct) store_row(o, to, result, n);
  }
}

void K(layer_norm_row)(const float *x, const float *weight, const float *bias, float eps, int64_t n, float *o) {
  float mean = sum_row(x, n) / (float)n;
  for (int64_t i = 0; i < n; i++) o[i] = x[i] - mean;
  float rest = sum_row(o, n) / (float)n; /* what rounding took from a mean that is large beside the distances */
  for (int64_t i = 0; i < n; i++) o[i] -= rest;
  float sum = sum_squares(o, n), scale = 1.0f / sqrtf(sum / (float)n + eps);
  if (holds(sum, eps)) {
    for (int64_t i = 0; i < n; i++) o[i] *= scale;
  } else {
    normalise_wide(x, true, eps, n, o);
  }
  for (int64_t i = 0; i < n; i++) o[i] = o[i] * (weight ? weight[i] : 1.0f) + (bias ? bias[i] : 0.0f);
}

void K(layer_norm)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const ml_arg *x = &t->in[0], *o = &t->out[0];
  int64_t n = x->shape[x->ndim - 1];
  float *room = (float *)w->scratch, *result = room + n, eps = (float)t->step->attrs->layer_norm.eps;
  const float *weight = vector(&t->in[1], n, room + 2 * n), *bias = vector(&t->in[2], n, room + 3 * n);
  for (int64_t r = begin; r < end; r++) {
    K(layer_norm_row)(float_row(x, row_offset(x, r), n, room), weight, bias, eps, n, result);
    store_row(o, row_offset(o, r), result, n);
  }
}

/* The sum of exp(x - max), which go to o unless that is NULL. */
ALWAYS_INLINE v16f exponents_part(const float *x, float max, int64_t n, float *o) {
  v16f sum = v_set1(0);
  const v16f less = v_set1(-max);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    v16f e = v_exp(v_add(v_load(x + i), less));
    if (o) v_store(o + i, e);
    sum = v_add(sum, e);
  }
  if (i < n) {
    const int rest = (int)(n - i);
    v16f e = v_keep(v_exp(v_add(v_load_part(x + i, rest, 0), less)), rest);
    if (o) v_store_part(o + i, e, rest);
    sum = v_add(sum, e);
  }
  return sum;
}

ALWAYS_INLINE float exponents(const float *x, float max, int64_t n, float *o) {
  if (n <= PART) return v_sum(exponents_part(x, max, n, o));
  v16d all = w_set1(0);
  for (int64_t i = 0; i < n; i += PART)
    all = w_add(all, w_widen(exponents_part(x + i, max, ml_min64(n - i, PART), o ? o + i : NULL)));
  return (float)join_doubles(all, SUM);
}

float K(exp_row)(const float *x, float max, int64_t n, float *o) { return exponents(x, max, n, o); }

float K(max_row)(const float *x, int64_t n) {
  v16f m = v_set1(-INFINITY);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) m = v_max(v_load(x + i), m);
  if (i < n) m = v_max(v_load_part(x + i, (int)(n - i), -INFINITY), m);
  return v_max_lane(m);
}

/* Softmax of a row that one vector holds. What lies behind a row of few is -infinity, and NaN where all is. */
static void softmax_short(const float *x, int n, float *o) {
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
  if (n <= FEW) {
    __m256 few = few_load(x, n, -INFINITY);
    few = few_exp(_mm256_sub_ps(few, few_max(few)));
    few_store(o, _mm256_div_ps(few, few_sum(few)), n);
    return;
  }
#endif
  v16f v = v_load_part(x, n, -INFINITY);
  v16f e = v_keep(v_exp(v_add(v, v_set1(-v_max_lane(v)))), n);
  v_store_part(o, v_mul(e, v_set1(1.0f / v_sum(e))), n);
}

void K(softmax_row)(const float *x, bool log, int64_t n, float *o) {
  if (!log && n > 0 && n < LANES) {
    softmax_short(x, (int)n, o);
    return;
  }
  float max = K(max_row)(x, n);
  if (!log) {
    float scale = 1.0f / exponents(x, max, n, o);
    for (int64_t i = 0; i < n; i++) o[i] *= scale;
  } else {
    float log_sum = logf(exponents(x, max, n, NULL)); /* max apart from it: their sum would lose what max's size says */
    for (int64_t i = 0; i < n; i++) o[i] = (x[i] - max) - log_sum;
  }
}

static void softmax_double(const ml_task *t, int64_t r) {
  const ml_arg *x = &t->in[0], *o = &t->out[0];
  const double *row = (const double *)x->data + row_offset(x, r);
  double *to = (double *)o->data + row_offset(o, r), m = -INFINITY, s = 0;
  int64_t n = x->shape[x->ndim - 1];
  for (int64_t i = 0; i < n; i++) m = row[i] > m ? row[i] : m;
  for (int64_t i = 0; i < n; i++) s += exp(row[i] - m);
  for (int64_t i = 0; i < n; i++) to[i] = t->step->op == ML_OP_softmax ? exp(row[i] - m) / s : row[i] - m - log(s);
}

void K(softmax)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const ml_arg *x = &t->in[0], *o = &t->out[0];
  int64_t n = x->ndim ? x->shape[x->ndim - 1] : 1;
  float *room = (float *)w->scratch;
  for (int64_t r = begin; r < end; r++) {
    if (x->dtype == ML_F64) {
      softmax_double(t, r);
      continue;
    }
    const float *row = float_row(x, row_offset(x, r), n, room);
    int64_t to = row_offset(o, r);
    bool direct = o->dtype == ML_F32;
    float *result = direct ? (float *)o->data + to : room + n;
    K(softmax_row)(row, t->step->op == ML_OP_log_softmax, n, result);
    if (!direct) store_row(o, to, result, n);
  }
}
