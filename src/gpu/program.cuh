// program.cuh: elementwise programs (ml_fused), run for one element by one thread.
//
// Every register is computed in the class of its dtype and rounded to it, as tensor/cpu/isa/elementwise.c does.
#ifndef ML_GPU_PROGRAM_CUH
#define ML_GPU_PROGRAM_CUH

#include "gpu/common.cuh"

enum { MOST_REGISTERS = CU_MOST_INPUTS + CU_MOST_CODE };

// From r = fmod(x, y): the remainder that has the sign of y, and the quotient that goes with it.
template <typename T> DEVICE T modulo(T y, T r) {
  T moved = (y < 0) != (r < 0) ? r + y : r;
  return r == 0 && y != 0 ? (T)copysign((T)0, y) : y == 0 ? r : moved;
}
template <typename T> DEVICE T floor_divide(T x, T y, T r) {
  T q = (x - r) / y;
  q -= r != 0 && (y < 0) != (r < 0) ? 1 : 0;
  T whole = floor(q);
  whole += q - whole > (T)0.5 ? 1 : 0; // the division may have fallen short of an integer
  return y == 0 ? x / y : q == 0 ? (T)copysign((T)0, x / y) : whole;
}

DEVICE float sigmoid_float(float x) {
  float e = expf(-fabsf(x)), s = 1.0f / (1.0f + e);
  return x < 0 ? e * s : s;
}
DEVICE float logaddexp_float(float x, float y) {
  float m = x > y ? x : y;
  if (m != m || isinf(m)) return x != x || y != y ? NAN : m;
  return m + log1pf(expf(-fabsf(x - y)));
}

DEVICE_CALL float float_op(int op, float x, float y) {
  switch (op) {
  case CU_OP_copy:
  case CU_OP_astype: return x;
  case CU_OP_neg: return -x;
  case CU_OP_abs: return fabsf(x);
  case CU_OP_sign: return x != x ? x : (float)((x > 0) - (x < 0));
  case CU_OP_square: return x * x;
  case CU_OP_exp: return expf(x);
  case CU_OP_expm1: return expm1f(x);
  case CU_OP_log: return logf(x);
  case CU_OP_log1p: return log1pf(x);
  case CU_OP_log2: return log2f(x);
  case CU_OP_sqrt: return sqrtf(x);
  case CU_OP_rsqrt: return 1.0f / sqrtf(x);
  case CU_OP_reciprocal: return 1.0f / x;
  case CU_OP_sin: return sinf(x);
  case CU_OP_cos: return cosf(x);
  case CU_OP_tan: return tanf(x);
  case CU_OP_sinh: return sinhf(x);
  case CU_OP_cosh: return coshf(x);
  case CU_OP_tanh: return tanhf(x);
  case CU_OP_arcsin: return asinf(x);
  case CU_OP_arccos: return acosf(x);
  case CU_OP_arctan: return atanf(x);
  case CU_OP_erf: return erff(x);
  case CU_OP_sigmoid: return sigmoid_float(x);
  case CU_OP_silu: return x / (1.0f + expf(-x));
  case CU_OP_gelu: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
  case CU_OP_gelu_tanh: return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * (x * x * x))));
  case CU_OP_relu: return x > 0 || x != x ? x : 0;
  case CU_OP_floor: return floorf(x);
  case CU_OP_ceil: return ceilf(x);
  case CU_OP_round: return rintf(x);
  case CU_OP_add: return x + y;
  case CU_OP_sub: return x - y;
  case CU_OP_mul: return x * y;
  case CU_OP_div: return x / y;
  case CU_OP_floordiv: return floor_divide(x, y, fmodf(x, y));
  case CU_OP_mod: return modulo(y, fmodf(x, y));
  case CU_OP_pow: return powf(x, y);
  case CU_OP_maximum: return x > y || x != x ? x : y;
  case CU_OP_minimum: return x < y || x != x ? x : y;
  case CU_OP_arctan2: return atan2f(x, y);
  case CU_OP_logaddexp: return logaddexp_float(x, y);
  default: return NAN;
  }
}

