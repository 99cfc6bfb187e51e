/* pattern_parse.c: reads a regular expression and rewrites it over numbered sets of characters.
 *
 * Source of the syntax: Oniguruma's doc/RE, Ruby syntax. Differences from PCRE2 that are translated here: ^ and $ are
 * the ends of lines, {,n} is a quantifier, {n,m}+ repeats rather than possesses, classes nest and intersect (&&). */
#include "text/pattern.h"

#include <stdio.h>
#include <string.h>

enum { MAX_GROUPS = 100, MAX_SETS = 4096, MAX_CLASS_DEPTH = 20, NOT_A_LETTER = 0 };

typedef struct parser {
  const char *at, *end;
  ml_pattern_code *out;
  bool caseless;
  bool caseless_outside[MAX_GROUPS]; /* what to return to at each ')' */
  int depth;
  bool start_of_group; /* nothing of this group has been read yet */
  bool has_item;       /* the code ends with something that a quantifier may follow */
  bool item_quantified;
  size_t item; /* where in the code that is */
  size_t opened[MAX_GROUPS];
  char last_letter; /* lower case; of a caseless literal directly before, for folds of two letters */
} parser;

static ml_status unsupported(const char *what, const char *at, const char *end) {
  size_t size = (size_t)(end - at) < 12 ? (size_t)(end - at) : 12;
  size -= size - ml_utf8_prefix(at, size);
  return ml_fail(ML_UNSUPPORTED, "regular expression: %s is not supported, at \"%.*s\"", what, (int)size, at);
}

static ml_status corrupt(const char *what) { return ml_fail(ML_CORRUPT, "regular expression: %s", what); }

static bool looking_at(const parser *p, const char *text) {
  size_t n = strlen(text);
  return (size_t)(p->end - p->at) >= n && memcmp(p->at, text, n) == 0;
}

static bool take(parser *p, const char *text) {
  if (!looking_at(p, text)) return false;
  p->at += strlen(text);
  return true;
}

static uint32_t take_code(parser *p) {
  uint32_t code = ml_utf8_decode(p->at);
  p->at += ml_utf8_length(*p->at);
  return code;
}

static ml_status emit(parser *p, const char *text) { return ml_text_append(&p->out->code, text, strlen(text)); }

/* Writes a set by number and takes it over; an equal set is written once. */
static ml_status emit_set(parser *p, ml_ranges *set) {
  ml_pattern_code *out = p->out;
  size_t i = 0;
  ml_ranges_tidy(set);
  while (i < out->n_sets &&
         (out->sets[i].count != set->count ||
          (set->count && memcmp(out->sets[i].items, set->items, set->count * sizeof *set->items) != 0))) {
    i++;
  }
  if (i == out->n_sets) {
    if (i == MAX_SETS) return ml_fail(ML_LIMIT, "regular expression: more than %d sets of characters", MAX_SETS);
    ML_TRY(ML_GROW(out->sets, out->sets_capacity, i + 1));
    out->sets[out->n_sets++] = *set;
    *set = (ml_ranges){0};
  }
  char marker[3] = {(char)ML_PATTERN_SET, (char)(i & 0xff), (char)(i >> 8)};
  return ml_text_append(&out->code, marker, sizeof marker);
}

static void begin_item(parser *p) {
  p->item = p->out->code.size;
  p->has_item = true;
  p->item_quantified = false;
  p->start_of_group = false;
}

/* Emits a set as an item of its own, complemented on request. Frees it. */
static ml_status set_item(parser *p, ml_ranges *set, bool negated) {
  begin_item(p);
  ml_ranges_tidy(set);
  ml_status status = negated ? ml_ranges_complement(set) : ML_OK;
  if (status == ML_OK) status = emit_set(p, set);
  ml_ranges_free(set);
  return status;
}

/* --- case: ASCII letters, and the two letters beyond ASCII that fold to one --- */

static bool is_letter(uint32_t c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; }

static ml_status add_caseless(ml_ranges *set, uint32_t code) {
  ML_TRY(ml_ranges_add(set, code, code + 1));
  if (!is_letter(code)) return ML_OK;
  ML_TRY(ml_ranges_add(set, code ^ 32, (code ^ 32) + 1));
  if ((code | 32) == 'k') return ml_ranges_add(set, 0x212a, 0x212b);
  if ((code | 32) == 's') return ml_ranges_add(set, 0x17f, 0x180);
  return ML_OK;
}

