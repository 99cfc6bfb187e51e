/* test_plan.c: a plan gives what its operations give one by one: random graphs, composites around packed products,
 * effects on state, replay with inputs, unusual outputs.
 *
 * Every graph is built twice from the same random numbers: EAGER evaluates each node as soon as it is written, LAZY
 * evaluates a few results at the end. Results must be equal bit for bit: fusion may not change arithmetic. */
#include "tensors.h"

#include "tensor/arena.h"

/* ---- graphs built twice ---- */

typedef enum mode { EAGER, LAZY, PLANNED } mode;

enum { MOST_NODES = 256, MOST_INPUTS = 16 };
typedef struct graph {
  ml_engine *e;
  mode mode;
  ml_tensor *nodes[MOST_NODES];
  int n_nodes;
  ml_tensor *inputs[MOST_INPUTS], *values[MOST_INPUTS]; /* PLANNED: placeholders and what they stand for */
  int n_inputs;
  ml_tensor *outputs[MOST_NODES];
  int n_outputs;
  bool writes; /* effects on state: a second run would begin elsewhere */
} graph;

static ml_tensor *add_node(graph *g, ml_tensor *t) {
  if (g->mode == EAGER) must(ml_eval(g->e, &t, 1), "eager");
  return g->nodes[g->n_nodes++] = t;
}

/* A tensor with values, or a placeholder for it. */
static ml_tensor *add_input(graph *g, ml_tensor *t) {
  if (g->mode != PLANNED || g->n_inputs == MOST_INPUTS) return g->nodes[g->n_nodes++] = t;
  ml_tensor *p;
  must(ml_tensor_input(g->e, g->n_inputs, t, &p), "input");
  g->values[g->n_inputs] = t;
  g->inputs[g->n_inputs++] = keep(p);
  return g->nodes[g->n_nodes++] = p;
}

/* An operation; NULL where its shape rule refuses it, in every mode alike. */
static ml_tensor *add_op(graph *g, ml_op op, ml_attrs attrs, int n, ml_tensor *const *inputs) {
  ml_tensor *t;
  for (int i = 0; i < n; i++) {
    if (!inputs[i] && op != ML_OP_rms_norm && op != ML_OP_attention && op != ML_OP_cache_append) return NULL; /* refused before */
  }
  if (ml_apply(g->e, op, inputs, n, &attrs, &t) != ML_OK) return NULL;
  return add_node(g, keep(t));
}
#define OPERATION(g, op, attrs, ...)                                                                                   \
  add_op((g), (op), (attrs), (int)(sizeof((ml_tensor *[]){__VA_ARGS__}) / sizeof(ml_tensor *)),                        \
         (ml_tensor *[]){__VA_ARGS__})
#define F(op, ...) OPERATION(g, ML_OP_##op, NO_ATTRS, __VA_ARGS__)

static void output(graph *g, ml_tensor *t) { g->outputs[g->n_outputs++] = t; }

/* The outputs' bytes, each output in a block of its own. */
static void results(graph *g, void **bytes, size_t *sizes, ml_dtype *dtypes) {
  ml_tensor *made[MOST_NODES];
  if (g->mode == PLANNED) {
    ml_plan *p;
    must(ml_plan_create(g->e, g->inputs, g->n_inputs, g->outputs, g->n_outputs, &p), "plan");
    for (int run = 0; run < (g->writes ? 1 : 2); run++) { /* the second run is the one that counts */
      must(ml_plan_run(p, g->values, made), "run");
      for (int i = 0; i < g->n_outputs; i++) keep(made[i]);
    }
    ml_plan_release(p);
  } else {
    must(ml_eval(g->e, g->outputs, (size_t)g->n_outputs), "eval");
    memcpy(made, g->outputs, sizeof made);
  }
  for (int i = 0; i < g->n_outputs; i++) {
    sizes[i] = ml_tensor_nbytes(made[i]);
    dtypes[i] = made[i]->dtype;
    bytes[i] = room(sizes[i], 1);
    must(ml_tensor_read(made[i], bytes[i]), "read");
  }
}

/* Equal, where NaN equals NaN whatever its bits. */
static bool same_bytes(const void *a, const void *b, size_t bytes, ml_dtype t) {
  if (memcmp(a, b, bytes) == 0) return true;
  size_t item = (size_t)ml_dtype_infos[t].bytes;
  for (size_t i = 0; i < bytes / item; i++) {
    bool nan = isnan(get_number(t, a, (int64_t)i)) && isnan(get_number(t, b, (int64_t)i));
    if (!nan && memcmp((const char *)a + i * item, (const char *)b + i * item, item) != 0) return false;
  }
  return true;
}

typedef void (*builder)(graph *g, int variant);

