/* driver.cpp: a libcuda.so.1 for tests: the entry points that moonlet uses, with the processor as the only device.
 *
 * What it is given is done at once. Memory is the host's, but for reservations, of which nobody may touch what was not
 * mapped; fresh memory is poison (NaN). Kernels are functions of this library. */
#include "emulate.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NOT_FOUND = 500, GRANULE = 2 << 20, POISON = 0xff };
#define ENTRY extern "C" __attribute__((visibility("default"))) int
typedef unsigned long long address;

emulated_dim threadIdx, blockIdx, blockDim, gridDim;

/* ---- the threads of a block ---- */

enum { MOST_THREADS = 1024, STACK_BYTES = 128 << 10, WARP = 32 };

extern "C" void emulated_switch(void **from, void *to);
__asm__(".text\n.globl emulated_switch\n.hidden emulated_switch\nemulated_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

struct fiber {
  void *stack;
  bool done;
  unsigned barriers, shuffles; /* so far */
  uint64_t value[2];           /* of the last shuffles, by turns */
};
static fiber fibers[MOST_THREADS];
static char *stacks;
static void *scheduler;
static unsigned current, threads;
static void (*body)(const void *);
static const void *arguments;

static void leave(void) { emulated_switch(&fibers[current].stack, scheduler); }

extern "C" void emulated_barrier(void) {
  fiber *f = &fibers[current];
  f->barriers++;
  for (bool wait = true; wait;) {
    wait = false;
    for (unsigned i = 0; i < threads && !wait; i++) wait = !fibers[i].done && fibers[i].barriers < f->barriers;
    if (wait) leave();
  }
}

extern "C" uint64_t emulated_exchange(uint64_t value, int by) {
  fiber *f = &fibers[current];
  const unsigned first = current / WARP * WARP, other = first + ((current - first) ^ (unsigned)by);
  f->value[f->shuffles % 2] = value;
  f->shuffles++;
  if (other >= threads) abort();
  for (unsigned i = first; i < first + WARP; i++) { /* all lanes meet */
    while (fibers[i].shuffles < f->shuffles) {
      if (fibers[i].done) abort(); /* one that is gone takes part in no shuffle */
      leave();
    }
  }
  return fibers[other].value[(f->shuffles - 1) % 2];
}

extern "C" void emulated_gather(uint64_t value, uint64_t *all) {
  fiber *f = &fibers[current];
  const unsigned first = current / WARP * WARP;
  emulated_exchange(value, 0);
  for (unsigned i = 0; i < WARP; i++) all[i] = fibers[first + i].value[(f->shuffles - 1) % 2];
}

static void run_fiber(void) {
  body(arguments);
  fibers[current].done = true;
  for (;;) leave();
}

static void run_block(void) {
  for (unsigned i = 0; i < threads; i++) {
    void **top = (void **)(stacks + (size_t)(i + 1) * STACK_BYTES) - 1; /* as if called */
    *--top = (void *)run_fiber;
    for (int k = 0; k < 6; k++) *--top = NULL;
    fibers[i] = fiber();
    fibers[i].stack = top;
  }
  for (unsigned left = threads; left;) {
    left = 0;
    for (unsigned i = 0; i < threads; i++) {
      if (fibers[i].done) continue;
      current = i, threadIdx.x = i;
      emulated_switch(&scheduler, fibers[i].stack);
      left += !fibers[i].done;
    }
  }
}

enum { SHARED_BYTES = 227 << 10 };
static char *shared;
extern "C" void *emulated_shared(void) { return shared; }

ENTRY cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                     unsigned bytes, void *, void **params, void **) {
  if (bytes > SHARED_BYTES) return INVALID;
  if (!shared) shared = (char *)aligned_alloc(256, SHARED_BYTES);
  if (!gx || !gy || !gz || bx > MOST_THREADS || bx % WARP || by != 1 || bz != 1) return INVALID;
  if (!stacks) {
    stacks = (char *)mmap(NULL, (size_t)MOST_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) return NO_MEMORY;
  }
  body = (void (*)(const void *))f, arguments = params[0], threads = bx;
  blockDim = {bx, 1, 1}, gridDim = {gx, gy, gz};
  for (unsigned y = 0; y < gy; y++) {
    for (unsigned x = 0; x < gx; x++) {
      memset(shared, POISON, bytes);
      blockIdx = {x, y, 0};
      run_block();
    }
  }
  return OK;
}

/* ---- devices and streams ---- */

