/* engine.c: the C API's engines, each with a Lua state of its own, and its way of calling into that state. */
#include "lua_bind/api.h"

#include <lualib.h>
#include <string.h>

const char *ml_version(void) { return ML_VERSION; }

/* ---- who is in an engine ---- */

/* Its address tells the calling thread from all others that run. */
static _Thread_local char here;

/* Takes the engine for the calling thread. *outer says whether `leave` is due: a callback's calls are inside one that
 * holds the engine already. */
static ml_status enter(ml_engine *e, bool *outer) {
  uintptr_t nobody = 0, me = (uintptr_t)&here;
  ML_TRY(ml_engine_check_process(e));
  *outer = atomic_compare_exchange_strong(&e->owner, &nobody, me);
  if (*outer || nobody == me) return ML_OK;
  return ml_fail(ML_USAGE, "the engine is at work on another thread: one thread at a time");
}

static void leave(ml_engine *e, bool outer) {
  if (outer) atomic_store(&e->owner, 0);
}

/* ---- protected calls ---- */

static lua_State *own_state(ml_engine *engine) { return ((lb_host *)engine->host)->own; }

static ml_status status_of(const char *name) {
  for (int i = ML_OK + 1; i < ML_STATUS_COUNT; i++) {
    if (strcmp(ml_status_name((ml_status)i), name) == 0) return (ml_status)i;
  }
  return ML_USAGE;
}

/* An error without a code is Lua's own: wrong arguments. */
ml_status lb_push_message(lua_State *L) {
  ml_status status = ML_USAGE;
  if (lua_istable(L, -1)) {
    if (lua_getfield(L, -1, "code") == LUA_TSTRING) status = status_of(lua_tostring(L, -1));
    lua_getfield(L, -2, "message");
    lua_remove(L, -2);
  } else {
    lua_pushvalue(L, -1);
  }
  luaL_tolstring(L, -1, NULL);
  lua_remove(L, -2);
  return status;
}

/* (error) -> status; its text goes into the error record. */
static int record_error(lua_State *L) {
  ml_status status = lb_push_message(L);
  ml_fail(status, "%s", lua_tostring(L, -1));
  lua_pushinteger(L, status);
  return 1;
}

static ml_status out_of_memory(void) { return ml_fail(ML_MEMORY, "out of memory: Lua was refused some"); }

static ml_status protected_call(ml_engine *engine, lua_CFunction body, void *arguments) {
  lua_State *L = own_state(engine);
  if (!lua_checkstack(L, 4)) return out_of_memory();
  lua_pushcfunction(L, body);
  lua_pushlightuserdata(L, arguments);
  int outcome = lua_pcall(L, 1, 0, 0);
  if (outcome == LUA_OK) return ML_OK;
  ml_status status = ML_MEMORY;
  if (outcome != LUA_ERRMEM) {
    lua_pushcfunction(L, record_error);
    lua_insert(L, -2);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK) status = (ml_status)lua_tointeger(L, -1);
    else outcome = LUA_ERRMEM;
  }
  lua_pop(L, 1);
  if (outcome == LUA_ERRMEM) return out_of_memory();
  if (status == ML_CANCELLED) ml_cancel_clear(engine); /* the flag has become this status */
  return status;
}

ml_status lb_call(ml_engine *engine, lua_CFunction body, void *arguments) {
  bool outer;
  if (!own_state(engine)) return ml_fail(ML_USAGE, "the engine belongs to a Lua state, which loads its models itself");
  ML_TRY(enter(engine, &outer));
  ml_status status = protected_call(engine, body, arguments);
  leave(engine, outer);
  if (status == ML_OK) ml_error_clear();
  return status;
}

/* ---- structures of other versions ---- */

static size_t struct_size(const void *theirs) {
  size_t size;
  memcpy(&size, theirs, sizeof size);
  return size;
}

ml_status lb_check_struct(const void *theirs, const char *what) {
  size_t size = struct_size(theirs);
  if (size >= sizeof size && size <= 65536) return ML_OK;
  return ml_fail(ML_USAGE, "%s: struct_size: expected sizeof(%s), found %zu", what, what, size);
}

ml_status lb_read_struct(void *ours, size_t size, const void *theirs, const char *what) {
  memset(ours, 0, size);
  if (!theirs) return ML_OK;
  ML_TRY(lb_check_struct(theirs, what));
  size_t given = struct_size(theirs);
  for (size_t i = size; i < given; i++) {
    if (((const char *)theirs)[i])
      return ml_fail(ML_UNSUPPORTED, "%s: it sets an option that moonlet %s does not know", what, ML_VERSION);
  }
  memcpy(ours, theirs, given < size ? given : size);
  return ML_OK;
}

void lb_write_struct(void *theirs, const void *ours, size_t size) {
  size_t given = struct_size(theirs);
  memset(theirs, 0, given);
  memcpy(theirs, ours, given < size ? given : size);
  memcpy(theirs, &given, sizeof given);
}

/* ---- fields ---- */

