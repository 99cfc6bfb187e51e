/* q4_k.h: block of 256 in eight groups of 32: float16 d and dmin, 12 bytes of 6-bit scales s and minima m, 128 bytes of
 * 4-bit codes (byte 32 g + j: element 64 g + j low, 64 g + 32 + j high); weight = d s q - dmin m. */
#ifndef ML_QUANT_Q4_K_H
#define ML_QUANT_Q4_K_H

#include "tensor/quant/quant.h"

#define ML_QUANT_Q4_K                                                                                                  \
  {                                                                                                                    \
    .dtype = ML_Q4_K, .code = ML_CODE_4, .block = 256, .sub = 32, .has_min = true, .n_fields = 4,                      \
    .fields = {{0, 2}, {2, 2}, {4, 12}, {16, 128}},                                                                    \
  }

#endif
