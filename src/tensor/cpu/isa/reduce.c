/* reduce.c: reductions over axes: how their work is cut.
 *
 * The reduced axes form runs: of the last ones as many as make RUN_LEAST elements, in row-major order, in chunks of
 * CHUNK. Each chunk of each run gives a partial result; those of one element of the output are joined in order by
 * whoever made the last of all. Where the cuts are depends on the reduced shape alone, so that neither layout nor
 * threads nor kept axes change a bit.
 *
 * What an elementwise program computes before a reduction is written nowhere: each piece of it is made when it is
 * taken, as if it lay densely in memory. */
#include "tensor/cpu/isa/reduce.h"

#include "tensor/cpu/isa/move.h"
#include "tensor/cpu/isa/simd.h"

enum {
  RUN_LEAST = 1024,
  CHUNK = 1 << 13,
  UNIT = 1 << 14,      /* elements that a unit takes at least, where there are enough */
  UNITS_A_THREAD = 2,  /* units that there should be, at the cost of smaller ones; of more, columns lose pages */
  PANEL = 64,          /* rows that a unit takes at most where they lie as they are needed */
  PANEL_BYTES = 512,   /* else what they have side by side: memory is read in pieces no shorter */
  COLUMN_BYTES = 4096, /* the same of columns that are taken as they lie: whole pages */
  SHORT = 64,          /* rows no longer than this are turned and taken as columns */
  TURNED = 256,        /* so many of them */
  ROOM = 1 << 15,      /* bytes that are gathered at once, if that holds a block of each row */
  MADE = 1024,         /* elements of a row that a program makes at once */
  MADE_BYTES = 2048    /* and the bytes of columns side by side */
};

/* How rows are taken. */
typedef enum way {
  PIECES,  /* as they lie: in pieces of whole blocks */
  COLUMNS, /* side by side as they lie, by columns.c */
  TURN,    /* too short for a vector each to pay: by short_rows.c, or turned into columns by columns.c */
  GATHER   /* gathered in scratch */
} way;

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
  way how;
  bool whole;             /* COLUMNS, TURN: a block of each row is all that there is, and columns.c writes results */
  ml_dtype dtype;         /* of what is reduced */
  head *head;             /* of a program before it, else NULL */
  size_t made, head_room; /* where in a unit's scratch what it makes lies, and its own */
  int64_t block,
      step; /* GATHER: elements that a row holds, and bytes from one to the next; TURN: from element to element */
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
  if (a->n < 2) return;
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

static way find_way(const reduce_plan *r, int op, ml_dtype t) {
  int last = r->run.n - 1, last_row = r->rows.n - 1;
  bool by_columns = r->rows.shape[last_row] >= LANES && K(columns_know)(op, t);
  if (by_columns && last == 0 && r->run.strides[0] == 1 && r->length <= SHORT) return TURN;
  if (r->run.strides[last] == 1 && (last == 0 || r->run.shape[last] % REDUCE_BLOCK == 0)) return PIECES;
  return by_columns && r->rows.strides[last_row] == 1 ? COLUMNS : GATHER;
}

/* Rows a panel: as many as are read well side by side, but few enough for every thread to get some. */
static int64_t find_width(const reduce_plan *r, int item, int threads) {
  int64_t last = r->rows.shape[r->rows.n - 1], rows = size_of(&r->rows),
          least = r->how == COLUMNS || r->how == TURN ? 2 * LANES : 1,
          piece = ml_min64(r->chunk, r->run.shape[r->run.n - 1]); /* that lies as one */
  int64_t width = r->how == COLUMNS  ? (r->head ? MADE_BYTES : COLUMN_BYTES) / item
                  : r->how == TURN   ? TURNED
                  : r->how == PIECES ? ml_min64(PANEL, ml_max64(1, UNIT / ml_max64(1, piece)))
                                     : PANEL_BYTES / item;
  width = ml_min64(width, ml_max64(1, last));
  while (width * item > 64 && width / 2 >= least && rows * r->chunks / width < UNITS_A_THREAD * threads) width /= 2;
  return width;
}

/* Room for what a program makes of a panel at once, and for its own. */
static void reserve_head(ml_task *t, reduce_plan *r) {
  int64_t elements = r->how == COLUMNS ? REDUCE_BLOCK * r->width : r->how == TURN ? r->width * r->length : MADE;
  r->made = ml_reserve(&t->scratch, (size_t)(elements * ml_dtype_infos[r->dtype].bytes));
  r->head_room = ml_reserve(&t->scratch, K(head_room)(t));
}

