/* test_lua_json.c: the binding of JSON under a Lua that runs out of memory, at each allocation in turn: no document and
 * no text may be left behind. */
#include "lua_bind/json.h"
#include "lua_bind/lua_bind.h"
#include "check.h"

#include <lauxlib.h>
#include <lualib.h>

static const char script[] =
    "local json = json\n"
    "local value = json.decode('{\"z\":[1,2.5,null,{\"k\":\"some text\"}],\"a\":{},\"b\":[]}')\n"
    "value.later = json.array {1}\n"
    "local text = json.encode(value, {indent = 1})\n"
    "for key in pairs(value) do text = text .. key end\n"
    "local none, message = json.decode('{\"a\":1,\"a\":2}')\n"
    "assert(not none and message)\n"
    "assert(not pcall(json.encode, {{{print}}}))\n"
    "return json.encode(json.array {text})";

/* Refuses all requests for more memory from the n-th on (Lua collects and asks again); -1: none. */
static void *failing(void *state, void *block, size_t old, size_t wanted) {
  long *n = state;
  if (wanted == 0) {
    free(block);
    return NULL;
  }
  if (wanted > old && *n == 0) return NULL;
  if (wanted > old && *n > 0) --*n;
  return realloc(block, wanted);
}

/* Runs the script; false when Lua was refused memory. */
static bool run_once(long refuse_at) {
  long n = -1;
  lua_State *L = lua_newstate(failing, &n);
  if (!L) exit(100);
  luaL_openlibs(L);
  lb_open_json(L);
  lua_setglobal(L, "json");
  if (luaL_loadstring(L, script) != LUA_OK) exit(100);
  n = refuse_at;
  int status = lua_pcall(L, 0, 1, 0);
  n = -1;
  if (status != LUA_OK && status != LUA_ERRMEM) CHECK(0, "at request %ld: %s", refuse_at, lua_tostring(L, -1));
  lua_close(L);
  return status != LUA_ERRMEM;
}

static void test_lua_refusals(void) {
  CHECK(run_once(-1), "the script runs");
  size_t before = check_heap_bytes();
  long n = 0;
  while (!run_once(n)) n++;
  CHECK(n > 50, "Lua was refused memory at each of %ld requests", n);
  CHECK(check_heap_bytes() <= before, "no document or text is left behind");
}

static void test_core_refusals(void) {
  size_t before = check_heap_bytes();
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  lb_open_errors(L); /* what json raises are error objects */
  lua_setglobal(L, "errors");
  lb_open_json(L);
  lua_setglobal(L, "json");
  int refused = 0;
  for (long n = 0; n < 40; n++) {
    if (luaL_loadstring(L, script) != LUA_OK) exit(100);
    ml_mem_fail_after(n);
    if (lua_pcall(L, 0, 1, 0) != LUA_OK && strstr(luaL_tolstring(L, -1, NULL), "memory")) refused++;
    ml_mem_fail_after(-1);
    lua_settop(L, 0);
  }
  CHECK(refused > 3, "the core was refused memory %d times", refused);
  lua_close(L);
  CHECK(check_heap_bytes() <= before, "nothing is left behind");
}

/* A document of a host's own, pushed as decode would. */
static void test_push(void) {
  lua_State *L = luaL_newstate();
  ml_json_doc *doc;
  CHECK_OK(ml_json_parse("{\"b\":[null]}", 12, "test", &doc), "a document");
  lb_json_push(L, ml_json_root(doc));
  ml_json_close(doc);
  lua_getfield(L, -1, "b");
  lua_rawgeti(L, -1, 1);
  lb_json_push_null(L);
  CHECK(lua_rawequal(L, -1, -2), "null inside an array");
  CHECK(luaL_getmetafield(L, 2, "__name") == LUA_TSTRING && strcmp(lua_tostring(L, -1), LB_JSON_ARRAY) == 0,
        "its mark");
  lua_close(L);
}

int main(void) {
  test_lua_refusals();
  test_core_refusals();
  test_push();
  return check_done();
}
