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
#include "tensor/cpu/isa/panel.h"

enum { FEW_ROWS = 4, ROW_TILE = TILE / LANES, STREAM_TILE = 256, MAX_TILE = 2048 };

/* Where things lie in a thread's scratch, in bytes. */
typedef struct layout {
  bool few, rounds, floats; /* some weight takes rounded, some float activations */
  int64_t K, M;
  int64_t first_panel[ML_LINEARS_MAX_UNITS + 1];
  size_t normed, q, d, sums, panel, wide, products, regs;
  size_t pitch[ML_LINEARS_MAX_UNITS]; /* from register to register of a unit's program */
} layout;

static bool takes_rounded(const ml_isa *isa, const ml_arg *w) {
  return !w->exact && isa->formats[w->dtype]->of.code != ML_CODE_FLOAT;
}

static void scan_weights(const ml_task *t, layout *l) {
  const ml_linears *units = t->step->linears;
  l->M = t->in[0].shape[0];
  l->K = t->in[0].shape[1];
  l->few = l->M <= FEW_ROWS;
  for (int u = 0; u < units->n_units; u++) {
    const ml_linear_unit *unit = &units->units[u];
    l->pitch[u] = unit->epilogue ? register_pitch(unit->epilogue) : 0;
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
  *q = ml_reserve(&at, (size_t)(M * K));
  *d = ml_reserve(&at, (size_t)(M * blocks) * 4);
  *sums = ml_reserve(&at, (size_t)(M * blocks) * 8);
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
  layout *l = ml_bump_alloc(t->memory, 1, sizeof *l);
  if (!l) return ML_MEMORY;
  t->extra = l;
  scan_weights(t, l);
  int64_t tile = tile_inputs(l);
  size_t at = 0;
  l->normed = ml_reserve(&at, t->step->linears->norm ? (size_t)(l->M * l->K) * 4 : 0);
  if (l->few) at = rounded_bytes(l->rounds ? l->M : 0, l->K, &l->q, &l->d, &l->sums, at);
  else if (l->rounds) t->shared = rounded_bytes(l->M, l->K, &l->q, &l->d, &l->sums, 0);
  l->panel = ml_reserve(&at, panel_room_bytes(tile));
  l->wide = ml_reserve(&at, l->floats ? (size_t)tile * PANEL_ROWS * 4 : 0);
  l->products = ml_reserve(&at, (size_t)ml_max64(ROW_TILE, l->M) * LANES * 4 * ML_UNIT_MAX_WEIGHTS);
  l->regs = ml_reserve(&at, tile_room(ML_FUSED_MAX_INPUTS + ML_FUSED_MAX_CODE));
  t->scratch = at;
  if (l->few && (t->step->linears->norm || l->rounds)) t->prologue = prologue;
  t->units = l->first_panel[t->step->linears->n_units];
  t->grain = ml_max64(1, t->units / 32);
  t->cost = (double)t->units * (double)l->K * (double)l->M;
  return ML_OK;
}

ml_status K(quantize_rows_prepare)(ml_task *t) {
  layout *l = ml_bump_alloc(t->memory, 1, sizeof *l);
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

/* products[M][16] += all rows times one panel, tile by tile: each tile is expanded once. */
static void multiply(const ml_task *t, const ml_arg *w, const uint8_t *panel, ml_worker *worker, float *products) {
  const layout *l = t->extra;
  const ml_format *f = t->isa->formats[w->dtype];
  char *room = worker->scratch;
  float *wide = (float *)(room + l->wide);
  bool rounded = takes_rounded(t->isa, w), normed = l->few && t->step->linears->norm;
  act a = rounded_at(l->few ? room : t->shared_data, l);
  const float *x = normed ? (const float *)(room + l->normed) : input_row(t, 0);
  if (rounded && l->M == 1) {
    f->stream(f, panel, l->K, &a, 0, products);
    return;
  }
  if (f->stream_floats && l->M == 1) {
    f->stream_floats(panel, l->K, x, products);
    return;
  }
  int64_t tile = tile_inputs(l), pitch = normed ? l->K : t->in[0].strides[0];
  panel_room codes = panel_room_at(room + l->panel, tile);
  for (int64_t k0 = 0; k0 < l->K; k0 += tile) {
    int64_t count = ml_min64(tile, l->K - k0);
    if (rounded) {
      K(expand_tile)(f, panel, k0, count, codes);
      K(dot_codes)(f, codes.codes, codes.scale, codes.min, &a, 0, (int)l->M, k0, count, products);
    } else {
      K(widen_tile)(f, panel, k0, count, codes, wide);
      K(dot_floats)(wide, x + k0, pitch, (int)l->M, count, products);
    }
  }
}

/* Writes `width` columns of rows first.. from registers of LANES columns. */
static void store_rows(const ml_arg *o, int64_t first, int64_t rows, int64_t column, int64_t width, const void *reg) {
  int64_t item = ml_dtype_infos[o->dtype].bytes;
  for (int64_t r = 0; r < rows; r++) {
    char *to = o->data + ((first + r) * o->strides[0] + column) * item;
    const char *from = (const char *)reg + (size_t)(r * LANES) * register_item(o->dtype);
    if (o->dtype == ML_F32 && width == LANES) memcpy(to, from, LANES * sizeof(float));
    else if (o->dtype == ML_F32) memcpy(to, from, (size_t)width * sizeof(float));
    else K(store_tile)(to, o->dtype, 1, from, (int)width);
  }
}

/* Passes products of rows first.. through the epilogue and stores what comes of them. */
static void finish(const ml_task *t, int u, int64_t column, int64_t first, int64_t rows, char *room,
                   float *const *products) {
  const layout *l = t->extra;
  const ml_linear_unit *unit = &t->step->linears->units[u];
  int64_t width = ml_min64(LANES, t->out[unit->first_output].shape[1] - column);
  const ml_fused *f = unit->epilogue;
  void *regs[ML_FUSED_MAX_INPUTS + ML_FUSED_MAX_CODE];
  if (f) place_registers(regs, room + l->regs, f, l->pitch[u]);
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
  if (f) {
    K(fused_constants)(f, regs, (int)(rows * LANES));
    K(fused_run)(f, regs, (int)(rows * LANES));
  }
  for (int k = 0; k < unit->n_outputs; k++)
    store_rows(&t->out[unit->first_output + k], first, rows, column, width, regs[f ? f->outputs[k] : 0]);
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
      multiply(t, weight, panel_of(weight, panel), w, products[i]);
    }
    for (int64_t r = 0; r < l->M; r += ROW_TILE) {
      float *rows[ML_UNIT_MAX_WEIGHTS] = {products[0] + r * LANES, products[1] + r * LANES};
      finish(t, u, panel * PANEL_ROWS, r, ml_min64(ROW_TILE, l->M - r), w->scratch, rows);
    }
  }
}

