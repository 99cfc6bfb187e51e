/* partial.c: reductions of elements that lie side by side. Arithmetic is float32 for float types (float64 for float64),
 * and integers wrap at the width of their result; blocks of float sums are added up in float64. Means of integers and
 * all sums of squares are wider than any dtype: 128 bits, and float64. */
#include "tensor/cpu/isa/reduce.h"

#include "tensor/cpu/isa/simd.h"

partial K(partial_start)(int op) {
  partial p = {.at = -1};
  if (op == ML_OP_prod) p.a = 1;
  if (op == ML_OP_prod || op == ML_OP_all) p.k = 1;
  if (op == ML_OP_logsumexp) p.a = -INFINITY;
  return p;
}

static bool is_choice(int op) { return op == ML_OP_max || op == ML_OP_min || op == ML_OP_argmax || op == ML_OP_argmin; }

/* ---- float sums and products: sixteen lanes a block ---- */

ALWAYS_INLINE v16f load_lanes(const char *data, ml_dtype t, int64_t at) {
  if (t == ML_F32) return v_load((const float *)(const void *)data + at);
  const uint16_t *x = (const uint16_t *)(const void *)data + at;
  return t == ML_F16 ? v_load_f16(x) : v_load_bf16(x);
}

/* The n < LANES elements from `at` on, and `rest` in the lanes behind them. */
ALWAYS_INLINE v16f load_some(const char *data, ml_dtype t, int64_t at, int64_t n, float rest) {
  float lanes[LANES];
  for (int i = 0; i < LANES; i++) lanes[i] = i < n ? load_float(data, t, at + i) : rest;
  return v_load(lanes);
}

/* One block's lanes. */
ALWAYS_INLINE v16f fold_lanes(const char *data, ml_dtype t, int64_t at, int64_t n, bool product) {
  v16f s = v_set1(product ? 1 : 0);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    v16f v = load_lanes(data, t, at + i);
    s = product ? v_mul(s, v) : v_add(s, v);
  }
  if (i == n) return s;
  v16f v = load_some(data, t, at + i, n - i, product ? 1 : 0);
  return product ? v_mul(s, v) : v_add(s, v);
}

ALWAYS_INLINE double sum_floats(double total, const char *data, ml_dtype t, int64_t n) {
  int64_t i = 0;
  for (; i + REDUCE_BLOCK <= n; i += REDUCE_BLOCK) total += (double)v_sum(fold_lanes(data, t, i, REDUCE_BLOCK, false));
  return i < n ? total + (double)v_sum(fold_lanes(data, t, i, n - i, false)) : total;
}

ALWAYS_INLINE float multiply_floats(float total, const char *data, ml_dtype t, int64_t n) {
  for (int64_t i = 0; i < n; i += REDUCE_BLOCK) {
    float lanes[LANES];
    v_store(lanes, fold_lanes(data, t, i, ml_min64(REDUCE_BLOCK, n - i), true));
    for (int k = 0; k < LANES; k++) total *= lanes[k];
  }
  return total;
}

static void take_floats(partial *p, bool product, const char *data, ml_dtype t, int64_t n) {
#define TAKE(T) p->a = product ? (double)multiply_floats((float)p->a, data, T, n) : sum_floats(p->a, data, T, n)
  if (t == ML_F32) TAKE(ML_F32);
  else if (t == ML_F16) TAKE(ML_F16);
  else TAKE(ML_BF16);
#undef TAKE
}

/* ---- float64: sums in as many lanes, of all that is wider than float32 ---- */

typedef enum fold { SUM, PRODUCT, SQUARES } fold;

/* Of (x - centre) for SQUARES. */
ALWAYS_INLINE double fold_block(const double *x, int64_t n, fold how, double centre) {
  double s[LANES];
  int64_t i = 0;
  for (int k = 0; k < LANES; k++) s[k] = how == PRODUCT ? 1 : 0;
  for (; i + LANES <= n; i += LANES) {
    for (int k = 0; k < LANES; k++) {
      double d = x[i + k] - (how == SQUARES ? centre : 0);
      s[k] = how == PRODUCT ? s[k] * d : how == SQUARES ? s[k] + d * d : s[k] + d;
    }
  }
  for (int k = 0; i + k < n; k++) {
    double d = x[i + k] - (how == SQUARES ? centre : 0);
    s[k] = how == PRODUCT ? s[k] * d : how == SQUARES ? s[k] + d * d : s[k] + d;
  }
  double total = s[0];
  for (int k = 1; k < LANES && how == PRODUCT; k++) total *= s[k];
  if (how == PRODUCT) return total;
  for (int half = LANES / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; k++) s[k] += s[k + half];
  }
  return s[0];
}

