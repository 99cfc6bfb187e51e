/* linear.c: products with packed weights (ML_STEP_LINEARS) and look-ups in them.
 *
 * A unit of work is one panel (16 outputs) of one of the step's units, for all rows. Few rows: each thread normalises
 * rows and makes of them what weights take for itself (no barrier), then streams panels, tile after tile. Many rows: a
 * task of its own does that, a panel is expanded once and multiplied with all of them. Finished products go through the
 * unit's epilogue ROW_TILE rows at a time. */
#include "tensor/cpu/isa/forms.h"
#include "tensor/cpu/isa/norm.h"

enum { FEW_ROWS = 4, ROW_TILE = TILE / LANES, STREAM_TILE = 256, MAX_TILE = 2048 };

/* Where things lie in bytes: what is made of the rows (with few rows in a thread's scratch, else in what all share),
 * and a thread's own room. */
typedef struct layout {
  bool few, takes[FLOATS + 1];
  bool loads; /* rows go through float32 on the way: they are normalised, or no float32 */
  int64_t K, M;
  int64_t first_panel[ML_LINEARS_MAX_UNITS + 1];
  act_place rounded;
  size_t floats, pairs, made;
  size_t row, panel, wide, words, products, regs;
  size_t pitch[ML_LINEARS_MAX_UNITS]; /* from register to register of a unit's program */
} layout;

static form weight_form(const ml_task *t, const ml_arg *w) { return form_of(t->isa, &t->in[0], w); }

static void scan_weights(const ml_task *t, layout *l) {
  const ml_linears *units = t->step->linears;
  l->M = t->in[0].shape[0];
  l->K = t->in[0].shape[1];
  l->few = l->M <= FEW_ROWS;
  l->loads = units->norm || t->in[0].dtype != ML_F32;
  for (int u = 0; u < units->n_units; u++) {
    const ml_linear_unit *unit = &units->units[u];
    l->pitch[u] = unit->epilogue ? register_pitch(unit->epilogue) : 0;
    l->first_panel[u + 1] = l->first_panel[u] + (t->in[unit->weights[0]].shape[0] + PANEL_ROWS - 1) / PANEL_ROWS;
    for (int i = 0; i < unit->n_weights; i++) l->takes[weight_form(t, &t->in[unit->weights[i]])] = true;
  }
}

static void place_rows(layout *l) {
  l->floats = ml_reserve(&l->made, l->loads && l->takes[FLOATS] ? (size_t)(l->M * l->K) * 4 : 0);
  l->rounded = reserve_act(&l->made, l->takes[ROUNDED] ? l->M : 0, l->K);
  l->pairs = ml_reserve(&l->made, l->takes[PAIRS] ? pair_bytes(l->M, l->K) : 0);
}

static bool makes_rows(const layout *l) { return l->loads || l->takes[ROUNDED] || l->takes[PAIRS]; }

static char *made_rows(const ml_task *t, const ml_worker *w) {
  return ((const layout *)t->extra)->few ? w->scratch : t->shared_data;
}

static pair_rows pairs_at(char *base, const layout *l) {
  return (pair_rows){(uint16_t *)(void *)(base + l->pairs), l->M, l->K};
}

static int64_t tile_inputs(const layout *l) {
  return l->few ? STREAM_TILE : ml_min64(MAX_TILE, (l->K + MAX_BLOCK - 1) / MAX_BLOCK * MAX_BLOCK);
}

static const char *input_row(const ml_task *t, int64_t r) {
  const ml_arg *x = &t->in[0];
  return x->data + r * x->strides[0] * ml_dtype_infos[x->dtype].bytes;
}

