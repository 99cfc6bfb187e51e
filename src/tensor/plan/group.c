/* group.c: which nodes are one step: elementwise ones, and those along rows with the elementwise work about them.
 *
 * A producer whose users are all in one expression moves into it, which saves writing and reading it; one that others
 * read later is an output of the program beside the last, which saves reading it. An assignment of a value that the
 * program computes is carried out by it: the value goes to the state at once, which saves writing and reading it.
 * A norm, a softmax or a reduction along rows takes in what its rows are computed from and what is done with them, and
 * statistics of a row what is done with those: the row stays in the nearest memory from one to the next. */
#include "tensor/plan/graph.h"

#include <string.h>

/* Users of a node that are looked at: with more it is a value on its own. */
enum { MOST_USERS = 48 };
/* Columns side by side from which on a program before a reduction of them pays. */
enum { LEAST_COLUMNS = 64 };

typedef struct gathering {
  const ml_vgraph *g;
  int turn;      /* the node at whose turn it is all computed */
  int like;      /* the node whose shape all members have, or whose rows they work on */
  bool rows;     /* row operations may join, and nodes with an element a row */
  bool products; /* it is computed in a step of products, which writes states whole */
  bool keeps;    /* what somebody holds is an output, or does not join */
  int n_row_ops;
  int anchor; /* a product or attention whose result the program takes on, or -1 */
  int sink;   /* a reduction that takes what the program computes, or -1 */
  int members[ML_GROUP_MEMBERS], n_members;
  int effects[ML_FUSED_MAX_OUTPUTS], n_effects;
  int n_outputs; /* of values that others read, and of effects */
} gathering;

int ml_vgraph_outside(const ml_vgraph *g, const int *members, int n_members, int *inputs, int n, int max) {
  for (int i = 0; i < n_members; i++) {
    const ml_vnode *m = &g->nodes[members[i]];
    for (int k = 0; k < m->n_inputs; k++) {
      int v = m->inputs[k];
      if (v < 0) continue;
      if (ml_listed(members, n_members, v) || g->nodes[v].constant >= 0 || ml_listed(inputs, n, v)) continue;
      if (n == max) return max + 1;
      inputs[n++] = v;
    }
  }
  return n;
}

int ml_vgraph_code_size(const ml_vgraph *g, const int *members, int n) {
  int size = n;
  for (int i = 0; i < n; i++) {
    const ml_vnode *m = &g->nodes[members[i]];
    for (int k = 0; k < m->n_inputs; k++) size += m->inputs[k] >= 0 && g->nodes[m->inputs[k]].constant >= 0;
  }
  return size;
}

/* ---- joining ---- */

/* Whether a node's step comes after the group's. */
static bool is_later(const gathering *t, int user) { return user < 0 || ml_vgraph_turn(t->g, user) > t->turn; }

/* Whether the group can carry out an assignment of its member v. It happens later than it would by itself, when nobody
 * has read the new version yet. */
static bool can_assign(const gathering *t, int effect, int v) {
  const ml_vnode *e = &t->g->nodes[effect];
  if (e->op != ML_OP_assign || e->inputs[1] != v || e->group != effect || e->program || effect > t->turn ||
      e->n_users > MOST_USERS || (t->products && !ml_vnode_is_whole(t->g, e)))
    return false;
  for (int i = 0; i < e->n_users; i++) {
    if (!is_later(t, t->g->users[e->first_user + i])) return false;
  }
  return true;
}

/* Whether an elementwise program may follow n in its step. */
static bool is_anchor(const gathering *t, const ml_vnode *n) {
  bool known = n->op == ML_OP_matmul || n->op == ML_OP_linear || n->op == ML_OP_linear_transposed ||
               n->op == ML_OP_gather_linear || n->op == ML_OP_attention;
  if (n->op == ML_OP_linear && t->g->nodes[n->inputs[1]].layout != ML_LAYOUT_STRIDED) return false; /* products.c */
  return known && !t->rows && !t->products && t->sink < 0 && t->anchor < 0 && ml_dtype_is_float(n->dtype) &&
         n->ndim > 0;
}