static ml_status add_range(parser *p, ml_ranges *set, uint32_t first, uint32_t last, const char *at) {
  if (!p->caseless) return ml_ranges_add(set, first, last + 1);
  if (last >= 0x80) return unsupported("case folding beyond ASCII", at, p->end);
  for (uint32_t c = first; c <= last; c++) ML_TRY(add_caseless(set, c));
  return ML_OK;
}

/* Pairs that fold to one character (as in U+FB00..U+FB06 and U+00DF), which the reference matches as one. */
static bool folds_as_pair(char a, char b) {
  return (a == 'f' && (b == 'f' || b == 'i' || b == 'l')) || (a == 's' && (b == 's' || b == 't'));
}

/* --- escapes --- */

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 32;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static ml_status take_hex(parser *p, int most, bool braces, uint32_t *code) {
  uint32_t value = 0;
  int n = 0;
  for (; n < most && p->at < p->end && hex_digit(*p->at) >= 0; n++) value = value << 4 | (uint32_t)hex_digit(*p->at++);
  if (n == 0 || (braces && !take(p, "}"))) return corrupt("a hexadecimal escape without its digits or brace");
  if (value >= ML_CODE_POINTS || (value >= 0xd800 && value < 0xe000)) return corrupt("an escape that is no character");
  *code = value;
  return ML_OK;
}

/* After a backslash: a single character? Otherwise `at` stays where it was. */
static ml_status take_escaped_code(parser *p, bool *found, uint32_t *code) {
  static const char letters[] = "nrtfvae", values[] = "\n\r\t\f\v\a\033";
  *found = true;
  if (p->at == p->end) return corrupt("a backslash at the end");
  const char *place = strchr(letters, *p->at);
  if (*p->at && place) {
    p->at++;
    *code = (unsigned char)values[place - letters];
    return ML_OK;
  }
  if (take(p, "x{")) return take_hex(p, 8, true, code);
  if (take(p, "x")) return take_hex(p, 2, false, code);
  if (take(p, "u")) return take_hex(p, 4, false, code);
  unsigned char c = (unsigned char)*p->at;
  if (c < 0x80 && !is_letter(c) && !(c >= '0' && c <= '9')) {
    *code = c;
    p->at++;
    return ML_OK;
  }
  *found = false;
  return ML_OK;
}

/* \p{Name}, \p{^Name}, \P{Name}; `at` is behind the p. */
static ml_status add_property(parser *p, ml_ranges *set, bool negated) {
  if (!take(p, "{")) return corrupt("\\p without braces");
  if (take(p, "^")) negated = !negated;
  const char *close = memchr(p->at, '}', (size_t)(p->end - p->at));
  if (!close) return corrupt("\\p{ without }");
  ml_ranges property = {0};
  ml_status status = ml_unicode_add_property(&property, p->at, (size_t)(close - p->at));
  if (status == ML_OK && negated) status = ml_ranges_complement(&property);
  if (status == ML_OK) status = ml_ranges_union(set, &property);
  ml_ranges_free(&property);
  p->at = close + 1;
  return status;
}

/* After a backslash: a set? Adds it and says so. */
static ml_status add_escaped_set(parser *p, ml_ranges *set, bool *found) {
  static const struct {
    char letter;
    const char *name;
  } classes[] = {{'d', "Nd"}, {'s', "space"}, {'w', "regex_word"}, {'h', NULL}};
  char c = *p->at;
  *found = true;
  if (c == 'p' || c == 'P') {
    if (p->caseless) return unsupported("a property without regard to case", p->at, p->end);
    p->at++;
    return add_property(p, set, c == 'P');
  }
  for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
    if ((c | 32) != classes[i].letter) continue;
    p->at++;
    ml_ranges one = {0};
    ml_status status = ML_OK;
    if (classes[i].name) {
      status = ml_unicode_add_property(&one, classes[i].name, strlen(classes[i].name));
    } else {
      static const uint32_t hex[] = {'0', '9' + 1, 'A', 'F' + 1, 'a', 'f' + 1};
      for (int k = 0; status == ML_OK && k < 6; k += 2) status = ml_ranges_add(&one, hex[k], hex[k + 1]);
    }
    if (status == ML_OK && c != classes[i].letter) status = ml_ranges_complement(&one);
    if (status == ML_OK) status = ml_ranges_union(set, &one);
    ml_ranges_free(&one);
    return status;
  }
  *found = false;
  return ML_OK;
}

