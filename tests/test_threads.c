/* test_threads.c: two engines on two threads at once, each with a team of its own: what each says is what the reference
 * says; and four with the weights of one model. Under ThreadSanitizer it also shows that they share nothing that
 * changes. */
#include "base/pool.h"
#include "tiny.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

enum { ROUNDS = 5 };

typedef struct worker {
  pthread_t thread;
  int number;
  const char *path;
  ml_status status;
  int right, refused; /* rounds whose ids were right; failed loads that were reported with their own text */
  char message[256];
} worker;

typedef struct heard {
  int32_t ids[TINY_ANSWER];
  int count;
} heard;

static bool hear(void *context, const ml_token *token) {
  heard *h = context;
  if (h->count < TINY_ANSWER) h->ids[h->count++] = token->id;
  return true;
}

static ml_status one_round(worker *w) {
  ml_engine *engine = NULL;
  ml_model *model = NULL, *none;
  heard h = {.count = 0};
  ml_engine_options options = {.struct_size = sizeof options, .threads = 2};
  ml_generate_options o = {
      .struct_size = sizeof o, .ids = tiny_prompt, .n_ids = TINY_PROMPT, .max_tokens = TINY_ANSWER, .ignore_eos = true};
  const ml_message messages[] = {{"user", "Why do tides rise?"}};
  ml_generate_options chat = {.struct_size = sizeof chat,
                              .messages = messages,
                              .n_messages = 1,
                              .max_tokens = 8,
                              .temperature = 0.8,
                              .top_p = 0.9,
                              .repeat_penalty = 1.1};
  char missing[32];
  ml_status status = ml_engine_create(&options, &engine);
  if (status == ML_OK) status = ml_model_load(engine, w->path, NULL, &model);
  if (status == ML_OK) status = ml_generate(model, &o, hear, &h, NULL);
  if (status == ML_OK) status = ml_generate(model, &chat, NULL, NULL, NULL);
  if (status == ML_OK) {
    w->right += memcmp(h.ids, tiny_answer, sizeof tiny_answer) == 0;
    snprintf(missing, sizeof missing, "missing-%d", w->number);
    w->refused += ml_model_load(engine, missing, NULL, &none) == ML_NOT_FOUND && strstr(ml_error_message(), missing);
  }
  ml_engine_close(engine);
  return status;
}

static void *work(void *argument) {
  worker *w = argument;
  for (int i = 0; i < ROUNDS && w->status == ML_OK; i++) w->status = one_round(w);
  if (w->status != ML_OK) snprintf(w->message, sizeof w->message, "%s", ml_error_message());
  return NULL;
}

/* One engine, used by one thread after another. */
static void *use(void *argument) {
  ml_model *model = argument;
  heard h = {.count = 0};
  ml_generate_options o = {
      .struct_size = sizeof o, .ids = tiny_prompt, .n_ids = TINY_PROMPT, .max_tokens = TINY_ANSWER, .ignore_eos = true};
  if (ml_generate(model, &o, hear, &h, NULL) != ML_OK) return NULL;
  return memcmp(h.ids, tiny_answer, sizeof tiny_answer) == 0 ? model : NULL;
}

static void test_handed_on(void) {
  ml_engine *engine = NULL;
  ml_model *model = NULL;
  CHECK_OK(ml_engine_create(NULL, &engine), "an engine opens");
  CHECK_OK(ml_model_load(engine, TINY_MODEL, NULL, &model), "a model loads");
  for (int i = 0; i < 2; i++) {
    pthread_t thread;
    void *result = NULL;
    pthread_create(&thread, NULL, use, model);
    pthread_join(thread, &result);
    CHECK(result == model, "thread %d uses what another has made", i + 1);
  }
  ml_engine_close(engine);
}

/* ---- weights that engines share ---- */

enum { SHARERS = 4 };

typedef struct sharer {
  pthread_t thread;
  pthread_barrier_t *all;
  const char *token;
  int right;
  size_t bytes; /* in use before anything was computed */
  char message[256];
} sharer;

static bool answers(ml_model *model) {
  heard h = {.count = 0};
  ml_generate_options o = {
      .struct_size = sizeof o, .ids = tiny_prompt, .n_ids = TINY_PROMPT, .max_tokens = TINY_ANSWER, .ignore_eos = true};
  return ml_generate(model, &o, hear, &h, NULL) == ML_OK && memcmp(h.ids, tiny_answer, sizeof tiny_answer) == 0;
}

/* Loads and closes some models, and has one beyond the end of the model whose weights they are. */
static void *share_weights(void *argument) {
  sharer *s = argument;
  ml_engine *engine = NULL;
  ml_model *model = NULL;
  ml_engine_options options = {.struct_size = sizeof options, .threads = 1};
  ml_load_options load = {.struct_size = sizeof load, .share = s->token};
  ml_memory_info memory = {.struct_size = sizeof memory};
  if (ml_engine_create(&options, &engine) == ML_OK) {
    for (int i = 0; i < ROUNDS; i++) {
      ml_model_close(model);
      if (ml_model_load(engine, NULL, &load, &model) != ML_OK) break;
      if (ml_engine_memory(engine, &memory) == ML_OK && i == 0) s->bytes = memory.active_bytes;
      s->right += answers(model);
    }
  }
  if (s->right != ROUNDS) snprintf(s->message, sizeof s->message, "%s", ml_error_message());
  pthread_barrier_wait(s->all);
  pthread_barrier_wait(s->all); /* in between the owner goes */
  if (model) s->right += answers(model);
  ml_engine_close(engine);
  return NULL;
}

