/* emit.c: from the planner's graph to steps: where values lie, copies where a kernel cannot take strides. */
#include "tensor/plan/graph.h"

#include <string.h>

typedef struct emitter {
  ml_vgraph *g;
  ml_plan *p;
} emitter;

static ml_value shaped(const ml_vnode *n) {
  ml_value v = {.dtype = n->dtype, .layout = n->layout, .ndim = n->ndim};
  memcpy(v.shape, n->shape, (size_t)n->ndim * sizeof *n->shape);
  ml_strides_dense(n->ndim, n->shape, v.strides);
  return v;
}

/* What somebody may still ask for becomes an output where it is computed anyway. */
static ml_status keep_result(emitter *m, ml_vnode *n) {
  ml_vgraph *g = m->g;
  ML_TRY(ML_BUMP_GROW(&m->p->memory, m->p->outputs, m->p->outputs_capacity, (size_t)m->p->n_outputs + 1));
  ML_TRY(ML_BUMP_GROW(&g->memory, g->kept, g->kept_capacity, g->n_kept + 1));
  g->kept[g->n_kept++] = n->tensor;
  ML_REWROTE(g, kept);
  n->output = m->p->n_outputs++;
  return ML_OK;
}

/* A fresh value for a node's result: in its output where it is one, else in the arena. */
static ml_status new_result(emitter *m, int v, const ml_value *like, int *out) {
  ml_vnode *n = &m->g->nodes[v];
  bool asked = n->output >= 0;
  if (!asked && n->keep) ML_TRY(keep_result(m, n));
  ml_value value = shaped(n);
  ml_storage s = {.place = n->output >= 0 ? ML_PLACE_OUTPUT : ML_PLACE_ARENA, .index = n->output};
  if (like && !asked) memcpy(value.strides, like->strides, sizeof value.strides);
  s.bytes = ml_value_bytes(&value);
  ML_TRY(ml_plan_add_storage(m->p, s, &value.storage));
  ML_TRY(ml_plan_add_value(m->p, &value, out));
  if (n->output >= 0) m->p->outputs[n->output] = *out;
  return ML_OK;
}

static ml_status new_temporary(emitter *m, const ml_value *shape_of, int *out) {
  ml_value value = *shape_of;
  value.offset = 0;
  ml_strides_dense(value.ndim, value.shape, value.strides);
  ML_TRY(ml_plan_add_storage(m->p, (ml_storage){.place = ML_PLACE_ARENA, .bytes = ml_value_bytes(&value)},
                             &value.storage));
  return ml_plan_add_value(m->p, &value, out);
}

static ml_status set_path(emitter *m, ml_step *s, const ml_vnode *n) {
  if (!n->path) return ML_OK;
  s->path = ml_bump_strdup(&m->p->memory, n->path);
  return s->path ? ML_OK : ML_MEMORY;
}

/* ---- operands ---- */

static ml_fused *new_program(emitter *m, int n_code) {
  return ml_bump_alloc(&m->p->memory, 1, sizeof(ml_fused) + (size_t)n_code * sizeof(ml_fused_op));
}

static ml_status add_program(emitter *m, ml_fused *f, const int *values, int n, const int *out, ml_step **s) {
  ML_TRY(ml_plan_add_step(m->p, ML_STEP_FUSED, values, n, out, f->n_outputs, s));
  (*s)->fused = f;
  return ML_OK;
}

static ml_status emit_copy(emitter *m, int from, int to) {
  ml_fused *f = new_program(m, 1);
  if (!f) return ML_MEMORY;
  ml_step *s;
  ml_dtype dtype = m->p->values[from].dtype;
  f->n_inputs = f->n_code = f->n_outputs = f->outputs[0] = 1;
  f->input_dtypes[0] = dtype;
  f->code[0] = (ml_fused_op){.op = ML_OP_copy, .dtype = dtype};
  return add_program(m, f, &from, 1, &to, &s);
}

/* Puts a dense copy in a value's place. */
static ml_status copied(emitter *m, int *value) {
  int copy;
  ML_TRY(new_temporary(m, &m->p->values[*value], &copy));
  ML_TRY(emit_copy(m, *value, copy));
  *value = copy;
  return ML_OK;
}

static ml_fused_op constant_op(const ml_vgraph *g, int v) {
  const ml_attrs *a = g->nodes[g->nodes[v].constant].attrs;
  return (ml_fused_op){.op = ML_OP_constant, .dtype = g->nodes[v].dtype, .f = a->constant.real, .i = a->constant.whole};
}

static ml_status emit_constant(emitter *m, int v) {
  ml_fused *f = new_program(m, 1);
  if (!f) return ML_MEMORY;
  f->n_code = f->n_outputs = 1;
  f->code[0] = constant_op(m->g, v);
  ml_step *s;
  ML_TRY(new_result(m, v, NULL, &m->g->nodes[v].value));
  return add_program(m, f, NULL, 0, &m->g->nodes[v].value, &s);
}

