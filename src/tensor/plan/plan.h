/* plan.h: a graph turned into a flat list of steps that a device can lower.
 *
 * A plan names its storage abstractly: an arena of fixed addresses for intermediates, buffers that it holds (weights
 * and states), inputs and outputs that each run brings. */
#ifndef ML_PLAN_PLAN_H
#define ML_PLAN_PLAN_H

#include "base/bump.h"
#include "tensor/ops.h"
#include "tensor/state.h"

typedef enum ml_place { ML_PLACE_ARENA, ML_PLACE_TENSOR, ML_PLACE_INPUT, ML_PLACE_OUTPUT } ml_place;

typedef struct ml_storage {
  ml_place place;
  int index;         /* of the input or output */
  ml_buffer *buffer; /* retained; of ML_PLACE_TENSOR */
  size_t bytes;
  size_t offset;   /* in the arena or the buffer */
  int first, last; /* steps that touch it, or what takes its place */
  int base;        /* in the arena: the storage that dies where it begins, and whose place it takes; or -1 */
} ml_storage;

/* A state that a plan uses. */
typedef struct ml_plan_cell {
  ml_cell *cell; /* retained */
  bool needed;   /* what it holds before the run is read, or stays in part */
  bool written;
  bool replaced; /* written by more than appending: a run that fails leaves it without values */
} ml_plan_cell;

/* One operand: a strided (or packed) window on a storage. */
typedef struct ml_value {
  ml_dtype dtype;
  ml_layout layout;
  int ndim;
  int64_t shape[ML_MAX_DIMS], strides[ML_MAX_DIMS];
  bool exact; /* of packed weights: see ml_tensor */
  int storage;
  int64_t offset; /* bytes from the storage's beginning */
} ml_value;

/* Steps that no single operation is. */
enum {
  ML_STEP_FUSED = ML_OP_COUNT, /* an elementwise program: ml_fused */
  ML_STEP_ROWS,                /* what works along the last axis, with elementwise programs about it: ml_rows */
  ML_STEP_LINEARS,             /* products of one input with several weights: ml_linears */
  ML_STEP_COUNT
};

/* An elementwise program over tiles. Registers 0..n_inputs-1 hold the step's inputs; instruction i writes register
 * n_inputs + i; output k of the step is register outputs[k]. Every register is computed in the class of its dtype and
 * rounded to it. An output may lie where an input does, element for element. */
enum { ML_FUSED_MAX_INPUTS = 12, ML_FUSED_MAX_OUTPUTS = 4, ML_FUSED_MAX_CODE = 48 };
enum { ML_GROUP_MEMBERS = ML_FUSED_MAX_CODE / 2 };
enum {
  ML_PROGRAM_MAX_INPUTS = ML_FUSED_MAX_INPUTS + ML_GROUP_MEMBERS
}; /* of a stage's, which reads other stages too */
typedef struct ml_fused_op {
  int op; /* an elementwise ml_op, or ML_OP_constant */
  ml_dtype dtype;
  bool uniform; /* the same for all elements: once will do */
  int a, b, c;  /* registers */
  double f;     /* of a constant */
  int64_t i;
} ml_fused_op;
typedef struct ml_fused {
  int n_inputs, n_code, n_outputs;
  int outputs[ML_FUSED_MAX_OUTPUTS];
  ml_dtype input_dtypes[ML_PROGRAM_MAX_INPUTS];
  ml_fused_op code[]; /* ML_FUSED_MAX_CODE at most */
} ml_fused;

/* Rows of `length` elements along the last axis of the step's operands, each taken through all stages. Registers
 * 0..n_inputs-1 hold the step's inputs, the others what stages write: a row, or one element a row (narrow). A stage is
 * a row operation (a norm, softmax, a reduction over the last axis) or an elementwise program, over the row or, narrow,
 * over one element. Output k of the step is register outputs[k]. */
