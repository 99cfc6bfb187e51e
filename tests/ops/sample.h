/* sample.h: what a sampling chain is made of. */
#include <float.h>

static double *random_logits(int64_t rows, int64_t n) {
  double *v = random_values(ML_F32, rows * n, -8, 8);
  for (int64_t i = 0; i < rows * n; i++) v[i] = random_below(6) ? v[i] : rounded(ML_F32, floor(v[i])); /* ties */
  for (int64_t i = 0; i < rows * n; i += 11) v[i] = -INFINITY;
  for (int64_t i = 5; i < rows * n; i += 53) v[i] = i % 2 ? 0.0 : -0.0;
  return v;
}

/* A penalty never takes a logit out of float32; an infinite one bans or demands; a NaN stays. */
static void test_extreme_penalties(ml_engine *e) {
  double x[] = {INFINITY, -INFINITY, 3e38, -3e38, 0, 2, NAN}, recent[] = {0, 1, 2, 3, 4, 5, 6}, low = -INFINITY, top = FLT_MAX;
  for (int i = 2; i < 4; i++) x[i] = rounded(ML_F32, x[i]);
  ml_tensor *logits = tensor(e, ML_F32, SHAPE(1, 7), x), *ids = tensor(e, ML_I32, SHAPE(1, 7), recent);
  expect_values(apply(e, ML_OP_repeat_penalty, INTS({.f = 2}, {.f = 0}, {.f = 0}), logits, ids, NULL), SHAPE(1, 7), (double[]){INFINITY, low, rounded(ML_F32, x[2] / 2), -top, 0, 1, NAN}, 0, 0, "a penalty of 2");
  expect_values(apply(e, ML_OP_repeat_penalty, INTS({.f = INFINITY}, {.f = 0}, {.f = 0}), logits, ids, NULL), SHAPE(1, 7), (double[]){INFINITY, low, 0, low, 0, 0, NAN}, 0, 0, "an infinite penalty");
  expect_values(apply(e, ML_OP_repeat_penalty, INTS({.f = 1e-60}, {.f = 0}, {.f = 0}), logits, ids, NULL), SHAPE(1, 7), (double[]){INFINITY, low, top, rounded(ML_F32, x[3] * 1e-60), 0, top, NAN}, 0, 0, "a tiny penalty");
  expect_values(apply(e, ML_OP_repeat_penalty, INTS({.f = 1}, {.f = INFINITY}, {.f = 0}), logits, ids, NULL), SHAPE(1, 7), (double[]){low, low, low, low, low, low, NAN}, 0, 0, "a ban");
  expect_values(apply(e, ML_OP_repeat_penalty, INTS({.f = 1}, {.f = 0}, {.f = -INFINITY}), logits, ids, NULL), SHAPE(1, 7), (double[]){INFINITY, INFINITY, INFINITY, INFINITY, INFINITY, INFINITY, NAN}, 0, 0, "a demand");
  drop_all();
}

static void test_repeat_penalty(ml_engine *e) {
  enum { B = 3, V = 40, N = 12 };
  for (int trial = 0; trial < 30; trial++) {
    double *v = random_values(ML_F32, B * V, -5, 5), *recent = random_values(ML_I32, B * N, -3, trial % 2 ? V + 3 : 9), wanted[B * V];
    double penalty = trial % 3 ? 1.3 : 1, presence = trial % 4 == 0 ? 0.5 : 0, frequency = trial % 5 == 0 ? 0.25 : 0;
    for (int b = 0; b < B; b++) {
      for (int i = 0; i < V; i++) {
        int times = 0;
        for (int k = 0; k < N; k++) times += recent[b * N + k] == i;
        double x = v[b * V + i];
        wanted[b * V + i] = times ? (x > 0 ? x / penalty : x * penalty) - presence - frequency * times : x;
      }
    }
    ml_tensor *x = view_tensor(e, ML_F32, SHAPE(B, V), v, trial % 2 ? TRANSPOSED : DENSE), *r = view_tensor(e, ML_I32, SHAPE(B, N), recent, trial % 3 ? DENSE : SLICED);
    expect_values(apply(e, ML_OP_repeat_penalty, INTS({.f = penalty}, {.f = presence}, {.f = frequency}), x, r, NULL), SHAPE(B, V), wanted, 3e-7, 3e-7, "trial %d", trial);
    drop_all();
  }
  test_extreme_penalties(e);
}

