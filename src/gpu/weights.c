/* weights.c: weights on their way to the layout that the products of gpu/weights.cuh want, and back: bytes move, none
 * changes; of affine codes bits do. */
#include "gpu/cuda.h"
#include "tensor/quant/quant.h"

#include <string.h>

/* Fields of a format's block, in the order in which a group has them; all bytes of the block. */
typedef struct format {
  int n;
  cu_field fields[CU_MOST_FIELDS];
} format;

static const format formats[ML_DTYPE_COUNT] = {
    [ML_F32] = {1, {{0, 4}}},
    [ML_F16] = {1, {{0, 2}}},
    [ML_BF16] = {1, {{0, 2}}},
    [ML_Q4_0] = {2, {{2, 16}, {0, 2}}},
    [ML_Q4_1] = {2, {{4, 16}, {0, 4}}},
    [ML_Q5_0] = {3, {{6, 16}, {2, 4}, {0, 2}}},
    [ML_Q5_1] = {3, {{8, 16}, {4, 4}, {0, 4}}},
    [ML_Q8_0] = {2, {{2, 32}, {0, 2}}},
    [ML_Q4_K] = {3, {{16, 128}, {4, 12}, {0, 4}}},
    [ML_Q5_K] = {4, {{48, 128}, {16, 32}, {4, 12}, {0, 4}}},
    [ML_Q6_K] = {4, {{0, 128}, {128, 64}, {192, 16}, {208, 2}}},
};

static bool is_affine(ml_dtype dtype) { return dtype >= ML_AFFINE_FIRST; }
static bool packs(ml_dtype dtype) { return formats[dtype].n || is_affine(dtype); }

size_t ml_cuda_packed_bytes(ml_device *d, ml_dtype dtype, int64_t rows, int64_t inputs) {
  (void)d;
  size_t row, bytes, groups = (size_t)(rows + CU_GROUP - 1) / CU_GROUP;
  if (!packs(dtype) || rows < 0 || !ml_dtype_row_bytes(dtype, inputs, &row)) return 0;
  if (!ml_mul_size(row, CU_GROUP, &row)) return 0;
  return ml_mul_size(row, groups, &bytes) ? bytes : 0;
}

/* Affine codes come by 32. A file has one behind another, the lowest bit first; kernels take the low bits (2, 4 or 8 of
 * them) apart from the high ones. Both are in order, but for fours: those of code i and of code i + 16 share a byte. */
typedef struct affine_bits {
  int low, high; /* of a code */
} affine_bits;
static affine_bits split(int bits) {
  const int low = bits < 4 ? 2 : bits < 8 ? 4 : 8;
  return (affine_bits){low, bits - low};
}
static int place_of_low(affine_bits c, int i) { return c.low == 4 ? i % 16 * 8 + i / 16 * 4 : i * c.low; }

/* n bits, in one byte or two. */
static uint32_t get_bits(const uint8_t *p, int at, int n) {
  uint32_t bits = (uint32_t)p[at / 8] >> at % 8;
  if (at % 8 + n > 8) bits |= (uint32_t)p[at / 8 + 1] << (8 - at % 8);
  return bits & ((1u << n) - 1);
}
static void add_bits(uint8_t *p, int at, int n, uint32_t bits) {
  p[at / 8] |= (uint8_t)(bits << at % 8);
  if (at % 8 + n > 8) p[at / 8 + 1] |= (uint8_t)(bits >> (8 - at % 8));
}

static void move_codes(int bits, uint8_t *low, uint8_t *high, uint8_t *file, bool pack) {
  const affine_bits c = split(bits);
  if (pack) memset(low, 0, (size_t)c.low * 4), memset(high, 0, (size_t)c.high * 4);
  else memset(file, 0, (size_t)bits * 4);
  for (int i = 0; i < 32; i++) {
    if (pack) {
      const uint32_t code = get_bits(file, i * bits, bits);
      add_bits(low, place_of_low(c, i), c.low, code & ((1u << c.low) - 1));
      if (c.high) add_bits(high, i * c.high, c.high, code >> c.low);
    } else {
      uint32_t code = get_bits(low, place_of_low(c, i), c.low);
      if (c.high) code |= get_bits(high, i * c.high, c.high) << c.low;
      add_bits(file, i * bits, bits, code);
    }
  }
}

/* The same as move_group for affine weights; blocks of a row are what has a scale and a bias. */
static void move_affine(const ml_quant *q, size_t blocks, int64_t rows, char *group, char *file, bool pack) {
  const affine_bits c = split(q->bits);
  const size_t parts = (size_t)q->block / 32, pair = 2 * (size_t)q->fields[0].bytes, codes = (size_t)q->bits * 4;
  const size_t low = (size_t)c.low * 4, high = (size_t)c.high * 4;
  char *highs = group + CU_GROUP * blocks * parts * low, *pairs = highs + CU_GROUP * blocks * parts * high;
  for (size_t b = 0; b < (size_t)rows * blocks; b++, file += pair + parts * codes) {
    memcpy(pack ? pairs + b * pair : file, pack ? file : pairs + b * pair, pair);
    for (size_t i = b * parts; i < (b + 1) * parts; i++)
      move_codes(q->bits, (uint8_t *)group + i * low, (uint8_t *)highs + i * high,
                 (uint8_t *)file + pair + i % parts * codes, pack);
  }
}

