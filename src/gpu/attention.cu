// attention.cu: rotary embedding, cache append and attention.
//
// attention: bytes: keys and values once for every query row, from the cache but for the first. Flops: 2 (d + dv) for
// each key that a row sees. One block a query row and head: warp w takes keys w, w + WARPS, ... by their place among
// all, lanes share a head's elements; a running maximum and sum each, merged in the order of the warps. So a row's bits
// depend on its own keys alone.
#include "gpu/program.cuh"

enum { WARPS = 8 };

// Beyond every position there is.
#define FAR ((int64_t)1 << 62)

// ---- rope ----

KERNEL(cuda_rope_table, cu_rope_table_args) {
  for (int64_t i = thread_index(); i < t.batch * t.length * t.n; i += thread_count()) {
    const int64_t u = i / t.n, k = i % t.n;
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
    const int64_t k = i % each, u = i / each, pos = u % T, h = u / T % H, b = u / T / H;
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
    const int64_t k = i % d, u = i / d, pos = u % T, h = u / T % H, b = u / T / H;
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

DEVICE float add_lanes(float v) {
  for (int by = WARP / 2; by > 0; by /= 2) {
#ifdef __CUDACC__
    v += __shfl_xor_sync(FULL, v, by);
#else
    v += emulated_shuffle(v, by);
#endif
  }
  return v;
}

// What the mask adds to a score; -infinity hides the key.
DEVICE float mask_at(const cu_array &m, int64_t b, int64_t h, int64_t pos, int64_t key) {
  const int64_t index[4] = {b, h, pos, key};
  int64_t at = 0;
  for (int d = 0; d < m.ndim; d++) at += m.shape[d] == 1 ? 0 : index[d + 4 - m.ndim] * m.strides[d];
  if (m.dtype == ML_BOOL) return ((const uint8_t *)m.data)[at] ? 0.0f : -INFINITY;
  return load_float(m.data, m.dtype, at);
}

// What a warp has of a row: the largest score, the sum of exponentials below it, values weighed with those.
template <int EACH> struct state {
  float max, sum, o[EACH];
};

// EACH: elements of a head that a lane holds.
template <int EACH> DEVICE void attend(const cu_attention_args &t) {
  __shared__ float maxima[WARPS], sums[WARPS], values[WARPS][EACH * WARP];
  __shared__ int seen[WARPS];
  const cu_array &q = t.q, &k = t.k, &v = t.v;
  const int64_t H = q.shape[1], T = q.shape[2], d = q.shape[3], dv = v.shape[3], group = H / k.shape[1];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  for (int64_t unit = blockIdx.x; unit < q.shape[0] * H * T; unit += gridDim.x) {
    const int64_t pos = unit % T, h = unit / T % H, b = unit / T / H, row = (b * H + h) * T + pos;
    const int64_t slot_ = t.slots.data ? vector_at(t.slots, b) : b;
    __syncthreads();
    if (slot_ < 0 || slot_ >= k.shape[0]) {
      if (threadIdx.x == 0) raise_fault(t.fault, CU_OP_attention, t.slots.dtype, slot_, k.shape[0]);
      continue;
    }
    int64_t keys = k.shape[2], offset = k.shape[2] - T, count = T;
    if (t.count.data) count = vector_at(t.count, b);
    if (t.start.data) {
      offset = min64(FAR, vector_at(t.start, b));
      keys = max64(0, min64(keys, offset + max64(0, min64(count, T))));
    }
    const int64_t at = offset + pos;
    int64_t hi = t.causal ? max64(0, min64(keys, at + 1)) : keys, lo = t.window > 0 && at >= t.window ? at + 1 - t.window : 0;
    if (pos >= count) hi = 0; // no query: zeros
    const int64_t kv = h / group;
    const char *kd = k.data + (slot_ * k.strides[0] + kv * k.strides[1]) * item_of(k.dtype);
    const char *vd = v.data + (slot_ * v.strides[0] + kv * v.strides[1]) * item_of(v.dtype);
    float qs[EACH];
    for (int i = 0; i < EACH; i++) {
      const int64_t e = lane + i * WARP;
      qs[i] = e < d ? load_float(q.data, q.dtype, b * q.strides[0] + h * q.strides[1] + pos * q.strides[2] + e) : 0.0f;
    }
    state<EACH> s;
    s.max = -INFINITY, s.sum = 0;
    int any = 0;
    for (int i = 0; i < EACH; i++) s.o[i] = 0;
    const int64_t first = lo + ((warp - lo) % WARPS + WARPS) % WARPS; // the warp's first key from lo on
    for (int64_t j = first; j < hi; j += WARPS) {
      float dot = 0, value[EACH];
      const float add = t.mask.data ? mask_at(t.mask, b, h, pos, j) : 0.0f;
      if (add == -INFINITY) continue;
#pragma unroll
      for (int i = 0; i < EACH; i++) {
        const int64_t e = lane + i * WARP;
        if (e < d) dot = fmaf(qs[i], load_float(kd, k.dtype, j * k.strides[2] + e), dot);
        value[i] = e < dv ? load_float(vd, v.dtype, j * v.strides[2] + e) : 0.0f;
      }
      float score = add_lanes(dot) * t.scale;
      if (t.softcap > 0) score = t.softcap * tanhf(score / t.softcap);
      score += add;
      any = 1;
      if (score == -INFINITY) continue;
      const float max = score > s.max ? score : s.max, keep = s.max == max ? 1.0f : expf(s.max - max),
                  p = expf(score - max);
      s.max = max;
      s.sum = s.sum * keep + p;
#pragma unroll
      for (int i = 0; i < EACH; i++) s.o[i] = fmaf(p, value[i], s.o[i] * keep);
    }
    if (lane == 0) maxima[warp] = s.max, sums[warp] = s.sum, seen[warp] = any;
    for (int i = 0; i < EACH; i++) values[warp][lane + i * WARP] = s.o[i];
    __syncthreads();
    float max = -INFINITY, sum = 0;
    int all = 0;
    const float sink = t.sinks.data ? load_float(t.sinks.data, t.sinks.dtype, h * t.sinks.stride) : -INFINITY;
    for (int w = 0; w < WARPS; w++) max = maxima[w] > max ? maxima[w] : max, all |= seen[w];
    if (t.sinks.data && sink > max) max = sink;
    for (int w = 0; w < WARPS; w++) {
      if (sums[w] != 0) sum += sums[w] * expf(maxima[w] - max);
    }
    if (t.sinks.data) sum += expf(sink - max);
    for (int64_t e = threadIdx.x; e < dv; e += blockDim.x) {
      float o = 0;
      for (int w = 0; w < WARPS; w++) {
        if (sums[w] != 0) o += values[w][e] * expf(maxima[w] - max);
      }
      slot r;
      r.u = 0;
      r.f = all ? o / sum : 0.0f; // a row that sees nothing gives zeros
      if (t.tail.program) run_tail(t.tail, row, e, r);
      else
        store_slot(t.out.data, t.out.dtype, b * t.out.strides[0] + h * t.out.strides[1] + pos * t.out.strides[2] + e,
                   r);
    }
  }
}

KERNEL(cuda_attention_2, cu_attention_args) { attend<2>(t); }
KERNEL(cuda_attention_4, cu_attention_args) { attend<4>(t); }
KERNEL(cuda_attention_8, cu_attention_args) { attend<8>(t); }
KERNEL(cuda_attention_32, cu_attention_args) { attend<32>(t); }