static int descending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x < y) - (x > y);
}

static void test_top_k_mask(ml_engine *e) {
  static const int64_t ks[] = {0, 1, 2, 5, 39, 40, 41, 1000};
  for (int64_t n = 1; n <= 1000; n = n * 5 + 35) {
    for (int i = 0; i < 8; i++) {
      int64_t k = ks[i];
      double *v = random_logits(2, n), *wanted = room((size_t)(2 * n), 8), *sorted = room((size_t)n, 8);
      for (int b = 0; b < 2; b++) {
        memcpy(sorted, v + b * n, (size_t)n * 8);
        qsort(sorted, (size_t)n, 8, descending);
        double least = k > 0 && k < n ? sorted[k - 1] : -INFINITY;
        for (int64_t j = 0; j < n; j++) wanted[b * n + j] = v[b * n + j] >= least ? v[b * n + j] : -INFINITY; /* ties with the k-th stay */
      }
      expect_values(apply(e, ML_OP_top_k_mask, INTS({.i = k}), tensor(e, ML_F32, SHAPE(2, n), v), NULL), SHAPE(2, n), wanted, 0, 0, "the %lld largest of %lld", (long long)k, (long long)n);
      drop_all();
    }
  }
  double low = -INFINITY, odd[] = {1, INFINITY, low, INFINITY, 3}, broken[] = {1, NAN, 0, 2, 3}, zeros[] = {0.0, -0.0, -1, -2, -0.0};
  expect_values(apply(e, ML_OP_top_k_mask, INTS({.i = 1}), tensor(e, ML_F32, SHAPE(1, 5), odd), NULL), SHAPE(1, 5), (double[]){low, INFINITY, low, INFINITY, low}, 0, 0, "of several +inf all stay");
  expect_values(apply(e, ML_OP_top_k_mask, INTS({.i = 3}), tensor(e, ML_F32, SHAPE(1, 5), odd), NULL), SHAPE(1, 5), (double[]){low, INFINITY, low, INFINITY, 3}, 0, 0, "+inf and the next");
  expect_values(apply(e, ML_OP_top_k_mask, INTS({.i = 2}), tensor(e, ML_F32, SHAPE(1, 5), broken), NULL), SHAPE(1, 5), (double[]){low, NAN, low, low, 3}, 0, 0, "a NaN stays to be seen");
  expect_values(apply(e, ML_OP_top_k_mask, INTS({.i = 1}), tensor(e, ML_F32, SHAPE(1, 5), zeros), NULL), SHAPE(1, 5), (double[]){0, 0, low, low, 0}, 0, 0, "zeros of both signs are equal");
  drop_all();
}