/* The value of a node; constants are written out on demand. */
static ml_status value_of(emitter *m, int v, int *out) {
  if (m->g->nodes[v].value < 0 && m->g->nodes[v].op == ML_OP_constant) ML_TRY(emit_constant(m, v));
  *out = m->g->nodes[v].value;
  return *out >= 0 ? ML_OK : ml_fail(ML_DEVICE, "plan: a value is used before it is made");
}

static bool accepts(ml_access access, const ml_value *v) {
  if (v->layout != ML_LAYOUT_STRIDED || access == ML_ACCESS_ANY || v->ndim == 0) return true;
  if (access == ML_ACCESS_DENSE) return ml_value_is_dense(v);
  return v->strides[v->ndim - 1] == 1 || v->shape[v->ndim - 1] == 1;
}

/* The value as a kernel wants it: itself, or a dense copy. */
static ml_status operand(emitter *m, int v, ml_access access, int *out) {
  ml_vnode *n = &m->g->nodes[v];
  ML_TRY(value_of(m, v, out));
  if (accepts(access, &m->p->values[*out])) return ML_OK;
  if (n->dense >= 0) {
    *out = n->dense;
    return ML_OK;
  }
  ML_REWROTE(m->g, dense_copies);
  ML_TRY(copied(m, out));
  n->dense = *out;
  return ML_OK;
}

/* The same elements as (rows, last), where strides allow it; else *out is -1. */
static ml_status try_matrix(emitter *m, int value, int *out) {
  const ml_value *x = &m->p->values[value];
  int64_t last = x->ndim ? x->shape[x->ndim - 1] : 1,
          shape[2] = {last ? ml_shape_size(x->ndim, x->shape) / last : 0, last}, strides[ML_MAX_DIMS], offset = 0;
  ml_attrs none = {0};
  *out = -1;
  if (!ml_view_strides(ML_OP_reshape, &none, x->ndim, x->shape, x->strides, 2, shape, strides, &offset)) return ML_OK;
  ml_value v = *x;
  v.ndim = 2;
  memcpy(v.shape, shape, sizeof shape);
  memcpy(v.strides, strides, 2 * sizeof *strides);
  if (shape[0] == 1) v.strides[0] = last;
  return ml_plan_add_value(m->p, &v, out);
}

/* The same elements as (rows, last), for elementwise reading; a dense copy where strides do not allow it. */
static ml_status as_matrix(emitter *m, int value, int *out) {
  ML_TRY(try_matrix(m, value, out));
  if (*out >= 0) return ML_OK;
  ML_TRY(copied(m, &value));
  return try_matrix(m, value, out);
}

/* The same, of rows whose elements lie side by side. */
static ml_status as_rows(emitter *m, int value, int *out) {
  const ml_value *x = &m->p->values[value];
  if (x->ndim && x->shape[x->ndim - 1] > 1 && x->strides[x->ndim - 1] != 1) ML_TRY(copied(m, &value));
  return as_matrix(m, value, out);
}

/* A value broadcast to a shape, for elementwise reading. */
static ml_status broadcast_value(emitter *m, int value, int ndim, const int64_t *shape, int *out) {
  ml_value v = m->p->values[value];
  if (ml_same_shape(v.ndim, v.shape, ndim, shape)) {
    *out = value;
    return ML_OK;
  }
  int64_t strides[ML_MAX_DIMS], offset = 0;
  ml_attrs none = {0};
  ml_view_strides(ML_OP_broadcast_to, &none, v.ndim, v.shape, v.strides, ndim, shape, strides, &offset);
  v.ndim = ndim;
  memcpy(v.shape, shape, (size_t)ndim * sizeof *shape);
  memcpy(v.strides, strides, sizeof strides);
  return ml_plan_add_value(m->p, &v, out);
}

/* True for the strides of a dense array under another order of axes, whose order a result may keep. */
static bool permuted_dense(const ml_value *v) {
  int64_t size = ml_shape_size(v->ndim, v->shape), reach = 1;
  for (int i = 0; i < v->ndim; i++) {
    if (v->shape[i] > 1 && v->strides[i] <= 0) return false;
    if (v->shape[i] > 1) reach += (v->shape[i] - 1) * v->strides[i];
  }
  for (int i = 0; i < v->ndim; i++) {
    for (int j = 0; j < i; j++) {
      if (v->shape[i] > 1 && v->shape[j] > 1 && v->strides[i] == v->strides[j]) return false;
    }
  }
  return reach == size;
}

/* ---- states ---- */

static bool lies_in(const ml_plan *p, int value, const ml_buffer *buffer) {
  const ml_storage *s = &p->storages[p->values[value].storage];
  return s->place == ML_PLACE_TENSOR && s->buffer == buffer;
}

/* Whether somebody reads x after this: an output, or a node whose step is not there yet, those of `writer` aside, the
 * step that is put together now and takes care of its own operands. */
static bool is_awaited(const ml_vgraph *g, int x, int writer) {
  for (int i = 0; i < g->nodes[x].n_users; i++) {
    int user = g->users[g->nodes[x].first_user + i];
    if (user >= 0 && g->nodes[user].group == writer) continue;
    if (user < 0 || g->nodes[g->nodes[user].group].value < 0) return true;
  }
  return false;
}

