/* repl.c: the `moonlet` command.
 *
 * Finds out what is asked for (REPL, script, -e, subcommand), runs it in a Lua state of its own, and turns the outcome
 * into an exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted. What a person sees at the prompt is written in
 * Lua (lua/repl, lua/cmd); here is what needs C: Ctrl-C, the line editor with its history, the terminal and the clock,
 * offered to that Lua as the module "moonlet.console", which exists in this program alone. This is the only file that
 * uses readline, installs a signal handler, or decides when the process ends. */
#include "moonlet.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <locale.h>
#include <lualib.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <readline/history.h>
#include <readline/readline.h>

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_WRONG_USAGE = 2, EXIT_INTERRUPTED = 130 };
enum { HISTORY_ENTRIES = 1000, HISTORY_FILE_LINES = 4000 };
enum { TRACEBACK_FRAMES = 20, TRACEBACK_LEVELS = 1000 }; /* shown, and looked at */

/* What Ctrl-C does to the code that runs now. */
typedef enum attention {
  NOTE,  /* nothing beyond taking note: the prompt asks */
  RAISE, /* cancels the engine's work and raises "cancelled" in Lua */
  WATCH  /* cancels the engine's work; the Lua code asks `interrupted` and finishes in order */
} attention;

/* The one thing that is global here, since signal handlers and readline's callbacks get no argument. */
static struct {
  lua_State *L; /* runs now */
  ml_engine *engine;
  volatile sig_atomic_t attention;
  volatile sig_atomic_t pending;   /* a Ctrl-C came and the code that it was meant for still runs */
  volatile sig_atomic_t delivered; /* that Ctrl-C has become an error in Lua */
  volatile sig_atomic_t resumed;   /* the process was stopped and goes on: the prompt must be drawn again */
  struct timespec since;           /* when the pending Ctrl-C came */

  char *line; /* from readline, malloc'ed; NULL at the end of input */
  bool line_done;
  char *history_path;
  int completer; /* registry reference */
  bool prose;    /* the line is no Lua code: words end at spaces, quotes mean nothing */
  bool judged;   /* main has an exit code, which heeds what became of the output */
} console = {.completer = LUA_NOREF};

static const char cancelled_key, traceback_key; /* their addresses are registry keys */

/* ---- Ctrl-C ---------------------------------------------------------------------------------------------------- */

static const int every_event = LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT;

/* Debug hook: the first thing that Lua does after a Ctrl-C. An operation of the engine may have raised the error before
 * it; then the flag is down again and nothing is left to do. */
static void raise_cancelled(lua_State *L, lua_Debug *event) {
  (void)event;
  lua_sethook(L, NULL, 0, 0);
  console.delivered = 1;
  if (!ml_cancel_clear(console.engine)) return;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &cancelled_key);
  lua_error(L);
}

/* Makes the running code end as its attention asks. */
static void deliver(void) {
  if (console.attention != NOTE) ml_cancel(console.engine);
  if (console.attention == RAISE) lua_sethook(console.L, raise_cancelled, every_event, 1);
}

/* A second Ctrl-C that finds the first one unanswered ends the program, as it would without this handler. A key that is
 * held down (repeats within 0.2 s) does not count; nor does one that comes a second after an error that the running
 * code has caught. */
static void on_interrupt(int number) {
  int saved = errno;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (console.pending) {
    long ms = (long)(now.tv_sec - console.since.tv_sec) * 1000 + (now.tv_nsec - console.since.tv_nsec) / 1000000;
    bool repeat = ms < 200;
    if (!repeat && (!console.delivered || ms < 1000)) {
      signal(number, SIG_DFL);
      raise(number);
    }
    if (repeat) {
      errno = saved;
      return;
    }
  }
  console.since = now;
  console.delivered = 0;
  console.pending = 1;
  deliver();
  errno = saved;
}

static void on_resume(int number) {
  (void)number;
  console.resumed = 1;
}

