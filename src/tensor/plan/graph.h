/* graph.h: the planner's own view of a graph, between collecting it and emitting steps. Private to tensor/plan.
 *
 * Passes change this graph alone, never the nodes that users hold. Nodes stand in an order in which they can be
 * computed: that in which they were written. */
#ifndef ML_PLAN_GRAPH_H
#define ML_PLAN_GRAPH_H

#include "tensor/plan/plan.h"

/* Elementwise nodes of one shape that are one program; or, about operations along the last axis, the stages of one step
 * over rows. */
typedef struct ml_vgroup {
  int *members, n_members; /* ascending */
  int *effects, n_effects; /* assignments of members' values that it carries out, ascending */
  int like;                /* of rows: a node of their shape; else -1 */
  int anchor;              /* what computes the first input of the program, in whose step it is; or -1 */
  int sink;                /* the reduction that takes what the program computes, in whose step it is; or -1 */
  ml_saving saved;         /* where no step of products computes it */
} ml_vgroup;

typedef struct ml_vnode {
  int op;            /* ml_op; ML_OP_COUNT for a tensor with storage */
  ml_tensor *tensor; /* borrowed, the roots hold it; NULL of a node that a pass made */
  const ml_attrs *attrs;
  const char *path;
  uint32_t region;
  ml_dtype dtype;
  ml_layout layout;
  int ndim;
  const int64_t *shape;
  int n_inputs, *inputs;   /* vnodes; -1 where absent */
  int *results;            /* of a live operation with several: vnodes of ML_OP_result; -1 where nobody wants one */
  int64_t first_output;    /* of a product: the row of its weight that gives the first of them */
  int first_user, n_users; /* range in ml_vgraph.users */
  int version;             /* the version of a state that it is or views, or -1 */
  int writer;              /* of a version: the effect that makes the next one, or -1 */
  int next_view;           /* of a version or a view of one: another view of it, or -1 */
  int constant;            /* the constant node that it shows through views, or -1 */
  bool keep;               /* somebody may still ask for its tensor: what is computed anyway is kept */
  int twin;                /* the first of ml_vgraph.twins that gets its value, or -1 */
  bool stays;              /* of a member of a group: an output of its step, since it is to be kept */
  int output;              /* the plan output that it is, or -1 */
  int value;               /* the plan's value once emitted, or -1 */
  int dense;               /* of a value that kernels could not take as it lay: its dense copy, or -1 */
  int group;               /* vnode whose step computes it (its own unless it was fused into another), or -1: dead */
  ml_vgroup *program;      /* of the node at whose turn a group of elementwise nodes is computed: the group */
  int unit;                /* of a product and of a unit's root: the step (ml_vgraph.linears) that holds it, or -1 */
  int linears;             /* the step of products that is emitted at its turn, or -1 */
} ml_vnode;

/* Products that share one step: filled by products.c. */
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
  ml_saving saved;
} ml_vlinears;

/* A tensor that is held, of a node that repeats another, which is held or asked for as well: it gets that one's value.
 */
typedef struct ml_vtwin {
  ml_tensor *tensor; /* borrowed */
  int next;          /* of the same node; -1 */
} ml_vtwin;

typedef struct ml_vgraph {
  ml_engine *engine;
  ml_device *device; /* of all its tensors */
  ml_vnode *nodes;
  size_t n_nodes, capacity;
  int *roots; /* vnodes: n_outputs outputs, then effects */
  size_t n_roots, n_outputs;
  ml_tensor **kept; /* of outputs behind those that were asked for: the tensors that get them; borrowed */
  size_t n_kept, kept_capacity;
  ml_vtwin *twins;
  size_t n_twins, twins_capacity;
  int *users; /* vnodes, grouped by the node that they use; an output counts as user -1 */
  ml_vlinears *linears;
  size_t n_linears, linears_capacity;
  bool has_rows;    /* there are row operations that groups may take in */
  ml_tensor **held; /* retained, where the tensors of nodes might go meanwhile */
  size_t n_held;
  ml_saving saved[ML_PASS_COUNT];
  ml_bump memory; /* of all of it */
} ml_vgraph;

