/* test_gguf.c: reading GGUF, and every kind of damage. */
#include "io/gguf.h"
#include "scratch.h"

/* ---- files made by hand ---- */

static void put_string(bytes *b, const char *text) {
  put_u64(b, strlen(text));
  put_text(b, text);
}

static void put_header(bytes *b, uint32_t version, uint64_t n_tensors, uint64_t n_pairs) {
  put_text(b, "GGUF");
  put_u32(b, version);
  put_u64(b, n_tensors);
  put_u64(b, n_pairs);
}

static void put_key(bytes *b, const char *key, uint32_t type) {
  put_string(b, key);
  put_u32(b, type);
}

static void put_array(bytes *b, const char *key, uint32_t item_type, uint64_t n) {
  put_key(b, key, ML_GGUF_ARRAY);
  put_u32(b, item_type);
  put_u64(b, n);
}

static void put_tensor(bytes *b, const char *name, uint32_t n_dims, const uint64_t *dims, uint32_t type,
                       uint64_t offset) {
  put_string(b, name);
  put_u32(b, n_dims);
  for (uint32_t i = 0; i < n_dims; i++) put_u64(b, dims[i]);
  put_u32(b, type);
  put_u64(b, offset);
}

/* Zeros up to the next multiple, then `n` counted bytes. */
static void put_data(bytes *b, size_t alignment, size_t n) {
  while (b->size % alignment != 0) put(b, "", 1);
  for (size_t i = 0; i < n; i++) put(b, &(uint8_t){(uint8_t)i}, 1);
}

static const uint64_t dims_32_2[] = {32, 2}, dims_4[] = {4}, dims_4d[] = {32, 3, 2, 1};

/* ---- what must be read ---- */

static void put_pairs(bytes *b) {
  put_key(b, "u8", ML_GGUF_UINT8), put(b, "\xff", 1);
  put_key(b, "i8", ML_GGUF_INT8), put(b, "\xff", 1);
  put_key(b, "u16", ML_GGUF_UINT16), put(b, "\xff\xff", 2);
  put_key(b, "i16", ML_GGUF_INT16), put(b, "\xfe\xff", 2);
  put_key(b, "u32", ML_GGUF_UINT32), put_u32(b, 4000000000u);
  put_key(b, "i32", ML_GGUF_INT32), put_u32(b, (uint32_t)-5);
  put_key(b, "f32", ML_GGUF_FLOAT32), put(b, &(float){1.5f}, 4);
  put_key(b, "yes", ML_GGUF_BOOL), put(b, "\1", 1);
  put_key(b, "text", ML_GGUF_STRING), put_string(b, "some text");
  put_key(b, "u64", ML_GGUF_UINT64), put_u64(b, UINT64_MAX);
  put_key(b, "i64", ML_GGUF_INT64), put_u64(b, (uint64_t)INT64_MIN);
  put_key(b, "f64", ML_GGUF_FLOAT64), put(b, &(double){-0.1}, 8);
  put_array(b, "strings", ML_GGUF_STRING, 3), put_string(b, "a"), put_string(b, ""), put_string(b, "ccc");
  put_array(b, "i16s", ML_GGUF_INT16, 2), put(b, "\xff\xff\1\0", 4);
  put_array(b, "floats", ML_GGUF_FLOAT32, 1), put(b, &(float){0.25f}, 4);
  put_array(b, "u64s", ML_GGUF_UINT64, 2), put_u64(b, 7), put_u64(b, UINT64_MAX);
  put_array(b, "bools", ML_GGUF_BOOL, 2), put(b, "\0\1", 2);
  put_array(b, "none", ML_GGUF_STRING, 0);
}
enum { N_PAIRS = 18 };

static void build_good(bytes *b, uint32_t version, uint32_t alignment) {
  put_header(b, version, 4, N_PAIRS + 1);
  put_pairs(b);
  put_key(b, "general.alignment", ML_GGUF_UINT32), put_u32(b, alignment);
  put_tensor(b, "blocks", 2, dims_32_2, 2, 0);     /* Q4_0: 2 * 18 bytes */
  put_tensor(b, "deep", 4, dims_4d, 8, 128);       /* Q8_0: 6 * 34 bytes */
  put_tensor(b, "scalar", 0, NULL, 0, 384);        /* F32 */
  put_tensor(b, "a plain one", 1, dims_4, 30, 64); /* BF16: 8 bytes */
  put_data(b, alignment, 388);
}

