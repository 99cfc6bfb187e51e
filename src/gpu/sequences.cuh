// sequences.cuh: which tokens belong to a sequence, and which pages hold it, as tensor/cpu/isa/sequences.h says.
#ifndef ML_GPU_SEQUENCES_CUH
#define ML_GPU_SEQUENCES_CUH

#include "gpu/common.cuh"

struct sequence {
  int64_t first, tokens; // places that it has on the axis of tokens
  int64_t real;          // tokens that are some: the first ones
  int64_t start;         // position of the first
  int64_t slot;          // its row of the table
};

// Entry i of a vector, which must be in 0..limit-1; -1, and a fault, where it is not.
DEVICE_CALL int64_t checked_at(const cu_sequences &s, const cu_vector &v, int64_t i, int64_t limit) {
  const int64_t at = vector_at(v, i);
  if (at >= 0 && at < limit) return at;
  raise_fault(s.fault, s.op, v.dtype, at, limit);
  return -1;
}

// Where sequence r lies among T tokens that lie end to end; false, and a fault, where it can't.
DEVICE bool find_packed(const cu_sequences &s, int64_t T, int64_t r, sequence *o) {
  const int64_t end = checked_at(s, s.offsets, r + 1, T + 1);
  o->first = end < 0 ? -1 : checked_at(s, s.offsets, r, end + 1);
  o->tokens = end - o->first;
  return o->first >= 0;
}

// A block reports offsets that are none: others look up only those that they need.
DEVICE void check_offsets(const cu_sequences &s, int64_t T) {
  sequence o;
  for (int64_t r = threadIdx.x; s.offsets.data && r < s.packed; r += blockDim.x) find_packed(s, T, r, &o);
}

// The sequence of the token `at` of entry b of an axis of entries with T tokens each; of no tokens where it is
// nobody's. False, and a fault, where what says so makes no sense. `page`: positions that one holds.
DEVICE bool find_sequence(const cu_sequences &s, int64_t T, int64_t page, int64_t b, int64_t at, sequence *o) {
  int64_t r = b;
  o->first = o->start = o->slot = 0, o->tokens = o->real = T;
  if (s.offsets.data) {
    int64_t n = s.packed;
    for (r = 0; n > 0;) { // the first that ends behind it
      const int64_t half = n / 2;
      if (vector_at(s.offsets, r + half + 1) > at) n = half;
      else r += half + 1, n -= half + 1;
    }
    if (r < s.packed && !find_packed(s, T, r, o)) return false;
    if (r == s.packed || at < o->first) {
      o->first = at, o->tokens = o->real = 0;
      return true;
    }
  }
  o->real = s.count.data ? checked_at(s, s.count, r, o->tokens + 1) : o->tokens;
  if (o->real < 0) return false;
  if (!s.pages.ndim) return true;
  o->slot = s.slots.data ? checked_at(s, s.slots, r, s.pages.shape[0]) : r;
  o->start = checked_at(s, s.start, r, s.pages.shape[1] * page - o->real + 1);
  return o->slot >= 0 && o->start >= 0;
}

// The page of a sequence's positions from `index` pages on, of a pool of `limit`; -1, and a fault, where it has none.
DEVICE_CALL int64_t find_page(const cu_sequences &s, int64_t slot, int64_t index, int64_t limit) {
  const int64_t page = load_int(s.pages.data, s.pages.dtype, slot * s.pages.strides[0] + index);
  if (page >= 0 && page < limit) return page;
  raise_fault(s.fault, s.op, s.pages.dtype, page, limit);
  return -1;
}

#endif
