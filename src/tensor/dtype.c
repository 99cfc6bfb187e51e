/* dtype.c: the table of element types. */
#include "tensor/dtype.h"

#include <string.h>

const ml_dtype_info ml_dtype_infos[ML_DTYPE_COUNT] = {
#define X(id, name, block, bytes, class) {name, block, bytes, ML_CLASS_##class},
    ML_DTYPES(X)
#undef X
#define F(n, length, type, name, size)                                                                                 \
  {"affine" #n "_" #length "_" name, length, length * n / 8 + 2 * size, ML_CLASS_BLOCK},
        ML_AFFINE_FORMATS(F)
#undef F
};

bool ml_dtype_find(const char *name, ml_dtype *out) {
  for (int i = 0; i < ML_DTYPE_COUNT; i++) {
    if (strcmp(ml_dtype_infos[i].name, name) == 0) {
      *out = (ml_dtype)i;
      return true;
    }
  }
  return false;
}

bool ml_dtype_row_bytes(ml_dtype t, int64_t last, size_t *out) {
  const ml_dtype_info *info = &ml_dtype_infos[t];
  if (last < 0 || last % info->block != 0) return false;
  return !__builtin_mul_overflow((size_t)(last / info->block), (size_t)info->bytes, out);
}

void ml_dtype_limits(ml_dtype t, int64_t *low, int64_t *high) {
  bool is_unsigned = t == ML_U8 || t == ML_U16 || t == ML_U32 || t == ML_U64;
  int bits = ml_dtype_class_of(t) == ML_CLASS_INT ? 8 * ml_dtype_infos[t].bytes : 64;
  *high = bits == 64 ? INT64_MAX : ((int64_t)1 << (bits - !is_unsigned)) - 1;
  *low = is_unsigned ? 0 : -*high - 1;
}

ml_status ml_dtype_want(ml_dtype t, int64_t number) {
  int64_t low, high;
  ml_dtype_limits(t, &low, &high);
  if (number >= low && number <= high) return ML_OK;
  return ml_fail(ML_USAGE, "%lld does not fit dtype %s", (long long)number, ml_dtype_name(t));
}
