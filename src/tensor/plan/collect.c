/* collect.c: from tensors to the planner's nodes.
 *
 * Saves the work of nodes that nobody needs, and of those that repeat an earlier one. */
#include "tensor/plan/graph.h"
#include "tensor/state.h"

#include <stdlib.h>
#include <string.h>

/* ---- collecting ---- */

typedef struct item {
  uint64_t serial;
  ml_tensor *tensor;
} item;

typedef struct items {
  ml_bump *memory;
  item *list;
  size_t count, capacity;
  ml_tensor **stack;
  size_t depth, stack_capacity;
} items;

static ml_status push(items *s, ml_tensor *t) {
  if (!t || t->mark) return ML_OK;
  if (t->fate != ML_FATE_NONE) return ml_tensor_fate_error(t);
  ML_TRY(ML_BUMP_GROW(s->memory, s->stack, s->stack_capacity, s->depth + 1));
  ML_TRY(ML_BUMP_GROW(s->memory, s->list, s->capacity, s->count + 1));
  t->mark = 1;
  s->stack[s->depth++] = t;
  s->list[s->count++] = (item){t->node ? t->node->serial : 0, t};
  return ML_OK;
}

/* With those that the roots need, of a plan that runs once: the other results of an operation that somebody holds. */
static ml_status walk(items *s, const ml_roots *r) {
  for (size_t i = 0; i < r->n_outputs + r->n_effects; i++) {
    ML_TRY(push(s, i < r->n_outputs ? r->outputs[i] : r->effects[i - r->n_outputs]));
  }
  while (s->depth) {
    const ml_node *n = s->stack[--s->depth]->node;
    for (int k = 0; n && k < n->n_inputs; k++) ML_TRY(push(s, n->inputs[k]));
    int n_results = n && n->results && r->once ? ml_op_infos[n->op].n_results : 0;
    for (int k = 0; k < n_results; k++) ML_TRY(push(s, n->results[k]));
  }
  return ML_OK;
}

/* In the order in which they were written; leaves, of serial 0, as they were found. */
static int by_serial(const void *a, const void *b) {
  const item *x = a, *y = b;
  if (x->serial != y->serial) return x->serial < y->serial ? -1 : 1;
  return x->tensor->mark < y->tensor->mark ? -1 : x->tensor->mark > y->tensor->mark;
}

/* Serials are dense among the nodes of one piece of work: each then has a place of its own. */
static bool sort_dense(const items *s) {
  uint64_t least = UINT64_MAX, most = 0;
  size_t leaves = 0;
  for (size_t i = 0; i < s->count; i++) {
    uint64_t serial = s->list[i].serial;
    leaves += serial == 0;
    if (serial && serial < least) least = serial;
    if (serial > most) most = serial;
  }
  if (most < least || most - least >= 4 * s->count) return false;
  size_t n = leaves + (size_t)(most - least) + 1, at = 0, end = 0;
  item *places = ml_bump_alloc(s->memory, n, sizeof *places);
  if (!places) return false;
  for (size_t i = 0; i < s->count; i++) {
    const item *x = &s->list[i];
    places[x->serial ? leaves + (size_t)(x->serial - least) : at++] = *x;
  }
  for (size_t i = 0; i < n; i++) {
    if (places[i].tensor) s->list[end++] = places[i];
  }
  return true;
}

