/* rows.c: which operations work row by row, and a group of them as stages. */
#include "tensor/plan/graph.h"

/* Whether n takes rows along its last axis and gives a row each, or one element each. */
bool ml_vnode_is_row_op(const ml_vgraph *g, const ml_vnode *n) {
  if (n->op == ML_OP_COUNT || n->n_inputs == 0 || n->inputs[0] < 0) return false;
  for (int k = 0; k < n->n_inputs; k++) {
    if (n->inputs[k] >= 0 && g->nodes[n->inputs[k]].constant >= 0) return false; /* which has no register */
  }
  const ml_vnode *x = &g->nodes[n->inputs[0]];
  int64_t length = x->ndim ? x->shape[x->ndim - 1] : 0;
  if (length < ML_ROWS_LEAST || length > ML_ROWS_MOST || ml_vnode_size(x) == 0) return false;
  if (ml_op_is_reduction(n->op)) {
    ml_list axis = n->attrs->sum.axis;
    return axis.count == 1 && *ml_attrs_list(n->attrs, axis) == x->ndim - 1;
  }
  bool rows =
      n->op == ML_OP_rms_norm || n->op == ML_OP_layer_norm || n->op == ML_OP_softmax || n->op == ML_OP_log_softmax;
  return rows && ml_dtype_class_of(n->dtype) == ML_CLASS_FLOAT;
}

bool ml_vnode_is_narrow(const ml_vnode *n, const ml_vnode *wide) {
  return n->ndim == wide->ndim && n->shape[n->ndim - 1] == 1 && ml_vnode_same_axes(n, wide, n->ndim - 1);
}

bool ml_vnode_is_flat(const ml_vnode *n, const ml_vnode *wide) {
  return n->ndim + 1 == wide->ndim && ml_vnode_same_axes(n, wide, n->ndim);
}

/* Whether the stages of a row have read an input when they begin to write a register. */
bool ml_rows_read_before(const ml_rows *r, int input, int reg) {
  bool written = false;
  for (int i = 0; i < r->n_stages; i++) {
    const ml_row_stage *s = &r->stages[i];
    bool writes = ml_listed(s->results, s->n_results, reg);
    for (int k = 0; k < s->n_inputs; k++) {
      bool first = !s->program && k == 0; /* a row operation has read its row when it writes */
      if (s->inputs[k] == input && (written || (writes && !first))) return false;
    }
    written |= writes;
  }
  return written;
}

/* ---- stages ---- */

typedef struct stages {
  const ml_vgraph *g;
  const ml_vgroup *group;
  const int *inputs; /* vnodes of the step's inputs, which are its first registers */
  int n_inputs;
  const bool *stored; /* of a member: it is an output of the step */
  int *reg;           /* of a member: the register that its stage writes, or -1: nobody else reads it */
  int depth[ML_GROUP_MEMBERS];
  ml_bump *memory;
  ml_rows *rows;
} stages;

static const ml_vnode *member(const stages *s, int i) { return &s->g->nodes[s->group->members[i]]; }

static int find(const stages *s, int v) {
  for (int i = 0; i < s->group->n_members; i++) {
    if (s->group->members[i] == v) return i;
  }
  return -1;
}

/* A member that elementwise ones of its class share a program with, or -1: a row operation of its own. */
static int class_of(const stages *s, int i) {
  const ml_vnode *n = member(s, i);
  if (!ml_vnode_is_elementwise(n)) return -1;
  return !ml_vnode_same_shape(n, &s->g->nodes[s->group->like]);
}

static bool same_stage(const stages *s, int i, int j) {
  return i == j || (class_of(s, i) >= 0 && class_of(s, i) == class_of(s, j) && s->depth[i] == s->depth[j]);
}

/* At one depth row operations come first, then what is narrow, then what is wide. */
static void find_depths(stages *s) {
  for (int i = 0; i < s->group->n_members; i++) {
    const ml_vnode *n = member(s, i);
    s->depth[i] = 0;
    for (int k = 0; k < n->n_inputs; k++) {
      int j = n->inputs[k] < 0 ? -1 : find(s, n->inputs[k]);
      int least = j < 0 ? 0 : s->depth[j] + (class_of(s, i) < 0);
      if (least > s->depth[i]) s->depth[i] = least;
    }
  }
}

static void find_registers(stages *s) {
  int n = s->n_inputs;
  for (int i = 0; i < s->group->n_members; i++) {
    bool crosses = s->stored[i];
    for (int j = i + 1; j < s->group->n_members && !crosses; j++) {
      const ml_vnode *user = member(s, j);
      for (int k = 0; k < user->n_inputs && !same_stage(s, i, j); k++)
        crosses |= user->inputs[k] == s->group->members[i];
    }
    s->reg[i] = crosses ? n++ : -1;
  }
  s->rows->n_registers = n;
}

