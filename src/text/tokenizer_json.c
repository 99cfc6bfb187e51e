/* tokenizer_json.c: a tokenizer from tokenizer.json and tokenizer_config.json.
 *
 * Truncation and padding, which some files carry over from training, are not what a tokenizer is: as in transformers
 * they are left to the caller. */
#include "text/json_fields.h"

#include <string.h>

/* --- model --- */

static ml_status read_vocab(const ml_json *model, ml_vocab *v) {
  const ml_json *pieces = ml_json_get(model, "vocab");
  ml_json_iter it = {0};
  if (ml_json_type(pieces) != ML_JSON_OBJECT) return ml_fail(ML_CORRUPT, "model: vocab: expected an object");
  ML_TRY(ml_vocab_reserve(v, ml_json_length(pieces), 8 * ml_json_length(pieces)));
  while (ml_json_next(pieces, &it)) {
    if (ml_json_type(it.value) != ML_JSON_INT) {
      return ml_fail(ML_CORRUPT, "model: vocab: %.100s: expected an integer", it.key);
    }
    ML_TRY(ml_vocab_set(v, ml_json_int(it.value), it.key, strlen(it.key), ML_PIECE_MODEL));
  }
  return ML_OK;
}

/* A merge as "left right" or ["left", "right"]. */
static ml_status split_merge(const ml_json *merge, size_t index, const char *parts[2], size_t sizes[2]) {
  if (ml_json_type(merge) == ML_JSON_STRING) {
    parts[0] = ml_json_string(merge, &sizes[0]);
    const char *space = memchr(parts[0], ' ', sizes[0]);
    if (space) {
      parts[1] = space + 1;
      sizes[1] = sizes[0] - (size_t)(space - parts[0]) - 1;
      sizes[0] = (size_t)(space - parts[0]);
      if (!memchr(parts[1], ' ', sizes[1])) return ML_OK;
    }
  } else if (ml_json_type(merge) == ML_JSON_ARRAY && ml_json_length(merge) == 2) {
    bool strings = true;
    for (size_t i = 0; i < 2; i++) {
      const ml_json *part = ml_json_at(merge, i);
      strings = strings && ml_json_type(part) == ML_JSON_STRING;
      if (strings) parts[i] = ml_json_string(part, &sizes[i]);
    }
    if (strings) return ML_OK;
  }
  return ml_fail(ML_CORRUPT, "model: merges: %zu: expected two pieces", index);
}

/* *id holds a guess. The vocabulary has nothing but the model's pieces yet. */
static ml_status find_piece(const ml_vocab *v, size_t index, const char *piece, size_t size, int32_t *id) {
  *id = ml_vocab_find_near(v, *id, piece, size);
  if (*id >= 0) return ML_OK;
  return ml_fail(ML_CORRUPT, "model: merges: %zu: \"%.*s\" is not in the vocabulary", index,
                 (int)(size < 100 ? size : 100), piece);
}

static ml_status read_merge(ml_tokenizer *t, const ml_json *merge, size_t index, ml_text *both, int32_t *merged) {
  const char *parts[2] = {0};
  size_t sizes[2] = {0};
  int32_t left = -2, right = -2; /* nothing to guess */
  ML_TRY(split_merge(merge, index, parts, sizes));
  ML_TRY(find_piece(&t->vocab, index, parts[0], sizes[0], &left));
  ML_TRY(find_piece(&t->vocab, index, parts[1], sizes[1], &right));
  both->size = 0;
  ML_TRY(ml_text_append(both, parts[0], sizes[0]));
  ML_TRY(ml_text_append(both, parts[1], sizes[1]));
  ML_TRY(find_piece(&t->vocab, index, both->bytes ? both->bytes : "", both->size, merged));
  return ml_bpe_add_merge(&t->bpe, left, right, (uint32_t)index, *merged);
}

static ml_status read_merges(ml_tokenizer *t, const ml_json *model) {
  const ml_json *merges;
  ml_text both = {0};
  ml_status status = ML_OK;
  int32_t merged = -1; /* by the merge before */
  ML_TRY(ml_field_array(model, "model", "merges", &merges));
  size_t n = ml_json_length(merges);
  if (n >= UINT32_MAX) return ml_fail(ML_LIMIT, "model: merges: %zu of them", n);
  ML_TRY(ml_bpe_reserve(&t->bpe, n));
  for (size_t i = 0; status == ML_OK && i < n; i++) status = read_merge(t, ml_json_at(merges, i), i, &both, &merged);
  ml_text_free(&both);
  return status;
}

