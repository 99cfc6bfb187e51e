/* tape.c: plans as the CPU runs them.
 *
 * Lowering gives each step one task or more. All threads walk the tape together; they take a task's units from a shared
 * counter and meet at a barrier only where a task needs what an earlier one wrote. Runs of cheap tasks are left to one
 * thread: sharing them would cost more than they do. */
#include "tensor/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- lowering ---- */

/* An operand that lies in an input or an output of the program, wherever those are in a run. */
typedef struct outer {
  char **data; /* of the operand */
  int index;   /* of the input or output */
  bool is_output;
  int64_t offset;
} outer;

struct ml_program {
  const ml_plan *plan;
  const ml_cpu *cpu;
  ptrdiff_t shift;
  ml_bump memory; /* of the program and all that it points at, scratch aside */
  ml_task *tasks;
  bool *barrier_before;       /* a task that needs what an earlier one since the last barrier wrote */
  bool *solo;                 /* run by the first thread alone */
  atomic_int_least64_t *next; /* of each task the units that were taken */
  atomic_int_least64_t *done; /* and those that its kernel counts as done */
  size_t n_tasks, capacity;
  outer *outers;
  size_t n_outers, outers_capacity;
  bool alone;     /* all tasks are the first thread's */
  size_t scratch; /* bytes a thread */
  size_t shared;  /* and of all, which come first */
  ml_fault fault;
  atomic_int stop;       /* ml_status that ended the run early */
  atomic_size_t stop_at; /* task at whose barrier every member leaves; n_tasks: none */
  char *scratch_data;    /* of the first thread; NULL: it has not run */
};

static ml_status make_arg(ml_program *g, int value, ml_arg *a) {
  static const int64_t none[ML_MAX_DIMS];
  const ml_plan *p = g->plan;
  *a = (ml_arg){.shape = none, .strides = none};
  if (value < 0) return ML_OK;
  const ml_value *v = &p->values[value];
  const ml_storage *s = &p->storages[v->storage];
  *a = (ml_arg){.dtype = v->dtype,
                .layout = v->layout,
                .exact = v->exact,
                .ndim = v->ndim,
                .shape = v->shape,
                .strides = v->strides};
  if (s->place == ML_PLACE_ARENA) a->data = (char *)p->arena->address + s->offset + v->offset + g->shift;
  else if (s->place == ML_PLACE_TENSOR) a->data = (char *)s->buffer->address + s->offset + v->offset + g->shift;
  else {
    ML_TRY(ML_BUMP_GROW(&g->memory, g->outers, g->outers_capacity, g->n_outers + 1));
    g->outers[g->n_outers++] = (outer){&a->data, s->index, s->place == ML_PLACE_OUTPUT, v->offset + g->shift};
  }
  return ML_OK;
}

static ml_status add_task(ml_program *g, const ml_step *step, const ml_isa *isa, const ml_kernel_row *row) {
  ML_TRY(ML_BUMP_GROW(&g->memory, g->tasks, g->capacity, g->n_tasks + 1));
  ml_task *t = &g->tasks[g->n_tasks];
  *t = (ml_task){.run = row->run,
                 .step = step,
                 .isa = isa,
                 .group = g->plan->device->group,
                 .threads = ml_pool_members(*g->cpu->pool),
                 .n_in = step->n_inputs,
                 .n_out = step->n_outputs,
                 .grain = 1,
                 .cost = 1e9,
                 .memory = &g->memory};
  t->in = ml_bump_alloc(&g->memory, (size_t)(step->n_inputs + step->n_outputs), sizeof *t->in);
  if (!t->in) return ML_MEMORY;
  g->n_tasks++;
  t->out = t->in + t->n_in;
  for (int i = 0; i < t->n_in; i++) ML_TRY(make_arg(g, step->inputs[i], &t->in[i]));
  for (int i = 0; i < t->n_out; i++) ML_TRY(make_arg(g, step->outputs[i], &t->out[i]));
  ML_TRY(row->prepare(t));
  if (t->scratch > g->scratch) g->scratch = t->scratch;
  return ML_OK;
}

/* Rows from here on are made what products take by a task of their own; below, every thread does it for itself. */
enum { SHARED_ROWS = 5 };

