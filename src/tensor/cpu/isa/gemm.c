/* gemm.c: a tile of a product of matrices.
 *
 * GEMM_DEPTH blocks of the sum at a time, the tile's columns are gathered once, into panels that stay in the second
 * cache; rows are gathered a slab at a time, and GEMM_ROWS of them after another meet a panel, which stays in the
 * first.
 */
#include "tensor/cpu/isa/gemm.h"

/* ---- a block of the result, in registers ---- */

/* s + a b, or of pairs s + a0 b0 + a1 b1. */
ALWAYS_INLINE v16f multiply_add(const bool dots, v16f a, v16f b, v16f s) {
#if defined(ML_ISA_AVX512)
  if (dots) return _mm512_dpbf16_ps(s, (__m512bh)a, (__m512bh)b);
#endif
  (void)dots;
  return v_fma(a, b, s);
}

/* c (n, vectors * 16) = or += rows of a, GEMM_PITCH apart, times a panel. */
ALWAYS_INLINE void block(const int n, const int vectors, const bool dots, const float *a, const float *b, int64_t count,
                         bool fresh, float *c, int64_t pitch) {
  v16f s[GEMM_ROWS][GEMM_VECTORS];
  for (int r = 0; r < n; r++) {
    for (int v = 0; v < vectors; v++) s[r][v] = fresh ? v_set1(0) : v_load(c + r * pitch + v * LANES);
  }
  for (int64_t k = 0; k < count; k++, b += vectors * LANES) {
    v16f w[GEMM_VECTORS];
    for (int v = 0; v < vectors; v++) w[v] = v_load(b + v * LANES);
    for (int r = 0; r < n; r++) {
      v16f x = v_set1(a[r * GEMM_PITCH + k]);
      for (int v = 0; v < vectors; v++) s[r][v] = multiply_add(dots, x, w[v], s[r][v]);
    }
  }
  for (int r = 0; r < n; r++) {
    for (int v = 0; v < vectors; v++) v_store(c + r * pitch + v * LANES, s[r][v]);
  }
}

#if defined(ML_ISA_AVX512)
#define EACH_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif defined(ML_ISA_AVX2)
#define EACH_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define EACH_HEIGHT(X) X(1)
#endif

typedef void (*block_kernel)(const float *a, const float *b, int64_t count, bool fresh, float *c, int64_t pitch);

#define BLOCK_OF(N, VECTORS, DOTS, name)                                                                               \
  static void name##_##N(const float *a, const float *b, int64_t count, bool fresh, float *c, int64_t pitch) {         \
    block(N, VECTORS, DOTS, a, b, count, fresh, c, pitch);                                                             \
  }
#define FLOATS(N) BLOCK_OF(N, 1, false, floats) BLOCK_OF(N, GEMM_VECTORS, false, wide_floats)
EACH_HEIGHT(FLOATS)
#if defined(ML_ISA_AVX512)
#define PAIRS(N) BLOCK_OF(N, 1, true, pairs) BLOCK_OF(N, GEMM_VECTORS, true, wide_pairs)
EACH_HEIGHT(PAIRS)
#endif

/* [dots][wide][rows - 1] */
static const block_kernel kernels[2][2][GEMM_ROWS] = {
#define NAME_FLOATS(N) floats_##N,
#define NAME_WIDE_FLOATS(N) wide_floats_##N,
    {{EACH_HEIGHT(NAME_FLOATS)}, {EACH_HEIGHT(NAME_WIDE_FLOATS)}},
#if defined(ML_ISA_AVX512)
#define NAME_PAIRS(N) pairs_##N,
#define NAME_WIDE_PAIRS(N) wide_pairs_##N,
    {{EACH_HEIGHT(NAME_PAIRS)}, {EACH_HEIGHT(NAME_WIDE_PAIRS)}},
#endif
};

/* ---- a tile ---- */

