/* graph.c: recording operations: checks, casts of operands, views made at once, nodes otherwise. */
#include "tensor/ops.h"
#include "tensor/state.h"
#include "tensor/weight.h"

#include <stdio.h>
#include <string.h>

/* Strides of a row-major reshape of a strided array, without a copy where it exists: axes are matched in groups of
 * equal size, and a group of several input axes must itself be contiguous. */
static bool reshape_strides(int in_ndim, const int64_t *in_shape, const int64_t *in_strides, int ndim,
                            const int64_t *shape, int64_t *strides) {
  int64_t from[ML_MAX_DIMS], step[ML_MAX_DIMS];
  int n = 0;
  for (int i = 0; i < in_ndim; i++) {
    if (in_shape[i] == 0) {
      ml_strides_dense(ndim, shape, strides);
      return true;
    }
    if (in_shape[i] != 1) from[n] = in_shape[i], step[n++] = in_strides[i];
  }
  int i = n - 1, j = ndim - 1;
  while (j >= 0) {
    if (shape[j] == 1) {
      strides[j--] = 0;
      continue;
    }
    if (i < 0) return false;
    int64_t have = from[i], want = shape[j], inner = step[i];
    int first = j--;
    strides[first] = inner;
    while (have != want) {
      if (have < want) {
        if (--i < 0 || step[i] != from[i + 1] * step[i + 1]) return false;
        have *= from[i];
      } else {
        while (j >= 0 && shape[j] == 1) strides[j--] = 0;
        if (j < 0 || want == 0) return false;
        strides[j] = inner * want;
        want *= shape[j--];
      }
    }
    i--;
  }
  return i < 0;
}

bool ml_view_strides(ml_op op, const ml_attrs *a, int in_ndim, const int64_t *in_shape, const int64_t *in_strides,
                     int ndim, const int64_t *shape, int64_t *strides, int64_t *offset) {
  switch (op) {
  case ML_OP_reshape: return reshape_strides(in_ndim, in_shape, in_strides, ndim, shape, strides);
  case ML_OP_transpose: {
    const int64_t *order = ml_attrs_list(a, a->transpose.axes);
    for (int i = 0; i < ndim; i++) strides[i] = in_strides[order[i]];
    return true;
  }
  case ML_OP_broadcast_to:
    for (int i = 0; i < ndim; i++) {
      int j = i - (ndim - in_ndim);
      strides[i] = j < 0 || in_shape[j] == 1 ? 0 : in_strides[j];
    }
    return true;
  case ML_OP_slice: {
    const int64_t *ranges = ml_attrs_list(a, a->slice.ranges);
    for (int i = 0; i < ndim; i++) {
      if (shape[i] > 0) *offset += ranges[3 * i] * in_strides[i];
      strides[i] = in_strides[i] * (shape[i] > 1 ? ranges[3 * i + 2] : 1); /* a single entry's step may be anything */
    }
    return true;
  }
  default: return false;
  }
}

static ml_status prefix_path(ml_engine *e, ml_op op, ml_status status) {
  if (status == ML_OK) return ML_OK;
  if (e->path[0]) return ml_fail_prefix(status, "%s: %s", e->path, ml_op_name(op));
  return ml_fail_prefix(status, "%s", ml_op_name(op));
}

/* A view that shares storage, for inputs that have some. */
static ml_status view_now(ml_op op, const ml_tensor *x, const ml_shape_query *q, ml_tensor **out) {
  int64_t strides[ML_MAX_DIMS], offset = 0;
  if (!ml_view_strides(op, q->attrs, x->ndim, x->shape, x->strides, q->ndim, q->shape, strides, &offset)) return ML_OK;
  ml_tensor *t = ml_alloc(sizeof *t);
  if (!t) return ML_MEMORY;
  *t = *x;
  t->references = 1;
  t->mark = 0; /* the walker's, of x */
  t->ndim = q->ndim;
  memcpy(t->shape, q->shape, sizeof t->shape);
  memcpy(t->strides, strides, sizeof t->strides);
  t->offset = (size_t)((int64_t)x->offset + offset * ml_dtype_infos[x->dtype].bytes);
  ml_buffer_retain(t->buffer);
  t->engine->live_tensors++;
  *out = t;
  return ML_OK;
}

