/* elementwise.c: elementwise programs (ml_fused) over tiles.
 *
 * A tile is up to TILE consecutive elements along the innermost axis. Each register of the program is a tile in the
 * class of its dtype: float32 for the float types, float64, int64 for integers and bool, uint64 for uint64 alone;
 * results are rounded or wrapped to their dtype. */
#include "tensor/cpu/isa/elementwise.h"

#include "tensor/cpu/isa/move.h"
#include "tensor/cpu/isa/simd.h"

enum { MAX_REGS = ML_FUSED_MAX_INPUTS + ML_FUSED_MAX_CODE, RUN = 16 * TILE, AHEAD = 2 };

typedef enum cls { CF, CD, CI, CU } cls;
ALWAYS_INLINE cls class_of(ml_dtype t) {
  if (t == ML_F64) return CD;
  if (ml_dtype_is_float(t) || t == ML_F8_E4M3) return CF;
  return t == ML_U64 ? CU : CI;
}

#define EACH_TILE for (int i = 0; i < n; i++)
#define MAP1(expr)                                                                                                     \
  EACH_TILE {                                                                                                          \
    const T x = a[i];                                                                                                  \
    o[i] = (T)(expr);                                                                                                  \
  }                                                                                                                    \
  return
#define MAP2(expr)                                                                                                     \
  EACH_TILE {                                                                                                          \
    const T x = a[i], y = b[i];                                                                                        \
    o[i] = (T)(expr);                                                                                                  \
  }                                                                                                                    \
  return
#define TEST1(expr)                                                                                                    \
  EACH_TILE {                                                                                                          \
    const T x = a[i];                                                                                                  \
    o[i] = (expr) ? 1 : 0;                                                                                             \
  }                                                                                                                    \
  return
#define TEST2(expr)                                                                                                    \
  EACH_TILE {                                                                                                          \
    const T x = a[i], y = b[i];                                                                                        \
    o[i] = (expr) ? 1 : 0;                                                                                             \
  }                                                                                                                    \
  return