/* Whether v is of a kind that the group takes. */
static bool is_kind(const gathering *t, const ml_vnode *n) {
  const ml_vnode *like = &t->g->nodes[t->like];
  if (ml_vnode_is_elementwise(n))
    return ml_vnode_same_shape(n, like) ||
           (t->rows ? ml_vnode_is_narrow(n, like) || ml_vnode_is_flat(n, like) : ml_vnode_size(n) == 1);
  if (is_anchor(t, n)) return ml_vnode_same_shape(n, like);
  return t->rows && ml_vnode_is_row_op(t->g, n) && ml_vnode_same_shape(&t->g->nodes[n->inputs[0]], like);
}

static bool is_flat(const gathering *t, const ml_vnode *n) {
  return t->rows && ml_vnode_is_flat(n, &t->g->nodes[t->like]);
}

/* Whether v can be read where the group's members read it. What has one element a row but not the axis of the row is
 * read by its like alone: to all others it would be a row. And what is outside has one form in a step. */
static bool is_read_alike(const gathering *t, int v) {
  const ml_vnode *n = &t->g->nodes[v];
  for (int i = 0; i < t->n_members && t->rows; i++) {
    const ml_vnode *m = &t->g->nodes[t->members[i]];
    bool flat = ml_vnode_is_elementwise(m) && is_flat(t, m);
    bool alike = flat == (ml_vnode_is_elementwise(n) && is_flat(t, n));
    for (int k = 0; k < m->n_inputs; k++) {
      int input = m->inputs[k];
      if (input == v && is_flat(t, n) != flat) return false;
      if (!alike && input >= 0 && t->g->nodes[input].constant < 0 && ml_listed(n->inputs, n->n_inputs, input))
        return false;
    }
  }
  return true;
}

/* Whether a member can be an output: what is one element for all cannot, and what is before a reduction. */
static bool fits_outputs(const gathering *t, const ml_vnode *n) {
  if (t->sink >= 0) return false;
  return t->rows || ml_vnode_same_shape(n, &t->g->nodes[t->like]);
}

/* Adds v and the assignments of it where all that reads v is in the group or comes later; false, with nothing changed,
 * where not. */
static bool join(gathering *t, int v) {
  const ml_vgraph *g = t->g;
  const ml_vnode *n = &g->nodes[v];
  int n_effects = t->n_effects, inputs[ML_FUSED_MAX_INPUTS + 1];
  bool stored = false, fits = n->group == v && n->unit < 0 && n->n_users <= MOST_USERS && is_kind(t, n) &&
                              t->n_members < ML_GROUP_MEMBERS && is_read_alike(t, v);
  for (int i = 0; fits && i < n->n_users; i++) {
    int user = g->users[n->first_user + i];
    if (user >= 0 &&
        (user == t->sink || ml_listed(t->members, t->n_members, user) || ml_listed(t->effects, t->n_effects, user)))
      continue;
    if (fits_outputs(t, n) && user >= 0 && t->n_effects < ML_FUSED_MAX_OUTPUTS && can_assign(t, user, v))
      t->effects[t->n_effects++] = user;
    else if (fits_outputs(t, n) && is_later(t, user)) stored = true;
    else fits = false;
  }
  stored = stored || (t->keeps && n->keep && fits_outputs(t, n));
  bool anchor = fits && is_anchor(t, n);
  if (fits) {
    if (!anchor) t->members[t->n_members] = v;
    int outputs = t->n_outputs + (t->n_effects - n_effects) + stored;
    fits = !ml_vgraph_is_late(g, v, t->turn, t->effects, t->n_effects) && outputs <= ML_FUSED_MAX_OUTPUTS &&
           ml_vgraph_outside(g, t->members, t->n_members + !anchor, inputs, 0, ML_FUSED_MAX_INPUTS) <=
               ML_FUSED_MAX_INPUTS &&
           ml_vgraph_code_size(g, t->members, t->n_members + !anchor) <= ML_FUSED_MAX_CODE;
    if (fits && anchor) {
      t->anchor = v;
      t->n_outputs = outputs;
      return true;
    }
    if (fits) {
      t->n_members++;
      t->n_row_ops += !ml_vnode_is_elementwise(n);
      t->n_outputs = outputs;
      return true;
    }
  }
  t->n_effects = n_effects;
  return false;
}

