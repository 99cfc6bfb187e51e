/* products.h: matrix products at the edges of their blocks, and what an element may depend on: its row, its column and
 * the inner length, not what else is computed beside it, nor by how many threads. */

/* Sizes around the blocks of every instruction set: 6 or 14 rows, 16 or 32 columns, 256 or 512 terms; slabs of 96 or
 * 112 rows; tiles of up to 384 columns and 1,024 rows. */
static void test_product_sizes(ml_engine *e) {
  static const int64_t sizes[][3] = {/* M, K, N */
                                     {1, 1, 1},     {2, 2, 15},     {5, 3, 16},    {6, 17, 17},   {7, 255, 31},
                                     {13, 256, 32}, {14, 257, 33},  {15, 511, 47}, {16, 512, 48}, {17, 513, 49},
                                     {29, 1023, 3}, {95, 40, 64},   {97, 33, 65},  {112, 32, 16}, {113, 31, 15},
                                     {225, 7, 20},  {3, 1025, 97},  {9, 34, 385},  {2, 5, 800},   {1030, 3, 18},
                                     {270, 2, 300}, {1, 2049, 130}, {130, 1, 1}};
  static const view kinds[] = {DENSE, TRANSPOSED, SLICED, LAZY_TRANSPOSED, REPEATED_LAST};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    operand a = {2, {sizes[s][0], sizes[s][1]}}, b = {2, {sizes[s][1], sizes[s][2]}};
    for (int i = 0; i < 5; i++) {
      for (int j = 0; j < 5; j++) {
        if ((i + j + (int)s) % 2) continue;
        check_matmul(e, ML_F32, ML_F32, a, b, kinds[i], kinds[j]);
        check_matmul(e, ML_BF16, ML_BF16, a, b, kinds[i], kinds[j]);
      }
      check_matmul(e, ML_F16, ML_F16, a, b, kinds[i], kinds[(i + (int)s) % 5]);
      check_matmul(e, float_dtypes[i % 3], float_dtypes[(i + 1) % 3], a, b, kinds[i], kinds[4 - i]);
      check_matmul(e, ML_F64, ML_F64, a, b, kinds[i], kinds[(i + 2) % 5]);
    }
  }
}

/* Entries of a whole that lie in a part of it, from row m0 and column n0 on, are the part's own, bit for bit. */
static void expect_part(ml_tensor *whole, ml_tensor *part, int64_t m0, int64_t n0, const char *name) {
  int64_t M = part->shape[0], N = part->shape[1], all = whole->shape[1], different = 0;
  double *a = numbers(whole), *b = numbers(part);
  for (int64_t i = 0; i < M * N; i++) {
    double x = a[(m0 + i / N) * all + n0 + i % N], y = b[i];
    different += isnan(x) ? !isnan(y) : x != y || signbit(x) != signbit(y);
  }
  expect(different == 0, "%s, %s: %lld entries of %lld differ, rows from %lld, columns from %lld",
         ml_dtype_name(whole->dtype), name, (long long)different, (long long)(M * N), (long long)m0, (long long)n0);
}

static ml_tensor *part_of(ml_engine *e, ml_tensor *x, int64_t m0, int64_t m, int64_t n0, int64_t n) {
  return apply(e, ML_OP_slice, list_attrs(SHAPE(m0, m, 1, n0, n, 1)), x);
}

static ml_tensor *product_of(ml_engine *e, ml_tensor *a, ml_tensor *b) {
  ml_tensor *r = apply(e, ML_OP_matmul, NO_ATTRS, a, b);
  numbers(r);
  return r;
}

static void test_neighbours_of(ml_engine *e, int64_t K) {
  enum { M = 131, N = 77 };
  static const int64_t heights[] = {1, 2, 5, 14, 15, 100}, widths[] = {1, 15, 16, 33};
  for (int f = 0; f < 3; f++) {
    ml_dtype t = float_dtypes[f];
    double *va = random_values(t, M * K, -1, 1), *vb = random_values(t, K * N, -1, 1);
    va[3 * K + 5] = NAN, va[40 * K + 8] = INFINITY;
    ml_tensor *a = tensor(e, t, SHAPE(M, K), va), *b = tensor(e, t, SHAPE(K, N), vb), *whole = product_of(e, a, b);
    for (int i = 0; i < 6; i++) {
      for (int64_t m0 = 0; m0 < M; m0 += i < 2 ? 13 : 61) {
        int64_t m = heights[i] < M - m0 ? heights[i] : M - m0;
        expect_part(whole, product_of(e, part_of(e, a, m0, m, 0, K), b), m0, 0, "rows");
      }
    }
    for (int i = 0; i < 4; i++) {
      for (int64_t n0 = 0; n0 < N; n0 += 19) {
        int64_t n = widths[i] < N - n0 ? widths[i] : N - n0;
        expect_part(whole, product_of(e, a, part_of(e, b, 0, K, n0, n)), 0, n0, "columns");
      }
    }
    ml_tensor *turned =
        apply(e, ML_OP_transpose, NO_ATTRS, apply(e, ML_OP_copy, NO_ATTRS, apply(e, ML_OP_transpose, NO_ATTRS, a)));
    expect_part(whole, product_of(e, turned, b), 0, 0, "the same rows, stored as columns");
    int threads = ml_pool_members(e->pool);
    for (int n = 1; n <= 4; n++) {
      must(ml_engine_set_threads(e, n), "threads");
      expect_part(whole, product_of(e, apply(e, ML_OP_copy, NO_ATTRS, a), b), 0, 0, "other threads");
    }
    must(ml_engine_set_threads(e, threads), "threads");
    ml_tensor *weight = apply(e, ML_OP_transpose, NO_ATTRS, b);
    if (t == ML_F32) {
      ml_tensor *y = apply(e, ML_OP_linear, NO_ATTRS, a, weight);
      expect_part(whole, y, 0, 0, "linear");
      expect_part(whole, apply(e, ML_OP_linear_transposed, NO_ATTRS, a, b), 0, 0, "the transpose of a weight");
    }
    drop_all();
  }
}

static void test_products(ml_engine *e) {
  test_product_sizes(e);
  test_neighbours_of(e, 9); /* its parts are products that gather nothing */
  test_neighbours_of(e, 1037);
}
