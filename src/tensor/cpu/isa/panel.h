/* panel.h: packed weights, expanded a tile at a time. */
#ifndef ML_CPU_PANEL_H
#define ML_CPU_PANEL_H

#include "tensor/cpu/isa/simd.h"
#include "tensor/cpu/isa/quant/format.h"

/* Room for the codes and scales of `inputs` inputs of a panel. */
typedef struct panel_room {
  uint8_t *codes;
  float *scale, *min;
} panel_room;

static inline size_t panel_room_bytes(int64_t inputs) {
  return (size_t)inputs * PANEL_ROWS + 2 * (size_t)(inputs / 16) * PANEL_ROWS * sizeof(float);
}

static inline panel_room panel_room_at(char *p, int64_t inputs) {
  float *scale = (float *)(void *)(p + inputs * PANEL_ROWS);
  return (panel_room){(uint8_t *)p, scale, scale + inputs / 16 * PANEL_ROWS};
}

static inline const uint8_t *panel_of(const ml_arg *w, int64_t panel) {
  const ml_dtype_info *info = &ml_dtype_infos[w->dtype];
  return (const uint8_t *)w->data +
         (size_t)panel * PANEL_ROWS * (size_t)(w->shape[1] / info->block) * (size_t)info->bytes;
}

/* Inputs k0..k0+count-1 of a panel as codes with scales. */
void K(expand_tile)(const ml_format *f, const uint8_t *panel, int64_t k0, int64_t count, panel_room to);
/* The same as float32 [count][16]: scale * (code - zero) + min, each operation rounded once, as the formats define it.
 */
void K(widen_tile)(const ml_format *f, const uint8_t *panel, int64_t k0, int64_t count, panel_room room, float *out);

#endif
