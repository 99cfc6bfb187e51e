/* test_engine_session.c: the C API's sessions and log probabilities as a host uses them. */
#include "host.h"

#include <math.h>
#include <pthread.h>
#include <time.h>

static ml_session *open_session(ml_model *model, const char *system) {
  ml_session *session = NULL;
  ml_session_options options = {.struct_size = sizeof options, .system = system};
  CHECK_OK(ml_session_open(model, &options, &session), "a session opens");
  return session;
}

static ml_generate_options plain(int64_t max_tokens) {
  return (ml_generate_options){
      .struct_size = sizeof(ml_generate_options), .max_tokens = max_tokens, .ignore_eos = true};
}

static ml_session_info describe(ml_session *session) {
  ml_session_info info = {.struct_size = sizeof info};
  CHECK_OK(ml_session_describe(session, &info), "a session is described");
  return info;
}

/* Whether going on behind what the session holds gives the reference's tokens from `from` on. */
static bool goes_on(ml_session *session, int from, int count) {
  heard h = {.in_order = true};
  ml_generate_options o = plain(count);
  o.ids = tiny_prompt;
  if (ml_session_generate(session, &o, hear, &h, NULL) != ML_OK) return false;
  return h.count == count && memcmp(h.ids, tiny_answer + from, (size_t)count * sizeof(int32_t)) == 0;
}

/* A session of the model without a tokenizer that holds the prompt and four tokens of the answer. */
static ml_session *begun(ml_model *bare) {
  ml_session *session = open_session(bare, NULL);
  heard h = {.in_order = true};
  ml_generate_options o = greedy(4);
  CHECK_OK(ml_session_generate(session, &o, hear, &h, NULL), "a prompt of ids in a session");
  CHECK(memcmp(h.ids, tiny_answer, 4 * sizeof(int32_t)) == 0, "is continued as the reference says");
  return session;
}

/* ---- texts without a template ---- */

static void test_going_on(ml_model *bare) {
  ml_session *s = begun(bare), *fork = NULL;
  int32_t ids[32];
  size_t count;
  ml_metrics m = no_metrics();
  CHECK(describe(s).length == TINY_PROMPT + 4, "its length is that of prompt and answer");
  CHECK_OK(ml_session_tokens(s, ids, 32, &count), "its tokens");
  CHECK(count == TINY_PROMPT + 4 && memcmp(ids, tiny_prompt, sizeof tiny_prompt) == 0 &&
            memcmp(ids + TINY_PROMPT, tiny_answer, 4 * sizeof(int32_t)) == 0,
        "are prompt and answer");
  CHECK_OK(ml_session_tokens(s, ids, 2, &count), "with room for two");
  CHECK(count == TINY_PROMPT + 4, "the count is of all");
  CHECK_OK(ml_session_fork(s, &fork), "a fork");
  CHECK(goes_on(s, 4, 5), "the session goes on");
  CHECK(goes_on(fork, 4, 5), "and so does the fork");
  CHECK_OK(ml_session_trim(fork, TINY_PROMPT + 2), "cutting the fork");
  CHECK(describe(fork).length == TINY_PROMPT + 2, "leaves its first tokens");
  ml_session_close(s);
  ml_generate_options o = plain(3);
  o.ids = tiny_prompt;
  heard h = {.in_order = true};
  CHECK_OK(ml_session_generate(fork, &o, hear, &h, &m), "when the session is closed the fork");
  CHECK(memcmp(h.ids, tiny_answer + 2, 3 * sizeof(int32_t)) == 0, "goes on from where it was cut");
  CHECK(m.prompt_tokens == TINY_PROMPT + 2 && m.cached_tokens == TINY_PROMPT + 1 && m.generated_tokens == 3 &&
            m.finish_reason == ML_FINISH_LENGTH,
        "and computes the last token alone (%lld of %lld cached)", (long long)m.cached_tokens,
        (long long)m.prompt_tokens);
  CHECK_FAILS(ml_session_trim(fork, -1), ML_USAGE, "-1", "a length of -1");
  ml_session_close(fork);
  ml_session_close(NULL);
}

