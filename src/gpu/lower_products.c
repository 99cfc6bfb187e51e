/* lower_products.c: products and look-ups in weights as launches. */
#include "gpu/program.h"
#include "tensor/quant/quant.h"

#include <stdio.h>
#include <string.h>

/* ---- products with packed weights ---- */

/* Whether an instruction takes these two registers, in either order. */
static bool takes(const cu_code *c, int op, int a, int b) {
  return c->op == op && ((c->a == a && c->b == b) || (c->a == b && c->b == a));
}

/* The form of a program, in one narrow float dtype or float32 alone. */
static void find_form(const cu_program *p, const ml_linear_unit *u, cu_unit *o) {
  const cu_code *c = p->code;
  o->form = CU_FORM_PROGRAM, o->dtype = c->dtype;
  bool floats = p->n_outputs == 1 && p->outputs[0] == p->n_inputs + p->n_code - 1 && o->dtype <= ML_BF16;
  for (int i = 0; i < p->n_inputs; i++) floats = floats && p->input_dtypes[i] == o->dtype;
  for (int i = 0; i < p->n_code; i++) floats = floats && c[i].dtype == o->dtype;
  if (!floats) return;
  if (u->n_weights == 1 && p->n_inputs == 2 && p->n_code == 1 && takes(c, ML_OP_add, 0, 1)) o->form = CU_FORM_ADD;
  if (u->n_weights != 2 || p->n_inputs != 2 || p->n_code != 2 || !takes(&c[1], ML_OP_mul, 1, 2) || c[0].a != 0) return;
  switch (c[0].op) {
  case ML_OP_silu:
  case ML_OP_gelu:
  case ML_OP_gelu_tanh:
  case ML_OP_relu:
  case ML_OP_sigmoid: o->form = CU_FORM_GATE, o->act = c[0].op; return;
  default: return;
  }
}

static ml_status lower_unit(ml_program *g, const ml_step *s, const ml_linear_unit *u, cu_unit *o) {
  cu_program program;
  o->n_weights = u->n_weights, o->n_extra = u->n_extra, o->n_out = u->n_outputs;
  o->outputs = ml_cuda_value(g, s->inputs[u->weights[0]])->shape[0];
  for (int i = 0; i < u->n_weights; i++) {
    o->dtypes[i] = (int32_t)ml_cuda_value(g, s->inputs[u->weights[i]])->dtype;
    ML_TRY(ml_cuda_put_address(g, s->inputs[u->weights[i]], &o->weights[i]));
  }
  for (int i = 0; i < u->n_extra; i++) ML_TRY(ml_cuda_operand(g, s->inputs[u->extra[i]], &o->extra[i]));
  for (int i = 0; i < u->n_outputs; i++) ML_TRY(ml_cuda_operand(g, s->outputs[u->first_output + i], &o->out[i]));
  o->form = CU_FORM_NONE;
  if (!u->epilogue) return ML_OK;
  ml_cuda_program_of(u->epilogue, &program);
  find_form(&program, u, o);
  return ml_cuda_put_constant(g, &program, sizeof program, &o->program);
}

/* The rows, normalised, in scratch. */
static ml_status lower_inner_norm(ml_program *g, const ml_step *s, size_t bytes) {
  const ml_linears *l = s->linears;
  const ml_value *v = ml_cuda_value(g, s->inputs[0]);
  cu_norm_args *a =
      ml_cuda_launch_add(g, "norm", "cuda_norm", sizeof *a, v->shape[0], 1, ml_cuda_row_threads(v->shape[1]));
  if (!a) return ML_MEMORY;
  a->op = (cu_row_op){.op = ML_OP_rms_norm, .dtype = (int32_t)v->dtype, .result = (int32_t)v->dtype};
  a->op.eps = (float)l->eps, a->op.offset = (float)l->norm_offset;
  a->n = v->shape[1], a->rows = v->shape[0];
  ML_TRY(ml_cuda_array(g, s->inputs[0], &a->x));
  ML_TRY(ml_cuda_vector(g, s->inputs[1], &a->weight));
  a->out = a->x;
  a->out.strides[0] = v->shape[1];
  return ml_cuda_put_scratch(g, bytes, &a->out.data);
}

