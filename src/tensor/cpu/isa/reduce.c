/* reduce.c: reductions over axes: how their work is cut.
 *
 * The reduced axes form runs: of the last ones as many as make RUN_LEAST elements, in row-major order, in chunks of
 * CHUNK. Each chunk of each run gives a partial result; those of one element of the output are joined in order by
 * whoever made the last of all. Where the cuts are depends on the reduced shape alone, so that neither layout nor
 * threads nor kept axes change a bit. */
#include "tensor/cpu/isa/reduce.h"

#include "tensor/cpu/isa/move.h"
#include "tensor/cpu/isa/simd.h"

enum {
  RUN_LEAST = 1024,
  CHUNK = 1 << 15,
  UNIT = 1 << 14,    /* elements that a unit takes at least, where there are enough */
  UNITS_LEAST = 16,  /* units that there should be, at the cost of smaller ones */
  PANEL = 64,        /* rows that a unit takes at most where they lie as they are needed */
  PANEL_BYTES = 512, /* else what they have side by side: memory is read in pieces no shorter */
  COLUMNS = 512,     /* rows whose sums are made as they lie, without gathering */
  ROOM = 1 << 15     /* bytes that are gathered at once, if that holds a block of each row */
};

/* Axes with a stride in the input and one in the partial results; neighbours that lie evenly in both are one. */
typedef struct axes {
  int n;
  int64_t shape[ML_MAX_DIMS], strides[ML_MAX_DIMS], places[ML_MAX_DIMS];
} axes;

typedef struct reduce_plan {
  axes run;                      /* the elements of a run */
  axes rows;                     /* all runs: kept axes and the reduced ones that are in no run */
  int64_t length, chunk, chunks; /* of a run */
  int64_t width, panels;         /* rows a panel, panels along the last axis of rows */
  int64_t count, parts, results; /* elements a result, partials a result */
  int64_t block, step;       /* elements that a gathered row holds, and bytes from one to the next; 0: none is needed */
  bool columns;              /* rows lie side by side, and columns.c takes them */
  atomic_int_least64_t left; /* units to come */
} reduce_plan;

static void add_axis(axes *a, int64_t length, int64_t stride, int64_t place) {
  int last = a->n - 1;
  if (length == 1) return;
  if (last >= 0 && a->strides[last] == length * stride && a->places[last] == length * place) {
    a->shape[last] *= length, a->strides[last] = stride, a->places[last] = place;
    return;
  }
  a->shape[a->n] = length, a->strides[a->n] = stride, a->places[a->n] = place;
  a->n++;
}

static int64_t size_of(const axes *a) { return ml_shape_size(a->n, a->shape); }
static int64_t distance(int64_t stride) { return stride < 0 ? -stride : stride ? stride : INT64_MAX; }

/* Rows in the order in which they lie in memory; what is repeated comes first. */
static void sort_rows(axes *a) {
  axes sorted = {0};
  int order[ML_MAX_DIMS];
  for (int d = 0; d < a->n; d++) {
    int j = d;
    for (; j > 0 && distance(a->strides[order[j - 1]]) < distance(a->strides[d]); j--) order[j] = order[j - 1];
    order[j] = d;
  }
  for (int d = 0; d < a->n; d++) add_axis(&sorted, a->shape[order[d]], a->strides[order[d]], a->places[order[d]]);
  *a = sorted;
}

/* The axes from which on runs are made. */
static int first_of_runs(const ml_arg *x, unsigned reduced) {
  int64_t length = 1;
  for (int d = x->ndim - 1; d >= 0; d--) {
    if (reduced & 1u << d) length *= x->shape[d];
    if (length >= RUN_LEAST) return d;
  }
  return 0;
}

