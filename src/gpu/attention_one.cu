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

// Eight elements of two bytes, or of float32 two times four.
DEVICE void load_eight(const char *row, int dtype, int i, float *to) {
  if (dtype == ML_F32) {
    const float4 a = *(const float4 *)(row + i * 4), b = *(const float4 *)(row + i * 4 + 16);
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w, to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
    return;
  }
  const uint4 v = *(const uint4 *)(row + i * 2);
  const uint32_t w[4] = {v.x, v.y, v.z, v.w};
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
  float k[EACH][8], v[EACH][8];
  bool sees[EACH];
  const int64_t begin = max64(r.lo, segment * SEGMENT), end = min64(r.hi, (segment + 1) * SEGMENT);
  key_place place = first_place(t, r);
  const bool there = find_place(t, r, begin, &place); // all of one page
#pragma unroll
  for (int n = 0; n < EACH; n++) {
    const int64_t j = segment * SEGMENT + (n * WARPS + warp) * ABREAST + lane / LANES;
    sees[n] = there && j >= begin && j < end;
    if (sees[n]) {
      load_eight(key_at(t, place, j), t.k.dtype, own, k[n]);
      load_eight(value_at(t, place, j), t.v.dtype, own, v[n]);
    }
#pragma unroll
    for (int i = 0; i < 8 && !sees[n]; i++) k[n][i] = v[n][i] = 0;
  }
#pragma unroll
  for (int n = 0; n < EACH; n++) {
    for (int h = 0; h < heads; h++) {
      float dot = 0;
#pragma unroll
      for (int i = 0; i < 8; i++) dot = fmaf(room.q[h][own + i], k[n][i], dot);
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

// Parts of a head, in the order of the positions.
DEVICE void join_parts(const cu_attention_args &t, const row_keys &r, int64_t head, int64_t h, int64_t first,
                       int64_t last, int e) {
  float max = -INFINITY, sum = 0, o = 0;
  for (int64_t g = first; g < last; g++) {
    const float m = fresh(part_at(t, head, g));
    max = m > max ? m : max;
  }
  if (t.sinks.data) {
    const float sink = load_float(t.sinks.data, t.sinks.dtype, h * t.sinks.stride);
    max = sink > max ? sink : max;
    sum = expf(sink - max);
  }
#pragma unroll 8
  for (int64_t g = first; g < last; g++) {
    const float *part = part_at(t, head, g);
    const float top = fresh(part), share = top == -INFINITY ? 0.0f : expf(top - max);
    sum += fresh(part + 1) * share;
    o += fresh(part + BEFORE_VALUES + e) * share;
  }
  slot s;
  s.u = 0;
  s.f = first < last && max > -INFINITY ? o / sum : 0.0f; // a row that sees nothing gives zeros
  if (t.tail.program) run_tail(t.tail, r.b * t.q.shape[1] + h, e, s);
  else store_slot(t.out.data, t.out.dtype, r.b * t.out.strides[0] + h * t.out.strides[1] + e, s);
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
  for (int i = threadIdx.x; i < heads * SIZE; i += THREADS)
    join_parts(t, r, b * H + first_h + i / SIZE, first_h + i / SIZE, first, last, i % SIZE);
}

KERNEL(cuda_attention_one_64, cu_attention_args) { attend_one<64>(t); }
KERNEL(cuda_attention_one_128, cu_attention_args) { attend_one<128>(t); }
KERNEL(cuda_attention_one_256, cu_attention_args) { attend_one<256>(t); }
