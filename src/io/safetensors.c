/* safetensors.c: reads one .safetensors file.
 *
 * Layout: uint64 N, N bytes of JSON, then the tensors' bytes, which must fill the rest of the file without a hole.
 * Checks follow the reference implementation's (huggingface/safetensors, tensor.rs). */
#include "io/checkpoint.h"
#include "io/json.h"
#include "io/safetensors_dtype.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_HEADER = 100000000, PREFIX = 8 };

/* Where messages point: file, and tensor. */
typedef struct place {
  const char *path, *tensor;
} place;

static ml_status fail_field(const place *at, const char *field, const char *expected, const ml_json *found) {
  return ml_fail(ML_CORRUPT, "%s: tensor '%.200s': %s: expected %s, found %s", at->path, at->tensor, field, expected,
                 ml_json_type_name(ml_json_type(found)));
}

static ml_status read_dtype(const place *at, const ml_json *info, ml_dtype *out) {
  const ml_json *field = ml_json_get(info, "dtype");
  const char *name = ml_json_string(field, NULL);
  if (!name) return fail_field(at, "dtype", "a string", field);
  for (int i = 0; i < ML_DTYPE_COUNT; i++) {
    const char *known = ml_safetensors_dtype((ml_dtype)i);
    if (known && strcmp(known, name) == 0) {
      *out = (ml_dtype)i;
      return ML_OK;
    }
  }
  return ml_fail(ML_UNSUPPORTED, "%s: tensor '%.200s': dtype '%.40s' is not supported", at->path, at->tensor, name);
}

static ml_status read_shape(const place *at, const ml_json *info, ml_entry *entry) {
  const ml_json *shape = ml_json_get(info, "shape");
  if (ml_json_type(shape) != ML_JSON_ARRAY) return fail_field(at, "shape", "an array", shape);
  size_t n = ml_json_length(shape);
  if (n > ML_CHECKPOINT_MAX_DIMS) {
    return ml_fail(ML_UNSUPPORTED, "%s: tensor '%.200s': shape: expected at most %d dimensions, found %zu", at->path,
                   at->tensor, ML_CHECKPOINT_MAX_DIMS, n);
  }
  for (size_t i = 0; i < n; i++) {
    const ml_json *dim = ml_json_at(shape, i);
    if (ml_json_type(dim) != ML_JSON_INT) return fail_field(at, "shape", "integers", dim);
    entry->shape[i] = ml_json_int(dim);
    if (entry->shape[i] < 0) {
      return ml_fail(ML_CORRUPT, "%s: tensor '%.200s': shape: negative dimension %lld", at->path, at->tensor,
                     (long long)entry->shape[i]);
    }
  }
  entry->ndim = (int)n;
  return ML_OK;
}

/* Offsets count from the first byte behind the header, `data`. */
static ml_status read_offsets(const place *at, const ml_json *info, size_t data, ml_entry *entry) {
  const ml_json *offsets = ml_json_get(info, "data_offsets");
  const ml_json *first = ml_json_at(offsets, 0), *last = ml_json_at(offsets, 1);
  if (ml_json_type(offsets) != ML_JSON_ARRAY) return fail_field(at, "data_offsets", "an array", offsets);
  if (ml_json_length(offsets) != 2 || ml_json_type(first) != ML_JSON_INT || ml_json_type(last) != ML_JSON_INT) {
    return ml_fail(ML_CORRUPT, "%s: tensor '%.200s': data_offsets: expected two integers", at->path, at->tensor);
  }
  int64_t begin = ml_json_int(first), end = ml_json_int(last);
  size_t room = entry->file->size - data;
  if (begin < 0 || end < begin || (uint64_t)end > room) {
    return ml_fail(ML_CORRUPT,
                   "%s: tensor '%.200s': data_offsets: expected a range within %zu bytes, found %lld to %lld", at->path,
                   at->tensor, room, (long long)begin, (long long)end);
  }
  entry->offset = data + (size_t)begin;
  entry->bytes = (size_t)(end - begin);
  size_t wanted;
  if (!ml_entry_bytes(entry->dtype, entry->ndim, entry->shape, &wanted)) {
    return ml_fail(ML_CORRUPT, "%s: tensor '%.200s': shape: the size in bytes overflows", at->path, at->tensor);
  }
  if (wanted != entry->bytes) {
    return ml_fail(ML_CORRUPT, "%s: tensor '%.200s': data_offsets: dtype and shape want %zu bytes, found %zu", at->path,
                   at->tensor, wanted, entry->bytes);
  }
  return ML_OK;
}

