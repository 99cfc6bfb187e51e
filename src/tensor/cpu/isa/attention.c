/* attention.c: rotary embedding, cache append, and attention over a cache or over given keys and values.
 *
 * A unit of attention is one group of query rows that share a KV head: the rows of QUERY_BLOCK positions, taken ROWS at
 * a time so that each key and value loaded serves ROWS of them. A row's sums run over its own keys in order: they do
 * not depend on what is computed beside it, nor on what keys and values hold that the row does not see. */
#include "tensor/cpu/isa/norm.h"
#include "tensor/cpu/isa/tail.h"

enum { ROWS = 4, QUERY_BLOCK = 16 };

/* Beyond every position there is, and far enough from the end of int64 to count on from: what larger starts mean. */
static const int64_t FAR = (int64_t)1 << 62;

/* ---- rope ---- */

/* Angles are float32 products, as in the reference implementations that checkpoints were trained with. */
ml_status K(rope_table_prepare)(ml_task *t) {
  t->units = t->out[0].shape[0] * t->out[0].shape[1];
  t->grain = 4;
  t->cost = (double)t->units * (double)t->out[0].shape[2] * 20;
  return ML_OK;
}

void K(rope_table)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  (void)w;
  const ml_arg *start = &t->in[0], *o = &t->out[0];
  const float *frequencies = (const float *)t->in[1].data, scale = (float)t->step->attrs->rope_table.scale;
  int64_t length = o->shape[1], n = t->in[1].shape[0];
  for (int64_t u = begin; u < end; u++) {
    float position = (float)(ml_min64(FAR, load_index(start->data, start->dtype, u / length)) + u % length);
    float *row = (float *)o->data + u * 2 * n;
    for (int64_t i = 0; i < n; i++) {
      float angle = position * frequencies[i];
      row[i] = cosf(angle) * scale;
      row[n + i] = sinf(angle) * scale;
    }
  }
}

ml_status K(rope_prepare)(ml_task *t) {
  const ml_arg *x = &t->in[0];
  t->units = x->shape[0] * x->shape[2] * x->shape[1];
  t->grain = ml_max64(1, 4096 / ml_max64(1, x->shape[3]));
  t->scratch = x->dtype == ML_F32 ? 0 : 2 * (size_t)x->shape[3] * sizeof(float);
  t->cost = (double)t->units * (double)x->shape[3] * 0.4 + 20;
  return ML_OK;
}

/* Turns 2 n of the d entries of p into q; cs: n cosines, then n sines. */
static void turn(const float *p, const float *cs, int64_t n, int64_t d, bool interleaved, float *q) {
  const float *sn = cs + n;
  if (interleaved) {
    for (int64_t i = 0; i < n; i++) {
      float a = p[2 * i], c = p[2 * i + 1];
      q[2 * i] = a * cs[i] - c * sn[i];
      q[2 * i + 1] = c * cs[i] + a * sn[i];
    }
  } else {
    for (int64_t i = 0; i < n; i++) q[i] = p[i] * cs[i] - p[n + i] * sn[i];
    for (int64_t i = 0; i < n; i++) q[n + i] = p[n + i] * cs[i] + p[i] * sn[i];
  }
  for (int64_t i = 2 * n; i < d; i++) q[i] = p[i];
}

void K(rope)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const ml_arg *x = &t->in[0], *o = &t->out[0];
  const int64_t H = x->shape[1], T = x->shape[2], d = x->shape[3], n = t->in[1].shape[2] / 2;
  const int item = ml_dtype_infos[x->dtype].bytes;
  const bool interleaved = t->step->attrs->rope.interleaved != 0, direct = x->dtype == ML_F32;
  float *room = (float *)(void *)w->scratch, *turned = room + d;
  for (int64_t u = begin; u < end; u++) {
    int64_t b = u / (H * T), pos = u / H % T, h = u % H;
    const float *cs = (const float *)t->in[1].data + b * t->in[1].strides[0] + pos * t->in[1].strides[1];
    const char *from = x->data + (b * x->strides[0] + h * x->strides[1] + pos * x->strides[2]) * item;
    char *to = o->data + (b * o->strides[0] + h * o->strides[1] + pos * o->strides[2]) * item;
    turn(read_tile(room, from, x->dtype, 1, (int)d), cs, n, d, interleaved, direct ? (float *)(void *)to : turned);
    if (!direct) K(store_tile)(to, o->dtype, 1, turned, (int)d);
  }
}

