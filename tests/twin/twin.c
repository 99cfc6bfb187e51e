/* twin.c: a device that behaves like a GPU, over the CPU's kernels, for tests.
 *
 * Its memory is one file that is mapped twice. Addresses of the device lie in a mapping that nobody may touch; a thread
 * of its own works through the other one, a constant distance away. So whoever follows a device's address on the host
 * dies on the spot. What it is given it does later: a run after a delay of 0 to 200 us, one in a hundred some
 * milliseconds. Weights are packed in groups of 32 rows. Memory is poison (NaN) when somebody gets it, fresh or used
 * before, and so is the arena when a run begins; a run that reads what was not written since, or touches what has no
 * memory, fails and says so.
 *
 * The library has the core inside once more, with an error record of its own: what fails is told to the host's. */
#include "tensor/cpu/cpu.h"
#include "tensor/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GROUP = 32, POISON = 0xff };
static const size_t SPACE = (size_t)256 << 30, MEMORY = (size_t)16 << 30, PAGE = 4096, LINE = 64;

typedef ml_status (*fail_function)(ml_status status, const char *format, ...);

/* ---- what it is given ---- */

typedef enum kind { UPLOAD, DOWNLOAD, COPY, COMMIT, DECOMMIT, RELEASE, REUSE, PACK, UNPACK, RUN } kind;

typedef struct job {
  struct job *next;
  kind kind;
  ml_ticket ticket;
  char *at;       /* on the device */
  char *from;     /* the same, of a copy */
  void *host;     /* bytes of the host, or where they go */
  bool owned;     /* the host's bytes are a copy */
  size_t bytes;   /* of them, or of the memory */
  ml_dtype dtype; /* of weights */
  int64_t inputs, first, rows;
  ml_program *program;
  const ml_plan *plan;
  void **addresses; /* of inputs and outputs */
  ml_outcome outcome;
} job;

/* A part of the space that is free. */
typedef struct gap {
  size_t from, to;
} gap;

typedef struct twin {
  ml_cpu cpu;
  ml_pool *pool;
  fail_function fail;
  char *device, *mine; /* the two mappings */
  int file;
  uint8_t *memory, *lines; /* a bit a page that has memory, and a line that was written */
  gap *gaps;
  size_t n_gaps, gaps_capacity;
  uint64_t random;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t given, finished;
  job *first, *last, *over; /* to do, and runs that are done whose outcome nobody has asked for */
  ml_ticket next, done;
  bool closing;
} twin;

typedef struct twin_program {
  ml_program *program;
  const ml_plan *plan;
} twin_program;

