/* tile.c: tiles of registers (elementwise.h) from memory and back, and rounded to their dtype. */
#include "tensor/cpu/isa/elementwise.h"

#include "tensor/cpu/isa/simd.h"

/* ---- rounding ---- */

static int64_t wrap_int(int64_t v, ml_dtype t) {
  switch (t) {
  case ML_I8: return (int8_t)v;
  case ML_U8: return (uint8_t)v;
  case ML_I16: return (int16_t)v;
  case ML_U16: return (uint16_t)v;
  case ML_I32: return (int32_t)v;
  case ML_U32: return (uint32_t)v;
  case ML_BOOL: return v != 0;
  default: return v;
  }
}

void K(round_tile)(void *reg, ml_dtype t, int n) {
  float *x = reg;
  int64_t *k = reg;
  int i = 0;
  if (t == ML_F16) {
    for (; i + LANES <= n; i += LANES) v_store(x + i, v_round_f16(v_load(x + i)));
    for (; i < n; i++) x[i] = ml_f16_to_f32(ml_f32_to_f16(x[i]));
  } else if (t == ML_BF16) {
    for (; i + LANES <= n; i += LANES) v_store(x + i, v_round_bf16(v_load(x + i)));
    for (; i < n; i++) x[i] = ml_bf16_to_f32(ml_f32_to_bf16(x[i]));
  } else if (!ml_dtype_is_float(t) && t != ML_F8_E4M3 && t != ML_I64 && t != ML_U64) {
    for (; i < n; i++) k[i] = wrap_int(k[i], t);
  }
}

/* ---- memory ---- */

#define LOAD(TYPE, REG, EXPR)                                                                                          \
  for (int i = 0; i < n; i++) {                                                                                        \
    const TYPE v = ((const TYPE *)data)[i * stride];                                                                   \
    ((REG *)reg)[i] = (REG)(EXPR);                                                                                     \
  }                                                                                                                    \
  break

/* float8 e4m3: 4 exponent bits (bias 7), no infinities. */
static float f8_to_f32(uint8_t b) {
  int e = b >> 3 & 15, m = b & 7;
  if ((b & 127) == 127) return NAN;
  float v = e ? ldexpf((float)(8 + m), e - 10) : ldexpf((float)m, -9);
  return b & 128 ? -v : v;
}

/* Halves that lie side by side, sixteen at a time; how many there were. */
static int take_halves(float *to, const uint16_t *x, ml_dtype t, int n) {
  int i = 0;
  for (; i + LANES <= n; i += LANES) v_store(to + i, t == ML_F16 ? v_load_f16(x + i) : v_load_bf16(x + i));
  return i;
}

static int put_halves(uint16_t *to, const float *x, ml_dtype t, int n) {
  int i = 0;
  for (; i + LANES <= n; i += LANES) {
    if (t == ML_F16) v_store_f16(to + i, v_load(x + i));
    else v_store_bf16(to + i, v_load(x + i));
  }
  return i;
}

void K(load_tile)(void *reg, const char *data, ml_dtype t, int64_t stride, int n) {
  if (stride == 1 && (t == ML_F16 || t == ML_BF16)) {
    const int done = take_halves(reg, (const uint16_t *)(const void *)data, t, n);
    reg = (float *)reg + done, data += done * (int)sizeof(uint16_t), n -= done;
  }
  switch (t) {
  case ML_F32: LOAD(float, float, v);
  case ML_F16: LOAD(uint16_t, float, ml_f16_to_f32(v));
  case ML_BF16: LOAD(uint16_t, float, ml_bf16_to_f32(v));
  case ML_F8_E4M3: LOAD(uint8_t, float, f8_to_f32(v));
  case ML_F64: LOAD(double, double, v);
  case ML_I8: LOAD(int8_t, int64_t, v);
  case ML_U8: LOAD(uint8_t, int64_t, v);
  case ML_BOOL: LOAD(uint8_t, int64_t, v != 0);
  case ML_I16: LOAD(int16_t, int64_t, v);
  case ML_U16: LOAD(uint16_t, int64_t, v);
  case ML_I32: LOAD(int32_t, int64_t, v);
  case ML_U32: LOAD(uint32_t, int64_t, v);
  case ML_I64:
  case ML_U64: LOAD(int64_t, int64_t, v);
  default: break;
  }
}

#define STORE(TYPE, REG, EXPR)                                                                                         \
  for (int i = 0; i < n; i++) {                                                                                        \
    const REG v = ((const REG *)reg)[i];                                                                               \
    ((TYPE *)data)[i * stride] = (TYPE)(EXPR);                                                                         \
  }                                                                                                                    \
  break

void K(store_tile)(char *data, ml_dtype t, int64_t stride, const void *reg, int n) {
  if (stride == 1 && (t == ML_F16 || t == ML_BF16)) {
    const int done = put_halves((uint16_t *)(void *)data, reg, t, n);
    reg = (const float *)reg + done, data += done * (int)sizeof(uint16_t), n -= done;
  }
  switch (t) {
  case ML_F32: STORE(float, float, v);
  case ML_F16: STORE(uint16_t, float, ml_f32_to_f16(v));
  case ML_BF16: STORE(uint16_t, float, ml_f32_to_bf16(v));
  case ML_F64: STORE(double, double, v);
  case ML_I8:
  case ML_U8:
  case ML_BOOL: STORE(uint8_t, int64_t, v);
  case ML_I16:
  case ML_U16: STORE(uint16_t, int64_t, v);
  case ML_I32:
  case ML_U32: STORE(uint32_t, int64_t, v);
  case ML_I64:
  case ML_U64: STORE(int64_t, int64_t, v);
  default: break;
  }
}
