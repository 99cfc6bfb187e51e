/* q5_1.c: block of 32: float16 scale d and minimum m, 32 fifth bits, 16 bytes of 4-bit codes; weight = d q + m. */
#include "tensor/cpu/isa/dot_codes.h"
#include "tensor/quant/five_bits.h"

static void expand(const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  load_halves(p, scale);
  load_halves(p + 32, min);
  expand_five_bits(p + 64, p + 128, codes);
}

static void stream(const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc) {
  stream_blocks(&FORMAT(q5_1), panel, count, x, row, acc);
}

const ml_format FORMAT(q5_1) = {
    .dtype = ML_Q5_1,
    .code = ML_CODE_5,
    .block = 32,
    .sub = 32,
    .zero = 0,
    .has_min = true,
    .n_fields = 4,
    .fields = {{0, 2}, {2, 2}, {4, 4}, {8, 16}},
    .expand = expand,
    .stream = stream,
};
