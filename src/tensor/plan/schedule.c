/* schedule.c: steps that give memory back come as early as they can.
 *
 * Steps come in the order in which their last parts were written. Where many values are written first and each is used
 * up later (the losses of many samples, the updates of many parameters behind a backward pass), all of them live at
 * once. Here a step goes to where the last of what it reads is made, if it, or the chain that it begins, gives back
 * more bytes than it takes. Two steps change places only where neither writes what the other reads or writes. What was
 * written side by side can run side by side, so the new order is taken only where much less lives at once.
 *
 * Saves memory. */
#include "tensor/plan/plan.h"

#include <stdlib.h>
#include <string.h>

/* What a step gives back at least, and what the order as a whole saves at least: a part in SHARE, and LEAST_BYTES. */
enum { GIVEN_BACK = 1 << 8, LEAST_BYTES = 1 << 11, SHARE = 8, LOOK_AHEAD = 8 };

typedef struct link {
  int step, next; /* -1 */
} link;

typedef struct schedule {
  ml_plan *plan;
  ml_bump memory;
  int *place_of;            /* of a storage: the memory that it is part of, or -1 where nothing is written */
  int *writer, *readers;    /* of a place: the last step so far that writes it; links to those that read it since */
  int *followers, *waiting; /* of a step: links to those that come behind it; how many it comes behind, not yet done */
  link *links;
  size_t n_links;
  int *uses; /* of a storage: operands of steps not yet done */
  bool *begun;
  size_t live, peak; /* bytes, and at the most */
  int *order, *stack;
  size_t n_order, depth;
  bool *done;
} schedule;

/* ---- who comes behind whom ---- */

typedef struct written {
  const ml_buffer *buffer;
  int storage;
} written;

static int by_buffer(const void *a, const void *b) {
  const written *x = a, *y = b;
  if (x->buffer != y->buffer) return (uintptr_t)x->buffer < (uintptr_t)y->buffer ? -1 : 1;
  return x->storage - y->storage;
}

static bool writes_states(const ml_plan *p) {
  for (size_t i = 0; i < p->n_cells; i++) {
    if (p->cells[i].written) return true;
  }
  return false;
}

/* Storages of one buffer are one place, the first of them; where no state is written buffers are none. */
static ml_status find_places(schedule *s) {
  const ml_plan *p = s->plan;
  const bool writes = writes_states(p);
  size_t n = 0;
  written *list = ml_bump_alloc(&s->memory, p->n_storages, sizeof *list);
  s->place_of = ml_bump_alloc(&s->memory, p->n_storages, sizeof *s->place_of);
  if (!list || !s->place_of) return ML_MEMORY;
  for (size_t i = 0; i < p->n_storages; i++) {
    const ml_storage *m = &p->storages[i];
    bool fixed = m->place == ML_PLACE_INPUT || (m->place == ML_PLACE_TENSOR && !writes);
    s->place_of[i] = fixed ? -1 : (int)i;
    if (m->place == ML_PLACE_TENSOR && writes) list[n++] = (written){m->buffer, (int)i};
  }
  qsort(list, n, sizeof *list, by_buffer);
  for (size_t i = 1; i < n; i++) {
    if (list[i].buffer == list[i - 1].buffer) s->place_of[list[i].storage] = s->place_of[list[i - 1].storage];
  }
  return ML_OK;
}

static int storage_of(const ml_plan *p, int value) { return value < 0 ? -1 : p->values[value].storage; }

static void add_link(schedule *s, int *head, int step) {
  s->links[s->n_links] = (link){step, *head};
  *head = (int)s->n_links++;
}

static void come_behind(schedule *s, int step, int first) {
  if (first < 0 || first == step) return;
  add_link(s, &s->followers[first], step);
  s->waiting[step]++;
}

static void read_place(schedule *s, int step, int place) {
  come_behind(s, step, s->writer[place]);
  add_link(s, &s->readers[place], step);
}

static void write_place(schedule *s, int step, int place) {
  come_behind(s, step, s->writer[place]);
  for (int l = s->readers[place]; l >= 0; l = s->links[l].next) come_behind(s, step, s->links[l].step);
  s->readers[place] = -1;
  s->writer[place] = step;
}

static size_t count_operands(const ml_plan *p) {
  size_t n = 0;
  for (size_t i = 0; i < p->n_steps; i++) n += (size_t)(p->steps[i].n_inputs + p->steps[i].n_outputs);
  return n;
}

