/* tensor.c: the tensor handle: reading, indexing, printing, closing. */
#include "base/numeric.h"
#include "lua_bind/lua_bind.h"
#include "tensor/weight.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct handle {
  lb_link link;      /* of the scope that frees it; first, so that a link is its handle */
  ml_tensor *tensor; /* NULL once closed */
  lb_host *host;
  uint64_t recording;  /* in which it was made; 0: in none */
  lua_Integer changes; /* how often it has been given another tensor in place */
} handle;

/* ---- handles ---- */

static void close_handle(handle *h) {
  lb_scope_remove(&h->link);
  ml_tensor_release(h->tensor);
  h->tensor = NULL;
  lb_host_release(h->host);
  h->host = NULL;
}

static int tensor_gc(lua_State *L) {
  close_handle(lb_check_handle(L, 1, LB_TENSOR));
  return 0;
}

/* A finalizer may run while a call that borrowed tensors asks Lua for memory. */
static bool in_finalizer(lua_State *L) { return lua_gc(L, LUA_GCISRUNNING) < 0; }

static void drop_closed(lb_host *host) {
  while (host->n_closed > 0) ml_tensor_release(host->closed[--host->n_closed]);
}

void lb_drop_closed(lua_State *L) {
  lb_host *host = lb_host_of(L);
  if (host->n_closed > 0 && !in_finalizer(L)) drop_closed(host);
}

/* Gives up a reference when the call that runs is over, which may still use the tensor. */
static void release_later(lb_host *host, ml_tensor *t) {
  if (ML_GROW(host->closed, host->closed_capacity, host->n_closed + 1) == ML_OK) host->closed[host->n_closed++] = t;
  else ml_tensor_release(t);
}

void lb_give_back(lua_State *L, ml_tensor *t) {
  if (t->references > 1) ml_tensor_release(t);
  else release_later(lb_host_of(L), t);
}

/* Closes a handle that somebody may still have: in a finalizer its tensor goes later. */
static void close_later(lua_State *L, handle *h) {
  lb_host *host = h->host;
  if (h->tensor && in_finalizer(L)) release_later(host, ml_tensor_retain(h->tensor));
  else if (host) drop_closed(host);
  close_handle(h);
}

static int tensor_close(lua_State *L) {
  close_later(L, lb_check_handle(L, 1, LB_TENSOR));
  return 0;
}

/* As a method: __close is given an error beside the tensor. */
static int tensor_close_method(lua_State *L) {
  lb_no_more(L, 1, "close");
  return tensor_close(L);
}

void lb_close_link(lua_State *L, lb_link *link) { close_later(L, (handle *)link); }

lb_link *lb_check_link(lua_State *L, int index) { return lb_check_handle(L, index, LB_TENSOR); }

/* is_tensor(x): whether x is a tensor, closed or not. */
int lb_is_tensor(lua_State *L) {
  lb_no_more(L, 1, "is_tensor");
  lua_pushboolean(L, luaL_testudata(L, 1, LB_TENSOR) != NULL);
  return 1;
}

static uint64_t recording_of(const ml_engine *e) { return e->recording ? e->recordings : 0; }

ml_tensor **lb_new_tensor(lua_State *L) {
  handle *h = lua_newuserdatauv(L, sizeof *h, 0);
  *h = (handle){.tensor = NULL};
  luaL_setmetatable(L, LB_TENSOR);
  h->host = lb_host_retain(lb_get_host(L));
  h->recording = recording_of(h->host->engine);
  if (!in_finalizer(L)) lb_scope_add(h->host, &h->link); /* of a scope that is interrupted a finalizer knows nothing */
  return &h->tensor;
}

void lb_set_given(lua_State *L, int index) { ((handle *)lua_touserdata(L, index))->recording = 0; }

ml_tensor *lb_to_tensor(lua_State *L, int index) {
  handle *h = luaL_testudata(L, index, LB_TENSOR);
  return h ? h->tensor : NULL;
}

static ml_tensor *check(lua_State *L, int index, const char *what, const char *expected) {
  handle *h = luaL_testudata(L, index, LB_TENSOR);
  if (!h) lb_unexpected(L, index, what, expected);
  if (!h->tensor) lb_usage(L, "%s: the tensor is closed", what);
  return h->tensor;
}

ml_tensor *lb_check_tensor(lua_State *L, int index, const char *what) { return check(L, index, what, "a tensor"); }

/* ---- numbers as operands ---- */