static void compare(ml_engine *e, builder build, int variant, const char *name) {
  static const char *const mode_names[] = {"", "lazy", "planned"};
  void *bytes[3][MOST_NODES];
  size_t sizes[MOST_NODES];
  ml_dtype dtypes[MOST_NODES];
  uint64_t seed = random_state;
  for (int m = EAGER; m <= PLANNED; m++) {
    graph g = {.e = e, .mode = (mode)m};
    random_state = seed;
    build(&g, variant);
    results(&g, bytes[m], sizes, dtypes);
    for (int i = 0; i < g.n_outputs && m != EAGER; i++) {
      expect(same_bytes(bytes[EAGER][i], bytes[m][i], sizes[i], dtypes[i]),
             "%s %d, %s: output %d (%s) differs from one operation at a time", name, variant, mode_names[m], i,
             ml_dtype_name(dtypes[i]));
    }
  }
  drop_all();
}

/* ---- random elementwise graphs ---- */

static ml_tensor *pick(const graph *g) {
  int recent = g->n_nodes < 8 ? g->n_nodes : 8;
  return random_below(3) ? g->nodes[g->n_nodes - 1 - (int)random_below(recent)] : g->nodes[random_below(g->n_nodes)];
}

/* Some node of this dtype, for operations whose operands would else all end in one wide dtype; any node when none is
 * found. */
static ml_tensor *pick_like(const graph *g, ml_dtype t) {
  for (int i = 0; i < 12; i++) {
    ml_tensor *x = pick(g);
    if (x->dtype == t) return x;
  }
  return pick(g);
}

static void random_elementwise(graph *g, int variant) {
  static const int64_t shapes[][2] = {{5, 300}, {1, 300}, {5, 1}, {1, 1}};
  int64_t columns = variant % 3 ? 7 : 300;
  for (int i = 0; i < 7; i++) {
    ml_dtype t = variant % 2 ? (ml_dtype)random_below(ML_BOOL + 1) : random_below(4) ? ML_F32 : ML_BF16;
    const int64_t *s = shapes[i ? random_below(4) : 0];
    int64_t shape[2] = {s[0], s[1] == 300 ? columns : 1};
    double *v = random_values(t, shape[0] * shape[1], 0, t == ML_BOOL ? 1 : 4);
    bool lacks = shape[0] == 1 && random_below(2); /* a vector */
    view kind = (view)random_below(REPEATED_FIRST);
    add_input(g, lacks ? view_tensor(g->e, t, 1, shape + 1, v, kind) : view_tensor(g->e, t, 2, shape, v, kind));
  }
  int work = 5 + (int)random_below(60);
  for (int tries = 0; tries < work; tries++) {
    int64_t kind = random_below(12);
    if (kind == 0) {
      g->nodes[g->n_nodes++] = scalar(g->e, random_below(2) ? ML_F32 : ML_I32, (double)random_below(5) - 1);
    } else if (kind == 1) {
      ml_tensor *x = pick(g);
      OPERATION(g, ML_OP_astype, INTS({.i = random_below(variant % 2 ? ML_BOOL + 1 : 3)}), x);
    } else if (kind == 2) {
      ml_tensor *c = pick_like(g, ML_BOOL), *a = pick(g), *b = pick_like(g, a->dtype);
      F(where, c, a, b);
    } else {
      ml_op op = (ml_op)(ML_OP_copy + random_below(ML_OP_where - ML_OP_copy));
      ml_tensor *a = pick(g), *b = pick_like(g, a->dtype);
      if (op == ML_OP_astype) continue;
      if (ml_op_infos[op].kind == ML_KIND_UNARY) OPERATION(g, op, NO_ATTRS, a);
      else OPERATION(g, op, NO_ATTRS, a, b);
    }
  }
  int n = 1 + (int)random_below(4);
  output(g, g->nodes[g->n_nodes - 1]);
  for (int i = 0; i < n; i++) output(g, pick(g));
}

/* Chains that pass every bound of a fused step: members, inputs, constants. */
static void long_chains(graph *g, int variant) {
  ml_tensor *x = add_input(g, random_tensor(g->e, ML_F32, SHAPE(3, 50), -1, 1)), *first = x;
  for (int i = 0; i < 45; i++) {
    ml_tensor *a = scalar(g->e, ML_F32, i), *b = scalar(g->e, ML_F32, i + 0.5);
    if (variant == 0) x = F(where, x, a, b);            /* two constants each */
    else if (variant == 1) x = F(add, x, F(mul, a, b)); /* of constants alone */
    else if (variant == 2) x = F(add, x, add_input(g, random_tensor(g->e, ML_F32, SHAPE(3, 50), -1, 1)));
    else if (variant == 3) x = F(where, F(gt, x, first), F(where, x, a, b), F(sub, b, a));
    else x = F(sin, x);
  }
  output(g, x);
}

/* ---- products with packed weights ---- */

enum { WIDTH = 64 };

