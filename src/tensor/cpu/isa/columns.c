/* columns.c: reductions of columns that lie side by side, as they are read: row by row, with vectors of columns where
 * partial.c has one of elements. Each column is reduced in the order of partial.c, bit for bit. */
#include "tensor/cpu/isa/exponents.h"
#include "tensor/cpu/isa/fold.h"
#include "tensor/cpu/isa/keys.h"

bool K(columns_know)(int op, ml_dtype t) { return op != ML_OP_logsumexp || is_narrow(t); }

/* Whether rows of so many bytes follow each other in memory. */
static bool are_near(const char *const *rows, int64_t n, int64_t bytes) {
  const int64_t step = n > 1 ? rows[1] - rows[0] : 0;
  return step >= bytes && step <= bytes + LINE;
}

/* ---- floats: a lane of all columns after the other ---- */

/* A block of rows, and what is made of each column: floats of narrow types, or doubles. */
typedef struct block {
  const char *const *rows;
  int64_t n, width; /* width >= LANES */
  ml_dtype dtype;
  bool narrow;
  fold how;
  const void *centre; /* of each column, as narrow as results; spread, EXPONENTS_BELOW */
  bool spread;        /* two results a column: distances from the centre, behind all of which squared ones follow */
} block;

static int64_t bytes_of(const block *b) {
  return b->width * (int64_t)(b->narrow ? sizeof(float) : sizeof(double)) * (b->spread ? 2 : 1);
}

/* Rows lie too far apart for processors to see what comes next: the next lane's are asked for meanwhile, into the
 * second cache, since a lane is about as large as the first. */
ALWAYS_INLINE void fetch_rows(const block *b, int64_t lane, int64_t at) {
  for (int64_t i = lane; i < b->n; i += LANES) __builtin_prefetch(b->rows[i] + at, 0, 2);
}

/* The lane that join_lanes takes after this one: their bits count from the left. 0 after the last. */
static int64_t lane_after(int64_t lane) {
  for (int bit = LANES / 2; bit > 0; bit /= 2) {
    lane ^= bit;
    if (lane & bit) break;
  }
  return lane;
}

/* From the first of the columns on, a vector after the other; the last may overlap the one before. */
#define EACH_VECTOR(b, at)                                                                                             \
  for (int64_t next = 0, at; at = ml_min64(next, (b)->width - LANES), next < (b)->width; next += LANES)

/* Lane `lane`: row lane, lane + LANES, and so on. Of the columns from the byte `from` on: */
ALWAYS_INLINE v16f fold_of_lane(const block *b, int64_t lane, ml_dtype t, fold how, int64_t from) {
  v16f s = v_set1(0);
  for (int64_t i = lane; i < b->n; i += LANES) s = narrow_step(s, load_narrow(b->rows[i] + from, t), how);
  return s;
}

/* Of all columns: */
ALWAYS_INLINE void narrow_lane(const block *b, int64_t lane, ml_dtype t, fold how, float *out) {
  int item = t == ML_F32 ? sizeof(float) : sizeof(uint16_t);
  int64_t coming = lane_after(lane);
  EACH_VECTOR(b, at) {
    if (coming && (item == sizeof(float) || next % (2 * LANES) == 0)) fetch_rows(b, coming, at * item);
    v_store(out + at, fold_of_lane(b, lane, t, how, at * item));
  }
}

/* What lanes without an element in a block's last vector add to a row's sum of powers of e, they add here. */
ALWAYS_INLINE void exponents_lane(const block *b, int64_t lane, ml_dtype t, float *out) {
  int item = t == ML_F32 ? sizeof(float) : sizeof(uint16_t);
  const bool is_short = b->n % LANES && lane >= b->n % LANES;
  EACH_VECTOR(b, at) {
    const v16f centre = v_load((const float *)b->centre + at);
    v16f s = v_set1(0);
    for (int64_t i = lane; i < b->n; i += LANES)
      s = v_add(s, v_exp_below(v_sub(load_narrow(b->rows[i] + at * item, t), centre)));
    v_store(out + at, is_short ? v_add(s, v_exp_below(v_set1(-INFINITY))) : s);
  }
}

ALWAYS_INLINE void narrow_spread_lane(const block *b, int64_t lane, ml_dtype t, float *out) {
  int item = t == ML_F32 ? sizeof(float) : sizeof(uint16_t);
  int64_t coming = lane_after(lane);
  EACH_VECTOR(b, at) {
    if (coming && (item == sizeof(float) || next % (2 * LANES) == 0)) fetch_rows(b, coming, at * item);
    const v16f centre = v_load((const float *)b->centre + at);
    narrow_spread s = narrow_spread_start();
    for (int64_t i = lane; i < b->n; i += LANES)
      s = narrow_spread_step(s, load_narrow(b->rows[i] + at * item, t), centre);
    v_store(out + at, s.away);
    v_store(out + b->width + at, s.squares);
  }
}

ALWAYS_INLINE void fold_lane(const block *b, int64_t lane, ml_dtype t, fold how, double *out) {
  int item = ml_dtype_infos[t].bytes;
  int64_t coming = lane_after(lane);
  EACH_VECTOR(b, at) {
    if (coming) fetch_rows(b, coming, at * item);
    v16d s = fold_start(how);
    for (int64_t i = lane; i < b->n; i += LANES) s = fold_step(s, load_wide(b->rows[i] + at * item, t), how);
    w_store(out + at, s);
  }
}