static void sort(int *list, int n) {
  for (int i = 1; i < n; i++) {
    int v = list[i], j = i;
    for (; j > 0 && list[j - 1] > v; j--) list[j] = list[j - 1];
    list[j] = v;
  }
}

/* From the members that are there, all that can join. */
static void grow(gathering *t) {
  for (bool grown = true; grown;) {
    grown = false;
    for (int i = 0; i < t->n_members && !grown; i++) {
      const ml_vnode *m = &t->g->nodes[t->members[i]];
      for (int k = 0; k < m->n_inputs && !grown; k++) {
        int v = m->inputs[k];
        grown = v >= 0 && v != t->anchor && !ml_listed(t->members, t->n_members, v) && join(t, v);
      }
    }
  }
  sort(t->members, t->n_members); /* so that operands come before their users */
  sort(t->effects, t->n_effects);
}

/* From the last node of a group, an elementwise one, a row operation or an assignment of either, all that it takes in.
 */
static bool gather_at(gathering *t, int v) {
  const ml_vnode *n = &t->g->nodes[v];
  if (n->op == ML_OP_assign) {
    t->effects[t->n_effects++] = v;
    if (!join(t, n->inputs[1])) return false;
  } else {
    t->n_row_ops += !ml_vnode_is_elementwise(n);
    t->members[t->n_members++] = v;
  }
  grow(t);
  return true;
}

bool ml_vgraph_gather(const ml_vgraph *g, int root, ml_vgroup *group, int *n_outputs) {
  const ml_vnode *n = &g->nodes[root];
  int last = n->op == ML_OP_assign ? n->inputs[1] : root;
  gathering t = {.g = g, .turn = root, .like = last, .products = true, .n_outputs = 1, .anchor = -1, .sink = -1};
  if (!gather_at(&t, root)) return false;
  memcpy(group->members, t.members, (size_t)t.n_members * sizeof *t.members);
  memcpy(group->effects, t.effects, (size_t)t.n_effects * sizeof *t.effects);
  group->n_members = t.n_members;
  group->n_effects = t.n_effects;
  *n_outputs = t.n_outputs;
  return true;
}

/* ---- groups ---- */

ml_status ml_vgraph_make_group(ml_vgraph *g, int turn, const ml_vgroup *like) {
  int n = like->n_members, n_effects = like->n_effects;
  ml_vgroup *group = ml_bump_alloc(&g->memory, 1, sizeof *group);
  int *list = ml_bump_alloc(&g->memory, (size_t)(n + n_effects), sizeof *list);
  if (!group || !list) return ML_MEMORY;
  *group = *like;
  group->members = list;
  group->effects = list + n;
  memcpy(list, like->members, (size_t)n * sizeof *list);
  if (n_effects) memcpy(list + n, like->effects, (size_t)n_effects * sizeof *list);
  g->nodes[turn].program = group;
  if (n > 1) ML_REWROTE(g, groups);
  if (like->like >= 0) ML_REWROTE(g, rows);
  for (int i = 0; i < n && like->like >= 0; i++) {
    const ml_vnode *m = &g->nodes[list[i]];
    if (ml_vnode_is_elementwise(m) && ml_vnode_is_flat(m, &g->nodes[like->like])) {
      ML_REWROTE(g, flat);
      break;
    }
  }
  for (int i = 0; i < n + n_effects; i++) g->nodes[list[i]].group = turn;
  if (like->sink >= 0) ML_REWROTE(g, heads);
  if (like->anchor >= 0) {
    ML_REWROTE(g, tails);
    g->nodes[like->anchor].group = turn;
  }
  return ML_OK;
}