ml_status K(reduce_prepare)(ml_task *t) {
  reduce_plan *r = ml_bump_alloc(t->memory, 1, sizeof *r);
  if (!r) return ML_MEMORY;
  t->extra = r;
  ml_arg x = t->in[0];
  int64_t dense[ML_MAX_DIMS];
  if (t->step->fused) {
    r->head = ml_bump_alloc(t->memory, 1, sizeof *r->head);
    if (!r->head) return ML_MEMORY;
    K(head_prepare)(t, r->head);
    ml_strides_dense(x.ndim, x.shape, dense);
    x.dtype = head_dtype(t);
    x.strides = dense;
  }
  r->dtype = x.dtype;
  unsigned reduced = 0;
  const ml_attrs *a = t->step->attrs;
  for (int i = 0; i < a->sum.axis.count; i++) reduced |= 1u << ml_attrs_list(a, a->sum.axis)[i];
  find_axes(r, &x, reduced);
  int64_t item = ml_dtype_infos[x.dtype].bytes, last = r->rows.shape[r->rows.n - 1], rows = size_of(&r->rows);
  r->how = find_way(r, t->step->op, x.dtype);
  r->whole = (r->how == COLUMNS || r->how == TURN) && r->parts == 1 && r->count <= REDUCE_BLOCK && r->count > 0 &&
             r->rows.places[r->rows.n - 1] == 1 && t->step->op != ML_OP_logsumexp;
  r->width = find_width(r, (int)item, t->threads);
  r->panels = (last + r->width - 1) / r->width;
  t->scratch = (size_t)r->width * sizeof(partial);
  if (r->how == COLUMNS || r->how == TURN) t->scratch += (size_t)columns_room(r->width);
  if (r->how == TURN) {
    r->step = r->width * item + 64;
    t->scratch += (size_t)(r->step * r->length);
  } else if (r->how == GATHER) {
    r->block = ml_max64(ROOM / r->width / item / REDUCE_BLOCK, 1) * REDUCE_BLOCK;
    r->step = ml_min64(r->block, ml_max64(1, r->chunk)) * item + 64;
    t->scratch += (size_t)(r->step * r->width);
  }
  if (r->head) reserve_head(t, r);
  t->units = last ? rows / last * r->panels * r->chunks : 0;
  t->grain = ml_max64(1, UNIT / ml_max64(1, r->width * r->chunk));
  t->cost =
      (double)r->results * (double)r->count * (0.25 + (r->head ? 0.4 * t->step->fused->n_code : 0)) + (double)rows * 5;
  if (r->parts > 1) t->shared = (size_t)(r->results * r->parts) * sizeof(partial);
  return ML_OK;
}

/* ---- chunks of rows that lie side by side ---- */

/* What a unit takes. */
typedef struct panel {
  const ml_task *task;
  const char *data;       /* of the first row's run, if it lies in memory */
  int64_t begin;          /* else the element that it begins with */
  char *made, *head_room; /* where what is made goes */
  int64_t stride;         /* from row to row */
  int64_t rows, first, n; /* elements of each from the first on */
  ml_dtype dtype;
  int op, item;
  char *to; /* the first row's result, if there are no others to join it with */
} panel;

/* How many of the n elements of a run from the index `at` on lie evenly, and where they begin. */
static int64_t find_piece(const axes *run, int64_t at, int64_t n, int64_t *offset) {
  int64_t length = run->shape[run->n - 1];
  *offset = ml_index_offset(run->n, run->shape, run->strides, at);
  return ml_min64(n, length - at % length);
}

/* n elements that follow each other from `offset` on: where they lie, or are put. */
static const char *elements(const reduce_plan *r, const panel *x, int64_t offset, int64_t n, char *made) {
  if (!r->head) return x->data + offset * x->item;
  K(head_run)(x->task, r->head, x->begin + offset, n, made, x->head_room);
  return made;
}

