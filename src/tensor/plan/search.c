/* search.c: intermediates placed largest first, each at the lowest offset where it meets none that lives at the same
 * time, and again with those earlier that came to lie last. */
#include "tensor/plan/place.h"

#include <stdlib.h>
#include <string.h>

/* ---- what is placed, by when it lives ---- */

/* A stretch of the arena that is taken. */
typedef struct stretch {
  size_t from, to;
} stretch;

/* What is placed, to be found by when it lives: steps are cut into spans, and each has a list. Lives of many spans are
 * in one list more. */
enum { SPAN = 8, MOST_SPANS = 8 };
typedef struct entry {
  stretch at;
  int first, last; /* steps */
  int next;        /* in its span; -1 */
} entry;
typedef struct calendar {
  int *heads, n_spans, n_entries, n_lasting;
  size_t most_lasting; /* room for so many */
  entry *entries, *lasting;
} calendar;

static bool is_lasting(const ml_storage *s) { return s->last / SPAN - s->first / SPAN >= MOST_SPANS; }

static void note(calendar *c, const ml_storage *s, stretch at) {
  entry e = {.at = at, .first = s->first, .last = s->last};
  if (is_lasting(s)) c->lasting[c->n_lasting++] = e;
  for (int k = s->first / SPAN; k <= s->last / SPAN && !is_lasting(s); k++) {
    e.next = c->heads[k];
    c->heads[k] = c->n_entries;
    c->entries[c->n_entries++] = e;
  }
}

static ml_status open_calendar(calendar *c, const ml_placing *p) {
  size_t entries = 0;
  for (size_t i = 0; i < p->n; i++) {
    const ml_storage *s = p->list[i];
    if (is_lasting(s)) c->most_lasting++;
    else entries += (size_t)(s->last / SPAN - s->first / SPAN + 1);
  }
  c->n_spans = (int)(p->n_steps / SPAN + 1);
  c->heads = ml_bump_alloc(p->memory, (size_t)c->n_spans, sizeof *c->heads);
  c->entries = ml_bump_alloc(p->memory, entries, sizeof *c->entries);
  c->lasting = ml_bump_alloc(p->memory, c->most_lasting, sizeof *c->lasting);
  return c->heads && c->entries && c->lasting ? ML_OK : ML_MEMORY;
}

static void clear(calendar *c) {
  for (int k = 0; k < c->n_spans; k++) c->heads[k] = -1;
  c->n_entries = c->n_lasting = 0;
}

/* ---- an order ---- */

/* What comes early in one. */
typedef struct ranked {
  double rank;
  int index;
} ranked;

/* The stretches of what is placed and lives at a time with s; their number. */
static size_t find_live(const calendar *c, const ml_storage *s, stretch *live) {
  size_t n = 0;
  int first = s->first / SPAN;
  for (int i = 0; i < c->n_lasting; i++) {
    const entry *e = &c->lasting[i];
    live[n] = e->at;
    n += e->first <= s->last && s->first <= e->last;
  }
  for (int k = first; k <= s->last / SPAN; k++) {
    for (int i = c->heads[k]; i >= 0; i = c->entries[i].next) {
      const entry *e = &c->entries[i];
      bool met = k > first && e->first / SPAN < k; /* in an earlier span */
      if (!met && e->first <= s->last && s->first <= e->last) live[n++] = e->at;
    }
  }
  return n;
}

/* The lowest place for so many bytes beside a few stretches, which it puts in order. */
static size_t find_between(stretch *live, size_t n, size_t bytes) {
  for (size_t i = 1; i < n; i++) {
    stretch x = live[i];
    size_t k = i;
    for (; k > 0 && live[k - 1].from > x.from; k--) live[k] = live[k - 1];
    live[k] = x;
  }
  size_t at = 0;
  for (size_t k = 0; k < n && live[k].from < at + bytes; k++) {
    if (live[k].to > at) at = live[k].to;
  }
  return at;
}

/* A bit for each `1 << shift` bytes of an arena. */
typedef struct map {
  uint64_t *words;
  size_t n_words;
  int shift;
} map;

static ml_status open_map(map *m, size_t bytes, ml_bump *memory) {
  enum { MOST_BITS = 1 << 17 };
  m->shift = 6; /* of ALIGN */
  while (bytes >> m->shift > MOST_BITS) m->shift++;
  m->n_words = (bytes >> m->shift) / 64 + 1;
  m->words = ml_bump_alloc(memory, m->n_words, sizeof *m->words);
  return m->words ? ML_OK : ML_MEMORY;
}

static void mark(map *m, stretch s) {
  size_t from = s.from >> m->shift, to = (s.to - 1) >> m->shift, last = to / 64;
  uint64_t first_bits = ~(uint64_t)0 << (from & 63), last_bits = ~(uint64_t)0 >> (63 - (to & 63));
  if (from / 64 >= m->n_words) return;
  if (from / 64 == last) first_bits &= last_bits;
  m->words[from / 64] |= first_bits;
  for (size_t w = from / 64 + 1; w <= last && w < m->n_words; w++) m->words[w] |= w < last ? ~(uint64_t)0 : last_bits;
}

