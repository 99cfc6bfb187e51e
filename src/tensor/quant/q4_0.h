/* q4_0.h: block of 32: float16 scale d, 16 bytes of 4-bit codes q (element j low, j + 16 high); weight = d (q - 8). */
#ifndef ML_QUANT_Q4_0_H
#define ML_QUANT_Q4_0_H

#include "tensor/quant/quant.h"

#define ML_QUANT_Q4_0                                                                                                  \
  {                                                                                                                    \
    .dtype = ML_Q4_0, .code = ML_CODE_4, .block = 32, .sub = 32, .zero = 8, .n_fields = 2,                             \
    .fields = {{0, 2}, {2, 16}},                                                                                       \
  }

#endif
