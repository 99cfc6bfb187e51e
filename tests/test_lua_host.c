/* test_lua_host.c: luaopen_moonlet in states of a host's own: twice in one, in two at once, after a close, and in a
 * state whose allocator refuses. */
#include "check.h"

#include <lauxlib.h>
#include <lualib.h>
#include <sys/wait.h>
#include <unistd.h>

/* Refuses requests for more memory from the n-th on; -1: none. */
static void *failing(void *state, void *block, size_t old, size_t wanted) {
  long *n = state;
  if (wanted == 0) {
    free(block);
    return NULL;
  }
  if (wanted > (block ? old : 0) && *n == 0) return NULL;
  if (wanted > (block ? old : 0) && *n > 0) --*n;
  return realloc(block, wanted);
}

static lua_State *new_state(void) {
  lua_State *L = luaL_newstate();
  if (!L) exit(100);
  luaL_openlibs(L);
  return L;
}

static bool run(lua_State *L, const char *code) {
  if (luaL_dostring(L, code) == LUA_OK) return true;
  printf("# %s\n", luaL_tolstring(L, -1, NULL));
  return false;
}

static void test_twice(void) {
  lua_State *L = new_state();
  luaL_requiref(L, "moonlet", luaopen_moonlet, 0);
  luaL_requiref(L, "again", luaopen_moonlet, 0);
  CHECK(lua_gettop(L) == 2 && lua_rawequal(L, 1, 2), "opened twice: the same table");
  ml_engine *engine = ml_lua_engine(L);
  lua_settop(L, 0);
  lua_pushcfunction(L, luaopen_moonlet);
  lua_call(L, 0, 1);
  CHECK(lua_gettop(L) == 1 && ml_lua_engine(L) == engine, "and the same engine");
  CHECK(run(L, "local ml = require 'moonlet' assert(ml == require 'moonlet.init' and ml.zeros{2}.size == 2)"),
        "it works");
  CHECK(run(L, "local n = 0 for _ in ipairs(package.searchers) do n = n + 1 end assert(n == 5, n)"),
        "one searcher more");
  lua_settop(L, 0);
  luaopen_moonlet(L); /* as a plain function, with a stack in use */
  CHECK(lua_gettop(L) >= 1 && lua_istable(L, -1), "called as a plain function");
  ml_cancel(engine);
  CHECK(!run(L, "local ml = require 'moonlet' return (ml.ones{64} + 1):tolist()"), "a host's cancel reaches Lua");
  CHECK(run(L, "local ml = require 'moonlet' return (ml.ones{64} + 1):tolist()"), "once");
  ml_model *model;
  CHECK_FAILS(ml_model_load(engine, "tests/goldens/tiny/llama", NULL, &model), ML_USAGE, "Lua state",
              "models of a Lua state are loaded from Lua");
  ml_engine_close(engine); /* it is the state's */
  CHECK(run(L, "return require 'moonlet'.zeros{2}:tolist()"), "the state's engine is not ours to close");
  lua_close(L);
}

/* A state with the libraries that moonlet.h names, no more. */
static void test_few_libraries(void) {
  static const luaL_Reg libraries[] = {{LUA_GNAME, luaopen_base},        {LUA_LOADLIBNAME, luaopen_package},
                                       {LUA_STRLIBNAME, luaopen_string}, {LUA_TABLIBNAME, luaopen_table},
                                       {LUA_MATHLIBNAME, luaopen_math},  {LUA_IOLIBNAME, luaopen_io},
                                       {LUA_OSLIBNAME, luaopen_os},      {LUA_COLIBNAME, luaopen_coroutine},
                                       {LUA_UTF8LIBNAME, luaopen_utf8},  {"moonlet", luaopen_moonlet}};
  lua_State *L = luaL_newstate();
  if (!L) exit(100);
  for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
    luaL_requiref(L, libraries[i].name, libraries[i].func, 1);
    lua_pop(L, 1);
  }
  CHECK(run(L, "assert(not debug) local model <close> = assert(moonlet.load 'tests/goldens/tiny/llama') "
               "local _, result = model:complete({90, 14, 79, 59, 97, 59}, {max_tokens = 8, ignore_eos = true}) "
               "assert(table.concat(result.ids, ' ') == '21 111 12 47 58 14 14 78') "
               "model:session():close() model:logits({1, 2}):close() moonlet.random.normal{2}:close()"),
        "without the debug library");
  CHECK(run(L, "local nn = require 'moonlet.nn' local Odd = nn.model 'odd' Odd.config = {} "
               "function Odd:forward() end function Odd:init() error(setmetatable({code = 'corrupt', message = 'odd'}, "
               "{})) end "
               "local m, message, code = moonlet.load('tests/goldens/tiny/llama', {family = Odd}) "
               "assert(not m and code == 'corrupt' and message:find 'odd', message)"),
        "and a family's own error");
  CHECK(run(L, "local template = assert(require 'moonlet.templates.jinja'.compile '{{ [3, 1] | sort }}') "
               "assert(template:render{} == '[1, 3]')"),
        "and a template");
  lua_close(L);
}

/* A variable of the environment that is set to nothing is one that is not set. */
static void test_empty_variable(void) {
  const char *given = getenv("MOONLET_ISA");
  char kept[32];
  snprintf(kept, sizeof kept, "%s", given ? given : "");
  setenv("MOONLET_ISA", "", 1);
  lua_State *L = new_state();
  luaL_requiref(L, "moonlet", luaopen_moonlet, 1);
  CHECK(run(L, "assert((moonlet.ones{3} + 1):tolist()[3] == 2)"), "an empty MOONLET_ISA");
  ml_engine *engine = NULL;
  CHECK(ml_engine_create(NULL, &engine) == ML_OK, "and for an engine: %s", ml_error_message());
  ml_engine_close(engine);
  lua_close(L);
  if (given) setenv("MOONLET_ISA", kept, 1);
  else unsetenv("MOONLET_ISA");
}

