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
         n->dtype == ML_F32;
}

/* The chain of single elementwise users that begins at a product, as far as the product can move: what somebody holds
 * ends it, and is computed once. Writes it to `chain`, of ML_GROUP_MEMBERS, and returns its length. */
static int find_chain(const ml_vgraph *g, int first, int *chain) {
  int n = 0;
  for (int v = first; n < ML_GROUP_MEMBERS; n++) {
    const ml_vnode *x = &g->nodes[v];
    if (x->n_users != 1 || x->output >= 0 || x->keep) break;
    int user = g->users[x->first_user];
    if (user < 0 || !ml_vnode_is_elementwise(&g->nodes[user]) || g->nodes[user].dtype != ML_F32) break;
    if (g->nodes[user].group != user || g->nodes[user].unit >= 0 ||
        !ml_vnode_same_shape(&g->nodes[user], &g->nodes[first]))
      break;
    if (ml_vgraph_is_late(g, first, user, NULL, 0)) break;
    chain[n] = v = user;
  }
  return n;
}

/* Products among the inputs of root's expression that unit `first` may take: same input, same weight shape, no other
 * user. */
static ml_status fill_unit_to(ml_vgraph *g, int first, int root, ml_vunit *u) {
  int members[ML_GROUP_MEMBERS], inputs[ML_FUSED_MAX_INPUTS + 1], n = ml_vgraph_gather(g, root, members);
  int n_inputs = ml_vgraph_outside(g, members, n, inputs, 0, ML_FUSED_MAX_INPUTS);
  if (!ml_listed(inputs, n_inputs, first) || n_inputs + 1 > ML_FUSED_MAX_INPUTS) return ML_OK;
  const ml_vnode *p = &g->nodes[first];
  for (int i = 0; i < n_inputs; i++) {
    const ml_vnode *o = &g->nodes[inputs[i]];
    if (inputs[i] == first || !is_product(g, inputs[i]) || o->unit >= 0 || o->n_users != 1 || o->keep) continue;
    if (o->inputs[0] == p->inputs[0] && ml_vnode_same_shape(o, p) &&
        g->nodes[o->inputs[1]].dtype == g->nodes[p->inputs[1]].dtype) {
      if (u->n_products < ML_UNIT_MAX_WEIGHTS && !ml_vgraph_is_late(g, inputs[i], root, NULL, 0))
        u->products[u->n_products++] = inputs[i];
    } else if (inputs[i] > first) {
      u->n_products = 1;
      return ML_OK; /* that product comes later: the expression is its epilogue */
    }
  }
  u->root = root;
  return ml_vgraph_make_group(g, root, &(ml_vgroup){.members = members, .n_members = n, .like = -1, .anchor = -1});
}

/* The longest part of the product's chain, halved as often as need be, that one program holds. */
static ml_status fill_unit(ml_vgraph *g, int first, ml_vunit *u) {
  int chain[ML_GROUP_MEMBERS], n = find_chain(g, first, chain);
  *u = (ml_vunit){.root = first, .n_products = 1, .products = {first}};
  for (; n > 0 && u->root == first; n /= 2) ML_TRY(fill_unit_to(g, first, chain[n - 1], u));
  return ML_OK;
}

static int64_t rows_of(const ml_vnode *x) { return ml_vnode_last(x) ? ml_vnode_size(x) / ml_vnode_last(x) : 0; }

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
  for (int i = 0; root->program && i < root->program->n_members; i++) {
    if (!can_move(g, root->program->members[i], l->at, u)) return false;
  }
  return true;
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
  /* products that are not stored, and what is computed of them on the way */
  size_t stored = ml_vnode_bytes(&g->nodes[u->root]), n = (size_t)u->n_products;
  const ml_vgroup *behind = u->root != u->products[0] ? g->nodes[u->root].program : NULL;
  if (behind) n += (size_t)behind->n_members;
  ml_vgraph_save(g, ML_PASS_products, n - (l->n_units == 1), 2 * (n - 1) * stored);
  for (int i = 0; i < u->n_products; i++) {
    g->nodes[u->products[i]].unit = index;
    g->nodes[u->products[i]].group = u->root;
  }
  g->nodes[u->root].unit = index;
  g->nodes[u->root].group = u->root;
  return ML_OK;
}

static void absorb_norm(ml_vgraph *g, ml_vlinears *l) {
  const ml_vnode *x = &g->nodes[l->x];
  if (x->op != ML_OP_rms_norm || x->dtype != ML_F32 || rows_of(x) > NORM_INSIDE_ROWS) return;
  if (x->inputs[1] >= 0 && g->nodes[x->inputs[1]].dtype != ML_F32) return;
  if (ml_vgraph_is_late(g, l->x, l->at, NULL, 0)) return;
  for (int i = 0; i < x->n_users; i++) {
    int user = g->users[x->first_user + i];
    if (user < 0 || g->nodes[user].op != ML_OP_linear || g->nodes[user].unit != (int)(l - g->linears)) return;
  }
  ML_REWROTE(g, norms_inside);
  ml_vgraph_save(g, ML_PASS_products, 1, 2 * ml_vnode_bytes(x));
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
