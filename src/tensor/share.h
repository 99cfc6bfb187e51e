/* share.h: weights that the engines of one process read together.
 *
 * An engine publishes tensors under a token, and others take them by name. Storage that is shared counts where it was
 * made, and is freed by the last who has it; nobody writes it. Any engine's thread may call these. */
#ifndef ML_TENSOR_SHARE_H
#define ML_TENSOR_SHARE_H

#include "tensor/tensor.h"

enum { ML_TOKEN_BYTES = 40 };

/* Publishes evaluated tensors of one device, with a text about them, until it is withdrawn. ML_UNSUPPORTED for a device
 * whose memory other engines do not reach. */
ml_status ml_share_publish(const char *about, ml_tensor *const *tensors, const char *const *names, size_t n,
                           char token[ML_TOKEN_BYTES]);
/* No more are taken; those that were stay. A token of nobody is none of this function's business. */
void ml_share_withdraw(const char *token);
/* What was said about them, for ml_free. ML_NOT_FOUND where nothing is published under the token. */
ml_status ml_share_about(const char *token, char **out);
/* One of them as a tensor of this device's engine; ML_NOT_FOUND, or ML_MISMATCH for another kind of device. */
ml_status ml_share_take(ml_device *device, const char *token, const char *name, ml_tensor **out);

#endif
