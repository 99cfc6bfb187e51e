/* test_json.c: the strict reader, the tree's order and the writer. */
#include "io/json.h"
#include "scratch.h"

#include <locale.h>
#include <math.h>

typedef struct bad_text {
  const char *name, *text, *message;
} bad_text;

static const bad_text bad[] = {
    {"nothing", "", "line 1, column 1: expected a value, found the end"},
    {"only space", " \n ", "line 2, column 2: expected a value, found the end"},
    {"trailing text", "1 x", "line 1, column 3: expected the end, found 'x'"},
    {"two values", "[] []", "column 4: expected the end"},
    {"a comma at the end", "[1,]", "column 4: expected a value, found ']'"},
    {"a comma at the end of an object", "{\"a\":1,}", "expected a key in quotes"},
    {"an open array", "[1,2", "expected ',' or ']', found the end"},
    {"an open object", "{\"a\":1", "expected ',' or '}', found the end"},
    {"no colon", "{\"a\" 1}", "expected ':', found '1'"},
    {"an open string", "\"abc", "expected '\"', found the end"},
    {"a backslash at the end", "\"abc\\", "expected '\"', found the end"},
    {"a quote that is escaped", "\"abc\\\"", "expected '\"', found the end"},
    {"an unknown escape", "\"\\x\"", "expected an escape, found 'x'"},
    {"a short escape", "\"\\u12\"", "expected a hexadecimal digit"},
    {"a lone high surrogate", "\"\\ud800\"", "lone"},
    {"a lone low surrogate", "\"\\udc00\"", "lone"},
    {"two high surrogates", "\"\\ud800\\ud800\"", "lone"},
    {"a control character", "\"a\nb\"", "control character"},
    {"a tab in a string", "\"a\tb\"", "control character"},
    {"an overlong form", "\"\xc0\xaf\"", "invalid UTF-8"},
    {"an encoded surrogate", "\"\xed\xa0\x80\"", "invalid UTF-8"},
    {"beyond Unicode", "\"\xf4\x90\x80\x80\"", "invalid UTF-8"},
    {"a character cut short", "\"\xe2\x82\"", "invalid UTF-8"},
    {"a stray continuation", "\"\x80\"", "invalid UTF-8"},
    {"a byte order mark", "\xef\xbb\xbf{}", "found byte 0xef"},
    {"a duplicate key", "{\"a\":1,\n \"b\":{\"a\":1,\"a\":2}}", "line 2, column 13: duplicate key 'a'"},
    {"a duplicate key by escape", "{\"a\":1,\"\\u0061\":2}", "duplicate key 'a'"},
    {"a NUL in a key", "{\"a\\u0000b\":1}", "U+0000 in key 'a'"},
    {"a key without quotes", "{a:1}", "expected a key in quotes, found 'a'"},
    {"single quotes", "['a']", "expected a value"},
    {"a comment", "[1 /* one */]", "expected ',' or ']', found '/'"},
    {"NaN", "NaN", "expected a value"},
    {"Infinity", "[-Infinity]", "expected a digit, found 'I'"},
    {"nan in small letters", "nan", "expected a value"},
    {"a word cut short", "tru", "expected a value"},
    {"a word that goes on", "nullx", "expected the end"},
    {"a leading zero", "01", "expected the end, found '1'"},
    {"a plus", "+1", "expected a value"},
    {"a bare point", ".5", "expected a value"},
    {"no digit behind the point", "1.", "expected a digit"},
    {"no digit in the exponent", "1e+", "expected a digit"},
    {"hexadecimal", "0x10", "expected the end"},
    {"beyond a double", "1e400", "outside the range of a double"},
    {"minus alone", "-", "expected a digit"},
};

