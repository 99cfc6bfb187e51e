// many_affine.cu: many.cuh for affine formats.
#include "gpu/many.cuh"

MANY_PRODUCTS(affine2, ML_AFFINE2_32_F32)
MANY_PRODUCTS(affine3, ML_AFFINE3_32_F32)
MANY_PRODUCTS(affine4, ML_AFFINE4_32_F32)
MANY_PRODUCTS(affine5, ML_AFFINE5_32_F32)
MANY_PRODUCTS(affine6, ML_AFFINE6_32_F32)
MANY_PRODUCTS(affine8, ML_AFFINE8_32_F32)
