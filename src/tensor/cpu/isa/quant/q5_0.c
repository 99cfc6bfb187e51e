/* q5_0.c: products with packed Q5_0, as quant/q5_0.h says what it is. */
#include "tensor/quant/q5_0.h"

#include "tensor/cpu/isa/dot_codes.h"
#include "tensor/cpu/isa/quant/five_bits.h"

static void expand(const ml_format *f, const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  (void)f, (void)min;
  load_halves(p, scale);
  expand_five_bits(p + 32, p + 96, codes);
}

static void stream(const ml_format *f, const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc) {
  (void)f;
  stream_blocks(&FORMAT(q5_0), panel, count, x, row, acc);
}

const ml_format FORMAT(q5_0) = {
    .of = ML_QUANT_Q5_0,
    .expand = expand,
    .stream = stream,
};
