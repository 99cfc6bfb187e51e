/* cast.c: conversions that take one or two steps: between float32 and what it holds exactly, and to and from 32-bit
 * integers as long as the values of a tile fit. Results are those of the general way (elementwise.c), bit for bit save
 * the payload of NaN. What is converted may lie where its result goes, so nothing is written before it is known that
 * all values fit. */
#include "tensor/cpu/isa/elementwise.h"

#include "tensor/cpu/isa/fold.h"

/* Of a cast c from its element i on, where there are vectors of integers. */
#if defined(ML_ISA_AVX512) || defined(ML_ISA_AVX2)
#define HAS_VECTORS
#define EACH_VECTOR(STEP)                                                                                              \
  for (; i + LANES <= c.n; i += LANES) STEP
#else
#define EACH_VECTOR(STEP)
#endif

static bool is_small(ml_dtype t) { return t == ML_I8 || t == ML_U8 || t == ML_I16 || t == ML_U16 || t == ML_BOOL; }

bool K(cast_knows)(ml_dtype to, ml_dtype from) {
  bool known_from = is_narrow(from) || is_small(from) || from == ML_I32 || from == ML_F64;
  bool known_to = is_narrow(to) || (is_small(to) && to != ML_BOOL) || to == ML_I32 || to == ML_F64;
  return known_from && known_to;
}

/* ---- elements, and sixteen of them ---- */

ALWAYS_INLINE int item_of(ml_dtype t) { return ml_dtype_infos[t].bytes; }

/* The lower bits of an integer as an element of t. */
ALWAYS_INLINE void store_int(char *to, ml_dtype t, int i, int32_t v) {
  if (t == ML_I8 || t == ML_U8) ((uint8_t *)to)[i] = (uint8_t)v;
  else if (t == ML_I16 || t == ML_U16) ((uint16_t *)(void *)to)[i] = (uint16_t)v;
  else ((int32_t *)(void *)to)[i] = v;
}

#ifdef HAS_VECTORS
ALWAYS_INLINE void store_narrow(char *to, ml_dtype t, v16f x) {
  if (t == ML_F32) v_store((float *)(void *)to, x);
  else if (t == ML_F16) v_store_f16((uint16_t *)(void *)to, x);
  else v_store_bf16((uint16_t *)(void *)to, x);
}

ALWAYS_INLINE v16i load_ints(const char *from, ml_dtype t) {
  switch (t) {
  case ML_I8: return i_load_i8(from);
  case ML_U8: return i_load_u8(from);
  case ML_I16: return i_load_i16(from);
  case ML_U16: return i_load_u16(from);
  default: return i_load((const int32_t *)(const void *)from);
  }
}

ALWAYS_INLINE void store_ints(char *to, ml_dtype t, v16i x) {
  if (t == ML_I8 || t == ML_U8) i_store_bytes(to, x);
  else if (t == ML_I16 || t == ML_U16) i_store_halves(to, x);
  else i_store((int32_t *)(void *)to, x);
}
#endif

/* ---- between narrow floats and integers of up to 32 bits ---- */

typedef struct cast {
  char *to;
  const char *from;
  int n;
} cast;

ALWAYS_INLINE void float_to_float(cast c, ml_dtype to, ml_dtype from) {
  int i = 0;
  EACH_VECTOR(store_narrow(c.to + i * item_of(to), to, load_narrow(c.from + i * item_of(from), from)));
  for (; i < c.n; i++) store_float(c.to, to, i, load_float(c.from, from, i));
}

ALWAYS_INLINE void float_to_int(cast c, ml_dtype to, ml_dtype from) {
  int i = 0;
  EACH_VECTOR(store_ints(c.to + i * item_of(to), to, i_truncate(load_narrow(c.from + i * item_of(from), from))));
  for (; i < c.n; i++) store_int(c.to, to, i, (int32_t)load_float(c.from, from, i));
}

ALWAYS_INLINE void int_to_float(cast c, ml_dtype to, ml_dtype from) {
  int i = 0;
  EACH_VECTOR(store_narrow(c.to + i * item_of(to), to, i_floats(load_ints(c.from + i * item_of(from), from))));
  for (; i < c.n; i++) store_float(c.to, to, i, (float)load_index(c.from, from, i));
}

ALWAYS_INLINE void int_to_int(cast c, ml_dtype to, ml_dtype from) {
  int i = 0;
  EACH_VECTOR(store_ints(c.to + i * item_of(to), to, load_ints(c.from + i * item_of(from), from)));
  for (; i < c.n; i++) store_int(c.to, to, i, (int32_t)load_index(c.from, from, i));
}

