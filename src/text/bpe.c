/* bpe.c: byte pair encoding: symbols, merging, the cache of words. */
#include "text/bpe.h"

#include <string.h>

enum {
  SMALL = 40,         /* symbols: up to here a scan for the best merge beats a heap */
  CACHE_WORDS = 4096, /* a power of two */
  CACHE_TEXT = 54,
  CACHE_IDS = 16
};

struct ml_bpe_word { /* two cache lines; the last word that fell on this entry */
  uint64_t hash;
  uint8_t size, count; /* size 0: unused */
  char text[CACHE_TEXT];
  int32_t ids[CACHE_IDS];
};

static const char underline[] = "\xe2\x96\x81"; /* U+2581, which stands for a space */

static inline ml_status push_id(ml_ids *ids, int32_t id) {
  if (ids->count == ids->capacity) ML_TRY(ML_GROW(ids->items, ids->capacity, ids->count + 1));
  ids->items[ids->count++] = id;
  return ML_OK;
}

/* --- the table of merges --- */

static inline const ml_merge *find_merge(const ml_bpe *b, int32_t left, int32_t right) {
  uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
  size_t i = ml_hash_mix(pair ^ UINT64_C(0xa0761d6478bd642f), UINT64_C(0xe7037ed1a0b428db)) & (b->n_merges - 1);
  while (b->merges[i].rank != ML_NO_RANK && b->merges[i].pair != pair) i = (i + 1) & (b->n_merges - 1);
  return &b->merges[i];
}

ml_status ml_bpe_reserve(ml_bpe *b, size_t merges) {
  size_t n = 64;
  while (n / 3 * 2 <= merges) n *= 2;
  if (n <= b->n_merges) return ML_OK;
  ml_merge *old = b->merges;
  size_t n_old = b->n_merges;
  size_t bytes;
  if (!ml_mul_size(n, sizeof *old, &bytes)) return ml_fail(ML_MEMORY, "out of memory: too many merges");
  ml_merge *grown = ml_alloc(bytes);
  if (!grown) return ML_MEMORY;
  memset(grown, 0xff, bytes);
  b->merges = grown;
  b->n_merges = n;
  for (size_t i = 0; i < n_old; i++) {
    if (old[i].rank == ML_NO_RANK) continue;
    *(ml_merge *)find_merge(b, (int32_t)(old[i].pair >> 32), (int32_t)(uint32_t)old[i].pair) = old[i];
  }
  ml_free(old);
  return ML_OK;
}

ml_status ml_bpe_add_merge(ml_bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t id) {
  ML_TRY(ml_bpe_reserve(b, b->used + 1));
  ml_merge *slot = (ml_merge *)find_merge(b, left, right);
  if (slot->rank == ML_NO_RANK) b->used++;
  *slot = (ml_merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank, id};
  return ML_OK;
}

uint32_t ml_bpe_score_rank(float score) {
  float plain = score + 0.0f; /* -0 is 0 */
  uint32_t bits;
  memcpy(&bits, &plain, sizeof bits);
  uint32_t ascending = bits >> 31 ? ~bits : bits | UINT32_C(0x80000000);
  return ~ascending;
}

/* --- what follows from the vocabulary --- */

static void find_bytes(ml_bpe *b) {
  for (unsigned i = 0; i < 256; i++) {
    char name[8] = "<0x00>";
    static const char digits[] = "0123456789ABCDEF";
    name[3] = digits[i >> 4];
    name[4] = digits[i & 15];
    size_t size = b->byte_level ? ml_utf8_write(ml_byte_char((unsigned char)i), name) : 6;
    /* By score (GGUF) byte pieces are marked as such: no text spells them, but the fallback does. */
    b->bytes[i] = b->order ? ml_vocab_find(b->vocab, name, size) : ml_vocab_find_model(b->vocab, name, size);
  }
}

static bool ends_with_underline(const char *s, size_t size) {
  return size >= 3 && memcmp(s + size - 3, underline, 3) == 0;
}
static bool begins_with_underline(const char *s, size_t size) { return size >= 3 && memcmp(s, underline, 3) == 0; }

/* A pair that joins something to a following underline: remember what it ends with. False when that cannot be told from
 * the text, since the left piece is not spelled there. */
static bool note_join(ml_bpe *b, int32_t left, int32_t right) {
  size_t n_left, n_right;
  const char *l = ml_vocab_piece(b->vocab, left, &n_left), *r = ml_vocab_piece(b->vocab, right, &n_right);
  if (n_left == 0 || !begins_with_underline(r, n_right) || ends_with_underline(l, n_left)) return true;
  if (left == b->unk || (n_left == 6 && memcmp(l, "<0x", 3) == 0)) return false;
  b->joins[(unsigned char)l[n_left - 1]] = true;
  return true;
}

