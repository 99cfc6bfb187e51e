/* pairs.c: packed weights of bfloat16 times rows of bfloat16.
 *
 * A panel has its inputs one after another, sixteen outputs each; a word of a pair is made of two of them by a
 * permutation. Two panels are taken at once: their chains of sums do not wait for each other. */
#include "tensor/cpu/isa/pairs.h"

#if defined(ML_ISA_AVX512)

/* Of a block of a panel. */
enum { PANEL_BYTES = PAIR_BLOCK * PANEL_ROWS * 2 };

/* Inputs k and k + 1 of a panel, zeros where there are none. */
ALWAYS_INLINE __m512i two_inputs(const uint8_t *panel, int64_t k, int64_t inputs) {
  const uint8_t *p = panel + k * PANEL_ROWS * 2;
  if (k + 1 < inputs) return _mm512_loadu_si512(p);
  return k < inputs ? _mm512_zextsi256_si512(_mm256_loadu_si256((const void *)p)) : _mm512_setzero_si512();
}

/* The same as a word of both for each output. */
ALWAYS_INLINE __m512i pair_words(__m512i two) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, two);
}

/* `count` inputs of a panel from k0 on as words, whole steps of them. */
ALWAYS_INLINE void expand_pairs(const uint8_t *panel, int64_t k0, int64_t count, int64_t inputs, char *to) {
  int64_t k = 0, whole = ml_min64(count, inputs - k0) & ~(int64_t)1;
  for (; k < whole; k += 2, to += LINE) {
    __builtin_prefetch(panel + (k0 + k) * PANEL_ROWS * 2 + PREFETCH_AHEAD);
    _mm512_store_si512(to, pair_words(two_inputs(panel, k0 + k, INT64_MAX)));
  }
  for (; k < count; k += 2, to += LINE) _mm512_store_si512(to, pair_words(two_inputs(panel, k0 + k, inputs)));
}

/* ---- dot products ---- */

enum { DOT_ROWS = 8 };

/* Sums of rows x..x+rows-1 of a group go on with `steps` steps of panels, which are words at `b`. */
ALWAYS_INLINE void dot_block(const int rows, const int panels, const uint16_t *x, int64_t x_step, const char *b,
                             int64_t steps, bool fresh, float *const *c) {
  __m512 sums[PAIR_PANELS][DOT_ROWS];
  for (int i = 0; i < panels; i++) {
    for (int r = 0; r < rows; r++) sums[i][r] = fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(c[i] + r * LANES);
  }
  for (int64_t s = 0; s < steps; s++, x += x_step) {
    for (int k = 0; k < PAIR_INPUTS; k += 2, b += LINE) {
      __m512bh words[PAIR_PANELS];
      for (int i = 0; i < panels; i++) words[i] = (__m512bh)_mm512_load_si512(b + i * PANEL_BYTES);
      for (int r = 0; r < rows; r++) {
        int32_t pair;
        memcpy(&pair, x + r * PAIR_INPUTS + k, sizeof pair);
        const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
        for (int i = 0; i < panels; i++) sums[i][r] = _mm512_dpbf16_ps(sums[i][r], both, words[i]);
      }
    }
  }
  for (int i = 0; i < panels; i++) {
    for (int r = 0; r < rows; r++) _mm512_storeu_ps(c[i] + r * LANES, sums[i][r]);
  }
}

static void dot_rows(int64_t rows, int panels, const uint16_t *x, int64_t x_step, const char *b, int64_t steps,
                     bool fresh, float *const *c) {
#define DOT_CASE(N)                                                                                                    \
  case N:                                                                                                              \
    if (panels == 2) dot_block(N, 2, x, x_step, b, steps, fresh, c);                                                   \
    else dot_block(N, 1, x, x_step, b, steps, fresh, c);                                                               \
    break;
  switch (rows) {
    DOT_CASE(1)
    DOT_CASE(2)
    DOT_CASE(3)
    DOT_CASE(4)
    DOT_CASE(5)
    DOT_CASE(6)
    DOT_CASE(7)
    DOT_CASE(8)
  }
}

