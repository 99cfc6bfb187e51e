/* q5_k.c: as Q4_K, with 32 bytes of fifth bits (bit g of byte j: element 32 g + j); weight = d s q - dmin m. */
#include "tensor/cpu/isa/dot_codes.h"
#include "tensor/quant/k_scales.h"

static void expand(const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) {
  expand_k_scales(p, scale, min);
  const uint8_t *high = p + 64 + 192, *q = high + 512;
  for (int g = 0; g < 4; g++, q += 512, codes += 1024) {
    for (int i = 0; i < 512; i++) codes[i] = (uint8_t)((q[i] & 15) | (high[i] >> 2 * g & 1) << 4);
    for (int i = 0; i < 512; i++) codes[512 + i] = (uint8_t)(q[i] >> 4 | (high[i] >> (2 * g + 1) & 1) << 4);
  }
}

static void stream(const uint8_t *panel, int64_t count, const act *x, int64_t row, float *acc) {
  stream_blocks(&FORMAT(q5_k), panel, count, x, row, acc);
}

const ml_format FORMAT(q5_k) = {
    .dtype = ML_Q5_K,
    .code = ML_CODE_5,
    .block = 256,
    .sub = 32,
    .zero = 0,
    .has_min = true,
    .n_fields = 5,
    .fields = {{0, 2}, {2, 2}, {4, 12}, {16, 32}, {48, 128}},
    .expand = expand,
    .stream = stream,
};
