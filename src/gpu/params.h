/* params.h: what the host hands to kernels, for C and for CUDA's C++.
 *
 * A launch has one structure, by value. Addresses are the device's; those of a plan's inputs and outputs are filled in
 * for every run. Strides are in elements. */
#ifndef ML_GPU_PARAMS_H
#define ML_GPU_PARAMS_H

#include "tensor/dtype.h"

enum { CU_DIMS = 8, CU_MOST_INPUTS = 36, CU_MOST_OUTPUTS = 4, CU_MOST_CODE = 48, CU_FUSED_INPUTS = 12 };

/* The numbers of ml_op, which C++ does not see. */
enum cu_op {
#define OP(id, parameters, shape, kind, access, gradient, doc) CU_OP_##id,
#include "tensor/ops.def"
  CU_OP_COUNT,
  CU_STEP_FUSED = CU_OP_COUNT
};

/* The first index out of range that a run found, in memory that the host sees. Kernels find it through a word on the
 * device that every run writes anew, so that their arguments stay the same. */
typedef struct cu_fault {
  int32_t raised; /* cu_op; 0: none */
  int32_t is_unsigned;
  int64_t value, limit;
} cu_fault;

typedef struct cu_array {
  char *data; /* NULL where an optional operand is absent */
  int32_t dtype, ndim;
  int64_t shape[CU_DIMS], strides[CU_DIMS];
} cu_array;

/* Something with one axis: a vector of indices, a norm's weight. */
typedef struct cu_vector {
  char *data;
  int32_t dtype;
  int64_t stride;
} cu_vector;

/* One instruction of an elementwise program (ml_fused_op). */
typedef struct cu_code {
  int16_t op;
  uint8_t dtype, a, b, c; /* registers */
  uint8_t from, other;    /* dtypes of a and b */
  union {
    double f;  /* of a constant: in float dtypes, */
    int64_t i; /* and in others */
  };
} cu_code;

typedef struct cu_program {
  int32_t n_inputs, n_code, n_outputs, pad;
  uint8_t outputs[CU_MOST_OUTPUTS], input_dtypes[CU_MOST_INPUTS];
  cu_code code[CU_MOST_CODE];
} cu_program;

/* An operand whose axes are those of a common shape. */
typedef struct cu_operand {
  char *data;
  int32_t dtype;
  int64_t strides[CU_DIMS];
} cu_operand;

/* An elementwise step: operands are the inputs, then the outputs. */
typedef struct cu_fused_args {
  int32_t ndim, n_in, n_out;
  int64_t shape[CU_DIMS], size;
  cu_operand operands[CU_FUSED_INPUTS + CU_MOST_OUTPUTS];
  cu_program program;
} cu_fused_args;

/* Elements moved as they are, of `item` bytes. */
typedef struct cu_move_args {
  int32_t ndim, item;
  int64_t shape[CU_DIMS], size, to_strides[CU_DIMS], from_strides[CU_DIMS];
  char *to;
  const char *from;
} cu_move_args;

/* What a step does with its results: `program` in device memory, whose first input is the result, or NULL. Others have
 * the axes of the first output. */
typedef struct cu_tail {
  const cu_program *program;
  int32_t ndim, n_out, pad;
  int64_t shape[CU_DIMS];
  cu_operand in[CU_FUSED_INPUTS]; /* [0] is not used */
  cu_operand out[CU_MOST_OUTPUTS];
} cu_tail;

/* Row operations and reductions over the last axis, on n elements. */
typedef struct cu_row_op {
  int32_t op, dtype;    /* dtype: of a reduction's input */
  int32_t result, n_in; /* result: its dtype */
  float eps, offset;    /* of norms */
  double ddof;
} cu_row_op;

/* A norm or softmax: operands are strided rows, the last axis side by side. */
typedef struct cu_norm_args {
  cu_row_op op;
  int64_t n, rows;
  cu_array x, out;
  cu_vector weight, bias;
} cu_norm_args;

/* ML_STEP_ROWS. What is the same for all runs lies in device memory. */
enum { CU_ROW_NO_PROGRAM = -1 };
typedef struct cu_row_stage {
  int32_t n_inputs, n_results, narrow, program; /* program: its index, if it has one */
  cu_row_op op;
  int16_t inputs[CU_MOST_INPUTS], results[24], from[24];
} cu_row_stage;
typedef struct cu_row_register {
  int32_t dtype, narrow;
  int64_t offset; /* bytes in a row's room */
} cu_row_register;
typedef struct cu_rows_args {
  int64_t length, rows, room; /* room: bytes of scratch a block */
  int32_t lead, n_inputs, n_registers, n_stages, n_out;
  int16_t outputs[CU_MOST_OUTPUTS];
  int64_t shape[CU_DIMS];
  cu_operand operands[CU_FUSED_INPUTS + CU_MOST_OUTPUTS]; /* strides of the lead axes, then of the last one */
  const cu_row_register *registers;
  const cu_row_stage *stages;
  const cu_program *programs;
  char *scratch;
} cu_rows_args;

