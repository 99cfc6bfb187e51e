/* run.c: programs given to the device: launch after launch the first time, from then on as a graph, whose launches cost
 * the host next to nothing and run side by side where none needs what another writes. */
#include "gpu/program.h"

#include "tensor/engine.h"

#include <stdio.h>
#include <string.h>

/* ---- levels: what may run side by side ---- */

/* Memory that a step touches. */
typedef struct region {
  int kind; /* ml_place; -1: scratch */
  uintptr_t from, to;
  bool written;
} region;

enum { MOST_REGIONS = 96 }; /* that are remembered: a level too many costs less than a search of more */
typedef struct regions {
  region items[MOST_REGIONS];
  size_t count;
  bool full;
} regions;

static void add_region(regions *r, region item) {
  if (r->count == MOST_REGIONS) r->full = true;
  else r->items[r->count++] = item;
}

static void add_value(regions *r, const ml_plan *p, int value, bool written) {
  if (value < 0) return;
  const ml_storage *s = &p->storages[p->values[value].storage];
  const uintptr_t buffer = s->place == ML_PLACE_TENSOR ? (uintptr_t)s->buffer->address : 0;
  if (s->place == ML_PLACE_ARENA) add_region(r, (region){ML_PLACE_ARENA, s->offset, s->offset + s->bytes, written});
  else if (buffer) add_region(r, (region){ML_PLACE_TENSOR, buffer, buffer + 1, written});
  else add_region(r, (region){(int)s->place, (uintptr_t)s->index, (uintptr_t)s->index + 1, written});
}

static void touch(const ml_program *g, size_t first, size_t steps, bool scratch, regions *out) {
  out->count = 0, out->full = false;
  for (const ml_step *s = &g->plan->steps[first]; s < &g->plan->steps[first + steps]; s++) {
    const bool effect = s->op < ML_OP_COUNT && ml_op_is_effect((ml_op)s->op);
    for (int i = 0; i < s->n_inputs; i++) add_value(out, g->plan, s->inputs[i], effect && i == 0);
    for (int i = 0; i < s->n_outputs; i++) add_value(out, g->plan, s->outputs[i], true);
  }
  if (scratch) add_region(out, (region){-1, 0, 1, true});
}

static bool conflict(const regions *a, const regions *b) {
  for (size_t i = 0; i < a->count; i++) {
    for (size_t k = 0; k < b->count; k++) {
      const region *x = &a->items[i], *y = &b->items[k];
      if ((x->written || y->written) && x->kind == y->kind && x->from < y->to && y->from < x->to) return true;
    }
  }
  return false;
}

bool ml_cuda_share(const ml_program *g, int a, int b) {
  regions one = {.count = 0}, other = {.count = 0};
  add_value(&one, g->plan, a, true);
  add_value(&other, g->plan, b, true);
  return conflict(&one, &other);
}

bool ml_cuda_is_written_before(const ml_program *g, int value, size_t steps) {
  regions own = {.count = 0};
  add_value(&own, g->plan, value, false);
  for (const ml_step *s = g->plan->steps; s < &g->plan->steps[steps] && own.count; s++) {
    regions written = {.count = 0};
    if (s->op < ML_OP_COUNT && ml_op_is_effect((ml_op)s->op)) add_value(&written, g->plan, s->inputs[0], true);
    for (int i = 0; i < s->n_outputs; i++) add_value(&written, g->plan, s->outputs[i], true);
    if (written.full || conflict(&own, &written)) return true;
  }
  return false;
}

static bool uses_scratch(const ml_program *g, size_t launch) {
  for (size_t i = 0; i < g->n_spots; i++) {
    if (g->spots[i].kind == ML_SPOT_SCRATCH && g->spots[i].launch == launch) return true;
  }
  return false;
}

ml_status ml_cuda_find_levels(ml_program *g) {
  regions *since = ml_calloc(2, sizeof *since), *own = since ? since + 1 : NULL;
  if (!since) return ML_MEMORY;
  for (size_t i = 0, n; i < g->n_launches; i += n) {
    const size_t step = g->launches[i].step;
    bool scratch = false;
    for (n = 0; i + n < g->n_launches && g->launches[i + n].step == step; n++) scratch |= uses_scratch(g, i + n);
    touch(g, step, g->launches[i].steps, scratch, own);
    if (i > 0 && (own->full || since->full || since->count + own->count > MOST_REGIONS || conflict(since, own))) {
      g->launches[i].level = true;
      since->count = 0, since->full = false;
    }
    since->full |= own->full;
    for (size_t k = 0; k < own->count; k++) add_region(since, own->items[k]);
  }
  ml_free(since);
  return ML_OK;
}

