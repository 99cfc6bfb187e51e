/* test_safetensors.c: reading and writing .safetensors, single and sharded; every kind of damage. */
#include "io/checkpoint.h"
#include "scratch.h"

#include <sys/stat.h>

/* ---- files made by hand ---- */

/* A file of that header and `n` bytes of tensors. */
static void build(bytes *b, const char *header, size_t n) {
  put_u64(b, strlen(header));
  put_text(b, header);
  for (size_t i = 0; i < n; i++) put(b, &(uint8_t){(uint8_t)i}, 1);
}

static ml_status parse(const bytes *b, ml_checkpoint **out) {
  uint8_t *exact = malloc(b->size); /* so that a sanitizer sees an access beyond it */
  memcpy(exact, b->data, b->size);
  ml_file *file;
  ml_status status = ml_file_from_memory("m.safetensors", exact, b->size, &file);
  if (status == ML_OK) status = ml_safetensors_parse(file, out);
  if (status != ML_OK) {
    free(exact);
  } else {
    (*out)->files[0]->data = NULL; /* nothing below looks at the data */
    free(exact);
  }
  return status;
}

typedef struct damage {
  const char *name, *header;
  size_t bytes; /* of tensors */
  ml_status status;
  const char *message;
} damage;

#define T(dtype, shape, from, to) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" from "," to "]}"

static const damage damages[] = {
    {"no JSON", "{\"a\":", 0, ML_CORRUPT, "m.safetensors: header: line 1, column 6"},
    {"an array as header", "[]", 0, ML_CORRUPT, "expected '{'"},
    {"a space before the header", " {}", 0, ML_CORRUPT, "expected '{'"},
    {"text behind the header", "{} x", 0, ML_CORRUPT, "header: line 1, column 4"},
    {"a name twice", "{\"a\":" T("U8", "[1]", "0", "1") ",\"a\":" T("U8", "[1]", "1", "2") "}", 2, ML_CORRUPT,
     "duplicate key 'a'"},
    {"a tensor that is no object", "{\"a\":[]}", 0, ML_CORRUPT,
     "tensor 'a': description: expected an object, found an array"},
    {"a tensor that is null", "{\"a\":null}", 0, ML_CORRUPT, "tensor 'a': description"},
    {"no dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ML_CORRUPT,
     "tensor 'a': dtype: expected a string"},
    {"a numeric dtype", "{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ML_CORRUPT,
     "found an integer"},
    {"an unknown dtype", "{\"a\":" T("F4_E2M1", "[2]", "0", "1") "}", 1, ML_UNSUPPORTED, "tensor 'a': dtype 'F4_E2M1'"},
    {"no shape", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, ML_CORRUPT,
     "tensor 'a': shape: expected an array"},
    {"a float in the shape", "{\"a\":" T("U8", "[1.0]", "0", "1") "}", 1, ML_CORRUPT, "shape: expected integers"},
    {"a huge integer in the shape", "{\"a\":" T("U8", "[18446744073709551616]", "0", "1") "}", 1, ML_CORRUPT,
     "shape: expected integers, found a float"},
    {"a negative dimension", "{\"a\":" T("U8", "[-1]", "0", "1") "}", 1, ML_CORRUPT, "negative dimension -1"},
    {"nine dimensions", "{\"a\":" T("U8", "[1,1,1,1,1,1,1,1,1]", "0", "1") "}", 1, ML_UNSUPPORTED,
     "at most 8 dimensions"},
    {"a size that overflows", "{\"a\":" T("F32", "[4611686018427387905]", "0", "4") "}", 4, ML_CORRUPT, "overflows"},
    {"a product that overflows", "{\"a\":" T("U8", "[4294967296,4294967296,2]", "0", "0") "}", 0, ML_CORRUPT,
     "overflows"},
    {"no offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, ML_CORRUPT,
     "data_offsets: expected an array, found null"},
    {"one offset", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, ML_CORRUPT,
     "expected two integers"},
    {"three offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1, ML_CORRUPT,
     "two integers"},
    {"offsets reversed", "{\"a\":" T("U8", "[1]", "1", "0") "}", 1, ML_CORRUPT, "found 1 to 0"},
    {"a negative offset", "{\"a\":" T("U8", "[1]", "-1", "0") "}", 1, ML_CORRUPT, "found -1 to 0"},
    {"an offset behind the end", "{\"a\":" T("U8", "[9]", "0", "9") "}", 8, ML_CORRUPT, "within 8 bytes, found 0 to 9"},
    {"a huge offset", "{\"a\":" T("U8", "[1]", "9223372036854775806", "9223372036854775807") "}", 1, ML_CORRUPT,
     "within"},
    {"fewer bytes than the shape wants", "{\"a\":" T("F32", "[2]", "0", "4") "}", 4, ML_CORRUPT,
     "want 8 bytes, found 4"},
    {"more bytes than the shape wants", "{\"a\":" T("F32", "[2]", "0", "9") "}", 9, ML_CORRUPT,
     "want 8 bytes, found 9"},
    {"an overlap", "{\"a\":" T("U8", "[4]", "0", "4") ",\"b\":" T("U8", "[4]", "2", "6") "}", 6, ML_CORRUPT,
     "tensor 'b': data_offsets: overlaps"},
    {"two tensors on the same bytes", "{\"a\":" T("U8", "[4]", "0", "4") ",\"b\":" T("U8", "[4]", "0", "4") "}", 4,
     ML_CORRUPT, "overlaps"},
    {"a hole", "{\"a\":" T("U8", "[2]", "0", "2") ",\"b\":" T("U8", "[2]", "4", "6") "}", 6, ML_CORRUPT,
     "tensor 'b': data_offsets: leaves a hole: expected to begin at 2, found 4"},
    {"a hole at the start", "{\"a\":" T("U8", "[2]", "2", "4") "}", 4, ML_CORRUPT,
     "tensor 'a': data_offsets: leaves a hole"},
    {"bytes behind the last tensor", "{\"a\":" T("U8", "[2]", "0", "2") "}", 3, ML_CORRUPT,
     "expected 2 bytes of tensors, found 3"},
    {"bytes without a tensor", "{}", 1, ML_CORRUPT, "expected 0 bytes of tensors, found 1"},
    {"metadata that is no object", "{\"__metadata__\":[]}", 0, ML_CORRUPT, "__metadata__: expected an object"},
    {"metadata that is no text", "{\"__metadata__\":{\"k\":1}}", 0, ML_CORRUPT, "__metadata__: 'k': expected a string"},
    {"metadata with a NUL", "{\"__metadata__\":{\"k\":\"a\\u0000\"}}", 0, ML_CORRUPT, "without U+0000"},
    {"a NUL in a name", "{\"a\\u0000\":" T("U8", "[0]", "0", "0") "}", 0, ML_CORRUPT, "U+0000 in key 'a'"},
};

