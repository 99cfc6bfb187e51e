/* test_quant.c: packed weights of every format on every instruction set: packing and back, row look-up, products.
 *
 * The reference dequantises a row as the format's description says, in float32 with each operation rounded once;
 * products are compared with float64 sums over it. */
#include "tensors.h"

enum { PACK_ROWS = 16 }; /* of the CPU */

static const ml_dtype formats[] = {ML_F32,  ML_F16,  ML_BF16, ML_Q4_0, ML_Q4_1, ML_Q5_0,
                                   ML_Q5_1, ML_Q8_0, ML_Q4_K, ML_Q5_K, ML_Q6_K};
enum { FORMATS = sizeof formats / sizeof *formats };

/* ---- the reference ---- */

static float half_at(const uint8_t *p) { return (float)half_value((uint16_t)(p[0] | p[1] << 8)); }

/* Scale and minimum s of the 12 bytes that Q4_K and Q5_K share. */
static void k_scale(const uint8_t *p, int s, int *scale, int *min) {
  if (s < 4) {
    *scale = p[s] & 63;
    *min = p[s + 4] & 63;
  } else {
    *scale = (p[s + 4] & 15) | (p[s - 4] >> 6) << 4;
    *min = p[s + 4] >> 4 | (p[s] >> 6) << 4;
  }
}

static float k_value(const uint8_t *p, int i, int code) {
  int scale, min;
  k_scale(p + 4, i / 32, &scale, &min);
  float s = half_at(p) * (float)scale, m = half_at(p + 2) * (float)min;
  return s * (float)code - m;
}