/* Constants are of no device: that of the others, which is one. */
static ml_status find_device(ml_engine *e, ml_tensor *const *inputs, int n, ml_device **out) {
  const ml_tensor *first = NULL;
  for (int i = 0; i < n; i++) {
    const ml_tensor *t = inputs[i];
    if (!t || (t->node && t->node->op == ML_OP_constant)) continue;
    if (!first) first = t;
    else if (t->device != first->device)
      return ml_fail(ML_MISMATCH, "tensors on %s and on %s: bring one over with `to`", first->device->name,
                     t->device->name);
  }
  *out = first ? first->device : e->device;
  return ML_OK;
}

static ml_status record(ml_engine *e, ml_op op, ml_tensor *const *inputs, int n_inputs, const ml_shape_query *q,
                        ml_tensor **out) {
  int n_results = ml_op_infos[op].n_results;
  ml_device *device = NULL;
  ML_TRY(prefix_path(e, op, find_device(e, inputs, n_inputs, &device)));
  ml_node *n = ml_calloc(1, sizeof *n + (size_t)(n_inputs + n_results) * sizeof *inputs);
  ml_tensor *t = ml_alloc(sizeof *t);
  char *path = n && t && e->path[0] ? ml_strdup(e->path) : NULL;
  if (!n || !t || (e->path[0] && !path)) {
    ml_free(n);
    ml_free(t);
    return ML_MEMORY;
  }
  *t = (ml_tensor){.references = 1, .engine = e, .device = device, .dtype = q->dtype, .ndim = q->ndim, .node = n};
  memcpy(t->shape, q->shape, sizeof t->shape);
  n->op = op;
  n->path = path;
  n->attrs = *q->attrs;
  n->serial = ++e->serial;
  n->region = e->region;
  if (n_results) n->results = n->inputs + n_inputs;
  for (int i = 0; i < n_inputs; i++) n->inputs[i] = inputs[i] ? ml_tensor_retain(inputs[i]) : NULL;
  n->n_inputs = n_inputs;
  e->live_tensors++;
  e->stats.traces++;
  *out = t;
  return ML_OK;
}

/* The results of an operation that has several; each holds `all`, the operation itself. */
static ml_status record_results(ml_engine *e, ml_tensor *all, ml_tensor **out) {
  int n = ml_op_infos[all->node->op].n_results;
  for (int i = 0; i < n; i++) {
    ml_attrs attrs = {.result = {.index = i}};
    ml_shape_query q = {.inputs = &all, .n_inputs = 1, .attrs = &attrs};
    ml_status status = ml_op_infos[ML_OP_result].shape(&q);
    if (status == ML_OK) status = record(e, ML_OP_result, &all, 1, &q, &out[i]);
    if (status == ML_OK) all->node->results[i] = out[i];
    while (status != ML_OK && i > 0) ml_tensor_release(out[--i]);
    ML_TRY(status);
  }
  return ML_OK;
}

static bool same_shape(const ml_tensor *t, const ml_shape_query *q) {
  return ml_same_shape(t->ndim, t->shape, q->ndim, q->shape);
}

/* A plain integer beside tensors of an integer dtype that does not hold it. The larger of x and a number below all that
 * x can be is x, and the result holds it; any other result would have to hold the number itself, which is an error. */
static ml_status fit_number(ml_op op, ml_dtype t, int64_t *number) {
  int64_t low, high;
  ml_dtype_limits(t, &low, &high);
  if (op == ML_OP_maximum && *number < low) *number = low;
  if (op == ML_OP_minimum && *number > high) *number = high;
  return ml_dtype_want(t, *number);
}

/* Casts an input to the dtype that the shape rule asks for; *out is a new reference either way. */
static ml_status cast_input(ml_engine *e, ml_op op, ml_tensor *x, ml_dtype to, ml_tensor **out) {
  if (!x || x->dtype == to) {
    *out = x ? ml_tensor_retain(x) : NULL;
    return ML_OK;
  }
  if (ml_tensor_is_number(x)) {
    int64_t number = x->node->attrs.constant.whole;
    ML_TRY(prefix_path(e, op, fit_number(op, to, &number)));
    return ml_tensor_constant(e, to, x->node->attrs.constant.real, number, out);
  }
  ml_attrs a = {.astype = {.dtype = to}};
  return ml_apply(e, ML_OP_astype, &x, 1, &a, out);
}

/* Products and look-ups read packed weights: of blocks, as a file has them, the packed copy stands in, which is made
 * once, if the operation takes it. */
