/* q5_0.h: block of 32: float16 scale d, 32 fifth bits, 16 bytes of 4-bit codes; weight = d (q - 16). */
#ifndef ML_QUANT_Q5_0_H
#define ML_QUANT_Q5_0_H

#include "tensor/quant/quant.h"

#define ML_QUANT_Q5_0                                                                                                  \
  {                                                                                                                    \
    .dtype = ML_Q5_0, .code = ML_CODE_5, .block = 32, .sub = 32, .zero = 16, .n_fields = 3,                            \
    .fields = {{0, 2}, {2, 4}, {6, 16}},                                                                               \
  }

#endif
