/* plan_fuse.c: which nodes are computed inside another node's step.
 *
 * Products (linear with packed weights): a product and the elementwise work on its result become one unit, which saves
 * the result's trip to memory and a barrier; two products of one input that meet in an elementwise expression (gate and
 * up) become one unit too. Units that share their input share a step, which saves the input's rounding and a barrier
 * each; a norm that only they read is done inside for few rows, which saves another barrier. Elementwise: a producer
 * whose users are all in one expression moves into it, which saves writing and reading it. */
#include "tensor/plan_graph.h"

#include <string.h>

/* Rows up to which every thread repeats the norm rather than wait for it. */
enum { NORM_INSIDE_ROWS = 4 };

static bool is_elementwise(const ml_vnode *n) { return n->op != ML_OP_COUNT && ml_op_is_elementwise((ml_op)n->op); }

static bool same_shape(const ml_tensor *a, const ml_tensor *b) {
  return a->ndim == b->ndim && memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape) == 0;
}

static bool listed(const int *list, int n, int v) {
  for (int i = 0; i < n; i++) {
    if (list[i] == v) return true;
  }
  return false;
}

static bool can_join(const ml_vgraph *g, int v, int root, const int *members, int n) {
  const ml_vnode *p = &g->nodes[v];
  if (!is_elementwise(p) || p->group != v || p->unit >= 0 || !same_shape(p->tensor, g->nodes[root].tensor))
    return false;
  for (int i = 0; i < p->n_users; i++) {
    int user = g->users[p->first_user + i];
    if (user < 0 || !listed(members, n, user)) return false;
  }
  return !ml_vgraph_crosses_effect(g, v, root);
}

/* Inputs that a set of members reads from outside, constants aside. */
static int outside_inputs(const ml_vgraph *g, const int *members, int n, int *inputs, int max) {
  int count = 0;
  for (int i = 0; i < n; i++) {
    const ml_vnode *m = &g->nodes[members[i]];
    for (int k = 0; k < m->n_inputs; k++) {
      int v = m->inputs[k];
      if (listed(members, n, v) || ml_vnode_constant(g, v) || listed(inputs, count, v)) continue;
      if (count == max) return max + 1;
      inputs[count++] = v;
    }
  }
  return count;
}

/* Instructions of a program over a set of members: theirs, and one for each operand that is a constant. */
static int code_size(const ml_vgraph *g, const int *members, int n) {
  int size = n;
  for (int i = 0; i < n; i++) {
    const ml_vnode *m = &g->nodes[members[i]];
    for (int k = 0; k < m->n_inputs; k++) size += ml_vnode_constant(g, m->inputs[k]) != NULL;
  }
  return size;
}

int ml_vgraph_gather(const ml_vgraph *g, int root, int *members, int max) {
  int n = 0, inputs[ML_FUSED_MAX_INPUTS + 1];
  members[n++] = root;
  for (bool grown = true; grown;) {
    grown = false;
    for (int i = 0; i < n && !grown; i++) {
      const ml_vnode *m = &g->nodes[members[i]];
      for (int k = 0; k < m->n_inputs && n < max; k++) {
        int v = m->inputs[k];
        if (listed(members, n, v) || !can_join(g, v, root, members, n)) continue;
        members[n] = v;
        if (outside_inputs(g, members, n + 1, inputs, ML_FUSED_MAX_INPUTS) > ML_FUSED_MAX_INPUTS) continue;
        if (code_size(g, members, n + 1) > ML_FUSED_MAX_CODE) continue;
        n++;
        grown = true;
        break;
      }
    }
  }
  for (int i = 1; i < n; i++) { /* ascending, so that operands come before their users */
    int v = members[i], j = i;
    for (; j > 0 && members[j - 1] > v; j--) members[j] = members[j - 1];
    members[j] = v;
  }
  return n;
}

/* ---- products ---- */

static bool is_product(const ml_vgraph *g, int v) {
  const ml_vnode *n = &g->nodes[v];
  return n->op == ML_OP_linear && n->group == v && g->nodes[n->inputs[1]].tensor->layout == ML_LAYOUT_PANELS &&
         n->tensor->dtype == ML_F32;
}

/* Members and outside inputs of an elementwise expression over products. */
enum { MAX_MEMBERS = ML_FUSED_MAX_CODE / 2 };

/* The last node of the chain of single elementwise users that begins at a product, and to which it can move. */
static int chain_end(const ml_vgraph *g, int v) {
  int first = v;
  for (;;) {
    const ml_vnode *n = &g->nodes[v];
    if (n->n_users != 1 || n->output >= 0) return v;
    int user = g->users[n->first_user];
    if (user < 0 || !is_elementwise(&g->nodes[user]) || g->nodes[user].tensor->dtype != ML_F32) return v;
    if (g->nodes[user].group != user || g->nodes[user].unit >= 0 ||
        !same_shape(g->nodes[user].tensor, g->nodes[first].tensor))
      return v;
    if (ml_vgraph_crosses_effect(g, first, user)) return v;
    v = user;
  }
}

/* Products among the inputs of root's expression that unit `first` may take: same input, same weight shape, no other
 * user. */
