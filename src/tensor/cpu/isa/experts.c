/* experts.c: gather_linear: rows of x times the matrices of experts that ids name.
 *
 * A pair is an entry of ids with its row of x. Pairs are sorted by expert, and a block of work is up to BLOCK_PAIRS of
 * one expert, so that a matrix is read once for all of them, and only where somebody named it. Every thread sorts for
 * itself, which is sooner done than waited for. Rows are made what the weights take (forms.h) once, however many
 * experts take them: those of few pairs by every thread for itself, else by a task of their own, which brings them into
 * the order of the pairs where products read rows that follow one another. Float32 rows are taken where they lie.
 *
 * Sums are those of `linear`, term after term, whatever else is in the block. */
#include "tensor/cpu/isa/forms.h"
#include "tensor/cpu/isa/gemm.h"
#include "tensor/cpu/isa/tail.h"

/* BLOCK_PAIRS: whole calls of either product. SPARE_ROWS: behind the last row, for calls that take some too many. */
enum { FEW_PAIRS = 32, BLOCK_PAIRS = 240, SPARE_ROWS = 8, STREAM_INPUTS = 256, TILE_INPUTS = 2048 };
/* Panels of a unit: a tail is then worth its beginning. */
enum { MOST_PANELS = 8, UNITS_A_THREAD = 8, RADIX = 256 };

typedef struct pair {
  int64_t expert, index; /* of the entry of ids, row-major */
} pair;

typedef struct block {
  int64_t expert, first, count; /* pairs first.. in their order by expert */
  int64_t room;                 /* rows of bfloat16 pairs that blocks before it have room for */
} block;

/* Of an entry of ids: in the order by expert, -1 where it names none, and its block. */
typedef struct pair_place {
  int64_t order, block;
} pair_place;
_Static_assert(sizeof(pair_place) <= sizeof(pair), "places lie where pairs were sorted");

/* What a task of a step knows; places in a thread's scratch and in what threads share are in bytes. */
typedef struct gathering {
  bool panels, own; /* packed weights; each thread makes rows for itself, or nobody does */
  form form;        /* that packed weights take */
  int64_t pairs, experts, outputs, inputs;
  int64_t a_row;              /* pairs with the same row of x */
  int64_t most_blocks, cuts;  /* units of a block */
  int64_t width;              /* outputs of a unit */
  int64_t tile;               /* inputs that are expanded at once */
  size_t panel_bytes, matrix; /* of packed weights: bytes from a panel, and from an expert, to the next */
  gemm_tiles tiles;           /* of strided ones */
  size_t n_blocks, order, spare, blocks, row, panel, wide, words, products, results, tail, tile_room;
  /* What is made of rows, in a thread's scratch or in what is shared. Of strided weights and of rounded rows of many
   * pairs by expert, of pairs of bfloat16 by block, else in x's order. */
  act_place rounded;
  size_t rows;
} gathering;

/* ---- the order ---- */

static void *at(const ml_worker *w, size_t place) { return w->scratch + place; }

/* The entries of ids, checked: how many are experts. */
static int64_t read_pairs(const ml_task *t, ml_worker *w, pair *to) {
  const ml_arg *ids = &t->in[2];
  const gathering *l = t->extra;
  const int rest = ids->ndim > 0 ? ids->ndim - 1 : 0;
  const int64_t length = ids->ndim > 0 ? ids->shape[rest] : 1;
  int64_t n = 0;
  for (int64_t i = 0; i < l->pairs; i += length) {
    const int64_t row = ml_index_offset(rest, ids->shape, ids->strides, i / length);
    for (int64_t j = 0; j < length; j++) {
      const int64_t expert = checked_index(w, ML_OP_gather_linear, ids, row + j, l->experts);
      if (expert >= 0) to[n++] = (pair){expert, i + j};
    }
  }
  return n;
}

/* One pass of a radix sort, which keeps the order of equal digits. */
static void sort_by_digit(const pair *from, int64_t n, int shift, pair *to) {
  int64_t begins[RADIX + 1] = {0};
  for (int64_t i = 0; i < n; i++) begins[(from[i].expert >> shift & (RADIX - 1)) + 1]++;
  for (int digit = 0; digit < RADIX; digit++) begins[digit + 1] += begins[digit];
  for (int64_t i = 0; i < n; i++) to[begins[from[i].expert >> shift & (RADIX - 1)]++] = from[i];
}

