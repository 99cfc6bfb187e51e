/* evaluate.c: making plans, and evaluating, which makes one, runs it once and drops it. */
#include "tensor/plan/graph.h"
#include "tensor/queue.h"
#include "tensor/weight.h"

#include <stdio.h>
#include <string.h>

/* ---- making ---- */

/* The device has a kernel for each step. */
static ml_status check_kernels(const ml_plan *p) {
  const ml_device *d = p->device;
  for (size_t i = 0; i < p->n_steps; i++) {
    const ml_step *s = &p->steps[i];
    if (!d->table->lacks(d, s->op)) continue;
    const ml_status status = ml_fail(ML_UNSUPPORTED, "%s: %s has no kernel for it", ml_step_name(s), d->name);
    return s->path ? ml_fail_prefix(status, "%s", s->path) : status;
  }
  return ML_OK;
}

static ml_status build(ml_plan *p, ml_vgraph *g, const ml_roots *r) {
  ML_TRY(ml_vgraph_collect(g, p->device, r));
  ML_TRY(ml_vgraph_split(g));
  ML_TRY(ml_vgraph_select(g));
  if (!r->once) ML_TRY(ml_vgraph_fold(g));
  ML_TRY(ml_vgraph_forward(g));
  ML_TRY(ml_vgraph_link(g));
  p->n_outputs = (int)g->n_outputs;
  p->outputs = ml_bump_alloc(&p->memory, p->outputs_capacity = g->n_outputs + 8, sizeof *p->outputs);
  if (!p->outputs) return ML_MEMORY;
  ML_TRY(ml_plan_expect(p, g->n_nodes));
  ML_TRY(ml_vgraph_group_products(g));
  ML_TRY(ml_vgraph_group(g));
  ML_TRY(ml_vgraph_emit(g, p));
  ML_TRY(check_kernels(p));
  memcpy(p->saved, g->saved, sizeof p->saved);
  ML_TRY(ml_plan_schedule(p));
  ML_TRY(ml_plan_place(p));
  return p->device->table->lower(p->device, p, &p->program);
}

/* A tensor, borrowed, that gets the value of an output. */
typedef struct receiver {
  ml_tensor *tensor;
  size_t output;
} receiver;
typedef struct receivers {
  receiver *list; /* in the plan's memory */
  size_t n;
} receivers;

/* Who gets the outputs behind those asked for, and of tensors with one value all. */
static ml_status list_receivers(ml_plan *p, const ml_vgraph *g, size_t asked, receivers *to) {
  to->list = ml_bump_alloc(&p->memory, g->n_kept + g->n_twins, sizeof *to->list);
  if (!to->list) return ML_MEMORY;
  for (size_t i = 0; i < g->n_kept; i++) to->list[to->n++] = (receiver){g->kept[i], asked + i};
  for (size_t i = 0; i < g->n_nodes && g->n_twins; i++) {
    const ml_vnode *n = &g->nodes[i];
    for (int k = n->output < 0 ? -1 : n->twin; k >= 0; k = g->twins[k].next)
      to->list[to->n++] = (receiver){g->twins[k].tensor, (size_t)n->output};
  }
  return ML_OK;
}

/* Where a plan runs: as what it gives, takes or writes. */
static ml_device *device_of(ml_engine *e, ml_tensor *const *inputs, int n_inputs, const ml_roots *r) {
  if (r->n_outputs) return r->outputs[0]->device;
  if (r->n_effects) return r->effects[0]->device;
  return n_inputs ? inputs[0]->device : e->device;
}

