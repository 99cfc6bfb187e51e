/* dot.c: rounding of activations; products of expanded tiles with a few rows of them, rounded or float32. */
#include "tensor/cpu/isa/dot.h"
#include "tensor/cpu/isa/dot_codes.h"

/* ---- rounding ---- */

/* Adding it to what is smaller than 2^22 rounds that to an integer. */
static const float TO_INTEGER = 12582912.0f; /* 1.5 * 2^23 */

/* Tiny blocks become 0. The scale of a block that is not finite makes its products NaN, whatever the codes. `bits`: of
 * the largest magnitude, compared as integers, so that NaN is larger than all else. */
typedef struct rounding {
  float scale, inverse;
  bool rounds;
} rounding;

static inline rounding rounding_of(uint32_t bits) {
  union {
    uint32_t u;
    float f;
  } most = {.u = bits};
  bool rounds = most.f > 1e-36f && most.f < INFINITY;
  return (rounding){most.f / 127.0f, rounds ? 127.0f / most.f : 0.0f, rounds};
}

static int32_t round_part(const float *x, int64_t count, int8_t *restrict q, float *d, int32_t *sums) {
  uint32_t bits = 0;
  int32_t all = 0;
  for (int64_t i = 0; i < count; i++) {
    union {
      float f;
      uint32_t u;
    } a = {.f = x[i]};
    a.u &= 0x7fffffffu;
    bits = a.u > bits ? a.u : bits;
  }
  const rounding by = rounding_of(bits);
  *d = by.scale;
  for (int64_t half = 0; half < count; half += ACT_SUM) {
    int32_t sum = 0;
    int64_t end = ml_min64(half + ACT_SUM, count);
    for (int64_t i = half; i < end; i++) {
      float r = (by.rounds ? x[i] : 0.0f) * by.inverse + TO_INTEGER;
      int32_t v = (int32_t)(r - TO_INTEGER);
      q[i] = (int8_t)v;
      sum += v;
    }
    sums[half / ACT_SUM] = sum;
    all += sum;
  }
  return all;
}

#if defined(ML_ISA_AVX512)
ALWAYS_INLINE int32_t round_half(__m512 x, rounding by, int8_t *q) {
  const __m512 magic = _mm512_set1_ps(TO_INTEGER);
  const __m512 r = _mm512_mul_ps(by.rounds ? x : _mm512_setzero_ps(), _mm512_set1_ps(by.inverse));
  const __m512i v = _mm512_cvttps_epi32(_mm512_sub_ps(_mm512_add_ps(r, magic), magic));
  i_store_bytes(q, v);
  return _mm512_reduce_add_epi32(v);
}

static int32_t round_block(const float *x, int8_t *q, float *d, int32_t *sums) {
  const __m512i size = _mm512_set1_epi32(0x7fffffff);
  const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + ACT_SUM);
  const __m512i a = _mm512_and_si512(_mm512_castps_si512(low), size),
                b = _mm512_and_si512(_mm512_castps_si512(high), size);
  const rounding by = rounding_of(_mm512_reduce_max_epu32(_mm512_max_epu32(a, b)));
  *d = by.scale;
  sums[0] = round_half(low, by, q), sums[1] = round_half(high, by, q + ACT_SUM);
  return sums[0] + sums[1];
}
#else
static int32_t round_block(const float *x, int8_t *q, float *d, int32_t *sums) {
  return round_part(x, ACT_BLOCK, q, d, sums);
}
#endif

void K(round_row)(const float *x, int64_t n, const act *to, int64_t row) {
  const int64_t blocks = n / ACT_BLOCK, all = (n + ACT_BLOCK - 1) / ACT_BLOCK;
  int8_t *q = (int8_t *)(uintptr_t)to->q + row * n;
  float *d = (float *)(uintptr_t)to->d + row * all, *scaled = (float *)(uintptr_t)to->scaled + row * all;
  int32_t *sums = (int32_t *)(uintptr_t)to->sums + row * 2 * all;
  for (int64_t b = 0; b < all; b++) {
    const int64_t at = b * ACT_BLOCK;
    const int32_t sum = b < blocks ? round_block(x + at, q + at, d + b, sums + 2 * b)
                                   : round_part(x + at, n - at, q + at, d + b, sums + 2 * b);
    scaled[b] = d[b] * (float)sum;
  }
}

/* ---- float32 ---- */

