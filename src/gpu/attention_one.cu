// attention_one.cu: attention of one query a sequence, where that need not have the bits that many would give.
//
// Bytes: the keys and values that are seen, once; flops: 4 d for each of them and each query head. A block takes the
// query heads of one KV head and SEGMENT positions at a time, which begin at fixed places; the block that comes to its
// end last joins what all have found, in the order of the positions. So the bits depend on the row's own keys alone.
// Where there are more blocks than segments, each takes one head, and keys and values come from the cache again.
//
// The own heads of the tokens may come as a product left them (`cuda_attention_own_`): each block turns the queries
// that it takes, and the block of the last position the key, and puts both into their pages. It asks for keys and
// values before it waits for the product, where nothing else in the program writes those.
//
// Of a short sequence most of the time is what stands before and behind the arithmetic, instruction after instruction
// that nobody has fetched before: hence integers of 32 bits, and as little text as possible.
#include "gpu/program.cuh"

enum { THREADS = 256, WARPS = THREADS / WARP, SEGMENT = 64, MOST_HEADS = 8 };
enum { BEFORE_VALUES = 2 }; // of a part: the largest score, the sum of exponentials below it

template <int SIZE> struct one_room {
  static constexpr int abreast = SIZE > 128 ? MOST_HEADS / 2 : MOST_HEADS; // heads whose values are added up at a time
  float q[MOST_HEADS][SIZE], p[MOST_HEADS][SEGMENT], max[MOST_HEADS], sum[MOST_HEADS];
  float o[abreast][WARPS][SIZE];
  uint4 own[2][SIZE / 4]; // key and value of the last position, as in their pages
  int last;
};

// What a block works on: heads first_h.. of sequence b, all of one KV head, which see the positions lo..hi-1.
// Of the blocks that share such a chunk it is the worker-th; `owner`: one of those that put its key and its value into
// their pages; `count`: where the chunk's blocks are counted.
struct one_row {
  uint32_t b, kv, first_h, heads, slot, worker, workers, count;
  int32_t lo, hi;
  bool owner;
};

// Its segments.
DEVICE uint32_t begin_of(const one_row &r) { return (uint32_t)r.lo / SEGMENT; }
DEVICE uint32_t end_of(const one_row &r) { return ((uint32_t)r.hi + SEGMENT - 1) / SEGMENT; }

DEVICE_CALL void report(const cu_attention_one_args &t, int64_t value, int64_t limit) {
  raise_fault(t.fault, t.op, ML_I32, value, limit);
}

// False, and a fault, where what says which tokens there are makes no sense.
DEVICE bool find_row(const cu_attention_one_args &t, one_row *r) {
  const uint32_t abreast = (uint32_t)t.abreast, x = blockIdx.x / abreast, of_x = blockIdx.x - x * abreast;
  r->b = x / (uint32_t)t.chunks;
  const uint32_t chunk = x - r->b * (uint32_t)t.chunks;
  uint32_t part = 0;
  // Asked for together.
  const int32_t real = t.count ? t.count[r->b] : 1, slot = t.slots ? t.slots[r->b] : (int32_t)r->b;
  const int32_t start = t.pages ? t.start[r->b] : t.page - 1;
  r->kv = chunk;
  if (t.in_group > 1) r->kv = chunk / (uint32_t)t.in_group, part = chunk - r->kv * (uint32_t)t.in_group;
  r->first_h = r->kv * (uint32_t)t.group + part * MOST_HEADS;
  r->heads = (uint32_t)t.group - part * MOST_HEADS;
  if (r->heads > MOST_HEADS) r->heads = MOST_HEADS;
  r->slot = (uint32_t)slot;
  r->lo = r->hi = 0;
  if ((uint32_t)real > 1) return report(t, real, 2), false;
  if (t.pages) {
    const int64_t room = (int64_t)t.n_entries * t.page - real + 1;
    if ((uint32_t)slot >= (uint32_t)t.n_slots) return report(t, slot, t.n_slots), false;
    if (start < 0 || start >= room) return report(t, start, room), false;
  }
  if (real) r->hi = start + 1; // its own token is the last
  if (t.window > 0 && start >= t.window) r->lo = (int32_t)(start + 1 - t.window);
  r->worker = blockIdx.y * abreast + of_x, r->workers = gridDim.y * abreast, r->count = blockIdx.x - of_x;
  r->owner = part == 0;
  if (abreast > 1 && end_of(*r) - begin_of(*r) <= gridDim.y) { // a head each
    r->first_h += of_x, r->heads = 1, r->owner = of_x == 0;
    r->worker = blockIdx.y, r->workers = gridDim.y, r->count = blockIdx.x;
  }
  return true;
}

