/* test_ops.c: every row of ops.def on every instruction set and with one, two and three threads, which must give the
 * same bytes. The list is ops.def itself: a row without a test here does not compile (kernels) or fails (elementwise).
 */
#include "tensors.h"

#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/index.h"
#include "ops/network.h"
#include "ops/products.h"
#include "ops/attention.h"
#include "ops/sample.h"

/* ---- the list ---- */

typedef void (*op_test)(ml_engine *e);

/* A row's test by its kind: elementwise rows share one, every other row has test_ID. */
#define TEST_LEAF(id) NULL
#define TEST_UNARY(id) NULL
#define TEST_BINARY(id) NULL
#define TEST_TERNARY(id) test_##id
#define TEST_VIEW(id) test_##id
#define TEST_KERNEL(id) test_##id
#define TEST_EFFECT(id) test_##id
#define TEST_APPEND(id) TEST_EFFECT(id)
#define TEST_RESULT(id) NULL

static const op_test op_tests[ML_OP_COUNT] = {
#define OP(id, parameters, shape, kind, access, gradient, doc) [ML_OP_##id] = TEST_##kind(id),
#include "tensor/ops.def"
};

static const op_test other_tests[] = {test_casts,    test_halves,         test_promotion,
                                      test_by_value, test_plain_integers, test_products};
static const char *const other_names[] = {
    "casts", "float16 and bfloat16", "promotion", "integers by value", "plain integers", "products"};

static void run_op(ml_engine *e, ml_op op) {
  ml_kind kind = ml_op_infos[op].kind;
  if (kind == ML_KIND_UNARY || kind == ML_KIND_BINARY) test_elementwise(e, op);
  else op_tests[op](e);
}

static void run_once(ml_engine *e, int op, op_test test, bool in_short) {
  every = 1;
  skip_case(0); /* begins its count anew */
  quick = in_short;
  every = check_sanitized() ? 11 : in_short ? 37 : 1;
  random_state = 7;
  found.digest = 0xcbf29ce484222325u;
  if (test) test(e);
  else run_op(e, (ml_op)op);
}

/* All cases with one thread, then some with one, two and three. */
static void run(ml_engine *e, const char *isa, const char *name, int op, op_test test) {
  uint64_t one = 0;
  run_once(e, op, test, false);
  for (int threads = 1; threads <= 3; threads++) {
    must(ml_engine_set_threads(e, threads), "threads");
    run_once(e, op, test, true);
    if (threads == 1) one = found.digest;
    expect(found.digest == one, "%d threads give other bytes than one", threads);
  }
  must(ml_engine_set_threads(e, 1), "threads");
  report("%s: %s", isa, name);
}

/* Both ways to multiply bfloat16 on processors that have its dot products, whichever is taken by itself. */
static void run_dots(void) {
  static const char *const ways[] = {"avx512-dots", "avx512-floats"};
  for (int i = 0; i < 2; i++) {
    ml_engine *e = open_engine(ways[i], 1);
    if (!e) {
      check_skip(ways[i], "this processor lacks it");
      continue;
    }
    run(e, ways[i], "products", 0, test_products);
    run(e, ways[i], "matmul", ML_OP_matmul, NULL);
    run(e, ways[i], "gather_linear", ML_OP_gather_linear, NULL);
    close_engine(e, ways[i]);
  }
}

int main(int argc, char **argv) {
  for (int i = 0; i < ISAS; i++) {
    ml_engine *e = open_engine(isas[i], 1);
    if (!e) {
      check_skip(isas[i], "this processor lacks it");
      continue;
    }
    for (int op = 0; op < ML_OP_COUNT; op++) {
      if (argc > 1 && strcmp(argv[1], ml_op_name((ml_op)op)) != 0) continue; /* test_ops NAME: that row alone */
      if (op_tests[op] || ml_op_is_elementwise((ml_op)op)) run(e, isas[i], ml_op_name((ml_op)op), op, NULL);
    }
    for (size_t t = 0; t < sizeof other_tests / sizeof *other_tests; t++) {
      if (argc > 1 && strcmp(argv[1], other_names[t]) != 0) continue;
      run(e, isas[i], other_names[t], 0, other_tests[t]);
    }
    close_engine(e, isas[i]);
  }
  if (argc < 2 || strcmp(argv[1], "products") == 0) run_dots();
  return check_done();
}