/* The host's own tensors are in no count of those that there are. */
static void drop_constant(lb_host *host, lb_constant *c) {
  if (!c->tensor) return;
  host->engine->live_tensors++;
  ml_tensor_release(c->tensor);
  c->tensor = NULL;
}

void lb_drop_owned(lb_host *host) {
  drop_closed(host);
  ml_free(host->closed);
  for (int i = 0; i < LB_CONSTANTS; i++) drop_constant(host, &host->constants[i]);
}

static bool is_constant(const ml_tensor *t, ml_dtype dtype, double f, int64_t i) {
  return t && t->node && t->node->op == ML_OP_constant && t->dtype == dtype && t->node->attrs.constant.whole == i &&
         memcmp(&t->node->attrs.constant.real, &f, sizeof f) == 0;
}

/* Numbers return in loops, where a handle for each time would be the collector's. The one used longest ago makes way,
 * so that none does which the same call has asked for. */
static ml_tensor *find_constant(lua_State *L, ml_dtype dtype, double f, int64_t i) {
  lb_host *host = lb_host_of(L);
  lb_constant *oldest = &host->constants[0];
  for (int k = 0; k < LB_CONSTANTS; k++) {
    lb_constant *c = &host->constants[k];
    if (is_constant(c->tensor, dtype, f, i)) {
      c->used = ++host->constant_uses;
      return c->tensor;
    }
    if (c->used < oldest->used) oldest = c;
  }
  ml_tensor *made;
  lb_check(L, ml_tensor_constant(host->engine, dtype, f, i, &made));
  drop_constant(host, oldest);
  host->engine->live_tensors--;
  *oldest = (lb_constant){made, ++host->constant_uses};
  return made;
}

ml_tensor *lb_check_operand(lua_State *L, int index, const char *function, const char *argument) {
  index = lua_absindex(L, index);
  int type = lua_type(L, index);
  if (type != LUA_TNUMBER && type != LUA_TBOOLEAN) {
    handle *h = luaL_testudata(L, index, LB_TENSOR);
    if (h && h->tensor) return h->tensor;
    return check(L, index, lua_pushfstring(L, "%s: %s", function, argument), "a tensor or a number");
  }
  ml_dtype dtype = type == LUA_TBOOLEAN ? ML_BOOL : lua_isinteger(L, index) ? ML_I32 : ML_F32;
  int64_t i = type == LUA_TBOOLEAN ? lua_toboolean(L, index) : lua_isinteger(L, index) ? lua_tointeger(L, index) : 0;
  double f = type == LUA_TNUMBER ? lua_tonumber(L, index) : (double)i;
  if (dtype == ML_I32 && (i > INT32_MAX || i < INT32_MIN)) dtype = ML_I64;
  if (dtype == ML_F32 && f == floor(f) && fabs(f) < 9e18) i = (int64_t)f;
  if (!in_finalizer(L)) return find_constant(L, dtype, f, i);
  ml_tensor **own = lb_new_tensor(L); /* another call may be using the constants */
  lb_check(L, ml_tensor_constant(lb_engine(L), dtype, f, i, own));
  lua_replace(L, index);
  return *own;
}

/* rebind(handle, tensor): the handle holds the tensor's value from here on; shape and dtype stay. In-place forms end
 * here. Other handles keep the old value, since views of it are values of their own. A state is assigned. */
int lb_rebind(lua_State *L) {
  ml_tensor *old = lb_check_tensor(L, 1, "in place"), *value = lb_check_tensor(L, 2, "in place");
  if (old->dtype != value->dtype || !ml_same_shape(old->ndim, old->shape, value->ndim, value->shape)) {
    char from[160], to[160];
    lb_usage(L, "in place: a value of shape %s and dtype %s does not fit %s, %s",
             ml_shape_text(value->ndim, value->shape, from, sizeof from), ml_dtype_name(value->dtype),
             ml_shape_text(old->ndim, old->shape, to, sizeof to), ml_dtype_name(old->dtype));
  }
  handle *h = lua_touserdata(L, 1);
  if (!old->state && lb_engine(L)->recording && h->recording != recording_of(lb_engine(L)))
    lb_usage(L, "in place: a function that is recorded cannot change a tensor from outside, unless that is a state");
  if (old->state) {
    ml_tensor *both[2] = {old, value}, *same;
    ml_attrs none = {0};
    lb_check(L, ml_apply(lb_engine(L), ML_OP_assign, both, 2, &none, &same));
    ml_tensor_release(same);
  } else {
    h->tensor = ml_tensor_retain(value);
    h->changes++;
    if (in_finalizer(L)) release_later(h->host, old);
    else ml_tensor_release(old);
  }
  lua_settop(L, 1);
  return 1;
}