/* Bytes of a piece of a row, and its inputs, as gpu/product.cuh has them. */
typedef struct linears_form {
  const char *file;
  int inputs, bytes;
} linears_form;
static linears_form form_of(ml_dtype dtype) {
  static const linears_form affine[] = {
      [2] = {"linears_affine", 32, 16}, [3] = {"linears_affine", 32, 20}, [4] = {"linears_affine", 32, 24},
      [5] = {"linears_affine", 32, 28}, [6] = {"linears_affine", 32, 32}, [8] = {"linears_affine", 16, 24}};
  if (dtype >= ML_AFFINE_FIRST) return affine[ml_quant_of(dtype)->bits];
  switch (dtype) {
  case ML_F32: return (linears_form){"linears", 4, 16};
  case ML_F16:
  case ML_BF16: return (linears_form){"linears", 8, 16};
  case ML_Q4_0:
  case ML_Q4_1: return (linears_form){"linears_blocks", 32, 20};
  case ML_Q5_0:
  case ML_Q5_1: return (linears_form){"linears_blocks", 32, 24};
  case ML_Q8_0: return (linears_form){"linears_blocks", 16, 20};
  case ML_Q4_K: return (linears_form){"linears_k", 32, 32};
  case ML_Q5_K: return (linears_form){"linears_k", 32, 48};
  default: return (linears_form){"linears_k", 32, 44};
  }
}

/* What kernels of packed weights are called by; `room`: of 16 bytes at least. */
static const char *kernels_of(ml_dtype dtype, char *room) {
  if (dtype < ML_AFFINE_FIRST) return ml_dtype_name(dtype);
  snprintf(room, 16, "affine%d", ml_quant_of(dtype)->bits);
  return room;
}

enum { PRODUCT_WARPS = 8 };               /* as gpu/product.cuh has them */
enum { LINEARS_ROWS = 8, FEW_ROWS = 64 }; /* that gpu/linears.cuh takes at the most, and gpu/few.cuh */

/* Bytes of the rings of a block, as gpu/linears.cuh has them. */
static size_t ring_bytes(linears_form f, int streams) {
  enum { DEPTH = 4 };
  const int most = f.bytes > 24 ? 2 : 4, rounds = most > streams ? most / streams : 1;
  return (size_t)(f.bytes * 32 * streams * rounds * DEPTH * PRODUCT_WARPS);
}

/* Bundles of all units, each of which learns where its own begin. */
static int64_t lay_bundles(cu_unit *units, int n, int streams) {
  int64_t count = 0;
  for (int u = 0; u < n; u++) {
    const int64_t outputs = streams / units[u].n_weights;
    units[u].first_bundle = (int32_t)(count < INT32_MAX ? count : INT32_MAX);
    count += (units[u].outputs + outputs - 1) / outputs;
  }
  return count;
}

/* A launch of products, with arguments like `a`. */
static ml_status add_products(ml_program *g, const char *file, const char *kernel, int64_t grid_x, int64_t grid_y,
                              size_t shared_bytes, const cu_linears_args *a, cu_linears_args **out) {
  *out = ml_cuda_launch_add(g, file, kernel, sizeof **out, grid_x, grid_y, CU_THREADS);
  if (!*out) return ML_MEMORY;
  **out = *a;
  ml_cuda_launch_shared(g, shared_bytes);
  return ML_OK;
}

