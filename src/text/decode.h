/* decode.h: from pieces back to text, as a chain of stages that all work on a stream.
 *
 * A stage receives the text of a token in any number of parts and then its end, and hands on the same to the next
 * stage. What a stage cannot decide yet it keeps; finishing makes it decide. So whole and streamed decoding are one
 * code. Parts are well-formed UTF-8. */
#ifndef ML_TEXT_DECODE_H
#define ML_TEXT_DECODE_H

#include "text/pattern.h"

typedef enum ml_stage_kind {
  ML_STAGE_REPLACE,       /* `pattern` becomes `content` */
  ML_STAGE_STRIP,         /* up to `start` and `stop` times `content`, one character, at the ends of a token */
  ML_STAGE_METASPACE,     /* `content` becomes a space; in the first token it goes when `prepended` */
  ML_STAGE_BYTE_FALLBACK, /* runs of <0xXX> tokens become characters, or one U+FFFD for each byte */
  ML_STAGE_BYTE_LEVEL,    /* printable characters become bytes; all tokens become one */
  ML_STAGE_FUSE,          /* all tokens become one */
  ML_STAGE_JOIN           /* a space between tokens */
} ml_stage_kind;

typedef struct ml_stage {
  ml_stage_kind kind;
  ml_pattern *pattern; /* owned; REPLACE by regular expression, NULL when `literal` is meant */
  ml_text literal;     /* owned */
  ml_text content;     /* owned */
  size_t start, stop;
  bool prepended;
} ml_stage;

typedef struct ml_decoder {
  ml_stage *stages;
  size_t count, capacity;
} ml_decoder;

/* Takes over what the stage owns, on failure too. */
ml_status ml_decoder_add(ml_decoder *d, ml_stage stage);
void ml_decoder_free(ml_decoder *d);
void ml_stage_free(ml_stage *stage);

typedef struct ml_decoding ml_decoding; /* how far a stream has come */
ml_status ml_decoding_open(const ml_decoder *d, ml_decoding **out);
/* Appends to `text` what token `piece` makes certain. */
ml_status ml_decoding_push(ml_decoding *s, const char *piece, size_t size, ml_text *text);
/* Appends the rest; the next push begins a new text. */
ml_status ml_decoding_finish(ml_decoding *s, ml_text *text);
/* Forgets what is pending; the next push begins a new text. */
void ml_decoding_reset(ml_decoding *s);
void ml_decoding_close(ml_decoding *s);

#endif