/* changes(handle): how often that was; states never are. */
int lb_changes(lua_State *L) {
  lb_check_tensor(L, 1, "changes");
  lua_pushinteger(L, ((const handle *)lua_touserdata(L, 1))->changes);
  return 1;
}

/* ---- reading ---- */

static void push_value(lua_State *L, const char *data, ml_dtype t, int64_t i) {
  switch (t) {
  case ML_F32: lua_pushnumber(L, ((const float *)data)[i]); return;
  case ML_F64: lua_pushnumber(L, ((const double *)data)[i]); return;
  case ML_F16: lua_pushnumber(L, ml_f16_to_f32(((const uint16_t *)data)[i])); return;
  case ML_BF16: lua_pushnumber(L, ml_bf16_to_f32(((const uint16_t *)data)[i])); return;
  case ML_I8: lua_pushinteger(L, ((const int8_t *)data)[i]); return;
  case ML_U8: lua_pushinteger(L, ((const uint8_t *)data)[i]); return;
  case ML_I16: lua_pushinteger(L, ((const int16_t *)data)[i]); return;
  case ML_U16: lua_pushinteger(L, ((const uint16_t *)data)[i]); return;
  case ML_I32: lua_pushinteger(L, ((const int32_t *)data)[i]); return;
  case ML_U32: lua_pushinteger(L, ((const uint32_t *)data)[i]); return;
  case ML_I64:
  case ML_U64: lua_pushinteger(L, ((const int64_t *)data)[i]); return;
  case ML_BOOL: lua_pushboolean(L, data[i]); return;
  default: lua_pushnil(L); /* which check_values has refused */
  }
}

static void check_values(lua_State *L, const ml_tensor *t, const char *what) {
  if (ml_dtype_class_of(t->dtype) <= ML_CLASS_BOOL) return;
  lb_usage(L, "%s: values of dtype %s cannot be read one by one; %s", what, ml_dtype_name(t->dtype),
           ml_dtype_is_block(t->dtype) ? "dequantize it first, w:dequantize()" : "cast it first");
}

static ml_tensor *read_argument(lua_State *L, const char *what) {
  lb_drop_closed(L);
  lb_no_more(L, 1, what);
  return lb_check_tensor(L, 1, what);
}

/* Pushes a userdata with the row-major bytes. */
static const char *read_bytes(lua_State *L, ml_tensor *t) {
  lb_eval(L, &t, 1);
  char *data = lua_newuserdatauv(L, ml_tensor_nbytes(t) + 1, 0);
  lb_check(L, ml_tensor_read(t, data));
  return data;
}

static int tensor_item(lua_State *L) {
  ml_tensor *t = read_argument(L, "item");
  if (ml_tensor_size(t) != 1)
    lb_usage(L, "item: expected one element, found shape %s", ml_shape_text(t->ndim, t->shape, (char[160]){0}, 160));
  check_values(L, t, "item");
  push_value(L, read_bytes(L, t), t->dtype, 0);
  return 1;
}

static int64_t push_list(lua_State *L, const ml_tensor *t, const char *data, int depth, int64_t at) {
  if (depth == t->ndim) {
    push_value(L, data, t->dtype, at);
    return at + 1;
  }
  luaL_checkstack(L, 4, "nested too deep");
  lua_createtable(L, t->shape[depth] < INT32_MAX ? (int)t->shape[depth] : 0, 0);
  for (int64_t i = 1; i <= t->shape[depth]; i++) {
    at = push_list(L, t, data, depth + 1, at);
    lua_seti(L, -2, i);
  }
  return at;
}

/* How many entries a tensor has, or lists that hold none: axes of size 0 count as 1. */
static double entries(const ml_tensor *t) {
  double n = 1;
  for (int d = 0; d < t->ndim; d++) n *= t->shape[d] > 0 ? (double)t->shape[d] : 1;
  return n;
}

static int tensor_tolist(lua_State *L) {
  ml_tensor *t = read_argument(L, "tolist");
  if (ml_tensor_size(t) == 0 && entries(t) > 1 << 20)
    lb_check(L, ml_fail(ML_LIMIT, "tolist: shape %s has too many lists without entries",
                        ml_shape_text(t->ndim, t->shape, (char[160]){0}, 160)));
  check_values(L, t, "tolist");
  push_list(L, t, read_bytes(L, t), 0, 0);
  return 1;
}

