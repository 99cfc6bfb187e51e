-- Plans mean what was written: rewrites of the planner change time and memory and nothing else.
local ml = require "moonlet"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

t.test("a selection moves above an operand that is broadcast", function()
  local b = ml.tensor {{10, 20, 30}}
  local f = ml.compile(function(x, i) return (x * 2 + b):take(i, 1) end)
  local x = ml.tensor {{1, 1, 1}, {2, 2, 2}, {3, 3, 3}}
  for row = 0, 2 do
    local own = 2 * (row + 1)
    t.eq(f(x, ml.tensor {row}):tolist(), {{10 + own, 20 + own, 30 + own}})
  end
  local column = ml.tensor {{1}, {2}, {3}}
  local g = ml.compile(function(y, i) return (y * column + b):take(i, 1) end)
  t.eq(g(x, ml.tensor {2, 0}):tolist(), {{19, 29, 39}, {11, 21, 31}})
end)

t.test("depth under a selection costs no stack", function()
  local f = ml.compile(function(x, i)
    for _ = 1, 20000 do x = x + 1 end
    return x:take(i, 1)
  end)
  t.eq(f(ml.zeros {3, 2}, ml.tensor {1}):tolist(), {{20000.0, 20000.0}})
end)

t.done()
