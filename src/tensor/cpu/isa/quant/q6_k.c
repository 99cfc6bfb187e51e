/* q6_k.c: products with packed Q6_K, as quant/q6_k.h says what it is. */
#include "tensor/quant/q6_k.h"

#include "tensor/cpu/isa/dot_codes.h"

enum { SCALES = 32, LOW = SCALES + 256, HIGH = LOW + 2048 };

static void expand(const ml_format *f, const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  (void)f, (void)min;
  float d[PANEL_ROWS];
  load_halves(p, d);
  for (int s = 0; s < 16; s++) {
    uint32_t words[PANEL_ROWS];
    load_words(p + SCALES, s / 4, words);
    for (int r = 0; r < PANEL_ROWS; r++)
      scale[s * PANEL_ROWS + r] = d[r] * (float)((int32_t)(words[r] << (24 - 8 * (s & 3))) >> 24);
  }
  for (int half = 0; half < 2; half++) {
    const uint8_t *low = p + LOW + 1024 * half, *high = p + HIGH + 512 * half;
    uint8_t *o = codes + 2048 * half;
    for (int i = 0; i < 512; i++) o[i] = (uint8_t)((low[i] & 15) | (high[i] & 3) << 4);
    for (int i = 0; i < 512; i++) o[512 + i] = (uint8_t)((low[512 + i] & 15) | (high[i] >> 2 & 3) << 4);
    for (int i = 0; i < 512; i++) o[1024 + i] = (uint8_t)(low[i] >> 4 | (high[i] >> 4 & 3) << 4);
    for (int i = 0; i < 512; i++) o[1536 + i] = (uint8_t)(low[512 + i] >> 4 | (high[i] >> 6) << 4);
  }
}

static void stream(const ml_format *f, const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc) {
  (void)f;
  stream_blocks(&FORMAT(q6_k), panel, count, x, row, acc);
}

const ml_format FORMAT(q6_k) = {
    .of = ML_QUANT_Q6_K,
    .expand = expand,
    .stream = stream,
};
