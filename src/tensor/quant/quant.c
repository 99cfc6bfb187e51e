/* quant.c: the formats by their dtypes. */
#include "tensor/quant/quant.h"

#include "tensor/quant/affine.h"
#include "tensor/quant/floats.h"
#include "tensor/quant/q4_0.h"
#include "tensor/quant/q4_1.h"
#include "tensor/quant/q4_k.h"
#include "tensor/quant/q5_0.h"
#include "tensor/quant/q5_1.h"
#include "tensor/quant/q5_k.h"
#include "tensor/quant/q6_k.h"
#include "tensor/quant/q8_0.h"

#include <string.h>

static const ml_quant formats[ML_DTYPE_COUNT] = {
    [ML_F32] = ML_QUANT_F32,   [ML_F16] = ML_QUANT_F16,   [ML_BF16] = ML_QUANT_BF16, [ML_Q4_0] = ML_QUANT_Q4_0,
    [ML_Q4_1] = ML_QUANT_Q4_1, [ML_Q5_0] = ML_QUANT_Q5_0, [ML_Q5_1] = ML_QUANT_Q5_1, [ML_Q8_0] = ML_QUANT_Q8_0,
    [ML_Q4_K] = ML_QUANT_Q4_K, [ML_Q5_K] = ML_QUANT_Q5_K, [ML_Q6_K] = ML_QUANT_Q6_K,
#define F(n, length, type, name, size) [ML_AFFINE##n##_##length##_##type] = ML_QUANT_AFFINE(n, length, type, size),
    ML_AFFINE_FORMATS(F)
#undef F
};

const ml_quant *ml_quant_of(ml_dtype dtype) { return formats[dtype].block ? &formats[dtype] : NULL; }

const ml_quant *ml_quant_affine(int64_t bits, int64_t group, ml_dtype scale) {
  for (int t = ML_AFFINE_FIRST; t < ML_DTYPE_COUNT; t++) {
    const ml_quant *q = &formats[t];
    if (q->bits == bits && q->block == group && q->scale == scale) return q;
  }
  return NULL;
}

void ml_quant_join(const ml_quant *q, int64_t blocks, const void *const *sources, void *to) {
  const char *from[ML_QUANT_SOURCES];
  char *block = to;
  for (int i = 0; i < q->n_sources; i++) from[i] = sources[i];
  for (int64_t b = 0; b < blocks; b++, block += ml_dtype_infos[q->dtype].bytes) {
    for (int i = 0; i < q->n_fields; i++) {
      const ml_quant_field *f = &q->fields[i];
      memcpy(block + f->offset, from[f->source], (size_t)f->bytes);
      from[f->source] += f->bytes;
    }
  }
}
