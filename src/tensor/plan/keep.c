/* keep.c: what somebody may still ask for once the plan has run.
 *
 * Of a plan that runs once. A tensor with references beside those of the graph may be asked for later: it is kept where
 * it is computed anyway, or what it is a view of. If it is not, its node stays, with all that it is computed from. Of a
 * version among that which the plan overwrites, or one that somebody holds, a copy would have to be made: where what is
 * held is no larger, it is computed now instead. */
#include "tensor/plan/graph.h"
#include "tensor/state.h"

#include <string.h>

typedef struct keeping {
  ml_vgraph *g;
  int *known;    /* references of the graph's own */
  bool *held;    /* somebody holds it, or a view of it */
  bool *stays;   /* what somebody holds is computed from it */
  size_t *costs; /* bytes of the largest version, or 0, which the plan overwrites and from which it is computed */
  size_t spent;  /* bytes of what is computed so that no version needs to be copied */
} keeping;

static ml_status begin(keeping *k, ml_vgraph *g, const ml_roots *r) {
  *k = (keeping){.g = g,
                 .known = ml_bump_alloc(&g->memory, g->n_nodes, sizeof *k->known),
                 .held = ml_bump_alloc(&g->memory, g->n_nodes, sizeof *k->held),
                 .stays = ml_bump_alloc(&g->memory, g->n_nodes, sizeof *k->stays),
                 .costs = ml_bump_alloc(&g->memory, g->n_nodes, sizeof *k->costs)};
  if (!k->known || !k->held || !k->stays || !k->costs) return ML_MEMORY;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const ml_vnode *n = &g->nodes[i];
    for (int j = 0; j < n->n_inputs; j++) {
      if (n->inputs[j] < 0) continue;
      k->known[n->inputs[j]]++;
      if (!ml_vnode_is_effect(n) && k->costs[n->inputs[j]] > k->costs[i]) k->costs[i] = k->costs[n->inputs[j]];
    }
    if (n->writer >= 0 && !ml_vnode_is_view(n)) k->costs[i] = ml_tensor_nbytes(n->tensor);
  }
  for (size_t i = 0; i < r->n_effects; i++) k->known[g->roots[r->n_outputs + i]]++;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const ml_tensor *t = g->nodes[i].tensor;
    if (t->cell && t->cell->latest == t) k->known[i]++;
  }
  return ML_OK;
}

/* ---- keeping ---- */

/* One more output. */
static ml_status give(keeping *k, size_t i) {
  ml_vgraph *g = k->g;
  ML_TRY(ML_BUMP_GROW(&g->memory, g->kept, g->kept_capacity, g->n_kept + 1));
  g->nodes[i].output = (int)(g->n_outputs + g->n_kept);
  g->kept[g->n_kept++] = g->nodes[i].tensor;
  g->engine->kept += ml_tensor_nbytes(g->nodes[i].tensor);
  return ML_OK;
}

/* Whether it is no larger than the version that would be copied for it, with all that were such before. */
static bool is_cheaper(const keeping *k, size_t i) {
  const ml_vnode *n = &k->g->nodes[i];
  return k->costs[i] && n->writer < 0 && !ml_vnode_has_results(n) &&
         ml_tensor_nbytes(n->tensor) + k->spent <= k->costs[i];
}

static ml_status keep_node(keeping *k, size_t i) {
  ml_vnode *n = &k->g->nodes[i];
  const bool asked = n->tensor->references > k->known[i];
  if (n->output >= 0) return ML_OK;
  if (asked && is_cheaper(k, i)) {
    k->spent += ml_tensor_nbytes(n->tensor);
    ML_REWROTE(k->g, given);
    return give(k, i);
  }
  if (asked) k->held[i] = k->stays[i] = true;
  if (k->held[i] && ml_vnode_is_view(n)) k->held[n->inputs[0]] = true;
  n->keep = k->held[i] && !ml_vnode_is_leaf(n) && !ml_vnode_is_view(n) && !ml_vnode_is_effect(n) &&
            n->op != ML_OP_constant && !ml_vnode_has_results(n);
  if (n->keep) k->g->engine->kept += ml_tensor_nbytes(n->tensor);
  for (int j = 0; j < n->n_inputs && k->stays[i] && !ml_vnode_is_effect(n); j++) {
    if (n->inputs[j] >= 0) k->stays[n->inputs[j]] = true;
  }
  if (!k->stays[i] || n->writer < 0) return ML_OK;
  if (!ml_vnode_is_leaf(n) || !ml_buffer_loss(n->tensor->cell->buffer)) return give(k, i);
  ml_tensor_kill(n->tensor, ML_FATE_FAILED); /* there is nothing to keep */
  return ML_OK;
}

/* What was given comes behind the outputs that were asked for. */
static ml_status add_outputs(ml_vgraph *g) {
  const size_t before = g->n_outputs, n_effects = g->n_roots - before;
  int *roots = ml_bump_alloc(&g->memory, g->n_roots + g->n_kept, sizeof *roots);
  if (!roots) return ML_MEMORY;
  memcpy(roots, g->roots, before * sizeof *roots);
  for (size_t i = 0; i < g->n_kept; i++) roots[before + i] = g->kept[i]->mark - 1;
  memcpy(roots + before + g->n_kept, g->roots + before, n_effects * sizeof *roots);
  g->roots = roots;
  g->n_outputs += g->n_kept;
  g->n_roots += g->n_kept;
  return ML_OK;
}

ml_status ml_vgraph_keep(ml_vgraph *g, const ml_roots *r) {
  keeping k;
  ML_TRY(begin(&k, g, r));
  for (size_t i = g->n_nodes; i-- > 0;) ML_TRY(keep_node(&k, i));
  if (g->engine->most_kept && g->engine->kept > g->engine->most_kept)
    return ml_fail(ML_LIMIT, "values of %zu bytes are held", g->engine->kept);
  return g->n_kept ? add_outputs(g) : ML_OK;
}