static void install_handlers(void) {
  struct sigaction action = {.sa_handler = on_interrupt}, old;
  sigemptyset(&action.sa_mask);
  /* No SA_RESTART: a Ctrl-C must end a blocked read. A parent that had SIGINT ignored (nohup, `&`) keeps its will. */
  if (sigaction(SIGINT, NULL, &old) == 0 && old.sa_handler != SIG_IGN) sigaction(SIGINT, &action, NULL);
  action.sa_handler = on_resume;
  action.sa_flags = SA_RESTART;
  sigaction(SIGCONT, &action, NULL);
}

/* Forgets what Ctrl-C has asked for: the code that it was meant for has ended. */
static void settle(void) {
  if (console.L) lua_sethook(console.L, NULL, 0, 0);
  if (console.engine) ml_cancel_clear(console.engine);
  console.pending = console.delivered = 0;
}

/* A hook belongs to one coroutine, so it must be known which one runs: resume and wrap of the coroutine library are
 * called through here. Calls the function below the arguments while `co` runs; its results, or its error, are at the
 * top. */
static int call_in_coroutine(lua_State *L, lua_State *co, int n_args) {
  lua_State *outer = console.L;
  if (co && outer) console.L = co;
  int status = lua_pcall(L, n_args, LUA_MULTRET, 0);
  console.L = outer;
  /* A Ctrl-C that came between the coroutine's last step and here has found nothing to stop. */
  if (console.pending && !console.delivered && console.attention == RAISE)
    lua_sethook(outer, raise_cancelled, every_event, 1);
  return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}

static int coroutine_resume(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  return call_in_coroutine(L, lua_tothread(L, 2), lua_gettop(L) - 1);
}

static int call_wrapped(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  return call_in_coroutine(L, lua_tothread(L, lua_upvalueindex(2)), lua_gettop(L) - 1);
}

/* The function that the library's wrap returns has its coroutine as the first upvalue. */
static int coroutine_wrap(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, 1);
  if (!lua_getupvalue(L, -1, 1)) return 1;
  lua_pushcclosure(L, call_wrapped, 2);
  return 1;
}

static void watch_coroutines(lua_State *L) {
  static const luaL_Reg functions[] = {{"resume", coroutine_resume}, {"wrap", coroutine_wrap}, {NULL, NULL}};
  lua_getglobal(L, LUA_COLIBNAME);
  for (const luaL_Reg *f = functions; f->name; f++) {
    lua_getfield(L, -1, f->name);
    lua_pushcclosure(L, f->func, 1);
    lua_setfield(L, -2, f->name);
  }
  lua_pop(L, 1);
}

/* ---- protected calls ------------------------------------------------------------------------------------------- */

static void add_frame(luaL_Buffer *text, const lua_Debug *at) {
  lua_State *L = text->L;
  lua_pushfstring(L, "\n\t%s:%d: in ", at->short_src, at->currentline);
  luaL_addvalue(text);
  if (*at->what == 'm') lua_pushliteral(L, "main chunk");
  else if (!*at->namewhat) lua_pushfstring(L, "function <%s:%d>", at->short_src, at->linedefined);
  else lua_pushfstring(L, "%s '%s'", strcmp(at->namewhat, "global") == 0 ? "function" : at->namewhat, at->name);
  luaL_addvalue(text);
}

/* Pushes a traceback of the user's own functions, the innermost first; nil when there is none. What lies between them,
 * our Lua ("=moonlet/...") and C functions, says nothing about a mistake of theirs. */
static void push_own_traceback(lua_State *L) {
  luaL_Buffer text;
  lua_Debug at;
  int frames = 0;
  luaL_buffinit(L, &text);
  luaL_addstring(&text, "stack traceback:");
  for (int level = 1; level < TRACEBACK_LEVELS && lua_getstack(L, level, &at); level++) {
    lua_getinfo(L, "Sln", &at);
    if (at.currentline <= 0 || strncmp(at.source, "=moonlet/", 9) == 0) continue;
    if (frames++ < TRACEBACK_FRAMES) add_frame(&text, &at);
  }
  if (frames > TRACEBACK_FRAMES) luaL_addstring(&text, "\n\t...");
  luaL_pushresult(&text);
  if (frames > 0) return;
  lua_pop(L, 1);
  lua_pushnil(L);
}

