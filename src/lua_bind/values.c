/* values.c: facts about values that the host wants without making tensors for them: the largest entries, single
 * entries, digests, where a function comes from and what its parameters are called. */
#include "tensor/values.h"
#include "io/file.h"
#include "lua_bind/lua_bind.h"

static void push_entries(lua_State *L, const ml_ranked *best, int64_t n) {
  lua_createtable(L, (int)n, 0);
  lua_createtable(L, (int)n, 0);
  for (int64_t i = 0; i < n; i++) {
    lua_pushinteger(L, best[i].index);
    lua_rawseti(L, -3, i + 1);
    lua_pushnumber(L, best[i].value);
    lua_rawseti(L, -2, i + 1);
  }
}

/* top(x, row, n, id): 0-based indices of the n largest values of a row of x, from 1 (all, where it has fewer), and
 * those values, best first, and the value at id. x is float32 with dense storage; nothing is recorded. */
static int top(lua_State *L) {
  ml_tensor *x = lb_check_tensor(L, 1, "top");
  const int64_t row = lb_check_integer(L, 2, "row"), id = lb_check_integer(L, 4, "id"),
                size = x->ndim ? x->shape[x->ndim - 1] : 1;
  int64_t n = lb_check_integer(L, 3, "n");
  if (n < 0) lb_usage(L, "top: expected 0 or more entries, found %lld", (long long)n);
  if (n > size) n = size;
  if (x->state) lb_eval(L, &x, 1);
  ml_ranked *best = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *best, 0);
  float own;
  lb_check(L, ml_fail_prefix(ml_tensor_top(x, row - 1, n, id, best, &own), "top"));
  push_entries(L, best, n);
  lua_pushnumber(L, own);
  return 3;
}

/* read_int(x, i): the i-th value, from 1, of a dense int32 tensor with storage. */
static int read_int(lua_State *L) {
  ml_tensor *x = lb_check_tensor(L, 1, "read_int");
  int64_t i = lb_check_integer(L, 2, "read_int: position");
  if (x->state) lb_eval(L, &x, 1);
  int32_t value;
  lb_check(L, ml_fail_prefix(ml_tensor_int_at(x, i - 1, &value), "read_int"));
  lua_pushinteger(L, value);
  return 1;
}

/* hash(bytes [, seed]): 64-bit FNV-1a, to tell files apart that nobody forged. */
static int hash(lua_State *L) {
  size_t size;
  const char *bytes = lb_check_text(L, 1, "hash", &size);
  uint64_t seed = lua_isnoneornil(L, 2) ? ML_DIGEST_SEED : (uint64_t)lb_check_integer(L, 2, "seed");
  lua_pushinteger(L, (lua_Integer)ml_digest(bytes, size, seed));
  return 1;
}

/* is_dtype(name): whether a dtype has this name. */
static int is_dtype(lua_State *L) {
  ml_dtype found;
  lua_pushboolean(L, ml_dtype_find(lb_check_text(L, 1, "is_dtype", NULL), &found));
  return 1;
}

/* source(fn): the file of a Lua function as messages name it, nil of a C function. A host's state need not have the
 * debug library. */
static int source(lua_State *L) {
  lua_Debug info;
  if (!lua_isfunction(L, 1)) lb_unexpected(L, 1, "source", "a function");
  lua_pushvalue(L, 1);
  lua_getinfo(L, ">S", &info);
  if (*info.what == 'C') lua_pushnil(L);
  else lua_pushstring(L, info.short_src);
  return 1;
}

/* parameters(fn): names of a Lua function's parameters in order; nil where it takes `...`, and of a C function. */
static int parameters(lua_State *L) {
  lua_Debug info;
  if (!lua_isfunction(L, 1)) lb_unexpected(L, 1, "parameters", "a function");
  lua_settop(L, 1);
  lua_pushvalue(L, 1);
  lua_getinfo(L, ">u", &info);
  if (info.isvararg) return 0;
  lua_createtable(L, info.nparams, 0);
  lua_insert(L, 1); /* the function stays at the top, where lua_getlocal looks */
  for (int i = 1; i <= info.nparams; i++) {
    const char *name = lua_getlocal(L, NULL, i);
    lua_pushstring(L, name ? name : "?");
    lua_rawseti(L, 1, i);
  }
  lua_settop(L, 1);
  return 1;
}

int lb_open_values(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"is_dtype", is_dtype},     {"top", top}, {"read_int", read_int}, {"hash", hash}, {"source", source},
      {"parameters", parameters}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
