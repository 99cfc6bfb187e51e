/* cpu.h: the parts of a device that works on this processor: tests build another filling of the table from them. */
#ifndef ML_CPU_CPU_H
#define ML_CPU_CPU_H

#include "base/pool.h"
#include "tensor/cpu/kernel.h"

typedef struct ml_cpu {
  const ml_isa *isa;
  ml_pool **pool;  /* the threads that run programs */
  ptrdiff_t shift; /* from an address of the device to where these threads read it */
} ml_cpu;

/* "ref", "avx2", "avx512", or NULL for the best that this processor has. */
ml_status ml_cpu_choose_isa(const char *wanted, const ml_isa **out);
/* The processor's name and that of the instruction set. */
void ml_cpu_describe(const ml_isa *isa, char *text, size_t bytes);

/* tape.c. Programs run one at a time; the caller is the first of the threads. */
ml_status ml_cpu_lower(const ml_cpu *c, const ml_plan *plan, ml_program **out);
size_t ml_cpu_barriers(const ml_program *program);
size_t ml_cpu_workspace(const ml_program *program);
void ml_cpu_run(const ml_cpu *c, ml_program *program, void *const *inputs, void *const *outputs, ml_outcome *out);
void ml_cpu_drop(ml_program *program);

/* pack.c: weights to panels and back (isa/quant/format.h says what a panel is). `group`: rows that are packed together,
 * a multiple of a panel's; the last group is filled up with zeros. */
size_t ml_cpu_packed_bytes(int group, ml_dtype dtype, int64_t rows, int64_t inputs);
ml_status ml_cpu_pack(int group, void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row, int64_t rows,
                      const void *from);
ml_status ml_cpu_unpack(int group, const void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row, int64_t rows,
                        void *to);

#endif
