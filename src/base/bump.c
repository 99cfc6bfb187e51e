/* bump.c: memory that is given out piece by piece and freed all at once. */
#include "base/bump.h"

#include <stdint.h>
#include <string.h>

struct ml_chunk {
  struct ml_chunk *next;
  size_t used, size; /* bytes, those of this header included */
};

/* The first chunk is small; the next ones grow with what was needed so far. */
enum { FIRST_BYTES = 1 << 13, MOST_BYTES = 1 << 18, SPARE_BYTES = 1 << 20 };

static size_t rounded(size_t bytes) { return (bytes + 15) & ~(size_t)15; }

static struct ml_chunk *take_spare(ml_spare *s, size_t room) {
  struct ml_chunk *c = s ? s->chunks : NULL;
  if (!c || c->size < room) return NULL;
  s->chunks = c->next;
  s->bytes -= c->size;
  return c;
}

static struct ml_chunk *new_chunk(ml_bump *b, size_t bytes) {
  size_t header = rounded(sizeof(struct ml_chunk)), last = b->chunks ? b->chunks->size : FIRST_BYTES / 2;
  struct ml_chunk *c = take_spare(b->spare, header + bytes);
  if (!c) {
    size_t room = last < MOST_BYTES ? 2 * last : MOST_BYTES;
    if (room < header + bytes) room = header + bytes;
    c = ml_alloc(room);
    if (!c) return NULL;
    c->size = room;
  }
  c->used = header;
  c->next = b->chunks;
  b->chunks = c;
  return c;
}

static void *take(ml_bump *b, size_t count, size_t size) {
  size_t bytes;
  if (!ml_mul_size(count, size, &bytes) || bytes > SIZE_MAX / 4) {
    ml_fail(ML_MEMORY, "out of memory: %zu items of %zu bytes", count, size);
    return NULL;
  }
  bytes = rounded(bytes);
  struct ml_chunk *c = b->chunks;
  if ((!c || c->size - c->used < bytes) && !(c = new_chunk(b, bytes))) return NULL;
  void *out = (char *)c + c->used;
  c->used += bytes;
  return out;
}

void *ml_bump_alloc(ml_bump *b, size_t count, size_t size) {
  void *out = take(b, count, size);
  return out ? memset(out, 0, count * size) : NULL;
}

char *ml_bump_strdup(ml_bump *b, const char *text) {
  size_t bytes = strlen(text) + 1;
  char *copy = ml_bump_alloc(b, bytes, 1);
  return copy ? memcpy(copy, text, bytes) : NULL;
}

ml_status ml_bump_grow(ml_bump *b, void **items, size_t *capacity, size_t need, size_t size) {
  if (need <= *capacity) return ML_OK;
  size_t wanted = *capacity ? 2 * *capacity : 8;
  if (wanted < need) wanted = need;
  void *grown = take(b, wanted, size);
  if (!grown) return ML_MEMORY;
  if (*capacity) memcpy(grown, *items, *capacity * size);
  *items = grown;
  *capacity = wanted;
  return ML_OK;
}

void ml_bump_free(ml_bump *b) {
  while (b->chunks) {
    struct ml_chunk *c = b->chunks;
    b->chunks = c->next;
    if (!b->spare || b->spare->bytes + c->size > SPARE_BYTES) {
      ml_free(c);
      continue;
    }
    c->next = b->spare->chunks;
    b->spare->chunks = c;
    b->spare->bytes += c->size;
  }
}

void ml_spare_free(ml_spare *s) {
  while (s->chunks) {
    struct ml_chunk *c = s->chunks;
    s->chunks = c->next;
    ml_free(c);
  }
}