void lb_set_integer(lua_State *L, const char *name, int64_t value) {
  if (!value) return;
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

void lb_set_number(lua_State *L, const char *name, double value) {
  if (value == 0) return;
  lua_pushnumber(L, value);
  lua_setfield(L, -2, name);
}

void lb_set_text(lua_State *L, const char *name, const char *value) {
  if (!value) return;
  lua_pushstring(L, value);
  lua_setfield(L, -2, name);
}

void lb_set_flag(lua_State *L, const char *name, bool value) {
  if (!value) return;
  lua_pushboolean(L, 1);
  lua_setfield(L, -2, name);
}

void lb_push_ids(lua_State *L, const int32_t *ids, size_t count) {
  if (count > INT32_MAX) lb_usage(L, "expected at most %d token ids, found %zu", INT32_MAX, count);
  lua_createtable(L, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    lua_pushinteger(L, ids[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

size_t lb_read_ids(lua_State *L, int32_t *ids, size_t capacity) {
  size_t count = (size_t)luaL_len(L, -1);
  for (size_t i = 0; i < count && i < capacity; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    ids[i] = (int32_t)lua_tointeger(L, -1);
    lua_pop(L, 1);
  }
  return count;
}

int64_t lb_integer_field(lua_State *L, const char *name) {
  lua_getfield(L, -1, name);
  int64_t value = lua_tointeger(L, -1);
  lua_pop(L, 1);
  return value;
}

double lb_number_field(lua_State *L, const char *name) {
  lua_getfield(L, -1, name);
  double value = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return value;
}

const char *lb_text_field(lua_State *L, const char *name) {
  const char *text = lua_getfield(L, -1, name) == LUA_TSTRING ? lua_tostring(L, -1) : "";
  lua_pop(L, 1);
  return text;
}

/* ---- engines ---- */

/* Memory of our own states: from the same place as the core's, so that a test can refuse it. */
static void *allocate(void *unused, void *block, size_t old_bytes, size_t bytes) {
  (void)unused, (void)old_bytes;
  if (bytes) return ml_realloc(block, bytes, 1);
  ml_free(block);
  return NULL;
}

/* (ml_engine **) */
static int open_state(lua_State *L) {
  ml_engine **engine = lua_touserdata(L, 1);
  luaL_openlibs(L);
  lua_gc(L, LUA_GCINC, 0, 0, 0);
  lb_open_host(L, engine);
  lb_get_host(L)->own = L;
  luaL_requiref(L, "moonlet", luaopen_moonlet, 0);
  return 0;
}

/* The state is the engine's from its first success on; before, and after a failure, both are the caller's to close. */
static ml_status start_state(lua_State *L, ml_engine **engine) {
  /* not lb_call: the engine does not have its state yet */
  lua_pushcfunction(L, open_state);
  lua_pushlightuserdata(L, engine);
  int outcome = lua_pcall(L, 1, 0, 0);
  if (outcome == LUA_OK) return ML_OK;
  if (outcome == LUA_ERRMEM) return out_of_memory();
  lua_pushcfunction(L, record_error);
  lua_insert(L, -2);
  return lua_pcall(L, 1, 1, 0) == LUA_OK ? (ml_status)lua_tointeger(L, -1) : out_of_memory();
}

ml_status ml_engine_create(const ml_engine_options *given, ml_engine **out) {
  ml_engine_options options;
  if (!out) return ml_fail(ML_USAGE, "ml_engine_create: out is NULL");
  *out = NULL;
  ML_TRY(lb_read_struct(&options, sizeof options, given, "ml_engine_options"));
  if (options.threads < 0) return ml_fail(ML_USAGE, "threads: expected 0 or more, found %d", options.threads);
  ml_engine *engine, *unowned;
  ML_TRY(lb_open_engine(options.threads, options.isa, &engine));
  for (int i = 0; i < engine->n_devices; i++) engine->devices[i]->memory.limit = options.memory_limit_bytes;
  unowned = engine;
  lua_State *L = lua_newstate(allocate, NULL);
  ml_status status = L ? start_state(L, &unowned) : out_of_memory();
  if (status == ML_OK) {
    *out = engine;
    ml_error_clear();
    return ML_OK;
  }
  if (L) lua_close(L);
  ml_engine_free(unowned);
  return status;
}

/* Also in a child that a fork made, where there is memory to free but no thread to end. If the fork came while another
 * thread was in the engine, nobody will ever leave it, and its state is as nobody may find it: then it is let go of. */
ml_status ml_engine_close(ml_engine *engine) {
  uintptr_t owner = 0, me = (uintptr_t)&here;
  if (engine && !own_state(engine))
    return ml_fail(ML_USAGE, "ml_engine_close: the engine belongs to a Lua state, which frees it");
  bool free = engine && atomic_compare_exchange_strong(&engine->owner, &owner, me);
  if (engine && !free && (owner == me || ml_engine_check_process(engine) == ML_OK))
    return ml_fail(ML_USAGE, "ml_engine_close: the engine is at work: it stays open");
  if (free) lua_close(own_state(engine)); /* frees the engine with its last handle */
  ml_error_clear();
  return ML_OK;
}

ml_status ml_engine_memory(const ml_engine *engine, ml_memory_info *out) {
  if (!engine || !out) return ml_fail(ML_USAGE, "ml_engine_memory: %s is NULL", engine ? "out" : "engine");
  ML_TRY(lb_check_struct(out, "ml_memory_info"));
  bool outer;
  ML_TRY(enter((ml_engine *)engine, &outer)); /* the counters change under a call that runs */
  const ml_memory *m = &engine->device->memory;
  ml_memory_info info = {0, m->active, m->peak, m->cached, m->limit};
  leave((ml_engine *)engine, outer);
  lb_write_struct(out, &info, sizeof info);
  ml_error_clear();
  return ML_OK;
}
