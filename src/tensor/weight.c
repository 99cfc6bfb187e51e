/* weight.c: matrices, or one an expert, in the layout that a device's products want: made, filled, copied, invented. */
#include "tensor/weight.h"

#include <stdio.h>
#include <string.h>

static const size_t CHUNK_BYTES = (size_t)1 << 20; /* rows packed at once */
static const size_t MAX_ROW_BYTES = (size_t)64 << 20;

static bool packs(ml_device *d, ml_dtype t) { return d->table->packed_bytes(d, t, 1, ml_dtype_infos[t].block) > 0; }

/* Of a weight that the device does not pack: names what it does. */
static ml_status refuse(ml_device *device, ml_dtype dtype, int ndim, const int64_t *shape) {
  char names[256] = "";
  size_t at = 0;
  if (packs(device, dtype))
    return ml_fail(ML_UNSUPPORTED, "%s %s of %s is not packed",
                   ml_shape_size(ndim, shape) == 0 ? "an empty weight" : "a weight",
                   ml_shape_text(ndim, shape, (char[160]){0}, 160), ml_dtype_name(dtype));
  for (int t = 0; t < ML_AFFINE_FIRST && at < sizeof names; t++)
    if (packs(device, (ml_dtype)t))
      at += (size_t)snprintf(names + at, sizeof names - at, "%s, ", ml_dtype_name((ml_dtype)t));
  const char *affine = packs(device, ML_AFFINE_FIRST) ? "affine codes, " : "";
  return ml_fail(ML_UNSUPPORTED, "expected a weight of %s%sfound %s", names, affine, ml_dtype_name(dtype));
}

ml_status ml_weight_check_strided(const ml_tensor *t, const char *what) {
  if (t->layout == ML_LAYOUT_STRIDED) return ML_OK;
  const bool packed = t->layout == ML_LAYOUT_PANELS;
  return ml_fail(ML_USAGE, "%s: a weight of %s %s: %s it first (%s it as it is)", what, ml_dtype_name(t->dtype),
                 packed ? "packed for products" : "in blocks",
                 packed && !ml_dtype_is_block(t->dtype) ? "unpack" : "dequantize",
                 t->ndim > 2 ? "gather_linear takes" : "linear and look-ups take");
}

static int64_t experts_of(int ndim, const int64_t *shape) { return ndim > 2 ? shape[0] : 1; }

/* Bytes of one matrix of a weight, which begins with a group of its own. */
static size_t matrix_bytes(ml_device *d, ml_dtype dtype, int ndim, const int64_t *shape) {
  return d->table->packed_bytes(d, dtype, shape[ndim - 2], shape[ndim - 1]);
}

ml_status ml_weight_create(ml_device *device, ml_dtype dtype, int ndim, const int64_t *shape, bool exact,
                           ml_tensor **out) {
  if (ndim != 2 && ndim != 3) return ml_fail(ML_MISMATCH, "expected 2 or 3 axes, found %d", ndim);
  size_t bytes = matrix_bytes(device, dtype, ndim, shape);
  if (!ml_mul_size(bytes, (size_t)experts_of(ndim, shape), &bytes) || !bytes) return refuse(device, dtype, ndim, shape);
  ml_buffer *buffer;
  ML_TRY(ml_buffer_create(device, bytes, &buffer));
  ml_status status = ml_tensor_wrap(buffer, 0, dtype, ML_LAYOUT_PANELS, ndim, shape, out);
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
  const int64_t outputs = weight->shape[weight->ndim - 2], expert = first / outputs;
  char *matrix = ml_tensor_data(weight) + (size_t)expert * matrix_bytes(d, weight->dtype, weight->ndim, weight->shape);
  return d->table->pack(d, matrix, weight->dtype, weight->shape[weight->ndim - 1], first % outputs, count, from);
}

