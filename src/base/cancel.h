/* cancel.h: the one flag behind Ctrl-C, a host's cancel and a deadline.
 *
 * Any thread and any signal handler may raise it (ml_flag_raise). The engine polls it as it hands out the work of a
 * plan's steps, and in long loops, through ml_flag_poll, which also raises it once the deadline has passed. */
#ifndef ML_BASE_CANCEL_H
#define ML_BASE_CANCEL_H

#include "base/status.h"

#include <stdatomic.h>
#include <time.h>

typedef struct ml_cancel_flag {
  atomic_int raised;           /* 0, or the ml_status to report: ML_CANCELLED or ML_DEADLINE */
  _Atomic int64_t deadline_ns; /* on the monotonic clock; 0: none */
} ml_cancel_flag;

static inline int64_t ml_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void ml_flag_raise(ml_cancel_flag *f) { atomic_store(&f->raised, ML_CANCELLED); }

/* ML_OK, ML_CANCELLED or ML_DEADLINE; does not write the error record. */
static inline ml_status ml_flag_poll(ml_cancel_flag *f) {
  int raised = atomic_load_explicit(&f->raised, memory_order_relaxed);
  if (raised) return (ml_status)raised;
  int64_t deadline = atomic_load_explicit(&f->deadline_ns, memory_order_relaxed);
  if (deadline && ml_now_ns() >= deadline) {
    atomic_store(&f->raised, ML_DEADLINE);
    return ML_DEADLINE;
  }
  return ML_OK;
}

#endif
