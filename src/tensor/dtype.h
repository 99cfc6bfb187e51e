/* dtype.h: element types and block formats.
 *
 * A block format stores `block` consecutive elements of the last axis in `bytes` bytes; a plain type is a block of one.
 */
#ifndef ML_TENSOR_DTYPE_H
#define ML_TENSOR_DTYPE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Affine weights (quant/affine.h): F(bits of a code, inputs of a group, dtype of scales, its name, its bytes) each. */
#define ML_AFFINE_SCALES(F, bits, group)                                                                               \
  F(bits, group, F32, "float32", 4)                                                                                    \
  F(bits, group, F16, "float16", 2)                                                                                    \
  F(bits, group, BF16, "bfloat16", 2)
#define ML_AFFINE_GROUPS(F, bits)                                                                                      \
  ML_AFFINE_SCALES(F, bits, 32)                                                                                        \
  ML_AFFINE_SCALES(F, bits, 64)                                                                                        \
  ML_AFFINE_SCALES(F, bits, 128)
#define ML_AFFINE_FORMATS(F)                                                                                           \
  ML_AFFINE_GROUPS(F, 2)                                                                                               \
  ML_AFFINE_GROUPS(F, 3)                                                                                               \
  ML_AFFINE_GROUPS(F, 4)                                                                                               \
  ML_AFFINE_GROUPS(F, 5)                                                                                               \
  ML_AFFINE_GROUPS(F, 6)                                                                                               \
  ML_AFFINE_GROUPS(F, 8)

/*          enum      name            elements  bytes  class */
#define ML_DTYPES(X)                                                                                                   \
  X(F32, "float32", 1, 4, FLOAT)                                                                                       \
  X(F16, "float16", 1, 2, FLOAT)                                                                                       \
  X(BF16, "bfloat16", 1, 2, FLOAT)                                                                                     \
  X(F64, "float64", 1, 8, DOUBLE)                                                                                      \
  X(I8, "int8", 1, 1, INT)                                                                                             \
  X(U8, "uint8", 1, 1, INT)                                                                                            \
  X(I16, "int16", 1, 2, INT)                                                                                           \
  X(U16, "uint16", 1, 2, INT)                                                                                          \
  X(I32, "int32", 1, 4, INT)                                                                                           \
  X(U32, "uint32", 1, 4, INT)                                                                                          \
  X(I64, "int64", 1, 8, INT)                                                                                           \
  X(U64, "uint64", 1, 8, INT)                                                                                          \
  X(BOOL, "bool", 1, 1, BOOL)                                                                                          \
  X(F8_E4M3, "float8_e4m3", 1, 1, STORED)                                                                              \
  X(Q4_0, "q4_0", 32, 18, BLOCK)                                                                                       \
  X(Q4_1, "q4_1", 32, 20, BLOCK)                                                                                       \
  X(Q5_0, "q5_0", 32, 22, BLOCK)                                                                                       \
  X(Q5_1, "q5_1", 32, 24, BLOCK)                                                                                       \
  X(Q8_0, "q8_0", 32, 34, BLOCK)                                                                                       \
  X(Q4_K, "q4_k", 256, 144, BLOCK)                                                                                     \
  X(Q5_K, "q5_k", 256, 176, BLOCK)                                                                                     \
  X(Q6_K, "q6_k", 256, 210, BLOCK)

typedef enum ml_dtype {
#define X(id, name, block, bytes, class) ML_##id,
  ML_DTYPES(X)
#undef X
#define F(n, length, type, name, size) ML_AFFINE##n##_##length##_##type,
      ML_AFFINE_FORMATS(F)
#undef F
          ML_DTYPE_COUNT,
  ML_AFFINE_FIRST = ML_AFFINE2_32_F32
} ml_dtype;

/* FLOAT computes in float32, DOUBLE and INT in their own kind (float64, int64) by the reference kernels; STORED and
 * BLOCK types are stored, and read through a cast or a product that knows them. */
typedef enum ml_dtype_class {
  ML_CLASS_FLOAT,
  ML_CLASS_DOUBLE,
  ML_CLASS_INT,
  ML_CLASS_BOOL,
  ML_CLASS_STORED,
  ML_CLASS_BLOCK
} ml_dtype_class;

typedef struct ml_dtype_info {
  const char *name;
  int block; /* elements a block */
  int bytes; /* bytes a block */
  ml_dtype_class class_;
} ml_dtype_info;

extern const ml_dtype_info ml_dtype_infos[ML_DTYPE_COUNT];

static inline const char *ml_dtype_name(ml_dtype t) { return ml_dtype_infos[t].name; }
static inline ml_dtype_class ml_dtype_class_of(ml_dtype t) { return ml_dtype_infos[t].class_; }
static inline bool ml_dtype_is_block(ml_dtype t) { return ml_dtype_infos[t].block > 1; }
static inline bool ml_dtype_is_float(ml_dtype t) { return ml_dtype_class_of(t) <= ML_CLASS_DOUBLE; }
/* The integers that an integer dtype holds: low..high, as far as int64 reaches (uint64 holds as many again). Everything
 * for other dtypes. */
void ml_dtype_limits(ml_dtype t, int64_t *low, int64_t *high);
/* ML_USAGE, in a message that names both, when an integer dtype does not hold the number. */
ml_status ml_dtype_want(ml_dtype t, int64_t number);
/* Finds a dtype by its name; false when there is none. */
bool ml_dtype_find(const char *name, ml_dtype *out);
/* Bytes of one row of `last` elements; false on overflow or when `last` is no whole number of blocks. */
bool ml_dtype_row_bytes(ml_dtype t, int64_t last, size_t *out);

/* ---- float16 and bfloat16 from their bits, and float32 rounded to them ---- */

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
