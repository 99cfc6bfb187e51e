// weights.cuh: packed weights, eight inputs of a row at a time.
//
// Rows lie in groups of CU_GROUP. In a group the fields of a block format follow each other, each [row][block][bytes],
// in the order of gpu/weights.c. So the lanes of a warp, which take eight inputs each, read side by side.
#ifndef ML_GPU_WEIGHTS_CUH
#define ML_GPU_WEIGHTS_CUH

#include "gpu/common.cuh"

template <int D> struct format {
  static constexpr bool floats = D == ML_F32 || D == ML_F16 || D == ML_BF16, affine = D >= ML_AFFINE_FIRST;
  static constexpr int bits_of[] = {2, 3, 4, 5, 6, 8}, bits = affine ? bits_of[(D - ML_AFFINE_FIRST) / CU_AFFINES] : 0;
  static constexpr int block = floats ? 1 : D == ML_Q4_K || D == ML_Q5_K || D == ML_Q6_K ? 256 : 32;
  // Bytes of a block's fields, as gpu/weights.c has them. Scales and biases of affine formats: see affine_form.
  static constexpr int high = affine                         ? bits == 6                ? 8
                                                               : bits == 3 || bits == 5 ? 4
                                                                                        : 0
                              : D == ML_Q5_0 || D == ML_Q5_1 ? 4
                              : D == ML_Q5_K                 ? 32
                              : D == ML_Q6_K                 ? 64
                                                             : 0;
  static constexpr int scales = D == ML_Q4_K || D == ML_Q5_K ? 12 : D == ML_Q6_K ? 16 : 0;
  static constexpr int d = floats || affine ? 0 : D == ML_Q4_0 || D == ML_Q5_0 || D == ML_Q8_0 || D == ML_Q6_K ? 2 : 4;
  static constexpr int codes = D == ML_F32    ? 4
                               : floats       ? 2
                               : affine       ? bits == 8  ? 32
                                                : bits < 4 ? 8
                                                           : 16
                               : D == ML_Q8_0 ? 32
                               : block == 32  ? 16
                                              : 128;
  static constexpr int bytes = codes + high + scales + d; // without those of affine formats
};

// One kernel takes all affine formats of so many bits: their dtype tells what scales are, and how many blocks have one.
struct affine_form {
  int dtype, shift; // 0, 1, 2: groups of 32, 64, 128

  DEVICE_MEMBER affine_form(int of) {
    const int n = (of - ML_AFFINE_FIRST) % CU_AFFINES;
    dtype = n % 3 == 0 ? ML_F32 : n % 3 == 1 ? ML_F16 : ML_BF16, shift = n / 3;
  }
  // Bytes of a scale and a bias.
  DEVICE_MEMBER int bytes() const { return dtype == ML_F32 ? 8 : 4; }
};

// One row of a packed weight.
template <int D> struct weight_row {
  const uint8_t *codes, *high, *scales, *d; // fields of its first block; floats: codes alone
  int dtype;                                // of affine formats

  // `of`: the weight's own dtype, where kernels take several.
  DEVICE_MEMBER weight_row(const char *packed, int64_t row, int K, int of = D) {
    typedef format<D> F;
    dtype = of;
    if constexpr (F::floats) { // groups make no difference
      codes = high = scales = d = (const uint8_t *)packed + (uint64_t)row * (uint32_t)K * F::bytes;
      return;
    }
    const int64_t blocks = (uint32_t)K / F::block, r = row % CU_GROUP, of_field = CU_GROUP * blocks;
    int64_t of_d = blocks * F::d;
    if constexpr (F::affine) of_d = (blocks >> affine_form(of).shift) * affine_form(of).bytes();
    const uint8_t *next =
        (const uint8_t *)packed + row / CU_GROUP * CU_GROUP * (blocks * (F::codes + F::high + F::scales) + of_d);
    codes = next + r * blocks * F::codes, next += of_field * F::codes;
    high = next + r * blocks * F::high, next += of_field * F::high;
    scales = next + r * blocks * F::scales, next += of_field * F::scales;
    d = next + r * of_d;
  }

  // The row i rows further on, of the same group.
  DEVICE_MEMBER weight_row(const weight_row &first, uint32_t i, uint32_t K) {
    typedef format<D> F;
    const uint32_t blocks = K / F::block;
    dtype = first.dtype;
    codes = first.codes + i * blocks * F::codes;
    high = first.high + i * blocks * F::high, scales = first.scales + i * blocks * F::scales;
    if constexpr (F::affine) d = affine_at(first.d, i * (blocks >> affine_form(dtype).shift));
    else d = first.d + i * blocks * F::d;
  }

  // A scale and its bias: of group i of those at p, and of block i of the row.
  DEVICE_MEMBER const uint8_t *affine_at(const uint8_t *p, uint32_t i) const {
    return p + i * affine_form(dtype).bytes();
  }
  DEVICE_MEMBER const uint8_t *affine_of_block(uint32_t i) const { return affine_at(d, i >> affine_form(dtype).shift); }

  // Inputs k..k+7, k a multiple of 8; of floats those before K.
  DEVICE_MEMBER void load(uint32_t k, uint32_t K, float *w) const;
};

