/* elementwise.h: elementwise programs for other kernels to call. */
#ifndef ML_CPU_ELEMENTWISE_H
#define ML_CPU_ELEMENTWISE_H

#include "tensor/cpu/kernel.h"

enum { TILE = 256 };

/* Room for n registers of a program, and where each lies there. */
static inline size_t tile_room(int n) { return (size_t)n * TILE * 8; }
static inline void tile_registers(void **regs, char *room, int n) {
  for (int i = 0; i < n; i++) regs[i] = room + tile_room(i);
}

/* Runs a program over n <= TILE elements. regs[i] is register i: the inputs first (float32, float64 or int64 by class),
 * then room for TILE elements for each instruction; those of constants are filled before. */
void K(fused_run)(const ml_fused *f, void **regs, int n);
/* Fills the registers of constants, which running leaves as they are. */
void K(fused_constants)(const ml_fused *f, void **regs, int n);

/* Fills a register with n elements, `stride` apart, converted to the class of their dtype. */
void K(load_tile)(void *reg, const char *data, ml_dtype t, int64_t stride, int n);
/* Writes n elements of a register, `stride` apart. */
void K(store_tile)(char *data, ml_dtype t, int64_t stride, const void *reg, int n);
/* Rounds or wraps n elements of a register to their dtype. */
void K(round_tile)(void *reg, ml_dtype t, int n);
/* Whether cast_tile may convert so. It does n <= TILE elements side by side, or returns false where their values want
 * the general way. */
bool K(cast_knows)(ml_dtype to, ml_dtype from);
bool K(cast_tile)(char *to, ml_dtype tt, const char *from, ml_dtype ft, int n);
/* Bytes of an element in a register. */
static inline size_t register_item(ml_dtype t) { return ml_dtype_class_of(t) == ML_CLASS_FLOAT ? 4 : 8; }

#endif
