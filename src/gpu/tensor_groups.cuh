// tensor_groups.cuh: products of matrices in shared memory by four warps together (Hopper's wgmma).
//
// A tile is rows of 64 elements of two bytes, 128 bytes a row, at a multiple of 1,024 bytes; line i of 16 bytes of row
// r lies at i ^ r % 8. So line_at of gpu/tiles.cuh has it, and so the hardware reads it.
#ifndef ML_GPU_TENSOR_GROUPS_CUH
#define ML_GPU_TENSOR_GROUPS_CUH

#include "gpu/tensor_cores.cuh"

#if defined(__CUDACC__) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
// What ordinary stores and copies have put in shared memory is there for products.
DEVICE void show_to_groups() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Before the first product of a lot; behind the last; and until all but the last LEFT lots are done.
DEVICE void open_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void close_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> DEVICE void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// Inputs 16 k.. of a tile: its address in units of 16 bytes, 1,024 bytes from eight rows to the next, lines swizzled
// in 128 bytes.
DEVICE uint64_t matrix_at(const char *tile, int k) {
  const uint64_t at = (uint64_t)(((uint32_t)__cvta_generic_to_shared(tile) & 0x3ffff) >> 4) + 2 * k;
  return at | (uint64_t)1 << 16 | (uint64_t)64 << 32 | (uint64_t)1 << 62;
}

#define FOUR(n) "+f"(sums[n][0]), "+f"(sums[n][1]), "+f"(sums[n][2]), "+f"(sums[n][3])
#define FOUR_FOURS(n) FOUR(n), FOUR(n + 1), FOUR(n + 2), FOUR(n + 3)
#define REGISTERS_64                                                                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, "                                                                                   \
  "%8, %9, %10, %11, %12, %13, %14, %15, "                                                                             \
  "%16, %17, %18, %19, %20, %21, %22, %23, "                                                                           \
  "%24, %25, %26, %27, %28, %29, %30, %31, "                                                                           \
  "%32, %33, %34, %35, %36, %37, %38, %39, "                                                                           \
  "%40, %41, %42, %43, %44, %45, %46, %47, "                                                                           \
  "%48, %49, %50, %51, %52, %53, %54, %55, "                                                                           \
  "%56, %57, %58, %59, %60, %61, %62, %63"
#define GROUP_PRODUCT_128(type)                                                                                        \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"                                                              \
               "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {"                                       \
               REGISTERS_64                                                                                            \
               "}, %64, %65, p, 1, 1, 0, 0;\n}"                                                                        \
               : FOUR_FOURS(0), FOUR_FOURS(4), FOUR_FOURS(8), FOUR_FOURS(12)                                           \
               : "l"(a), "l"(b))
#define GROUP_PRODUCT_256(type)                                                                                        \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"                                                              \
               "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {"                                       \
               REGISTERS_64 ", "                                                                                       \
               "%64, %65, %66, %67, %68, %69, %70, %71, "                                                              \
               "%72, %73, %74, %75, %76, %77, %78, %79, "                                                              \
               "%80, %81, %82, %83, %84, %85, %86, %87, "                                                              \
               "%88, %89, %90, %91, %92, %93, %94, %95, "                                                              \
               "%96, %97, %98, %99, %100, %101, %102, %103, "                                                          \
               "%104, %105, %106, %107, %108, %109, %110, %111, "                                                      \
               "%112, %113, %114, %115, %116, %117, %118, %119, "                                                      \
               "%120, %121, %122, %123, %124, %125, %126, %127"                                                        \
               "}, %128, %129, p, 1, 1, 0, 0;\n}"                                                                      \
               : FOUR_FOURS(0), FOUR_FOURS(4), FOUR_FOURS(8), FOUR_FOURS(12), FOUR_FOURS(16), FOUR_FOURS(20),          \
                 FOUR_FOURS(24), FOUR_FOURS(28)                                                                        \
               : "l"(a), "l"(b))

// sums += a b: 64 rows of x at a, N rows of weights at b, of both inputs 16 k.. . A lane has of each eight columns what
// multiply_matrices gives it, of the 16 rows of its warp.
template <int X, int N> DEVICE void multiply_group(float (*sums)[4], const char *of_a, const char *of_b, int k) {
  const uint64_t a = matrix_at(of_a, k), b = matrix_at(of_b, k);
  if constexpr (N == 256 && X == ML_BF16) GROUP_PRODUCT_256("bf16");
  else if constexpr (N == 256) GROUP_PRODUCT_256("f16");
  else if constexpr (X == ML_BF16) GROUP_PRODUCT_128("bf16");
  else GROUP_PRODUCT_128("f16");
}
#undef FOUR
#undef FOUR_FOURS
#undef REGISTERS_64

#else // emulated; or for a GPU that has no such products, on which none of this runs
DEVICE void show_to_groups() {}
DEVICE void open_products() {}
DEVICE void close_products() {}
template <int LEFT> DEVICE void wait_products() {}
DEVICE float element_of(const char *tile, int row, int k, int dtype) {
  const uint16_t *line = (const uint16_t *)(tile + row * 128 + ((k / 8 ^ row % 8) << 4));
  return dtype == ML_BF16 ? bf16_float(line[k % 8]) : f16_float(line[k % 8]);
}
template <int X, int N> DEVICE void multiply_group(float (*sums)[4], const char *a, const char *b, int k) {
  const int lane = threadIdx.x % WARP, first = threadIdx.x / WARP % 4 * 16 + lane / 4;
  for (int n = 0; n < N / 8; n++) {
    for (int i = 0; i < 4; i++) {
      for (int at = 16 * k; at < 16 * k + 16; at++)
        sums[n][i] += element_of(a, first + i / 2 * 8, at, X) * element_of(b, n * 8 + lane % 4 * 2 + i % 2, at, X);
    }
  }
}
#endif

#endif