static ml_status parse(const bytes *b, ml_gguf **out) {
  uint8_t *exact = malloc(b->size ? b->size : 1); /* so that a sanitizer sees an access beyond it */
  if (b->size > 0) memcpy(exact, b->data, b->size);
  ml_file *file;
  ml_status status = ml_file_from_memory("m.gguf", exact, b->size, &file);
  if (status == ML_OK) status = ml_gguf_parse(file, out);
  if (status != ML_OK) free(exact);
  return status;
}

static void close_parsed(ml_gguf *gguf) {
  void *data = (void *)(uintptr_t)gguf->checkpoint.files[0]->data;
  ml_gguf_close(gguf);
  free(data);
}

static void check_scalars(const ml_gguf *g) {
  CHECK(ml_gguf_get(g, "u8")->as.u == 255 && ml_gguf_get(g, "i8")->as.i == -1, "8 bits");
  CHECK(ml_gguf_get(g, "u16")->as.u == 65535 && ml_gguf_get(g, "i16")->as.i == -2, "16 bits");
  CHECK(ml_gguf_get(g, "u32")->as.u == 4000000000u && ml_gguf_get(g, "i32")->as.i == -5, "32 bits");
  CHECK(ml_gguf_get(g, "u64")->as.u == UINT64_MAX && ml_gguf_get(g, "i64")->as.i == INT64_MIN, "64 bits");
  CHECK(ml_gguf_get(g, "f32")->as.f == 1.5 && ml_gguf_get(g, "f64")->as.f == -0.1, "floats");
  CHECK(ml_gguf_get(g, "yes")->as.b && ml_gguf_get(g, "yes")->type == ML_GGUF_BOOL, "a bool");
  const ml_gguf_value *text = ml_gguf_get(g, "text");
  CHECK(text->type == ML_GGUF_STRING && text->length == 9 && memcmp(text->data, "some text", 9) == 0, "a string");
  CHECK(!ml_gguf_get(g, "absent"), "an absent key");
  CHECK(strcmp(g->pairs[0].key, "u8") == 0 && strcmp(g->pairs[N_PAIRS].key, "general.alignment") == 0, "order of keys");
}

static void check_arrays(const ml_gguf *g) {
  const ml_gguf_value *strings = ml_gguf_get(g, "strings"), *i16s = ml_gguf_get(g, "i16s");
  const ml_gguf_value *floats = ml_gguf_get(g, "floats"), *u64s = ml_gguf_get(g, "u64s");
  size_t size = 9;
  int64_t i = 0;
  double f = 0;
  const char *text = ml_gguf_string_at(g, strings, 2, &size);
  CHECK(strings->length == 3 && size == 3 && memcmp(text, "ccc", 3) == 0, "an array of strings");
  CHECK(ml_gguf_string_at(g, strings, 1, &size) && size == 0, "an empty string in it");
  CHECK(!ml_gguf_string_at(g, strings, 3, &size) && !ml_gguf_string_at(g, i16s, 0, &size), "no such string");
  CHECK(ml_gguf_int_at(i16s, 0, &i) == ML_OK && i == -1, "an array of int16");
  CHECK(ml_gguf_float_at(i16s, 1, &f) == ML_OK && f == 1.0, "an integer as a float");
  CHECK(ml_gguf_float_at(floats, 0, &f) == ML_OK && f == 0.25, "an array of floats");
  CHECK(ml_gguf_int_at(u64s, 0, &i) == ML_OK && i == 7, "an array of uint64");
  CHECK(ml_gguf_int_at(ml_gguf_get(g, "bools"), 1, &i) == ML_OK && i == 1, "an array of bools");
  CHECK_FAILS(ml_gguf_int_at(u64s, 1, &i), ML_MISMATCH, "18446744073709551615", "a uint64 beyond int64");
  CHECK_FAILS(ml_gguf_int_at(floats, 0, &i), ML_MISMATCH, "found floats", "a float is no integer");
  CHECK_FAILS(ml_gguf_int_at(i16s, 2, &i), ML_MISMATCH, "expected item 2, the array has 2", "an item beyond the end");
  CHECK_FAILS(ml_gguf_float_at(strings, 0, &f), ML_MISMATCH, "array of numbers", "a string is no number");
  CHECK_FAILS(ml_gguf_int_at(ml_gguf_get(g, "u8"), 0, &i), ML_MISMATCH, "array of numbers", "a scalar is no array");
}

