/* q4_k.c: block of 256 in eight groups of 32: float16 d and dmin, 12 bytes of 6-bit scales s and minima m, 128 bytes of
 * 4-bit codes (byte 32 g + j: element 64 g + j low, 64 g + 32 + j high); weight = d s q - dmin m. */
#include "tensor/cpu/isa/dot_codes.h"
#include "tensor/quant/k_scales.h"

static void expand(const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  expand_k_scales(p, scale, min);
  const uint8_t *q = p + 64 + 192;
  for (int g = 0; g < 4; g++, q += 512, codes += 1024) {
    for (int i = 0; i < 512; i++) codes[i] = q[i] & 15;
    for (int i = 0; i < 512; i++) codes[512 + i] = q[i] >> 4;
  }
}

static void stream(const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc) {
  stream_blocks(&FORMAT(q4_k), panel, count, x, row, acc);
}

const ml_format FORMAT(q4_k) = {
    .dtype = ML_Q4_K,
    .code = ML_CODE_4,
    .block = 256,
    .sub = 32,
    .zero = 0,
    .has_min = true,
    .n_fields = 4,
    .fields = {{0, 2}, {2, 2}, {4, 12}, {16, 128}},
    .expand = expand,
    .stream = stream,
};
