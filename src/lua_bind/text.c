/* text.c: tokenizers and streaming detokenisers as handles. */
#include "lua_bind/files.h"
#include "lua_bind/lua_bind.h"
#include "text/tokenizer.h"

#include <string.h>

#define LB_TOKENIZER "moonlet.Tokenizer"
#define LB_STREAM "moonlet.Stream"
#define LB_SCRATCH "moonlet.text.scratch"

/* Growing results belong to a handle, so that an error on the way frees them. */
typedef struct scratch {
  ml_ids ids;
  ml_text text;
} scratch;

static int scratch_gc(lua_State *L) {
  scratch *s = lb_check_handle(L, 1, LB_SCRATCH);
  ml_ids_free(&s->ids);
  ml_text_free(&s->text);
  *s = (scratch){0};
  return 0;
}

static scratch *new_scratch(lua_State *L) {
  scratch *s = lua_newuserdatauv(L, sizeof *s, 0);
  *s = (scratch){0};
  luaL_setmetatable(L, LB_SCRATCH);
  return s;
}

static int tokenizer_close(lua_State *L) {
  ml_tokenizer **box = lb_check_handle(L, 1, LB_TOKENIZER);
  ml_tokenizer_close(*box);
  *box = NULL;
  return 0;
}

static ml_tokenizer *check_tokenizer(lua_State *L, int index) {
  ml_tokenizer **box = lb_check_handle(L, index, LB_TOKENIZER);
  if (!*box) lb_usage(L, "the tokenizer is closed");
  return *box;
}

static ml_tokenizer **new_tokenizer(lua_State *L) {
  ml_tokenizer **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, LB_TOKENIZER);
  return box;
}

/* tokenizer_from_json(path, config_path, special_tokens_map_path, added_tokens_path, each but the first may be nil)
 * -> tokenizer | nil, message, code */
static int from_json(lua_State *L) {
  enum { FILES = 4 };
  const char *paths[FILES];
  ml_json_doc *docs[FILES] = {NULL};
  for (int i = 0; i < FILES; i++) {
    paths[i] = i > 0 && lua_isnoneornil(L, i + 1) ? NULL : lb_check_path(L, i + 1, "tokenizer");
  }
  ml_tokenizer **box = new_tokenizer(L);
  ml_status status = ml_json_load(paths[0], &docs[0]);
  for (int i = 1; status == ML_OK && i < FILES; i++) {
    if (paths[i]) status = ml_json_load_config(paths[i], &docs[i]);
  }
  ml_tokenizer_docs all = {
      .tokenizer = docs[0], .config = docs[1], .special_tokens_map = docs[2], .added_tokens = docs[3]};
  if (status == ML_OK) status = ml_tokenizer_from_json(&all, box);
  for (int i = 0; i < FILES; i++) ml_json_close(docs[i]);
  return status == ML_OK ? 1 : lb_fail(L, status);
}

/* tokenizer_from_gguf(file) */
static int from_gguf(lua_State *L) {
  const ml_gguf *g = lb_check_gguf(L, 1);
  if (!g) lb_usage(L, "tokenizer_from_gguf: expected an open GGUF file");
  ml_tokenizer **box = new_tokenizer(L);
  ml_status status = ml_tokenizer_from_gguf(g, box);
  return status == ML_OK ? 1 : lb_fail(L, status);
}

static bool flag(lua_State *L, int index, const char *name, bool fallback) {
  if (lua_isnoneornil(L, index)) return fallback;
  bool on = lua_getfield(L, index, name) == LUA_TNIL ? fallback : lua_toboolean(L, -1);
  lua_pop(L, 1);
  return on;
}

static void check_options(lua_State *L, int index, const char *what, const char *const *known) {
  if (lua_isnoneornil(L, index)) return;
  if (!lua_istable(L, index)) lb_unexpected(L, index, what, "a table of options");
  lua_pushnil(L);
  while (lua_next(L, index)) {
    const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
    int i = 0;
    while (known[i] && strcmp(known[i], key) != 0) i++;
    if (!known[i]) lb_usage(L, "%s: no option \"%s\"", what, key);
    lua_pop(L, 1);
  }
}