#define WIDEN(TYPE)                                                                                                    \
  do {                                                                                                                 \
    const TYPE *x = (const TYPE *)(const void *)data + at;                                                             \
    for (int i = 0; i < n; i++) to[i] = (double)x[i];                                                                  \
    return to;                                                                                                         \
  } while (0)

/* n <= REDUCE_BLOCK elements as float64, in `to` where they are none already. */
static const double *widen(const char *data, ml_dtype t, int64_t at, int n, double *to) {
  switch (t) {
  case ML_F64: return (const double *)(const void *)data + at;
  case ML_F32: WIDEN(float);
  case ML_I8: WIDEN(int8_t);
  case ML_U8: WIDEN(uint8_t);
  case ML_I16: WIDEN(int16_t);
  case ML_U16: WIDEN(uint16_t);
  case ML_I32: WIDEN(int32_t);
  case ML_U32: WIDEN(uint32_t);
  case ML_I64: WIDEN(int64_t);
  case ML_U64: WIDEN(uint64_t);
  case ML_BOOL:
    for (int i = 0; i < n; i++) to[i] = data[at + i] != 0;
    return to;
  default: break;
  }
  float lanes[REDUCE_BLOCK];
  int i = 0;
  for (; i + LANES <= n; i += LANES) v_store(lanes + i, load_lanes(data, t, at + i));
  for (; i < n; i++) lanes[i] = load_float(data, t, at + i);
  for (i = 0; i < n; i++) to[i] = lanes[i];
  return to;
}

/* Joins means and squared distances from them (Chan's formula). */
static void join_spread(partial *p, double mean, double squares, int64_t n) {
  if (p->k == 0) {
    p->a = mean, p->b = squares, p->k = n;
    return;
  }
  double delta = mean - p->a, share = (double)n / (double)(p->k + n);
  p->a += delta * share;
  p->b += squares + delta * delta * ((double)p->k * share);
  p->k += n;
}

/* ---- integers ---- */

/* Sums and products of integers narrower than 64 bits end as 32 bits, so that no more is kept of them. */
#define INTEGERS(TYPE, WIDE, VALUE)                                                                                    \
  do {                                                                                                                 \
    const TYPE *x = (const TYPE *)(const void *)data;                                                                  \
    WIDE sum = 0, product = 1;                                                                                         \
    if (op == ML_OP_sum) {                                                                                             \
      for (int64_t i = 0; i < n; i++) sum += (WIDE)(VALUE);                                                            \
      p->k = (int64_t)((uint64_t)p->k + sum);                                                                          \
    } else {                                                                                                           \
      for (int64_t i = 0; i < n; i++) product *= (WIDE)(VALUE);                                                        \
      p->k = (int64_t)((uint64_t)p->k * product);                                                                      \
    }                                                                                                                  \
    return;                                                                                                            \
  } while (0)

static void take_integers(partial *p, int op, const char *data, ml_dtype t, int64_t n) {
  switch (t) {
  case ML_I8: INTEGERS(int8_t, uint32_t, x[i]);
  case ML_U8: INTEGERS(uint8_t, uint32_t, x[i]);
  case ML_BOOL: INTEGERS(uint8_t, uint32_t, x[i] != 0);
  case ML_I16: INTEGERS(int16_t, uint32_t, x[i]);
  case ML_U16: INTEGERS(uint16_t, uint32_t, x[i]);
  case ML_I32:
  case ML_U32: INTEGERS(uint32_t, uint32_t, x[i]);
  default: INTEGERS(uint64_t, uint64_t, x[i]);
  }
}

