/* queue.c: what devices were given and may not have done yet. */
#include "tensor/queue.h"

#include "tensor/ops.h"
#include "tensor/plan/plan.h"

#include <inttypes.h>
#include <stdio.h>

/* A tensor that a run computes, and how else it would be computed. */
typedef struct waiting {
  ml_tensor *tensor; /* not retained: NULL once it is gone */
  ml_node *node;     /* owned; NULL: it is a version of a state */
} waiting;

/* One thing that a device was given, and the buffers that it reads and writes whole. What it writes in part, it reads
 * too. */
typedef struct ml_flight {
  struct ml_flight *next;
  ml_ticket ticket;
  ml_plan *plan; /* of a run; retained */
  bool lost;     /* it has failed, or reads what is lost: how it ends is nobody's business */
  waiting *waiting;
  size_t n_waiting, waiting_capacity;
  size_t n_read, n_written, n_appended;
  ml_buffer *buffers[]; /* read, then written, then those to which something is appended; retained */
} ml_flight;

/* So many may be under way; then the host waits for the first of them. */
enum { MOST_FLIGHTS = 256 };

void ml_outcome_index(ml_outcome *o, int op, int64_t value, bool is_unsigned, int64_t limit) {
  char text[24];
  snprintf(text, sizeof text, is_unsigned ? "%" PRIu64 : "%" PRId64, value);
  o->status = ML_USAGE;
  snprintf(o->text, sizeof o->text, "%s: index %s is out of range for size %" PRId64, ml_op_name((ml_op)op), text,
           limit);
}

/* ---- flights ---- */

/* A version that never was. */
static void lose_version(ml_tensor *t) {
  ml_cell *cell = t->cell;
  t->fate = ML_FATE_FAILED;
  if (!cell || cell->latest != t) return;
  cell->latest = NULL;
  ml_tensor_release(t);
}

/* Tensors that the run was to compute have their values, or are lazy again. */
static void settle_waiting(ml_flight *f) {
  for (size_t i = 0; i < f->n_waiting; i++) {
    waiting *w = &f->waiting[i];
    if (w->tensor) w->tensor->flight = NULL;
    if (!w->tensor || !f->lost) continue;
    if (!w->node) {
      lose_version(w->tensor);
      continue;
    }
    ml_buffer_release(w->tensor->buffer);
    w->tensor->buffer = NULL;
    ml_tensor_give_node(w->tensor, w->node);
    w->node = NULL;
  }
  for (size_t i = 0; i < f->n_waiting; i++) ml_node_free(f->waiting[i].node);
  f->n_waiting = 0;
}

void ml_queue_hold(ml_tensor *t) {
  ml_flight *f = t->device->last;
  if (!t->node) return; /* it was asked for twice */
  if (!f || ML_GROW(f->waiting, f->waiting_capacity, f->n_waiting + 1) != ML_OK) {
    ml_tensor_kill(t, ML_FATE_NONE); /* it is lost with the run */
    return;
  }
  ml_node *node = ml_tensor_take_node(t);
  if (ml_op_is_effect((ml_op)node->op)) {
    ml_node_free(node);
    node = NULL;
  }
  f->waiting[f->n_waiting++] = (waiting){t, node};
  t->flight = f;
}

void ml_queue_forget(ml_tensor *t) {
  ml_flight *f = t->flight;
  for (size_t i = f->n_waiting; i-- > 0;) {
    if (f->waiting[i].tensor == t) f->waiting[i].tensor = NULL;
  }
}

/* A reference for as long as the flight. */
static ml_buffer *take_along(ml_buffer *b) {
  b->flights++;
  return ml_buffer_retain(b);
}

static void free_flight(ml_flight *f) {
  settle_waiting(f);
  ml_free(f->waiting);
  for (size_t i = 0; i < f->n_read + f->n_written + f->n_appended; i++) {
    f->buffers[i]->flights--;
    ml_buffer_release(f->buffers[i]);
  }
  ml_plan_release(f->plan);
  ml_free(f);
}

static ml_buffer **written(ml_flight *f) { return f->buffers + f->n_read; }
static ml_buffer **appended(ml_flight *f) { return written(f) + f->n_written; }

/* f has failed: what it and those behind it make of what is lost, in their order. What was lost before stays so. */
static void pass_on(ml_flight *f, ml_loss *loss) {
  for (f->lost = true; f; f = f->next) {
    for (size_t i = 0; i < f->n_read && !f->lost; i++) f->lost = ml_buffer_loss(f->buffers[i]) != NULL;
    for (size_t i = 0; i < f->n_written; i++) ml_buffer_set_loss(written(f)[i], f->lost ? loss : NULL);
    for (size_t i = 0; i < f->n_appended && f->lost; i++) ml_buffer_lose_part(appended(f)[i], loss);
  }
}

