/* place.h: between place.c, which sweeps, and search.c. */
#ifndef ML_TENSOR_PLAN_PLACE_H
#define ML_TENSOR_PLAN_PLACE_H

#include "tensor/plan/plan.h"

/* Storages that are to be placed in one arena. */
typedef struct ml_placing {
  ml_storage **list;
  size_t n, n_steps;
  bool once;              /* the plan runs once */
  bool searched;          /* the best try is the search's */
  size_t *offsets, *best; /* of this try, and of the best one so far */
  size_t bytes, live;     /* of the best one; what lives at once at most */
  size_t pairs;           /* of storages that live at one time */
  ml_bump *memory;
} ml_placing;

/* Whether a search may gain something: the arena is larger than what lives at once by more than a part in SLACK. */
static inline bool ml_place_has_holes(const ml_placing *p) {
  enum { SMALL = 1 << 11, SLACK = 64 };
  return p->bytes > SMALL && p->bytes > p->live + p->live / SLACK;
}

/* A try is over, and took so many bytes: it is kept if none took less. */
void ml_place_keep(ml_placing *p, size_t bytes);
/* search.c: tries orders of size and life, as many as are worth their time. */
ml_status ml_place_search(ml_placing *p);

#endif
