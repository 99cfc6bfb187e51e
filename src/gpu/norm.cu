// norm.cu: norms and softmax along the last axis.
//
// Bytes: the row read two or three times, of which all but the first come from the cache, and written once. One block a
// row.
#include "gpu/row.cuh"

KERNEL(cuda_norm, cu_norm_args) {
  const cu_row_op &op = t.op;
  const int lead = t.x.ndim > 0 ? t.x.ndim - 1 : 0;
  for (int64_t row = blockIdx.x; row < t.rows; row += gridDim.x) {
    const int64_t from = offset_of(lead, t.x.shape, t.x.strides, row);
    const int64_t to = offset_of(lead, t.x.shape, t.out.strides, row);
    auto get = [&](int64_t i) { return load_float(t.x.data, t.x.dtype, from + i); };
    auto put = [&](int64_t i, float f) { store_float(t.out.data, t.out.dtype, to + i, f); };
    auto weight = [&](int64_t i) { return load_float(t.weight.data, t.weight.dtype, i * t.weight.stride); };
    auto bias = [&](int64_t i) { return load_float(t.bias.data, t.bias.dtype, i * t.bias.stride); };
    if (op.op == CU_OP_rms_norm) {
      const char *x = t.x.data + from * item_of(t.x.dtype);
      char *o = t.out.data + to * item_of(t.out.dtype);
      rms_norm_row(
          op, t.n, [&](int64_t i, float *f) { load_run(x, t.x.dtype, i, t.n, 0.0f, f); }, t.weight.data != NULL,
          [&](int64_t i, float *f) { load_vector_run(t.weight, i, t.n, 1.0f, f); },
          [&](int64_t i, const float *f) { store_run(o, t.out.dtype, i, t.n, f); });
    } else if (op.op == CU_OP_layer_norm)
      layer_norm_row(op, t.n, get, t.weight.data != NULL, weight, t.bias.data != NULL, bias, put);
    else if (t.x.dtype == ML_F64) {
      const double *x = (const double *)t.x.data + from;
      double *o = (double *)t.out.data + to;
      softmax_row<double>(
          op.op == CU_OP_log_softmax, t.n, [&](int64_t i) { return x[i]; }, [&](int64_t i, double d) { o[i] = d; });
    } else softmax_row<float>(op.op == CU_OP_log_softmax, t.n, get, put);
  }
}