/* Element i of a block. */
static float element(ml_dtype t, const uint8_t *p, int i) {
  int j = i % 16, high = i / 16; /* of the blocks of 32 */
  switch (t) {
  case ML_F32: return (float)get_number(t, p, 0);
  case ML_F16:
  case ML_BF16: return (float)get_number(t, p, 0);
  case ML_Q4_0: return half_at(p) * (float)((p[2 + j] >> 4 * high & 15) - 8);
  case ML_Q4_1: return half_at(p) * (float)(p[4 + j] >> 4 * high & 15) + half_at(p + 2);
  case ML_Q5_0: return half_at(p) * (float)((p[6 + j] >> 4 * high & 15) + 16 * (p[2 + i / 8] >> i % 8 & 1) - 16);
  case ML_Q5_1:
    return half_at(p) * (float)((p[8 + j] >> 4 * high & 15) + 16 * (p[4 + i / 8] >> i % 8 & 1)) + half_at(p + 2);
  case ML_Q8_0: return half_at(p) * (float)(int8_t)p[2 + i];
  case ML_Q4_K: return k_value(p, i, p[16 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15);
  case ML_Q5_K:
    return k_value(p, i, (p[48 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15) + 16 * (p[16 + i % 32] >> i / 32 & 1));
  case ML_Q6_K: {
    int half = i / 128, quarter = i / 32 % 4, l = i % 32;
    int low = p[64 * half + 32 * (quarter % 2) + l] >> (quarter / 2 * 4) & 15,
        top = p[128 + 32 * half + l] >> 2 * quarter & 3;
    return half_at(p + 208) * (float)(int8_t)p[192 + i / 16] * (float)((low | top << 4) - 32);
  }
  default: return NAN;
  }
}

/* ---- weights ---- */

typedef struct weight {
  ml_dtype dtype;
  int64_t rows, inputs;
  size_t row_bytes;
  uint8_t *file; /* row after row, as a GGUF file has them */
  float *values; /* (rows, inputs) */
  ml_tensor *tensor;
} weight;

static void put_half(uint8_t *p, double v) {
  uint16_t h = to_half(v);
  memcpy(p, &h, 2);
}

/* Random bits, with finite scales of both signs (every 7th block: subnormal or zero). */
static void random_block(ml_dtype t, uint8_t *p) {
  double size = random_below(7) ? 0.02 : 1e-6;
  for (int i = 0; i < ml_dtype_infos[t].bytes; i++) p[i] = (uint8_t)random_u64();
  switch (t) {
  case ML_F32:
  case ML_F16:
  case ML_BF16: put_number(t, p, 0, random_in(-size, size) * 50); return;
  case ML_Q6_K: put_half(p + 208, random_in(-size, size)); return;
  case ML_Q4_1:
  case ML_Q5_1:
  case ML_Q4_K:
  case ML_Q5_K:
    put_half(p + 2, random_in(-size, size));
    put_half(p, random_in(-size, size));
    return;
  default: put_half(p, random_in(-size, size));
  }
}

static void dequantise(weight *w) {
  const ml_dtype_info *info = &ml_dtype_infos[w->dtype];
  for (int64_t r = 0; r < w->rows; r++) {
    for (int64_t k = 0; k < w->inputs; k++) {
      w->values[r * w->inputs + k] =
          element(w->dtype, w->file + (size_t)r * w->row_bytes + (size_t)(k / info->block) * (size_t)info->bytes,
                  (int)(k % info->block));
    }
  }
}

static weight make_weight(ml_dtype t, int64_t rows, int64_t inputs) {
  weight w = {.dtype = t, .rows = rows, .inputs = inputs};
  if (!ml_dtype_row_bytes(t, inputs, &w.row_bytes)) must(ML_USAGE, "inputs");
  w.file = room((size_t)rows, w.row_bytes);
  w.values = room((size_t)(rows * inputs), sizeof(float));
  for (size_t at = 0; at < (size_t)rows * w.row_bytes; at += (size_t)ml_dtype_infos[t].bytes)
    random_block(t, w.file + at);
  dequantise(&w);
  return w;
}

/* Packs in two calls, as a loader does that reads a file in pieces. */
static void pack(ml_engine *e, weight *w, bool exact) {
  ml_device *d = e->device;
  size_t bytes = d->table->packed_bytes(d, w->dtype, w->rows, w->inputs);
  ml_buffer *b;
  must(ml_buffer_create(d, bytes, &b), "buffer");
  memset(b->address, 0xee, bytes);
  int64_t first = w->rows / 2 / PACK_ROWS * PACK_ROWS;
  must(d->table->pack(d, b->address, w->dtype, w->inputs, 0, first, w->file), "pack");
  must(d->table->pack(d, b->address, w->dtype, w->inputs, first, w->rows - first,
                      w->file + (size_t)first * w->row_bytes),
       "pack");
  must(ml_tensor_wrap(b, 0, w->dtype, ML_LAYOUT_PANELS, 2, (int64_t[]){w->rows, w->inputs}, &w->tensor), "wrap");
  ml_buffer_release(b);
  keep(w->tensor)->exact = exact;
}

/* ---- packing ---- */

static void test_pack(ml_engine *e, ml_dtype t) {
  static const int64_t sizes[][2] = {{16, 256}, {1, 256}, {15, 512}, {17, 256}, {48, 768}, {100, 256}};
  ml_device *d = e->device;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    weight w = make_weight(t, sizes[i][0], sizes[i][1]);
    pack(e, &w, true);
    uint8_t *back = room((size_t)w.rows, w.row_bytes);
    must(d->table->unpack(d, ml_tensor_data(w.tensor), t, w.inputs, 0, w.rows, back), "unpack");
    expect(memcmp(back, w.file, (size_t)w.rows * w.row_bytes) == 0, "%lld rows of %lld", (long long)w.rows,
           (long long)w.inputs);
    int64_t from = w.rows / PACK_ROWS / 2 * PACK_ROWS;
    must(d->table->unpack(d, ml_tensor_data(w.tensor), t, w.inputs, from, w.rows - from, back), "unpack");
    expect(memcmp(back, w.file + (size_t)from * w.row_bytes, (size_t)(w.rows - from) * w.row_bytes) == 0,
           "rows from %lld on", (long long)from);
    drop_all();
  }
  weight w = make_weight(t, 32, 256);
  pack(e, &w, true);
  expect(d->table->pack(d, ml_tensor_data(w.tensor), t, 256, 8, 8, w.file) == ML_USAGE,
         "rows that begin inside a panel are refused");
  drop_all();
}

/* ---- look-up ---- */

static void test_embedding(ml_engine *e, ml_dtype t) {
  static const int64_t sizes[][2] = {{40, 256}, {7, 768}, {16, 512}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    weight w = make_weight(t, sizes[i][0], sizes[i][1]);
    pack(e, &w, i % 2);
    int64_t shape[3] = {3, w.rows, w.inputs}, n = 3 * w.rows;
    double *ids = random_values(ML_I64, n, 0, (double)w.rows - 1),
           *wanted = room((size_t)(n * w.inputs), sizeof *wanted);
    for (int64_t k = 0; k < w.rows; k++) ids[k] = (double)k;
    for (int to = 0; to < 3; to++) {
      const ml_dtype dtype = to == 0 ? ML_F32 : to == 1 ? ML_BF16 : ML_F16;
      for (int64_t k = 0; k < n * w.inputs; k++)
        wanted[k] = rounded(dtype, w.values[(int64_t)ids[k / w.inputs] * w.inputs + k % w.inputs]);
      expect_values(apply(e, ML_OP_embedding, INTS({.i = dtype}), w.tensor, tensor(e, ML_I64, 2, shape, ids)), 3, shape,
                    wanted, 0, 0, "rows of (%lld, %lld) as %s", (long long)w.rows, (long long)w.inputs,
                    ml_dtype_name(dtype));
    }
    expect(attempt(e, ML_OP_embedding, NO_ATTRS, w.tensor, INDICES(e, w.rows)) == ML_USAGE,
           "an id past the last row is refused");
    expect(attempt(e, ML_OP_embedding, NO_ATTRS, w.tensor, INDICES(e, -1)) == ML_USAGE, "a negative id is refused");
    drop_all();
  }
}

/* What the gguf package gives. */
static void test_golden(ml_engine *e, ml_dtype t) {
  char path[256];
  snprintf(path, sizeof path, "tests/goldens/quant/%s.bin", ml_dtype_name(t));
  FILE *f = fopen(path, "rb");
  if (!f) {
    expect(!ml_dtype_is_block(t), "%s: no such file", path);
    return;
  }
  int64_t inputs = ml_dtype_infos[t].block == 256 ? 256 : 64, rows = inputs == 256 ? 1 : 3;
  weight w = make_weight(t, rows, inputs);
  bool whole = fread(w.file, w.row_bytes, (size_t)rows, f) == (size_t)rows &&
               fread(w.values, 4, (size_t)(rows * inputs), f) == (size_t)(rows * inputs);
  fclose(f);
  expect(whole, "%s is whole", path);
  pack(e, &w, false);
  double *wanted = room((size_t)(rows * inputs), sizeof *wanted);
  for (int64_t i = 0; i < rows * inputs; i++) wanted[i] = w.values[i];
  float *golden = w.values;
  w.values = room((size_t)(rows * inputs), sizeof(float));
  dequantise(&w);
  expect(memcmp(golden, w.values, (size_t)(rows * inputs) * 4) == 0,
         "the reference of this test agrees with the golden");
  expect_values(apply(e, ML_OP_embedding, NO_ATTRS, w.tensor, rows == 1 ? INDICES(e, 0) : INDICES(e, 0, 1, 2)),
                SHAPE(rows, inputs), wanted, 0, 0, "%s", path);
  drop_all();
}

/* ---- products ---- */

static const int64_t row_counts[] = {1, 2, 3, 4, 5, 7, 16, 33};
enum { ROW_COUNTS = sizeof row_counts / sizeof *row_counts, MOST = 33 };

/* Activations (33, inputs): normal-ish, one block of zeros, one of tiny numbers, one large number. */
static double *activations(ml_dtype t, int64_t inputs) {
  double *x = random_values(t, MOST * inputs, -2, 2);
  for (int i = 0; i < 32; i++) x[i] = 0;
  for (int i = 0; i < 32; i++) x[inputs + i] = rounded(t, x[inputs + i] * 1e-30);
  x[2 * inputs + 5] = 300;
  return x;
}

/* Rounds rows as "fast" documents it: blocks of 32 to d q with d = max |x| / 127, q to nearest, halves to even. */
static double *round_activations(const double *x, int64_t n) {
  double *o = room((size_t)n, sizeof *o);
  for (int64_t b = 0; b < n; b += 32) {
    float most = 0;
    for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf((float)x[b + i]));
    float d = most / 127.0f, inverse = most > 0 ? 127.0f / most : 0;
    for (int i = 0; i < 32; i++) o[b + i] = (double)d * (double)rintf((float)x[b + i] * inverse);
  }
  return o;
}