/* Options that would change the ids and that no model here uses. */
static ml_status refuse_options(const ml_json *model) {
  static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
  const ml_json *dropout = ml_json_get(model, "dropout");
  ml_json_kind kind = ml_json_type(dropout);
  if (kind != ML_JSON_NULL && !((kind == ML_JSON_INT || kind == ML_JSON_FLOAT) && ml_json_float(dropout) == 0)) {
    return ml_fail(ML_UNSUPPORTED, "model: dropout is not supported");
  }
  for (size_t i = 0; i < sizeof affixes / sizeof *affixes; i++) {
    const char *text;
    size_t size = 0;
    if (ml_json_get(model, affixes[i])) ML_TRY(ml_field_string(model, "model", affixes[i], &text, &size));
    if (size > 0) return ml_fail(ML_UNSUPPORTED, "model: %s is not supported", affixes[i]);
  }
  return ML_OK;
}

static ml_status read_model(ml_tokenizer *t, const ml_json *model) {
  const char *text;
  size_t size;
  if (ml_json_type(model) != ML_JSON_OBJECT) return ml_fail(ML_CORRUPT, "model: expected an object");
  if (ml_json_get(model, "type")) { /* the first files had none, and were BPE when they had merges */
    ML_TRY(ml_field_string(model, "model", "type", &text, &size));
    if (strcmp(text, "BPE") != 0) return ml_fail(ML_UNSUPPORTED, "model: %.100s is not supported", text);
  }
  ML_TRY(refuse_options(model));
  ML_TRY(ml_field_bool(model, "model", "fuse_unk", false, &t->bpe.fuse_unk));
  ML_TRY(ml_field_bool(model, "model", "byte_fallback", false, &t->bpe.byte_fallback));
  ML_TRY(ml_field_bool(model, "model", "ignore_merges", false, &t->bpe.ignore_merges));
  ML_TRY(read_vocab(model, &t->vocab));
  ML_TRY(read_merges(t, model));
  if (!ml_json_get(model, "unk_token")) return ML_OK;
  ML_TRY(ml_field_string(model, "model", "unk_token", &text, &size));
  t->bpe.unk = ml_vocab_find_model(&t->vocab, text, size);
  return t->bpe.unk >= 0 ? ML_OK : ml_fail(ML_CORRUPT, "model: unk_token: %.100s is not in the vocabulary", text);
}

/* --- added tokens --- */

/* The id that the reference gives: the model's own, else the next free one. What the file says is not asked. */
static int32_t added_id(const ml_tokenizer *t, const char *text, size_t size, size_t n_model, int64_t largest) {
  int32_t id = ml_vocab_find(&t->vocab, text, size);
  if (id >= 0) return id;
  return largest >= (int64_t)n_model ? (int32_t)(largest + 1) : (int32_t)n_model;
}

/* A token that comes twice counts once, with the first's flags, but is special if either is. */
static ml_status read_added(ml_tokenizer *t, const ml_json *json, size_t n_model, int64_t *largest) {
  static const char where[] = "added_tokens";
  ml_added_token token = {0};
  const char *text;
  size_t size;
  bool normalized;
  ML_TRY(ml_field_string(json, where, "content", &text, &size));
  ML_TRY(ml_field_bool(json, where, "single_word", false, &token.single_word));
  ML_TRY(ml_field_bool(json, where, "lstrip", false, &token.lstrip));
  ML_TRY(ml_field_bool(json, where, "rstrip", false, &token.rstrip));
  ML_TRY(ml_field_bool(json, where, "special", false, &token.special));
  ML_TRY(ml_field_bool(json, where, "normalized", !token.special, &normalized));
  if (size == 0) return ML_OK;
  token.id = added_id(t, text, size, n_model, *largest);
  if (!ml_vocab_has(&t->vocab, token.id)) ML_TRY(ml_vocab_set(&t->vocab, token.id, text, size, 0));
  bool again = t->vocab.flags[token.id] & ML_PIECE_ADDED;
  t->vocab.flags[token.id] |= (uint8_t)(ML_PIECE_ADDED | (token.special ? ML_PIECE_SPECIAL : 0));
  if (token.id > *largest) *largest = token.id;
  return again ? ML_OK : ml_tokenizer_add_token(t, normalized, text, size, token);
}

