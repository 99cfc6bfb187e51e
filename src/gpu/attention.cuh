// attention.cuh: what a query sees, and where it lies.
#ifndef ML_GPU_ATTENTION_CUH
#define ML_GPU_ATTENTION_CUH

#include "gpu/program.cuh"

// Beyond every position there is.
#define FAR ((int64_t)1 << 62)

// The keys that a query sees: lo..hi-1; and where a slot's keys and values of a head lie. `offset`: the first query's
// position; `keys`, `queries`: so many there are.
struct row_keys {
  int64_t b, h, pos, lo, hi, offset, keys, queries;
  const char *k, *v;
};

// Of another query of the same head.
DEVICE void see(const cu_attention_args &t, const row_keys &r, int64_t pos, int64_t *lo, int64_t *hi) {
  const int64_t at = r.offset + pos;
  *hi = t.causal ? max64(0, min64(r.keys, at + 1)) : r.keys;
  *lo = t.window > 0 && at >= t.window ? at + 1 - t.window : 0;
  if (pos >= r.queries) *hi = 0; // no query: zeros
}

DEVICE bool find_keys(const cu_attention_args &t, int64_t unit, row_keys *r) {
  const cu_array &q = t.q, &k = t.k, &v = t.v;
  const int64_t H = q.shape[1], T = q.shape[2];
  r->b = unit, r->pos = pop(&r->b, T), r->h = pop(&r->b, H);
  int64_t kv = r->h, group = H;
  pop(&group, k.shape[1]); // query heads a KV head
  pop(&kv, group);
  const int64_t slot_ = t.slots.data ? vector_at(t.slots, r->b) : r->b;
  if (slot_ < 0 || slot_ >= k.shape[0]) {
    if (threadIdx.x == 0) raise_fault(t.fault, CU_OP_attention, t.slots.dtype, slot_, k.shape[0]);
    return false;
  }
  int64_t keys = k.shape[2], offset = k.shape[2] - T, count = T;
  if (t.count.data) count = vector_at(t.count, r->b);
  if (t.start.data) {
    offset = min64(FAR, vector_at(t.start, r->b));
    keys = max64(0, min64(keys, offset + max64(0, min64(count, T))));
  }
  r->offset = offset, r->keys = keys, r->queries = count;
  see(t, *r, r->pos, &r->lo, &r->hi);
  r->k = k.data + (slot_ * k.strides[0] + kv * k.strides[1]) * item_of(k.dtype);
  r->v = v.data + (slot_ * v.strides[0] + kv * v.strides[1]) * item_of(v.dtype);
  return true;
}

// Where the key and the value of a position lie.
DEVICE const char *key_at(const cu_attention_args &t, const row_keys &r, int64_t position) {
  return r.k + position * t.k.strides[2] * item_of(t.k.dtype);
}
DEVICE const char *value_at(const cu_attention_args &t, const row_keys &r, int64_t position) {
  return r.v + position * t.v.strides[2] * item_of(t.v.dtype);
}

#endif
