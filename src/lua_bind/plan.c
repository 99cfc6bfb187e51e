/* plan.c: evaluating, tracing and replaying. The shapes of a compiled function's arguments and its cache of plans are
 * Lua's business (lua/compile.lua); here is one plan as a handle. */
#include "lua_bind/lua_bind.h"
#include "tensor/plan/profile.h"
#include "tensor/queue.h"

#include <string.h>

#define LB_PLAN "moonlet.Plan"

typedef struct plan_handle {
  ml_plan *plan;
  lb_host *host;
  int running; /* calls that use the plan, in which finalizers may run */
  bool closed; /* meanwhile: the last of them frees it */
} plan_handle;

static int plan_gc(lua_State *L) {
  plan_handle *h = lb_check_handle(L, 1, LB_PLAN);
  ml_plan_release(h->plan);
  h->plan = NULL;
  lb_host_release(h->host);
  h->host = NULL;
  return 0;
}

static int plan_close(lua_State *L) {
  plan_handle *h = lb_check_handle(L, 1, LB_PLAN);
  h->closed = true;
  return h->running ? 0 : plan_gc(L);
}

static plan_handle *check_plan(lua_State *L) {
  plan_handle *h = lb_check_handle(L, 1, LB_PLAN);
  if (!h->plan || h->closed) lb_usage(L, "the plan is closed");
  return h;
}

/* Tensors of the list at `index` into a userdata array, which stays on the stack with them. */
static ml_tensor **check_list(lua_State *L, int index, int *n) {
  *n = (int)lb_length(L, index, "plan");
  ml_tensor **list = lua_newuserdatauv(L, ((size_t)*n + 1) * sizeof *list, 0);
  for (int i = 0; i < *n; i++) {
    lua_rawgeti(L, index, i + 1); /* not what __index makes up: the table must keep it alive */
    list[i] = lb_check_tensor(L, -1, "plan");
    lua_pop(L, 1);
  }
  return list;
}

/* eval(...): values for every tensor given; of none, everything that is under way comes to its end. */
static int eval(lua_State *L) {
  ml_engine *e = lb_engine(L);
  int n = lua_gettop(L);
  lb_drop_closed(L);
  ml_tensor **list = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *list, 0);
  for (int i = 0; i < n; i++) list[i] = lb_check_tensor(L, i + 1, "eval");
  lb_eval(L, list, (size_t)n);
  lb_check(L, ml_tensor_wait(list, (size_t)n));
  for (int i = 0; i < e->n_devices && n == 0; i++) lb_check(L, ml_queue_wait(e->devices[i]));
  return 0;
}

/* input(index, like): a placeholder for what has the type of `like`; index 1-based. */
static int input(lua_State *L) {
  int64_t index = lb_check_integer(L, 1, "index");
  const ml_tensor *like = lb_check_tensor(L, 2, "input");
  ml_tensor **out = lb_new_tensor(L);
  if (index < 1 || index > INT32_MAX) lb_usage(L, "input: index %lld is out of range", (long long)index);
  lb_check(L, ml_tensor_input(lb_engine(L), (int)(index - 1), like, out));
  lb_set_given(L, -1);
  return 1;
}

/* plan(inputs, outputs): a plan of the outputs and of all effects recorded since the last one. */
static int make_plan(lua_State *L) {
  int n_inputs, n_outputs;
  ml_tensor **inputs = check_list(L, 1, &n_inputs), **outputs = check_list(L, 2, &n_outputs);
  plan_handle *h = lua_newuserdatauv(L, sizeof *h, 0);
  *h = (plan_handle){.plan = NULL};
  luaL_setmetatable(L, LB_PLAN);
  h->host = lb_host_retain(lb_get_host(L));
  lb_check(L, ml_plan_create(lb_engine(L), inputs, n_inputs, outputs, n_outputs, &h->plan));
  lb_charge(L);
  return 1;
}

