/* test_engine.c: the C API as a host uses it: engines, models, text, generation, cancellation, and memory that runs
 * out. */
#include "host.h"

#include <pthread.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- options and structures ---- */

static void test_options(void) {
  ml_engine *engine = (ml_engine *)1;
  ml_engine_options options = {.struct_size = sizeof options, .threads = -1};
  CHECK_FAILS(ml_engine_create(&options, &engine), ML_USAGE, "threads", "a negative number of threads");
  CHECK(!engine, "a failure leaves NULL");
  options = (ml_engine_options){.struct_size = sizeof options, .isa = "abacus"};
  CHECK(ml_engine_create(&options, &engine) != ML_OK && strstr(ml_error_message(), "abacus"),
        "an unknown isa is named");
  options.struct_size = 0;
  CHECK_FAILS(ml_engine_create(&options, &engine), ML_USAGE, "struct_size", "options without a size");
  struct {
    ml_engine_options known;
    long unknown;
  } newer = {{.struct_size = sizeof newer, .threads = 1}, 0};
  CHECK_OK(ml_engine_create(&newer.known, &engine), "options of a newer version that say nothing new");
  ml_engine_close(engine);
  newer.unknown = 1;
  CHECK_FAILS(ml_engine_create(&newer.known, &engine), ML_UNSUPPORTED, "does not know", "an option of a newer version");
  options = (ml_engine_options){.struct_size = offsetof(ml_engine_options, isa), .isa = "abacus"};
  CHECK_OK(ml_engine_create(&options, &engine), "options of an older version");
  ml_memory_info memory = {.struct_size = offsetof(ml_memory_info, cached_bytes), .cached_bytes = 77};
  CHECK_OK(ml_engine_memory(engine, &memory), "a result of an older version");
  CHECK(memory.cached_bytes == 77, "what the caller does not know is not written");
  ml_engine_close(engine);
  ml_engine_close(NULL);
  ml_model_close(NULL);
  CHECK(strcmp(ml_version(), ML_VERSION) == 0, "the version");
}

static void test_usage(ml_engine *engine, ml_model *model) {
  ml_model *none = (ml_model *)1;
  CHECK_FAILS(ml_model_load(engine, "no/such/model", NULL, &none), ML_NOT_FOUND, "no/such/model",
              "a path that is not there");
  CHECK(!none, "a failure leaves NULL");
  CHECK_FAILS(ml_model_load(engine, NULL, NULL, &none), ML_USAGE, "NULL", "no path");
  ml_load_options load_options = {.struct_size = sizeof load_options, .precision = "sloppy"};
  CHECK_FAILS(ml_model_load(engine, TINY_MODEL, &load_options, &none), ML_USAGE, "sloppy", "an unknown precision");
  ml_generate_options o = greedy(4);
  o.prompt = "and a text";
  CHECK_FAILS(ml_generate(model, &o, NULL, NULL, NULL), ML_USAGE, "one of", "two prompts");
  o = greedy(4);
  o.ids = NULL;
  CHECK_FAILS(ml_generate(model, &o, NULL, NULL, NULL), ML_USAGE, "one of", "no prompt");
  CHECK_FAILS(ml_generate(model, NULL, NULL, NULL, NULL), ML_USAGE, "one of", "no options");
  o = greedy(4);
  o.top_p = 1.5;
  CHECK_FAILS(ml_generate(model, &o, NULL, NULL, NULL), ML_USAGE, "top_p", "top_p of 1.5");
  o = greedy(-1);
  CHECK_FAILS(ml_generate(model, &o, NULL, NULL, NULL), ML_USAGE, "max_tokens", "max_tokens of -1");
  o = greedy(4);
  o.n_ids = 0;
  CHECK_FAILS(ml_generate(model, &o, NULL, NULL, NULL), ML_USAGE, "empty", "an empty prompt");
  const int32_t wild[] = {3, 131};
  o = greedy(4);
  o.ids = wild, o.n_ids = 2;
  CHECK_FAILS(ml_generate(model, &o, NULL, NULL, NULL), ML_USAGE, "131", "an id beyond the vocabulary");
  o = greedy(4);
  o.ids = NULL, o.prompt = "text";
  CHECK_FAILS(ml_generate(model, &o, NULL, NULL, NULL), ML_NOT_FOUND, "tokenizer",
              "text for a model without a tokenizer");
  size_t count;
  CHECK_FAILS(ml_tokenize(model, "a", 1, 0, NULL, 0, &count), ML_NOT_FOUND, "tokenizer",
              "tokenize without a tokenizer");
  const char *const stop[] = {"x", NULL};
  o = greedy(4);
  o.stop = stop, o.n_stop = 2;
  CHECK_FAILS(ml_generate(model, &o, NULL, NULL, NULL), ML_USAGE, "stop", "a stop text that is NULL");
}