ALWAYS_INLINE void spread_lane(const block *b, int64_t lane, ml_dtype t, double *out) {
  int item = ml_dtype_infos[t].bytes;
  int64_t coming = lane_after(lane);
  EACH_VECTOR(b, at) {
    if (coming) fetch_rows(b, coming, at * item);
    const v16d centre = w_load((const double *)b->centre + at);
    wide_spread s = wide_spread_start();
    for (int64_t i = lane; i < b->n; i += LANES) s = wide_spread_step(s, load_wide(b->rows[i] + at * item, t), centre);
    w_store(out + at, s.away);
    w_store(out + b->width + at, s.squares);
  }
}

#define SUM_LANE(T) narrow_lane(b, lane, T, SUM, out)
#define SQUARE_NARROW_LANE(T) narrow_lane(b, lane, T, SQUARES, out)
#define EXPONENTS_LANE(T) exponents_lane(b, lane, T, out)
#define SPREAD_NARROW_LANE(T) narrow_spread_lane(b, lane, T, out)
static void take_narrow_lane(const block *b, int64_t lane, float *out) {
  if (b->spread) FOR_NARROW(b->dtype, SPREAD_NARROW_LANE);
  else if (b->how == EXPONENTS_BELOW) FOR_NARROW(b->dtype, EXPONENTS_LANE);
  else if (b->how == SUM) FOR_NARROW(b->dtype, SUM_LANE);
  else FOR_NARROW(b->dtype, SQUARE_NARROW_LANE);
}

#define ADD_LANE(T) fold_lane(b, lane, T, SUM, out)
static void add_lane(const block *b, int64_t lane, double *out) { FOR_WIDE(b->dtype, ADD_LANE) }
#define SQUARE_LANE(T) fold_lane(b, lane, T, SQUARES, out)
static void square_lane(const block *b, int64_t lane, double *out) { FOR_WIDE(b->dtype, SQUARE_LANE) }
#define SPREAD_LANE(T) spread_lane(b, lane, T, out)
static void spreads_lane(const block *b, int64_t lane, double *out) { FOR_WIDE(b->dtype, SPREAD_LANE) }
#define MULTIPLY_LANE(T) fold_lane(b, lane, T, PRODUCT, out)
static void multiply_lane(const block *b, int64_t lane, double *out) { FOR_FLOATS(b->dtype, MULTIPLY_LANE); }

#define JOIN(TYPE, OP)                                                                                                 \
  do {                                                                                                                 \
    TYPE *restrict o = (TYPE *)(void *)to;                                                                             \
    const TYPE *restrict s = (const TYPE *)(const void *)from;                                                         \
    for (int64_t i = 0; i < bytes / (int64_t)sizeof(TYPE); i++) o[i] = o[i] OP                                         \
    s[i];                                                                                                              \
  } while (0)

static void join(const block *b, char *to, const char *from, int64_t bytes) {
  if (b->narrow) JOIN(float, +);
  else if (b->how == PRODUCT) JOIN(double, *);
  else JOIN(double, +);
}

/* Joins the lanes from `lane` on that lie `apart`, in the order of v_sum, each column's into `out`. Each of four levels
 * needs a row of room behind it. */
static void join_lanes(const block *b, int64_t lane, int apart, char *out) {
  if (apart == LANES) {
    if (b->narrow) take_narrow_lane(b, lane, (float *)(void *)out);
    else if (b->spread) spreads_lane(b, lane, (double *)(void *)out);
    else if (b->how == SUM) add_lane(b, lane, (double *)(void *)out);
    else if (b->how == SQUARES) square_lane(b, lane, (double *)(void *)out);
    else multiply_lane(b, lane, (double *)(void *)out);
    return;
  }
  char *spare = out + bytes_of(b);
  join_lanes(b, lane, 2 * apart, out);
  join_lanes(b, lane + apart, 2 * apart, spare);
  join(b, out, spare, bytes_of(b));
}

/* ---- floats: four lanes at a time ---- */

/* Rows that are few are read side by side, which saves most of the room's traffic; more of them than a cache has ways
 * for would drive each other out. */
enum { FEW_ROWS = 2 * LANES };

/* Lanes that lie four apart, from `lane` on, joined in the order of v_sum. */
ALWAYS_INLINE v16f sum_of_lanes(const block *b, int64_t lane, ml_dtype t, int64_t from) {
  return v_add(v_add(fold_of_lane(b, lane, t, SUM, from), fold_of_lane(b, lane + 8, t, SUM, from)),
               v_add(fold_of_lane(b, lane + 4, t, SUM, from), fold_of_lane(b, lane + 12, t, SUM, from)));
}

/* Each pass writes a row of its own, since the vectors of the last columns overlap. */
ALWAYS_INLINE void sum_few(const block *b, ml_dtype t, float *out) {
  const int item = ml_dtype_infos[t].bytes;
  float *sums[4] = {out, out + b->width, out + 2 * b->width, out + 3 * b->width};
  for (int lane = 0; lane < 4; lane++) {
    EACH_VECTOR(b, at) v_store(sums[lane] + at, sum_of_lanes(b, lane, t, at * item));
  }
  for (int64_t c = 0; c < b->width; c++) out[c] = (sums[0][c] + sums[2][c]) + (sums[1][c] + sums[3][c]);
}

static bool takes_few(const block *b) { return b->narrow && b->how == SUM && !b->spread && b->n <= FEW_ROWS; }

#define SUM_FEW(T) sum_few(b, T, (float *)(void *)out)
static void join_few(const block *b, char *out) { FOR_NARROW(b->dtype, SUM_FEW); }

/* ---- floats: row by row ---- */

