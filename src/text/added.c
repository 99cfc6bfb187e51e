/* added.c: finding added tokens by binary search over their sorted texts. */
#include "text/added.h"

#include <stdlib.h>
#include <string.h>

ml_status ml_added_add(ml_added *a, const char *text, size_t size, ml_added_token token) {
  ML_TRY(ML_GROW(a->tokens, a->capacity, a->count + 1));
  token.text = ml_strndup(text, size);
  token.size = size;
  if (!token.text) return ML_MEMORY;
  a->tokens[a->count++] = token;
  return ML_OK;
}

static int by_text(const void *a, const void *b) {
  const ml_added_token *x = a, *y = b;
  int order = memcmp(x->text, y->text, x->size < y->size ? x->size : y->size);
  if (order != 0) return order;
  if (x->size != y->size) return x->size < y->size ? -1 : 1;
  if (x->special != y->special) return x->special ? -1 : 1;
  return (x->id > y->id) - (x->id < y->id);
}

void ml_added_finish(ml_added *a) {
  if (a->count > 0) qsort(a->tokens, a->count, sizeof *a->tokens, by_text);
  size_t i = 0, leads = 0;
  for (unsigned b = 0; b < 256; b++) {
    a->first[b] = (uint32_t)i;
    while (i < a->count && (unsigned char)a->tokens[i].text[0] == b) i++;
    if (i > a->first[b]) {
      leads++;
      a->lead = (unsigned char)b;
    }
  }
  a->first[256] = (uint32_t)i;
  a->one_lead = leads == 1;
}

void ml_added_free(ml_added *a) {
  for (size_t i = 0; i < a->count; i++) ml_free(a->tokens[i].text);
  ml_free(a->tokens);
  *a = (ml_added){0};
}

/* First token of [low, high) whose byte `at` is at least `byte`; all share the first `at` bytes. */
static size_t lower_bound(const ml_added *a, size_t low, size_t high, size_t at, unsigned byte) {
  while (low < high) {
    size_t middle = (low + high) / 2;
    const ml_added_token *t = &a->tokens[middle];
    if (t->size <= at || (unsigned char)t->text[at] < byte) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/* The longest token that `text` begins with. */
static const ml_added_token *longest(const ml_added *a, const char *text, size_t size, bool special) {
  const ml_added_token *found = NULL;
  size_t low = a->first[(unsigned char)*text], high = a->first[(unsigned char)*text + 1];
  for (size_t n = 1; low < high; n++) {
    for (; low < high && a->tokens[low].size == n; low++) { /* the shortest of a range of like beginnings come first */
      bool counts = (special || !a->tokens[low].special) && !(found && found->size == n);
      if (counts) found = &a->tokens[low];
    }
    if (n == size) break;
    unsigned byte = (unsigned char)text[n];
    low = lower_bound(a, low, high, n, byte);
    high = lower_bound(a, low, high, n, byte + 1);
  }
  return found;
}

static bool word_before(const char *text, size_t at) {
  size_t i = at;
  do i--;
  while (((unsigned char)text[i] & 0xc0) == 0x80);
  return ml_unicode_is_word(ml_utf8_decode(text + i));
}

static bool stands_alone(const char *text, size_t size, size_t start, size_t end) {
  if (start > 0 && word_before(text, start)) return false;
  return end == size || !ml_unicode_is_word(ml_utf8_decode(text + end));
}

static size_t strip_left(const char *text, size_t from, size_t start) {
  while (start > from) {
    size_t i = start - 1;
    while (((unsigned char)text[i] & 0xc0) == 0x80) i--;
    if (!ml_unicode_is_space(ml_utf8_decode(text + i))) break;
    start = i;
  }
  return start < from ? from : start;
}

static size_t strip_right(const char *text, size_t end, size_t size) {
  while (end < size && ml_unicode_is_space(ml_utf8_decode(text + end))) end += ml_utf8_length(text[end]);
  return end;
}

/* The first place from `at` on where a token may begin; `size` when there is none. */
static size_t next_lead(const ml_added *a, const char *text, size_t size, size_t at) {
  if (a->one_lead) {
    const char *found = memchr(text + at, a->lead, size - at);
    return found ? (size_t)(found - text) : size;
  }
  while (at < size && a->first[(unsigned char)text[at]] == a->first[(unsigned char)text[at] + 1]) at++;
  return at;
}

/* As the reference: a token that does not stand alone though it should is passed over whole, and the search goes on
 * behind the token itself, not behind the spaces that it claims. */
bool ml_added_next(const ml_added *a, ml_added_scan *scan, const char *text, size_t size, bool special, size_t *start,
                   size_t *end, int32_t *id) {
  if (a->count == 0) return false;
  while ((scan->search = next_lead(a, text, size, scan->search)) < size) {
    const ml_added_token *t = longest(a, text + scan->search, size - scan->search, special);
    if (!t) {
      scan->search++;
      continue;
    }
    *start = scan->search;
    *end = scan->search = *start + t->size;
    if (t->single_word && !stands_alone(text, size, *start, *end)) continue;
    if (t->lstrip) *start = strip_left(text, scan->done, *start);
    if (t->rstrip) *end = strip_right(text, *end, size);
    if (*start >= *end) continue; /* all of it was claimed by the token before */
    *id = t->id;
    return true;
  }
  return false;
}
