/* plan_select.c: rows that nobody reads are not computed.
 *
 * Where only some rows of a result are taken (the last token's logits of a prompt), the selection moves up through
 * everything that works row by row (products, norms, elementwise operations) to the first value that is needed whole:
 * of a prompt's last block, the MLP and the vocabulary head then run for one row instead of all. Saves the arithmetic
 * and the memory of the rows left out. */
#include "tensor/plan_graph.h"

#include <string.h>

typedef struct pusher {
  ml_engine *engine;
  const ml_vgraph *g;
  bool *whole;        /* nodes whose every row somebody needs */
  ml_tensor **pushed; /* the selected rows of each node, for one index; owned */
  bool *wanted;       /* nodes whose selected rows are wanted, for one index */
  ml_tensor *index;
} pusher;

static int64_t rows_of(const ml_tensor *t) { return t->ndim < 2 ? 1 : ml_tensor_size(t) / t->shape[t->ndim - 1]; }
static int64_t last_of(const ml_tensor *t) { return t->ndim ? t->shape[t->ndim - 1] : 1; }

static bool selects_rows(const ml_vnode *n) {
  if (n->op != ML_OP_take) return false;
  const ml_tensor *x = n->tensor->node->inputs[0], *index = n->tensor->node->inputs[1];
  return x->node && x->ndim == 2 && n->tensor->node->attrs.v[0].i == 0 && index->ndim == 1 &&
         index->shape[0] < x->shape[0];
}

static ml_status reshape(pusher *p, ml_tensor *x, int ndim, const int64_t *shape, ml_tensor **out) {
  ml_attrs a = {.n_list = ndim};
  memcpy(a.list, shape, (size_t)ndim * sizeof *shape);
  return ml_apply(p->engine, ML_OP_reshape, &x, 1, &a, out);
}

/* The rows themselves, taken from the whole value. */
static ml_status take_rows(pusher *p, ml_tensor *x, ml_tensor **out) {
  ml_tensor *matrix;
  ML_TRY(reshape(p, x, 2, (int64_t[]){rows_of(x), last_of(x)}, &matrix));
  ml_attrs a = {.n_list = -1};
  ml_status status = ml_apply(p->engine, ML_OP_take, (ml_tensor *[]){matrix, p->index}, 2, &a, out);
  ml_tensor_release(matrix);
  return status;
}

/* An operand of an elementwise operation: its own rows as selected, or, where it has one row for all, that row. */
static ml_status push_operand(pusher *p, int v, ml_tensor **out) {
  ml_tensor *x = p->g->nodes[v].tensor;
  if (rows_of(x) != 1) {
    *out = ml_tensor_retain(p->pushed[v]);
    return ML_OK;
  }
  if (x->ndim >= 2) return reshape(p, x, 1, (int64_t[]){last_of(x)}, out);
  *out = ml_tensor_retain(x);
  return ML_OK;
}

static bool can_push(const pusher *p, const ml_vnode *n) {
  const ml_tensor *t = n->tensor;
  if (n->op == ML_OP_COUNT || t->ndim < 2) return false;
  if (n->op == ML_OP_linear || n->op == ML_OP_rms_norm || n->op == ML_OP_layer_norm) return true;
  if (n->op == ML_OP_reshape)
    return last_of(p->g->nodes[n->inputs[0]].tensor) == last_of(t) && p->g->nodes[n->inputs[0]].tensor->ndim >= 2;
  if (!ml_op_is_elementwise((ml_op)n->op)) return false;
  for (int k = 0; k < n->n_inputs; k++) {
    const ml_tensor *x = p->g->nodes[n->inputs[k]].tensor;
    if (p->g->nodes[n->inputs[k]].state >= 0) return false; /* read in its own time */
    bool alike = x->ndim == t->ndim && memcmp(x->shape, t->shape, (size_t)(t->ndim - 1) * sizeof *t->shape) == 0;
    if (rows_of(x) != 1 && !alike) return false;
  }
  return true;
}

/* Whether the rows of node v are computed from the rows of its inputs. */
static bool passes_on(const pusher *p, int v) { return !p->whole[v] && can_push(p, &p->g->nodes[v]); }

/* Inputs of node v whose selected rows are wanted for its own. */
static bool wants_rows_of(const pusher *p, const ml_vnode *n, int k) {
  if (n->inputs[k] < 0) return false;
  return ml_op_is_elementwise((ml_op)n->op) ? rows_of(p->g->nodes[n->inputs[k]].tensor) != 1 : k == 0;
}