/* By score any piece with an underline inside may join. Pieces lie one behind the other with a NUL between. */
static void note_inner_underlines(ml_bpe *b) {
  const char *arena = b->vocab->arena, *end = arena + b->vocab->arena_size;
  for (const char *at = arena; (at = memchr(at, underline[0], (size_t)(end - at))); at++) {
    if (at == arena || at[-1] == '\0' || at[1] != underline[1] || at[2] != underline[2]) continue;
    if (!ends_with_underline(arena, (size_t)(at - arena))) b->joins[(unsigned char)at[-1]] = true;
  }
}

/* Whether every character leaves a symbol. Where one is dropped, its neighbours meet. */
static bool keeps_all(const ml_bpe *b) {
  bool all = b->byte_fallback;
  for (unsigned i = 0; i < 256; i++) all = all && b->bytes[i] >= 0;
  return all || b->unk >= 0 || b->order;
}

/* Texts of SentencePiece-like models have no words; cutting before underlines, where no merge can reach across, gives
 * words that the cache knows, and the same ids. */
static void find_cuts(ml_bpe *b) {
  b->cuts = !b->byte_level && !b->ignore_merges && keeps_all(b) && ml_vocab_find_model(b->vocab, underline, 3) >= 0;
  if (b->cuts && b->order) note_inner_underlines(b);
  for (size_t i = 0; b->cuts && !b->order && i < b->n_merges; i++) {
    const ml_merge *m = &b->merges[i];
    if (m->rank != ML_NO_RANK) b->cuts = note_join(b, (int32_t)(m->pair >> 32), (int32_t)(uint32_t)m->pair);
  }
}

ml_status ml_bpe_finish(ml_bpe *b) {
  ML_TRY(ml_bpe_reserve(b, 1));
  find_bytes(b);
  find_cuts(b);
  return ML_OK;
}

void ml_bpe_free(ml_bpe *b) {
  ml_free(b->merges);
  ml_free(b->order);
  ml_free(b->cache);
  ml_free(b->symbols);
  ml_free(b->heap);
  *b = (ml_bpe){0};
}

/* --- symbols --- */

static void add_symbol(ml_bpe *b, size_t *n, int32_t id, size_t start, size_t end) {
  ml_bpe_symbol *s = &b->symbols[(*n)++];
  s->id = id;
  s->start = (uint32_t)start;
  s->end = (uint32_t)end;
}

/* A character without a piece, spelled in bytes; false when a byte has none either. */
static bool add_bytes(ml_bpe *b, size_t *n, const char *word, size_t start, size_t end) {
  for (size_t i = start; i < end; i++) {
    if (b->bytes[(unsigned char)word[i]] < 0) return false;
  }
  for (size_t i = start; i < end; i++) add_symbol(b, n, b->bytes[(unsigned char)word[i]], i, i + 1);
  return true;
}

/* The first symbols by rank. An unknown character waits until the next known one, to be fused with its like; bytes
 * of the fallback do not wait for it, as in the reference. */
static size_t start_by_rank(ml_bpe *b, const char *word, size_t size) {
  size_t n = 0;
  bool waiting = false;
  for (size_t i = 0, end; i < size; i = end) {
    end = b->byte_level ? i + 1 : i + ml_utf8_length(word[i]);
    int32_t id = b->byte_level ? b->bytes[(unsigned char)word[i]] : ml_vocab_find_model(b->vocab, word + i, end - i);
    if (id >= 0) {
      if (waiting) add_symbol(b, &n, b->unk, i, i);
      waiting = false;
      add_symbol(b, &n, id, i, end);
    } else if (!b->byte_level && b->byte_fallback && add_bytes(b, &n, word, i, end)) {
      continue;
    } else if (b->unk >= 0) {
      if (waiting && !b->fuse_unk) add_symbol(b, &n, b->unk, i, i);
      waiting = true;
    }
  }
  if (waiting) add_symbol(b, &n, b->unk, size, size);
  return n;
}

static size_t start_by_score(ml_bpe *b, const char *word, size_t size) {
  size_t n = 0;
  for (size_t i = 0, end; i < size; i = end) {
    end = i + ml_utf8_length(word[i]);
    add_symbol(b, &n, ml_vocab_find_model(b->vocab, word + i, end - i), i, end);
  }
  return n;
}

