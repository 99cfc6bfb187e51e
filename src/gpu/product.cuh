// product.cuh: rows times rows of a packed weight, by warps.
//
// A row is cut in pieces of 16 bytes of codes, which the lanes of a warp take in turn: lane l pieces l, l + 32, ...
// Each adds up what it has, one multiply-add after another, a piece's inputs in the order of `fours`; then lanes are
// added by halves. So a product's bits depend on the weight's dtype and the inner length alone, not on how many rows
// and columns are made at once, nor by which kernel.
#ifndef ML_GPU_PRODUCT_CUH
#define ML_GPU_PRODUCT_CUH

#include "gpu/row.cuh"
#include "gpu/weights.cuh"

enum { PRODUCT_WARPS = 8, PRODUCT_THREADS = PRODUCT_WARPS * WARP };

// A piece. Codes of 4 bits and more are low and high nibbles of the same bytes: two runs of 16 inputs, `gap` apart.
template <int D> struct piece {
  typedef format<D> F;
  static constexpr bool halves = D == ML_F16 || D == ML_BF16, whole = D == ML_Q8_0 || F::bits == 8;
  static constexpr bool nibbles = !F::floats && !whole;
  static constexpr int inputs = D == ML_F32 ? 4 : halves ? 8 : whole ? 16 : 32, fours = inputs / 4;
  static constexpr int gap = D == ML_Q6_K ? 64 : F::block == 256 ? 32 : 16;
  // What it is made of: so many times 16 bytes, and words: the codes, their fifth or fifth and sixth bits, scales.
  // Affine codes of less than 4 bits are words; a bias may be in its scale's word: the last one is not there then.
  static constexpr int wide = D == ML_Q5_K || D == ML_Q6_K ? 2 : F::affine && F::bits < 4 ? 0 : 1;
  static constexpr int words = F::floats                      ? 0
                               : F::affine                    ? (F::bits < 4 ? 2 : 0) + F::high / 4 + 2
                               : D == ML_Q4_K || D == ML_Q5_K ? 4
                               : D == ML_Q6_K                 ? 3
                               : D == ML_Q5_0 || D == ML_Q5_1 ? 2
                                                              : 1;
  static constexpr int bytes = 16 * wide + 4 * words;

  // Its first input, and that of four j; and the piece and four that have input k.
  static DEVICE_MEMBER uint32_t first(uint32_t i) {
    if constexpr (F::block != 256) return i * inputs;
    else if constexpr (D == ML_Q6_K) return i / 8 * 256 + i % 8 / 4 * 128 + i % 4 * 16;
    else return i / 8 * 256 + i % 8 / 2 * 64 + i % 2 * 16;
  }
  static DEVICE_MEMBER uint32_t input(uint32_t i, int j) {
    if constexpr (nibbles) return first(i) + j / 4 * gap + j % 4 * 4;
    else return i * inputs + j * 4;
  }
  static DEVICE_MEMBER uint32_t of_input(uint32_t k, uint32_t *j) {
    if constexpr (F::block != 256) {
      *j = k % inputs / 4;
      return k / inputs;
    } else {
      *j = k % (2 * gap) / gap * 4 + k % 16 / 4;
      if constexpr (D == ML_Q6_K) return k / 256 * 8 + k % 256 / 128 * 4 + k % 64 / 16;
      else return k / 256 * 8 + k % 256 / 64 * 2 + k % 32 / 16;
    }
  }
  static DEVICE_MEMBER uint32_t count(int64_t K) { return ((uint32_t)K + inputs - 1) / inputs; }
};

