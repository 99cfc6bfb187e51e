/* plan_graph.h: the planner's own view of a graph, between collecting it and emitting steps. Private to plan_*.c. */
#ifndef ML_TENSOR_PLAN_GRAPH_H
#define ML_TENSOR_PLAN_GRAPH_H

#include "tensor/plan.h"

typedef struct ml_vnode {
  ml_tensor *tensor; /* borrowed: the roots hold it */
  int op;            /* ml_op; ML_OP_COUNT for a tensor with storage */
  int n_inputs;
  int *inputs;             /* vnodes; -1 where absent */
  int first_user, n_users; /* range in ml_vgraph.users */
  int state;               /* index of the state buffer that it reads or writes, or -1 */
  int value;               /* the plan's value once emitted, or -1 */
  int output;              /* the plan output that it is, or -1 */
  int group;               /* vnode whose step computes it (its own unless it was fused into another), or -1: dead */
  int unit;                /* of a product: the unit (ml_vgraph.units) that holds it, or -1 */
} ml_vnode;

/* Products that share one step: filled by plan_fuse.c. */
typedef struct ml_vunit {
  int root; /* vnode of the unit's result */
  int n_products, products[ML_UNIT_MAX_WEIGHTS];
} ml_vunit;
typedef struct ml_vlinears {
  int at;   /* vnode at whose turn the step is emitted */
  int x;    /* vnode of the shared input, before the norm where there is one */
  int norm; /* vnode of the fused rms_norm, or -1 */
  int n_units;
  ml_vunit units[ML_LINEARS_MAX_UNITS];
} ml_vlinears;

typedef struct ml_vgraph {
  ml_engine *engine;
  ml_vnode *nodes; /* in the order in which they were written */
  size_t n_nodes, capacity;
  int *users; /* vnodes, grouped by the node that they use; an output counts as user -1 */
  ml_buffer **states;
  size_t n_states, states_capacity;
  ml_vlinears *linears;
  size_t n_linears, linears_capacity;
} ml_vgraph;

/* plan_graph.c: collects what the roots need, merges equal nodes, counts users. Roots that are NULL are skipped. */
ml_status ml_vgraph_build(ml_vgraph *g, ml_engine *e, ml_tensor *const *roots, size_t n_roots, size_t n_outputs);
void ml_vgraph_free(ml_vgraph *g);
/* plan_select.c: moves selections of rows up to where all rows are needed, in the graph itself. */
ml_status ml_plan_push_selections(ml_engine *e, ml_tensor *const *roots, size_t n_roots, size_t n_outputs);
/* plan_fuse.c: decides which nodes are computed inside another's step. */
ml_status ml_vgraph_fuse(ml_vgraph *g);
/* plan_emit.c: writes the steps. */
ml_status ml_vgraph_emit(ml_vgraph *g, ml_plan *p);

/* The number behind a node, where it is one constant seen through views; else NULL. */
const ml_node *ml_vnode_constant(const ml_vgraph *g, int v);
/* Elementwise nodes of the same shape that can move into root's step: writes their vnodes, ascending, root last. `stop`
 * says which nodes must stay inputs (products of a linears unit). */
int ml_vgraph_gather(const ml_vgraph *g, int root, int *members, int max);
/* Whether an effect on a state that v reads lies between v and the node to whose place it would move, earlier or later.
 */
bool ml_vgraph_crosses_effect(const ml_vgraph *g, int v, int to);

#endif
