/* elementwise.h: every elementwise operation of ops.def against scalar references: float64 for floats, int64 for
 * integers; on every dtype, through every pair of views, broadcast, empty and 0-dimensional. */

/* ---- references ---- */

static bool is_integer(ml_dtype t) { return ml_dtype_class_of(t) >= ML_CLASS_INT; }

static double round_even(double x) { return rint(x); }

/* In float64. For float dtypes narrower than it, quotients whose floor is taken are rounded to float32 first, as the
 * computation is defined in float32. */
static double float_unary(ml_op op, double x) {
  switch (op) {
  case ML_OP_copy: case ML_OP_astype: return x;
  case ML_OP_neg: return -x;
  case ML_OP_abs: return fabs(x);
  case ML_OP_sign: return isnan(x) ? x : (x > 0) - (x < 0);
  case ML_OP_square: return x * x;
  case ML_OP_exp: return exp(x);
  case ML_OP_expm1: return expm1(x);
  case ML_OP_log: return log(x);
  case ML_OP_log1p: return log1p(x);
  case ML_OP_log2: return log2(x);
  case ML_OP_sqrt: return sqrt(x);
  case ML_OP_rsqrt: return 1 / sqrt(x);
  case ML_OP_reciprocal: return 1 / x;
  case ML_OP_sin: return sin(x);
  case ML_OP_cos: return cos(x);
  case ML_OP_tan: return tan(x);
  case ML_OP_sinh: return sinh(x);
  case ML_OP_cosh: return cosh(x);
  case ML_OP_tanh: return tanh(x);
  case ML_OP_arcsin: return asin(x);
  case ML_OP_arccos: return acos(x);
  case ML_OP_arctan: return atan(x);
  case ML_OP_erf: return erf(x);
  case ML_OP_sigmoid: return 1 / (1 + exp(-x));
  case ML_OP_silu: return x / (1 + exp(-x));
  case ML_OP_gelu: return x * 0.5 * erfc(-x * sqrt(0.5));
  case ML_OP_gelu_tanh: return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
  case ML_OP_relu: return x < 0 ? 0 : x;
  case ML_OP_floor: return floor(x);
  case ML_OP_ceil: return ceil(x);
  case ML_OP_round: return round_even(x);
  case ML_OP_isnan: return isnan(x);
  case ML_OP_isinf: return isinf(x) != 0;
  case ML_OP_isfinite: return isfinite(x) != 0;
  case ML_OP_logical_not: return x == 0;
  default: return -12345;
  }
}

/* fmod is exact; the remainder has the sign of y. */
static double remainder_of(double x, double y) {
  double r = fmod(x, y);
  return r != 0 && y != 0 && (r < 0) != (y < 0) ? r + y : r;
}

static double float_binary(ml_op op, double x, double y) {
  switch (op) {
  case ML_OP_add: return x + y;
  case ML_OP_sub: return x - y;
  case ML_OP_mul: return x * y;
  case ML_OP_div: return x / y;
  case ML_OP_floordiv: return y == 0 ? x / y : round((x - remainder_of(x, y)) / y);
  case ML_OP_mod: return remainder_of(x, y);
  case ML_OP_pow: return pow(x, y);
  case ML_OP_maximum: return isnan(x) || isnan(y) ? NAN : fmax(x, y);
  case ML_OP_minimum: return isnan(x) || isnan(y) ? NAN : fmin(x, y);
  case ML_OP_arctan2: return atan2(x, y);
  case ML_OP_logaddexp: return isnan(x) || isnan(y) ? NAN : x == y ? x + log(2) : fmax(x, y) + log1p(exp(-fabs(x - y)));
  case ML_OP_eq: return x == y;
  case ML_OP_ne: return x != y;
  case ML_OP_lt: return x < y;
  case ML_OP_le: return x <= y;
  case ML_OP_gt: return x > y;
  case ML_OP_ge: return x >= y;
  case ML_OP_logical_and: return x != 0 && y != 0;
  case ML_OP_logical_or: return x != 0 || y != 0;
  default: return -12345;
  }
}

static double int_unary(ml_op op, int64_t x) {
  switch (op) {
  case ML_OP_abs: return x < 0 ? (double)-x : (double)x;
  case ML_OP_square: return (double)(x * x);
  default: return float_unary(op, (double)x);
  }
}