/* Each operand gives a link to whoever wrote its place; each reader one to itself, and one to the next writer. */
static ml_status find_order(schedule *s) {
  const ml_plan *p = s->plan;
  int *numbers = ml_bump_alloc(&s->memory, 2 * (p->n_storages + p->n_steps), sizeof *numbers);
  s->links = ml_bump_alloc(&s->memory, 3 * count_operands(p), sizeof *s->links);
  if (!numbers || !s->links) return ML_MEMORY;
  s->writer = numbers;
  s->readers = s->writer + p->n_storages;
  s->followers = s->readers + p->n_storages;
  s->waiting = s->followers + p->n_steps;
  for (size_t i = 0; i < 2 * p->n_storages + p->n_steps; i++) numbers[i] = -1;
  for (size_t i = 0; i < p->n_steps; i++) {
    const ml_step *step = &p->steps[i];
    for (int k = 0; k < step->n_inputs; k++) {
      int storage = storage_of(p, step->inputs[k]);
      if (storage >= 0 && s->place_of[storage] >= 0) read_place(s, (int)i, s->place_of[storage]);
    }
    for (int k = 0; k < step->n_outputs; k++) {
      int storage = storage_of(p, step->outputs[k]);
      if (storage >= 0) write_place(s, (int)i, s->place_of[storage]);
    }
  }
  return ML_OK;
}

/* ---- what lives ---- */

static size_t bytes_of(const schedule *s, int storage) {
  const ml_storage *m = &s->plan->storages[storage];
  return m->place == ML_PLACE_ARENA ? m->bytes : 0;
}

static void begin(schedule *s) {
  const ml_plan *p = s->plan;
  s->live = s->peak = 0;
  memset(s->uses, 0, p->n_storages * sizeof *s->uses);
  memset(s->begun, 0, p->n_storages * sizeof *s->begun);
  for (size_t i = 0; i < p->n_steps; i++) {
    const ml_step *step = &p->steps[i];
    for (int k = 0; k < step->n_inputs + step->n_outputs; k++) {
      if (step->inputs[k] >= 0) s->uses[storage_of(p, step->inputs[k])]++; /* outputs lie behind inputs */
    }
  }
}

/* A step takes up its uses; the bytes of what has none left. */
static size_t drop_uses(schedule *s, const ml_step *step) {
  size_t bytes = 0;
  for (int k = 0; k < step->n_inputs + step->n_outputs; k++) {
    int storage = storage_of(s->plan, step->inputs[k]);
    if (storage >= 0 && --s->uses[storage] == 0) bytes += bytes_of(s, storage);
  }
  return bytes;
}

static void restore_uses(schedule *s, const ml_step *step) {
  for (int k = 0; k < step->n_inputs + step->n_outputs; k++) {
    int storage = storage_of(s->plan, step->inputs[k]);
    if (storage >= 0) s->uses[storage]++;
  }
}

/* Bytes of what begins to live with a step. */
static size_t new_bytes(const schedule *s, const ml_step *step) {
  size_t bytes = 0;
  for (int k = 0; k < step->n_outputs; k++) {
    int storage = storage_of(s->plan, step->outputs[k]);
    if (storage >= 0 && !s->begun[storage]) bytes += bytes_of(s, storage);
  }
  return bytes;
}

static size_t operand_bytes(const schedule *s, const ml_step *step) {
  size_t bytes = 0;
  for (int k = 0; k < step->n_inputs + step->n_outputs; k++) {
    int storage = storage_of(s->plan, step->inputs[k]);
    if (storage >= 0) bytes += bytes_of(s, storage);
  }
  return bytes;
}

/* The step is done: its outputs live from here on, and no longer what nobody else touches. */
static void pass(schedule *s, int i) {
  const ml_step *step = &s->plan->steps[i];
  s->live += new_bytes(s, step);
  if (s->live > s->peak) s->peak = s->live;
  for (int k = 0; k < step->n_outputs; k++) {
    int storage = storage_of(s->plan, step->outputs[k]);
    if (storage >= 0) s->begun[storage] = true;
  }
  s->live -= drop_uses(s, step);
}

/* ---- the new order ---- */

/* Bytes that a step would take, less those that it would give back: what it alone still reads, or it and the step
 * `before` it in a chain (or NULL). */
static int64_t taken_by(schedule *s, const ml_step *step, const ml_step *before) {
  if (before) drop_uses(s, before);
  int64_t taken = (int64_t)new_bytes(s, step) - (int64_t)drop_uses(s, step);
  restore_uses(s, step);
  if (before) restore_uses(s, before);
  return taken;
}

/* The only step that comes behind this one, if it comes behind nothing else that is to be done; or -1. */
static int next_in_chain(const schedule *s, int step) {
  int next = -1, links = 0;
  for (int l = s->followers[step]; l >= 0; l = s->links[l].next, links++) {
    if (next >= 0 && s->links[l].step != next) return -1;
    next = s->links[l].step;
  }
  return next >= 0 && s->waiting[next] == links ? next : -1;
}