/* What makes the rows ready that a step multiplies, or NULL. */
static const ml_kernel_row *rows_before(const ml_program *g, const ml_step *step, const ml_isa *isa) {
  if (step->op == ML_OP_gather_linear) return &isa->gather_rows;
  const bool many = step->op == ML_STEP_LINEARS && g->plan->values[step->inputs[0]].shape[0] >= SHARED_ROWS;
  return many ? &isa->convert_rows : NULL;
}

static ml_status lower_step(ml_program *g, const ml_step *step, const ml_isa *isa) {
  const ml_kernel_row *row = &isa->rows[step->op], *before = rows_before(g, step, isa);
  if (before) {
    ML_TRY(add_task(g, step, isa, before));
    if (g->tasks[g->n_tasks - 1].units == 0) g->n_tasks--; /* the rows are taken as they are */
  }
  return add_task(g, step, isa, row);
}

/* ---- barriers ---- */

/* Memory that a task touches. What the first thread alone does (solo) needs no barrier within itself. */
typedef struct region {
  int kind;
  uintptr_t from, to;
  bool written, solo;
} region;

static region region_of(const ml_plan *p, int value, bool written) {
  const ml_value *v = &p->values[value];
  const ml_storage *s = &p->storages[v->storage];
  if (s->place == ML_PLACE_ARENA) return (region){ML_PLACE_ARENA, s->offset, s->offset + s->bytes, written, false};
  if (s->place == ML_PLACE_TENSOR) {
    uintptr_t base = (uintptr_t)s->buffer->address;
    return (region){ML_PLACE_TENSOR, base, base + 1, written, false};
  }
  return (region){(int)s->place, (uintptr_t)s->index, (uintptr_t)s->index + 1, written, false};
}

typedef struct regions {
  region *items;
  size_t count, capacity;
} regions;

static bool conflicts(const regions *since, region r) {
  for (size_t i = 0; i < since->count; i++) {
    const region *o = &since->items[i];
    if ((o->written || r.written) && !(o->solo && r.solo) && o->kind == r.kind && o->from < r.to && r.from < o->to)
      return true;
  }
  return false;
}

static ml_status task_regions(const ml_plan *p, const ml_task *t, regions *out) {
  const ml_step *s = t->step;
  bool effect = s->op < ML_OP_COUNT && ml_op_is_effect((ml_op)s->op);
  out->count = 0;
  ML_TRY(ML_GROW(out->items, out->capacity, (size_t)(s->n_inputs + s->n_outputs) + 1));
  for (int i = 0; i < s->n_inputs; i++) {
    if (s->inputs[i] >= 0) out->items[out->count++] = region_of(p, s->inputs[i], effect && i == 0);
  }
  for (int i = 0; i < s->n_outputs; i++) {
    if (s->outputs[i] >= 0) out->items[out->count++] = region_of(p, s->outputs[i], true);
  }
  if (t->shared) out->items[out->count++] = (region){-1, 0, 1, true, false};
  return ML_OK;
}

/* A task cheaper than this is not worth a barrier. */
static const double SOLO_NS = 1500;

/* Regions are remembered up to here; a barrier too many costs less than a search of more. */
enum { MOST_REGIONS = 96 };

/* Takes what the first thread did alone out of the list; whether there was any. */
static bool forget_solo(regions *since) {
  size_t kept = 0, count = since->count;
  for (size_t k = 0; k < count; k++) {
    if (!since->items[k].solo) since->items[kept++] = since->items[k];
  }
  since->count = kept;
  return kept < count;
}

static ml_status find_barriers(ml_program *g) {
  regions since = {0}, own = {0};
  ml_status status = ML_OK;
  bool forgotten = false; /* what the first thread did alone since the last barrier is more than is remembered */
  for (size_t i = 0; i < g->n_tasks && status == ML_OK; i++) {
    status = task_regions(g->plan, &g->tasks[i], &own);
    if (status == ML_OK) status = ML_GROW(since.items, since.capacity, since.count + own.count);
    if (status != ML_OK) break;
    bool solo = g->solo[i] = g->tasks[i].cost < SOLO_NS, barrier = forgotten && !solo;
    for (size_t k = 0; k < own.count; k++) own.items[k].solo = solo;
    for (size_t k = 0; k < own.count && !barrier; k++) barrier = conflicts(&since, own.items[k]);
    if (!barrier && since.count + own.count > MOST_REGIONS) {
      if (solo) forgotten |= forget_solo(&since);
      barrier = !solo || since.count > MOST_REGIONS / 2;
    }
    g->barrier_before[i] = barrier;
    if (barrier) since.count = 0, forgotten = false;
    memcpy(since.items + since.count, own.items, own.count * sizeof *own.items);
    since.count += own.count;
  }
  ml_free(since.items);
  ml_free(own.items);
  return status;
}

