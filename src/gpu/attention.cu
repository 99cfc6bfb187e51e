// attention.cu: rotary embedding, cache append and attention.
//
// attention: bytes: keys and values once for every query row, from the cache but for the first. Flops: 2 (d + dv) for
// each key that a row sees. One block a query row and head; eight lanes share a key, so that group g takes keys g,
// g + GROUPS, ... by their place among all; a running maximum and sum each, merged over lanes by halves, then warp after
// warp. So a row's bits depend on its own keys alone.
#include "gpu/program.cuh"

enum { WARPS = 8, SHARE = 8, GROUPS = WARPS * WARP / SHARE }; // SHARE: lanes of a key

// Beyond every position there is.
#define FAR ((int64_t)1 << 62)

// ---- rope ----

KERNEL(cuda_rope_table, cu_rope_table_args) {
  for (int64_t i = thread_index(); i < t.batch * t.length * t.n; i += thread_count()) {
    int64_t u = i;
    const int64_t k = pop(&u, t.n);
    const float position = (float)(min64(FAR, load_int(t.start, t.start_dtype, u / t.length)) + u % t.length);
    const float angle = position * t.frequencies[k];
    t.out[u * 2 * t.n + k] = cosf(angle) * t.scale;
    t.out[u * 2 * t.n + t.n + k] = sinf(angle) * t.scale;
  }
}

KERNEL(cuda_rope, cu_rope_args) {
  const cu_array &x = t.x, &o = t.out;
  const int64_t H = x.shape[1], T = x.shape[2], d = x.shape[3], n = t.table.shape[2] / 2, each = n + (d - 2 * n);
  for (int64_t i = thread_index(); i < x.shape[0] * H * T * each; i += thread_count()) {
    int64_t b = i;
    const int64_t k = pop(&b, each), pos = pop(&b, T), h = pop(&b, H);
    const int64_t from = b * x.strides[0] + h * x.strides[1] + pos * x.strides[2],
                  to = b * o.strides[0] + h * o.strides[1] + pos * o.strides[2];
    if (k >= n) { // not rotated
      store_float(o.data, o.dtype, to + n + k, load_float(x.data, x.dtype, from + n + k));
      continue;
    }
    const float *cs = (const float *)t.table.data + b * t.table.strides[0] + pos * t.table.strides[1];
    const int64_t i1 = t.interleaved ? 2 * k : k, i2 = t.interleaved ? 2 * k + 1 : n + k;
    const float c = cs[k], s = cs[n + k], a = load_float(x.data, x.dtype, from + i1),
                e = load_float(x.data, x.dtype, from + i2);
    store_float(o.data, o.dtype, to + i1, a * c - e * s);
    store_float(o.data, o.dtype, to + i2, e * c + a * s);
  }
}

// ---- cache append ----

KERNEL(cuda_cache_append, cu_append_args) {
  const cu_array &cache = t.cache, &x = t.x;
  const int64_t H = x.shape[1], T = x.shape[2], d = x.shape[3];
  for (int64_t i = thread_index(); i < x.shape[0] * H * T * d; i += thread_count()) {
    int64_t b = i;
    const int64_t k = pop(&b, d), pos = pop(&b, T), h = pop(&b, H);
    if (pos >= vector_at(t.count, b)) continue;
    const int64_t slot = vector_at(t.slots, b), at = min64(FAR, vector_at(t.start, b)) + pos;
    const bool no_slot = slot < 0 || slot >= cache.shape[0];
    if (no_slot || at < 0 || at >= cache.shape[2]) {
      raise_fault(t.fault, CU_OP_cache_append, no_slot ? t.slots.dtype : t.start.dtype, no_slot ? slot : at,
                  cache.shape[no_slot ? 0 : 2]);
      continue;
    }
    const int64_t from = b * x.strides[0] + h * x.strides[1] + pos * x.strides[2] + k;
    const int64_t to = slot * cache.strides[0] + h * cache.strides[1] + at * cache.strides[2] + k;
    store_float(cache.data, cache.dtype, to, load_float(x.data, x.dtype, from));
  }
}

// ---- attention ----

DEVICE float exchange(float v, int by) {
#ifdef __CUDACC__
  return __shfl_xor_sync(FULL, v, by);
#else
  return emulated_shuffle(v, by);
#endif
}

// Four elements of a row from i on; those from n on are zero. `whole`: they lie at 16 bytes (of float16, at 8).
DEVICE void load_four(const char *row, int dtype, int i, int64_t n, bool whole, float *to) {
  if (whole && dtype == ML_F32) {
    const float4 v = *(const float4 *)(row + i * 4);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  } else if (whole && dtype == ML_F16) {
    const uint64_t v = *(const uint64_t *)(row + i * 2);
    for (int k = 0; k < 4; k++) to[k] = f16_float((uint16_t)(v >> 16 * k));
  } else {
    for (int k = 0; k < 4; k++) to[k] = i + k < n ? load_float(row, dtype, i + k) : 0.0f;
  }
}

