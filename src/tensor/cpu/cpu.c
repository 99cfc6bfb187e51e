/* cpu.c: the processor as a device: memory, the choice of instruction set, and the tape.
 *
 * Lowering gives each step one task or more. All threads walk the tape together; they take a task's units from a shared
 * counter and meet at a barrier only where a task needs what an earlier one wrote. Runs of cheap tasks are left to one
 * thread: sharing them would cost more than they do. */
#include "tensor/cpu/pack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- memory ---- */

/* Blocks from here on are aligned to huge pages and ask for them. */
static const size_t HUGE_BYTES = (size_t)2 << 20;

static ml_status cpu_allocate(ml_device *d, size_t bytes, void **out) {
  bool huge = bytes >= 2 * HUGE_BYTES;
  size_t align = huge ? HUGE_BYTES : 64, rounded = (bytes + align - 1) & ~(align - 1);
  *out = rounded >= bytes ? aligned_alloc(align, rounded) : NULL;
  if (!*out) return ml_fail(ML_MEMORY, "%s: %zu bytes refused", d->name, bytes);
  if (huge) madvise(*out, rounded, MADV_HUGEPAGE);
  return ML_OK;
}

typedef struct reservation {
  struct reservation *next;
  void *address;
  size_t bytes;
} reservation;

typedef struct cpu_state {
  const ml_isa *isa;
  reservation *reservations;
  char *scratch; /* of the program that runs, for every member of the team */
  size_t scratch_bytes;
} cpu_state;

static size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static ml_status cpu_reserve(ml_device *d, size_t bytes, void **out) {
  cpu_state *s = d->state;
  reservation *r = ml_calloc(1, sizeof *r);
  if (!r) return ML_MEMORY;
  size_t page = page_size(), rounded = (bytes + page - 1) & ~(page - 1);
  void *address =
      mmap(NULL, rounded ? rounded : page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) {
    ml_free(r);
    return ml_fail(ML_MEMORY, "%s: %zu bytes of address space refused", d->name, bytes);
  }
  *r = (reservation){s->reservations, address, rounded ? rounded : page};
  s->reservations = r;
  *out = address;
  return ML_OK;
}

static void cpu_release(ml_device *d, void *address, size_t bytes) {
  (void)bytes;
  cpu_state *s = d->state;
  for (reservation **link = &s->reservations; *link; link = &(*link)->next) {
    reservation *r = *link;
    if (r->address != address) continue;
    munmap(r->address, r->bytes);
    *link = r->next;
    ml_free(r);
    return;
  }
  free(address);
}

static size_t cpu_committed(ml_device *d, const void *address, size_t bytes) {
  (void)d;
  size_t page = page_size(), pages = (bytes + page - 1) / page, committed = 0;
  unsigned char flags[1024];
  for (size_t at = 0; at < pages; at += sizeof flags) {
    size_t n = pages - at < sizeof flags ? pages - at : sizeof flags;
    if (mincore((char *)(uintptr_t)address + at * page, n * page, flags) != 0) return bytes;
    for (size_t i = 0; i < n; i++) committed += (flags[i] & 1) * page;
  }
  return committed;
}

static void cpu_decommit(ml_device *d, void *address, size_t bytes) {
  (void)d;
  size_t page = page_size();
  uintptr_t from = ((uintptr_t)address + page - 1) & ~(page - 1), to = ((uintptr_t)address + bytes) & ~(page - 1);
  if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
}

static ml_status cpu_copy(ml_device *d, void *to, const void *from, size_t bytes) {
  (void)d;
  if (bytes) memmove(to, from, bytes);
  return ML_OK;
}

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
  char *shared;
  ml_fault fault;
  atomic_int stop;       /* ml_status that ended the run early */
  atomic_size_t stop_at; /* task at whose barrier every member leaves; n_tasks: none */
  char *scratch_data;    /* the device's, while it runs */
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
  if (s->place == ML_PLACE_ARENA) a->data = (char *)p->arena->address + s->offset + v->offset;
  else if (s->place == ML_PLACE_TENSOR) a->data = (char *)s->buffer->address + s->offset + v->offset;
  else {
    ML_TRY(ML_BUMP_GROW(&g->memory, g->outers, g->outers_capacity, g->n_outers + 1));
    g->outers[g->n_outers++] = (outer){&a->data, s->index, s->place == ML_PLACE_OUTPUT, v->offset};
  }
  return ML_OK;
}

