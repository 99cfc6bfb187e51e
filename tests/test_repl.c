/* test_repl.c: the moonlet command as a person and as a shell meet it: the REPL in a terminal of its own (prompt,
 * Ctrl-C, history, completion), and the exit codes and outputs of scripts. Needs no model. */
#include "terminal.h"

#include <fcntl.h>

static char *const repl[] = {(char *)"moonlet", NULL};

static void test_session(void) {
  static session s;
  if (!CHECK(start(&s, repl), "a terminal")) return;
  CHECK(expect(&s, "moonlet " ML_VERSION) && expect(&s, "\r\n> "), "banner and prompt");
  CHECK(answers(&s, "=6 * 7", "\r\n42\r\n> "), "=expression");
  CHECK(answers(&s, "'x' .. 1, nil, {1, a = {2}}", "\r\nx1\tnil\t{1, a = {2}}\r\n> "), "several results");
  CHECK(answers(&s, "for i = 1, 2 do", ">> ") && answers(&s, "print('i' .. i)", ">> ") &&
            answers(&s, "end", "\r\ni1\r\ni2\r\n> "),
        "continuation");
  CHECK(answers(&s, "x = = 1", "(repl):1: "), "a mistake is told");
  CHECK(answers(&s, "error('o' .. 'ops')", "(repl):1: oops\r\n> "), "an error is told, without a traceback");
  CHECK(answers(&s, "local function f() error('deep') end f()", "stack traceback:"), "a deeper one with it");
  CHECK(answers(&s, "ml.zeros{-1}", "(repl):1: ") && expect(&s, "\r\n> ") && !strstr(s.text, "moonlet/"),
        "misuse of the library: one line");
  CHECK(answers(&s, "=type(ml), type(help)", "table\tfunction\r\n> "), "ml and help are there");
  CHECK(answers(&s, "quit", "\r\nnil\r\nnote: Ctrl-D leaves\r\n> "), "the way out is told");
  CHECK(answers(&s, "do io.write('no ', 'newline') end", "no newline\r\n> "), "a prompt begins a line of its own");
  answers(&s, "for i = 1, 1e9 do io.write('a\\b') end", "\r\n");
  pause_ms(50);
  type(&s, "\x03");
  CHECK(expect(&s, "cancelled\r\n> ") && !strstr(s.text, "nil value"), "Ctrl-C while io.write works");
  CHECK(answers(&s, "x = io.write({})", "(repl):1: bad argument #1 to 'write'") && expect(&s, "\r\n> "),
        "io.write's errors");
  CHECK(answers(&s, "=io.write() == io.stdout", "\r\ntrue\r\n> "), "io.write's result");
  type(&s, "\x04");
  CHECK(finish(&s) == 0, "Ctrl-D leaves with 0");
}

/* Lines that come together, as they do from README's first session: by typing ahead, and in a paste that the terminal
 * marks as one. */
static void test_pasted(void) {
  static session s;
  if (!CHECK(start(&s, repl), "a terminal")) return;
  expect(&s, "\r\n> ");
  type(&s, "> x = 6 -- six\r> =x * 7\r> for i = 1, 2 do\r>>   print('i' .. i)\r>> end\rx + 1\r");
  CHECK(expect(&s, "\r\n42\r\n") && expect(&s, "\r\ni1\r\ni2\r\n") && expect(&s, "\r\n7\r\n> "),
        "lines that are typed ahead, with prompts");
  type(&s, "\x04");
  finish(&s);
  terminal_type = "xterm";
  if (!CHECK(start(&s, repl), "a terminal that marks what is pasted")) return;
  terminal_type = "dumb";
  expect(&s, "\x1b[?2004h");
  type(&s, "\x1b[200~> x = 6 -- six\r> =x * 7\r42\r> error('o' .. 'ops')\r> {x,\r>> x}\x1b[201~\r");
  CHECK(expect(&s, "\x1b[?2004l\r42\r\n(repl):1: oops\r\n{6, 6}\r\n"), "a session that is pasted with what it printed");
  type(&s, "\x1b[200~local y = 2\ry + 1\r(function() return y + 2 end)()\x1b[201~\r");
  CHECK(expect(&s, "\x1b[?2004l\r3\r\n4\r\n"), "locals that are pasted");
  type(&s, "\x1b[200~=1\rfor i = 3, 3 do\x1b[201~\r");
  CHECK(expect(&s, "\x1b[?2004l\r1\r\n") && expect(&s, ">> "), "what is pasted unfinished");
  type(&s, "\x1b[200~print('i' .. i)\rend\r=i\x1b[201~\r");
  CHECK(expect(&s, "\x1b[?2004l\ri3\r\nnil\r\n"), "what is pasted unfinished goes on");
  type(&s, "\x1b[200~while true do ('%d'):format(1) end\r=11\x1b[201~\r"); /* ThreadSanitizer waits for a call */
  pause_ms(200);
  type(&s, "\x03");
  CHECK(expect(&s, "cancelled\r\n") && answers(&s, "=12", "\r12\r\n") && expect(&s, "> ") &&
            !strstr(s.text, "\r11\r\n"),
        "Ctrl-C drops the rest of what was pasted");
  type(&s, "\x04");
  CHECK(finish(&s) == 0, "Ctrl-D leaves with 0");
}

