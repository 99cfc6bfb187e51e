/* test_engine_batch.c: the C API's batches, and its calls that look at whole texts, as a host uses them. */
#include "host.h"

#include <math.h>
#include <pthread.h>
#include <time.h>

enum { ROWS = 6, VOCABULARY = 131, WIDTH = 24 };

static ml_model *load_exact(ml_engine *engine, const char *path) {
  ml_model *model = NULL;
  ml_load_options options = {.struct_size = sizeof options, .precision = "exact"};
  CHECK_OK(ml_model_load(engine, path, &options, &model), "a model loads");
  return model;
}

/* Prompts of three kinds, with options of their own. */
static const ml_message said[] = {{"user", "Why <s>?"}};
static const char *const stop[] = {"q", "w"};
static void fill(ml_generate_options *requests) {
  for (int i = 0; i < ROWS; i++) requests[i] = greedy(10 + i);
  requests[1] = (ml_generate_options){.struct_size = sizeof *requests, .prompt = "the moon", .max_tokens = 20};
  requests[1].stop = stop, requests[1].n_stop = 2;
  requests[2] = (ml_generate_options){
      .struct_size = sizeof *requests, .messages = said, .n_messages = 1, .max_tokens = 9, .model_defaults = true};
  requests[3].temperature = 1, requests[3].seed = 7, requests[3].logprobs = 2;
  requests[4].zeros = ML_ZERO_MAX_TOKENS, requests[4].max_tokens = 0;
}

/* What the callbacks of a batch keep, and do. */
typedef struct watched {
  heard rows[ROWS];
  size_t order[ROWS];
  int n_ended, end_row, end_at, stop_after; /* end_row -1, stop_after 0: nothing */
  bool agree;                               /* rows that end say what was heard */
  ml_model *close;                          /* at the 7th token */
  ml_engine *cancel;                        /* likewise */
  int tokens;
} watched;

static bool watch_token(void *context, size_t index, const ml_token *token) {
  watched *w = context;
  if (index >= ROWS) return false;
  hear(&w->rows[index], token);
  if (++w->tokens == 7) {
    ml_model_close(w->close);
    if (w->cancel) ml_cancel(w->cancel);
  }
  return !((int)index == w->end_row && token->index == w->end_at);
}

static bool watch_row(void *context, const ml_batch_row *row) {
  watched *w = context;
  const heard *h = &w->rows[row->index];
  if (w->n_ended < ROWS) w->order[w->n_ended] = row->index;
  if (row->status == ML_OK) {
    w->agree = w->agree && row->n_ids == (size_t)h->count && strlen(row->text) == row->text_bytes;
    w->agree = w->agree && strcmp(row->text, h->text) == 0 && !*row->message;
    w->agree = w->agree && memcmp(row->ids, h->ids, row->n_ids * sizeof(int32_t)) == 0;
  }
  return ++w->n_ended != w->stop_after;
}

static ml_batch_options watching(watched *w) {
  *w = (watched){.end_row = -1, .agree = true};
  for (int i = 0; i < ROWS; i++) w->rows[i].in_order = true;
  return (ml_batch_options){
      .struct_size = sizeof(ml_batch_options), .on_token = watch_token, .on_row = watch_row, .context = w, .slots = 3};
}

/* ---- batches ---- */