/* Pairs by expert, equal ones in the order of ids, at `order`. */
static int64_t sort_pairs(const ml_task *t, ml_worker *w) {
  const gathering *l = t->extra;
  pair *from = at(w, l->spare), *to = at(w, l->order);
  const int64_t n = read_pairs(t, w, from);
  int shift = 0;
  do {
    sort_by_digit(from, n, shift, to);
    pair *sorted = to;
    to = from, from = sorted;
    shift += 8;
  } while (shift < 63 && (l->experts - 1) >> shift > 0);
  if (from != (pair *)at(w, l->order)) memcpy(at(w, l->order), from, (size_t)n * sizeof *from);
  return n;
}

static void find_blocks(const ml_task *t, ml_worker *w, int64_t n) {
  const gathering *l = t->extra;
  const pair *order = at(w, l->order);
  block *b = at(w, l->blocks);
  int64_t *n_blocks = at(w, l->n_blocks);
  *n_blocks = 0;
  for (int64_t i = 0; i < n; i++) {
    const block *last = *n_blocks ? &b[*n_blocks - 1] : NULL;
    if (last && last->expert == order[i].expert && last->count < BLOCK_PAIRS) b[*n_blocks - 1].count++;
    else b[(*n_blocks)++] = (block){order[i].expert, i, 1, last ? last->room + pair_room(last->count) : 0};
  }
}

/* ---- preparing ---- */

/* Whether products read rows where they lie. */
static bool takes_rows_as_they_are(const ml_task *t) {
  const gathering *l = t->extra;
  return l->panels && l->form == FLOATS && t->in[0].dtype == ML_F32;
}

static ml_status describe(ml_task *t) {
  gathering *l = ml_bump_alloc(t->memory, 1, sizeof *l);
  const ml_arg *x = &t->in[0], *w = &t->in[1], *ids = &t->in[2];
  if (!l) return ML_MEMORY;
  t->extra = l;
  *l = (gathering){.panels = w->layout == ML_LAYOUT_PANELS,
                   .pairs = ml_arg_size(ids),
                   .experts = w->shape[0],
                   .outputs = w->shape[1],
                   .inputs = w->shape[2],
                   .a_row = x->ndim == ids->ndim ? ids->shape[ids->ndim - 1] : 1};
  if (l->panels) l->form = form_of(t->isa, x, w);
  l->own = takes_rows_as_they_are(t) || (l->panels && l->pairs <= FEW_PAIRS);
  l->most_blocks = ml_min64(l->experts, l->pairs) + l->pairs / BLOCK_PAIRS;
  size_t place = 0;
  l->n_blocks = ml_reserve(&place, sizeof(int64_t));
  l->order = ml_reserve(&place, (size_t)l->pairs * sizeof(pair));
  l->spare = ml_reserve(&place, (size_t)l->pairs * sizeof(pair));
  l->blocks = ml_reserve(&place, (size_t)l->most_blocks * sizeof(block));
  t->scratch = place;
  return ML_OK;
}

/* Blocks of whole groups of pairs, at most `whole`, have room for up to a group less one row too many. */
static void reserve_rows(ml_task *t) {
  gathering *l = t->extra;
  const int64_t rows = l->pairs / l->a_row, whole = ml_min64(l->most_blocks, l->pairs / PAIR_ROWS);
  size_t *at = l->own ? &t->scratch : &t->shared;
  if (takes_rows_as_they_are(t)) return;
  if (!l->panels) l->rows = ml_reserve(at, (size_t)(l->pairs * l->inputs * ml_dtype_infos[t->in[0].dtype].bytes));
  else if (l->form == ROUNDED) l->rounded = reserve_act(at, l->own ? rows : l->pairs + SPARE_ROWS, l->inputs);
  else if (l->form == FLOATS) l->rows = ml_reserve(at, (size_t)(rows * l->inputs) * sizeof(float));
  else l->rows = ml_reserve(at, pair_bytes(1, l->inputs) * (size_t)(l->pairs + whole * (PAIR_ROWS - 1)));
  if (l->panels && l->form == ROUNDED) l->row = ml_reserve(&t->scratch, (size_t)l->inputs * sizeof(float));
}

