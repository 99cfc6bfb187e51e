/* reduce.h: what reductions over axes are made of. */
#ifndef ML_CPU_REDUCE_H
#define ML_CPU_REDUCE_H

#include "tensor/cpu/isa/head.h"

/* Elements whose partial result is made at once. What follows each other in a reduction is cut into blocks from its
 * beginning on: a result depends on the values and their number alone, not on where they lie or who takes them. */
enum { REDUCE_BLOCK = 128 };

/* What a part of a reduction has come to. */
typedef struct partial {
  union {
    struct {
      double a, b; /* sum; product; norm: sum of squares; var, std: mean less base, squared distances from it;
                      logsumexp: max, sum */
    };
    __int128 wide; /* mean of integers: their sum */
  };
  int64_t k; /* integers' sum, product, truth; key of the largest; var, std of others: elements so far */
  union {
    int64_t at;    /* index of the largest, -1: there was none yet; bytes' norm, var, std: sum of squares */
    double centre; /* var, std: what distances are taken from */
  };
  double base;          /* var, std: the first centre: of means beside it no digits are lost that distances have */
  double away, squares; /* var, std: distances and squared ones of elements that a and b do not have yet */
} partial;

void K(partial_start)(partial *p, int64_t n, int op);
/* Takes n elements that lie side by side, the first of which has the index `first`. n is a multiple of REDUCE_BLOCK but
 * for the last call. */
void K(partial_take)(partial *p, int op, const char *data, ml_dtype dtype, int64_t n, int64_t first);
/* After the last of those. */
void K(partial_end)(partial *p, int64_t n, int op, ml_dtype dtype);
/* Takes what comes after p. */
void K(partial_join)(partial *p, const partial *next, int op, ml_dtype dtype);
/* Writes n results over `count` elements each, from the place `at` of the output on, `step` apart. */
void K(partial_finish)(const partial *p, int64_t n, const ml_task *t, int64_t count, int64_t at, int64_t step);

/* The reduction of n > 0 elements that lie side by side, cut as a step cuts them: with the same bits as the step's. Of
 * `like` the operation, its attributes, its input's dtype and its output, which gets the result, are read. */
void K(reduce_row)(const ml_task *like, const char *data, int64_t n);

/* What n squared distances are divided by: n - ddof, 0 at the least, as NumPy has it: infinite, or NaN where all are
 * equal. */
static inline double spread_divisor(const ml_task *t, int64_t count) {
  double n = (double)count - t->step->attrs->var.ddof;
  return n > 0 || n != n ? n : 0;
}

/* Whether columns_take knows the reduction. */
bool K(columns_know)(int op, ml_dtype dtype);
/* Bytes of scratch that columns_take needs: four doubles a column, and either two more at each of five levels or lanes
 * in LANES_ROOM. */
enum { LANES_ROOM = 1 << 16 };
static inline int64_t columns_room(int64_t width) { return width * (4 + 5 * 2) * (int64_t)sizeof(double) + LANES_ROOM; }
/* Takes n <= REDUCE_BLOCK rows of `width` columns, whose partial results follow each other. The first row has the index
 * `first`. */
void K(columns_take)(partial *p, int op, const char *const *rows, int64_t n, ml_dtype dtype, int64_t width,
                     int64_t first, char *room);
/* Where these rows are all that there are: writes the columns' results, side by side. */
void K(columns_write)(const ml_task *t, const char *const *rows, int64_t n, int64_t width, char *to, char *room);

/* Whether short_rows_write knows the reduction. */
bool K(short_rows_know)(int op, ml_dtype dtype);
/* Writes the results of `rows` rows of n elements, `stride` bytes apart, side by side. */
void K(short_rows_write)(const ml_task *t, const char *data, int64_t stride, int64_t rows, int64_t n, char *to);

#endif
