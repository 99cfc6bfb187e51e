/* tokenizer_gguf.c: a tokenizer from GGUF metadata. */
#include "text/parts.h"

ml_status ml_tokenizer_from_gguf(const ml_gguf *gguf, ml_tokenizer **out) {
  (void)gguf;
  *out = NULL;
  return ml_fail(ML_UNSUPPORTED, "tokenizer");
}
