/* weight.c: matrices in the layout that a device's products want: made, filled, copied, invented. */
#include "tensor/weight.h"

#include <stdio.h>
#include <string.h>

static const size_t CHUNK_BYTES = (size_t)1 << 20; /* rows packed at once */
static const size_t MAX_ROW_BYTES = (size_t)64 << 20;

static bool packs(ml_device *d, ml_dtype t) { return d->table->packed_bytes(d, t, 1, ml_dtype_infos[t].block) > 0; }

/* Of a matrix that the device does not pack: names what it does. */
static ml_status refuse(ml_device *device, ml_dtype dtype, int64_t rows, int64_t inputs) {
  char names[256] = "";
  size_t at = 0;
  if (packs(device, dtype))
    return ml_fail(ML_UNSUPPORTED, "a weight (%lld, %lld) of %s is not packed", (long long)rows, (long long)inputs,
                   ml_dtype_name(dtype));
  for (int t = 0; t < ML_AFFINE_FIRST && at < sizeof names; t++)
    if (packs(device, (ml_dtype)t))
      at += (size_t)snprintf(names + at, sizeof names - at, "%s, ", ml_dtype_name((ml_dtype)t));
  const char *affine = packs(device, ML_AFFINE_FIRST) ? "affine codes, " : "";
  return ml_fail(ML_UNSUPPORTED, "expected a weight of %s%sfound %s", names, affine, ml_dtype_name(dtype));
}

ml_status ml_weight_check_strided(const ml_tensor *t, const char *what) {
  if (t->layout == ML_LAYOUT_STRIDED) return ML_OK;
  const bool packed = t->layout == ML_LAYOUT_PANELS;
  return ml_fail(ML_USAGE, "%s: a weight of %s %s: %s it first (linear and look-ups take it as it is)", what,
                 ml_dtype_name(t->dtype), packed ? "packed for products" : "in blocks",
                 packed && !ml_dtype_is_block(t->dtype) ? "unpack" : "dequantize");
}

ml_status ml_weight_create(ml_device *device, ml_dtype dtype, int64_t rows, int64_t inputs, bool exact,
                           ml_tensor **out) {
  size_t bytes = device->table->packed_bytes(device, dtype, rows, inputs);
  if (!bytes) return refuse(device, dtype, rows, inputs);
  ml_buffer *buffer;
  ML_TRY(ml_buffer_create(device, bytes, &buffer));
  ml_status status = ml_tensor_wrap(buffer, 0, dtype, ML_LAYOUT_PANELS, 2, (int64_t[]){rows, inputs}, out);
  ml_buffer_release(buffer);
  if (status == ML_OK) (*out)->exact = exact;
  return status;
}

ml_status ml_weight_chunk(const ml_device *device, size_t row_bytes, int64_t *rows) {
  if (row_bytes > MAX_ROW_BYTES)
    return ml_fail(ML_UNSUPPORTED, "rows of %zu bytes: expected at most %zu", row_bytes, MAX_ROW_BYTES);
  int64_t groups = row_bytes ? (int64_t)(CHUNK_BYTES / (row_bytes * (size_t)device->group)) : 1;
  *rows = (groups > 0 ? groups : 1) * device->group;
  return ML_OK;
}

ml_status ml_weight_put(ml_tensor *weight, int64_t first, int64_t count, const void *from) {
  ml_device *d = weight->device;
  ml_status now = ml_flag_poll(&weight->engine->cancel);
  if (now != ML_OK) return ml_fail(now, "%s", ml_status_name(now));
  return d->table->pack(d, ml_tensor_data(weight), weight->dtype, weight->shape[1], first, count, from);
}

/* Row-major bytes of a tensor on the host, from ml_alloc. */
static ml_status on_host(ml_tensor *t, void **out) {
  void *data = ml_alloc(ml_tensor_nbytes(t));
  if (!data) return ML_MEMORY;
  ml_status status = ml_tensor_read(t, data);
  if (status == ML_OK) *out = data;
  else ml_free(data);
  return status;
}

ml_status ml_weight_from_host(ml_device *d, ml_dtype dtype, int64_t rows, int64_t inputs, const void *data, bool exact,
                              ml_tensor **out) {
  ml_tensor *weight;
  ML_TRY(ml_weight_create(d, dtype, rows, inputs, exact, &weight));
  ml_status status = d->table->pack(d, ml_tensor_data(weight), dtype, inputs, 0, rows, data);
  if (status == ML_OK) *out = weight;
  else ml_tensor_release(weight);
  return status;
}

/* Rows of a weight, put together of its sources. */
static ml_status put_joined(ml_tensor *weight, const ml_quant *q, const void *const *sources, int64_t chunk,
                            char *room) {
  const int64_t rows = weight->shape[0], blocks = weight->shape[1] / q->block;
  size_t pitch[ML_QUANT_SOURCES] = {0}; /* bytes of a source in a row */
  for (int i = 0; i < q->n_fields; i++) pitch[q->fields[i].source] += (size_t)(q->fields[i].bytes * blocks);
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t n = rows - first < chunk ? rows - first : chunk;
    const void *from[ML_QUANT_SOURCES];
    for (int i = 0; i < q->n_sources; i++) from[i] = (const char *)sources[i] + (size_t)first * pitch[i];
    ml_quant_join(q, n * blocks, from, room);
    ML_TRY(ml_weight_put(weight, first, n, room));
  }
  return ML_OK;
}

