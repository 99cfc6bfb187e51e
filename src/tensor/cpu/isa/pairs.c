/* pairs.c: packed weights of bfloat16 times rows of bfloat16.
 *
 * A panel has its inputs one after another, sixteen outputs each; a word of a pair is made of two of them by a
 * permutation. Two panels are taken at once: their chains of sums do not wait for each other. */
#include "tensor/cpu/isa/pairs.h"

#if defined(ML_ISA_AVX512)

/* Words of inputs k and k + 1, the latter zero where there is none. */
ALWAYS_INLINE __m512i pair_words(const uint8_t *panel, int64_t k, int64_t inputs) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const uint8_t *p = panel + k * PANEL_ROWS * 2;
  __m512i two = k + 1 < inputs ? _mm512_loadu_si512(p) : _mm512_zextsi256_si512(_mm256_loadu_si256((const void *)p));
  return _mm512_permutexvar_epi16(order, two);
}

/* ---- dot products ---- */

enum { DOT_ROWS = 8 };

ALWAYS_INLINE void dot_step(const uint8_t *const *panels, const int panel_count, const uint16_t *x, const int rows,
                            int64_t k0, int64_t count, int64_t inputs, __m512 sums[PAIR_PANELS][DOT_ROWS]) {
  for (int64_t k = 0; k < count; k += 2) {
    for (int i = 0; i < panel_count; i++) {
      __builtin_prefetch(panels[i] + (k0 + k) * PANEL_ROWS * 2 + PREFETCH_AHEAD);
      const __m512i w = pair_words(panels[i], k0 + k, inputs);
      for (int r = 0; r < rows; r++) {
        int32_t pair;
        memcpy(&pair, x + r * PAIR_INPUTS + k, sizeof pair);
        sums[i][r] = _mm512_dpbf16_ps(sums[i][r], (__m512bh)_mm512_set1_epi32(pair), (__m512bh)w);
      }
    }
  }
}

ALWAYS_INLINE void dot_rows(const pair_rows *x, int64_t first, const int rows, const uint8_t *const *panels,
                            const int panel_count, float *const *products) {
  __m512 sums[PAIR_PANELS][DOT_ROWS];
  for (int i = 0; i < panel_count; i++) {
    for (int r = 0; r < rows; r++) sums[i][r] = _mm512_setzero_ps();
  }
  int64_t step = 0, whole = x->inputs / PAIR_INPUTS;
  for (; step < whole; step++)
    dot_step(panels, panel_count, pair_at(x, first, step), rows, step * PAIR_INPUTS, PAIR_INPUTS, INT64_MAX, sums);
  if (x->inputs % PAIR_INPUTS)
    dot_step(panels, panel_count, pair_at(x, first, step), rows, step * PAIR_INPUTS, x->inputs % PAIR_INPUTS, x->inputs,
             sums);
  for (int i = 0; i < panel_count; i++) {
    for (int r = 0; r < rows; r++) _mm512_storeu_ps(products[i] + (first + r) * LANES, sums[i][r]);
  }
}

#define DOT_CASE(N)                                                                                                    \
  case N: n == 2 ? dot_rows(x, at, N, panels, 2, products) : dot_rows(x, at, N, panels, 1, products); break;
static void multiply_dots(const pair_rows *x, const uint8_t *const *panels, int n, float *const *products) {
  for (int64_t at = 0, rows; at < x->rows; at += rows) { /* a group's rows are two times DOT_ROWS */
    rows = ml_min64(DOT_ROWS, x->rows - at);
    switch (rows) {
      DOT_CASE(1)
      DOT_CASE(2)
      DOT_CASE(3)
      DOT_CASE(4)
      DOT_CASE(5)
      DOT_CASE(6)
      DOT_CASE(7)
    default: n == 2 ? dot_rows(x, at, 8, panels, 2, products) : dot_rows(x, at, 8, panels, 1, products);
    }
  }
}

/* ---- tiles ---- */

enum { TILE_BYTES = PAIR_INPUTS * PANEL_ROWS * 2, SUMS_BYTES = LANES * 4 };

/* Tiles 0 to 3 hold sums, [group][panel], 4 and 5 a step of two groups of rows, 6 and 7 of two panels. */
static void configure(int64_t height) {
  struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } c = {.palette = 1};
  for (int i = 0; i < 8; i++) c.row_bytes[i] = LINE, c.rows[i] = i < 6 ? (uint8_t)height : PAIR_INPUTS / 2;
  _tile_loadconfig(&c);
}