static ml_status make_nodes(ml_vgraph *g, const items *s) {
  size_t edges = 0;
  for (size_t i = 0; i < s->count; i++) {
    s->list[i].tensor->mark = (int)i + 1;
    if (s->list[i].tensor->node) edges += (size_t)s->list[i].tensor->node->n_inputs;
  }
  for (size_t i = 1, sorted = 1; i < s->count && sorted; i++) {
    if (s->list[i].serial >= s->list[i - 1].serial) continue;
    sorted = 0;
    if (!sort_dense(s)) qsort(s->list, s->count, sizeof *s->list, by_serial);
  }
  ML_TRY(ML_BUMP_GROW(&g->memory, g->nodes, g->capacity, s->count));
  int *inputs = ml_bump_alloc(&g->memory, edges, sizeof *inputs);
  if (!inputs) return ML_MEMORY;
  g->n_nodes = s->count;
  for (size_t i = 0; i < s->count; i++) {
    ml_tensor *t = s->list[i].tensor;
    const ml_node *n = t->node;
    t->mark = (int)i + 1;
    g->nodes[i] = (ml_vnode){.op = n ? n->op : ML_OP_COUNT,
                             .tensor = t,
                             .attrs = n ? &n->attrs : NULL,
                             .path = n ? n->path : NULL,
                             .region = n ? n->region : 0,
                             .dtype = t->dtype,
                             .layout = t->layout,
                             .ndim = t->ndim,
                             .shape = t->shape,
                             .n_inputs = n ? n->n_inputs : 0,
                             .inputs = inputs,
                             .twin = -1,
                             .output = -1};
    for (int k = 0; n && k < n->n_inputs; k++) *inputs++ = n->inputs[k] ? n->inputs[k]->mark - 1 : -1;
  }
  return ML_OK;
}

static ml_status find_roots(ml_vgraph *g, const ml_roots *r) {
  g->n_outputs = r->n_outputs;
  g->n_roots = r->n_outputs + r->n_effects;
  g->roots = ml_bump_alloc(&g->memory, g->n_roots, sizeof *g->roots);
  if (!g->roots) return ML_MEMORY;
  for (size_t i = 0; i < g->n_roots; i++) {
    g->roots[i] = (i < r->n_outputs ? r->outputs[i] : r->effects[i - r->n_outputs])->mark - 1;
    if (i < r->n_outputs) g->nodes[g->roots[i]].output = (int)i;
  }
  return ML_OK;
}

/* ---- equal nodes ---- */

static uint64_t mix(uint64_t h, uint64_t v) {
  h ^= v + 0x9e3779b97f4a7c15u + (h << 6) + (h >> 2);
  return h * 0xff51afd7ed558ccdu;
}

static uint64_t hash_node(const ml_vnode *n) {
  uint64_t h = mix((uint64_t)n->op, (uint64_t)n->region << 8 | n->dtype);
  for (int k = 0; k < n->n_inputs; k++) h = mix(h, (uint64_t)(int64_t)n->inputs[k]);
  for (int k = 0; k < ML_MAX_ATTRS; k++) h = mix(h, (uint64_t)n->attrs->v[k].i);
  for (int k = 0; k < n->attrs->n_list; k++) h = mix(h, (uint64_t)n->attrs->list[k]);
  return h ^ h >> 32;
}

static bool equal_nodes(const ml_vnode *a, const ml_vnode *b) {
  if (a->op != b->op || a->n_inputs != b->n_inputs || a->dtype != b->dtype || a->region != b->region) return false;
  if (memcmp(a->inputs, b->inputs, (size_t)a->n_inputs * sizeof *a->inputs) != 0) return false;
  const ml_attrs *x = a->attrs, *y = b->attrs;
  return memcmp(x->v, y->v, sizeof x->v) == 0 && x->n_list == y->n_list &&
         memcmp(x->list, y->list, (size_t)x->n_list * sizeof *x->list) == 0;
}

/* Node n repeats an earlier one: whoever holds the tensor of either gets the value. */
static ml_status merge(ml_vgraph *g, const ml_vnode *n, int into) {
  ml_vnode *first = &g->nodes[into];
  ml_tensor *twin = NULL;
  if (n->keep && (first->keep || first->output >= 0)) twin = n->tensor;
  else if (n->keep) first->keep = true, first->tensor = n->tensor;
  if (n->output >= 0 && first->keep) first->keep = false, twin = first->tensor;
  if (n->output >= 0) first->output = n->output;
  ML_REWROTE(g, merged);
  bool computed = !ml_vnode_is_view(n) && n->op != ML_OP_constant && n->op != ML_OP_result;
  if (computed) ml_vgraph_save(g, ML_PASS_collect, 1, ml_vnode_bytes(n));
  if (!twin) return ML_OK;
  ML_REWROTE(g, twins);
  ML_TRY(ML_BUMP_GROW(&g->memory, g->twins, g->twins_capacity, g->n_twins + 1));
  g->twins[g->n_twins] = (ml_vtwin){twin, first->twin};
  first->twin = (int)g->n_twins++;
  return ML_OK;
}

