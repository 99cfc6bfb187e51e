/* q5_k.h: as Q4_K, with 32 bytes of fifth bits (bit g of byte j: element 32 g + j); weight = d s q - dmin m. */
#ifndef ML_QUANT_Q5_K_H
#define ML_QUANT_Q5_K_H

#include "tensor/quant/quant.h"

#define ML_QUANT_Q5_K                                                                                                  \
  {                                                                                                                    \
    .dtype = ML_Q5_K, .code = ML_CODE_5, .block = 256, .sub = 32, .has_min = true, .n_fields = 5,                      \
    .fields = {{0, 2}, {2, 2}, {4, 12}, {16, 32}, {48, 128}},                                                          \
  }

#endif
