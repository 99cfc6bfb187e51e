/* attention.h: attention in all its forms, and operations that write state, against plain loops. */

typedef struct attend_case {
  int64_t B, H, KV, T, S, d, dv, slots; /* B sequences of T tokens; slots 0: no pages, k and v have B entries */
  bool causal, softcap, sinks;
  int kept; /* dtype of k and v: a place in float_dtypes */
  int64_t page; /* positions a page, where there are slots */
  bool counts;
  int64_t window;
  int mask; /* 0 none, 1 bool (B, 1, T, S), 2 float32 (T, S), 3 float16 (H, 1, S) */
  view q, k;
  int poison; /* 1 values, 2 keys: an infinity or a NaN here and there, which only rows that see it may show */
  int asked;  /* dtype of q */
  bool packed; /* sequences of 0 to T tokens end to end */
} attend_case;

static const char *case_text(const attend_case *c) {
  static char text[300];
  snprintf(text, sizeof text, "B %lld H %lld/%lld T %lld S %lld d %lld/%lld slots %lld page %lld%s%s%s%s%s, %s of %s window %lld mask %d, q %s, k %s, poison %d", (long long)c->B, (long long)c->H, (long long)c->KV,
           (long long)c->T, (long long)c->S, (long long)c->d, (long long)c->dv, (long long)c->slots, (long long)c->page, c->causal ? " causal" : "", c->softcap ? " softcap" : "", c->sinks ? " sinks" : "",
           c->counts ? " count" : "", c->packed ? " packed" : "", ml_dtype_name(float_dtypes[c->asked]), ml_dtype_name(float_dtypes[c->kept]), (long long)c->window, c->mask, view_names[c->q], view_names[c->k], c->poison);
  return text;
}

/* An infinity or a NaN in one of 24 places, and in the last of all. */
static void poison(double *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    if (i == n - 1 || random_below(24) == 0) x[i] = random_below(2) ? (double)NAN : random_below(2) ? (double)INFINITY : -(double)INFINITY;
  }
}

/* Sequences, where they lie among tokens and keys. */
typedef struct attend_rows {
  double *slot, *start, *count, *offsets, *table; /* of each sequence; table: pages of each slot, in a random order */
  int64_t n_pages, each;                          /* pages, and a slot's */
} attend_rows;

static attend_rows attend_make_rows(const attend_case *c) {
  attend_rows r = {.slot = room((size_t)c->B, 8), .start = room((size_t)c->B, 8), .count = room((size_t)c->B, 8), .offsets = room((size_t)c->B + 1, 8)};
  if (c->packed) r.offsets[0] = (double)random_below(3); /* tokens of nobody */
  for (int64_t b = 0; b < c->B; b++) {
    int64_t length = c->packed ? random_below(c->T + 1) : c->T;
    r.offsets[b + 1] = r.offsets[b] + (double)length;
    r.slot[b] = c->slots ? (double)((b * 2 + 1) % c->slots) : (double)b;
    r.count[b] = c->counts ? (double)(b == 0 ? 0 : 1 + random_below(c->T)) : (double)length;
    r.start[b] = c->slots ? (double)random_below(c->S - length + 1) : c->packed ? 0 : (double)(c->S - c->T);
  }
  if (!c->slots) return r;
  r.each = c->S / c->page, r.n_pages = c->slots * r.each + 2;
  r.table = room((size_t)(c->slots * r.each), 8);
  double *free_pages = room((size_t)r.n_pages, 8);
  for (int64_t i = 0; i < r.n_pages; i++) free_pages[i] = (double)i;
  for (int64_t i = 0; i < c->slots * r.each; i++) {
    int64_t pick = i + random_below(r.n_pages - i);
    r.table[i] = free_pages[pick];
    free_pages[pick] = free_pages[i];
  }
  return r;
}

