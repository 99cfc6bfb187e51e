/* decode.c: the stages of decoding. */
#include "text/decode.h"

#include <string.h>

/* What a stage remembers between parts. */
typedef struct memory {
  ml_text pending;       /* text of the token so far, or bytes not yet a character */
  ml_text token;         /* BYTE_FALLBACK: the token being received, while bytes are pending */
  size_t tokens;         /* ended so far */
  size_t stripped, held; /* STRIP: characters dropped at the start of this token; kept back at its end */
  bool started;          /* this token has had text that was not stripped; JOIN: any text */
} memory;

struct ml_decoding {
  const ml_decoder *decoder;
  ml_text *out;
  ml_spans cut;    /* scratch of regular expressions */
  size_t count;    /* of stages, kept here so that closing outlives the decoder */
  memory stages[]; /* (count) */
};

static ml_status receive(ml_decoding *s, size_t i, const char *text, size_t size);
static ml_status end_token(ml_decoding *s, size_t i);

void ml_stage_free(ml_stage *stage) {
  ml_pattern_free(stage->pattern);
  ml_text_free(&stage->literal);
  ml_text_free(&stage->content);
}

ml_status ml_decoder_add(ml_decoder *d, ml_stage stage) {
  ml_status status = ML_GROW(d->stages, d->capacity, d->count + 1);
  if (status != ML_OK) {
    ml_stage_free(&stage);
    return status;
  }
  d->stages[d->count++] = stage;
  return ML_OK;
}

void ml_decoder_free(ml_decoder *d) {
  for (size_t i = 0; i < d->count; i++) ml_stage_free(&d->stages[i]);
  ml_free(d->stages);
  *d = (ml_decoder){0};
}

/* Removes the first `size` pending bytes. */
static void drop(ml_text *text, size_t size) {
  if (size == 0) return;
  memmove(text->bytes, text->bytes + size, text->size - size);
  text->size -= size;
}

/* --- REPLACE --- */

/* Length of the longest end of `text` that begins, but is not, `pattern`. */
static size_t partial_match(const char *text, size_t size, const ml_text *pattern) {
  size_t n = pattern->size - 1 < size ? pattern->size - 1 : size;
  while (n > 0 && memcmp(text + size - n, pattern->bytes, n) != 0) n--;
  return n;
}

/* Replaces in `text` and hands it on; what may yet become a match is kept unless the token has ended. Returns in
 * *used how much of the text is done with. */
static ml_status replace_literal(ml_decoding *s, size_t i, const char *text, size_t size, bool ended, size_t *used) {
  const ml_stage *stage = &s->decoder->stages[i];
  size_t at = 0;
  const char *found;
  while ((found = memmem(text + at, size - at, stage->literal.bytes, stage->literal.size))) {
    ML_TRY(receive(s, i + 1, text + at, (size_t)(found - text) - at));
    ML_TRY(receive(s, i + 1, stage->content.bytes, stage->content.size));
    at = (size_t)(found - text) + stage->literal.size;
  }
  *used = size - (ended ? 0 : partial_match(text + at, size - at, &stage->literal));
  return receive(s, i + 1, text + at, *used - at);
}

static ml_status replace_pattern(ml_decoding *s, size_t i) {
  const ml_stage *stage = &s->decoder->stages[i];
  const ml_text *text = &s->stages[i].pending;
  s->cut.count = 0;
  if (text->size > INT32_MAX) return ml_fail(ML_LIMIT, "decode: a text of more than 2 GiB");
  if (text->size > 0)
    ML_TRY(ml_pattern_cut(stage->pattern, ML_VIEW_CHARS, text->bytes, 0, (uint32_t)text->size, &s->cut));
  ml_spans cut = s->cut; /* stages further on may want the scratch */
  s->cut = (ml_spans){0};
  ml_status status = ML_OK;
  for (size_t k = 0; status == ML_OK && k < cut.count; k++) {
    const ml_span *c = &cut.items[k];
    status = c->match ? receive(s, i + 1, stage->content.bytes, stage->content.size)
                      : receive(s, i + 1, text->bytes + c->start, c->end - c->start);
  }
  ml_spans_free(&s->cut);
  s->cut = cut;
  return status;
}

static ml_status replace(ml_decoding *s, size_t i, const char *text, size_t size) {
  ml_text *pending = &s->stages[i].pending;
  size_t used;
  if (s->decoder->stages[i].pattern) return ml_text_append(pending, text, size);
  if (pending->size == 0) {
    ML_TRY(replace_literal(s, i, text, size, false, &used));
    return ml_text_append(pending, text + used, size - used);
  }
  ML_TRY(ml_text_append(pending, text, size));
  ML_TRY(replace_literal(s, i, pending->bytes, pending->size, false, &used));
  drop(pending, used);
  return ML_OK;
}