/* pushed[v], (n, last): the selected rows of node v, whose inputs have theirs. */
static ml_status push_node(pusher *p, int v) {
  const ml_vnode *n = &p->g->nodes[v];
  if (!passes_on(p, v)) return take_rows(p, n->tensor, &p->pushed[v]);
  if (n->op == ML_OP_reshape) {
    p->pushed[v] = ml_tensor_retain(p->pushed[n->inputs[0]]);
    return ML_OK;
  }
  ml_tensor *inputs[4] = {0};
  bool elementwise = ml_op_is_elementwise((ml_op)n->op);
  ml_status status = ML_OK;
  for (int k = 0; k < n->n_inputs && status == ML_OK; k++) {
    int input = n->inputs[k];
    if (input < 0) continue;
    if (elementwise) status = push_operand(p, input, &inputs[k]);
    else inputs[k] = ml_tensor_retain(k == 0 ? p->pushed[input] : p->g->nodes[input].tensor);
  }
  if (status == ML_OK)
    status = ml_apply(p->engine, (ml_op)n->op, inputs, n->n_inputs, &n->tensor->node->attrs, &p->pushed[v]);
  for (int k = 0; k < n->n_inputs; k++) ml_tensor_release(inputs[k]);
  return status;
}

/* The selected rows of node v and of all that they are computed from: first which those are, users before what they
 * use, then their rows in the order of the graph. Depth costs no stack. */
static ml_status push(pusher *p, int v) {
  const ml_vgraph *g = p->g;
  int first = v;
  memset(p->wanted, 0, g->n_nodes * sizeof *p->wanted);
  p->wanted[v] = true;
  for (int u = v; u >= 0; u--) {
    if (!p->wanted[u]) continue;
    first = u;
    for (int k = 0; k < g->nodes[u].n_inputs && passes_on(p, u); k++) {
      if (wants_rows_of(p, &g->nodes[u], k)) p->wanted[g->nodes[u].inputs[k]] = true;
    }
  }
  ml_status status = ML_OK;
  for (int u = first; u <= v && status == ML_OK; u++) {
    if (p->wanted[u]) status = push_node(p, u);
  }
  return status;
}

/* Nodes that somebody needs whole: all that the roots reach without passing through the first input of a selection. */
static ml_status find_whole(pusher *p, ml_tensor *const *roots, size_t n_roots) {
  const ml_vgraph *g = p->g;
  for (size_t i = 0; i < n_roots; i++) p->whole[roots[i]->mark - 1] = true;
  for (size_t v = g->n_nodes; v-- > 0;) { /* users come after what they use */
    const ml_vnode *n = &g->nodes[v];
    if (!p->whole[v]) continue;
    for (int k = selects_rows(n) ? 1 : 0; k < n->n_inputs; k++) {
      if (n->inputs[k] >= 0) p->whole[n->inputs[k]] = true;
    }
  }
  return ML_OK;
}

/* Turns a selection node into a reshape of its rows as computed. */
static void rewrite(ml_tensor *t, ml_tensor *rows) {
  ml_node *n = t->node;
  while (n->n_inputs > 0) ml_tensor_release(n->inputs[--n->n_inputs]);
  n->op = ML_OP_reshape;
  n->inputs[0] = rows;
  n->n_inputs = 1;
  n->attrs = (ml_attrs){.n_list = t->ndim};
  memcpy(n->attrs.list, t->shape, (size_t)t->ndim * sizeof *t->shape);
}

static ml_status push_all(pusher *p) {
  const ml_vgraph *g = p->g;
  ml_status status = ML_OK;
  for (size_t v = 0; v < g->n_nodes && status == ML_OK; v++) {
    const ml_vnode *n = &g->nodes[v];
    if (!p->whole[v] || !selects_rows(n) || p->whole[n->inputs[0]]) continue;
    ml_engine *e = p->engine;
    uint64_t serial = e->serial;
    p->index = n->tensor->node->inputs[1];
    /* What is recorded now runs in the place of the selection. */
    e->serial = n->tensor->node->serial - ML_SERIAL_STEP;
    e->serial_step = 1;
    status = push(p, n->inputs[0]);
    e->serial = serial;
    e->serial_step = ML_SERIAL_STEP;
    if (status == ML_OK) rewrite(n->tensor, ml_tensor_retain(p->pushed[n->inputs[0]]));
    for (size_t i = 0; i < g->n_nodes; i++) {
      ml_tensor_release(p->pushed[i]);
      p->pushed[i] = NULL;
    }
  }
  return status;
}

ml_status ml_plan_push_selections(ml_engine *e, ml_tensor *const *roots, size_t n_roots, size_t n_outputs) {
  ml_vgraph g;
  ml_status status = ml_vgraph_build(&g, e, roots, n_roots, n_outputs);
  pusher p = {.engine = e, .g = &g};
  bool any = false;
  for (size_t v = 0; v < g.n_nodes && status == ML_OK; v++) any = any || selects_rows(&g.nodes[v]);
  if (any) {
    p.whole = ml_calloc(g.n_nodes, sizeof *p.whole);
    p.pushed = ml_calloc(g.n_nodes, sizeof(ml_tensor *));
    p.wanted = ml_calloc(g.n_nodes, sizeof *p.wanted);
    status = p.whole && p.pushed && p.wanted ? find_whole(&p, roots, n_roots) : ML_MEMORY;
    if (status == ML_OK) status = push_all(&p);
  }
  ml_vgraph_free(&g);
  ml_free(p.whole);
  ml_free(p.pushed);
  ml_free(p.wanted);
  return status;
}
