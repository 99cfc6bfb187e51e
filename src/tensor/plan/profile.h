/* profile.h: how long the steps of plans take. */
#ifndef ML_PLAN_PROFILE_H
#define ML_PLAN_PROFILE_H

#include "tensor/plan/plan.h"

/* From here on every run is measured step by step, which takes longer than a run as it is else. */
ml_status ml_profile_begin(ml_engine *engine);
/* Ends it. Of each plan that ran the kinds of step that took longest, as text from ml_alloc: equal steps of a plan are
 * one kind. */
ml_status ml_profile_end(ml_engine *engine, char **text);
/* Ends it without a word. */
void ml_profile_drop(ml_engine *engine);
/* A plan is about to run. */
ml_status ml_profile_note(ml_plan *plan);

#endif
