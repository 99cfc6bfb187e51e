/* network.h: softmax, norms, products and rotary embedding against plain loops in float64. */

static const ml_dtype float_dtypes[] = {ML_F32, ML_F16, ML_BF16, ML_F64};

/* ---- along rows ---- */

static void test_softmax_of(ml_engine *e, bool logs) {
  static const int64_t shapes[][3] = {{3, 4, 37}, {2, 3, 1}, {1, 1, 300}, {20, 10, 64}, {2, 0, 5}, {2, 2, 3}, {3, 1, 5}, {2, 2, 7}, {1, 3, 8}, {2, 1, 14}, {1, 2, 15}, {2, 1, 16}, {1, 2, 17}, {1, 2, 31}};
  for (int f = 0; f < 4; f++) {
    for (int kind = 0; kind < VIEWS; kind++) {
      for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int64_t *shape = shapes[s];
        int64_t n = ml_shape_size(3, shape), last = shape[2];
        if (skip_case(kind % 4 ? 0 : n)) continue;
        double *v = random_values(float_dtypes[f], n, -9, 9), *wanted = room((size_t)n, 8);
        if (last > 4) {
          for (int64_t r = 0; r < n / last; r++) v[r * last + 3] = r % 3 ? v[r * last + 3] : -INFINITY;
        }
        ml_tensor *x = view_tensor(e, float_dtypes[f], 3, shape, v, (view)kind);
        for (int64_t r = 0; r < n / last; r++) {
          double m = -INFINITY, sum = 0;
          for (int64_t i = 0; i < last; i++) m = fmax(m, v[r * last + i]);
          for (int64_t i = 0; i < last; i++) sum += exp(v[r * last + i] - m);
          for (int64_t i = 0; i < last; i++) wanted[r * last + i] = logs ? v[r * last + i] - m - log(sum) : exp(v[r * last + i] - m) / sum;
        }
        bool wide = float_dtypes[f] == ML_F64;
        expect_values(apply(e, logs ? ML_OP_log_softmax : ML_OP_softmax, INTS({.i = -1}), x), 3, shape, wanted, 2 * epsilon(float_dtypes[f]) + (wide ? 1e-14 : 2e-6),
                      wide ? 1e-14 : logs ? 4e-6 : 1e-9 + (f == 1 ? 0x1p-24 : 0), "%s, shape %d, %s", ml_dtype_name(float_dtypes[f]), (int)s, view_names[kind]);
        drop_all();
      }
    }
  }
  double large[] = {1e30, 1e30, -1e30}, half[] = {0.5, 0.5, 0}, half_log[] = {-log(2), -log(2), -2e30};
  expect_values(apply(e, logs ? ML_OP_log_softmax : ML_OP_softmax, INTS({.i = 0}), tensor(e, ML_F32, SHAPE(3), large)), SHAPE(3), logs ? half_log : half, 1e-6, 0, "large");
  drop_all();
}

static void test_softmax(ml_engine *e) { test_softmax_of(e, false); }
static void test_log_softmax(ml_engine *e) { test_softmax_of(e, true); }

