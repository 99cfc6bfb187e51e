/* matmul.c: products of ordinary tensors: matmul, and linear where the weight is not packed.
 *
 * A unit is 16 columns of one matrix of the batch: they are gathered into a panel in scratch, then multiplied with all
 * rows, in the arithmetic of packed float weights. float64 takes a plain loop. */
#include "tensor/cpu/isa/dot.h"

enum { K_TILE = 512, M_TILE = 64 };

/* Strides of one matrix product a (M, K) b (K, N). */
typedef struct product {
  int64_t M, N, K, columns; /* columns: groups of 16 */
  int64_t a_row, a_inner, b_inner, b_column, o_row;
} product;

static product product_of(const ml_task *t) {
  const ml_arg *a = &t->in[0], *b = &t->in[1], *o = &t->out[0];
  int n = a->ndim, m = b->ndim;
  product p = {.N = o->shape[o->ndim - 1], .K = a->shape[n - 1], .a_inner = a->strides[n - 1]};
  if (t->step->op == ML_OP_linear) {
    p.M = n > 1 ? a->shape[n - 2] : 1;
    p.a_row = n > 1 ? a->strides[n - 2] : 0;
    p.b_inner = b->strides[1];
    p.b_column = b->strides[0];
    p.o_row = p.N;
  } else {
    p.M = a->shape[n - 2];
    p.a_row = a->strides[n - 2];
    p.b_inner = b->strides[m - 2];
    p.b_column = b->strides[m - 1];
    p.o_row = p.N;
  }
  p.columns = (p.N + PANEL_ROWS - 1) / PANEL_ROWS;
  return p;
}

ml_status K(matmul_prepare)(ml_task *t) {
  product p = product_of(t);
  int64_t size = ml_shape_size(t->out[0].ndim, t->out[0].shape);
  t->units = p.M && p.N ? size / (p.M * p.N) * p.columns : 0;
  t->scratch = (size_t)(K_TILE * PANEL_ROWS + M_TILE * K_TILE) * 4 + (size_t)p.M * PANEL_ROWS * 4;
  t->cost = (double)size * (double)p.K * 0.2;
  return ML_OK;
}

/* Offset of batch index i in an operand whose last `inner` axes are the matrix; broadcast axes have size 1 or are
 * missing. */
static int64_t batch_offset(const ml_arg *x, const ml_arg *o, int64_t i, int inner, int o_inner) {
  int64_t offset = 0;
  for (int d = o->ndim - o_inner - 1, e = x->ndim - inner - 1; d >= 0; d--, e--) {
    int64_t at = i % o->shape[d];
    i /= o->shape[d];
    if (e >= 0 && x->shape[e] != 1) offset += at * x->strides[e];
  }
  return offset;
}

static void multiply_doubles(const ml_task *t, const product *p, int64_t a0, int64_t b0, int64_t o0, int64_t column) {
  const double *a = (const double *)t->in[0].data + a0, *b = (const double *)t->in[1].data + b0;
  double *o = (double *)t->out[0].data + o0;
  for (int64_t m = 0; m < p->M; m++) {
    for (int64_t n = column; n < ml_min64(p->N, column + PANEL_ROWS); n++) {
      double sum = 0;
      for (int64_t k = 0; k < p->K; k++) sum += a[m * p->a_row + k * p->a_inner] * b[k * p->b_inner + n * p->b_column];
      o[m * p->o_row + n] = sum;
    }
  }
}

static void multiply_floats(const ml_task *t, const product *p, int64_t a0, int64_t b0, int64_t o0, int64_t column,
                            char *scratch) {
  const ml_arg *a = &t->in[0], *b = &t->in[1], *o = &t->out[0];
  float *panel = (float *)scratch, *rows = panel + K_TILE * PANEL_ROWS, *acc = rows + M_TILE * K_TILE;
  int64_t width = ml_min64(PANEL_ROWS, p->N - column);
  memset(acc, 0, (size_t)p->M * PANEL_ROWS * 4);
  for (int64_t k0 = 0; k0 < p->K; k0 += K_TILE) {
    int64_t count = ml_min64(K_TILE, p->K - k0);
    for (int64_t k = 0; k < count; k++) {
      int64_t at = b0 + (k0 + k) * p->b_inner + column * p->b_column;
      for (int64_t n = 0; n < PANEL_ROWS; n++)
        panel[k * PANEL_ROWS + n] = n < width ? load_float(b->data, b->dtype, at + n * p->b_column) : 0;
    }
    for (int64_t m0 = 0; m0 < p->M; m0 += M_TILE) {
      int64_t n = ml_min64(M_TILE, p->M - m0);
      const float *x = rows;
      int64_t pitch = count;
      if (a->dtype == ML_F32 && p->a_inner == 1) x = (const float *)a->data + a0 + m0 * p->a_row + k0, pitch = p->a_row;
      else {
        for (int64_t m = 0; m < n; m++) {
          for (int64_t k = 0; k < count; k++)
            rows[m * count + k] = load_float(a->data, a->dtype, a0 + (m0 + m) * p->a_row + (k0 + k) * p->a_inner);
        }
      }
      K(dot_floats)(panel, x, pitch, (int)n, count, acc + m0 * PANEL_ROWS);
    }
  }
  for (int64_t m = 0; m < p->M; m++) {
    for (int64_t n = 0; n < width; n++)
      store_float(o->data, o->dtype, o0 + m * p->o_row + column + n, acc[m * PANEL_ROWS + n]);
  }
}

void K(matmul)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  product p = product_of(t);
  bool linear = t->step->op == ML_OP_linear;
  for (int64_t u = begin; u < end; u++) {
    int64_t batch = u / p.columns, column = u % p.columns * PANEL_ROWS;
    int64_t a0 = batch_offset(&t->in[0], &t->out[0], batch, 2, 2),
            b0 = linear ? 0 : batch_offset(&t->in[1], &t->out[0], batch, 2, 2), o0 = batch * p.M * p.N;
    if (t->out[0].dtype == ML_F64) multiply_doubles(t, &p, a0, b0, o0, column);
    else multiply_floats(t, &p, a0, b0, o0, column, w->scratch);
  }
}
