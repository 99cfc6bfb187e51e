// reduce.cu: reductions over any axes, and what an elementwise program makes before them.
//
// Bytes: the input once (variances and logsumexp twice, the second time from the cache). A block takes a chunk of one
// result's elements, counted row-major over the reduced axes; chunks are joined in order, by the block that ends last.
// Where the cuts are depends on the number of elements alone.
#include "gpu/row.cuh"

DEVICE slot reduced_element(const cu_reduce_args &t, const int64_t *base, int64_t i) {
  if (!t.has_program) {
    return load_slot(t.in[0].data, t.in[0].dtype,
                     base[0] + offset_of(t.n_reduced, t.reduced_shape, t.in[0].reduced, i));
  }
  slot regs[CU_FUSED_INPUTS + CU_MOST_CODE];
  for (int k = 0; k < t.n_in; k++)
    regs[k] =
        load_slot(t.in[k].data, t.in[k].dtype, base[k] + offset_of(t.n_reduced, t.reduced_shape, t.in[k].reduced, i));
  run_program(t.program, regs);
  return regs[t.program->outputs[0]];
}

// A chunk's result, as another block has left it.
DEVICE partial fresh_partial(const partial *from) {
  enum { WORDS = sizeof(partial) / 4 };
  union {
    partial p;
    float words[WORDS];
  } o;
#pragma unroll
  for (int i = 0; i < WORDS; i++) o.words[i] = fresh((const float *)from + i);
  return o.p;
}

DEVICE bool is_choice(int op) { return op == CU_OP_max || op == CU_OP_min || op == CU_OP_argmax || op == CU_OP_argmin; }

// The best of the chunks of a result, which is the same in any order.
DEVICE partial join_choices(const cu_reduce_args &t, const partial *all) {
  partial p;
  int64_t key = INT64_MIN, at = -1;
  for (int64_t i = threadIdx.x; i < t.chunks; i += blockDim.x) {
    const partial next = fresh_partial(all + i);
    join_key(next.k, next.at, &key, &at);
  }
  choose_best(&p, key, at);
  return p;
}

// Joins the chunks of a result one after another: the block's threads have read them before. Thread 0 gets it.
DEVICE partial join_chunks(const cu_reduce_args &t, const partial *all) {
  enum { ROOM = 128 };
  __shared__ partial read[ROOM];
  partial p;
  for (int64_t first = 0; first < t.chunks; first += ROOM) {
    const int n = (int)min64(ROOM, t.chunks - first);
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) read[i] = fresh_partial(all + first + i);
    __syncthreads();
    if (first == 0) p = read[0];
    for (int64_t i = first ? first : 1; threadIdx.x == 0 && i < first + n; i++)
      join_partial(&p, i * CHUNK, read[i - first], min64(t.count - i * CHUNK, CHUNK), t.op);
  }
  return p;
}

// A chunk of a result is there: the block that comes with the last one joins them.
template <typename JOIN> DEVICE void put_chunk(const cu_reduce_args &t, int64_t unit, const partial &own, JOIN join) {
  __shared__ bool is_last;
  const int64_t result = unit / t.chunks;
  if (threadIdx.x == 0) {
    ((partial *)t.partials)[unit] = own;
    fence();
    is_last = atomicAdd(&t.joined[result], 1) == (int32_t)t.chunks - 1;
    if (is_last) t.joined[result] = 0; // for the next launch
    fence();
  }
  __syncthreads();
  if (is_last) {
    const partial p = join((const partial *)t.partials + result * t.chunks);
    if (threadIdx.x == 0) store_slot(t.out, t.op.result, result, finish_partial(p, t.op, t.count));
  }
}

