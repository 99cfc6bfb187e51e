// experts.cu: gather_linear: rows of x times the matrices of experts that ids name.
//
// Bytes: a matrix for each pair of an id and its row (from the cache where it comes again). Flops: 2 K N a pair. Sums
// are those of linear, packed or strided.
#include "gpu/product.cuh"
#include "gpu/program.cuh"

// The expert of a pair; -1: none, which the run is told of once.
DEVICE int64_t expert_of(const cu_gather_args &t, int64_t pair) {
  const int64_t id = load_int(t.ids.data, t.ids.dtype, offset_of(t.ids.ndim, t.ids.shape, t.ids.strides, pair));
  if (id >= 0 && id < t.experts) return id;
  raise_fault(t.fault, CU_OP_gather_linear, t.ids.dtype, id, t.experts);
  return -1;
}

DEVICE const char *row_of(const cu_gather_args &t, int64_t pair) {
  return t.x.data + offset_of(t.x.ndim - 1, t.x.shape, t.x.strides, pair / t.a_row) * item_of(t.x.dtype);
}

// A warp gives an output of a pair.
KERNEL(cuda_gather_linear, cu_gather_args) {
  for (int64_t i = thread_index() / WARP; i < t.pairs * t.N; i += thread_count() / WARP) {
    int64_t pair = i;
    const int64_t column = pop(&pair, t.N), expert = expert_of(t, pair);
    if (expert < 0) continue;
    const char *weight = t.weight + expert * t.matrix;
    const inputs in = inputs_at(row_of(t, pair), t.x.dtype, 0, t.K);
    slot sum;
    sum.u = 0;
#define GATHER(D) sum.f = product<D>(weight, t.w_dtype, column, in, 0, t.K)
    FOR_PACKED(t.w_dtype, GATHER)
    if (threadIdx.x % WARP == 0) put_result(t.tail, t.out, t.out_dtype, pair, t.N, column, sum);
  }
}

// A thread gives an output of a pair, of strided weights. Ids are looked at where there is none.
KERNEL(cuda_gather_strided, cu_gather_args) {
  const int64_t N = max64(t.N, 1);
  for (int64_t i = thread_index(); i < t.pairs * N; i += thread_count()) {
    int64_t pair = i;
    const int64_t column = pop(&pair, N), expert = expert_of(t, pair);
    if (expert < 0 || t.N == 0) continue;
    const int64_t at = expert * t.strides[0] + column * t.strides[1];
    const char *x = row_of(t, pair);
    slot sum;
    sum.u = 0;
    if (t.w_dtype == ML_F64) {
      double total = 0;
      for (int64_t k = 0; k < t.K; k++)
        total += ((const double *)x)[k] * ((const double *)t.weight)[at + k * t.strides[2]];
      sum.d = total;
    } else {
      for (int64_t k = 0; k < t.K; k++)
        sum.f = fmaf(load_float(x, t.x.dtype, k), load_float(t.weight, t.w_dtype, at + k * t.strides[2]), sum.f);
    }
    put_result(t.tail, t.out, t.out_dtype, pair, t.N, column, sum);
  }
}
