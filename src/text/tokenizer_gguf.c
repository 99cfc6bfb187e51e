/* tokenizer_gguf.c: a tokenizer from GGUF metadata.
 *
 * Model `gpt2` is byte-level BPE by merges; what is done before it is known by the name in tokenizer.ggml.pre, and is
 * here what the families' own tokenizers do (Qwen's NFC, too). Model `llama` is SentencePiece's BPE by scores. Sources:
 * the GGUF specification in ggml's docs/gguf.md for keys and token types; llama.cpp for the meaning of `pre` names and
 * for defaults. */
#include "text/parts.h"

#include <math.h>
#include <string.h>

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };
enum { AHEAD = 16 }; /* how many pieces ahead memory is asked for */

static const char underline[] = "\xe2\x96\x81"; /* U+2581, which stands for a space */

/* --- keys --- */

static ml_status wrong_type(const char *key, const char *expected) {
  return ml_fail(ML_CORRUPT, "%s: expected %s, found another type", key, expected);
}

/* A string key; NULL when absent. */
static ml_status string_key(const ml_gguf *g, const char *key, const char **text, size_t *size) {
  const ml_gguf_value *value = ml_gguf_get(g, key);
  *text = NULL;
  *size = 0;
  if (!value) return ML_OK;
  if (value->type != ML_GGUF_STRING) return wrong_type(key, "a string");
  *text = (const char *)value->data;
  *size = (size_t)value->length;
  return ML_OK;
}

static ml_status bool_key(const ml_gguf *g, const char *key, bool *out) {
  const ml_gguf_value *value = ml_gguf_get(g, key);
  if (!value) return ML_OK;
  if (value->type != ML_GGUF_BOOL) return wrong_type(key, "a boolean");
  *out = value->as.b;
  return ML_OK;
}

static bool integer(const ml_gguf_value *value, int64_t *out) {
  switch (value->type) {
  case ML_GGUF_UINT8:
  case ML_GGUF_UINT16:
  case ML_GGUF_UINT32:
  case ML_GGUF_UINT64: *out = value->as.u > INT64_MAX ? -1 : (int64_t)value->as.u; return true;
  case ML_GGUF_INT8:
  case ML_GGUF_INT16:
  case ML_GGUF_INT32:
  case ML_GGUF_INT64: *out = value->as.i; return true;
  default: return false;
  }
}

/* An id of the vocabulary; stays as it was when the key is absent. */
static ml_status id_key(const ml_gguf *g, const ml_tokenizer *t, const char *key, int32_t *out) {
  const ml_gguf_value *value = ml_gguf_get(g, key);
  int64_t id;
  if (!value) return ML_OK;
  if (!integer(value, &id)) return wrong_type(key, "an integer");
  if (!ml_vocab_has(&t->vocab, id)) return ml_fail(ML_CORRUPT, "%s: %lld is not in the vocabulary", key, (long long)id);
  *out = (int32_t)id;
  return ML_OK;
}

/* An array, of `count` items unless that is 0; NULL when absent. */
static ml_status array_key(const ml_gguf *g, const char *key, bool strings, uint64_t count, const ml_gguf_value **out) {
  const ml_gguf_value *value = *out = ml_gguf_get(g, key);
  if (!value) return ML_OK;
  if (value->type != ML_GGUF_ARRAY || (value->item_type == ML_GGUF_STRING) != strings) {
    return wrong_type(key, strings ? "an array of strings" : "an array of numbers");
  }
  if (count == 0 || value->length == count) return ML_OK;
  return ml_fail(ML_CORRUPT, "%s: expected %llu items, found %llu", key, (unsigned long long)count,
                 (unsigned long long)value->length);
}

/* --- vocabulary --- */

/* Control tokens and the like are looked for in the text, bytes come from the fallback alone, unused pieces never. */
static unsigned flags_of_type(int64_t type) {
  switch (type) {
  case TYPE_UNKNOWN:
  case TYPE_CONTROL: return ML_PIECE_SPECIAL | ML_PIECE_ADDED;
  case TYPE_USER_DEFINED: return ML_PIECE_MODEL | ML_PIECE_ADDED;
  case TYPE_UNUSED:
  case TYPE_BYTE: return 0;
  default: return ML_PIECE_MODEL;
  }
}

/* User-defined pieces with spaces (Gemma's runs of them) have underlines in the model's own files: they are looked for
 * in normalised text, where spaces are underlines, after such as the text itself spells with underlines. */