/* Products by units of one dtype, in one launch: `a` has what they multiply. */
static ml_status launch_units(ml_program *g, cu_unit *units, int n, const cu_linears_args *a, cu_linears_args **out) {
  const linears_form f = form_of((ml_dtype)units[0].dtypes[0]);
  const int64_t whole = (int64_t)f.inputs * 32, row_bytes = (a->K + whole - 1) / whole * whole * 4;
  const bool affine = units[0].dtypes[0] >= ML_AFFINE_FIRST;
  int64_t rows = a->M > 4 ? 8 : a->M > 1 || row_bytes > CU_MOST_SHARED / 2 ? 4 : 1;
  if (affine && rows == 4) rows = 8;
  int64_t held, most = 0;
  int streams = rows > 1 ? 4 : 1;
  char kernel[64];
  for (int u = 0; u < n && rows == 1; u++) most += units[u].outputs;
  /* Rows of weights that a warp takes at a time spare what is read of x and what ends a sum, where there are enough. */
  enum { ENOUGH = 8 };
  const int64_t each = most / ((int64_t)ml_cuda_multiprocessors(g) * PRODUCT_WARPS);
  for (int u = 0; u < n && rows == 1; u++) streams = affine || units[u].n_weights > 1 || each > ENOUGH ? 2 : streams;
  const size_t shared = (size_t)(rows == 1 ? row_bytes : 0) + ring_bytes(f, streams);
  snprintf(kernel, sizeof kernel, "cuda_linears_%s_%s", kernels_of((ml_dtype)units[0].dtypes[0], (char[16]){0}),
           rows == 8     ? "8"
           : rows == 4   ? "4"
           : streams > 1 ? "1_2"
                         : "1_1");
  ML_TRY(ml_cuda_blocks_at_once(g, f.file, kernel, CU_THREADS, shared, &held));
  const int64_t bundles = lay_bundles(units, n, streams), wanted = (bundles + PRODUCT_WARPS - 1) / PRODUCT_WARPS;
  if (bundles >= INT32_MAX / 2) return ml_fail(ML_LIMIT, "products of %lld rows of weights", (long long)bundles);
  ML_TRY(add_products(g, f.file, kernel, wanted < held ? wanted : held, (a->M + rows - 1) / rows, shared, a, out));
  (*out)->bundles = (int32_t)bundles, (*out)->row_bytes = rows == 1 ? (int32_t)row_bytes : 0;
  return ML_OK;
}

/* Whether many rows are multiplied by gpu/many.cuh: pieces of rows of weights lie at 16 bytes. */
static bool goes_by_many(const cu_linears_args *a, ml_dtype dtype) {
  const linears_form f = form_of(dtype);
  return a->M > LINEARS_ROWS && a->K > 0 && a->K % f.inputs == 0;
}

static ml_status launch_many(ml_program *g, cu_unit *units, int n, const cu_linears_args *a, cu_linears_args **out) {
  enum { STREAMS = 8, BUNDLES = 4, ROWS = 32, DEPTH = 3, WARP = 32 }; /* as gpu/many.cuh has them */
  const ml_dtype dtype = (ml_dtype)units[0].dtypes[0];
  const linears_form f = form_of(dtype);
  const int64_t bundles = lay_bundles(units, n, STREAMS);
  const size_t shared = (size_t)(DEPTH * BUNDLES * STREAMS * WARP * f.bytes + 2 * ROWS * WARP * 16);
  char file[32], kernel[64];
  int64_t held;
  snprintf(file, sizeof file, "many%s", f.file + strlen("linears"));
  snprintf(kernel, sizeof kernel, "cuda_many_%s", kernels_of(dtype, (char[16]){0}));
  ML_TRY(ml_cuda_blocks_at_once(g, file, kernel, CU_THREADS, shared, &held));
  ML_TRY(add_products(g, file, kernel, (a->M + ROWS - 1) / ROWS, (bundles + BUNDLES - 1) / BUNDLES, shared, a, out));
  (*out)->bundles = (int32_t)bundles;
  return ML_OK;
}

/* Whether tensor cores may multiply: weights need not be multiplied exactly. `same`: they have x's dtype. Where x lies
 * is no reason, so that it does not tell which bits come out. */