/* Message handler: keeps the traceback in the registry and the error as it is. What is not RAISE is our own code, of
 * which the traceback shows everything. */
static int keep_traceback(lua_State *L) {
  lua_sethook(L, NULL, 0, 0);
  if (console.attention == RAISE) push_own_traceback(L);
  else luaL_traceback(L, L, NULL, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &traceback_key);
  return 1;
}

/* Holds SIGINT back; gives the mask as it was. */
static sigset_t block_interrupt(void) {
  sigset_t interrupt, before;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  sigprocmask(SIG_BLOCK, &interrupt, &before);
  return before;
}

/* A Ctrl-C that came since the line was entered is meant for the code that begins now. */
static void begin(lua_State *L, attention how) {
  sigset_t before = block_interrupt();
  console.L = L;
  console.attention = how;
  if (console.pending) deliver();
  else settle();
  sigprocmask(SIG_SETMASK, &before, NULL);
}

/* Calls the function below `n_args` arguments under the given attention, leaving its results or the error. */
static int call_attended(lua_State *L, int n_args, attention how) {
  int base = lua_gettop(L) - n_args;
  lua_State *outer_L = console.L;
  int outer = console.attention;
  lua_pushcfunction(L, keep_traceback);
  lua_insert(L, base);
  begin(L, how);
  int status = lua_pcall(L, n_args, LUA_MULTRET, base);
  if (console.pending) clearerr(stdout); /* a write that Ctrl-C cut short is no failure */
  console.attention = NOTE;
  settle();
  console.L = outer_L;
  console.attention = outer;
  lua_remove(L, base);
  return status;
}

static int attended(lua_State *L, attention how) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &traceback_key);
  if (call_attended(L, lua_gettop(L) - 1, how) == LUA_OK) {
    lua_pushboolean(L, 1);
    lua_insert(L, 1);
    return lua_gettop(L);
  }
  lua_pushboolean(L, 0);
  lua_insert(L, 1);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &traceback_key);
  return 3;
}

/* run(fn, ...) -> true, results... | false, error, traceback. Ctrl-C raises "cancelled" inside. */
static int console_run(lua_State *L) { return attended(L, RAISE); }
/* watch(fn, ...): the same, but Ctrl-C only cancels the engine's work and makes interrupted() true. */
static int console_watch(lua_State *L) { return attended(L, WATCH); }

static int console_interrupted(lua_State *L) {
  lua_pushboolean(L, console.pending != 0);
  return 1;
}

/* ---- line editor ----------------------------------------------------------------------------------------------- */

/* The quote of Lua code that is open at the cursor, or 0. */
static char open_quote(void) {
  char quote = 0;
  for (int i = 0; i < rl_point && !console.prose; i++) {
    char c = rl_line_buffer[i];
    if (quote && c == '\\' && i + 1 < rl_point) i++;
    else if (quote && c == quote) quote = 0;
    else if (!quote && (c == '"' || c == '\'')) quote = c;
  }
  return quote;
}

/* Where a word begins: anywhere but inside a.b:c, and in a string only at its quote, so that paths stay whole. */
static char *word_breaks(void) {
  static char in_code[] = " \t\n\"'`{}()[]<>=+-*/%^#~,;|&", in_string[] = "\"'", in_prose[] = " \t\n";
  if (console.prose) return in_prose;
  return open_quote() ? in_string : in_code;
}

/* Readline asks for one match after another; the list that the completer returned is at the top of the stack. */
static char *next_match(const char *word, int state) {
  static lua_Integer next;
  (void)word;
  if (state == 0) next = 1;
  lua_rawgeti(console.L, -1, next++);
  const char *text = lua_type(console.L, -1) == LUA_TSTRING ? lua_tostring(console.L, -1) : NULL;
  char *copy = text ? strdup(text) : NULL;
  lua_pop(console.L, 1);
  return copy;
}

