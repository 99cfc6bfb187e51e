/* tensor.h: tensors, lazy or with storage.
 *
 * A tensor has a shape and a dtype from the moment it exists. It is lazy (it has a node, which says how to compute it)
 * until ml_eval gives it storage (a buffer, an offset and strides). Handles count references. */
#ifndef ML_TENSOR_TENSOR_H
#define ML_TENSOR_TENSOR_H

#include "tensor/dtype.h"
#include "tensor/engine.h"

#include <string.h>

enum { ML_MAX_DIMS = 8, ML_MAX_ATTRS = 8, ML_MAX_LIST = 3 * ML_MAX_DIMS };

/* A list among attributes: `count` entries of ml_attrs.list from `first` on. All zero: it was not given. */
typedef struct ml_list {
  int16_t given, first;
  int32_t count;
} ml_list;

/* Attributes of an operation: its parameters that are not tensors, by the names of ops.def (a.attention.window;
 * booleans and dtypes are integers), or the i-th of them as v[i]. Operations that share a rule or a kernel share the
 * places of what it reads. */
typedef struct ml_attrs {
  union {
    union {
      int64_t i;
      double f;
      ml_list list;
    } v[ML_MAX_ATTRS];
#define ML_PARAMETERS
#define TENSOR(name)
#define OPTIONAL(name)
#define LIST(name)
#define WEIGHT(name)
#define RESULT(name)
#define REAL(name, ...) double name;
#define INT(name, ...) int64_t name;
#define BOOL(name, ...) int64_t name;
#define DTYPE(name, ...) int64_t name;
#define AXIS(name, ...) int64_t name;
#define AXES(name, ...) ml_list name;
#define SIZES(name) ml_list name;
#define RANGES(name) ml_list name;
#define OP(id, parameters, shape, kind, access, gradient, doc)                                                         \
  struct {                                                                                                             \
    parameters                                                                                                         \
  } id;
#include "tensor/ops.def"
  };
  int n_list; /* entries of all lists */
  int64_t list[ML_MAX_LIST];
} ml_attrs;

static inline const int64_t *ml_attrs_list(const ml_attrs *a, ml_list l) { return a->list + l.first; }
/* Makes `list`, an attribute of a, one of n entries behind those of other lists, and returns them; NULL where so many
 * have no place. */
int64_t *ml_attrs_give(ml_attrs *a, ml_list *list, int64_t n);

/* STRIDED: elements at offset + sum(index * stride). PANELS: a weight (outputs, inputs), or one an expert, packed for
 * products (cpu/isa/quant/format.h, of the processor). BLOCKS: block formats in the order of the file. */
typedef enum ml_layout { ML_LAYOUT_STRIDED, ML_LAYOUT_PANELS, ML_LAYOUT_BLOCKS } ml_layout;

typedef enum ml_fate { ML_FATE_NONE, ML_FATE_TRACED, ML_FATE_FAILED } ml_fate;

typedef struct ml_tensor ml_tensor;
typedef struct ml_node ml_node;
typedef struct ml_cell ml_cell; /* state.h */

struct ml_tensor {
  int references;
  ml_engine *engine;
  ml_device *device;
  ml_dtype dtype;
  ml_layout layout;
  int ndim;
  int64_t shape[ML_MAX_DIMS];
  int64_t strides[ML_MAX_DIMS]; /* elements; meaningful with a buffer */
  size_t offset;                /* bytes into the buffer */
  ml_buffer *buffer;            /* NULL while lazy */
  ml_node *node;                /* NULL once it has storage */
  bool exact;                   /* of packed weights: products leave activations in float32 */
  ml_cell *cell;                /* retained; of a state, and of its versions and their like (state.h); else NULL */
  struct ml_window *window;     /* of a view of a state that has storage of its own (state.h); owned, or NULL */
  bool state;                   /* the handle on a state, which stands for its latest version */
  struct ml_flight *flight;     /* the run that computes it, while it may still fail (queue.c) */
  ml_fate fate;                 /* why a result has no value and never will, see ml_tensor_kill */
  ml_tensor *packed;            /* of blocks: the same weight as products read it, once one asked; retained */
  int mark;                     /* scratch of whoever walks the graph; 0 in between */
};

