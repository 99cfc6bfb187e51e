/* cuda.h: what the files of the CUDA device share. */
#ifndef ML_GPU_CUDA_H
#define ML_GPU_CUDA_H

#include "gpu/driver.h"
#include "gpu/gpu.h"
#include "gpu/params.h"
#include "tensor/plan/plan.h"

/* Address space, of whose pages some have memory. */
typedef struct ml_cuda_space {
  struct ml_cuda_space *next;
  CUdeviceptr address;
  size_t bytes;                          /* of whole pages */
  CUmemGenericAllocationHandle memory[]; /* of each page; 0: none */
} ml_cuda_space;

/* One thing that was given. Where it is done, what it downloaded is taken from the staging memory. */
typedef struct ml_cuda_flight {
  ml_ticket ticket;
  CUevent event;
  size_t staged; /* bytes of staging memory that it frees */
  void *to;      /* of a download */
  const void *from;
  size_t bytes;
} ml_cuda_flight;

/* A run whose outcome nobody has asked for. */
typedef struct ml_cuda_run {
  ml_ticket ticket;
  ml_outcome outcome; /* what the host knows of it */
  int fault;          /* slot, or -1 */
} ml_cuda_run;

/* Device memory for what kernels read and no run changes, shared by programs. */
typedef struct ml_cuda_chunk {
  struct ml_cuda_chunk *next;
  CUdeviceptr address;
  size_t bytes, used;
  int holders; /* programs */
} ml_cuda_chunk;

/* Counts of kernels, which are zero between launches. */
typedef struct ml_cuda_counts {
  struct ml_cuda_counts *next;
  CUdeviceptr address;
} ml_cuda_counts;

enum { CU_FLIGHTS = 1024, CU_RUNS = 1024, CU_MODULES = 32 };

typedef struct ml_cuda {
  ml_cuda_driver driver;
  int index;
  CUdevice device;
  CUcontext context;
  CUstream stream;
  int multiprocessors;
  bool multiplies_in_groups; /* it runs gpu/wide.cu */
  bool starts_early;         /* a kernel may be started before what it waits for is done, up to where it says so */
  size_t page;
  CUmemAllocationProp kind; /* of memory for spaces */
  ml_cuda_space *spaces;
  CUmodule modules[CU_MODULES];
  /* flights, a ring: first..last-1 */
  ml_cuda_flight flights[CU_FLIGHTS];
  uint64_t first, last;
  ml_ticket given, done;
  /* staging memory, a ring too */
  char *staging;
  size_t staging_bytes, staging_at, staging_used;
  /* outcomes and faults of runs, by ticket modulo CU_RUNS; faults lie where kernels and the host both reach them */
  ml_cuda_run runs[CU_RUNS];
  cu_fault *faults;
  CUdeviceptr fault;      /* a word: the address of the fault of the run that goes on */
  _Atomic uint64_t *gate; /* what runs that are timed wait at (time.c), where the device and the host reach it */
  ml_cuda_chunk *chunks;
  ml_cuda_counts *counts;
  size_t counts_bytes; /* of the first */
  ml_status lost;      /* ML_OK, or the device has failed for good */
  char why[ML_OUTCOME_TEXT];
} ml_cuda;

static inline ml_cuda *ml_cuda_of(const ml_device *d) { return d->state; }
/* Of a call of the driver: d is the device. */
#define CU_TRY(d, what, call) ML_TRY(ml_cuda_result((d), (what), ml_cuda_of(d)->driver.call))
/* Checks what a call gave, and remembers it if no later call can go well. */
ml_status ml_cuda_result(ml_device *d, const char *what, CUresult result);
/* The calling thread works with this device. */
ml_status ml_cuda_enter(ml_device *d);
/* A kernel by the name of its .cu file and its own. */
ml_status ml_cuda_function(ml_device *d, const char *file, const char *name, CUfunction *out);
/* What was given last gets a ticket: it is done when the stream has come here. */
ml_status ml_cuda_give(ml_device *d, ml_cuda_flight f, ml_ticket *out);
/* Waits until everything that was given is done. */
ml_status ml_cuda_drain(ml_device *d);
/* `bytes` of staging memory, not more than half of it; waits until so many are free. */
ml_status ml_cuda_stage(ml_device *d, size_t bytes, char **out, size_t *staged);

/* weights.c */
size_t ml_cuda_packed_bytes(ml_device *d, ml_dtype dtype, int64_t rows, int64_t inputs);
ml_status ml_cuda_pack(ml_device *d, void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row, int64_t rows,
                       const void *from);
ml_status ml_cuda_unpack(ml_device *d, const void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row,
                         int64_t rows, void *to);

/* program.c */
bool ml_cuda_lacks(const ml_device *d, int step);
ml_status ml_cuda_lower(ml_device *d, const ml_plan *plan, ml_program **out);
size_t ml_cuda_barriers(const ml_program *program);
size_t ml_cuda_workspace(const ml_program *program);
ml_status ml_cuda_submit(ml_device *d, ml_program *program, void *const *inputs, void *const *outputs, ml_ticket *out);
void ml_cuda_drop(ml_device *d, ml_program *program);

#endif
