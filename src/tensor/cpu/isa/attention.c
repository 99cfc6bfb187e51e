/* attention.c: attention over given keys and values, or over those that a cache's pages hold.
 *
 * A row is one head of one query. Keys are taken in splits of SPLIT positions that begin where they begin for every
 * row: each gives a row a partial result (the largest score, the sum of exp(score - largest), and the values weighed by
 * it), and those are joined in order. So a row's sums depend neither on what is computed beside it, nor on how the work
 * is shared out, nor on what keys and values hold that the row does not see.
 *
 * Where there are many rows, a unit is one group of query rows that share a KV head: the rows of QUERY_BLOCK tokens,
 * taken ROWS at a time so that each key and value loaded serves ROWS of them; it walks all of their splits. Where there
 * are few, a unit is a share of the splits of all, and the last to end joins what all have found. */
#include "tensor/cpu/isa/norm.h"
#include "tensor/cpu/isa/sequences.h"
#include "tensor/cpu/isa/tail.h"

enum { ROWS = 4, QUERY_BLOCK = 16, SPLIT = 256 };
enum { FEW_TOKENS = 4, SHARES = 4 }; /* tokens a sequence up to which splits are shared out; shares a thread */

typedef struct attention_plan {
  int64_t sequences, blocks; /* of tokens, of an entry of q's first axis */
  bool shared;               /* units are shares of the splits */
  int64_t splits;            /* SHARED: that a sequence has at most, */
  int64_t pitch;             /* and floats of a row's partial result */
  /* Where things lie in a thread's scratch: rows of queries that are no float32, rows of results, and of partial ones
   * behind the first, rows of scores and one of a mask, the tail's own room. */
  size_t queries, results, partials, scores, tail;
} attention_plan;

static bool keeps_results(const ml_task *t) { return t->step->fused || t->out[0].dtype != ML_F32; }

static sequence_args args_of(const ml_task *t) {
  return (sequence_args){&t->in[3], &t->in[4], &t->in[5], &t->in[6], &t->in[7]};
}

/* Keys that a sequence has room for. */
static int64_t most_keys(const ml_task *t) {
  const ml_arg *k = &t->in[1], *pages = &t->in[3];
  return pages->ndim ? pages->shape[1] * k->shape[2] : k->shape[2];
}

static void reserve_rooms(ml_task *t, attention_plan *p) {
  const size_t d = (size_t)t->in[0].shape[3], dv = (size_t)t->in[2].shape[3], rows = ROWS * sizeof(float);
  p->queries = ml_reserve(&t->scratch, t->in[0].dtype != ML_F32 ? rows * d : 0);
  p->results = ml_reserve(&t->scratch, keeps_results(t) ? rows * dv : 0);
  p->partials = ml_reserve(&t->scratch, rows * dv);
  p->scores = ml_reserve(&t->scratch, (ROWS + 1) * (SPLIT + LANES) * sizeof(float));
  p->tail = ml_reserve(&t->scratch, K(tail_room)(t));
}

ml_status K(attention_prepare)(ml_task *t) {
  const ml_arg *q = &t->in[0], *k = &t->in[1];
  attention_plan *p = ml_bump_alloc(t->memory, 1, sizeof *p);
  if (!p) return ML_MEMORY;
  t->extra = p;
  const sequence_args a = args_of(t);
  p->sequences = sequence_count(&a, q);
  p->blocks = (q->shape[2] + QUERY_BLOCK - 1) / QUERY_BLOCK;
  p->splits = (most_keys(t) + SPLIT - 1) / SPLIT;
  p->pitch = (t->in[2].shape[3] + 2 + LANES - 1) / LANES * LANES;
  const int64_t units = q->shape[0] * k->shape[1] * p->blocks, rows = q->shape[0] * q->shape[1] * q->shape[2];
  p->shared = !a.offsets->ndim && q->shape[2] <= FEW_TOKENS && p->splits > 1 && units > 0 && t->threads > 1 &&
              units < SHARES * t->threads;
  if (p->shared) t->shared = (size_t)(rows * p->splits * p->pitch) * sizeof(float);
  t->units = p->shared ? SHARES * t->threads : units;
  t->grain = 1;
  t->cost = 1e9; /* the keys to read are known by the data alone */
  reserve_rooms(t, p);
  return ML_OK;
}

