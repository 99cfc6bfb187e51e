/* five_bits.h: codes of 5 bits whose top bits lie apart from the others, as Q5_0 and Q5_1 have them. */
#ifndef ML_CPU_FIVE_BITS_H
#define ML_CPU_FIVE_BITS_H

#include "tensor/cpu/isa/quant/format.h"

/* Codes of a panel block: bit k of the 16 words at `high` is the fifth bit of each row's element k; the bytes
 * [16 / 4][16][4] at q have element j's other bits low and those of element j + 16 high. */
static inline void expand_five_bits(const uint8_t *high, const uint8_t *q, uint8_t *restrict codes) {
  /* Each byte of a row's group meets the byte of its word that has its bit: byte g / 2; two bytes later for j + 16. */
#if defined(ML_ISA_AVX512)
  const __m512i low4 = _mm512_set1_epi8(15), fifth = _mm512_set1_epi8(16), words = _mm512_loadu_si512(high);
  for (int g = 0; g < 4; g++) {
    const __m512i both = _mm512_loadu_si512(q + 64 * g), bit = _mm512_set1_epi32(g % 2 ? (int)0x80402010 : 0x08040201);
    const __m512i pick =
        _mm512_add_epi8(_mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0), _mm512_set1_epi8((char)(g / 2)));
    const __mmask64 a = _mm512_test_epi8_mask(_mm512_shuffle_epi8(words, pick), bit);
    const __mmask64 b =
        _mm512_test_epi8_mask(_mm512_shuffle_epi8(words, _mm512_add_epi8(pick, _mm512_set1_epi8(2))), bit);
    const __m512i low = _mm512_and_si512(both, low4), top = _mm512_and_si512(_mm512_srli_epi16(both, 4), low4);
    _mm512_storeu_si512(codes + 64 * g, _mm512_mask_add_epi8(low, a, low, fifth));
    _mm512_storeu_si512(codes + 256 + 64 * g, _mm512_mask_add_epi8(top, b, top, fifth));
  }
#elif defined(ML_ISA_AVX2)
  const __m256i low4 = _mm256_set1_epi8(15), fifth = _mm256_set1_epi8(16);
  for (int half = 0; half < 64; half += 32) { /* eight rows at a time */
    const __m256i words = _mm256_loadu_si256((const void *)(high + half));
    for (int g = 0; g < 4; g++) {
      const __m256i both = _mm256_loadu_si256((const void *)(q + 64 * g + half));
      const __m256i bit = _mm256_set1_epi32(g % 2 ? (int)0x80402010 : 0x08040201);
      const __m256i pick = _mm256_add_epi8(
          _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c),
          _mm256_set1_epi8((char)(g / 2)));
      const __m256i a = _mm256_and_si256(_mm256_shuffle_epi8(words, pick), bit);
      const __m256i b = _mm256_and_si256(_mm256_shuffle_epi8(words, _mm256_add_epi8(pick, _mm256_set1_epi8(2))), bit);
      const __m256i low = _mm256_and_si256(both, low4), top = _mm256_and_si256(_mm256_srli_epi16(both, 4), low4);
      const __m256i low_fifth = _mm256_and_si256(_mm256_cmpeq_epi8(a, bit), fifth);
      const __m256i top_fifth = _mm256_and_si256(_mm256_cmpeq_epi8(b, bit), fifth);
      _mm256_storeu_si256((void *)(codes + 64 * g + half), _mm256_or_si256(low, low_fifth));
      _mm256_storeu_si256((void *)(codes + 256 + 64 * g + half), _mm256_or_si256(top, top_fifth));
    }
  }
#else
  for (int r = 0; r < PANEL_ROWS; r++) {
    uint32_t word;
    __builtin_memcpy(&word, high + 4 * r, sizeof word);
    for (int j = 0; j < 16; j++) {
      int at = code_index(j, r);
      codes[at] = (uint8_t)((q[at] & 15) | (word >> j & 1) << 4);
      codes[at + 256] = (uint8_t)(q[at] >> 4 | (word >> (j + 16) & 1) << 4);
    }
  }
#endif
}

#endif
