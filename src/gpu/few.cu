// few.cu: few.cuh for both dtypes.
#include "gpu/few.cuh"

FEW(bfloat16, ML_BF16)
FEW(float16, ML_F16)