// A piece that has been read: w: wide parts, then words.
template <int D> struct read_piece {
  typedef piece<D> P;
  uint32_t w[4 * P::wide + (P::words ? P::words : 1)];
  int form; // of scales: see form_of

  // Where piece i of a row lies: part(p) of 16 bytes, word(p) of 4. Rows of floats are whole pieces here.
  static DEVICE_MEMBER const uint8_t *part(const weight_row<D> &row, uint32_t i, int p) {
    if constexpr (P::F::block == 256) {
      const uint32_t b = i / 8, r = i % 8;
      if (p == 0) return row.codes + i * 16;
      if constexpr (D == ML_Q6_K) return row.high + b * 64 + r / 4 * 32 + r % 2 * 16;
      else return row.high + b * 32 + r % 2 * 16;
    } else return row.codes + i * 16;
  }
  static DEVICE_MEMBER const uint8_t *word(const weight_row<D> &row, uint32_t i, int p) {
    if constexpr (P::F::affine) {
      constexpr int codes = P::F::bits < 4 ? 2 : 0, before = codes + P::F::high / 4;
      if (p < codes) return row.codes + i * 8 + p * 4;
      if (p < before) return row.high + i * P::F::high + (p - codes) * 4;
      return row.affine_of_block(i * P::inputs / 32) + (p - before) * 4;
    } else if constexpr (D == ML_Q4_K || D == ML_Q5_K)
      return p < 3 ? row.scales + i / 8 * 12 + 4 * p : row.d + i / 8 * 4;
    else if constexpr (D == ML_Q6_K) { // the scales of both runs, 4 apart; d
      const uint32_t s = i % 8 / 4 * 8 + i % 4;
      return p < 2 ? row.scales + i / 8 * 16 + ((s + 4 * p) & ~3u) : aligned(row.d + i / 8 * 2);
    } else if constexpr (D == ML_Q5_0 || D == ML_Q5_1) {
      if (p == 0) return row.high + i * 4;
      return D == ML_Q5_1 ? row.d + i * 4 : aligned(row.d + i * 2);
    } else if constexpr (D == ML_Q4_1) return row.d + i * 4;
    else return aligned(row.d + (D == ML_Q8_0 ? i / 2 : i) * 2);
  }
  static DEVICE_MEMBER const uint8_t *aligned(const uint8_t *p) {
    return (const uint8_t *)((uintptr_t)p & ~(uintptr_t)3);
  }
  static DEVICE_MEMBER bool has_word(const weight_row<D> &row, int p) {
    if constexpr (P::F::affine) return p + 1 < P::words || affine_form(row.dtype).dtype == ML_F32;
    else return true;
  }
  // Scales of two bytes: 1 where one is the upper half of its word. Those of a group begin at a whole word, and a group
  // has an even number of them. Affine scales: their dtype.
  static DEVICE_MEMBER int form_of(int dtype, uint32_t row, uint32_t i, uint32_t K) {
    if constexpr (P::F::affine) return affine_form(dtype).dtype;
    else if constexpr (P::F::d == 2)
      return (row * (K / P::F::block) + (D == ML_Q8_0 ? i / 2 : D == ML_Q6_K ? i / 8 : i)) & 1;
    else return 0;
  }

  DEVICE_MEMBER void load(const weight_row<D> &row, uint32_t of_row, uint32_t i, uint32_t K) {
    if constexpr (P::F::floats) {
      if (K % P::inputs) { // rows begin anywhere
        load_ends(row, i, K);
        return;
      }
    }
#pragma unroll
    for (int p = 0; p < P::wide; p++) take(p, *(const uint4 *)part(row, i, p));
#pragma unroll
    for (int p = 0; p < P::words; p++) w[4 * P::wide + p] = has_word(row, p) ? *(const uint32_t *)word(row, i, p) : 0;
    form = form_of(row.dtype, of_row, i, K);
  }
  // A piece that may end before it is full.
  DEVICE_MEMBER void load_ends(const weight_row<D> &row, uint32_t i, uint32_t K) {
    const uint32_t k = i * P::inputs;
    if constexpr (D == ML_F32) {
#pragma unroll
      for (int j = 0; j < 4; j++) w[j] = k + j < K ? ((const uint32_t *)row.codes)[k + j] : 0;
    } else {
      const uint16_t *from = (const uint16_t *)row.codes;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const uint32_t low = k + 2 * j < K ? from[k + 2 * j] : 0, high = k + 2 * j + 1 < K ? from[k + 2 * j + 1] : 0;
        w[j] = low | high << 16;
      }
    }
  }
  DEVICE_MEMBER void take(int p, const uint4 &v) {
    w[4 * p] = v.x, w[4 * p + 1] = v.y, w[4 * p + 2] = v.z, w[4 * p + 3] = v.w;
  }

  DEVICE_MEMBER uint32_t byte(int part, int n) const { return w[4 * part + n / 4] >> 8 * (n % 4); }
  DEVICE_MEMBER float half_of(int word) const { return f16_float((uint16_t)(w[4 * P::wide + word] >> 16 * form)); }

  // What codes are multiplied by, and what is added, in the run that four j belongs to; i: the piece's number.
  DEVICE_MEMBER void scale(uint32_t i, int j, float *s, float *m) const {
    const uint32_t *own = w + 4 * P::wide;
    *m = 0;
    if constexpr (P::F::affine) affine_pair(form, own[P::words - 2], own[P::words - 1], s, m);
    else if constexpr (D == ML_Q4_K || D == ML_Q5_K) {
      int scale, min;
      const uint32_t sub = i % 8 / 2 * 2 + j / 4, up = sub % 4 * 8;
      const uint32_t a = own[0] >> up & 255, b = own[1] >> up & 255, c = own[2] >> up & 255;
      if (sub < 4) scale = a & 63, min = b & 63;
      else scale = (c & 15) | a >> 6 << 4, min = c >> 4 | b >> 6 << 4;
      *s = f16_float((uint16_t)own[3]) * (float)scale;
      *m = -(f16_float((uint16_t)(own[3] >> 16)) * (float)min);
    } else if constexpr (D == ML_Q6_K) {
      *s = half_of(2) * (float)(int8_t)(own[j / 4] >> 8 * (i % 4));
    } else if constexpr (D == ML_Q4_1 || D == ML_Q5_1) {
      const uint32_t both = own[P::words - 1];
      *s = f16_float((uint16_t)both), *m = f16_float((uint16_t)(both >> 16));
    } else *s = half_of(P::words - 1);
  }

  // Inputs of four j, and of piece i.
  DEVICE_MEMBER void values(uint32_t i, int j, float *f) const {
    if constexpr (D == ML_F32) {
#pragma unroll
      for (int n = 0; n < 4; n++) f[n] = bits_float(w[n]);
    } else if constexpr (P::halves) {
#pragma unroll
      for (int n = 0; n < 2; n++) {
        const uint32_t pair = w[2 * j + n];
        f[2 * n] = D == ML_F16 ? f16_float((uint16_t)pair) : bits_float(pair << 16);
        f[2 * n + 1] = D == ML_F16 ? f16_float((uint16_t)(pair >> 16)) : high_bf16(pair);
      }
    } else {
      constexpr bool adds = P::F::affine || D == ML_Q4_1 || D == ML_Q5_1 || D == ML_Q4_K || D == ML_Q5_K;
      float s, m;
      scale(i, j, &s, &m);
#pragma unroll
      for (int n = 0; n < 4; n++) {
        if constexpr (D == ML_Q8_0) f[n] = s * (float)(int8_t)byte(0, 4 * j + n);
        else if constexpr (P::F::bits == 8) f[n] = s * small_float(byte(0, 4 * j + n) & 255) + m;
        else {
          const int at = j % 4 * 4 + n; // its byte
          uint32_t code;
          if constexpr (P::F::affine && P::F::bits < 4) code = w[j / 4] >> 2 * at & 3;
          else code = byte(0, at) >> (j < 4 ? 0 : 4) & 15;
          if constexpr (P::F::bits == 3) code |= (w[2] >> (4 * j + n) & 1) << 2;
          if constexpr (P::F::bits == 5) code |= (w[4] >> (4 * j + n) & 1) << 4;
          if constexpr (P::F::bits == 6) code |= (w[4 + j / 4] >> 2 * at & 3) << 4;
          float less = D == ML_Q4_0 ? 8.0f : D == ML_Q5_0 ? 16.0f : D == ML_Q6_K ? 32.0f : 0.0f;
          if constexpr (D == ML_Q5_0 || D == ML_Q5_1) code |= (w[4] >> (j / 4 * 16 + at) & 1) << 4;
          if constexpr (D == ML_Q5_K) code |= (byte(1, at) >> (i % 8 / 2 * 2 + j / 4) & 1) << 4;
          if constexpr (D == ML_Q6_K) code |= (byte(1, at) >> 2 * (j / 4 * 2 + i % 4 / 2) & 3) << 4;
          const float whole = small_float(code) - less;
          f[n] = adds ? s * whole + m : s * whole;
        }
      }
    }
  }
};

