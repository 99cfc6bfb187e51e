/* names.c: lists of names, and those that a directory holds. */
#include "io/names.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

ml_status ml_names_add(ml_names *list, const char *name) {
  ML_TRY(ML_GROW(list->items, list->capacity, list->count + 1));
  char *copy = ml_strdup(name);
  if (!copy) return ML_MEMORY;
  list->items[list->count++] = copy;
  return ML_OK;
}

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

void ml_names_sort(ml_names *list) {
  if (list->count == 0) return;
  qsort(list->items, list->count, sizeof *list->items, compare);
  size_t kept = 1;
  for (size_t i = 1; i < list->count; i++) {
    if (strcmp(list->items[i], list->items[kept - 1]) == 0) ml_free(list->items[i]);
    else list->items[kept++] = list->items[i];
  }
  list->count = kept;
}

void ml_names_free(ml_names *list) {
  for (size_t i = 0; i < list->count; i++) ml_free(list->items[i]);
  ml_free(list->items);
  *list = (ml_names){0};
}

ml_status ml_directory_names(const char *path, ml_names *list) {
  DIR *dir = opendir(path);
  if (!dir) {
    return ml_fail(errno == ENOENT || errno == ENOTDIR ? ML_NOT_FOUND : ML_IO, "%s: %s", path, strerror(errno));
  }
  ml_status status = ML_OK;
  for (struct dirent *item; status == ML_OK && (item = readdir(dir));) {
    if (item->d_name[0] != '.') status = ml_names_add(list, item->d_name);
  }
  closedir(dir);
  if (status == ML_OK) ml_names_sort(list);
  return status;
}
