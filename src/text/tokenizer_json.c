/* tokenizer_json.c: a tokenizer from tokenizer.json and the files beside it.
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

/* --- the whole --- */

/* Without a configuration BOS is what the post-processor puts first. */
static void guess_bos(ml_tokenizer *t) {
  for (size_t i = 0; i < t->n_templates; i++) {
    const ml_template *template = &t->templates[i];
    if (template->count > 0 && template->items[0] != ML_TEMPLATE_TEXT) t->bos = template->items[0];
  }
}

static ml_status read_tokenizer(ml_tokenizer *t, const ml_json *root, ml_token_list **list) {
  if (ml_json_type(root) != ML_JSON_OBJECT) return ml_fail(ML_CORRUPT, "expected an object");
  ML_TRY(ml_read_normalizer(ml_json_get(root, "normalizer"), &t->normalizer));
  ML_TRY(ml_read_pretokenizer(ml_json_get(root, "pre_tokenizer"), &t->pretokenizer));
  ML_TRY(read_model(t, ml_json_get(root, "model")));
  ML_TRY(ml_token_list_new(t, list));
  ML_TRY(ml_token_list_read(*list, root));
  ML_TRY(ml_read_postprocessor(ml_json_get(root, "post_processor"), t));
  return ml_read_decoder(ml_json_get(root, "decoder"), &t->decoder);
}

/* The object in a file, or NULL where there is no such file. */
static ml_status object_in(const ml_json_doc *doc, const ml_json **root, const char **source) {
  *root = doc ? ml_json_root(doc) : NULL;
  *source = doc ? ml_json_source(doc) : "";
  if (!doc || ml_json_type(*root) == ML_JSON_OBJECT) return ML_OK;
  return ml_fail(ML_CORRUPT, "%s: expected an object", *source);
}

static ml_status read_files(ml_tokenizer *t, const ml_tokenizer_docs *docs, ml_token_list **list) {
  const char *source = ml_json_source(docs->tokenizer);
  ml_token_files files = {.tokenizer = ml_json_root(docs->tokenizer)};
  ML_TRY(ml_fail_prefix(read_tokenizer(t, files.tokenizer, list), "%s", source));
  ML_TRY(object_in(docs->config, &files.config, &files.config_source));
  ML_TRY(object_in(docs->special_tokens_map, &files.map, &files.map_source));
  ML_TRY(object_in(docs->added_tokens, &files.added, &files.added_source));
  ML_TRY(ml_token_list_read_beside(*list, &files));
  if (!docs->config && t->bos < 0) guess_bos(t);
  ML_TRY(ml_fail_prefix(ml_token_list_finish(*list), "%s", source));
  return ml_tokenizer_finish(t);
}

ml_status ml_tokenizer_from_json(const ml_tokenizer_docs *docs, ml_tokenizer **out) {
  ml_tokenizer *t;
  ml_token_list *list = NULL;
  *out = NULL;
  ML_TRY(ml_tokenizer_new(&t));
  ml_status status = read_files(t, docs, &list);
  ml_token_list_free(list);
  if (status != ML_OK) {
    ml_tokenizer_close(t);
    return status;
  }
  *out = t;
  return ML_OK;
}
