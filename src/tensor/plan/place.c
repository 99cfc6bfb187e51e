/* place.c: lifetimes, and one arena for all intermediates.
 *
 * A sweep over the steps gives each storage, where its life begins, the free block that fits best, and takes the block
 * back where it ends; forwards and backwards in time, of which the smaller arena is kept. Where neither reaches the
 * bytes that live at once, and not too many pairs live at one time, all are also placed largest first (search.c). Saves
 * memory: one address serves many.
 *
 * Before that, what a step computes element for element takes the place of an input that dies there: the two are one to
 * the sweeps. Saves memory again, and the writing of lines that are not in the nearest memory yet. Outputs have memory
 * of their own, which nobody reads before it is written: what dies by then, and is as large, lies there meanwhile. */
#include "tensor/plan/place.h"

#include "tensor/arena.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

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

/* ---- in outputs that are not written yet ---- */

/* OUTPUTS: the largest ones, which are looked at. Blocks from LEAST bytes on have room for whole lines. */
enum { OUTPUTS = 8, LEAST = 1024 };

typedef struct lodging {
  int output;      /* the storage */
  int from;        /* the step from which on its place is taken */
  int first, last; /* and of what lies there while most bytes live */
} lodging;

static bool fits(const ml_plan *p, const lodging *l, const ml_storage *s) {
  const size_t bytes = p->storages[l->output].bytes;
  return s->bytes <= bytes && s->bytes >= bytes / 2 && s->last < l->from && (s->first > l->last || s->last < l->first);
}

static void lodge(ml_plan *p, const lodging *l, int storage) {
  ml_storage *s = &p->storages[storage];
  s->place = ML_PLACE_OUTPUT;
  s->index = p->storages[l->output].index;
  p->engine->stats.rewrites.lodged++;
}

/* The largest outputs that are written whole by a step, the largest first. */
static int find_outputs(const ml_plan *p, lodging *list) {
  int n = 0;
  for (size_t i = 0; i < p->n_storages; i++) {
    const ml_storage *s = &p->storages[i];
    if (s->place != ML_PLACE_OUTPUT || s->first < 1 || s->bytes < LEAST) continue;
    int at = n;
    for (; at > 0 && p->storages[list[at - 1].output].bytes < s->bytes; at--) {
      if (at < OUTPUTS) list[at] = list[at - 1];
    }
    if (at < OUTPUTS) list[at] = (lodging){(int)i, s->first, -1, -1};
    if (n < OUTPUTS) n++;
  }
  return n;
}

/* Of a storage that lies in an output, the output's own. */
static const ml_storage *output_of(const ml_plan *p, const ml_storage *s) {
  return &p->storages[p->values[p->outputs[s->index]].storage];
}

static int root_of(const ml_plan *p, int storage) {
  while (p->storages[storage].base >= 0) storage = p->storages[storage].base;
  return storage;
}

/* What the output's first step computes it from, element for element. */
static void lodge_source(ml_plan *p, lodging *l) {
  const int at = p->storages[l->output].first;
  const ml_step *s = &p->steps[at];
  for (int k = 0; k < s->n_outputs; k++) {
    if (s->outputs[k] < 0 || p->values[s->outputs[k]].storage != l->output) continue;
    const int from = find_base(p, at, k), root = from < 0 ? -1 : root_of(p, from);
    if (root < 0 || p->storages[root].place != ML_PLACE_ARENA || p->storages[root].last != at) continue;
    l->from = p->storages[root].first;
    lodge(p, l, root);
  }
}

static bool is_apart(const ml_storage *s) { return s->place == ML_PLACE_ARENA && s->first >= 0 && s->base < 0; }

/* The last step at which most bytes of the arena live. */
static ml_status find_peak(const ml_plan *p, ml_bump *memory, int *peak) {
  int64_t *change = ml_bump_alloc(memory, p->n_steps + 1, sizeof *change), live = 0, most = 0;
  if (!change) return ML_MEMORY;
  for (size_t i = 0; i < p->n_storages; i++) {
    const ml_storage *s = &p->storages[i];
    if (!is_apart(s)) continue;
    change[s->first] += (int64_t)s->bytes;
    change[s->last + 1] -= (int64_t)s->bytes;
  }
  *peak = 0;
  for (size_t i = 0; i < p->n_steps; i++) {
    live += change[i];
    if (live >= most) most = live, *peak = (int)i;
  }
  return ML_OK;
}

/* The largest that lives at the peak, of several the last: what is before it may lie there as well. */
static void lodge_at(ml_plan *p, lodging *l, int peak) {
  int best = -1;
  for (size_t i = 0; i < p->n_storages; i++) {
    const ml_storage *s = &p->storages[i];
    if (is_apart(s) && s->first <= peak && peak <= s->last && fits(p, l, s) &&
        (best < 0 || s->bytes >= p->storages[best].bytes))
      best = (int)i;
  }
  if (best < 0) return;
  l->first = p->storages[best].first, l->last = p->storages[best].last;
  lodge(p, l, best);
}