static void test_top_p_mask(ml_engine *e) {
  static const double ps[] = {0, 0.1, 0.3, 0.5, 0.9, 0.95, 0.999, 1};
  for (int64_t n = 1; n <= 1000; n = n * 5 + 35) {
    for (int i = 0; i < 8; i++) {
      double *v = random_logits(2, n), p = ps[i], *wanted = room((size_t)(2 * n), 8), *sorted = room((size_t)n, 8);
      bool clear = true;
      for (int b = 0; b < 2; b++) {
        memcpy(sorted, v + b * n, (size_t)n * 8);
        qsort(sorted, (size_t)n, 8, descending);
        double total = 0, sum = 0, least = -INFINITY;
        for (int64_t j = 0; j < n; j++) total += exp(sorted[j] - sorted[0]);
        for (int64_t j = 0; j < n && p < 1 && sorted[0] > -INFINITY; j++) { /* sum: exclusive */
          if (fabs(sum / total - p) < 1e-5 && sum > 0) clear = false;       /* rounding may decide */
          if (sum / total > p) break;
          least = sorted[j];
          sum += exp(sorted[j] - sorted[0]);
        }
        for (int64_t j = 0; j < n; j++) wanted[b * n + j] = v[b * n + j] >= least ? v[b * n + j] : -INFINITY;
      }
      if (clear) expect_values(apply(e, ML_OP_top_p_mask, INTS({.f = p}), tensor(e, ML_F32, SHAPE(2, n), v), NULL), SHAPE(2, n), wanted, 0, 0, "p %g of %lld", p, (long long)n);
      drop_all();
    }
  }
  /* Exactly: 1/2, 1/4, 1/8, 1/8. */
  double v[4] = {log(0.5), log(0.25), log(0.125), log(0.125)}, low = -INFINITY;
  for (int i = 0; i < 4; i++) v[i] = rounded(ML_F32, v[i]);
  expect_values(apply(e, ML_OP_top_p_mask, INTS({.f = 0.49}), tensor(e, ML_F32, SHAPE(1, 4), v), NULL), SHAPE(1, 4), (double[]){v[0], low, low, low}, 0, 0, "0.49 keeps the first");
  expect_values(apply(e, ML_OP_top_p_mask, INTS({.f = 0.51}), tensor(e, ML_F32, SHAPE(1, 4), v), NULL), SHAPE(1, 4), (double[]){v[0], v[1], low, low}, 0, 0, "0.51 keeps two");
  expect_values(apply(e, ML_OP_top_p_mask, INTS({.f = 0.76}), tensor(e, ML_F32, SHAPE(1, 4), v), NULL), SHAPE(1, 4), (double[]){v[0], v[1], v[2], low}, 0, 0, "0.76 keeps the first of two equal ones");
  expect_values(apply(e, ML_OP_top_p_mask, INTS({.f = 0.9}), tensor(e, ML_F32, SHAPE(1, 4), v), NULL), SHAPE(1, 4), v, 0, 0, "0.9 keeps both");
  double equal[4] = {3, 3, 3, 3}, halves[2] = {1, 1};
  expect_values(apply(e, ML_OP_top_p_mask, INTS({.f = 0}), tensor(e, ML_F32, SHAPE(1, 4), equal), NULL), SHAPE(1, 4), (double[]){3, low, low, low}, 0, 0, "0 keeps the first of equal ones");
  expect_values(apply(e, ML_OP_top_p_mask, INTS({.f = 0.3}), tensor(e, ML_F32, SHAPE(1, 4), equal), NULL), SHAPE(1, 4), (double[]){3, 3, low, low}, 0, 0, "0.3 keeps two of four equal ones");
  expect_values(apply(e, ML_OP_top_p_mask, INTS({.f = 0.5}), tensor(e, ML_F32, SHAPE(1, 2), halves), NULL), SHAPE(1, 2), halves, 0, 0, "an exclusive probability of exactly p is kept");
  double odd[] = {1, INFINITY, low, INFINITY, 3}, broken[] = {1, NAN, 0, 2}, none[] = {low, low, low, low}, huge[] = {3e38, -3e38, 2.9e38, 0};
  for (int i = 0; i < 4; i++) huge[i] = rounded(ML_F32, huge[i]);
  for (int i = 0; i < 7; i++) {
    expect_values(apply(e, ML_OP_top_p_mask, INTS({.f = ps[i]}), tensor(e, ML_F32, SHAPE(1, 5), odd), NULL), SHAPE(1, 5), (double[]){low, INFINITY, low, ps[i] < 0.5 ? low : INFINITY, low}, 0, 0, "p %g: +inf has all of the probability", ps[i]);
    expect_values(apply(e, ML_OP_top_p_mask, INTS({.f = ps[i]}), tensor(e, ML_F32, SHAPE(1, 4), broken), NULL), SHAPE(1, 4), broken, 0, 0, "p %g: a row with NaN stays", ps[i]);
    expect_values(apply(e, ML_OP_top_p_mask, INTS({.f = ps[i]}), tensor(e, ML_F32, SHAPE(1, 4), none), NULL), SHAPE(1, 4), none, 0, 0, "p %g: so does one of -inf", ps[i]);
    expect_values(apply(e, ML_OP_top_p_mask, INTS({.f = ps[i]}), tensor(e, ML_F32, SHAPE(1, 4), huge), NULL), SHAPE(1, 4), (double[]){huge[0], low, low, low}, 0, 0, "p %g: huge logits", ps[i]);
  }
  drop_all();
}

