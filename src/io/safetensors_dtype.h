/* safetensors_dtype.h: how safetensors spells the element types. */
#ifndef ML_IO_SAFETENSORS_DTYPE_H
#define ML_IO_SAFETENSORS_DTYPE_H

#include "tensor/dtype.h"

/* NULL for a type that the format cannot hold (block formats). */
static inline const char *ml_safetensors_dtype(ml_dtype dtype) {
  switch (dtype) {
  case ML_F32: return "F32";
  case ML_F16: return "F16";
  case ML_BF16: return "BF16";
  case ML_F64: return "F64";
  case ML_I8: return "I8";
  case ML_U8: return "U8";
  case ML_I16: return "I16";
  case ML_U16: return "U16";
  case ML_I32: return "I32";
  case ML_U32: return "U32";
  case ML_I64: return "I64";
  case ML_U64: return "U64";
  case ML_BOOL: return "BOOL";
  case ML_F8_E4M3: return "F8_E4M3";
  default: return NULL;
  }
}

#endif
