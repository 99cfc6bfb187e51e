/* gemm_pack.c: operands of a product gathered into words of 32 bits, from any strides and any float dtype.
 *
 * Sixteen words are read along the axis on which elements lie closer together; where that is not the axis on which they
 * are wanted, sixteen such reads are transposed in registers. */
#include "tensor/cpu/isa/gemm.h"

/* What an element becomes. PAIRS: two bfloat16 that follow one another along the sum are one word. */
typedef enum words { WORDS_F32, WORDS_F16, WORDS_BF16, WORDS_PAIRS } words;

static words words_of(ml_dtype t, bool pairs) {
  if (pairs) return WORDS_PAIRS;
  return t == ML_F32 ? WORDS_F32 : t == ML_F16 ? WORDS_F16 : WORDS_BF16;
}

/* ---- sixteen words ---- */

/* `n` elements of 2 or 4 bytes, `step` apart, one after another. */
ALWAYS_INLINE void gather(const bool wide, const char *p, int64_t step, int64_t n, void *to) {
  if (wide) {
    for (int64_t i = 0; i < n; i++) ((uint32_t *)to)[i] = ((const uint32_t *)(const void *)p)[i * step];
  } else {
    for (int64_t i = 0; i < n; i++) ((uint16_t *)to)[i] = ((const uint16_t *)(const void *)p)[i * step];
  }
}

/* Sixteen elements, `step` apart, by the processor's gathering of 32-bit words. Those of 2 bytes lie in aligned words,
 * which cross no page, and end up in the low half of a lane. */
