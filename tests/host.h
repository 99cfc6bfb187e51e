/* host.h: what the tests of the C API share: an engine, a callback that remembers, options. */
#ifndef ML_TESTS_HOST_H
#define ML_TESTS_HOST_H

#include "tiny.h"

/* Engines of two threads, so that both ways of running are taken. */
CHECK_UNUSED static ml_engine *open_engine(void) {
  ml_engine_options options = {.struct_size = sizeof options, .threads = 2};
  ml_engine *engine = NULL;
  CHECK_OK(ml_engine_create(&options, &engine), "an engine opens");
  return engine;
}

CHECK_UNUSED static ml_model *load(ml_engine *engine, const char *path) {
  ml_model *model = NULL;
  CHECK_OK(ml_model_load(engine, path, NULL, &model), "%s loads", path == scratch_folder ? "a model with text" : path);
  return model;
}

/* What a callback keeps, and when it has had enough. */
typedef struct heard {
  int32_t ids[64];
  int64_t last_index;
  int count, enough; /* enough 0: never */
  char text[512];
  bool in_order;
  ml_model *model; /* for callbacks that call */
  ml_status inner;
} heard;

CHECK_UNUSED static bool hear(void *context, const ml_token *token) {
  heard *h = context;
  if (h->count < 64) h->ids[h->count] = token->id;
  if (token->text) {
    strncat(h->text, token->text, sizeof h->text - strlen(h->text) - 1);
    if (strlen(token->text) != token->text_bytes) h->in_order = false;
  }
  if (token->index != h->last_index + 1) h->in_order = false;
  h->last_index = token->index;
  return ++h->count != h->enough;
}

CHECK_UNUSED static ml_generate_options greedy(int64_t max_tokens) {
  return (ml_generate_options){.struct_size = sizeof(ml_generate_options),
                               .ids = tiny_prompt,
                               .n_ids = TINY_PROMPT,
                               .max_tokens = max_tokens,
                               .ignore_eos = true};
}

CHECK_UNUSED static ml_metrics no_metrics(void) { return (ml_metrics){.struct_size = sizeof(ml_metrics)}; }

/* A life of an engine, from its making to its end. */
typedef ml_status (*engine_life)(void *unused);
CHECK_UNUSED static void run_life(void *life) { (*(engine_life *)life)(NULL); }

CHECK_UNUSED static void check_life_leaks_nothing(engine_life life, const char *name) {
  check_no_leak(run_life, &life, name);
}

/* Beside check_refusals: each single refusal of memory is survived by collecting or is a clean failure, and which of
 * both does not matter, so that the first success is not the end.
 * Requests are tens of thousands, so that from `dense` on later ones are sampled: a part of `part` further on. */
CHECK_UNUSED static void check_life_refusals(engine_life life, const char *name, long most, long dense, long step,
                                             long part) {
  CHECK_OK(life(NULL), "%s", name);
  size_t before = check_heap_bytes();
  long refused = 0;
  ml_status strange = ML_OK;
  char message[200] = "";
  for (long n = 0; n < most; n += n < dense ? step : n / part) {
    ml_mem_fail_after(n);
    ml_status status = life(NULL);
    ml_mem_fail_after(-1);
    refused += status == ML_MEMORY;
    if (status == ML_OK || status == ML_MEMORY || strange) continue;
    strange = status;
    snprintf(message, sizeof message, "refusal %ld: %.150s", n, ml_error_message());
  }
  CHECK(!strange, "every refusal is ML_MEMORY (%s %s)", ml_status_name(strange), message);
  CHECK(refused > 5, "%ld refusals were reported", refused);
  CHECK(check_heap_bytes() <= before, "refusals leak nothing (%zu bytes before, %zu after)", before,
        check_heap_bytes());
}

#endif
