/* weights.c: tensors out of files, and the layout that products want. */
#include "io/load.h"
#include "lua_bind/files.h"
#include "lua_bind/lua_bind.h"
#include "tensor/weight.h"

static bool option(lua_State *L, int index, const char *name) {
  if (!lua_istable(L, index)) return false;
  lua_getfield(L, index, name);
  bool on = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return on;
}

static void read_options(lua_State *L, int index, ml_pack_options *o) {
  o->exact = option(L, index, "exact");
  o->quantize = option(L, index, "quantize");
  lua_getfield(L, index, "heads");
  if (!lua_isnil(L, -1)) o->heads = lb_check_integer(L, -1, "load: heads");
  lua_getfield(L, index, "quantize");
  if (o->quantize) o->format = lb_check_dtype(L, -1, "load: quantize");
  lua_pop(L, 2);
}

/* file:load(name, {packed, exact, heads, quantize}) -> tensor | nil, message, code. Packed: a matrix for products, its
 * floats rounded to the blocks that `quantize` names. Else the values as the file has them (block formats stay blocks).
 */
int lb_file_load(lua_State *L) {
  const ml_checkpoint *c = lb_check_checkpoint(L, 1);
  const char *name = lb_check_text(L, 2, "load: name", NULL);
  ml_device *device = lb_engine(L)->device;
  const ml_entry *entry = ml_checkpoint_find(c, name);
  if (!entry) return lb_fail(L, ml_fail(ML_NOT_FOUND, "tensor \"%s\" is missing", name));
  bool packed = option(L, 3, "packed");
  ml_pack_options options = {.heads = 0};
  if (packed) read_options(L, 3, &options);
  ml_tensor **out = lb_new_tensor(L);
  ml_status status = packed ? ml_entry_load_packed(device, entry, &options, out) : ml_entry_load(device, entry, out);
  return status == ML_OK ? 1 : lb_fail(L, status);
}

/* pack(tensor [, exact]): a packed copy of a weight (plain floats or blocks). */
static int pack(lua_State *L) {
  lua_settop(L, 2);
  ml_tensor *t = lb_check_tensor(L, 1, "pack");
  if (t->ndim != 2 && t->ndim != 3) lb_usage(L, "pack: expected 2 or 3 axes, found %d", t->ndim);
  if (t->layout == ML_LAYOUT_PANELS) {
    lua_settop(L, 1);
    return 1;
  }
  lb_eval(L, &t, 1);
  ml_tensor **out = lb_new_tensor(L);
  lb_check(L, ml_weight_pack(t, lua_toboolean(L, 2), out));
  return 1;
}

/* unpack(tensor): the file's own blocks (or floats) again. */
static int unpack(lua_State *L) {
  ml_tensor *t = lb_check_tensor(L, 1, "unpack");
  if (t->layout != ML_LAYOUT_PANELS) lb_unexpected(L, 1, "unpack", "a packed weight");
  ml_tensor **out = lb_new_tensor(L);
  lb_check(L, ml_weight_unpack(t, out));
  return 1;
}

/* check_strided(tensor, what): an error of `what` where the tensor is packed or in blocks. */
static int check_strided(lua_State *L) {
  lb_check(L, ml_weight_check_strided(lb_check_tensor(L, 1, "check_strided"),
                                      lb_check_text(L, 2, "check_strided: what", NULL)));
  return 0;
}

/* random_packed(dtype, rows, inputs, deviation, seed, exact [, experts]): a weight of true shape for tests and
 * benchmarks. */
static int random_packed(lua_State *L) {
  lua_settop(L, 7);
  ml_dtype dtype = lb_check_dtype(L, 1, "random_packed: dtype");
  const int64_t rows = lb_check_integer(L, 2, "rows"), inputs = lb_check_integer(L, 3, "inputs");
  const bool one = lua_isnil(L, 7);
  const int64_t shape[] = {one ? 1 : lb_check_integer(L, 7, "experts"), rows, inputs};
  double deviation = lb_check_number(L, 4, "deviation");
  uint64_t seed = (uint64_t)lb_check_integer(L, 5, "seed");
  ml_tensor **out = lb_new_tensor(L);
  ml_status status =
      ml_weight_random(lb_engine(L)->device, dtype, 3 - one, shape + one, deviation, seed, lua_toboolean(L, 6), out);
  lb_check(L, ml_fail_prefix(status, "random_packed"));
  return 1;
}

int lb_open_weights(lua_State *L) {
  static const luaL_Reg functions[] = {{"pack", pack},
                                       {"unpack", unpack},
                                       {"check_strided", check_strided},
                                       {"random_packed", random_packed},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