/* What a row of one KV head and one sequence sees. */
typedef struct span {
  const ml_task *t;
  sequence_args args;
  sequence sequence;
  ml_worker *w;
  int64_t kv, group, offset; /* offset: position of the first query among the keys */
  int64_t keys;              /* keys that exist: of a cache, those that it holds after what it was given last */
  int64_t page;              /* positions a page; all keys where there are none */
  const char *k, *v;         /* this head's; without pages this sequence's too */
  int64_t k_step, v_step, d, dv;
  float scale, softcap;
  int64_t window;
  bool causal;
} span;

typedef struct row {
  const float *q;
  float *o;
  int64_t h, token, lo, hi; /* token: of the sequence; keys lo..hi-1 are those that it may see */
  float max, sum;           /* of the scores behind o; -inf and 0 where o is of no key */
  bool begun;               /* o is of some */
} row;

/* Where keys and values from j on lie in one piece; how many there are before `end`, or 0 and a fault. */
static int64_t find_piece(const span *s, int64_t j, int64_t end, const char **k, const char **v) {
  const ml_arg *pool = &s->t->in[1], *values = &s->t->in[2];
  const int64_t item = ml_dtype_infos[pool->dtype].bytes, at = j % s->page;
  int64_t page = 0;
  if (s->args.pages->data) {
    page = find_page(&s->args, pool, &s->sequence, j / s->page, ML_OP_attention, s->w);
    if (page < 0) return 0;
  }
  *k = s->k + (page * pool->strides[0] + at * s->k_step) * item;
  *v = s->v + (page * values->strides[0] + at * s->v_step) * item;
  return ml_min64(end - j, s->page - at);
}

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

/* As many keys as are taken together, of the `count` from k on; how many. */
ALWAYS_INLINE int64_t dot_some_keys(const span *s, const row *rows, const int n, const ml_dtype kept, const char *k,
                                    int64_t count, float *scores, int64_t pitch) {
  const int each = n == 1 ? PRODUCTS : n == 2 ? PRODUCTS / 2 : PRODUCTS / 4;
  int64_t done = 0;
  for (; s->d % LANES == 0 && done + each <= count; done += each) {
    __m512 sums[PRODUCTS];
    float dots[PRODUCTS];
    const char *from = k + done * s->k_step * size_of(kept);
#pragma GCC unroll 16
    for (int i = 0; i < PRODUCTS; i++) sums[i] = _mm512_setzero_ps();
    for (int64_t i = 0; i < s->d; i += LANES) {
#pragma GCC unroll 16
      for (int j = 0; j < each; j++) {
        const v16f key = load_lanes(from + j * s->k_step * size_of(kept), i, kept);
#pragma GCC unroll 4
        for (int r = 0; r < n; r++) sums[r * each + j] = v_fma(v_load(rows[r].q + i), key, sums[r * each + j]);
      }
    }
    v_store(dots, v_mul(sum_each(sums), v_set1(s->scale)));
    for (int r = 0; r < n; r++) memcpy(scores + r * pitch + done, dots + r * each, (size_t)each * sizeof *dots);
  }
  return done;
}
#endif

