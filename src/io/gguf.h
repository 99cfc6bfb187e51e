/* gguf.h: GGUF v2 and v3 (little-endian), metadata and tensors.
 * Source: the GGUF specification in ggml's docs/gguf.md. */
#ifndef ML_IO_GGUF_H
#define ML_IO_GGUF_H

#include "io/checkpoint.h"

typedef enum ml_gguf_type {
  ML_GGUF_UINT8, ML_GGUF_INT8, ML_GGUF_UINT16, ML_GGUF_INT16, ML_GGUF_UINT32, ML_GGUF_INT32, ML_GGUF_FLOAT32,
  ML_GGUF_BOOL, ML_GGUF_STRING, ML_GGUF_ARRAY, ML_GGUF_UINT64, ML_GGUF_INT64, ML_GGUF_FLOAT64, ML_GGUF_TYPE_COUNT
} ml_gguf_type;

/* A metadata value. Scalars are in `as`; strings and arrays point into the mapped file. An array of fixed-size items lies
 * at `data`; an array of strings is reached through ml_gguf_string_at in O(1) (offsets are indexed at opening). Arrays
 * of arrays are ML_UNSUPPORTED. */
typedef struct ml_gguf_value {
  ml_gguf_type type, item_type; /* item_type: of an array */
  union { uint64_t u; int64_t i; double f; bool b; } as;
  const uint8_t *data;
  uint64_t length;   /* bytes of a string, items of an array */
  const uint64_t *offsets; /* of an array of strings: file offset of each item's length field */
} ml_gguf_value;

typedef struct ml_gguf_pair {
  char *key;
  ml_gguf_value value;
} ml_gguf_pair;

typedef struct ml_gguf {
  ml_checkpoint checkpoint; /* entries and the one file; closed by ml_gguf_close */
  uint32_t version;
  ml_gguf_pair *pairs; /* in the order of the file; duplicate keys are an error */
  size_t n_pairs;
  size_t alignment;
} ml_gguf;

ml_status ml_gguf_open(const char *path, ml_gguf **out);
void ml_gguf_close(ml_gguf *gguf);
const ml_gguf_value *ml_gguf_get(const ml_gguf *gguf, const char *key);
/* Item `i` of an array of strings: a pointer into the file, not NUL-terminated. */
const char *ml_gguf_string_at(const ml_gguf *gguf, const ml_gguf_value *value, uint64_t i, size_t *size);
/* Item `i` of a numeric or bool array, widened. ML_MISMATCH when the array holds no such thing. */
ml_status ml_gguf_int_at(const ml_gguf_value *value, uint64_t i, int64_t *out);
ml_status ml_gguf_float_at(const ml_gguf_value *value, uint64_t i, double *out);

#endif