/* A row as float32, normalised where the step does that and rounded to its dtype. */
static const float *load_row(const ml_task *t, int64_t r, float *to) {
  const layout *l = t->extra;
  const ml_linears *units = t->step->linears;
  const ml_dtype dtype = t->in[0].dtype;
  if (!l->loads) return (const float *)(const void *)input_row(t, r);
  const float *x = read_tile(to, input_row(t, r), dtype, 1, (int)l->K);
  if (!units->norm) return x;
  K(rms_norm_row)(x, (const float *)t->in[1].data, (float)units->norm_offset, (float)units->eps, l->K, to);
  if (dtype != ML_F32) K(round_tile)(to, dtype, (int)l->K);
  return to;
}

/* Makes of rows begin..end-1 what the weights take, at `base`. `room`: a row of float32. */
static void make_rows(const ml_task *t, int64_t begin, int64_t end, char *base, float *room) {
  const layout *l = t->extra;
  const bool norm = t->step->linears->norm;
  const pair_rows pairs = pairs_at(base, l);
  const act a = act_at(base, &l->rounded, l->K);
  for (int64_t r = begin; r < end; r++) {
    const float *x = NULL;
    if (l->takes[ROUNDED] || l->takes[FLOATS] || norm)
      x = load_row(t, r, l->loads && l->takes[FLOATS] ? (float *)(void *)(base + l->floats) + r * l->K : room);
    if (l->takes[PAIRS] && norm) put_pairs(&pairs, r, x, ML_F32);
    else if (l->takes[PAIRS]) put_pairs(&pairs, r, input_row(t, r), ML_BF16);
    if (l->takes[ROUNDED]) K(round_row)(x, l->K, &a, r);
  }
}

static void prologue(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)begin, (void)end;
  const layout *l = t->extra;
  make_rows(t, 0, l->M, w->scratch, (float *)(void *)(w->scratch + l->row));
}

ml_status K(linears_prepare)(ml_task *t) {
  layout *l = ml_bump_alloc(t->memory, 1, sizeof *l);
  if (!l) return ML_MEMORY;
  t->extra = l;
  scan_weights(t, l);
  place_rows(l);
  int64_t tile = tile_inputs(l), products = ml_max64(ROW_TILE, pair_room(l->M));
  size_t at = l->few ? l->made : 0;
  if (!l->few) t->shared = l->made;
  l->row = ml_reserve(&at, l->few ? (size_t)l->K * 4 : 0);
  l->panel = ml_reserve(&at, panel_room_bytes(tile));
  l->wide = ml_reserve(&at, l->takes[FLOATS] ? (size_t)tile * PANEL_ROWS * 4 : 0);
  l->words = ml_reserve(&at, l->takes[PAIRS] ? PAIR_SCRATCH : 0);
  l->products = ml_reserve(&at, (size_t)products * LANES * 4 * ML_UNIT_MAX_WEIGHTS);
  l->regs = ml_reserve(&at, tile_room(ML_FUSED_MAX_INPUTS + ML_FUSED_MAX_CODE));
  t->scratch = at;
  if (l->few && makes_rows(l)) t->prologue = prologue;
  t->units = l->first_panel[t->step->linears->n_units];
  t->grain = ml_max64(1, t->units / 32);
  t->cost = (double)t->units * (double)l->K * (double)l->M;
  return ML_OK;
}

ml_status K(convert_rows_prepare)(ml_task *t) {
  layout *l = ml_bump_alloc(t->memory, 1, sizeof *l);
  if (!l) return ML_MEMORY;
  t->extra = l;
  scan_weights(t, l);
  if (!makes_rows(l)) return ML_OK;
  place_rows(l);
  t->shared = l->made;
  t->scratch = (size_t)l->K * 4;
  t->units = l->M;
  t->grain = 4;
  return ML_OK;
}

void K(convert_rows)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  make_rows(t, begin, end, t->shared_data, (float *)(void *)w->scratch);
}

