/* k_scales.h: the 12 bytes of eight 6-bit scales and eight 6-bit minima that Q4_K and Q5_K share.
 *
 * For s < 4 scale s is in the low 6 bits of byte s and minimum s in those of byte s + 4; for s >= 4 the low 4 bits of
 * both are in byte s + 4 (scale low) and their top 2 bits above the 6 bits of bytes s - 4 and s. */
#ifndef ML_CPU_K_SCALES_H
#define ML_CPU_K_SCALES_H

#include "tensor/cpu/isa/quant/format.h"

/* scale = d * s and min = -(dmin * m) of 16 rows. d and dmin lie at p, the packed bytes [12 / 4][16][4] at p + 64. */
static inline void expand_k_scales(const uint8_t *p, float *restrict scale, float *restrict min) {
  float d[PANEL_ROWS], dmin[PANEL_ROWS];
  load_halves(p, d);
  load_halves(p + 32, dmin);
  uint32_t a[PANEL_ROWS], b[PANEL_ROWS], c[PANEL_ROWS]; /* bytes 0-3, 4-7 and 8-11 of each row */
  load_words(p + 64, 0, a);
  load_words(p + 64, 1, b);
  load_words(p + 64, 2, c);
  for (int s = 0; s < 4; s++) {
    float *low_scale = scale + s * PANEL_ROWS, *low_min = min + s * PANEL_ROWS;
    float *high_scale = low_scale + 4 * PANEL_ROWS, *high_min = low_min + 4 * PANEL_ROWS;
    for (int r = 0; r < PANEL_ROWS; r++) {
      int32_t sa = (int32_t)(a[r] >> 8 * s & 255), sb = (int32_t)(b[r] >> 8 * s & 255),
              sc = (int32_t)(c[r] >> 8 * s & 255);
      low_scale[r] = d[r] * (float)(sa & 63);
      low_min[r] = -(dmin[r] * (float)(sb & 63));
      high_scale[r] = d[r] * (float)((sc & 15) | sa >> 6 << 4);
      high_min[r] = -(dmin[r] * (float)(sc >> 4 | sb >> 6 << 4));
    }
  }
}

#endif