static void test_files(ml_engine *engine, ml_model *bare, ml_model *speaking) {
  ml_session *s = begun(bare), *other = open_session(bare, NULL), *stranger = NULL;
  char path[512];
  snprintf(path, sizeof path, "%s", scratch_path("session.safetensors"));
  CHECK_OK(ml_session_save(s, path), "a session is saved");
  CHECK_OK(ml_session_load(other, path), "another one is loaded from the file");
  CHECK(describe(other).length == TINY_PROMPT + 4 && goes_on(other, 4, 5), "and goes on");
  CHECK_FAILS(ml_session_load(other, "no/such/file"), ML_NOT_FOUND, "no/such/file", "a file that is not there");
  CHECK(describe(other).length == TINY_PROMPT + 9, "leaves the session as it was");
  stranger = open_session(speaking, NULL);
  CHECK_FAILS(ml_session_load(stranger, path), ML_MISMATCH, "another model", "a file of another model");
  CHECK_FAILS(ml_session_save(s, "no/such/folder/x"), ML_NOT_FOUND, "no/such/folder", "a folder that is not there");
  CHECK_FAILS(ml_session_save(s, NULL), ML_USAGE, "NULL", "no path");
  ml_session_close(stranger);
  ml_session_close(other);
  ml_session_close(s);
  CHECK_OK(ml_engine_memory(engine, &(ml_memory_info){.struct_size = sizeof(ml_memory_info)}), "the engine works on");
}

/* ---- conversations ---- */

static void test_conversation(ml_model *model) {
  ml_session *s = open_session(model, "Be brief.");
  heard first = {.in_order = true}, second = {.in_order = true}, whole = {.in_order = true};
  ml_metrics m = no_metrics();
  ml_message message;
  ml_generate_options o = plain(12);
  CHECK_OK(ml_session_send(s, "Why?", &o, hear, &first, &m), "a turn");
  CHECK(first.count == 12 && m.generated_tokens == 12 && m.finish_reason == ML_FINISH_LENGTH && m.total_seconds > 0,
        "is answered, with figures");
  CHECK_OK(ml_session_send(s, "And <s> how?", &o, hear, &second, &m), "a second turn");
  CHECK(m.cached_tokens > 20, "computes what is new (%lld of %lld cached)", (long long)m.cached_tokens,
        (long long)m.prompt_tokens);
  CHECK(describe(s).n_messages == 5, "the conversation has what the system said and two turns");
  CHECK(describe(s).length == m.prompt_tokens + m.generated_tokens, "and the tokens of all");
  CHECK_OK(ml_session_message(s, 0, &message), "its first message");
  CHECK(strcmp(message.role, "system") == 0 && strcmp(message.content, "Be brief.") == 0, "is the system's");
  CHECK_OK(ml_session_message(s, 4, &message), "its last message");
  CHECK(strcmp(message.role, "assistant") == 0 && strcmp(message.content, second.text) == 0, "is the answer");
  const ml_message said[] = {
      {"system", "Be brief."}, {"user", "Why?"}, {"assistant", first.text}, {"user", "And <s> how?"}};
  o.messages = said, o.n_messages = 4;
  CHECK_OK(ml_generate(model, &o, hear, &whole, NULL), "the same conversation without a session");
  CHECK(memcmp(whole.ids, second.ids, 12 * sizeof(int32_t)) == 0, "has the same answer");
  CHECK_FAILS(ml_session_message(s, 5, &message), ML_USAGE, "index 5", "a message behind the last");
  CHECK_OK(ml_session_undo(s), "taking back a turn");
  CHECK(describe(s).n_messages == 3, "leaves those before it");
  CHECK_OK(ml_session_undo(s), "and the first turn");
  CHECK_FAILS(ml_session_undo(s), ML_NOT_FOUND, "no turn", "then there is none");
  ml_session_close(s);
}

