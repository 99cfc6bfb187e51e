/* place.c: lifetimes, and one arena for all intermediates.
 *
 * A sweep over the steps gives each storage, where its life begins, the free block that fits best, and takes the block
 * back where it ends; forwards and backwards in time, of which the smaller arena is kept. Where neither reaches the
 * bytes that live at once, and storages are few enough for a search of all pairs, they are also placed largest first,
 * each at the lowest offset where it meets none that lives at the same time, and again with those earlier that came to
 * lie last. Saves memory: one address serves many.
 *
 * Before that, what a step computes element for element takes the place of an input that dies there: the two are one to
 * the sweeps. Saves memory again, and the writing of lines that are not in the nearest memory yet. */
#include "tensor/plan/plan.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

/* Up to so many storages, and where there is something to gain, all pairs are looked at: where an arena is larger than
 * what lives at once by more than a part in SLACK. */
enum { FEW = 2048, SMALL = 1 << 11, SLACK = 32 };
static bool has_holes(size_t bytes, size_t live) { return bytes > SMALL && bytes > live + live / SLACK; }

static void touch(ml_plan *p, int value, int step) {
  if (value < 0) return;
  ml_storage *s = &p->storages[p->values[value].storage];
  if (s->first < 0) s->first = step;
  s->last = step;
}

static void find_lifetimes(ml_plan *p) {
  for (size_t i = 0; i < p->n_steps; i++) {
    for (int k = 0; k < p->steps[i].n_inputs; k++) touch(p, p->steps[i].inputs[k], (int)i);
    for (int k = 0; k < p->steps[i].n_outputs; k++) touch(p, p->steps[i].outputs[k], (int)i);
  }
}

/* ---- outputs in the place of inputs ---- */

static bool same_elements(const ml_value *a, const ml_value *b) {
  bool same = a->layout == ML_LAYOUT_STRIDED && a->offset == 0 && b->offset == 0 && a->ndim == b->ndim &&
              ml_dtype_infos[a->dtype].bytes == ml_dtype_infos[b->dtype].bytes;
  for (int d = 0; d < a->ndim && same; d++)
    same = a->shape[d] == b->shape[d] && (a->shape[d] == 1 || a->strides[d] == b->strides[d]);
  return same;
}

/* Whether a step reads input k of output `out`'s shape no further than where it writes next: elementwise programs,
 * behind products too, and norms, softmax and stages over rows, which have read a row when they write it. */
static bool reads_in_place(const ml_step *s, int k, int out) {
  if (s->op == ML_STEP_FUSED) return true;
  if (s->op == ML_STEP_ROWS) return ml_rows_read_before(s->rows, k, s->rows->outputs[out]);
  if (s->fused && ml_op_is_reduction(s->op)) return false;   /* what it writes is of other elements */
  if (s->fused) return k > s->n_inputs - s->fused->n_inputs; /* behind a product, or attention */
  if (s->op == ML_STEP_LINEARS) {
    const ml_linear_unit *u = s->linears->units;
    while (out >= u->first_output + u->n_outputs) u++;
    for (int i = 0; i < u->n_extra; i++) {
      if (u->extra[i] == k) return true;
    }
    return false;
  }
  return k == 0 &&
         (s->op == ML_OP_rms_norm || s->op == ML_OP_layer_norm || s->op == ML_OP_softmax || s->op == ML_OP_log_softmax);
}

/* The storage of an input of step i that its output `out` can take over, or -1. */
static int find_base(const ml_plan *p, int i, int out) {
  const ml_step *s = &p->steps[i];
  const ml_value *o = &p->values[s->outputs[out]];
  for (int k = 0; k < s->n_inputs; k++) {
    if (s->inputs[k] < 0 || !reads_in_place(s, k, out)) continue;
    int storage = p->values[s->inputs[k]].storage;
    const ml_storage *from = &p->storages[storage];
    bool fits = from->place == ML_PLACE_ARENA && from->last == i && from->bytes == p->storages[o->storage].bytes;
    for (int j = 0; j < s->n_inputs && fits; j++) {
      const ml_value *v = s->inputs[j] < 0 ? NULL : &p->values[s->inputs[j]];
      fits = !v || v->storage != storage || (reads_in_place(s, j, out) && same_elements(v, o));
    }
    for (int j = 0; j < s->n_outputs && fits; j++) /* another output may have it, or be read from it */
      fits = s->outputs[j] < 0 || p->storages[p->values[s->outputs[j]].storage].base != storage;
    if (fits) return storage;
  }
  return -1;
}

