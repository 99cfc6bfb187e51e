/* cpu.c: the processor as a device: memory, the choice of instruction set, and runs, which are done when they have been
 * submitted. */
#include "tensor/cpu/cpu.h"

#include "tensor/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif

/* ---- memory ---- */

/* Blocks from here on are aligned to huge pages and ask for them. */
static const size_t HUGE_BYTES = (size_t)2 << 20;

static ml_status cpu_allocate(ml_device *d, size_t bytes, void **out) {
  bool huge = bytes >= 2 * HUGE_BYTES;
  size_t align = huge ? HUGE_BYTES : 64, rounded = (bytes + align - 1) & ~(align - 1);
  *out = rounded >= bytes ? aligned_alloc(align, rounded) : NULL;
  if (!*out) return ml_fail(ML_MEMORY, "%s: %zu bytes refused", d->name, bytes);
  if (huge) madvise(*out, rounded, MADV_HUGEPAGE);
  return ML_OK;
}

typedef struct reservation {
  struct reservation *next;
  void *address;
  size_t bytes;
} reservation;

typedef struct cpu_state {
  ml_cpu cpu;
  reservation *reservations;
  ml_outcome last; /* of the run submitted last */
} cpu_state;

static size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static ml_status cpu_reserve(ml_device *d, size_t bytes, void **out) {
  cpu_state *s = d->state;
  reservation *r = ml_calloc(1, sizeof *r);
  if (!r) return ML_MEMORY;
  size_t page = page_size(), rounded = (bytes + page - 1) & ~(page - 1);
  void *address =
      mmap(NULL, rounded ? rounded : page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) {
    ml_free(r);
    return ml_fail(ML_MEMORY, "%s: %zu bytes of address space refused", d->name, bytes);
  }
  *r = (reservation){s->reservations, address, rounded ? rounded : page};
  s->reservations = r;
  *out = address;
  return ML_OK;
}

static void cpu_release(ml_device *d, void *address, size_t bytes) {
  (void)bytes;
  cpu_state *s = d->state;
  for (reservation **link = &s->reservations; *link; link = &(*link)->next) {
    reservation *r = *link;
    if (r->address != address) continue;
    munmap(r->address, r->bytes);
    *link = r->next;
    ml_free(r);
    return;
  }
  free(address);
}

/* Pages get memory when they are first written. */
static ml_status cpu_commit(ml_device *d, void *address, size_t bytes) {
  (void)d, (void)address, (void)bytes;
  return ML_OK;
}

static void cpu_decommit(ml_device *d, void *address, size_t bytes) {
  (void)d;
  size_t page = page_size();
  uintptr_t from = ((uintptr_t)address + page - 1) & ~(page - 1), to = ((uintptr_t)address + bytes) & ~(page - 1);
  if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
}

static void cpu_report(ml_device *d, size_t *total, size_t *available) {
  (void)d;
  const long pages = sysconf(_SC_PHYS_PAGES), left = sysconf(_SC_AVPHYS_PAGES);
  *total = pages > 0 ? (size_t)pages * page_size() : 0;
  *available = left > 0 ? (size_t)left * page_size() : 0;
}

/* ---- copies, and weights ---- */

static ml_status cpu_upload(ml_device *d, void *to, const void *from, size_t bytes, ml_ticket *out) {
  (void)d;
  *out = 0;
  if (bytes) memmove(to, from, bytes);
  return ML_OK;
}

static ml_status cpu_download(ml_device *d, void *to, const void *from, size_t bytes, ml_ticket *out) {
  return cpu_upload(d, to, from, bytes, out);
}

static ml_status cpu_copy(ml_device *d, void *to, ml_device *other, const void *from, size_t bytes) {
  if (other != d) return ml_fail(ML_UNSUPPORTED, "%s does not reach the memory of %s", d->name, other->name);
  if (bytes) memmove(to, from, bytes);
  return ML_OK;
}

static size_t cpu_packed_bytes(ml_device *d, ml_dtype dtype, int64_t rows, int64_t inputs) {
  return ml_cpu_packed_bytes(d->group, dtype, rows, inputs);
}

static ml_status cpu_pack(ml_device *d, void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row, int64_t rows,
                          const void *from) {
  return ml_cpu_pack(d->group, packed, dtype, inputs, first_row, rows, from);
}

static ml_status cpu_unpack(ml_device *d, const void *packed, ml_dtype dtype, int64_t inputs, int64_t first_row,
                            int64_t rows, void *to) {
  return ml_cpu_unpack(d->group, packed, dtype, inputs, first_row, rows, to);
}

/* ---- programs ---- */

static bool cpu_lacks(const ml_device *d, int step) {
  const cpu_state *s = d->state;
  return !s->cpu.isa->rows[step].run;
}

static ml_status cpu_lower(ml_device *d, const ml_plan *plan, ml_program **out) {
  return ml_cpu_lower(&((cpu_state *)d->state)->cpu, plan, out);
}

