/* linear.c: products with packed weights (ML_STEP_LINEARS) and look-ups in them.
 *
 * A unit of work is one panel (16 outputs) of one of the step's units, for all rows. Few rows: each thread normalises
 * and rounds the rows for itself (no barrier), then streams panels, tile after tile. Many rows: rows are rounded by a
 * task of their own, a panel is expanded once and multiplied with all of them. Finished products go through the unit's
 * epilogue ROW_TILE rows at a time. */
#include "tensor/cpu/isa/dot.h"
#include "tensor/cpu/isa/dot_codes.h"
#include "tensor/cpu/isa/elementwise.h"
#include "tensor/cpu/isa/norm.h"

enum { FEW_ROWS = 4, ROW_TILE = TILE / LANES, STREAM_TILE = 256, MAX_TILE = 2048 };

/* Where things lie in a thread's scratch, in bytes. */
typedef struct layout {
  bool few, rounds, floats; /* some weight takes rounded, some float activations */
  int64_t K, M;
  int64_t first_panel[ML_LINEARS_MAX_UNITS + 1];
  size_t normed, q, d, sums, codes, scale, min, wide, products, regs;
} layout;

static bool takes_rounded(const ml_isa *isa, const ml_arg *w) {
  return !w->exact && isa->formats[w->dtype]->code != ML_CODE_FLOAT;
}

static size_t reserve(size_t *at, size_t bytes) {
  size_t here = *at;
  *at += (bytes + 63) & ~(size_t)63;
  return here;
}

static void scan_weights(const ml_task *t, layout *l) {
  const ml_linears *units = t->step->linears;
  l->M = t->in[0].shape[0];
  l->K = t->in[0].shape[1];
  l->few = l->M <= FEW_ROWS;
  for (int u = 0; u < units->n_units; u++) {
    const ml_linear_unit *unit = &units->units[u];
    l->first_panel[u + 1] = l->first_panel[u] + (t->in[unit->weights[0]].shape[0] + PANEL_ROWS - 1) / PANEL_ROWS;
    for (int i = 0; i < unit->n_weights; i++) {
      if (takes_rounded(t->isa, &t->in[unit->weights[i]])) l->rounds = true;
      else l->floats = true;
    }
  }
}

/* Rounded rows in one block: q, then d, then sums. */
static size_t rounded_bytes(int64_t M, int64_t K, size_t *q, size_t *d, size_t *sums, size_t at) {
  int64_t blocks = (K + ACT_BLOCK - 1) / ACT_BLOCK;
  *q = reserve(&at, (size_t)(M * K));
  *d = reserve(&at, (size_t)(M * blocks) * 4);
  *sums = reserve(&at, (size_t)(M * blocks) * 8);
  return at;
}

static act rounded_at(char *base, const layout *l) {
  return (act){(const int8_t *)(base + l->q), (const float *)(base + l->d), (const int32_t *)(base + l->sums), l->K};
}

static int64_t tile_inputs(const layout *l) {
  return l->few ? STREAM_TILE : ml_min64(MAX_TILE, (l->K + MAX_BLOCK - 1) / MAX_BLOCK * MAX_BLOCK);
}

static const float *input_row(const ml_task *t, int64_t r) {
  return (const float *)t->in[0].data + r * t->in[0].strides[0];
}

static void prologue(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)begin, (void)end;
  const layout *l = t->extra;
  const ml_linears *units = t->step->linears;
  float *normed = (float *)(w->scratch + l->normed);
  act a = rounded_at(w->scratch, l);
  for (int64_t r = 0; r < l->M; r++) {
    const float *x = input_row(t, r);
    if (units->norm) {
      K(rms_norm_row)
      (x, (const float *)t->in[1].data, (float)units->norm_offset, (float)units->eps, l->K, normed + r * l->K);
      x = normed + r * l->K;
    }
    if (l->rounds) {
      int64_t blocks = l->K / ACT_BLOCK;
      K(round_row)
      (x, l->K, (int8_t *)(uintptr_t)a.q + r * l->K, (float *)(uintptr_t)a.d + r * blocks,
       (int32_t *)(uintptr_t)a.sums + r * 2 * blocks);
    }
  }
}