ml_status ml_weight_read(ml_tensor *weight, void *to) {
  ml_device *d = weight->device;
  const int64_t outputs = weight->shape[weight->ndim - 2], inputs = weight->shape[weight->ndim - 1];
  const size_t step = matrix_bytes(d, weight->dtype, weight->ndim, weight->shape);
  size_t row_bytes;
  if (!ml_dtype_row_bytes(weight->dtype, inputs, &row_bytes)) return ML_OK; /* which is no weight */
  for (int64_t e = 0; e < experts_of(weight->ndim, weight->shape); e++) {
    char *file = (char *)to + (size_t)(e * outputs) * row_bytes;
    ML_TRY(d->table->unpack(d, ml_tensor_data(weight) + (size_t)e * step, weight->dtype, inputs, 0, outputs, file));
  }
  return ML_OK;
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

/* All rows of a weight from the host. */
static ml_status put_all(ml_tensor *weight, const char *data) {
  const int64_t outputs = weight->shape[weight->ndim - 2];
  const size_t bytes = ml_tensor_nbytes(weight) / (size_t)experts_of(weight->ndim, weight->shape);
  for (int64_t e = 0; e < experts_of(weight->ndim, weight->shape); e++)
    ML_TRY(ml_weight_put(weight, e * outputs, outputs, data + (size_t)e * bytes));
  return ML_OK;
}

ml_status ml_weight_from_host(ml_device *d, ml_dtype dtype, int ndim, const int64_t *shape, const void *data,
                              bool exact, ml_tensor **out) {
  ml_tensor *weight;
  ML_TRY(ml_weight_create(d, dtype, ndim, shape, exact, &weight));
  ml_status status = put_all(weight, data);
  if (status == ML_OK) *out = weight;
  else ml_tensor_release(weight);
  return status;
}

/* Rows of a weight, put together of its sources. */
static ml_status put_joined(ml_tensor *weight, const ml_quant *q, const void *const *sources, int64_t chunk,
                            char *room) {
  const int64_t outputs = weight->shape[weight->ndim - 2], blocks = weight->shape[weight->ndim - 1] / q->block,
                rows = outputs * experts_of(weight->ndim, weight->shape);
  size_t pitch[ML_QUANT_SOURCES] = {0}; /* bytes of a source in a row */
  for (int i = 0; i < q->n_fields; i++) pitch[q->fields[i].source] += (size_t)(q->fields[i].bytes * blocks);
  for (int64_t first = 0, n; first < rows; first += n) {
    const int64_t left = outputs - first % outputs; /* in this matrix */
    const void *from[ML_QUANT_SOURCES];
    n = left < chunk ? left : chunk;
    for (int i = 0; i < q->n_sources; i++) from[i] = (const char *)sources[i] + (size_t)first * pitch[i];
    ml_quant_join(q, n * blocks, from, room);
    ML_TRY(ml_weight_put(weight, first, n, room));
  }
  return ML_OK;
}

ml_status ml_weight_from_sources(ml_device *d, const ml_quant *q, int ndim, const int64_t *shape,
                                 const void *const *sources, bool exact, ml_tensor **out) {
  ml_tensor *weight;
  size_t row_bytes;
  int64_t chunk = 0;
  if (!ml_dtype_row_bytes(q->dtype, shape[ndim - 1], &row_bytes))
    return ml_fail(ML_MISMATCH, "%lld inputs are no whole groups of %d", (long long)shape[ndim - 1], q->block);
  ML_TRY(ml_weight_chunk(d, row_bytes, &chunk));
  ML_TRY(ml_weight_create(d, q->dtype, ndim, shape, exact, &weight));
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
  ml_status status = ml_weight_from_host(t->device, t->dtype, t->ndim, t->shape, data, exact, out);
  ml_free(data);
  return status;
}

ml_status ml_weight_expert(ml_tensor *w, int64_t expert, const char *what, ml_tensor **out) {
  if (w->ndim != 3) return ml_weight_check_strided(w, what);
  if (!w->buffer)
    return ml_fail(ML_UNSUPPORTED,
                   "%s: one expert's matrix of a weight that a compiled function is given: take it before the call, or "
                   "let gather_linear choose",
                   what);
  const size_t bytes = w->layout == ML_LAYOUT_PANELS ? matrix_bytes(w->device, w->dtype, w->ndim, w->shape)
                                                     : ml_tensor_nbytes(w) / (size_t)w->shape[0];
  ML_TRY(ml_tensor_wrap(w->buffer, w->offset + (size_t)expert * bytes, w->dtype, w->layout, 2, w->shape + 1, out));
  (*out)->exact = w->exact;
  return ML_OK;
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
  int64_t rows = weight->shape[weight->ndim - 2], inputs = weight->shape[weight->ndim - 1];
  int64_t group = weight->device->group;
  for (int64_t e = 0; e < experts_of(weight->ndim, weight->shape); e++) {
    for (int64_t first = 0; first < rows; first += group) {
      if (ml_dtype_is_block(weight->dtype)) random_blocks(weight->dtype, deviation, &seed, room, bytes);
      else random_floats(weight->dtype, deviation, &seed, room, inputs * group);
      ML_TRY(ml_weight_put(weight, e * rows + first, rows - first < group ? rows - first : group, room));
    }
  }
  return ML_OK;
}

ml_status ml_weight_random(ml_device *device, ml_dtype dtype, int ndim, const int64_t *shape, double deviation,
                           uint64_t seed, bool exact, ml_tensor **out) {
  const int64_t inputs = shape[ndim - 1];
  size_t row_bytes;
  int64_t chunk;
  bool counts = true;
  for (int i = 0; i < ndim; i++) counts = counts && shape[i] >= 0 && shape[i] <= INT32_MAX;
  if (!counts || !ml_dtype_row_bytes(dtype, inputs, &row_bytes)) {
    return ml_fail(ML_USAGE, "%lld inputs are no whole blocks of %s, or %s no shape of a weight", (long long)inputs,
                   ml_dtype_name(dtype), ml_shape_text(ndim, shape, (char[160]){0}, 160));
  }
  if (!(deviation >= 0 && deviation <= 1024))
    return ml_fail(ML_USAGE, "expected a deviation from 0 to 1024, found %g", deviation);
  ML_TRY(ml_weight_chunk(device, row_bytes, &chunk));
  ml_tensor *weight;
  ML_TRY(ml_weight_create(device, dtype, ndim, shape, exact, &weight));
  const size_t group_bytes = row_bytes * (size_t)device->group;
  uint8_t *room = ml_alloc(group_bytes);
  ml_status status = room ? fill_random(weight, deviation, seed, room, group_bytes) : ML_MEMORY;
  ml_free(room);
  if (status == ML_OK) *out = weight;
  else ml_tensor_release(weight);
  return status;
}
