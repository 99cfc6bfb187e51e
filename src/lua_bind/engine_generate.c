/* engine_generate.c: the C API's generation: options to Lua, tokens to the callback, metrics back. */
#include "lua_bind/api.h"

#include <math.h>
#include <string.h>

static const char *const finish_names[] = {"none", "stop", "length", "cancelled", "deadline", "error"};
enum { FINISH_COUNT = sizeof finish_names / sizeof *finish_names };

const char *ml_finish_name(ml_finish reason) {
  return (unsigned)reason < FINISH_COUNT ? finish_names[reason] : "unknown";
}

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
  static const char *const names[] = {"max_tokens",    "temperature", "top_k",    "top_p",        "min_p",
                                      "repeat_last_n", "seed",        "logprobs", "xtc_threshold"};
  const bool zero[] = {!o->max_tokens, o->temperature == 0, !o->top_k,
                       o->top_p == 0,  o->min_p == 0,       !o->repeat_last_n,
                       !o->seed,       !o->logprobs,        o->xtc_threshold == 0};
  enum { COUNT = sizeof names / sizeof *names };
  if (o->zeros >> COUNT) lb_usage(L, "zeros: unknown bits in %#llx", (unsigned long long)o->zeros);
  for (int i = 0; i < COUNT; i++) {
    if (!(o->zeros >> i & 1)) continue;
    if (!zero[i]) lb_usage(L, "zeros: %s is not 0", names[i]);
    lua_pushinteger(L, 0);
    lua_setfield(L, -2, names[i]);
  }
}

static void set_bias(lua_State *L, const ml_logit_bias *bias, size_t count) {
  if (!count) return;
  lua_createtable(L, 0, count < 1024 ? (int)count : 1024);
  for (size_t i = 0; i < count; i++) {
    lua_pushnumber(L, bias[i].bias);
    lua_rawseti(L, -2, bias[i].id);
  }
  lua_setfield(L, -2, "logit_bias");
}

void lb_set_json(lua_State *L, const char *name, const char *text) {
  if (!text) return;
  int options = lua_gettop(L);
  lb_push_module(L);
  lua_getfield(L, -1, "json");
  lua_getfield(L, -1, "decode");
  lua_pushstring(L, text);
  lua_call(L, 1, 3);
  if (lua_isnil(L, -3)) {
    lua_pushfstring(L, "%s: %s", name, lua_tostring(L, -2));
    lua_replace(L, -3);
  }
  lb_must(L, lua_gettop(L) - 2);
  lua_pop(L, 2);
  lua_setfield(L, options, name);
  lua_settop(L, options);
}

void lb_push_options(lua_State *L, const ml_generate_options *o) {
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
  lb_set_number(L, "xtc_probability", o->xtc_probability);
  lb_set_number(L, "xtc_threshold", o->xtc_threshold);
  lb_set_integer(L, "logprobs", o->logprobs);
  lb_set_integer(L, "seed", o->seed);
  lb_set_number(L, "deadline", o->deadline_seconds);
  lb_set_flag(L, "ignore_eos", o->ignore_eos);
  set_texts(L, "stop", o->stop, o->n_stop);
  if (o->n_stop_tokens) {
    lb_push_ids(L, o->stop_tokens, o->n_stop_tokens);
    lua_setfield(L, -2, "stop_tokens");
  }
  set_bias(L, o->logit_bias, o->n_logit_bias);
  if (o->model_defaults) lb_set_text(L, "defaults", "model");
  lb_set_text(L, "template", o->chat_template);
  lb_set_json(L, "tools", o->tools);
  lb_set_json(L, "documents", o->documents);
  lb_set_json(L, "template_vars", o->template_vars);
  lb_set_text(L, "now", o->now);
  lb_set_flag(L, "continue_final_message", o->continue_final_message);
  lb_set_flag(L, "parse_special", o->parse_special);
  set_zeros(L, o);
}