/* --- classes --- */

static ml_status take_class(parser *p, ml_ranges *set, int depth);

/* One end of a range or a lone character of a class, or a set (then *is_set). */
static ml_status class_member(parser *p, ml_ranges *set, bool *is_set, uint32_t *code) {
  const char *at = p->at;
  *is_set = false;
  if (!take(p, "\\")) {
    *code = take_code(p);
    return ML_OK;
  }
  bool found;
  ML_TRY(take_escaped_code(p, &found, code));
  if (found) return ML_OK;
  if (*p->at == 'b') {
    p->at++;
    *code = '\b';
    return ML_OK;
  }
  ML_TRY(add_escaped_set(p, set, is_set));
  return *is_set ? ML_OK : unsupported("this escape in a class", at, p->end);
}

static ml_status class_range(parser *p, ml_ranges *set) {
  const char *at = p->at;
  bool is_set;
  uint32_t first, last;
  ML_TRY(class_member(p, set, &is_set, &first));
  if (is_set) return ML_OK;
  last = first;
  if (looking_at(p, "-") && p->end - p->at > 1 && p->at[1] != ']') {
    p->at++;
    if (looking_at(p, "[")) return unsupported("a class as the end of a range", at, p->end);
    ML_TRY(class_member(p, set, &is_set, &last));
    if (is_set) return unsupported("a set as the end of a range", at, p->end);
    if (last < first) return corrupt("a range that ends before it begins");
  }
  return add_range(p, set, first, last, at);
}

/* The members up to ']' or '&&', united. */
static ml_status class_operand(parser *p, ml_ranges *set, int depth) {
  while (p->at < p->end && !looking_at(p, "]") && !looking_at(p, "&&")) {
    if (looking_at(p, "[:")) return unsupported("a POSIX bracket", p->at, p->end);
    if (take(p, "[")) {
      ml_ranges inner = {0};
      ml_status status = take_class(p, &inner, depth + 1);
      if (status == ML_OK) status = ml_ranges_union(set, &inner);
      ml_ranges_free(&inner);
      ML_TRY(status);
    } else {
      ML_TRY(class_range(p, set));
    }
  }
  ml_ranges_tidy(set);
  return ML_OK;
}

/* Behind '['. */
static ml_status take_class(parser *p, ml_ranges *set, int depth) {
  if (depth > MAX_CLASS_DEPTH) return ml_fail(ML_LIMIT, "regular expression: classes nested too deep");
  bool negated = take(p, "^");
  if (looking_at(p, "]")) return unsupported("a class that begins with ]", p->at, p->end);
  ML_TRY(class_operand(p, set, depth));
  while (take(p, "&&")) {
    ml_ranges other = {0};
    ml_status status = class_operand(p, &other, depth);
    if (status == ML_OK) status = ml_ranges_intersect(set, &other);
    ml_ranges_free(&other);
    ML_TRY(status);
  }
  if (!take(p, "]")) return corrupt("a class without ]");
  return negated ? ml_ranges_complement(set) : ML_OK;
}

/* --- items --- */

static ml_status literal(parser *p, uint32_t code, const char *at) {
  ml_ranges set = {0};
  char letter = NOT_A_LETTER;
  ml_status status = ML_OK;
  if (p->caseless && is_letter(code)) letter = (char)(code | 32);
  if (folds_as_pair(p->last_letter, letter)) {
    return unsupported("a pair of letters that folds to one character", at, p->end);
  }
  status = add_range(p, &set, code, code, at);
  if (status != ML_OK) {
    ml_ranges_free(&set);
    return status;
  }
  status = set_item(p, &set, false);
  p->last_letter = letter;
  return status;
}

