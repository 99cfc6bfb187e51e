/* weights.c: tensors out of files into the layout that products want, packing and unpacking. */
#include "lua_bind/lua_bind.h"

#include "lua_bind/files.h"
#include "tensor/quant_rows.h"

#include <string.h>

/* Rows read and packed at once. */
static const size_t CHUNK_BYTES = (size_t)1 << 20;

/* What load may do to rows on their way: `heads` > 0 turns rows (head, pair, half), as GGUF stores the queries and keys
 * of interleaved rope, into (head, half, pair). */
static int64_t source_row(int64_t row, int64_t rows, int64_t heads) {
  if (heads <= 0) return row;
  int64_t d = rows / heads, half = d / 2, r = row % d;
  return row / d * d + r % half * 2 + r / half;
}

/* One matrix on its way from a file into panels. */
typedef struct packing {
  ml_engine *engine;
  const ml_entry *entry;
  ml_dtype dtype; /* of the packed weight: the entry's, or the blocks that its floats are rounded to */
  int64_t heads;
  char *room, *blocks; /* `group` rows as the file has them, and rounded (NULL where they are not) */
  int64_t group;
  size_t row_bytes;
} packing;

static ml_status read_rows(const packing *p, int64_t first, int64_t n) {
  const ml_entry *e = p->entry;
  if (p->heads <= 0)
    return ml_file_read(e->file, e->offset + (size_t)first * p->row_bytes, p->room, (size_t)n * p->row_bytes);
  for (int64_t r = 0; r < n; r++) {
    size_t at = (size_t)source_row(first + r, e->shape[0], p->heads) * p->row_bytes;
    ML_TRY(ml_file_read(e->file, e->offset + at, p->room + (size_t)r * p->row_bytes, p->row_bytes));
  }
  return ML_OK;
}

static ml_status pack_rows(const packing *p, void *packed) {
  int64_t rows = p->entry->shape[0], inputs = p->entry->shape[1];
  ml_device *d = p->engine->device;
  for (int64_t first = 0; first < rows; first += p->group) {
    int64_t n = rows - first < p->group ? rows - first : p->group;
    ml_status now = ml_flag_poll(&p->engine->cancel);
    if (now != ML_OK) return ml_fail(now, "%s", ml_status_name(now));
    ML_TRY(read_rows(p, first, n));
    if (p->blocks) ML_TRY(ml_quantize_values(p->dtype, p->entry->dtype, n * inputs, p->room, p->blocks));
    ML_TRY(d->table->pack(d, packed, p->dtype, inputs, first, n, p->blocks ? p->blocks : p->room));
  }
  return ML_OK;
}

/* A tensor over a fresh buffer in packed layout. */
static ml_status packed_tensor(ml_device *d, ml_dtype dtype, int64_t rows, int64_t inputs, bool exact,
                               ml_tensor **out) {
  size_t bytes = d->table->packed_bytes(d, dtype, rows, inputs);
  if (!bytes)
    return ml_fail(ML_UNSUPPORTED, "weights of dtype %s and %lld inputs are not packed", ml_dtype_name(dtype),
                   (long long)inputs);
  ml_buffer *buffer;
  ML_TRY(ml_buffer_create(d, bytes, &buffer));
  ml_status status = ml_tensor_wrap(buffer, 0, dtype, ML_LAYOUT_PANELS, 2, (int64_t[]){rows, inputs}, out);
  ml_buffer_release(buffer);
  if (status == ML_OK) (*out)->exact = exact;
  return status;
}

static bool option(lua_State *L, int index, const char *name) {
  if (!lua_istable(L, index)) return false;
  lua_getfield(L, index, name);
  bool on = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return on;
}

static int64_t option_integer(lua_State *L, int index, const char *name) {
  if (!lua_istable(L, index)) return 0;
  lua_getfield(L, index, name);
  int64_t n = lua_isnil(L, -1) ? 0 : lb_check_integer(L, -1, name);
  lua_pop(L, 1);
  return n;
}

/* Room for some rows of a matrix, on the stack; the file has checked that its bytes can be counted. */
static void prepare_packing(lua_State *L, packing *p) {
  const ml_entry *e = p->entry;
  size_t block_bytes = 0;
  if (!ml_dtype_row_bytes(e->dtype, e->shape[1], &p->row_bytes) ||
      !ml_dtype_row_bytes(p->dtype, e->shape[1], &block_bytes)) {
    lb_usage(L, "%s: %lld inputs are no whole blocks of %s", e->name, (long long)e->shape[1], ml_dtype_name(p->dtype));
  }
  if (p->row_bytes > CHUNK_BYTES * 64) lb_usage(L, "%s: rows of %zu bytes", e->name, p->row_bytes);
  int64_t groups = p->row_bytes ? (int64_t)(CHUNK_BYTES / (p->row_bytes * ML_PACK_ROWS)) : 1;
  p->group = (groups > 0 ? groups : 1) * ML_PACK_ROWS;
  p->room = lua_newuserdatauv(L, (size_t)p->group * p->row_bytes + 1, 0);
  if (p->dtype != e->dtype) p->blocks = lua_newuserdatauv(L, (size_t)p->group * block_bytes + 1, 0);
}

