// random.cu: random bits, and quantiles of the normal distribution.
//
// Bytes: the result once. Flops: ten rounds of Philox for four words; some hundred of float64 for a quantile.
#include "gpu/common.cuh"

// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011).
KERNEL(cuda_random_bits, cu_random_args) {
  const int64_t fours = (t.size + 3) / 4;
  for (int64_t i = thread_index(); i < t.keys * fours; i += thread_count()) {
    int64_t of = i;
    const int64_t u = pop(&of, fours);
    const uint32_t *key = t.key + of * t.words;
    uint32_t key0 = key[0], key1 = key[1];
    uint32_t c[4] = {(uint32_t)u, (uint32_t)((uint64_t)u >> 32), t.words > 2 ? key[2] : 0, 0};
    for (int round = 0; round < 10; round++) {
      const uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
      const uint32_t n0 = (uint32_t)(b >> 32) ^ c[1] ^ key0, n2 = (uint32_t)(a >> 32) ^ c[3] ^ key1;
      c[0] = n0, c[1] = (uint32_t)b, c[2] = n2, c[3] = (uint32_t)a;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    for (int k = 0; k < 4 && 4 * u + k < t.size; k++) t.out[of * t.size + 4 * u + k] = c[k];
  }
}

// ---- quantiles, as tensor/cpu/isa/quantile.c finds them: by the logarithm of the upper tail, log Q(x) ----

#define LOG_HALF (-0.69314718055994530942)
#define FAR_OUT 30.0

// x times Mills' ratio from FAR_OUT on (Abramowitz and Stegun 26.2.12).
DEVICE double mills_series(double x) {
  const double s = 1 / (x * x);
  return 1 - s * (1 - 3 * s * (1 - 5 * s * (1 - 7 * s * (1 - 9 * s))));
}

DEVICE double log_tail(double x) {
  if (x < FAR_OUT) return log(0.5 * erfc(x * 0.70710678118654752440));
  if (isinf(x)) return -INFINITY;
  return -0.5 * x * x - log(x * 2.50662827463100050242) + log(mills_series(x));
}

DEVICE double log_tail_and_hazard(double x, double *hazard) {
  const double log_q = log_tail(x);
  *hazard = x < FAR_OUT ? exp(-0.5 * x * x - log_q) * 0.39894228040143267794 : x / mills_series(x);
  return log_q;
}

// At or above the x >= 0 with log Q(x) = t (Abramowitz and Stegun 26.2.23).
DEVICE double above_tail_quantile(double t) {
  const double y = sqrt(-2 * t);
  if (y > 8) return sqrt(-2 * (t - LOG_HALF));
  const double x =
      y - (2.515517 + y * (0.802853 + y * 0.010328)) / (1 + y * (1.432788 + y * (0.189269 + y * 0.001308)));
  return fmax(0.0, x + 4.6e-4);
}

// x >= 0 with log Q(x) = t, by Newton's steps, which come down to it.
DEVICE double tail_quantile(double t) {
  if (isinf(t)) return INFINITY;
  double x = above_tail_quantile(t);
  for (int i = 0; i < 40; i++) {
    double hazard;
    const double excess = log_tail_and_hazard(x, &hazard) - t, next = x + excess / hazard;
    if (!(next < x) || next < 0) break;
    x = next;
  }
  return x;
}

struct interval {
  double low, high, width;
  double above, rest; // log Q(low); Q(high) / Q(low)
  double below, mass; // P(low); P(high) - P(low)
  bool mirrored, narrow;
};

DEVICE interval make_interval(double low, double high) {
  interval s;
  s.mirrored = high <= 0;
  s.low = s.mirrored ? -high : low, s.high = s.mirrored ? -low : high;
  s.width = s.high - s.low;
  s.narrow = (fabs(s.low) + s.width) * s.width < 1e-10;
  s.above = log_tail(s.low), s.rest = exp(log_tail(s.high) - s.above);
  s.below = exp(log_tail(-s.low)), s.mass = 1 - s.below - exp(log_tail(s.high));
  return s;
}

DEVICE double quantile(double u, const interval &s) {
  if (!(u >= 0 && u <= 1)) return NAN;
  if (u == 0 || u == 1) { // the bounds themselves
    const bool low = (u == 0) != s.mirrored;
    return (s.mirrored ? -1 : 1) * (low ? s.low : s.high);
  }
  const double share = s.mirrored ? 1 - u : u, above = s.mirrored ? u : 1 - u;
  double x;
  if (s.narrow) x = s.low + share * s.width * (1 - 0.5 * s.low * s.width * above);
  else {
    const double under = s.low < 0 ? s.below + share * s.mass : 1,
                 log_over = s.above + log(s.rest + above * (1 - s.rest));
    x = under < 0.5 ? -tail_quantile(log(under)) : tail_quantile(fmin(log_over, LOG_HALF));
  }
  x = fmin(fmax(x, s.low), s.high);
  return s.mirrored ? -x : x;
}

KERNEL(cuda_normal_quantile, cu_quantile_args) {
  const interval s = make_interval(t.low, t.high);
  for (int64_t i = thread_index(); i < t.size; i += thread_count()) {
    if (t.out_dtype == ML_F64) ((double *)t.out)[i] = quantile(((const double *)t.u)[i], s);
    else store_float(t.out, t.out_dtype, i, (float)quantile((double)load_float(t.u, t.u_dtype, i), s));
  }
}
