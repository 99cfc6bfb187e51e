/* tensor.c: making, sharing and freeing tensors. */
#include "tensor/tensor.h"

#include "tensor/ops.h"
#include "tensor/queue.h"
#include "tensor/state.h"

#include <stdio.h>
#include <string.h>

int64_t ml_shape_size(int ndim, const int64_t *shape) {
  int64_t size = 1;
  for (int i = 0; i < ndim; i++) size *= shape[i];
  return size;
}

void ml_strides_dense(int ndim, const int64_t *shape, int64_t *strides) {
  int64_t step = 1;
  for (int i = ndim - 1; i >= 0; i--) {
    strides[i] = step;
    step *= shape[i] > 0 ? shape[i] : 1;
  }
}

const char *ml_shape_text(int ndim, const int64_t *shape, char *text, size_t bytes) {
  size_t at = 0;
  text[0] = '\0';
  for (int i = 0; i < ndim && at < bytes; i++) {
    at += (size_t)snprintf(text + at, bytes - at, "%s%lld", i ? ", " : "(", (long long)shape[i]);
  }
  if (at < bytes) snprintf(text + at, bytes - at, "%s", ndim ? ")" : "()");
  return text;
}

ml_status ml_shape_bytes(ml_dtype dtype, int ndim, const int64_t *shape, size_t *out) {
  if (ndim < 0 || ndim > ML_MAX_DIMS)
    return ml_fail(ML_USAGE, "shape: expected at most %d axes, found %d", ML_MAX_DIMS, ndim);
  const size_t most = (size_t)1 << 56;
  size_t bytes = 0, product; /* strides are products too, of the axes that are not empty */
  bool fits = ml_dtype_row_bytes(dtype, ndim ? shape[ndim - 1] : 1, &bytes), empty = bytes == 0;
  product = empty ? 1 : bytes;
  for (int i = 0; i < ndim - 1 && fits; i++) {
    empty = empty || shape[i] == 0;
    fits = shape[i] >= 0 && ml_mul_size(product, shape[i] ? (size_t)shape[i] : 1, &product);
  }
  if (fits && product < most) {
    *out = empty ? 0 : product;
    return ML_OK;
  }
  char text[160];
  return ml_fail(ML_USAGE, "shape %s: no valid size for dtype %s", ml_shape_text(ndim, shape, text, sizeof text),
                 ml_dtype_name(dtype));
}

int64_t *ml_attrs_give(ml_attrs *a, ml_list *list, int64_t n) {
  if (n < 0 || n > ML_MAX_LIST - a->n_list) return NULL;
  *list = (ml_list){.given = 1, .first = (int16_t)a->n_list, .count = (int32_t)n};
  a->n_list += (int)n;
  return a->list + list->first;
}

static ml_tensor *bare(ml_engine *engine, ml_dtype dtype, int ndim, const int64_t *shape) {
  ml_tensor *t = ml_alloc(sizeof *t);
  if (!t) return NULL;
  *t = (ml_tensor){.references = 1, .engine = engine, .device = engine->device, .dtype = dtype, .ndim = ndim};
  if (ndim) memcpy(t->shape, shape, (size_t)ndim * sizeof *shape);
  engine->live_tensors++;
  return t;
}

ml_status ml_tensor_wrap(ml_buffer *buffer, size_t offset, ml_dtype dtype, ml_layout layout, int ndim,
                         const int64_t *shape, ml_tensor **out) {
  size_t bytes;
  ML_TRY(ml_shape_bytes(dtype, ndim, shape, &bytes));
  if (layout != ML_LAYOUT_PANELS && (offset > buffer->bytes || bytes > buffer->bytes - offset)) {
    return ml_fail(ML_USAGE, "tensor of %zu bytes at %zu does not fit a buffer of %zu", bytes, offset, buffer->bytes);
  }
  ml_tensor *t = bare(buffer->device->engine, dtype, ndim, shape);
  if (!t) return ML_MEMORY;
  t->device = buffer->device;
  t->layout = layout;
  t->offset = offset;
  t->buffer = ml_buffer_retain(buffer);
  ml_strides_dense(ndim, shape, t->strides);
  *out = t;
  return ML_OK;
}

ml_status ml_tensor_create(ml_device *device, ml_dtype dtype, int ndim, const int64_t *shape, ml_tensor **out) {
  size_t bytes;
  ML_TRY(ml_shape_bytes(dtype, ndim, shape, &bytes));
  ml_buffer *buffer;
  ML_TRY(ml_buffer_create(device, bytes, &buffer));
  ml_layout layout = ml_dtype_is_block(dtype) ? ML_LAYOUT_BLOCKS : ML_LAYOUT_STRIDED;
  ml_status status = ml_tensor_wrap(buffer, 0, dtype, layout, ndim, shape, out);
  ml_buffer_release(buffer);
  return status;
}

