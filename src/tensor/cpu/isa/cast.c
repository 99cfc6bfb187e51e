/* cast.c: conversions that take one or two steps: between float32 and what it holds exactly, and to and from 32-bit
 * integers as long as the values of a tile fit. Results are those of the general way (elementwise.c), bit for bit. */
#include "tensor/cpu/isa/elementwise.h"

#include "tensor/cpu/isa/fold.h"

static bool is_small(ml_dtype t) { return t == ML_I8 || t == ML_U8 || t == ML_I16 || t == ML_U16 || t == ML_BOOL; }
static bool is_byte(ml_dtype t) { return t == ML_I8 || t == ML_U8; }

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

#if defined(ML_ISA_AVX512) || defined(ML_ISA_AVX2)
ALWAYS_INLINE __m256i upper_word(__m256 f) { return _mm256_srli_epi32(_mm256_castps_si256(f), 16); }

ALWAYS_INLINE __m256i round_to_bfloat16(__m256 f) {
  const __m256i u = _mm256_castps_si256(f), top = upper_word(f);
  const __m256i up = _mm256_add_epi32(_mm256_and_si256(top, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(f, f, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(_mm256_srli_epi32(_mm256_add_epi32(u, up), 16), _mm256_or_si256(top, _mm256_set1_epi32(64)),
                            nan);
}

/* The lower 16 bits of sixteen integers of 32. */
ALWAYS_INLINE __m256i pack_words(__m256i lo, __m256i hi) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(lo, hi), 0xd8);
}

ALWAYS_INLINE void store_float16(uint16_t *to, __m256 lo, __m256 hi) {
  _mm_storeu_si128((__m128i *)(void *)to, _mm256_cvtps_ph(lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i *)(void *)(to + 8), _mm256_cvtps_ph(hi, _MM_FROUND_TO_NEAREST_INT));
}
#endif

/* From narrow floats of the dtype t, which are read once. */
ALWAYS_INLINE void to_float16(uint16_t *to, const char *from, ml_dtype t, int n) {
  int i = 0;
#if defined(ML_ISA_AVX512) || defined(ML_ISA_AVX2)
  for (; i + LANES <= n; i += LANES) {
    const v16f x = load_narrow(from + i * ml_dtype_infos[t].bytes, t);
    store_float16(to + i, v_half(x, 0), v_half(x, 1));
  }
  for (int k = 0; k < i; k++) to[k] = (to[k] & 0x7fff) > 0x7c00 ? (to[k] & 0x8000) | 0x7e00 : to[k]; /* one NaN */
#endif
  for (; i < n; i++) to[i] = ml_f32_to_f16(load_float(from, t, i));
}

ALWAYS_INLINE void to_bfloat16(uint16_t *to, const char *from, ml_dtype t, int n) {
  int i = 0;
#if defined(ML_ISA_AVX512) || defined(ML_ISA_AVX2)
  for (; i + LANES <= n; i += LANES) {
    const v16f x = load_narrow(from + i * ml_dtype_infos[t].bytes, t);
    const __m256i lo = round_to_bfloat16(v_half(x, 0)), hi = round_to_bfloat16(v_half(x, 1));
    _mm256_storeu_si256((__m256i *)(void *)(to + i), pack_words(lo, hi));
  }
#endif
  for (; i < n; i++) to[i] = ml_f32_to_bf16(load_float(from, t, i));
}

/* Between halves of two kinds. */
static void swap_halves(char *to, ml_dtype t, const char *from, int n) {
  if (t == ML_F16) to_float16((uint16_t *)(void *)to, from, ML_BF16, n);
  else to_bfloat16((uint16_t *)(void *)to, from, ML_F16, n);
}

static void from_floats(char *to, ml_dtype t, const float *x, int n) {
  const char *from = (const char *)x;
  if (t == ML_F32) memcpy(to, x, (size_t)n * sizeof *x);
  else if (t == ML_F16) to_float16((uint16_t *)(void *)to, from, ML_F32, n);
  else to_bfloat16((uint16_t *)(void *)to, from, ML_F32, n);
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

#if defined(ML_ISA_AVX512) || defined(ML_ISA_AVX2)
/* Truncates; a lane of `within` is cleared where a value is beyond 32 bits, or no number. */
ALWAYS_INLINE __m256i truncate_eight(__m256 f, __m256 *within) {
  const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), f);
  *within = _mm256_and_ps(*within, _mm256_cmp_ps(size, _mm256_set1_ps(0x1p31f), _CMP_LT_OQ));
  return _mm256_cvttps_epi32(f);
}

ALWAYS_INLINE __m256 all_within(void) { return _mm256_castsi256_ps(_mm256_set1_epi32(-1)); }
#endif

