/* test_interrupt.c: Ctrl-C at random moments of prefill, decode, batches and classifying in the REPL, in chat and in
 * `generate`: the prompt is back within 200 ms, and the next generation is right. The REPL's model is SmolLM2's shape
 * with random weights when the real one is not there; chat, which needs a tokenizer, is then left out. */
#include "terminal.h"

enum { MOMENTS = 50, CHAT_MOMENTS = 15, GENERATE_MOMENTS = 10, LIMIT_MS = 200, MOST_MOMENTS = 4096 };

/* How many moments to try: MOMENTS in the environment raises it, for a longer look. */
static int moments_of(int usual) {
  const char *more = getenv("MOMENTS");
  if (more && *more) return atoi(more);
  return check_sanitized() ? usual / 5 : usual;
}

/* Numbers in [0, 1), the same in every run. */
static double next_random(void) {
  static uint64_t state = 2024;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (double)(state >> 40) / (double)(1 << 24);
}

typedef struct delays {
  double worst, worst_wall;
  int count;
  double all[MOST_MOMENTS]; /* `count` of them, as far as there is room */
} delays;

static void note_delay(delays *d, double own, double wall) {
  if (own > d->worst) d->worst = own;
  if (wall > d->worst_wall) d->worst_wall = wall;
  if (d->count < MOST_MOMENTS) d->all[d->count] = own;
}

/* Presses Ctrl-C and waits for the prompt. */
static bool interrupt(session *s, const char *prompt, delays *d) {
  double waited = waited_ms(s->pid), before = now_ms();
  type(s, "\x03");
  if (!expect(s, prompt)) return false;
  double wall = now_ms() - before, own = wall - (waited_ms(s->pid) - waited);
  note_delay(d, own, wall);
  d->count++;
  return true;
}