static int encode(lua_State *L) {
  static const char *const known[] = {"add_special_tokens", "parse_special", NULL};
  ml_tokenizer *t = check_tokenizer(L, 1);
  size_t size;
  const char *text = lb_check_text(L, 2, "encode: text", &size);
  check_options(L, 3, "encode", known);
  ml_encode_options options = {flag(L, 3, "add_special_tokens", true), flag(L, 3, "parse_special", true)};
  scratch *s = new_scratch(L);
  lb_check(L, ml_tokenizer_encode(t, text, size, options, &s->ids));
  lua_createtable(L, (int)s->ids.count, 0);
  for (size_t i = 0; i < s->ids.count; i++) {
    lua_pushinteger(L, s->ids.items[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  ml_ids_free(&s->ids);
  s->ids = (ml_ids){0};
  return 1;
}

/* An id beyond all vocabularies is as good as any other that this one has not. */
static int32_t check_id(lua_State *L, int index, const char *what) {
  int64_t id = lb_check_integer(L, index, what);
  if (id < 0) lb_usage(L, "%s: expected a token id from 0, found %lld", what, (long long)id);
  return id < INT32_MAX ? (int32_t)id : INT32_MAX;
}

static int decode(lua_State *L) {
  static const char *const known[] = {"skip_special_tokens", NULL};
  ml_tokenizer *t = check_tokenizer(L, 1);
  size_t n = (size_t)lb_length(L, 2, "decode: ids");
  check_options(L, 3, "decode", known);
  int32_t *ids = lua_newuserdatauv(L, (n + 1) * sizeof *ids, 0);
  for (size_t i = 0; i < n; i++) {
    lua_geti(L, 2, (lua_Integer)i + 1);
    ids[i] = check_id(L, -1, "decode: ids");
    lua_pop(L, 1);
  }
  scratch *s = new_scratch(L);
  lb_check(L, ml_tokenizer_decode(t, ids, n, flag(L, 3, "skip_special_tokens", false), &s->text));
  lua_pushlstring(L, s->text.bytes ? s->text.bytes : "", s->text.size);
  return 1;
}

static int piece_id(lua_State *L) {
  size_t size;
  const char *piece = lb_check_text(L, 2, "id: piece", &size);
  int32_t id = ml_tokenizer_id(check_tokenizer(L, 1), piece, size);
  if (id < 0) lua_pushnil(L);
  else lua_pushinteger(L, id);
  return 1;
}

static int piece_text(lua_State *L) {
  size_t size;
  const char *piece = ml_tokenizer_piece(check_tokenizer(L, 1), check_id(L, 2, "piece: id"), &size);
  if (piece) lua_pushlstring(L, piece, size);
  else lua_pushnil(L);
  return 1;
}

static int is_special(lua_State *L) {
  lua_pushboolean(L, ml_tokenizer_is_special(check_tokenizer(L, 1), check_id(L, 2, "is_special: id")));
  return 1;
}

static int special_ids(lua_State *L) {
  const ml_tokenizer *t = check_tokenizer(L, 1);
  lua_createtable(L, 32, 0);
  lua_Integer n = 0;
  for (int32_t id = 0; id < ml_tokenizer_vocab_size(t); id++) {
    if (!ml_tokenizer_is_special(t, id)) continue;
    lua_pushinteger(L, id);
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

/* facts() -> {vocab_size, bos_id, adds_bos, eos_ids} */
static int facts(lua_State *L) {
  const ml_tokenizer *t = check_tokenizer(L, 1);
  lua_createtable(L, 0, 4);
  lua_pushinteger(L, ml_tokenizer_vocab_size(t));
  lua_setfield(L, -2, "vocab_size");
  if (ml_tokenizer_bos(t) >= 0) {
    lua_pushinteger(L, ml_tokenizer_bos(t));
    lua_setfield(L, -2, "bos_id");
  }
  lua_pushboolean(L, ml_tokenizer_adds_bos(t));
  lua_setfield(L, -2, "adds_bos");
  size_t n;
  const int32_t *eos = ml_tokenizer_eos(t, &n);
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n; i++) {
    lua_pushinteger(L, eos[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "eos_ids");
  return 1;
}

/* ---- streams ---- */

static int stream_close(lua_State *L) {
  ml_stream **box = lb_check_handle(L, 1, LB_STREAM);
  ml_stream_close(*box);
  *box = NULL;
  return 0;
}

/* The tokenizer is kept alive as the stream's user value. */
static int open_stream(lua_State *L) {
  static const char *const known[] = {"skip_special_tokens", NULL};
  ml_tokenizer *t = check_tokenizer(L, 1);
  check_options(L, 2, "stream", known);
  bool skip = flag(L, 2, "skip_special_tokens", false);
  ml_stream **box = lua_newuserdatauv(L, sizeof *box, 1);
  *box = NULL;
  luaL_setmetatable(L, LB_STREAM);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  lb_check(L, ml_stream_open(t, skip, box));
  return 1;
}

static ml_stream *check_stream(lua_State *L) {
  ml_stream **box = lb_check_handle(L, 1, LB_STREAM);
  if (!*box) lb_usage(L, "the stream is closed");
  lua_getiuservalue(L, 1, 1);
  check_tokenizer(L, -1);
  return *box;
}

static int push_result(lua_State *L, ml_status status, scratch *s) {
  lb_check(L, status);
  lua_pushlstring(L, s->text.bytes ? s->text.bytes : "", s->text.size);
  ml_text_free(&s->text);
  s->text = (ml_text){0};
  return 1;
}

static int stream_push(lua_State *L) {
  ml_stream *stream = check_stream(L);
  int32_t id = check_id(L, 2, "push: id");
  scratch *s = new_scratch(L);
  return push_result(L, ml_stream_push(stream, id, &s->text), s);
}

static int stream_finish(lua_State *L) {
  ml_stream *stream = check_stream(L);
  scratch *s = new_scratch(L);
  return push_result(L, ml_stream_finish(stream, &s->text), s);
}

static void class(lua_State *L, const char *name, const luaL_Reg *methods) {
  luaL_newmetatable(L, name);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

int lb_open_text(lua_State *L) {
  static const luaL_Reg tokenizer[] = {
      {"encode", encode},        {"decode", decode},           {"stream", open_stream},
      {"id", piece_id},          {"piece", piece_text},        {"is_special", is_special},
      {"facts", facts},          {"special_ids", special_ids}, {"close", tokenizer_close},
      {"__gc", tokenizer_close}, {"__close", tokenizer_close}, {NULL, NULL}};
  static const luaL_Reg stream[] = {{"push", stream_push},  {"finish", stream_finish}, {"close", stream_close},
                                    {"__gc", stream_close}, {"__close", stream_close}, {NULL, NULL}};
  static const luaL_Reg scratches[] = {{"__gc", scratch_gc}, {NULL, NULL}};
  class(L, LB_TOKENIZER, tokenizer);
  class(L, LB_STREAM, stream);
  class(L, LB_SCRATCH, scratches);
  static const luaL_Reg functions[] = {
      {"tokenizer_from_json", from_json}, {"tokenizer_from_gguf", from_gguf}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
