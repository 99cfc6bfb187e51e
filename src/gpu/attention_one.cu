// attention_one.cu: attention of one query a sequence, where that need not have the bits that many would give.
//
// Bytes: the keys and values that are seen, once; flops: 4 d for each of them and each query head. A block takes the
// query heads of one KV head and SEGMENT positions at a time, which begin at fixed places; the block that comes to its
// end last joins what all have found, in the order of the positions. So the bits depend on the row's own keys alone.
#include "gpu/attention.cuh"

enum { THREADS = 256, WARPS = THREADS / WARP, SEGMENT = 64, MOST_HEADS = 8, MOST_SIZE = 256 };
enum { BEFORE_VALUES = 2 }; // of a part: the largest score, the sum of exponentials below it

struct one_room {
  float q[MOST_HEADS][MOST_SIZE], p[MOST_HEADS][SEGMENT], max[MOST_HEADS], sum[MOST_HEADS];
  float o[WARPS][MOST_SIZE];
  int last;
};

// Eight elements of two bytes, or of float32, as they lie: what they are is looked at when all have been asked for.
struct eight {
  uint4 a, b; // b: of float32
};
DEVICE void load_eight(const char *row, bool floats, int i, eight *to) {
  const char *at = row + i * (floats ? 4 : 2);
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

DEVICE float *part_at(const cu_attention_args &t, int64_t head, int64_t segment) {
  return t.parts + (head * t.segments + segment) * (BEFORE_VALUES + t.v.shape[3]);
}

// SIZE elements of a head lie in SIZE / 8 lanes; a warp takes so many positions at once.
template <int SIZE>
DEVICE void attend_segment(const cu_attention_args &t, const row_keys &r, int heads, int64_t first_head,
                           int64_t segment, one_room &room) {
  enum { LANES = SIZE / 8, ABREAST = WARP / LANES, EACH = SEGMENT / (WARPS * ABREAST) };
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, own = lane % LANES * 8;
  eight ks[EACH], vs[EACH];
  bool sees[EACH];
  const bool floats = t.k.dtype == ML_F32;
  const int64_t begin = max64(r.lo, segment * SEGMENT), end = min64(r.hi, (segment + 1) * SEGMENT);
  key_place place = first_place(t, r);
  const bool there = find_place(t, r, begin, &place); // all of one page
#pragma unroll
  for (int n = 0; n < EACH; n++) {
    const int64_t j = segment * SEGMENT + (n * WARPS + warp) * ABREAST + lane / LANES;
    sees[n] = there && j >= begin && j < end;
    ks[n].a.x = ks[n].a.y = ks[n].a.z = ks[n].a.w = 0;
    ks[n].b = vs[n].a = vs[n].b = ks[n].a;
    if (!sees[n]) continue;
    load_eight(key_at(t, place, j), floats, own, &ks[n]);
    load_eight(value_at(t, place, j), floats, own, &vs[n]);
  }
#pragma unroll
  for (int n = 0; n < EACH; n++) {
    float k[8];
    floats_of(ks[n], t.k.dtype, k);
    for (int h = 0; h < heads; h++) {
      float dot = 0;
#pragma unroll
      for (int i = 0; i < 8; i++) dot = fmaf(room.q[h][own + i], k[i], dot);
#pragma unroll
      for (int by = LANES / 2; by > 0; by /= 2) dot += shuffle(dot, by);
      float score = dot * t.scale;
      if (t.softcap > 0) score = t.softcap * tanhf(score / t.softcap);
      if (lane % LANES == 0) room.p[h][(n * WARPS + warp) * ABREAST + lane / LANES] = sees[n] ? score : -INFINITY;
    }
  }
  __syncthreads();
  if (warp < heads) { // a head each
    const float a = room.p[warp][lane], b = room.p[warp][lane + WARP];
    float max = b > a ? b : a;
    for (int by = WARP / 2; by > 0; by /= 2) {
      const float other = shuffle(max, by);
      max = other > max ? other : max;
    }
    const float pa = a == -INFINITY ? 0.0f : expf(a - max), pb = b == -INFINITY ? 0.0f : expf(b - max);
    float sum = pa + pb;
    for (int by = WARP / 2; by > 0; by /= 2) sum += shuffle(sum, by);
    room.p[warp][lane] = pa, room.p[warp][lane + WARP] = pb;
    if (lane == 0) room.max[warp] = max, room.sum[warp] = sum;
  }
  __syncthreads();
  float v[EACH][8];
#pragma unroll
  for (int n = 0; n < EACH; n++) floats_of(vs[n], t.v.dtype, v[n]);
  for (int h = 0; h < heads; h++) {
    float o[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll
    for (int n = 0; n < EACH; n++) {
      const float p = room.p[h][(n * WARPS + warp) * ABREAST + lane / LANES];
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
      for (int i = 0; i < 8; i++) room.o[warp][own + i] = o[i];
    }
    __syncthreads();
    float *part = part_at(t, first_head + h, segment);
    if (threadIdx.x == 0) part[0] = room.max[h], part[1] = room.sum[h];
    for (int e = threadIdx.x; e < SIZE; e += THREADS) {
      float sum = room.o[0][e];
#pragma unroll
      for (int w = 1; w < WARPS; w++) sum += room.o[w][e];
      part[BEFORE_VALUES + e] = sum;
    }
    __syncthreads();
  }
}

// Parts of the heads of a chunk, in the order of the positions. What each part counts is found first, by a warp a head,
// MOST_PARTS of them at a time.
enum { MOST_PARTS = 64 };
template <int SIZE>
DEVICE void join_parts(const cu_attention_args &t, const row_keys &r, int heads, int64_t first_head, int64_t first_h,
                       int64_t first, int64_t last, one_room &room) {
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  enum { EACH = MOST_HEADS * SIZE / THREADS };
  float o[EACH];
#pragma unroll
  for (int n = 0; n < EACH; n++) o[n] = 0;
  float max = -INFINITY, sum = 0, own = 0; // own: a lane's part of the sum
  if (warp < heads) {
    for (int64_t g = first + lane; g < last; g += WARP) {
      const float m = fresh(part_at(t, first_head + warp, g));
      max = m > max ? m : max;
    }
    for (int by = WARP / 2; by > 0; by /= 2) {
      const float other = shuffle(max, by);
      max = other > max ? other : max;
    }
    if (t.sinks.data) {
      const float sink = load_float(t.sinks.data, t.sinks.dtype, (first_h + warp) * t.sinks.stride);
      max = sink > max ? sink : max;
      sum = expf(sink - max);
    }
  }
  for (int64_t g0 = first; g0 < last; g0 += MOST_PARTS) {
    const int n = (int)min64(MOST_PARTS, last - g0);
    __syncthreads();
    for (int i = lane; i < n && warp < heads; i += WARP) {
      const float *part = part_at(t, first_head + warp, g0 + i);
      const float top = fresh(part), share = top == -INFINITY ? 0.0f : expf(top - max);
      room.p[warp][i] = share, own += fresh(part + 1) * share;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < EACH; k++) {
      const int at = k * THREADS + threadIdx.x, h = at / SIZE;
      if (h >= heads) continue;
      const float *part = part_at(t, first_head + h, g0) + BEFORE_VALUES + at % SIZE;
#pragma unroll 16
      for (int i = 0; i < n; i++) o[k] += fresh(part + i * (BEFORE_VALUES + SIZE)) * room.p[h][i];
    }
  }
  for (int by = WARP / 2; by > 0; by /= 2) own += shuffle(own, by);
  if (warp < heads && lane == 0) room.max[warp] = max, room.sum[warp] = sum + own;
  __syncthreads();
#pragma unroll
  for (int k = 0; k < EACH; k++) {
    const int at = k * THREADS + threadIdx.x, h = at / SIZE, e = at % SIZE;
    if (h >= heads) continue;
    slot s;
    s.u = 0;
    s.f = first < last && room.max[h] > -INFINITY ? o[k] / room.sum[h] : 0.0f; // a row that sees nothing gives zeros
    put_one(t, r.b * t.q.shape[1] + first_h + h, r.b * t.out.strides[0] + (first_h + h) * t.out.strides[1] + e, e, s);
  }
}

template <int SIZE> DEVICE void attend_one(const cu_attention_args &t) {
  __shared__ one_room room;
  const cu_array &q = t.q;
  int64_t b = blockIdx.x;
  const int64_t chunk = pop(&b, t.chunks), H = q.shape[1], group = H / t.k.shape[1];
  const int64_t in_group = (group + MOST_HEADS - 1) / MOST_HEADS; // chunks of a KV head
  const int64_t first_h = chunk / in_group * group + chunk % in_group * MOST_HEADS;
  const int heads = (int)min64(MOST_HEADS, group - chunk % in_group * MOST_HEADS);
  row_keys r;
  const bool found = find_keys(t, b * H + first_h, &r);
  const int64_t first = found ? r.lo / SEGMENT : 0, last = found ? (r.hi + SEGMENT - 1) / SEGMENT : 0;
  for (int i = threadIdx.x; i < heads * SIZE; i += THREADS)
    room.q[i / SIZE][i % SIZE] =
        load_float(q.data, q.dtype, b * q.strides[0] + (first_h + i / SIZE) * q.strides[1] + i % SIZE);
  __syncthreads();
  for (int64_t g = first + blockIdx.y; g < last; g += gridDim.y)
    attend_segment<SIZE>(t, r, heads, b * H + first_h, g, room);
  fence();
  __syncthreads();
  // Of the blocks of a row those that had something to do, and the first.
  const int64_t parties = max64(1, min64(gridDim.y, last - first));
  if (blockIdx.y >= parties) return;
  if (threadIdx.x == 0) {
    room.last = atomicAdd(&t.counts[blockIdx.x], 1) == parties - 1;
    if (room.last) t.counts[blockIdx.x] = 0; // for the next launch
    fence();
  }
  __syncthreads();
  if (!room.last || !found) return;
  join_parts<SIZE>(t, r, heads, b * H + first_h, first_h, first, last, room);
}

KERNEL(cuda_attention_one_64, cu_attention_args) { attend_one<64>(t); }
KERNEL(cuda_attention_one_128, cu_attention_args) { attend_one<128>(t); }
KERNEL(cuda_attention_one_256, cu_attention_args) { attend_one<256>(t); }