DEVICE_CALL double double_op(int op, double x, double y) {
  switch (op) {
  case CU_OP_copy:
  case CU_OP_astype: return x;
  case CU_OP_neg: return -x;
  case CU_OP_abs: return fabs(x);
  case CU_OP_sign: return x != x ? x : (double)((x > 0) - (x < 0));
  case CU_OP_square: return x * x;
  case CU_OP_exp: return exp(x);
  case CU_OP_expm1: return expm1(x);
  case CU_OP_log: return log(x);
  case CU_OP_log1p: return log1p(x);
  case CU_OP_log2: return log2(x);
  case CU_OP_sqrt: return sqrt(x);
  case CU_OP_rsqrt: return 1.0 / sqrt(x);
  case CU_OP_reciprocal: return 1.0 / x;
  case CU_OP_sin: return sin(x);
  case CU_OP_cos: return cos(x);
  case CU_OP_tan: return tan(x);
  case CU_OP_sinh: return sinh(x);
  case CU_OP_cosh: return cosh(x);
  case CU_OP_tanh: return tanh(x);
  case CU_OP_arcsin: return asin(x);
  case CU_OP_arccos: return acos(x);
  case CU_OP_arctan: return atan(x);
  case CU_OP_erf: return erf(x);
  case CU_OP_sigmoid: return x < 0 ? exp(x) / (1.0 + exp(x)) : 1.0 / (1.0 + exp(-x));
  case CU_OP_silu: return x / (1.0 + exp(-x));
  case CU_OP_gelu: return 0.5 * x * (1.0 + erf(x * 0.70710678118654752440));
  case CU_OP_gelu_tanh: return 0.5 * x * (1.0 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
  case CU_OP_relu: return x > 0 || x != x ? x : 0;
  case CU_OP_floor: return floor(x);
  case CU_OP_ceil: return ceil(x);
  case CU_OP_round: return rint(x);
  case CU_OP_add: return x + y;
  case CU_OP_sub: return x - y;
  case CU_OP_mul: return x * y;
  case CU_OP_div: return x / y;
  case CU_OP_floordiv: return floor_divide(x, y, fmod(x, y));
  case CU_OP_mod: return modulo(y, fmod(x, y));
  case CU_OP_pow: return pow(x, y);
  case CU_OP_maximum: return x > y || x != x ? x : y;
  case CU_OP_minimum: return x < y || x != x ? x : y;
  case CU_OP_arctan2: return atan2(x, y);
  case CU_OP_logaddexp: return x == y ? x + log(2.0) : fmax(x, y) + log1p(exp(-fabs(x - y)));
  default: return NAN;
  }
}

DEVICE int64_t int_floordiv(int64_t x, int64_t y) {
  if (y == 0) return 0;
  if (y == -1) return (int64_t)(0 - (uint64_t)x);
  int64_t q = x / y;
  return q - (x % y != 0 && (x < 0) != (y < 0));
}
DEVICE int64_t int_mod(int64_t x, int64_t y) {
  return y == 0 ? 0 : (int64_t)((uint64_t)x - (uint64_t)y * (uint64_t)int_floordiv(x, y));
}
DEVICE uint64_t uint_pow(uint64_t x, uint64_t y) {
  uint64_t r = 1;
  for (; y; y >>= 1, x *= x) {
    if (y & 1) r *= x;
  }
  return r;
}
DEVICE int64_t int_pow(int64_t x, int64_t y) {
  if (y < 0) return x == 1 ? 1 : x == -1 ? (y & 1 ? -1 : 1) : 0;
  return (int64_t)uint_pow((uint64_t)x, (uint64_t)y);
}

DEVICE_CALL int64_t int_op(int op, int64_t x, int64_t y) {
  const uint64_t ux = (uint64_t)x, uy = (uint64_t)y;
  switch (op) {
  case CU_OP_copy:
  case CU_OP_astype:
  case CU_OP_floor:
  case CU_OP_ceil:
  case CU_OP_round: return x;
  case CU_OP_neg: return (int64_t)(0 - ux);
  case CU_OP_abs: return (int64_t)(x < 0 ? 0 - ux : ux);
  case CU_OP_sign: return (x > 0) - (x < 0);
  case CU_OP_square: return (int64_t)(ux * ux);
  case CU_OP_relu: return x > 0 ? x : 0;
  case CU_OP_add: return (int64_t)(ux + uy);
  case CU_OP_sub: return (int64_t)(ux - uy);
  case CU_OP_mul: return (int64_t)(ux * uy);
  case CU_OP_floordiv: return int_floordiv(x, y);
  case CU_OP_mod: return int_mod(x, y);
  case CU_OP_pow: return int_pow(x, y);
  case CU_OP_maximum: return x > y ? x : y;
  case CU_OP_minimum: return x < y ? x : y;
  case CU_OP_bitwise_and: return x & y;
  case CU_OP_bitwise_or: return x | y;
  case CU_OP_bitwise_xor: return x ^ y;
  case CU_OP_left_shift: return uy > 63 ? 0 : (int64_t)(ux << y);
  case CU_OP_right_shift: return uy > 63 ? (x < 0 ? -1 : 0) : x >> y;
  default: return 0;
  }
}

// What differs from signed integers.
DEVICE_CALL uint64_t uint_op(int op, uint64_t x, uint64_t y) {
  switch (op) {
  case CU_OP_abs:
  case CU_OP_relu: return x;
  case CU_OP_sign: return x > 0;
  case CU_OP_floordiv: return y ? x / y : 0;
  case CU_OP_mod: return y ? x % y : 0;
  case CU_OP_pow: return uint_pow(x, y);
  case CU_OP_maximum: return x > y ? x : y;
  case CU_OP_minimum: return x < y ? x : y;
  case CU_OP_left_shift: return y > 63 ? 0 : x << y;
  case CU_OP_right_shift: return y > 63 ? 0 : x >> y;
  default: return (uint64_t)int_op(op, (int64_t)x, (int64_t)y);
  }
}

template <typename T> DEVICE bool test(int op, T x, T y, bool nan, bool infinite) {
  switch (op) {
  case CU_OP_eq: return x == y;
  case CU_OP_ne: return x != y;
  case CU_OP_lt: return x < y;
  case CU_OP_le: return x <= y;
  case CU_OP_gt: return x > y;
  case CU_OP_ge: return x >= y;
  case CU_OP_logical_and: return x != 0 && y != 0;
  case CU_OP_logical_or: return x != 0 || y != 0;
  case CU_OP_logical_not: return x == 0;
  case CU_OP_isnan: return nan;
  case CU_OP_isinf: return infinite;
  case CU_OP_isfinite: return !nan && !infinite;
  default: return false;
  }
}
template <typename T> DEVICE bool float_test(int op, T x, T y) { return test<T>(op, x, y, x != x, isinf(x)); }

// Integers of which one alone is uint64: one that no int64 holds counts as the largest, save that it equals nothing.
DEVICE bool mixed_test(int op, int64_t x, int64_t y, bool x_wide) {
  const int64_t wide = x_wide ? x : y;
  if (wide < 0) {
    if (op == CU_OP_ne) return true;
    if (op == CU_OP_gt || op == CU_OP_ge) return x_wide;
    if (op == CU_OP_lt || op == CU_OP_le) return !x_wide;
    if (op == CU_OP_eq) return false;
    (x_wide ? x : y) = INT64_MAX;
  }
  return test<int64_t>(op, x, y, false, false);
}

DEVICE_CALL bool truth_op(int op, slot x, int from, slot y, int other) {
  const int a = class_of(from), b = class_of(other);
  if (a == CF) return float_test<float>(op, x.f, y.f);
  if (a == CD) return float_test<double>(op, x.d, y.d);
  bool unary = op == CU_OP_logical_not || (op >= CU_OP_isnan && op <= CU_OP_isfinite);
  if (!unary && a != b) return mixed_test(op, x.i, y.i, a == CU);
  if (a == CU) return test<uint64_t>(op, x.u, y.u, false, false);
  return test<int64_t>(op, x.i, y.i, false, false);
}

// ---- conversion ----

DEVICE int64_t to_int(double d) {
  if (d != d) return 0;
  return d >= 0x1p63 ? INT64_MAX : d < -0x1p63 ? INT64_MIN : (int64_t)d;
}
DEVICE uint64_t to_uint(double d) {
  if (!(d >= 0x1p63)) return (uint64_t)to_int(d);
  return d >= 0x1p64 ? UINT64_MAX : (uint64_t)d;
}

// A float64 as a float32 that rounds to float16 or bfloat16 as the float64 itself does (round to odd).
DEVICE float to_odd(double d) {
  union {
    float f;
    uint32_t u;
  } v;
  v.f = (float)d;
  if ((double)v.f == d || d != d) return v.f;
  if (fabs((double)v.f) > fabs(d)) v.u--;
  v.u |= 1;
  return v.f;
}
DEVICE float narrow(double d, int to) { return to == ML_F32 ? (float)d : to_odd(d); }
DEVICE float narrow_int(int64_t x, int to) {
  const int64_t exact = (int64_t)1 << 53, low = 0xffff;
  if (to == ML_F32) return (float)x;
  if (x > exact || x < -exact) x = (x & ~low) | (x & low ? (low + 1) / 2 : 0);
  return to_odd((double)x);
}
DEVICE float narrow_uint(uint64_t x, int to) {
  if (to == ML_F32) return (float)x;
  if (x >> 63 == 0) return narrow_int((int64_t)x, to);
  return 2 * narrow_int((int64_t)(x >> 1 | (x & 1)), to);
}

DEVICE_CALL slot convert(slot x, int from, int to) {
  const int a = class_of(from), b = class_of(to);
  slot o = x;
  if (to == ML_BOOL && a == CF) o.i = x.f != 0;
  else if (to == ML_BOOL && a == CD) o.i = x.d != 0;
  else if (b == CF) {
    if (a == CD) o.f = narrow(x.d, to);
    else if (a == CI) o.f = narrow_int(x.i, to);
    else if (a == CU) o.f = narrow_uint(x.u, to);
  } else if (b == CD) {
    if (a == CF) o.d = (double)x.f;
    else if (a == CI) o.d = (double)x.i;
    else if (a == CU) o.d = (double)x.u;
  } else if (a == CF || a == CD) {
    const double d = a == CF ? (double)x.f : x.d;
    if (b == CI) o.i = to_int(d);
    else o.u = to_uint(d);
  }
  return o;
}

DEVICE bool is_true(slot x, int dtype) {
  const int a = class_of(dtype);
  return a == CF ? x.f != 0 : a == CD ? x.d != 0 : x.i != 0;
}

// ---- programs ----

// regs: the inputs, then room for what each instruction gives.
DEVICE_CALL void run_program(const cu_program *p, slot *regs) {
  const int n = p->n_inputs;
  for (int at = 0; at < p->n_code; at++) {
    const cu_code c = p->code[at];
    const slot x = regs[c.a], y = regs[c.b];
    slot o;
    o.u = 0;
    if (c.op == CU_OP_constant) {
      if (class_of(c.dtype) == CF) o.f = narrow(c.f, c.dtype);
      else if (class_of(c.dtype) == CD) o.d = c.f;
      else o.i = c.i;
    } else if (c.op == CU_OP_where) o = is_true(x, c.from) ? y : regs[c.c];
    else if (c.op == CU_OP_astype) o = convert(x, c.from, c.dtype);
    else if (c.dtype == ML_BOOL && c.op != CU_OP_copy && !(c.op >= CU_OP_bitwise_and && c.op <= CU_OP_right_shift))
      o.i = truth_op(c.op, x, c.from, y, c.other);
    else {
      switch (class_of(c.dtype)) {
      case CF: o.f = float_op(c.op, x.f, y.f); break;
      case CD: o.d = double_op(c.op, x.d, y.d); break;
      case CU: o.u = uint_op(c.op, x.u, y.u); break;
      default: o.i = int_op(c.op, x.i, y.i);
      }
    }
    regs[n + at] = c.dtype == ML_F32 ? o : round_slot(o, c.dtype);
  }
}

// What becomes of element `column` of row `row` (counted row-major over the other axes) of a result.
DEVICE void run_tail(const cu_tail &t, int64_t row, int64_t column, slot result) {
  const cu_program *p = t.program;
  const int last = t.ndim - 1;
  slot regs[MOST_REGISTERS];
  regs[0] = round_slot(result, p->input_dtypes[0]);
  for (int k = 1; k < p->n_inputs; k++) {
    const cu_operand &x = t.in[k];
    regs[k] = load_slot(x.data, x.dtype, offset_of(last, t.shape, x.strides, row) + column * x.strides[last]);
  }
  run_program(p, regs);
  for (int k = 0; k < t.n_out; k++) {
    const cu_operand &o = t.out[k];
    store_slot(o.data, o.dtype, offset_of(last, t.shape, o.strides, row) + column * o.strides[last],
               regs[p->outputs[k]]);
  }
}

// Element `column` of row `row` of a result whose rows have N, through its tail where it has one.
DEVICE void put_result(const cu_tail &t, char *out, int dtype, int64_t row, int64_t N, int64_t column, slot result) {
  if (t.program) run_tail(t, row, column, result);
  else store_slot(out, dtype, row * N + column, result);
}

#endif
