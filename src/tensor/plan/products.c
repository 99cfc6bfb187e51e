/* products.c: products of packed weights (linear), and what is computed in their steps.
 *
 * A product and the elementwise work on its result become one unit, which saves the result's trip to memory and a
 * barrier; two products of one input that meet in an elementwise expression (gate and up) become one unit too. Units
 * that share their input share a step, which saves the input's rounding and a barrier each; a norm that only they read
 * is done inside for few rows, which saves another barrier. */
#include "tensor/plan/graph.h"

/* Rows up to which every thread repeats the norm rather than wait for it. */
enum { NORM_INSIDE_ROWS = 4 };

static bool is_product(const ml_vgraph *g, int v) {
  const ml_vnode *n = &g->nodes[v];
  return n->op == ML_OP_linear && n->group == v && g->nodes[n->inputs[1]].layout == ML_LAYOUT_PANELS &&
         ml_dtype_class_of(n->dtype) == ML_CLASS_FLOAT;
}

/* The first user of node v, assignments of it aside, if it is elementwise, else -1. *assigned: such an assignment
 * before that, or -1. */
static int find_next(const ml_vgraph *g, int v, int *assigned) {
  const ml_vnode *n = &g->nodes[v];
  *assigned = -1;
  for (int i = 0; i < n->n_users; i++) {
    int user = g->users[n->first_user + i];
    if (user < 0) return -1;
    if (!ml_vnode_is_whole(g, &g->nodes[user]) || g->nodes[user].inputs[1] != v)
      return ml_vnode_is_elementwise(&g->nodes[user]) ? user : -1;
    *assigned = user;
  }
  return -1;
}

/* Whether product `first` can be computed at the turn of v, which goes on with it. */
static bool can_follow(const ml_vgraph *g, int first, int v) {
  if (v < 0) return false;
  const ml_vnode *n = &g->nodes[v];
  return n->group == v && n->unit < 0 && ml_vnode_same_shape(n, &g->nodes[first]) &&
         !ml_vgraph_is_late(g, first, v, NULL, 0);
}

/* The chain that begins at a product, as far as the product can move; an assignment may end it. Writes it to `chain`,
 * of ML_GROUP_MEMBERS, and returns its length. */
static int find_chain(const ml_vgraph *g, int first, int *chain) {
  int n = 0, assigned = -1, v = find_next(g, first, &assigned);
  while (n < ML_GROUP_MEMBERS && can_follow(g, first, v)) {
    chain[n++] = v;
    v = find_next(g, v, &assigned);
  }
  if (n < ML_GROUP_MEMBERS && can_follow(g, first, assigned)) chain[n++] = assigned;
  return n;
}

/* Whether all that reads product v is in the group at `root` or comes later; *stored: some does, or somebody holds it.
 */
static bool fits(const ml_vgraph *g, int v, int root, const ml_vgroup *group, bool *stored) {
  const ml_vnode *n = &g->nodes[v];
  *stored = n->keep;
  for (int i = 0; i < n->n_users; i++) {
    int user = g->users[n->first_user + i];
    if (user >= 0 && ml_vgroup_has(group, user)) continue;
    if (user >= 0 && ml_vgraph_turn(g, user) <= root) return false;
    *stored = true;
  }
  return !ml_vgraph_is_late(g, v, root, NULL, 0);
}

/* Whether somebody holds a member, other than one element for all. */
static bool is_held(const ml_vgraph *g, const ml_vnode *n, const ml_vgroup *group) {
  return n->keep && ml_vnode_same_shape(n, &g->nodes[group->members[group->n_members - 1]]);
}

/* Members that somebody holds are outputs as well: they would be computed again with the product. Their number, of
 * those that are none yet. */
static int count_held(const ml_vgraph *g, const ml_vgroup *group) {
  int held = 0;
  for (int i = 0; i < group->n_members; i++) {
    const ml_vnode *n = &g->nodes[group->members[i]];
    bool stored = i == group->n_members - 1 && group->n_effects == 0;
    for (int k = 0; k < n->n_users && !stored; k++) {
      int user = g->users[n->first_user + k];
      stored = user < 0 || !ml_vgroup_has(group, user);
    }
    held += is_held(g, n, group) && !stored;
  }
  return held;
}

