/* engine_generate.c: the C API's generation: options to Lua, tokens to the callback, metrics back. */
#include "lua_bind/api.h"

#include <string.h>

static const char *const finish_names[] = {"none", "stop", "length", "cancelled", "deadline", "error"};
enum { FINISH_COUNT = sizeof finish_names / sizeof *finish_names };

const char *ml_finish_name(ml_finish reason) {
  return (unsigned)reason < FINISH_COUNT ? finish_names[reason] : "unknown";
}

typedef struct generate_call {
  ml_model *model;
  ml_generate_options options;
  ml_token_callback callback;
  void *context;
  ml_metrics metrics;
} generate_call;

/* ---- what Lua is given ---- */

static void set_texts(lua_State *L, const char *name, const char *const *texts, size_t count) {
  if (!count) return;
  lua_createtable(L, count < 1024 ? (int)count : 1024, 0);
  for (size_t i = 0; i < count; i++) {
    if (!texts[i]) lb_usage(L, "%s: entry %zu is NULL", name, i + 1);
    lua_pushstring(L, texts[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, name);
}

/* A member that is 0 is left out, for Lua to choose its default, but where `zeros` says that 0 is meant. */
static void set_zeros(lua_State *L, const ml_generate_options *o) {
  static const char *const names[] = {"max_tokens", "temperature", "top_k", "top_p", "min_p", "repeat_last_n", "seed"};
  const bool zero[] = {!o->max_tokens, o->temperature == 0, !o->top_k, o->top_p == 0,
                       o->min_p == 0,  !o->repeat_last_n,   !o->seed};
  enum { COUNT = sizeof names / sizeof *names };
  if (o->zeros >> COUNT) lb_usage(L, "zeros: unknown bits in %#llx", (unsigned long long)o->zeros);
  for (int i = 0; i < COUNT; i++) {
    if (!(o->zeros >> i & 1)) continue;
    if (!zero[i]) lb_usage(L, "zeros: %s is not 0", names[i]);
    lua_pushinteger(L, 0);
    lua_setfield(L, -2, names[i]);
  }
}

static void push_options(lua_State *L, const ml_generate_options *o) {
  lua_createtable(L, 0, 16);
  lb_set_integer(L, "max_tokens", o->max_tokens);
  lb_set_number(L, "temperature", o->temperature);
  lb_set_integer(L, "top_k", o->top_k);
  lb_set_number(L, "top_p", o->top_p);
  lb_set_number(L, "min_p", o->min_p);
  lb_set_number(L, "repeat_penalty", o->repeat_penalty);
  lb_set_number(L, "presence_penalty", o->presence_penalty);
  lb_set_number(L, "frequency_penalty", o->frequency_penalty);
  lb_set_integer(L, "repeat_last_n", o->repeat_last_n);
  lb_set_integer(L, "seed", o->seed);
  lb_set_number(L, "deadline", o->deadline_seconds);
  lb_set_flag(L, "ignore_eos", o->ignore_eos);
  set_texts(L, "stop", o->stop, o->n_stop);
  if (o->n_stop_tokens) {
    lb_push_ids(L, o->stop_tokens, o->n_stop_tokens);
    lua_setfield(L, -2, "stop_tokens");
  }
  if (o->model_defaults) lb_set_text(L, "defaults", "model");
  set_zeros(L, o);
}

static void push_messages(lua_State *L, const ml_message *messages, size_t count) {
  lua_createtable(L, count < 1024 ? (int)count : 1024, 0);
  for (size_t i = 0; i < count; i++) {
    if (!messages[i].role || !messages[i].content) lb_usage(L, "messages: entry %zu has no role or no content", i + 1);
    lua_createtable(L, 0, 2);
    lb_set_text(L, "role", messages[i].role);
    lb_set_text(L, "content", messages[i].content);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

/* Pushes the iterator of model:generate or model:chat. */
static void push_generation(lua_State *L, const generate_call *c) {
  const ml_generate_options *o = &c->options;
  lb_push_model(L, c->model);
  lua_getfield(L, -1, o->messages ? "chat" : "generate");
  lua_insert(L, -2);
  if (o->messages) push_messages(L, o->messages, o->n_messages);
  else if (o->ids) lb_push_ids(L, o->ids, o->n_ids);
  else lua_pushstring(L, o->prompt);
  push_options(L, o);
  lua_call(L, 3, 1);
}

/* ---- what comes back ---- */

/* Shows the token at the top of the stack to the callback, which says whether to go on. */
static bool show(lua_State *L, const generate_call *c) {
  if (!c->callback) return true;
  ml_token token = {.id = (int32_t)lb_integer_field(L, "id"), .index = lb_integer_field(L, "index")};
  lua_getfield(L, -1, "text"); /* stays on the stack while the callback looks at it */
  token.text = lua_tolstring(L, -1, &token.text_bytes);
  return c->callback(c->context, &token);
}

/* From the iterator at the top of the stack. */
static void read_metrics(lua_State *L, ml_metrics *m) {
  lua_getfield(L, -1, "metrics");
  lua_getfield(L, -1, "finish_reason");
  for (int i = 0; i < FINISH_COUNT; i++) {
    if (lua_isstring(L, -1) && strcmp(lua_tostring(L, -1), finish_names[i]) == 0) m->finish_reason = (ml_finish)i;
  }
  lua_pop(L, 1);
  m->prompt_tokens = lb_integer_field(L, "prompt_tokens");
  m->cached_tokens = lb_integer_field(L, "cached_tokens");
  m->generated_tokens = lb_integer_field(L, "generated_tokens");
  m->prefill_seconds = lb_number_field(L, "prefill_seconds");
  m->decode_seconds = lb_number_field(L, "decode_seconds");
  m->total_seconds = lb_number_field(L, "total_seconds");
  m->prefill_tokens_per_second = lb_number_field(L, "prefill_tokens_per_second");
  m->decode_tokens_per_second = lb_number_field(L, "decode_tokens_per_second");
  m->peak_bytes = (size_t)lb_integer_field(L, "peak_bytes");
  m->active_bytes = (size_t)lb_integer_field(L, "active_bytes");
  lua_pop(L, 1);
}

static void close_generation(lua_State *L, int generation) {
  lua_getfield(L, generation, "close");
  lua_pushvalue(L, generation);
  lua_call(L, 1, 0);
}

static int generate(lua_State *L) {
  enum { GENERATION = 3 };
  generate_call *c = lua_touserdata(L, 1);
  lua_rawgetp(L, LUA_REGISTRYINDEX, c->model); /* keeps the handle, should a callback close it */
  push_generation(L, c);
  int outcome;
  for (;;) {
    lua_settop(L, GENERATION);
    lua_pushvalue(L, GENERATION);
    outcome = lua_pcall(L, 0, 1, 0);
    if (outcome != LUA_OK || lua_isnil(L, -1)) break;
    if (show(L, c) || c->model->closed) continue; /* of a closed model the next call raises */
    close_generation(L, GENERATION);
    break;
  }
  lua_pushvalue(L, GENERATION);
  read_metrics(L, &c->metrics);
  lua_pop(L, 1);
  if (outcome == LUA_OK || c->metrics.finish_reason == ML_FINISH_CANCELLED) return 0;
  c->metrics.finish_reason = ML_FINISH_ERROR;
  return lua_error(L);
}

static ml_status check_prompt(const ml_generate_options *o) {
  int given = (o->prompt != NULL) + (o->ids != NULL) + (o->messages != NULL);
  if (given != 1)
    return ml_fail(ML_USAGE, "ml_generate_options: expected one of prompt, ids and messages, found %d", given);
  if (o->model_defaults && !o->messages) return ml_fail(ML_USAGE, "model_defaults: expected messages beside it");
  if (o->n_stop && !o->stop) return ml_fail(ML_USAGE, "stop: NULL, but n_stop is %zu", o->n_stop);
  if (o->n_stop_tokens && !o->stop_tokens)
    return ml_fail(ML_USAGE, "stop_tokens: NULL, but n_stop_tokens is %zu", o->n_stop_tokens);
  return ML_OK;
}

ml_status ml_generate(ml_model *model, const ml_generate_options *options, ml_token_callback callback, void *context,
                      ml_metrics *metrics) {
  if (!model) return ml_fail(ML_USAGE, "ml_generate: model is NULL");
  if (metrics) ML_TRY(lb_check_struct(metrics, "ml_metrics"));
  generate_call c = {.model = model, .callback = callback, .context = context};
  ml_status status = lb_read_struct(&c.options, sizeof c.options, options, "ml_generate_options");
  if (status == ML_OK) status = check_prompt(&c.options);
  if (status == ML_OK) status = lb_call(model->engine, generate, &c);
  if (status == ML_CANCELLED) { /* before the first token was asked for */
    c.metrics.finish_reason = ML_FINISH_CANCELLED;
    status = ML_OK;
    ml_error_clear();
  }
  if (metrics) lb_write_struct(metrics, &c.metrics, sizeof c.metrics);
  return status;
}
