/* reduce.h: reductions over every set of axes, and running ones along every axis, against plain loops. */

/* ---- over axes ---- */

static bool is_spread(ml_op op) { return op == ML_OP_norm || op == ML_OP_var || op == ML_OP_std; }

enum { DDOF = 1 }; /* of every case here */
static double spread_list(ml_op op, const double *v, int64_t n) {
  double mean = 0, squares = 0;
  for (int64_t i = 0; i < n; i++) mean += op == ML_OP_norm ? 0 : v[i] / (double)n;
  for (int64_t i = 0; i < n; i++) squares += (v[i] - mean) * (v[i] - mean);
  if (op == ML_OP_norm) return sqrt(squares);
  double variance = squares / (n > DDOF ? (double)(n - DDOF) : 0);
  return op == ML_OP_var ? variance : sqrt(variance);
}

static double reduce_list(ml_op op, ml_dtype t, const double *v, int64_t n) {
  double r = op == ML_OP_prod || op == ML_OP_all ? 1 : op == ML_OP_max ? -INFINITY : op == ML_OP_min ? INFINITY : 0, best = NAN;
  int64_t at = 0;
  for (int64_t i = 0; i < n; i++) {
    switch (op) {
    case ML_OP_sum: case ML_OP_mean: r += v[i]; break;
    case ML_OP_prod: r *= v[i]; break;
    case ML_OP_max: r = isnan(r) || isnan(v[i]) ? NAN : fmax(r, v[i]); break;
    case ML_OP_min: r = isnan(r) || isnan(v[i]) ? NAN : fmin(r, v[i]); break;
    case ML_OP_all: r = r != 0 && v[i] != 0; break;
    case ML_OP_any: r = r != 0 || v[i] != 0; break;
    case ML_OP_argmax: if (i == 0 || v[i] > best || (isnan(v[i]) && !isnan(best))) best = v[i], at = i; break;
    case ML_OP_argmin: if (i == 0 || v[i] < best || (isnan(v[i]) && !isnan(best))) best = v[i], at = i; break;
    default: r += exp(v[i]); break;
    }
  }
  if (op == ML_OP_mean) return r / (double)n;
  if (is_spread(op)) return spread_list(op, v, n);
  if (op == ML_OP_argmax || op == ML_OP_argmin) return (double)at;
  if (op == ML_OP_logsumexp) return log(r);
  (void)t;
  return r;
}

static ml_dtype reduced_dtype(ml_op op, ml_dtype t) {
  if (op == ML_OP_all || op == ML_OP_any) return ML_BOOL;
  if (op == ML_OP_argmax || op == ML_OP_argmin) return ML_I32;
  if (op == ML_OP_max || op == ML_OP_min) return t;
  if (op == ML_OP_mean || op == ML_OP_logsumexp || is_spread(op)) return ml_dtype_is_float(t) ? t : ML_F32;
  return t == ML_BOOL || t == ML_I8 || t == ML_U8 || t == ML_I16 || t == ML_U16 ? ML_I32 : t;
}

/* Groups a shape's elements by their kept coordinates and reduces each group in row-major order. */
static void reduce_reference(ml_op op, ml_dtype t, int ndim, const int64_t *shape, const double *v, unsigned reduced, double *wanted) {
  int64_t kept[ML_MAX_DIMS], index[ML_MAX_DIMS], n = ml_shape_size(ndim, shape), groups = 1, count = 1;
  for (int d = 0; d < ndim; d++) {
    kept[d] = reduced & 1u << d ? 1 : shape[d];
    groups *= kept[d];
    count *= reduced & 1u << d ? shape[d] : 1;
  }
  double *lists = room((size_t)(groups * count), 8);
  int64_t *found_n = room((size_t)groups, 8);
  for (int64_t i = 0; i < n; i++) {
    unravel(i, ndim, shape, index);
    for (int d = 0; d < ndim; d++) index[d] = reduced & 1u << d ? 0 : index[d];
    int64_t g = ravel(ndim, kept, index);
    lists[g * count + found_n[g]++] = v[i];
  }
  for (int64_t g = 0; g < groups; g++) wanted[g] = reduce_list(op, t, lists + g * count, count);
}

