/* quant.h: what a weight's values are made of in a file: blocks of `block` inputs of one row, whatever device reads
 * them. A file of this folder states one format; kernels for it are the devices' own.
 *
 *   weight = scale * (code - zero) + minimum
 *
 * where each group of `sub` inputs has a scale and, where the format has minima, one of those. Floats are formats too,
 * of one input a block. A block's bytes fall into fields (scales, high bits, codes), which a device may keep apart. */
#ifndef ML_QUANT_QUANT_H
#define ML_QUANT_QUANT_H

#include "tensor/dtype.h"

typedef struct ml_quant_field {
  int offset, bytes; /* in a block */
} ml_quant_field;

/* How large codes are: 4, 5 or 6 bits from 0 on, signed bytes; or floats. */
typedef enum ml_code { ML_CODE_4, ML_CODE_5, ML_CODE_6, ML_CODE_8_SIGNED, ML_CODE_FLOAT } ml_code;

enum { ML_QUANT_FIELDS = 6 };
typedef struct ml_quant {
  ml_dtype dtype;
  ml_code code;
  int block, sub, zero;
  bool has_min;
  int n_fields; /* together all bytes of the block */
  ml_quant_field fields[ML_QUANT_FIELDS];
} ml_quant;

/* The format of a dtype; NULL of one that no weight is packed in. */
const ml_quant *ml_quant_of(ml_dtype dtype);

#endif