static int64_t power(int64_t x, int64_t y) {
  if (y < 0) return x == 1 ? 1 : x == -1 ? (y % 2 ? -1 : 1) : 0;
  int64_t r = 1;
  while (y-- > 0) r = (int64_t)((uint64_t)r * (uint64_t)x);
  return r;
}

static int64_t int_binary(ml_op op, int64_t x, int64_t y) {
  switch (op) {
  case ML_OP_add: return x + y;
  case ML_OP_sub: return x - y;
  case ML_OP_mul: return x * y;
  case ML_OP_floordiv: return y == 0 ? 0 : (int64_t)floor((double)x / (double)y);
  case ML_OP_mod: return y == 0 ? 0 : x - y * (int64_t)floor((double)x / (double)y);
  case ML_OP_pow: return power(x, y);
  case ML_OP_bitwise_and: return x & y;
  case ML_OP_bitwise_or: return x | y;
  case ML_OP_bitwise_xor: return x ^ y;
  case ML_OP_left_shift: return y < 0 || y > 63 ? 0 : (int64_t)((uint64_t)x << y);
  case ML_OP_right_shift: return y < 0 || y > 63 ? (x < 0 ? -1 : 0) : x >> y;
  default: return (int64_t)float_binary(op, (double)x, (double)y);
  }
}

/* ---- inputs ---- */

static void range_of(ml_op op, ml_dtype t, bool second, double *from, double *to) {
  *from = -6, *to = 6;
  if (op == ML_OP_log || op == ML_OP_log2 || op == ML_OP_sqrt || op == ML_OP_rsqrt) *from = 0.01, *to = 50;
  if (op == ML_OP_log1p) *from = -0.9, *to = 50;
  if (op == ML_OP_arcsin || op == ML_OP_arccos) *from = -1, *to = 1;
  if (op == ML_OP_tan) *from = -1.3, *to = 1.3;
  if (op == ML_OP_pow) *from = second ? 0 : is_integer(t) ? -5 : 0.1, *to = 5;
  if (is_integer(t) && (op == ML_OP_add || op == ML_OP_sub || op == ML_OP_mul || op == ML_OP_square || op == ML_OP_neg)) *from = -100000, *to = 100000;
  if ((op == ML_OP_left_shift || op == ML_OP_right_shift) && second) *from = 0, *to = 70;
  else if (op >= ML_OP_bitwise_and && op <= ML_OP_right_shift) *from = -2000, *to = 2000;
  bool is_unsigned = t == ML_U8 || t == ML_U16 || t == ML_U32 || t == ML_U64 || t == ML_BOOL;
  if (is_unsigned && *from < 0) *from = 0;
}

static double *operand_values(ml_op op, ml_dtype t, int64_t n, bool second) {
  double from, to;
  range_of(op, t, second, &from, &to);
  double *v = random_values(t, n, from, to);
  static const double plain[] = {0, 1, -1, 0.5, 1.5, 2.5, -0.5, -1.5, 2};
  for (int64_t i = 0; i < n; i++) { /* now and then a value where something turns */
    double p = plain[random_below(9)];
    if (random_below(4) == 0 && p >= from && p <= to && rounded(t, p) == p) v[i] = p;
  }
  return v;
}

static double relative_bound(ml_op op, ml_dtype t) {
  if (is_integer(t)) return 0;
  double own = 2 * epsilon(t);
  if (op == ML_OP_copy || op == ML_OP_neg || op == ML_OP_abs || op == ML_OP_sign || op == ML_OP_relu) return 0;
  if (t == ML_F64) return 8 * own;
  return own + 0x1p-21; /* float32 arithmetic inside */
}

/* Differences of nearly equal terms (gelu far left, mod near a multiple) lose what their size says, not what they are. */
static double absolute_bound(ml_op op, ml_dtype t) {
  if (is_integer(t)) return 0;
  double size = op == ML_OP_gelu || op == ML_OP_gelu_tanh || op == ML_OP_mod || op == ML_OP_logaddexp ? 6 : 0.5;
  return (t == ML_F64 ? 0x1p-50 : 0x1p-23) * size + (t == ML_F16 ? 0x1p-25 : 0);
}

/* ---- one operation on one dtype ---- */