ml_status ml_weight_from_sources(ml_device *d, const ml_quant *q, int64_t rows, int64_t inputs,
                                 const void *const *sources, bool exact, ml_tensor **out) {
  ml_tensor *weight;
  size_t row_bytes;
  int64_t chunk = 0;
  if (!ml_dtype_row_bytes(q->dtype, inputs, &row_bytes))
    return ml_fail(ML_MISMATCH, "%lld inputs are no whole groups of %d", (long long)inputs, q->block);
  ML_TRY(ml_weight_chunk(d, row_bytes, &chunk));
  ML_TRY(ml_weight_create(d, q->dtype, rows, inputs, exact, &weight));
  char *room = ml_alloc((size_t)chunk * row_bytes);
  ml_status status = room ? put_joined(weight, q, sources, chunk, room) : ML_MEMORY;
  ml_free(room);
  if (status == ML_OK) *out = weight;
  else ml_tensor_release(weight);
  return status;
}

ml_status ml_weight_pack(ml_tensor *t, bool exact, ml_tensor **out) {
  void *data;
  ML_TRY(on_host(t, &data));
  ml_status status = ml_weight_from_host(t->device, t->dtype, t->shape[0], t->shape[1], data, exact, out);
  ml_free(data);
  return status;
}

ml_status ml_weight_unpack(ml_tensor *t, ml_tensor **out) {
  void *data;
  ML_TRY(on_host(t, &data));
  ml_status status = ml_tensor_from_host(t->device, t->dtype, t->ndim, t->shape, data, ml_tensor_nbytes(t), out);
  ml_free(data);
  return status;
}

/* ---- random weights ---- */

static uint64_t next_random(uint64_t *s) { /* splitmix64 */
  uint64_t z = (*s += 0x9e3779b97f4a7c15u);
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static void put_half(uint8_t *to, double value) {
  uint16_t h = ml_f32_to_f16((float)value);
  memcpy(to, &h, 2);
}

/* Random codes under scales that give weights of about `deviation`. `levels` is the deviation of codes that are all
 * alike likely; scales of the K formats are themselves codes, of about 32 times their unit (Q6_K: 74). */
static void random_blocks(ml_dtype t, double deviation, uint64_t *seed, uint8_t *data, size_t bytes) {
  const ml_dtype_info *info = &ml_dtype_infos[t];
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    uint64_t r = next_random(seed);
    memcpy(data + i, &r, 8);
  }
  for (uint8_t *b = data; b + info->bytes <= data + bytes; b += info->bytes) {
    double levels = t == ML_Q8_0 ? 74 : t == ML_Q5_0 || t == ML_Q5_1 ? 9.2 : 4.6;
    switch (t) {
    case ML_Q6_K: put_half(b + 208, deviation / 18 / 74); break;
    case ML_Q4_K: put_half(b, deviation / 4.6 / 32), put_half(b + 2, deviation / 32 * 1.6); break;
    case ML_Q5_K: put_half(b, deviation / 9.2 / 32), put_half(b + 2, deviation / 32 * 1.7); break;
    case ML_Q4_1:
    case ML_Q5_1: put_half(b, deviation / levels), put_half(b + 2, deviation * -1.63); break;
    default: put_half(b, deviation / levels);
    }
  }
}

static void random_floats(ml_dtype t, double deviation, uint64_t *seed, uint8_t *data, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    float f = (float)(((double)(next_random(seed) >> 11) * 0x1p-53 - 0.5) * 3.4641016 * deviation);
    uint16_t half = t == ML_BF16 ? ml_f32_to_bf16(f) : ml_f32_to_f16(f);
    if (t == ML_F32) memcpy(data + 4 * i, &f, 4);
    else memcpy(data + 2 * i, &half, 2);
  }
}

static ml_status fill_random(ml_tensor *weight, double deviation, uint64_t seed, uint8_t *room, size_t bytes) {
  int64_t rows = weight->shape[0], inputs = weight->shape[1], group = weight->device->group;
  for (int64_t first = 0; first < rows; first += group) {
    if (ml_dtype_is_block(weight->dtype)) random_blocks(weight->dtype, deviation, &seed, room, bytes);
    else random_floats(weight->dtype, deviation, &seed, room, inputs * group);
    ML_TRY(ml_weight_put(weight, first, rows - first < group ? rows - first : group, room));
  }
  return ML_OK;
}

ml_status ml_weight_random(ml_device *device, ml_dtype dtype, int64_t rows, int64_t inputs, double deviation,
                           uint64_t seed, bool exact, ml_tensor **out) {
  size_t row_bytes;
  int64_t chunk;
  if (rows < 0 || rows > INT32_MAX || inputs < 0 || inputs > INT32_MAX ||
      !ml_dtype_row_bytes(dtype, inputs, &row_bytes)) {
    return ml_fail(ML_USAGE, "%lld inputs are no whole blocks of %s, or %lld no count of rows", (long long)inputs,
                   ml_dtype_name(dtype), (long long)rows);
  }
  if (!(deviation >= 0 && deviation <= 1024))
    return ml_fail(ML_USAGE, "expected a deviation from 0 to 1024, found %g", deviation);
  ML_TRY(ml_weight_chunk(device, row_bytes, &chunk));
  ml_tensor *weight;
  ML_TRY(ml_weight_create(device, dtype, rows, inputs, exact, &weight));
  const size_t group_bytes = row_bytes * (size_t)device->group;
  uint8_t *room = ml_alloc(group_bytes);
  ml_status status = room ? fill_random(weight, deviation, seed, room, group_bytes) : ML_MEMORY;
  ml_free(room);
  if (status == ML_OK) *out = weight;
  else ml_tensor_release(weight);
  return status;
}
