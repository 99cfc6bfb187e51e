/* engine_session.c: the C API's sessions, each a session of Lua. */
#include "lua_bind/api.h"

/* ---- handles ---- */

/* Pushes the session of Lua. */
static void push_session(lua_State *L, ml_session *session) {
  if (session->closed) lb_usage(L, "the session is closed");
  lua_rawgetp(L, LUA_REGISTRYINDEX, session);
  lua_getiuservalue(L, -1, 1);
  lua_remove(L, -2);
  lua_getfield(L, -1, "model");
  if (lua_getfield(L, -1, "net") == LUA_TNIL) lb_usage(L, "the model is closed");
  lua_pop(L, 2);
}

static void push_session_method(lua_State *L, ml_session *session, const char *name) {
  push_session(L, session);
  lua_getfield(L, -1, name);
  lua_insert(L, -2);
}

/* Pushes a handle that holds nothing yet. */
static ml_session *push_handle(lua_State *L, ml_engine *engine) {
  ml_session *session = lua_newuserdatauv(L, sizeof *session, 1);
  *session = (ml_session){.engine = engine};
  return session;
}

/* The handle at `index`, and the session of Lua at the top, which it holds from now on. */
static void keep_handle(lua_State *L, int index) {
  lua_setiuservalue(L, index, 1);
  lua_pushvalue(L, index);
  lua_rawsetp(L, LUA_REGISTRYINDEX, lua_touserdata(L, index));
}

/* ---- opening and closing ---- */

typedef struct open_call {
  ml_model *model;
  ml_session_options options;
  ml_session *session; /* the result */
} open_call;

static void push_session_options(lua_State *L, const ml_session_options *o) {
  lua_createtable(L, 0, 8);
  lb_set_text(L, "system", o->system);
  if (o->messages) {
    lb_push_messages(L, o->messages, o->n_messages);
    lua_setfield(L, -2, "messages");
  }
  lb_set_flag(L, "forget", o->forget);
  lb_set_text(L, "template", o->chat_template);
  lb_set_text(L, "now", o->now);
  lb_set_json(L, "tools", o->tools);
  lb_set_json(L, "documents", o->documents);
  lb_set_json(L, "template_vars", o->template_vars);
}

static int open_session(lua_State *L) {
  open_call *c = lua_touserdata(L, 1);
  ml_session *session = push_handle(L, c->model->engine); /* index 2 */
  lb_push_method(L, c->model, "session");
  push_session_options(L, &c->options);
  lua_call(L, 2, 1);
  keep_handle(L, 2);
  c->session = session;
  return 0;
}

ml_status ml_session_open(ml_model *model, const ml_session_options *options, ml_session **out) {
  if (!model || !out) return ml_fail(ML_USAGE, "ml_session_open: %s is NULL", model ? "out" : "model");
  *out = NULL;
  open_call c = {.model = model};
  ML_TRY(lb_read_struct(&c.options, sizeof c.options, options, "ml_session_options"));
  if (c.options.n_messages && !c.options.messages)
    return ml_fail(ML_USAGE, "messages: NULL, but n_messages is %zu", c.options.n_messages);
  ML_TRY(lb_call(model->engine, open_session, &c));
  *out = c.session;
  return ML_OK;
}

/* Lets go of the session first: if closing it should fail, the collector frees it. */
static int close_session(lua_State *L) {
  ml_session *session = lua_touserdata(L, 1);
  if (session->closed) return 0;
  lua_rawgetp(L, LUA_REGISTRYINDEX, session); /* keeps the handle */
  lua_getiuservalue(L, -1, 1);
  session->closed = true;
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, session);
  lua_getfield(L, -1, "close");
  lua_insert(L, -2);
  lua_call(L, 1, 0);
  return 0;
}

void ml_session_close(ml_session *session) {
  if (session) lb_call(session->engine, close_session, session);
}

/* ---- answers ---- */

static int send_turn(lua_State *L) {
  lb_generation *g = lua_touserdata(L, 1);
  lua_rawgetp(L, LUA_REGISTRYINDEX, g->session); /* keeps the handle, should a callback close it */
  push_session_method(L, g->session, "send");
  lua_pushstring(L, g->text);
  lb_push_options(L, &g->options);
  lua_call(L, 3, 1);
  lb_generate(L, g);
  return 0;
}

ml_status ml_session_send(ml_session *session, const char *text, const ml_generate_options *options,
                          ml_token_callback callback, void *context, ml_metrics *metrics) {
  if (!session || !text) return ml_fail(ML_USAGE, "ml_session_send: %s is NULL", session ? "text" : "session");
  lb_generation g = {.session = session, .text = text, .callback = callback, .context = context};
  return lb_call_generation(&g, send_turn, options, metrics);
}

static int go_on(lua_State *L) {
  lb_generation *g = lua_touserdata(L, 1);
  ml_prompt prompt = lb_prompt_of(&g->options);
  if (prompt.messages) lb_usage(L, "ml_session_generate: expected prompt or ids, found messages");
  lua_rawgetp(L, LUA_REGISTRYINDEX, g->session);
  push_session_method(L, g->session, "generate");
  lb_push_prompt(L, &prompt);
  lb_push_options(L, &g->options);
  lua_call(L, 3, 1);
  lb_generate(L, g);
  return 0;
}

ml_status ml_session_generate(ml_session *session, const ml_generate_options *options, ml_token_callback callback,
                              void *context, ml_metrics *metrics) {
  if (!session) return ml_fail(ML_USAGE, "ml_session_generate: session is NULL");
  lb_generation g = {.session = session, .callback = callback, .context = context};
  return lb_call_generation(&g, go_on, options, metrics);
}

/* ---- what else is done with one ---- */