/* Whether a step that can run, with those that follow from it alone, gives memory back. */
static bool gives_back(schedule *s, int step) {
  int64_t taken = 0;
  const ml_step *before = NULL;
  for (int i = 0; i < LOOK_AHEAD && step >= 0; i++, step = next_in_chain(s, step)) {
    taken += taken_by(s, &s->plan->steps[step], before);
    if (taken <= -GIVEN_BACK) return true;
    before = &s->plan->steps[step];
  }
  return false;
}

/* Bytes that a step made and that are still to be read. */
static int64_t unread_bytes(const schedule *s, const ml_step *step) {
  int64_t bytes = 0;
  for (int k = 0; k < step->n_outputs; k++) {
    int storage = storage_of(s->plan, step->outputs[k]);
    if (storage >= 0 && s->uses[storage] > 0) bytes += (int64_t)bytes_of(s, storage);
  }
  return bytes;
}

/* Whether steps that can run now, all of them together, give back what the step before them made. */
static bool give_back_together(schedule *s, int step, const int *ready, size_t n) {
  const ml_step *steps = s->plan->steps;
  int64_t taken = -unread_bytes(s, &steps[step]);
  for (size_t i = 0; i < n; i++) {
    taken += (int64_t)new_bytes(s, &steps[ready[i]]);
    drop_uses(s, &steps[ready[i]]);
  }
  taken += unread_bytes(s, &steps[step]);
  for (size_t i = 0; i < n; i++) restore_uses(s, &steps[ready[i]]);
  return taken <= -GIVEN_BACK;
}

/* Those that can run now and are worth it come next, the earliest on top of the stack. */
static void run_step(schedule *s, int step) {
  size_t first = s->depth, n = first;
  s->order[s->n_order++] = step;
  s->done[step] = true;
  pass(s, step);
  for (int l = s->followers[step]; l >= 0; l = s->links[l].next) {
    if (--s->waiting[s->links[l].step] == 0) s->stack[n++] = s->links[l].step;
  }
  bool all = n > first + 1 && give_back_together(s, step, s->stack + first, n - first);
  for (size_t i = first; i < n; i++) {
    if (all || gives_back(s, s->stack[i])) s->stack[s->depth++] = s->stack[i];
  }
}

static void reorder(schedule *s) {
  begin(s);
  for (size_t i = 0; i < s->plan->n_steps; i++) {
    if (s->done[i]) continue;
    s->stack[s->depth++] = (int)i;
    while (s->depth) run_step(s, s->stack[--s->depth]);
  }
}

static bool is_worth(size_t peak, size_t before) {
  return peak + LEAST_BYTES <= before && peak + before / SHARE <= before;
}

static ml_status take_order(schedule *s) {
  ml_plan *p = s->plan;
  ml_step *steps = ml_bump_alloc(&s->memory, p->n_steps, sizeof *steps);
  if (!steps) return ML_MEMORY;
  memcpy(steps, p->steps, p->n_steps * sizeof *steps);
  for (size_t i = 0; i < p->n_steps; i++) p->steps[i] = steps[s->order[i]];
  return ML_OK;
}

static ml_status try_order(schedule *s) {
  ml_plan *p = s->plan;
  s->uses = ml_bump_alloc(&s->memory, p->n_storages, sizeof *s->uses);
  s->begun = ml_bump_alloc(&s->memory, p->n_storages, sizeof *s->begun);
  s->order = ml_bump_alloc(&s->memory, 2 * p->n_steps, sizeof *s->order);
  s->done = ml_bump_alloc(&s->memory, p->n_steps, sizeof *s->done);
  if (!s->uses || !s->begun || !s->order || !s->done) return ML_MEMORY;
  s->stack = s->order + p->n_steps;
  begin(s);
  size_t least = 0; /* of a single step's operands, below which no order comes */
  for (size_t i = 0; i < p->n_steps; i++) {
    size_t own = operand_bytes(s, &p->steps[i]);
    if (own > least) least = own;
    pass(s, (int)i);
  }
  const size_t peak = s->peak;
  if (!is_worth(least, peak)) return ML_OK;
  ML_TRY(find_places(s));
  ML_TRY(find_order(s));
  reorder(s);
  if (!is_worth(s->peak, peak)) return ML_OK;
  p->engine->stats.rewrites.scheduled++;
  p->saved[ML_PASS_schedule].bytes = peak - s->peak;
  return take_order(s);
}

ml_status ml_plan_schedule(ml_plan *plan) {
  enum { FEWEST = 4 }; /* in whose order there is nothing to choose */
  if (plan->n_steps < FEWEST) return ML_OK;
  schedule s = {.plan = plan, .memory = {.spare = &plan->engine->spare}};
  ml_status status = try_order(&s);
  ml_bump_free(&s.memory);
  return status;
}