static void check_reduce(ml_engine *e, ml_op op, ml_dtype t, int ndim, const int64_t *shape, unsigned reduced, bool keepdims, view kind) {
  bool index = op == ML_OP_argmax || op == ML_OP_argmin, whole = reduced == (1u << ndim) - 1;
  int64_t n = ml_shape_size(ndim, shape), out_shape[ML_MAX_DIMS], axes[ML_MAX_DIMS];
  if (skip_case(n)) return;
  double size = op == ML_OP_prod ? 2 : op == ML_OP_all || op == ML_OP_any ? 1 : 20;
  bool is_unsigned = t == ML_U8 || t == ML_U16 || t == ML_U32 || t == ML_U64 || t == ML_BOOL;
  double *v = random_values(t, n, is_unsigned ? 0 : -size, size), *wanted = room((size_t)n + 64, 8);
  if (op == ML_OP_prod && t != ML_F64 && ml_dtype_is_float(t)) {
    for (int64_t i = 0; i < n; i++) v[i] = rounded(t, 1 + v[i] / 64);
  }
  if (op == ML_OP_all) {
    for (int64_t i = 0; i < n; i++) v[i] = random_below(40) ? 1 : 0;
  }
  ml_tensor *x = view_tensor(e, t, ndim, shape, v, kind);
  reduce_reference(op, t, ndim, shape, v, reduced, wanted);
  int n_out = 0, n_axes = 0;
  for (int d = 0; d < ndim; d++) {
    if (!(reduced & 1u << d)) out_shape[n_out++] = shape[d];
    else {
      if (keepdims) out_shape[n_out++] = 1;
      axes[n_axes++] = d % 2 ? d : d - ndim; /* axes may be counted from the end */
    }
  }
  ml_attrs attrs = list_attrs(n_axes, axes);
  if (whole && (index || random_below(2))) attrs = NO_ATTRS; /* all axes */
  attrs.sum.keepdims = keepdims;
  attrs.var.ddof = DDOF;
  ml_dtype o = reduced_dtype(op, t);
  for (int64_t i = 0; i < ml_shape_size(n_out, out_shape); i++) wanted[i] = rounded(o, wanted[i]);
  ml_tensor *r = apply(e, op, attrs, x);
  expect(r->dtype == o, "%s gives %s", ml_dtype_name(t), ml_dtype_name(r->dtype));
  bool exact = !ml_dtype_is_float(o) || op == ML_OP_max || op == ML_OP_min;
  double bound = exact ? 0 : 2 * epsilon(o) + (t == ML_F64 ? 0x1p-48 : 0x1p-21), absolute = exact ? 0 : (double)n * 20 * (t == ML_F64 ? 0x1p-52 : 0x1p-24);
  expect_values(r, n_out, out_shape, wanted, bound, absolute, "%s, shape %s, axes %x, %s", ml_dtype_name(t), ml_shape_text(ndim, shape, (char[160]){0}, 160), reduced, view_names[kind]);
  drop_all();
}

static void check_nan(ml_engine *e, ml_op op, ml_dtype t) {
  if (skip_case(100)) return;
  enum { N = 100 };
  for (int at = 0; at < N; at += 9) {
    double v[N], wanted;
    for (int i = 0; i < N; i++) v[i] = (double)((i * 37) % 50) - 25;
    v[at] = NAN;
    if (at > 50) v[at - 20] = NAN;
    for (int strided = 0; strided < 2; strided++) {
      wanted = reduce_list(op, t, v, N);
      expect_values(apply(e, op, list_attrs(1, (int64_t[]){0}), view_tensor(e, t, SHAPE(N), v, strided ? SLICED : DENSE)), 0, NULL, &wanted, 0, 0, "NaN at %d", at);
    }
    drop_all();
  }
  double low[] = {-INFINITY, -INFINITY}, high[] = {INFINITY, INFINITY};
  double first = reduce_list(op, t, low, 2), second = reduce_list(op, t, high, 2);
  expect_values(apply(e, op, list_attrs(1, (int64_t[]){0}), tensor(e, t, SHAPE(2), low)), 0, NULL, &first, 0, 0, "minus infinities");
  expect_values(apply(e, op, list_attrs(1, (int64_t[]){0}), tensor(e, t, SHAPE(2), high)), 0, NULL, &second, 0, 0, "infinities");
  drop_all();
}

