// attention_many.cu: attention of many queries on tensor cores, where it need not have the bits that one alone would
// give.
//
// Bytes: keys and values once for every ROWS queries of a head, mostly from the cache; flops: 4 d for each key that a
// row sees. A block takes ROWS queries of a head, a warp 16 of them, and KEYS keys at a time, which begin at fixed
// places: a running maximum and sum a row, what was summed before counting less where a larger score comes. What a row
// does not see adds nothing to it, so that its bits depend on its own keys alone. Weights of the values are rounded to
// their dtype.
#include "gpu/attention.cuh"
#include "gpu/tensor_cores.cuh"

enum { ROWS = 64, KEYS = 64, WARPS = ROWS / 16, THREADS = WARPS * WARP };
#define LOG2_E 1.4426950408889634f

template <int SIZE> DEVICE char *line_of(char *tile, int row, int line) {
  return tile + row * (SIZE * 2) + ((line ^ row % 8) << 4);
}

// Rows first.. of KEYS or ROWS rows, the first of which lies at `from`; those from begin to end - 1 are read, others
// are zero.
template <int SIZE>
DEVICE void load_tile(char *to, const char *from, int64_t step, int64_t first, int64_t begin, int64_t end) {
  const int lo = (int)max64(begin - first, 0), hi = (int)max64(min64(end - first, 64), 0);
#pragma unroll
  for (int i = 0; i < 64 * SIZE / 8 / THREADS; i++) {
    const int n = i * THREADS + threadIdx.x, r = n / (SIZE / 8), line = n % (SIZE / 8);
    char *own = line_of<SIZE>(to, r, line);
    if (r >= lo && r < hi) copy_16(own, from + r * step + line * 16);
    else {
      uint4 zero;
      zero.x = zero.y = zero.z = zero.w = 0;
      *(uint4 *)own = zero;
    }
  }
}

DEVICE_CALL float cap(float f, float most) { return most * tanhf(f / most); }

template <int X, int SIZE> struct many {
  static constexpr int of_tile = 64 * SIZE * 2, DEPTH = SIZE / 16;
  const cu_attention_args &t;
  const row_keys &r;
  int64_t first_row, lo[2], hi[2]; // of the lane's two rows
  float max[2], sum[2], o[SIZE / 8][4];

  DEVICE_MEMBER many(const cu_attention_args &args, const row_keys &keys, int64_t first)
      : t(args), r(keys), first_row(first) {
    for (int i = 0; i < 2; i++) {
      see(t, r, min64(row(i), t.q.shape[2] - 1), &lo[i], &hi[i]);
      max[i] = -INFINITY, sum[i] = 0;
    }
#pragma unroll
    for (int i = 0; i < SIZE / 8; i++) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
  }
  DEVICE_MEMBER int64_t row(int i) const {
    return first_row + threadIdx.x / WARP * 16 + i * 8 + threadIdx.x % WARP / 4;
  }

  // Takes KEYS keys from `first` on.
  DEVICE_MEMBER void take(const uint32_t (*q)[4], char *keys, char *values, int64_t first) {
    const int lane = threadIdx.x % WARP;
    float s[KEYS / 8][4];
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
#pragma unroll
      for (int n = 0; n < KEYS / 16; n++) {
        uint32_t b[4];
        load_matrices(b, line_of<SIZE>(keys, n * 16 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
        multiply_matrices<X>(s[2 * n], q[k], b);
        multiply_matrices<X>(s[2 * n + 1], q[k], b + 2);
      }
    }
    score(s, first);
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
      const uint32_t a[4] = {pack_pair<X>(s[2 * k][0], s[2 * k][1]), pack_pair<X>(s[2 * k][2], s[2 * k][3]),
                             pack_pair<X>(s[2 * k + 1][0], s[2 * k + 1][1]),
                             pack_pair<X>(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
      for (int n = 0; n < SIZE / 16; n++) {
        uint32_t b[4];
        load_turned_matrices(b, line_of<SIZE>(values, k * 16 + lane % 16, n * 2 + lane / 16));
        multiply_matrices<X>(o[2 * n], a, b);
        multiply_matrices<X>(o[2 * n + 1], a, b + 2);
      }
    }
  }

  // From products to what each key counts, below the largest so far.
  DEVICE_MEMBER void score(float (*s)[4], int64_t first) {
    float top[2] = {max[0], max[1]};
    const float by_two = t.scale * LOG2_E; // exponentials are powers of two
    const bool capped = t.softcap > 0;
    if (capped) {
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) s[n][i] = cap(s[n][i] * t.scale, t.softcap) * LOG2_E;
      }
    } else {
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) s[n][0] *= by_two, s[n][1] *= by_two, s[n][2] *= by_two, s[n][3] *= by_two;
    }
    // Of most tiles every row sees all keys.
    int begin[2], end[2];
    bool whole = true;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      begin[i] = (int)max64(lo[i] - first, 0) - threadIdx.x % 4 * 2;
      end[i] = (int)max64(min64(hi[i] - first, KEYS), 0) - threadIdx.x % 4 * 2;
      whole = whole && lo[i] <= first && hi[i] >= first + KEYS;
    }
    if (!whole) {
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int j = n * 8 + i % 2;
          if (j < begin[i / 2] || j >= end[i / 2]) s[n][i] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) top[i / 2] = s[n][i] > top[i / 2] ? s[n][i] : top[i / 2];
    }
    float base[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      for (int by = 1; by < 4; by *= 2) {
        const float other = shuffle(top[i], by);
        top[i] = other > top[i] ? other : top[i];
      }
      base[i] = top[i] == -INFINITY ? 0.0f : top[i];
      const float keep = power_of_two(max[i] - base[i]);
      max[i] = top[i], sum[i] *= keep;
#pragma unroll
      for (int n = 0; n < SIZE / 8; n++) o[n][2 * i] *= keep, o[n][2 * i + 1] *= keep;
    }
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) s[n][i] = power_of_two(s[n][i] - base[i / 2]), sum[i / 2] += s[n][i];
    }
  }

  DEVICE_MEMBER void finish() {
    const cu_array &out = t.out;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      for (int by = 1; by < 4; by *= 2) sum[i] += shuffle(sum[i], by);
      float keep = 1;
      if (t.sinks.data) {
        const float sink = load_float(t.sinks.data, t.sinks.dtype, r.h * t.sinks.stride) * LOG2_E;
        const float top = sink > max[i] ? sink : max[i];
        keep = exp2f(max[i] - top);
        sum[i] = sum[i] * keep + exp2f(sink - top);
      }
      const float share = max[i] == -INFINITY ? 0.0f : keep / sum[i]; // a row that sees nothing gives zeros
      const int64_t pos = row(i);
      if (pos >= t.q.shape[2]) continue;
#pragma unroll
      for (int n = 0; n < SIZE / 8; n++) {
        const int e = n * 8 + threadIdx.x % 4 * 2;
        const int64_t to = r.b * out.strides[0] + r.h * out.strides[1] + pos * out.strides[2] + e;
        if (!t.tail.program && out.dtype == X && ((uintptr_t)out.data + to * 2) % 4 == 0) {
          *(uint32_t *)(out.data + to * 2) = pack_pair<X>(o[n][2 * i] * share, o[n][2 * i + 1] * share);
          continue;
        }
        for (int k = 0; k < 2; k++) {
          slot s;
          s.u = 0, s.f = o[n][2 * i + k] * share;
          put_one(t, (r.b * t.q.shape[1] + r.h) * t.q.shape[2] + pos, to + k, e + k, s);
        }
      }
    }
  }
};