#if defined(ML_ISA_AVX512)
ALWAYS_INLINE v16i floats_apart(const char *p, int step) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_i32gather_epi32(_mm512_mullo_epi32(lane, _mm512_set1_epi32(step)), p, 4);
}
ALWAYS_INLINE v16i halves_apart(const char *p, int step) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int odd = (int)((uintptr_t)p & 3);
  __m512i at = _mm512_add_epi32(_mm512_mullo_epi32(lane, _mm512_set1_epi32(2 * step)), _mm512_set1_epi32(odd));
  __m512i w = _mm512_i32gather_epi32(_mm512_andnot_si512(_mm512_set1_epi32(3), at), p - odd, 1);
  w = _mm512_srlv_epi32(w, _mm512_slli_epi32(_mm512_and_si512(at, _mm512_set1_epi32(2)), 3));
  return _mm512_and_si512(w, _mm512_set1_epi32(0xffff));
}
/* Every second one from p on, by loads of neighbours of which the last ends with the last one. */
ALWAYS_INLINE v16i second_floats(const char *p) {
  const __m512i at = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 31);
  return _mm512_permutex2var_epi32(_mm512_loadu_si512(p), at, _mm512_loadu_si512(p + 15 * 4));
}
ALWAYS_INLINE v16i second_halves(const char *p) {
  __m256i low = _mm256_loadu_si256((const void *)p), high = _mm256_loadu_si256((const void *)(p + 15 * 2));
  low = _mm256_and_si256(low, _mm256_set1_epi32(0xffff));
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), _mm256_srli_epi32(high, 16), 1);
}
ALWAYS_INLINE v16f second_pairs(const char *p) {
  __m256i low = _mm512_cvtepi32_epi16(_mm512_loadu_si512(p));
  __m256i high = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_loadu_si512(p + 31 * 2), 16));
  return _mm512_castsi512_ps(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
}
ALWAYS_INLINE v16f widen_halves(const bool bf16, v16i h) {
  if (bf16) return _mm512_castsi512_ps(_mm512_slli_epi32(h, 16));
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(h));
}
ALWAYS_INLINE v16f as_floats(v16i w) { return _mm512_castsi512_ps(w); }
#elif defined(ML_ISA_AVX2)
ALWAYS_INLINE __m256i lanes_apart(int first, int step) {
  __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
  return _mm256_mullo_epi32(lane, _mm256_set1_epi32(step));
}
ALWAYS_INLINE v16i floats_apart(const char *p, int step) {
  return (v16i){_mm256_i32gather_epi32((const int *)(const void *)p, lanes_apart(0, step), 4),
                _mm256_i32gather_epi32((const int *)(const void *)p, lanes_apart(8, step), 4)};
}
ALWAYS_INLINE __m256i eight_halves(const char *p, int first, int step) {
  int odd = (int)((uintptr_t)p & 3);
  __m256i at = _mm256_add_epi32(lanes_apart(first, 2 * step), _mm256_set1_epi32(odd));
  __m256i w =
      _mm256_i32gather_epi32((const int *)(const void *)(p - odd), _mm256_andnot_si256(_mm256_set1_epi32(3), at), 1);
  w = _mm256_srlv_epi32(w, _mm256_slli_epi32(_mm256_and_si256(at, _mm256_set1_epi32(2)), 3));
  return _mm256_and_si256(w, _mm256_set1_epi32(0xffff));
}
ALWAYS_INLINE v16i halves_apart(const char *p, int step) {
  return (v16i){eight_halves(p, 0, step), eight_halves(p, 8, step)};
}
ALWAYS_INLINE v16i second_floats(const char *p) {
  const float *f = (const float *)(const void *)p;
  __m256 low = _mm256_shuffle_ps(_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8), 0x88);
  __m256 high = _mm256_shuffle_ps(_mm256_loadu_ps(f + 15), _mm256_loadu_ps(f + 23), 0xdd);
  return (v16i){_mm256_permute4x64_epi64(_mm256_castps_si256(low), 0xd8),
                _mm256_permute4x64_epi64(_mm256_castps_si256(high), 0xd8)};
}
ALWAYS_INLINE v16i second_halves(const char *p) {
  __m256i low = _mm256_loadu_si256((const void *)p), high = _mm256_loadu_si256((const void *)(p + 15 * 2));
  return (v16i){_mm256_and_si256(low, _mm256_set1_epi32(0xffff)), _mm256_srli_epi32(high, 16)};
}
ALWAYS_INLINE v16f widen_halves(const bool bf16, v16i h) {
  if (bf16)
    return (v16f){_mm256_castsi256_ps(_mm256_slli_epi32(h.lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(h.hi, 16))};
  __m256i all = _mm256_permute4x64_epi64(_mm256_packus_epi32(h.lo, h.hi), 0xd8);
  return (v16f){_mm256_cvtph_ps(_mm256_castsi256_si128(all)), _mm256_cvtph_ps(_mm256_extracti128_si256(all, 1))};
}
ALWAYS_INLINE v16f as_floats(v16i w) { return (v16f){_mm256_castsi256_ps(w.lo), _mm256_castsi256_ps(w.hi)}; }
#endif

/* Farther apart than this, offsets would not fit a lane. */
enum { FARTHEST = 1 << 24 };

/* Elements p[0], p[step], ... as 16 words; pairs are neighbours. `unit`: step is 1; `whole`: there are 16 words, else
 * they are zero from element n on. */
ALWAYS_INLINE v16f read_words(const words kind, const bool unit, const bool whole, const char *p, int64_t step,
                              int64_t n) {
  const int64_t all = kind == WORDS_PAIRS ? 2 * LANES : LANES;
  _Alignas(64) char room[LANES * 4];
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
#if defined(ML_ISA_AVX512)
  if (!unit && whole && kind == WORDS_PAIRS && step == 2) return second_pairs(p);
#endif
  if (!unit && whole && kind != WORDS_PAIRS && step == 2) {
    if (kind == WORDS_F32) return as_floats(second_floats(p));
    return widen_halves(kind == WORDS_BF16, second_halves(p));
  }
  if (!unit && whole && kind != WORDS_PAIRS && step < FARTHEST && step > -FARTHEST) {
    if (kind == WORDS_F32) return as_floats(floats_apart(p, (int)step));
    return widen_halves(kind == WORDS_BF16, halves_apart(p, (int)step));
  }
#endif
  if (!unit || !whole) {
    if (!whole) memset(room, 0, sizeof room), n = ml_max64(0, ml_min64(n, all));
    gather(kind == WORDS_F32, p, unit ? 1 : step, whole ? all : n, room);
    p = room;
  }
  if (kind == WORDS_F16) return v_load_f16((const uint16_t *)(const void *)p);
  if (kind == WORDS_BF16) return v_load_bf16((const uint16_t *)(const void *)p);
  return v_load((const float *)(const void *)p);
}

/* The same where pairs are apart: the second of each is `inner` elements further, or missing. */
ALWAYS_INLINE v16f read_across(const words kind, const bool unit, const bool whole, const char *p, int64_t step,
                               int64_t n, int64_t inner, bool second) {
  if (kind != WORDS_PAIRS) return read_words(kind, unit, whole, p, step, n);
#if defined(ML_ISA_AVX512)
  __m512i low = _mm512_castps_si512(read_words(WORDS_BF16, unit, whole, p, step, n)), high = _mm512_setzero_si512();
  if (second) high = _mm512_castps_si512(read_words(WORDS_BF16, unit, whole, p + 2 * inner, step, n));
  return _mm512_castsi512_ps(_mm512_or_si512(_mm512_srli_epi32(low, 16), high));
#else
  (void)inner, (void)second;
  return v_set1(0);
#endif
}

/* Rows become columns. */
#if defined(ML_ISA_AVX512)
ALWAYS_INLINE void transpose(v16f r[LANES]) {
  __m512 t[LANES];
  for (int i = 0; i < LANES; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < LANES; i += 4) {
    r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; i++) { /* r[i + 4 q]: columns i, i + 4, ... of rows 4 q..4 q + 3 */
    __m512 a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), b = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    __m512 c = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88), d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    t[i] = _mm512_shuffle_f32x4(a, c, 0x88);
    t[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
    t[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
  for (int i = 0; i < LANES; i++) r[i] = t[i];
}
#elif defined(ML_ISA_AVX2)
ALWAYS_INLINE void transpose_eight(__m256 r[8]) {
  __m256 t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
    t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
  }
  for (int i = 0; i < 8; i++) r[i] = t[i];
}

ALWAYS_INLINE void transpose(v16f r[LANES]) {
  __m256 a[8], b[8], c[8], d[8];
  for (int i = 0; i < 8; i++) a[i] = r[i].lo, b[i] = r[i].hi, c[i] = r[i + 8].lo, d[i] = r[i + 8].hi;
  transpose_eight(a), transpose_eight(b), transpose_eight(c), transpose_eight(d);
  for (int i = 0; i < 8; i++) r[i] = (v16f){a[i], c[i]}, r[i + 8] = (v16f){b[i], d[i]};
}
#else
static void transpose(v16f r[LANES]) {
  for (int i = 0; i < LANES; i++) {
    for (int j = 0; j < i; j++) {
      float f = r[i].f[j];
      r[i].f[j] = r[j].f[i], r[j].f[i] = f;
    }
  }
}
#endif

/* What both walks below need; `per` terms make a word. */
typedef struct source {
  const char *data; /* of the first term of the first row */
  int64_t across, inner, item;
  int64_t rows, count, words, per;
} source;

static source source_of(const gemm_side *s, bool pairs, int64_t k0, int64_t count, int64_t i0, int64_t rows) {
  int64_t item = (int64_t)ml_dtype_infos[s->dtype].bytes, per = pairs ? 2 : 1;
  return (source){s->data + (i0 * s->across + k0 * s->inner) * item,
                  s->across,
                  s->inner,
                  item,
                  rows,
                  count,
                  (count + per - 1) / per,
                  per};
}

/* Words w.. of row i, and word w of rows i... */
ALWAYS_INLINE v16f along(const words kind, const bool unit, const bool whole, const source *s, int64_t i, int64_t w) {
  int64_t k = w * s->per;
  if (kind == WORDS_PAIRS && !unit && whole && s->inner != 2)
    return read_across(kind, false, true, s->data + (i * s->across + k * s->inner) * s->item, 2 * s->inner, 2 * LANES,
                       s->inner, true);
  return read_words(kind, unit, whole, s->data + (i * s->across + k * s->inner) * s->item, s->inner, s->count - k);
}

ALWAYS_INLINE v16f across(const words kind, const bool unit, const bool whole, const source *s, int64_t i, int64_t w) {
  int64_t k = w * s->per;
  return read_across(kind, unit, whole, s->data + (i * s->across + k * s->inner) * s->item, s->across, s->rows - i,
                     s->inner, k + 1 < s->count);
}

/* A 16 x 16 block turned: rows i.. read along the sum, or words w.. read across it. */
ALWAYS_INLINE void block_along(const words kind, const bool unit, const source *s, int64_t i, int64_t w,
                               v16f r[LANES]) {
  if (i + LANES <= s->rows && (w + LANES) * s->per <= s->count) {
    for (int64_t j = 0; j < LANES; j++) r[j] = along(kind, unit, true, s, i + j, w);
  } else {
    for (int64_t j = 0; j < LANES; j++) r[j] = i + j < s->rows ? along(kind, unit, false, s, i + j, w) : v_set1(0);
  }
  transpose(r);
}

ALWAYS_INLINE void block_across(const words kind, const bool unit, const source *s, int64_t i, int64_t w,
                                v16f r[LANES]) {
  if (i + LANES <= s->rows && w + LANES <= s->words) {
    for (int64_t j = 0; j < LANES; j++) r[j] = across(kind, unit, true, s, i, w + j);
  } else {
    for (int64_t j = 0; j < LANES; j++) r[j] = w + j < s->words ? across(kind, unit, false, s, i, w + j) : v_set1(0);
  }
  transpose(r);
}

ALWAYS_INLINE void pack_rows(const words kind, const bool unit, const bool is_across, const source *s, float *to) {
  if (!is_across) {
    int64_t whole = s->count / s->per / LANES * LANES;
    for (int64_t i = 0; i < s->rows; i++) {
      for (int64_t w = 0; w < whole; w += LANES) v_store(to + i * GEMM_PITCH + w, along(kind, unit, true, s, i, w));
      if (whole < s->words) v_store(to + i * GEMM_PITCH + whole, along(kind, unit, false, s, i, whole));
    }
    return;
  }
  for (int64_t w = 0; w < s->words; w += LANES) {
    for (int64_t i = 0; i < s->rows; i += LANES) {
      v16f r[LANES];
      block_across(kind, unit, s, i, w, r);
      for (int j = 0; j < LANES; j++) v_store(to + (i + j) * GEMM_PITCH + w, r[j]);
    }
  }
}

/* The columns of so many panels of as many vectors from i on, a line of each panel after another: side by side, so that
 * a row is read in longer pieces. */
ALWAYS_INLINE void lines_across(const words kind, const bool unit, const bool whole, const int panels,
                                const int vectors, const source *s, int64_t i, float *to) {
  for (int64_t w = 0; w < s->words; w++, to += vectors * LANES) {
    for (int p = 0; p < panels; p++) {
      for (int v = 0; v < vectors; v++)
        v_store(to + p * GEMM_PANEL + v * LANES, across(kind, unit, whole, s, i + (p * vectors + v) * LANES, w));
    }
  }
}

ALWAYS_INLINE void lines_along(const words kind, const bool unit, const int vectors, const source *s, int64_t i,
                               float *to) {
  for (int64_t w = 0; w < s->words; w += LANES) {
    for (int v = 0; v < vectors; v++) {
      v16f r[LANES];
      block_along(kind, unit, s, i + v * LANES, w, r);
      for (int64_t j = 0; j < ml_min64(LANES, s->words - w); j++) v_store(to + ((w + j) * vectors + v) * LANES, r[j]);
    }
  }
}

enum { ABREAST = 4 }; /* panels that are written side by side, where all are whole */

ALWAYS_INLINE void pack_columns(const words kind, const bool unit, const bool is_across, const source *s, int64_t first,
                                float *to) {
  int64_t i = 0;
  for (; is_across && i + ABREAST * GEMM_LANES <= s->rows; i += ABREAST * GEMM_LANES, to += ABREAST * GEMM_PANEL)
    lines_across(kind, unit, true, ABREAST, GEMM_VECTORS, s, i, to + first * GEMM_LANES);
  for (; i < s->rows; i += GEMM_LANES, to += GEMM_PANEL) {
    int lanes = gemm_panel_lanes(s->rows, i);
    bool whole = i + lanes <= s->rows;
    float *line = to + first * lanes;
    if (!is_across && lanes == GEMM_LANES) lines_along(kind, unit, GEMM_VECTORS, s, i, line);
    else if (!is_across) lines_along(kind, unit, 1, s, i, line);
    else if (!whole && lanes == GEMM_LANES) lines_across(kind, unit, false, 1, GEMM_VECTORS, s, i, line);
    else if (!whole) lines_across(kind, unit, false, 1, 1, s, i, line);
    else if (lanes == GEMM_LANES) lines_across(kind, unit, true, 1, GEMM_VECTORS, s, i, line);
    else lines_across(kind, unit, true, 1, 1, s, i, line);
  }
}

/* Each dtype, step and direction becomes a loop of its own. */
#define KIND_CASES(CALL)                                                                                               \
  switch (kind) {                                                                                                      \
  case WORDS_F32: CALL(WORDS_F32); break;                                                                              \
  case WORDS_F16: CALL(WORDS_F16); break;                                                                              \
  case WORDS_BF16: CALL(WORDS_BF16); break;                                                                            \
  case WORDS_PAIRS: CALL(WORDS_PAIRS); break;                                                                          \
  }

static int64_t distance(int64_t stride) { return stride < 0 ? -stride : stride; }

void K(gemm_pack_rows)(const gemm_side *side, bool pairs, int64_t k0, int64_t count, int64_t i0, int64_t rows,
                       float *to) {
  const source s = source_of(side, pairs, k0, count, i0, rows);
  const words kind = words_of(side->dtype, pairs);
  bool is_across = rows > 1 && distance(side->across) < distance(side->inner);
  bool unit = (is_across ? side->across : side->inner) == 1;
#define ROWS(KIND)                                                                                                     \
  if (is_across && unit) pack_rows(KIND, true, true, &s, to);                                                          \
  else if (is_across) pack_rows(KIND, false, true, &s, to);                                                            \
  else if (unit) pack_rows(KIND, true, false, &s, to);                                                                 \
  else pack_rows(KIND, false, false, &s, to)
  KIND_CASES(ROWS)
}

void K(gemm_pack_columns)(const gemm_side *side, bool pairs, int64_t k0, int64_t count, int64_t i0, int64_t columns,
                          int64_t first, float *to) {
  const source s = source_of(side, pairs, k0, count, i0, columns);
  const words kind = words_of(side->dtype, pairs);
  bool is_across = distance(side->across) <= distance(side->inner) || count == 1;
  bool unit = (is_across ? side->across : side->inner) == 1;
#define COLUMNS(KIND)                                                                                                  \
  if (is_across && unit) pack_columns(KIND, true, true, &s, first, to);                                                \
  else if (is_across) pack_columns(KIND, false, true, &s, first, to);                                                  \
  else if (unit) pack_columns(KIND, true, false, &s, first, to);                                                       \
  else pack_columns(KIND, false, false, &s, first, to)
  KIND_CASES(COLUMNS)
}

gemm_lines K(gemm_lines_of)(const gemm_side *s, int64_t k0, int64_t count, int64_t i0, int64_t rows, int64_t shares) {
  const int64_t item = (int64_t)ml_dtype_infos[s->dtype].bytes;
  bool is_across = distance(s->across) < distance(s->inner);
  int64_t run = is_across ? rows : count, runs = is_across ? count : rows;
  int64_t step = (is_across ? s->across : s->inner) * item, pitch = (is_across ? s->inner : s->across) * item;
  int64_t each = ml_max64(1, LINE / ml_max64(1, distance(step))), lines = (run + each - 1) / each; /* elements a line */
  const char *first = s->data + (i0 * s->across + k0 * s->inner) * item;
  return (gemm_lines){
      first, pitch, each * step, 0, lines * each * step, runs * lines, (runs * lines + shares - 1) / shares};
}