/* ---- cache append ---- */

ml_status K(cache_append_prepare)(ml_task *t) {
  const ml_arg *x = &t->in[1];
  t->units = x->shape[0] * x->shape[1] * x->shape[2];
  t->grain = ml_max64(1, 4096 / ml_max64(1, x->shape[3]));
  t->scratch = (size_t)x->shape[3] * sizeof(float);
  t->cost = (double)t->units * (double)x->shape[3] * 0.3 + 20;
  return ML_OK;
}

void K(cache_append)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const ml_arg *cache = &t->in[0], *x = &t->in[1];
  int64_t H = x->shape[1], T = x->shape[2], d = x->shape[3];
  for (int64_t u = begin; u < end; u++) {
    int64_t b = u / (H * T), h = u / T % H, pos = u % T;
    if (pos >= load_index(t->in[4].data, t->in[4].dtype, b)) continue;
    int64_t slot = load_index(t->in[2].data, t->in[2].dtype, b),
            at = ml_min64(FAR, load_index(t->in[3].data, t->in[3].dtype, b)) + pos;
    if (slot < 0 || slot >= cache->shape[0] || at < 0 || at >= cache->shape[2]) {
      bool no_slot = slot < 0 || slot >= cache->shape[0];
      ml_raise_fault(w, ML_OP_cache_append, &t->in[no_slot ? 2 : 3], no_slot ? slot : at,
                     cache->shape[no_slot ? 0 : 2]);
      continue;
    }
    int64_t from = b * x->strides[0] + h * x->strides[1] + pos * x->strides[2];
    int64_t to = slot * cache->strides[0] + h * cache->strides[1] + at * cache->strides[2];
    const char *source = x->data + from * ml_dtype_infos[x->dtype].bytes;
    char *target = cache->data + to * ml_dtype_infos[cache->dtype].bytes;
    if (x->dtype == cache->dtype) memcpy(target, source, (size_t)d * (size_t)ml_dtype_infos[x->dtype].bytes);
    else K(store_tile)(target, cache->dtype, 1, read_tile(w->scratch, source, x->dtype, 1, (int)d), (int)d);
  }
}

/* ---- attention ---- */

/* Where things lie in a thread's scratch, from its beginning on: rows of scores, and one of a mask; rows of queries
 * that are no float32; where results go elsewhere than out as they are, rows of them, and the tail's own room. */
typedef struct rooms {
  size_t queries, results, tail, bytes;
} rooms;

static bool keeps_results(const ml_task *t) { return t->step->fused || t->out[0].dtype != ML_F32; }

static rooms find_rooms(const ml_task *t) {
  rooms r = {0};
  ml_reserve(&r.bytes, (size_t)(ROWS + 1) * (size_t)(t->in[1].shape[2] + 2 * LANES) * sizeof(float));
  r.queries = ml_reserve(&r.bytes, t->in[0].dtype != ML_F32 ? (size_t)(ROWS * t->in[0].shape[3]) * sizeof(float) : 0);
  r.results = ml_reserve(&r.bytes, keeps_results(t) ? (size_t)(ROWS * t->in[2].shape[3]) * sizeof(float) : 0);
  r.tail = ml_reserve(&r.bytes, K(tail_room)(t));
  return r;
}

ml_status K(attention_prepare)(ml_task *t) {
  const ml_arg *q = &t->in[0], *k = &t->in[1];
  int64_t blocks = (q->shape[2] + QUERY_BLOCK - 1) / QUERY_BLOCK;
  t->units = q->shape[0] * k->shape[1] * blocks;
  t->grain = 1;
  t->scratch = find_rooms(t).bytes;
  t->cost = 1e9; /* the keys to read are known by the data alone */
  return ML_OK;
}