static ml_status add_to_text(ml_tokenizer *t, const char *piece, size_t size, ml_added_token token) {
  if (token.special || !memchr(piece, ' ', size)) return ml_tokenizer_add_token(t, false, piece, size, token);
  ml_text text = {0};
  ml_status status = ML_OK;
  for (size_t i = 0; status == ML_OK && i < size; i++) {
    status = piece[i] == ' ' ? ml_text_append(&text, underline, 3) : ml_text_append(&text, piece + i, 1);
  }
  if (status == ML_OK) status = ml_tokenizer_add_token(t, false, text.bytes, text.size, token);
  if (status == ML_OK) status = ml_tokenizer_add_token(t, true, piece, size, token);
  ml_text_free(&text);
  return status;
}

static ml_status read_vocab(ml_tokenizer *t, const ml_gguf *g) {
  const ml_gguf_value *tokens, *types;
  ML_TRY(array_key(g, "tokenizer.ggml.tokens", true, 0, &tokens));
  if (!tokens || tokens->length == 0) return ml_fail(ML_CORRUPT, "tokenizer.ggml.tokens: expected pieces, found none");
  ML_TRY(array_key(g, "tokenizer.ggml.token_type", false, tokens->length, &types));
  size_t bytes = 0;
  for (uint64_t i = 0; i < tokens->length; i++) {
    size_t size;
    ml_gguf_string_at(g, tokens, i, &size);
    bytes += size; /* all lie in one mapped file: no overflow */
  }
  ML_TRY(ml_vocab_reserve(&t->vocab, (size_t)tokens->length, bytes));
  for (uint64_t i = 0; i < tokens->length; i++) {
    size_t size;
    int64_t type = TYPE_NORMAL;
    const char *piece = ml_gguf_string_at(g, tokens, i + AHEAD, &size);
    if (piece) ml_vocab_expect(&t->vocab, piece, size);
    piece = ml_gguf_string_at(g, tokens, i, &size);
    if (types) ML_TRY(ml_gguf_int_at(types, i, &type));
    unsigned flags = flags_of_type(type);
    ML_TRY(ml_vocab_set(&t->vocab, (int64_t)i, piece, size, flags));
    ml_added_token token = {.id = (int32_t)i, .special = flags & ML_PIECE_SPECIAL};
    if (flags & ML_PIECE_ADDED) ML_TRY(add_to_text(t, piece, size, token));
  }
  return ML_OK;
}

/* The piece that [text, text + size) spells; *id holds a guess. */
static ml_status find_piece(const ml_vocab *v, uint64_t merge, const char *text, size_t size, int32_t *id) {
  *id = ml_vocab_find_near(v, *id, text, size);
  if (*id >= 0) return ML_OK;
  return ml_fail(ML_CORRUPT, "tokenizer.ggml.merges: %llu: \"%.*s\" is not a piece", (unsigned long long)merge,
                 (int)(size < 100 ? size : 100), text);
}

static ml_status read_merge(ml_tokenizer *t, uint64_t rank, const char *text, size_t size, ml_text *both,
                            int32_t *merged) {
  int32_t left = -2, right = -2; /* nothing to guess */
  const char *space = size > 1 ? memchr(text + 1, ' ', size - 1) : NULL;
  if (!space) return ml_fail(ML_CORRUPT, "tokenizer.ggml.merges: %llu: expected two pieces", (unsigned long long)rank);
  size_t first = (size_t)(space - text), second = size - first - 1;
  ML_TRY(find_piece(&t->vocab, rank, text, first, &left));
  ML_TRY(find_piece(&t->vocab, rank, space + 1, second, &right));
  both->size = 0;
  ML_TRY(ml_text_append(both, text, first));
  ML_TRY(ml_text_append(both, space + 1, second));
  ML_TRY(find_piece(&t->vocab, rank, both->bytes, both->size, merged));
  return ml_bpe_add_merge(&t->bpe, left, right, (uint32_t)rank, *merged);
}

static ml_status read_merges(ml_tokenizer *t, const ml_gguf *g) {
  const ml_gguf_value *merges;
  ml_text both = {0};
  ml_status status = ML_OK;
  int32_t merged = -1; /* by the merge before */
  ML_TRY(array_key(g, "tokenizer.ggml.merges", true, 0, &merges));
  if (!merges) return ml_fail(ML_CORRUPT, "tokenizer.ggml.merges: expected merges, found none");
  if (merges->length >= UINT32_MAX) return ml_fail(ML_LIMIT, "tokenizer.ggml.merges: too many");
  ML_TRY(ml_bpe_reserve(&t->bpe, (size_t)merges->length));
  for (uint64_t i = 0; status == ML_OK && i < merges->length; i++) {
    size_t size;
    const char *text = ml_gguf_string_at(g, merges, i, &size);
    status = read_merge(t, i, text, size, &both, &merged);
  }
  ml_text_free(&both);
  return status;
}

