/* numeric.c: the C locale for this thread, for a moment. */
#include "base/numeric.h"

#include <stdio.h>
#include <stdlib.h>

ml_numeric ml_numeric_enter(void) {
  ml_numeric n = {.own = newlocale(LC_ALL_MASK, "C", (locale_t)0)};
  n.before = uselocale(n.own); /* without memory for a new one this changes nothing */
  return n;
}

void ml_numeric_leave(ml_numeric n) {
  uselocale(n.before);
  if (n.own) freelocale(n.own);
}

void ml_number_text(char *text, size_t size, int digits, double value) {
  ml_numeric n = ml_numeric_enter();
  snprintf(text, size, "%.*g", digits, value);
  ml_numeric_leave(n);
}

double ml_number_read(const char *text) {
  ml_numeric n = ml_numeric_enter();
  double value = strtod(text, NULL);
  ml_numeric_leave(n);
  return value;
}
