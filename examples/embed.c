/* embed.c: a C program that answers a question with a model, and no Lua in sight.
 *
 *   build/examples/embed MODEL [QUESTION [SECONDS]]
 *
 * The answer goes to stdout as it comes. A second thread cancels it when the time is up. Figures go to stderr. */
#include <moonlet.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- the second thread ---- */

typedef struct watch {
  ml_engine *engine;
  struct timespec end; /* on the real-time clock */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool done;
} watch;

/* Waits until the answer is there or the time is up. */
static void *cancel_in_time(void *argument) {
  watch *w = argument;
  int outcome = 0;
  pthread_mutex_lock(&w->lock);
  while (!w->done && outcome == 0) outcome = pthread_cond_timedwait(&w->changed, &w->lock, &w->end);
  if (!w->done) ml_cancel(w->engine);
  pthread_mutex_unlock(&w->lock);
  return NULL;
}

static bool start_watch(watch *w, pthread_t *thread, double seconds) {
  clock_gettime(CLOCK_REALTIME, &w->end);
  w->end.tv_sec += (time_t)seconds;
  w->end.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
  if (w->end.tv_nsec >= 1000000000) {
    w->end.tv_nsec -= 1000000000;
    w->end.tv_sec++;
  }
  return pthread_create(thread, NULL, cancel_in_time, w) == 0;
}

static void end_watch(watch *w, pthread_t thread) {
  pthread_mutex_lock(&w->lock);
  w->done = true;
  pthread_cond_signal(&w->changed);
  pthread_mutex_unlock(&w->lock);
  pthread_join(thread, NULL);
  ml_cancel_clear(w->engine); /* a cancel that came too late is not meant for the next answer */
}

/* ---- the answer ---- */

static bool print_token(void *context, const ml_token *token) {
  (void)context;
  fwrite(token->text, 1, token->text_bytes, stdout);
  fflush(stdout);
  return true;
}

static ml_status answer(ml_engine *engine, ml_model *model, const char *question, double seconds) {
  const ml_message conversation[] = {{"user", question}};
  ml_generate_options options = {
      .struct_size = sizeof options, .messages = conversation, .n_messages = 1, .max_tokens = 200};
  ml_metrics metrics = {.struct_size = sizeof metrics};
  watch w = {.engine = engine, .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
  pthread_t thread;
  bool watched = start_watch(&w, &thread, seconds);
  ml_status status = ml_generate(model, &options, print_token, NULL, &metrics);
  if (watched) end_watch(&w, thread);
  putchar('\n');
  fflush(stdout); /* before the figures, where both go to one file */
  if (status == ML_OK)
    fprintf(stderr, "%s: %lld tokens, %.1f a second, behind a prompt of %lld, %.1f a second; %.1f MB\n",
            ml_finish_name(metrics.finish_reason), (long long)metrics.generated_tokens,
            metrics.decode_tokens_per_second, (long long)metrics.prompt_tokens, metrics.prefill_tokens_per_second,
            (double)metrics.peak_bytes / 1e6);
  return status;
}

int main(int argc, char **argv) {
  char *end = NULL;
  double seconds = argc > 3 ? strtod(argv[3], &end) : 60;
  if (argc < 2 || argc > 4 || (argc > 3 && (end == argv[3] || *end || !(seconds >= 0 && seconds < 1e9)))) {
    fprintf(stderr, "usage: embed MODEL [QUESTION [SECONDS]]\n");
    return 2;
  }
  const char *question = argc > 2 ? argv[2] : "Why does the Moon always show us the same face?";
  ml_engine *engine = NULL;
  ml_model *model = NULL;
  ml_status status = ml_engine_create(NULL, &engine);
  if (status == ML_OK) status = ml_model_load(engine, argv[1], NULL, &model);
  if (status == ML_OK) status = answer(engine, model, question, seconds);
  if (status != ML_OK) fprintf(stderr, "embed: %s (%s)\n", ml_error_message(), ml_status_name(status));
  ml_model_close(model);
  ml_engine_close(engine);
  return status == ML_OK ? 0 : 1;
}