/* scores[r][j] = q_r . k_j of the `count` keys from k on. */
ALWAYS_INLINE void dot_keys(const span *s, const row *rows, const int n, const ml_dtype kept, const char *k,
                            int64_t count, float *scores, int64_t pitch) {
  const int64_t lanes = s->d / LANES * LANES;
  int64_t j = 0;
#if defined(ML_ISA_AVX512)
  j = dot_some_keys(s, rows, n, kept, k, count, scores, pitch);
#endif
  for (; j < count; j++) {
    const char *key = k + j * s->k_step * size_of(kept);
    v16f acc[ROWS];
    for (int r = 0; r < n; r++) acc[r] = v_set1(0);
    for (int64_t i = 0; i < lanes; i += LANES) {
      v16f part = load_lanes(key, i, kept);
      for (int r = 0; r < n; r++) acc[r] = v_fma(v_load(rows[r].q + i), part, acc[r]);
    }
    for (int r = 0; r < n; r++) {
      float dot = v_sum(acc[r]);
      for (int64_t i = lanes; i < s->d; i++) dot += rows[r].q[i] * load_float(key, kept, i);
      scores[r * pitch + j] = dot * s->scale;
    }
  }
}

/* The weight of a key that a row may not see: a zero of its own, told from that of a key so unlikely that nothing is
 * left of it. A hidden key's value is left out of the sum, since zero times an infinity would be seen. */
static const float HIDDEN = -0.0f;
ALWAYS_INLINE bool is_hidden(float p) { return p == 0 && signbit(p); }

/* The keys of a split that a group of rows sees: lo..hi-1 are those that any sees, and of them from..to-1 those that
 * all see but for a mask. */
typedef struct keys {
  int64_t lo, from, to, hi;
} keys;

/* o += sum of p[j] v_j over those of `count` keys that are not hidden. Apart from the loop over keys that all rows see,
 * which it would slow down: those that only some see are few. */
static __attribute__((noinline)) void add_seen(const span *s, const row *r, const ml_dtype kept, const char *v,
                                               int64_t count, const float *p) {
  int64_t lanes = s->dv / LANES * LANES;
  for (int64_t j = 0; j < count; j++, v += s->v_step * size_of(kept)) {
    if (is_hidden(p[j])) continue;
    for (int64_t i = 0; i < lanes; i += LANES)
      v_store(r->o + i, v_fma(v_set1(p[j]), load_lanes(v, i, kept), v_load(r->o + i)));
    for (int64_t i = lanes; i < s->dv; i++) r->o[i] += p[j] * load_float(v, kept, i);
  }
}

/* Elements i.. of each o_r, `vectors` times LANES of them. */
ALWAYS_INLINE void sum_vectors(const span *s, const row *rows, const int n, const int vectors, const ml_dtype kept,
                               bool first, int64_t i, const char *v, int64_t count, const float *p, int64_t pitch) {
  v16f acc[ROWS][2];
  for (int r = 0; r < n; r++) {
    for (int k = 0; k < vectors; k++) acc[r][k] = first ? v_set1(0) : v_load(rows[r].o + i + k * LANES);
  }
  for (int64_t j = 0; j < count; j++, v += s->v_step * size_of(kept)) {
    for (int k = 0; k < vectors; k++) {
      const v16f value = load_lanes(v, i + k * LANES, kept);
      for (int r = 0; r < n; r++) acc[r][k] = v_fma(v_set1(p[r * pitch + j]), value, acc[r][k]);
    }
  }
  for (int r = 0; r < n; r++) {
    for (int k = 0; k < vectors; k++) v_store(rows[r].o + i + k * LANES, acc[r][k]);
  }
}

/* o_r += sum of p[r][j] v_j of `count` keys, which all rows see; `first` says that o_r is not yet begun. */
ALWAYS_INLINE void sum_values(const span *s, const row *rows, const int n, const ml_dtype kept, bool first,
                              const char *v, int64_t count, const float *p, int64_t pitch) {
  int64_t i = 0;
#if defined(ML_ISA_AVX512)
  for (; i + 2 * LANES <= s->dv; i += 2 * LANES) sum_vectors(s, rows, n, 2, kept, first, i, v, count, p, pitch);
#endif
  for (; i + LANES <= s->dv; i += LANES) sum_vectors(s, rows, n, 1, kept, first, i, v, count, p, pitch);
  for (; i < s->dv; i++) {
    for (int r = 0; r < n; r++) {
      float sum = first ? 0 : rows[r].o[i];
      for (int64_t j = 0; j < count; j++)
        sum += p[r * pitch + j] * load_float(v + j * s->v_step * size_of(kept), kept, i);
      rows[r].o[i] = sum;
    }
  }
}

