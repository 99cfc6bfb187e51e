/* partial.c: reductions of elements that lie side by side, and what becomes of partial results. Sums are float32 for
 * narrow float types (float64 for float64), and integers wrap at the width of their result; blocks of float sums are
 * added up in float64, and so are those of squares. Means of integers are 128 bits wide; the squares of bytes are
 * integers, and those of other integers float64. */
#include "tensor/cpu/isa/exponents.h"
#include "tensor/cpu/isa/fold.h"
#include "tensor/cpu/isa/keys.h"

void K(partial_start)(partial *p, int64_t n, int op) {
  partial start = {.at = -1};
  if (op == ML_OP_var || op == ML_OP_std || op == ML_OP_norm) start.at = 0; /* and so is the centre */
  if (op == ML_OP_prod) start.a = 1;
  if (op == ML_OP_prod || op == ML_OP_all) start.k = 1;
  if (op == ML_OP_logsumexp) start.a = -INFINITY;
  if (n > 0) p[0] = start;
  for (int64_t i = 1; i < n; i++) p[i] = p[0]; /* not from the stack, whose halves would be waited for each time */
}

/* ---- floats: sixteen lanes a block ---- */

/* A block's lanes: those of what fill_up adds stay as they are. */
ALWAYS_INLINE float sum_block(const char *data, ml_dtype t, int64_t n) { return v_sum(fold_lanes(data, t, n, SUM)); }

ALWAYS_INLINE void sum_floats(partial *p, const char *data, ml_dtype t, int64_t n) {
  int item = t == ML_F32 ? sizeof(float) : sizeof(uint16_t);
  double total = p->a;
  int64_t i = 0;
  for (; i + REDUCE_BLOCK <= n; i += REDUCE_BLOCK) total += (double)sum_block(data + i * item, t, REDUCE_BLOCK);
  p->a = i < n ? total + (double)sum_block(data + i * item, t, n - i) : total;
}

ALWAYS_INLINE double fold_block(const char *data, ml_dtype t, int64_t n, fold how) {
  int item = ml_dtype_infos[t].bytes;
  v16d s = fold_start(how);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    look_ahead_wide(data + i * item, t);
    s = fold_step(s, load_wide(data + i * item, t), how);
  }
  if (i < n) {
    char room[LANES * sizeof(double)];
    double before[LANES], after[LANES];
    w_store(before, s);
    w_store(after, fold_step(s, load_wide(fill_up(data + i * item, t, n - i, room), t), how));
    for (int64_t k = n - i; k < LANES; k++) after[k] = before[k];
    s = w_load(after);
  }
  return join_doubles(s, how);
}

double K(squares_of_block)(const char *data, ml_dtype t, int64_t n) {
#define SQUARE_WIDE(T) return fold_block(data, T, n, SQUARES)
  FOR_NARROW(t, SQUARE_WIDE);
}

/* The last n < LANES elements, and `rest` behind them. */
ALWAYS_INLINE v16f load_last(const char *data, ml_dtype t, int64_t n, float rest) {
  float x[LANES];
  for (int64_t k = 0; k < LANES; k++) x[k] = k < n ? load_float(data, t, k) : rest;
  return v_load(x);
}

ALWAYS_INLINE double square_block(const char *data, ml_dtype t, int64_t n) {
  if (!is_narrow(t)) return fold_block(data, t, n, SQUARES);
  const float sum = v_sum(fold_lanes(data, t, n, SQUARES));
  return holds_squares(sum) ? (double)sum : K(squares_of_block)(data, t, n);
}

ALWAYS_INLINE spread spread_wide(const char *data, ml_dtype t, int64_t n, double centre) {
  int item = ml_dtype_infos[t].bytes;
  wide_spread s = wide_spread_start();
  const v16d c = w_set1(centre);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    look_ahead_wide(data + i * item, t);
    s = wide_spread_step(s, load_wide(data + i * item, t), c);
  }
  if (i < n) {
    char room[LANES * sizeof(double)];
    double x[LANES];
    w_store(x, load_wide(fill_up(data + i * item, t, n - i, room), t));
    for (int64_t k = n - i; k < LANES; k++) x[k] = centre; /* no distance */
    s = wide_spread_step(s, w_load(x), c);
  }
  return (spread){join_doubles(s.away, SUM), join_doubles(s.squares, SUM)};
}

