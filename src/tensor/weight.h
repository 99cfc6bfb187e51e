/* weight.h: matrices, or one an expert, in the layout that a device's products want.
 *
 * Weights (outputs, inputs) are packed in groups of rows (ml_device.group), which pass through host memory group after
 * group: no more than a megabyte or two of a matrix is there at once. Those of (experts, outputs, inputs) are one such
 * matrix after another, each with its last group filled up, so that a product with one reads nothing of others. */
#ifndef ML_TENSOR_WEIGHT_H
#define ML_TENSOR_WEIGHT_H

#include "tensor/quant/quant.h"
#include "tensor/tensor.h"

/* A packed weight of undefined content. exact: products with it leave activations in float32. ML_UNSUPPORTED for a
 * dtype or width that the device does not pack, ML_MISMATCH for other than 2 or 3 axes. */
ml_status ml_weight_create(ml_device *device, ml_dtype dtype, int ndim, const int64_t *shape, bool exact,
                           ml_tensor **out);
/* How many rows of so many bytes are packed at a time: whole groups. ML_UNSUPPORTED where one row is too long. */
ml_status ml_weight_chunk(const ml_device *device, size_t row_bytes, int64_t *rows);
/* Packs `count` rows from the host, in the file's own form, as the weight's rows from `first` on, counted through all
 * experts: rows of one of them, whole groups but for its last. ML_CANCELLED or ML_DEADLINE where the engine's flag is
 * up. */
ml_status ml_weight_put(ml_tensor *weight, int64_t first, int64_t count, const void *from);
/* All rows in the file's own form, ml_tensor_nbytes of them, to the host. */
ml_status ml_weight_read(ml_tensor *weight, void *to);

/* ML_USAGE, which says what to do, of a weight that is packed or in blocks. `what` wants another layout. */
ml_status ml_weight_check_strided(const ml_tensor *t, const char *what);

/* A packed weight of rows on the host, in the file's own form. */
ml_status ml_weight_from_host(ml_device *device, ml_dtype dtype, int ndim, const int64_t *shape, const void *data,
                              bool exact, ml_tensor **out);
/* A packed weight of a format that has several sources, of what they hold on the host. ML_MISMATCH where `inputs` are
 * no whole blocks. */
ml_status ml_weight_from_sources(ml_device *device, const ml_quant *quant, int ndim, const int64_t *shape,
                                 const void *const *sources, bool exact, ml_tensor **out);
/* A packed copy of a tensor with storage, of 2 or 3 axes; exact as above. */
ml_status ml_weight_pack(ml_tensor *t, bool exact, ml_tensor **out);
/* The matrix of an expert of a weight (experts, outputs, inputs) that is packed or in blocks: the same storage. Of what
 * has none yet, or other axes, the error of ml_weight_check_strided. */
ml_status ml_weight_expert(ml_tensor *weight, int64_t expert, const char *what, ml_tensor **out);
/* The file's own blocks, or plain floats, of a packed weight. */
ml_status ml_weight_unpack(ml_tensor *t, ml_tensor **out);

/* A packed weight of random numbers, for tests and benchmarks at true shapes: floats even between -sqrt(3) and sqrt(3)
 * times `deviation` (0 to 1024), blocks of random codes under scales that give about that deviation. */
ml_status ml_weight_random(ml_device *device, ml_dtype dtype, int ndim, const int64_t *shape, double deviation,
                           uint64_t seed, bool exact, ml_tensor **out);

#endif
