/* q5_1.h: block of 32: float16 scale d and minimum m, 32 fifth bits, 16 bytes of 4-bit codes; weight = d q + m. */
#ifndef ML_QUANT_Q5_1_H
#define ML_QUANT_Q5_1_H

#include "tensor/quant/quant.h"

#define ML_QUANT_Q5_1                                                                                                  \
  {                                                                                                                    \
    .dtype = ML_Q5_1, .code = ML_CODE_5, .block = 32, .sub = 32, .has_min = true, .n_fields = 4,                       \
    .fields = {{0, 2}, {2, 2}, {4, 4}, {8, 16}},                                                                       \
  }

#endif