static void test_begun_conversation(ml_model *model) {
  const ml_message said[] = {{"user", "Why?"}, {"assistant", "Because."}};
  ml_session_options options = {.struct_size = sizeof options,
                                .messages = said,
                                .n_messages = 2,
                                .chat_template = "{% for m in messages %}{{ m.content }}/{% endfor %}{{ mark }}"
                                                 "{{ tools[0].function.name }}{{ documents|length }}"
                                                 "{{ 'x' if strftime_now('%Y') == '2024' else 'another' }}",
                                .template_vars = "{\"mark\": \"!\"}",
                                .tools = "[{\"type\": \"function\", \"function\": {\"name\": \"look\"}}]",
                                .documents = "[{\"title\": \"a\", \"text\": \"b\"}]",
                                .now = "2024-07-26T12:00:00"};
  ml_session *s = NULL;
  ml_metrics m = no_metrics();
  ml_generate_options o = plain(2);
  CHECK_OK(ml_session_open(model, &options, &s), "a session with all options");
  CHECK_OK(ml_session_send(s, "So", &o, NULL, NULL, &m), "a turn of it");
  size_t count;
  ml_tokenize(model, "Why?/Because./So/!look1x", 24, ML_NO_SPECIAL_TOKENS, NULL, 0, &count);
  CHECK(m.prompt_tokens == (int64_t)count, "its template is used, with all that it reads (%lld tokens, %zu)",
        (long long)m.prompt_tokens, count);
  ml_session_close(s);
  options.tools = "[1,";
  CHECK_FAILS(ml_session_open(model, &options, &s), ML_CORRUPT, "tools", "tools that are no JSON");
  CHECK(!s, "leave NULL");
}

static void test_forget(ml_engine *engine) {
  ml_model *model = NULL;
  ml_load_options small = {.struct_size = sizeof small, .max_context = 100};
  CHECK_OK(ml_model_load(engine, tiny_with_text(), &small, &model), "a model of a small context");
  for (int forget = 0; forget < 2; forget++) {
    ml_session *s = NULL;
    ml_session_options options = {.struct_size = sizeof options, .system = "Be brief.", .forget = forget};
    ml_generate_options o = plain(8);
    ml_status status = ML_OK;
    CHECK_OK(ml_session_open(model, &options, &s), "a session that %s", forget ? "forgets" : "does not forget");
    for (int i = 0; i < 8 && status == ML_OK; i++) status = ml_session_send(s, "And then?", &o, NULL, NULL, NULL);
    if (forget) CHECK(status == ML_OK && describe(s).forgotten > 0, "loses its oldest turns");
    else CHECK(status == ML_LIMIT && strstr(ml_error_message(), "forget"), "ends at the context");
    ml_session_close(s);
  }
  ml_model_close(model);
}

/* ---- callbacks, closing, cancelling ---- */

typedef struct inner {
  heard h;
  ml_session *session, *forked;
  ml_model *model;
  int what, at;
  ml_status status;
} inner;

enum { CLOSE_SESSION, CLOSE_MODEL, SEND, FORK };

static bool hear_and_do(void *context, const ml_token *token) {
  inner *in = context;
  ml_generate_options o = plain(3);
  size_t n;
  if (token->index == in->at) {
    if (in->what == CLOSE_SESSION) {
      ml_session_close(in->session);
      ml_session_close(in->session);
      in->status = ml_session_tokens(in->session, NULL, 0, &n);
    }
    if (in->what == CLOSE_MODEL) {
      ml_model_close(in->model);
      in->status = ml_session_tokens(in->session, NULL, 0, &n);
    }
    if (in->what == SEND) in->status = ml_session_send(in->session, "x", &o, NULL, NULL, NULL);
    if (in->what == FORK) in->status = ml_session_fork(in->session, &in->forked);
  }
  return hear(&in->h, token);
}

static void test_callbacks(ml_engine *engine) {
  for (int what = CLOSE_SESSION; what <= FORK; what++) {
    ml_model *model = load(engine, tiny_with_text());
    inner in = {.h = {.in_order = true}, .session = open_session(model, NULL), .model = model, .what = what, .at = 3};
    ml_metrics m = no_metrics();
    ml_generate_options o = plain(12);
    ml_status status = ml_session_send(in.session, "Why?", &o, hear_and_do, &in, &m);
    if (what == CLOSE_MODEL) {
      CHECK(status == ML_USAGE && strstr(ml_error_message(), "the model was closed"),
            "a callback that closes the model");
      CHECK(m.finish_reason == ML_FINISH_ERROR && in.status == ML_USAGE, "ends the answer with an error");
      CHECK_FAILS(ml_session_send(in.session, "x", &o, NULL, NULL, NULL), ML_USAGE, "the model is closed",
                  "a turn afterwards");
      CHECK_FAILS(ml_session_fork(in.session, &in.forked), ML_USAGE, "the model is closed", "a fork");
      CHECK_FAILS(ml_session_save(in.session, "x"), ML_USAGE, "the model is closed", "a file");
      CHECK_FAILS(ml_session_trim(in.session, 0), ML_USAGE, "the model is closed", "a cut");
      ml_session_close(in.session);
      continue;
    }
    CHECK_OK(status, "a callback that %s", what == SEND ? "sends" : what == FORK ? "forks" : "closes its session");
    CHECK(in.h.count == 3 && m.finish_reason == ML_FINISH_CANCELLED, "ends the answer, as cancelled");
    if (what == CLOSE_SESSION) CHECK(in.status == ML_USAGE, "and what is asked of the closed one is refused");
    if (what == SEND)
      CHECK(in.status == ML_OK && describe(in.session).n_messages == 4, "and its own turn is behind it");
    if (what == FORK) {
      CHECK(in.status == ML_OK && describe(in.forked).n_messages == 2, "the fork has the answer as far as it came");
      ml_session_close(in.forked);
    }
    if (what != CLOSE_SESSION) ml_session_close(in.session);
    ml_model_close(model);
  }
}

