/* json.c: a strict reader that fills json-c's tree, and access to that tree.
 *
 * json-c's own tokener is lax where it matters here (the last of two equal keys wins, large integers are clamped,
 * ill-formed UTF-8 and lone surrogates pass), so the text is read by the parser below, straight into json-c's values.
 * The grammar is RFC 8259's. Every value is charged to a budget, since a text of empty objects takes 300 times its size
 * as a tree. */
#include "io/json.h"

#include "base/numeric.h"
#include "io/file.h"
#include "io/utf8.h"

#include <json-c/json.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  MAX_DEPTH = 128,
  MAX_TEXT = 512 << 20, /* bytes; json-c counts a string's in an int */
  MAX_TREE = 1 << 30,   /* estimated bytes */
  /* Estimates of what json-c 0.16 allocates, malloc's overhead included. */
  COST_VALUE = 64,
  COST_OBJECT = 800,
  COST_ARRAY = 128,
  COST_MEMBER = 128,
  SHOWN_BYTES = 80, /* of a key, in a message */
};

struct ml_json_doc {
  json_object *root;
  char *source;
};

typedef struct parser {
  const char *start, *at, *end;
  const char *source;
  bool python; /* takes NaN and infinities */
  int depth;
  size_t cost;
  char *scratch; /* the string or number being read, unescaped and NUL-terminated */
  size_t scratch_capacity;
} parser;

/* ---- errors ---- */

/* Reports at `p->at`, by line and column (in bytes, from 1). */
static ml_status fail_here(const parser *p, const char *what) {
  size_t line = 1;
  const char *line_start = p->start;
  for (const char *c = p->start; c < p->at; c++) {
    if (*c == '\n') line++, line_start = c + 1;
  }
  return ml_fail(ML_CORRUPT, "%s: line %zu, column %zu: %s", p->source, line, (size_t)(p->at - line_start) + 1, what);
}

static ml_status fail_expected(const parser *p, const char *expected) {
  char what[160];
  if (p->at >= p->end) {
    snprintf(what, sizeof what, "expected %s, found the end", expected);
  } else if (*p->at > ' ' && *p->at < 0x7f) {
    snprintf(what, sizeof what, "expected %s, found '%c'", expected, *p->at);
  } else {
    snprintf(what, sizeof what, "expected %s, found byte 0x%02x", expected, (unsigned char)*p->at);
  }
  return fail_here(p, what);
}

static ml_status fail_memory(const parser *p) { return ml_fail(ML_MEMORY, "%s: out of memory", p->source); }

static ml_status charge(parser *p, size_t cost) {
  p->cost += cost;
  if (p->cost <= MAX_TREE) return ML_OK;
  return ml_fail(ML_LIMIT, "%s: the values would take more than %d MiB", p->source, MAX_TREE >> 20);
}

/* ---- scanning ---- */

static void skip_space(parser *p) {
  while (p->at < p->end && (*p->at == ' ' || *p->at == '\n' || *p->at == '\t' || *p->at == '\r')) p->at++;
}

static bool accept(parser *p, char c) {
  if (p->at >= p->end || *p->at != c) return false;
  p->at++;
  return true;
}

static bool is_digit(const parser *p) { return p->at < p->end && *p->at >= '0' && *p->at <= '9'; }

static void skip_digits(parser *p) {
  while (is_digit(p)) p->at++;
}

/* Four hex digits at `p->at`. */
static ml_status read_hex(parser *p, uint32_t *out) {
  uint32_t value = 0;
  for (int i = 0; i < 4; i++, p->at++) {
    if (p->at >= p->end) return fail_expected(p, "a hexadecimal digit");
    char c = *p->at;
    if (c >= '0' && c <= '9') value = value << 4 | (uint32_t)(c - '0');
    else if (c >= 'a' && c <= 'f') value = value << 4 | (uint32_t)(c - 'a' + 10);
    else if (c >= 'A' && c <= 'F') value = value << 4 | (uint32_t)(c - 'A' + 10);
    else return fail_expected(p, "a hexadecimal digit");
  }
  *out = value;
  return ML_OK;
}