static char *made_rows(const ml_task *t, const ml_worker *w) {
  return ((const gathering *)t->extra)->own ? w->scratch : t->shared_data;
}

static act rounded_rows(const ml_task *t, const ml_worker *w) {
  const gathering *l = t->extra;
  return act_at(made_rows(t, w), &l->rounded, l->inputs);
}

static pair_rows pairs_of(const ml_task *t, const ml_worker *w, const block *b) {
  const gathering *l = t->extra;
  uint16_t *rows = (uint16_t *)(void *)(made_rows(t, w) + l->rows);
  return (pair_rows){rows + b->room * pair_steps(l->inputs) * PAIR_INPUTS, b->count, l->inputs};
}

static float *float_row(const ml_task *t, const ml_worker *w, int64_t row) {
  const gathering *l = t->extra;
  return (float *)(void *)(made_rows(t, w) + l->rows) + row * l->inputs;
}

static const char *row_of_pair(const ml_task *t, int64_t index) {
  const gathering *l = t->extra;
  const ml_arg *x = &t->in[0];
  return x->data +
         ml_index_offset(x->ndim - 1, x->shape, x->strides, index / l->a_row) * ml_dtype_infos[x->dtype].bytes;
}

/* Rounds row `row` of x. */
static void round_row(const ml_task *t, int64_t row, const act *to, int64_t place, ml_worker *w) {
  const gathering *l = t->extra;
  const float *x = read_tile(at(w, l->row), row_of_pair(t, row * l->a_row), t->in[0].dtype, 1, (int)l->inputs);
  K(round_row)(x, l->inputs, to, place);
}

static void widen_row(const ml_task *t, int64_t row, const ml_worker *w) {
  const gathering *l = t->extra;
  K(load_tile)
  (float_row(t, w, row), row_of_pair(t, row * l->a_row), t->in[0].dtype, 1, (int)l->inputs);
}

/* n items of row `from` at `base` to row `to`; zeros where `from` is none. */
static void copy_part(const void *base, int64_t n, size_t item, int64_t from, int64_t to) {
  char *part = (char *)(uintptr_t)base;
  const size_t bytes = (size_t)n * item;
  if (from < 0) memset(part + (size_t)to * bytes, 0, bytes);
  else memcpy(part + (size_t)to * bytes, part + (size_t)from * bytes, bytes);
}

static void copy_rounded(const act *a, int64_t from, int64_t to) {
  copy_part(a->q, a->K, sizeof *a->q, from, to);
  copy_part(a->d, a->K / ACT_BLOCK, sizeof *a->d, from, to);
  copy_part(a->sums, a->K / ACT_SUM, sizeof *a->sums, from, to);
  copy_part(a->scaled, a->K / ACT_BLOCK, sizeof *a->scaled, from, to);
}

/* ---- rows by expert ---- */

/* The place of each pair, at `spare`. */
static void place_prologue(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)begin, (void)end;
  const gathering *l = t->extra;
  const pair *order = at(w, l->order);
  const block *blocks = at(w, l->blocks);
  pair_place *places = at(w, l->spare);
  find_blocks(t, w, sort_pairs(t, w));
  for (int64_t i = 0; i < l->pairs; i++) places[i] = (pair_place){-1, -1};
  for (int64_t b = 0; b < *(const int64_t *)at(w, l->n_blocks); b++) {
    for (int64_t i = blocks[b].first; i < blocks[b].first + blocks[b].count; i++)
      places[order[i].index] = (pair_place){i, b};
  }
}

