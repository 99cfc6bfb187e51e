/* mem.h: host memory of the core.
 *
 * Small host structures come from ml_alloc and friends, which differ from malloc in three ways: sizes are checked for
 * overflow, a refusal writes the error record, and a test can make the n-th request fail (ml_mem_fail_after).
 * Tensor storage is counted separately, per device (tensor/buffer.h). */
#ifndef ML_BASE_MEM_H
#define ML_BASE_MEM_H

#include "base/status.h"

#include <stdbool.h>

/* Returns uninitialised memory, or NULL with the error record set. A size of 0 gives a valid pointer. */
void *ml_alloc(size_t bytes);
/* `count` times `size` bytes, zeroed. NULL on refusal or overflow. */
void *ml_calloc(size_t count, size_t size);
/* Resizes to `count` times `size` bytes; on refusal returns NULL and leaves `old` as it was. */
void *ml_realloc(void *old, size_t count, size_t size);
void ml_free(void *pointer);
char *ml_strdup(const char *text);
char *ml_strndup(const char *text, size_t length);

/* True, with *out set, when the product or sum fits a size_t. */
static inline bool ml_mul_size(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool ml_add_size(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

/* Grows a vector so that it holds at least `need` items of `size` bytes: capacity doubles from 8. `*items` and
 * `*capacity` change only on success. */
ml_status ml_grow(void **items, size_t *capacity, size_t need, size_t size);
#define ML_GROW(items, capacity, need) ml_grow((void **)&(items), &(capacity), (need), sizeof *(items))

/* For tests: the calling thread's n-th request from now fails (0 the next one), once; -1 switches it off. */
void ml_mem_fail_after(long n);

#endif