/* The completer is called with (word, line up to the cursor) and returns a list of whole words, true for file names, or
 * nil. */
static char **complete(const char *word, int start, int end) {
  (void)start;
  (void)end;
  lua_State *L = console.L;
  rl_attempted_completion_over = 1;
  rl_completion_append_character = '\0';
  char quote = open_quote();
  if (quote) {
    rl_completion_append_character = quote;
    return rl_completion_matches(word, rl_filename_completion_function);
  }
  int top = lua_gettop(L);
  char **matches = NULL;
  if (console.completer != LUA_NOREF && lua_checkstack(L, 8)) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, console.completer);
    lua_pushstring(L, word);
    lua_pushlstring(L, rl_line_buffer, (size_t)rl_point);
    if (lua_pcall(L, 2, 1, 0) == LUA_OK) {
      if (lua_istable(L, -1)) matches = rl_completion_matches(word, next_match);
      else if (lua_toboolean(L, -1)) matches = rl_completion_matches(word, rl_filename_completion_function);
    }
  }
  lua_settop(L, top);
  return matches;
}

static void take_line(char *line) {
  console.line = line;
  console.line_done = true;
  rl_callback_handler_remove();
}

/* Ends what is being typed. A search ends first, so that nothing of what it had found is left on the line. */
static void abandon_line(void) {
  if (RL_ISSTATE(RL_STATE_ISEARCH | RL_STATE_NSEARCH)) {
    rl_callback_sigcleanup();
    rl_replace_line("", 0);
    rl_redisplay();
  }
  rl_echo_signal_char(SIGINT);
  rl_point = rl_end;
  rl_redisplay();
  rl_free_line_state();
  rl_callback_sigcleanup();
  rl_replace_line("", 0);
  rl_callback_handler_remove();
  fputc('\n', rl_outstream ? rl_outstream : stdout);
}

/* readline(prompt) -> line | nil at the end of input | false after Ctrl-C. SIGINT gets through only while we wait and
 * while readline works, never between the look at `pending` and the wait. */
static int console_readline(lua_State *L) {
  const char *prompt = luaL_optstring(L, 1, "> ");
  lua_State *outer_L = console.L;
  int outer = console.attention;
  bool abandoned = false;
  console.attention = NOTE;
  settle();
  console.L = L;
  fflush(stdout);
  sigset_t before = block_interrupt(), waiting = before;
  sigdelset(&waiting, SIGINT);
  console.line = NULL;
  console.line_done = false;
  console.resumed = 0;
  rl_callback_handler_install(prompt, take_line);
  while (!console.line_done && !abandoned) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    int ready = console.pending ? -1 : ppoll(&input, 1, NULL, &waiting);
    if (console.resumed) {
      console.resumed = 0;
      rl_prep_terminal(1);
      rl_forced_update_display();
    }
    if (console.pending) {
      abandon_line();
      abandoned = true;
    } else if (ready > 0) {
      sigprocmask(SIG_SETMASK, &waiting, NULL);
      rl_callback_read_char();
      block_interrupt();
    }
  }
  if (abandoned) settle();
  console.L = outer_L;
  console.attention = outer;
  sigprocmask(SIG_SETMASK, &before, NULL);
  if (abandoned) lua_pushboolean(L, 0);
  else if (!console.line) lua_pushnil(L);
  else lua_pushstring(L, console.line);
  free(console.line);
  console.line = NULL;
  return 1;
}

/* completer(fn or nil, prose): `prose` says that lines are not Lua code. */
static int console_completer(lua_State *L) {
  luaL_unref(L, LUA_REGISTRYINDEX, console.completer);
  console.completer = LUA_NOREF;
  console.prose = lua_toboolean(L, 2);
  if (lua_isnoneornil(L, 1)) return 0;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  console.completer = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

/* Makes the directories above `path`, private to the user. */
static void make_parents(char *path) {
  for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    mkdir(path, 0700);
    *slash = '/';
  }
}