static ml_status cpu_submit(ml_device *d, ml_program *g, void *const *inputs, void *const *outputs, ml_ticket *out) {
  cpu_state *s = d->state;
  ML_TRY(ml_engine_check_process(d->engine));
  ml_cpu_run(&s->cpu, g, inputs, outputs, &s->last);
  *out = 0;
  return ML_OK;
}

static void cpu_drop(ml_device *d, ml_program *g) {
  (void)d;
  ml_cpu_drop(g);
}

static bool cpu_done(ml_device *d, ml_ticket ticket) {
  (void)d, (void)ticket;
  return true;
}

static ml_status cpu_wait(ml_device *d, ml_ticket ticket, ml_outcome *out) {
  (void)ticket;
  if (out) *out = ((cpu_state *)d->state)->last;
  return ML_OK;
}

/* ---- the device ---- */

static void cpu_close(ml_device *d) {
  ml_free(d->state);
  ml_free(d);
}

static const ml_device_table table = {
    .allocate = cpu_allocate,
    .release = cpu_release,
    .reserve = cpu_reserve,
    .commit = cpu_commit,
    .decommit = cpu_decommit,
    .report = cpu_report,
    .upload = cpu_upload,
    .download = cpu_download,
    .copy = cpu_copy,
    .packed_bytes = cpu_packed_bytes,
    .pack = cpu_pack,
    .unpack = cpu_unpack,
    .lacks = cpu_lacks,
    .lower = cpu_lower,
    .barriers = ml_cpu_barriers,
    .workspace = ml_cpu_workspace,
    .submit = cpu_submit,
    .drop = cpu_drop,
    .done = cpu_done,
    .wait = cpu_wait,
    .close = cpu_close,
};

#if defined(__x86_64__)
static bool has_avx2(void) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}

static bool has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}

/* Whether a dot product of bfloat16 is worth two multiply-adds: AMD's cores do them at twice the rate, Intel's at half
 * of it. */
static bool has_fast_dots(void) { return has_avx512() && !__builtin_cpu_is("intel"); }

/* Tiles are state that a process asks the system for: what threads save grows by 8 KiB from then on. */
static bool has_tiles(void) {
  enum { ASK_FOR_STATE = 0x1023, TILE_DATA = 18 };
  const unsigned bits = 1u << 22 | 1u << 24; /* amx-bf16, amx-tile */
  unsigned a, b, c, d;
  if (!has_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & bits) != bits) return false;
  return syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
}
#endif

static bool is_here(void) { return true; }

ml_status ml_cpu_choose_isa(const char *wanted, const ml_isa **out) {
  const struct {
    const char *name;
    const ml_isa *isa;
    bool (*here)(void);
  } all[] = {
#if defined(__x86_64__)
    {"avx512", &ml_isa_avx512_tiles, has_tiles},
    {"avx512", &ml_isa_avx512_dots, has_fast_dots},
    {"avx512", &ml_isa_avx512, has_avx512},
    {"avx2", &ml_isa_avx2, has_avx2},
#endif
    {"ref", &ml_isa_ref, is_here},
#if defined(__x86_64__)
    {"avx512-tiles", &ml_isa_avx512_tiles, has_tiles}, /* by name alone, to compare and test them */
    {"avx512-dots", &ml_isa_avx512_dots, has_avx512},
    {"avx512-floats", &ml_isa_avx512, has_avx512},
#endif
  };
  bool known = false;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    if (wanted && strcmp(wanted, all[i].name) != 0) continue;
    if (all[i].here()) {
      *out = all[i].isa;
      return ML_OK;
    }
    known = wanted != NULL;
  }
  if (known) return ml_fail(ML_DEVICE, "instruction set \"%s\": this processor lacks it", wanted);
  return ml_fail(ML_USAGE, "instruction set \"%s\": expected ref, avx2 or avx512", wanted);
}

void ml_cpu_describe(const ml_isa *isa, char *text, size_t bytes) {
  char line[256], name[80] = "processor";
  FILE *f = fopen("/proc/cpuinfo", "r");
  while (f && fgets(line, sizeof line, f)) {
    if (sscanf(line, "model name : %79[^\n]", name) == 1) break;
  }
  if (f) fclose(f);
  snprintf(text, bytes, "%s, %s", name, isa->name);
}

ml_status ml_cpu_device_open(ml_engine *engine, const char *isa, ml_device **out) {
  const ml_isa *chosen = NULL;
  ML_TRY(ml_cpu_choose_isa(isa, &chosen));
  ml_device *d = ml_calloc(1, sizeof *d);
  cpu_state *s = d ? ml_calloc(1, sizeof *s) : NULL;
  if (!s) {
    ml_free(d);
    return ML_MEMORY;
  }
  s->cpu = (ml_cpu){.isa = chosen, .pool = &engine->pool};
  *d = (ml_device){.table = &table, .engine = engine, .name = "cpu", .common = true, .group = 16, .state = s};
  d->memory.cache_limit = (size_t)256 << 20; /* pages fresh from the system cost more than copying to them */
  ml_cpu_describe(chosen, d->description, sizeof d->description);
  *out = d;
  return ML_OK;
}
