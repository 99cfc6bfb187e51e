// embedding.cu: rows of a weight, packed or strided, as floats.
//
// Bytes: the rows that are asked for, once, and the result. A thread takes eight elements.
#include "gpu/weights.cuh"

template <int D> DEVICE void load_packed(const cu_embedding_args &t, int64_t id, int64_t k, float *w) {
  const weight_row<D> row(t.weight, id, (int)t.inputs, t.dtype);
  row.load((uint32_t)k, (uint32_t)t.inputs, w);
}

KERNEL(cuda_embedding, cu_embedding_args) {
  const int64_t pieces = (t.inputs + 7) / 8;
  for (int64_t i = thread_index(); i < t.count * pieces; i += thread_count()) {
    int64_t at = i;
    const int64_t k = pop(&at, pieces) * 8, id = load_int(t.ids, t.ids_dtype, at);
    float w[8];
    if (id < 0 || id >= t.rows) {
      raise_fault(t.fault, CU_OP_embedding, t.ids_dtype, id, t.rows);
      continue;
    }
    if (t.packed) {
#define LOAD(D) load_packed<D>(t, id, k, w)
      FOR_PACKED(t.dtype, LOAD)
    } else {
      for (int j = 0; j < 8 && k + j < t.inputs; j++)
        w[j] = load_float(t.weight, t.dtype, id * t.row_stride + (k + j) * t.column_stride);
    }
    for (int j = 0; j < 8 && k + j < t.inputs; j++) store_float(t.out, t.out_dtype, at * t.inputs + k + j, w[j]);
  }
}