DEVICE float half_at(const uint8_t *p, uint32_t i) { return f16_float(((const uint16_t *)p)[i]); }
DEVICE uint64_t eight_bytes(const uint8_t *p) { return *(const uint64_t *)p; }

// A scale and a bias of a dtype, as one word or two.
DEVICE void affine_pair(int dtype, uint32_t first, uint32_t second, float *s, float *m) {
  if (dtype == ML_F32) *s = bits_float(first), *m = bits_float(second);
  else if (dtype == ML_F16) *s = f16_float((uint16_t)first), *m = f16_float((uint16_t)(first >> 16));
  else *s = bits_float(first << 16), *m = high_bf16(first);
}

// Scale and minimum s of a K block from its 12 bytes.
DEVICE void k_scale(const uint8_t *p, int s, int *scale, int *min) {
  if (s < 4) *scale = p[s] & 63, *min = p[s + 4] & 63;
  else *scale = (p[s + 4] & 15) | p[s - 4] >> 6 << 4, *min = p[s + 4] >> 4 | p[s] >> 6 << 4;
}

template <int D> DEVICE_MEMBER void weight_row<D>::load(uint32_t k, uint32_t K, float *w) const {
  typedef format<D> F;
  if constexpr (F::floats) {
    if (k + 8 <= K && K % 8 == 0) { // rows begin at 16 bytes
      if constexpr (D == ML_F32) {
        const float4 *p = (const float4 *)(codes + k * 4);
        const float4 a = p[0], b = p[1];
        w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w, w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
      } else {
        const uint4 a = *(const uint4 *)(codes + k * 2);
        const uint32_t words[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const uint16_t low = (uint16_t)words[i], high16 = (uint16_t)(words[i] >> 16);
          w[2 * i] = D == ML_F16 ? f16_float(low) : bf16_float(low);
          w[2 * i + 1] = D == ML_F16 ? f16_float(high16) : bf16_float(high16);
        }
      }
      return;
    }
    for (int i = 0; i < 8; i++) w[i] = k + i < K ? load_float((const char *)codes, D, k + i) : 0.0f;
  } else if constexpr (F::affine) {
    const uint32_t b = k / 32, j = k % 32;
    const uint32_t *pair = (const uint32_t *)affine_of_block(b);
    const int of = affine_form(dtype).dtype;
    float s, m;
    affine_pair(of, pair[0], pair[of == ML_F32], &s, &m);
    uint64_t low; // a byte each
    uint32_t up = 0;
    if constexpr (F::bits < 4) {
      const uint32_t pairs = ((const uint32_t *)codes)[b * 2 + j / 16] >> 2 * (j % 16);
      low = 0;
#pragma unroll
      for (int i = 0; i < 8; i++) low |= (uint64_t)(pairs >> 2 * i & 3) << 8 * i;
    } else if constexpr (F::bits == 8) low = eight_bytes(codes + b * 32 + j);
    else low = eight_bytes(codes + b * 16 + j % 16) >> (j >= 16 ? 4 : 0) & 0x0f0f0f0f0f0f0f0fu;
    if constexpr (F::bits == 3 || F::bits == 5) up = ((const uint32_t *)high)[b] >> j;
    if constexpr (F::bits == 6) up = ((const uint32_t *)high)[b * 2 + j / 16] >> 2 * (j % 16);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      uint32_t code = (uint32_t)(low >> 8 * i) & 255;
      if constexpr (F::bits == 3) code |= (up >> i & 1) << 2;
      if constexpr (F::bits == 5) code |= (up >> i & 1) << 4;
      if constexpr (F::bits == 6) code |= (up >> 2 * i & 3) << 4;
      w[i] = s * (float)(int)code;
      w[i] += m;
    }
  } else if constexpr (D == ML_Q8_0) {
    const float s = half_at(d, k / 32);
    const uint64_t q = eight_bytes(codes + k);
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = s * (float)(int8_t)(q >> 8 * i);
  } else if constexpr (F::block == 32) {
    const uint32_t b = k / 32;
    const int j = (int)(k % 32), up = j >= 16 ? 4 : 0;
    const uint64_t q = eight_bytes(codes + b * 16 + j % 16) >> up;
    const bool has_min = D == ML_Q4_1 || D == ML_Q5_1;
    const float s = half_at(d, has_min ? 2 * b : b), m = has_min ? half_at(d, 2 * b + 1) : 0.0f;
    uint32_t fifth = 0;
    if (D == ML_Q5_0 || D == ML_Q5_1) fifth = ((const uint32_t *)high)[b] >> j;
    const int zero = D == ML_Q4_0 ? 8 : D == ML_Q5_0 ? 16 : 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int code = (int)(q >> 8 * i & 15) | (int)(fifth >> i & 1) << 4;
      w[i] = s * (float)(code - zero);
      if (has_min) w[i] += m;
    }
  } else if constexpr (D == ML_Q6_K) {
    const uint32_t b = k / 256;
    const int j = (int)(k % 256), half = j / 128, c = j % 128 / 32, l = j % 32;
    const uint64_t q = eight_bytes(codes + b * 128 + half * 64 + c % 2 * 32 + l) >> (c < 2 ? 0 : 4);
    const uint64_t h = eight_bytes(high + b * 64 + half * 32 + l) >> 2 * c;
    const float s = half_at(d, b) * (float)(int8_t)scales[b * 16 + j / 16];
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = s * (float)((int)((q >> 8 * i & 15) | (h >> 8 * i & 3) << 4) - 32);
  } else { // Q4_K, Q5_K
    const uint32_t b = k / 256;
    const int j = (int)(k % 256), s = j / 32, l = j % 32;
    const uint64_t q = eight_bytes(codes + b * 128 + s / 2 * 32 + l) >> (s & 1 ? 4 : 0);
    uint64_t h = 0;
    if (D == ML_Q5_K) h = eight_bytes(high + b * 32 + l) >> s;
    int scale, min;
    k_scale(scales + b * 12, s, &scale, &min);
    const float by = half_at(d, 2 * b) * (float)scale, less = half_at(d, 2 * b + 1) * (float)min;
#pragma unroll
    for (int i = 0; i < 8; i++)
      w[i] = by * (float)(int)((q >> 8 * i & 15) | (D == ML_Q5_K ? (h >> 8 * i & 1) << 4 : 0)) + -less;
  }
}