/* Near rows are taken in the order in which they lie, which processors see through. Each lane has a row of room then;
 * vectors do not overlap, since what is added is added once. */
static bool takes_rows(const block *b) {
  return b->width % LANES == 0 && ml_dtype_is_float(b->dtype) && b->how != EXPONENTS_BELOW &&
         bytes_of(b) * LANES <= LANES_ROOM && are_near(b->rows, b->n, b->width * ml_dtype_infos[b->dtype].bytes);
}

ALWAYS_INLINE void narrow_rows(const block *b, ml_dtype t, fold how, float *out) {
  const int item = ml_dtype_infos[t].bytes;
  for (int64_t i = 0; i < b->n; i++) {
    float *to = out + i % LANES * b->width;
    for (int64_t at = 0; at < b->width; at += LANES) {
      look_ahead(b->rows[i] + at * item);
      v16f s = i < LANES ? v_set1(0) : v_load(to + at);
      v_store(to + at, narrow_step(s, load_narrow(b->rows[i] + at * item, t), how));
    }
  }
}

ALWAYS_INLINE void narrow_spread_rows(const block *b, ml_dtype t, float *out) {
  const int item = ml_dtype_infos[t].bytes;
  for (int64_t i = 0; i < b->n; i++) {
    float *away = out + i % LANES * 2 * b->width, *squares = away + b->width;
    for (int64_t at = 0; at < b->width; at += LANES) {
      look_ahead(b->rows[i] + at * item);
      narrow_spread s = narrow_spread_start();
      if (i >= LANES) s = (narrow_spread){v_load(away + at), v_load(squares + at)};
      s = narrow_spread_step(s, load_narrow(b->rows[i] + at * item, t), v_load((const float *)b->centre + at));
      v_store(away + at, s.away);
      v_store(squares + at, s.squares);
    }
  }
}

ALWAYS_INLINE void fold_rows(const block *b, ml_dtype t, fold how, double *out) {
  const int item = ml_dtype_infos[t].bytes;
  for (int64_t i = 0; i < b->n; i++) {
    double *to = out + i % LANES * b->width;
    for (int64_t at = 0; at < b->width; at += LANES) {
      look_ahead_wide(b->rows[i] + at * item, t);
      v16d s = i < LANES ? fold_start(how) : w_load(to + at);
      w_store(to + at, fold_step(s, load_wide(b->rows[i] + at * item, t), how));
    }
  }
}

ALWAYS_INLINE void spread_rows(const block *b, double *out) {
  for (int64_t i = 0; i < b->n; i++) {
    double *away = out + i % LANES * 2 * b->width, *squares = away + b->width;
    for (int64_t at = 0; at < b->width; at += LANES) {
      const char *x = b->rows[i] + at * (int64_t)sizeof *out;
      look_ahead_wide(x, ML_F64);
      wide_spread s = i < LANES ? wide_spread_start() : (wide_spread){w_load(away + at), w_load(squares + at)};
      s = wide_spread_step(s, load_wide(x, ML_F64), w_load((const double *)b->centre + at));
      w_store(away + at, s.away);
      w_store(squares + at, s.squares);
    }
  }
}

#define SUM_ROWS(T) narrow_rows(b, T, SUM, (float *)(void *)out)
#define SQUARE_NARROW_ROWS(T) narrow_rows(b, T, SQUARES, (float *)(void *)out)
#define SPREAD_NARROW_ROWS(T) narrow_spread_rows(b, T, (float *)(void *)out)
static void take_narrow_rows(const block *b, char *out) {
  if (b->spread) FOR_NARROW(b->dtype, SPREAD_NARROW_ROWS);
  else if (b->how == SUM) FOR_NARROW(b->dtype, SUM_ROWS);
  else FOR_NARROW(b->dtype, SQUARE_NARROW_ROWS);
}

#define MULTIPLY_ROWS(T) fold_rows(b, T, PRODUCT, (double *)(void *)out)
static void join_rows(const block *b, char *out) {
  if (b->narrow) take_narrow_rows(b, out);
  else if (b->spread) spread_rows(b, (double *)(void *)out);
  else if (b->how == PRODUCT) FOR_FLOATS(b->dtype, MULTIPLY_ROWS);
  else if (b->how == SUM) fold_rows(b, ML_F64, SUM, (double *)(void *)out);
  else fold_rows(b, ML_F64, SQUARES, (double *)(void *)out);
  int64_t n = ml_min64(b->n, LANES); /* a lane without rows is what it starts as: nothing to join */
  for (int half = LANES / 2; half > 0; half /= 2) {
    if (n <= half) continue;
    join(b, out, out + half * bytes_of(b), (n - half) * bytes_of(b));
    n = half;
  }
}

/* The reduction of each column, to `out`. */
static void reduce_block(const block *b, char *out) {
  if (takes_rows(b)) join_rows(b, out);
  else if (takes_few(b)) join_few(b, out);
  else join_lanes(b, 0, 1, out);
}

/* The elements of column c, one after the other. */
static const char *column_of(const block *b, int64_t c, char *room) {
  const int item = ml_dtype_infos[b->dtype].bytes;
  for (int64_t i = 0; i < b->n; i++) memcpy(room + i * item, b->rows[i] + c * item, (size_t)item);
  return room;
}