/* Of equal elements the first is chosen, and zeros of either sign are equal; in rows of any length, and as columns. */
static void check_zeros(ml_engine *e, ml_op op, ml_dtype t) {
  static const int64_t lengths[] = {2, 17, 100, 1500};
  if (skip_case(3000)) return;
  for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
    int64_t n = lengths[k], shape[] = {n, 20}, columns = 20;
    double *v = room((size_t)(n * columns), 8), *wanted = room((size_t)columns, 8);
    for (int64_t i = 0; i < n * columns; i++) v[i] = (i / columns + (op == ML_OP_argmin)) % 2 ? 0.0 : -0.0;
    for (int64_t i = 0; i < columns; i++) wanted[i] = 0;
    for (int kind = DENSE; kind <= TRANSPOSED; kind++)
      expect_values(apply(e, op, list_attrs(1, (int64_t[]){0}), view_tensor(e, t, 2, shape, v, (view)kind)), 1, &columns, wanted, 0, 0, "zeros, %d rows", (int)n);
    drop_all();
  }
}

/* Values whose sum overflows in one block have an infinite variance, whatever blocks follow. */
static void check_overflow(ml_engine *e, ml_op op) {
  enum { N = 600 };
  if (skip_case(N)) return;
  for (int at = 0; at < N - 1; at += 100) {
    double *v = room(N * 20, 8), *wanted = room(20, 8);
    for (int i = 0; i < N; i++) v[i] = i == at || i == at + 1 ? 1.6e308 : i % 7;
    for (int i = 0; i < 20; i++) wanted[i] = INFINITY;
    ml_attrs attrs = list_attrs(1, (int64_t[]){0});
    expect_values(apply(e, op, attrs, tensor(e, ML_F64, SHAPE(N), v)), 0, NULL, wanted, 0, 0, "an overflow at %d", at);
    for (int i = N - 1; i >= 0; i--) {
      for (int c = 0; c < 20; c++) v[i * 20 + c] = v[i];
    }
    expect_values(apply(e, op, attrs, tensor(e, ML_F64, SHAPE(N, 20), v)), 1, (int64_t[]){20}, wanted, 0, 0, "columns, an overflow at %d", at);
    drop_all();
  }
}

/* A zero makes the product zero, though others would overflow the dtype on their way past it. */
static void check_zero_product(ml_engine *e) {
  enum { N = 33 };
  double v[N], zero = 0;
  if (skip_case(N)) return;
  for (int i = 0; i < N; i++) v[i] = i % 16 == 14 ? 0x1p120 : 1;
  v[1] = 0;
  for (int i = 0; i < 3; i++) v[4 + 16 * (i % 2) + i] = 0x1p120;
  expect_values(apply(e, ML_OP_prod, list_attrs(1, (int64_t[]){0}), tensor(e, ML_F32, SHAPE(N), v)), 0, NULL, &zero, 0, 0, "a product past zero");
  drop_all();
}

/* Shapes around the ends of blocks (128), of runs (1,024) and of chunks (8,192), and of the panels in which columns are
 * taken; and through every view the same bits. */
