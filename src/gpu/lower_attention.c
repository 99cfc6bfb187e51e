/* lower_attention.c: attention, and what it is made of, as launches. */
#include "gpu/program.h"

#include <stdio.h>

ml_status ml_cuda_lower_rope_table(ml_program *g, const ml_step *s) {
  const ml_value *o = ml_cuda_value(g, s->outputs[0]);
  const int64_t n = o->shape[2] / 2;
  cu_rope_table_args *a =
      ml_cuda_launch_elements(g, "attention", "cuda_rope_table", sizeof *a, o->shape[0] * o->shape[1] * n);
  if (!a) return ML_MEMORY;
  a->positions_dtype = (int32_t)ml_cuda_value(g, s->inputs[0])->dtype;
  a->scale = (float)s->attrs->rope_table.scale, a->count = o->shape[0] * o->shape[1], a->n = n;
  ML_TRY(ml_cuda_put_address(g, s->inputs[0], &a->positions));
  ML_TRY(ml_cuda_put_address(g, s->inputs[1], &a->frequencies));
  return ml_cuda_put_address(g, s->outputs[0], &a->out);
}

ml_status ml_cuda_sequences(ml_program *g, const ml_step *s, int first, cu_sequences *a) {
  const ml_value *offsets = ml_cuda_value(g, s->inputs[first + 4]);
  a->op = s->op, a->packed = offsets ? offsets->shape[0] - 1 : 0;
  ML_TRY(ml_cuda_array(g, s->inputs[first], &a->pages));
  ML_TRY(ml_cuda_vector(g, s->inputs[first + 1], &a->slots));
  ML_TRY(ml_cuda_vector(g, s->inputs[first + 2], &a->start));
  ML_TRY(ml_cuda_vector(g, s->inputs[first + 3], &a->count));
  ML_TRY(ml_cuda_vector(g, s->inputs[first + 4], &a->offsets));
  return ml_cuda_put_faults(g, &a->fault);
}

/* Whether all heads of keys or values lie at whole groups of elements, and are whole rounds of them. */
static bool lies_whole(const ml_program *g, const ml_step *s, int input, int elements, int round) {
  const ml_value *v = ml_cuda_value(g, s->inputs[input]);
  const ml_storage *place = &g->plan->storages[v->storage];
  const bool known = place->place == ML_PLACE_ARENA || place->place == ML_PLACE_TENSOR; /* others begin anywhere */
  bool whole = known && v->shape[3] % round == 0 && (v->offset + (int64_t)place->offset) % 16 == 0;
  for (int d = 0; d < 3; d++) whole = whole && v->strides[d] % elements == 0;
  return whole;
}

/* Inputs behind q, k and v. */
enum { PAGES = 3, OFFSETS = 7, MASK, SINKS };

/* Keys that a sequence has room for. */
static int64_t most_keys(const ml_program *g, const ml_step *s) {
  const ml_value *k = ml_cuda_value(g, s->inputs[1]), *pages = ml_cuda_value(g, s->inputs[PAGES]);
  return pages ? pages->shape[1] * k->shape[2] : k->shape[2];
}

/* Whether keys that are taken together, from a multiple of their number on, lie in one page. */
static bool lies_in_pages(const ml_program *g, const ml_step *s, int keys) {
  return s->inputs[PAGES] < 0 || ml_cuda_value(g, s->inputs[1])->shape[2] % keys == 0;
}

static ml_status attention_args(ml_program *g, const ml_step *s, cu_attention_args *a) {
  a->scale = (float)s->attrs->attention.scale, a->softcap = (float)s->attrs->attention.softcap;
  a->causal = s->attrs->attention.causal != 0, a->window = s->attrs->attention.window;
  ML_TRY(ml_cuda_array(g, s->inputs[0], &a->q));
  ML_TRY(ml_cuda_array(g, s->inputs[1], &a->k));
  ML_TRY(ml_cuda_array(g, s->inputs[2], &a->v));
  ML_TRY(ml_cuda_sequences(g, s, PAGES, &a->sequences));
  ML_TRY(ml_cuda_array(g, s->inputs[MASK], &a->mask));
  ML_TRY(ml_cuda_vector(g, s->inputs[SINKS], &a->sinks));
  ML_TRY(ml_cuda_array(g, s->outputs[0], &a->out));
  return ml_cuda_tail(g, s, &a->tail);
}

enum { ONE_SEGMENT = 64, MANY_KEYS = 64 }; /* as gpu/attention_one.cu and attention_many.cu have them */

/* ---- one query a sequence ---- */

