/* vocab.c: the pieces of a vocabulary. */
#include "text/vocab.h"

#include <string.h>

/* The first `size` bytes, 1 to 7 of them, as a number; together with the size they are told from all others. */
static uint64_t short_word(const char *bytes, size_t size) {
  if (size >= 4) {
    uint32_t low, high;
    memcpy(&low, bytes, 4);
    memcpy(&high, bytes + size - 4, 4);
    return (uint64_t)high << 32 | low;
  }
  const unsigned char *u = (const unsigned char *)bytes;
  return (uint64_t)u[0] << 16 | (uint64_t)u[size / 2] << 8 | u[size - 1];
}

uint64_t ml_hash_bytes(const char *bytes, size_t size) {
  const uint64_t key = UINT64_C(0x9e3779b97f4a7c15);
  uint64_t hash = key ^ size, word;
  for (; size >= 8; bytes += 8, size -= 8) {
    memcpy(&word, bytes, 8);
    hash = ml_hash_mix(hash ^ word, key);
  }
  word = size ? short_word(bytes, size) : 0;
  return ml_hash_mix(hash ^ word, UINT64_C(0xd1b54a32d192ed03));
}

enum { ID_MASK = 0xffffff };

static uint32_t slot_of(uint64_t hash, uint32_t id) { return (uint32_t)(hash >> 56) << 24 | (id + 1); }

static void insert_slot(uint32_t *slots, size_t n, uint64_t hash, uint32_t id) {
  size_t i = hash & (n - 1);
  while (slots[i]) i = (i + 1) & (n - 1);
  slots[i] = slot_of(hash, id);
}

/* Room for `count` texts at most two thirds full. */
static ml_status grow_slots(ml_vocab *v, size_t count) {
  size_t n = v->n_slots ? v->n_slots : 64;
  while (n / 3 * 2 < count) n *= 2;
  if (n == v->n_slots) return ML_OK;
  uint32_t *slots = ml_calloc(n, sizeof *slots);
  if (!slots) return ML_MEMORY;
  for (size_t i = 0; i < v->n_slots; i++) {
    if (!v->slots[i]) continue;
    uint32_t id = (v->slots[i] & ID_MASK) - 1;
    insert_slot(slots, n, ml_hash_bytes(v->arena + v->pieces[id].offset, v->pieces[id].size), id);
  }
  ml_free(v->slots);
  v->slots = slots;
  v->n_slots = n;
  return ML_OK;
}

ml_status ml_vocab_reserve(ml_vocab *v, size_t count, size_t bytes) {
  if (count > (size_t)ML_VOCAB_MAX_ID + 1)
    return ml_fail(ML_LIMIT, "vocabulary: %zu pieces, expected fewer than 2^24", count);
  size_t room;
  if (!ml_add_size(bytes, count, &room)) return ml_fail(ML_MEMORY, "out of memory: a vocabulary too large");
  ML_TRY(ML_GROW(v->arena, v->arena_capacity, room));
  ML_TRY(ML_GROW(v->pieces, v->pieces_capacity, count));
  ML_TRY(ML_GROW(v->flags, v->flags_capacity, count));
  return grow_slots(v, count);
}

/* Ids up to `id`, those without a piece yet marked as such. */
static ml_status extend(ml_vocab *v, int64_t id) {
  if (id < 0 || id > ML_VOCAB_MAX_ID) {
    return ml_fail(ML_CORRUPT, "vocabulary: id %lld, expected 0 to %d", (long long)id, (int)ML_VOCAB_MAX_ID);
  }
  size_t count = (size_t)id + 1;
  if (count <= v->count) return ML_OK;
  ML_TRY(ML_GROW(v->pieces, v->pieces_capacity, count));
  ML_TRY(ML_GROW(v->flags, v->flags_capacity, count));
  memset(v->pieces + v->count, 0, (count - v->count) * sizeof *v->pieces);
  memset(v->flags + v->count, 0, count - v->count);
  v->count = count;
  return ML_OK;
}

/* Where the text is in the table, or the empty slot where it would be. */
static size_t locate(const ml_vocab *v, uint64_t hash, const char *piece, size_t size) {
  size_t i = hash & (v->n_slots - 1);
  for (; v->slots[i]; i = (i + 1) & (v->n_slots - 1)) {
    if (v->slots[i] >> 24 != hash >> 56) continue;
    const ml_piece *p = &v->pieces[(v->slots[i] & ID_MASK) - 1];
    if (p->size == size && memcmp(v->arena + p->offset, piece, size) == 0) break;
  }
  return i;
}

ml_status ml_vocab_set(ml_vocab *v, int64_t id, const char *piece, size_t size, unsigned flags) {
  if (ml_utf8_prefix(piece, size) != size) {
    return ml_fail(ML_CORRUPT, "vocabulary: piece %lld is not UTF-8", (long long)id);
  }
  if (ml_vocab_has(v, id)) return ml_fail(ML_CORRUPT, "vocabulary: id %lld has two pieces", (long long)id);
  ML_TRY(extend(v, id));
  size_t end = v->arena_size + size + 1;
  if (size > UINT32_MAX / 2 || end > UINT32_MAX) return ml_fail(ML_LIMIT, "vocabulary: more than 4 GiB of pieces");
  ML_TRY(ML_GROW(v->arena, v->arena_capacity, end));
  ML_TRY(grow_slots(v, v->used + 1));
  uint64_t hash = ml_hash_bytes(piece, size);
  size_t slot = locate(v, hash, piece, size);
  memcpy(v->arena + v->arena_size, piece, size);
  v->arena[end - 1] = '\0';
  v->pieces[id] = (ml_piece){(uint32_t)v->arena_size, (uint32_t)size};
  v->flags[id] = (uint8_t)(flags | ML_PIECE_EXISTS);
  v->arena_size = end;
  if (!v->slots[slot]) {
    v->slots[slot] = slot_of(hash, (uint32_t)id);
    v->used++;
  }
  return ML_OK;
}

int32_t ml_vocab_find(const ml_vocab *v, const char *piece, size_t size) {
  if (v->n_slots == 0) return -1;
  uint32_t slot = v->slots[locate(v, ml_hash_bytes(piece, size), piece, size)];
  return (int32_t)(slot & ID_MASK) - 1;
}

int32_t ml_vocab_find_near(const ml_vocab *v, int32_t guess, const char *piece, size_t size) {
  for (int64_t id = guess; id <= (int64_t)guess + 1; id++) {
    const ml_piece *p = ml_vocab_has(v, id) ? &v->pieces[id] : NULL;
    if (p && p->size == size && memcmp(v->arena + p->offset, piece, size) == 0) return (int32_t)id;
  }
  return ml_vocab_find(v, piece, size);
}

void ml_vocab_expect(const ml_vocab *v, const char *piece, size_t size) {
  if (v->n_slots > 0) __builtin_prefetch(&v->slots[ml_hash_bytes(piece, size) & (v->n_slots - 1)], 1);
}

void ml_vocab_free(ml_vocab *v) {
  ml_free(v->arena);
  ml_free(v->pieces);
  ml_free(v->flags);
  ml_free(v->slots);
  *v = (ml_vocab){0};
}