static void check_edges(ml_engine *e, ml_op op, ml_dtype t, int ndim, const int64_t *shape, unsigned axes) {
  static const view kinds[] = {TRANSPOSED, SLICED, REVERSED};
  int64_t n = ml_shape_size(ndim, shape), list[ML_MAX_DIMS];
  int n_list = 0;
  if (skip_case(n)) return;
  check_reduce(e, op, t, ndim, shape, axes, false, DENSE);
  check_reduce(e, op, t, ndim, shape, axes, false, TRANSPOSED);
  for (int d = 0; d < ndim; d++) {
    if (axes & 1u << d) list[n_list++] = d;
  }
  bool is_unsigned = t == ML_U8 || t == ML_U16 || t == ML_U32 || t == ML_U64 || t == ML_BOOL;
  double *v = random_values(t, n, is_unsigned ? 0 : -1, 1.5);
  if (op == ML_OP_prod && ml_dtype_is_float(t)) {
    for (int64_t i = 0; i < n; i++) v[i] = rounded(t, 1 + v[i] / 256);
  }
  ml_attrs attrs = (op == ML_OP_argmax || op == ML_OP_argmin) && n_list == ndim ? NO_ATTRS : list_attrs(n_list, list);
  attrs.var.ddof = DDOF;
  ml_tensor *dense = apply(e, op, attrs, tensor(e, t, ndim, shape, v));
  const double *wanted = numbers(dense);
  for (int i = 0; i < 3; i++) {
    ml_tensor *x = view_tensor(e, t, ndim, shape, v, kinds[i]);
    expect_values(apply(e, op, attrs, x), dense->ndim, dense->shape, wanted, 0, 0, "%s as if dense, shape %s, axes %x", view_names[kinds[i]],
                  ml_shape_text(ndim, shape, (char[160]){0}, 160), axes);
  }
  drop_all();
}

static void test_edges(ml_engine *e, ml_op op) {
  static const int64_t flat[] = {1, 15, 17, 127, 128, 129, 511, 513, 1023, 1025, 8191, 8192, 8193, 65665};
  static const int64_t flats[][2] = {{3, 1025}, {1025, 3}, {513, 70}, {70, 513}, {2, 33000}, {33000, 2}, {1, 1300}, {130, 129}, {700, 16}, {993, 33}, {64, 65}, {23, 1101}, {3000, 16}};
  static const int64_t cubes[][3] = {{5, 130, 9}, {3, 33, 1030}, {130, 4, 17}, {2, 1, 1500}, {9, 5, 256}, {140, 3, 40}};
  static const ml_dtype dtypes[] = {ML_F32, ML_BF16, ML_F16, ML_F64, ML_I32, ML_I64, ML_U8, ML_BOOL};
  bool index = op == ML_OP_argmax || op == ML_OP_argmin;
  for (size_t k = 0; k < sizeof dtypes / sizeof *dtypes; k++) {
    ml_dtype t = dtypes[k];
    if (quick && k > 1) break;
    for (size_t i = 0; i < sizeof flat / sizeof *flat; i++) check_edges(e, op, t, 1, &flat[i], 1);
    for (size_t i = 0; i < sizeof flats / sizeof *flats; i++) {
      if (k && (i + k) % 4) continue; /* each shape with some dtypes */
      for (unsigned axes = 1; axes < 4; axes++) check_edges(e, op, t, 2, flats[i], axes);
    }
    for (size_t i = 0; i < sizeof cubes / sizeof *cubes && t == ML_F32; i++) {
      for (unsigned axes = 1; axes < 8; axes++) {
        if (!index || axes == 7 || !(axes & (axes - 1))) check_edges(e, op, t, 3, cubes[i], axes);
      }
    }
  }
}

