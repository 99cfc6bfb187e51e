/* plan.c: the plan as an object: its lists, running it, explaining it. */
#include "tensor/plan/plan.h"

#include "tensor/arena.h"
#include "tensor/plan/profile.h"
#include "tensor/queue.h"

#include <stdio.h>
#include <string.h>

size_t ml_value_bytes(const ml_value *v) {
  const ml_dtype_info *info = &ml_dtype_infos[v->dtype];
  return (size_t)(ml_shape_size(v->ndim, v->shape) / info->block) * (size_t)info->bytes;
}

bool ml_value_is_dense(const ml_value *v) {
  ml_tensor t = {.ndim = v->ndim};
  memcpy(t.shape, v->shape, sizeof t.shape);
  memcpy(t.strides, v->strides, sizeof t.strides);
  return ml_tensor_is_dense(&t);
}

ml_status ml_plan_expect(ml_plan *p, size_t nodes) {
  ML_TRY(ML_BUMP_GROW(&p->memory, p->values, p->values_capacity, nodes + nodes / 4));
  ML_TRY(ML_BUMP_GROW(&p->memory, p->storages, p->storages_capacity, nodes / 2));
  return ML_BUMP_GROW(&p->memory, p->steps, p->steps_capacity, nodes / 2);
}

ml_status ml_plan_add_value(ml_plan *p, const ml_value *v, int *out) {
  ML_TRY(ML_BUMP_GROW(&p->memory, p->values, p->values_capacity, p->n_values + 1));
  p->values[p->n_values] = *v;
  *out = (int)p->n_values++;
  return ML_OK;
}

ml_status ml_plan_add_storage(ml_plan *p, ml_storage s, int *out) {
  ML_TRY(ML_BUMP_GROW(&p->memory, p->storages, p->storages_capacity, p->n_storages + 1));
  s.first = s.last = s.base = -1;
  if (s.buffer) ml_buffer_retain(s.buffer)->fixed = true;
  p->storages[p->n_storages] = s;
  *out = (int)p->n_storages++;
  return ML_OK;
}

ml_status ml_plan_add_step(ml_plan *p, int op, const int *inputs, int n_inputs, const int *outputs, int n_outputs,
                           ml_step **out) {
  ML_TRY(ML_BUMP_GROW(&p->memory, p->steps, p->steps_capacity, p->n_steps + 1));
  int *operands = ml_bump_alloc(&p->memory, (size_t)(n_inputs + n_outputs), sizeof *operands);
  if (!operands) return ML_MEMORY;
  if (n_inputs)
    memcpy(operands, inputs, (size_t)n_inputs * sizeof *inputs); /* a step may have none, and NULL for them */
  if (n_outputs) memcpy(operands + n_inputs, outputs, (size_t)n_outputs * sizeof *outputs);
  ml_step *s = &p->steps[p->n_steps++];
  *s = (ml_step){
      .op = op, .n_inputs = n_inputs, .n_outputs = n_outputs, .inputs = operands, .outputs = operands + n_inputs};
  *out = s;
  return ML_OK;
}

ml_status ml_plan_copy_attrs(ml_bump *memory, const ml_attrs *a, const ml_attrs **out) {
  size_t bytes = offsetof(ml_attrs, list) + (size_t)a->n_list * sizeof *a->list;
  void *copy = ml_bump_alloc(memory, bytes, 1);
  if (!copy) return ML_MEMORY;
  *out = memcpy(copy, a, bytes);
  return ML_OK;
}

ml_status ml_plan_cell_of(ml_plan *p, ml_cell *cell, ml_plan_cell **out) {
  if (!cell->slot || cell->slot > p->n_cells || p->cells[cell->slot - 1].cell != cell) {
    ML_TRY(ML_BUMP_GROW(&p->memory, p->cells, p->cells_capacity, p->n_cells + 1));
    p->cells[p->n_cells++] = (ml_plan_cell){.cell = ml_cell_retain(cell)};
    cell->slot = p->n_cells;
  }
  *out = &p->cells[cell->slot - 1];
  return ML_OK;
}