void lb_push_messages(lua_State *L, const ml_message *messages, size_t count) {
  lua_createtable(L, count < 1024 ? (int)count : 1024, 0);
  for (size_t i = 0; i < count; i++) {
    if (!messages[i].role || !messages[i].content) lb_usage(L, "messages: entry %zu has no role or no content", i + 1);
    lua_createtable(L, 0, 2);
    lb_set_text(L, "role", messages[i].role);
    lb_set_text(L, "content", messages[i].content);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

void lb_push_prompt(lua_State *L, const ml_prompt *prompt) {
  if (prompt->messages) lb_push_messages(L, prompt->messages, prompt->n_messages);
  else if (prompt->ids) lb_push_ids(L, prompt->ids, prompt->n_ids);
  else lua_pushstring(L, prompt->text);
}

ml_prompt lb_prompt_of(const ml_generate_options *o) {
  return (ml_prompt){
      .text = o->prompt, .ids = o->ids, .n_ids = o->n_ids, .messages = o->messages, .n_messages = o->n_messages};
}

/* ---- checks ---- */

ml_status lb_check_prompt(const ml_prompt *prompt, const char *what, const char *text) {
  int given = (prompt->text != NULL) + (prompt->ids != NULL) + (prompt->messages != NULL);
  if (given == 1) return ML_OK;
  return ml_fail(ML_USAGE, "%s: expected one of %s, ids and messages, found %d", what, text, given);
}

/* An option that says how messages become a prompt. */
static const char *chat_option(const ml_generate_options *o) {
  return o->chat_template            ? "chat_template"
         : o->tools                  ? "tools"
         : o->documents              ? "documents"
         : o->template_vars          ? "template_vars"
         : o->now                    ? "now"
         : o->continue_final_message ? "continue_final_message"
         : o->parse_special          ? "parse_special"
                                     : NULL;
}

ml_status lb_check_options(const ml_generate_options *o, bool chat) {
  const char *name = chat_option(o);
  if (name && !o->messages)
    return ml_fail(ML_USAGE, "%s: expected messages beside it%s", name, chat ? "; a session has its own" : "");
  if (o->model_defaults && !chat) return ml_fail(ML_USAGE, "model_defaults: expected messages beside it");
  if (o->n_stop && !o->stop) return ml_fail(ML_USAGE, "stop: NULL, but n_stop is %zu", o->n_stop);
  if (o->n_stop_tokens && !o->stop_tokens)
    return ml_fail(ML_USAGE, "stop_tokens: NULL, but n_stop_tokens is %zu", o->n_stop_tokens);
  if (o->n_logit_bias && !o->logit_bias)
    return ml_fail(ML_USAGE, "logit_bias: NULL, but n_logit_bias is %zu", o->n_logit_bias);
  return ML_OK;
}

/* ---- what comes back ---- */

/* Pushes the pairs {id, logprob} of the list at the top of the stack, which stays below. */
static const ml_logprob *push_top(lua_State *L, size_t *count) {
  int list = lua_gettop(L);
  *count = (size_t)luaL_len(L, list);
  ml_logprob *top = lua_newuserdatauv(L, *count * sizeof *top + 1, 0);
  for (size_t i = 0; i < *count; i++) {
    lua_rawgeti(L, list, (lua_Integer)i + 1);
    top[i] = (ml_logprob){.id = (int32_t)lb_integer_field(L, "id"), .logprob = lb_number_field(L, "logprob")};
    lua_pop(L, 1);
  }
  return top;
}

ml_token lb_push_token(lua_State *L) {
  int at = lua_gettop(L);
  ml_token token = {.id = (int32_t)lb_integer_field(L, "id"), .index = lb_integer_field(L, "index"), .logprob = NAN};
  lua_getfield(L, at, "text");
  token.text = lua_tolstring(L, -1, &token.text_bytes);
  if (lua_getfield(L, at, "logprob") != LUA_TNIL) token.logprob = lua_tonumber(L, -1);
  if (lua_getfield(L, at, "top_logprobs") == LUA_TTABLE) token.top_logprobs = push_top(L, &token.n_top_logprobs);
  return token;
}

ml_finish lb_finish_field(lua_State *L) {
  ml_finish finish = ML_FINISH_NONE;
  lua_getfield(L, -1, "finish_reason");
  for (int i = 0; i < FINISH_COUNT; i++) {
    if (lua_isstring(L, -1) && strcmp(lua_tostring(L, -1), finish_names[i]) == 0) finish = (ml_finish)i;
  }
  lua_pop(L, 1);
  return finish;
}

ml_status lb_begin_metrics(ml_metrics *out) {
  if (!out) return ML_OK;
  ML_TRY(lb_check_struct(out, "ml_metrics"));
  lb_write_struct(out, &(ml_metrics){0}, sizeof *out);
  return ML_OK;
}

void lb_read_metrics(lua_State *L, ml_metrics *m) {
  m->finish_reason = lb_finish_field(L);
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
}

static void close_generation(lua_State *L, int generation) {
  lua_getfield(L, generation, "close");
  lua_pushvalue(L, generation);
  lua_call(L, 1, 0);
}

void lb_generate(lua_State *L, lb_generation *g) {
  int generation = lua_gettop(L), outcome;
  for (;;) {
    lua_settop(L, generation);
    lua_pushvalue(L, generation);
    outcome = lua_pcall(L, 0, 1, 0);
    if (outcome != LUA_OK || lua_isnil(L, -1)) break;
    if (!g->callback) continue;
    ml_token token = lb_push_token(L);
    if (!g->callback(g->context, &token)) close_generation(L, generation); /* the next call says what came of it */
  }
  lua_getfield(L, generation, "metrics");
  lb_read_metrics(L, &g->metrics);
  lua_pop(L, 1);
  if (outcome == LUA_OK || g->metrics.finish_reason == ML_FINISH_CANCELLED) return;
  g->metrics.finish_reason = ML_FINISH_ERROR;
  lua_error(L);
}

ml_status lb_call_generation(lb_generation *g, lua_CFunction body, const ml_generate_options *options,
                             ml_metrics *out) {
  ML_TRY(lb_begin_metrics(out));
  ml_engine *engine = g->model ? g->model->engine : g->session->engine;
  ml_status status = lb_read_struct(&g->options, sizeof g->options, options, "ml_generate_options");
  ml_prompt prompt = lb_prompt_of(&g->options);
  bool named = prompt.text || prompt.ids || prompt.messages;
  if (status == ML_OK && g->text && named)
    status = ml_fail(ML_USAGE, "ml_session_send: expected options without prompt, ids and messages");
  if (status == ML_OK && !g->text) status = lb_check_prompt(&prompt, "ml_generate_options", "prompt");
  if (status == ML_OK) status = lb_check_options(&g->options, g->text || prompt.messages);
  if (status == ML_OK) status = lb_call(engine, body, g);
  if (status == ML_CANCELLED) { /* before the first token was asked for */
    g->metrics.finish_reason = ML_FINISH_CANCELLED;
    status = ML_OK;
    ml_error_clear();
  }
  if (out) lb_write_struct(out, &g->metrics, sizeof g->metrics);
  return status;
}

/* ---- ml_generate ---- */

static int generate(lua_State *L) {
  lb_generation *g = lua_touserdata(L, 1);
  ml_prompt prompt = lb_prompt_of(&g->options);
  lua_rawgetp(L, LUA_REGISTRYINDEX, g->model); /* keeps the handle, should a callback close it */
  lb_push_method(L, g->model, prompt.messages ? "chat" : "generate");
  lb_push_prompt(L, &prompt);
  lb_push_options(L, &g->options);
  lua_call(L, 3, 1);
  lb_generate(L, g);
  return 0;
}

ml_status ml_generate(ml_model *model, const ml_generate_options *options, ml_token_callback callback, void *context,
                      ml_metrics *metrics) {
  if (!model) return ml_fail(ML_USAGE, "ml_generate: model is NULL");
  lb_generation g = {.model = model, .callback = callback, .context = context};
  return lb_call_generation(&g, generate, options, metrics);
}
