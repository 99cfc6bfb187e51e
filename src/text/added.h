/* added.h: tokens that are found in the text before the model sees it: leftmost first, of those the longest. */
#ifndef ML_TEXT_ADDED_H
#define ML_TEXT_ADDED_H

#include "text/unicode.h"

typedef struct ml_added_token {
  char *text; /* owned; what is looked for */
  size_t size;
  int32_t id;
  bool single_word, lstrip, rstrip, special;
} ml_added_token;

typedef struct ml_added {
  ml_added_token *tokens; /* sorted by text after ml_added_finish */
  size_t count, capacity;
  uint32_t first[257]; /* tokens that begin with byte b: first[b] up to first[b + 1] */
  unsigned char lead;  /* the only first byte, when there is just one */
  bool one_lead;
} ml_added;

ml_status ml_added_add(ml_added *a, const char *text, size_t size, ml_added_token token); /* copies the text */
void ml_added_finish(ml_added *a);
void ml_added_free(ml_added *a);

typedef struct ml_added_scan { /* over one text; start with {0} */
  size_t search;               /* where to look from */
  size_t done;                 /* up to here the text is accounted for */
} ml_added_scan;

/* The next match: [*start, *end) with the spaces that its flags claim, and its id; before it lies ordinary text
 * from scan->done (as it was before the call). False at the end. Special tokens count only when `special`. */
bool ml_added_next(const ml_added *a, ml_added_scan *scan, const char *text, size_t size, bool special, size_t *start,
                   size_t *end, int32_t *id);

#endif