static void hide(float *p, int64_t lo, int64_t hi) {
  for (int64_t j = lo; j < hi; j++) p[j] = HIDDEN;
}

/* What the mask adds to the scores of a row's keys lo..lo+n-1; -inf hides a key. */
static void load_mask(const ml_arg *m, int64_t b, const row *r, int64_t lo, int64_t n, float *add) {
  int64_t index[3] = {b, r->h, r->token}, at = 0, step = 0;
  for (int d = 0; d < m->ndim - 1; d++) at += m->shape[d] == 1 ? 0 : index[d + 4 - m->ndim] * m->strides[d];
  if (m->ndim && m->shape[m->ndim - 1] != 1) step = m->strides[m->ndim - 1];
  at += lo * step;
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

/* Scores of a row's keys in lo..hi-1 of a split to exp(score - largest), HIDDEN where it may not see; its largest score
 * and the sum. `add` has room for a row of the mask. */
static void weigh(const span *s, row *r, float *scores, int64_t lo, int64_t hi, float *add) {
  const ml_arg *mask = &s->t->in[8];
  const int64_t from = ml_min64(hi, ml_max64(lo, r->lo)), to = ml_max64(from, ml_min64(hi, r->hi)), n = to - from;
  float *own = scores + (from - lo);
  hide(scores, 0, from - lo);
  hide(scores, to - lo, hi - lo);
  r->begun = false, r->max = -INFINITY, r->sum = 0;
  if (n == 0) return;
  if (s->softcap > 0) {
    for (int64_t i = 0; i < n; i++) own[i] = s->softcap * tanhf(own[i] / s->softcap);
  }
  if (mask->data) {
    load_mask(mask, s->sequence.batch, r, from, n, add);
    if (!add_mask(own, add, n)) {
      hide(own, 0, n);
      return;
    }
  }
  r->begun = true;
  r->max = K(max_row)(own, n);
  r->sum = K(exp_row)(own, r->max == -INFINITY ? 0 : r->max, n, own);
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
    if (at >= k->to || k->from >= k->to) k->from = k->to = k->hi;
    return;
  }
  for (k->from = at; k->from < k->hi && !all_see(p, n, pitch, k->from);) k->from++;
  for (k->to = k->from; k->to < k->hi && all_see(p, n, pitch, k->to);) k->to++;
}

/* The partial results of rows whose scores are weights already: p[r][j - k.lo]. False where there is a fault. */
ALWAYS_INLINE bool weigh_values(const span *s, const row *rows, const int n, const ml_dtype kept, keys k,
                                const float *p, int64_t pitch) {
  const bool masked = s->t->in[8].data != NULL;
  bool first = true; /* o is not yet begun */
  int64_t at = k.lo;
  k.from -= k.lo, k.to -= k.lo, k.hi -= k.lo;
  for (int64_t done = 0; done < k.hi;) { /* piece by piece */
    const char *keys_at, *v;
    const int64_t end = done + find_piece(s, at + done, at + k.hi, &keys_at, &v);
    if (end == done) return false;
    while (done < end) { /* keys that only some see, then those that all do */
      next_seen(&k, masked, p, n, pitch, done);
      const int64_t from = ml_max64(done, ml_min64(k.from, end)), to = ml_max64(from, ml_min64(k.to, end));
      if (from > done) {
        for (int r = 0; r < n; r++) {
          if (first) memset(rows[r].o, 0, (size_t)s->dv * sizeof *rows[r].o);
          add_seen(s, &rows[r], kept, v, from - done, p + r * pitch + done);
        }
        first = false;
        v += (from - done) * s->v_step * size_of(kept);
      }
      if (to > from) {
        sum_values(s, rows, n, kept, first, v, to - from, p + from, pitch);
        first = false;
        v += (to - from) * s->v_step * size_of(kept);
      }
      done = to;
    }
  }
  return true;
}