/* What the dtype of operands leads to. */
static ml_dtype result_dtype(ml_op op, ml_dtype t, bool *predicate) {
  const char *rule = NULL;
  static const char *const rules[] = {
#define OP(id, parameters, shape, kind, access, gradient, doc) [ML_OP_##id] = #shape,
#include "tensor/ops.def"
  };
  rule = rules[op];
  *predicate = strcmp(rule, "predicate") == 0 || strcmp(rule, "compare") == 0;
  bool floating = strcmp(rule, "floating") == 0 || strcmp(rule, "quotient") == 0;
  bool number = strcmp(rule, "same_number") == 0 || strcmp(rule, "arithmetic") == 0;
  if (*predicate) return ML_BOOL;
  if (floating && is_integer(t)) return ML_F32;
  if (number && t == ML_BOOL) return ML_I32;
  return t;
}

static double reference(ml_op op, ml_dtype t, ml_dtype o, bool predicate, double x, double y) {
  ml_dtype inside = predicate ? t : o; /* what the operation computes in */
  bool binary = ml_op_infos[op].kind == ML_KIND_BINARY;
  double v;
  if (is_integer(inside)) v = binary ? (double)int_binary(op, (int64_t)x, (int64_t)y) : int_unary(op, (int64_t)x);
  else v = binary ? float_binary(op, rounded(inside, x), rounded(inside, y)) : float_unary(op, rounded(inside, x));
  return v;
}

static double rounded_result(ml_op op, ml_dtype o, double x, double y, double v) {
  /* Products of int64 arithmetic may pass float64's whole numbers: wrap them as integers. */
  if (is_integer(o) && o != ML_BOOL && ml_op_infos[op].kind == ML_KIND_BINARY) {
    int64_t n = int_binary(op, (int64_t)x, (int64_t)y);
    uint64_t bits = 0;
    memcpy(&bits, &n, 8);
    return get_number(o, &bits, 0);
  }
  return rounded(o, v);
}

static void check_elementwise(ml_engine *e, ml_op op, ml_dtype t, int ndim, const int64_t *shape, view kind_a, view kind_b, int missing) {
  bool predicate, binary = ml_op_infos[op].kind == ML_KIND_BINARY;
  ml_dtype o = result_dtype(op, t, &predicate);
  int64_t n = ml_shape_size(ndim, shape);
  if (skip_case(n)) return;
  double *a = operand_values(op, t, n, false), *b = operand_values(op, t, n, true), *wanted = room((size_t)n, sizeof *wanted);
  ml_tensor *x = view_tensor(e, t, ndim, shape, a, kind_a), *y = NULL;
  if (binary && missing) { /* the second operand lacks leading axes: its values repeat */
    int64_t inner = ml_shape_size(ndim - missing, shape + missing);
    for (int64_t i = 0; i < n; i++) b[i] = b[i % inner];
    y = view_tensor(e, t, ndim - missing, shape + missing, b, kind_b);
    for (int64_t i = 0; i < n; i++) b[i] = b[i % inner]; /* a repeated view may have changed the first of them */
  } else if (binary) y = view_tensor(e, t, ndim, shape, b, kind_b);
  for (int64_t i = 0; i < n; i++) wanted[i] = rounded_result(op, o, a[i], b[i], reference(op, t, o, predicate, a[i], b[i]));
  ml_tensor *r = binary ? apply(e, op, NO_ATTRS, x, y) : apply(e, op, INTS({.i = t}), x);
  expect(r->dtype == o, "%s of %s: dtype %s, expected %s", ml_op_name(op), ml_dtype_name(t), ml_dtype_name(r->dtype), ml_dtype_name(o));
  expect_values(r, ndim, shape, wanted, relative_bound(op, o), absolute_bound(op, o), "%s of %s, shape %s, %s%s%s", ml_op_name(op), ml_dtype_name(t),
                ml_shape_text(ndim, shape, (char[160]){0}, 160), view_names[kind_a], binary ? " and " : "", binary ? view_names[kind_b] : "");
  drop_all();
}

static bool takes(ml_op op, ml_dtype t) {
  if (ml_dtype_class_of(t) > ML_CLASS_BOOL) return false;
  return !(op >= ML_OP_bitwise_and && op <= ML_OP_right_shift && ml_dtype_is_float(t));
}

