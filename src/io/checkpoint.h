/* checkpoint.h: what safetensors and GGUF files have in common: named tensors in mapped files.
 *
 * Readers are strict. A truncated file, an absurd count, an overlapping or out-of-range tensor, a size that overflows
 * or does not fit its dtype and shape, a duplicate name: ML_CORRUPT, naming file, tensor or key, expected and found. */
#ifndef ML_IO_CHECKPOINT_H
#define ML_IO_CHECKPOINT_H

#include "io/file.h"
#include "tensor/dtype.h"

enum { ML_CHECKPOINT_MAX_DIMS = 8 };

typedef struct ml_entry {
  char *name;
  ml_dtype dtype;
  int ndim;
  int64_t shape[ML_CHECKPOINT_MAX_DIMS]; /* row-major order: GGUF's reversed dims are turned round here */
  const ml_file *file;
  size_t offset, bytes; /* in `file`; checked to lie inside it. No alignment is promised: safetensors has none */
} ml_entry;

typedef struct ml_meta { /* safetensors' __metadata__: text to text, in the order of the file */
  char *key, *value;
} ml_meta;

typedef struct ml_checkpoint {
  ml_file **files;
  size_t n_files;
  ml_entry *entries; /* sorted by name */
  size_t n_entries;
  ml_meta *meta;
  size_t n_meta;
} ml_checkpoint;

/* One .safetensors file. */
ml_status ml_safetensors_open(const char *path, ml_checkpoint **out);
/* A directory: model.safetensors, or what model.safetensors.index.json names, else model*.safetensors (sorted);
 * ML_NOT_FOUND without any. Index: shard names must be plain file names; every weight it maps must be in the shard it
 * names and every tensor of the shards must be in the map (ML_MISMATCH). The metadata is that of the first shard that
 * has any. */
ml_status ml_safetensors_open_directory(const char *directory, ml_checkpoint **out);
void ml_checkpoint_close(ml_checkpoint *checkpoint);
/* NULL when there is no such tensor. */
const ml_entry *ml_checkpoint_find(const ml_checkpoint *checkpoint, const char *name);

/* One tensor to be written. */
typedef struct ml_save_item {
  const char *name;
  ml_dtype dtype;
  int ndim;
  const int64_t *shape;
  const void *data;
  size_t bytes;
} ml_save_item;
/* Writes tensors in the given order, header padded to 8 bytes, through a temporary and a rename. */
ml_status ml_safetensors_save(const char *path, const ml_save_item *items, size_t n_items, const ml_meta *meta,
                              size_t n_meta);

/* ---- for the readers ---- */

/* Reads a safetensors file that is open already; `file` is the checkpoint's from here on, and is closed on failure. */
ml_status ml_safetensors_parse(ml_file *file, ml_checkpoint **out);
/* Bytes of a tensor; false for a negative dimension, an overflow, or a last axis that is no whole number of blocks. */
bool ml_entry_bytes(ml_dtype dtype, int ndim, const int64_t *shape, size_t *out);
/* Sorts by name; ML_CORRUPT when two entries share one. */
ml_status ml_checkpoint_sort(ml_checkpoint *checkpoint);
/* Frees what the checkpoint holds and zeroes it, but not the structure. */
void ml_checkpoint_clear(ml_checkpoint *checkpoint);

#endif
