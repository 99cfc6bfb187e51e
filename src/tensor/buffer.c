/* buffer.c: counted storage with a cache of free blocks.
 *
 * Blocks have sizes of four classes per power of two, of 32 from a megabyte on, so that a freed block serves the next
 * request of about its size and at most a fifth is waste, of large ones a thirty-second. Each class has a list of its
 * own: however many blocks are free, finding one takes one step. Where the cache is full, what has lain there longest
 * goes, so that sizes that nobody wants any more make way. A free block keeps its links in host memory, since its bytes
 * may be on another device. */
#include "tensor/buffer.h"

#include "tensor/arena.h"
#include "tensor/queue.h"

#include <stdlib.h>
#include <string.h>

struct ml_block {
  struct ml_block *next, *previous; /* of its class, the one freed last first */
  struct ml_block *older, *newer;   /* of all classes */
  void *address;
  size_t capacity;
};

enum { MIN_BLOCK = 64, LARGE_BLOCK = 1 << 20 };
/* Larger blocks go back to the system at once. */
static const size_t CACHED_BLOCK_BYTES = (size_t)256 << 20;

/* The highest bit of the last byte's place, and how many below it choose the class. */
static int top_bit(size_t bytes) { return 63 - __builtin_clzll(bytes - 1); }
static int fine_bits(size_t bytes) { return bytes > LARGE_BLOCK ? 5 : 2; }

static size_t size_class(size_t bytes) {
  if (bytes <= MIN_BLOCK) return MIN_BLOCK;
  if (bytes > CACHED_BLOCK_BYTES) return (bytes + 4095) & ~(size_t)4095;
  int shift = top_bit(bytes) - fine_bits(bytes);
  size_t step = (size_t)1 << (shift > 0 ? shift : 0);
  return (bytes + step - 1) & ~(step - 1);
}

/* The list of a capacity that size_class gave, at most CACHED_BLOCK_BYTES: 64 is the first, 80, 96, 112, 128 follow. */
static int class_index(size_t capacity) {
  if (capacity <= MIN_BLOCK) return 0;
  const int top = top_bit(capacity), fine = fine_bits(capacity);
  const int at = (int)((capacity - 1) >> (top - fine)) & ((1 << fine) - 1);
  if (fine == 2) return 1 + 4 * (top - 6) + at;
  return 1 + 4 * (20 - 6) + 32 * (top - 20) + at;
}

static void link_block(ml_device *d, struct ml_block *b) {
  struct ml_block **first = &d->cache[class_index(b->capacity)];
  b->next = *first, b->previous = NULL;
  if (b->next) b->next->previous = b;
  *first = b;
  b->older = d->newest, b->newer = NULL;
  if (b->older) b->older->newer = b;
  else d->oldest = b;
  d->newest = b;
  d->memory.cached += b->capacity;
}

/* Takes a block out of the cache; returns its address. */
static void *unlink_block(ml_device *d, struct ml_block *b) {
  void *address = b->address;
  if (b->previous) b->previous->next = b->next;
  else d->cache[class_index(b->capacity)] = b->next;
  if (b->next) b->next->previous = b->previous;
  if (b->older) b->older->newer = b->newer;
  else d->oldest = b->newer;
  if (b->newer) b->newer->older = b->older;
  else d->newest = b->older;
  d->memory.cached -= b->capacity;
  ml_free(b);
  return address;
}

static void *take_cached(ml_device *d, size_t capacity) {
  struct ml_block *b = capacity <= CACHED_BLOCK_BYTES ? d->cache[class_index(capacity)] : NULL;
  return b ? unlink_block(d, b) : NULL;
}

void ml_memory_trim(ml_device *d, size_t keep) {
  while (d->oldest && d->memory.cached > keep) {
    size_t capacity = d->oldest->capacity;
    d->table->release(d, unlink_block(d, d->oldest), capacity);
  }
  if (d->memory.cached > keep) ml_arena_trim(d);
}

