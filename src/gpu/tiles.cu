// tiles.cu: tiles.cuh for float weights of x's dtype.
#include "gpu/tiles.cuh"

TILES(bfloat16_bfloat16_128, ML_BF16, ML_BF16, 128)
TILES(bfloat16_bfloat16_64, ML_BF16, ML_BF16, 64)
TILES(float16_float16_128, ML_F16, ML_F16, 128)
TILES(float16_float16_64, ML_F16, ML_F16, 64)