/* What one unit works on. */
typedef struct span {
  const ml_task *t;
  int64_t b, kv, group, offset; /* offset: position of query 0 among the keys */
  int64_t keys;                 /* keys that exist: of a cache, those that it holds after what it was given last */
  const char *k, *v;            /* this slot's and head's */
  int64_t k_step, v_step, d, dv;
  float scale, softcap;
  int64_t window;
  bool causal;
  char *queries, *results, *tail_room;
} span;

typedef struct row {
  const float *q;
  float *o;
  int64_t h, pos, lo, hi;
} row;

ALWAYS_INLINE v16f load_lanes(const char *p, int64_t i, const ml_dtype t) {
  if (t == ML_F16) return v_load_f16((const uint16_t *)p + i);
  if (t == ML_BF16) return v_load_bf16((const uint16_t *)p + i);
  return v_load((const float *)p + i);
}
ALWAYS_INLINE int size_of(const ml_dtype t) { return t == ML_F32 ? 4 : 2; }

#if defined(ML_ISA_AVX512)
enum { PRODUCTS = 16 }; /* that are added up together: of one row with 16 keys, or of four with four */

/* Lane i: all lanes of x[i] added up as v_sum adds them. */
ALWAYS_INLINE __m512 sum_each(const __m512 x[PRODUCTS]) {
  __m512 s[4];
#pragma GCC unroll 4
  for (int l = 0; l < 4; l++) { /* quarter p of s[l]: of x[4 p + l], halves and then quarters of lanes added up */
    const __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(x[l], x[4 + l], 0x44),
                                   _mm512_shuffle_f32x4(x[l], x[4 + l], 0xee)),
                 b = _mm512_add_ps(_mm512_shuffle_f32x4(x[8 + l], x[12 + l], 0x44),
                                   _mm512_shuffle_f32x4(x[8 + l], x[12 + l], 0xee));
    s[l] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  }
  const __m512 a = _mm512_add_ps(_mm512_shuffle_ps(s[0], s[1], 0x44), _mm512_shuffle_ps(s[0], s[1], 0xee)),
               b = _mm512_add_ps(_mm512_shuffle_ps(s[2], s[3], 0x44), _mm512_shuffle_ps(s[2], s[3], 0xee));
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}

/* As many keys from lo on as are taken together; where it ends. */
ALWAYS_INLINE int64_t dot_some_keys(const span *s, const row *rows, const int n, const ml_dtype kept, int64_t lo,
                                    int64_t hi, float *scores, int64_t pitch) {
  const int each = n == 1 ? PRODUCTS : n == 2 ? PRODUCTS / 2 : PRODUCTS / 4;
  for (; s->d % LANES == 0 && lo + each <= hi; lo += each) {
    __m512 sums[PRODUCTS];
    float dots[PRODUCTS];
    const char *k = s->k + lo * s->k_step * size_of(kept);
#pragma GCC unroll 16
    for (int i = 0; i < PRODUCTS; i++) sums[i] = _mm512_setzero_ps();
    for (int64_t i = 0; i < s->d; i += LANES) {
#pragma GCC unroll 16
      for (int j = 0; j < each; j++) {
        const v16f key = load_lanes(k + j * s->k_step * size_of(kept), i, kept);
#pragma GCC unroll 4
        for (int r = 0; r < n; r++) sums[r * each + j] = v_fma(v_load(rows[r].q + i), key, sums[r * each + j]);
      }
    }
    v_store(dots, v_mul(sum_each(sums), v_set1(s->scale)));
    for (int r = 0; r < n; r++) memcpy(scores + r * pitch + lo, dots + r * each, (size_t)each * sizeof *dots);
  }
  return lo;
}
#endif