/* A reduction over any axes. Elements of a result are counted row-major over the reduced axes. */
enum { CU_CHOOSE_THREADS = 256 };
typedef struct cu_reduce_args {
  cu_row_op op;
  int64_t results, count, chunks;
  int32_t n_kept, n_reduced, n_in, has_program;
  int64_t kept_shape[CU_DIMS], reduced_shape[CU_DIMS];
  struct {
    char *data;
    int32_t dtype;
    int64_t kept[CU_DIMS], reduced[CU_DIMS];
  } in[CU_FUSED_INPUTS];
  char *out;
  char *partials;  /* of more than one chunk */
  int32_t *joined; /* chunks of each result that are there */
  const cu_program *program;
} cu_reduce_args;

/* Products of x with packed or strided weights. */
enum { CU_MOST_UNITS = 4, CU_UNIT_WEIGHTS = 2 };
/* What follows products: nothing; an operand that is added; an elementwise function of the first times the second; or a
 * program. */
typedef enum cu_form { CU_FORM_NONE, CU_FORM_ADD, CU_FORM_GATE, CU_FORM_PROGRAM } cu_form;
typedef struct cu_unit {
  const char *weights[CU_UNIT_WEIGHTS];
  int32_t dtypes[CU_UNIT_WEIGHTS];
  int32_t n_weights, n_extra, n_out;
  int32_t first_bundle;      /* see gpu/linears.cuh */
  int32_t form, act, dtype;  /* act: of CU_FORM_GATE, an elementwise operation; dtype: that forms compute in */
  int64_t outputs;           /* of each weight */
  const cu_program *program; /* NULL: the output is the product */
  cu_operand extra[CU_FUSED_INPUTS], out[CU_MOST_OUTPUTS];
} cu_unit;
typedef struct cu_linears_args {
  int64_t M, K;
  const char *x;
  int32_t bundles, row_bytes;     /* row_bytes: of shared memory, for the one row of x */
  int32_t x_dtype, n_units, norm; /* norm: x is normalised first, by the block; of one row */
  int32_t early_norm, split;      /* nothing that runs before writes the norm's weight; split: as few.cuh has it */
  float eps, offset;
  int64_t x_stride;
  cu_vector weight; /* of the norm */
  cu_unit units[CU_MOST_UNITS];
} cu_linears_args;

/* out[batch, m, n] = sum over k of a[batch, m, k] b[batch, k, n]. */
typedef struct cu_matmul_args {
  int64_t M, N, K, batch;
  int32_t axes, a_dtype, b_dtype, out_dtype; /* out_dtype: of the product itself */
  int32_t packed, pad;                       /* b is a packed weight (K, N) */
  int64_t shape[CU_DIMS], a_batch[CU_DIMS], b_batch[CU_DIMS];
  const char *a, *b;
  char *out;
  int64_t a_m, a_k, b_k, b_n;
  cu_tail tail;
} cu_matmul_args;

typedef struct cu_embedding_args {
  const char *weight, *ids;
  char *out;
  int32_t dtype, packed, ids_dtype, out_dtype;
  int64_t rows, inputs, count, row_stride, column_stride;
  cu_fault *const *fault;
} cu_embedding_args;

/* Pairs of an id and a row of x; `a_row` pairs have one row. */
typedef struct cu_gather_args {
  int64_t pairs, a_row, N, K, experts;
  int64_t matrix, strides[3]; /* packed: bytes from an expert to the next; else in elements, of its three axes */
  cu_array x, ids;
  const char *weight;
  char *out;
  int32_t w_dtype, out_dtype;
  cu_tail tail;
  cu_fault *const *fault;
} cu_gather_args;

typedef struct cu_rope_table_args {
  const char *positions;
  int32_t positions_dtype;
  float scale;
  int64_t count, n; /* count: positions */
  const float *frequencies;
  float *out;
} cu_rope_table_args;

/* Which tokens belong to a sequence, and which pages hold it: see gpu/sequences.cuh. */
typedef struct cu_sequences {
  cu_array pages;
  cu_vector slots, start, count, offsets;
  int64_t packed;  /* sequences that lie end to end */
  int32_t op, pad; /* that faults are of */
  cu_fault *const *fault;
} cu_sequences;

