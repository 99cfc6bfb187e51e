/* batch.c: a C program that answers many questions at once.
 *
 *   build/examples/batch MODEL QUESTION...
 *
 * An answer goes to stdout when it is whole, with its question's number; figures go to stderr. */
#include <moonlet.h>

#include <stdio.h>
#include <stdlib.h>

static bool print_answer(void *context, const ml_batch_row *row) {
  (void)context;
  if (row->status == ML_OK) printf("%zu: %s\n", row->index + 1, row->text);
  else printf("%zu: %s (%s)\n", row->index + 1, row->message, ml_status_name(row->status));
  fflush(stdout);
  return true;
}

static ml_status answer(ml_model *model, char **questions, size_t n) {
  ml_generate_options *requests = calloc(n, sizeof *requests);
  ml_message *messages = calloc(n, sizeof *messages);
  if (!requests || !messages) {
    free(requests);
    free(messages);
    return ML_MEMORY;
  }
  for (size_t i = 0; i < n; i++) {
    messages[i] = (ml_message){"user", questions[i]};
    requests[i] = (ml_generate_options){
        .struct_size = sizeof *requests, .messages = &messages[i], .n_messages = 1, .max_tokens = 100};
  }
  ml_batch_options options = {.struct_size = sizeof options, .on_row = print_answer};
  ml_metrics metrics = {.struct_size = sizeof metrics};
  ml_status status = ml_batch_generate(model, requests, n, &options, NULL, &metrics);
  if (status == ML_OK)
    fprintf(stderr, "%lld tokens in %.2f s, %.1f a second; %.1f MB\n", (long long)metrics.generated_tokens,
            metrics.total_seconds, metrics.decode_tokens_per_second, (double)metrics.peak_bytes / 1e6);
  free(requests);
  free(messages);
  return status;
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: batch MODEL QUESTION...\n");
    return 2;
  }
  ml_engine *engine = NULL;
  ml_model *model = NULL;
  ml_status status = ml_engine_create(NULL, &engine);
  if (status == ML_OK) status = ml_model_load(engine, argv[1], NULL, &model);
  if (status == ML_OK) status = answer(model, argv + 2, (size_t)argc - 2);
  if (status != ML_OK) fprintf(stderr, "batch: %s (%s)\n", ml_error_message(), ml_status_name(status));
  ml_engine_close(engine);
  return status == ML_OK ? 0 : 1;
}