/* scores[r][j] = q_r . k_j for keys lo..hi-1. */
ALWAYS_INLINE void dot_keys(const span *s, const row *rows, const int n, const ml_dtype kept, int64_t lo, int64_t hi,
                            float *scores, int64_t pitch) {
  int64_t lanes = s->d / LANES * LANES;
#if defined(ML_ISA_AVX512)
  lo = dot_some_keys(s, rows, n, kept, lo, hi, scores, pitch);
#endif
  for (int64_t j = lo; j < hi; j++) {
    const char *k = s->k + j * s->k_step * size_of(kept);
    v16f acc[ROWS];
    for (int r = 0; r < n; r++) acc[r] = v_set1(0);
    for (int64_t i = 0; i < lanes; i += LANES) {
      v16f key = load_lanes(k, i, kept);
      for (int r = 0; r < n; r++) acc[r] = v_fma(v_load(rows[r].q + i), key, acc[r]);
    }
    for (int r = 0; r < n; r++) {
      float dot = v_sum(acc[r]);
      for (int64_t i = lanes; i < s->d; i++) dot += rows[r].q[i] * load_float(k, kept, i);
      scores[r * pitch + j] = dot * s->scale;
    }
  }
}

/* The probability of a key that a row may not see: a zero of its own, told from that of a key so unlikely that nothing
 * is left of it. A hidden key's value is left out of the sum, since zero times an infinity would be seen. */
static const float HIDDEN = -0.0f;
ALWAYS_INLINE bool is_hidden(float p) { return p == 0 && signbit(p); }

/* The keys of a group of rows: lo..hi-1 are those that any sees, and of them from..to-1 those that all see but for a
 * mask. */
typedef struct keys {
  int64_t lo, from, to, hi;
} keys;

/* o += sum of p[j] v_j over the keys lo..hi-1 that are not hidden. Apart from the loop over keys that all rows see,
 * which it would slow down: those that only some see are few. */
static __attribute__((noinline)) void add_seen(const span *s, const row *r, const ml_dtype kept, int64_t lo, int64_t hi,
                                               const float *p) {
  int64_t lanes = s->dv / LANES * LANES;
  for (int64_t j = lo; j < hi; j++) {
    if (is_hidden(p[j])) continue;
    const char *v = s->v + j * s->v_step * size_of(kept);
    for (int64_t i = 0; i < lanes; i += LANES)
      v_store(r->o + i, v_fma(v_set1(p[j]), load_lanes(v, i, kept), v_load(r->o + i)));
    for (int64_t i = lanes; i < s->dv; i++) r->o[i] += p[j] * load_float(v, kept, i);
  }
}

/* Elements i.. of each o_r, `vectors` times LANES of them. */
ALWAYS_INLINE void sum_vectors(const span *s, const row *rows, const int n, const int vectors, const ml_dtype kept,
                               bool first, int64_t i, int64_t lo, int64_t hi, const float *p, int64_t pitch) {
  v16f acc[ROWS][2];
  for (int r = 0; r < n; r++) {
    for (int k = 0; k < vectors; k++) acc[r][k] = first ? v_set1(0) : v_load(rows[r].o + i + k * LANES);
  }
  for (int64_t j = lo; j < hi; j++) {
    const char *v = s->v + j * s->v_step * size_of(kept);
    for (int k = 0; k < vectors; k++) {
      const v16f value = load_lanes(v, i + k * LANES, kept);
      for (int r = 0; r < n; r++) acc[r][k] = v_fma(v_set1(p[r * pitch + j]), value, acc[r][k]);
    }
  }
  for (int r = 0; r < n; r++) {
    for (int k = 0; k < vectors; k++) v_store(rows[r].o + i + k * LANES, acc[r][k]);
  }
}

