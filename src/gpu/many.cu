// many.cu: many.cuh for float weights.
#include "gpu/many.cuh"

MANY_PRODUCTS(float32, ML_F32)
MANY_PRODUCTS(float16, ML_F16)
MANY_PRODUCTS(bfloat16, ML_BF16)