typedef struct session_call {
  ml_session *session, *forked;
  int64_t tokens;
  const char *path;
  ml_session_info info;
  int32_t *ids;
  size_t capacity, count, index;
  ml_message message;
} session_call;

static int fork_session(lua_State *L) {
  session_call *c = lua_touserdata(L, 1);
  ml_session *forked = push_handle(L, c->session->engine); /* index 2 */
  push_session_method(L, c->session, "fork");
  lua_call(L, 1, 1);
  keep_handle(L, 2);
  c->forked = forked;
  return 0;
}

ml_status ml_session_fork(ml_session *session, ml_session **out) {
  if (!session || !out) return ml_fail(ML_USAGE, "ml_session_fork: %s is NULL", session ? "out" : "session");
  *out = NULL;
  session_call c = {.session = session};
  ML_TRY(lb_call(session->engine, fork_session, &c));
  *out = c.forked;
  return ML_OK;
}

static int trim_session(lua_State *L) {
  session_call *c = lua_touserdata(L, 1);
  push_session_method(L, c->session, "trim");
  lua_pushinteger(L, c->tokens);
  lua_call(L, 2, 0);
  return 0;
}

ml_status ml_session_trim(ml_session *session, int64_t tokens) {
  if (!session) return ml_fail(ML_USAGE, "ml_session_trim: session is NULL");
  session_call c = {.session = session, .tokens = tokens};
  return lb_call(session->engine, trim_session, &c);
}

static int undo_turn(lua_State *L) {
  session_call *c = lua_touserdata(L, 1);
  push_session_method(L, c->session, "undo");
  lua_call(L, 1, 1);
  if (!lua_isnil(L, -1)) return 0;
  ml_fail(ML_NOT_FOUND, "ml_session_undo: the conversation has no turn");
  lb_raise(L, ML_NOT_FOUND);
}

ml_status ml_session_undo(ml_session *session) {
  if (!session) return ml_fail(ML_USAGE, "ml_session_undo: session is NULL");
  session_call c = {.session = session};
  return lb_call(session->engine, undo_turn, &c);
}

/* Calls a method of (path), which gives true, or nil, message, code. */
static int with_path(lua_State *L, const char *name) {
  session_call *c = lua_touserdata(L, 1);
  push_session_method(L, c->session, name);
  lua_pushstring(L, c->path);
  lua_call(L, 2, 3);
  lb_must(L, lua_gettop(L) - 2);
  return 0;
}

static int save_session(lua_State *L) { return with_path(L, "save"); }
static int load_session(lua_State *L) { return with_path(L, "load"); }

ml_status ml_session_save(ml_session *session, const char *path) {
  if (!session || !path) return ml_fail(ML_USAGE, "ml_session_save: %s is NULL", session ? "path" : "session");
  session_call c = {.session = session, .path = path};
  return lb_call(session->engine, save_session, &c);
}

ml_status ml_session_load(ml_session *session, const char *path) {
  if (!session || !path) return ml_fail(ML_USAGE, "ml_session_load: %s is NULL", session ? "path" : "session");
  session_call c = {.session = session, .path = path};
  return lb_call(session->engine, load_session, &c);
}

/* ---- what it is ---- */

static int describe_session(lua_State *L) {
  session_call *c = lua_touserdata(L, 1);
  push_session(L, c->session);
  c->info.length = lb_integer_field(L, "length");
  c->info.forgotten = lb_integer_field(L, "forgotten");
  lua_getfield(L, -1, "messages");
  c->info.n_messages = (size_t)luaL_len(L, -1);
  return 0;
}

ml_status ml_session_describe(ml_session *session, ml_session_info *out) {
  if (!session || !out) return ml_fail(ML_USAGE, "ml_session_describe: %s is NULL", session ? "out" : "session");
  ML_TRY(lb_check_struct(out, "ml_session_info"));
  session_call c = {.session = session};
  ML_TRY(lb_call(session->engine, describe_session, &c));
  lb_write_struct(out, &c.info, sizeof c.info);
  return ML_OK;
}

static int read_tokens(lua_State *L) {
  session_call *c = lua_touserdata(L, 1);
  push_session(L, c->session);
  lua_getfield(L, -1, "tokens");
  c->count = lb_read_ids(L, c->ids, c->capacity);
  return 0;
}

ml_status ml_session_tokens(ml_session *session, int32_t *ids, size_t capacity, size_t *count) {
  if (!session || (!ids && capacity) || !count)
    return ml_fail(ML_USAGE, "ml_session_tokens: session, ids or count is NULL");
  *count = 0;
  session_call c = {.session = session, .ids = ids, .capacity = capacity};
  ML_TRY(lb_call(session->engine, read_tokens, &c));
  *count = c.count;
  return ML_OK;
}

static int read_message(lua_State *L) {
  session_call *c = lua_touserdata(L, 1);
  push_session(L, c->session);
  lua_getfield(L, -1, "messages");
  size_t n = (size_t)luaL_len(L, -1);
  if (c->index >= n)
    lb_usage(L, "ml_session_message: index %zu: the conversation has %zu message%s", c->index, n, n == 1 ? "" : "s");
  lua_rawgeti(L, -1, (lua_Integer)c->index + 1); /* the conversation keeps the texts */
  c->message = (ml_message){lb_text_field(L, "role"), lb_text_field(L, "content")};
  return 0;
}

ml_status ml_session_message(ml_session *session, size_t index, ml_message *out) {
  if (!session || !out) return ml_fail(ML_USAGE, "ml_session_message: %s is NULL", session ? "out" : "session");
  *out = (ml_message){"", ""};
  session_call c = {.session = session, .index = index};
  ML_TRY(lb_call(session->engine, read_message, &c));
  *out = c.message;
  return ML_OK;
}