static void check_tensors(const ml_gguf *g, size_t size) {
  const ml_checkpoint *c = &g->checkpoint;
  const ml_entry *blocks = ml_checkpoint_find(c, "blocks"), *deep = ml_checkpoint_find(c, "deep");
  const ml_entry *scalar = ml_checkpoint_find(c, "scalar"), *plain = ml_checkpoint_find(c, "a plain one");
  size_t data = size - 388;
  CHECK(c->n_entries == 4 && blocks && deep && scalar && plain, "all tensors");
  CHECK(blocks->dtype == ML_Q4_0 && blocks->bytes == 36 && blocks->offset == data, "blocks of Q4_0");
  CHECK(deep->ndim == 4 && deep->shape[0] == 1 && deep->shape[1] == 2 && deep->shape[2] == 3 && deep->shape[3] == 32,
        "dims are turned round");
  CHECK(deep->bytes == 204 && deep->offset == data + 128, "its place");
  CHECK(scalar->ndim == 0 && scalar->bytes == 4 && scalar->offset + 4 == size, "a scalar at the end of the file");
  CHECK(plain->dtype == ML_BF16 && plain->bytes == 8 && plain->file->data[plain->offset] == 64, "its bytes");
}

static void test_good(void) {
  for (uint32_t version = 2; version <= 3; version++) {
    bytes b = {0};
    build_good(&b, version, version == 2 ? 32 : 64);
    ml_gguf *gguf;
    if (CHECK_OK(parse(&b, &gguf), "version %u", version)) {
      CHECK(gguf->version == version && gguf->alignment == (version == 2 ? 32 : 64), "version and alignment");
      check_scalars(gguf);
      check_arrays(gguf);
      check_tensors(gguf, b.size);
      close_parsed(gguf);
    }
    bytes_free(&b);
  }
  bytes b = {0};
  ml_gguf *gguf;
  put_header(&b, 3, 0, 0);
  if (CHECK_OK(parse(&b, &gguf), "no keys, no tensors")) close_parsed(gguf);
  bytes_free(&b);
  ml_gguf_close(NULL);
}

/* More metadata than is read at first: 3 MB of strings before and 3 MB behind the end of the first part of the head. */
static void test_long_head(void) {
  char *item = malloc(3 << 20);
  memset(item, 'x', 3 << 20);
  bytes b = {0};
  put_header(&b, 3, 1, 4);
  for (int i = 0; i < 4; i++) {
    put_key(&b, (const char *[]){"a", "b", "c", "d"}[i], ML_GGUF_STRING);
    put_u64(&b, 3 << 20);
    put(&b, item, 3 << 20);
  }
  put_tensor(&b, "t", 1, dims_4, 0, 0);
  put_data(&b, 32, 16);
  ml_gguf *gguf;
  if (CHECK_OK(parse(&b, &gguf), "12 MB of metadata")) {
    const ml_gguf_value *last = ml_gguf_get(gguf, "d");
    CHECK(gguf->n_pairs == 4 && last && last->length == 3 << 20 && last->data[last->length - 1] == 'x', "its last key");
    CHECK(gguf->checkpoint.n_entries == 1, "and its tensor");
    close_parsed(gguf);
  }
  b.size -= 17;
  CHECK_FAILS(parse(&b, &gguf), ML_CORRUPT, "tensor 't'", "and cut short");
  bytes_free(&b);
  free(item);
}

/* Each cut is refused, and nothing is read beyond it. */
static void test_truncation(void) {
  bytes b = {0};
  build_good(&b, 3, 64);
  size_t whole = b.size;
  int accepted = 0;
  for (b.size = 0; b.size < whole; b.size++) {
    ml_gguf *gguf;
    ml_status status = parse(&b, &gguf);
    if (status == ML_OK) close_parsed(gguf);
    accepted += status != ML_CORRUPT || strncmp(ml_error_message(), "m.gguf: ", 8) != 0;
  }
  CHECK(accepted == 0, "each of %zu truncations is corrupt, and the file named", whole);
  b.size = whole;
  bytes_free(&b);
}

/* ---- damage ---- */