static void test_damage(void) {
  ml_checkpoint *checkpoint;
  for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
    const damage *d = &damages[i];
    bytes b = {0};
    build(&b, d->header, d->bytes);
    if (!CHECK_FAILS(parse(&b, &checkpoint), d->status, d->message, "refused: %s", d->name)) {
      printf("# %s\n", ml_error_message());
    }
    CHECK(strncmp(ml_error_message(), "m.safetensors: ", 15) == 0, "the file is named: %s", d->name);
    bytes_free(&b);
  }
}

static void test_header_size(void) {
  static const struct {
    const char *name;
    uint64_t size;
    const char *message;
  } sizes[] = {{"larger than the file", 3, "at most 2 bytes, found 3"},
               {"one beyond the limit", 100000001, "header: expected at most"},
               {"all ones", UINT64_MAX, "found 18446744073709551615"},
               {"zero", 0, "expected '{'"}};
  ml_checkpoint *checkpoint;
  for (size_t i = 0; i < 4; i++) {
    bytes b = {0};
    put_u64(&b, sizes[i].size);
    put_text(&b, "{}");
    CHECK_FAILS(parse(&b, &checkpoint), ML_CORRUPT, sizes[i].message, "header size: %s", sizes[i].name);
    bytes_free(&b);
  }
  for (size_t n = 0; n < 10; n++) {
    bytes b = {0};
    put_u64(&b, 2);
    put_text(&b, "{}");
    b.size = n;
    CHECK_FAILS(parse(&b, &checkpoint), ML_CORRUPT, "m.safetensors", "a file of %zu bytes", n);
    bytes_free(&b);
  }
}