/* Whether v is held, or somebody reads it who is not in the group at `turn`. */
bool ml_vgraph_is_stored(const ml_vgraph *g, int v, int turn) {
  if (g->nodes[v].stays) return true;
  for (int i = 0; i < g->nodes[v].n_users; i++) {
    int user = g->users[g->nodes[v].first_user + i];
    if (user < 0 || g->nodes[user].group != turn) return true;
  }
  return false;
}

size_t ml_vgraph_inner_bytes(const ml_vgraph *g, const int *list, int n, int turn) {
  size_t bytes = 0;
  for (int i = 0; i < n; i++) {
    if (!ml_vgraph_is_stored(g, list[i], turn)) bytes += 2 * ml_vnode_bytes(&g->nodes[list[i]]);
  }
  return bytes;
}

static void count_saved(ml_vgraph *g, int turn) {
  ml_vgroup *group = g->nodes[turn].program;
  bool anchored = group->anchor >= 0, sunk = group->sink >= 0;
  size_t steps = (size_t)(group->n_members + group->n_effects + anchored + sunk - 1);
  size_t bytes = ml_vgraph_inner_bytes(g, group->members, group->n_members, turn) +
                 ml_vgraph_inner_bytes(g, &group->anchor, anchored, turn);
  ml_save(&group->saved, steps, bytes);
  ml_vgraph_save(g, ML_PASS_group, steps, bytes);
}

/* The rows that a node with one element each belongs to: those of a row operation that it is computed from. */
static int wide_of(const ml_vgraph *g, int v, int depth) {
  const ml_vnode *n = &g->nodes[v];
  if (n->group != v || n->unit >= 0) return -1;
  if (ml_vnode_is_row_op(g, n)) return n->inputs[0];
  int wide = -1;
  for (int k = 0; k < n->n_inputs && wide < 0 && depth > 0 && ml_vnode_is_elementwise(n); k++) {
    const ml_vnode *x = &g->nodes[n->inputs[k]];
    if (ml_vnode_same_shape(x, n)) wide = wide_of(g, n->inputs[k], depth - 1);
  }
  if (wide < 0) return -1;
  const ml_vnode *row = &g->nodes[wide];
  return ml_vnode_is_narrow(n, row) || ml_vnode_is_flat(n, row) ? wide : -1;
}

/* Whether the group reads what was computed apart from it and goes with the plan. */
static bool reads_passing(const ml_vgraph *g, const gathering *t) {
  int inputs[ML_FUSED_MAX_INPUTS + 1];
  const int n = ml_vgraph_outside(g, t->members, t->n_members, inputs, 0, ML_FUSED_MAX_INPUTS);
  for (int i = 0; i < n && i < ML_FUSED_MAX_INPUTS; i++) {
    const ml_vnode *x = &g->nodes[inputs[i]];
    while (ml_vnode_is_view(x)) x = &g->nodes[x->inputs[0]];
    if (!ml_vnode_is_leaf(x) && !ml_vnode_is_effect(x) && x->op != ML_OP_input && !x->keep && x->output < 0)
      return true;
  }
  return false;
}

static bool holds_member(const ml_vgraph *g, const gathering *t) {
  for (int i = 0; i < t->n_members; i++) {
    if (g->nodes[t->members[i]].keep) return true;
  }
  return false;
}

/* Tenths of nanoseconds that an element takes, about; of those that are not listed, one. To write one takes two. */
enum { WORK_OF_EXPONENTIALS = 10, WORK_OF_SLOW = 60 };
static int work_of(int op) {
  static const ml_op exponentials[] = {ML_OP_exp, ML_OP_sigmoid, ML_OP_silu, ML_OP_tanh, ML_OP_gelu_tanh};
  static const ml_op slow[] = {ML_OP_expm1,  ML_OP_log,    ML_OP_log1p,  ML_OP_log2,    ML_OP_sin,      ML_OP_cos,
                               ML_OP_tan,    ML_OP_sinh,   ML_OP_cosh,   ML_OP_erf,     ML_OP_gelu,     ML_OP_pow,
                               ML_OP_arcsin, ML_OP_arccos, ML_OP_arctan, ML_OP_arctan2, ML_OP_logaddexp};
  for (size_t i = 0; i < sizeof exponentials / sizeof *exponentials; i++) {
    if (op == (int)exponentials[i]) return WORK_OF_EXPONENTIALS;
  }
  for (size_t i = 0; i < sizeof slow / sizeof *slow; i++) {
    if (op == (int)slow[i]) return WORK_OF_SLOW;
  }
  return 1;
}