static ml_status replace_end(ml_decoding *s, size_t i) {
  ml_text *pending = &s->stages[i].pending;
  size_t used;
  if (s->decoder->stages[i].pattern) {
    ML_TRY(replace_pattern(s, i));
  } else if (pending->size > 0) {
    ML_TRY(replace_literal(s, i, pending->bytes, pending->size, true, &used));
  }
  pending->size = 0;
  return ML_OK;
}

/* --- STRIP --- */

static ml_status strip(ml_decoding *s, size_t i, const char *text, size_t size) {
  const ml_stage *stage = &s->decoder->stages[i];
  const ml_text *mark = &stage->content;
  memory *m = &s->stages[i];
  while (!m->started && m->stripped < stage->start && size >= mark->size &&
         memcmp(text, mark->bytes, mark->size) == 0) {
    text += mark->size;
    size -= mark->size;
    m->stripped++;
  }
  if (size == 0) return ML_OK;
  m->started = true;
  size_t run = 0, most = size / mark->size; /* marks at the end of this part */
  while (run < most && memcmp(text + size - (run + 1) * mark->size, mark->bytes, mark->size) == 0) run++;
  bool only_marks = run * mark->size == size;
  size_t marks = run + (only_marks ? m->held : 0), held = marks < stage->stop ? marks : stage->stop;
  size_t release = only_marks ? marks - held : m->held; /* kept back before, and now not the end */
  if (!only_marks) {
    for (; release > 0; release--) ML_TRY(receive(s, i + 1, mark->bytes, mark->size));
    ML_TRY(receive(s, i + 1, text, size - held * mark->size));
  }
  for (; release > 0; release--) ML_TRY(receive(s, i + 1, mark->bytes, mark->size));
  m->held = held;
  return ML_OK;
}

static void strip_end(memory *m) {
  m->held = m->stripped = 0;
  m->started = false;
}

/* --- METASPACE, JOIN --- */

static ml_status metaspace(ml_decoding *s, size_t i, const char *text, size_t size) {
  const ml_stage *stage = &s->decoder->stages[i];
  bool dropped = stage->prepended && s->stages[i].tokens == 0;
  const char *end = text + size, *found;
  while ((found = memmem(text, (size_t)(end - text), stage->content.bytes, stage->content.size))) {
    ML_TRY(receive(s, i + 1, text, (size_t)(found - text)));
    if (!dropped) ML_TRY(receive(s, i + 1, " ", 1));
    text = found + stage->content.size;
  }
  return receive(s, i + 1, text, (size_t)(end - text));
}

/* The space before a token, at its first part or at its end. */
static ml_status join(ml_decoding *s, size_t i) {
  memory *m = &s->stages[i];
  if (m->started) return ML_OK;
  m->started = true;
  return m->tokens > 0 ? receive(s, i + 1, " ", 1) : ML_OK;
}

/* --- BYTE_FALLBACK --- */