/* A pool of the keys or values x of slots (slots, KV, S, d); a view that repeats some of them says so in x too. */
static ml_tensor *attend_pool(ml_engine *e, const attend_case *c, const attend_rows *r, ml_dtype t, double *x, int64_t d) {
  double *pool = random_values(t, r->n_pages * c->KV * c->page * d, -1, 1);
  ml_tensor *made = NULL;
  for (int into = 1; into >= 0; into--) {
    for (int64_t i = 0; i < c->slots * c->KV * c->S; i++) {
      int64_t slot = i / (c->KV * c->S), kv = i / c->S % c->KV, j = i % c->S, page = (int64_t)r->table[slot * r->each + j / c->page];
      double *there = pool + ((page * c->KV + kv) * c->page + j % c->page) * d;
      memcpy(into ? there : x + i * d, into ? x + i * d : there, (size_t)d * sizeof *x);
    }
    if (into) made = view_tensor(e, t, SHAPE(r->n_pages, c->KV, c->page, d), pool, c->k);
  }
  return made;
}

static void check_attention(ml_engine *e, const attend_case *given) {
  attend_case own = *given, *c = &own;
  if (c->slots) c->S = (c->S + c->page - 1) / c->page * c->page;
  const attend_rows rows = attend_make_rows(c);
  const bool joined = c->packed && !c->slots; /* keys end to end as well */
  const int64_t N = c->packed ? (int64_t)rows.offsets[c->B] + 2 : c->T, batch = c->packed ? 1 : c->B;
  if (joined) c->S = N;
  int64_t caches = c->slots ? c->slots : joined ? 1 : c->B;
  ml_dtype kt = float_dtypes[c->kept], qt = float_dtypes[c->asked];
  double *q = random_values(qt, batch * c->H * N * c->d, -1, 1), *k = random_values(kt, caches * c->KV * c->S * c->d, -1, 1), *v = random_values(kt, caches * c->KV * c->S * c->dv, -1, 1);
  if (c->poison & 1) poison(v, caches * c->KV * c->S * c->dv);
  if (c->poison & 2) poison(k, caches * c->KV * c->S * c->d);
  double *sink = random_values(ML_F32, c->H, -1, 1);
  ml_tensor *tq = view_tensor(e, qt, SHAPE(batch, c->H, N, c->d), q, c->q), *tk, *tv;
  if (c->slots) {
    tk = attend_pool(e, c, &rows, kt, k, c->d);
    tv = attend_pool(e, c, &rows, kt, v, c->dv);
  } else {
    tk = view_tensor(e, kt, SHAPE(caches, c->KV, c->S, c->d), k, c->k);
    tv = view_tensor(e, kt, SHAPE(caches, c->KV, c->S, c->dv), v, c->k);
  }
  double *mask = NULL;
  ml_tensor *tm = NULL;
  int64_t mask_shape[4] = {c->mask == 1 ? c->B : 1, c->mask == 3 ? c->H : 1, c->mask == 3 ? 1 : c->T, c->S};
  if (c->mask) {
    ml_dtype mt = c->mask == 1 ? ML_BOOL : c->mask == 2 ? ML_F32 : ML_F16;
    int skip = c->mask == 2 ? 2 : c->mask == 3 ? 1 : 0;
    mask = random_values(mt, ml_shape_size(4, mask_shape), c->mask == 1 ? 0 : -2, c->mask == 1 ? 1 : 2);
    for (int64_t i = 0; c->mask > 1 && i < ml_shape_size(4, mask_shape); i++) {
      if (i == 0 || random_below(4) == 0) mask[i] = -INFINITY;
    }
    tm = view_tensor(e, mt, 4 - skip, mask_shape + skip, mask, c->k);
  }
  double scale = 0.3, softcap = c->softcap ? 1.5 : 0;
  int64_t group = c->H / c->KV, n = batch * c->H * N * c->dv;
  double *wanted = room((size_t)n, 8), *p = room((size_t)c->S, 8);
  bool *seen = room((size_t)c->S, 1);
  for (int64_t row = 0; row < batch * c->H * N; row++) {
    int64_t b = row / (c->H * N), h = row / N % c->H, token = row % N, t = token;
    for (b = c->packed ? 0 : b; c->packed && b < c->B && token >= (int64_t)rows.offsets[b + 1];) b++;
    if (b == c->B || (c->packed && token < (int64_t)rows.offsets[b])) continue; /* nobody's */
    if (c->packed) t -= (int64_t)rows.offsets[b];
    if (t >= (int64_t)rows.count[b]) continue; /* zeros */
    int64_t at = (int64_t)rows.start[b] + t, head = (joined ? 0 : (int64_t)rows.slot[b]) * c->KV + h / group, from = joined ? (int64_t)rows.offsets[b] : 0;
    int64_t keys = c->slots || joined ? (int64_t)rows.start[b] + (int64_t)rows.count[b] : c->S;
    double most = c->sinks ? sink[h] : -INFINITY, sum = 0;
    bool sees = false;
    for (int64_t j = 0; j < keys; j++) {
      double s = 0;
      for (int64_t i = 0; i < c->d; i++) s += q[row * c->d + i] * k[(head * c->S + from + j) * c->d + i];
      s *= scale;
      if (c->softcap) s = softcap * tanh(s / softcap);
      bool hidden = (c->causal && j > at) || (c->window && j <= at - c->window);
      if (mask) {
        double m = mask[ravel(4, mask_shape, (int64_t[]){mask_shape[0] == 1 ? 0 : b, mask_shape[1] == 1 ? 0 : h, mask_shape[2] == 1 ? 0 : t, j})];
        hidden = hidden || (c->mask == 1 ? m == 0 : isinf(m));
        s += c->mask == 1 ? 0 : m;
      }
      seen[j] = !hidden;
      sees = sees || !hidden;
      p[j] = s;
      if (!hidden) most = fmax(most, s);
    }
    if (!sees) continue; /* zeros */
    for (int64_t j = 0; j < keys; j++) sum += seen[j] ? p[j] = exp(p[j] - most) : 0;
    if (c->sinks) sum += exp(sink[h] - most);
    for (int64_t i = 0; i < c->dv; i++) {
      for (int64_t j = 0; j < keys; j++) wanted[row * c->dv + i] += seen[j] ? p[j] / sum * v[(head * c->S + from + j) * c->dv + i] : 0;
    }
  }
  ml_tensor *inputs[10] = {tq, tk, tv, c->slots ? tensor(e, ML_I32, SHAPE(c->slots, rows.each), rows.table) : NULL, c->slots ? tensor(e, ML_I32, SHAPE(c->B), rows.slot) : NULL, c->slots ? tensor(e, ML_I64, SHAPE(c->B), rows.start) : NULL,
                           c->counts ? tensor(e, ML_I32, SHAPE(c->B), rows.count) : NULL, c->packed ? tensor(e, ML_I32, SHAPE(c->B + 1), rows.offsets) : NULL, tm, c->sinks ? tensor(e, ML_F32, SHAPE(c->H), sink) : NULL};
  ml_tensor *r = apply_list(e, ML_OP_attention, INTS({.f = scale}, {.i = c->causal}, {.i = c->window}, {.f = softcap}), 10, inputs);
  int64_t shape[4] = {batch, c->H, N, c->dv};
  expect_values(r, 4, shape, wanted, 2e-6 + epsilon(qt), 2e-6, "%s", case_text(c));
  /* The merged heads, as every model reads them. */
  ml_tensor *merged = apply(e, ML_OP_reshape, list_attrs(SHAPE(batch, N, c->H * c->dv)), apply(e, ML_OP_transpose, list_attrs(SHAPE(0, 2, 1, 3)), apply_list(e, ML_OP_attention, INTS({.f = scale}, {.i = c->causal}, {.i = c->window}, {.f = softcap}), 10, inputs)));
  double *turned = room((size_t)n, 8);
  for (int64_t i = 0; i < n; i++) {
    int64_t at[4];
    unravel(i, 4, shape, at);
    turned[((at[0] * N + at[2]) * c->H + at[1]) * c->dv + at[3]] = wanted[i];
  }
  expect_values(merged, SHAPE(batch, N, c->H * c->dv), turned, 2e-6 + epsilon(qt), 2e-6, "merged: %s", case_text(c));
  drop_all();
}

