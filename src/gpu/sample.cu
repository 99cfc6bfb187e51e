// sample.cu: what a sampling chain needs over a whole vocabulary.
//
// Bytes: the row some times, of which all but the first come from the cache. One block a row. Order statistics are
// found by the bits of the floats, 11, 11 and 10 at a time, over histograms: of counts, or of probability mass in
// units of 2^-40, whose sums are the same in any order.
#include "gpu/row.cuh"

#include <float.h>

enum { BINS = 2048 };

#ifdef __CUDACC__
typedef unsigned long long mass_sum;
#else
typedef uint64_t mass_sum;
#endif

DEVICE float largest_of(const float *x, int64_t n) {
  float max = -INFINITY;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) max = take_larger()(max, x[i]);
  return block_join(max, take_larger());
}

// What an entry weighs beside the largest; where that is +infinity, 1 for each that is.
DEVICE float weight_of(float x, float max) {
  if (max < INFINITY && max > -INFINITY) return expf(x - max);
  return x != x ? x : x == INFINITY ? 1.0f : 0.0f;
}

// Larger floats to larger integers; zeros of both signs are equal, and NaN counts as largest.
DEVICE uint32_t order_of(float f) {
  union {
    float f;
    uint32_t u;
  } v;
  v.f = f + 0.0f;
  if (f != f) return UINT32_MAX;
  return v.u & 0x80000000u ? ~v.u : v.u | 0x80000000u;
}

#define MASS_UNIT 0x1p40

// The order of the entry with which the weight of the largest entries (1 each, or their mass) first exceeds `limit`; in
// *before the weight of those that are larger. 0 when it never does.
DEVICE uint32_t threshold(const float *x, bool masses, float max, int64_t n, double limit, double *before) {
  __shared__ mass_sum bins[BINS];
  __shared__ mass_sum above;
  __shared__ uint32_t prefix;
  __shared__ int ended;
  const int shifts[3] = {21, 10, 0}, widths[3] = {11, 11, 10};
  const double unit = masses ? MASS_UNIT : 1;
  uint32_t mask = 0;
  __syncthreads();
  if (threadIdx.x == 0) above = 0, prefix = 0, ended = 0;
  for (int level = 0; level < 3; level++) {
    const int size = 1 << widths[level];
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += blockDim.x) bins[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const uint32_t o = order_of(x[i]);
      if ((o & mask) == prefix)
        atomicAdd(&bins[o >> shifts[level] & (uint32_t)(size - 1)],
                  masses ? (mass_sum)((double)weight_of(x[i], max) * MASS_UNIT) : (mass_sum)1);
    }
    __syncthreads();
    if (threadIdx.x == 0 && !ended) {
      int bin = size - 1;
      while (bin > 0 && (double)(above + bins[bin]) <= limit * unit) above += bins[bin--];
      if (bin == 0 && (double)(above + bins[0]) <= limit * unit) ended = 1; // all of them fit
      prefix |= (uint32_t)bin << shifts[level];
    }
    mask |= (uint32_t)(size - 1) << shifts[level];
  }
  __syncthreads();
  *before = (double)above / unit;
  return ended ? 0 : prefix;
}

DEVICE void keep_from(const float *x, float *o, int64_t n, uint32_t least) {
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) o[i] = order_of(x[i]) >= least ? x[i] : -INFINITY;
}

// Where a thread's share of a row begins: shares follow each other.
DEVICE int64_t share_of(int64_t n, int thread) { return n * thread / blockDim.x; }

