/* gemm.c: a tile of a product of matrices.
 *
 * For a block of the sum after another, the tile's columns are gathered once, into panels that stay in the second
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

/* Runs DO(r) for each row of a block. Written out, so that sums are registers from the first to the last of the loops
 * below: an array that loops index would lie in memory between them. */
#if defined(ML_ISA_AVX512)
#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13)
#elif defined(ML_ISA_AVX2)
#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#else
#define EACH_ROW(DO) DO(0)
#endif
enum { LAST = GEMM_VECTORS - 1 };

typedef struct block_sums {
  v16f v[GEMM_ROWS][GEMM_VECTORS];
} block_sums;

/* One term of the sum. */
ALWAYS_INLINE void term(const int n, const int vectors, const bool dots, const float *a, const float *b,
                        block_sums *s) {
  const v16f first = v_load(b), last = vectors > 1 ? v_load(b + LANES) : first;
#define ADD_TERM(r)                                                                                                    \
  if (r < n) {                                                                                                         \
    const v16f x = v_set1(a[r * GEMM_PITCH]);                                                                          \
    s->v[r][0] = multiply_add(dots, x, first, s->v[r][0]);                                                             \
    if (vectors > 1) s->v[r][LAST] = multiply_add(dots, x, last, s->v[r][LAST]);                                       \
  }
  EACH_ROW(ADD_TERM)
}

/* c (n, vectors * 16) = or += rows of a, GEMM_PITCH apart, times a panel. */
ALWAYS_INLINE void block(const int n, const int vectors, const bool dots, const float *a, const float *b, int64_t count,
                         bool fresh, float *c, int64_t pitch, const gemm_ahead *ahead) {
  block_sums s;
#define TAKE_UP(r)                                                                                                     \
  if (r < n) {                                                                                                         \
    s.v[r][0] = fresh ? v_set1(0) : v_load(c + r * pitch);                                                             \
    if (vectors > 1) s.v[r][LAST] = fresh ? v_set1(0) : v_load(c + r * pitch + LANES);                                 \
  }
  EACH_ROW(TAKE_UP)
  int64_t k = 0, sums = ml_min64(ahead->rows, count), lines = ml_min64(sums + ahead->lines, count);
  for (; k < sums; k++) {
    for (int v = 0; v < vectors; v++) __builtin_prefetch(ahead->sums + k * ahead->pitch + v * LANES, 1, 3);
    term(n, vectors, dots, a + k, b + k * vectors * LANES, &s);
  }
  for (int64_t i = 0; k < lines; k++, i++) {
    __builtin_prefetch(ahead->line[i], 0, 2);
    term(n, vectors, dots, a + k, b + k * vectors * LANES, &s);
  }
#pragma GCC unroll 4
  for (; k < count; k++) term(n, vectors, dots, a + k, b + k * vectors * LANES, &s);
#define PUT_DOWN(r)                                                                                                    \
  if (r < n) {                                                                                                         \
    v_store(c + r * pitch, s.v[r][0]);                                                                                 \
    if (vectors > 1) v_store(c + r * pitch + LANES, s.v[r][LAST]);                                                     \
  }
  EACH_ROW(PUT_DOWN)
}

#if defined(ML_ISA_AVX512)
#define EACH_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif defined(ML_ISA_AVX2)
#define EACH_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define EACH_HEIGHT(X) X(1)
#endif

typedef void (*block_kernel)(const float *a, const float *b, int64_t count, bool fresh, float *c, int64_t pitch,
                             const gemm_ahead *ahead);

