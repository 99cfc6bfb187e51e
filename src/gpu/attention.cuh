// attention.cuh: what a query sees, and where it lies.
#ifndef ML_GPU_ATTENTION_CUH
#define ML_GPU_ATTENTION_CUH

#include "gpu/program.cuh"
#include "gpu/sequences.cuh"

// The keys that a query sees: lo..hi-1. `pos` is its place among the tokens of entry b, `token` that in its sequence;
// `offset` the position of the sequence's first query; `keys`, `queries`: so many it has. k, v: the head's keys and
// values, without pages the sequence's own.
struct row_keys {
  int64_t b, h, pos, token, lo, hi, offset, keys, queries, slot;
  const char *k, *v;
};

// Of another query of the same head and sequence.
DEVICE void see(const cu_attention_args &t, const row_keys &r, int64_t token, int64_t *lo, int64_t *hi) {
  const int64_t at = r.offset + token;
  *hi = t.causal ? max64(0, min64(r.keys, at + 1)) : r.keys;
  *lo = t.window > 0 && at >= t.window ? at + 1 - t.window : 0;
  if (token >= r.queries) *hi = 0; // no query: zeros
}

DEVICE bool find_keys(const cu_attention_args &t, int64_t unit, row_keys *r) {
  const cu_array &q = t.q, &k = t.k, &v = t.v;
  const int64_t H = q.shape[1], T = q.shape[2];
  r->b = unit, r->pos = pop(&r->b, T), r->h = pop(&r->b, H);
  int64_t kv = r->h, group = H;
  pop(&group, k.shape[1]); // query heads a KV head
  pop(&kv, group);
  sequence s;
  if (!find_sequence(t.sequences, T, k.shape[2], r->b, r->pos, &s)) return false;
  int64_t k_at = kv * k.strides[1], v_at = kv * v.strides[1];
  r->token = r->pos - s.first, r->queries = s.real, r->slot = s.slot;
  if (t.sequences.pages.ndim) {
    r->offset = s.start, r->keys = s.start + s.real;
  } else {
    r->keys = t.sequences.offsets.data ? s.tokens : k.shape[2];
    r->offset = r->keys - s.tokens;
    k_at += r->b * k.strides[0] + s.first * k.strides[2];
    v_at += r->b * v.strides[0] + s.first * v.strides[2];
  }
  see(t, *r, r->token, &r->lo, &r->hi);
  r->k = k.data + k_at * item_of(k.dtype);
  r->v = v.data + v_at * item_of(v.dtype);
  return true;
}

// Positions first..end-1 of a sequence, whose keys and values lie side by side from k and v on.
struct key_place {
  int64_t first, end;
  const char *k, *v;
};

DEVICE key_place first_place(const cu_attention_args &t, const row_keys &r) {
  key_place p;
  p.first = 0, p.end = t.sequences.pages.ndim ? 0 : INT64_MAX; // none of its pages is found yet
  p.k = r.k, p.v = r.v;
  return p;
}

// Makes p the place of position j, mostly that which it is; false, and a fault, where there is none.
DEVICE bool find_place(const cu_attention_args &t, const row_keys &r, int64_t j, key_place *p) {
  if (j >= p->first && j < p->end) return true;
  int64_t index = j;
  const int64_t each = t.k.shape[2], before = pop(&index, each);
  const int64_t page = find_page(t.sequences, r.slot, index, t.k.shape[0]);
  if (page < 0) return false;
  p->first = j - before, p->end = p->first + each;
  p->k = r.k + page * t.k.strides[0] * item_of(t.k.dtype);
  p->v = r.v + page * t.v.strides[0] * item_of(t.v.dtype);
  return true;
}

// Where the key and the value of a position of a place lie.
DEVICE const char *key_at(const cu_attention_args &t, const key_place &p, int64_t j) {
  return p.k + (j - p.first) * t.k.strides[2] * item_of(t.k.dtype);
}
DEVICE const char *value_at(const cu_attention_args &t, const key_place &p, int64_t j) {
  return p.v + (j - p.first) * t.v.strides[2] * item_of(t.v.dtype);
}

// Element e of a row of the result, which lies at `to` if nothing follows.
DEVICE_CALL void put_one(const cu_attention_args &t, int64_t row, int64_t to, int64_t e, slot s) {
  if (t.tail.program) run_tail(t.tail, row, e, s);
  else store_slot(t.out.data, t.out.dtype, to, s);
}

#endif
