// linears.cuh: products of rows with packed weights (ML_STEP_LINEARS), and what a program does with them.
//
// Bytes: the weights once for every ROWS rows of x, x from the cache; flops: 2 M K N, and a few instructions a weight
// to expand its code. Up to ROWS rows: the weights alone count.
//
// A bundle is STREAMS rows of a weight, or half as many of each of two: a warp takes bundle after bundle. Weights come
// through shared memory, where each warp has a ring of some rounds of them under way; a lane takes what it has asked
// for itself, so that nobody waits for others. The first rounds are asked for before the kernel waits for those that
// make x.
//
// One row is normalised by each block for itself, which costs less than another launch.
#ifndef ML_GPU_LINEARS_CUH
#define ML_GPU_LINEARS_CUH

#include "gpu/product.cuh"

// What follows the products of most models needs no program to be interpreted: see cu_form.
DEVICE float float_of(float f, int dtype) {
  if (dtype == ML_F32) return f;
  return dtype == ML_F16 ? f16_float(float_f16(f)) : bf16_float(float_bf16(f));
}

// A run of float32 takes the values that its dtype has.
DEVICE void round_run(float *f, int dtype) {
  if (dtype == ML_F32) return;
#pragma unroll
  for (int k = 0; k < RUN; k++) f[k] = float_of(f[k], dtype);
}

DEVICE slot load_extra(const cu_unit &u, int i, int64_t row, int64_t column) {
  const cu_operand &x = u.extra[i];
  return load_slot(x.data, x.dtype, row * x.strides[0] + column * x.strides[1]);
}

DEVICE void put(const cu_unit &u, int k, int64_t row, int64_t column, slot s) {
  const cu_operand &o = u.out[k];
  store_slot(o.data, o.dtype, row * o.strides[0] + column * o.strides[1], s);
}

DEVICE void put_float(const cu_unit &u, int k, int64_t row, int64_t column, float f) {
  const cu_operand &o = u.out[k];
  store_float(o.data, o.dtype, row * o.strides[0] + column * o.strides[1], f);
}

DEVICE_CALL void run_unit_program(const cu_unit &u, int64_t row, int64_t column, float first, float second) {
  const cu_program *p = u.program;
  slot regs[CU_FUSED_INPUTS + CU_MOST_CODE];
  for (int i = 0; i < u.n_weights; i++) regs[i].u = 0, regs[i].f = float_of(i ? second : first, p->input_dtypes[i]);
  for (int i = 0; i < u.n_extra; i++) regs[u.n_weights + i] = load_extra(u, i, row, column);
  run_program(p, regs);
  for (int k = 0; k < u.n_out; k++) put(u, k, row, column, regs[p->outputs[k]]);
}

// The products of a row and a column are there. `added`: the operand of CU_FORM_ADD.
DEVICE void finish(const cu_unit &u, int64_t row, int64_t column, float first, float second, slot added) {
  switch (u.form) {
  case CU_FORM_NONE:
    for (int k = 0; k < u.n_out; k++) put_float(u, k, row, column, first);
    return;
  case CU_FORM_ADD: put_float(u, 0, row, column, float_of(float_of(first, u.dtype) + added.f, u.dtype)); return;
  case CU_FORM_GATE: {
    const float gate = float_of(float_op(u.act, float_of(first, u.dtype), 0), u.dtype);
    put_float(u, 0, row, column, float_of(gate * float_of(second, u.dtype), u.dtype));
    return;
  }
  default: run_unit_program(u, row, column, first, second);
  }
}

// Where input k of the one row of x lies in shared memory: what lanes read at one time lies side by side.
template <int D> DEVICE uint32_t place_of_four(uint32_t i, uint32_t j) {
  return (i / WARP * piece<D>::fours + j) * WARP + i % WARP;
}

// The weights of the norm that a thread needs first.
DEVICE void load_norm(const cu_linears_args &t, float *own) {
#pragma unroll
  for (int k = 0; k < RUN; k++) own[k] = 1;
  const int64_t first = RUN * (int64_t)threadIdx.x;
  if (t.early_norm && first < t.K) load_vector_run(t.weight, first, t.K, 1.0f, own);
}

// A run of inputs, those behind the last being zero, from k on: two fours, the second of which may lie behind the last
// piece.
template <int D> DEVICE void put_run(const float *f, uint32_t k, uint32_t end, float4 *room) {
#pragma unroll
  for (int n = 0; n < RUN; n += 4) {
    uint32_t j;
    const uint32_t i = piece<D>::of_input(k + n, &j);
    float4 four;
    four.x = f[n], four.y = f[n + 1], four.z = f[n + 2], four.w = f[n + 3];
    if (k + n < end) room[place_of_four<D>(i, j)] = four;
  }
}

