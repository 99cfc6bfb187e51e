/* affine.h: MLX's affine weights: groups of 32, 64 or 128 inputs of one row, each with a scale s and a bias b of
 * float32, float16 or bfloat16, and codes q of 2, 3, 4, 5, 6 or 8 bits; weight = s q + b. Code j lies in bits j n to
 * j n + n - 1 of the group's bytes, the lowest bit of the first byte first.
 *
 * A checkpoint has codes, scales and biases in tensors of their own: the sources. A block here is a group: its scale,
 * its bias, its codes. */
#ifndef ML_QUANT_AFFINE_H
#define ML_QUANT_AFFINE_H

#include "tensor/quant/quant.h"

/* Code and zero by bits: 8 bits are taken as signed ones, 128 less. */
#define ML_AFFINE_CODE(n) ((n) == 8 ? ML_CODE_8_SIGNED : (n) == 6 ? ML_CODE_6 : (n) == 5 ? ML_CODE_5 : ML_CODE_4)
#define ML_AFFINE_ZERO(n) ((n) == 8 ? -128 : 0)

/* n bits, groups of `length`. Scales are repeated for each 32 inputs of larger groups. */
#define ML_QUANT_AFFINE(n, length, type, size)                                                                         \
  {                                                                                                                    \
    .dtype = ML_AFFINE##n##_##length##_##type, .code = ML_AFFINE_CODE(n), .block = length, .sub = 32,                  \
    .zero = ML_AFFINE_ZERO(n), .has_min = true, .n_fields = 3, .n_sources = 3,                                         \
    .fields = {{0, size, 1}, {size, size, 2}, {2 * size, length * n / 8, 0}}, .bits = n, .scale = ML_##type,           \
  }

#endif