/* Narrow results as doubles, behind them; squares that float32 does not hold are made again. */
static double *widen(const block *b, char *room) {
  char column[REDUCE_BLOCK * sizeof(float)];
  const float *x = (const float *)(const void *)room;
  double *wide = (double *)(void *)(room + (b->width * (int64_t)sizeof *x + 63) / 64 * 64);
  for (int64_t c = 0; c < b->width; c++) wide[c] = (double)x[c];
  for (int64_t c = 0; c < b->width && b->how == SQUARES; c++) {
    if (!holds_squares(x[c])) wide[c] = K(squares_of_block)(column_of(b, c, column), b->dtype, b->n);
  }
  return wide;
}

/* The reduction of each column, as doubles. */
static double *fold_columns(const block *b, char *room) {
  reduce_block(b, room);
  return b->narrow ? widen(b, room) : (double *)(void *)room;
}

static void take_folds(partial *p, const block *b, int op, char *room) {
  const double *folds = fold_columns(b, room);
  for (int64_t i = 0; i < b->width; i++) {
    if (op == ML_OP_prod) p[i].a *= folds[i];
    else p[i].a += folds[i];
  }
}

/* What variances need of a block: a row of centres, or means, before the results about them. */
typedef struct spreads {
  double *centres, *away, *squares;
  float *narrow;
  char *room;
} spreads;

static spreads spreads_at(int64_t width, char *room) {
  double *d = (double *)(void *)room;
  return (spreads){d, d + width, d + 2 * width, (float *)(void *)(d + 3 * width), (char *)(d + 4 * width)};
}

/* Centres of a first block: its means. */
static void find_centres(block b, const spreads *s) {
  char column[REDUCE_BLOCK * sizeof(double)];
  b.how = SUM;
  reduce_block(&b, s->room);
  for (int64_t c = 0; c < b.width; c++) {
    if (b.narrow) s->centres[c] = (double)centre_of_sum(((const float *)(const void *)s->room)[c], b.n);
    else s->centres[c] = ((const double *)(const void *)s->room)[c] / (double)b.n;
  }
  for (int64_t c = 0; c < b.width; c++) {
    if (isfinite(s->centres[c])) continue;
    const double mean = K(centre_of_block)(column_of(&b, c, column), b.dtype, b.n);
    s->centres[c] = b.narrow ? (double)(float)mean : mean;
  }
}

static void find_spreads(block b, spreads *s) {
  char column[REDUCE_BLOCK * sizeof(double)];
  b.spread = true;
  for (int64_t c = 0; c < b.width && b.narrow; c++) s->narrow[c] = (float)s->centres[c];
  b.centre = b.narrow ? (const void *)s->narrow : s->centres;
  reduce_block(&b, s->room);
  if (!b.narrow) s->away = (double *)(void *)s->room, s->squares = s->away + b.width;
  const float *away = (const float *)(const void *)s->room, *squares = away + b.width;
  for (int64_t c = 0; c < b.width && b.narrow; c++) s->away[c] = (double)away[c], s->squares[c] = (double)squares[c];
  for (int64_t c = 0; c < b.width; c++) {
    if (b.narrow ? holds_squares(squares[c]) : isfinite(s->squares[c])) continue;
    const spread again = K(spread_of_block)(column_of(&b, c, column), b.dtype, b.n, s->centres[c]);
    s->away[c] = again.away, s->squares[c] = again.squares;
  }
}

static void take_spread(partial *p, const block *b, char *room) {
  spreads s = spreads_at(b->width, room);
  if (p->k == 0) {
    find_centres(*b, &s);
    for (int64_t c = 0; c < b->width; c++) take_centre(&p[c], s.centres[c]);
  }
  for (int64_t c = 0; c < b->width; c++) s.centres[c] = p[c].centre;
  find_spreads(*b, &s);
  for (int64_t c = 0; c < b->width; c++) take_block(&p[c], (spread){s.away[c], s.squares[c]}, b->n, b->narrow);
}

/* ---- logsumexp ---- */

/* The largest of each column, NaNs passed over. */
ALWAYS_INLINE void find_largest(const block *b, ml_dtype t, float *out) {
  const int item = ml_dtype_infos[t].bytes;
  for (int64_t c = 0; c < b->width; c++) out[c] = -INFINITY;
  for (int64_t i = 0; i < b->n; i++) {
    EACH_VECTOR(b, at) {
      look_ahead(b->rows[i] + at * item);
      v_store(out + at, v_max(load_narrow(b->rows[i] + at * item, t), v_load(out + at)));
    }
  }
}

#define LARGEST_OF(T) find_largest(&b, T, largest)
static void take_exponents(partial *p, block b, char *room) {
  char column[REDUCE_BLOCK * sizeof(float)];
  float *largest = (float *)(void *)room, *sums = largest + b.width;
  FOR_NARROW(b.dtype, LARGEST_OF);
  for (int64_t c = 0; c < b.width; c++) {
    float max = (float)p[c].a;
    if ((max - max != 0 || largest[c] > max) && !raise_largest(&p[c], largest[c], &max)) max = NAN;
    largest[c] = max;
  }
  b.how = EXPONENTS_BELOW, b.centre = largest;
  reduce_block(&b, (char *)sums);
  for (int64_t c = 0; c < b.width; c++) {
    if (sums[c] == sums[c]) take_exponents_below(&p[c], largest[c], sums[c]);
    else K(exponents_of_block)(&p[c], column_of(&b, c, column), b.dtype, b.n);
  }
}

/* ---- what comes out the same in any order: four rows at once, or near ones one after the other ---- */

/* Rows ahead of those that are read, of which as many bytes of each are asked for at a time. */
enum { SOON = 16, STRIP = 256 };