static bool count_progress(void *context, double fraction) {
  double *last = context;
  bool forward = fraction >= *last && fraction <= 1;
  *last = forward ? fraction : 2;
  return true;
}

static bool refuse_progress(void *context, double fraction) {
  (void)context;
  return fraction < 0.5;
}

static void test_load(ml_engine *engine) {
  double last = 0;
  ml_model *model;
  ml_load_options options = {.struct_size = sizeof options,
                             .progress = count_progress,
                             .progress_context = &last,
                             .max_context = 100,
                             .precision = "exact"};
  CHECK_OK(ml_model_load(engine, TINY_MODEL, &options, &model), "load with options");
  CHECK(last == 1, "progress goes from 0 to 1");
  ml_model_info info = {.struct_size = sizeof info};
  CHECK_OK(ml_model_describe(model, &info), "describe");
  CHECK(strcmp(info.model_type, "llama") == 0 && info.layers == 2 && info.hidden_size == 24 && info.vocab_size == 131,
        "the model's sizes");
  CHECK(info.context == 100 && !info.has_tokenizer && info.weight_bytes > 0 && info.parameters > 0,
        "the model's facts");
  CHECK(strcmp(info.quantization, "") == 0 && strcmp(info.warnings, "") == 0, "no quantisation, no warnings");
  ml_model_close(model);
  options.progress = refuse_progress;
  CHECK_FAILS(ml_model_load(engine, TINY_MODEL, &options, &model), ML_CANCELLED, "cancelled", "progress may cancel");
  CHECK(!ml_cancel_clear(engine), "and leaves no flag behind");
  ml_cancel(engine);
  CHECK_FAILS(ml_model_load(engine, TINY_MODEL, NULL, &model), ML_CANCELLED, "cancelled", "a raised flag ends loading");
  CHECK(!ml_cancel_clear(engine), "and is down again");
}

/* ---- generation ---- */

static void test_generate(ml_model *model) {
  heard h = {.in_order = true};
  ml_metrics m = no_metrics();
  ml_generate_options o = greedy(TINY_ANSWER);
  CHECK_OK(ml_generate(model, &o, hear, &h, &m), "greedy continuation of ids");
  CHECK(h.count == TINY_ANSWER && memcmp(h.ids, tiny_answer, sizeof tiny_answer) == 0, "is what the reference says");
  CHECK(h.in_order, "tokens come in order");
  CHECK(m.finish_reason == ML_FINISH_LENGTH && strcmp(ml_finish_name(m.finish_reason), "length") == 0, "length");
  CHECK(m.prompt_tokens == TINY_PROMPT && m.generated_tokens == TINY_ANSWER && m.cached_tokens == 0, "counted tokens");
  CHECK(m.total_seconds > 0 && m.decode_tokens_per_second > 0 && m.peak_bytes > 0, "measured times and memory");
  h = (heard){.enough = 3, .in_order = true};
  CHECK_OK(ml_generate(model, &o, hear, &h, &m), "a callback that has had enough");
  CHECK(h.count == 3 && m.finish_reason == ML_FINISH_CANCELLED, "ends the generation as cancelled");
  CHECK_OK(ml_generate(model, &o, NULL, NULL, NULL), "without callback and metrics");
  const int32_t stop_tokens[] = {58};
  o.stop_tokens = stop_tokens, o.n_stop_tokens = 1;
  h = (heard){.in_order = true};
  CHECK_OK(ml_generate(model, &o, hear, &h, &m), "a stop token");
  CHECK(h.count == 4 && m.finish_reason == ML_FINISH_STOP, "ends it before it is shown");
}

static void test_seeds(ml_model *model) {
  heard a = {0}, b = {0}, c = {0};
  ml_generate_options o = greedy(12);
  o.temperature = 1, o.seed = 5;
  CHECK_OK(ml_generate(model, &o, hear, &a, NULL), "sampled with a seed");
  CHECK_OK(ml_generate(model, &o, hear, &b, NULL), "and again");
  o.seed = 6;
  CHECK_OK(ml_generate(model, &o, hear, &c, NULL), "and with another");
  CHECK(memcmp(a.ids, b.ids, sizeof a.ids) == 0, "the same seed gives the same ids");
  CHECK(memcmp(a.ids, c.ids, sizeof a.ids) != 0, "another seed gives others");
}