/* A version is about to be overwritten: what is still read of it gets a place of its own. */
static ml_status save_readers(emitter *m, int version, int writer, const ml_buffer *buffer) {
  ml_vgraph *g = m->g;
  for (int x = version; x >= 0; x = g->nodes[x].next_view) {
    ml_vnode *n = &g->nodes[x];
    if (n->group < 0 || n->value < 0 || !lies_in(m->p, n->value, buffer) || !is_awaited(g, x, writer)) continue;
    int copy;
    ML_TRY(new_result(m, x, NULL, &copy));
    ML_TRY(emit_copy(m, n->value, copy));
    n->value = copy;
    ML_REWROTE(g, saved);
  }
  return ML_OK;
}

static ml_status note_cell(emitter *m, ml_cell *cell, const ml_vnode *effect, bool needed) {
  ml_plan_cell *c;
  ML_TRY(ml_plan_cell_of(m->p, cell, &c));
  c->needed |= needed;
  if (effect) {
    c->written = true;
    c->replaced |= ml_op_infos[effect->op].kind != ML_KIND_APPEND;
  }
  return ML_OK;
}

/* Where an effect writes: the value of its target, in the state's storage. */
static ml_status find_target(const emitter *m, int effect, int *target, const ml_buffer **buffer) {
  const ml_vnode *n = &m->g->nodes[effect], *to = &m->g->nodes[n->inputs[0]];
  *target = to->value;
  *buffer = m->p->storages[m->p->values[m->g->nodes[to->version].value].storage].buffer;
  return lies_in(m->p, *target, *buffer) ? ML_OK : ml_fail(ML_DEVICE, "plan: an effect lost its target");
}

/* The step of node `turn` is about to carry out an effect, whose value is the whole state from here on. */
static ml_status overwrite(emitter *m, int effect, int turn, const ml_buffer *buffer) {
  ml_vgraph *g = m->g;
  ml_vnode *n = &g->nodes[effect];
  int version = g->nodes[n->inputs[0]].version;
  bool part = !ml_vnode_is_whole(g, n);
  n->value = g->nodes[version].value;
  ML_TRY(save_readers(m, version, turn, buffer));
  return note_cell(m, n->tensor->cell, n, part && ml_vnode_is_leaf(&g->nodes[version]));
}

/* ---- elementwise programs ---- */

void ml_vgraph_write_program(const ml_vgraph *g, const ml_vgroup *group, const int *inputs, int n_inputs, ml_fused *f,
                             int *reg) {
  const ml_vnode *last = &g->nodes[group->members[group->n_members - 1]];
  f->n_inputs = n_inputs;
  for (int i = 0; i < n_inputs; i++) f->input_dtypes[i] = g->nodes[inputs[i]].dtype;
  for (int i = 0; i < group->n_members; i++) {
    const ml_vnode *node = &g->nodes[group->members[i]];
    int operands[3] = {0, 0, 0};
    for (int k = 0; k < node->n_inputs; k++) {
      int v = node->inputs[k];
      if (g->nodes[v].constant >= 0) {
        operands[k] = n_inputs + f->n_code;
        f->code[f->n_code++] = constant_op(g, v);
        continue;
      }
      for (int j = 0; j < n_inputs; j++) {
        if (inputs[j] == v) operands[k] = j;
      }
      for (int j = 0; j < i; j++) {
        if (group->members[j] == v) operands[k] = reg[j];
      }
    }
    reg[i] = n_inputs + f->n_code;
    f->code[f->n_code++] = (ml_fused_op){.op = node->op,
                                         .dtype = node->dtype,
                                         .uniform = !ml_vnode_same_shape(node, last) && ml_vnode_size(node) == 1,
                                         .a = operands[0],
                                         .b = operands[1],
                                         .c = operands[2]};
  }
}

static ml_fused *program_of(emitter *m, const ml_vgroup *group, const int *inputs, int n_inputs, int *reg) {
  ml_fused *f = new_program(m, ml_vgraph_code_size(m->g, group->members, group->n_members));
  if (f) ml_vgraph_write_program(m->g, group, inputs, n_inputs, f, reg);
  return f;
}

/* A program that is being put together. Its first inputs may be results of the step's own, of products or an anchor. */
typedef struct program_step {
  int inputs[ML_FUSED_MAX_INPUTS], values[ML_FUSED_MAX_INPUTS], n_inputs, n_results;
  int reg[ML_GROUP_MEMBERS];
  int *own, n_own;     /* the values that these results are made of */
  const ml_rows *rows; /* of a step over rows */
  int outputs[ML_FUSED_MAX_OUTPUTS], registers[ML_FUSED_MAX_OUTPUTS], n_outputs; /* values, and what they are */
} program_step;

static bool same_mapping(const ml_value *a, const ml_value *b) {
  bool same = a->offset == b->offset && a->ndim == b->ndim;
  for (int d = 0; d < a->ndim && same; d++) same = a->shape[d] == 1 || a->strides[d] == b->strides[d];
  return same;
}

