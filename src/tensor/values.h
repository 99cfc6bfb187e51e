/* values.h: single values of tensors with storage, read by the host without making tensors for them. */
#ifndef ML_TENSOR_VALUES_H
#define ML_TENSOR_VALUES_H

#include "tensor/tensor.h"

typedef struct ml_ranked {
  int64_t index; /* from 0 */
  float value;
} ml_ranked;

/* The n largest values of a row of dense float32 (rows, ...) along its last axis, best first, equal ones in order of
 * index, and the value at `id`. n is at most the row's size. ML_USAGE for other tensors, rows, counts and positions. */
ml_status ml_tensor_top(const ml_tensor *x, int64_t row, int64_t n, int64_t id, ml_ranked *best, float *own);
/* The i-th value, from 0, of dense int32. ML_USAGE for other tensors and positions. */
ml_status ml_tensor_int_at(const ml_tensor *x, int64_t i, int32_t *out);

#endif