// Whether all rows of heads can be read so.
DEVICE bool lies_whole(const cu_array &x, int64_t n) {
  const int item = item_of(x.dtype);
  return n % (4 * SHARE) == 0 && x.strides[0] % 4 == 0 && x.strides[1] % 4 == 0 && x.strides[2] % 4 == 0 &&
         (uintptr_t)x.data % (4 * item) == 0;
}

// What the mask adds to a score; -infinity hides the key.
DEVICE float mask_at(const cu_array &m, int64_t b, int64_t h, int64_t pos, int64_t key) {
  const int64_t index[4] = {b, h, pos, key};
  int64_t at = 0;
  for (int d = 0; d < m.ndim; d++) at += m.shape[d] == 1 ? 0 : index[d + 4 - m.ndim] * m.strides[d];
  if (m.dtype == ML_BOOL) return ((const uint8_t *)m.data)[at] ? 0.0f : -INFINITY;
  return load_float(m.data, m.dtype, at);
}

// What a group of lanes has of a row: the largest score, the sum of exponentials below it, and values weighed with
// those, of which each lane has its own.
template <int PIECES> struct state {
  float max, sum, o[PIECES * 4];
};

// How much of what was weighed below `max` counts below `all`. Where there was no key yet nothing is lost.
DEVICE float share_of(float max, float all) { return max == all ? 1.0f : expf(max - all); }

template <int PIECES> DEVICE void take_key(state<PIECES> *s, float score, const float *value) {
  if (score == -INFINITY) return;
  const float max = score > s->max ? score : s->max, keep = share_of(s->max, max), p = expf(score - max);
  s->max = max;
  s->sum = s->sum * keep + p;
#pragma unroll
  for (int i = 0; i < PIECES * 4; i++) s->o[i] = fmaf(p, value[i], s->o[i] * keep);
}

// The keys that a query sees: lo..hi-1; and where a slot's keys and values of a head lie.
struct row_keys {
  int64_t b, h, pos, lo, hi;
  const char *k, *v;
};

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
  const int64_t at = offset + r->pos;
  r->hi = t.causal ? max64(0, min64(keys, at + 1)) : keys;
  r->lo = t.window > 0 && at >= t.window ? at + 1 - t.window : 0;
  if (r->pos >= count) r->hi = 0; // no query: zeros
  r->k = k.data + (slot_ * k.strides[0] + kv * k.strides[1]) * item_of(k.dtype);
  r->v = v.data + (slot_ * v.strides[0] + kv * v.strides[1]) * item_of(v.dtype);
  return true;
}

// A lane's part of a key and its value, and what the mask adds to the score.
template <int PIECES> struct key_value {
  bool sees;
  float add, k[PIECES * 4], v[PIECES * 4];
};

template <int PIECES>
DEVICE void load_key(const cu_attention_args &t, const row_keys &r, int64_t j, const char *key, const char *value,
                     int own, bool k_whole, bool v_whole, key_value<PIECES> *o) {
  o->sees = j < r.hi;
  o->add = 0;
  if (o->sees && t.mask.data) o->add = mask_at(t.mask, r.b, r.h, r.pos, j), o->sees = o->add != -INFINITY;
#pragma unroll
  for (int i = 0; i < PIECES * 4; i++) o->k[i] = o->v[i] = 0;
  if (!o->sees) return;
#pragma unroll
  for (int i = 0; i < PIECES; i++) {
    load_four(key, t.k.dtype, own + i * 4 * SHARE, t.k.shape[3], k_whole, o->k + i * 4);
    load_four(value, t.v.dtype, own + i * 4 * SHARE, t.v.shape[3], v_whole, o->v + i * 4);
  }
}