static ml_tensor *packed(ml_engine *e, ml_dtype t, int64_t rows, int64_t inputs, bool exact) {
  ml_device *d = e->device;
  size_t row_bytes = 0, bytes = d->table->packed_bytes(d, t, rows, inputs);
  ml_dtype_row_bytes(t, inputs, &row_bytes);
  uint8_t *file = room((size_t)rows, row_bytes);
  int block = ml_dtype_infos[t].bytes;
  for (size_t at = 0; at < (size_t)rows * row_bytes; at += (size_t)block) {
    for (int i = 0; i < block; i++) file[at + (size_t)i] = (uint8_t)random_u64();
    if (!ml_dtype_is_block(t)) put_number(t, file + at, 0, random_in(-0.2, 0.2));
    else put_number(ML_F16, file + at, 0, random_in(0.001, 0.003));
    if (t == ML_Q4_1) put_number(ML_F16, file + at, 1, -0.01);
  }
  ml_buffer *b;
  must(ml_buffer_create(d, bytes, &b), "buffer");
  must(d->table->pack(d, b->address, t, inputs, 0, rows, file), "pack");
  ml_tensor *w;
  must(ml_tensor_wrap(b, 0, t, ML_LAYOUT_PANELS, 2, (int64_t[]){rows, inputs}, &w), "wrap");
  ml_buffer_release(b);
  w->exact = exact;
  return keep(w);
}

static const ml_dtype weight_dtypes[] = {ML_F32, ML_Q8_0, ML_Q4_1, ML_BF16};
static int64_t rows_of_variant(int variant) { return (int64_t[]){1, 2, 4, 5, 40}[variant % 5]; }
static ml_tensor *some_weight(graph *g, int variant) {
  return packed(g->e, weight_dtypes[variant / 5 % 4], WIDTH, WIDTH, variant % 2);
}
static ml_tensor *some_input(graph *g, int variant) {
  double *v = random_values(ML_F32, rows_of_variant(variant) * WIDTH, -1, 1);
  return add_input(
      g, view_tensor(g->e, ML_F32, SHAPE(1, rows_of_variant(variant), WIDTH), v, (view)(variant % REPEATED_FIRST)));
}
#define NORM(x, w) OPERATION(g, ML_OP_rms_norm, INTS({.f = 1e-5}, {.f = variant % 3}), x, w)

/* The layers of a model: norm and three products, gate and up, residual, bias. */
static void composites(graph *g, int variant) {
  ml_tensor *x = some_input(g, variant), *norm = random_tensor(g->e, ML_F32, SHAPE(WIDTH), 0.5, 1.5),
            *bias = random_tensor(g->e, ML_F32, SHAPE(WIDTH), -1, 1);
  ml_tensor *w[8];
  for (int i = 0; i < 8; i++) w[i] = some_weight(g, variant + (i == 3));
  for (int layer = 0; layer < 2; layer++) {
    ml_tensor *h = NORM(x, layer ? NULL : norm), *q = F(add, F(linear, h, w[0]), bias), *k = F(linear, h, w[1]),
              *v = F(mul, F(linear, h, w[2]), scalar(g->e, ML_F32, 0.5));
    ml_tensor *mix = F(add, F(mul, q, k), v);
    x = F(add, x, F(linear, mix, w[3]));
    h = NORM(x, norm);
    ml_tensor *gate = F(linear, h, w[4]), *up = F(linear, h, w[5]);
    ml_tensor *product = variant % 2 ? F(mul, F(silu, gate), up) : F(mul, up, F(gelu_tanh, gate));
    x = F(add, F(linear, product, w[6]), x);
    output(g, k);
  }
  output(g, x);
}

#define PRODUCT(x) F(linear, (x), some_weight(g, variant)) /* with a weight of its own */

