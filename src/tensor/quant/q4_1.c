/* q4_1.c: block of 32: float16 scale d and minimum m, 16 bytes of 4-bit codes q (element j low, j + 16 high); weight =
 * d q + m. */
#include "tensor/cpu/isa/dot_codes.h"

static void expand(const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  load_halves(p, scale);
  load_halves(p + 32, min);
  const uint8_t *q = p + 64;
  for (int i = 0; i < 256; i++) codes[i] = q[i] & 15;
  for (int i = 0; i < 256; i++) codes[256 + i] = q[i] >> 4;
}

static void stream(const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc) {
  stream_blocks(&FORMAT(q4_1), panel, count, x, row, acc);
}

const ml_format FORMAT(q4_1) = {
    .dtype = ML_Q4_1,
    .code = ML_CODE_4,
    .block = 32,
    .sub = 32,
    .zero = 0,
    .has_min = true,
    .n_fields = 3,
    .fields = {{0, 2}, {2, 2}, {4, 16}},
    .expand = expand,
    .stream = stream,
};
