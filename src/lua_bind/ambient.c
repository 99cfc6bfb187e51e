/* ambient.c: what a call finds around it: the default device, the scope that new tensors belong to, the path of the
 * module that runs.
 *
 * What the library sets for as long as a call of its takes (a module, a step of generation, a scope) belongs to the
 * coroutine that made the call, and to those that it resumes meanwhile. So a callback may yield wherever it is called
 * from: who runs then finds what is theirs, and the callback its own when it is resumed. A coroutine that nobody
 * resumes again takes what it had set along when it is collected.
 *
 * Lua tells nobody of a switch. Every call of the library looks whether the coroutines that have set something are the
 * active ones that they were when it looked last (lb_get_host). */
#include "lua_bind/lua_bind.h"

#include <string.h>

/* What holds in a coroutine from a call on: what that set, else what held before. */
typedef struct frame {
  ml_device *device; /* NULL: that of whoever resumed the coroutine */
  struct lb_scope *scope;
  bool scoped;    /* `scope` counts, were it NULL */
  bool own;       /* the device was set here */
  size_t outside; /* length of the coroutine's path outside */
} frame;

/* The frames of a coroutine, of which there is one at least. */
struct lb_ambient {
  lua_State *thread; /* borrowed: gone where the table of coroutines has none under `id` */
  lua_Integer id;
  bool active; /* it runs, or has resumed, directly or not, who runs */
  frame *frames;
  size_t n, capacity;
  char path[ML_PATH_BYTES]; /* of the modules that it is in itself */
};

static bool is_running_or_waits(lua_State *thread) {
  lua_Debug at;
  return lua_status(thread) == LUA_OK && lua_getstack(thread, 0, &at);
}

static void drop(lua_State *L, lb_host *host, size_t i) {
  lb_ambient *a = host->ambients[i];
  lb_push_threads(L);
  lua_pushnil(L);
  lua_rawseti(L, -2, a->id);
  lua_pop(L, 1);
  memmove(&host->ambients[i], &host->ambients[i + 1], (--host->n_ambients - i) * sizeof *host->ambients);
  ml_free(a->frames);
  ml_free(a);
}

/* Appends a module's name, as much of it as there is room for. */
static void append(char *path, const char *name) {
  size_t length = strlen(path), size = strlen(name);
  const size_t used = length + (length > 0) + 1, room = used < ML_PATH_BYTES ? ML_PATH_BYTES - used : 0;
  if (size == 0 || room == 0) return;
  if (length) path[length++] = '.';
  if (size > room) size = room;
  memcpy(path + length, name, size);
  path[length + size] = '\0';
}

/* Puts together what holds now: what was set last by the innermost of the active coroutines. */
static void settle(lb_host *host) {
  ml_engine *e = host->engine;
  e->device = host->device;
  host->scope = NULL;
  e->path[0] = '\0';
  for (size_t i = 0; i < host->n_ambients; i++) {
    const lb_ambient *a = host->ambients[i];
    const frame *top = &a->frames[a->n - 1];
    if (!a->active) continue;
    if (top->device) e->device = top->device;
    if (top->scoped) host->scope = top->scope;
    append(e->path, a->path);
  }
}

/* Who runs is the innermost: its frames come last. */
void lb_ambient_look(lua_State *L, lb_host *host) {
  bool same = true;
  luaL_checkstack(L, 4, "coroutines");
  lb_push_threads(L);
  const int threads = lua_gettop(L);
  for (size_t i = 0; i < host->n_ambients;) {
    lb_ambient *a = host->ambients[i];
    lua_rawgeti(L, threads, a->id);
    const bool exists = lua_tothread(L, -1) == a->thread;
    lua_pop(L, 1);
    const bool active = exists && (a->thread == L || is_running_or_waits(a->thread));
    same = same && active == a->active && (a->thread != L || i + 1 == host->n_ambients);
    a->active = active;
    if (exists) i++;
    else drop(L, host, i);
  }
  lua_pop(L, 1);
  if (same) return;
  for (size_t i = 0; i + 1 < host->n_ambients; i++) {
    lb_ambient *a = host->ambients[i];
    if (a->thread != L) continue;
    memmove(&host->ambients[i], &host->ambients[i + 1], (host->n_ambients - 1 - i) * sizeof a);
    host->ambients[host->n_ambients - 1] = a;
    break;
  }
  settle(host);
}

/* ---- frames ---- */

/* That of the coroutine that runs; NULL where it has set nothing. */
static lb_ambient *own_ambient(lua_State *L, const lb_host *host) {
  lb_ambient *last = host->n_ambients ? host->ambients[host->n_ambients - 1] : NULL;
  return last && last->thread == L ? last : NULL;
}

static void remember_thread(lua_State *L, lua_Integer id) {
  lb_push_threads(L);
  lua_pushthread(L);
  lua_rawseti(L, -2, id);
  lua_pop(L, 1);
}

/* Of the coroutine that runs, which has set nothing so far. */
static lb_ambient *add_ambient(lua_State *L, lb_host *host) {
  const lua_Integer id = ++host->ambient_ids;
  remember_thread(L, id); /* in which finalizers may run, and set something too */
  lb_check(L, ML_GROW(host->ambients, host->ambients_capacity, host->n_ambients + 1));
  lb_ambient *a = ml_calloc(1, sizeof *a);
  lb_check(L, a ? ML_OK : ML_MEMORY);
  a->thread = L;
  a->id = id;
  a->active = true;
  return host->ambients[host->n_ambients++] = a;
}