static void test_batch(ml_model *model) {
  ml_generate_options requests[ROWS];
  ml_batch *batch = NULL;
  ml_metrics all = no_metrics();
  watched w;
  fill(requests);
  ml_batch_options options = watching(&w);
  CHECK_OK(ml_batch_generate(model, requests, ROWS, &options, &batch, &all), "a batch");
  CHECK(batch && batch->n_rows == ROWS && w.n_ended == ROWS && w.agree, "rows say what the callbacks heard");
  int64_t generated = 0;
  for (int i = 0; i < ROWS; i++) {
    heard alone = {.in_order = true};
    ml_metrics m = no_metrics();
    const ml_batch_row *row = batch->rows[i];
    ml_generate(model, &requests[i], hear, &alone, &m);
    CHECK(row->index == (size_t)i && row->n_ids == (size_t)alone.count && strcmp(row->text, alone.text) == 0 &&
              memcmp(row->ids, alone.ids, row->n_ids * sizeof(int32_t)) == 0,
          "row %d is what its request gives alone: %zu tokens", i, row->n_ids);
    CHECK(row->metrics->finish_reason == m.finish_reason && row->metrics->prompt_tokens == m.prompt_tokens &&
              row->metrics->generated_tokens == m.generated_tokens && w.rows[i].in_order,
          "row %d ends as it does alone: %s", i, ml_finish_name(m.finish_reason));
    CHECK((row->logprobs != NULL) == (i == 3) && (row->top_logprobs != NULL) == (i == 3), "row %d: probabilities", i);
    generated += row->metrics->generated_tokens;
  }
  CHECK(all.generated_tokens == generated && all.finish_reason == ML_FINISH_STOP && all.total_seconds > 0 &&
            all.decode_tokens_per_second > 0 && all.peak_bytes > 0,
        "figures of all");
  const ml_batch_row *row = batch->rows[3];
  CHECK(row->n_top_logprobs == 2 && row->top_logprobs[2 * 4].logprob >= row->logprobs[4] &&
            row->top_logprobs[2 * 4].logprob >= row->top_logprobs[2 * 4 + 1].logprob && row->logprobs[4] < 0,
        "the likeliest first");
  ml_batch_close(batch);
  ml_batch_close(NULL);
  CHECK_OK(ml_batch_generate(model, NULL, 0, NULL, &batch, NULL), "no requests");
  CHECK(batch->n_rows == 0, "are no rows");
  ml_batch_close(batch);
  CHECK_OK(ml_batch_generate(model, requests, ROWS, NULL, NULL, NULL), "nobody who looks");
}

static void test_row_errors(ml_model *model) {
  ml_generate_options requests[ROWS];
  const int32_t wild[] = {3, 131};
  ml_batch *batch = NULL;
  fill(requests);
  requests[0].top_p = 1.5;
  requests[3].ids = wild, requests[3].n_ids = 2;
  requests[5].n_ids = 0;
  CHECK_OK(ml_batch_generate(model, requests, ROWS, NULL, &batch, NULL), "a batch with wrong requests");
  CHECK(batch->rows[0]->status == ML_USAGE && strstr(batch->rows[0]->message, "top_p"), "a top_p of 1.5");
  CHECK(batch->rows[3]->status == ML_USAGE && strstr(batch->rows[3]->message, "131"), "an id behind the vocabulary");
  CHECK(batch->rows[5]->status == ML_USAGE && strstr(batch->rows[5]->message, "empty"), "an empty prompt");
  CHECK(batch->rows[5]->metrics->finish_reason == ML_FINISH_ERROR && batch->rows[5]->n_ids == 0, "end those rows");
  CHECK(batch->rows[1]->status == ML_OK && batch->rows[1]->n_ids > 0 && !*batch->rows[1]->message, "not the others");
  ml_batch_close(batch);
}

static void test_ends(ml_engine *engine, ml_model *model) {
  ml_generate_options requests[ROWS];
  ml_batch *batch = NULL;
  ml_metrics all = no_metrics();
  watched w;
  fill(requests);
  ml_batch_options options = watching(&w);
  w.end_row = 0, w.end_at = 3;
  CHECK_OK(ml_batch_generate(model, requests, ROWS, &options, &batch, NULL), "a callback that has enough of a row");
  CHECK(batch->rows[0]->n_ids == 3 && batch->rows[0]->metrics->finish_reason == ML_FINISH_CANCELLED, "ends that row");
  CHECK(batch->rows[5]->n_ids == 15 && w.n_ended == ROWS, "and no other");
  ml_batch_close(batch);
  options = watching(&w);
  w.stop_after = 2;
  CHECK_OK(ml_batch_generate(model, requests, ROWS, &options, &batch, &all), "one that has enough after two rows");
  int cancelled = 0;
  for (int i = 0; i < ROWS; i++) cancelled += batch->rows[i]->metrics->finish_reason == ML_FINISH_CANCELLED;
  CHECK(cancelled == ROWS - 2 && w.n_ended == 2 && all.finish_reason == ML_FINISH_CANCELLED, "ends all others");
  ml_batch_close(batch);
  options = watching(&w);
  w.cancel = engine;
  CHECK_OK(ml_batch_generate(model, requests, ROWS, &options, &batch, &all), "a cancelled batch");
  size_t tokens = 0;
  for (int i = 0; i < ROWS; i++) tokens += batch->rows[i]->n_ids;
  CHECK(tokens >= 7 && tokens == (size_t)w.tokens && all.finish_reason == ML_FINISH_CANCELLED,
        "has what it came to (%zu tokens)", tokens);
  CHECK(batch->rows[5]->metrics->finish_reason == ML_FINISH_CANCELLED, "also of rows that had not begun");
  CHECK(!ml_cancel_clear(engine), "the flag is down again");
  ml_batch_close(batch);
  ml_cancel(engine);
  CHECK_OK(ml_batch_generate(model, requests, ROWS, NULL, &batch, &all), "a flag raised beforehand");
  CHECK(batch->rows[0]->metrics->finish_reason == ML_FINISH_CANCELLED && batch->rows[0]->n_ids == 0 &&
            all.finish_reason == ML_FINISH_CANCELLED && !ml_cancel_clear(engine),
        "ends all before their first token");
  ml_batch_close(batch);
  ml_model *other = load_exact(engine, tiny_with_text());
  options = watching(&w);
  w.close = other;
  batch = (ml_batch *)1;
  CHECK_FAILS(ml_batch_generate(other, requests, ROWS, &options, &batch, &all), ML_USAGE, "the model was closed",
              "a callback that closes the model");
  CHECK(!batch && w.tokens == 7 && all.finish_reason == ML_FINISH_ERROR, "ends the batch with an error, NULL");
}