/* An option that is 0 is not given, unless `zeros` says so. */
static void test_zeros(ml_model *model) {
  heard likeliest = {0}, h = {0};
  ml_metrics m = no_metrics();
  ml_generate_options o = greedy(12);
  CHECK_OK(ml_generate(model, &o, hear, &likeliest, NULL), "greedy");
  o.temperature = 5, o.seed = 7;
  CHECK_OK(ml_generate(model, &o, hear, &h, NULL), "a top_p that is not given");
  CHECK(memcmp(h.ids, likeliest.ids, sizeof h.ids) != 0, "leaves all tokens");
  o.zeros = ML_ZERO_TOP_P, h = (heard){0};
  CHECK_OK(ml_generate(model, &o, hear, &h, NULL), "a top_p of 0");
  CHECK(memcmp(h.ids, likeliest.ids, sizeof h.ids) == 0, "leaves the likeliest token");
  o.temperature = 1e-38, o.zeros = 0, h = (heard){0};
  CHECK_OK(ml_generate(model, &o, hear, &h, NULL), "a tiny temperature");
  CHECK(memcmp(h.ids, likeliest.ids, sizeof h.ids) == 0, "gives what greedy gives");
  o = greedy(0), o.zeros = ML_ZERO_MAX_TOKENS;
  CHECK_OK(ml_generate(model, &o, hear, &h, &m), "no tokens");
  CHECK(m.generated_tokens == 0 && m.finish_reason == ML_FINISH_LENGTH, "are none");
  heard a = {0}, b = {0};
  o = greedy(12), o.temperature = 5, o.zeros = ML_ZERO_SEED;
  CHECK_OK(ml_generate(model, &o, hear, &a, NULL), "the seed 0");
  CHECK_OK(ml_generate(model, &o, hear, &b, NULL), "and again");
  CHECK(memcmp(a.ids, b.ids, sizeof a.ids) == 0, "gives the same ids");
  o = greedy(12), o.presence_penalty = 1e9, o.zeros = ML_ZERO_REPEAT_LAST_N, h = (heard){0};
  CHECK_OK(ml_generate(model, &o, hear, &h, NULL), "no recent ids");
  CHECK(memcmp(h.ids, likeliest.ids, sizeof h.ids) == 0, "means no penalties");
  o = greedy(12), o.top_p = 0.5, o.zeros = ML_ZERO_TOP_P;
  CHECK_FAILS(ml_generate(model, &o, NULL, NULL, NULL), ML_USAGE, "top_p", "a zero that is none");
  o = greedy(12), o.zeros = (uint64_t)1 << 40;
  CHECK_FAILS(ml_generate(model, &o, NULL, NULL, NULL), ML_USAGE, "zeros", "a bit that means nothing");
  o = greedy(TINY_ANSWER), o.struct_size = offsetof(ml_generate_options, zeros), o.zeros = 128, h = (heard){0};
  CHECK_OK(ml_generate(model, &o, hear, &h, NULL), "options of an older version");
}

/* Behind id n comes n + 1, until NaN, or nothing but -inf, comes of 92. */
static void test_no_logits(ml_engine *engine) {
  static const char *const values[] = {"0 / 0", "-math.huge"};
  static const char *const messages[] = {"131 of 131 are NaN, behind 3 tokens", "all 131 are -inf, behind 3 tokens"};
  const char *path = scratch_path("odd.lua");
  for (int i = 0; i < 4; i++) {
    FILE *file = fopen(path, "w");
    fprintf(file,
            "local nn, ml = require 'moonlet.nn', require 'moonlet'\n"
            "local Odd = nn.model 'llama'\n"
            "function Odd:init(c) self.vocab, self.unused = c.vocab_size, nn.parameter({1}, 'vector') end\n"
            "function Odd:forward(tokens)\n"
            "  local id = tokens:expand_dims(-1)\n"
            "  return ml.where(id:ge(92), %s, ml.where(ml.arange(self.vocab):eq(id + 1), 60.0, 0.0))\n"
            "end\n"
            "return Odd\n",
            values[i / 2]);
    fclose(file);
    ml_model *model = NULL;
    ml_load_options options = {.struct_size = sizeof options, .family = path, .random = 1};
    CHECK_OK(ml_model_load(engine, TINY_MODEL, &options, &model), "a family with odd logits loads");
    heard h = {.in_order = true};
    ml_metrics m = no_metrics();
    ml_generate_options o = greedy(8);
    o.n_ids = 1, o.temperature = i % 2;
    CHECK_FAILS(ml_generate(model, &o, hear, &h, &m), ML_CORRUPT, messages[i / 2], "logits that say nothing");
    CHECK(m.finish_reason == ML_FINISH_ERROR, "end with \"error\"");
    CHECK(h.count == 2 && h.ids[1] == 92 && m.generated_tokens == 2, "the tokens before came");
    ml_model_close(model);
    remove(path);
  }
}

