/* safetensors_save.c: writes a .safetensors file. */
#include "io/checkpoint.h"
#include "io/json.h"
#include "io/safetensors_dtype.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_HEADER = 100000000, PREFIX = 8, ALIGNMENT = 8 };

static void write_text(ml_json_writer *w, const char *text) { ml_json_write_raw(w, text, strlen(text)); }

static void write_key(ml_json_writer *w, const char *key) {
  if (w->size > 1 && w->text[w->size - 1] != '{') write_text(w, ",");
  ml_json_write_string(w, key, strlen(key));
  write_text(w, ":");
}

static void write_metadata(ml_json_writer *w, const ml_meta *meta, size_t n_meta) {
  write_key(w, "__metadata__");
  write_text(w, "{");
  for (size_t i = 0; i < n_meta; i++) {
    write_key(w, meta[i].key);
    ml_json_write_string(w, meta[i].value, strlen(meta[i].value));
  }
  write_text(w, "}");
}

static ml_status check_item(const ml_save_item *item) {
  if (!ml_safetensors_dtype(item->dtype)) {
    return ml_fail(ML_UNSUPPORTED, "tensor '%.200s': safetensors cannot hold %s", item->name,
                   ml_dtype_name(item->dtype));
  }
  size_t wanted;
  if (item->ndim < 0 || item->ndim > ML_CHECKPOINT_MAX_DIMS) {
    return ml_fail(ML_USAGE, "tensor '%.200s': expected at most %d dimensions, found %d", item->name,
                   ML_CHECKPOINT_MAX_DIMS, item->ndim);
  }
  if (!ml_entry_bytes(item->dtype, item->ndim, item->shape, &wanted) || wanted != item->bytes) {
    return ml_fail(ML_USAGE, "tensor '%.200s': its %zu bytes do not fit its dtype and shape", item->name, item->bytes);
  }
  if (strcmp(item->name, "__metadata__") == 0) {
    return ml_fail(ML_USAGE, "tensor '%s': the name is reserved for metadata", item->name);
  }
  return ML_OK;
}

static ml_status write_item(ml_json_writer *w, const ml_save_item *item, int64_t *offset) {
  int64_t end;
  ML_TRY(check_item(item));
  if (item->bytes > INT64_MAX || __builtin_add_overflow(*offset, (int64_t)item->bytes, &end)) {
    return ml_fail(ML_LIMIT, "tensor '%.200s': the file's size overflows", item->name);
  }
  write_key(w, item->name);
  write_text(w, "{\"dtype\":\"");
  write_text(w, ml_safetensors_dtype(item->dtype));
  write_text(w, "\",\"shape\":[");
  for (int i = 0; i < item->ndim; i++) {
    if (i > 0) write_text(w, ",");
    ml_json_write_int(w, item->shape[i]);
  }
  write_text(w, "],\"data_offsets\":[");
  ml_json_write_int(w, *offset);
  write_text(w, ",");
  ml_json_write_int(w, end);
  write_text(w, "]}");
  *offset = end;
  return w->status;
}

static int compare_strings(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* `names` is room for `n`. */
static ml_status check_unique(const char **names, size_t n, const char *kind) {
  if (n > 1) qsort(names, n, sizeof *names, compare_strings);
  for (size_t i = 1; i < n; i++) {
    if (strcmp(names[i - 1], names[i]) == 0) return ml_fail(ML_USAGE, "%s '%.200s': given twice", kind, names[i]);
  }
  return ML_OK;
}

static ml_status check_names(const ml_save_item *items, size_t n_items, const ml_meta *meta, size_t n_meta) {
  const char **names = ml_calloc(n_items > n_meta ? n_items : n_meta, sizeof *names);
  if (!names) return ML_MEMORY;
  for (size_t i = 0; i < n_items; i++) names[i] = items[i].name;
  ml_status status = check_unique(names, n_items, "tensor");
  if (status == ML_OK) {
    for (size_t i = 0; i < n_meta; i++) names[i] = meta[i].key;
    status = check_unique(names, n_meta, "metadata key");
  }
  ml_free(names);
  return status;
}

static ml_status write_header(ml_json_writer *w, const ml_save_item *items, size_t n_items, const ml_meta *meta,
                              size_t n_meta) {
  ML_TRY(check_names(items, n_items, meta, n_meta));
  int64_t offset = 0;
  write_text(w, "{");
  if (n_meta > 0) write_metadata(w, meta, n_meta);
  for (size_t i = 0; i < n_items; i++) ML_TRY(write_item(w, &items[i], &offset));
  write_text(w, "}");
  while (w->status == ML_OK && w->size % ALIGNMENT != 0) write_text(w, " ");
  if (w->status == ML_OK && w->size > MAX_HEADER) {
    return ml_fail(ML_LIMIT, "header: expected at most %d bytes, found %zu", MAX_HEADER, w->size);
  }
  return w->status;
}

static ml_status write_file(const char *path, const ml_json_writer *header, const ml_save_item *items, size_t n_items) {
  unsigned char prefix[PREFIX];
  for (int i = 0; i < PREFIX; i++) prefix[i] = (unsigned char)((uint64_t)header->size >> (8 * i));
  ml_file_writer file;
  ML_TRY(ml_file_writer_open(&file, path));
  ml_status status = ml_file_writer_put(&file, prefix, PREFIX);
  if (status == ML_OK) status = ml_file_writer_put(&file, header->text, header->size);
  for (size_t i = 0; status == ML_OK && i < n_items; i++) {
    status = ml_file_writer_put(&file, items[i].data, items[i].bytes);
  }
  if (status == ML_OK) status = ml_file_writer_commit(&file);
  ml_file_writer_abort(&file);
  return status;
}

ml_status ml_safetensors_save(const char *path, const ml_save_item *items, size_t n_items, const ml_meta *meta,
                              size_t n_meta) {
  ml_json_writer header = {0};
  ml_status status = write_header(&header, items, n_items, meta, n_meta);
  if (status != ML_OK) ml_fail_prefix(status, "%s", path);
  else status = write_file(path, &header, items, n_items);
  ml_json_writer_free(&header);
  return status;
}