static void take_pieces(const reduce_plan *r, const panel *x, partial *p) {
  const int64_t most = r->head ? MADE : INT64_MAX;
  for (int64_t i = 0, m, offset; i < x->n; i += m) {
    m = ml_min64(find_piece(&r->run, x->first + i, x->n - i, &offset), most);
    for (int64_t k = 0; k < x->rows; k++) K(partial_take)
    (&p[k], x->op, elements(r, x, offset + k * x->stride, m, x->made), x->dtype, m, x->first + i);
  }
}

static void take_rows(const reduce_plan *r, const panel *x, const char *const *rows, int64_t n, int64_t first,
                      partial *p, char *room) {
  if (r->whole) K(columns_write)(x->task, rows, n, x->rows, x->to, room);
  else K(columns_take)(p, x->op, rows, n, x->dtype, x->rows, first, room);
}

static void take_columns(const reduce_plan *r, const panel *x, partial *p, char *room) {
  const char *rows[REDUCE_BLOCK];
  int64_t along = r->run.strides[r->run.n - 1];
  for (int64_t i = 0, n; i < x->n; i += n) {
    n = ml_min64(REDUCE_BLOCK, x->n - i);
    for (int64_t k = 0, m, offset; k < n; k += m) {
      m = find_piece(&r->run, x->first + i + k, n - k, &offset);
      if (r->head && along == x->rows) { /* one row after the other */
        char *made = x->made + k * x->rows * x->item;
        elements(r, x, offset, m * x->rows, made);
        for (int64_t j = 0; j < m; j++) rows[k + j] = made + j * x->rows * x->item;
        continue;
      }
      for (int64_t j = 0; j < m; j++)
        rows[k + j] = elements(r, x, offset + j * along, x->rows, x->made + (k + j) * x->rows * x->item);
    }
    take_rows(r, x, rows, n, x->first + i, p, room);
  }
}

static void take_turned(const reduce_plan *r, const panel *x, partial *p, char *room) {
  const char *rows[SHORT];
  char *turned = room + columns_room(r->width);
  const bool together = x->stride == x->n; /* one row after the other */
  const char *data = elements(r, x, 0, together ? x->rows * x->n : x->n, x->made);
  for (int64_t k = 1; k < x->rows && r->head && !together; k++)
    elements(r, x, k * x->stride, x->n, x->made + k * x->n * x->item);
  const int64_t stride = (r->head ? x->n : x->stride) * x->item;
  if (r->whole && K(short_rows_know)(x->op, x->dtype)) {
    K(short_rows_write)(x->task, data, stride, x->rows, x->n, x->to);
    return;
  }
  K(transpose)(turned, r->step, data, stride, x->rows, x->n, x->item);
  for (int64_t i = 0; i < x->n; i++) rows[i] = turned + i * r->step;
  take_rows(r, x, rows, x->n, x->first, p, room);
}

/* n elements that lie `along` apart, one after the other where they have no neighbours. */
static void make_row(const reduce_plan *r, const panel *x, int64_t offset, int64_t along, int64_t n, char *to) {
  const int64_t once = along == 1 ? n : 1;
  for (int64_t i = 0; i < n; i += once) elements(r, x, offset + i * along, once, to + i * x->item);
}

/* The elements from index `at` on, n of each row, side by side in rows of `room`. */
static void gather(const reduce_plan *r, const panel *x, int64_t at, int64_t n, char *room) {
  int64_t along = r->run.strides[r->run.n - 1];
  for (int64_t i = 0, m, offset; i < n; i += m) {
    m = find_piece(&r->run, at + i, n - i, &offset);
    const char *from = x->data + offset * x->item;
    char *to = room + i * x->item;
    for (int64_t k = 0; k < x->rows && r->head; k++) make_row(r, x, offset + k * x->stride, along, m, to + k * r->step);
    if (r->head) continue;
    if (x->stride == 1 && along != 1) {
      K(transpose)(to, r->step, from, along * x->item, m, x->rows, x->item);
      continue;
    }
    for (int64_t k = 0; k < x->rows; k++)
      K(move_row)(to + k * r->step, 1, from + k * x->stride * x->item, along, m, x->item);
  }
}

static void take_gathered(const reduce_plan *r, const panel *x, partial *p, char *room) {
  for (int64_t i = 0; i < x->n; i += r->block) {
    int64_t m = ml_min64(r->block, x->n - i);
    gather(r, x, x->first + i, m, room);
    for (int64_t k = 0; k < x->rows; k++) K(partial_take)(&p[k], x->op, room + k * r->step, x->dtype, m, x->first + i);
  }
}

