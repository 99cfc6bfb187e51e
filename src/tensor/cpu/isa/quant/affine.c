/* affine.c: products with packed affine weights, as quant/affine.h says what they are. */
#include "tensor/quant/affine.h"

#include "tensor/cpu/isa/dot_codes.h"

/* The 16 rows' floats at p as float32. */
static void load_scales(const uint8_t *p, ml_dtype dtype, float *out) {
  if (dtype == ML_F32) __builtin_memcpy(out, p, PANEL_ROWS * sizeof *out);
  else if (dtype == ML_F16) load_halves(p, out);
  else v_store(out, v_load_bf16((const uint16_t *)(const void *)p));
}

/* Bits `at`.. of a row's words, of all 16 rows. */
ALWAYS_INLINE void take_bits(const uint32_t *words, const int bits, const int at, const int shift, uint32_t *codes) {
  const int word = at / 32, from = at % 32;
  const uint32_t mask = (1u << bits) - 1;
  for (int r = 0; r < PANEL_ROWS; r++) {
    uint32_t code = words[word * PANEL_ROWS + r] >> from;
    if (from + bits > 32) code |= words[(word + 1) * PANEL_ROWS + r] << (32 - from);
    codes[r] |= (code & mask) << shift;
  }
}

/* 32 codes of each row, which are `bits` words of it. */
ALWAYS_INLINE void expand_codes(const uint8_t *p, const int bits, uint8_t *restrict codes) {
  uint32_t words[8 * PANEL_ROWS];
  __builtin_memcpy(words, p, (size_t)bits * PANEL_ROWS * sizeof *words);
#pragma GCC unroll 8
  for (int four = 0; four < 8; four++) {
    uint32_t bytes[PANEL_ROWS] = {0};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) take_bits(words, bits, (4 * four + i) * bits, 8 * i, bytes);
    for (int r = 0; r < PANEL_ROWS && bits == 8; r++) bytes[r] ^= 0x80808080u;
    __builtin_memcpy(codes + four * sizeof bytes, bytes, sizeof bytes);
  }
}

ALWAYS_INLINE void expand_group(const ml_format *f, const uint8_t *p, const int bits, uint8_t *restrict codes,
                                float *scale, float *min) {
  const ml_quant *q = &f->of;
  const int parts = q->block / 32, size = q->fields[0].bytes;
  load_scales(p, q->scale, scale);
  load_scales(p + size * PANEL_ROWS, q->scale, min);
  for (int i = 1; i < parts; i++) {
    __builtin_memcpy(scale + i * PANEL_ROWS, scale, PANEL_ROWS * sizeof *scale);
    __builtin_memcpy(min + i * PANEL_ROWS, min, PANEL_ROWS * sizeof *min);
  }
  p += 2 * size * PANEL_ROWS;
  for (int i = 0; i < parts; i++) expand_codes(p + i * bits * 4 * PANEL_ROWS, bits, codes + i * 32 * PANEL_ROWS);
}

/* Of one width: products with one row, and the codes of a group. */
#define WIDTH(bits)                                                                                                    \
  static void expand_##bits(const ml_format *f, const uint8_t *p, uint8_t *restrict codes, float *scale, float *min) { \
    expand_group(f, p, bits, codes, scale, min);                                                                       \
  }                                                                                                                    \
  static void stream_##bits(const ml_format *f, const uint8_t *p, int64_t count, const act *x, int64_t row,            \
                            float *acc) {                                                                              \
    _Alignas(64) uint8_t codes[128 * PANEL_ROWS];                                                                      \
    _Alignas(64) float scale[4 * PANEL_ROWS], min[4 * PANEL_ROWS];                                                     \
    const int group = f->of.block, bytes = (2 * f->of.fields[0].bytes + group * bits / 8) * PANEL_ROWS;                \
    for (int64_t k = 0; k < count; k += group, p += bytes) {                                                           \
      for (int b = 0; b < bytes; b += LINE) __builtin_prefetch(p + PREFETCH_AHEAD + b);                                \
      expand_group(f, p, bits, codes, scale, min);                                                                     \
      dot_codes_rows(ML_AFFINE_CODE(bits), 32, ML_AFFINE_ZERO(bits), true, 1, codes, scale, min, x, row, k, group,     \
                     acc);                                                                                             \
    }                                                                                                                  \
  }
WIDTH(2)
WIDTH(3)
WIDTH(4)
WIDTH(5)
WIDTH(6)
WIDTH(8)

#define AFFINE(n, length, type, name, size)                                                                            \
  {.of = ML_QUANT_AFFINE(n, length, type, size), .expand = expand_##n, .stream = stream_##n},
const ml_format FORMAT(affine)[ML_AFFINES] = {ML_AFFINE_FORMATS(AFFINE)};
