// heads.cu: heads of tokens on their way to attention: turned (rotary embedding), put into pages, or both.
//
// Bytes: the heads once, and once more for each place that they go to. Parts are independent of each other and lie
// along y: what a layer does with its queries, keys and values is one launch.
#include "gpu/row.cuh"
#include "gpu/sequences.cuh"

// Where a token's head lies in its page; NULL where it goes to none.
DEVICE char *place_in_page(const cu_heads &p, int64_t b, int64_t h, int64_t pos) {
  const cu_array &pool = p.pool;
  const int64_t each = pool.shape[2];
  sequence s;
  if (!find_sequence(p.sequences, p.x.shape[2], each, b, pos, &s) || pos - s.first >= s.real) return NULL;
  int64_t index = s.start + pos - s.first;
  const int64_t at = pop(&index, each), page = find_page(p.sequences, s.slot, index, pool.shape[0]);
  if (page < 0) return NULL;
  return pool.data + (page * pool.strides[0] + h * pool.strides[1] + at * pool.strides[2]) * item_of(pool.dtype);
}

// A thread takes EACH times two elements of a head: those that are turned together, or neighbours behind them.
template <int EACH> DEVICE void take_heads(const cu_heads_args &t) {
  const cu_heads &p = t.parts[blockIdx.y];
  const cu_array &x = p.x, &o = p.out;
  const int64_t H = x.shape[1], T = x.shape[2], d = x.shape[3], n = p.turns;
  const int64_t each = (n + (d - 2 * n + 1) / 2) / EACH;
  auto load = [&](int64_t from, float *to) {
    if constexpr (EACH == 1) *to = load_float(x.data, x.dtype, from);
    else load_run(x.data, x.dtype, from, from + EACH, 0.0f, to);
  };
  auto store = [&](char *data, int dtype, int64_t to, const float *from) {
    if constexpr (EACH == 1) store_float(data, dtype, to, *from);
    else store_run(data, dtype, to, to + EACH, from);
  };
  if (p.pool.data && blockIdx.x == 0) check_offsets(p.sequences, T);
  for (int64_t i = thread_index(); i < x.shape[0] * H * T * each; i += thread_count()) {
    int64_t b = i;
    const int64_t k = pop(&b, each) * EACH, pos = pop(&b, T), h = pop(&b, H);
    const bool turned = k < n;
    const int64_t i1 = !turned || p.interleaved ? 2 * k : k,
                  i2 =
                      turned && !p.interleaved ? n + k : i1 + EACH; // behind the last there may be one without a second
    const int64_t from = b * x.strides[0] + h * x.strides[1] + pos * x.strides[2];
    float first[EACH], second[EACH] = {0}, c[EACH], s[EACH];
    const bool both = i2 < d;
    load(from + i1, first);
    if (both) load(from + i2, second);
    if (turned) {
      const float *cs = (const float *)p.table.data + b * p.table.strides[0] + pos * p.table.strides[1];
#pragma unroll
      for (int e = 0; e < EACH; e++) c[e] = cs[k + e], s[e] = cs[n + k + e];
#pragma unroll
      for (int e = 0; e < EACH; e++) {
        const float a = first[e], f = second[e];
        first[e] = a * c[e] - f * s[e], second[e] = f * c[e] + a * s[e];
      }
    }
    if (o.data) {
      const int64_t to = b * o.strides[0] + h * o.strides[1] + pos * o.strides[2];
      store(o.data, o.dtype, to + i1, first);
      if (both) store(o.data, o.dtype, to + i2, second);
    }
    char *page = p.pool.data ? place_in_page(p, b, h, pos) : NULL;
    if (!page) continue;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
      slot r;
      r.u = 0, r.f = first[e];
      first[e] = round_slot(r, o.dtype).f;
      r.f = second[e];
      second[e] = round_slot(r, o.dtype).f;
    }
    store(page, p.pool.dtype, i1, first);
    if (both) store(page, p.pool.dtype, i2, second);
  }
}

KERNEL(cuda_heads, cu_heads_args) { take_heads<1>(t); }
KERNEL(cuda_heads_runs, cu_heads_args) { take_heads<RUN>(t); }
