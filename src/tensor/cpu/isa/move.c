/* move.c: copies of strided arrays. Axes are taken in the order of the target's memory and joined where both sides lie
 * evenly; where the source's neighbours lie along another axis than the target's, tiles of both axes are transposed, so
 * that each line of memory is used whole while it is near. */
#include "tensor/cpu/isa/move.h"

#include "tensor/cpu/isa/simd.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* ---- transposition ---- */

#define PLAIN(TYPE)                                                                                                    \
  for (int64_t r = 0; r < rows; r++) {                                                                                 \
    for (int64_t c = 0; c < columns; c++)                                                                              \
      *(TYPE *)(void *)(to + c * to_step + r * (int64_t)sizeof(TYPE)) =                                                \
          *(const TYPE *)(const void *)(from + r * from_step + c * (int64_t)sizeof(TYPE));                             \
  }                                                                                                                    \
  return

static void transpose_plain(char *to, int64_t to_step, const char *from, int64_t from_step, int64_t rows,
                            int64_t columns, int item) {
  switch (item) {
  case 1: PLAIN(uint8_t);
  case 2: PLAIN(uint16_t);
  case 4: PLAIN(uint32_t);
  default: PLAIN(uint64_t);
  }
}

#if defined(__SSE2__)
/* A square of N rows of 16 bytes. Interleaving the upper half of the rows with the lower one, log2 N times over, puts
 * every item into its place. A wider VECTOR does so with one square in each of its quarters or halves, which lie one
 * below the other, and so writes longer rows. */
#define SQUARE(NAME, N, VECTOR, LOAD, STORE, UNPACK_LOW, UNPACK_HIGH)                                                  \
  ALWAYS_INLINE void NAME(char *to, int64_t to_step, const char *from, int64_t from_step) {                            \
    VECTOR a[N], b[N];                                                                                                 \
    for (int i = 0; i < N; i++) a[i] = LOAD(from + i * from_step, N * from_step);                                      \
    for (int n = 1; n < N; n *= 2) {                                                                                   \
      for (int i = 0; i < N / 2; i++) {                                                                                \
        b[2 * i] = UNPACK_LOW(a[i], a[i + N / 2]);                                                                     \
        b[2 * i + 1] = UNPACK_HIGH(a[i], a[i + N / 2]);                                                                \
      }                                                                                                                \
      for (int i = 0; i < N; i++) a[i] = b[i];                                                                         \
    }                                                                                                                  \
    for (int i = 0; i < N; i++) STORE((void *)(to + i * to_step), a[i]);                                               \
  }
#define LOAD_ONE(from, below) _mm_loadu_si128((const void *)(from))
SQUARE(square_1, 16, __m128i, LOAD_ONE, _mm_storeu_si128, _mm_unpacklo_epi8, _mm_unpackhi_epi8)
SQUARE(square_2, 8, __m128i, LOAD_ONE, _mm_storeu_si128, _mm_unpacklo_epi16, _mm_unpackhi_epi16)
SQUARE(square_4, 4, __m128i, LOAD_ONE, _mm_storeu_si128, _mm_unpacklo_epi32, _mm_unpackhi_epi32)
SQUARE(square_8, 2, __m128i, LOAD_ONE, _mm_storeu_si128, _mm_unpacklo_epi64, _mm_unpackhi_epi64)