static void take_panel(const reduce_plan *r, const panel *x, partial *p, char *room) {
  if (!r->whole) K(partial_start)(p, x->rows, x->op);
  if (x->n == 0) return;
  switch (r->how) {
  case PIECES: take_pieces(r, x, p); return;
  case COLUMNS: take_columns(r, x, p, room); return;
  case TURN: take_turned(r, x, p, room); return;
  default: take_gathered(r, x, p, room);
  }
}

/* ---- the task ---- */

/* Puts partial results to the others of their elements; `at` is the first's place among all, `step` leads to the next.
 */
static void put_partials(const ml_task *t, partial *p, int64_t n, int64_t at, int64_t step) {
  const reduce_plan *r = t->extra;
  if (r->parts == 1) {
    K(partial_finish)(p, n, t, r->count, at, step);
    return;
  }
  const bool index = t->step->op == ML_OP_argmax || t->step->op == ML_OP_argmin;
  for (int64_t i = 0; i < n; i++, at += step) {
    if (index) p[i].at += at % r->parts / r->chunks * r->length;
    ((partial *)(void *)t->shared_data)[at] = p[i];
  }
}

static void join_all(const ml_task *t) {
  const reduce_plan *r = t->extra;
  const partial *all = (const partial *)(const void *)t->shared_data;
  for (int64_t i = 0; i < r->results; i++) {
    partial p;
    K(partial_start)(&p, 1, t->step->op);
    for (int64_t k = 0; k < r->parts; k++) K(partial_join)(&p, &all[i * r->parts + k], t->step->op, r->dtype);
    K(partial_finish)(&p, 1, t, r->count, i, 1);
  }
}

/* Panels are as equal as can be, so that none is narrower than a vector of columns. */
static int64_t first_row(const reduce_plan *r, int64_t at) { return at * r->rows.shape[r->rows.n - 1] / r->panels; }

void K(reduce)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  reduce_plan *r = t->extra;
  const ml_arg *x = &t->in[0];
  int last = r->rows.n - 1, item = ml_dtype_infos[r->dtype].bytes;
  int out_item = ml_dtype_infos[t->out[0].dtype].bytes;
  partial *p = (partial *)(void *)w->scratch;
  if (r->head) K(head_begin)(t, w->scratch + r->head_room);
  for (int64_t unit = begin; unit < end; unit++) {
    int64_t chunk = unit % r->chunks, rest = unit / r->chunks, panel_at = rest % r->panels,
            from = first_row(r, panel_at);
    int64_t outer = rest / r->panels, step = r->rows.places[last];
    int64_t offset = from * r->rows.strides[last] + ml_index_offset(last, r->rows.shape, r->rows.strides, outer);
    int64_t place = from * step + ml_index_offset(last, r->rows.shape, r->rows.places, outer) + chunk;
    panel of = {t,
                r->head ? NULL : x->data + offset * item,
                offset,
                w->scratch + r->made,
                w->scratch + r->head_room,
                r->rows.strides[last],
                first_row(r, panel_at + 1) - from,
                chunk * CHUNK,
                ml_min64(r->chunk, r->length - chunk * CHUNK),
                r->dtype,
                t->step->op,
                item,
                t->out[0].data + place * out_item};
    take_panel(r, &of, p, w->scratch + (size_t)r->width * sizeof *p);
    if (r->whole) continue;
    K(partial_end)(p, of.rows, t->step->op, r->dtype);
    put_partials(t, p, of.rows, place, step);
  }
  if (r->parts > 1 && atomic_fetch_add(t->done, end - begin) + end - begin == t->units) join_all(t);
}

void K(reduce_row)(const ml_task *like, const char *data, int64_t n) {
  const int op = like->step->op;
  const ml_dtype t = like->in[0].dtype;
  partial all, p;
  K(partial_start)(&all, 1, op);
  for (int64_t i = 0; i < n; i += CHUNK) {
    K(partial_start)(&p, 1, op);
    K(partial_take)(&p, op, data + i * ml_dtype_infos[t].bytes, t, ml_min64(CHUNK, n - i), i);
    K(partial_end)(&p, 1, op, t);
    if (n > CHUNK) K(partial_join)(&all, &p, op, t);
    else all = p;
  }
  K(partial_finish)(&all, 1, like, n, 0, 1);
}
