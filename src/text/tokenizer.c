/* tokenizer.c: encoding and decoding with the parts of a tokenizer. */
#include "text/parts.h"

#include <string.h>

ml_status ml_tokenizer_new(ml_tokenizer **out) {
  *out = ml_calloc(1, sizeof **out);
  if (!*out) return ML_MEMORY;
  (*out)->bos = (*out)->bpe.unk = -1;
  return ML_OK;
}

void ml_tokenizer_close(ml_tokenizer *t) {
  if (!t) return;
  ml_decoding_close(t->decoding);
  ml_decoder_free(&t->decoder);
  ml_vocab_free(&t->vocab);
  ml_bpe_free(&t->bpe);
  ml_added_free(&t->added);
  ml_added_free(&t->normalized);
  ml_normalizer_free(&t->normalizer);
  ml_pretokenizer_free(&t->pretokenizer);
  for (size_t i = 0; i < t->n_templates; i++) ml_free(t->templates[i].items);
  ml_free(t->templates);
  ml_ids_free(&t->eos);
  ml_ids_free(&t->wrapped);
  ml_text_free(&t->sanitized);
  ml_free(t);
}

/* --- construction --- */

ml_status ml_tokenizer_add_token(ml_tokenizer *t, bool normalized, const char *text, size_t size,
                                 ml_added_token token) {
  if (!normalized) return size ? ml_added_add(&t->added, text, size, token) : ML_OK;
  ML_TRY(ml_normalize(&t->normalizer, &text, &size));
  return size ? ml_added_add(&t->normalized, text, size, token) : ML_OK;
}

static ml_status push_id(ml_ids *ids, int32_t id) {
  ML_TRY(ML_GROW(ids->items, ids->capacity, ids->count + 1));
  ids->items[ids->count++] = id;
  return ML_OK;
}

ml_status ml_tokenizer_add_eos(ml_tokenizer *t, int32_t id) {
  for (size_t i = 0; i < t->eos.count; i++) {
    if (t->eos.items[i] == id) return ML_OK;
  }
  return id < 0 ? ML_OK : push_id(&t->eos, id);
}

ml_status ml_template_push(ml_template *template, int32_t item) {
  ML_TRY(ML_GROW(template->items, template->capacity, template->count + 1));
  template->items[template->count++] = item;
  return ML_OK;
}

ml_status ml_tokenizer_add_template(ml_tokenizer *t, ml_template template) {
  ml_status status = ML_GROW(t->templates, t->templates_capacity, t->n_templates + 1);
  if (status != ML_OK) {
    ml_free(template.items);
    return status;
  }
  t->templates[t->n_templates++] = template;
  return ML_OK;
}

/* Ids appended since `from`, put into each template in turn. */
static ml_status post_process(ml_tokenizer *t, ml_ids *ids, size_t from) {
  ml_ids *whole = &t->wrapped;
  for (size_t k = 0; k < t->n_templates; k++) {
    const ml_template *template = &t->templates[k];
    size_t n = ids->count - from;
    whole->count = 0;
    for (size_t i = 0; i < template->count; i++) {
      if (template->items[i] != ML_TEMPLATE_TEXT) {
        ML_TRY(push_id(whole, template->items[i]));
      } else if (n > 0) {
        ML_TRY(ML_GROW(whole->items, whole->capacity, whole->count + n));
        memcpy(whole->items + whole->count, ids->items + from, n * sizeof *whole->items);
        whole->count += n;
      }
    }
    ML_TRY(ML_GROW(ids->items, ids->capacity, from + whole->count));
    if (whole->count > 0) memcpy(ids->items + from, whole->items, whole->count * sizeof *whole->items);
    ids->count = from + whole->count;
  }
  return ML_OK;
}

ml_status ml_tokenizer_finish(ml_tokenizer *t) {
  ml_ids empty = {0};
  ml_added_finish(&t->added);
  ml_added_finish(&t->normalized);
  t->bpe.vocab = &t->vocab;
  t->bpe.byte_level = t->pretokenizer.view == ML_VIEW_BYTES;
  ML_TRY(ml_bpe_finish(&t->bpe));
  ML_TRY(ml_decoding_open(&t->decoder, &t->decoding));
  ml_status status = post_process(t, &empty, 0);
  if (status == ML_OK) t->adds_bos = empty.count > 0 && empty.items[0] == t->bos;
  ml_ids_free(&empty);
  return status;
}

/* --- encoding --- */

static ml_status encode_words(ml_tokenizer *t, const char *text, size_t size, bool at_start, ml_ids *ids) {
  const ml_spans *words;
  ML_TRY(ml_pretokenize(&t->pretokenizer, &text, size, at_start, &words));
  for (size_t i = 0; i < words->count; i++) {
    const ml_span *w = &words->items[i];
    ML_TRY(ml_bpe_encode(&t->bpe, text + w->start, w->end - w->start, ids));
  }
  return ML_OK;
}

/* Text between the added tokens that are found before normalisation. */
static ml_status encode_ordinary(ml_tokenizer *t, const char *text, size_t size, bool at_start, bool special,
                                 ml_ids *ids) {
  ml_added_scan scan = {0};
  size_t start, end;
  int32_t id;
  ML_TRY(ml_normalize(&t->normalizer, &text, &size));
  while (ml_added_next(&t->normalized, &scan, text, size, special, &start, &end, &id)) {
    if (start > scan.done) {
      ML_TRY(encode_words(t, text + scan.done, start - scan.done, at_start && scan.done == 0, ids));
    }
    ML_TRY(push_id(ids, id));
    scan.done = end;
  }
  return scan.done < size ? encode_words(t, text + scan.done, size - scan.done, at_start && scan.done == 0, ids)
                          : ML_OK;
}