// The page of a position, and its place in there; -1, and a fault, where there is none.
DEVICE int64_t find_page(const cu_attention_one_args &t, const one_row &r, uint32_t position, uint32_t *place) {
  *place = position;
  if (!t.pages) return r.b;
  const uint32_t index = position / (uint32_t)t.page;
  const int64_t page = t.pages[(int64_t)r.slot * t.entries_stride + index];
  *place = position - index * (uint32_t)t.page;
  if ((uint64_t)page < (uint32_t)t.n_pages) return page;
  report(t, page, t.n_pages);
  return -1;
}

// ---- heads as a product left them ----

// The i-th pair of a head of `size` elements: two that are turned together, or two of the others. In x's dtype.
struct one_pair {
  uint32_t at[2];
  float of[2];
};
DEVICE one_pair take_pair(const cu_own_part &p, int dtype, uint32_t size, uint32_t b, uint32_t head, uint32_t i) {
  const uint32_t n = (uint32_t)p.turns, apart = i < n ? n : size / 2 - n;
  one_pair o;
  o.at[0] = i < n ? i : i + n, o.at[1] = o.at[0] + apart;
  const int64_t from = b * p.strides[0] + head * p.strides[1];
  const float x = load_float(p.x, dtype, from + o.at[0]), y = load_float(p.x, dtype, from + o.at[1]);
  o.of[0] = x, o.of[1] = y;
  if (i >= n) return o;
  const float *cs = p.table + b * p.table_stride + i;
  const float c = cs[0], s = cs[n];
  slot r;
  r.u = 0, r.f = x * c - y * s;
  o.of[0] = round_slot(r, dtype).f;
  r.f = y * c + x * s;
  o.of[1] = round_slot(r, dtype).f;
  return o;
}

// The key and the value of the last position, for the block and into their pages.
template <int SIZE> DEVICE void take_own(const cu_attention_one_args &t, const one_row &r, one_room<SIZE> &room) {
  const bool is_value = threadIdx.x >= SIZE / 2;
  if (threadIdx.x >= SIZE) return;
  const int64_t *strides = is_value ? t.v_strides : t.k_strides;
  const one_pair o = take_pair(is_value ? t.own_v : t.own_k, t.q_dtype, SIZE, r.b, r.kv, threadIdx.x % (SIZE / 2));
  uint32_t place;
  const int64_t page = find_page(t, r, (uint32_t)r.hi - 1, &place);
  const int64_t to = page * strides[0] + r.kv * strides[1] + place * strides[2];
#pragma unroll
  for (int k = 0; k < 2; k++) {
    store_float((char *)room.own[is_value], t.kv_dtype, o.at[k], o.of[k]);
    if (page >= 0 && r.owner) store_float((char *)(is_value ? t.v : t.k), t.kv_dtype, to + o.at[k], o.of[k]);
  }
}

template <int SIZE, bool OWN>
DEVICE void load_queries(const cu_attention_one_args &t, const one_row &r, one_room<SIZE> &room) {
  if constexpr (!OWN) {
    for (uint32_t i = threadIdx.x; i < r.heads * SIZE; i += THREADS)
      (&room.q[0][0])[i] =
          load_float(t.q, t.q_dtype, r.b * t.q_strides[0] + (r.first_h + i / SIZE) * t.q_strides[1] + i % SIZE);
  } else {
    for (uint32_t i = threadIdx.x; i < r.heads * (SIZE / 2); i += THREADS) {
      const uint32_t h = i / (SIZE / 2);
      const one_pair o = take_pair(t.own_q, t.q_dtype, SIZE, r.b, r.first_h + h, i % (SIZE / 2));
      room.q[h][o.at[0]] = o.of[0], room.q[h][o.at[1]] = o.of[1];
    }
  }
}

// ---- a segment ----