static ml_status read_added_tokens(ml_tokenizer *t, const ml_json *root) {
  const ml_json *list;
  int64_t largest = -1;
  if (!ml_json_get(root, "added_tokens")) return ML_OK;
  ML_TRY(ml_field_array(root, "tokenizer", "added_tokens", &list));
  size_t n_model = 0;
  for (size_t i = 0; i < t->vocab.count; i++) n_model += t->vocab.flags[i] & ML_PIECE_EXISTS;
  for (size_t i = 0; i < ml_json_length(list); i++) {
    if (ml_json_type(ml_json_at(list, i)) != ML_JSON_OBJECT) {
      return ml_fail(ML_CORRUPT, "added_tokens: %zu: expected an object", i);
    }
    ML_TRY(read_added(t, ml_json_at(list, i), n_model, &largest));
  }
  return ML_OK;
}

/* --- tokenizer_config.json --- */

/* A special token there is a string or an object with its content. One that the vocabulary has not is noted, no error:
 * nothing can ever give its id. `key` lives for ever. */
static ml_status config_token(ml_tokenizer *t, const ml_json *config, const char *key, int32_t *id) {
  const ml_json *value = ml_json_get(config, key);
  size_t size;
  *id = -1;
  if (ml_json_type(value) == ML_JSON_OBJECT) value = ml_json_get(value, "content");
  if (ml_json_type(value) == ML_JSON_NULL) return ML_OK;
  if (ml_json_type(value) != ML_JSON_STRING) {
    return ml_fail(ML_CORRUPT, "%s: expected a string, found %s", key, ml_json_type_name(ml_json_type(value)));
  }
  const char *text = ml_json_string(value, &size);
  *id = ml_vocab_find(&t->vocab, text, size);
  if (*id < 0 && size > 0) t->absent[t->n_absent++] = key;
  return ML_OK;
}

/* Without a configuration BOS is what the post-processor puts first. */
static void guess_bos(ml_tokenizer *t) {
  for (size_t i = 0; i < t->n_templates; i++) {
    const ml_template *template = &t->templates[i];
    if (template->count > 0 && template->items[0] != ML_TEMPLATE_TEXT) t->bos = template->items[0];
  }
}

static ml_status read_config(ml_tokenizer *t, const ml_json_doc *doc) {
  int32_t eos;
  if (!doc) {
    guess_bos(t);
    return ML_OK;
  }
  const ml_json *config = ml_json_root(doc);
  if (ml_json_type(config) != ML_JSON_OBJECT) {
    return ml_fail(ML_CORRUPT, "%s: expected an object", ml_json_source(doc));
  }
  ml_status status = config_token(t, config, "bos_token", &t->bos);
  if (status == ML_OK) status = config_token(t, config, "eos_token", &eos);
  if (status == ML_OK) status = ml_tokenizer_add_eos(t, eos);
  return ml_fail_prefix(status, "%s", ml_json_source(doc));
}

static ml_status read_tokenizer(ml_tokenizer *t, const ml_json *root) {
  if (ml_json_type(root) != ML_JSON_OBJECT) return ml_fail(ML_CORRUPT, "expected an object");
  ML_TRY(ml_read_normalizer(ml_json_get(root, "normalizer"), &t->normalizer));
  ML_TRY(ml_read_pretokenizer(ml_json_get(root, "pre_tokenizer"), &t->pretokenizer));
  ML_TRY(read_model(t, ml_json_get(root, "model")));
  ML_TRY(read_added_tokens(t, root));
  ML_TRY(ml_read_postprocessor(ml_json_get(root, "post_processor"), t));
  return ml_read_decoder(ml_json_get(root, "decoder"), &t->decoder);
}

ml_status ml_tokenizer_from_json(const ml_json_doc *tokenizer, const ml_json_doc *config, ml_tokenizer **out) {
  ml_tokenizer *t;
  *out = NULL;
  ML_TRY(ml_tokenizer_new(&t));
  ml_status status = ml_fail_prefix(read_tokenizer(t, ml_json_root(tokenizer)), "%s", ml_json_source(tokenizer));
  if (status == ML_OK) status = read_config(t, config);
  if (status == ML_OK) status = ml_tokenizer_finish(t);
  if (status != ML_OK) {
    ml_tokenizer_close(t);
    return status;
  }
  *out = t;
  return ML_OK;
}
