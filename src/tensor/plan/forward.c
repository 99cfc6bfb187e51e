/* forward.c: who reads a state that was assigned whole reads what was assigned.
 *
 * So that updates in several statements (m:mul_(b), m:add_(g)) are one expression. An assignment that the next one
 * overwrites before anybody has read it is none. Saves writing and reading the state between them. */
#include "tensor/plan/graph.h"

/* The value that effect v, if it is one that writes all of a state, leaves there; -1 for all else. */
static int assigned(const ml_vgraph *g, int v) {
  const ml_vnode *n = &g->nodes[v];
  return ml_vnode_is_whole(g, n) ? n->inputs[1] : -1;
}

static void forward_reads(ml_vgraph *g) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    ml_vnode *n = &g->nodes[i];
    for (int k = 0; k < n->n_inputs && ml_vnode_is_elementwise(n); k++) {
      int value = n->inputs[k] < 0 ? -1 : assigned(g, n->inputs[k]);
      if (value < 0 || !ml_vnode_is_elementwise(&g->nodes[value])) continue;
      n->inputs[k] = value;
      ML_REWROTE(g, forwarded);
    }
  }
}

/* Takes assignments out that nobody sees. */
static ml_status drop_overwritten(ml_vgraph *g) {
  int *uses = ml_bump_alloc(&g->memory, g->n_nodes, sizeof *uses);
  bool *dropped = ml_bump_alloc(&g->memory, g->n_nodes, sizeof *dropped);
  if (!uses || !dropped) return ML_MEMORY;
  for (size_t i = 0; i < g->n_outputs; i++) uses[g->roots[i]]++;
  for (size_t i = 0; i < g->n_nodes; i++) {
    for (int k = 0; k < g->nodes[i].n_inputs; k++) {
      if (g->nodes[i].inputs[k] >= 0) uses[g->nodes[i].inputs[k]]++;
    }
  }
  for (size_t i = 0; i < g->n_nodes; i++) {
    ml_vnode *n = &g->nodes[i];
    int before = assigned(g, (int)i) < 0 ? -1 : n->inputs[0];
    if (before < 0 || assigned(g, before) < 0 || uses[before] > 1) continue;
    n->inputs[0] = g->nodes[before].inputs[0];
    dropped[before] = true;
    ML_REWROTE(g, dropped);
    ml_vgraph_save(g, ML_PASS_forward, 1, 2 * ml_vnode_bytes(&g->nodes[before]));
  }
  size_t n = g->n_outputs;
  for (size_t i = n; i < g->n_roots; i++) {
    if (!dropped[g->roots[i]]) g->roots[n++] = g->roots[i];
  }
  g->n_roots = n;
  return ML_OK;
}

ml_status ml_vgraph_forward(ml_vgraph *g) {
  bool any = false;
  for (size_t i = 0; i < g->n_nodes && !any; i++) any = g->nodes[i].op == ML_OP_assign;
  if (!any) return ML_OK;
  ml_vgraph_find_versions(g);
  forward_reads(g);
  return drop_overwritten(g);
}
