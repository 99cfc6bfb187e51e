/* normalize.h: what is done to text before it is cut into words. */
#ifndef ML_TEXT_NORMALIZE_H
#define ML_TEXT_NORMALIZE_H

#include "text/pattern.h"

typedef enum ml_normal_kind {
  ML_NORMAL_NFC,
  ML_NORMAL_NFD,
  ML_NORMAL_NFKC,
  ML_NORMAL_NFKD,
  ML_NORMAL_LOWERCASE,
  ML_NORMAL_STRIP,
  ML_NORMAL_STRIP_ACCENTS,
  ML_NORMAL_PREPEND, /* `content`, unless the text is empty */
  ML_NORMAL_REPLACE  /* matches of `pattern` by `content` */
} ml_normal_kind;

typedef struct ml_normal_op {
  ml_normal_kind kind;
  ml_pattern *pattern; /* owned */
  ml_text content;     /* owned */
  bool left, right;    /* of STRIP */
} ml_normal_op;

typedef struct ml_normalizer {
  ml_normal_op *ops;
  size_t count, capacity;
  ml_text texts[2]; /* scratch */
  ml_spans cut;
} ml_normalizer;

/* Takes over what the operation owns, on failure too. */
ml_status ml_normalizer_add(ml_normalizer *n, ml_normal_op op);
void ml_normalizer_free(ml_normalizer *n);
/* Replaces text and size by what is valid until the next call; unchanged text is not copied. Sizes are below 2 GiB. */
ml_status ml_normalize(ml_normalizer *n, const char **text, size_t *size);

/* Appends the normal form of well-formed text. */
ml_status ml_normal_form(ml_normal_kind form, const char *text, size_t size, ml_text *out);
/* Whether NFC would leave the text as it is, as far as a look at single characters tells. */
bool ml_is_nfc(const char *text, size_t size);

#endif