static bool goes_by_matrices(const ml_program *g, const ml_step *s, int first, int n, bool same) {
  const ml_value *x = ml_cuda_value(g, s->inputs[0]);
  enum { INPUTS = 64 };
  if (x->shape[1] == 0 || x->shape[1] % INPUTS || (x->dtype != ML_BF16 && x->dtype != ML_F16)) return false;
  for (int u = first; u < first + n; u++) {
    const ml_linear_unit *unit = &s->linears->units[u];
    for (int i = 0; i < unit->n_weights; i++) {
      const ml_value *w = ml_cuda_value(g, s->inputs[unit->weights[i]]);
      if (w->exact || (w->dtype != x->dtype && (same || x->dtype != ML_BF16 || w->dtype <= ML_BF16))) return false;
    }
  }
  return true;
}

static bool goes_by_few(const ml_program *g, const ml_step *s, int first, int n) {
  return ml_cuda_value(g, s->inputs[0])->shape[0] <= FEW_ROWS && goes_by_matrices(g, s, first, n, true);
}
static bool goes_by_tiles(const ml_program *g, const ml_step *s, int first, int n) {
  return ml_cuda_value(g, s->inputs[0])->shape[0] > LINEARS_ROWS && goes_by_matrices(g, s, first, n, false);
}

/* Whether rows of x lie at 16 bytes, as those kernels read them. */
static bool lies_in_lines(const ml_program *g, const ml_value *x) {
  const ml_storage *place = &g->plan->storages[x->storage];
  return place->place != ML_PLACE_INPUT && (x->offset + (int64_t)place->offset) % 16 == 0 && x->strides[0] % 8 == 0 &&
         x->strides[1] == 1;
}

/* How many warps of a block share a bundle's inputs, so that all multiprocessors are busy for as short as may be. */
static int split_of(const ml_program *g, int64_t bundles, int64_t steps) {
  enum { BLOCKS = 2 }; /* of a multiprocessor */
  int best = 1;
  int64_t least = INT64_MAX;
  for (int split = 1; split <= PRODUCT_WARPS && split <= steps; split *= 2) {
    const int64_t abreast = (int64_t)ml_cuda_multiprocessors(g) * BLOCKS * (PRODUCT_WARPS / split);
    const int64_t cost = (bundles + abreast - 1) / abreast * ((steps + split - 1) / split);
    if (cost < least) least = cost, best = split;
  }
  return best;
}

static ml_status launch_few(ml_program *g, cu_unit *units, int n, const cu_linears_args *a, cu_linears_args **out) {
  enum { OUTPUTS = 16, STEP = 64, RING = 5 * 2048, TILE_SUMS = 16 * 8 * 4, TURNS = 2 }; /* as gpu/few.cuh has them */
  const int rows = a->M <= 8 ? 8 : a->M <= 16 ? 16 : a->M <= 32 ? 32 : 64;
  const int64_t bundles = lay_bundles(units, n, OUTPUTS), row_bytes = a->M == 1 ? (a->K * 2 + 127) / 128 * 128 : 0;
  const int split = split_of(g, bundles, a->K / STEP);
  const int64_t wanted = (bundles * split + PRODUCT_WARPS - 1) / PRODUCT_WARPS;
  const size_t shared = (size_t)row_bytes + (size_t)PRODUCT_WARPS * RING +
                        (split > 1 ? (size_t)(TURNS * PRODUCT_WARPS * (rows / 8) * TILE_SUMS) : 0);
  char kernel[64];
  int64_t held;
  snprintf(kernel, sizeof kernel, "cuda_few_%s_%d", ml_dtype_name((ml_dtype)a->x_dtype), rows);
  ML_TRY(ml_cuda_blocks_at_once(g, "few", kernel, CU_THREADS, shared, &held));
  ML_TRY(add_products(g, "few", kernel, wanted < held ? wanted : held, 1, shared, a, out));
  (*out)->bundles = (int32_t)bundles, (*out)->row_bytes = (int32_t)row_bytes, (*out)->split = split;
  return ML_OK;
}

