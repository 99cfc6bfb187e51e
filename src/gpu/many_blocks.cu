// many_blocks.cu: many.cuh for formats of blocks of 32.
#include "gpu/many.cuh"

MANY_PRODUCTS(q4_0, ML_Q4_0)
MANY_PRODUCTS(q4_1, ML_Q4_1)
MANY_PRODUCTS(q5_0, ML_Q5_0)
MANY_PRODUCTS(q5_1, ML_Q5_1)
MANY_PRODUCTS(q8_0, ML_Q8_0)