void ml_cpu_drop(ml_program *g) {
  ml_bump memory = g->memory; /* which holds the program too */
  ml_bump_free(&memory);
}

static ml_status lower(ml_program *g, const ml_isa *isa) {
  for (size_t i = 0; i < g->plan->n_steps; i++) {
    ml_status status = lower_step(g, &g->plan->steps[i], isa);
    const char *path = g->plan->steps[i].path;
    if (status != ML_OK) return path ? ml_fail_prefix(status, "%s", path) : status;
  }
  for (size_t i = 0; i < g->n_tasks; i++) {
    if (g->tasks[i].shared > g->shared) g->shared = g->tasks[i].shared;
  }
  g->shared = (g->shared + 63) & ~(size_t)63; /* members share no cache line */
  g->scratch = (g->scratch + 63) & ~(size_t)63;
  g->barrier_before = ml_bump_alloc(&g->memory, g->n_tasks, sizeof *g->barrier_before);
  g->solo = ml_bump_alloc(&g->memory, g->n_tasks, sizeof *g->solo);
  g->next = ml_bump_alloc(&g->memory, g->n_tasks, sizeof *g->next);
  g->done = ml_bump_alloc(&g->memory, g->n_tasks, sizeof *g->done);
  if (!g->barrier_before || !g->solo || !g->next || !g->done) return ML_MEMORY;
  for (size_t i = 0; i < g->n_tasks; i++) g->tasks[i].done = &g->done[i];
  ML_TRY(find_barriers(g));
  g->alone = true;
  for (size_t i = 0; i < g->n_tasks && g->alone; i++) g->alone = g->solo[i];
  return ML_OK;
}

ml_status ml_cpu_lower(const ml_cpu *c, const ml_plan *plan, ml_program **out) {
  ml_bump memory = {.spare = plan->memory.spare};
  ml_program *g = ml_bump_alloc(&memory, 1, sizeof *g);
  if (!g) return ML_MEMORY;
  g->memory = memory;
  g->plan = plan;
  g->cpu = c;
  g->shift = c->shift;
  ml_status status = lower(g, c->isa);
  if (status != ML_OK) {
    ml_cpu_drop(g);
    return status;
  }
  *out = g;
  return ML_OK;
}

size_t ml_cpu_barriers(const ml_program *g) {
  size_t n = 0;
  for (size_t i = 0; i < g->n_tasks && !g->alone; i++) n += g->barrier_before[i];
  return n;
}

/* ---- running ---- */

static void set_addresses(ml_program *g, void *const *inputs, void *const *outputs) {
  for (size_t i = 0; i < g->n_outers; i++) {
    const outer *o = &g->outers[i];
    *o->data = (char *)(o->is_output ? outputs : inputs)[o->index] + o->offset;
  }
}

/* Whether the program is to end: the first thread looks, the others see what it found. */
static bool is_stopped(ml_program *g, int member) {
  if (atomic_load_explicit(&g->stop, memory_order_relaxed)) return true;
  ml_status now = member == 0 ? ml_flag_poll(&g->plan->engine->cancel) : ML_OK;
  if (now != ML_OK) atomic_store(&g->stop, now);
  return now != ML_OK;
}

static void run_share(ml_program *g, size_t at, int member, ml_worker *w) {
  const ml_task *t = &g->tasks[at];
  bool first = true;
  while (!is_stopped(g, member)) {
    int64_t begin = atomic_fetch_add_explicit(&g->next[at], t->grain, memory_order_relaxed);
    if (begin >= t->units) return;
    if (first && t->prologue) t->prologue(t, 0, 0, w);
    first = false;
    t->run(t, begin, ml_min64(begin + t->grain, t->units), w);
  }
}

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The task before `at` has ended, if one was timed. *since: when it began. */
static void note_time(ml_program *g, size_t at, double *since) {
  const double now = seconds_now();
  if (at > 0) g->plan->seconds[g->tasks[at - 1].step - g->plan->steps] += now - *since;
  *since = now;
}

