-- help: a text for every function that users meet, and pages by topic.
local t = require "tests.lua.harness"
local bytes = require "tests.lua.byte_model"
local complete = require "moonlet.repl.complete"
local help = require "moonlet.repl.help"
local ml = require "moonlet"

-- Every function that Tab proposes behind a value: its text begins with a call of that name, and says something.
local function walk(what, value, least)
  local count = 0
  for name in pairs(complete.members(value)) do
    local fn = name:sub(1, 1) ~= "_" and value[name]
    if type(fn) == "function" then
      count = count + 1
      local text = help.text(fn)
      local call = text:match "^[^\n]*"
      t.ok(call:find("[.:]" .. name .. "%(") and #text > #call + 4, ("help(%s.%s): %s"):format(what, name, text))
    end
  end
  t.ok(count >= least, ("%s has %d functions"):format(what, count))
end

t.test("every method of a tensor", function()
  local x <close> = ml.zeros {2}
  walk("x", x, 200)
end)

t.test("every function of the modules", function()
  walk("ml", ml, 150)
  walk("nn", require "moonlet.nn", 6)
  walk("fn", require "moonlet.fn", 15)
  walk("sample", require "moonlet.sample", 12)
  walk("random", ml.random, 11)
  walk("memory", ml.memory, 7)
  walk("json", ml.json, 4)
  walk("jinja", require "moonlet.templates.jinja", 1)
  walk("chat", require "moonlet.templates.chat", 2)
end)

t.test("every method of models, and of what they give", function()
  local m <close> = assert(ml.load(bytes.make "help", {random = 1}))
  walk("m", m, 11)
  local s <close> = m:session()
  walk("s", s, 7)
  walk("t", m.tokenizer, 10)
  local g <close> = m:generate "x"
  walk("g", g, 4)
  local stream <close> = m.tokenizer:stream()
  walk("stream", stream, 3)
  walk("module", require "moonlet.nn".Module, 10)
  walk("token", ml.cancel_token(), 1)
end)

t.test("the text is that of the function", function()
  local x <close> = ml.zeros {2}
  local function begins(fn, with) t.eq(help.text(fn):sub(1, #with), with) end
  begins(x.sum, "ml.sum(x, axis, keepdims)\n  ")
  begins(x.item, "x:item()\n  ")
  begins(x.add_, "x:add_(...)\n  In place: x holds the result from then on, in its own shape and dtype.")
  t.ok(help.text(x.clip_):find("\n\nx:clip(low, high)\n  Not below low", 1, true))
  begins(require "moonlet.nn".Module.apply, "module:apply(fn)\n  Calls fn(tensor, path)")
  begins(require "moonlet.fn".softmax, "ml.softmax(x, axis)")
  begins(require "moonlet.templates.jinja".compile, "jinja.compile(source)")
  t.ok(help.text(x.eq):find("== compares handles and is false for two tensors of equal values", 1, true))
end)

t.test("pages by topic", function()
  local function begins(name, with) t.eq(help.text(name):sub(1, #with), with) end
  begins("sampling", "Sampling\n\n`local S = require")
  for _, call in ipairs {"S.chain(steps)", "S.top_p(p)", "ml.categorical(logits, uniform)"} do
    t.ok(help.text "sampling":find("\n  " .. call, 1, true), call)
  end
  begins("Sampling", "Sampling\n")
  begins("sample", "Sampling\n")
  begins("template", "Tokenizers and templates\n")
  begins("tokenizers", "Tokenizers and templates\n")
  begins("tensor", "ml.tensor(")
  begins("tensors", "Tensors\n")
  begins("random", "Random numbers\n")
  t.ok(help.text "tensors":find("In a\ncondition a tensor is true", 1, true), "a tensor in a condition")
  for _, topic in ipairs(require "moonlet.docs".topics) do
    begins(topic.name, topic.title .. "\n")
    t.ok(help.text():find(" " .. topic.name, 1, true), "help() names " .. topic.name)
  end
end)

t.test("a word that is no name", function()
  t.ok(help.text "penalty":find "^penalty: nothing is written about it; it is mentioned with S%.")
  t.eq(help.text "frobnicate", "frobnicate: nothing is written about it")
end)

t.done()
