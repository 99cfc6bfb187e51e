/* ranges.c: sets of code points as sorted ranges. */
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

void ml_ranges_free(ml_ranges *ranges) {
  ml_free(ranges->items);
  *ranges = (ml_ranges){0};
}

ml_status ml_ranges_add(ml_ranges *ranges, uint32_t first, uint32_t end) {
  if (first >= end) return ML_OK;
  ML_TRY(ML_GROW(ranges->items, ranges->capacity, ranges->count + 2));
  ranges->items[ranges->count++] = first;
  ranges->items[ranges->count++] = end;
  return ML_OK;
}

static int by_first(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

void ml_ranges_tidy(ml_ranges *ranges) {
  uint32_t *items = ranges->items;
  if (ranges->count == 0) return;
  qsort(items, ranges->count / 2, 2 * sizeof *items, by_first);
  size_t kept = 2;
  for (size_t i = 2; i < ranges->count; i += 2) {
    if (items[i] <= items[kept - 1]) {
      if (items[i + 1] > items[kept - 1]) items[kept - 1] = items[i + 1];
    } else {
      items[kept++] = items[i];
      items[kept++] = items[i + 1];
    }
  }
  ranges->count = kept;
}

ml_status ml_ranges_union(ml_ranges *into, const ml_ranges *other) {
  for (size_t i = 0; i < other->count; i += 2) ML_TRY(ml_ranges_add(into, other->items[i], other->items[i + 1]));
  ml_ranges_tidy(into);
  return ML_OK;
}

ml_status ml_ranges_complement(ml_ranges *ranges) {
  ml_ranges out = {0};
  uint32_t from = 0;
  for (size_t i = 0; i <= ranges->count; i += 2) {
    uint32_t to = i < ranges->count ? ranges->items[i] : ML_CODE_POINTS;
    ml_status status = ml_ranges_add(&out, from, to);
    if (status != ML_OK) {
      ml_ranges_free(&out);
      return status;
    }
    if (i < ranges->count) from = ranges->items[i + 1];
  }
  ml_ranges_free(ranges);
  *ranges = out;
  return ML_OK;
}

/* By De Morgan: what is in neither complement. */
ml_status ml_ranges_intersect(ml_ranges *into, const ml_ranges *other) {
  ml_ranges outside = {0};
  ml_status status = ml_ranges_union(&outside, other);
  if (status == ML_OK) status = ml_ranges_complement(&outside);
  if (status == ML_OK) status = ml_ranges_complement(into);
  if (status == ML_OK) status = ml_ranges_union(into, &outside);
  if (status == ML_OK) status = ml_ranges_complement(into);
  ml_ranges_free(&outside);
  return status;
}

bool ml_ranges_has(const ml_ranges *ranges, uint32_t code) {
  size_t low = 0, high = ranges->count / 2;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (code < ranges->items[2 * middle]) {
      high = middle;
    } else if (code >= ranges->items[2 * middle + 1]) {
      low = middle + 1;
    } else {
      return true;
    }
  }
  return false;
}
