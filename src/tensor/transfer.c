/* transfer.c: values from one device to another. */
#include "tensor/transfer.h"

#include "tensor/ops.h"
#include "tensor/queue.h"
#include "tensor/weight.h"

/* A weight goes by way of the file's own order, which is the same everywhere. */
static ml_status weight_to(ml_tensor *t, ml_device *device, ml_tensor **out) {
  void *data = ml_alloc(ml_tensor_nbytes(t));
  if (!data) return ML_MEMORY;
  ml_status status = ml_tensor_read(t, data);
  if (status == ML_OK && t->layout == ML_LAYOUT_PANELS)
    status = ml_weight_from_host(device, t->dtype, t->ndim, t->shape, data, t->exact, out);
  else if (status == ML_OK)
    status = ml_tensor_from_host(device, t->dtype, t->ndim, t->shape, data, ml_tensor_nbytes(t), out);
  ml_free(data);
  return status;
}

static ml_status dense_to(ml_tensor *t, ml_device *device, ml_tensor **out) {
  ml_buffer *from = ml_buffer_retain(t->buffer); /* a run that fails, as may be known only here, takes it from t */
  const size_t offset = t->offset;
  ml_tensor *made = NULL;
  ml_status status = ml_tensor_create(device, t->dtype, t->ndim, t->shape, &made);
  if (status == ML_OK) status = ml_buffer_copy(made->buffer, 0, from, offset, ml_tensor_nbytes(t));
  ml_buffer_release(from);
  if (status == ML_OK) *out = made;
  else ml_tensor_release(made);
  return status;
}

ml_status ml_tensor_to(ml_tensor *t, ml_device *device, ml_tensor **out) {
  if (t->engine->recording)
    return ml_fail(ML_USAGE, "from %s to %s while a plan is recorded, which is of one device", t->device->name,
                   device->name);
  ML_TRY(ml_eval(t->engine, &t, 1));
  if (t->layout != ML_LAYOUT_STRIDED) return weight_to(t, device, out);
  if (ml_tensor_is_dense(t)) return dense_to(t, device, out);
  ml_tensor *dense;
  ml_attrs none = {0};
  ML_TRY(ml_apply(t->engine, ML_OP_copy, &t, 1, &none, &dense));
  ml_status status = ml_eval(t->engine, &dense, 1);
  if (status == ML_OK) status = dense_to(dense, device, out);
  ml_tensor_release(dense);
  return status;
}
