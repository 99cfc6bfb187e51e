/* lower_heads.c: rotary embedding and appending to caches: steps that follow each other are parts of one launch. */
#include "gpu/program.h"

enum { MOST_STEPS = 2 * CU_HEADS_PARTS };

/* Heads that are turned, put into pages, or turned and then put into pages. */
typedef struct part {
  const ml_step *rope, *append; /* or NULL */
  bool passes;                  /* the turned heads go nowhere but into the pages */
} part;

typedef struct group {
  part parts[CU_HEADS_PARTS];
  int n;
} group;

/* Whether what a step gives is nobody's behind another one: no result of the plan, though it may lie in the memory of
 * one that is not there yet. */
static bool passes(const ml_program *g, const ml_step *from, int last) {
  const ml_plan *p = g->plan;
  const int storage = p->values[from->outputs[0]].storage;
  const ml_storage *s = &p->storages[storage];
  const bool lodges = s->place == ML_PLACE_OUTPUT && p->values[p->outputs[s->index]].storage != storage;
  return (s->place == ML_PLACE_ARENA || lodges) && s->last <= last;
}

static bool add_step(const ml_program *g, const ml_step *s, group *o) {
  part *last = o->n ? &o->parts[o->n - 1] : NULL;
  if (s->op == ML_OP_cache_append) {
    for (int i = 0; i < o->n; i++) {
      part *p = &o->parts[i];
      if (!p->rope || p->append || !ml_cuda_same_place(g, p->rope->outputs[0], s->inputs[1])) continue;
      p->append = s;
      return true;
    }
  }
  if (o->n == CU_HEADS_PARTS) return false;
  last = &o->parts[o->n++];
  *last = (part){.rope = s->op == ML_OP_rope ? s : NULL, .append = s->op == ML_OP_cache_append ? s : NULL};
  return true;
}

/* The group of `count` steps from s on; false: there is none. */
static bool form(const ml_program *g, const ml_step *s, int count, group *o) {
  o->n = 0;
  for (int i = 0; i < count; i++) {
    if (!add_step(g, s + i, o)) return false;
  }
  const int end = (int)(s - g->plan->steps) + count;
  for (int i = 0; i < o->n; i++) {
    part *p = &o->parts[i];
    p->passes = p->rope && p->append && passes(g, p->rope, end - 1);
  }
  return true;
}

static int written(const part *p, int k) {
  return k == 0 ? (p->rope && !p->passes ? p->rope->outputs[0] : -1) : p->append ? p->append->inputs[0] : -1;
}

/* Whether a step takes what a part turns, by whatever name. */
static bool takes(const ml_program *g, const ml_step *s, const part *from) {
  for (int i = 0; s && from->rope && i < s->n_inputs; i++) {
    const ml_value *v = ml_cuda_value(g, s->inputs[i]);
    if (v && v->storage == ml_cuda_value(g, from->rope->outputs[0])->storage) return true;
  }
  return false;
}

/* Whether a part writes what another one touches. */
static bool disturbs(const ml_program *g, const part *a, const part *b) {
  if (takes(g, b->rope, a) || takes(g, b->append, a)) return true;
  for (int k = 0; k < 2; k++) {
    const int to = written(a, k);
    for (int i = 0; i < 2; i++) {
      if (ml_cuda_share(g, to, written(b, i)) || (b->rope && ml_cuda_share(g, to, b->rope->inputs[i]))) return true;
    }
    for (int i = b->rope ? 2 : 1; b->append && i < b->append->n_inputs; i++) {
      if (ml_cuda_share(g, to, b->append->inputs[i])) return true;
    }
  }
  return false;
}

static bool is_free(const ml_program *g, const group *o) {
  for (int i = 0; i < o->n; i++) {
    for (int k = 0; k < o->n; k++) {
      if (i != k && disturbs(g, &o->parts[i], &o->parts[k])) return false;
    }
  }
  return true;
}