static ml_status read_scores(ml_tokenizer *t, const ml_gguf *g) {
  const ml_gguf_value *scores;
  ML_TRY(array_key(g, "tokenizer.ggml.scores", false, t->vocab.count, &scores));
  if (!scores) return ml_fail(ML_CORRUPT, "tokenizer.ggml.scores: expected scores, found none");
  if (!(t->bpe.order = ml_calloc(t->vocab.count, sizeof *t->bpe.order))) return ML_MEMORY;
  for (uint64_t i = 0; i < scores->length; i++) {
    double score;
    ML_TRY(ml_gguf_float_at(scores, i, &score));
    if (isnan(score)) return ml_fail(ML_CORRUPT, "tokenizer.ggml.scores: %llu is not a number", (unsigned long long)i);
    t->bpe.order[i] = ml_bpe_score_rank((float)score);
  }
  return ML_OK;
}

/* --- model gpt2 --- */

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORDS(digits)                                                                                                  \
  CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| "                                                           \
               "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* What the `pre` names mean: patterns, each isolated within the pieces of the one before. */
typedef struct recipe {
  const char *names[12];
  const char *patterns[5];
  bool nfc, ignore_merges, adds_bos;
} recipe;

static const recipe recipes[] = {
    {.names = {"gpt-2", "phi-2"}, .patterns = {ml_gpt2_pattern}},
    {.names = {"smollm"}, .patterns = {"\\p{numeric}", ml_gpt2_pattern}},
    {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
     .patterns = {WORDS("\\p{N}{1,3}")},
     .ignore_merges = true,
     .adds_bos = true},
    {.names = {"qwen2", "deepseek-r1-qwen", "kormo"}, .patterns = {WORDS("\\p{N}")}, .nfc = true},
    {.names = {"default"}, .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|]+", ml_gpt2_pattern, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

static const recipe *find_recipe(const char *name, size_t size) {
  for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
    for (const char *const *n = recipes[i].names; *n; n++) {
      if (strlen(*n) == size && memcmp(*n, name, size) == 0) return &recipes[i];
    }
  }
  return NULL;
}

static ml_status follow(ml_tokenizer *t, const recipe *r) {
  if (r->nfc) ML_TRY(ml_normalizer_add(&t->normalizer, (ml_normal_op){.kind = ML_NORMAL_NFC}));
  for (const char *const *p = r->patterns; *p; p++) {
    ML_TRY(ml_pretokenizer_add_split(&t->pretokenizer, *p, strlen(*p), false, ML_SPLIT_ISOLATED, false));
  }
  t->bpe.ignore_merges = r->ignore_merges;
  ML_TRY(ml_pretokenizer_add(&t->pretokenizer, (ml_step){.kind = ML_STEP_BYTES}));
  return ml_decoder_add(&t->decoder, (ml_stage){.kind = ML_STAGE_BYTE_LEVEL});
}

static ml_status read_gpt2(ml_tokenizer *t, const ml_gguf *g, bool *adds_bos) {
  const char *pre;
  size_t size;
  ML_TRY(string_key(g, "tokenizer.ggml.pre", &pre, &size));
  const recipe *r = pre ? find_recipe(pre, size) : find_recipe("default", 7); /* files older than the key */
  if (!r)
    return ml_fail(ML_UNSUPPORTED, "tokenizer.ggml.pre: %.*s is not supported", (int)(size < 100 ? size : 100), pre);
  *adds_bos = r->adds_bos;
  ML_TRY(follow(t, r));
  return read_merges(t, g);
}

/* --- model llama --- */

static ml_status add_text(ml_text *text, const char *bytes) { return ml_text_append(text, bytes, strlen(bytes)); }

static ml_status add_marks(ml_tokenizer *t) {
  ml_normal_op mark = {.kind = ML_NORMAL_REPLACE};
  ml_status status = add_text(&mark.content, underline);
  if (status == ML_OK) status = ml_pattern_compile(" ", 1, true, &mark.pattern);
  if (status == ML_OK) return ml_normalizer_add(&t->normalizer, mark);
  ml_text_free(&mark.content);
  return status;
}

static ml_status remove_marks(ml_tokenizer *t) {
  ml_stage space = {.kind = ML_STAGE_REPLACE};
  ml_status status = add_text(&space.literal, underline);
  if (status == ML_OK) status = add_text(&space.content, " ");
  if (status == ML_OK) return ml_decoder_add(&t->decoder, space);
  ml_stage_free(&space);
  return status;
}

