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

t.test("what a compiled function draws it draws anew, as it would uncompiled", function()
  local r = ml.random
  local function draws(x)
    local kept = r.uniform {2}
    return x + r.normal {3}, r.randint(0, 1000, {4}), r.permutation(5), kept, r.bernoulli(0.5, {8}),
      r.uniform({2}, {dtype = "float64"}), r.truncated_normal(-1, 1, {2}), r.split(r.key(7))[2]
  end
  local function run(fn)
    r.seed(11)
    local out = {}
    for i = 1, 4 do
      local results = {fn(ml.ones {3})}
      for k, v in ipairs(results) do out[#out + 1] = v:tolist() end
      if i == 2 then out[#out + 1] = r.uniform({2}):tolist() end -- the sequence goes on between calls
    end
    return out
  end
  local eager, compiled = run(draws), run(ml.compile(draws))
  t.eq(compiled, eager)
  t.ok(ml.json.encode(compiled[1]) ~= ml.json.encode(compiled[9]), "two calls drew the same")
  local outer = ml.compile(function(x) return (ml.compile(draws)(x)) end)
  r.seed(11)
  t.eq(outer(ml.ones {3}):tolist(), eager[1])
  local seeding = ml.compile(function(x) r.seed(3) return x end)
  t.raises(function() seeding(ml.ones {1}) end, "seed: a plan is recorded", "usage")
  local key = r.key(5)
  local keyed = ml.compile(function(k) return r.uniform({3}, {key = k}) end)
  t.eq(keyed(key):tolist(), keyed(key):tolist())
end)

t.done()
