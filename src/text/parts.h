/* parts.h: what a tokenizer is made of; shared by its constructors (JSON, GGUF) and by encoding. */
#ifndef ML_TEXT_PARTS_H
#define ML_TEXT_PARTS_H

#include "text/added.h"
#include "text/bpe.h"
#include "text/decode.h"
#include "text/normalize.h"
#include "text/pretokenize.h"
#include "text/vocab.h"

/* What a post-processor puts round the ids of a text: a row of special ids and of places where the text's ids go. */
typedef struct ml_template {
  int32_t *items; /* ML_TEMPLATE_TEXT: the text's ids */
  size_t count, capacity;
} ml_template;
enum { ML_TEMPLATE_TEXT = -1 };

struct ml_tokenizer {
  ml_vocab vocab;
  ml_bpe bpe;
  ml_added added;      /* found in the text as given */
  ml_added normalized; /* found in normalised text */
  ml_normalizer normalizer;
  ml_pretokenizer pretokenizer;
  ml_template *templates; /* applied in turn */
  size_t n_templates, templates_capacity;
  ml_decoder decoder;
  int32_t bos;
  ml_ids eos;
  bool adds_bos;
  ml_text sanitized;     /* scratch: text that was not UTF-8 */
  ml_ids wrapped;        /* scratch of post-processing */
  ml_decoding *decoding; /* of whole decodes */
};

/* An empty tokenizer: no BOS, no end tokens. */
ml_status ml_tokenizer_new(ml_tokenizer **out);
/* Makes a token found in text, before or after normalisation. */
ml_status ml_tokenizer_add_token(ml_tokenizer *t, bool normalized, const char *text, size_t size, ml_added_token token);
ml_status ml_tokenizer_add_eos(ml_tokenizer *t, int32_t id); /* -1 and repetitions are passed over */
/* Takes the template over, on failure too. */
ml_status ml_tokenizer_add_template(ml_tokenizer *t, ml_template template);
ml_status ml_template_push(ml_template *template, int32_t item);
/* When all parts are there: what follows from them. */
ml_status ml_tokenizer_finish(ml_tokenizer *t);

#endif