struct ml_node {
  int op; /* ml_op */
  int n_inputs;
  uint64_t serial; /* engine-wide order of creation */
  uint32_t region; /* 0, or of the recomputation that it belongs to: equal nodes of two regions stay two */
  char *path;      /* module path, or NULL */
  ml_attrs attrs;
  /* Of an operation with several results, whose own tensor nobody sees: those that are lazy still, each a node of
   * ML_OP_result that retains it; NULL for those that are gone. Else NULL. */
  ml_tensor **results;
  ml_tensor *inputs[]; /* retained; NULL where an optional input is absent */
};

/* An empty, strided, row-major tensor with storage of undefined content on `device`. */
ml_status ml_tensor_create(ml_device *device, ml_dtype dtype, int ndim, const int64_t *shape, ml_tensor **out);
/* The same over an existing buffer (retained), with a layout. Bytes are checked against the buffer. */
ml_status ml_tensor_wrap(ml_buffer *buffer, size_t offset, ml_dtype dtype, ml_layout layout, int ndim,
                         const int64_t *shape, ml_tensor **out);
/* Copies `bytes` row-major bytes from the host; their number must be the tensor's. */
ml_status ml_tensor_from_host(ml_device *device, ml_dtype dtype, int ndim, const int64_t *shape, const void *data,
                              size_t bytes, ml_tensor **out);
/* A lazy scalar. */
ml_status ml_tensor_constant(ml_engine *engine, ml_dtype dtype, double f, int64_t i, ml_tensor **out);
/* A placeholder for input `index` of a plan, of the type of `like`: dtype, shape and layout. */
ml_status ml_tensor_input(ml_engine *engine, int index, const ml_tensor *like, ml_tensor **out);

ml_tensor *ml_tensor_retain(ml_tensor *t);
void ml_tensor_release(ml_tensor *t); /* NULL is allowed */

int64_t ml_tensor_size(const ml_tensor *t);  /* elements */
size_t ml_tensor_nbytes(const ml_tensor *t); /* logical bytes, block formats too */
bool ml_tensor_is_dense(const ml_tensor *t); /* row-major without holes; of strided tensors with storage */
static inline char *ml_tensor_data(const ml_tensor *t) { return (char *)t->buffer->address + t->offset; }

/* While a plan is recorded, what depends on its inputs or on state has no values, and reading it is an error. Begin
 * runs the effects that are pending, which are not the plan's; the plan is made before end. What was made before it,
 * inputs too, is none of the recording's: an operation on that takes its value, as it was before, and keeps it. */
ml_status ml_record_begin(ml_engine *engine);
void ml_record_end(ml_engine *engine);
/* While a plan is recorded: gives what was made before, and is lazy or a version in its state's storage, storage of its
 * own. All else stays as it is. */
ml_status ml_capture(ml_engine *engine, ml_tensor *t);

/* A tensor's node, which it has no more, to be given back or freed. */
ml_node *ml_tensor_take_node(ml_tensor *t);
void ml_tensor_give_node(ml_tensor *t, ml_node *node);
void ml_node_free(ml_node *node); /* NULL is allowed */
/* A result that will never be: of an effect that failed, or of a trace that is over. Its node goes, and evaluating
 * what depends on it is an error. */
void ml_tensor_kill(ml_tensor *t, ml_fate fate);
ml_status ml_tensor_fate_error(const ml_tensor *t);

/* Storage for every tensor of the list: plans and runs what they need, and pending effects. */
ml_status ml_eval(ml_engine *engine, ml_tensor *const *tensors, size_t count);
/* Row-major bytes of the values into `to` (ml_tensor_nbytes of them); evaluates, gathers strided views and puts the
 * rows of a packed weight back into the order of the file. */
ml_status ml_tensor_read(ml_tensor *t, void *to);

void ml_strides_dense(int ndim, const int64_t *shape, int64_t *strides);
int64_t ml_shape_size(int ndim, const int64_t *shape);
static inline bool ml_same_shape(int a_ndim, const int64_t *a, int b_ndim, const int64_t *b) {
  return a_ndim == b_ndim && memcmp(a, b, (size_t)a_ndim * sizeof *a) == 0;
}
/* Bytes of a shape's elements; ML_USAGE for a shape that no memory holds. */
ml_status ml_shape_bytes(ml_dtype dtype, int ndim, const int64_t *shape, size_t *out);
/* "(2, 3)" into a buffer of the caller's; returns it. */
const char *ml_shape_text(int ndim, const int64_t *shape, char *text, size_t bytes);

#endif
