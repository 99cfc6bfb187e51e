/* index.h: making, joining, looking up, sorting and viewing, against plain loops over coordinates. */

static const ml_dtype some_dtypes[] = {ML_F32, ML_BF16, ML_F64, ML_I32, ML_U8, ML_I64, ML_BOOL};
enum { SOME = sizeof some_dtypes / sizeof *some_dtypes };

static void test_arange(ml_engine *e) {
  ml_tensor *none[1] = {NULL};
  for (int i = 0; i < ML_BOOL; i++) {
    ml_dtype t = (ml_dtype)i;
    int64_t n = 23;
    double wanted[23];
    for (int down = 0; down < 2; down++) {
      int64_t start = down ? 100 : 3, step = down ? -4 : 4;
      for (int k = 0; k < n; k++) wanted[k] = rounded(t, (double)(start + k * step));
      expect_values(apply_list(e, ML_OP_arange, INTS({.i = start}, {.i = step}, {.i = n}, {.i = t}), 0, none), 1, &n,
                    wanted, 0, 0, "%s", ml_dtype_name(t));
    }
    drop_all();
    int64_t low, high;
    ml_dtype_limits(t, &low, &high); /* the last number decides, and so does the first */
    bool whole = !ml_dtype_is_float(t);
    expect(try_apply(e, ML_OP_arange, INTS({.i = high - 1}, {.i = 1}, {.i = 2}, {.i = t}), 0, NULL) == ML_OK,
           "up to the highest %s", ml_dtype_name(t));
    expect(try_apply(e, ML_OP_arange, INTS({.i = high - 1}, {.i = 1}, {.i = 3}, {.i = t}), 0, NULL) == ML_USAGE ||
               (!whole && high < INT64_MAX),
           "beyond the highest %s", ml_dtype_name(t));
    if (low > INT64_MIN)
      expect(try_apply(e, ML_OP_arange, INTS({.i = low - 1}, {.i = 1}, {.i = 3}, {.i = t}), 0, NULL) == ML_USAGE,
             "from below the lowest %s", ml_dtype_name(t));
  }
  int64_t far[2];
  must(
      ml_tensor_read(
          apply_list(e, ML_OP_arange, INTS({.i = INT64_MIN}, {.i = INT64_MAX}, {.i = 2}, {.i = ML_I64}), 0, none), far),
      "read");
  expect(far[0] == INT64_MIN && far[1] == -1, "int64 is exact");
  drop_all();
  expect(try_apply(e, ML_OP_arange, INTS({.i = 0}, {.i = 1}, {.i = -1}, {.i = ML_F32}), 0, NULL) == ML_USAGE,
         "a negative count");
  expect(try_apply(e, ML_OP_arange, INTS({.i = 0}, {.i = 1}, {.i = 32}, {.i = ML_Q4_0}), 0, NULL) == ML_USAGE,
         "a block dtype");
}

static void test_concat(ml_engine *e) {
  for (int d = 0; d < SOME; d++) {
    for (int kind = 0; kind < VIEWS; kind++) {
      for (int axis = 0; axis < 3; axis++) {
        if (skip_case(120)) continue;
        static const int64_t sizes[] = {2, 0, 3, 1};
        int64_t whole[3] = {3, 4, 5}, index[3], at = 0;
        whole[axis] = 6;
        ml_tensor *parts[4];
        double *wanted = room((size_t)ml_shape_size(3, whole), 8);
        for (int p = 0; p < 4; p++) {
          int64_t shape[3] = {3, 4, 5};
          shape[axis] = sizes[p];
          double *v = random_values(some_dtypes[d], ml_shape_size(3, shape), 0, 9);
          parts[p] = view_tensor(e, some_dtypes[d], 3, shape, v, (view)((kind + p) % VIEWS));
          for (int64_t i = 0; i < ml_shape_size(3, shape); i++) {
            unravel(i, 3, shape, index);
            index[axis] += at;
            wanted[ravel(3, whole, index)] = v[i];
          }
          at += sizes[p];
        }
        expect_values(apply_list(e, ML_OP_concat, INTS({.i = axis}), 4, parts), 3, whole, wanted, 0, 0, "%s, axis %d", ml_dtype_name(some_dtypes[d]), axis);
        drop_all();
      }
    }
  }
  ml_tensor *mixed = apply(e, ML_OP_concat, INTS({.i = -1}), tensor(e, ML_I32, SHAPE(2), (double[]){1, 2}), tensor(e, ML_F16, SHAPE(1), (double[]){0.5}));
  expect(mixed->dtype == ML_F16, "int32 beside float16 gives %s", ml_dtype_name(mixed->dtype));
  expect_values(mixed, SHAPE(3), (double[]){1, 2, 0.5}, 0, 0, "two dtypes");
  expect(attempt(e, ML_OP_concat, INTS({.i = 0}), INDICES(e, 1, 2), tensor(e, ML_I32, SHAPE(1, 1), (double[]){1})) == ML_MISMATCH, "shapes that do not join");
  drop_all();
}