/* Shorter rows are better taken side by side, longer ones in parts. */
enum { ML_ROWS_LEAST = 64, ML_ROWS_MOST = 16384 };
typedef struct ml_row_register {
  ml_dtype dtype;
  bool narrow;
} ml_row_register;
typedef struct ml_row_stage {
  int op; /* ml_op, or ML_STEP_FUSED: the program */
  const ml_attrs *attrs;
  ml_fused *program;
  bool narrow;
  int n_inputs, inputs[ML_PROGRAM_MAX_INPUTS]; /* registers; -1 where an optional one is absent */
  int n_results, results[ML_GROUP_MEMBERS];    /* registers that it writes */
  int from[ML_GROUP_MEMBERS];                  /* of a program: the register of its own that each of them is */
} ml_row_stage;
typedef struct ml_rows {
  int64_t length;
  int lead; /* axes before the last, and their sizes */
  int64_t shape[ML_MAX_DIMS];
  int n_inputs, n_registers, n_stages;
  ml_row_register *registers;
  int outputs[ML_FUSED_MAX_OUTPUTS];
  ml_row_stage stages[];
} ml_rows;

/* Products that share their input x (step input 0; normalised first where `norm` is set, weight in step input 1 or -1).
 * Each unit multiplies x by one or two weights of equal shape and passes the products through an elementwise program
 * (or none) whose first inputs are the products and whose others are step inputs. Step outputs are the programs', or
 * the one product, unit after unit. */
enum { ML_LINEARS_MAX_UNITS = 4, ML_UNIT_MAX_WEIGHTS = 2 };
typedef struct ml_linear_unit {
  int n_weights, weights[ML_UNIT_MAX_WEIGHTS]; /* step inputs */
  int n_extra, extra[ML_FUSED_MAX_INPUTS];     /* step inputs read by the program behind the products */
  ml_fused *epilogue;                          /* NULL: the output is the one product */
  int first_output, n_outputs;                 /* step outputs */
} ml_linear_unit;
typedef struct ml_linears {
  bool norm;
  double eps, norm_offset;
  int n_units;
  ml_linear_unit units[ML_LINEARS_MAX_UNITS];
} ml_linears;

/* What each pass of the planner saved over running every operation as it was written: steps, and bytes that are neither
 * written nor read in them. Of `place`: bytes of memory. */
#define ML_PASSES(X) X(collect) X(split) X(select) X(fold) X(forward) X(products) X(group) X(emit) X(schedule) X(place)
typedef enum ml_pass {
#define PASS(name) ML_PASS_##name,
  ML_PASSES(PASS)
#undef PASS
      ML_PASS_COUNT
} ml_pass;
typedef struct ml_saving {
  size_t steps, bytes;
} ml_saving;
static inline void ml_save(ml_saving *s, size_t steps, size_t bytes) {
  s->steps += steps;
  s->bytes += bytes;
}

typedef struct ml_step {
  int op; /* ml_op or ML_STEP_* */
  int n_inputs, n_outputs;
  int *inputs;           /* values; -1 where an optional input is absent; one block with outputs */
  int *outputs;          /* values */
  const ml_attrs *attrs; /* as far as its lists go; NULL of ML_STEP_* */
  ml_fused *fused;       /* of ML_STEP_FUSED; of a reduction, what it takes; else what is done with the result */
  ml_rows *rows;
  ml_linears *linears;
  ml_saving saved; /* over a step for each operation that it carries out */
  char *path;      /* module path, or NULL */
} ml_step;

