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

/* Added tokens, brought together from all files before the tokenizer gets them; texts are borrowed from the documents.
 */
typedef struct ml_token_list ml_token_list;
typedef struct ml_token_files {
  const ml_json *tokenizer, *config, *map, *added; /* objects, or NULL where a file is absent */
  const char *config_source, *map_source, *added_source;
  /* Found out: whether special_tokens_map.json and added_tokens.json count; lists of special tokens without names, of
   * config, of map, and under an older key; objects that give names, of config and map. */
  bool older, late_of_map;
  const ml_json *extra, *more, *late, *names, *map_names;
} ml_token_files;
/* When the tokenizer has its model's pieces and nothing else. */
ml_status ml_token_list_new(ml_tokenizer *t, ml_token_list **out);
void ml_token_list_free(ml_token_list *list);
ml_status ml_token_list_read(ml_token_list *list, const ml_json *tokenizer);
/* What lies beside tokenizer.json; BOS and the end of a text, too. */
ml_status ml_token_list_read_beside(ml_token_list *list, ml_token_files *files);
/* Hands the tokens over, whose normaliser is there. */
ml_status ml_token_list_finish(ml_token_list *list);

#endif