static void find_axes(reduce_plan *r, const ml_arg *x, unsigned reduced) {
  int first = first_of_runs(x, reduced);
  r->count = r->results = 1;
  for (int d = 0; d < x->ndim; d++) {
    if (!(reduced & 1u << d)) r->results *= x->shape[d];
    else {
      r->count *= x->shape[d];
      if (d >= first) add_axis(&r->run, x->shape[d], x->strides[d], 0);
    }
  }
  r->length = r->count ? size_of(&r->run) : 0;
  r->chunk = ml_min64(r->length, CHUNK);
  r->chunks = r->length ? (r->length + CHUNK - 1) / CHUNK : 1;
  r->parts = r->count ? r->count / r->length * r->chunks : 1;
  int64_t kept = r->results, outer = r->parts;
  for (int d = 0; d < x->ndim; d++) { /* row-major: results, in them runs, in them chunks */
    bool is_reduced = reduced & 1u << d;
    if ((is_reduced && d >= first) || r->results == 0 || r->count == 0) continue;
    if (is_reduced) outer /= x->shape[d], add_axis(&r->rows, x->shape[d], x->strides[d], outer);
    else kept /= x->shape[d], add_axis(&r->rows, x->shape[d], x->strides[d], kept * r->parts);
  }
  if (r->count == 0 && r->results) add_axis(&r->rows, r->results, 0, 1);
  sort_rows(&r->rows);
  if (r->rows.n == 0) r->rows = (axes){.n = 1, .shape = {r->results ? 1 : 0}};
  if (r->run.n == 0) r->run = (axes){.n = 1, .shape = {1}, .strides = {1}};
}

ml_status K(reduce_prepare)(ml_task *t) {
  reduce_plan *r = ml_calloc(1, sizeof *r);
  if (!r) return ML_MEMORY;
  t->extra = r;
  const ml_arg *x = &t->in[0];
  unsigned reduced = 0;
  const ml_attrs *a = &t->step->attrs;
  for (int i = 0; i < a->sum.axis.count; i++) reduced |= 1u << ml_attrs_list(a, a->sum.axis)[i];
  find_axes(r, x, reduced);
  int64_t item = ml_dtype_infos[x->dtype].bytes, last = r->rows.shape[r->rows.n - 1], rows = size_of(&r->rows);
  bool direct = r->run.n == 1 && r->run.strides[0] == 1;
  r->columns = !direct && r->rows.strides[r->rows.n - 1] == 1 && K(columns_sums)(t->step->op, x->dtype);
  r->width = r->columns ? COLUMNS
             : direct   ? ml_min64(PANEL, ml_max64(1, UNIT / ml_max64(1, r->chunk)))
                        : PANEL_BYTES / item;
  r->width = ml_min64(r->width, ml_max64(1, last));
  while (r->width * item > 64 && rows * r->chunks / r->width < UNITS_LEAST) r->width /= 2;
  t->scratch = (size_t)r->width * sizeof(partial);
  if (r->columns) {
    t->scratch += (size_t)(r->width * LANES) * sizeof(float);
  } else if (!direct) {
    r->block = ml_max64(ROOM / r->width / item / REDUCE_BLOCK, 1) * REDUCE_BLOCK;
    r->step = ml_min64(r->block, ml_max64(1, r->chunk)) * item + 64;
    t->scratch += (size_t)(r->step * r->width);
  }
  r->panels = (last + r->width - 1) / r->width;
  t->units = last ? rows / last * r->panels * r->chunks : 0;
  t->grain = ml_max64(1, UNIT / ml_max64(1, r->width * r->chunk));
  t->cost = (double)r->results * (double)r->count * 0.25 + (double)rows * 5;
  if (r->parts > 1) t->shared = (size_t)(r->results * r->parts) * sizeof(partial);
  atomic_init(&r->left, t->units);
  return ML_OK;
}

/* ---- gathering ---- */

/* Elements `first` to first + n of `rows` runs, side by side in rows of `room`. `stride` leads from run to run. */
static void gather(const reduce_plan *r, const char *data, int64_t stride, int64_t rows, int64_t first, int64_t n,
                   int item, char *room) {
  int last = r->run.n - 1;
  int64_t length = r->run.shape[last], along = r->run.strides[last];
  for (int64_t i = 0, m; i < n; i += m) {
    int64_t rest = (first + i) / length, at = (first + i) % length, offset = at * along;
    m = ml_min64(n - i, length - at);
    for (int d = last - 1; d >= 0; d--) {
      offset += rest % r->run.shape[d] * r->run.strides[d];
      rest /= r->run.shape[d];
    }
    const char *from = data + offset * item;
    char *to = room + i * item;
    if (stride == 1 && along != 1) {
      K(transpose)(to, r->step, from, along * item, m, rows, item);
      continue;
    }
    for (int64_t k = 0; k < rows; k++) K(move_row)(to + k * r->step, 1, from + k * stride * item, along, m, item);
  }
}

/* Addresses of n elements of a run from `first` on. */
static void find_rows(const reduce_plan *r, const char *data, int64_t first, int64_t n, int item, const char **rows) {
  int last = r->run.n - 1;
  for (int64_t i = 0; i < n; i++) {
    int64_t rest = first + i, offset = 0;
    for (int d = last; d > 0; d--) {
      offset += rest % r->run.shape[d] * r->run.strides[d];
      rest /= r->run.shape[d];
    }
    rows[i] = data + (offset + rest * r->run.strides[0]) * item;
  }
}

