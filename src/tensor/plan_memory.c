/* plan_memory.c: lifetimes, and one arena for all intermediates.
 *
 * Storages are placed largest first, each at the lowest offset where it meets no storage that lives at the same time.
 */
#include "tensor/plan.h"

#include <stdlib.h>

enum { ALIGN = 64 };

static void touch(ml_plan *p, int value, int step) {
  if (value < 0) return;
  ml_storage *s = &p->storages[p->values[value].storage];
  if (s->first < 0) s->first = step;
  s->last = step;
}

static void find_lifetimes(ml_plan *p) {
  for (size_t i = 0; i < p->n_steps; i++) {
    for (int k = 0; k < p->steps[i].n_inputs; k++) touch(p, p->steps[i].inputs[k], (int)i);
    for (int k = 0; k < p->steps[i].n_outputs; k++) touch(p, p->steps[i].outputs[k], (int)i);
  }
}

static int by_size(const void *a, const void *b) {
  const ml_storage *x = *(ml_storage *const *)a, *y = *(ml_storage *const *)b;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
  return x < y ? -1 : 1;
}

static int by_offset(const void *a, const void *b) {
  const ml_storage *x = *(ml_storage *const *)a, *y = *(ml_storage *const *)b;
  return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Places `s` among the n placed ones; `live` is scratch for n pointers. */
static void place(ml_storage *s, ml_storage **placed, size_t n, ml_storage **live) {
  size_t n_live = 0, at = 0;
  for (size_t i = 0; i < n; i++) {
    if (placed[i]->first <= s->last && s->first <= placed[i]->last) live[n_live++] = placed[i];
  }
  qsort(live, n_live, sizeof *live, by_offset);
  for (size_t i = 0; i < n_live; i++) {
    if (live[i]->offset >= at + s->bytes) break;
    size_t end = live[i]->offset + live[i]->bytes;
    if (end > at) at = end;
  }
  s->offset = at;
}

ml_status ml_plan_place(ml_plan *p) {
  find_lifetimes(p);
  ml_storage **order = ml_calloc(p->n_storages, sizeof *order), **live = ml_calloc(p->n_storages, sizeof *live);
  ml_status status = order && live ? ML_OK : ML_MEMORY;
  size_t n = 0;
  for (size_t i = 0; status == ML_OK && i < p->n_storages; i++) {
    ml_storage *s = &p->storages[i];
    if (s->place != ML_PLACE_ARENA || s->first < 0) continue;
    s->bytes = s->bytes ? (s->bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1) : ALIGN; /* empty ones have an address too */
    order[n++] = s;
  }
  if (n) qsort(order, n, sizeof *order, by_size);
  for (size_t i = 0; i < n; i++) {
    place(order[i], order, i, live);
    if (order[i]->offset + order[i]->bytes > p->arena_bytes) p->arena_bytes = order[i]->offset + order[i]->bytes;
  }
  ml_free(order);
  ml_free(live);
  if (status == ML_OK && p->arena_bytes) status = ml_buffer_create(p->device, p->arena_bytes, &p->arena);
  return status;
}