ml_status ml_memory_check(ml_device *d, size_t bytes) {
  ml_memory *m = &d->memory;
  if (!m->limit || m->active + m->cached + bytes <= m->limit) return ML_OK;
  ml_memory_trim(d, 0);
  if (m->active + bytes > m->limit && d->first) { /* what runs still hold may be all that is in the way */
    ml_queue_land(d);
    ml_memory_trim(d, 0);
  }
  if (m->active + bytes <= m->limit) return ML_OK;
  return ml_fail(ML_LIMIT, "memory limit of %s: %zu bytes wanted, %zu of %zu in use", d->name, bytes, m->active,
                 m->limit);
}

static void count(ml_memory *m, size_t bytes) {
  m->active += bytes;
  if (m->active > m->peak) m->peak = m->active;
}

static void reuse(ml_device *d, void *address, size_t capacity) {
  if (d->table->reuse) d->table->reuse(d, address, capacity);
}

bool ml_memory_reclaim(ml_device *d, ml_status status) {
  if (status != ML_MEMORY) return false;
  ml_error_clear();
  ml_queue_land(d);
  ml_memory_trim(d, 0);
  return true;
}

static ml_status allocate(ml_device *d, size_t capacity, void **out) {
  if ((*out = take_cached(d, capacity))) {
    reuse(d, *out, capacity);
    return ML_OK;
  }
  d->memory.allocations++;
  ml_status status = d->table->allocate(d, capacity, out);
  if (ml_memory_reclaim(d, status)) status = d->table->allocate(d, capacity, out);
  return status;
}

ml_status ml_buffer_create(ml_device *d, size_t bytes, ml_buffer **out) {
  size_t capacity = size_class(bytes);
  ML_TRY(ml_memory_check(d, capacity));
  ml_buffer *b = ml_alloc(sizeof *b);
  if (!b) return ML_MEMORY;
  *b = (ml_buffer){.references = 1, .device = d, .bytes = bytes, .capacity = capacity, .charged = capacity};
  ml_status status = allocate(d, capacity, &b->address);
  if (status != ML_OK) {
    ml_free(b);
    return status;
  }
  count(&d->memory, capacity);
  *out = b;
  return ML_OK;
}

ml_status ml_buffer_reserve(ml_device *d, size_t bytes, ml_buffer **out) {
  ml_buffer *b = ml_alloc(sizeof *b);
  if (!b) return ML_MEMORY;
  *b = (ml_buffer){.references = 1, .device = d, .bytes = bytes, .capacity = bytes, .reserved = true};
  ml_status status = d->table->reserve(d, bytes, &b->address);
  if (ml_memory_reclaim(d, status)) status = d->table->reserve(d, bytes, &b->address);
  if (status != ML_OK) {
    ml_free(b);
    return status;
  }
  *out = b;
  return ML_OK;
}

void ml_buffer_count(ml_buffer *b, size_t bytes) {
  if (bytes > b->charged) count(&b->device->memory, bytes - b->charged);
  else b->device->memory.active -= b->charged - bytes;
  b->charged = bytes;
}

ml_status ml_buffer_charge(ml_buffer *b, size_t bytes) {
  if (bytes > b->charged) ML_TRY(ml_memory_check(b->device, bytes - b->charged));
  ml_buffer_count(b, bytes);
  return ML_OK;
}

ml_status ml_buffer_commit(ml_buffer *b, size_t step, size_t count, size_t bytes) {
  ml_device *d = b->device;
  for (size_t i = 0; i < count && bytes; i++) {
    char *at = (char *)b->address + i * step;
    ml_status status = d->table->commit(d, at, bytes);
    if (ml_memory_reclaim(d, status)) status = d->table->commit(d, at, bytes);
    ML_TRY(status);
  }
  return ML_OK;
}

ml_buffer *ml_buffer_retain(ml_buffer *b) {
  b->references++;
  return b;
}

/* Keeps the block for reuse, at the cost of older ones. */
static bool keep_block(ml_device *d, ml_buffer *b) {
  if (b->capacity > CACHED_BLOCK_BYTES || b->capacity > d->memory.cache_limit) return false;
  struct ml_block *block = malloc(sizeof *block); /* a refusal here is no failure of the caller's */
  if (!block) return false;
  *block = (struct ml_block){.address = b->address, .capacity = b->capacity};
  ml_memory_trim(d, d->memory.cache_limit - b->capacity);
  link_block(d, block);
  return true;
}