static int tensor_tobytes(lua_State *L) {
  ml_tensor *t = read_argument(L, "tobytes");
  const char *data = read_bytes(L, t);
  lua_pushlstring(L, data, ml_tensor_nbytes(t));
  return 1;
}

/* ---- printing ---- */

enum { EDGE = 3, SUMMARY = 60 }; /* entries shown at each end of an axis that is summarised; size from which axes are */

static void add_text(luaL_Buffer *b, const char *data, const ml_tensor *t, int64_t i) {
  char text[64];
  lua_State *L = b->L;
  push_value(L, data, t->dtype, i);
  if (lua_isboolean(L, -1)) snprintf(text, sizeof text, "%s", lua_toboolean(L, -1) ? "true" : "false");
  else if (t->dtype == ML_U64) snprintf(text, sizeof text, "%llu", (unsigned long long)lua_tointeger(L, -1));
  else if (lua_isinteger(L, -1)) snprintf(text, sizeof text, "%lld", (long long)lua_tointeger(L, -1));
  else if (isnan(lua_tonumber(L, -1))) snprintf(text, sizeof text, "nan"); /* whatever its sign bit */
  else ml_number_text(text, sizeof text, 5, lua_tonumber(L, -1));
  lua_pop(L, 1);
  luaL_addstring(b, text);
}

static void add_axis(luaL_Buffer *b, const char *data, const ml_tensor *t, int depth, int64_t at, bool summarise) {
  if (depth == t->ndim) {
    add_text(b, data, t, at);
    return;
  }
  int64_t inner = 1, n = t->shape[depth];
  for (int d = depth + 1; d < t->ndim; d++) inner *= t->shape[d];
  luaL_addchar(b, '[');
  for (int64_t i = 0; i < n; i++) {
    if (i > 0) luaL_addstring(b, depth == t->ndim - 1 ? ", " : ",\n ");
    for (int d = 0; i > 0 && depth < t->ndim - 1 && d < depth; d++) luaL_addchar(b, ' ');
    if (summarise && i == EDGE && n > 2 * EDGE) {
      luaL_addstring(b, "...");
      i = n - EDGE - 1;
      continue;
    }
    add_axis(b, data, t, depth + 1, at + i * inner, summarise);
  }
  luaL_addchar(b, ']');
}

static int tensor_tostring(lua_State *L) {
  handle *h = lb_check_handle(L, 1, LB_TENSOR);
  if (!h->tensor) {
    lua_pushliteral(L, "tensor (closed)");
    return 1;
  }
  ml_tensor *t = h->tensor;
  char shape[160];
  ml_shape_text(t->ndim, t->shape, shape, sizeof shape);
  bool recorded = t->engine->recording && (t->node || t->cell);
  bool readable = !recorded && ml_dtype_class_of(t->dtype) <= ML_CLASS_BOOL;
  const char *data = readable ? read_bytes(L, t) : NULL;
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  if (readable) {
    add_axis(&b, data, t, 0, 0, entries(t) > SUMMARY);
    luaL_addchar(&b, '\n');
  }
  lua_pushfstring(L, "tensor %s %s on %s%s", shape, ml_dtype_name(t->dtype), t->device->name,
                  recorded ? ", recorded: no values yet" : "");
  luaL_addvalue(&b);
  luaL_pushresult(&b);
  return 1;
}

/* ---- indexing ---- */

static void push_shape(lua_State *L, const ml_tensor *t) {
  lua_createtable(L, t->ndim, 0);
  for (int i = 0; i < t->ndim; i++) {
    lua_pushinteger(L, t->shape[i]);
    lua_rawseti(L, -2, i + 1);
  }
}

/* x[i]: the i-th entry of the first axis; nil one past the end, so that ipairs ends. */
static int index_entry(lua_State *L, ml_tensor *t) {
  int64_t i = lb_check_integer(L, 2, "x[i]");
  if (t->ndim == 0) lb_usage(L, "x[i]: expected a tensor with axes, found one of shape (): its value is x:item()");
  int64_t n = t->shape[0], at = i < 0 ? i + n : i - 1;
  if (i == n + 1) return 0;
  if (at < 0 || at >= n) lb_usage(L, "x[i]: index %lld is out of range for size %lld", (long long)i, (long long)n);
  if (t->layout != ML_LAYOUT_STRIDED) {
    ml_tensor **expert = lb_new_tensor(L);
    lb_check(L, ml_weight_expert(t, at, "x[i]", expert));
    return 1;
  }
  ml_attrs a = {0};
  int64_t *ranges = ml_attrs_give(&a, &a.slice.ranges, 3 * t->ndim);
  for (int d = 0; d < t->ndim; d++)
    ranges[3 * d] = d ? 0 : at, ranges[3 * d + 1] = d ? t->shape[d] : 1, ranges[3 * d + 2] = 1;
  ml_tensor **part = lb_new_tensor(L);
  lb_check(L, ml_apply(t->engine, ML_OP_slice, &t, 1, &a, part));
  ml_attrs shape = {0};
  memcpy(ml_attrs_give(&shape, &shape.reshape.shape, t->ndim - 1), t->shape + 1,
         (size_t)(t->ndim - 1) * sizeof *t->shape);
  ml_tensor **out = lb_new_tensor(L);
  lb_check(L, ml_apply(t->engine, ML_OP_reshape, part, 1, &shape, out));
  return 1;
}

