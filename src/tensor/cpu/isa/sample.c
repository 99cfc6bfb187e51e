/* sample.c: what a sampling chain needs over a whole vocabulary, in a few passes and without sorting it.
 *
 * Order statistics are found by the bits of the floats: a float's order-preserving integer is refined 11, 11 and 10
 * bits at a time over histograms of counts (top-k) or of probability mass (top-p).
 *
 * Logits of +inf share all of the probability, those of -inf have none. A NaN passes every step, whatever else the row
 * holds, so that whoever chooses at the end sees that the row means nothing. */
#include "tensor/cpu/isa/norm.h"

#include <float.h>

enum { BINS = 2048 };

ml_status K(sample_prepare)(ml_task *t) {
  const ml_arg *x = &t->in[0];
  t->units = x->shape[0];
  t->scratch = BINS * sizeof(double) + (size_t)x->shape[1] * sizeof(float);
  t->cost = (double)ml_shape_size(x->ndim, x->shape) * 2;
  return ML_OK;
}

/* What each entry weighs, exp(x - largest), and where the largest is +inf, 1 for each that is. Returns the sum: NaN
 * where one of the entries is NaN, 0 where all are -inf. */
static float weigh(const float *x, int64_t n, float *mass) {
  float max = K(max_row)(x, n);
  if (max < INFINITY && max > -INFINITY) return K(exp_row)(x, max, n, mass);
  float sum = 0;
  for (int64_t i = 0; i < n; i++) {
    mass[i] = x[i] != x[i] ? x[i] : x[i] == INFINITY;
    sum += mass[i];
  }
  return sum;
}

/* Larger floats to larger integers; zeros of both signs are equal, and NaN counts as largest. */
static uint32_t order_of(float f) {
  union {
    float f;
    uint32_t u;
  } v = {.f = f + 0.0f};
  if (f != f) return UINT32_MAX;
  return v.u & 0x80000000u ? ~v.u : v.u | 0x80000000u;
}

static const int shifts[3] = {21, 10, 0}, widths[3] = {11, 11, 10};

/* The order of the entry with which the weight of the largest entries (1 each, or mass[i]) first exceeds `limit`, and
 * in *before the weight of those that are larger than it; 0 when it never does. */
static uint32_t threshold(const float *x, const float *mass, int64_t n, double limit, double *bins, double *before) {
  uint32_t prefix = 0, mask = 0;
  double above = 0;
  *before = 0;
  for (int level = 0; level < 3; level++) {
    int size = 1 << widths[level];
    memset(bins, 0, (size_t)size * sizeof *bins);
    for (int64_t i = 0; i < n; i++) {
      uint32_t o = order_of(x[i]);
      if ((o & mask) == prefix) bins[o >> shifts[level] & (uint32_t)(size - 1)] += mass ? (double)mass[i] : 1.0;
    }
    int bin = size - 1;
    while (bin > 0 && above + bins[bin] <= limit) above += bins[bin--];
    if (bin == 0 && above + bins[0] <= limit) return 0; /* all of them fit */
    prefix |= (uint32_t)bin << shifts[level];
    mask |= (uint32_t)(size - 1) << shifts[level];
  }
  *before = above;
  return prefix;
}

static void keep_from(const float *x, float *o, int64_t n, uint32_t least) {
  for (int64_t i = 0; i < n; i++) o[i] = order_of(x[i]) >= least ? x[i] : -INFINITY;
}

/* The step's number for row b: that of all, or the row's own. */
static double number_of(const ml_arg *by_row, int64_t b, double all) {
  return by_row->data ? ((const double *)by_row->data)[b] : all;
}

void K(top_k_mask)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  int64_t n = t->in[0].shape[1];
  for (int64_t b = begin; b < end; b++) {
    const double k = number_of(&t->in[1], b, (double)t->step->attrs->top_k_mask.k);
    const float *x = (const float *)t->in[0].data + b * n;
    float *o = (float *)t->out[0].data + b * n;
    /* the k-th largest is where the count of larger ones first exceeds k - 1 */
    double before;
    uint32_t least = k > 0 && k < (double)n ? threshold(x, NULL, n, k - 1, (double *)w->scratch, &before) : 0;
    keep_from(x, o, n, least);
  }
}

/* Entries larger than `least`, and of those that equal it, in the order of ids, as many as have at most `limit` before
 * them; `before` is what the larger ones weigh. */
