/* test_text_parts.c: Unicode tables, normal forms, regular expressions over atoms, decoding stages. */
#include "check.h"
#include "text/decode.h"
#include "text/normalize.h"
#include "text/pretokenize.h"

#include <time.h>

/* --- Unicode --- */

static bool in_property(const char *name, uint32_t code) {
  ml_ranges ranges = {0};
  bool has = ml_unicode_add_property(&ranges, name, strlen(name)) == ML_OK && ml_ranges_has(&ranges, code);
  ml_ranges_free(&ranges);
  return has;
}

static void test_properties(void) {
  CHECK(in_property("L", 'a') && in_property("Lu", 'A') && !in_property("Lu", 'a') && in_property("Nd", 0x661),
        "categories");
  CHECK(in_property("L", 0x10d50) && in_property("Lo", 0x2ebf0) && in_property("Nd", 0x16d70),
        "letters and digits of Unicode 16");
  CHECK(in_property("Cn", 0x378) && in_property("Cs", 0xd800) && in_property("Co", 0x10fffd),
        "the rest of the code space");
  CHECK(in_property("space", 0x85) && in_property("space", 0x3000) && !in_property("space", 0x180e),
        "white space is not U+180E");
  CHECK(in_property("Han", 0x6708) && !in_property("Han", 0x3042) && in_property("Any", 0x10ffff), "scripts");
  CHECK(in_property("word", '_') && in_property("regex_word", 0xb2) && !in_property("word", 0xb2),
        "two kinds of word characters");
  ml_ranges none = {0};
  CHECK_FAILS(ml_unicode_add_property(&none, "Klingon", 7), ML_UNSUPPORTED, "Klingon", "an unknown property is named");
  CHECK(ml_unicode_lower(0x416) == 0x436 && ml_unicode_lower('Z') == 'z' && ml_unicode_lower('1') == '1', "lower case");
}

static void test_ranges(void) {
  ml_ranges a = {0}, b = {0};
  ml_ranges_add(&a, 10, 20), ml_ranges_add(&a, 30, 40), ml_ranges_add(&a, 15, 25), ml_ranges_tidy(&a);
  ml_ranges_add(&b, 18, 35), ml_ranges_tidy(&b);
  CHECK(a.count == 4 && a.items[1] == 25, "ranges unite");
  CHECK_OK(ml_ranges_intersect(&a, &b), "intersection");
  CHECK(a.count == 4 && a.items[0] == 18 && a.items[1] == 25 && a.items[2] == 30 && a.items[3] == 35,
        "what is in both");
  ml_ranges_complement(&a);
  CHECK(ml_ranges_has(&a, 17) && !ml_ranges_has(&a, 18) && ml_ranges_has(&a, 0x10ffff), "complement");
  ml_ranges_free(&a), ml_ranges_free(&b);
}

static void check_form(ml_normal_kind form, const char *text, const char *wanted, const char *name) {
  ml_text out = {0};
  ml_status status = ml_normal_form(form, text, strlen(text), &out);
  CHECK(status == ML_OK && out.size == strlen(wanted) && (out.size == 0 || memcmp(out.bytes, wanted, out.size) == 0),
        "%s", name);
  ml_text_free(&out);
}