/* One group of at most CU_GROUP rows between the file's order and the device's. */
static void move_group(ml_dtype dtype, size_t blocks, int64_t rows, char *group, char *file, bool pack) {
  if (is_affine(dtype)) {
    move_affine(ml_quant_of(dtype), blocks, rows, group, file, pack);
    return;
  }
  const format *f = &formats[dtype];
  const size_t block_bytes = (size_t)ml_dtype_infos[dtype].bytes;
  for (int i = 0; i < f->n; i++) {
    const size_t bytes = (size_t)f->fields[i].bytes;
    for (int64_t r = 0; r < rows; r++) {
      char *own = group + (size_t)r * blocks * bytes,
           *theirs = file + (size_t)r * blocks * block_bytes + f->fields[i].offset;
      if (f->n == 1) {
        memcpy(pack ? own : theirs, pack ? theirs : own, blocks * bytes);
        continue;
      }
      for (size_t b = 0; b < blocks; b++, own += bytes, theirs += block_bytes) {
        if (pack) memcpy(own, theirs, bytes);
        else memcpy(theirs, own, bytes);
      }
    }
    group += CU_GROUP * blocks * bytes;
  }
}

static ml_status check(ml_device *d, ml_dtype dtype, int64_t inputs, int64_t first_row, size_t *row_bytes) {
  if (!packs(dtype) || !ml_dtype_row_bytes(dtype, inputs, row_bytes))
    return ml_fail(ML_UNSUPPORTED, "dtype %s is not packed", ml_dtype_name(dtype));
  if (first_row % CU_GROUP) return ml_fail(ML_USAGE, "rows are packed in groups of %d", CU_GROUP);
  if (*row_bytes * CU_GROUP > ((size_t)8 << 20))
    return ml_fail(ML_UNSUPPORTED, "%s: rows of %zu bytes are too long to be packed", d->name, *row_bytes);
  return ml_cuda_enter(d);
}

/* Rows that are staged at once: whole groups, of some megabytes. */
static int64_t rows_at_once(size_t row_bytes) {
  const size_t groups = ((size_t)4 << 20) / (row_bytes * CU_GROUP);
  return (int64_t)(groups ? groups : 1) * CU_GROUP;
}

ml_status ml_cuda_pack(ml_device *d, void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row, int64_t rows,
                       const void *from) {
  ml_cuda *c = ml_cuda_of(d);
  size_t row_bytes;
  ML_TRY(check(d, dtype, inputs, first_row, &row_bytes));
  const size_t blocks = (size_t)(inputs / ml_dtype_infos[dtype].block), group_bytes = row_bytes * CU_GROUP;
  const int64_t most = row_bytes ? rows_at_once(row_bytes) : 0;
  for (int64_t r = 0; r < rows && row_bytes; r += most) {
    const int64_t n = rows - r < most ? rows - r : most, groups = (n + CU_GROUP - 1) / CU_GROUP;
    char *room;
    ml_cuda_flight f = {0};
    ml_ticket ticket;
    ML_TRY(ml_cuda_stage(d, (size_t)groups * group_bytes, &room, &f.staged));
    if (n % CU_GROUP) memset(room + (size_t)(groups - 1) * group_bytes, 0, group_bytes);
    for (int64_t g = 0; g < groups; g++) {
      const int64_t left = n - g * CU_GROUP;
      move_group(dtype, blocks, left < CU_GROUP ? left : CU_GROUP, room + (size_t)g * group_bytes,
                 (char *)(uintptr_t)from + (size_t)(r + g * CU_GROUP) * row_bytes, true);
    }
    CU_TRY(d, "a copy to the device",
           MemcpyHtoDAsync((CUdeviceptr)(uintptr_t)packed + (size_t)(first_row + r) * row_bytes, room,
                           (size_t)groups * group_bytes, c->stream));
    ML_TRY(ml_cuda_give(d, f, &ticket));
  }
  return ML_OK;
}

ml_status ml_cuda_unpack(ml_device *d, const void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row,
                         int64_t rows, void *to) {
  size_t row_bytes;
  ML_TRY(check(d, dtype, inputs, first_row, &row_bytes));
  const size_t blocks = (size_t)(inputs / ml_dtype_infos[dtype].block), group_bytes = row_bytes * CU_GROUP;
  char *room = ml_alloc(group_bytes);
  ml_status status = room ? ML_OK : ML_MEMORY;
  for (int64_t r = 0; r < rows && row_bytes && status == ML_OK; r += CU_GROUP) {
    ml_ticket ticket;
    status =
        d->table->download(d, room, (const char *)packed + (size_t)(first_row + r) * row_bytes, group_bytes, &ticket);
    if (status == ML_OK) status = d->table->wait(d, ticket, NULL);
    if (status == ML_OK)
      move_group(dtype, blocks, rows - r < CU_GROUP ? rows - r : CU_GROUP, room, (char *)to + (size_t)r * row_bytes,
                 false);
  }
  ml_free(room);
  return status;
}