/* Vectorised stand-ins, and the C library's functions in the reference. */
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
ALWAYS_INLINE float silu1(float x) { return x * fast_sigmoid(x); }
#else
ALWAYS_INLINE float silu1(float x) { return x / (1.0f + expf(-x)); }
#endif
/* Exact down to the least results, where 1 / (1 + exp(-x)) would be 1 / infinity. */
ALWAYS_INLINE float sigmoid1(float x) {
  float e = fast_exp(-fabsf(x)), s = 1.0f / (1.0f + e);
  return x < 0 ? e * s : s;
}
ALWAYS_INLINE float gelu_tanh1(float x) {
  return 0.5f * x * (1.0f + fast_tanh(0.79788456080286536f * (x + 0.044715f * (x * x * x))));
}
ALWAYS_INLINE float gelu1(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
ALWAYS_INLINE float logaddexp1(float x, float y) {
  float m = x > y ? x : y;
  if (m != m || isinf(m)) return x != x || y != y ? NAN : m;
  return m + log1pf(expf(-fabsf(x - y)));
}

/* r = fmod(x, y), in float64 for both types. While the quotient is below 2^52, its integer part is right or one too
 * large, and x less that many y is exact; adding y back once mends the latter. The rest is left to FMOD, which would
 * take forty times as long for all of them. */
#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
#define REMAINDERS(NAME, T, FMOD)                                                                                      \
  static void NAME(T *restrict r, const T *x, const T *y, int n) {                                                     \
    int left = 0;                                                                                                      \
    EACH_TILE {                                                                                                        \
      const double a = x[i], b = y[i], q = __builtin_trunc(a / b);                                                     \
      const double rest = q == 0 ? a : __builtin_fma(-q, b, a), back = a < 0 ? -fabs(b) : fabs(b);                     \
      r[i] = (T)(rest != 0 && (rest < 0) != (a < 0) ? rest + back : rest);                                             \
      left += !(fabs(q) < 0x1p52);                                                                                     \
    }                                                                                                                  \
    for (int i = 0; i < n && left > 0; i++) {                                                                          \
      if (!(fabs((double)x[i] / (double)y[i]) < 0x1p52)) r[i] = FMOD(x[i], y[i]);                                      \
    }                                                                                                                  \
  }
#else
#define REMAINDERS(NAME, T, FMOD)                                                                                      \
  static void NAME(T *restrict r, const T *x, const T *y, int n) { EACH_TILE r[i] = FMOD(x[i], y[i]); }
#endif
REMAINDERS(remaindersf, float, fmodf)
REMAINDERS(remainders, double, fmod)

/* From r = fmod(x, y): the remainder that has the sign of y, and the quotient that goes with it. x - y floor(x / y)
 * would lose all digits where x / y is large. */
#define MODULO(MOD, FLOORDIV, T, FLOOR, COPYSIGN)                                                                      \
  ALWAYS_INLINE T MOD(T y, T r) {                                                                                      \
    T moved = (y < 0) != (r < 0) ? r + y : r;                                                                          \
    return r == 0 && y != 0 ? COPYSIGN(0, y) : y == 0 ? r : moved;                                                     \
  }                                                                                                                    \
  ALWAYS_INLINE T FLOORDIV(T x, T y, T r) {                                                                            \
    T q = (x - r) / y;                                                                                                 \
    q -= r != 0 && (y < 0) != (r < 0) ? 1 : 0;                                                                         \
    T whole = FLOOR(q);                                                                                                \
    whole += q - whole > (T)0.5 ? 1 : 0; /* the division may have fallen short of an integer */                        \
    return y == 0 ? x / y : q == 0 ? COPYSIGN(0, x / y) : whole;                                                       \
  }
MODULO(modf1, floordivf1, float, floorf, copysignf)
MODULO(mod1, floordiv1, double, floor, copysign)

static void float_op(int op, float *restrict o, const float *a, const float *b, int n) {
  typedef float T;
  switch (op) {
  case ML_OP_copy:
  case ML_OP_astype: MAP1(x);
  case ML_OP_neg: MAP1(-x);
  case ML_OP_abs: MAP1(fabsf(x));
  case ML_OP_sign: MAP1(x != x ? x : (float)((x > 0) - (x < 0)));
  case ML_OP_square: MAP1(x * x);
  case ML_OP_exp: MAP1(fast_exp(x));
  case ML_OP_expm1: MAP1(expm1f(x));
  case ML_OP_log: MAP1(logf(x));
  case ML_OP_log1p: MAP1(log1pf(x));
  case ML_OP_log2: MAP1(log2f(x));
  case ML_OP_sqrt: MAP1(sqrtf(x));
  case ML_OP_rsqrt: MAP1(1.0f / sqrtf(x));
  case ML_OP_reciprocal: MAP1(1.0f / x);
  case ML_OP_sin: MAP1(sinf(x));
  case ML_OP_cos: MAP1(cosf(x));
  case ML_OP_tan: MAP1(tanf(x));
  case ML_OP_sinh: MAP1(sinhf(x));
  case ML_OP_cosh: MAP1(coshf(x));
  case ML_OP_tanh: MAP1(fast_tanh(x));
  case ML_OP_arcsin: MAP1(asinf(x));
  case ML_OP_arccos: MAP1(acosf(x));
  case ML_OP_arctan: MAP1(atanf(x));
  case ML_OP_erf: MAP1(erff(x));
  case ML_OP_sigmoid: MAP1(sigmoid1(x));
  case ML_OP_silu: MAP1(silu1(x));
  case ML_OP_gelu: MAP1(gelu1(x));
  case ML_OP_gelu_tanh: MAP1(gelu_tanh1(x));
  case ML_OP_relu: MAP1(x > 0 || x != x ? x : 0);
  case ML_OP_floor: MAP1(floorf(x));
  case ML_OP_ceil: MAP1(ceilf(x));
  case ML_OP_round: MAP1(rintf(x));
  case ML_OP_add: MAP2(x + y);
  case ML_OP_sub: MAP2(x - y);
  case ML_OP_mul: MAP2(x * y);
  case ML_OP_div: MAP2(x / y);
  case ML_OP_floordiv: remaindersf(o, a, b, n); MAP2(floordivf1(x, y, o[i]));
  case ML_OP_mod:
    remaindersf(o, a, b, n);
    EACH_TILE o[i] = modf1(b[i], o[i]);
    return;
  case ML_OP_pow: MAP2(powf(x, y));
  case ML_OP_maximum: MAP2(x > y || x != x ? x : y);
  case ML_OP_minimum: MAP2(x < y || x != x ? x : y);
  case ML_OP_arctan2: MAP2(atan2f(x, y));
  case ML_OP_logaddexp: MAP2(logaddexp1(x, y));
  default: return;
  }
}

/* The cheap ones of a whole tile: loops of a known length have no end to be mistaken about. */
static bool whole_float_op(int op, float *restrict o, const float *a, const float *b) {
  typedef float T;
  enum { n = TILE };
#define WHOLE(expr)                                                                                                    \
  EACH_TILE {                                                                                                          \
    const T x = a[i], y = b[i];                                                                                        \
    o[i] = (expr);                                                                                                     \
  }                                                                                                                    \
  return true
  switch (op) {
  case ML_OP_add: WHOLE(x + y);
  case ML_OP_sub: WHOLE(x - y);
  case ML_OP_mul: WHOLE(x * y);
  case ML_OP_div: WHOLE(x / y);
  default: return false;
  }
#undef WHOLE
}

static void double_op(int op, double *restrict o, const double *a, const double *b, int n) {
  typedef double T;
  switch (op) {
  case ML_OP_copy:
  case ML_OP_astype: MAP1(x);
  case ML_OP_neg: MAP1(-x);
  case ML_OP_abs: MAP1(fabs(x));
  case ML_OP_sign: MAP1(x != x ? x : (double)((x > 0) - (x < 0)));
  case ML_OP_square: MAP1(x * x);
  case ML_OP_exp: MAP1(exp(x));
  case ML_OP_expm1: MAP1(expm1(x));
  case ML_OP_log: MAP1(log(x));
  case ML_OP_log1p: MAP1(log1p(x));
  case ML_OP_log2: MAP1(log2(x));
  case ML_OP_sqrt: MAP1(sqrt(x));
  case ML_OP_rsqrt: MAP1(1.0 / sqrt(x));
  case ML_OP_reciprocal: MAP1(1.0 / x);
  case ML_OP_sin: MAP1(sin(x));
  case ML_OP_cos: MAP1(cos(x));
  case ML_OP_tan: MAP1(tan(x));
  case ML_OP_sinh: MAP1(sinh(x));
  case ML_OP_cosh: MAP1(cosh(x));
  case ML_OP_tanh: MAP1(tanh(x));
  case ML_OP_arcsin: MAP1(asin(x));
  case ML_OP_arccos: MAP1(acos(x));
  case ML_OP_arctan: MAP1(atan(x));
  case ML_OP_erf: MAP1(erf(x));
  case ML_OP_sigmoid: MAP1(x < 0 ? exp(x) / (1.0 + exp(x)) : 1.0 / (1.0 + exp(-x)));
  case ML_OP_silu: MAP1(x / (1.0 + exp(-x)));
  case ML_OP_gelu: MAP1(0.5 * x * (1.0 + erf(x * 0.70710678118654752440)));
  case ML_OP_gelu_tanh: MAP1(0.5 * x * (1.0 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x))));
  case ML_OP_relu: MAP1(x > 0 || x != x ? x : 0);
  case ML_OP_floor: MAP1(floor(x));
  case ML_OP_ceil: MAP1(ceil(x));
  case ML_OP_round: MAP1(rint(x));
  case ML_OP_add: MAP2(x + y);
  case ML_OP_sub: MAP2(x - y);
  case ML_OP_mul: MAP2(x * y);
  case ML_OP_div: MAP2(x / y);
  case ML_OP_floordiv: remainders(o, a, b, n); MAP2(floordiv1(x, y, o[i]));
  case ML_OP_mod:
    remainders(o, a, b, n);
    EACH_TILE o[i] = mod1(b[i], o[i]);
    return;
  case ML_OP_pow: MAP2(pow(x, y));
  case ML_OP_maximum: MAP2(x > y || x != x ? x : y);
  case ML_OP_minimum: MAP2(x < y || x != x ? x : y);
  case ML_OP_arctan2: MAP2(atan2(x, y));
  case ML_OP_logaddexp: MAP2(x == y ? x + log(2.0) : fmax(x, y) + log1p(exp(-fabs(x - y))));
  default: return;
  }
}

