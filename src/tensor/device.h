/* device.h: what a device is to the rest of the core: a table of functions.
 *
 * The CPU (tensor/cpu) is its first filling. Nothing above this table knows which one it talks to. Pointers are device
 * addresses; the host reads and writes them through upload and download alone. */
#ifndef ML_TENSOR_DEVICE_H
#define ML_TENSOR_DEVICE_H

#include "base/mem.h"
#include "tensor/dtype.h"

#include <stdatomic.h>

typedef struct ml_device ml_device;
typedef struct ml_plan ml_plan;
typedef struct ml_program ml_program; /* a plan as a device wants it */

enum { ML_PACK_ROWS = 16 };
/* Sizes of blocks that are kept for reuse: 64 bytes, four a power of two up to 1 MiB, 32 up to 256 MiB. */
enum { ML_CACHE_CLASSES = 1 + 4 * 14 + 32 * 8 };

typedef struct ml_device_table {
  /* Fresh memory, aligned to 64 bytes or more, contents undefined. */
  ml_status (*allocate)(ml_device *d, size_t bytes, void **out);
  void (*release)(ml_device *d, void *address, size_t bytes);
  /* Address space whose pages read as zero and are committed when first written (KV caches). */
  ml_status (*reserve)(ml_device *d, size_t bytes, void **out);
  /* Bytes of a reservation that are committed now. */
  size_t (*committed)(ml_device *d, const void *address, size_t bytes);
  /* Gives pages of a reservation back; they read as zero afterwards. */
  void (*decommit)(ml_device *d, void *address, size_t bytes);
  ml_status (*upload)(ml_device *d, void *to, const void *from, size_t bytes);
  ml_status (*download)(ml_device *d, void *to, const void *from, size_t bytes);
  /* Weights (outputs, inputs) in the layout that this device's products want. packed_bytes is 0 for a dtype that it
   * does not pack. pack and unpack take whole groups of ML_PACK_ROWS rows, in host memory, row after row in the file's
   * own form; the last group may be shorter. */
  size_t (*packed_bytes)(ml_device *d, ml_dtype dtype, int64_t rows, int64_t inputs);
  ml_status (*pack)(ml_device *d, void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row, int64_t rows,
                    const void *from);
  ml_status (*unpack)(ml_device *d, const void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row, int64_t rows,
                      void *to);
  /* Turns a plan into a program; an operation without a kernel is ML_UNSUPPORTED and named. */
  ml_status (*lower)(ml_device *d, const ml_plan *plan, ml_program **out);
  /* How often in a run what works at a time waits for all others, or is launched anew. */
  size_t (*barriers)(const ml_program *program);
  /* Runs it on these input and output addresses; polls the engine's cancel flag as it goes. *began: steps may have run,
   * so that what they write is not what it was. */
  ml_status (*run)(ml_device *d, ml_program *program, void *const *inputs, void *const *outputs, bool *began);
  void (*drop)(ml_device *d, ml_program *program);
  ml_status (*synchronize)(ml_device *d);
  void (*close)(ml_device *d);
} ml_device_table;

/* Counted tensor memory of one device. `limit` 0: none. Cached blocks are free ones kept for reuse. */
typedef struct ml_memory {
  size_t active, peak, cached, limit, cache_limit;
  uint64_t allocations; /* requests that went to the device itself */
} ml_memory;

struct ml_device {
  const ml_device_table *table;
  ml_engine *engine;
  char name[32];        /* "cpu", "cuda:0" */
  char description[96]; /* processor or board, instruction set */
  ml_memory memory;
  struct ml_block *cache[ML_CACHE_CLASSES]; /* free blocks, a list a size class (buffer.c) */
  struct ml_block *oldest, *newest;         /* of all of them */
  void *state;
};

/* The CPU device. `isa` is "ref", "avx2", "avx512" or NULL for the best that this processor has. */
ml_status ml_cpu_device_open(ml_engine *engine, const char *isa, ml_device **out);

#endif