/* products[M][16] = all rows times one panel, tile by tile: each tile is expanded once. */
static void multiply(const ml_task *t, const ml_arg *w, const uint8_t *panel, ml_worker *worker, float *products) {
  const layout *l = t->extra;
  const ml_format *f = t->isa->formats[w->dtype];
  char *room = worker->scratch, *made = made_rows(t, worker);
  float *wide = (float *)(room + l->wide);
  const bool rounded = weight_form(t, w) == ROUNDED;
  act a = act_at(made, &l->rounded, l->K);
  const float *x = (const float *)(const void *)(l->loads ? made + l->floats : input_row(t, 0));
  memset(products, 0, (size_t)l->M * LANES * sizeof *products);
  if (rounded && l->M == 1) {
    f->stream(f, panel, l->K, &a, 0, products);
    return;
  }
  if (f->stream_floats && l->M == 1) {
    f->stream_floats(panel, l->K, x, products);
    return;
  }
  int64_t tile = tile_inputs(l), pitch = l->loads ? l->K : t->in[0].strides[0];
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
    store_columns(to, o->dtype, from, width);
  }
}

/* Columns of rows first.. of what a unit's program reads. */
static void load_rows(const ml_arg *x, int64_t first, int64_t rows, int64_t column, int64_t width, char *reg) {
  for (int64_t r = 0; r < rows; r++) {
    const char *from =
        x->data + ((first + r) * x->strides[0] + column * x->strides[1]) * ml_dtype_infos[x->dtype].bytes;
    char *to = reg + (size_t)(r * LANES) * register_item(x->dtype);
    if (x->dtype == ML_BF16 && width == LANES && x->strides[1] == 1)
      v_store((float *)(void *)to, v_load_bf16((const uint16_t *)(const void *)from));
    else if (x->dtype == ML_F32 && width == LANES && x->strides[1] == 1) memcpy(to, from, LANES * sizeof(float));
    else K(load_tile)(to, from, x->dtype, x->strides[1], (int)width);
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
  for (int i = 0; i < unit->n_weights; i++) {
    regs[i] = products[i];
    if (f && t->in[0].dtype != ML_F32) K(round_tile)(regs[i], t->in[0].dtype, (int)(rows * LANES));
  }
  for (int i = 0; i < unit->n_extra; i++)
    load_rows(&t->in[unit->extra[i]], first, rows, column, width, regs[unit->n_weights + i]);
  if (f) {
    K(fused_constants)(f, regs, (int)(rows * LANES));
    K(fused_run)(f, regs, (int)(rows * LANES));
  }
  for (int k = 0; k < unit->n_outputs; k++)
    store_rows(&t->out[unit->first_output + k], first, rows, column, width, regs[f ? f->outputs[k] : 0]);
}

static int unit_of(const layout *l, int64_t panel) {
  int u = 0;
  while (panel >= l->first_panel[u + 1]) u++;
  return u;
}

/* How many panels from p on are taken at once: of pairs two, be it of two weights or of one. */
static int64_t take_panels(const ml_task *t, int u, int64_t p, int64_t end) {
  const layout *l = t->extra;
  const ml_linear_unit *unit = &t->step->linears->units[u];
  bool two = unit->n_weights == 1 && weight_form(t, &t->in[unit->weights[0]]) == PAIRS;
  return two && p + 1 < ml_min64(end, l->first_panel[u + 1]) ? 2 : 1;
}

/* products[i] of `count` panels of unit u, or of one of each of its weights. */
static void multiply_unit(const ml_task *t, int u, int64_t panel, int64_t count, ml_worker *w, float *const *products) {
  const layout *l = t->extra;
  const ml_linear_unit *unit = &t->step->linears->units[u];
  const uint8_t *panels[ML_UNIT_MAX_WEIGHTS];
  const bool pairs = weight_form(t, &t->in[unit->weights[0]]) == PAIRS; /* which they all are: weights of a dtype */
  int n = 0;
  for (int i = 0; i < unit->n_weights; i++) {
    const ml_arg *weight = &t->in[unit->weights[i]];
    for (int64_t k = 0; k < count; k++) panels[n++] = panel_of(weight, panel + k);
    if (!pairs) multiply(t, weight, panels[i], w, products[i]);
  }
  const pair_rows x = pairs_at(made_rows(t, w), l);
  if (pairs) K(pairs_multiply)(t->isa, &x, panels, n, w->scratch + l->words, products);
}

void K(linears)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const layout *l = t->extra;
  float *products[ML_UNIT_MAX_WEIGHTS];
  int64_t kept = ml_max64(ROW_TILE, pair_room(l->M)), count;
  for (int i = 0; i < ML_UNIT_MAX_WEIGHTS; i++) products[i] = (float *)(w->scratch + l->products) + i * kept * LANES;
  if (l->takes[PAIRS]) K(pairs_begin)(t->isa, l->M);
  for (int64_t p = begin; p < end; p += count) {
    int u = unit_of(l, p);
    int64_t panel = p - l->first_panel[u];
    count = take_panels(t, u, p, end);
    multiply_unit(t, u, panel, count, w, products);
    for (int64_t k = 0; k < count; k++) {
      for (int64_t r = 0; r < l->M; r += ROW_TILE) {
        float *rows[ML_UNIT_MAX_WEIGHTS] = {products[k] + r * LANES, products[1] + r * LANES};
        finish(t, u, (panel + k) * PANEL_ROWS, r, ml_min64(ROW_TILE, l->M - r), w->scratch, rows);
      }
    }
  }
  if (l->takes[PAIRS]) K(pairs_end)(t->isa, l->M);
}