static ml_status encode_text(ml_tokenizer *t, const char *text, size_t size, bool special, ml_ids *ids) {
  ml_added_scan scan = {0};
  size_t start, end;
  int32_t id;
  while (ml_added_next(&t->added, &scan, text, size, special, &start, &end, &id)) {
    if (start > scan.done) {
      ML_TRY(encode_ordinary(t, text + scan.done, start - scan.done, scan.done == 0, special, ids));
    }
    ML_TRY(push_id(ids, id));
    scan.done = end;
  }
  return scan.done < size ? encode_ordinary(t, text + scan.done, size - scan.done, scan.done == 0, special, ids)
                          : ML_OK;
}

ml_status ml_tokenizer_encode(ml_tokenizer *t, const char *text, size_t size, ml_encode_options options, ml_ids *ids) {
  size_t before = ids->count;
  if (size == 0) text = ""; /* which may have been NULL */
  if (size > INT32_MAX) return ml_fail(ML_LIMIT, "encode: a text of %zu bytes, expected less than 2 GiB", size);
  if (ml_utf8_prefix(text, size) != size) {
    t->sanitized.size = 0;
    ML_TRY(ml_utf8_append_lossy(&t->sanitized, text, size));
    text = t->sanitized.bytes;
    size = t->sanitized.size;
    if (size > INT32_MAX) return ml_fail(ML_LIMIT, "encode: a text of %zu bytes, expected less than 2 GiB", size);
  }
  ml_status status = encode_text(t, text, size, options.parse_special, ids);
  if (status == ML_OK && options.add_special_tokens) status = post_process(t, ids, before);
  if (status != ML_OK) ids->count = before;
  return status;
}

/* --- decoding --- */

/* Models may have more rows than the vocabulary has entries, and give their ids: those have no text. */
static ml_status push_token(ml_tokenizer *t, ml_decoding *state, int32_t id, bool skip_special, ml_text *text) {
  if (id < 0) return ml_fail(ML_USAGE, "decode: id %d, expected an id from 0", (int)id);
  if (!ml_vocab_has(&t->vocab, id)) return ML_OK;
  if (skip_special && (t->vocab.flags[id] & ML_PIECE_SPECIAL)) return ML_OK;
  size_t size;
  const char *piece = ml_vocab_piece(&t->vocab, id, &size);
  return ml_decoding_push(state, piece, size, text);
}

ml_status ml_tokenizer_decode(ml_tokenizer *t, const int32_t *ids, size_t count, bool skip_special, ml_text *text) {
  size_t before = text->size;
  ml_status status = ML_OK;
  ml_decoding_reset(t->decoding);
  for (size_t i = 0; status == ML_OK && i < count; i++) status = push_token(t, t->decoding, ids[i], skip_special, text);
  if (status == ML_OK) status = ml_decoding_finish(t->decoding, text);
  if (status != ML_OK) text->size = before;
  return status;
}

struct ml_stream {
  ml_tokenizer *tokenizer;
  ml_decoding *state;
  bool skip_special;
};

ml_status ml_stream_open(ml_tokenizer *t, bool skip_special, ml_stream **out) {
  *out = NULL;
  ml_stream *s = ml_calloc(1, sizeof *s);
  if (!s) return ML_MEMORY;
  s->tokenizer = t;
  s->skip_special = skip_special;
  ml_status status = ml_decoding_open(&t->decoder, &s->state);
  if (status != ML_OK) {
    ml_free(s);
    return status;
  }
  *out = s;
  return ML_OK;
}

ml_status ml_stream_push(ml_stream *s, int32_t id, ml_text *text) {
  return push_token(s->tokenizer, s->state, id, s->skip_special, text);
}

ml_status ml_stream_finish(ml_stream *s, ml_text *text) { return ml_decoding_finish(s->state, text); }

void ml_stream_close(ml_stream *s) {
  if (!s) return;
  ml_decoding_close(s->state);
  ml_free(s);
}

/* --- questions --- */

int32_t ml_tokenizer_vocab_size(const ml_tokenizer *t) { return (int32_t)t->vocab.count; }
int32_t ml_tokenizer_bos(const ml_tokenizer *t) { return t->bos; }
bool ml_tokenizer_adds_bos(const ml_tokenizer *t) { return t->adds_bos; }

const int32_t *ml_tokenizer_eos(const ml_tokenizer *t, size_t *count) {
  *count = t->eos.count;
  return t->eos.items;
}

int32_t ml_tokenizer_id(const ml_tokenizer *t, const char *piece, size_t size) {
  return ml_vocab_find(&t->vocab, piece, size);
}

const char *ml_tokenizer_piece(const ml_tokenizer *t, int32_t id, size_t *size) {
  return ml_vocab_has(&t->vocab, id) ? ml_vocab_piece(&t->vocab, id, size) : NULL;
}

bool ml_tokenizer_is_special(const ml_tokenizer *t, int32_t id) {
  return ml_vocab_has(&t->vocab, id) && (t->vocab.flags[id] & ML_PIECE_SPECIAL);
}