static int load_packed(lua_State *L, const ml_entry *entry) {
  bool exact = option(L, 3, "exact");
  packing p = {.engine = lb_engine(L), .entry = entry, .dtype = entry->dtype, .heads = option_integer(L, 3, "heads")};
  if (entry->ndim != 2)
    return lb_fail(L, ml_fail(ML_MISMATCH, "%s: expected 2 axes, found %d", entry->name, entry->ndim));
  if (p.heads > 0 && entry->shape[0] % (2 * p.heads) != 0) {
    return lb_fail(L, ml_fail(ML_MISMATCH, "%s: %lld rows do not divide into pairs of %lld heads", entry->name,
                              (long long)entry->shape[0], (long long)p.heads));
  }
  if (option(L, 3, "quantize")) {
    lua_getfield(L, 3, "quantize");
    p.dtype = lb_check_dtype(L, -1, "quantize");
  }
  prepare_packing(L, &p);
  ml_tensor **out = lb_new_tensor(L);
  ml_status status = packed_tensor(p.engine->device, p.dtype, entry->shape[0], entry->shape[1], exact, out);
  if (status == ML_OK) status = pack_rows(&p, ml_tensor_data(*out));
  if (status == ML_OK) return 1;
  ml_tensor_release(*out); /* now, not when the collector comes by */
  *out = NULL;
  return lb_fail(L, ml_fail_prefix(status, "%s", entry->name));
}

/* file:load(name, {packed, exact, heads, quantize}) -> tensor | nil, message, code. Packed: a matrix for products, its
 * floats rounded to the blocks that `quantize` names. Else the values as the file has them (block formats stay blocks).
 */
int lb_file_load(lua_State *L) {
  const ml_checkpoint *c = lb_check_checkpoint(L, 1);
  const char *name = lb_check_text(L, 2, "load: name", NULL);
  const ml_entry *entry = ml_checkpoint_find(c, name);
  if (!entry) return lb_fail(L, ml_fail(ML_NOT_FOUND, "tensor \"%s\" is missing", name));
  if (option(L, 3, "packed")) return load_packed(L, entry);
  char *room = lua_newuserdatauv(L, entry->bytes + 1, 0);
  ml_tensor **out = lb_new_tensor(L);
  ml_status status = ml_file_read(entry->file, entry->offset, room, entry->bytes);
  if (status == ML_OK)
    status =
        ml_tensor_from_host(lb_engine(L)->device, entry->dtype, entry->ndim, entry->shape, room, entry->bytes, out);
  return status == ML_OK ? 1 : lb_fail(L, ml_fail_prefix(status, "%s", name));
}

/* pack(tensor [, exact]): a packed copy of a matrix (plain floats or blocks). */
static int pack(lua_State *L) {
  lua_settop(L, 2);
  ml_tensor *t = lb_check_tensor(L, 1, "pack");
  if (t->ndim != 2) lb_usage(L, "pack: expected 2 axes, found %d", t->ndim);
  if (t->layout == ML_LAYOUT_PANELS) {
    lua_settop(L, 1);
    return 1;
  }
  char *data = lua_newuserdatauv(L, ml_tensor_nbytes(t) + 1, 0);
  lb_eval(L, &t, 1);
  lb_check(L, ml_tensor_read(t, data));
  ml_tensor **out = lb_new_tensor(L);
  lb_check(L, ml_tensor_pack(t, data, lua_toboolean(L, 2), out));
  return 1;
}

/* unpack(tensor): the file's own blocks (or floats) again. */
static int unpack(lua_State *L) {
  ml_tensor *t = lb_check_tensor(L, 1, "unpack");
  if (t->layout != ML_LAYOUT_PANELS) lb_usage(L, "unpack: the tensor is not packed");
  char *data = lua_newuserdatauv(L, ml_tensor_nbytes(t) + 1, 0);
  lb_check(L, t->device->table->unpack(t->device, ml_tensor_data(t), t->dtype, t->shape[1], 0, t->shape[0], data));
  ml_tensor **out = lb_new_tensor(L);
  lb_check(L, ml_tensor_from_host(t->device, t->dtype, t->ndim, t->shape, data, ml_tensor_nbytes(t), out));
  return 1;
}

static int is_packed(lua_State *L) {
  lua_pushboolean(L, lb_check_tensor(L, 1, "is_packed")->layout == ML_LAYOUT_PANELS);
  return 1;
}

/* ---- random weights ---- */