static void take_over(ml_plan *p) {
  for (size_t i = 0; i < p->n_steps; i++) {
    for (int k = 0; k < p->steps[i].n_outputs; k++) {
      int value = p->steps[i].outputs[k];
      ml_storage *s = value < 0 ? NULL : &p->storages[p->values[value].storage];
      if (!s || s->place != ML_PLACE_ARENA || s->first != (int)i || s->base >= 0) continue;
      s->base = find_base(p, (int)i, k);
      if (s->base >= 0) p->engine->stats.rewrites.taken_over++;
    }
  }
}

/* A storage in another's place lives as a part of its life. Those that were made later come first, so that what they
 * hand on has all that was handed to them. */
static void join_lives(ml_plan *p) {
  for (size_t i = p->n_storages; i-- > 0;) {
    const ml_storage *s = &p->storages[i];
    if (s->base >= 0 && s->last > p->storages[s->base].last) p->storages[s->base].last = s->last;
  }
}

/* ---- free blocks ---- */

enum { BINS = 256, LOOKED_AT = 16 };

/* A stretch of the arena, in a list by address; free ones also in the list of their bin. */
typedef struct block {
  size_t offset, bytes;
  int before, after;  /* by address; -1 */
  int previous, next; /* in its bin; -1 */
  bool free;
} block;

typedef struct arena {
  block *blocks;
  int n_blocks, top; /* the last by address, or -1 */
  size_t bytes;
  int bins[BINS];
} arena;

/* Sizes in multiples of ALIGN, four bins a power of two. */
static int bin_of(size_t bytes) {
  size_t n = bytes / ALIGN;
  if (n < 4) return (int)n;
  int log = 63 - __builtin_clzll(n);
  return 4 * (log - 1) + (int)(n >> (log - 2) & 3);
}

static void take(arena *a, int b) {
  block *x = &a->blocks[b];
  if (x->previous >= 0) a->blocks[x->previous].next = x->next;
  else a->bins[bin_of(x->bytes)] = x->next;
  if (x->next >= 0) a->blocks[x->next].previous = x->previous;
  x->free = false;
}

static void put(arena *a, int b) {
  block *x = &a->blocks[b];
  int *bin = &a->bins[bin_of(x->bytes)];
  x->free = true;
  x->previous = -1;
  x->next = *bin;
  if (*bin >= 0) a->blocks[*bin].previous = b;
  *bin = b;
}

static int new_block(arena *a, size_t offset, size_t bytes, int before, int after) {
  int b = a->n_blocks++;
  a->blocks[b] = (block){.offset = offset, .bytes = bytes, .before = before, .after = after};
  if (before >= 0) a->blocks[before].after = b;
  if (after >= 0) a->blocks[after].before = b;
  else a->top = b;
  return b;
}

/* The smallest of the first blocks of a bin that hold so many bytes, or -1. */
static int best_of(const arena *a, int bin, size_t bytes) {
  int best = -1, looked = 0;
  for (int b = a->bins[bin]; b >= 0 && looked < LOOKED_AT; b = a->blocks[b].next, looked++) {
    if (a->blocks[b].bytes >= bytes && (best < 0 || a->blocks[b].bytes < a->blocks[best].bytes)) best = b;
  }
  return best;
}

static int get(arena *a, size_t bytes) {
  int b = -1;
  for (int bin = bin_of(bytes); bin < BINS && b < 0; bin++) b = best_of(a, bin, bytes);
  if (b < 0 && a->top >= 0 && a->blocks[a->top].free) { /* the end of the arena, moved on */
    b = a->top;
    take(a, b);
    a->blocks[b].bytes = bytes;
  } else if (b < 0) {
    b = new_block(a, a->bytes, bytes, a->top, -1);
  } else {
    take(a, b);
    block *x = &a->blocks[b];
    if (x->bytes > bytes) {
      int rest = new_block(a, x->offset + bytes, x->bytes - bytes, b, x->after);
      a->blocks[b].bytes = bytes;
      put(a, rest);
    }
  }
  size_t end = a->blocks[b].offset + bytes;
  if (end > a->bytes) a->bytes = end;
  return b;
}