static int nothing;
ENTRY cuInit(unsigned) { return OK; }
ENTRY cuDriverGetVersion(int *version) { return *version = 13000, OK; }
ENTRY cuDeviceGetCount(int *count) { return *count = 1, OK; }
ENTRY cuDeviceGet(int *device, int index) { return *device = index, index == 0 ? OK : INVALID; }
ENTRY cuDeviceGetName(char *name, int bytes, int) { return snprintf(name, (size_t)bytes, "the processor"), OK; }
ENTRY cuDeviceGetAttribute(int *value, int attribute, int) {
  *value = attribute == 16 ? 4 : attribute == 75 ? 9 : attribute == 102 ? 1 : 0; /* multiprocessors, 9.0, mapping */
  return OK;
}
ENTRY cuDevicePrimaryCtxRetain(void **context, int) { return *context = &nothing, OK; }
ENTRY cuDevicePrimaryCtxRelease_v2(int) { return OK; }
ENTRY cuCtxSetCurrent(void *) { return OK; }
ENTRY cuStreamCreate(void **stream, unsigned) { return *stream = &nothing, OK; }
ENTRY cuStreamDestroy_v2(void *) { return OK; }
ENTRY cuStreamSynchronize(void *) { return OK; }
ENTRY cuStreamWaitEvent(void *, void *, unsigned) { return OK; }
ENTRY cuEventCreate(void **event, unsigned) { return *event = &nothing, OK; }
ENTRY cuEventDestroy_v2(void *) { return OK; }
ENTRY cuEventRecord(void *, void *) { return OK; }
ENTRY cuEventQuery(void *) { return OK; }
ENTRY cuEventSynchronize(void *) { return OK; }
ENTRY cuEventElapsedTime(float *ms, void *, void *) { return *ms = 0.001f, OK; }
ENTRY cuGetErrorName(int error, const char **name) {
  *name = error == NO_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_INVALID_VALUE";
  return OK;
}
ENTRY cuGetErrorString(int, const char **text) { return *text = "emulated", OK; }

/* ---- memory ---- */