// Eight elements of two bytes, or of float32, as they lie: what they are is looked at when all have been asked for.
struct eight {
  uint4 a, b; // b: of float32
};
DEVICE void load_eight(const char *at, bool floats, eight *to) {
  to->a = *(const uint4 *)at;
  if (floats) to->b = *(const uint4 *)(at + 16);
}
DEVICE void floats_of(const eight &from, int dtype, float *to) {
  const uint32_t w[8] = {from.a.x, from.a.y, from.a.z, from.a.w, from.b.x, from.b.y, from.b.z, from.b.w};
  if (dtype == ML_F32) {
#pragma unroll
    for (int k = 0; k < 8; k++) to[k] = bits_float(w[k]);
    return;
  }
#pragma unroll
  for (int k = 0; k < 4; k++) {
    to[2 * k] = dtype == ML_F16 ? f16_float((uint16_t)w[k]) : bits_float(w[k] << 16);
    to[2 * k + 1] = dtype == ML_F16 ? f16_float((uint16_t)(w[k] >> 16)) : high_bf16(w[k]);
  }
}

// Of the h-th head of a block.
template <int SIZE>
DEVICE float *part_at(const cu_attention_one_args &t, const one_row &r, uint32_t h, uint32_t segment) {
  const uint64_t head = (uint64_t)r.b * (uint32_t)t.heads + r.first_h + h;
  return t.parts + (head * (uint32_t)t.segments + segment) * (BEFORE_VALUES + SIZE);
}

// SIZE elements of a head lie in SIZE / 8 lanes; a warp takes so many positions at once. What a lane has of them.
template <int SIZE> struct one_segment {
  static constexpr int lanes = SIZE / 8, abreast = WARP / lanes, each = SEGMENT / (WARPS * abreast);
  eight ks[each], vs[each];
  bool sees[each];
};

// The place in its segment of the n-th position of a lane.
template <int SIZE> DEVICE int place_of(int n) {
  return (n * WARPS + (int)threadIdx.x / WARP) * one_segment<SIZE>::abreast +
         (int)threadIdx.x % WARP / one_segment<SIZE>::lanes;
}

// Keys and values as they lie in their page; without the last position's, where those come from elsewhere.
template <int SIZE, bool OWN>
DEVICE void load_segment(const cu_attention_one_args &t, const one_row &r, uint32_t segment, one_segment<SIZE> *to) {
  const int own = (int)threadIdx.x % one_segment<SIZE>::lanes * 8;
  const bool floats = t.kv_dtype == ML_F32;
  const int item = floats ? 4 : 2;
  uint32_t first;
  const int64_t page = find_page(t, r, segment * SEGMENT, &first);
  const char *k_at = t.k + (page * t.k_strides[0] + r.kv * t.k_strides[1] + first * t.k_strides[2] + own) * item;
  const char *v_at = t.v + (page * t.v_strides[0] + r.kv * t.v_strides[1] + first * t.v_strides[2] + own) * item;
#pragma unroll
  for (int n = 0; n < one_segment<SIZE>::each; n++) {
    const int at = place_of<SIZE>(n), j = (int)segment * SEGMENT + at;
    to->sees[n] = page >= 0 && j >= r.lo && j < r.hi;
    to->ks[n].a.x = to->ks[n].a.y = to->ks[n].a.z = to->ks[n].a.w = 0;
    to->ks[n].b = to->vs[n].a = to->vs[n].b = to->ks[n].a;
    if (!to->sees[n] || (OWN && j == r.hi - 1)) continue;
    load_eight(k_at + at * t.k_strides[2] * item, floats, &to->ks[n]);
    load_eight(v_at + at * t.v_strides[2] * item, floats, &to->vs[n]);
  }
}