static void test_accepted(void) {
  ml_checkpoint *checkpoint;
  bytes b = {0};
  build(&b,
        "{\"b\":" T("F32", "[0,7]", "2", "2") ",\"a\":" T("I8", "[]", "0", "1") ",\"c\":" T(
            "BOOL", "[1]", "1", "2") ",\"__metadata__\":{\"z\":\"1\",\"a\":\"\"}}   ",
        2);
  if (CHECK_OK(parse(&b, &checkpoint), "empty and scalar tensors, padding")) {
    const ml_entry *a = ml_checkpoint_find(checkpoint, "a"), *empty = ml_checkpoint_find(checkpoint, "b");
    CHECK(checkpoint->n_entries == 3 && strcmp(checkpoint->entries[0].name, "a") == 0, "sorted by name");
    CHECK(a && a->ndim == 0 && a->bytes == 1 && a->dtype == ML_I8 && a->offset == b.size - 2, "a scalar");
    CHECK(empty && empty->bytes == 0 && empty->ndim == 2 && empty->shape[1] == 7, "an empty tensor");
    CHECK(!ml_checkpoint_find(checkpoint, "d") && !ml_checkpoint_find(checkpoint, ""), "no such tensor");
    CHECK(checkpoint->n_meta == 2 && strcmp(checkpoint->meta[0].key, "z") == 0, "metadata in the order of the file");
    ml_checkpoint_close(checkpoint);
  }
  bytes_free(&b);
  build(&b, "{\"__metadata__\":null}", 0);
  if (CHECK_OK(parse(&b, &checkpoint), "no tensors, metadata null")) {
    CHECK(checkpoint->n_entries == 0 && !ml_checkpoint_find(checkpoint, "a"), "an empty checkpoint");
    ml_checkpoint_close(checkpoint);
  }
  bytes_free(&b);
  ml_checkpoint_close(NULL);
}

/* ---- round trips ---- */

static const ml_dtype dtypes[] = {ML_F32, ML_F16, ML_BF16, ML_F64, ML_I8,  ML_U8,   ML_I16,
                                  ML_U16, ML_I32, ML_U32,  ML_I64, ML_U64, ML_BOOL, ML_F8_E4M3};
enum { N_DTYPES = sizeof dtypes / sizeof *dtypes };

/* One tensor of each dtype, shape (3, 2), written in reverse order of their names. */
static ml_status save_all(const char *path, const uint8_t *data) {
  static const int64_t shape[] = {3, 2};
  ml_save_item items[N_DTYPES];
  char names[N_DTYPES][32];
  for (int i = 0; i < N_DTYPES; i++) {
    snprintf(names[i], sizeof names[i], "%c \"%s\" \xc3\xa9", 'z' - i, ml_dtype_name(dtypes[i]));
    items[i] = (ml_save_item){names[i], dtypes[i], 2, shape, data + i, 6 * (size_t)ml_dtype_infos[dtypes[i]].bytes};
  }
  ml_meta meta[] = {{"format", "pt"}, {"a \\ key", "line\n\"two\""}};
  return ml_safetensors_save(path, items, N_DTYPES, meta, 2);
}

static void test_round_trip(void) {
  uint8_t data[100];
  for (int i = 0; i < 100; i++) data[i] = (uint8_t)(i * 7);
  const char *path = scratch_path("all.safetensors");
  CHECK_OK(save_all(path, data), "save all dtypes");
  ml_checkpoint *checkpoint;
  if (!CHECK_OK(ml_safetensors_open(path, &checkpoint), "open what was saved")) return;
  CHECK(checkpoint->n_entries == N_DTYPES && checkpoint->n_meta == 2, "all are there");
  CHECK(strcmp(checkpoint->meta[1].value, "line\n\"two\"") == 0, "metadata");
  size_t expected = 0;
  for (int i = 0; i < N_DTYPES; i++) {
    const ml_entry *entry = &checkpoint->entries[N_DTYPES - 1 - i];
    if (i == 0) {
      expected = entry->offset;
      CHECK(expected % 8 == 0, "the header is padded to 8 bytes");
    }
    CHECK(entry->dtype == dtypes[i] && entry->ndim == 2 && entry->shape[0] == 3 && entry->shape[1] == 2 &&
              entry->offset == expected && memcmp(entry->file->data + entry->offset, data + i, entry->bytes) == 0,
          "tensor %s", entry->name);
    expected += entry->bytes;
  }
  ml_checkpoint_close(checkpoint);
  CHECK_OK(ml_safetensors_save(path, NULL, 0, NULL, 0), "save nothing");
  if (CHECK_OK(ml_safetensors_open(path, &checkpoint), "open nothing")) ml_checkpoint_close(checkpoint);
}

