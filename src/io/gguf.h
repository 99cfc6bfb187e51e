/* gguf.h: GGUF v2 and v3 (little-endian), metadata and tensors.
 *
 * Refused as ML_CORRUPT: duplicate keys and names, more than 4 dims, tensors that overlap or are not aligned. Refused
 * as ML_UNSUPPORTED: other versions, big-endian files, one part of a split model, block formats that dtype.h lacks.
 * Source: the GGUF specification in ggml's docs/gguf.md. */
#ifndef ML_IO_GGUF_H
#define ML_IO_GGUF_H

#include "io/checkpoint.h"

typedef enum ml_gguf_type {
  ML_GGUF_UINT8,
  ML_GGUF_INT8,
  ML_GGUF_UINT16,
  ML_GGUF_INT16,
  ML_GGUF_UINT32,
  ML_GGUF_INT32,
  ML_GGUF_FLOAT32,
  ML_GGUF_BOOL,
  ML_GGUF_STRING,
  ML_GGUF_ARRAY,
  ML_GGUF_UINT64,
  ML_GGUF_INT64,
  ML_GGUF_FLOAT64,
  ML_GGUF_TYPE_COUNT
} ml_gguf_type;

/* A metadata value. Scalars are in `as`; strings and arrays point into the head that the ml_gguf holds. An array of
 * fixed-size items lies at `data`; an array of strings is reached through ml_gguf_string_at in O(1) (offsets are
 * indexed at opening). Arrays of arrays are ML_UNSUPPORTED. */
typedef struct ml_gguf_value {
  ml_gguf_type type, item_type; /* item_type: of an array */
  union {
    uint64_t u;
    int64_t i;
    double f;
    bool b;
  } as;
  const uint8_t *data;
  uint64_t length;         /* bytes of a string, items of an array */
  const uint64_t *offsets; /* of an array of strings: offset in the head of each item's length field */
} ml_gguf_value;

typedef struct ml_gguf_pair {
  char *key;
  ml_gguf_value value;
} ml_gguf_pair;

typedef struct ml_gguf {
  ml_checkpoint checkpoint; /* entries and the one file; closed by ml_gguf_close */
  uint8_t *head; /* the file up to its tensors at least: a copy, so that a file that shrinks raises no SIGBUS */
  uint32_t version;
  ml_gguf_pair *pairs; /* in the order of the file; duplicate keys are an error */
  size_t n_pairs;
  size_t alignment;
} ml_gguf;

ml_status ml_gguf_open(const char *path, ml_gguf **out);
/* The same for a file that is open already: it belongs to the result from here on, and is closed on failure. */
ml_status ml_gguf_parse(ml_file *file, ml_gguf **out);
void ml_gguf_close(ml_gguf *gguf);
/* NULL when there is no such key. */
const ml_gguf_value *ml_gguf_get(const ml_gguf *gguf, const char *key);
/* Item `i` of an array of strings: a pointer into the head, not NUL-terminated. NULL when there is no such item. */
const char *ml_gguf_string_at(const ml_gguf *gguf, const ml_gguf_value *value, uint64_t i, size_t *size);
/* Item `i` of a numeric or bool array, widened. ML_MISMATCH when there is no such item, when a float is asked for as an
 * integer, or when a uint64 does not fit an int64. */
ml_status ml_gguf_int_at(const ml_gguf_value *value, uint64_t i, int64_t *out);
ml_status ml_gguf_float_at(const ml_gguf_value *value, uint64_t i, double *out);

#endif