ml_plan *ml_plan_retain(ml_plan *p) {
  p->references++;
  return p;
}

void ml_plan_release(ml_plan *p) {
  if (!p || --p->references > 0) return;
  if (p->program) p->device->table->drop(p->device, p->program);
  for (size_t i = 0; i < p->n_storages; i++) ml_buffer_release(p->storages[i].buffer);
  for (size_t i = 0; i < p->n_cells; i++) ml_cell_release(p->cells[i].cell);
  for (int i = 0; i < 2 * p->n_outputs; i++) {
    if (p->kept[i % 2]) ml_buffer_release(p->kept[i % 2][i / 2]);
  }
  ml_arena_leave(p);
  ml_bump memory = p->memory; /* which holds the plan too */
  ml_bump_free(&memory);
}

/* ---- running ---- */

static ml_status check_input(const ml_plan *p, int i, const ml_tensor *t) {
  const ml_value *want = &p->input_values[i];
  if (t->device != p->device)
    return ml_fail(ML_MISMATCH, "input %d of a plan on %s lies on %s", i + 1, p->device->name, t->device->name);
  if (t->dtype == want->dtype && t->layout == want->layout && t->exact == want->exact &&
      ml_same_shape(t->ndim, t->shape, want->ndim, want->shape))
    return ML_OK;
  return ml_fail(ML_MISMATCH, "input %d of a plan: expected %s %s, found %s %s", i + 1, ml_dtype_name(want->dtype),
                 ml_shape_text(want->ndim, want->shape, (char[160]){0}, 160), ml_dtype_name(t->dtype),
                 ml_shape_text(t->ndim, t->shape, (char[160]){0}, 160));
}

/* Whether a run would overwrite what t holds. */
static bool writes_over(const ml_plan *p, const ml_tensor *t) {
  for (size_t i = 0; i < p->n_cells && t->cell; i++) {
    if (p->cells[i].written && p->cells[i].cell->buffer == t->buffer) return true;
  }
  return false;
}

/* A dense tensor with storage and the values of t, which the run leaves alone; a new reference. */
static ml_status dense_input(const ml_plan *p, ml_tensor *t, ml_tensor **out) {
  ML_TRY(ml_eval(p->engine, &t, 1));
  if ((t->layout != ML_LAYOUT_STRIDED || ml_tensor_is_dense(t)) && !writes_over(p, t)) {
    *out = ml_tensor_retain(t);
    return ML_OK;
  }
  ml_attrs none = {0};
  ML_TRY(ml_apply(p->engine, ML_OP_copy, &t, 1, &none, out));
  ml_status status = ml_eval(p->engine, out, 1);
  if (status != ML_OK) ml_tensor_release(*out);
  return status;
}

/* Larger outputs lie wherever there is room: two of each would take more memory than they save time. */
static const size_t MOST_KEPT = (size_t)1 << 20;

/* Storage of an output that the plan keeps, where what was written two runs ago lies. */
static ml_status keep_output(ml_plan *p, int i, size_t bytes, ml_buffer **out) {
  ml_buffer **list = p->kept[p->turn];
  if (!list) list = p->kept[p->turn] = ml_bump_alloc(&p->memory, (size_t)p->n_outputs, sizeof *list);
  if (!list) return ML_MEMORY;
  ML_TRY(list[i] ? ml_buffer_renew(&list[i]) : ml_buffer_create(p->device, bytes, &list[i]));
  *out = list[i];
  return ML_OK;
}

static ml_status make_output(ml_plan *p, int i, ml_tensor **out) {
  const ml_value *v = &p->values[p->outputs[i]];
  const size_t bytes = ml_value_bytes(v);
  if (p->once || !p->device->captures || bytes > MOST_KEPT) {
    ML_TRY(ml_tensor_create(p->device, v->dtype, v->ndim, v->shape, out));
  } else {
    ml_buffer *buffer;
    ML_TRY(keep_output(p, i, bytes, &buffer));
    ML_TRY(ml_tensor_wrap(buffer, 0, v->dtype, ML_LAYOUT_STRIDED, v->ndim, v->shape, out));
  }
  memcpy((*out)->strides, v->strides, sizeof v->strides);
  return ML_OK;
}

