/* test_gpu.c: what can be known of the CUDA device without one. */
#include "check.h"
#include "gpu/cuda.h"
#include "gpu/images.h"

#include <dlfcn.h>

/* Operations that GPUs lack still. */
static const char *const missing[] = {NULL};

static bool is_missing(const char *name) {
  for (int i = 0; missing[i]; i++) {
    if (strcmp(missing[i], name) == 0) return true;
  }
  return false;
}

static void check_kernels(void) {
  for (int op = 0; op < ML_OP_COUNT; op++) {
    const ml_kind kind = ml_op_infos[op].kind;
    const char *name = ml_op_infos[op].name;
    if (kind != ML_KIND_KERNEL && kind != ML_KIND_EFFECT && kind != ML_KIND_APPEND) continue;
    CHECK(ml_cuda_lacks(NULL, op) == is_missing(name), "%s has a kernel, or is known to lack one", name);
  }
  for (int step = ML_STEP_FUSED; step < ML_STEP_COUNT; step++)
    CHECK(!ml_cuda_lacks(NULL, step), "step %d has a kernel", step);
}

/* What the host and kernels both read. */
static void check_agreement(void) {
  CHECK((int)CU_OP_COUNT == (int)ML_OP_COUNT && (int)CU_OP_categorical == (int)ML_OP_categorical, "operations");
  CHECK((int)CU_DIMS == (int)ML_MAX_DIMS, "axes");
  CHECK((int)CU_FUSED_INPUTS == (int)ML_FUSED_MAX_INPUTS && (int)CU_MOST_INPUTS == (int)ML_PROGRAM_MAX_INPUTS,
        "inputs");
  CHECK((int)CU_MOST_CODE == (int)ML_FUSED_MAX_CODE && (int)CU_MOST_OUTPUTS == (int)ML_FUSED_MAX_OUTPUTS, "programs");
  CHECK((int)CU_MOST_UNITS == (int)ML_LINEARS_MAX_UNITS && (int)CU_UNIT_WEIGHTS == (int)ML_UNIT_MAX_WEIGHTS,
        "products");
  enum { MOST_BYTES = 32764 }; /* that a launch takes by value */
  CHECK(sizeof(cu_linears_args) < MOST_BYTES && sizeof(cu_rows_args) < MOST_BYTES, "arguments");
}

static void check_names(void) {
  const char *wrong[] = {"cpu", "cuda:", "cuda:x", "cudax", "cuda:-1", "cuda:1 ", ""};
  int index;
  CHECK(ml_gpu_named("cuda", &index) && index == 0, "cuda is the first GPU");
  CHECK(ml_gpu_named("cuda:13", &index) && index == 13, "cuda:13");
  CHECK(ml_gpu_named("cuda:99999999999", &index) && index > 1000, "a number that no int holds");
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    CHECK(!ml_gpu_named(wrong[i], &index), "\"%s\" is no GPU's name", wrong[i]);
}

static void check_packed(void) {
  for (int t = 0; t < ML_DTYPE_COUNT; t++) {
    const ml_dtype_info *info = &ml_dtype_infos[t];
    const size_t found = ml_cuda_packed_bytes(NULL, (ml_dtype)t, 33, info->block);
    const bool packs = ml_dtype_is_block((ml_dtype)t) || t <= ML_BF16;
    CHECK(found == (packs ? (size_t)(2 * CU_GROUP * info->bytes) : 0), "33 rows of %s", info->name);
  }
  CHECK(ml_cuda_packed_bytes(NULL, ML_Q4_0, 32, 33) == 0, "no whole blocks");
}

/* Where there are no kernels, or no driver, the error says so. */
static void check_absence(void) {
  int count = -1;
  void *driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (!ml_gpu_images[0].name) {
    ml_device *d;
    CHECK_FAILS(ml_gpu_count(&count), ML_UNSUPPORTED, "nvcc", "a build without nvcc");
    CHECK_FAILS(ml_gpu_device_open(NULL, 1, &d), ML_UNSUPPORTED, "cuda:1: this build of moonlet has no kernels",
                "its second GPU");
  } else if (!driver) CHECK_FAILS(ml_gpu_count(&count), ML_DEVICE, "no NVIDIA driver", "a machine without a GPU");
  else check_skip("a machine without a GPU", "this one has a driver");
}

int main(void) {
  check_kernels();
  check_agreement();
  check_names();
  check_packed();
  check_absence();
  return check_done();
}