static ml_status lower_part(ml_program *g, const part *p, cu_heads *o) {
  const ml_step *first = p->rope ? p->rope : p->append;
  ML_TRY(ml_cuda_array(g, first->inputs[p->rope ? 0 : 1], &o->x));
  o->out.dtype = o->x.dtype;
  if (p->rope) {
    o->interleaved = p->rope->attrs->rope.interleaved != 0;
    ML_TRY(ml_cuda_array(g, p->rope->inputs[1], &o->table));
    o->turns = o->table.shape[2] / 2;
    if (p->passes) o->out.dtype = (int32_t)ml_cuda_value(g, p->rope->outputs[0])->dtype;
    else ML_TRY(ml_cuda_array(g, p->rope->outputs[0], &o->out));
  }
  if (!p->append) return ML_OK;
  ML_TRY(ml_cuda_array(g, p->append->inputs[0], &o->pool));
  return ml_cuda_sequences(g, p->append, 2, &o->sequences);
}

/* Attention of one query a sequence takes its heads as they come, where nobody else takes them: true, and how. */
static bool find_own(const ml_program *g, const group *o, const ml_step *first, int count, ml_cuda_own *own) {
  const ml_step *attention = first + count;
  if (o->n != 3 || attention == g->plan->steps + g->plan->n_steps || attention->op != ML_OP_attention) return false;
  *own = (ml_cuda_own){.first = first};
  for (int i = 0; i < o->n; i++) {
    const part *p = &o->parts[i];
    if (!p->append) {
      if (passes(g, p->rope, (int)(attention - g->plan->steps))) own->q_rope = p->rope;
    } else if (ml_cuda_share(g, p->append->inputs[0], attention->inputs[1]) && !(p->rope && !p->passes))
      own->k_append = p->append, own->k_rope = p->rope;
    else if (!p->rope) own->v_append = p->append;
  }
  return own->q_rope && own->k_append && own->v_append && ml_cuda_attends_own(g, attention, own);
}

ml_status ml_cuda_lower_heads(ml_program *g, const ml_step *s) {
  const ml_step *end = g->plan->steps + g->plan->n_steps;
  group own;
  int count = 1;
  enum { RUN = 8 }; /* as gpu/row.cuh has it */
  bool runs = true; /* a thread takes whole ones: where there are many */
  int64_t most = 0;
  while (count < MOST_STEPS && s + count < end && (s[count].op == ML_OP_rope || s[count].op == ML_OP_cache_append))
    count++;
  while (!form(g, s, count, &own) || !is_free(g, &own)) count--;
  ml_cuda_own heads;
  if (find_own(g, &own, s, count, &heads)) {
    ML_TRY(ml_cuda_lower_own_attention(g, s + count, &heads));
    ml_cuda_launch_joined(g, count + 1);
    return ML_OK;
  }
  for (int i = 0; i < own.n; i++) {
    const part *p = &own.parts[i];
    const ml_value *x = ml_cuda_value(g, p->rope ? p->rope->inputs[0] : p->append->inputs[1]);
    const int64_t turns = p->rope ? ml_cuda_value(g, p->rope->inputs[1])->shape[2] / 2 : 0;
    const int64_t units = x->shape[0] * x->shape[1] * x->shape[2] * (turns + (x->shape[3] - 2 * turns + 1) / 2);
    most = units > most ? units : most;
    runs = runs && turns % RUN == 0 && (x->shape[3] - 2 * turns) % (2 * RUN) == 0 &&
           !(p->rope && p->rope->attrs->rope.interleaved);
  }
  runs = runs && most >= RUN * CU_THREADS * (int64_t)ml_cuda_multiprocessors(g) / 2;
  cu_heads_args *a =
      ml_cuda_launch_elements(g, "heads", runs ? "cuda_heads_runs" : "cuda_heads", sizeof *a, runs ? most / RUN : most);
  if (!a) return ML_MEMORY;
  ml_cuda_launch_parts(g, own.n);
  ml_cuda_launch_joined(g, count);
  for (int i = 0; i < own.n; i++) ML_TRY(lower_part(g, &own.parts[i], &a->parts[i]));
  return ML_OK;
}