/* Users of a node that repeats an earlier one use that. */
static ml_status merge_equal(ml_vgraph *g) {
  size_t buckets = 16;
  while (buckets < 2 * g->n_nodes) buckets *= 2;
  int *table = ml_bump_alloc(&g->memory, buckets, sizeof *table),
      *same = ml_bump_alloc(&g->memory, g->n_nodes, sizeof *same);
  if (!table || !same) return ML_MEMORY;
  for (size_t i = 0; i < g->n_nodes; i++) {
    ml_vnode *n = &g->nodes[i];
    same[i] = (int)i;
    for (int k = 0; k < n->n_inputs; k++) n->inputs[k] = n->inputs[k] < 0 ? -1 : same[n->inputs[k]];
    if (ml_vnode_is_leaf(n) || n->op == ML_OP_input || ml_vnode_is_effect(n)) continue;
    size_t slot = hash_node(n) & (buckets - 1);
    while (table[slot] && !equal_nodes(n, &g->nodes[table[slot] - 1])) slot = (slot + 1) & (buckets - 1);
    if (table[slot]) {
      same[i] = table[slot] - 1;
      ML_TRY(merge(g, n, same[i]));
    } else table[slot] = (int)i + 1;
  }
  for (size_t i = 0; i < g->n_roots; i++) g->roots[i] = same[g->roots[i]];
  return ML_OK;
}

/* ---- versions and constants ---- */

void ml_vgraph_find_versions(ml_vgraph *g) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    ml_vnode *n = &g->nodes[i];
    n->version = n->writer = n->next_view = n->constant = -1;
    if (n->op == ML_OP_constant) n->constant = (int)i;
    if (n->op == ML_OP_reshape || n->op == ML_OP_broadcast_to) n->constant = g->nodes[n->inputs[0]].constant;
    if (ml_vnode_is_leaf(n)) n->version = ml_tensor_is_attached(n->tensor) ? (int)i : -1;
    else if (ml_vnode_is_effect(n)) {
      n->version = (int)i;
      g->nodes[g->nodes[n->inputs[0]].version].writer = (int)i;
    } else if (ml_vnode_is_view(n) && g->nodes[n->inputs[0]].version >= 0) {
      n->version = g->nodes[n->inputs[0]].version;
      n->next_view = g->nodes[n->version].next_view;
      g->nodes[n->version].next_view = (int)i;
    }
  }
}

bool ml_vgraph_is_late(const ml_vgraph *g, int v, int to, const int *own, int n_own) {
  for (int k = 0; k < g->nodes[v].n_inputs; k++) {
    int input = g->nodes[v].inputs[k], version = input < 0 ? -1 : g->nodes[input].version;
    int writer = version < 0 ? -1 : g->nodes[version].writer;
    if (v < writer && writer < to && !ml_listed(own, n_own, writer)) return true;
  }
  return false;
}

/* ---- several results ---- */

/* Of each live operation with several: those that are read, and those that somebody holds. */
static ml_status find_results(ml_vgraph *g) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    ml_vnode *n = &g->nodes[i];
    n->results = NULL;
    if (n->group >= 0 && ml_vnode_has_results(n)) {
      n->results = ml_bump_alloc(&g->memory, ML_MAX_RESULTS, sizeof *n->results);
      if (!n->results) return ML_MEMORY;
      for (int k = 0; k < ML_MAX_RESULTS; k++) n->results[k] = -1;
    } else if (n->op == ML_OP_result && g->nodes[n->inputs[0]].results) {
      int *result = &g->nodes[n->inputs[0]].results[n->attrs->result.index];
      if (n->group >= 0 || (n->keep && *result < 0)) *result = (int)i;
    }
  }
  return ML_OK;
}

