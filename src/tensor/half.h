/* half.h: float16 and bfloat16 from their bits, and float32 rounded to them. */
#ifndef ML_TENSOR_HALF_H
#define ML_TENSOR_HALF_H

#include <stdint.h>

static inline float ml_bf16_to_f32(uint16_t h) {
  union {
    uint32_t u;
    float f;
  } v = {.u = (uint32_t)h << 16};
  return v.f;
}

/* Rounds to nearest, halves to even; NaN stays NaN. */
static inline uint16_t ml_f32_to_bf16(float f) {
  union {
    float f;
    uint32_t u;
  } v = {.f = f};
  if ((v.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(v.u >> 16 | 64);
  return (uint16_t)((v.u + 0x7fffu + (v.u >> 16 & 1)) >> 16);
}

static inline float ml_f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
  union {
    uint32_t u;
    float f;
  } v;
  if (exponent == 31) v.u = sign | 0x7f800000u | mantissa << 13;
  else if (exponent) v.u = sign | (exponent + 112) << 23 | mantissa << 13;
  else {
    v.f = (float)mantissa * 0x1p-24f;
    v.u |= sign;
  }
  return v.f;
}

/* The same; what is too large becomes an infinity. */
static inline uint16_t ml_f32_to_f16(float f) {
  union {
    float f;
    uint32_t u;
  } v = {.f = f};
  uint32_t sign = v.u >> 16 & 0x8000, rest = v.u & 0x7fffffffu;
  if (rest > 0x7f800000u) return (uint16_t)(sign | 0x7e00);
  if (rest >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* 65520 and up round to infinity */
  if (rest < 0x38800000u) { /* subnormal: adding 0.5 lines the mantissa up with its last bit */
    union {
      uint32_t u;
      float f;
    } s = {.u = rest};
    s.f += 0.5f;
    return (uint16_t)(sign | (s.u - 0x3f000000u));
  }
  rest += 0xc8000fffu + (rest >> 13 & 1);
  return (uint16_t)(sign | rest >> 13);
}

#endif
