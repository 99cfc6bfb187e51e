/* module.c: luaopen_moonlet: the C parts as "moonlet.core", and where the Lua parts are found.
 *
 * A module moonlet.a.b is lua/a/b.lua of, in this order: the directory that MOONLET_LUA names (a source tree under
 * work), and the copy inside this library. Its chunk is named "=moonlet/a/b.lua", by which errors tell our code from
 * the user's. */
#include "lua_bind/embedded.h"
#include "lua_bind/json.h"
#include "lua_bind/lua_bind.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* "moonlet.models.llama" -> "models/llama"; "moonlet" -> "init". NULL for other modules. */
static const char *relative_path(lua_State *L, const char *module) {
  if (strcmp(module, "moonlet") == 0) return "init";
  if (strncmp(module, "moonlet.", 8) != 0) return NULL;
  return luaL_gsub(L, module + 8, ".", "/");
}

/* The file's room is there before the file is open, so that no error of Lua's leaves one behind. */
static int load_file(lua_State *L, const char *directory, const char *relative) {
  const char *path = lua_pushfstring(L, "%s/%s.lua", directory, relative);
  struct stat info;
  if (stat(path, &info) != 0 || !S_ISREG(info.st_mode)) return 0;
  size_t size = (size_t)info.st_size;
  char *text = lua_newuserdatauv(L, size ? size : 1, 0);
  FILE *f = fopen(path, "rb");
  if (!f) return 0;
  size = fread(text, 1, size, f);
  fclose(f);
  lua_pushfstring(L, "=moonlet/%s.lua", relative);
  if (luaL_loadbufferx(L, text, size, lua_tostring(L, -1), "t") != LUA_OK) lua_error(L);
  return 1;
}

static int load_embedded(lua_State *L, const char *relative) {
  size_t length = strlen(relative);
  for (const ml_embedded_file *f = ml_embedded_files; f->path; f++) {
    if (strncmp(f->path, relative, length) != 0 || strcmp(f->path + length, ".lua") != 0) continue;
    lua_pushfstring(L, "=moonlet/%s", f->path);
    if (luaL_loadbufferx(L, f->code, f->size, lua_tostring(L, -1), "b") != LUA_OK) lua_error(L);
    return 1;
  }
  return 0;
}

/* Searches init.lua of a folder too: moonlet.train is train.lua or train/init.lua. */
static int search(lua_State *L) {
  const char *relative = relative_path(L, lb_check_text(L, 1, "search", NULL)),
             *directory = lb_environment("MOONLET_LUA");
  if (!relative) return 0;
  const char *folder = lua_pushfstring(L, "%s/init", relative);
  const char *candidates[] = {relative, folder};
  for (int i = 0; i < 2; i++) {
    if ((directory && load_file(L, directory, candidates[i])) || load_embedded(L, candidates[i])) {
      lua_pushstring(L, candidates[i]);
      return 2;
    }
  }
  lua_pushfstring(L, "no module '%s' in moonlet", lua_tostring(L, 1));
  return 1;
}

/* Puts our searcher behind the preloaded modules and before the files of package.path, unless it is there: a state that
 * ran out of memory while it opened moonlet may have it. */
static void install_searcher(lua_State *L) {
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "searchers");
  lua_geti(L, -1, 2);
  bool installed = lua_tocfunction(L, -1) == search;
  lua_pop(L, 1);
  if (!installed) {
    for (lua_Integer i = luaL_len(L, -1); i >= 2; i--) {
      lua_geti(L, -1, i);
      lua_seti(L, -2, i + 1);
    }
    lua_pushcfunction(L, search);
    lua_seti(L, -2, 2);
  }
  lua_pop(L, 2);
}

/* Copies what the table at the top has into the one below it. */
static void merge(lua_State *L) {
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_settable(L, -5);
  }
  lua_pop(L, 1);
}

static void add_module(lua_State *L, const char *name, const char *prefix, lua_Integer *n) {
  size_t skip = strlen(prefix), length = strlen(name);
  if (strncmp(name, prefix, skip) != 0 || length < skip + 4 || strcmp(name + length - 4, ".lua") != 0) return;
  lua_pushlstring(L, name + skip, length - skip - 4);
  lua_rawseti(L, -2, ++*n);
}

/* modules(prefix): names of the Lua files under a folder of lua/, as this library carries it: "models/" -> {"gemma3",
 * ...}. */
static int modules(lua_State *L) {
  const char *prefix = lb_check_text(L, 1, "modules", NULL);
  lua_Integer n = 0;
  lua_createtable(L, 8, 0);
  for (const ml_embedded_file *f = ml_embedded_files; f->path; f++) add_module(L, f->path, prefix, &n);
  return 1;
}

static void open_core(lua_State *L) {
  lua_createtable(L, 0, 64);
  lb_open_device(L);
  merge(L);
  lb_open_plan(L);
  merge(L);
  lb_open_files(L);
  merge(L);
  lb_open_text(L);
  merge(L);
  lb_open_weights(L);
  merge(L);
  lb_open_share(L);
  merge(L);
  lb_open_scope(L);
  merge(L);
  lb_open_ambient(L);
  merge(L);
  lb_open_values(L);
  merge(L);
  lb_open_make(L);
  merge(L);
  lb_open_errors(L);
  lua_setfield(L, -2, "error");
  lb_open_json(L);
  lua_setfield(L, -2, "json");
  lb_open_tensor(L);
  lua_setfield(L, -3, "methods");
  lua_setfield(L, -2, "ops");
  lb_set(L, "modules", modules);
  lb_set(L, "op_list", lb_op_list);
  lb_set(L, "rebind", lb_rebind);
  lb_set(L, "is_tensor", lb_is_tensor);
  lb_set(L, "changes", lb_changes);
  lua_pushliteral(L, ML_VERSION);
  lua_setfield(L, -2, "version");
}

int luaopen_moonlet_core(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, "moonlet.core") != LUA_TNIL) return 1;
  lua_pop(L, 1);
  lb_open_host(L, NULL);
  open_core(L);
  install_searcher(L);
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "moonlet.core"); /* the last step: a state that ran out of memory before it may try again */
  return 1;
}

/* Forgets our modules, without asking for memory: they are half made. */
static void forget_modules(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  for (lua_pushnil(L); lua_next(L, -2);) {
    lua_pop(L, 1);
    const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
    if (strcmp(name, "moonlet") != 0 && strncmp(name, "moonlet.", 8) != 0) continue;
    lua_pushvalue(L, -1);
    lua_pushnil(L);
    lua_rawset(L, -4);
  }
  lua_pop(L, 1);
}

int luaopen_moonlet(lua_State *L) {
  luaopen_moonlet_core(L);
  /* init.lua under its own name, so that `require "moonlet"` gives the same table whichever way it came in */
  lua_getglobal(L, "require");
  lua_pushliteral(L, "moonlet.init");
  if (lua_pcall(L, 1, 1, 0) == LUA_OK) return 1;
  forget_modules(L);
  return lua_error(L);
}