// Where rows that are multiplied come from.
struct inputs {
  const char *x;
  int64_t stride; // in elements
  int dtype;
  bool whole; // four at a time lie side by side at their own size
};

DEVICE inputs inputs_at(const char *x, int dtype, int64_t stride, int64_t K) {
  return {x, stride, dtype, stride % 4 == 0 && K % 4 == 0 && (uintptr_t)x % 16 == 0};
}

// Inputs k..k+3 of a row, those from K on zero.
DEVICE float4 load_inputs(const inputs &in, int64_t row, uint32_t k, uint32_t K) {
  const char *from = in.x + row * in.stride * item_of(in.dtype);
  float4 f;
  if (!in.whole || k >= K) { // a last piece may have fewer inputs than it has room for
    f.x = k < K ? load_float(from, in.dtype, k) : 0.0f, f.y = k + 1 < K ? load_float(from, in.dtype, k + 1) : 0.0f;
    f.z = k + 2 < K ? load_float(from, in.dtype, k + 2) : 0.0f,
    f.w = k + 3 < K ? load_float(from, in.dtype, k + 3) : 0.0f;
  } else if (in.dtype == ML_F32) f = *(const float4 *)(from + k * 4);
  else {
    const uint64_t pairs = *(const uint64_t *)(from + k * 2);
    const uint32_t a = (uint32_t)pairs, b = (uint32_t)(pairs >> 32);
    if (in.dtype == ML_F16) {
      f.x = f16_float((uint16_t)a), f.y = f16_float((uint16_t)(a >> 16));
      f.z = f16_float((uint16_t)b), f.w = f16_float((uint16_t)(b >> 16));
    } else f.x = bits_float(a << 16), f.y = high_bf16(a), f.z = bits_float(b << 16), f.w = high_bf16(b);
  }
  return f;
}

