/* dot_codes.h: 8-bit integer dot products with a scale a block, as templates: kind, sub, zero, has_min and n are
 * constants where they are used, and each use becomes a kernel of its own. */
#ifndef ML_CPU_DOT_CODES_H
#define ML_CPU_DOT_CODES_H

#include "tensor/cpu/isa/simd.h"
#include "tensor/cpu/isa/quant/format.h"

/* Activations rounded to 8 bits in blocks of 32: x = d * q, the sums of q over each 16, and over each 32 times d. Rows
 * are K apart in q. */
enum { ACT_BLOCK = 32, ACT_SUM = 16 };
struct act {
  const int8_t *q;     /* (rows, K) */
  const float *d;      /* (rows, K / 32) */
  const int32_t *sums; /* (rows, K / 16) */
  const float *scaled; /* (rows, K / 32) */
  int64_t K;
};

/* The sum of x's q over `sub` inputs from k on. */
ALWAYS_INLINE int32_t sum_of(const int32_t *sums, int64_t k, const int sub) {
  return sub == 16 ? sums[k / 16] : sums[k / 16] + sums[k / 16 + 1];
}

#if defined(ML_ISA_AVX512)

ALWAYS_INLINE void dot_codes_rows(const ml_code kind, const int sub, const int zero, const bool has_min, const int n,
                                  const uint8_t *codes, const float *scale, const float *min, const act *x, int64_t row,
                                  int64_t k0, int64_t count, float *acc) {
  __m512 a[8];
  const __m512i flip = _mm512_set1_epi8((char)0x80);
  const int offset = zero + (kind == ML_CODE_8_SIGNED ? 128 : 0);
  for (int r = 0; r < n; r++) a[r] = _mm512_loadu_ps(acc + r * LANES);
  for (int64_t k = 0; k < count; k += sub) {
    __m512i dot[8];
    for (int r = 0; r < n; r++) {
      int32_t sum = sum_of(x->sums + (row + r) * (x->K / ACT_SUM), k0 + k, sub);
      dot[r] = _mm512_set1_epi32(-offset * sum);
    }
    for (int g = 0; g < sub / 4; g++) {
      __m512i w = _mm512_loadu_si512(codes + (k / 4 + g) * 64);
      if (kind == ML_CODE_8_SIGNED) w = _mm512_xor_si512(w, flip);
      for (int r = 0; r < n; r++) {
        int32_t four;
        memcpy(&four, x->q + (row + r) * x->K + k0 + k + 4 * g, 4);
        dot[r] = _mm512_dpbusd_epi32(dot[r], w, _mm512_set1_epi32(four));
      }
    }
    __m512 s = _mm512_loadu_ps(scale + k / sub * LANES);
    for (int r = 0; r < n; r++) {
      int64_t block = (row + r) * (x->K / ACT_BLOCK) + (k0 + k) / ACT_BLOCK;
      a[r] = _mm512_fmadd_ps(_mm512_mul_ps(s, _mm512_set1_ps(x->d[block])), _mm512_cvtepi32_ps(dot[r]), a[r]);
      if (has_min) /* whose blocks are activations' */
        a[r] = _mm512_fmadd_ps(_mm512_loadu_ps(min + k / sub * LANES), _mm512_set1_ps(x->scaled[block]), a[r]);
    }
  }
  for (int r = 0; r < n; r++) _mm512_storeu_ps(acc + r * LANES, a[r]);
}

enum { MOST_ROWS = 8 };

#elif defined(ML_ISA_AVX2)

/* Pairs of products that fit 16 bits together: codes up to 15, 31, 63 times 127, two at a time. */
ALWAYS_INLINE int pairs_in_16_bits(ml_code kind) {
  return kind == ML_CODE_4 ? 8 : kind == ML_CODE_5 ? 4 : kind == ML_CODE_6 ? 2 : 1;
}

