/* q6_k.h: block of 256 in sixteen groups of 16: 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 signed scales s,
 * float16 d; weight = d s (q - 32). Of each half of 128 elements: low bits of element 32 c + l are in byte 32 (c mod 2)
 * + l (low half for c < 2), high bits are bits 2 c and 2 c + 1 of byte l. */
#ifndef ML_QUANT_Q6_K_H
#define ML_QUANT_Q6_K_H

#include "tensor/quant/quant.h"

#define ML_QUANT_Q6_K                                                                                                  \
  {                                                                                                                    \
    .dtype = ML_Q6_K, .code = ML_CODE_6, .block = 256, .sub = 16, .zero = 32, .n_fields = 4,                           \
    .fields = {{208, 2}, {192, 16}, {0, 128}, {128, 64}},                                                              \
  }

#endif
