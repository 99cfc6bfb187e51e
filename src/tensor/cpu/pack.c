/* pack.c: weights to panels and back: bytes move, none changes. */
#include "tensor/cpu/cpu.h"

#include "tensor/quant/quant.h"

#include <string.h>

size_t ml_cpu_packed_bytes(int group, ml_dtype dtype, int64_t rows, int64_t inputs) {
  const ml_quant *f = ml_quant_of(dtype);
  size_t row, groups = (size_t)(rows + group - 1) / (size_t)group, bytes;
  if (!f || rows < 0 || !ml_dtype_row_bytes(dtype, inputs, &row)) return 0;
  return ml_mul_size(row * (size_t)group, groups, &bytes) ? bytes : 0;
}

/* How rows go between a file's order and panels. */
typedef struct move {
  const ml_quant *format;
  size_t row_bytes; /* in the file */
  bool pack;
} move;

/* The `unit` bytes at `file` of each row, one row after another at `panel`. */
static inline void move_units(uint8_t *panel, uint8_t *file, size_t row_bytes, int64_t rows, const size_t unit,
                              bool pack) {
  for (int64_t r = 0; r < rows; r++, panel += unit, file += row_bytes) {
    if (pack) memcpy(panel, file, unit);
    else memcpy(file, panel, unit);
  }
}

static void move_block(const move *m, uint8_t *panel, uint8_t *file, int64_t rows) {
  for (int i = 0; i < m->format->n_fields; i++) {
    uint8_t *field = file + m->format->fields[i].offset;
    int bytes = m->format->fields[i].bytes;
    if (bytes == 1) move_units(panel, field, m->row_bytes, rows, 1, m->pack);
    else if (bytes == 2) move_units(panel, field, m->row_bytes, rows, 2, m->pack);
    for (int b = 0; bytes >= 4 && b < bytes; b += 4) {
      move_units(panel + b * PANEL_ROWS, field + b, m->row_bytes, rows, 4, m->pack);
    }
    panel += bytes * PANEL_ROWS;
  }
}

static ml_status move_rows(int group, ml_dtype dtype, uint8_t *packed, int64_t inputs, int64_t first_row, int64_t rows,
                           uint8_t *file, bool pack) {
  move m = {.format = ml_quant_of(dtype), .pack = pack};
  if (!m.format || !ml_dtype_row_bytes(dtype, inputs, &m.row_bytes))
    return ml_fail(ML_UNSUPPORTED, "dtype %s is not packed", ml_dtype_name(dtype));
  if (first_row % group != 0) return ml_fail(ML_USAGE, "rows are packed in groups of %d", group);
  size_t block_bytes = (size_t)ml_dtype_infos[dtype].bytes;
  for (int64_t r = 0; r < rows; r += PANEL_ROWS) {
    uint8_t *panel = packed + (size_t)(first_row + r) * m.row_bytes, *block = file + (size_t)r * m.row_bytes;
    for (int64_t b = 0; b < inputs / m.format->block; b++) {
      move_block(&m, panel, block, ml_min64(PANEL_ROWS, rows - r));
      panel += block_bytes * PANEL_ROWS;
      block += block_bytes;
    }
  }
  return ML_OK;
}

ml_status ml_cpu_pack(int group, void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row, int64_t rows,
                      const void *from) {
  size_t row_bytes = 0;
  const int64_t tail = rows % group, whole = tail / PANEL_ROWS * PANEL_ROWS;
  if (tail && ml_dtype_row_bytes(dtype, inputs, &row_bytes)) { /* rows past the last are zero */
    uint8_t *panel = (uint8_t *)packed + (size_t)(first_row + rows - tail + whole) * row_bytes;
    memset(panel, 0, row_bytes * (size_t)(group - whole));
  }
  return move_rows(group, dtype, packed, inputs, first_row, rows, (uint8_t *)(uintptr_t)from, true);
}

ml_status ml_cpu_unpack(int group, const void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row, int64_t rows,
                        void *to) {
  return move_rows(group, dtype, (uint8_t *)(uintptr_t)packed, inputs, first_row, rows, to, false);
}
