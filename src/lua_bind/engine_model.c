/* engine_model.c: the C API's models: loading, what they are, text to ids and back. */
#include "lua_bind/api.h"

#include <string.h>

/* ---- loading ---- */

typedef struct load_call {
  ml_engine *engine;
  const char *path;
  ml_load_options options;
  ml_model *model; /* the result */
} load_call;

/* progress(fraction), with the call as upvalue */
static int report_progress(lua_State *L) {
  const load_call *c = lua_touserdata(L, lua_upvalueindex(1));
  if (c->options.progress(c->options.progress_context, lua_tonumber(L, 1))) return 0;
  ml_fail(ML_CANCELLED, "%s: loading was cancelled", c->path ? c->path : c->options.share);
  lb_raise(L, ML_CANCELLED);
}

static void push_load_options(lua_State *L, load_call *c) {
  const ml_load_options *o = &c->options;
  lua_createtable(L, 0, 8);
  lb_set_text(L, "precision", o->precision);
  lb_set_integer(L, "max_context", o->max_context);
  lb_set_integer(L, "threads", o->threads);
  lb_set_flag(L, "strict", o->strict);
  lb_set_text(L, "family", o->family);
  lb_set_integer(L, "random", o->random);
  lb_set_text(L, "share", o->share);
  if (o->progress) {
    lua_pushlightuserdata(L, c);
    lua_pushcclosure(L, report_progress, 1);
    lua_setfield(L, -2, "progress");
  }
}

void lb_push_module(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, "moonlet");
  lua_remove(L, -2);
}

void lb_must(lua_State *L, int first) {
  if (!lua_isnil(L, first)) return;
  lua_createtable(L, 0, 2);
  lua_pushvalue(L, first + 1);
  lua_setfield(L, -2, "message");
  lua_pushvalue(L, first + 2);
  lua_setfield(L, -2, "code");
  lua_error(L);
}

static int load(lua_State *L) {
  load_call *c = lua_touserdata(L, 1);
  ml_model *model = lua_newuserdatauv(L, sizeof *model, 1); /* index 2 */
  *model = (ml_model){.engine = c->engine};
  lb_push_module(L);
  lua_getfield(L, -1, "load");
  lua_pushstring(L, c->path);
  push_load_options(L, c);
  lua_call(L, 2, 3);
  lb_must(L, lua_gettop(L) - 2);
  lua_pop(L, 2);
  lua_setiuservalue(L, 2, 1);
  lua_settop(L, 2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, model);
  c->model = model;
  return 0;
}

ml_status ml_model_load(ml_engine *engine, const char *path, const ml_load_options *options, ml_model **out) {
  if (!engine || !out) return ml_fail(ML_USAGE, "ml_model_load: engine, path or out is NULL");
  *out = NULL;
  load_call c = {.engine = engine, .path = path};
  ML_TRY(lb_read_struct(&c.options, sizeof c.options, options, "ml_load_options"));
  if (!path && !c.options.share) return ml_fail(ML_USAGE, "ml_model_load: engine, path or out is NULL");
  ML_TRY(lb_call(engine, load, &c));
  *out = c.model;
  return ML_OK;
}

void lb_push_model(lua_State *L, ml_model *model) {
  if (model->closed) lb_usage(L, "the model is closed");
  lua_rawgetp(L, LUA_REGISTRYINDEX, model);
  lua_getiuservalue(L, -1, 1);
  lua_remove(L, -2);
}

void lb_push_method(lua_State *L, ml_model *model, const char *name) {
  lb_push_model(L, model);
  lua_getfield(L, -1, name);
  lua_insert(L, -2);
}

/* Lets go of the model first: if closing it should fail, the collector frees it. */
static int close_model(lua_State *L) {
  ml_model *model = lua_touserdata(L, 1);
  if (model->closed) return 0;
  lb_push_model(L, model);
  model->closed = true;
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, model);
  lua_getfield(L, -1, "close");
  lua_insert(L, -2);
  lua_call(L, 1, 0);
  lua_gc(L, LUA_GCCOLLECT);
  return 0;
}

void ml_model_close(ml_model *model) {
  if (model) lb_call(model->engine, close_model, model);
}

/* ---- other engines ---- */

typedef struct share_call {
  ml_model *model;
  const char *token;
} share_call;

/* The token stays the model's. */
static int share(lua_State *L) {
  share_call *c = lua_touserdata(L, 1);
  lb_push_method(L, c->model, "share");
  lua_call(L, 1, 1);
  c->token = lua_tostring(L, -1);
  return 0;
}

ml_status ml_model_share(ml_model *model, const char **token) {
  if (!model || !token) return ml_fail(ML_USAGE, "ml_model_share: %s is NULL", model ? "token" : "model");
  *token = NULL;
  share_call c = {.model = model};
  ML_TRY(lb_call(model->engine, share, &c));
  *token = c.token;
  return ML_OK;
}

/* ---- what it is ---- */

typedef struct describe_call {
  ml_model *model;
  ml_model_info info;
} describe_call;

/* The warnings in one text, which the table at the top keeps too. */
static const char *joined_warnings(lua_State *L) {
  luaL_Buffer b;
  int info = lua_gettop(L);
  lua_getfield(L, info, "warnings");
  luaL_buffinit(L, &b);
  lua_Integer n = lua_istable(L, info + 1) ? luaL_len(L, info + 1) : 0;
  for (lua_Integer i = 1; i <= n; i++) {
    if (i > 1) luaL_addchar(&b, '\n');
    lua_geti(L, info + 1, i);
    luaL_addvalue(&b);
  }
  luaL_pushresult(&b);
  lua_setfield(L, info, "joined_warnings");
  lua_settop(L, info);
  return lb_text_field(L, "joined_warnings");
}