/* What is neither a number nor near one. */
static void check_specials(ml_engine *e, ml_op op, ml_dtype t) {
  static const double all[] = {NAN, INFINITY, -INFINITY, 0.0, -0.0, 1e30, -1e30, 1e-40, 88.7, 89, 104, -87.5, -103, 20, -20, 710, 0.6249, -0.6251, 65504, 0.1};
  enum { N = sizeof all / sizeof *all };
  bool predicate, binary = ml_op_infos[op].kind == ML_KIND_BINARY;
  ml_dtype o = result_dtype(op, t, &predicate);
  double a[N * N], b[N * N], wanted[N * N];
  for (int i = 0; i < N * N; i++) {
    a[i] = rounded(t, all[i / N]);
    b[i] = rounded(t, all[i % N]);
    wanted[i] = rounded(o, reference(op, t, o, predicate, a[i], b[i]));
    bool sums = op == ML_OP_mod || op == ML_OP_floordiv; /* undefined in float arithmetic far from the integers */
    if (sums && !(fabs(a[i]) < 1000 && fabs(b[i]) > 0.05 && fabs(b[i]) < 1000)) a[i] = b[i] = 1, wanted[i] = op == ML_OP_floordiv;
    bool cancels = (op == ML_OP_sin || op == ML_OP_cos || op == ML_OP_tan) && fabs(a[i]) > 1000;
    if (cancels) a[i] = 0, wanted[i] = op == ML_OP_cos;
  }
  ml_tensor *x = tensor(e, t, SHAPE(N * N), a), *y = tensor(e, t, SHAPE(N * N), b);
  ml_tensor *r = binary ? apply(e, op, NO_ATTRS, x, y) : apply(e, op, INTS({.i = t}), x);
  const double *v = numbers(r);
  double bound = fmax(relative_bound(op, o), op == ML_OP_pow ? 1e-5 : 0), absolute = fmax(absolute_bound(op, o), op == ML_OP_mod ? (t == ML_F64 ? 1e-13 : 1e-4) : 1e-38);
  for (int i = 0; i < N * N; i++) {
    expect(close_numbers(v[i], wanted[i], bound, absolute), "%s of %s: of %g and %g: %.9g, expected %.9g", ml_op_name(op), ml_dtype_name(t), a[i], b[i], v[i], wanted[i]);
  }
  drop_all();
}

static void test_elementwise(ml_engine *e, ml_op op) {
  static const int64_t shape3[] = {3, 5, 7}, empty[] = {3, 0, 5}, long1[] = {1000}, wide[] = {7, 300}, one[] = {1, 1}, large[] = {60, 700};
  bool binary = ml_op_infos[op].kind == ML_KIND_BINARY;
  for (int i = 0; i < ML_BOOL + 1; i++) {
    ml_dtype t = (ml_dtype)i;
    if (!takes(op, t)) continue;
    bool thorough = op == ML_OP_sub || op == ML_OP_lt; /* all pairs of views: how tiles are read is the same for all */
    for (int a = 0; a < VIEWS; a++) {
      for (int b = 0; b < (binary ? VIEWS : 1); b++) {
        if (thorough || a == b || b == 0) check_elementwise(e, op, t, 3, shape3, (view)a, (view)b, 0);
      }
      check_elementwise(e, op, t, 3, empty, (view)a, DENSE, 0);
      check_elementwise(e, op, t, 2, wide, (view)a, (view)(VIEWS - 1 - a), 0);
      if (binary) {
        check_elementwise(e, op, t, 3, shape3, (view)a, TRANSPOSED, 1);
        check_elementwise(e, op, t, 3, shape3, DENSE, (view)a, 2);
        check_elementwise(e, op, t, 3, shape3, (view)a, DENSE, 3);
      }
    }
    check_elementwise(e, op, t, 0, NULL, DENSE, DENSE, 0);
    check_elementwise(e, op, t, 2, one, TRANSPOSED, SLICED, 0);
    check_elementwise(e, op, t, 1, long1, SLICED, REVERSED, 0);
    if (t == ML_F32 || t == ML_I16) check_elementwise(e, op, t, 2, large, TRANSPOSED, REPEATED_FIRST, 0);
    if (t == ML_F32 || t == ML_F64) check_specials(e, op, t);
  }
}

/* ---- where ---- */

