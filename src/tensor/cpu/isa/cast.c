/* cast.c: conversions that take one or two steps: between float32 and what it holds exactly, and to and from 32-bit
 * integers as long as the values of a tile fit. Results are those of the general way (elementwise.c), bit for bit. */
#include "tensor/cpu/isa/elementwise.h"

#include "tensor/cpu/isa/simd.h"

static bool is_small(ml_dtype t) { return t == ML_I8 || t == ML_U8 || t == ML_I16 || t == ML_U16 || t == ML_BOOL; }
static bool is_narrow(ml_dtype t) { return t == ML_F32 || t == ML_F16 || t == ML_BF16; }

bool K(cast_knows)(ml_dtype to, ml_dtype from) {
  bool known_from = is_narrow(from) || is_small(from) || from == ML_I32 || from == ML_F64;
  bool known_to = is_narrow(to) || (is_small(to) && to != ML_BOOL) || to == ML_I32 || to == ML_F64;
  return known_from && known_to;
}

#define CONVERT(FROM, TO, expr)                                                                                        \
  do {                                                                                                                 \
    const FROM *x = (const FROM *)(const void *)from;                                                                  \
    TO *o = (TO *)(void *)to;                                                                                          \
    for (int i = 0; i < n; i++) o[i] = (TO)(expr);                                                                     \
  } while (0)

static void halves_to_floats(float *to, const uint16_t *x, bool brain, int n) {
  int i = 0;
  for (; i + LANES <= n; i += LANES) v_store(to + i, brain ? v_load_bf16(x + i) : v_load_f16(x + i));
  for (; i < n; i++) to[i] = brain ? ml_bf16_to_f32(x[i]) : ml_f16_to_f32(x[i]);
}

/* What float32 holds exactly, as float32. */
static void to_floats(float *to, const char *from, ml_dtype t, int n) {
  switch (t) {
  case ML_F32: memcpy(to, from, (size_t)n * sizeof *to); return;
  case ML_F16:
  case ML_BF16: halves_to_floats(to, (const uint16_t *)(const void *)from, t == ML_BF16, n); return;
  case ML_I8: CONVERT(int8_t, float, x[i]); return;
  case ML_U8: CONVERT(uint8_t, float, x[i]); return;
  case ML_I16: CONVERT(int16_t, float, x[i]); return;
  case ML_U16: CONVERT(uint16_t, float, x[i]); return;
  default: CONVERT(uint8_t, float, x[i] != 0); return;
  }
}

static void to_float16(uint16_t *to, const float *x, int n) {
  int i = 0;
#if defined(ML_ISA_AVX512) || defined(ML_ISA_AVX2)
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  for (int k = 0; k < i; k++) to[k] = (to[k] & 0x7fff) > 0x7c00 ? (to[k] & 0x8000) | 0x7e00 : to[k]; /* one NaN */
#endif
  for (; i < n; i++) to[i] = ml_f32_to_f16(x[i]);
}

static void from_floats(char *to, ml_dtype t, const float *x, int n) {
  if (t == ML_F32) memcpy(to, x, (size_t)n * sizeof *x);
  else if (t == ML_F16) to_float16((uint16_t *)(void *)to, x, n);
  else {
    uint16_t *o = (uint16_t *)(void *)to;
    for (int i = 0; i < n; i++) o[i] = ml_f32_to_bf16(x[i]);
  }
}

static void to_ints(int32_t *to, const char *from, ml_dtype t, int n) {
  switch (t) {
  case ML_I8: CONVERT(int8_t, int32_t, x[i]); return;
  case ML_U8: CONVERT(uint8_t, int32_t, x[i]); return;
  case ML_I16: CONVERT(int16_t, int32_t, x[i]); return;
  case ML_U16: CONVERT(uint16_t, int32_t, x[i]); return;
  case ML_BOOL: CONVERT(uint8_t, int32_t, x[i] != 0); return;
  default: memcpy(to, from, (size_t)n * sizeof *to); return;
  }
}

