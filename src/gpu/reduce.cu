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

// Joins the chunks of a result one after another: the block's threads have read them before. The best of them is the
// same in any order.
DEVICE void join_chunks(const cu_reduce_args &t, int64_t result) {
  enum { ROOM = 128 };
  __shared__ partial read[ROOM];
  const partial *all = (const partial *)t.partials + result * t.chunks;
  partial p;
  if (is_choice(t.op.op)) {
    int64_t key = INT64_MIN, at = -1;
    for (int64_t i = threadIdx.x; i < t.chunks; i += blockDim.x) {
      const partial next = fresh_partial(all + i);
      join_key(next.k, next.at, &key, &at);
    }
    choose_best(&p, key, at);
  }
  for (int64_t first = 0; !is_choice(t.op.op) && first < t.chunks; first += ROOM) {
    const int n = (int)min64(ROOM, t.chunks - first);
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) read[i] = fresh_partial(all + first + i);
    __syncthreads();
    if (first == 0) p = read[0];
    for (int64_t i = first ? first : 1; threadIdx.x == 0 && i < first + n; i++)
      join_partial(&p, i * CHUNK, read[i - first], min64(t.count - i * CHUNK, CHUNK), t.op);
  }
  if (threadIdx.x == 0) store_slot(t.out, t.op.result, result, finish_partial(p, t.op, t.count));
}

// The block that comes to the end of a result's last chunk joins them.
KERNEL(cuda_reduce, cu_reduce_args) {
  __shared__ bool is_last;
  for (int64_t unit = blockIdx.x; unit < t.results * t.chunks; unit += gridDim.x) {
    const int64_t result = unit / t.chunks, first = unit % t.chunks * CHUNK;
    const int64_t n = min64(t.count - first, CHUNK);
    int64_t base[CU_FUSED_INPUTS];
    for (int k = 0; k < t.n_in; k++) base[k] = offset_of(t.n_kept, t.kept_shape, t.in[k].kept, result);
    const partial p = reduce_block(t.op, n, first, [&](int64_t i) { return reduced_element(t, base, first + i); });
    if (t.chunks == 1) {
      if (threadIdx.x == 0) store_slot(t.out, t.op.result, result, finish_partial(p, t.op, n));
    } else {
      if (threadIdx.x == 0) {
        ((partial *)t.partials)[unit] = p;
        fence();
        is_last = atomicAdd(&t.joined[result], 1) == (int32_t)t.chunks - 1;
        if (is_last) t.joined[result] = 0; // for the next launch
        fence();
      }
      __syncthreads();
      if (is_last) join_chunks(t, result);
    }
    __syncthreads();
  }
}