/* Whether the step has read an element of input i when it writes that of a register. */
static bool reads_first(const program_step *s, int i, int reg) {
  return !s->rows || ml_rows_read_before(s->rows, i, reg);
}

/* The group carries out an assignment: its value goes to the target. What the program reads there, it reads element for
 * element, or from a copy. */
static ml_status emit_assignment(emitter *m, program_step *s, int turn, int effect) {
  ml_vgraph *g = m->g;
  ml_vnode *n = &g->nodes[effect];
  const ml_vgroup *group = g->nodes[turn].program;
  int target;
  const ml_buffer *buffer;
  int reg = 0;
  for (int i = 0; i < s->n_results; i++) {
    if (s->inputs[i] == n->inputs[1]) reg = i;
  }
  for (int i = 0; i < group->n_members; i++) {
    if (group->members[i] == n->inputs[1]) reg = s->reg[i];
  }
  ML_TRY(find_target(m, effect, &target, &buffer));
  for (int i = s->n_results; i < s->n_inputs; i++) {
    if (!lies_in(m->p, s->values[i], buffer)) continue;
    if (reads_first(s, i, reg) && same_mapping(&m->p->values[s->values[i]], &m->p->values[target])) continue;
    ML_REWROTE(g, read_first);
    ML_TRY(copied(m, &s->values[i]));
  }
  for (int i = 0; i < s->n_own; i++) {
    if (s->own[i] < 0 || !lies_in(m->p, s->own[i], buffer)) continue;
    ML_REWROTE(g, read_first);
    ML_TRY(copied(m, &s->own[i]));
  }
  ML_TRY(overwrite(m, effect, turn, buffer));
  s->registers[s->n_outputs] = reg;
  s->outputs[s->n_outputs++] = target;
  if (group->n_members) ML_REWROTE(g, assigned);
  else ML_REWROTE(g, written);
  return ML_OK;
}

/* Attention writes (B, T, H, d) in memory, so that heads merge by a view. */
static void heads_last(ml_value *v) {
  v->strides[3] = 1;
  v->strides[1] = v->shape[3];
  v->strides[2] = v->shape[1] * v->shape[3];
  v->strides[0] = v->shape[2] * v->strides[2];
}

static ml_status operands(emitter *m, const ml_vnode *n, int from, int *values) {
  for (int k = from; k < n->n_inputs; k++) {
    values[k] = -1;
    if (n->inputs[k] < 0) continue;
    ML_TRY(operand(m, n->inputs[k], ml_op_infos[n->op].access, &values[k]));
  }
  return ML_OK;
}

/* Members that are outputs of their group's step. */
static void find_stored(const ml_vgraph *g, int turn, bool *stored) {
  const ml_vgroup *group = g->nodes[turn].program;
  for (int i = 0; i < group->n_members; i++) {
    stored[i] = ml_vgraph_is_stored(g, group->members[i], turn);
    for (int k = 0; k < group->n_effects; k++) stored[i] |= g->nodes[group->effects[k]].inputs[1] == group->members[i];
  }
}

/* The order of axes that an input has is kept, where the step takes it as well as the usual one. */
static bool sets_order(const ml_value *v, const ml_vnode *shape, bool rows) {
  return ml_same_shape(v->ndim, v->shape, shape->ndim, shape->shape) && permuted_dense(v) &&
         (!rows || v->strides[v->ndim - 1] == 1);
}

/* The form in which a group reads what is outside: that of its rows, or of what has one element a row. */
static const ml_vnode *form_of(const ml_vgraph *g, const ml_vgroup *group, int outside, const ml_vnode *shape) {
  for (int i = 0; i < group->n_members && group->like >= 0; i++) {
    const ml_vnode *n = &g->nodes[group->members[i]];
    if (ml_vnode_is_elementwise(n) && ml_vnode_is_flat(n, shape) && ml_listed(n->inputs, n->n_inputs, outside))
      return n;
  }
  return shape;
}

/* The node whose shape a group's program has: its last one, or the anchor. */
static const ml_vnode *last_of(const ml_vgraph *g, const ml_vgroup *group) {
  return &g->nodes[group->n_members ? group->members[group->n_members - 1] : group->anchor];
}

/* What the program reads, and in which order of axes it then writes. */
static ml_status read_inputs(emitter *m, program_step *s, int turn, const ml_vnode *shape, ml_value *like) {
  const ml_vgroup *group = m->g->nodes[turn].program;
  bool may_keep = group->anchor < 0 && last_of(m->g, group)->op != ML_OP_copy;
  for (int i = s->n_results; i < s->n_inputs; i++) {
    ML_TRY(value_of(m, s->inputs[i], &s->values[i]));
    const ml_value *v = &m->p->values[s->values[i]];
    if (may_keep && like->ndim == 0 && sets_order(v, shape, group->like >= 0)) *like = *v;
    const ml_vnode *form = form_of(m->g, group, s->inputs[i], shape);
    ML_TRY(broadcast_value(m, s->values[i], form->ndim, form->shape, &s->values[i]));
  }
  if (group->anchor < 0) return ML_OK;
  const ml_vnode *anchor = &m->g->nodes[group->anchor];
  s->n_own = anchor->n_inputs;
  s->own = ml_bump_alloc(&m->g->memory, (size_t)s->n_own, sizeof *s->own);
  if (!s->own) return ML_MEMORY;
  if (anchor->op == ML_OP_attention) {
    *like = shaped(anchor);
    heads_last(like);
  }
  return operands(m, anchor, 0, s->own);
}

