// linears_blocks.cu: linears.cuh for formats of blocks of 32.
#include "gpu/linears.cuh"

LINEARS(q4_0, ML_Q4_0)
LINEARS(q4_1, ML_Q4_1)
LINEARS(q5_0, ML_Q5_0)
LINEARS(q5_1, ML_Q5_1)
LINEARS(q8_0, ML_Q8_0)