/* Generates, and runs a batch of its own, while a batch runs. */
static bool generate_inside(void *context, size_t index, const ml_token *token) {
  watched *w = context;
  ml_generate_options o = greedy(5);
  if (index == 1 && token->index == 2) {
    heard h = {.in_order = true};
    ml_batch *batch = NULL;
    ml_generate(w->close, &o, hear, &h, NULL);
    ml_batch_generate(w->close, &o, 1, NULL, &batch, NULL);
    w->agree = h.count == 5 && memcmp(h.ids, tiny_answer, 5 * sizeof(int32_t)) == 0 && batch &&
               batch->rows[0]->n_ids == 5 && memcmp(batch->rows[0]->ids, tiny_answer, 5 * sizeof(int32_t)) == 0;
    ml_batch_close(batch);
  }
  return true;
}

static void test_nested(ml_model *model) {
  ml_generate_options requests[ROWS];
  ml_batch *batch = NULL;
  watched w = {.close = model};
  for (int i = 0; i < ROWS; i++) requests[i] = greedy(TINY_ANSWER);
  ml_batch_options options = {.struct_size = sizeof options, .on_token = generate_inside, .context = &w};
  CHECK_OK(ml_batch_generate(model, requests, ROWS, &options, &batch, NULL), "a callback that generates itself");
  int right = 0;
  for (int i = 0; i < ROWS; i++) right += memcmp(batch->rows[i]->ids, tiny_answer, sizeof tiny_answer) == 0;
  CHECK(w.agree && right == ROWS, "gets what it asked for, and disturbs nothing (%d rows right)", right);
  ml_batch_close(batch);
}

static void *cancel_soon(void *engine) {
  nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
  ml_cancel(engine);
  return NULL;
}

static void test_cancel(ml_engine *engine, ml_model *model) {
  ml_generate_options requests[ROWS];
  ml_metrics all = no_metrics();
  pthread_t thread;
  ml_status status;
  for (int i = 0; i < ROWS; i++) requests[i] = greedy(200);
  pthread_create(&thread, NULL, cancel_soon, engine);
  do status = ml_batch_generate(model, requests, ROWS, NULL, NULL, &all);
  while (status == ML_OK && all.finish_reason == ML_FINISH_STOP);
  pthread_join(thread, NULL);
  CHECK_OK(status, "another thread cancels");
  CHECK(all.finish_reason == ML_FINISH_CANCELLED && !ml_cancel_clear(engine), "the whole batch");
}

