/* bump.h: memory that is given out piece by piece and freed all at once. */
#ifndef ML_BASE_BUMP_H
#define ML_BASE_BUMP_H

#include "base/mem.h"

/* Chunks that were freed, for the next ones. */
typedef struct ml_spare {
  struct ml_chunk *chunks;
  size_t bytes;
} ml_spare;

typedef struct ml_bump {
  struct ml_chunk *chunks; /* the one in use first */
  ml_spare *spare;         /* where chunks come from and go to; NULL: the system */
} ml_bump;

/* `count` times `size` bytes, zeroed and aligned to 16; NULL on refusal or overflow, with the error record set. */
void *ml_bump_alloc(ml_bump *b, size_t count, size_t size);
char *ml_bump_strdup(ml_bump *b, const char *text);
/* ML_GROW in such memory: what the vector leaves behind is freed with all the rest. */
ml_status ml_bump_grow(ml_bump *b, void **items, size_t *capacity, size_t need, size_t size);
#define ML_BUMP_GROW(bump, items, capacity, need)                                                                      \
  ml_bump_grow((bump), (void **)&(items), &(capacity), (need), sizeof *(items))
void ml_bump_free(ml_bump *b);
void ml_spare_free(ml_spare *s);

#endif