static void walk(void *context, int member) {
  ml_program *g = context;
  ml_worker w = {g->scratch_data + (size_t)member * g->scratch, &g->fault};
  double since = 0;
  for (size_t i = 0; i < g->n_tasks; i++) {
    if (g->barrier_before[i] || g->plan->seconds) {
      if (member == 0 && is_stopped(g, member)) atomic_store(&g->stop_at, i);
      ml_pool_barrier(*g->cpu->pool);
      /* A member that is late here may already see the stop of a later barrier, where the others wait for it. */
      if (atomic_load_explicit(&g->stop_at, memory_order_relaxed) == i) return;
      if (member == 0 && g->plan->seconds) note_time(g, i, &since);
    }
    if (member == 0 || !g->solo[i]) run_share(g, i, member, &w);
  }
  if (!g->plan->seconds) return;
  ml_pool_barrier(*g->cpu->pool);
  if (member == 0) note_time(g, g->n_tasks, &since);
}

/* A program of cheap tasks wakes nobody. */
static void walk_alone(ml_program *g) {
  ml_worker w = {g->scratch_data, &g->fault};
  double since = 0;
  for (size_t i = 0; i < g->n_tasks; i++) {
    const ml_task *t = &g->tasks[i];
    if (g->plan->seconds) note_time(g, i, &since);
    if (i % 64 == 63 && is_stopped(g, 0)) return;
    if (t->units > 0 && t->prologue) t->prologue(t, 0, 0, &w);
    for (int64_t at = 0; at < t->units; at += t->grain) t->run(t, at, ml_min64(at + t->grain, t->units), &w);
  }
  if (g->plan->seconds) note_time(g, g->n_tasks, &since);
}

size_t ml_cpu_workspace(const ml_program *g) {
  const size_t members = g->alone ? 1 : (size_t)ml_pool_members(*g->cpu->pool);
  return g->shared + g->scratch * members;
}

static void set_workspace(const ml_cpu *c, ml_program *g) {
  if (g->scratch_data || g->shared + g->scratch == 0) return; /* it never moves */
  char *at = (char *)g->plan->device->workspace.buffer->address + c->shift;
  for (size_t i = 0; i < g->n_tasks; i++) g->tasks[i].shared_data = at;
  g->scratch_data = at + g->shared;
}

static void walk_all(const ml_cpu *c, ml_program *g) {
  for (size_t i = 0; i < g->n_tasks && !g->alone; i++) atomic_store_explicit(&g->next[i], 0, memory_order_relaxed);
  for (size_t i = 0; i < g->n_tasks; i++) atomic_store_explicit(&g->done[i], 0, memory_order_relaxed);
  atomic_store(&g->stop, 0);
  atomic_store(&g->stop_at, g->n_tasks);
  atomic_store(&g->fault.raised, 0);
  if (g->alone) walk_alone(g);
  else ml_pool_run(*c->pool, walk, g);
}

/* What has ended the walk, if anything did before its end. */
static ml_status find_status(const ml_program *g, ml_outcome *o) {
  ml_status status = (ml_status)atomic_load(&g->stop);
  const int step = atomic_load(&g->fault.raised);
  if (status == ML_CANCELLED) snprintf(o->text, sizeof o->text, "cancelled");
  else if (status == ML_DEADLINE) snprintf(o->text, sizeof o->text, "the deadline has passed");
  if (status != ML_OK || !step) return status;
  ml_outcome_index(o, step, g->fault.value, g->fault.is_unsigned, g->fault.limit);
  return o->status;
}

void ml_cpu_run(const ml_cpu *c, ml_program *g, void *const *inputs, void *const *outputs, ml_outcome *o) {
  o->began = false;
  atomic_store(&g->stop, ml_flag_poll(&g->plan->engine->cancel));
  if (!atomic_load(&g->stop)) {
    set_workspace(c, g);
    set_addresses(g, inputs, outputs);
    o->began = true;
    walk_all(c, g);
  }
  o->status = find_status(g, o);
}