/* What merging two neighbours ranks and gives. */
static inline void rate(const ml_bpe *b, const char *word, ml_bpe_symbol *left, const ml_bpe_symbol *right) {
  if (b->order) {
    left->merged = ml_vocab_find_model(b->vocab, word + left->start, right->end - left->start);
    left->rank = left->merged < 0 ? ML_NO_RANK : b->order[left->merged];
  } else {
    const ml_merge *merge = find_merge(b, left->id, right->id);
    left->merged = merge->id;
    left->rank = merge->rank;
  }
}

/* --- merging --- */

/* Few symbols: look for the best pair, close the gap, again. */
static size_t merge_small(ml_bpe *b, const char *word, size_t n) {
  ml_bpe_symbol *s = b->symbols;
  for (size_t i = 0; i + 1 < n; i++) rate(b, word, &s[i], &s[i + 1]);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; i++) {
      if (s[i].rank < s[best].rank) best = i;
    }
    if (s[best].rank == ML_NO_RANK) break;
    s[best].id = s[best].merged;
    s[best].end = s[best + 1].end;
    memmove(&s[best + 1], &s[best + 2], (n - best - 2) * sizeof *s);
    n--;
    if (best + 1 < n) rate(b, word, &s[best], &s[best + 1]);
    if (best > 0) rate(b, word, &s[best - 1], &s[best]);
  }
  return n;
}

static void sift_down(uint64_t *heap, size_t n, size_t i) {
  uint64_t item = heap[i];
  for (size_t child; (child = 2 * i + 1) < n; i = child) {
    if (child + 1 < n && heap[child + 1] < heap[child]) child++;
    if (item <= heap[child]) break;
    heap[i] = heap[child];
  }
  heap[i] = item;
}

static void sift_up(uint64_t *heap, size_t i) {
  uint64_t item = heap[i];
  for (size_t parent; i > 0 && item < heap[parent = (i - 1) / 2]; i = parent) heap[i] = heap[parent];
  heap[i] = item;
}

/* Rates a pair anew and queues it. Each of at most n - 1 merges queues two pairs, so 3n entries are room enough. */
static void rate_and_queue(ml_bpe *b, const char *word, int32_t left, size_t *count) {
  ml_bpe_symbol *s = b->symbols;
  rate(b, word, &s[left], &s[s[left].next]);
  if (s[left].rank == ML_NO_RANK) return;
  b->heap[*count] = (uint64_t)s[left].rank << 32 | (uint32_t)left;
  sift_up(b->heap, (*count)++);
}

/* Many symbols: a linked list, and a heap of rank << 32 | place. An entry is stale when its symbol's rank has changed:
 * a merge makes the pair longer, and no two pieces of different length have one rank and one place. */
