/* tokenizer_json_parts.c: normaliser, pre-tokeniser, post-processor and decoder of tokenizer.json. */
#include "text/json_fields.h"

#include <string.h>

/* --- fields --- */

static ml_status wrong(const char *where, const char *key, const char *expected, const ml_json *found) {
  return ml_fail(ML_CORRUPT, "%s: %s: expected %s, found %s", where, key, expected,
                 ml_json_type_name(ml_json_type(found)));
}

ml_status ml_field_string(const ml_json *object, const char *where, const char *key, const char **text, size_t *size) {
  const ml_json *value = ml_json_get(object, key);
  *text = "";
  *size = 0;
  if (ml_json_type(value) != ML_JSON_STRING) return wrong(where, key, "a string", value);
  *text = ml_json_string(value, size);
  return ML_OK;
}

ml_status ml_field_bool(const ml_json *object, const char *where, const char *key, bool otherwise, bool *out) {
  const ml_json *value = ml_json_get(object, key);
  *out = otherwise;
  if (!value) return ML_OK;
  if (ml_json_type(value) != ML_JSON_BOOL) return wrong(where, key, "true or false", value);
  *out = ml_json_bool(value);
  return ML_OK;
}

ml_status ml_field_int(const ml_json *object, const char *where, const char *key, int64_t low, int64_t high,
                       int64_t *out) {
  const ml_json *value = ml_json_get(object, key);
  *out = low;
  if (ml_json_type(value) != ML_JSON_INT) return wrong(where, key, "an integer", value);
  *out = ml_json_int(value);
  if (*out >= low && *out <= high) return ML_OK;
  return ml_fail(ML_CORRUPT, "%s: %s: expected %lld to %lld, found %lld", where, key, (long long)low, (long long)high,
                 (long long)*out);
}

ml_status ml_field_array(const ml_json *object, const char *where, const char *key, const ml_json **out) {
  *out = ml_json_get(object, key);
  return ml_json_type(*out) == ML_JSON_ARRAY ? ML_OK : wrong(where, key, "an array", *out);
}

/* The type of a component, as a C string. */
static ml_status type_of(const ml_json *json, const char *where, const char **type) {
  size_t size;
  if (ml_json_type(json) != ML_JSON_OBJECT) {
    return ml_fail(ML_CORRUPT, "%s: expected an object or null, found %s", where,
                   ml_json_type_name(ml_json_type(json)));
  }
  ML_TRY(ml_field_string(json, where, "type", type, &size));
  return strlen(*type) == size ? ML_OK : ml_fail(ML_CORRUPT, "%s: type: a string with a NUL inside", where);
}

static ml_status unknown(const char *where, const char *type) {
  return ml_fail(ML_UNSUPPORTED, "%s: %s is not supported", where, type);
}

/* {"String": ...} or {"Regex": ...}, as Split and the two Replaces have it. */
static ml_status pattern_of(const ml_json *json, const char *where, const char **text, size_t *size, bool *literal) {
  const ml_json *pattern = ml_json_get(json, "pattern");
  *literal = ml_json_has(pattern, "String");
  *text = "";
  *size = 0;
  if (ml_json_type(pattern) != ML_JSON_OBJECT) return wrong(where, "pattern", "an object", pattern);
  return ml_field_string(pattern, where, *literal ? "String" : "Regex", text, size);
}

/* One character, as a C string. */
static ml_status character_of(const ml_json *json, const char *where, const char *key, char to[5]) {
  const char *text;
  size_t size;
  ML_TRY(ml_field_string(json, where, key, &text, &size));
  if (size == 0 || *text == '\0' || ml_utf8_length(*text) != size) {
    return ml_fail(ML_CORRUPT, "%s: %s: expected one character, found \"%.20s\"", where, key, text);
  }
  memcpy(to, text, size);
  to[size] = '\0';
  return ML_OK;
}

/* --- normaliser --- */

static ml_status read_replace(const ml_json *json, ml_normalizer *out) {
  ml_normal_op op = {.kind = ML_NORMAL_REPLACE};
  const char *pattern, *content;
  size_t size, content_size;
  bool literal;
  ML_TRY(pattern_of(json, "normalizer: Replace", &pattern, &size, &literal));
  ML_TRY(ml_field_string(json, "normalizer: Replace", "content", &content, &content_size));
  ML_TRY(ml_text_append(&op.content, content, content_size));
  ml_status status = ml_pattern_compile(pattern, size, literal, &op.pattern);
  if (status == ML_OK) return ml_normalizer_add(out, op);
  ml_text_free(&op.content);
  return ml_fail_prefix(status, "normalizer: Replace");
}