static void test_completion(void) {
  static session s;
  if (!CHECK(start(&s, repl), "a terminal")) return;
  expect(&s, "\r\n> ");
  type(&s, "=string.rev\t");
  CHECK(expect(&s, "=string.reverse"), "completes a field");
  type(&s, "('ab')\r");
  CHECK(expect(&s, "\r\nba\r\n> "), "and it runs");
  type(&s, "text = 'ab' whil\t");
  CHECK(expect(&s, "while"), "completes a keyword");
  type(&s, "\x03");
  expect(&s, "\r\n> ");
  type(&s, "=#assert(io.open(\"tests/test_rep\t");
  CHECK(expect(&s, "tests/test_repl.c\""), "completes a path in a string and closes it");
  type(&s, ")):read('a') > 100\r");
  CHECK(expect(&s, "\r\ntrue\r\n> "), "and the file is there");
  type(&s, "t = setmetatable({}, {__index = {method_one = print}}) =\x7f\x7f\r");
  expect(&s, "\r\n> ");
  type(&s, "t:meth\t('called')\r");
  CHECK(expect(&s, "\tcalled\r\n> "), "completes a method through a metatable");
  type(&s, "\x04");
  finish(&s);
}

static void test_interrupt(void) {
  static session s;
  if (!CHECK(start(&s, repl), "a terminal")) return;
  expect(&s, "\r\n> ");
  type(&s, "this is garbage(");
  expect(&s, "garbage(");
  type(&s, "\x03");
  CHECK(expect(&s, "\r\n> "), "Ctrl-C at the prompt gives a new one");
  CHECK(answers(&s, "=1 + 2", "\r\n3\r\n> "), "the line is gone");
  answers(&s, "for i = 1, 2 do", ">> ");
  type(&s, "\x03");
  CHECK(expect(&s, "\r\n> ") && answers(&s, "=2 + 2", "\r\n4\r\n> "), "Ctrl-C at a continuation drops the whole");
  type(&s, "\x12");
  expect(&s, "`': ");
  type(&s, "2");
  expect(&s, "2': =2 + 2");
  type(&s, "\x03");
  CHECK(expect(&s, "\r> ^C\r\n> ") && answers(&s, "=3 + 3", "\r\n6\r\n> "), "Ctrl-C in a search clears the line");
  static const char *const endless[] = {
      "while true do end",
      "repeat local x = {} until false",
      "while true do string.rep('x', 1000) end",
      "local function f() return f() end f()",
      "return setmetatable({}, {__index = function() while true do end end}).x",
      "table.sort({3, 1, 2}, function(a, b) while true do end end)",
  };
  double slowest = 0;
  for (size_t i = 0; i < 3 * sizeof endless / sizeof *endless; i++) {
    const char *line = endless[i % (sizeof endless / sizeof *endless)];
    type(&s, line);
    expect(&s, line);
    type(&s, "\r");
    pause_ms(20 + (long)(i * 37 % 90));
    double before = now_ms();
    type(&s, "\x03");
    if (!CHECK(expect(&s, "cancelled\r\n> "), "Ctrl-C stops: %s", line)) break;
    double took = now_ms() - before;
    if (took > slowest) slowest = took;
  }
  if (check_sanitized()) check_skip("the prompt is back within 200 ms", "a sanitizer slows it");
  else CHECK(slowest < 200, "the prompt is back within 200 ms (%.0f)", slowest);
  CHECK(answers(&s, "=5 + 5", "\r\n10\r\n> "), "the session goes on");
  answers(&s, "ok, e = pcall(function() while true do end end) print('caught: ' .. e.code)", "\r\n");
  pause_ms(50);
  type(&s, "\x03");
  CHECK(expect(&s, "caught: cancelled\r\n> "), "the error can be caught, and has a code");
  answers(&s, "co = coroutine.wrap(function() while true do end end) co()", "\r\n");
  pause_ms(50);
  type(&s, "\x03");
  CHECK(expect(&s, "cancelled\r\n> "), "a loop in a coroutine is stopped too");
  answers(&s, "co = coroutine.create(function() coroutine.yield() while true do end end)", "\r\n> ");
  answers(&s, "coroutine.resume(co) print(coroutine.resume(co))", "\r\n");
  pause_ms(50);
  type(&s, "\x03");
  CHECK(expect(&s, "false\tcancelled\r\n> "), "and resume gives the error");
  type(&s, "\x04");
  CHECK(finish(&s) == 0, "and leaves in order");
}

