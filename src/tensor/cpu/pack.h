/* pack.h: weights to panels and back (quant/format.h says what a panel is). */
#ifndef ML_CPU_PACK_H
#define ML_CPU_PACK_H

#include "tensor/cpu/kernel.h"

size_t ml_cpu_packed_bytes(ml_device *d, ml_dtype dtype, int64_t rows, int64_t inputs);
ml_status ml_cpu_pack(ml_device *d, void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row, int64_t rows,
                      const void *from);
ml_status ml_cpu_unpack(ml_device *d, const void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row,
                        int64_t rows, void *to);

#endif