// The one row of x, normalised where that is asked for, as float32 in shared memory. `early`: from load_norm.
template <int D> DEVICE void stage_row(const cu_linears_args &t, const float *early, float4 *room) {
  const uint32_t K = (uint32_t)t.K, end = piece<D>::count(t.K) * piece<D>::inputs;
  if (t.norm) {
    cu_row_op op;
    op.eps = t.eps, op.offset = t.offset;
    rms_norm_row(
        op, t.K, [&](int64_t i, float *f) { load_run(t.x, t.x_dtype, i, t.K, 0.0f, f); }, t.weight.data != NULL,
        [&](int64_t i, float *f) { load_vector_run(t.weight, i, t.K, 1.0f, f); },
        [&](int64_t i, float *f) {
          round_run(f, t.x_dtype);
          put_run<D>(f, (uint32_t)i, end, room);
        },
        t.early_norm != 0, early);
    return;
  }
  for (uint32_t k = threadIdx.x * RUN; k < K; k += blockDim.x * RUN) {
    float f[RUN];
    load_run(t.x, t.x_dtype, k, K, 0.0f, f);
    put_run<D>(f, k, end, room);
  }
}

// Outputs of a unit in a bundle.
template <int STREAMS> DEVICE int outputs_of(const cu_unit &u) {
  return STREAMS > 1 && u.n_weights > 1 ? STREAMS / 2 : STREAMS;
}

// A bundle's unit.
DEVICE int unit_of(const cu_linears_args &t, int32_t bundle) {
  int u = 0;
  while (u + 1 < t.n_units && bundle >= t.units[u + 1].first_bundle) u++;
  return u;
}

// A warp's ring, as the host has it: DEPTH parts of so many rounds each.
template <int D, int STREAMS> struct ring {
  static constexpr int most = piece<D>::bytes > 24 ? 2 : 4, rounds = most > STREAMS ? most / STREAMS : 1, depth = 4;
  static constexpr int round = piece<D>::bytes * WARP * STREAMS, part = round * rounds, all = part * depth;
};

// A warp's place in what it reads: a round of a bundle. Rows behind the last are there: groups of rows are filled up.
template <int D, int STREAMS> struct reader {
  typedef piece<D> P;
  typedef ring<D, STREAMS> R;
  weight_row<D> rows[2]; // of each weight the first of the bundle
  int32_t bundle;
  uint32_t base;                // of a round's pieces the first
  bool two;                     // weights
  shared_place wide, word, end; // where the lane's next parts of 16 bytes go, and of 4; and the end of the ring for it

  DEVICE_MEMBER reader(const cu_linears_args &t, int32_t from, char *room)
      : rows{weight_row<D>(NULL, 0, 0), weight_row<D>(NULL, 0, 0)}, bundle(from) {
    const uint32_t lane = threadIdx.x % WARP;
    wide = place_of_lane(room + lane * 16), word = place_of_lane(room + P::wide * WARP * 16 + lane * 4);
    end = wide + R::all;
    begin(t);
  }
  DEVICE_MEMBER void begin(const cu_linears_args &t) {
    base = 0;
    if (bundle >= t.bundles) return;
    const cu_unit &u = t.units[unit_of(t, bundle)];
    const int64_t first = (int64_t)(bundle - u.first_bundle) * outputs_of<STREAMS>(u);
    two = STREAMS > 1 && u.n_weights > 1;
    rows[0] = weight_row<D>(u.weights[0], first, (int)t.K, u.dtypes[0]);
    if (two) rows[1] = weight_row<D>(u.weights[1], first, (int)t.K, u.dtypes[0]);
  }
  // Asks for a row's piece i, which goes `to` bytes behind the next place.
  DEVICE_MEMBER void ask_piece(const weight_row<D> &row, uint32_t i, int to) const {
#pragma unroll
    for (int p = 0; p < P::wide; p++) copy_16_once(wide + to + p * WARP * 16, read_piece<D>::part(row, i, p));
#pragma unroll
    for (int p = 0; p < P::words; p++)
      if (read_piece<D>::has_word(row, p)) copy_4_once(word + to + p * WARP * 4, read_piece<D>::word(row, i, p));
  }
  // Asks for the lane's pieces of a part of the ring, and goes on to the next ones.
  DEVICE_MEMBER void ask(const cu_linears_args &t, uint32_t count, int32_t step) {
    constexpr int ROUNDS = R::rounds;
    const uint32_t K = (uint32_t)t.K, i = base + threadIdx.x % WARP;
    const bool whole = base + ROUNDS * WARP <= count;
    if (bundle < t.bundles) {
#pragma unroll
      for (int s = 0; s < STREAMS; s++) {
        const weight_row<D> row(two && s >= STREAMS / 2 ? rows[1] : rows[0],
                                two && s >= STREAMS / 2 ? s - STREAMS / 2 : s, K);
#pragma unroll
        for (int n = 0; n < ROUNDS; n++)
          if (whole || i + n * WARP < count) ask_piece(row, i + n * WARP, (n * STREAMS + s) * (P::bytes * WARP));
      }
      base += ROUNDS * WARP;
      if (base >= count) bundle += step, begin(t);
    }
    wide += R::part, word += R::part;
    if (wide == end) wide -= R::all, word -= R::all;
    close_copies();
  }
};