static void test_norm_of(ml_engine *e, bool rms) {
  static const int64_t shapes[][3] = {{3, 4, 37}, {2, 3, 1}, {1, 2, 576}, {30, 5, 64}, {2, 0, 5}, {2, 2, 3}, {3, 1, 6}, {1, 3, 9}, {2, 1, 15}, {1, 2, 16}, {2, 1, 29}};
  for (int f = 0; f < 9; f++) {
    ml_dtype t = float_dtypes[f % 3], wt = float_dtypes[f / 3];
    for (int kind = 0; kind < VIEWS; kind++) {
      for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int64_t *shape = shapes[s];
        int64_t n = ml_shape_size(3, shape), last = shape[2];
        if (skip_case(kind % 4 ? 0 : n)) continue;
        int given = (int)((s + (size_t)kind) % 4); /* weight, bias: with and without */
        double *v = random_values(t, n, -3, 5), *weight = random_values(wt, last, 0.5, 2), *bias = random_values(wt, last, -1, 1), *wanted = room((size_t)n, 8);
        double eps = 1e-3, offset = kind % 2 ? 1 : 0;
        ml_tensor *x = view_tensor(e, t, 3, shape, v, (view)kind);
        ml_tensor *w = given & 1 ? view_tensor(e, wt, SHAPE(last), weight, kind % 3 ? DENSE : SLICED) : NULL, *b = given & 2 ? view_tensor(e, wt, SHAPE(last), bias, kind % 3 ? DENSE : REVERSED) : NULL;
        for (int64_t r = 0; r < n / last; r++) {
          double mean = 0, squares = 0;
          for (int64_t i = 0; i < last && !rms; i++) mean += v[r * last + i] / (double)last;
          for (int64_t i = 0; i < last; i++) squares += pow(v[r * last + i] - mean, 2) / (double)last;
          for (int64_t i = 0; i < last; i++) {
            double y = (v[r * last + i] - mean) / sqrt(squares + eps);
            wanted[r * last + i] = rms ? y * (w ? offset + weight[i] : 1) : y * (w ? weight[i] : 1) + (b ? bias[i] : 0);
          }
        }
        ml_tensor *y = rms ? apply(e, ML_OP_rms_norm, INTS({.f = eps}, {.f = offset}), x, w) : apply(e, ML_OP_layer_norm, INTS({.f = eps}), x, w, b);
        expect(y->dtype == t, "dtype");
        expect_values(y, 3, shape, wanted, 2 * epsilon(t) + 3e-6, 6e-5, "%s, weight %s, shape %d, %s", ml_dtype_name(t), ml_dtype_name(wt), (int)s, view_names[kind]);
        drop_all();
      }
    }
  }
  ml_tensor *x = random_tensor(e, ML_F32, SHAPE(2, 4), -1, 1), *whole = INDICES(e, 1, 1, 1, 1), *wide = random_tensor(e, ML_F64, SHAPE(4), 0, 1);
  expect((rms ? attempt(e, ML_OP_rms_norm, NO_ATTRS, x, whole) : attempt(e, ML_OP_layer_norm, NO_ATTRS, x, whole, NULL)) != ML_OK, "an int32 weight is refused");
  expect((rms ? attempt(e, ML_OP_rms_norm, NO_ATTRS, x, wide) : attempt(e, ML_OP_layer_norm, NO_ATTRS, x, NULL, wide)) != ML_OK, "a float64 weight is refused");
  drop_all();
}

static void test_rms_norm(ml_engine *e) { test_norm_of(e, true); }
static void test_layer_norm(ml_engine *e) { test_norm_of(e, false); }

/* ---- products ---- */

typedef struct operand { int ndim; int64_t shape[4]; } operand;

