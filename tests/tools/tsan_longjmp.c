/* tsan_longjmp.c: tells ThreadSanitizer of Lua's errors. A liblua5.4 that was built with _FORTIFY_SOURCE leaves functions
 * by __longjmp_chk, which the sanitizer does not watch: it would believe that they still run, and remember them for
 * ever. Preloaded, this one goes by way of longjmp, which it does. */
#include <setjmp.h>

__attribute__((noreturn, visibility("default"))) void __longjmp_chk(jmp_buf where, int value);

void __longjmp_chk(jmp_buf where, int value) { longjmp(where, value); }