ALWAYS_INLINE int64_t wrap_add(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }
ALWAYS_INLINE int64_t wrap_mul(int64_t a, int64_t b) { return (int64_t)((uint64_t)a * (uint64_t)b); }

static int64_t int_floordiv(int64_t x, int64_t y) {
  if (y == 0) return 0;
  if (y == -1) return (int64_t)(0 - (uint64_t)x);
  int64_t q = x / y;
  return q - (x % y != 0 && (x < 0) != (y < 0));
}

static int64_t int_mod(int64_t x, int64_t y) {
  return y == 0 ? 0 : (int64_t)((uint64_t)x - (uint64_t)y * (uint64_t)int_floordiv(x, y));
}

static uint64_t uint_pow(uint64_t x, uint64_t y) {
  uint64_t r = 1;
  for (; y; y >>= 1, x *= x) {
    if (y & 1) r *= x;
  }
  return r;
}

static int64_t int_pow(int64_t x, int64_t y) {
  if (y < 0) return x == 1 ? 1 : x == -1 ? (y & 1 ? -1 : 1) : 0;
  return (int64_t)uint_pow((uint64_t)x, (uint64_t)y);
}

static void int_op(int op, int64_t *restrict o, const int64_t *a, const int64_t *b, int n) {
  typedef int64_t T;
  switch (op) {
  case ML_OP_copy:
  case ML_OP_astype:
  case ML_OP_floor:
  case ML_OP_ceil:
  case ML_OP_round: MAP1(x);
  case ML_OP_neg: MAP1(0 - (uint64_t)x);
  case ML_OP_abs: MAP1(x < 0 ? 0 - (uint64_t)x : (uint64_t)x);
  case ML_OP_sign: MAP1((x > 0) - (x < 0));
  case ML_OP_square: MAP1(wrap_mul(x, x));
  case ML_OP_relu: MAP1(x > 0 ? x : 0);
  case ML_OP_add: MAP2(wrap_add(x, y));
  case ML_OP_sub: MAP2((uint64_t)x - (uint64_t)y);
  case ML_OP_mul: MAP2(wrap_mul(x, y));
  case ML_OP_floordiv: MAP2(int_floordiv(x, y));
  case ML_OP_mod: MAP2(int_mod(x, y));
  case ML_OP_pow: MAP2(int_pow(x, y));
  case ML_OP_maximum: MAP2(x > y ? x : y);
  case ML_OP_minimum: MAP2(x < y ? x : y);
  case ML_OP_bitwise_and: MAP2(x & y);
  case ML_OP_bitwise_or: MAP2(x | y);
  case ML_OP_bitwise_xor: MAP2(x ^ y);
  case ML_OP_left_shift: MAP2((uint64_t)y > 63 ? 0 : (uint64_t)x << y);
  case ML_OP_right_shift: MAP2((uint64_t)y > 63 ? (x < 0 ? -1 : 0) : x >> y);
  default: return;
  }
}

