/* state.h: states and their versions.
 *
 * A state is storage that effects write. Its handle (ml_tensor.state) is what users hold; it is never the input of a
 * node. An operation on it gets its latest *version* instead: a tensor of its own that says what the state held then.
 * An effect takes the latest version and makes the next, so that the versions of a state are a chain and each has one
 * effect at most behind it. A version lies in the state's storage (is *attached*) while nothing later was written
 * there; whoever writes copies it out before, if somebody may still read it.
 *
 * While a plan is recorded, a state that it uses has versions of its own, which begin with whatever the storage holds
 * when the plan is run. They die with the recording. */
#ifndef ML_TENSOR_STATE_H
#define ML_TENSOR_STATE_H

#include "tensor/tensor.h"

struct ml_cell {
  int references; /* of the handle, of versions and windows, of plans */
  ml_engine *engine;
  ml_buffer *buffer;       /* the storage, dense, from its first byte on; retained */
  bool has_handle;         /* else it lives for those that see a part of it, and may write that */
  ml_dtype dtype;
  int ndim;
  int64_t shape[ML_MAX_DIMS];
  ml_tensor *latest;       /* version; retained; NULL where nobody asked for it since the last write */
  ml_tensor *outside;      /* while traced: the latest version of those that are none of the recording's; retained */
  const ml_tensor *begins; /* while traced: the version that the plan begins with; not retained */
  bool traced;             /* the plan that is recorded uses it */
  ml_cell *next;           /* of ml_engine.traced */
  size_t slot;             /* its place in the cells of the plan that was made last with it, plus one */
};

/* Turns a dense tensor with storage of its own into the handle of a state. */
ml_status ml_tensor_make_state(ml_tensor *t);

ml_cell *ml_cell_retain(ml_cell *cell);
void ml_cell_release(ml_cell *cell); /* NULL is allowed */
/* Somebody has let go of a version: where only the cell itself has any, and nobody can write it any more, it goes. */
void ml_cell_left(ml_cell *cell);

/* The version that an operation on the state gets now; borrowed. */
ml_status ml_cell_latest(ml_cell *cell, ml_tensor **out);
/* `t` lies in the storage that effects write now. */
static inline bool ml_tensor_is_attached(const ml_tensor *t) {
  return t->cell && !t->state && t->buffer && t->buffer == t->cell->buffer;
}
/* The version is no longer the one that the next operation gets. */
void ml_cell_leave(ml_cell *cell, const ml_tensor *version);
/* ML_USAGE where the state has no values. */
ml_status ml_cell_check(const ml_cell *cell);

/* Before the storage is written by other means than an effect that is recorded with what it reads: what was written
 * before is evaluated, and the latest version, if somebody may still read it, gets storage of its own. Afterwards the
 * storage is what the next reader gets. */
ml_status ml_cell_detach(ml_cell *cell);
/* A state of zeros whose storage is address space without memory, of which none counts until it is committed. */
ml_status ml_state_reserve(ml_device *device, ml_dtype dtype, int ndim, const int64_t *shape, ml_tensor **out);
/* Memory for the first `count` entries along an axis of a reserved state; what is behind them counts no more, and along
 * the first axis loses what it has. ML_LIMIT where so much may not count. */
ml_status ml_state_commit(ml_tensor *handle, int axis, int64_t count);
/* Writes row-major bytes over the state, from byte `at` on. */
ml_status ml_state_write(ml_tensor *handle, size_t at, const void *from, size_t bytes);

/* Views from a version on to a tensor that was computed since, and so lies elsewhere: what it takes to name the same
 * part of a later version. */
typedef struct ml_window {
  int references;
  ml_cell *cell;            /* retained */
  struct ml_window *before; /* what the view is taken of; retained, NULL: the version itself */
  size_t n_views;           /* with those before */
  int op;                   /* ml_op */
  ml_attrs attrs;
} ml_window;
/* The window of a tensor with a node, which is about to go, and of those that it is a view of; none where it is no view
 * of a state. */
ml_status ml_tensor_keep_window(ml_tensor *t);
void ml_window_release(ml_window *w); /* NULL is allowed */

/* The cell behind a handle, a version or views of one; NULL for all else. */
ml_cell *ml_cell_of(const ml_tensor *t);
/* `of` (a handle, a version, or views of one) as it is of another version of the same state; a new reference. A
 * window whose elements have no places of their own in the state is ML_USAGE. */
ml_status ml_state_rebase(const ml_tensor *of, ml_tensor *version, ml_tensor **out);
/* An effect's result becomes the latest version of the cell, and is pending; takes the reference over. */
ml_status ml_effect_remember(ml_cell *cell, ml_tensor *version);
/* The version that an effect takes, whose result is `version`, still lazy; borrowed. */
ml_tensor *ml_effect_before(const ml_tensor *version);
/* Forgets pending effects after the first `keep`: a trace that failed must not act later. */
void ml_effects_drop(ml_engine *e, size_t keep);
/* A plan has taken all pending effects of the recording: the next plan begins with what the storage holds then. */
void ml_effects_planned(ml_engine *e);
/* The recording is over: states have the versions that they had before it. */
void ml_states_end_trace(ml_engine *e);

#endif
