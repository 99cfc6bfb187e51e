/* dtype.c: the table of element types. */
#include "tensor/dtype.h"

#include <string.h>

const ml_dtype_info ml_dtype_infos[ML_DTYPE_COUNT] = {
#define X(id, name, block, bytes, class) {name, block, bytes, ML_CLASS_##class},
    ML_DTYPES(X)
#undef X
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
