/* bump.c: memory that is given out piece by piece and freed all at once. */
#include "base/bump.h"

#include <stdint.h>
#include <string.h>

struct ml_chunk {
  struct ml_chunk *next;
  size_t used, size; /* bytes, those of this header included */
};

/* The first chunk is small; the next ones grow with what was needed so far. */
enum { FIRST_BYTES = 1 << 12, MOST_BYTES = 1 << 18 };

static size_t rounded(size_t bytes) { return (bytes + 15) & ~(size_t)15; }

void *ml_bump_alloc(ml_bump *b, size_t count, size_t size) {
  size_t bytes, header = rounded(sizeof(struct ml_chunk));
  if (!ml_mul_size(count, size, &bytes) || bytes > SIZE_MAX / 4) {
    ml_fail(ML_MEMORY, "out of memory: %zu items of %zu bytes", count, size);
    return NULL;
  }
  bytes = rounded(bytes);
  struct ml_chunk *c = b->chunks;
  if (!c || c->size - c->used < bytes) {
    size_t room = !c ? FIRST_BYTES : c->size < MOST_BYTES ? 2 * c->size : MOST_BYTES;
    if (room < header + bytes) room = header + bytes;
    c = ml_calloc(1, room);
    if (!c) return NULL;
    *c = (struct ml_chunk){b->chunks, header, room};
    b->chunks = c;
  }
  void *out = (char *)c + c->used;
  c->used += bytes;
  return out;
}

char *ml_bump_strdup(ml_bump *b, const char *text) {
  size_t bytes = strlen(text) + 1;
  char *copy = ml_bump_alloc(b, bytes, 1);
  return copy ? memcpy(copy, text, bytes) : NULL;
}

void ml_bump_free(ml_bump *b) {
  while (b->chunks) {
    struct ml_chunk *c = b->chunks;
    b->chunks = c->next;
    ml_free(c);
  }
}