/* Runs it, once more where the collector may make room. */
static ml_status run_or_collect(lua_State *L, ml_plan *p, ml_tensor *const *in, ml_tensor **out) {
  ml_status status = ml_plan_run(p, in, out);
  if (status != ML_MEMORY && status != ML_LIMIT) return status;
  for (int i = 0; i < p->n_inputs; i++) ml_tensor_retain(in[i]);
  if (lb_made_room(L, status)) status = ml_plan_run(p, in, out);
  for (int i = 0; i < p->n_inputs; i++) ml_tensor_release(in[i]);
  return status;
}

/* plan:run(...): tensors for its inputs; returns tensors. */
static int plan_run(lua_State *L) {
  enum { FEW = 64 };
  plan_handle *h = check_plan(L);
  int n = lua_gettop(L) - 1, n_out = h->plan->n_outputs;
  lb_drop_closed(L);
  if (n != h->plan->n_inputs) lb_usage(L, "a plan of %d inputs was given %d", h->plan->n_inputs, n);
  for (int i = 0; i < n; i++) lb_check_tensor(L, i + 2, "run");
  h->running++; /* where Lua has no memory any more, for good: the collector frees the plan then */
  ml_tensor *few_in[FEW], *few_out[FEW], **few_slots[FEW], **in = few_in, **out = few_out, ***slots = few_slots;
  if (n > FEW) in = lua_newuserdatauv(L, (size_t)n * sizeof *in, 0);
  if (n_out > FEW) {
    out = lua_newuserdatauv(L, (size_t)n_out * sizeof *out, 0);
    slots = lua_newuserdatauv(L, (size_t)n_out * sizeof *slots, 0);
  }
  for (int i = 0; i < n; i++) in[i] = lb_to_tensor(L, i + 2);
  luaL_checkstack(L, n_out + 4, "too many outputs");
  for (int i = 0; i < n_out; i++) slots[i] = lb_new_tensor(L);
  ml_status status = run_or_collect(L, h->plan, in, out);
  h->running--;
  if (h->closed && !h->running) plan_close(L);
  lb_check(L, status);
  for (int i = 0; i < n_out; i++) *slots[i] = out[i];
  lb_charge(L);
  return n_out;
}

static int plan_explain(lua_State *L) {
  char *text;
  lb_check(L, ml_plan_explain(check_plan(L)->plan, &text));
  lua_pushstring(L, text); /* a refusal here leaks a text once, out of memory as we are */
  ml_free(text);
  return 1;
}

/* profile("begin") begins to time the steps of plans; profile("end") ends that, and gives what was found as text. */
static int profile(lua_State *L) {
  ml_engine *e = lb_engine(L);
  const char *call = lua_type(L, 1) == LUA_TSTRING ? lua_tostring(L, 1) : "";
  const bool begins = strcmp(call, "begin") == 0;
  if (!begins && strcmp(call, "end") != 0) lb_usage(L, "profile: expected \"begin\" or \"end\"");
  if (begins) {
    lb_check(L, ml_profile_begin(e));
    return 0;
  }
  char *text;
  lb_check(L, ml_profile_end(e, &text));
  lua_pushstring(L, text);
  ml_free(text);
  return 1;
}

/* effects(): how many are pending; drop_effects(keep) forgets the rest. */
static int effects(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)lb_engine(L)->n_effects);
  return 1;
}

static int drop_effects(lua_State *L) {
  ml_effects_drop(lb_engine(L), (size_t)lb_check_integer(L, 1, "keep"));
  return 0;
}

/* Lends the collector so many kilobytes, before which it does nothing: to stop and restart it would begin a cycle. */
enum { LENT = 1 << 20 };

/* record(true) begins, record(false) ends the recording of a plan; recording(): whether one is under way. Meanwhile the
 * collector stands still: what a finalizer computes is no part of the plan. */
static int record(lua_State *L) {
  lb_host *host = lb_get_host(L);
  if (lua_toboolean(L, 1)) {
    lb_check(L, ml_record_begin(host->engine));
    if (host->engine->recording == 1 && (host->lent = lua_gc(L, LUA_GCISRUNNING) > 0)) lua_gc(L, LUA_GCSTEP, -LENT);
    return 0;
  }
  ml_record_end(host->engine);
  if (host->engine->recording == 0 && host->lent) lua_gc(L, LUA_GCSTEP, LENT);
  return 0;
}

