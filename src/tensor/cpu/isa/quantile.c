/* quantile.c: quantiles of the normal distribution between two bounds, in float64.
 *
 * Everything is said in the logarithm of the upper tail, log Q(x) = log P(X > x): far out it neither underflows nor
 * cancels. What lies below 0 is sought as its mirror image above. */
#include "tensor/cpu/isa/simd.h"

static const double LOG_HALF = -0.69314718055994530942;

/* x times Mills' ratio, for x from FAR_OUT on: its asymptotic series (Abramowitz and Stegun 26.2.12), whose terms are
 * there below 1e-16 after the fifth. */
static const double FAR_OUT = 30;
static double mills_series(double x) {
  double s = 1 / (x * x);
  return 1 - s * (1 - 3 * s * (1 - 5 * s * (1 - 7 * s * (1 - 9 * s))));
}

/* log Q(x). */
static double log_tail(double x) {
  if (x < FAR_OUT) return log(0.5 * erfc(x * 0.70710678118654752440));
  if (isinf(x)) return -INFINITY;
  return -0.5 * x * x - log(x * 2.50662827463100050242) + log(mills_series(x));
}

/* log Q(x) for x >= 0, and its hazard -d/dx log Q(x). */
static double log_tail_and_hazard(double x, double *hazard) {
  double log_q = log_tail(x);
  *hazard = x < FAR_OUT ? exp(-0.5 * x * x - log_q) * 0.39894228040143267794 : x / mills_series(x);
  return log_q;
}

/* At or above the x >= 0 with log Q(x) = t, by Q(x) <= exp(-x^2 / 2) / 2; nearer where Abramowitz and Stegun 26.2.23 is
 * good to 4.5e-4. */
static double above_tail_quantile(double t) {
  double y = sqrt(-2 * t);
  if (y > 8) return sqrt(-2 * (t - LOG_HALF));
  double x = y - (2.515517 + y * (0.802853 + y * 0.010328)) / (1 + y * (1.432788 + y * (0.189269 + y * 0.001308)));
  return fmax(0, x + 4.6e-4);
}

/* x >= 0 with log Q(x) = t, t <= log 1/2. log Q is concave, so that Newton's steps come down to x without passing it.
 */
static double tail_quantile(double t) {
  if (isinf(t)) return INFINITY;
  double x = above_tail_quantile(t);
  for (int i = 0; i < 40; i++) {
    double hazard, excess = log_tail_and_hazard(x, &hazard) - t, next = x + excess / hazard;
    if (!(next < x) || next < 0) break; /* as near as float64 comes */
    x = next;
  }
  return x;
}

/* An interval [low, high] by the logarithms of what lies above and below it; where it lies below 0 as a whole it is
 * mirrored, so that low is not below 0 unless high is above. */
typedef struct interval {
  double low, high, width;
  double above, rest; /* log Q(low); Q(high) / Q(low) */
  double below, mass; /* P(low); P(high) - P(low) */
  bool mirrored, narrow;
} interval;

static interval make_interval(double low, double high) {
  interval s = {.low = low, .high = high, .mirrored = high <= 0};
  if (s.mirrored) s.low = -high, s.high = -low;
  s.width = s.high - s.low;
  s.narrow = (fabs(s.low) + s.width) * s.width < 1e-10;
  s.above = log_tail(s.low), s.rest = exp(log_tail(s.high) - s.above);
  s.below = exp(log_tail(-s.low)), s.mass = 1 - s.below - exp(log_tail(s.high));
  return s;
}

/* Where u of the interval's probability lies below. Over a narrow one the density falls evenly. Otherwise what is
 * sought is known best by the smaller of what lies below it and above it. */
static double quantile(double u, const interval *s) {
  if (!(u >= 0 && u <= 1)) return NAN;
  if (u == 0 || u == 1) { /* the bounds themselves */
    bool low = (u == 0) != s->mirrored;
    return (s->mirrored ? -1 : 1) * (low ? s->low : s->high);
  }
  double share = s->mirrored ? 1 - u : u, above = s->mirrored ? u : 1 - u, x;
  if (s->narrow) {
    x = s->low + share * s->width * (1 - 0.5 * s->low * s->width * above);
  } else {
    double under = s->low < 0 ? s->below + share * s->mass : 1;
    double log_over = s->above + log(s->rest + above * (1 - s->rest));
    x = under < 0.5 ? -tail_quantile(log(under)) : tail_quantile(fmin(log_over, LOG_HALF));
  }
  x = fmin(fmax(x, s->low), s->high);
  return s->mirrored ? -x : x;
}

ml_status K(normal_quantile_prepare)(ml_task *t) {
  t->units = ml_shape_size(t->out[0].ndim, t->out[0].shape);
  t->grain = 64;
  t->cost = (double)t->units * 250;
  return ML_OK;
}

void K(normal_quantile)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)w;
  const ml_arg *u = &t->in[0], *o = &t->out[0];
  const interval s = make_interval(t->step->attrs->normal_quantile.low, t->step->attrs->normal_quantile.high);
  for (int64_t i = begin; i < end; i++) {
    if (o->dtype == ML_F64) ((double *)o->data)[i] = quantile(((const double *)u->data)[i], &s);
    else store_float(o->data, o->dtype, i, (float)quantile(load_float(u->data, u->dtype, i), &s));
  }
}
