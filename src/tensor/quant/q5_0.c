/* q5_0.c: block of 32: float16 scale d, 32 fifth bits, 16 bytes of 4-bit codes; weight = d (q - 16). */
#include "tensor/quant/format.h"

static void expand(const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  (void)min;
  load_halves(p, scale);
  const uint8_t *q = p + 32 + 64;
  uint32_t high[PANEL_ROWS], words[8 * PANEL_ROWS];
  __builtin_memcpy(high, p + 32, sizeof high);
  for (int g = 0; g < 8; g++) { /* four bits of each row to the fifth bits of four bytes */
    for (int r = 0; r < PANEL_ROWS; r++) words[g * PANEL_ROWS + r] = ((high[r] >> 4 * g & 15) * 0x00204081u & 0x01010101u) << 4;
  }
  const uint8_t *fifth = (const uint8_t *)words;
  for (int i = 0; i < 256; i++) codes[i] = (uint8_t)((q[i] & 15) | fifth[i]);
  for (int i = 0; i < 256; i++) codes[256 + i] = (uint8_t)(q[i] >> 4 | fifth[256 + i]);
}

const ml_format FORMAT(q5_0) = {
    .dtype = ML_Q5_0, .code = ML_CODE_5, .block = 32, .sub = 32, .zero = 16, .has_min = false,
    .n_fields = 3, .fields = {{0, 2}, {2, 4}, {6, 16}}, .expand = expand,
};