/* Block b takes in the one behind it. */
static void join(arena *a, int b) {
  block *x = &a->blocks[b], *after = &a->blocks[x->after];
  x->bytes += after->bytes;
  x->after = after->after;
  if (x->after >= 0) a->blocks[x->after].before = b;
  else a->top = b;
}

static void give_back(arena *a, int b) {
  int after = a->blocks[b].after, before = a->blocks[b].before;
  if (after >= 0 && a->blocks[after].free) {
    take(a, after);
    join(a, b);
  }
  if (before >= 0 && a->blocks[before].free) {
    take(a, before);
    join(a, before);
    b = before;
  }
  put(a, b);
}

/* ---- a sweep ---- */

typedef struct placing {
  ml_storage **list; /* what is placed */
  size_t n;
  size_t n_steps;
  bool once;              /* the plan runs once */
  int *next;              /* of a storage: the next that begins at the same step */
  int *block_of;          /* of a storage */
  size_t *offsets, *best; /* of this try, and of the best one so far */
  size_t bytes, live;     /* of the best one; what lives at once at most */
  arena arena;
  ml_bump *memory;
} placing;

static int begin_of(const placing *p, size_t i, bool backwards) {
  return backwards ? (int)p->n_steps - 1 - p->list[i]->last : p->list[i]->first;
}

static int end_of(const placing *p, size_t i, bool backwards) {
  return backwards ? (int)p->n_steps - 1 - p->list[i]->first : p->list[i]->last;
}

static void keep_best(placing *p, size_t bytes) {
  if (bytes >= p->bytes) return;
  p->bytes = bytes;
  memcpy(p->best, p->offsets, p->n * sizeof *p->best);
}

/* Lists storages by the step at which they begin, so that the one that was made first comes first. */
static void list_begins(placing *p, bool backwards, int *heads) {
  for (size_t i = 0; i < p->n_steps; i++) heads[i] = -1;
  for (size_t i = p->n; i-- > 0;) {
    int at = begin_of(p, i, backwards);
    p->next[i] = heads[at];
    heads[at] = (int)i;
  }
}

static void sweep(placing *p, bool backwards, int *begins, int *ends, int *next_end) {
  arena *a = &p->arena;
  *a = (arena){.blocks = a->blocks, .top = -1};
  for (int i = 0; i < BINS; i++) a->bins[i] = -1;
  list_begins(p, backwards, begins);
  for (size_t i = 0; i < p->n_steps; i++) ends[i] = -1;
  size_t live = 0;
  for (size_t step = 0; step < p->n_steps; step++) {
    for (int i = begins[step]; i >= 0; i = p->next[i]) {
      p->block_of[i] = get(a, p->list[i]->bytes);
      p->offsets[i] = a->blocks[p->block_of[i]].offset;
      int end = end_of(p, (size_t)i, backwards);
      next_end[i] = ends[end];
      ends[end] = i;
      live += p->list[i]->bytes;
    }
    if (live > p->live) p->live = live;
    for (int i = ends[step]; i >= 0; i = next_end[i]) {
      give_back(a, p->block_of[i]);
      live -= p->list[i]->bytes;
    }
  }
  keep_best(p, a->bytes);
}

/* ---- largest first ---- */

typedef struct ranked {
  double rank;
  int index;
} ranked;

static int by_rank(const void *a, const void *b) {
  const ranked *x = a, *y = b;
  if (x->rank != y->rank) return x->rank < y->rank ? 1 : -1;
  return x->index < y->index ? -1 : 1;
}

/* What is placed, to be found by when it lives: steps are cut into spans, and each has a list. Lives of many spans are
 * in one list more. */
enum { SPAN = 8, MOST_SPANS = 8 };
typedef struct entry {
  int index, next; /* of a storage; in its list */
} entry;
typedef struct calendar {
  int *heads, n_spans, n_entries;
  entry *entries;
  int *seen; /* of a storage: for whom it was found last */
} calendar;

static int spans_of(const ml_storage *s) { return s->last / SPAN - s->first / SPAN + 1; }

static void enter(calendar *c, int list, int index) {
  c->entries[c->n_entries] = (entry){index, c->heads[list]};
  c->heads[list] = c->n_entries++;
}

static void note(calendar *c, const ml_storage *s, int index) {
  if (spans_of(s) > MOST_SPANS) enter(c, c->n_spans, index);
  else
    for (int k = s->first / SPAN; k <= s->last / SPAN; k++) enter(c, k, index);
}

