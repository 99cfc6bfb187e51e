/* panel.c: packed weights, expanded a tile at a time. */
#include "tensor/cpu/isa/panel.h"

void K(expand_tile)(const ml_format *f, const uint8_t *panel, int64_t k0, int64_t count, panel_room to) {
  size_t bytes = (size_t)ml_dtype_infos[f->of.dtype].bytes * PANEL_ROWS;
  const uint8_t *p = panel + (size_t)(k0 / f->of.block) * bytes;
  for (int64_t k = 0; k < count; k += f->of.block, p += bytes) {
    int64_t s = k / f->of.sub * PANEL_ROWS;
    f->expand(f, p, to.codes + k * PANEL_ROWS, to.scale + s, to.min + s);
  }
}

/* Codes of `count` inputs with their scales, as float32: what a format states is constant in each use. */
ALWAYS_INLINE void widen_codes(const int sub, const int zero, const bool is_signed, const bool has_min, panel_room room,
                               int64_t count, float *restrict out) {
  const float *restrict s = room.scale, *restrict m = room.min;
  for (int64_t k = 0; k < count; k += sub, s += PANEL_ROWS, m += PANEL_ROWS) {
    for (int i = 0; i < sub; i += 4) { /* a lane of 32 bits holds four inputs of one row */
      uint32_t lanes[PANEL_ROWS];
      memcpy(lanes, room.codes + (k + i) * PANEL_ROWS, sizeof lanes);
      for (int j = 0; j < 4; j++) {
        float *restrict o = out + (k + i + j) * PANEL_ROWS;
        for (int r = 0; r < PANEL_ROWS; r++) {
          const int32_t code =
              is_signed ? (int32_t)(lanes[r] << (24 - 8 * j)) >> 24 : (int32_t)(lanes[r] >> 8 * j & 255);
          const float scaled = s[r] * (float)(code - zero);
          o[r] = has_min ? scaled + m[r] : scaled;
        }
      }
    }
  }
}

void K(widen_tile)(const ml_format *f, const uint8_t *panel, int64_t k0, int64_t count, panel_room room, float *out) {
  if (f->of.code == ML_CODE_FLOAT) {
    f->widen(panel, k0, count, out);
    return;
  }
  K(expand_tile)(f, panel, k0, count, room);
  if (f->of.code == ML_CODE_8_SIGNED && f->of.has_min) widen_codes(32, -128, true, true, room, count, out);
  else if (f->of.code == ML_CODE_8_SIGNED) widen_codes(32, 0, true, false, room, count, out);
  else if (f->of.has_min) widen_codes(32, 0, false, true, room, count, out);
  else if (f->of.sub == 16) widen_codes(16, f->of.zero, false, false, room, count, out);
  else widen_codes(32, f->of.zero, false, false, room, count, out);
}
