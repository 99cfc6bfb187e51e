/* fuzz_template.c: any bytes as a chat template. Each is rendered or refused with a message and a code, within small
 * limits; Lua's own errors never come through, and a template changes nothing that the next one can see. */
#include "moonlet.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdint.h>
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Leaves a function of (source) that raises where the interface's promises are broken.
static const char DRIVER[] =
    "local jinja = require 'moonlet.templates.jinja'\n"
    "local function context()\n"
    "  return {messages = {{role = 'user', content = 'Hi'}, {role = 'assistant', content = 'Hello'}},\n"
    "    add_generation_prompt = true, bos_token = '<s>', eos_token = '</s>', tools = false}\n"
    "end\n"
    "local limits = {now = '2026-01-02T03:04:05', max_steps = 20000, max_bytes = 1 << 20}\n"
    "local probe = assert(jinja.compile '{{ messages | length }}{{ bos_token }}')\n"
    "local function refused(message, code)\n"
    "  assert(type(message) == 'string' and type(code) == 'string', 'a refusal without message or code')\n"
    "end\n"
    "return function(source)\n"
    "  local template, message, code = jinja.compile(source)\n"
    "  if not template then return refused(message, code) end\n"
    "  local text, why, kind = template:render(context(), limits)\n"
    "  if not text then refused(why, kind) end\n"
    "  assert(probe:render(context(), limits) == '2<s>', 'the template left something behind')\n"
    "end\n";

// The interpreter of templates is Lua, which the compiler cannot instrument: its lines are counted here, where
// libFuzzer looks for counters beside its own.
__attribute__((section("__libfuzzer_extra_counters"), used)) static uint8_t lines[1 << 14];

static void count_line(lua_State *L, lua_Debug *where) {
  lua_getinfo(L, "S", where);
  size_t hash = (size_t)where->currentline * 31;
  for (const char *c = where->source; *c; c++) hash = hash * 33 + (unsigned char)*c;
  uint8_t *counter = &lines[hash % sizeof lines];
  if (*counter < UINT8_MAX) (*counter)++;
}

static lua_State *open_state(void) {
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  luaL_requiref(L, "moonlet", luaopen_moonlet, 0);
  lua_pop(L, 1);
  if (luaL_dostring(L, DRIVER) != LUA_OK) {
    fprintf(stderr, "fuzz_template: %s\n", lua_tostring(L, -1));
    __builtin_trap();
  }
  lua_sethook(L, count_line, LUA_MASKLINE, 0);
  return L;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static lua_State *L; // one for all inputs: opening the library takes longer than a template
  if (!L) L = open_state();
  lua_pushvalue(L, -1);
  lua_pushlstring(L, (const char *)data, size);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    fprintf(stderr, "fuzz_template: %s\n", luaL_tolstring(L, -1, NULL));
    __builtin_trap();
  }
  return 0;
}
