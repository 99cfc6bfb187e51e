/* arena.h: the memory of what plans compute on the way, the arena, and of what kernels put down while they work, the
 * workspace; one of each a device.
 *
 * Plans of a device run one after another, so that all share them: both are reservations, which never move, with as
 * much memory as the plan that needs most. What no plan needs any more counts as cached. */
#ifndef ML_TENSOR_ARENA_H
#define ML_TENSOR_ARENA_H

#include "tensor/plan/plan.h"

/* Memory for the plan's `arena_bytes`, at plan->arena; ML_LIMIT where so much may not count. */
ml_status ml_arena_join(ml_plan *plan);
/* Before a run: `bytes` of workspace for the plan, or ML_LIMIT likewise. */
ml_status ml_arena_work(ml_plan *plan, size_t bytes);
void ml_arena_leave(ml_plan *plan);
/* Gives back what no plan needs. */
void ml_arena_trim(ml_device *d);
void ml_arena_close(ml_device *d);

#endif