/* A unit is a row of x; one more fills spare rows, which calls for too many rows read. */
ml_status K(gather_rows_prepare)(ml_task *t) {
  ML_TRY(describe(t));
  const gathering *l = t->extra;
  if (l->own || l->pairs == 0) return ML_OK;
  reserve_rows(t);
  if (!l->panels || l->form != FLOATS) t->prologue = place_prologue; /* those lie in x's order */
  t->units = l->pairs / l->a_row + 1;
  t->grain = ml_max64(1, ml_min64(32, t->units / (t->threads * UNITS_A_THREAD)));
  t->cost = (double)l->pairs * ((double)l->inputs * 0.3 + 10);
  return ML_OK;
}

/* Brings row `row` of x to where its pairs are in their order. */
static void bring_row(const ml_task *t, int64_t row, const pair_place *places, ml_worker *w) {
  const gathering *l = t->extra;
  const char *x = row_of_pair(t, row * l->a_row);
  const size_t bytes = (size_t)(l->inputs * ml_dtype_infos[t->in[0].dtype].bytes);
  const act a = rounded_rows(t, w);
  int64_t first = -1;
  for (int64_t j = 0; j < l->a_row; j++) {
    const pair_place p = places[row * l->a_row + j];
    if (p.order < 0) continue;
    if (!l->panels) {
      memcpy(t->shared_data + l->rows + (size_t)p.order * bytes, x, bytes);
    } else if (l->form == PAIRS) {
      const block *b = (const block *)at(w, l->blocks) + p.block;
      const pair_rows to = pairs_of(t, w, b);
      put_pairs(&to, p.order - b->first, x, ML_BF16);
    } else if (first >= 0) {
      copy_rounded(&a, first, p.order);
    } else {
      round_row(t, row, &a, p.order, w);
      first = p.order;
    }
  }
}

/* Zeros behind the last rounded row. */
static void fill_spare_rows(const ml_task *t, ml_worker *w) {
  const gathering *l = t->extra;
  const int64_t n_blocks = *(const int64_t *)at(w, l->n_blocks);
  const block *last = (const block *)at(w, l->blocks) + ml_max64(n_blocks - 1, 0);
  const act a = rounded_rows(t, w);
  for (int64_t i = 0; i < SPARE_ROWS; i++) copy_rounded(&a, -1, (n_blocks ? last->first + last->count : 0) + i);
}

void K(gather_rows)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const gathering *l = t->extra;
  const int64_t rows = l->pairs / l->a_row;
  if (l->inputs == 0) return; /* ids are looked at there too */
  for (int64_t r = begin; r < end; r++) {
    if (r < rows && l->panels && l->form == FLOATS) widen_row(t, r, w);
    else if (r < rows) bring_row(t, r, at(w, l->spare), w);
    else if (l->panels && l->form == ROUNDED) fill_spare_rows(t, w);
  }
}

/* ---- products ---- */

static void make_few_rows(const ml_task *t, ml_worker *w) {
  const gathering *l = t->extra;
  const pair *order = at(w, l->order);
  const block *blocks = at(w, l->blocks);
  const act a = rounded_rows(t, w);
  for (int64_t r = 0; l->form != PAIRS && r < l->pairs / l->a_row; r++) {
    if (l->form == ROUNDED) round_row(t, r, &a, r, w);
    else widen_row(t, r, w);
  }
  for (int64_t i = 0; l->form == PAIRS && i < *(const int64_t *)at(w, l->n_blocks); i++) {
    const pair_rows to = pairs_of(t, w, &blocks[i]);
    for (int64_t r = 0; r < to.rows; r++) put_pairs(&to, r, row_of_pair(t, order[blocks[i].first + r].index), ML_BF16);
  }
}

static void prologue(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)begin, (void)end;
  const gathering *l = t->extra;
  find_blocks(t, w, sort_pairs(t, w));
  if (l->own && !takes_rows_as_they_are(t)) make_few_rows(t, w);
}

/* Rows that a block's products with a panel have room for. */
static int64_t product_rows(const gathering *l) {
  const int64_t most = ml_min64(BLOCK_PAIRS, l->pairs);
  return l->form == PAIRS ? pair_room(most) : most + SPARE_ROWS;
}

static int64_t panels_at_once(const gathering *l) { return l->form == PAIRS ? PAIR_PANELS : 1; }

