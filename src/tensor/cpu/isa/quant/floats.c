/* floats.c: float32, float16 and bfloat16 weights in panels: [inputs][16 rows] of the type itself. */
#include "tensor/quant/floats.h"

#include "tensor/cpu/isa/quant/format.h"

#include "tensor/cpu/isa/simd.h"

static void widen_f32(const uint8_t *panel, int64_t from, int64_t count, float *out) {
  memcpy(out, panel + from * PANEL_ROWS * 4, (size_t)count * PANEL_ROWS * 4);
}

static void widen_f16(const uint8_t *panel, int64_t from, int64_t count, float *out) {
  const uint16_t *p = (const uint16_t *)panel + from * PANEL_ROWS;
  for (int64_t k = 0; k < count; k++) v_store(out + k * PANEL_ROWS, v_load_f16(p + k * PANEL_ROWS));
}

static void widen_bf16(const uint8_t *panel, int64_t from, int64_t count, float *out) {
  const uint16_t *p = (const uint16_t *)panel + from * PANEL_ROWS;
  for (int64_t k = 0; k < count; k++) v_store(out + k * PANEL_ROWS, v_load_bf16(p + k * PANEL_ROWS));
}

/* One multiply-add after another, as dot_floats adds them. `load` widens 16 weights. */
#define STREAM(name, type, load)                                                                                       \
  static void stream_##name(const uint8_t *panel, int64_t count, const float *x, float *acc) {                         \
    const type *p = (const type *)(const void *)panel;                                                                 \
    v16f a = v_load(acc);                                                                                              \
    for (int64_t k = 0; k < count; k++, p += PANEL_ROWS) {                                                             \
      __builtin_prefetch((const char *)p + PREFETCH_AHEAD);                                                            \
      a = v_fma(v_set1(x[k]), load(p), a);                                                                             \
    }                                                                                                                  \
    v_store(acc, a);                                                                                                   \
  }
STREAM(f32, float, v_load)
STREAM(f16, uint16_t, v_load_f16)
STREAM(bf16, uint16_t, v_load_bf16)

const ml_format FORMAT(f32) = {.of = ML_QUANT_F32, .widen = widen_f32, .stream_floats = stream_f32};
const ml_format FORMAT(f16) = {.of = ML_QUANT_F16, .widen = widen_f16, .stream_floats = stream_f16};
const ml_format FORMAT(bf16) = {.of = ML_QUANT_BF16, .widen = widen_bf16, .stream_floats = stream_bf16};
