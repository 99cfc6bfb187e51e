// row.cuh: norms, softmax and reductions of one row, by one block.
//
// Thread i of a block takes elements i, i + threads, ... (or runs of them); sums are float64 in that order, then over a
// warp by halves, then warp after warp. With as many threads as ml_cuda_row_threads says, the result depends on the
// row's length alone.
#ifndef ML_GPU_ROW_CUH
#define ML_GPU_ROW_CUH

#include "gpu/program.cuh"

enum { ROW_THREADS = 256, ROW_WARPS = ROW_THREADS / WARP };
// Elements that a reduction takes at once: longer ones are joined of such parts, in order.
enum { CHUNK = 2048 };

struct partial {
  double a, b; // sum, product, sum of squares; mean less base, squared distances from it; max, sum of exponentials
  union {
    int64_t k;   // integers' sum, product, truth; key of the largest
    double base; // of distances: beside it a mean loses no digits that they have
  };
  int64_t at; // index of the largest; upper half of a sum of 128 bits; sum of squares of bytes
};

struct add_up {
  template <typename T> DEVICE_MEMBER T operator()(T x, T y) const { return x + y; }
};
struct multiply_up {
  template <typename T> DEVICE_MEMBER T operator()(T x, T y) const { return x * y; }
};
struct take_larger { // NaN is passed over
  template <typename T> DEVICE_MEMBER T operator()(T x, T y) const { return y > x ? y : x; }
};
struct take_both {
  DEVICE_MEMBER int64_t operator()(int64_t x, int64_t y) const { return x & y; }
};
struct take_either {
  DEVICE_MEMBER int64_t operator()(int64_t x, int64_t y) const { return x | y; }
};

// What all threads of a block have, joined; every thread gets it.
template <typename T, typename JOIN> DEVICE T block_join(T v, JOIN join) {
  __shared__ T warps[ROW_WARPS];
  for (int by = WARP / 2; by > 0; by /= 2) v = join(v, shuffle(v, by));
  const int n = blockDim.x / WARP;
  if (n == 1) return v;
  __syncthreads();
  if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = v;
  __syncthreads();
  v = warps[0];
  for (int i = 1; i < n; i++) v = join(v, warps[i]);
  return v;
}

// ---- norms and softmax: GET gives element i as float, PUT takes it; both may be the same memory ----

enum { RUN = 8 }; // neighbours that a thread of a norm takes

// Elements first.. of a row of n, one by one; those behind it are `other`.
template <typename GET> DEVICE void load_each(int64_t first, int64_t n, GET get, float other, float *to) {
#pragma unroll
  for (int k = 0; k < RUN; k++) to[k] = first + k < n ? get(first + k) : other;
}

// The same of elements that lie side by side from `data` on.
DEVICE void load_run(const char *data, int dtype, int64_t first, int64_t n, float other, float *to) {
  const char *at = data + first * item_of(dtype);
  if (first + RUN > n || (uintptr_t)at % 16) {
    load_each(
        first, n, [&](int64_t i) { return load_float(data, dtype, i); }, other, to);
    return;
  }
  uint32_t w[RUN];
  const uint4 a = *(const uint4 *)at;
  w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w;
  if (dtype == ML_F32) {
    const uint4 b = *(const uint4 *)(at + 16);
    w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
#pragma unroll
    for (int k = 0; k < RUN; k++) to[k] = bits_float(w[k]);
    return;
  }
#pragma unroll
  for (int k = 0; k < RUN; k += 2) {
    to[k] = dtype == ML_F16 ? f16_float((uint16_t)w[k / 2]) : bits_float(w[k / 2] << 16);
    to[k + 1] = dtype == ML_F16 ? f16_float((uint16_t)(w[k / 2] >> 16)) : high_bf16(w[k / 2]);
  }
}

DEVICE void load_vector_run(const cu_vector &v, int64_t first, int64_t n, float other, float *to) {
  if (v.stride == 1) load_run(v.data, v.dtype, first, n, other, to);
  else
    load_each(
        first, n, [&](int64_t i) { return load_float(v.data, v.dtype, i * v.stride); }, other, to);
}

DEVICE void store_run(char *data, int dtype, int64_t first, int64_t n, const float *from) {
  char *at = data + first * item_of(dtype);
  if (dtype == ML_F32 || first + RUN > n || (uintptr_t)at % 16) {
    for (int k = 0; k < RUN && first + k < n; k++) store_float(data, dtype, first + k, from[k]);
    return;
  }
  uint32_t w[RUN / 2];
#pragma unroll
  for (int k = 0; k < RUN; k += 2) {
    const uint16_t low = dtype == ML_F16 ? float_f16(from[k]) : float_bf16(from[k]);
    const uint16_t high = dtype == ML_F16 ? float_f16(from[k + 1]) : float_bf16(from[k + 1]);
    w[k / 2] = low | (uint32_t)high << 16;
  }
  uint4 v;
  v.x = w[0], v.y = w[1], v.z = w[2], v.w = w[3];
  *(uint4 *)at = v;
}

