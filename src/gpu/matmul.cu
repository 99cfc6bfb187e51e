// matmul.cu: products of strided operands, and with the transpose of a packed weight.
//
// Bytes: each operand once for every TILE rows or columns of the other. Flops: 2 M N K a product, one multiply-add
// after another along K, so that a sum's bits depend on K alone.
#include "gpu/program.cuh"
#include "gpu/weights.cuh"

enum { TILE = 64, DEPTH = 16, SIDE = 16, EACH = TILE / SIDE };

DEVICE void put_product(const cu_matmul_args &t, int64_t of_batch, int64_t m, int64_t n, slot sum) {
  put_result(t.tail, t.out, t.out_dtype, of_batch * t.M + m, t.N, n, sum);
}

// Element i, of the type of *like.
DEVICE float load_like(const float *, const char *data, int dtype, int64_t i) { return load_float(data, dtype, i); }
DEVICE double load_like(const double *, const char *data, int, int64_t i) { return ((const double *)data)[i]; }
DEVICE float multiply_add(float x, float y, float z) { return fmaf(x, y, z); }
DEVICE double multiply_add(double x, double y, double z) { return x * y + z; }
DEVICE void set_slot(slot *s, float f) { s->u = 0, s->f = f; }
DEVICE void set_slot(slot *s, double d) { s->d = d; }

template <typename T> DEVICE void multiply_tiles(const cu_matmul_args &t, T (*as)[TILE + 4], T (*bs)[TILE + 4]) {
  const int64_t down = (t.M + TILE - 1) / TILE, along = (t.N + TILE - 1) / TILE;
  const int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE;
  for (int64_t unit = blockIdx.x; unit < t.batch * down * along; unit += gridDim.x) {
    const int64_t n0 = unit % along * TILE, m0 = unit / along % down * TILE, of_batch = unit / along / down;
    const char *a = t.a + offset_of(t.axes, t.shape, t.a_batch, of_batch) * item_of(t.a_dtype);
    const char *b = t.b + offset_of(t.axes, t.shape, t.b_batch, of_batch) * item_of(t.b_dtype);
    T sums[EACH][EACH];
    for (int i = 0; i < EACH; i++) {
      for (int j = 0; j < EACH; j++) sums[i][j] = 0;
    }
    for (int64_t k0 = 0; k0 < t.K; k0 += DEPTH) {
      __syncthreads();
      // Neighbouring threads take what lies side by side.
      for (int i = threadIdx.x; i < TILE * DEPTH; i += SIDE * SIDE) {
        const int m = t.a_k == 1 ? i / DEPTH : i % TILE, k = t.a_k == 1 ? i % DEPTH : i / TILE;
        as[k][m] =
            m0 + m < t.M && k0 + k < t.K ? load_like(&as[0][0], a, t.a_dtype, (m0 + m) * t.a_m + (k0 + k) * t.a_k) : 0;
        const int n = t.b_k == 1 ? i / DEPTH : i % TILE, l = t.b_k == 1 ? i % DEPTH : i / TILE;
        bs[l][n] =
            n0 + n < t.N && k0 + l < t.K ? load_like(&bs[0][0], b, t.b_dtype, (k0 + l) * t.b_k + (n0 + n) * t.b_n) : 0;
      }
      __syncthreads();
      const int depth = (int)min64(DEPTH, t.K - k0);
      for (int k = 0; k < depth; k++) {
        T x[EACH], y[EACH];
        for (int i = 0; i < EACH; i++) x[i] = as[k][ty + i * SIDE], y[i] = bs[k][tx + i * SIDE];
        for (int i = 0; i < EACH; i++) {
          for (int j = 0; j < EACH; j++) sums[i][j] = multiply_add(x[i], y[j], sums[i][j]);
        }
      }
    }
    for (int i = 0; i < EACH; i++) {
      for (int j = 0; j < EACH; j++) {
        const int64_t m = m0 + ty + i * SIDE, n = n0 + tx + j * SIDE;
        slot s;
        set_slot(&s, sums[i][j]);
        if (m < t.M && n < t.N) put_product(t, of_batch, m, n, s);
      }
    }
  }
}

KERNEL(cuda_matmul, cu_matmul_args) {
  __shared__ float as[DEPTH][TILE + 4], bs[DEPTH][TILE + 4];
  multiply_tiles<float>(t, as, bs);
}

KERNEL(cuda_matmul_f64, cu_matmul_args) {
  __shared__ double as[DEPTH][TILE + 4], bs[DEPTH][TILE + 4];
  multiply_tiles<double>(t, as, bs);
}

// A thread gives eight columns of a row: eight inputs of the weight, summed over its outputs.
template <int D> DEVICE void multiply_transposed(const cu_matmul_args &t) {
  const int64_t across = (t.N + 7) / 8;
  for (int64_t i = thread_index(); i < t.M * across; i += thread_count()) {
    int64_t m = i;
    const int64_t n = pop(&m, across) * 8;
    const char *y = t.a + offset_of(t.axes, t.shape, t.a_batch, m) * item_of(t.a_dtype);
    float sums[8] = {0, 0, 0, 0, 0, 0, 0, 0}, w[8];
    for (int64_t k = 0; k < t.K; k++) {
      const float x = load_float(y, t.a_dtype, k * t.a_k);
      const weight_row<D> row(t.b, k, (int)t.N, t.b_dtype);
      row.load((uint32_t)n, (uint32_t)t.N, w);
#pragma unroll
      for (int j = 0; j < 8; j++) sums[j] = fmaf(x, w[j], sums[j]);
    }
    for (int j = 0; j < 8 && n + j < t.N; j++) {
      slot s;
      set_slot(&s, sums[j]);
      put_product(t, 0, m, n + j, s);
    }
  }
}

KERNEL(cuda_linear_transposed, cu_matmul_args) {
#define TRANSPOSED(D) multiply_transposed<D>(t)
  FOR_PACKED(t.b_dtype, TRANSPOSED)
}
