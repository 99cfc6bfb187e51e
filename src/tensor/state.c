/* state.c: states and their versions. */
#include "tensor/state.h"

#include "tensor/ops.h"
#include "tensor/queue.h"

#include <string.h>

ml_cell *ml_cell_retain(ml_cell *cell) {
  cell->references++;
  return cell;
}

/* Versions that the cell has itself, each of which holds it; -1 where somebody else has one of them too. */
static int count_own(const ml_cell *cell) {
  const ml_tensor *latest = cell->latest, *outside = cell->outside;
  if ((latest && latest->references > 1) || (outside && outside->references > 1)) return -1;
  return (latest != NULL) + (outside != NULL);
}

void ml_cell_left(ml_cell *cell) {
  if (cell->has_handle || cell->references != count_own(cell)) return;
  ml_tensor *latest = cell->latest, *outside = cell->outside;
  cell->latest = cell->outside = NULL;
  ml_tensor_release(latest);
  ml_tensor_release(outside);
}

void ml_cell_release(ml_cell *cell) {
  if (!cell) return;
  if (--cell->references > 0) {
    ml_cell_left(cell);
    return;
  }
  ml_buffer_release(cell->buffer);
  ml_free(cell);
}

ml_status ml_tensor_make_state(ml_tensor *t) {
  if (t->node || t->offset || t->layout != ML_LAYOUT_STRIDED || !ml_tensor_is_dense(t) || t->cell)
    return ml_fail(ML_USAGE, "a state is made of a dense tensor with storage of its own");
  ml_cell *cell = ml_calloc(1, sizeof *cell);
  if (!cell) return ML_MEMORY;
  *cell = (ml_cell){.references = 1, .engine = t->engine, .buffer = ml_buffer_retain(t->buffer), .has_handle = true};
  cell->dtype = t->dtype, cell->ndim = t->ndim;
  memcpy(cell->shape, t->shape, sizeof cell->shape);
  t->cell = cell;
  t->state = t->buffer->of_state = true;
  return ML_OK;
}

ml_status ml_cell_check(const ml_cell *cell) {
  const ml_loss *loss = ml_buffer_loss(cell->buffer);
  if (!loss || cell->buffer->in_part) return ml_buffer_check(cell->buffer);
  return ml_fail(ML_USAGE, "the state has had no values since an evaluation that wrote it failed (%s): assign it first",
                 loss->text);
}

/* ---- versions ---- */

static ml_status attach(ml_cell *cell, ml_tensor **out) {
  ML_TRY(ml_tensor_wrap(cell->buffer, 0, cell->dtype, ML_LAYOUT_STRIDED, cell->ndim, cell->shape, out));
  (*out)->cell = ml_cell_retain(cell);
  return ML_OK;
}

ml_status ml_cell_latest(ml_cell *cell, ml_tensor **out) {
  ml_engine *e = cell->engine;
  if (e->recording && !cell->traced) {
    cell->outside = cell->latest;
    cell->latest = NULL;
    cell->traced = true;
    cell->next = e->traced;
    e->traced = ml_cell_retain(cell);
  }
  if (!cell->latest) {
    ML_TRY(attach(cell, &cell->latest));
    if (cell->traced) cell->begins = cell->latest;
  }
  *out = cell->latest;
  return ML_OK;
}

void ml_cell_leave(ml_cell *cell, const ml_tensor *version) {
  ml_tensor **held = cell->latest == version ? &cell->latest : cell->outside == version ? &cell->outside : NULL;
  if (!held) return;
  ml_tensor *own = *held;
  *held = NULL;
  ml_tensor_release(own);
}

/* A view that knows no window yet. */
static bool is_view(const ml_tensor *t) {
  return !t->window && t->node && ml_op_infos[t->node->op].kind == ML_KIND_VIEW;
}

ml_cell *ml_cell_of(const ml_tensor *t) {
  while (is_view(t)) t = t->node->inputs[0];
  return t->window ? t->window->cell : t->cell;
}

static size_t view_count(const ml_tensor *t) {
  size_t n = 0;
  for (; is_view(t); t = t->node->inputs[0]) n++;
  return n + (t->window ? t->window->n_views : 0);
}

/* A view from a version on. */
typedef struct view {
  int op; /* ml_op */
  const ml_attrs *attrs;
} view;

/* The views from a version to t, the first one first. */
static void list_views(const ml_tensor *t, view *views) {
  size_t n = view_count(t);
  for (; is_view(t); t = t->node->inputs[0]) views[--n] = (view){t->node->op, &t->node->attrs};
  for (const ml_window *w = t->window; w; w = w->before) views[--n] = (view){w->op, &w->attrs};
}

static ml_window *retain_window(ml_window *w) {
  if (w) w->references++;
  return w;
}

