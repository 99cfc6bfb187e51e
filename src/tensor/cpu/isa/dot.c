/* dot.c: rounding of activations; products of expanded tiles with a few rows of them, rounded or float32. */
#include "tensor/cpu/isa/dot.h"
#include "tensor/cpu/isa/dot_codes.h"

/* ---- rounding ---- */

void K(round_row)(const float *x, int64_t n, int8_t *restrict q, float *restrict d, int32_t *restrict sums) {
  for (int64_t b = 0; b < n; b += ACT_BLOCK) {
    int64_t count = ml_min64(ACT_BLOCK, n - b);
    uint32_t bits = 0; /* of the largest magnitude: compared as integers, so that NaN is larger than all else */
    for (int64_t i = 0; i < count; i++) {
      union {
        float f;
        uint32_t u;
      } a = {.f = x[b + i]};
      a.u &= 0x7fffffffu;
      bits = a.u > bits ? a.u : bits;
    }
    union {
      uint32_t u;
      float f;
    } most = {.u = bits};
    float scale = most.f / 127.0f;
    /* Tiny blocks become 0. The scale of a block that is not finite makes its products NaN, whatever the codes. */
    bool rounds = most.f > 1e-36f && most.f < INFINITY;
    float inverse = rounds ? 127.0f / most.f : 0.0f;
    d[b / ACT_BLOCK] = scale;
    for (int64_t half = 0; half < count; half += ACT_SUM) {
      int32_t sum = 0;
      int64_t end = ml_min64(half + ACT_SUM, count);
      for (int64_t i = half; i < end; i++) {
        float r = (rounds ? x[b + i] : 0.0f) * inverse + 12582912.0f; /* adding 1.5 * 2^23 rounds to an integer */
        int32_t v = (int32_t)(r - 12582912.0f);
        q[b + i] = (int8_t)v;
        sum += v;
      }
      sums[(b + half) / ACT_SUM] = sum;
    }
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