ml_status ml_plan_check_states(const ml_plan *p) {
  for (size_t i = 0; i < p->n_cells; i++) {
    if (p->cells[i].needed) ML_TRY(ml_cell_check(p->cells[i].cell));
  }
  return ML_OK;
}

ml_status ml_plan_execute(ml_plan *p, ml_tensor *const *inputs, ml_tensor **outputs, bool *began) {
  enum { FEW = 32 };
  ml_tensor *few[FEW];
  void *few_addresses[2 * FEW];
  size_t n_in = (size_t)p->n_inputs, n = n_in + (size_t)p->n_outputs, taken = 0, made = 0;
  ml_tensor **held = n_in > FEW ? ml_calloc(n_in, sizeof *held) : few;
  void **addresses = n > 2 * FEW ? ml_calloc(n, sizeof *addresses) : few_addresses;
  ml_status status = held && addresses ? ML_OK : ML_MEMORY;
  *began = false;
  ml_queue_look(p->device);
  if (status == ML_OK) status = ml_plan_check_states(p);
  for (; taken < n_in && status == ML_OK; taken++) {
    status = check_input(p, (int)taken, inputs[taken]);
    if (status == ML_OK) status = dense_input(p, inputs[taken], &held[taken]);
    if (status != ML_OK) break;
  }
  for (; n_in + made < n && status == ML_OK; made++) {
    status = make_output(p, (int)made, &outputs[made]);
    if (status != ML_OK) break;
    addresses[n_in + made] = ml_tensor_data(outputs[made]);
  }
  if (status == ML_OK) status = ml_arena_work(p, p->device->table->workspace(p->program));
  for (size_t i = 0; i < n_in && status == ML_OK; i++) { /* memory may have been waited for, and a run have failed */
    if (!held[i]->buffer)
      status = ml_fail(ML_DEVICE, "input %zu of a plan was lost with the run that computed it", i + 1);
    else addresses[i] = ml_tensor_data(held[i]); /* which making room may have changed */
  }
  p->turn = !p->turn;
  if (status == ML_OK) status = ml_profile_note(p);
  if (status == ML_OK) status = ml_queue_run(p, held, outputs, addresses, began);
  for (size_t i = 0; i < taken; i++) ml_tensor_release(held[i]);
  for (size_t i = 0; i < made && status != ML_OK; i++) ml_tensor_release(outputs[i]);
  if (held != few) ml_free(held);
  if (addresses != few_addresses) ml_free(addresses);
  return status;
}

ml_status ml_plan_run(ml_plan *p, ml_tensor *const *inputs, ml_tensor **outputs) {
  if (p->engine->n_effects && !p->engine->recording) ML_TRY(ml_eval(p->engine, NULL, 0));
  ML_TRY(ml_plan_check_states(p));
  for (size_t i = 0; i < p->n_cells; i++) {
    if (p->cells[i].written) ML_TRY(ml_cell_detach(p->cells[i].cell));
  }
  bool began;
  return ml_plan_execute(p, inputs, outputs, &began);
}

/* ---- explaining ---- */

const char *ml_step_name(const ml_step *s) {
  if (s->op == ML_STEP_FUSED) return "elementwise";
  if (s->op == ML_STEP_ROWS) return "rows";
  if (s->op == ML_STEP_LINEARS) return "linears";
  return ml_op_name((ml_op)s->op);
}

typedef struct text {
  char *bytes;
  size_t size, capacity;
  ml_status status;
} text;