static uint64_t next_random(uint64_t *s) { /* splitmix64 */
  uint64_t z = (*s += 0x9e3779b97f4a7c15u);
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

/* A float16 just below `size` > 0: a scale. */
static uint16_t half_scale(double size) {
  int exponent = 15;
  while (size < 1 && exponent > 1) size *= 2, exponent--;
  while (size >= 2) size /= 2, exponent++;
  if (size < 1) return (uint16_t)(size * 1024); /* subnormal */
  return (uint16_t)(exponent << 10 | (int)((size - 1) * 1024));
}

/* Fills blocks with random codes under scales that give weights of about `deviation`. */
static void random_blocks(ml_dtype t, double deviation, uint64_t *seed, uint8_t *data, size_t bytes) {
  const ml_dtype_info *info = &ml_dtype_infos[t];
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    uint64_t r = next_random(seed);
    memcpy(data + i, &r, 8);
  }
  for (uint8_t *b = data; b + info->bytes <= data + bytes; b += info->bytes) {
    bool k = info->block == 256, with_min = t == ML_Q4_1 || t == ML_Q5_1;
    double levels = t == ML_Q8_0 ? 74 : t == ML_Q5_0 || t == ML_Q5_1 ? 9.2 : 4.6;
    uint16_t d = half_scale(t == ML_Q6_K   ? deviation / 18 / 74
                            : t == ML_Q4_K ? deviation / 4.6 / 32
                            : t == ML_Q5_K ? deviation / 9.2 / 32
                                           : deviation / levels);
    if (t == ML_Q6_K) memcpy(b + 208, &d, 2);
    else memcpy(b, &d, 2);
    uint16_t m = half_scale(k ? deviation / 32 * (t == ML_Q4_K ? 1.6 : 1.7) : deviation * 1.63);
    if (with_min) m |= 0x8000;
    if (with_min || (k && t != ML_Q6_K)) memcpy(b + 2, &m, 2);
  }
}

/* random_packed(dtype, rows, inputs, deviation, seed, exact): a weight of true shape for tests and benchmarks. */
static int random_packed(lua_State *L) {
  lua_settop(L, 6);
  ml_dtype dtype = lb_check_dtype(L, 1, "random_packed: dtype");
  int64_t rows = lb_check_integer(L, 2, "rows"), inputs = lb_check_integer(L, 3, "inputs");
  double deviation = lb_check_number(L, 4, "deviation");
  uint64_t seed = (uint64_t)lb_check_integer(L, 5, "seed");
  size_t row_bytes;
  if (rows < 0 || rows > INT32_MAX || inputs < 0 || inputs > INT32_MAX ||
      !ml_dtype_row_bytes(dtype, inputs, &row_bytes)) {
    lb_usage(L, "random_packed: %lld inputs are no whole blocks of %s, or %lld no count of rows", (long long)inputs,
             ml_dtype_name(dtype), (long long)rows);
  }
  if (row_bytes > CHUNK_BYTES * 64) lb_usage(L, "random_packed: rows of %zu bytes", row_bytes);
  if (!(deviation >= 0 && deviation <= 1024))
    lb_usage(L, "random_packed: expected a deviation from 0 to 1024, found %g", deviation);
  size_t bytes = row_bytes * ML_PACK_ROWS;
  uint8_t *room = lua_newuserdatauv(L, bytes + 8, 0);
  ml_device *d = lb_engine(L)->device;
  ml_tensor **out = lb_new_tensor(L);
  lb_check(L, packed_tensor(d, dtype, rows, inputs, lua_toboolean(L, 6), out));
  for (int64_t r = 0; r < rows; r += ML_PACK_ROWS) {
    if (ml_dtype_is_block(dtype)) random_blocks(dtype, deviation, &seed, room, bytes);
    else {
      for (int64_t i = 0; i < inputs * ML_PACK_ROWS; i++) { /* uniform, of the deviation asked for */
        float f = (float)(((double)(next_random(&seed) >> 11) * 0x1p-53 - 0.5) * 3.4641016 * deviation);
        uint32_t u;
        memcpy(&u, &f, 4);
        if (dtype == ML_F32) memcpy(room + 4 * i, &f, 4);
        else {
          uint16_t h =
              dtype == ML_BF16 ? (uint16_t)(u >> 16) : (uint16_t)((u >> 16 & 0x8000) | half_scale(f < 0 ? -f : f));
          memcpy(room + 2 * i, &h, 2);
        }
      }
    }
    int64_t n = rows - r < ML_PACK_ROWS ? rows - r : ML_PACK_ROWS;
    lb_check(L, d->table->pack(d, ml_tensor_data(*out), dtype, inputs, r, n, room));
  }
  return 1;
}

int lb_open_weights(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"pack", pack}, {"unpack", unpack}, {"is_packed", is_packed}, {"random_packed", random_packed}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