static double element(const char *data, ml_dtype t, int64_t i) {
  return t == ML_F64 ? ((const double *)(const void *)data)[i] : (double)load_float(data, t, i);
}

spread K(spread_of_block)(const char *data, ml_dtype t, int64_t n, double centre) {
  spread s = {0, 0};
#define SPREAD_WIDE(T) s = spread_wide(data, T, n, centre)
  FOR_FLOATS(t, SPREAD_WIDE);
  for (int64_t i = 0; i < n && !isfinite(s.squares); i++) {
    if (!isfinite(element(data, t, i))) return (spread){s.away, NAN};
  }
  return s;
}

double K(centre_of_block)(const char *data, ml_dtype t, int64_t n) {
  double mean = 0;
  for (int64_t i = 0; i < n; i++) mean += element(data, t, i) / (double)n;
  return mean;
}

ALWAYS_INLINE spread spread_narrow(const char *data, ml_dtype t, int64_t n, float centre) {
  const int item = ml_dtype_infos[t].bytes;
  const v16f c = v_set1(centre);
  narrow_spread s = narrow_spread_start();
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    look_ahead(data + i * item);
    s = narrow_spread_step(s, load_narrow(data + i * item, t), c);
  }
  if (i < n) s = narrow_spread_step(s, load_last(data + i * item, t, n - i, centre), c);
  const float squares = v_sum(s.squares);
  if (!holds_squares(squares)) return K(spread_of_block)(data, t, n, (double)centre);
  return (spread){(double)v_sum(s.away), (double)squares};
}

/* The centre that a first block gives. */
ALWAYS_INLINE double first_centre(const char *data, ml_dtype t, int64_t n) {
  if (is_narrow(t)) {
    const float centre = centre_of_sum(sum_block(data, t, n), n);
    return (double)(isfinite(centre) ? centre : (float)K(centre_of_block)(data, t, n));
  }
  const double centre = fold_block(data, t, n, SUM) / (double)n;
  return t != ML_F64 || isfinite(centre) ? centre : K(centre_of_block)(data, t, n);
}

ALWAYS_INLINE void spread_block(partial *p, const char *data, ml_dtype t, int64_t n) {
  if (p->k == 0) take_centre(p, first_centre(data, t, n));
  spread s = is_narrow(t) ? spread_narrow(data, t, n, (float)p->centre) : spread_wide(data, t, n, p->centre);
  if (t == ML_F64 && !isfinite(s.squares)) s = K(spread_of_block)(data, t, n, p->centre);
  take_block(p, s, n, is_narrow(t));
}

static void take_narrow(partial *p, const char *data, ml_dtype t, int64_t n) {
#define TAKE(T) sum_floats(p, data, T, n)
  FOR_NARROW(t, TAKE);
#undef TAKE
}

/* One function a fold, of all dtypes; blocks of the full size are made apart, whose loops compilers unroll. */
#define TAKE_BLOCKS(T, BLOCK)                                                                                          \
  do {                                                                                                                 \
    int item = ml_dtype_infos[T].bytes;                                                                                \
    int64_t i = 0;                                                                                                     \
    for (; i + REDUCE_BLOCK <= n; i += REDUCE_BLOCK) BLOCK(data + i * item, T, REDUCE_BLOCK);                          \
    if (i < n) BLOCK(data + i * item, T, n - i);                                                                       \
  } while (0)
#define BY_BLOCKS(NAME, BLOCK)                                                                                         \
  static void NAME(partial *p, const char *data, ml_dtype t, int64_t n) { FOR_EACH_DTYPE(t, BLOCK) }

#define ADD_UP(x, T, n) p->a += fold_block(x, T, n, SUM)
#define MULTIPLY(x, T, n) p->a *= fold_block(x, T, n, PRODUCT)
#define SQUARE(x, T, n) p->a += square_block(x, T, n)
#define SPREAD_OUT(x, T, n) spread_block(p, x, T, n)
#define SQUARE_DTYPE(T) TAKE_BLOCKS(T, SQUARE)
#define SPREAD_DTYPE(T) TAKE_BLOCKS(T, SPREAD_OUT)
BY_BLOCKS(take_squares, SQUARE_DTYPE)
BY_BLOCKS(take_spread, SPREAD_DTYPE)

