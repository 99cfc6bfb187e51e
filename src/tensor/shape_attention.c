/* shape_attention.c: the shape rules of what works on sequences: rotary positions, attention, caches. */
#include "tensor/shape.h"

#include <math.h>

ml_status ml_shape_rope_table(ml_shape_query *q) {
  const ml_tensor *positions = q->inputs[0], *f = q->inputs[1];
  ML_TRY(ml_want_integers(positions, "positions"));
  ML_TRY(ml_want_ndim(positions, "positions", 2));
  ML_TRY(ml_want_ndim(f, "frequencies", 1));
  if (f->dtype != ML_F32) return ml_fail(ML_USAGE, "frequencies: expected float32, found %s", ml_dtype_name(f->dtype));
  q->dtype = ML_F32;
  return ml_shape_set(q, 3, (int64_t[]){positions->shape[0], positions->shape[1], 2 * f->shape[0]});
}

ml_status ml_shape_rope(ml_shape_query *q) {
  const ml_tensor *x = q->inputs[0], *table = q->inputs[1];
  ML_TRY(ml_want_ndim(x, "x", 4));
  ML_TRY(ml_want_ndim(table, "table", 3));
  ML_TRY(ml_want_floats(x, "x"));
  if (table->dtype != ML_F32)
    return ml_fail(ML_USAGE, "table: expected float32, found %s", ml_dtype_name(table->dtype));
  if (table->shape[0] != x->shape[0] || table->shape[1] != x->shape[2] || table->shape[2] > x->shape[3]) {
    return ml_fail(ML_MISMATCH, "table of shape %s does not fit x of shape %s", SHAPE_TEXT(table), SHAPE_TEXT(x));
  }
  return ml_shape_like(q, x);
}

/* Operands that say which tokens belong together, and which pages they use. */
typedef struct sequences {
  const ml_tensor *pages, *slots, *start, *count, *offsets;
} sequences;

static ml_status lone(const char *name) {
  return ml_fail(ML_USAGE, "%s: it says something of pages, and none are given", name);
}

/* x has its tokens along its third axis. */
static ml_status want_sequences(const sequences *s, const ml_tensor *x) {
  int64_t n = x->shape[0];
  if (s->offsets) {
    ML_TRY(ml_want_ndim(s->offsets, "offsets", 1));
    ML_TRY(ml_want_integers(s->offsets, "offsets"));
    if (s->offsets->shape[0] < 1) return ml_fail(ML_MISMATCH, "offsets: expected one more than sequences, found none");
    if (x->shape[0] != 1)
      return ml_fail(ML_MISMATCH, "offsets: sequences lie end to end in one batch entry, and there are %lld",
                     (long long)x->shape[0]);
    if (s->count) return ml_fail(ML_USAGE, "count: offsets say how many tokens a sequence has");
    n = s->offsets->shape[0] - 1;
  }
  if (!s->pages) {
    if (s->slots) return lone("slots");
    if (s->start) return lone("start");
    return s->count ? lone("count") : ML_OK;
  }
  ML_TRY(ml_want_ndim(s->pages, "pages", 2));
  ML_TRY(ml_want_integers(s->pages, "pages"));
  if (!s->start) return ml_fail(ML_USAGE, "start: expected how many positions each sequence holds already");
  if (!s->slots && s->pages->shape[0] != n)
    return ml_fail(ML_MISMATCH, "pages of shape %s: without slots, expected a row for each of %lld sequences",
                   SHAPE_TEXT(s->pages), (long long)n);
  ML_TRY(ml_want_numbers(s->slots, "slots", n));
  ML_TRY(ml_want_numbers(s->start, "start", n));
  return ml_want_numbers(s->count, "count", n);
}

static ml_status want_heads(const ml_tensor *q, const ml_tensor *k, const ml_tensor *v, bool pages) {
  bool fits = k->shape[1] == v->shape[1] && k->shape[2] == v->shape[2] && k->shape[0] == v->shape[0] &&
              (pages || k->shape[0] == q->shape[0]);
  if (!fits)
    return ml_fail(ML_MISMATCH, "k of shape %s and v of shape %s do not fit q of shape %s", SHAPE_TEXT(k),
                   SHAPE_TEXT(v), SHAPE_TEXT(q));
  if (k->shape[3] != q->shape[3])
    return ml_fail(ML_MISMATCH, "heads of q have %lld elements, of k %lld", (long long)q->shape[3],
                   (long long)k->shape[3]);
  if (k->shape[1] == 0 || q->shape[1] % k->shape[1] != 0)
    return ml_fail(ML_MISMATCH, "%lld heads of q do not share %lld of k evenly", (long long)q->shape[1],
                   (long long)k->shape[1]);
  if (pages && k->shape[2] == 0) return ml_fail(ML_MISMATCH, "k of shape %s: pages without positions", SHAPE_TEXT(k));
  return ML_OK;
}