/* Whether a step is such, of a model whose weights are not to be multiplied exactly. */
static bool takes_one(const ml_program *g, const ml_step *s) {
  const ml_value *q = ml_cuda_value(g, s->inputs[0]), *k = ml_cuda_value(g, s->inputs[1]),
                 *v = ml_cuda_value(g, s->inputs[2]);
  const int64_t size = q->shape[3];
  for (int i = PAGES; i < OFFSETS; i++) { /* of which the table may have rows that lie apart */
    const ml_value *x = ml_cuda_value(g, s->inputs[i]);
    if (x && (x->dtype != ML_I32 || (x->shape[x->ndim - 1] != 1 && x->strides[x->ndim - 1] != 1))) return false;
  }
  return g->fast && q->shape[2] == 1 && s->inputs[MASK] < 0 && s->inputs[OFFSETS] < 0 && size == v->shape[3] &&
         lies_in_pages(g, s, ONE_SEGMENT) && k->dtype == v->dtype && k->dtype != ML_F64 &&
         (size == 64 || size == 128 || size == 256) && lies_whole(g, s, 1, 8, 8) && lies_whole(g, s, 2, 8, 8) &&
         q->strides[3] == 1 && most_keys(g, s) < INT32_MAX && k->shape[0] < INT32_MAX && q->shape[1] < INT32_MAX;
}

static ml_status attention_one_args(ml_program *g, const ml_step *s, cu_attention_one_args *a) {
  const ml_value *q = ml_cuda_value(g, s->inputs[0]), *k = ml_cuda_value(g, s->inputs[1]),
                 *v = ml_cuda_value(g, s->inputs[2]), *pages = ml_cuda_value(g, s->inputs[PAGES]),
                 *o = ml_cuda_value(g, s->outputs[0]);
  a->op = s->op, a->page = (int32_t)k->shape[2];
  if (pages) {
    a->n_slots = (int32_t)pages->shape[0], a->n_entries = (int32_t)pages->shape[1], a->n_pages = (int32_t)k->shape[0];
    a->entries_stride = (int32_t)pages->strides[0];
  }
  a->q_dtype = (int32_t)q->dtype, a->kv_dtype = (int32_t)k->dtype, a->out_dtype = (int32_t)o->dtype;
  for (int d = 0; d < 2; d++) a->q_strides[d] = q->strides[d], a->out_strides[d] = o->strides[d];
  for (int d = 0; d < 3; d++) a->k_strides[d] = k->strides[d], a->v_strides[d] = v->strides[d];
  a->scale = (float)s->attrs->attention.scale, a->softcap = (float)s->attrs->attention.softcap;
  a->window = s->attrs->attention.window;
  ML_TRY(ml_cuda_put_address(g, s->inputs[0], &a->q));
  ML_TRY(ml_cuda_put_address(g, s->inputs[1], &a->k));
  ML_TRY(ml_cuda_put_address(g, s->inputs[2], &a->v));
  ML_TRY(ml_cuda_put_address(g, s->inputs[PAGES], &a->pages));
  ML_TRY(ml_cuda_put_address(g, s->inputs[PAGES + 1], &a->slots));
  ML_TRY(ml_cuda_put_address(g, s->inputs[PAGES + 2], &a->start));
  ML_TRY(ml_cuda_put_address(g, s->inputs[PAGES + 3], &a->count));
  ML_TRY(ml_cuda_vector(g, s->inputs[SINKS], &a->sinks));
  ML_TRY(ml_cuda_put_address(g, s->outputs[0], &a->out));
  ML_TRY(ml_cuda_put_faults(g, &a->fault));
  return ml_cuda_tail(g, s, &a->tail);
}

/* Heads on their way into the pages: turned by a table or not. */
static ml_status own_part(ml_program *g, const ml_step *rope, int from, cu_own_part *o) {
  const ml_value *x = ml_cuda_value(g, rope ? rope->inputs[0] : from);
  for (int d = 0; d < 2; d++) o->strides[d] = x->strides[d];
  ML_TRY(ml_cuda_put_address(g, rope ? rope->inputs[0] : from, &o->x));
  if (!rope) return ML_OK;
  const ml_value *table = ml_cuda_value(g, rope->inputs[1]);
  o->turns = (int32_t)(table->shape[2] / 2), o->table_stride = table->strides[0];
  return ml_cuda_put_address(g, rope->inputs[1], &o->table);
}

/* Whether pages, and what says which are whose, are as they were when the program began. */
static bool finds_pages_early(const ml_program *g, const ml_step *s, const ml_step *before) {
  for (int i = 1; i < OFFSETS; i++) {
    if (ml_cuda_is_written_before(g, s->inputs[i], (size_t)(before - g->plan->steps))) return false;
  }
  return true;
}