// Entries larger than `least`, and of those that equal it, in the order of ids, as many as have at most `limit` before
// them.
DEVICE void keep_nucleus(const float *x, float *o, int64_t n, uint32_t least, float max, double before, double limit) {
  __shared__ int64_t counts[ROW_THREADS];
  const int64_t begin = share_of(n, threadIdx.x), end = share_of(n, threadIdx.x + 1);
  int64_t own = 0;
  for (int64_t i = begin; i < end; i++) own += order_of(x[i]) == least;
  __syncthreads();
  counts[threadIdx.x] = own;
  __syncthreads();
  int64_t rank = 0;
  for (unsigned i = 0; i < threadIdx.x; i++) rank += counts[i];
  for (int64_t i = begin; i < end; i++) {
    const uint32_t order = order_of(x[i]);
    const bool fits = order == least && before + (double)rank * (double)weight_of(x[i], max) <= limit;
    rank += order == least;
    o[i] = order > least || fits ? x[i] : -INFINITY;
  }
}

DEVICE void top_p_row(const cu_sample_args &t, double p, const float *x, float *o) {
  double before, sum = 0;
  float max = 0;
  if (p < 1) {
    max = largest_of(x, t.n);
    for (int64_t i = threadIdx.x; i < t.n; i += blockDim.x) sum += (double)weight_of(x[i], max);
    sum = block_join(sum, add_up());
  }
  // NaN, and where all are -infinity: everything stays.
  const uint32_t least = sum > 0 ? threshold(x, true, max, t.n, p * sum, &before) : 0;
  if (least) keep_nucleus(x, o, t.n, least, max, before, p * sum);
  else keep_from(x, o, t.n, 0);
}

// What float32 holds of v; a finite v stays finite.
DEVICE float held(double v) {
  if (isinf(v) || v != v) return (float)v;
  return v > FLT_MAX ? FLT_MAX : v < -FLT_MAX ? -FLT_MAX : (float)v;
}

// The likeliest, a NaN before all, as it is; nothing else.
DEVICE void keep_likeliest(const float *x, float *o, int64_t n) {
  __shared__ unsigned long long bests[ROW_THREADS]; // order and, turned round, place: the larger comes first
  unsigned long long best = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const unsigned long long own = (unsigned long long)order_of(x[i]) << 32 | (uint32_t)(UINT32_MAX - (uint32_t)i);
    best = own > best ? own : best;
  }
  __syncthreads();
  bests[threadIdx.x] = best;
  __syncthreads();
  for (unsigned i = 0; i < blockDim.x; i++) best = bests[i] > best ? bests[i] : best;
  const int64_t at = UINT32_MAX - (uint32_t)best;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) o[i] = i == at ? x[i] : -INFINITY;
}

DEVICE void temperature_row(const cu_sample_args &t, double divisor, const float *x, float *o) {
  const float factor = (float)(1.0 / divisor);
  float max = -INFINITY;
  for (int64_t i = threadIdx.x; i < t.n; i += blockDim.x) max = take_larger()(max, x[i] * factor);
  max = block_join(max, take_larger());
  if (max < INFINITY && max > -INFINITY && factor > 0) {
    for (int64_t i = threadIdx.x; i < t.n; i += blockDim.x) o[i] = x[i] * factor;
    return;
  }
  // A row that leaves float32: the largest becomes 0. Beside +infinity only those count.
  max = largest_of(x, t.n);
  const double from = max < INFINITY && max > -INFINITY ? (double)max : 0;
  for (int64_t i = threadIdx.x; i < t.n; i += blockDim.x) {
    const double v = ((double)x[i] - from) / divisor;
    o[i] = isinf(x[i]) ? x[i] : max == INFINITY ? held(v) : (float)v;
  }
}

// A logit whose id was among the recent ones so many times. An infinite penalty bans or demands, whatever the logit.
DEVICE float penalised(float x, const double *p, int64_t times) {
  const double down = p[1] + (p[2] == 0 ? 0 : p[2] * (double)times);
  double v = (double)x;
  if (x != x) return x;
  if (isinf(down)) return (float)-down;
  if (x != 0 && !isinf(x)) v = x > 0 ? v / p[0] : v * p[0];
  return held(v - down);
}