ml_status K(linears_prepare)(ml_task *t) {
  layout *l = ml_calloc(1, sizeof *l);
  if (!l) return ML_MEMORY;
  t->extra = l;
  scan_weights(t, l);
  int64_t tile = tile_inputs(l);
  size_t at = 0;
  l->normed = reserve(&at, t->step->linears->norm ? (size_t)(l->M * l->K) * 4 : 0);
  if (l->few) at = rounded_bytes(l->rounds ? l->M : 0, l->K, &l->q, &l->d, &l->sums, at);
  else if (l->rounds) t->shared = rounded_bytes(l->M, l->K, &l->q, &l->d, &l->sums, 0);
  l->codes = reserve(&at, (size_t)tile * PANEL_ROWS);
  l->scale = reserve(&at, (size_t)tile / 16 * PANEL_ROWS * 4);
  l->min = reserve(&at, (size_t)tile / 16 * PANEL_ROWS * 4);
  l->wide = reserve(&at, l->floats ? (size_t)tile * PANEL_ROWS * 4 : 0);
  l->products = reserve(&at, (size_t)ml_max64(ROW_TILE, l->M) * LANES * 4 * ML_UNIT_MAX_WEIGHTS);
  l->regs = reserve(&at, (size_t)(ML_FUSED_MAX_INPUTS + ML_FUSED_MAX_CODE) * TILE * 8);
  t->scratch = at;
  if (l->few && (t->step->linears->norm || l->rounds)) t->prologue = prologue;
  t->units = l->first_panel[t->step->linears->n_units];
  t->grain = ml_max64(1, t->units / 32);
  t->cost = (double)t->units * (double)l->K * (double)l->M;
  return ML_OK;
}

ml_status K(quantize_rows_prepare)(ml_task *t) {
  layout *l = ml_calloc(1, sizeof *l);
  if (!l) return ML_MEMORY;
  t->extra = l;
  scan_weights(t, l);
  if (!l->rounds) return ML_OK;
  t->shared = rounded_bytes(l->M, l->K, &l->q, &l->d, &l->sums, 0);
  t->units = l->M;
  t->grain = 4;
  return ML_OK;
}

void K(quantize_rows)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)w;
  const layout *l = t->extra;
  act a = rounded_at(t->shared_data, l);
  int64_t blocks = l->K / ACT_BLOCK;
  for (int64_t r = begin; r < end; r++) {
    K(round_row)
    (input_row(t, r), l->K, (int8_t *)(uintptr_t)a.q + r * l->K, (float *)(uintptr_t)a.d + r * blocks,
     (int32_t *)(uintptr_t)a.sums + r * 2 * blocks);
  }
}

/* Inputs k0..k0+count-1 of a panel as codes with scales. */
static void expand_tile(const ml_format *f, const uint8_t *panel, int64_t k0, int64_t count, uint8_t *codes,
                        float *scale, float *min) {
  size_t bytes = (size_t)ml_dtype_infos[f->dtype].bytes * PANEL_ROWS;
  const uint8_t *p = panel + (size_t)(k0 / f->block) * bytes;
  for (int64_t k = 0; k < count; k += f->block, p += bytes) {
    int64_t s = k / f->sub * PANEL_ROWS;
    f->expand(p, codes + k * PANEL_ROWS, scale + s, min + s);
  }
}

/* The same as float32 [count][16]: scale * (code - zero) + min, each operation rounded once, as the formats define it.
 */
static void widen_tile(const ml_format *f, const uint8_t *panel, int64_t k0, int64_t count, char *room, const layout *l,
                       float *out) {
  if (f->code == ML_CODE_FLOAT) {
    f->widen(panel, k0, count, out);
    return;
  }
  uint8_t *codes = (uint8_t *)room + l->codes;
  float *scale = (float *)(room + l->scale), *min = (float *)(room + l->min);
  expand_tile(f, panel, k0, count, codes, scale, min);
  const int zero = f->zero;
  const bool is_signed = f->code == ML_CODE_8_SIGNED;
  for (int64_t k = 0; k < count; k += 4) { /* a lane of 32 bits holds four inputs of one row */
    const float *s = scale + k / f->sub * PANEL_ROWS, *m = min + k / f->sub * PANEL_ROWS;
    uint32_t lanes[PANEL_ROWS];
    memcpy(lanes, codes + k * PANEL_ROWS, sizeof lanes);
    for (int j = 0; j < 4; j++) {
      float *o = out + (k + j) * PANEL_ROWS;
      for (int r = 0; r < PANEL_ROWS; r++) {
        int32_t value =
            is_signed ? (int32_t)(lanes[r] << (24 - 8 * j)) >> 24 : (int32_t)(lanes[r] >> 8 * j & 255) - zero;
        o[r] = s[r] * (float)value;
      }
      for (int r = 0; r < PANEL_ROWS && f->has_min; r++) o[r] += m[r];
    }
  }
}

