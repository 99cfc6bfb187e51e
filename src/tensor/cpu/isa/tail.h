/* tail.h: what a step does with its results before they leave the nearest memory: an elementwise program (the step's
 * `fused`) whose first input is the result and whose others are the step's last inputs. */
#ifndef ML_CPU_TAIL_H
#define ML_CPU_TAIL_H

#include "tensor/cpu/isa/elementwise.h"

/* Bytes of scratch that a step's tail takes; 0 where it has none. */
size_t K(tail_room)(const ml_task *t);
/* Prepares `room`: once before others are called. */
void K(tail_begin)(const ml_task *t, char *room);
/* The dtype of the result itself. */
static inline ml_dtype tail_dtype(const ml_task *t) {
  return t->step->fused ? t->step->fused->input_dtypes[0] : t->out[0].dtype;
}
/* n elements of the result, from `column` of its last axis on; `row` counts through its other axes, row-major. They are
 * float32, not yet rounded to their dtype, or float64, and may be changed. */
void K(tail_run)(const ml_task *t, int64_t row, int64_t column, void *result, int64_t n, char *room);

#endif