static void keep_nucleus(const float *x, const float *mass, float *o, int64_t n, uint32_t least, double before,
                         double limit) {
  for (int64_t i = 0; i < n; i++) {
    uint32_t order = order_of(x[i]);
    o[i] = order > least || (order == least && before <= limit) ? x[i] : -INFINITY;
    if (order == least) before += mass[i];
  }
}

void K(top_p_mask)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  int64_t n = t->in[0].shape[1];
  double *bins = (double *)w->scratch;
  float *mass = (float *)(bins + BINS);
  for (int64_t b = begin; b < end; b++) {
    const double p = number_of(&t->in[1], b, t->step->attrs->top_p_mask.p);
    const float *x = (const float *)t->in[0].data + b * n;
    float *o = (float *)t->out[0].data + b * n;
    float sum = p < 1 ? weigh(x, n, mass) : NAN;
    double limit = p * (double)sum, before;
    uint32_t least = sum > 0 ? threshold(x, mass, n, limit, bins, &before) : 0; /* 0 for NaN, and where all are -inf */
    if (least) keep_nucleus(x, mass, o, n, least, before, limit);
    else keep_from(x, o, n, 0);
  }
}

void K(min_p_mask)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)w;
  int64_t n = t->in[0].shape[1];
  for (int64_t b = begin; b < end; b++) {
    const float p = (float)number_of(&t->in[1], b, t->step->attrs->min_p_mask.p);
    const float *x = (const float *)t->in[0].data + b * n;
    float *o = (float *)t->out[0].data + b * n;
    float least = p > 0 ? K(max_row)(x, n) + logf(p) : -INFINITY;
    for (int64_t i = 0; i < n; i++) o[i] = x[i] < least ? -INFINITY : x[i];
  }
}

/* ---- temperature ---- */

/* What float32 holds of v; a finite v stays finite. */
static float held(double v) {
  if (isinf(v) || v != v) return (float)v;
  return v > FLT_MAX ? FLT_MAX : v < -FLT_MAX ? -FLT_MAX : (float)v;
}

/* A row that leaves float32 when it is divided: the largest becomes 0, the others what lies between, so that they keep
 * their probabilities. Beside +inf only those count. */
static void divide_wide(const float *x, double t, int64_t n, float *o) {
  float max = K(max_row)(x, n);
  double from = max < INFINITY && max > -INFINITY ? max : 0;
  for (int64_t i = 0; i < n; i++) {
    double v = ((double)x[i] - from) / t;
    o[i] = isinf(x[i]) ? x[i] : max == INFINITY ? held(v) : (float)v;
  }
}

/* The likeliest, a NaN before all, as it is; nothing else. */
static void keep_likeliest(const float *x, int64_t n, float *o) {
  int64_t best = 0;
  for (int64_t i = 0; i < n; i++) {
    if (x[best] == x[best] && (x[i] > x[best] || x[i] != x[i])) best = i;
  }
  for (int64_t i = 0; i < n; i++) o[i] = i == best ? x[i] : -INFINITY;
}

void K(temperature)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)w;
  int64_t n = t->in[0].shape[1];
  for (int64_t b = begin; b < end; b++) {
    const double divisor = number_of(&t->in[1], b, t->step->attrs->temperature.t);
    const float factor = (float)(1.0 / divisor);
    const float *x = (const float *)t->in[0].data + b * n;
    float *o = (float *)t->out[0].data + b * n;
    if (t->in[1].data && !(divisor >= (double)FLT_MIN)) {
      keep_likeliest(x, n, o);
      continue;
    }
    for (int64_t i = 0; i < n; i++) o[i] = x[i] * factor;
    float max = K(max_row)(o, n);
    if (!(max < INFINITY && max > -INFINITY && factor > 0)) divide_wide(x, divisor, n, o);
  }
}

/* ---- penalties ---- */

typedef struct penalty {
  double factor, presence, frequency;
} penalty;

static penalty penalty_of(const ml_task *t, int64_t b) {
  const ml_attrs *a = t->step->attrs;
  const double *own = (const double *)t->in[2].data + 3 * b;
  if (t->in[2].data) return (penalty){own[0], own[1], own[2]};
  return (penalty){a->repeat_penalty.penalty, a->repeat_penalty.presence, a->repeat_penalty.frequency};
}