struct ml_plan {
  int references; /* of whoever made it, and of runs that may not be done */
  ml_bump memory; /* of the plan and all that it points at, buffers aside */
  ml_engine *engine;
  ml_device *device;
  bool once; /* it runs once: what takes long to plan is not worth it */
  ml_value *values;
  size_t n_values, values_capacity;
  ml_storage *storages;
  size_t n_storages, storages_capacity;
  ml_step *steps;
  size_t n_steps, steps_capacity;
  int n_inputs, n_outputs;
  ml_value *input_values; /* dtype and shape that each input must have */
  int *outputs;           /* value of each output, in storage of its own */
  size_t outputs_capacity;
  ml_buffer **kept[2]; /* storage of the outputs, in turn, that the device is to find where it was; or NULL */
  int turn;
  ml_plan_cell *cells;
  size_t n_cells, cells_capacity;
  ml_saving saved[ML_PASS_COUNT];
  size_t arena_bytes;
  ml_buffer *arena;         /* the device's; NULL: it uses none */
  size_t workspace_bytes;   /* the most that a run has needed */
  ml_plan *next, *previous; /* of those that use arena or workspace, */
  bool enlisted;            /* if it is one */
  double *seconds;          /* that each step took, in `timed` runs, while they are measured (profile.h); or NULL */
  uint64_t timed;
  ml_program *program;
};

/* Plans the outputs and all pending effects, which are those of a recording. `inputs` are placeholders from
 * ml_tensor_input, in order of index. */
ml_status ml_plan_create(ml_engine *engine, ml_tensor *const *inputs, int n_inputs, ml_tensor *const *outputs,
                         int n_outputs, ml_plan **out);
ml_plan *ml_plan_retain(ml_plan *plan);
void ml_plan_release(ml_plan *plan); /* NULL is allowed */
/* Runs it. Inputs must have the planned dtypes and shapes; strided ones are copied first, as are states that the plan
 * writes. outputs[i] are fresh tensors. What was written to its states before is seen, and later versions of them are
 * what they hold afterwards; a run that fails once it has begun leaves those that it replaces without values. */
ml_status ml_plan_run(ml_plan *plan, ml_tensor *const *inputs, ml_tensor **outputs);
/* The states that the plan reads have values. */
ml_status ml_plan_check_states(const ml_plan *plan);
/* The plan's steps alone: pending effects and versions of its states are the caller's business. *began: some of them
 * may have run. */
ml_status ml_plan_execute(ml_plan *plan, ml_tensor *const *inputs, ml_tensor **outputs, bool *began);
/* Storage for the tensors, and with `effects` what is pending. */
ml_status ml_evaluate(ml_engine *e, ml_tensor *const *tensors, size_t count, bool effects);
/* The plan as text, a line a step, with the bytes that it moves. From ml_alloc. */
ml_status ml_plan_explain(const ml_plan *plan, char **text);
const char *ml_step_name(const ml_step *step);
/* Bytes that a step reads and writes, beside what attention reads from caches. */
size_t ml_step_bytes(const ml_plan *plan, const ml_step *step);
/* What a step is, but for its bytes and its place in a model. From ml_alloc. */
ml_status ml_step_explain(const ml_plan *plan, const ml_step *step, char **text);

/* For the files of the planner. */
ml_status ml_plan_expect(ml_plan *p, size_t nodes); /* room for what a graph of so many nodes gives */
ml_status ml_plan_add_value(ml_plan *p, const ml_value *v, int *out);
ml_status ml_plan_add_storage(ml_plan *p, ml_storage s, int *out);
ml_status ml_plan_add_step(ml_plan *p, int op, const int *inputs, int n_inputs, const int *outputs, int n_outputs,
                           ml_step **out);
ml_status ml_plan_copy_attrs(ml_bump *memory, const ml_attrs *a, const ml_attrs **out);
ml_status ml_plan_cell_of(ml_plan *p, ml_cell *cell, ml_plan_cell **out); /* found, or added */
/* Whether the stages of a row have read an input when they begin to write a register. */
bool ml_rows_read_before(const ml_rows *r, int input, int reg);
ml_status ml_plan_schedule(ml_plan *p); /* schedule.c: the order of steps */
ml_status ml_plan_place(ml_plan *p);    /* place.c: lifetimes and the arena */
/* Bytes of outputs, and what of them and of intermediates holds values at one time, at the most. */
ml_status ml_plan_count_live(const ml_plan *p, size_t *outputs, size_t *most);

/* Bytes of a value's own elements (packed ones included). */
size_t ml_value_bytes(const ml_value *v);
bool ml_value_is_dense(const ml_value *v);

#endif
