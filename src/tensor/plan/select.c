/* select.c: rows that nobody reads are not computed.
 *
 * Where only some rows of a result are taken (the last token's logits of a prompt), the selection moves up through
 * everything that works row by row (products, norms, elementwise operations) to the first value that is needed whole:
 * of a prompt's last block, the MLP and the vocabulary head then run for one row instead of all. Saves the arithmetic
 * and the memory of the rows left out.
 *
 * One pass from the users to what they use says of each node whether it is needed whole, or in the rows of one index
 * alone; one pass back writes the graph anew. */
#include "tensor/plan/graph.h"

typedef struct demand {
  bool whole;
  int index; /* vnode of the index whose rows are wanted, or -1 */
  int until; /* the last selection that wants them: they are computed no later */
} demand;

typedef struct selector {
  ml_vgraph *g;
  demand *wants;
  ml_vnode *nodes; /* the new graph */
  size_t n_nodes, capacity;
  int *whole, *rows;    /* new vnodes of each old one: as it is, and its selected rows as a matrix */
  int *waiting, *after; /* of an index: the first old node whose rows are not computed yet; of a node: the next such */
} selector;

static bool selects_rows(const ml_vgraph *g, const ml_vnode *n) {
  if (n->op != ML_OP_take) return false;
  const ml_vnode *x = &g->nodes[n->inputs[0]], *index = &g->nodes[n->inputs[1]];
  return !ml_vnode_is_leaf(x) && x->ndim == 2 && n->attrs->take.axis == 0 && index->ndim == 1 &&
         index->shape[0] < x->shape[0];
}

/* ---- what is wanted ---- */

/* Whether the rows of a node can be computed from the rows of its inputs. What reads a state that is written before the
 * selection reads it in its own time. */
static bool can_push(const ml_vgraph *g, int v, int until) {
  const ml_vnode *n = &g->nodes[v];
  if (ml_vnode_is_leaf(n) || n->ndim < 2 || ml_vgraph_is_late(g, v, until, NULL, 0)) return false;
  if (n->op == ML_OP_linear || n->op == ML_OP_rms_norm || n->op == ML_OP_layer_norm) return true;
  if (n->op == ML_OP_reshape) {
    const ml_vnode *x = &g->nodes[n->inputs[0]];
    return ml_vnode_last(x) == ml_vnode_last(n) && ml_vnode_rows(x) == ml_vnode_rows(n) && x->ndim >= 2;
  }
  if (!ml_vnode_is_elementwise(n)) return false;
  for (int k = 0; k < n->n_inputs; k++) {
    const ml_vnode *x = &g->nodes[n->inputs[k]];
    bool alike = x->ndim == n->ndim && ml_vnode_same_axes(x, n, n->ndim - 1);
    if (ml_vnode_rows(x) != 1 && !alike) return false;
  }
  return true;
}

/* Inputs of a pushed node whose selected rows are wanted for its own. */
static bool takes_rows_of(const ml_vgraph *g, const ml_vnode *n, int k) {
  if (n->inputs[k] < 0) return false;
  return ml_vnode_is_elementwise(n) ? ml_vnode_rows(&g->nodes[n->inputs[k]]) != 1 : k == 0;
}

static void want_rows(selector *s, int v, int index, int until) {
  demand *d = &s->wants[v];
  d->index = index;
  if (until > d->until) d->until = until;
}

/* Whether the rows of an index can be wanted of node v: those of another one are not. */
static bool is_free(const selector *s, int v, int index) { return s->wants[v].index < 0 || s->wants[v].index == index; }

static bool is_pushed(const selector *s, int v) {
  const ml_vnode *n = &s->g->nodes[v];
  const demand *d = &s->wants[v];
  bool pushed = !d->whole && can_push(s->g, v, d->until);
  for (int k = 0; k < n->n_inputs && pushed; k++)
    pushed = !takes_rows_of(s->g, n, k) || is_free(s, n->inputs[k], d->index);
  return pushed;
}

