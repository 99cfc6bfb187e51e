/* plan_graph.c: from tensors to the planner's nodes: collecting, common subexpressions, users. */
#include "tensor/plan_graph.h"

#include <stdlib.h>
#include <string.h>

/* ---- collecting ---- */

static ml_status add_node(ml_vgraph *g, ml_tensor *t) {
  ML_TRY(ML_GROW(g->nodes, g->capacity, g->n_nodes + 1));
  ml_vnode *n = &g->nodes[g->n_nodes++];
  *n = (ml_vnode){.tensor = t,
                  .op = t->node ? t->node->op : ML_OP_COUNT,
                  .state = -1,
                  .value = -1,
                  .output = -1,
                  .group = -1,
                  .unit = -1};
  t->mark = (int)g->n_nodes;
  if (!t->node) return ML_OK;
  n->n_inputs = t->node->n_inputs;
  n->inputs = ml_calloc((size_t)n->n_inputs, sizeof *n->inputs);
  return n->inputs ? ML_OK : ML_MEMORY;
}

typedef struct stack {
  ml_tensor **items;
  size_t count, capacity;
} stack;

static ml_status push(stack *s, ml_tensor *t) {
  if (!t || t->mark) return ML_OK;
  ML_TRY(ML_GROW(s->items, s->capacity, s->count + 1));
  s->items[s->count++] = t;
  return ML_OK;
}

static ml_status collect(ml_vgraph *g, ml_tensor *const *roots, size_t n_roots) {
  stack todo = {0};
  ml_status status = ML_OK;
  for (size_t i = 0; i < n_roots && status == ML_OK; i++) status = push(&todo, roots[i]);
  while (todo.count && status == ML_OK) {
    ml_tensor *t = todo.items[--todo.count];
    if (t->mark) continue;
    status = add_node(g, t);
    for (int i = 0; t->node && i < t->node->n_inputs && status == ML_OK; i++) status = push(&todo, t->node->inputs[i]);
  }
  ml_free(todo.items);
  return status;
}

static uint64_t serial(const ml_vnode *n) { return n->tensor->node ? n->tensor->node->serial : 0; }

static int by_serial(const void *a, const void *b) {
  uint64_t x = serial(a), y = serial(b);
  if (x != y) return x < y ? -1 : 1;
  int mx = ((const ml_vnode *)a)->tensor->mark, my = ((const ml_vnode *)b)->tensor->mark;
  return mx < my ? -1 : mx > my;
}

static void link_inputs(ml_vgraph *g) {
  if (g->n_nodes) qsort(g->nodes, g->n_nodes, sizeof *g->nodes, by_serial);
  for (size_t i = 0; i < g->n_nodes; i++) g->nodes[i].tensor->mark = (int)i + 1;
  for (size_t i = 0; i < g->n_nodes; i++) {
    ml_vnode *n = &g->nodes[i];
    for (int k = 0; k < n->n_inputs; k++) {
      const ml_tensor *t = n->tensor->node->inputs[k];
      n->inputs[k] = t ? t->mark - 1 : -1;
    }
  }
}

/* ---- state ---- */

static ml_status state_index(ml_vgraph *g, ml_buffer *b, int *out) {
  for (size_t i = 0; i < g->n_states; i++) {
    if (g->states[i] == b) {
      *out = (int)i;
      return ML_OK;
    }
  }
  ML_TRY(ML_GROW(g->states, g->states_capacity, g->n_states + 1));
  g->states[g->n_states] = b;
  *out = (int)g->n_states++;
  return ML_OK;
}

/* A tensor of state, its views and the results of effects on it carry the state's index. */
static ml_status find_states(ml_vgraph *g) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    ml_vnode *n = &g->nodes[i];
    if (n->op == ML_OP_COUNT && n->tensor->state) ML_TRY(state_index(g, n->tensor->buffer, &n->state));
    else if (n->op != ML_OP_COUNT &&
             (ml_op_infos[n->op].kind == ML_KIND_VIEW || ml_op_infos[n->op].kind == ML_KIND_EFFECT)) {
      n->state = g->nodes[n->inputs[0]].state;
    }
  }
  return ML_OK;
}

bool ml_vgraph_crosses_effect(const ml_vgraph *g, int v, int to) {
  for (int k = 0; k < g->nodes[v].n_inputs; k++) {
    int input = g->nodes[v].inputs[k];
    if (input < 0 || g->nodes[input].state < 0) continue;
    for (int i = (v < to ? v : to) + 1; i < (v < to ? to : v); i++) {
      const ml_vnode *n = &g->nodes[i];
      if (n->op != ML_OP_COUNT && ml_op_infos[n->op].kind == ML_KIND_EFFECT && n->state == g->nodes[input].state)
        return true;
    }
  }
  return false;
}

/* ---- common subexpressions ---- */

static uint64_t mix(uint64_t h, uint64_t v) {
  h ^= v + 0x9e3779b97f4a7c15u + (h << 6) + (h >> 2);
  return h * 0xff51afd7ed558ccdu;
}

static uint64_t hash_node(const ml_vnode *n) {
  uint64_t h = mix((uint64_t)n->op, n->tensor->dtype);
  for (int k = 0; k < n->n_inputs; k++) h = mix(h, (uint64_t)(int64_t)n->inputs[k]);
  const ml_attrs *a = &n->tensor->node->attrs;
  for (int k = 0; k < ML_MAX_ATTRS; k++) h = mix(h, (uint64_t)a->v[k].i);
  for (int k = 0; k < a->n_list; k++) h = mix(h, (uint64_t)a->list[k]);
  return h;
}

