/* q5_k.c: products with packed Q5_K, as quant/q5_k.h says what it is. */
#include "tensor/quant/q5_k.h"

#include "tensor/cpu/isa/dot_codes.h"
#include "tensor/cpu/isa/quant/k_scales.h"

static void expand(const ml_format *f, const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  (void)f;
  expand_k_scales(p, scale, min);
  const uint8_t *high = p + 64 + 192, *q = high + 512;
  for (int g = 0; g < 4; g++, q += 512, codes += 1024) {
    for (int i = 0; i < 512; i++) codes[i] = (uint8_t)((q[i] & 15) | (high[i] >> 2 * g & 1) << 4);
    for (int i = 0; i < 512; i++) codes[512 + i] = (uint8_t)(q[i] >> 4 | (high[i] >> (2 * g + 1) & 1) << 4);
  }
}

static void stream(const ml_format *f, const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc) {
  (void)f;
  stream_blocks(&FORMAT(q5_k), panel, count, x, row, acc);
}

const ml_format FORMAT(q5_k) = {
    .of = ML_QUANT_Q5_K,
    .expand = expand,
    .stream = stream,
};
