/* program.c: plans as a GPU runs them: a list of launches whose arguments are ready but for the addresses that each run
 * brings. run.c gives them to the device. */
#include "gpu/program.h"

#include "base/bump.h"
#include "tensor/engine.h"

#include <stdio.h>
#include <string.h>

/* ---- building ---- */

int ml_cuda_multiprocessors(const ml_program *g) { return ml_cuda_of(g->device)->multiprocessors; }
const ml_value *ml_cuda_value(const ml_program *g, int value) { return value < 0 ? NULL : &g->plan->values[value]; }

bool ml_cuda_same_place(const ml_program *g, int a, int b) {
  if (a < 0 || b < 0) return a < 0 && b < 0;
  const ml_value *x = ml_cuda_value(g, a), *y = ml_cuda_value(g, b);
  bool same = x->storage == y->storage && x->offset == y->offset && x->dtype == y->dtype && x->ndim == y->ndim;
  for (int d = 0; d < x->ndim && same; d++)
    same = x->shape[d] == y->shape[d] && (x->shape[d] == 1 || x->strides[d] == y->strides[d]);
  return same;
}

enum { MOST_WRITTEN = 256 }; /* that are looked through for every operand */

bool ml_cuda_is_constant(const ml_program *g, int value) {
  const ml_storage *s = &g->plan->storages[g->plan->values[value].storage];
  if (s->place != ML_PLACE_TENSOR || g->n_written > MOST_WRITTEN) return false;
  for (size_t i = 0; i < g->n_written; i++) {
    if (g->written[i] == s->buffer) return false;
  }
  return true;
}

static ml_status add_written(ml_program *g, int value) {
  const ml_buffer *buffer = value < 0 ? NULL : g->plan->storages[g->plan->values[value].storage].buffer;
  if (!buffer || g->n_written > MOST_WRITTEN) return ML_OK;
  ML_TRY(ML_BUMP_GROW(&g->memory, g->written, g->written_capacity, g->n_written + 1));
  g->written[g->n_written++] = buffer;
  return ML_OK;
}

static ml_status find_written(ml_program *g) {
  for (size_t i = 0; i < g->plan->n_steps; i++) {
    const ml_step *s = &g->plan->steps[i];
    if (s->op < ML_OP_COUNT && ml_op_is_effect((ml_op)s->op)) ML_TRY(add_written(g, s->inputs[0]));
    for (int k = 0; k < s->n_outputs; k++) ML_TRY(add_written(g, s->outputs[k]));
  }
  return ML_OK;
}

int64_t ml_cuda_size(const ml_value *v) { return ml_shape_size(v->ndim, v->shape); }

void *ml_cuda_launch_add(ml_program *g, const char *file, const char *kernel, size_t args_bytes, int64_t grid_x,
                         int64_t grid_y, int threads) {
  void *args = ml_bump_alloc(&g->memory, 1, args_bytes);
  g->made = false;
  if (!args || grid_x <= 0 || grid_y <= 0) return args;
  if (grid_x > INT32_MAX || grid_y > 65535) {
    ml_fail(ML_LIMIT, "%s: %s over %lld x %lld blocks", g->device->name, kernel, (long long)grid_x, (long long)grid_y);
    return NULL;
  }
  if (ML_BUMP_GROW(&g->memory, g->launches, g->launches_capacity, g->n_launches + 1) != ML_OK) return NULL;
  ml_cuda_launch *l = &g->launches[g->n_launches];
  *l = (ml_cuda_launch){0};
  if (ml_cuda_function(g->device, file, kernel, &l->function) != ML_OK) return NULL;
  l->grid_x = (unsigned)grid_x, l->grid_y = (unsigned)grid_y, l->threads = (unsigned)threads, l->args = args;
  l->step = g->step, l->steps = 1;
  g->n_launches++;
  g->made = true;
  return args;
}

ml_status ml_cuda_blocks_at_once(ml_program *g, const char *file, const char *kernel, int threads, size_t shared_bytes,
                                 int64_t *out) {
  enum { FREE_OF_ASKING = 48 << 10 }; /* bytes that every launch may have */
  CUfunction f;
  int blocks;
  ML_TRY(ml_cuda_function(g->device, file, kernel, &f));
  if (shared_bytes > FREE_OF_ASKING)
    CU_TRY(g->device, kernel, FuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, CU_MOST_SHARED));
  CU_TRY(g->device, kernel, BlocksAtOnce(&blocks, f, threads, shared_bytes));
  *out = (int64_t)(blocks > 0 ? blocks : 1) * ml_cuda_multiprocessors(g);
  return ML_OK;
}

