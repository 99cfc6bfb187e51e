/* engine.c: opening and closing an engine. */
#include "tensor/engine.h"

#include "gpu/gpu.h"
#include "tensor/arena.h"
#include "tensor/ops.h"
#include "tensor/plan/profile.h"
#include "tensor/queue.h"
#include "tensor/state.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A page that a fork gives to the child as zeros: asking it is cheaper than asking the system who this is. Where there
 * is no such page, the system is asked. */
static const char *make_here(void) {
  size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
  char *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return NULL;
  if (madvise(page, bytes, MADV_WIPEONFORK) != 0) {
    munmap(page, bytes);
    return NULL;
  }
  *page = 1;
  return page;
}

ml_status ml_engine_open(int threads, const char *isa, ml_engine **out) {
  ml_engine *e = ml_calloc(1, sizeof *e);
  if (!e) return ML_MEMORY;
  e->process = getpid();
  e->here = make_here();
  ml_status status = ml_pool_create(threads, &e->pool);
  if (status == ML_OK) status = ml_cpu_device_open(e, isa, &e->devices[0]);
  if (status != ML_OK) {
    ml_engine_free(e);
    return status;
  }
  e->n_devices = 1;
  e->device = e->devices[0];
  *out = e;
  return ML_OK;
}

ml_status ml_engine_load_device(ml_engine *e, const char *path) {
  ml_device *d;
  ml_device_opener open;
  if (e->n_devices == ML_MAX_DEVICES) return ml_fail(ML_LIMIT, "%s: %d devices are open already", path, e->n_devices);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return ml_fail(ML_NOT_FOUND, "%s", dlerror());
  *(void **)&open = dlsym(library, ML_DEVICE_SYMBOL);
  if (!open) return ml_fail(ML_UNSUPPORTED, "%s: no function %s", path, ML_DEVICE_SYMBOL);
  ML_TRY(open(e, ml_fail, &d));
  e->devices[e->n_devices++] = d;
  return ML_OK;
}

void ml_engine_free(ml_engine *e) {
  if (!e) return;
  ml_profile_drop(e);
  ml_effects_drop(e, 0);
  ml_free(e->effects);
  for (int i = 0; i < e->n_devices; i++) {
    ml_queue_land(e->devices[i]);
    ml_loss_release(e->devices[i]->unheard);
    ml_arena_close(e->devices[i]);
    ml_memory_trim(e->devices[i], 0);
    e->devices[i]->table->close(e->devices[i]);
  }
  ml_pool_close(e->pool);
  ml_spare_free(&e->spare);
  if (e->here) munmap((void *)(uintptr_t)e->here, (size_t)sysconf(_SC_PAGESIZE));
  ml_free(e);
}

ml_status ml_engine_check_process(const ml_engine *e) {
  if (e->here ? *e->here == 1 : getpid() == e->process) return ML_OK;
  return ml_fail(ML_USAGE,
                 "the engine was made by process %ld, and its threads are not in this one, which a fork made: make "
                 "another engine here",
                 (long)e->process);
}

ml_status ml_engine_set_threads(ml_engine *e, int threads) {
  ml_pool *pool;
  ML_TRY(ml_engine_check_process(e));
  ML_TRY(ml_pool_create(threads, &pool));
  ml_pool_close(e->pool);
  e->pool = pool;
  return ML_OK;
}

static ml_device *open_gpu(ml_engine *e, int index, const char *name) {
  ml_device *d;
  if (e->n_devices == ML_MAX_DEVICES)
    ml_fail(ML_LIMIT, "device \"%s\": %d devices are open already", name, e->n_devices);
  else if (ml_gpu_device_open(e, index, &d) == ML_OK) return e->devices[e->n_devices++] = d;
  return NULL;
}

ml_device *ml_engine_device(ml_engine *e, const char *name) {
  char full[32];
  int gpu;
  const bool is_gpu = ml_gpu_named(name, &gpu);
  snprintf(full, sizeof full, "cuda:%d", gpu);
  for (int i = 0; i < e->n_devices; i++) {
    if (strcmp(e->devices[i]->name, is_gpu ? full : name) == 0) return e->devices[i];
  }
  if (is_gpu) return open_gpu(e, gpu, name);
  ml_fail(ML_NOT_FOUND, "device \"%s\": this process has no such device", name);
  return NULL;
}

void ml_engine_find_devices(ml_engine *e) {
  int count = 0;
  char name[32];
  if (ml_gpu_count(&count) != ML_OK) ml_error_clear();
  for (int i = 0; i < count; i++) {
    snprintf(name, sizeof name, "cuda:%d", i);
    if (!ml_engine_device(e, name)) ml_error_clear();
  }
}