/* Tokenizes and generates anew with the model that is generating. */
static bool hear_and_call(void *context, const ml_token *token) {
  heard *h = context, inner = {0};
  ml_generate_options o = greedy(5);
  if (h->count == 2) {
    h->inner = ml_generate(h->model, &o, hear, &inner, NULL);
    if (memcmp(inner.ids, tiny_answer, 5 * sizeof(int32_t)) != 0) h->inner = ML_MISMATCH;
  }
  return hear(context, token);
}

static bool hear_and_close(void *context, const ml_token *token) {
  heard *h = context;
  ml_generate_options o = greedy(2);
  ml_model_info info = {.struct_size = sizeof info};
  size_t n;
  if (h->count == 2) {
    ml_model_close(h->model);
    ml_model_close(h->model);
    CHECK_FAILS(ml_generate(h->model, &o, NULL, NULL, NULL), ML_USAGE, "the model is closed", "a generation then");
    CHECK_FAILS(ml_model_describe(h->model, &info), ML_USAGE, "the model is closed", "a question then");
    CHECK_FAILS(ml_tokenize(h->model, "a", 1, 0, NULL, 0, &n), ML_USAGE, "the model is closed", "text then");
  }
  return hear(context, token);
}

static void test_callbacks(ml_engine *engine) {
  ml_model *model = load(engine, TINY_MODEL);
  heard h = {.model = model, .in_order = true};
  ml_metrics m = no_metrics();
  ml_generate_options o = greedy(TINY_ANSWER);
  CHECK_OK(ml_generate(model, &o, hear_and_call, &h, &m), "a callback that generates itself");
  CHECK_OK(h.inner, "gets what it asked for");
  CHECK(h.count == TINY_ANSWER && memcmp(h.ids, tiny_answer, sizeof tiny_answer) == 0, "and disturbs nothing");
  for (int enough = 0; enough <= 3; enough += 3) {
    h = (heard){.model = enough ? load(engine, TINY_MODEL) : model, .in_order = true, .enough = enough};
    CHECK_FAILS(ml_generate(h.model, &o, hear_and_close, &h, &m), ML_USAGE, "the model was closed",
                "a callback that closes its model");
    CHECK(h.count == 3 && m.finish_reason == ML_FINISH_ERROR, "ends the generation with an error");
  }
}

/* What a call copes with leaves no message behind. */
static void test_error_record(ml_engine *engine) {
  ml_memory_info memory = {.struct_size = sizeof memory};
  size_t n;
  CHECK_FAILS(ml_model_load(engine, "nowhere", NULL, &(ml_model *){NULL}), ML_NOT_FOUND, "nowhere", "a failure");
  ml_model *model = load(engine, tiny_with_text()); /* which has no generation_config.json */
  CHECK(!*ml_error_message(), "a load that succeeds leaves no message: %s", ml_error_message());
  CHECK_FAILS(ml_tokenize(model, "a", 1, 1u << 20, NULL, 0, &n), ML_USAGE, "flags", "a failure");
  CHECK_OK(ml_tokenize(model, "a", 1, 0, NULL, 0, &n), "a success");
  CHECK(!*ml_error_message(), "nor does ml_tokenize");
  CHECK_FAILS(ml_engine_memory(engine, NULL), ML_USAGE, "NULL", "a failure");
  CHECK_OK(ml_engine_memory(engine, &memory), "a success");
  CHECK(!*ml_error_message(), "nor do the counters");
  CHECK_FAILS(ml_engine_memory(engine, NULL), ML_USAGE, "NULL", "a failure");
  ml_engine *other = open_engine();
  CHECK(!*ml_error_message(), "nor does an engine that is made");
  CHECK_FAILS(ml_engine_memory(engine, NULL), ML_USAGE, "NULL", "a failure");
  CHECK_OK(ml_engine_close(other), "closing it");
  CHECK(!*ml_error_message(), "nor does one that is closed");
  ml_model_close(model);
}