static void test_take(ml_engine *e) {
  static const int64_t shape[3] = {4, 5, 3};
  for (int d = 0; d < SOME; d++) {
    for (int kind = 0; kind < VIEWS; kind++) {
      for (int axis = 0; axis < 3; axis++) {
        if (skip_case(60)) continue;
        double *v = random_values(some_dtypes[d], 60, 0, 99), *ids = random_values(ML_I64, 14, 0, (double)shape[axis] - 1), wanted[2 * 7 * 20];
        ml_tensor *x = view_tensor(e, some_dtypes[d], 3, shape, v, (view)kind), *index = view_tensor(e, d % 2 ? ML_I64 : ML_U8, SHAPE(2, 7), ids, (view)(VIEWS - 1 - kind));
        int64_t out[4], at[4], from[3];
        for (int i = 0; i < 4; i++) out[i] = i < axis ? shape[i] : i == axis ? 2 : i == axis + 1 ? 7 : shape[i - 1];
        for (int64_t i = 0; i < ml_shape_size(4, out); i++) {
          unravel(i, 4, out, at);
          for (int k = 0; k < 3; k++) from[k] = k < axis ? at[k] : k == axis ? (int64_t)ids[at[axis] * 7 + at[axis + 1]] : at[k + 1];
          wanted[i] = v[ravel(3, shape, from)];
        }
        expect_values(apply(e, ML_OP_take, INTS({.i = axis}), x, index), 4, out, wanted, 0, 0, "%s, axis %d, %s", ml_dtype_name(some_dtypes[d]), axis, view_names[kind]);
        drop_all();
      }
    }
  }
  ml_tensor *x = INDICES(e, 5, 6, 7);
  expect_values(apply(e, ML_OP_take, INTS({.i = 0}), x, tensor(e, ML_I32, 0, NULL, (double[]){1})), 0, NULL, (double[]){6}, 0, 0, "a 0-dimensional index");
  expect_values(apply(e, ML_OP_take, INTS({.i = 0}), x, ints(e, 0, NULL)), SHAPE(0), NULL, 0, 0, "no index");
  expect(attempt(e, ML_OP_take, INTS({.i = 0}), x, INDICES(e, 0, 3)) == ML_USAGE, "past the end");
  expect(attempt(e, ML_OP_take, INTS({.i = 0}), x, INDICES(e, -1)) == ML_USAGE, "negative");
  expect(attempt(e, ML_OP_take, INTS({.i = 0}), x, tensor(e, ML_F32, SHAPE(1), (double[]){0})) == ML_USAGE, "a float index");
  drop_all();
}