static int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 32;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that a token <0xXX> means; -1 for any other. The reference's parser of numbers also takes "+X". */
static int token_byte(const ml_text *token) {
  const char *s = token->bytes;
  if (token->size != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
  int high = s[3] == '+' ? 0 : hex_value(s[3]), low = hex_value(s[4]);
  return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* The run of bytes has ended: it is text as a whole, or nothing of it is. */
static ml_status flush_bytes(ml_decoding *s, size_t i) {
  ml_text *bytes = &s->stages[i].pending;
  if (bytes->size == 0) return ML_OK;
  bool text = ml_utf8_prefix(bytes->bytes, bytes->size) == bytes->size;
  if (text) ML_TRY(receive(s, i + 1, bytes->bytes, bytes->size));
  for (size_t k = 0; k < bytes->size; k++) {
    if (!text) ML_TRY(receive(s, i + 1, "\xef\xbf\xbd", 3));
    if (!text && k + 1 < bytes->size) ML_TRY(end_token(s, i + 1));
  }
  bytes->size = 0;
  return end_token(s, i + 1);
}

static ml_status byte_fallback_end(ml_decoding *s, size_t i) {
  memory *m = &s->stages[i];
  int byte = token_byte(&m->token);
  if (byte >= 0) {
    char one = (char)byte;
    m->token.size = 0;
    return ml_text_append(&m->pending, &one, 1);
  }
  ML_TRY(flush_bytes(s, i));
  ML_TRY(receive(s, i + 1, m->token.bytes, m->token.size));
  m->token.size = 0;
  return end_token(s, i + 1);
}

/* --- BYTE_LEVEL --- */

/* Hands on the characters that are complete; with `ended`, everything. */
static ml_status flush_characters(ml_decoding *s, size_t i, bool ended) {
  ml_text *bytes = &s->stages[i].pending;
  size_t at = 0;
  while (at < bytes->size) {
    size_t good = ml_utf8_prefix(bytes->bytes + at, bytes->size - at);
    ML_TRY(receive(s, i + 1, bytes->bytes + at, good));
    at += good;
    if (at == bytes->size) break;
    bool incomplete;
    size_t bad = ml_utf8_invalid(bytes->bytes + at, bytes->size - at, &incomplete);
    if (incomplete && !ended) break;
    ML_TRY(receive(s, i + 1, "\xef\xbf\xbd", 3));
    at += bad;
  }
  drop(bytes, at);
  return ML_OK;
}

/* A token with a character that stands for no byte is taken as it is. */
static ml_status byte_level_end(ml_decoding *s, size_t i) {
  memory *m = &s->stages[i];
  size_t before = m->pending.size;
  for (size_t k = 0; k < m->token.size; k += ml_utf8_length(m->token.bytes[k])) {
    int byte = ml_char_byte(ml_utf8_decode(m->token.bytes + k));
    if (byte < 0) {
      m->pending.size = before;
      ML_TRY(ml_text_append(&m->pending, m->token.bytes, m->token.size));
      break;
    }
    char one = (char)byte;
    ML_TRY(ml_text_append(&m->pending, &one, 1));
  }
  m->token.size = 0;
  return flush_characters(s, i, false);
}

/* --- the chain --- */

/* Part of a token's text comes to stage i. */
static ml_status receive(ml_decoding *s, size_t i, const char *text, size_t size) {
  if (size == 0) return ML_OK;
  if (i == s->decoder->count) return ml_text_append(s->out, text, size);
  switch (s->decoder->stages[i].kind) {
  case ML_STAGE_REPLACE: return replace(s, i, text, size);
  case ML_STAGE_STRIP: return strip(s, i, text, size);
  case ML_STAGE_METASPACE: return metaspace(s, i, text, size);
  case ML_STAGE_BYTE_FALLBACK:
  case ML_STAGE_BYTE_LEVEL: return ml_text_append(&s->stages[i].token, text, size);
  case ML_STAGE_JOIN: ML_TRY(join(s, i)); break;
  case ML_STAGE_FUSE: break;
  }
  return receive(s, i + 1, text, size);
}

/* A token's text has all come to stage i. */
static ml_status end_token(ml_decoding *s, size_t i) {
  if (i == s->decoder->count) return ML_OK;
  memory *m = &s->stages[i];
  switch (s->decoder->stages[i].kind) {
  case ML_STAGE_FUSE: return ML_OK;
  case ML_STAGE_BYTE_LEVEL: return byte_level_end(s, i);
  case ML_STAGE_BYTE_FALLBACK: return byte_fallback_end(s, i);
  case ML_STAGE_REPLACE: ML_TRY(replace_end(s, i)); break;
  case ML_STAGE_STRIP: strip_end(m); break;
  case ML_STAGE_JOIN: ML_TRY(join(s, i)); break;
  case ML_STAGE_METASPACE: break;
  }
  m->tokens++;
  if (s->decoder->stages[i].kind == ML_STAGE_JOIN) m->started = false;
  return end_token(s, i + 1);
}

ml_status ml_decoding_open(const ml_decoder *d, ml_decoding **out) {
  *out = ml_calloc(1, sizeof **out + d->count * sizeof *(*out)->stages);
  if (!*out) return ML_MEMORY;
  (*out)->decoder = d;
  (*out)->count = d->count;
  return ML_OK;
}

ml_status ml_decoding_push(ml_decoding *s, const char *piece, size_t size, ml_text *text) {
  s->out = text;
  ML_TRY(receive(s, 0, piece, size));
  return end_token(s, 0);
}

ml_status ml_decoding_finish(ml_decoding *s, ml_text *text) {
  s->out = text;
  ml_status status = ML_OK;
  for (size_t i = 0; status == ML_OK && i < s->decoder->count; i++) {
    ml_stage_kind kind = s->decoder->stages[i].kind;
    if (kind == ML_STAGE_BYTE_FALLBACK) status = flush_bytes(s, i);
    if (kind == ML_STAGE_BYTE_LEVEL) status = flush_characters(s, i, true);
    if (status == ML_OK && (kind == ML_STAGE_BYTE_LEVEL || kind == ML_STAGE_FUSE)) status = end_token(s, i + 1);
  }
  ml_decoding_reset(s);
  return status;
}

void ml_decoding_reset(ml_decoding *s) {
  for (size_t i = 0; i < s->decoder->count; i++) {
    memory *m = &s->stages[i];
    m->pending.size = m->token.size = m->tokens = m->stripped = m->held = 0;
    m->started = false;
  }
}

void ml_decoding_close(ml_decoding *s) {
  if (!s) return;
  for (size_t i = 0; i < s->count; i++) {
    ml_text_free(&s->stages[i].pending);
    ml_text_free(&s->stages[i].token);
  }
  ml_spans_free(&s->cut);
  ml_free(s);
}