static void test_attention(ml_engine *e) {
  static const attend_case fixed[] = {
      {1, 1, 1, 1, 1, 16, 16, 0, true, 0, 0, 0, 0, 0, 0, 0, DENSE, DENSE, 0, 0, false},     {2, 6, 2, 5, 9, 24, 20, 0, true, 0, 0, 0, 0, 0, 0, 0, DENSE, DENSE, 0, 0, false},
      {1, 9, 3, 40, 40, 64, 64, 0, true, 0, 0, 0, 0, 0, 0, 0, DENSE, DENSE, 0, 0, false},   {3, 4, 4, 1, 70, 64, 64, 5, true, 0, 0, true, 7, false, 0, 0, DENSE, DENSE, 0, 0, false},
      {2, 4, 1, 17, 50, 256, 256, 3, true, 0, 0, true, 16, true, 12, 0, DENSE, DENSE, 0, 0, false}, {1, 2, 1, 6, 6, 7, 5, 0, false, 0, 0, 0, 0, 0, 0, 0, SLICED, SLICED, 0, 0, false},
      {2, 2, 2, 8, 3, 16, 16, 0, true, 0, 0, 0, 0, 0, 0, 0, DENSE, DENSE, 0, 0, false}, /* more queries than keys: the first see nothing */
      {1, 4, 2, 8, 3, 16, 16, 0, true, 0, true, 0, 0, 0, 2, 0, DENSE, DENSE, 0, 0, false},  {2, 2, 1, 0, 4, 8, 8, 0, true, 0, 0, 0, 0, 0, 0, 0, DENSE, DENSE, 0, 0, false},
      {2, 2, 1, 3, 0, 8, 8, 0, false, 0, 0, 0, 0, 0, 0, 0, DENSE, DENSE, 0, 1, false},
      {1, 2, 2, 33, 33, 32, 32, 0, true, 0, 0, 0, 0, 0, 0, 0, DENSE, DENSE, 1, 2, false}, {2, 6, 2, 9, 40, 16, 48, 3, true, 0, true, true, 5, true, 0, 0, DENSE, DENSE, 3, 0, false},
      {3, 4, 1, 1, 60, 32, 32, 4, true, true, 0, true, 1, 0, 0, 0, DENSE, DENSE, 3, 1, false}, {1, 3, 3, 21, 21, 16, 16, 0, true, 0, 0, 0, 0, 0, 1, 0, DENSE, DENSE, 3, 2, false}, /* a window of one: rows share no key */
      {2, 2, 1, 20, 20, 16, 32, 0, false, 0, 0, 0, 0, 0, 0, 1, DENSE, DENSE, 1, 0, false}, {1, 4, 2, 20, 24, 16, 32, 0, true, 0, 0, true, 0, 0, 0, 2, DENSE, DENSE, 3, 1, false},
      /* several splits: of one row, of few and of many; a window that begins in the middle of one */
      {1, 4, 1, 1, 900, 64, 64, 1, true, 0, 0, 1, 64, 0, 0, 0, DENSE, DENSE, 0, 0, false}, {1, 4, 1, 1, 900, 64, 64, 1, true, 0, true, 0, 64, 0, 300, 0, DENSE, DENSE, 0, 0, false},
      {2, 6, 2, 3, 700, 16, 20, 3, true, true, 0, 2, 64, true, 0, 1, DENSE, DENSE, 3, 0, false}, {1, 2, 1, 1, 600, 24, 16, 0, true, 0, 0, 0, 0, 0, 0, 2, DENSE, DENSE, 3, 0, false},
      {1, 3, 1, 330, 600, 16, 16, 2, true, 0, true, 0, 64, 0, 270, 0, DENSE, DENSE, 3, 1, false}, {1, 2, 1, 20, 600, 16, 16, 0, false, 0, 0, 0, 0, 0, 0, 0, DENSE, DENSE, 0, 0, false},
      {5, 4, 2, 40, 0, 16, 16, 0, true, 0, 0, 0, 0, 0, 0, 0, DENSE, DENSE, 3, 0, true}, {6, 2, 1, 30, 300, 16, 16, 7, true, 0, true, 1, 16, 0, 20, 0, DENSE, DENSE, 3, 1, true},
      {4, 2, 2, 30, 0, 8, 12, 0, false, 0, 0, 0, 0, 0, 0, 0, SLICED, SLICED, 3, 0, true},
  };
  for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) check_attention(e, &fixed[i]);
  for (int trial = 0; trial < (quick ? 12 : 150); trial++) {
    attend_case c = {.B = 1 + random_below(3), .KV = 1 + random_below(3), .T = 1 + random_below(20), .d = 1 + random_below(40), .causal = random_below(4) != 0, .softcap = random_below(3) == 0,
                     .sinks = random_below(3) == 0, .kept = (int)random_below(3), .window = random_below(3) ? 0 : 1 + random_below(12), .mask = random_below(2) ? 0 : (int)random_below(4),
                     .q = (view)random_below(VIEWS), .k = (view)random_below(VIEWS), .packed = random_below(4) == 0};
    c.H = c.KV * (1 + random_below(4));
    c.S = c.T + random_below(random_below(4) ? 30 : 600);
    c.dv = random_below(2) ? c.d : 1 + random_below(40);
    if (random_below(2)) c.slots = 3 + random_below(3), c.page = 1 + random_below(20), c.counts = !c.packed && random_below(2);
    if (c.packed) c.mask = 0;
    c.poison = random_below(3) ? 0 : 1 + (int)random_below(3);
    c.asked = random_below(2) ? 0 : (int)random_below(3);
    check_attention(e, &c);
  }
  ml_tensor *q = random_tensor(e, ML_F32, SHAPE(1, 1, 1, 4), 0, 1), *k = random_tensor(e, ML_F32, SHAPE(2, 1, 3, 4), 0, 1), *wide = random_tensor(e, ML_F64, SHAPE(1, 1, 1, 3), 0, 1), *one = random_tensor(e, ML_F32, SHAPE(1), 0, 0);
  ml_attrs a = INTS({.f = 1}, {.i = 1}, {.i = 0}, {.f = 0});
  ml_tensor *pages = tensor(e, ML_I32, SHAPE(1, 1), (double[]){1}), *none = tensor(e, ML_I32, SHAPE(1, 1), (double[]){-1}), *three = INDICES(e, 3), *zero = INDICES(e, 0);
  expect(attempt(e, ML_OP_attention, a, q, k, k, pages, zero, zero, NULL, NULL, NULL, NULL) == ML_OK, "one page");
  expect(attempt(e, ML_OP_attention, a, q, k, k, pages, INDICES(e, 1), zero, NULL, NULL, NULL, NULL) == ML_USAGE, "slot 1 of 1");
  expect(attempt(e, ML_OP_attention, a, q, k, k, pages, INDICES(e, -1), zero, NULL, NULL, NULL, NULL) == ML_USAGE, "slot -1");
  expect(attempt(e, ML_OP_attention, a, q, k, k, none, zero, zero, NULL, NULL, NULL, NULL) == ML_USAGE, "no page where a key is");
  expect(attempt(e, ML_OP_attention, a, q, k, k, pages, zero, three, NULL, NULL, NULL, NULL) == ML_USAGE, "a start behind the pages");
  expect(attempt(e, ML_OP_attention, a, q, k, k, pages, zero, INDICES(e, -1), NULL, NULL, NULL, NULL) == ML_USAGE, "a start before the first");
  expect(attempt(e, ML_OP_attention, a, q, k, k, pages, zero, zero, INDICES(e, 2), NULL, NULL, NULL) == ML_USAGE, "more tokens than there are");
  expect(attempt(e, ML_OP_attention, a, q, k, k, pages, zero, zero, NULL, INDICES(e, 0, 2), NULL, NULL) == ML_USAGE, "an offset behind the tokens");
  expect(attempt(e, ML_OP_attention, a, q, k, k, pages, zero, zero, NULL, INDICES(e, 1, 0), NULL, NULL) == ML_USAGE, "offsets that fall");
  expect(attempt(e, ML_OP_attention, a, q, k, k, pages, one, zero, NULL, NULL, NULL, NULL) != ML_OK, "float32 slots are refused");
  expect(attempt(e, ML_OP_attention, a, q, k, k, pages, zero, one, NULL, NULL, NULL, NULL) != ML_OK, "a float32 start is refused");
  expect(attempt(e, ML_OP_attention, a, q, k, k, pages, zero, NULL, NULL, NULL, NULL, NULL) != ML_OK, "pages want a start");
  expect(attempt(e, ML_OP_attention, a, q, q, q, NULL, zero, NULL, NULL, NULL, NULL, NULL) != ML_OK, "slots want pages");
  expect(attempt(e, ML_OP_attention, a, q, k, k, pages, zero, zero, NULL, NULL, wide, NULL) != ML_OK, "a float64 mask is refused");
  expect(attempt(e, ML_OP_attention, a, q, k, k, pages, zero, zero, NULL, NULL, INDICES(e, 0, 0, 0), NULL) != ML_OK, "an int32 mask is refused");
  drop_all();
}

