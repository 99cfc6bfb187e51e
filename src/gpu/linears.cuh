// linears.cuh: products of rows with packed weights (ML_STEP_LINEARS), and what a program does with them.
//
// Bytes: the weights once for every ROWS rows of x, x from the cache; flops: 2 M K N, and a few instructions a weight
// to expand its code. Up to ROWS rows: the weights alone count.
//
// A bundle is STREAMS rows of a weight, or half as many of each of two: a group of warps (product.cuh) takes bundle
// after bundle, and asks for the next piece of each row while it works on one. What a block asks for first it has asked
// for before it waits for the kernels that make x.
//
// One row is normalised by each block for itself, which costs less than another launch.
#include "gpu/product.cuh"

enum { EARLY = 2 }; // operands of programs that are read beforehand

DEVICE slot load_extra(const cu_unit &u, int i, int64_t row, int64_t column) {
  const cu_operand &x = u.extra[i];
  return load_slot(x.data, x.dtype, row * x.strides[0] + column * x.strides[1]);
}

DEVICE void put(const cu_unit &u, int k, int64_t row, int64_t column, slot s) {
  const cu_operand &o = u.out[k];
  store_slot(o.data, o.dtype, row * o.strides[0] + column * o.strides[1], s);
}

DEVICE_CALL void finish(const cu_unit &u, const cu_program *p, int64_t row, int64_t column, const float *products,
                        const slot *early) {
  slot regs[CU_FUSED_INPUTS + CU_MOST_CODE];
  for (int i = 0; i < u.n_weights; i++) {
    regs[i].u = 0, regs[i].f = products[i];
    if (p) regs[i] = round_slot(regs[i], p->input_dtypes[i]);
  }
  for (int i = 0; i < u.n_extra; i++)
    regs[u.n_weights + i] = i == 0 ? early[0] : i == 1 ? early[1] : load_extra(u, i, row, column);
  if (p) run_program(p, regs);
  for (int k = 0; k < u.n_out; k++) put(u, k, row, column, regs[p ? p->outputs[k] : 0]);
}

// Programs of the units, on their way while products are made.
struct unit_programs {
  uint64_t code[CU_MOST_UNITS][sizeof(cu_program) / 8];
};

DEVICE void fetch_programs(const cu_linears_args &t, unit_programs *to) {
  for (int u = 0; u < t.n_units; u++) {
    const uint64_t *from = (const uint64_t *)t.units[u].program;
    for (unsigned i = threadIdx.x; from && i < sizeof(cu_program) / 8; i += blockDim.x) to->code[u][i] = from[i];
  }
}

// Where an eight of one row of x lies in shared memory: what lanes read at one time lies side by side.
template <int D> DEVICE uint32_t place_of_eight(uint32_t eight, int half, uint32_t threads) {
  const uint32_t c = eight / pieces<D>::eights, j = eight % pieces<D>::eights;
  return ((c / threads * pieces<D>::eights + j) * 2 + half) * threads + c % threads;
}

// The one row of x, normalised where that is asked for, as float32 in shared memory.
template <int D> DEVICE void stage_row(const cu_linears_args &t, uint32_t threads, float4 *room) {
  float *to = (float *)room;
  const uint32_t K = (uint32_t)t.K;
  auto put_at = [&](int64_t i, float f) {
    to[place_of_eight<D>((uint32_t)i / 8, (uint32_t)i / 4 % 2, threads) * 4 + (uint32_t)i % 4] = f;
  };
  for (uint32_t i = K + threadIdx.x; i < (K + 7) / 8 * 8; i += blockDim.x) put_at(i, 0.0f);
  if (t.norm) {
    cu_row_op op;
    op.eps = t.eps, op.offset = t.offset;
    rms_norm_row(
        op, t.K, [&](int64_t i) { return load_float(t.x, t.x_dtype, i); }, t.weight.data != NULL,
        [&](int64_t i) { return load_float(t.weight.data, t.weight.dtype, i * t.weight.stride); },
        [&](int64_t i, float f) {
          slot s;
          s.u = 0, s.f = f;
          put_at(i, round_slot(s, t.x_dtype).f);
        });
  } else {
    const inputs in = inputs_at(t.x, t.x_dtype, 0, t.K);
    for (uint32_t e = threadIdx.x; e < (K + 7) / 8; e += blockDim.x) {
      float x[8];
      load_inputs(in, 0, e * 8, K, x);
      for (int h = 0; h < 2; h++) {
        float4 v;
        v.x = x[4 * h], v.y = x[4 * h + 1], v.z = x[4 * h + 2], v.w = x[4 * h + 3];
        room[place_of_eight<D>(e, h, threads)] = v;
      }
    }
  }
}

