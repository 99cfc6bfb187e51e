/* fold.h: sixteen elements of any dtype as one vector, and how such vectors are folded into one: what reductions of
 * rows (partial.c) and of columns (columns.c) have in common, so that they agree to the last bit. */
#ifndef ML_CPU_FOLD_H
#define ML_CPU_FOLD_H

#include <float.h>

#include "tensor/cpu/isa/reduce.h"
#include "tensor/cpu/isa/simd.h"

/* ---- sixteen doubles, as many a register as it holds ---- */

#if defined(ML_ISA_AVX512)
typedef double v_doubles __attribute__((vector_size(64)));
#elif defined(ML_ISA_AVX2)
typedef double v_doubles __attribute__((vector_size(32)));
#else
typedef double v_doubles __attribute__((vector_size(16)));
#endif
enum { IN_ONE = sizeof(v_doubles) / sizeof(double), REGISTERS = LANES / IN_ONE };
typedef struct v16d {
  v_doubles v[REGISTERS];
} v16d;
#define EACH_REGISTER for (int r_ = 0; r_ < REGISTERS; r_++)

typedef v_doubles v_doubles_at __attribute__((aligned(8), may_alias)); /* anywhere in memory */

ALWAYS_INLINE v16d w_load(const double *p) {
  v16d w;
  EACH_REGISTER w.v[r_] = ((const v_doubles_at *)(const void *)p)[r_];
  return w;
}
ALWAYS_INLINE void w_store(double *p, v16d a) { EACH_REGISTER((v_doubles_at *)(void *)p)[r_] = a.v[r_]; }
ALWAYS_INLINE v16d w_set1(double d) {
  v16d w;
  EACH_REGISTER w.v[r_] = d - (v_doubles){0};
  return w;
}
ALWAYS_INLINE v16d w_add(v16d a, v16d b) {
  EACH_REGISTER a.v[r_] += b.v[r_];
  return a;
}
ALWAYS_INLINE v16d w_sub(v16d a, v16d b) {
  EACH_REGISTER a.v[r_] -= b.v[r_];
  return a;
}
/* a a + b */
ALWAYS_INLINE v16d w_square(v16d a, v16d b) {
#if defined(ML_ISA_AVX512)
  EACH_REGISTER b.v[r_] = (v_doubles)_mm512_fmadd_pd((__m512d)a.v[r_], (__m512d)a.v[r_], (__m512d)b.v[r_]);
#elif defined(ML_ISA_AVX2)
  EACH_REGISTER b.v[r_] = (v_doubles)_mm256_fmadd_pd((__m256d)a.v[r_], (__m256d)a.v[r_], (__m256d)b.v[r_]);
#else
  EACH_REGISTER b.v[r_] += a.v[r_] * a.v[r_];
#endif
  return b;
}
ALWAYS_INLINE v16d w_mul(v16d a, v16d b) {
  EACH_REGISTER a.v[r_] *= b.v[r_];
  return a;
}
ALWAYS_INLINE v16d w_widen(v16f a) {
  v16d w;
#if defined(ML_ISA_AVX512)
  w.v[0] = (v_doubles)_mm512_cvtps_pd(_mm512_castps512_ps256(a));
  w.v[1] = (v_doubles)_mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
#elif defined(ML_ISA_AVX2)
  w.v[0] = (v_doubles)_mm256_cvtps_pd(_mm256_castps256_ps128(a.lo));
  w.v[1] = (v_doubles)_mm256_cvtps_pd(_mm256_extractf128_ps(a.lo, 1));
  w.v[2] = (v_doubles)_mm256_cvtps_pd(_mm256_castps256_ps128(a.hi));
  w.v[3] = (v_doubles)_mm256_cvtps_pd(_mm256_extractf128_ps(a.hi, 1));
#else
  double d[LANES];
  for (int k = 0; k < LANES; k++) d[k] = a.f[k];
  w = w_load(d);
#endif
  return w;
}

/* ---- sixteen elements ---- */

ALWAYS_INLINE bool is_narrow(ml_dtype t) { return t == ML_F32 || t == ML_F16 || t == ML_BF16; }

ALWAYS_INLINE v16f load_narrow(const char *data, ml_dtype t) {
  if (t == ML_F32) return v_load((const float *)(const void *)data);
  const uint16_t *x = (const uint16_t *)(const void *)data;
  return t == ML_F16 ? v_load_f16(x) : v_load_bf16(x);
}

/* The last n < LANES elements, with zeros behind them. */
static inline const char *fill_up(const char *data, ml_dtype t, int64_t n, char *room) {
  int item = ml_dtype_infos[t].bytes;
  memset(room, 0, (size_t)(LANES * item));
  memcpy(room, data, (size_t)(n * item));
  return room;
}