static void test_usage(ml_model *model) {
  ml_generate_options requests[ROWS];
  ml_batch *batch = (ml_batch *)1;
  fill(requests);
  requests[2].messages = NULL, requests[2].model_defaults = false;
  CHECK_FAILS(ml_batch_generate(model, requests, ROWS, NULL, &batch, NULL), ML_USAGE, "requests[2]", "no prompt");
  CHECK(!batch, "a failure leaves NULL");
  fill(requests);
  const char *const broken[] = {"x", NULL};
  requests[1].stop = broken;
  CHECK_FAILS(ml_batch_generate(model, requests, ROWS, NULL, &batch, NULL), ML_USAGE, "requests[1]: stop",
              "a stop text that is NULL");
  fill(requests);
  requests[4].struct_size -= 8;
  CHECK_FAILS(ml_batch_generate(model, requests, ROWS, NULL, &batch, NULL), ML_USAGE, "requests[4]: struct_size",
              "requests of two sizes");
  CHECK_FAILS(ml_batch_generate(model, NULL, 2, NULL, &batch, NULL), ML_USAGE, "NULL", "two requests at NULL");
  CHECK_FAILS(ml_batch_generate(NULL, requests, 2, NULL, &batch, NULL), ML_USAGE, "NULL", "no model");
  fill(requests);
  ml_batch_options options = {.struct_size = sizeof options, .slots = -1};
  CHECK_FAILS(ml_batch_generate(model, requests, ROWS, &options, &batch, NULL), ML_USAGE, "slots", "slots of -1");
  struct {
    char bytes[offsetof(ml_generate_options, zeros)];
  } older[2];
  for (int i = 0; i < 2; i++) {
    ml_generate_options o = greedy(4 + i);
    o.struct_size = sizeof older[0];
    memcpy(&older[i], &o, sizeof older[0]);
  }
  CHECK_OK(ml_batch_generate(model, (ml_generate_options *)older, 2, NULL, &batch, NULL), "an older version's array");
  CHECK(batch->rows[1]->n_ids == 5, "is read by its own size");
  ml_batch_close(batch);
}

/* ---- options of messages ---- */

/* How many tokens the prompt has that the options make, alone and in a batch; -1 when they disagree. */
static int64_t prompt_tokens(ml_model *model, const ml_generate_options *o) {
  ml_metrics m = no_metrics();
  ml_batch *batch = NULL;
  if (ml_generate(model, o, NULL, NULL, &m) != ML_OK || ml_batch_generate(model, o, 1, NULL, &batch, NULL) != ML_OK)
    return -1;
  int64_t n = batch->rows[0]->metrics->prompt_tokens == m.prompt_tokens ? m.prompt_tokens : -1;
  ml_batch_close(batch);
  return n;
}

static void test_messages(ml_model *model) {
  const ml_message begun[] = {{"user", "Why?"}, {"assistant", "Because"}};
  ml_generate_options o = {.struct_size = sizeof o, .messages = said, .n_messages = 1, .max_tokens = 2};
  int64_t plain = prompt_tokens(model, &o);
  CHECK(plain > 0, "a conversation");
  o.parse_special = true;
  CHECK(prompt_tokens(model, &o) == plain - 2, "special tokens in what is said");
  o = (ml_generate_options){.struct_size = sizeof o, .messages = begun, .n_messages = 2, .max_tokens = 2};
  plain = prompt_tokens(model, &o);
  o.continue_final_message = true;
  CHECK(prompt_tokens(model, &o) == plain - 12, "an answer that goes on with a message (%lld, %lld)",
        (long long)prompt_tokens(model, &o), (long long)plain);
  o.continue_final_message = false;
  o.chat_template =
      "{{ tools[0].name }}{{ documents[0].text }}{{ mark }}{{ 'x' if strftime_now('%Y') == '2024' else 'another' }}";
  o.tools = "[{\"name\": \"look\"}]", o.documents = "[{\"title\": \"\", \"text\": \"pq\"}]";
  o.template_vars = "{\"mark\": \"!\"}", o.now = "2024-07-26T12:00:00";
  int64_t with_all = prompt_tokens(model, &o);
  size_t count;
  ml_tokenize(model, "lookpq!x", 8, ML_NO_SPECIAL_TOKENS, NULL, 0, &count);
  CHECK(with_all == (int64_t)count, "a template with all that it reads (%lld, %zu)", (long long)with_all, count);
  o.tools = "[";
  CHECK_FAILS(ml_generate(model, &o, NULL, NULL, NULL), ML_CORRUPT, "tools", "tools that are no JSON");
  CHECK_FAILS(ml_batch_generate(model, &o, 1, NULL, NULL, NULL), ML_CORRUPT, "requests[0]: tools", "in a batch too");
  o = greedy(2), o.now = "2024-07-26";
  CHECK_FAILS(ml_generate(model, &o, NULL, NULL, NULL), ML_USAGE, "now: expected messages", "a date without messages");
}