/* What follows `\u`: a code point, from one escape or from a pair of surrogates. */
static ml_status read_code_point(parser *p, uint32_t *out) {
  ML_TRY(read_hex(p, out));
  if (*out < 0xd800 || *out > 0xdfff) return ML_OK;
  uint32_t low = 0;
  if (*out <= 0xdbff && p->end - p->at >= 2 && p->at[0] == '\\' && p->at[1] == 'u') {
    p->at += 2;
    ML_TRY(read_hex(p, &low));
  }
  if (low < 0xdc00 || low > 0xdfff) return fail_here(p, "expected a pair of surrogates, found a lone one");
  *out = 0x10000 + ((*out - 0xd800) << 10) + (low - 0xdc00);
  return ML_OK;
}

static ml_status read_escape(parser *p, char **to) {
  static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
  p->at++; /* the backslash */
  const char *found = p->at < p->end && *p->at ? strchr(from, *p->at) : NULL;
  if (found) {
    p->at++;
    *(*to)++ = into[found - from];
    return ML_OK;
  }
  if (!accept(p, 'u')) return fail_expected(p, "an escape");
  uint32_t code;
  ML_TRY(read_code_point(p, &code));
  *to += ml_utf8_write(code, *to);
  return ML_OK;
}

/* The place of the closing quote, so that the scratch buffer can be made large enough at once. */
static const char *find_quote(const parser *p, bool *plain) {
  *plain = true;
  for (const char *c = p->at; c < p->end; c++) {
    if (*c == '"') return c;
    if (*c == '\\') {
      *plain = false;
      c++;
    }
  }
  return NULL;
}

/* A string, its opening quote already read: *text is valid until the next one, NUL-terminated. Unescaping never makes
 * text longer. */
static ml_status read_string(parser *p, const char **text, size_t *size) {
  bool plain;
  const char *quote = find_quote(p, &plain);
  if (!quote) {
    p->at = p->end;
    return fail_expected(p, "'\"'");
  }
  size_t bytes = (size_t)(quote - p->at);
  ML_TRY(ML_GROW(p->scratch, p->scratch_capacity, bytes + 1));
  char *to = p->scratch;
  while (p->at < quote) {
    unsigned char c = (unsigned char)*p->at;
    if (c == '\\') {
      ML_TRY(read_escape(p, &to));
    } else if (c < 0x20) {
      return fail_here(p, "a control character must be escaped");
    } else {
      size_t n = c < 0x80 ? 1 : ml_utf8_valid(p->at, (size_t)(quote - p->at));
      if (n == 0) return fail_here(p, "invalid UTF-8");
      do *to++ = *p->at++;
      while (--n > 0);
    }
  }
  p->at = quote + 1;
  *to = '\0';
  *text = p->scratch;
  *size = (size_t)(to - p->scratch);
  return ML_OK;
}

/* ---- values ---- */

static ml_status read_value(parser *p, json_object **out);

static ml_status scan_number(parser *p, bool *integer) {
  *integer = true;
  accept(p, '-');
  if (!is_digit(p)) return fail_expected(p, "a digit");
  if (!accept(p, '0')) skip_digits(p);
  if (accept(p, '.')) {
    *integer = false;
    if (!is_digit(p)) return fail_expected(p, "a digit");
    skip_digits(p);
  }
  if (accept(p, 'e') || accept(p, 'E')) {
    *integer = false;
    if (!accept(p, '+')) accept(p, '-');
    if (!is_digit(p)) return fail_expected(p, "a digit");
    skip_digits(p);
  }
  return ML_OK;
}

/* False when the digits do not fit. */
static bool parse_int64(const char *from, const char *end, int64_t *out) {
  bool negative = *from == '-';
  int64_t value = 0;
  for (const char *c = from + negative; c < end; c++) {
    int digit = negative ? '0' - *c : *c - '0';
    if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, digit, &value)) return false;
  }
  *out = value;
  return true;
}

