/* json_write.c: JSON text from values. */
#include "io/json.h"
#include "base/numeric.h"
#include "io/utf8.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ml_json_write_raw(ml_json_writer *w, const char *text, size_t size) {
  if (w->status != ML_OK) return;
  if (size > INT_MAX - w->size - 1) { /* no reader of ours would take it back */
    w->status = ml_fail(ML_LIMIT, "JSON text over 2 GiB");
    return;
  }
  w->status = ML_GROW(w->text, w->capacity, w->size + size + 1);
  if (w->status != ML_OK) return;
  if (size > 0) memcpy(w->text + w->size, text, size);
  w->size += size;
  w->text[w->size] = '\0';
}

/* Writes the escape of a byte that needs one and returns its length; 0 for all others. */
static size_t escape(unsigned char c, char to[8]) {
  static const char from[] = "\"\\\b\f\n\r\t", into[] = "\"\\bfnrt";
  const char *found = c ? strchr(from, c) : NULL;
  if (found) {
    to[0] = '\\';
    to[1] = into[found - from];
    return 2;
  }
  return c < 0x20 ? (size_t)snprintf(to, 8, "\\u%04x", c) : 0;
}

void ml_json_write_string(ml_json_writer *w, const char *text, size_t size) {
  char code[8];
  ml_json_write_raw(w, "\"", 1);
  for (size_t i = 0, start = 0; i < size;) {
    size_t n = ml_utf8_valid(text + i, size - i);
    if (n == 0) {
      if (w->status == ML_OK) w->status = ml_fail(ML_USAGE, "a string that is not valid UTF-8 (byte %zu)", i);
      return;
    }
    size_t escaped = n == 1 ? escape((unsigned char)text[i], code) : 0;
    i += n;
    if (escaped > 0 || i == size) {
      ml_json_write_raw(w, text + start, i - start - (escaped > 0));
      ml_json_write_raw(w, code, escaped);
      start = i;
    }
  }
  ml_json_write_raw(w, "\"", 1);
}

void ml_json_write_int(ml_json_writer *w, int64_t value) {
  char text[32];
  ml_json_write_raw(w, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)value));
}

/* The fewest significant digits that read back as `value` (not 0), "d.ddde[+-]dd". 15 digits are enough for any shorter
 * decimal to show itself, except where subnormals have fewer bits. */
static void shortest(double value, char *text, size_t size) {
  ml_numeric n = ml_numeric_enter();
  for (int digits = fabs(value) < DBL_MIN ? 1 : 15; digits <= 17; digits++) {
    snprintf(text, size, "%.*e", digits - 1, value);
    if (strtod(text, NULL) == value) break;
  }
  ml_numeric_leave(n);
}

/* Laid out as Python's repr does, which the reference's templates and files show: positional from 1e-4 up to 1e16. */
void ml_json_write_float(ml_json_writer *w, double value) {
  if (!isfinite(value)) {
    if (w->status == ML_OK) w->status = ml_fail(ML_USAGE, "%s is not a JSON number", isnan(value) ? "NaN" : "infinity");
    return;
  }
  char form[40], digits[24], text[48];
  if (signbit(value)) ml_json_write_raw(w, "-", 1);
  value = fabs(value);
  if (value == 0) {
    ml_json_write_raw(w, "0.0", 3);
    return;
  }
  shortest(value, form, sizeof form);
  char *mark = strchr(form, 'e');
  int exponent = atoi(mark + 1), n = 0;
  for (const char *c = form; c < mark; c++) {
    if (*c != '.') digits[n++] = *c;
  }
  while (n > 1 && digits[n - 1] == '0') n--;
  digits[n] = '\0';
  if (exponent < -4 || exponent >= 16) {
    snprintf(text, sizeof text, "%c%s%se%c%02d", digits[0], n > 1 ? "." : "", digits + 1, exponent < 0 ? '-' : '+',
             abs(exponent));
  } else if (exponent < 0) {
    snprintf(text, sizeof text, "0.%.*s%s", -exponent - 1, "000", digits);
  } else if (n <= exponent + 1) {
    snprintf(text, sizeof text, "%s%.*s.0", digits, exponent + 1 - n, "0000000000000000");
  } else {
    snprintf(text, sizeof text, "%.*s.%s", exponent + 1, digits, digits + exponent + 1);
  }
  ml_json_write_raw(w, text, strlen(text));
}

void ml_json_writer_free(ml_json_writer *w) {
  ml_free(w->text);
  *w = (ml_json_writer){0};
}