/* Each builds a file into `b`. */
static void no_magic(bytes *b) { put_text(b, "GGUX\3\0\0\0"), put_u64(b, 0), put_u64(b, 0); }
static void version_1(bytes *b) { put_header(b, 1, 0, 0); }
static void version_4(bytes *b) { put_header(b, 4, 0, 0); }
static void big_endian(bytes *b) { put_header(b, 0x03000000, 0, 0); }
static void many_tensors(bytes *b) { put_header(b, 3, UINT64_MAX, 0); }
static void many_keys(bytes *b) { put_header(b, 3, 0, 1ull << 60), put_data(b, 1, 1000); }
static void key_too_long(bytes *b) { put_header(b, 3, 0, 1), put_u64(b, UINT64_MAX - 3), put_data(b, 1, 100); }
static void key_empty(bytes *b) { put_header(b, 3, 0, 1), put_key(b, "", ML_GGUF_UINT8), put(b, "\1", 1); }
static void key_with_nul(bytes *b) {
  put_header(b, 3, 0, 1), put_u64(b, 3), put(b, "a\0b", 3), put_u32(b, ML_GGUF_UINT32), put_u32(b, 1);
}
static void key_twice(bytes *b) {
  put_header(b, 3, 0, 3);
  put_key(b, "k", ML_GGUF_UINT32), put_u32(b, 1);
  put_key(b, "l", ML_GGUF_UINT32), put_u32(b, 1);
  put_key(b, "k", ML_GGUF_UINT32), put_u32(b, 1);
}
static void value_type(bytes *b) { put_header(b, 3, 0, 1), put_key(b, "k", 13), put_u64(b, 0); }
static void bool_of_two(bytes *b) { put_header(b, 3, 0, 1), put_key(b, "k", ML_GGUF_BOOL), put(b, "\2", 1); }
static void string_too_long(bytes *b) {
  put_header(b, 3, 0, 1), put_key(b, "k", ML_GGUF_STRING), put_u64(b, 1ull << 63), put_data(b, 1, 20);
}
static void array_type(bytes *b) { put_header(b, 3, 0, 1), put_array(b, "k", 99, 0); }
static void array_of_arrays(bytes *b) { put_header(b, 3, 0, 1), put_array(b, "k", ML_GGUF_ARRAY, 0); }
static void array_too_long(bytes *b) {
  put_header(b, 3, 0, 1), put_array(b, "k", ML_GGUF_UINT64, (1ull << 61) + 1), put_data(b, 1, 100);
}
static void strings_too_many(bytes *b) {
  put_header(b, 3, 0, 1), put_array(b, "k", ML_GGUF_STRING, 1ull << 61), put_data(b, 1, 100);
}
static void string_in_array(bytes *b) {
  put_header(b, 3, 0, 1), put_array(b, "k", ML_GGUF_STRING, 2), put_string(b, "a"), put_u64(b, UINT64_MAX);
}
static void bools_of_three(bytes *b) { put_header(b, 3, 0, 1), put_array(b, "k", ML_GGUF_BOOL, 2), put(b, "\1\3", 2); }
static void with_alignment(bytes *b, uint32_t alignment) {
  put_header(b, 3, 1, 1), put_key(b, "general.alignment", ML_GGUF_UINT32), put_u32(b, alignment);
  put_tensor(b, "t", 1, dims_4, 0, 0), put_data(b, 32, 16);
}
static void alignment_0(bytes *b) { with_alignment(b, 0); }
static void alignment_24(bytes *b) { with_alignment(b, 24); }
static void alignment_huge(bytes *b) { with_alignment(b, 1u << 31); }
static void alignment_type(bytes *b) {
  put_header(b, 3, 0, 1), put_key(b, "general.alignment", ML_GGUF_UINT64), put_u64(b, 32);
}
static void split(bytes *b) { put_header(b, 3, 0, 1), put_key(b, "split.count", ML_GGUF_UINT16), put(b, "\3\0", 2); }