static void test_bad(void) {
  ml_json_doc *doc;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    CHECK_FAILS(ml_json_parse(bad[i].text, strlen(bad[i].text), "file.json", &doc), ML_CORRUPT, bad[i].message,
                "refused: %s", bad[i].name);
    CHECK(strncmp(ml_error_message(), "file.json: ", 11) == 0, "the source is named: %s", bad[i].name);
  }
  CHECK_FAILS(ml_json_parse("\"\0\"", 3, "f", &doc), ML_CORRUPT, "control", "refused: a NUL in the text");
  CHECK_FAILS(ml_json_parse("1\0", 2, "f", &doc), ML_CORRUPT, "byte 0x00", "refused: a NUL behind the text");
}

/* Every prefix of a text is refused, and none is read past its end. */
static void test_prefixes(void) {
  static const char text[] = "{\"a\":[1,-2.5e3,true,false,null,\"x\\u00e9\\ud83d\\ude00\\n\xe2\x82\xac\"],\"b\":{}}";
  int refused = 0;
  for (size_t n = 0; n < sizeof text - 1; n++) {
    char *exact = malloc(n + 1); /* so that a sanitizer sees an access beyond it */
    memcpy(exact, text, n);
    char *end = realloc(exact, n ? n : 1);
    ml_json_doc *doc;
    if (ml_json_parse(end, n, "f", &doc) == ML_CORRUPT) refused++;
    else ml_json_close(doc);
    free(end);
  }
  CHECK(refused == (int)sizeof text - 1, "all %zu prefixes are refused", sizeof text - 1);
}

static ml_json_doc *parse(const char *text) {
  ml_json_doc *doc = NULL;
  CHECK_OK(ml_json_parse(text, strlen(text), "test", &doc), "read: %.60s", text);
  return doc;
}

static char *nested(int depth) {
  char *text = malloc((size_t)depth * 2 + 1);
  memset(text, '[', (size_t)depth);
  memset(text + depth, ']', (size_t)depth);
  text[2 * depth] = '\0';
  return text;
}

static void test_limits(void) {
  ml_json_doc *doc;
  char *text = nested(128);
  ml_json_close(parse(text));
  free(text);
  text = nested(129);
  CHECK_FAILS(ml_json_parse(text, strlen(text), "f", &doc), ML_CORRUPT, "deeper than 128", "129 levels");
  free(text);
  text = nested(1000000);
  CHECK_FAILS(ml_json_parse(text, strlen(text), "f", &doc), ML_CORRUPT, "deeper than 128", "a million levels");
  free(text);
  size_t n = 4 << 20; /* empty objects: 12 MB of text, 3 GB of tree */
  text = malloc(n * 3);
  for (size_t i = 0; i < n; i++) memcpy(text + i * 3, "{},", 3);
  text[0] = '[', text[1] = '1';
  CHECK_FAILS(ml_json_parse(text, n * 3, "f", &doc), ML_LIMIT, "would take more than", "a tree that grows too large");
  free(text);
  CHECK_FAILS(ml_json_load(scratch_path("absent.json"), &doc), ML_NOT_FOUND, "absent.json", "a missing file");
  if (CHECK_OK(ml_json_load(scratch_file("a.json", "[1]\n", 4), &doc), "a file")) {
    CHECK(strcmp(ml_json_source(doc), scratch_path("a.json")) == 0, "the source of a file is its path");
    ml_json_close(doc);
  }
}

