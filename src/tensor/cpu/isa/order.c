/* order.c: sorting along an axis, and the k largest. */
#include "tensor/cpu/isa/kernels.h"
#include "tensor/cpu/isa/simd.h"

#include <stdlib.h>

/* An entry of the axis, as its place in the order says: by key, or by `whole` for integers; NaN last; equal ones as
 * they stand. */
typedef struct item {
  double key;
  int64_t whole, index;
} item;

static int compare(const void *a, const void *b) {
  const item *x = a, *y = b;
  bool nx = x->key != x->key, ny = y->key != y->key;
  if (nx != ny) return nx ? 1 : -1;
  if (!nx && x->key != y->key) return x->key < y->key ? -1 : 1;
  if (x->whole != y->whole) return x->whole < y->whole ? -1 : 1;
  return x->index < y->index ? -1 : 1;
}

/* The entry `index` along the axis, which lies at `at`; the largest first where `down`. */
static item load_item(const ml_arg *x, int64_t at, int64_t index, bool down) {
  item i = {.index = index};
  if (ml_dtype_is_float(x->dtype)) {
    i.key = x->dtype == ML_F64 ? ((const double *)x->data)[at] : (double)load_float(x->data, x->dtype, at);
    if (down) i.key = -i.key;
  } else {
    i.whole = load_index(x->data, x->dtype, at) ^ (x->dtype == ML_U64 ? INT64_MIN : 0);
    if (down) i.whole = ~i.whole;
  }
  return i;
}

static void store_index(const ml_arg *o, int64_t at, int64_t index) {
  if (o->dtype == ML_I64) ((int64_t *)o->data)[at] = index;
  else ((int32_t *)o->data)[at] = (int32_t)index;
}

static void store_value(const ml_arg *o, int64_t to, const ml_arg *x, int64_t from) {
  size_t bytes = (size_t)ml_dtype_infos[x->dtype].bytes;
  memcpy(o->data + (size_t)to * bytes, x->data + (size_t)from * bytes, bytes);
}

/* ---- sort, argsort ---- */

ml_status K(sort_prepare)(ml_task *t) {
  const ml_arg *x = &t->in[0];
  int64_t length = x->shape[t->step->attrs->sort.axis];
  t->units = length ? ml_arg_size(x) / length : 0;
  t->scratch = (size_t)length * sizeof(item);
  t->cost = (double)ml_arg_size(x) * 50;
  return ML_OK;
}

void K(sort)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const ml_arg *x = &t->in[0], *o = &t->out[0];
  int axis = (int)t->step->attrs->sort.axis;
  int64_t length = x->shape[axis], inner = ml_axes_size(x, axis + 1);
  item *items = (item *)w->scratch;
  for (int64_t u = begin; u < end; u++) {
    int64_t base = u / inner * inner * length + u % inner;
    for (int64_t i = 0; i < length; i++) items[i] = load_item(x, base + i * inner, i, false);
    qsort(items, (size_t)length, sizeof *items, compare);
    for (int64_t i = 0; i < length; i++) {
      if (t->step->op == ML_OP_argsort) store_index(o, base + i * inner, items[i].index);
      else store_value(o, base + i * inner, x, base + items[i].index * inner);
    }
  }
}

/* ---- topk ---- */

ml_status K(topk_prepare)(ml_task *t) {
  const ml_arg *x = &t->in[0];
  int64_t length = x->shape[t->step->attrs->topk.axis], k = t->step->attrs->topk.k;
  t->units = length && k ? ml_arg_size(x) / length : 0;
  t->scratch = (size_t)k * sizeof(item);
  t->cost = (double)ml_arg_size(x) * 5;
  return ML_OK;
}

/* Moves the last of n in its order down from the top of a heap, whose top comes last in the order. */
static void sift(item *heap, int64_t n) {
  for (int64_t at = 0, child; (child = 2 * at + 1) < n; at = child) {
    if (child + 1 < n && compare(&heap[child + 1], &heap[child]) > 0) child++;
    if (compare(&heap[at], &heap[child]) >= 0) return;
    item moved = heap[at];
    heap[at] = heap[child];
    heap[child] = moved;
  }
}

/* The first k of the order, in it: the best so far are a heap, from whose top the worst goes. */
static void find_first(const ml_arg *x, int64_t base, int64_t step, int64_t length, item *best, int64_t k) {
  for (int64_t i = 0; i < k; i++) best[i] = load_item(x, base + i * step, i, true);
  qsort(best, (size_t)k, sizeof *best, compare);
  for (int64_t i = 0; i < k / 2; i++) { /* the order turned round is a heap */
    item last = best[k - 1 - i];
    best[k - 1 - i] = best[i];
    best[i] = last;
  }
  for (int64_t i = k; i < length; i++) {
    item next = load_item(x, base + i * step, i, true);
    if (compare(&next, &best[0]) >= 0) continue;
    best[0] = next;
    sift(best, k);
  }
  qsort(best, (size_t)k, sizeof *best, compare);
}

void K(topk)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const ml_arg *x = &t->in[0], *values = &t->out[0], *indices = &t->out[1];
  int axis = (int)t->step->attrs->topk.axis;
  int64_t length = x->shape[axis], k = t->step->attrs->topk.k, inner = ml_axes_size(x, axis + 1);
  item *best = (item *)w->scratch;
  for (int64_t u = begin; u < end; u++) {
    int64_t base = u / inner * inner * length + u % inner, to = u / inner * inner * k + u % inner;
    find_first(x, base, inner, length, best, k);
    for (int64_t i = 0; i < k; i++) {
      if (values->data) store_value(values, to + i * inner, x, base + best[i].index * inner);
      if (indices->data) store_index(indices, to + i * inner, best[i].index);
    }
  }
}
