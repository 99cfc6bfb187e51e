// tiles_affine.cu: tiles.cuh for affine weights and rows of bfloat16.
#include "gpu/tiles.cuh"

TILES(affine2_bfloat16_64, ML_AFFINE2_32_F32, ML_BF16, 64)
TILES(affine3_bfloat16_64, ML_AFFINE3_32_F32, ML_BF16, 64)
TILES(affine4_bfloat16_64, ML_AFFINE4_32_F32, ML_BF16, 64)
TILES(affine5_bfloat16_64, ML_AFFINE5_32_F32, ML_BF16, 64)
TILES(affine6_bfloat16_64, ML_AFFINE6_32_F32, ML_BF16, 64)
TILES(affine8_bfloat16_64, ML_AFFINE8_32_F32, ML_BF16, 64)