static int recording(lua_State *L) {
  lua_pushboolean(L, lb_engine(L)->recording > 0);
  return 1;
}

/* call(f, ...): pcall, across which nothing yields: a recording that is left that way would never end. */
static int call(lua_State *L) {
  int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  lua_pushboolean(L, status == LUA_OK);
  lua_insert(L, 1);
  return lua_gettop(L);
}

/* ---- keys of compiled functions ---- */

static int device_index(const ml_engine *e, const ml_device *d) {
  int i = 0;
  while (e->devices[i] != d) i++;
  return i;
}

/* Bytes of what tells a tensor's type (dtype, shape, layout, device) from others at `key`, not for reading and no part
 * of another such text; 0 where no input of a plan can stand for it: a state, and weights in blocks, of which products
 * read a packed copy. */
enum { TYPE_KEY_MOST = 3 + sizeof(int64_t[ML_MAX_DIMS]) };
static size_t put_type_key(const ml_tensor *t, char *key) {
  if (t->layout == ML_LAYOUT_BLOCKS || t->state) return 0;
  size_t bytes = (size_t)t->ndim * sizeof *t->shape;
  key[0] = t->layout == ML_LAYOUT_STRIDED ? 't' : t->exact ? 'p' : 'q';
  key[1] = (char)('a' + t->dtype);
  key[2] = (char)(t->ndim + (ML_MAX_DIMS + 1) * device_index(t->engine, t->device));
  memcpy(key + 3, t->shape, bytes);
  return 3 + bytes;
}

/* type_key(x): the type of a tensor that an input of a plan can stand for; nil of anything else. */
static int type_key(lua_State *L) {
  char key[TYPE_KEY_MOST];
  if (!luaL_testudata(L, 1, LB_TENSOR)) return 0;
  const size_t bytes = put_type_key(lb_check_tensor(L, 1, "compile"), key);
  if (!bytes) return 0;
  lua_pushlstring(L, key, bytes);
  return 1;
}

/* call_key(...): which device is the default one, where a function makes what it makes, and behind that the type_key of
 * each argument; nil where one has none, and of more than 16. */
static int call_key(lua_State *L) {
  enum { MOST = 16 };
  char key[1 + MOST * TYPE_KEY_MOST];
  const ml_engine *e = lb_engine(L);
  size_t length = 1;
  const int n = lua_gettop(L);
  if (n > MOST) return 0;
  key[0] = (char)('a' + device_index(e, e->device));
  for (int i = 1; i <= n; i++) {
    if (!luaL_testudata(L, i, LB_TENSOR)) return 0;
    size_t bytes = put_type_key(lb_check_tensor(L, i, "compile"), key + length);
    if (!bytes) return 0;
    length += bytes;
  }
  lua_pushlstring(L, key, length);
  return 1;
}

/* is_closed(tensor): whether it was closed by hand. */
static int is_closed(lua_State *L) {
  lua_pushboolean(L, !lb_to_tensor(L, 1));
  return 1;
}

/* op_of(tensor): the name of the operation whose recorded result it is, or nil. */
static int op_of(lua_State *L) {
  const ml_tensor *t = lb_check_tensor(L, 1, "op_of");
  if (t->node) lua_pushstring(L, ml_op_name(t->node->op));
  else lua_pushnil(L);
  return 1;
}

int lb_open_plan(lua_State *L) {
  luaL_newmetatable(L, LB_PLAN);
  static const luaL_Reg methods[] = {{"run", plan_run}, {"explain", plan_explain}, {"close", plan_close},
                                     {"__gc", plan_gc}, {"__close", plan_close},   {NULL, NULL}};
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  lua_createtable(L, 0, 8);
  static const luaL_Reg functions[] = {{"eval", eval},           {"input", input},     {"plan", make_plan},
                                       {"profile", profile},     {"effects", effects}, {"drop_effects", drop_effects},
                                       {"record", record},       {"call", call},       {"recording", recording},
                                       {"is_closed", is_closed}, {"op_of", op_of},     {"type_key", type_key},
                                       {"call_key", call_key},   {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
  return 1;
}