static ml_status read_prepend(const ml_json *json, ml_normalizer *out) {
  ml_normal_op op = {.kind = ML_NORMAL_PREPEND};
  const char *content;
  size_t size;
  ML_TRY(ml_field_string(json, "normalizer: Prepend", "prepend", &content, &size));
  ML_TRY(ml_text_append(&op.content, content, size));
  return ml_normalizer_add(out, op);
}

ml_status ml_read_normalizer(const ml_json *json, ml_normalizer *out) {
  static const struct {
    const char *name;
    ml_normal_kind kind;
  } plain[] = {{"NFC", ML_NORMAL_NFC},
               {"NFD", ML_NORMAL_NFD},
               {"NFKC", ML_NORMAL_NFKC},
               {"NFKD", ML_NORMAL_NFKD},
               {"Lowercase", ML_NORMAL_LOWERCASE},
               {"StripAccents", ML_NORMAL_STRIP_ACCENTS}};
  const char *type;
  if (ml_json_type(json) == ML_JSON_NULL) return ML_OK;
  ML_TRY(type_of(json, "normalizer", &type));
  for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
    if (strcmp(type, plain[i].name) == 0) return ml_normalizer_add(out, (ml_normal_op){.kind = plain[i].kind});
  }
  if (strcmp(type, "Sequence") == 0) {
    const ml_json *list;
    ML_TRY(ml_field_array(json, "normalizer: Sequence", "normalizers", &list));
    for (size_t i = 0; i < ml_json_length(list); i++) ML_TRY(ml_read_normalizer(ml_json_at(list, i), out));
    return ML_OK;
  }
  if (strcmp(type, "Strip") == 0) {
    ml_normal_op op = {.kind = ML_NORMAL_STRIP};
    ML_TRY(ml_field_bool(json, "normalizer: Strip", "strip_left", true, &op.left));
    ML_TRY(ml_field_bool(json, "normalizer: Strip", "strip_right", true, &op.right));
    return ml_normalizer_add(out, op);
  }
  if (strcmp(type, "Replace") == 0) return read_replace(json, out);
  if (strcmp(type, "Prepend") == 0) return read_prepend(json, out);
  return unknown("normalizer", type);
}

/* --- pre-tokeniser --- */

static ml_status behavior_of(const ml_json *json, const char *where, ml_split_behavior *out) {
  static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
  const char *name;
  size_t size;
  *out = ML_SPLIT_ISOLATED;
  ML_TRY(ml_field_string(json, where, "behavior", &name, &size));
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (strcmp(name, names[i]) == 0) {
      *out = (ml_split_behavior)i;
      return ML_OK;
    }
  }
  return ml_fail(ML_UNSUPPORTED, "%s: behavior %s is not supported", where, name);
}

static ml_status read_split(const ml_json *json, ml_pretokenizer *out) {
  static const char where[] = "pre_tokenizer: Split";
  const char *pattern;
  size_t size;
  bool literal, invert;
  ml_split_behavior behavior;
  ML_TRY(pattern_of(json, where, &pattern, &size, &literal));
  ML_TRY(behavior_of(json, where, &behavior));
  ML_TRY(ml_field_bool(json, where, "invert", false, &invert));
  return ml_fail_prefix(ml_pretokenizer_add_split(out, pattern, size, literal, behavior, invert), "%s", where);
}

static ml_status read_byte_level(const ml_json *json, ml_pretokenizer *out) {
  bool prefix, regex;
  ML_TRY(ml_field_bool(json, "pre_tokenizer: ByteLevel", "add_prefix_space", true, &prefix));
  ML_TRY(ml_field_bool(json, "pre_tokenizer: ByteLevel", "use_regex", true, &regex));
  if (prefix) ML_TRY(ml_pretokenizer_add(out, (ml_step){.kind = ML_STEP_PREFIX_SPACE}));
  if (regex) {
    ML_TRY(ml_pretokenizer_add_split(out, ml_gpt2_pattern, strlen(ml_gpt2_pattern), false, ML_SPLIT_ISOLATED, false));
  }
  return ml_pretokenizer_add(out, (ml_step){.kind = ML_STEP_BYTES});
}

