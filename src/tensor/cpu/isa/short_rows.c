/* short_rows.c: sums and extremes of rows of a few vectors, eight rows at a time: their lanes are folded together, so
 * that a result costs a few instructions. Each row is reduced in the order of partial.c, bit for bit. */
#include "tensor/cpu/isa/fold.h"
#include "tensor/cpu/isa/keys.h"

#if defined(ML_ISA_AVX2) || defined(ML_ISA_AVX512)

enum { ROWS = 8 }; /* as many as a vector of results has lanes */

bool K(short_rows_know)(int op, ml_dtype t) {
  return kind_of(op, t) == NARROW || ((op == ML_OP_max || op == ML_OP_min) && t == ML_F32);
}

/* Lane r of the result: the lanes of row[r] folded by OP, halves first, as v_sum does. */
#define FOLD_ROWS(OP, row)                                                                                             \
  do {                                                                                                                 \
    __m256 q[ROWS / 2], d[ROWS / 4];                                                                                   \
    for (int i = 0; i < ROWS / 2; i++)                                                                                 \
      q[i] = OP(_mm256_permute2f128_ps(row[2 * i], row[2 * i + 1], 0x20),                                              \
                _mm256_permute2f128_ps(row[2 * i], row[2 * i + 1], 0x31));                                             \
    for (int i = 0; i < ROWS / 4; i++)                                                                                 \
      d[i] = OP(_mm256_shuffle_ps(q[2 * i], q[2 * i + 1], 0x44), _mm256_shuffle_ps(q[2 * i], q[2 * i + 1], 0xee));     \
    __m256 even_then_odd = OP(_mm256_shuffle_ps(d[0], d[1], 0x88), _mm256_shuffle_ps(d[0], d[1], 0xdd));               \
    return _mm256_permutevar8x32_ps(even_then_odd, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));                         \
  } while (0)

/* ---- sums ---- */

ALWAYS_INLINE __m256 fold_sums(const __m256 row[ROWS]) { FOLD_ROWS(_mm256_add_ps, row); }

ALWAYS_INLINE __m256 sums_of(const char *const data[ROWS], ml_dtype t, int64_t n) {
  __m256 row[ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++) {
    v16f s = fold_lanes(data[r], t, n, SUM);
    row[r] = _mm256_add_ps(v_half(s, 0), v_half(s, 1));
  }
  return fold_sums(row);
}

/* ---- extremes ---- */

ALWAYS_INLINE __m256i in_order(__m256i bits) { /* its own inverse */
  const __m256i most = _mm256_set1_epi32(INT32_MAX);
  return _mm256_xor_si256(bits, _mm256_and_si256(_mm256_srai_epi32(bits, 31), most));
}

/* The keys of keys.h. */
ALWAYS_INLINE __m256i keys_of(__m256 x, __m256i flip) {
  const __m256i most = _mm256_set1_epi32(INT32_MAX), bits = _mm256_castps_si256(x);
  __m256i key = _mm256_xor_si256(in_order(bits), flip);
  __m256i is_nan = _mm256_cmpgt_epi32(_mm256_and_si256(bits, most), _mm256_set1_epi32(0x7f800000));
  return _mm256_blendv_epi8(key, most, is_nan);
}

ALWAYS_INLINE __m256 values_of(__m256i keys, __m256i flip) {
  const __m256i nan = _mm256_set1_epi32(0x7fc00000);
  __m256i bits = in_order(_mm256_xor_si256(keys, flip));
  return _mm256_castsi256_ps(_mm256_blendv_epi8(bits, nan, _mm256_cmpeq_epi32(keys, _mm256_set1_epi32(INT32_MAX))));
}

ALWAYS_INLINE __m256i most_of_vector(v16f x, __m256i flip) {
  return _mm256_max_epi32(keys_of(v_half(x, 0), flip), keys_of(v_half(x, 1), flip));
}

ALWAYS_INLINE __m256 most_of_row(const char *data, int64_t n, __m256i flip, float worst) {
  const float *x = (const float *)(const void *)data;
  __m256i most = _mm256_set1_epi32(INT32_MIN);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    look_ahead((const char *)(x + i));
    most = _mm256_max_epi32(most, most_of_vector(v_load(x + i), flip));
  }
  if (i < n) most = _mm256_max_epi32(most, most_of_vector(v_load_part(x + i, (int)(n - i), worst), flip));
  return _mm256_castsi256_ps(most);
}

#define LARGER(a, b) _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)))
ALWAYS_INLINE __m256 fold_keys(const __m256 row[ROWS]) { FOLD_ROWS(LARGER, row); }

ALWAYS_INLINE __m256 extremes_of(const char *const data[ROWS], int64_t n, bool smallest) {
  const __m256i flip = _mm256_set1_epi32(smallest ? -1 : 0);
  __m256 row[ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++) row[r] = most_of_row(data[r], n, flip, smallest ? INFINITY : -INFINITY);
  return values_of(_mm256_castps_si256(fold_keys(row)), flip);
}

/* ---- all rows ---- */

ALWAYS_INLINE void store_results(__m256 x, int64_t n, char *to, ml_dtype t) {
  if (n == ROWS && t == ML_F32) {
    _mm256_storeu_ps((float *)(void *)to, x);
    return;
  }
  float one[ROWS];
  _mm256_storeu_ps(one, x);
  for (int64_t i = 0; i < n; i++) store_float(to, t, i, one[i]);
}

/* Runs RESULTS, which is made of `eight`, where eight rows begin. */
#define BY_EIGHT(RESULTS)                                                                                              \
  do {                                                                                                                 \
    for (int64_t row = 0; row < rows; row += ROWS) {                                                                   \
      const char *eight[ROWS];                                                                                         \
      for (int64_t r = 0; r < ROWS; r++) eight[r] = data + ml_min64(row + r, rows - 1) * stride;                       \
      store_results(RESULTS, ml_min64(ROWS, rows - row), to + row * ml_dtype_infos[o->dtype].bytes, o->dtype);         \
    }                                                                                                                  \
  } while (0)
#define SUMS(T) BY_EIGHT(mean ? _mm256_div_ps(sums_of(eight, T, n), count) : sums_of(eight, T, n))

void K(short_rows_write)(const ml_task *task, const char *data, int64_t stride, int64_t rows, int64_t n, char *to) {
  const int op = task->step->op;
  const ml_dtype t = head_dtype(task);
  const ml_arg *o = &task->out[0];
  const bool mean = op == ML_OP_mean;
  const __m256 count = _mm256_set1_ps((float)n);
  if (op == ML_OP_max) BY_EIGHT(extremes_of(eight, n, false));
  else if (op == ML_OP_min) BY_EIGHT(extremes_of(eight, n, true));
  else FOR_NARROW(t, SUMS);
}

#else

bool K(short_rows_know)(int op, ml_dtype t) {
  (void)op, (void)t;
  return false;
}

void K(short_rows_write)(const ml_task *task, const char *data, int64_t stride, int64_t rows, int64_t n, char *to) {
  (void)task, (void)data, (void)stride, (void)rows, (void)n, (void)to;
}

#endif