template <int SIZE, bool OWN>
DEVICE void attend_segment(const cu_attention_one_args &t, const one_row &r, uint32_t segment, one_segment<SIZE> &of,
                           one_room<SIZE> &room) {
  enum { LANES = one_segment<SIZE>::lanes, EACH = one_segment<SIZE>::each };
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, own = lane % LANES * 8;
  const bool floats = t.kv_dtype == ML_F32;
  const int item = floats ? 4 : 2;
  if (OWN) {
#pragma unroll
    for (int n = 0; n < EACH; n++) {
      if ((int)segment * SEGMENT + place_of<SIZE>(n) != r.hi - 1) continue;
      load_eight((const char *)room.own[0] + own * item, floats, &of.ks[n]);
      load_eight((const char *)room.own[1] + own * item, floats, &of.vs[n]);
    }
  }
  float k[EACH][8];
#pragma unroll
  for (int n = 0; n < EACH; n++) floats_of(of.ks[n], t.kv_dtype, k[n]);
#pragma unroll 1
  for (uint32_t h = 0; h < r.heads; h++) {
    float q[8], dots[EACH];
#pragma unroll
    for (int i = 0; i < 8; i++) q[i] = room.q[h][own + i];
#pragma unroll
    for (int n = 0; n < EACH; n++) {
      dots[n] = 0;
#pragma unroll
      for (int i = 0; i < 8; i++) dots[n] = fmaf(q[i], k[n][i], dots[n]);
    }
#pragma unroll
    for (int by = LANES / 2; by > 0; by /= 2) {
#pragma unroll
      for (int n = 0; n < EACH; n++) dots[n] += shuffle(dots[n], by);
    }
#pragma unroll
    for (int n = 0; n < EACH; n++) {
      float score = dots[n] * t.scale;
      if (t.softcap > 0) score = t.softcap * tanhf(score / t.softcap);
      if (lane % LANES == 0) room.p[h][place_of<SIZE>(n)] = of.sees[n] ? score : -INFINITY;
    }
  }
  __syncthreads();
  if (warp < (int)r.heads) { // a head each
    const float a = room.p[warp][lane], b = room.p[warp][lane + WARP];
    float max = b > a ? b : a;
#pragma unroll
    for (int by = WARP / 2; by > 0; by /= 2) {
      const float other = shuffle(max, by);
      max = other > max ? other : max;
    }
    const float pa = a == -INFINITY ? 0.0f : expf(a - max), pb = b == -INFINITY ? 0.0f : expf(b - max);
    float sum = pa + pb;
#pragma unroll
    for (int by = WARP / 2; by > 0; by /= 2) sum += shuffle(sum, by);
    room.p[warp][lane] = pa, room.p[warp][lane + WARP] = pb;
    float *part = part_at<SIZE>(t, r, (uint32_t)warp, segment);
    if (lane == 0) part[0] = max, part[1] = sum;
  }
  __syncthreads();
  float v[EACH][8];
#pragma unroll
  for (int n = 0; n < EACH; n++) floats_of(of.vs[n], t.kv_dtype, v[n]);
#pragma unroll 1
  for (uint32_t first_h = 0; first_h < r.heads; first_h += one_room<SIZE>::abreast) {
    const uint32_t last_h = r.heads - first_h < one_room<SIZE>::abreast ? r.heads : first_h + one_room<SIZE>::abreast;
#pragma unroll 1
    for (uint32_t h = first_h; h < last_h; h++) {
      float o[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll
      for (int n = 0; n < EACH; n++) {
        const float p = room.p[h][place_of<SIZE>(n)];
#pragma unroll
        for (int i = 0; i < 8; i++) o[i] = fmaf(p, v[n][i], o[i]);
      }
#pragma unroll
      for (int by = LANES; by < WARP; by *= 2) {
#pragma unroll
        for (int i = 0; i < 8; i++) o[i] += shuffle(o[i], by);
      }
      if (lane < LANES) {
#pragma unroll
        for (int i = 0; i < 8; i++) room.o[h - first_h][warp][own + i] = o[i];
      }
    }
    __syncthreads();
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < (last_h - first_h) * SIZE; i += THREADS) {
      const uint32_t h = i / SIZE, e = i % SIZE;
      float sum = room.o[h][0][e];
#pragma unroll
      for (int w = 1; w < WARPS; w++) sum += room.o[h][w][e];
      part_at<SIZE>(t, r, first_h + h, segment)[BEFORE_VALUES + e] = sum;
    }
    __syncthreads();
  }
}

// Element e of a head's result.
DEVICE_CALL void put_one(const cu_attention_one_args &t, uint32_t b, uint32_t h, int e, float f) {
  slot s;
  s.u = 0, s.f = f;
  if (t.tail.program) run_tail(t.tail, (int64_t)b * t.heads + h, e, s);
  else store_slot(t.out, t.out_dtype, b * t.out_strides[0] + h * t.out_strides[1] + e, s);
}