/* Whether the members take five times as long as to write one of them, or longer. */
enum { WORTH_WRITING = 10 };
static bool has_much_work(const ml_vgraph *g, const gathering *t) {
  int work = 0;
  for (int i = 0; i < t->n_members; i++) work += work_of(g->nodes[t->members[i]].op);
  return work >= WORTH_WRITING;
}

/* Whether to compute a member that is held again takes a product, work along rows, what another step has computed or
 * much work. A little costs less than to write it, and handles that are garbage are many. */
static bool is_costly(const ml_vgraph *g, const gathering *t) {
  return t->anchor >= 0 || t->n_row_ops > 0 || (holds_member(g, t) && (reads_passing(g, t) || has_much_work(g, t)));
}

/* Whether somebody reads a member who is not in the group. */
static bool is_read_outside(const gathering *t, int v) {
  const ml_vnode *n = &t->g->nodes[v];
  for (int i = 0; i < n->n_users; i++) {
    int user = t->g->users[n->first_user + i];
    if (user < 0 ||
        (user != t->sink && !ml_listed(t->members, t->n_members, user) && !ml_listed(t->effects, t->n_effects, user)))
      return true;
  }
  return false;
}

/* Whether v is held, and would be computed again when it is read. */
static bool is_lost(const gathering *t, int v) {
  return v >= 0 && v != t->turn && t->g->nodes[v].keep && fits_outputs(t, &t->g->nodes[v]) && !is_read_outside(t, v);
}

/* gather_at, where costly members that are held are outputs: those for which there is no room are in another step. */
static bool gather_and_keep(gathering *t, int v) {
  const gathering start = *t;
  if (!gather_at(t, v)) return false;
  int outputs = t->n_outputs + is_lost(t, t->anchor);
  for (int i = 0; i < t->n_members; i++) outputs += is_lost(t, t->members[i]);
  if (outputs <= ML_FUSED_MAX_OUTPUTS || !is_costly(t->g, t)) return true;
  *t = start;
  t->keeps = true;
  return gather_at(t, v);
}

/* Makes costly members that are held outputs. */
static void keep_held(ml_vgraph *g, const gathering *t) {
  if (!is_costly(g, t)) return;
  for (int i = 0; i <= t->n_members; i++) {
    int v = i < t->n_members ? t->members[i] : t->anchor;
    if (is_lost(t, v)) g->nodes[v].stays = true;
  }
}

enum { WIDE_DEPTH = 6 };

static ml_status make(ml_vgraph *g, const gathering *t, int like) {
  ml_status status = ml_vgraph_make_group(g, t->turn,
                                          &(ml_vgroup){.members = (int *)(uintptr_t)t->members,
                                                       .n_members = t->n_members,
                                                       .effects = (int *)(uintptr_t)t->effects,
                                                       .n_effects = t->n_effects,
                                                       .like = like,
                                                       .anchor = t->anchor,
                                                       .sink = t->sink});
  if (status == ML_OK) keep_held(g, t);
  if (status == ML_OK) count_saved(g, t->turn);
  return status;
}

/* An assignment of what a kernel gives, which can write it where it goes: nobody else wants it. */
static ml_status assign_result(ml_vgraph *g, int effect) {
  const ml_vnode *e = &g->nodes[effect];
  int v = e->inputs[1];
  const ml_vnode *n = &g->nodes[v];
  if (!ml_vnode_is_whole(g, e) || n->group != v || n->unit >= 0 || n->n_users > 1 || n->keep || n->op == ML_OP_COUNT ||
      ml_op_infos[n->op].kind != ML_KIND_KERNEL || ml_vnode_has_results(n) || n->op == ML_OP_attention ||
      (n->op == ML_OP_linear && g->nodes[n->inputs[1]].layout != ML_LAYOUT_STRIDED) || !ml_vnode_same_shape(n, e) ||
      ml_vgraph_is_late(g, v, effect, &effect, 1))
    return ML_OK;
  gathering t = {.g = g, .turn = effect, .effects = {effect}, .n_effects = 1, .n_outputs = 1, .anchor = v, .sink = -1};
  return make(g, &t, -1);
}