ALWAYS_INLINE void dot_floats_rows(const float *w, const float *x, int64_t pitch, const int n, int64_t count,
                                   float *acc) {
  v16f a[8];
  for (int r = 0; r < n; r++) a[r] = v_load(acc + r * LANES);
#pragma GCC unroll 4
  for (int64_t k = 0; k < count; k++) {
    v16f weight = v_load(w + k * LANES);
    for (int r = 0; r < n; r++) a[r] = v_fma(v_set1(x[r * pitch + k]), weight, a[r]);
  }
  for (int r = 0; r < n; r++) v_store(acc + r * LANES, a[r]);
}

void K(dot_floats)(const float *w, const float *x, int64_t pitch, int rows, int64_t count, float *acc) {
  for (; rows >= 6; rows -= 6, x += 6 * pitch, acc += 6 * LANES) dot_floats_rows(w, x, pitch, 6, count, acc);
  for (; rows >= 2; rows -= 2, x += 2 * pitch, acc += 2 * LANES) dot_floats_rows(w, x, pitch, 2, count, acc);
  if (rows) dot_floats_rows(w, x, pitch, 1, count, acc);
}

ALWAYS_INLINE void dot_floats_apart(const float *w, const float *const *x, const int n, int64_t count, float *acc) {
  v16f a[DOT_ROWS];
  const float *rows[DOT_ROWS];
  for (int r = 0; r < n; r++) a[r] = v_load(acc + r * LANES), rows[r] = x[r];
#pragma GCC unroll 4
  for (int64_t k = 0; k < count; k++) {
    v16f weight = v_load(w + k * LANES);
    for (int r = 0; r < n; r++) a[r] = v_fma(v_set1(rows[r][k]), weight, a[r]);
  }
  for (int r = 0; r < n; r++) v_store(acc + r * LANES, a[r]);
}

void K(dot_floats_at)(const float *w, const float *const *x, int rows, int64_t count, float *acc) {
  switch (rows) {
  case 1: dot_floats_apart(w, x, 1, count, acc); return;
  case 2: dot_floats_apart(w, x, 2, count, acc); return;
  case 3: dot_floats_apart(w, x, 3, count, acc); return;
  case 4: dot_floats_apart(w, x, 4, count, acc); return;
  case 5: dot_floats_apart(w, x, 5, count, acc); return;
  default: dot_floats_apart(w, x, DOT_ROWS, count, acc);
  }
}

/* ---- 8-bit codes ---- */

#define ROWS_CASE(KIND, SUB, ZERO, MIN, N)                                                                             \
  dot_codes_rows(KIND, SUB, ZERO, MIN, N, codes, scale, min, x, row, k0, count, acc)
#define FORMAT_CASE(KIND, SUB, ZERO, MIN)                                                                              \
  do {                                                                                                                 \
    for (; rows >= MOST_ROWS; rows -= MOST_ROWS, row += MOST_ROWS, acc += MOST_ROWS * LANES)                           \
      ROWS_CASE(KIND, SUB, ZERO, MIN, MOST_ROWS);                                                                      \
    for (; rows >= 2; rows -= 2, row += 2, acc += 2 * LANES) ROWS_CASE(KIND, SUB, ZERO, MIN, 2);                       \
    if (rows) ROWS_CASE(KIND, SUB, ZERO, MIN, 1);                                                                      \
  } while (0)

void K(dot_codes)(const ml_format *f, const uint8_t *codes, const float *scale, const float *min, const act *x,
                  int64_t row, int rows, int64_t k0, int64_t count, float *acc) {
  switch (f->of.code) {
  case ML_CODE_4:
    if (f->of.has_min) FORMAT_CASE(ML_CODE_4, 32, 0, true);
    else FORMAT_CASE(ML_CODE_4, 32, 8, false);
    return;
  case ML_CODE_5:
    if (f->of.has_min) FORMAT_CASE(ML_CODE_5, 32, 0, true);
    else FORMAT_CASE(ML_CODE_5, 32, 16, false);
    return;
  case ML_CODE_6:
    if (f->of.has_min) FORMAT_CASE(ML_CODE_6, 32, 0, true);
    else FORMAT_CASE(ML_CODE_6, 16, 32, false);
    return;
  case ML_CODE_8_SIGNED:
    if (f->of.has_min) FORMAT_CASE(ML_CODE_8_SIGNED, 32, -128, true);
    else FORMAT_CASE(ML_CODE_8_SIGNED, 32, 0, false);
    return;
  default: return;
  }
}
