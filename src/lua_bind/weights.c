/* weights.c: tensors out of files, and the layout that products want. */
#include "io/load.h"
#include "lua_bind/files.h"
#include "lua_bind/lua_bind.h"
#include "tensor/weight.h"

#include <string.h>

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

static ml_status load_entry(lua_State *L, const char *name, const ml_pack_options *packed, ml_tensor **out) {
  ml_device *device = lb_engine(L)->device;
  const ml_entry *entry = ml_checkpoint_find(lb_check_checkpoint(L, 1), name);
  if (!entry) return ml_fail(ML_NOT_FOUND, "tensor \"%s\" is missing", name);
  return packed ? ml_entry_load_packed(device, entry, packed, out) : ml_entry_load(device, entry, out);
}

/* file:load(name, {packed, exact, heads, quantize}) -> tensor | nil, message, code. Packed: a matrix for products, its
 * floats rounded to the blocks that `quantize` names. Else the values as the file has them (block formats stay blocks).
 */
int lb_file_load(lua_State *L) {
  lb_check_checkpoint(L, 1);
  const char *name = lb_check_text(L, 2, "load: name", NULL);
  bool packed = option(L, 3, "packed");
  ml_pack_options options = {.heads = 0};
  if (packed) read_options(L, 3, &options);
  ml_tensor **out = lb_new_tensor(L);
  ml_status status = load_entry(L, name, packed ? &options : NULL, out);
  if (lb_made_room(L, status)) status = load_entry(L, name, packed ? &options : NULL, out);
  return status == ML_OK ? 1 : lb_fail(L, status);
}

/* pack(tensor [, exact]): a packed copy of a weight (plain floats or blocks). */
static int pack(lua_State *L) {
  lua_settop(L, 2);
  ml_tensor *t = lb_check_tensor(L, 1, "pack");
  if (t->ndim != 2 && t->ndim != 3) lb_usage(L, "pack: expected 2 or 3 axes, found %d", t->ndim);
  if (t->layout == ML_LAYOUT_PANELS && t->exact == lua_toboolean(L, 2)) {
    lua_settop(L, 1);
    return 1;
  }
  lb_eval(L, &t, 1);
  ml_tensor **out = lb_new_tensor(L);
  const bool exact = lua_toboolean(L, 2);
  ml_tensor_retain(t);
  ml_status status = ml_weight_pack(t, exact, out);
  if (lb_made_room(L, status)) status = ml_weight_pack(t, exact, out);
  lb_give_back(L, t);
  lb_check(L, status);
  return 1;
}

static void check_source(lua_State *L, const ml_tensor *t, const char *what, ml_dtype dtype, int ndim,
                         const int64_t *shape) {
  if (t->dtype != dtype) lb_usage(L, "%s: expected %s, found %s", what, ml_dtype_name(dtype), ml_dtype_name(t->dtype));
  if (ml_same_shape(t->ndim, t->shape, ndim, shape)) return;
  lb_usage(L, "%s: expected shape %s, found %s", what, ml_shape_text(ndim, shape, (char[160]){0}, 160),
           ml_shape_text(t->ndim, t->shape, (char[160]){0}, 160));
}

/* pack_affine(codes, scales, biases, bits, group [, exact]): a packed weight of three tensors as MLX's checkpoints have
 * them: codes (outputs, inputs bits / 32) of uint32, scales and biases (outputs, inputs / group); or one of each an
 * expert. */
static int pack_affine(lua_State *L) {
  static const char *const names[] = {"codes", "scales", "biases"};
  lua_settop(L, 6);
  ml_tensor *sources[3];
  for (int i = 0; i < 3; i++) sources[i] = lb_check_tensor(L, i + 1, names[i]);
  const ml_tensor *codes = sources[0];
  const int64_t bits = lb_check_integer(L, 4, "bits"), group = lb_check_integer(L, 5, "group");
  const ml_dtype scale = sources[1]->dtype;
  if (!ml_quant_affine(bits, 32, ML_F32)) lb_usage(L, "bits: expected 2, 3, 4, 5, 6 or 8, found %lld", (long long)bits);
  if (!ml_quant_affine(4, group, ML_F32)) lb_usage(L, "group: expected 32, 64 or 128, found %lld", (long long)group);
  const ml_quant *q = ml_quant_affine(bits, group, scale);
  if (!q) lb_usage(L, "scales: expected a float dtype of 16 or 32 bits, found %s", ml_dtype_name(scale));
  if (codes->ndim != 2 && codes->ndim != 3) lb_usage(L, "codes: expected 2 or 3 axes, found %d", codes->ndim);
  int64_t shape[3];
  int64_t *inputs = &shape[codes->ndim - 1];
  memcpy(shape, codes->shape, sizeof shape);
  check_source(L, codes, names[0], ML_U32, codes->ndim, shape);
  const int64_t width = *inputs * 32 / bits;
  *inputs = width / group;
  for (int i = 1; i < 3; i++) check_source(L, sources[i], names[i], scale, codes->ndim, shape);
  *inputs = width;
  char *data[3];
  for (int i = 0; i < 3; i++) {
    data[i] = lua_newuserdatauv(L, ml_tensor_nbytes(sources[i]), 0);
    lb_check(L, ml_tensor_read(sources[i], data[i]));
  }
  ml_tensor **out = lb_new_tensor(L);
  const void *const from[] = {data[0], data[1], data[2]};
  ml_device *device = codes->device;
  const int ndim = codes->ndim;
  const bool exact = lua_toboolean(L, 6);
  ml_status status = ml_weight_from_sources(device, q, ndim, shape, from, exact, out);
  if (lb_made_room(L, status)) status = ml_weight_from_sources(device, q, ndim, shape, from, exact, out);
  lb_check(L, ml_fail_prefix(status, "pack_affine"));
  return 1;
}

/* unpack(tensor): the file's own blocks (or floats) again. */
static int unpack(lua_State *L) {
  ml_tensor *t = lb_check_tensor(L, 1, "unpack");
  if (t->layout != ML_LAYOUT_PANELS) lb_unexpected(L, 1, "unpack", "a packed weight");
  ml_tensor **out = lb_new_tensor(L);
  ml_tensor_retain(t);
  ml_status status = ml_weight_unpack(t, out);
  if (lb_made_room(L, status)) status = ml_weight_unpack(t, out);
  lb_give_back(L, t);
  lb_check(L, status);
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
                                       {"pack_affine", pack_affine},
                                       {"unpack", unpack},
                                       {"check_strided", check_strided},
                                       {"random_packed", random_packed},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
