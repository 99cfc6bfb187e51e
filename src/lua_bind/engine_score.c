/* engine_score.c: the C API's calls that look at whole texts: logits, likelihoods, perplexity, classes, vectors. */
#include "lua_bind/api.h"

#include <math.h>
#include <string.h>

/* Members of all these calls; each reads those that it has. */
typedef struct score_call {
  ml_model *model;
  const ml_prompt *texts; /* (n) */
  size_t n;
  const ml_prompt *prefix;
  const char *const *labels; /* (n_labels) */
  size_t n_labels;
  const void *options;
  float *floats;
  double *logprobs;
  size_t capacity;
  ml_likelihood *likelihoods;
  ml_class *classes;
  ml_perplexity_info perplexity;
  ml_metrics metrics;
} score_call;

/* ---- what they share ---- */

static ml_status check_prompts(const ml_prompt *prompts, size_t n, const char *what) {
  for (size_t i = 0; i < n; i++) {
    char name[64];
    snprintf(name, sizeof name, "%s[%zu]", what, i);
    ML_TRY(lb_check_prompt(&prompts[i], name, "text"));
  }
  return ML_OK;
}

static void push_prompts(lua_State *L, const ml_prompt *prompts, size_t n) {
  lua_createtable(L, n < 1024 ? (int)n : 1024, 0);
  for (size_t i = 0; i < n; i++) {
    lb_push_prompt(L, &prompts[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

/* Of the call that the model has just made. */
static void read_model_metrics(lua_State *L, score_call *c) {
  lb_push_model(L, c->model);
  lua_getfield(L, -1, "metrics");
  lb_read_metrics(L, &c->metrics);
  lua_pop(L, 2);
}

static ml_status call(score_call *c, lua_CFunction body, ml_metrics *metrics) {
  ml_status status = lb_call(c->model->engine, body, c);
  if (metrics) lb_write_struct(metrics, &c->metrics, sizeof c->metrics);
  return status;
}

/* Writes the float32 tensor at the top of the stack, and closes it; there is room for `count`. */
static void write_floats(lua_State *L, float *out, size_t count) {
  ml_tensor *t = lb_check_tensor(L, -1, "vectors");
  if (t->dtype != ML_F32 || (size_t)ml_tensor_size(t) != count)
    lb_usage(L, "expected %zu floats, found %lld of %s", count, (long long)ml_tensor_size(t), ml_dtype_name(t->dtype));
  if (count) lb_check(L, ml_tensor_read(t, out));
  lua_getfield(L, -1, "close");
  lua_insert(L, -2);
  lua_call(L, 1, 0);
}

/* A size of the model's description; n of it must find room. */
static size_t check_room(lua_State *L, const score_call *c, const char *size, const char *what) {
  size_t count;
  lb_push_model(L, c->model);
  lua_getfield(L, -1, "info");
  int64_t width = lb_integer_field(L, size);
  lua_pop(L, 2);
  if (!ml_mul_size(c->n, (size_t)width, &count) || count > c->capacity)
    lb_usage(L, "%s: capacity: expected room for %zu times %zu floats, found %zu", what, c->n, (size_t)width,
             c->capacity);
  return count;
}

/* progress(done, all), with the options as upvalue */
static int report_progress(lua_State *L) {
  const ml_classify_options *o = lua_touserdata(L, lua_upvalueindex(1));
  if (o->progress(o->progress_context, lua_tonumber(L, 1) / lua_tonumber(L, 2))) return 0;
  ml_fail(ML_CANCELLED, "ml_classify: it was cancelled");
  lb_raise(L, ML_CANCELLED);
}

/* ---- logits ---- */

static int write_logits(lua_State *L) {
  score_call *c = lua_touserdata(L, 1);
  size_t count = check_room(L, c, "vocab_size", "ml_logits");
  lb_push_method(L, c->model, "logits");
  lb_push_ids(L, c->texts->ids, c->n);
  lua_call(L, 2, 1);
  write_floats(L, c->floats, count);
  read_model_metrics(L, c);
  return 0;
}

ml_status ml_logits(ml_model *model, const int32_t *ids, size_t n_ids, float *logits, size_t capacity,
                    ml_metrics *metrics) {
  if (!model || !ids || (!logits && capacity)) return ml_fail(ML_USAGE, "ml_logits: model, ids or logits is NULL");
  ML_TRY(lb_begin_metrics(metrics));
  ml_prompt text = {.ids = ids};
  score_call c = {.model = model, .texts = &text, .n = n_ids, .floats = logits, .capacity = capacity};
  return call(&c, write_logits, metrics);
}

/* ---- likelihoods ---- */

static int write_likelihoods(lua_State *L) {
  score_call *c = lua_touserdata(L, 1);
  lb_push_method(L, c->model, "score");
  lb_push_prompt(L, c->prefix);
  push_prompts(L, c->texts, c->n);
  lua_call(L, 3, 1);
  for (size_t i = 0; i < c->n; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    c->likelihoods[i] =
        (ml_likelihood){.logprob = lb_number_field(L, "logprob"), .tokens = lb_integer_field(L, "tokens")};
    lua_getfield(L, -1, "greedy");
    c->likelihoods[i].greedy = lua_toboolean(L, -1);
    lua_pop(L, 2);
  }
  read_model_metrics(L, c);
  return 0;
}

ml_status ml_score(ml_model *model, const ml_prompt *prefix, const ml_prompt *continuations, size_t n_continuations,
                   ml_likelihood *likelihoods, ml_metrics *metrics) {
  if (!model || !prefix || ((!continuations || !likelihoods) && n_continuations))
    return ml_fail(ML_USAGE, "ml_score: model, prefix, continuations or likelihoods is NULL");
  ML_TRY(lb_begin_metrics(metrics));
  ML_TRY(lb_check_prompt(prefix, "prefix", "text"));
  ML_TRY(check_prompts(continuations, n_continuations, "continuations"));
  for (size_t i = 0; i < n_continuations; i++) {
    if (continuations[i].messages)
      return ml_fail(ML_USAGE, "continuations[%zu]: expected text or ids, found messages", i);
  }
  score_call c = {
      .model = model, .prefix = prefix, .texts = continuations, .n = n_continuations, .likelihoods = likelihoods};
  return call(&c, write_likelihoods, metrics);
}

/* ---- perplexity ---- */

/* Writes at most `capacity` of the numbers in a field of the table at the top. */
static void write_numbers(lua_State *L, const char *name, double *out, size_t capacity) {
  lua_getfield(L, -1, name);
  size_t n = (size_t)luaL_len(L, -1);
  for (size_t i = 0; i < n && i < capacity; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    out[i] = lua_tonumber(L, -1);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static int measure_perplexity(lua_State *L) {
  score_call *c = lua_touserdata(L, 1);
  const ml_perplexity_options *o = c->options;
  lb_push_method(L, c->model, "perplexity");
  lb_push_prompt(L, c->texts);
  lua_createtable(L, 0, 4);
  lb_set_integer(L, "context", o->context);
  lb_set_integer(L, "stride", o->stride);
  lb_set_integer(L, "limit", o->max_tokens);
  lb_set_flag(L, "logprobs", c->capacity > 0);
  lua_call(L, 3, 1);
  c->perplexity = (ml_perplexity_info){.nll = lb_number_field(L, "nll"),
                                       .perplexity = lb_number_field(L, "perplexity"),
                                       .tokens = lb_integer_field(L, "tokens")};
  if (c->capacity) write_numbers(L, "logprobs", c->logprobs, c->capacity);
  read_model_metrics(L, c);
  return 0;
}

ml_status ml_perplexity(ml_model *model, const ml_prompt *text, const ml_perplexity_options *options, double *logprobs,
                        size_t capacity, ml_perplexity_info *out, ml_metrics *metrics) {
  if (!model || !text || (!logprobs && capacity))
    return ml_fail(ML_USAGE, "ml_perplexity: model, text or logprobs is NULL");
  ML_TRY(lb_begin_metrics(metrics));
  ml_perplexity_options o;
  if (out) ML_TRY(lb_check_struct(out, "ml_perplexity_info"));
  ML_TRY(lb_read_struct(&o, sizeof o, options, "ml_perplexity_options"));
  ML_TRY(lb_check_prompt(text, "text", "text"));
  if (text->messages) return ml_fail(ML_USAGE, "ml_perplexity: expected text or ids, found messages");
  score_call c = {.model = model, .texts = text, .options = &o, .logprobs = logprobs, .capacity = capacity};
  ML_TRY(call(&c, measure_perplexity, metrics));
  if (out) lb_write_struct(out, &c.perplexity, sizeof c.perplexity);
  return ML_OK;
}

/* ---- classes ---- */

static void push_classify_options(lua_State *L, const score_call *c) {
  const ml_classify_options *o = c->options;
  lua_createtable(L, 0, 6);
  lb_set_text(L, "template", o->text_template);
  lb_set_integer(L, "batch_size", o->batch_size);
  lb_set_flag(L, "truncate", o->truncate);
  lb_set_flag(L, "logits", c->logprobs);
  if (o->progress) {
    lua_pushlightuserdata(L, (void *)o);
    lua_pushcclosure(L, report_progress, 1);
    lua_setfield(L, -2, "progress");
  }
  if (!c->n_labels) return;
  lua_createtable(L, c->n_labels < 1024 ? (int)c->n_labels : 1024, 0);
  for (size_t i = 0; i < c->n_labels; i++) {
    if (!c->labels[i]) lb_usage(L, "labels[%zu] is NULL", i);
    lua_pushstring(L, c->labels[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "labels");
}

/* Logarithms of the shares that exp(values) have of their sum. */
static void normalise(double *values, size_t n) {
  double most = -INFINITY, sum = 0;
  for (size_t i = 0; i < n; i++) most = fmax(most, values[i]);
  if (most == -INFINITY) { /* nothing is likelier than anything */
    for (size_t i = 0; i < n; i++) values[i] = -log((double)n);
    return;
  }
  for (size_t i = 0; i < n; i++) sum += exp(values[i] - most);
  for (size_t i = 0; i < n; i++) values[i] -= most + log(sum);
}

static int write_classes(lua_State *L) {
  score_call *c = lua_touserdata(L, 1);
  lb_push_method(L, c->model, "classify");
  push_prompts(L, c->texts, c->n);
  push_classify_options(L, c);
  lua_call(L, 3, 1);
  for (size_t i = 0; i < c->n; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    c->classes[i] = (ml_class){.label = (int32_t)lb_integer_field(L, "index") - 1,
                               .probability = lb_number_field(L, "probability")};
    if (c->logprobs) {
      double *row = c->logprobs + i * c->n_labels;
      write_numbers(L, "logits", row, c->n_labels);
      normalise(row, c->n_labels);
    }
    lua_pop(L, 1);
  }
  read_model_metrics(L, c);
  return 0;
}

ml_status ml_classify(ml_model *model, const ml_prompt *texts, size_t n_texts, const char *const *labels,
                      size_t n_labels, const ml_classify_options *options, ml_class *classes, double *logprobs,
                      ml_metrics *metrics) {
  if (!model || ((!texts || !classes) && n_texts) || (!labels && n_labels))
    return ml_fail(ML_USAGE, "ml_classify: model, texts, classes or labels is NULL");
  ML_TRY(lb_begin_metrics(metrics));
  ml_classify_options o;
  ML_TRY(lb_read_struct(&o, sizeof o, options, "ml_classify_options"));
  ML_TRY(check_prompts(texts, n_texts, "texts"));
  score_call c = {.model = model,
                  .texts = texts,
                  .n = n_texts,
                  .labels = labels,
                  .n_labels = n_labels,
                  .options = &o,
                  .classes = classes,
                  .logprobs = n_labels ? logprobs : NULL};
  return call(&c, write_classes, metrics);
}

/* ---- vectors ---- */

static int write_vectors(lua_State *L) {
  score_call *c = lua_touserdata(L, 1);
  const ml_embed_options *o = c->options;
  size_t count = check_room(L, c, "hidden_size", "ml_embed");
  lb_push_method(L, c->model, "embed");
  push_prompts(L, c->texts, c->n);
  lua_createtable(L, 0, 4);
  lb_set_text(L, "pooling", o->pooling);
  lb_set_flag(L, "normalize", o->normalize);
  lb_set_flag(L, "truncate", o->truncate);
  lb_set_integer(L, "batch_size", o->batch_size);
  lua_call(L, 3, 1);
  write_floats(L, c->floats, count);
  read_model_metrics(L, c);
  return 0;
}

ml_status ml_embed(ml_model *model, const ml_prompt *texts, size_t n_texts, const ml_embed_options *options,
                   float *vectors, size_t capacity, ml_metrics *metrics) {
  if (!model || (!texts && n_texts) || (!vectors && capacity))
    return ml_fail(ML_USAGE, "ml_embed: model, texts or vectors is NULL");
  ML_TRY(lb_begin_metrics(metrics));
  ml_embed_options o;
  ML_TRY(lb_read_struct(&o, sizeof o, options, "ml_embed_options"));
  ML_TRY(check_prompts(texts, n_texts, "texts"));
  score_call c = {.model = model, .texts = texts, .n = n_texts, .options = &o, .floats = vectors, .capacity = capacity};
  return call(&c, write_vectors, metrics);
}