/* o_r += sum of p[r][j] v_j for keys lo..hi-1, which all rows see; `first` says that o_r is not yet begun. */
ALWAYS_INLINE void sum_values(const span *s, const row *rows, const int n, const ml_dtype kept, bool first, int64_t lo,
                              int64_t hi, const float *p, int64_t pitch) {
  int64_t i = 0;
#if defined(ML_ISA_AVX512)
  for (; i + 2 * LANES <= s->dv; i += 2 * LANES) sum_vectors(s, rows, n, 2, kept, first, i, lo, hi, p, pitch);
#endif
  for (; i + LANES <= s->dv; i += LANES) sum_vectors(s, rows, n, 1, kept, first, i, lo, hi, p, pitch);
  for (; i < s->dv; i++) {
    for (int r = 0; r < n; r++) {
      float sum = first ? 0 : rows[r].o[i];
      for (int64_t j = lo; j < hi; j++)
        sum += p[r * pitch + j] * load_float(s->v + j * s->v_step * size_of(kept), kept, i);
      rows[r].o[i] = sum;
    }
  }
}

static void hide(float *p, int64_t lo, int64_t hi) {
  for (int64_t j = lo; j < hi; j++) p[j] = HIDDEN;
}

/* What the mask adds to the scores of a row's keys, from its first key on; -inf hides a key. */
static void load_mask(const ml_arg *m, int64_t b, const row *r, float *add) {
  int64_t index[3] = {b, r->h, r->pos}, at = 0, n = r->hi - r->lo, step = 0;
  for (int d = 0; d < m->ndim - 1; d++) at += m->shape[d] == 1 ? 0 : index[d + 4 - m->ndim] * m->strides[d];
  if (m->ndim && m->shape[m->ndim - 1] != 1) step = m->strides[m->ndim - 1];
  at += r->lo * step;
  if (m->dtype == ML_BOOL) {
    for (int64_t j = 0; j < n; j++) add[j] = ((const uint8_t *)m->data)[at + j * step] ? 0.0f : -INFINITY;
  } else if (m->dtype == ML_F32) {
    for (int64_t j = 0; j < n; j++) add[j] = ((const float *)m->data)[at + j * step];
  } else {
    for (int64_t j = 0; j < n; j++) add[j] = load_float(m->data, m->dtype, at + j * step);
  }
}

/* Adds a mask to a row's scores. A hidden key's becomes -inf whatever it was: it may be infinite or NaN. False when all
 * keys are hidden. */
static bool add_mask(float *own, const float *add, int64_t n) {
  int32_t seen = 0;
  for (int64_t j = 0; j < n; j++) {
    own[j] = add[j] == -INFINITY ? add[j] : own[j] + add[j];
    seen |= add[j] != -INFINITY;
  }
  return seen;
}

/* Scores of one row to probabilities, HIDDEN where it may not see; a row that may see nothing gives zeros. `add` has
 * room for a row of the mask. */
static void normalise(const span *s, const row *r, float *scores, int64_t lo, int64_t hi, float *add) {
  const ml_arg *mask = &s->t->in[6], *sinks = &s->t->in[7];
  hide(scores, lo, r->lo);
  hide(scores, ml_max64(r->hi, lo), hi);
  if (r->lo >= r->hi) return;
  float *own = scores + r->lo;
  int64_t n = r->hi - r->lo;
  if (s->softcap > 0) {
    for (int64_t i = 0; i < n; i++) own[i] = s->softcap * tanhf(own[i] / s->softcap);
  }
  if (mask->data) {
    load_mask(mask, s->b, r, add);
    if (!add_mask(own, add, n)) {
      hide(own, 0, n);
      return;
    }
  }
  float max = K(max_row)(own, n), sink = sinks->data ? load_float(sinks->data, sinks->dtype, r->h) : -INFINITY;
  if (sink > max) max = sink;
  float sum = K(exp_row)(own, max, n, own);
  if (sinks->data) sum += expf(sink - max);
  float scale = 1.0f / sum;
  for (int64_t i = 0; i < n; i++) own[i] *= scale;
  for (int64_t i = 0; mask->data && i < n; i++) own[i] = add[i] == -INFINITY ? HIDDEN : own[i];
}

/* Whether a mask hides key j from none of the rows. */
ALWAYS_INLINE bool all_see(const float *p, int n, int64_t pitch, int64_t j) {
  bool hidden = false;
  for (int r = 0; r < n; r++) hidden |= is_hidden(p[r * pitch + j]);
  return !hidden;
}