// Thread i takes the runs i, i + threads, ...: GET(first, to) gives one of x and WEIGHT one of the weight, PUT(first,
// from) takes one. The first run is read once; `early`: its weights, where they have been read already.
template <typename GET, typename WEIGHT, typename PUT>
DEVICE void rms_norm_row(const cu_row_op &op, int64_t n, GET get, bool weighted, WEIGHT weight, PUT put,
                         bool is_early = false, const float *early = NULL) {
  const int64_t step = RUN * (int64_t)blockDim.x, own = RUN * (int64_t)threadIdx.x;
  float head[RUN];
  double sum = 0;
#pragma unroll
  for (int k = 0; k < RUN; k++) head[k] = 0;
  if (own < n) get(own, head);
#pragma unroll
  for (int k = 0; k < RUN; k++) sum += (double)head[k] * (double)head[k];
  for (int64_t first = own + step; first < n; first += step) {
    float x[RUN];
    get(first, x);
#pragma unroll
    for (int k = 0; k < RUN; k++) sum += (double)x[k] * (double)x[k];
  }
  const double scale = 1 / sqrt(block_join(sum, add_up()) / (double)n + (double)op.eps);
  for (int64_t first = own; first < n; first += step) {
    float x[RUN], w[RUN];
#pragma unroll
    for (int k = 0; k < RUN; k++) x[k] = head[k], w[k] = is_early ? early[k] : 1.0f;
    if (first != own) get(first, x);
    if (weighted && !(is_early && first == own)) weight(first, w);
#pragma unroll
    for (int k = 0; k < RUN; k++) {
      const float f = (float)((double)x[k] * scale);
      x[k] = weighted ? f * (op.offset == 0 ? w[k] : op.offset + w[k]) : f;
    }
    put(first, x);
  }
}

template <typename GET, typename WEIGHT, typename BIAS, typename PUT>
DEVICE void layer_norm_row(const cu_row_op &op, int64_t n, GET get, bool weighted, WEIGHT weight, bool biased,
                           BIAS bias, PUT put) {
  double sum = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += (double)get(i);
  const double mean = block_join(sum, add_up()) / (double)n;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const double x = (double)get(i) - mean;
    squares += x * x;
  }
  const double scale = 1 / sqrt(block_join(squares, add_up()) / (double)n + (double)op.eps);
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const float x = (float)(((double)get(i) - mean) * scale);
    put(i, x * (weighted ? weight(i) : 1.0f) + (biased ? bias(i) : 0.0f));
  }
}

DEVICE float exp_of(float x) { return expf(x); }
DEVICE double exp_of(double x) { return exp(x); }

template <typename T, typename GET, typename PUT> DEVICE void softmax_row(bool log_, int64_t n, GET get, PUT put) {
  T max = -(T)INFINITY;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) max = take_larger()(max, (T)get(i));
  max = block_join(max, take_larger());
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += (double)exp_of((T)get(i) - max);
  sum = block_join(sum, add_up());
  const T all = log_ ? (T)log(sum) : (T)sum;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
    put(i, log_ ? ((T)get(i) - max) - all : exp_of((T)get(i) - max) / all);
}

// ---- reductions ----

DEVICE double double_of(slot x, int dtype) {
  switch (class_of(dtype)) {
  case CF: return (double)x.f;
  case CD: return x.d;
  case CU: return (double)x.u;
  default: return (double)x.i;
  }
}

// Keys, integers in the order of the values; NaN has the largest. For the smallest they are turned round.
DEVICE int64_t key_of(slot x, int dtype, bool smallest, bool merge) {
  int64_t key;
  if (is_float(dtype)) {
    union {
      double d;
      int64_t i;
    } v;
    v.d = double_of(x, dtype);
    if (v.d != v.d) return INT64_MAX;
    if (merge && v.d == 0) v.d = 0;
    key = v.i ^ ((v.i >> 63) & INT64_MAX);
  } else key = dtype == ML_U64 ? x.i ^ INT64_MIN : x.i;
  return smallest ? ~key : key;
}
DEVICE slot value_of(int64_t key, int dtype, bool smallest) {
  slot s;
  s.u = 0;
  if (!is_float(dtype)) {
    if (smallest) key = ~key;
    s.i = dtype == ML_U64 ? key ^ INT64_MIN : key;
    return s;
  }
  union {
    double d;
    int64_t i;
  } v;
  if (key == INT64_MAX) v.d = NAN;
  else {
    if (smallest) key = ~key;
    v.i = key ^ ((key >> 63) & INT64_MAX);
  }
  if (dtype == ML_F64) s.d = v.d;
  else s.f = (float)v.d;
  return s;
}

