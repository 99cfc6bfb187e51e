// attention.cu: tables of rotary embedding, and attention.
//
// attention: bytes: keys and values once for every query row, from the cache but for the first. Flops: 2 (d + dv) for
// each key that a row sees. A block takes a query row of a head, SEGMENT keys at a time, which begin at fixed places;
// or, where there are few rows, one segment alone, and another kernel joins them. Eight lanes share a key, so that
// group g takes keys g, g + GROUPS, ... by their place among all: a running maximum and sum each, merged over lanes by
// halves, then warp after warp, then segment after segment. So a row's bits depend on its own keys alone.
#include "gpu/attention.cuh"

enum { WARPS = 8, SHARE = 8, GROUPS = WARPS * WARP / SHARE }; // SHARE: lanes of a key
enum { SEGMENT = 256, MOST_OWN = 4 };                         // MOST_OWN: elements of a result that a thread holds

KERNEL(cuda_rope_table, cu_rope_table_args) {
  for (int64_t i = thread_index(); i < t.count * t.n; i += thread_count()) {
    int64_t u = i;
    const int64_t k = pop(&u, t.n);
    const float angle = (float)load_int(t.positions, t.positions_dtype, u) * t.frequencies[k];
    t.out[u * 2 * t.n + k] = cosf(angle) * t.scale;
    t.out[u * 2 * t.n + t.n + k] = sinf(angle) * t.scale;
  }
}

// ---- attention ----

// How keys and values lie: anyhow; or as float32 at 16 bytes, or float16 at 8, in heads of whole rounds of the lanes.
enum form { ANYHOW, FLOATS, HALVES };