// Parts of the heads of a chunk, in the order of the positions. What each part counts is found first, by a warp a head,
// MOST_PARTS of them at a time.
static constexpr uint32_t MOST_PARTS = SEGMENT;
template <int SIZE>
DEVICE void join_parts(const cu_attention_one_args &t, const one_row &r, uint32_t first, uint32_t last,
                       one_room<SIZE> &room) {
  enum { EACH = MOST_HEADS * SIZE / THREADS, STEP = BEFORE_VALUES + SIZE };
  const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  float o[EACH];
#pragma unroll
  for (int n = 0; n < EACH; n++) o[n] = 0;
  float max = -INFINITY, sum = 0, own = 0; // own: a lane's part of the sum
  if (warp < r.heads) {
    const float *parts = part_at<SIZE>(t, r, warp, 0);
    for (uint32_t g = first + lane; g < last; g += WARP) {
      const float m = fresh(parts + g * STEP);
      max = m > max ? m : max;
    }
#pragma unroll
    for (int by = WARP / 2; by > 0; by /= 2) {
      const float other = shuffle(max, by);
      max = other > max ? other : max;
    }
    if (t.sinks.data) {
      const float sink = load_float(t.sinks.data, t.sinks.dtype, (r.first_h + warp) * t.sinks.stride);
      max = sink > max ? sink : max;
      sum = expf(sink - max);
    }
  }
#pragma unroll 1
  for (uint32_t g0 = first; g0 < last; g0 += MOST_PARTS) {
    const uint32_t n = last - g0 < MOST_PARTS ? last - g0 : MOST_PARTS;
    __syncthreads();
    for (uint32_t i = lane; i < n && warp < r.heads; i += WARP) {
      const float *part = part_at<SIZE>(t, r, warp, g0 + i);
      const float top = fresh(part), share = top == -INFINITY ? 0.0f : expf(top - max);
      room.p[warp][i] = share, own += fresh(part + 1) * share;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < EACH; k++) {
      const uint32_t at = k * THREADS + threadIdx.x, h = at / SIZE;
      if (h >= r.heads) continue;
      const float *part = part_at<SIZE>(t, r, h, g0) + BEFORE_VALUES + at % SIZE;
#pragma unroll 8
      for (uint32_t i = 0; i < n; i++) o[k] += fresh(part + i * STEP) * room.p[h][i];
    }
  }
#pragma unroll
  for (int by = WARP / 2; by > 0; by /= 2) own += shuffle(own, by);
  if (warp < r.heads && lane == 0) room.max[warp] = max, room.sum[warp] = sum + own;
  __syncthreads();
#pragma unroll
  for (int k = 0; k < EACH; k++) {
    const uint32_t at = k * THREADS + threadIdx.x, h = at / SIZE;
    if (h >= r.heads) continue;
    const bool any = first < last && room.max[h] > -INFINITY; // a row that sees nothing gives zeros
    put_one(t, r.b, r.first_h + h, at % SIZE, any ? o[k] / room.sum[h] : 0.0f);
  }
}

template <int SIZE, bool OWN> DEVICE void attend_one(const cu_attention_one_args &t) {
  __shared__ one_room<SIZE> room;
  one_row r;
  one_segment<SIZE> segment;
  const bool early = OWN && t.early;
  let_next_start();
  if (!early) wait_for_all();
  const bool found = find_row(t, &r);
  const uint32_t first = begin_of(r), last = end_of(r);
  // Of the blocks of a chunk those that have something to do, and the first.
  uint32_t parties = last > first ? last - first : 1;
  if (parties > r.workers) parties = r.workers;
  const bool works = found && r.worker < parties;
  if (works && first < last) load_segment<SIZE, OWN>(t, r, first + r.worker, &segment);
  if (early) wait_for_all();
  if (!works) return;
  load_queries<SIZE, OWN>(t, r, room);
  if (OWN && first < last && (last - 1 - first) % r.workers == r.worker) take_own<SIZE>(t, r, room);
  __syncthreads();
#pragma unroll 1
  for (uint32_t g = first + r.worker; g < last; g += r.workers) {
    if (g >= first + r.workers) load_segment<SIZE, OWN>(t, r, g, &segment);
    attend_segment<SIZE, OWN>(t, r, g, segment, room);
  }
  if (parties > 1) {
    fence();
    __syncthreads();
    if (threadIdx.x == 0) {
      room.last = atomicAdd(&t.counts[r.count], 1) == (int)parties - 1;
      if (room.last) t.counts[r.count] = 0; // for the next launch
      fence();
    }
    __syncthreads();
    if (!room.last) return;
  }
  join_parts<SIZE>(t, r, first, last, room);
}

#define ATTENTION_ONE(SIZE)                                                                                            \
  KERNEL_EARLY(cuda_attention_one_##SIZE, cu_attention_one_args, THREADS, 2) { attend_one<SIZE, false>(t); }           \
  KERNEL_EARLY(cuda_attention_own_##SIZE, cu_attention_one_args, THREADS, 2) { attend_one<SIZE, true>(t); }
ATTENTION_ONE(64)
ATTENTION_ONE(128)
ATTENTION_ONE(256)
