-- The REPL's parts that need no terminal: what is printed, completed, compiled and explained.
local t = require "tests.lua.harness"

require "tests.lua.modules".install "."
package.loaded["moonlet"] = dofile "tests/lua/fake_moonlet.lua"
package.loaded["moonlet.console"] = {version = "0.0.0"}
package.loaded["moonlet.docs"] = "none" -- until a test brings one
local show = require "moonlet.repl.show".show
local complete = require "moonlet.repl.complete"
local help = require "moonlet.repl.help"
local repl = require "moonlet.repl"
local input = require "moonlet.repl.input"

-- Stands for a tensor: a userdata whose metatable has functions.
local function tensor()
  local x = {shape = {2, 3}, dtype = "float32"}
  return setmetatable({}, {
    __index = function(_, key) return x[key] or (key == "sum" and print) or nil end,
    __tostring = function() return "[1 2 3\n 4 5 6] (2, 3) float32 cpu" end,
    __dir = function() return {"sum", "shape"} end,
  })
end

t.test("show: plain values", function()
  t.eq({show(nil), show(1), show(1.5), show(true), show "a\n\"b\""}, {"nil", "1", "1.5", "true", "a\n\"b\""})
end)

t.test("show: tables", function()
  t.eq(show {}, "{}")
  t.eq(show {1, "two", {3}}, '{1, "two", {3}}')
  t.eq(show {b = 1, a = 2, [10] = 3, ["end"] = 4, ["x y"] = 5}, '{[10] = 3, a = 2, b = 1, ["end"] = 4, ["x y"] = 5}')
  t.eq(show {"tab\t\0quote\"é"}, '{"tab\\t\\0quote\\"é"}')
  t.eq(show {1, nil, 3}, "{1, nil, 3}")
  t.eq(show {print, f = print}, "{function, f = function}")
end)

