/* scratch.h: a folder for the files that a test makes, and bytes to fill them with. */
#ifndef ML_TESTS_SCRATCH_H
#define ML_TESTS_SCRATCH_H

#include "check.h"
#include "io/file.h"

#include <ftw.h>

/* ---- the folder ---- */

static char scratch_folder[256];

static int scratch_remove_one(const char *path, const struct stat *info, int type, struct FTW *walk) {
  (void)info, (void)type, (void)walk;
  return remove(path);
}

CHECK_UNUSED static void scratch_close(void) {
  if (*scratch_folder) nftw(scratch_folder, scratch_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Path of a file in a new folder that is removed when the process ends. Overwritten by the fourth call from now. */
CHECK_UNUSED static const char *scratch_path(const char *name) {
  static char paths[4][512];
  static int turn;
  if (!*scratch_folder) {
    const char *base = getenv("TMPDIR");
    snprintf(scratch_folder, sizeof scratch_folder, "%.200s/moonlet-test-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(scratch_folder)) {
      perror(scratch_folder);
      exit(100);
    }
    atexit(scratch_close);
  }
  char *path = paths[turn++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", scratch_folder, name);
  return path;
}

/* ---- bytes ---- */

typedef struct bytes { /* growing; zero it first, free with bytes_free */
  uint8_t *data;
  size_t size, capacity;
} bytes;

CHECK_UNUSED static void put(bytes *b, const void *data, size_t size) {
  if (ML_GROW(b->data, b->capacity, b->size + size + 1) != ML_OK) exit(100);
  if (size > 0) memcpy(b->data + b->size, data, size);
  b->size += size;
}

CHECK_UNUSED static void put_text(bytes *b, const char *text) { put(b, text, strlen(text)); }
CHECK_UNUSED static void put_u32(bytes *b, uint32_t value) { put(b, &value, sizeof value); }
CHECK_UNUSED static void put_u64(bytes *b, uint64_t value) { put(b, &value, sizeof value); }

CHECK_UNUSED static void bytes_free(bytes *b) {
  ml_free(b->data);
  *b = (bytes){0};
}

/* Writes the bytes to a scratch file of that name and returns its path. */
CHECK_UNUSED static const char *scratch_file(const char *name, const void *data, size_t size) {
  const char *path = scratch_path(name);
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) {
    perror(path);
    exit(100);
  }
  return path;
}

#endif
