/* device.c: devices, memory counters, statistics, cancellation. */
#include "lua_bind/lua_bind.h"
#include "tensor/queue.h"
#include "tensor/transfer.h"

#include <string.h>

/* Names of operations that the device has no kernel for. */
static void push_missing(lua_State *L, const ml_device *d) {
  int n = 0;
  lua_newtable(L);
  for (int op = 0; op < ML_OP_COUNT; op++) {
    const ml_kind kind = ml_op_infos[op].kind;
    if (kind != ML_KIND_KERNEL && !ml_op_is_effect((ml_op)op)) continue; /* elementwise ones are parts of programs */
    if (!d->table->lacks(d, op)) continue;
    lua_pushstring(L, ml_op_name((ml_op)op));
    lua_rawseti(L, -2, ++n);
  }
}

static void push_device(lua_State *L, const ml_engine *e, const ml_device *d) {
  size_t total, available;
  d->table->report((ml_device *)(uintptr_t)d, &total, &available);
  lua_createtable(L, 0, 7);
  lua_pushinteger(L, (lua_Integer)total);
  lua_setfield(L, -2, "memory");
  lua_pushinteger(L, (lua_Integer)available);
  lua_setfield(L, -2, "available");
  push_missing(L, d);
  lua_setfield(L, -2, "missing");
  lua_pushstring(L, d->name);
  lua_setfield(L, -2, "name");
  lua_pushstring(L, d->description);
  lua_setfield(L, -2, "description");
  lua_pushinteger(L, ml_pool_members(e->pool));
  lua_setfield(L, -2, "threads");
  lua_pushboolean(L, d->asynchronous);
  lua_setfield(L, -2, "asynchronous");
}