t.test("show: bounds", function()
  t.eq(show {{{{{}}}}}, "{{{{{}}}}}")
  t.eq(show {{{{{{1}}}}}}, "{{{{{...}}}}}")
  local itself = {}
  itself.me = itself
  t.eq(show(itself), "{me = <itself>}")
  local long = {}
  for i = 1, 100 do long[i] = i end
  t.eq(show(long), [[
{
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27,
  28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, ... 60 more
}]])
  t.ok(#show {("x"):rep(1000)} < 220)
  local wide = {}
  for i = 1, 40 do
    wide[i] = {}
    for j = 1, 40 do wide[i][j] = {j} end
  end
  t.ok(select(2, show(wide):gsub("\n", "")) < 450)
end)

t.test("show: a cut string stays valid UTF-8", function()
  t.ok(utf8.len(show({("é"):rep(300)})))
  t.ok(utf8.len(show({"a" .. ("é"):rep(300)})))
end)

t.test("show: long tables have one field a line", function()
  t.eq(show({name = ("n"):rep(60), other = ("o"):rep(60), list = {1, 2}}),
    '{\n  list = {1, 2},\n  name = "' .. ("n"):rep(60) .. '",\n  other = "' .. ("o"):rep(60) .. '"\n}')
end)

t.test("show: what has a __tostring uses it; a tensor in a table is brief", function()
  t.eq(show(tensor()), "[1 2 3\n 4 5 6] (2, 3) float32 cpu")
  t.eq(show {weight = tensor()}, "{weight = float32 tensor (2, 3)}")
  t.eq(show {setmetatable({}, {__tostring = function() return "it" end})}, "{it}")
  local broken = setmetatable({}, {__tostring = function() error "no" end})
  t.ok(show({broken}):find "^{<table: .*no>}$")
  t.raises(function() show(broken) end, "no") -- alone it is what was asked for: its error is the answer
end)

t.test("show: a result of complete is one line", function()
  local metrics = {decode_seconds = 0.123456, prompt_tokens = 12, finish_reason = "length"}
  local result = {text = ("The moon\n"):rep(40), ids = {}, finish_reason = "length", metrics = metrics}
  for i = 1, 120 do result.ids[i] = i * 1000 end
  t.eq(show(result),
    '{text = "The moon\\nThe moon\\n"..., finish_reason = "length", ids = {120 entries}, metrics = {...}}')
  result.logprobs, result.text = {{}, {}}, "Yes"
  t.eq(show(result),
    '{text = "Yes", finish_reason = "length", ids = {120 entries}, logprobs = {2 entries}, metrics = {...}}')
  result.text, result.ids = nil, {}
  t.ok(show(result):find "^{finish_reason = \"length\", ids = {}")
end)

t.test("show: an order of its own is kept", function()
  local ordered = setmetatable({z = 1, a = 2}, {__pairs = function(self)
    local keys, i = {"z", "a"}, 0
    return function()
      i = i + 1
      if keys[i] then return keys[i], self[keys[i]] end
    end
  end})
  t.eq(show(ordered), "{z = 1, a = 2}")
end)

t.test("complete: globals, keywords, fields, methods", function()
  local class = {send = print, save = print, _hidden = print, count = 1}
  class.__index = class
  local model = setmetatable({sessions = {setmetatable({}, class)}}, {__index = {seed = 1}})
  local public = setmetatable({busy = {}, info = {}}, {__index = {send = print}, __dir = {"info"}})
  local env = {model = model, x = tensor(), text = "", public = public}
  local function check(line, want)
    local word = line:match "[%w_.:]*$"
    t.eq(complete.complete(word, line, env), want, line)
  end
  check("mo", {"model"})
  check("print(mo", {"model"})
  check("whi", {"while"})
  check("", {})
  check("model.se", {"model.seed", "model.sessions"})
  check("f(model.se", {"model.seed", "model.sessions"})
  check("model.sessions[1]:s", {":save", ":send"})
  check("model.sessions[1].c", {".count"})
  check("model.sessions[1]._", {"._hidden"})
  check("x.s", {"x.shape", "x.sum"})
  check("x:s", {"x:sum"})
  check("text:u", {"text:unpack", "text:upper"})
  check("t[model.see", {"model.seed"})
  check("public.", {"public.info", "public.send"})
  check("nothing.at.all", {})
  check("f().x", {})
end)

t.test("complete: fields that raise are no harm", function()
  local env = {bad = setmetatable({}, {__index = function() error "no" end})}
  t.eq(complete.complete("bad.x.y", "bad.x.y", env), {})
end)

t.test("compile: expressions, statements, unfinished input, mistakes", function()
  local function value(text)
    local chunk, message = input.compile(text)
    t.eq(message, nil)
    return t.ok(chunk, text)()
  end
  t.eq({value "1 + 1", value "= 2", value " = 3", value "return 4", value "{\n6}"}, {2, 2, 3, 4, {6}})
  t.eq(value "do local x = 5 end", nil)
  local beginnings = {"for i = 1, 2 do", "x =", "for", "{1,", "print(", "[[a", "--[[ a", "f(function()", "1 +", "'a\\"}
  for _, text in ipairs(beginnings) do
    t.eq({input.compile(text)}, {}, text)
  end
  for _, text in ipairs {")", "x y", "'a", "= = 1", "= 1 2"} do
    local chunk, message = input.compile(text)
    t.eq(chunk, nil)
    t.ok(message and message:find "^%(repl%):1: ", text)
  end
  t.ok(select(2, input.compile "= 1 2"):find "near '2'")
end)

-- What lines are cut into, and what their values are when they run as the REPL runs them.
local function cut(text) return input.split(input.lines(text)) end
local function values(text)
  local shown = {}
  local function show_values(...)
    for _, v in ipairs {...} do shown[#shown + 1] = v end
  end
  for _, one in ipairs(input.plan(cut(text))) do
    if one.merged then one.chunk(show_values) else show_values(assert(input.compile(one.text))()) end
  end
  return shown
end

t.test("input: lines that were pasted together", function()
  t.eq(cut "x = 1\n=x\r\n\nx + 1", {"x = 1", "=x", "x + 1"})
  t.eq(cut "for i = 1, 2 do\n  print(i)\nend\n=2", {"for i = 1, 2 do\n  print(i)\nend", "=2"})
  t.eq(cut "x = text\n  :rep(2)\n  :len()\n=x", {"x = text\n  :rep(2)\n  :len()", "=x"})
  t.eq(cut "x = 1\n  + 2", {"x = 1\n  + 2"})
  t.eq(cut "x y\n=2", {"x y", "=2"})
  t.eq(cut "=1\nf(function()", {"=1", "f(function()"})
  t.eq(cut "=1 -- one\n-- a comment\n=2", {"=1 -- one", "-- a comment", "=2"})
  t.eq(cut "\n \n", {})
end)

t.test("input: a session with its prompts", function()
  t.eq(cut "> x = 1\n> =x", {"x = 1", "=x"})
  t.eq(cut "> for i = 1, 2 do\n>>   print(i)\n>> end\n> =2", {"for i = 1, 2 do\n  print(i)\nend", "=2"})
  t.eq(cut "    $ build/moonlet\n    > =1, 2  -- two\n    1      2\n    > =3\n    {\n      3\n    > =4\n    4",
    {"=1, 2  -- two", "=3", "=4"})
  t.eq(cut "m = 1\n> =m", {"m = 1", "=m"})
  t.eq(cut ">=1", {"=1"})
  t.eq(cut "x = (8\n>> 1)", {"x = (8\n>> 1)"}) -- the operator
  t.eq(cut "f(1,\n>> 2)", {"f(1,\n2)"}) -- which makes no sense here
  t.eq(cut "x = [[a\n> b]]", {"x = [[a\n> b]]"})
  t.eq({input.without_prompt "> =x", input.without_prompt "x > 1"}, {"=x", "x > 1", false})
end)

t.test("input: locals that were pasted last to the end of it", function()
  t.eq(values "local x = 2 -- two\n=x -- its value\nx * 2, x * 3\n('a'):rep(x)\nfor i = 1, 1 do x = i end\n=x",
    {2, 4, 6, "aa", 1})
  t.eq(values "=1\nlocal function f(x) return x + 1 end\nf(1)", {1, 2})
  t.eq(values "x_of_test = 1\n=x_of_test\nlocal _ = 1", {1})
  _G.x_of_test = nil
  local plan = input.plan(cut "=1\nlocal x = 1\n= x y\n=2")
  t.eq(#plan, 4, "what does not compile as a whole runs one by one")
  local chunk = input.plan(cut "local x = 1\n=x\n-- three\nerror 'oh'")[1].chunk
  t.eq(select(2, pcall(chunk, function() end)), "(repl):4: oh")
end)

t.test("banner", function()
  t.eq(repl.banner(), [[
moonlet 0.0.0, Lua 5.4
cpu (fake), 2 threads, 8.00 GB of memory
help() tells more, Ctrl-D leaves]])
end)

t.test("help: without documentation", function()
  package.loaded["moonlet.docs"] = nil
  package.preload["moonlet.docs"] = function() error "not here" end
  t.ok(help.text():find "Ctrl%-D leaves")
  t.ok(help.text(package.loaded.moonlet.json):find "^ml%.json: a table with\n  array decode encode null object$")
  t.eq(help.text(print), "print: a function; this build carries no documentation")
  t.eq(help.text "frob", "frob: this build carries no documentation")
  t.eq(help.text(nil), "nil: there is nothing of that name")
  package.preload["moonlet.docs"] = nil
end)

t.test("help: the comment above a Lua function", function()
  local text = help.text(require "moonlet.repl.show".show)
  t.ok(text:find "^A value as the REPL prints it" and text:find "function M%.show%(value, limits%)$", text)
end)

t.test("help: documentation, by value and under any spelling", function()
  package.loaded["moonlet.docs"] = {zeros = "ml.zeros(shape): a tensor of zeros", ["ml.load"] = "ml.load(path, opts)"}
  local ml = package.loaded.moonlet
  t.eq(help.text(ml.load), "ml.load(path, opts)")
  for _, name in ipairs {"zeros", "ml.zeros", "moonlet.zeros"} do
    t.eq(help.text(name), "ml.zeros(shape): a tensor of zeros")
  end
  t.eq(help.text "frob", "frob: nothing is written about it")
  t.eq(help.text "load", "ml.load(path, opts)")
  package.loaded["moonlet.docs"] = "none"
end)

t.done()