#define MEAN(TYPE, VALUE)                                                                                              \
  do {                                                                                                                 \
    const TYPE *x = (const TYPE *)(const void *)data;                                                                  \
    int64_t sum = 0;                                                                                                   \
    for (int64_t i = 0; i < n; i++) sum += (int64_t)(VALUE);                                                           \
    p->wide += sum;                                                                                                    \
    return;                                                                                                            \
  } while (0)

/* Exact. Integers of 64 bits are taken in halves, of which 2^31 fit into a sum; n is far below that. */
static void take_mean(partial *p, const char *data, ml_dtype t, int64_t n) {
  switch (t) {
  case ML_I8: MEAN(int8_t, x[i]);
  case ML_U8: MEAN(uint8_t, x[i]);
  case ML_BOOL: MEAN(uint8_t, x[i] != 0);
  case ML_I16: MEAN(int16_t, x[i]);
  case ML_U16: MEAN(uint16_t, x[i]);
  case ML_I32: MEAN(int32_t, x[i]);
  case ML_U32: MEAN(uint32_t, x[i]);
  default: break;
  }
  const int64_t *x = (const int64_t *)(const void *)data;
  int64_t low = 0, high = 0;
  for (int64_t i = 0; i < n; i++) low += x[i] & 0xffffffff;
  if (t == ML_I64) {
    for (int64_t i = 0; i < n; i++) high += x[i] >> 32;
  } else {
    for (int64_t i = 0; i < n; i++) high += (int64_t)((uint64_t)x[i] >> 32);
  }
  p->wide += ((__int128)high * (INT64_C(1) << 32)) + low;
}

/* ---- all, any ---- */

#define TRUTH(TYPE, MASK)                                                                                              \
  do {                                                                                                                 \
    const TYPE *x = (const TYPE *)(const void *)data;                                                                  \
    TYPE zeros = 0, bits = 0;                                                                                          \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      TYPE v = (TYPE)(x[i] & (TYPE)(MASK));                                                                            \
      bits = (TYPE)(bits | v), zeros = (TYPE)(zeros | (v == 0));                                                       \
    }                                                                                                                  \
    if (op == ML_OP_any) p->k |= bits != 0;                                                                            \
    else p->k &= zeros == 0;                                                                                           \
    return;                                                                                                            \
  } while (0)

/* A float is zero where no bit but its sign is set. */
static void take_truth(partial *p, int op, const char *data, ml_dtype t, int64_t n) {
  bool floats = ml_dtype_is_float(t);
  switch (ml_dtype_infos[t].bytes) {
  case 1: TRUTH(uint8_t, UINT8_MAX);
  case 2: TRUTH(uint16_t, floats ? INT16_MAX : UINT16_MAX);
  case 4: TRUTH(uint32_t, floats ? INT32_MAX : UINT32_MAX);
  default: TRUTH(uint64_t, floats ? INT64_MAX : UINT64_MAX);
  }
}

/* ---- the largest and the smallest ---- */

/* Elements among which a new largest key is looked for at once. */
enum { SPAN = 512 };

/* Every dtype has keys, integers of its own width in the order of its values: of floats minus infinity first, -0 before
 * 0. For the smallest all bits are flipped, so that the largest key is looked for in any case. NaN, which wins, has the
 * largest key that there is. */
#define FLOAT_KEY(S, MAX, INF) (S)((x[i] & MAX) > INF ? MAX : x[i] ^ (x[i] < 0 ? MAX : 0) ^ flip)

/* NAME_max: the largest key of n > 0; NAME_find: the first index that has it. The loops are such that compilers make
 * vectors of them, for which the keys of floats need a loop of their own. */
#define FIND(NAME, S, KEY)                                                                                             \
  static int64_t NAME##_find(const S *x, int64_t n, S flip, S best) {                                                  \
    int64_t i = 0;                                                                                                     \
    while (i < n - 1 && (KEY) != best) i++;                                                                            \
    return i;                                                                                                          \
  }