/* ---- look-up ---- */

ml_status K(embedding_prepare)(ml_task *t) {
  t->scratch = panel_room_bytes(MAX_BLOCK) + (size_t)MAX_BLOCK * PANEL_ROWS * sizeof(float);
  t->units = ml_shape_size(t->in[1].ndim, t->in[1].shape);
  t->cost = (double)t->units * (double)t->in[0].shape[1] * 4;
  return ML_OK;
}

void K(embedding)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const ml_arg *weight = &t->in[0], *ids = &t->in[1];
  panel_room room = panel_room_at(w->scratch, MAX_BLOCK);
  float *wide = (float *)(w->scratch + panel_room_bytes(MAX_BLOCK));
  int64_t inputs = weight->shape[1];
  for (int64_t i = begin; i < end; i++) {
    int64_t id = load_index(ids->data, ids->dtype, i);
    float *o = (float *)t->out[0].data + i * inputs;
    if (id < 0 || id >= weight->shape[0]) {
      ml_raise_fault(w, ML_OP_embedding, &t->in[1], id, weight->shape[0]);
      continue;
    }
    if (weight->layout == ML_LAYOUT_STRIDED) {
      for (int64_t k = 0; k < inputs; k++)
        o[k] = load_float(weight->data, weight->dtype, id * weight->strides[0] + k * weight->strides[1]);
      continue;
    }
    const uint8_t *panel = panel_of(weight, id / PANEL_ROWS);
    for (int64_t k0 = 0; k0 < inputs; k0 += MAX_BLOCK) {
      int64_t count = ml_min64(MAX_BLOCK, inputs - k0);
      K(widen_tile)(t->isa->formats[weight->dtype], panel, k0, count, room, wide);
      for (int64_t k = 0; k < count; k++) o[k0 + k] = wide[k * PANEL_ROWS + id % PANEL_ROWS];
    }
  }
}
