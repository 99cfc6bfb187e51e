/* program.h: how a plan becomes launches. */
#ifndef ML_GPU_PROGRAM_H
#define ML_GPU_PROGRAM_H

#include "base/bump.h"
#include "gpu/cuda.h"

typedef struct ml_cuda_launch {
  CUfunction function;
  unsigned grid_x, grid_y, threads, shared_bytes;
  void *args;
  size_t step;      /* that it is a part of */
  size_t steps;     /* so many from there on are its own */
  bool level;       /* it begins what waits for everything before it */
  bool moved;       /* its arguments have changed since its node was made */
  CUgraphNode node; /* in the program's graph */
} ml_cuda_launch;

/* An address that is known when a run begins. */
typedef enum ml_cuda_spot_kind { ML_SPOT_INPUT, ML_SPOT_OUTPUT, ML_SPOT_SCRATCH } ml_cuda_spot_kind;
typedef struct ml_cuda_spot {
  char **where; /* in the arguments of a launch */
  ml_cuda_spot_kind kind;
  int index; /* of the input or output */
  int64_t offset;
  size_t launch;
} ml_cuda_spot;

/* An address of a constant. */
typedef struct ml_cuda_constant {
  char **where;
  size_t offset;
} ml_cuda_constant;

struct ml_program {
  ml_bump memory; /* of the program and all that it points at */
  ml_device *device;
  const ml_plan *plan;
  ml_cuda_launch *launches;
  size_t n_launches, launches_capacity;
  ml_cuda_spot *spots;
  size_t n_spots, spots_capacity;
  ml_cuda_constant *constants;
  size_t n_constants, constants_capacity;
  char *bytes; /* of constants, on the host while lowering */
  size_t n_bytes, bytes_capacity;
  ml_cuda_chunk *chunk;      /* where they lie; NULL: there are none */
  const ml_buffer **written; /* by the plan's steps, beside its outputs and the arena */
  size_t n_written, written_capacity;
  size_t workspace; /* that the launches take in turn */
  bool faults;      /* a kernel may find some */
  bool fast;        /* weights in it need not be multiplied exactly */
  size_t step;      /* that is being lowered */
  size_t joined;    /* steps behind it that it takes along */
  bool made;        /* the launch that was asked for last is one */
  uint64_t runs;
  CUgraph nodes; /* from the second run on; by them the graph's arguments are changed */
  CUgraphExec graph;
  bool plain; /* no graph could be made */
};

/* Threads of a block where elements have one each. */
enum { CU_THREADS = 256 };
/* Bytes of shared memory of its own that a launch may have, beside some kilobytes that its kernel has anyway. */
enum { CU_MOST_SHARED = 200 << 10 };

/* Adds a launch and returns its arguments, zeroed; NULL on failure. No units: none is made, and what is returned is for
 * nobody. */
void *ml_cuda_launch_add(ml_program *g, const char *file, const char *kernel, size_t args_bytes, int64_t grid_x,
                         int64_t grid_y, int threads);
/* The launch added last has so much shared memory of its own. */
void ml_cuda_launch_shared(ml_program *g, size_t bytes);
/* The launch added last is `parts` of such along y. */
void ml_cuda_launch_parts(ml_program *g, int parts);
/* The launch added last carries out `steps` of the plan. */
void ml_cuda_launch_joined(ml_program *g, int steps);
/* The same with a thread for each of `units`. */
void *ml_cuda_launch_elements(ml_program *g, const char *file, const char *kernel, size_t args_bytes, int64_t units);
/* Puts the address of a value where kernels read it, in every run; NULL where value is -1. */
ml_status ml_cuda_put_address(ml_program *g, int value, const void *where);
/* The same, some bytes further on. */
ml_status ml_cuda_put_offset(ml_program *g, int value, int64_t offset, const void *where);
/* Puts the address of a copy of these bytes there, which lies on the device. */
ml_status ml_cuda_put_constant(ml_program *g, const void *bytes, size_t count, const void *where);
/* Puts the address of `bytes` of the workspace there; they are the launch's alone. */
ml_status ml_cuda_put_scratch(ml_program *g, size_t bytes, const void *where);
/* Puts there the address of counts that are zero, and that the launch leaves so. No other launch may run beside it that
 * counts: both have scratch. */
ml_status ml_cuda_put_counts(ml_program *g, int64_t count, const void *where);
/* Puts there where faults of the run go. */
ml_status ml_cuda_put_faults(ml_program *g, const void *where);

const ml_value *ml_cuda_value(const ml_program *g, int value); /* NULL of -1 */
/* Whether a value is there before the plan runs and stays as it is. */
bool ml_cuda_is_constant(const ml_program *g, int value);
/* Whether one of the plan's first `steps` writes what a value, which may be absent, lies in (run.c). */
bool ml_cuda_is_written_before(const ml_program *g, int value, size_t steps);
/* Whether two values, of which either may be absent, are the same elements in the same memory. */
bool ml_cuda_same_place(const ml_program *g, int a, int b);
/* Threads of a block that takes a row of n: what gpu/row.cuh adds up depends on n alone then. */
int ml_cuda_row_threads(int64_t n);
int ml_cuda_multiprocessors(const ml_program *g);
/* How many blocks of a kernel the device runs at once, each with so many bytes of shared memory of the launch's own. */
ml_status ml_cuda_blocks_at_once(ml_program *g, const char *file, const char *kernel, int threads, size_t shared_bytes,
                                 int64_t *out);