static void test_along(ml_engine *e, bool put) {
  static const int64_t shape[3] = {4, 5, 3};
  for (int d = 0; d < SOME; d++) {
    ml_dtype t = some_dtypes[d];
    for (int kind = 0; kind < VIEWS; kind++) {
      for (int axis = 0; axis < 3; axis++) {
        if (skip_case(60)) continue;
        int64_t picked[3] = {4, 5, 3}, at[3];
        picked[axis] = put ? 2 : 4;
        int64_t n = ml_shape_size(3, picked);
        double *v = random_values(t, 60, 0, 99), *ids = room((size_t)n, 8), *values = random_values(t, n, 0, 99), wanted[80];
        for (int64_t i = 0; i < n; i++) { /* distinct along the axis when they are written */
          unravel(i, 3, picked, at);
          ids[i] = put ? (double)((at[axis] * 2 + (at[0] + at[1] + at[2] - at[axis]) % 2) % shape[axis]) : (double)random_below(shape[axis]);
        }
        ml_tensor *x = view_tensor(e, t, 3, shape, v, (view)kind), *index = view_tensor(e, ML_I32, 3, picked, ids, put ? LAZY_TRANSPOSED : (view)(VIEWS - 1 - kind));
        ml_tensor *w = put ? view_tensor(e, t, 3, picked, values, (view)(VIEWS - 1 - kind)) : NULL;
        for (int i = 0; i < 60 && put; i++) wanted[i] = v[i];
        for (int64_t i = 0; i < n; i++) {
          unravel(i, 3, picked, at);
          at[axis] = (int64_t)ids[i];
          if (put) wanted[ravel(3, shape, at)] = values[i];
          else wanted[i] = v[ravel(3, shape, at)];
        }
        ml_tensor *r = put ? apply(e, ML_OP_put_along_axis, INTS({.i = axis}), x, index, w) : apply(e, ML_OP_take_along_axis, INTS({.i = axis}), x, index);
        expect_values(r, 3, put ? shape : picked, wanted, 0, 0, "%s, axis %d, %s", ml_dtype_name(t), axis, view_names[kind]);
        if (put) expect_values(x, 3, shape, v, 0, 0, "the operand is as it was");
        drop_all();
      }
    }
  }
  ml_tensor *x = INDICES(e, 5, 6, 7), *bad = INDICES(e, 3), *one = INDICES(e, 1);
  ml_status status = put ? attempt(e, ML_OP_put_along_axis, INTS({.i = -1}), x, bad, one) : attempt(e, ML_OP_take_along_axis, INTS({.i = -1}), x, bad);
  expect(status == ML_USAGE, "past the end");
  drop_all();
}

static void test_take_along_axis(ml_engine *e) { test_along(e, false); }
static void test_put_along_axis(ml_engine *e) { test_along(e, true); }

/* Ids may repeat: small whole numbers, so that the order of the additions does not show. */
static void test_scatter_add(ml_engine *e) {
  static const int64_t shape[3] = {3, 4, 2};
  for (int d = 0; d < SOME; d++) {
    ml_dtype t = some_dtypes[d];
    if (t == ML_BOOL) continue;
    for (int axis = 0; axis < 3; axis++) {
      if (skip_case(24)) continue;
      int64_t picked[3] = {3, 4, 2}, at[3];
      picked[axis] = 5;
      int64_t n = ml_shape_size(3, picked);
      double *v = random_values(t, 24, 0, 9), *ids = random_values(ML_I32, n, 0, 1), *values = random_values(t, n, 0, 9), *wanted = room(24, 8);
      for (int64_t i = 0; i < 24; i++) v[i] = wanted[i] = floor(v[i]);
      for (int64_t i = 0; i < n; i++) {
        values[i] = floor(values[i]);
        unravel(i, 3, picked, at);
        at[axis] = (int64_t)ids[i];
        wanted[ravel(3, shape, at)] += values[i];
      }
      ml_tensor *x = tensor(e, t, 3, shape, v), *index = tensor(e, ML_I32, 3, picked, ids), *w = tensor(e, t, 3, picked, values);
      expect_values(apply(e, ML_OP_scatter_add, INTS({.i = axis}), x, index, w), 3, shape, wanted, 0, 0, "%s, axis %d", ml_dtype_name(t), axis);
      drop_all();
    }
  }
}

/* ---- sorting ---- */

typedef enum order { SORTED, INDICES_OF_SORTED, LARGEST } order;

static bool before(double a, double b, order o) { return isnan(b) ? !isnan(a) : o == LARGEST ? a > b : a < b; }

