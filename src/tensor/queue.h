/* queue.h: what devices were given and may not have done yet.
 *
 * On a device that is asynchronous a run is known to have failed only later. Until then its results pass for values:
 * they can be given to further runs, which are done after it. Once it is known, whatever it was to write is *lost*, and
 * so is what later runs made of that; reading it raises what the run failed with. What has been written anew since is
 * not. On a device that is not, a failure is known at once, and nothing but the states that were written is lost. */
#ifndef ML_TENSOR_QUEUE_H
#define ML_TENSOR_QUEUE_H

#include "tensor/tensor.h"

/* Runs the plan on these inputs and outputs, at these addresses. *began: its steps may have run, or will. */
ml_status ml_queue_run(ml_plan *p, ml_tensor *const *inputs, ml_tensor *const *outputs, void *const *addresses,
                       bool *began);
/* t gets its value from the run that was given last: should that fail, t is lazy again. Its node is kept so long. */
void ml_queue_hold(ml_tensor *t);
void ml_queue_forget(ml_tensor *t); /* which is about to go */
/* Finds out what came of runs that are done. A result of one that failed has no storage any more. */
void ml_queue_look(ml_device *d);
/* Waits for everything that the device was given. */
void ml_queue_land(ml_device *d);
/* The same, and fails as the first run did of those that have failed since this was asked last. */
ml_status ml_queue_wait(ml_device *d);
/* Waits until the tensors, which have storage, have their values. */
ml_status ml_tensor_wait(ml_tensor *const *tensors, size_t count);

/* Bytes of a buffer: written by the host, all of those of a state; and read by it, which waits, and fails where the
 * buffer is lost. */
ml_status ml_buffer_write(ml_buffer *b, size_t offset, const void *from, size_t bytes);
ml_status ml_buffer_read(ml_buffer *b, size_t offset, void *to, size_t bytes);
/* Of one from another, of another device. */
ml_status ml_buffer_copy(ml_buffer *to, size_t at, ml_buffer *from, size_t from_at, size_t bytes);

#endif