static int64_t rounded(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
static int64_t parts_of(int64_t n, int64_t part) { return (n + part - 1) / part; }

/* A tile costs the gathering of its rows and columns beside its products: ones of less than LEAST elements do not pay.
 */
enum { MOST_ROWS = 2048, MOST_COLUMNS = 512, LEAST = 128 * 256, TILES_A_THREAD = 2 };

gemm_tiles K(gemm_cut)(int64_t batch, int64_t M, int64_t N, int64_t inner, bool in_scratch, int threads,
                       int64_t multiple) {
  multiple = rounded(GEMM_LANES, multiple);
  int64_t rows = ml_min64(M, MOST_ROWS), columns = ml_min64(rounded(N, multiple), rounded(MOST_COLUMNS, multiple));
  while (rows * columns > LEAST &&
         batch * parts_of(M, rows) * parts_of(N, columns) < (int64_t)threads * TILES_A_THREAD) {
    if (rows > columns || columns <= multiple) rows = parts_of(M, 2 * parts_of(M, rows));
    else columns = rounded(columns / 2, multiple);
  }
  if (rows) rows = parts_of(M, parts_of(M, rows));
  if (columns) columns = rounded(parts_of(N, parts_of(N, columns)), multiple);
  gemm_tiles t = {rows, columns, rows ? parts_of(M, rows) : 0, columns ? parts_of(N, columns) : 0, 0, 0};
  t.panels = ml_min64(parts_of(inner, GEMM_WORDS), GEMM_DEPTH) * parts_of(columns, GEMM_LANES) * GEMM_PANEL;
  t.scratch = (size_t)(t.panels + GEMM_SLAB * GEMM_PITCH) * sizeof(float);
  if (in_scratch) t.scratch += (size_t)(rows * rounded(columns, GEMM_LANES)) * sizeof(float);
  return t;
}

/* Where a tile's sums are. */
typedef struct sums {
  float *data;
  int64_t pitch;
  int64_t rows, columns;
  bool padded; /* past the last column there is room for whole vectors */
} sums;

/* Terms of the sum in a block. */
static int64_t terms_of(const gemm *g) { return g->dots ? 2 * GEMM_WORDS : GEMM_WORDS; }

/* Rows first..first+n-1, gathered at a, times a panel. */
static void multiply_block(const sums *c, int64_t first, int64_t n, int64_t column, const float *a, const float *panel,
                           int64_t count, bool fresh, bool dots) {
  int lanes = gemm_panel_lanes(c->columns, column);
  block_kernel kernel = kernels[dots][lanes == GEMM_LANES][n - 1];
  float *to = c->data + first * c->pitch + column;
  int64_t width = ml_min64(lanes, c->columns - column);
  if (width == lanes || c->padded) {
    kernel(a, panel, count, fresh, to, c->pitch);
    return;
  }
  _Alignas(64) float edge[GEMM_ROWS * GEMM_LANES] = {0};
  for (int64_t r = 0; r < n && !fresh; r++) memcpy(edge + r * lanes, to + r * c->pitch, (size_t)width * sizeof *edge);
  kernel(a, panel, count, fresh, edge, lanes);
  for (int64_t r = 0; r < n; r++) memcpy(to + r * c->pitch, edge + r * lanes, (size_t)width * sizeof *edge);
}

/* Asks for the sums of a block that comes next, which its chains begin with. */
static void fetch_block(const sums *c, int64_t first, int64_t n, int64_t column) {
  const float *p = c->data + first * c->pitch + column;
  for (int64_t r = 0; r < n; r++) {
    for (int v = 0; v < GEMM_VECTORS; v++) __builtin_prefetch(p + r * c->pitch + v * LANES, 1);
  }
}

/* A slab's rows, in blocks of as equal a height as can be: a block of few rows is slow. */
static void multiply_slab(const sums *c, int64_t at, int64_t rows, int64_t column, const float *slab,
                          const float *panel, int64_t words, bool fresh, bool dots) {
  int64_t blocks = parts_of(rows, GEMM_ROWS);
  for (int64_t b = 0; b < blocks; b++) {
    int64_t first = rows * b / blocks, n = rows * (b + 1) / blocks - first;
    if (b + 1 < blocks) fetch_block(c, at + first + n, rows * (b + 2) / blocks - first - n, column);
    else if (column + GEMM_LANES < c->columns) fetch_block(c, at, rows / blocks, column + GEMM_LANES);
    multiply_block(c, at + first, n, column, slab + first * GEMM_PITCH, panel, words, fresh, dots);
  }
}

/* `count` terms from k0 on of all rows of the tile, whose columns' words are at `panels`, block after block of the sum.
 * A slab takes all of them before the next one comes, so that its sums stay near; the rows that are gathered next are
 * asked for meanwhile. */
static void multiply_terms(const gemm *g, const sums *c, int64_t m0, int64_t k0, int64_t count, const float *panels,
                           float *slab) {
  int64_t terms = terms_of(g), across = parts_of(c->columns, GEMM_LANES);
  int64_t height = ml_min64(GEMM_SLAB, rounded(parts_of(c->rows, parts_of(c->rows, GEMM_SLAB)), LANES));
  for (int64_t at = 0; at < c->rows; at += height) {
    int64_t rows = ml_min64(height, c->rows - at);
    for (int64_t k = 0; k < count; k += terms) {
      int64_t here = ml_min64(terms, count - k), words = g->dots ? (here + 1) / 2 : here;
      const float *block = panels + k / terms * across * GEMM_PANEL;
      bool last = k + terms >= count;
      int64_t next = last ? at + rows : at, next_k = last ? k0 : k0 + k + terms,
              next_rows = last ? ml_min64(height, c->rows - next) : rows;
      K(gemm_pack_rows)(&g->a, g->dots, k0 + k, here, m0 + at, rows, slab);
      for (int64_t p = 0; p < across; p++) {
        if (next_rows > 0)
          K(gemm_fetch)(&g->a, next_k, ml_min64(terms, k0 + count - next_k), m0 + next, next_rows, p, across);
        multiply_slab(c, at, rows, p * GEMM_LANES, slab, block + p * GEMM_PANEL, words, k0 + k == 0, g->dots);
      }
    }
  }
}

static void store_tile(const gemm *g, const sums *c, int64_t m0, int64_t n0) {
  for (int64_t r = 0; r < c->rows; r++) {
    int64_t at = (m0 + r) * g->N + n0;
    for (int64_t i = 0; i < c->columns; i++) store_float(g->out, g->out_dtype, at + i, c->data[r * c->pitch + i]);
  }
}

void K(gemm_tile)(const gemm *g, const gemm_tiles *tiles, int64_t m0, int64_t n0, char *scratch) {
  float *panels = (float *)(void *)scratch, *slab = panels + tiles->panels;
  sums c = {.pitch = g->N, .rows = ml_min64(tiles->rows, g->M - m0), .columns = ml_min64(tiles->columns, g->N - n0)};
  if (gemm_in_scratch(g)) {
    c.data = slab + GEMM_SLAB * GEMM_PITCH;
    c.pitch = rounded(tiles->columns, GEMM_LANES);
    c.padded = true;
  } else {
    c.data = (float *)(void *)g->out + m0 * g->N + n0;
  }
  int64_t terms = terms_of(g), across = parts_of(c.columns, GEMM_LANES);
  for (int64_t k0 = 0; k0 < g->K; k0 += GEMM_DEPTH * terms) {
    int64_t count = ml_min64(GEMM_DEPTH * terms, g->K - k0);
    for (int64_t k = 0; k < count; k += terms) {
      float *block = panels + k / terms * across * GEMM_PANEL;
      int64_t here = ml_min64(terms, count - k);
      if (g->gather) g->gather(g, k0 + k, here, n0, c.columns, block);
      else K(gemm_pack_columns)(&g->b, g->dots, k0 + k, here, n0, c.columns, 0, block);
    }
    multiply_terms(g, &c, m0, k0, count, panels, slab);
  }
  for (int64_t r = 0; r < c.rows && g->K == 0; r++) memset(c.data + r * c.pitch, 0, (size_t)c.columns * sizeof *c.data);
  if (g->store) g->store(g, c.data, c.pitch, m0, c.rows, n0, c.columns);
  else if (gemm_in_scratch(g)) store_tile(g, &c, m0, n0);
}