static bool equal_nodes(const ml_vnode *a, const ml_vnode *b) {
  if (a->op != b->op || a->n_inputs != b->n_inputs || a->tensor->dtype != b->tensor->dtype) return false;
  if (memcmp(a->inputs, b->inputs, (size_t)a->n_inputs * sizeof *a->inputs) != 0) return false;
  const ml_attrs *x = &a->tensor->node->attrs, *y = &b->tensor->node->attrs;
  return memcmp(x->v, y->v, sizeof x->v) == 0 && x->n_list == y->n_list &&
         (x->n_list <= 0 || memcmp(x->list, y->list, (size_t)x->n_list * sizeof *x->list) == 0);
}

/* Saves the work of every node that repeats an earlier one, unless an effect between the two changed what it reads.
 * same[v] is the node that stands for v. */
static ml_status merge_equal(ml_vgraph *g) {
  size_t buckets = 16;
  while (buckets < 2 * g->n_nodes) buckets *= 2;
  int *table = ml_calloc(buckets, sizeof *table), *same = ml_calloc(g->n_nodes, sizeof *same);
  if (!table || !same) {
    ml_free(table);
    ml_free(same);
    return ML_MEMORY;
  }
  for (size_t i = 0; i < g->n_nodes; i++) {
    ml_vnode *n = &g->nodes[i];
    same[i] = (int)i;
    for (int k = 0; k < n->n_inputs; k++) n->inputs[k] = n->inputs[k] < 0 ? -1 : same[n->inputs[k]];
    if (n->op == ML_OP_COUNT || n->op == ML_OP_input || ml_op_infos[n->op].kind == ML_KIND_EFFECT) continue;
    size_t slot = hash_node(n) & (buckets - 1);
    while (table[slot]) {
      int other = table[slot] - 1;
      if (equal_nodes(n, &g->nodes[other])) {
        if (ml_vgraph_crosses_effect(g, other, (int)i)) table[slot] = (int)i + 1;
        else same[i] = other;
        break;
      }
      slot = (slot + 1) & (buckets - 1);
    }
    if (!table[slot]) table[slot] = (int)i + 1;
  }
  for (size_t i = 0; i < g->n_nodes; i++) g->nodes[i].tensor->mark = same[i] + 1;
  ml_free(table);
  ml_free(same);
  return ML_OK;
}

/* ---- users ---- */

static void reach(ml_vgraph *g, int v, int *todo) {
  int n = 0;
  if (g->nodes[v].group < 0) todo[n++] = v, g->nodes[v].group = v;
  while (n) {
    const ml_vnode *node = &g->nodes[todo[--n]];
    for (int k = 0; k < node->n_inputs; k++) {
      int i = node->inputs[k];
      if (i >= 0 && g->nodes[i].group < 0) g->nodes[i].group = i, todo[n++] = i;
    }
  }
}

static ml_status list_users(ml_vgraph *g, ml_tensor *const *roots, size_t n_roots, size_t n_outputs) {
  int *todo = ml_calloc(g->n_nodes + 1, sizeof *todo);
  if (!todo) return ML_MEMORY;
  for (size_t i = 0; i < n_roots; i++) {
    if (roots[i]) reach(g, roots[i]->mark - 1, todo);
  }
  ml_free(todo);
  size_t total = 0;
  for (int pass = 0; pass < 2; pass++) {
    if (pass == 1) {
      g->users = ml_calloc(total + 1, sizeof *g->users);
      if (!g->users) return ML_MEMORY;
      int at = 0;
      for (size_t i = 0; i < g->n_nodes; i++) {
        g->nodes[i].first_user = at;
        at += g->nodes[i].n_users;
        g->nodes[i].n_users = 0;
      }
    }
    for (size_t i = 0; i < g->n_nodes + n_outputs; i++) {
      bool output = i >= g->n_nodes;
      const ml_vnode *n = output ? NULL : &g->nodes[i];
      int count = output ? 1 : n->group < 0 ? 0 : n->n_inputs;
      for (int k = 0; k < count; k++) {
        int used = output ? roots[i - g->n_nodes]->mark - 1 : n->inputs[k];
        if (used < 0) continue;
        ml_vnode *u = &g->nodes[used];
        if (pass == 1) g->users[u->first_user + u->n_users] = output ? -1 : (int)i;
        u->n_users++;
        total++;
      }
    }
  }
  return ML_OK;
}

ml_status ml_vgraph_build(ml_vgraph *g, ml_engine *e, ml_tensor *const *roots, size_t n_roots, size_t n_outputs) {
  *g = (ml_vgraph){.engine = e};
  ml_status status = collect(g, roots, n_roots);
  if (status == ML_OK) {
    link_inputs(g);
    status = find_states(g);
  }
  if (status == ML_OK) status = merge_equal(g);
  if (status == ML_OK) status = list_users(g, roots, n_roots, n_outputs);
  return status;
}

void ml_vgraph_free(ml_vgraph *g) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    g->nodes[i].tensor->mark = 0;
    ml_free(g->nodes[i].inputs);
  }
  ml_free(g->nodes);
  ml_free(g->users);
  ml_free(g->states);
  ml_free(g->linears);
}

const ml_node *ml_vnode_constant(const ml_vgraph *g, int v) {
  const ml_vnode *n = &g->nodes[v];
  while (n->op != ML_OP_COUNT && (n->op == ML_OP_reshape || n->op == ML_OP_broadcast_to)) n = &g->nodes[n->inputs[0]];
  return n->op == ML_OP_constant ? n->tensor->node : NULL;
}