/* ---- text ---- */

static void test_text(ml_model *model) {
  int32_t ids[32];
  char text[64];
  size_t count, length;
  CHECK_OK(ml_tokenize(model, "Hi <s>!", 7, 0, ids, 32, &count), "tokenize");
  CHECK(count == 6 && ids[0] == 1 && ids[4] == 1, "begin token first, special text as a special token");
  CHECK_OK(ml_detokenize(model, ids, count, ML_SKIP_SPECIAL_TOKENS, text, sizeof text, &length), "detokenize");
  CHECK(length == 4 && strcmp(text, "Hi !") == 0, "without special tokens");
  CHECK_OK(ml_tokenize(model, "Hi <s>!", 7, ML_NO_SPECIAL_TOKENS | ML_NO_PARSE_SPECIAL, ids, 2, &count),
           "ordinary text");
  CHECK(count == 7 && ids[0] != 1, "no special tokens, and a count beyond the room given");
  CHECK_OK(ml_detokenize(model, ids, 2, 0, text, 2, &length), "a text beyond its room");
  CHECK(length == 2 && strcmp(text, "H") == 0, "is cut, with its whole length told");
  CHECK_OK(ml_detokenize(model, NULL, 0, 0, NULL, 0, &length), "no ids, no room");
  CHECK(length == 0, "no text");
  const int32_t beyond[] = {ids[0], INT32_MAX, ids[1]};
  size_t plain;
  CHECK_OK(ml_detokenize(model, ids, 2, 0, NULL, 0, &plain), "two ids");
  CHECK_OK(ml_detokenize(model, beyond, 3, 0, NULL, 0, &length), "an id behind the vocabulary");
  CHECK(length == plain, "which has no text");
  CHECK_FAILS(ml_tokenize(model, "a", 1, ML_SKIP_SPECIAL_TOKENS, ids, 2, &count), ML_USAGE, "flags",
              "a flag of another call");
}

static void test_text_generation(ml_model *model) {
  heard ids = {.in_order = true}, text = {.in_order = true}, chat = {.in_order = true};
  ml_metrics m = no_metrics();
  ml_generate_options o = {.struct_size = sizeof o, .prompt = "the moon", .max_tokens = 30, .ignore_eos = true};
  CHECK_OK(ml_generate(model, &o, hear, &text, &m), "a text continued");
  CHECK(m.prompt_tokens == 9 && strlen(text.text) >= 30 && text.in_order, "gives text");
  int32_t prompt[32];
  size_t count;
  ml_tokenize(model, "the moon", 8, 0, prompt, 32, &count);
  o.prompt = NULL, o.ids = prompt, o.n_ids = count;
  CHECK_OK(ml_generate(model, &o, hear, &ids, NULL), "its ids continued");
  CHECK(strcmp(ids.text, text.text) == 0, "give the same text");
  const ml_message messages[] = {{"system", "Be brief."}, {"user", "Why <s>?"}};
  o = (ml_generate_options){.struct_size = sizeof o, .messages = messages, .n_messages = 2, .max_tokens = 5};
  CHECK_OK(ml_generate(model, &o, hear, &chat, &m), "a conversation answered");
  const ml_message odd[] = {{"user", NULL}};
  o.messages = odd, o.n_messages = 1;
  CHECK_FAILS(ml_generate(model, &o, hear, &chat, &m), ML_USAGE, "messages", "a message without content");
  CHECK(m.finish_reason == ML_FINISH_NONE && m.generated_tokens == 0, "metrics of a call that generated nothing");
  char stop_text[3] = {text.text[4], text.text[5], 0};
  const char *const stop[] = {stop_text};
  o = (ml_generate_options){
      .struct_size = sizeof o, .prompt = "the moon", .max_tokens = 30, .ignore_eos = true, .stop = stop, .n_stop = 1};
  heard stopped = {.in_order = true};
  CHECK_OK(ml_generate(model, &o, hear, &stopped, &m), "a stop text");
  const char *at = strstr(text.text, stop_text);
  CHECK(at && strlen(stopped.text) == (size_t)(at - text.text) && m.finish_reason == ML_FINISH_STOP,
        "ends before itself");
  const int32_t leads_to_special[] = {41, 90};
  const char *const special[] = {"</s>"};
  o = (ml_generate_options){
      .struct_size = sizeof o, .ids = leads_to_special, .n_ids = 2, .max_tokens = 12, .ignore_eos = true};
  heard whole = {.in_order = true}, cut = {.in_order = true};
  CHECK_OK(ml_generate(model, &o, hear, &whole, &m), "an answer with a special token in it");
  CHECK(whole.count == 12 && whole.ids[7] == 2 && !strstr(whole.text, "</s>"), "which is not shown");
  o.stop = special, o.n_stop = 1;
  CHECK_OK(ml_generate(model, &o, hear, &cut, &m), "its text as a stop text");
  CHECK(cut.count == 8 && m.finish_reason == ML_FINISH_STOP && strncmp(cut.text, whole.text, strlen(cut.text)) == 0,
        "ends there");
}