static void find_demands(selector *s) {
  ml_vgraph *g = s->g;
  for (size_t i = 0; i < g->n_nodes; i++) s->wants[i] = (demand){.index = -1, .until = -1};
  for (size_t i = 0; i < g->n_roots; i++) s->wants[g->roots[i]].whole = true;
  for (size_t i = g->n_nodes; i-- > 0;) {
    const ml_vnode *n = &g->nodes[i];
    demand *d = &s->wants[i];
    if (!d->whole && d->index < 0) continue;
    d->whole = !is_pushed(s, (int)i);
    for (int k = 0; k < n->n_inputs; k++) {
      int input = n->inputs[k];
      if (input < 0) continue;
      if (d->whole && k == 0 && selects_rows(g, n) && is_free(s, input, n->inputs[1]))
        want_rows(s, input, n->inputs[1], (int)i);
      else if (!d->whole && takes_rows_of(g, n, k)) want_rows(s, input, d->index, d->until);
      else s->wants[input].whole = true;
    }
  }
}

/* ---- the new graph ---- */

static ml_status add(selector *s, const ml_vnode *n, int *out) {
  ML_TRY(ML_BUMP_GROW(&s->g->memory, s->nodes, s->capacity, s->n_nodes + 1));
  s->nodes[s->n_nodes] = *n;
  *out = (int)s->n_nodes++;
  return ML_OK;
}

/* A node of the pass's own: `like`, with another operation, shape and inputs. */
static ml_status make(selector *s, const ml_vnode *like, int op, const ml_attrs *attrs, int n_inputs, int ndim,
                      const int64_t *shape, const int *inputs, int *out) {
  ml_vnode n = *like;
  ml_attrs *own_attrs = ml_bump_alloc(&s->g->memory, 1, sizeof *own_attrs);
  int64_t *own_shape = ml_bump_alloc(&s->g->memory, ML_MAX_DIMS, sizeof *own_shape);
  n.inputs = ml_bump_alloc(&s->g->memory, (size_t)n_inputs, sizeof *n.inputs);
  if (!own_attrs || !own_shape || !n.inputs) return ML_MEMORY;
  *own_attrs = *attrs;
  memcpy(own_shape, shape, (size_t)ndim * sizeof *shape);
  memcpy(n.inputs, inputs, (size_t)n_inputs * sizeof *inputs);
  n.op = op;
  n.tensor = NULL;
  n.attrs = own_attrs;
  n.n_inputs = n_inputs;
  n.ndim = ndim;
  n.shape = own_shape;
  n.keep = false;
  n.twin = -1;
  return add(s, &n, out);
}

static ml_status reshape(selector *s, int x, int ndim, const int64_t *shape, int *out) {
  ml_attrs a = {0};
  memcpy(ml_attrs_give(&a, &a.reshape.shape, ndim), shape, (size_t)ndim * sizeof *shape);
  return make(s, &s->nodes[x], ML_OP_reshape, &a, 1, ndim, shape, &x, out);
}

/* The rows themselves, taken from the whole value. */
static ml_status take_rows(selector *s, int v, int index, int *out) {
  const ml_vnode *n = &s->g->nodes[v];
  int64_t shape[2] = {ml_vnode_rows(n), ml_vnode_last(n)};
  int inputs[2] = {-1, s->whole[index]};
  ML_TRY(reshape(s, s->whole[v], 2, shape, &inputs[0]));
  shape[0] = s->g->nodes[index].shape[0];
  ml_attrs a = {0}; /* along the first axis */
  return make(s, &s->nodes[inputs[0]], ML_OP_take, &a, 2, 2, shape, inputs, out);
}

/* rows[v], (n, last): the selected rows of node v, whose inputs have theirs. */
static ml_status push_node(selector *s, int v) {
  const ml_vnode *n = &s->g->nodes[v];
  const demand *d = &s->wants[v];
  if (d->whole) return take_rows(s, v, d->index, &s->rows[v]);
  ML_REWROTE(s->g, pushed);
  if (n->op != ML_OP_reshape) {
    int64_t rows = s->g->nodes[d->index].shape[0], all = ml_vnode_rows(n);
    ml_vgraph_save(s->g, ML_PASS_select, 0, all > 0 ? ml_vnode_bytes(n) / (size_t)all * (size_t)(all - rows) : 0);
  }
  if (n->op == ML_OP_reshape) {
    s->rows[v] = s->rows[n->inputs[0]];
    return ML_OK;
  }
  int inputs[4];
  for (int k = 0; k < n->n_inputs; k++) {
    inputs[k] = n->inputs[k];
    if (inputs[k] < 0) continue;
    const ml_vnode *x = &s->g->nodes[inputs[k]];
    bool own = takes_rows_of(s->g, n, k);
    inputs[k] = own ? s->rows[inputs[k]] : s->whole[inputs[k]];
    if (!own && ml_vnode_is_elementwise(n) && x->ndim >= 2) { /* one row for all */
      int64_t last = ml_vnode_last(x);
      ML_TRY(reshape(s, inputs[k], 1, &last, &inputs[k]));
    }
  }
  int64_t shape[2] = {s->g->nodes[d->index].shape[0], ml_vnode_last(n)};
  return make(s, n, n->op, n->attrs, n->n_inputs, 2, shape, inputs, &s->rows[v]);
}

