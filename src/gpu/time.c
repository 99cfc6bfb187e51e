/* time.c: how long the steps of a program take: launches one after another, with clocks between steps. */
#include "gpu/program.h"

#include <stdatomic.h>

/* Steps that are given before the first of them may begin: a launch takes the host longer than it takes many a kernel,
 * and the device would wait for it. The device holds some hundreds. */
enum { AT_ONCE = 64 };

typedef struct stopwatch {
  CUevent clocks[AT_ONCE + 1];
  size_t steps[AT_ONCE];
  int n; /* clocks that were set */
} stopwatch;

/* What is given from here on waits until the gate has the number `pass`. */
static ml_status close_gate(ml_device *d, uint64_t *pass) {
  ml_cuda *c = ml_cuda_of(d);
  if (!c->gate) {
    void *room;
    CU_TRY(d, "memory for clocks", MemHostAlloc(&room, sizeof *c->gate, CU_MEMHOSTALLOC_PORTABLE));
    c->gate = room;
    atomic_init(c->gate, 0);
  }
  *pass = atomic_load(c->gate) + 1;
  CU_TRY(d, "a wait", StreamWaitValue64(c->stream, (CUdeviceptr)(uintptr_t)c->gate, *pass, CU_STREAM_WAIT_VALUE_GEQ));
  return ML_OK;
}

static ml_status set_clock(ml_device *d, stopwatch *w) {
  CU_TRY(d, "a clock", EventRecord(w->clocks[w->n++], ml_cuda_of(d)->stream));
  return ML_OK;
}

/* Launches from *at on, of AT_ONCE steps at the most. */
static ml_status give_steps(ml_program *g, ml_cuda_launcher launch, size_t *at, stopwatch *w) {
  w->n = 0;
  while (*at < g->n_launches && w->n < AT_ONCE) {
    const size_t step = g->launches[*at].step;
    w->steps[w->n] = step;
    ML_TRY(set_clock(g->device, w));
    for (; *at < g->n_launches && g->launches[*at].step == step; ++*at) ML_TRY(launch(g, &g->launches[*at]));
  }
  return set_clock(g->device, w);
}

static ml_status read_clocks(ml_program *g, const stopwatch *w) {
  float ms;
  CU_TRY(g->device, "waiting", EventSynchronize(w->clocks[w->n - 1]));
  for (int i = 0; i + 1 < w->n; i++) {
    CU_TRY(g->device, "a clock", EventElapsedTime(&ms, w->clocks[i], w->clocks[i + 1]));
    g->plan->seconds[w->steps[i]] += 1e-3 * (double)ms;
  }
  return ML_OK;
}

ml_status ml_cuda_time_steps(ml_program *g, ml_cuda_launcher launch, ml_outcome *o) {
  const ml_cuda_driver *v = &ml_cuda_of(g->device)->driver;
  stopwatch w = {.n = 0};
  ml_status status = ML_OK;
  for (int i = 0; i <= AT_ONCE && status == ML_OK; i++)
    status = ml_cuda_result(g->device, "a clock", v->EventCreate(&w.clocks[i], 0));
  for (size_t at = 0; at < g->n_launches && status == ML_OK;) {
    uint64_t pass;
    status = close_gate(g->device, &pass);
    if (status != ML_OK) break;
    o->began = true;
    status = give_steps(g, launch, &at, &w);
    atomic_store(ml_cuda_of(g->device)->gate, pass); /* whatever has happened */
    if (status == ML_OK) status = read_clocks(g, &w);
  }
  for (int i = 0; i <= AT_ONCE; i++) {
    if (w.clocks[i]) v->EventDestroy(w.clocks[i]);
  }
  return status;
}