static void test_enough(ml_model *model) {
  ml_session *s = open_session(model, NULL);
  heard h = {.in_order = true, .enough = 5};
  ml_metrics m = no_metrics();
  ml_message message;
  ml_generate_options o = plain(12);
  CHECK_OK(ml_session_send(s, "Why?", &o, hear, &h, &m), "a callback that has had enough");
  CHECK(h.count == 5 && m.finish_reason == ML_FINISH_CANCELLED, "ends the answer, as cancelled");
  CHECK_OK(ml_session_message(s, 1, &message), "what came of it");
  CHECK(strcmp(message.content, h.text) == 0, "is in the conversation");
  o.deadline_seconds = 1e-9;
  CHECK_OK(ml_session_send(s, "How?", &o, NULL, NULL, &m), "a deadline that is over");
  CHECK(m.finish_reason == ML_FINISH_DEADLINE && describe(s).n_messages == 2, "takes the turn back");
  ml_session_close(s);
}

static void *cancel_soon(void *engine) {
  nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
  ml_cancel(engine);
  return NULL;
}

static void test_cancel(ml_engine *engine, ml_model *model) {
  ml_session *s = open_session(model, NULL);
  ml_metrics m = no_metrics();
  ml_generate_options o = plain(100);
  ml_cancel(engine);
  CHECK_OK(ml_session_send(s, "Why?", &o, NULL, NULL, &m), "a flag raised beforehand");
  CHECK(m.finish_reason == ML_FINISH_CANCELLED && describe(s).n_messages == 0, "takes the turn back");
  pthread_t thread;
  ml_status status;
  pthread_create(&thread, NULL, cancel_soon, engine);
  do {
    ml_session_trim(s, 0);
    while (ml_session_undo(s) == ML_OK) {}
    status = ml_session_send(s, "Why?", &o, NULL, NULL, &m);
  } while (status == ML_OK && m.finish_reason == ML_FINISH_LENGTH);
  pthread_join(thread, NULL);
  CHECK_OK(status, "another thread cancels");
  CHECK(m.finish_reason == ML_FINISH_CANCELLED, "the answer");
  ml_cancel_clear(engine);
  while (ml_session_undo(s) == ML_OK) {}
  o.max_tokens = 4;
  CHECK_OK(ml_session_send(s, "Why?", &o, NULL, NULL, &m), "the next turn");
  CHECK(m.finish_reason == ML_FINISH_LENGTH, "is answered");
  ml_session_close(s);
}

/* ---- misuse ---- */