static void fill_unit(ml_vgraph *g, int first, ml_vunit *u) {
  int root = chain_end(g, first), members[MAX_MEMBERS], inputs[ML_FUSED_MAX_INPUTS + 1];
  *u = (ml_vunit){.root = first, .n_products = 1, .products = {first}};
  if (root == first) return;
  int n = ml_vgraph_gather(g, root, members, MAX_MEMBERS);
  int n_inputs = outside_inputs(g, members, n, inputs, ML_FUSED_MAX_INPUTS);
  if (!listed(inputs, n_inputs, first) || n_inputs + 1 > ML_FUSED_MAX_INPUTS) return;
  const ml_vnode *p = &g->nodes[first];
  for (int i = 0; i < n_inputs; i++) {
    const ml_vnode *o = &g->nodes[inputs[i]];
    if (inputs[i] == first || !is_product(g, inputs[i]) || o->unit >= 0 || o->n_users != 1) continue;
    if (o->inputs[0] == p->inputs[0] && same_shape(o->tensor, p->tensor) &&
        g->nodes[o->inputs[1]].tensor->dtype == g->nodes[p->inputs[1]].tensor->dtype) {
      if (u->n_products < ML_UNIT_MAX_WEIGHTS && !ml_vgraph_crosses_effect(g, inputs[i], root))
        u->products[u->n_products++] = inputs[i];
    } else if (inputs[i] > first) {
      u->n_products = 1;
      return; /* that product comes later: the expression is its epilogue */
    }
  }
  u->root = root;
  for (int i = 0; i < n; i++) g->nodes[members[i]].group = root;
}

static int64_t rows_of(const ml_tensor *x) {
  return x->shape[x->ndim - 1] ? ml_tensor_size(x) / x->shape[x->ndim - 1] : 0;
}

/* The turn at which a node's value is there. */
static int made_at(const ml_vgraph *g, int v) { return g->nodes[v].unit >= 0 ? g->linears[g->nodes[v].unit].at : v; }

/* Whether a node of a unit can be computed at another turn: what it reads from outside the unit is there (`inside` is
 * what it reads from within), and no effect comes between. */
static bool can_move(const ml_vgraph *g, int v, int at, const ml_vunit *inside) {
  const ml_vnode *m = &g->nodes[v];
  for (int k = 0; k < m->n_inputs; k++) {
    int i = m->inputs[k];
    if (g->nodes[i].group == inside->root || listed(inside->products, inside->n_products, i) || ml_vnode_constant(g, i))
      continue;
    if (made_at(g, i) >= at || (is_product(g, i) && g->nodes[i].unit < 0))
      return false; /* such a product has no turn yet */
  }
  return !ml_vgraph_crosses_effect(g, v, at);
}

/* A step that takes the unit: same input, nobody needs the result before the step runs, and everything that the unit
 * reads is there by then. */
static bool unit_fits(const ml_vgraph *g, const ml_vlinears *l, const ml_vunit *u) {
  if (l->n_units == ML_LINEARS_MAX_UNITS || l->x != g->nodes[u->products[0]].inputs[0]) return false;
  const ml_vnode *root = &g->nodes[u->root];
  for (int i = 0; i < root->n_users; i++) {
    int user = g->users[root->first_user + i];
    if (user >= 0 && user <= l->at) return false;
  }
  for (int i = 0; i < u->n_products; i++) {
    if (!can_move(g, u->products[i], l->at, u)) return false;
  }
  for (size_t v = 0; v < g->n_nodes && u->root != u->products[0]; v++) {
    if (g->nodes[v].group == u->root && is_elementwise(&g->nodes[v]) && !can_move(g, (int)v, l->at, u)) return false;
  }
  return true;
}

static ml_status add_unit(ml_vgraph *g, const ml_vunit *u) {
  size_t index = 0;
  while (index < g->n_linears && !unit_fits(g, &g->linears[index], u)) index++;
  if (index == g->n_linears) {
    ML_TRY(ML_GROW(g->linears, g->linears_capacity, g->n_linears + 1));
    g->linears[g->n_linears++] = (ml_vlinears){.at = u->root, .x = g->nodes[u->products[0]].inputs[0], .norm = -1};
  }
  ml_vlinears *l = &g->linears[index];
  l->units[l->n_units++] = *u;
  for (int i = 0; i < u->n_products; i++) {
    g->nodes[u->products[i]].unit = (int)index;
    g->nodes[u->products[i]].group = u->root;
  }
  g->nodes[u->root].unit = (int)index;
  g->nodes[u->root].group = u->root;
  return ML_OK;
}

static void absorb_norm(ml_vgraph *g, ml_vlinears *l) {
  const ml_vnode *x = &g->nodes[l->x];
  if (x->op != ML_OP_rms_norm || x->tensor->dtype != ML_F32 || rows_of(x->tensor) > NORM_INSIDE_ROWS) return;
  if (x->inputs[1] >= 0 && g->nodes[x->inputs[1]].tensor->dtype != ML_F32) return;
  if (ml_vgraph_crosses_effect(g, l->x, l->at)) return;
  for (int i = 0; i < x->n_users; i++) {
    int user = g->users[x->first_user + i];
    if (user < 0 || g->nodes[user].op != ML_OP_linear || g->nodes[user].unit != (int)(l - g->linears)) return;
  }
  l->norm = l->x;
  g->nodes[l->norm].group = l->at;
  l->x = x->inputs[0];
}

ml_status ml_vgraph_fuse(ml_vgraph *g) {
  for (size_t v = 0; v < g->n_nodes; v++) {
    if (!is_product(g, (int)v) || g->nodes[v].unit >= 0) continue;
    ml_vunit u;
    fill_unit(g, (int)v, &u);
    ML_TRY(add_unit(g, &u));
  }
  for (size_t i = 0; i < g->n_linears; i++) absorb_norm(g, &g->linears[i]);
  for (size_t i = g->n_nodes; i-- > 0;) {
    if (!is_elementwise(&g->nodes[i]) || g->nodes[i].group != (int)i || g->nodes[i].unit >= 0) continue;
    int members[MAX_MEMBERS], n = ml_vgraph_gather(g, (int)i, members, MAX_MEMBERS);
    for (int k = 0; k < n; k++) g->nodes[members[k]].group = (int)i;
  }
  return ML_OK;
}
