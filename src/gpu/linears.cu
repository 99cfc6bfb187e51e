// linears.cu: linears.cuh for float weights.
#include "gpu/linears.cuh"

LINEARS(float32, ML_F32)
LINEARS(float16, ML_F16)
LINEARS(bfloat16, ML_BF16)

// Units of two weights whose dtypes differ: a warp makes a product of both.
KERNEL(cuda_linears_mixed, cu_linears_args) {
  const inputs in = inputs_at(t.x, t.x_dtype, t.x_stride, t.K);
  const cu_unit &unit = t.units[0];
  for (int64_t i = thread_index() / WARP; i < t.M * unit.outputs; i += thread_count() / WARP) {
    int64_t row = i;
    const int64_t column = pop(&row, unit.outputs);
    float products[CU_UNIT_WEIGHTS] = {0, 0};
    for (int w = 0; w < unit.n_weights; w++) {
#define MULTIPLY(D) products[w] = product<D>(unit.weights[w], unit.dtypes[w], column, in, row, t.K)
      FOR_PACKED(unit.dtypes[w], MULTIPLY)
    }
    slot added;
    added.u = 0;
    if (unit.form == CU_FORM_ADD) added = load_extra(unit, 0, row, column);
    if (threadIdx.x % WARP == 0) finish(unit, row, column, products[0], products[1], added);
  }
}
