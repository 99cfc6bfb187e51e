/* make.c: tensors and states from numbers, nested lists and bytes of Lua. */
#include "lua_bind/lua_bind.h"
#include "tensor/state.h"
#include "tensor/weight.h"

#include <math.h>
#include <string.h>

/* What a nested table holds. */
typedef struct nest {
  int ndim;
  int64_t shape[ML_MAX_DIMS], size;
  bool has_float, has_integer, has_boolean;
  bool truncate; /* fractions lose theirs in integers, as in a cast */
  char *data;
  ml_dtype dtype;
  int64_t at;
} nest;

static void measure(lua_State *L, nest *n, int depth) {
  if (!lua_istable(L, -1)) {
    if (depth < n->ndim)
      lb_usage(L, "tensor: the nested lists are not even: a %s stands where a list should", luaL_typename(L, -1));
    switch (lua_type(L, -1)) {
    case LUA_TNUMBER:
      if (lua_isinteger(L, -1)) n->has_integer = true;
      else n->has_float = true;
      return;
    case LUA_TBOOLEAN: n->has_boolean = true; return;
    default:
      if (lb_to_tensor(L, -1))
        lb_usage(L, "tensor: expected numbers or booleans, found a tensor; ml.stack joins tensors");
      lb_usage(L, "tensor: expected numbers or booleans, found %s", luaL_typename(L, -1));
    }
  }
  if (depth >= n->ndim) lb_usage(L, "tensor: the nested lists are not even: a list stands where a number should");
  int64_t length = lb_length(L, -1, "tensor");
  if (length != n->shape[depth])
    lb_usage(L, "tensor: the nested lists are not even: expected %lld entries, found %lld", (long long)n->shape[depth],
             (long long)length);
  luaL_checkstack(L, 4, "nested too deep");
  for (int64_t i = 1; i <= length; i++) {
    lua_geti(L, -1, i);
    measure(L, n, depth + 1);
    lua_pop(L, 1);
  }
}

/* The number at the top of the stack as an integer dtype holds it (its 64 bits); anything else raises. */
static int64_t integer_for(lua_State *L, const nest *n) {
  if (lua_isboolean(L, -1)) return lua_toboolean(L, -1);
  int ok;
  int64_t i = lua_tointegerx(L, -1, &ok);
  if (ok) {
    lb_check(L, ml_fail_prefix(ml_dtype_want(n->dtype, i), "tensor"));
    return i;
  }
  double d = lua_tonumber(L, -1);
  if (n->truncate) d = n->dtype == ML_BOOL ? d != 0 : trunc(d);
  bool fits = d == floor(d) && (n->dtype == ML_U64 ? d >= 0 && d < 0x1p64 : d >= -0x1p63 && d < 0x1p63);
  if (!fits) lb_usage(L, "tensor: %.14g is no value of dtype %s", d, ml_dtype_name(n->dtype));
  i = d < 0x1p63 ? (int64_t)d : (int64_t)(uint64_t)d;
  if (d < 0x1p63) lb_check(L, ml_fail_prefix(ml_dtype_want(n->dtype, i), "tensor"));
  return i;
}

static void put_number(lua_State *L, nest *n) {
  size_t bytes = (size_t)ml_dtype_infos[n->dtype].bytes;
  char *at = n->data + (size_t)n->at++ * bytes;
  if (ml_dtype_is_float(n->dtype)) {
    double d = lua_isboolean(L, -1) ? lua_toboolean(L, -1) : lua_tonumber(L, -1);
    float f = (float)d;
    memcpy(at, n->dtype == ML_F64 ? (const void *)&d : &f, bytes);
    return;
  }
  int64_t i = integer_for(L, n);
  if (n->dtype == ML_BOOL) i = i != 0;
  memcpy(at, &i, bytes); /* little-endian */
}

static void fill(lua_State *L, nest *n, int depth) {
  if (depth == n->ndim) {
    put_number(L, n);
    return;
  }
  for (int64_t i = 1; i <= n->shape[depth]; i++) {
    lua_geti(L, -1, i);
    fill(L, n, depth + 1);
    lua_pop(L, 1);
  }
}