/* The first of `bits` free ones in a row, or SIZE_MAX. */
static size_t find_run(const map *m, size_t bits) {
  size_t run = 0; /* free ones before word w */
  for (size_t w = 0; w < m->n_words; w++) {
    uint64_t taken = m->words[w];
    if (!taken) {
      run += 64;
      if (run >= bits) return 64 * (w + 1) - run;
      continue;
    }
    size_t at = 0;
    while (taken) {
      size_t zeros = (size_t)__builtin_ctzll(taken);
      if (run + zeros >= bits) return 64 * w + at - run;
      taken >>= zeros;
      size_t ones = ~taken ? (size_t)__builtin_ctzll(~taken) : 64;
      at += zeros + ones;
      run = 0;
      taken = ones < 64 ? taken >> ones : 0;
    }
    run = 64 - at;
    if (run >= bits) return 64 * w + at;
  }
  return SIZE_MAX;
}

/* The same of many, in steps of the map's. */
static size_t find_in_map(map *m, const stretch *live, size_t n, size_t bytes) {
  size_t top = 0;
  memset(m->words, 0, m->n_words * sizeof *m->words);
  for (size_t i = 0; i < n; i++) {
    mark(m, live[i]);
    if (live[i].to > top) top = live[i].to;
  }
  size_t at = find_run(m, ((bytes - 1) >> m->shift) + 1);
  return at == SIZE_MAX || at << m->shift > top ? top : at << m->shift;
}

/* Places all in this order; the bytes that it takes. `live`: room for a stretch each. */
static size_t place_in_order(ml_placing *p, calendar *c, map *m, const ranked *order, stretch *live) {
  enum { FEW_STRETCHES = 16 };
  size_t bytes = 0;
  clear(c);
  for (size_t i = 0; i < p->n; i++) {
    int index = order[i].index;
    const ml_storage *s = p->list[index];
    size_t n = find_live(c, s, live);
    size_t at = n <= FEW_STRETCHES ? find_between(live, n, s->bytes) : find_in_map(m, live, n, s->bytes);
    p->offsets[index] = at;
    note(c, s, (stretch){at, at + s->bytes});
    if (at + s->bytes > bytes) bytes = at + s->bytes;
  }
  ml_place_keep(p, bytes);
  return bytes;
}

/* ---- orders ---- */

static int by_rank(const void *a, const void *b) {
  const ranked *x = a, *y = b;
  if (x->rank != y->rank) return x->rank < y->rank ? 1 : -1;
  return x->index < y->index ? -1 : 1;
}

/* What makes a storage hard to place: its bytes, or those and the steps that it lives. */
typedef enum measure { BYTES, BYTES_TIMES_STEPS, STEPS, MEASURES } measure;

static double rank_of(const ml_storage *s, measure by) {
  double steps = s->last - s->first + 1;
  return by == BYTES ? (double)s->bytes : by == STEPS ? steps : (double)s->bytes * steps;
}

/* What reached the end of the arena goes half way to the front of the order. */
static void bring_forward(const ml_placing *p, ranked *order, size_t bytes) {
  for (size_t i = 1; i < p->n; i++) {
    ranked x = order[i];
    if (p->offsets[x.index] + p->list[x.index]->bytes < bytes) continue;
    memmove(order + i / 2 + 1, order + i / 2, (i - i / 2) * sizeof *order);
    order[i / 2] = x;
  }
}

/* Work of a try, counted in pairs of storages that live at one time: of sixteen lasting ones that are looked at, or
 * words of the map, each costs as much. */
static size_t work_of(const ml_placing *p, size_t lasting, size_t n_words) {
  return p->pairs + p->n * (lasting + n_words) / 16;
}

/* Orders that are tried for each measure, and the work of all of them, about; a plan that runs once is not worth more
 * than one. */
enum { MOST_TRIES = 400, MOST_WORK = 1 << 22, MOST_WORK_ONCE = 1 << 17 };

ml_status ml_place_search(ml_placing *p) {
  const size_t swept = p->bytes;
  calendar c = {0};
  map m;
  ML_TRY(open_calendar(&c, p));
  ML_TRY(open_map(&m, p->bytes, p->memory));
  const size_t work = work_of(p, c.most_lasting, m.n_words);
  if (work > (p->once ? MOST_WORK_ONCE : MOST_WORK)) return ML_OK;
  ranked *order = ml_bump_alloc(p->memory, p->n, sizeof *order);
  stretch *live = ml_bump_alloc(p->memory, p->n + 1, sizeof *live); /* one is written before it is known to count */
  if (!order || !live) return ML_MEMORY;
  size_t most = p->once ? 1 : MOST_WORK / MEASURES / (work + 1) + 1, tries = most < MOST_TRIES ? most : MOST_TRIES;
  for (int by = 0; by < MEASURES && ml_place_has_holes(p); by++) {
    for (size_t i = 0; i < p->n; i++) order[i] = (ranked){rank_of(p->list[i], (measure)by), (int)i};
    qsort(order, p->n, sizeof *order, by_rank);
    for (size_t k = 0; k < tries && ml_place_has_holes(p); k++)
      bring_forward(p, order, place_in_order(p, &c, &m, order, live));
  }
  p->searched = p->bytes < swept;
  return ML_OK;
}