static void from_ints(char *to, ml_dtype t, const int32_t *from, int n) {
  switch (t) {
  case ML_I8:
  case ML_U8: CONVERT(int32_t, uint8_t, x[i]); return;
  case ML_I16:
  case ML_U16: CONVERT(int32_t, uint16_t, x[i]); return;
  default: memcpy(to, from, (size_t)n * sizeof *from); return;
  }
}

/* Truncates; false where a value is beyond 32 bits, or no number. */
static bool truncate_floats(int32_t *to, const float *x, int n) {
  int beyond = 0;
  for (int i = 0; i < n; i++) beyond |= !(fabsf(x[i]) < 0x1p31f);
  if (beyond) return false;
  for (int i = 0; i < n; i++) to[i] = (int32_t)x[i];
  return true;
}

static bool truncate_doubles(int32_t *to, const double *x, int n) {
  int64_t beyond = 0; /* as wide as what is compared, of which compilers make vectors */
  for (int i = 0; i < n; i++) beyond |= fabs(x[i]) < 0x1p31 ? 0 : 1;
  if (beyond) return false;
  for (int i = 0; i < n; i++) to[i] = (int32_t)x[i];
  return true;
}

/* What rounds to float16 or bfloat16 as the float64 itself does: towards zero, with the last bit set where something
 * was lost. */
static void round_to_odd(float *to, const double *x, int n) {
  for (int i = 0; i < n; i++) {
    union {
      float f;
      int32_t i;
    } v = {.f = (float)x[i]};
    const double back = v.f;
    const int32_t lost = back < x[i] || back > x[i], away = fabs(back) > fabs(x[i]);
    v.i = (v.i - away) | lost;
    to[i] = v.f;
  }
}

/* False where float32 does not hold a value, which a narrower type would then round twice. */
static bool hold_ints(float *to, const int32_t *x, int n) {
  int beyond = 0;
  for (int i = 0; i < n; i++) beyond |= x[i] > 1 << 24 || x[i] < -(1 << 24);
  for (int i = 0; i < n; i++) to[i] = (float)x[i];
  return !beyond;
}

bool K(cast_tile)(char *to, ml_dtype tt, const char *from, ml_dtype ft, int n) {
  float floats[TILE];
  int32_t ints[TILE];
  bool into_floats = is_narrow(tt);
  if (tt == ML_F64) {
    if (ft == ML_I32) CONVERT(int32_t, double, x[i]);
    else {
      if (ft != ML_F32) to_floats(floats, from, ft, n), from = (const char *)floats;
      CONVERT(float, double, x[i]);
    }
  } else if (ft == ML_F64) {
    if (into_floats && tt != ML_F32) {
      round_to_odd(floats, (const double *)(const void *)from, n);
      from_floats(to, tt, floats, n);
    } else if (into_floats) CONVERT(double, float, x[i]);
    else if (truncate_doubles(ints, (const double *)(const void *)from, n)) from_ints(to, tt, ints, n);
    else return false;
  } else if (ft == ML_I32 && into_floats) {
    if (!hold_ints(tt == ML_F32 ? (float *)(void *)to : floats, (const int32_t *)(const void *)from, n) && tt != ML_F32)
      return false;
    if (tt != ML_F32) from_floats(to, tt, floats, n);
  } else if (is_narrow(ft) && !into_floats) {
    const float *x = (const float *)(const void *)from;
    if (ft != ML_F32) to_floats(floats, from, ft, n), x = floats;
    if (!truncate_floats(ints, x, n)) return false;
    from_ints(to, tt, ints, n);
  } else if (!into_floats) {
    to_ints(ints, from, ft, n);
    from_ints(to, tt, ints, n);
  } else if (tt == ML_F32) {
    to_floats((float *)(void *)to, from, ft, n);
  } else {
    const float *x = (const float *)(const void *)from;
    if (ft != ML_F32) to_floats(floats, from, ft, n), x = floats;
    from_floats(to, tt, x, n);
  }
  return true;
}