/* ---- cancellation ---- */

static void *cancel_soon(void *engine) {
  nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
  ml_cancel(engine);
  return NULL;
}

static void test_cancel(ml_engine *engine, ml_model *model) {
  ml_metrics m = no_metrics();
  heard h = {0};
  ml_generate_options o = greedy(TINY_ANSWER);
  ml_cancel(engine);
  CHECK_OK(ml_generate(model, &o, hear, &h, &m), "a flag raised beforehand");
  CHECK(h.count == 0 && m.finish_reason == ML_FINISH_CANCELLED, "ends the generation before its first token");
  CHECK(!ml_cancel_clear(engine), "and is down again");
  pthread_t thread;
  bool cancelled = true;
  for (int i = 0; i < 20 && cancelled; i++) {
    pthread_create(&thread, NULL, cancel_soon, engine);
    do {
      m = no_metrics();
      o = greedy(100);
      cancelled = ml_generate(model, &o, NULL, NULL, &m) == ML_OK;
    } while (cancelled && m.finish_reason == ML_FINISH_LENGTH);
    cancelled = cancelled && m.finish_reason == ML_FINISH_CANCELLED;
    pthread_join(thread, NULL);
  }
  CHECK(cancelled, "another thread cancels, twenty times");
  CHECK(!ml_cancel_clear(engine), "each time the flag is down again");
  o = greedy(TINY_ANSWER);
  CHECK_OK(ml_generate(model, &o, hear, &h, NULL), "the next generation");
  CHECK(memcmp(h.ids, tiny_answer, sizeof tiny_answer) == 0, "is right");
  o = greedy(240);
  o.deadline_seconds = 1e-4;
  CHECK_OK(ml_generate(model, &o, NULL, NULL, &m), "a deadline");
  CHECK(m.finish_reason == ML_FINISH_DEADLINE && m.generated_tokens < 240, "ends the generation");
  o = greedy(4);
  CHECK_OK(ml_generate(model, &o, NULL, NULL, &m), "and is forgotten");
  CHECK(m.finish_reason == ML_FINISH_LENGTH, "by the next");
}

/* ---- one thread at a time, one process ---- */

/* A generation that stands still in its first token until it is let go. */
typedef struct held {
  ml_model *model;
  pthread_barrier_t inside, let_go;
  heard h;
  ml_status status;
} held;

static bool stand_still(void *context, const ml_token *token) {
  held *s = context;
  if (token->index == 1) {
    pthread_barrier_wait(&s->inside);
    pthread_barrier_wait(&s->let_go);
  }
  return hear(&s->h, token);
}

static void *generate_held(void *context) {
  held *s = context;
  ml_generate_options o = greedy(TINY_ANSWER);
  s->status = ml_generate(s->model, &o, stand_still, s, NULL);
  return NULL;
}