// Calls f with a dtype that is packed as a constant; of affine formats the first of so many bits.
#define FOR_PACKED(dtype, f)                                                                                           \
  switch ((dtype) < ML_AFFINE_FIRST ? (dtype)                                                                          \
                                    : ((dtype)-ML_AFFINE_FIRST) / CU_AFFINES * CU_AFFINES + ML_AFFINE_FIRST) {         \
  case ML_F32: f(ML_F32); break;                                                                                       \
  case ML_F16: f(ML_F16); break;                                                                                       \
  case ML_BF16: f(ML_BF16); break;                                                                                     \
  case ML_Q4_0: f(ML_Q4_0); break;                                                                                     \
  case ML_Q4_1: f(ML_Q4_1); break;                                                                                     \
  case ML_Q5_0: f(ML_Q5_0); break;                                                                                     \
  case ML_Q5_1: f(ML_Q5_1); break;                                                                                     \
  case ML_Q8_0: f(ML_Q8_0); break;                                                                                     \
  case ML_Q4_K: f(ML_Q4_K); break;                                                                                     \
  case ML_Q5_K: f(ML_Q5_K); break;                                                                                     \
  case ML_AFFINE2_32_F32: f(ML_AFFINE2_32_F32); break;                                                                 \
  case ML_AFFINE3_32_F32: f(ML_AFFINE3_32_F32); break;                                                                 \
  case ML_AFFINE4_32_F32: f(ML_AFFINE4_32_F32); break;                                                                 \
  case ML_AFFINE5_32_F32: f(ML_AFFINE5_32_F32); break;                                                                 \
  case ML_AFFINE6_32_F32: f(ML_AFFINE6_32_F32); break;                                                                 \
  case ML_AFFINE8_32_F32: f(ML_AFFINE8_32_F32); break;                                                                 \
  default: f(ML_Q6_K);                                                                                                 \
  }

#endif