static void test_forms(void) {
  check_form(ML_NORMAL_NFC, "e\xcc\x81t\xc3\xa9", "\xc3\xa9t\xc3\xa9", "NFC composes");
  check_form(ML_NORMAL_NFC, "a\xcc\xa3\xcc\x87", "\xe1\xba\xa1\xcc\x87",
             "NFC orders marks: dot below before dot above");
  check_form(ML_NORMAL_NFC, "a\xcc\x87\xcc\xa3", "\xe1\xba\xa1\xcc\x87", "in either order");
  check_form(ML_NORMAL_NFC, "\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "\xed\x95\x9c", "Hangul composes");
  check_form(ML_NORMAL_NFD, "\xed\x95\x9c", "\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "Hangul decomposes");
  check_form(ML_NORMAL_NFC, "\xe2\x84\xab \xe0\xa5\x98", "\xc3\x85 \xe0\xa4\x95\xe0\xa4\xbc",
             "singletons and exclusions decompose");
  check_form(ML_NORMAL_NFKC, "\xef\xac\x81\xc2\xbd", "fi1\xe2\x81\x84\x32", "NFKC");
  check_form(ML_NORMAL_NFC, "\xcc\x81x", "\xcc\x81x", "a mark at the start stays");
  CHECK(ml_is_nfc("abc\xd0\x96", 5) && !ml_is_nfc("e\xcc\x81", 3), "the quick look");
  ml_text marks = {0}, out = {0};
  for (int i = 0; i < 100000; i++) ml_text_append(&marks, i % 2 ? "\xcc\x81" : "\xcc\xa3", 2);
  clock_t start = clock();
  CHECK_OK(ml_normal_form(ML_NORMAL_NFC, marks.bytes, marks.size, &out), "100,000 marks in a row");
  CHECK(out.size == marks.size && clock() - start < 2 * CLOCKS_PER_SEC, "are ordered in no more than n log n");
  ml_text_free(&marks), ml_text_free(&out);
}

static void test_utf8(void) {
  ml_text out = {0};
  const char *text = "a\xff\xe2\x82z\xf0\x9f\x98\xed\xa0\x80\xc3\xa9";
  ml_utf8_append_lossy(&out, text, strlen(text));
  const char *bad = "\xef\xbf\xbd";
  char wanted[64];
  snprintf(wanted, sizeof wanted, "a%s%sz%s%s%s%s\xc3\xa9", bad, bad, bad, bad, bad, bad);
  CHECK(strcmp(out.bytes, wanted) == 0, "one U+FFFD for each maximal invalid part");
  ml_text_free(&out);
  bool good = true;
  for (unsigned b = 0; b < 256; b++) good = good && ml_char_byte(ml_byte_char((unsigned char)b)) == (int)b;
  CHECK(good && ml_byte_char(' ') == 0x120 && ml_char_byte(' ') == -1 && ml_char_byte(0x144) == -1,
        "printable bytes and back");
}

/* --- patterns --- */

/* Cuts `text` and writes the parts, matches in brackets. */
static ml_status cut(const char *pattern, ml_view view, const char *text, char *to, size_t room) {
  ml_pattern *p;
  ml_spans spans = {0};
  ML_TRY(ml_pattern_compile(pattern, strlen(pattern), false, &p));
  ml_status status = ml_pattern_cut(p, view, text, 0, (uint32_t)strlen(text), &spans);
  *to = '\0';
  for (size_t i = 0; status == ML_OK && i < spans.count; i++) {
    const ml_span *s = &spans.items[i];
    size_t used = strlen(to);
    snprintf(to + used, room - used, s->match ? "[%.*s]" : "%.*s", (int)(s->end - s->start), text + s->start);
  }
  ml_spans_free(&spans);
  ml_pattern_free(p);
  return status;
}

static void test_patterns(void) {
  static const struct {
    const char *pattern, *text, *wanted;
  } cases[] = {
      {"\\p{L}+", "ab 1\xd0\x96 c", "[ab] 1[\xd0\x96] [c]"},
      {"\\s+(?!\\S)|\\s+", "a   b ", "a[  ][ ]b[ ]"},
      {"(?i:'s|'t)", "'S '\xc5\xbf 'T", "['S] ['\xc5\xbf] ['T]"},
      {"[^\\r\\n\\p{L}]?\\p{L}+", "-ab\ncd", "[-ab]\n[cd]"},
      {"\\p{N}{1,3}", "12345", "[123][45]"},
      {"[a-f&&[^bc]]", "abcdg", "[a]bc[d]g"},
      {"[[a-c]x]", "axd", "[a][x]d"},
      {"a{,2}b", "aaab", "a[aab]"},
      {"a{1,2}+", "aaab", "[aaa]b"},
      {"a++b", "aab", "[aab]"},
      {"(?<=\\d)\\d", "123", "1[2][3]"},
      {"^.", "ab\nc", "[a]b\n[c]"},
      {".$", "ab\nc", "a[b]\n[c]"},
      {"\\bb\\w*", "bob ab", "[bob] ab"},
      {"x*", "axb", "[]a[x]b[]"},
      {"\\x41|\\u0042|\\x{1F600}", "AB\xf0\x9f\x98\x80", "[A][B][\xf0\x9f\x98\x80]"},
      {"\\p{^L}\\P{N}", "1a", "[1a]"},
      {"(?>a+)b|\\\\", "aab\\", "[aab][\\]"},
      {"{|}", "a{}", "a[{][}]"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char found[100];
    ml_status status = cut(cases[i].pattern, ML_VIEW_CHARS, cases[i].text, found, sizeof found);
    bool good = status == ML_OK && strcmp(found, cases[i].wanted) == 0;
    if (!CHECK(good, "matches of %s", cases[i].pattern)) printf("# %s\n", status == ML_OK ? found : ml_error_message());
  }
  char found[100];
  CHECK_OK(cut("\\p{L}", ML_VIEW_BYTES, "a\xc3\x80-", found, sizeof found), "bytes as their printable characters");
  CHECK(strcmp(found, "[a][\xc3][\x80]-") == 0, "of which 0xc3 and 0x80 are letters");
}

static void test_refused_patterns(void) {
  static const struct {
    const char *pattern;
    ml_status status;
    const char *message;
  } cases[] = {
      {"(", ML_CORRUPT, "without )"},
      {"a)", ML_CORRUPT, "without ("},
      {"[a", ML_CORRUPT, "without ]"},
      {"*a", ML_CORRUPT, "nothing before"},
      {"(*UTF)a", ML_CORRUPT, "nothing before"},
      {"\\p{L", ML_CORRUPT, "without }"},
      {"[z-a]", ML_CORRUPT, "ends before"},
      {"a\\", ML_CORRUPT, "backslash"},
      {"\\x{110000}", ML_CORRUPT, "no character"},
      {"(a)\\1", ML_UNSUPPORTED, "this escape"},
      {"(?<n>a)", ML_UNSUPPORTED, "this kind of group"},
      {"a(?i)b", ML_UNSUPPORTED, "(?i)"},
      {"[[:alpha:]]", ML_UNSUPPORTED, "POSIX"},
      {"(?i:ss)", ML_UNSUPPORTED, "pair of letters"},
      {"(?i:\xc3\xa9)", ML_UNSUPPORTED, "beyond ASCII"},
      {"\\X", ML_UNSUPPORTED, "this escape"},
      {"\\p{Elvish}", ML_UNSUPPORTED, "Elvish"},
      {"(?<=a+)b", ML_UNSUPPORTED, "lookbehind"},
      {"a{2000}", ML_LIMIT, "above 1000"},
      {"(?:(?:(?:a{1000}){1000}){1000}){1000}", ML_UNSUPPORTED, "too large"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ml_pattern *p = NULL;
    CHECK_FAILS(ml_pattern_compile(cases[i].pattern, strlen(cases[i].pattern), false, &p), cases[i].status,
                cases[i].message, "refused: %s", cases[i].pattern);
    CHECK(!p, "nothing is left of it");
  }
  char found[100];
  CHECK_FAILS(
      cut("(a+)+$|(?:a|b|ab)*c", ML_VIEW_CHARS, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab!", found, sizeof found),
      ML_LIMIT, "match limit", "a pattern that takes for ever ends");
}

static void check_split(ml_split_behavior behavior, bool invert, const char *wanted) {
  ml_pretokenizer p = {0};
  const ml_spans *words;
  const char *text = "-a--b-";
  char found[64] = "";
  ml_status status = ml_pretokenizer_add_split(&p, "-", 1, true, behavior, invert);
  if (status == ML_OK) status = ml_pretokenize(&p, &text, 6, true, &words);
  for (size_t i = 0; status == ML_OK && i < words->count; i++) {
    size_t used = strlen(found);
    snprintf(found + used, sizeof found - used, "%.*s|", (int)(words->items[i].end - words->items[i].start),
             text + words->items[i].start);
  }
  CHECK(status == ML_OK && strcmp(found, wanted) == 0, "Split, behaviour %d%s (found %s)", (int)behavior,
        invert ? ", inverted" : "", found);
  ml_pretokenizer_free(&p);
}

static void test_split(void) {
  check_split(ML_SPLIT_REMOVED, false, "a|b|");
  check_split(ML_SPLIT_REMOVED, true, "-|-|-|-|");
  check_split(ML_SPLIT_ISOLATED, false, "-|a|-|-|b|-|");
  check_split(ML_SPLIT_MERGED_WITH_PREVIOUS, false, "-|a-|-|b-|");
  check_split(ML_SPLIT_MERGED_WITH_PREVIOUS, true, "-a|-|-b|-|");
  check_split(ML_SPLIT_MERGED_WITH_NEXT, false, "-a|-|-b|-|");
  check_split(ML_SPLIT_CONTIGUOUS, false, "-|a|--|b|-|");
}

/* --- decoding --- */

static void check_stages(ml_decoder *d, const char *const *tokens, size_t n, const char *wanted, const char *name) {
  ml_decoding *s;
  ml_text text = {0};
  ml_status status = ml_decoding_open(d, &s);
  for (size_t i = 0; status == ML_OK && i < n; i++) status = ml_decoding_push(s, tokens[i], strlen(tokens[i]), &text);
  if (status == ML_OK) status = ml_decoding_finish(s, &text);
  CHECK(status == ML_OK && text.size == strlen(wanted) &&
            (text.size == 0 || memcmp(text.bytes, wanted, text.size) == 0),
        "%s (found %s)", name, text.bytes ? text.bytes : "");
  ml_text_free(&text);
  ml_decoding_close(s);
  ml_decoder_free(d);
}

static ml_stage stage(ml_stage_kind kind, const char *literal, const char *content, size_t start, size_t stop) {
  ml_stage s = {.kind = kind, .start = start, .stop = stop};
  ml_text_append(&s.literal, literal, strlen(literal));
  ml_text_append(&s.content, content, strlen(content));
  return s;
}

static void test_stages(void) {
  ml_decoder d = {0};
  static const char *const bytes[] = {"<0xE2>", "<0x82>", "<0xAC>", "a", "<0xE2>", "<0x82>", "b", "<0xe2>"};
  ml_decoder_add(&d, stage(ML_STAGE_BYTE_FALLBACK, "", "", 0, 0));
  check_stages(&d, bytes, 8,
               "\xe2\x82\xac"
               "a\xef\xbf\xbd\xef\xbf\xbd"
               "b\xef\xbf\xbd",
               "byte fallback: a character, or U+FFFD for each byte");
  static const char *const parts[] = {"xa", "ab", "a", "b", "a"};
  ml_decoder_add(&d, stage(ML_STAGE_FUSE, "", "", 0, 0));
  ml_decoder_add(&d, stage(ML_STAGE_REPLACE, "aab", "-", 0, 0));
  check_stages(&d, parts, 5, "x-aba", "a replacement across fused tokens");
  static const char *const spaced[] = {" ", " a", " b ", "  "};
  ml_decoder_add(&d, stage(ML_STAGE_FUSE, "", "", 0, 0));
  ml_decoder_add(&d, stage(ML_STAGE_STRIP, "", " ", 1, 2));
  check_stages(&d, spaced, 4, " a b ", "strip at both ends of fused tokens");
  ml_decoder_add(&d, stage(ML_STAGE_STRIP, "", " ", 1, 0));
  check_stages(&d, spaced, 4, "ab  ", "strip of each token");
  static const char *const level[] = {"\xc4\xa0\x61", "\xc3\x83", "\xc2\xa9", "\xe6\x97\xa5", "\xc3\x83", "x"};
  ml_decoder_add(&d, stage(ML_STAGE_BYTE_LEVEL, "", "", 0, 0));
  check_stages(&d, level, 6, " a\xc3\xa9\xe6\x97\xa5\xef\xbf\xbdx",
               "byte level: bytes over tokens, foreign tokens as they are");
  static const char *const plain[] = {"a", "", "b"};
  ml_decoder_add(&d, stage(ML_STAGE_JOIN, "", "", 0, 0));
  check_stages(&d, plain, 3, "a  b", "without a decoder: joined by spaces");
}

int main(void) {
  test_properties();
  test_ranges();
  test_forms();
  test_utf8();
  test_patterns();
  test_refused_patterns();
  test_split();
  test_stages();
  return check_done();
}