/* history(path): reads the file, and from now on `remember` appends to it. A history that cannot be kept is no reason
 * to bother anyone: true or false. */
static int console_history(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  free(console.history_path);
  console.history_path = strdup(path);
  using_history();
  clear_history();
  stifle_history(HISTORY_ENTRIES);
  history_comment_char = '#'; /* with time stamps, entries of several lines stay one entry in the file */
  history_write_timestamps = 1;
  if (!console.history_path || !*path) return 0;
  make_parents(console.history_path);
  int file = open(console.history_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (file >= 0) {
    close(file);
    read_history(console.history_path);
    history_truncate_file(console.history_path, HISTORY_FILE_LINES);
  }
  lua_pushboolean(L, file >= 0);
  return 1;
}

/* remember(text): adds an entry, unless it repeats the one before. */
static int console_remember(lua_State *L) {
  const char *text = luaL_checkstring(L, 1);
  HIST_ENTRY *last = history_length > 0 ? history_get(history_base + history_length - 1) : NULL;
  if (last && strcmp(last->line, text) == 0) return 0;
  add_history(text);
  if (console.history_path) append_history(1, console.history_path);
  return 0;
}

static int console_is_terminal(lua_State *L) {
  static const char *const names[] = {"stdin", "stdout", "stderr", NULL};
  lua_pushboolean(L, isatty(luaL_checkoption(L, 1, NULL, names)));
  return 1;
}

/* clock() -> seconds of a clock that only goes forward */
static int console_clock(lua_State *L) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec * 1e-9);
  return 1;
}

static int open_console(lua_State *L) {
  static const luaL_Reg functions[] = {{"run", console_run},
                                       {"watch", console_watch},
                                       {"interrupted", console_interrupted},
                                       {"readline", console_readline},
                                       {"completer", console_completer},
                                       {"history", console_history},
                                       {"remember", console_remember},
                                       {"is_terminal", console_is_terminal},
                                       {"clock", console_clock},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  lua_pushliteral(L, ML_VERSION);
  lua_setfield(L, -2, "version");
  rl_readline_name = "moonlet";
  rl_catch_signals = 0;
  rl_attempted_completion_function = complete;
  rl_completion_word_break_hook = word_breaks;
  return 1;
}

static void require(lua_State *L, const char *module) {
  lua_getglobal(L, "require");
  lua_pushstring(L, module);
  lua_call(L, 1, 1);
}

/* ---- errors ---------------------------------------------------------------------------------------------------- */

static int cancelled_tostring(lua_State *L) {
  lua_getfield(L, 1, "message");
  return 1;
}

static int cancelled_concat(lua_State *L) {
  luaL_tolstring(L, 1, NULL);
  luaL_tolstring(L, 2, NULL);
  lua_concat(L, 2);
  return 1;
}

/* The error that Ctrl-C raises; made early, since the hook that raises it should not have to allocate. */
static void make_cancelled(lua_State *L) {
  static const luaL_Reg meta[] = {{"__tostring", cancelled_tostring}, {"__concat", cancelled_concat}, {NULL, NULL}};
  lua_createtable(L, 0, 2);
  lua_pushliteral(L, "cancelled");
  lua_setfield(L, -2, "message");
  lua_pushliteral(L, "cancelled");
  lua_setfield(L, -2, "code");
  luaL_newlib(L, meta);
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &cancelled_key);
}

static int get_code(lua_State *L) {
  lua_getfield(L, 1, "code");
  return 1;
}

/* Whether the error at the top is an object with code "cancelled". */
static bool is_cancelled(lua_State *L) {
  if (!lua_istable(L, -1) && !lua_isuserdata(L, -1)) return false;
  lua_pushcfunction(L, get_code);
  lua_pushvalue(L, -2);
  bool is = lua_pcall(L, 1, 1, 0) == LUA_OK && lua_type(L, -1) == LUA_TSTRING &&
            strcmp(lua_tostring(L, -1), "cancelled") == 0;
  lua_pop(L, 1);
  return is;
}