static void test_min_p_mask(ml_engine *e) {
  static const double ps[] = {0, 0.05, 0.3, 1};
  for (int i = 0; i < 4; i++) {
    double *v = random_logits(3, 200), wanted[600];
    for (int b = 0; b < 3; b++) {
      double most = -INFINITY;
      for (int j = 0; j < 200; j++) most = fmax(most, v[b * 200 + j]);
      for (int j = 0; j < 200; j++) {
        double ratio = exp(v[b * 200 + j] - most);
        wanted[b * 200 + j] = fabs(ratio - ps[i]) > 1e-6 * ps[i] ? (ratio >= ps[i] ? v[b * 200 + j] : -INFINITY) : v[b * 200 + j];
      }
    }
    expect_values(apply(e, ML_OP_min_p_mask, INTS({.f = ps[i]}), tensor(e, ML_F32, SHAPE(3, 200), v), NULL), SHAPE(3, 200), wanted, 0, 0, "p %g", ps[i]);
    drop_all();
  }
  double low = -INFINITY, odd[] = {1, INFINITY, low, INFINITY}, broken[] = {1, NAN, 0, 200}, none[] = {low, low};
  expect_values(apply(e, ML_OP_min_p_mask, INTS({.f = 0}), tensor(e, ML_F32, SHAPE(1, 4), odd), NULL), SHAPE(1, 4), odd, 0, 0, "p 0 changes nothing");
  for (int i = 1; i < 4; i++) {
    expect_values(apply(e, ML_OP_min_p_mask, INTS({.f = ps[i]}), tensor(e, ML_F32, SHAPE(1, 4), odd), NULL), SHAPE(1, 4), (double[]){low, INFINITY, low, INFINITY}, 0, 0, "p %g: +inf alone stays", ps[i]);
    expect_values(apply(e, ML_OP_min_p_mask, INTS({.f = ps[i]}), tensor(e, ML_F32, SHAPE(1, 4), broken), NULL), SHAPE(1, 4), (double[]){low, NAN, low, 200}, 0, 0, "p %g: a NaN stays to be seen", ps[i]);
    expect_values(apply(e, ML_OP_min_p_mask, INTS({.f = ps[i]}), tensor(e, ML_F32, SHAPE(1, 2), none), NULL), SHAPE(1, 2), none, 0, 0, "p %g: all -inf", ps[i]);
  }
  drop_all();
}