/* ---- whole texts ---- */

static double of_logits(const float *logits, int32_t id) {
  double sum = 0;
  for (int i = 0; i < VOCABULARY; i++) sum += exp(logits[i]);
  return logits[id] - log(sum);
}

static void test_score(ml_model *model) {
  static float logits[(TINY_PROMPT + TINY_ANSWER) * VOCABULARY];
  int32_t ids[TINY_PROMPT + TINY_ANSWER];
  memcpy(ids, tiny_prompt, sizeof tiny_prompt);
  memcpy(ids + TINY_PROMPT, tiny_answer, sizeof tiny_answer);
  const size_t n = TINY_PROMPT + TINY_ANSWER, room = sizeof logits / sizeof *logits;
  ml_metrics m = no_metrics();
  CHECK_OK(ml_logits(model, ids, n, logits, room, &m), "logits");
  CHECK(m.prompt_tokens == (int64_t)n && m.generated_tokens == 0 && m.total_seconds > 0, "with figures");
  CHECK_FAILS(ml_logits(model, ids, n, logits, room - 1, NULL), ML_USAGE, "capacity", "too little room");
  const int32_t wild[] = {VOCABULARY};
  CHECK_FAILS(ml_logits(model, wild, 1, logits, room, NULL), ML_USAGE, "131", "an id behind the vocabulary");

  const ml_prompt prefix = {.ids = tiny_prompt, .n_ids = TINY_PROMPT};
  const ml_prompt continuations[] = {{.ids = tiny_answer, .n_ids = 5}, {.ids = wild + 0, .n_ids = 0}, {.text = "moon"}};
  ml_likelihood l[3];
  CHECK_OK(ml_score(model, &prefix, continuations, 1, l, &m), "a score");
  double want = 0;
  for (int i = 0; i < 5; i++) want += of_logits(logits + (TINY_PROMPT - 1 + i) * VOCABULARY, tiny_answer[i]);
  CHECK(fabs(l[0].logprob - want) < 1e-3 && l[0].tokens == 5 && l[0].greedy, "is what the logits say");
  CHECK(m.prompt_tokens == TINY_PROMPT + 4 && m.total_seconds > 0, "with figures");
  CHECK_FAILS(ml_score(model, &prefix, continuations, 2, l, NULL), ML_USAGE, "no tokens", "an empty continuation");
  const ml_prompt texts[] = {{.text = "moon"}, {.text = "mood"}};
  const ml_prompt text = {.text = "the "};
  CHECK_OK(ml_score(model, &text, texts, 2, l, NULL), "texts behind a text");
  CHECK(l[0].tokens == 4 && l[1].tokens == 4 && l[0].logprob < 0 && l[0].logprob != l[1].logprob, "have their scores");
  const ml_prompt odd[] = {{.messages = said, .n_messages = 1}};
  CHECK_FAILS(ml_score(model, &text, odd, 1, l, NULL), ML_USAGE, "continuations[0]", "messages behind a text");
  CHECK_FAILS(ml_score(model, &(ml_prompt){0}, texts, 1, l, NULL), ML_USAGE, "prefix", "no prefix");

  double logprobs[TINY_PROMPT + TINY_ANSWER];
  ml_perplexity_info info = {.struct_size = sizeof info};
  const ml_prompt whole = {.ids = ids, .n_ids = n};
  CHECK_OK(ml_perplexity(model, &whole, NULL, logprobs, n, &info, &m), "a perplexity");
  double sum = 0, off = 0;
  for (size_t i = 0; i + 1 < n; i++) {
    sum += logprobs[i];
    off = fmax(off, fabs(logprobs[i] - of_logits(logits + i * VOCABULARY, ids[i + 1])));
  }
  CHECK(info.tokens == (int64_t)n - 1 && off < 1e-3, "its log probabilities are the logits' (%.2g)", off);
  CHECK(fabs(info.nll + sum / (double)info.tokens) < 1e-9 && fabs(info.perplexity - exp(info.nll)) < 1e-9,
        "and their mean");
  ml_perplexity_options options = {.struct_size = sizeof options, .context = 8, .stride = 4, .max_tokens = 10};
  CHECK_OK(ml_perplexity(model, &whole, &options, NULL, 0, &info, NULL), "in windows");
  CHECK(info.tokens == 10, "of a few tokens");
  options.stride = 9;
  CHECK_FAILS(ml_perplexity(model, &whole, &options, NULL, 0, &info, NULL), ML_USAGE, "stride", "a stride of 9 in 8");
}