/* tall_WIDTH: as many squares as a vector holds. stream_WIDTH: the same in whole lines, past the caches. */
#if defined(ML_ISA_AVX512)
enum { ABREAST = 4 }; /* squares in a vector */
#define TALL(WIDTH, N, UNPACK_LOW, UNPACK_HIGH)                                                                        \
  SQUARE(tall_##WIDTH, N, __m512i, load_four, _mm512_storeu_si512, UNPACK_LOW, UNPACK_HIGH)                            \
  SQUARE(stream_##WIDTH, N, __m512i, load_four, _mm512_stream_si512, UNPACK_LOW, UNPACK_HIGH)
ALWAYS_INLINE __m512i load_four(const char *from, int64_t below) {
  __m512i v = _mm512_castsi128_si512(LOAD_ONE(from, below));
  v = _mm512_inserti32x4(v, LOAD_ONE(from + below, below), 1);
  v = _mm512_inserti32x4(v, LOAD_ONE(from + 2 * below, below), 2);
  return _mm512_inserti32x4(v, LOAD_ONE(from + 3 * below, below), 3);
}
TALL(1, 16, _mm512_unpacklo_epi8, _mm512_unpackhi_epi8)
TALL(2, 8, _mm512_unpacklo_epi16, _mm512_unpackhi_epi16)
TALL(4, 4, _mm512_unpacklo_epi32, _mm512_unpackhi_epi32)
TALL(8, 2, _mm512_unpacklo_epi64, _mm512_unpackhi_epi64)
#elif defined(ML_ISA_AVX2)
enum { ABREAST = 2 };
#define TALL(WIDTH, N, UNPACK_LOW, UNPACK_HIGH)                                                                        \
  SQUARE(tall_##WIDTH, N, __m256i, load_two, _mm256_storeu_si256, UNPACK_LOW, UNPACK_HIGH)
ALWAYS_INLINE __m256i load_two(const char *from, int64_t below) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(LOAD_ONE(from, below)), LOAD_ONE(from + below, below), 1);
}
TALL(1, 16, _mm256_unpacklo_epi8, _mm256_unpackhi_epi8)
TALL(2, 8, _mm256_unpacklo_epi16, _mm256_unpackhi_epi16)
TALL(4, 4, _mm256_unpacklo_epi32, _mm256_unpackhi_epi32)
TALL(8, 2, _mm256_unpacklo_epi64, _mm256_unpackhi_epi64)
#else
enum { ABREAST = 1 };
#define tall_1 square_1
#define tall_2 square_2
#define tall_4 square_4
#define tall_8 square_8
#endif

/* Rows outside: the source is likely to be the farther one. */
#define SQUARES(WIDTH, N)                                                                                              \
  for (; r + ABREAST * (N) <= rows; r += ABREAST * (N)) {                                                              \
    for (int64_t c = 0; c < whole_columns; c += N)                                                                     \
      tall_##WIDTH(to + c * to_step + r * item, to_step, from + r * from_step + c * item, from_step);                  \
  }                                                                                                                    \
  for (; r + (N) <= rows; r += N) {                                                                                    \
    for (int64_t c = 0; c < whole_columns; c += N)                                                                     \
      square_##WIDTH(to + c * to_step + r * item, to_step, from + r * from_step + c * item, from_step);                \
  }                                                                                                                    \
  break
#endif

void K(transpose)(char *to, int64_t to_step, const char *from, int64_t from_step, int64_t rows, int64_t columns,
                  int item) {
#if defined(__SSE2__)
  int64_t r = 0, whole_columns = columns / (16 / item) * (16 / item);
  switch (item) {
  case 1: SQUARES(1, 16);
  case 2: SQUARES(2, 8);
  case 4: SQUARES(4, 4);
  default: SQUARES(8, 2);
  }
  transpose_plain(to + whole_columns * to_step, to_step, from + whole_columns * item, from_step, r,
                  columns - whole_columns, item);
  to += r * item, from += r * from_step, rows -= r;
#endif
  transpose_plain(to, to_step, from, from_step, rows, columns, item);
}

/* ---- rows ---- */

#define SPREAD(TYPE)                                                                                                   \
  do {                                                                                                                 \
    TYPE *o = (TYPE *)(void *)to;                                                                                      \
    const TYPE *x = (const TYPE *)(const void *)from;                                                                  \
    if (from_stride == 0 && to_stride == 1)                                                                            \
      for (int64_t i = 0; i < n; i++) o[i] = *x;                                                                       \
    else if (to_stride == 1)                                                                                           \
      for (int64_t i = 0; i < n; i++) o[i] = x[i * from_stride];                                                       \
    else                                                                                                               \
      for (int64_t i = 0; i < n; i++) o[i * to_stride] = x[i * from_stride];                                           \
    return;                                                                                                            \
  } while (0)

void K(move_row)(char *to, int64_t to_stride, const char *from, int64_t from_stride, int64_t n, int item) {
  if (to_stride == 1 && from_stride == 1) {
    memcpy(to, from, (size_t)(n * item));
    return;
  }
  switch (item) {
  case 1: SPREAD(uint8_t);
  case 2: SPREAD(uint16_t);
  case 4: SPREAD(uint32_t);
  default: SPREAD(uint64_t);
  }
}

/* ---- past the caches ---- */

/* A line of memory that is written whole need not be read first, if the cache is left out: a third of a copy's traffic,
 * and more where lines are far apart. What fits a cache is read from there soon, and is written to it. */
enum { STREAM_SQUARES = 4 << 20 }; /* STREAM_SQUARES: bytes of a target from which on this pays */
enum { LINES_AHEAD = 6 };          /* of each row of the source, which are asked for before they are read */

#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)
enum { CAN_STREAM = true };

static int64_t to_next_line(const char *p) { return -(int64_t)((uintptr_t)p % LINE) & (LINE - 1); }

ALWAYS_INLINE void stream_line(char *to, const char *from) {
#if defined(ML_ISA_AVX512)
  _mm512_stream_si512((void *)to, _mm512_loadu_si512(from));
#else
  _mm256_stream_si256((void *)to, _mm256_loadu_si256((const void *)from));
  _mm256_stream_si256((void *)(to + LINE / 2), _mm256_loadu_si256((const void *)(from + LINE / 2)));
#endif
}

void K(stream_row)(char *to, const char *from, int64_t bytes) {
  int64_t i = ml_min64(bytes, to_next_line(to));
  memcpy(to, from, (size_t)i);
  for (; i + LINE <= bytes; i += LINE) stream_line(to + i, from + i);
  memcpy(to + i, from + i, (size_t)(bytes - i));
}

/* Writes the transpose of a square of lines, line by line: of halves, memory would be read first after all. */
#if defined(ML_ISA_AVX512)
#define STREAM(WIDTH)                                                                                                  \
  for (int c = 0; c < LINE / (WIDTH); c += 16 / (WIDTH))                                                               \
    stream_##WIDTH(to + c * to_step, to_step, square + c * (WIDTH), LINE);                                             \
  return
#else
#define STREAM(WIDTH)                                                                                                  \
  for (int c = 0; c < LINE / (WIDTH); c += 16 / (WIDTH)) {                                                             \
    _Alignas(LINE) char turned[16 / (WIDTH)*LINE];                                                                     \
    tall_##WIDTH(turned, LINE, square + c * (WIDTH), LINE);                                                            \
    tall_##WIDTH(turned + LINE / 2, LINE, square + LINE / 2 / (WIDTH)*LINE + c * (WIDTH), LINE);                       \
    for (int i = 0; i < 16 / (WIDTH); i++) stream_line(to + (c + i) * to_step, turned + i * LINE);                     \
  }                                                                                                                    \
  return
#endif

ALWAYS_INLINE void stream_turned(char *to, int64_t to_step, const char *square, int item) {
  switch (item) {
  case 1: STREAM(1);
  case 2: STREAM(2);
  case 4: STREAM(4);
  default: STREAM(8);
  }
}

/* A line of each of LINE / item rows becomes as many lines of the target. They lie in between where none displaces
 * another from the cache, as rows that are far apart may. */
static void stream_square(char *to, int64_t to_step, const char *from, int64_t from_step, int item) {
  _Alignas(LINE) char square[LINE * LINE];
  int i = 0;
  do {
    const char *row = from + i * from_step;
    memcpy(square + i * LINE, row, LINE);
    __builtin_prefetch((const void *)((uintptr_t)row + LINES_AHEAD * LINE), 0, 2);
  } while (++i < LINE / item);
  stream_turned(to, to_step, square, item);
}

/* As K(transpose), where rows of the target begin with a line. */
static void stream_transposed(char *to, int64_t to_step, const char *from, int64_t from_step, int64_t rows,
                              int64_t columns, int item) {
  const int64_t n = LINE / item, whole_rows = rows / n * n, whole_columns = columns / n * n;
  for (int64_t r = 0; r < whole_rows; r += n) {
    for (int64_t c = 0; c < whole_columns; c += n)
      stream_square(to + c * to_step + r * item, to_step, from + r * from_step + c * item, from_step, item);
  }
  K(transpose)
  (to + whole_columns * to_step, to_step, from + whole_columns * item, from_step, whole_rows, columns - whole_columns,
   item);
  K(transpose)
  (to + whole_rows * item, to_step, from + whole_rows * from_step, from_step, rows - whole_rows, columns, item);
}

/* What was streamed is seen by other threads. */
void K(end_stream)(void) { _mm_sfence(); }
#else
enum { CAN_STREAM = false };

static int64_t to_next_line(const char *p) {
  (void)p;
  return 1;
}
void K(stream_row)(char *to, const char *from, int64_t bytes) { memcpy(to, from, (size_t)bytes); }
#define stream_transposed K(transpose)
void K(end_stream)(void) {}
#endif

/* ---- the task ---- */

/* Bytes along a row that a unit takes, and of each side of a tile that is transposed. A tile is made in scratch, whose
 * rows lie so that none displaces another from the cache, and written by rows from there. One that is streamed is as
 * long as can be along the source, which is read ahead of need then. */
enum { ROW_BYTES = 1 << 15, TILE_BYTES = 512, STREAM_HEIGHT = LINE, STREAM_WIDTH = 4096 };

typedef struct move_plan {
  char *const *to, *const *from; /* addresses differ from run to run */
  int item, ndim;
  int64_t shape[ML_MAX_DIMS], to_strides[ML_MAX_DIMS], from_strides[ML_MAX_DIMS];
  bool tiled;                           /* the last two axes in tiles; else the last one in runs */
  bool stream;                          /* past the caches */
  int64_t run, runs, side, sides, step; /* step: bytes from row to row of a tile */
} move_plan;

static void add_axis(move_plan *m, int64_t length, int64_t to, int64_t from) {
  int last = m->ndim - 1;
  if (length == 1) return;
  if (last >= 0 && m->to_strides[last] == length * to && m->from_strides[last] == length * from) {
    m->shape[last] *= length, m->to_strides[last] = to, m->from_strides[last] = from;
    return;
  }
  m->shape[m->ndim] = length, m->to_strides[m->ndim] = to, m->from_strides[m->ndim] = from;
  m->ndim++;
}

/* Axes by falling strides of the target. */
static void order_axes(move_plan *m, const ml_arg *to, const ml_arg *from) {
  int order[ML_MAX_DIMS];
  for (int d = 0; d < to->ndim; d++) {
    int j = d;
    for (; j > 0 && to->strides[order[j - 1]] < to->strides[d]; j--) order[j] = order[j - 1];
    order[j] = d;
  }
  for (int d = 0; d < to->ndim; d++) add_axis(m, to->shape[order[d]], to->strides[order[d]], from->strides[order[d]]);
  if (m->ndim == 0) m->ndim = 1, m->shape[0] = m->to_strides[0] = m->from_strides[0] = 1;
}

/* The axis along which the source's neighbours lie becomes the last but one. */
static void choose_tiles(move_plan *m) {
  int last = m->ndim - 1, along = -1;
  if (m->to_strides[last] != 1 || m->from_strides[last] == 1) return;
  for (int d = 0; d < last; d++) along = m->from_strides[d] == 1 ? d : along;
  if (along < 0) return;
  int64_t axis[] = {m->shape[along], m->to_strides[along], m->from_strides[along]};
  for (int d = along; d < last - 1; d++) {
    m->shape[d] = m->shape[d + 1], m->to_strides[d] = m->to_strides[d + 1], m->from_strides[d] = m->from_strides[d + 1];
  }
  m->shape[last - 1] = axis[0], m->to_strides[last - 1] = axis[1], m->from_strides[last - 1] = axis[2];
  m->tiled = true;
}

static void move_tile(const move_plan *m, char *to, const char *from, int64_t n, int64_t side, char *tile) {
  int last = m->ndim - 1, item = m->item;
  int64_t to_step = m->to_strides[last - 1] * item, from_step = m->from_strides[last] * item;
  if (m->stream && to_next_line(to) == 0) {
    stream_transposed(to, to_step, from, from_step, n, side, item);
    return;
  }
  K(transpose)(tile, m->step, from, from_step, n, side, item);
  for (int64_t i = 0; i < side; i++) memcpy(to + i * to_step, tile + i * m->step, (size_t)(n * item));
}

void K(move)(const ml_task *t, int64_t begin, int64_t end, ml_worker *w) {
  const move_plan *m = t->extra;
  int last = m->ndim - 1, item = m->item;
  for (int64_t unit = begin; unit < end; unit++) {
    int64_t rest = unit / m->runs, at = unit % m->runs * m->run, n = ml_min64(m->run, m->shape[last] - at);
    int64_t to = at * m->to_strides[last], from = at * m->from_strides[last], side = 0;
    int d = last - 1;
    if (m->tiled) {
      int64_t first = rest % m->sides * m->side;
      side = ml_min64(m->side, m->shape[d] - first);
      rest /= m->sides;
      to += first * m->to_strides[d], from += first * m->from_strides[d];
      d--;
    }
    to += ml_index_offset(d + 1, m->shape, m->to_strides, rest);
    from += ml_index_offset(d + 1, m->shape, m->from_strides, rest);
    char *o = *m->to + to * item;
    const char *x = *m->from + from * item;
    if (m->tiled) move_tile(m, o, x, n, side, w->scratch);
    else if (m->stream) K(stream_row)(o, x, n * item);
    else K(move_row)(o, m->to_strides[last], x, m->from_strides[last], n, item);
  }
  if (m->stream) K(end_stream)();
}

/* Streamed are tiles with whole lines in each row of the target, and rows that lie side by side on either side. */
static bool can_stream(const move_plan *m, int64_t bytes) {
  int last = m->ndim - 1;
  if (!CAN_STREAM) return false;
  if (m->tiled) return bytes >= STREAM_SQUARES && m->to_strides[last - 1] * m->item % LINE == 0;
  return bytes >= STREAM_ROWS && m->to_strides[last] == 1 && m->from_strides[last] == 1;
}

ml_status K(move_prepare)(ml_task *t, const ml_arg *to, const ml_arg *from) {
  move_plan *m = ml_bump_alloc(t->memory, 1, sizeof *m);
  if (!m) return ML_MEMORY;
  t->extra = m;
  t->run = K(move);
  m->to = &to->data, m->from = &from->data;
  m->item = ml_dtype_infos[to->dtype].bytes;
  int64_t size = ml_shape_size(to->ndim, to->shape);
  order_axes(m, to, from);
  choose_tiles(m);
  m->stream = can_stream(m, size * m->item);
  int64_t last = m->shape[m->ndim - 1], rows = size && last ? size / last : 0;
  m->run = (!m->tiled ? ROW_BYTES : m->stream ? STREAM_HEIGHT : TILE_BYTES) / m->item;
  m->runs = (last + m->run - 1) / m->run;
  t->units = rows * m->runs;
  int64_t unit_size = ml_min64(m->run, last);
  if (m->tiled) {
    int64_t length = m->shape[m->ndim - 2];
    m->side = (m->stream ? STREAM_WIDTH : TILE_BYTES) / m->item;
    m->sides = (length + m->side - 1) / m->side;
    m->step = m->run * m->item + LINE;
    t->units = size ? rows / length * m->sides * m->runs : 0;
    unit_size *= ml_min64(m->side, length);
    t->scratch = (size_t)(m->step * m->side);
  }
  t->grain = ml_max64(1, ROW_BYTES / ml_max64(1, unit_size * m->item));
  t->cost = (double)size * 0.1 * m->item + (double)t->units * 5;
  return ML_OK;
}
