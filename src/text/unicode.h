/* unicode.h: what the reference knows of code points: categories, sets, case, decompositions.
 *
 * The tables (unicode_data.inc) are written by tools/make_unicode.py from the reference's behaviour. Text given to
 * these functions is well-formed UTF-8. */
#ifndef ML_TEXT_UNICODE_H
#define ML_TEXT_UNICODE_H

#include "base/mem.h"
#include "io/utf8.h"
#include "text/tokenizer.h"

enum { ML_CODE_POINTS = 0x110000 };

/* Appends to growing text; a NUL is kept behind it. */
ml_status ml_text_append(ml_text *text, const char *bytes, size_t size);
ml_status ml_text_append_code(ml_text *text, uint32_t code);

/* Bytes of the character that begins with this byte, in well-formed text. */
static inline size_t ml_utf8_length(char lead) {
  unsigned char c = (unsigned char)lead;
  return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

/* The character at `s`, in well-formed text. */
static inline uint32_t ml_utf8_decode(const char *s) {
  const unsigned char *u = (const unsigned char *)s;
  if (u[0] < 0x80) return u[0];
  if (u[0] < 0xe0) return (uint32_t)(u[0] & 0x1f) << 6 | (u[1] & 0x3f);
  if (u[0] < 0xf0) return (uint32_t)(u[0] & 0x0f) << 12 | (uint32_t)(u[1] & 0x3f) << 6 | (u[2] & 0x3f);
  return (uint32_t)(u[0] & 7) << 18 | (uint32_t)(u[1] & 0x3f) << 12 | (uint32_t)(u[2] & 0x3f) << 6 | (u[3] & 0x3f);
}

/* Length of the leading part of `text` that is well-formed. */
size_t ml_utf8_prefix(const char *text, size_t size);
/* Bytes of the ill-formed sequence that `text` begins with (a maximal invalid part, at least 1): what becomes one
 * U+FFFD. With
 * `*incomplete`, more bytes might still have made it a character. */
size_t ml_utf8_invalid(const char *text, size_t size, bool *incomplete);
/* Appends `text`, each maximal invalid part replaced by U+FFFD. */
ml_status ml_utf8_append_lossy(ml_text *out, const char *text, size_t size);

/* The printable characters in which byte-level BPE spells bytes: byte to code point, and back (-1: none). */
uint32_t ml_byte_char(unsigned char byte);
int ml_char_byte(uint32_t code);

/* Code points as sorted, disjoint, non-touching half-open ranges: first, past the last, ... */
typedef struct ml_ranges {
  uint32_t *items;
  size_t count, capacity; /* of items: twice the ranges */
} ml_ranges;
void ml_ranges_free(ml_ranges *ranges);
/* Adds [first, end) anywhere; ml_ranges_tidy must follow before the set is read. */
ml_status ml_ranges_add(ml_ranges *ranges, uint32_t first, uint32_t end);
void ml_ranges_tidy(ml_ranges *ranges);
ml_status ml_ranges_union(ml_ranges *into, const ml_ranges *other);
ml_status ml_ranges_complement(ml_ranges *ranges);
ml_status ml_ranges_intersect(ml_ranges *into, const ml_ranges *other);
bool ml_ranges_has(const ml_ranges *ranges, uint32_t code);

/* Adds a property by its name in regular expressions: a category ("Lu", "L", "LC"), "Han" and a few other scripts,
 * "Any", or one of the sets that pre-tokenisers use: "space", "regex_word", "word", "numeric", "punctuation".
 * ML_UNSUPPORTED names a property that is not known. */
ml_status ml_unicode_add_property(ml_ranges *ranges, const char *name, size_t size);

bool ml_unicode_is_space(uint32_t code);
bool ml_unicode_is_word(uint32_t code);   /* \w as `single_word` and the Whitespace pre-tokeniser mean it */
bool ml_unicode_is_accent(uint32_t code); /* what StripAccents drops */
uint32_t ml_unicode_lower(uint32_t code); /* simple; U+0130 is the caller's */

/* Normal forms. */
unsigned ml_unicode_class(uint32_t code); /* canonical combining class */
bool ml_unicode_nfc_active(uint32_t code);
/* The full decomposition, or NULL; Hangul is the caller's. */
const uint32_t *ml_unicode_decompose(uint32_t code, bool compatible, size_t *count);
uint32_t ml_unicode_compose(uint32_t first, uint32_t second); /* 0: none; Hangul is the caller's */

#endif
