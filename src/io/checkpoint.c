/* checkpoint.c: what the readers of safetensors and GGUF share. */
#include "io/checkpoint.h"

#include <stdlib.h>
#include <string.h>

bool ml_entry_bytes(ml_dtype dtype, int ndim, const int64_t *shape, size_t *out) {
  size_t bytes;
  if (!ml_dtype_row_bytes(dtype, ndim > 0 ? shape[ndim - 1] : 1, &bytes)) return false;
  for (int i = 0; i < ndim - 1; i++) {
    if (shape[i] < 0 || !ml_mul_size(bytes, (size_t)shape[i], &bytes)) return false;
  }
  *out = bytes;
  return true;
}

static int compare_names(const void *a, const void *b) {
  return strcmp(((const ml_entry *)a)->name, ((const ml_entry *)b)->name);
}

ml_status ml_checkpoint_sort(ml_checkpoint *checkpoint) {
  ml_entry *entries = checkpoint->entries;
  if (checkpoint->n_entries > 1) qsort(entries, checkpoint->n_entries, sizeof *entries, compare_names);
  for (size_t i = 1; i < checkpoint->n_entries; i++) {
    if (strcmp(entries[i - 1].name, entries[i].name) == 0) {
      return ml_fail(ML_CORRUPT, "%s: tensor '%.200s': duplicate name%s%s", entries[i].file->path, entries[i].name,
                     entries[i - 1].file == entries[i].file ? "" : ", also in ",
                     entries[i - 1].file == entries[i].file ? "" : entries[i - 1].file->path);
    }
  }
  return ML_OK;
}

const ml_entry *ml_checkpoint_find(const ml_checkpoint *checkpoint, const char *name) {
  if (checkpoint->n_entries == 0) return NULL;
  ml_entry key = {.name = (char *)(uintptr_t)name};
  return bsearch(&key, checkpoint->entries, checkpoint->n_entries, sizeof key, compare_names);
}

void ml_checkpoint_clear(ml_checkpoint *checkpoint) {
  for (size_t i = 0; i < checkpoint->n_entries; i++) ml_free(checkpoint->entries[i].name);
  for (size_t i = 0; i < checkpoint->n_meta; i++) {
    ml_free(checkpoint->meta[i].key);
    ml_free(checkpoint->meta[i].value);
  }
  for (size_t i = 0; i < checkpoint->n_files; i++) ml_file_close(checkpoint->files[i]);
  ml_free(checkpoint->entries);
  ml_free(checkpoint->meta);
  ml_free(checkpoint->files);
  *checkpoint = (ml_checkpoint){0};
}

void ml_checkpoint_close(ml_checkpoint *checkpoint) {
  if (!checkpoint) return;
  ml_checkpoint_clear(checkpoint);
  ml_free(checkpoint);
}