/* What the keys begin..end-1, all of one split, give rows. False where there is a fault. */
ALWAYS_INLINE bool attend_rows(const span *s, row *rows, const int n, const ml_dtype kept, int64_t begin, int64_t end,
                               float *scores) {
  const int64_t pitch = SPLIT + LANES;
  keys k = {end, begin, end, begin};
  for (int r = 0; r < n; r++) {
    const int64_t lo = ml_max64(begin, rows[r].lo), hi = ml_min64(end, rows[r].hi);
    if (lo < hi) k.lo = ml_min64(k.lo, lo), k.hi = ml_max64(k.hi, hi);
    k.from = ml_max64(k.from, lo), k.to = ml_min64(k.to, hi);
  }
  for (int64_t j = k.lo; j < k.hi;) {
    const char *at, *v;
    const int64_t count = find_piece(s, j, k.hi, &at, &v);
    if (count == 0) return false;
    dot_keys(s, rows, n, kept, at, count, scores + (j - k.lo), pitch);
    j += count;
  }
  for (int r = 0; r < n; r++) weigh(s, &rows[r], scores + r * pitch, k.lo, ml_max64(k.lo, k.hi), scores + ROWS * pitch);
  return weigh_values(s, rows, n, kept, k, scores, pitch);
}

#define ATTEND(N)                                                                                                      \
  switch (s->t->in[1].dtype) {                                                                                         \
  case ML_F32: return attend_rows(s, rows, N, ML_F32, begin, end, scores);                                             \
  case ML_F16: return attend_rows(s, rows, N, ML_F16, begin, end, scores);                                             \
  default: return attend_rows(s, rows, N, ML_BF16, begin, end, scores);                                                \
  }
static bool attend(const span *s, row *rows, int n, int64_t begin, int64_t end, float *scores) {
  if (n == 1) ATTEND(1)
  else if (n == 2) ATTEND(2)
  else if (n == 3) ATTEND(3)
  else ATTEND(4)
}

/* Joins what later keys gave a row to what earlier ones did. */
static void join(const span *s, row *r, const float *o, float max, float sum) {
  const float most = r->max > max ? r->max : max;
  const float own = r->max == most ? 1 : expf(r->max - most), other = max == most ? 1 : expf(max - most);
  for (int64_t i = 0; i < s->dv; i++) r->o[i] = r->o[i] * own + o[i] * other;
  r->max = most;
  r->sum = r->sum * own + sum * other;
}

/* The row's result: zeros where it saw no key. */
static void finish_row(const span *s, row *r, char *tail_room) {
  const ml_arg *q = &s->t->in[0], *o = &s->t->out[0], *sinks = &s->t->in[9];
  const int64_t b = s->sequence.batch, token = s->sequence.first + r->token;
  if (r->begun) {
    float sum = r->sum, scale = 1;
    if (sinks->data) {
      const float sink = load_float(sinks->data, sinks->dtype, r->h), most = sink > r->max ? sink : r->max;
      scale = r->max == most ? 1 : expf(r->max - most);
      sum = sum * scale + expf(sink - most);
    } else if (r->max == -INFINITY) sum = NAN;
    scale /= sum;
    for (int64_t i = 0; i < s->dv; i++) r->o[i] *= scale;
  } else {
    memset(r->o, 0, (size_t)s->dv * sizeof *r->o);
  }
  if (s->t->step->fused) {
    K(tail_run)(s->t, (b * q->shape[1] + r->h) * q->shape[2] + token, 0, r->o, s->dv, tail_room);
  } else if (keeps_results(s->t)) {
    const int64_t to = b * o->strides[0] + r->h * o->strides[1] + token * o->strides[2];
    K(store_tile)(o->data + to * ml_dtype_infos[o->dtype].bytes, o->dtype, 1, r->o, (int)s->dv);
  }
}

