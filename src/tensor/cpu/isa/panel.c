/* panel.c: packed weights, expanded a tile at a time. */
#include "tensor/cpu/isa/panel.h"

void K(expand_tile)(const ml_format *f, const uint8_t *panel, int64_t k0, int64_t count, panel_room to) {
  size_t bytes = (size_t)ml_dtype_infos[f->of.dtype].bytes * PANEL_ROWS;
  const uint8_t *p = panel + (size_t)(k0 / f->of.block) * bytes;
  for (int64_t k = 0; k < count; k += f->of.block, p += bytes) {
    int64_t s = k / f->of.sub * PANEL_ROWS;
    f->expand(p, to.codes + k * PANEL_ROWS, to.scale + s, to.min + s);
  }
}

void K(widen_tile)(const ml_format *f, const uint8_t *panel, int64_t k0, int64_t count, panel_room room, float *out) {
  if (f->of.code == ML_CODE_FLOAT) {
    f->widen(panel, k0, count, out);
    return;
  }
  K(expand_tile)(f, panel, k0, count, room);
  const int zero = f->of.zero;
  const bool is_signed = f->of.code == ML_CODE_8_SIGNED;
  for (int64_t k = 0; k < count; k += 4) { /* a lane of 32 bits holds four inputs of one row */
    const float *s = room.scale + k / f->of.sub * PANEL_ROWS, *m = room.min + k / f->of.sub * PANEL_ROWS;
    uint32_t lanes[PANEL_ROWS];
    memcpy(lanes, room.codes + k * PANEL_ROWS, sizeof lanes);
    for (int j = 0; j < 4; j++) {
      float *o = out + (k + j) * PANEL_ROWS;
      for (int r = 0; r < PANEL_ROWS; r++) {
        int32_t value =
            is_signed ? (int32_t)(lanes[r] << (24 - 8 * j)) >> 24 : (int32_t)(lanes[r] >> 8 * j & 255) - zero;
        o[r] = s[r] * (float)value;
      }
      for (int r = 0; r < PANEL_ROWS && f->of.has_min; r++) o[r] += m[r];
    }
  }
}
