/* q8_0.c: block of 32: float16 scale d, 32 signed bytes q; weight = d q. */
#include "tensor/cpu/isa/dot_codes.h"

static void expand(const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  (void)min;
  load_halves(p, scale);
  __builtin_memcpy(codes, p + 32, 512);
}

static void stream(const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc) {
  stream_blocks(&FORMAT(q8_0), panel, count, x, row, acc);
}

const ml_format FORMAT(q8_0) = {
    .dtype = ML_Q8_0,
    .code = ML_CODE_8_SIGNED,
    .block = 32,
    .sub = 32,
    .zero = 0,
    .in_place = 32,
    .has_min = false,
    .n_fields = 2,
    .fields = {{0, 2}, {2, 32}},
    .expand = expand,
    .stream = stream,
};