/* Panels: few enough in a unit that all threads have several. */
static void cut_panels(ml_task *t, gathering *l) {
  const ml_dtype_info *info = &ml_dtype_infos[t->in[1].dtype];
  const int64_t panels = (l->outputs + PANEL_ROWS - 1) / PANEL_ROWS, groups = (l->outputs + t->group - 1) / t->group,
                share = panels * l->most_blocks / (t->threads * UNITS_A_THREAD),
                of_unit = ml_max64(1, ml_min64(ml_min64(MOST_PANELS, share), panels));
  l->panel_bytes = (size_t)(PANEL_ROWS * (l->inputs / info->block)) * (size_t)info->bytes;
  l->matrix = (size_t)(groups * (t->group / PANEL_ROWS)) * l->panel_bytes;
  l->width = of_unit * PANEL_ROWS;
  l->cuts = (panels + of_unit - 1) / of_unit;
  l->tile = l->pairs <= FEW_PAIRS ? STREAM_INPUTS
                                  : ml_min64(TILE_INPUTS, (l->inputs + MAX_BLOCK - 1) / MAX_BLOCK * MAX_BLOCK);
  l->panel = ml_reserve(&t->scratch, l->form == PAIRS ? 0 : panel_room_bytes(l->tile));
  l->wide = ml_reserve(&t->scratch, l->form == FLOATS ? (size_t)l->tile * PANEL_ROWS * sizeof(float) : 0);
  l->words = ml_reserve(&t->scratch, l->form == PAIRS ? PAIR_SCRATCH : 0);
  const int64_t rows = product_rows(l);
  l->products = ml_reserve(&t->scratch, (size_t)(rows * LANES * panels_at_once(l)) * sizeof(float));
  l->results = ml_reserve(&t->scratch, t->step->fused ? (size_t)(rows * l->width) * sizeof(float) : 0);
}

static void cut_tiles(ml_task *t, gathering *l) {
  l->tiles = K(gemm_cut)(l->most_blocks, ml_min64(BLOCK_PAIRS, l->pairs), l->outputs, l->inputs, true, t->threads, 1);
  l->width = l->tiles.columns;
  l->cuts = l->tiles.along;
  l->tile_room = ml_reserve(&t->scratch, l->tiles.scratch);
  l->results = ml_reserve(&t->scratch, (size_t)l->width * sizeof(double)); /* a row, in float64 */
}

ml_status K(gather_linear_prepare)(ml_task *t) {
  ML_TRY(describe(t));
  gathering *l = t->extra;
  if (l->pairs == 0) return ML_OK;
  if (l->panels) cut_panels(t, l);
  else cut_tiles(t, l);
  reserve_rows(t);
  l->tail = ml_reserve(&t->scratch, K(tail_room)(t));
  t->prologue = prologue;
  t->units = l->most_blocks * l->cuts;
  t->cost = (double)l->pairs * ((double)l->outputs * (double)l->inputs / PANEL_ROWS + 10);
  return ML_OK;
}

static const float *floats_of_pair(const ml_task *t, const ml_worker *w, int64_t index) {
  const gathering *l = t->extra;
  if (takes_rows_as_they_are(t)) return (const float *)(const void *)row_of_pair(t, index);
  return float_row(t, w, index / l->a_row);
}

/* products[count][16] += the rows of a block times a tile in float32. */
static void multiply_floats(const ml_task *t, const block *b, const ml_worker *w, const float *wide, int64_t k0,
                            int64_t n, float *products) {
  const pair *order = at(w, ((const gathering *)t->extra)->order);
  for (int64_t r = 0, rows; r < b->count; r += rows) {
    const int64_t left = b->count - r, calls = (left + DOT_ROWS - 1) / DOT_ROWS;
    const float *x[DOT_ROWS];
    rows = (left + calls - 1) / calls; /* as even as can be: a call of few rows takes as long as one of many */
    for (int64_t i = 0; i < rows; i++) x[i] = floats_of_pair(t, w, order[b->first + r + i].index) + k0;
    K(dot_floats_at)(wide, x, (int)rows, n, products + r * LANES);
  }
}

/* The same of rounded rows and codes. A last call of three rows and more takes too many, which nobody wants: it takes
 * no longer than calls of two and of one. */