/* A set by property name, as an emitted fragment inside a longer one. */
static ml_status emit_property(parser *p, const char *name) {
  ml_ranges set = {0};
  ml_status status = ml_unicode_add_property(&set, name, strlen(name));
  if (status == ML_OK) status = emit_set(p, &set);
  ml_ranges_free(&set);
  return status;
}

static ml_status emit_newline(parser *p) {
  ml_ranges set = {0};
  ml_status status = ml_ranges_add(&set, '\n', '\n' + 1);
  if (status == ML_OK) status = emit_set(p, &set);
  ml_ranges_free(&set);
  return status;
}

/* Wraps code fragments around sets: 'w' is a word character, 'n' a newline, all else is itself. */
static ml_status emit_shape(parser *p, const char *shape) {
  begin_item(p);
  for (; *shape; shape++) {
    char one[2] = {*shape, '\0'};
    ML_TRY(*shape == 'w' ? emit_property(p, "regex_word") : *shape == 'n' ? emit_newline(p) : emit(p, one));
  }
  p->has_item = false; /* assertions take no quantifier here */
  return ML_OK;
}

static ml_status escape(parser *p) {
  const char *at = p->at - 1;
  bool found;
  uint32_t code;
  ML_TRY(take_escaped_code(p, &found, &code));
  if (found) return literal(p, code, at);
  p->last_letter = NOT_A_LETTER;
  ml_ranges set = {0};
  ml_status status = add_escaped_set(p, &set, &found);
  if (status == ML_OK && found) return set_item(p, &set, false);
  ml_ranges_free(&set);
  ML_TRY(status);
  switch (*p->at++) {
  case 'b': return emit_shape(p, "(?:(?<=w)(?!w)|(?<!w)(?=w))");
  case 'B': return emit_shape(p, "(?:(?<=w)(?=w)|(?<!w)(?!w))");
  case 'A': return emit_shape(p, "\\A");
  case 'z': return emit_shape(p, "\\z");
  case 'Z': return emit_shape(p, "(?:\\z|(?=n\\z))");
  default: return unsupported("this escape", at, p->end);
  }
}

static ml_status open_group(parser *p) {
  static const char *const kinds[] = {"?:", "?=", "?!", "?<=", "?<!", "?>", "?i:", "?-i:"};
  const char *at = p->at - 1;
  const char *kind = "?:";
  bool caseless = p->caseless;
  if (looking_at(p, "?i)")) {
    if (!p->start_of_group) return unsupported("(?i) in the middle of a group", at, p->end);
    p->at += 3;
    p->caseless = true;
    return ML_OK;
  }
  if (looking_at(p, "?")) {
    kind = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && !kind; i++) {
      if (take(p, kinds[i])) kind = kinds[i];
    }
    if (!kind) return unsupported("this kind of group", at, p->end);
  }
  if (p->depth == MAX_GROUPS) return ml_fail(ML_LIMIT, "regular expression: groups nested too deep");
  p->opened[p->depth] = p->out->code.size;
  p->caseless_outside[p->depth++] = p->caseless;
  if (kind[1] == 'i' || kind[1] == '-') caseless = kind[1] == 'i', kind = "?:";
  ML_TRY(emit(p, "("));
  ML_TRY(emit(p, kind));
  p->caseless = caseless;
  p->start_of_group = true;
  p->has_item = false;
  return ML_OK;
}

static ml_status close_group(parser *p) {
  if (p->depth == 0) return corrupt("a ) without (");
  p->caseless = p->caseless_outside[--p->depth];
  ML_TRY(emit(p, ")"));
  p->item = p->opened[p->depth];
  p->has_item = true;
  p->item_quantified = false;
  p->start_of_group = false;
  return ML_OK;
}

/* --- quantifiers --- */

/* {n}, {n,}, {,m} or {n,m} at '{'; otherwise it is a literal brace. */
static bool take_counts(parser *p, int *low, int *high) {
  const char *s = p->at + 1;
  int value[2] = {-1, -1}, which = 0;
  for (; s < p->end && *s != '}'; s++) {
    if (*s == ',' && which == 0) {
      which = 1;
    } else if (*s >= '0' && *s <= '9' && value[which] < 100000) {
      value[which] = (value[which] < 0 ? 0 : value[which] * 10) + (*s - '0');
    } else {
      return false;
    }
  }
  if (s == p->end || (value[0] < 0 && value[1] < 0)) return false;
  *low = value[0] < 0 ? 0 : value[0];
  *high = which == 0 ? *low : value[1];
  p->at = s + 1;
  return true;
}