/* What differs from signed integers. */
static void uint_op(int op, uint64_t *restrict o, const uint64_t *a, const uint64_t *b, int n) {
  typedef uint64_t T;
  switch (op) {
  case ML_OP_abs:
  case ML_OP_relu: MAP1(x);
  case ML_OP_sign: MAP1(x > 0);
  case ML_OP_floordiv: MAP2(y ? x / y : 0);
  case ML_OP_mod: MAP2(y ? x % y : 0);
  case ML_OP_pow: MAP2(uint_pow(x, y));
  case ML_OP_maximum: MAP2(x > y ? x : y);
  case ML_OP_minimum: MAP2(x < y ? x : y);
  case ML_OP_left_shift: MAP2(y > 63 ? 0 : x << y);
  case ML_OP_right_shift: MAP2(y > 63 ? 0 : x >> y);
  default: int_op(op, (int64_t *)o, (const int64_t *)a, (const int64_t *)b, n);
  }
}

/* Comparisons and predicates: operands of one class, results 0 or 1. */
#define PREDICATES(NAME, TYPE, NAN_TEST, INF_TEST)                                                                     \
  static void NAME(int op, int64_t *restrict o, const TYPE *a, const TYPE *b, int n) {                                 \
    typedef TYPE T;                                                                                                    \
    switch (op) {                                                                                                      \
    case ML_OP_eq: TEST2(x == y);                                                                                      \
    case ML_OP_ne: TEST2(x != y);                                                                                      \
    case ML_OP_lt: TEST2(x < y);                                                                                       \
    case ML_OP_le: TEST2(x <= y);                                                                                      \
    case ML_OP_gt: TEST2(x > y);                                                                                       \
    case ML_OP_ge: TEST2(x >= y);                                                                                      \
    case ML_OP_logical_and: TEST2(x != 0 && y != 0);                                                                   \
    case ML_OP_logical_or: TEST2(x != 0 || y != 0);                                                                    \
    case ML_OP_logical_not: TEST1(x == 0);                                                                             \
    case ML_OP_isnan: TEST1(NAN_TEST);                                                                                 \
    case ML_OP_isinf: TEST1(INF_TEST);                                                                                 \
    case ML_OP_isfinite: TEST1(!(NAN_TEST) && !(INF_TEST));                                                            \
    default: return;                                                                                                   \
    }                                                                                                                  \
  }
PREDICATES(float_test, float, x != x, x == INFINITY || x == -INFINITY)
PREDICATES(double_test, double, x != x, x == INFINITY || x == -INFINITY)
PREDICATES(int_test, int64_t, ((void)x, 0), ((void)x, 0))
PREDICATES(uint_test, uint64_t, ((void)x, 0), ((void)x, 0))

/* Integers of which one alone is uint64: a uint64 that no int64 holds counts as the largest int64 does, save that it is
 * equal to nothing. */
