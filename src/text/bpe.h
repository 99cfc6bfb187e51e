/* bpe.h: byte pair encoding of one pre-tokenised word.
 *
 * Two ways to choose the next merge: by the rank of a pair of ids (tokenizer.json, GGUF's `gpt2`), or by the score of
 * the piece that two neighbours spell (GGUF's `llama`, as SentencePiece does). Equal ranks go from left to right. */
#ifndef ML_TEXT_BPE_H
#define ML_TEXT_BPE_H

#include "text/vocab.h"

typedef struct ml_merge { /* a slot of the table of merges */
  uint64_t pair;          /* left id << 32 | right id */
  uint32_t rank;          /* ML_NO_RANK: the slot is empty */
  int32_t id;             /* what the two become */
} ml_merge;
#define ML_NO_RANK UINT32_MAX

typedef struct ml_bpe_word ml_bpe_word; /* an entry of the cache of words */

typedef struct ml_bpe_symbol {
  int32_t id;          /* -1: a character that has none (by score only) */
  uint32_t start, end; /* in the word, bytes */
  uint32_t rank;       /* of merging with the next symbol */
  int32_t merged;      /* into this id */
  int32_t previous, next;
} ml_bpe_symbol;

typedef struct ml_bpe {
  const ml_vocab *vocab;
  ml_merge *merges; /* (n_merges) open addressing */
  size_t n_merges, used;
  uint32_t *order;    /* by score: what piece i's merge ranks, best first; NULL when by rank */
  bool byte_level;    /* the word's bytes are the symbols, spelled as ml_byte_char says */
  bool ignore_merges; /* a word that is a piece is that piece */
  bool byte_fallback; /* a character without a piece becomes <0xXX> pieces */
  bool fuse_unk;
  int32_t unk;        /* -1: characters without a piece are dropped */
  int32_t bytes[256]; /* of each byte: its symbol (byte level) or its <0xXX> piece; -1: none */
  bool cuts;          /* no merge joins what is before a U+2581 to it, save after the bytes in `joins` */
  bool joins[256];
  ml_bpe_word *cache;
  ml_bpe_symbol *symbols;
  size_t symbols_capacity;
  uint64_t *heap;
  size_t heap_capacity;
} ml_bpe;

/* Room for this many merges. */
ml_status ml_bpe_reserve(ml_bpe *b, size_t merges);
/* A later merge of the same pair replaces the earlier one. */
ml_status ml_bpe_add_merge(ml_bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t id);
/* A float32 score as a rank: higher scores come first. */
uint32_t ml_bpe_score_rank(float score);
/* After vocabulary, merges and options: what encoding needs besides. */
ml_status ml_bpe_finish(ml_bpe *b);
void ml_bpe_free(ml_bpe *b);
/* Appends the ids of a word, well-formed UTF-8 (any bytes at byte level), below 2 GiB. */
ml_status ml_bpe_encode(ml_bpe *b, const char *word, size_t size, ml_ids *ids);

#endif
