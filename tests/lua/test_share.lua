-- Weights that models of one process have together: equal answers, counted once, freed with the last.
local ml = require "moonlet"
local bytes = require "tests.lua.byte_model"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active "cpu" end

local path = bytes.make "share"
local function answer(m)
  return (m:complete("Once upon", {max_tokens = 12, ignore_eos = true, temperature = 0.7, seed = 3}))
end
local function settle()
  collectgarbage()
  collectgarbage()
  ml.memory.clear "cpu"
end

t.test("a second model has the weights of the first, which count once, whoever is closed first", function()
  for _, first_goes in ipairs {true, false} do
    local m = assert(ml.load(path, {device = "cpu", random = 5, precision = "exact", dtype = "bfloat16"}))
    local want = answer(m)
    settle()
    local before = ml.memory.active "cpu"
    local token = m:share()
    t.eq(m:share(), token, "one token a model")
    local n = assert(ml.load {share = token})
    t.eq(n.info.compute_dtype, "bfloat16")
    settle()
    local more = ml.memory.active "cpu" - before
    t.ok(more < m.info.bytes // 4, more)
    t.eq(answer(n), want)
    local one, other = table.unpack(first_goes and {m, n} or {n, m})
    one:close()
    t.eq(answer(other), want)
    other:close()
  end
end)

t.test("a model that has them gives them on; a token ends with its model", function()
  local m = assert(ml.load(path, {device = "cpu", random = 5}))
  local want, token = answer(m), m:share()
  local n <close> = assert(ml.load(path, {share = token, max_context = 64}))
  m:close()
  local _, message, code = ml.load {share = token}
  t.eq({message, code}, {('share: "%s": no open model of this process gave this token'):format(token), "not_found"})
  local k <close> = assert(ml.load {share = n:share()})
  t.eq({answer(n), answer(k)}, {want, want})
end)

t.test("errors name what does not fit", function()
  local m <close> = assert(ml.load(path, {device = "cpu", random = 5}))
  local token = m:share()
  local _, message, code = ml.load {share = token, precision = "exact"}
  t.eq({message, code}, {"load: share: precision: the weights were made with fast, found exact", "mismatch"})
  _, message, code = ml.load {share = token, quantize = {bits = 8}}
  t.eq(code, "mismatch")
  t.ok(message:find("quantize", 1, true), message)
  _, message, code = ml.load(bytes.make("share-wide", {rows = 300}), {share = token})
  t.eq(code, "mismatch")
  t.ok(message:find "expected shape %(300, 32%), found %(258, 32%): the weights are another model's", message)
  t.raises(function() ml.load {share = 3} end, "load: share: expected what m:share%(%) gave, found 3", "usage")
  m:close()
  t.raises(function() m:share() end, "share: the model is closed", "usage")
end)

t.done()