/* How many columns the tiles of gpu/wide.cu have; 0: other kernels are better. A tile of 128 columns takes a little
 * more than half of the time of one of 256, and all multiprocessors take one at a time. */
static int wide_columns(const ml_program *g, cu_unit *units, int n, const cu_linears_args *a) {
  enum { ROWS = 128, HALF_COST = 9, COST = 16 };
  const int64_t down = (a->M + ROWS - 1) / ROWS, held = ml_cuda_multiprocessors(g);
  if (a->M < ROWS || units[0].dtypes[0] != a->x_dtype || !ml_cuda_of(g->device)->multiplies_in_groups) return 0;
  const int64_t half = lay_bundles(units, n, 128) * down, whole = lay_bundles(units, n, 256) * down;
  const int64_t half_cost = (half + held - 1) / held * HALF_COST, cost = (whole + held - 1) / held * COST;
  if (half * 4 < held * 3) return 0;
  return half_cost < cost ? 128 : 256;
}

static ml_status launch_wide(ml_program *g, int columns, cu_unit *units, int n, const cu_linears_args *a,
                             cu_linears_args **out) {
  enum { ROWS = 128, INPUTS = 64, STAGES = 4, LINE = 1024 }; /* as gpu/wide.cu has them */
  const size_t shared = (size_t)STAGES * (size_t)(ROWS + columns) * INPUTS * 2 + LINE;
  char kernel[64];
  int64_t held, across = lay_bundles(units, n, columns);
  snprintf(kernel, sizeof kernel, "cuda_wide_%s_%d", ml_dtype_name((ml_dtype)a->x_dtype), columns);
  ML_TRY(ml_cuda_blocks_at_once(g, "wide", kernel, CU_THREADS, shared, &held));
  return add_products(g, "wide", kernel, (a->M + ROWS - 1) / ROWS, across, shared, a, out);
}

/* In one launch: blocks of 128 rows, and of as many outputs as leave no multiprocessor idle. */
static ml_status launch_tiles(ml_program *g, cu_unit *units, int n, const cu_linears_args *a, cu_linears_args **out) {
  enum { ROWS = 128, WIDE = 128, NARROW = 64, INPUTS = 64, STAGES = 3 }; /* as gpu/tiles.cuh has them */
  const ml_dtype dtype = (ml_dtype)units[0].dtypes[0], x = (ml_dtype)a->x_dtype;
  const int64_t down = (a->M + ROWS - 1) / ROWS;
  const int wide = wide_columns(g, units, n, a);
  if (wide) return launch_wide(g, wide, units, n, a, out);
  int columns = dtype == x ? WIDE : NARROW;
  char kernel[64];
  int64_t held, across = lay_bundles(units, n, columns);
  if (columns == WIDE && across * down < 2 * (int64_t)ml_cuda_multiprocessors(g))
    columns = NARROW, across = lay_bundles(units, n, columns);
  const size_t shared = (size_t)STAGES * (size_t)(ROWS + columns) * INPUTS * 2;
  snprintf(kernel, sizeof kernel, "cuda_tiles_%s_%s_%d", kernels_of(dtype, (char[16]){0}), ml_dtype_name(x), columns);
  const char *file = dtype == x ? "tiles" : dtype >= ML_AFFINE_FIRST ? "tiles_affine" : "tiles_blocks";
  ML_TRY(ml_cuda_blocks_at_once(g, file, kernel, CU_THREADS, shared, &held));
  return add_products(g, file, kernel, down, across, shared, a, out);
}