// Four elements of a row from i on; those from n on are zero.
template <int FORM> DEVICE void load_four(const char *row, int dtype, int i, int n, float *to) {
  if constexpr (FORM == FLOATS) {
    const float4 v = *(const float4 *)(row + i * 4);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  } else if constexpr (FORM == HALVES) {
    const uint64_t v = *(const uint64_t *)(row + i * 2);
#pragma unroll
    for (int k = 0; k < 4; k++) to[k] = f16_float((uint16_t)(v >> 16 * k));
  } else {
    for (int k = 0; k < 4; k++) to[k] = i + k < n ? load_float(row, dtype, i + k) : 0.0f;
  }
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
template <int PIECES> struct state { float max, sum, o[PIECES * 4]; };

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

// A lane's part of a key and its value, and what the mask adds to the score. `place` is where the last one lay.
template <int PIECES> struct key_value {
  bool sees;
  float add, k[PIECES * 4], v[PIECES * 4];
};

template <int PIECES, int FORM>
DEVICE void load_key(const cu_attention_args &t, const row_keys &r, int64_t j, int64_t end, key_place *place, int own,
                     key_value<PIECES> *o) {
  const int d = (int)t.k.shape[3], dv = (int)t.v.shape[3];
  o->sees = j < end;
  o->add = 0;
  if (o->sees && t.mask.data) o->add = mask_at(t.mask, r.b, r.h, r.pos, j), o->sees = o->add != -INFINITY;
#pragma unroll
  for (int i = 0; i < PIECES * 4; i++) o->k[i] = o->v[i] = 0;
  o->sees = o->sees && find_place(t, r, j, place);
  if (!o->sees) return;
  const char *key = key_at(t, *place, j), *value = value_at(t, *place, j);
#pragma unroll
  for (int i = 0; i < PIECES; i++) {
    const int at = own + i * 4 * SHARE;
    if (FORM == ANYHOW || at < d) load_four<FORM>(key, t.k.dtype, at, d, o->k + i * 4);
    if (FORM == ANYHOW || at < dv) load_four<FORM>(value, t.v.dtype, at, dv, o->v + i * 4);
  }
}

// What threads of a block hand to each other.
template <int PIECES> struct exchange_room {
  float maxima[WARPS], sums[WARPS], values[WARPS][PIECES * 4 * SHARE];
  int seen[WARPS];
};

// What there is of a row: in every thread the same, but for its own elements of the values.
struct result {
  float max, sum, o[MOST_OWN];
  int any;
};

DEVICE void join_results(result *r, const result &next) {
  const float max = next.max > r->max ? next.max : r->max, mine = share_of(r->max, max),
              theirs = share_of(next.max, max);
  r->max = max;
  r->sum = r->sum * mine + next.sum * theirs;
  for (int i = 0; i < MOST_OWN; i++) r->o[i] = r->o[i] * mine + next.o[i] * theirs;
  r->any |= next.any;
}

// The keys begin..end-1 of a row, none of which is of another segment.
template <int PIECES, int FORM>
DEVICE result attend_segment(const cu_attention_args &t, const row_keys &r, int64_t begin, int64_t end, const float *qs,
                             exchange_room<PIECES> *room) {
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, own = lane % SHARE * 4;
  state<PIECES> s;
  int any = 0;
  s.max = -INFINITY, s.sum = 0;
#pragma unroll
  for (int i = 0; i < PIECES * 4; i++) s.o[i] = 0;
  // The group's first key, and how far it is to the next. All lanes of a warp go on together: those whose keys have
  // ended take one that counts for nothing.
  int64_t j = begin + (((int64_t)(threadIdx.x / SHARE) - begin) & (GROUPS - 1));
  key_place place = first_place(t, r);
  key_value<PIECES> now, next;
  load_key<PIECES, FORM>(t, r, j, end, &place, own, &now);
  for (int64_t j0 = begin; j0 < end; j0 += GROUPS) {
    j += GROUPS;
    if (PIECES <= 4) load_key<PIECES, FORM>(t, r, j, end, &place, own, &next); // while this one is worked on
    float dot = 0;
#pragma unroll
    for (int i = 0; i < PIECES * 4; i++) dot = fmaf(qs[i], now.k[i], dot);
    for (int by = SHARE / 2; by > 0; by /= 2) dot += shuffle(dot, by);
    float score = dot * t.scale;
    if (t.softcap > 0) score = t.softcap * tanhf(score / t.softcap);
    if (now.sees) any = 1, take_key(&s, score + now.add, now.v);
    if (PIECES <= 4) now = next;
    else load_key<PIECES, FORM>(t, r, j, end, &place, own, &now);
  }
  for (int by = SHARE; by < WARP; by *= 2) {
    const float other = shuffle(s.max, by), other_sum = shuffle(s.sum, by), max = other > s.max ? other : s.max;
    const float mine = share_of(s.max, max), theirs = share_of(other, max);
    s.max = max;
    s.sum = s.sum * mine + other_sum * theirs;
#pragma unroll
    for (int i = 0; i < PIECES * 4; i++) s.o[i] = s.o[i] * mine + shuffle(s.o[i], by) * theirs;
    any |= shuffle((float)any, by) != 0;
  }
  __syncthreads(); // what was there before has been read
  if (lane == 0) room->maxima[warp] = s.max, room->sums[warp] = s.sum, room->seen[warp] = any;
#pragma unroll
  for (int i = 0; i < PIECES * 4; i++) {
    if (lane < SHARE) room->values[warp][own + i / 4 * 4 * SHARE + i % 4] = s.o[i];
  }
  __syncthreads();
  result all;
  all.max = -INFINITY, all.sum = 0, all.any = 0;
  for (int w = 0; w < WARPS; w++) all.max = room->maxima[w] > all.max ? room->maxima[w] : all.max;
  for (int i = 0; i < MOST_OWN; i++) all.o[i] = 0;
  for (int w = 0; w < WARPS; w++) {
    const float share = share_of(room->maxima[w], all.max);
    all.sum += room->sums[w] * share;
    all.any |= room->seen[w];
    for (int i = 0, e = threadIdx.x; i < MOST_OWN && e < PIECES * 4 * SHARE; i++, e += WARPS * WARP)
      all.o[i] += room->values[w][e] * share;
  }
  return all;
}

// The row's result, with the sink's share, through the tail.
DEVICE void put_row(const cu_attention_args &t, int64_t b, int64_t h, int64_t pos, result r) {
  const int64_t H = t.q.shape[1], T = t.q.shape[2], dv = t.v.shape[3];
  float keep = 1;
  if (t.sinks.data) {
    const float sink = load_float(t.sinks.data, t.sinks.dtype, h * t.sinks.stride), max = sink > r.max ? sink : r.max;
    keep = share_of(r.max, max);
    r.sum = r.sum * keep + expf(sink - max);
  }
  for (int64_t i = 0, e = threadIdx.x; e < dv; i++, e += blockDim.x) {
    slot o;
    o.u = 0;
    o.f = r.any ? r.o[i] * keep / r.sum : 0.0f; // a row that sees nothing gives zeros
    if (t.tail.program) run_tail(t.tail, (b * H + h) * T + pos, e, o);
    else
      store_slot(t.out.data, t.out.dtype, b * t.out.strides[0] + h * t.out.strides[1] + pos * t.out.strides[2] + e, o);
  }
}

// What a segment alone came to, for cuda_attention_join: max, sum, whether any key was seen, values.
enum { BEFORE_VALUES = 3 };
DEVICE float *part_of(const cu_attention_args &t, int64_t unit, int64_t segment) {
  return t.parts + (unit * t.segments + segment) * (BEFORE_VALUES + t.v.shape[3]);
}

// PIECES: fours of a head's elements that a lane holds.
template <int PIECES, int FORM> DEVICE void attend(const cu_attention_args &t) {
  __shared__ exchange_room<PIECES> room;
  const cu_array &q = t.q;
  const int own = threadIdx.x % SHARE * 4;
  if (blockIdx.x == 0 && blockIdx.y == 0) check_offsets(t.sequences, q.shape[2]);
  for (int64_t unit = blockIdx.x; unit < q.shape[0] * q.shape[1] * q.shape[2]; unit += gridDim.x) {
    row_keys r;
    result all;
    all.max = -INFINITY, all.sum = 0, all.any = 0;
    for (int i = 0; i < MOST_OWN; i++) all.o[i] = 0;
    const bool found = find_keys(t, unit, &r);
    if (found) {
      const char *query = q.data + (r.b * q.strides[0] + r.h * q.strides[1] + r.pos * q.strides[2]) * item_of(q.dtype);
      float qs[PIECES * 4];
      for (int i = 0; i < PIECES; i++)
        load_four<ANYHOW>(query, q.dtype, own + i * 4 * SHARE, (int)q.shape[3], qs + i * 4);
      int64_t first = r.lo / SEGMENT, last = (r.hi + SEGMENT - 1) / SEGMENT;
      if (t.segments) first = max64(first, blockIdx.y), last = min64(last, blockIdx.y + 1);
      for (int64_t g = first; g < last; g++)
        join_results(&all, attend_segment<PIECES, FORM>(t, r, max64(r.lo, g * SEGMENT), min64(r.hi, (g + 1) * SEGMENT),
                                                        qs, &room));
    }
    if (!t.segments) {
      if (found) put_row(t, r.b, r.h, r.pos, all);
      continue;
    }
    float *part = part_of(t, unit, blockIdx.y);
    if (threadIdx.x == 0) part[0] = all.max, part[1] = all.sum, part[2] = (float)all.any;
    for (int64_t i = 0, e = threadIdx.x; e < t.v.shape[3]; i++, e += blockDim.x) part[BEFORE_VALUES + e] = all.o[i];
  }
}

KERNEL(cuda_attention_join, cu_attention_args) {
  for (int64_t unit = blockIdx.x; unit < t.q.shape[0] * t.q.shape[1] * t.q.shape[2]; unit += gridDim.x) {
    row_keys r;
    result all, next;
    if (!find_keys(t, unit, &r)) continue;
    all.max = -INFINITY, all.sum = 0, all.any = 0;
    for (int i = 0; i < MOST_OWN; i++) all.o[i] = 0;
    for (int64_t g = r.lo / SEGMENT; g * SEGMENT < r.hi; g++) {
      const float *part = part_of(t, unit, g);
      next.max = part[0], next.sum = part[1], next.any = part[2] != 0;
      for (int i = 0; i < MOST_OWN; i++) {
        const int64_t e = threadIdx.x + (int64_t)i * blockDim.x;
        next.o[i] = e < t.v.shape[3] ? part[BEFORE_VALUES + e] : 0.0f;
      }
      join_results(&all, next);
    }
    put_row(t, r.b, r.h, r.pos, all);
  }
}

KERNEL(cuda_attention_1, cu_attention_args) { attend<1, ANYHOW>(t); }
KERNEL(cuda_attention_2, cu_attention_args) { attend<2, ANYHOW>(t); }
KERNEL(cuda_attention_4, cu_attention_args) { attend<4, ANYHOW>(t); }
KERNEL(cuda_attention_8, cu_attention_args) { attend<8, ANYHOW>(t); }
KERNEL(cuda_attention_32, cu_attention_args) { attend<32, ANYHOW>(t); }
KERNEL(cuda_attention_2_f32, cu_attention_args) { attend<2, FLOATS>(t); }
KERNEL(cuda_attention_4_f32, cu_attention_args) { attend<4, FLOATS>(t); }
KERNEL(cuda_attention_8_f32, cu_attention_args) { attend<8, FLOATS>(t); }
KERNEL(cuda_attention_2_f16, cu_attention_args) { attend<2, HALVES>(t); }
KERNEL(cuda_attention_4_f16, cu_attention_args) { attend<4, HALVES>(t); }
KERNEL(cuda_attention_8_f16, cu_attention_args) { attend<8, HALVES>(t); }