/* Shapes of sharing that a step of several products must get right. */
static void crossings(graph *g, int variant) {
  int64_t rows = rows_of_variant(variant);
  ml_tensor *x = some_input(g, variant), *y = some_input(g, variant), *one = scalar(g->e, ML_F32, 1);
  /* two products of different inputs in one sum */
  output(g, F(add, PRODUCT(x), PRODUCT(y)));
  /* a gate that is computed first and used last, with products of the same input in between */
  ml_tensor *gate = PRODUCT(x), *q = PRODUCT(x), *k = NORM(PRODUCT(x), NULL);
  ml_tensor *mix = OPERATION(g, ML_OP_softmax, INTS({.i = -1}), F(mul, q, k));
  output(g, F(mul, F(sigmoid, gate), mix));
  /* q + norm(k), where the norm needs k before q's expression ends */
  ml_tensor *a = PRODUCT(y), *b = NORM(PRODUCT(y), NULL);
  output(g, F(add, a, b));
  /* three products of one input in one expression */
  output(g, F(add, PRODUCT(x), F(mul, PRODUCT(x), PRODUCT(x))));
  output(g, F(add, F(add, PRODUCT(y), PRODUCT(y)), PRODUCT(y)));
  /* a product of the step is read by another product's expression in it */
  ml_tensor *early = PRODUCT(x);
  output(g, F(mul, PRODUCT(x), early));
  output(g, early);
  output(g, F(mul, F(exp, F(neg, F(mul, early, early))), PRODUCT(x)));
  /* operands that are not floats, inside and from outside */
  ml_tensor *mask = add_input(g, random_tensor(g->e, ML_BOOL, SHAPE(1, rows, WIDTH), 0, 1)),
            *whole = add_input(g, random_tensor(g->e, ML_I32, SHAPE(WIDTH), -9, 9));
  ml_tensor *wide = add_input(g, random_tensor(g->e, ML_F64, SHAPE(1, rows, 1), -1, 1)),
            *half = add_input(g, random_tensor(g->e, ML_BF16, SHAPE(rows, WIDTH), -1, 1));
  output(g, F(where, mask, PRODUCT(y), one));
  output(g, F(where, F(gt, PRODUCT(x), one), one, PRODUCT(x)));
  output(g, F(add, PRODUCT(y), OPERATION(g, ML_OP_astype, INTS({.i = ML_F32}), F(mul, whole, whole))));
  output(g, F(mul, PRODUCT(y), OPERATION(g, ML_OP_astype, INTS({.i = ML_F32}), F(sin, wide))));
  output(g, F(add, PRODUCT(y), OPERATION(g, ML_OP_astype, INTS({.i = ML_F32}), half)));
  output(g, OPERATION(g, ML_OP_astype, INTS({.i = ML_F16}), PRODUCT(x)));
  /* a wider sum than the product, a product that is an output and more, one product twice */
  output(g, F(add,
              F(linear, OPERATION(g, ML_OP_slice, list_attrs(SHAPE(0, 1, 1, 0, 1, 1, 0, WIDTH, 1)), x),
                some_weight(g, variant)),
              y));
  ml_tensor *twice = PRODUCT(x);
  output(g, F(mul, twice, twice));
  output(g, F(add, twice, one));
  output(g, twice);
  /* views of products */
  ml_tensor *turned = OPERATION(g, ML_OP_transpose, list_attrs(SHAPE(0, 2, 1)), PRODUCT(y));
  output(g, F(add, turned, turned));
  output(g, turned);
  output(g, F(linear, OPERATION(g, ML_OP_reshape, list_attrs(SHAPE(rows, 1, WIDTH)), PRODUCT(y)),
              some_weight(g, variant)));
}

/* Random graphs of products, norms, views, elementwise work and effects on two states. */
static void random_products(graph *g, int variant) {
  int64_t rows = rows_of_variant(variant);
  ml_tensor *w[4], *states[2], *norm = random_tensor(g->e, ML_F32, SHAPE(WIDTH), 0.5, 1.5);
  for (int i = 0; i < 4; i++) w[i] = packed(g->e, weight_dtypes[(variant / 5 + i / 2) % 4], WIDTH, WIDTH, variant % 2);
  for (int i = 0; i < 3; i++) add_input(g, random_tensor(g->e, ML_F32, SHAPE(rows, WIDTH), -1, 1));
  for (int i = 0; i < 2; i++) {
    states[i] = g->nodes[g->n_nodes++] = random_tensor(g->e, ML_F32, SHAPE(rows, WIDTH), -1, 1);
    must(ml_tensor_make_state(states[i]), "a state");
  }
  bool effects = g->writes = variant % 3 != 0;
  for (int tries = 0; tries < 40; tries++) {
    ml_tensor *x = pick(g), *y = pick(g);
    switch (random_below(effects ? 14 : 12)) {
    case 0:
    case 1:
    case 2: F(linear, x, w[random_below(4)]); break;
    case 3: NORM(x, random_below(2) ? norm : NULL); break;
    case 4: F(add, x, y); break;
    case 5: F(mul, x, y); break;
    case 6: F(tanh, x); break;
    case 7: F(silu, x); break;
    case 8: F(where, F(lt, x, y), x, y); break;
    case 9: OPERATION(g, ML_OP_slice, list_attrs(SHAPE(rows - 1, rows, -1, 0, WIDTH, 1)), x); break;
    case 10: OPERATION(g, ML_OP_softmax, INTS({.i = -1}), x); break;
    case 11: F(sub, F(linear, x, w[random_below(4)]), F(linear, x, w[random_below(4)])); break;
    default: /* a state is written, and read from now on as it is then: the handle of the write is never a node */
      if (x->state) x = F(neg, x);
      x = OPERATION(g, ML_OP_tanh, NO_ATTRS, x); /* keeps numbers small */
      add_op(g, ML_OP_assign, NO_ATTRS, 2, (ml_tensor *[]){states[random_below(2)], x});
      g->n_nodes--;
    }
  }
  for (int i = 0; i < 4; i++) output(g, F(neg, pick(g)));
  for (int i = 0; i < 2; i++) output(g, F(neg, states[i]));
}