static void mixed_test(int op, int64_t *restrict o, const int64_t *a, cls ca, const int64_t *b, int n) {
  const int64_t *wide = ca == CU ? a : b;
  int64_t capped[TILE];
  EACH_TILE capped[i] = wide[i] < 0 ? INT64_MAX : wide[i];
  int_test(op, o, ca == CU ? capped : a, ca == CU ? b : capped, n);
  bool wide_wins = ca == CU ? op == ML_OP_gt || op == ML_OP_ge : op == ML_OP_lt || op == ML_OP_le;
  bool decided = op == ML_OP_eq || op == ML_OP_ne || (op >= ML_OP_lt && op <= ML_OP_ge);
  if (decided) EACH_TILE o[i] = wide[i] < 0 ? wide_wins || op == ML_OP_ne : o[i];
}

/* ---- conversion ---- */

static int64_t to_int(double d) {
  if (d != d) return 0;
  return d >= 0x1p63 ? INT64_MAX : d < -0x1p63 ? INT64_MIN : (int64_t)d;
}

/* From 0 up like to_int, with uint64's own end; below, as int64 wrapped. */
static uint64_t to_uint(double d) {
  if (!(d >= 0x1p63)) return (uint64_t)to_int(d);
  return d >= 0x1p64 ? UINT64_MAX : (uint64_t)d;
}

/* A float64 as a float32 that rounds to float16 or bfloat16 as the float64 itself does: towards zero, with the last bit
 * set where something was lost ("round to odd"). Rounding to nearest twice would not. */
static float to_odd(double d) {
  union {
    float f;
    uint32_t u;
  } v = {.f = (float)d};
  if ((double)v.f == d || d != d) return v.f;
  if (fabs((double)v.f) > fabs(d)) v.u--; /* rounded away from zero, perhaps to infinity */
  v.u |= 1;
  return v.f;
}

static float narrow(double d, ml_dtype to) { return to == ML_F32 ? (float)d : to_odd(d); }

/* The same of integers. Those that float64 does not hold lose low bits first, of which one is set for all: far below
 * the last bit that a half float keeps. */
static float narrow_int(int64_t x, ml_dtype to) {
  const int64_t exact = INT64_C(1) << 53, low = 0xffff;
  if (to == ML_F32) return (float)x;
  if (x > exact || x < -exact) x = (x & ~low) | (x & low ? (low + 1) / 2 : 0);
  return to_odd((double)x);
}

static float narrow_uint(uint64_t x, ml_dtype to) {
  if (to == ML_F32) return (float)x;
  if (x >> 63 == 0) return narrow_int((int64_t)x, to);
  return 2 * narrow_int((int64_t)(x >> 1 | (x & 1)), to);
}

#define CONVERT(TO, FROM, expr)                                                                                        \
  do {                                                                                                                 \
    EACH_TILE {                                                                                                        \
      const FROM x = ((const FROM *)a)[i];                                                                             \
      ((TO *)o)[i] = (TO)(expr);                                                                                       \
    }                                                                                                                  \
    return;                                                                                                            \
  } while (0)

static void convert(void *o, ml_dtype to, const void *a, ml_dtype from, int n) {
  cls cf = class_of(from), ct = class_of(to);
  if (to == ML_BOOL && cf == CF) CONVERT(int64_t, float, x != 0);
  if (to == ML_BOOL && cf == CD) CONVERT(int64_t, double, x != 0);
  switch (ct) {
  case CF:
    if (cf == CD) CONVERT(float, double, narrow(x, to));
    if (cf == CI) CONVERT(float, int64_t, narrow_int(x, to));
    if (cf == CU) CONVERT(float, uint64_t, narrow_uint(x, to));
    break;
  case CD:
    if (cf == CF) CONVERT(double, float, x);
    if (cf == CI) CONVERT(double, int64_t, x);
    if (cf == CU) CONVERT(double, uint64_t, x);
    break;
  case CI:
    if (cf == CF) CONVERT(int64_t, float, to_int(x));
    if (cf == CD) CONVERT(int64_t, double, to_int(x));
    break;
  case CU:
    if (cf == CF) CONVERT(uint64_t, float, to_uint(x));
    if (cf == CD) CONVERT(uint64_t, double, to_uint(x));
    break;
  }
  memcpy(o, a, (size_t)n * (ct == CF ? sizeof(float) : 8)); /* of one class, or integers as they are */
}

static void select_op(ml_dtype t, void *o, const void *c, ml_dtype ct, const void *a, const void *b, int n) {
  int64_t truth[TILE];
  if (class_of(ct) == CF) EACH_TILE truth[i] = ((const float *)c)[i] != 0;
  else if (class_of(ct) == CD) EACH_TILE truth[i] = ((const double *)c)[i] != 0;
  else EACH_TILE truth[i] = ((const int64_t *)c)[i];
  if (class_of(t) == CF) EACH_TILE((float *)o)[i] = truth[i] ? ((const float *)a)[i] : ((const float *)b)[i];
  else EACH_TILE((int64_t *)o)[i] = truth[i] ? ((const int64_t *)a)[i] : ((const int64_t *)b)[i];
}