/* Row `index` of those of a KV head and a sequence: by tokens, and for each by heads. `place`: among those that are
 * taken together. */
static row make_row(const span *s, int64_t index, int place) {
  const attention_plan *p = s->t->extra;
  const ml_arg *q = &s->t->in[0], *o = &s->t->out[0];
  row r = {.h = s->kv * s->group + index % s->group, .token = index / s->group, .max = -INFINITY};
  const int64_t token = s->sequence.first + r.token, b = s->sequence.batch;
  const int64_t from = b * q->strides[0] + r.h * q->strides[1] + token * q->strides[2];
  r.q = read_tile((float *)(void *)(s->w->scratch + p->queries) + place * s->d,
                  q->data + from * ml_dtype_infos[q->dtype].bytes, q->dtype, 1, (int)s->d);
  if (keeps_results(s->t)) r.o = (float *)(void *)(s->w->scratch + p->results) + place * s->dv;
  else r.o = (float *)(void *)o->data + b * o->strides[0] + r.h * o->strides[1] + token * o->strides[2];
  if (r.token >= s->sequence.real) return r; /* none: it sees nothing */
  const int64_t at = s->offset + r.token;
  r.hi = s->causal ? ml_max64(0, ml_min64(s->keys, at + 1)) : s->keys;
  r.lo = ml_min64(r.hi, s->window > 0 && at >= s->window ? at + 1 - s->window : 0);
  return r;
}

/* What sequence r and a KV head have; false where there is a fault. */
static bool make_span(const ml_task *t, int64_t r, int64_t kv, span *s, ml_worker *w) {
  const ml_arg *q = &t->in[0], *k = &t->in[1], *v = &t->in[2];
  const ml_attrs *a = t->step->attrs;
  const int64_t item = ml_dtype_infos[k->dtype].bytes;
  *s = (span){.t = t,
              .args = args_of(t),
              .w = w,
              .kv = kv,
              .group = q->shape[1] / k->shape[1],
              .d = q->shape[3],
              .dv = v->shape[3],
              .k_step = k->strides[2],
              .v_step = v->strides[2],
              .scale = (float)a->attention.scale,
              .causal = a->attention.causal != 0,
              .window = a->attention.window,
              .softcap = (float)a->attention.softcap};
  if (!find_sequence(&s->args, q, k->shape[2], r, ML_OP_attention, w, &s->sequence)) return false;
  const sequence *own = &s->sequence;
  int64_t k_at = kv * k->strides[1], v_at = kv * v->strides[1];
  if (s->args.pages->data) {
    s->page = k->shape[2];
    s->offset = own->start;
    s->keys = own->start + own->real;
  } else {
    const bool packed = s->args.offsets->data != NULL;
    s->keys = s->page = packed ? own->tokens : k->shape[2];
    s->offset = s->keys - own->tokens;
    k_at += own->batch * k->strides[0] + own->first * k->strides[2];
    v_at += own->batch * v->strides[0] + own->first * v->strides[2];
  }
  s->k = k->data + k_at * item, s->v = v->data + v_at * item;
  return true;
}

/* ---- many rows ---- */

