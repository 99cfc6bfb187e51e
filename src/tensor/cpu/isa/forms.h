/* forms.h: rows as products with packed weights take them, and what comes of them back in memory. */
#ifndef ML_CPU_FORMS_H
#define ML_CPU_FORMS_H

#include "tensor/cpu/isa/dot.h"
#include "tensor/cpu/isa/dot_codes.h"
#include "tensor/cpu/isa/elementwise.h"
#include "tensor/cpu/isa/pairs.h"

/* Rounded to 8-bit blocks, as pairs of bfloat16, or as float32. */
typedef enum form { ROUNDED, PAIRS, FLOATS } form;

static inline form form_of(const ml_isa *isa, const ml_arg *x, const ml_arg *w) {
  if (!w->exact && isa->formats[w->dtype]->of.code != ML_CODE_FLOAT) return ROUNDED;
  return w->dtype == ML_BF16 && x->dtype == ML_BF16 && pairs_known(isa) ? PAIRS : FLOATS;
}

/* Where rounded rows lie from a base on, in bytes. Weights that take them have whole blocks. */
typedef struct act_place {
  size_t q, d, sums, scaled;
} act_place;

static inline act_place reserve_act(size_t *at, int64_t rows, int64_t inputs) {
  act_place p;
  p.q = ml_reserve(at, (size_t)(rows * inputs));
  p.d = ml_reserve(at, (size_t)(rows * (inputs / ACT_BLOCK)) * sizeof(float));
  p.sums = ml_reserve(at, (size_t)(rows * (inputs / ACT_SUM)) * sizeof(int32_t));
  p.scaled = ml_reserve(at, (size_t)(rows * (inputs / ACT_BLOCK)) * sizeof(float));
  return p;
}

static inline act act_at(char *base, const act_place *p, int64_t inputs) {
  return (act){(const int8_t *)(base + p->q), (const float *)(void *)(base + p->d),
               (const int32_t *)(void *)(base + p->sums), (const float *)(void *)(base + p->scaled), inputs};
}

/* `x`: a row of bfloat16, or of float32, which is rounded to it. */
static inline void put_pairs(const pair_rows *to, int64_t row, const void *x, ml_dtype dtype) {
  for (int64_t k = 0; k < to->inputs; k += PAIR_INPUTS) {
    uint16_t *p = pair_at(to, row, k / PAIR_INPUTS);
    const int n = (int)ml_min64(PAIR_INPUTS, to->inputs - k);
    if (n < PAIR_INPUTS) memset(p, 0, PAIR_INPUTS * sizeof *p);
    if (dtype == ML_BF16) memcpy(p, (const uint16_t *)x + k, (size_t)n * sizeof *p);
    else K(store_tile)((char *)p, ML_BF16, 1, (const float *)x + k, n);
  }
}

/* n elements of a register to where they lie side by side, mostly those of a panel. */
static inline void store_columns(char *to, ml_dtype dtype, const void *reg, int64_t n) {
  if (dtype == ML_F32 && n == LANES) memcpy(to, reg, LANES * sizeof(float));
  else if (dtype == ML_F32) memcpy(to, reg, (size_t)n * sizeof(float));
  else if (dtype == ML_BF16 && n == LANES) v_store_bf16((uint16_t *)(void *)to, v_load((const float *)reg));
  else K(store_tile)(to, dtype, 1, reg, (int)n);
}

#endif