static void from_host(lua_State *L, ml_dtype dtype, int ndim, const int64_t *shape, const void *data, size_t bytes,
                      ml_tensor **out) {
  ml_device *device = lb_engine(L)->device;
  ml_status status = ml_tensor_from_host(device, dtype, ndim, shape, data, bytes, out);
  if (lb_made_room(L, status)) status = ml_tensor_from_host(device, dtype, ndim, shape, data, bytes, out);
  lb_check(L, status);
}

/* make_tensor(values, dtype, truncate): from numbers, booleans and nested lists of them. */
static int make_tensor(lua_State *L) {
  if (lb_to_tensor(L, 1)) lb_usage(L, "tensor: the argument is a tensor already");
  lua_settop(L, 3);
  nest n = {.size = 1, .truncate = lua_toboolean(L, 3)};
  lua_pushvalue(L, 1);
  while (lua_istable(L, -1)) { /* the first entries tell the shape */
    if (n.ndim == ML_MAX_DIMS) lb_usage(L, "tensor: more than %d axes", ML_MAX_DIMS);
    n.shape[n.ndim] = lb_length(L, -1, "tensor");
    if (__builtin_mul_overflow(n.size, n.shape[n.ndim], &n.size) || n.size > (int64_t)1 << 48)
      lb_usage(L, "tensor: the nested lists hold too much");
    if (n.shape[n.ndim++] == 0) break;
    lua_geti(L, -1, 1);
  }
  lua_settop(L, 2);
  lua_pushvalue(L, 1);
  measure(L, &n, 0);
  if (n.has_boolean && (n.has_integer || n.has_float)) lb_usage(L, "tensor: numbers and booleans are mixed");
  n.dtype = n.has_boolean ? ML_BOOL : n.has_integer && !n.has_float ? ML_I32 : ML_F32;
  ml_dtype wanted = lua_isnoneornil(L, 2) ? n.dtype : lb_check_dtype(L, 2, "tensor: dtype");
  bool cast = wanted == ML_F16 || wanted == ML_BF16; /* of float64, so that numbers are rounded once */
  n.dtype = cast ? ML_F64 : wanted;
  if (ml_dtype_class_of(wanted) > ML_CLASS_BOOL)
    lb_usage(L, "tensor: no values of dtype %s can be written here", ml_dtype_name(wanted));
  size_t bytes = (size_t)n.size * (size_t)ml_dtype_infos[n.dtype].bytes;
  n.data = lua_newuserdatauv(L, bytes + 8, 0);
  lua_pushvalue(L, 1);
  fill(L, &n, 0);
  lua_pop(L, 1);
  ml_tensor **out = lb_new_tensor(L);
  from_host(L, n.dtype, n.ndim, n.shape, n.data, bytes, out);
  if (!cast) return 1;
  ml_attrs attrs = {.astype = {.dtype = wanted}};
  ml_tensor *wide = *out, **result = lb_new_tensor(L);
  lb_check(L, ml_apply(lb_engine(L), ML_OP_astype, &wide, 1, &attrs, result));
  lb_eval(L, result, 1);
  return 1;
}

/* from_bytes(bytes, shape, dtype) */
int lb_from_bytes(lua_State *L) {
  size_t size;
  const char *bytes = lb_check_text(L, 1, "from_bytes: bytes", &size);
  int64_t shape[ML_MAX_DIMS];
  int ndim = lb_check_shape(L, 2, "from_bytes: shape", shape);
  ml_dtype dtype = lb_check_dtype(L, 3, "from_bytes: dtype");
  ml_tensor **out = lb_new_tensor(L);
  from_host(L, dtype, ndim, shape, bytes, size, out);
  return 1;
}

/* make_state(tensor): a copy of its values in storage that effects may write. */
static int state_of(lua_State *L) {
  ml_tensor *from = lb_check_tensor(L, 1, "state");
  lb_no_more(L, 1, "state");
  ml_attrs none = {0};
  lb_check(L, ml_weight_check_strided(from, "state: x"));
  ml_tensor **out = lb_new_tensor(L);
  lb_check(L, ml_apply(lb_engine(L), ML_OP_copy, &from, 1, &none, out));
  lb_eval(L, out, 1);
  lb_check(L, ml_tensor_make_state(*out));
  return 1;
}