static void say(text *t, const char *format, ...) ML_PRINTF(2, 3);
static void say(text *t, const char *format, ...) {
  char line[512];
  va_list args;
  va_start(args, format);
  int n = vsnprintf(line, sizeof line, format, args);
  va_end(args);
  if (n < 0 || t->status != ML_OK) return;
  size_t size = (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
  t->status = ml_grow((void **)&t->bytes, &t->capacity, t->size + size + 1, 1);
  if (t->status != ML_OK) return;
  memcpy(t->bytes + t->size, line, size + 1);
  t->size += size;
}

static void say_program(text *t, const ml_fused *f) {
  for (int i = 0; i < f->n_code; i++) say(t, "%s%s", i ? " " : "", ml_op_name((ml_op)f->code[i].op));
}

/* Stages in their order; what works on one element a row stands in brackets. */
static void say_rows(text *t, const ml_rows *r) {
  for (int i = 0; i < r->n_stages; i++) {
    const ml_row_stage *s = &r->stages[i];
    say(t, "%s", i ? " " : "");
    if (!s->program) {
      say(t, "%s", ml_op_name((ml_op)s->op));
      continue;
    }
    say(t, "%s", s->narrow ? "[" : "");
    say_program(t, s->program);
    say(t, "%s", s->narrow ? "]" : "");
  }
}

/* Bytes of the elements that a value has in memory: of what is broadcast, one each. */
static size_t read_bytes(const ml_value *v) {
  if (v->layout != ML_LAYOUT_STRIDED) return ml_value_bytes(v);
  ml_value own = *v;
  for (int i = 0; i < v->ndim; i++) {
    if (v->strides[i] == 0 && v->shape[i] > 1) own.shape[i] = 1;
  }
  return ml_value_bytes(&own);
}

static void say_saving(text *t, const ml_saving *s) {
  if (s->steps) say(t, "%zu steps%s", s->steps, s->bytes ? ", " : "");
  if (s->bytes) say(t, "%zu B", s->bytes);
}

/* Of a program: how many outputs, if there are several, and states that it writes. */
static void say_outputs(text *t, const ml_plan *p, const ml_step *s, int first, int n) {
  int states = 0;
  for (int k = first; k < first + n; k++)
    states += p->storages[p->values[s->outputs[k]].storage].place == ML_PLACE_TENSOR;
  if (n > 1) say(t, " -> %d outputs", n);
  if (states) say(t, " -> %d assigned", states);
}

/* Bytes that a step reads of its input k: of what it looks up in, the entries that it finds; none of caches and of
 * their tables of pages, of which the data decides how much, nor of what is written. */
static size_t input_bytes(const ml_plan *p, const ml_step *s, int k) {
  const ml_value *v = &p->values[s->inputs[k]], *other = s->n_inputs > 1 ? &p->values[s->inputs[1]] : NULL;
  const bool cache = (s->op == ML_OP_attention && k >= 1 && k <= 3) || (s->op == ML_OP_cache_append && k == 2),
             target = k == 0 && s->op < ML_OP_COUNT;
  if (cache || (target && ml_op_is_effect((ml_op)s->op))) return 0;
  if (s->op == ML_OP_embedding && k == 0 && v->shape[0])
    return ml_value_bytes(v) / (size_t)v->shape[0] * (size_t)ml_shape_size(other->ndim, other->shape);
  if (s->op == ML_OP_gather_linear && k == 1 && v->shape[0]) {
    const ml_value *ids = &p->values[s->inputs[2]];
    const int64_t most = ml_shape_size(ids->ndim, ids->shape);
    return ml_value_bytes(v) / (size_t)v->shape[0] * (size_t)(most < v->shape[0] ? most : v->shape[0]);
  }
  if ((s->op == ML_OP_take || s->op == ML_OP_take_along_axis) && k == 0)
    return ml_value_bytes(&p->values[s->outputs[0]]);
  return read_bytes(v);
}

size_t ml_step_bytes(const ml_plan *p, const ml_step *s) {
  size_t bytes = 0;
  for (int k = 0; k < s->n_inputs; k++) {
    if (s->inputs[k] >= 0) bytes += input_bytes(p, s, k);
  }
  for (int k = 0; k < s->n_outputs; k++) {
    if (s->outputs[k] >= 0 && s->op != ML_OP_cache_append) bytes += ml_value_bytes(&p->values[s->outputs[k]]);
  }
  return bytes;
}

static const ml_value *first_output(const ml_plan *p, const ml_step *s) {
  int first = 0;
  while (s->outputs[first] < 0) first++; /* of several results */
  return &p->values[s->outputs[first]];
}

/* What it computes. */
static void say_work(text *t, const ml_plan *p, const ml_step *s) {
  if (s->fused || s->rows) {
    say(t, "  ");
    if (s->rows) say_rows(t, s->rows);
    else say_program(t, s->fused);
    say_outputs(t, p, s, 0, s->n_outputs);
  }
  bool plain = !s->fused && !s->rows && !s->linears && s->op < ML_OP_COUNT;
  if (plain && !ml_op_is_effect((ml_op)s->op) && s->n_outputs == 1) say_outputs(t, p, s, 0, 1);
  if (!s->linears) return;
  say(t, "  %s%d units", s->linears->norm ? "norm -> " : "", s->linears->n_units);
  for (int u = 0; u < s->linears->n_units; u++) {
    const ml_linear_unit *unit = &s->linears->units[u];
    const ml_value *w = &p->values[s->inputs[unit->weights[0]]];
    say(t, "; %d x %s %s", unit->n_weights, ml_dtype_name(w->dtype),
        ml_shape_text(w->ndim, w->shape, (char[160]){0}, 160));
    if (unit->epilogue) {
      say(t, " -> ");
      say_program(t, unit->epilogue);
    }
    say_outputs(t, p, s, unit->first_output, unit->n_outputs);
  }
}

static void say_step(text *t, const ml_plan *p, size_t i, size_t *total) {
  const ml_step *s = &p->steps[i];
  const size_t bytes = ml_step_bytes(p, s);
  *total += bytes;
  const ml_value *o = first_output(p, s);
  say(t, "%4zu  %-16s %-9s %-20s %10zu B", i + 1, ml_step_name(s), ml_dtype_name(o->dtype),
      ml_shape_text(o->ndim, o->shape, (char[160]){0}, 160), bytes);
  say_work(t, p, s);
  if (s->saved.steps) {
    say(t, "  saves ");
    say_saving(t, &s->saved);
  }
  if (s->path) say(t, "  %s", s->path);
  say(t, "\n");
}

ml_status ml_step_explain(const ml_plan *p, const ml_step *s, char **out) {
  text t = {0};
  const ml_value *o = first_output(p, s);
  say(&t, "%s %s %s", ml_step_name(s), ml_dtype_name(o->dtype), ml_shape_text(o->ndim, o->shape, (char[160]){0}, 160));
  say_work(&t, p, s);
  if (t.status != ML_OK) ml_free(t.bytes);
  else *out = t.bytes;
  return t.status;
}

/* "collect 2 steps, 96 B; place 4096 B": of the passes that saved something. */
static void say_saved(text *t, const ml_plan *p) {
  static const char *const names[] = {
#define PASS(name) #name,
      ML_PASSES(PASS)
#undef PASS
  };
  const char *between = "saved: ";
  for (int i = 0; i < ML_PASS_COUNT; i++) {
    const ml_saving *s = &p->saved[i];
    if (!s->steps && !s->bytes) continue;
    say(t, "%s%s ", between, names[i]);
    say_saving(t, s);
    between = "; ";
  }
  if (between[0] == ';') say(t, "\n");
}

ml_status ml_plan_explain(const ml_plan *p, char **out) {
  text t = {0};
  size_t total = 0, outputs, live;
  ML_TRY(ml_plan_count_live(p, &outputs, &live));
  say(&t, "%zu steps, %zu barriers, arena %zu B, outputs %zu B, of which %zu B live at once, on %s\n", p->n_steps,
      p->device->table->barriers(p->program), p->arena_bytes, outputs, live, p->device->name);
  for (size_t i = 0; i < p->n_steps; i++) say_step(&t, p, i, &total);
  say(&t, "total: %zu B moved by a run, beside what attention reads from caches\n", total);
  say_saved(&t, p);
  if (t.status != ML_OK) {
    ml_free(t.bytes);
    return t.status;
  }
  *out = t.bytes;
  return ML_OK;
}