static void test_where(ml_engine *e) {
  static const ml_dtype conditions[] = {ML_BOOL, ML_F32, ML_F64, ML_I64, ML_U8, ML_F16};
  static const int64_t shape[] = {4, 5, 6};
  enum { N = 120 };
  for (int i = 0; i < 6 * (ML_BOOL + 1); i++) {
    ml_dtype c = conditions[i % 6], t = (ml_dtype)(i / 6);
    for (int kind = 0; kind < VIEWS; kind++) {
      if (skip_case(N)) continue;
      double *condition = random_values(c, N, 0, 1.6), *a = random_values(t, N, 0, 100), *b = random_values(t, N, 0, 100), wanted[N];
      for (int k = 0; k < N; k++) condition[k] = rounded(c, floor(condition[k]) * 0.5 > 0 ? (ml_dtype_is_float(c) ? 0.5 : 1) : 0);
      ml_tensor *tc = view_tensor(e, c, 3, shape, condition, (view)kind), *ta = view_tensor(e, t, 3, shape, a, (view)((kind + 3) % VIEWS));
      for (int k = 0; k < N; k++) b[k] = b[k % 6];
      ml_tensor *tb = tensor(e, t, SHAPE(6), b);
      for (int k = 0; k < N; k++) wanted[k] = condition[k] != 0 ? a[k] : b[k];
      ml_tensor *r = apply(e, ML_OP_where, NO_ATTRS, tc, ta, tb);
      expect(r->dtype == t, "dtype");
      expect_values(r, 3, shape, wanted, 0, 0, "condition %s, %s", ml_dtype_name(c), view_names[kind]);
      drop_all();
    }
  }
  ml_tensor *r = apply(e, ML_OP_where, NO_ATTRS, tensor(e, ML_BOOL, SHAPE(3, 1), (double[]){1, 0, 1}), scalar(e, ML_F32, 2), tensor(e, ML_F32, SHAPE(2), (double[]){7, 8}));
  expect_values(r, SHAPE(3, 2), (double[]){2, 2, 7, 8, 2, 2}, 0, 0, "three shapes meet");
  drop_all();
}

/* ---- casts, promotion, number conversion ---- */

static void test_casts(ml_engine *e) {
  static const double values[] = {0, 1, -1, 2.5, -2.5, 3.99, 100, 127, 128, 255, 256, -128, -129, 1000.4, 65504, 65520, 1e5, -1e5, 0x1p-24, 0x1.8p-25, 3e-8, 0.1, 1.0009765625, 1.00146484375, 65519.999, 1 + 0x1p-11 + 0x1p-40, 1 + 0x1p-8 + 0x1p-45};
  enum { N = sizeof values / sizeof *values };
  for (int i = 0; i <= ML_BOOL; i++) {
    for (int k = 0; k <= ML_BOOL; k++) {
      ml_dtype from = (ml_dtype)i, to = (ml_dtype)k;
      double v[N], wanted[N];
      for (int n = 0; n < N; n++) {
        v[n] = rounded(from, values[n]);
        wanted[n] = rounded(to, is_integer(to) && to != ML_BOOL ? trunc(v[n]) : v[n]);
        if (from == ML_U64 && values[n] < 0) v[n] = wanted[n] = 1;
        if (isinf(v[n]) && is_integer(to)) v[n] = wanted[n] = to == ML_BOOL;
      }
      expect_values(apply(e, ML_OP_astype, INTS({.i = to}), tensor(e, from, SHAPE(N), v)), SHAPE(N), wanted, 0, 0, "%s to %s", ml_dtype_name(from), ml_dtype_name(to));
      drop_all();
    }
  }
  uint8_t all[256];
  double wanted[256];
  for (int i = 0; i < 256; i++) all[i] = (uint8_t)i, wanted[i] = f8_value((uint8_t)i);
  ml_tensor *f8;
  must(ml_tensor_from_host(e->device, ML_F8_E4M3, SHAPE(256), all, 256, &f8), "from_host");
  keep(f8);
  expect_values(apply(e, ML_OP_astype, INTS({.i = ML_F32}), f8), SHAPE(256), wanted, 0, 0, "float8 to float32");
  expect_values(apply(e, ML_OP_astype, INTS({.i = ML_BF16}), f8), SHAPE(256), wanted, 0, 0, "float8 to bfloat16");
  expect_values(apply(e, ML_OP_astype, INTS({.i = ML_F64}), f8), SHAPE(256), wanted, 0, 0, "float8 to float64");
  drop_all();
}

/* Integers of every two dtypes at their limits: compared by value, whatever they are cast to elsewhere. */
static __int128 integer_at(ml_dtype t, const uint64_t *bits, int i) {
  int64_t n = 0;
  memcpy(&n, (const char *)bits + (size_t)i * (size_t)ml_dtype_infos[t].bytes, (size_t)ml_dtype_infos[t].bytes);
  if (t == ML_U64) return (__int128)(uint64_t)n;
  return (__int128)(t == ML_I8 ? (int8_t)n : t == ML_I16 ? (int16_t)n : t == ML_I32 ? (int32_t)n : n);
}