static void one_tensor(bytes *b, uint32_t n_dims, const uint64_t *dims, uint32_t type, uint64_t offset, size_t n) {
  put_header(b, 3, 1, 0);
  put_tensor(b, "t", n_dims, dims, type, offset);
  put_data(b, 32, n);
}
static void dims_5(bytes *b) { one_tensor(b, 5, (uint64_t[]){1, 1, 1, 1, 1}, 0, 0, 4); }
static void dims_many(bytes *b) {
  put_header(b, 3, 1, 0), put_string(b, "t"), put_u32(b, UINT32_MAX), put_data(b, 1, 100);
}
static void dim_negative(bytes *b) { one_tensor(b, 1, (uint64_t[]){UINT64_MAX}, 0, 0, 64); }
static void dims_overflow(bytes *b) { one_tensor(b, 3, (uint64_t[]){1ull << 32, 1ull << 32, 1ull << 32}, 24, 0, 64); }
static void bytes_overflow(bytes *b) { one_tensor(b, 2, (uint64_t[]){4, 1ull << 60}, 0, 0, 64); }
static void half_block(bytes *b) { one_tensor(b, 2, (uint64_t[]){33, 1}, 2, 0, 64); }
static void scalar_block(bytes *b) { one_tensor(b, 0, NULL, 12, 0, 200); }
static void type_unknown(bytes *b) { one_tensor(b, 1, dims_4, 77, 0, 16); }
static void type_hole(bytes *b) { one_tensor(b, 1, dims_4, 4, 0, 16); }
static void type_iq(bytes *b) { one_tensor(b, 1, dims_4, 20, 0, 16); }
static void offset_odd(bytes *b) { one_tensor(b, 1, dims_4, 0, 8, 64); }
static void offset_huge(bytes *b) { one_tensor(b, 1, dims_4, 0, UINT64_MAX - 31, 64); }
static void offset_beyond(bytes *b) { one_tensor(b, 1, dims_4, 0, 64, 64); }
static void data_short(bytes *b) { one_tensor(b, 1, dims_4, 0, 32, 47); }
static void name_empty(bytes *b) { put_header(b, 3, 1, 0), put_tensor(b, "", 1, dims_4, 0, 0), put_data(b, 32, 16); }
static void two_tensors(bytes *b, const char *second, uint64_t offset) {
  put_header(b, 3, 2, 0);
  put_tensor(b, "t", 2, dims_32_2, 24, 0);
  put_tensor(b, second, 2, dims_32_2, 24, offset);
  put_data(b, 32, 128);
}
static void name_twice(bytes *b) { two_tensors(b, "t", 64); }
static void overlap(bytes *b) { two_tensors(b, "u", 32); }
static void same_place(bytes *b) { two_tensors(b, "u", 0); }

static const struct {
  const char *name;
  void (*build)(bytes *b);
  ml_status status;
  const char *message;
} damages[] = {
    {"other first bytes", no_magic, ML_CORRUPT, "expected a GGUF file"},
    {"version 1", version_1, ML_UNSUPPORTED, "version 2 or 3, found 1"},
    {"version 4", version_4, ML_UNSUPPORTED, "version 2 or 3, found 4"},
    {"big-endian", big_endian, ML_UNSUPPORTED, "big-endian"},
    {"2^64-1 tensors", many_tensors, ML_CORRUPT, "number of tensors: the file is too short for 18446744073709551615"},
    {"2^60 keys", many_keys, ML_CORRUPT, "number of keys: the file is too short"},
    {"a key of 2^64-4 bytes", key_too_long, ML_CORRUPT, "truncated: key"},
    {"an empty key", key_empty, ML_CORRUPT, "key at byte 24"},
    {"a key with a NUL", key_with_nul, ML_CORRUPT, "without NUL, found 3 with one"},
    {"a key twice", key_twice, ML_CORRUPT, "key 'k': duplicate"},
    {"an unknown value type", value_type, ML_CORRUPT, "key 'k': unknown type 13"},
    {"a bool of 2", bool_of_two, ML_CORRUPT, "key 'k': expected a bool of 0 or 1, found 2"},
    {"a string of 2^63 bytes", string_too_long, ML_CORRUPT, "truncated: k: expected 9223372036854775808 bytes"},
    {"an unknown item type", array_type, ML_CORRUPT, "key 'k': unknown type of array items 99"},
    {"an array of arrays", array_of_arrays, ML_UNSUPPORTED, "key 'k': an array of arrays"},
    {"an array whose size overflows", array_too_long, ML_CORRUPT,
     "key 'k': the file is too short for an array of 2305843009213693953"},
    {"2^61 strings", strings_too_many, ML_CORRUPT, "key 'k': the file is too short for an array of"},
    {"a string that is cut off", string_in_array, ML_CORRUPT, "truncated: k"},
    {"an array of bools with a 3", bools_of_three, ML_CORRUPT, "key 'k': expected a bool"},
    {"alignment 0", alignment_0, ML_CORRUPT, "general.alignment"},
    {"alignment 24", alignment_24, ML_CORRUPT, "general.alignment"},
    {"alignment 2^31", alignment_huge, ML_CORRUPT, "tensor 't'"},
    {"an alignment of another type", alignment_type, ML_CORRUPT, "general.alignment"},
    {"one part of three", split, ML_UNSUPPORTED, "one of 3 parts"},
    {"five dims", dims_5, ML_CORRUPT, "tensor 't': expected at most 4 dimensions, found 5"},
    {"2^32-1 dims", dims_many, ML_CORRUPT, "tensor 't': expected at most 4 dimensions, found 4294967295"},
    {"a dim of 2^64-1", dim_negative, ML_CORRUPT, "tensor 't': dimension 0 is 18446744073709551615"},
    {"dims whose product overflows", dims_overflow, ML_CORRUPT, "tensor 't': its size overflows"},
    {"a size that overflows", bytes_overflow, ML_CORRUPT, "tensor 't'"},
    {"rows of half a block", half_block, ML_CORRUPT, "no whole blocks of q4_0"},
    {"a scalar of a block format", scalar_block, ML_CORRUPT, "no whole blocks of q4_k"},
    {"an unknown tensor type", type_unknown, ML_UNSUPPORTED, "tensor 't': type 77 is not known"},
    {"a tensor type that ggml removed", type_hole, ML_UNSUPPORTED, "tensor 't': type 4 is not known"},
    {"a tensor type that is not supported", type_iq, ML_UNSUPPORTED, "tensor 't': type IQ4_NL is not supported"},
    {"an offset that is not aligned", offset_odd, ML_CORRUPT, "tensor 't': offset: expected a multiple of 32"},
    {"an offset near 2^64", offset_huge, ML_CORRUPT, "tensor 't': offset"},
    {"a tensor behind the end", offset_beyond, ML_CORRUPT, "tensor 't': expected 16 bytes at"},
    {"a tensor one byte too long", data_short, ML_CORRUPT, "tensor 't': expected 16 bytes at"},
    {"a tensor without a name", name_empty, ML_CORRUPT, "tensor name at byte 24"},
    {"a name twice", name_twice, ML_CORRUPT, "tensor 't': duplicate name"},
    {"an overlap", overlap, ML_CORRUPT, "tensor 'u': overlaps tensor 't'"},
    {"two tensors on the same bytes", same_place, ML_CORRUPT, "overlaps tensor"},
};