template <int X, int SIZE> DEVICE void attend_many(const cu_attention_args &t, char *room) {
  enum { OF_TILE = 64 * SIZE * 2 };
  char *queries = room, *keys[2] = {room + OF_TILE, room + 2 * OF_TILE},
       *values[2] = {room + 3 * OF_TILE, room + 4 * OF_TILE};
  const cu_array &q = t.q;
  const int64_t T = q.shape[2],
                first_row = (gridDim.x - 1 - blockIdx.x) * (int64_t)ROWS; // those that see most come first
  row_keys r;
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  if (!find_keys(t, blockIdx.y * T + first_row, &r)) return;
  int64_t lo, hi, unused;
  see(t, r, first_row, &lo, &unused);
  see(t, r, max64(first_row, min64(min64(first_row + ROWS, T), r.queries) - 1), &unused, &hi);
  const int64_t q_at = r.b * q.strides[0] + r.h * q.strides[1] + first_row * q.strides[2];
  load_tile<SIZE>(queries, q.data + q_at * 2, q.strides[2] * 2, first_row, 0, T);
  const int64_t first = lo / KEYS * KEYS;
  auto load_keys = [&](int64_t j, int turn) { // all of one page
    key_place place = first_place(t, r);
    const int64_t end = lo < hi && find_place(t, r, j, &place) ? hi : lo;
    load_tile<SIZE>(keys[turn], key_at(t, place, j), t.k.strides[2] * 2, j, lo, end);
    load_tile<SIZE>(values[turn], value_at(t, place, j), t.v.strides[2] * 2, j, lo, end);
  };
  load_keys(first, 0);
  close_copies();
  many<X, SIZE> rows(t, r, first_row);
  uint32_t qs[SIZE / 16][4];
  int turn = 0;
  for (int64_t j = first; j < hi; j += KEYS, turn = !turn) {
    wait_copies<0>();
    __syncthreads();
    if (j == first) {
#pragma unroll
      for (int k = 0; k < SIZE / 16; k++)
        load_matrices(qs[k], line_of<SIZE>(queries, warp * 16 + lane % 16, k * 2 + lane / 16));
    }
    if (j + KEYS < hi) load_keys(j + KEYS, !turn);
    close_copies();
    rows.take(qs, keys[turn], values[turn], j);
  }
  rows.finish();
}

#define MANY(name, X, SIZE)                                                                                            \
  KERNEL_EARLY(cuda_attention_many_##name, cu_attention_args, THREADS, 2) {                                            \
    let_next_start();                                                                                                  \
    wait_for_all();                                                                                                    \
    DYNAMIC_SHARED(float4, room);                                                                                      \
    attend_many<X, SIZE>(t, (char *)room);                                                                             \
  }
MANY(bfloat16_64, ML_BF16, 64)
MANY(bfloat16_128, ML_BF16, 128)
MANY(float16_64, ML_F16, 64)
MANY(float16_128, ML_F16, 128)
