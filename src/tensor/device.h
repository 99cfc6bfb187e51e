/* device.h: what a device is to the rest of the core: a table of functions.
 *
 * The CPU (tensor/cpu) is its first filling. Nothing above this table knows which one it talks to. Pointers are device
 * addresses, which the host never follows: it hands bytes over and takes them back through upload and download alone.
 *
 * A device does what it is given in the order in which it is given it, copies and packing too, and may do so while the
 * host goes on. What is given gets a ticket; once a ticket is done, so is all that was given before. queue.h keeps
 * account of it. */
#ifndef ML_TENSOR_DEVICE_H
#define ML_TENSOR_DEVICE_H

#include "base/mem.h"
#include "tensor/dtype.h"

#include <stdatomic.h>

typedef struct ml_device ml_device;
typedef struct ml_plan ml_plan;
typedef struct ml_program ml_program; /* a plan as a device wants it */

/* Sizes of blocks that are kept for reuse: 64 bytes, four a power of two up to 1 MiB, 32 up to 256 MiB. */
enum { ML_CACHE_CLASSES = 1 + 4 * 14 + 32 * 8 };

/* Counts what a device was given. */
typedef uint64_t ml_ticket;

/* How a run ended. */
enum { ML_OUTCOME_TEXT = 256 };
typedef struct ml_outcome {
  ml_status status;           /* ML_OK; or a fault that a kernel found, ML_CANCELLED, ML_DEADLINE, ML_DEVICE */
  bool began;                 /* steps may have run, so that what they write is not what it was */
  char text[ML_OUTCOME_TEXT]; /* of a failure, as the error record would have it */
} ml_outcome;
/* A run ended at an index that is out of range, in an operation (an ml_op). */
void ml_outcome_index(ml_outcome *o, int op, int64_t value, bool is_unsigned, int64_t limit);

/* All functions are called by the engine's thread. */
typedef struct ml_device_table {
  /* Fresh memory, aligned to 64 bytes or more, contents undefined. */
  ml_status (*allocate)(ml_device *d, size_t bytes, void **out);
  /* Gives back memory or a reservation, once what was given before has been done. */
  void (*release)(ml_device *d, void *address, size_t bytes);
  /* Memory from `allocate` goes to somebody else, once what was given before has been done: nobody reads what it holds.
   * NULL: the device does not ask. */
  void (*reuse)(ml_device *d, void *address, size_t bytes);
  /* Address space without memory. */
  ml_status (*reserve)(ml_device *d, size_t bytes, void **out);
  /* Gives the pages of this part of a reservation memory where they have none, which reads as zero. */
  ml_status (*commit)(ml_device *d, void *address, size_t bytes);
  /* Takes the memory of whole pages of a reservation away, once what was given before has been done. */
  void (*decommit)(ml_device *d, void *address, size_t bytes);
  /* Bytes of memory that the device has, and those that are free now; 0 where nobody knows. */
  void (*report)(ml_device *d, size_t *total, size_t *available);

  /* From the host; the bytes are taken when it returns. */
  ml_status (*upload)(ml_device *d, void *to, const void *from, size_t bytes, ml_ticket *out);
  /* To the host; they are there when the ticket is done. */
  ml_status (*download)(ml_device *d, void *to, const void *from, size_t bytes, ml_ticket *out);
  /* From this device, or from another straight to this one, after what either was given before; ML_UNSUPPORTED where
   * two do not reach each other, so that the host has to pass the bytes on. */
  ml_status (*copy)(ml_device *d, void *to, ml_device *other, const void *from, size_t bytes);

  /* Weights (outputs, inputs) in the layout that this device's products want. packed_bytes is 0 for a dtype that it
   * does not pack. pack and unpack take whole groups of `group` rows, in host memory, row after row in the file's own
   * form; the last group may be shorter. pack has taken the bytes when it returns, unpack waits for them. */
  size_t (*packed_bytes)(ml_device *d, ml_dtype dtype, int64_t rows, int64_t inputs);
  ml_status (*pack)(ml_device *d, void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row, int64_t rows,
                    const void *from);
  ml_status (*unpack)(ml_device *d, const void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row, int64_t rows,
                      void *to);

  /* Whether a step (ml_op or ML_STEP_*) has no kernel here: no plan with one is lowered. */
  bool (*lacks)(const ml_device *d, int step);
  /* Turns a plan into a program; what has no kernel for its operands' dtypes is ML_UNSUPPORTED and named. */
  ml_status (*lower)(ml_device *d, const ml_plan *plan, ml_program **out);
  /* How often in a run what works at a time waits for all others, or is launched anew. */
  size_t (*barriers)(const ml_program *program);
  /* Bytes that the kernels of a run put down beside their operands, at the start of `workspace`, which has them by
   * then. */
  size_t (*workspace)(const ml_program *program);
  /* Gives the device a run on these input and output addresses. The engine's cancel flag is polled as it goes. Nothing
   * was given unless it returns ML_OK. Of a plan with `seconds` it adds to these what each step took. */
  ml_status (*submit)(ml_device *d, ml_program *program, void *const *inputs, void *const *outputs, ml_ticket *out);
  void (*drop)(ml_device *d, ml_program *program); /* all its runs are done */
  bool (*done)(ml_device *d, ml_ticket ticket);
  /* Waits for a ticket; of a run it says how it ended, once. NULL of anything else. */
  ml_status (*wait)(ml_device *d, ml_ticket ticket, ml_outcome *out);
  void (*close)(ml_device *d); /* all it was given is done, all memory given back */
} ml_device_table;