/* Products among the inputs of root's expression that unit `first` may take: same input, same weight shape. */
static ml_status fill_unit_to(ml_vgraph *g, int first, int root, ml_vunit *u) {
  int members[ML_GROUP_MEMBERS], effects[ML_FUSED_MAX_OUTPUTS], inputs[ML_FUSED_MAX_INPUTS + 1], n_outputs;
  ml_vgroup group = {.members = members, .effects = effects, .like = -1, .anchor = -1, .sink = -1};
  int n_inputs = 1;
  if (ml_vnode_is_effect(&g->nodes[root]) && g->nodes[root].inputs[1] == first) { /* the product itself */
    effects[group.n_effects++] = root;
    inputs[0] = first;
    n_outputs = 1;
  } else {
    if (!ml_vgraph_gather(g, root, &group, &n_outputs)) return ML_OK;
    n_inputs = ml_vgraph_outside(g, members, group.n_members, inputs, 0, ML_FUSED_MAX_INPUTS);
  }
  if (!ml_listed(inputs, n_inputs, first) || n_inputs + 1 > ML_FUSED_MAX_INPUTS) return ML_OK;
  const ml_vnode *p = &g->nodes[first];
  bool stored;
  if (!fits(g, first, root, &group, &stored)) return ML_OK;
  n_outputs += stored + count_held(g, &group);
  for (int i = 0; i < n_inputs; i++) {
    const ml_vnode *o = &g->nodes[inputs[i]];
    if (inputs[i] == first || !is_product(g, inputs[i]) || o->unit >= 0) continue;
    if (o->inputs[0] == p->inputs[0] && ml_vnode_same_shape(o, p) &&
        g->nodes[o->inputs[1]].dtype == g->nodes[p->inputs[1]].dtype) {
      if (u->n_products == ML_UNIT_MAX_WEIGHTS || !fits(g, inputs[i], root, &group, &stored)) continue;
      u->products[u->n_products++] = inputs[i];
      n_outputs += stored;
    } else if (inputs[i] > first) {
      u->n_products = 1;
      return ML_OK; /* that product comes later: the expression is its epilogue */
    }
  }
  if (n_outputs > ML_FUSED_MAX_OUTPUTS) {
    u->n_products = 1;
    return ML_OK;
  }
  for (int i = 0; i < group.n_members; i++) g->nodes[members[i]].stays = is_held(g, &g->nodes[members[i]], &group);
  for (int i = 0; i < u->n_products; i++) g->nodes[u->products[i]].stays = g->nodes[u->products[i]].keep;
  u->root = root;
  return ml_vgraph_make_group(g, root, &group);
}

/* The longest part of the product's chain, halved as often as need be, that one program holds. */
static ml_status fill_unit(ml_vgraph *g, int first, ml_vunit *u) {
  int chain[ML_GROUP_MEMBERS], n = find_chain(g, first, chain);
  *u = (ml_vunit){.root = first, .n_products = 1, .products = {first}};
  for (; n > 0 && u->root == first; n /= 2) ML_TRY(fill_unit_to(g, first, chain[n - 1], u));
  return ML_OK;
}

/* Whether a node of a unit can be computed at another turn: what it reads from outside the unit is there (`inside` is
 * what it reads from within), and no effect comes between. */
static bool can_move(const ml_vgraph *g, int v, int at, const ml_vunit *inside) {
  const ml_vnode *m = &g->nodes[v];
  for (int k = 0; k < m->n_inputs; k++) {
    int i = m->inputs[k];
    if (g->nodes[i].group == inside->root || ml_listed(inside->products, inside->n_products, i) ||
        g->nodes[i].constant >= 0)
      continue;
    if (ml_vgraph_turn(g, i) >= at || (is_product(g, i) && g->nodes[i].unit < 0))
      return false; /* such a product has no turn yet */
  }
  return !ml_vgraph_is_late(g, v, at, NULL, 0);
}

/* What is computed behind a unit's products, or NULL. */
static const ml_vgroup *behind_of(const ml_vgraph *g, const ml_vunit *u) {
  return u->root == u->products[0] ? NULL : g->nodes[u->root].program;
}

/* Whether all that reads node v of a unit is in the unit or comes after another turn. */
static bool is_read_after(const ml_vgraph *g, int v, int at, const ml_vunit *u) {
  for (int i = 0; i < g->nodes[v].n_users; i++) {
    int user = g->users[g->nodes[v].first_user + i];
    if (user >= 0 && g->nodes[user].group != u->root && ml_vgraph_turn(g, user) <= at) return false;
  }
  return true;
}

/* A step that takes the unit: same input, nobody needs the result before the step runs, and everything that the unit
 * reads is there by then. */
static bool unit_fits(const ml_vgraph *g, const ml_vlinears *l, const ml_vunit *u) {
  if (l->n_units == ML_LINEARS_MAX_UNITS || l->x != g->nodes[u->products[0]].inputs[0]) return false;
  const ml_vgroup *behind = behind_of(g, u);
  if (behind && behind->n_effects) return false; /* which have their time */
  for (int i = 0; i < u->n_products; i++) {
    if (!can_move(g, u->products[i], l->at, u) || !is_read_after(g, u->products[i], l->at, u)) return false;
  }
  for (int i = 0; behind && i < behind->n_members; i++) {
    if (!can_move(g, behind->members[i], l->at, u) || !is_read_after(g, behind->members[i], l->at, u)) return false;
  }
  return true;
}

