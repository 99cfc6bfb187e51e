/* bump.h: memory that is given out piece by piece and freed all at once. */
#ifndef ML_BASE_BUMP_H
#define ML_BASE_BUMP_H

#include "base/mem.h"

typedef struct ml_bump {
  struct ml_chunk *chunks; /* the one in use first */
} ml_bump;

/* `count` times `size` bytes, zeroed and aligned to 16; NULL on refusal or overflow, with the error record set. */
void *ml_bump_alloc(ml_bump *b, size_t count, size_t size);
char *ml_bump_strdup(ml_bump *b, const char *text);
void ml_bump_free(ml_bump *b);

#endif