static ml_status take_own(ml_program *g, const ml_step *s, const ml_cuda_own *own, cu_attention_one_args *a) {
  ML_TRY(own_part(g, own->q_rope, own->q_rope->inputs[0], &a->own_q));
  ML_TRY(own_part(g, own->k_rope, own->k_append->inputs[1], &a->own_k));
  ML_TRY(own_part(g, NULL, own->v_append->inputs[1], &a->own_v));
  a->op = ML_OP_cache_append, a->early = finds_pages_early(g, s, own->first);
  return ML_OK;
}

static ml_status lower_attention_one(ml_program *g, const ml_step *s, const ml_cuda_own *own) {
  enum { THREADS = 256, MOST_HEADS = 8, BEFORE_VALUES = 2 }; /* as gpu/attention_one.cu has them */
  const ml_value *q = ml_cuda_value(g, s->inputs[0]), *k = ml_cuda_value(g, s->inputs[1]);
  const int64_t B = q->shape[0], H = q->shape[1], size = q->shape[3], KV = k->shape[1], group = KV ? H / KV : 0;
  const int64_t chunks = KV * ((group + MOST_HEADS - 1) / MOST_HEADS);
  const int64_t segments = (most_keys(g, s) + ONE_SEGMENT - 1) / ONE_SEGMENT;
  const int64_t held = ml_cuda_multiprocessors(g), abreast = chunks == KV && B * H <= held && group > 0 ? group : 1;
  const int64_t rows = B * chunks * abreast, wanted = rows > 0 && rows < 2 * held ? 2 * held / rows : 1;
  char kernel[32];
  snprintf(kernel, sizeof kernel, "cuda_attention_%s_%d", own ? "own" : "one", (int)size);
  cu_attention_one_args *a = ml_cuda_launch_add(g, "attention_one", kernel, sizeof *a, rows,
                                                segments < wanted ? (segments ? segments : 1) : wanted, THREADS);
  if (!a) return ML_MEMORY;
  ML_TRY(attention_one_args(g, s, a));
  if (own) ML_TRY(take_own(g, s, own, a));
  a->heads = (int32_t)H, a->group = (int32_t)group, a->chunks = (int32_t)chunks;
  a->in_group = (int32_t)((group + MOST_HEADS - 1) / MOST_HEADS), a->segments = (int32_t)segments;
  a->abreast = (int32_t)abreast;
  ML_TRY(ml_cuda_put_counts(g, rows, &a->counts));
  return ml_cuda_put_scratch(g, (size_t)(B * H * segments * (BEFORE_VALUES + size)) * sizeof(float), &a->parts);
}

/* Whether heads lie one after another, of whole pairs, and are turned in halves. */
static bool is_plain_part(const ml_program *g, const ml_step *rope, int from) {
  const ml_value *x = ml_cuda_value(g, rope ? rope->inputs[0] : from);
  const ml_value *table = rope ? ml_cuda_value(g, rope->inputs[1]) : NULL;
  return x->strides[3] == 1 && !(rope && rope->attrs->rope.interleaved) &&
         (!table || (table->dtype == ML_F32 && table->shape[2] % 2 == 0 && table->strides[2] == 1));
}

bool ml_cuda_attends_own(const ml_program *g, const ml_step *s, const ml_cuda_own *own) {
  if (s->op != ML_OP_attention || !takes_one(g, s) || s->inputs[PAGES] < 0) return false;
  const ml_value *q = ml_cuda_value(g, s->inputs[0]), *k = ml_cuda_value(g, own->k_append->inputs[1]),
                 *v = ml_cuda_value(g, own->v_append->inputs[1]);
  for (int i = PAGES; i < OFFSETS; i++) { /* of an append they stand one place before */
    if (!ml_cuda_same_place(g, s->inputs[i], own->k_append->inputs[i - 1]) ||
        !ml_cuda_same_place(g, s->inputs[i], own->v_append->inputs[i - 1]))
      return false;
  }
  return own->k_append->inputs[OFFSETS - 1] < 0 && own->v_append->inputs[OFFSETS - 1] < 0 &&
         ml_cuda_same_place(g, s->inputs[0], own->q_rope->outputs[0]) &&
         ml_cuda_same_place(g, s->inputs[1], own->k_append->inputs[0]) &&
         ml_cuda_same_place(g, s->inputs[2], own->v_append->inputs[0]) && q->dtype == k->dtype &&
         q->dtype == v->dtype && is_plain_part(g, own->q_rope, -1) &&
         is_plain_part(g, own->k_rope, own->k_append->inputs[1]) && is_plain_part(g, NULL, own->v_append->inputs[1]);
}

ml_status ml_cuda_lower_own_attention(ml_program *g, const ml_step *s, const ml_cuda_own *own) {
  return lower_attention_one(g, s, own);
}

/* ---- many, and any ---- */