static void test_reduction(ml_engine *e, ml_op op) {
  static const int64_t shape[] = {4, 3, 5, 2}, flat[] = {700}, rows[] = {30, 333}, empty[] = {3, 0, 2}, none[] = {0, 3};
  bool index = op == ML_OP_argmax || op == ML_OP_argmin, chooses = index || op == ML_OP_max || op == ML_OP_min;
  for (int i = 0; i <= ML_BOOL; i++) {
    ml_dtype t = (ml_dtype)i;
    for (unsigned axes = index ? 1 : 0; axes < 16; axes++) {
      if (index && axes != 15 && (axes & (axes - 1))) continue; /* one axis, or all */
      for (int kind = 0; kind < VIEWS; kind++) {
        if (ml_dtype_is_float(t) || t == ML_I32 || kind == (int)axes % VIEWS) check_reduce(e, op, t, 4, shape, axes, axes % 3 == 0, (view)kind);
      }
    }
    check_reduce(e, op, t, 1, flat, 1, false, t % 2 ? SLICED : DENSE);
    check_reduce(e, op, t, 2, rows, 2, true, DENSE);
    check_reduce(e, op, t, 2, rows, 1, false, DENSE);
    check_reduce(e, op, t, 0, NULL, 0, false, DENSE);
    check_reduce(e, op, t, 3, empty, 1, false, TRANSPOSED); /* nothing out */
    if (!chooses) check_reduce(e, op, t, 3, empty, 2, false, DENSE); /* out of nothing */
    if (chooses && t <= ML_F64) check_nan(e, op, t);
    if (index && t <= ML_F64) check_zeros(e, op, t);
  }
  if (chooses) expect(attempt(e, op, list_attrs(1, (int64_t[]){0}), tensor(e, ML_F32, 2, none, (double[1]){0})) == ML_USAGE, "choosing from nothing is refused");
  expect(attempt(e, op, list_attrs(1, (int64_t[]){2}), tensor(e, ML_F32, SHAPE(2, 2), (double[]){1, 2, 3, 4})) == ML_USAGE, "axis 2 of 2 is refused");
  if (op == ML_OP_var || op == ML_OP_std) check_overflow(e, op);
  if (op == ML_OP_prod) check_zero_product(e);
  test_edges(e, op);
  drop_all();
}

/* The sum of 2^20 float32 terms keeps six digits. */
static void test_sum(ml_engine *e) {
  test_reduction(e, ML_OP_sum);
  enum { N = 1 << 20 };
  double *v = random_values(ML_F32, N, 0, 1), sum = 0;
  for (int i = 0; i < N; i++) sum += v[i];
  expect_values(apply(e, ML_OP_sum, NO_ATTRS, tensor(e, ML_F32, SHAPE(N), v)), 0, NULL, &sum, 1e-6, 0, "a long sum");
  double big[] = {0x1p62, 0x1p62, 5}, wrapped = -0x1p63;
  expect_values(apply(e, ML_OP_sum, NO_ATTRS, tensor(e, ML_I64, SHAPE(3), big)), 0, NULL, &wrapped, 0, 0, "int64 wraps");
  drop_all();
}

/* Squares, and sums of int64, that no dtype holds. */
static void expect_wide(ml_engine *e, ml_op op, ml_dtype t, double a, double b, double ddof, double wanted) {
  ml_attrs attrs = NO_ATTRS;
  attrs.var.ddof = ddof;
  double v[] = {a, b};
  wanted = rounded(reduced_dtype(op, t), wanted);
  expect_values(apply(e, op, attrs, tensor(e, t, SHAPE(2), v)), 0, NULL, &wanted, 0, 0, "%s of %g and %g",
                ml_dtype_name(t), a, b);
  drop_all();
}

