/* shape_gather.c: the shape rule of gather_linear. */
#include "tensor/shape.h"

#include <string.h>

/* Each entry of ids has the row of x at its own place, or all of them along ids' last axis have one. */
static ml_status want_entries(const ml_tensor *x, const ml_tensor *ids) {
  ML_TRY(ml_want_integers(ids, "ids"));
  const bool own = x->ndim == ids->ndim + 1, shared = x->ndim == ids->ndim && x->ndim > 0;
  if ((own || shared) && ml_same_shape(x->ndim - 1, x->shape, x->ndim - 1, ids->shape)) return ML_OK;
  return ml_fail(ML_MISMATCH,
                 "ids of shape %s do not fit x of shape %s: expected x's axes but the last, which may be followed by "
                 "one of several experts for a row",
                 SHAPE_TEXT(ids), SHAPE_TEXT(x));
}

ml_status ml_shape_gather_linear(ml_shape_query *q) {
  ml_tensor *x = q->inputs[0];
  const ml_tensor *w = q->inputs[1], *ids = q->inputs[2];
  if (w->ndim != 3) return ml_fail(ML_MISMATCH, "weight: expected 3 axes, found shape %s", SHAPE_TEXT(w));
  ml_tensor matrix = *w; /* of one expert */
  matrix.ndim = 2;
  matrix.shape[0] = w->shape[1], matrix.shape[1] = w->shape[2];
  ml_shape_query one = {.inputs = (ml_tensor *[]){x, &matrix}, .n_inputs = 2, .attrs = q->attrs};
  ML_TRY(ml_op_infos[ML_OP_linear].shape(&one));
  ML_TRY(want_entries(x, ids));
  if (ids->ndim + 1 > ML_MAX_DIMS) return ml_fail(ML_USAGE, "ids: too many axes");
  q->dtype = one.dtype;
  q->ndim = ids->ndim + 1;
  memcpy(q->shape, ids->shape, (size_t)ids->ndim * sizeof *q->shape);
  q->shape[ids->ndim] = w->shape[1];
  return ML_OK;
}
