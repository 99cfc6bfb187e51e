/* values.c: facts about values that the host wants without making tensors for them: the largest entries, digests, where
 * a function comes from and what its parameters are called. */
#include "lua_bind/lua_bind.h"

typedef struct entry {
  int64_t index;
  float value;
} entry;

/* The n largest of `values`, best first, equal ones in order of index. */
static void largest(const float *values, int64_t size, entry *best, int64_t n) {
  int64_t have = 0;
  for (int64_t i = 0; i < size; i++) {
    if (n == 0 || (have == n && !(values[i] > best[n - 1].value))) continue;
    int64_t at = have < n ? have++ : n - 1;
    for (; at > 0 && values[i] > best[at - 1].value; at--) best[at] = best[at - 1];
    best[at] = (entry){i, values[i]};
  }
}

static void push_entries(lua_State *L, const entry *best, int64_t n) {
  lua_createtable(L, (int)n, 0);
  lua_createtable(L, (int)n, 0);
  for (int64_t i = 0; i < n; i++) {
    lua_pushinteger(L, best[i].index);
    lua_rawseti(L, -3, i + 1);
    lua_pushnumber(L, best[i].value);
    lua_rawseti(L, -2, i + 1);
  }
}

/* top(x, n, id): 0-based indices of the n largest values of x and those values, best first, and the value at id. x is
 * float32 with dense storage; nothing is recorded. */
static int top(lua_State *L) {
  ml_tensor *x = lb_check_tensor(L, 1, "top");
  int64_t n = lb_check_integer(L, 2, "n"), id = lb_check_integer(L, 3, "id"), size = ml_tensor_size(x);
  if (!x->buffer || x->dtype != ML_F32 || !ml_tensor_is_dense(x))
    lb_usage(L, "top: expected a float32 tensor with dense storage");
  if (x->state) lb_eval(L, &x, 1);
  if (n < 0) lb_usage(L, "top: expected 0 or more entries, found %lld", (long long)n);
  if (id < 0 || id >= size)
    lb_usage(L, "top: index %lld is out of range for size %lld", (long long)id, (long long)size);
  if (n > size) n = size;
  entry *best = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *best, 0);
  float *values = ml_alloc(ml_tensor_nbytes(x));
  ml_status status =
      values ? x->device->table->download(x->device, values, ml_tensor_data(x), ml_tensor_nbytes(x)) : ML_MEMORY;
  float own = status == ML_OK ? values[id] : 0;
  if (status == ML_OK) largest(values, size, best, n);
  ml_free(values);
  lb_check(L, status);
  push_entries(L, best, n);
  lua_pushnumber(L, own);
  return 3;
}

/* hash(bytes [, seed]): 64-bit FNV-1a, to tell files apart that nobody forged. */
static int hash(lua_State *L) {
  size_t size;
  const char *bytes = lb_check_text(L, 1, "hash", &size);
  uint64_t h = lua_isnoneornil(L, 2) ? UINT64_C(0xcbf29ce484222325) : (uint64_t)lb_check_integer(L, 2, "seed");
  for (size_t i = 0; i < size; i++) h = (h ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3);
  lua_pushinteger(L, (lua_Integer)h);
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
      {"top", top}, {"hash", hash}, {"source", source}, {"parameters", parameters}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
