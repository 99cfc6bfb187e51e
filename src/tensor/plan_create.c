/* plan_create.c: making plans, and ml_eval, which makes one, runs it once and drops it. */
#include "tensor/plan_graph.h"

#include <string.h>

/* A constant larger than this is worked out in each run rather than kept. */
static const size_t FOLD_BYTES = (size_t)16 << 20;

typedef struct roots {
  ml_tensor **items;
  size_t count;
} roots;

/* Outputs first, then all pending effects. */
static ml_status gather_roots(ml_engine *e, ml_tensor *const *outputs, size_t n, bool effects, roots *r) {
  size_t n_effects = effects ? e->n_effects : 0;
  r->items = ml_calloc(n + n_effects, sizeof *r->items);
  if (!r->items) return ML_MEMORY;
  if (n) memcpy(r->items, outputs, n * sizeof *outputs);
  if (n_effects) memcpy(r->items + n, e->effects, n_effects * sizeof *e->effects);
  r->count = n + n_effects;
  return ML_OK;
}

static ml_status evaluate(ml_engine *e, ml_tensor *const *tensors, size_t count, bool effects);

/* Works out, once, every node that depends on weights and constants alone and feeds a node that does not: saves its
 * work in each run of the plan. */
static ml_status fold(ml_engine *e, const roots *r, size_t n_outputs) {
  ml_vgraph g;
  ml_status status = ml_vgraph_build(&g, e, r->items, r->count, n_outputs);
  ml_tensor **folded = status == ML_OK ? ml_calloc(g.n_nodes + 1, sizeof *folded) : NULL;
  bool *fixed = folded ? ml_calloc(g.n_nodes + 1, sizeof *fixed) : NULL;
  size_t n = 0;
  if (status == ML_OK && !fixed) status = ML_MEMORY;
  for (size_t v = 0; status == ML_OK && v < g.n_nodes; v++) {
    const ml_vnode *node = &g.nodes[v];
    if (node->op == ML_OP_COUNT) fixed[v] = node->state < 0;
    else fixed[v] = node->op != ML_OP_input && ml_op_infos[node->op].kind != ML_KIND_EFFECT;
    for (int k = 0; k < node->n_inputs && fixed[v]; k++) fixed[v] = node->inputs[k] < 0 || fixed[node->inputs[k]];
  }
  for (size_t v = 0; status == ML_OK && v < g.n_nodes; v++) {
    const ml_vnode *node = &g.nodes[v];
    if (!fixed[v] || node->group < 0 || node->op == ML_OP_COUNT || ml_vnode_constant(&g, (int)v) ||
        ml_tensor_nbytes(node->tensor) > FOLD_BYTES)
      continue;
    bool feeds = false;
    for (int i = 0; i < node->n_users; i++) {
      int user = g.users[node->first_user + i];
      feeds = feeds || user < 0 || !fixed[user];
    }
    if (feeds) folded[n++] = node->tensor;
  }
  ml_vgraph_free(&g);
  if (status == ML_OK && n) status = evaluate(e, folded, n, false);
  ml_free(folded);
  ml_free(fixed);
  return status;
}

static ml_status build(ml_plan *p, const roots *r) {
  ml_vgraph g;
  ml_status status = ml_vgraph_build(&g, p->engine, r->items, r->count, (size_t)p->n_outputs);
  for (int i = 0; i < p->n_outputs && status == ML_OK; i++) {
    int v = r->items[i]->mark - 1;
    p->outputs[i] = v;
    if (g.nodes[v].output < 0) g.nodes[v].output = i;
  }
  if (status == ML_OK) status = ml_vgraph_fuse(&g);
  if (status == ML_OK) status = ml_vgraph_emit(&g, p);
  ml_vgraph_free(&g);
  if (status == ML_OK) status = ml_plan_place(p);
  if (status == ML_OK) status = p->device->table->lower(p->device, p, &p->program);
  return status;
}

static ml_status create(ml_engine *e, ml_tensor *const *inputs, int n_inputs, const roots *r, int n_outputs,
                        ml_plan **out) {
  ml_plan *p = ml_calloc(1, sizeof *p);
  if (!p) return ML_MEMORY;
  *p = (ml_plan){
      .engine = e, .device = r->count ? r->items[0]->device : e->device, .n_inputs = n_inputs, .n_outputs = n_outputs};
  p->outputs = ml_calloc((size_t)n_outputs, sizeof *p->outputs);
  p->input_values = ml_calloc((size_t)n_inputs, sizeof *p->input_values);
  ml_status status = p->outputs && p->input_values ? ML_OK : ML_MEMORY;
  for (int i = 0; i < n_inputs && status == ML_OK; i++) {
    p->input_values[i] = (ml_value){.dtype = inputs[i]->dtype, .ndim = inputs[i]->ndim};
    memcpy(p->input_values[i].shape, inputs[i]->shape, sizeof inputs[i]->shape);
  }
  if (status == ML_OK) status = build(p, r);
  if (status != ML_OK) {
    ml_plan_free(p);
    return status;
  }
  e->stats.plans++;
  *out = p;
  return ML_OK;
}

