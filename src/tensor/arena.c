/* arena.c: the memory of what plans compute on the way. */
#include "tensor/arena.h"

#include "tensor/queue.h"

static const size_t PIECE = (size_t)64 << 10; /* memory comes in whole ones */

/* Address space for the largest plan that the device's memory could hold, and as much again; less where the system
 * does not give so much. */
static ml_status open_arena(ml_device *d) {
  size_t total, available;
  if (d->arena.buffer) return ML_OK;
  d->table->report(d, &total, &available);
  if (!total) total = (size_t)64 << 30;
  ml_status status = ml_buffer_reserve(d, 2 * total, &d->arena.buffer);
  for (size_t bytes = total; status != ML_OK && bytes >= PIECE; bytes /= 2)
    status = ml_buffer_reserve(d, bytes, &d->arena.buffer);
  return status;
}

static size_t whole_pieces(size_t bytes) { return (bytes + PIECE - 1) / PIECE * PIECE; }

/* So much is needed now: what was is cached, or the other way round. */
static void need(ml_device *d, size_t bytes) {
  ml_arena *a = &d->arena;
  d->memory.cached -= a->bytes - a->needed;
  ml_buffer_count(a->buffer, bytes);
  a->needed = bytes;
  d->memory.cached += a->bytes - a->needed;
}

ml_status ml_arena_join(ml_plan *p) {
  ml_device *d = p->device;
  ml_arena *a = &d->arena;
  const size_t bytes = p->arena_bytes, whole = whole_pieces(bytes);
  ML_TRY(open_arena(d));
  if (bytes > a->buffer->bytes) return ml_fail(ML_MEMORY, "%s: %zu bytes refused", d->name, bytes);
  if (bytes > a->needed) {
    ML_TRY(ml_memory_check(d, bytes - a->needed));
    if (whole > a->bytes) {
      ML_TRY(d->table->commit(d, (char *)a->buffer->address + a->bytes, whole - a->bytes));
      d->memory.allocations++;
      d->memory.cached += whole - a->bytes;
      a->bytes = whole;
    }
    need(d, bytes);
  }
  p->arena = a->buffer;
  p->next = a->plans;
  if (p->next) p->next->previous = p;
  a->plans = p;
  return ML_OK;
}

void ml_arena_leave(ml_plan *p) {
  ml_device *d = p->device;
  ml_arena *a = &d->arena;
  if (!p->arena) return;
  if (p->previous) p->previous->next = p->next;
  else a->plans = p->next;
  if (p->next) p->next->previous = p->previous;
  p->arena = NULL;
  if (p->arena_bytes < a->needed) return;
  size_t most = 0;
  for (const ml_plan *other = a->plans; other && most < a->needed; other = other->next) {
    most = other->arena_bytes > most ? other->arena_bytes : most;
  }
  need(d, most);
  if (d->memory.cached > d->memory.cache_limit) ml_memory_trim(d, d->memory.cache_limit);
}

void ml_arena_trim(ml_device *d) {
  ml_arena *a = &d->arena;
  const size_t whole = whole_pieces(a->needed);
  if (a->bytes == whole) return;
  d->table->decommit(d, (char *)a->buffer->address + whole, a->bytes - whole);
  d->memory.cached -= a->bytes - whole;
  a->bytes = whole;
}

void ml_arena_close(ml_device *d) {
  if (!d->arena.buffer) return;
  ml_arena_trim(d);
  ml_buffer_release(d->arena.buffer);
  d->arena.buffer = NULL;
}
