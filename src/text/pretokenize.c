/* pretokenize.c: the steps of pre-tokenisation, each applied to the pieces of the one before. */
#include "text/pretokenize.h"

#include <string.h>

const char ml_gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

ml_status ml_pretokenizer_add(ml_pretokenizer *p, ml_step step) {
  ml_status status = ML_OK;
  bool bytes = p->view == ML_VIEW_BYTES;
  if (bytes && step.kind != ML_STEP_SPLIT) {
    status =
        ml_fail(ML_UNSUPPORTED, "pre_tokenizer: a second ByteLevel or a Metaspace after ByteLevel is not supported");
  }
  if (status == ML_OK) status = ML_GROW(p->steps, p->capacity, p->count + 1);
  if (status != ML_OK) {
    ml_pattern_free(step.pattern);
    return status;
  }
  if (step.kind == ML_STEP_BYTES) p->view = ML_VIEW_BYTES;
  p->steps[p->count++] = step;
  return ML_OK;
}

ml_status ml_pretokenizer_add_split(ml_pretokenizer *p, const char *pattern, size_t size, bool literal,
                                    ml_split_behavior behavior, bool invert) {
  ml_step step = {.kind = ML_STEP_SPLIT, .behavior = behavior, .invert = invert};
  ML_TRY(ml_pattern_compile(pattern, size, literal, &step.pattern));
  return ml_pretokenizer_add(p, step);
}

/* --- Split --- */

static ml_status add_piece(ml_spans *out, ml_span piece) {
  return piece.end > piece.start ? ml_spans_add(out, piece.start, piece.end, false) : ML_OK;
}

/* Matches joined to what is before them, or to each other: all behaviours that look back. A lone match at the start
 * stays alone. */
static ml_status join_backwards(const ml_span *cut, size_t n, ml_split_behavior behavior, ml_spans *out) {
  bool previous = false;
  ml_span piece = {0};
  bool any = false;
  for (size_t i = 0; i < n; i++) {
    bool joins = behavior == ML_SPLIT_CONTIGUOUS ? cut[i].match == previous : cut[i].match && !previous;
    if (any && joins) {
      piece.end = cut[i].end;
    } else {
      if (any) ML_TRY(add_piece(out, piece));
      piece = cut[i];
      any = true;
    }
    previous = cut[i].match;
  }
  return any ? add_piece(out, piece) : ML_OK;
}

/* Each match joined to what follows it, walking from the end as the reference does. */
static ml_status join_forwards(ml_span *cut, size_t n, ml_spans *out) {
  bool previous = false;
  size_t kept = n; /* pieces are collected at the end of `cut`, which has been read there */
  for (size_t i = n; i-- > 0;) {
    ml_span one = cut[i];
    if (one.match && !previous && kept < n) {
      cut[kept].start = one.start;
    } else {
      cut[--kept] = one;
    }
    previous = one.match;
  }
  for (; kept < n; kept++) ML_TRY(add_piece(out, cut[kept]));
  return ML_OK;
}

static ml_status apply_behavior(const ml_step *step, ml_spans *cut, ml_spans *out) {
  for (size_t i = 0; step->invert && i < cut->count; i++) cut->items[i].match = !cut->items[i].match;
  switch (step->behavior) {
  case ML_SPLIT_MERGED_WITH_NEXT: return join_forwards(cut->items, cut->count, out);
  case ML_SPLIT_MERGED_WITH_PREVIOUS:
  case ML_SPLIT_CONTIGUOUS: return join_backwards(cut->items, cut->count, step->behavior, out);
  default: break;
  }
  for (size_t i = 0; i < cut->count; i++) {
    if (step->behavior == ML_SPLIT_REMOVED && cut->items[i].match) continue;
    ML_TRY(add_piece(out, cut->items[i]));
  }
  return ML_OK;
}

static ml_status split(const ml_step *step, ml_view view, const char *text, const ml_spans *in, ml_spans *cut,
                       ml_spans *out) {
  for (size_t i = 0; i < in->count; i++) {
    cut->count = 0;
    ML_TRY(ml_pattern_cut(step->pattern, view, text, in->items[i].start, in->items[i].end, cut));
    ML_TRY(apply_behavior(step, cut, out));
  }
  return ML_OK;
}