static void multiply_codes(const ml_task *t, const block *b, const pair *order, const act *a, panel_room codes,
                           int64_t k0, int64_t n, float *products) {
  const gathering *l = t->extra;
  const ml_format *f = t->isa->formats[t->in[1].dtype];
  const int64_t rest = b->count % MOST_ROWS, rows = rest > 2 ? b->count - rest + MOST_ROWS : b->count;
  if (!l->own) {
    K(dot_codes)(f, codes.codes, codes.scale, codes.min, a, b->first, (int)rows, k0, n, products);
    return;
  }
  for (int64_t r = 0; r < b->count; r++) {
    const int64_t row = order[b->first + r].index / l->a_row;
    K(dot_codes)(f, codes.codes, codes.scale, codes.min, a, row, 1, k0, n, products + r * LANES);
  }
}

/* products[count][16] = the rows of a block times a panel. */
static void multiply_panel(const ml_task *t, const block *b, const uint8_t *panel, ml_worker *w, float *products) {
  const gathering *l = t->extra;
  const ml_format *f = t->isa->formats[t->in[1].dtype];
  const pair *order = at(w, l->order);
  const int64_t first = order[b->first].index;
  const act a = rounded_rows(t, w);
  const panel_room codes = panel_room_at(at(w, l->panel), l->tile);
  float *wide = at(w, l->wide);
  memset(products, 0, (size_t)((b->count + SPARE_ROWS) * LANES) * sizeof *products);
  if (b->count == 1 && l->form == ROUNDED) {
    f->stream(f, panel, l->inputs, &a, l->own ? first / l->a_row : b->first, products);
    return;
  }
  if (b->count == 1 && f->stream_floats) {
    f->stream_floats(panel, l->inputs, floats_of_pair(t, w, first), products);
    return;
  }
  for (int64_t k0 = 0; k0 < l->inputs; k0 += l->tile) {
    const int64_t n = ml_min64(l->tile, l->inputs - k0);
    if (l->form == ROUNDED) {
      K(expand_tile)(f, panel, k0, n, codes);
      multiply_codes(t, b, order, &a, codes, k0, n, products);
    } else {
      K(widen_tile)(f, panel, k0, n, codes, wide);
      multiply_floats(t, b, w, wide, k0, n, products);
    }
  }
}

/* Products of a block with panels from `panel` on, of which `width` outputs are left: how many outputs were taken. */
static int64_t multiply_panels(const ml_task *t, const block *b, const uint8_t *panel, int64_t width, ml_worker *w,
                               float *const *products) {
  const gathering *l = t->extra;
  if (l->form != PAIRS) {
    multiply_panel(t, b, panel, w, products[0]);
    return PANEL_ROWS;
  }
  const pair_rows x = pairs_of(t, w, b);
  const int n = width > PANEL_ROWS ? PAIR_PANELS : 1;
  K(pairs_multiply)
  (t->isa, &x, (const uint8_t *const[]){panel, panel + l->panel_bytes}, n, at(w, l->words), products);
  return n * PANEL_ROWS;
}

/* A row of the result, or a part of it, as it is. */
static void store_part(const ml_task *t, int64_t row, int64_t column, const float *from, int64_t n) {
  const gathering *l = t->extra;
  const ml_arg *o = &t->out[0];
  char *to = o->data + (row * l->outputs + column) * ml_dtype_infos[o->dtype].bytes;
  store_columns(to, o->dtype, from, n);
}