static void test_values(void) {
  ml_json_doc *doc =
      parse(" {\"z\":1, \"a\":-9223372036854775808, \"m\":[1.0, 0, null, true, \"\"], \"n\":null, \"\":{}} ");
  const ml_json *root = ml_json_root(doc), *list = ml_json_get(root, "m");
  CHECK(ml_json_type(root) == ML_JSON_OBJECT && ml_json_length(root) == 5, "an object of five");
  CHECK(ml_json_int(ml_json_get(root, "a")) == INT64_MIN, "the least integer");
  CHECK(ml_json_type(ml_json_at(list, 0)) == ML_JSON_FLOAT && ml_json_type(ml_json_at(list, 1)) == ML_JSON_INT,
        "1.0 is a float, 0 an integer");
  CHECK(ml_json_type(ml_json_at(list, 2)) == ML_JSON_NULL && !ml_json_at(list, 5), "null, and out of range");
  CHECK(!ml_json_get(root, "n") && ml_json_has(root, "n") && !ml_json_has(root, "x"), "null against absent");
  CHECK(ml_json_type(ml_json_get(root, "")) == ML_JSON_OBJECT, "the empty key");
  CHECK(ml_json_bool(ml_json_at(list, 3)) && !ml_json_bool(ml_json_at(list, 1)), "booleans alone are true");
  char order[8] = "";
  ml_json_iter iter = {0};
  for (int i = 0; ml_json_next(root, &iter); i++) order[i] = *iter.key ? *iter.key : '.';
  CHECK(strcmp(order, "zamn.") == 0, "keys in the order of the text: %s", order);
  /* Asking for another type gives nothing; json-c would convert. */
  CHECK(ml_json_int(ml_json_at(list, 0)) == 0 && ml_json_float(ml_json_at(list, 4)) == 0, "no conversion to numbers");
  CHECK(!ml_json_string(list, NULL) && !ml_json_get(list, "z") && !ml_json_at(root, 0), "no conversion of containers");
  CHECK(ml_json_float(ml_json_get(root, "z")) == 1.0, "an integer read as a float");
  ml_json_close(doc);
  doc = parse("\"a\\u0000b\\ud83d\\ude00\\/\"");
  size_t size;
  const char *text = ml_json_string(ml_json_root(doc), &size);
  CHECK(size == 8 && memcmp(text, "a\0b\xf0\x9f\x98\x80/", 8) == 0, "escapes, NUL, a pair of surrogates");
  ml_json_close(doc);
  doc = parse("[9223372036854775807, 9223372036854775808, 1000000000000000019884624838656, -0, 1e5]");
  root = ml_json_root(doc);
  CHECK(ml_json_int(ml_json_at(root, 0)) == INT64_MAX, "the largest integer");
  CHECK(ml_json_type(ml_json_at(root, 1)) == ML_JSON_FLOAT && ml_json_float(ml_json_at(root, 1)) == 0x1p63,
        "one more is a float, not clamped");
  CHECK(ml_json_float(ml_json_at(root, 2)) == 1e30, "the \"no limit\" of tokenizer_config.json");
  CHECK(ml_json_type(ml_json_at(root, 3)) == ML_JSON_INT && ml_json_type(ml_json_at(root, 4)) == ML_JSON_FLOAT,
        "-0, 1e5");
  ml_json_close(doc);
  doc = parse("null");
  CHECK(!ml_json_root(doc) && ml_json_type(ml_json_root(doc)) == ML_JSON_NULL, "null as a document");
  ml_json_close(doc);
}

typedef struct float_text {
  double value;
  const char *text; /* as Python's repr */
} float_text;

static const float_text floats[] = {
    {0.0, "0.0"},
    {-0.0, "-0.0"},
    {1.0, "1.0"},
    {-2.5, "-2.5"},
    {0.1, "0.1"},
    {1e-4, "0.0001"},
    {1e-5, "1e-05"},
    {0.00012345, "0.00012345"},
    {123456.789, "123456.789"},
    {1e15, "1000000000000000.0"},
    {1e16, "1e+16"},
    {1.5e300, "1.5e+300"},
    {5e-324, "5e-324"},
    {2.2250738585072014e-308, "2.2250738585072014e-308"},
    {1.7976931348623157e308, "1.7976931348623157e+308"},
    {1.0 / 3, "0.3333333333333333"},
    {2.0 / 3, "0.6666666666666666"},
    {9007199254740993.0, "9007199254740992.0"},
    {0.1 + 0.2, "0.30000000000000004"},
    {100.0, "100.0"},
    {1e22, "1e+22"},
    {1e30, "1e+30"},
    {4.35, "4.35"},
    {1e23, "1e+23"},
};