/* The bytes of four rows of a block of n from `at` on, STRIP of each: SOON rows from now, or what follows in the same
 * rows where there are no more. */
ALWAYS_INLINE void fetch_soon(const char *const *rows, int64_t n, int64_t at) {
  const uintptr_t ahead = n > SOON ? (uintptr_t)(rows[1] - rows[0]) * SOON : LOOK_AHEAD / 2;
  for (int k = 0; k < 4; k++) {
    for (int64_t i = at; i < at + STRIP; i += LINE)
      __builtin_prefetch((const void *)((uintptr_t)rows[k] + ahead + (uintptr_t)i));
  }
}

/* Runs STEP(WITH, v, i) for the element v of row i of each column, between BEGIN and END. */
#define SWEEP(TYPE, BEGIN, STEP, WITH, END)                                                                            \
  do {                                                                                                                 \
    enum { COLUMNS_A_STRIP = STRIP / sizeof(TYPE) };                                                                   \
    const bool near = are_near(rows, n, width * (int64_t)sizeof(TYPE));                                                \
    int64_t i = 0;                                                                                                     \
    for (; !near && i + 4 <= n; i += 4) {                                                                              \
      const TYPE *restrict x0 = (const void *)rows[i], *restrict x1 = (const void *)rows[i + 1];                       \
      const TYPE *restrict x2 = (const void *)rows[i + 2], *restrict x3 = (const void *)rows[i + 3];                   \
      for (int64_t strip = 0; strip < width; strip += COLUMNS_A_STRIP) {                                               \
        fetch_soon(rows + i, n, strip * (int64_t)sizeof(TYPE));                                                        \
        for (int64_t c = strip; c < ml_min64(width, strip + COLUMNS_A_STRIP); c++) {                                   \
          BEGIN;                                                                                                       \
          STEP(WITH, x0[c], i);                                                                                        \
          STEP(WITH, x1[c], i + 1);                                                                                    \
          STEP(WITH, x2[c], i + 2);                                                                                    \
          STEP(WITH, x3[c], i + 3);                                                                                    \
          END;                                                                                                         \
        }                                                                                                              \
      }                                                                                                                \
    }                                                                                                                  \
    for (; i < n; i++) {                                                                                               \
      const TYPE *restrict x0 = (const void *)rows[i];                                                                 \
      for (int64_t strip = 0; strip < width; strip += COLUMNS_A_STRIP) {                                               \
        for (int k = 0; k < STRIP; k += LINE) look_ahead((const char *)(x0 + strip) + k);                              \
        for (int64_t c = strip; c < ml_min64(width, strip + COLUMNS_A_STRIP); c++) {                                   \
          BEGIN;                                                                                                       \
          STEP(WITH, x0[c], i);                                                                                        \
          END;                                                                                                         \
        }                                                                                                              \
      }                                                                                                                \
    }                                                                                                                  \
  } while (0)

/* Where p is NULL these rows are all that there are, and results are written side by side to `to`. */
#define COLUMNS                                                                                                        \
  partial *restrict p, int op, const char *const *rows, int64_t n, ml_dtype t, int64_t width, char *restrict to,       \
      char *restrict room

/* A total of each column, in `room`, from START on; KEEP puts it to the partial result of column c, or it is written as
 * an OUT. */
#define TOTALS(TYPE, TOTAL, START, STEP, KEEP, OUT, VALUE)                                                             \
  do {                                                                                                                 \
    TOTAL *restrict totals = (TOTAL *)(void *)room;                                                                    \
    OUT *restrict out = (OUT *)(void *)to;                                                                             \
    for (int64_t c = 0; c < width; c++) totals[c] = START;                                                             \
    SWEEP(TYPE, TOTAL total = totals[c], STEP, total, totals[c] = total);                                              \
    if (p)                                                                                                             \
      for (int64_t c = 0; c < width; c++) KEEP;                                                                        \
    else                                                                                                               \
      for (int64_t c = 0; c < width; c++) out[c] = (OUT)(VALUE);                                                       \
    return;                                                                                                            \
  } while (0)

#define PLUS(total, v, i) total = (__typeof__(total))(total + (__typeof__(total))(v))
#define TIMES(total, v, i) total *= (__typeof__(total))(v)
#define COUNT(total, v, i) total = (__typeof__(total))(total + ((v) != 0))
#define REQUIRE(total, v, i) total &= (v) != 0
#define ADD_TOTAL p[c].k = (int64_t)((uint64_t)p[c].k + (uint64_t)totals[c])
#define MULTIPLY_TOTAL p[c].k = (int64_t)((uint64_t)p[c].k * totals[c])

#define SUMS(TYPE, TOTAL, STEP, OUT) TOTALS(TYPE, TOTAL, 0, STEP, ADD_TOTAL, OUT, totals[c])

static void take_sums(COLUMNS) {
  (void)op;
  switch (t) {
  case ML_I8: SUMS(int8_t, int16_t, PLUS, int32_t);
  case ML_U8: SUMS(uint8_t, uint16_t, PLUS, int32_t);
  case ML_BOOL: SUMS(uint8_t, uint16_t, COUNT, int32_t);
  case ML_I16: SUMS(int16_t, uint32_t, PLUS, uint32_t);
  case ML_U16: SUMS(uint16_t, uint32_t, PLUS, uint32_t);
  case ML_I32:
  case ML_U32: SUMS(uint32_t, uint32_t, PLUS, uint32_t);
  default: SUMS(uint64_t, uint64_t, PLUS, uint64_t);
  }
}

