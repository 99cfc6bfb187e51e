/* cache.c: writing to pages. */
#include "tensor/cpu/isa/elementwise.h"
#include "tensor/cpu/isa/sequences.h"

ml_status K(cache_append_prepare)(ml_task *t) {
  const ml_arg *x = &t->in[1];
  t->units = x->shape[0] * x->shape[1] * x->shape[2];
  t->grain = ml_max64(1, 4096 / ml_max64(1, x->shape[3]));
  t->scratch = (size_t)x->shape[3] * sizeof(float);
  t->cost = (double)t->units * (double)x->shape[3] * 0.3 + 20;
  return ML_OK;
}

/* The sequence that has the token `at` of an entry of x's first axis; false where none has, or there is a fault. */
static bool find_owner(const sequence_args *a, const ml_arg *x, int64_t page, int64_t batch, int64_t at, sequence *s,
                       ml_worker *w) {
  if (!a->offsets->data) return find_sequence(a, x, page, batch, ML_OP_cache_append, w, s);
  for (int64_t r = 0, n = sequence_count(a, x); r < n; r++) {
    if (at >= load_index(a->offsets->data, a->offsets->dtype, r + 1)) continue;
    return find_sequence(a, x, page, r, ML_OP_cache_append, w, s) && at >= s->first;
  }
  return false;
}

void K(cache_append)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const ml_arg *pool = &t->in[0], *x = &t->in[1];
  const sequence_args a = {&t->in[2], &t->in[3], &t->in[4], &t->in[5], &t->in[6]};
  const int64_t H = x->shape[1], T = x->shape[2], d = x->shape[3], page = pool->shape[2];
  const size_t from_item = (size_t)ml_dtype_infos[x->dtype].bytes, to_item = (size_t)ml_dtype_infos[pool->dtype].bytes;
  if (begin == 0) check_offsets(&a, x, ML_OP_cache_append, w);
  for (int64_t u = begin; u < end; u++) {
    const int64_t b = u / (H * T), h = u / T % H, token = u % T;
    sequence s;
    if (!find_owner(&a, x, page, b, token, &s, w) || token - s.first >= s.real) continue;
    const int64_t at = s.start + token - s.first, p = find_page(&a, pool, &s, at / page, ML_OP_cache_append, w);
    if (p < 0) continue;
    const int64_t from = b * x->strides[0] + h * x->strides[1] + token * x->strides[2];
    const int64_t to = p * pool->strides[0] + h * pool->strides[1] + at % page * pool->strides[2];
    const char *source = x->data + from * (int64_t)from_item;
    char *target = pool->data + to * (int64_t)to_item;
    if (x->dtype == pool->dtype) memcpy(target, source, (size_t)d * from_item);
    else K(store_tile)(target, pool->dtype, 1, read_tile(w->scratch, source, x->dtype, 1, (int)d), (int)d);
  }
}