/* Operands in the forms of params.h. */
ml_status ml_cuda_array(ml_program *g, int value, cu_array *out);
ml_status ml_cuda_vector(ml_program *g, int value, cu_vector *out);
/* An operand whose first axes are those of a shape. */
ml_status ml_cuda_operand(ml_program *g, int value, cu_operand *out);
void ml_cuda_program_of(const ml_fused *f, cu_program *out);
/* What a step does with its results, if it does anything. */
ml_status ml_cuda_tail(ml_program *g, const ml_step *s, cu_tail *out);
/* Pages, slots, start, count and offsets: the step's inputs from `first` on. */
ml_status ml_cuda_sequences(ml_program *g, const ml_step *s, int first, cu_sequences *out);
int64_t ml_cuda_size(const ml_value *v);
/* Axes in the order of the first operand's memory, without those of size 1; neighbours are one where all operands
 * allow it. The number of axes. */
int ml_cuda_merge(int ndim, int64_t *shape, cu_operand *operands, int n);

/* A launch that moves a value's elements to another of its shape (lower.c), or, row-major, to scratch of `bytes`. */
ml_status ml_cuda_move(ml_program *g, int to, int from);
ml_status ml_cuda_move_aside(ml_program *g, int from, size_t bytes);

/* What an attention of one query a sequence takes as it comes: its queries' turning, and the tokens' own keys, turned
 * or not, and values on their way into the pages that it reads. */
typedef struct ml_cuda_own {
  const ml_step *q_rope, *k_rope, *k_append, *v_append; /* k_rope: or NULL */
  const ml_step *first;                                 /* of them */
} ml_cuda_own;
/* Whether one launch does all of that (lower_attention.c). */
bool ml_cuda_attends_own(const ml_program *g, const ml_step *attention, const ml_cuda_own *own);
ml_status ml_cuda_lower_own_attention(ml_program *g, const ml_step *attention, const ml_cuda_own *own);

/* A run whose steps are timed: their seconds are added to the plan's (time.c). */
typedef ml_status (*ml_cuda_launcher)(const ml_program *g, const ml_cuda_launch *l);
ml_status ml_cuda_time_steps(ml_program *g, ml_cuda_launcher launch, ml_outcome *o);

/* Whether two values, of which either may be absent, lie in the same memory (run.c). */
bool ml_cuda_share(const ml_program *g, int a, int b);
/* Which launches wait for those before them (run.c). */
ml_status ml_cuda_find_levels(ml_program *g);

typedef ml_status (*ml_cuda_lowerer)(ml_program *g, const ml_step *s);
#define ML_CUDA_LOWER(X)                                                                                               \
  X(ML_STEP_FUSED, fused)                                                                                              \
  X(ML_STEP_ROWS, rows)                                                                                                \
  X(ML_STEP_LINEARS, linears)                                                                                          \
  X(ML_OP_sum, reduce)                                                                                                 \
  X(ML_OP_mean, reduce)                                                                                                \
  X(ML_OP_prod, reduce)                                                                                                \
  X(ML_OP_max, reduce)                                                                                                 \
  X(ML_OP_min, reduce)                                                                                                 \
  X(ML_OP_all, reduce)                                                                                                 \
  X(ML_OP_any, reduce)                                                                                                 \
  X(ML_OP_argmax, reduce)                                                                                              \
  X(ML_OP_argmin, reduce)                                                                                              \
  X(ML_OP_var, reduce)                                                                                                 \
  X(ML_OP_std, reduce)                                                                                                 \
  X(ML_OP_norm, reduce)                                                                                                \
  X(ML_OP_logsumexp, reduce)                                                                                           \
  X(ML_OP_cumsum, scan)                                                                                                \
  X(ML_OP_cumprod, scan)                                                                                               \
  X(ML_OP_cummax, scan)                                                                                                \
  X(ML_OP_cummin, scan)                                                                                                \
  X(ML_OP_arange, arange)                                                                                              \
  X(ML_OP_concat, concat)                                                                                              \
  X(ML_OP_take, take)                                                                                                  \
  X(ML_OP_take_along_axis, along)                                                                                      \
  X(ML_OP_put_along_axis, along)                                                                                       \
  X(ML_OP_scatter_add, along)                                                                                          \
  X(ML_OP_sort, order)                                                                                                 \
  X(ML_OP_argsort, order)                                                                                              \
  X(ML_OP_topk, order)                                                                                                 \
  X(ML_OP_softmax, norm)                                                                                               \
  X(ML_OP_log_softmax, norm)                                                                                           \
  X(ML_OP_rms_norm, norm)                                                                                              \
  X(ML_OP_layer_norm, norm)                                                                                            \
  X(ML_OP_matmul, matmul)                                                                                              \
  X(ML_OP_linear, matmul)                                                                                              \
  X(ML_OP_linear_transposed, matmul)                                                                                   \
  X(ML_OP_gather_linear, gather_linear)                                                                                \
  X(ML_OP_embedding, embedding)                                                                                        \
  X(ML_OP_rope_table, rope_table)                                                                                      \
  X(ML_OP_rope, heads)                                                                                                 \
  X(ML_OP_attention, attention)                                                                                        \
  X(ML_OP_cache_append, heads)                                                                                         \
  X(ML_OP_assign, assign)                                                                                              \
  X(ML_OP_ring_push, ring_push)                                                                                        \
  X(ML_OP_repeat_penalty, sample)                                                                                      \
  X(ML_OP_top_k_mask, sample)                                                                                          \
  X(ML_OP_top_p_mask, sample)                                                                                          \
  X(ML_OP_min_p_mask, sample)                                                                                          \
  X(ML_OP_temperature, sample)                                                                                         \
  X(ML_OP_random_bits, random_bits)                                                                                    \
  X(ML_OP_normal_quantile, quantile)                                                                                   \
  X(ML_OP_categorical, sample)
#define X(step, name) ml_status ml_cuda_lower_##name(ml_program *g, const ml_step *s);
ML_CUDA_LOWER(X)
#undef X

#endif