void ml_cuda_launch_shared(ml_program *g, size_t bytes) {
  if (g->made) g->launches[g->n_launches - 1].shared_bytes = (unsigned)bytes;
}

void ml_cuda_launch_parts(ml_program *g, int parts) {
  if (g->made) g->launches[g->n_launches - 1].grid_y = (unsigned)parts;
}

void ml_cuda_launch_joined(ml_program *g, int steps) {
  g->joined = (size_t)steps - 1;
  if (g->made) g->launches[g->n_launches - 1].steps = (size_t)steps;
}

void *ml_cuda_launch_elements(ml_program *g, const char *file, const char *kernel, size_t args_bytes, int64_t units) {
  const int64_t most = (int64_t)ml_cuda_multiprocessors(g) * 32;
  int threads = CU_THREADS;
  while (threads > 32 && threads / 2 >= units) threads /= 2;
  int64_t blocks = (units + threads - 1) / threads;
  return ml_cuda_launch_add(g, file, kernel, args_bytes, blocks < most ? blocks : most, 1, threads);
}

static ml_status add_spot(ml_program *g, ml_cuda_spot s) {
  if (!g->made) return ML_OK;
  s.launch = g->n_launches - 1;
  ML_TRY(ML_BUMP_GROW(&g->memory, g->spots, g->spots_capacity, g->n_spots + 1));
  g->spots[g->n_spots++] = s;
  return ML_OK;
}

ml_status ml_cuda_put_address(ml_program *g, int value, const void *where) {
  return ml_cuda_put_offset(g, value, 0, where);
}

ml_status ml_cuda_put_offset(ml_program *g, int value, int64_t offset, const void *where) {
  char **at = (char **)(uintptr_t)where;
  *at = NULL;
  if (value < 0) return ML_OK;
  const ml_value *v = &g->plan->values[value];
  const ml_storage *s = &g->plan->storages[v->storage];
  switch (s->place) {
  case ML_PLACE_ARENA: *at = (char *)g->plan->arena->address + s->offset + v->offset + offset; return ML_OK;
  case ML_PLACE_TENSOR: *at = (char *)s->buffer->address + s->offset + v->offset + offset; return ML_OK;
  default:
    return add_spot(g, (ml_cuda_spot){.where = at,
                                      .kind = s->place == ML_PLACE_OUTPUT ? ML_SPOT_OUTPUT : ML_SPOT_INPUT,
                                      .index = s->index,
                                      .offset = v->offset + offset});
  }
}

ml_status ml_cuda_put_constant(ml_program *g, const void *bytes, size_t count, const void *where) {
  const size_t at = (g->n_bytes + 15) & ~(size_t)15;
  ML_TRY(ML_BUMP_GROW(&g->memory, g->constants, g->constants_capacity, g->n_constants + 1));
  ML_TRY(ML_GROW(g->bytes, g->bytes_capacity, at + count));
  memset(g->bytes + g->n_bytes, 0, at - g->n_bytes);
  memcpy(g->bytes + at, bytes, count);
  g->n_bytes = at + count;
  g->constants[g->n_constants++] = (ml_cuda_constant){(char **)(uintptr_t)where, at};
  return ML_OK;
}

ml_status ml_cuda_put_scratch(ml_program *g, size_t bytes, const void *where) {
  if (bytes >= g->workspace) g->workspace = bytes + !bytes; /* what has no bytes has an address too */
  return add_spot(g, (ml_cuda_spot){.where = (char **)(uintptr_t)where, .kind = ML_SPOT_SCRATCH});
}

ml_status ml_cuda_put_counts(ml_program *g, int64_t count, const void *where) {
  ml_cuda *c = ml_cuda_of(g->device);
  const size_t bytes = (size_t)(count ? count : 1) * sizeof(int32_t);
  if (bytes > c->counts_bytes) {
    CUdeviceptr address;
    ml_cuda_counts *own = ml_calloc(1, sizeof *own);
    if (!own) return ML_MEMORY;
    const size_t whole = bytes < 4096 ? 4096 : 2 * bytes;
    ml_status status = ml_cuda_result(g->device, "memory for counts", c->driver.MemAlloc(&address, whole));
    if (status == ML_OK)
      status = ml_cuda_result(g->device, "clearing memory", c->driver.MemsetD8Async(address, 0, whole, c->stream));
    if (status != ML_OK) {
      ml_free(own);
      return status;
    }
    *own = (ml_cuda_counts){c->counts, address}; /* programs keep the addresses of smaller ones */
    c->counts = own, c->counts_bytes = whole;
  }
  *(CUdeviceptr *)(uintptr_t)where = c->counts->address;
  return ML_OK;
}