/* ---- effects in order ---- */

/* Reads before, between and after writes, the same expression each time, so that it invites sharing. */
static void effects(graph *g, int variant) {
  ml_tensor *s = random_tensor(g->e, ML_F32, SHAPE(4, WIDTH), -1, 1),
            *other = random_tensor(g->e, ML_F32, SHAPE(4, WIDTH), -1, 1),
            *x = add_input(g, random_tensor(g->e, ML_F32, SHAPE(4, WIDTH), -1, 1));
  ml_tensor *w = packed(g->e, ML_F32, WIDTH, WIDTH, true), *w2 = packed(g->e, ML_F32, WIDTH, WIDTH, true),
            *row = OPERATION(g, ML_OP_slice, list_attrs(SHAPE(1, 1, 1, 0, WIDTH, 1)), s);
  must(ml_tensor_make_state(s), "a state");
  must(ml_tensor_make_state(other), "a state");
  g->writes = true;
  row = apply(g->e, ML_OP_slice, list_attrs(SHAPE(1, 1, 1, 0, WIDTH, 1)), s); /* a window on the state */
  for (int i = 0; i < 4; i++) {
    ml_tensor *sum = F(add, s, x), *product = F(linear, s, w), *part = F(neg, row), *normed = NORM(s, NULL);
    if (variant == 1) F(assign, other, F(mul, other, sum));
    if (i < 3) F(assign, variant == 2 ? row : s, variant == 2 ? F(sin, part) : F(cos, F(mul, sum, product)));
    output(g, sum);
    output(g, F(add, product, s)); /* the product is from before the write, s from after */
    output(g, F(add, F(linear, x, w2), s));
    output(g, F(mul, product, F(linear, s, w2)));
    output(g, F(linear, normed, w2));
    output(g, F(exp, F(add, sum, F(add, s, x))));
    output(g, part);
  }
  output(g, F(add, other, s));
}

static void test_cache(graph *g, int variant) {
  int64_t B = 2, T = variant % 2 ? 1 : 3;
  ml_tensor *k = random_tensor(g->e, variant % 3 ? ML_F16 : ML_F32, SHAPE(9, 2, 8, 16), 0, 0),
            *v = random_tensor(g->e, k->dtype, SHAPE(9, 2, 8, 16), 0, 0);
  must(ml_tensor_make_state(k), "a state");
  must(ml_tensor_make_state(v), "a state");
  g->writes = true;
  ml_tensor *pages = tensor(g->e, ML_I32, SHAPE(3, 3), (double[]){4, 0, 7, 1, 8, 3, 5, 2, 6});
  ml_tensor *slots = INDICES(g->e, 2, 0), *x = add_input(g, random_tensor(g->e, ML_F32, SHAPE(B, T, WIDTH), -1, 1));
  ml_tensor *w[4];
  for (int i = 0; i < 4; i++) w[i] = packed(g->e, ML_F32, i == 0 || i == 3 ? WIDTH : 32, WIDTH, true);
  for (int step = 0; step < 3; step++) {
    ml_tensor *start = INDICES(g->e, step * T, step * T + 1), *count = INDICES(g->e, T, T);
    ml_tensor *heads[3];
    for (int i = 0; i < 3; i++) {
      heads[i] = OPERATION(g, ML_OP_transpose, list_attrs(SHAPE(0, 2, 1, 3)),
                           OPERATION(g, ML_OP_reshape, list_attrs(SHAPE(B, T, i ? 2 : 4, 16)), F(linear, x, w[i])));
    }
    ml_tensor *steps = OPERATION(g, ML_OP_reshape, list_attrs(SHAPE(B, 1)), start);
    ml_tensor *positions = F(add, steps, tensor(g->e, ML_I32, SHAPE(T), (double[]){0, 1, 2}));
    ml_tensor *table =
        OPERATION(g, ML_OP_rope_table, INTS({.f = 1}), positions, random_tensor(g->e, ML_F32, SHAPE(8), 0, 1));
    for (int i = 0; i < 2; i++) heads[i] = OPERATION(g, ML_OP_rope, INTS({.i = 0}), heads[i], table);
    ml_tensor *keys = F(cache_append, k, heads[1], pages, slots, start, count, NULL),
              *values = F(cache_append, v, heads[2], pages, slots, start, count, NULL);
    ml_tensor *o = OPERATION(g, ML_OP_attention, INTS({.f = 0.25}, {.i = 1}, {.i = 0}, {.f = 0}), heads[0], keys,
                             values, pages, slots, start, count, NULL, NULL, NULL);
    o = OPERATION(g, ML_OP_reshape, list_attrs(SHAPE(B, T, WIDTH)),
                  OPERATION(g, ML_OP_transpose, list_attrs(SHAPE(0, 2, 1, 3)), o));
    x = F(add, x, F(linear, o, w[3]));
    output(g, x);
  }
  output(g, F(copy, k));
}