/* The first k of the order along the axis: their values and indices, in dense arrays. */
static void order_of(int ndim, const int64_t *shape, int axis, const double *v, order o, int64_t k, double *values, double *indices) {
  int64_t length = shape[axis], n = ml_shape_size(ndim, shape), index[ML_MAX_DIMS], short_shape[ML_MAX_DIMS], places[600];
  memcpy(short_shape, shape, (size_t)ndim * sizeof *shape);
  short_shape[axis] = k;
  for (int64_t first = 0; first < n; first++) {
    unravel(first, ndim, shape, index);
    if (index[axis] != 0) continue;
    for (int64_t i = 0; i < length; i++) { /* insertion: stable */
      int64_t j = i, at[2];
      for (; j > 0; j--) {
        index[axis] = i, at[0] = ravel(ndim, shape, index);
        index[axis] = places[j - 1], at[1] = ravel(ndim, shape, index);
        if (!before(v[at[0]], v[at[1]], o)) break;
        places[j] = places[j - 1];
      }
      places[j] = i;
    }
    for (int64_t i = 0; i < k; i++) {
      index[axis] = places[i];
      double value = v[ravel(ndim, shape, index)];
      index[axis] = i;
      values[ravel(ndim, short_shape, index)] = value;
      indices[ravel(ndim, short_shape, index)] = (double)places[i];
    }
  }
}

static void check_sort(ml_engine *e, order o, ml_dtype t, int ndim, const int64_t *shape, int axis, view kind) {
  int64_t n = ml_shape_size(ndim, shape), length = shape[axis], k = o == LARGEST ? random_below((int)length + 1) : length, out[ML_MAX_DIMS];
  if (skip_case(n)) return;
  double *v = random_values(t, n, 0, t == ML_BOOL ? 1 : 6), *values = room((size_t)n, 8), *indices = room((size_t)n, 8);
  for (int64_t i = 0; i < n && ml_dtype_is_float(t); i++) v[i] = random_below(12) ? rounded(t, floor(v[i])) : random_below(2) ? NAN : -INFINITY;
  ml_tensor *x = view_tensor(e, t, ndim, shape, v, kind);
  order_of(ndim, shape, axis, v, o, k, values, indices);
  memcpy(out, shape, (size_t)ndim * sizeof *shape);
  out[axis] = k;
  int from_end = axis == ndim - 1 ? -1 : axis;
  if (o != LARGEST) {
    ml_tensor *r = apply(e, o == SORTED ? ML_OP_sort : ML_OP_argsort, INTS({.i = from_end}), x);
    expect_values(r, ndim, out, o == SORTED ? values : indices, 0, 0, "%s, axis %d, %s", ml_dtype_name(t), axis, view_names[kind]);
  } else {
    ml_tensor *both[2];
    must(ml_apply(e, ML_OP_topk, &x, 1, &INTS({.i = k}, {.i = from_end}), both), "topk");
    keep(both[0]), keep(both[1]);
    int first = random_below(2); /* what is computed on the way to the other is kept */
    must(ml_eval(e, &both[first], 1), "eval");
    expect(!both[0]->node && !both[1]->node, "both results");
    expect_values(both[0], ndim, out, values, 0, 0, "%s, axis %d, %s", ml_dtype_name(t), axis, view_names[kind]);
    expect_values(both[1], ndim, out, indices, 0, 0, "indices of %s, axis %d, %s", ml_dtype_name(t), axis, view_names[kind]);
  }
  drop_all();
}

static void test_order(ml_engine *e, order o) {
  static const int64_t shape[3] = {4, 7, 5}, rows[] = {20, 300}, empty[] = {0, 3}, none[] = {3, 0};
  ml_op op = o == SORTED ? ML_OP_sort : o == LARGEST ? ML_OP_topk : ML_OP_argsort;
  for (int d = 0; d < SOME; d++) {
    for (int kind = 0; kind < VIEWS; kind++) {
      for (int axis = 0; axis < 3; axis++) check_sort(e, o, some_dtypes[d], 3, shape, axis, (view)kind);
    }
    check_sort(e, o, some_dtypes[d], 2, rows, 1, DENSE);
    check_sort(e, o, some_dtypes[d], 2, empty, 1, DENSE);
    check_sort(e, o, some_dtypes[d], 2, none, 1, DENSE);
  }
  expect(attempt(e, op, INTS({.i = 1}, {.i = 1}), INDICES(e, 1)) == ML_USAGE, "axis 1 of 1");
  if (o == LARGEST) expect(attempt(e, op, INTS({.i = 2}, {.i = 0}), INDICES(e, 1)) == ML_USAGE, "2 of 1");
  drop_all();
}