template <int D> DEVICE void take_piece(read_piece<D> *p, const char *room) {
  typedef piece<D> P;
  const uint32_t lane = threadIdx.x % WARP;
#pragma unroll
  for (int k = 0; k < P::wide; k++) p->take(k, *(const uint4 *)(room + (k * WARP + lane) * 16));
#pragma unroll
  for (int k = 0; k < P::words; k++)
    p->w[4 * P::wide + k] = *(const uint32_t *)(room + P::wide * WARP * 16 + (k * WARP + lane) * 4);
}

template <int D, int STREAMS, int ROWS>
DEVICE void multiply_pieces(const read_piece<D> *w, const float4 *row, const inputs &in, int64_t first_row, int64_t M,
                            uint32_t i, uint32_t K, float *sums) {
#pragma unroll
  for (int j = 0; j < piece<D>::fours; j++) {
    float f[STREAMS][4];
#pragma unroll
    for (int s = 0; s < STREAMS; s++) w[s].values(i, j, f[s]);
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
      const float4 x = ROWS == 1 ? row[place_of_four<D>(i, j)]
                                 : load_inputs(in, min64(first_row + m, M - 1), piece<D>::input(i, j), K);
#pragma unroll
      for (int s = 0; s < STREAMS; s++) sums[s * ROWS + m] = add_four(sums[s * ROWS + m], x, f[s]);
    }
  }
}

// The sums of a bundle are the lanes': each ends those that it has.
template <int STREAMS, int ROWS>
DEVICE void end_bundle(const cu_linears_args &t, const cu_unit &u, int32_t bundle, int64_t first_row, slot added,
                       float *sums) {
  enum { COUNT = STREAMS * ROWS, EACH = WARP / COUNT };
  const int lane = threadIdx.x % WARP, own = lane / EACH, outputs = outputs_of<STREAMS>(u);
  const float sum = add_lanes<COUNT>(sums), other = shuffle(sum, WARP / 2); // of the second weight
  const int64_t column = (int64_t)(bundle - u.first_bundle) * outputs + own / ROWS, row = first_row + own % ROWS;
  if (lane % EACH == 0 && own < outputs * ROWS && column < u.outputs && row < t.M)
    finish(u, row, column, sum, other, added);
}

// The operand that is added to what the lane will end.
template <int STREAMS, int ROWS>
DEVICE slot load_added(const cu_linears_args &t, const cu_unit &u, int32_t bundle, int64_t first_row) {
  enum { COUNT = STREAMS * ROWS, EACH = WARP / COUNT };
  const int own = threadIdx.x % WARP / EACH, outputs = outputs_of<STREAMS>(u);
  const int64_t column = (int64_t)(bundle - u.first_bundle) * outputs + own / ROWS, row = first_row + own % ROWS;
  slot s;
  s.u = 0;
  if (u.form == CU_FORM_ADD && own < outputs * ROWS && column < u.outputs && row < t.M)
    s = load_extra(u, 0, row, column);
  return s;
}

// The same where pieces do not lie at 16 bytes: bundle after bundle, as it comes.
template <int D, int STREAMS, int ROWS>
DEVICE_CALL void linears_unaligned(const cu_linears_args &t, const float4 *row, int64_t first_row) {
  const uint32_t K = (uint32_t)t.K, count = piece<D>::count(t.K);
  const inputs in = inputs_at(t.x, t.x_dtype, t.x_stride, t.K);
  for (int32_t bundle = (int32_t)(thread_index() / WARP); bundle < t.bundles;
       bundle += (int32_t)(thread_count() / WARP)) {
    const cu_unit &u = t.units[unit_of(t, bundle)];
    const int outputs = outputs_of<STREAMS>(u);
    float sums[STREAMS * ROWS] = {0};
    for (uint32_t i = threadIdx.x % WARP; i < count; i += WARP) {
      read_piece<D> w[STREAMS];
      for (int s = 0; s < STREAMS; s++) {
        const int64_t first = (int64_t)(bundle - u.first_bundle) * outputs;
        w[s].load(weight_row<D>(u.weights[s >= outputs], first + s % outputs, (int)K), 0, i, K);
      }
      multiply_pieces<D, STREAMS, ROWS>(w, row, in, first_row, t.M, i, K, sums);
    }
    end_bundle<STREAMS, ROWS>(t, u, bundle, first_row, load_added<STREAMS, ROWS>(t, u, bundle, first_row), sums);
  }
}

