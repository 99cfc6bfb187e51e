/* fold.c: what depends on weights and constants alone is computed once, when the plan is made.
 *
 * Saves its work in each run of the plan. */
#include "tensor/plan/graph.h"
#include "tensor/state.h"

/* A constant larger than this is worked out in each run rather than kept. */
static const size_t FOLD_BYTES = (size_t)16 << 20;

static bool is_fixed(const bool *fixed, const ml_vnode *n) {
  if (ml_vnode_is_leaf(n)) return n->version < 0;
  bool all = n->op != ML_OP_input && !ml_vnode_is_effect(n);
  for (int k = 0; k < n->n_inputs && all; k++) all = n->inputs[k] < 0 || fixed[n->inputs[k]];
  return all && n->tensor;
}

/* Nodes that others need which are not fixed, and outputs. */
static void find_feeding(const ml_vgraph *g, const bool *fixed, bool *feeds) {
  for (size_t i = 0; i < g->n_roots; i++) feeds[g->roots[i]] = true;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const ml_vnode *n = &g->nodes[i];
    for (int k = 0; k < n->n_inputs && n->group >= 0 && !fixed[i]; k++) {
      if (n->inputs[k] >= 0) feeds[n->inputs[k]] = true;
    }
  }
}

/* Evaluating lets the nodes of tensors go, and with them tensors that nobody else holds: the graph must hold its own.
 */
static ml_status hold(ml_vgraph *g) {
  g->held = ml_bump_alloc(&g->memory, g->n_nodes, sizeof(ml_tensor *));
  if (!g->held) return ML_MEMORY;
  for (size_t i = 0; i < g->n_nodes; i++) {
    if (g->nodes[i].tensor) g->held[g->n_held++] = ml_tensor_retain(g->nodes[i].tensor);
  }
  return ML_OK;
}

ml_status ml_vgraph_fold(ml_vgraph *g) {
  ML_TRY(ml_vgraph_link(g));
  bool *fixed = ml_bump_alloc(&g->memory, g->n_nodes, sizeof *fixed),
       *feeds = ml_bump_alloc(&g->memory, g->n_nodes, sizeof *feeds);
  ml_tensor **folded = ml_bump_alloc(&g->memory, g->n_nodes, sizeof(ml_tensor *));
  if (!fixed || !feeds || !folded) return ML_MEMORY;
  size_t n = 0;
  for (size_t i = 0; i < g->n_nodes; i++) fixed[i] = is_fixed(fixed, &g->nodes[i]);
  find_feeding(g, fixed, feeds);
  for (size_t i = 0; i < g->n_nodes; i++) {
    ml_vnode *node = &g->nodes[i];
    bool computed = fixed[i] && feeds[i] && node->group >= 0 && !ml_vnode_is_leaf(node) && node->constant < 0;
    if (computed && ml_tensor_nbytes(node->tensor) <= FOLD_BYTES) folded[n++] = node->tensor;
  }
  if (!n) return ML_OK;
  ML_TRY(hold(g));
  ML_TRY(ml_evaluate(g->engine, folded, n, false));
  for (size_t i = 0; i < g->n_nodes; i++) {
    ml_vnode *node = &g->nodes[i];
    if (!node->tensor || node->tensor->node || ml_vnode_is_leaf(node)) continue;
    if (!ml_vnode_is_view(node)) ml_vgraph_save(g, ML_PASS_fold, 1, ml_vnode_bytes(node));
    node->op = ML_OP_COUNT;
    node->n_inputs = 0;
    ML_REWROTE(g, folded);
  }
  return ML_OK;
}
