/* test_quant_rows.c: float weights rounded to blocks, against what the gguf package (quants.py, quantize) makes of the
 * same values. */
#include "check.h"
#include "tensor/cpu/kernel.h"
#include "tensor/quant_rows.h"

#include <math.h>
#include <string.h>

enum { COUNT = 96 };

static const uint8_t q8_0[] = {0xd0, 0x23, 0xae, 0x46, 0xd7, 0x6f, 0x00, 0x91, 0x29, 0xba, 0x52, 0xe3, 0x7b, 0x0c, 0x9e,
                               0x35, 0xc7, 0x5e, 0xf0, 0x81, 0x19, 0xaa, 0x42, 0xd3, 0x6b, 0xfc, 0x8d, 0x25, 0xb6, 0x4e,
                               0xdf, 0x77, 0x08, 0x9a, 0x29, 0x09, 0x30, 0xc4, 0x57, 0xec, 0x7f, 0x14, 0xa9, 0x3c, 0xd0,
                               0x63, 0xf8, 0x8d, 0x20, 0xb5, 0x47, 0xdc, 0x6f, 0x04, 0x99, 0x2c, 0xc0, 0x53, 0xe8, 0x7b,
                               0x10, 0xa5, 0x38, 0xcc, 0x5f, 0xf4, 0x89, 0x1c, 0xf9, 0x43, 0xa2, 0x50, 0xd1, 0x7f, 0x00,
                               0x81, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
                               0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
static const uint8_t q4_0[] = {0xc0, 0x33, 0x73, 0x0c, 0xa5, 0x3f, 0xc8, 0x51, 0xfb, 0x84, 0x1d, 0xa6, 0x3f, 0xd9,
                               0x62, 0xfb, 0x94, 0x2e, 0x1f, 0x99, 0x15, 0x8c, 0xf3, 0x59, 0xc0, 0x37, 0xae, 0x04,
                               0x7b, 0xe2, 0x59, 0xbf, 0x26, 0x9d, 0xf4, 0x6a, 0xe9, 0xd3, 0x8e, 0x83, 0x8b, 0x80,
                               0x88, 0x8f, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88};

/* Three blocks of different sizes; the last has zeros. */
static void fill(float *x) {
  static const float sizes[] = {1, 0.01f, 300};
  for (int i = 0; i < COUNT; i++) x[i] = i < 70 ? (float)((i * 37 + 11) % 64 - 31) / 16 * sizes[i / 32] : 0;
}

static void check_bytes(ml_dtype to, const uint8_t *want, size_t size) {
  float x[COUNT];
  uint8_t got[128] = {0};
  fill(x);
  CHECK_OK(ml_quantize_values(to, ML_F32, COUNT, x, got), "%s", ml_dtype_name(to));
  size_t i = 0;
  while (i < size && got[i] == want[i]) i++;
  CHECK(i == size, "%s: %zu of %zu bytes agree", ml_dtype_name(to), i, size);
}

/* Halves say the same as the floats that they widen to. */
static void check_halves(ml_dtype from) {
  float x[COUNT];
  uint16_t halves[COUNT];
  uint8_t of_floats[128] = {0}, of_halves[128] = {0};
  fill(x);
  for (int i = 0; i < COUNT; i++) {
    halves[i] = from == ML_F16 ? ml_f32_to_f16(x[i]) : ml_f32_to_bf16(x[i]);
    x[i] = from == ML_F16 ? ml_f16_to_f32(halves[i]) : ml_bf16_to_f32(halves[i]);
  }
  CHECK_OK(ml_quantize_values(ML_Q8_0, ML_F32, COUNT, x, of_floats), "floats");
  CHECK_OK(ml_quantize_values(ML_Q8_0, from, COUNT, halves, of_halves), "halves");
  CHECK(memcmp(of_floats, of_halves, sizeof of_floats) == 0, "%s and float32 differ", ml_dtype_name(from));
}

static void check_refused(void) {
  float x[32] = {0};
  uint8_t blocks[64];
  CHECK_OK(ml_quantize_values(ML_Q8_0, ML_F32, 32, x, blocks), "zeros");
  CHECK(blocks[0] == 0 && blocks[1] == 0 && blocks[2] == 0, "zeros stay zeros");
  CHECK_FAILS(ml_quantize_values(ML_Q8_0, ML_F32, 31, x, blocks), ML_USAGE, "", "half a block");
  CHECK_FAILS(ml_quantize_values(ML_Q4_K, ML_F32, 32, x, blocks), ML_UNSUPPORTED, "", "a format without a rule");
  CHECK_FAILS(ml_quantize_values(ML_Q8_0, ML_I32, 32, x, blocks), ML_UNSUPPORTED, "", "integers");
  x[7] = 1e-42f;
  CHECK_OK(ml_quantize_values(ML_Q4_0, ML_F32, 32, x, blocks), "a subnormal value");
  x[7] = 1e30f;
  CHECK_FAILS(ml_quantize_values(ML_Q4_0, ML_F32, 32, x, blocks), ML_CORRUPT, "", "a value too large");
  x[7] = NAN;
  CHECK_FAILS(ml_quantize_values(ML_Q4_0, ML_F32, 32, x, blocks), ML_CORRUPT, "", "not a number");
  x[7] = -INFINITY;
  CHECK_FAILS(ml_quantize_values(ML_Q8_0, ML_F32, 32, x, blocks), ML_CORRUPT, "", "infinity");
}

int main(void) {
  check_bytes(ML_Q8_0, q8_0, sizeof q8_0);
  check_bytes(ML_Q4_0, q4_0, sizeof q4_0);
  check_halves(ML_F16);
  check_halves(ML_BF16);
  check_refused();
  return check_done();
}
