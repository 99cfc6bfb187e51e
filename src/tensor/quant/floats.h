/* floats.h: weights of float32, float16 and bfloat16: a block is one number. */
#ifndef ML_QUANT_FLOATS_H
#define ML_QUANT_FLOATS_H

#include "tensor/quant/quant.h"

#define ML_QUANT_FLOAT(id, size)                                                                                       \
  { .dtype = ML_##id, .code = ML_CODE_FLOAT, .block = 1, .sub = 1, .n_fields = 1, .fields = {{0, size}}, }
#define ML_QUANT_F32 ML_QUANT_FLOAT(F32, 4)
#define ML_QUANT_F16 ML_QUANT_FLOAT(F16, 2)
#define ML_QUANT_BF16 ML_QUANT_FLOAT(BF16, 2)

#endif