static void test_two_states(void) {
  lua_State *one = new_state(), *two = new_state();
  luaL_requiref(one, "moonlet", luaopen_moonlet, 1);
  luaL_requiref(two, "moonlet", luaopen_moonlet, 1);
  CHECK(ml_lua_engine(one) != ml_lua_engine(two), "two states have two engines");
  CHECK(run(one, "moonlet.memory.limit(1 << 20) moonlet.random.seed(7) moonlet.threads(1) kept = moonlet.ones{1000} "
                 "kept:tolist()"),
        "one sets limits and makes tensors");
  CHECK(run(two, "assert(moonlet.memory.limit() == 0 and moonlet.memory.active() == 0)"), "the other does not see it");
  lua_close(one);
  CHECK(run(two, "assert((moonlet.ones{3} + 1):tolist()[3] == 2)"), "and outlives it");
  lua_close(two);
}

/* A state that loaded moonlet before a fork: in the child what it computes is an error, and closing it ends. */
static void test_fork(void) {
  lua_State *L = new_state();
  int status = 0;
  luaL_requiref(L, "moonlet", luaopen_moonlet, 1);
  CHECK(run(L, "moonlet.threads(2) x = moonlet.ones{1000} f = moonlet.compile(function(x) return x + 1 end) "
               "assert(f(x):tolist()[1] == 2)"),
        "a state computes");
  pid_t child = fork();
  if (child == 0) {
    alarm(60);
    if (!run(L, "for _, fn in ipairs {function() return f(x):tolist() end, function() return (x * 2):tolist() end, "
                "function() return moonlet.threads(1) end} do local ok, err = pcall(fn) "
                "assert(not ok and err.code == 'usage' and err.message:find 'fork', err) end"))
      _exit(1);
    lua_close(L);
    if (check_signals_wait()) _exit(0); /* ThreadSanitizer allows no threads in such a child */
    L = new_state();
    luaL_requiref(L, "moonlet", luaopen_moonlet, 1);
    if (!run(L, "assert((moonlet.ones{3} + 1):tolist()[3] == 2)")) _exit(2);
    lua_close(L);
    _exit(0);
  }
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "its child is refused, closes it and makes another (%#x)",
        status);
  CHECK(run(L, "assert(f(x):tolist()[1000] == 2)"), "and it goes on");
  lua_close(L);
}

/* Another order of closing: handles that the collector frees after the module, and a state that never used it. */
static void test_close(void) {
  lua_State *L = new_state();
  luaL_requiref(L, "moonlet", luaopen_moonlet, 1);
  CHECK(run(L, "x = moonlet.ones{100} y = x + 1 y:tolist() z = moonlet.zeros{10} - 1 moonlet = nil "
               "package.loaded.moonlet = nil"),
        "tensors, evaluated and not, are left open");
  CHECK(run(L, "setmetatable({}, {__gc = function() pcall(function() return x:tolist() end) end})"),
        "a late finaliser uses them");
  lua_close(L);
}

/* Opens moonlet in a state that is refused memory from request n on; false when it was refused. */
static bool open_refused(long refuse_at) {
  long n = -1;
  lua_State *L = lua_newstate(failing, &n);
  if (!L) exit(100);
  luaL_openlibs(L);
  lua_pushcfunction(L, luaopen_moonlet);
  n = refuse_at;
  int status = lua_pcall(L, 0, 0, 0);
  n = -1;
  if (status != LUA_OK && status != LUA_ERRMEM) CHECK(0, "refusal %ld: %s", refuse_at, lua_tostring(L, -1));
  if (status != LUA_OK) {
    lua_settop(L, 0);
    lua_pushcfunction(L, luaopen_moonlet);
    if (lua_pcall(L, 0, 0, 0) != LUA_OK || !run(L, "assert(require 'moonlet.init'.zeros{2}.size == 2)"))
      CHECK(0, "after refusal %ld: %s", refuse_at, lua_tostring(L, -1));
  }
  lua_close(L);
  return status == LUA_OK;
}

static void test_refusals(void) {
  CHECK(open_refused(-1), "a state with an allocator of its own");
  size_t before = check_heap_bytes();
  long n = 0, tried = 0;
  while (!open_refused(n)) {
    tried++;
    n += n < 150 ? 1 : 29;
  }
  CHECK(tried > 150, "refused at %ld of %ld requests: an error, and then a second try works", tried, n);
  CHECK(check_heap_bytes() <= before, "nothing is left behind (%zu bytes before, %zu after)", before,
        check_heap_bytes());
}

static ml_status open_core(void *unused) {
  (void)unused;
  lua_State *L = new_state();
  lua_pushcfunction(L, luaopen_moonlet);
  ml_status status = lua_pcall(L, 0, 0, 0) == LUA_OK ? ML_OK : ML_MEMORY;
  if (status != ML_OK && !strstr(lua_tostring(L, -1), "memory")) CHECK(0, "%s", lua_tostring(L, -1));
  lua_close(L);
  return status;
}

static void close_state(void *unused) { open_core(unused); }

int main(void) {
  test_twice();
  test_few_libraries();
  test_empty_variable();
  test_two_states();
  test_fork();
  test_close();
  test_refusals();
  check_refusals(open_core, NULL, "the core's own memory");
  check_no_leak(close_state, NULL, "a state's whole life");
  return check_done();
}