/* Rows that are taken together, through all splits that any of them sees. */
static void walk_splits(const span *s, row *rows, int n) {
  const attention_plan *p = s->t->extra;
  float *partials = (float *)(void *)(s->w->scratch + p->partials);
  int64_t lo = INT64_MAX, hi = 0;
  for (int r = 0; r < n; r++) {
    if (rows[r].lo < rows[r].hi) lo = ml_min64(lo, rows[r].lo), hi = ml_max64(hi, rows[r].hi);
  }
  for (int64_t begin = lo / SPLIT * SPLIT; begin < hi; begin += SPLIT) {
    row part[ROWS];
    for (int r = 0; r < n; r++) {
      part[r] = rows[r];
      if (rows[r].begun) part[r].o = partials + r * s->dv;
    }
    if (!attend(s, part, n, begin, ml_min64(hi, begin + SPLIT), (float *)(void *)(s->w->scratch + p->scores))) return;
    for (int r = 0; r < n; r++) {
      if (!rows[r].begun) rows[r] = part[r];
      else if (part[r].begun) join(s, &rows[r], part[r].o, part[r].max, part[r].sum);
    }
  }
}

/* Tokens first..last-1 of a sequence. */
static void attend_tokens(const span *s, int64_t first, int64_t last) {
  const attention_plan *p = s->t->extra;
  for (int64_t i = first * s->group; i < last * s->group; i += ROWS) {
    row rows[ROWS];
    const int n = (int)ml_min64(ROWS, last * s->group - i);
    for (int r = 0; r < n; r++) rows[r] = make_row(s, i + r, r);
    walk_splits(s, rows, n);
    for (int r = 0; r < n; r++) finish_row(s, &rows[r], s->w->scratch + p->tail);
  }
}

/* Tokens of an entry of q's first axis that belong to no sequence. */
static void clear_tokens(const ml_task *t, int64_t kv, int64_t first, int64_t last, ml_worker *w) {
  const attention_plan *p = t->extra;
  const ml_arg *q = &t->in[0], *k = &t->in[1];
  span s = {.t = t, .w = w, .kv = kv, .group = q->shape[1] / k->shape[1], .d = q->shape[3], .dv = t->in[2].shape[3]};
  for (int64_t i = first * s.group; i < last * s.group; i++) {
    row r = make_row(&s, i, 0);
    finish_row(&s, &r, w->scratch + p->tail);
  }
}

/* Tokens first..last-1 of those that lie end to end: of each sequence its own. */
static void attend_packed(const ml_task *t, int64_t kv, int64_t first, int64_t last, ml_worker *w) {
  const attention_plan *p = t->extra;
  const sequence_args a = args_of(t);
  int64_t at = first;
  for (int64_t r = 0; r < p->sequences && at < last; r++) {
    if (load_index(a.offsets->data, a.offsets->dtype, r + 1) <= at) continue;
    span s;
    if (!make_span(t, r, kv, &s, w)) return;
    const int64_t begin = s.sequence.first, end = begin + s.sequence.tokens;
    if (begin > at) clear_tokens(t, kv, at, ml_min64(last, begin), w);
    if (begin < last) attend_tokens(&s, ml_max64(at, begin) - begin, ml_min64(last, end) - begin);
    at = ml_max64(at, ml_min64(last, end));
  }
  clear_tokens(t, kv, at, last, w);
}

/* ---- few rows: shares of their splits ---- */

/* The splits that rows of a sequence see: from *first on, so many. */
static int64_t count_splits(const span *s, int64_t *first) {
  const int64_t lo = s->window > 0 && s->offset >= s->window ? s->offset + 1 - s->window : 0;
  *first = lo / SPLIT;
  return s->sequence.real > 0 && s->keys > lo ? (s->keys + SPLIT - 1) / SPLIT - *first : 0;
}

static float *partial_of(const span *s, int64_t index, int64_t split) {
  const attention_plan *p = s->t->extra;
  const int64_t rows = s->group * s->sequence.tokens;
  const int64_t before = (s->sequence.batch * s->t->in[1].shape[1] + s->kv) * rows + index;
  return (float *)(void *)s->t->shared_data + (before * p->splits + split) * p->pitch;
}