/* An integer beyond 64 bits becomes a float, as in Lua. */
static ml_status read_number(parser *p, json_object **out) {
  const char *from = p->at;
  bool integer;
  ML_TRY(scan_number(p, &integer));
  size_t bytes = (size_t)(p->at - from);
  int64_t whole;
  if (integer && parse_int64(from, p->at, &whole)) {
    *out = json_object_new_int64(whole);
    return *out ? ML_OK : fail_memory(p);
  }
  ML_TRY(ML_GROW(p->scratch, p->scratch_capacity, bytes + 1));
  memcpy(p->scratch, from, bytes);
  p->scratch[bytes] = '\0';
  double value = strtod(p->scratch, NULL);
  if (!isfinite(value)) {
    p->at = from;
    return fail_here(p, "a number outside the range of a double");
  }
  *out = json_object_new_double(value);
  return *out ? ML_OK : fail_memory(p);
}

static ml_status read_literal(parser *p, const char *word, json_object *value, json_object **out) {
  size_t n = strlen(word);
  if ((size_t)(p->end - p->at) < n || memcmp(p->at, word, n) != 0) {
    json_object_put(value);
    return fail_expected(p, "a value");
  }
  p->at += n;
  *out = value;
  return ML_OK;
}

/* What Python writes for numbers that JSON has not; false where none stands here. */
static bool read_special(parser *p, ml_status *status, json_object **out) {
  static const struct {
    const char *word;
    double value;
  } words[] = {{"NaN", NAN}, {"Infinity", INFINITY}, {"-Infinity", -INFINITY}};
  for (size_t i = 0; p->python && i < sizeof words / sizeof *words; i++) {
    size_t n = strlen(words[i].word);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, words[i].word, n) != 0) continue;
    p->at += n;
    *out = json_object_new_double(words[i].value);
    *status = *out ? ML_OK : fail_memory(p);
    return true;
  }
  return false;
}

static ml_status read_items(parser *p, json_object *array) {
  skip_space(p);
  if (accept(p, ']')) return ML_OK;
  for (;;) {
    json_object *item = NULL;
    ML_TRY(read_value(p, &item));
    if (json_object_array_add(array, item) != 0) {
      json_object_put(item);
      return fail_memory(p);
    }
    skip_space(p);
    if (accept(p, ']')) return ML_OK;
    if (!accept(p, ',')) return fail_expected(p, "',' or ']'");
  }
}

static ml_status read_array(parser *p, json_object **out) {
  p->at++;
  ML_TRY(charge(p, COST_ARRAY));
  *out = json_object_new_array_ext(2); /* json-c's own 32 slots would cost tokenizers 100 MB: merges are pairs */
  if (!*out) return fail_memory(p);
  return read_items(p, *out);
}

/* A key, checked and copied: to be freed, or handed to json-c, which frees it with free(). */
static ml_status read_key(parser *p, struct lh_table *table, unsigned long *hash, char **out) {
  const char *at = p->at, *key;
  size_t size;
  if (!accept(p, '"')) return fail_expected(p, "a key in quotes");
  ML_TRY(read_string(p, &key, &size));
  *hash = lh_get_hash(table, key);
  if (memchr(key, '\0', size) || lh_table_lookup_entry_w_hash(table, key, *hash)) {
    char what[160];
    snprintf(what, sizeof what, "%s '%.*s'", strlen(key) < size ? "U+0000 in key" : "duplicate key", SHOWN_BYTES, key);
    p->at = at;
    return fail_here(p, what);
  }
  ML_TRY(charge(p, COST_MEMBER + size));
  *out = strdup(key);
  return *out ? ML_OK : fail_memory(p);
}