static uint64_t draw(twin *t) { /* splitmix64 */
  uint64_t z = (t->random += 0x9e3779b97f4a7c15u);
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

/* ---- marks ---- */

/* Either thread marks and looks, and what lies side by side has one byte. */
static bool all_marked(const uint8_t *marks, size_t from, size_t to) {
  for (size_t i = from; i < to; i++) {
    if (!(__atomic_load_n(&marks[i >> 3], __ATOMIC_RELAXED) >> (i & 7) & 1)) return false;
  }
  return true;
}

static void mark(uint8_t *marks, size_t from, size_t to, bool on) {
  for (size_t i = from; i < to; i++) {
    if (on) __atomic_fetch_or(&marks[i >> 3], (uint8_t)(1 << (i & 7)), __ATOMIC_RELAXED);
    else __atomic_fetch_and(&marks[i >> 3], (uint8_t) ~(1 << (i & 7)), __ATOMIC_RELAXED);
  }
}

/* Pages and lines that a part of the space touches. */
static size_t up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit; }
/* False where the system keeps apart no more pages. */
static bool mark_memory(twin *t, size_t at, size_t bytes, bool on) {
  const size_t first = at / PAGE, end = up(at + bytes, PAGE);
  if (mprotect(t->mine + first * PAGE, (end - first) * PAGE, on ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
    return false;
  mark(t->memory, first, end, on);
  return true;
}
static void mark_written(twin *t, size_t at, size_t bytes, bool on) {
  mark(t->lines, at / LINE, up(at + bytes, LINE), on);
}

/* From here on nobody has written there. */
static void poison(twin *t, size_t at, size_t bytes) {
  memset(t->mine + at, POISON, bytes);
  mark_written(t, at, bytes, false);
}

/* ---- what a run reads and writes ---- */

/* The bytes of a value that lie between its first and its last element, and where they begin in the space. */
static size_t extent_of(const twin *t, const job *j, int value, size_t *at) {
  const ml_plan *p = j->plan;
  const ml_value *v = &p->values[value];
  const ml_storage *s = &p->storages[v->storage];
  char *base = s->place == ML_PLACE_ARENA ? (char *)p->arena->address + s->offset
               : s->place == ML_PLACE_TENSOR
                   ? (char *)s->buffer->address + s->offset
                   : j->addresses[s->place == ML_PLACE_OUTPUT ? p->n_inputs + s->index : s->index];
  *at = (size_t)(base + v->offset - t->device);
  if (ml_shape_size(v->ndim, v->shape) == 0) return 0;
  if (v->layout == ML_LAYOUT_PANELS)
    return ml_cpu_packed_bytes(GROUP, v->dtype, v->shape[v->ndim - 2], v->shape[v->ndim - 1]) *
           (size_t)(v->ndim > 2 ? v->shape[0] : 1);
  if (v->layout != ML_LAYOUT_STRIDED) return ml_value_bytes(v);
  int64_t low = 0, high = 0;
  for (int i = 0; i < v->ndim; i++) {
    const int64_t reach = (v->shape[i] - 1) * v->strides[i];
    if (reach < 0) low += reach;
    else high += reach;
  }
  const int64_t item = ml_dtype_infos[v->dtype].bytes;
  *at += (size_t)(low * item);
  return (size_t)((high - low + 1) * item);
}

static bool is_known(const twin *t, const job *j, int value, size_t at, size_t bytes) {
  if (ml_value_is_dense(&j->plan->values[value]) || j->plan->values[value].layout != ML_LAYOUT_STRIDED)
    return all_marked(t->lines, at / LINE, up(at + bytes, LINE));
  return all_marked(t->lines, at / LINE, at / LINE + 1) &&
         all_marked(t->lines, (at + bytes - 1) / LINE, up(at + bytes, LINE));
}

static bool refuse(job *j, size_t step, const char *side, int i, const char *what) {
  j->outcome.status = ML_DEVICE;
  snprintf(j->outcome.text, sizeof j->outcome.text, "twin: step %zu of a plan (%s): %s %d %s", step + 1,
           ml_step_name(&j->plan->steps[step]), side, i + 1, what);
  return false;
}

/* States that get memory as they fill: who touches more of them dies. */
static bool is_reserved(const ml_plan *p, int value) {
  const ml_storage *s = &p->storages[p->values[value].storage];
  return s->place == ML_PLACE_TENSOR && s->buffer->reserved;
}

/* A step that is the first to touch a place of the arena, or of an output where something else lay before, finds there
 * what another value was. */
static void forget_place(twin *t, const job *j, size_t step, int value) {
  const ml_plan *p = j->plan;
  const ml_storage *s = &p->storages[p->values[value].storage];
  if (s->first != (int)step || (s->place != ML_PLACE_ARENA && s->place != ML_PLACE_OUTPUT)) return;
  const char *at =
      s->place == ML_PLACE_ARENA ? (char *)p->arena->address + s->offset : (char *)j->addresses[p->n_inputs + s->index];
  mark_written(t, (size_t)(at - t->device), s->bytes, false);
}

/* Looks through the steps of a run in their order, before it is made. */
static bool look_through(twin *t, job *j) {
  const ml_plan *p = j->plan;
  size_t at, bytes;
  if (p->arena) {
    at = (size_t)((char *)p->arena->address - t->device);
    if (all_marked(t->memory, at / PAGE, up(at + p->arena_bytes, PAGE))) poison(t, at, p->arena_bytes);
  }
  for (size_t n = 0; n < p->n_steps; n++) {
    const ml_step *s = &p->steps[n];
    const bool effect = s->op < ML_OP_COUNT && ml_op_is_effect((ml_op)s->op);
    for (int i = 0; i < s->n_inputs; i++) {
      if (s->inputs[i] < 0 || is_reserved(p, s->inputs[i]) || !(bytes = extent_of(t, j, s->inputs[i], &at))) continue;
      if (!all_marked(t->memory, at / PAGE, up(at + bytes, PAGE))) return refuse(j, n, "input", i, "has no memory");
      if (effect && i == 0) mark_written(t, at, bytes, true);
      else if (!is_known(t, j, s->inputs[i], at, bytes)) return refuse(j, n, "input", i, "was never written");
    }
    for (int i = 0; i < s->n_outputs; i++) {
      if (s->outputs[i] < 0 || is_reserved(p, s->outputs[i]) || !(bytes = extent_of(t, j, s->outputs[i], &at)))
        continue;
      if (!all_marked(t->memory, at / PAGE, up(at + bytes, PAGE))) return refuse(j, n, "output", i, "has no memory");
      forget_place(t, j, n, s->outputs[i]);
    }
    for (int i = 0; i < s->n_outputs; i++) {
      if (s->outputs[i] < 0 || is_reserved(p, s->outputs[i]) || !(bytes = extent_of(t, j, s->outputs[i], &at)))
        continue;
      mark_written(t, at, bytes, true);
    }
  }
  return true;
}

/* ---- the thread ---- */

static void sleep_us(unsigned us) {
  const struct timespec time = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
  nanosleep(&time, NULL);
}

static void run(twin *t, job *j) {
  const uint64_t r = draw(t);
  sleep_us(r % 100 == 0 ? 2000 + (unsigned)(r >> 32) % 3000 : (unsigned)(r >> 32) % 200);
  j->outcome = (ml_outcome){.status = ML_OK};
  if (!look_through(t, j)) return;
  ml_cpu_run(&t->cpu, j->program, j->addresses, j->addresses + j->plan->n_inputs, &j->outcome);
}

static void give_back(twin *t, size_t from, size_t to) {
  pthread_mutex_lock(&t->lock);
  for (size_t i = 0; i < t->n_gaps;) { /* those before and behind it are one with it */
    const gap g = t->gaps[i];
    if (g.to != from && g.from != to) {
      i++;
      continue;
    }
    if (g.to == from) from = g.from;
    else to = g.to;
    t->gaps[i] = t->gaps[--t->n_gaps];
    i = 0;
  }
  if (ML_GROW(t->gaps, t->gaps_capacity, t->n_gaps + 1) == ML_OK) t->gaps[t->n_gaps++] = (gap){from, to};
  pthread_mutex_unlock(&t->lock);
}

static void punch(twin *t, size_t at, size_t bytes) {
  fallocate(t->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)bytes);
  mark_memory(t, at, bytes, false);
  mark_written(t, at, bytes, false);
}

static void carry_out(twin *t, job *j) {
  const size_t at = j->at ? (size_t)(j->at - t->device) : 0, whole = up(j->bytes, PAGE) * PAGE;
  char *mine = t->mine + at;
  switch (j->kind) {
  case UPLOAD: memcpy(mine, j->host, j->bytes), mark_written(t, at, j->bytes, true); return;
  case DOWNLOAD: memcpy(j->host, mine, j->bytes); return;
  case COPY:
    memmove(mine, t->mine + (j->from - t->device), j->bytes);
    mark_written(
        t, at, j->bytes,
        all_marked(t->lines, (size_t)(j->from - t->device) / LINE, up((size_t)(j->from - t->device) + j->bytes, LINE)));
    return;
  case COMMIT:
    for (size_t page = at / PAGE; page < up(at + j->bytes, PAGE); page++) {
      if (!all_marked(t->memory, page, page + 1)) mark_written(t, page * PAGE, PAGE, true);
    }
    if (!mark_memory(t, at, j->bytes, true)) fputs("twin: too many pieces of memory\n", stderr), abort();
    return;
  case DECOMMIT: punch(t, up(at, PAGE) * PAGE, ((at + j->bytes) / PAGE - up(at, PAGE)) * PAGE); return;
  case REUSE: poison(t, at, j->bytes); return;
  case RELEASE: punch(t, at, whole), give_back(t, at, at + whole + PAGE); return;
  case PACK:
    ml_cpu_pack(GROUP, mine, j->dtype, j->inputs, j->first, j->rows, j->host);
    mark_written(t, at + ml_cpu_packed_bytes(GROUP, j->dtype, j->first, j->inputs),
                 ml_cpu_packed_bytes(GROUP, j->dtype, j->rows, j->inputs), true);
    return;
  case UNPACK: ml_cpu_unpack(GROUP, mine, j->dtype, j->inputs, j->first, j->rows, j->host); return;
  case RUN: run(t, j); return;
  }
}

static void free_job(job *j) {
  if (j->owned) free(j->host);
  free(j->addresses);
  free(j);
}

static void *work(void *context) {
  twin *t = context;
  pthread_mutex_lock(&t->lock);
  while (t->first || !t->closing) {
    job *j = t->first;
    if (!j) {
      pthread_cond_wait(&t->given, &t->lock);
      continue;
    }
    pthread_mutex_unlock(&t->lock);
    carry_out(t, j);
    pthread_mutex_lock(&t->lock);
    t->first = j->next;
    if (!t->first) t->last = NULL;
    t->done = j->ticket;
    if (j->kind == RUN) j->next = t->over, t->over = j;
    else free_job(j);
    pthread_cond_broadcast(&t->finished);
  }
  pthread_mutex_unlock(&t->lock);
  return NULL;
}

/* Takes over a copy of what j says; its ticket. */
static ml_status give(twin *t, const job *j, ml_ticket *out) {
  job *own = malloc(sizeof *own);
  if (!own) return t->fail(ML_MEMORY, "twin: out of memory");
  *own = *j;
  pthread_mutex_lock(&t->lock);
  *out = own->ticket = ++t->next;
  if (t->last) t->last->next = own;
  else t->first = own;
  t->last = own;
  pthread_cond_signal(&t->given);
  pthread_mutex_unlock(&t->lock);
  return ML_OK;
}

static ml_status give_copy(twin *t, job *j, const void *from, size_t bytes, ml_ticket *out) {
  j->host = malloc(bytes + 1);
  if (!j->host) return t->fail(ML_MEMORY, "twin: out of memory");
  j->owned = true;
  memcpy(j->host, from, bytes);
  return give(t, j, out);
}

static ml_status twin_wait(ml_device *d, ml_ticket ticket, ml_outcome *out) {
  twin *t = d->state;
  pthread_mutex_lock(&t->lock);
  while (t->done < ticket) pthread_cond_wait(&t->finished, &t->lock);
  for (job **link = &t->over; out && *link; link = &(*link)->next) {
    job *j = *link;
    if (j->ticket != ticket) continue;
    *out = j->outcome;
    *link = j->next;
    free_job(j);
    out = NULL;
    break;
  }
  pthread_mutex_unlock(&t->lock);
  return out ? t->fail(ML_DEVICE, "twin: nobody knows how the run %llu ended", (unsigned long long)ticket) : ML_OK;
}

static bool twin_done(ml_device *d, ml_ticket ticket) {
  twin *t = d->state;
  pthread_mutex_lock(&t->lock);
  const bool done = t->done >= ticket;
  pthread_mutex_unlock(&t->lock);
  return done;
}

/* ---- memory ---- */

/* A part of the space, and a page behind it that is nobody's. */
static char *take_gap(twin *t, size_t whole) {
  for (size_t i = 0; i < t->n_gaps; i++) {
    if (t->gaps[i].to - t->gaps[i].from < whole) continue;
    t->gaps[i].from += whole;
    return t->device + t->gaps[i].from - whole;
  }
  return NULL;
}

/* Where there is none, it waits for what is to be given back. */
static ml_status take(twin *t, size_t bytes, void **out) {
  const size_t whole = (up(bytes, PAGE) + 1) * PAGE;
  pthread_mutex_lock(&t->lock);
  while (!(*out = take_gap(t, whole)) && t->first) pthread_cond_wait(&t->finished, &t->lock);
  pthread_mutex_unlock(&t->lock);
  return *out ? ML_OK : t->fail(ML_MEMORY, "twin: %zu bytes refused", bytes);
}

static ml_status twin_allocate(ml_device *d, size_t bytes, void **out) {
  twin *t = d->state;
  const ml_status status = take(t, bytes, out);
  if (status != ML_OK) return status;
  const size_t at = (size_t)((char *)*out - t->device);
  if (!mark_memory(t, at, bytes, true)) {
    give_back(t, at, at + (up(bytes, PAGE) + 1) * PAGE);
    return t->fail(ML_MEMORY, "twin: %zu bytes refused: too many pieces", bytes);
  }
  memset(t->mine + at, POISON, up(bytes, PAGE) * PAGE); /* nobody else has it */
  return ML_OK;
}

static ml_status twin_reserve(ml_device *d, size_t bytes, void **out) { return take(d->state, bytes, out); }

static void twin_release(ml_device *d, void *address, size_t bytes) {
  ml_ticket ticket;
  give(d->state, &(job){.kind = RELEASE, .at = address, .bytes = bytes}, &ticket);
}

static void twin_reuse(ml_device *d, void *address, size_t bytes) {
  ml_ticket ticket;
  give(d->state, &(job){.kind = REUSE, .at = address, .bytes = bytes}, &ticket);
}

static ml_status twin_commit(ml_device *d, void *address, size_t bytes) {
  ml_ticket ticket;
  return give(d->state, &(job){.kind = COMMIT, .at = address, .bytes = bytes}, &ticket);
}

static void twin_decommit(ml_device *d, void *address, size_t bytes) {
  ml_ticket ticket;
  give(d->state, &(job){.kind = DECOMMIT, .at = address, .bytes = bytes}, &ticket);
}

static void twin_report(ml_device *d, size_t *total, size_t *available) {
  twin *t = d->state;
  *total = MEMORY, *available = 0; /* there is more room than memory */
  pthread_mutex_lock(&t->lock);
  for (size_t i = 0; i < t->n_gaps; i++) *available += t->gaps[i].to - t->gaps[i].from;
  *available = *available < SPACE - MEMORY ? 0 : *available - (SPACE - MEMORY);
  pthread_mutex_unlock(&t->lock);
}

/* ---- copies, and weights ---- */

static ml_status twin_upload(ml_device *d, void *to, const void *from, size_t bytes, ml_ticket *out) {
  return give_copy(d->state, &(job){.kind = UPLOAD, .at = to, .bytes = bytes}, from, bytes, out);
}

static ml_status twin_download(ml_device *d, void *to, const void *from, size_t bytes, ml_ticket *out) {
  return give(d->state, &(job){.kind = DOWNLOAD, .at = (char *)(uintptr_t)from, .host = to, .bytes = bytes}, out);
}

static ml_status twin_copy(ml_device *d, void *to, ml_device *other, const void *from, size_t bytes) {
  ml_ticket ticket;
  if (other == d)
    return give(d->state, &(job){.kind = COPY, .at = to, .from = (char *)(uintptr_t)from, .bytes = bytes}, &ticket);
  return ((twin *)d->state)->fail(ML_UNSUPPORTED, "%s does not reach the memory of %s", d->name, other->name);
}

static size_t twin_packed_bytes(ml_device *d, ml_dtype dtype, int64_t rows, int64_t inputs) {
  return ml_cpu_packed_bytes(d->group, dtype, rows, inputs);
}

static ml_status check_weight(twin *t, ml_dtype dtype, int64_t inputs, int64_t first_row, size_t *row_bytes) {
  if (!ml_cpu_packed_bytes(GROUP, dtype, 1, inputs) || !ml_dtype_row_bytes(dtype, inputs, row_bytes))
    return t->fail(ML_UNSUPPORTED, "dtype %s is not packed", ml_dtype_name(dtype));
  return first_row % GROUP ? t->fail(ML_USAGE, "rows are packed in groups of %d", GROUP) : ML_OK;
}

static ml_status twin_pack(ml_device *d, void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row, int64_t rows,
                           const void *from) {
  twin *t = d->state;
  ml_ticket ticket;
  size_t row_bytes;
  if (inputs == 0 || rows == 0) return ML_OK;
  ml_status status = check_weight(t, dtype, inputs, first_row, &row_bytes);
  if (status != ML_OK) return status;
  job j = {.kind = PACK, .at = packed, .dtype = dtype, .inputs = inputs, .first = first_row, .rows = rows};
  return give_copy(t, &j, from, row_bytes * (size_t)rows, &ticket);
}

static ml_status twin_unpack(ml_device *d, const void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row,
                             int64_t rows, void *to) {
  twin *t = d->state;
  ml_ticket ticket;
  size_t row_bytes;
  if (inputs == 0 || rows == 0) return ML_OK;
  ml_status status = check_weight(t, dtype, inputs, first_row, &row_bytes);
  job j = {.kind = UNPACK,
           .at = (char *)(uintptr_t)packed,
           .host = to,
           .dtype = dtype,
           .inputs = inputs,
           .first = first_row,
           .rows = rows};
  if (status == ML_OK) status = give(t, &j, &ticket);
  return status == ML_OK ? twin_wait(d, ticket, NULL) : status;
}

/* ---- programs ---- */

static bool twin_lacks(const ml_device *d, int step) { return !((const twin *)d->state)->cpu.isa->rows[step].run; }

static ml_status twin_lower(ml_device *d, const ml_plan *plan, ml_program **out) {
  twin *t = d->state;
  twin_program *p = malloc(sizeof *p);
  if (!p) return t->fail(ML_MEMORY, "twin: out of memory");
  p->plan = plan;
  const ml_status status = ml_cpu_lower(&t->cpu, plan, &p->program);
  *out = (ml_program *)p;
  if (status == ML_OK) return ML_OK;
  free(p);
  return t->fail(status, "%s", ml_error_message());
}

static size_t twin_barriers(const ml_program *program) {
  return ml_cpu_barriers(((const twin_program *)program)->program);
}

static size_t twin_workspace(const ml_program *program) {
  return ml_cpu_workspace(((const twin_program *)program)->program);
}

static ml_status twin_submit(ml_device *d, ml_program *program, void *const *inputs, void *const *outputs,
                             ml_ticket *out) {
  twin *t = d->state;
  const twin_program *p = (const twin_program *)program;
  const size_t n_in = (size_t)p->plan->n_inputs, n_out = (size_t)p->plan->n_outputs;
  job j = {
      .kind = RUN, .program = p->program, .plan = p->plan, .addresses = malloc((n_in + n_out + 1) * sizeof(void *))};
  if (!j.addresses) return t->fail(ML_MEMORY, "twin: out of memory");
  if (n_in) memcpy(j.addresses, inputs, n_in * sizeof *inputs);
  if (n_out) memcpy(j.addresses + n_in, outputs, n_out * sizeof *outputs);
  return give(t, &j, out);
}

static void twin_drop(ml_device *d, ml_program *program) {
  (void)d;
  ml_cpu_drop(((twin_program *)program)->program);
  free(program);
}

/* ---- the device ---- */

static void twin_close(ml_device *d) {
  twin *t = d->state;
  pthread_mutex_lock(&t->lock);
  t->closing = true;
  pthread_cond_signal(&t->given);
  pthread_mutex_unlock(&t->lock);
  pthread_join(t->thread, NULL);
  while (t->over) {
    job *j = t->over;
    t->over = j->next;
    free_job(j);
  }
  munmap(t->device, SPACE);
  munmap(t->mine, SPACE);
  munmap(t->memory, SPACE / PAGE / 8);
  munmap(t->lines, SPACE / LINE / 8);
  close(t->file);
  ml_pool_close(t->pool);
  ml_free(t->gaps);
  free(t);
  ml_free(d);
}

static const ml_device_table table = {
    .allocate = twin_allocate,
    .release = twin_release,
    .reuse = twin_reuse,
    .reserve = twin_reserve,
    .commit = twin_commit,
    .decommit = twin_decommit,
    .report = twin_report,
    .upload = twin_upload,
    .download = twin_download,
    .copy = twin_copy,
    .packed_bytes = twin_packed_bytes,
    .pack = twin_pack,
    .unpack = twin_unpack,
    .lacks = twin_lacks,
    .lower = twin_lower,
    .barriers = twin_barriers,
    .workspace = twin_workspace,
    .submit = twin_submit,
    .drop = twin_drop,
    .done = twin_done,
    .wait = twin_wait,
    .close = twin_close,
};

static void *map(size_t bytes, int access, int flags, int file) {
  void *at = mmap(NULL, bytes, access, flags | MAP_NORESERVE, file, 0);
  return at == MAP_FAILED ? NULL : at;
}

static bool open_memory(twin *t) {
  t->file = memfd_create("twin", MFD_CLOEXEC);
  if (t->file < 0 || ftruncate(t->file, (off_t)SPACE) != 0) return false;
  t->device = map(SPACE, PROT_NONE, MAP_SHARED, t->file);
  t->mine = map(SPACE, PROT_NONE, MAP_SHARED, t->file); /* as far as there is memory */
  t->memory = map(SPACE / PAGE / 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  t->lines = map(SPACE / LINE / 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  if (!t->device || !t->mine || !t->memory || !t->lines) return false;
  t->gaps = malloc(sizeof *t->gaps);
  if (!t->gaps) return false;
  t->gaps[0] = (gap){PAGE, SPACE}; /* no address is as NULL */
  t->n_gaps = t->gaps_capacity = 1;
  t->cpu.shift = t->mine - t->device;
  return true;
}

__attribute__((visibility("default"))) ml_status moonlet_open_device(ml_engine *, fail_function, ml_device **);
ml_status moonlet_open_device(ml_engine *engine, fail_function fail, ml_device **out) {
  const char *isa = getenv("MOONLET_ISA"), *seed = getenv("MOONLET_TWIN_SEED");
  twin *t = calloc(1, sizeof *t);
  ml_device *d = calloc(1, sizeof *d);
  if (!t || !d) return fail(ML_MEMORY, "twin: out of memory");
  t->fail = fail;
  t->random = seed ? strtoull(seed, NULL, 10) : 1;
  t->cpu.pool = &t->pool;
  if (ml_cpu_choose_isa(isa && *isa ? isa : NULL, &t->cpu.isa) != ML_OK || ml_pool_create(2, &t->pool) != ML_OK)
    return fail(ML_DEVICE, "twin: %s", ml_error_message());
  if (!open_memory(t)) return fail(ML_MEMORY, "twin: %s", strerror(errno));
  pthread_mutex_init(&t->lock, NULL);
  pthread_cond_init(&t->given, NULL);
  pthread_cond_init(&t->finished, NULL);
  *d = (ml_device){.table = &table,
                   .engine = engine,
                   .name = "twin",
                   .asynchronous = true,
                   .captures = true,
                   .group = GROUP,
                   .state = t};
  d->memory.cache_limit = (size_t)256 << 20;
  snprintf(d->description, sizeof d->description, "the processor in a GPU's place, %s", t->cpu.isa->name);
  if (pthread_create(&t->thread, NULL, work, t) != 0) return fail(ML_DEVICE, "twin: no thread");
  *out = d;
  return ML_OK;
}