/* Products in float64, and the sum of the terms' magnitudes, which bounds rounding. */
static void products(const weight *w, const double *x, double *out, double *size) {
  for (int64_t m = 0; m < MOST; m++) {
    for (int64_t r = 0; r < w->rows; r++) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < w->inputs; k++) {
        double term = x[m * w->inputs + k] * w->values[r * w->inputs + k];
        sum += term;
        magnitude += fabs(term);
      }
      out[m * w->rows + r] = sum;
      size[m * w->rows + r] = magnitude;
    }
  }
}

/* Of x in dtype xt, whose bits the result's are; as float32. */
static float *product_rows(ml_engine *e, const weight *w, ml_dtype xt, const double *x, int64_t rows, view kind) {
  double *copy = room((size_t)(rows * w->inputs), sizeof *copy);
  memcpy(copy, x, (size_t)(rows * w->inputs) * sizeof *copy);
  ml_tensor *y =
      apply(e, ML_OP_linear, NO_ATTRS, view_tensor(e, xt, 2, (int64_t[]){rows, w->inputs}, copy, kind), w->tensor);
  expect(y->dtype == xt, "a product of %s is %s", ml_dtype_name(xt), ml_dtype_name(y->dtype));
  float *out = room((size_t)(rows * w->rows), sizeof *out);
  must(ml_tensor_read(apply(e, ML_OP_astype, INTS({.i = ML_F32}), y), out), "linear");
  return out;
}