#define PRODUCTS(TYPE, TOTAL, STEP) TOTALS(TYPE, TOTAL, 1, STEP, MULTIPLY_TOTAL, TOTAL, totals[c])

static void take_products(COLUMNS) {
  (void)op;
  switch (t) {
  case ML_I8: PRODUCTS(int8_t, uint32_t, TIMES);
  case ML_U8: PRODUCTS(uint8_t, uint32_t, TIMES);
  case ML_BOOL: PRODUCTS(uint8_t, uint32_t, REQUIRE);
  case ML_I16: PRODUCTS(int16_t, uint32_t, TIMES);
  case ML_U16: PRODUCTS(uint16_t, uint32_t, TIMES);
  case ML_I32:
  case ML_U32: PRODUCTS(uint32_t, uint32_t, TIMES);
  default: PRODUCTS(uint64_t, uint64_t, TIMES);
  }
}

#define MEANS(TYPE, TOTAL, STEP)                                                                                       \
  TOTALS(TYPE, TOTAL, 0, STEP, p[c].wide += totals[c], float, (double)totals[c] / (double)n)

/* Both halves of 64-bit integers by themselves. */
#define HALVES(WITH, v, i) low += (int64_t)((v)&UINT32_MAX), high += (int64_t)((v) >> 32)
#define SUM_HALVES(TYPE)                                                                                               \
  SWEEP(TYPE, int64_t low = lows[c]; int64_t high = highs[c], HALVES, , lows[c] = low; highs[c] = high)

static void take_long_means(COLUMNS) {
  int64_t *restrict lows = (int64_t *)(void *)room, *restrict highs = lows + width;
  float *restrict out = (float *)(void *)to;
  (void)op;
  for (int64_t c = 0; c < width; c++) lows[c] = 0, highs[c] = 0;
  if (t == ML_I64) SUM_HALVES(int64_t);
  else SUM_HALVES(uint64_t);
  for (int64_t c = 0; c < width; c++) {
    const __int128 sum = (__int128)highs[c] * (INT64_C(1) << 32) + lows[c];
    if (p) p[c].wide += sum;
    else out[c] = (float)((double)sum / (double)n);
  }
}

/* 32 bits hold the sum of a block of 16-bit integers, and 16 bits that of 8-bit ones. */
static void take_means(COLUMNS) {
  (void)op;
  switch (t) {
  case ML_I8: MEANS(int8_t, int16_t, PLUS);
  case ML_U8: MEANS(uint8_t, int16_t, PLUS);
  case ML_BOOL: MEANS(uint8_t, int16_t, COUNT);
  case ML_I16: MEANS(int16_t, int32_t, PLUS);
  case ML_U16: MEANS(uint16_t, int32_t, PLUS);
  case ML_I32: MEANS(int32_t, int64_t, PLUS);
  case ML_U32: MEANS(uint32_t, int64_t, PLUS);
  default: take_long_means(p, op, rows, n, t, width, to, room);
  }
}

/* Sums of bytes, of which 16 bits hold a block's, and of their squares. */
#define MOMENT(VALUE, v, i)                                                                                            \
  do {                                                                                                                 \
    const int16_t one = (int16_t)(VALUE(v));                                                                           \
    sum = (int16_t)(sum + one), square += (uint16_t)(one * one);                                                       \
  } while (0)
#define SUM_MOMENTS(TYPE, VALUE)                                                                                       \
  SWEEP(TYPE, int16_t sum = sums[c]; uint32_t square = squares[c], MOMENT, VALUE, sums[c] = sum; squares[c] = square)
#define ITSELF(v) (v)
#define IS_TRUE(v) ((v) != 0)

static void find_moments(const char *const *rows, int64_t n, ml_dtype t, int64_t width, uint32_t *restrict squares,
                         int16_t *restrict sums) {
  for (int64_t c = 0; c < width; c++) sums[c] = 0, squares[c] = 0;
  if (t == ML_I8) SUM_MOMENTS(int8_t, ITSELF);
  else if (t == ML_U8) SUM_MOMENTS(uint8_t, ITSELF);
  else SUM_MOMENTS(uint8_t, IS_TRUE);
}

#define ANY_BIT(total, v, i) total = (__typeof__(total))(total | (v))
#define ANY_ZERO(total, v, i) total = (__typeof__(total))(total | (((v)&mask) == 0))
#define IS_ANY ((totals[c] & mask) != 0)
#define ARE_ALL (totals[c] == 0)
#define TRUTHS(TYPE, MASK)                                                                                             \
  do {                                                                                                                 \
    const TYPE mask = (TYPE)(MASK);                                                                                    \
    if (op == ML_OP_any) TOTALS(TYPE, TYPE, 0, ANY_BIT, p[c].k |= IS_ANY, uint8_t, IS_ANY);                            \
    TOTALS(TYPE, TYPE, 0, ANY_ZERO, p[c].k &= ARE_ALL, uint8_t, ARE_ALL);                                              \
  } while (0)

static void take_truth(COLUMNS) {
  bool floats = ml_dtype_is_float(t);
  switch (ml_dtype_infos[t].bytes) {
  case 1: TRUTHS(uint8_t, UINT8_MAX);
  case 2: TRUTHS(uint16_t, floats ? INT16_MAX : UINT16_MAX);
  case 4: TRUTHS(uint32_t, floats ? INT32_MAX : UINT32_MAX);
  default: TRUTHS(uint64_t, floats ? INT64_MAX : UINT64_MAX);
  }
}

/* ---- the largest and the smallest ---- */