/* The next keys from `at` on that all rows see, in from..to of k: empty and at the end when there are none. */
static void next_seen(keys *k, bool masked, const float *p, int n, int64_t pitch, int64_t at) {
  if (!masked) {
    if (at > k->from || k->from >= k->to) k->from = k->to = k->hi;
    return;
  }
  for (k->from = at; k->from < k->hi && !all_see(p, n, pitch, k->from);) k->from++;
  for (k->to = k->from; k->to < k->hi && all_see(p, n, pitch, k->to);) k->to++;
}

ALWAYS_INLINE void attend_rows(const span *s, const row *rows, const int n, const ml_dtype kept, float *scores,
                               int64_t pitch) {
  keys k = {rows[0].lo, rows[0].lo, rows[0].hi, rows[0].hi};
  for (int r = 1; r < n; r++) {
    k.lo = ml_min64(k.lo, rows[r].lo), k.from = ml_max64(k.from, rows[r].lo);
    k.to = ml_min64(k.to, rows[r].hi), k.hi = ml_max64(k.hi, rows[r].hi);
  }
  bool masked = s->t->in[6].data != NULL;
  dot_keys(s, rows, n, kept, k.lo, k.hi, scores, pitch);
  for (int r = 0; r < n; r++) normalise(s, &rows[r], scores + r * pitch, k.lo, k.hi, scores + ROWS * pitch);
  int64_t at = k.lo;
  do {
    next_seen(&k, masked, scores, n, pitch, at);
    bool first = at == k.lo && k.from == k.lo;
    for (int r = 0; r < n && at < k.from; r++) {
      if (at == k.lo) memset(rows[r].o, 0, (size_t)s->dv * sizeof *rows[r].o);
      add_seen(s, &rows[r], kept, at, k.from, scores + r * pitch);
    }
    if (first || k.from < k.to) sum_values(s, rows, n, kept, first, k.from, k.to, scores, pitch);
    at = k.to;
  } while (at < k.hi);
}

#define ATTEND(N)                                                                                                      \
  switch (kept) {                                                                                                      \
  case ML_F32: attend_rows(s, rows, N, ML_F32, scores, pitch); break;                                                  \
  case ML_F16: attend_rows(s, rows, N, ML_F16, scores, pitch); break;                                                  \
  default: attend_rows(s, rows, N, ML_BF16, scores, pitch); break;                                                     \
  }
static void attend(const span *s, const row *rows, int n, ml_dtype kept, float *scores, int64_t pitch) {
  if (n == 1) ATTEND(1)
  else if (n == 2) ATTEND(2)
  else if (n == 3) ATTEND(3)
  else ATTEND(4)
}

/* `place`: among the rows that are taken together. */
static row make_row(const span *s, int64_t h, int64_t pos, int place) {
  const ml_arg *q = &s->t->in[0], *o = &s->t->out[0];
  row r = {.h = h, .pos = pos};
  int64_t from = s->b * q->strides[0] + h * q->strides[1] + pos * q->strides[2];
  r.q = read_tile((float *)(void *)s->queries + place * s->d, q->data + from * ml_dtype_infos[q->dtype].bytes, q->dtype,
                  1, (int)s->d);
  if (keeps_results(s->t)) r.o = (float *)(void *)s->results + place * s->dv;
  else r.o = (float *)o->data + s->b * o->strides[0] + h * o->strides[1] + pos * o->strides[2];
  int64_t at = s->offset + pos;
  r.hi = s->causal ? ml_max64(0, ml_min64(s->keys, at + 1)) : s->keys;
  r.lo = s->window > 0 && at >= s->window ? at + 1 - s->window : 0;
  if (r.lo > r.hi) r.lo = r.hi;
  return r;
}

