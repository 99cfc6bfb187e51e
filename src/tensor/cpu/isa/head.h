/* head.h: what a step computes of its operands before its own work on them: an elementwise program (the step's
 * `fused`), whose inputs are the step's, all of the shape of its result. */
#ifndef ML_CPU_HEAD_H
#define ML_CPU_HEAD_H

#include "tensor/cpu/isa/elementwise.h"

/* Where elements of the result come from: axes, of which neighbours are one where every input lies evenly over both. */
typedef struct head {
  int ndim;
  int64_t shape[ML_MAX_DIMS];
  int64_t strides[ML_FUSED_MAX_INPUTS][ML_MAX_DIMS];
} head;

/* The dtype of the result; without a program, that of the step's first input. */
static inline ml_dtype head_dtype(const ml_task *t) {
  const ml_fused *f = t->step->fused;
  return f ? f->code[f->outputs[0] - f->n_inputs].dtype : t->in[0].dtype;
}
void K(head_prepare)(const ml_task *t, head *h);
/* Bytes of scratch that it takes, and what prepares them: once before others are called. */
size_t K(head_room)(const ml_task *t);
void K(head_begin)(const ml_task *t, char *room);
/* Writes n elements of the result, in row-major order from `first` on, side by side. */
void K(head_run)(const ml_task *t, const head *h, int64_t first, int64_t n, char *to, char *room);

#endif
