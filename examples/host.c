/* host.c: a program with Lua states of its own, each of which opens moonlet. They share nothing.
 *
 *   build/examples/host MODEL
 *
 * Two states live at once and load the same model. Each has its own number of threads, seed and memory counters; what
 * one does or loses does not show in the other. */
#include <moonlet.h>

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>

/* Loads the model; `continue` gives a list of ids as text. */
static const char script[] =
    "local ml = require 'moonlet'\n"
    "local path, threads, seed = ...\n"
    "local model = assert(ml.load(path, {threads = threads}))\n"
    "local M = {}\n"
    "function M.continue()\n"
    "  local ids = {}\n"
    "  for token in model:generate({1, 2, 3, 4}, {max_tokens = 12, temperature = 1, seed = seed, ignore_eos = true}) "
    "do\n"
    "    ids[#ids + 1] = token.id\n"
    "  end\n"
    "  return table.concat(ids, ' ')\n"
    "end\n"
    "function M.facts() return ('%d threads, %d bytes in use'):format(ml.device().threads, ml.memory.active()) end\n"
    "function M.close() model:close() collectgarbage() end\n"
    "host = M\n";

/* A state with Lua's libraries, moonlet and the script's table `host`; NULL after a message. */
static lua_State *open_state(const char *path, int threads, int seed) {
  lua_State *L = luaL_newstate();
  if (!L) return NULL;
  luaL_openlibs(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_moonlet);
  lua_setfield(L, -2, "moonlet");
  lua_pop(L, 1);
  bool done = luaL_loadbuffer(L, script, sizeof script - 1, "=script") == LUA_OK;
  if (done) {
    lua_pushstring(L, path);
    lua_pushinteger(L, threads);
    lua_pushinteger(L, seed);
    done = lua_pcall(L, 3, 0, 0) == LUA_OK;
  }
  if (done) return L;
  fprintf(stderr, "host: %s\n", luaL_tolstring(L, -1, NULL));
  lua_close(L);
  return NULL;
}

/* Calls host[name]() and prints what it returns. */
static bool call(lua_State *L, const char *who, const char *name) {
  lua_settop(L, 0);
  lua_getglobal(L, "host");
  lua_getfield(L, -1, name);
  bool done = lua_pcall(L, 0, 1, 0) == LUA_OK;
  if (!done) fprintf(stderr, "host: %s: %s\n", who, luaL_tolstring(L, -1, NULL));
  else if (lua_isstring(L, -1)) printf("%s: %s\n", who, lua_tostring(L, -1));
  return done;
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: host MODEL\n");
    return 2;
  }
  lua_State *one = open_state(argv[1], 1, 1), *two = open_state(argv[1], 2, 2);
  bool done = one && two;
  done = done && call(one, "one", "continue") && call(two, "two", "continue");
  done = done && call(one, "one", "continue"); /* the same again: what happened in the other is none of its business */
  done = done && call(one, "one", "facts") && call(two, "two", "facts");
  done = done && call(two, "two", "close") && call(two, "two", "facts") && call(one, "one", "facts");
  if (two) lua_close(two);
  done = done && call(one, "one", "continue"); /* and goes on without it */
  if (one) lua_close(one);
  return done ? 0 : 1;
}
