/* split.c: a part of a product's outputs is a product with a part of the weight.
 *
 * A weight that is several in one (gate and up, or queries, keys and values) then gives several products, which are
 * grouped as if the weights were apart: what each is passed through joins its step, and nothing is written only to be
 * read in parts. Saves writing and reading the whole. */
#include "tensor/plan/graph.h"

/* The first output that view v takes of the product before it, and of which it is a range, all else whole; -1 where it
 * is none that a packed weight can be cut for. */
static int64_t part_of(const ml_vgraph *g, const ml_vnode *n) {
  if (n->op != ML_OP_slice) return -1;
  const ml_vnode *x = &g->nodes[n->inputs[0]];
  const int64_t *ranges = ml_attrs_list(n->attrs, n->attrs->slice.ranges);
  if (x->op != ML_OP_linear || x->keep || x->ndim == 0) return -1;
  if (g->nodes[x->inputs[1]].layout != ML_LAYOUT_PANELS) return -1;
  for (int d = 0; d < x->ndim - 1; d++) {
    if (n->shape[d] != x->shape[d] || ranges[3 * d] != 0 || ranges[3 * d + 2] != 1) return -1;
  }
  const int64_t *last = &ranges[3 * (x->ndim - 1)];
  return last[2] == 1 && last[1] > 0 && last[0] % g->device->group == 0 ? last[0] : -1;
}

ml_status ml_vgraph_split(ml_vgraph *g) {
  bool any = false;
  for (size_t i = 0; i < g->n_nodes && !any; i++) any = part_of(g, &g->nodes[i]) >= 0;
  if (!any) return ML_OK;
  bool *whole = ml_bump_alloc(&g->memory, g->n_nodes, sizeof *whole); /* somebody reads all of it */
  if (!whole) return ML_MEMORY;
  for (size_t i = 0; i < g->n_roots; i++) whole[g->roots[i]] = true;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const ml_vnode *n = &g->nodes[i];
    bool part = part_of(g, n) >= 0;
    for (int k = 0; k < n->n_inputs && !part; k++) {
      if (n->inputs[k] >= 0) whole[n->inputs[k]] = true;
    }
  }
  for (size_t i = 0; i < g->n_nodes; i++) {
    ml_vnode *n = &g->nodes[i];
    int64_t first = part_of(g, n);
    if (first < 0 || whole[n->inputs[0]]) continue;
    const ml_vnode *product = &g->nodes[n->inputs[0]];
    n->op = ML_OP_linear;
    n->attrs = product->attrs;
    n->path = product->path;
    n->n_inputs = product->n_inputs;
    n->inputs = product->inputs;
    n->first_output = product->first_output + first;
    ML_REWROTE(g, split);
    ml_vgraph_save(g, ML_PASS_split, 0, 2 * ml_vnode_bytes(n));
  }
  return ML_OK;
}
