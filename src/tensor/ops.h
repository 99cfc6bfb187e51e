/* ops.h: the operations as an enum and a table, both made from ops.def. */
#ifndef ML_TENSOR_OPS_H
#define ML_TENSOR_OPS_H

#include "tensor/tensor.h"

typedef enum ml_op {
#define OP(id, parameters, shape, kind, access, gradient, doc) ML_OP_##id,
#include "tensor/ops.def"
  ML_OP_COUNT
} ml_op;

typedef enum ml_kind {
  ML_KIND_LEAF,
  ML_KIND_UNARY,
  ML_KIND_BINARY,
  ML_KIND_TERNARY,
  ML_KIND_VIEW,
  ML_KIND_KERNEL,
  ML_KIND_RESULT,
  ML_KIND_EFFECT,
  ML_KIND_APPEND
} ml_kind;
typedef enum ml_access { ML_ACCESS_ANY, ML_ACCESS_ROWS, ML_ACCESS_DENSE } ml_access;

/* What a shape rule sees: inputs (NULL where an optional one is absent) and attributes; it fills dtype and shape. A
 * rule may rewrite attributes into a normal form (axes counted from 0, a -1 in a shape worked out) and ask for casts of
 * inputs. */
typedef struct ml_shape_query {
  ml_tensor *const *inputs;
  int n_inputs;
  ml_attrs *attrs;
  ml_dtype dtype;
  int ndim;
  int64_t shape[ML_MAX_DIMS];
  int result;           /* the one that is asked for, of several */
  ml_dtype input_dtype; /* dtype that elementwise inputs are cast to first; ML_DTYPE_COUNT: as they are */
} ml_shape_query;
typedef ml_status (*ml_shape_rule)(ml_shape_query *q);

typedef struct ml_op_info {
  const char *name, *signature, *doc; /* signature: `name:type=default` of each parameter */
  ml_shape_rule shape;
  ml_kind kind;
  ml_access access;
  bool has_gradient;
  int n_results; /* of several; 0: one, without a name */
} ml_op_info;
enum { ML_MAX_RESULTS = 4 };
extern const ml_op_info ml_op_infos[ML_OP_COUNT];

static inline const char *ml_op_name(ml_op op) { return ml_op_infos[op].name; }
static inline bool ml_op_is_elementwise(ml_op op) {
  return ml_op_infos[op].kind >= ML_KIND_UNARY && ml_op_infos[op].kind <= ML_KIND_TERNARY;
}
/* Of one or more axes, the attribute sum.axis. */
static inline bool ml_op_is_reduction(int op) { return op >= ML_OP_sum && op <= ML_OP_logsumexp; }
/* A plain number that a user wrote beside tensors: it takes their dtype. */
static inline bool ml_tensor_is_number(const ml_tensor *t) { return t->node && t->node->op == ML_OP_constant; }
static inline bool ml_op_is_effect(ml_op op) { return ml_op_infos[op].kind >= ML_KIND_EFFECT; }

/* Records an operation. Shape and dtype errors are found here, in a message that begins with the module path and the
 * op's name. The result is lazy, save for views of tensors that have storage, which are made at once. Inputs are
 * retained; a state's handle stands for its latest version. The result of an effect is its target as it is then: the
 * handle, or the same window. `out` has room for each result of several. */
ml_status ml_apply(ml_engine *engine, ml_op op, ml_tensor *const *inputs, int n_inputs, const ml_attrs *attrs,
                   ml_tensor **out);

/* Strides of a view of something with the given shape and strides (elements; offset in elements added to *offset).
 * False when a reshape needs a copy. `shape` is the view's, from its shape rule. */
bool ml_view_strides(ml_op op, const ml_attrs *attrs, int in_ndim, const int64_t *in_shape, const int64_t *in_strides,
                     int ndim, const int64_t *shape, int64_t *strides, int64_t *offset);

#endif
