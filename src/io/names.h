/* names.h: lists of names, and those that a directory holds. */
#ifndef ML_IO_NAMES_H
#define ML_IO_NAMES_H

#include "base/mem.h"

typedef struct ml_names {
  char **items; /* from ml_alloc, one by one */
  size_t count, capacity;
} ml_names;

/* Adds a copy of a name. */
ml_status ml_names_add(ml_names *list, const char *name);
/* Sorts by bytes; what stands twice is kept once. */
void ml_names_sort(ml_names *list);
void ml_names_free(ml_names *list); /* leaves an empty list */

/* Adds the names in a directory that do not begin with a dot, and sorts. ML_NOT_FOUND or ML_IO name the path. */
ml_status ml_directory_names(const char *path, ml_names *list);

#endif
