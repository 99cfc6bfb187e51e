// index.cu: arange, looking up and writing along axes, scans, orders, rings.
//
// Bytes: what is looked up once, and the result. A line is all entries along the axis at one place of the others.
// Where an order is prescribed (entries written or added in the order of the index, running sums) a thread takes a
// line; an order is found by counting for each entry those before it, which takes n^2 comparisons a line.
#include "gpu/row.cuh"

KERNEL(cuda_arange, cu_index_args) {
  for (int64_t i = thread_index(); i < t.count; i += thread_count()) {
    const int64_t v = (int64_t)((uint64_t)t.start + (uint64_t)i * (uint64_t)t.step);
    if (t.out_dtype == ML_F64) ((double *)t.out)[i] = (double)v;
    else if (is_float(t.out_dtype)) store_float(t.out, t.out_dtype, i, (float)v);
    else store_int(t.out, t.out_dtype, i, v);
  }
}

DEVICE void copy_item(char *to, int64_t to_at, const char *from, int64_t from_at, int item) {
  switch (item) {
  case 1: ((uint8_t *)to)[to_at] = ((const uint8_t *)from)[from_at]; return;
  case 2: ((uint16_t *)to)[to_at] = ((const uint16_t *)from)[from_at]; return;
  case 4: ((uint32_t *)to)[to_at] = ((const uint32_t *)from)[from_at]; return;
  default: ((uint64_t *)to)[to_at] = ((const uint64_t *)from)[from_at];
  }
}

DEVICE int64_t checked_index(const cu_index_args &t, int64_t i) {
  const int64_t at = load_int(t.index, t.index_dtype, i);
  if (at >= 0 && at < t.length) return at;
  raise_fault(t.fault, t.op, t.index_dtype, at, t.length);
  return -1;
}

// Indices are looked at where there is nothing to copy too.
KERNEL(cuda_take, cu_index_args) {
  const int item = item_of(t.dtype);
  if (t.outer * t.inner == 0) {
    for (int64_t i = thread_index(); i < t.count; i += thread_count()) checked_index(t, i);
    return;
  }
  for (int64_t i = thread_index(); i < t.outer * t.count * t.inner; i += thread_count()) {
    int64_t o = i;
    const int64_t k = pop(&o, t.inner), c = pop(&o, t.count), at = checked_index(t, c);
    if (at >= 0) copy_item(t.out, i, t.x, (o * t.length + at) * t.inner + k, item);
  }
}

KERNEL(cuda_take_along, cu_index_args) {
  const int item = item_of(t.dtype);
  for (int64_t i = thread_index(); i < t.outer * t.count * t.inner; i += thread_count()) {
    const int64_t at = checked_index(t, i);
    if (at >= 0) copy_item(t.out, i, t.x, (i / (t.inner * t.count) * t.length + at) * t.inner + i % t.inner, item);
  }
}

DEVICE void add_item(char *o, int dtype, int64_t to, const char *values, int64_t from) {
  if (dtype == ML_F64) ((double *)o)[to] += ((const double *)values)[from];
  else if (is_float(dtype)) store_float(o, dtype, to, load_float(o, dtype, to) + load_float(values, dtype, from));
  else if (dtype == ML_BOOL) ((uint8_t *)o)[to] |= ((const uint8_t *)values)[from];
  else store_int(o, dtype, to, (int64_t)((uint64_t)load_int(o, dtype, to) + (uint64_t)load_int(values, dtype, from)));
}

// Into what x has been copied to.
KERNEL(cuda_put_along, cu_index_args) {
  const int item = item_of(t.dtype);
  for (int64_t line = thread_index(); line < t.outer * t.inner; line += thread_count()) {
    const int64_t o = line / t.inner, k = line % t.inner;
    for (int64_t c = 0; c < t.count; c++) {
      const int64_t i = (o * t.count + c) * t.inner + k, at = checked_index(t, i);
      if (at < 0) continue;
      const int64_t to = (o * t.length + at) * t.inner + k;
      if (t.op == CU_OP_scatter_add) add_item(t.out, t.dtype, to, t.values, i);
      else copy_item(t.out, to, t.values, i, item);
    }
  }
}