/* ---- programs ---- */

static ml_dtype dtype_of(const ml_fused *f, int reg) {
  return reg < f->n_inputs ? f->input_dtypes[reg] : f->code[reg - f->n_inputs].dtype;
}

static void integer_test(int op, void *o, const void *a, cls ca, const void *b, cls cb, int n) {
  bool unary = op == ML_OP_logical_not || (op >= ML_OP_isnan && op <= ML_OP_isfinite);
  if (!unary && ca != cb) mixed_test(op, o, a, ca, b, n);
  else if (ca == CU) uint_test(op, o, a, b, n);
  else int_test(op, o, a, b, n);
}

void K(fused_constants)(const ml_fused *f, void **regs, int n) {
  for (int at = 0; at < f->n_code; at++) {
    const ml_fused_op *c = &f->code[at];
    void *o = regs[f->n_inputs + at];
    if (c->op != ML_OP_constant) continue;
    if (class_of(c->dtype) == CF) {
      float v = narrow(c->f, c->dtype);
      EACH_TILE((float *)o)[i] = v;
    } else if (class_of(c->dtype) == CD) EACH_TILE((double *)o)[i] = c->f;
    else EACH_TILE((int64_t *)o)[i] = c->i;
    K(round_tile)(o, c->dtype, n);
  }
}

enum { VARYING = 1, UNIFORM = 2 };
static void run_code(const ml_fused *f, void **regs, int n, int which) {
  for (int at = 0; at < f->n_code; at++) {
    const ml_fused_op *c = &f->code[at];
    void *o = regs[f->n_inputs + at];
    if (c->op == ML_OP_constant || !(which & (c->uniform ? UNIFORM : VARYING))) continue;
    ml_dtype from = dtype_of(f, c->a);
    const void *a = regs[c->a], *b = regs[c->b];
    if (c->op == ML_OP_where) select_op(c->dtype, o, a, from, b, regs[c->c], n);
    else if (c->op == ML_OP_astype) convert(o, c->dtype, a, from, n);
    else if (c->dtype == ML_BOOL && c->op != ML_OP_copy &&
             !(c->op >= ML_OP_bitwise_and && c->op <= ML_OP_right_shift)) {
      if (class_of(from) == CF) float_test(c->op, o, a, b, n);
      else if (class_of(from) == CD) double_test(c->op, o, a, b, n);
      else integer_test(c->op, o, a, class_of(from), b, class_of(dtype_of(f, c->b)), n);
    } else if (class_of(c->dtype) == CF) {
      if (n != TILE || !whole_float_op(c->op, o, a, b)) float_op(c->op, o, a, b, n);
    } else if (class_of(c->dtype) == CD) double_op(c->op, o, a, b, n);
    else if (class_of(c->dtype) == CU) uint_op(c->op, o, a, b, n);
    else int_op(c->op, o, a, b, n);
    if (c->dtype != ML_F32) K(round_tile)(o, c->dtype, n);
  }
}

void K(fused_run)(const ml_fused *f, void **regs, int n) { run_code(f, regs, n, UNIFORM | VARYING); }

/* ---- the step ---- */

enum { MAX_OPERANDS = ML_FUSED_MAX_OUTPUTS + ML_FUSED_MAX_INPUTS };

/* Axes in the order of the first output's memory, neighbours merged where every operand allows it. Operands are the
 * outputs, then the inputs. */
typedef struct shape_plan {
  int ndim;
  int64_t shape[ML_MAX_DIMS];
  int64_t runs; /* of RUN elements along the innermost axis */
  bool cast;    /* cast_tile may do it */
  bool stream;  /* and the target is written past the caches */
  int64_t strides[][ML_MAX_DIMS];
} shape_plan;

static const ml_arg *operand(const ml_task *t, int k) { return k < t->n_out ? &t->out[k] : &t->in[k - t->n_out]; }

int K(merge_axes)(int ndim, int64_t *shape, int64_t (*strides)[ML_MAX_DIMS], int operands) {
  int n = 0;
  for (int d = 0; d < ndim; d++) {
    if (shape[d] == 1) continue;
    bool joins = n > 0;
    for (int k = 0; k < operands && joins; k++) joins = strides[k][n - 1] == strides[k][d] * shape[d];
    int to = joins ? n - 1 : n++;
    shape[to] = joins ? shape[to] * shape[d] : shape[d];
    for (int k = 0; k < operands; k++) strides[k][to] = strides[k][d];
  }
  if (n > 0) return n;
  shape[0] = 1;
  for (int k = 0; k < operands; k++) strides[k][0] = 0;
  return 1;
}

