/* norm.h: row functions that other kernels share. */
#ifndef ML_CPU_NORM_H
#define ML_CPU_NORM_H

#include "tensor/cpu/isa/simd.h"

/* o = x / rms(x) times (offset + weight); weight may be NULL, o may be x. */
void K(rms_norm_row)(const float *x, const float *weight, float offset, float eps, int64_t n, float *o);
/* o = (x - mean) / deviation times weight plus bias, either of which may be NULL; o is not x, which is read again where
 * squares overflow. */
void K(layer_norm_row)(const float *x, const float *weight, const float *bias, float eps, int64_t n, float *o);
/* softmax or, with `log`, its logarithm; o may be x. */
void K(softmax_row)(const float *x, bool log, int64_t n, float *o);
/* exp(x - max) into o (which may be x); returns the sum. */
float K(exp_row)(const float *x, float max, int64_t n, float *o);
float K(max_row)(const float *x, int64_t n);

#endif
