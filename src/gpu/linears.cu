// linears.cu: linears.cuh for float weights.
#include "gpu/linears.cuh"

LINEARS(float32, ML_F32, 4)
LINEARS(float16, ML_F16, 8)
LINEARS(bfloat16, ML_BF16, 8)

// Units of two weights whose dtypes differ: a block makes a product.
KERNEL(cuda_linears_mixed, cu_linears_args) {
  __shared__ float room[PRODUCT_WARPS];
  __shared__ unit_programs programs;
  const inputs in = inputs_at(t.x, t.x_dtype, t.x_stride, t.K);
  const cu_unit &unit = t.units[0];
  fetch_programs(t, &programs);
  for (int64_t i = blockIdx.x; i < t.M * unit.outputs; i += gridDim.x) {
    int64_t row = i;
    const int64_t column = pop(&row, unit.outputs);
    float products[CU_UNIT_WEIGHTS] = {0, 0};
    for (int w = 0; w < unit.n_weights; w++) {
#define MULTIPLY(D) products[w] = product<D>(unit.weights[w], column, in, row, t.K, room)
      FOR_PACKED(unit.dtypes[w], MULTIPLY)
    }
    if (threadIdx.x > 0) continue;
    slot early[EARLY];
    for (int k = 0; k < EARLY; k++) {
      early[k].u = 0;
      if (k < unit.n_extra) early[k] = load_extra(unit, k, row, column);
    }
    finish(unit, unit.program ? (const cu_program *)programs.code[0] : NULL, row, column, products, early);
  }
}
