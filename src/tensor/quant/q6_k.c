/* q6_k.c: block of 256 in sixteen groups of 16: 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 signed scales s,
 * float16 d; weight = d s (q - 32). Of each half of 128 elements: low bits of element 32 c + l are in byte 32 (c mod 2)
 * + l (low half for c < 2), high bits are bits 2 c and 2 c + 1 of byte l. */
#include "tensor/cpu/isa/dot_codes.h"

enum { SCALES = 32, LOW = SCALES + 256, HIGH = LOW + 2048 };

static void expand(const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  (void)min;
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

static void stream(const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc) {
  stream_blocks(&FORMAT(q6_k), panel, count, x, row, acc);
}

const ml_format FORMAT(q6_k) = {
    .dtype = ML_Q6_K,
    .code = ML_CODE_6,
    .block = 256,
    .sub = 16,
    .zero = 32,
    .has_min = false,
    .n_fields = 4,
    .fields = {{208, 2}, {192, 16}, {0, 128}, {128, 64}},
    .expand = expand,
    .stream = stream,
};
