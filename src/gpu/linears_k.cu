// linears_k.cu: linears.cuh for formats of blocks of 256.
#include "gpu/linears.cuh"

LINEARS(q4_k, ML_Q4_K)
LINEARS(q5_k, ML_Q5_K)
LINEARS(q6_k, ML_Q6_K)