/* What a plan is made for: outputs and effects, each lazy or with storage. */
typedef struct ml_roots {
  ml_tensor *const *outputs;
  size_t n_outputs;
  ml_tensor *const *effects;
  size_t n_effects;
  bool once; /* the plan runs once, now: tensors get values of their own, and versions that it overwrites are kept where
                somebody may read them later */
} ml_roots;

/* collect.c: the nodes that the roots need, equal ones merged. The graph has its memory already, and nothing else. */
ml_status ml_vgraph_collect(ml_vgraph *g, ml_device *d, const ml_roots *roots);
/* keep.c: what somebody may still ask for, of a plan that runs once, while the tensors' marks name their nodes. */
ml_status ml_vgraph_keep(ml_vgraph *g, const ml_roots *roots);
/* split.c: parts of a product become products with parts of its weight. */
ml_status ml_vgraph_split(ml_vgraph *g);
/* Versions, constants, what is dead, users: after the last pass that changes nodes. */
ml_status ml_vgraph_link(ml_vgraph *g);
/* Versions and constants alone. */
void ml_vgraph_find_versions(ml_vgraph *g);
/* select.c: moves selections of rows up to where all rows are needed. */
ml_status ml_vgraph_select(ml_vgraph *g);
/* fold.c: nodes that depend on weights and constants alone and feed others are computed, and become leaves. */
ml_status ml_vgraph_fold(ml_vgraph *g);
/* forward.c: who reads a state that was assigned whole reads what was assigned. */
ml_status ml_vgraph_forward(ml_vgraph *g);
/* products.c: products of packed weights, with the elementwise work behind them and the norms before them. */
ml_status ml_vgraph_group_products(ml_vgraph *g);
/* group.c: groups of the elementwise nodes that are left. */
ml_status ml_vgraph_group(ml_vgraph *g);

/* The elementwise nodes, and assignments of them, that can be computed in the step of products that ends with `root`,
 * an elementwise node or an assignment of one, which comes last. `group` has room in its lists: ML_GROUP_MEMBERS
 * members, ML_FUSED_MAX_OUTPUTS effects. *n_outputs of them are read by others, or effects. */
bool ml_vgraph_gather(const ml_vgraph *g, int root, ml_vgroup *group, int *n_outputs);
/* Makes a group such as `like`, whose lists it copies, computed at the turn of node `turn`. */
ml_status ml_vgraph_make_group(ml_vgraph *g, int turn, const ml_vgroup *like);
/* Whether v is held, or somebody reads it who is not in the group at `turn`. */
bool ml_vgraph_is_stored(const ml_vgraph *g, int v, int turn);
/* Bytes that are neither written nor read because so many of these nodes stay inside the group at `turn`. */
size_t ml_vgraph_inner_bytes(const ml_vgraph *g, const int *list, int n, int turn);
/* What a set of nodes reads from outside, constants aside, behind the n that `inputs` lists already; more than `max` is
 * max + 1. */
int ml_vgraph_outside(const ml_vgraph *g, const int *members, int n_members, int *inputs, int n, int max);
/* Instructions of a program over a set of nodes: theirs, and one for each operand that is a constant. */
int ml_vgraph_code_size(const ml_vgraph *g, const int *members, int n);
/* emit.c: writes the steps. */
ml_status ml_vgraph_emit(ml_vgraph *g, ml_plan *p);
/* The nodes of a group as a program. Registers of outside nodes come first: `inputs` lists them. reg[i] is the register
 * of member i. */
void ml_vgraph_write_program(const ml_vgraph *g, const ml_vgroup *group, const int *inputs, int n_inputs, ml_fused *f,
                             int *reg);

/* rows.c: whether n takes rows along its last axis and gives a row each, or one element each, of a length that a step
 * over rows takes. */
