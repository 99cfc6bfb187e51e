/* numeric.h: numbers as text, with a point in them whatever locale the host has chosen. */
#ifndef ML_BASE_NUMERIC_H
#define ML_BASE_NUMERIC_H

#include <locale.h>
#include <stddef.h>

typedef struct ml_numeric {
  locale_t own, before;
} ml_numeric;

/* From enter to leave this thread formats and reads numbers as C does; no other is touched. Nothing between them may
 * jump out. */
ml_numeric ml_numeric_enter(void);
void ml_numeric_leave(ml_numeric n);

/* `value` with at most so many significant digits, as "%.*g" writes it. */
void ml_number_text(char *text, size_t size, int digits, double value);

/* What strtod reads. */
double ml_number_read(const char *text);

#endif