static void order_axes(shape_plan *s, const ml_task *t) {
  int order[ML_MAX_DIMS];
  const ml_arg *out = &t->out[0];
  for (int d = 0; d < out->ndim; d++) {
    int j = d;
    for (; j > 0 && out->strides[order[j - 1]] < out->strides[d]; j--) order[j] = order[j - 1];
    order[j] = d;
  }
  s->ndim = out->ndim;
  for (int d = 0; d < out->ndim; d++) {
    s->shape[d] = out->shape[order[d]];
    for (int k = 0; k < t->n_out + t->n_in; k++) s->strides[k][d] = operand(t, k)->strides[order[d]];
  }
}

/* Whether the program does nothing but move its one input. */
static bool is_move(const ml_task *t) {
  const ml_fused_op *c = t->step->fused->code;
  if (t->n_in != 1 || t->n_out != 1 || t->step->fused->n_code != 1 || t->in[0].dtype != t->out[0].dtype) return false;
  return c->op == ML_OP_copy || c->op == ML_OP_astype;
}

/* Whether it does nothing but convert elements that lie side by side. */
static bool is_cast(const ml_task *t, const shape_plan *s) {
  const ml_fused *f = t->step->fused;
  int inner = s->ndim - 1;
  return t->n_in == 1 && t->n_out == 1 && f->n_code == 1 && f->code[0].op == ML_OP_astype &&
         s->strides[0][inner] == 1 && s->strides[1][inner] == 1 && K(cast_knows)(t->out[0].dtype, t->in[0].dtype);
}

ml_status K(fused_prepare)(ml_task *t) {
  if (is_move(t)) return K(move_prepare)(t, &t->out[0], &t->in[0]);
  shape_plan *s = ml_bump_alloc(t->memory, 1, sizeof *s + (size_t)(t->n_out + t->n_in) * sizeof *s->strides);
  if (!s) return ML_MEMORY;
  t->extra = s;
  order_axes(s, t);
  int64_t size = ml_shape_size(t->out[0].ndim, t->out[0].shape);
  s->ndim = K(merge_axes)(s->ndim, s->shape, s->strides, t->n_out + t->n_in);
  s->runs = (s->shape[s->ndim - 1] + RUN - 1) / RUN;
  s->cast = is_cast(t, s);
  s->stream = s->cast && size * ml_dtype_infos[t->out[0].dtype].bytes >= STREAM_ROWS;
  int64_t rows = size ? size / s->shape[s->ndim - 1] : 0;
  t->units = rows * s->runs;
  t->grain = ml_max64(1, 8192 / ml_max64(1, ml_min64(RUN, s->shape[s->ndim - 1])));
  t->scratch = tile_room(t->n_in + t->step->fused->n_code);
  t->cost = (double)size * (0.4 + 0.4 * t->step->fused->n_code);
  return ML_OK;
}

/* An operand on its way through the tiles. Numbered as in shape_plan. */
typedef struct strip {
  char *row, *at;       /* where the row begins, and the tile */
  int64_t stride, item; /* elements, along the innermost axis; bytes of one */
  ml_dtype dtype;
  bool as_it_lies;    /* float32 side by side: a register where it lies in memory */
  void *room;         /* its register in scratch */
  const char *loaded; /* of an input that is the same for every element of the last tile: where it lay */
} strip;

typedef struct tiles {
  const ml_task *t;
  const ml_fused *f;
  int most;   /* elements of a tile at most */
  bool begun; /* what is the same for all elements is there */
  strip strips[MAX_OPERANDS];
  int64_t run, index[ML_MAX_DIMS]; /* which run of the row, and which row */
  void *regs[MAX_REGS];
} tiles;

static bool is_computed(const ml_fused *f, int reg) { return f->code[reg - f->n_inputs].op != ML_OP_constant; }

/* Whether output k's register is no other output's. */
static bool is_sole(const ml_fused *f, int k) {
  for (int j = 0; j < f->n_outputs; j++) {
    if (j != k && f->outputs[j] == f->outputs[k]) return false;
  }
  return true;
}