static void test_damage(void) {
  for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
    bytes b = {0};
    ml_gguf *gguf;
    damages[i].build(&b);
    CHECK_FAILS(parse(&b, &gguf), damages[i].status, damages[i].message, "refused: %s", damages[i].name);
    CHECK(strncmp(ml_error_message(), "m.gguf: ", 8) == 0, "the file is named: %s", damages[i].name);
    bytes_free(&b);
  }
}

/* ---- real files ---- */

static void test_real(const char *file, size_t n_tensors, const char *architecture) {
  const char *path = check_checkpoint(file, file);
  if (!path) return;
  ml_gguf *gguf;
  if (!CHECK_OK(ml_gguf_open(path, &gguf), "open %s", file)) return;
  const ml_gguf_value *name = ml_gguf_get(gguf, "general.architecture");
  CHECK(name && name->length == strlen(architecture) && memcmp(name->data, architecture, name->length) == 0,
        "architecture");
  CHECK(gguf->checkpoint.n_entries == n_tensors && ml_checkpoint_find(&gguf->checkpoint, "token_embd.weight"),
        "tensors");
  ml_gguf_close(gguf);
}

static ml_status refused(void *path) {
  ml_gguf *gguf;
  ML_TRY(ml_gguf_open(path, &gguf));
  ml_gguf_close(gguf);
  return ML_OK;
}

static void damage_body(void *unused) {
  (void)unused;
  for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
    bytes b = {0};
    ml_gguf *gguf;
    damages[i].build(&b);
    parse(&b, &gguf);
    bytes_free(&b);
  }
}

int main(void) {
  test_good();
  test_long_head();
  test_truncation();
  test_damage();
  test_real("SmolLM2-135M-Instruct.gguf", 272, "llama");
  test_real("gemma-3-270m.gguf", 236, "gemma3");
  bytes b = {0};
  build_good(&b, 3, 32);
  char path[600];
  snprintf(path, sizeof path, "%s", scratch_file("good.gguf", b.data, b.size));
  bytes_free(&b);
  check_refusals(refused, path, "GGUF");
  check_no_leak(damage_body, NULL, "refused GGUF");
  return check_done();
}