/* Eight of the sixteen rows: `half` 0 or 1. */
ALWAYS_INLINE void dot_half(const ml_code kind, const int sub, const int zero, const bool has_min, const int n,
                            const int half, const uint8_t *codes, const float *scale, const float *min, const act *x,
                            int64_t row, int64_t k0, int64_t count, float *acc) {
  const __m256i ones = _mm256_set1_epi16(1);
  const int group = pairs_in_16_bits(kind);
  __m256 a[4];
  for (int r = 0; r < n; r++) a[r] = _mm256_loadu_ps(acc + r * LANES + 8 * half);
  for (int64_t k = 0; k < count; k += sub) {
    __m256i dot[4];
    for (int r = 0; r < n; r++) {
      if (zero) dot[r] = _mm256_set1_epi32(-zero * sum_of(x->sums + (row + r) * (x->K / ACT_SUM), k0 + k, sub));
      else dot[r] = _mm256_setzero_si256();
    }
    for (int g = 0; g < sub / 4; g += group) {
      __m256i part[4];
      for (int i = 0; i < group && g + i < sub / 4; i++) {
        __m256i w = _mm256_loadu_si256((const void *)(codes + (k / 4 + g + i) * 64 + 32 * half));
        __m256i size = kind == ML_CODE_8_SIGNED ? _mm256_abs_epi8(w) : w;
        for (int r = 0; r < n; r++) {
          int32_t four;
          memcpy(&four, x->q + (row + r) * x->K + k0 + k + 4 * (g + i), 4);
          __m256i v = _mm256_set1_epi32(four);
          if (kind == ML_CODE_8_SIGNED) v = _mm256_sign_epi8(v, w);
          __m256i p = _mm256_maddubs_epi16(size, v);
          part[r] = i ? _mm256_add_epi16(part[r], p) : p;
        }
      }
      for (int r = 0; r < n; r++) dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(part[r], ones));
    }
    __m256 s = _mm256_loadu_ps(scale + k / sub * LANES + 8 * half);
    for (int r = 0; r < n; r++) {
      int64_t block = (row + r) * (x->K / ACT_BLOCK) + (k0 + k) / ACT_BLOCK;
      a[r] = _mm256_fmadd_ps(_mm256_mul_ps(s, _mm256_set1_ps(x->d[block])), _mm256_cvtepi32_ps(dot[r]), a[r]);
      if (has_min)
        a[r] =
            _mm256_fmadd_ps(_mm256_loadu_ps(min + k / sub * LANES + 8 * half), _mm256_set1_ps(x->scaled[block]), a[r]);
    }
  }
  for (int r = 0; r < n; r++) _mm256_storeu_ps(acc + r * LANES + 8 * half, a[r]);
}

ALWAYS_INLINE void dot_codes_rows(const ml_code kind, const int sub, const int zero, const bool has_min, const int n,
                                  const uint8_t *codes, const float *scale, const float *min, const act *x, int64_t row,
                                  int64_t k0, int64_t count, float *acc) {
  dot_half(kind, sub, zero, has_min, n, 0, codes, scale, min, x, row, k0, count, acc);
  dot_half(kind, sub, zero, has_min, n, 1, codes, scale, min, x, row, k0, count, acc);
}

enum { MOST_ROWS = 4 };

#else

ALWAYS_INLINE void dot_codes_rows(const ml_code kind, const int sub, const int zero, const bool has_min, const int n,
                                  const uint8_t *codes, const float *scale, const float *min, const act *x, int64_t row,
                                  int64_t k0, int64_t count, float *acc) {
  for (int r = 0; r < n; r++) {
    const int8_t *q = x->q + (row + r) * x->K + k0;
    for (int64_t k = 0; k < count; k += sub) {
      const int64_t block = (row + r) * (x->K / ACT_BLOCK) + (k0 + k) / ACT_BLOCK;
      const float d = x->d[block];
      int32_t sum = sum_of(x->sums + (row + r) * (x->K / ACT_SUM), k0 + k, sub);
      for (int lane = 0; lane < LANES; lane++) {
        int32_t dot = -zero * sum;
        for (int i = 0; i < sub; i++) {
          uint8_t code = codes[k / 4 * 64 + code_index(i, lane)];
          dot += (kind == ML_CODE_8_SIGNED ? (int8_t)code : code) * q[k + i];
        }
        int64_t at = k / sub * LANES + lane;
        acc[r * LANES + lane] += scale[at] * d * (float)dot;
        if (has_min) acc[r * LANES + lane] += min[at] * x->scaled[block];
      }
    }
  }
}

enum { MOST_ROWS = 4 };

#endif

/* The body of a format's `stream`: each block is expanded and used at once, while later ones are on their way from
 * memory. */
ALWAYS_INLINE void stream_blocks(const ml_format *f, const uint8_t *p, int64_t count, const act *x, int64_t row,
                                 float *acc) {
  _Alignas(64) uint8_t room[MAX_BLOCK * PANEL_ROWS];
  _Alignas(64) float scale[MAX_BLOCK / 16 * PANEL_ROWS], min[MAX_BLOCK / 16 * PANEL_ROWS];
  int64_t bytes = 0;
  for (int i = 0; i < f->of.n_fields; i++) bytes += f->of.fields[i].bytes * PANEL_ROWS;
  for (int64_t k = 0; k < count; k += f->of.block, p += bytes) {
    for (int64_t b = 0; b < bytes; b += LINE) __builtin_prefetch(p + PREFETCH_AHEAD + b);
    const uint8_t *codes = room;
    if (f->in_place) {
      load_halves(p, scale);
      codes = p + f->in_place;
    } else {
      f->expand(f, p, room, scale, min);
    }
    dot_codes_rows(f->of.code, f->of.sub, f->of.zero, f->of.has_min, 1, codes, scale, min, x, row, k, f->of.block, acc);
  }
}

#endif