static void save(ml_vgraph *g, ml_vlinears *l, size_t steps, size_t bytes) {
  ml_save(&l->saved, steps, bytes);
  ml_vgraph_save(g, ML_PASS_products, steps, bytes);
}

/* Products, and what is computed of them on the way. */
static void count_saved(ml_vgraph *g, ml_vlinears *l, const ml_vunit *u) {
  const ml_vgroup *behind = behind_of(g, u);
  size_t n = (size_t)u->n_products, bytes = ml_vgraph_inner_bytes(g, u->products, u->n_products, u->root);
  if (behind) {
    n += (size_t)(behind->n_members + behind->n_effects);
    bytes += ml_vgraph_inner_bytes(g, behind->members, behind->n_members, u->root);
  }
  save(g, l, n - (l->n_units == 1), bytes);
}

/* Steps that are looked at for a unit, of those that share its input. */
enum { MAX_OPEN = 8 };

/* `open`: of a node the last step made that has it as its input, and `before`, of a step the one made before that. */
static ml_status add_unit(ml_vgraph *g, const ml_vunit *u, int *open, int **before, size_t *capacity) {
  int x = g->nodes[u->products[0]].inputs[0], index = open[x] - 1, fits = -1;
  for (int looked = 0; index >= 0 && looked < MAX_OPEN; looked++, index = (*before)[index] - 1) {
    if (unit_fits(g, &g->linears[index], u)) fits = index; /* the first one, if several do */
  }
  index = fits;
  if (index < 0) {
    ML_TRY(ML_BUMP_GROW(&g->memory, g->linears, g->linears_capacity, g->n_linears + 1));
    ML_TRY(ML_BUMP_GROW(&g->memory, *before, *capacity, g->n_linears + 1));
    index = (int)g->n_linears++;
    g->linears[index] = (ml_vlinears){.at = u->root, .x = x, .norm = -1};
    g->nodes[u->root].linears = index;
    (*before)[index] = open[x];
    open[x] = index + 1;
  }
  ml_vlinears *l = &g->linears[index];
  l->units[l->n_units++] = *u;
  if (l->n_units > 1) ML_REWROTE(g, shared);
  else ML_REWROTE(g, linears);
  if (u->n_products > 1) ML_REWROTE(g, pairs);
  if (u->root != u->products[0]) ML_REWROTE(g, epilogues);
  for (int i = 0; i < u->n_products; i++) {
    g->nodes[u->products[i]].unit = index;
    g->nodes[u->products[i]].group = u->root;
  }
  g->nodes[u->root].unit = index;
  g->nodes[u->root].group = u->root;
  count_saved(g, l, u);
  return ML_OK;
}

static void absorb_norm(ml_vgraph *g, ml_vlinears *l) {
  const ml_vnode *x = &g->nodes[l->x];
  if (x->op != ML_OP_rms_norm || ml_vnode_rows(x) > NORM_INSIDE_ROWS) return;
  if (x->inputs[1] >= 0 && g->nodes[x->inputs[1]].dtype != ML_F32) return;
  if (ml_vgraph_is_late(g, l->x, l->at, NULL, 0)) return;
  for (int i = 0; i < x->n_users; i++) {
    int user = g->users[x->first_user + i];
    if (user < 0 || g->nodes[user].op != ML_OP_linear || g->nodes[user].unit != (int)(l - g->linears)) return;
  }
  ML_REWROTE(g, norms_inside);
  save(g, l, 1, 2 * ml_vnode_bytes(x));
  l->norm = l->x;
  g->nodes[l->norm].group = l->at;
  l->x = x->inputs[0];
}

ml_status ml_vgraph_group_products(ml_vgraph *g) {
  int *open = ml_bump_alloc(&g->memory, g->n_nodes, sizeof *open), *before = NULL;
  size_t capacity = 0;
  ml_status status = open ? ML_OK : ML_MEMORY;
  for (size_t v = 0; v < g->n_nodes && status == ML_OK; v++) {
    if (!is_product(g, (int)v) || g->nodes[v].unit >= 0) continue;
    ml_vunit u;
    status = fill_unit(g, (int)v, &u);
    if (status == ML_OK) status = add_unit(g, &u, open, &before, &capacity);
  }
  for (size_t i = 0; i < g->n_linears; i++) absorb_norm(g, &g->linears[i]);
  return status;
}