static void multiply_dots(const pair_rows *x, const char *b, int64_t k0, int64_t steps, int n, float *const *products) {
  const int64_t x_step = pair_height(x) * PAIR_INPUTS;
  for (int64_t at = 0, rows; at < x->rows; at += rows) { /* a group's rows are two times DOT_ROWS */
    rows = ml_min64(DOT_ROWS, x->rows - at);
    float *c[PAIR_PANELS] = {products[0] + at * LANES, n > 1 ? products[1] + at * LANES : NULL};
    dot_rows(rows, n, pair_at(x, at, k0 / PAIR_INPUTS), x_step, b, steps, k0 == 0, c);
  }
}

/* ---- tiles ---- */

enum { TILE_BYTES = PAIR_INPUTS * PANEL_ROWS * 2, SUMS_BYTES = LANES * 4 };

/* The compiler is not told what memory tiles are loaded from and stored to: what lies at p is there, or is read anew,
 * from here on. */
ALWAYS_INLINE void settle(const void *p) { __asm__ volatile("" : : "r"(p) : "memory"); }

/* Tiles 0 to 3 hold sums, [group][panel], 4 and 5 a step of two groups of rows, 6 and 7 of two panels. */
static void configure(int64_t height) {
  struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } c = {.palette = 1};
  for (int i = 0; i < 8; i++) c.row_bytes[i] = LINE, c.rows[i] = i < 6 ? (uint8_t)height : PAIR_INPUTS / 2;
  settle(&c);
  _tile_loadconfig(&c);
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
      _tile_loadd(7, b + PANEL_BYTES, LINE);
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

static void multiply_tiles(const pair_rows *x, const char *b, int64_t k0, int64_t steps, int n,
                           float *const *products) {
  const int64_t groups = pair_groups(x), a_step = pair_height(x) * LINE, a_group = pair_steps(x->inputs) * a_step;
  const bool fresh = k0 == 0;
  settle(b);
  for (int64_t g = 0; g < groups; g += 2) {
    const char *a = (const char *)x->data + g * a_group + k0 / PAIR_INPUTS * a_step;
    float *c[PAIR_PANELS] = {products[0] + g * PAIR_ROWS * LANES, n > 1 ? products[1] + g * PAIR_ROWS * LANES : NULL};
    bool two = g + 1 < groups;
    if (n > 1 && two) tile_block(2, 2, a, a_group, a_step, b, steps, fresh, c);
    else if (n > 1) tile_block(1, 2, a, a_group, a_step, b, steps, fresh, c);
    else if (two) tile_block(2, 1, a, a_group, a_step, b, steps, fresh, c);
    else tile_block(1, 1, a, a_group, a_step, b, steps, fresh, c);
  }
  settle(b);
}

/* ---- what tiles give, without them ---- */

/* Rows for which a tile is mostly empty: vectors are faster, and do the same operations one by one. */
enum { VECTOR_ROWS = 2 };

/* One step: 32 inputs, of which those behind the last are zero. */
ALWAYS_INLINE void vector_step(const int rows, const int panels, const pair_rows *x, const uint8_t *const *panel,
                               int64_t step, const bool whole, __m512 sums[VECTOR_ROWS][PAIR_PANELS]) {
  const __m512i even_of = _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0, 7, 0, 6, 0, 5, 0, 4, 0,
                                           3, 0, 2, 0, 1, 0, 0, 0);
  const __m512i odd_of = _mm512_add_epi16(even_of, _mm512_set1_epi16(PANEL_ROWS));
  const __mmask32 upper = 0xaaaaaaaa;
  float row[VECTOR_ROWS][PAIR_INPUTS];
  __m512 even[VECTOR_ROWS][PAIR_PANELS], odd[VECTOR_ROWS][PAIR_PANELS];
  for (int r = 0; r < rows; r++) {
    const uint16_t *from = pair_at(x, r, step);
    v_store(row[r], v_load_bf16(from)), v_store(row[r] + LANES, v_load_bf16(from + LANES));
    for (int i = 0; i < panels; i++) even[r][i] = odd[r][i] = _mm512_setzero_ps();
  }
  for (int64_t j = 0; j < PAIR_INPUTS; j += 2) {
    const int64_t k = step * PAIR_INPUTS + j;
    for (int i = 0; i < panels; i++) {
      __builtin_prefetch(panel[i] + k * PANEL_ROWS * 2 + PREFETCH_AHEAD);
      const __m512i two = two_inputs(panel[i], k, whole ? INT64_MAX : x->inputs);
      const __m512 first = _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(upper, even_of, two)),
                   second = _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(upper, odd_of, two));
      for (int r = 0; r < rows; r++) {
        even[r][i] = _mm512_fmadd_ps(_mm512_set1_ps(row[r][j]), first, even[r][i]);
        odd[r][i] = _mm512_fmadd_ps(_mm512_set1_ps(row[r][j + 1]), second, odd[r][i]);
      }
    }
  }
  for (int r = 0; r < rows; r++) {
    for (int i = 0; i < panels; i++) sums[r][i] = _mm512_add_ps(sums[r][i], _mm512_add_ps(even[r][i], odd[r][i]));
  }
}

