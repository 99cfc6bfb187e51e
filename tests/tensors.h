/* tensors.h: what the tests of tensors share: engines of every instruction set, random tensors seen through all kinds
 * of views, results as doubles, and a comparison that remembers the first difference.
 *
 * Tensors and arrays that these functions return belong to a pool that drop_all empties, so that a test reads as a list
 * of expressions. What must not fail here ends the program: it is not what is tested. */
#ifndef ML_TESTS_TENSORS_H
#define ML_TESTS_TENSORS_H

#include "check.h"

#include "tensor/plan/plan.h"

#include <math.h>

/* ---- random numbers ---- */

static uint64_t random_state = 1;

CHECK_UNUSED static uint64_t random_u64(void) { /* splitmix64 */
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

CHECK_UNUSED static int64_t random_below(int64_t n) { return (int64_t)(random_u64() % (uint64_t)n); }
CHECK_UNUSED static double random_in(double from, double to) {
  return from + (to - from) * ((double)(random_u64() >> 11) * 0x1p-53);
}

/* ---- engines and the pool ---- */

static const char *const isas[] = {"ref", "avx2", "avx512"};
enum { ISAS = 3 };

CHECK_UNUSED static void must(ml_status status, const char *what) {
  if (status == ML_OK) return;
  printf("not ok - %s: %s: %s\n", what, ml_status_name(status), ml_error_message());
  exit(100);
}

/* NULL where this processor lacks the instruction set. */
CHECK_UNUSED static ml_engine *open_engine(const char *isa, int threads) {
  ml_engine *e = NULL;
  ml_status status = ml_engine_open(threads, isa, &e);
  if (status == ML_DEVICE) return NULL;
  must(status, isa);
  return e;
}

enum { POOL = 16384 };
static ml_tensor *pool_tensors[POOL];
static void *pool_blocks[POOL];
static int pool_n_tensors, pool_n_blocks;

CHECK_UNUSED static ml_tensor *keep(ml_tensor *t) {
  if (pool_n_tensors == POOL) must(ML_LIMIT, "the pool is full");
  return pool_tensors[pool_n_tensors++] = t;
}

CHECK_UNUSED static void *room(size_t count, size_t size) {
  if (pool_n_blocks == POOL) must(ML_LIMIT, "the pool is full");
  void *p = calloc(count + 1, size);
  if (!p) must(ML_MEMORY, "room");
  return pool_blocks[pool_n_blocks++] = p;
}

CHECK_UNUSED static void drop_all(void) {
  while (pool_n_tensors) ml_tensor_release(pool_tensors[--pool_n_tensors]);
  while (pool_n_blocks) free(pool_blocks[--pool_n_blocks]);
}

/* ---- numbers of every dtype, converted without the library ---- */

static double half_value(uint16_t h) {
  int exponent = h >> 10 & 31;
  double m = h & 1023, v = exponent == 31 ? (m != 0 ? (double)NAN : (double)INFINITY)
                           : exponent     ? ldexp(1024 + m, exponent - 25)
                                          : ldexp(m, -24);
  return h & 0x8000 ? -v : v;
}

/* To nearest, halves to even. */
static uint16_t to_half(double v) {
  uint16_t sign = signbit(v) ? 0x8000 : 0;
  double a = fabs(v);
  int e;
  if (isnan(v)) return sign | 0x7e00;
  if (a >= 65520) return sign | 0x7c00;
  if (a < ldexp(1, -14)) return sign | (uint16_t)rint(ldexp(a, 24));
  frexp(a, &e); /* a in [2^(e-1), 2^e) */
  double m = rint(ldexp(a, 11 - e));
  return sign | (uint16_t)(((e + 13) << 10) + (int)m);
}

static double bfloat_value(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static uint16_t to_bfloat(double v) {
  float f = (float)v;
  uint32_t u;
  memcpy(&u, &f, 4);
  if (isnan(v)) return (uint16_t)(u >> 16 | 0x40);
  uint32_t below = u & 0xffff, kept = u >> 16;
  double lost = fabs(v) - fabs((double)f); /* what float32 has rounded away decides where it fell halfway */
  bool up = below == 0x8000 && lost == 0 ? kept & 1 : below > 0x8000 || (below == 0x8000 && lost > 0);
  return (uint16_t)(kept + up);
}

CHECK_UNUSED static double f8_value(uint8_t b) {
  int e = b >> 3 & 15, m = b & 7;
  double v = e == 15 && m == 7 ? (double)NAN : e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
  return b & 128 ? -v : v;
}

CHECK_UNUSED static double get_number(ml_dtype t, const void *data, int64_t i) {
  switch (t) {
  case ML_F32: return ((const float *)data)[i];
  case ML_F64: return ((const double *)data)[i];
  case ML_F16: return half_value(((const uint16_t *)data)[i]);
  case ML_BF16: return bfloat_value(((const uint16_t *)data)[i]);
  case ML_I8: return ((const int8_t *)data)[i];
  case ML_U8:
  case ML_BOOL: return ((const uint8_t *)data)[i];
  case ML_I16: return ((const int16_t *)data)[i];
  case ML_U16: return ((const uint16_t *)data)[i];
  case ML_I32: return ((const int32_t *)data)[i];
  case ML_U32: return ((const uint32_t *)data)[i];
  case ML_I64: return (double)((const int64_t *)data)[i];
  case ML_U64: return (double)((const uint64_t *)data)[i];
  case ML_F8_E4M3: return f8_value(((const uint8_t *)data)[i]);
  default: return NAN;
  }
}

/* Integers wrap, floats round. */
CHECK_UNUSED static void put_number(ml_dtype t, void *data, int64_t i, double v) {
  int64_t n = v >= 0x1p63 && v < 0x1p64 ? (int64_t)(uint64_t)v : v >= -0x1p63 && v < 0x1p63 ? (int64_t)v : 0;
  switch (t) {
  case ML_F32: ((float *)data)[i] = (float)v; return;
  case ML_F64: ((double *)data)[i] = v; return;
  case ML_F16: ((uint16_t *)data)[i] = to_half(v); return;
  case ML_BF16: ((uint16_t *)data)[i] = to_bfloat(v); return;
  case ML_I8:
  case ML_U8: ((uint8_t *)data)[i] = (uint8_t)n; return;
  case ML_BOOL: ((uint8_t *)data)[i] = v != 0; return;
  case ML_I16:
  case ML_U16: ((uint16_t *)data)[i] = (uint16_t)n; return;
  case ML_I32:
  case ML_U32: ((uint32_t *)data)[i] = (uint32_t)n; return;
  case ML_I64:
  case ML_U64: ((int64_t *)data)[i] = n; return;
  default: must(ML_UNSUPPORTED, "put_number");
  }
}

CHECK_UNUSED static double rounded(ml_dtype t, double v) {
  uint64_t bits = 0;
  put_number(t, &bits, 0, v);
  return get_number(t, &bits, 0);
}

/* Relative size of half a unit in the last place. */
CHECK_UNUSED static double epsilon(ml_dtype t) {
  return t == ML_F64 ? 0x1p-53 : t == ML_F32 ? 0x1p-24 : t == ML_F16 ? 0x1p-11 : t == ML_BF16 ? 0x1p-8 : 0;
}

/* ---- attributes and operations ---- */

#define NO_ATTRS ((ml_attrs){0})
#define INTS(...) ((ml_attrs){.v = {__VA_ARGS__}}) /* INTS({.i = 2}, {.f = 0.5}) */

CHECK_UNUSED static ml_attrs list_attrs(int n, const int64_t *list) {
  ml_attrs a = {0}; /* a list is the first of them */
  int64_t *entries = ml_attrs_give(&a, &a.v[0].list, n);
  for (int i = 0; i < n; i++) entries[i] = list[i];
  return a;
}

#define SHAPE(...)                                                                                                     \
  (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) { __VA_ARGS__ }

static ml_tensor *apply_list(ml_engine *e, ml_op op, ml_attrs attrs, int n, ml_tensor *const *inputs) {
  ml_tensor *out[ML_MAX_RESULTS] = {0};
  must(ml_apply(e, op, inputs, n, &attrs, out), ml_op_name(op));
  for (int i = 1; i < ml_op_infos[op].n_results; i++) ml_tensor_release(out[i]);
  return keep(out[0]);
}

/* apply(e, ML_OP_add, NO_ATTRS, a, b) */
#define apply(e, op, attrs, ...)                                                                                       \
  apply_list((e), (op), (attrs), (int)(sizeof((ml_tensor *[]){__VA_ARGS__}) / sizeof(ml_tensor *)),                    \
             (ml_tensor *[]){__VA_ARGS__})

CHECK_UNUSED static ml_status try_apply(ml_engine *e, ml_op op, ml_attrs attrs, int n, ml_tensor *const *inputs) {
  ml_tensor *out[ML_MAX_RESULTS] = {0};
  int n_results = ml_op_infos[op].n_results ? ml_op_infos[op].n_results : 1;
  ml_status status = ml_apply(e, op, inputs, n, &attrs, out);
  if (status == ML_OK) {
    status = ml_eval(e, out, (size_t)n_results);
    for (int i = 0; i < n_results; i++) ml_tensor_release(out[i]);
  }
  return status;
}

/* The status of an operation and its run. */
#define attempt(e, op, attrs, ...)                                                                                     \
  try_apply((e), (op), (attrs), (int)(sizeof((ml_tensor *[]){__VA_ARGS__}) / sizeof(ml_tensor *)),                     \
            (ml_tensor *[]){__VA_ARGS__})

CHECK_UNUSED static ml_tensor *tensor(ml_engine *e, ml_dtype t, int ndim, const int64_t *shape, const double *values) {
  int64_t n = ml_shape_size(ndim, shape);
  void *data = room((size_t)n, (size_t)ml_dtype_infos[t].bytes);
  for (int64_t i = 0; i < n; i++) put_number(t, data, i, values[i]);
  ml_tensor *out;
  must(ml_tensor_from_host(e->device, t, ndim, shape, data, (size_t)n * (size_t)ml_dtype_infos[t].bytes, &out),
       "from_host");
  return keep(out);
}

/* A tensor that effects may write. */
CHECK_UNUSED static ml_tensor *state(ml_engine *e, ml_dtype t, int ndim, const int64_t *shape, const double *values) {
  ml_tensor *s = tensor(e, t, ndim, shape, values);
  must(ml_tensor_make_state(s), "a state");
  return s;
}

CHECK_UNUSED static ml_tensor *scalar(ml_engine *e, ml_dtype t, double v) {
  ml_tensor *out;
  must(ml_tensor_constant(e, t, v, isnan(v) || isinf(v) ? 0 : (int64_t)v, &out), "constant");
  return keep(out);
}

CHECK_UNUSED static ml_tensor *ints(ml_engine *e, int64_t n, const int64_t *values) {
  double *v = room((size_t)n, sizeof *v);
  for (int64_t i = 0; i < n; i++) v[i] = (double)values[i];
  return tensor(e, ML_I32, 1, &n, v);
}
#define INDICES(e, ...) ints((e), SHAPE(__VA_ARGS__))

/* `n` random values that the dtype holds exactly: floats in from..to, whole numbers for integers. */
CHECK_UNUSED static double *random_values(ml_dtype t, int64_t n, double from, double to) {
  double *v = room((size_t)n, sizeof *v);
  bool whole = !ml_dtype_is_float(t);
  for (int64_t i = 0; i < n; i++) v[i] = rounded(t, whole ? floor(random_in(from, to + 1)) : random_in(from, to));
  return v;
}

CHECK_UNUSED static ml_tensor *random_tensor(ml_engine *e, ml_dtype t, int ndim, const int64_t *shape, double from,
                                             double to) {
  return tensor(e, t, ndim, shape, random_values(t, ml_shape_size(ndim, shape), from, to));
}

/* ---- views ---- */

/* Ways to the same values. LAZY ones are views of a result that the plan makes. */
typedef enum view {
  DENSE,
  TRANSPOSED,
  SLICED,
  REVERSED,
  REPEATED_FIRST,
  REPEATED_LAST,
  LAZY_TRANSPOSED,
  LAZY_SLICED,
  LAZY_RESHAPED,
  VIEWS
} view;
static const char *const view_names[VIEWS] = {"dense",
                                              "transposed",
                                              "sliced",
                                              "reversed",
                                              "repeated along the first axis",
                                              "repeated along the last axis",
                                              "a lazy transpose",
                                              "a lazy slice",
                                              "a lazy reshape"};

/* Sets index to element i of a shape. */
CHECK_UNUSED static void unravel(int64_t i, int ndim, const int64_t *shape, int64_t *index) {
  for (int d = ndim - 1; d >= 0; d--) {
    index[d] = i % shape[d];
    i /= shape[d];
  }
}

static int64_t ravel(int ndim, const int64_t *shape, const int64_t *index) {
  int64_t i = 0;
  for (int d = 0; d < ndim; d++) i = i * shape[d] + index[d];
  return i;
}

static void repeat_values(int ndim, const int64_t *shape, int axis, double *values) {
  int64_t n = ml_shape_size(ndim, shape), index[ML_MAX_DIMS];
  for (int64_t i = 0; i < n; i++) {
    unravel(i, ndim, shape, index);
    index[axis] = 0;
    values[i] = values[ravel(ndim, shape, index)];
  }
}

/* A tensor of these values seen through a view. REPEATED ones change `values` to what they can show. */
CHECK_UNUSED static ml_tensor *view_tensor(ml_engine *e, ml_dtype t, int ndim, const int64_t *shape, double *values,
                                           view kind) {
  int64_t n = ml_shape_size(ndim, shape), base_shape[ML_MAX_DIMS], index[ML_MAX_DIMS], at[ML_MAX_DIMS],
          ranges[3 * ML_MAX_DIMS];
  bool lazy = kind >= LAZY_TRANSPOSED;
  if (kind == LAZY_TRANSPOSED) kind = TRANSPOSED;
  if (kind == LAZY_SLICED) kind = SLICED;
  if (ndim == 0 || kind == DENSE) return tensor(e, t, ndim, shape, values);
  int repeated = kind == REPEATED_FIRST ? 0 : kind == REPEATED_LAST ? ndim - 1 : -1;
  if (repeated >= 0 && n) repeat_values(ndim, shape, repeated, values);
  for (int d = 0; d < ndim; d++) {
    base_shape[d] = kind == TRANSPOSED          ? shape[ndim - 1 - d]
                    : kind == SLICED            ? 2 * shape[d] + 1
                    : d == repeated && shape[d] ? 1
                                                : shape[d];
    if (kind == SLICED) ranges[3 * d] = 1, ranges[3 * d + 1] = shape[d], ranges[3 * d + 2] = 2;
    else ranges[3 * d] = shape[d] ? shape[d] - 1 : 0, ranges[3 * d + 1] = shape[d], ranges[3 * d + 2] = -1;
  }
  int base_ndim = ndim;
  if (kind == LAZY_RESHAPED) base_shape[0] = n, base_ndim = 1;
  int64_t size = ml_shape_size(base_ndim, base_shape);
  double *base = random_values(t, size, 0, 1);
  for (int64_t i = 0; i < n; i++) {
    unravel(i, ndim, shape, index);
    for (int d = 0; d < ndim; d++) {
      at[d] = kind == TRANSPOSED ? index[ndim - 1 - d]
              : kind == SLICED   ? 1 + 2 * index[d]
              : kind == REVERSED ? shape[d] - 1 - index[d]
              : d == repeated    ? 0
                                 : index[d];
    }
    base[kind == LAZY_RESHAPED ? i : ravel(ndim, base_shape, at)] = values[i];
  }
  ml_tensor *x = tensor(e, t, base_ndim, base_shape, base);
  if (lazy) x = apply(e, ML_OP_copy, NO_ATTRS, x);
  if (kind == TRANSPOSED) return apply(e, ML_OP_transpose, NO_ATTRS, x);
  if (kind == SLICED || kind == REVERSED) return apply(e, ML_OP_slice, list_attrs(3 * ndim, ranges), x);
  return apply(e, kind == LAZY_RESHAPED ? ML_OP_reshape : ML_OP_broadcast_to, list_attrs(ndim, shape), x);
}

/* ---- cases ---- */

/* Set while several thread counts are compared: of the small cases, one in 37 is enough. */
CHECK_UNUSED static bool quick;
static int every = 1; /* of the small cases, one in this many runs */

/* Whether to leave out a case over `size` elements. */
CHECK_UNUSED static bool skip_case(int64_t size) {
  static long calls;
  if (every == 1) calls = 0;
  return every > 1 && (size < 4000 || check_sanitized()) && ++calls % every != 1;
}

/* ---- results ---- */

/* What the running test has found. `digest` is over the bytes of all results: equal for equal work. */
static struct {
  uint64_t digest;
  long cases, failures;
  char why[600]; /* the first failure */
} found;

CHECK_UNUSED static void digest_bytes(const void *data, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) found.digest = (found.digest ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
}

CHECK_UNUSED static void expect(bool passed, const char *format, ...) ML_PRINTF(2, 3);
static void expect(bool passed, const char *format, ...) {
  found.cases++;
  if (passed || found.failures++) return;
  va_list args;
  va_start(args, format);
  vsnprintf(found.why, sizeof found.why, format, args);
  va_end(args);
}

/* The values of a tensor, row-major. */
CHECK_UNUSED static double *numbers(ml_tensor *t) {
  int64_t n = ml_tensor_size(t);
  void *data = room(ml_tensor_nbytes(t), 1);
  must(ml_tensor_read(t, data), "read");
  digest_bytes(data, ml_tensor_nbytes(t));
  double *v = room((size_t)n, sizeof *v);
  for (int64_t i = 0; i < n; i++) v[i] = get_number(t->dtype, data, i);
  return v;
}

static bool close_numbers(double a, double b, double relative, double absolute) {
  if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
  if (a == b) return true;
  return isfinite(a) && isfinite(b) && fabs(a - b) <= absolute + relative * fabs(b);
}

/* Evaluates t, which must have this shape and these values; `name` tells the case. */
CHECK_UNUSED static void expect_values(ml_tensor *t, int ndim, const int64_t *shape, const double *wanted,
                                       double relative, double absolute, const char *format, ...) ML_PRINTF(7, 8);
static void expect_values(ml_tensor *t, int ndim, const int64_t *shape, const double *wanted, double relative,
                          double absolute, const char *format, ...) {
  char name[200];
  va_list args;
  va_start(args, format);
  vsnprintf(name, sizeof name, format, args);
  va_end(args);
  if (t->ndim != ndim || (ndim && memcmp(t->shape, shape, (size_t)ndim * sizeof *shape) != 0)) {
    expect(false, "%s: expected shape %s, found %s", name, ml_shape_text(ndim, shape, (char[160]){0}, 160),
           ml_shape_text(t->ndim, t->shape, (char[160]){0}, 160));
    return;
  }
  const double *v = numbers(t);
  for (int64_t i = 0; i < ml_tensor_size(t); i++) {
    if (close_numbers(v[i], wanted[i], relative, absolute)) continue;
    expect(false, "%s, %s: element %lld is %.9g, expected %.9g", name, ml_dtype_name(t->dtype), (long long)i, v[i],
           wanted[i]);
    return;
  }
  expect(true, "%s", name);
}

/* Prints what a test found since the last call. */
CHECK_UNUSED static void report(const char *format, ...) ML_PRINTF(1, 2);
static void report(const char *format, ...) {
  char name[200];
  va_list args;
  va_start(args, format);
  vsnprintf(name, sizeof name, format, args);
  va_end(args);
  if (found.failures) CHECK(false, "%s: %ld of %ld cases: %s", name, found.failures, found.cases, found.why);
  else CHECK(found.cases > 0, "%s (%ld cases)", name, found.cases);
  found.cases = found.failures = 0;
}

/* Frees an engine after a look at what it still counts. */
CHECK_UNUSED static void close_engine(ml_engine *e, const char *name) {
  drop_all();
  ml_effects_drop(e, 0);
  CHECK(e->live_tensors == 0 && e->device->memory.active == 0,
        "%s: all memory came back (%lld tensors, %zu bytes left)", name, (long long)e->live_tensors,
        e->device->memory.active);
  ml_engine_free(e);
}

#endif