static int describe(lua_State *L) {
  describe_call *c = lua_touserdata(L, 1);
  lb_push_model(L, c->model);
  lua_getfield(L, -1, "tokenizer");
  c->info.has_tokenizer = !lua_isnil(L, -1);
  lua_getfield(L, -2, "info");
  c->info.model_type = lb_text_field(L, "model_type");
  c->info.family = lb_text_field(L, "family");
  c->info.warnings = joined_warnings(L);
  c->info.layers = lb_integer_field(L, "layers");
  c->info.hidden_size = lb_integer_field(L, "hidden_size");
  c->info.vocab_size = lb_integer_field(L, "vocab_size");
  c->info.parameters = lb_integer_field(L, "parameters");
  c->info.context = lb_integer_field(L, "context");
  c->info.weight_bytes = (size_t)lb_integer_field(L, "bytes");
  c->info.quantization = lua_getfield(L, -1, "quantization") == LUA_TTABLE ? lb_text_field(L, "format") : "";
  return 0;
}

ml_status ml_model_describe(ml_model *model, ml_model_info *out) {
  if (!model || !out) return ml_fail(ML_USAGE, "ml_model_describe: %s is NULL", model ? "out" : "model");
  ML_TRY(lb_check_struct(out, "ml_model_info"));
  describe_call c = {.model = model};
  ML_TRY(lb_call(model->engine, describe, &c));
  lb_write_struct(out, &c.info, sizeof c.info);
  return ML_OK;
}

/* ---- text ---- */

typedef struct text_call {
  ml_model *model;
  const char *bytes;  /* to encode */
  char *text;         /* decoded */
  int32_t *made;      /* ids, encoded */
  const int32_t *ids; /* to decode */
  size_t length, capacity;
  unsigned flags;
  size_t count; /* of the whole result */
} text_call;

/* Pushes a method of the model's tokenizer and the tokenizer. */
static void push_tokenizer_method(lua_State *L, ml_model *model, const char *name) {
  lb_push_model(L, model);
  if (lua_getfield(L, -1, "tokenizer") == LUA_TNIL) {
    ml_fail(ML_NOT_FOUND, "the model has no tokenizer");
    lb_raise(L, ML_NOT_FOUND);
  }
  lua_getfield(L, -1, name);
  lua_insert(L, -2);
}

static void set_false(lua_State *L, const char *name) {
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, name);
}

static int encode(lua_State *L) {
  text_call *c = lua_touserdata(L, 1);
  push_tokenizer_method(L, c->model, "encode");
  lua_pushlstring(L, c->bytes, c->length);
  lua_createtable(L, 0, 2);
  if (c->flags & ML_NO_SPECIAL_TOKENS) set_false(L, "add_special_tokens");
  if (c->flags & ML_NO_PARSE_SPECIAL) set_false(L, "parse_special");
  lua_call(L, 3, 1);
  c->count = lb_read_ids(L, c->made, c->capacity);
  return 0;
}

ml_status ml_tokenize(ml_model *model, const char *text, size_t length, unsigned flags, int32_t *ids, size_t capacity,
                      size_t *count) {
  if (!model || (!text && length) || (!ids && capacity) || !count)
    return ml_fail(ML_USAGE, "ml_tokenize: model, text, ids or count is NULL");
  *count = 0;
  if (flags & ~(unsigned)(ML_NO_SPECIAL_TOKENS | ML_NO_PARSE_SPECIAL))
    return ml_fail(ML_USAGE, "ml_tokenize: unknown flags %#x", flags);
  text_call c = {
      .model = model, .bytes = text ? text : "", .length = length, .flags = flags, .made = ids, .capacity = capacity};
  ML_TRY(lb_call(model->engine, encode, &c));
  *count = c.count;
  return ML_OK;
}

static int decode(lua_State *L) {
  text_call *c = lua_touserdata(L, 1);
  push_tokenizer_method(L, c->model, "decode");
  lb_push_ids(L, c->ids, c->length);
  lua_createtable(L, 0, 1);
  lb_set_flag(L, "skip_special_tokens", c->flags & ML_SKIP_SPECIAL_TOKENS);
  lua_call(L, 3, 1);
  const char *text = luaL_checklstring(L, -1, &c->count);
  if (c->capacity) {
    size_t n = c->count < c->capacity ? c->count : c->capacity - 1;
    memcpy(c->text, text, n);
    c->text[n] = '\0';
  }
  return 0;
}

ml_status ml_detokenize(ml_model *model, const int32_t *ids, size_t count, unsigned flags, char *text, size_t capacity,
                        size_t *length) {
  if (!model || (!ids && count) || (!text && capacity) || !length)
    return ml_fail(ML_USAGE, "ml_detokenize: model, ids, text or length is NULL");
  *length = 0;
  if (flags & ~(unsigned)ML_SKIP_SPECIAL_TOKENS) return ml_fail(ML_USAGE, "ml_detokenize: unknown flags %#x", flags);
  text_call c = {.model = model, .ids = ids, .length = count, .flags = flags, .text = text, .capacity = capacity};
  ML_TRY(lb_call(model->engine, decode, &c));
  *length = c.count;
  return ML_OK;
}
