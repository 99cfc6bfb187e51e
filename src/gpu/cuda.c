/* cuda.c: a GPU as a device: memory, copies, tickets, outcomes.
 *
 * All that a device is given goes to one stream, in that order. A ticket is an event behind it. Bytes go through pinned
 * staging memory, a ring whose parts are free again when their flight has landed. */
#include "gpu/cuda.h"

#include "gpu/images.h"
#include "tensor/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STAGING_BYTES = 32 << 20, STAGING_LINE = 256 };

/* ---- failures ---- */

ml_status ml_cuda_result(ml_device *d, const char *what, CUresult result) {
  ml_cuda *c = ml_cuda_of(d);
  if (result == CUDA_SUCCESS) return ML_OK;
  const ml_status status = ml_cuda_check(&c->driver, d->name, what, result);
  if (status == ML_DEVICE && result >= 700 && result < 800 && c->lost == ML_OK) { /* the context is of no more use */
    c->lost = status;
    snprintf(c->why, sizeof c->why, "%s", ml_error_message());
  }
  return status;
}

ml_status ml_cuda_enter(ml_device *d) {
  ml_cuda *c = ml_cuda_of(d);
  if (c->lost != ML_OK) return ml_fail(c->lost, "%s", c->why);
  CU_TRY(d, "taking up the context", CtxSetCurrent(c->context));
  return ML_OK;
}

/* ---- flights ---- */

/* Takes the first flight off: it is done. */
static void land(ml_cuda *c) {
  ml_cuda_flight *f = &c->flights[c->first % CU_FLIGHTS];
  if (f->to) memcpy(f->to, f->from, f->bytes);
  c->staging_used -= f->staged;
  c->done = f->ticket;
  c->first++;
}

static ml_status land_first(ml_device *d) {
  ml_cuda *c = ml_cuda_of(d);
  CU_TRY(d, "waiting", EventSynchronize(c->flights[c->first % CU_FLIGHTS].event));
  land(c);
  return ML_OK;
}

ml_status ml_cuda_give(ml_device *d, ml_cuda_flight f, ml_ticket *out) {
  ml_cuda *c = ml_cuda_of(d);
  if (c->last - c->first == CU_FLIGHTS) ML_TRY(land_first(d));
  ml_cuda_flight *own = &c->flights[c->last % CU_FLIGHTS];
  f.event = own->event;
  if (!f.event) CU_TRY(d, "an event", EventCreate(&f.event, CU_EVENT_DISABLE_TIMING));
  own->event = f.event;
  CU_TRY(d, "a ticket", EventRecord(f.event, c->stream));
  f.ticket = ++c->given;
  *own = f;
  c->last++;
  *out = f.ticket;
  return ML_OK;
}

ml_status ml_cuda_drain(ml_device *d) {
  ml_cuda *c = ml_cuda_of(d);
  ML_TRY(ml_cuda_enter(d));
  while (c->first < c->last) ML_TRY(land_first(d));
  CU_TRY(d, "waiting", StreamSynchronize(c->stream));
  return ML_OK;
}

ml_status ml_cuda_stage(ml_device *d, size_t bytes, char **out, size_t *staged) {
  ml_cuda *c = ml_cuda_of(d);
  if (!c->staging) {
    void *room;
    CU_TRY(d, "staging memory", MemHostAlloc(&room, STAGING_BYTES, CU_MEMHOSTALLOC_PORTABLE));
    c->staging = room, c->staging_bytes = STAGING_BYTES;
  }
  const size_t whole = (bytes + STAGING_LINE - 1) & ~(size_t)(STAGING_LINE - 1);
  const bool wraps = c->staging_at + whole > c->staging_bytes;
  const size_t skip = wraps ? c->staging_bytes - c->staging_at : 0;
  while (c->staging_used + skip + whole > c->staging_bytes) {
    if (c->first == c->last)
      return ml_fail(ML_DEVICE, "%s: %zu bytes are more than are staged at once", d->name, bytes);
    ML_TRY(land_first(d));
  }
  if (wraps) c->staging_at = 0;
  *out = c->staging + c->staging_at;
  c->staging_at += whole;
  c->staging_used += skip + whole;
  *staged = skip + whole;
  return ML_OK;
}

static bool cuda_done(ml_device *d, ml_ticket ticket) {
  ml_cuda *c = ml_cuda_of(d);
  if (c->lost != ML_OK || ml_cuda_enter(d) != ML_OK) return true; /* whoever waits hears of it */
  while (c->first < c->last && c->done < ticket) {
    const CUresult r = c->driver.EventQuery(c->flights[c->first % CU_FLIGHTS].event);
    if (r == CUDA_ERROR_NOT_READY) return false;
    if (ml_cuda_result(d, "waiting", r) != ML_OK) return true;
    land(c);
  }
  return c->done >= ticket;
}

