/* engine.h: everything that one engine owns: devices, threads, limits, cancel flag, counters. Nothing is global.
 *
 * An engine is used by one thread at a time; its cancel flag by any. It works in the process that made it alone: a fork
 * takes none of its threads along. */
#ifndef ML_TENSOR_ENGINE_H
#define ML_TENSOR_ENGINE_H

#include "base/bump.h"
#include "base/cancel.h"
#include "base/pool.h"
#include "tensor/buffer.h"

#include <sys/types.h>

enum { ML_MAX_DEVICES = 16, ML_PATH_BYTES = 256 };

/* How often each rewrite of the planner was made: the fuzzer of programs asks whether it has met all. */
#define ML_REWRITES(X)                                                                                                 \
  X(merged)                                                                                                            \
  X(split)                                                                                                             \
  X(selected)                                                                                                          \
  X(pushed)                                                                                                            \
  X(folded)                                                                                                            \
  X(groups)                                                                                                            \
  X(linears)                                                                                                           \
  X(shared)                                                                                                            \
  X(epilogues)                                                                                                         \
  X(pairs)                                                                                                             \
  X(norms_inside)                                                                                                      \
  X(given)                                                                                                             \
  X(kept)                                                                                                              \
  X(twins)                                                                                                             \
  X(saved)                                                                                                             \
  X(overwritten)                                                                                                       \
  X(dense_copies)                                                                                                      \
  X(orders_kept)                                                                                                       \
  X(tails)                                                                                                             \
  X(heads)                                                                                                             \
  X(rows)                                                                                                              \
  X(flat)                                                                                                              \
  X(outputs)                                                                                                           \
  X(several)                                                                                                           \
  X(assigned)                                                                                                          \
  X(written)                                                                                                           \
  X(read_first)                                                                                                        \
  X(forwarded)                                                                                                         \
  X(dropped)                                                                                                           \
  X(taken_over)                                                                                                        \
  X(lodged)                                                                                                            \
  X(scheduled)                                                                                                         \
  X(reordered)
typedef struct ml_rewrites {
#define REWRITE(name) uint64_t name;
  ML_REWRITES(REWRITE)
#undef REWRITE
} ml_rewrites;

/* What the engine has done so far; scripts read it through ml.stats(). */
typedef struct ml_stats {
  uint64_t traces;      /* nodes recorded */
  uint64_t plans;       /* plans made */
  uint64_t replays;     /* runs of a plan */
  uint64_t bytes_moved; /* between host and devices */
  ml_rewrites rewrites;
} ml_stats;

struct ml_engine {
  ml_device *devices[ML_MAX_DEVICES];
  int n_devices;
  ml_device *device; /* where new tensors are made */
  ml_pool *pool;
  ml_cancel_flag cancel;
  ml_stats stats;
  uint32_t region;            /* of nodes that are made now: see ml_node */
  uint64_t serial;            /* of the last node made: nodes run in this order */
  char path[ML_PATH_BYTES];   /* of the module being traced: "llama.layers.3.self_attn" */
  struct ml_tensor **effects; /* results of effects that no plan has taken yet, in order; retained */
  size_t n_effects, effects_capacity;
  int recording;       /* depth of ml_record_begin */
  uint64_t recordings; /* so far, counted from the outermost ml_record_begin */
  uint64_t before;     /* serial of the last node made before the recording */
  /* Bytes of values that an evaluation keeps because somebody holds them, beside those asked for: so many did the last
   * one, and more than so many are ML_LIMIT, and nothing has happened. 0: there is no limit. */
  size_t kept, most_kept;
  bool profiles;            /* steps of plans are timed (plan/profile.h): of these */
  struct ml_plan **profile; /* retained */
  size_t n_profile, profile_capacity;
  bool checks_places;     /* plans are refused in which two storages that live at one time share memory: for tests */
  ml_spare spare;         /* memory of planning */
  struct ml_cell *traced; /* states that the recording uses */
  int64_t live_tensors;   /* handles that exist, for leak checks */
  void *host;             /* the Lua floor's own */
  atomic_uintptr_t owner; /* the thread that is in a call of the C API, as that floor tells threads apart; 0: none */
  pid_t process;          /* that made it */
  const char *here;       /* 1 in that process alone, or NULL */
};

/* `threads` 0: one a processor. `isa` NULL: the best. */
ml_status ml_engine_open(int threads, const char *isa, ml_engine **out);
void ml_engine_free(ml_engine *engine); /* all tensors and plans must be gone */
/* Opens the device that a shared library brings, and does not let the library go. */
ml_status ml_engine_load_device(ml_engine *engine, const char *path);
/* ML_USAGE in another process than the one that made the engine. */
ml_status ml_engine_check_process(const ml_engine *engine);
/* Changes the size of the thread team. */
ml_status ml_engine_set_threads(ml_engine *engine, int threads);
/* Opens whatever GPUs there are: without it, those that somebody names. */
void ml_engine_find_devices(ml_engine *engine);
/* NULL, with the reason recorded, when there is no such device. A GPU is opened when it is first named. */
ml_device *ml_engine_device(ml_engine *engine, const char *name);

#endif