/* Heads x of tokens, of which 2 `turns` elements are turned; to `out` and to a pool of pages, where there are such. */
enum { CU_HEADS_PARTS = 4 };
typedef struct cu_heads {
  cu_array x, table, out, pool; /* out: its dtype is there in any case */
  cu_sequences sequences;       /* of the pool */
  int64_t turns;
  int32_t interleaved, pad;
} cu_heads;
typedef struct cu_heads_args {
  cu_heads parts[CU_HEADS_PARTS];
} cu_heads_args;

typedef struct cu_attention_args {
  cu_array q, k, v, mask, out;
  cu_sequences sequences;
  cu_vector sinks;
  float scale, softcap;
  int32_t causal, pad;
  int64_t window, segments; /* segments: 0, or so many parts of a row's keys are taken apart and joined later */
  float *parts;
  cu_tail tail;
} cu_attention_args;

/* Heads of tokens of their own, of attention of one query a sequence, before they are turned. */
typedef struct cu_own_part {
  const char *x;
  const float *table; /* NULL: nothing is turned */
  int64_t strides[2]; /* sequence, head */
  int64_t table_stride;
  int32_t turns, pad;
} cu_own_part;

/* Of one query a sequence: what a block must know first, in few lines. Strides are in elements; vectors, of one entry a
 * sequence, are dense, and NULL where there is none. */
typedef struct cu_attention_one_args {
  const char *q, *k, *v;
  const int32_t *pages, *slots, *start, *count; /* pages NULL: a sequence's keys lie side by side */
  int32_t n_slots, n_entries, n_pages, page; /* of the table: rows, entries a row; pages there are, positions of one */
  int32_t entries_stride, q_dtype, kv_dtype, op;
  int64_t q_strides[2], k_strides[3], v_strides[3]; /* q: sequence, head; k, v: page or sequence, head, position */
  int32_t heads, group, chunks, in_group; /* query heads: all, of a KV head; chunks of them: all, of a KV head */
  int32_t early, segments; /* early: keys, values and what leads to them are not written before the launch */
  int64_t window;
  float scale, softcap;
  float *parts;
  int32_t *counts; /* blocks of a chunk that have come to their end */
  cu_fault *const *fault;
  cu_vector sinks;
  char *out;
  int64_t out_strides[2];
  int32_t out_dtype, abreast; /* blocks of a chunk along x: 1, or one a head */
  cu_own_part own_q, own_k, own_v; /* of cuda_attention_own_: in place of q, and of what is not in its page yet */
  cu_tail tail;
} cu_attention_one_args;

/* Steps on lines: outer x length x inner elements, row-major. */
typedef struct cu_index_args {
  int32_t op, dtype, index_dtype, pad;
  int64_t outer, length, inner, count; /* count: entries of the index along the axis, or all of them */
  int64_t start, step;                 /* of arange; k of topk */
  const char *x, *index, *values;
  char *out, *out_indices;
  int32_t out_dtype, indices_dtype;
  cu_fault *const *fault;
} cu_index_args;

typedef struct cu_scan_args {
  int32_t op, axis;
  cu_array x, out;
  int64_t lines;
} cu_scan_args;

typedef struct cu_ring_args {
  cu_array ring;
  cu_vector ids, position;
} cu_ring_args;

typedef struct cu_sample_args {
  int32_t op, recent_dtype;
  int64_t rows, n, recent_count;
  double number; // k, p or t
  double penalty, presence, frequency;
  const float *x;
  float *out;
  const char *recent;
  const double *by_row; // numbers of each row in place of those above, or NULL
  cu_vector uniform;
  int32_t *ids;
} cu_sample_args;

typedef struct cu_random_args {
  const uint32_t *key;
  uint32_t *out;
  int64_t keys, size, words; /* size: numbers of a key */
} cu_random_args;

typedef struct cu_quantile_args {
  const char *u;
  char *out;
  int32_t u_dtype, out_dtype;
  int64_t size;
  double low, high;
} cu_quantile_args;

/* How packed weights lie: groups of CU_GROUP rows; in a group the fields of a block format one after another, each
 * [CU_GROUP rows][blocks][bytes], so that what a warp reads is aligned and side by side. */
enum { CU_GROUP = 32, CU_MOST_FIELDS = 4 };
enum { CU_AFFINES = 9 }; /* affine formats of one width: three groups, with three dtypes of scales each */
typedef struct cu_field {
  int32_t offset, bytes; /* in the file's block */
} cu_field;

#endif