static ml_status read_tensor(const char *name, const ml_json *info, size_t data, ml_entry *entry) {
  place at = {entry->file->path, name};
  if (ml_json_type(info) != ML_JSON_OBJECT) return fail_field(&at, "description", "an object", info);
  ML_TRY(read_dtype(&at, info, &entry->dtype));
  ML_TRY(read_shape(&at, info, entry));
  ML_TRY(read_offsets(&at, info, data, entry));
  entry->name = ml_strdup(name);
  return entry->name ? ML_OK : ML_MEMORY;
}

static ml_status read_metadata(const char *path, const ml_json *metadata, ml_checkpoint *checkpoint) {
  ml_json_kind kind = ml_json_type(metadata);
  if (kind == ML_JSON_NULL) return ML_OK;
  if (kind != ML_JSON_OBJECT) {
    return ml_fail(ML_CORRUPT, "%s: __metadata__: expected an object, found %s", path, ml_json_type_name(kind));
  }
  checkpoint->meta = ml_calloc(ml_json_length(metadata), sizeof *checkpoint->meta);
  if (!checkpoint->meta) return ML_MEMORY;
  ml_json_iter iter = {0};
  while (ml_json_next(metadata, &iter)) {
    size_t size;
    const char *text = ml_json_string(iter.value, &size);
    if (!text || strlen(text) != size) {
      return ml_fail(ML_CORRUPT, "%s: __metadata__: '%.200s': expected a string%s, found %s", path, iter.key,
                     text ? " without U+0000" : "", text ? "one with it" : ml_json_type_name(ml_json_type(iter.value)));
    }
    ml_meta *meta = &checkpoint->meta[checkpoint->n_meta++];
    meta->key = ml_strdup(iter.key);
    meta->value = ml_strdup(text);
    if (!meta->key || !meta->value) return ML_MEMORY;
  }
  return ML_OK;
}

static int compare_offsets(const void *a, const void *b) {
  const ml_entry *x = a, *y = b;
  if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
  return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* an empty tensor comes before the one that begins there */
}

/* The tensors must follow one another from `data` to the end of the file. */
static ml_status check_tiling(ml_checkpoint *checkpoint, const ml_file *file, size_t data) {
  if (checkpoint->n_entries > 1) {
    qsort(checkpoint->entries, checkpoint->n_entries, sizeof *checkpoint->entries, compare_offsets);
  }
  size_t at = data;
  for (size_t i = 0; i < checkpoint->n_entries; i++) {
    const ml_entry *entry = &checkpoint->entries[i];
    if (entry->offset != at) {
      return ml_fail(ML_CORRUPT, "%s: tensor '%.200s': data_offsets: %s: expected to begin at %zu, found %zu",
                     file->path, entry->name, entry->offset < at ? "overlaps another tensor" : "leaves a hole",
                     at - data, entry->offset - data);
    }
    at += entry->bytes;
  }
  if (at == file->size) return ML_OK;
  return ml_fail(ML_CORRUPT, "%s: expected %zu bytes of tensors, found %zu", file->path, at - data, file->size - data);
}