static void test_sort(ml_engine *e) { test_order(e, SORTED); }
static void test_argsort(ml_engine *e) { test_order(e, INDICES_OF_SORTED); }
static void test_topk(ml_engine *e) { test_order(e, LARGEST); }

/* ---- views of views ---- */

static void test_reshape(ml_engine *e) {
  static const int64_t shape[] = {4, 6, 10};
  static const int64_t targets[][ML_MAX_DIMS + 1] = {{1, 240}, {2, 24, 10}, {2, 4, 60}, {4, 2, 2, 6, 10}, {5, 4, 1, 6, 1, 10}, {3, 4, 6, 10}, {4, 4, 3, 2, 10}, {2, 8, 30}, {3, 4, -1, 5}, {6, 2, 2, 2, 3, 2, 5}};
  for (int kind = 0; kind < VIEWS; kind++) {
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
      if (skip_case(240)) continue;
      double *v = random_values(ML_F32, 240, -1, 1);
      ml_tensor *x = view_tensor(e, ML_F32, 3, shape, v, (view)kind), *r = apply(e, ML_OP_reshape, list_attrs((int)targets[i][0], &targets[i][1]), x);
      int64_t wanted[ML_MAX_DIMS];
      for (int d = 0; d < (int)targets[i][0]; d++) wanted[d] = targets[i][d + 1] < 0 ? 12 : targets[i][d + 1];
      expect_values(r, (int)targets[i][0], wanted, v, 0, 0, "shape %d of %s", (int)i, view_names[kind]);
      expect_values(apply(e, ML_OP_reshape, list_attrs(3, shape), r), 3, shape, v, 0, 0, "and back, shape %d of %s", (int)i, view_names[kind]);
      drop_all();
    }
  }
  ml_tensor *none = tensor(e, ML_F32, SHAPE(0, 3), NULL);
  expect_values(apply(e, ML_OP_reshape, list_attrs(SHAPE(3, 0, 2)), none), SHAPE(3, 0, 2), NULL, 0, 0, "of nothing");
  expect(attempt(e, ML_OP_reshape, list_attrs(SHAPE(0, -1)), none) == ML_MISMATCH, "-1 beside 0 says nothing");
  expect(attempt(e, ML_OP_reshape, list_attrs(SHAPE(-1, -1)), none) == ML_USAGE, "two unknown sizes");
  expect(attempt(e, ML_OP_reshape, list_attrs(SHAPE(4)), INDICES(e, 1, 2, 3)) == ML_MISMATCH, "3 elements as 4");
  expect_values(apply(e, ML_OP_reshape, list_attrs(SHAPE(1, 1)), tensor(e, ML_F32, 0, NULL, (double[]){4})), SHAPE(1, 1), (double[]){4}, 0, 0, "of a scalar");
  drop_all();
}