/* As below, of float32, where all are finite and no result is a zero of unknown sign: comparing floats is cheaper than
 * making keys. Keys and places go to `room`. */
#define FLOAT_MOST(BETTER, v, i) best = (v)BETTER best ? (v) : best, fault += (v)*0.0f
#define FLOAT_FIRST(BETTER, v, i) at = (v)BETTER best ? (int32_t)(i) : at, FLOAT_MOST(BETTER, v, i)
#define FIND_FLOATS(BETTER)                                                                                            \
  do {                                                                                                                 \
    if (wants_index(op))                                                                                               \
      SWEEP(float, float best = bests[c]; float fault = faults[c];                                                     \
            int32_t at = places[c], FLOAT_FIRST, BETTER, bests[c] = best; faults[c] = fault; places[c] = at);          \
    else                                                                                                               \
      SWEEP(float, float best = bests[c]; float fault = faults[c], FLOAT_MOST, BETTER, bests[c] = best;                \
            faults[c] = fault);                                                                                        \
  } while (0)

/* Of rows of a vector each: the extremes, and the sums of all elements times 0. */
static void find_in_vectors(const char *const *rows, int64_t n, bool smallest, float *bests, float *faults) {
  v16f best = v_set1(smallest ? INFINITY : -INFINITY), fault = v_set1(0);
  for (int64_t i = 0; i < n; i++) {
    look_ahead(rows[i]);
    v16f v = v_load((const float *)(const void *)rows[i]);
    best = smallest ? v_min(best, v) : v_max(best, v);
    fault = v_fma(v, v_set1(0), fault);
  }
  v_store(bests, best);
  v_store(faults, fault);
}

static bool find_finite(int op, const char *const *rows, int64_t n, int64_t width, char *restrict room) {
  const int32_t flip = wants_smallest(op) ? -1 : 0;
  const float start = flip ? INFINITY : -INFINITY;
  int32_t *restrict keys = (int32_t *)(void *)room, *restrict places = keys + width, bad = 0;
  float *restrict bests = (float *)(void *)(places + width), *restrict faults = bests + width;
  for (int64_t c = 0; c < width; c++) bests[c] = start, places[c] = 0, faults[c] = 0;
  const bool zeros = wants_index(op);
  if (!zeros && width == LANES) find_in_vectors(rows, n, flip, bests, faults);
  else if (flip) FIND_FLOATS(<);
  else FIND_FLOATS(>);
  for (int64_t c = 0; c < width; c++) bad |= (faults[c] != 0) | (!zeros & (bests[c] == 0));
  if (bad) return false;
  for (int64_t c = 0; c < width; c++) {
    int32_t bits;
    memcpy(&bits, &bests[c], sizeof bits);
    keys[c] = f32_key(bits, flip, -1);
  }
  return true;
}

/* An index within the block is as wide as a key: its largest, REDUCE_BLOCK - 1, fits the narrowest. */
#define LARGER(NAME, v, i)                                                                                             \
  do {                                                                                                                 \
    __typeof__(best) key = NAME##_key(v, flip, 0);                                                                     \
    best = key > best ? key : best;                                                                                    \
  } while (0)
#define FIRST_LARGER(NAME, v, i)                                                                                       \
  do {                                                                                                                 \
    __typeof__(best) key = NAME##_key(v, flip, -1);                                                                    \
    at = key > best ? (__typeof__(best))(i) : at;                                                                      \
    best = key > best ? key : best;                                                                                    \
  } while (0)
#define FIND_KEYS(T, NAME, S)                                                                                          \
  const S flip = (S)(wants_smallest(op) ? -1 : 0);                                                                     \
  S *restrict keys = (S *)(void *)room, *restrict places = keys + width;                                               \
  bool found = T == ML_F32 && find_finite(op, rows, n, width, room);                                                   \
  for (int64_t c = 0; c < width && !found; c++) keys[c] = (S)(UINT64_C(1) << (sizeof(S) * 8 - 1)), places[c] = 0;      \
  if (!found && wants_index(op))                                                                                       \
    SWEEP(S, S best = keys[c]; S at = places[c], FIRST_LARGER, NAME, keys[c] = best; places[c] = at);                  \
  else if (!found) SWEEP(S, S best = keys[c], LARGER, NAME, keys[c] = best)
#define CHOOSE(T, NAME, S, KEY)                                                                                        \
  case T: {                                                                                                            \
    FIND_KEYS(T, NAME, S);                                                                                             \
    if (p) {                                                                                                           \
      for (int64_t c = 0; c < width; c++) {                                                                            \
        if (p[c].at < 0 || keys[c] > p[c].k) p[c].k = keys[c], p[c].at = first + places[c];                            \
      }                                                                                                                \
      return;                                                                                                          \
    }                                                                                                                  \
    S *restrict o = (S *)(void *)to;                                                                                   \
    if (op == ML_OP_min)                                                                                               \
      for (int64_t c = 0; c < width; c++) o[c] = (S)bits_of(keys[c], T, true);                                         \
    else if (op == ML_OP_max)                                                                                          \
      for (int64_t c = 0; c < width; c++) o[c] = (S)bits_of(keys[c], T, false);                                        \
    else                                                                                                               \
      for (int64_t c = 0; c < width; c++) ((int32_t *)(void *)to)[c] = (int32_t)places[c];                             \
    return;                                                                                                            \
  }

static void choose(COLUMNS, int64_t first) {
  switch (t) {
    EACH_KEY(CHOOSE)
  default: return;
  }
}

/* ---- all together ---- */