/* The error as the REPL shows a value: one that is a plain table by what is in it. */
static int to_text(lua_State *L) {
  if (lua_istable(L, 1) && luaL_getmetafield(L, 1, "__tostring") == LUA_TNIL) {
    require(L, "moonlet.repl.show");
    lua_getfield(L, -1, "show");
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
  } else {
    luaL_tolstring(L, 1, NULL);
  }
  return 1;
}

/* Prints the error at the top, pops it, and gives the exit code that it means. Of a Ctrl-C no one asks where. */
static int report(lua_State *L) {
  int code = is_cancelled(L) ? EXIT_INTERRUPTED : EXIT_FAILED;
  lua_pushcfunction(L, to_text);
  lua_insert(L, -2);
  int status = lua_pcall(L, 1, 1, 0);
  const char *text = status == LUA_OK || lua_isstring(L, -1) ? lua_tostring(L, -1) : "(an error without a text)";
  lua_rawgetp(L, LUA_REGISTRYINDEX, &traceback_key);
  const char *traceback = lua_tostring(L, -1);
  fflush(stdout);
  if (code == EXIT_INTERRUPTED && isatty(STDERR_FILENO)) fputc('\n', stderr); /* behind the ^C */
  fprintf(stderr, "moonlet: %s\n", text);
  if (traceback && code == EXIT_FAILED) fprintf(stderr, "%s\n", traceback);
  lua_pop(L, 2);
  return code;
}

/* ---- what to run ----------------------------------------------------------------------------------------------- */

/* Sets the global `arg`: the script's name at 0, its arguments from 1, what came before below 0; pushes the arguments.
 */
static int push_arguments(lua_State *L, int argc, char **argv, int script) {
  lua_createtable(L, argc - script, script + 1);
  for (int i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i - script);
  }
  lua_setglobal(L, "arg");
  int count = argc - script - 1;
  luaL_checkstack(L, count > 0 ? count : 0, "too many arguments");
  for (int i = 0; i < count; i++) lua_pushstring(L, argv[script + 1 + i]);
  return count > 0 ? count : 0;
}

/* Runs the chunk on the stack, or reports why there is none; `script` is the index in argv that it came from. */
static int run_chunk(lua_State *L, int load_status, int argc, char **argv, int script) {
  if (load_status == LUA_OK) load_status = call_attended(L, push_arguments(L, argc, argv, script), RAISE);
  return load_status == LUA_OK ? EXIT_DONE : report(L);
}

/* Code that is typed has the global `ml`; a script in a file requires what it uses. */
static void offer_ml(lua_State *L) {
  require(L, "moonlet");
  lua_setglobal(L, "ml");
}

/* Runs each `-e CODE`, up to the first that fails; the arguments behind the last are those of all. */
static int run_code(lua_State *L, int argc, char **argv) {
  int last = 0; /* the index of the last code */
  for (int i = 1; i < argc && strcmp(argv[i], "-e") == 0; i += 2) last = i + 1;
  if (last == argc) {
    fprintf(stderr, "moonlet: -e needs the code to run: moonlet -e 'print(ml.zeros{2, 3})'\n");
    return EXIT_WRONG_USAGE;
  }
  offer_ml(L);
  for (int i = 2; i <= last; i += 2) {
    int status = luaL_loadbuffer(L, argv[i], strlen(argv[i]), "=(command line)");
    int code = run_chunk(L, status, argc, argv, last);
    if (code != EXIT_DONE) return code;
    lua_settop(L, 2);
  }
  return EXIT_DONE;
}

/* Runs `main` of a Lua module, with argv[1..] in a list; it returns the exit code. */
static int run_main(lua_State *L, const char *module, int argc, char **argv) {
  require(L, module);
  lua_getfield(L, -1, "main");
  lua_createtable(L, argc, 0);
  for (int i = 1; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i);
  }
  /* The REPL decides for itself, line by line, what Ctrl-C means. */
  int status = call_attended(L, 1, strcmp(module, "moonlet.repl") == 0 ? NOTE : RAISE);
  if (status != LUA_OK) return report(L);
  return lua_isinteger(L, -1) ? (int)lua_tointeger(L, -1) : EXIT_DONE;
}

