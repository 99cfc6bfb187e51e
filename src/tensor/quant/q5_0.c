/* q5_0.c: block of 32: float16 scale d, 32 fifth bits, 16 bytes of 4-bit codes; weight = d (q - 16). */
#include "tensor/cpu/isa/dot_codes.h"
#include "tensor/quant/five_bits.h"

static void expand(const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  (void)min;
  load_halves(p, scale);
  expand_five_bits(p + 32, p + 96, codes);
}

static void stream(const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc) {
  stream_blocks(&FORMAT(q5_0), panel, count, x, row, acc);
}

const ml_format FORMAT(q5_0) = {
    .dtype = ML_Q5_0,
    .code = ML_CODE_5,
    .block = 32,
    .sub = 32,
    .zero = 16,
    .has_min = false,
    .n_fields = 3,
    .fields = {{0, 2}, {2, 4}, {6, 16}},
    .expand = expand,
    .stream = stream,
};