DEVICE bool wants_index(int op) { return op == CU_OP_argmax || op == CU_OP_argmin; }
DEVICE bool wants_smallest(int op) { return op == CU_OP_min || op == CU_OP_argmin; }

DEVICE void join_key(int64_t key, int64_t at, int64_t *best, int64_t *best_at) {
  if (at >= 0 && (*best_at < 0 || key > *best || (key == *best && at < *best_at))) *best = key, *best_at = at;
}

// Of what the threads of a block have found; every thread gets it.
DEVICE void choose_best(partial *p, int64_t key, int64_t at) {
  __shared__ int64_t keys[ROW_WARPS], places[ROW_WARPS];
  for (int by = WARP / 2; by > 0; by /= 2) {
    const int64_t other = shuffle(key, by), other_at = shuffle(at, by);
    join_key(other, other_at, &key, &at);
  }
  __syncthreads();
  if (threadIdx.x % WARP == 0) keys[threadIdx.x / WARP] = key, places[threadIdx.x / WARP] = at;
  __syncthreads();
  for (unsigned i = 0; i < blockDim.x / WARP; i++) join_key(keys[i], places[i], &key, &at);
  p->k = key, p->at = at;
}

template <typename GET> DEVICE void choose_block(partial *p, int op, int dtype, int64_t n, int64_t first, GET get) {
  int64_t key = INT64_MIN, at = -1;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
    join_key(key_of(get(i), dtype, wants_smallest(op), wants_index(op)), first + i, &key, &at);
  choose_best(p, key, at);
}

// Bytes, whose sums and sums of squares are exact.
DEVICE bool has_moments(const cu_row_op &op) {
  return (op.op == CU_OP_var || op.op == CU_OP_std) && !is_float(op.dtype) && item_of(op.dtype) == 1;
}

template <typename GET> DEVICE void moments_block(partial *p, int64_t n, GET get) {
  int64_t sum = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const int64_t x = get(i).i;
    sum += x, squares += x * x;
  }
  p->k = block_join(sum, add_up()), p->at = block_join(squares, add_up());
}

// Distances are taken from the mean as far as float64 has it, and corrected by what they themselves sum up to.
template <typename GET> DEVICE void spread_block(partial *p, int dtype, int64_t n, GET get) {
  double sum = 0, away = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += double_of(get(i), dtype) / (double)n;
  p->base = block_join(sum, add_up());
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const double x = double_of(get(i), dtype) - p->base;
    away += x, squares += x * x;
  }
  away = block_join(away, add_up());
  p->b = block_join(squares, add_up());
  if (!(away - away == 0) || n == 0) return;
  p->a = away / (double)n;
  p->b -= away * p->a;
}

template <typename GET> DEVICE void exponents_block(partial *p, int dtype, int64_t n, GET get) {
  double max = -INFINITY, sum = 0;
  int64_t nan = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const double x = double_of(get(i), dtype);
    max = x > max ? x : max, nan |= x != x;
  }
  max = block_join(max, take_larger());
  nan = block_join(nan, take_either());
  if (nan) max = NAN;
  p->a = max;
  if (!(max - max == 0)) return; // infinite, or none
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += exp(double_of(get(i), dtype) - max);
  p->b = block_join(sum, add_up());
}