/* Metaspace's prepend_scheme, or the older add_prefix_space. */
static ml_status prepend_of(const ml_json *json, const char *where, ml_prepend *out) {
  bool prefix;
  ML_TRY(ml_field_bool(json, where, "add_prefix_space", true, &prefix));
  *out = prefix ? ML_PREPEND_ALWAYS : ML_PREPEND_NEVER;
  if (!ml_json_get(json, "prepend_scheme")) return ML_OK;
  const char *scheme;
  size_t size;
  ML_TRY(ml_field_string(json, where, "prepend_scheme", &scheme, &size));
  ml_prepend named = strcmp(scheme, "always") == 0  ? ML_PREPEND_ALWAYS
                     : strcmp(scheme, "first") == 0 ? ML_PREPEND_FIRST
                                                    : ML_PREPEND_NEVER;
  if (named == ML_PREPEND_NEVER && strcmp(scheme, "never") != 0) {
    return ml_fail(ML_UNSUPPORTED, "%s: prepend_scheme %s is not supported", where, scheme);
  }
  if (!prefix && named != ML_PREPEND_NEVER) {
    return ml_fail(ML_CORRUPT, "%s: prepend_scheme %s, but add_prefix_space is false", where, scheme);
  }
  *out = named;
  return ML_OK;
}

static ml_status read_metaspace(const ml_json *json, ml_pretokenizer *out) {
  static const char where[] = "pre_tokenizer: Metaspace";
  ml_step step = {.kind = ML_STEP_METASPACE};
  bool split;
  ML_TRY(character_of(json, where, "replacement", step.mark));
  ML_TRY(prepend_of(json, where, &step.prepend));
  ML_TRY(ml_field_bool(json, where, "split", true, &split));
  ML_TRY(ml_pretokenizer_add(out, step));
  if (!split) return ML_OK;
  return ml_pretokenizer_add_split(out, step.mark, strlen(step.mark), true, ML_SPLIT_MERGED_WITH_NEXT, false);
}

static ml_status read_digits(const ml_json *json, ml_pretokenizer *out) {
  static const char digit[] = "\\p{numeric}";
  bool single;
  ML_TRY(ml_field_bool(json, "pre_tokenizer: Digits", "individual_digits", false, &single));
  ml_split_behavior behavior = single ? ML_SPLIT_ISOLATED : ML_SPLIT_CONTIGUOUS;
  return ml_pretokenizer_add_split(out, digit, strlen(digit), false, behavior, false);
}

static ml_status read_punctuation(const ml_json *json, ml_pretokenizer *out) {
  static const char mark[] = "\\p{punctuation}";
  ml_split_behavior behavior = ML_SPLIT_ISOLATED;
  if (ml_json_get(json, "behavior")) ML_TRY(behavior_of(json, "pre_tokenizer: Punctuation", &behavior));
  return ml_pretokenizer_add_split(out, mark, strlen(mark), false, behavior, false);
}

static ml_status read_delimiter(const ml_json *json, ml_pretokenizer *out) {
  char delimiter[5];
  ML_TRY(character_of(json, "pre_tokenizer: CharDelimiterSplit", "delimiter", delimiter));
  return ml_pretokenizer_add_split(out, delimiter, strlen(delimiter), true, ML_SPLIT_REMOVED, false);
}

static ml_status read_whitespace(const ml_json *json, ml_pretokenizer *out) {
  static const char words[] = "\\p{word}+|[^\\p{word}\\s]+";
  (void)json;
  return ml_pretokenizer_add_split(out, words, strlen(words), false, ML_SPLIT_REMOVED, true);
}

static ml_status read_whitespace_split(const ml_json *json, ml_pretokenizer *out) {
  (void)json;
  return ml_pretokenizer_add_split(out, "\\s", 2, false, ML_SPLIT_REMOVED, false);
}