/* The others from the last one on: what an output is computed from lives too long to lie there, and so shares its place
 * with what was before what lies there. */
static ml_status lodge_all(ml_plan *p, ml_bump *memory) {
  lodging list[OUTPUTS];
  const int n = find_outputs(p, list);
  for (int i = 0; i < n; i++) lodge_source(p, &list[i]);
  int peak = 0;
  if (n) ML_TRY(find_peak(p, memory, &peak));
  for (int i = 0; i < n; i++) lodge_at(p, &list[i], peak);
  for (size_t k = n ? p->n_storages : 0; k-- > 0;) {
    const ml_storage *s = &p->storages[k];
    for (int i = n; i-- > 0 && is_apart(s);) { /* the smallest that holds it, and not one that is much larger */
      if (!fits(p, &list[i], s)) continue;
      list[i].from = s->first;
      lodge(p, &list[i], (int)k);
    }
  }
  return ML_OK;
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

/* What a sweep needs beside the storages. */
typedef struct sweeper {
  ml_placing *placing;
  arena arena;
  int *block_of;        /* of a storage */
  int *begins, *next;   /* of a step the first storage that begins there, and of that the next one; -1 */
  int *ends, *next_end; /* the same of those that end */
} sweeper;

static ml_status open_sweeper(sweeper *s, ml_placing *p) {
  size_t n = p->n, steps = p->n_steps;
  int *numbers = ml_bump_alloc(p->memory, 3 * n + 2 * steps, sizeof *numbers);
  block *blocks = ml_bump_alloc(p->memory, 2 * n + 1, sizeof *blocks);
  if (!numbers || !blocks) return ML_MEMORY;
  *s = (sweeper){.placing = p,
                 .arena = {.blocks = blocks},
                 .block_of = numbers,
                 .next = numbers + n,
                 .next_end = numbers + 2 * n,
                 .begins = numbers + 3 * n,
                 .ends = numbers + 3 * n + steps};
  return ML_OK;
}

static int begin_of(const ml_placing *p, size_t i, bool backwards) {
  return backwards ? (int)p->n_steps - 1 - p->list[i]->last : p->list[i]->first;
}

static int end_of(const ml_placing *p, size_t i, bool backwards) {
  return backwards ? (int)p->n_steps - 1 - p->list[i]->first : p->list[i]->last;
}

/* Lists storages by the step at which they begin, so that the one that was made first comes first. */
static void list_begins(sweeper *s, bool backwards) {
  const ml_placing *p = s->placing;
  for (size_t i = 0; i < p->n_steps; i++) s->begins[i] = s->ends[i] = -1;
  for (size_t i = p->n; i-- > 0;) {
    int at = begin_of(p, i, backwards);
    s->next[i] = s->begins[at];
    s->begins[at] = (int)i;
  }
}

static void sweep(sweeper *s, bool backwards) {
  ml_placing *p = s->placing;
  arena *a = &s->arena;
  size_t live = 0, count = 0;
  *a = (arena){.blocks = a->blocks, .top = -1};
  for (int i = 0; i < BINS; i++) a->bins[i] = -1;
  list_begins(s, backwards);
  p->pairs = 0;
  for (size_t step = 0; step < p->n_steps; step++) {
    for (int i = s->begins[step]; i >= 0; i = s->next[i]) {
      s->block_of[i] = get(a, p->list[i]->bytes);
      p->offsets[i] = a->blocks[s->block_of[i]].offset;
      int end = end_of(p, (size_t)i, backwards);
      s->next_end[i] = s->ends[end];
      s->ends[end] = i;
      live += p->list[i]->bytes;
      p->pairs += count++;
    }
    if (live > p->live) p->live = live;
    for (int i = s->ends[step]; i >= 0; i = s->next_end[i], count--) {
      give_back(a, s->block_of[i]);
      live -= p->list[i]->bytes;
    }
  }
  ml_place_keep(p, a->bytes);
}

/* ---- the arena ---- */

void ml_place_keep(ml_placing *p, size_t bytes) {
  if (bytes >= p->bytes) return;
  p->bytes = bytes;
  memcpy(p->best, p->offsets, p->n * sizeof *p->best);
}

static ml_status place(ml_placing *p) {
  sweeper s;
  ML_TRY(open_sweeper(&s, p));
  p->offsets = ml_bump_alloc(p->memory, 2 * p->n, sizeof *p->offsets);
  if (!p->offsets) return ML_MEMORY;
  p->best = p->offsets + p->n;
  p->bytes = SIZE_MAX;
  sweep(&s, false);
  if (p->bytes > p->live) sweep(&s, true);
  return ml_place_has_holes(p) ? ml_place_search(p) : ML_OK;
}

/* Places what is in no other's place, and that with it. */
static ml_status place_all(ml_plan *plan, ml_bump *memory) {
  ml_placing p = {.memory = memory, .n_steps = plan->n_steps, .once = plan->once};
  p.list = ml_bump_alloc(memory, plan->n_storages, sizeof(ml_storage *));
  if (!p.list) return ML_MEMORY;
  for (size_t i = 0; i < plan->n_storages; i++) {
    ml_storage *s = &plan->storages[i];
    if (s->place == ML_PLACE_ARENA && s->first >= 0 && s->base < 0) p.list[p.n++] = s;
  }
  if (p.n) ML_TRY(place(&p));
  for (size_t i = 0; i < p.n; i++) p.list[i]->offset = p.best[i];
  plan->arena_bytes = p.bytes;
  plan->engine->stats.rewrites.reordered += p.searched;
  for (size_t i = 0; i < plan->n_storages; i++) { /* a base was made before what takes its place */
    ml_storage *s = &plan->storages[i];
    if (s->base < 0) continue;
    const ml_storage *base = &plan->storages[s->base];
    s->place = base->place, s->index = base->index, s->offset = base->offset;
  }
  plan->saved[ML_PASS_place].bytes -= plan->arena_bytes;
  return ML_OK;
}

/* ---- a look at the result ---- */

/* Whether two storages of which none is in the other's place share bytes while both live. An output lives from its
 * first step on, which may compute it from what lies in its place. */
static bool collide(const ml_plan *p, const ml_storage *a, const ml_storage *b) {
  if (a->place != b->place || a->base >= 0 || b->base >= 0 || a->first < 0 || b->first < 0) return false;
  if (a->place == ML_PLACE_ARENA)
    return a->first <= b->last && b->first <= a->last && a->offset < b->offset + b->bytes &&
           b->offset < a->offset + a->bytes;
  if (a->place != ML_PLACE_OUTPUT || a->index != b->index) return false;
  const ml_storage *output = output_of(p, a);
  if (a == output) return b->last > a->first || b->bytes > a->bytes;
  if (b == output) return a->last > b->first || a->bytes > b->bytes;
  return a->first <= b->last && b->first <= a->last;
}

static ml_status check_places(const ml_plan *p) {
  for (size_t i = 0; i < p->n_storages; i++) {
    const ml_storage *s = &p->storages[i];
    if (s->place == ML_PLACE_ARENA && s->first >= 0 && s->offset + s->bytes > p->arena_bytes)
      return ml_fail(ML_DEVICE, "a plan's storage %zu lies beyond its arena", i);
    for (size_t k = 0; k < i; k++) {
      if (collide(p, s, &p->storages[k])) return ml_fail(ML_DEVICE, "a plan's storages %zu and %zu collide", k, i);
    }
  }
  return ML_OK;
}

ml_status ml_plan_place(ml_plan *plan) {
  ml_bump memory = {.spare = &plan->engine->spare};
  find_lifetimes(plan);
  size_t count = 0;
  for (size_t i = 0; i < plan->n_storages; i++) {
    ml_storage *s = &plan->storages[i];
    if (s->place != ML_PLACE_ARENA && s->place != ML_PLACE_OUTPUT) continue;
    s->bytes = s->bytes ? (s->bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1) : ALIGN; /* empty ones have an address too */
    if (s->place == ML_PLACE_OUTPUT || s->first < 0) continue;
    plan->saved[ML_PASS_place].bytes += s->bytes;
    count++;
  }
  if (count == 0) return ML_OK;
  take_over(plan);
  join_lives(plan);
  ml_status status = lodge_all(plan, &memory);
  if (status == ML_OK) status = place_all(plan, &memory);
  ml_bump_free(&memory);
  if (status == ML_OK && plan->engine->checks_places) status = check_places(plan);
  if (status == ML_OK && plan->arena_bytes) status = ml_arena_join(plan);
  return status;
}

ml_status ml_plan_count_live(const ml_plan *p, size_t *outputs, size_t *most) {
  int64_t *change = ml_calloc(p->n_steps + 1, sizeof *change), live = 0;
  if (!change) return ML_MEMORY;
  *outputs = *most = 0;
  for (size_t i = 0; i < p->n_storages; i++) {
    const ml_storage *s = &p->storages[i];
    if ((s->place != ML_PLACE_ARENA && s->place != ML_PLACE_OUTPUT) || s->first < 0 || s->base >= 0) continue;
    const ml_storage *output = s->place == ML_PLACE_OUTPUT ? output_of(p, s) : NULL;
    const bool becomes = output && output != s && output->first == s->last; /* the output, element for element */
    if (output == s) *outputs += s->bytes;
    else change[becomes ? s->last : s->last + 1] -= (int64_t)s->bytes;
    change[s->first] += (int64_t)s->bytes;
  }
  for (size_t i = 0; i < p->n_steps; i++) {
    live += change[i];
    if (live > (int64_t)*most) *most = (size_t)live;
  }
  ml_free(change);
  return ML_OK;
}
