/* rows.c: steps over rows (ml_rows).
 *
 * A unit is a row, which goes through all stages before the next. What a stage writes for another lies in scratch, a
 * row a register, or where an output lies that takes it as it is; elementwise programs run over tiles. Row operations
 * are the functions that steps of their own are made of, so that the bits are theirs. */
#include "tensor/cpu/isa/elementwise.h"
#include "tensor/cpu/isa/norm.h"
#include "tensor/cpu/isa/reduce.h"

enum { MOST_REGISTERS = ML_PROGRAM_MAX_INPUTS, MOST_PROGRAM = ML_PROGRAM_MAX_INPUTS + ML_FUSED_MAX_CODE };
enum { VECTORS = 3 }; /* operands of a row operation: the row, a weight, a bias */

/* A reduction over the last axis, as reduce.c wants it: its input's dtype and where its result goes. */
typedef struct reduction {
  ml_step step;
  ml_arg in, out;
  ml_task task;
} reduction;

typedef struct rows_plan {
  size_t registers[MOST_REGISTERS]; /* of those that stages write: where they lie in scratch */
  size_t tiles[ML_GROUP_MEMBERS];   /* of a stage that is a program: room for its registers */
  size_t vectors, typed;            /* room for a row operation's operands, and for a row in its own dtype */
  reduction *reductions;            /* of each stage */
} rows_plan;

ml_status K(rows_prepare)(ml_task *t) {
  const ml_rows *r = t->step->rows;
  rows_plan *p = ml_bump_alloc(t->memory, 1, sizeof *p + (size_t)r->n_stages * sizeof *p->reductions);
  if (!p) return ML_MEMORY;
  t->extra = p;
  p->reductions = (reduction *)(p + 1);
  size_t at = 0, row = (size_t)r->length;
  int work = 0;
  for (int k = r->n_inputs; k < r->n_registers; k++)
    p->registers[k] = ml_reserve(&at, r->registers[k].narrow ? 8 : row * 8);
  for (int i = 0; i < r->n_stages; i++) {
    const ml_row_stage *s = &r->stages[i];
    work += s->program ? s->program->n_code : 2;
    if (s->program) {
      p->tiles[i] = ml_reserve(&at, tile_room(s->n_inputs + s->program->n_code));
      continue;
    }
    reduction *d = &p->reductions[i];
    d->step = (ml_step){.op = s->op, .attrs = s->attrs};
    d->in = (ml_arg){.dtype = r->registers[s->inputs[0]].dtype};
    d->out = (ml_arg){.dtype = r->registers[s->results[0]].dtype};
    d->task = (ml_task){.in = &d->in, .out = &d->out, .n_in = 1, .n_out = 1, .step = &d->step};
  }
  p->vectors = ml_reserve(&at, VECTORS * row * 8);
  p->typed = ml_reserve(&at, row * 8);
  t->scratch = at;
  t->units = ml_shape_size(r->lead, r->shape);
  t->grain = ml_max64(1, 4096 / r->length);
  t->cost = (double)t->units * (double)r->length * 0.4 * (1 + work);
  return ML_OK;
}

/* One row on its way through the stages. */
typedef struct run {
  const ml_task *t;
  const ml_rows *rows;
  const rows_plan *plan;
  char *scratch;
  const char *in[ML_FUSED_MAX_INPUTS]; /* where the row of each input begins */
  char *out[ML_FUSED_MAX_OUTPUTS];     /* and of each output */
  char *registers[MOST_REGISTERS];     /* of those that stages write */
} run;

static size_t item_of(const run *r, int reg) { return register_item(r->rows->registers[reg].dtype); }
static int64_t inner(const run *r, const ml_arg *x) { return x->ndim > r->rows->lead ? x->strides[r->rows->lead] : 1; }

/* Whether output k has the form of its register, so that stages may write it there. */
static bool is_direct(const run *r, int k) {
  const ml_arg *o = &r->t->out[k];
  return o->dtype == ML_F32 && !r->rows->registers[r->rows->outputs[k]].narrow && inner(r, o) == 1;
}