static ml_status add_output(emitter *m, program_step *s, int v, int reg, const ml_value *like) {
  if (s->n_outputs > 0) ML_REWROTE(m->g, outputs);
  bool keeps = like->ndim && ml_same_shape(like->ndim, like->shape, m->g->nodes[v].ndim, m->g->nodes[v].shape);
  ML_TRY(new_result(m, v, keeps ? like : NULL, &m->g->nodes[v].value));
  s->registers[s->n_outputs] = reg;
  s->outputs[s->n_outputs++] = m->g->nodes[v].value;
  return ML_OK;
}

/* Where the step writes: states that it assigns, and what others read. */
static ml_status write_results(emitter *m, program_step *s, int turn, const ml_value *like) {
  const ml_vgraph *g = m->g;
  const ml_vgroup *group = g->nodes[turn].program;
  for (int i = 0; i < group->n_effects; i++) ML_TRY(emit_assignment(m, s, turn, group->effects[i]));
  for (int i = 0; i < s->n_results; i++) {
    if (ml_vgraph_is_stored(g, s->inputs[i], turn)) ML_TRY(add_output(m, s, s->inputs[i], i, like));
  }
  for (int i = 0; i < group->n_members; i++) {
    if (ml_vgraph_is_stored(g, group->members[i], turn)) ML_TRY(add_output(m, s, group->members[i], s->reg[i], like));
  }
  return ML_OK;
}

/* The program's own step, or the one that its anchor has. */
static ml_status add_group_step(emitter *m, const ml_vgroup *group, program_step *s, int op, ml_step **step) {
  if (group->anchor < 0) return ml_plan_add_step(m->p, op, s->values, s->n_inputs, s->outputs, s->n_outputs, step);
  const ml_vnode *anchor = &m->g->nodes[group->anchor];
  int n = s->n_own + s->n_inputs - 1, *inputs = ml_bump_alloc(&m->g->memory, (size_t)n, sizeof *inputs);
  if (!inputs) return ML_MEMORY;
  memcpy(inputs, s->own, (size_t)s->n_own * sizeof *inputs);
  memcpy(inputs + s->n_own, s->values + 1, (size_t)(s->n_inputs - 1) * sizeof *inputs);
  ML_TRY(ml_plan_add_step(m->p, anchor->op, inputs, n, s->outputs, s->n_outputs, step));
  return ml_plan_copy_attrs(&m->p->memory, anchor->attrs, &(*step)->attrs);
}

static ml_status emit_program(emitter *m, int turn) {
  ml_vgraph *g = m->g;
  const ml_vgroup *group = g->nodes[turn].program;
  const ml_vnode *last = last_of(g, group), *shape = group->like < 0 ? last : &g->nodes[group->like];
  program_step s = {.inputs = {group->anchor}, .n_results = group->anchor >= 0};
  bool stored[ML_GROUP_MEMBERS];
  ml_fused *program = NULL;
  ml_rows *rows = NULL;
  s.n_inputs = ml_vgraph_outside(g, group->members, group->n_members, s.inputs, s.n_results, ML_FUSED_MAX_INPUTS);
  find_stored(g, turn, stored);
  if (group->like >= 0)
    ML_TRY(ml_vgraph_write_rows(g, group, s.inputs, s.n_inputs, stored, &m->p->memory, s.reg, &rows));
  else if (group->n_members && !(program = program_of(m, group, s.inputs, s.n_inputs, s.reg))) return ML_MEMORY;
  s.rows = rows;
  ml_value like = {0};
  ML_TRY(read_inputs(m, &s, turn, shape, &like));
  ML_TRY(write_results(m, &s, turn, &like));
  ml_step *step;
  ML_TRY(add_group_step(m, group, &s, rows ? ML_STEP_ROWS : ML_STEP_FUSED, &step));
  step->fused = program;
  step->rows = rows;
  step->saved = group->saved;
  if (program || rows)
    memcpy(rows ? rows->outputs : program->outputs, s.registers, (size_t)s.n_outputs * sizeof *s.registers);
  if (program) program->n_outputs = s.n_outputs;
  return set_path(m, step, last);
}