/* products[M][16] += all rows times one panel, tile by tile: each tile is expanded once. */
static void multiply(const ml_task *t, const ml_arg *w, const uint8_t *panel, ml_worker *worker, float *products) {
  const layout *l = t->extra;
  const ml_format *f = t->isa->formats[w->dtype];
  char *room = worker->scratch;
  uint8_t *codes = (uint8_t *)room + l->codes;
  float *scale = (float *)(room + l->scale), *min = (float *)(room + l->min), *wide = (float *)(room + l->wide);
  bool rounded = takes_rounded(t->isa, w), normed = l->few && t->step->linears->norm;
  act a = rounded_at(l->few ? room : t->shared_data, l);
  const float *x = normed ? (const float *)(room + l->normed) : input_row(t, 0);
  if (rounded && l->M == 1) {
    f->stream(panel, l->K, &a, 0, products);
    return;
  }
  if (f->stream_floats && l->M == 1) {
    f->stream_floats(panel, l->K, x, products);
    return;
  }
  int64_t tile = tile_inputs(l), pitch = normed ? l->K : t->in[0].strides[0];
  for (int64_t k0 = 0; k0 < l->K; k0 += tile) {
    int64_t count = ml_min64(tile, l->K - k0);
    if (rounded) {
      expand_tile(f, panel, k0, count, codes, scale, min);
      K(dot_codes)(f, codes, scale, min, &a, 0, (int)l->M, k0, count, products);
    } else {
      widen_tile(f, panel, k0, count, room, l, wide);
      K(dot_floats)(wide, x + k0, pitch, (int)l->M, count, products);
    }
  }
}

/* Passes products of rows first.. through the epilogue and stores them. */
static void finish(const ml_task *t, int u, int64_t column, int64_t first, int64_t rows, char *room,
                   float *const *products) {
  const layout *l = t->extra;
  const ml_linear_unit *unit = &t->step->linears->units[u];
  const ml_arg *o = &t->out[u];
  int64_t width = ml_min64(LANES, o->shape[1] - column);
  const float *result = products[0];
  if (unit->epilogue) {
    const ml_fused *f = unit->epilogue;
    void *regs[ML_FUSED_MAX_INPUTS + ML_FUSED_MAX_CODE];
    for (int i = 0; i < f->n_inputs + f->n_code; i++) regs[i] = room + l->regs + (size_t)i * TILE * 8;
    for (int i = 0; i < unit->n_weights; i++) regs[i] = products[i];
    for (int i = 0; i < unit->n_extra; i++) {
      const ml_arg *x = &t->in[unit->extra[i]];
      char *reg = regs[unit->n_weights + i];
      for (int64_t r = 0; r < rows; r++) {
        int64_t at = (first + r) * x->strides[0] + column * x->strides[1];
        K(load_tile)
        (reg + (size_t)(r * LANES) * register_item(x->dtype), x->data + at * ml_dtype_infos[x->dtype].bytes, x->dtype,
         x->strides[1], (int)width);
      }
    }
    K(fused_constants)(f, regs, (int)(rows * LANES));
    K(fused_run)(f, regs, (int)(rows * LANES));
    result = regs[f->outputs[0]];
  }
  for (int64_t r = 0; r < rows; r++) {
    memcpy((float *)o->data + (first + r) * o->strides[0] + column, result + r * LANES, (size_t)width * 4);
  }
}

static const uint8_t *panel_of(const ml_arg *w, int64_t panel, int64_t K) {
  const ml_dtype_info *info = &ml_dtype_infos[w->dtype];
  return (const uint8_t *)w->data + (size_t)panel * PANEL_ROWS * (size_t)(K / info->block) * (size_t)info->bytes;
}

void K(linears)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const layout *l = t->extra;
  const ml_linears *units = t->step->linears;
  float *products[ML_UNIT_MAX_WEIGHTS];
  int64_t kept = ml_max64(ROW_TILE, l->M);
  for (int i = 0; i < ML_UNIT_MAX_WEIGHTS; i++) products[i] = (float *)(w->scratch + l->products) + i * kept * LANES;
  for (int64_t p = begin; p < end; p++) {
    int u = 0;
    while (p >= l->first_panel[u + 1]) u++;
    const ml_linear_unit *unit = &units->units[u];
    int64_t panel = p - l->first_panel[u];
    for (int i = 0; i < unit->n_weights; i++) {
      const ml_arg *weight = &t->in[unit->weights[i]];
      memset(products[i], 0, (size_t)l->M * LANES * 4);
      multiply(t, weight, panel_of(weight, panel, l->K), w, products[i]);
    }
    for (int64_t r = 0; r < l->M; r += ROW_TILE) {
      float *rows[ML_UNIT_MAX_WEIGHTS] = {products[0] + r * LANES, products[1] + r * LANES};
      finish(t, u, panel * PANEL_ROWS, r, ml_min64(ROW_TILE, l->M - r), w->scratch, rows);
    }
  }
}

/* ---- look-up, and the product with the transpose ---- */

