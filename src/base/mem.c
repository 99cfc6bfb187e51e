/* mem.c: checked host allocation. */
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static _Thread_local long fail_after = -1;

void ml_mem_fail_after(long n) { fail_after = n; }

static bool injected(void) { return fail_after >= 0 && fail_after-- == 0; }

static void *checked(void *pointer, size_t bytes) {
  if (!pointer) ml_fail(ML_MEMORY, "out of memory: %zu bytes refused", bytes);
  return pointer;
}

void *ml_alloc(size_t bytes) { return checked(injected() ? NULL : malloc(bytes ? bytes : 1), bytes); }

/* Bytes up to which memory is cleared here: glibc's calloc passes by a thread's cache of small blocks. Large ones the
 * system may have cleared already. */
enum { SMALL_BYTES = 1024 };

void *ml_calloc(size_t count, size_t size) {
  size_t bytes;
  if (!ml_mul_size(count, size, &bytes)) return checked(NULL, SIZE_MAX);
  if (bytes > SMALL_BYTES) return checked(injected() ? NULL : calloc(bytes, 1), bytes);
  void *pointer = ml_alloc(bytes);
  return pointer ? memset(pointer, 0, bytes) : NULL;
}

void *ml_realloc(void *old, size_t count, size_t size) {
  size_t bytes;
  if (!ml_mul_size(count, size, &bytes)) return checked(NULL, SIZE_MAX);
  return checked(injected() ? NULL : realloc(old, bytes ? bytes : 1), bytes);
}

void ml_free(void *pointer) { free(pointer); }

char *ml_strndup(const char *text, size_t length) {
  char *copy = ml_alloc(length + 1);
  if (!copy) return NULL;
  memcpy(copy, text, length);
  copy[length] = '\0';
  return copy;
}

char *ml_strdup(const char *text) { return ml_strndup(text, strlen(text)); }

ml_status ml_grow(void **items, size_t *capacity, size_t need, size_t size) {
  if (need <= *capacity) return ML_OK;
  size_t wanted = *capacity ? *capacity : 8;
  while (wanted < need) {
    if (!ml_mul_size(wanted, 2, &wanted)) return ml_fail(ML_MEMORY, "out of memory: %zu items wanted", need);
  }
  void *grown = ml_realloc(*items, wanted, size);
  if (!grown) return ML_MEMORY;
  *items = grown;
  *capacity = wanted;
  return ML_OK;
}