ml_status ml_read_pretokenizer(const ml_json *json, ml_pretokenizer *out) {
  static const struct {
    const char *name;
    ml_status (*read)(const ml_json *, ml_pretokenizer *);
  } kinds[] = {{"Split", read_split},
               {"ByteLevel", read_byte_level},
               {"Metaspace", read_metaspace},
               {"Digits", read_digits},
               {"Punctuation", read_punctuation},
               {"Whitespace", read_whitespace},
               {"WhitespaceSplit", read_whitespace_split},
               {"CharDelimiterSplit", read_delimiter}};
  const char *type;
  if (ml_json_type(json) == ML_JSON_NULL) return ML_OK;
  ML_TRY(type_of(json, "pre_tokenizer", &type));
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (strcmp(type, kinds[i].name) == 0) return kinds[i].read(json, out);
  }
  if (strcmp(type, "Sequence") != 0) return unknown("pre_tokenizer", type);
  const ml_json *list;
  ML_TRY(ml_field_array(json, "pre_tokenizer: Sequence", "pretokenizers", &list));
  for (size_t i = 0; i < ml_json_length(list); i++) ML_TRY(ml_read_pretokenizer(ml_json_at(list, i), out));
  return ML_OK;
}

/* --- post-processor --- */

static ml_status push_special(const ml_json *id, const char *where, const ml_tokenizer *t, ml_template *out) {
  if (ml_json_type(id) != ML_JSON_INT) return wrong(where, "ids", "integers", id);
  int64_t value = ml_json_int(id);
  if (!ml_vocab_has(&t->vocab, value)) {
    return ml_fail(ML_CORRUPT, "%s: id %lld is not in the vocabulary", where, (long long)value);
  }
  return ml_template_push(out, (int32_t)value);
}

/* One item of a template: {"SpecialToken": {"id": name}} or {"Sequence": {"id": "A"}}. */
static ml_status read_item(const ml_json *item, const ml_json *specials, const ml_tokenizer *t, ml_template *out) {
  static const char where[] = "post_processor: TemplateProcessing";
  const ml_json *special = ml_json_get(item, "SpecialToken"), *ids;
  const char *name;
  size_t size;
  if (special) {
    ML_TRY(ml_field_string(special, where, "id", &name, &size));
    const ml_json *named = ml_json_get(specials, name);
    if (!named) return ml_fail(ML_CORRUPT, "%s: special_tokens: %.100s is missing", where, name);
    ML_TRY(ml_field_array(named, where, "ids", &ids));
    for (size_t i = 0; i < ml_json_length(ids); i++) ML_TRY(push_special(ml_json_at(ids, i), where, t, out));
    return ML_OK;
  }
  ML_TRY(ml_field_string(ml_json_get(item, "Sequence"), where, "id", &name, &size));
  if (strcmp(name, "A") != 0) return ml_fail(ML_CORRUPT, "%s: single: sequence %.20s, expected A", where, name);
  for (size_t i = 0; i < out->count; i++) {
    if (out->items[i] == ML_TEMPLATE_TEXT) return ml_fail(ML_UNSUPPORTED, "%s: single: a second sequence A", where);
  }
  return ml_template_push(out, ML_TEMPLATE_TEXT);
}

static ml_status read_template(const ml_json *json, const ml_tokenizer *t, ml_template *out) {
  const ml_json *single;
  ML_TRY(ml_field_array(json, "post_processor: TemplateProcessing", "single", &single));
  for (size_t i = 0; i < ml_json_length(single); i++) {
    ML_TRY(read_item(ml_json_at(single, i), ml_json_get(json, "special_tokens"), t, out));
  }
  return ML_OK;
}

/* BertProcessing and RobertaProcessing: [cls] text [sep], each named as [token, id]. */
static ml_status read_cls_sep(const ml_json *json, const ml_tokenizer *t, ml_template *out) {
  static const char where[] = "post_processor: cls and sep";
  const ml_json *cls, *sep;
  ML_TRY(ml_field_array(json, where, "cls", &cls));
  ML_TRY(ml_field_array(json, where, "sep", &sep));
  ML_TRY(push_special(ml_json_at(cls, 1), where, t, out));
  ML_TRY(ml_template_push(out, ML_TEMPLATE_TEXT));
  return push_special(ml_json_at(sep, 1), where, t, out);
}

