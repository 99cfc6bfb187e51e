/* q4_0.c: products with packed Q4_0, as quant/q4_0.h says what it is. */
#include "tensor/quant/q4_0.h"

#include "tensor/cpu/isa/dot_codes.h"

static void expand(const ml_format *f, const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  (void)f, (void)min;
  load_halves(p, scale);
  const uint8_t *q = p + 32;
  for (int i = 0; i < 256; i++) codes[i] = q[i] & 15;
  for (int i = 0; i < 256; i++) codes[256 + i] = q[i] >> 4;
}

static void stream(const ml_format *f, const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc) {
  (void)f;
  stream_blocks(&FORMAT(q4_0), panel, count, x, row, acc);
}

const ml_format FORMAT(q4_0) = {
    .of = ML_QUANT_Q4_0,
    .expand = expand,
    .stream = stream,
};