static bool count_progress(void *context, double fraction) {
  double *last = context;
  bool goes_on = fraction > *last;
  *last = fraction;
  return goes_on;
}

static bool refuse_progress(void *context, double fraction) { return (void)context, fraction < 0; }

static void test_classify(ml_engine *engine, ml_model *model) {
  const ml_prompt texts[] = {{.text = "the moon"}, {.text = "a star"}, {.messages = said, .n_messages = 1}};
  const char *const one[] = {"a", "b", "c"}, *const several[] = {"moon", "star"};
  ml_class classes[3], again[3];
  double logprobs[9];
  ml_metrics m = no_metrics();
  CHECK_OK(ml_classify(model, texts, 3, one, 3, NULL, classes, logprobs, &m), "classes by labels of one token");
  int wrong = 0;
  for (int i = 0; i < 3; i++) {
    double sum = 0;
    for (int k = 0; k < 3; k++) {
      sum += exp(logprobs[3 * i + k]);
      wrong += logprobs[3 * i + k] > logprobs[3 * i + classes[i].label];
    }
    wrong += fabs(sum - 1) > 1e-9 || fabs(exp(logprobs[3 * i + classes[i].label]) - classes[i].probability) > 1e-9;
  }
  CHECK(wrong == 0, "the best is the likeliest, and all are certain together");
  CHECK(m.prompt_tokens > 20 && m.total_seconds > 0, "with figures");
  CHECK_OK(ml_classify(model, texts, 3, one, 3, NULL, again, NULL, NULL), "without log probabilities");
  CHECK(again[0].label == classes[0].label && again[2].probability == classes[2].probability, "the same");
  CHECK_OK(ml_classify(model, texts, 2, several, 2, NULL, classes, logprobs, NULL), "labels of several tokens");
  CHECK(fabs(exp(logprobs[0]) + exp(logprobs[1]) - 1) < 1e-9, "are certain together");
  CHECK_OK(ml_classify(model, texts, 1, NULL, 0, NULL, classes, NULL, NULL), "without labels");
  heard h = {.in_order = true};
  ml_generate_options o = {.struct_size = sizeof o, .prompt = "the moon", .max_tokens = 1, .ignore_eos = true};
  ml_generate(model, &o, hear, &h, NULL);
  CHECK(classes[0].label == h.ids[0] && classes[0].probability > 0, "the next token");
  double last = 0;
  ml_classify_options options = {
      .struct_size = sizeof options, .batch_size = 1, .progress = count_progress, .progress_context = &last};
  CHECK_OK(ml_classify(model, texts, 3, one, 3, &options, classes, NULL, NULL), "one after another");
  CHECK(last == 1, "progress goes from 0 to 1");
  options.progress = refuse_progress;
  CHECK_FAILS(ml_classify(model, texts, 3, one, 3, &options, classes, NULL, NULL), ML_CANCELLED, "cancelled",
              "progress may cancel");
  options = (ml_classify_options){.struct_size = sizeof options, .text_template = "Is {text} far?"};
  CHECK_OK(ml_classify(model, texts, 2, one, 3, &options, classes, NULL, &m), "in a template");
  options.text_template = "Is it far?";
  CHECK_FAILS(ml_classify(model, texts, 2, one, 3, &options, classes, NULL, NULL), ML_USAGE, "{text}",
              "a template without a place");
  const char *const broken[] = {"a", NULL};
  CHECK_FAILS(ml_classify(model, texts, 2, broken, 2, NULL, classes, NULL, NULL), ML_USAGE, "labels[1]",
              "a label that is NULL");
  const ml_prompt none[] = {{.text = "x"}, {0}};
  CHECK_FAILS(ml_classify(model, none, 2, one, 3, NULL, classes, NULL, NULL), ML_USAGE, "texts[1]",
              "a text of nothing");
  ml_cancel(engine);
  CHECK_FAILS(ml_classify(model, texts, 3, one, 3, NULL, classes, NULL, NULL), ML_CANCELLED, "cancelled",
              "a raised flag");
  CHECK(!ml_cancel_clear(engine), "which is down again");
}