static void test_save_errors(void) {
  const char *path = scratch_path("bad.safetensors");
  static const int64_t two[] = {2}, block[] = {32}, negative[] = {-1};
  uint8_t data[64] = {0};
  const ml_save_item good = {"a", ML_U8, 1, two, data, 2};
  ml_save_item items[2] = {good, good};
  CHECK_FAILS(ml_safetensors_save(path, items, 2, NULL, 0), ML_USAGE, "tensor 'a': given twice", "a name twice");
  items[0] = (ml_save_item){"q", ML_Q4_0, 1, block, data, 18};
  CHECK_FAILS(ml_safetensors_save(path, items, 1, NULL, 0), ML_UNSUPPORTED, "tensor 'q': safetensors cannot hold q4_0",
              "a block format");
  items[0] = (ml_save_item){"a", ML_U8, 1, two, data, 3};
  CHECK_FAILS(ml_safetensors_save(path, items, 1, NULL, 0), ML_USAGE, "tensor 'a'", "bytes that do not fit the shape");
  items[0] = (ml_save_item){"a", ML_U8, 1, negative, data, 0};
  CHECK_FAILS(ml_safetensors_save(path, items, 1, NULL, 0), ML_USAGE, "tensor 'a'", "a negative dimension");
  items[0] = (ml_save_item){"a", ML_U8, 9, two, data, 2};
  CHECK_FAILS(ml_safetensors_save(path, items, 1, NULL, 0), ML_USAGE, "at most 8", "nine dimensions");
  items[0] = (ml_save_item){"__metadata__", ML_U8, 1, two, data, 2};
  CHECK_FAILS(ml_safetensors_save(path, items, 1, NULL, 0), ML_USAGE, "reserved", "a reserved name");
  items[0] = (ml_save_item){"\xff", ML_U8, 1, two, data, 2};
  CHECK_FAILS(ml_safetensors_save(path, items, 1, NULL, 0), ML_USAGE, "UTF-8", "a name that is not UTF-8");
  ml_meta meta[] = {{"k", "1"}, {"k", "2"}};
  CHECK_FAILS(ml_safetensors_save(path, &good, 1, meta, 2), ML_USAGE, "metadata key 'k': given twice", "a key twice");
  CHECK(strstr(ml_error_message(), path), "the file is named");
  CHECK(!ml_path_exists(path), "nothing was written");
}

/* ---- directories ---- */

static void save_one(const char *path, const char *name) {
  static const int64_t shape[] = {2};
  ml_save_item item = {name, ML_U8, 1, shape, "ab", 2};
  ml_meta meta = {"of", (char *)(uintptr_t)name};
  if (ml_safetensors_save(path, &item, 1, &meta, 1) != ML_OK) exit(100);
}

/* A new folder with the shards model-1 (tensor x) and model-2 (tensor y). */
static const char *make_shards(const char *name) {
  char path[600];
  const char *folder = scratch_path(name);
  mkdir(folder, 0700);
  snprintf(path, sizeof path, "%s/model-1.safetensors", folder);
  save_one(path, "x");
  snprintf(path, sizeof path, "%s/model-2.safetensors", folder);
  save_one(path, "y");
  return folder;
}

static void put_index(const char *folder, const char *map) {
  char path[700], text[600];
  snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
  snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":4},\"weight_map\":%s}", map);
  if (ml_file_write(path, text, strlen(text)) != ML_OK) exit(100);
}

static void test_directory(void) {
  ml_checkpoint *checkpoint;
  const char *folder = make_shards("shards");
  if (CHECK_OK(ml_safetensors_open_directory(folder, &checkpoint), "shards without an index")) {
    const ml_entry *y = ml_checkpoint_find(checkpoint, "y");
    CHECK(checkpoint->n_files == 2 && checkpoint->n_entries == 2 && y && strstr(y->file->path, "model-2"),
          "both are read");
    CHECK(checkpoint->n_meta == 1 && strcmp(checkpoint->meta[0].value, "x") == 0, "the first shard's metadata");
    ml_checkpoint_close(checkpoint);
  }
  put_index(folder, "{\"x\":\"model-1.safetensors\",\"y\":\"model-2.safetensors\"}");
  if (CHECK_OK(ml_safetensors_open_directory(folder, &checkpoint), "shards with an index")) {
    CHECK(checkpoint->n_files == 2 && checkpoint->n_entries == 2, "both are read by the index");
    ml_checkpoint_close(checkpoint);
  }
  char path[600];
  snprintf(path, sizeof path, "%s/model.safetensors", folder);
  save_one(path, "z");
  if (CHECK_OK(ml_safetensors_open_directory(folder, &checkpoint), "model.safetensors comes first")) {
    CHECK(checkpoint->n_entries == 1 && ml_checkpoint_find(checkpoint, "z"), "and is alone");
    ml_checkpoint_close(checkpoint);
  }
  folder = scratch_path("bare");
  mkdir(folder, 0700);
  snprintf(path, sizeof path, "%s/adapters.safetensors", folder);
  save_one(path, "x");
  CHECK_FAILS(ml_safetensors_open_directory(folder, &checkpoint), ML_NOT_FOUND, folder,
              "other files are not looked at");
  CHECK_FAILS(ml_safetensors_open_directory(scratch_path("no"), &checkpoint), ML_NOT_FOUND, "no", "no such folder");
}

