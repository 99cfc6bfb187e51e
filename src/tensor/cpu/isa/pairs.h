/* pairs.h: packed weights of bfloat16 times rows of bfloat16, where the processor multiplies pairs of them: by dot
 * products of vectors, or by tiles.
 *
 * An element's sum depends on the inner length alone. Dot products add the terms of an even and then of an odd input;
 * tiles add the even ones of 32 inputs and the odd ones apart, then both to the sum, and take subnormals for zero. */
#ifndef ML_CPU_PAIRS_H
#define ML_CPU_PAIRS_H

#include "tensor/cpu/isa/panel.h"

/* Rows lie in groups of up to PAIR_ROWS: [group][inputs / 32][row][32], zeros behind the last input. PAIR_BLOCK: inputs
 * of a panel that are in the nearest cache at once. */
enum { PAIR_ROWS = 16, PAIR_INPUTS = 32, PAIR_BLOCK = 512, PAIR_PANELS = 2 };
typedef struct pair_rows {
  uint16_t *data;
  int64_t rows, inputs;
} pair_rows;

static inline int64_t pair_steps(int64_t inputs) { return (inputs + PAIR_INPUTS - 1) / PAIR_INPUTS; }
static inline int64_t pair_height(const pair_rows *x) { return ml_min64(x->rows, PAIR_ROWS); }
static inline int64_t pair_groups(const pair_rows *x) { return (x->rows + PAIR_ROWS - 1) / PAIR_ROWS; }
/* Rows that products have room for. */
static inline int64_t pair_room(int64_t rows) {
  return rows < PAIR_ROWS ? rows : (rows + PAIR_ROWS - 1) / PAIR_ROWS * PAIR_ROWS;
}
static inline size_t pair_bytes(int64_t rows, int64_t inputs) {
  return (size_t)(pair_room(rows) * pair_steps(inputs) * PAIR_INPUTS) * sizeof(uint16_t);
}
/* Scratch of a thread. */
enum { PAIR_SCRATCH = PAIR_PANELS * PAIR_BLOCK * PANEL_ROWS * 2 };

/* Inputs 32 step.. of row r. */
static inline uint16_t *pair_at(const pair_rows *x, int64_t r, int64_t step) {
  int64_t h = pair_height(x);
  return x->data + ((r / PAIR_ROWS * pair_steps(x->inputs) + step) * h + r % PAIR_ROWS) * PAIR_INPUTS;
}

static inline bool pairs_known(const ml_isa *isa) { return isa->bf16_dots || isa->bf16_tiles; }

/* Around a thread's products with so many rows: tiles are set up for their number, and given back. */
void K(pairs_begin)(const ml_isa *isa, int64_t rows);
void K(pairs_end)(const ml_isa *isa, int64_t rows);
/* products[i] (rows, 16) = all rows times panel i, of one or two; `scratch` of PAIR_SCRATCH bytes, aligned to 64. */
void K(pairs_multiply)(const ml_isa *isa, const pair_rows *x, const uint8_t *const *panels, int n, char *scratch,
                       float *const *products);

#endif
