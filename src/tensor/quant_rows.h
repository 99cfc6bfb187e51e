/* quant_rows.h: float weights rounded to blocks. */
#ifndef ML_TENSOR_QUANT_ROWS_H
#define ML_TENSOR_QUANT_ROWS_H

#include "base/status.h"
#include "tensor/dtype.h"

/* Whether values can be rounded to blocks of dtype `to` here: Q8_0 and Q4_0. */
bool ml_can_quantize(ml_dtype to);
/* Rounds `count` values, whole blocks of them, of dtype float32, float16 or bfloat16. ML_UNSUPPORTED for other dtypes;
 * ML_CORRUPT where a value is not finite, or a block's scale overflows float16. */
ml_status ml_quantize_values(ml_dtype to, ml_dtype from, int64_t count, const void *values, void *blocks);

#endif