/* Whether what a reduction reads lies in pieces that a program computes well: it takes the last axes and no others, or
 * leaves long rows of columns. */
static bool reads_pieces(const ml_vgraph *g, const ml_vnode *n) {
  const ml_vnode *x = &g->nodes[n->inputs[0]];
  ml_list axis = n->attrs->sum.axis;
  bool reduced[ML_MAX_DIMS] = {false};
  int64_t kept = 1;
  for (int i = 0; i < axis.count; i++) reduced[ml_attrs_list(n->attrs, axis)[i]] = true;
  int d = x->ndim - 1;
  for (; d >= 0 && !reduced[d]; d--) kept *= x->shape[d];
  if (kept > 1) return kept >= LEAST_COLUMNS && n->op != ML_OP_logsumexp;
  while (d >= 0 && (reduced[d] || x->shape[d] == 1)) d--;
  while (d >= 0 && (!reduced[d] || x->shape[d] == 1)) d--;
  return d < 0;
}

/* What a reduction takes joins its step, if nobody else reads it. */
static ml_status gather_before(ml_vgraph *g, int v) {
  const ml_vnode *n = &g->nodes[v];
  int x = n->inputs[0], inputs[ML_FUSED_MAX_INPUTS + 1];
  gathering t = {.g = g, .turn = v, .like = x, .n_outputs = 1, .anchor = -1, .sink = v};
  if (!ml_vnode_is_elementwise(&g->nodes[x]) || !reads_pieces(g, n) || !join(&t, x)) return ML_OK;
  grow(&t);
  bool reads = ml_vgraph_outside(g, t.members, t.n_members, inputs, 0, ML_FUSED_MAX_INPUTS) > 0;
  return reads && !is_costly(g, &t) ? make(g, &t, -1) : ML_OK; /* no member of its step could be an output */
}

static ml_status group_at(ml_vgraph *g, int v) {
  const ml_vnode *n = &g->nodes[v];
  int last = n->op == ML_OP_assign ? n->inputs[1] : v, wide = wide_of(g, last, WIDE_DEPTH);
  gathering t = {.g = g, .turn = v, .like = wide >= 0 ? wide : last, .n_outputs = 1, .anchor = -1, .sink = -1};
  gathering plain = t;
  t.rows = g->has_rows && (ml_vnode_is_elementwise(&g->nodes[last]) || ml_vnode_is_row_op(g, &g->nodes[last]));
  if (t.rows && gather_and_keep(&t, v) && t.n_row_ops && t.n_members + t.n_effects > 1) return make(g, &t, t.like);
  if (ml_op_is_reduction(n->op)) return gather_before(g, v);
  if (!ml_vnode_is_elementwise(&g->nodes[last])) return n->op == ML_OP_assign ? assign_result(g, v) : ML_OK;
  plain.like = last;
  return gather_and_keep(&plain, v) ? make(g, &plain, -1) : ML_OK;
}

ml_status ml_vgraph_group(ml_vgraph *g) {
  g->has_rows = false;
  for (size_t i = 0; i < g->n_nodes && !g->has_rows; i++) {
    g->has_rows = g->nodes[i].group == (int)i && ml_vnode_is_row_op(g, &g->nodes[i]);
  }
  for (size_t i = g->n_nodes; i-- > 0;) {
    const ml_vnode *n = &g->nodes[i];
    if (n->group != (int)i || n->unit >= 0) continue;
    if (ml_vnode_is_elementwise(n) || n->op == ML_OP_assign || ml_op_is_reduction(n->op) ||
        (g->has_rows && ml_vnode_is_row_op(g, n)))
      ML_TRY(group_at(g, (int)i));
  }
  return ML_OK;
}