static void test_embed(ml_model *model) {
  const ml_prompt texts[] = {{.text = "the moon"}, {.text = "a star"}, {.text = "the moon"}};
  float vectors[3 * WIDTH], last[3 * WIDTH];
  ml_metrics m = no_metrics();
  ml_embed_options options = {.struct_size = sizeof options, .normalize = true};
  CHECK_OK(ml_embed(model, texts, 3, &options, vectors, 3 * WIDTH, &m), "vectors");
  double length = 0;
  for (int i = 0; i < WIDTH; i++) length += vectors[WIDTH + i] * vectors[WIDTH + i];
  CHECK(fabs(length - 1) < 1e-5 && memcmp(vectors, vectors + 2 * WIDTH, WIDTH * sizeof(float)) == 0 &&
            memcmp(vectors, vectors + WIDTH, WIDTH * sizeof(float)) != 0,
        "have length 1, and stand for their texts");
  CHECK(m.prompt_tokens == 9 + 7 + 9, "with figures (%lld tokens)", (long long)m.prompt_tokens);
  options.pooling = "last";
  CHECK_OK(ml_embed(model, texts, 3, &options, last, 3 * WIDTH, NULL), "of the last tokens");
  CHECK(memcmp(vectors, last, sizeof last) != 0, "are others");
  options.pooling = "best";
  CHECK_FAILS(ml_embed(model, texts, 3, &options, last, 3 * WIDTH, NULL), ML_USAGE, "best", "an unknown pooling");
  CHECK_FAILS(ml_embed(model, texts, 3, NULL, last, 3 * WIDTH - 1, NULL), ML_USAGE, "capacity", "too little room");
  CHECK_OK(ml_embed(model, NULL, 0, NULL, NULL, 0, NULL), "no texts");
}

/* ---- memory ---- */

static ml_status whole_life(void *unused) {
  (void)unused;
  ml_engine *engine = NULL;
  ml_model *model = NULL;
  ml_batch *batch = NULL;
  ml_generate_options requests[ROWS];
  ml_class classes[2];
  float vectors[2 * WIDTH];
  watched w;
  fill(requests);
  ml_batch_options batching = watching(&w);
  ml_engine_options options = {.struct_size = sizeof options, .threads = 1};
  const ml_prompt texts[] = {{.text = "the moon"}, {.text = "a star"}};
  const char *const labels[] = {"a", "bc"};
  ml_status status = ml_engine_create(&options, &engine), row = ML_OK;
  if (status == ML_OK) status = ml_model_load(engine, tiny_with_text(), NULL, &model);
  if (status == ML_OK) status = ml_batch_generate(model, requests, ROWS, &batching, &batch, NULL);
  if (status == ML_OK) status = ml_classify(model, texts, 2, labels, 2, NULL, classes, NULL, NULL);
  if (status == ML_OK) status = ml_embed(model, texts, 2, NULL, vectors, 2 * WIDTH, NULL);
  ml_engine_close(engine);
  for (int i = 0; batch && i < ROWS; i++) { /* rows outlive the engine */
    if (batch->rows[i]->status != ML_OK) row = batch->rows[i]->status;
    else if (strlen(batch->rows[i]->text) != batch->rows[i]->text_bytes) row = ML_CORRUPT;
  }
  ml_batch_close(batch);
  return status != ML_OK ? status : row;
}

/* A batch of 32 rows with a limit on tensors: how many rows come to their end, and how many to the limit. */
static void run_limited(size_t limit_bytes, int *whole, int *limited) {
  enum { MANY = 32 };
  ml_engine *engine = NULL;
  ml_batch *batch = NULL;
  ml_engine_options options = {.struct_size = sizeof options, .threads = 1, .memory_limit_bytes = limit_bytes};
  ml_batch_options at_once = {.struct_size = sizeof at_once, .slots = MANY};
  ml_generate_options requests[MANY];
  for (int i = 0; i < MANY; i++) requests[i] = greedy(240);
  CHECK_OK(ml_engine_create(&options, &engine), "an engine with a limit");
  ml_model *model = load_exact(engine, TINY_MODEL);
  CHECK_OK(ml_batch_generate(model, requests, MANY, &at_once, &batch, NULL), "%d long rows", MANY);
  *whole = *limited = 0;
  for (int i = 0; batch && i < MANY; i++) {
    const ml_batch_row *row = batch->rows[i];
    *whole += row->status == ML_OK && row->n_ids == 240 && memcmp(row->ids, batch->rows[0]->ids, 240 * 4) == 0;
    *limited += row->status == ML_LIMIT && strstr(row->message, "limit") && !*row->text;
  }
  ml_batch_close(batch);
  ml_engine_close(engine);
}