/* Room to widen one block of inputs of a panel. */
static layout *widening_layout(ml_task *t) {
  layout *l = ml_calloc(1, sizeof *l);
  if (!l) return NULL;
  t->extra = l;
  size_t at = 0;
  l->codes = reserve(&at, (size_t)MAX_BLOCK * PANEL_ROWS);
  l->scale = reserve(&at, (size_t)MAX_BLOCK / 16 * PANEL_ROWS * 4);
  l->min = reserve(&at, (size_t)MAX_BLOCK / 16 * PANEL_ROWS * 4);
  l->wide = reserve(&at, (size_t)MAX_BLOCK * PANEL_ROWS * 4);
  t->scratch = at;
  return l;
}

ml_status K(embedding_prepare)(ml_task *t) {
  layout *l = widening_layout(t);
  if (!l) return ML_MEMORY;
  l->K = t->in[0].shape[1];
  t->units = ml_shape_size(t->in[1].ndim, t->in[1].shape);
  t->cost = (double)t->units * (double)l->K * 4;
  return ML_OK;
}

void K(embedding)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const layout *l = t->extra;
  const ml_arg *weight = &t->in[0], *ids = &t->in[1];
  for (int64_t i = begin; i < end; i++) {
    int64_t id = load_index(ids->data, ids->dtype, i);
    float *o = (float *)t->out[0].data + i * l->K;
    if (id < 0 || id >= weight->shape[0]) {
      ml_raise_fault(w, ML_OP_embedding, &t->in[1], id, weight->shape[0]);
      continue;
    }
    if (weight->layout == ML_LAYOUT_STRIDED) {
      for (int64_t k = 0; k < l->K; k++)
        o[k] = load_float(weight->data, weight->dtype, id * weight->strides[0] + k * weight->strides[1]);
      continue;
    }
    float *wide = (float *)(w->scratch + l->wide);
    const uint8_t *panel = panel_of(weight, id / PANEL_ROWS, l->K);
    for (int64_t k0 = 0; k0 < l->K; k0 += MAX_BLOCK) {
      int64_t count = ml_min64(MAX_BLOCK, l->K - k0);
      widen_tile(t->isa->formats[weight->dtype], panel, k0, count, w->scratch, l, wide);
      for (int64_t k = 0; k < count; k++) o[k0 + k] = wide[k * PANEL_ROWS + id % PANEL_ROWS];
    }
  }
}

/* Offset of row m of a value whose last axis is the row. */
static int64_t row_start(const ml_arg *x, int64_t m) {
  int64_t offset = 0;
  for (int d = x->ndim - 2; d >= 0; d--) {
    offset += m % x->shape[d] * x->strides[d];
    m /= x->shape[d];
  }
  return offset;
}

ml_status K(linear_transposed_prepare)(ml_task *t) {
  layout *l = widening_layout(t);
  if (!l) return ML_MEMORY;
  l->K = t->in[1].shape[1];
  l->M = l->K ? ml_shape_size(t->out[0].ndim, t->out[0].shape) / l->K : 0;
  t->units = l->M ? (l->K + MAX_BLOCK - 1) / MAX_BLOCK : 0;
  t->cost = (double)l->M * (double)l->K * (double)t->in[1].shape[0];
  return ML_OK;
}

/* A unit is one block of inputs: panels are added one after another, rows of a panel in order. */
void K(linear_transposed)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const layout *l = t->extra;
  const ml_arg *y = &t->in[0], *weight = &t->in[1];
  float *wide = (float *)(w->scratch + l->wide), *out = (float *)t->out[0].data;
  for (int64_t unit = begin; unit < end; unit++) {
    int64_t k0 = unit * MAX_BLOCK, count = ml_min64(MAX_BLOCK, l->K - k0);
    for (int64_t m = 0; m < l->M; m++) memset(out + m * l->K + k0, 0, (size_t)count * sizeof *out);
    for (int64_t first = 0; first < weight->shape[0]; first += PANEL_ROWS) {
      int64_t rows = ml_min64(PANEL_ROWS, weight->shape[0] - first);
      if (weight->layout == ML_LAYOUT_PANELS) {
        widen_tile(t->isa->formats[weight->dtype], panel_of(weight, first / PANEL_ROWS, l->K), k0, count, w->scratch, l,
                   wide);
      } else {
        for (int64_t k = 0; k < count; k++) {
          for (int64_t r = 0; r < rows; r++) {
            wide[k * PANEL_ROWS + r] = load_float(weight->data, weight->dtype,
                                                  (first + r) * weight->strides[0] + (k0 + k) * weight->strides[1]);
          }
        }
      }
      for (int64_t m = 0; m < l->M; m++) {
        const float *row = (const float *)y->data + row_start(y, m) + first;
        for (int64_t k = 0; k < count; k++) {
          float sum = out[m * l->K + k0 + k];
          for (int64_t r = 0; r < rows; r++) sum += row[r] * wide[k * PANEL_ROWS + r];
          out[m * l->K + k0 + k] = sum;
        }
      }
    }
  }
}