ALWAYS_INLINE void convert_pair(cast c, ml_dtype to, ml_dtype from) {
  if (is_narrow(from) && is_narrow(to)) float_to_float(c, to, from);
  else if (is_narrow(from)) float_to_int(c, to, from);
  else if (is_narrow(to)) int_to_float(c, to, from);
  else int_to_int(c, to, from);
}

/* Each pair of dtypes becomes a loop of its own. */
#define FOR_CASTS(t, DO)                                                                                               \
  switch (t) {                                                                                                         \
  case ML_F32: DO(ML_F32); break;                                                                                      \
  case ML_F16: DO(ML_F16); break;                                                                                      \
  case ML_BF16: DO(ML_BF16); break;                                                                                    \
  case ML_I8: DO(ML_I8); break;                                                                                        \
  case ML_U8: DO(ML_U8); break;                                                                                        \
  case ML_I16: DO(ML_I16); break;                                                                                      \
  case ML_U16: DO(ML_U16); break;                                                                                      \
  default: DO(ML_I32);                                                                                                 \
  }
#define TO(T) convert_pair(c, T, from)
ALWAYS_INLINE void convert_from(cast c, ml_dtype to, ml_dtype from) { FOR_CASTS(to, TO) }
#define FROM(T) convert_from(c, to, T)
static void convert(cast c, ml_dtype to, ml_dtype from) { FOR_CASTS(from, FROM) }

/* Whether all values are within 32 bits once they are truncated: none is 2^31 or more, or no number. */
static bool fit_ints(cast c, ml_dtype t) {
  if (t == ML_F32) {
    const uint32_t *x = (const uint32_t *)(const void *)c.from;
    uint32_t most = 0;
    for (int i = 0; i < c.n; i++) {
      const uint32_t size = x[i] & INT32_MAX;
      most = size > most ? size : most;
    }
    return most < 0x4f000000;
  }
  const uint16_t *x = (const uint16_t *)(const void *)c.from;
  uint16_t most = 0;
  for (int i = 0; i < c.n; i++) {
    const uint16_t size = x[i] & INT16_MAX;
    most = size > most ? size : most;
  }
  return most < (t == ML_F16 ? 0x7c00 : 0x4f00);
}

/* Whether float32 holds all, so that what is narrower is not rounded twice: none is beyond 2^24. */
static bool fit_floats(cast c) {
  const uint32_t *x = (const uint32_t *)(const void *)c.from;
  uint32_t most = 0;
  for (int i = 0; i < c.n; i++) {
    const uint32_t above_least = x[i] + (1u << 24);
    most = above_least > most ? above_least : most;
  }
  return most <= 1u << 25;
}

/* Truths as bytes, 0 or 1. */
static cast of_truths(cast c, uint8_t *room) {
  const uint8_t *x = (const uint8_t *)c.from;
  for (int i = 0; i < c.n; i++) room[i] = x[i] != 0;
  c.from = (const char *)room;
  return c;
}

/* ---- float64 ---- */

#define CONVERT(FROM, TO, expr)                                                                                        \
  do {                                                                                                                 \
    const FROM *x = (const FROM *)(const void *)c.from;                                                                \
    TO *o = (TO *)(void *)c.to;                                                                                        \
    for (int i = 0; i < c.n; i++) o[i] = (TO)(expr);                                                                   \
  } while (0)

static bool fit_doubles(cast c) {
  const double *x = (const double *)(const void *)c.from;
  int64_t beyond = 0; /* as wide as what is compared, of which compilers make vectors */
  for (int i = 0; i < c.n; i++) beyond |= fabs(x[i]) < 0x1p31 ? 0 : 1;
  return !beyond;
}

/* What rounds to float16 or bfloat16 as the float64 itself does: towards zero, with the last bit set where something
 * was lost. */
static float round_to_odd(double x) {
  union {
    float f;
    int32_t i;
  } v = {.f = (float)x};
  const double back = v.f;
  const int32_t lost = back < x || back > x, away = fabs(back) > fabs(x);
  v.i = (v.i - away) | lost;
  return v.f;
}