#define FLOAT_KEYS(NAME, S, KEY)                                                                                       \
  static S NAME##_max(const S *x, int64_t n, S flip) {                                                                 \
    S keys[SPAN], best = (S)((S)1 << (sizeof(S) * 8 - 1));                                                             \
    for (int64_t i = 0; i < n; i++) keys[i] = KEY;                                                                     \
    for (int64_t i = 0; i < n; i++) best = keys[i] > best ? keys[i] : best;                                            \
    return best;                                                                                                       \
  }                                                                                                                    \
  FIND(NAME, S, KEY)
#define KEYS(NAME, S, KEY)                                                                                             \
  static S NAME##_max(const S *x, int64_t n, S flip) {                                                                 \
    S best = (S)((S)1 << (sizeof(S) * 8 - 1));                                                                         \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      S key = KEY;                                                                                                     \
      best = key > best ? key : best;                                                                                  \
    }                                                                                                                  \
    return best;                                                                                                       \
  }                                                                                                                    \
  FIND(NAME, S, KEY)
FLOAT_KEYS(f32, int32_t, FLOAT_KEY(int32_t, INT32_MAX, 0x7f800000))
FLOAT_KEYS(f64, int64_t, FLOAT_KEY(int64_t, INT64_MAX, 0x7ff0000000000000))
FLOAT_KEYS(f16, int16_t, FLOAT_KEY(int16_t, INT16_MAX, 0x7c00))
FLOAT_KEYS(bf16, int16_t, FLOAT_KEY(int16_t, INT16_MAX, 0x7f80))
KEYS(i8, int8_t, (int8_t)(x[i] ^ flip))
KEYS(u8, int8_t, (int8_t)(x[i] ^ INT8_MIN ^ flip))
KEYS(boolean, int8_t, (int8_t)((x[i] != 0) ^ flip))
KEYS(i16, int16_t, (int16_t)(x[i] ^ flip))
KEYS(u16, int16_t, (int16_t)(x[i] ^ INT16_MIN ^ flip))
KEYS(i32, int32_t, x[i] ^ flip)
KEYS(u32, int32_t, x[i] ^ INT32_MIN ^ flip)
KEYS(i64, int64_t, x[i] ^ flip)
KEYS(u64, int64_t, x[i] ^ INT64_MIN ^ flip)

static bool wants_smallest(int op) { return op == ML_OP_min || op == ML_OP_argmin; }