/* Divided as float32 does it where that holds the row; else the distances to the largest are divided. */
static void test_temperature(ml_engine *e) {
  static const double ts[] = {0.05, 0.7, 1, 2, 1e5, 1e-30, 1e-39, 1e-44, 1e-60, INFINITY};
  double low = -INFINITY, top = FLT_MAX;
  for (int i = 0; i < 10; i++) {
    double t = ts[i], *v = random_logits(3, 200), wanted[600];
    for (int b = 0; b < 3; b++) {
      double most = low;
      for (int j = 0; j < 200; j++) most = fmax(most, v[b * 200 + j]);
      for (int j = 0; j < 200; j++) {
        double x = v[b * 200 + j];
        wanted[b * 200 + j] = isinf(x) ? x : rounded(ML_F32, i < 6 ? x / t : (x - most) / t);
      }
    }
    expect_values(apply(e, ML_OP_temperature, INTS({.f = t}), tensor(e, ML_F32, SHAPE(3, 200), v), NULL), SHAPE(3, 200), wanted, 3e-7, 0, "t %g", t);
    drop_all();
  }
  double wide[] = {3e38, 2.5e38, -3e38, low}, both[] = {INFINITY, 3e38, -3e38, low}, broken[] = {3e38, NAN, INFINITY, 1}, under[] = {-3e38, -2e38};
  for (int i = 0; i < 4; i++) wide[i] = rounded(ML_F32, wide[i]), both[i] = rounded(ML_F32, both[i]);
  broken[0] = wide[0], under[0] = -wide[0], under[1] = rounded(ML_F32, under[1]);
  expect_values(apply(e, ML_OP_temperature, INTS({.f = 0.5}), tensor(e, ML_F32, SHAPE(1, 4), wide), NULL), SHAPE(1, 4), (double[]){0, rounded(ML_F32, (wide[1] - wide[0]) * 2), low, low}, 0, 0, "logits that would overflow keep their order");
  expect_values(apply(e, ML_OP_temperature, INTS({.f = 0.5}), tensor(e, ML_F32, SHAPE(1, 2), under), NULL), SHAPE(1, 2), (double[]){rounded(ML_F32, (under[0] - under[1]) * 2), 0}, 0, 0, "below as above");
  expect_values(apply(e, ML_OP_temperature, INTS({.f = 0.5}), tensor(e, ML_F32, SHAPE(1, 4), both), NULL), SHAPE(1, 4), (double[]){INFINITY, top, -top, low}, 0, 0, "beside +inf nothing becomes +inf");
  expect_values(apply(e, ML_OP_temperature, INTS({.f = 0.5}), tensor(e, ML_F32, SHAPE(1, 4), broken), NULL), SHAPE(1, 4), (double[]){top, NAN, INFINITY, 2}, 0, 0, "a NaN stays");
  expect_values(apply(e, ML_OP_temperature, INTS({.f = INFINITY}), tensor(e, ML_F32, SHAPE(1, 4), both), NULL), SHAPE(1, 4), (double[]){INFINITY, 0, 0, low}, 0, 0, "an infinite temperature bans and demands as before");
  expect(attempt(e, ML_OP_temperature, INTS({.f = 0}), tensor(e, ML_F32, SHAPE(1, 4), both), NULL) == ML_USAGE, "a temperature of 0");
  expect(attempt(e, ML_OP_temperature, INTS({.f = -1}), tensor(e, ML_F32, SHAPE(1, 4), both), NULL) == ML_USAGE, "a negative temperature");
  expect(attempt(e, ML_OP_temperature, INTS({.f = NAN}), tensor(e, ML_F32, SHAPE(1, 4), both), NULL) == ML_USAGE, "a temperature of NaN");
  drop_all();
}

/* ---- random numbers ---- */

static void philox_reference(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]) {
  uint32_t k0 = key[0], k1 = key[1], x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3];
  for (int i = 0; i < 10; i++) {
    uint64_t p0 = 0xD2511F53ull * x0, p1 = 0xCD9E8D57ull * x2;
    x0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0;
    x2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
    x1 = (uint32_t)p1;
    x3 = (uint32_t)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = x0, out[1] = x1, out[2] = x2, out[3] = x3;
}