#if defined(ML_ISA_AVX512)
ALWAYS_INLINE __m256i eight_to_odd(const double *x) {
  const __m512d d = _mm512_loadu_pd(x);
  const __m256 f = _mm512_cvt_roundpd_ps(d, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
  const __mmask8 lost = _mm512_cmp_pd_mask(_mm512_cvtps_pd(f), d, _CMP_NEQ_OQ);
  const __m256i bits = _mm256_castps_si256(f);
  return _mm256_mask_or_epi32(bits, lost, bits, _mm256_set1_epi32(1));
}
ALWAYS_INLINE v16f load_odd(const double *x) {
  const __m512i low = _mm512_castsi256_si512(eight_to_odd(x));
  return _mm512_castsi512_ps(_mm512_inserti64x4(low, eight_to_odd(x + LANES / 2), 1));
}
#elif defined(ML_ISA_AVX2)
/* The lower halves of the 64-bit masks a and b, in order. */
ALWAYS_INLINE __m256i join_masks(__m256d a, __m256d b) {
  const __m256 halves = _mm256_shuffle_ps(_mm256_castpd_ps(a), _mm256_castpd_ps(b), 0x88);
  return _mm256_permute4x64_epi64(_mm256_castps_si256(halves), 0xd8);
}
ALWAYS_INLINE __m256 eight_to_odd(const double *x) {
  const __m256d size = _mm256_castsi256_pd(_mm256_set1_epi64x(INT64_MAX));
  const __m256d d0 = _mm256_loadu_pd(x), d1 = _mm256_loadu_pd(x + 4);
  const __m128 f0 = _mm256_cvtpd_ps(d0), f1 = _mm256_cvtpd_ps(d1);
  const __m256d back0 = _mm256_cvtps_pd(f0), back1 = _mm256_cvtps_pd(f1);
  const __m256i lost = join_masks(_mm256_cmp_pd(back0, d0, _CMP_NEQ_OQ), _mm256_cmp_pd(back1, d1, _CMP_NEQ_OQ));
  const __m256d away0 = _mm256_cmp_pd(_mm256_and_pd(back0, size), _mm256_and_pd(d0, size), _CMP_GT_OQ);
  const __m256d away1 = _mm256_cmp_pd(_mm256_and_pd(back1, size), _mm256_and_pd(d1, size), _CMP_GT_OQ);
  const __m256i bits = _mm256_add_epi32(_mm256_castps_si256(_mm256_set_m128(f1, f0)), join_masks(away0, away1));
  return _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_srli_epi32(lost, 31)));
}
ALWAYS_INLINE v16f load_odd(const double *x) { return (v16f){eight_to_odd(x), eight_to_odd(x + LANES / 2)}; }
#endif

ALWAYS_INLINE void doubles_to_halves(cast c, ml_dtype to) {
  const double *x = (const double *)(const void *)c.from;
  int i = 0;
  EACH_VECTOR(store_narrow(c.to + i * item_of(to), to, load_odd(x + i)));
  for (; i < c.n; i++) store_float(c.to, to, i, round_to_odd(x[i]));
}

static void doubles_to_floats(cast c, ml_dtype to) {
  if (to == ML_F32) CONVERT(double, float, x[i]);
  else if (to == ML_F16) doubles_to_halves(c, ML_F16);
  else doubles_to_halves(c, ML_BF16);
}

static bool doubles_to_ints(cast c, ml_dtype to) {
  int32_t ints[TILE];
  if (!fit_doubles(c)) return false;
  const double *x = (const double *)(const void *)c.from;
  for (int i = 0; i < c.n; i++) ints[i] = (int32_t)x[i];
  c.from = (const char *)ints;
  convert(c, to, ML_I32);
  return true;
}

static void to_doubles(cast c, ml_dtype from) {
  float floats[TILE];
  if (from == ML_I32) {
    CONVERT(int32_t, double, x[i]);
    return;
  }
  if (from != ML_F32) {
    const cast first = {(char *)floats, c.from, c.n};
    convert(first, ML_F32, from);
    c.from = (const char *)floats;
  }
  CONVERT(float, double, x[i]);
}

/* ---- all of them ---- */

bool K(cast_tile)(char *to, ml_dtype tt, const char *from, ml_dtype ft, int n) {
  uint8_t truths[TILE];
  cast c = {to, from, n};
  if (ft == ML_BOOL) c = of_truths(c, truths), ft = ML_U8;
  if (tt == ML_F64) to_doubles(c, ft);
  else if (ft == ML_F64 && is_narrow(tt)) doubles_to_floats(c, tt);
  else if (ft == ML_F64) return doubles_to_ints(c, tt);
  else {
    const bool narrows = is_narrow(tt) && tt != ML_F32;
    if (is_narrow(ft) && !is_narrow(tt) && !fit_ints(c, ft)) return false;
    if (ft == ML_I32 && narrows && !fit_floats(c)) return false;
    convert(c, tt, ft);
  }
  return true;
}