/* `count` inputs of a panel from k0 on as words, whole steps of them. */
ALWAYS_INLINE void expand_pairs(const uint8_t *panel, int64_t k0, int64_t count, int64_t inputs, char *to) {
  int64_t k = 0, whole = ml_min64(count, inputs - k0) & ~(int64_t)1;
  for (; k < whole; k += 2, to += LINE) {
    __builtin_prefetch(panel + (k0 + k) * PANEL_ROWS * 2 + PREFETCH_AHEAD);
    _mm512_store_si512(to, pair_words(panel, k0 + k, INT64_MAX));
  }
  for (; k < count; k += 2, to += LINE)
    _mm512_store_si512(to, k0 + k < inputs ? pair_words(panel, k0 + k, inputs) : _mm512_setzero_si512());
}

/* One or two groups of rows times one or two panels, `steps` steps of them. */
ALWAYS_INLINE void tile_block(const int groups, const int panels, const char *a, int64_t a_group, int64_t a_step,
                              const char *b, int64_t steps, bool fresh, float *const *c) {
  enum { ROW = SUMS_BYTES };
  float *below[PAIR_PANELS] = {c[0] + PAIR_ROWS * LANES, panels > 1 ? c[1] + PAIR_ROWS * LANES : NULL};
  if (fresh) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, c[0], ROW);
    if (panels > 1) _tile_loadd(1, c[1], ROW);
    if (groups > 1) _tile_loadd(2, below[0], ROW);
    if (groups > 1 && panels > 1) _tile_loadd(3, below[1], ROW);
  }
  for (int64_t s = 0; s < steps; s++, a += a_step, b += TILE_BYTES) {
    _tile_loadd(4, a, LINE);
    _tile_loadd(6, b, LINE);
    _tile_dpbf16ps(0, 4, 6);
    if (panels > 1) {
      _tile_loadd(7, b + PAIR_BLOCK * PANEL_ROWS * 2, LINE);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (groups > 1) {
      _tile_loadd(5, a + a_group, LINE);
      _tile_dpbf16ps(2, 5, 6);
    }
    if (groups > 1 && panels > 1) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c[0], ROW);
  if (panels > 1) _tile_stored(1, c[1], ROW);
  if (groups > 1) _tile_stored(2, below[0], ROW);
  if (groups > 1 && panels > 1) _tile_stored(3, below[1], ROW);
}

static void multiply_tiles(const pair_rows *x, const uint8_t *const *panels, int n, char *scratch,
                           float *const *products) {
  const int64_t groups = pair_groups(x), steps = pair_steps(x->inputs), height = pair_height(x);
  const int64_t a_step = height * LINE, a_group = steps * a_step;
  for (int i = 0; i < n && x->inputs == 0; i++) memset(products[i], 0, (size_t)(x->rows * LANES) * sizeof(float));
  for (int64_t k0 = 0; k0 < x->inputs; k0 += PAIR_BLOCK) {
    const int64_t count = ml_min64(PAIR_BLOCK / PAIR_INPUTS, steps - k0 / PAIR_INPUTS);
    for (int i = 0; i < n; i++)
      expand_pairs(panels[i], k0, count * PAIR_INPUTS, x->inputs, scratch + (size_t)i * PAIR_BLOCK * PANEL_ROWS * 2);
    for (int64_t g = 0; g < groups; g += 2) {
      const char *a = (const char *)x->data + g * a_group + k0 / PAIR_INPUTS * a_step;
      float *c[PAIR_PANELS] = {products[0] + g * PAIR_ROWS * LANES, n > 1 ? products[1] + g * PAIR_ROWS * LANES : NULL};
      bool two = g + 1 < groups, fresh = k0 == 0;
      if (n > 1 && two) tile_block(2, 2, a, a_group, a_step, scratch, count, fresh, c);
      else if (n > 1) tile_block(1, 2, a, a_group, a_step, scratch, count, fresh, c);
      else if (two) tile_block(2, 1, a, a_group, a_step, scratch, count, fresh, c);
      else tile_block(1, 1, a, a_group, a_step, scratch, count, fresh, c);
    }
  }
}

void K(pairs_begin)(const ml_isa *isa, int64_t rows) {
  if (isa->bf16_tiles) configure(ml_max64(1, ml_min64(rows, PAIR_ROWS)));
}

void K(pairs_end)(const ml_isa *isa) {
  if (isa->bf16_tiles) _tile_release();
}

void K(pairs_multiply)(const ml_isa *isa, const pair_rows *x, const uint8_t *const *panels, int n, char *scratch,
                       float *const *products) {
  if (isa->bf16_tiles) multiply_tiles(x, panels, n, scratch, products);
  else multiply_dots(x, panels, n, products);
}

#else /* nobody asks for these */

void K(pairs_begin)(const ml_isa *isa, int64_t rows) { (void)isa, (void)rows; }
void K(pairs_end)(const ml_isa *isa) { (void)isa; }
void K(pairs_multiply)(const ml_isa *isa, const pair_rows *x, const uint8_t *const *panels, int n, char *scratch,
                       float *const *products) {
  (void)isa, (void)x, (void)panels, (void)n, (void)scratch, (void)products;
}

#endif
