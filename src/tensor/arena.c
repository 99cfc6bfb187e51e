/* arena.c: the memory of what plans compute on the way, and what their kernels work in. */
#include "tensor/arena.h"

#include "tensor/queue.h"

static const size_t PIECE = (size_t)64 << 10; /* memory comes in whole ones */

/* Address space for the largest plan that the device's memory could hold, and as much again; less where the system
 * does not give so much. */
static ml_status open_arena(ml_device *d, ml_arena *a) {
  size_t total, available;
  if (a->buffer) return ML_OK;
  d->table->report(d, &total, &available);
  if (!total) total = (size_t)64 << 30;
  ml_status status = ml_buffer_reserve(d, 2 * total, &a->buffer);
  for (size_t bytes = total; status != ML_OK && bytes >= PIECE; bytes /= 2)
    status = ml_buffer_reserve(d, bytes, &a->buffer);
  return status;
}

static size_t whole_pieces(size_t bytes) { return (bytes + PIECE - 1) / PIECE * PIECE; }

/* So much is needed now: what was is cached, or the other way round. */
static void need(ml_device *d, ml_arena *a, size_t bytes) {
  d->memory.cached -= a->bytes - a->needed;
  ml_buffer_count(a->buffer, bytes);
  a->needed = bytes;
  d->memory.cached += a->bytes - a->needed;
}

static ml_status commit(ml_device *d, ml_arena *a, size_t whole) {
  return d->table->commit(d, (char *)a->buffer->address + a->bytes, whole - a->bytes);
}

static ml_status grow(ml_device *d, ml_arena *a, size_t bytes) {
  const size_t whole = whole_pieces(bytes);
  ML_TRY(open_arena(d, a));
  if (bytes > a->buffer->bytes) return ml_fail(ML_MEMORY, "%s: %zu bytes refused", d->name, bytes);
  if (bytes <= a->needed) return ML_OK;
  ML_TRY(ml_memory_check(d, bytes - a->needed));
  if (whole > a->bytes) {
    ml_status status = commit(d, a, whole);
    if (ml_memory_reclaim(d, status)) status = commit(d, a, whole);
    if (status != ML_OK) d->table->decommit(d, (char *)a->buffer->address + a->bytes, whole - a->bytes); /* parts */
    ML_TRY(status);
    d->memory.allocations++;
    d->memory.cached += whole - a->bytes;
    a->bytes = whole;
  }
  need(d, a, bytes);
  return ML_OK;
}

/* Among the plans that have a part of either. */
static void enlist(ml_plan *p) {
  ml_device *d = p->device;
  if (p->enlisted) return;
  p->enlisted = true;
  p->next = d->plans;
  if (p->next) p->next->previous = p;
  d->plans = p;
}

ml_status ml_arena_join(ml_plan *p) {
  ML_TRY(grow(p->device, &p->device->arena, p->arena_bytes));
  p->arena = p->device->arena.buffer;
  enlist(p);
  return ML_OK;
}

ml_status ml_arena_work(ml_plan *p, size_t bytes) {
  if (bytes <= p->workspace_bytes) return ML_OK;
  ML_TRY(grow(p->device, &p->device->workspace, bytes));
  p->workspace_bytes = bytes;
  enlist(p);
  return ML_OK;
}

void ml_arena_leave(ml_plan *p) {
  ml_device *d = p->device;
  ml_arena *a = &d->arena, *w = &d->workspace;
  if (!p->enlisted) return;
  if (p->previous) p->previous->next = p->next;
  else d->plans = p->next;
  if (p->next) p->next->previous = p->previous;
  p->enlisted = false;
  p->arena = NULL;
  if (p->arena_bytes < a->needed && p->workspace_bytes < w->needed) return;
  size_t most = 0, work = 0;
  for (const ml_plan *other = d->plans; other && (most < a->needed || work < w->needed); other = other->next) {
    if (other->arena) most = other->arena_bytes > most ? other->arena_bytes : most;
    work = other->workspace_bytes > work ? other->workspace_bytes : work;
  }
  if (a->buffer) need(d, a, most);
  if (w->buffer) need(d, w, work);
  if (d->memory.cached > d->memory.cache_limit) ml_memory_trim(d, d->memory.cache_limit);
}

static void trim(ml_device *d, ml_arena *a) {
  const size_t whole = whole_pieces(a->needed);
  if (a->bytes == whole) return;
  d->table->decommit(d, (char *)a->buffer->address + whole, a->bytes - whole);
  d->memory.cached -= a->bytes - whole;
  a->bytes = whole;
}

void ml_arena_trim(ml_device *d) {
  trim(d, &d->arena);
  trim(d, &d->workspace);
}

static void close_arena(ml_device *d, ml_arena *a) {
  if (!a->buffer) return;
  trim(d, a);
  ml_buffer_release(a->buffer);
  a->buffer = NULL;
}

void ml_arena_close(ml_device *d) {
  close_arena(d, &d->arena);
  close_arena(d, &d->workspace);
}