/* a (.., M, K) times b (.., K, N). */
static void check_matmul(ml_engine *e, ml_dtype ta, ml_dtype tb, operand a, operand b, view kind_a, view kind_b) {
  int64_t na = ml_shape_size(a.ndim, a.shape), nb = ml_shape_size(b.ndim, b.shape);
  if (skip_case(kind_b == DENSE ? na : 0)) return;
  double *va = random_values(ta, na, -1, 1), *vb = random_values(tb, nb, -1, 1);
  ml_tensor *x = view_tensor(e, ta, a.ndim, a.shape, va, kind_a), *y = view_tensor(e, tb, b.ndim, b.shape, vb, kind_b);
  int64_t M = a.shape[a.ndim - 2], K = a.shape[a.ndim - 1], N = b.shape[b.ndim - 1], out[4];
  int ndim = a.ndim > b.ndim ? a.ndim : b.ndim;
  for (int d = 0; d < ndim - 2; d++) {
    int ia = d - (ndim - a.ndim), ib = d - (ndim - b.ndim);
    int64_t da = ia < 0 ? 1 : a.shape[ia], db = ib < 0 ? 1 : b.shape[ib];
    out[d] = da == 1 ? db : da;
  }
  out[ndim - 2] = M, out[ndim - 1] = N;
  int64_t n = ml_shape_size(ndim, out), at[4], index[4];
  double *wanted = room((size_t)n, 8);
  for (int64_t i = 0; i < n; i++) {
    unravel(i, ndim, out, at);
    int64_t fa = 0, fb = 0;
    for (int d = 0; d < a.ndim - 2; d++) index[d] = a.shape[d] == 1 ? 0 : at[d + ndim - a.ndim];
    fa = ravel(a.ndim - 2, a.shape, index) * M * K + at[ndim - 2] * K;
    for (int d = 0; d < b.ndim - 2; d++) index[d] = b.shape[d] == 1 ? 0 : at[d + ndim - b.ndim];
    fb = ravel(b.ndim - 2, b.shape, index) * K * N + at[ndim - 1];
    for (int64_t k = 0; k < K; k++) wanted[i] += va[fa + k] * vb[fb + k * N];
  }
  ml_tensor *r = apply(e, ML_OP_matmul, NO_ATTRS, x, y);
  double own = epsilon(r->dtype);
  expect_values(r, ndim, out, wanted, 2 * own, (double)(K + 1) * (r->dtype == ML_F64 ? 0x1p-52 : 0x1p-23) + 4 * (own > 0x1p-20 ? own * 0.01 : 0), "%s (%lld, %lld) and %s (%lld, %lld), %s, %s",
                ml_dtype_name(ta), (long long)M, (long long)K, ml_dtype_name(tb), (long long)K, (long long)N, view_names[kind_a], view_names[kind_b]);
  drop_all();
}

static void test_matmul(ml_engine *e) {
  static const operand pairs[][2] = {
      {{2, {3, 5}}, {2, {5, 7}}},          {{2, {1, 40}}, {2, {40, 33}}},         {{2, {33, 1}}, {2, {1, 20}}},         {{2, {5, 8}}, {2, {8, 1}}},     {{2, {1, 1}}, {2, {1, 1}}},
      {{3, {4, 3, 5}}, {3, {4, 5, 6}}},    {{3, {4, 3, 5}}, {2, {5, 6}}},         {{2, {3, 5}}, {3, {4, 5, 6}}},        {{4, {2, 1, 3, 5}}, {3, {4, 5, 6}}}, {{4, {2, 4, 3, 5}}, {4, {1, 4, 5, 6}}},
      {{2, {70, 600}}, {2, {600, 18}}},    {{2, {0, 5}}, {2, {5, 3}}},            {{2, {3, 0}}, {2, {0, 4}}},           {{2, {3, 4}}, {2, {4, 0}}},     {{3, {0, 3, 5}}, {2, {5, 6}}},
      {{3, {2, 130, 17}}, {3, {2, 17, 35}}}};
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    for (int a = 0; a < VIEWS; a++) {
      check_matmul(e, ML_F32, ML_F32, pairs[i][0], pairs[i][1], (view)a, (view)((a * 2 + (int)i) % VIEWS));
      check_matmul(e, float_dtypes[a % 4], float_dtypes[a % 4], pairs[i][0], pairs[i][1], (view)((a + 4) % VIEWS), (view)a);
    }
    check_matmul(e, ML_F16, ML_F32, pairs[i][0], pairs[i][1], DENSE, TRANSPOSED);
    check_matmul(e, ML_BF16, ML_F64, pairs[i][0], pairs[i][1], SLICED, DENSE);
  }
  ml_tensor *a = random_tensor(e, ML_F32, SHAPE(2, 3), 0, 1), *b = random_tensor(e, ML_F32, SHAPE(2, 3), 0, 1);
  expect(attempt(e, ML_OP_matmul, NO_ATTRS, a, b) == ML_MISMATCH, "inner sizes that differ");
  expect(attempt(e, ML_OP_matmul, NO_ATTRS, tensor(e, ML_I32, SHAPE(1, 1), (double[]){1}), tensor(e, ML_I32, SHAPE(1, 1), (double[]){1})) == ML_USAGE, "integers");
  drop_all();
}