/* Rows whose caches find no room wait for others; what finds none alone is an error of that row. */
static void test_limit(void) {
  ml_engine *engine = open_engine();
  ml_memory_info memory = {.struct_size = sizeof memory};
  int whole, limited;
  ml_generate_options requests[32];
  for (int i = 0; i < 32; i++) requests[i] = greedy(4);
  ml_model *model = load_exact(engine, TINY_MODEL);
  ml_engine_memory(engine, &memory);
  size_t loaded = memory.peak_bytes;
  ml_batch_options at_once = {.struct_size = sizeof at_once, .slots = 32};
  CHECK_OK(ml_batch_generate(model, requests, 32, &at_once, NULL, NULL), "32 short rows at once");
  ml_engine_memory(engine, &memory);
  ml_engine_close(engine);
  run_limited(memory.peak_bytes + 200000, &whole, &limited);
  CHECK(whole == 32, "all come to their end (%d)", whole);
  run_limited(loaded + 4096, &whole, &limited);
  CHECK(limited == 32, "or to the limit (%d)", limited);
}

/* ---- a real model ---- */

static void test_real(void) {
  const char *path = check_checkpoint("SmolLM2-135M-Instruct.gguf", "a batch of SmolLM2");
  if (!path) return;
  ml_engine *engine = open_engine();
  ml_model *model = load(engine, path);
  const ml_message capital[] = {{"user", "What is the capital of France? Answer with its name alone."}};
  const ml_message other[] = {{"user", "What is the capital of Italy? Answer with its name alone."}};
  ml_generate_options requests[] = {
      {.struct_size = sizeof *requests, .messages = capital, .n_messages = 1, .max_tokens = 24},
      {.struct_size = sizeof *requests, .messages = other, .n_messages = 1, .max_tokens = 24},
      {.struct_size = sizeof *requests, .prompt = "The Moon is", .max_tokens = 8, .logprobs = 3},
  };
  ml_batch *batch = NULL;
  CHECK_OK(ml_batch_generate(model, requests, 3, NULL, &batch, NULL), "SmolLM2 is asked three things at once");
  CHECK(strstr(batch->rows[0]->text, "Paris"), "and says \"%s\"", batch->rows[0]->text);
  heard h = {.in_order = true};
  ml_generate(model, &requests[1], hear, &h, NULL);
  CHECK(strcmp(h.text, batch->rows[1]->text) == 0, "what it says to one alone: \"%s\"", h.text);
  CHECK(batch->rows[2]->n_ids == 8 && batch->rows[2]->n_top_logprobs == 3, "\"The Moon is%s\"", batch->rows[2]->text);
  ml_batch_close(batch);
  const ml_prompt prefix = {.text = "The capital of France is"};
  const ml_prompt cities[] = {{.text = " Paris"}, {.text = " Rome"}};
  ml_likelihood l[2];
  CHECK_OK(ml_score(model, &prefix, cities, 2, l, NULL), "two continuations");
  CHECK(l[0].logprob > l[1].logprob, "the right one is likelier (%.2f, %.2f)", l[0].logprob, l[1].logprob);
  ml_engine_close(engine);
}

int main(void) {
  ml_engine *engine = open_engine();
  ml_model *model = load_exact(engine, tiny_with_text());
  test_batch(model);
  test_row_errors(model);
  test_ends(engine, model);
  test_cancel(engine, model);
  test_usage(model);
  test_messages(model);
  test_nested(model);
  test_score(model);
  test_classify(engine, model);
  test_embed(model);
  CHECK_OK(ml_engine_close(engine), "the engine closes");
  test_limit();
  check_life_refusals(whole_life, "an engine's life with a batch", 80000, 40, 2, 12);
  check_life_leaks_nothing(whole_life, "an engine's life with a batch");
  test_real();
  return check_done();
}