static void test_random_bits(ml_engine *e) {
  /* The known answers that Random123 publishes: key, counter, result. */
  static const uint32_t known[3][10] = {
      {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
      {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
      {0xa4093822, 0x299f31d0, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}};
  uint32_t four[4];
  for (int i = 0; i < 3; i++) {
    philox_reference(known[i], known[i] + 2, four);
    expect(memcmp(four, known[i] + 6, 16) == 0, "the reference gives known answer %d", i);
  }
  for (int trial = 0; trial < 12; trial++) {
    int64_t words = 2 + trial % 2, n = trial == 0 ? 4 : trial == 1 ? 0 : trial == 2 ? 40000 : random_below(3000);
    uint32_t key[3] = {trial ? (uint32_t)random_u64() : 0, trial ? (uint32_t)random_u64() : 0, (uint32_t)random_u64()};
    double *wanted = room((size_t)n + 4, 8), values[3] = {key[0], key[1], key[2]};
    for (int64_t i = 0; i < n; i += 4) {
      uint32_t counter[4] = {(uint32_t)(i / 4), 0, words > 2 ? key[2] : 0, 0};
      philox_reference(key, counter, four);
      for (int k = 0; k < 4; k++) wanted[i + k] = four[k];
    }
    expect_values(apply(e, ML_OP_random_bits, list_attrs(SHAPE(n)), tensor(e, ML_U32, SHAPE(words), values)), SHAPE(n), wanted, 0, 0, "%lld numbers", (long long)n);
    drop_all();
  }
  for (int64_t n = 0; n < 11; n++) { /* keys of their own */
    double keys[9], wanted[3 * 11];
    for (int i = 0; i < 9; i++) keys[i] = (uint32_t)random_u64();
    for (int64_t i = 0; i < 3 * n; i++) {
      uint32_t own[2] = {(uint32_t)keys[i / n * 3], (uint32_t)keys[i / n * 3 + 1]}, counter[4] = {(uint32_t)(i % n / 4), 0, (uint32_t)keys[i / n * 3 + 2], 0};
      philox_reference(own, counter, four);
      wanted[i] = four[i % n % 4];
    }
    expect_values(apply(e, ML_OP_random_bits, list_attrs(SHAPE(3, n)), tensor(e, ML_U32, SHAPE(3, 3), keys)), SHAPE(3, n), wanted, 0, 0, "%lld numbers of each of three keys", (long long)n);
    drop_all();
  }
  ml_tensor *key = tensor(e, ML_U32, SHAPE(2), (double[]){1, 2});
  expect(attempt(e, ML_OP_random_bits, list_attrs(SHAPE(3, 4)), tensor(e, ML_U32, SHAPE(2, 2), (double[]){1, 2, 3, 4})) == ML_MISMATCH, "two keys for three entries");
  expect(attempt(e, ML_OP_random_bits, list_attrs(SHAPE(2)), INDICES(e, 1, 2)) == ML_USAGE, "an int32 key");
  expect(attempt(e, ML_OP_random_bits, list_attrs(SHAPE(2, -3)), key) == ML_USAGE, "a negative size");
  expect(attempt(e, ML_OP_random_bits, list_attrs(SHAPE((int64_t)1 << 40, (int64_t)1 << 40)), key) != ML_OK, "more numbers than memory holds");
  drop_all();
}

static void test_categorical(ml_engine *e) {
  double p[] = {0.5, 0, 0.25, 0.25}, v[] = {log(0.5), -INFINITY, log(0.25), log(0.25)};
  static const double uniforms[] = {0, 0.1, 0.4999, 0.5001, 0.7499, 0.7501, 0.999999, 1};
  static const double ids[] = {0, 0, 0, 2, 2, 3, 3, 3};
  double rows[32];
  for (int i = 0; i < 32; i++) rows[i] = v[i % 4];
  expect_values(apply(e, ML_OP_categorical, NO_ATTRS, tensor(e, ML_F32, SHAPE(8, 4), rows), tensor(e, ML_F32, SHAPE(8), uniforms)), SHAPE(8), ids, 0, 0, "chosen uniforms");
  double leading[] = {-INFINITY, -INFINITY, 5, -INFINITY};
  expect_values(apply(e, ML_OP_categorical, NO_ATTRS, tensor(e, ML_F32, SHAPE(1, 4), leading), tensor(e, ML_F32, SHAPE(1), (double[]){0})), SHAPE(1), (double[]){2}, 0, 0, "what is impossible is never drawn");
  double low = -INFINITY, top[] = {0, INFINITY, 0, INFINITY, low, INFINITY}, huge[] = {-3e38, 3e38, 2.9e38};
  for (int i = 0; i < 3; i++) huge[i] = rounded(ML_F32, huge[i]);
  for (int i = 0; i < 6; i++) {
    double u = i / 6.0 + 0.01, wanted = i < 2 ? 1 : i < 4 ? 3 : 5;
    expect_values(apply(e, ML_OP_categorical, NO_ATTRS, tensor(e, ML_F32, SHAPE(1, 6), top), tensor(e, ML_F32, SHAPE(1), &u)), SHAPE(1), &wanted, 0, 0, "+inf is drawn evenly: %g", u);
  }
  expect_values(apply(e, ML_OP_categorical, NO_ATTRS, tensor(e, ML_F32, SHAPE(1, 3), huge), tensor(e, ML_F32, SHAPE(1), (double[]){0.9})), SHAPE(1), (double[]){1}, 0, 0, "huge logits");
  double rowless[] = {low, low, low, NAN, 5, 6, 1, NAN, INFINITY, low, low, NAN};
  expect_values(apply(e, ML_OP_categorical, NO_ATTRS, tensor(e, ML_F32, SHAPE(4, 3), rowless), tensor(e, ML_F32, SHAPE(4), (double[]){0, 0.5, 0.5, 0.9})), SHAPE(4), (double[]){-1, -1, -1, -1}, 0, 0, "rows with nothing to draw");
  enum { N = 20000 };
  double *uniform = random_values(ML_F32, N, 0, 1), *many = room(4 * N, 8), counts[4] = {0};
  for (int i = 0; i < 4 * N; i++) many[i] = v[i % 4];
  const double *drawn = numbers(apply(e, ML_OP_categorical, NO_ATTRS, tensor(e, ML_F32, SHAPE(N, 4), many), tensor(e, ML_F32, SHAPE(N), uniform)));
  for (int i = 0; i < N; i++) counts[(int)drawn[i]]++;
  for (int i = 0; i < 4; i++) expect(fabs(counts[i] / N - p[i]) < 0.02, "id %d was drawn %g times", i, counts[i]);
  expect(attempt(e, ML_OP_categorical, NO_ATTRS, tensor(e, ML_F32, SHAPE(1, 4), v), tensor(e, ML_F64, SHAPE(1), (double[]){0})) != ML_OK, "a float64 uniform is refused");
  drop_all();
}

/* Quantiles that mpmath gives to fifty digits: u, low, high, x. */
static void test_normal_quantile(ml_engine *e) {
  static const double rows[][4] = {
      {0.0625, -INFINITY, INFINITY, -1.5341205443525463},
      {0.5, -INFINITY, INFINITY, -9.7460133450542134e-62},
      {0.9375, -INFINITY, INFINITY, 1.5341205443525463},
      {9.5367431640625e-07, -INFINITY, INFINITY, -4.763001034267814},
      {0.0625, 0, INFINITY, 0.078412412733112199},
      {0.5, 0, INFINITY, 0.67448975019608174},
      {0.9375, 0, INFINITY, 1.8627318674216515},
      {9.5367431640625e-07, 0, INFINITY, 1.1952535031469332e-6},
      {0.0625, -1, 2, -0.80705493383772778},
      {0.5, -1, 2, 0.17116391801782477},
      {0.9375, -1, 2, 1.4472583103906714},
      {9.5367431640625e-07, -1, 2, -0.99999677369482922},
      {0.0625, 6, 7, 6.0104569071595871},
      {0.5, 6, 7, 6.1113582155088845},
      {0.9375, 6, 7, 6.4322567873436452},
      {9.5367431640625e-07, 6, 7, 6.0000001546545963},
      {0.0625, -9, -8, -8.334276342332126},
      {0.5, -9, -8, -8.0848888990181664},
      {0.9375, -9, -8, -8.0079414384450095},
      {9.5367431640625e-07, -9, -8, -8.9994244673688687},
      {0.0625, 5, 6, 5.0123850105500384},
      {0.5, 5, 6, 5.1313717632839192},
      {0.9375, 5, 6, 5.5013879833159308},
      {9.5367431640625e-07, 5, 6, 5.0000001832433628},
      {0.0625, -10, 0.125, -1.8202740701456498},
      {0.5, -10, 0.125, -0.59815243638592819},
      {0.9375, -10, 0.125, 0.038560458414681281},
      {9.5367431640625e-07, -10, 0.125, -4.8823024873921153},
      {0.0625, 40, 41, 40.001612424040546},
      {0.5, 40, 41, 40.017314126764651},
      {0.9375, 40, 41, 40.0692116737076},
      {9.5367431640625e-07, 40, 41, 40.000000023826996},
      {0.0625, 29.5, 31, 29.502185160421322},
      {0.5, 29.5, 31, 29.52346030015121},
      {0.9375, 29.5, 31, 29.593729866362173},
      {9.5367431640625e-07, 29.5, 31, 29.500000032290938},
      {0.0625, 35, INFINITY, 35.00184240773305},
      {0.5, 35, INFINITY, 35.019782496307178},
      {0.9375, 35, INFINITY, 35.079063156909537},
      {9.5367431640625e-07, 35, INFINITY, 35.000000027225662},
      {0.0625, -2, -1, -1.8628142522137458},
      {0.5, -2, -1, -1.3364403477452469},
      {0.9375, -2, -1, -1.0357423320617785},
      {9.5367431640625e-07, -2, -1, -1.9999975994333582},
      {0.0625, -0.5, 0.25, -0.44911849970680426},
      {0.5, -0.5, 0.25, -0.11651567430093142},
      {0.9375, -0.5, 0.25, 0.20335387747306864},
      {9.5367431640625e-07, -0.5, 0.25, -0.49999921399114275},
      {0, 6, 7, 6},
      {1, 6, 7, 7},
      {0, -9, -8, -9},
      {1, -9, -8, -8},
      {0, 0, INFINITY, 0},
      {1e-20, -INFINITY, INFINITY, -9.2623400897984076},
      {1e-12, -INFINITY, INFINITY, -7.0344838253011319},
      {0.25, -INFINITY, INFINITY, -0.67448975019608174},
      {1e-20, -38, 38, -9.2623400897984076},
      {1e-12, -38, 38, -7.0344838253011319},
      {0.25, -38, 38, -0.67448975019608174},
      {1e-20, 0, 1e-20, 9.9999999999999989e-41},
      {1e-12, 0, 1e-20, 9.9999999999999993e-33},
      {0.25, 0, 1e-20, 2.4999999999999999e-21},
      {1e-20, 0, 1e-8, 9.9999999999999995e-29},
      {1e-12, 0, 1e-8, 9.9999999999999998e-21},
      {0.25, 0, 1e-8, 2.5e-9},
      {1e-20, -2, 0.5, -2.0},
      {1e-12, -2, 0.5, -1.9999999999876144},
      {0.25, -2, 0.5, -0.87816086117129082},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const double *r = rows[i];
    double x = r[3];
    ml_attrs cut = INTS({.f = r[1]}, {.f = r[2]});
    double near = fmin(1e-13, 1e-9 * (r[2] - r[1])); /* beside what the interval spans */
    expect_values(apply(e, ML_OP_normal_quantile, cut, scalar(e, ML_F64, r[0])), 0, NULL, &x, 1e-12, near,
                  "%g of %g..%g", r[0], r[1], r[2]);
    expect_values(apply(e, ML_OP_normal_quantile, cut, tensor(e, ML_F32, 0, NULL, r)), 0, NULL, &x, 1.3e-7, 1e-7,
                  "%g of %g..%g, float32", r[0], r[1], r[2]);
    drop_all();
  }
  static const double none[] = {-0.25, 1.25, NAN}, nans[] = {NAN, NAN, NAN};
  expect_values(apply(e, ML_OP_normal_quantile, INTS({.f = -1}, {.f = 2}), tensor(e, ML_F64, SHAPE(3), none)), SHAPE(3), nans, 0, 0, "no probability");
  expect(attempt(e, ML_OP_normal_quantile, INTS({.f = 2}, {.f = 1}), tensor(e, ML_F64, SHAPE(3), none)) != ML_OK, "2..1 is refused");
}