// ---- orders ----

// Whether entry (x, i) comes before (y, j): NaN last, equal ones as they stand.
DEVICE bool comes_before(slot x, int64_t i, slot y, int64_t j, int dtype, bool down) {
  if (is_float(dtype)) {
    const double a = down ? -double_of(x, dtype) : double_of(x, dtype),
                 b = down ? -double_of(y, dtype) : double_of(y, dtype);
    if ((a != a) != (b != b)) return b != b;
    if (a == a && a != b) return a < b;
    return i < j;
  }
  const bool less = dtype == ML_U64 ? x.u < y.u : x.i < y.i, same = x.u == y.u;
  return same ? i < j : less != down;
}

KERNEL(cuda_order, cu_index_args) {
  const bool top = t.op == CU_OP_topk;
  const int64_t kept = top ? t.step : t.length, item = item_of(t.dtype);
  for (int64_t n = thread_index(); n < t.outer * t.inner * t.length; n += thread_count()) {
    // Lines one after another, so that the threads of a warp read the same entries.
    const int64_t line = n / t.length, i = n % t.length, o = line / t.inner, k = line % t.inner;
    const int64_t base = o * t.length * t.inner + k;
    const slot own = load_slot(t.x, t.dtype, base + i * t.inner);
    int64_t rank = 0;
    for (int64_t j = 0; j < t.length && rank < kept; j++)
      rank += comes_before(load_slot(t.x, t.dtype, base + j * t.inner), j, own, i, t.dtype, top);
    if (rank >= kept) continue;
    const int64_t to = o * kept * t.inner + rank * t.inner + k;
    if (t.out) copy_item(t.out, to, t.x, base + i * t.inner, (int)item);
    if (t.out_indices) store_int(t.out_indices, t.indices_dtype, to, i);
  }
}

// ---- scans ----

KERNEL(cuda_scan, cu_scan_args) {
  const cu_array &x = t.x, &o = t.out;
  int64_t shape[CU_DIMS];
  for (int d = 0; d < CU_DIMS; d++) shape[d] = d == t.axis ? 1 : x.shape[d];
  const bool floats = is_float(o.dtype), narrows = floats && o.dtype != ML_F64;
  const bool ordered = t.op == CU_OP_cummax || t.op == CU_OP_cummin;
  for (int64_t line = thread_index(); line < t.lines; line += thread_count()) {
    int64_t from = offset_of(x.ndim, shape, x.strides, line), to = offset_of(o.ndim, shape, o.strides, line);
    double d = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < x.shape[t.axis]; i++, from += x.strides[t.axis], to += o.strides[t.axis]) {
      const slot s = load_slot(x.data, x.dtype, from);
      const double v = double_of(s, x.dtype);
      const int64_t k = ordered && x.dtype == ML_U64 ? s.i ^ INT64_MIN : s.i;
      if (i == 0) d = v, n = k;
      else if (t.op == CU_OP_cumsum) d += v, n = (int64_t)((uint64_t)n + (uint64_t)k);
      else if (t.op == CU_OP_cumprod) d *= v, n = (int64_t)((uint64_t)n * (uint64_t)k);
      else if (t.op == CU_OP_cummax) d = v > d || v != v ? v : d, n = k > n ? k : n;
      else d = v < d || v != v ? v : d, n = k < n ? k : n;
      if (narrows) d = (double)(float)d;
      if (o.dtype == ML_F64) ((double *)o.data)[to] = d;
      else if (floats) store_float(o.data, o.dtype, to, (float)d);
      else store_int(o.data, o.dtype, to, ordered && x.dtype == ML_U64 ? n ^ INT64_MIN : n);
    }
  }
}

KERNEL(cuda_ring_push, cu_ring_args) {
  const int64_t n = t.ring.shape[1];
  for (int64_t b = thread_index(); b < t.ring.shape[0]; b += thread_count()) {
    const int64_t id = vector_at(t.ids, b), position = vector_at(t.position, b);
    if (n > 0 && position >= 0)
      ((int32_t *)t.ring.data)[b * t.ring.strides[0] + position % n * t.ring.strides[1]] = (int32_t)id;
  }
}
