// linears_k.cu: linears.cuh for formats of blocks of 256.
#include "gpu/linears.cuh"

LINEARS(q4_k, ML_Q4_K, 4)
LINEARS(q5_k, ML_Q5_K, 4)
LINEARS(q6_k, ML_Q6_K, 4)
