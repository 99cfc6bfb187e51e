/* values.c: single values of tensors with storage, read by the host without making tensors for them. */
#include "tensor/values.h"

#include "tensor/queue.h"

static ml_status check_dense(const ml_tensor *x, ml_dtype dtype) {
  if (x->buffer && x->dtype == dtype && x->layout == ML_LAYOUT_STRIDED && ml_tensor_is_dense(x)) return ML_OK;
  return ml_fail(ML_USAGE, "expected a %s tensor with dense storage", ml_dtype_name(dtype));
}

static ml_status check_position(const ml_tensor *x, int64_t i) {
  if (i >= 0 && i < ml_tensor_size(x)) return ML_OK;
  return ml_fail(ML_USAGE, "index %lld is out of range for size %lld", (long long)i, (long long)ml_tensor_size(x));
}

/* Insertion into a short list: most values are passed over by one comparison. */
static void largest(const float *values, int64_t size, ml_ranked *best, int64_t n) {
  int64_t have = 0;
  for (int64_t i = 0; i < size; i++) {
    if (n == 0 || (have == n && !(values[i] > best[n - 1].value))) continue;
    int64_t at = have < n ? have++ : n - 1;
    for (; at > 0 && values[i] > best[at - 1].value; at--) best[at] = best[at - 1];
    best[at] = (ml_ranked){i, values[i]};
  }
}

ml_status ml_tensor_top(const ml_tensor *x, int64_t row, int64_t n, int64_t id, ml_ranked *best, float *own) {
  ML_TRY(check_dense(x, ML_F32));
  const int64_t size = x->ndim ? x->shape[x->ndim - 1] : 1, rows = size ? ml_tensor_size(x) / size : 0;
  if (row < 0 || row >= rows)
    return ml_fail(ML_USAGE, "row %lld is out of range for %lld", (long long)row + 1, (long long)rows);
  if (id < 0 || id >= size)
    return ml_fail(ML_USAGE, "index %lld is out of range for size %lld", (long long)id, (long long)size);
  if (n < 0 || n > size)
    return ml_fail(ML_USAGE, "expected a count from 0 to %lld, found %lld", (long long)size, (long long)n);
  const size_t bytes = (size_t)size * sizeof(float);
  float *values = ml_alloc(bytes);
  if (!values) return ML_MEMORY;
  ml_status status = ml_buffer_read(x->buffer, x->offset + bytes * (size_t)row, values, bytes);
  if (status == ML_OK) {
    *own = values[id];
    largest(values, size, best, n);
  }
  ml_free(values);
  return status;
}

ml_status ml_tensor_int_at(const ml_tensor *x, int64_t i, int32_t *out) {
  ML_TRY(check_dense(x, ML_I32));
  ML_TRY(check_position(x, i));
  return ml_buffer_read(x->buffer, x->offset + sizeof *out * (size_t)i, out, sizeof *out);
}