/* A child of a process whose other thread is in the engine: that thread is not in the child. */
static void test_fork_at_work(ml_engine *engine, ml_model *model) {
  int status = 0;
  pid_t child = fork();
  if (child == 0) {
    alarm(60);
    ml_model_close(model);
    _exit(ml_engine_close(engine) == ML_OK && !*ml_error_message() ? 0 : 1);
  }
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child lets go of an engine at work (%#x)", status);
}

static void test_second_thread(ml_engine *engine, ml_model *model, ml_model *speaking) {
  held s = {.model = model};
  ml_generate_options o = greedy(2);
  ml_memory_info memory = {.struct_size = sizeof memory};
  ml_model_info info = {.struct_size = sizeof info};
  ml_model *none;
  int32_t id = 5;
  size_t n;
  pthread_t thread;
  pthread_barrier_init(&s.inside, NULL, 2);
  pthread_barrier_init(&s.let_go, NULL, 2);
  pthread_create(&thread, NULL, generate_held, &s);
  pthread_barrier_wait(&s.inside);
  CHECK_FAILS(ml_generate(model, &o, NULL, NULL, NULL), ML_USAGE, "another thread", "a second thread's generation");
  CHECK_FAILS(ml_generate(speaking, &o, NULL, NULL, NULL), ML_USAGE, "another thread", "with another model too");
  CHECK_FAILS(ml_model_load(engine, TINY_MODEL, NULL, &none), ML_USAGE, "another thread", "its loading");
  CHECK_FAILS(ml_model_describe(model, &info), ML_USAGE, "another thread", "its questions");
  CHECK_FAILS(ml_tokenize(speaking, "x", 1, 0, NULL, 0, &n), ML_USAGE, "another thread", "its text");
  CHECK_FAILS(ml_detokenize(speaking, &id, 1, 0, NULL, 0, &n), ML_USAGE, "another thread", "its ids");
  CHECK_FAILS(ml_engine_memory(engine, &memory), ML_USAGE, "another thread", "its look at the counters");
  CHECK_FAILS(ml_engine_close(engine), ML_USAGE, "at work", "its closing");
  ml_model_close(model);
  CHECK(strstr(ml_error_message(), "another thread"), "its closing of a model is refused");
  test_fork_at_work(engine, model);
  pthread_barrier_wait(&s.let_go);
  pthread_join(thread, NULL);
  CHECK_OK(s.status, "the first thread's generation");
  CHECK(memcmp(s.h.ids, tiny_answer, sizeof tiny_answer) == 0, "is right");
  CHECK_OK(ml_generate(model, &o, NULL, NULL, NULL), "afterwards the engine works on this thread");
  pthread_barrier_destroy(&s.inside);
  pthread_barrier_destroy(&s.let_go);
}

typedef struct rival {
  ml_model *model;
  int right, refused, wrong;
} rival;

static void *generate_often(void *context) {
  rival *r = context;
  for (int i = 0; i < 40; i++) {
    heard h = {0};
    ml_generate_options o = greedy(TINY_ANSWER);
    ml_status status = ml_generate(r->model, &o, hear, &h, NULL);
    if (status == ML_USAGE && h.count == 0) r->refused++;
    else if (status == ML_OK && memcmp(h.ids, tiny_answer, sizeof tiny_answer) == 0) r->right++;
    else r->wrong++;
  }
  return NULL;
}

static void test_rivals(ml_engine *engine, ml_model *model) {
  rival one = {.model = model}, two = one;
  ml_memory_info memory = {.struct_size = sizeof memory};
  pthread_t thread;
  pthread_create(&thread, NULL, generate_often, &one);
  generate_often(&two);
  ml_engine_memory(engine, &memory);
  pthread_join(thread, NULL);
  CHECK(one.wrong + two.wrong == 0, "two threads that meet: a right answer or a refusal (%d wrong)",
        one.wrong + two.wrong);
  CHECK(one.right + two.right > 0, "%d answers, %d refusals", one.right + two.right, one.refused + two.refused);
}

static bool close_engine(void *context, const ml_token *token) {
  (void)token;
  heard *h = context;
  h->inner = ml_engine_close(*(ml_engine **)h->text);
  return true;
}

static void test_close_inside(ml_engine *engine, ml_model *model) {
  heard h = {0};
  ml_generate_options o = greedy(2);
  memcpy(h.text, &engine, sizeof engine);
  CHECK_OK(ml_generate(model, &o, close_engine, &h, NULL), "a callback that closes its engine");
  CHECK(h.inner == ML_USAGE, "is refused");
}

/* The child's exit code: 0, or the number of what went wrong. */
static int in_child(ml_engine *engine, ml_model *model) {
  ml_generate_options o = greedy(TINY_ANSWER);
  ml_memory_info memory = {.struct_size = sizeof memory};
  ml_model *none;
  heard h = {0};
  if (ml_generate(model, &o, NULL, NULL, NULL) != ML_USAGE || !strstr(ml_error_message(), "fork")) return 1;
  if (ml_model_load(engine, TINY_MODEL, NULL, &none) != ML_USAGE || ml_engine_memory(engine, &memory) != ML_USAGE)
    return 2;
  ml_model_close(model);
  ml_cancel(engine);
  if (ml_engine_close(engine) != ML_OK) return 3;
  /* ThreadSanitizer allows no threads in such a child. */
  ml_engine_options options = {.struct_size = sizeof options, .threads = check_sanitized() ? 1 : 2};
  if (ml_engine_create(&options, &engine) != ML_OK || ml_model_load(engine, TINY_MODEL, NULL, &model) != ML_OK)
    return 4;
  if (ml_generate(model, &o, hear, &h, NULL) != ML_OK) return 5;
  if (memcmp(h.ids, tiny_answer, sizeof tiny_answer) != 0) return 6;
  return ml_engine_close(engine) == ML_OK ? 0 : 7;
}

/* Forks inside the callback: the child is in the call as well, and leaves it by an error. */
static bool fork_inside(void *context, const ml_token *token) {
  heard *h = context;
  if (token->index == 2 && (h->last_index = fork()) == 0) {
    alarm(60);
    h->inner = ml_engine_close(*(ml_engine **)h->text);
  }
  return true;
}

static void test_fork_inside(ml_engine *engine, ml_model *model) {
  heard h = {.last_index = -1};
  int status = 0;
  ml_generate_options o = greedy(TINY_ANSWER);
  memcpy(h.text, &engine, sizeof engine);
  ml_status outcome = ml_generate(model, &o, fork_inside, &h, NULL);
  if (h.last_index == 0)
    _exit(outcome != ML_USAGE || h.inner != ML_USAGE ? 1 : ml_engine_close(engine) == ML_OK ? 0 : 2);
  waitpid((pid_t)h.last_index, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child of a callback leaves the engine, and closes it (%#x)",
        status);
  CHECK_OK(outcome, "the parent's generation goes on");
}

/* A child that hangs is ended by its alarm, which is no exit code. */
static void test_fork(ml_engine *engine, ml_model *model) {
  int status = 0;
  pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(in_child(engine, model));
  }
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child is refused its parent's engine and has its own (%#x)",
        status);
  ml_generate_options o = greedy(TINY_ANSWER);
  heard h = {0};
  CHECK_OK(ml_generate(model, &o, hear, &h, NULL), "the parent's engine goes on");
  CHECK(memcmp(h.ids, tiny_answer, sizeof tiny_answer) == 0, "and is right");
}

