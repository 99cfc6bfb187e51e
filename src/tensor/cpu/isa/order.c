/* order.c: sorting along an axis, and the k largest. */
#include "tensor/cpu/isa/kernels.h"
#include "tensor/cpu/isa/simd.h"

#include <string.h>

/* An entry of the axis: items stand by key, NaN last, and equal keys by index. */
typedef struct item {
  uint64_t key;
  int64_t index;
} item;

static bool is_before(const item *a, const item *b) {
  return a->key < b->key || (a->key == b->key && a->index < b->index);
}

/* Whole numbers that stand as the values do: of a float the bits, the sign turned. */
static uint64_t key_of_float(double x, bool down) {
  uint64_t bits;
  if (x != x) return UINT64_MAX;
  x += 0.0; /* -0 equals 0 */
  memcpy(&bits, &x, sizeof bits);
  bits = bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
  return down ? ~bits : bits;
}

/* The entry `index` along the axis, which lies at `at`; the largest first where `down`. */
static item load_item(const ml_arg *x, int64_t at, int64_t index, bool down) {
  if (x->dtype == ML_F64) return (item){key_of_float(((const double *)x->data)[at], down), index};
  if (ml_dtype_is_float(x->dtype)) return (item){key_of_float((double)load_float(x->data, x->dtype, at), down), index};
  const uint64_t bits = (uint64_t)load_index(x->data, x->dtype, at), top = (uint64_t)1 << 63;
  const uint64_t key = x->dtype == ML_U64 ? bits : bits ^ top;
  return (item){down ? ~key : key, index};
}

static void sort_few(item *items, int64_t n) {
  for (int64_t i = 1; i < n; i++) {
    const item own = items[i];
    int64_t at = i;
    for (; at > 0 && is_before(&own, &items[at - 1]); at--) items[at] = items[at - 1];
    items[at] = own;
  }
}

/* Fewer are sorted by insertion. */
enum { SHORT = 48 };

/* Sorts items that stand by index, byte by byte of the keys from the lowest, those that are the same in all left out.
 * `other` has room for as many. */
static void sort_items(item *items, item *other, int64_t n) {
  uint64_t varies = 0;
  item *from = items, *to = other;
  if (n < SHORT) {
    sort_few(items, n);
    return;
  }
  for (int64_t i = 1; i < n; i++) varies |= items[i].key ^ items[0].key;
  for (int shift = 0; shift < 64; shift += 8) {
    int64_t place[256] = {0}, at = 0;
    if (!(varies >> shift & 255)) continue;
    for (int64_t i = 0; i < n; i++) place[from[i].key >> shift & 255]++;
    for (int d = 0; d < 256; d++) {
      const int64_t count = place[d];
      place[d] = at;
      at += count;
    }
    for (int64_t i = 0; i < n; i++) to[place[from[i].key >> shift & 255]++] = from[i];
    item *const sorted = to;
    to = from;
    from = sorted;
  }
  if (from != items) memcpy(items, from, (size_t)n * sizeof *items);
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
  t->scratch = 2 * (size_t)length * sizeof(item);
  t->cost = (double)ml_arg_size(x) * 15;
  return ML_OK;
}

void K(sort)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const ml_arg *x = &t->in[0], *o = &t->out[0];
  int axis = (int)t->step->attrs->sort.axis;
  int64_t length = x->shape[axis], inner = ml_axes_size(x, axis + 1);
  item *items = (item *)w->scratch, *other = items + length;
  for (int64_t u = begin; u < end; u++) {
    int64_t base = u / inner * inner * length + u % inner;
    for (int64_t i = 0; i < length; i++) items[i] = load_item(x, base + i * inner, i, false);
    sort_items(items, other, length);
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

/* Moves items[at] of n down in a heap, whose top stands last of all. */
static void sift(item *heap, int64_t at, int64_t n) {
  for (int64_t child; (child = 2 * at + 1) < n; at = child) {
    if (child + 1 < n && is_before(&heap[child], &heap[child + 1])) child++;
    if (!is_before(&heap[at], &heap[child])) return;
    const item moved = heap[at];
    heap[at] = heap[child];
    heap[child] = moved;
  }
}

/* The first k as they stand, in `best`: the best so far are a heap, from whose top the worst goes. */
static void find_first(const ml_arg *x, int64_t base, int64_t step, int64_t length, item *best, int64_t k) {
  for (int64_t i = 0; i < k; i++) best[i] = load_item(x, base + i * step, i, true);
  for (int64_t i = k / 2; i-- > 0;) sift(best, i, k);
  for (int64_t i = k; i < length; i++) {
    const item next = load_item(x, base + i * step, i, true);
    if (!is_before(&next, &best[0])) continue;
    best[0] = next;
    sift(best, 0, k);
  }
  for (int64_t n = k; n-- > 1;) {
    const item worst = best[0];
    best[0] = best[n];
    best[n] = worst;
    sift(best, 0, n);
  }
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