/* Truncates; false where a value is beyond 32 bits, or no number. */
static bool truncate_floats(int32_t *to, const float *x, int n) {
  int i = 0, beyond = 0;
#if defined(ML_ISA_AVX512) || defined(ML_ISA_AVX2)
  __m256 within = all_within();
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_si256((__m256i *)(void *)(to + i), truncate_eight(_mm256_loadu_ps(x + i), &within));
  if (_mm256_movemask_ps(within) != 0xff) return false;
#endif
  for (int k = i; k < n; k++) beyond |= !(fabsf(x[k]) < 0x1p31f);
  if (beyond) return false;
  for (; i < n; i++) to[i] = (int32_t)x[i];
  return true;
}

/* Bytes as halves, which hold them all. */
static void bytes_to_halves(uint16_t *to, bool brain, const char *from, ml_dtype t, int n) {
  int i = 0;
#if defined(ML_ISA_AVX512) || defined(ML_ISA_AVX2)
  for (; i + LANES <= n; i += LANES) {
    const __m128i x = _mm_loadu_si128((const void *)(from + i)), rest = _mm_srli_si128(x, 8);
    const __m256i lo = t == ML_I8 ? _mm256_cvtepi8_epi32(x) : _mm256_cvtepu8_epi32(x);
    const __m256i hi = t == ML_I8 ? _mm256_cvtepi8_epi32(rest) : _mm256_cvtepu8_epi32(rest);
    const __m256 lo_float = _mm256_cvtepi32_ps(lo), hi_float = _mm256_cvtepi32_ps(hi);
    if (!brain) store_float16(to + i, lo_float, hi_float);
    else _mm256_storeu_si256((__m256i *)(void *)(to + i), pack_words(upper_word(lo_float), upper_word(hi_float)));
  }
#endif
  for (; i < n; i++) {
    const float x = (float)load_index(from, t, i);
    to[i] = brain ? ml_f32_to_bf16(x) : ml_f32_to_f16(x);
  }
}

/* Narrow floats as bytes, which wrap; false, and nothing written, where truncate_floats says so. */
ALWAYS_INLINE bool floats_to_bytes(char *to, const char *from, ml_dtype t, int n) {
  char bytes[TILE];
  int i = 0;
#if defined(ML_ISA_AVX512) || defined(ML_ISA_AVX2)
  __m256 within = all_within();
  for (; i + LANES <= n; i += LANES) {
    const v16f x = load_narrow(from + i * ml_dtype_infos[t].bytes, t);
    const __m256i low = _mm256_set1_epi32(255);
    const __m256i words = pack_words(_mm256_and_si256(truncate_eight(v_half(x, 0), &within), low),
                                     _mm256_and_si256(truncate_eight(v_half(x, 1), &within), low));
    _mm_storeu_si128((__m128i *)(void *)(bytes + i),
                     _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
  if (_mm256_movemask_ps(within) != 0xff) return false;
#endif
  for (; i < n; i++) {
    const float x = load_float(from, t, i);
    if (!(fabsf(x) < 0x1p31f)) return false;
    bytes[i] = (char)(int32_t)x;
  }
  memcpy(to, bytes, (size_t)n);
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
  } else if (is_narrow(ft) && is_byte(tt)) {
    return ft == ML_F32   ? floats_to_bytes(to, from, ML_F32, n)
           : ft == ML_F16 ? floats_to_bytes(to, from, ML_F16, n)
                          : floats_to_bytes(to, from, ML_BF16, n);
  } else if (is_byte(ft) && into_floats && tt != ML_F32) {
    bytes_to_halves((uint16_t *)(void *)to, tt == ML_BF16, from, ft, n);
  } else if (is_narrow(ft) && !into_floats) {
    const float *x = (const float *)(const void *)from;
    if (ft != ML_F32) to_floats(floats, from, ft, n), x = floats;
    if (!truncate_floats(ints, x, n)) return false;
    from_ints(to, tt, ints, n);
  } else if (!into_floats) {
    const int32_t *x = (const int32_t *)(const void *)from;
    if (ft != ML_I32) to_ints(ints, from, ft, n), x = ints;
    from_ints(to, tt, x, n);
  } else if (tt == ML_F32) {
    to_floats((float *)(void *)to, from, ft, n);
  } else if (is_narrow(ft) && ft != ML_F32 && ft != tt) {
    swap_halves(to, tt, from, n);
  } else {
    const float *x = (const float *)(const void *)from;
    if (ft != ML_F32) to_floats(floats, from, ft, n), x = floats;
    from_floats(to, tt, x, n);
  }
  return true;
}
