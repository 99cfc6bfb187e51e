/* pack.c: weights to panels and back: bytes move, none changes. */
#include "tensor/cpu/pack.h"

#include <string.h>

#define ML_ISA ref
#include "tensor/quant/format.h"

static const ml_format *format_of(ml_dtype dtype) { return ml_isa_ref.formats[dtype]; }

static size_t row_block_bytes(const ml_format *f) { return (size_t)ml_dtype_infos[f->dtype].bytes; }

size_t ml_cpu_packed_bytes(ml_device *d, ml_dtype dtype, int64_t rows, int64_t inputs) {
  (void)d;
  const ml_format *f = format_of(dtype);
  size_t row, panels = (size_t)(rows + PANEL_ROWS - 1) / PANEL_ROWS, bytes;
  if (!f || rows < 0 || !ml_dtype_row_bytes(dtype, inputs, &row)) return 0;
  return ml_mul_size(row * PANEL_ROWS, panels, &bytes) ? bytes : 0;
}

/* Moves one row's block into or out of a panel block. */
static void move_block(const ml_format *f, uint8_t *panel, int r, uint8_t *block, bool pack) {
  for (int i = 0; i < f->n_fields; i++) {
    uint8_t *row = block + f->fields[i].offset;
    int bytes = f->fields[i].bytes, unit = bytes < 4 ? bytes : 4;
    for (int b = 0; b < bytes; b += unit) {
      uint8_t *at = panel + b * PANEL_ROWS + r * unit;
      if (pack) memcpy(at, row + b, (size_t)unit);
      else memcpy(row + b, at, (size_t)unit);
    }
    panel += bytes * PANEL_ROWS;
  }
}

static ml_status move_rows(ml_dtype dtype, uint8_t *packed, int64_t inputs, int64_t first_row, int64_t rows,
                           uint8_t *file, bool pack) {
  const ml_format *f = format_of(dtype);
  size_t row_bytes;
  if (!f || !ml_dtype_row_bytes(dtype, inputs, &row_bytes))
    return ml_fail(ML_UNSUPPORTED, "dtype %s is not packed", ml_dtype_name(dtype));
  if (first_row % PANEL_ROWS != 0) return ml_fail(ML_USAGE, "rows are packed in groups of %d", PANEL_ROWS);
  int64_t blocks = inputs / f->block;
  for (int64_t r = 0; r < rows; r++) {
    int64_t row = first_row + r;
    uint8_t *panel = packed + (size_t)(row / PANEL_ROWS) * row_bytes * PANEL_ROWS;
    uint8_t *block = file + (size_t)r * row_bytes;
    for (int64_t b = 0; b < blocks; b++) {
      move_block(f, panel, (int)(row % PANEL_ROWS), block, pack);
      panel += row_block_bytes(f) * PANEL_ROWS;
      block += row_block_bytes(f);
    }
  }
  return ML_OK;
}

ml_status ml_cpu_pack(ml_device *d, void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row, int64_t rows,
                      const void *from) {
  (void)d;
  size_t row_bytes = 0;
  int64_t tail = rows % PANEL_ROWS;
  if (tail && ml_dtype_row_bytes(dtype, inputs, &row_bytes)) { /* rows past the last are zero */
    uint8_t *panel = (uint8_t *)packed + (size_t)((first_row + rows) / PANEL_ROWS) * row_bytes * PANEL_ROWS;
    memset(panel, 0, row_bytes * PANEL_ROWS);
  }
  return move_rows(dtype, packed, inputs, first_row, rows, (uint8_t *)(uintptr_t)from, true);
}

ml_status ml_cpu_unpack(ml_device *d, const void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row,
                        int64_t rows, void *to) {
  (void)d;
  return move_rows(dtype, (uint8_t *)(uintptr_t)packed, inputs, first_row, rows, to, false);
}