#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
/* Sixteen integers of at most 32 bits that a double holds: eight from each half of WIDEN. */
#if defined(ML_ISA_AVX512)
#define HALF(x) (v_doubles) _mm512_cvtepi32_pd(x)
#else
#define HALF(x)                                                                                                        \
  (v_doubles) _mm256_cvtepi32_pd(_mm256_castsi256_si128(x)),                                                           \
      (v_doubles)_mm256_cvtepi32_pd(_mm256_extracti128_si256(x, 1))
#endif
#define OF_INTS(WIDEN, LOAD, BYTES) ((v16d){{HALF(WIDEN(LOAD(data))), HALF(WIDEN(LOAD(data + (BYTES))))}})
ALWAYS_INLINE __m128i load_8(const char *p) { return _mm_loadl_epi64((const void *)p); }
ALWAYS_INLINE __m128i load_16(const char *p) { return _mm_loadu_si128((const void *)p); }
ALWAYS_INLINE __m256i load_32(const char *p) { return _mm256_loadu_si256((const void *)p); }
ALWAYS_INLINE __m128i load_truths(const char *p) { return _mm_min_epu8(load_8(p), _mm_set1_epi8(1)); }
#define AS_THEY_ARE(x) (x)
#endif

#define AS(TYPE, VIA, VALUE)                                                                                           \
  do {                                                                                                                 \
    const TYPE *x = (const TYPE *)(const void *)data;                                                                  \
    VIA as[LANES];                                                                                                     \
    for (int k = 0; k < LANES; k++) as[k] = (VIA)(VALUE);                                                              \
    return w_load((const void *)as);                                                                                   \
  } while (0)

ALWAYS_INLINE v16d load_wide(const char *data, ml_dtype t) {
  switch (t) {
#if defined(ML_ISA_AVX512)
  case ML_F32: { /* halves are cheaper to load than to part */
    const float *x = (const float *)(const void *)data;
    return (v16d){{(v_doubles)_mm512_cvtps_pd(_mm256_loadu_ps(x)), (v_doubles)_mm512_cvtps_pd(_mm256_loadu_ps(x + 8))}};
  }
#endif
  case ML_F64: return w_load((const double *)(const void *)data);
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
  case ML_I8: return OF_INTS(_mm256_cvtepi8_epi32, load_8, 8);
  case ML_U8: return OF_INTS(_mm256_cvtepu8_epi32, load_8, 8);
  case ML_BOOL: return OF_INTS(_mm256_cvtepu8_epi32, load_truths, 8);
  case ML_I16: return OF_INTS(_mm256_cvtepi16_epi32, load_16, 16);
  case ML_U16: return OF_INTS(_mm256_cvtepu16_epi32, load_16, 16);
  case ML_I32: return OF_INTS(AS_THEY_ARE, load_32, 32);
#else
  case ML_I8: AS(int8_t, double, x[k]);
  case ML_U8: AS(uint8_t, double, x[k]);
  case ML_BOOL: AS(uint8_t, double, x[k] != 0);
  case ML_I16: AS(int16_t, double, x[k]);
  case ML_U16: AS(uint16_t, double, x[k]);
  case ML_I32: AS(int32_t, double, x[k]);
#endif
  case ML_U32: AS(uint32_t, double, x[k]);
  case ML_I64: AS(int64_t, double, x[k]);
  case ML_U64: AS(uint64_t, double, x[k]);
  default: return w_widen(load_narrow(data, t));
  }
}
#undef AS
#undef HALF
#undef OF_INTS
#undef AS_THEY_ARE

/* Before sixteen elements are read, of which those of 8 bytes are two lines. */
ALWAYS_INLINE void look_ahead_wide(const char *data, ml_dtype t) {
  look_ahead(data);
  if (ml_dtype_infos[t].bytes == sizeof(double)) look_ahead(data + LANES / 2 * sizeof(double));
}

/* ---- folds ---- */

/* EXPONENTS_BELOW: of columns, powers of e of what their elements are below a centre */
typedef enum fold { SUM, PRODUCT, SQUARES, EXPONENTS_BELOW } fold;

ALWAYS_INLINE v16d fold_start(fold how) { return w_set1(how == PRODUCT ? 1 : 0); }
ALWAYS_INLINE v16d fold_step(v16d s, v16d x, fold how) {
  if (how == PRODUCT) return w_mul(s, x);
  if (how == SUM) return w_add(s, x);
  return w_square(x, s);
}

/* Of floats: a sum, or one of squares. */
ALWAYS_INLINE v16f narrow_step(v16f s, v16f x, fold how) { return how == SUM ? v_add(s, x) : v_fma(x, x, s); }