static int by_size(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* The delay that so many of a hundred do not exceed. */
static double delay_of(delays *d, int percent) {
  int n = d->count < MOST_MOMENTS ? d->count : MOST_MOMENTS;
  if (n == 0) return 0;
  qsort(d->all, (size_t)n, sizeof *d->all, by_size);
  return d->all[(n * percent + 99) / 100 - 1];
}

static void check_delays(delays *d, int wanted, const char *where) {
  CHECK(d->count == wanted, "%s: %d of %d moments came back", where, d->count, wanted);
  if (check_sanitized()) check_skip("the prompt is back within 200 ms", "a sanitizer slows it");
  else
    CHECK(d->worst < LIMIT_MS,
          "%s: the prompt is back within %d ms (half %.0f, p99 %.0f, worst %.0f, %.0f on the clock)", where, LIMIT_MS,
          delay_of(d, 50), delay_of(d, 99), d->worst, d->worst_wall);
}

/* What was printed since `from`, up to the last match, without carriage returns; overwritten by the next call but one.
 */
static const char *printed_since(const session *s, size_t from) {
  static char texts[2][1 << 14];
  static int turn;
  char *text = texts[turn++ % 2];
  size_t n = 0;
  for (size_t i = from; i < s->seen && n < sizeof texts[0] - 1; i++) {
    if (s->text[i] != '\r') text[n++] = s->text[i];
  }
  text[n] = '\0';
  return text;
}

/* The number that the program prints for an expression. */
static double number_of(session *s, const char *expression) {
  char line[400];
  snprintf(line, sizeof line, "print('is', %s)", expression);
  if (!answers(s, line, "is\t")) return -1;
  size_t at = s->seen;
  return expect(s, "\r\n> ") ? strtod(s->text + at, NULL) : -1;
}

/* ---- the REPL ---- */

static const char config[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 576, \"intermediate_size\": 1536, \"num_hidden_layers\": %d,"
    " \"num_attention_heads\": 9, \"num_key_value_heads\": 3, \"vocab_size\": %d, \"max_position_embeddings\": 2048,"
    " \"tie_word_embeddings\": true}\n";

/* The line that loads the model to be interrupted. */
static void loading_line(char *line, size_t size, const char *real) {
  if (real) {
    snprintf(line, size, "m = assert(ml.load('%s'))", real);
    return;
  }
  char path[400];
  snprintf(path, sizeof path, "%s/config.json", folder);
  FILE *f = fopen(path, "w");
  if (!f || fprintf(f, config, check_sanitized() ? 2 : 30, check_sanitized() ? 1024 : 49152) < 0 || fclose(f) != 0)
    printf("# cannot write %s\n", path);
  snprintf(line, size, "m = assert(ml.load('%s', {random = 1, quantize = {format = 'q4_1'}}))", folder);
}

static const char *const helpers[] = {
    "function ids(n) local t = {} for i = 1, n do t[i] = (i * 7919 + 13) % 1000 end return t end",
    "function go() for _ in m:generate(ids(count), {max_tokens = most, ignore_eos = true}) do end end",
    "function texts(x) return table.concat(x, ' ') end",
    "function right() local _, r = m:complete(ids(12), {max_tokens = 4, ignore_eos = true}) return texts(r.ids) end",
    "most = 16 count = 64 go() go() print('warm')",
    /* about a quarter of a second of each, so that 50 moments take half a minute */
    "count = math.floor(math.max(32, math.min(512, m.metrics.prefill_tokens_per_second * 0.25)))",
    "most = math.floor(math.max(8, math.min(128, m.metrics.decode_tokens_per_second * 0.25)))",
    "go() first = m.metrics.prefill_seconds total = m.metrics.total_seconds wanted = right()",
    "prompts, few = {}, math.max(2, most // 4) for i = 1, 8 do prompts[i] = ids(8 + i) end",
    "function batch() m:batch_generate(prompts, {max_tokens = few, ignore_eos = true, slots = 8}) end",
    "lists = {} for i = 1, math.max(2, count // 24) do lists[i] = ids(16 + i) end",
    "function classify() m:classify(lists) end", "clock = require('moonlet.core').clock",
    "function took(f) f() local from = clock() f() return clock() - from end",
    "function free() return next(m:runtime().store.slots) == nil end", /* no sequence is left behind */
};

/* Within one step of a plan that takes seconds; the plan's next run is right. */
static void test_step(session *s) {
  static const char plan[] = "f = ml.compile(function(a) return a:sin():abs():sum() end) "
                             "x = (ml.arange(1 << 20):reshape {1, 1 << 20} * 1e-3):copy():broadcast_to {32, 1 << 20}";
  delays d = {0};
  if (!answers(s, plan, "\r\n> ") || !answers(s, "sum = f(x):item()", "\r\n> ")) return;
  if (!answers(s, "for i = 1, 1000 do f(x) end", "\r\n")) return;
  pause_ms(50);
  if (!interrupt(s, "\r\n> ", &d)) return;
  if (!answers(s, "z = ml.zeros {1}:broadcast_to {1 << 34}:sin():max():item()", "\r\n")) return;
  pause_ms(50);
  if (!interrupt(s, "\r\n> ", &d)) return;
  check_delays(&d, 2, "a long step");
  CHECK(answers(s, "print(f(x):item() == sum)", "true\r\n> "), "a plan that was interrupted in a step runs again");
}

static void test_repl(const char *real) {
  static session s;
  char line[800];
  char *argv[] = {(char *)"moonlet", NULL};
  if (!CHECK(start(&s, argv), "a terminal")) return;
  expect(&s, "\r\n> ");
  loading_line(line, sizeof line, real);
  if (!CHECK(answers(&s, line, "\r\n> "), "the model is loaded")) return;
  for (size_t i = 0; i < sizeof helpers / sizeof *helpers; i++) answers(&s, helpers[i], "\r\n> ");
  double prefill = number_of(&s, "first * 1000"), total = number_of(&s, "total * 1000");
  struct {
    const char *where, *call;
    double from, to; /* of its moments, in ms behind its beginning */
    int stopped;     /* had not ended before */
    delays delays;
  } * k, kinds[] = {
             {.where = "prefill", .call = "go()", .to = prefill},
             {.where = "decode", .call = "go()", .from = prefill, .to = total},
             {.where = "batches", .call = "batch()", .to = number_of(&s, "took(batch) * 1000")},
             {.where = "classifying", .call = "classify()", .to = number_of(&s, "took(classify) * 1000")},
         };
  enum { KINDS = sizeof kinds / sizeof *kinds };
  printf("# %s: prefill takes %.0f ms, prefill and decode %.0f ms, a batch %.0f ms, classifying %.0f ms\n",
         real ? "SmolLM2" : "random weights", prefill, total, kinds[2].to, kinds[3].to);
  int moments = moments_of(MOMENTS), right = 0;
  for (int i = 0; i < moments; i++) {
    k = &kinds[i % KINDS];
    if (!answers(&s, k->call, "\r\n")) break;
    size_t from = s.seen;
    pause_ms((long)(k->from + next_random() * (k->to - k->from) * 0.9));
    if (!interrupt(&s, "\r\n> ", &k->delays)) break;
    k->stopped += strstr(s.text + from, "cancelled") != NULL;
    if (!answers(&s, "print(right() == wanted and free())", "true\r\n> ")) break;
    right++;
  }
  for (k = kinds; k < kinds + KINDS; k++) {
    check_delays(&k->delays, (moments + KINDS - 1 - (int)(k - kinds)) / KINDS, k->where);
    CHECK(2 * k->stopped >= k->delays.count, "%s: %d of %d were stopped", k->where, k->stopped, k->delays.count);
  }
  CHECK(right == moments, "the REPL: the next generation is right (%d of %d)", right, moments);
  CHECK(strstr(s.text, "cancelled\r\n> "), "an interrupted loop says so");
  test_step(&s);
  CHECK(answers(&s, "m:close() print(pcall(m.generate, m, {1}))", "the model is closed\r\n> "), "the session goes on");
  type(&s, "\x04");
  CHECK(finish(&s) == 0, "and leaves in order");
}

/* ---- chat ---- */

static const char prompt[] = "\r\n> ", hello[] = "Say only hello.";
static const char story[] = "Tell me a long story about the old harbour and its boats.";

/* Reads on until nothing has come for a while, so that what is typed next is not lost to a Ctrl-C on its way. */
static void wait_for_quiet(session *s) {
  size_t before;
  do {
    before = s->size;
    listen_for(s, 200);
  } while (s->size > before);
  s->seen = s->size;
}

/* Begins the conversation anew. */
static bool clear(session *s) { return answers(s, "/clear", "begun again\r\n") && expect(s, "> "); }

/* The answer to a question, as it was printed. */
static const char *ask(session *s, const char *question) {
  type(s, question);
  expect(s, question);
  size_t from = s->seen;
  type(s, "\r");
  return expect(s, prompt) ? printed_since(s, from) : "";
}

/* Presses Ctrl-C and waits for "[stopped]" and the prompt. False where the answer had ended before. */
static bool stop_answer(session *s, delays *d) {
  size_t from = s->seen;
  listen_for(s, 0);
  if (strstr(s->text + from, prompt)) {
    type(s, "\x03");
    wait_for_quiet(s);
    return false;
  }
  bool back = interrupt(s, prompt, d);
  bool stopped = back && strstr(s->text + from, "[stopped]") && strstr(s->text + from, "[stopped]") < s->text + s->seen;
  if (back && !stopped) d->count--;
  wait_for_quiet(s);
  return stopped;
}

/* A REPL that says what a conversation that /save wrote goes on with, all of it computed anew. */
static bool start_replay(session *s, const char *real) {
  static const char *const lines[] = {
      "function old(p) local _, d = ml.load_safetensors(p) return ml.json.decode(d.messages) end",
      "function replay(p) local s <close> = m:session {messages = old(p)} local g = s:send(q, o) return g:complete() "
      "end",
  };
  char line[800];
  char *argv[] = {(char *)"moonlet", NULL};
  if (!start(s, argv) || !expect(s, "\r\n> ")) return false;
  loading_line(line, sizeof line, real);
  bool ready = answers(s, line, "\r\n> ");
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) ready = ready && answers(s, lines[i], "\r\n> ");
  snprintf(line, sizeof line, "o = {max_tokens = 8, temperature = 0} q = '%s'", hello);
  return ready && answers(s, line, "\r\n> ");
}

/* Whether the chat's answer is that of a session which was given the saved messages and never disturbed. */
static bool is_replayed(session *replay, const char *path, const char *answer) {
  char line[500];
  snprintf(line, sizeof line, "print((replay('%s')))", path);
  type(replay, line);
  if (!expect(replay, line)) return false;
  size_t from = replay->seen;
  type(replay, "\r");
  if (!expect(replay, "\r\n> ")) return false;
  const char *wanted = printed_since(replay, from); /* "\n", the answer, "\n> " */
  size_t n = strlen(wanted) - 2;
  bool same = n > 2 && strncmp(answer, wanted, n) == 0;
  if (!same) printf("# expected: %s\n# found: %s\n", wanted, answer);
  return same;
}

static void test_chat(const char *real) {
  static session s, replay;
  static char wanted[1 << 14], path[400], save[500];
  char *argv[] = {(char *)"moonlet", (char *)"chat", (char *)"-m", (char *)real, (char *)"--temp",
                  (char *)"0",       (char *)"-n",   (char *)"8",  NULL};
  if (!CHECK(start(&s, argv), "a terminal")) return;
  CHECK(expect(&s, "135 M parameters, Q4_1 + Q8_0, context 8192") &&
            expect(&s, "sampling: greedy (as you set it)\r\n") && expect(&s, prompt),
        "chat: banner and prompt");
  if (!CHECK(start_replay(&replay, real), "a session that is not disturbed")) return;
  snprintf(path, sizeof path, "%s/talk", folder);
  snprintf(save, sizeof save, "/save %s", path);
  snprintf(wanted, sizeof wanted, "%s", ask(&s, hello));
  CHECK(strlen(wanted) > 8, "chat: an answer: %.40s", wanted + 1);
  clear(&s);
  double before = now_ms();
  ask(&s, story);
  double total = now_ms() - before;
  delays d = {0};
  int moments = moments_of(CHAT_MOMENTS), right = 0, anew = 0, late = 0;
  while (d.count < moments && late <= moments) {
    if (!clear(&s) || !answers(&s, story, "\r\n")) break;
    double moment = next_random() * total * 0.8;
    pause_ms((long)moment);
    if (!stop_answer(&s, &d)) { /* the machine answers faster than it did */
      late++;
      total = moment;
      continue;
    }
    if (!answers(&s, save, "saved ") || !expect(&s, prompt)) break;
    right += is_replayed(&replay, path, ask(&s, hello));
    if (!clear(&s)) break;
    anew += strcmp(ask(&s, hello), wanted) == 0;
    if (d.count % 10 == 0) {
      printf("# chat: %d stopped, then right: %d, begun anew and right: %d\n", d.count, right, anew);
      fflush(stdout);
    }
  }
  printf("# chat: %d answers were stopped, %d had ended before\n", d.count, late);
  check_delays(&d, moments, "chat");
  CHECK(right == moments, "chat: the next answer is right (%d of %d)", right, moments);
  CHECK(anew == moments, "chat: that of a conversation begun anew is right (%d of %d)", anew, moments);
  CHECK(answers(&s, "/stats", "last answer: ") && expect(&s, prompt), "chat: /stats");
  snprintf(wanted, sizeof wanted, "%s", ask(&s, hello));
  CHECK(strcmp(ask(&s, "/retry"), wanted) == 0, "chat: /retry answers anew");
  CHECK(answers(&s, "/undo", "took back: Say only hello.\r\n> "), "chat: /undo");
  CHECK(
      answers(&s, "/set temp 0.5", "temperature 0.5 (as you set it), top_k 40, top_p 0.95, min_p 0.05; moonlet's own"),
      "chat: /set");
  CHECK(answers(&s, "\"\"\"one", "  ") && answers(&s, "two\"\"\"", prompt), "chat: a text of two lines is one turn");
  type(&s, "\x04");
  type(&replay, "\x04");
  CHECK(finish(&s) == 0, "chat: Ctrl-D leaves in order");
  finish(&replay);
}

/* ---- generate ---- */

static void test_generate(const char *real) {
  delays d = {0};
  for (int i = 0; i < GENERATE_MOMENTS; i++) {
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
      if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)) _exit(126);
      run_child((char *[]){(char *)"moonlet", (char *)"generate", (char *)"-m", (char *)real, (char *)"-p",
                           (char *)"The moon", (char *)"-n", (char *)"4000", (char *)"--ignore-eos", NULL});
    }
    pause_ms(50 + (long)(next_random() * 1000));
    double waited = waited_ms(pid), before = now_ms(), last = waited;
    kill(pid, SIGINT);
    while (waitpid(pid, &status, WNOHANG) == 0 && now_ms() < before + patience_ms) {
      double now = waited_ms(pid); /* 0 once it has ended */
      if (now > last) last = now;
      pause_ms(1);
    }
    double wall = now_ms() - before, own = wall - (last - waited);
    note_delay(&d, own, wall);
    d.count += WIFEXITED(status) && WEXITSTATUS(status) == 130;
  }
  check_delays(&d, GENERATE_MOMENTS, "generate (exit code 130)");
}

int main(void) {
  if (!open_folder()) return check_done();
  patience_ms = 60000;
  const char *real = check_checkpoint("SmolLM2-135M-Instruct.gguf", "Ctrl-C in chat and generate");
  test_repl(real);
  if (real) {
    test_chat(real);
    test_generate(real);
  }
  remove_folder();
  return check_done();
}