static void test_mean(ml_engine *e) {
  test_reduction(e, ML_OP_mean);
  expect_wide(e, ML_OP_mean, ML_I64, 0x1p62, 0x1p62, 0, 0x1p62);
  expect_wide(e, ML_OP_mean, ML_I64, -0x1p63, -0x1p63, 0, -0x1p63);
  expect_wide(e, ML_OP_mean, ML_U64, 0x1p63, 0x1p63, 0, 0x1p63);
}
static void test_norm(ml_engine *e) {
  test_reduction(e, ML_OP_norm);
  expect_wide(e, ML_OP_norm, ML_F16, 3000, 4000, 0, 5000);
  expect_wide(e, ML_OP_norm, ML_F16, 0x3p-24, 0x4p-24, 0, 0x5p-24);
  expect_wide(e, ML_OP_norm, ML_BF16, 0x3p100, 0x4p100, 0, 0x5p100);
  expect_wide(e, ML_OP_norm, ML_F32, 0x3p-100, 0x4p-100, 0, 0x5p-100);
  expect_wide(e, ML_OP_norm, ML_I64, 0x3p60, 0x4p60, 0, 0x5p60);
  expect_wide(e, ML_OP_norm, ML_U64, 0x3p61, 0x4p61, 0, 0x5p61);
}
static void test_std(ml_engine *e) {
  test_reduction(e, ML_OP_std);
  expect_wide(e, ML_OP_std, ML_F16, -300, 300, 0, 300);
  expect_wide(e, ML_OP_std, ML_F32, -0x1p100, 0x1p100, 0, 0x1p100);
  expect_wide(e, ML_OP_std, ML_I64, 0x1p62, 0x1p62, 0, 0);
  expect_wide(e, ML_OP_std, ML_U64, 0, 0x1p63, 0, 0x1p62);
}
static void test_var(ml_engine *e) {
  test_reduction(e, ML_OP_var);
  for (int i = 0; i < ML_BOOL; i++) { /* a divisor of 0, and one below it */
    expect_wide(e, ML_OP_var, (ml_dtype)i, 1, 2, 2, INFINITY);
    expect_wide(e, ML_OP_var, (ml_dtype)i, 1, 2, 3, INFINITY);
    expect_wide(e, ML_OP_var, (ml_dtype)i, 2, 2, 3, NAN);
  }
}
static void test_prod(ml_engine *e) { test_reduction(e, ML_OP_prod); }
static void test_max(ml_engine *e) { test_reduction(e, ML_OP_max); }
static void test_min(ml_engine *e) { test_reduction(e, ML_OP_min); }
static void test_all(ml_engine *e) { test_reduction(e, ML_OP_all); }
static void test_any(ml_engine *e) { test_reduction(e, ML_OP_any); }
static void test_argmin(ml_engine *e) { test_reduction(e, ML_OP_argmin); }
static void test_argmax(ml_engine *e) {
  test_reduction(e, ML_OP_argmax);
  for (int n = 1; n < 70 && !quick; n++) { /* the first of equal ones, at every place */
    double *v = random_values(ML_F32, n, -9, -3);
    int64_t a = random_below(n), b = random_below(n);
    v[a] = v[b] = 5;
    double first = (double)(a < b ? a : b);
    expect_values(apply(e, ML_OP_argmax, NO_ATTRS, tensor(e, ML_F32, SHAPE(n), v)), 0, NULL, &first, 0, 0, "the first of two, of %d", n);
    drop_all();
  }
}

static void test_logsumexp(ml_engine *e) {
  test_reduction(e, ML_OP_logsumexp);
  double v[] = {1000, 1000, -INFINITY}, wanted = 1000 + log(2), low[] = {-INFINITY, -INFINITY}, none = -INFINITY;
  expect_values(apply(e, ML_OP_logsumexp, NO_ATTRS, tensor(e, ML_F32, SHAPE(3), v)), 0, NULL, &wanted, 1e-6, 0, "large");
  expect_values(apply(e, ML_OP_logsumexp, NO_ATTRS, tensor(e, ML_F32, SHAPE(2), low)), 0, NULL, &none, 0, 0, "all minus infinity");
  drop_all();
}

/* ---- running ---- */