/* A fold of each of a block's lanes, to which every sixteenth element belongs. */
ALWAYS_INLINE v16f fold_lanes(const char *data, ml_dtype t, int64_t n, fold how) {
  const int item = ml_dtype_infos[t].bytes;
  v16f s = v_set1(0);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    look_ahead(data + i * item);
    s = narrow_step(s, load_narrow(data + i * item, t), how);
  }
  if (i < n && t == ML_F32)
    return narrow_step(s, v_load_part((const float *)(const void *)data + i, (int)(n - i), 0), how);
  if (i < n) {
    char room[LANES * sizeof(uint16_t)];
    s = narrow_step(s, load_narrow(fill_up(data + i * item, t, n - i, room), t), how);
  }
  return s;
}

/* The lanes of a fold, in the order of v_sum. */
ALWAYS_INLINE double join_doubles(v16d s, fold how) {
  for (int n = REGISTERS / 2; n > 0; n /= 2) {
    for (int r = 0; r < n; r++) s.v[r] = how == PRODUCT ? s.v[r] * s.v[r + n] : s.v[r] + s.v[r + n];
  }
#if defined(ML_ISA_AVX512) || defined(ML_ISA_AVX2)
#if defined(ML_ISA_AVX512)
  __m256d low = _mm512_castpd512_pd256((__m512d)s.v[0]), high = _mm512_extractf64x4_pd((__m512d)s.v[0], 1);
  __m256d four = how == PRODUCT ? _mm256_mul_pd(low, high) : _mm256_add_pd(low, high);
#else
  __m256d four = (__m256d)s.v[0];
#endif
  __m128d a = _mm256_castpd256_pd128(four), b = _mm256_extractf128_pd(four, 1);
  a = how == PRODUCT ? _mm_mul_pd(a, b) : _mm_add_pd(a, b);
  b = _mm_unpackhi_pd(a, a);
  return _mm_cvtsd_f64(how == PRODUCT ? _mm_mul_sd(a, b) : _mm_add_sd(a, b));
#else
  return how == PRODUCT ? s.v[0][0] * s.v[0][1] : s.v[0][0] + s.v[0][1];
#endif
}

/* Runs DO with the constant T for the dtype t, so that what it calls is made for each dtype. */
#define FOR_NARROW(t, DO)                                                                                              \
  do {                                                                                                                 \
    if ((t) == ML_F32) DO(ML_F32);                                                                                     \
    else if ((t) == ML_F16) DO(ML_F16);                                                                                \
    else DO(ML_BF16);                                                                                                  \
  } while (0)
#define FOR_FLOATS(t, DO)                                                                                              \
  do {                                                                                                                 \
    if ((t) == ML_F64) DO(ML_F64);                                                                                     \
    else FOR_NARROW(t, DO);                                                                                            \
  } while (0)
#define FOR_WIDE(t, DO)                                                                                                \
  switch (t) {                                                                                                         \
  case ML_F64: DO(ML_F64); break;                                                                                      \
  case ML_I8: DO(ML_I8); break;                                                                                        \
  case ML_U8: DO(ML_U8); break;                                                                                        \
  case ML_BOOL: DO(ML_BOOL); break;                                                                                    \
  case ML_I16: DO(ML_I16); break;                                                                                      \
  case ML_U16: DO(ML_U16); break;                                                                                      \
  case ML_I32: DO(ML_I32); break;                                                                                      \
  case ML_U32: DO(ML_U32); break;                                                                                      \
  case ML_I64: DO(ML_I64); break;                                                                                      \
  default: DO(ML_U64);                                                                                                 \
  }
#define FOR_EACH_DTYPE(t, DO)                                                                                          \
  if (is_narrow(t)) FOR_NARROW(t, DO);                                                                                 \
  else FOR_WIDE(t, DO)

/* What a reduction adds up, and of which arithmetic. */
typedef enum kind { NARROW, WIDE, SPREAD, EXPONENTS, INTEGERS, INTEGER_MEAN, MOMENTS, TRUTH, CHOICE } kind;

static inline kind kind_of(int op, ml_dtype t) {
  bool floats = ml_dtype_is_float(t), bytes = ml_dtype_infos[t].bytes == 1;
  switch (op) {
  case ML_OP_max:
  case ML_OP_min:
  case ML_OP_argmax:
  case ML_OP_argmin: return CHOICE;
  case ML_OP_all:
  case ML_OP_any: return TRUTH;
  case ML_OP_var:
  case ML_OP_std: return bytes ? MOMENTS : SPREAD;
  case ML_OP_norm: return bytes ? MOMENTS : WIDE;
  case ML_OP_logsumexp: return EXPONENTS;
  case ML_OP_mean: return !floats ? INTEGER_MEAN : t == ML_F64 ? WIDE : NARROW;
  case ML_OP_sum: return !floats ? INTEGERS : t == ML_F64 ? WIDE : NARROW;
  case ML_OP_prod: return !floats ? INTEGERS : WIDE;
  default: return WIDE;
  }
}
/* Of WIDE. */
static inline fold fold_of(int op) { return op == ML_OP_prod ? PRODUCT : op == ML_OP_norm ? SQUARES : SUM; }

