/* state.c: the engine of a Lua state, error objects, and what the collector is told. */
#include "lua_bind/lua_bind.h"

#include <stdlib.h>
#include <string.h>

static const char host_key = 0, error_key = 0;

const char *lb_environment(const char *name) {
  const char *value = getenv(name);
  return value && *value ? value : NULL;
}

ml_status lb_open_engine(int threads, const char *isa, ml_engine **out) {
  const char *library = lb_environment("MOONLET_DEVICE_LIBRARY"), *name = lb_environment("MOONLET_DEVICE");
  ml_engine *e;
  ML_TRY(ml_engine_open(threads, isa ? isa : lb_environment("MOONLET_ISA"), &e));
  ml_status status = library ? ml_fail_prefix(ml_engine_load_device(e, library), "MOONLET_DEVICE_LIBRARY") : ML_OK;
  ml_device *d = status == ML_OK && name ? ml_engine_device(e, name) : NULL;
  if (d) e->device = d;
  else if (status == ML_OK && name) status = ml_fail_prefix(ML_NOT_FOUND, "MOONLET_DEVICE");
  if (status == ML_OK) *out = e;
  else ml_engine_free(e);
  return status;
}

/* ---- host ---- */

lb_host *lb_host_retain(lb_host *host) {
  host->references++;
  return host;
}

void lb_host_release(lb_host *host) {
  if (!host || --host->references > 0) return;
  lb_drop_owned(host);
  lb_drop_ambients(host);
  ml_engine_free(host->engine);
  ml_free(host);
}

static int host_gc(lua_State *L) {
  lb_host **box = lua_touserdata(L, 1);
  lb_host_release(*box);
  *box = NULL;
  return 0;
}

void lb_push_threads(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &host_key);
  lua_getiuservalue(L, -1, 1);
  lua_replace(L, -2);
}

lb_host *lb_host_of(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &host_key);
  lb_host **box = lua_touserdata(L, -1);
  lua_pop(L, 1);
  if (!box || !*box) luaL_error(L, "moonlet is closed");
  return *box;
}

lb_host *lb_get_host(lua_State *L) {
  lb_host *host = lb_host_of(L);
  if (host->n_ambients) lb_ambient_look(L, host);
  return host;
}

void lb_open_host(lua_State *L, ml_engine **given) {
  bool open = lua_rawgetp(L, LUA_REGISTRYINDEX, &host_key) != LUA_TNIL;
  lua_pop(L, 1);
  if (open) return;
  lb_host **box = lua_newuserdatauv(L, sizeof *box, 1);
  *box = NULL;
  lua_createtable(L, 0, 1);
  lb_set(L, "__gc", host_gc);
  lua_setmetatable(L, -2);
  lua_createtable(L, 0, 1);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_setiuservalue(L, -2, 1);
  lb_host *host = ml_calloc(1, sizeof *host);
  if (!host) luaL_error(L, "%s", ml_error_message());
  *box = host;
  host->references = 1;
  if (given) {
    host->engine = *given;
    *given = NULL;
  } else if (lb_open_engine(0, NULL, &host->engine) != ML_OK) {
    luaL_error(L, "%s", ml_error_message());
  }
  host->engine->host = host;
  host->device = host->engine->device;
  lua_rawsetp(L, LUA_REGISTRYINDEX, &host_key);
}

ml_engine *ml_lua_engine(lua_State *L) { return lb_engine(L); }

void ml_cancel(ml_engine *engine) { ml_flag_raise(&engine->cancel); }

bool ml_cancel_clear(ml_engine *engine) { return atomic_exchange(&engine->cancel.raised, 0) != 0; }

/* ---- errors ---- */

/* "file:line: " of the innermost function that is not ours. Our own Lua chunks are named "=moonlet/...". */
static void push_where(lua_State *L) {
  lua_Debug at;
  for (int level = 1; lua_getstack(L, level, &at); level++) {
    lua_getinfo(L, "Sl", &at);
    if (at.currentline <= 0 || strncmp(at.source, "=moonlet/", 9) == 0) continue;
    lua_pushfstring(L, "%s:%d: ", at.short_src, at.currentline);
    return;
  }
  lua_pushliteral(L, "");
}

static int error_tostring(lua_State *L) {
  lua_getfield(L, 1, "message");
  luaL_tolstring(L, -1, NULL);
  return 1;
}

static int error_concat(lua_State *L) {
  luaL_tolstring(L, 1, NULL);
  luaL_tolstring(L, 2, NULL);
  lua_concat(L, 2);
  return 1;
}

/* Replaces two texts at the top of the stack, where and why, by an error object: `message` is both, `reason` the second
 * alone. */
static void push_error(lua_State *L, const char *code) {
  lua_createtable(L, 0, 3);
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "reason");
  lua_insert(L, -3);
  lua_concat(L, 2);
  lua_setfield(L, -2, "message");
  lua_pushstring(L, code);
  lua_setfield(L, -2, "code");
  lua_rawgetp(L, LUA_REGISTRYINDEX, &error_key);
  lua_setmetatable(L, -2);
}

void lb_raise(lua_State *L, ml_status status) {
  if (status == ML_CANCELLED) ml_cancel_clear(lb_engine(L)); /* the flag has become this error */
  push_where(L);
  lua_pushstring(L, ml_error_message());
  push_error(L, ml_status_name(status));
  lua_error(L);
  __builtin_unreachable();
}