// The partial result of n elements, of which the first has the index `first`: GET gives element i as a slot. Every
// thread gets it.
template <typename GET> DEVICE partial reduce_block(const cu_row_op &op, int64_t n, int64_t first, GET get) {
  const bool floats = is_float(op.dtype);
  partial p;
  p.a = p.b = 0, p.k = 0, p.at = -1;
  switch (op.op) {
  case CU_OP_max:
  case CU_OP_min:
  case CU_OP_argmax:
  case CU_OP_argmin: choose_block(&p, op.op, op.dtype, n, first, get); return p;
  case CU_OP_var:
  case CU_OP_std:
    if (has_moments(op)) moments_block(&p, n, get);
    else spread_block(&p, op.dtype, n, get);
    return p;
  case CU_OP_logsumexp: exponents_block(&p, op.dtype, n, get); return p;
  case CU_OP_all:
    p.k = 1;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) p.k &= is_true(get(i), op.dtype);
    p.k = block_join(p.k, take_both());
    return p;
  case CU_OP_any:
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) p.k |= is_true(get(i), op.dtype);
    p.k = block_join(p.k, take_either());
    return p;
  case CU_OP_norm:
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const double x = double_of(get(i), op.dtype);
      p.a += x * x;
    }
    p.a = block_join(p.a, add_up());
    return p;
  case CU_OP_prod:
    p.a = 1, p.k = 1;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      if (floats) p.a *= double_of(get(i), op.dtype);
      else p.k = (int64_t)((uint64_t)p.k * get(i).u);
    }
    p.a = block_join(p.a, multiply_up());
    p.k = (int64_t)block_join((int64_t)p.k, multiply_up());
    return p;
  default: break;
  }
  int64_t high = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const slot x = get(i);
    if (floats) p.a += double_of(x, op.dtype);
    else if (op.op == CU_OP_sum) p.k = (int64_t)((uint64_t)p.k + x.u);
    else p.k += x.i & 0xffffffffll, high += op.dtype == ML_U64 ? (int64_t)(x.u >> 32) : x.i >> 32;
  }
  if (floats) p.a = block_join(p.a, add_up());
  else p.k = block_join(p.k, add_up()), p.at = block_join(high, add_up());
  return p;
}

// Takes what comes after p: counts are the elements of both.
DEVICE void join_partial(partial *p, int64_t count, const partial &next, int64_t next_count, const cu_row_op &op) {
  switch (op.op) {
  case CU_OP_max:
  case CU_OP_min:
  case CU_OP_argmax:
  case CU_OP_argmin: join_key(next.k, next.at, &p->k, &p->at); return;
  case CU_OP_all: p->k &= next.k; return;
  case CU_OP_any: p->k |= next.k; return;
  case CU_OP_prod: p->a *= next.a, p->k = (int64_t)((uint64_t)p->k * (uint64_t)next.k); return;
  case CU_OP_var:
  case CU_OP_std: {
    if (has_moments(op)) {
      p->k += next.k, p->at += next.at;
      return;
    }
    const double all = (double)(count + next_count), away = next.base - p->base + (next.a - p->a);
    p->a += away * ((double)next_count / all);
    p->b += next.b + away * away * ((double)count * (double)next_count / all);
    return;
  }
  case CU_OP_logsumexp: {
    if (p->a != p->a || next.a != next.a) p->a = NAN;
    else if (isinf(p->a) || isinf(next.a)) {
      if (next.a > p->a) *p = next;
    } else {
      const double max = p->a > next.a ? p->a : next.a;
      p->b = p->b * exp(p->a - max) + next.b * exp(next.a - max);
      p->a = max;
    }
    return;
  }
  default:
    p->a += next.a;
    p->k = (int64_t)((uint64_t)p->k + (uint64_t)next.k);
    p->at += next.at;
  }
}

// A whole row's.
template <typename GET> DEVICE partial reduce_row(const cu_row_op &op, int64_t n, GET get) {
  partial p = reduce_block(op, min64(n, CHUNK), 0, get);
  for (int64_t at = CHUNK; at < n; at += CHUNK) {
    const int64_t m = min64(n - at, CHUNK);
    const partial next = reduce_block(op, m, at, [&](int64_t i) { return get(at + i); });
    join_partial(&p, at, next, m, op);
  }
  return p;
}

DEVICE slot finish_partial(const partial &p, const cu_row_op &op, int64_t count) {
  const bool floats = is_float(op.dtype);
  double d = p.a, n = (double)count, less = n - op.ddof, away = p.b;
  if (has_moments(op)) away = (double)((__int128)p.at * count - (__int128)p.k * p.k) / n;
  slot s;
  s.u = 0;
  switch (op.op) {
  case CU_OP_argmax:
  case CU_OP_argmin: s.i = p.at; return s;
  case CU_OP_max:
  case CU_OP_min: return value_of(p.k, op.dtype, op.op == CU_OP_min);
  case CU_OP_all:
  case CU_OP_any: s.i = p.k; return s;
  case CU_OP_norm: d = sqrt(p.a); break;
  case CU_OP_var: d = away / (less > 0 || less != less ? less : 0); break;
  case CU_OP_std: d = sqrt(away / (less > 0 || less != less ? less : 0)); break;
  case CU_OP_logsumexp: d = p.a - p.a != 0 ? p.a : p.a + log(p.b); break;
  case CU_OP_mean:
    if (!floats) d = (double)((__int128)p.at * ((__int128)1 << 32) + (__int128)p.k);
    d /= n;
    break;
  default:
    if (!floats) {
      s.i = p.k;
      return round_slot(s, op.result);
    }
  }
  if (op.result == ML_F64) s.d = d;
  else s.f = (float)d;
  return round_slot(s, op.result);
}

#endif