/* Variances take distances from a centre and their squares, and from both the mean of a group of blocks and the squared
 * distances from it, which are joined in float64 (Chan's formula). The first group's centre is the mean of its first
 * block, a later one's that of what came before. Where that is far from the group's own, the groups differ by as much,
 * and so does the result: what the subtraction costs is a few units in the last place of what is large in it. */
enum { GROUP = 4 * REDUCE_BLOCK };

/* Of a block's elements: their distances from a centre, and the squares of those. */
typedef struct spread {
  double away, squares;
} spread;
/* Of some elements: their mean, less the base that it goes with, and squared distances from it. */
typedef struct moments {
  double mean, squares;
} moments;
static inline moments moments_about(double centre, spread s, int64_t n) {
  const double shift = s.away / (double)n, squares = s.squares - s.away * shift;
  return (moments){centre + shift, squares < 0 ? 0 : squares == squares ? squares : s.squares};
}

/* The same of lanes. */
typedef struct wide_spread {
  v16d away, squares;
} wide_spread;
ALWAYS_INLINE wide_spread wide_spread_start(void) { return (wide_spread){w_set1(0), w_set1(0)}; }
ALWAYS_INLINE wide_spread wide_spread_step(wide_spread s, v16d x, v16d centre) {
  x = w_sub(x, centre);
  return (wide_spread){w_add(s.away, x), w_square(x, s.squares)};
}

/* Float32 and narrower floats square in float32, whose sums of a block are as good as their elements unless they are
 * too large for it or so small that it loses digits: then the block is taken again, in float64 (partial.c). */
typedef struct narrow_spread {
  v16f away, squares;
} narrow_spread;
ALWAYS_INLINE narrow_spread narrow_spread_start(void) { return (narrow_spread){v_set1(0), v_set1(0)}; }
ALWAYS_INLINE narrow_spread narrow_spread_step(narrow_spread s, v16f x, v16f centre) {
  x = v_sub(x, centre);
  return (narrow_spread){v_add(s.away, x), v_fma(x, x, s.squares)};
}
static inline bool holds_squares(float sum) { return sum >= 1e-34f && sum <= FLT_MAX; }
static inline float centre_of_sum(float sum, int64_t n) { return (float)((double)sum / (double)n); }
double K(squares_of_block)(const char *data, ml_dtype dtype, int64_t n);
/* In float64; squares are NaN where an element is no number or infinite, and infinite where they have overflowed. */
spread K(spread_of_block)(const char *data, ml_dtype dtype, int64_t n, double centre);
/* Its mean, where a sum overflows too. */
double K(centre_of_block)(const char *data, ml_dtype dtype, int64_t n);

/* MOMENTS: n bytes that add up to `sum`, and their squares to `squares`, without any rounding: what their norm is the
 * root of, or their squared distances from the mean. */
static inline double moment_of(int op, int64_t sum, int64_t squares, int64_t n) {
  if (op == ML_OP_norm) return (double)squares;
  return (double)((__int128)squares * n - (__int128)sum * sum) / (double)n;
}

/* Joins means and squared distances from them (Chan's formula). Where a mean has overflowed, which makes the sum of
 * squares infinite, the distance of the means may be no number: it adds nothing then. */
ALWAYS_INLINE void join_moments(partial *p, moments m, int64_t n) {
  if (p->k == 0) {
    p->a = m.mean, p->b = m.squares, p->k = n;
    return;
  }
  double delta = m.mean - p->a, share = (double)n / (double)(p->k + n);
  double between = delta * delta * ((double)p->k * share);
  p->a += delta * share;
  p->b += m.squares + (between == between ? between : 0);
  p->k += n;
}

static inline void join_group(partial *p, int64_t n) {
  const moments m = moments_about(p->centre - p->base, (spread){p->away, p->squares}, n);
  p->k -= n;
  join_moments(p, m, n);
  p->away = p->squares = 0;
}

/* Before the first block: what distances are taken from, a float32 for narrow types. */
static inline void take_centre(partial *p, double centre) { p->centre = p->base = centre; }

/* Takes a block of n elements about p's centre. */
static inline void take_block(partial *p, spread s, int64_t n, bool narrow) {
  p->away += s.away, p->squares += s.squares, p->k += n;
  if (p->k % GROUP) return;
  join_group(p, GROUP);
  const double mean = p->base + p->a;
  if (isfinite(mean)) p->centre = narrow ? (double)(float)mean : mean; /* else a sum of distances has overflowed */
}

#endif