static ml_status open_calendar(calendar *c, const placing *p) {
  size_t entries = 0;
  for (size_t i = 0; i < p->n; i++) entries += spans_of(p->list[i]) > MOST_SPANS ? 1 : (size_t)spans_of(p->list[i]);
  c->n_spans = (int)(p->n_steps / SPAN + 1);
  c->heads = ml_bump_alloc(p->memory, (size_t)c->n_spans + 1, sizeof *c->heads);
  c->seen = ml_bump_alloc(p->memory, p->n, sizeof *c->seen);
  c->entries = ml_bump_alloc(p->memory, entries, sizeof *c->entries);
  return c->heads && c->seen && c->entries ? ML_OK : ML_MEMORY;
}

static void clear(calendar *c, size_t n) {
  for (int k = 0; k <= c->n_spans; k++) c->heads[k] = -1;
  for (size_t i = 0; i < n; i++) c->seen[i] = -1;
  c->n_entries = 0;
}

/* What makes a storage hard to place: its bytes, or those and the steps that it lives. */
typedef enum measure { BYTES, BYTES_TIMES_STEPS, STEPS, MEASURES } measure;

static double rank_of(const ml_storage *s, measure by) {
  double steps = s->last - s->first + 1;
  return by == BYTES ? (double)s->bytes : by == STEPS ? steps : (double)s->bytes * steps;
}

/* A stretch of the arena that is taken. */
typedef struct stretch {
  size_t from, to;
} stretch;

static int by_offset(const void *a, const void *b) {
  const stretch *x = a, *y = b;
  return x->from < y->from ? -1 : x->from > y->from;
}

/* The stretches of what is placed and lives at a time with s, the `turn`-th; their number. */
static size_t find_live(const placing *p, calendar *c, const ml_storage *s, int turn, stretch *live) {
  size_t n = 0;
  for (int k = s->first / SPAN; k <= s->last / SPAN + 1; k++) {
    int list = k > s->last / SPAN ? c->n_spans : k;
    for (int e = c->heads[list]; e >= 0; e = c->entries[e].next) {
      int index = c->entries[e].index;
      const ml_storage *o = p->list[index];
      if (c->seen[index] == turn || o->first > s->last || s->first > o->last) continue;
      c->seen[index] = turn;
      live[n++] = (stretch){p->offsets[index], p->offsets[index] + o->bytes};
    }
  }
  return n;
}

static void sort_stretches(stretch *live, size_t n) {
  enum { FEW_STRETCHES = 16 };
  if (n > FEW_STRETCHES) {
    qsort(live, n, sizeof *live, by_offset);
    return;
  }
  for (size_t i = 1; i < n; i++) {
    stretch x = live[i];
    size_t k = i;
    for (; k > 0 && live[k - 1].from > x.from; k--) live[k] = live[k - 1];
    live[k] = x;
  }
}

/* Places all in this order; the bytes that it takes. `live`: room for a stretch each. */
static size_t place_in_order(placing *p, calendar *c, const ranked *order, stretch *live) {
  size_t bytes = 0;
  clear(c, p->n);
  for (size_t i = 0; i < p->n; i++) {
    int index = order[i].index;
    const ml_storage *s = p->list[index];
    size_t n_live = find_live(p, c, s, (int)i, live), at = 0;
    sort_stretches(live, n_live);
    for (size_t k = 0; k < n_live && live[k].from < at + s->bytes; k++) {
      if (live[k].to > at) at = live[k].to;
    }
    p->offsets[index] = at;
    note(c, s, index);
    if (at + s->bytes > bytes) bytes = at + s->bytes;
  }
  keep_best(p, bytes);
  return bytes;
}

/* What reached the end of the arena goes half way to the front of the order. */
static void bring_forward(const placing *p, ranked *order, size_t bytes) {
  for (size_t i = 1; i < p->n; i++) {
    ranked x = order[i];
    if (p->offsets[x.index] + p->list[x.index]->bytes < bytes) continue;
    memmove(order + i / 2 + 1, order + i / 2, (i - i / 2) * sizeof *order);
    order[i / 2] = x;
  }
}

/* Orders that are tried for each measure, and storages that are placed in all of them, about; a plan that runs once is
 * not worth more than one. */