/* A reduction with what is computed before it. */
static ml_status emit_head(emitter *m, int v) {
  ml_vgraph *g = m->g;
  ml_vnode *n = &g->nodes[v];
  const ml_vgroup *group = n->program;
  const ml_vnode *x = &g->nodes[n->inputs[0]];
  program_step s = {0};
  s.n_inputs = ml_vgraph_outside(g, group->members, group->n_members, s.inputs, 0, ML_FUSED_MAX_INPUTS);
  ml_fused *program = program_of(m, group, s.inputs, s.n_inputs, s.reg);
  if (!program) return ML_MEMORY;
  program->n_outputs = 1;
  program->outputs[0] = s.reg[group->n_members - 1];
  for (int i = 0; i < s.n_inputs; i++) {
    ML_TRY(value_of(m, s.inputs[i], &s.values[i]));
    ML_TRY(broadcast_value(m, s.values[i], x->ndim, x->shape, &s.values[i]));
  }
  ML_TRY(new_result(m, v, NULL, &n->value));
  ml_step *step;
  ML_TRY(ml_plan_add_step(m->p, n->op, s.values, s.n_inputs, &n->value, 1, &step));
  step->fused = program;
  step->saved = group->saved;
  ML_TRY(ml_plan_copy_attrs(&m->p->memory, n->attrs, &step->attrs));
  return set_path(m, step, n);
}

/* ---- products ---- */

enum { MAX_STEP_INPUTS = 2 + ML_LINEARS_MAX_UNITS * (ML_UNIT_MAX_WEIGHTS + ML_FUSED_MAX_INPUTS) };

/* A step of products that is being put together. */
typedef struct products_step {
  int inputs[MAX_STEP_INPUTS], n_inputs; /* x, the weight of its norm or -1, then what the units read */
  int outputs[ML_LINEARS_MAX_UNITS * ML_FUSED_MAX_OUTPUTS], n_outputs;
} products_step;

/* What unit `unit` computes behind its products, and where it writes. */
static ml_status emit_epilogue(emitter *m, const ml_vunit *u, ml_linear_unit *unit, products_step *p) {
  ml_vgraph *g = m->g;
  const ml_vgroup *group = g->nodes[u->root].program;
  const ml_vnode *product = &g->nodes[u->products[0]];
  program_step s = {.n_results = u->n_products, .own = p->inputs, .n_own = 2};
  memcpy(s.inputs, u->products, sizeof u->products);
  s.n_inputs = ml_vgraph_outside(g, group->members, group->n_members, s.inputs, s.n_results, ML_FUSED_MAX_INPUTS);
  if (group->n_members && !(unit->epilogue = program_of(m, group, s.inputs, s.n_inputs, s.reg))) return ML_MEMORY;
  for (int i = s.n_results; i < s.n_inputs; i++) {
    ML_TRY(value_of(m, s.inputs[i], &s.values[i]));
    ML_TRY(broadcast_value(m, s.values[i], product->ndim, product->shape, &s.values[i]));
  }
  ML_TRY(write_results(m, &s, u->root, &(ml_value){0}));
  for (int i = s.n_results; i < s.n_inputs; i++) {
    unit->extra[unit->n_extra++] = p->n_inputs;
    ML_TRY(as_matrix(m, s.values[i], &p->inputs[p->n_inputs++]));
  }
  for (int i = 0; i < s.n_outputs; i++) ML_TRY(as_matrix(m, s.outputs[i], &p->outputs[p->n_outputs++]));
  if (!unit->epilogue) return ML_OK;
  unit->epilogue->n_outputs = s.n_outputs;
  memcpy(unit->epilogue->outputs, s.registers, (size_t)s.n_outputs * sizeof *s.registers);
  return ML_OK;
}

/* The weight of a product, or the rows of it that give its outputs. */
static ml_status weight_of(emitter *m, int product, int *out) {
  const ml_vnode *n = &m->g->nodes[product];
  int64_t outputs = ml_vnode_last(n);
  ML_TRY(value_of(m, n->inputs[1], out));
  ml_value w = m->p->values[*out];
  if (w.shape[0] == outputs) return ML_OK;
  w.offset += (int64_t)m->p->device->table->packed_bytes(m->p->device, w.dtype, n->first_output, w.shape[1]);
  w.shape[0] = outputs;
  return ml_plan_add_value(m->p, &w, out);
}

static ml_status emit_unit(emitter *m, const ml_vunit *u, ml_linear_unit *unit, products_step *p) {
  ml_vgraph *g = m->g;
  unit->n_weights = u->n_products;
  unit->first_output = p->n_outputs;
  for (int k = 0; k < u->n_products; k++) {
    unit->weights[k] = p->n_inputs;
    ML_TRY(weight_of(m, u->products[k], &p->inputs[p->n_inputs++]));
  }
  if (u->root != u->products[0]) ML_TRY(emit_epilogue(m, u, unit, p));
  else {
    ML_TRY(new_result(m, u->root, NULL, &g->nodes[u->root].value));
    ML_TRY(as_matrix(m, g->nodes[u->root].value, &p->outputs[p->n_outputs++]));
  }
  unit->n_outputs = p->n_outputs - unit->first_output;
  return ML_OK;
}