ml_status ml_tensor_from_host(ml_device *device, ml_dtype dtype, int ndim, const int64_t *shape, const void *data,
                              size_t bytes, ml_tensor **out) {
  ml_tensor *t;
  ML_TRY(ml_tensor_create(device, dtype, ndim, shape, &t));
  ml_status status = bytes == ml_tensor_nbytes(t)
                         ? ml_buffer_write(t->buffer, 0, data, bytes)
                         : ml_fail(ML_MISMATCH, "expected %zu bytes, found %zu", ml_tensor_nbytes(t), bytes);
  if (status != ML_OK) {
    ml_tensor_release(t);
    return status;
  }
  *out = t;
  return ML_OK;
}

static ml_status leaf(ml_engine *engine, ml_op op, ml_dtype dtype, int ndim, const int64_t *shape, ml_tensor **out) {
  ml_tensor *t = bare(engine, dtype, ndim, shape);
  if (!t) return ML_MEMORY;
  t->node = ml_calloc(1, sizeof *t->node);
  if (!t->node) {
    ml_tensor_release(t);
    return ML_MEMORY;
  }
  t->node->op = op;
  t->node->serial = ++engine->serial;
  *out = t;
  return ML_OK;
}

ml_status ml_tensor_constant(ml_engine *engine, ml_dtype dtype, double f, int64_t i, ml_tensor **out) {
  ML_TRY(leaf(engine, ML_OP_constant, dtype, 0, NULL, out));
  (*out)->node->attrs.constant.real = f; /* as a float and, for integer dtypes, exactly */
  (*out)->node->attrs.constant.whole = i;
  return ML_OK;
}

ml_status ml_tensor_input(ml_engine *engine, int index, const ml_tensor *like, ml_tensor **out) {
  ML_TRY(leaf(engine, ML_OP_input, like->dtype, like->ndim, like->shape, out));
  (*out)->device = like->device;
  (*out)->layout = like->layout;
  (*out)->exact = like->exact;
  (*out)->node->attrs.input.index = index;
  return ML_OK;
}

ml_tensor *ml_tensor_retain(ml_tensor *t) {
  t->references++;
  return t;
}

/* A result of several is lazy no more. */
static void leave_results(const ml_tensor *t) {
  const ml_node *n = t->node;
  if (n && n->op == ML_OP_result && n->n_inputs) n->inputs[0]->node->results[n->attrs.result.index] = NULL;
}

ml_node *ml_tensor_take_node(ml_tensor *t) {
  ml_node *n = t->node;
  leave_results(t);
  t->node = NULL;
  return n;
}

void ml_tensor_give_node(ml_tensor *t, ml_node *n) {
  t->node = n;
  if (n && n->op == ML_OP_result) n->inputs[0]->node->results[n->attrs.result.index] = t;
}

void ml_node_free(ml_node *n) {
  if (!n) return;
  while (n->n_inputs > 0) ml_tensor_release(n->inputs[--n->n_inputs]);
  ml_free(n->path);
  ml_free(n);
}

void ml_tensor_kill(ml_tensor *t, ml_fate fate) {
  t->fate = fate;
  ml_node_free(ml_tensor_take_node(t));
}

ml_status ml_tensor_fate_error(const ml_tensor *t) {
  if (t->fate == ML_FATE_TRACED)
    return ml_fail(ML_USAGE, "what a compiled function made is used outside it: return it");
  return ml_fail(ML_USAGE, "the value was lost with an evaluation that failed while it wrote a state");
}

static void drop_cell(ml_tensor *t) {
  ml_cell *cell = t->cell;
  if (!cell) return;
  t->cell = NULL;
  if (t->state) cell->has_handle = false;
  ml_cell_release(cell);
}

/* Graphs may be deep: what a freed node held is chained through `buffer` and freed in a loop. */
void ml_tensor_release(ml_tensor *t) {
  ml_tensor *pending = NULL;
  while (t) {
    if (--t->references == 0) {
      t->engine->live_tensors--;
      leave_results(t);
      if (t->flight) ml_queue_forget(t);
      ml_tensor_release(t->packed); /* which has no node, nor a packed copy of its own */
      drop_cell(t);
      ml_window_release(t->window);
      ml_buffer_release(t->buffer);
      t->buffer = (void *)pending;
      pending = t;
    } else if (t->references == 1 && t->cell && !t->state) ml_cell_left(t->cell);
    t = NULL;
    while (pending && !t) {
      ml_node *n = pending->node;
      if (n && n->n_inputs > 0) {
        t = n->inputs[--n->n_inputs];
        continue;
      }
      ml_tensor *done = pending;
      pending = (void *)done->buffer;
      if (n) ml_free(n->path);
      ml_free(n);
      ml_free(done);
    }
  }
}

int64_t ml_tensor_size(const ml_tensor *t) { return ml_shape_size(t->ndim, t->shape); }

size_t ml_tensor_nbytes(const ml_tensor *t) {
  const ml_dtype_info *info = &ml_dtype_infos[t->dtype];
  return (size_t)(ml_tensor_size(t) / info->block) * (size_t)info->bytes;
}

bool ml_tensor_is_dense(const ml_tensor *t) {
  int64_t step = 1;
  for (int i = t->ndim - 1; i >= 0; i--) {
    if (t->shape[i] != 1 && t->strides[i] != step) return ml_tensor_size(t) == 0;
    step *= t->shape[i];
  }
  return true;
}