/* ---- effects ---- */

static void test_cache_append(ml_engine *e) {
  enum { PAGES = 8, EACH = 3, H = 2, PAGE = 3, D = 5, B = 2, T = 4, ALL = PAGES * H * PAGE * D };
  static const ml_dtype dtypes[][2] = {{ML_F32, ML_F32}, {ML_F16, ML_F32}, {ML_F16, ML_F16}, {ML_F32, ML_BF16}, {ML_BF16, ML_F32}, {ML_BF16, ML_BF16}, {ML_F16, ML_BF16}};
  double table[] = {5, 1, 7, -1, -1, -1, 0, 6, 2}; /* of three slots */
  for (int i = 0; i < 7 * VIEWS; i++) {
    if (skip_case(0)) continue;
    const bool packed = i % 2;
    ml_dtype ct = dtypes[i % 7][0], xt = dtypes[i % 7][1];
    double *pool = random_values(ct, ALL, -1, 1), *x = random_values(xt, B * H * T * D, -1, 1), slots[B] = {2, 0}, start[B] = {1, (double)(i % 6)}, count[B] = {(double)(i % 5), packed ? 3 : 4};
    double offsets[B + 1] = {1, 1 + count[0], 4 + count[0]};
    int64_t shape[4] = {packed ? 1 : B, H, packed ? B * T : T, D};
    ml_tensor *c = state(e, ct, SHAPE(PAGES, H, PAGE, D), pool), *tx = view_tensor(e, xt, 4, shape, x, (view)(i / 7));
    ml_tensor *r = apply(e, ML_OP_cache_append, NO_ATTRS, c, tx, tensor(e, ML_I32, SHAPE(3, EACH), table), tensor(e, ML_I32, SHAPE(B), slots), tensor(e, ML_I64, SHAPE(B), start),
                         packed ? NULL : tensor(e, ML_I32, SHAPE(B), count), packed ? tensor(e, ML_I32, SHAPE(B + 1), offsets) : NULL);
    for (int k = 0; k < B * H * T * D; k++) {
      int tokens = (int)shape[2], b = k / (H * tokens * D), h = k / (tokens * D) % H, t = k / D % tokens;
      if (packed) b = t >= (int)offsets[1], t -= (int)offsets[b];
      if (t < 0 || t >= (int)count[b]) continue;
      int at = (int)start[b] + t, page = (int)table[(int)slots[b] * EACH + at / PAGE];
      pool[((page * H + h) * PAGE + at % PAGE) * D + k % D] = rounded(ct, x[k]);
    }
    expect_values(r, SHAPE(PAGES, H, PAGE, D), pool, 0, 0, "%s into %s, %s", ml_dtype_name(xt), ml_dtype_name(ct), view_names[i / 7]);
    expect_values(c, SHAPE(PAGES, H, PAGE, D), pool, 0, 0, "the state itself");
    drop_all();
  }
  ml_tensor *c = state(e, ML_F32, SHAPE(1, 1, 2, 2), (double[]){1, 2, 3, 4}), *x = random_tensor(e, ML_F32, SHAPE(1, 1, 2, 2), 0, 1), *zero = INDICES(e, 0), *one = INDICES(e, 1), *two = INDICES(e, 2), *three = INDICES(e, 3);
  ml_tensor *pages = tensor(e, ML_I32, SHAPE(1, 2), (double[]){0, -1});
  expect(attempt(e, ML_OP_cache_append, NO_ATTRS, c, x, pages, one, zero, one, NULL) == ML_USAGE, "slot 1 of 1");
  expect(attempt(e, ML_OP_cache_append, NO_ATTRS, c, x, pages, zero, one, two, NULL) == ML_USAGE, "where there is no page");
  expect(attempt(e, ML_OP_cache_append, NO_ATTRS, c, x, pages, zero, three, two, NULL) == ML_USAGE, "past the end of the table");
  expect(attempt(e, ML_OP_cache_append, NO_ATTRS, c, x, pages, zero, zero, three, NULL) == ML_USAGE, "more tokens than there are");
  expect(attempt(e, ML_OP_cache_append, NO_ATTRS, c, x, pages, zero, zero, tensor(e, ML_F32, SHAPE(1), (double[]){1}), NULL) != ML_OK, "a float count is refused");
  expect(attempt(e, ML_OP_cache_append, NO_ATTRS, c, random_tensor(e, ML_F64, SHAPE(1, 1, 2, 2), 0, 1), pages, zero, zero, one, NULL) != ML_OK, "float64 is refused");
  expect(attempt(e, ML_OP_cache_append, NO_ATTRS, x, x, pages, zero, zero, one, NULL) == ML_USAGE, "what is no state cannot be written");
  drop_all();
}