size_t ml_cuda_barriers(const ml_program *g) {
  size_t n = g->n_launches > 0;
  for (size_t i = 0; i < g->n_launches; i++) n += g->launches[i].level;
  return n;
}

size_t ml_cuda_workspace(const ml_program *g) { return g->workspace; }

/* ---- graphs ---- */

static CUDA_KERNEL_NODE_PARAMS node_of(const ml_cuda_launch *l, void **params) {
  params[0] = l->args;
  return (CUDA_KERNEL_NODE_PARAMS){.func = l->function,
                                   .gridDimX = l->grid_x,
                                   .gridDimY = l->grid_y,
                                   .gridDimZ = 1,
                                   .blockDimX = l->threads,
                                   .blockDimY = 1,
                                   .blockDimZ = 1,
                                   .sharedMemBytes = l->shared_bytes,
                                   .kernelParams = params};
}

/* A node waits for `count` others. For one alone it may be started early, up to where its kernel says that it waits
 * (common.cuh), which every kernel does. */
static ml_status add_edges(ml_program *g, CUgraph graph, CUgraphNode node, const CUgraphNode *before, size_t count) {
  const CUgraphEdgeData early = {.from_port = CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC,
                                 .type = CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC};
  CU_TRY(g->device, "a graph's order", GraphAddDependencies(graph, before, &node, &early, count));
  return ML_OK;
}

/* Launches of one step follow each other; the first of a step waits for the last ones of the level before. `ends` has
 * room for all nodes, twice. */
static ml_status add_nodes(ml_program *g, CUgraph graph, CUgraphNode *ends) {
  CUgraphNode *before = ends, *now = ends + g->n_launches;
  size_t n_before = 0, n_now = 0;
  for (size_t i = 0; i < g->n_launches; i++) {
    ml_cuda_launch *l = &g->launches[i];
    void *params[1];
    const CUDA_KERNEL_NODE_PARAMS p = node_of(l, params);
    const bool follows = i > 0 && g->launches[i - 1].step == l->step;
    if (l->level) {
      CUgraphNode *swap = before;
      before = now, now = swap;
      n_before = n_now, n_now = 0;
    }
    const CUgraphNode *waits_for = follows ? &now[n_now - 1] : before;
    const size_t count = follows ? 1 : n_before;
    const bool early = count == 1 && ml_cuda_of(g->device)->starts_early;
    CU_TRY(g->device, "a graph", GraphAddKernelNode(&l->node, graph, waits_for, early ? 0 : count, &p));
    if (early) ML_TRY(add_edges(g, graph, l->node, waits_for, count));
    if (follows) n_now--;
    now[n_now++] = l->node;
    l->moved = false;
  }
  return ML_OK;
}

static ml_status try_graph(ml_program *g, CUgraphNode *ends) {
  const ml_cuda_driver *v = &ml_cuda_of(g->device)->driver;
  CU_TRY(g->device, "a graph", GraphCreate(&g->nodes, 0));
  ml_status status = add_nodes(g, g->nodes, ends);
  if (status == ML_OK)
    status = ml_cuda_result(g->device, "a graph's making", v->GraphInstantiate(&g->graph, g->nodes, 0));
  if (status == ML_OK) return ML_OK;
  v->GraphDestroy(g->nodes);
  g->nodes = NULL, g->graph = NULL;
  return status;
}

static ml_status make_graph(ml_program *g) {
  ml_cuda *c = ml_cuda_of(g->device);
  CUgraphNode *ends = ml_calloc(2 * g->n_launches, sizeof *ends);
  if (!ends) return ML_MEMORY;
  ml_status status = try_graph(g, ends);
  if (status == ML_DEVICE && c->lost == ML_OK && c->starts_early) { /* a driver that takes no such edges */
    c->starts_early = false;
    status = try_graph(g, ends);
  }
  ml_free(ends);
  return status;
}

static ml_status launch_graph(ml_program *g) {
  for (size_t i = 0; i < g->n_launches; i++) {
    ml_cuda_launch *l = &g->launches[i];
    void *params[1];
    if (!l->moved) continue;
    const CUDA_KERNEL_NODE_PARAMS p = node_of(l, params);
    CU_TRY(g->device, "a graph's arguments", GraphExecKernelNodeSetParams(g->graph, l->node, &p));
    l->moved = false;
  }
  CU_TRY(g->device, "a graph's launch", GraphLaunch(g->graph, ml_cuda_of(g->device)->stream));
  return ML_OK;
}