static void check_scan(ml_engine *e, ml_op op, ml_dtype t, int ndim, const int64_t *shape, int axis, view kind) {
  int64_t n = ml_shape_size(ndim, shape), index[ML_MAX_DIMS];
  bool is_unsigned = t == ML_U8 || t == ML_U16 || t == ML_U32 || t == ML_U64 || t == ML_BOOL;
  ml_dtype o = op == ML_OP_cumsum || op == ML_OP_cumprod ? reduced_dtype(ML_OP_sum, t) : t == ML_BOOL ? ML_I32 : t;
  if (skip_case(n)) return;
  double *v = random_values(t, n, is_unsigned ? 0 : -3, 3), *wanted = room((size_t)n, 8);
  if (op == ML_OP_cumprod && ml_dtype_is_float(t)) {
    for (int64_t i = 0; i < n; i++) v[i] = rounded(t, 1 + v[i] / 16);
  }
  if (ml_dtype_is_float(t) && n > 20 && (op == ML_OP_cummax || op == ML_OP_cummin)) v[17] = NAN;
  ml_tensor *x = view_tensor(e, t, ndim, shape, v, kind);
  for (int64_t i = 0; i < n; i++) {
    unravel(i, ndim, shape, index);
    wanted[i] = v[i];
    if (index[axis] == 0) continue;
    index[axis]--;
    double before = wanted[ravel(ndim, shape, index)], now = v[i];
    if (op == ML_OP_cumsum) wanted[i] = before + now;
    else if (op == ML_OP_cumprod) wanted[i] = before * now;
    else if (isnan(before) || isnan(now)) wanted[i] = NAN;
    else wanted[i] = op == ML_OP_cummax ? fmax(before, now) : fmin(before, now);
    if (!ml_dtype_is_float(o)) wanted[i] = rounded(o, wanted[i]);
  }
  for (int64_t i = 0; i < n; i++) wanted[i] = rounded(o, wanted[i]);
  bool exact = !ml_dtype_is_float(o) || op == ML_OP_cummax || op == ML_OP_cummin;
  expect_values(apply(e, op, INTS({.i = axis - (axis % 2 ? ndim : 0)}), x), ndim, shape, wanted, exact ? 0 : 2 * epsilon(o) + (t == ML_F64 ? 1e-14 : 1e-5),
                exact ? 0 : t == ML_F64 ? 1e-13 : 1e-4, "%s, axis %d, %s", ml_dtype_name(t), axis, view_names[kind]);
  drop_all();
}

static void test_scan(ml_engine *e, ml_op op) {
  static const int64_t shape[] = {4, 6, 5}, rows[] = {40, 500}, empty[] = {3, 0};
  for (int i = 0; i <= ML_BOOL; i++) {
    for (int axis = 0; axis < 3; axis++) {
      for (int kind = 0; kind < VIEWS; kind++) check_scan(e, op, (ml_dtype)i, 3, shape, axis, (view)kind);
    }
    check_scan(e, op, (ml_dtype)i, 2, empty, 1, DENSE);
  }
  if (op != ML_OP_cumprod) check_scan(e, op, ML_F32, 2, rows, 1, DENSE);
  expect(attempt(e, op, INTS({.i = 0}), tensor(e, ML_F32, 0, NULL, (double[]){1})) == ML_USAGE, "no axis to run along");
  drop_all();
}

/* Running sums and products pass the ends of narrow dtypes. */
static void expect_widened(ml_engine *e, ml_op op, ml_dtype t, double a, double b, double wanted) {
  double v[] = {a, b}, all[] = {a, wanted};
  expect_values(apply(e, op, INTS({.i = 0}), tensor(e, t, SHAPE(2), v)), SHAPE(2), all, 0, 0, "%s", ml_dtype_name(t));
  drop_all();
}

static void test_cumsum(ml_engine *e) {
  test_scan(e, ML_OP_cumsum);
  expect_widened(e, ML_OP_cumsum, ML_U8, 200, 100, 300);
  expect_widened(e, ML_OP_cumsum, ML_I16, 32767, 1, 32768);
}
static void test_cumprod(ml_engine *e) {
  test_scan(e, ML_OP_cumprod);
  expect_widened(e, ML_OP_cumprod, ML_I8, -100, 100, -10000);
  expect_widened(e, ML_OP_cumprod, ML_U16, 60000, 30000, 1800000000);
}
static void test_cummax(ml_engine *e) { test_scan(e, ML_OP_cummax); }
static void test_cummin(ml_engine *e) { test_scan(e, ML_OP_cummin); }