ml_status ml_cuda_put_faults(ml_program *g, const void *where) {
  g->faults = true;
  *(CUdeviceptr *)(uintptr_t)where = ml_cuda_of(g->device)->fault;
  return ML_OK;
}

/* ---- operands ---- */

ml_status ml_cuda_array(ml_program *g, int value, cu_array *out) {
  const ml_value *v = ml_cuda_value(g, value);
  memset(out, 0, sizeof *out);
  if (!v) return ML_OK;
  out->dtype = (int32_t)v->dtype, out->ndim = v->ndim;
  memcpy(out->shape, v->shape, (size_t)v->ndim * sizeof *v->shape);
  memcpy(out->strides, v->strides, (size_t)v->ndim * sizeof *v->strides);
  return ml_cuda_put_address(g, value, &out->data);
}

ml_status ml_cuda_vector(ml_program *g, int value, cu_vector *out) {
  const ml_value *v = ml_cuda_value(g, value);
  *out = (cu_vector){0};
  if (!v) return ML_OK;
  out->dtype = (int32_t)v->dtype;
  out->stride = v->ndim && v->shape[v->ndim - 1] != 1 ? v->strides[v->ndim - 1] : 0;
  return ml_cuda_put_address(g, value, &out->data);
}

ml_status ml_cuda_operand(ml_program *g, int value, cu_operand *out) {
  const ml_value *v = ml_cuda_value(g, value);
  memset(out, 0, sizeof *out);
  out->dtype = (int32_t)v->dtype;
  memcpy(out->strides, v->strides, (size_t)v->ndim * sizeof *v->strides);
  return ml_cuda_put_address(g, value, &out->data);
}

static ml_dtype dtype_of(const ml_fused *f, int reg) {
  return reg < f->n_inputs ? f->input_dtypes[reg] : f->code[reg - f->n_inputs].dtype;
}

void ml_cuda_program_of(const ml_fused *f, cu_program *p) {
  memset(p, 0, sizeof *p);
  p->n_inputs = f->n_inputs, p->n_code = f->n_code, p->n_outputs = f->n_outputs;
  for (int i = 0; i < f->n_outputs; i++) p->outputs[i] = (uint8_t)f->outputs[i];
  for (int i = 0; i < f->n_inputs; i++) p->input_dtypes[i] = (uint8_t)f->input_dtypes[i];
  for (int i = 0; i < f->n_code; i++) {
    const ml_fused_op *c = &f->code[i];
    cu_code *o = &p->code[i];
    *o = (cu_code){.op = (int16_t)c->op, .dtype = (uint8_t)c->dtype};
    if (c->op == ML_OP_constant) {
      if (ml_dtype_is_float(c->dtype)) o->f = c->f;
      else o->i = c->i;
      continue;
    }
    o->a = (uint8_t)c->a, o->b = (uint8_t)c->b, o->c = (uint8_t)c->c;
    o->from = (uint8_t)dtype_of(f, c->a), o->other = (uint8_t)dtype_of(f, c->b);
  }
}

ml_status ml_cuda_tail(ml_program *g, const ml_step *s, cu_tail *out) {
  const ml_fused *f = s->fused;
  cu_program program;
  if (!f) return ML_OK;
  const ml_value *o = ml_cuda_value(g, s->outputs[0]);
  out->ndim = o->ndim, out->n_out = s->n_outputs;
  memcpy(out->shape, o->shape, (size_t)o->ndim * sizeof *o->shape);
  for (int k = 1; k < f->n_inputs; k++)
    ML_TRY(ml_cuda_operand(g, s->inputs[s->n_inputs - f->n_inputs + k], &out->in[k]));
  for (int k = 0; k < s->n_outputs; k++) ML_TRY(ml_cuda_operand(g, s->outputs[k], &out->out[k]));
  ml_cuda_program_of(f, &program);
  return ml_cuda_put_constant(g, &program, sizeof program, &out->program);
}