static void test_assign(ml_engine *e) {
  for (int d = 0; d < SOME; d++) {
    for (int kind = 0; kind < VIEWS; kind++) {
      if (skip_case(0)) continue;
      double *old = random_values(some_dtypes[d], 4 * 6, 0, 50), *now = random_values(some_dtypes[d], 4 * 6, 0, 50), wanted[24];
      ml_tensor *s = state(e, some_dtypes[d], SHAPE(4, 6), old), *r = apply(e, ML_OP_assign, NO_ATTRS, s, view_tensor(e, some_dtypes[d], SHAPE(4, 6), now, (view)kind));
      expect_values(r, SHAPE(4, 6), now, 0, 0, "%s, %s", ml_dtype_name(some_dtypes[d]), view_names[kind]);
      /* a window of the state: rows 1 and 3, columns backwards */
      ml_tensor *window = apply(e, ML_OP_slice, list_attrs(SHAPE(1, 2, 2, 5, 6, -1)), s), *rows = view_tensor(e, some_dtypes[d], SHAPE(2, 6), old, (view)kind);
      memcpy(wanted, now, sizeof wanted);
      for (int i = 0; i < 12; i++) wanted[(1 + i / 6 * 2) * 6 + 5 - i % 6] = old[i];
      apply(e, ML_OP_assign, NO_ATTRS, window, rows);
      expect_values(s, SHAPE(4, 6), wanted, 0, 0, "a window, %s", view_names[kind]);
      drop_all();
    }
  }
  for (int up = 0; up < 2; up++) { /* a state moved onto itself by one place */
    double v[8] = {0, 1, 2, 3, 4, 5, 6, 7}, wanted[8];
    ml_tensor *s = state(e, ML_F32, SHAPE(8), v), *low = apply(e, ML_OP_slice, list_attrs(SHAPE(0, 7, 1)), s), *high = apply(e, ML_OP_slice, list_attrs(SHAPE(1, 7, 1)), s);
    for (int i = 0; i < 8; i++) wanted[i] = up ? (i ? i - 1 : 0) : (i < 7 ? i + 1 : 7);
    apply(e, ML_OP_assign, NO_ATTRS, up ? high : low, up ? low : high);
    expect_values(s, SHAPE(8), wanted, 0, 0, "a state moved %s by one", up ? "up" : "down");
    drop_all();
  }
}

static void test_ring_push(ml_engine *e) {
  double ring[8] = {0, 1, 2, 3, 4, 5, 6, 7}, wanted[8];
  ml_tensor *s = state(e, ML_I32, SHAPE(2, 4), ring);
  memcpy(wanted, ring, sizeof wanted);
  for (int step = 0; step < 10; step++) {
    wanted[step % 4] = 100 + step;
    wanted[4 + (step + 3) % 4] = 200 + step;
    apply(e, ML_OP_ring_push, NO_ATTRS, s, step % 2 ? INDICES(e, 100 + step, 200 + step) : tensor(e, ML_I64, SHAPE(2), (double[]){100 + step, 200 + step}), INDICES(e, step, step + 3));
    if (step % 3 == 0) expect_values(s, SHAPE(2, 4), wanted, 0, 0, "step %d", step);
  }
  ml_tensor *floats = state(e, ML_F32, SHAPE(1, 4), ring);
  expect(attempt(e, ML_OP_ring_push, NO_ATTRS, floats, INDICES(e, 1), INDICES(e, 1)) != ML_OK, "a ring of floats is refused");
  drop_all();
}