static void test_second_interrupt(void) {
  static session s;
  if (!CHECK(start(&s, repl), "a terminal")) return;
  expect(&s, "\r\n> ");
  answers(&s, "while true do pcall(function() while true do end end) end", "\r\n");
  pause_ms(50);
  type(&s, "\x03");
  pause_ms(400);
  type(&s, "\x03");
  CHECK(finish(&s) == 1000 + SIGINT, "a second Ctrl-C ends a loop that swallows the first");
}

static void test_history(void) {
  static session s;
  char path[1100];
  snprintf(path, sizeof path, "%s/moonlet/history", folder);
  unlink(path);
  if (!CHECK(start(&s, repl), "a terminal")) return;
  expect(&s, "\r\n> ");
  answers(&s, "first = 'one' .. 1", "\r\n> ");
  answers(&s, "={1,", ">> ");
  answers(&s, "2}", "\r\n> ");
  type(&s, "\x04");
  CHECK(finish(&s) == 0, "a first session");
  struct stat info;
  CHECK(stat(path, &info) == 0 && (info.st_mode & 077) == 0,
        "the history is kept in XDG_STATE_HOME, for its user alone");
  start(&s, repl);
  expect(&s, "\r\n> ");
  type(&s, "\x10\r");
  CHECK(expect(&s, "\r\n{1, 2}\r\n> "), "the last entry comes back, with both its lines");
  type(&s, "\x10\x10");
  CHECK(expect(&s, "first = 'one' .. 1"), "and the one before it");
  type(&s, " =\x7f\x7f\r");
  CHECK(expect(&s, "\r\n> ") && answers(&s, "=first", "\r\none1\r\n> "), "and it runs");
  type(&s, "\x04");
  CHECK(finish(&s) == 0, "a second session");
}

/* ---- a program in a pipeline ---- */

static char output[1 << 16], errors[1 << 16];

static void slurp(const char *path, char *into, size_t size) {
  FILE *f = fopen(path, "rb");
  size_t n = f ? fread(into, 1, size - 1, f) : 0;
  into[n] = '\0';
  if (f) fclose(f);
}

static int scratch(const char *name, const char *text) {
  char path[1100];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (fd < 0 || write(fd, text, strlen(text)) < 0 || lseek(fd, 0, SEEK_SET) < 0) printf("# cannot write %s\n", path);
  return fd;
}

/* Runs it with this text in stdin (NULL: a pipe that stays open) and these arguments, sends SIGINT after `interrupt_ms`
 * when that is not 0; fills `output` and `errors`. Exit code, or 1000 + signal. */
