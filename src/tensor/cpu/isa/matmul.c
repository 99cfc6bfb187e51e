/* matmul.c: products of whole tensors: matmul, linear where the weight is not packed, and the product with a weight's
 * transpose, packed or not.
 *
 * A unit is a tile of one product of the batch (gemm.h), in float64 by a plain loop. */
#include "tensor/cpu/isa/gemm.h"
#include "tensor/cpu/isa/panel.h"
#include "tensor/cpu/isa/tail.h"

typedef struct product {
  gemm g; /* of the first of the batch; addresses are the run's */
  gemm_tiles tiles;
  int axes;                                                      /* of the batch: the first ones of the result */
  int64_t batch, a_strides[ML_MAX_DIMS], b_strides[ML_MAX_DIMS]; /* along those */
  bool small;         /* a unit is a product, computed from where its operands lie */
  size_t tail, panel; /* where in scratch the tail has its room, and a panel */
} product;

static void store_through_tail(const gemm *g, float *sums, int64_t pitch, int64_t m0, int64_t rows, int64_t n0,
                               int64_t columns) {
  const ml_task *t = g->context;
  for (int64_t r = 0; r < rows; r++) K(tail_run)(t, g->first_row + m0 + r, n0, sums + r * pitch, columns, g->tail_room);
}

static gemm_side side_of(const ml_arg *x, int across, int inner) {
  return (gemm_side){NULL, x->dtype, across < 0 ? 0 : x->strides[across], x->strides[inner]};
}

/* The stride of an axis of the batch, counted from its last one, which lies before the two of the matrix: 0 where the
 * operand has no such axis, or one of size 1. */
static int64_t batch_stride(const ml_arg *x, int from_last) {
  int axis = x->ndim - 3 - from_last;
  return axis < 0 || x->shape[axis] == 1 ? 0 : x->strides[axis];
}

/* Where the last axis of the batch goes on as a's rows do and b has no such axis, it is more rows: one large product
 * instead of many. */
static void merge_rows(const ml_task *t, product *p) {
  const ml_arg *a = &t->in[0], *b = &t->in[1], *o = &t->out[0];
  gemm *g = &p->g;
  for (int merged = 0; p->axes > 0; p->axes--, merged++) {
    int64_t size = o->shape[p->axes - 1], stride = batch_stride(a, merged);
    if (t->step->op == ML_OP_matmul && batch_stride(b, merged) != 0) return;
    if (size != 1 && g->M != 1 && stride != g->a.across * g->M) return;
    if (size != 1 && g->M == 1) g->a.across = stride;
    g->M *= size;
  }
}

/* What is multiplied, in an operation's own terms. The second operand of linear and of its transpose has no batch. */
static void describe(const ml_task *t, product *p) {
  const ml_arg *a = &t->in[0], *b = &t->in[1], *o = &t->out[0];
  const int op = t->step->op, n = a->ndim;
  gemm *g = &p->g;
  *g = (gemm){.M = n > 1 ? a->shape[n - 2] : 1, .N = o->shape[o->ndim - 1], .K = a->shape[n - 1]};
  g->a = side_of(a, n - 2, n - 1);
  if (op == ML_OP_matmul) g->b = side_of(b, b->ndim - 1, b->ndim - 2);
  else g->b = op == ML_OP_linear ? side_of(b, 0, 1) : side_of(b, 1, 0);
  g->out_dtype = tail_dtype(t);
  if (t->step->fused) g->store = store_through_tail;
  g->dots = t->isa->bf16_dots && a->dtype == ML_BF16 && b->dtype == ML_BF16 && b->layout == ML_LAYOUT_STRIDED;
  p->axes = o->ndim > 2 ? o->ndim - 2 : 0;
  merge_rows(t, p);
  p->batch = ml_shape_size(p->axes, o->shape);
  for (int d = 0; d < p->axes; d++) {
    p->a_strides[d] = batch_stride(a, o->ndim - 3 - d);
    p->b_strides[d] = op == ML_OP_matmul ? batch_stride(b, o->ndim - 3 - d) : 0;
  }
}

/* ---- small products ---- */

enum { SMALL_TERMS = 1 << 12, SMALL_ROWS = 4 };

/* Whether gathering would take longer than the product. */
static bool is_small(const gemm *g) {
  return g->M * g->N * g->K <= SMALL_TERMS && !gemm_in_scratch(g) && g->a.dtype == ML_F32 && g->b.dtype == ML_F32 &&
         (g->b.across == 1 || g->N == 1);
}