/* ---- running ---- */

static void set_addresses(ml_program *g, void *const *inputs, void *const *outputs) {
  for (size_t i = 0; i < g->n_spots; i++) {
    const ml_cuda_spot *s = &g->spots[i];
    char *at = s->kind == ML_SPOT_INPUT    ? (char *)inputs[s->index] + s->offset
               : s->kind == ML_SPOT_OUTPUT ? (char *)outputs[s->index] + s->offset
                                           : (char *)g->device->workspace.buffer->address;
    if (*s->where == at) continue;
    *s->where = at;
    g->launches[s->launch].moved = true;
  }
}

/* Whether the run is to end here, as the outcome says then. */
static bool is_stopped(const ml_program *g, ml_outcome *o) {
  o->status = ml_flag_poll(&g->plan->engine->cancel);
  if (o->status == ML_OK) return false;
  snprintf(o->text, sizeof o->text, o->status == ML_DEADLINE ? "the deadline has passed" : "cancelled");
  return true;
}

static ml_status launch(const ml_program *g, const ml_cuda_launch *l) {
  ml_cuda *c = ml_cuda_of(g->device);
  void *params[] = {l->args};
  CU_TRY(
      g->device, "a launch",
      LaunchKernel(l->function, l->grid_x, l->grid_y, 1, l->threads, 1, 1, l->shared_bytes, c->stream, params, NULL));
  return ML_OK;
}

static ml_status launch_all(ml_program *g, ml_outcome *o) {
  if (g->plan->seconds) return ml_cuda_time_steps(g, launch, o);
  if (g->graph) {
    o->began = !is_stopped(g, o);
    return o->began ? launch_graph(g) : ML_OK;
  }
  for (size_t i = 0; i < g->n_launches && !is_stopped(g, o); i++) {
    o->began = true;
    ML_TRY(launch(g, &g->launches[i]));
  }
  return ML_OK;
}

enum { LEAST_LAUNCHES = 3, RUNS_BEFORE = 1 }; /* fewer launches, and a first run, are given as they are */

static ml_status prepare_run(ml_program *g, ml_ticket ticket) {
  ml_cuda *c = ml_cuda_of(g->device);
  cu_fault *fault = &c->faults[ticket % CU_RUNS];
  if (g->runs++ >= RUNS_BEFORE && !g->graph && !g->plain && g->n_launches >= LEAST_LAUNCHES) {
    g->plain = make_graph(g) != ML_OK;
    if (g->plain) ml_error_clear();
  }
  if (!g->faults) return ML_OK;
  memset(fault, 0, sizeof *fault);
  CU_TRY(g->device, "a run's faults", StreamWriteValue64(c->stream, c->fault, (uint64_t)(uintptr_t)fault, 0));
  return ML_OK;
}

ml_status ml_cuda_submit(ml_device *d, ml_program *g, void *const *inputs, void *const *outputs, ml_ticket *out) {
  ml_cuda *c = ml_cuda_of(d);
  ML_TRY(ml_engine_check_process(d->engine));
  ML_TRY(ml_cuda_enter(d));
  const ml_ticket ticket = c->given + 1;
  if (ticket > CU_RUNS && c->done < ticket - CU_RUNS) /* its place is taken by one that is not done */
    ML_TRY(d->table->wait(d, ticket - CU_RUNS, NULL));
  ml_cuda_run *run = &c->runs[ticket % CU_RUNS];
  *run = (ml_cuda_run){.ticket = ticket, .fault = g->faults ? (int)(ticket % CU_RUNS) : -1};
  set_addresses(g, inputs, outputs);
  ML_TRY(prepare_run(g, ticket));
  const ml_status status = launch_all(g, &run->outcome);
  if (status != ML_OK) { /* some of it may have been given: it is a run that failed */
    if (!run->outcome.began) return status;
    run->outcome.status = status;
    snprintf(run->outcome.text, sizeof run->outcome.text, "%s", ml_error_message());
  }
  return ml_cuda_give(d, (ml_cuda_flight){0}, out);
}

void ml_cuda_drop(ml_device *d, ml_program *g) {
  if (g->nodes && ml_cuda_enter(d) == ML_OK) {
    if (g->graph) ml_cuda_of(d)->driver.GraphExecDestroy(g->graph);
    ml_cuda_of(d)->driver.GraphDestroy(g->nodes);
  }
  if (g->chunk) g->chunk->holders--;
  ml_bump memory = g->memory; /* which holds the program too */
  ml_bump_free(&memory);
}
