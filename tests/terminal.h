/* terminal.h: the moonlet command in a terminal of its own, as a person meets it: keys go in, what it prints is waited
 * for. */
#ifndef ML_TESTS_TERMINAL_H
#define ML_TESTS_TERMINAL_H

#include "check.h"

#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>

static char command[1024];                         /* the moonlet to test */
static char folder[] = "/tmp/moonlet-repl-XXXXXX"; /* its state, and scratch files */
static const char *terminal_type = "dumb";         /* for $TERM */
static const char *output_path;                    /* where its standard output goes, unless NULL */
static int patience_ms = 10000;                    /* how long `expect` and `finish` wait */

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void pause_ms(long ms) {
  nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* Finds the command and makes the folder; false when there is nothing to test. */
static bool open_folder(void) {
  const char *build = getenv("BUILD");
  snprintf(command, sizeof command, "%s/moonlet", build && *build ? build : "build");
  signal(SIGPIPE, SIG_IGN);
  return CHECK(access(command, X_OK) == 0, "%s is there", command) && CHECK(mkdtemp(folder), "a scratch folder");
}

static void remove_folder(void) {
  char line[1200];
  snprintf(line, sizeof line, "rm -rf '%s'", folder);
  CHECK(system(line) == 0, "the scratch folder is removed");
}

static void run_child(char *const argv[]) {
  setenv("XDG_STATE_HOME", folder, 1);
  setenv("INPUTRC", "/dev/null", 1);
  setenv("TERM", terminal_type, 1);
  if (output_path && !freopen(output_path, "w", stdout)) _exit(126);
  execv(command, argv);
  _exit(127);
}

/* Milliseconds for which the process's first thread stood ready and no processor was free. A machine with other work on
 * it delays the prompt by as much, and that is no fault of the program. 0 where the system does not say. */
CHECK_UNUSED static double waited_ms(pid_t pid) {
  char path[64];
  unsigned long long ran, waited = 0;
  snprintf(path, sizeof path, "/proc/%d/schedstat", (int)pid);
  FILE *f = fopen(path, "r");
  if (f && fscanf(f, "%llu %llu", &ran, &waited) != 2) waited = 0;
  if (f) fclose(f);
  return (double)waited / 1e6;
}

typedef struct session {
  pid_t pid;
  int terminal;
  char text[1 << 18]; /* all that it has printed */
  size_t size, seen;  /* `seen`: behind the last match */
} session;

static bool start(session *s, char *const argv[]) {
  struct winsize size = {.ws_row = 50, .ws_col = 200};
  memset(s, 0, sizeof *s);
  s->pid = forkpty(&s->terminal, NULL, NULL, &size);
  if (s->pid == 0) {
    /* At a Ctrl-C the system sends the signal and then throws away what is on its way to the screen: at times the new
     * prompt, on a busy machine. Everything that is printed is to arrive here. */
    struct termios modes;
    if (tcgetattr(STDIN_FILENO, &modes) == 0) {
      modes.c_lflag |= NOFLSH;
      tcsetattr(STDIN_FILENO, TCSANOW, &modes);
    }
    run_child(argv);
  }
  return s->pid > 0;
}

/* Reads what has come, for at most `ms`; false at the end. */
static bool listen_for(session *s, int ms) {
  struct pollfd input = {.fd = s->terminal, .events = POLLIN};
  if (poll(&input, 1, ms) <= 0) return true;
  ssize_t n = read(s->terminal, s->text + s->size, sizeof s->text - 1 - s->size);
  if (n <= 0) return false;
  s->size += (size_t)n;
  s->text[s->size] = '\0';
  return true;
}

/* Waits for this text behind what was matched before. */
static bool expect(session *s, const char *text) {
  double end = now_ms() + patience_ms;
  for (;;) {
    char *found = strstr(s->text + s->seen, text);
    if (found) {
      s->seen = (size_t)(found - s->text) + strlen(text);
      return true;
    }
    if (now_ms() > end || !listen_for(s, 100)) break;
  }
  printf("# expected \"%s\" in:\n# %s\n", text, s->text + s->seen);
  return false;
}

static void type(session *s, const char *keys) {
  size_t length = strlen(keys);
  if (write(s->terminal, keys, length) != (ssize_t)length) printf("# the terminal takes no keys\n");
}

/* Types a line and waits for what it prints. The echo is matched first, so that it cannot stand for the answer. */
static bool answers(session *s, const char *line, const char *answer) {
  type(s, line);
  if (!expect(s, line)) return false;
  type(s, "\r");
  return expect(s, answer);
}

/* Waits for the end: exit code, 1000 + signal, or -1 when it does not come. */
static int finish(session *s) {
  int status = -1;
  double end = now_ms() + patience_ms;
  pid_t done = 0;
  while (done == 0 && now_ms() < end) {
    listen_for(s, 20);
    done = waitpid(s->pid, &status, WNOHANG);
  }
  if (done == 0) {
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
    status = -1;
  }
  close(s->terminal);
  return status == -1 ? -1 : WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

#endif
