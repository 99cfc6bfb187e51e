/* pretokenize.h: from normalised text to the words that BPE works on. */
#ifndef ML_TEXT_PRETOKENIZE_H
#define ML_TEXT_PRETOKENIZE_H

#include "text/pattern.h"

/* What becomes of a match of Split. */
typedef enum ml_split_behavior {
  ML_SPLIT_REMOVED,
  ML_SPLIT_ISOLATED,
  ML_SPLIT_MERGED_WITH_PREVIOUS,
  ML_SPLIT_MERGED_WITH_NEXT,
  ML_SPLIT_CONTIGUOUS
} ml_split_behavior;

typedef enum ml_prepend {
  ML_PREPEND_NEVER,
  ML_PREPEND_FIRST, /* only at the very start of the text */
  ML_PREPEND_ALWAYS
} ml_prepend;

typedef enum ml_step_kind {
  ML_STEP_SPLIT,
  ML_STEP_PREFIX_SPACE, /* a space before each piece that does not begin with one */
  ML_STEP_BYTES,        /* from here on characters are bytes */
  ML_STEP_METASPACE     /* spaces become `mark`, one is put before a piece that lacks it */
} ml_step_kind;

/* Every pre-tokeniser is a few of these steps. */
typedef struct ml_step {
  ml_step_kind kind;
  ml_pattern *pattern; /* owned; of SPLIT */
  ml_split_behavior behavior;
  bool invert;
  ml_prepend prepend; /* of METASPACE */
  char mark[5];
} ml_step;

typedef struct ml_pretokenizer {
  ml_step *steps;
  size_t count, capacity;
  ml_view view;     /* of the words: bytes when a BYTES step is among them */
  ml_text texts[2]; /* scratch */
  ml_spans spans[3];
} ml_pretokenizer;

ml_status ml_pretokenizer_add(ml_pretokenizer *p, ml_step step); /* takes the pattern over, on failure too */
/* Adds a SPLIT step. */
ml_status ml_pretokenizer_add_split(ml_pretokenizer *p, const char *pattern, size_t size, bool literal,
                                    ml_split_behavior behavior, bool invert);
/* The words of `text` (size below 2 GiB); `text` and `spans` are set to what is valid until the next call. */
ml_status ml_pretokenize(ml_pretokenizer *p, const char **text, size_t size, bool at_start, const ml_spans **spans);
void ml_pretokenizer_free(ml_pretokenizer *p);

/* GPT-2's pattern, which ByteLevel uses unless told otherwise. */
extern const char ml_gpt2_pattern[];

#endif