DEVICE float add_four(float sum, const float4 &x, const float *f) {
  sum = fmaf(x.x, f[0], sum), sum = fmaf(x.y, f[1], sum);
  sum = fmaf(x.z, f[2], sum), sum = fmaf(x.w, f[3], sum);
  return sum;
}

// COUNT sums of each lane, added over a warp: lane l gets sum l / (WARP / COUNT). Halves of the sums that a lane hands
// on are those that the other half of the lanes keeps.
template <int COUNT> DEVICE float add_lanes(float *sums) {
  const int lane = threadIdx.x % WARP;
  int by = WARP / 2;
#pragma unroll
  for (int n = COUNT; n > 1; n /= 2) {
#pragma unroll
    for (int i = 0; i < n / 2; i++) {
      const float out = lane & by ? sums[i] : sums[i + n / 2], own = lane & by ? sums[i + n / 2] : sums[i];
      sums[i] = own + shuffle(out, by);
    }
    by /= 2;
  }
  for (; by > 0; by /= 2) sums[0] += shuffle(sums[0], by);
  return sums[0];
}

// One product by a warp; each lane gets it.
template <int D>
DEVICE float product(const char *weight, int dtype, int64_t row, const inputs &in, int64_t in_row, int64_t inner) {
  const uint32_t K = (uint32_t)inner, count = piece<D>::count(inner);
  const weight_row<D> w(weight, row, (int)K, dtype);
  float sums[1] = {0};
#pragma unroll 4
  for (uint32_t i = threadIdx.x % WARP; i < count; i += WARP) {
    read_piece<D> p;
    p.load(w, (uint32_t)row, i, K);
#pragma unroll
    for (int j = 0; j < piece<D>::fours; j++) {
      float f[4];
      p.values(i, j, f);
      sums[0] = add_four(sums[0], load_inputs(in, in_row, piece<D>::input(i, j), K), f);
    }
  }
  return add_lanes<1>(sums);
}

#endif