#define CHOOSE(NAME, S)                                                                                                \
  do {                                                                                                                 \
    for (int64_t i = 0; i < n; i += SPAN) {                                                                            \
      const S *x = (const S *)(const void *)data + i, flip = (S)(wants_smallest(op) ? -1 : 0);                         \
      int64_t m = ml_min64(SPAN, n - i);                                                                               \
      S key = NAME##_max(x, m, flip);                                                                                  \
      if (p->at >= 0 && key <= p->k) continue;                                                                         \
      p->k = key;                                                                                                      \
      p->at = first + i + (indices ? NAME##_find(x, m, flip, key) : 0);                                                \
    }                                                                                                                  \
    return;                                                                                                            \
  } while (0)

static void choose(partial *p, int op, const char *data, ml_dtype t, int64_t n, int64_t first) {
  bool indices = op == ML_OP_argmax || op == ML_OP_argmin;
  switch (t) {
  case ML_F32: CHOOSE(f32, int32_t);
  case ML_F64: CHOOSE(f64, int64_t);
  case ML_F16: CHOOSE(f16, int16_t);
  case ML_BF16: CHOOSE(bf16, int16_t);
  case ML_I8: CHOOSE(i8, int8_t);
  case ML_U8: CHOOSE(u8, int8_t);
  case ML_BOOL: CHOOSE(boolean, int8_t);
  case ML_I16: CHOOSE(i16, int16_t);
  case ML_U16: CHOOSE(u16, int16_t);
  case ML_I32: CHOOSE(i32, int32_t);
  case ML_U32: CHOOSE(u32, int32_t);
  case ML_I64: CHOOSE(i64, int64_t);
  default: CHOOSE(u64, int64_t);
  }
}

/* The bits of the element that has this key. */
static int64_t bits_of(int64_t key, ml_dtype t, bool smallest) {
  int width = 8 * ml_dtype_infos[t].bytes;
  int64_t most = INT64_MAX >> (64 - width), bits = smallest ? ~key : key;
  if (t == ML_U8 || t == ML_U16 || t == ML_U32 || t == ML_U64) return bits ^ ~most;
  if (!ml_dtype_is_float(t)) return bits;
  if (key == most) return t == ML_F32 ? 0x7fc00000 : t == ML_F64 ? 0x7ff8000000000000 : t == ML_F16 ? 0x7e00 : 0x7fc0;
  return bits < 0 ? bits ^ most : bits;
}

/* ---- logsumexp ---- */

/* e to the power x, for x <= 0, to 1e-11: what float32 keeps, and a loop that compilers vectorise. */
ALWAYS_INLINE double exp_below(double x) {
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
  const double shift = 6755399441055744.0; /* 1.5 * 2^52: adding it rounds to an integer */
  double clamped = x > -700 ? x : -700;
  union {
    double d;
    int64_t i;
  } v = {.d = __builtin_fma(clamped, 1.44269504088896340736, shift)}, scale;
  double k = v.d - shift, r = __builtin_fma(k, -6.93147180369123816490e-1, clamped);
  r = __builtin_fma(k, -1.90821492927058770002e-10, r);
  double p = 1.0 / 362880;
  p = __builtin_fma(p, r, 1.0 / 40320);
  p = __builtin_fma(p, r, 1.0 / 5040);
  p = __builtin_fma(p, r, 1.0 / 720);
  p = __builtin_fma(p, r, 1.0 / 120);
  p = __builtin_fma(p, r, 1.0 / 24);
  p = __builtin_fma(p, r, 1.0 / 6);
  p = __builtin_fma(p, r, 0.5);
  p = __builtin_fma(p, r, 1.0);
  p = __builtin_fma(p, r, 1.0);
  scale.i = (int64_t)((uint64_t)v.i << 52) + (INT64_C(1023) << 52);
  return x > -700 ? p * scale.d : 0;
#else
  return exp(x);
#endif
}

static void join_exponents(partial *p, double max, double sum) {
  if (p->a != p->a || max == -INFINITY) return;
  if (max != max || max == INFINITY || p->a == -INFINITY) p->a = max, p->b = sum;
  else if (p->a == INFINITY) return;
  else if (max > p->a) p->b = p->b * exp(p->a - max) + sum, p->a = max;
  else p->b += sum * exp(max - p->a);
}

/* NaN where there is one. */
static double largest(const double *x, int n) {
  union {
    int64_t i;
    double d;
  } v = {.i = bits_of(f64_max((const int64_t *)(const void *)x, n, 0), ML_F64, false)};
  return v.d;
}

static void take_exponents(partial *p, const double *x, int n, bool exact) {
  double max = largest(x, n), e[REDUCE_BLOCK];
  if (max - max != 0) { /* infinite, or none */
    join_exponents(p, max, 0);
    return;
  }
  if (exact) {
    for (int i = 0; i < n; i++) e[i] = exp(x[i] - max);
  } else {
    for (int i = 0; i < n; i++) e[i] = exp_below(x[i] - max);
  }
  join_exponents(p, max, fold_block(e, n, SUM, 0));
}

static void take_wide(partial *p, int op, const char *data, ml_dtype t, int64_t n) {
  double room[REDUCE_BLOCK];
  for (int64_t i = 0; i < n; i += REDUCE_BLOCK) {
    int m = (int)ml_min64(REDUCE_BLOCK, n - i);
    const double *x = widen(data, t, i, m, room);
    switch (op) {
    case ML_OP_sum:
    case ML_OP_mean: p->a += fold_block(x, m, SUM, 0); break;
    case ML_OP_prod: p->a *= fold_block(x, m, PRODUCT, 0); break;
    case ML_OP_norm: p->a += fold_block(x, m, SQUARES, 0); break;
    case ML_OP_logsumexp: take_exponents(p, x, m, t == ML_F64); break;
    default: {
      double mean = fold_block(x, m, SUM, 0) / m;
      join_spread(p, mean, fold_block(x, m, SQUARES, mean), m);
    }
    }
  }
}

/* ---- all together ---- */

void K(partial_take)(partial *p, int op, const char *data, ml_dtype t, int64_t n, int64_t first) {
  bool floats = ml_dtype_is_float(t);
  if (is_choice(op)) choose(p, op, data, t, n, first);
  else if (op == ML_OP_all || op == ML_OP_any) take_truth(p, op, data, t, n);
  else if (op == ML_OP_mean && !floats) take_mean(p, data, t, n);
  else if ((op == ML_OP_sum || op == ML_OP_prod) && !floats) take_integers(p, op, data, t, n);
  else if ((op == ML_OP_sum || op == ML_OP_prod || op == ML_OP_mean) && t != ML_F64)
    take_floats(p, op == ML_OP_prod, data, t, n);
  else take_wide(p, op, data, t, n);
}

void K(partial_join)(partial *p, const partial *next, int op, ml_dtype t) {
  switch (op) {
  case ML_OP_prod:
    p->k = (int64_t)((uint64_t)p->k * (uint64_t)next->k);
    p->a = t == ML_F64 ? p->a * next->a : (double)((float)p->a * (float)next->a);
    return;
  case ML_OP_all: p->k &= next->k; return;
  case ML_OP_any: p->k |= next->k; return;
  case ML_OP_max:
  case ML_OP_min:
  case ML_OP_argmax:
  case ML_OP_argmin:
    if (p->at < 0 || next->k > p->k) p->k = next->k, p->at = next->at;
    return;
  case ML_OP_logsumexp: join_exponents(p, next->a, next->b); return;
  case ML_OP_var:
  case ML_OP_std: join_spread(p, next->a, next->b, next->k); return;
  default: p->a += next->a, p->wide += next->wide; p->k = (int64_t)((uint64_t)p->k + (uint64_t)next->k);
  }
}

static void put_double(const ml_arg *o, int64_t at, double d) {
  if (o->dtype == ML_F64) ((double *)o->data)[at] = d;
  else store_float(o->data, o->dtype, at, (float)d);
}

static void put_bits(const ml_arg *o, int64_t at, int64_t bits) {
  switch (ml_dtype_infos[o->dtype].bytes) {
  case 1: ((int8_t *)o->data)[at] = (int8_t)bits; return;
  case 2: ((int16_t *)o->data)[at] = (int16_t)bits; return;
  case 4: ((int32_t *)o->data)[at] = (int32_t)bits; return;
  default: ((int64_t *)o->data)[at] = bits; return;
  }
}

/* The divisor n - ddof is 0 at the least, as NumPy has it: infinite, or NaN where all are equal. */
static double variance(const partial *p, const ml_task *t, int64_t count) {
  double n = (double)count - t->step->attrs.var.ddof;
  return p->b / (n > 0 || n != n ? n : 0);
}

static double mean(const partial *p, ml_dtype t, int64_t count) {
  if (!ml_dtype_is_float(t)) return (double)p->wide / (double)count;
  return t == ML_F64 ? p->a / (double)count : (double)((float)p->a / (float)count);
}

void K(partial_finish)(const partial *p, const ml_task *t, int64_t count, int64_t at) {
  const ml_arg *o = &t->out[0];
  ml_dtype dtype = t->in[0].dtype;
  int op = t->step->op;
  switch (op) {
  case ML_OP_argmax:
  case ML_OP_argmin: put_bits(o, at, p->at); return;
  case ML_OP_max:
  case ML_OP_min: put_bits(o, at, bits_of(p->k, dtype, op == ML_OP_min)); return;
  case ML_OP_all:
  case ML_OP_any: put_bits(o, at, p->k); return;
  case ML_OP_mean: put_double(o, at, mean(p, dtype, count)); return;
  case ML_OP_norm: put_double(o, at, sqrt(p->a)); return;
  case ML_OP_var: put_double(o, at, variance(p, t, count)); return;
  case ML_OP_std: put_double(o, at, sqrt(variance(p, t, count))); return;
  case ML_OP_logsumexp: put_double(o, at, p->a - p->a != 0 ? p->a : p->a + log(p->b)); return;
  default:
    if (ml_dtype_is_float(dtype)) put_double(o, at, p->a);
    else put_bits(o, at, p->k);
  }
}