// PIECES: fours of a head's elements that a lane holds.
template <int PIECES> DEVICE void attend(const cu_attention_args &t) {
  __shared__ float maxima[WARPS], sums[WARPS], values[WARPS][PIECES * 4 * SHARE];
  __shared__ int seen[WARPS];
  const cu_array &q = t.q, &k = t.k, &v = t.v;
  const int64_t H = q.shape[1], T = q.shape[2], d = q.shape[3], dv = v.shape[3];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, own = lane % SHARE * 4;
  const bool k_whole = lies_whole(k, d), v_whole = lies_whole(v, dv);
  for (int64_t unit = blockIdx.x; unit < q.shape[0] * H * T; unit += gridDim.x) {
    row_keys r;
    __syncthreads();
    if (!find_keys(t, unit, &r)) continue;
    const char *query = q.data + (r.b * q.strides[0] + r.h * q.strides[1] + r.pos * q.strides[2]) * item_of(q.dtype);
    float qs[PIECES * 4];
    state<PIECES> s;
    int any = 0;
    for (int i = 0; i < PIECES; i++) load_four(query, q.dtype, own + i * 4 * SHARE, d, false, qs + i * 4);
    s.max = -INFINITY, s.sum = 0;
    for (int i = 0; i < PIECES * 4; i++) s.o[i] = 0;
    // The group's first key, and how far it is to the next. All lanes of a warp go on together: those whose keys have
    // ended take one that counts for nothing.
    int64_t j = r.lo + (((int64_t)(threadIdx.x / SHARE) - r.lo) & (GROUPS - 1));
    const int64_t k_item = item_of(k.dtype), v_item = item_of(v.dtype);
    const char *key = r.k + j * k.strides[2] * k_item, *from = r.v + j * v.strides[2] * v_item;
    key_value<PIECES> now, next;
    load_key(t, r, j, key, from, own, k_whole, v_whole, &now);
    for (int64_t j0 = r.lo; j0 < r.hi; j0 += GROUPS) {
      j += GROUPS, key += GROUPS * k.strides[2] * k_item, from += GROUPS * v.strides[2] * v_item;
      if (PIECES <= 4) load_key(t, r, j, key, from, own, k_whole, v_whole, &next); // while this one is worked on
      float dot = 0;
#pragma unroll
      for (int i = 0; i < PIECES * 4; i++) dot = fmaf(qs[i], now.k[i], dot);
      for (int by = SHARE / 2; by > 0; by /= 2) dot += exchange(dot, by);
      float score = dot * t.scale;
      if (t.softcap > 0) score = t.softcap * tanhf(score / t.softcap);
      if (now.sees) any = 1, take_key(&s, score + now.add, now.v);
      if (PIECES <= 4) now = next;
      else load_key(t, r, j, key, from, own, k_whole, v_whole, &now);
    }
    for (int by = SHARE; by < WARP; by *= 2) {
      const float other = exchange(s.max, by), other_sum = exchange(s.sum, by), max = other > s.max ? other : s.max;
      const float mine = share_of(s.max, max), theirs = share_of(other, max);
      s.max = max;
      s.sum = s.sum * mine + other_sum * theirs;
#pragma unroll
      for (int i = 0; i < PIECES * 4; i++) s.o[i] = s.o[i] * mine + exchange(s.o[i], by) * theirs;
      any |= exchange((float)any, by) != 0;
    }
    if (lane == 0) maxima[warp] = s.max, sums[warp] = s.sum, seen[warp] = any;
    for (int i = 0; i < PIECES * 4 && lane < SHARE; i++) values[warp][own + i / 4 * 4 * SHARE + i % 4] = s.o[i];
    __syncthreads();
    float max = -INFINITY, sum = 0;
    int all = 0;
    const float sink = t.sinks.data ? load_float(t.sinks.data, t.sinks.dtype, r.h * t.sinks.stride) : -INFINITY;
    for (int w = 0; w < WARPS; w++) max = maxima[w] > max ? maxima[w] : max, all |= seen[w];
    if (t.sinks.data && sink > max) max = sink;
    for (int w = 0; w < WARPS; w++) sum += sums[w] * share_of(maxima[w], max);
    if (t.sinks.data) sum += expf(sink - max);
    for (int64_t e = threadIdx.x; e < dv; e += blockDim.x) {
      float o = 0;
      for (int w = 0; w < WARPS; w++) o += values[w][e] * share_of(maxima[w], max);
      slot result;
      result.u = 0;
      result.f = all ? o / sum : 0.0f; // a row that sees nothing gives zeros
      if (t.tail.program) run_tail(t.tail, (r.b * H + r.h) * T + r.pos, e, result);
      else
        store_slot(t.out.data, t.out.dtype,
                   r.b * t.out.strides[0] + r.h * t.out.strides[1] + r.pos * t.out.strides[2] + e, result);
    }
  }
}

KERNEL(cuda_attention_1, cu_attention_args) { attend<1>(t); }
KERNEL(cuda_attention_2, cu_attention_args) { attend<2>(t); }
KERNEL(cuda_attention_4, cu_attention_args) { attend<4>(t); }
KERNEL(cuda_attention_8, cu_attention_args) { attend<8>(t); }
KERNEL(cuda_attention_32, cu_attention_args) { attend<32>(t); }
