/* json_fields.h: typed fields of tokenizer.json, with messages that name them. */
#ifndef ML_TEXT_JSON_FIELDS_H
#define ML_TEXT_JSON_FIELDS_H

#include "io/json.h"
#include "text/parts.h"

/* Each: `where` names the object in messages; a key that is absent or null gives the default, a value of another type
 * is ML_CORRUPT. Strings without a default must be there. */
ml_status ml_field_string(const ml_json *object, const char *where, const char *key, const char **text, size_t *size);
ml_status ml_field_bool(const ml_json *object, const char *where, const char *key, bool otherwise, bool *out);
ml_status ml_field_int(const ml_json *object, const char *where, const char *key, int64_t low, int64_t high,
                       int64_t *out);
ml_status ml_field_array(const ml_json *object, const char *where, const char *key, const ml_json **out);

/* The components of tokenizer.json; `json` may be null. */
ml_status ml_read_normalizer(const ml_json *json, ml_normalizer *out);
ml_status ml_read_pretokenizer(const ml_json *json, ml_pretokenizer *out);
ml_status ml_read_postprocessor(const ml_json *json, ml_tokenizer *t);
ml_status ml_read_decoder(const ml_json *json, ml_decoder *out);

#endif
