/* test_memory.c: a device that has no memory is asked again once it has back what is cached; one that goes on refusing
 * leaves every counter as it was. */
#include "tensors.h"

enum { BIG = 48 << 20 }; /* bytes */

/* The processor's table, but for one way to memory: refused while anything is cached, or always. */
static const ml_device_table *own;
static bool always;
static int refusals;

static bool refuses(ml_device *d) {
  const bool refused = always || d->memory.cached > 0;
  refusals += refused;
  return refused && ml_fail(ML_MEMORY, "%s: no memory", d->name) == ML_MEMORY;
}

static ml_status allocate(ml_device *d, size_t bytes, void **out) {
  return refuses(d) ? ML_MEMORY : own->allocate(d, bytes, out);
}
static ml_status reserve(ml_device *d, size_t bytes, void **out) {
  return refuses(d) ? ML_MEMORY : own->reserve(d, bytes, out);
}
static ml_status commit(ml_device *d, void *address, size_t bytes) {
  return refuses(d) ? ML_MEMORY : own->commit(d, address, bytes);
}

static void fill_cache(ml_engine *e) {
  ml_buffer *b;
  ml_memory_trim(e->device, 0);
  must(ml_buffer_create(e->device, 1 << 20, &b), "a block");
  ml_buffer_release(b);
  refusals = 0;
}

/* Requests; each gives back what it got. */
static ml_status buffer(ml_engine *e) {
  ml_buffer *b = NULL;
  const ml_status status = ml_buffer_create(e->device, BIG, &b);
  ml_buffer_release(b);
  return status;
}

static ml_status reservation(ml_engine *e) {
  ml_tensor *t = NULL;
  const ml_status status = ml_state_reserve(e->device, ML_F32, 1, (int64_t[]){BIG / 4}, &t);
  ml_tensor_release(t);
  return status;
}

static ml_tensor *cache;
static ml_status entries(ml_engine *e) {
  (void)e;
  const ml_status status = ml_state_commit(cache, 0, 1 << 20);
  if (status == ML_OK) must(ml_state_commit(cache, 0, 0), "no entries");
  return status;
}

/* softmax(x) x: what is between is in the arena. */
static ml_tensor *x;
static ml_status product(ml_engine *e) {
  ml_tensor *weights = NULL, *y = NULL;
  ml_status status = ml_apply(e, ML_OP_softmax, &x, 1, &(ml_attrs){.softmax = {.axis = 1}}, &weights);
  if (status == ML_OK) status = ml_apply(e, ML_OP_matmul, (ml_tensor *[]){weights, x}, 2, &(ml_attrs){0}, &y);
  if (status == ML_OK) status = ml_eval(e, &y, 1);
  ml_tensor_release(y);
  ml_tensor_release(weights);
  return status;
}

typedef struct request {
  const char *name;
  ml_status (*ask)(ml_engine *e);
  ml_device_table through; /* those ways to memory that refuse */
} request;

static void check_request(ml_engine *e, const request *r) {
  ml_device *d = e->device;
  const size_t before = d->memory.active;
  ml_device_table table = *own;
  if (r->through.allocate) table.allocate = allocate;
  if (r->through.reserve) table.reserve = reserve;
  if (r->through.commit) table.commit = commit;
  fill_cache(e);
  CHECK(d->memory.cached >= 1 << 20, "%s: a block is cached", r->name);
  d->table = &table;
  CHECK_OK(r->ask(e), "%s: refused once", r->name);
  CHECK(refusals == 1, "%s: found %d refusals", r->name, refusals);
  ml_memory_trim(d, 0);
  always = true;
  CHECK_FAILS(r->ask(e), ML_MEMORY, "no memory", "%s: refused for good", r->name);
  always = false;
  d->table = own;
  ml_memory_trim(d, 0);
  CHECK(d->memory.active == before && d->memory.cached == 0, "%s: %zu bytes active, found %zu and %zu cached", r->name,
        before, d->memory.active, d->memory.cached);
}

int main(void) {
  const request requests[] = {{"a buffer", buffer, {.allocate = allocate}},
                              {"a reservation", reservation, {.reserve = reserve}},
                              {"entries of a state", entries, {.commit = commit}},
                              {"a plan's arena", product, {.commit = commit}}};
  ml_engine *e = open_engine("ref", 1);
  own = e->device->table;
  must(ml_state_reserve(e->device, ML_F32, 1, (int64_t[]){1 << 20}, &cache), "a reservation");
  x = random_tensor(e, ML_F32, 2, (int64_t[]){256, 256}, -1, 1);
  for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) check_request(e, &requests[i]);
  ml_tensor_release(cache);
  drop_all();
  close_engine(e, "ref");
  return check_done();
}