static void take_products(partial *p, const char *data, ml_dtype t, int64_t n) {
#define TAKE(T) TAKE_BLOCKS(T, MULTIPLY)
  FOR_FLOATS(t, TAKE);
#undef TAKE
}

static void take_wide(partial *p, int op, const char *data, ml_dtype t, int64_t n) {
  fold how = fold_of(op);
  if (how == PRODUCT) take_products(p, data, t, n);
  else if (how == SQUARES) take_squares(p, data, t, n);
  else TAKE_BLOCKS(ML_F64, ADD_UP);
}

/* ---- integers ---- */

/* Sums and products of integers narrower than 64 bits end as 32 bits, so that no more is kept of them. */
#define FOLD(TYPE, WIDE, VALUE)                                                                                        \
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

/* Bytes: each plus 128 where they have a sign, 1 where they are truths. */
#if defined(ML_ISA_AVX512)
#define BYTES_OF(OP) _mm512_##OP
typedef __m512i v_bytes;
ALWAYS_INLINE v_bytes load_bytes(const uint8_t *x) { return _mm512_loadu_si512(x); }
ALWAYS_INLINE v_bytes no_bytes(void) { return _mm512_setzero_si512(); }
ALWAYS_INLINE v_bytes flip_bytes(v_bytes x) { return _mm512_xor_si512(x, _mm512_set1_epi8(INT8_MIN)); }
#elif defined(ML_ISA_AVX2)
#define BYTES_OF(OP) _mm256_##OP
typedef __m256i v_bytes;
ALWAYS_INLINE v_bytes load_bytes(const uint8_t *x) { return _mm256_loadu_si256((const void *)x); }
ALWAYS_INLINE v_bytes no_bytes(void) { return _mm256_setzero_si256(); }
ALWAYS_INLINE v_bytes flip_bytes(v_bytes x) { return _mm256_xor_si256(x, _mm256_set1_epi8(INT8_MIN)); }
#endif

ALWAYS_INLINE int64_t add_bytes(const uint8_t *x, ml_dtype t, int64_t n) {
  int64_t sum = 0, i = 0;
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
  enum { ABREAST = sizeof(v_bytes) };
  v_bytes a = no_bytes(), b = a;
  for (; i + 2 * ABREAST <= n; i += 2 * ABREAST) {
    v_bytes u = load_bytes(x + i), v = load_bytes(x + i + ABREAST);
    if (t == ML_I8) u = flip_bytes(u), v = flip_bytes(v);
    if (t == ML_BOOL)
      u = BYTES_OF(min_epu8)(u, BYTES_OF(set1_epi8)(1)), v = BYTES_OF(min_epu8)(v, BYTES_OF(set1_epi8)(1));
    a = BYTES_OF(add_epi64)(a, BYTES_OF(sad_epu8)(u, no_bytes()));
    b = BYTES_OF(add_epi64)(b, BYTES_OF(sad_epu8)(v, no_bytes()));
  }
  int64_t lanes[ABREAST / sizeof(int64_t)];
  a = BYTES_OF(add_epi64)(a, b);
  memcpy(lanes, &a, sizeof a);
  for (size_t k = 0; k < sizeof lanes / sizeof *lanes; k++) sum += lanes[k];
  if (t == ML_I8) sum -= 128 * i;
#endif
  for (; i < n; i++) sum += t == ML_I8 ? (int8_t)x[i] : t == ML_BOOL ? x[i] != 0 : x[i];
  return sum;
}

static int64_t sum_bytes(const char *data, ml_dtype t, int64_t n) {
  const uint8_t *x = (const uint8_t *)data;
  return t == ML_I8 ? add_bytes(x, ML_I8, n) : t == ML_U8 ? add_bytes(x, ML_U8, n) : add_bytes(x, ML_BOOL, n);
}

static void take_integers(partial *p, int op, const char *data, ml_dtype t, int64_t n) {
  if (op == ML_OP_sum && ml_dtype_infos[t].bytes == 1) {
    p->k = (int64_t)((uint64_t)p->k + (uint64_t)sum_bytes(data, t, n));
    return;
  }
  switch (t) {
  case ML_I8: FOLD(int8_t, uint32_t, x[i]);
  case ML_U8: FOLD(uint8_t, uint32_t, x[i]);
  case ML_BOOL: FOLD(uint8_t, uint32_t, x[i] != 0);
  case ML_I16: FOLD(int16_t, uint32_t, x[i]);
  case ML_U16: FOLD(uint16_t, uint32_t, x[i]);
  case ML_I32:
  case ML_U32: FOLD(uint32_t, uint32_t, x[i]);
  default: FOLD(uint64_t, uint64_t, x[i]);
  }
}