static void test_shared(void) {
  ml_engine *engine = NULL;
  ml_model *model = NULL, *none;
  ml_model_info info = {.struct_size = sizeof info};
  const char *token = NULL;
  char kept[64];
  sharer sharers[SHARERS] = {{.right = 0}};
  pthread_barrier_t all;
  CHECK_OK(ml_engine_create(NULL, &engine), "an engine opens");
  CHECK_OK(ml_model_load(engine, TINY_MODEL, NULL, &model), "a model loads");
  CHECK_OK(ml_model_describe(model, &info), "and tells its size");
  if (!CHECK_OK(ml_model_share(model, &token), "its weights are shared")) return;
  snprintf(kept, sizeof kept, "%s", token);
  pthread_barrier_init(&all, NULL, SHARERS + 1);
  for (int i = 0; i < SHARERS; i++) {
    sharers[i].all = &all, sharers[i].token = token;
    if (pthread_create(&sharers[i].thread, NULL, share_weights, &sharers[i]) != 0) exit(100);
  }
  CHECK(answers(model), "their owner is right beside them");
  pthread_barrier_wait(&all);
  ml_model_close(model);
  ml_load_options load = {.struct_size = sizeof load, .share = kept};
  CHECK_FAILS(ml_model_load(engine, NULL, &load, &none), ML_NOT_FOUND, "no open model", "a token of a closed model");
  CHECK_OK(ml_engine_close(engine), "the owner's engine ends first");
  pthread_barrier_wait(&all);
  for (int i = 0; i < SHARERS; i++) {
    pthread_join(sharers[i].thread, NULL);
    CHECK(sharers[i].right == ROUNDS + 1, "sharer %d is right each time %s", i + 1, sharers[i].message);
    CHECK(sharers[i].bytes < info.weight_bytes / 2, "its engine counts no weights: %zu bytes of %zu", sharers[i].bytes,
          info.weight_bytes);
  }
  pthread_barrier_destroy(&all);
}

static atomic_int handled;

static void on_signal(int number) {
  (void)number;
  atomic_fetch_add(&handled, 1);
}

/* A signal that this thread holds back must not go to a member of the pool instead. */
static void test_signals(void) {
  ml_engine *engine = NULL;
  ml_engine_options options = {.struct_size = sizeof options, .threads = 2};
  sigset_t held, before, waiting;
  sigemptyset(&held);
  sigaddset(&held, SIGUSR1);
  signal(SIGUSR1, on_signal);
  CHECK_OK(ml_engine_create(&options, &engine), "an engine with two threads opens");
  pthread_sigmask(SIG_BLOCK, &held, &before);
  kill(getpid(), SIGUSR1);
  usleep(20000);
  CHECK(sigpending(&waiting) == 0 && sigismember(&waiting, SIGUSR1) && atomic_load(&handled) == 0,
        "a signal waits for the host's thread");
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  CHECK(atomic_load(&handled) == 1, "and is handled there");
  ml_engine_close(engine);
}

static void where_members_run(void *context, int member) { ((int *)context)[member] = sched_getcpu(); }

/* A caller that the system moves from one processor to another meets its members on none of them. */
static void test_processors(void) {
  cpu_set_t allowed, one;
  ml_pool *pool = NULL;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) {
    check_skip("members keep out of the caller's way", "one processor");
    return;
  }
  CHECK_OK(ml_pool_create(2, &pool), "a pool of two opens");
  for (int cpu = 0, moves = 0; cpu < CPU_SETSIZE && moves < 8; cpu++) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    int on[2] = {-1, -1};
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    ml_pool_run(pool, where_members_run, on);
    CHECK(on[0] == cpu && on[1] != cpu, "members keep out of the caller's way on processor %d", ++moves);
  }
  sched_setaffinity(0, sizeof allowed, &allowed);
  ml_pool_close(pool);
}

int main(void) {
  worker workers[2] = {{.number = 1}, {.number = 2}};
  for (int i = 0; i < 2; i++) {
    workers[i].path = tiny_with_text();
    if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) return 100;
  }
  for (int i = 0; i < 2; i++) pthread_join(workers[i].thread, NULL);
  for (int i = 0; i < 2; i++) {
    CHECK(workers[i].status == ML_OK, "thread %d ends well %s", i + 1, workers[i].message);
    CHECK(workers[i].right == ROUNDS, "thread %d is right each time", i + 1);
    CHECK(workers[i].refused == ROUNDS, "thread %d reads its own errors", i + 1);
  }
  test_handed_on();
  test_shared();
  test_signals();
  test_processors();
  return check_done();
}
