/* exponents.h: logsumexp: terms that are powers of e below the largest element so far, and how sums of them are joined;
 * what rows (partial.c) and columns (columns.c) have in common, so that they agree to the last bit. */
#ifndef ML_CPU_EXPONENTS_H
#define ML_CPU_EXPONENTS_H

#include "tensor/cpu/isa/reduce.h"
#include "tensor/cpu/isa/simd.h"

#if defined(ML_ISA_AVX512)
/* e to the power x, for x <= 0: terms of a sum that has a 1 are as good as nothing below 1e-38, and so none is smaller.
 */
ALWAYS_INLINE v16f v_exp_below(v16f x) { return v_exp_some(0xffff, v_max(v_set1(-87), x)); /* NaN stays */ }
#else
/* e to the power x, for x in -87..0, within 2 units in the last place. */
ALWAYS_INLINE float exp_below(float x) {
#if defined(ML_ISA_AVX2)
  union {
    float f;
    uint32_t i;
  } v = {.f = exp_shifted(x)}, scale = {.i = (v.i << 23) + (127u << 23)};
  return exp_rest(x, v.f - ROUNDS) * scale.f;
#else
  return expf(x);
#endif
}

/* The same for x <= 0: terms of a sum that has a 1 are as good as nothing below 1e-38, and so none is smaller. */
ALWAYS_INLINE v16f v_exp_below(v16f x) {
  float lanes[LANES];
  v_store(lanes, v_max(v_set1(-87), x)); /* NaN stays */
  for (int i = 0; i < LANES; i++) lanes[i] = exp_below(lanes[i]);
  return v_load(lanes);
}
#endif

static inline void join_exponents(partial *p, double max, double sum) {
  if (p->a != p->a || max == -INFINITY) return;
  if (max != max || max == INFINITY || p->a == -INFINITY) p->a = max, p->b = sum;
  else if (p->a == INFINITY) return;
  else if (max > p->a) p->b = p->b * exp(p->a - max) + sum, p->a = max;
  else p->b += sum * exp(max - p->a);
}

/* The largest of a block's elements, `here`, becomes the largest so far. False where that is not finite, or what came
 * before is no number or infinite. */
static inline bool raise_largest(const partial *p, float here, float *largest) {
  if (p->a > (double)here || p->a != p->a || here - here != 0) return false;
  *largest = here;
  return true;
}

/* Takes a block's sum of powers of e below `largest`, which is no less than the largest of what came before. */
static inline void take_exponents_below(partial *p, float largest, float sum) {
  if (p->a == (double)largest) p->b += (double)sum;
  else join_exponents(p, (double)largest, (double)sum);
}

/* Any block (partial.c). */
void K(exponents_of_block)(partial *p, const char *data, ml_dtype dtype, int64_t n);

#endif
