/* keys.h: keys by which the largest and the smallest element are found.
 *
 * Every dtype has keys, integers of its own width in the order of its values: of floats minus infinity first, -0 before
 * 0. For the smallest all bits are flipped, so that the largest key is looked for in any case. NaN, which wins, has the
 * largest key that there is. An index is the first of those with equal values, and so -0 has the key of 0 for it. */
#ifndef ML_CPU_KEYS_H
#define ML_CPU_KEYS_H

#include "tensor/cpu/isa/reduce.h"
#include "tensor/cpu/isa/simd.h"

/* X(dtype, name, S, key of v): S is a signed integer of the dtype's width. `flip` is -1 for the smallest, `merge` -1
 * for an index. Keys of floats are made without a condition, since compilers make vectors of that. */
#define EACH_KEY(X)                                                                                                    \
  X(ML_F32, f32, int32_t, FLOAT_KEY(int32_t, INT32_MAX, 0x7f800000))                                                   \
  X(ML_F64, f64, int64_t, FLOAT_KEY(int64_t, INT64_MAX, 0x7ff0000000000000))                                           \
  X(ML_F16, f16, int16_t, FLOAT_KEY(int16_t, INT16_MAX, 0x7c00))                                                       \
  X(ML_BF16, bf16, int16_t, FLOAT_KEY(int16_t, INT16_MAX, 0x7f80))                                                     \
  X(ML_I8, i8, int8_t, (int8_t)(v ^ flip))                                                                             \
  X(ML_U8, u8, int8_t, (int8_t)(v ^ INT8_MIN ^ flip))                                                                  \
  X(ML_BOOL, boolean, int8_t, (int8_t)((v != 0) ^ flip))                                                               \
  X(ML_I16, i16, int16_t, (int16_t)(v ^ flip))                                                                         \
  X(ML_U16, u16, int16_t, (int16_t)(v ^ INT16_MIN ^ flip))                                                             \
  X(ML_I32, i32, int32_t, v ^ flip)                                                                                    \
  X(ML_U32, u32, int32_t, v ^ INT32_MIN ^ flip)                                                                        \
  X(ML_I64, i64, int64_t, v ^ flip)                                                                                    \
  X(ML_U64, u64, int64_t, v ^ INT64_MIN ^ flip)

/* All bits set where x < 0. */
#define BELOW_ZERO(S, x) ((S)((x) >> (sizeof(S) * 8 - 1)))
#define SIZE_OF_FLOAT(S, MAX, v) ((S)((v) & (MAX)))
#define ZERO_MERGED(S, MAX, v) ((S)((v) & ~(BELOW_ZERO(S, (S)(SIZE_OF_FLOAT(S, MAX, v) - 1)) & merge)))
#define ORDERED(S, MAX, v) ((S)((v) ^ (BELOW_ZERO(S, v) & (MAX)) ^ flip))
#define IS_NAN(S, MAX, INF, v) BELOW_ZERO(S, (S)((INF)-SIZE_OF_FLOAT(S, MAX, v)))
#define FLOAT_KEY(S, MAX, INF)                                                                                         \
  (S)((ORDERED(S, MAX, ZERO_MERGED(S, MAX, v)) & ~IS_NAN(S, MAX, INF, v)) | ((MAX)&IS_NAN(S, MAX, INF, v)))

/* NAME_key: an element's. */
#define KEY_FUNCTION(T, NAME, S, KEY)                                                                                  \
  ALWAYS_INLINE S NAME##_key(S v, S flip, S merge) {                                                                   \
    (void)merge;                                                                                                       \
    return KEY;                                                                                                        \
  }
EACH_KEY(KEY_FUNCTION)

/* The bits of the element that has this key. */
ALWAYS_INLINE int64_t bits_of(int64_t key, ml_dtype t, bool smallest) {
  int width = 8 * ml_dtype_infos[t].bytes;
  int64_t most = INT64_MAX >> (64 - width), bits = smallest ? ~key : key;
  if (t == ML_U8 || t == ML_U16 || t == ML_U32 || t == ML_U64) return bits ^ ~most;
  if (!ml_dtype_is_float(t)) return bits;
  if (key == most) return t == ML_F32 ? 0x7fc00000 : t == ML_F64 ? 0x7ff8000000000000 : t == ML_F16 ? 0x7e00 : 0x7fc0;
  return bits < 0 ? bits ^ most : bits;
}

static inline bool wants_index(int op) { return op == ML_OP_argmax || op == ML_OP_argmin; }
static inline bool wants_smallest(int op) { return op == ML_OP_min || op == ML_OP_argmin; }

#endif
