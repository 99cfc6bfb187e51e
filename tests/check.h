/* check.h: the C tests' common frame. A test file is one program:
 *
 *   #include "check.h"
 *   int main(void) {
 *     CHECK(1 + 1 == 2, "addition");
 *     return check_done();
 *   }
 *
 * Each check prints a line `ok - name` or `not ok - name: why`; check_skip prints `skip - name: why`. The exit status
 * is the number of failures, at most 100. */
#ifndef ML_TESTS_CHECK_H
#define ML_TESTS_CHECK_H

#include "base/mem.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* For functions of headers like this one, of which no test uses all. */
#define CHECK_UNUSED __attribute__((unused))

static int check_failures, check_count;

/* One check with a name in printf's manner. Evaluates to its condition, so that a test can stop where going on makes no
 * sense: if (!CHECK(file, "opens")) return check_done(); */
#define CHECK(condition, ...) check_that((condition) ? 1 : 0, #condition, __FILE__, __LINE__, __VA_ARGS__)
/* A call that must succeed, and one that must fail with this status and this text somewhere in its message. */
#define CHECK_OK(call, ...) check_status((call), ML_OK, "", #call, __FILE__, __LINE__, __VA_ARGS__)
#define CHECK_FAILS(call, status, text, ...)                                                                           \
  check_status((call), (status), (text), #call, __FILE__, __LINE__, __VA_ARGS__)

CHECK_UNUSED static int check_that(int passed, const char *condition, const char *file, int line, const char *name, ...)
    ML_PRINTF(5, 6);
CHECK_UNUSED static int check_status(ml_status found, ml_status wanted, const char *text, const char *call,
                                     const char *file, int line, const char *name, ...) ML_PRINTF(7, 8);

static int check_that(int passed, const char *condition, const char *file, int line, const char *name, ...) {
  va_list args;
  va_start(args, name);
  printf("%s - ", passed ? "ok" : "not ok");
  vprintf(name, args);
  va_end(args);
  if (!passed) printf(": %s:%d: %s", file, line, condition);
  printf("\n");
  check_count++;
  check_failures += !passed;
  return passed;
}

CHECK_UNUSED static int check_status(ml_status found, ml_status wanted, const char *text, const char *call,
                                     const char *file, int line, const char *name, ...) {
  int passed = found == wanted && (found == ML_OK || strstr(ml_error_message(), text));
  va_list args;
  va_start(args, name);
  printf("%s - ", passed ? "ok" : "not ok");
  vprintf(name, args);
  va_end(args);
  if (!passed) {
    printf(": %s:%d: %s: expected %s", file, line, call, ml_status_name(wanted));
    if (*text) printf(" with \"%s\"", text);
    printf(", found %s", ml_status_name(found));
    if (found != ML_OK) printf(": %s", ml_error_message());
  }
  printf("\n");
  check_count++;
  check_failures += !passed;
  return passed;
}

/* Whether the tests run under a sanitizer: too slow for every case and for measuring time. */
CHECK_UNUSED static bool check_sanitized(void) {
  const char *sanitizer = getenv("SANITIZE");
  return sanitizer && *sanitizer;
}

/* Whether it is ThreadSanitizer: there a signal handler waits until its thread calls the C library, for ever in a loop
 * of Lua alone. */
CHECK_UNUSED static bool check_signals_wait(void) { return check_sanitized() && strstr(getenv("SANITIZE"), "thread"); }

CHECK_UNUSED static void check_skip(const char *name, const char *why) {
  printf("skip - %s: %s\n", name, why);
  check_count++;
}

/* Ends main. A program without a single check has failed. */
CHECK_UNUSED static int check_done(void) {
  if (check_count == 0) check_that(0, "no check ran", __FILE__, __LINE__, "the test checks something");
  return check_failures > 100 ? 100 : check_failures;
}

/* --- memory --- */

/* Before main. Lines go out one by one, so that a later crash swallows none. And malloc's cache of each thread counts
 * what it keeps as handed out; it can be switched off only by the environment, before the process starts: so a test
 * starts itself anew with that set. */
__attribute__((constructor)) CHECK_UNUSED static void check_begin(int argc, char **argv) {
  setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
  if (argc < 1 || getenv("GLIBC_TUNABLES")) return;
  setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0", 1);
  execv("/proc/self/exe", argv);
}

/* Bytes that malloc has handed out and not got back. Under a sanitizer, whose allocator is another, always 0; there the
 * leak check is the sanitizer's own. */
CHECK_UNUSED static size_t check_heap_bytes(void) {
  struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

/* Runs `body` twice and checks that the second run, when whatever is set up once is there, leaves no memory behind. */
CHECK_UNUSED static void check_no_leak(void (*body)(void *), void *argument, const char *name) {
  body(argument);
  size_t before = check_heap_bytes();
  body(argument);
  size_t after = check_heap_bytes();
  CHECK(after <= before, "%s: no leak (%zu bytes before, %zu after)", name, before, after);
}

/* Runs `body` with its first request for memory refused, then its second, and so on until one run meets no refusal and
 * succeeds. Every refused run must return ML_MEMORY; the sum must leave no memory behind. */
CHECK_UNUSED static void check_refusals(ml_status (*body)(void *), void *argument, const char *name) {
  enum { MOST = 100000 };
  if (!CHECK_OK(body(argument), "%s: with all the memory it wants", name)) return;
  size_t before = check_heap_bytes();
  ml_status status = ML_MEMORY;
  long n = 0;
  for (; n < MOST && status == ML_MEMORY; n++) {
    ml_mem_fail_after(n);
    status = body(argument);
    ml_mem_fail_after(-1);
  }
  CHECK(status == ML_OK && n > 1, "%s: each of %ld refusals is ML_MEMORY (then: %s)", name, n - 1,
        ml_status_name(status));
  CHECK(check_heap_bytes() <= before, "%s: refusals leak nothing", name);
}

/* --- files that a test may find --- */

/* Path of a real model in the folder $MOONLET_TEST_CHECKPOINTS (checkpoints/ unless set; empty leaves them out), or
 * NULL after a skip line. The text is overwritten by the next call. */
CHECK_UNUSED static const char *check_checkpoint(const char *file, const char *name) {
  static char path[1024];
  struct stat info;
  const char *folder = getenv("MOONLET_TEST_CHECKPOINTS");
  snprintf(path, sizeof path, "%s/%s", folder ? folder : "checkpoints", file);
  if (folder && !*folder) {
    check_skip(name, "real models are left out");
    return NULL;
  }
  if (stat(path, &info) != 0) {
    check_skip(name, "no such model here; `make models` fetches it");
    return NULL;
  }
  return path;
}

/* Folder of one tokenizer (tokenizer.json, tokenizer_config.json) under $MOONLET_TEST_TOKENIZERS, where it lies as a
 * folder NAME or as NAME.tar.xz, which is unpacked under build/ once; NULL after a skip line. Overwritten by the next
 * call. */
CHECK_UNUSED static const char *check_tokenizer(const char *tokenizer, const char *name) {
  static char path[1024];
  char command[8192];
  struct stat info;
  const char *folder = getenv("MOONLET_TEST_TOKENIZERS"), *build = getenv("BUILD");
  if (!folder || !*folder) {
    check_skip(name, "MOONLET_TEST_TOKENIZERS names no folder of tokenizers");
    return NULL;
  }
  snprintf(path, sizeof path, "%s/%s", folder, tokenizer);
  if (stat(path, &info) == 0) return path;
  snprintf(path, sizeof path, "%s/test-tokenizers/%s", build ? build : "build", tokenizer);
  snprintf(command, sizeof command,
           "test -e '%s.done' || { mkdir -p '%s' && tar -xJf '%s/%s.tar.xz' -C '%s/..' && : > '%s.done'; }", path, path,
           folder, tokenizer, path, path);
  if (system(command) == 0) return path;
  check_skip(name, "no such tokenizer in MOONLET_TEST_TOKENIZERS");
  return NULL;
}

#endif