/* reserve_state(shape, dtype): one of zeros, without memory: none of it counts until state_commit gives it some. */
static int reserve_state(lua_State *L) {
  int64_t shape[ML_MAX_DIMS];
  lb_no_more(L, 2, "state");
  int ndim = lb_check_shape(L, 1, "state: shape", shape);
  ml_dtype dtype = lua_isnoneornil(L, 2) ? ML_F32 : lb_check_dtype(L, 2, "state: dtype");
  ml_tensor **out = lb_new_tensor(L);
  ml_device *device = lb_engine(L)->device;
  ml_status status = ml_state_reserve(device, dtype, ndim, shape, out);
  if (lb_made_room(L, status)) status = ml_state_reserve(device, dtype, ndim, shape, out);
  lb_check(L, ml_fail_prefix(status, "state"));
  return 1;
}

/* Memory for entries of a state, once more after a collection where there is none. */
static void commit(lua_State *L, ml_tensor *x, int axis, int64_t count) {
  ml_status status = ml_state_commit(x, axis, count);
  if (lb_made_room(L, status)) status = ml_state_commit(x, axis, count);
  lb_check(L, status);
}

/* make_state(tensor), or make_state(shape, dtype): one of zeros, all of which has memory. */
static int make_state(lua_State *L) {
  if (lb_to_tensor(L, 1)) return state_of(L);
  reserve_state(L);
  ml_tensor *x = lb_to_tensor(L, -1);
  commit(L, x, 0, x->ndim ? x->shape[0] : 1);
  lb_charge(L);
  return 1;
}

/* state_write(x, values, from): writes numbers (a flat list) over a state of any dtype but the half floats: all of it,
 * or as many entries from the one at position `from` on, row-major; returns x. */
static int state_write(lua_State *L) {
  ml_tensor *x = lb_check_tensor(L, 1, "state_write");
  if (!x->state) lb_usage(L, "state_write: the tensor is no state");
  int64_t n = lb_length(L, 2, "state_write"), size = ml_tensor_size(x);
  const int64_t at = lua_isnoneornil(L, 3) ? 0 : lb_check_integer(L, 3, "state_write: from") - 1;
  if (lua_isnoneornil(L, 3) ? n != size : at < 0 || at > size || n > size - at)
    lb_usage(L, "state_write: expected %lld values, found %lld", (long long)(at < 0 || at > size ? 0 : size - at),
             (long long)n);
  if (x->dtype == ML_F16 || x->dtype == ML_BF16)
    lb_usage(L, "state_write: no values of dtype %s can be written here; assign takes a tensor of them",
             ml_dtype_name(x->dtype));
  nest values = {.ndim = 1, .shape = {n}, .size = n, .dtype = x->dtype};
  const size_t item = (size_t)ml_dtype_infos[x->dtype].bytes;
  values.data = lua_newuserdatauv(L, (size_t)n * item + 8, 0);
  lua_pushvalue(L, 2);
  measure(L, &values, 0);
  fill(L, &values, 0);
  lb_check(L, ml_state_write(x, (size_t)at * item, values.data, (size_t)n * item));
  lua_settop(L, 1);
  return 1;
}

/* state_commit(x, axis, count): gives the first entries along an axis of a reserved state memory; "limit" where the
 * memory limit forbids it. */
static int state_commit(lua_State *L) {
  ml_tensor *x = lb_check_tensor(L, 1, "state_commit");
  const int64_t axis = lb_check_integer(L, 2, "state_commit: axis"), count = lb_check_integer(L, 3, "count");
  if (axis < 1 || axis > ML_MAX_DIMS) lb_usage(L, "state_commit: axis %lld is out of range", (long long)axis);
  lb_check(L, ml_state_commit(x, (int)axis - 1, count));
  return 0;
}

int lb_open_make(lua_State *L) {
  static const luaL_Reg functions[] = {{"make_tensor", make_tensor},     {"make_state", make_state},
                                       {"reserve_state", reserve_state}, {"state_write", state_write},
                                       {"state_commit", state_commit},   {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
