/* profile.c: how long the steps of plans take, by kinds. */
#include "tensor/plan/profile.h"

#include "tensor/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_PLANS = 8, MOST_KINDS = 10, LINE = 640 };

/* Steps of a plan that are the same but for their place in the model. */
typedef struct kind {
  char *text;
  size_t steps;
  double seconds, bytes, flops; /* of all of them, in one run */
} kind;

void ml_profile_drop(ml_engine *e) {
  for (size_t i = 0; i < e->n_profile; i++) {
    e->profile[i]->seconds = NULL;
    ml_plan_release(e->profile[i]);
  }
  ml_free(e->profile);
  e->profile = NULL, e->n_profile = e->profile_capacity = 0;
  e->profiles = false;
}

ml_status ml_profile_begin(ml_engine *e) {
  if (e->profiles) return ml_fail(ML_USAGE, "profile: one is under way already");
  e->profiles = true;
  return ML_OK;
}

ml_status ml_profile_note(ml_plan *p) {
  ml_engine *e = p->engine;
  if (!e->profiles) return ML_OK;
  if (!p->seconds) {
    ML_TRY(ML_GROW(e->profile, e->profile_capacity, e->n_profile + 1));
    p->seconds = ml_bump_alloc(&p->memory, p->n_steps, sizeof *p->seconds);
    if (!p->seconds) return ML_MEMORY;
    p->timed = 0;
    e->profile[e->n_profile++] = ml_plan_retain(p);
  }
  p->timed++;
  return ML_OK;
}

/* ---- kinds ---- */

static double product_flops(const ml_value *x, double outputs) {
  const int64_t inputs = x->ndim ? x->shape[x->ndim - 1] : 1;
  return 2 * outputs * (double)inputs;
}

/* Of products, those that their shapes tell of. */
static double step_flops(const ml_plan *p, const ml_step *s) {
  const ml_value *x = s->n_inputs && s->inputs[0] >= 0 ? &p->values[s->inputs[0]] : NULL;
  double outputs = 0;
  if (s->op == ML_STEP_LINEARS) {
    for (int u = 0; u < s->linears->n_units; u++) {
      const ml_linear_unit *unit = &s->linears->units[u];
      outputs += (double)unit->n_weights * (double)p->values[s->inputs[unit->weights[0]]].shape[0];
    }
    return product_flops(x, outputs * (double)x->shape[0]);
  }
  if (s->op != ML_OP_matmul && s->op != ML_OP_linear && s->op != ML_OP_linear_transposed &&
      s->op != ML_OP_gather_linear)
    return 0;
  const ml_value *o = &p->values[s->outputs[0]];
  return product_flops(x, (double)ml_shape_size(o->ndim, o->shape));
}

static int by_text(const void *a, const void *b) { return strcmp(((const kind *)a)->text, ((const kind *)b)->text); }
static int by_time(const void *a, const void *b) {
  const kind *x = a, *y = b;
  return x->seconds != y->seconds ? (x->seconds < y->seconds ? 1 : -1) : by_text(a, b);
}

/* The plan's kinds, the longest first. */
static ml_status find_kinds(const ml_plan *p, kind *kinds, size_t *count) {
  size_t n = 0;
  for (size_t i = 0; i < p->n_steps; i++) {
    const ml_step *s = &p->steps[i];
    kinds[i] = (kind){NULL, 1, p->seconds[i] / (double)p->timed, (double)ml_step_bytes(p, s), step_flops(p, s)};
    ML_TRY(ml_step_explain(p, s, &kinds[i].text));
  }
  qsort(kinds, p->n_steps, sizeof *kinds, by_text);
  for (size_t i = 0; i < p->n_steps; i++) {
    kind *k = &kinds[i];
    if (n == 0 || by_text(&kinds[n - 1], k) != 0) {
      const kind moved = *k;
      k->text = NULL;
      kinds[n++] = moved;
      continue;
    }
    kind *all = &kinds[n - 1];
    all->steps++, all->seconds += k->seconds, all->bytes += k->bytes, all->flops += k->flops;
    ml_free(k->text);
    k->text = NULL;
  }
  *count = n;
  qsort(kinds, n, sizeof *kinds, by_time);
  return ML_OK;
}

/* ---- the text ---- */

typedef struct page {
  char *bytes;
  size_t size, capacity;
} page;

static ml_status add_line(page *t, const char *line) {
  const size_t n = strlen(line);
  ML_TRY(ML_GROW(t->bytes, t->capacity, t->size + n + 1));
  memcpy(t->bytes + t->size, line, n + 1);
  t->size += n;
  return ML_OK;
}

static ml_status say_kind(page *t, const ml_plan *p, const kind *k, double all) {
  char line[LINE], limit[16] = "";
  const double seconds = k->seconds > 0 ? k->seconds : 1e-12, rate = k->bytes / seconds;
  if (p->device->read_rate > 0) snprintf(limit, sizeof limit, "%3.0f%%", 100 * rate / p->device->read_rate);
  snprintf(line, sizeof line, "%9.1f %5.1f%% %6zu %9.2f %8.1f %4s %8.2f  %.500s\n", 1e6 * k->seconds,
           100 * seconds / all, k->steps, 1e6 * k->seconds / (double)k->steps, rate / 1e9, limit,
           k->flops / seconds / 1e12, k->text);
  return add_line(t, line);
}

static double time_of(const ml_plan *p) {
  double all = 0;
  for (size_t i = 0; i < p->n_steps; i++) all += p->seconds[i];
  return all;
}

static ml_status say_plan(page *t, const ml_plan *p) {
  char line[LINE];
  size_t count = 0;
  const double all = time_of(p) / (double)p->timed;
  kind *kinds = ml_calloc(p->n_steps + 1, sizeof *kinds);
  if (!kinds) return ML_MEMORY;
  ml_status status = find_kinds(p, kinds, &count);
  snprintf(line, sizeof line, "%zu steps on %s, run %llu time%s, %.1f us each\n%9s %6s %6s %9s %8s %4s %8s\n",
           p->n_steps, p->device->name, (unsigned long long)p->timed, p->timed == 1 ? "" : "s", 1e6 * all, "us",
           "share", "steps", "us each", "GB/s", p->device->read_rate > 0 ? "of" : "", "TFLOP/s");
  if (status == ML_OK) status = add_line(t, line);
  for (size_t i = 0; i < count && i < MOST_KINDS && status == ML_OK; i++) status = say_kind(t, p, &kinds[i], all);
  for (size_t i = 0; i < p->n_steps; i++) ml_free(kinds[i].text);
  ml_free(kinds);
  return status;
}

static int by_plan_time(const void *a, const void *b) {
  const double x = time_of(*(ml_plan *const *)a), y = time_of(*(ml_plan *const *)b);
  return x < y ? 1 : x > y ? -1 : 0;
}

ml_status ml_profile_end(ml_engine *e, char **text) {
  page t = {0};
  if (!e->profiles) return ml_fail(ML_USAGE, "profile: none is under way");
  if (e->n_profile) qsort(e->profile, e->n_profile, sizeof(ml_plan *), by_plan_time);
  ml_status status = add_line(&t, e->n_profile ? "" : "no plan ran\n");
  for (size_t i = 0; i < e->n_profile && i < MOST_PLANS && status == ML_OK; i++) {
    if (i) status = add_line(&t, "\n");
    if (status == ML_OK) status = say_plan(&t, e->profile[i]);
  }
  ml_profile_drop(e);
  if (status == ML_OK) *text = t.bytes;
  else ml_free(t.bytes);
  return status;
}