static void test_usage(ml_engine *engine, ml_model *bare, ml_model *speaking) {
  ml_session *s = open_session(speaking, NULL), *none = (ml_session *)1;
  ml_generate_options o = plain(2);
  ml_metrics m = no_metrics();
  size_t n;
  CHECK_FAILS(ml_session_open(NULL, NULL, &none), ML_USAGE, "NULL", "a session of no model");
  CHECK_FAILS(ml_session_open(speaking, NULL, NULL), ML_USAGE, "NULL", "a session for nobody");
  CHECK_FAILS(ml_session_send(NULL, "x", &o, NULL, NULL, NULL), ML_USAGE, "NULL", "a turn of no session");
  CHECK_FAILS(ml_session_send(s, NULL, &o, NULL, NULL, NULL), ML_USAGE, "NULL", "a turn without text");
  o.prompt = "y";
  CHECK_FAILS(ml_session_send(s, "x", &o, NULL, NULL, NULL), ML_USAGE, "without prompt", "a turn with a prompt");
  const ml_message said[] = {{"user", "x"}};
  o.prompt = NULL, o.messages = said, o.n_messages = 1;
  CHECK_FAILS(ml_session_generate(s, &o, NULL, NULL, &m), ML_USAGE, "messages", "going on with messages");
  o.messages = NULL;
  CHECK_FAILS(ml_session_generate(s, &o, NULL, NULL, NULL), ML_USAGE, "one of", "going on with nothing");
  o.top_p = 2;
  CHECK_FAILS(ml_session_send(s, "x", &o, NULL, NULL, &m), ML_USAGE, "top_p", "a top_p of 2");
  CHECK(describe(s).n_messages == 0, "leaves no turn behind");
  o.top_p = 0, o.tools = "[]";
  CHECK_FAILS(ml_session_send(s, "x", &o, NULL, NULL, NULL), ML_USAGE, "a session has its own", "tools of a turn");
  CHECK_OK(ml_session_send(s, "x", NULL, NULL, NULL, NULL), "no options at all");
  ml_session *mute = open_session(bare, NULL);
  CHECK_FAILS(ml_session_send(mute, "x", NULL, NULL, NULL, NULL), ML_NOT_FOUND, "tokenizer", "a model without text");
  CHECK_FAILS(ml_session_tokens(s, NULL, 4, &n), ML_USAGE, "NULL", "tokens to nowhere");
  ml_session_info info = {0};
  CHECK_FAILS(ml_session_describe(s, &info), ML_USAGE, "struct_size", "a description without a size");
  ml_session_options odd = {.struct_size = sizeof odd, .n_messages = 3};
  CHECK_FAILS(ml_session_open(speaking, &odd, &none), ML_USAGE, "messages", "messages that are NULL");
  CHECK(!none, "a failure leaves NULL");
  ml_session_close(mute);
  ml_session_close(s);
  (void)engine;
}

static void *use_session(void *context) {
  static _Thread_local char text[200];
  size_t n;
  ml_status status = ml_session_tokens(context, NULL, 0, &n);
  snprintf(text, sizeof text, "%s", ml_error_message());
  return (void *)(status == ML_USAGE && strstr(text, "another thread") ? context : NULL);
}

static bool ask_elsewhere(void *context, const ml_token *token) {
  inner *in = context;
  pthread_t thread;
  void *refused = NULL;
  if (token->index != 1) return true;
  pthread_create(&thread, NULL, use_session, in->session);
  pthread_join(thread, &refused);
  in->status = refused ? ML_OK : ML_USAGE;
  return true;
}

static void test_threads(ml_model *bare) {
  inner in = {.session = open_session(bare, NULL), .status = ML_USAGE};
  ml_generate_options o = greedy(3);
  CHECK_OK(ml_session_generate(in.session, &o, ask_elsewhere, &in, NULL), "while a session answers");
  CHECK(in.status == ML_OK, "another thread is refused");
  ml_session_close(in.session);
}

/* A turn that finds no memory for its cache is taken back, and the session is as it was. */
static void test_limit(void) {
  ml_engine *engine = NULL;
  ml_engine_options options = {.struct_size = sizeof options, .threads = 1};
  ml_memory_info memory = {.struct_size = sizeof memory};
  CHECK_OK(ml_engine_create(&options, &engine), "an engine");
  load(engine, tiny_with_text());
  ml_engine_memory(engine, &memory);
  ml_engine_close(engine);
  options.memory_limit_bytes = memory.peak_bytes + 4096;
  CHECK_OK(ml_engine_create(&options, &engine), "one with a limit of what its model needs");
  ml_session *s = open_session(load(engine, tiny_with_text()), "Be brief.");
  ml_metrics m = no_metrics();
  for (int i = 0; i < 2; i++)
    CHECK_FAILS(ml_session_send(s, "Why?", NULL, NULL, NULL, &m), ML_LIMIT, "limit", "a turn without room");
  CHECK(m.finish_reason == ML_FINISH_ERROR && describe(s).n_messages == 1, "leaves what the system said");
  ml_engine_close(engine);
}

/* ---- log probabilities ---- */

enum { MOST_TOP = 4, VOCABULARY = 131 };

typedef struct likely {
  double own[TINY_ANSWER], top[TINY_ANSWER][MOST_TOP];
  int32_t ids[TINY_ANSWER], top_ids[TINY_ANSWER][MOST_TOP];
  size_t n_top[TINY_ANSWER];
  int count;
} likely;