/* ---- look-up ---- */

ml_status K(embedding_prepare)(ml_task *t) {
  t->scratch = panel_room_bytes(MAX_BLOCK) + (size_t)MAX_BLOCK * (PANEL_ROWS + 1) * sizeof(float);
  t->units = ml_shape_size(t->in[1].ndim, t->in[1].shape);
  t->cost = (double)t->units * (double)t->in[0].shape[1] * 4;
  return ML_OK;
}

/* Inputs k0.. of a row of the weight as float32. */
static void look_up(const ml_task *t, int64_t id, int64_t k0, int64_t count, panel_room room, float *wide, float *row) {
  const ml_arg *w = &t->in[0];
  if (w->layout == ML_LAYOUT_STRIDED) {
    const char *from = w->data + (id * w->strides[0] + k0 * w->strides[1]) * ml_dtype_infos[w->dtype].bytes;
    K(load_tile)(row, from, w->dtype, w->strides[1], (int)count);
    return;
  }
  K(widen_tile)(t->isa->formats[w->dtype], panel_of(w, id / PANEL_ROWS), k0, count, room, wide);
  for (int64_t k = 0; k < count; k++) row[k] = wide[k * PANEL_ROWS + id % PANEL_ROWS];
}

void K(embedding)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const ml_arg *weight = &t->in[0], *ids = &t->in[1];
  panel_room room = panel_room_at(w->scratch, MAX_BLOCK);
  float *wide = (float *)(w->scratch + panel_room_bytes(MAX_BLOCK)), *row = wide + MAX_BLOCK * PANEL_ROWS;
  int64_t inputs = weight->shape[1];
  for (int64_t i = begin; i < end; i++) {
    int64_t id = load_index(ids->data, ids->dtype, i);
    char *o = t->out[0].data + i * inputs * ml_dtype_infos[t->out[0].dtype].bytes;
    if (id < 0 || id >= weight->shape[0]) {
      ml_raise_fault(w, ML_OP_embedding, &t->in[1], id, weight->shape[0]);
      continue;
    }
    for (int64_t k0 = 0; k0 < inputs; k0 += MAX_BLOCK) {
      int64_t count = ml_min64(MAX_BLOCK, inputs - k0);
      look_up(t, id, k0, count, room, wide, row);
      K(store_tile)(o + k0 * ml_dtype_infos[t->out[0].dtype].bytes, t->out[0].dtype, 1, row, (int)count);
    }
  }
}
