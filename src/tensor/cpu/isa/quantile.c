/* quantile.c: quantiles of the normal distribution between two bounds, in float64.
 *
 * Everything is said in the logarithm of the upper tail, log Q(x) = log P(X > x): far out it neither underflows nor
 * cancels. Where more lies above the middle of the interval than below, the interval is mirrored, so that it is never
 * wholly in the lower tail. */
#include "tensor/cpu/isa/simd.h"

/* log Q(x). Beyond 30 by the asymptotic series of Mills' ratio (Abramowitz and Stegun 26.2.12), whose terms are then
 * below 1e-16 after the fifth. */
static double log_tail(double x) {
  if (x < 30) return log(0.5 * erfc(x * 0.70710678118654752440));
  if (isinf(x)) return -INFINITY;
  double s = 1 / (x * x), series = 1 - s * (1 - 3 * s * (1 - 5 * s * (1 - 7 * s * (1 - 9 * s))));
  return -0.5 * x * x - log(x * 2.50662827463100050242) + log(series);
}

/* -d/dx log Q(x), for x >= 0. */
static double hazard(double x) {
  if (x < 30) return exp(-0.5 * x * x - log_tail(x)) * 0.39894228040143267794;
  double s = 1 / (x * x);
  return x / (1 - s * (1 - 3 * s * (1 - 5 * s * (1 - 7 * s * (1 - 9 * s)))));
}

/* x >= 0 with log Q(x) = t, t <= log 1/2. Q(x) <= exp(-x^2 / 2) / 2 gives a start at or above x; log Q is concave, so
 * that Newton's steps come down to x without passing it. */
static double tail_quantile(double t) {
  if (isinf(t)) return INFINITY;
  double x = sqrt(fmax(0, -2 * (t + 0.69314718055994530942)));
  for (int i = 0; i < 40; i++) {
    double step = (log_tail(x) - t) / hazard(x), next = x + step;
    if (!(next < x) || next < 0) break; /* as near as float64 comes */
    x = next;
  }
  return x;
}

static double quantile(double u, double low, double high) {
  bool mirrored = low + high < 0;
  double a = mirrored ? -high : low, b = mirrored ? -low : high;
  double share = mirrored ? u : 1 - u; /* of the probability, the part that lies above what is sought */
  double top = log_tail(a), rest = exp(log_tail(b) - top);
  double t = top + log(rest + share * (1 - rest)); /* log Q of it */
  double x = t <= -0.69314718055994530942 ? tail_quantile(t) : -tail_quantile(log(-expm1(t)));
  x = fmin(fmax(x, a), b);
  return mirrored ? -x : x;
}

ml_status K(normal_quantile_prepare)(ml_task *t) {
  t->units = ml_shape_size(t->out[0].ndim, t->out[0].shape);
  t->grain = 64;
  t->cost = (double)t->units * 500;
  return ML_OK;
}

void K(normal_quantile)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)w;
  const ml_arg *u = &t->in[0], *o = &t->out[0];
  double low = t->step->attrs.v[0].f, high = t->step->attrs.v[1].f;
  for (int64_t i = begin; i < end; i++) {
    if (o->dtype == ML_F64) ((double *)o->data)[i] = quantile(((const double *)u->data)[i], low, high);
    else store_float(o->data, o->dtype, i, (float)quantile(load_float(u->data, u->dtype, i), low, high));
  }
}
