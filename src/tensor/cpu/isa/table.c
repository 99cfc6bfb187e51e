/* table.c: this instruction set's kernels by operation. A missing kernel fails the link. */
#include "tensor/cpu/isa/kernels.h"

#define ROW(row, kernel) ROW_TWO(row, kernel, kernel)
#define ROW_TWO(row, prepared, kernel) [row] = {K(prepared##_prepare), K(kernel)},
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

#define FORMATS                                                                                                        \
  {                                                                                                                    \
    [ML_F32] = &FORMAT(f32), [ML_F16] = &FORMAT(f16), [ML_BF16] = &FORMAT(bf16), [ML_Q4_0] = &FORMAT(q4_0),            \
    [ML_Q4_1] = &FORMAT(q4_1), [ML_Q5_0] = &FORMAT(q5_0), [ML_Q5_1] = &FORMAT(q5_1), [ML_Q8_0] = &FORMAT(q8_0),        \
    [ML_Q4_K] = &FORMAT(q4_k), [ML_Q5_K] = &FORMAT(q5_k), [ML_Q6_K] = &FORMAT(q6_k), ML_AFFINE_FORMATS(AFFINE)         \
  }
#define AFFINE(n, length, type, name, size)                                                                            \
  [ML_AFFINE##n##_##length##_##type] = &FORMAT(affine)[ML_AFFINE##n##_##length##_##type - ML_AFFINE_FIRST],
#define TABLE(dots, tiles)                                                                                             \
  {                                                                                                                    \
    .name = TEXT(ML_ISA), .bf16_dots = (dots), .bf16_tiles = (tiles), .rows = {KERNELS(ROW, ROW_TWO)},                 \
    .formats = FORMATS, .convert_rows = {K(convert_rows_prepare), K(convert_rows)}, .gather_rows = {                   \
      K(gather_rows_prepare),                                                                                          \
      K(gather_rows)                                                                                                   \
    }                                                                                                                  \
  }

const ml_isa ML_CAT(ml_isa, ML_ISA) = TABLE(false, false);
#if defined(ML_ISA_AVX512)
const ml_isa ml_isa_avx512_dots = TABLE(true, false), ml_isa_avx512_tiles = TABLE(false, true);
#endif
