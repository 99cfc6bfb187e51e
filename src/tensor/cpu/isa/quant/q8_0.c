/* q8_0.c: products with packed Q8_0, as quant/q8_0.h says what it is. */
#include "tensor/quant/q8_0.h"

#include "tensor/cpu/isa/dot_codes.h"

static void expand(const ml_format *f, const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  (void)f, (void)min;
  load_halves(p, scale);
  __builtin_memcpy(codes, p + 32, 512);
}

static void stream(const ml_format *f, const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc) {
  (void)f;
  stream_blocks(&FORMAT(q8_0), panel, count, x, row, acc);
}

const ml_format FORMAT(q8_0) = {
    .of = ML_QUANT_Q8_0,
    .in_place = 32,
    .expand = expand,
    .stream = stream,
};