/* A plan, and, unless `kept` is NULL, who gets what is not asked for. */
static ml_status create(ml_engine *e, ml_tensor *const *inputs, int n_inputs, const ml_roots *r, ml_plan **out,
                        receivers *kept) {
  ml_bump memory = {.spare = r->once ? &e->spare : NULL};
  ml_plan *p = ml_bump_alloc(&memory, 1, sizeof *p);
  if (!p) return ML_MEMORY;
  *p = (ml_plan){.references = 1,
                 .memory = memory,
                 .engine = e,
                 .device = device_of(e, inputs, n_inputs, r),
                 .once = r->once,
                 .n_inputs = n_inputs};
  p->input_values = ml_bump_alloc(&p->memory, (size_t)n_inputs, sizeof *p->input_values);
  ml_status status = p->input_values ? ML_OK : ML_MEMORY;
  for (int i = 0; i < n_inputs && status == ML_OK; i++) {
    const ml_tensor *t = inputs[i];
    p->input_values[i] = (ml_value){.dtype = t->dtype, .layout = t->layout, .ndim = t->ndim, .exact = t->exact};
    memcpy(p->input_values[i].shape, inputs[i]->shape, sizeof inputs[i]->shape);
  }
  ml_vgraph g = {.memory = {.spare = &e->spare}};
  if (status == ML_OK) status = build(p, &g, r);
  if (status == ML_OK && kept && g.n_kept + g.n_twins) status = list_receivers(p, &g, r->n_outputs, kept);
  for (size_t i = 0; i < g.n_held; i++) ml_tensor_release(g.held[i]);
  ml_bump_free(&g.memory);
  if (status != ML_OK) {
    ml_plan_release(p);
    return status;
  }
  e->stats.plans++;
  *out = p;
  return ML_OK;
}

/* The tensors that stand for a list: of a state its latest version. */
static ml_status resolve(ml_tensor *const *tensors, size_t n, ml_tensor ***out) {
  ml_tensor **list = ml_calloc(n, sizeof *list);
  if (!list) return ML_MEMORY;
  ml_status status = ML_OK;
  for (size_t i = 0; i < n && status == ML_OK; i++) {
    list[i] = tensors[i];
    status = ml_capture(tensors[i]->engine, tensors[i]);
    if (status == ML_OK && tensors[i]->state) status = ml_cell_latest(tensors[i]->cell, &list[i]);
  }
  if (status == ML_OK) *out = list;
  else ml_free(list);
  return status;
}

ml_status ml_plan_create(ml_engine *e, ml_tensor *const *inputs, int n_inputs, ml_tensor *const *outputs, int n_outputs,
                         ml_plan **out) {
  ml_tensor **list;
  ML_TRY(resolve(outputs, (size_t)n_outputs, &list));
  ml_roots r = {.outputs = list, .n_outputs = (size_t)n_outputs, .effects = e->effects, .n_effects = e->n_effects};
  ml_status status = create(e, inputs, n_inputs, &r, out, NULL);
  ml_free(list);
  if (e->recording) ml_effects_planned(e);
  else ml_effects_drop(e, 0);
  return status;
}

/* ---- recording ---- */

ml_status ml_record_begin(ml_engine *e) {
  if (e->recording == 0 && e->n_effects > 0) ML_TRY(ml_eval(e, NULL, 0));
  if (e->recording++ > 0) return ML_OK;
  e->recordings++;
  e->before = e->serial;
  return ML_OK;
}

void ml_record_end(ml_engine *e) {
  if (--e->recording > 0) return;
  ml_effects_drop(e, 0); /* that no plan took */
  ml_states_end_trace(e);
}

static ml_status no_value(void) {
  return ml_fail(ML_USAGE,
                 "a value is read while a plan is recorded, which happens once for each shape and before there "
                 "are values");
}

/* Whether what is recorded has values now: it depends on weights and constants alone. */
static ml_status check_known(ml_engine *e, const ml_roots *r) {
  ml_vgraph g = {.memory = {.spare = &e->spare}};
  ml_status status = ml_vgraph_collect(&g, device_of(e, NULL, 0, r), r);
  bool known = true;
  for (size_t i = 0; status == ML_OK && i < g.n_nodes; i++) {
    const ml_vnode *n = &g.nodes[i];
    known = known && n->op != ML_OP_input && !(ml_vnode_is_leaf(n) && ml_tensor_is_attached(n->tensor));
  }
  ml_bump_free(&g.memory);
  return known ? status : no_value();
}

/* ---- evaluating ---- */

/* A tensor's node is of no more use, once the run that computes it is known to have done so. */
static void settle_node(ml_tensor *t) {
  if (t->device->asynchronous) ml_queue_hold(t);
  else ml_tensor_kill(t, ML_FATE_NONE);
}