static ml_status read_header(ml_checkpoint *checkpoint, ml_file *file, const ml_json *header, size_t data) {
  if (ml_json_type(header) != ML_JSON_OBJECT) {
    return ml_fail(ML_CORRUPT, "%s: header: expected an object, found %s", file->path,
                   ml_json_type_name(ml_json_type(header)));
  }
  checkpoint->entries = ml_calloc(ml_json_length(header), sizeof *checkpoint->entries);
  if (!checkpoint->entries) return ML_MEMORY;
  ml_json_iter iter = {0};
  while (ml_json_next(header, &iter)) {
    if (strcmp(iter.key, "__metadata__") == 0) {
      ML_TRY(read_metadata(file->path, iter.value, checkpoint));
      continue;
    }
    ml_entry *entry = &checkpoint->entries[checkpoint->n_entries];
    entry->file = file;
    ML_TRY(read_tensor(iter.key, iter.value, data, entry));
    checkpoint->n_entries++;
  }
  ML_TRY(check_tiling(checkpoint, file, data));
  return ml_checkpoint_sort(checkpoint);
}

/* The header is copied rather than parsed in the mapping, so that a file that shrinks meanwhile is an error and no
 * SIGBUS. */
static ml_status load_header(const ml_file *file, ml_json_doc **out, size_t *data) {
  unsigned char prefix[PREFIX + 1];
  if (file->size < PREFIX + 2) {
    return ml_fail(ML_CORRUPT, "%s: expected a safetensors file, found %zu bytes", file->path, file->size);
  }
  ML_TRY(ml_file_read(file, 0, prefix, PREFIX + 1));
  uint64_t size = 0;
  for (int i = PREFIX - 1; i >= 0; i--) size = size << 8 | prefix[i];
  if (size == 0 || prefix[PREFIX] != '{') {
    return ml_fail(ML_CORRUPT, "%s: no safetensors file: expected '{' at byte %d", file->path, PREFIX);
  }
  if (size > MAX_HEADER || size > file->size - PREFIX) {
    return ml_fail(ML_CORRUPT, "%s: header: expected at most %zu bytes, found %llu", file->path,
                   file->size - PREFIX < MAX_HEADER ? file->size - PREFIX : (size_t)MAX_HEADER,
                   (unsigned long long)size);
  }
  char *text = ml_alloc((size_t)size);
  if (!text) return ML_MEMORY;
  ml_status status = ml_file_read(file, PREFIX, text, (size_t)size);
  if (status == ML_OK) status = ml_fail_prefix(ml_json_parse(text, (size_t)size, "header", out), "%s", file->path);
  ml_free(text);
  *data = PREFIX + (size_t)size;
  return status;
}

static ml_status adopt_file(ml_checkpoint *checkpoint, ml_file *file) {
  checkpoint->files = ml_alloc(sizeof(ml_file *));
  if (!checkpoint->files) {
    ml_file_close(file);
    return ML_MEMORY;
  }
  checkpoint->files[0] = file;
  checkpoint->n_files = 1;
  return ML_OK;
}

ml_status ml_safetensors_parse(ml_file *file, ml_checkpoint **out) {
  ml_checkpoint checkpoint = {0};
  ML_TRY(adopt_file(&checkpoint, file));
  ml_json_doc *doc = NULL;
  size_t data = 0;
  ml_status status = load_header(file, &doc, &data);
  if (status == ML_OK) status = read_header(&checkpoint, file, ml_json_root(doc), data);
  ml_json_close(doc);
  if (status == ML_OK) {
    *out = ml_alloc(sizeof **out);
    status = *out ? ML_OK : ML_MEMORY;
  }
  if (status == ML_OK) **out = checkpoint;
  else ml_checkpoint_clear(&checkpoint);
  return status;
}

ml_status ml_safetensors_open(const char *path, ml_checkpoint **out) {
  ml_file *file;
  ML_TRY(ml_file_open(path, &file));
  return ml_safetensors_parse(file, out);
}