/* Counted tensor memory of one device. `limit` 0: none. Cached blocks are free ones kept for reuse. */
typedef struct ml_memory {
  size_t active, peak, cached, limit, cache_limit;
  uint64_t allocations; /* requests that went to the device itself */
} ml_memory;

/* Memory that plans share (arena.c). */
typedef struct ml_arena {
  struct ml_buffer *buffer; /* a reservation; NULL: no plan has needed it */
  size_t bytes;             /* of it that have memory */
  size_t needed;            /* by the plan that needs most */
} ml_arena;

struct ml_device {
  const ml_device_table *table;
  ml_engine *engine;
  char name[32];        /* "cpu", "cuda:0" */
  char description[96]; /* processor or board, instruction set */
  bool asynchronous;    /* a submission returns before it is done */
  bool common;          /* other engines' devices of its name reach its memory, and give it back */
  bool captures;        /* programs keep the addresses that they ran at: to run at the same again costs less */
  int group;            /* rows of a weight that are packed together */
  double read_rate;     /* bytes a second that its memory gives at the most, by its clock; 0: not known */
  ml_memory memory;
  struct ml_block *cache[ML_CACHE_CLASSES]; /* free blocks, a list a size class (buffer.c) */
  struct ml_block *oldest, *newest;         /* of all of them */
  ml_arena arena, workspace;
  ml_plan *plans;                 /* that have a part of them */
  struct ml_flight *first, *last; /* what may not be done yet (queue.c) */
  size_t flights;
  struct ml_loss *unheard; /* of the first run that failed since somebody waited for everything; retained */
  uint64_t failures, told; /* runs that failed, and how many had when somebody did */
  void *state;
};

/* The CPU device. `isa` is "ref", "avx2", "avx512" or NULL for the best that this processor has. */
ml_status ml_cpu_device_open(ml_engine *engine, const char *isa, ml_device **out);

/* What a shared library with a device of its own has under the name ML_DEVICE_SYMBOL. `fail` is ml_fail: a library that
 * has the core inside once more has another error record. */
#define ML_DEVICE_SYMBOL "moonlet_open_device"
typedef ml_status (*ml_device_opener)(ml_engine *engine, ml_status (*fail)(ml_status, const char *, ...),
                                      ml_device **out);

#endif