/* Puts the last item into a group, so that another quantifier may follow. */
static ml_status wrap_item(parser *p) {
  ml_text *code = &p->out->code;
  ML_TRY(emit(p, "(?:)"));
  memmove(code->bytes + p->item + 3, code->bytes + p->item, code->size - p->item - 4);
  memcpy(code->bytes + p->item, "(?:", 3);
  code->bytes[code->size - 1] = ')';
  return ML_OK;
}

static ml_status quantifier(parser *p, bool *found) {
  int low = 0, high = 0;
  char simple = p->at < p->end ? *p->at : '\0';
  bool counted = simple == '{' && take_counts(p, &low, &high);
  *found = counted || (simple && strchr("*+?", simple));
  if (!*found) return ML_OK;
  if (!p->has_item) return corrupt("a quantifier with nothing before it");
  if (counted && high >= 0 && high < low) return unsupported("a {n,m} with n above m", p->at, p->end);
  if (low > 1000 || high > 1000) return ml_fail(ML_LIMIT, "regular expression: a count above 1000");
  if (p->item_quantified) ML_TRY(wrap_item(p));
  p->item_quantified = true;
  p->last_letter = NOT_A_LETTER;
  if (counted) {
    char text[40];
    snprintf(text, sizeof text, high < 0 ? "{%d,}" : "{%d,%d}", low, high);
    ML_TRY(emit(p, text));
    return low != high && take(p, "?") ? emit(p, "?") : ML_OK; /* {n}? is an optional {n} */
  }
  char text[3] = {simple, '\0', '\0'};
  p->at++;
  if (looking_at(p, "?") || looking_at(p, "+")) text[1] = *p->at++;
  return emit(p, text);
}

static ml_status item(parser *p) {
  const char *at = p->at;
  bool quantified;
  ML_TRY(quantifier(p, &quantified));
  if (quantified) return ML_OK;
  uint32_t code = take_code(p);
  if (code != '(' && code != '|' && code != ')' && code != '[' && code != '\\' && code != '.' && code != '^' &&
      code != '$') {
    return literal(p, code, at);
  }
  if (code == '\\') return escape(p);
  p->last_letter = NOT_A_LETTER;
  ml_ranges set = {0};
  ml_status status = ML_OK;
  switch (code) {
  case '(': return open_group(p);
  case ')': return close_group(p);
  case '|':
    p->has_item = false;
    p->start_of_group = false;
    return emit(p, "|");
  case '^': return emit_shape(p, "(?:\\A|(?<=n)(?!\\z))");
  case '$': return emit_shape(p, "(?:\\z|(?=n))");
  case '.':
    status = ml_ranges_add(&set, '\n', '\n' + 1);
    if (status == ML_OK) return set_item(p, &set, true);
    break;
  default:
    status = take_class(p, &set, 0);
    if (status == ML_OK) return set_item(p, &set, false);
    break;
  }
  ml_ranges_free(&set);
  return status;
}

ml_status ml_pattern_parse(const char *source, size_t size, bool is_literal, ml_pattern_code *out) {
  parser p = {.at = source, .end = source + size, .out = out, .start_of_group = true};
  *out = (ml_pattern_code){0};
  ml_status status = ML_OK;
  if (ml_utf8_prefix(source, size) != size) status = corrupt("not UTF-8");
  while (status == ML_OK && p.at < p.end) status = is_literal ? literal(&p, take_code(&p), p.at) : item(&p);
  if (status == ML_OK && p.depth > 0) status = corrupt("a ( without )");
  if (status != ML_OK) ml_pattern_code_free(out);
  return status;
}

void ml_pattern_code_free(ml_pattern_code *code) {
  ml_text_free(&code->code);
  for (size_t i = 0; i < code->n_sets; i++) ml_ranges_free(&code->sets[i]);
  ml_free(code->sets);
  *code = (ml_pattern_code){0};
}
