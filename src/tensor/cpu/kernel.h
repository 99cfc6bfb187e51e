/* kernel.h: what a CPU kernel is.
 *
 * Files under cpu/isa are compiled once per instruction set, with ML_ISA naming it; K(name) is then
 * ref_name, avx2_name or avx512_name. A kernel computes the units [begin, end) of a task; units are independent, so any
 * number of threads may share them in any split and every element comes out the same. */
#ifndef ML_CPU_KERNEL_H
#define ML_CPU_KERNEL_H

#include "tensor/plan/plan.h"

#define ML_CAT_(a, b) a##_##b
#define ML_CAT(a, b) ML_CAT_(a, b)
#define K(name) ML_CAT(ML_ISA, name)

/* Rows of a weight that are packed together (isa/quant/format.h); a device's group is a multiple. */
enum { PANEL_ROWS = 16 };

typedef struct ml_isa ml_isa;
typedef struct ml_format ml_format;

/* A step's operand with its address. */
typedef struct ml_arg {
  char *data; /* NULL where an optional operand is absent */
  ml_dtype dtype;
  ml_layout layout;
  bool exact;
  int ndim;
  const int64_t *shape, *strides; /* in elements; of ML_MAX_DIMS, the plan's */
} ml_arg;

/* A failure found inside a kernel (an index out of range): the first one is reported after the run. */
typedef struct ml_fault {
  atomic_int raised; /* ml_op; 0: none */
  int64_t value, limit;
  bool is_unsigned; /* the value's 64 bits are a uint64 */
} ml_fault;

typedef struct ml_worker {
  char *scratch; /* ml_task.scratch bytes, aligned to 64, of this thread's own */
  ml_fault *fault;
} ml_worker;

/* Reports that `value`, an entry of `index`, is not in 0..limit-1. */
static inline void ml_raise_fault(ml_worker *w, int op, const ml_arg *index, int64_t value, int64_t limit) {
  if (atomic_exchange(&w->fault->raised, op) != 0) return;
  w->fault->value = value, w->fault->limit = limit, w->fault->is_unsigned = index->dtype == ML_U64;
}

static inline int64_t ml_arg_size(const ml_arg *x) { return ml_shape_size(x->ndim, x->shape); }
/* Elements of the axes from `first` on: how far apart neighbours of the axis before lie, where it is dense. */
static inline int64_t ml_axes_size(const ml_arg *x, int first) {
  return ml_shape_size(x->ndim - first, x->shape + first);
}

/* Where the `index`-th place of these axes begins, counted row-major: in elements from the first. */
static inline int64_t ml_index_offset(int axes, const int64_t *shape, const int64_t *strides, int64_t index) {
  int64_t offset = 0;
  for (int d = axes - 1; d > 0; d--) {
    offset += index % shape[d] * strides[d];
    index /= shape[d];
  }
  return axes > 0 ? offset + index * strides[0] : offset;
}

typedef struct ml_task ml_task;
typedef void (*ml_kernel)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w);
/* Fills units, grain, scratch and extra from the operands. */
typedef ml_status (*ml_prepare)(ml_task *t);

struct ml_task {
  ml_kernel run;
  ml_kernel prologue; /* or NULL: each thread calls it once, before its first units */
  ml_arg *in, *out;
  int n_in, n_out;
  const ml_step *step;
  const ml_isa *isa;
  int group;            /* rows of a weight that are packed together */
  int threads;          /* that will share the units, as far as is known: decides how finely work is cut, never a bit */
  int64_t units, grain; /* grain: units taken at once */
  size_t scratch;       /* bytes a thread */
  size_t shared;        /* bytes of scratch that all tasks of a program share */
  char *shared_data;
  atomic_int_least64_t *done; /* for a kernel whose last unit ends what all have begun: units so far in this run */
  double cost;                /* rough nanoseconds on one thread: what is cheap is not worth sharing */
  void *extra;                /* the kernel's own, in `memory` */
  ml_bump *memory;            /* lives as long as the program */
};

typedef struct ml_kernel_row {
  ml_prepare prepare;
  ml_kernel run;
} ml_kernel_row;

/* One instruction set's kernels. */
struct ml_isa {
  const char *name;
  bool bf16_dots;  /* products of bfloat16 by bfloat16 take its dot products */
  bool bf16_tiles; /* those with packed weights take its tiles */
  ml_kernel_row rows[ML_STEP_COUNT];
  const ml_format *formats[ML_DTYPE_COUNT]; /* packed weights */
  ml_kernel_row convert_rows;               /* activations as products take them, before `linears` of many rows */
  ml_kernel_row gather_rows;                /* rows by expert, before gather_linear */
};

extern const ml_isa ml_isa_ref, ml_isa_avx2, ml_isa_avx512, ml_isa_avx512_dots, ml_isa_avx512_tiles;

/* Room for `bytes` in scratch that is taken up to *at: where it begins, at a line, of which it shares none. */
static inline size_t ml_reserve(size_t *at, size_t bytes) {
  size_t here = (*at + 63) & ~(size_t)63;
  *at = here + ((bytes + 63) & ~(size_t)63);
  return here;
}

static inline int64_t ml_min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ml_max64(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
