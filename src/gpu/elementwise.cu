// elementwise.cu: elementwise programs, and elements moved as they are.
//
// Bytes: each operand once, but for what is broadcast. Flops: the program's, interpreted: some tens of instructions for
// each of its own. One thread an element, neighbours in memory side by side in a warp.
#include "gpu/program.cuh"

KERNEL(cuda_fused, cu_fused_args) {
  slot regs[CU_FUSED_INPUTS + CU_MOST_CODE];
  for (int64_t i = thread_index(); i < t.size; i += thread_count()) {
    for (int k = 0; k < t.n_in; k++) {
      const cu_operand &x = t.operands[k];
      regs[k] = load_slot(x.data, x.dtype, offset_of(t.ndim, t.shape, x.strides, i));
    }
    run_program(&t.program, regs);
    for (int k = 0; k < t.n_out; k++) {
      const cu_operand &o = t.operands[t.n_in + k];
      store_slot(o.data, o.dtype, offset_of(t.ndim, t.shape, o.strides, i), regs[t.program.outputs[k]]);
    }
  }
}

template <typename T> DEVICE void move(const cu_move_args &t) {
  for (int64_t i = thread_index(); i < t.size; i += thread_count())
    ((T *)t.to)[offset_of(t.ndim, t.shape, t.to_strides, i)] =
        ((const T *)t.from)[offset_of(t.ndim, t.shape, t.from_strides, i)];
}

KERNEL(cuda_move, cu_move_args) {
  switch (t.item) {
  case 1: move<uint8_t>(t); return;
  case 2: move<uint16_t>(t); return;
  case 4: move<uint32_t>(t); return;
  default: move<uint64_t>(t);
  }
}