static bool make_span(const ml_task *t, int64_t unit, int64_t blocks, span *s, ml_worker *w) {
  const ml_arg *q = &t->in[0], *k = &t->in[1], *v = &t->in[2];
  const ml_attrs *a = t->step->attrs;
  *s = (span){.t = t,
              .b = unit / (k->shape[1] * blocks),
              .kv = unit / blocks % k->shape[1],
              .group = q->shape[1] / k->shape[1],
              .d = q->shape[3],
              .dv = v->shape[3],
              .k_step = k->strides[2],
              .v_step = v->strides[2],
              .keys = k->shape[2],
              .scale = (float)a->attention.scale,
              .causal = a->attention.causal != 0,
              .window = a->attention.window,
              .softcap = (float)a->attention.softcap};
  int64_t slot = t->in[3].data ? checked_index(w, ML_OP_attention, &t->in[3], s->b, k->shape[0]) : s->b;
  if (slot < 0) return false;
  int size = ml_dtype_infos[k->dtype].bytes;
  s->k = k->data + (slot * k->strides[0] + s->kv * k->strides[1]) * size;
  s->v = v->data + (slot * v->strides[0] + s->kv * v->strides[1]) * size;
  s->offset = k->shape[2] - q->shape[2];
  if (t->in[4].data) {
    int64_t count = t->in[5].data ? load_index(t->in[5].data, t->in[5].dtype, s->b) : q->shape[2];
    s->offset = ml_min64(FAR, load_index(t->in[4].data, t->in[4].dtype, s->b));
    s->keys = ml_max64(0, ml_min64(s->keys, s->offset + ml_max64(0, ml_min64(count, q->shape[2]))));
  }
  return true;
}

static void finish_row(const span *s, const row *r) {
  const ml_arg *q = &s->t->in[0], *o = &s->t->out[0];
  if (s->t->step->fused) {
    K(tail_run)(s->t, (s->b * q->shape[1] + r->h) * q->shape[2] + r->pos, 0, r->o, s->dv, s->tail_room);
  } else if (keeps_results(s->t)) {
    int64_t to = s->b * o->strides[0] + r->h * o->strides[1] + r->pos * o->strides[2];
    K(store_tile)(o->data + to * ml_dtype_infos[o->dtype].bytes, o->dtype, 1, r->o, (int)s->dv);
  }
}

/* The results of queries that are none: those from `count` on. */
static void clear_rows(const span *s, int64_t first, int64_t last) {
  for (int64_t i = 0; i < (last - first) * s->group; i++) {
    row r = make_row(s, s->kv * s->group + i % s->group, first + i / s->group, 0);
    memset(r.o, 0, (size_t)s->dv * sizeof *r.o);
    finish_row(s, &r);
  }
}

void K(attention)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const ml_arg *q = &t->in[0];
  const rooms room = find_rooms(t);
  K(tail_begin)(t, w->scratch + room.tail);
  int64_t T = q->shape[2], blocks = (T + QUERY_BLOCK - 1) / QUERY_BLOCK, pitch = t->in[1].shape[2] + LANES;
  for (int64_t unit = begin; unit < end; unit++) {
    span s;
    if (!make_span(t, unit, blocks, &s, w)) continue;
    s.queries = w->scratch + room.queries, s.results = w->scratch + room.results, s.tail_room = w->scratch + room.tail;
    int64_t first = unit % blocks * QUERY_BLOCK, end_of_block = ml_min64(T, first + QUERY_BLOCK), last = end_of_block;
    if (t->in[5].data) last = ml_max64(first, ml_min64(last, load_index(t->in[5].data, t->in[5].dtype, s.b)));
    clear_rows(&s, last, end_of_block);
    int64_t n = (last - first) * s.group;
    for (int64_t i = 0; i < n; i += ROWS) {
      row rows[ROWS];
      int count = (int)ml_min64(ROWS, n - i);
      for (int r = 0; r < count; r++)
        rows[r] = make_row(&s, s.kv * s.group + (i + r) % s.group, first + (i + r) / s.group, r);
      attend(&s, rows, count, t->in[1].dtype, (float *)w->scratch, pitch);
      for (int r = 0; r < count; r++) finish_row(&s, &rows[r]);
    }
  }
}
