/* shape.h: what shape rules share. */
#ifndef ML_TENSOR_SHAPE_H
#define ML_TENSOR_SHAPE_H

#include "tensor/ops.h"

#define SHAPE_TEXT(t) ml_shape_text((t)->ndim, (t)->shape, (char[160]){0}, 160)

/* An error where an operand is not what a rule expects. NULL, an absent one, is fine but for integers and ndim. */
ml_status ml_want_integers(const ml_tensor *t, const char *name);
/* float32, float16 or bfloat16: what kernels that compute in float32 read. */
ml_status ml_want_floats(const ml_tensor *t, const char *name);
ml_status ml_want_ndim(const ml_tensor *t, const char *name, int ndim);
ml_status ml_want_vector(const ml_tensor *t, const char *name, int64_t size);
/* A vector of whole numbers. */
ml_status ml_want_numbers(const ml_tensor *t, const char *name, int64_t size);

/* Fill a query's shape, and dtype. */
ml_status ml_shape_set(ml_shape_query *q, int ndim, const int64_t *shape);
ml_status ml_shape_like(ml_shape_query *q, const ml_tensor *t);
ml_status ml_shape_broadcast(ml_shape_query *q, const ml_tensor *a, const ml_tensor *b);

/* Rules of files of their own. */
ml_status ml_shape_gather_linear(ml_shape_query *q);
ml_status ml_shape_rope_table(ml_shape_query *q);
ml_status ml_shape_rope(ml_shape_query *q);
ml_status ml_shape_attention(ml_shape_query *q);
ml_status ml_shape_cache_append(ml_shape_query *q);

#endif