static const char *const layouts[] = {"strided", "packed", "blocks"}; /* of ml_layout */

/* Upvalue 1: methods. */
static int tensor_index(lua_State *L) {
  if (lua_type(L, 2) == LUA_TNUMBER) return index_entry(L, lb_check_tensor(L, 1, "x[i]"));
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
  const char *key = lua_tostring(L, 2);
  if (!key) lb_unexpected(L, 2, "x[i]", "an integer (x:at(i, j) and x:slice take several positions)");
  ml_tensor *t = lb_check_tensor(L, 1, key);
  if (strcmp(key, "shape") == 0) push_shape(L, t);
  else if (strcmp(key, "ndim") == 0) lua_pushinteger(L, t->ndim);
  else if (strcmp(key, "size") == 0) lua_pushinteger(L, ml_tensor_size(t));
  else if (strcmp(key, "dtype") == 0) lua_pushstring(L, ml_dtype_name(t->dtype));
  else if (strcmp(key, "device") == 0) lua_pushstring(L, t->device->name);
  else if (strcmp(key, "layout") == 0) lua_pushstring(L, layouts[t->layout]);
  else if (strcmp(key, "nbytes") == 0) lua_pushinteger(L, (lua_Integer)ml_tensor_nbytes(t));
  else lua_pushnil(L);
  return 1;
}

static int tensor_newindex(lua_State *L) {
  lb_usage(L, "a tensor's entries and fields cannot be assigned; see slice_update and put_along_axis");
}
static int tensor_pairs(lua_State *L) { lb_usage(L, "pairs of a tensor; use ipairs, or tolist"); }

static int tensor_len(lua_State *L) {
  const ml_tensor *t = lb_check_tensor(L, 1, "#x");
  if (t->ndim == 0) lb_usage(L, "#x: expected a tensor with axes, found one of shape ()");
  lua_pushinteger(L, t->shape[0]);
  return 1;
}

/* ---- opening ---- */

static int tensor_names(lua_State *L) { /* __dir: for completion */
  static const char *const fields[] = {"shape", "ndim", "size", "dtype", "device", "layout", "nbytes"};
  lua_createtable(L, 100, 0);
  int n = 0;
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    lua_pushstring(L, fields[i]);
    lua_rawseti(L, -2, ++n);
  }
  lua_pushnil(L);
  while (lua_next(L, lua_upvalueindex(1))) {
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, ++n);
  }
  return 1;
}

int lb_open_tensor(lua_State *L) {
  lb_open_ops(L); /* methods: every op, and what follows */
  static const luaL_Reg methods[] = {{"item", tensor_item},
                                     {"tolist", tensor_tolist},
                                     {"tobytes", tensor_tobytes},
                                     {"close", tensor_close_method},
                                     {NULL, NULL}};
  luaL_setfuncs(L, methods, 0);
  luaL_newmetatable(L, LB_TENSOR);
  static const luaL_Reg events[] = {
      {"__gc", tensor_gc},   {"__close", tensor_close},       {"__tostring", tensor_tostring},
      {"__len", tensor_len}, {"__newindex", tensor_newindex}, {"__pairs", tensor_pairs},
      {NULL, NULL}};
  luaL_setfuncs(L, events, 0);
  lb_set_operators(L);
  lua_pushvalue(L, -2);
  lua_pushcclosure(L, tensor_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pushvalue(L, -2);
  lua_pushcclosure(L, tensor_names, 1);
  lua_setfield(L, -2, "__dir");
  lua_pop(L, 1);
  lb_open_ops(L); /* functions */
  lb_set(L, "from_bytes", lb_from_bytes);
  lua_insert(L, -2);
  return 2; /* functions, methods */
}