/* --- steps that change the text --- */

static ml_status prefix_space(const char *text, const ml_spans *in, ml_text *to, ml_spans *out) {
  for (size_t i = 0; i < in->count; i++) {
    ml_span s = in->items[i];
    size_t start = to->size;
    if (text[s.start] != ' ') ML_TRY(ml_text_append(to, " ", 1));
    ML_TRY(ml_text_append(to, text + s.start, s.end - s.start));
    ML_TRY(ml_spans_add(out, (uint32_t)start, (uint32_t)to->size, false));
  }
  return ML_OK;
}

static ml_status metaspace(const ml_step *step, const char *text, const ml_spans *in, bool at_start, ml_text *to,
                           ml_spans *out) {
  size_t mark = strlen(step->mark);
  for (size_t i = 0; i < in->count; i++) {
    const char *s = text + in->items[i].start, *end = text + in->items[i].end;
    size_t start = to->size;
    bool marked = *s == ' ' || ((size_t)(end - s) >= mark && memcmp(s, step->mark, mark) == 0);
    bool wanted = step->prepend == ML_PREPEND_ALWAYS ||
                  (step->prepend == ML_PREPEND_FIRST && at_start && in->items[i].start == 0);
    if (wanted && !marked) ML_TRY(ml_text_append(to, step->mark, mark));
    while (s < end) {
      const char *space = memchr(s, ' ', (size_t)(end - s));
      ML_TRY(ml_text_append(to, s, (size_t)((space ? space : end) - s)));
      if (!space) break;
      ML_TRY(ml_text_append(to, step->mark, mark));
      s = space + 1;
    }
    ML_TRY(ml_spans_add(out, (uint32_t)start, (uint32_t)to->size, false));
  }
  return ML_OK;
}

static ml_status run_step(ml_pretokenizer *p, const ml_step *step, ml_view *view, const char **text, bool at_start,
                          const ml_spans *in, ml_spans *out) {
  ml_text *to = *text == p->texts[0].bytes ? &p->texts[1] : &p->texts[0];
  out->count = 0;
  to->size = 0;
  switch (step->kind) {
  case ML_STEP_SPLIT: return split(step, *view, *text, in, &p->spans[2], out);
  case ML_STEP_PREFIX_SPACE: ML_TRY(prefix_space(*text, in, to, out)); break;
  default: ML_TRY(metaspace(step, *text, in, at_start, to, out)); break;
  }
  if (to->size > INT32_MAX) return ml_fail(ML_LIMIT, "encode: a text of more than 2 GiB");
  *text = to->bytes;
  return ML_OK;
}

ml_status ml_pretokenize(ml_pretokenizer *p, const char **text, size_t size, bool at_start, const ml_spans **spans) {
  size_t now = 0;
  ml_view view = ML_VIEW_CHARS;
  p->spans[0].count = 0;
  if (size > 0) ML_TRY(ml_spans_add(&p->spans[0], 0, (uint32_t)size, false));
  for (size_t i = 0; i < p->count && p->spans[now].count > 0; i++) {
    if (p->steps[i].kind == ML_STEP_BYTES) {
      view = ML_VIEW_BYTES;
      continue;
    }
    ML_TRY(run_step(p, &p->steps[i], &view, text, at_start, &p->spans[now], &p->spans[1 - now]));
    now = 1 - now;
  }
  *spans = &p->spans[now];
  return ML_OK;
}

void ml_pretokenizer_free(ml_pretokenizer *p) {
  for (size_t i = 0; i < p->count; i++) ml_pattern_free(p->steps[i].pattern);
  ml_free(p->steps);
  for (int i = 0; i < 2; i++) ml_text_free(&p->texts[i]);
  for (int i = 0; i < 3; i++) ml_spans_free(&p->spans[i]);
  *p = (ml_pretokenizer){0};
}
