// linears_affine.cu: linears.cuh for affine formats.
#include "gpu/linears.cuh"

AFFINE_LINEARS(2)
AFFINE_LINEARS(3)
AFFINE_LINEARS(4)
AFFINE_LINEARS(5)
AFFINE_LINEARS(6)
AFFINE_LINEARS(8)