// A bundle: of which unit, and its first output.
struct bundle {
  int unit;
  int64_t first;
};

template <int STREAMS> DEVICE bundle bundle_at(const cu_linears_args &t, int64_t i) {
  bundle b;
  for (b.unit = 0; b.unit < t.n_units - 1; b.unit++) { // units follow each other
    const int outputs = STREAMS / t.units[b.unit].n_weights;
    const int64_t count = (t.units[b.unit].outputs + outputs - 1) / outputs;
    if (i < count) break;
    i -= count;
  }
  b.first = i * (STREAMS / t.units[b.unit].n_weights);
  return b;
}

// One piece of each row of a bundle. Rows behind the last are there: groups of rows are filled up.
template <int D, int STREAMS>
DEVICE void load_pieces(const cu_linears_args &t, const bundle &b, uint32_t i, piece<D> *to) {
  const cu_unit &u = t.units[b.unit];
  const int64_t outputs = STREAMS / u.n_weights, first = min64(b.first, (u.outputs - 1) / outputs * outputs);
  const weight_row<D> one(u.weights[0], first, (int)t.K);
  if (u.n_weights == 1) {
#pragma unroll
    for (int s = 0; s < STREAMS; s++) to[s].load(weight_row<D>(one, s, (uint32_t)t.K), i, (uint32_t)t.K);
    return;
  }
  const weight_row<D> other(u.weights[1], first, (int)t.K);
#pragma unroll
  for (int s = 0; s < STREAMS / 2; s++) {
    to[s].load(weight_row<D>(one, s, (uint32_t)t.K), i, (uint32_t)t.K);
    to[STREAMS / 2 + s].load(weight_row<D>(other, s, (uint32_t)t.K), i, (uint32_t)t.K);
  }
}

template <int D, int STREAMS, int ROWS>
DEVICE void multiply_pieces(const piece<D> *w, const float4 *row, const inputs &in, int64_t first_row, int64_t M,
                            uint32_t i, uint32_t threads, uint32_t K, float *sums) {
#pragma unroll
  for (int j = 0; j < pieces<D>::eights; j++) {
    const uint32_t eight = i * pieces<D>::eights + j;
    float x[8], f[STREAMS][8];
    if constexpr (ROWS == 1) {
      const float4 a = row[place_of_eight<D>(eight, 0, threads)], b = row[place_of_eight<D>(eight, 1, threads)];
      x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    }
#pragma unroll
    for (int s = 0; s < STREAMS; s++) w[s].values(j, f[s]);
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
      if constexpr (ROWS > 1) load_inputs(in, min64(first_row + m, M - 1), eight * 8, K, x);
#pragma unroll
      for (int s = 0; s < STREAMS; s++) {
#pragma unroll
        for (int k = 0; k < 8; k++) sums[s * ROWS + m] = fmaf(x[k], f[s][k], sums[s * ROWS + m]);
      }
    }
  }
}

