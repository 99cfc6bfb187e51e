/* move.h: elements from one strided place to another, as they are. */
#ifndef ML_CPU_MOVE_H
#define ML_CPU_MOVE_H

#include "tensor/cpu/kernel.h"

/* to[c][r] = from[r][c], for items of 1, 2, 4 or 8 bytes. Steps are bytes from row to row, and both matrices have their
 * rows' items side by side. */
void K(transpose)(char *to, int64_t to_step, const char *from, int64_t from_step, int64_t rows, int64_t columns,
                  int item);
/* n items, from every `from_stride`-th to every `to_stride`-th. */
void K(move_row)(char *to, int64_t to_stride, const char *from, int64_t from_stride, int64_t n, int item);

/* Bytes of a target from which on its rows are written past the caches, and how; K(end_stream) follows before another
 * thread may read them. */
enum { STREAM_ROWS = 32 << 20 };
void K(stream_row)(char *to, const char *from, int64_t bytes);
void K(end_stream)(void);

/* Makes of t a task that writes the values of `from` to `to`, which has the same shape and dtype: K(move) runs it. */
ml_status K(move_prepare)(ml_task *t, const ml_arg *to, const ml_arg *from);

#endif
