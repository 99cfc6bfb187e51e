-- test_compile.lua: compiled functions: how many plans they keep, of how many tensors.
local ml = require "moonlet"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

t.test("a compiled function has as many inputs, outputs and states as it likes", function()
  local xs, states = {}, {}
  for i = 1, 300 do xs[i] = ml.full({3}, i) end
  for i = 1, 200 do states[i] = ml.state(ml.zeros {3}) end
  local f = ml.compile(function(...)
    local out = {...}
    for i = 1, 200 do ml.assign(states[i], states[i] * 2 + out[i]) end
    for i = 1, 300 do out[i] = out[i] * 10 + i end
    return table.unpack(out)
  end)
  for round = 1, 2 do
    local out = {f(table.unpack(xs))}
    t.eq({#out, out[1]:tolist(), out[65]:tolist(), out[300]:tolist()}, {300, {11, 11, 11}, {715, 715, 715},
      {3300, 3300, 3300}})
    local times = 2 ^ round - 1 -- 2 s + x, from 0 on
    t.eq({states[1][1]:item(), states[70][2]:item(), states[200][3]:item()}, {times, 70 * times, 200 * times})
  end
end)

t.test("a compiled function keeps the plans that it used last", function()
  local x = ml.ones {64}
  local f = ml.compile(function(y, factor) return (y:cumsum(1) * factor):cumsum(1) end, {plans = 8})
  local function is_planned(factor)
    local before = ml.stats().plans
    t.eq(f(x, factor)[2]:item(), 3.0 * factor)
    return ml.stats().plans > before
  end
  for i = 1, 8 do t.ok(is_planned(i), i) end
  for i = 1, 8 do t.ok(not is_planned(i), i) end -- outputs may have two places that are used in turn
  local held = ml.memory.active()
  t.ok(not is_planned(1))
  for i = 9, 100 do
    t.ok(is_planned(i), i)
    t.ok(not is_planned(1), "a plan that is used stays")
  end
  collectgarbage()
  t.ok(ml.memory.active() <= held, "arenas of the others are freed")
  t.ok(not is_planned(100) and is_planned(2) and not is_planned(1))
  t.raises(function() ml.compile(print, {plans = 0}) end, "plans: expected an integer from 1, found 0", "usage")
end)

t.done()