ENTRY cuMemGetInfo_v2(size_t *available, size_t *total) {
  *available = (size_t)8 << 30, *total = (size_t)16 << 30;
  return OK;
}
ENTRY cuMemAlloc_v2(address *out, size_t bytes) {
  void *p = bytes && bytes < (size_t)1 << 40 ? aligned_alloc(256, (bytes + 255) / 256 * 256) : NULL;
  if (!p) return NO_MEMORY;
  memset(p, POISON, bytes);
  *out = (address)(uintptr_t)p;
  return OK;
}
ENTRY cuMemFree_v2(address p) {
  free((void *)(uintptr_t)p);
  return OK;
}
ENTRY cuMemHostAlloc(void **out, size_t bytes, unsigned) {
  *out = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  return *out ? OK : NO_MEMORY;
}
ENTRY cuMemFreeHost(void *p) {
  free(p);
  return OK;
}
ENTRY cuMemcpyHtoDAsync_v2(address to, const void *from, size_t bytes, void *) {
  memcpy((void *)(uintptr_t)to, from, bytes);
  return OK;
}
ENTRY cuMemcpyDtoHAsync_v2(void *to, address from, size_t bytes, void *) {
  memcpy(to, (void *)(uintptr_t)from, bytes);
  return OK;
}
ENTRY cuMemcpyPeerAsync(address to, void *, address from, void *, size_t bytes, void *) {
  memmove((void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes);
  return OK;
}
ENTRY cuMemsetD8Async(address to, unsigned char value, size_t bytes, void *) {
  memset((void *)(uintptr_t)to, value, bytes);
  return OK;
}

ENTRY cuMemGetAllocationGranularity(size_t *out, const void *, int) { return *out = GRANULE, OK; }
ENTRY cuMemAddressReserve(address *out, size_t bytes, size_t, address, unsigned long long) {
  char *p = (char *)mmap(NULL, bytes + GRANULE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return NO_MEMORY;
  char *at = (char *)(((uintptr_t)p + GRANULE - 1) / GRANULE * GRANULE);
  if (at > p) munmap(p, (size_t)(at - p));
  if (at + bytes < p + bytes + GRANULE) munmap(at + bytes, (size_t)(p + GRANULE - at));
  *out = (address)(uintptr_t)at;
  return OK;
}
ENTRY cuMemAddressFree(address p, size_t bytes) { return munmap((void *)(uintptr_t)p, bytes) == 0 ? OK : INVALID; }
ENTRY cuMemCreate(unsigned long long *handle, size_t, const void *, unsigned long long) { return *handle = 1, OK; }
ENTRY cuMemRelease(unsigned long long) { return OK; }
ENTRY cuMemMap(address p, size_t bytes, size_t, unsigned long long, unsigned long long) {
  return mprotect((void *)(uintptr_t)p, bytes, PROT_READ | PROT_WRITE) == 0 ? OK : INVALID;
}
ENTRY cuMemSetAccess(address p, size_t bytes, const void *, size_t) {
  memset((void *)(uintptr_t)p, POISON, bytes);
  return OK;
}
ENTRY cuMemUnmap(address p, size_t bytes) {
  madvise((void *)(uintptr_t)p, bytes, MADV_DONTNEED);
  return mprotect((void *)(uintptr_t)p, bytes, PROT_NONE) == 0 ? OK : INVALID;
}

ENTRY cuStreamWriteValue64_v2(void *, address at, uint64_t value, unsigned) {
  memcpy((void *)(uintptr_t)at, &value, sizeof value);
  return OK;
}

ENTRY cuStreamWaitValue64_v2(void *, address, uint64_t, unsigned) { return OK; } /* whoever writes it comes later */

/* ---- kernels ---- */

ENTRY cuModuleLoadData(void **module, const void *) { return *module = &nothing, OK; }
ENTRY cuModuleUnload(void *) { return OK; }
static void *symbol(const char *name) {
  static void *self;
  Dl_info info;
  if (!self && dladdr((void *)cuInit, &info)) self = dlopen(info.dli_fname, RTLD_NOW | RTLD_LOCAL);
  return self ? dlsym(self, name) : NULL;
}
ENTRY cuModuleGetFunction(void **function, void *, const char *name) {
  return *function = symbol(name), *function ? OK : NOT_FOUND;
}

ENTRY cuFuncSetAttribute(void *, int, int) { return OK; }
ENTRY cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *, int, size_t) { return *blocks = 2, OK; }

/* ---- graphs: nodes are run in the order in which they were added, which is one that their edges allow ---- */

struct node_params {
  void *function;
  unsigned gx, gy, gz, bx, by, bz, shared_bytes;
  void **params, **extra;
  void *kernel, *context;
};
struct node {
  node_params p;
  void *args, *args_of[1];
};
enum { MOST_NODES = 1 << 16 };
struct graph {
  size_t n;
  node nodes[MOST_NODES];
};

static int take_params(node *n, const node_params *p) {
  Dl_info info;
  char name[128];
  if (!dladdr(p->function, &info) || !info.dli_sname) return INVALID;
  snprintf(name, sizeof name, "%s_bytes", info.dli_sname);
  const size_t *bytes = (const size_t *)symbol(name);
  if (!bytes) return INVALID;
  n->p = *p;
  n->args = realloc(n->args, *bytes);
  memcpy(n->args, p->params[0], *bytes);
  n->args_of[0] = n->args;
  return OK;
}

ENTRY cuGraphCreate(graph **g, unsigned) {
  *g = (graph *)mmap(NULL, sizeof **g, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return *g == MAP_FAILED ? NO_MEMORY : OK;
}
ENTRY cuGraphAddKernelNode_v2(node **out, graph *g, node *const *before, size_t n, const node_params *p) {
  for (size_t i = 0; i < n; i++) {
    if (before[i] < g->nodes || before[i] >= g->nodes + g->n) return INVALID;
  }
  *out = &g->nodes[g->n];
  return g->n == MOST_NODES ? INVALID : take_params(&g->nodes[g->n++], p);
}
ENTRY cuGraphInstantiateWithFlags(graph **exec, graph *g, unsigned long long) { return *exec = g, OK; }
ENTRY cuGraphExecKernelNodeSetParams_v2(graph *g, node *n, const node_params *p) {
  return n < g->nodes || n >= g->nodes + g->n ? INVALID : take_params(n, p);
}
ENTRY cuGraphLaunch(graph *g, void *stream) {
  for (size_t i = 0; i < g->n; i++) {
    const node_params *p = &g->nodes[i].p;
    const int r = cuLaunchKernel(p->function, p->gx, p->gy, p->gz, p->bx, p->by, p->bz, p->shared_bytes, stream,
                                 g->nodes[i].args_of, NULL);
    if (r != OK) return r;
  }
  return OK;
}
ENTRY cuGraphExecDestroy(graph *) { return OK; }
ENTRY cuGraphDestroy(graph *g) {
  for (size_t i = 0; i < g->n; i++) free(g->nodes[i].args);
  return munmap(g, sizeof *g) == 0 ? OK : INVALID;
}