static bool compared(ml_op op, __int128 x, __int128 y) {
  switch (op) {
  case ML_OP_eq: return x == y;
  case ML_OP_ne: return x != y;
  case ML_OP_lt: return x < y;
  case ML_OP_le: return x <= y;
  case ML_OP_gt: return x > y;
  case ML_OP_ge: return x >= y;
  case ML_OP_logical_and: return x != 0 && y != 0;
  default: return x != 0 || y != 0;
  }
}

enum { LIMITS = 6 }; /* of a dtype: its lowest and highest numbers and their neighbours, 0 and 1 */
static ml_tensor *limits_of(ml_engine *e, ml_dtype t, uint64_t *bits, int ndim, const int64_t *shape) {
  int64_t low, high;
  ml_dtype_limits(t, &low, &high);
  if (t == ML_U64) high = -1; /* as bits */
  const int64_t values[LIMITS] = {low, low + 1, high - 1, high, 0, 1};
  size_t bytes = (size_t)ml_dtype_infos[t].bytes;
  for (int i = 0; i < LIMITS; i++) memcpy((char *)bits + (size_t)i * bytes, &values[i], bytes);
  ml_tensor *x;
  must(ml_tensor_from_host(e->device, t, ndim, shape, bits, bytes * LIMITS, &x), "from_host");
  return keep(x);
}

static void test_by_value(ml_engine *e) {
  static const ml_op ops[] = {ML_OP_eq, ML_OP_ne, ML_OP_lt,          ML_OP_le,
                              ML_OP_gt, ML_OP_ge, ML_OP_logical_and, ML_OP_logical_or};
  for (int i = ML_I8; i <= ML_U64; i++) {
    for (int k = ML_I8; k <= ML_U64; k++) {
      uint64_t a[LIMITS], b[LIMITS];
      ml_tensor *x = limits_of(e, (ml_dtype)i, a, SHAPE(LIMITS, 1)), *y = limits_of(e, (ml_dtype)k, b, SHAPE(LIMITS));
      for (size_t o = 0; o < sizeof ops / sizeof *ops; o++) {
        double wanted[LIMITS * LIMITS];
        for (int n = 0; n < LIMITS * LIMITS; n++)
          wanted[n] = compared(ops[o], integer_at((ml_dtype)i, a, n / LIMITS), integer_at((ml_dtype)k, b, n % LIMITS));
        expect_values(apply(e, ops[o], NO_ATTRS, x, y), SHAPE(LIMITS, LIMITS), wanted, 0, 0, "%s of %s and %s",
                      ml_op_name(ops[o]), ml_dtype_name((ml_dtype)i), ml_dtype_name((ml_dtype)k));
      }
      drop_all();
    }
  }
}

/* Plain integers that a dtype does not hold: an error, but for a result that need not hold them. */
static void test_plain_integers(ml_engine *e) {
  for (int i = ML_I8; i <= ML_U64; i++) {
    ml_dtype t = (ml_dtype)i;
    int64_t low, high;
    ml_dtype_limits(t, &low, &high);
    double v[] = {0, 1, 100};
    ml_tensor *x = tensor(e, t, SHAPE(3), v);
    for (int above = 0; above < 2; above++) {
      if (above ? high == INT64_MAX : low == INT64_MIN) continue;
      ml_tensor *number;
      must(ml_tensor_constant(e, ML_I64, above ? (double)high + 1 : (double)low - 1, above ? high + 1 : low - 1,
                              &number),
           "constant");
      keep(number);
      for (int op = 0; op < ML_OP_COUNT; op++) {
        if (ml_op_infos[op].kind != ML_KIND_BINARY || op == ML_OP_div || op == ML_OP_arctan2 || op == ML_OP_logaddexp ||
            (op >= ML_OP_eq && op <= ML_OP_logical_or))
          continue;
        ml_tensor *inputs[] = {x, number}, *out = NULL;
        ml_attrs none = NO_ATTRS;
        bool harmless = above ? op == ML_OP_minimum : op == ML_OP_maximum;
        ml_status status = ml_apply(e, (ml_op)op, inputs, 2, &none, &out);
        expect(status == (harmless ? ML_OK : ML_USAGE), "%s of %s and a number outside: %s", ml_op_name((ml_op)op),
               ml_dtype_name(t), ml_status_name(status));
        if (status == ML_OK)
          expect_values(keep(out), SHAPE(3), v, 0, 0, "%s of %s", ml_op_name((ml_op)op), ml_dtype_name(t));
      }
    }
    drop_all();
  }
}