ALWAYS_INLINE void vector_rows(const int rows, const int panels, const pair_rows *x, const uint8_t *const *panel,
                               float *const *products) {
  __m512 sums[VECTOR_ROWS][PAIR_PANELS];
  for (int r = 0; r < rows; r++) {
    for (int i = 0; i < panels; i++) sums[r][i] = _mm512_setzero_ps();
  }
  int64_t step = 0;
  for (; step < x->inputs / PAIR_INPUTS; step++) vector_step(rows, panels, x, panel, step, true, sums);
  if (step < pair_steps(x->inputs)) vector_step(rows, panels, x, panel, step, false, sums);
  for (int r = 0; r < rows; r++) {
    for (int i = 0; i < panels; i++) _mm512_storeu_ps(products[i] + r * LANES, sums[r][i]);
  }
}

static __attribute__((noinline)) void choose_rows(const pair_rows *x, const uint8_t *const *panels, int n,
                                                  float *const *products) {
  if (x->rows == 1 && n == 1) vector_rows(1, 1, x, panels, products);
  else if (x->rows == 1) vector_rows(1, 2, x, panels, products);
  else if (n == 1) vector_rows(2, 1, x, panels, products);
  else vector_rows(2, 2, x, panels, products);
}

/* Subnormals are zero here as they are to tiles. */
static void multiply_vectors(const pair_rows *x, const uint8_t *const *panels, int n, float *const *products) {
  enum { NO_SUBNORMALS = 0x8040 };
  const unsigned state = _mm_getcsr();
  _mm_setcsr(state | NO_SUBNORMALS);
  choose_rows(x, panels, n, products);
  _mm_setcsr(state);
}

static bool uses_tiles(const ml_isa *isa, int64_t rows) { return isa->bf16_tiles && rows > VECTOR_ROWS; }

void K(pairs_begin)(const ml_isa *isa, int64_t rows) {
  if (uses_tiles(isa, rows)) configure(ml_min64(rows, PAIR_ROWS));
}

void K(pairs_end)(const ml_isa *isa, int64_t rows) {
  if (uses_tiles(isa, rows)) _tile_release();
}

void K(pairs_multiply)(const ml_isa *isa, const pair_rows *x, const uint8_t *const *panels, int n, char *scratch,
                       float *const *products) {
  if (isa->bf16_tiles && x->rows <= VECTOR_ROWS) {
    multiply_vectors(x, panels, n, products);
    return;
  }
  for (int i = 0; i < n && x->inputs == 0; i++) memset(products[i], 0, (size_t)(x->rows * LANES) * sizeof(float));
  for (int64_t k0 = 0; k0 < x->inputs; k0 += PAIR_BLOCK) {
    const int64_t steps = ml_min64(PAIR_BLOCK / PAIR_INPUTS, pair_steps(x->inputs) - k0 / PAIR_INPUTS);
    for (int i = 0; i < n; i++)
      expand_pairs(panels[i], k0, steps * PAIR_INPUTS, x->inputs, scratch + (size_t)i * PANEL_BYTES);
    if (isa->bf16_tiles) multiply_tiles(x, scratch, k0, steps, n, products);
    else multiply_dots(x, scratch, k0, steps, n, products);
  }
}

#else /* nobody asks for these */

void K(pairs_begin)(const ml_isa *isa, int64_t rows) { (void)isa, (void)rows; }
void K(pairs_end)(const ml_isa *isa, int64_t rows) { (void)isa, (void)rows; }
void K(pairs_multiply)(const ml_isa *isa, const pair_rows *x, const uint8_t *const *panels, int n, char *scratch,
                       float *const *products) {
  (void)isa, (void)x, (void)panels, (void)n, (void)scratch, (void)products;
}

#endif