static bool keep_likely(void *context, const ml_token *token) {
  likely *l = context;
  if (l->count == TINY_ANSWER) return false;
  l->ids[l->count] = token->id;
  l->own[l->count] = token->logprob;
  l->n_top[l->count] = token->n_top_logprobs;
  for (size_t i = 0; i < token->n_top_logprobs && i < MOST_TOP; i++) {
    l->top[l->count][i] = token->top_logprobs[i].logprob;
    l->top_ids[l->count][i] = token->top_logprobs[i].id;
  }
  l->count++;
  return true;
}

/* The log probability of an id, from logits. */
static double of_logits(const float *logits, int32_t id) {
  double sum = 0;
  for (int i = 0; i < VOCABULARY; i++) sum += exp(logits[i]);
  return logits[id] - log(sum);
}

static void test_logprobs(ml_model *bare) {
  likely l = {0};
  int32_t ids[TINY_PROMPT + TINY_ANSWER];
  static float logits[(TINY_PROMPT + TINY_ANSWER) * VOCABULARY];
  memcpy(ids, tiny_prompt, sizeof tiny_prompt);
  memcpy(ids + TINY_PROMPT, tiny_answer, sizeof tiny_answer);
  CHECK_OK(ml_logits(bare, ids, TINY_PROMPT + TINY_ANSWER, logits, sizeof logits / sizeof *logits, NULL), "logits");
  ml_generate_options o = greedy(TINY_ANSWER);
  o.logprobs = 3;
  CHECK_OK(ml_generate(bare, &o, keep_likely, &l, NULL), "log probabilities of tokens");
  int wrong = 0;
  for (int i = 0; i < TINY_ANSWER; i++) {
    const float *behind = logits + (TINY_PROMPT - 1 + i) * VOCABULARY;
    wrong += !(fabs(l.own[i] - of_logits(behind, tiny_answer[i])) < 1e-4);
    wrong += l.n_top[i] != 3 || l.top_ids[i][0] != tiny_answer[i] || l.top[i][0] != l.own[i];
    wrong += !(l.top[i][0] >= l.top[i][1] && l.top[i][1] >= l.top[i][2]);
    wrong += !(fabs(l.top[i][2] - of_logits(behind, l.top_ids[i][2])) < 1e-4);
  }
  CHECK(wrong == 0 && l.count == TINY_ANSWER, "are what the logits say, the likeliest first (%d wrong)", wrong);
  o.logprobs = 0, o.zeros = ML_ZERO_LOGPROBS, l = (likely){0};
  CHECK_OK(ml_generate(bare, &o, keep_likely, &l, NULL), "their own alone");
  CHECK(l.n_top[3] == 0 && fabs(l.own[3] - of_logits(logits + (TINY_PROMPT + 2) * VOCABULARY, tiny_answer[3])) < 1e-4,
        "are there");
  o.zeros = 0, l = (likely){0};
  CHECK_OK(ml_generate(bare, &o, keep_likely, &l, NULL), "none asked for");
  CHECK(isnan(l.own[0]) && l.n_top[0] == 0, "is none");
  o.logprobs = -1;
  CHECK_FAILS(ml_generate(bare, &o, NULL, NULL, NULL), ML_USAGE, "logprobs", "a negative number of them");
  ml_session *s = open_session(bare, NULL);
  o.logprobs = 2, l = (likely){0};
  CHECK_OK(ml_session_generate(s, &o, keep_likely, &l, NULL), "of a session's tokens");
  CHECK(l.n_top[5] == 2 && fabs(l.own[5] - of_logits(logits + (TINY_PROMPT + 4) * VOCABULARY, tiny_answer[5])) < 1e-4,
        "they are the same");
  ml_session_close(s);
}