template <int D, int STREAMS, int ROWS> DEVICE void linears(const cu_linears_args &t, float4 *row, char *rings) {
  typedef ring<D, STREAMS> R;
  constexpr int DEPTH = R::depth;
  const uint32_t K = (uint32_t)t.K, count = piece<D>::count(t.K);
  const int32_t step = (int32_t)(gridDim.x * PRODUCT_WARPS);
  int32_t bundle = (int32_t)(blockIdx.x * PRODUCT_WARPS + threadIdx.x / WARP);
  const int64_t first_row = (int64_t)blockIdx.y * ROWS;
  char *own = rings + threadIdx.x / WARP * R::all;
  reader<D, STREAMS> next(t, bundle, own);
  let_next_start();
  const bool aligned = !format<D>::floats || K % piece<D>::inputs == 0;
  for (int i = 0; i < DEPTH - 1 && aligned; i++) next.ask(t, count, step);
  float norm[RUN];
  if (ROWS == 1) load_norm(t, norm);
  wait_for_all();
  if (ROWS == 1) {
    stage_row<D>(t, norm, row);
    __syncthreads();
  }
  if (!aligned) {
    linears_unaligned<D, STREAMS, ROWS>(t, row, first_row);
    return;
  }
  const inputs in = inputs_at(t.x, t.x_dtype, t.x_stride, t.K);
  int at = 0; // in the ring
  for (; bundle < t.bundles; bundle += step) {
    const cu_unit &u = t.units[unit_of(t, bundle)];
    const int outputs = outputs_of<STREAMS>(u);
    const int64_t first = (int64_t)(bundle - u.first_bundle) * outputs;
    const slot added = load_added<STREAMS, ROWS>(t, u, bundle, first_row);
    float sums[STREAMS * ROWS];
#pragma unroll
    for (int i = 0; i < STREAMS * ROWS; i++) sums[i] = 0;
    for (uint32_t base = 0; base < count; base += R::rounds * WARP) {
      next.ask(t, count, step);
      wait_copies<DEPTH - 1>();
      const char *from = own + at * R::part;
      auto take_round = [&](int n) {
        const uint32_t i = base + n * WARP + threadIdx.x % WARP;
        read_piece<D> w[STREAMS];
#pragma unroll
        for (int s = 0; s < STREAMS; s++) {
          take_piece<D>(&w[s], from + (n * STREAMS + s) * (piece<D>::bytes * WARP));
          w[s].form = read_piece<D>::form_of(u.dtypes[0], (uint32_t)first + (s >= outputs ? s - outputs : s), i, K);
        }
        multiply_pieces<D, STREAMS, ROWS>(w, row, in, first_row, t.M, i, K, sums);
      };
      if (base + R::rounds * WARP <= count) {
#pragma unroll
        for (int n = 0; n < R::rounds; n++) take_round(n);
      } else {
#pragma unroll 1
        for (int n = 0; n < R::rounds && base + n * WARP + threadIdx.x % WARP < count; n++) take_round(n);
      }
      at = (at + 1) % DEPTH;
    }
    end_bundle<STREAMS, ROWS>(t, u, bundle, first_row, added, sums);
  }
}

// Of affine formats those of so many bits: what others do by single rows of weights, and four at a time, these do not.
#define AFFINE_LINEARS(bits)                                                                                           \
  LINEARS_KERNEL(affine##bits##_1_2, ML_AFFINE##bits##_32_F32, 2, 1)                                                   \
  LINEARS_KERNEL(affine##bits##_8, ML_AFFINE##bits##_32_F32, 4, 8)

// Kernels of a dtype: one row by single rows of weights, or by two; four rows, and eight.
#define LINEARS_KERNEL(name, D, STREAMS, ROWS)                                                                         \
  KERNEL_EARLY(cuda_linears_##name, cu_linears_args, PRODUCT_THREADS, ROWS == 1 ? 3 : 2) {                             \
    DYNAMIC_SHARED(float4, room);                                                                                      \
    linears<D, STREAMS, ROWS>(t, room, (char *)room + t.row_bytes);                                                    \
  }
#define LINEARS(name, D)                                                                                               \
  LINEARS_KERNEL(name##_1_1, D, 1, 1)                                                                                  \
  LINEARS_KERNEL(name##_1_2, D, 2, 1)                                                                                  \
  LINEARS_KERNEL(name##_4, D, 4, 4)                                                                                    \
  LINEARS_KERNEL(name##_8, D, 4, 8)

#endif
