/* buffer.h: counted storage on a device, shared by reference. */
#ifndef ML_TENSOR_BUFFER_H
#define ML_TENSOR_BUFFER_H

#include "tensor/device.h"

typedef struct ml_buffer {
  int references;
  ml_device *device;
  void *address;
  size_t bytes;    /* asked for */
  size_t capacity; /* held */
  bool reserved;   /* a reservation: counted by what is committed (ml_buffer_charge) */
  size_t charged;  /* bytes counted as active */
} ml_buffer;

/* ML_LIMIT when the device's limit would be passed even with an empty cache. */
ml_status ml_buffer_create(ml_device *device, size_t bytes, ml_buffer **out);
/* Address space for `bytes`, committed as it is written. */
ml_status ml_buffer_reserve(ml_device *device, size_t bytes, ml_buffer **out);
/* Brings the count of a reservation up to date: `bytes` of it are in use now. */
ml_status ml_buffer_charge(ml_buffer *buffer, size_t bytes);
ml_buffer *ml_buffer_retain(ml_buffer *buffer);
void ml_buffer_release(ml_buffer *buffer); /* NULL is allowed */
/* Returns cached blocks to the device until at most `keep` bytes are cached. */
void ml_memory_trim(ml_device *device, size_t keep);

#endif