static ml_status read_member(parser *p, struct lh_table *table) {
  char *key;
  unsigned long hash = 0;
  json_object *value = NULL;
  ML_TRY(read_key(p, table, &hash, &key));
  skip_space(p);
  ml_status status = accept(p, ':') ? read_value(p, &value) : fail_expected(p, "':'");
  if (status == ML_OK && lh_table_insert_w_hash(table, key, value, hash, 0) != 0) status = fail_memory(p);
  if (status == ML_OK) return ML_OK;
  json_object_put(value);
  free(key);
  return status;
}

static ml_status read_object(parser *p, json_object **out) {
  p->at++;
  ML_TRY(charge(p, COST_OBJECT));
  *out = json_object_new_object();
  if (!*out) return fail_memory(p);
  skip_space(p);
  if (accept(p, '}')) return ML_OK;
  for (;;) {
    skip_space(p);
    ML_TRY(read_member(p, json_object_get_object(*out)));
    skip_space(p);
    if (accept(p, '}')) return ML_OK;
    if (!accept(p, ',')) return fail_expected(p, "',' or '}'");
  }
}

static ml_status read_string_value(parser *p, json_object **out) {
  const char *text;
  size_t size;
  p->at++;
  ML_TRY(read_string(p, &text, &size));
  ML_TRY(charge(p, size));
  *out = json_object_new_string_len(text, (int)size);
  return *out ? ML_OK : fail_memory(p);
}

static ml_status read_nested(parser *p, json_object **out) {
  if (p->depth == MAX_DEPTH) return fail_here(p, "nested deeper than 128 levels");
  p->depth++;
  ml_status status = *p->at == '{' ? read_object(p, out) : read_array(p, out);
  p->depth--;
  if (status == ML_OK) return ML_OK;
  json_object_put(*out);
  *out = NULL;
  return status;
}

static ml_status read_value(parser *p, json_object **out) {
  *out = NULL;
  skip_space(p);
  ML_TRY(charge(p, COST_VALUE));
  ml_status status;
  if (read_special(p, &status, out)) return status;
  if (is_digit(p) || (p->at < p->end && *p->at == '-')) return read_number(p, out);
  switch (p->at < p->end ? *p->at : '\0') {
  case '{':
  case '[': return read_nested(p, out);
  case '"': return read_string_value(p, out);
  case 't': return read_literal(p, "true", json_object_new_boolean(1), out);
  case 'f': return read_literal(p, "false", json_object_new_boolean(0), out);
  case 'n': return read_literal(p, "null", NULL, out);
  default: return fail_expected(p, "a value");
  }
}

static ml_status read_document(parser *p, json_object **out) {
  if ((size_t)(p->end - p->start) > MAX_TEXT) {
    return ml_fail(ML_LIMIT, "%s: expected at most %d MiB of JSON, found %zu bytes", p->source, MAX_TEXT >> 20,
                   (size_t)(p->end - p->start));
  }
  ML_TRY(read_value(p, out));
  skip_space(p);
  if (p->at == p->end) return ML_OK;
  json_object_put(*out);
  return fail_expected(p, "the end");
}

/* ---- documents ---- */

static ml_status parse(const char *text, size_t size, const char *source, bool python, ml_json_doc **out) {
  ml_json_doc *doc = ml_calloc(1, sizeof *doc);
  if (!doc) return ML_MEMORY;
  doc->source = ml_strdup(source);
  ml_status status = doc->source ? ML_OK : ML_MEMORY;
  if (status == ML_OK) {
    parser p = {.start = text, .at = text, .end = text + size, .source = doc->source, .python = python};
    ml_numeric n = ml_numeric_enter(); /* for strtod */
    status = read_document(&p, &doc->root);
    ml_numeric_leave(n);
    ml_free(p.scratch);
  }
  if (status != ML_OK) {
    ml_free(doc->source);
    ml_free(doc);
    return status;
  }
  *out = doc;
  return ML_OK;
}

ml_status ml_json_parse(const char *text, size_t size, const char *source, ml_json_doc **out) {
  return parse(text, size, source, false, out);
}

