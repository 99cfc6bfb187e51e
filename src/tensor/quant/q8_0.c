/* q8_0.c: block of 32: float16 scale d, 32 signed bytes q; weight = d q. */
#include "tensor/quant/format.h"

static void expand(const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  (void)min;
  load_halves(p, scale);
  __builtin_memcpy(codes, p + 32, 512);
}

const ml_format FORMAT(q8_0) = {
    .dtype = ML_Q8_0, .code = ML_CODE_8_SIGNED, .block = 32, .sub = 32, .zero = 0, .has_min = false,
    .n_fields = 2, .fields = {{0, 2}, {2, 32}}, .expand = expand,
};
