/* quant_rows.c: float weights rounded to blocks of Q8_0 and Q4_0, by ggml's rule for each (gguf-py, quants.py), so that
 * a file quantised elsewhere and one quantised here hold the same bytes. */
#include "tensor/quant_rows.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 32 };

bool ml_can_quantize(ml_dtype to) { return to == ML_Q8_0 || to == ML_Q4_0; }

static bool read_block(ml_dtype from, const void *values, int64_t at, float *out) {
  float sum = 0; /* 0 * inf and 0 * NaN are NaN: one test for the whole block */
  for (int i = 0; i < BLOCK; i++) {
    uint16_t half = 0;
    if (from == ML_F32) memcpy(&out[i], (const char *)values + 4 * (at + i), 4);
    else memcpy(&half, (const char *)values + 2 * (at + i), 2);
    if (from == ML_F16) out[i] = ml_f16_to_f32(half);
    if (from == ML_BF16) out[i] = ml_bf16_to_f32(half);
    sum += 0 * out[i];
  }
  return sum == 0;
}

/* The scale is the largest magnitude / 127; codes round halves away from zero. */
static uint16_t round_q8_0(const float *x, uint8_t *codes) {
  float largest = 0;
  for (int i = 0; i < BLOCK; i++) largest = fmaxf(largest, fabsf(x[i]));
  float d = largest / 127, by = d > 0 ? 1 / d : 0;
  for (int i = 0; i < BLOCK; i++) codes[i] = (uint8_t)(int8_t)roundf(fminf(fmaxf(x[i] * by, -127), 127));
  return ml_f32_to_f16(d);
}

/* The value of largest magnitude, sign and all, becomes code 0, which stands for -8. */
static uint16_t round_q4_0(const float *x, uint8_t *codes) {
  float largest = 0;
  for (int i = 0; i < BLOCK; i++) {
    if (fabsf(x[i]) > fabsf(largest)) largest = x[i];
  }
  float d = largest / -8, by = d != 0 ? 1 / d : 0;
  uint8_t q[BLOCK];
  for (int i = 0; i < BLOCK; i++) {
    float code = truncf(x[i] * by + 8.5f);
    q[i] = code > 15  ? 15
           : code > 0 ? (uint8_t)code
                      : 0; /* a subnormal scale has an infinite inverse, and 0 * inf is no code */
  }
  for (int i = 0; i < BLOCK / 2; i++) codes[i] = (uint8_t)(q[i] | q[i + BLOCK / 2] << 4);
  return ml_f32_to_f16(d);
}

ml_status ml_quantize_values(ml_dtype to, ml_dtype from, int64_t count, const void *values, void *blocks) {
  if (!ml_can_quantize(to) || (from != ML_F32 && from != ML_F16 && from != ML_BF16)) {
    return ml_fail(ML_UNSUPPORTED, "%s values are not rounded to %s", ml_dtype_name(from), ml_dtype_name(to));
  }
  if (count < 0 || count % BLOCK != 0)
    return ml_fail(ML_USAGE, "%lld values are no whole blocks of %d", (long long)count, BLOCK);
  uint8_t *block = blocks;
  for (int64_t at = 0; at < count; at += BLOCK) {
    float x[BLOCK];
    if (!read_block(from, values, at, x))
      return ml_fail(ML_CORRUPT, "a value among %lld to %lld is not finite", (long long)at, (long long)at + BLOCK - 1);
    uint16_t d = to == ML_Q8_0 ? round_q8_0(x, block + 2) : round_q4_0(x, block + 2);
    if ((d & 0x7c00) == 0x7c00)
      return ml_fail(ML_CORRUPT, "values %lld to %lld are too large for %s", (long long)at, (long long)at + BLOCK - 1,
                     ml_dtype_name(to));
    memcpy(block, &d, 2);
    block += ml_dtype_infos[to].bytes;
  }
  return ML_OK;
}