static ml_status load(const char *path, bool python, ml_json_doc **out) {
  char *text;
  size_t size;
  ML_TRY(ml_file_slurp(path, MAX_TEXT, &text, &size));
  ml_status status = parse(text, size, path, python, out);
  ml_free(text);
  return status;
}

ml_status ml_json_load(const char *path, ml_json_doc **out) { return load(path, false, out); }
ml_status ml_json_load_config(const char *path, ml_json_doc **out) { return load(path, true, out); }

void ml_json_close(ml_json_doc *doc) {
  if (!doc) return;
  json_object_put(doc->root);
  ml_free(doc->source);
  ml_free(doc);
}

const ml_json *ml_json_root(const ml_json_doc *doc) { return doc->root; }

const char *ml_json_source(const ml_json_doc *doc) { return doc->source; }

/* ---- access ---- */

ml_json_kind ml_json_type(const ml_json *value) {
  switch (json_object_get_type(value)) {
  case json_type_boolean: return ML_JSON_BOOL;
  case json_type_int: return ML_JSON_INT;
  case json_type_double: return ML_JSON_FLOAT;
  case json_type_string: return ML_JSON_STRING;
  case json_type_array: return ML_JSON_ARRAY;
  case json_type_object: return ML_JSON_OBJECT;
  default: return ML_JSON_NULL;
  }
}

const char *ml_json_type_name(ml_json_kind kind) {
  static const char *const names[] = {"null",     "a boolean", "an integer", "a float",
                                      "a string", "an array",  "an object"};
  return (unsigned)kind < sizeof names / sizeof *names ? names[kind] : "unknown";
}

bool ml_json_bool(const ml_json *value) {
  return ml_json_type(value) == ML_JSON_BOOL && json_object_get_boolean(value);
}

int64_t ml_json_int(const ml_json *value) {
  return ml_json_type(value) == ML_JSON_INT ? json_object_get_int64(value) : 0;
}

double ml_json_float(const ml_json *value) {
  ml_json_kind kind = ml_json_type(value);
  return kind == ML_JSON_INT || kind == ML_JSON_FLOAT ? json_object_get_double(value) : 0;
}

const char *ml_json_string(const ml_json *value, size_t *size) {
  bool is_string = ml_json_type(value) == ML_JSON_STRING;
  if (size) *size = is_string ? (size_t)json_object_get_string_len(value) : 0;
  /* json-c takes a non-const pointer because it would cache the text of other types; a string is only read. */
  return is_string ? json_object_get_string((json_object *)(uintptr_t)value) : NULL;
}

size_t ml_json_length(const ml_json *value) {
  switch (ml_json_type(value)) {
  case ML_JSON_ARRAY: return json_object_array_length(value);
  case ML_JSON_OBJECT: return (size_t)json_object_object_length(value);
  default: return 0;
  }
}

const ml_json *ml_json_at(const ml_json *array, size_t index) {
  return ml_json_type(array) == ML_JSON_ARRAY ? json_object_array_get_idx(array, index) : NULL;
}

const ml_json *ml_json_get(const ml_json *object, const char *key) {
  json_object *value = NULL;
  if (ml_json_type(object) == ML_JSON_OBJECT) json_object_object_get_ex(object, key, &value);
  return value;
}

bool ml_json_has(const ml_json *object, const char *key) {
  return ml_json_type(object) == ML_JSON_OBJECT && json_object_object_get_ex(object, key, NULL);
}

bool ml_json_next(const ml_json *object, ml_json_iter *iter) {
  if (!iter->started) {
    iter->started = true;
    bool is_object = ml_json_type(object) == ML_JSON_OBJECT;
    iter->next = is_object ? lh_table_head(json_object_get_object(object)) : NULL;
  }
  const struct lh_entry *entry = iter->next;
  if (!entry) return false;
  iter->key = lh_entry_k(entry);
  iter->value = lh_entry_v(entry);
  iter->next = lh_entry_next(entry);
  return true;
}
