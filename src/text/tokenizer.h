/* tokenizer.h: text to token ids and back.
 *
 * A tokenizer is immutable once made, save for caches of its own, and belongs to one engine (one thread at a time). Ids
 * are 0-based as in every checkpoint. Any byte string may be encoded: bytes that are not UTF-8 are treated as the
 * reference treats what Python would hand it, U+FFFD for each maximal invalid part. */
#ifndef ML_TEXT_TOKENIZER_H
#define ML_TEXT_TOKENIZER_H

#include "io/gguf.h"
#include "io/json.h"

typedef struct ml_tokenizer ml_tokenizer;

typedef struct ml_ids { /* a growing list of token ids; zero it first, free with ml_ids_free */
  int32_t *items;
  size_t count, capacity;
} ml_ids;
void ml_ids_free(ml_ids *ids);

typedef struct ml_text { /* growing bytes; zero it first, free with ml_text_free; always NUL-terminated when not empty
                          */
  char *bytes;
  size_t size, capacity;
} ml_text;
void ml_text_free(ml_text *text);

/* A tokenizer's files: tokenizer.json, and what lies beside it, NULL where there is none. */
typedef struct ml_tokenizer_docs {
  const ml_json_doc *tokenizer, *config; /* config: tokenizer_config.json */
  const ml_json_doc *special_tokens_map, *added_tokens;
} ml_tokenizer_docs;
/* No document is kept. A component that is not known is ML_UNSUPPORTED and named; never skipped. Truncation and padding
 * are the caller's business and not read. Tokens that any of the files adds are those of transformers' AutoTokenizer,
 * with its flags; their ids are those that the reference gives, which in sane files are the file's. */
ml_status ml_tokenizer_from_json(const ml_tokenizer_docs *docs, ml_tokenizer **out);
/* From GGUF metadata: tokenizer.ggml.model `gpt2` (with its `pre`) or `llama`. The file is not kept. ML_NOT_FOUND when
 * it has no tokenizer. */
ml_status ml_tokenizer_from_gguf(const ml_gguf *gguf, ml_tokenizer **out);
void ml_tokenizer_close(ml_tokenizer *tokenizer);

typedef struct ml_encode_options {
  bool add_special_tokens; /* run the post-processor (BOS, EOS) */
  bool parse_special;      /* special-token text in the input becomes its token; else it is ordinary text, as if the
                            * special tokens did not exist (added tokens that are not special are found all the same) */
} ml_encode_options;
/* Appends to `ids`. On failure `ids` keeps what it held before. A text of 2 GiB or more is ML_LIMIT, and so is one on
 * which a pattern of the tokenizer takes for ever. */
ml_status ml_tokenizer_encode(ml_tokenizer *t, const char *text, size_t size, ml_encode_options options, ml_ids *ids);
/* Appends to `text`. An id without a piece, as behind the vocabulary, where models may have rows that it has no entries
 * for, has no text; a negative one is ML_USAGE. */
ml_status ml_tokenizer_decode(ml_tokenizer *t, const int32_t *ids, size_t count, bool skip_special, ml_text *text);

/* Decoding as tokens come: the concatenation of all pushes and the finish equals the whole decode, and no push ends
 * inside a UTF-8 character. What later tokens may still change is kept back: a run of byte pieces (<0xE2>) comes out
 * when it has ended. After the finish the stream is ready for another text. The tokenizer must outlive it. */
typedef struct ml_stream ml_stream;
ml_status ml_stream_open(ml_tokenizer *t, bool skip_special, ml_stream **out);
ml_status ml_stream_push(ml_stream *s, int32_t id, ml_text *text);
ml_status ml_stream_finish(ml_stream *s, ml_text *text);
void ml_stream_close(ml_stream *s);

int32_t ml_tokenizer_vocab_size(const ml_tokenizer *t); /* largest id + 1, added tokens too */
int32_t ml_tokenizer_bos(const ml_tokenizer *t);        /* -1 when there is none */
bool ml_tokenizer_adds_bos(const ml_tokenizer *t);      /* whether encoding with special tokens begins with BOS */
/* The tokenizer's own end tokens (tokenizer_config's eos_token; GGUF's eos and eot keys): a borrowed list. */
const int32_t *ml_tokenizer_eos(const ml_tokenizer *t, size_t *count);
int32_t ml_tokenizer_id(const ml_tokenizer *t, const char *piece, size_t size); /* -1 when there is none */
/* The piece as the vocabulary spells it, with a NUL behind it; NULL for an id without one. */
const char *ml_tokenizer_piece(const ml_tokenizer *t, int32_t id, size_t *size);
bool ml_tokenizer_is_special(const ml_tokenizer *t, int32_t id);

#endif