static void test_sampler_options(ml_model *bare) {
  heard h = {0};
  const ml_logit_bias bias[] = {{tiny_answer[0], -INFINITY}, {7, 1e6}};
  ml_generate_options o = greedy(4);
  o.logit_bias = bias, o.n_logit_bias = 2;
  CHECK_OK(ml_generate(bare, &o, hear, &h, NULL), "a bias");
  CHECK(h.count == 4 && h.ids[0] == 7 && h.ids[3] == 7, "makes a token the likeliest");
  o = greedy(4), o.n_logit_bias = 2;
  CHECK_FAILS(ml_generate(bare, &o, NULL, NULL, NULL), ML_USAGE, "logit_bias", "a bias that is NULL");
  o = greedy(8), o.temperature = 1, o.xtc_probability = 1, o.zeros = ML_ZERO_XTC_THRESHOLD | ML_ZERO_SEED;
  h = (heard){0};
  CHECK_OK(ml_generate(bare, &o, hear, &h, NULL), "xtc with a threshold of 0");
  CHECK(h.ids[0] != tiny_answer[0], "leaves the least likely token");
  o.xtc_probability = 2;
  CHECK_FAILS(ml_generate(bare, &o, NULL, NULL, NULL), ML_USAGE, "xtc_probability", "a probability of 2");
}

/* ---- memory ---- */

static ml_status whole_life(void *unused) {
  (void)unused;
  ml_engine *engine = NULL;
  ml_model *model = NULL;
  ml_session *one = NULL, *two = NULL, *three = NULL;
  ml_engine_options options = {.struct_size = sizeof options, .threads = 1};
  ml_generate_options o = plain(3);
  o.logprobs = 2;
  ml_status status = ml_engine_create(&options, &engine);
  if (status == ML_OK) status = ml_model_load(engine, tiny_with_text(), NULL, &model);
  if (status == ML_OK) status = ml_session_open(model, NULL, &one);
  if (status == ML_OK) status = ml_session_send(one, "Why?", &o, keep_likely, &(likely){0}, NULL);
  if (status == ML_OK) status = ml_session_fork(one, &two);
  if (status == ML_OK) status = ml_session_send(two, "How?", &o, NULL, NULL, NULL);
  if (status == ML_OK) status = ml_session_open(model, NULL, &three);
  ml_session_close(one);
  ml_engine_close(engine); /* and two sessions with it */
  return status;
}

/* ---- a real model ---- */

static void test_real(void) {
  const char *path = check_checkpoint("SmolLM2-135M-Instruct.gguf", "sessions of SmolLM2");
  if (!path) return;
  ml_engine *engine = open_engine();
  ml_model *model = load(engine, path);
  ml_session *s = open_session(model, "Answer in one word."), *fork = NULL;
  heard first = {.in_order = true}, second = {.in_order = true}, again = {.in_order = true};
  ml_metrics m = no_metrics();
  ml_generate_options o = {.struct_size = sizeof o, .max_tokens = 24};
  CHECK_OK(ml_session_send(s, "What is the capital of France?", &o, hear, &first, NULL), "SmolLM2 is asked");
  CHECK(strstr(first.text, "Paris"), "and says \"%s\"", first.text);
  CHECK_OK(ml_session_fork(s, &fork), "a fork");
  CHECK_OK(ml_session_send(s, "And of Italy?", &o, hear, &second, &m), "it is asked more");
  CHECK(m.cached_tokens > 20 && m.finish_reason == ML_FINISH_STOP, "with its cache, and ends");
  CHECK_OK(ml_session_send(fork, "And of Italy?", &o, hear, &again, NULL), "the fork is asked the same");
  CHECK(strcmp(second.text, again.text) == 0, "and says the same: \"%s\"", again.text);
  CHECK_OK(ml_engine_close(engine), "the engine closes with both");
}

int main(void) {
  ml_engine *engine = open_engine();
  ml_model *bare = load(engine, TINY_MODEL), *speaking = load(engine, tiny_with_text());
  test_going_on(bare);
  test_files(engine, bare, speaking);
  test_conversation(speaking);
  test_begun_conversation(speaking);
  test_forget(engine);
  test_callbacks(engine);
  test_enough(speaking);
  test_cancel(engine, speaking);
  test_usage(engine, bare, speaking);
  test_threads(bare);
  test_logprobs(bare);
  test_sampler_options(bare);
  ml_session *left = open_session(speaking, NULL);
  ml_model_close(speaking);
  size_t n;
  CHECK_FAILS(ml_session_tokens(left, NULL, 0, &n), ML_USAGE, "the model is closed", "a session of a closed model");
  ml_session_close(left);
  begun(bare);
  CHECK_OK(ml_engine_close(engine), "an engine closes, and a session with it");
  test_limit();
  check_life_refusals(whole_life, "an engine's life with sessions", 80000, 40, 2, 10);
  check_life_leaks_nothing(whole_life, "an engine's life with sessions");
  test_real();
  return check_done();
}
