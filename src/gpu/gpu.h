/* gpu.h: NVIDIA's GPUs as devices. */
#ifndef ML_GPU_GPU_H
#define ML_GPU_GPU_H

#include "tensor/device.h"

/* Whether a name is that of a GPU: "cuda", which is the first one, or "cuda:N". */
bool ml_gpu_named(const char *name, int *index);
/* How many there are; an error says why there is none that moonlet could use. */
ml_status ml_gpu_count(int *out);
ml_status ml_gpu_device_open(ml_engine *engine, int index, ml_device **out);

#endif
