/* status.c: the thread-local error record. */
#include "base/status.h"

#include "base/numeric.h"

#include <stdio.h>
#include <string.h>

enum { RECORD_BYTES = 2048 };

static _Thread_local char record[RECORD_BYTES];

static const char *const names[ML_STATUS_COUNT] = {
    "ok",     "not_found", "corrupt",  "unsupported", "mismatch", "usage",
    "memory", "cancelled", "deadline", "device",      "io",       "limit",
};

const char *ml_status_name(ml_status status) { return (unsigned)status < ML_STATUS_COUNT ? names[status] : "unknown"; }

const char *ml_error_message(void) { return record; }

void ml_error_clear(void) { record[0] = '\0'; }

ml_status ml_failv(ml_status status, const char *format, va_list args) {
  char text[RECORD_BYTES]; /* the arguments may point into the record itself */
  ml_numeric n = ml_numeric_enter();
  vsnprintf(text, sizeof text, format, args);
  ml_numeric_leave(n);
  memcpy(record, text, sizeof text);
  return status;
}

ml_status ml_fail(ml_status status, const char *format, ...) {
  va_list args;
  va_start(args, format);
  ml_failv(status, format, args);
  va_end(args);
  return status;
}

ml_status ml_fail_prefix(ml_status status, const char *format, ...) {
  if (status == ML_OK) return ML_OK;
  char prefix[512];
  va_list args;
  va_start(args, format);
  vsnprintf(prefix, sizeof prefix, format, args);
  va_end(args);
  return ml_fail(status, "%s: %s", prefix, record);
}