template <int D, int STREAMS, int ROWS> DEVICE void linears(const cu_linears_args &t, float4 *row) {
  enum { COUNT = STREAMS * ROWS };
  __shared__ float room[2][PRODUCT_WARPS * COUNT];
  __shared__ unit_programs programs;
  const uint32_t K = (uint32_t)t.K, count = count_pieces<D>(t.K);
  const int share = warps_of_row(count), groups = PRODUCT_WARPS / share;
  const uint32_t threads = share * WARP, own = threadIdx.x % threads,
                 rounds = count > threads ? (count + threads - 1) / threads : 1;
  const int group = threadIdx.x / threads;
  const int64_t step = (int64_t)gridDim.x * groups, first_row = (int64_t)blockIdx.y * ROWS;
  int64_t at = (int64_t)blockIdx.x * groups + group;
  bundle now = bundle_at<STREAMS>(t, at), next = now;
  piece<D> w[STREAMS], w_next[STREAMS];
  let_next_start();
  if (count) load_pieces<D, STREAMS>(t, now, own < count ? own : 0, w_next);
  fetch_programs(t, &programs);
  wait_for_all();
  if constexpr (ROWS == 1) stage_row<D>(t, threads, row);
  __syncthreads();
  const inputs in = inputs_at(t.x, t.x_dtype, t.x_stride, t.K);
  for (int turn = 0; at - group < t.bundles; turn = !turn) {
    // The thread's own product, of those that the group makes.
    const int outputs = STREAMS / t.units[now.unit].n_weights;
    const int64_t column = now.first + own / ROWS, r = first_row + own % ROWS;
    const cu_unit &unit = t.units[now.unit];
    const bool ends = (int)own < outputs * ROWS && column < unit.outputs && r < t.M && at < t.bundles;
    slot early[EARLY];
    for (int i = 0; i < EARLY; i++) {
      early[i].u = 0;
      if (ends && i < unit.n_extra) early[i] = load_extra(unit, i, r, column);
    }
    float sums[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) sums[i] = 0;
    for (uint32_t round = 0, i = own; round < rounds; round++, i += threads) {
#pragma unroll
      for (int s = 0; s < STREAMS; s++) w[s] = w_next[s];
      const uint32_t then = i + threads;
      if (round + 1 == rounds) {
        next = bundle_at<STREAMS>(t, min64(at + step, t.bundles - 1));
        if (count && at - group + step < t.bundles) load_pieces<D, STREAMS>(t, next, own < count ? own : 0, w_next);
      } else load_pieces<D, STREAMS>(t, now, then < count ? then : 0, w_next);
      if (i < count) multiply_pieces<D, STREAMS, ROWS>(w, row, in, first_row, t.M, i, threads, K, sums);
    }
    put_lanes<COUNT>(sums, room[turn]);
    __syncthreads();
    if (ends) {
      float products[CU_UNIT_WEIGHTS];
      products[0] = group_sum<COUNT>(room[turn], share, (int)own);
      products[1] = unit.n_weights > 1 ? group_sum<COUNT>(room[turn], share, outputs * ROWS + (int)own) : 0;
      const cu_program *p = unit.program ? (const cu_program *)programs.code[now.unit] : NULL;
      finish(unit, p, r, column, products, early);
    }
    at += step, now = next;
  }
}

// Kernels of a dtype: one row, by MOST streams or half as many; four rows, and eight.
#define LINEARS(name, D, MOST)                                                                                         \
  KERNEL_EARLY(cuda_linears_##name##_1, cu_linears_args, PRODUCT_THREADS, 2) {                                         \
    DYNAMIC_SHARED(float4, row);                                                                                       \
    linears<D, MOST, 1>(t, row);                                                                                       \
  }                                                                                                                    \
  KERNEL_EARLY(cuda_linears_##name##_1_half, cu_linears_args, PRODUCT_THREADS, 2) {                                    \
    DYNAMIC_SHARED(float4, row);                                                                                       \
    linears<D, MOST / 2, 1>(t, row);                                                                                   \
  }                                                                                                                    \
  KERNEL_EARLY(cuda_linears_##name##_4, cu_linears_args, PRODUCT_THREADS, 2) { linears<D, MOST / 2, 4>(t, NULL); }     \
  KERNEL_EARLY(cuda_linears_##name##_8, cu_linears_args, PRODUCT_THREADS, 2) { linears<D, MOST / 2, 8>(t, NULL); }