static ml_status emit_units(emitter *m, const ml_vlinears *l, ml_linears *units) {
  ml_vgraph *g = m->g;
  products_step p = {.inputs = {[1] = -1}, .n_inputs = 2};
  ML_TRY(value_of(m, l->x, &p.inputs[0]));
  ML_TRY(as_rows(m, p.inputs[0], &p.inputs[0]));
  if (l->norm >= 0) {
    const ml_vnode *norm = &g->nodes[l->norm];
    units->norm = true;
    units->eps = norm->attrs->rms_norm.eps;
    units->norm_offset = norm->attrs->rms_norm.offset;
    if (norm->inputs[1] >= 0) ML_TRY(operand(m, norm->inputs[1], ML_ACCESS_DENSE, &p.inputs[1]));
  }
  for (int i = 0; i < l->n_units; i++) ML_TRY(emit_unit(m, &l->units[i], &units->units[units->n_units++], &p));
  ml_step *s;
  ML_TRY(ml_plan_add_step(m->p, ML_STEP_LINEARS, p.inputs, p.n_inputs, p.outputs, p.n_outputs, &s));
  s->linears = units;
  s->saved = l->saved;
  return set_path(m, s, &g->nodes[l->units[0].products[0]]);
}

static ml_status emit_linears(emitter *m, const ml_vlinears *l) {
  ml_linears *units = ml_bump_alloc(&m->p->memory, 1, sizeof *units);
  if (!units) return ML_MEMORY;
  return emit_units(m, l, units);
}

/* ---- leaves and views ---- */

/* What a run puts in place of a placeholder has its input's type: the placeholder must have it too. */
static ml_status check_placeholder(const ml_value *input, const ml_vnode *n) {
  if (input->dtype == n->dtype && input->layout == n->layout && input->exact == n->tensor->exact &&
      ml_same_shape(input->ndim, input->shape, n->ndim, n->shape))
    return ML_OK;
  return ml_fail(ML_USAGE, "a placeholder differs from the plan's input in dtype, layout or shape");
}

static ml_status emit_input(emitter *m, ml_vnode *n) {
  ml_value value = shaped(n);
  int64_t index = n->attrs->input.index;
  if (index < 0 || index >= m->p->n_inputs)
    return ml_fail(ML_USAGE, "what a compiled function made is used outside it: return it");
  ML_TRY(check_placeholder(&m->p->input_values[index], n));
  value.exact = n->tensor->exact;
  ml_storage s = {.place = ML_PLACE_INPUT, .index = (int)index, .bytes = ml_value_bytes(&value)};
  ML_TRY(ml_plan_add_storage(m->p, s, &value.storage));
  return ml_plan_add_value(m->p, &value, &n->value);
}

static ml_status emit_leaf(emitter *m, ml_vnode *n) {
  ml_value value = shaped(n);
  value.exact = n->tensor->exact;
  memcpy(value.strides, n->tensor->strides, sizeof value.strides);
  ml_storage s = {.place = ML_PLACE_TENSOR,
                  .buffer = n->tensor->buffer,
                  .offset = n->tensor->offset,
                  .bytes = ml_value_bytes(&value)};
  ML_TRY(ml_plan_add_storage(m->p, s, &value.storage));
  return ml_plan_add_value(m->p, &value, &n->value);
}

static ml_status emit_view(emitter *m, int v) {
  ml_vnode *n = &m->g->nodes[v];
  int from;
  ML_TRY(value_of(m, n->inputs[0], &from));
  for (int copies = 0;; copies++) {
    const ml_value *x = &m->p->values[from];
    ml_value value = shaped(n);
    int64_t offset = 0;
    value.storage = x->storage;
    if (ml_view_strides((ml_op)n->op, n->attrs, x->ndim, x->shape, x->strides, value.ndim, value.shape, value.strides,
                        &offset)) {
      value.offset = x->offset + offset * ml_dtype_infos[x->dtype].bytes;
      if (copies == 0) ml_vgraph_save(m->g, ML_PASS_emit, 1, 2 * ml_vnode_bytes(n));
      return ml_plan_add_value(m->p, &value, &n->value);
    }
    ML_TRY(copied(m, &from));
  }
}

/* What reads the first version of a state, or a view of it, needs what the state holds. */
static ml_status note_reader(emitter *m, int v) {
  int version = m->g->nodes[v].version;
  if (version < 0 || !ml_vnode_is_leaf(&m->g->nodes[version])) return ML_OK;
  return note_cell(m, m->g->nodes[version].tensor->cell, NULL, true);
}

/* ---- the rest ---- */

static ml_status add_kernel(emitter *m, const ml_vnode *n, const int *values, const int *outputs, int n_outputs) {
  ml_step *s;
  ML_TRY(ml_plan_add_step(m->p, n->op, values, n->n_inputs, outputs, n_outputs, &s));
  ML_TRY(ml_plan_copy_attrs(&m->p->memory, n->attrs, &s->attrs));
  return set_path(m, s, n);
}

