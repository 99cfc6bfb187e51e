/* driver.c: CUDA's driver, found at run time. */
#include "gpu/driver.h"

#include <dlfcn.h>
#include <string.h>

ml_status ml_cuda_check(const ml_cuda_driver *d, const char *device, const char *what, CUresult result) {
  const char *name = NULL, *text = NULL;
  if (result == CUDA_SUCCESS) return ML_OK;
  d->GetErrorName(result, &name);
  d->GetErrorString(result, &text);
  return ml_fail(result == CUDA_ERROR_OUT_OF_MEMORY ? ML_MEMORY : ML_DEVICE, "%s: %s: %s (%s)", device, what,
                 text ? text : "unknown failure", name ? name : "no name");
}

/* The driver stays open: it cannot be started twice in a process. */
ml_status ml_cuda_driver_open(ml_cuda_driver *d) {
  memset(d, 0, sizeof *d);
  d->library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!d->library) return ml_fail(ML_DEVICE, "cuda: no NVIDIA driver here (%s)", dlerror());
#define X(name, symbol, parameters)                                                                                    \
  *(void **)&d->name = dlsym(d->library, #symbol);                                                                     \
  if (!d->name) return ml_fail(ML_DEVICE, "cuda: the NVIDIA driver is too old: it has no %s", #symbol);
  ML_CUDA_ENTRIES(X)
#undef X
#define X(name, symbol, parameters) *(void **)&d->name = dlsym(d->library, #symbol);
  ML_CUDA_NEWER(X)
#undef X
  const CUresult started = d->Init(0);
  if (started == CUDA_ERROR_NO_DEVICE) return ml_fail(ML_DEVICE, "cuda: the NVIDIA driver finds no GPU");
  return ml_cuda_check(d, "cuda", "starting the NVIDIA driver", started);
}