/* With a plain weight; packed ones are test_quant's. */
static void test_linear(ml_engine *e) {
  static const operand inputs[] = {{1, {19}}, {2, {3, 19}}, {3, {2, 5, 19}}, {2, {70, 19}}, {4, {2, 2, 3, 19}}, {2, {0, 19}}};
  for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
    for (int kind = 0; kind < VIEWS; kind++) {
      operand o = inputs[i];
      for (int f = 0; f < 2; f++) {
        if (skip_case(0)) continue;
        ml_dtype t = f ? float_dtypes[(i + (size_t)kind) % 4] : ML_F32, wt = t == ML_F64 ? ML_F64 : float_dtypes[kind % 3];
        int64_t n = ml_shape_size(o.ndim, o.shape), rows = n / 19, out[4];
        double *x = random_values(t, n, -1, 1), *w = random_values(wt, 19 * 23, -1, 1), *wanted = room((size_t)(rows * 23), 8);
        ml_tensor *tx = view_tensor(e, t, o.ndim, o.shape, x, (view)kind), *tw = view_tensor(e, wt, SHAPE(23, 19), w, (view)(VIEWS - 1 - kind));
        for (int64_t r = 0; r < rows * 23; r++) {
          for (int64_t k = 0; k < 19; k++) wanted[r] += x[r / 23 * 19 + k] * w[r % 23 * 19 + k];
        }
        memcpy(out, o.shape, sizeof out);
        out[o.ndim - 1] = 23;
        expect_values(apply(e, ML_OP_linear, NO_ATTRS, tx, tw), o.ndim, out, wanted, 2 * epsilon(t), 2e-5, "%s and %s, input %d, %s", ml_dtype_name(t), ml_dtype_name(wt), (int)i, view_names[kind]);
        drop_all();
      }
    }
  }
  ml_tensor *x = random_tensor(e, ML_F32, SHAPE(2, 32), 0, 1), *wide = random_tensor(e, ML_F64, SHAPE(2, 32), 0, 1), *whole = random_tensor(e, ML_I32, SHAPE(2, 32), 0, 1), *blocks;
  expect(attempt(e, ML_OP_linear, NO_ATTRS, x, wide) != ML_OK, "float32 with a float64 weight is refused");
  expect(attempt(e, ML_OP_linear, NO_ATTRS, wide, x) != ML_OK, "float64 with a float32 weight is refused");
  expect(attempt(e, ML_OP_linear, NO_ATTRS, x, whole) != ML_OK, "an int32 weight is refused");
  struct {
    uint16_t scale; /* of q8_0: a float16, here 1 */
    int8_t codes[32];
  } rows[2] = {{.scale = 0x3c00}, {.scale = 0x3c00}};
  double ones[64];
  for (int k = 0; k < 64; k++) rows[k / 32].codes[k % 32] = (int8_t)(k / 32 + 1), ones[k] = 1;
  must(ml_tensor_from_host(e->device, ML_Q8_0, SHAPE(2, 32), rows, sizeof rows, &blocks), "blocks");
  keep(blocks); /* a weight in the file's own order is taken as it is */
  expect_values(apply(e, ML_OP_linear, NO_ATTRS, tensor(e, ML_F32, SHAPE(2, 32), ones), blocks), SHAPE(2, 2), (double[]){32, 64, 32, 64}, 1e-6, 0, "a weight in the file's blocks");
  expect_values(apply(e, ML_OP_embedding, NO_ATTRS, blocks, INDICES(e, 0)), SHAPE(1, 32), ones, 0, 0, "rows of the file's blocks");
  drop_all();
}

