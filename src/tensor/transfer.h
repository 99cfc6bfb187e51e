/* transfer.h: values from one device to another. */
#ifndef ML_TENSOR_TRANSFER_H
#define ML_TENSOR_TRANSFER_H

#include "tensor/tensor.h"

/* The values of t, which are computed, on another device; packed weights in that device's own layout. Not while a plan
 * is recorded, which is of one device. */
ml_status ml_tensor_to(ml_tensor *t, ml_device *device, ml_tensor **out);

#endif