static bool ends_with(const char *name, const char *end) {
  size_t length = strlen(name), n = strlen(end);
  return length > n && strcmp(name + length - n, end) == 0;
}

/* Whether the first argument names a script. A folder and a model are none: what to do with them is said elsewhere. */
static bool is_script(const char *name) {
  struct stat info;
  if (ends_with(name, ".lua")) return true;
  return strchr(name, '/') && !ends_with(name, ".gguf") && !(stat(name, &info) == 0 && S_ISDIR(info.st_mode));
}

static int dispatch(lua_State *L, int argc, char **argv) {
  const char *first = argc > 1 ? argv[1] : NULL;
  if (!first && isatty(STDIN_FILENO)) {
    offer_ml(L);
    return run_main(L, "moonlet.repl", argc, argv);
  }
  if (!first || strcmp(first, "-") == 0) {
    offer_ml(L);
    return run_chunk(L, luaL_loadfile(L, NULL), argc, argv, first ? 1 : 0);
  }
  if (strcmp(first, "-v") == 0 || strcmp(first, "--version") == 0) {
    printf("moonlet %s (%s)\n", ML_VERSION, LUA_RELEASE);
    return EXIT_DONE;
  }
  if (strcmp(first, "-e") == 0) return run_code(L, argc, argv);
  if (is_script(first)) return run_chunk(L, luaL_loadfile(L, first), argc, argv, 1);
  return run_main(L, "moonlet.cmd", argc, argv);
}

/* In protected mode from here on: (argc, argv) -> exit code. */
static int program(lua_State *L) {
  int argc = (int)lua_tointeger(L, 1);
  char **argv = lua_touserdata(L, 2);
  luaL_openlibs(L);
  lua_gc(L, LUA_GCINC, 0, 0, 0);
  make_cancelled(L);
  watch_coroutines(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_moonlet);
  lua_setfield(L, -2, "moonlet");
  lua_pushcfunction(L, open_console);
  lua_setfield(L, -2, "moonlet.console");
  lua_pop(L, 1);
  require(L, "moonlet"); /* now, since it makes the engine and the way to moonlet's other modules */
  lua_pop(L, 1);
  console.engine = ml_lua_engine(L);
  console.L = L;
  install_handlers();
  lua_pushinteger(L, dispatch(L, argc, argv));
  return 1;
}

/* Whether all that was printed has arrived; says so where it has not. */
static bool output_arrived(void) {
  bool failed_before = ferror(stdout) != 0;
  errno = 0;
  if (fflush(stdout) == 0 && !failed_before) return true;
  /* Why an earlier write failed is no longer known. */
  fprintf(stderr, "moonlet: standard output: %s\n", errno ? strerror(errno) : "a write failed, and its text is lost");
  return false;
}

/* At the end of the process, which a script reaches by os.exit as well. */
static void check_output(void) {
  if (!console.judged && !output_arrived()) _exit(EXIT_FAILED);
}

int main(int argc, char **argv) {
  atexit(check_output);
  setlocale(LC_CTYPE, ""); /* for readline's widths; numbers stay as C writes them */
  lua_State *L = luaL_newstate();
  if (!L) {
    fprintf(stderr, "moonlet: not enough memory to start\n");
    return EXIT_FAILED;
  }
  lua_pushcfunction(L, program);
  lua_pushinteger(L, argc);
  lua_pushlightuserdata(L, argv);
  int code = lua_pcall(L, 2, 1, 0) == LUA_OK ? (int)lua_tointeger(L, -1) : report(L);
  signal(SIGINT, SIG_DFL);
  lua_close(L);
  free(console.history_path);
  console.judged = true;
  if (code == EXIT_DONE && !output_arrived()) code = EXIT_FAILED;
  return code;
}
