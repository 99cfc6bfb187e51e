-- What state means: an effect happens once, where it was written, whatever becomes of the evaluations around it.
local ml = require "moonlet"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

-- Runs fn with `bytes` more memory than is in use.
local function within(bytes, fn)
  ml.memory.limit(ml.memory.active() + bytes)
  local ok, err = pcall(fn)
  ml.memory.limit(0)
  return ok, err
end

t.test("an effect that is pending when memory runs out happens once, afterwards", function()
  local s = ml.state(ml.zeros {4})
  local x = ml.ones {1 << 18} + 1
  ml.assign(s, ml.ones {4} * 3)
  local ok, err = within(1 << 12, function() ml.eval(x) end)
  t.eq(ok, false)
  t.eq(err.code, "limit")
  t.eq(s:tolist(), {3.0, 3.0, 3.0, 3.0})
  t.eq(x:sum():item(), 2.0 * (1 << 18))
  local count = ml.state(ml.zeros {1})
  for i = 1, 30 do
    ml.assign(count, count + 1)
    local fits = within(128, function() ml.eval(ml.ones {1 << 18} + i) end)
    t.eq(fits, false)
  end
  t.eq(count:item(), 30.0)
end)

t.test("a compiled function sees what was written before it was called", function()
  local s = ml.state(ml.ones {2})
  local f = ml.compile(function() return s + 1 end)
  t.eq(f():tolist(), {2.0, 2.0})
  ml.assign(s, s * 0 + 5)
  t.eq(f():tolist(), {6.0, 6.0})
  ml.assign(s, s * 2)
  ml.assign(s, s + 1)
  t.eq(f():tolist(), {12.0, 12.0})
  t.eq(s:tolist(), {11.0, 11.0})
end)

t.done()