static void test_linear_transposed(ml_engine *e) {
  static const operand inputs[] = {{1, {23}}, {2, {3, 23}}, {3, {2, 5, 23}}, {2, {0, 23}}};
  for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
    for (int kind = 0; kind < VIEWS; kind++) {
      if (skip_case(0)) continue;
      operand o = inputs[i];
      ml_dtype wt = float_dtypes[kind % 3], yt = float_dtypes[(kind + (int)i) % 3];
      int64_t n = ml_shape_size(o.ndim, o.shape), rows = n / 23, out[4];
      double *y = random_values(yt, n, -1, 1), *w = random_values(wt, 19 * 23, -1, 1), *wanted = room((size_t)(rows * 19), 8);
      ml_tensor *ty = view_tensor(e, yt, o.ndim, o.shape, y, (view)kind), *tw = view_tensor(e, wt, SHAPE(23, 19), w, (view)(VIEWS - 1 - kind));
      for (int64_t r = 0; r < rows * 19; r++) {
        for (int64_t k = 0; k < 23; k++) wanted[r] += y[r / 19 * 23 + k] * w[k * 19 + r % 19];
      }
      memcpy(out, o.shape, sizeof out);
      out[o.ndim - 1] = 19;
      expect_values(apply(e, ML_OP_linear_transposed, NO_ATTRS, ty, tw), o.ndim, out, wanted, 2 * epsilon(yt), 2e-5, "%s and %s, input %d, %s", ml_dtype_name(yt), ml_dtype_name(wt), (int)i, view_names[kind]);
      drop_all();
    }
  }
}

static void test_embedding(ml_engine *e) {
  for (int f = 0; f < 3; f++) {
    for (int kind = 0; kind < VIEWS; kind++) {
      if (skip_case(0)) continue;
      double *w = random_values(float_dtypes[f], 11 * 9, -1, 1), *ids = random_values(ML_I32, 8, 0, 10), wanted[72];
      ml_tensor *weight = view_tensor(e, float_dtypes[f], SHAPE(11, 9), w, (view)kind), *index = view_tensor(e, ML_I32, SHAPE(2, 4), ids, (view)(VIEWS - 1 - kind));
      for (int to = 0; to < 3; to++) {
        for (int i = 0; i < 72; i++) wanted[i] = rounded(float_dtypes[to], w[(int)ids[i / 9] * 9 + i % 9]);
        expect_values(apply(e, ML_OP_embedding, INTS({.i = float_dtypes[to]}), weight, index), SHAPE(2, 4, 9), wanted, 0, 0, "%s as %s, %s", ml_dtype_name(float_dtypes[f]), ml_dtype_name(float_dtypes[to]), view_names[kind]);
      }
      drop_all();
    }
  }
  ml_tensor *wide = random_tensor(e, ML_F64, SHAPE(2, 4), 0, 1), *x = random_tensor(e, ML_F32, SHAPE(2, 4), 0, 1);
  expect(attempt(e, ML_OP_embedding, NO_ATTRS, wide, INDICES(e, 1)) != ML_OK, "a float64 weight is refused");
  expect(attempt(e, ML_OP_embedding, NO_ATTRS, x, INDICES(e, 1, 2)) == ML_USAGE, "an id past the end");
  expect(attempt(e, ML_OP_embedding, INTS({.i = ML_I32}), x, INDICES(e, 1)) == ML_USAGE, "int32 rows are refused");
  expect(attempt(e, ML_OP_embedding, INTS({.i = ML_F64}), x, INDICES(e, 1)) == ML_USAGE, "float64 rows are refused");
  drop_all();
}

/* Rows of x by experts of ids, each `shared` by ids' last axis or with its own row. */
typedef struct gathering_case {
  operand x, ids;
  bool shared;
} gathering_case;