ml_status ml_plan_create(ml_engine *e, ml_tensor *const *inputs, int n_inputs, ml_tensor *const *outputs, int n_outputs,
                         ml_plan **out) {
  roots r = {0};
  ML_TRY(gather_roots(e, outputs, (size_t)n_outputs, true, &r));
  ml_status status = ml_plan_push_selections(e, r.items, r.count, (size_t)n_outputs);
  if (status == ML_OK) status = fold(e, &r, (size_t)n_outputs);
  if (status == ML_OK) status = create(e, inputs, n_inputs, &r, n_outputs, out);
  ml_free(r.items);
  ml_effects_drop(e, 0);
  return status;
}

/* Gives a lazy tensor the storage of `from` and lets its node go. */
static void settle(ml_tensor *t, const ml_tensor *from) {
  ml_node *n = t->node;
  t->buffer = ml_buffer_retain(from->buffer);
  t->offset = from->offset;
  t->layout = from->layout;
  t->state = from->state;
  memcpy(t->strides, from->strides, sizeof t->strides);
  t->node = NULL;
  while (n->n_inputs > 0) ml_tensor_release(n->inputs[--n->n_inputs]);
  ml_free(n->path);
  ml_free(n);
}

ml_status ml_record_begin(ml_engine *e) {
  if (e->recording == 0 && e->n_effects > 0) ML_TRY(ml_eval(e, NULL, 0));
  e->recording++;
  return ML_OK;
}

void ml_record_end(ml_engine *e) { e->recording--; }

static ml_status no_value(void) {
  return ml_fail(ML_USAGE,
                 "a value is read while a plan is recorded, which happens once for each shape and before there "
                 "are values");
}

/* Whether what is recorded has values now: it depends on weights and constants alone. */
static ml_status check_known(ml_engine *e, const roots *r) {
  ml_vgraph g;
  ml_status status = ml_vgraph_build(&g, e, r->items, r->count, r->count);
  bool known = status != ML_OK || g.n_states == 0;
  for (size_t i = 0; status == ML_OK && i < g.n_nodes; i++) known = known && g.nodes[i].op != ML_OP_input;
  ml_vgraph_free(&g);
  return known ? status : no_value();
}

static ml_status evaluate(ml_engine *e, ml_tensor *const *tensors, size_t count, bool effects) {
  size_t most = count + (effects ? e->n_effects : 0);
  ml_tensor **lazy = ml_calloc(most, sizeof *lazy);
  ml_tensor **results = ml_calloc(most, sizeof *results);
  ml_status status = lazy && results ? ML_OK : ML_MEMORY;
  size_t n = 0;
  for (size_t i = 0; i < count && status == ML_OK; i++) {
    bool known = !tensors[i]->node;
    for (size_t k = 0; k < n && !known; k++) known = lazy[k] == tensors[i];
    if (!known) lazy[n++] = ml_tensor_retain(tensors[i]);
  }
  /* Pending effects are results too, so that a handle on one never runs it again. */
  for (size_t i = 0; effects && i < e->n_effects && status == ML_OK; i++) {
    bool known = false;
    for (size_t k = 0; k < n && !known; k++) known = lazy[k] == e->effects[i];
    if (!known) lazy[n++] = ml_tensor_retain(e->effects[i]);
  }
  roots r = {0};
  ml_plan *plan = NULL;
  if (status == ML_OK && n) {
    status = gather_roots(e, lazy, n, false, &r);
    if (status == ML_OK && e->recording) status = check_known(e, &r);
    if (status == ML_OK) status = create(e, NULL, 0, &r, (int)n, &plan);
    if (status == ML_OK) status = ml_plan_run(plan, NULL, results);
    for (size_t i = 0; i < n && status == ML_OK; i++) {
      settle(lazy[i], results[i]);
      ml_tensor_release(results[i]);
    }
    /* All memory is obtained before the first step: effects that lacked it are pending still. */
    if (effects && status != ML_MEMORY && status != ML_LIMIT) ml_effects_drop(e, 0);
  }
  ml_plan_free(plan);
  for (size_t i = 0; i < n; i++) ml_tensor_release(lazy[i]);
  ml_free(r.items);
  ml_free(lazy);
  ml_free(results);
  return status;
}

ml_status ml_eval(ml_engine *e, ml_tensor *const *tensors, size_t count) {
  return evaluate(e, tensors, count, !e->recording);
}

ml_status ml_tensor_read(ml_tensor *t, void *to) {
  if (t->state && t->engine->recording) return no_value();
  ML_TRY(ml_eval(t->engine, &t, 1));
  ml_tensor *dense = NULL;
  if (t->layout == ML_LAYOUT_PANELS)
    return t->device->table->unpack(t->device, ml_tensor_data(t), t->dtype, t->shape[1], 0, t->shape[0], to);
  if (t->layout == ML_LAYOUT_STRIDED && !ml_tensor_is_dense(t)) {
    ml_attrs none = {.n_list = -1};
    ML_TRY(ml_apply(t->engine, ML_OP_copy, &t, 1, &none, &dense));
    ml_status status = ml_eval(t->engine, &dense, 1);
    if (status != ML_OK) {
      ml_tensor_release(dense);
      return status;
    }
    t = dense;
  }
  size_t bytes = ml_tensor_nbytes(t);
  ml_status status = bytes ? t->device->table->download(t->device, to, ml_tensor_data(t), bytes) : ML_OK;
  t->engine->stats.bytes_moved += bytes;
  ml_tensor_release(dense);
  return status;
}