/* Gives t, a view of what has a window or is a version, its own. */
static ml_status make_window(ml_tensor *t, ml_cell *cell) {
  const ml_node *n = t->node;
  ml_window *w = ml_alloc(sizeof *w), *before = n->inputs[0]->window;
  if (!w) return ML_MEMORY;
  *w = (ml_window){.references = 1,
                   .cell = ml_cell_retain(cell),
                   .before = retain_window(before),
                   .n_views = before ? before->n_views + 1 : 1,
                   .op = n->op,
                   .attrs = n->attrs};
  t->window = w;
  return ML_OK;
}

ml_status ml_tensor_keep_window(ml_tensor *t) {
  ml_cell *cell = is_view(t) ? ml_cell_of(t) : NULL;
  size_t n = 0, at = 0;
  if (!cell) return ML_OK;
  for (const ml_tensor *x = t; is_view(x); x = x->node->inputs[0]) n++;
  ml_tensor **chain = ml_calloc(n, sizeof *chain);
  if (!chain) return ML_MEMORY;
  for (ml_tensor *x = t; is_view(x); x = x->node->inputs[0]) chain[at++] = x;
  ml_status status = ML_OK;
  while (at > 0 && status == ML_OK) status = make_window(chain[--at], cell);
  ml_free(chain);
  return status;
}

void ml_window_release(ml_window *w) {
  while (w && --w->references == 0) {
    ml_window *before = w->before;
    ml_cell_release(w->cell);
    ml_free(w);
    w = before;
  }
}

/* Whether a view of a dense tensor names each of its elements once, and none beside. */
static ml_status check_window(const view *v, const ml_tensor *from, const ml_tensor *to, int64_t *strides) {
  int64_t outer[ML_MAX_DIMS], offset = 0;
  memcpy(outer, strides, sizeof outer);
  if (v->op != ML_OP_broadcast_to &&
      ml_view_strides((ml_op)v->op, v->attrs, from->ndim, from->shape, outer, to->ndim, to->shape, strides, &offset))
    return ML_OK;
  return ml_fail(ML_USAGE, "the target is no window on the state's own storage");
}

ml_status ml_state_rebase(const ml_tensor *of, ml_tensor *version, ml_tensor **out) {
  size_t n = view_count(of);
  view *views = ml_calloc(n, sizeof *views);
  if (!views) return ML_MEMORY;
  list_views(of, views);
  ml_tensor *at = ml_tensor_retain(version);
  ml_status status = ML_OK;
  int64_t strides[ML_MAX_DIMS];
  ml_strides_dense(version->ndim, version->shape, strides);
  for (size_t i = 0; i < n && status == ML_OK; i++) {
    ml_tensor *next = NULL;
    status = ml_apply(version->engine, (ml_op)views[i].op, &at, 1, views[i].attrs, &next);
    if (status == ML_OK) status = check_window(&views[i], at, next, strides);
    ml_tensor_release(at);
    at = next;
  }
  ml_free(views);
  if (status == ML_OK) *out = at;
  else ml_tensor_release(at);
  return status;
}

/* ---- writing past the graph ---- */

/* Gives a version storage of its own. */
static ml_status copy_out(ml_tensor *version) {
  ml_tensor *copy;
  ml_attrs none = {0};
  ML_TRY(ml_apply(version->engine, ML_OP_copy, &version, 1, &none, &copy));
  ml_status status = ml_eval(version->engine, &copy, 1);
  if (status == ML_OK)
    status = ml_tensor_wait(&copy, 1); /* a copy that is cancelled later would take the values along */
  if (status == ML_OK) {
    ml_buffer_release(version->buffer);
    version->buffer = ml_buffer_retain(copy->buffer);
  }
  ml_tensor_release(copy);
  return status;
}

ml_status ml_cell_detach(ml_cell *cell) {
  ml_engine *e = cell->engine;
  if (e->recording) return ml_fail(ML_USAGE, "a state is written while a plan is recorded");
  if (cell->latest && cell->latest->node) ML_TRY(ml_eval(e, NULL, 0));
  ml_tensor *v = cell->latest;
  if (!v || v->references == 1) return ML_OK;
  if (cell->buffer->loss) ml_tensor_kill(v, ML_FATE_FAILED);
  else ML_TRY(copy_out(v));
  cell->latest = NULL;
  ml_tensor_release(v);
  return ML_OK;
}

ml_status ml_state_reserve(ml_device *device, ml_dtype dtype, int ndim, const int64_t *shape, ml_tensor **out) {
  ml_buffer *buffer;
  size_t bytes;
  if (ml_dtype_is_block(dtype)) return ml_fail(ML_USAGE, "no values of dtype %s", ml_dtype_name(dtype));
  ML_TRY(ml_shape_bytes(dtype, ndim, shape, &bytes));
  ML_TRY(ml_buffer_reserve(device, bytes, &buffer));
  ml_tensor *made = NULL;
  ml_status status = ml_tensor_wrap(buffer, 0, dtype, ML_LAYOUT_STRIDED, ndim, shape, &made);
  ml_buffer_release(buffer);
  if (status == ML_OK) status = ml_tensor_make_state(made);
  if (status == ML_OK) *out = made;
  else ml_tensor_release(made);
  return status;
}

