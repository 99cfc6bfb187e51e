/* test_locale.c: a host that writes numbers with a decimal comma: what the library prints, says, reads and writes has
 * points all the same. The locale is made here, in a folder of its own. */
#include "check.h"

#include <lauxlib.h>
#include <locale.h>
#include <lualib.h>

static char folder[] = "/tmp/moonlet-locale-XXXXXX";

static bool run(lua_State *L, const char *name, const char *code) {
  if (luaL_loadbuffer(L, code, strlen(code), name) == LUA_OK && lua_pcall(L, 0, 0, 0) == LUA_OK) return true;
  printf("# %s: %s\n", name, luaL_tolstring(L, -1, NULL));
  lua_settop(L, 0);
  return false;
}

static lua_State *new_state(void) {
  lua_State *L = luaL_newstate();
  if (!L) exit(100);
  luaL_openlibs(L);
  luaL_requiref(L, "moonlet", luaopen_moonlet, 0);
  lua_settop(L, 0);
  lua_pushstring(L, folder);
  lua_setglobal(L, "folder");
  return L;
}

/* What the Lua code below calls: the last results in the C locale, kept in files between the states. */
static const char results[] =
    "local ml = require 'moonlet'\n"
    "local m = assert(ml.load('tests/goldens/tiny/qwen3', {precision = 'exact'}))\n"
    "local bytes = m:logits({1, 2, 3, 4}):tobytes()\n"
    "local x = ml.tensor {0.5, -1.25, 3}\n"
    "bytes = bytes .. x:rms_norm(ml.ones {3}):tobytes() .. x:layer_norm(ml.ones {3}):tobytes()\n"
    "m:close()\n";

static void in_c_locale(void) {
  char code[2000];
  lua_State *L = new_state();
  snprintf(code, sizeof code, "%s local f <close> = io.open(folder .. '/wanted', 'wb') f:write(bytes)", results);
  CHECK(run(L, "=results", code), "results in the C locale");
  lua_close(L);
}

static void with_commas(void) {
  char code[2000];
  lua_State *L = new_state();
  CHECK(run(L, "=comma", "assert(tostring(1.5) == '1,5' and ('%.1f'):format(1.5) == '1,5')"), "Lua writes commas here");
  snprintf(code, sizeof code, "%s local f <close> = io.open(folder .. '/wanted', 'rb') assert(f:read 'a' == bytes)",
           results);
  CHECK(run(L, "=results", code), "a model's configuration, and defaults of operations");
  CHECK(run(L, "=tensors",
            "local ml = require 'moonlet'\n"
            "local function is(x, text) x = tostring(x):match '^[^\\n]*' assert(x == text, x) end\n"
            "is(ml.tensor {1.5, -2.25e-7, 1e30}, '[1.5, -2.25e-07, 1e+30]')\n"
            "is(ml.tensor {1, 2} / 3, '[0.33333, 0.66667]')\n"
            "is(ml.tensor({0.1}, {dtype = 'float16'}), '[0.099976]')\n"
            "is(ml.tensor {math.huge, -math.huge, 0/0}, '[inf, -inf, nan]')\n"
            "is(ml.tensor {1, 2}, '[1, 2]')\n"),
        "tensors print with points");
  CHECK(run(L, "=messages",
            "local ml = require 'moonlet'\n"
            "local function says(text, fn, ...)\n"
            "  local _, e = pcall(fn, ...)\n"
            "  assert(tostring(e):find(text, 1, true) and not tostring(e):find '%d,%d', tostring(e))\n"
            "end\n"
            "says('found 1.5', ml.zeros, {1.5})\n"
            "says('found 2.5', function() return ml.zeros {2, 2}:reshape {2.5} end)\n"
            "says('found 1.5', function() return ml.zeros {2}:sum(1.5) end)\n"
            "says('found 1e+15', function() return ml.zeros {2}:astype(1e15) end)\n"
            "says('found 3.0', function() return ml.zeros {2}:astype(3.0) end)\n"
            "says('found 0.5', function() return ml.zeros {2}[0.5] end)\n"
            "says('found 1.5', function() return ml.zeros {5}:split(1.5) end)\n"
            "local m <close> = assert(ml.load('tests/goldens/tiny/qwen3', {precision = 'exact'}))\n"
            "says('from 0 to 0.5, found 0.75', m.generate, m, {1}, {xtc_threshold = 0.75})\n"
            "says('found 1.5', m.generate, m, {1}, {max_tokens = 1.5})\n"
            "says('found 1.5', m.generate, m, {1.5})\n"),
        "messages have points");
  CHECK(run(L, "=json",
            "local ml = require 'moonlet'\n"
            "assert(ml.json.encode {1.5, 1e-7, 2.0} == '[1.5,1e-07,2.0]')\n"
            "local v = assert(ml.json.decode '[1.5, -2.5e-3]')\n"
            "assert(v[1] == 1.5 and v[2] == -2.5e-3)\n"
            "assert(ml.json.decode '[1,5]'[2] == 5)\n"),
        "JSON");
  CHECK(run(L, "=templates",
            "local jinja = require 'moonlet.templates.jinja'\n"
            "local t = assert(jinja.compile [[{{ 1.5 }} {{ x }} {{ '%.2f' % x }} {{ x | tojson }} {{ '2.5' | float }} "
            "{{ x | round(1) }} {{ 1e-7 }}]])\n"
            "local text = assert(t:render {x = 2.25})\n"
            "assert(text == '1.5 2.25 2.25 2.25 2.5 2.2 1e-07', text)\n"
            "local _, why = t:render({}, {max_steps = -1.5})\n"
            "assert(why:find('found -1.5', 1, true), why)\n"),
        "templates");
  CHECK(run(L, "=files",
            "local ml = require 'moonlet'\n"
            "local path = folder .. '/x.safetensors'\n"
            "assert(ml.save_safetensors(path, {x = ml.zeros {2}}, {rate = 1.5}))\n"
            "local _, metadata = ml.load_safetensors(path)\n"
            "assert(metadata.rate == '1.5', metadata.rate)\n"),
        "metadata of files");
  lua_close(L);
}

int main(void) {
  char line[400];
  if (!CHECK(mkdtemp(folder), "a scratch folder")) return check_done();
  in_c_locale();
  snprintf(line, sizeof line, "localedef -i de_DE -f UTF-8 '%s/de_DE.UTF-8' > '%s/log' 2>&1", folder, folder);
  int status = system(line);
  setenv("LOCPATH", folder, 1);
  if (status == 0 && setlocale(LC_ALL, "de_DE.UTF-8")) with_commas();
  else check_skip("numbers where the locale has a decimal comma", "localedef makes no de_DE.UTF-8 here");
  setlocale(LC_ALL, "C");
  snprintf(line, sizeof line, "rm -rf '%s'", folder);
  CHECK(system(line) == 0, "the scratch folder is removed");
  return check_done();
}