/* ---- limits and refusals ---- */

static void test_limit(void) {
  ml_engine *engine;
  ml_model *model;
  ml_engine_options options = {.struct_size = sizeof options, .threads = 1, .memory_limit_bytes = 4096};
  CHECK_OK(ml_engine_create(&options, &engine), "an engine with a limit");
  CHECK_FAILS(ml_model_load(engine, TINY_MODEL, NULL, &model), ML_LIMIT, "limit", "a model beyond it");
  ml_memory_info memory = {.struct_size = sizeof memory};
  CHECK_OK(ml_engine_memory(engine, &memory), "its memory");
  CHECK(memory.limit_bytes == 4096 && memory.peak_bytes <= 4096, "stayed within");
  ml_engine_close(engine);
}

static ml_status whole_life(void *unused) {
  (void)unused;
  ml_engine *engine = NULL;
  ml_model *model = NULL;
  ml_engine_options options = {.struct_size = sizeof options, .threads = 1};
  ml_generate_options o = greedy(3);
  ml_status status = ml_engine_create(&options, &engine);
  if (status == ML_OK) status = ml_model_load(engine, TINY_MODEL, NULL, &model);
  if (status == ML_OK) status = ml_generate(model, &o, NULL, NULL, NULL);
  ml_engine_close(engine);
  return status;
}

int main(void) {
  test_options();
  ml_engine *engine = open_engine();
  ml_model *bare = load(engine, TINY_MODEL), *speaking = load(engine, tiny_with_text());
  test_usage(engine, bare);
  test_load(engine);
  test_generate(bare);
  test_seeds(bare);
  test_zeros(bare);
  test_no_logits(engine);
  test_callbacks(engine);
  test_error_record(engine);
  test_text(speaking);
  test_text_generation(speaking);
  test_cancel(engine, bare);
  test_second_thread(engine, bare, speaking);
  test_rivals(engine, bare);
  test_close_inside(engine, bare);
  test_fork(engine, bare);
  test_fork_inside(engine, bare);
  ml_model_close(bare);
  CHECK_OK(ml_engine_close(engine), "an engine closes, and `speaking` with it");
  test_limit();
  check_life_refusals(whole_life, "an engine's whole life", 40000, 60, 1, 12);
  check_life_leaks_nothing(whole_life, "an engine's whole life");
  return check_done();
}