static int run(int interrupt_ms, const char *input, ...) {
  char *argv[16] = {(char *)"moonlet"};
  int argc = 1, status, ends[2];
  va_list args;
  va_start(args, input);
  for (char *a; argc < 15 && (a = va_arg(args, char *)); argc++) argv[argc] = a;
  va_end(args);
  if (pipe(ends) != 0) return -1;
  int in = input ? scratch("in", input) : dup(ends[0]), out = scratch("out", ""), err = scratch("err", "");
  pid_t pid = fork();
  if (pid == 0) {
    dup2(in, 0), dup2(out, 1), dup2(err, 2);
    run_child(argv);
  }
  if (interrupt_ms) {
    pause_ms(interrupt_ms);
    kill(pid, SIGINT);
  }
  waitpid(pid, &status, 0);
  close(in), close(out), close(err), close(ends[0]), close(ends[1]);
  char path[1100];
  snprintf(path, sizeof path, "%s/out", folder);
  slurp(path, output, sizeof output);
  snprintf(path, sizeof path, "%s/err", folder);
  slurp(path, errors, sizeof errors);
  return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

#define RUN(...) run(0, __VA_ARGS__, (char *)NULL)

static void test_pipeline(void) {
  CHECK(RUN("", "-v") == 0 && strncmp(output, "moonlet " ML_VERSION, 8 + strlen(ML_VERSION)) == 0, "-v");
  CHECK(RUN("", "--version") == 0 && !*errors, "--version");
  CHECK(RUN("", "--help") == 0 && strstr(output, "moonlet -e CODE"), "--help");
  CHECK(RUN("", "-e", "print(type(ml), ...)", "a", "b") == 0 && strcmp(output, "table\ta\tb\n") == 0, "-e has ml");
  CHECK(RUN("", "-e") == 2 && strstr(errors, "-e needs"), "-e without code is wrong usage");
  CHECK(RUN("", "-e", "x x") == 1 && strstr(errors, "moonlet: (command line):1:"), "-e with a mistake");
  CHECK(RUN("", "-e", "local function f() error('oops') end f()") == 1 && strstr(errors, "oops\nstack traceback:") &&
            strstr(errors, "in local 'f'") && !*output,
        "an error has a traceback, on stderr");
  CHECK(RUN("", "-e", "error(setmetatable({}, {__tostring = function() return 'an object' end}))") == 1 &&
            strstr(errors, "moonlet: an object\n"),
        "an error object is told by its __tostring");
  CHECK(RUN("", "-e", "error{code = 3}") == 1 && strstr(errors, "moonlet: {code = 3}\n"), "one without by its fields");
  CHECK(RUN("", "-e", "error()") == 1 && strstr(errors, "moonlet: nil"), "and none at all");
  CHECK(RUN("", "-e", "os.exit(7)") == 7, "os.exit");
  CHECK(RUN("", "-e", "print(collectgarbage 'incremental')") == 0 && strcmp(output, "incremental\n") == 0, "collector");
  CHECK(RUN("", "-e", "local function f() require'moonlet'.zeros(-1) end f()") == 1 &&
            strstr(errors, "traceback:\n\t(command line):1: in local 'f'\n\t(command line):1: in main chunk\n"),
        "a traceback has the user's functions alone");
  CHECK(RUN("print(1 + 1, type(ml))") == 0 && strcmp(output, "2\ttable\n") == 0, "code in a pipe has ml");
  CHECK(RUN("print(arg[0], ...)", "-", "a") == 0 && strcmp(output, "-\ta\n") == 0, "the same with -");
  CHECK(RUN("x x") == 1 && strstr(errors, "stdin:1:"), "a mistake in it");
  CHECK(RUN("", "frobnicate") == 2 && strstr(errors, "no command is called 'frobnicate'"), "no such command");
  CHECK(RUN("", "generate", "--frob") == 2, "no such option");
  CHECK(RUN("", "generate", "-m", "/nowhere", "-p", "x") == 1 && strstr(errors, "/nowhere"), "no such model");
  CHECK(RUN("", "./nowhere.lua") == 1 && strstr(errors, "nowhere.lua"), "no such script");
}

static void test_codes(void) {
  CHECK(RUN("", "-e", "x = 1 print(x, ...)", "-e", "print(x + 1, ..., arg[0])", "a") == 0 &&
            strcmp(output, "1\ta\n2\ta\tprint(x + 1, ..., arg[0])\n") == 0,
        "each -e runs, in the same state, with the arguments");
  CHECK(RUN("", "-e", "print(1)", "-e", "error('oops', 0)", "-e", "print(3)") == 1 && strcmp(output, "1\n") == 0 &&
            strstr(errors, "moonlet: oops\n"),
        "up to the first that fails");
  CHECK(RUN("", "-e", "print(1)", "-e") == 2 && !*output && strstr(errors, "-e needs"), "none without its code");
  CHECK(RUN("", "-e", "print(...)", "x", "-e") == 0 && strcmp(output, "x\t-e\n") == 0, "an argument is none");
  CHECK(RUN("", "./tests") == 2 && strstr(errors, "it is a folder"), "a folder is no script");
  CHECK(RUN("", "./nowhere.gguf") == 2 && strstr(errors, "no command is called './nowhere.gguf'"), "nor is a model");
}

/* What cannot be written is told, and the exit code says so, however the program ends. */
static void test_full_disk(void) {
  static session s;
  char path[1100];
  snprintf(path, sizeof path, "%s/script.lua", folder);
  close(scratch("script.lua", "print(1)"));
  output_path = "/dev/full";
  static const char *const codes[] = {
      "print(1)",
      "io.write(1)",
      "io.write(1) os.exit(0)",
      "io.write(1) os.exit(true, true)",
      "io.stdout:setvbuf('no') io.write(1)",
      "for i = 1, 1e5 do io.write(i, ' ') end io.stdout:flush()",
  };
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    CHECK(RUN("", "-e", (char *)codes[i]) == 1 && strstr(errors, "moonlet: standard output: "), "-e %s", codes[i]);
  CHECK(RUN("", path) == 1 && strstr(errors, "moonlet: standard output: "), "a script");
  CHECK(RUN("print(1)") == 1 && RUN("", "-v") == 1 && RUN("", "--help") == 1 && RUN("", "chat", "--help") == 1 &&
            RUN("", "ls", "tests") == 0 && RUN("", "ls", "tests/goldens/tiny") == 1 &&
            RUN("", "ls", "--json", "tests/goldens/tiny") == 1 && RUN("", "help", "info") == 1,
        "stdin, -v, --help, subcommands, --json");
  CHECK(strstr(errors, "standard output: No space left on device\n"), "the reason");
  CHECK(RUN("", "-e", "error('oops')") == 1 && !strstr(errors, "standard output"), "nothing printed, nothing lost");
  if (CHECK(start(&s, repl), "a terminal, without its output")) {
    pause_ms(100);
    type(&s, "=6 * 7\r");
    pause_ms(100);
    type(&s, "\x04");
    CHECK(finish(&s) == 1 && strstr(s.text, "moonlet: standard output: "), "the REPL");
  }
  output_path = NULL;
}

static void test_script(void) {
  char path[1100];
  snprintf(path, sizeof path, "%s/script.lua", folder);
  close(scratch("script.lua", "#!/usr/bin/env moonlet\n"
                              "print(arg[0] == ..., arg[1], arg[2], #arg, select('#', ...), arg[-1], ml)\n"
                              "print(type(require 'moonlet'))\n"));
  CHECK(RUN("", path, "a", "b") == 0 && strcmp(output, "false\ta\tb\t2\t2\tmoonlet\tnil\ntable\n") == 0,
        "a script, its arguments, and moonlet by require");
}

static void test_interrupted_script(void) {
  char path[1100];
  snprintf(path, sizeof path, "%s/script.lua", folder);
  close(scratch("script.lua", "while true do end"));
  CHECK(run(150, "", path, (char *)NULL) == 130 && strcmp(errors, "moonlet: cancelled\n") == 0,
        "an interrupted script ends with 130 and one line");
  close(scratch("script.lua", "io.read() while true do end"));
  CHECK(run(150, NULL, path, (char *)NULL) == 130, "also while it reads");
  close(scratch("script.lua", "local ok, e = pcall(function() while true do end end)\n"
                              "local n = 0 for i = 1, 1e6 do n = n + i end\n"
                              "print(ok, e.code, tostring(e), 'said: ' .. e)"));
  CHECK(run(150, "", path, (char *)NULL) == 0 && strcmp(output, "false\tcancelled\tcancelled\tsaid: cancelled\n") == 0,
        "a script that catches it goes on");
}

static void test_start(void) {
  double best = 1e9;
  for (int i = 0; i < 10; i++) {
    static session s;
    double before = now_ms();
    if (!start(&s, repl)) break;
    expect(&s, "\r\n> ");
    double took = now_ms() - before - waited_ms(s.pid);
    if (took < best) best = took;
    type(&s, "\x04");
    finish(&s);
  }
  if (check_sanitized()) check_skip("the REPL starts in under 20 ms", "a sanitizer slows it");
  else CHECK(best < 20, "the REPL starts in under 20 ms (%.1f)", best);
}

int main(void) {
  if (!open_folder()) return check_done();
  test_session();
  test_pasted();
  test_completion();
  test_history();
  test_pipeline();
  test_codes();
  test_full_disk();
  test_script();
  if (check_signals_wait()) {
    check_skip("Ctrl-C in loops of Lua", "ThreadSanitizer holds signals back");
  } else {
    test_interrupt();
    test_second_interrupt();
    test_interrupted_script();
  }
  test_start();
  remove_folder();
  return check_done();
}
