/* q4_k.c: products with packed Q4_K, as quant/q4_k.h says what it is. */
#include "tensor/quant/q4_k.h"

#include "tensor/cpu/isa/dot_codes.h"
#include "tensor/cpu/isa/quant/k_scales.h"

static void expand(const ml_format *f, const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  (void)f;
  expand_k_scales(p, scale, min);
  const uint8_t *q = p + 64 + 192;
  for (int g = 0; g < 4; g++, q += 512, codes += 1024) {
    for (int i = 0; i < 512; i++) codes[i] = q[i] & 15;
    for (int i = 0; i < 512; i++) codes[512 + i] = q[i] >> 4;
  }
}

static void stream(const ml_format *f, const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc) {
  (void)f;
  stream_blocks(&FORMAT(q4_k), panel, count, x, row, acc);
}

const ml_format FORMAT(q4_k) = {
    .of = ML_QUANT_Q4_K,
    .expand = expand,
    .stream = stream,
};
