/* dot.h: products of one expanded panel tile with a few activation rows: the arithmetic under every packed weight.
 *
 * Both add their terms in the order of the inputs, so an element's result does not depend on how many rows or threads
 * there are. */
#ifndef ML_CPU_DOT_H
#define ML_CPU_DOT_H

#include "tensor/cpu/isa/simd.h"
#include "tensor/cpu/isa/quant/format.h"

/* acc[r][16] += the tile's inputs k0..k0+count-1 times row r of the activations, `rows` rows. */
void K(dot_codes)(const ml_format *f, const uint8_t *codes, const float *scale, const float *min, const act *x,
                  int64_t row, int rows, int64_t k0, int64_t count, float *acc);
/* acc[r][16] += sum over k of x[r * pitch + k] * w[k][16], one fused multiply-add after another. */
void K(dot_floats)(const float *w, const float *x, int64_t pitch, int rows, int64_t count, float *acc);

/* The same of rows that lie apart, at most DOT_ROWS of them: x[r][k]. */
enum { DOT_ROWS = 6 };
void K(dot_floats_at)(const float *w, const float *const *x, int rows, int64_t count, float *acc);

/* Rounds a row: d = max |x| / 127 a block of 32 (the last one may be shorter), halves to even. Goes to row `row` of
 * `to`, which has room for it. */
void K(round_row)(const float *x, int64_t n, const act *to, int64_t row);

#endif