static ml_status pack_blocks(ml_op op, ml_tensor **inputs, int n, const ml_attrs *attrs, int k) {
  ml_tensor *w = inputs[k], packed = *w;
  if (w->packed || w->layout != ML_LAYOUT_BLOCKS || !w->buffer) return ML_OK;
  packed.layout = ML_LAYOUT_PANELS;
  ml_attrs own = *attrs;
  ml_shape_query q = {.inputs = inputs, .n_inputs = n, .attrs = &own, .input_dtype = ML_DTYPE_COUNT};
  inputs[k] = &packed;
  ml_status status = ml_op_infos[op].shape(&q);
  inputs[k] = w;
  return status == ML_OK ? ml_weight_pack(w, true, &w->packed) : status;
}

static ml_status apply(ml_engine *e, ml_op op, ml_tensor *const *inputs, int n_inputs, const ml_attrs *attrs,
                       ml_tensor **out);

/* Name and type of operand k, as the row of ops.def has them. */
static void operand_of(ml_op op, int k, char *name, size_t bytes, char *type) {
  const char *s = ml_op_infos[op].signature;
  for (int at = 0; *s; s += strspn(s, " ")) {
    size_t word = strcspn(s, " "), colon = strcspn(s, ":");
    bool operand = s[colon + 1] == 'T' || s[colon + 1] == 'W', list = operand && s[colon + 2] == '*';
    if (operand && (at == k || list)) {
      snprintf(name, bytes, "%.*s", (int)colon, s);
      *type = s[colon + 1];
      return;
    }
    at += operand;
    s += word;
  }
}

/* Operands of type W (ops.def) are weights in any layout, all others are strided. Rows of other bytes read in their
 * place would be silently wrong, so that this is asked before anything else. *weight is the operand that is to be
 * packed first, or -1. */
static ml_status check_layouts(ml_op op, ml_tensor *const *inputs, int n, int *weight) {
  *weight = -1;
  for (int k = 0; k < n; k++) {
    if (!inputs[k] || inputs[k]->layout == ML_LAYOUT_STRIDED) continue;
    char name[32] = "", type = 'T';
    operand_of(op, k, name, sizeof name, &type);
    if (type != 'W') return ml_weight_check_strided(inputs[k], name);
    if (inputs[k]->layout != ML_LAYOUT_PANELS) *weight = k;
  }
  return ML_OK;
}

/* Of the effect `op` on inputs[0], the first of n that are no handles: its result is the next version of the state, and
 * *out the target as it is of that one. */
static ml_status apply_effect(ml_engine *e, ml_op op, ml_tensor *target, ml_tensor **inputs, int n,
                              const ml_attrs *attrs, ml_tensor **out) {
  ml_cell *cell = ml_cell_of(target);
  ml_tensor *latest, *window, *version;
  if (!cell && target->node && target->node->op == ML_OP_input)
    return prefix_path(e, op,
                       ml_fail(ML_USAGE, "the target is not state; of a state that a recorded function is to "
                                         "write, give it the state itself and take views of it inside"));
  if (!cell) return prefix_path(e, op, ml_fail(ML_USAGE, "the target is not state"));
  ML_TRY(prefix_path(e, op, ml_cell_latest(cell, &latest)));
  ML_TRY(prefix_path(e, op, ml_state_rebase(target->state ? latest : target, latest, &window)));
  inputs[0] = window;
  ml_status status = apply(e, op, inputs, n, attrs, &version);
  ml_tensor_release(window);
  ML_TRY(status);
  version->ndim = latest->ndim; /* of the whole state */
  memcpy(version->shape, latest->shape, sizeof version->shape);
  ML_TRY(ml_effect_remember(cell, version));
  if (!target->state) return ml_state_rebase(target, version, out);
  *out = ml_tensor_retain(target);
  return ML_OK;
}

