/* simd.h: sixteen float lanes on every instruction set, so that kernels are written once. */
#ifndef ML_CPU_SIMD_H
#define ML_CPU_SIMD_H

#include "tensor/cpu/isa/kernels.h"

#include <math.h>
#include <string.h>
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
#include <immintrin.h>
#endif

enum { LANES = 16, LINE = 64 }; /* LINE: bytes of a cache's line */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Asks for what a loop along memory reads LOOK_AHEAD bytes, a few hundred cycles, later. Processors look ahead by
 * themselves, but not past the end of a page, and what waits to be added keeps them from seeing far. */
enum { LOOK_AHEAD = 2048 };
ALWAYS_INLINE void look_ahead(const void *p) { __builtin_prefetch((const void *)((uintptr_t)p + LOOK_AHEAD)); }

#if defined(ML_ISA_AVX512)
typedef __m512 v16f;
ALWAYS_INLINE v16f v_load(const float *p) { return _mm512_loadu_ps(p); }
ALWAYS_INLINE void v_store(float *p, v16f a) { _mm512_storeu_ps(p, a); }
ALWAYS_INLINE v16f v_set1(float f) { return _mm512_set1_ps(f); }
ALWAYS_INLINE v16f v_add(v16f a, v16f b) { return _mm512_add_ps(a, b); }
ALWAYS_INLINE v16f v_sub(v16f a, v16f b) { return _mm512_sub_ps(a, b); }
ALWAYS_INLINE v16f v_mul(v16f a, v16f b) { return _mm512_mul_ps(a, b); }
ALWAYS_INLINE v16f v_max(v16f a, v16f b) { return _mm512_max_ps(a, b); }
ALWAYS_INLINE v16f v_min(v16f a, v16f b) { return _mm512_min_ps(a, b); }
ALWAYS_INLINE v16f v_fma(v16f a, v16f b, v16f c) { return _mm512_fmadd_ps(a, b, c); } /* a b + c */
ALWAYS_INLINE v16f v_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
ALWAYS_INLINE v16f v_load_bf16(const uint16_t *p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}
/* Zeros behind the first n lanes. */
ALWAYS_INLINE v16f v_keep(v16f a, int n) { return _mm512_maskz_mov_ps((__mmask16)((1u << n) - 1), a); }
#elif defined(ML_ISA_AVX2)
typedef struct v16f {
  __m256 lo, hi;
} v16f;
ALWAYS_INLINE v16f v_load(const float *p) { return (v16f){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
ALWAYS_INLINE void v_store(float *p, v16f a) { _mm256_storeu_ps(p, a.lo), _mm256_storeu_ps(p + 8, a.hi); }
ALWAYS_INLINE v16f v_set1(float f) { return (v16f){_mm256_set1_ps(f), _mm256_set1_ps(f)}; }
ALWAYS_INLINE v16f v_add(v16f a, v16f b) { return (v16f){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
ALWAYS_INLINE v16f v_sub(v16f a, v16f b) { return (v16f){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
ALWAYS_INLINE v16f v_mul(v16f a, v16f b) { return (v16f){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
ALWAYS_INLINE v16f v_max(v16f a, v16f b) { return (v16f){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
ALWAYS_INLINE v16f v_min(v16f a, v16f b) { return (v16f){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
ALWAYS_INLINE v16f v_fma(v16f a, v16f b, v16f c) {
  return (v16f){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
ALWAYS_INLINE v16f v_load_f16(const uint16_t *p) {
  return (v16f){_mm256_cvtph_ps(_mm_loadu_si128((const void *)p)),
                _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 8)))};
}
ALWAYS_INLINE v16f v_load_bf16(const uint16_t *p) {
  __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)),
          hi = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(p + 8)));
  return (v16f){_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}
/* Half of a mask whose first n lanes, 1 to 15, are set. */
ALWAYS_INLINE __m256 v_part(int n, int half) {
  static const int32_t mask[2 * LANES] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_castsi256_ps(_mm256_loadu_si256((const void *)(mask + LANES - n + half * LANES / 2)));
}
ALWAYS_INLINE v16f v_keep(v16f a, int n) {
  return (v16f){_mm256_and_ps(a.lo, v_part(n, 0)), _mm256_and_ps(a.hi, v_part(n, 1))};
}
#else
typedef struct v16f {
  float f[LANES];
} v16f;
#define EACH for (int i_ = 0; i_ < LANES; i_++)
ALWAYS_INLINE v16f v_load(const float *p) {
  v16f r;
  EACH r.f[i_] = p[i_];
  return r;
}
ALWAYS_INLINE void v_store(float *p, v16f a) { EACH p[i_] = a.f[i_]; }
ALWAYS_INLINE v16f v_set1(float f) {
  v16f r;
  EACH r.f[i_] = f;
  return r;
}
ALWAYS_INLINE v16f v_add(v16f a, v16f b) {
  EACH a.f[i_] += b.f[i_];
  return a;
}
ALWAYS_INLINE v16f v_sub(v16f a, v16f b) {
  EACH a.f[i_] -= b.f[i_];
  return a;
}
ALWAYS_INLINE v16f v_mul(v16f a, v16f b) {
  EACH a.f[i_] *= b.f[i_];
  return a;
}
ALWAYS_INLINE v16f v_max(v16f a, v16f b) {
  EACH a.f[i_] = a.f[i_] > b.f[i_] ? a.f[i_] : b.f[i_];
  return a;
}
ALWAYS_INLINE v16f v_min(v16f a, v16f b) {
  EACH a.f[i_] = a.f[i_] < b.f[i_] ? a.f[i_] : b.f[i_];
  return a;
}
ALWAYS_INLINE v16f v_fma(v16f a, v16f b, v16f c) {
  EACH c.f[i_] += a.f[i_] * b.f[i_];
  return c;
}
ALWAYS_INLINE v16f v_load_f16(const uint16_t *p) {
  v16f r;
  EACH r.f[i_] = ml_f16_to_f32(p[i_]);
  return r;
}
ALWAYS_INLINE v16f v_load_bf16(const uint16_t *p) {
  v16f r;
  EACH r.f[i_] = ml_bf16_to_f32(p[i_]);
  return r;
}
ALWAYS_INLINE v16f v_keep(v16f a, int n) {
  EACH a.f[i_] = i_ < n ? a.f[i_] : 0;
  return a;
}
#endif

/* Sixteen integers of 32 bits. */
#if defined(ML_ISA_AVX512)
typedef __m512i v16i;
ALWAYS_INLINE v16i i_load(const int32_t *p) { return _mm512_loadu_si512(p); }
ALWAYS_INLINE void i_store(int32_t *p, v16i a) { _mm512_storeu_si512(p, a); }
ALWAYS_INLINE v16i i_truncate(v16f a) { return _mm512_cvttps_epi32(a); }
ALWAYS_INLINE v16f i_floats(v16i a) { return _mm512_cvtepi32_ps(a); }
/* The lower bytes, and the lower halves. */
ALWAYS_INLINE void i_store_bytes(void *p, v16i a) { _mm_storeu_si128(p, _mm512_cvtepi32_epi8(a)); }
ALWAYS_INLINE void i_store_halves(void *p, v16i a) { _mm256_storeu_si256(p, _mm512_cvtepi32_epi16(a)); }
ALWAYS_INLINE v16i i_load_i8(const void *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128(p)); }
ALWAYS_INLINE v16i i_load_u8(const void *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
ALWAYS_INLINE v16i i_load_i16(const void *p) { return _mm512_cvtepi16_epi32(_mm256_loadu_si256(p)); }
ALWAYS_INLINE v16i i_load_u16(const void *p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256(p)); }
#elif defined(ML_ISA_AVX2)
typedef struct v16i {
  __m256i lo, hi;
} v16i;
ALWAYS_INLINE v16i i_load(const int32_t *p) {
  return (v16i){_mm256_loadu_si256((const void *)p), _mm256_loadu_si256((const void *)(p + 8))};
}
ALWAYS_INLINE void i_store(int32_t *p, v16i a) {
  _mm256_storeu_si256((void *)p, a.lo), _mm256_storeu_si256((void *)(p + 8), a.hi);
}
ALWAYS_INLINE v16i i_truncate(v16f a) { return (v16i){_mm256_cvttps_epi32(a.lo), _mm256_cvttps_epi32(a.hi)}; }
ALWAYS_INLINE v16f i_floats(v16i a) { return (v16f){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
/* Of lanes that are 0 to 65535. */
ALWAYS_INLINE __m256i i_pack(v16i a) { return _mm256_permute4x64_epi64(_mm256_packus_epi32(a.lo, a.hi), 0xd8); }
ALWAYS_INLINE v16i i_and(v16i a, int32_t bits) {
  const __m256i mask = _mm256_set1_epi32(bits);
  return (v16i){_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask)};
}
/* The lower bytes, and the lower halves. */
ALWAYS_INLINE void i_store_bytes(void *p, v16i a) {
  const __m256i words = i_pack(i_and(a, 0xff));
  _mm_storeu_si128(p, _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
ALWAYS_INLINE void i_store_halves(void *p, v16i a) { _mm256_storeu_si256(p, i_pack(i_and(a, 0xffff))); }
ALWAYS_INLINE v16i i_load_i8(const void *p) {
  const __m128i x = _mm_loadu_si128(p);
  return (v16i){_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))};
}
ALWAYS_INLINE v16i i_load_u8(const void *p) {
  const __m128i x = _mm_loadu_si128(p);
  return (v16i){_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))};
}
ALWAYS_INLINE v16i i_load_i16(const void *p) {
  const __m128i *x = p;
  return (v16i){_mm256_cvtepi16_epi32(_mm_loadu_si128(x)), _mm256_cvtepi16_epi32(_mm_loadu_si128(x + 1))};
}
ALWAYS_INLINE v16i i_load_u16(const void *p) {
  const __m128i *x = p;
  return (v16i){_mm256_cvtepu16_epi32(_mm_loadu_si128(x)), _mm256_cvtepu16_epi32(_mm_loadu_si128(x + 1))};
}
#endif

/* Rounded as ml_f32_to_f16 and ml_f32_to_bf16 do. */
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
ALWAYS_INLINE __m256i v_to_f16(v16f a) {
#if defined(ML_ISA_AVX512)
  const __m256i h = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT);
#else
  const __m256i h = _mm256_set_m128i(_mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT),
                                     _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
#endif
  const __m256i rest = _mm256_and_si256(h, _mm256_set1_epi16(0x7fff)), sign = _mm256_xor_si256(h, rest);
  const __m256i nan = _mm256_cmpgt_epi16(rest, _mm256_set1_epi16(0x7c00)); /* one for all */
  const __m256i one = _mm256_blendv_epi8(rest, _mm256_set1_epi16(0x7e00), nan);
  return _mm256_or_si256(sign, one);
}
ALWAYS_INLINE void v_store_f16(uint16_t *p, v16f a) { _mm256_storeu_si256((void *)p, v_to_f16(a)); }
#if defined(ML_ISA_AVX512)
ALWAYS_INLINE __m512i round_bf16(__m512 f) {
  const __m512i bits = _mm512_castps_si512(f), top = _mm512_srli_epi32(bits, 16);
  const __m512i up = _mm512_add_epi32(_mm512_and_si512(top, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
  return _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q), top, _mm512_set1_epi32(64));
}
ALWAYS_INLINE void v_store_bf16(uint16_t *p, v16f a) { i_store_halves(p, round_bf16(a)); }
/* Rounded to the dtype, as float32. */
ALWAYS_INLINE v16f v_round_bf16(v16f a) { return _mm512_castsi512_ps(_mm512_slli_epi32(round_bf16(a), 16)); }
ALWAYS_INLINE v16f v_round_f16(v16f a) { return _mm512_cvtph_ps(v_to_f16(a)); }
#else
ALWAYS_INLINE __m256i round_bf16(__m256 f) {
  const __m256i bits = _mm256_castps_si256(f), top = _mm256_srli_epi32(bits, 16);
  const __m256i up = _mm256_add_epi32(_mm256_and_si256(top, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(f, f, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(_mm256_srli_epi32(_mm256_add_epi32(bits, up), 16),
                            _mm256_or_si256(top, _mm256_set1_epi32(64)), nan);
}
ALWAYS_INLINE void v_store_bf16(uint16_t *p, v16f a) {
  _mm256_storeu_si256((void *)p, i_pack((v16i){round_bf16(a.lo), round_bf16(a.hi)}));
}
ALWAYS_INLINE v16f v_round_bf16(v16f a) {
  return (v16f){_mm256_castsi256_ps(_mm256_slli_epi32(round_bf16(a.lo), 16)),
                _mm256_castsi256_ps(_mm256_slli_epi32(round_bf16(a.hi), 16))};
}
ALWAYS_INLINE v16f v_round_f16(v16f a) {
  const __m256i h = v_to_f16(a);
  return (v16f){_mm256_cvtph_ps(_mm256_castsi256_si128(h)), _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1))};
}
#endif
#else
ALWAYS_INLINE void v_store_f16(uint16_t *p, v16f a) { EACH p[i_] = ml_f32_to_f16(a.f[i_]); }
ALWAYS_INLINE void v_store_bf16(uint16_t *p, v16f a) { EACH p[i_] = ml_f32_to_bf16(a.f[i_]); }
ALWAYS_INLINE v16f v_round_f16(v16f a) {
  EACH a.f[i_] = ml_f16_to_f32(ml_f32_to_f16(a.f[i_]));
  return a;
}
ALWAYS_INLINE v16f v_round_bf16(v16f a) {
  EACH a.f[i_] = ml_bf16_to_f32(ml_f32_to_bf16(a.f[i_]));
  return a;
}
#endif

/* The first n lanes, 1 to 15: nothing behind them is touched, and what is loaded has `rest` there. Not by masks: what
 * they leave out still makes the next row wait, as if it had been written. */
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
ALWAYS_INLINE __m128 v_load_few(const float *p, int n, __m128 rest) {
  if (n == 1) return _mm_move_ss(rest, _mm_load_ss(p));
  if (n & 2) rest = _mm_loadl_pi(rest, (const __m64 *)(const void *)p);
  return n == 3 ? _mm_insert_ps(rest, _mm_load_ss(p + 2), 0x20) : rest;
}
ALWAYS_INLINE void v_store_few(float *p, __m128 a, int n) {
  if (n & 2) {
    _mm_storel_pi((__m64 *)(void *)p, a);
    a = _mm_movehl_ps(a, a), p += 2;
  }
  if (n & 1) _mm_store_ss(p, a);
}
ALWAYS_INLINE v16f v_join(__m256 lo, __m256 hi) {
#if defined(ML_ISA_AVX512)
  return _mm512_insertf32x8(_mm512_castps256_ps512(lo), hi, 1);
#else
  return (v16f){lo, hi};
#endif
}
ALWAYS_INLINE __m256 v_half(v16f a, int half) {
#if defined(ML_ISA_AVX512)
  return half ? _mm512_extractf32x8_ps(a, 1) : _mm512_castps512_ps256(a);
#else
  return half ? a.hi : a.lo;
#endif
}
ALWAYS_INLINE v16f v_load_part(const float *p, int n, float rest) {
  const __m128 q = _mm_set1_ps(rest), last = v_load_few(p + (n & ~3), n & 3, q);
  const __m256 none = _mm256_set1_ps(rest);
  __m256 half = (n & 4) ? _mm256_set_m128(last, _mm_loadu_ps(p + (n & 8))) : _mm256_set_m128(q, last);
  return (n & 8) ? v_join(_mm256_loadu_ps(p), half) : v_join(half, none);
}
ALWAYS_INLINE void v_store_part(float *p, v16f a, int n) {
  __m256 half = v_half(a, (n & 8) != 0);
  if (n & 8) _mm256_storeu_ps(p, v_half(a, 0));
  if (n & 4) _mm_storeu_ps(p + (n & 8), _mm256_castps256_ps128(half));
  v_store_few(p + (n & ~3), (n & 4) ? _mm256_extractf128_ps(half, 1) : _mm256_castps256_ps128(half), n & 3);
}
#else
ALWAYS_INLINE v16f v_load_part(const float *p, int n, float rest) {
  v16f r;
  EACH r.f[i_] = i_ < n ? p[i_] : rest;
  return r;
}
ALWAYS_INLINE void v_store_part(float *p, v16f a, int n) {
  for (int i = 0; i < n; i++) p[i] = a.f[i];
}
#endif

/* Returns all lanes of `a` folded by v_OP, in the same order everywhere: halves of sixteen, of eight, of four, of two.
 */
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
#define FOLD_LANES(OP, a)                                                                                              \
  do {                                                                                                                 \
    __m256 e = _mm256_##OP                                                                                             \
    ##_ps(v_half(a, 0), v_half(a, 1));                                                                                 \
    __m128 q = _mm_##OP                                                                                                \
    ##_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));                                                     \
    q = _mm_##OP                                                                                                       \
    ##_ps(q, _mm_movehl_ps(q, q));                                                                                     \
    return _mm_cvtss_f32(_mm_##OP##_ss(q, _mm_movehdup_ps(q)));                                                        \
  } while (0)
#else
#define FOLD_LANES(OP, a)                                                                                              \
  do {                                                                                                                 \
    for (int n = LANES / 2; n > 0; n /= 2) {                                                                           \
      v16f upper = a;                                                                                                  \
      for (int i = 0; i < n; i++) upper.f[i] = a.f[i + n];                                                             \
      a = v_##OP(a, upper);                                                                                            \
    }                                                                                                                  \
    return a.f[0];                                                                                                     \
  } while (0)
#endif
ALWAYS_INLINE float v_sum(v16f a) { FOLD_LANES(add, a); }
/* The largest lane; NaNs are passed over, and leave -infinity where there is nothing else. */
ALWAYS_INLINE float v_max_lane(v16f a) {
  a = v_max(a, v_set1(-INFINITY));
  FOLD_LANES(max, a);
}

/* Eight lanes, for rows so short that the time of one is a chain of instructions: half of a vector is folded with one
 * step less, in the order of FOLD_LANES, and into all lanes at once. */
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
enum { FEW = LANES / 2 };
ALWAYS_INLINE __m256 few_load(const float *p, int n, float rest) { /* 1 to 8 */
  return n == FEW ? _mm256_loadu_ps(p) : v_half(v_load_part(p, n, rest), 0);
}
ALWAYS_INLINE void few_store(float *p, __m256 a, int n) {
  if (n & 8) _mm256_storeu_ps(p, a);
  if (n & 4) _mm_storeu_ps(p, _mm256_castps256_ps128(a));
  v_store_few(p + (n & 4), (n & 4) ? _mm256_extractf128_ps(a, 1) : _mm256_castps256_ps128(a), n & 3);
}
#define FOLD_FEW(OP, a)                                                                                                \
  do {                                                                                                                 \
    a = _mm256_##OP                                                                                                    \
    ##_ps(a, _mm256_permute2f128_ps(a, a, 1));                                                                         \
    a = _mm256_##OP                                                                                                    \
    ##_ps(a, _mm256_permute_ps(a, 0x4e));                                                                              \
    return _mm256_##OP                                                                                                 \
    ##_ps(a, _mm256_permute_ps(a, 0xb1));                                                                              \
  } while (0)
ALWAYS_INLINE __m256 few_sum(__m256 a) { FOLD_FEW(add, a); }
ALWAYS_INLINE __m256 few_max(__m256 a) { FOLD_FEW(max, a); }
#endif

/* One element of any float dtype as float32. */
ALWAYS_INLINE float load_float(const char *data, ml_dtype t, int64_t i) {
  if (t == ML_F32) return ((const float *)data)[i];
  if (t == ML_F16) return ml_f16_to_f32(((const uint16_t *)data)[i]);
  return ml_bf16_to_f32(((const uint16_t *)data)[i]);
}

ALWAYS_INLINE void store_float(char *data, ml_dtype t, int64_t i, float f) {
  if (t == ML_F32) ((float *)data)[i] = f;
  else if (t == ML_F16) ((uint16_t *)data)[i] = ml_f32_to_f16(f);
  else ((uint16_t *)data)[i] = ml_f32_to_bf16(f);
}

/* One element of any integer dtype or bool; of uint64 its bits. */
ALWAYS_INLINE int64_t load_index(const char *data, ml_dtype t, int64_t i) {
  switch (t) {
  case ML_I64:
  case ML_U64: return ((const int64_t *)data)[i];
  case ML_I32: return ((const int32_t *)data)[i];
  case ML_U32: return ((const uint32_t *)data)[i];
  case ML_I16: return ((const int16_t *)data)[i];
  case ML_U16: return ((const uint16_t *)data)[i];
  case ML_I8: return ((const int8_t *)data)[i];
  case ML_BOOL: return ((const uint8_t *)data)[i] != 0;
  default: return ((const uint8_t *)data)[i];
  }
}

/* Entry i of `index` where it is in 0..limit-1; else -1, and the fault is reported. */
ALWAYS_INLINE int64_t checked_index(ml_worker *w, int op, const ml_arg *index, int64_t i, int64_t limit) {
  int64_t at = load_index(index->data, index->dtype, i);
  if (at >= 0 && at < limit) return at;
  ml_raise_fault(w, op, index, at, limit);
  return -1;
}

#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
static const float ROUNDS = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */

/* x / ln 2, to which ROUNDS is added: its lowest bits are the integer. */
ALWAYS_INLINE float exp_shifted(float x) { return __builtin_fmaf(x, 1.44269504088896341f, ROUNDS); }

/* e to the power x - k ln 2, which is in [-ln2/2, ln2/2]: Cephes' polynomial, terms in pairs, which makes a shorter
 * chain. */
ALWAYS_INLINE float exp_rest(float x, float k) {
  float r = __builtin_fmaf(k, -0.693359375f, x);
  r = __builtin_fmaf(k, 2.12194440e-4f, r);
  const float square = r * r, low = __builtin_fmaf(1.6666665459e-1f, r, 5.0000001201e-1f);
  float p = __builtin_fmaf(1.9875691500e-4f, r, 1.3981999507e-3f);
  p = __builtin_fmaf(p, square, __builtin_fmaf(8.3334519073e-3f, r, 4.1665795894e-2f));
  p = __builtin_fmaf(p, square, low);
  return __builtin_fmaf(p, square, r) + 1.0f;
}
#endif

/* e to the power x: within 2 units in the last place, written without branches so that compilers vectorise it. */
ALWAYS_INLINE float fast_exp(float x) {
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
  float above = x < 89.0f ? x : 89.0f;
  float clamped = x > -104.0f ? above : 0; /* what gives 0, and NaN, without the subnormals that cost a trap each */
  float k = exp_shifted(clamped) - ROUNDS, p = exp_rest(clamped, k);
  int32_t n = (int32_t)k, half = n >> 1; /* in two factors, so that subnormal results are reached */
  union {
    int32_t i;
    float f;
  } a = {.i = (half + 127) << 23}, b = {.i = (n - half + 127) << 23};
  float y = p * a.f * b.f;
  y = x > -104.0f ? y : 0;
  return x != x ? x : y;
#else
  return expf(x);
#endif
}

#if defined(ML_ISA_AVX512)
/* The same for the lanes of `some`, from -104 to 89 or NaN; 0 in all others. */
ALWAYS_INLINE v16f v_exp_some(__mmask16 some, v16f x) {
  const v16f k = v_sub(v_fma(x, v_set1(1.44269504088896341f), v_set1(ROUNDS)), v_set1(ROUNDS));
  const v16f r = v_fma(k, v_set1(2.12194440e-4f), v_fma(k, v_set1(-0.693359375f), x)), square = v_mul(r, r);
  const v16f low = v_fma(v_set1(1.6666665459e-1f), r, v_set1(5.0000001201e-1f));
  v16f p = v_fma(v_set1(1.9875691500e-4f), r, v_set1(1.3981999507e-3f));
  p = v_fma(p, square, v_fma(v_set1(8.3334519073e-3f), r, v_set1(4.1665795894e-2f)));
  p = v_fma(v_fma(p, square, low), square, r);
  return _mm512_maskz_scalef_ps(some, v_add(p, v_set1(1)), k);
}

ALWAYS_INLINE v16f v_exp(v16f x) {
  return v_exp_some(_mm512_cmp_ps_mask(x, v_set1(-104), _CMP_NLE_UQ), v_min(v_set1(89), x));
}
#else
ALWAYS_INLINE v16f v_exp(v16f x) {
  float lanes[LANES];
  v_store(lanes, x);
  for (int i = 0; i < LANES; i++) lanes[i] = fast_exp(lanes[i]);
  return v_load(lanes);
}
#endif

#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
ALWAYS_INLINE __m256 few_exp(__m256 x) {
  float lanes[FEW];
  _mm256_storeu_ps(lanes, x);
  for (int i = 0; i < FEW; i++) lanes[i] = fast_exp(lanes[i]);
  return _mm256_loadu_ps(lanes);
}
#endif

ALWAYS_INLINE float fast_tanh(float x) {
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
  float a = x < 0 ? -x : x;
  float s = a * a; /* Cephes' polynomial below 0.625 */
  float p = -5.70498872745e-3f;
  p = __builtin_fmaf(p, s, 2.06390887954e-2f);
  p = __builtin_fmaf(p, s, -5.37397155531e-2f);
  p = __builtin_fmaf(p, s, 1.33314422036e-1f);
  p = __builtin_fmaf(p, s, -3.33332819422e-1f);
  float small = __builtin_fmaf(p * s, a, a);
  float large = 1.0f - 2.0f / (fast_exp(2.0f * a) + 1.0f);
  float y = a < 0.625f ? small : large;
  return x < 0 ? -y : y;
#else
  return tanhf(x);
#endif
}

ALWAYS_INLINE float fast_sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

#endif