/* A logit whose id was among the recent ones so many times. An infinite penalty bans or demands, whatever the logit. */
static float penalised(float x, const penalty *p, int64_t times) {
  double down = p->presence + (p->frequency == 0 ? 0 : p->frequency * (double)times), v = x;
  if (x != x) return x;
  if (isinf(down)) return (float)-down;
  if (x != 0 && !isinf(x)) v = x > 0 ? v / p->factor : v * p->factor;
  return held(v - down);
}

void K(repeat_penalty)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)w;
  const ml_arg *recent = &t->in[1];
  int64_t n = t->in[0].shape[1], count = recent->shape[1];
  for (int64_t b = begin; b < end; b++) {
    const float *x = (const float *)t->in[0].data + b * n;
    float *o = (float *)t->out[0].data + b * n;
    const penalty p = penalty_of(t, b);
    memcpy(o, x, (size_t)n * sizeof *o);
    for (int64_t i = 0; i < count; i++) {
      int64_t id = load_index(recent->data, recent->dtype, b * count + i);
      if (id < 0 || id >= n) continue;
      int64_t times = 0, counted = p.frequency == 0 ? 0 : count; /* how often: only frequency asks */
      bool first = true;
      for (int64_t j = 0; j < counted; j++) {
        bool same = load_index(recent->data, recent->dtype, b * count + j) == id;
        times += same;
        if (same && j < i) first = false;
      }
      if (first) o[id] = penalised(x[id], &p, times);
    }
  }
}

/* ---- random ---- */

/* Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011). */
static void philox(uint32_t key0, uint32_t key1, const uint32_t counter[4], uint32_t out[4]) {
  uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
  for (int round = 0; round < 10; round++) {
    uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ key0, (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ key1, (uint32_t)a};
    memcpy(c, next, sizeof c);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  memcpy(out, c, sizeof c);
}

/* Keys; each has a share of the numbers, in units of four. */
static int64_t keys_of(const ml_task *t) { return t->in[0].ndim == 2 ? t->in[0].shape[0] : 1; }
static int64_t share_of(const ml_task *t) {
  return ml_shape_size(t->out[0].ndim, t->out[0].shape) / ml_max64(1, keys_of(t));
}

ml_status K(random_prepare)(ml_task *t) {
  t->units = keys_of(t) * ((share_of(t) + 3) / 4);
  t->grain = 1024;
  t->cost = (double)t->units * 40;
  return ML_OK;
}

void K(random_bits)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)w;
  const int64_t size = share_of(t), each = (size + 3) / 4, words = t->in[0].shape[t->in[0].ndim - 1];
  for (int64_t u = begin; u < end; u++) {
    const int64_t k = u / each, at = u % each;
    const uint32_t *key = (const uint32_t *)t->in[0].data + k * words;
    uint32_t *o = (uint32_t *)t->out[0].data + k * size;
    uint32_t counter[4] = {(uint32_t)at, (uint32_t)((uint64_t)at >> 32), words > 2 ? key[2] : 0, 0}, four[4];
    philox(key[0], key[1], counter, four);
    for (int64_t i = 0; i < 4 && 4 * at + i < size; i++) o[4 * at + i] = four[i];
  }
}

/* The id at which the sum of what each weighs, in float64 and in the order of the ids, first passes `uniform` of the
 * total; -1 where nothing can be drawn. */
static int64_t draw(const float *x, int64_t n, double uniform, float *mass) {
  weigh(x, n, mass);
  double total = 0, sum = 0;
  for (int64_t i = 0; i < n; i++) total += mass[i];
  if (!(total > 0)) return -1; /* NaN among them, or all are -inf */
  int64_t last = 0;
  for (int64_t id = 0; id < n; id++) {
    if (mass[id] > 0) last = id;
    sum += mass[id];
    if (sum > uniform * total) return id;
  }
  return last;
}

void K(categorical)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  int64_t n = t->in[0].shape[1];
  float *mass = (float *)((double *)w->scratch + BINS);
  for (int64_t b = begin; b < end; b++) {
    const float *x = (const float *)t->in[0].data + b * n;
    double uniform = load_float(t->in[1].data, t->in[1].dtype, b);
    ((int32_t *)t->out[0].data)[b] = (int32_t)draw(x, n, uniform, mass);
  }
}
