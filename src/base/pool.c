/* pool.c: threads that spin briefly and then sleep on a futex. */
#include "base/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

/* About 50 us of spinning: longer than any gap inside a plan, far shorter than a time slice. More members than
 * processors wait for each other's turn, and do not spin. */
enum { SPINS = 20000, CACHE_LINE = 64 };

struct member {
  struct ml_pool *pool;
  int index;
};

struct ml_pool {
  int members, started, spins;
  pid_t process; /* where its threads are */
  _Alignas(CACHE_LINE) atomic_int arrived;
  _Alignas(CACHE_LINE) atomic_int phase; /* barrier generation; also the futex word */
  atomic_int phase_sleepers;
  _Alignas(CACHE_LINE) atomic_int ticket; /* job generation; odd values never occur twice in a row */
  atomic_int ticket_sleepers;
  atomic_bool stop;
  ml_job job;
  void *context;
  pthread_t *threads;
  struct member *memberships;
  int *processors; /* of each member: where the caller was last, and where the others are pinned; NULL: nowhere */
};

static void pause_cpu(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/* Returns once *word differs from `old`. */
static void wait_change(atomic_int *word, int old, atomic_int *sleepers, int spins) {
  for (int i = 0; i < spins; i++) {
    if (atomic_load_explicit(word, memory_order_acquire) != old) return;
    pause_cpu();
  }
  atomic_fetch_add(sleepers, 1);
  while (atomic_load(word) == old) syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
  atomic_fetch_sub(sleepers, 1);
}

static void change(atomic_int *word, atomic_int *sleepers) {
  atomic_fetch_add(word, 1);
  if (atomic_load(sleepers)) syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void ml_pool_barrier(ml_pool *p) {
  if (p->members == 1) return;
  int phase = atomic_load_explicit(&p->phase, memory_order_acquire);
  if (atomic_fetch_add(&p->arrived, 1) == p->members - 1) {
    atomic_store(&p->arrived, 0);
    change(&p->phase, &p->phase_sleepers);
  } else {
    wait_change(&p->phase, phase, &p->phase_sleepers, p->spins);
  }
}

static void *worker(void *argument) {
  struct member *me = argument;
  ml_pool *p = me->pool;
  int seen = 0;
  for (;;) {
    wait_change(&p->ticket, seen, &p->ticket_sleepers, p->spins);
    seen = atomic_load(&p->ticket);
    if (atomic_load(&p->stop)) return NULL;
    p->job(p->context, me->index);
    ml_pool_barrier(p);
  }
}

static void pin(ml_pool *p, int member, int processor) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(processor, &one);
  p->processors[member] = processor;
  pthread_setaffinity_np(p->threads[member], sizeof one, &one); /* a refusal costs speed alone */
}

static void pin_all(ml_pool *p, const cpu_set_t *allowed) {
  for (int processor = 0, i = 0; i < p->members; processor++) {
    if (!CPU_ISSET(processor, allowed)) continue;
    if (i > 0) pin(p, i, processor);
    else p->processors[0] = processor;
    i++;
  }
}

/* Where the system has put the caller on a member's processor, the two would take turns: the member goes to where the
 * caller was before. */
static void make_way(ml_pool *p) {
  int processor = sched_getcpu(), before = p->processors[0];
  if (processor == before || processor < 0) return;
  p->processors[0] = processor;
  for (int i = 1; i < p->members; i++) {
    if (p->processors[i] == processor) pin(p, i, before);
  }
}

void ml_pool_run(ml_pool *p, ml_job job, void *context) {
  p->job = job;
  p->context = context;
  if (p->processors) make_way(p);
  if (p->members > 1) change(&p->ticket, &p->ticket_sleepers);
  job(context, 0);
  ml_pool_barrier(p);
}

/* Starts a member that leaves the signals sent to the process to the host's threads: a handler of the host's must not
 * run here. Faults and a profiler's clock are a thread's own. */
static int start(ml_pool *p, int index) {
  static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF};
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&blocked, own[i]);
  p->memberships[index] = (struct member){p, index};
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  int refused = pthread_create(&p->threads[index], NULL, worker, &p->memberships[index]);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return refused;
}

ml_status ml_pool_create(int members, ml_pool **out) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  int processors = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
  if (members <= 0) members = processors;
  if (members > 1024) return ml_fail(ML_USAGE, "threads: expected at most 1024, found %d", members);
  ml_pool *p = aligned_alloc(CACHE_LINE, sizeof *p);
  if (!p) return ml_fail(ML_MEMORY, "out of memory: thread pool");
  *p = (ml_pool){.members = members, .started = 1, .spins = members <= processors ? SPINS : 0, .process = getpid()};
  p->threads = ml_calloc((size_t)members, sizeof *p->threads);
  p->memberships = ml_calloc((size_t)members, sizeof *p->memberships);
  bool pinned = members > 1 && members <= processors;
  if (pinned) p->processors = ml_calloc((size_t)members, sizeof *p->processors);
  if (!p->threads || !p->memberships || (pinned && !p->processors)) {
    ml_pool_close(p);
    return ML_MEMORY;
  }
  for (int i = 1; i < members; i++) {
    if (start(p, i) != 0) {
      ml_pool_close(p);
      return ml_fail(ML_LIMIT, "threads: the system refused thread %d of %d", i + 1, members);
    }
    p->started = i + 1;
  }
  if (pinned) pin_all(p, &allowed);
  *out = p;
  return ML_OK;
}

void ml_pool_close(ml_pool *p) {
  if (!p) return;
  atomic_store(&p->stop, true);
  if (p->started > 1) change(&p->ticket, &p->ticket_sleepers);
  for (int i = 1; i < p->started && p->process == getpid(); i++) pthread_join(p->threads[i], NULL);
  ml_free(p->threads);
  ml_free(p->memberships);
  ml_free(p->processors);
  free(p);
}

int ml_pool_members(const ml_pool *p) { return p->members; }