/* ---- outputs ---- */

static void strange_outputs(graph *g, int variant) {
  (void)variant;
  ml_tensor *x = add_input(g, random_tensor(g->e, ML_F32, SHAPE(4, 6), -1, 1)),
            *y = add_input(g, random_tensor(g->e, ML_I16, SHAPE(6), -9, 9)),
            *fixed = random_tensor(g->e, ML_F16, SHAPE(2, 3), -1, 1);
  ml_tensor *turned = OPERATION(g, ML_OP_transpose, NO_ATTRS, x), *number = scalar(g->e, ML_F32, 3.5),
            *sum = F(add, x, y), *none = add_input(g, random_tensor(g->e, ML_F32, SHAPE(0, 6), 0, 1));
  output(g, x); /* an input */
  output(g, x);
  output(g, turned); /* a view of one */
  output(g, OPERATION(g, ML_OP_broadcast_to, list_attrs(SHAPE(2, 3)), number));
  if (g->mode == PLANNED) output(g, number);
  else output(g, apply(g->e, ML_OP_copy, NO_ATTRS, number));
  output(g, fixed); /* a tensor that has storage */
  output(g, OPERATION(g, ML_OP_slice, list_attrs(SHAPE(1, 2, -1, 0, 2, 2)), fixed));
  output(g, sum); /* one result under several names */
  output(g, sum);
  output(g, F(add, x, y));
  output(g, OPERATION(g, ML_OP_transpose, NO_ATTRS, sum));
  output(g, OPERATION(g, ML_OP_reshape, list_attrs(SHAPE(3, 8)), OPERATION(g, ML_OP_transpose, NO_ATTRS, sum)));
  output(g, F(copy, OPERATION(g, ML_OP_broadcast_to, list_attrs(SHAPE(3, 4, 6)), sum)));
  output(g, none);
  output(g, F(neg, none));
  output(g, OPERATION(g, ML_OP_sum, list_attrs(1, (int64_t[]){0}), F(neg, F(mul, none, none))));
  output(g, OPERATION(g, ML_OP_rms_norm, INTS({.f = 1}), OPERATION(g, ML_OP_transpose, NO_ATTRS, F(exp, x)), NULL));
}

/* ---- replay ---- */

static void test_replay(ml_engine *e) {
  enum { N = 70 };
  ml_tensor *a, *b, *out[2], *outputs[2];
  must(ml_tensor_input(e, 0, &(ml_tensor){.device = e->device, .dtype = ML_F32, .ndim = 2, .shape = {5, N}}, &a),
       "input");
  must(ml_tensor_input(e, 1, &(ml_tensor){.device = e->device, .dtype = ML_I32, .ndim = 1, .shape = {N}}, &b), "input");
  keep(a), keep(b);
  ml_tensor *count = state(e, ML_F32, SHAPE(1), (double[]){0});
  outputs[0] = apply(e, ML_OP_sum, list_attrs(1, (int64_t[]){1}),
                     apply(e, ML_OP_mul, NO_ATTRS, apply(e, ML_OP_exp, NO_ATTRS, a), b));
  outputs[1] = apply(e, ML_OP_assign, NO_ATTRS, count, apply(e, ML_OP_add, NO_ATTRS, count, scalar(e, ML_F32, 1)));
  ml_plan *p;
  must(ml_plan_create(e, (ml_tensor *[]){a, b}, 2, outputs, 2, &p), "plan");
  uint64_t plans = e->stats.plans;
  for (int run = 0; run < 2 * VIEWS; run++) {
    double *va = random_values(ML_F32, 5 * N, -1, 1), *vb = random_values(ML_I32, N, -5, 5), wanted[5] = {0},
           runs = run + 1;
    ml_tensor *in[2] = {view_tensor(e, ML_F32, SHAPE(5, N), va, (view)(run % VIEWS)),
                        view_tensor(e, ML_I32, SHAPE(N), vb, (view)((run + 4) % VIEWS))};
    must(ml_eval(e, in, 2), "inputs");
    for (int i = 0; i < 5 * N; i++) wanted[i / N] += exp(va[i]) * vb[i % N];
    must(ml_plan_run(p, in, out), "run");
    keep(out[0]), keep(out[1]);
    expect_values(out[0], SHAPE(5), wanted, 1e-5, 1e-3, "run %d", run);
    expect_values(out[1], SHAPE(1), &runs, 0, 0, "a state that counts, run %d", run);
    expect_values(count, SHAPE(1), &runs, 0, 0, "the state itself, run %d", run);
  }
  (void)plans;
  ml_tensor *wrong[2] = {random_tensor(e, ML_F32, SHAPE(5, N + 1), 0, 1), random_tensor(e, ML_I32, SHAPE(N), 0, 1)};
  expect(ml_plan_run(p, wrong, out) == ML_MISMATCH, "an input of another shape is refused");
  wrong[0] = random_tensor(e, ML_F16, SHAPE(5, N), 0, 1);
  expect(ml_plan_run(p, wrong, out) == ML_MISMATCH, "an input of another dtype is refused");
  char *text = NULL;
  expect(ml_plan_explain(p, &text) == ML_OK && strstr(text, "1 assigned") && strstr(text, "elementwise"),
         "explain names the steps");
  ml_free(text);
  ml_plan_release(p);
  /* A placeholder has no value outside its plan. */
  ml_tensor *loose = apply(e, ML_OP_neg, NO_ATTRS, a);
  expect(ml_eval(e, &loose, 1) == ML_USAGE, "a placeholder is not evaluated");
  drop_all();
}

