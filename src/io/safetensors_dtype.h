/* safetensors_dtype.h: how safetensors spells the element types. */
#ifndef ML_IO_SAFETENSORS_DTYPE_H
#define ML_IO_SAFETENSORS_DTYPE_H

#include "tensor/dtype.h"

/* NULL for a type that the format cannot hold (block formats). */
static inline const char *ml_safetensors_dtype(ml_dtype dtype) {
  static const char *const names[ML_DTYPE_COUNT] = {
      [ML_F32] = "F32", [ML_F16] = "F16", [ML_BF16] = "BF16", [ML_F64] = "F64",         [ML_I8] = "I8",
      [ML_U8] = "U8",   [ML_I16] = "I16", [ML_U16] = "U16",   [ML_I32] = "I32",         [ML_U32] = "U32",
      [ML_I64] = "I64", [ML_U64] = "U64", [ML_BOOL] = "BOOL", [ML_F8_E4M3] = "F8_E4M3",
  };
  return names[dtype];
}

#endif
