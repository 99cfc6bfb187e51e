/* pool.h: a fixed team of threads that runs one job at a time.
 *
 * The caller is member 0. A job is one function called once on every member; members meet at barriers
 * (ml_pool_barrier), where they spin briefly and then sleep, so that a step of a few microseconds costs no system call
 * and an idle team no time. */
#ifndef ML_BASE_POOL_H
#define ML_BASE_POOL_H

#include "base/mem.h"

typedef struct ml_pool ml_pool;
typedef void (*ml_job)(void *context, int member);

/* `members` >= 1; 0 means one a processor that this process may use. Members after the first are pinned, one a
 * processor, and keep out of the way of the caller, which is not. */
ml_status ml_pool_create(int members, ml_pool **out);
/* In a child that a fork made, where there are no threads to wait for, it frees the memory alone. */
void ml_pool_close(ml_pool *pool);
int ml_pool_members(const ml_pool *pool);
/* Runs job(context, m) on every member m and returns when all have returned. Not reentrant. */
void ml_pool_run(ml_pool *pool, ml_job job, void *context);
/* Called by every member inside a job: none passes before all have arrived. What was written before is seen after. */
void ml_pool_barrier(ml_pool *pool);

#endif
