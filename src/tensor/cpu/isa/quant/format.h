/* format.h: packed weights.
 *
 * A weight (outputs, inputs) is packed into panels of 16 output rows. A panel holds, for each block of inputs, the 16
 * rows' blocks with their bytes interleaved, so that one vector register meets 16 rows at once: a field (quant/quant.h)
 * of fewer than 4 bytes lies row after row; a longer one lies in groups of 4 bytes, group after group, 16 rows each.
 * Packing moves bytes and changes none: unpacking gives the file's blocks again. Rows past the last are zero.
 *
 * A file of this folder has the kernels of one format. Its `expand` writes a panel block as
 *     codes [block / 4][16][4]   bytes; element k of row r is at [k / 4][r][k % 4]
 *     scale [block / sub][16]    float32
 *     min   [block / sub][16]    float32, of formats with a minimum
 * Float formats have one function, widen, instead. */
#ifndef ML_CPU_FORMAT_H
#define ML_CPU_FORMAT_H

#include "tensor/cpu/kernel.h"
#include "tensor/quant/quant.h"

#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
#include <immintrin.h>
#endif

enum { MAX_BLOCK = 256 };

/* How far ahead of its use memory is asked for, in bytes: the processor's own prefetching stops at each page. */
enum { PREFETCH_AHEAD = 4096 };

typedef struct act act; /* dot_codes.h: rounded activations */

struct ml_format {
  ml_quant of;
  int in_place; /* where a panel block's codes lie as expand writes them, after 16 float16 scales; 0: nowhere */
  void (*expand)(const ml_format *f, const uint8_t *block, uint8_t *codes, float *scale, float *min);
  /* acc[16] += the first `count` inputs of a panel times row `row` of x: the product with one row, nothing kept. */
  void (*stream)(const ml_format *f, const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc);
  void (*stream_floats)(const uint8_t *panel, int64_t count, const float *x,
                        float *acc); /* the same of float formats */
  void (*widen)(const uint8_t *panel, int64_t from, int64_t count,
                float *out); /* inputs from..from+count-1 as [count][16] */
};

#define FORMAT(name) ML_CAT(ML_ISA, format_##name)

extern const ml_format FORMAT(f32), FORMAT(f16), FORMAT(bf16), FORMAT(q4_0), FORMAT(q4_1), FORMAT(q5_0), FORMAT(q5_1),
    FORMAT(q8_0), FORMAT(q4_k), FORMAT(q5_k), FORMAT(q6_k);
enum { ML_AFFINES = ML_DTYPE_COUNT - ML_AFFINE_FIRST };
extern const ml_format FORMAT(affine)[ML_AFFINES]; /* in the order of their dtypes */

/* Element k of row r in expanded codes. */
static inline int code_index(int k, int r) { return k / 4 * 64 + r * 4 + k % 4; }

/* The 16 rows' 2-byte floats at p, widened. */
static inline void load_halves(const uint8_t *p, float *out) {
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
  _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)));
  _mm256_storeu_ps(out + 8, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 16))));
#else
  for (int r = 0; r < PANEL_ROWS; r++) {
    uint16_t h;
    __builtin_memcpy(&h, p + 2 * r, 2);
    out[r] = ml_f16_to_f32(h);
  }
#endif
}

/* Group g of a field: four bytes of each row, as one word a row. */
static inline void load_words(const uint8_t *field, int g, uint32_t *words) {
  __builtin_memcpy(words, field + g * 64, 64);
}

#endif
