// tiles_blocks.cu: tiles.cuh for quantised weights and rows of bfloat16.
#include "gpu/tiles.cuh"

TILES(q4_0_bfloat16_64, ML_Q4_0, ML_BF16, 64)
TILES(q4_1_bfloat16_64, ML_Q4_1, ML_BF16, 64)
TILES(q5_0_bfloat16_64, ML_Q5_0, ML_BF16, 64)
TILES(q5_1_bfloat16_64, ML_Q5_1, ML_BF16, 64)
TILES(q8_0_bfloat16_64, ML_Q8_0, ML_BF16, 64)
TILES(q4_k_bfloat16_64, ML_Q4_K, ML_BF16, 64)
TILES(q5_k_bfloat16_64, ML_Q5_K, ML_BF16, 64)
TILES(q6_k_bfloat16_64, ML_Q6_K, ML_BF16, 64)
