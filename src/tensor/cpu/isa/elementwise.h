/* elementwise.h: elementwise programs for other kernels to call. */
#ifndef ML_CPU_ELEMENTWISE_H
#define ML_CPU_ELEMENTWISE_H

#include "tensor/cpu/kernel.h"

enum { TILE = 256 };

/* Bytes of an element in a register. */
static inline size_t register_item(ml_dtype t) { return ml_dtype_class_of(t) == ML_CLASS_FLOAT ? 4 : 8; }

static inline size_t wider(size_t a, size_t b) { return a > b ? a : b; }

/* Room for n registers of a program, and where each lies there: as close as they can be, with a line between them, so
 * that most of them stay in the nearest cache. */
enum { TILE_GAP = 64 };
static inline size_t tile_room(int n) { return (size_t)n * (TILE * 8 + TILE_GAP); }
/* Bytes from one register to the next. */
static inline size_t register_pitch(const ml_fused *f) {
  size_t item = 4;
  for (int i = 0; i < f->n_inputs; i++) item = wider(item, register_item(f->input_dtypes[i]));
  for (int i = 0; i < f->n_code; i++) item = wider(item, register_item(f->code[i].dtype));
  return TILE * item + TILE_GAP;
}
static inline void place_registers(void **regs, char *room, const ml_fused *f, size_t pitch) {
  for (int i = 0; i < f->n_inputs + f->n_code; i++) regs[i] = room + (size_t)i * pitch;
}
static inline void tile_registers(void **regs, char *room, const ml_fused *f) {
  place_registers(regs, room, f, register_pitch(f));
}

/* Runs a program over n <= TILE elements. regs[i] is register i: the inputs first (float32, float64 or int64 by class),
 * then room for TILE elements for each instruction; those of constants are filled before. */
void K(fused_run)(const ml_fused *f, void **regs, int n);
/* Fills the registers of constants, which running leaves as they are. */
void K(fused_constants)(const ml_fused *f, void **regs, int n);

/* Fills a register with n elements, `stride` apart, converted to the class of their dtype. */
void K(load_tile)(void *reg, const char *data, ml_dtype t, int64_t stride, int n);
/* n elements as a register: where they lie, if that is one, else loaded into `room`. */
static inline void *read_tile(void *room, const char *data, ml_dtype t, int64_t stride, int n) {
  if (t == ML_F32 && stride == 1) return (void *)(uintptr_t)data;
  K(load_tile)(room, data, t, stride, n);
  return room;
}
/* Writes n elements of a register, `stride` apart. */
void K(store_tile)(char *data, ml_dtype t, int64_t stride, const void *reg, int n);
/* Rounds or wraps n elements of a register to their dtype. */
void K(round_tile)(void *reg, ml_dtype t, int n);
/* Whether cast_tile may convert so. It does n <= TILE elements side by side, or returns false where their values want
 * the general way. */
bool K(cast_knows)(ml_dtype to, ml_dtype from);
bool K(cast_tile)(char *to, ml_dtype tt, const char *from, ml_dtype ft, int n);
/* Makes neighbouring axes one where every operand lies evenly over both; the number of axes that are left, one at the
 * least. */
int K(merge_axes)(int ndim, int64_t *shape, int64_t (*strides)[ML_MAX_DIMS], int operands);

#endif