/* `aside`: x lies in scratch, normalised where that is asked for. */
static ml_status lower_units(ml_program *g, const ml_step *s, int first, int n, bool aside, size_t scratch) {
  const ml_linears *l = s->linears;
  const ml_value *x = ml_cuda_value(g, s->inputs[0]);
  const ml_linear_unit *u = &l->units[first];
  cu_linears_args *a = NULL, own = {.M = x->shape[0], .K = x->shape[1], .n_units = n, .x_dtype = (int32_t)x->dtype};
  cu_unit units[CU_MOST_UNITS] = {0};
  bool mixed = false;
  own.x_stride = aside ? own.K : x->strides[0];
  for (int i = 0; i < n; i++) {
    const ml_value *w = ml_cuda_value(g, s->inputs[u[i].weights[0]]);
    units[i].n_weights = u[i].n_weights, units[i].outputs = w->shape[0], units[i].dtypes[0] = (int32_t)w->dtype;
    mixed |= u[i].n_weights > 1 && ml_cuda_value(g, s->inputs[u[i].weights[1]])->dtype != w->dtype;
  }
  enum { MOST_ROWS = 65535 * LINEARS_ROWS };
  if (own.M > MOST_ROWS)
    return ml_fail(ML_LIMIT, "products of %lld rows: expected %d at most", (long long)own.M, MOST_ROWS);
  if (mixed) {
    a = ml_cuda_launch_elements(g, "linears", "cuda_linears_mixed", sizeof *a, own.M * units[0].outputs * 32);
    if (!a) return ML_MEMORY;
    *a = own;
  } else if (goes_by_few(g, s, first, n)) ML_TRY(launch_few(g, units, n, &own, &a));
  else if (goes_by_tiles(g, s, first, n)) ML_TRY(launch_tiles(g, units, n, &own, &a));
  else if (goes_by_many(&own, (ml_dtype)units[0].dtypes[0])) ML_TRY(launch_many(g, units, n, &own, &a));
  else ML_TRY(launch_units(g, units, n, &own, &a));
  ML_TRY(aside ? ml_cuda_put_scratch(g, scratch, &a->x) : ml_cuda_put_address(g, s->inputs[0], &a->x));
  if (l->norm && !aside) {
    a->norm = 1, a->eps = (float)l->eps, a->offset = (float)l->norm_offset;
    ML_TRY(ml_cuda_vector(g, s->inputs[1], &a->weight));
    a->early_norm = s->inputs[1] >= 0 && ml_cuda_is_constant(g, s->inputs[1]);
  }
  for (int i = 0; i < n; i++) {
    a->units[i].first_bundle = units[i].first_bundle;
    ML_TRY(lower_unit(g, s, &u[i], &a->units[i]));
  }
  return ML_OK;
}

ml_status ml_cuda_lower_linears(ml_program *g, const ml_step *s) {
  const ml_linears *l = s->linears;
  const ml_value *x = ml_cuda_value(g, s->inputs[0]);
  const size_t bytes = (size_t)(x->shape[0] * x->shape[1]) * sizeof(float);
  ml_dtype dtypes[CU_MOST_UNITS];
  bool mixed[CU_MOST_UNITS], any_mixed = false;
  for (int u = 0; u < l->n_units; u++) {
    const ml_linear_unit *unit = &l->units[u];
    dtypes[u] = ml_cuda_value(g, s->inputs[unit->weights[0]])->dtype;
    mixed[u] = unit->n_weights > 1 && ml_cuda_value(g, s->inputs[unit->weights[1]])->dtype != dtypes[u];
    any_mixed |= mixed[u];
  }
  int counts[CU_MOST_UNITS];
  bool by_matrices = false;
  for (int u = 0, n; u < l->n_units; u += n) {
    for (n = 1; u + n < l->n_units && !mixed[u] && !mixed[u + n] && dtypes[u + n] == dtypes[u]; n++) {}
    counts[u] = n;
    by_matrices |= !mixed[u] && (goes_by_few(g, s, u, n) || goes_by_tiles(g, s, u, n));
  }
  /* One row is normalised by who multiplies it. */
  enum { MOST_INSIDE = 16384 };
  const bool moved = by_matrices && !lies_in_lines(g, x),
             normed = l->norm && (moved || x->shape[0] > 1 || any_mixed || x->shape[1] > MOST_INSIDE);
  if (normed) ML_TRY(lower_inner_norm(g, s, bytes));
  else if (moved) ML_TRY(ml_cuda_move_aside(g, s->inputs[0], bytes));
  for (int u = 0; u < l->n_units; u += counts[u]) ML_TRY(lower_units(g, s, u, counts[u], normed || moved, bytes));
  return ML_OK;
}