/* What a split gives all rows of a sequence and a KV head. */
static bool attend_split(const span *s, int64_t split) {
  const attention_plan *p = s->t->extra;
  const int64_t rows = s->group * s->sequence.tokens, begin = split * SPLIT;
  for (int64_t i = 0; i < rows; i += ROWS) {
    row part[ROWS];
    const int n = (int)ml_min64(ROWS, rows - i);
    for (int r = 0; r < n; r++) {
      part[r] = make_row(s, i + r, r);
      part[r].o = partial_of(s, i + r, split);
    }
    const int64_t end = ml_min64(s->keys, begin + SPLIT);
    if (!attend(s, part, n, begin, end, (float *)(void *)(s->w->scratch + p->scores))) return false;
    for (int r = 0; r < n; r++) {
      float *tail = part[r].o + s->dv;
      tail[0] = part[r].begun ? part[r].max : NAN, tail[1] = part[r].begun ? part[r].sum : -1;
    }
  }
  return true;
}

/* Joins the partial results of all rows. */
static void join_all(const ml_task *t, ml_worker *w) {
  const attention_plan *p = t->extra;
  for (int64_t b = 0; b < p->sequences; b++) {
    for (int64_t kv = 0; kv < t->in[1].shape[1]; kv++) {
      span s;
      int64_t first;
      if (!make_span(t, b, kv, &s, w)) return;
      const int64_t n = count_splits(&s, &first);
      for (int64_t i = 0; i < s.group * s.sequence.tokens; i++) {
        row r = make_row(&s, i, 0);
        for (int64_t k = first; k < first + n; k++) {
          const float *o = partial_of(&s, i, k), max = o[s.dv], sum = o[s.dv + 1];
          if (sum < 0) continue; /* no key that the row sees */
          if (r.begun) join(&s, &r, o, max, sum);
          else memcpy(r.o, o, (size_t)s.dv * sizeof *o), r.max = max, r.sum = sum, r.begun = true;
        }
        finish_row(&s, &r, w->scratch + p->tail);
      }
    }
  }
}

/* Share `unit` of the splits of all sequences and KV heads. */
static void attend_share(const ml_task *t, int64_t unit, ml_worker *w) {
  const attention_plan *p = t->extra;
  const int64_t KV = t->in[1].shape[1];
  int64_t total = 0, first;
  span s;
  for (int64_t b = 0; b < p->sequences; b++) {
    if (!make_span(t, b, 0, &s, w)) return;
    total += count_splits(&s, &first) * KV;
  }
  int64_t from = total * unit / t->units, to = total * (unit + 1) / t->units, before = 0;
  for (int64_t b = 0; b < p->sequences && before < to; b++) {
    make_span(t, b, 0, &s, w);
    const int64_t n = count_splits(&s, &first);
    for (int64_t kv = 0; kv < KV; kv++, before += n) {
      const int64_t lo = ml_max64(from, before), hi = ml_min64(to, before + n);
      if (lo < hi) make_span(t, b, kv, &s, w);
      for (int64_t k = lo; k < hi; k++) {
        if (!attend_split(&s, first + k - before)) return;
      }
    }
  }
}

void K(attention)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const attention_plan *p = t->extra;
  const int64_t T = t->in[0].shape[2], KV = t->in[1].shape[1];
  const sequence_args a = args_of(t);
  K(tail_begin)(t, w->scratch + p->tail);
  if (begin == 0) check_offsets(&a, &t->in[0], ML_OP_attention, w);
  for (int64_t unit = begin; unit < end; unit++) {
    if (p->shared) {
      attend_share(t, unit, w);
      continue;
    }
    const int64_t r = unit / (KV * p->blocks), kv = unit / p->blocks % KV, first = unit % p->blocks * QUERY_BLOCK;
    const int64_t last = ml_min64(T, first + QUERY_BLOCK);
    span s;
    if (t->in[7].data) attend_packed(t, kv, first, last, w);
    else if (make_span(t, r, kv, &s, w)) attend_tokens(&s, first, last);
  }
  if (p->shared && atomic_fetch_add(t->done, end - begin) + end - begin == t->units) join_all(t, w);
}