static void test_index_damage(void) {
  static const struct {
    const char *name, *map;
    ml_status status;
    const char *message;
  } maps[] = {
      {"no map", "null", ML_CORRUPT, "weight_map: expected an object, found null"},
      {"a shard that is a number", "{\"x\":1}", ML_CORRUPT, "'x': expected the plain name"},
      {"a path out of the folder", "{\"x\":\"../shards/model-1.safetensors\"}", ML_CORRUPT,
       "'x': expected the plain name"},
      {"an absolute path", "{\"x\":\"/etc/x.safetensors\"}", ML_CORRUPT, "plain name"},
      {"a backslash", "{\"x\":\"..\\\\x.safetensors\"}", ML_CORRUPT, "plain name"},
      {"a NUL in the name", "{\"x\":\"a\\u0000.safetensors\"}", ML_CORRUPT, "plain name"},
      {"dots", "{\"x\":\"..\"}", ML_CORRUPT, "plain name"},
      {"another kind of file", "{\"x\":\"config.json\"}", ML_CORRUPT, "plain name"},
      {"a shard that is not there", "{\"x\":\"model-3.safetensors\"}", ML_NOT_FOUND, "model-3.safetensors"},
      {"a weight in another shard", "{\"x\":\"model-2.safetensors\",\"y\":\"model-2.safetensors\"}", ML_MISMATCH,
       "tensor 'x' is not in model-2.safetensors"},
      {"a weight that is not there",
       "{\"x\":\"model-1.safetensors\",\"y\":\"model-2.safetensors\",\"w\":\"model-1.safetensors\"}", ML_MISMATCH,
       "tensor 'w' is not in model-1.safetensors"},
      {"a weight that is not mapped", "{\"w\":\"model-1.safetensors\"}", ML_MISMATCH, "tensor 'w'"},
  };
  char folder[600];
  snprintf(folder, sizeof folder, "%s", make_shards("damaged"));
  ml_checkpoint *checkpoint;
  for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
    put_index(folder, maps[i].map);
    CHECK_FAILS(ml_safetensors_open_directory(folder, &checkpoint), maps[i].status, maps[i].message, "index: %s",
                maps[i].name);
  }
  char path[700];
  snprintf(path, sizeof path, "%s/model-2.safetensors", folder);
  save_one(path, "x");
  put_index(folder, "{\"x\":\"model-1.safetensors\",\"y\":\"model-2.safetensors\"}");
  CHECK_FAILS(ml_safetensors_open_directory(folder, &checkpoint), ML_CORRUPT, "tensor 'x': duplicate name, also in",
              "one tensor in two shards");
  static const int64_t shape[] = {1};
  ml_save_item both[] = {{"y", ML_U8, 1, shape, "a", 1}, {"v", ML_U8, 1, shape, "a", 1}};
  CHECK_OK(ml_safetensors_save(path, both, 2, NULL, 0), "a shard of two");
  CHECK_FAILS(ml_safetensors_open_directory(folder, &checkpoint), ML_MISMATCH, "tensor 'v' is not in the weight_map",
              "a tensor that the index leaves out");
}

static ml_status refused(void *folder) {
  static const int64_t shape[] = {2};
  ml_save_item items[] = {{"a", ML_U8, 1, shape, "ab", 2}, {"b", ML_U8, 1, shape, "ab", 2}};
  ml_meta meta = {"format", "pt"};
  char path[700];
  ml_checkpoint *checkpoint;
  snprintf(path, sizeof path, "%s/other.safetensors", (char *)folder);
  ML_TRY(ml_safetensors_save(path, items, 2, &meta, 1));
  ML_TRY(ml_safetensors_open(path, &checkpoint));
  ml_checkpoint_close(checkpoint);
  ML_TRY(ml_safetensors_open_directory(folder, &checkpoint));
  ml_checkpoint_close(checkpoint);
  return ML_OK;
}

int main(void) {
  test_damage();
  test_header_size();
  test_accepted();
  test_round_trip();
  test_save_errors();
  test_directory();
  test_index_damage();
  char folder[600];
  snprintf(folder, sizeof folder, "%s", make_shards("refused"));
  check_refusals(refused, folder, "shards by name");
  put_index(folder, "{\"x\":\"model-1.safetensors\",\"y\":\"model-2.safetensors\"}");
  check_refusals(refused, folder, "shards by index");
  return check_done();
}