/* Spaces become underlines, one more in front on request; and back. */
static ml_status add_spaces(ml_tokenizer *t, const ml_gguf *g) {
  bool prefix = true;
  ml_normal_op prepend = {.kind = ML_NORMAL_PREPEND};
  ml_stage strip = {.kind = ML_STAGE_STRIP, .start = 1};
  ML_TRY(bool_key(g, "tokenizer.ggml.add_space_prefix", &prefix));
  ML_TRY(add_marks(t));
  ML_TRY(remove_marks(t));
  ML_TRY(ml_decoder_add(&t->decoder, (ml_stage){.kind = ML_STAGE_BYTE_FALLBACK}));
  ML_TRY(ml_decoder_add(&t->decoder, (ml_stage){.kind = ML_STAGE_FUSE}));
  if (!prefix) return ML_OK;
  ML_TRY(add_text(&prepend.content, underline));
  ML_TRY(ml_normalizer_add(&t->normalizer, prepend));
  ML_TRY(add_text(&strip.content, " "));
  return ml_decoder_add(&t->decoder, strip);
}

static ml_status read_llama(ml_tokenizer *t, const ml_gguf *g, bool *adds_bos) {
  *adds_bos = true;
  ML_TRY(read_scores(t, g));
  t->bpe.byte_fallback = t->bpe.fuse_unk = true;
  t->bpe.unk = ml_vocab_has(&t->vocab, 0) ? 0 : -1; /* SentencePiece's default, as are 1 and 2 for BOS and EOS */
  return id_key(g, t, "tokenizer.ggml.unknown_token_id", &t->bpe.unk);
}

/* --- the whole --- */

static ml_status add_template(ml_tokenizer *t, bool adds_bos, bool adds_eos, int32_t eos) {
  ml_template template = {0};
  ml_status status = ML_OK;
  if (adds_bos && t->bos < 0) return ml_fail(ML_CORRUPT, "tokenizer.ggml.bos_token_id: expected, since BOS is added");
  if (adds_eos && eos < 0) return ml_fail(ML_CORRUPT, "tokenizer.ggml.eos_token_id: expected, since EOS is added");
  if (!adds_bos && !adds_eos) return ML_OK;
  if (adds_bos) status = ml_template_push(&template, t->bos);
  if (status == ML_OK) status = ml_template_push(&template, ML_TEMPLATE_TEXT);
  if (status == ML_OK && adds_eos) status = ml_template_push(&template, eos);
  if (status == ML_OK) return ml_tokenizer_add_template(t, template);
  ml_free(template.items);
  return status;
}

static ml_status read_tokenizer(ml_tokenizer *t, const ml_gguf *g) {
  const char *model;
  size_t size;
  bool adds_bos = false, adds_eos = false;
  int32_t eos = -1, eot = -1;
  ML_TRY(string_key(g, "tokenizer.ggml.model", &model, &size));
  bool none =
      model && ((size == 4 && memcmp(model, "none", 4) == 0) || (size == 8 && memcmp(model, "no_vocab", 8) == 0));
  if (!model || none) return ml_fail(ML_NOT_FOUND, "tokenizer.ggml.model: the file has no tokenizer");
  bool llama = size == 5 && memcmp(model, "llama", 5) == 0;
  if (!llama && !(size == 4 && memcmp(model, "gpt2", 4) == 0)) {
    return ml_fail(ML_UNSUPPORTED, "tokenizer.ggml.model: %.*s is not supported", (int)(size < 100 ? size : 100),
                   model);
  }
  if (llama) ML_TRY(add_spaces(t, g));
  ML_TRY(read_vocab(t, g));
  ML_TRY(llama ? read_llama(t, g, &adds_bos) : read_gpt2(t, g, &adds_bos));
  if (llama && t->vocab.count > 2) {
    t->bos = 1;
    eos = 2;
  }
  ML_TRY(id_key(g, t, "tokenizer.ggml.bos_token_id", &t->bos));
  ML_TRY(id_key(g, t, "tokenizer.ggml.eos_token_id", &eos));
  ML_TRY(id_key(g, t, "tokenizer.ggml.eot_token_id", &eot));
  ML_TRY(bool_key(g, "tokenizer.ggml.add_bos_token", &adds_bos));
  ML_TRY(bool_key(g, "tokenizer.ggml.add_eos_token", &adds_eos));
  ML_TRY(ml_tokenizer_add_eos(t, eos));
  ML_TRY(ml_tokenizer_add_eos(t, eot));
  return add_template(t, adds_bos, adds_eos, eos);
}

ml_status ml_tokenizer_from_gguf(const ml_gguf *gguf, ml_tokenizer **out) {
  ml_tokenizer *t;
  *out = NULL;
  ML_TRY(ml_tokenizer_new(&t));
  const char *path = gguf->checkpoint.n_files > 0 ? gguf->checkpoint.files[0]->path : "gguf";
  ml_status status = ml_fail_prefix(read_tokenizer(t, gguf), "%s", path);
  if (status == ML_OK) status = ml_tokenizer_finish(t);
  if (status != ML_OK) {
    ml_tokenizer_close(t);
    return status;
  }
  *out = t;
  return ML_OK;
}