/* Where one product of the batch has its operands. */
typedef struct operands {
  const char *a, *b;
  char *out;
} operands;

/* Rows of the result from row m on, `columns` from column n on. */
ALWAYS_INLINE void small_rows(const gemm *g, const operands *x, int64_t m, int rows, int64_t n, int columns) {
  v16f sums[SMALL_ROWS];
  const float *a = (const float *)(const void *)x->a + m * g->a.across, *b = (const float *)(const void *)x->b + n;
  float *o = (float *)(void *)x->out + m * g->N + n;
  /* A vector may run into the next row, whose terms end in lanes that nobody stores. */
  const int64_t whole = columns == LANES ? INT64_MAX : g->b.inner == g->N ? g->K * g->N - n - LANES : INT64_MIN;
  for (int r = 0; r < rows; r++) sums[r] = v_set1(0);
  for (int64_t k = 0; k < g->K; k++) {
    const float *terms = b + k * g->b.inner;
    v16f v = k * g->b.inner <= whole ? v_load(terms) : v_load_part(terms, columns, 0);
    for (int r = 0; r < rows; r++) sums[r] = v_fma(v_set1(a[r * g->a.across + k * g->a.inner]), v, sums[r]);
  }
  for (int r = 0; r < rows; r++) {
    if (columns == LANES) v_store(o + r * g->N, sums[r]);
    else v_store_part(o + r * g->N, sums[r], columns);
  }
}

/* A small product whose columns are neighbours, straight from where they lie: the chains of gemm.h. */
static void multiply_small(const gemm *g, const operands *x) {
  for (int64_t n = 0; n < g->N; n += LANES) {
    const int columns = (int)ml_min64(LANES, g->N - n);
    int64_t m = 0;
    for (; m + SMALL_ROWS <= g->M; m += SMALL_ROWS) small_rows(g, x, m, SMALL_ROWS, n, columns);
    for (; m < g->M; m++) small_rows(g, x, m, 1, n, columns);
  }
}

/* ---- cutting and finding ---- */

static ml_status prepare(ml_task *t, int64_t multiple) {
  product *p = ml_bump_alloc(t->memory, 1, sizeof *p);
  if (!p) return ML_MEMORY;
  t->extra = p;
  describe(t, p);
  const gemm *g = &p->g;
  p->tiles = K(gemm_cut)(p->batch, g->M, g->N, g->K, gemm_in_scratch(g), t->threads, multiple);
  t->units = p->batch * p->tiles.down * p->tiles.along;
  p->small = is_small(g) && t->units == p->batch;
  t->scratch = 0;
  ml_reserve(&t->scratch, p->tiles.scratch);
  p->tail = ml_reserve(&t->scratch, K(tail_room)(t));
  t->cost = (double)p->batch *
            ((double)g->M * (double)g->N * (double)g->K * 0.02 + (double)(g->M + g->N) * (double)g->K * 0.1);
  return ML_OK;
}

ml_status K(matmul_prepare)(ml_task *t) { return prepare(t, 1); }

static operands find_operands(const ml_task *t, int64_t of_batch) {
  const product *p = t->extra;
  const ml_arg *a = &t->in[0], *b = &t->in[1], *o = &t->out[0];
  const int64_t at_a = of_batch ? ml_index_offset(p->axes, o->shape, p->a_strides, of_batch) : 0,
                at_b = of_batch ? ml_index_offset(p->axes, o->shape, p->b_strides, of_batch) : 0;
  return (operands){a->data + at_a * ml_dtype_infos[a->dtype].bytes, b->data + at_b * ml_dtype_infos[b->dtype].bytes,
                    o->data + of_batch * p->g.M * p->g.N * ml_dtype_infos[o->dtype].bytes};
}

/* The product that unit u is a tile of, with its addresses. */
static gemm locate(const ml_task *t, int64_t u, int64_t *m0, int64_t *n0) {
  const product *p = t->extra;
  *n0 = u % p->tiles.along * p->tiles.columns;
  u /= p->tiles.along;
  *m0 = u % p->tiles.down * p->tiles.rows;
  const int64_t of_batch = u / p->tiles.down;
  const operands x = find_operands(t, of_batch);
  gemm g = p->g;
  g.first_row = of_batch * g.M;
  g.context = t;
  g.a.data = x.a, g.b.data = x.b, g.out = x.out;
  return g;
}