/* Half the distance of neighbours around 1. */
static double half_ulp(ml_dtype t) { return t == ML_BF16 ? 0x1p-8 : t == ML_F16 ? 0x1p-11 : 0; }

static void test_linear(ml_engine *e, ml_dtype t, bool exact, ml_dtype xt) {
  static const int64_t sizes[][2] = {{40, 512}, {7, 256}, {16, 2304}, {600, 256}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i += check_sanitized() ? 3 : xt == ML_F32 ? 1 : 2) {
    weight w = make_weight(t, sizes[i][0], sizes[i][1]);
    pack(e, &w, exact);
    const double *x = activations(xt, w.inputs),
                 *meant = exact || !ml_dtype_is_block(t) ? x : round_activations(x, MOST * w.inputs);
    double *wanted = room((size_t)(MOST * w.rows), 8), *size = room((size_t)(MOST * w.rows), 8);
    products(&w, meant, wanted, size);
    /* A format with a minimum adds scale and minimum parts, each larger than their sum. */
    double tolerance = (double)w.inputs * 0x1p-24 * (ml_dtype_is_block(t) ? 4 : 1) + 1e-6 + half_ulp(xt);
    const float *all = NULL;
    for (int threads = 1; threads <= 3; threads++) {
      must(ml_engine_set_threads(e, threads), "threads");
      for (int c = ROW_COUNTS - 1; c >= 0; c--) {
        int64_t rows = row_counts[c];
        const float *y = product_rows(e, &w, xt, x, rows,
                                      threads == 2   ? SLICED
                                      : threads == 3 ? LAZY_TRANSPOSED
                                                     : DENSE);
        if (!all) all = y;
        expect(memcmp(y, all, (size_t)(rows * w.rows) * 4) == 0,
               "(%lld, %lld): %lld rows by %d threads differ from 33 rows by one", (long long)w.rows,
               (long long)w.inputs, (long long)rows, threads);
      }
    }
    double worst = 0;
    for (int64_t k = 0; k < MOST * w.rows; k++) {
      double error = fabs(all[k] - wanted[k]) / (size[k] + (xt == ML_F16 ? 1e-4 : 1e-30)); /* below: subnormals */
      if (!(error <= worst)) worst = error;
    }
    expect(worst <= tolerance, "(%lld, %lld): error %.3g of the sum of magnitudes, allowed %.3g", (long long)w.rows,
           (long long)w.inputs, worst, tolerance);
    drop_all();
  }
}

/* Numbers that rounding must not lose or trip over: the product of a row that holds one is not finite, its neighbours'
 * are untouched. */
static void test_strange(ml_engine *e, ml_dtype t, bool exact, ml_dtype xt) {
  weight w = make_weight(t, 20, 256);
  for (int64_t i = 0; i < 20 * 256; i++) w.values[i] = 0;
  pack(e, &w, exact);
  for (int few = 0; few < 2; few++) {
    int64_t rows = few ? 4 : 9;
    double *x = random_values(xt, rows * 256, -1, 1);
    const float *plain = product_rows(e, &w, xt, x, rows, DENSE);
    x[256 + 3] = NAN;
    x[2 * 256 + 40] = INFINITY;
    for (int i = 0; i < 256; i++) x[3 * 256 + i] = rounded(xt, 1e-39 * (i % 3)); /* 127 / max overflows */
    const float *y = product_rows(e, &w, xt, x, rows, DENSE);
    for (int r = 0; r < 20; r++) {
      expect(memcmp(&y[r], &plain[r], 4) == 0, "row 0 of %lld is untouched", (long long)rows);
      expect(isnan(y[20 + r]), "NaN stays NaN (output %d of %lld rows: %g)", r, (long long)rows, (double)y[20 + r]);
      expect(!isfinite(y[40 + r]), "infinity does not become finite (output %d of %lld rows: %g)", r, (long long)rows,
             (double)y[40 + r]);
      expect(fabsf(y[60 + r]) < 1e-35f, "subnormal activations (output %d of %lld rows: %g)", r, (long long)rows,
             (double)y[60 + r]);
    }
  }
  drop_all();
}

