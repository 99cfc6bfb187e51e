/* gemm.h: products of matrices, block by block.
 *
 * Both operands are gathered into words of 32 bits, whatever their strides: a float32, or two bfloat16 that follow one
 * another along the sum, where the processor has dot products of those (`dots`). A word of the left operand meets a
 * vector of 16 words of the right one.
 *
 * An element is one chain of multiply-adds in the order of the sum, from zero on: where blocks end, the chain is stored
 * and taken up again. So its bits depend on its row, its column and the inner length alone. */
#ifndef ML_CPU_GEMM_H
#define ML_CPU_GEMM_H

#include "tensor/cpu/isa/simd.h"

/* GEMM_WORDS: of a row and of a column, a block of the sum. GEMM_PITCH: from one row to the next; not a power of two,
 * so that rows lie in different sets of the cache. GEMM_ROWS, GEMM_LANES: a block of the result that lives in
 * registers. GEMM_SLAB: rows gathered at once. */
enum { GEMM_WORDS = 384, GEMM_PITCH = GEMM_WORDS + 16 };
#if defined(ML_ISA_AVX512)
enum { GEMM_ROWS = 14, GEMM_VECTORS = 2, GEMM_SLAB = 112 };
#elif defined(ML_ISA_AVX2)
enum { GEMM_ROWS = 6, GEMM_VECTORS = 1, GEMM_SLAB = 96 };
#else
enum { GEMM_ROWS = 1, GEMM_VECTORS = 1, GEMM_SLAB = 16 };
#endif
enum { GEMM_LANES = GEMM_VECTORS * LANES };

/* One operand. Strides in elements: from one row (of the right operand: column) to the next, and along the sum. */
typedef struct gemm_side {
  const char *data;
  ml_dtype dtype;
  int64_t across, inner;
} gemm_side;

typedef struct gemm gemm;
/* Gathers terms k0..k0+count-1 of columns n0..n0+columns-1 as K(gemm_pack_columns) does. */
typedef void (*gemm_gather)(const gemm *g, int64_t k0, int64_t count, int64_t n0, int64_t columns, float *to);

/* Takes the sums of a tile from row m0 and column n0 on, `pitch` apart, which it may change. */
typedef void (*gemm_store)(const gemm *g, float *sums, int64_t pitch, int64_t m0, int64_t rows, int64_t n0,
                           int64_t columns);

/* out (M, N) = a (M, K) b (K, N); rows of `out` are N apart. */
struct gemm {
  int64_t M, N, K;
  gemm_side a, b;
  char *out;
  ml_dtype out_dtype;
  bool dots;
  gemm_gather gather; /* of columns that lie otherwise than strides tell, or NULL */
  gemm_store store;   /* of what goes elsewhere than to `out` as it is, or NULL */
  int64_t first_row;  /* for `store`: of this product among those of the batch */
  const void *context;
  char *tail_room;
  char *room; /* for `gather` */
};

/* How a product is cut: tiles of the result are units of work. */
typedef struct gemm_tiles {
  int64_t rows, columns; /* of a tile */
  int64_t down, along;   /* tiles in a column, in a row */
  int64_t panels;        /* words of columns that a thread has at once */
  size_t scratch;        /* bytes a thread */
} gemm_tiles;

/* Whether tiles add up in scratch: those that are not kept in float32 as they are. */
static inline bool gemm_in_scratch(const gemm *g) { return g->store || g->out_dtype != ML_F32; }
/* Tiles of `batch` products for `threads` threads, their columns a multiple of `multiple`. */
gemm_tiles K(gemm_cut)(int64_t batch, int64_t M, int64_t N, int64_t inner, bool in_scratch, int threads,
                       int64_t multiple);
/* Computes one tile, from row m0 and column n0 on. */
void K(gemm_tile)(const gemm *g, const gemm_tiles *tiles, int64_t m0, int64_t n0, char *scratch);

/* Row m of a product in float64, `columns` of it from n0 on, to o (matmul.c). */
void K(multiply_row)(const gemm *g, int64_t m, int64_t n0, int64_t columns, double *o);

/* The words of terms k0..k0+count-1 of rows i0..i0+rows-1, zeros to a multiple of 16 of both: word w of row r is at
 * to[r * GEMM_PITCH + w]. */
void K(gemm_pack_rows)(const gemm_side *s, bool pairs, int64_t k0, int64_t count, int64_t i0, int64_t rows, float *to);
/* The words of terms k0..k0+count-1 of columns i0..i0+columns-1, in panels of GEMM_LANES columns (the last one of 16
 * where that is enough), GEMM_PANEL words apart: [word][column]. Columns past the last are zero. `first` words are
 * already there. */
void K(gemm_pack_columns)(const gemm_side *s, bool pairs, int64_t k0, int64_t count, int64_t i0, int64_t columns,
                          int64_t first, float *to);

/* Memory that is wanted next. A block asks for some of it in each of its steps, so that it waits for none: first for
 * rows of sums, into the first cache, then for lines, into the second. */
enum { GEMM_AHEAD = 64 };
typedef struct gemm_ahead {
  const float *sums;
  int64_t pitch, rows, lines;
  const char *line[GEMM_AHEAD];
} gemm_ahead;

/* The lines of what will be gathered, run after run, handed out a share at a time. */
typedef struct gemm_lines {
  const char *run;
  int64_t pitch, step; /* bytes from a run to the next, from a line of a run to the next */
  int64_t at, end;     /* bytes into the run */
  int64_t left, share; /* lines: of all, for one block */
} gemm_lines;
gemm_lines K(gemm_lines_of)(const gemm_side *s, int64_t k0, int64_t count, int64_t i0, int64_t rows, int64_t shares);

static inline void gemm_take_lines(gemm_lines *l, gemm_ahead *ahead) {
  ahead->lines = ml_min64(ml_min64(l->share, l->left), GEMM_AHEAD);
  l->left -= ahead->lines;
  for (int64_t i = 0; i < ahead->lines; i++) {
    ahead->line[i] = l->run + l->at;
    if ((l->at += l->step) == l->end) l->at = 0, l->run += l->pitch;
  }
}

/* Words from one panel to the next, not a power of two either; words in a line of a panel that begins at `column`. */
enum { GEMM_PANEL = GEMM_WORDS * GEMM_LANES + 16 };
static inline int gemm_panel_lanes(int64_t columns, int64_t column) {
  return columns - column > GEMM_LANES - LANES ? GEMM_LANES : LANES;
}

#endif