/* ---- products of strided operands ---- */

/* The stride of an axis of the batch, counted from its last one: 0 where the operand has no such axis, or one of 1. */
static int64_t batch_stride(const ml_value *v, int from_last) {
  const int axis = v->ndim - 3 - from_last;
  return axis < 0 || v->shape[axis] == 1 ? 0 : v->strides[axis];
}

/* Where the last axis of the batch goes on as a's rows do and b has no such axis, it is more rows. */
static void merge_rows(const ml_step *s, const ml_value *a, const ml_value *b, const ml_value *o, cu_matmul_args *m) {
  for (int merged = 0; m->axes > 0; m->axes--, merged++) {
    const int64_t size = o->shape[m->axes - 1], stride = batch_stride(a, merged);
    if (s->op == ML_OP_matmul && batch_stride(b, merged) != 0) return;
    if (size != 1 && m->M != 1 && stride != m->a_m * m->M) return;
    if (size != 1 && m->M == 1) m->a_m = stride;
    m->M *= size;
  }
}

ml_status ml_cuda_lower_matmul(ml_program *g, const ml_step *s) {
  const ml_value *a = ml_cuda_value(g, s->inputs[0]), *b = ml_cuda_value(g, s->inputs[1]),
                 *o = ml_cuda_value(g, s->outputs[0]);
  const bool packed = b->layout == ML_LAYOUT_PANELS;
  const int n = a->ndim;
  cu_matmul_args m = {.M = n > 1 ? a->shape[n - 2] : 1, .N = o->shape[o->ndim - 1], .K = a->shape[n - 1]};
  m.a_m = n > 1 ? a->strides[n - 2] : 0, m.a_k = a->strides[n - 1];
  if (s->op == ML_OP_matmul) m.b_k = b->strides[b->ndim - 2], m.b_n = b->strides[b->ndim - 1];
  else if (s->op == ML_OP_linear) m.b_k = b->strides[1], m.b_n = b->strides[0];
  else m.b_k = b->strides[0], m.b_n = b->strides[1];
  m.a_dtype = (int32_t)a->dtype, m.b_dtype = (int32_t)b->dtype, m.packed = packed;
  m.out_dtype = (int32_t)(s->fused ? s->fused->input_dtypes[0] : o->dtype);
  m.axes = o->ndim > 2 ? o->ndim - 2 : 0;
  merge_rows(s, a, b, o, &m);
  m.batch = ml_shape_size(m.axes, o->shape);
  memcpy(m.shape, o->shape, sizeof m.shape);
  for (int d = 0; d < m.axes; d++) {
    m.a_batch[d] = batch_stride(a, o->ndim - 3 - d);
    m.b_batch[d] = s->op == ML_OP_matmul ? batch_stride(b, o->ndim - 3 - d) : 0;
  }
  cu_matmul_args *own;
  if (packed) { /* a thread finds its row by the axes of y before the last */
    m.M *= m.batch, m.batch = 1, m.axes = n - 1;
    for (int d = 0; d < m.axes; d++) m.shape[d] = a->shape[d], m.a_batch[d] = a->strides[d];
    own = ml_cuda_launch_elements(g, "matmul", "cuda_linear_transposed", sizeof *own, m.M * ((m.N + 7) / 8));
  } else {
    enum { TILE = 64 }; /* as gpu/matmul.cu has it */
    const int64_t blocks = m.batch * ((m.M + TILE - 1) / TILE) * ((m.N + TILE - 1) / TILE);
    own = ml_cuda_launch_add(g, "matmul", m.out_dtype == ML_F64 ? "cuda_matmul_f64" : "cuda_matmul", sizeof *own,
                             blocks < INT32_MAX ? blocks : INT32_MAX, 1, CU_THREADS);
  }
  if (!own) return ML_MEMORY;
  *own = m;
  ML_TRY(ml_cuda_put_address(g, s->inputs[0], &own->a));
  ML_TRY(ml_cuda_put_address(g, s->inputs[1], &own->b));
  ML_TRY(ml_cuda_put_address(g, s->outputs[0], &own->out));
  return ml_cuda_tail(g, s, &own->tail);
}