/* Gives a tensor the storage of `from`, which is new; its node goes. */
static void settle(ml_tensor *t, const ml_tensor *from) {
  ml_tensor_keep_window(t); /* out of memory, it is a value and no more */
  ml_buffer *old = t->buffer;
  t->buffer = ml_buffer_retain(from->buffer);
  t->offset = from->offset;
  memcpy(t->strides, from->strides, sizeof t->strides);
  ml_buffer_release(old);
  settle_node(t);
}

/* Effects have happened: the last version of each state is what its storage holds. What is before it has storage of its
 * own, or nobody who asks but nodes that would be computed again should the run fail after all: it has no value then.
 */
static void settle_effects(const ml_roots *r) {
  for (size_t i = 0; i < r->n_effects; i++) {
    ml_tensor *t = r->effects[i];
    ml_cell *cell = t->cell;
    if (!t->node) continue;
    ml_tensor *before = ml_effect_before(t);
    if (!before->node && before->buffer == cell->buffer) ml_tensor_kill(before, ML_FATE_FAILED);
    if (cell->latest && cell->latest != t) {
      if (t->device->asynchronous) ml_tensor_kill(t, ML_FATE_FAILED); /* who asks is lazy again: the run has failed */
      continue;
    }
    t->buffer = ml_buffer_retain(cell->buffer);
    ml_strides_dense(t->ndim, t->shape, t->strides);
    settle_node(t);
  }
}

/* Whether an effect leaves nothing of what others have written. */
static bool replaces(const ml_tensor *t) { return ml_op_infos[t->node->op].kind != ML_KIND_APPEND; }

/* An effect has not happened, and never will. */
static void give_up(ml_tensor *t) {
  if (t->cell->latest == t) {
    t->cell->latest = NULL;
    ml_tensor_release(t);
  }
  ml_tensor_kill(t, ML_FATE_FAILED);
}

/* Effects have failed half way. */
static void lose_effects(const ml_roots *r, ml_status status) {
  ml_loss *loss = ml_loss_create(status, ml_error_message());
  for (size_t i = r->n_effects; i-- > 0;) {
    ml_tensor *t = r->effects[i], *before = ml_effect_before(t);
    ml_cell *cell = t->cell;
    if (replaces(t)) ml_buffer_set_loss(cell->buffer, loss);
    if (!before->node) ml_tensor_kill(before, ML_FATE_FAILED);
    give_up(t);
  }
  ml_loss_release(loss);
}

/* The first step may come later: all memory is obtained before it, so that what lacked some changed nothing. */
static bool is_put_off(ml_status status) {
  return status == ML_MEMORY || status == ML_LIMIT || status == ML_CANCELLED || status == ML_DEADLINE;
}

/* The first n effects are pending no more. */
static void forget_effects(ml_engine *e, size_t n) {
  for (size_t i = 0; i < n; i++) ml_tensor_release(e->effects[i]);
  e->n_effects -= n;
  memmove(e->effects, e->effects + n, e->n_effects * sizeof *e->effects);
}

/* Effects are the first of those that are pending: once the run has begun they are so no more. */
static ml_status run_once(ml_engine *e, const ml_roots *r) {
  ml_plan *plan = NULL;
  ml_tensor **results = NULL;
  receivers kept = {0};
  bool began = false;
  ml_status status = create(e, NULL, 0, r, &plan, &kept);
  if (status == ML_OK && !(results = ml_bump_alloc(&plan->memory, (size_t)plan->n_outputs, sizeof(ml_tensor *))))
    status = ML_MEMORY;
  if (status == ML_OK) status = ml_plan_execute(plan, NULL, results, &began);
  for (size_t i = 0; status == ML_OK && i < r->n_outputs; i++) settle(r->outputs[i], results[i]);
  for (size_t i = 0; status == ML_OK && i < kept.n; i++) settle(kept.list[i].tensor, results[kept.list[i].output]);
  for (size_t i = 0; status == ML_OK && i < (size_t)plan->n_outputs; i++) ml_tensor_release(results[i]);
  ml_plan_release(plan);
  if (!r->n_effects || (status != ML_OK && !began)) return status;
  if (status == ML_OK) settle_effects(r);
  else lose_effects(r, status);
  forget_effects(e, r->n_effects);
  return status;
}