/* Computes the rows of an index as far as they come before node `to`. */
static ml_status catch_up(selector *s, int index, int to) {
  for (; s->waiting[index] >= 0 && s->waiting[index] < to; s->waiting[index] = s->after[s->waiting[index]]) {
    ML_TRY(push_node(s, s->waiting[index]));
  }
  return ML_OK;
}

static ml_status copy_node(selector *s, int v) {
  ml_vnode n = s->g->nodes[v];
  int *inputs = ml_bump_alloc(&s->g->memory, (size_t)n.n_inputs, sizeof *inputs);
  if (!inputs) return ML_MEMORY;
  for (int k = 0; k < n.n_inputs; k++) inputs[k] = n.inputs[k] < 0 ? -1 : s->whole[n.inputs[k]];
  n.inputs = inputs;
  return add(s, &n, &s->whole[v]);
}

static ml_status write_node(selector *s, int v) {
  const ml_vnode *n = &s->g->nodes[v];
  if (!s->wants[v].whole) return ML_OK;
  if (!selects_rows(s->g, n) || s->wants[n->inputs[0]].whole) return copy_node(s, v);
  ML_REWROTE(s->g, selected);
  ML_TRY(catch_up(s, n->inputs[1], v));
  ML_TRY(reshape(s, s->rows[n->inputs[0]], n->ndim, n->shape, &s->whole[v]));
  s->nodes[s->whole[v]].tensor = n->tensor; /* it is the selection's value */
  s->nodes[s->whole[v]].keep = n->keep;
  s->nodes[s->whole[v]].twin = n->twin;
  return ML_OK;
}

static ml_status rewrite(selector *s) {
  ml_vgraph *g = s->g;
  for (size_t i = 0; i < g->n_nodes; i++) s->waiting[i] = s->after[i] = -1;
  for (size_t i = g->n_nodes; i-- > 0;) { /* the first one last, at the head of its list */
    int index = s->wants[i].index;
    if (index < 0) continue;
    s->after[i] = s->waiting[index];
    s->waiting[index] = (int)i;
  }
  for (size_t i = 0; i < g->n_nodes; i++) ML_TRY(write_node(s, (int)i));
  for (size_t i = 0; i < g->n_roots; i++) g->roots[i] = s->whole[g->roots[i]];
  g->nodes = s->nodes;
  g->n_nodes = s->n_nodes;
  g->capacity = s->capacity;
  return ML_OK;
}

ml_status ml_vgraph_select(ml_vgraph *g) {
  bool any = false;
  for (size_t v = 0; v < g->n_nodes && !any; v++) any = selects_rows(g, &g->nodes[v]);
  if (!any) return ML_OK;
  ml_vgraph_find_versions(g);
  selector s = {.g = g};
  size_t n = g->n_nodes;
  s.wants = ml_bump_alloc(&g->memory, n, sizeof *s.wants);
  s.whole = ml_bump_alloc(&g->memory, n, sizeof *s.whole);
  s.rows = ml_bump_alloc(&g->memory, n, sizeof *s.rows);
  s.waiting = ml_bump_alloc(&g->memory, n, sizeof *s.waiting);
  s.after = ml_bump_alloc(&g->memory, n, sizeof *s.after);
  if (!s.wants || !s.whole || !s.rows || !s.waiting || !s.after) return ML_MEMORY;
  find_demands(&s);
  return rewrite(&s);
}