static ml_status merge_large(ml_bpe *b, const char *word, size_t n) {
  ml_bpe_symbol *s = b->symbols;
  size_t count = 0;
  ML_TRY(ML_GROW(b->heap, b->heap_capacity, 3 * n));
  for (size_t i = 0; i < n; i++) {
    s[i].previous = (int32_t)i - 1;
    s[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
    s[i].rank = ML_NO_RANK;
    if (i + 1 == n) break;
    rate(b, word, &s[i], &s[i + 1]);
    if (s[i].rank != ML_NO_RANK) b->heap[count++] = (uint64_t)s[i].rank << 32 | (uint32_t)i;
  }
  for (size_t i = count / 2; i-- > 0;) sift_down(b->heap, count, i);
  while (count > 0) {
    uint64_t top = b->heap[0];
    b->heap[0] = b->heap[--count];
    if (count > 0) sift_down(b->heap, count, 0);
    int32_t i = (int32_t)(uint32_t)top;
    if (s[i].rank != (uint32_t)(top >> 32)) continue;
    int32_t gone = s[i].next, next = s[gone].next, previous = s[i].previous;
    s[i].id = s[i].merged;
    s[i].end = s[gone].end;
    s[i].next = next;
    s[i].rank = s[gone].rank = ML_NO_RANK;
    if (next >= 0) {
      s[next].previous = i;
      rate_and_queue(b, word, i, &count);
    }
    if (previous >= 0) rate_and_queue(b, word, previous, &count);
  }
  return ML_OK;
}

/* By score a character may have been left without a piece; `unknown` says whether the one before was. */
static ml_status push_symbol(ml_bpe *b, const char *word, const ml_bpe_symbol *s, bool *unknown, ml_ids *ids) {
  bool after_unknown = *unknown, all = b->byte_fallback;
  *unknown = false;
  if (s->id >= 0) return push_id(ids, s->id);
  for (uint32_t i = s->start; all && i < s->end; i++) all = b->bytes[(unsigned char)word[i]] >= 0;
  if (!all) {
    *unknown = true;
    return b->unk < 0 || (after_unknown && b->fuse_unk) ? ML_OK : push_id(ids, b->unk);
  }
  for (uint32_t i = s->start; i < s->end; i++) ML_TRY(push_id(ids, b->bytes[(unsigned char)word[i]]));
  return ML_OK;
}

static ml_status merge_word(ml_bpe *b, const char *word, size_t size, ml_ids *ids) {
  bool unknown = false;
  ML_TRY(ML_GROW(b->symbols, b->symbols_capacity, size + 2));
  size_t n = b->order ? start_by_score(b, word, size) : start_by_rank(b, word, size);
  if (n > SMALL) {
    ML_TRY(merge_large(b, word, n));
    for (int32_t i = 0; i >= 0; i = b->symbols[i].next) ML_TRY(push_symbol(b, word, &b->symbols[i], &unknown, ids));
    return ML_OK;
  }
  n = merge_small(b, word, n);
  for (size_t i = 0; i < n; i++) ML_TRY(push_symbol(b, word, &b->symbols[i], &unknown, ids));
  return ML_OK;
}

/* --- words --- */

/* The piece that a whole word is; at byte level the vocabulary spells it in printable characters. */
static ml_status find_word(const ml_bpe *b, const char *word, size_t size, int32_t *id) {
  if (!b->byte_level) {
    *id = ml_vocab_find_model(b->vocab, word, size);
    return ML_OK;
  }
  char small[256] = "", *spelled = small;
  *id = -1;
  if (size > sizeof small / 2 && !(spelled = ml_alloc(2 * size))) return ML_MEMORY;
  size_t n = 0;
  for (size_t i = 0; i < size; i++) n += ml_utf8_write(ml_byte_char((unsigned char)word[i]), spelled + n);
  *id = ml_vocab_find_model(b->vocab, spelled, n);
  if (spelled != small) ml_free(spelled);
  return ML_OK;
}

static ml_status encode_new(ml_bpe *b, const char *word, size_t size, ml_ids *ids) {
  if (b->ignore_merges) {
    int32_t id;
    ML_TRY(find_word(b, word, size, &id));
    if (id >= 0) return push_id(ids, id);
  }
  return merge_word(b, word, size, ids);
}

static ml_status encode_word(ml_bpe *b, const char *word, size_t size, ml_ids *ids) {
  if (size > CACHE_TEXT || size == 0) return encode_new(b, word, size, ids);
  uint64_t hash = ml_hash_bytes(word, size);
  ml_bpe_word *entry = &b->cache[hash >> 32 & (CACHE_WORDS - 1)];
  if (entry->hash != hash || entry->size != size || memcmp(entry->text, word, size) != 0) {
    size_t before = ids->count;
    ML_TRY(encode_new(b, word, size, ids));
    size_t count = ids->count - before;
    if (count > CACHE_IDS) return ML_OK;
    entry->hash = hash;
    entry->size = (uint8_t)size;
    entry->count = (uint8_t)count;
    memcpy(entry->text, word, size);
    if (count > 0) memcpy(entry->ids, ids->items + before, count * sizeof *entry->ids);
    return ML_OK;
  }
  ML_TRY(ML_GROW(ids->items, ids->capacity, ids->count + CACHE_IDS));
  memcpy(ids->items + ids->count, entry->ids, sizeof entry->ids);
  ids->count += entry->count;
  return ML_OK;
}

/* Where the word at the front of an uncut text ends. */
static size_t cut_length(const ml_bpe *b, const char *text, size_t size) {
  for (size_t i = 1; i < size;) {
    const char *found = memmem(text + i, size - i, underline, 3);
    if (!found) return size;
    i = (size_t)(found - text);
    if (!ends_with_underline(text, i) && !b->joins[(unsigned char)text[i - 1]]) return i;
    i += 3;
  }
  return size;
}

ml_status ml_bpe_encode(ml_bpe *b, const char *word, size_t size, ml_ids *ids) {
  if (!b->cache && !(b->cache = ml_calloc(CACHE_WORDS, sizeof *b->cache))) return ML_MEMORY;
  if (!b->cuts) return encode_word(b, word, size, ids);
  for (size_t i = 0, n; i < size; i += n) {
    n = cut_length(b, word + i, size - i);
    ML_TRY(encode_word(b, word + i, n, ids));
  }
  return ML_OK;
}
