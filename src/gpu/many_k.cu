// many_k.cu: many.cuh for formats of blocks of 256.
#include "gpu/many.cuh"

MANY_PRODUCTS(q4_k, ML_Q4_K)
MANY_PRODUCTS(q5_k, ML_Q5_K)
MANY_PRODUCTS(q6_k, ML_Q6_K)