/* ---- users ---- */

static void find_dead(ml_vgraph *g) {
  for (size_t i = 0; i < g->n_nodes; i++) g->nodes[i].group = -1;
  for (size_t i = 0; i < g->n_roots; i++) g->nodes[g->roots[i]].group = g->roots[i];
  for (size_t i = g->n_nodes; i-- > 0;) {
    const ml_vnode *n = &g->nodes[i];
    if (n->group < 0) continue;
    for (int k = 0; k < n->n_inputs; k++) {
      if (n->inputs[k] >= 0) g->nodes[n->inputs[k]].group = n->inputs[k];
    }
  }
}

ml_status ml_vgraph_link(ml_vgraph *g) {
  ml_vgraph_find_versions(g);
  find_dead(g);
  ML_TRY(find_results(g));
  int total = 0;
  for (size_t i = 0; i < g->n_nodes; i++) {
    ml_vnode *n = &g->nodes[i];
    n->n_users = 0;
    n->output = n->value = n->dense = n->unit = n->linears = -1;
  }
  for (size_t i = 0; i < g->n_outputs; i++) {
    ml_vnode *n = &g->nodes[g->roots[i]];
    n->n_users++;
    total++;
    if (n->output < 0) n->output = (int)i;
  }
  for (size_t i = 0; i < g->n_nodes; i++) {
    const ml_vnode *n = &g->nodes[i];
    for (int k = 0; k < n->n_inputs && n->group >= 0; k++) {
      if (n->inputs[k] >= 0) g->nodes[n->inputs[k]].n_users++, total++;
    }
  }
  g->users = ml_bump_alloc(&g->memory, (size_t)total, sizeof *g->users);
  if (!g->users) return ML_MEMORY;
  int at = 0;
  for (size_t i = 0; i < g->n_nodes; i++) {
    g->nodes[i].first_user = at;
    at += g->nodes[i].n_users;
    g->nodes[i].n_users = 0;
  }
  for (size_t i = 0; i < g->n_nodes; i++) {
    const ml_vnode *n = &g->nodes[i];
    for (int k = 0; k < n->n_inputs && n->group >= 0; k++) {
      if (n->inputs[k] < 0) continue;
      ml_vnode *u = &g->nodes[n->inputs[k]];
      g->users[u->first_user + u->n_users++] = (int)i;
    }
  }
  for (size_t i = 0; i < g->n_outputs; i++) {
    ml_vnode *u = &g->nodes[g->roots[i]];
    g->users[u->first_user + u->n_users++] = -1;
  }
  return ML_OK;
}

/* ---- the graph ---- */

/* Operations see to it that theirs are of one device; what is asked for together is looked at here. */
static ml_status check_devices(const ml_vgraph *g) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    const ml_tensor *t = g->nodes[i].tensor;
    if (t->device != g->device && g->nodes[i].op != ML_OP_constant)
      return ml_fail(ML_MISMATCH, "a plan is of one device: found tensors on %s and on %s", g->device->name,
                     t->device->name);
  }
  return ML_OK;
}

ml_status ml_vgraph_collect(ml_vgraph *g, ml_device *d, const ml_roots *r) {
  g->engine = d->engine;
  g->device = d;
  items s = {.memory = &g->memory};
  ml_status status = walk(&s, r);
  if (status == ML_OK) status = make_nodes(g, &s);
  if (status == ML_OK && g->engine->n_devices > 1) status = check_devices(g);
  if (status == ML_OK) status = find_roots(g, r);
  if (status == ML_OK && r->once) {
    ml_vgraph_find_versions(g);
    status = ml_vgraph_keep(g, r);
  }
  for (size_t i = 0; i < s.count; i++) s.list[i].tensor->mark = 0;
  return status == ML_OK ? merge_equal(g) : status;
}