/* Equal nodes are one, save where one is a recomputation of the other. */
static void test_regions(ml_engine *e) {
  ml_tensor *x = tensor(e, ML_F32, SHAPE(3), (double[]){0, 1, 2}), *r[4];
  double wanted[3] = {1, 1, 1};
  for (int i = 0; i < 4; i++) {
    e->region = i < 2 ? 0 : 1;
    r[i] = apply(e, ML_OP_cos, NO_ATTRS, x);
  }
  e->region = 0;
  uint64_t merged = e->stats.rewrites.merged;
  ml_tensor *first = apply(e, ML_OP_div, NO_ATTRS, r[0], r[1]), *second = apply(e, ML_OP_div, NO_ATTRS, r[2], r[3]);
  ml_tensor *both = apply(e, ML_OP_mul, NO_ATTRS, first, second);
  expect_values(both, SHAPE(3), wanted, 0, 0, "a recomputation");
  expect(e->stats.rewrites.merged - merged == 2, "%d merged", (int)(e->stats.rewrites.merged - merged));
  drop_all();
}

/* An effect that nobody reads runs with the next evaluation, once. */
static void test_pending(ml_engine *e) {
  ml_tensor *s = state(e, ML_F32, SHAPE(3), (double[]){1, 2, 3}), *x = random_tensor(e, ML_F32, SHAPE(3), 0, 1);
  ml_tensor *twice = apply(e, ML_OP_mul, NO_ATTRS, s, scalar(e, ML_F32, 2)),
            *r = apply(e, ML_OP_assign, NO_ATTRS, s, twice), *unrelated = apply(e, ML_OP_neg, NO_ATTRS, x);
  must(ml_eval(e, &unrelated, 1), "eval");
  expect_values(s, SHAPE(3), (double[]){2, 4, 6}, 0, 0, "run with something else");
  must(ml_eval(e, &r, 1), "eval");
  expect_values(s, SHAPE(3), (double[]){2, 4, 6}, 0, 0, "and not again with its own result");
  expect_values(twice, SHAPE(3), (double[]){2, 4, 6}, 0, 0,
                "a value that nobody asked for before is of the version that it was given");
  apply(e, ML_OP_assign, NO_ATTRS, s, x);
  ml_effects_drop(e, 0);
  expect_values(s, SHAPE(3), (double[]){2, 4, 6}, 0, 0, "dropped effects never run");
  drop_all();
}

/* ---- places ---- */

enum { PLACED = 1200 };

static bool is_output[PLACED]; /* of a storage: it is an output, which lives to the end */
static int output_values[PLACED];

/* A plan of `n` storages that live from a random step on, `life` steps at most, and some of them to the end; of steps
 * that have no more than those as operands. */
static void random_lives(ml_plan *p, int n, int life, int64_t most_bytes) {
  p->outputs = output_values;
  for (int i = 0; i < n; i++) {
    int64_t bytes = random_below(4) ? 1 + random_below(most_bytes) : 64 * random_below(8);
    ml_value v = {.dtype = ML_U8, .ndim = 1, .shape = {bytes}, .strides = {1}};
    ml_storage s = {.place = ML_PLACE_ARENA, .bytes = (size_t)bytes};
    if ((is_output[i] = random_below(8) == 0)) s.place = ML_PLACE_OUTPUT, s.index = p->n_outputs;
    must(ml_plan_add_storage(p, s, &v.storage), "storage");
    int value, last[2] = {0, i};
    must(ml_plan_add_value(p, &v, &value), "value");
    if (is_output[i]) output_values[p->n_outputs++] = value;
    ml_step *step;
    if (i > 0) last[0] = i - 1 - (int)random_below(i < life ? i : life);
    must(ml_plan_add_step(p, ML_OP_matmul, last, i > 0, &value, 1, &step), "step");
  }
}

