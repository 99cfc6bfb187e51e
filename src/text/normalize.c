/* normalize.c: the operations of a normaliser, one after another. */
#include "text/normalize.h"

#include <string.h>

ml_status ml_normalizer_add(ml_normalizer *n, ml_normal_op op) {
  ml_status status = ML_GROW(n->ops, n->capacity, n->count + 1);
  if (status != ML_OK) {
    ml_pattern_free(op.pattern);
    ml_text_free(&op.content);
    return status;
  }
  n->ops[n->count++] = op;
  return ML_OK;
}

void ml_normalizer_free(ml_normalizer *n) {
  for (size_t i = 0; i < n->count; i++) {
    ml_pattern_free(n->ops[i].pattern);
    ml_text_free(&n->ops[i].content);
  }
  ml_free(n->ops);
  for (int i = 0; i < 2; i++) ml_text_free(&n->texts[i]);
  ml_spans_free(&n->cut);
  *n = (ml_normalizer){0};
}

static void strip(const ml_normal_op *op, const char **text, size_t *size) {
  const char *s = *text, *end = s + *size;
  while (op->left && s < end && ml_unicode_is_space(ml_utf8_decode(s))) s += ml_utf8_length(*s);
  while (op->right && end > s) {
    const char *last = end - 1;
    while (((unsigned char)*last & 0xc0) == 0x80) last--;
    if (!ml_unicode_is_space(ml_utf8_decode(last))) break;
    end = last;
  }
  *text = s;
  *size = (size_t)(end - s);
}

static ml_status map_characters(ml_normal_kind kind, const char *text, size_t size, ml_text *out) {
  for (size_t i = 0; i < size; i += ml_utf8_length(text[i])) {
    uint32_t code = ml_utf8_decode(text + i);
    if (kind == ML_NORMAL_STRIP_ACCENTS) {
      if (!ml_unicode_is_accent(code)) ML_TRY(ml_text_append(out, text + i, ml_utf8_length(text[i])));
    } else if (code == 0x130) { /* I with a dot above: the one whose lower case is two characters */
      ML_TRY(ml_text_append(out, "i\xcc\x87", 3));
    } else {
      ML_TRY(ml_text_append_code(out, ml_unicode_lower(code)));
    }
  }
  return ML_OK;
}

static ml_status replace(ml_normalizer *n, const ml_normal_op *op, const char *text, size_t size, ml_text *out) {
  n->cut.count = 0;
  ML_TRY(ml_pattern_cut(op->pattern, ML_VIEW_CHARS, text, 0, (uint32_t)size, &n->cut));
  for (size_t i = 0; i < n->cut.count; i++) {
    const ml_span *c = &n->cut.items[i];
    ML_TRY(c->match ? ml_text_append(out, op->content.bytes, op->content.size)
                    : ml_text_append(out, text + c->start, c->end - c->start));
  }
  return ML_OK;
}

static ml_status run(ml_normalizer *n, const ml_normal_op *op, const char **text, size_t *size) {
  if (op->kind == ML_NORMAL_STRIP) {
    strip(op, text, size);
    return ML_OK;
  }
  if (*size == 0 || (op->kind == ML_NORMAL_NFC && ml_is_nfc(*text, *size))) return ML_OK;
  const ml_text *first = &n->texts[0];
  bool in_first = first->bytes && *text >= first->bytes && *text < first->bytes + first->capacity;
  ml_text *out = &n->texts[in_first];
  out->size = 0;
  switch (op->kind) {
  case ML_NORMAL_LOWERCASE:
  case ML_NORMAL_STRIP_ACCENTS: ML_TRY(map_characters(op->kind, *text, *size, out)); break;
  case ML_NORMAL_PREPEND:
    ML_TRY(ml_text_append(out, op->content.bytes, op->content.size));
    ML_TRY(ml_text_append(out, *text, *size));
    break;
  case ML_NORMAL_REPLACE: ML_TRY(replace(n, op, *text, *size, out)); break;
  default: ML_TRY(ml_normal_form(op->kind, *text, *size, out)); break;
  }
  if (out->size > INT32_MAX) return ml_fail(ML_LIMIT, "encode: a text of more than 2 GiB");
  *text = out->bytes ? out->bytes : "";
  *size = out->size;
  return ML_OK;
}

ml_status ml_normalize(ml_normalizer *n, const char **text, size_t *size) {
  for (size_t i = 0; i < n->count; i++) ML_TRY(run(n, &n->ops[i], text, size));
  return ML_OK;
}