/* A frame of the coroutine that runs, which holds what held before. */
static frame *push_frame(lua_State *L) {
  lb_host *host = lb_get_host(L);
  lb_ambient *a = own_ambient(L, host);
  if (!a) a = add_ambient(L, host);
  const ml_status status = ML_GROW(a->frames, a->capacity, a->n + 1);
  if (status != ML_OK && a->n == 0) drop(L, host, host->n_ambients - 1);
  lb_check(L, status);
  frame *f = &a->frames[a->n];
  *f = a->n ? f[-1] : (frame){.device = NULL};
  f->own = false;
  f->outside = strlen(a->path);
  a->n++;
  return f;
}

static int leave(lua_State *L) {
  lb_host *host = lb_get_host(L);
  lb_ambient *a = own_ambient(L, host);
  if (!a) return 0;
  a->path[a->frames[--a->n].outside] = '\0';
  if (a->n == 0) drop(L, host, host->n_ambients - 1);
  settle(host);
  return 0;
}

/* What each of the functions below returns: closing it ends what they began. The same always, their upvalue 1. */
static int guard(lua_State *L) {
  settle(lb_get_host(L));
  lua_pushvalue(L, lua_upvalueindex(1));
  return 1;
}

static void set_device(frame *f, ml_device *d) { f->device = d, f->own = true; }

/* ---- devices ---- */

static ml_device *device_of(lua_State *L, int index) {
  const ml_tensor *t = lb_to_tensor(L, index);
  return t ? t->device : NULL;
}

/* Of a list that begins with a tensor, or of a tensor among options; NULL where there is none. */
static ml_device *device_within(lua_State *L, int index) {
  const bool is_list = lua_rawgeti(L, index, 1) != LUA_TNIL;
  ml_device *d = device_of(L, -1);
  while (!is_list && lua_next(L, index)) {
    d = device_of(L, -1);
    lua_pop(L, d ? 2 : 1);
    if (d) return d;
  }
  if (is_list) lua_pop(L, 1);
  return d;
}

/* That of the first tensor among the arguments from `first` on, or in the lists and options among them; NULL where
 * there is none. */
static ml_device *find_device(lua_State *L, int first) {
  ml_device *d = NULL;
  const int n = lua_gettop(L);
  for (int i = first; i <= n && !d; i++) d = lua_istable(L, i) ? device_within(L, i) : device_of(L, i);
  return d;
}

/* on(name): the default device; the present one where no name is given, whatever it becomes for others. */
static int on(lua_State *L) {
  ml_device *d = lb_check_device(L, 1, "on");
  set_device(push_frame(L), d);
  return guard(L);
}

/* beside(...): the same with the device of what an operation is given. Where that is the default one there is nothing
 * to do, and nil comes back: nobody else runs before the operation ends. */
static int beside(lua_State *L) {
  ml_device *d = find_device(L, 1);
  if (!d || d == lb_engine(L)->device) return 0;
  set_device(push_frame(L), d);
  return guard(L);
}

/* default_device([name]): where new tensors are made; returns the name. What a callback or a module sets ends with it,
 * as what the library set for its sake does. */
static int default_device(lua_State *L) {
  ml_device *d = lb_check_device(L, 1, "default_device");
  lb_host *host = lb_get_host(L);
  const bool given = !lua_isnoneornil(L, 1);
  if (given && host->engine->recording > 0)
    lb_usage(L, "default_device: a plan is recorded, which would set it once and not again");
  lb_ambient *sets = NULL;
  for (size_t i = 0; i < host->n_ambients; i++) {
    lb_ambient *a = host->ambients[i];
    if (a->active && a->frames[a->n - 1].device) sets = a;
  }
  if (given && sets) {
    size_t i = sets->n;
    do sets->frames[--i].device = d;
    while (!sets->frames[i].own);
  } else if (given) {
    host->device = d;
  }
  settle(host);
  lua_pushstring(L, d->name);
  return 1;
}

/* ---- modules, scopes ---- */

/* enter(name, ...): the module path, longer by a name; on(the device of what the module is given). */
static int enter(lua_State *L) {
  const char *name = lb_check_text(L, 1, "enter", NULL);
  ml_device *d = find_device(L, 2);
  if (!d) d = lb_engine(L)->device;
  set_device(push_frame(L), d);
  append(own_ambient(L, lb_get_host(L))->path, name);
  return guard(L);
}

/* module_path(): of the module that runs, "" outside of any. */
static int module_path(lua_State *L) {
  lua_pushstring(L, lb_engine(L)->path);
  return 1;
}

/* within(scope or nil): new tensors belong to a scope, which the caller holds, or to none. */
static int within(lua_State *L) {
  struct lb_scope *scope = lua_isnoneornil(L, 1) ? NULL : lb_check_scope(L, 1);
  frame *f = push_frame(L);
  f->scope = scope;
  f->scoped = true;
  return guard(L);
}

void lb_drop_ambients(lb_host *host) {
  for (size_t i = 0; i < host->n_ambients; i++) {
    ml_free(host->ambients[i]->frames);
    ml_free(host->ambients[i]);
  }
  ml_free(host->ambients);
}

int lb_open_ambient(lua_State *L) {
  static const luaL_Reg functions[] = {{"default_device", default_device}, {"module_path", module_path}, {NULL, NULL}};
  luaL_newlib(L, functions);
  lb_set_guard(L, "on", on, leave);
  lb_set_guard(L, "beside", beside, leave);
  lb_set_guard(L, "enter", enter, leave);
  lb_set_guard(L, "within", within, leave);
  return 1;
}