/* All 65,536 values of both halves, and what float32 rounds to them, as casts see them. */
static void test_halves(ml_engine *e) {
  enum { N = 65536 };
  for (int kind = 0; kind < 2; kind++) {
    ml_dtype t = kind ? ML_BF16 : ML_F16;
    uint16_t *bits = room(N, 2), *back = room(N, 2);
    double *wide = room(N, 8);
    for (int i = 0; i < N; i++) bits[i] = (uint16_t)i, wide[i] = kind ? bfloat_value((uint16_t)i) : half_value((uint16_t)i);
    ml_tensor *x;
    must(ml_tensor_from_host(e->device, t, SHAPE(N), bits, 2 * N, &x), "from_host");
    keep(x);
    ml_tensor *f = apply(e, ML_OP_astype, INTS({.i = ML_F32}), x);
    expect_values(f, SHAPE(N), wide, 0, 0, "widened");
    must(ml_tensor_read(apply(e, ML_OP_astype, INTS({.i = t}), f), back), "read");
    int wrong = 0;
    for (int i = 0; i < N; i++) wrong += isnan(wide[i]) ? !isnan(kind ? bfloat_value(back[i]) : half_value(back[i])) : back[i] != bits[i];
    expect(wrong == 0, "%d values of %s change on the way to float32 and back", wrong, ml_dtype_name(t));
    double *between = room(N, 8), *nearest = room(N, 8);
    for (int i = 0; i < N; i++) {
      uint32_t u = (uint32_t)random_u64();
      float v;
      if (i % 2) u = (u & 0x80000000u) | ((u & 0x0fffffffu) + 0x33000000u); /* the range of float16 */
      memcpy(&v, &u, 4);
      if (i % 5 == 0) v = (float)(wide[i] + wide[i ? i - 1 : 0]) / 2; /* halfway */
      between[i] = v;
      nearest[i] = rounded(t, v);
    }
    expect_values(apply(e, ML_OP_astype, INTS({.i = t}), tensor(e, ML_F32, SHAPE(N), between)), SHAPE(N), nearest, 0, 0, "rounded");
    drop_all();
  }
}

/* Operands of two dtypes meet: the same whichever comes first, and able to hold both. */
static void test_promotion(ml_engine *e) {
  for (int i = 0; i <= ML_BOOL; i++) {
    for (int k = 0; k <= ML_BOOL; k++) {
      double a[] = {1, 0, 1, 1}, b[] = {1, 1, 0, 1}, sum[] = {2, 1, 1, 2};
      ml_tensor *x = tensor(e, (ml_dtype)i, SHAPE(4), a), *y = tensor(e, (ml_dtype)k, SHAPE(4), b);
      ml_tensor *xy = apply(e, ML_OP_add, NO_ATTRS, x, y), *yx = apply(e, ML_OP_add, NO_ATTRS, y, x);
      expect(xy->dtype == yx->dtype, "%s with %s: order matters", ml_dtype_name((ml_dtype)i), ml_dtype_name((ml_dtype)k));
      bool wide = epsilon(xy->dtype) > 0 ? epsilon(xy->dtype) <= fmax(epsilon((ml_dtype)i), epsilon((ml_dtype)k)) || !is_integer((ml_dtype)i) != !is_integer((ml_dtype)k) : is_integer((ml_dtype)i) && is_integer((ml_dtype)k);
      expect(wide, "%s with %s gives %s", ml_dtype_name((ml_dtype)i), ml_dtype_name((ml_dtype)k), ml_dtype_name(xy->dtype));
      expect_values(xy, SHAPE(4), sum, 0, 0, "%s + %s", ml_dtype_name((ml_dtype)i), ml_dtype_name((ml_dtype)k));
      ml_tensor *weak = apply(e, ML_OP_mul, NO_ATTRS, x, scalar(e, ML_F32, 0.5));
      expect(weak->dtype == (ml_dtype_is_float((ml_dtype)i) ? (ml_dtype)i : ML_F32), "%s times a number: %s", ml_dtype_name((ml_dtype)i), ml_dtype_name(weak->dtype));
      drop_all();
    }
  }
}