/* Many queries of bfloat16 or float16. */
static bool takes_many(const ml_program *g, const ml_step *s) {
  const ml_value *q = ml_cuda_value(g, s->inputs[0]), *k = ml_cuda_value(g, s->inputs[1]),
                 *v = ml_cuda_value(g, s->inputs[2]);
  const int64_t size = q->shape[3];
  enum { FEW = 8, MOST_HEADS = 65535 };
  return g->fast && q->shape[2] > FEW && s->inputs[MASK] < 0 && s->inputs[OFFSETS] < 0 &&
         lies_in_pages(g, s, MANY_KEYS) && (q->dtype == ML_BF16 || q->dtype == ML_F16) && k->dtype == q->dtype &&
         v->dtype == q->dtype && (size == 64 || size == 128) && size == v->shape[3] &&
         q->shape[0] * q->shape[1] <= MOST_HEADS && lies_whole(g, s, 0, 8, 8) && lies_whole(g, s, 1, 8, 8) &&
         lies_whole(g, s, 2, 8, 8);
}

static ml_status lower_attention_many(ml_program *g, const ml_step *s) {
  enum { ROWS = 64, THREADS = 128, TILES = 5 }; /* as gpu/attention_many.cu has them */
  const ml_value *q = ml_cuda_value(g, s->inputs[0]);
  const size_t shared = (size_t)TILES * ROWS * (size_t)q->shape[3] * 2;
  char kernel[48];
  int64_t held;
  snprintf(kernel, sizeof kernel, "cuda_attention_many_%s_%d", ml_dtype_name(q->dtype), (int)q->shape[3]);
  ML_TRY(ml_cuda_blocks_at_once(g, "attention_many", kernel, THREADS, shared, &held));
  cu_attention_args *a = ml_cuda_launch_add(g, "attention_many", kernel, sizeof *a, (q->shape[2] + ROWS - 1) / ROWS,
                                            q->shape[0] * q->shape[1], THREADS);
  if (!a) return ML_MEMORY;
  ml_cuda_launch_shared(g, shared);
  return attention_args(g, s, a);
}

ml_status ml_cuda_lower_attention(ml_program *g, const ml_step *s) {
  if (takes_one(g, s)) return lower_attention_one(g, s, NULL);
  if (takes_many(g, s)) return lower_attention_many(g, s);
  const ml_value *q = ml_cuda_value(g, s->inputs[0]), *k = ml_cuda_value(g, s->inputs[1]),
                 *v = ml_cuda_value(g, s->inputs[2]);
  const int64_t widest = q->shape[3] > v->shape[3] ? q->shape[3] : v->shape[3], each = (widest + 31) / 32;
  const int64_t rows = q->shape[0] * q->shape[1] * q->shape[2];
  enum { THREADS = 256, SEGMENT = 256, BEFORE_VALUES = 3 }; /* as gpu/attention.cu has them */
  char kernel[32];
  if (each > 32)
    return ml_fail(ML_UNSUPPORTED, "attention: heads of %lld elements: expected 1024 at most", (long long)widest);
  const int pieces = each <= 1 ? 1 : each <= 2 ? 2 : each <= 4 ? 4 : each <= 8 ? 8 : 32;
  const bool whole =
      pieces > 1 && pieces <= 8 && k->dtype == v->dtype && lies_whole(g, s, 1, 4, 32) && lies_whole(g, s, 2, 4, 32);
  snprintf(kernel, sizeof kernel, "cuda_attention_%d%s", pieces,
           whole && k->dtype == ML_F32   ? "_f32"
           : whole && k->dtype == ML_F16 ? "_f16"
                                         : "");
  /* Few rows of many keys: each block takes a part of them. */
  int64_t segments = (most_keys(g, s) + SEGMENT - 1) / SEGMENT;
  if (segments < 2 || rows >= 2 * (int64_t)ml_cuda_multiprocessors(g) || segments > 65535) segments = 0;
  cu_attention_args *a = ml_cuda_launch_add(g, "attention", kernel, sizeof *a, rows, segments ? segments : 1, THREADS);
  if (!a) return ML_MEMORY;
  ML_TRY(attention_args(g, s, a));
  a->segments = segments;
  if (!segments) return ML_OK;
  const size_t bytes = (size_t)(rows * segments * (BEFORE_VALUES + v->shape[3])) * sizeof(float);
  ML_TRY(ml_cuda_put_scratch(g, bytes, &a->parts));
  cu_attention_args *join = ml_cuda_launch_add(g, "attention", "cuda_attention_join", sizeof *join, rows, 1, THREADS);
  if (!join) return ML_MEMORY;
  ML_TRY(attention_args(g, s, join));
  join->segments = segments;
  return ml_cuda_put_scratch(g, bytes, &join->parts);
}