/* The first flight is done. */
static void land(ml_device *d) {
  ml_flight *f = d->first;
  ml_outcome o = {.status = ML_OK};
  const ml_status waited = d->table->wait(d, f->ticket, f->plan ? &o : NULL);
  if (waited != ML_OK) {
    o.status = waited;
    snprintf(o.text, sizeof o.text, "%s", ml_error_message());
  }
  if (o.status != ML_OK && !f->lost) {
    ml_loss *loss = ml_loss_create(o.status, o.text);
    if (loss->references > 0) loss->number = ++d->failures;
    pass_on(f, loss);
    if (!d->unheard) d->unheard = ml_loss_retain(loss);
    ml_loss_release(loss);
  }
  d->first = f->next;
  if (!d->first) d->last = NULL;
  d->flights--;
  free_flight(f);
}

void ml_queue_look(ml_device *d) {
  while (d->first && (d->flights >= MOST_FLIGHTS || d->table->done(d, d->first->ticket))) land(d);
}

void ml_queue_land(ml_device *d) {
  while (d->first) land(d);
}

ml_status ml_queue_wait(ml_device *d) {
  ml_queue_land(d);
  ml_loss *loss = d->unheard;
  if (!loss) return ML_OK;
  d->told = d->failures;
  d->unheard = NULL;
  ml_status status = ml_fail(loss->status, "%s", loss->text);
  ml_loss_release(loss);
  return status;
}

ml_status ml_tensor_wait(ml_tensor *const *tensors, size_t count) {
  ml_status status = ML_OK;
  for (size_t i = 0; i < count && status == ML_OK; i++) {
    ml_buffer *b = tensors[i]->buffer; /* which a run that fails takes from its result */
    if (b) ml_buffer_retain(b);
    ml_queue_land(tensors[i]->device);
    if (b) status = ml_buffer_check(b);
    ml_buffer_release(b);
  }
  return status;
}

static void take_off(ml_device *d, ml_flight *f) {
  if (d->last) d->last->next = f;
  else d->first = f;
  d->last = f;
  d->flights++;
}

static ml_status make_flight(size_t n, ml_flight **out) {
  *out = ml_calloc(1, sizeof **out + n * sizeof(ml_buffer *));
  return *out ? ML_OK : ML_MEMORY;
}

/* ---- runs ---- */

/* The buffers that a run reads and writes: its inputs and outputs, what the plan holds, the states that it uses. */
static ml_status flight_of(ml_plan *p, ml_tensor *const *inputs, ml_tensor *const *outputs, ml_flight **out) {
  const size_t n_in = (size_t)p->n_inputs, n_out = (size_t)p->n_outputs;
  ml_flight *f;
  ML_TRY(make_flight(n_in + n_out + p->n_storages + 2 * p->n_cells, &f));
  for (size_t i = 0; i < n_in; i++) f->buffers[f->n_read++] = take_along(inputs[i]->buffer);
  for (size_t i = 0; i < p->n_storages; i++) {
    ml_buffer *b = p->storages[i].buffer;
    if (b && !b->of_state) f->buffers[f->n_read++] = take_along(b);
  }
  for (size_t i = 0; i < p->n_cells; i++) {
    if (p->cells[i].needed) f->buffers[f->n_read++] = take_along(p->cells[i].cell->buffer);
  }
  for (size_t i = 0; i < n_out; i++) f->buffers[f->n_read + f->n_written++] = take_along(outputs[i]->buffer);
  for (size_t i = 0; i < p->n_cells; i++) {
    if (p->cells[i].replaced) f->buffers[f->n_read + f->n_written++] = take_along(p->cells[i].cell->buffer);
  }
  for (size_t i = 0; i < p->n_cells; i++) {
    if (p->cells[i].replaced || !p->cells[i].written) continue;
    f->buffers[f->n_read + f->n_written + f->n_appended++] = take_along(p->cells[i].cell->buffer);
  }
  f->plan = ml_plan_retain(p);
  *out = f;
  return ML_OK;
}

/* Nothing that a run reads is known to be lost; of states the caller has seen to that. */
static ml_status check_read(const ml_plan *p, ml_tensor *const *inputs) {
  for (int i = 0; i < p->n_inputs; i++) ML_TRY(ml_buffer_check(inputs[i]->buffer));
  for (size_t i = 0; i < p->n_storages && p->device->asynchronous; i++) {
    ml_buffer *b = p->storages[i].buffer;
    if (b && !b->of_state) ML_TRY(ml_buffer_check(b));
  }
  return ML_OK;
}