/* Lazy tensors of a list, once each, retained. */
static ml_status lazy_ones(ml_tensor *const *tensors, size_t count, ml_tensor **lazy, size_t *n) {
  ml_status status = ML_OK;
  for (size_t i = 0; i < count && status == ML_OK; i++) {
    ml_tensor *t = tensors[i];
    if (t->fate != ML_FATE_NONE) status = ml_tensor_fate_error(t);
    else if (t->node && !t->mark && !ml_op_is_effect((ml_op)t->node->op)) {
      t->mark = 1;
      lazy[(*n)++] = ml_tensor_retain(t);
    }
  }
  for (size_t i = 0; i < *n; i++) lazy[i]->mark = 0;
  return status;
}

/* Constants have no value that could change. */
static bool is_captured(const ml_engine *e, const ml_tensor *t) {
  if (!e->recording || t->state || (t->node && t->node->serial > e->before)) return false;
  bool lazy = t->node != NULL;
  while (t->node && ml_op_infos[t->node->op].kind == ML_KIND_VIEW) t = t->node->inputs[0];
  if (t->node) return t->node->op != ML_OP_constant;
  return lazy || (ml_tensor_is_attached(t) && t != t->cell->begins);
}

ml_status ml_capture(ml_engine *e, ml_tensor *t) {
  if (!is_captured(e, t)) return ML_OK;
  if (t->fate != ML_FATE_NONE) return ml_tensor_fate_error(t);
  ml_tensor *held = ml_tensor_retain(t);
  ml_roots r = {.outputs = &held, .n_outputs = 1, .once = true};
  ml_status status = run_once(e, &r);
  if (status == ML_OK && t->cell) ml_cell_leave(t->cell, t);
  ml_tensor_release(held);
  return status;
}

/* Brings those of a list that are of a device to its front, each in its order, and says how many. */
static ml_status bring_forward(ml_tensor **list, size_t count, const ml_device *d, size_t *n) {
  size_t others = 0;
  *n = 0;
  while (*n < count && list[*n]->device == d) ++*n;
  if (*n == count) return ML_OK;
  ml_tensor **rest = ml_calloc(count - *n, sizeof *rest);
  if (!rest) return ML_MEMORY;
  for (size_t i = *n; i < count; i++) {
    if (list[i]->device == d) list[(*n)++] = list[i];
    else rest[others++] = list[i];
  }
  memcpy(list + *n, rest, others * sizeof *rest);
  ml_free(rest);
  return ML_OK;
}

/* Whether a run could begin, memory aside. */
static ml_status try_plan(ml_engine *e, const ml_roots *r) {
  ml_plan *plan = NULL;
  ml_status status = create(e, NULL, 0, r, &plan, NULL);
  if (status == ML_OK) status = ml_plan_check_states(plan);
  ml_plan_release(plan);
  return status;
}

/* A state that an effect was to replace which never can happen, and why. */
typedef struct lost_state {
  ml_cell *cell;
  ml_loss *loss;
} lost_state;

/* Takes those that never can happen out of the first n effects, of which *kept are left. */
static ml_status drop_hopeless(ml_engine *e, size_t n, size_t *kept, lost_state *lost, size_t *n_lost) {
  for (*kept = 0; n > 0; n--) {
    ml_roots r = {.effects = e->effects, .n_effects = *kept + 1, .once = true};
    ml_tensor *t = e->effects[*kept];
    const ml_status status = try_plan(e, &r);
    if (is_put_off(status)) return status;
    if (status == ML_OK) {
      ++*kept;
      continue;
    }
    if (replaces(t))
      lost[(*n_lost)++] = (lost_state){ml_cell_retain(t->cell), ml_loss_create(status, ml_error_message())};
    memmove(e->effects + *kept, e->effects + *kept + 1, (--e->n_effects - *kept) * sizeof *e->effects);
    give_up(t);
    ml_tensor_release(t);
  }
  return ML_OK;
}

/* Of a run that could not begin (`status` and the error record say why), the first n effects: what cannot be evaluated
 * is no reason that others wait, and those that cannot be either leave their states without values. */
