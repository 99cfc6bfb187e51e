/* q8_0.h: block of 32: float16 scale d, 32 signed bytes q; weight = d q. */
#ifndef ML_QUANT_Q8_0_H
#define ML_QUANT_Q8_0_H

#include "tensor/quant/quant.h"

#define ML_QUANT_Q8_0                                                                                                  \
  { .dtype = ML_Q8_0, .code = ML_CODE_8_SIGNED, .block = 32, .sub = 32, .n_fields = 2, .fields = {{0, 2}, {2, 32}}, }

#endif