/* ---- the task ---- */

static void take_columns(const ml_task *t, const char *data, int64_t width, int64_t first, int64_t n, partial *p,
                         char *room) {
  const char *rows[REDUCE_BLOCK];
  ml_dtype dtype = t->in[0].dtype;
  for (int64_t i = 0; i < n; i += REDUCE_BLOCK) {
    int64_t m = ml_min64(REDUCE_BLOCK, n - i);
    find_rows(t->extra, data, first + i, m, ml_dtype_infos[dtype].bytes, rows);
    K(columns_take)(p, rows, m, dtype, width, (float *)(void *)room);
  }
}

/* Chunk number `chunk` of `rows` runs. */
static void take_panel(const ml_task *t, const char *data, int64_t stride, int64_t rows, int64_t chunk, partial *p,
                       char *room) {
  const reduce_plan *r = t->extra;
  ml_dtype dtype = t->in[0].dtype;
  int op = t->step->op, item = ml_dtype_infos[dtype].bytes;
  int64_t first = chunk * CHUNK, n = ml_min64(r->chunk, r->length - first), block = r->block ? r->block : n;
  for (int64_t k = 0; k < rows; k++) p[k] = K(partial_start)(op);
  if (r->columns) take_columns(t, data, rows, first, n, p, room);
  for (int64_t i = 0; i < n && !r->columns; i += block) {
    int64_t m = ml_min64(block, n - i), step = stride * item;
    const char *from = data + (first + i) * item;
    if (r->block) gather(r, data, stride, rows, first + i, m, item, room), from = room, step = r->step;
    for (int64_t k = 0; k < rows; k++) K(partial_take)(&p[k], op, from + k * step, dtype, m, first + i);
  }
}

/* Puts a row's partial result to the others of its element; `at` is its place among all. */
static void put_partial(const ml_task *t, int64_t at, partial p) {
  const reduce_plan *r = t->extra;
  if (r->parts == 1) {
    K(partial_finish)(&p, t, r->count, at);
    return;
  }
  p.at += at % r->parts / r->chunks * r->length;
  ((partial *)(void *)t->shared_data)[at] = p;
}

static void join_all(const ml_task *t) {
  const reduce_plan *r = t->extra;
  const partial *all = (const partial *)(const void *)t->shared_data;
  for (int64_t i = 0; i < r->results; i++) {
    partial p = K(partial_start)(t->step->op);
    for (int64_t k = 0; k < r->parts; k++) K(partial_join)(&p, &all[i * r->parts + k], t->step->op, t->in[0].dtype);
    K(partial_finish)(&p, t, r->count, i);
  }
}

void K(reduce)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  reduce_plan *r = t->extra;
  const ml_arg *x = &t->in[0];
  int last = r->rows.n - 1;
  partial *p = (partial *)(void *)w->scratch;
  char *room = w->scratch + (size_t)r->width * sizeof *p;
  for (int64_t unit = begin; unit < end; unit++) {
    int64_t chunk = unit % r->chunks, rest = unit / r->chunks, from = rest % r->panels * r->width;
    int64_t rows = ml_min64(r->width, r->rows.shape[last] - from);
    int64_t offset = from * r->rows.strides[last], place = from * r->rows.places[last] + chunk;
    rest /= r->panels;
    for (int d = last - 1; d >= 0; d--) {
      int64_t i = rest % r->rows.shape[d];
      rest /= r->rows.shape[d];
      offset += i * r->rows.strides[d], place += i * r->rows.places[d];
    }
    const char *data = x->data + offset * ml_dtype_infos[x->dtype].bytes;
    take_panel(t, data, r->rows.strides[last], rows, chunk, p, room);
    for (int64_t k = 0; k < rows; k++) put_partial(t, place + k * r->rows.places[last], p[k]);
  }
  if (r->parts == 1 || atomic_fetch_sub(&r->left, end - begin) != end - begin) return;
  join_all(t);
  atomic_store(&r->left, t->units);
}

void K(reduce_row)(const ml_task *like, const char *data, int64_t n) {
  partial p = K(partial_start)(like->step->op);
  K(partial_take)(&p, like->step->op, data, like->in[0].dtype, n, 0);
  K(partial_finish)(&p, like, n, 0);
}