static ml_status add_task(ml_program *g, const ml_step *step, const ml_isa *isa, const ml_kernel_row *row) {
  const ml_plan *p = g->plan;
  ML_TRY(ML_BUMP_GROW(&g->memory, g->tasks, g->capacity, g->n_tasks + 1));
  ml_task *t = &g->tasks[g->n_tasks];
  *t = (ml_task){.run = row->run,
                 .step = step,
                 .isa = isa,
                 .threads = ml_pool_members(p->engine->pool),
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

/* Rows from here on are rounded to 8-bit blocks by a task of their own; below, every thread rounds them for itself. */
enum { SHARED_ROUNDING_ROWS = 5 };

static ml_status lower_step(ml_program *g, const ml_step *step, const ml_isa *isa) {
  const ml_kernel_row *row = &isa->rows[step->op];
  if (!row->run) return ml_fail(ML_UNSUPPORTED, "%s: the processor has no kernel for it", ml_step_name(step));
  if (step->op == ML_STEP_LINEARS && g->plan->values[step->inputs[0]].shape[0] >= SHARED_ROUNDING_ROWS) {
    ML_TRY(add_task(g, step, isa, &isa->quantize_rows));
    if (g->tasks[g->n_tasks - 1].units == 0) g->n_tasks--; /* the weights take float activations as they are */
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

static void cpu_drop(ml_device *d, ml_program *g) {
  (void)d;
  free(g->shared);
  ml_bump memory = g->memory; /* which holds the program too */
  ml_bump_free(&memory);
}

static ml_status lower(ml_program *g, const ml_isa *isa) {
  size_t shared = 0;
  for (size_t i = 0; i < g->plan->n_steps; i++) {
    ml_status status = lower_step(g, &g->plan->steps[i], isa);
    const char *path = g->plan->steps[i].path;
    if (status != ML_OK) return path ? ml_fail_prefix(status, "%s", path) : status;
  }
  for (size_t i = 0; i < g->n_tasks; i++) {
    if (g->tasks[i].shared > shared) shared = g->tasks[i].shared;
  }
  if (shared && !(g->shared = aligned_alloc(64, (shared + 63) & ~(size_t)63)))
    return ml_fail(ML_MEMORY, "out of memory: %zu bytes", shared);
  g->scratch = (g->scratch + 127) & ~(size_t)63; /* never 0, and members share no cache line */
  for (size_t i = 0; i < g->n_tasks; i++) g->tasks[i].shared_data = g->shared;
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

static ml_status cpu_lower(ml_device *d, const ml_plan *plan, ml_program **out) {
  const cpu_state *s = d->state;
  ml_bump memory = {.spare = plan->memory.spare};
  ml_program *g = ml_bump_alloc(&memory, 1, sizeof *g);
  if (!g) return ML_MEMORY;
  g->memory = memory;
  g->plan = plan;
  ml_status status = lower(g, s->isa);
  if (status != ML_OK) {
    cpu_drop(d, g);
    return status;
  }
  *out = g;
  return ML_OK;
}

static size_t cpu_barriers(const ml_program *g) {
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

static void walk(void *context, int member) {
  ml_program *g = context;
  ml_engine *e = g->plan->engine;
  ml_worker w = {g->scratch_data + (size_t)member * g->scratch, &g->fault};
  for (size_t i = 0; i < g->n_tasks; i++) {
    if (g->barrier_before[i]) {
      if (member == 0 && is_stopped(g, member)) atomic_store(&g->stop_at, i);
      ml_pool_barrier(e->pool);
      /* A member that is late here may already see the stop of a later barrier, where the others wait for it. */
      if (atomic_load_explicit(&g->stop_at, memory_order_relaxed) == i) return;
    }
    if (member == 0 || !g->solo[i]) run_share(g, i, member, &w);
  }
}

/* A program of cheap tasks wakes nobody. */
static void walk_alone(ml_program *g) {
  ml_worker w = {g->scratch_data, &g->fault};
  for (size_t i = 0; i < g->n_tasks; i++) {
    const ml_task *t = &g->tasks[i];
    if (i % 64 == 63 && is_stopped(g, 0)) return;
    if (t->units > 0 && t->prologue) t->prologue(t, 0, 0, &w);
    for (int64_t at = 0; at < t->units; at += t->grain) t->run(t, at, ml_min64(at + t->grain, t->units), &w);
  }
}

/* One program runs at a time: they share what they need beside their operands. */
static ml_status get_scratch(cpu_state *s, ml_program *g, size_t members) {
  size_t bytes = g->scratch * members;
  if (bytes > s->scratch_bytes) {
    free(s->scratch);
    s->scratch_bytes = 0;
    s->scratch = aligned_alloc(64, bytes);
    if (!s->scratch) return ml_fail(ML_MEMORY, "out of memory: %zu bytes of scratch", bytes);
    s->scratch_bytes = bytes;
  }
  g->scratch_data = s->scratch;
  return ML_OK;
}

static ml_status cpu_run(ml_device *d, ml_program *g, void *const *inputs, void *const *outputs, bool *began) {
  ml_engine *e = d->engine;
  ML_TRY(ml_engine_check_process(e));
  ML_TRY(get_scratch(d->state, g, g->alone ? 1 : (size_t)ml_pool_members(e->pool)));
  ml_status status = ml_flag_poll(&e->cancel);
  if (status == ML_OK) {
    set_addresses(g, inputs, outputs);
    for (size_t i = 0; i < g->n_tasks && !g->alone; i++) atomic_store_explicit(&g->next[i], 0, memory_order_relaxed);
    for (size_t i = 0; i < g->n_tasks; i++) atomic_store_explicit(&g->done[i], 0, memory_order_relaxed);
    atomic_store(&g->stop, 0);
    atomic_store(&g->stop_at, g->n_tasks);
    atomic_store(&g->fault.raised, 0);
    *began = true;
    if (g->alone) walk_alone(g);
    else ml_pool_run(e->pool, walk, g);
    status = (ml_status)atomic_load(&g->stop);
  }
  if (status == ML_CANCELLED) return ml_fail(status, "cancelled");
  if (status == ML_DEADLINE) return ml_fail(status, "the deadline has passed");
  int step = atomic_load(&g->fault.raised);
  if (!step) return ML_OK;
  char value[24];
  snprintf(value, sizeof value, g->fault.is_unsigned ? "%llu" : "%lld", (long long)g->fault.value);
  return ml_fail(ML_USAGE, "%s: index %s is out of range for size %lld", ml_op_name((ml_op)step), value,
                 (long long)g->fault.limit);
}

static ml_status cpu_synchronize(ml_device *d) {
  (void)d;
  return ML_OK;
}

/* ---- the device ---- */

static void cpu_close(ml_device *d) {
  free(((cpu_state *)d->state)->scratch);
  ml_free(d->state);
  ml_free(d);
}

static const ml_device_table table = {
    .allocate = cpu_allocate,
    .release = cpu_release,
    .reserve = cpu_reserve,
    .committed = cpu_committed,
    .decommit = cpu_decommit,
    .upload = cpu_copy,
    .download = cpu_copy,
    .packed_bytes = ml_cpu_packed_bytes,
    .pack = ml_cpu_pack,
    .unpack = ml_cpu_unpack,
    .lower = cpu_lower,
    .barriers = cpu_barriers,
    .run = cpu_run,
    .drop = cpu_drop,
    .synchronize = cpu_synchronize,
    .close = cpu_close,
};

static bool has_avx2(void) {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#else
  return false;
#endif
}

static bool has_avx512(void) {
#if defined(__x86_64__)
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

/* Whether a dot product of bfloat16 is worth two multiply-adds: AMD's cores do them at twice the rate, Intel's without
 * tiles at half of it. */
static bool has_fast_dots(void) {
#if defined(__x86_64__)
  return has_avx512() && !__builtin_cpu_is("intel");
#else
  return false;
#endif
}

static ml_status choose_isa(const char *wanted, const ml_isa **out) {
#if defined(__x86_64__)
  const struct {
    const char *name;
    const ml_isa *isa;
    bool here;
  } all[] = {{"avx512", &ml_isa_avx512_dots, has_fast_dots()},
             {"avx512", &ml_isa_avx512, has_avx512()},
             {"avx2", &ml_isa_avx2, has_avx2()},
             {"ref", &ml_isa_ref, true},
             {"avx512-dots", &ml_isa_avx512_dots, has_avx512()}, /* by name alone, to compare and test the two */
             {"avx512-floats", &ml_isa_avx512, has_avx512()}};
#else
  const struct {
    const char *name;
    const ml_isa *isa;
    bool here;
  } all[] = {{"ref", &ml_isa_ref, !has_fast_dots()}};
#endif
  bool known = false;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    if (wanted && strcmp(wanted, all[i].name) != 0) continue;
    if (all[i].here) {
      *out = all[i].isa;
      return ML_OK;
    }
    known = wanted != NULL;
  }
  if (known) return ml_fail(ML_DEVICE, "instruction set \"%s\": this processor lacks it", wanted);
  return ml_fail(ML_USAGE, "instruction set \"%s\": expected ref, avx2 or avx512", wanted);
}

static void describe(ml_device *d, const char *isa) {
  char line[256], name[80] = "processor";
  FILE *f = fopen("/proc/cpuinfo", "r");
  while (f && fgets(line, sizeof line, f)) {
    if (sscanf(line, "model name : %79[^\n]", name) == 1) break;
  }
  if (f) fclose(f);
  snprintf(d->description, sizeof d->description, "%s, %s", name, isa);
}

ml_status ml_cpu_device_open(ml_engine *engine, const char *isa, ml_device **out) {
  const ml_isa *chosen = NULL;
  ML_TRY(choose_isa(isa, &chosen));
  ml_device *d = ml_calloc(1, sizeof *d);
  cpu_state *s = d ? ml_calloc(1, sizeof *s) : NULL;
  if (!s) {
    ml_free(d);
    return ML_MEMORY;
  }
  s->isa = chosen;
  *d = (ml_device){.table = &table, .engine = engine, .name = "cpu", .state = s};
  d->memory.cache_limit = (size_t)256 << 20; /* pages fresh from the system cost more than copying to them */
  describe(d, chosen->name);
  *out = d;
  return ML_OK;
}