#define BLOCK_OF(N, VECTORS, DOTS, name)                                                                               \
  static void name##_##N(const float *a, const float *b, int64_t count, bool fresh, float *c, int64_t pitch,           \
                         const gemm_ahead *ahead) {                                                                    \
    block(N, VECTORS, DOTS, a, b, count, fresh, c, pitch, ahead);                                                      \
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

/* A tile costs the gathering of its rows and columns beside its products: ones of less than LEAST elements do not pay,
 * nor more than a thread needs to be as busy as the others. */
enum { MOST_ROWS = 2048, MOST_COLUMNS = 512, LEAST = 128 * 256, TILES_A_THREAD = 2 };

static bool are_enough(int64_t tiles, int threads) {
  return tiles >= (int64_t)threads * TILES_A_THREAD || tiles % threads == 0;
}

gemm_tiles K(gemm_cut)(int64_t batch, int64_t M, int64_t N, int64_t inner, bool in_scratch, int threads,
                       int64_t multiple) {
  multiple = rounded(GEMM_LANES, multiple);
  int64_t rows = ml_min64(M, MOST_ROWS), columns = ml_min64(rounded(N, multiple), rounded(MOST_COLUMNS, multiple));
  while (rows * columns > LEAST && !are_enough(batch * parts_of(M, rows) * parts_of(N, columns), threads)) {
    if (rows > columns || columns <= multiple) rows = parts_of(M, 2 * parts_of(M, rows));
    else columns = rounded(columns / 2, multiple);
  }
  if (rows) rows = parts_of(M, parts_of(M, rows));
  if (columns) columns = rounded(parts_of(N, parts_of(N, columns)), multiple);
  gemm_tiles t = {rows, columns, rows ? parts_of(M, rows) : 0, columns ? parts_of(N, columns) : 0, 0, 0};
  t.panels = inner ? parts_of(columns, GEMM_LANES) * GEMM_PANEL : 0;
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
                           int64_t count, bool fresh, bool dots, const gemm_ahead *ahead) {
  int lanes = gemm_panel_lanes(c->columns, column);
  block_kernel kernel = kernels[dots][lanes == GEMM_LANES][n - 1];
  float *to = c->data + first * c->pitch + column;
  int64_t width = ml_min64(lanes, c->columns - column);
  if (width == lanes || c->padded) {
    kernel(a, panel, count, fresh, to, c->pitch, ahead);
    return;
  }
  _Alignas(64) float edge[GEMM_ROWS * GEMM_LANES] = {0};
  for (int64_t r = 0; r < n && !fresh; r++) memcpy(edge + r * lanes, to + r * c->pitch, (size_t)width * sizeof *edge);
  kernel(a, panel, count, fresh, edge, lanes, ahead);
  for (int64_t r = 0; r < n; r++) memcpy(to + r * c->pitch, edge + r * lanes, (size_t)width * sizeof *edge);
}

/* What is gathered of the left operand at once: terms k0..k0+count-1 of the tile's rows first..first+rows-1. */
typedef struct slab {
  int64_t k0, count, first, rows;
} slab;

static int64_t slab_height(const sums *c) {
  return ml_min64(GEMM_SLAB, rounded(parts_of(c->rows, parts_of(c->rows, GEMM_SLAB)), LANES));
}

/* The one that is gathered after x; it has no rows behind the last one. */
static slab slab_after(const gemm *g, const sums *c, const slab *x) {
  int64_t first = x->first + x->rows, k0 = x->k0 + x->count;
  if (first < c->rows) return (slab){x->k0, x->count, first, ml_min64(slab_height(c), c->rows - first)};
  if (k0 < g->K) return (slab){k0, ml_min64(terms_of(g), g->K - k0), 0, ml_min64(slab_height(c), c->rows)};
  return (slab){0, 0, 0, 0};
}

/* A slab, whose words are at a, times a panel, in `blocks` of as equal a height as can be: a block of few rows is slow.
 * The blocks ask for what comes next: sums, and a share of lines. */
static void multiply_slab(const sums *c, const slab *x, const float *a, int64_t column, const float *panel,
                          int64_t words, bool dots, int64_t blocks, gemm_lines *next) {
  int64_t height = x->rows / blocks, higher = x->rows % blocks, n;
  const float *sum = c->data + x->first * c->pitch + column;
  for (int64_t b = 0, at = 0; b < blocks; b++, at += n) {
    n = height + (b < higher);
    gemm_ahead ahead;
    ahead.pitch = c->pitch;
    ahead.rows = b + 1 < blocks || column + GEMM_LANES < c->columns ? height : 0;
    ahead.sums = b + 1 < blocks ? sum + (at + n) * c->pitch : sum + GEMM_LANES;
    gemm_take_lines(next, &ahead);
    multiply_block(c, x->first + at, n, column, a + at * GEMM_PITCH, panel, words, x->k0 == 0, dots, &ahead);
  }
}

/* A slab times all columns of the tile. */
static void multiply_slab_by_panels(const gemm *g, const sums *c, const slab *x, const float *a, const float *panels,
                                    int64_t m0) {
  int64_t blocks = parts_of(x->rows, GEMM_ROWS), words = g->dots ? (x->count + 1) / 2 : x->count;
  slab next = slab_after(g, c, x);
  gemm_lines lines = K(gemm_lines_of)(&g->a, next.k0, next.count, m0 + next.first, next.rows,
                                      parts_of(c->columns, GEMM_LANES) * blocks);
  for (int64_t n = 0; n < c->columns; n += GEMM_LANES)
    multiply_slab(c, x, a, n, panels + n / GEMM_LANES * GEMM_PANEL, words, g->dots, blocks, &lines);
}

static void store_tile(const gemm *g, const sums *c, int64_t m0, int64_t n0) {
  for (int64_t r = 0; r < c->rows; r++) {
    int64_t at = (m0 + r) * g->N + n0;
    for (int64_t i = 0; i < c->columns; i++) store_float(g->out, g->out_dtype, at + i, c->data[r * c->pitch + i]);
  }
}

void K(gemm_tile)(const gemm *g, const gemm_tiles *tiles, int64_t m0, int64_t n0, char *scratch) {
  float *panels = (float *)(void *)scratch, *words = panels + tiles->panels;
  sums c = {.pitch = g->N, .rows = ml_min64(tiles->rows, g->M - m0), .columns = ml_min64(tiles->columns, g->N - n0)};
  if (gemm_in_scratch(g)) {
    c.data = words + GEMM_SLAB * GEMM_PITCH;
    c.pitch = rounded(tiles->columns, GEMM_LANES);
    c.padded = true;
  } else {
    c.data = (float *)(void *)g->out + m0 * g->N + n0;
  }
  for (int64_t k0 = 0, count; k0 < g->K; k0 += count) {
    count = ml_min64(terms_of(g), g->K - k0);
    if (g->gather) g->gather(g, k0, count, n0, c.columns, panels);
    else K(gemm_pack_columns)(&g->b, g->dots, k0, count, n0, c.columns, 0, panels);
    for (slab x = {k0, count, 0, ml_min64(slab_height(&c), c.rows)}; x.rows > 0 && x.k0 == k0;
         x = slab_after(g, &c, &x)) {
      K(gemm_pack_rows)(&g->a, g->dots, k0, count, m0 + x.first, x.rows, words);
      multiply_slab_by_panels(g, &c, &x, words, panels, m0);
    }
  }
  for (int64_t r = 0; r < c.rows && g->K == 0; r++) memset(c.data + r * c.pitch, 0, (size_t)c.columns * sizeof *c.data);
  if (g->store) g->store(g, c.data, c.pitch, m0, c.rows, n0, c.columns);
  else if (gemm_in_scratch(g)) store_tile(g, &c, m0, n0);
}
