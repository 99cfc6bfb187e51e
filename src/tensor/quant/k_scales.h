/* k_scales.h: the 12 bytes of eight 6-bit scales and eight 6-bit minima that Q4_K and Q5_K share.
 *
 * For s < 4 scale s is in the low 6 bits of byte s and minimum s in those of byte s + 4; for s >= 4 the low 4 bits of
 * both are in byte s + 4 (scale low) and their top 2 bits above the 6 bits of bytes s - 4 and s. */
#ifndef ML_QUANT_K_SCALES_H
#define ML_QUANT_K_SCALES_H

#include "tensor/quant/format.h"

/* scale = d * s and min = -(dmin * m) of 16 rows. d and dmin lie at p, the packed bytes [12 / 4][16][4] at p + 64. */
static inline void expand_k_scales(const uint8_t *p, float *restrict scale, float *restrict min) {
  float d[PANEL_ROWS], dmin[PANEL_ROWS];
  load_halves(p, d);
  load_halves(p + 32, dmin);
  const uint8_t *bytes = p + 64;
  for (int s = 0; s < 8; s++) {
    for (int r = 0; r < PANEL_ROWS; r++) {
      int at = s & 3;
      uint8_t a = bytes[code_index(at, r)], b = bytes[code_index(at + 4, r)], c = bytes[code_index(at + 8, r)];
      int sc = s < 4 ? a & 63 : (c & 15) | a >> 6 << 4;
      int m = s < 4 ? b & 63 : c >> 4 | b >> 6 << 4;
      scale[s * PANEL_ROWS + r] = d[r] * (float)sc;
      min[s * PANEL_ROWS + r] = -(dmin[r] * (float)m);
    }
  }
}

#endif