static void run_panels(const ml_task *t, const block *b, int64_t n0, ml_worker *w) {
  const gathering *l = t->extra;
  const pair *order = (const pair *)at(w, l->order) + b->first;
  const ml_arg *weight = &t->in[1];
  const int64_t width = ml_min64(l->width, l->outputs - n0);
  const uint8_t *first =
      (const uint8_t *)weight->data + (size_t)b->expert * l->matrix + (size_t)(n0 / PANEL_ROWS) * l->panel_bytes;
  float *products = at(w, l->products), *results = at(w, l->results);
  float *both[PAIR_PANELS] = {products, products + product_rows(l) * LANES};
  if (l->form == PAIRS) K(pairs_begin)(t->isa, b->count);
  for (int64_t n = 0, taken; n < width; n += taken) {
    taken = multiply_panels(t, b, first + (size_t)(n / PANEL_ROWS) * l->panel_bytes, width - n, w, both);
    for (int64_t k = 0; k < taken; k += PANEL_ROWS) {
      const float *from = both[k / PANEL_ROWS];
      const int64_t columns = ml_min64(PANEL_ROWS, width - n - k);
      for (int64_t r = 0; r < b->count; r++) {
        if (t->step->fused) memcpy(results + r * l->width + n + k, from + r * LANES, PANEL_ROWS * sizeof *results);
        else store_part(t, order[r].index, n0 + n + k, from + r * LANES, columns);
      }
    }
  }
  if (l->form == PAIRS) K(pairs_end)(t->isa, b->count);
  for (int64_t r = 0; t->step->fused && r < b->count; r++)
    K(tail_run)(t, order[r].index, n0, results + r * l->width, width, at(w, l->tail));
}

/* ---- strided weights ---- */

static void scatter(const gemm *g, float *sums, int64_t pitch, int64_t m0, int64_t rows, int64_t n0, int64_t columns) {
  const ml_task *t = g->context;
  const gathering *l = t->extra;
  const pair *order = (const pair *)(const void *)(g->room + l->order) + g->first_row + m0;
  for (int64_t r = 0; r < rows; r++) {
    if (t->step->fused) K(tail_run)(t, order[r].index, n0, sums + r * pitch, columns, g->tail_room);
    else store_part(t, order[r].index, n0, sums + r * pitch, columns);
  }
}

static void run_doubles(const gemm *g, int64_t n0, int64_t columns, double *row) {
  const ml_task *t = g->context;
  const gathering *l = t->extra;
  const pair *order = (const pair *)(const void *)(g->room + l->order) + g->first_row;
  for (int64_t m = 0; m < g->M; m++) {
    double *to = t->step->fused ? row : (double *)(void *)t->out[0].data + order[m].index * l->outputs + n0;
    K(multiply_row)(g, m, n0, columns, to);
    if (t->step->fused) K(tail_run)(t, order[m].index, n0, row, columns, g->tail_room);
  }
}

static void run_tiles(const ml_task *t, const block *b, int64_t n0, ml_worker *w) {
  const gathering *l = t->extra;
  const ml_arg *x = &t->in[0], *weight = &t->in[1];
  const ml_dtype_info *info = &ml_dtype_infos[weight->dtype];
  const char *rows = t->shared_data + l->rows + b->first * l->inputs * ml_dtype_infos[x->dtype].bytes;
  const gemm g = {.M = b->count,
                  .N = l->outputs,
                  .K = l->inputs,
                  .a = {rows, x->dtype, l->inputs, 1},
                  .b = {weight->data + b->expert * weight->strides[0] * info->bytes, weight->dtype, weight->strides[1],
                        weight->strides[2]},
                  .out_dtype = tail_dtype(t),
                  .dots = t->isa->bf16_dots && x->dtype == ML_BF16 && weight->dtype == ML_BF16,
                  .store = scatter,
                  .first_row = b->first,
                  .context = t,
                  .tail_room = at(w, l->tail),
                  .room = w->scratch};
  if (g.out_dtype == ML_F64) {
    run_doubles(&g, n0, ml_min64(l->width, l->outputs - n0), at(w, l->results));
    return;
  }
  for (int64_t m0 = 0; m0 < g.M; m0 += l->tiles.rows) K(gemm_tile)(&g, &l->tiles, m0, n0, at(w, l->tile_room));
}

void K(gather_linear)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const gathering *l = t->extra;
  const block *blocks = at(w, l->blocks);
  const int64_t n_blocks = *(const int64_t *)at(w, l->n_blocks);
  K(tail_begin)(t, at(w, l->tail));
  for (int64_t u = begin; u < end && u / l->cuts < n_blocks; u++) {
    const block *b = &blocks[u / l->cuts];
    if (l->panels) run_panels(t, b, u % l->cuts * l->width, w);
    else run_tiles(t, b, u % l->cuts * l->width, w);
  }
}