/* States that a run writes are what it left, or lost. */
static void settle_cells(const ml_plan *p, const ml_outcome *o) {
  ml_loss *loss = o->status == ML_OK ? NULL : ml_loss_create(o->status, o->text);
  for (size_t i = 0; i < p->n_cells; i++) {
    if (p->cells[i].replaced) ml_buffer_set_loss(p->cells[i].cell->buffer, loss);
  }
  ml_loss_release(loss);
}

static ml_status run_and_wait(ml_plan *p, void *const *addresses, bool *began) {
  ml_device *d = p->device;
  ml_ticket ticket;
  ml_outcome o;
  ML_TRY(d->table->submit(d, p->program, addresses, addresses + p->n_inputs, &ticket));
  ML_TRY(d->table->wait(d, ticket, &o));
  *began = o.began;
  if (o.began && p->n_cells) settle_cells(p, &o);
  return o.status == ML_OK ? ML_OK : ml_fail(o.status, "%s", o.text);
}

static ml_status run_later(ml_plan *p, ml_tensor *const *inputs, ml_tensor *const *outputs, void *const *addresses,
                           bool *began) {
  ml_device *d = p->device;
  ml_flight *f;
  ml_status status = ml_flag_poll(&p->engine->cancel);
  if (status != ML_OK) return ml_fail(status, "%s", ml_status_name(status));
  ML_TRY(flight_of(p, inputs, outputs, &f));
  status = d->table->submit(d, p->program, addresses, addresses + p->n_inputs, &f->ticket);
  if (status != ML_OK) {
    free_flight(f);
    return status;
  }
  *began = true;
  for (size_t i = 0; i < f->n_written; i++) ml_buffer_set_loss(written(f)[i], NULL);
  take_off(d, f);
  return ML_OK;
}

ml_status ml_queue_run(ml_plan *p, ml_tensor *const *inputs, ml_tensor *const *outputs, void *const *addresses,
                       bool *began) {
  *began = false;
  ML_TRY(check_read(p, inputs));
  p->engine->stats.replays++;
  if (!p->device->asynchronous) return run_and_wait(p, addresses, began);
  return run_later(p, inputs, outputs, addresses, began);
}

/* ---- copies ---- */

/* A state is what the host wrote, whatever comes of runs before. */
static ml_status write_state(ml_buffer *b, size_t offset, const void *from, size_t bytes) {
  ml_device *d = b->device;
  ml_flight *f;
  ML_TRY(make_flight(1, &f));
  ml_status status = d->table->upload(d, (char *)b->address + offset, from, bytes, &f->ticket);
  if (status != ML_OK) {
    free_flight(f);
    return status;
  }
  f->buffers[f->n_written++] = take_along(b);
  take_off(d, f);
  return ML_OK;
}

ml_status ml_buffer_write(ml_buffer *b, size_t offset, const void *from, size_t bytes) {
  ml_device *d = b->device;
  ml_ticket ticket;
  d->engine->stats.bytes_moved += bytes;
  if (!bytes) return ML_OK;
  if (b->of_state && d->first) return write_state(b, offset, from, bytes);
  return d->table->upload(d, (char *)b->address + offset, from, bytes, &ticket);
}

static ml_status download(ml_buffer *b, size_t offset, void *to, size_t bytes) {
  ml_device *d = b->device;
  ml_ticket ticket;
  ML_TRY(d->table->download(d, to, (const char *)b->address + offset, bytes, &ticket));
  if (!d->asynchronous) return ML_OK;
  ML_TRY(d->table->wait(d, ticket, NULL));
  while (d->first && d->first->ticket <= ticket) land(d);
  return ML_OK;
}

ml_status ml_buffer_read(ml_buffer *b, size_t offset, void *to, size_t bytes) {
  ml_status status = ML_OK;
  b->device->engine->stats.bytes_moved += bytes;
  ml_buffer_retain(b); /* a run that fails takes it from its result */
  if (bytes) status = download(b, offset, to, bytes);
  else ml_queue_land(b->device);
  if (status == ML_OK) status = ml_buffer_check(b);
  ml_buffer_release(b);
  return status;
}

ml_status ml_buffer_copy(ml_buffer *to, size_t at, ml_buffer *from, size_t from_at, size_t bytes) {
  ml_device *d = to->device;
  if (!bytes) return ml_buffer_check(from);
  ml_queue_land(from->device); /* so that it is known whether it is lost */
  ML_TRY(ml_buffer_check(from));
  ml_status status = d->table->copy(d, (char *)to->address + at, from->device, (char *)from->address + from_at, bytes);
  if (status != ML_UNSUPPORTED) return status;
  void *room = ml_alloc(bytes);
  if (!room) return ML_MEMORY;
  status = ml_buffer_read(from, from_at, room, bytes);
  if (status == ML_OK) status = ml_buffer_write(to, at, room, bytes);
  ml_free(room);
  return status;
}