void lb_usage(lua_State *L, const char *format, ...) {
  va_list args;
  va_start(args, format);
  ml_failv(ML_USAGE, format, args);
  va_end(args);
  const char *path = lb_engine(L)->path;
  if (path[0]) ml_fail_prefix(ML_USAGE, "%s", path);
  lb_raise(L, ML_USAGE);
}

int lb_fail(lua_State *L, ml_status status) {
  lua_pushnil(L);
  lua_pushstring(L, ml_error_message());
  lua_pushstring(L, ml_status_name(status));
  return 3;
}

/* error.new(message, code [, where]): an error object; `where` true puts the user's line before the message, and the
 * path of the module that runs. */
static int error_new(lua_State *L) {
  const char *message = lb_check_text(L, 1, "error.new: message", NULL);
  const char *code = lb_check_text(L, 2, "error.new: code", NULL);
  const char *path = lua_toboolean(L, 3) ? lb_engine(L)->path : "";
  if (lua_toboolean(L, 3)) push_where(L);
  else lua_pushliteral(L, "");
  if (path[0]) lua_pushfstring(L, "%s: %s", path, message);
  else lua_pushvalue(L, 1);
  push_error(L, code);
  return 1;
}

int lb_open_errors(lua_State *L) {
  lua_createtable(L, 0, 3); /* the metatable */
  lb_set(L, "__tostring", error_tostring);
  lb_set(L, "__concat", error_concat);
  lua_pushliteral(L, "moonlet.error");
  lua_setfield(L, -2, "__name");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &error_key);
  lua_createtable(L, 0, 1);
  lb_set(L, "new", error_new);
  return 1;
}

/* ---- the collector ---- */

/* Told in batches: a step of the collector for small change costs more than the memory. */
static const size_t BATCH_BYTES = (size_t)4 << 20;

void lb_charge(lua_State *L) {
  lb_host *host = lb_host_of(L);
  const ml_engine *e = host->engine;
  size_t now[LB_DEVICES] = {0}, more = 0; /* what one device has gained, whatever others gave back */
  for (int i = 0; i < e->n_devices; i++) now[i < LB_DEVICES ? i : LB_DEVICES - 1] += e->devices[i]->memory.active;
  for (int i = 0; i < LB_DEVICES; i++) {
    if (now[i] < host->seen_bytes[i]) host->seen_bytes[i] = now[i];
    more += now[i] - host->seen_bytes[i];
  }
  if (more < BATCH_BYTES) return;
  memcpy(host->seen_bytes, now, sizeof now);
  const size_t kilobytes = more / 1024;
  if (lua_gc(L, LUA_GCISRUNNING)) lua_gc(L, LUA_GCSTEP, kilobytes > 1 << 20 ? 1 << 20 : (int)kilobytes);
}

/* Twice: the first makes finalisers run, the second frees what they let go. */
static void collect(lua_State *L) {
  lua_gc(L, LUA_GCCOLLECT);
  lua_gc(L, LUA_GCCOLLECT);
  lb_drop_closed(L);
}

bool lb_made_room(lua_State *L, ml_status status) {
  if (status != ML_MEMORY && status != ML_LIMIT) return false;
  collect(L);
  ml_error_clear();
  return true;
}

/* Of handles that scripts have no more, the collector has not seen all: an evaluation that would keep much for them
 * waits for it. The more they do have, the more it takes until they are looked through again. */
static const size_t MOST_KEPT = (size_t)16 << 20;

static size_t next_most_kept(size_t most, size_t kept, bool looked) {
  if (looked && kept > most / 2) return 2 * kept;
  return kept < most / 4 && most / 2 >= MOST_KEPT ? most / 2 : most;
}

/* What it is that found no room. */
static ml_status name_wanted(ml_status status, const ml_tensor *t) {
  return ml_fail_prefix(status, "a tensor %s, %s", ml_shape_text(t->ndim, t->shape, (char[160]){0}, 160),
                        ml_dtype_name(t->dtype));
}

void lb_eval(lua_State *L, ml_tensor *const *tensors, size_t count) {
  lb_host *host = lb_get_host(L);
  ml_engine *e = host->engine;
  const size_t most = host->most_kept > MOST_KEPT ? host->most_kept : MOST_KEPT;
  e->most_kept = lua_gc(L, LUA_GCISRUNNING) > 0 ? most : 0;
  ml_status status = ml_eval(e, tensors, count);
  const bool keeps_much = e->most_kept && e->kept > most;
  e->most_kept = 0;
  if (status == ML_MEMORY || status == ML_LIMIT) {
    for (size_t i = 0; i < count; i++) ml_tensor_retain(tensors[i]);
    if (!keeps_much) collect(L);
    else lua_gc(L, LUA_GCCOLLECT), lb_drop_closed(L);
    ml_error_clear();
    status = ml_eval(e, tensors, count);
    if (count == 1 && (status == ML_MEMORY || status == ML_LIMIT)) status = name_wanted(status, tensors[0]);
    for (size_t i = 0; i < count; i++) lb_give_back(L, tensors[i]);
  }
  host->most_kept = next_most_kept(most, e->kept, keeps_much);
  lb_check(L, status);
  lb_charge(L);
}

void lb_set(lua_State *L, const char *name, lua_CFunction function) {
  lua_pushcfunction(L, function);
  lua_setfield(L, -2, name);
}

void lb_set_guard(lua_State *L, const char *name, lua_CFunction begin, lua_CFunction end) {
  lua_newuserdatauv(L, 1, 0);
  lua_createtable(L, 0, 1);
  lb_set(L, "__close", end);
  lua_setmetatable(L, -2);
  lua_pushcclosure(L, begin, 1);
  lua_setfield(L, -2, name);
}