/* Weights in one step that differ in format, with and without rounding. */
static void test_mixed(ml_engine *e, ml_dtype xt) {
  for (int64_t rows = 1; rows < 12; rows += 5) {
    weight w[4] = {make_weight(ML_Q4_K, 40, 512), make_weight(xt == ML_BF16 ? ML_BF16 : ML_F16, 24, 512),
                   make_weight(ML_Q6_K, 17, 512), make_weight(ML_Q8_0, 40, 512)};
    ml_tensor *x = random_tensor(e, xt, SHAPE(rows, 512), -1, 1), *y[4];
    size_t item = (size_t)ml_dtype_infos[xt].bytes;
    float *alone[4], *together = room((size_t)(rows * 40), 4);
    for (int i = 0; i < 4; i++) {
      pack(e, &w[i], i == 2);
      y[i] = apply(e, ML_OP_linear, NO_ATTRS, x, w[i].tensor);
      alone[i] = room((size_t)(rows * w[i].rows), 4);
      must(ml_tensor_read(y[i], alone[i]), "read");
      y[i] = apply(e, ML_OP_linear, NO_ATTRS, x, w[i].tensor);
    }
    must(ml_eval(e, y, 4), "eval");
    for (int i = 0; i < 4; i++) {
      must(ml_tensor_read(y[i], together), "read");
      expect(memcmp(together, alone[i], (size_t)(rows * w[i].rows) * item) == 0,
             "weight %d of a step of four, %lld rows", i, (long long)rows);
    }
    drop_all();
  }
}

static const ml_dtype narrow[] = {ML_BF16, ML_F16};

static void test_narrow(ml_engine *e, const char *isa, ml_dtype t) {
  for (int n = 0; n < 2; n++) {
    for (int exact = 0; exact < 2; exact++) {
      test_linear(e, t, exact, narrow[n]);
      test_strange(e, t, exact, narrow[n]);
    }
    report("%s: %s products of %s", isa, ml_dtype_name(t), ml_dtype_name(narrow[n]));
  }
}

/* All ways to multiply bfloat16 on processors that have them, whichever is taken by itself. */
static void test_ways(void) {
  static const char *const ways[] = {"avx512-tiles", "avx512-dots", "avx512-floats"};
  for (int i = 0; i < 3; i++) {
    ml_engine *e = open_engine(ways[i], 2);
    if (!e) {
      check_skip(ways[i], "this processor lacks it");
      continue;
    }
    random_state = 1;
    test_narrow(e, ways[i], ML_BF16);
    close_engine(e, ways[i]);
  }
}

int main(void) {
  for (int i = 0; i < ISAS; i++) {
    ml_engine *e = open_engine(isas[i], 2);
    if (!e) {
      check_skip(isas[i], "this processor lacks it");
      continue;
    }
    for (int f = 0; f < FORMATS; f++) {
      const char *name = ml_dtype_name(formats[f]);
      random_state = 1;
      test_pack(e, formats[f]);
      report("%s: %s packs and unpacks", isas[i], name);
      test_embedding(e, formats[f]);
      test_golden(e, formats[f]);
      report("%s: %s rows are looked up exactly", isas[i], name);
      test_linear(e, formats[f], true, ML_F32);
      report("%s: %s products, exact", isas[i], name);
      test_linear(e, formats[f], false, ML_F32);
      report("%s: %s products, fast", isas[i], name);
      test_strange(e, formats[f], true, ML_F32);
      test_strange(e, formats[f], false, ML_F32);
      report("%s: %s products of numbers that are not finite or tiny", isas[i], name);
      test_narrow(e, isas[i], formats[f]);
    }
    test_mixed(e, ML_F32);
    test_mixed(e, ML_BF16);
    test_mixed(e, ML_F16);
    report("%s: products that share a step", isas[i]);
    close_engine(e, isas[i]);
  }
  test_ways();
  return check_done();
}