int ml_cuda_merge(int ndim, int64_t *shape, cu_operand *operands, int n) {
  int64_t from_shape[CU_DIMS], from[16][CU_DIMS];
  int order[CU_DIMS], kept = 0;
  for (int d = 0; d < ndim; d++) {
    int j = d;
    for (; j > 0 && operands[0].strides[order[j - 1]] < operands[0].strides[d]; j--) order[j] = order[j - 1];
    order[j] = d;
  }
  memcpy(from_shape, shape, sizeof from_shape);
  for (int k = 0; k < n; k++) memcpy(from[k], operands[k].strides, sizeof from[k]);
  for (int i = 0; i < ndim; i++) {
    const int d = order[i];
    if (from_shape[d] == 1) continue;
    bool joins = kept > 0;
    for (int k = 0; k < n && joins; k++) joins = operands[k].strides[kept - 1] == from[k][d] * from_shape[d];
    const int to = joins ? kept - 1 : kept++;
    shape[to] = joins ? shape[to] * from_shape[d] : from_shape[d];
    for (int k = 0; k < n; k++) operands[k].strides[to] = from[k][d];
  }
  if (kept) return kept;
  shape[0] = 1;
  for (int k = 0; k < n; k++) operands[k].strides[0] = 0;
  return 1;
}

/* ---- lowering ---- */

static const ml_cuda_lowerer lowerers[ML_STEP_COUNT] = {
#define X(step, name) [step] = ml_cuda_lower_##name,
    ML_CUDA_LOWER(X)
#undef X
};

bool ml_cuda_lacks(const ml_device *d, int step) {
  (void)d;
  return !lowerers[step];
}

enum { CHUNK_BYTES = 1 << 20, CONSTANT_LINE = 256 };

/* Room for constants: in the chunk in use, in one that nobody uses any more, or in a new one. */
static ml_status take_chunk(ml_device *d, size_t bytes, ml_cuda_chunk **out, size_t *at) {
  ml_cuda *c = ml_cuda_of(d);
  const size_t whole = (bytes + CONSTANT_LINE - 1) & ~(size_t)(CONSTANT_LINE - 1);
  ml_cuda_chunk *k = c->chunks;
  for (; k; k = k->next) {
    if (k->holders == 0) k->used = 0;
    if (k->used + whole <= k->bytes) break;
  }
  if (!k) {
    k = ml_calloc(1, sizeof *k);
    if (!k) return ML_MEMORY;
    k->bytes = whole > CHUNK_BYTES ? whole : CHUNK_BYTES;
    const ml_status status = ml_cuda_result(d, "memory for constants", c->driver.MemAlloc(&k->address, k->bytes));
    if (status != ML_OK) {
      ml_free(k);
      return status;
    }
    k->next = c->chunks, c->chunks = k;
  }
  *at = k->used;
  k->used += whole, k->holders++;
  *out = k;
  return ML_OK;
}

static ml_status place_constants(ml_program *g) {
  ml_ticket ticket;
  size_t at;
  if (!g->n_bytes) return ML_OK;
  ML_TRY(take_chunk(g->device, g->n_bytes, &g->chunk, &at));
  char *base = (char *)(uintptr_t)(g->chunk->address + at);
  for (size_t i = 0; i < g->n_constants; i++) *g->constants[i].where = base + g->constants[i].offset;
  return g->device->table->upload(g->device, base, g->bytes, g->n_bytes, &ticket);
}

static ml_status lower_all(ml_program *g) {
  ML_TRY(find_written(g));
  for (size_t i = 0; i < g->plan->n_steps; i += 1 + g->joined) {
    const ml_step *s = &g->plan->steps[i];
    g->step = i, g->joined = 0;
    ml_status status = lowerers[s->op]
                           ? lowerers[s->op](g, s)
                           : ml_fail(ML_UNSUPPORTED, "%s: %s has no kernel for it", ml_step_name(s), g->device->name);
    if (status != ML_OK) return s->path ? ml_fail_prefix(status, "%s", s->path) : status;
  }
  ML_TRY(place_constants(g));
  return ml_cuda_find_levels(g);
}

ml_status ml_cuda_lower(ml_device *d, const ml_plan *plan, ml_program **out) {
  ML_TRY(ml_cuda_enter(d));
  ml_bump memory = {.spare = plan->memory.spare};
  ml_program *g = ml_bump_alloc(&memory, 1, sizeof *g);
  if (!g) return ML_MEMORY;
  g->memory = memory, g->device = d, g->plan = plan;
  for (size_t i = 0; i < plan->n_values; i++)
    g->fast |= plan->values[i].layout == ML_LAYOUT_PANELS && !plan->values[i].exact;
  const ml_status status = lower_all(g);
  ml_free(g->bytes);
  g->bytes = NULL;
  if (status == ML_OK) *out = g;
  else ml_cuda_drop(d, g);
  return status;
}