ml_status ml_read_postprocessor(const ml_json *json, ml_tokenizer *t) {
  const char *type;
  ml_template template = {0};
  ml_status status;
  if (ml_json_type(json) == ML_JSON_NULL) return ML_OK;
  ML_TRY(type_of(json, "post_processor", &type));
  if (strcmp(type, "ByteLevel") == 0) return ML_OK; /* it trims offsets, and leaves the ids alone */
  if (strcmp(type, "Sequence") == 0) {
    const ml_json *list;
    ML_TRY(ml_field_array(json, "post_processor: Sequence", "processors", &list));
    for (size_t i = 0; i < ml_json_length(list); i++) ML_TRY(ml_read_postprocessor(ml_json_at(list, i), t));
    return ML_OK;
  }
  if (strcmp(type, "TemplateProcessing") == 0) {
    status = read_template(json, t, &template);
  } else if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
    status = read_cls_sep(json, t, &template);
  } else {
    return unknown("post_processor", type);
  }
  if (status == ML_OK) return ml_tokenizer_add_template(t, template);
  ml_free(template.items);
  return status;
}

/* --- decoder --- */

static ml_status read_replace_stage(const ml_json *json, ml_stage *stage) {
  static const char where[] = "decoder: Replace";
  const char *pattern, *content;
  size_t size, content_size;
  bool literal;
  ML_TRY(pattern_of(json, where, &pattern, &size, &literal));
  ML_TRY(ml_field_string(json, where, "content", &content, &content_size));
  ML_TRY(ml_text_append(&stage->content, content, content_size));
  if (literal && size > 0) return ml_text_append(&stage->literal, pattern, size);
  return ml_fail_prefix(ml_pattern_compile(pattern, size, literal, &stage->pattern), "%s", where);
}

static ml_status read_strip_stage(const ml_json *json, ml_stage *stage) {
  static const char where[] = "decoder: Strip";
  char content[5];
  int64_t start, stop;
  ML_TRY(character_of(json, where, "content", content));
  ML_TRY(ml_field_int(json, where, "start", 0, INT32_MAX, &start));
  ML_TRY(ml_field_int(json, where, "stop", 0, INT32_MAX, &stop));
  stage->start = (size_t)start;
  stage->stop = (size_t)stop;
  return ml_text_append(&stage->content, content, strlen(content));
}

static ml_status read_metaspace_stage(const ml_json *json, ml_stage *stage) {
  static const char where[] = "decoder: Metaspace";
  char mark[5];
  ml_prepend prepend;
  ML_TRY(character_of(json, where, "replacement", mark));
  ML_TRY(prepend_of(json, where, &prepend));
  stage->prepended = prepend != ML_PREPEND_NEVER;
  return ml_text_append(&stage->content, mark, strlen(mark));
}

static ml_status read_plain_stage(const ml_json *json, ml_stage *stage) {
  (void)json;
  (void)stage;
  return ML_OK;
}

static ml_status read_stages(const ml_json *json, ml_decoder *out) {
  static const struct {
    const char *name;
    ml_stage_kind kind;
    ml_status (*read)(const ml_json *, ml_stage *);
  } kinds[] = {{"ByteLevel", ML_STAGE_BYTE_LEVEL, read_plain_stage},
               {"Fuse", ML_STAGE_FUSE, read_plain_stage},
               {"ByteFallback", ML_STAGE_BYTE_FALLBACK, read_plain_stage},
               {"Replace", ML_STAGE_REPLACE, read_replace_stage},
               {"Strip", ML_STAGE_STRIP, read_strip_stage},
               {"Metaspace", ML_STAGE_METASPACE, read_metaspace_stage}};
  const char *type;
  ML_TRY(type_of(json, "decoder", &type));
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (strcmp(type, kinds[i].name) != 0) continue;
    ml_stage stage = {.kind = kinds[i].kind};
    ml_status status = kinds[i].read(json, &stage);
    if (status == ML_OK) return ml_decoder_add(out, stage);
    ml_stage_free(&stage);
    return status;
  }
  if (strcmp(type, "Sequence") != 0) return unknown("decoder", type);
  const ml_json *list;
  ML_TRY(ml_field_array(json, "decoder: Sequence", "decoders", &list));
  for (size_t i = 0; i < ml_json_length(list); i++) ML_TRY(read_stages(ml_json_at(list, i), out));
  return ML_OK;
}

ml_status ml_read_decoder(const ml_json *json, ml_decoder *out) {
  if (ml_json_type(json) == ML_JSON_NULL) return ml_decoder_add(out, (ml_stage){.kind = ML_STAGE_JOIN});
  return read_stages(json, out);
}