/* Before the first tile, that of unit `unit`. */
static void start_tiles(tiles *w, const ml_task *t, int64_t unit, char *scratch) {
  const shape_plan *s = t->extra;
  const ml_fused *f = t->step->fused;
  const int inner = s->ndim - 1;
  w->t = t;
  w->f = f;
  w->most = (int)ml_min64(TILE, s->shape[inner]);
  w->begun = false;
  w->run = unit % s->runs;
  int64_t row = unit / s->runs;
  for (int d = inner - 1; d >= 0; d--) {
    w->index[d] = row % s->shape[d];
    row /= s->shape[d];
  }
  tile_registers(w->regs, scratch, f);
  for (int k = 0; k < t->n_out + t->n_in; k++) {
    const ml_arg *x = operand(t, k);
    const int reg = k < t->n_out ? f->outputs[k] : k - t->n_out;
    strip *p = &w->strips[k];
    p->stride = s->strides[k][inner];
    p->item = ml_dtype_infos[x->dtype].bytes;
    p->dtype = x->dtype;
    p->as_it_lies = x->dtype == ML_F32 && p->stride == 1;
    if (k < t->n_out) p->as_it_lies = p->as_it_lies && is_computed(f, reg) && is_sole(f, k);
    p->room = w->regs[reg];
    p->loaded = NULL;
    int64_t offset = 0;
    for (int d = 0; d < inner; d++) offset += w->index[d] * s->strides[k][d];
    p->row = x->data + offset * p->item;
  }
  K(fused_constants)(f, w->regs, w->most);
}

static void next_run(tiles *w) {
  const shape_plan *s = w->t->extra;
  const int operands = w->t->n_out + w->t->n_in;
  if (++w->run < s->runs) return;
  w->run = 0;
  for (int d = s->ndim - 2; d >= 0; d--) {
    bool on = ++w->index[d] < s->shape[d];
    int64_t by = on ? 1 : 1 - s->shape[d];
    for (int k = 0; k < operands; k++) w->strips[k].row += by * s->strides[k][d] * w->strips[k].item;
    if (on) return;
    w->index[d] = 0;
  }
}

/* Inputs into registers. What is the same for every element, and lies where it lay, is there already, as constants
 * are. */
static void load_inputs(tiles *w, int n) {
  strip *p = &w->strips[w->t->n_out];
  for (int k = 0; k < w->t->n_in; k++, p++) {
    if (p->as_it_lies) w->regs[k] = p->at;
    else if (p->stride != 0) K(load_tile)(p->room, p->at, p->dtype, p->stride, n);
    else if (p->loaded != p->at) K(load_tile)(p->room, p->loaded = p->at, p->dtype, 0, w->most);
  }
}

/* Whether an output may be computed where it lies: a register that an input lies in is read until the end. */
static bool is_free(const tiles *w, const char *to) {
  for (int i = 0; i < w->t->n_in; i++) {
    if (w->regs[i] == to) return false;
  }
  return true;
}

/* Asks for what the tiles after this one read: processors look ahead no farther than to the end of a page. */
static void fetch_ahead(const tiles *w, int n) {
  const strip *p = &w->strips[w->t->n_out];
  for (int k = 0; k < w->t->n_in; k++, p++) {
    if (p->stride != 1) continue;
    for (int64_t i = 0; i < n * p->item; i += LINE) __builtin_prefetch(p->at + AHEAD * TILE * p->item + i);
  }
}

static bool run_cast(const shape_plan *s, strip *out, int n) {
  char *to = s->stream ? out[0].room : out[0].at;
  if (!K(cast_tile)(to, out[0].dtype, out[1].at, out[1].dtype, n)) return false;
  if (s->stream) K(stream_row)(out[0].at, to, n * out[0].item);
  return true;
}

static void run_tile(tiles *w, int n) {
  const ml_task *t = w->t;
  const shape_plan *s = t->extra;
  strip *out = w->strips;
  fetch_ahead(w, n);
  if (s->cast && run_cast(s, out, n)) return;
  load_inputs(w, n);
  for (int k = 0; k < t->n_out; k++)
    w->regs[w->f->outputs[k]] = out[k].as_it_lies && is_free(w, out[k].at) ? out[k].at : out[k].room;
  if (!w->begun) run_code(w->f, w->regs, w->most, UNIFORM);
  w->begun = true;
  run_code(w->f, w->regs, n, VARYING);
  for (int k = 0; k < t->n_out; k++) {
    void *reg = w->regs[w->f->outputs[k]];
    if (reg != out[k].at) K(store_tile)(out[k].at, out[k].dtype, out[k].stride, reg, n);
  }
}

void K(fused)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const shape_plan *s = t->extra;
  const int operands = t->n_out + t->n_in;
  tiles all;
  start_tiles(&all, t, begin, w->scratch);
  for (int64_t unit = begin; unit < end; unit++, next_run(&all)) {
    int64_t at = all.run * RUN, n = ml_min64(RUN, s->shape[s->ndim - 1] - at);
    for (int64_t i = 0; i < n; i += TILE) {
      for (int k = 0; k < operands; k++) {
        strip *p = &all.strips[k];
        p->at = p->row + (at + i) * p->stride * p->item;
      }
      run_tile(&all, (int)ml_min64(TILE, n - i));
    }
  }
  if (s->stream) K(end_stream)();
}