/* The results of an operation with several that somebody wants. */
static ml_status emit_results(emitter *m, int v, const int *values) {
  ml_vnode *n = &m->g->nodes[v];
  int outputs[ML_MAX_RESULTS], n_results = ml_op_infos[n->op].n_results;
  for (int k = n_results - 1; k >= 0; k--) {
    outputs[k] = -1;
    if (n->results[k] < 0) continue;
    ML_TRY(new_result(m, n->results[k], NULL, &outputs[k]));
    n->value = m->g->nodes[n->results[k]].value = outputs[k];
  }
  ML_REWROTE(m->g, several);
  return add_kernel(m, n, values, outputs, n_results);
}

static ml_status emit_kernel(emitter *m, int v, int *values) {
  ml_vnode *n = &m->g->nodes[v];
  ML_TRY(operands(m, n, 0, values));
  if (n->results) return emit_results(m, v, values);
  ml_value like = {0};
  bool keeps = false;
  if (n->op == ML_OP_rope || n->op == ML_OP_rms_norm || n->op == ML_OP_layer_norm) {
    like = m->p->values[values[0]];
    keeps = permuted_dense(&like);
  } else if (n->op == ML_OP_attention) {
    like = shaped(n);
    heads_last(&like);
    keeps = true;
  }
  if (keeps) ML_REWROTE(m->g, orders_kept);
  ML_TRY(new_result(m, v, keeps ? &like : NULL, &n->value));
  return add_kernel(m, n, values, &n->value, 1);
}

/* The step writes where the target lies; the effect's value is the whole state. */
static ml_status emit_effect(emitter *m, int v, int *values) {
  ml_vgraph *g = m->g;
  ml_vnode *n = &g->nodes[v];
  int target;
  const ml_buffer *buffer;
  ML_TRY(find_target(m, v, &target, &buffer));
  ML_TRY(overwrite(m, v, v, buffer));
  ML_TRY(operands(m, n, 1, values));
  for (int k = 1; k < n->n_inputs; k++) {
    if (values[k] < 0 || !lies_in(m->p, values[k], buffer)) continue;
    ML_REWROTE(g, overwritten);
    ML_TRY(copied(m, &values[k]));
  }
  values[0] = target;
  return add_kernel(m, n, values, &target, 1);
}

static ml_status emit_node(emitter *m, int v) {
  ml_vgraph *g = m->g;
  if (g->nodes[v].linears >= 0) ML_TRY(emit_linears(m, &g->linears[g->nodes[v].linears]));
  ml_vnode *n = &g->nodes[v];
  if (n->group < 0) return ML_OK;
  if (!ml_vnode_is_view(n)) {
    for (int k = ml_vnode_is_effect(n) ? 1 : 0; k < n->n_inputs; k++) {
      if (n->inputs[k] >= 0) ML_TRY(note_reader(m, n->inputs[k]));
    }
  }
  if (n->group != v || n->unit >= 0 || n->value >= 0) return ML_OK;
  if (ml_vnode_is_leaf(n)) return emit_leaf(m, n);
  if (n->op == ML_OP_input) return emit_input(m, n);
  if (n->op == ML_OP_constant || n->op == ML_OP_result) return ML_OK; /* of a result: its operation has made it */
  if (ml_vnode_is_view(n)) return emit_view(m, v);
  if (n->program) return n->program->sink >= 0 ? emit_head(m, v) : emit_program(m, v);
  int *values = ml_bump_alloc(&g->memory, (size_t)n->n_inputs, sizeof *values);
  if (!values) return ML_MEMORY;
  return ml_vnode_is_effect(n) ? emit_effect(m, v, values) : emit_kernel(m, v, values);
}

/* An output whose value lies elsewhere (a view, an input, a constant, a state, another output) is copied to a place of
 * its own. */
static ml_status emit_output(emitter *m, int i, int v) {
  int value;
  const ml_vnode *n = &m->g->nodes[v];
  if (n->layout != ML_LAYOUT_STRIDED)
    return ml_fail(ML_USAGE,
                   "a weight of %s that is packed or in blocks is no result of a compiled function: unpack or "
                   "dequantize it first",
                   ml_dtype_name(n->dtype));
  ML_TRY(value_of(m, v, &value));
  ML_TRY(note_reader(m, v));
  const ml_storage *s = &m->p->storages[m->p->values[value].storage];
  m->p->outputs[i] = value;
  if (s->place == ML_PLACE_OUTPUT && s->index == i && m->p->values[value].ndim == n->ndim) return ML_OK;
  ml_value out = shaped(n);
  ML_TRY(ml_plan_add_storage(m->p, (ml_storage){.place = ML_PLACE_OUTPUT, .index = i, .bytes = ml_value_bytes(&out)},
                             &out.storage));
  ML_TRY(ml_plan_add_value(m->p, &out, &m->p->outputs[i]));
  return emit_copy(m, value, m->p->outputs[i]);
}

ml_status ml_vgraph_emit(ml_vgraph *g, ml_plan *p) {
  emitter m = {g, p};
  for (size_t v = 0; v < g->n_nodes; v++) ML_TRY(emit_node(&m, (int)v));
  for (size_t i = 0; i < g->n_outputs; i++) ML_TRY(emit_output(&m, (int)i, g->roots[i]));
  return ML_OK;
}