static int devices(lua_State *L) {
  ml_engine *e = lb_engine(L);
  lb_no_more(L, 0, "devices");
  ml_engine_find_devices(e);
  lua_createtable(L, e->n_devices, 0);
  for (int i = 0; i < e->n_devices; i++) {
    push_device(L, e, e->devices[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* is_open(name): whether a device of this name is open; opens none. */
static int is_open(lua_State *L) {
  const ml_engine *e = lb_engine(L);
  const char *name = lb_check_text(L, 1, "is_open", NULL);
  bool found = false;
  for (int i = 0; i < e->n_devices; i++) found = found || strcmp(e->devices[i]->name, name) == 0;
  lua_pushboolean(L, found);
  return 1;
}

ml_device *lb_check_device(lua_State *L, int index, const char *function) {
  ml_engine *e = lb_engine(L);
  lb_drop_closed(L);
  lb_no_more(L, index, function);
  if (lua_isnoneornil(L, index)) return e->device;
  ml_device *d = ml_engine_device(e, lb_check_text(L, index, "device", NULL));
  if (!d) lb_raise(L, ML_DEVICE);
  return d;
}

static int device(lua_State *L) {
  push_device(L, lb_engine(L), lb_check_device(L, 1, "device"));
  return 1;
}

/* to(tensor, name): its values on another device. */
static int to(lua_State *L) {
  ml_tensor *t = lb_check_tensor(L, 1, "to");
  ml_device *d = lb_check_device(L, 2, "to");
  ml_tensor **out = lb_new_tensor(L);
  ml_tensor_retain(t);
  ml_status status = ml_tensor_to(t, d, out);
  if (lb_made_room(L, status)) status = ml_tensor_to(t, d, out);
  lb_give_back(L, t);
  lb_check(L, ml_fail_prefix(status, "to"));
  lb_charge(L);
  return 1;
}

static int threads(lua_State *L) {
  lb_no_more(L, 1, "threads");
  if (!lua_isnoneornil(L, 1)) {
    int64_t n = lb_check_integer(L, 1, "threads");
    if (n < 1 || n > 1024) lb_usage(L, "threads: expected an integer from 1 to 1024, found %lld", (long long)n);
    if (n != ml_pool_members(lb_engine(L)->pool)) lb_check(L, ml_engine_set_threads(lb_engine(L), (int)n));
  }
  lua_pushinteger(L, ml_pool_members(lb_engine(L)->pool));
  return 1;
}

/* ---- memory ---- */

static int push_size(lua_State *L, size_t bytes) {
  lua_pushinteger(L, (lua_Integer)bytes);
  return 1;
}

/* A device's memory, once runs that are under way hold none of it. */
static ml_memory *check_memory(lua_State *L, int index, const char *function) {
  ml_device *d = lb_check_device(L, index, function);
  ml_queue_land(d);
  return &d->memory;
}

static int memory_active(lua_State *L) { return push_size(L, check_memory(L, 1, "active")->active); }
static int memory_peak(lua_State *L) { return push_size(L, check_memory(L, 1, "peak")->peak); }
static int memory_cached(lua_State *L) { return push_size(L, check_memory(L, 1, "cached")->cached); }

static int memory_reset_peak(lua_State *L) {
  ml_memory *m = check_memory(L, 1, "reset_peak");
  m->peak = m->active;
  return 0;
}

static size_t check_bytes(lua_State *L, int index, const char *what) {
  int64_t bytes = lb_check_integer(L, index, what);
  if (bytes < 0) lb_usage(L, "%s: expected an integer from 0, found %lld", what, (long long)bytes);
  return (size_t)bytes;
}

/* limit([bytes [, device]]): sets the limit (0: none) and returns it. */
static int memory_limit(lua_State *L) {
  ml_device *d = lb_check_device(L, 2, "limit");
  if (!lua_isnoneornil(L, 1)) d->memory.limit = check_bytes(L, 1, "limit: bytes");
  return push_size(L, d->memory.limit);
}

static int memory_cache_limit(lua_State *L) {
  ml_device *d = lb_check_device(L, 2, "cache_limit");
  if (!lua_isnoneornil(L, 1)) {
    d->memory.cache_limit = check_bytes(L, 1, "cache_limit: bytes");
    ml_memory_trim(d, d->memory.cache_limit);
  }
  return push_size(L, d->memory.cache_limit);
}

static int memory_clear(lua_State *L) {
  ml_device *d = lb_check_device(L, 1, "clear");
  ml_queue_land(d);
  ml_memory_trim(d, 0);
  return 0;
}

static int stats(lua_State *L) {
  const ml_engine *e = lb_engine(L);
  lb_no_more(L, 0, "stats");
  uint64_t allocations = 0;
  for (int i = 0; i < e->n_devices; i++) allocations += e->devices[i]->memory.allocations;
  lua_createtable(L, 0, 6);
  const struct {
    const char *name;
    uint64_t value;
  } fields[] = {{"traces", e->stats.traces},           {"plans", e->stats.plans},
                {"replays", e->stats.replays},         {"allocations", allocations},
                {"bytes_moved", e->stats.bytes_moved}, {"tensors", (uint64_t)e->live_tensors}};
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    lua_pushinteger(L, (lua_Integer)fields[i].value);
    lua_setfield(L, -2, fields[i].name);
  }
  return 1;
}

/* check_places(on): whether plans look that what lives at one time lies apart. */
static int check_places(lua_State *L) {
  lb_engine(L)->checks_places = lua_toboolean(L, 1);
  return 0;
}

/* rewrites(): how often the planner made each of its rewrites. */
static int rewrites(lua_State *L) {
  const ml_rewrites *r = &lb_engine(L)->stats.rewrites;
  lua_createtable(L, 0, 16);
#define REWRITE(name)                                                                                                  \
  lua_pushinteger(L, (lua_Integer)r->name);                                                                            \
  lua_setfield(L, -2, #name);
  ML_REWRITES(REWRITE)
#undef REWRITE
  return 1;
}

/* ---- cancellation ---- */

/* cancel(): raises the engine's flag; take_cancel(): takes it down, whether it was up; deadline(seconds or nil). */
static int cancel(lua_State *L) {
  ml_cancel(lb_engine(L));
  return 0;
}

static int take_cancel(lua_State *L) {
  lua_pushboolean(L, ml_cancel_clear(lb_engine(L)));
  return 1;
}

static int is_cancelled(lua_State *L) {
  ml_status now = ml_flag_poll(&lb_engine(L)->cancel);
  if (now == ML_OK) lua_pushnil(L);
  else lua_pushstring(L, ml_status_name(now));
  return 1;
}

static int deadline(lua_State *L) {
  ml_cancel_flag *f = &lb_engine(L)->cancel;
  if (lua_isnoneornil(L, 1)) {
    atomic_store(&f->deadline_ns, 0);
    int up = ML_DEADLINE;
    atomic_compare_exchange_strong(&f->raised, &up, 0);
    return 0;
  }
  double seconds = lb_check_number(L, 1, "deadline");
  seconds = seconds > -1e9 ? (seconds < 1e9 ? seconds : 1e9) : -1e9; /* thirty years are enough; NaN is the past */
  atomic_store(&f->deadline_ns, ml_now_ns() + (int64_t)(seconds * 1e9));
  return 0;
}

static int clock_now(lua_State *L) {
  lua_pushnumber(L, (double)ml_now_ns() * 1e-9);
  return 1;
}

int lb_open_device(lua_State *L) {
  static const luaL_Reg functions[] = {{"devices", devices},        {"device", device},
                                       {"is_open", is_open},        {"to", to},
                                       {"threads", threads},        {"stats", stats},
                                       {"rewrites", rewrites},      {"check_places", check_places},
                                       {"cancel", cancel},          {"take_cancel", take_cancel},
                                       {"cancelled", is_cancelled}, {"deadline", deadline},
                                       {"clock", clock_now},        {NULL, NULL}};
  static const luaL_Reg memory[] = {{"active", memory_active}, {"peak", memory_peak},
                                    {"cached", memory_cached}, {"reset_peak", memory_reset_peak},
                                    {"limit", memory_limit},   {"cache_limit", memory_cache_limit},
                                    {"clear", memory_clear},   {NULL, NULL}};
  luaL_newlib(L, functions);
  luaL_newlib(L, memory);
  lua_setfield(L, -2, "memory");
  return 1;
}