ml_status ml_cuda_lower_embedding(ml_program *g, const ml_step *s) {
  const ml_value *w = ml_cuda_value(g, s->inputs[0]), *ids = ml_cuda_value(g, s->inputs[1]);
  const int64_t count = ml_cuda_size(ids), inputs = w->shape[1], pieces = (inputs + 7) / 8;
  cu_embedding_args *a =
      ml_cuda_launch_elements(g, "embedding", "cuda_embedding", sizeof *a, count * (pieces ? pieces : 1));
  if (!a) return ML_MEMORY;
  a->dtype = (int32_t)w->dtype, a->packed = w->layout == ML_LAYOUT_PANELS, a->ids_dtype = (int32_t)ids->dtype;
  a->out_dtype = (int32_t)ml_cuda_value(g, s->outputs[0])->dtype;
  a->rows = w->shape[0], a->inputs = inputs, a->count = count;
  a->row_stride = w->strides[0], a->column_stride = w->strides[1];
  ML_TRY(ml_cuda_put_address(g, s->inputs[0], &a->weight));
  ML_TRY(ml_cuda_put_address(g, s->inputs[1], &a->ids));
  ML_TRY(ml_cuda_put_address(g, s->outputs[0], &a->out));
  return ml_cuda_put_faults(g, &a->fault);
}

ml_status ml_cuda_lower_gather_linear(ml_program *g, const ml_step *s) {
  const ml_value *x = ml_cuda_value(g, s->inputs[0]), *w = ml_cuda_value(g, s->inputs[1]),
                 *ids = ml_cuda_value(g, s->inputs[2]), *o = ml_cuda_value(g, s->outputs[0]);
  const bool packed = w->layout == ML_LAYOUT_PANELS;
  const int64_t pairs = ml_cuda_size(ids), all = pairs * (w->shape[1] ? w->shape[1] : 1);
  const int64_t most = (int64_t)ml_cuda_multiprocessors(g) * 32;
  cu_gather_args *a = packed ? ml_cuda_launch_add(g, "experts", "cuda_gather_linear", sizeof *a,
                                                  all < most ? (all ? all : 1) : most, 1, CU_THREADS)
                             : ml_cuda_launch_elements(g, "experts", "cuda_gather_strided", sizeof *a, all);
  if (!a) return ML_MEMORY;
  a->pairs = pairs, a->N = w->shape[1], a->K = w->shape[2], a->experts = w->shape[0];
  a->a_row = x->ndim == ids->ndim ? ids->shape[ids->ndim - 1] : 1;
  a->matrix = packed ? (int64_t)ml_cuda_packed_bytes(g->device, w->dtype, w->shape[1], w->shape[2]) : 0;
  for (int d = 0; d < 3; d++) a->strides[d] = w->strides[d];
  a->w_dtype = (int32_t)w->dtype;
  a->out_dtype = (int32_t)(s->fused ? s->fused->input_dtypes[0] : o->dtype);
  ML_TRY(ml_cuda_array(g, s->inputs[0], &a->x));
  ML_TRY(ml_cuda_array(g, s->inputs[2], &a->ids));
  ML_TRY(ml_cuda_put_address(g, s->inputs[1], &a->weight));
  ML_TRY(ml_cuda_put_address(g, s->outputs[0], &a->out));
  ML_TRY(ml_cuda_tail(g, s, &a->tail));
  return ml_cuda_put_faults(g, &a->fault);
}