bool ml_vnode_is_row_op(const ml_vgraph *g, const ml_vnode *n);
/* Whether it has one element a row of `wide`, on an axis of size 1. */
bool ml_vnode_is_narrow(const ml_vnode *n, const ml_vnode *wide);
/* The same without that axis. */
bool ml_vnode_is_flat(const ml_vnode *n, const ml_vnode *wide);
/* A group about rows, with the step's inputs and members whose values are `stored`: as stages, in `memory`. reg[i] is
 * the register of member i, or -1 where no stage but its own reads it. */
ml_status ml_vgraph_write_rows(const ml_vgraph *g, const ml_vgroup *group, const int *inputs, int n_inputs,
                               const bool *stored, ml_bump *memory, int *reg, ml_rows **out);

/* Whether node v, computed in the place of node `to`, would come after the write to a state that it reads: it would
 * then read a copy. Writes that its own step carries out do not count. */
bool ml_vgraph_is_late(const ml_vgraph *g, int v, int to, const int *own, int n_own);

/* The turn at which a live node is computed. */
static inline int ml_vgraph_turn(const ml_vgraph *g, int v) {
  int root = g->nodes[v].group, unit = g->nodes[root].unit;
  return unit >= 0 ? g->linears[unit].at : root;
}
/* Counts a rewrite (ML_REWRITES of engine.h). */
#define ML_REWROTE(g, name) ((g)->engine->stats.rewrites.name++)

static inline void ml_vgraph_save(ml_vgraph *g, ml_pass pass, size_t steps, size_t bytes) {
  ml_save(&g->saved[pass], steps, bytes);
}

static inline bool ml_listed(const int *list, int n, int v) {
  for (int i = 0; i < n; i++) {
    if (list[i] == v) return true;
  }
  return false;
}
static inline bool ml_vgroup_has(const ml_vgroup *group, int v) {
  return ml_listed(group->members, group->n_members, v) || ml_listed(group->effects, group->n_effects, v);
}
static inline bool ml_vnode_is_leaf(const ml_vnode *n) { return n->op == ML_OP_COUNT; }
static inline bool ml_vnode_is_elementwise(const ml_vnode *n) {
  return n->op != ML_OP_COUNT && ml_op_is_elementwise((ml_op)n->op);
}
static inline bool ml_vnode_is_view(const ml_vnode *n) {
  return n->op != ML_OP_COUNT && ml_op_infos[n->op].kind == ML_KIND_VIEW;
}
static inline bool ml_vnode_is_effect(const ml_vnode *n) {
  return n->op != ML_OP_COUNT && ml_op_is_effect((ml_op)n->op);
}
/* Whether an effect gives all of its state new values. */
static inline bool ml_vnode_is_whole(const ml_vgraph *g, const ml_vnode *n) {
  return n->op == ML_OP_assign && n->inputs[0] == g->nodes[n->inputs[0]].version;
}
static inline bool ml_vnode_has_results(const ml_vnode *n) {
  return n->op != ML_OP_COUNT && ml_op_infos[n->op].n_results > 0;
}
static inline int64_t ml_vnode_size(const ml_vnode *n) { return ml_shape_size(n->ndim, n->shape); }
static inline size_t ml_vnode_bytes(const ml_vnode *n) {
  const ml_dtype_info *info = &ml_dtype_infos[n->dtype];
  return (size_t)(ml_vnode_size(n) / info->block) * (size_t)info->bytes;
}
static inline int64_t ml_vnode_last(const ml_vnode *n) { return n->ndim ? n->shape[n->ndim - 1] : 1; }
/* Rows along the last axis, which may be empty. */
static inline int64_t ml_vnode_rows(const ml_vnode *n) { return n->ndim ? ml_shape_size(n->ndim - 1, n->shape) : 1; }
static inline bool ml_vnode_same_shape(const ml_vnode *a, const ml_vnode *b) {
  return ml_same_shape(a->ndim, a->shape, b->ndim, b->shape);
}
/* The same of the first n axes, which both have. */
static inline bool ml_vnode_same_axes(const ml_vnode *a, const ml_vnode *b, int n) {
  return ml_same_shape(n, a->shape, n, b->shape);
}

#endif
