/* pattern.h: the regular expressions of tokenizer files, and where they match.
 *
 * A pattern never sees Unicode. The sets of characters that it names (literals, classes, \p{..}, \s) divide all code
 * points into a few atoms, members of one atom being in the same sets. Text is rewritten with one byte, its atom, for
 * each character, and PCRE2 runs the pattern, rewritten likewise, over those bytes: what a letter or a space is comes
 * from our own tables, and every class is a bitmap of 256 bits, so that matching is as fast for Thai as for ASCII.
 *
 * Syntax: what the reference's engine (Oniguruma, Ruby syntax) and PCRE2 share, translated where they differ; what is
 * left is ML_UNSUPPORTED and named. */
#ifndef ML_TEXT_PATTERN_H
#define ML_TEXT_PATTERN_H

#include "text/unicode.h"

/* A part of a text, in bytes. Texts are below 2 GiB. */
typedef struct ml_span {
  uint32_t start, end;
  bool match;
} ml_span;

typedef struct ml_spans { /* zero it first, free with ml_spans_free */
  ml_span *items;
  size_t count, capacity;
} ml_spans;
void ml_spans_free(ml_spans *spans);
ml_status ml_spans_add(ml_spans *spans, uint32_t start, uint32_t end, bool match);

/* What one character of a text is. */
typedef enum ml_view {
  ML_VIEW_CHARS, /* a UTF-8 character */
  ML_VIEW_BYTES  /* a byte, read as the printable character that byte-level BPE spells it with */
} ml_view;

typedef struct ml_pattern ml_pattern;
/* A literal pattern matches its own text. */
ml_status ml_pattern_compile(const char *source, size_t size, bool literal, ml_pattern **out);
void ml_pattern_free(ml_pattern *pattern);
/* Cuts [start, end) of `text` into matches and what is between them (never empty) and appends these to `out`; matches
 * may be empty. The part is searched as if nothing stood around it. */
ml_status ml_pattern_cut(ml_pattern *pattern, ml_view view, const char *text, uint32_t start, uint32_t end,
                         ml_spans *out);

/* --- between pattern_parse.c and pattern.c --- */

/* A parsed pattern: PCRE2 syntax in which 0xff, low byte, high byte stands for the set of that number. */
typedef struct ml_pattern_code {
  ml_text code;
  ml_ranges *sets;
  size_t n_sets, sets_capacity;
} ml_pattern_code;
enum { ML_PATTERN_SET = 0xff };
ml_status ml_pattern_parse(const char *source, size_t size, bool literal, ml_pattern_code *out);
void ml_pattern_code_free(ml_pattern_code *code);

#endif