static void check_gather_linear(ml_engine *e, const gathering_case *c, ml_dtype t, ml_dtype wt, ml_dtype it, view kind) {
  enum { EXPERTS = 5, OUTPUTS = 23, INPUTS = 19 };
  const int64_t pairs = ml_shape_size(c->ids.ndim, c->ids.shape), all = ml_shape_size(c->x.ndim, c->x.shape);
  const int64_t last = c->ids.ndim ? c->ids.shape[c->ids.ndim - 1] : 1;
  const view other = (view)(VIEWS - 1 - kind);
  double *x = random_values(t, all, -1, 1), *w = random_values(wt, EXPERTS * OUTPUTS * INPUTS, -1, 1);
  double *ids = random_values(it, pairs, 0, EXPERTS - 1), *wanted = room((size_t)(pairs * OUTPUTS), 8);
  int64_t out[4];
  ml_tensor *tx = view_tensor(e, t, c->x.ndim, c->x.shape, x, kind);
  ml_tensor *tw = view_tensor(e, wt, SHAPE(EXPERTS, OUTPUTS, INPUTS), w, other);
  ml_tensor *ti = view_tensor(e, it, c->ids.ndim, c->ids.shape, ids, kind);
  for (int64_t p = 0; p < pairs; p++) {
    const double *row = x + (c->shared ? p / last : p) * INPUTS, *matrix = w + (int)ids[p] * OUTPUTS * INPUTS;
    for (int64_t i = 0; i < OUTPUTS * INPUTS; i++) wanted[p * OUTPUTS + i / INPUTS] += row[i % INPUTS] * matrix[i];
  }
  memcpy(out, c->ids.shape, sizeof out);
  out[c->ids.ndim] = OUTPUTS;
  expect_values(apply(e, ML_OP_gather_linear, NO_ATTRS, tx, tw, ti), c->ids.ndim + 1, out, wanted, 2 * epsilon(t), 2e-5,
                "%s and %s, ids of %s, %s", ml_dtype_name(t), ml_dtype_name(wt), ml_dtype_name(it), view_names[kind]);
  drop_all();
}

/* With plain weights; packed ones are test_experts.lua's. */
static void test_gather_linear(ml_engine *e) {
  static const gathering_case cases[] = {
      {{2, {3, 19}}, {2, {3, 2}}, true},    {{2, {70, 19}}, {2, {70, 3}}, true},       {{1, {19}}, {1, {4}}, true},
      {{1, {19}}, {0, {0}}, false},         {{2, {6, 19}}, {1, {6}}, false},           {{3, {7, 2, 19}}, {2, {7, 2}}, false},
      {{3, {2, 5, 19}}, {3, {2, 5, 3}}, true}, {{2, {0, 19}}, {2, {0, 3}}, true},      {{2, {3, 19}}, {2, {3, 0}}, true}};
  static const ml_dtype whole[] = {ML_I32, ML_I64, ML_U8, ML_I8, ML_U16, ML_I16, ML_U32, ML_U64};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    for (int kind = 0; kind < VIEWS; kind++) {
      for (int f = 0; f < 4; f++) {
        if (skip_case(0)) continue;
        ml_dtype t = float_dtypes[f], wt = t == ML_F64 ? ML_F64 : float_dtypes[kind % 3];
        check_gather_linear(e, &cases[i], t, wt, whole[(i + (size_t)(kind + f)) % 8], (view)kind);
      }
    }
  }
  ml_tensor *x = random_tensor(e, ML_F32, SHAPE(1, 4), 0, 1), *w = random_tensor(e, ML_F32, SHAPE(3, 2, 4), 0, 1);
  ml_tensor *id = INDICES(e, 3), *ids = apply(e, ML_OP_reshape, list_attrs(SHAPE(1, 1)), id);
  expect(attempt(e, ML_OP_gather_linear, NO_ATTRS, x, w, ids) == ML_USAGE, "an expert past the last");
  expect(attempt(e, ML_OP_gather_linear, NO_ATTRS, x, w, INDICES(e, 1, 2)) != ML_OK, "ids of other rows are refused");
  expect(attempt(e, ML_OP_gather_linear, NO_ATTRS, x, x, ids) != ML_OK, "a weight without experts is refused");
  drop_all();
}

/* ---- rotary embedding ---- */