static ml_status want_mask(ml_shape_query *q, const ml_tensor *mask, int64_t keys) {
  const int64_t *x = q->inputs[0]->shape;
  ml_tensor full = {.ndim = 4, .shape = {x[0], x[1], x[2], keys}};
  if (mask->dtype != ML_BOOL) ML_TRY(ml_want_floats(mask, "mask"));
  ML_TRY(ml_shape_broadcast(q, mask, &full));
  if (ml_same_shape(q->ndim, q->shape, 4, full.shape)) return ML_OK;
  return ml_fail(ML_MISMATCH, "mask of shape %s does not broadcast to %s", SHAPE_TEXT(mask), SHAPE_TEXT(&full));
}

static ml_status want_numbers_of_attention(const ml_attrs *a) {
  const double scale = a->attention.scale, softcap = a->attention.softcap;
  if (!isfinite(scale)) return ml_fail(ML_USAGE, "scale: expected a finite number, found %g", scale);
  if (!(softcap >= 0) || isinf(softcap)) return ml_fail(ML_USAGE, "softcap: expected 0 or more, found %g", softcap);
  if (a->attention.window < 0)
    return ml_fail(ML_USAGE, "window: expected 0 or more, found %lld", (long long)a->attention.window);
  return ML_OK;
}

ml_status ml_shape_attention(ml_shape_query *q) {
  const ml_tensor *x = q->inputs[0], *k = q->inputs[1], *v = q->inputs[2], *mask = q->inputs[8], *sinks = q->inputs[9];
  const sequences s = {q->inputs[3], q->inputs[4], q->inputs[5], q->inputs[6], q->inputs[7]};
  ML_TRY(ml_want_ndim(x, "q", 4));
  ML_TRY(ml_want_ndim(k, "k", 4));
  ML_TRY(ml_want_ndim(v, "v", 4));
  ML_TRY(want_numbers_of_attention(q->attrs));
  ML_TRY(want_heads(x, k, v, s.pages != NULL));
  ML_TRY(ml_want_floats(x, "q"));
  ML_TRY(ml_want_floats(k, "k"));
  if (k->dtype != v->dtype)
    return ml_fail(ML_UNSUPPORTED, "k and v: expected one dtype, found %s and %s", ml_dtype_name(k->dtype),
                   ml_dtype_name(v->dtype));
  ML_TRY(want_sequences(&s, x));
  if (s.offsets && !s.pages && k->shape[2] != x->shape[2])
    return ml_fail(ML_MISMATCH, "offsets: k has %lld tokens end to end, q %lld", (long long)k->shape[2],
                   (long long)x->shape[2]);
  ML_TRY(ml_want_vector(sinks, "sinks", x->shape[1]));
  ML_TRY(ml_want_floats(sinks, "sinks"));
  if (mask && s.offsets) return ml_fail(ML_UNSUPPORTED, "mask: none goes with offsets");
  if (mask) ML_TRY(want_mask(q, mask, s.pages ? s.pages->shape[1] * k->shape[2] : k->shape[2]));
  ML_TRY(ml_shape_like(q, x));
  q->shape[3] = v->shape[3];
  return ML_OK;
}

ml_status ml_shape_cache_append(ml_shape_query *q) {
  const ml_tensor *pool = q->inputs[0], *x = q->inputs[1];
  const sequences s = {q->inputs[2], q->inputs[3], q->inputs[4], q->inputs[5], q->inputs[6]};
  ML_TRY(ml_want_ndim(pool, "pool", 4));
  ML_TRY(ml_want_ndim(x, "x", 4));
  if (pool->shape[1] != x->shape[1] || pool->shape[3] != x->shape[3] || pool->shape[2] == 0)
    return ml_fail(ML_MISMATCH, "x of shape %s does not fit a pool of shape %s", SHAPE_TEXT(x), SHAPE_TEXT(pool));
  ML_TRY(ml_want_floats(pool, "pool"));
  ML_TRY(ml_want_floats(x, "x"));
  ML_TRY(want_sequences(&s, x));
  return ml_shape_like(q, pool);
}