/* Bytes of the arena that live at once, at the most: what is in an output, or in another's place, takes none. */
static size_t live_at_most(const ml_plan *p) {
  size_t most = 0;
  for (size_t step = 0; step < p->n_steps; step++) {
    size_t live = 0;
    for (size_t i = 0; i < p->n_storages; i++) {
      const ml_storage *s = &p->storages[i];
      if (s->place == ML_PLACE_ARENA && s->base < 0 && s->first <= (int)step && (int)step <= s->last) live += s->bytes;
    }
    if (live > most) most = live;
  }
  return most;
}

static size_t lodged; /* storages in outputs that are not written yet, of all plans */

static void expect_apart(const ml_plan *p, const char *what) {
  bool apart = true;
  for (size_t i = 0; i < p->n_storages; i++) {
    const ml_storage *a = &p->storages[i];
    const int last = is_output[i] ? (int)p->n_steps : a->last;
    if (a->place == ML_PLACE_ARENA) apart = apart && a->offset % 64 == 0 && a->offset + a->bytes <= p->arena_bytes;
    lodged += a->place == ML_PLACE_OUTPUT && !is_output[i];
    for (size_t k = 0; k < p->n_storages; k++) {
      const ml_storage *b = &p->storages[k];
      if (k == i || a->place != b->place || a->index != b->index) continue;
      if (is_output[k]) apart = apart && a->bytes <= b->bytes;
      bool at_once = a->first <= (is_output[k] ? (int)p->n_steps : b->last) && b->first <= last;
      apart = apart && (!at_once || a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset);
    }
  }
  CHECK(apart, "%s: what lives at once lies apart, within the arena", what);
  const size_t live = live_at_most(p);
  CHECK((double)p->arena_bytes < 1.2 * (double)live + 4 * 64, "%s: an arena of %zu bytes for %zu that live at once",
        what, p->arena_bytes, live);
  size_t outputs, most;
  must(ml_plan_count_live(p, &outputs, &most), "count");
  CHECK(most >= live && most <= p->arena_bytes + outputs, "%s: %zu live at once with outputs", what, most);
}

/* Lives short and long, of few and many, in arenas that a map has a bit for each line of, or for more. */
static void test_places(ml_engine *e) {
  static const int counts[] = {3, 40, 300, PLACED}, lives[] = {3, 40, 100000};
  static const int64_t sizes[] = {200, 20000, 3000000};
  random_state = 11; /* whatever ran before: what placing finds is bounded for these, not for all */
  for (int i = 0; i < 36; i++) {
    for (int once = 0; once < 2; once++) {
      ml_plan *p = ml_calloc(1, sizeof *p);
      if (!p) must(ML_MEMORY, "a plan");
      *p = (ml_plan){.engine = e, .device = e->device, .once = once};
      random_lives(p, counts[i % 4], lives[i / 4 % 3], sizes[i / 12]);
      must(ml_plan_place(p), "place");
      char what[64];
      snprintf(what, sizeof what, "%d lives of up to %d steps%s", counts[i % 4], lives[i / 4 % 3],
               once ? ", once" : "");
      expect_apart(p, what);
      ml_arena_leave(p);
      ml_bump_free(&p->memory);
      ml_free(p);
    }
  }
  CHECK(lodged > 100, "%zu storages lie in outputs for a time", lodged);
}

/* ---- the list ---- */

typedef struct graph_test {
  const char *name;
  builder build;
  int variants;
} graph_test;
static const graph_test tests[] = {
    {"random elementwise graphs", random_elementwise, 150},
    {"long chains", long_chains, 5},
    {"composites", composites, 20},
    {"crossings", crossings, 20},
    {"random graphs of products and effects", random_products, 200},
    {"effects in order", effects, 3},
    {"attention with a cache", test_cache, 6},
    {"strange outputs", strange_outputs, 1},
};

int main(int argc, char **argv) {
  const int step = check_sanitized() ? 7 : 1; /* of variants; shares no factor with what they are taken modulo */
  for (int i = 0; i < ISAS; i++) {
    ml_engine *e = open_engine(isas[i], 2);
    if (!e) {
      check_skip(isas[i], "this processor lacks it");
      continue;
    }
    random_state = argc > 1 ? (uint64_t)atoll(argv[1]) : 11; /* test_plan SEED: other graphs */
    for (size_t t = 0; t < sizeof tests / sizeof *tests; t++) {
      for (int v = 0; v < tests[t].variants; v += step) compare(e, tests[t].build, v, tests[t].name);
      report("%s: %s", isas[i], tests[t].name);
    }
    test_replay(e);
    report("%s: replay", isas[i]);
    test_pending(e);
    report("%s: pending effects", isas[i]);
    test_regions(e);
    report("%s: regions", isas[i]);
    if (i == 0) test_places(e);
    close_engine(e, isas[i]);
  }
  return check_done();
}