static void test_floats(void) {
  for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
    ml_json_writer w = {0};
    ml_json_write_float(&w, floats[i].value);
    CHECK(w.status == ML_OK && strcmp(w.text, floats[i].text) == 0, "float %s: %s", floats[i].text, w.text);
    ml_json_writer_free(&w);
  }
  uint64_t state = 42;
  int wrong = 0;
  for (int i = 0; i < 20000; i++) {
    double value;
    state = state * 6364136223846793005u + 1442695040888963407u;
    memcpy(&value, &state, sizeof value);
    if (!isfinite(value)) continue;
    ml_json_writer w = {0};
    ml_json_write_float(&w, value);
    ml_json_doc *doc;
    if (ml_json_parse(w.text, w.size, "f", &doc) != ML_OK) {
      wrong++;
    } else {
      if (ml_json_type(ml_json_root(doc)) != ML_JSON_FLOAT || ml_json_float(ml_json_root(doc)) != value) wrong++;
      ml_json_close(doc);
    }
    ml_json_writer_free(&w);
  }
  CHECK(wrong == 0, "random floats read back as they were (%d did not)", wrong);
}

static void test_writer(void) {
  ml_json_writer w = {0};
  ml_json_write_string(&w, "a\"\\/\b\f\n\r\t\x01\x7f\xe2\x82\xac\0z", 16);
  ml_json_write_raw(&w, ",", 1);
  ml_json_write_string(&w, "", 0);
  ml_json_write_raw(&w, ",", 1);
  ml_json_write_int(&w, INT64_MIN);
  CHECK(w.status == ML_OK &&
            strcmp(w.text, "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\x7f\xe2\x82\xac\\u0000z\",\"\",-9223372036854775808") ==
                0,
        "strings and integers: %s", w.text);
  ml_json_writer_free(&w);
  ml_json_write_string(&w, "ab\xff", 3);
  CHECK_FAILS(w.status, ML_USAGE, "byte 2", "a string that is not UTF-8");
  ml_json_write_int(&w, 1);
  CHECK(w.status == ML_USAGE, "the first failure stays");
  ml_json_writer_free(&w);
  ml_json_write_float(&w, NAN);
  CHECK_FAILS(w.status, ML_USAGE, "NaN", "NaN is not written");
  ml_json_writer_free(&w);
  ml_json_write_float(&w, -INFINITY);
  CHECK_FAILS(w.status, ML_USAGE, "infinity", "infinity is not written");
  ml_json_writer_free(&w);
}

/* A host may have set a locale whose decimal point is a comma. */
static void test_locale(void) {
  if (!setlocale(LC_NUMERIC, "de_DE.UTF-8") && !setlocale(LC_NUMERIC, "fr_FR.UTF-8")) {
    check_skip("a locale with a decimal comma", "none is installed");
    return;
  }
  ml_json_doc *doc = parse("1.5");
  CHECK(ml_json_float(ml_json_root(doc)) == 1.5, "1.5 is read whatever the locale");
  ml_json_writer w = {0};
  ml_json_write_float(&w, 1.5);
  CHECK(strcmp(w.text, "1.5") == 0, "and written");
  ml_json_writer_free(&w);
  ml_json_close(doc);
  setlocale(LC_NUMERIC, "C");
}

static ml_status refused(void *text) {
  ml_json_doc *doc;
  ML_TRY(ml_json_parse(text, strlen(text), "refused", &doc));
  ml_json_writer w = {0};
  ml_json_write_string(&w, ml_json_source(doc), 7);
  ml_json_close(doc);
  ml_status status = w.status;
  ml_json_writer_free(&w);
  return status;
}

static void bad_body(void *unused) {
  (void)unused;
  ml_json_doc *doc;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ml_json_parse(bad[i].text, strlen(bad[i].text), "f", &doc);
}

int main(void) {
  test_bad();
  test_prefixes();
  test_limits();
  test_values();
  test_floats();
  test_writer();
  test_locale();
  check_refusals(refused, "{\"a\":[1.5,\"text that is longer\",{\"b\":{}}],\"c\":\"\"}", "JSON");
  check_no_leak(bad_body, NULL, "refused JSON");
  return check_done();
}
