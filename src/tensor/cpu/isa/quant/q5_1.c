/* q5_1.c: products with packed Q5_1, as quant/q5_1.h says what it is. */
#include "tensor/quant/q5_1.h"

#include "tensor/cpu/isa/dot_codes.h"
#include "tensor/cpu/isa/quant/five_bits.h"

static void expand(const ml_format *f, const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  (void)f;
  load_halves(p, scale);
  load_halves(p + 32, min);
  expand_five_bits(p + 64, p + 128, codes);
}

static void stream(const ml_format *f, const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc) {
  (void)f;
  stream_blocks(&FORMAT(q5_1), panel, count, x, row, acc);
}

const ml_format FORMAT(q5_1) = {
    .of = ML_QUANT_Q5_1,
    .expand = expand,
    .stream = stream,
};