/* How a run ended that is done. */
static void tell(const ml_cuda *c, const ml_cuda_run *run, ml_outcome *o) {
  *o = run->outcome;
  const cu_fault *f = run->fault < 0 ? NULL : &c->faults[run->fault];
  if (o->status != ML_OK || !f || !f->raised) return;
  ml_outcome_index(o, f->raised, f->value, f->is_unsigned != 0, f->limit);
}

static ml_status cuda_wait(ml_device *d, ml_ticket ticket, ml_outcome *out) {
  ml_cuda *c = ml_cuda_of(d);
  ML_TRY(ml_cuda_enter(d));
  while (c->first < c->last && c->done < ticket) ML_TRY(land_first(d));
  if (!out) return ML_OK;
  const ml_cuda_run *run = &c->runs[ticket % CU_RUNS];
  if (run->ticket != ticket)
    return ml_fail(ML_DEVICE, "%s: nobody knows how the run %llu ended", d->name, (unsigned long long)ticket);
  tell(c, run, out);
  return ML_OK;
}

/* ---- memory ---- */

static ml_status cuda_allocate(ml_device *d, size_t bytes, void **out) {
  CUdeviceptr address;
  ML_TRY(ml_cuda_enter(d));
  const CUresult r = ml_cuda_of(d)->driver.MemAlloc(&address, bytes ? bytes : 1);
  if (r == CUDA_ERROR_OUT_OF_MEMORY) return ml_fail(ML_MEMORY, "%s: %zu bytes refused", d->name, bytes);
  ML_TRY(ml_cuda_result(d, "memory", r));
  *out = (void *)(uintptr_t)address;
  return ML_OK;
}

static ml_cuda_space **space_at(ml_cuda *c, CUdeviceptr address) {
  ml_cuda_space **link = &c->spaces;
  while (*link && !(address >= (*link)->address && address < (*link)->address + (*link)->bytes)) link = &(*link)->next;
  return link;
}

static ml_status cuda_reserve(ml_device *d, size_t bytes, void **out) {
  ml_cuda *c = ml_cuda_of(d);
  ML_TRY(ml_cuda_enter(d));
  const size_t pages = (bytes + c->page - 1) / c->page + !bytes;
  ml_cuda_space *s = ml_calloc(1, sizeof *s + pages * sizeof *s->memory);
  if (!s) return ML_MEMORY;
  s->bytes = pages * c->page;
  const CUresult r = c->driver.MemAddressReserve(&s->address, s->bytes, 0, 0, 0);
  if (r != CUDA_SUCCESS) {
    ml_free(s);
    if (r == CUDA_ERROR_OUT_OF_MEMORY)
      return ml_fail(ML_MEMORY, "%s: %zu bytes of address space refused", d->name, bytes);
    return ml_cuda_result(d, "address space", r);
  }
  s->next = c->spaces, c->spaces = s;
  *out = (void *)(uintptr_t)s->address;
  return ML_OK;
}

static void forget_page(ml_cuda *c, ml_cuda_space *s, size_t page) {
  if (!s->memory[page]) return;
  c->driver.MemUnmap(s->address + page * c->page, c->page);
  c->driver.MemRelease(s->memory[page]);
  s->memory[page] = 0;
}

static void cuda_release(ml_device *d, void *address, size_t bytes) {
  (void)bytes;
  ml_cuda *c = ml_cuda_of(d);
  const CUdeviceptr at = (CUdeviceptr)(uintptr_t)address;
  if (ml_cuda_drain(d) != ML_OK) ml_error_clear(); /* what is lost has been told to who waited for it */
  ml_cuda_space **link = space_at(c, at), *s = *link;
  if (!s) {
    c->driver.MemFree(at);
    return;
  }
  for (size_t i = 0; i < s->bytes / c->page; i++) forget_page(c, s, i);
  c->driver.MemAddressFree(s->address, s->bytes);
  *link = s->next;
  ml_free(s);
}