KERNEL(cuda_reduce, cu_reduce_args) {
  for (int64_t unit = blockIdx.x; unit < t.results * t.chunks; unit += gridDim.x) {
    const int64_t result = unit / t.chunks, first = unit % t.chunks * CHUNK;
    const int64_t n = min64(t.count - first, CHUNK);
    int64_t base[CU_FUSED_INPUTS];
    for (int k = 0; k < t.n_in; k++) base[k] = offset_of(t.n_kept, t.kept_shape, t.in[k].kept, result);
    const partial p = reduce_block(t.op, n, first, [&](int64_t i) { return reduced_element(t, base, first + i); });
    if (t.chunks > 1) {
      put_chunk(t, unit, p,
                [&](const partial *all) { return is_choice(t.op.op) ? join_choices(t, all) : join_chunks(t, all); });
    } else if (threadIdx.x == 0) store_slot(t.out, t.op.result, result, finish_partial(p, t.op, n));
    __syncthreads();
  }
}

// ---- the largest or smallest of many floats that lie side by side ----

// Of floats of 32 bits or fewer, and in few instructions, since sampling waits for it. What is found is one number: of
// the value, and of its place, by which the first of equal ones is the largest.
DEVICE uint64_t best_of(uint64_t own) {
  __shared__ uint64_t found[CU_CHOOSE_THREADS / WARP];
#pragma unroll
  for (int by = WARP / 2; by > 0; by /= 2) {
    const uint64_t other = (uint64_t)shuffle((int64_t)own, by);
    own = other > own ? other : own;
  }
  __syncthreads();
  if (threadIdx.x % WARP == 0) found[threadIdx.x / WARP] = own;
  __syncthreads();
  for (int w = 0; w < CU_CHOOSE_THREADS / WARP; w++) own = found[w] > own ? found[w] : own;
  return own;
}

// A block a chunk and result, of which a thread takes a run.
KERNEL(cuda_choose, cu_reduce_args) {
  __shared__ bool is_last;
  const bool smallest = wants_smallest(t.op.op), merge = wants_index(t.op.op);
  const uint32_t result = blockIdx.y, chunks = gridDim.x, i = blockIdx.x * CHUNK + threadIdx.x * RUN;
  const uint32_t count = (uint32_t)t.count;
  const int dtype = t.in[0].dtype;
  const char *data = t.in[0].data + offset_of(t.n_kept, t.kept_shape, t.in[0].kept, result) * item_of(dtype);
  float f[RUN] = {0};
  if (i < count) load_run(data, dtype, i, count, 0.0f, f);
  uint64_t best = 0;
#pragma unroll
  for (int k = 0; k < RUN; k++) {
    const uint32_t bits = f[k] == 0 && merge ? 0 : float_bits(f[k]);
    uint32_t key = bits >> 31 ? ~bits : bits | 0x80000000u;
    if (smallest) key = ~key;
    if (f[k] != f[k]) key = 0xffffffffu;
    const uint64_t own = (uint64_t)key << 32 | (uint32_t) ~(i + k);
    if (i + k < count && own > best) best = own;
  }
  best = best_of(best);
  uint64_t *all = (uint64_t *)t.partials + result * (uint64_t)chunks;
  if (threadIdx.x == 0) {
    all[blockIdx.x] = best;
    fence();
    is_last = atomicAdd(&t.joined[result], 1) == (int32_t)chunks - 1;
    if (is_last) t.joined[result] = 0; // for the next launch
    fence();
  }
  __syncthreads();
  if (!is_last) return;
  best = 0;
  for (uint32_t c = threadIdx.x; c < chunks; c += CU_CHOOSE_THREADS) {
    const float *words = (const float *)(all + c);
    const uint64_t other = (uint64_t)float_bits(fresh(words + 1)) << 32 | float_bits(fresh(words));
    best = other > best ? other : best;
  }
  best = best_of(best);
  if (threadIdx.x) return;
  slot s;
  s.i = (uint32_t) ~(uint32_t)best;
  if (!merge) s = load_slot(data, dtype, s.i);
  store_slot(t.out, t.op.result, result, s);
}