/* Operands as nodes have them: of a state its latest version, of blocks the packed copy. */
static ml_status resolve(ml_engine *e, ml_op op, ml_tensor *const *inputs, int n, const ml_attrs *attrs, int weight,
                         ml_tensor **out) {
  enum { FEW = 8 };
  ml_tensor *few[FEW], **own = n > FEW ? ml_calloc((size_t)n, sizeof *own) : few;
  if (!own) return ML_MEMORY;
  ml_status status = ML_OK;
  for (int k = 0; k < n && status == ML_OK; k++) {
    own[k] = inputs[k];
    if (inputs[k] && inputs[k]->state) status = ml_cell_latest(inputs[k]->cell, &own[k]);
  }
  if (status == ML_OK && weight >= 0) status = pack_blocks(op, own, n, attrs, weight);
  if (status == ML_OK && weight >= 0 && inputs[weight]->packed) own[weight] = inputs[weight]->packed;
  status = prefix_path(e, op, status);
  if (status == ML_OK)
    status =
        ml_op_is_effect(op) ? apply_effect(e, op, inputs[0], own, n, attrs, out) : apply(e, op, own, n, attrs, out);
  if (own != few) ml_free(own);
  return status;
}

ml_status ml_apply(ml_engine *e, ml_op op, ml_tensor *const *inputs, int n_inputs, const ml_attrs *attrs,
                   ml_tensor **out) {
  int weight;
  ML_TRY(prefix_path(e, op, check_layouts(op, inputs, n_inputs, &weight)));
  bool effect = ml_op_is_effect(op), plain = weight < 0 && !effect;
  for (int k = 0; k < n_inputs; k++) { /* of what has no value any more nothing can be made */
    if (inputs[k] && inputs[k]->fate != ML_FATE_NONE) return prefix_path(e, op, ml_tensor_fate_error(inputs[k]));
  }
  for (int k = effect ? 1 : 0; e->recording && k < n_inputs; k++) {
    if (inputs[k]) ML_TRY(prefix_path(e, op, ml_capture(e, inputs[k])));
  }
  for (int k = 0; k < n_inputs && plain; k++) plain = !inputs[k] || !inputs[k]->state;
  return plain ? apply(e, op, inputs, n_inputs, attrs, out) : resolve(e, op, inputs, n_inputs, attrs, weight, out);
}

static ml_status apply(ml_engine *e, ml_op op, ml_tensor *const *inputs, int n_inputs, const ml_attrs *attrs,
                       ml_tensor **out) {
  ml_attrs own = *attrs;
  ml_shape_query q = {.inputs = inputs, .n_inputs = n_inputs, .attrs = &own, .input_dtype = ML_DTYPE_COUNT};
  ML_TRY(prefix_path(e, op, ml_op_infos[op].shape(&q)));
  size_t bytes; /* a lazy result is never stored, perhaps, but every size below is a product of its axes */
  ML_TRY(prefix_path(e, op, ml_shape_bytes(q.dtype, q.ndim, q.shape, &bytes)));
  ml_kind kind = ml_op_infos[op].kind;
  if (kind == ML_KIND_VIEW) {
    if (same_shape(inputs[0], &q) && op != ML_OP_transpose && op != ML_OP_slice) {
      *out = ml_tensor_retain(inputs[0]);
      return ML_OK;
    }
    if (inputs[0]->buffer && inputs[0]->layout == ML_LAYOUT_STRIDED && !inputs[0]->cell && !inputs[0]->window &&
        !inputs[0]->flight) {
      *out = NULL;
      ML_TRY(view_now(op, inputs[0], &q, out));
      if (*out) return ML_OK;
    }
  }
  if (op == ML_OP_astype && inputs[0]->dtype == q.dtype) {
    *out = ml_tensor_retain(inputs[0]);
    return ML_OK;
  }
  if (ml_op_infos[op].n_results) {
    ml_tensor *all;
    ML_TRY(record(e, op, inputs, n_inputs, &q, &all));
    ml_status status = record_results(e, all, out);
    ml_tensor_release(all);
    return status;
  }
  if (q.input_dtype == ML_DTYPE_COUNT) return record(e, op, inputs, n_inputs, &q, out);

  ml_tensor **cast = ml_calloc((size_t)n_inputs, sizeof *cast);
  if (!cast) return ML_MEMORY;
  ml_status status = ML_OK;
  for (int i = 0; i < n_inputs && status == ML_OK; i++) {
    bool keep = op == ML_OP_where && i == 0;
    status = cast_input(e, op, inputs[i], keep ? inputs[i]->dtype : q.input_dtype, &cast[i]);
  }
  if (status == ML_OK) status = record(e, op, cast, n_inputs, &q, out);
  for (int i = 0; i < n_inputs; i++) ml_tensor_release(cast[i]);
  ml_free(cast);
  return status;
}