static ml_status give_page(ml_device *d, ml_cuda_space *s, size_t page) {
  ml_cuda *c = ml_cuda_of(d);
  const CUdeviceptr at = s->address + page * c->page;
  const CUmemAccessDesc access = {c->kind.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  CUmemGenericAllocationHandle memory;
  const CUresult r = c->driver.MemCreate(&memory, c->page, &c->kind, 0);
  if (r == CUDA_ERROR_OUT_OF_MEMORY) return ml_fail(ML_MEMORY, "%s: %zu bytes refused", d->name, c->page);
  ML_TRY(ml_cuda_result(d, "memory for a page", r));
  ml_status status = ml_cuda_result(d, "mapping memory", c->driver.MemMap(at, c->page, 0, memory, 0));
  if (status != ML_OK) {
    c->driver.MemRelease(memory);
    return status;
  }
  s->memory[page] = memory;
  status = ml_cuda_result(d, "access to memory", c->driver.MemSetAccess(at, c->page, &access, 1));
  if (status == ML_OK)
    status = ml_cuda_result(d, "clearing memory", c->driver.MemsetD8Async(at, 0, c->page, c->stream));
  if (status != ML_OK) forget_page(c, s, page);
  return status;
}

static ml_status cuda_commit(ml_device *d, void *address, size_t bytes) {
  ml_cuda *c = ml_cuda_of(d);
  ML_TRY(ml_cuda_enter(d));
  if (!bytes) return ML_OK;
  ml_cuda_space *s = *space_at(c, (CUdeviceptr)(uintptr_t)address);
  if (!s) return ml_fail(ML_DEVICE, "%s: memory asked for where nothing is reserved", d->name);
  const size_t from = (size_t)((CUdeviceptr)(uintptr_t)address - s->address) / c->page,
               end = ((size_t)((CUdeviceptr)(uintptr_t)address - s->address) + bytes + c->page - 1) / c->page;
  for (size_t page = from; page < end; page++) {
    if (!s->memory[page]) ML_TRY(give_page(d, s, page));
  }
  return ML_OK;
}

static void cuda_decommit(ml_device *d, void *address, size_t bytes) {
  ml_cuda *c = ml_cuda_of(d);
  if (ml_cuda_drain(d) != ML_OK) ml_error_clear();
  ml_cuda_space *s = *space_at(c, (CUdeviceptr)(uintptr_t)address);
  if (!s) return;
  const size_t at = (size_t)((CUdeviceptr)(uintptr_t)address - s->address);
  for (size_t page = (at + c->page - 1) / c->page; page < (at + bytes) / c->page; page++) forget_page(c, s, page);
}

static void cuda_report(ml_device *d, size_t *total, size_t *available) {
  *total = *available = 0;
  if (ml_cuda_enter(d) != ML_OK || ml_cuda_of(d)->driver.MemGetInfo(available, total) != CUDA_SUCCESS) ml_error_clear();
}

/* ---- copies ---- */

static size_t piece_of(size_t bytes) { return bytes < STAGING_BYTES / 4 ? bytes : STAGING_BYTES / 4; }

static ml_status cuda_upload(ml_device *d, void *to, const void *from, size_t bytes, ml_ticket *out) {
  ml_cuda *c = ml_cuda_of(d);
  ML_TRY(ml_cuda_enter(d));
  *out = c->given;
  for (size_t at = 0, n; at < bytes; at += n) {
    char *room;
    ml_cuda_flight f = {0};
    n = piece_of(bytes - at);
    ML_TRY(ml_cuda_stage(d, n, &room, &f.staged));
    memcpy(room, (const char *)from + at, n);
    CU_TRY(d, "a copy to the device", MemcpyHtoDAsync((CUdeviceptr)(uintptr_t)to + at, room, n, c->stream));
    ML_TRY(ml_cuda_give(d, f, out));
  }
  return ML_OK;
}

static ml_status cuda_download(ml_device *d, void *to, const void *from, size_t bytes, ml_ticket *out) {
  ml_cuda *c = ml_cuda_of(d);
  ML_TRY(ml_cuda_enter(d));
  *out = c->given;
  for (size_t at = 0, n; at < bytes; at += n) {
    char *room;
    ml_cuda_flight f = {0};
    n = piece_of(bytes - at);
    ML_TRY(ml_cuda_stage(d, n, &room, &f.staged));
    f.to = (char *)to + at, f.from = room, f.bytes = n;
    CU_TRY(d, "a copy from the device", MemcpyDtoHAsync(room, (CUdeviceptr)(uintptr_t)from + at, n, c->stream));
    ML_TRY(ml_cuda_give(d, f, out));
  }
  return ML_OK;
}

static const ml_device_table table;

static ml_status cuda_copy(ml_device *d, void *to, ml_device *other, const void *from, size_t bytes) {
  ml_cuda *c = ml_cuda_of(d);
  ml_ticket ticket;
  if (other->table != &table)
    return ml_fail(ML_UNSUPPORTED, "%s does not reach the memory of %s", d->name, other->name);
  ml_cuda *o = ml_cuda_of(other);
  if (o != c) { /* behind what the other was given */
    ML_TRY(ml_cuda_enter(other));
    ML_TRY(ml_cuda_give(other, (ml_cuda_flight){0}, &ticket));
    ML_TRY(ml_cuda_enter(d));
    CU_TRY(d, "waiting for another device",
           StreamWaitEvent(c->stream, o->flights[(o->last - 1) % CU_FLIGHTS].event, 0));
  }
  ML_TRY(ml_cuda_enter(d));
  CU_TRY(d, "a copy between devices",
         MemcpyPeerAsync((CUdeviceptr)(uintptr_t)to, c->context, (CUdeviceptr)(uintptr_t)from, o->context, bytes,
                         c->stream));
  ML_TRY(ml_cuda_give(d, (ml_cuda_flight){0}, &ticket));
  if (o == c) return ML_OK;
  ML_TRY(ml_cuda_enter(other)); /* and what it is given next, behind this */
  CU_TRY(other, "waiting for another device",
         StreamWaitEvent(o->stream, c->flights[(c->last - 1) % CU_FLIGHTS].event, 0));
  return ML_OK;
}

/* ---- kernels ---- */

ml_status ml_cuda_function(ml_device *d, const char *file, const char *name, CUfunction *out) {
  ml_cuda *c = ml_cuda_of(d);
  int i = 0;
  while (ml_gpu_images[i].name && strcmp(ml_gpu_images[i].name, file) != 0) i++;
  if (!ml_gpu_images[i].name || i >= CU_MODULES)
    return ml_fail(ML_UNSUPPORTED, "%s: this build has no kernels of %s.cu", d->name, file);
  if (!c->modules[i]) CU_TRY(d, file, ModuleLoadData(&c->modules[i], ml_gpu_images[i].bytes));
  CU_TRY(d, name, ModuleGetFunction(out, c->modules[i], name));
  return ML_OK;
}

/* ---- the device ---- */

static void cuda_close(ml_device *d) {
  ml_cuda *c = ml_cuda_of(d);
  const ml_cuda_driver *v = &c->driver;
  if (c->context && v->CtxSetCurrent(c->context) == CUDA_SUCCESS) {
    if (c->stream) v->StreamSynchronize(c->stream);
    while (c->spaces) {
      ml_cuda_space *s = c->spaces;
      for (size_t i = 0; i < s->bytes / c->page; i++) forget_page(c, s, i);
      v->MemAddressFree(s->address, s->bytes);
      c->spaces = s->next;
      ml_free(s);
    }
    for (int i = 0; i < CU_FLIGHTS; i++) {
      if (c->flights[i].event) v->EventDestroy(c->flights[i].event);
    }
    for (int i = 0; i < CU_MODULES; i++) {
      if (c->modules[i]) v->ModuleUnload(c->modules[i]);
    }
    while (c->chunks) {
      ml_cuda_chunk *chunk = c->chunks;
      v->MemFree(chunk->address);
      c->chunks = chunk->next;
      ml_free(chunk);
    }
    while (c->counts) {
      ml_cuda_counts *counts = c->counts;
      v->MemFree(counts->address);
      c->counts = counts->next;
      ml_free(counts);
    }
    if (c->staging) v->MemFreeHost(c->staging);
    if (c->faults) v->MemFreeHost(c->faults);
    if (c->fault) v->MemFree(c->fault);
    if (c->gate) v->MemFreeHost(c->gate);
    if (c->stream) v->StreamDestroy(c->stream);
    v->DevicePrimaryCtxRelease(c->device);
  }
  ml_free(c);
  ml_free(d);
}

static const ml_device_table table = {
    .allocate = cuda_allocate,
    .release = cuda_release,
    .reserve = cuda_reserve,
    .commit = cuda_commit,
    .decommit = cuda_decommit,
    .report = cuda_report,
    .upload = cuda_upload,
    .download = cuda_download,
    .copy = cuda_copy,
    .packed_bytes = ml_cuda_packed_bytes,
    .pack = ml_cuda_pack,
    .unpack = ml_cuda_unpack,
    .lacks = ml_cuda_lacks,
    .lower = ml_cuda_lower,
    .barriers = ml_cuda_barriers,
    .workspace = ml_cuda_workspace,
    .submit = ml_cuda_submit,
    .drop = ml_cuda_drop,
    .done = cuda_done,
    .wait = cuda_wait,
    .close = cuda_close,
};

bool ml_gpu_named(const char *name, int *index) {
  *index = 0;
  if (strcmp(name, "cuda") == 0) return true;
  if (strncmp(name, "cuda:", 5) != 0 || !name[5] || strspn(name + 5, "0123456789") != strlen(name + 5)) return false;
  *index = strlen(name + 5) > 4 ? INT32_MAX : atoi(name + 5);
  return true;
}

/* The driver, where this build has kernels for `name`. */
static ml_status open_driver(const char *name, ml_cuda_driver *out) {
  if (ml_gpu_images[0].name) return ml_cuda_driver_open(out);
  return ml_fail(ML_UNSUPPORTED,
                 "%s: this build of moonlet has no kernels for it: there was no nvcc (the CUDA "
                 "toolkit's compiler) when it was made",
                 name);
}

static ml_status count_devices(const ml_cuda_driver *driver, int *out) {
  return ml_cuda_check(driver, "cuda", "counting devices", driver->DeviceGetCount(out));
}

ml_status ml_gpu_count(int *out) {
  ml_cuda_driver driver;
  ML_TRY(open_driver("cuda", &driver));
  return count_devices(&driver, out);
}

static ml_status open_context(ml_device *d) {
  ml_cuda *c = ml_cuda_of(d);
  int count, major, minor, maps, clock, width;
  char name[64] = "";
  ML_TRY(open_driver(d->name, &c->driver));
  ML_TRY(count_devices(&c->driver, &count));
  if (c->index >= count)
    return ml_fail(ML_NOT_FOUND, "device \"%s\": this machine has %d GPU%s", d->name, count, count == 1 ? "" : "s");
  CU_TRY(d, "the device", DeviceGet(&c->device, c->index));
  CU_TRY(d, "its name", DeviceGetName(name, sizeof name, c->device));
  CU_TRY(d, "its attributes", DeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, c->device));
  CU_TRY(d, "its attributes", DeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, c->device));
  CU_TRY(d, "its attributes",
         DeviceGetAttribute(&c->multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, c->device));
  CU_TRY(d, "its attributes",
         DeviceGetAttribute(&maps, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, c->device));
  CU_TRY(d, "its attributes", DeviceGetAttribute(&clock, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, c->device));
  CU_TRY(d, "its attributes", DeviceGetAttribute(&width, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, c->device));
  d->read_rate = 2e3 * (double)clock * (double)width / 8; /* two transfers a cycle */
  enum { HOPPER = 9 };                                    /* compute capability */
  c->starts_early = major >= HOPPER && c->driver.GraphAddDependencies;
  c->multiplies_in_groups = major == HOPPER && minor == 0;
  if (!maps) return ml_fail(ML_UNSUPPORTED, "%s: %s maps no memory into reservations", d->name, name);
  snprintf(d->description, sizeof d->description, "%s, sm_%d%d", name, major, minor);
  CU_TRY(d, "a context", DevicePrimaryCtxRetain(&c->context, c->device));
  ML_TRY(ml_cuda_enter(d));
  CU_TRY(d, "a stream", StreamCreate(&c->stream, CU_STREAM_NON_BLOCKING));
  c->kind = (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                  .location = {CU_MEM_LOCATION_TYPE_DEVICE, c->device}};
  CU_TRY(d, "the size of pages", MemGetAllocationGranularity(&c->page, &c->kind, 0));
  void *faults;
  CU_TRY(d, "memory for faults", MemHostAlloc(&faults, CU_RUNS * sizeof *c->faults, CU_MEMHOSTALLOC_PORTABLE));
  c->faults = memset(faults, 0, CU_RUNS * sizeof *c->faults);
  CU_TRY(d, "memory for faults", MemAlloc(&c->fault, sizeof c->faults));
  return ML_OK;
}

ml_status ml_gpu_device_open(ml_engine *engine, int index, ml_device **out) {
  ml_device *d = ml_calloc(1, sizeof *d);
  ml_cuda *c = d ? ml_calloc(1, sizeof *c) : NULL;
  if (!c) {
    ml_free(d);
    return ML_MEMORY;
  }
  *d = (ml_device){.table = &table, .engine = engine, .asynchronous = true, .group = CU_GROUP, .state = c};
  snprintf(d->name, sizeof d->name, "cuda:%d", index);
  c->index = index;
  d->memory.cache_limit = (size_t)1 << 30; /* getting and giving back memory waits for the device */
  const ml_status status = open_context(d);
  if (status != ML_OK) {
    char text[1024];
    snprintf(text, sizeof text, "%s", ml_error_message());
    cuda_close(d);
    return ml_fail(status, "%s", text);
  }
  *out = d;
  return ML_OK;
}
