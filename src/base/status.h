/* status.h: how the core reports failure.
 *
 * A function that can fail returns ml_status. Where it detects the failure it calls ml_fail, which writes the calling
 * thread's error record and returns the status, so that `return ml_fail(ML_CORRUPT, "...")` reads as one sentence.
 * Messages name file and field, what was expected and what was found; they end without a full stop or newline. */
#ifndef ML_BASE_STATUS_H
#define ML_BASE_STATUS_H

#include "moonlet.h"

#include <stdarg.h>

#if defined(__GNUC__)
#define ML_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define ML_PRINTF(fmt, args)
#endif

/* Writes the error record (text cut at 2,047 bytes) and returns `status`, which must not be ML_OK. */
ml_status ml_fail(ml_status status, const char *format, ...) ML_PRINTF(2, 3);
ml_status ml_failv(ml_status status, const char *format, va_list args);

/* Empties the error record, of a failure that a call coped with. */
void ml_error_clear(void);

/* Puts "prefix: " before the record's text (a file name, a module path), returns `status`; ML_OK passes untouched. */
ml_status ml_fail_prefix(ml_status status, const char *format, ...) ML_PRINTF(2, 3);

/* Returns from the calling function with the status when `expression` fails. */
#define ML_TRY(expression)                                                                                             \
  do {                                                                                                                 \
    ml_status ml_try_status_ = (expression);                                                                           \
    if (ml_try_status_ != ML_OK) return ml_try_status_;                                                                \
  } while (0)

#endif
