/* quant.c: the formats by their dtypes. */
#include "tensor/quant/quant.h"

#include "tensor/quant/floats.h"
#include "tensor/quant/q4_0.h"
#include "tensor/quant/q4_1.h"
#include "tensor/quant/q4_k.h"
#include "tensor/quant/q5_0.h"
#include "tensor/quant/q5_1.h"
#include "tensor/quant/q5_k.h"
#include "tensor/quant/q6_k.h"
#include "tensor/quant/q8_0.h"

static const ml_quant formats[ML_DTYPE_COUNT] = {
    [ML_F32] = ML_QUANT_F32,   [ML_F16] = ML_QUANT_F16,   [ML_BF16] = ML_QUANT_BF16, [ML_Q4_0] = ML_QUANT_Q4_0,
    [ML_Q4_1] = ML_QUANT_Q4_1, [ML_Q5_0] = ML_QUANT_Q5_0, [ML_Q5_1] = ML_QUANT_Q5_1, [ML_Q8_0] = ML_QUANT_Q8_0,
    [ML_Q4_K] = ML_QUANT_Q4_K, [ML_Q5_K] = ML_QUANT_Q5_K, [ML_Q6_K] = ML_QUANT_Q6_K,
};

const ml_quant *ml_quant_of(ml_dtype dtype) { return formats[dtype].block ? &formats[dtype] : NULL; }