DEVICE void penalty_row(const cu_sample_args &t, int64_t b, const float *x, float *o) {
  const double all[3] = {t.penalty, t.presence, t.frequency}, *p = t.by_row ? t.by_row + 3 * b : all;
  for (int64_t i = threadIdx.x; i < t.n; i += blockDim.x) o[i] = x[i];
  __syncthreads();
  for (int64_t i = threadIdx.x; i < t.recent_count; i += blockDim.x) {
    const int64_t id = load_int(t.recent, t.recent_dtype, b * t.recent_count + i);
    if (id < 0 || id >= t.n) continue;
    int64_t times = 0;
    bool first = true;
    for (int64_t j = 0; p[2] != 0 && j < t.recent_count; j++) { // how often: only frequency asks
      const bool same = load_int(t.recent, t.recent_dtype, b * t.recent_count + j) == id;
      times += same;
      if (same && j < i) first = false;
    }
    if (first) o[id] = penalised(x[id], p, times);
  }
}

KERNEL(cuda_sample, cu_sample_args) {
  for (int64_t b = blockIdx.x; b < t.rows; b += gridDim.x) {
    const float *x = t.x + b * t.n;
    float *o = t.out + b * t.n;
    const double number = t.by_row && t.op != CU_OP_repeat_penalty ? t.by_row[b] : t.number;
    double before;
    switch (t.op) {
    case CU_OP_top_k_mask: // the k-th largest is where the count of larger ones first exceeds k - 1
      keep_from(x, o, t.n, number > 0 && number < (double)t.n ? threshold(x, false, 0, t.n, number - 1, &before) : 0);
      break;
    case CU_OP_top_p_mask: top_p_row(t, number, x, o); break;
    case CU_OP_min_p_mask: {
      const float least = number > 0 ? largest_of(x, t.n) + logf((float)number) : -INFINITY;
      for (int64_t i = threadIdx.x; i < t.n; i += blockDim.x) o[i] = x[i] < least ? -INFINITY : x[i];
      break;
    }
    case CU_OP_temperature:
      if (t.by_row && !(number >= (double)FLT_MIN)) keep_likeliest(x, o, t.n);
      else temperature_row(t, number, x, o);
      break;
    default: penalty_row(t, b, x, o);
    }
    __syncthreads();
  }
}

// The id at which the sum of what each weighs, in the order of the ids, first passes `uniform` of the total; -1 where
// nothing can be drawn.
KERNEL(cuda_categorical, cu_sample_args) {
  __shared__ double sums[ROW_THREADS];
  __shared__ int64_t found[ROW_THREADS], last[ROW_THREADS];
  for (int64_t b = blockIdx.x; b < t.rows; b += gridDim.x) {
    const float *x = t.x + b * t.n, max = largest_of(x, t.n);
    const int64_t begin = share_of(t.n, threadIdx.x), end = share_of(t.n, threadIdx.x + 1);
    double own = 0, before = 0, total = 0;
    for (int64_t i = begin; i < end; i++) own += (double)weight_of(x[i], max);
    __syncthreads();
    sums[threadIdx.x] = own;
    __syncthreads();
    for (unsigned i = 0; i < blockDim.x; i++) {
      if (i == threadIdx.x) before = total;
      total += sums[i];
    }
    const double target = (double)load_float(t.uniform.data, t.uniform.dtype, b * t.uniform.stride) * total;
    int64_t at = -1, positive = -1;
    for (int64_t i = begin; i < end; i++) {
      const float w = weight_of(x[i], max);
      before += (double)w;
      if (w > 0) positive = i;
      if (w > 0 && before > target && at < 0) at = i;
    }
    found[threadIdx.x] = at, last[threadIdx.x] = positive;
    __syncthreads();
    if (threadIdx.x == 0) {
      int64_t id = -1, fallback = 0;
      for (unsigned i = 0; i < blockDim.x; i++) {
        if (id < 0 && found[i] >= 0) id = found[i];
        if (last[i] >= 0) fallback = last[i];
      }
      t.ids[b] = !(total > 0) ? -1 : (int32_t)(id >= 0 ? id : fallback);
    }
    __syncthreads();
  }
}