static ml_status evaluate_rest(ml_engine *e, size_t n, ml_status status) {
  char why[2048];
  size_t kept = 0, n_lost = 0;
  snprintf(why, sizeof why, "%s", ml_error_message());
  lost_state *lost = ml_calloc(n, sizeof *lost);
  if (!lost) return ML_MEMORY;
  const ml_status hope = drop_hopeless(e, n, &kept, lost, &n_lost);
  ml_roots r = {.effects = e->effects, .n_effects = kept, .once = true};
  if (hope == ML_OK && kept) run_once(e, &r);
  for (size_t i = 0; i < n_lost; i++) {
    if (!ml_buffer_loss(lost[i].cell->buffer)) ml_buffer_set_loss(lost[i].cell->buffer, lost[i].loss);
    ml_loss_release(lost[i].loss);
    ml_cell_release(lost[i].cell);
  }
  ml_free(lost);
  return ml_fail(status, "%s", why);
}

/* Evaluates those tensors of the list, and of the effects those that are pending, that are of one device. */
static ml_status evaluate_on(ml_engine *e, ml_device *d, ml_tensor **lazy, size_t n, size_t n_effects) {
  ml_roots r = {.outputs = lazy, .effects = e->effects, .once = true};
  ML_TRY(bring_forward(lazy, n, d, &r.n_outputs));
  ML_TRY(bring_forward(e->effects, n_effects, d, &r.n_effects));
  if (e->recording && r.n_outputs) ML_TRY(check_known(e, &r));
  ml_status status = r.n_outputs + r.n_effects ? run_once(e, &r) : ML_OK;
  if (status == ML_OK || !r.n_effects || e->n_effects < n_effects || is_put_off(status)) return status;
  return evaluate_rest(e, r.n_effects, status);
}

ml_status ml_evaluate(ml_engine *e, ml_tensor *const *tensors, size_t count, bool effects) {
  enum { FEW = 8 };
  e->kept = 0;
  for (size_t i = 0; e->recording && i < count; i++) ML_TRY(ml_capture(e, tensors[i]));
  ml_tensor *few[FEW], **lazy = count > FEW ? ml_calloc(count, sizeof *lazy) : few;
  if (!lazy) return ML_MEMORY;
  size_t n = 0;
  ml_status status = lazy_ones(tensors, count, lazy, &n);
  for (int i = 0; i < e->n_devices && status == ML_OK; i++)
    status = evaluate_on(e, e->devices[i], lazy, n, effects ? e->n_effects : 0);
  for (size_t i = 0; i < n; i++) ml_tensor_release(lazy[i]);
  if (lazy != few) ml_free(lazy);
  for (size_t i = 0; i < count && status == ML_OK; i++) {
    if (tensors[i]->state || ml_tensor_is_attached(tensors[i])) status = ml_cell_check(tensors[i]->cell);
  }
  return status;
}

ml_status ml_eval(ml_engine *e, ml_tensor *const *tensors, size_t count) {
  return ml_evaluate(e, tensors, count, !e->recording);
}

/* ---- reading ---- */

static ml_status read_dense(ml_tensor *t, void *to) {
  return ml_buffer_read(t->buffer, t->offset, to, ml_tensor_nbytes(t));
}

ml_status ml_tensor_read(ml_tensor *t, void *to) {
  ML_TRY(ml_capture(t->engine, t));
  if (t->engine->recording && (t->state || ml_tensor_is_attached(t))) return no_value();
  ML_TRY(ml_eval(t->engine, &t, 1));
  if (t->layout == ML_LAYOUT_PANELS) return ml_weight_read(t, to);
  if (t->layout != ML_LAYOUT_STRIDED || ml_tensor_is_dense(t)) return read_dense(t, to);
  ml_tensor *dense;
  ml_attrs none = {0};
  ML_TRY(ml_apply(t->engine, ML_OP_copy, &t, 1, &none, &dense));
  ml_status status = ml_eval(t->engine, &dense, 1);
  if (status == ML_OK) status = read_dense(dense, to);
  ml_tensor_release(dense);
  return status;
}