enum { MOST_TRIES = 32, MOST_PLACED = 8192 };

static ml_status search(placing *p) {
  calendar c = {0};
  ML_TRY(open_calendar(&c, p));
  ranked *order = ml_bump_alloc(p->memory, p->n, sizeof *order);
  stretch *live = ml_bump_alloc(p->memory, p->n, sizeof *live);
  if (!order || !live) return ML_MEMORY;
  size_t most = p->once ? 1 : MOST_PLACED / p->n + 1, tries = most < MOST_TRIES ? most : MOST_TRIES;
  for (int by = 0; by < MEASURES && has_holes(p->bytes, p->live); by++) {
    for (size_t i = 0; i < p->n; i++) order[i] = (ranked){rank_of(p->list[i], (measure)by), (int)i};
    qsort(order, p->n, sizeof *order, by_rank);
    for (size_t k = 0; k < tries && has_holes(p->bytes, p->live); k++)
      bring_forward(p, order, place_in_order(p, &c, order, live));
  }
  return ML_OK;
}

/* ---- the arena ---- */

static ml_status place(placing *p, ml_plan *plan) {
  size_t n = p->n, steps = plan->n_steps;
  int *numbers = ml_bump_alloc(p->memory, 3 * n + 2 * steps, sizeof *numbers);
  size_t *offsets = ml_bump_alloc(p->memory, 2 * n, sizeof *offsets);
  p->arena.blocks = ml_bump_alloc(p->memory, 2 * n + 1, sizeof *p->arena.blocks);
  ml_status status = numbers && offsets && p->arena.blocks ? ML_OK : ML_MEMORY;
  if (status == ML_OK) {
    p->n_steps = steps;
    p->once = plan->once;
    p->next = numbers;
    p->block_of = numbers + n;
    p->offsets = offsets;
    p->best = offsets + n;
    p->bytes = SIZE_MAX;
    int *next_end = numbers + 2 * n, *begins = numbers + 3 * n, *ends = begins + steps;
    sweep(p, false, begins, ends, next_end);
    if (p->bytes > p->live) sweep(p, true, begins, ends, next_end);
    size_t swept = p->bytes;
    if (has_holes(p->bytes, p->live) && n <= FEW) status = search(p);
    if (p->bytes < swept) plan->engine->stats.rewrites.reordered++;
    for (size_t i = 0; i < n; i++) p->list[i]->offset = p->best[i];
    plan->arena_bytes = p->bytes;
  }
  return status;
}

/* Places what is in no other's place, and that with it. */
static ml_status place_all(ml_plan *plan, ml_bump *memory) {
  size_t all = 0;
  placing p = {.memory = memory};
  p.list = ml_bump_alloc(memory, plan->n_storages, sizeof(ml_storage *));
  if (!p.list) return ML_MEMORY;
  for (size_t i = 0; i < plan->n_storages; i++) {
    ml_storage *s = &plan->storages[i];
    if (s->place == ML_PLACE_ARENA && s->first >= 0 && s->base < 0) p.list[p.n++] = s;
  }
  if (p.n) ML_TRY(place(&p, plan));
  plan->live_bytes = p.live;
  for (size_t i = 0; i < plan->n_storages; i++) { /* a base was made before what takes its place */
    ml_storage *s = &plan->storages[i];
    if (s->base >= 0) s->offset = plan->storages[s->base].offset;
    if (s->place == ML_PLACE_ARENA && s->first >= 0) all += s->bytes;
  }
  plan->saved[ML_PASS_place].bytes = all - plan->arena_bytes;
  return ML_OK;
}

ml_status ml_plan_place(ml_plan *plan) {
  ml_bump memory = {.spare = &plan->engine->spare};
  find_lifetimes(plan);
  size_t count = 0;
  for (size_t i = 0; i < plan->n_storages; i++) {
    ml_storage *s = &plan->storages[i];
    if (s->place != ML_PLACE_ARENA) continue;
    s->bytes = s->bytes ? (s->bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1) : ALIGN; /* empty ones have an address too */
    count += s->first >= 0;
  }
  if (count == 0) return ML_OK;
  take_over(plan);
  join_lives(plan);
  ml_status status = place_all(plan, &memory);
  ml_bump_free(&memory);
  if (status == ML_OK && plan->arena_bytes) status = ml_buffer_create(plan->device, plan->arena_bytes, &plan->arena);
  return status;
}
