/* sequences.h: which tokens belong to a sequence, and where its keys and values lie.
 *
 * Tokens (B, heads, T, d) are B sequences of T, of which `count` may make the last ones none; or with `offsets` they
 * are sequences of any length end to end, (1, heads, N, d). What a sequence holds already lies in pages (pages, KV
 * heads, positions, d) of a pool: row slots[r] of a table says which, in the order of the positions. */
#ifndef ML_CPU_SEQUENCES_H
#define ML_CPU_SEQUENCES_H

#include "tensor/cpu/isa/simd.h"

/* Operands; any may be absent, which their axes tell before addresses are known. */
typedef struct sequence_args {
  const ml_arg *pages, *slots, *start, *count, *offsets;
} sequence_args;

typedef struct sequence {
  int64_t batch, first; /* where its tokens begin: entry of the first axis, place on the axis of tokens */
  int64_t tokens;       /* places that it has there */
  int64_t real;         /* tokens that are some: the first ones */
  int64_t start;        /* position of the first */
  int64_t slot;         /* its row of the table */
} sequence;

ALWAYS_INLINE int64_t sequence_count(const sequence_args *a, const ml_arg *x) {
  return a->offsets->ndim ? a->offsets->shape[0] - 1 : x->shape[0];
}

/* Entry r of an operand that must be in 0..most; `none` where it is absent; -1, and a fault, where it is not in range.
 */
ALWAYS_INLINE int64_t sequence_number(ml_worker *w, int op, const ml_arg *a, int64_t r, int64_t most, int64_t none) {
  return a->data ? checked_index(w, op, a, r, most + 1) : none;
}

/* Where sequence r lies among tokens that lie end to end; false, and a fault, where it can't. */
ALWAYS_INLINE bool find_packed(const ml_arg *offsets, int64_t T, int64_t r, int op, ml_worker *w, sequence *s) {
  const int64_t end = checked_index(w, op, offsets, r + 1, T + 1);
  s->first = end < 0 ? -1 : checked_index(w, op, offsets, r, end + 1);
  s->tokens = end - s->first;
  return s->first >= 0;
}

/* Sequence r of x, whose pages hold `page` positions; false, and a fault, where what says so makes no sense. */
ALWAYS_INLINE bool find_sequence(const sequence_args *a, const ml_arg *x, int64_t page, int64_t r, int op, ml_worker *w,
                                 sequence *s) {
  const int64_t T = x->shape[2];
  *s = (sequence){.batch = r, .tokens = T};
  if (a->offsets->data) {
    s->batch = 0;
    if (!find_packed(a->offsets, T, r, op, w, s)) return false;
  }
  s->real = sequence_number(w, op, a->count, r, s->tokens, s->tokens);
  if (s->real < 0) return false;
  if (!a->pages->data) return true;
  s->slot = a->slots->data ? checked_index(w, op, a->slots, r, a->pages->shape[0]) : r;
  s->start = sequence_number(w, op, a->start, r, a->pages->shape[1] * page - s->real, 0);
  return s->slot >= 0 && s->start >= 0;
}

/* Reports offsets that are none: a kernel looks up only those that its unit needs. */
ALWAYS_INLINE void check_offsets(const sequence_args *a, const ml_arg *x, int op, ml_worker *w) {
  sequence s;
  for (int64_t r = 0; a->offsets->data && r + 1 < a->offsets->shape[0]; r++) {
    if (!find_packed(a->offsets, x->shape[2], r, op, w, &s)) return;
  }
}

/* The page of a sequence's positions from `index` pages on; -1, and a fault, where it has none. */
ALWAYS_INLINE int64_t find_page(const sequence_args *a, const ml_arg *pool, const sequence *s, int64_t index, int op,
                                ml_worker *w) {
  return checked_index(w, op, a->pages, s->slot * a->pages->strides[0] + index, pool->shape[0]);
}

#endif