ml_status ml_buffer_renew(ml_buffer **kept) {
  ml_buffer *old = *kept, *fresh;
  if (old->references == 1 + old->flights && !old->fixed) { /* runs that may not be done come before */
    ml_buffer_set_loss(old, NULL);
    reuse(old->device, old->address, old->capacity);
    return ML_OK;
  }
  ML_TRY(ml_buffer_create(old->device, old->bytes, &fresh));
  if (!old->fixed) {
    ml_status status = old->device->table->copy(old->device, fresh->address, old->device, old->address, old->bytes);
    if (status != ML_OK) {
      ml_buffer_release(fresh);
      return status;
    }
    void *address = fresh->address;
    fresh->address = old->address, old->address = address;
  }
  ml_buffer_release(old);
  *kept = fresh;
  return ML_OK;
}

ml_status ml_buffer_share(ml_buffer *b) {
  if (b->owners) return ML_OK;
  if (b->reserved || b->loss) return ml_fail(ML_USAGE, "storage that is written is not shared");
  if (!(b->owners = ml_alloc(sizeof *b->owners))) return ML_MEMORY;
  atomic_init(b->owners, 1);
  return ML_OK;
}

ml_status ml_buffer_adopt(ml_device *d, const ml_buffer *shared, ml_buffer **out) {
  ml_buffer *b = ml_alloc(sizeof *b);
  if (!b) return ML_MEMORY;
  *b = (ml_buffer){.references = 1,
                   .device = d,
                   .address = shared->address,
                   .bytes = shared->bytes,
                   .capacity = shared->capacity,
                   .owners = shared->owners};
  atomic_fetch_add(b->owners, 1);
  *out = b;
  return ML_OK;
}

/* Whether another engine goes on with the storage. */
static bool leave_to_others(ml_buffer *b) {
  if (!b->owners) return false;
  if (atomic_fetch_sub(b->owners, 1) > 1) return true;
  ml_free(b->owners);
  return false;
}

void ml_buffer_release(ml_buffer *b) {
  if (!b || --b->references > 0) return;
  ml_device *d = b->device;
  d->memory.active -= b->charged;
  if (!leave_to_others(b) && (b->reserved || !keep_block(d, b))) d->table->release(d, b->address, b->capacity);
  ml_loss_release(b->loss);
  ml_free(b);
}

/* ---- what is lost ---- */

ml_loss *ml_loss_create(ml_status status, const char *text) {
  static ml_loss none = {-1, false, 0, ML_MEMORY, "a run failed, and there was no memory for its reason"};
  const size_t bytes = strlen(text) + 1;
  ml_loss *l = malloc(sizeof *l + bytes); /* a refusal here is no failure of the caller's */
  if (!l) return &none;
  *l = (ml_loss){1, false, 0, status, memcpy(l + 1, text, bytes)};
  return l;
}

ml_loss *ml_loss_retain(ml_loss *l) {
  l->references += l->references > 0;
  return l;
}

void ml_loss_release(ml_loss *l) {
  if (l && l->references > 0 && --l->references == 0) free(l);
}

void ml_buffer_set_loss(ml_buffer *b, ml_loss *loss) {
  if (loss) ml_loss_retain(loss);
  ml_loss_release(b->loss);
  b->loss = loss;
  b->in_part = false;
}

void ml_buffer_lose_part(ml_buffer *b, ml_loss *loss) {
  if (b->loss && !b->in_part) return;
  ml_buffer_set_loss(b, loss);
  b->in_part = true;
}

ml_status ml_buffer_check(ml_buffer *b) {
  ml_loss *loss = ml_buffer_loss(b);
  if (!loss) return ML_OK;
  loss->told = true;
  if (b->device->unheard == loss) {
    b->device->unheard = NULL;
    ml_loss_release(loss);
  }
  return ml_fail(loss->status, "%s", loss->text);
}