/* A row of a tile in float64: along rows of the second operand where its columns are neighbours, else along the sum;
 * terms are added in the same order. */
void K(multiply_row)(const gemm *g, int64_t m, int64_t n0, int64_t columns, double *o) {
  const double *a = (const double *)(const void *)g->a.data + m * g->a.across;
  const double *b = (const double *)(const void *)g->b.data + n0 * g->b.across;
  memset(o, 0, (size_t)columns * sizeof *o);
  if (g->b.across == 1) {
    for (int64_t k = 0; k < g->K; k++) {
      for (int64_t n = 0; n < columns; n++) o[n] += a[k * g->a.inner] * b[k * g->b.inner + n];
    }
    return;
  }
  for (int64_t n = 0; n < columns; n++) {
    double sum = 0;
    for (int64_t k = 0; k < g->K; k++) sum += a[k * g->a.inner] * b[k * g->b.inner + n * g->b.across];
    o[n] = sum;
  }
}

/* One tile in float64; `row`: room for one of its rows, which a tail takes. */
static void multiply_doubles(const gemm *g, const gemm_tiles *tiles, int64_t m0, int64_t n0, double *row) {
  int64_t columns = ml_min64(tiles->columns, g->N - n0);
  for (int64_t m = m0; m < ml_min64(m0 + tiles->rows, g->M); m++) {
    K(multiply_row)(g, m, n0, columns, g->store ? row : (double *)(void *)g->out + m * g->N + n0);
    if (g->store) K(tail_run)(g->context, g->first_row + m, n0, row, columns, g->tail_room);
  }
}

/* ---- the task ---- */

void K(matmul)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const product *p = t->extra;
  for (int64_t u = begin; u < end && p->small; u++) {
    const operands x = find_operands(t, u);
    multiply_small(&p->g, &x);
  }
  if (p->small) return;
  K(tail_begin)(t, w->scratch + p->tail);
  for (int64_t u = begin; u < end; u++) {
    int64_t m0, n0;
    gemm g = locate(t, u, &m0, &n0);
    g.tail_room = w->scratch + p->tail;
    if (g.out_dtype == ML_F64) multiply_doubles(&g, &p->tiles, m0, n0, (double *)(void *)w->scratch);
    else K(gemm_tile)(&g, &p->tiles, m0, n0, w->scratch);
  }
}

/* ---- with the transpose of a weight ---- */

/* With room for the inputs of one panel, as float32 [columns][16]. */
ml_status K(linear_transposed_prepare)(ml_task *t) {
  ML_TRY(prepare(t, MAX_BLOCK));
  product *p = t->extra;
  if (t->in[1].layout != ML_LAYOUT_PANELS) return ML_OK;
  p->panel = ml_reserve(&t->scratch,
                        panel_room_bytes(p->tiles.columns) + (size_t)p->tiles.columns * PANEL_ROWS * sizeof(float));
  return ML_OK;
}

/* The sum runs over outputs, which are a panel's rows: each panel gives 16 terms of every column. */
static void gather_panels(const gemm *g, int64_t k0, int64_t count, int64_t n0, int64_t columns, float *to) {
  const ml_task *t = g->context;
  const ml_format *f = t->isa->formats[t->in[1].dtype];
  const product *p = t->extra;
  panel_room room = panel_room_at(g->room, p->tiles.columns);
  float *wide = (float *)(void *)(g->room + panel_room_bytes(p->tiles.columns));
  const gemm_side side = {(const char *)wide, ML_F32, PANEL_ROWS, 1};
  for (int64_t k = 0; k < count; k += PANEL_ROWS) {
    K(widen_tile)(f, panel_of(&t->in[1], (k0 + k) / PANEL_ROWS), n0, columns, room, wide);
    K(gemm_pack_columns)(&side, false, 0, ml_min64(PANEL_ROWS, count - k), 0, columns, k, to);
  }
}

void K(linear_transposed)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const product *p = t->extra;
  K(tail_begin)(t, w->scratch + p->tail);
  for (int64_t u = begin; u < end; u++) {
    int64_t m0, n0;
    gemm g = locate(t, u, &m0, &n0);
    g.tail_room = w->scratch + p->tail;
    if (t->in[1].layout == ML_LAYOUT_PANELS) g.gather = gather_panels, g.room = w->scratch + p->panel;
    K(gemm_tile)(&g, &p->tiles, m0, n0, w->scratch);
  }
}