ml_status ml_state_commit(ml_tensor *handle, int axis, int64_t count) {
  ml_buffer *b = handle->buffer;
  if (!handle->state || !b || !b->reserved) return ml_fail(ML_USAGE, "the tensor is no reservation");
  const int64_t one = 1, *shape = handle->ndim ? handle->shape : &one; /* a scalar is one entry */
  const int ndim = handle->ndim ? handle->ndim : 1;
  if (axis < 0 || axis >= ndim || count < 0 || count > shape[axis])
    return ml_fail(ML_USAGE, "%lld entries of axis %d: the state has not so many", (long long)count, axis + 1);
  const size_t item = (size_t)ml_dtype_infos[handle->dtype].bytes;
  const size_t entry = (size_t)ml_shape_size(ndim - axis - 1, shape + axis + 1) * item;
  const size_t parts = (size_t)ml_shape_size(axis, shape), step = entry * (size_t)shape[axis];
  const size_t before = b->charged, now = parts * entry * (size_t)count;
  ML_TRY(ml_buffer_charge(b, now));
  if (now < before && parts == 1) {
    b->device->table->decommit(b->device, (char *)b->address + now, before - now);
    return ML_OK;
  }
  ml_status status = ml_buffer_commit(b, step, parts, entry * (size_t)count);
  if (status != ML_OK) ml_buffer_count(b, before);
  return status;
}

ml_status ml_state_write(ml_tensor *handle, size_t at, const void *from, size_t bytes) {
  const size_t whole = ml_tensor_nbytes(handle);
  if (at > whole || bytes > whole - at)
    return ml_fail(ML_MISMATCH, "expected at most %zu bytes, found %zu", at > whole ? 0 : whole - at, bytes);
  if (bytes < whole) ML_TRY(ml_cell_check(handle->cell));
  ML_TRY(ml_cell_detach(handle->cell));
  ML_TRY(ml_buffer_write(handle->buffer, handle->offset + at, from, bytes));
  if (bytes == whole) ml_buffer_set_loss(handle->buffer, NULL);
  return ML_OK;
}

/* ---- pending effects ---- */

ml_status ml_effect_remember(ml_cell *cell, ml_tensor *version) {
  ml_engine *e = cell->engine;
  ml_status status = ML_GROW(e->effects, e->effects_capacity, e->n_effects + 1);
  if (status != ML_OK) {
    ml_tensor_release(version);
    return status;
  }
  version->cell = ml_cell_retain(cell);
  e->effects[e->n_effects++] = ml_tensor_retain(version);
  ml_tensor_release(cell->latest);
  cell->latest = version;
  return ML_OK;
}

ml_tensor *ml_effect_before(const ml_tensor *version) {
  ml_tensor *t = version->node->inputs[0];
  while (is_view(t)) t = t->node->inputs[0];
  return t;
}

void ml_effects_drop(ml_engine *e, size_t keep) {
  while (e->n_effects > keep) {
    ml_tensor *version = e->effects[--e->n_effects], *before = ml_effect_before(version);
    ml_cell *cell = version->cell;
    if (cell->latest == version) {
      cell->latest = ml_tensor_retain(before);
      ml_tensor_release(version);
    }
    ml_tensor_kill(version, ML_FATE_TRACED);
    ml_tensor_release(version);
  }
}

/* What a recording made of a cell has no value outside of it. */
static void forget(ml_cell *cell) {
  if (!cell->latest) return;
  ml_tensor *latest = cell->latest;
  ml_tensor_kill(latest, ML_FATE_TRACED);
  cell->latest = NULL;
  ml_tensor_release(latest);
}

void ml_effects_planned(ml_engine *e) {
  while (e->n_effects > 0) {
    ml_tensor *version = e->effects[--e->n_effects], *before = ml_effect_before(version);
    if (!before->node) before->fate = ML_FATE_TRACED; /* the first one; the others are effects themselves */
    if (version->cell->latest == version) forget(version->cell);
    else ml_tensor_kill(version, ML_FATE_TRACED);
    ml_tensor_release(version);
  }
}

void ml_states_end_trace(ml_engine *e) {
  while (e->traced) {
    ml_cell *cell = e->traced;
    e->traced = cell->next;
    forget(cell);
    cell->latest = cell->outside;
    cell->outside = NULL;
    cell->begins = NULL;
    cell->traced = false;
    ml_cell_release(cell);
  }
}
