/* fuzz_json.c: any bytes as JSON. What is accepted is written again, and that text must be accepted and be written as
 * the same text; and json-c's own reader must take it too. */
#include "io/json.h"

#include <json-c/json.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_value(ml_json_writer *w, const ml_json *value) {
  ml_json_iter iter = {0};
  size_t size;
  const char *text;
  switch (ml_json_type(value)) {
  case ML_JSON_NULL: ml_json_write_raw(w, "null", 4); break;
  case ML_JSON_BOOL: ml_json_write_raw(w, ml_json_bool(value) ? "true" : "false", ml_json_bool(value) ? 4 : 5); break;
  case ML_JSON_INT: ml_json_write_int(w, ml_json_int(value)); break;
  case ML_JSON_FLOAT: ml_json_write_float(w, ml_json_float(value)); break;
  case ML_JSON_STRING:
    text = ml_json_string(value, &size);
    ml_json_write_string(w, text, size);
    break;
  case ML_JSON_ARRAY:
    ml_json_write_raw(w, "[", 1);
    for (size_t i = 0; i < ml_json_length(value); i++) {
      if (i > 0) ml_json_write_raw(w, ",", 1);
      write_value(w, ml_json_at(value, i));
    }
    ml_json_write_raw(w, "]", 1);
    break;
  case ML_JSON_OBJECT:
    ml_json_write_raw(w, "{", 1);
    for (bool first = true; ml_json_next(value, &iter); first = false) {
      if (!first) ml_json_write_raw(w, ",", 1);
      if (!ml_json_has(value, iter.key) || ml_json_get(value, iter.key) != iter.value) __builtin_trap();
      ml_json_write_string(w, iter.key, strlen(iter.key));
      ml_json_write_raw(w, ":", 1);
      write_value(w, iter.value);
    }
    ml_json_write_raw(w, "}", 1);
    break;
  }
}

static bool check_json_c(const char *text, size_t size) {
  json_tokener *tokener = json_tokener_new_ex(130);
  json_object *value = json_tokener_parse_ex(tokener, text, (int)size + 1);
  bool taken = json_tokener_get_error(tokener) == json_tokener_success;
  json_object_put(value);
  json_tokener_free(tokener);
  return taken;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ml_json_doc *doc, *again;
  if (ml_json_parse((const char *)data, size, "fuzz", &doc) != ML_OK) return 0;
  ml_json_writer first = {0}, second = {0};
  write_value(&first, ml_json_root(doc));
  if (first.status != ML_OK || !check_json_c(first.text, first.size)) __builtin_trap();
  if (ml_json_parse(first.text, first.size, "again", &again) != ML_OK) __builtin_trap();
  write_value(&second, ml_json_root(again));
  if (second.size != first.size || memcmp(first.text, second.text, first.size) != 0) __builtin_trap();
  ml_json_close(again);
  ml_json_close(doc);
  ml_json_writer_free(&first);
  ml_json_writer_free(&second);
  return 0;
}
