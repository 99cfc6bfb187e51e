/* quant.h: what a weight's values are made of in a file: blocks of `block` inputs of one row, whatever device reads
 * them. A file of this folder states one format; kernels for it are the devices' own.
 *
 *   weight = scale * (code - zero) + minimum
 *
 * where each group of `sub` inputs has a scale and, where the format has minima, one of those. Floats are formats too,
 * of one input a block. A block's bytes fall into fields (scales, high bits, codes), which a device may keep apart. A
 * file may have fields in tensors of their own, the sources: they are put together on their way through host memory, a
 * part of the rows at a time, where rows pass anyway (they are cut, and wait for the device there), so that each device
 * packs one form of each format and knows nothing of sources. */
#ifndef ML_QUANT_QUANT_H
#define ML_QUANT_QUANT_H

#include "tensor/dtype.h"

typedef struct ml_quant_field {
  int offset, bytes; /* in a block */
  int source;        /* the tensor of the file that has it */
} ml_quant_field;

/* How large codes are: 4, 5 or 6 bits from 0 on, signed bytes; or floats. */
typedef enum ml_code { ML_CODE_4, ML_CODE_5, ML_CODE_6, ML_CODE_8_SIGNED, ML_CODE_FLOAT } ml_code;

enum { ML_QUANT_FIELDS = 6, ML_QUANT_SOURCES = 3 };
typedef struct ml_quant {
  ml_dtype dtype;
  ml_code code;
  int block, sub, zero;
  bool has_min;
  int n_fields; /* together all bytes of the block */
  ml_quant_field fields[ML_QUANT_FIELDS];
  int n_sources; /* 0: the file has whole blocks */
  int bits;      /* of affine formats, as is `scale`: the dtype of scales and biases */
  ml_dtype scale;
} ml_quant;

/* The format of a dtype; NULL of one that no weight is packed in. */
const ml_quant *ml_quant_of(ml_dtype dtype);
/* That of affine weights; NULL where there is none. */
const ml_quant *ml_quant_affine(int64_t bits, int64_t group, ml_dtype scale);
/* Puts `blocks` blocks together, one behind another, of what their sources have of them. */
void ml_quant_join(const ml_quant *quant, int64_t blocks, const void *const *sources, void *to);

#endif