/* Chains of random views and kernels, eager (views of storage) and lazy (views inside a plan), against a walk over coordinates. */
static void test_transpose(ml_engine *e) {
  for (int trial = 0; trial < (quick ? 10 : 300); trial++) {
    int64_t shape[3] = {1 + random_below(4), 1 + random_below(4), 1 + random_below(4)}, n = ml_shape_size(3, shape), at[3], from[3];
    double *v = random_values(ML_I16, n, -99, 99);
    ml_tensor *x = tensor(e, ML_I16, 3, shape, v);
    if (trial % 2) x = apply(e, ML_OP_copy, NO_ATTRS, x);
    for (int step = 0; step < 4; step++) {
      int64_t next[3];
      double *w = room(64, 8);
      if (random_below(2)) { /* transpose */
        static const int64_t orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
        const int64_t *o = orders[random_below(6)];
        for (int d = 0; d < 3; d++) next[d] = shape[o[d]];
        for (int64_t i = 0; i < n; i++) {
          unravel(i, 3, next, at);
          for (int d = 0; d < 3; d++) from[o[d]] = at[d];
          w[i] = v[ravel(3, shape, from)];
        }
        x = apply(e, ML_OP_transpose, list_attrs(3, (int64_t[]){o[0], o[1], o[2] - 3}), x);
      } else { /* slice */
        int64_t r[9];
        for (int d = 0; d < 3; d++) {
          bool back = random_below(2);
          int64_t start = random_below(shape[d]), stride = 1 + random_below(2), most = (back ? start : shape[d] - 1 - start) / stride + 1;
          r[3 * d] = start, r[3 * d + 1] = next[d] = 1 + random_below(most), r[3 * d + 2] = back ? -stride : stride;
        }
        for (int64_t i = 0; i < ml_shape_size(3, next); i++) {
          unravel(i, 3, next, at);
          for (int d = 0; d < 3; d++) from[d] = r[3 * d] + at[d] * r[3 * d + 2];
          w[i] = v[ravel(3, shape, from)];
        }
        x = apply(e, ML_OP_slice, list_attrs(9, r), x);
      }
      memcpy(shape, next, sizeof shape);
      v = w;
      n = ml_shape_size(3, shape);
    }
    expect_values(x, 3, shape, v, 0, 0, "trial %d", trial);
    for (int64_t i = 0; i < n; i++) v[i] = -v[i];
    expect_values(apply(e, ML_OP_neg, NO_ATTRS, x), 3, shape, v, 0, 0, "trial %d, negated", trial);
    drop_all();
  }
  expect(attempt(e, ML_OP_transpose, list_attrs(SHAPE(0, 0)), tensor(e, ML_F32, SHAPE(1, 1), (double[]){1})) == ML_USAGE, "an axis named twice");
  drop_all();
}

static void test_slice(ml_engine *e) {
  ml_tensor *x = INDICES(e, 0, 1, 2, 3, 4);
  expect_values(apply(e, ML_OP_slice, list_attrs(SHAPE(4, 3, -2)), x), SHAPE(3), (double[]){4, 2, 0}, 0, 0, "backwards by two");
  expect_values(apply(e, ML_OP_slice, list_attrs(SHAPE(0, 0, 1)), x), SHAPE(0), NULL, 0, 0, "nothing");
  static const int64_t wrong[][3] = {{0, 6, 1}, {5, 1, 1}, {-1, 1, 1}, {0, 2, -1}, {0, 1, 0}, {0, -1, 1}, {1, (int64_t)1 << 62, 4}, {0, 3, INT64_MAX}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    expect(attempt(e, ML_OP_slice, list_attrs(3, wrong[i]), x) == ML_USAGE, "range %d is refused", (int)i);
  }
  drop_all();
}

static void test_broadcast_to(ml_engine *e) {
  double v[] = {1, 2, 3}, wanted[12];
  for (int i = 0; i < 12; i++) wanted[i] = v[i / 2 % 3];
  expect_values(apply(e, ML_OP_broadcast_to, list_attrs(SHAPE(2, 3, 2)), tensor(e, ML_F16, SHAPE(3, 1), v)), SHAPE(2, 3, 2), wanted, 0, 0, "two axes");
  expect(attempt(e, ML_OP_broadcast_to, list_attrs(SHAPE(2, 4)), tensor(e, ML_F16, SHAPE(3), v)) == ML_MISMATCH, "3 as 4");
  ml_tensor *one = tensor(e, ML_F32, SHAPE(1, 1), v), *huge = NULL;
  ml_attrs shape = list_attrs(SHAPE(((int64_t)1 << 62) + 1, 4)); /* its number of elements wraps to 4 */
  expect(ml_apply(e, ML_OP_broadcast_to, &one, 1, &shape, &huge) != ML_OK, "more elements than a number holds");
  ml_tensor_release(huge);
  drop_all();
}
