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

#endif
