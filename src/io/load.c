/* load.c: tensors of a checkpoint, from the file to a device. */
#include "io/load.h"

#include "tensor/quant_rows.h"
#include "tensor/weight.h"

ml_status ml_entry_load(ml_device *device, const ml_entry *entry, ml_tensor **out) {
  void *data = ml_alloc(entry->bytes);
  if (!data) return ML_MEMORY;
  ml_status status = ml_file_read(entry->file, entry->offset, data, entry->bytes);
  if (status == ML_OK)
    status = ml_tensor_from_host(device, entry->dtype, entry->ndim, entry->shape, data, entry->bytes, out);
  ml_free(data);
  return ml_fail_prefix(status, "%s", entry->name);
}

/* A weight on its way from a file into panels. */
typedef struct packing {
  const ml_entry *entry;
  ml_tensor *weight;
  int64_t outputs, inputs;
  int64_t heads;
  int64_t chunk;       /* rows on the host at once */
  size_t row_bytes;    /* of the file */
  char *room, *blocks; /* `chunk` rows as the file has them, and rounded (NULL where they are not) */
} packing;

/* The file's row that becomes this one. */
static int64_t source_row(int64_t row, int64_t rows, int64_t heads) {
  int64_t d = rows / heads, half = d / 2, r = row % d;
  return row / d * d + r % half * 2 + r / half;
}

static ml_status read_rows(const packing *p, int64_t first, int64_t n) {
  const ml_entry *e = p->entry;
  if (p->heads <= 0)
    return ml_file_read(e->file, e->offset + (size_t)first * p->row_bytes, p->room, (size_t)n * p->row_bytes);
  for (int64_t r = 0; r < n; r++) {
    size_t at = (size_t)source_row(first + r, p->outputs, p->heads) * p->row_bytes;
    ML_TRY(ml_file_read(e->file, e->offset + at, p->room + (size_t)r * p->row_bytes, p->row_bytes));
  }
  return ML_OK;
}

/* Those of one matrix, from its first row in the file on. */
static ml_status pack_matrix(const packing *p, int64_t from) {
  for (int64_t first = 0; first < p->outputs; first += p->chunk) {
    int64_t n = p->outputs - first < p->chunk ? p->outputs - first : p->chunk;
    ML_TRY(read_rows(p, from + first, n));
    if (p->blocks) ML_TRY(ml_quantize_values(p->weight->dtype, p->entry->dtype, n * p->inputs, p->room, p->blocks));
    ML_TRY(ml_weight_put(p->weight, from + first, n, p->blocks ? p->blocks : p->room));
  }
  return ML_OK;
}

static ml_status pack_rows(const packing *p) {
  const int64_t experts = p->entry->ndim > 2 ? p->entry->shape[0] : 1;
  for (int64_t e = 0; e < experts; e++) ML_TRY(pack_matrix(p, e * p->outputs));
  return ML_OK;
}

/* The weight, and room for some of its rows. */
static ml_status prepare(ml_device *device, packing *p, const ml_pack_options *options) {
  const ml_entry *e = p->entry;
  ml_dtype dtype = options->quantize ? options->format : e->dtype;
  size_t block_bytes;
  if (e->ndim != 2 && e->ndim != 3) return ml_fail(ML_MISMATCH, "expected 2 or 3 axes, found %d", e->ndim);
  p->outputs = e->shape[e->ndim - 2], p->inputs = e->shape[e->ndim - 1];
  if (p->heads > 0 && p->outputs % (2 * p->heads) != 0)
    return ml_fail(ML_MISMATCH, "%lld rows do not divide into pairs of %lld heads", (long long)p->outputs,
                   (long long)p->heads);
  if (!ml_dtype_row_bytes(e->dtype, p->inputs, &p->row_bytes) || !ml_dtype_row_bytes(dtype, p->inputs, &block_bytes))
    return ml_fail(ML_UNSUPPORTED, "%lld inputs are no whole blocks of %s", (long long)p->inputs, ml_dtype_name(dtype));
  ML_TRY(ml_weight_chunk(device, p->row_bytes, &p->chunk));
  ML_TRY(ml_weight_create(device, dtype, e->ndim, e->shape, options->exact, &p->weight));
  p->room = ml_alloc((size_t)p->chunk * p->row_bytes);
  if (p->room && dtype != e->dtype) p->blocks = ml_alloc((size_t)p->chunk * block_bytes);
  return p->room && (p->blocks || dtype == e->dtype) ? ML_OK : ML_MEMORY;
}

ml_status ml_entry_load_packed(ml_device *device, const ml_entry *entry, const ml_pack_options *options,
                               ml_tensor **out) {
  packing p = {.entry = entry, .heads = options->heads};
  ml_status status = prepare(device, &p, options);
  if (status == ML_OK) status = pack_rows(&p);
  ml_free(p.room);
  ml_free(p.blocks);
  if (status == ML_OK) *out = p.weight;
  else ml_tensor_release(p.weight);
  return ml_fail_prefix(status, "%s", entry->name);
}