static block block_of(int op, const char *const *rows, int64_t n, ml_dtype t, int64_t width) {
  const kind k = kind_of(op, t);
  const bool narrow = is_narrow(t) && (k != WIDE || op == ML_OP_norm);
  return (block){rows, n, width, t, narrow, fold_of(op), NULL, false};
}

/* What comes out the same in any order; its kind is none of floats' folds. */
static void sweep(COLUMNS, int64_t first) {
  switch (kind_of(op, t)) {
  case INTEGERS:
    if (op == ML_OP_sum) take_sums(p, op, rows, n, t, width, to, room);
    else take_products(p, op, rows, n, t, width, to, room);
    return;
  case INTEGER_MEAN: take_means(p, op, rows, n, t, width, to, room); return;
  case TRUTH: take_truth(p, op, rows, n, t, width, to, room); return;
  default: choose(p, op, rows, n, t, width, to, room, first);
  }
}

static void take_moments(partial *p, const block *b, char *room) {
  uint32_t *squares = (uint32_t *)(void *)room;
  int16_t *sums = (int16_t *)(void *)(squares + b->width);
  find_moments(b->rows, b->n, b->dtype, b->width, squares, sums);
  for (int64_t c = 0; c < b->width; c++) p[c].k += sums[c], p[c].at += squares[c];
}

void K(columns_take)(partial *p, int op, const char *const *rows, int64_t n, ml_dtype t, int64_t width, int64_t first,
                     char *room) {
  block b = block_of(op, rows, n, t, width);
  switch (kind_of(op, t)) {
  case NARROW:
  case WIDE: take_folds(p, &b, op, room); return;
  case SPREAD: take_spread(p, &b, room); return;
  case EXPONENTS: take_exponents(p, b, room); return;
  case MOMENTS: take_moments(p, &b, room); return;
  default: sweep(p, op, rows, n, t, width, NULL, room, first);
  }
}

/* Where there is nothing to join, results are written as vectors, which partial results are not. */
static void write_floats(const float *restrict x, int64_t n, char *to, ml_dtype t) {
  if (t == ML_F32) memcpy(to, x, (size_t)n * sizeof *x);
  else
    for (int64_t i = 0; i < n; i++) store_float(to, t, i, x[i]);
}

static void write_doubles(const double *restrict x, int64_t n, char *to, ml_dtype t) {
  if (t == ML_F64) memcpy(to, x, (size_t)n * sizeof *x);
  else if (t == ML_F32)
    for (int64_t i = 0; i < n; i++) ((float *)(void *)to)[i] = (float)x[i];
  else
    for (int64_t i = 0; i < n; i++) store_float(to, t, i, (float)x[i]);
}

static void write_narrow(int op, const block *b, const ml_arg *o, char *to, char *room) {
  float *x = (float *)(void *)room;
  reduce_block(b, room);
  for (int64_t c = 0; c < b->width && op == ML_OP_mean; c++) x[c] /= (float)b->n;
  write_floats(x, b->width, to, o->dtype);
}

static void write_wide(int op, const block *b, const ml_arg *o, char *to, char *room) {
  double *x = fold_columns(b, room);
  for (int64_t c = 0; c < b->width && op == ML_OP_norm; c++) x[c] = sqrt(x[c]);
  for (int64_t c = 0; c < b->width && op == ML_OP_mean; c++) x[c] /= (double)b->n;
  write_doubles(x, b->width, to, o->dtype);
}

static void write_spread(int op, const block *b, double divisor, const ml_arg *o, char *to, char *room) {
  spreads s = spreads_at(b->width, room);
  find_centres(*b, &s);
  find_spreads(*b, &s);
  double *x = s.squares;
  for (int64_t c = 0; c < b->width; c++) x[c] = moments_about(s.centres[c], (spread){s.away[c], x[c]}, b->n).squares;
  for (int64_t c = 0; c < b->width; c++) x[c] /= divisor;
  for (int64_t c = 0; c < b->width && op == ML_OP_std; c++) x[c] = sqrt(x[c]);
  write_doubles(x, b->width, to, o->dtype);
}

static void write_moments(int op, const block *b, double divisor, const ml_arg *o, char *to, char *room) {
  double *x = (double *)(void *)room;
  uint32_t *squares = (uint32_t *)(void *)(x + b->width);
  int16_t *sums = (int16_t *)(void *)(squares + b->width);
  find_moments(b->rows, b->n, b->dtype, b->width, squares, sums);
  for (int64_t c = 0; c < b->width; c++) x[c] = moment_of(op, sums[c], squares[c], b->n);
  for (int64_t c = 0; c < b->width && op != ML_OP_norm; c++) x[c] /= divisor;
  for (int64_t c = 0; c < b->width && op != ML_OP_var; c++) x[c] = sqrt(x[c]);
  write_doubles(x, b->width, to, o->dtype);
}

void K(columns_write)(const ml_task *task, const char *const *rows, int64_t n, int64_t width, char *to, char *room) {
  const int op = task->step->op;
  const ml_dtype t = head_dtype(task);
  const ml_arg *o = &task->out[0];
  block b = block_of(op, rows, n, t, width);
  switch (kind_of(op, t)) {
  case NARROW: write_narrow(op, &b, o, to, room); return;
  case WIDE: write_wide(op, &b, o, to, room); return;
  case SPREAD: write_spread(op, &b, spread_divisor(task, n), o, to, room); return;
  case MOMENTS: write_moments(op, &b, spread_divisor(task, n), o, to, room); return;
  default: sweep(NULL, op, rows, n, t, width, to, room, 0);
  }
}