static int register_of(const stages *s, int v) {
  int i = find(s, v);
  for (int k = 0; k < s->n_inputs && i < 0; k++) {
    if (s->inputs[k] == v) return k;
  }
  return i < 0 ? -1 : s->reg[i];
}

static ml_status describe_registers(stages *s) {
  ml_rows *r = s->rows;
  r->registers = ml_bump_alloc(s->memory, (size_t)r->n_registers, sizeof *r->registers);
  if (!r->registers) return ML_MEMORY;
  for (int k = 0; k < s->n_inputs; k++) r->registers[k].dtype = s->g->nodes[s->inputs[k]].dtype;
  const ml_vnode *like = &s->g->nodes[s->group->like];
  for (int i = 0; i < s->group->n_members; i++) {
    const ml_vnode *n = member(s, i);
    if (s->reg[i] >= 0) r->registers[s->reg[i]] = (ml_row_register){n->dtype, !ml_vnode_same_shape(n, like)};
  }
  return ML_OK;
}

static ml_row_stage *new_stage(stages *s, int op) {
  ml_row_stage *stage = &s->rows->stages[s->rows->n_stages++];
  *stage = (ml_row_stage){.op = op};
  return stage;
}

static ml_status add_row_op(stages *s, int i) {
  const ml_vnode *n = member(s, i);
  ml_row_stage *stage = new_stage(s, n->op);
  ML_TRY(ml_plan_copy_attrs(s->memory, n->attrs, &stage->attrs));
  stage->n_inputs = n->n_inputs;
  for (int k = 0; k < n->n_inputs; k++) stage->inputs[k] = n->inputs[k] < 0 ? -1 : register_of(s, n->inputs[k]);
  stage->n_results = 1;
  stage->results[0] = s->reg[i];
  return ML_OK;
}

/* The elementwise members of a depth and class, if there are any, as one program. */
static ml_status add_program(stages *s, int depth, int narrow) {
  int members[ML_GROUP_MEMBERS], n = 0, outside[ML_PROGRAM_MAX_INPUTS], reg[ML_GROUP_MEMBERS];
  for (int i = 0; i < s->group->n_members; i++) {
    if (s->depth[i] == depth && class_of(s, i) == narrow) members[n++] = s->group->members[i];
  }
  if (!n) return ML_OK;
  ml_vgroup part = {.members = members, .n_members = n};
  ml_row_stage *stage = new_stage(s, ML_STEP_FUSED);
  stage->narrow = narrow;
  stage->n_inputs = ml_vgraph_outside(s->g, members, n, outside, 0, ML_PROGRAM_MAX_INPUTS);
  stage->program = ml_bump_alloc(
      s->memory, 1, sizeof(ml_fused) + (size_t)ml_vgraph_code_size(s->g, members, n) * sizeof(ml_fused_op));
  if (!stage->program) return ML_MEMORY;
  for (int k = 0; k < stage->n_inputs; k++) stage->inputs[k] = register_of(s, outside[k]);
  ml_vgraph_write_program(s->g, &part, outside, stage->n_inputs, stage->program, reg);
  for (int k = 0; k < n; k++) {
    int to = s->reg[find(s, members[k])];
    if (to < 0) continue;
    stage->from[stage->n_results] = reg[k];
    stage->results[stage->n_results++] = to;
  }
  return ML_OK;
}

ml_status ml_vgraph_write_rows(const ml_vgraph *g, const ml_vgroup *group, const int *inputs, int n_inputs,
                               const bool *stored, ml_bump *memory, int *reg, ml_rows **out) {
  ml_rows *r = ml_bump_alloc(memory, 1, sizeof *r + (size_t)group->n_members * sizeof *r->stages);
  if (!r) return ML_MEMORY;
  *out = r;
  const ml_vnode *like = &g->nodes[group->like];
  r->length = ml_vnode_last(like);
  r->lead = like->ndim - 1;
  memcpy(r->shape, like->shape, (size_t)r->lead * sizeof *r->shape);
  r->n_inputs = n_inputs;
  stages s = {.g = g,
              .group = group,
              .inputs = inputs,
              .n_inputs = n_inputs,
              .stored = stored,
              .reg = reg,
              .memory = memory,
              .rows = r};
  find_depths(&s);
  find_registers(&s);
  ML_TRY(describe_registers(&s));
  int deepest = 0;
  for (int i = 0; i < group->n_members; i++) deepest = s.depth[i] > deepest ? s.depth[i] : deepest;
  for (int depth = 0; depth <= deepest; depth++) {
    for (int i = 0; i < group->n_members; i++) {
      if (s.depth[i] == depth && class_of(&s, i) < 0) ML_TRY(add_row_op(&s, i));
    }
    ML_TRY(add_program(&s, depth, true));
    ML_TRY(add_program(&s, depth, false));
  }
  return ML_OK;
}