static void test_rope_table(ml_engine *e) {
  enum { B = 3, T = 5, N = 4 };
  double frequencies[N] = {1, 0.25, 0.01, 0.0001}, positions[B * T], wanted[B * T * 2 * N];
  for (int i = 0; i < B * T; i++) positions[i] = (double)(i % 4 == 3 ? random_below(4000) : i);
  for (int i = 0; i < B * T * N; i++) {
    int u = i / N, k = i % N;
    float angle = (float)positions[u] * (float)frequencies[k]; /* float32 products, as checkpoints were trained with */
    wanted[u * 2 * N + k] = cos(angle) * 1.5;
    wanted[u * 2 * N + N + k] = sin(angle) * 1.5;
  }
  for (int kind = 0; kind < 4; kind++) {
    ml_tensor *p = view_tensor(e, kind % 2 ? ML_I64 : ML_I32, SHAPE(B, T), positions, (view)kind), *f = view_tensor(e, ML_F32, SHAPE(N), frequencies, (view)kind);
    expect_values(apply(e, ML_OP_rope_table, INTS({.f = 1.5}), p, f), SHAPE(B, T, 2 * N), wanted, 1e-6, 1e-6, "%s", view_names[kind]);
    drop_all();
  }
}

static void test_rope(ml_engine *e) {
  enum { B = 2, H = 3, T = 4, D = 10, ALL = B * H * T * D };
  for (int n = 0; n <= 5; n++) {
    for (int i = 0; i < 3 * VIEWS * 2; i++) {
      if (skip_case(0)) continue;
      ml_dtype t = float_dtypes[i % 3];
      view kind = (view)(i / 3 % VIEWS);
      bool interleaved = i / 3 / VIEWS;
      double *x = random_values(t, ALL, -1, 1), *table = random_values(ML_F32, B * T * 2 * n, -1, 1), wanted[ALL];
      ml_tensor *tx = view_tensor(e, t, SHAPE(B, H, T, D), x, kind), *tt = view_tensor(e, ML_F32, SHAPE(B, T, 2 * n), table, i % 4 == 3 ? REPEATED_FIRST : i % 4 == 2 ? SLICED : DENSE);
      if (i % 4 == 1 && n) { /* a window of a longer table: rows without holes, but not one after the other */
        double *longer = random_values(ML_F32, B * (T + 3) * 2 * n, -1, 1);
        for (int k = 0; k < B * T * 2 * n; k++) longer[(k / (T * 2 * n) * (T + 3) + 2) * 2 * n + k % (T * 2 * n)] = table[k];
        tt = apply(e, ML_OP_slice, list_attrs(SHAPE(0, B, 1, 2, T, 1, 0, 2 * n, 1)), tensor(e, ML_F32, SHAPE(B, T + 3, 2 * n), longer));
      }
      for (int k = 0; k < ALL; k++) {
        int b = k / (H * T * D), pos = k / D % T, j = k % D;
        const double *row = table + (b * T + pos) * 2 * n;
        if (j >= 2 * n) wanted[k] = x[k];
        else if (interleaved) wanted[k] = j % 2 ? x[k] * row[j / 2] + x[k - 1] * row[n + j / 2] : x[k] * row[j / 2] - x[k + 1] * row[n + j / 2];
        else wanted[k] = j >= n ? x[k] * row[j - n] + x[k - n] * row[j] : x[k] * row[j] - x[k + n] * row[n + j];
      }
      expect_values(apply(e, ML_OP_rope, INTS({.i = interleaved}), tx, tt), SHAPE(B, H, T, D), wanted, 2 * epsilon(t), 3e-7, "%s, %d pairs%s, %s, table %d", ml_dtype_name(t), n,
                    interleaved ? " interleaved" : "", view_names[kind], i % 4);
      drop_all();
    }
  }
  ml_tensor *wide = random_tensor(e, ML_F64, SHAPE(1, 1, 1, 4), 0, 1), *x = random_tensor(e, ML_F32, SHAPE(1, 1, 1, 4), 0, 1), *table = random_tensor(e, ML_F32, SHAPE(1, 1, 4), 0, 1),
            *half = random_tensor(e, ML_F16, SHAPE(1, 1, 4), 0, 1);
  expect(attempt(e, ML_OP_rope, INTS({.i = 0}), wide, table) != ML_OK, "float64 is refused");
  expect(attempt(e, ML_OP_rope, INTS({.i = 0}), x, half) != ML_OK, "a float16 table is refused");
  drop_all();
}
