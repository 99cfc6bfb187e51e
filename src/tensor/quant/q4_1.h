/* q4_1.h: block of 32: float16 scale d and minimum m, 16 bytes of 4-bit codes q (element j low, j + 16 high); weight =
 * d q + m. */
#ifndef ML_QUANT_Q4_1_H
#define ML_QUANT_Q4_1_H

#include "tensor/quant/quant.h"

#define ML_QUANT_Q4_1                                                                                                  \
  {                                                                                                                    \
    .dtype = ML_Q4_1, .code = ML_CODE_4, .block = 32, .sub = 32, .has_min = true, .n_fields = 3,                       \
    .fields = {{0, 2}, {2, 2}, {4, 16}},                                                                               \
  }

#endif