static void begin_row(run *r, int64_t row) {
  const ml_task *t = r->t;
  for (int k = 0; k < t->n_in + t->n_out; k++) {
    const ml_arg *x = &t->in[k];
    int64_t at = ml_index_offset(r->rows->lead, r->rows->shape, x->strides, row);
    char *data = x->data + at * ml_dtype_infos[x->dtype].bytes;
    if (k < t->n_in) r->in[k] = data;
    else r->out[k - t->n_in] = data;
  }
  for (int k = r->rows->n_inputs; k < r->rows->n_registers; k++) r->registers[k] = r->scratch + r->plan->registers[k];
  for (int k = t->n_out; k-- > 0;) {
    if (is_direct(r, k)) r->registers[r->rows->outputs[k]] = r->out[k];
  }
}

/* A register is complete: what does not lie in its output is written there. */
static void finish(const run *r, int reg) {
  const ml_row_register *info = &r->rows->registers[reg];
  for (int k = 0; k < r->t->n_out; k++) {
    if (r->rows->outputs[k] != reg || r->registers[reg] == r->out[k]) continue;
    K(store_tile)
    (r->out[k], r->t->out[k].dtype, inner(r, &r->t->out[k]), r->registers[reg],
     info->narrow ? 1 : (int)r->rows->length);
  }
}

/* ---- programs ---- */

/* n copies of a register's one element. */
static void repeat(char *to, const char *from, size_t item, int n) {
  for (int i = 0; i < n; i++) memcpy(to + (size_t)i * item, from, item);
}

/* Loads what is the same all along the row. */
static void load_constant(const run *r, int reg, char *to, int n) {
  const ml_arg *x = &r->t->in[reg];
  if (reg >= r->rows->n_inputs) repeat(to, r->registers[reg], item_of(r, reg), n);
  else K(load_tile)(to, r->in[reg], x->dtype, 0, n);
}

/* How a program gets one of its inputs, tile after tile. */
typedef struct source {
  const char *from;
  int64_t step; /* bytes an element; 0: it is there already */
  bool loads;   /* converted or gathered into the program's own room, else taken where it lies */
  ml_dtype dtype;
} source;

static source source_of(const run *r, int reg, bool narrow, char *room, int n) {
  if (reg >= r->rows->n_inputs) {
    if (narrow || !r->rows->registers[reg].narrow)
      return (source){.from = r->registers[reg], .step = narrow ? 0 : (int64_t)item_of(r, reg)};
    load_constant(r, reg, room, n);
    return (source){.from = room};
  }
  const ml_arg *x = &r->t->in[reg];
  int64_t stride = inner(r, x);
  if (narrow || stride == 0) {
    load_constant(r, reg, room, narrow ? 1 : n);
    return (source){.from = room};
  }
  int64_t step = stride * ml_dtype_infos[x->dtype].bytes;
  return (source){.from = r->in[reg], .step = step, .loads = x->dtype != ML_F32 || stride != 1, .dtype = x->dtype};
}

static void run_program(const run *r, int stage) {
  const ml_row_stage *s = &r->rows->stages[stage];
  const ml_fused *f = s->program;
  int64_t length = s->narrow ? 1 : r->rows->length;
  char *room = r->scratch + r->plan->tiles[stage];
  source sources[ML_PROGRAM_MAX_INPUTS];
  void *regs[MOST_PROGRAM];
  tile_registers(regs, room, f);
  for (int k = 0; k < f->n_inputs; k++)
    sources[k] = source_of(r, s->inputs[k], s->narrow, regs[k], (int)ml_min64(TILE, length));
  for (int64_t at = 0; at < length; at += TILE) {
    int n = (int)ml_min64(TILE, length - at);
    for (int k = 0; k < f->n_inputs; k++) {
      const source *x = &sources[k];
      if (!x->loads) regs[k] = (void *)(uintptr_t)(x->from + at * x->step);
      else K(load_tile)(regs[k], x->from + at * x->step, x->dtype, x->step / ml_dtype_infos[x->dtype].bytes, n);
    }
    for (int k = 0; k < s->n_results; k++)
      regs[s->from[k]] = r->registers[s->results[k]] + (size_t)at * item_of(r, s->results[k]);
    K(fused_run)(f, regs, n);
  }
  for (int k = 0; k < s->n_results; k++) finish(r, s->results[k]);
}

