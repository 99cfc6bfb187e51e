/* columns.c: sums of float columns that lie side by side, as they are read: row by row. Each column is added up in the
 * order of partial.c, bit for bit, with vectors of columns where there is one of elements. */
#include "tensor/cpu/isa/reduce.h"

#include "tensor/cpu/isa/simd.h"

bool K(columns_sums)(int op, ml_dtype t) {
  return (op == ML_OP_sum || op == ML_OP_mean) && (t == ML_F32 || t == ML_F16 || t == ML_BF16);
}

ALWAYS_INLINE v16f load_lanes(const char *row, ml_dtype t, int64_t at) {
  if (t == ML_F32) return v_load((const float *)(const void *)row + at);
  const uint16_t *x = (const uint16_t *)(const void *)row + at;
  return t == ML_F16 ? v_load_f16(x) : v_load_bf16(x);
}

/* Lane `lane` of a block of n rows: row lane, lane + LANES, and so on. */
ALWAYS_INLINE void add_lane(const char *const *rows, int64_t n, int64_t lane, ml_dtype t, int64_t width, float *sum) {
  int64_t at = 0;
  for (; at + LANES <= width; at += LANES) {
    v16f s = v_set1(0);
    for (int64_t i = lane; i < n; i += LANES) s = v_add(s, load_lanes(rows[i], t, at));
    v_store(sum + at, s);
  }
  for (; at < width; at++) {
    float s = 0;
    for (int64_t i = lane; i < n; i += LANES) s += load_float(rows[i], t, at);
    sum[at] = s;
  }
}

ALWAYS_INLINE void add_lanes(const char *const *rows, int64_t n, ml_dtype t, int64_t width, float *sums) {
  for (int64_t lane = 0; lane < LANES; lane++) add_lane(rows, n, lane, t, width, sums + lane * width);
  for (int half = LANES / 2; half > 0; half /= 2) {
    float *upper = sums + half * width;
    for (int64_t i = 0; i < half * width; i++) sums[i] += upper[i];
  }
}

void K(columns_take)(partial *p, const char *const *rows, int64_t n, ml_dtype t, int64_t width, float *sums) {
  if (t == ML_F32) add_lanes(rows, n, ML_F32, width, sums);
  else if (t == ML_F16) add_lanes(rows, n, ML_F16, width, sums);
  else add_lanes(rows, n, ML_BF16, width, sums);
  for (int64_t i = 0; i < width; i++) p[i].a += (double)sums[i];
}