/* VIA holds the sum of MOST elements. */
#define MEAN(TYPE, VIA, MOST)                                                                                          \
  do {                                                                                                                 \
    const TYPE *x = (const TYPE *)(const void *)data;                                                                  \
    for (int64_t i = 0, m; i < n; i += m) {                                                                            \
      VIA sum = 0;                                                                                                     \
      m = ml_min64(MOST, n - i);                                                                                       \
      for (int64_t k = 0; k < m; k++) sum += (VIA)x[i + k];                                                            \
      p->wide += sum;                                                                                                  \
    }                                                                                                                  \
    return;                                                                                                            \
  } while (0)

/* Exact. Integers of 64 bits are taken in halves, of which 2^31 fit into a sum; n is far below that. */
static void take_mean(partial *p, const char *data, ml_dtype t, int64_t n) {
  switch (t) {
  case ML_I8:
  case ML_U8:
  case ML_BOOL: p->wide += sum_bytes(data, t, n); return;
  case ML_I16: MEAN(int16_t, int32_t, 1 << 15);
  case ML_U16: MEAN(uint16_t, int32_t, 1 << 15);
  case ML_I32: MEAN(int32_t, int64_t, 1 << 30);
  case ML_U32: MEAN(uint32_t, int64_t, 1 << 30);
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

/* The sum of the squares of n <= LOOK_AHEAD bytes. */
ALWAYS_INLINE int64_t square_bytes(const uint8_t *x, ml_dtype t, int64_t n) {
  int64_t sum = 0, i = 0;
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
  enum { ABREAST = sizeof(v_bytes) };
  v_bytes squares = no_bytes();
  for (; i + ABREAST <= n; i += ABREAST) {
    v_bytes u = load_bytes(x + i);
    if (t == ML_I8) u = BYTES_OF(abs_epi8)(u); /* as a byte without a sign, of 128 as well */
    if (t == ML_BOOL) u = BYTES_OF(min_epu8)(u, BYTES_OF(set1_epi8)(1));
    const v_bytes low = BYTES_OF(unpacklo_epi8)(u, no_bytes()), high = BYTES_OF(unpackhi_epi8)(u, no_bytes());
    squares = BYTES_OF(add_epi32)(squares, BYTES_OF(madd_epi16)(low, low));
    squares = BYTES_OF(add_epi32)(squares, BYTES_OF(madd_epi16)(high, high));
  }
  int32_t lanes[ABREAST / sizeof(int32_t)];
  memcpy(lanes, &squares, sizeof squares);
  for (size_t k = 0; k < sizeof lanes / sizeof *lanes; k++) sum += lanes[k];
#endif
  for (; i < n; i++) {
    const int v = t == ML_I8 ? (int8_t)x[i] : t == ML_BOOL ? x[i] != 0 : x[i];
    sum += v * v;
  }
  return sum;
}

static void take_moments(partial *p, const char *data, ml_dtype t, int64_t n) {
  const uint8_t *x = (const uint8_t *)data;
  p->k += sum_bytes(data, t, n);
  p->at += t == ML_I8   ? square_bytes(x, ML_I8, n)
           : t == ML_U8 ? square_bytes(x, ML_U8, n)
                        : square_bytes(x, ML_BOOL, n);
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

/* Elements that are seen at once where an index is looked for. */
enum { STRIDE = 64 };

/* NAME_max: the largest key of n > 0; NAME_place: the same of an index's keys; NAME_find: the first index that has it.
 */
#define LARGEST(NAME, S, MERGE)                                                                                        \
  S best = (S)(UINT64_C(1) << (sizeof(S) * 8 - 1));                                                                    \
  for (int64_t i = 0; i < n; i++) {                                                                                    \
    S key = NAME##_key(x[i], flip, MERGE);                                                                             \
    best = key > best ? key : best;                                                                                    \
  }                                                                                                                    \
  return best
#define FIND(T, NAME, S, KEY)                                                                                          \
  static S NAME##_max(const S *x, int64_t n, S flip) { LARGEST(NAME, S, 0); }                                          \
  static S NAME##_place(const S *x, int64_t n, S flip) { LARGEST(NAME, S, -1); }                                       \
  static int64_t NAME##_find(const S *x, int64_t n, S flip, S best) {                                                  \
    int64_t i = 0;                                                                                                     \
    for (; i + STRIDE <= n; i += STRIDE) {                                                                             \
      S first = STRIDE;                                                                                                \
      for (int k = 0; k < STRIDE; k++) {                                                                               \
        S at = NAME##_key(x[i + k], flip, -1) == best ? (S)k : (S)STRIDE;                                              \
        first = at < first ? at : first;                                                                               \
      }                                                                                                                \
      if (first < STRIDE) return i + first;                                                                            \
    }                                                                                                                  \
    while (i < n - 1 && NAME##_key(x[i], flip, -1) != best) i++;                                                       \
    return i;                                                                                                          \
  }
EACH_KEY(FIND)

#define CHOOSE(T, NAME, S, KEY)                                                                                        \
  case T: {                                                                                                            \
    const S *x = (const S *)(const void *)data, flip = (S)(wants_smallest(op) ? -1 : 0);                               \
    S key = indices ? NAME##_place(x, n, flip) : NAME##_max(x, n, flip);                                               \
    if (p->at < 0 || key > p->k) p->k = key, p->at = indices ? first + NAME##_find(x, n, flip, key) : 0;               \
    return;                                                                                                            \
  }

/* The largest of n > 0, or the smallest, where all are finite: comparing floats is cheaper than making keys. */
ALWAYS_INLINE bool finite_extreme(const float *x, int64_t n, bool smallest, float *out) {
  v16f best = v_set1(x[0]), other = best, faults = v_set1(0), more = faults; /* 0 by each, NaN where it is not finite */
  const v16f zero = v_set1(0);
  int64_t i = 0;
  for (; i + 2 * LANES <= n; i += 2 * LANES) {
    v16f a = v_load(x + i), b = v_load(x + i + LANES);
    best = smallest ? v_min(a, best) : v_max(a, best);
    other = smallest ? v_min(b, other) : v_max(b, other);
    faults = v_fma(a, zero, faults);
    more = v_fma(b, zero, more);
  }
  for (int64_t m; i < n; i += m) {
    m = ml_min64(LANES, n - i);
    v16f a = m == LANES ? v_load(x + i) : v_load_part(x + i, (int)m, x[0]);
    best = smallest ? v_min(a, best) : v_max(a, best);
    faults = v_fma(a, zero, faults);
  }
  best = smallest ? v_mul(v_min(best, other), v_set1(-1)) : v_max(best, other);
  *out = smallest ? -v_max_lane(best) : v_max_lane(best);
  return v_sum(v_add(faults, more)) == 0;
}

static bool find_extreme(const float *x, int64_t n, bool smallest, float *out) {
  return smallest ? finite_extreme(x, n, true, out) : finite_extreme(x, n, false, out);
}

static int64_t find_float(const float *x, int64_t n, float value) {
  int64_t i = 0;
  for (; i + STRIDE <= n; i += STRIDE) {
    int any = 0;
    for (int k = 0; k < STRIDE; k++) any |= x[i + k] == value;
    if (any) break;
  }
  while (i < n - 1 && x[i] != value) i++;
  return i;
}

/* choose, of float32, where all are finite and the result is no zero of unknown sign; else false, and nothing is done.
 */
static bool choose_finite(partial *p, int op, const float *x, int64_t n, int64_t first) {
  const bool smallest = wants_smallest(op), index = wants_index(op);
  float best;
  if (!find_extreme(x, n, smallest, &best)) return false;
  if (!index && best == 0) return false;
  int32_t bits;
  memcpy(&bits, &best, sizeof bits);
  int32_t key = f32_key(bits, smallest ? -1 : 0, -1);
  if (p->at >= 0 && key <= p->k) return true;
  p->k = key;
  p->at = index ? first + find_float(x, n, best) : 0;
  return true;
}

static void choose(partial *p, int op, const char *data, ml_dtype t, int64_t n, int64_t first) {
  bool indices = wants_index(op);
  if (t == ML_F32 && choose_finite(p, op, (const float *)(const void *)data, n, first)) return;
  switch (t) {
    EACH_KEY(CHOOSE)
  default: return;
  }
}

/* ---- logsumexp ---- */

ALWAYS_INLINE bool any_above(v16f a, float limit) {
#if defined(ML_ISA_AVX512)
  return _mm512_cmp_ps_mask(a, _mm512_set1_ps(limit), _CMP_GT_OQ) != 0;
#elif defined(ML_ISA_AVX2)
  const __m256 most = _mm256_max_ps(a.lo, a.hi);
  return _mm256_movemask_ps(_mm256_cmp_ps(most, _mm256_set1_ps(limit), _CMP_GT_OQ)) != 0;
#else
  bool any = false;
  EACH any |= a.f[i_] > limit;
  return any;
#endif
}

/* NaN where there is one. */
static double largest(const double *x, int n) {
  union {
    int64_t i;
    double d;
  } v = {.i = bits_of(f64_max((const int64_t *)(const void *)x, n, 0), ML_F64, false)};
  return v.d;
}

/* Of narrow floats that are finite, or minus infinity as long as there are others; else false, and nothing is done. The
 * terms are float32, of powers of e below the largest so far, and so is a block's sum of them: where no block has a
 * larger one than those before it nothing is scaled. */
ALWAYS_INLINE bool take_finite_exponents(partial *p, const char *data, ml_dtype t, int64_t n) {
  const int item = ml_dtype_infos[t].bytes;
  const int64_t whole = n / LANES * LANES;
  float rest[LANES];
  v16f most = v_set1(-INFINITY), sum = v_set1(0);
  for (int64_t i = whole; i < whole + LANES; i++) rest[i - whole] = i < n ? load_float(data, t, i) : -INFINITY;
  for (int64_t i = 0; i < whole; i += LANES) {
    look_ahead(data + i * item);
    most = v_max(load_narrow(data + i * item, t), most);
  }
  most = v_max(v_load(rest), most);
  float max = (float)p->a;
  if ((max - max != 0 || any_above(most, max)) && !raise_largest(p, v_max_lane(most), &max)) return false;
  const v16f less = v_set1(-max);
  for (int64_t i = 0; i < whole; i += LANES)
    sum = v_add(sum, v_exp_below(v_add(load_narrow(data + i * item, t), less)));
  if (whole < n) sum = v_add(sum, v_exp_below(v_add(v_load(rest), less)));
  const float total = v_sum(sum);
  if (total != total) return false; /* a NaN, which is no maximum */
  take_exponents_below(p, max, total);
  return true;
}

ALWAYS_INLINE void exponents_block(partial *p, const char *data, ml_dtype t, int64_t n) {
  if (is_narrow(t) && take_finite_exponents(p, data, t, n)) return;
  double x[REDUCE_BLOCK], e[REDUCE_BLOCK];
  int item = ml_dtype_infos[t].bytes;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) w_store(x + i, load_wide(data + i * item, t));
  if (i < n) {
    char room[LANES * sizeof(double)];
    w_store(x + i, load_wide(fill_up(data + i * item, t, n - i, room), t));
  }
  double max = largest(x, (int)n);
  if (max - max != 0) { /* infinite, or none */
    join_exponents(p, max, 0);
    return;
  }
  for (i = 0; i < n; i++) e[i] = exp(x[i] - max);
  join_exponents(p, max, fold_block((const char *)e, ML_F64, n, SUM));
}

void K(exponents_of_block)(partial *p, const char *data, ml_dtype t, int64_t n) {
#define EXPONENTS_OF_BLOCK(T) exponents_block(p, data, T, n)
  FOR_FLOATS(t, EXPONENTS_OF_BLOCK);
}

#define EXPONENTS_OF(x, T, n) exponents_block(p, x, T, n)
#define EXPONENTS_DTYPE(T) TAKE_BLOCKS(T, EXPONENTS_OF)
BY_BLOCKS(take_exponents, EXPONENTS_DTYPE)

/* ---- all together ---- */

/* By loops that compilers make vectors of. */
static void take_piece(partial *p, kind what, int op, const char *data, ml_dtype t, int64_t n, int64_t first) {
  switch (what) {
  case INTEGERS: take_integers(p, op, data, t, n); return;
  case INTEGER_MEAN: take_mean(p, data, t, n); return;
  case MOMENTS: take_moments(p, data, t, n); return;
  case TRUTH: take_truth(p, op, data, t, n); return;
  default: choose(p, op, data, t, n, first);
  }
}

void K(partial_take)(partial *p, int op, const char *data, ml_dtype t, int64_t n, int64_t first) {
  const kind what = kind_of(op, t);
  switch (what) {
  case NARROW: take_narrow(p, data, t, n); return;
  case WIDE: take_wide(p, op, data, t, n); return;
  case SPREAD: take_spread(p, data, t, n); return;
  case EXPONENTS: take_exponents(p, data, t, n); return;
  default: break;
  }
  const int64_t item = ml_dtype_infos[t].bytes, piece = LOOK_AHEAD / item; /* each asks for the next */
  for (int64_t i = 0; i < n; i += piece) {
    for (int64_t b = 0; b < LOOK_AHEAD; b += LINE) look_ahead(data + i * item + b);
    take_piece(p, what, op, data + i * item, t, ml_min64(piece, n - i), first + i);
  }
}

void K(partial_end)(partial *p, int64_t n, int op, ml_dtype t) {
  if (kind_of(op, t) != SPREAD) return;
  for (int64_t i = 0; i < n; i++) {
    if (p[i].k % GROUP) join_group(&p[i], p[i].k % GROUP);
  }
}

void K(partial_join)(partial *p, const partial *next, int op, ml_dtype t) {
  if (kind_of(op, t) == MOMENTS) {
    p->k += next->k, p->at += next->at;
    return;
  }
  switch (op) {
  case ML_OP_prod:
    p->k = (int64_t)((uint64_t)p->k * (uint64_t)next->k);
    p->a *= next->a;
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
  case ML_OP_std:
    if (p->k == 0) p->base = next->base;
    if (next->k) join_moments(p, (moments){next->base - p->base + next->a, next->b}, next->k);
    return;
  default:
    if (kind_of(op, t) == INTEGER_MEAN) p->wide += next->wide;
    else p->a += next->a;
    p->k = (int64_t)((uint64_t)p->k + (uint64_t)next->k);
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

static double squares(const partial *p, int op, ml_dtype t, int64_t count) {
  if (kind_of(op, t) == MOMENTS) return moment_of(op, p->k, p->at, count);
  return op == ML_OP_norm ? p->a : p->b;
}

static double mean(const partial *p, ml_dtype t, int64_t count) {
  if (!ml_dtype_is_float(t)) return (double)p->wide / (double)count;
  return t == ML_F64 ? p->a / (double)count : (double)((float)p->a / (float)count);
}

/* For each of n results, from `at` on, `step` apart. */
#define EACH_RESULT for (int64_t i = 0; i < n; i++, at += step, p++)

void K(partial_finish)(const partial *p, int64_t n, const ml_task *t, int64_t count, int64_t at, int64_t step) {
  const ml_arg *o = &t->out[0];
  ml_dtype dtype = head_dtype(t);
  int op = t->step->op;
  switch (op) {
  case ML_OP_argmax:
  case ML_OP_argmin: EACH_RESULT put_bits(o, at, p->at); return;
  case ML_OP_max:
  case ML_OP_min: EACH_RESULT put_bits(o, at, bits_of(p->k, dtype, op == ML_OP_min)); return;
  case ML_OP_all:
  case ML_OP_any: EACH_RESULT put_bits(o, at, p->k); return;
  case ML_OP_mean: EACH_RESULT put_double(o, at, mean(p, dtype, count)); return;
  case ML_OP_norm: EACH_RESULT put_double(o, at, sqrt(squares(p, op, dtype, count))); return;
  case ML_OP_var: EACH_RESULT put_double(o, at, squares(p, op, dtype, count) / spread_divisor(t, count)); return;
  case ML_OP_std: EACH_RESULT put_double(o, at, sqrt(squares(p, op, dtype, count) / spread_divisor(t, count))); return;
  case ML_OP_logsumexp: EACH_RESULT put_double(o, at, p->a - p->a != 0 ? p->a : p->a + log(p->b)); return;
  default:
    if (ml_dtype_is_float(dtype)) EACH_RESULT put_double(o, at, p->a);
    else EACH_RESULT put_bits(o, at, p->k);
  }
}
