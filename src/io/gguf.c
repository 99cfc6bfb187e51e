/* gguf.c: reads a GGUF file: header, key-value pairs, tensor descriptions.
 *
 * Nothing is allocated by a count that the file states: lists grow as their items are read, and each item takes bytes
 * of the file. All integers are little-endian, as is every machine that this builds for. */
#include "io/gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are read in the file's byte order");

enum {
  MAX_DIMS = 4,    /* ggml's own limit */
  MAX_KEY = 65535, /* of the specification; tensor names are held to it too */
  MIN_PAIR = 13,   /* bytes: key length, type, a one-byte value */
  MIN_TENSOR = 24, /* bytes: name length, number of dims, type, offset */
  DEFAULT_ALIGNMENT = 32,
  FIRST_HEAD = 4 << 20, /* bytes read at first; doubled until the descriptions are all there */
  MAX_HEAD = 1 << 30,
};

/* Bytes of one item; 0 for strings and arrays. */
static const uint8_t item_bytes[ML_GGUF_TYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* ggml's numbers of tensor types. A name without a dtype is a known format that is not supported. */
typedef struct tensor_type {
  const char *name;
  int dtype; /* -1: unsupported */
} tensor_type;

static const tensor_type tensor_types[] = {
    [0] = {"F32", ML_F32},    [1] = {"F16", ML_F16},   [2] = {"Q4_0", ML_Q4_0},  [3] = {"Q4_1", ML_Q4_1},
    [6] = {"Q5_0", ML_Q5_0},  [7] = {"Q5_1", ML_Q5_1}, [8] = {"Q8_0", ML_Q8_0},  [9] = {"Q8_1", -1},
    [10] = {"Q2_K", -1},      [11] = {"Q3_K", -1},     [12] = {"Q4_K", ML_Q4_K}, [13] = {"Q5_K", ML_Q5_K},
    [14] = {"Q6_K", ML_Q6_K}, [15] = {"Q8_K", -1},     [16] = {"IQ2_XXS", -1},   [17] = {"IQ2_XS", -1},
    [18] = {"IQ3_XXS", -1},   [19] = {"IQ1_S", -1},    [20] = {"IQ4_NL", -1},    [21] = {"IQ3_S", -1},
    [22] = {"IQ2_S", -1},     [23] = {"IQ4_XS", -1},   [24] = {"I8", ML_I8},     [25] = {"I16", ML_I16},
    [26] = {"I32", ML_I32},   [27] = {"I64", ML_I64},  [28] = {"F64", ML_F64},   [29] = {"IQ1_M", -1},
    [30] = {"BF16", ML_BF16}, [34] = {"TQ1_0", -1},    [35] = {"TQ2_0", -1},     [39] = {"MXFP4", -1},
};

/* ---- the cursor ---- */

typedef struct cursor {
  const ml_file *file;
  const uint8_t *head;
  size_t size; /* of the head */
  size_t at;
  bool cut; /* the file goes on where the head ends: more of it must be read */
} cursor;

/* Bytes of the file that are still to come. */
static size_t left(const cursor *c) { return c->file->size - c->at; }

/* `bytes` at the cursor, which moves behind them. */
static ml_status take(cursor *c, uint64_t bytes, const char *what, const uint8_t **out) {
  if (bytes > left(c)) {
    return ml_fail(ML_CORRUPT, "%s: truncated: %s: expected %" PRIu64 " bytes at %zu, found %zu", c->file->path, what,
                   bytes, c->at, left(c));
  }
  if (bytes > c->size - c->at) {
    c->cut = true;
    return ml_fail(ML_LIMIT, "%s: metadata over %d MiB", c->file->path, MAX_HEAD >> 20);
  }
  *out = c->head + c->at;
  c->at += (size_t)bytes;
  return ML_OK;
}

static ml_status take_u32(cursor *c, const char *what, uint32_t *out) {
  const uint8_t *bytes = NULL;
  ML_TRY(take(c, sizeof *out, what, &bytes));
  memcpy(out, bytes, sizeof *out);
  return ML_OK;
}

static ml_status take_u64(cursor *c, const char *what, uint64_t *out) {
  const uint8_t *bytes = NULL;
  ML_TRY(take(c, sizeof *out, what, &bytes));
  memcpy(out, bytes, sizeof *out);
  return ML_OK;
}

static ml_status take_string(cursor *c, const char *what, const uint8_t **text, uint64_t *length) {
  ML_TRY(take_u64(c, what, length));
  return take(c, *length, what, text);
}

/* A key or a tensor's name, as a C string of its own. */
static ml_status take_name(cursor *c, const char *what, char **out) {
  const uint8_t *text = NULL;
  uint64_t length = 0;
  size_t at = c->at;
  ML_TRY(take_string(c, what, &text, &length));
  if (length == 0 || length > MAX_KEY || memchr(text, '\0', (size_t)length)) {
    return ml_fail(ML_CORRUPT, "%s: %s at byte %zu: expected 1 to %d bytes without NUL, found %" PRIu64 "%s",
                   c->file->path, what, at, MAX_KEY, length, length == 0 || length > MAX_KEY ? "" : " with one");
  }
  *out = ml_strndup((const char *)text, (size_t)length);
  return *out ? ML_OK : ML_MEMORY;
}

/* ---- metadata ---- */

static ml_status fail_value(const cursor *c, const char *key, const char *what, uint64_t found) {
  return ml_fail(ML_CORRUPT, "%s: key '%.200s': %s %" PRIu64, c->file->path, key, what, found);
}

/* Widens the fixed-size item at `from`. */
static void read_scalar(ml_gguf_type type, const uint8_t *from, ml_gguf_value *value) {
#define WIDEN(id, ctype, field)                                                                                        \
  case id: {                                                                                                           \
    ctype x;                                                                                                           \
    memcpy(&x, from, sizeof x);                                                                                        \
    value->as.field = x;                                                                                               \
    break;                                                                                                             \
  }
  switch (type) {
    WIDEN(ML_GGUF_UINT8, uint8_t, u)
    WIDEN(ML_GGUF_INT8, int8_t, i)
    WIDEN(ML_GGUF_UINT16, uint16_t, u)
    WIDEN(ML_GGUF_INT16, int16_t, i)
    WIDEN(ML_GGUF_UINT32, uint32_t, u)
    WIDEN(ML_GGUF_INT32, int32_t, i)
    WIDEN(ML_GGUF_FLOAT32, float, f)
    WIDEN(ML_GGUF_BOOL, uint8_t, b)
    WIDEN(ML_GGUF_UINT64, uint64_t, u)
    WIDEN(ML_GGUF_INT64, int64_t, i)
    WIDEN(ML_GGUF_FLOAT64, double, f)
  default: break;
  }
#undef WIDEN
}

static ml_status check_bools(const cursor *c, const char *key, const uint8_t *data, uint64_t n) {
  for (uint64_t i = 0; i < n; i++) {
    if (data[i] > 1) return fail_value(c, key, "expected a bool of 0 or 1, found", data[i]);
  }
  return ML_OK;
}

/* Walks the strings twice: the index is allocated once all of them are known to be there. */
static ml_status read_string_array(cursor *c, const char *key, ml_gguf_value *value) {
  size_t first = c->at;
  const uint8_t *text = NULL;
  uint64_t length = 0;
  for (uint64_t i = 0; i < value->length; i++) ML_TRY(take_string(c, key, &text, &length));
  uint64_t *offsets = ml_calloc((size_t)value->length, sizeof *offsets);
  if (!offsets) return ML_MEMORY;
  value->offsets = offsets;
  size_t at = first;
  for (uint64_t i = 0; i < value->length; i++) {
    offsets[i] = at;
    memcpy(&length, c->head + at, sizeof length);
    at += sizeof length + (size_t)length;
  }
  return ML_OK;
}

static ml_status read_array(cursor *c, const char *key, ml_gguf_value *value) {
  uint32_t type;
  ML_TRY(take_u32(c, key, &type));
  ML_TRY(take_u64(c, key, &value->length));
  if (type >= ML_GGUF_TYPE_COUNT) return fail_value(c, key, "unknown type of array items", type);
  value->item_type = (ml_gguf_type)type;
  if (type == ML_GGUF_ARRAY) {
    return ml_fail(ML_UNSUPPORTED, "%s: key '%.200s': an array of arrays is not supported", c->file->path, key);
  }
  /* A count that cannot be right is told apart from a file that ends early. */
  if (value->length > left(c) / (type == ML_GGUF_STRING ? sizeof(uint64_t) : item_bytes[type])) {
    return fail_value(c, key, "the file is too short for an array of", value->length);
  }
  if (type == ML_GGUF_STRING) return read_string_array(c, key, value);
  ML_TRY(take(c, value->length * item_bytes[type], key, &value->data));
  return type == ML_GGUF_BOOL ? check_bools(c, key, value->data, value->length) : ML_OK;
}

static ml_status read_value(cursor *c, const char *key, ml_gguf_value *value) {
  uint32_t type;
  ML_TRY(take_u32(c, key, &type));
  if (type >= ML_GGUF_TYPE_COUNT) return fail_value(c, key, "unknown type", type);
  value->type = (ml_gguf_type)type;
  if (type == ML_GGUF_STRING) return take_string(c, key, &value->data, &value->length);
  if (type == ML_GGUF_ARRAY) return read_array(c, key, value);
  const uint8_t *from = NULL;
  ML_TRY(take(c, item_bytes[type], key, &from));
  if (type == ML_GGUF_BOOL) ML_TRY(check_bools(c, key, from, 1));
  read_scalar(value->type, from, value);
  return ML_OK;
}

static int compare_keys(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static ml_status check_keys(const ml_gguf *gguf, const char *path) {
  const char **keys = ml_calloc(gguf->n_pairs, sizeof *keys);
  if (!keys) return ML_MEMORY;
  for (size_t i = 0; i < gguf->n_pairs; i++) keys[i] = gguf->pairs[i].key;
  if (gguf->n_pairs > 1) qsort(keys, gguf->n_pairs, sizeof *keys, compare_keys);
  ml_status status = ML_OK;
  for (size_t i = 1; status == ML_OK && i < gguf->n_pairs; i++) {
    if (strcmp(keys[i - 1], keys[i]) == 0) status = ml_fail(ML_CORRUPT, "%s: key '%.200s': duplicate", path, keys[i]);
  }
  ml_free(keys);
  return status;
}

static ml_status read_pairs(cursor *c, ml_gguf *gguf, uint64_t count) {
  size_t capacity = 0;
  for (uint64_t i = 0; i < count; i++) {
    ML_TRY(ML_GROW(gguf->pairs, capacity, gguf->n_pairs + 1));
    ml_gguf_pair *pair = &gguf->pairs[gguf->n_pairs];
    *pair = (ml_gguf_pair){0};
    ML_TRY(take_name(c, "key", &pair->key));
    gguf->n_pairs++;
    ML_TRY(read_value(c, pair->key, &pair->value));
  }
  return check_keys(gguf, c->file->path);
}

/* The two keys that change how the file itself is read. */
static ml_status read_general(ml_gguf *gguf, const char *path) {
  const ml_gguf_value *alignment = ml_gguf_get(gguf, "general.alignment");
  gguf->alignment = DEFAULT_ALIGNMENT;
  if (alignment) {
    uint64_t n = alignment->as.u;
    if (alignment->type != ML_GGUF_UINT32 || n == 0 || (n & (n - 1)) != 0) {
      return ml_fail(ML_CORRUPT, "%s: key 'general.alignment': expected a uint32 that is a power of two", path);
    }
    gguf->alignment = (size_t)n;
  }
  const ml_gguf_value *parts = ml_gguf_get(gguf, "split.count");
  if (parts && parts->type == ML_GGUF_UINT16 && parts->as.u > 1) {
    return ml_fail(ML_UNSUPPORTED, "%s: one of %" PRIu64 " parts of a split model: merge them into one file", path,
                   parts->as.u);
  }
  return ML_OK;
}

/* ---- tensors ---- */

static ml_status read_tensor_type(cursor *c, ml_entry *entry) {
  uint32_t type;
  ML_TRY(take_u32(c, entry->name, &type));
  const tensor_type *known = type < sizeof tensor_types / sizeof *tensor_types ? &tensor_types[type] : NULL;
  if (!known || !known->name) {
    return ml_fail(ML_UNSUPPORTED, "%s: tensor '%.200s': type %" PRIu32 " is not known", c->file->path, entry->name,
                   type);
  }
  if (known->dtype < 0) {
    return ml_fail(ML_UNSUPPORTED, "%s: tensor '%.200s': type %s is not supported", c->file->path, entry->name,
                   known->name);
  }
  entry->dtype = (ml_dtype)known->dtype;
  return ML_OK;
}

static ml_status read_dims(cursor *c, ml_entry *entry) {
  uint32_t n;
  ML_TRY(take_u32(c, entry->name, &n));
  if (n > MAX_DIMS) {
    return ml_fail(ML_CORRUPT, "%s: tensor '%.200s': expected at most %d dimensions, found %" PRIu32, c->file->path,
                   entry->name, MAX_DIMS, n);
  }
  entry->ndim = (int)n;
  for (uint32_t i = 0; i < n; i++) { /* the file begins with the fastest-running axis */
    uint64_t dim;
    ML_TRY(take_u64(c, entry->name, &dim));
    if (dim > INT64_MAX) {
      return ml_fail(ML_CORRUPT, "%s: tensor '%.200s': dimension %" PRIu32 " is %" PRIu64, c->file->path, entry->name,
                     i, dim);
    }
    entry->shape[n - 1 - i] = (int64_t)dim;
  }
  return ML_OK;
}

/* Name, dims, type and offset, as yet relative to the data section. */
static ml_status read_tensor(cursor *c, const ml_gguf *gguf, ml_entry *entry) {
  uint64_t offset;
  ML_TRY(read_dims(c, entry));
  ML_TRY(read_tensor_type(c, entry));
  ML_TRY(take_u64(c, entry->name, &offset));
  if (!ml_entry_bytes(entry->dtype, entry->ndim, entry->shape, &entry->bytes)) {
    return ml_fail(ML_CORRUPT, "%s: tensor '%.200s': its size overflows, or its rows are no whole blocks of %s",
                   c->file->path, entry->name, ml_dtype_name(entry->dtype));
  }
  if (offset > c->file->size || offset % gguf->alignment != 0) {
    return ml_fail(ML_CORRUPT,
                   "%s: tensor '%.200s': offset: expected a multiple of %zu within the file, found %" PRIu64,
                   c->file->path, entry->name, gguf->alignment, offset);
  }
  entry->offset = (size_t)offset;
  return ML_OK;
}

static int compare_offsets(const void *a, const void *b) {
  const ml_entry *x = a, *y = b;
  if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
  return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* Makes offsets absolute. `data` is where the descriptions end; the data section begins at the next aligned byte. */
static ml_status place_tensors(ml_gguf *gguf, const ml_file *file, size_t data) {
  ml_entry *entries = gguf->checkpoint.entries;
  size_t n = gguf->checkpoint.n_entries;
  if (n == 0) return ML_OK;
  data += (gguf->alignment - data % gguf->alignment) % gguf->alignment;
  qsort(entries, n, sizeof *entries, compare_offsets);
  size_t end = data;
  for (size_t i = 0; i < n; i++) {
    ml_entry *entry = &entries[i];
    entry->offset += data; /* both are at most the file's size and one alignment: no overflow */
    if (entry->offset > file->size || entry->bytes > file->size - entry->offset) {
      return ml_fail(ML_CORRUPT, "%s: tensor '%.200s': expected %zu bytes at %zu, the file has %zu", file->path,
                     entry->name, entry->bytes, entry->offset, file->size);
    }
    if (entry->offset < end) {
      return ml_fail(ML_CORRUPT, "%s: tensor '%.200s': overlaps tensor '%.200s'", file->path, entry->name,
                     entries[i - 1].name);
    }
    end = entry->offset + entry->bytes;
  }
  return ml_checkpoint_sort(&gguf->checkpoint);
}

static ml_status read_tensors(cursor *c, ml_gguf *gguf, uint64_t count) {
  ml_checkpoint *checkpoint = &gguf->checkpoint;
  size_t capacity = 0;
  for (uint64_t i = 0; i < count; i++) {
    ML_TRY(ML_GROW(checkpoint->entries, capacity, checkpoint->n_entries + 1));
    ml_entry *entry = &checkpoint->entries[checkpoint->n_entries];
    *entry = (ml_entry){.file = c->file};
    ML_TRY(take_name(c, "tensor name", &entry->name));
    checkpoint->n_entries++;
    ML_TRY(read_tensor(c, gguf, entry));
  }
  return place_tensors(gguf, c->file, c->at);
}

/* ---- the file ---- */

static ml_status read_version(cursor *c, uint32_t *version) {
  const uint8_t *magic = NULL;
  if (c->file->size < 8 || memcmp(c->head, "GGUF", 4) != 0) {
    return ml_fail(ML_CORRUPT, "%s: expected a GGUF file, found %s", c->file->path,
                   c->file->size < 8 ? "fewer than 8 bytes" : "other first bytes");
  }
  ML_TRY(take(c, 4, "magic", &magic));
  ML_TRY(take_u32(c, "version", version));
  if (*version == 2 || *version == 3) return ML_OK;
  if (__builtin_bswap32(*version) <= 3) {
    return ml_fail(ML_UNSUPPORTED, "%s: a big-endian GGUF file is not supported", c->file->path);
  }
  return ml_fail(ML_UNSUPPORTED, "%s: expected GGUF version 2 or 3, found %" PRIu32, c->file->path, *version);
}

static ml_status check_count(const cursor *c, const char *what, uint64_t count, size_t smallest) {
  if (count <= left(c) / smallest) return ML_OK;
  return ml_fail(ML_CORRUPT, "%s: %s: the file is too short for %" PRIu64, c->file->path, what, count);
}

static ml_status read_descriptions(cursor *c, ml_gguf *gguf) {
  uint64_t n_tensors, n_pairs;
  ML_TRY(read_version(c, &gguf->version));
  ML_TRY(take_u64(c, "number of tensors", &n_tensors));
  ML_TRY(take_u64(c, "number of keys", &n_pairs));
  ML_TRY(check_count(c, "number of tensors", n_tensors, MIN_TENSOR));
  ML_TRY(check_count(c, "number of keys", n_pairs, MIN_PAIR));
  ML_TRY(read_pairs(c, gguf, n_pairs));
  ML_TRY(read_general(gguf, c->file->path));
  return read_tensors(c, gguf, n_tensors);
}

static void forget_descriptions(ml_gguf *gguf) {
  for (size_t i = 0; i < gguf->n_pairs; i++) {
    ml_free(gguf->pairs[i].key);
    ml_free((void *)(uintptr_t)gguf->pairs[i].value.offsets);
  }
  for (size_t i = 0; i < gguf->checkpoint.n_entries; i++) ml_free(gguf->checkpoint.entries[i].name);
  ml_free(gguf->pairs);
  ml_free(gguf->checkpoint.entries);
  ml_free(gguf->head);
  gguf->pairs = NULL;
  gguf->checkpoint.entries = NULL;
  gguf->head = NULL;
  gguf->n_pairs = gguf->checkpoint.n_entries = 0;
}

/* Where the descriptions end is known only when they are read: begun anew with a head twice as long if need be. */
static ml_status read_gguf(const ml_file *file, ml_gguf *gguf) {
  for (size_t size = FIRST_HEAD;; size *= 2) {
    cursor c = {.file = file, .size = size < file->size ? size : file->size};
    gguf->head = ml_alloc(c.size);
    if (!gguf->head) return ML_MEMORY;
    c.head = gguf->head;
    ML_TRY(ml_file_read(file, 0, gguf->head, c.size));
    ml_status status = read_descriptions(&c, gguf);
    if (status == ML_OK || !c.cut || size >= MAX_HEAD) return status;
    forget_descriptions(gguf);
  }
}

ml_status ml_gguf_parse(ml_file *file, ml_gguf **out) {
  ml_gguf *gguf = ml_calloc(1, sizeof *gguf);
  ml_file **files = ml_alloc(sizeof *files);
  if (!gguf || !files) {
    ml_free(gguf);
    ml_free(files);
    ml_file_close(file);
    return ML_MEMORY;
  }
  files[0] = file;
  gguf->checkpoint.files = files;
  gguf->checkpoint.n_files = 1;
  ml_status status = read_gguf(file, gguf);
  if (status == ML_OK) *out = gguf;
  else ml_gguf_close(gguf);
  return status;
}

ml_status ml_gguf_open(const char *path, ml_gguf **out) {
  ml_file *file;
  ML_TRY(ml_file_open(path, &file));
  return ml_gguf_parse(file, out);
}

void ml_gguf_close(ml_gguf *gguf) {
  if (!gguf) return;
  forget_descriptions(gguf);
  ml_checkpoint_clear(&gguf->checkpoint);
  ml_free(gguf);
}

/* ---- access ---- */

const ml_gguf_value *ml_gguf_get(const ml_gguf *gguf, const char *key) {
  for (size_t i = 0; i < gguf->n_pairs; i++) {
    if (strcmp(gguf->pairs[i].key, key) == 0) return &gguf->pairs[i].value;
  }
  return NULL;
}

const char *ml_gguf_string_at(const ml_gguf *gguf, const ml_gguf_value *value, uint64_t i, size_t *size) {
  if (value->type != ML_GGUF_ARRAY || value->item_type != ML_GGUF_STRING || i >= value->length) return NULL;
  const uint8_t *item = gguf->head + value->offsets[i];
  uint64_t length = 0;
  memcpy(&length, item, sizeof length);
  *size = (size_t)length;
  return (const char *)item + sizeof length;
}

static ml_status item_at(const ml_gguf_value *value, uint64_t i, ml_gguf_value *item) {
  if (value->type != ML_GGUF_ARRAY || item_bytes[value->item_type] == 0) {
    return ml_fail(ML_MISMATCH, "expected an array of numbers");
  }
  if (i >= value->length)
    return ml_fail(ML_MISMATCH, "expected item %" PRIu64 ", the array has %" PRIu64, i, value->length);
  *item = (ml_gguf_value){.type = value->item_type};
  read_scalar(item->type, value->data + i * item_bytes[item->type], item);
  return ML_OK;
}

static bool is_float(ml_gguf_type type) { return type == ML_GGUF_FLOAT32 || type == ML_GGUF_FLOAT64; }

static bool is_unsigned(ml_gguf_type type) {
  return type == ML_GGUF_UINT8 || type == ML_GGUF_UINT16 || type == ML_GGUF_UINT32 || type == ML_GGUF_UINT64;
}

ml_status ml_gguf_int_at(const ml_gguf_value *value, uint64_t i, int64_t *out) {
  ml_gguf_value item = {0};
  ML_TRY(item_at(value, i, &item));
  if (is_float(item.type)) return ml_fail(ML_MISMATCH, "expected an array of integers, found floats");
  if (is_unsigned(item.type) && item.as.u > INT64_MAX) {
    return ml_fail(ML_MISMATCH, "item %" PRIu64 ": %" PRIu64 " is beyond int64", i, item.as.u);
  }
  *out = item.type == ML_GGUF_BOOL ? item.as.b : item.as.i;
  return ML_OK;
}

ml_status ml_gguf_float_at(const ml_gguf_value *value, uint64_t i, double *out) {
  ml_gguf_value item = {0};
  ML_TRY(item_at(value, i, &item));
  if (is_float(item.type)) *out = item.as.f;
  else if (item.type == ML_GGUF_BOOL) *out = item.as.b;
  else *out = is_unsigned(item.type) ? (double)item.as.u : (double)item.as.i;
  return ML_OK;
}