/* ---- row operations ---- */

/* A row as float32: where it lies, or in room k. */
static const float *float_row(const run *r, int reg, int k) {
  if (reg < 0) return NULL;
  if (reg >= r->rows->n_inputs) return (const float *)(const void *)r->registers[reg];
  const ml_arg *x = &r->t->in[reg];
  if (x->dtype == ML_F32 && inner(r, x) == 1) return (const float *)(const void *)r->in[reg];
  float *room = (float *)(void *)(r->scratch + r->plan->vectors + (size_t)(k * r->rows->length) * 8);
  K(load_tile)(room, r->in[reg], x->dtype, inner(r, x), (int)r->rows->length);
  return room;
}

/* A row in its own dtype, its elements side by side. */
static const char *typed_row(const run *r, int reg) {
  ml_dtype dtype = r->rows->registers[reg].dtype;
  int n = (int)r->rows->length;
  char *room = r->scratch + r->plan->vectors, *typed = r->scratch + r->plan->typed;
  const char *row = room;
  if (reg >= r->rows->n_inputs) row = r->registers[reg];
  else if (inner(r, &r->t->in[reg]) == 1) return r->in[reg];
  else K(load_tile)(room, r->in[reg], dtype, inner(r, &r->t->in[reg]), n);
  if (register_item(dtype) == (size_t)ml_dtype_infos[dtype].bytes) return row;
  K(store_tile)(typed, dtype, 1, row, n);
  return typed;
}

static void run_reduction(const run *r, int stage) {
  const ml_row_stage *s = &r->rows->stages[stage];
  reduction own = r->plan->reductions[stage]; /* this thread's, for the address of its result */
  int64_t result = 0;
  own.out.data = (char *)&result;
  own.task.in = &own.in, own.task.out = &own.out, own.task.step = &own.step;
  K(reduce_row)(&own.task, typed_row(r, s->inputs[0]), r->rows->length);
  K(load_tile)(r->registers[s->results[0]], own.out.data, own.out.dtype, 0, 1);
}

static void run_row_op(const run *r, int stage) {
  const ml_row_stage *s = &r->rows->stages[stage];
  int64_t n = r->rows->length;
  const float *row[VECTORS] = {0};
  float *o = (float *)(void *)r->registers[s->results[0]];
  for (int k = 0; k < s->n_inputs; k++) row[k] = float_row(r, s->inputs[k], k);
  switch (s->op) {
  case ML_OP_rms_norm:
    K(rms_norm_row)(row[0], row[1], (float)s->attrs->rms_norm.offset, (float)s->attrs->rms_norm.eps, n, o);
    break;
  case ML_OP_layer_norm:
    if (row[0] == o) row[0] = memcpy(r->scratch + r->plan->vectors, o, (size_t)n * sizeof *o);
    K(layer_norm_row)(row[0], row[1], row[2], (float)s->attrs->layer_norm.eps, n, o);
    break;
  default: K(softmax_row)(row[0], s->op == ML_OP_log_softmax, n, o);
  }
  ml_dtype dtype = r->rows->registers[s->results[0]].dtype;
  if (dtype != ML_F32) K(round_tile)(o, dtype, (int)n);
}

void K(rows)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  run r = {.t = t, .rows = t->step->rows, .plan = t->extra, .scratch = w->scratch};
  for (int i = 0; i < r.rows->n_stages; i++) { /* constants stay from row to row */
    const ml_fused *f = r.rows->stages[i].program;
    void *regs[MOST_PROGRAM];
    if (!f) continue;
    tile_registers(regs, r.scratch + r.plan->tiles[i], f);
    K(fused_constants)(f, regs, TILE);
  }
  for (int64_t row = begin; row < end; row++) {
    begin_row(&r, row);
    for (int i = 0; i < r.rows->n_stages; i++) {
      const ml_row_stage *s = &r.rows->stages[i];
      if (s->program) {
        run_program(&r, i);
        continue;
      }
      if (ml_op_is_reduction(s->op)) run_reduction(&r, i);
      else run_row_op(&r, i);
      finish(&r, s->results[0]);
    }
  }
}
