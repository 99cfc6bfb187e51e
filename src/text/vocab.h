/* vocab.h: the pieces of a vocabulary, by id and by text.
 *
 * All pieces lie in one arena, each with a NUL behind it; one open-addressing table finds a piece by its text. */
#ifndef ML_TEXT_VOCAB_H
#define ML_TEXT_VOCAB_H

#include "text/unicode.h"

enum { ML_VOCAB_MAX_ID = (1 << 24) - 2 };

typedef enum ml_piece_flags {
  ML_PIECE_EXISTS = 1,  /* the id has a piece */
  ML_PIECE_MODEL = 2,   /* the model may produce it from ordinary text */
  ML_PIECE_SPECIAL = 4, /* a control token: skipped on request when decoding */
  ML_PIECE_ADDED = 8    /* matched in the text before the model sees it */
} ml_piece_flags;

typedef struct ml_piece {
  uint32_t offset, size; /* in the arena */
} ml_piece;

typedef struct ml_vocab {
  char *arena;
  size_t arena_size, arena_capacity;
  ml_piece *pieces; /* (count) */
  uint8_t *flags;   /* (count), of ml_piece_flags */
  size_t count, pieces_capacity, flags_capacity;
  uint32_t *slots; /* hash's upper byte << 24 | id + 1; 0 is empty */
  size_t n_slots, used;
} ml_vocab;

/* Makes room for ids below `count` and pieces of `bytes` altogether. */
ml_status ml_vocab_reserve(ml_vocab *v, size_t count, size_t bytes);
/* Gives an id its piece. A second id for the same text is kept by id, while the text goes on meaning the first. */
ml_status ml_vocab_set(ml_vocab *v, int64_t id, const char *piece, size_t size, unsigned flags);
void ml_vocab_free(ml_vocab *v);

/* Says that a piece will be looked for or set soon: tables of this size miss the caches, and memory can be on its way.
 */
void ml_vocab_expect(const ml_vocab *v, const char *piece, size_t size);
int32_t ml_vocab_find(const ml_vocab *v, const char *piece, size_t size); /* -1: none */
/* The same, where the piece likely has the id `guess` or the next: merges mostly come in the order of what they make.
 */
int32_t ml_vocab_find_near(const ml_vocab *v, int32_t guess, const char *piece, size_t size);
/* The same among the pieces that the model may produce. */
static inline int32_t ml_vocab_find_model(const ml_vocab *v, const char *piece, size_t size) {
  int32_t id = ml_vocab_find(v, piece, size);
  return id >= 0 && (v->flags[id] & ML_PIECE_MODEL) ? id : -1;
}
static inline bool ml_vocab_has(const ml_vocab *v, int64_t id) {
  return id >= 0 && (uint64_t)id < v->count && (v->flags[id] & ML_PIECE_EXISTS);
}
static inline const char *ml_vocab_piece(const ml_vocab *v, int32_t id, size_t *size) {
  *size = v->pieces[id].size;
  return v->arena + v->pieces[id].offset;
}

/* A hash of bytes; not for adversaries. */
uint64_t ml_hash_bytes(const char *bytes, size_t size);
static inline uint64_t ml_hash_mix(uint64_t a, uint64_t b) {
  __extension__ typedef unsigned __int128 wide;
  wide product = (wide)a * b;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

#endif
