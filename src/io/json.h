/* json.h: JSON documents, strict and ordered. The only door to json-c.
 *
 * A document owns all its values; values are borrowed pointers that live as long as it. Text that is not JSON by RFC
 * 8259's grammar, duplicate keys, U+0000 in a key, trailing text, invalid UTF-8, a lone surrogate escape, NaN and
 * Infinity outside strings, and numbers beyond a double's range are errors (ML_CORRUPT) that name the source, line and
 * column. Depth is at most 128. An integer beyond int64 is a float (tokenizer_config.json gives 10^30 as "no limit"),
 * never clamped: who wants an integer checks the type. A text over 512 MiB, or one whose tree would take more than 1
 * GiB, is ML_LIMIT. "__float__" objects that Python writes for infinities stay ordinary objects. */
#ifndef ML_IO_JSON_H
#define ML_IO_JSON_H

#include "base/mem.h"

typedef struct ml_json_doc ml_json_doc;
typedef struct json_object ml_json; /* a value; a JSON null is a valid pointer only through ml_json_type */

typedef enum ml_json_kind {
  ML_JSON_NULL,
  ML_JSON_BOOL,
  ML_JSON_INT,
  ML_JSON_FLOAT,
  ML_JSON_STRING,
  ML_JSON_ARRAY,
  ML_JSON_OBJECT
} ml_json_kind;

/* `source` names the text in messages (a path). */
ml_status ml_json_parse(const char *text, size_t size, const char *source, ml_json_doc **out);
/* Opens, parses and checks; a missing file is ML_NOT_FOUND. */
ml_status ml_json_load(const char *path, ml_json_doc **out);
/* The same of a configuration, which Python's json module may have written: NaN, Infinity and -Infinity are floats. */
ml_status ml_json_load_config(const char *path, ml_json_doc **out);
void ml_json_close(ml_json_doc *doc);
const ml_json *ml_json_root(const ml_json_doc *doc);
const char *ml_json_source(const ml_json_doc *doc);

/* NULL counts as JSON null. */
ml_json_kind ml_json_type(const ml_json *value);
const char *ml_json_type_name(ml_json_kind kind);
bool ml_json_bool(const ml_json *value);
int64_t ml_json_int(const ml_json *value);
double ml_json_float(const ml_json *value); /* of an int or a float */
const char *ml_json_string(const ml_json *value, size_t *size);
size_t ml_json_length(const ml_json *value);                        /* of an array or an object */
const ml_json *ml_json_at(const ml_json *array, size_t index);      /* 0-based; NULL for null or out of range */
const ml_json *ml_json_get(const ml_json *object, const char *key); /* NULL when absent or null */
bool ml_json_has(const ml_json *object, const char *key);

/* Walks an object in the order of the text: start with a zeroed iterator; false at the end. */
typedef struct ml_json_iter {
  const char *key;
  const ml_json *value;
  const void *next;
  bool started;
} ml_json_iter;
bool ml_json_next(const ml_json *object, ml_json_iter *iter);

/* Builds text. All strings are UTF-8 and are escaped as JSON asks and no further. */
typedef struct ml_json_writer {
  char *text;
  size_t size, capacity;
  ml_status status; /* the first failure; later calls do nothing */
} ml_json_writer;
void ml_json_write_raw(ml_json_writer *w, const char *text, size_t size);
void ml_json_write_string(ml_json_writer *w, const char *text, size_t size);
void ml_json_write_int(ml_json_writer *w, int64_t value);
/* The shortest text that reads back as the same double, always with a point or an exponent; NaN and infinities set
 * ML_USAGE. */
void ml_json_write_float(ml_json_writer *w, double value);
void ml_json_writer_free(ml_json_writer *w);

#endif
