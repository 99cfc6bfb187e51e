/* load.h: tensors of a checkpoint, from the file to a device. */
#ifndef ML_IO_LOAD_H
#define ML_IO_LOAD_H

#include "io/checkpoint.h"
#include "tensor/tensor.h"

/* What may be done to a weight on its way. All zero: nothing, its rows are packed as they are. */
typedef struct ml_pack_options {
  bool exact;    /* products with it leave activations in float32 */
  int64_t heads; /* > 0: rows (head, pair, half), as GGUF stores the queries and keys of interleaved rope, become (head,
                    half, pair) */
  bool quantize; /* floats are rounded to blocks of `format` */
  ml_dtype format;
} ml_pack_options;

/* The values as the file has them; block formats stay blocks. */
ml_status ml_entry_load(ml_device *device, const ml_entry *entry, ml_tensor **out);
/* A weight (outputs, inputs) or (experts, outputs, inputs) packed for products. ML_MISMATCH for other axes or rows that
 * do not divide into heads; what packing and rounding report; ML_CANCELLED or ML_DEADLINE where the engine's flag goes
 * up. Messages begin with the entry's name. */
ml_status ml_entry_load_packed(ml_device *device, const ml_entry *entry, const ml_pack_options *options,
                               ml_tensor **out);

#endif
