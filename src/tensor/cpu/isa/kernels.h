/* kernels.h: the list of kernels, which declares them for their own files and fills the table (table.c). */
#ifndef ML_CPU_KERNELS_H
#define ML_CPU_KERNELS_H

#include "tensor/cpu/isa/quant/format.h"

/* X(row, kernel): kernel_prepare and kernel exist; XP names the two apart. */
#define KERNELS(X, XP)                                                                                                 \
  X(ML_STEP_FUSED, fused)                                                                                              \
  X(ML_STEP_ROWS, rows)                                                                                                \
  X(ML_STEP_LINEARS, linears)                                                                                          \
  XP(ML_OP_sum, reduce, reduce)                                                                                        \
  XP(ML_OP_mean, reduce, reduce)                                                                                       \
  XP(ML_OP_prod, reduce, reduce)                                                                                       \
  XP(ML_OP_max, reduce, reduce)                                                                                        \
  XP(ML_OP_min, reduce, reduce)                                                                                        \
  XP(ML_OP_all, reduce, reduce)                                                                                        \
  XP(ML_OP_any, reduce, reduce)                                                                                        \
  XP(ML_OP_argmax, reduce, reduce)                                                                                     \
  XP(ML_OP_argmin, reduce, reduce)                                                                                     \
  XP(ML_OP_var, reduce, reduce)                                                                                        \
  XP(ML_OP_std, reduce, reduce)                                                                                        \
  XP(ML_OP_norm, reduce, reduce)                                                                                       \
  XP(ML_OP_logsumexp, reduce, reduce)                                                                                  \
  XP(ML_OP_cumsum, scan, scan)                                                                                         \
  XP(ML_OP_cumprod, scan, scan)                                                                                        \
  XP(ML_OP_cummax, scan, scan)                                                                                         \
  XP(ML_OP_cummin, scan, scan)                                                                                         \
  X(ML_OP_arange, arange)                                                                                              \
  X(ML_OP_concat, concat)                                                                                              \
  X(ML_OP_take, take)                                                                                                  \
  XP(ML_OP_take_along_axis, along, take_along)                                                                         \
  XP(ML_OP_put_along_axis, along, take_along)                                                                          \
  X(ML_OP_scatter_add, scatter_add)                                                                                    \
  X(ML_OP_sort, sort)                                                                                                  \
  XP(ML_OP_argsort, sort, sort)                                                                                        \
  X(ML_OP_topk, topk)                                                                                                  \
  XP(ML_OP_softmax, row, softmax)                                                                                      \
  XP(ML_OP_log_softmax, row, softmax)                                                                                  \
  XP(ML_OP_rms_norm, row, rms_norm)                                                                                    \
  XP(ML_OP_layer_norm, row, layer_norm)                                                                                \
  X(ML_OP_matmul, matmul)                                                                                              \
  XP(ML_OP_linear, matmul, matmul)                                                                                     \
  X(ML_OP_linear_transposed, linear_transposed)                                                                        \
  X(ML_OP_embedding, embedding)                                                                                        \
  X(ML_OP_gather_linear, gather_linear)                                                                                \
  X(ML_OP_rope_table, rope_table)                                                                                      \
  X(ML_OP_rope, rope)                                                                                                  \
  X(ML_OP_attention, attention)                                                                                        \
  X(ML_OP_cache_append, cache_append)                                                                                  \
  XP(ML_OP_assign, assign, move)                                                                                       \
  X(ML_OP_ring_push, ring_push)                                                                                        \
  XP(ML_OP_repeat_penalty, sample, repeat_penalty)                                                                     \
  XP(ML_OP_top_k_mask, sample, top_k_mask)                                                                             \
  XP(ML_OP_top_p_mask, sample, top_p_mask)                                                                             \
  XP(ML_OP_min_p_mask, sample, min_p_mask)                                                                             \
  XP(ML_OP_temperature, sample, temperature)                                                                           \
  XP(ML_OP_random_bits, random, random_bits)                                                                           \
  X(ML_OP_normal_quantile, normal_quantile)                                                                            \
  XP(ML_OP_categorical, sample, categorical)

#define DECLARE(row, kernel) DECLARE_TWO(row, kernel, kernel)
#define DECLARE_TWO(row, prepared, kernel)                                                                             \
  ml_status K(prepared##_prepare)(ml_task * t);                                                                        \
  void K(kernel)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w);
KERNELS(DECLARE, DECLARE_TWO)
DECLARE(0, convert_rows)
DECLARE(0, gather_rows)

#endif
