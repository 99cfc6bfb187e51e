-- test_compile.lua: compiled functions: how many plans they keep, of how many tensors.
local ml = require "moonlet"
local nn = require "moonlet.nn"
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

-- How many plans of its own a call made.
local function traces(f, ...)
  local before = ml.stats().traces
  local result = f(...)
  ml.eval(result)
  return ml.stats().traces - before, result
end

t.test("a module is an argument as others are", function()
  local Net = nn.class "Net"
  function Net:init()
    self.layers, self.scale = {nn.Linear(4, 4), nn.Linear(4, 3, {bias = true})}, 2.0
    self.drop, self.options = nn.Dropout(0.5), {power = 1}
  end
  function Net:forward(x)
    for _, layer in ipairs(self.layers) do x = layer(x) end
    return self.drop(x) * self.scale ^ self.options.power
  end
  local net, other, x = Net(), Net(), ml.arange(8):astype "float32":reshape {2, 4}
  local f, method = ml.compile(function(module, y) return module(y) end), ml.compile(net.forward)
  local n, y = traces(f, net, x) -- its parameters get their values
  t.ok(n > 0)
  t.eq(y:tolist(), net(x):tolist())
  t.eq({(traces(f, net, x)), f(net, x):tolist()}, {0, net(x):tolist()})
  t.eq({method(net, x):tolist(), method(other, x):tolist()}, {net(x):tolist(), other(x):tolist()})
  local changes = {
    {"a parameter", function() net:update {["layers.0.weight"] = ml.ones {4, 4}} end},
    {"all of them", function() net:apply(function(p) return p + 1 end) end},
    {"a number", function() net.scale = 3.0 end}, {"its type", function() net.scale = 3 end},
    {"a field of a table", function() net.options.power = 2 end},
    {"a list", function() net.layers[2] = nn.Linear(4, 5) net:parameters() end},
  }
  for _, change in ipairs(changes) do
    change[2]()
    local count, value = traces(f, net, x)
    t.ok(count > 0, change[1])
    t.eq(value:tolist(), net(x):tolist(), change[1])
    t.eq({(traces(f, net, x))}, {0}, change[1])
  end
  net:train()
  ml.random.seed(3)
  local drawn = {f(net, x):tolist(), f(net, x):tolist()}
  ml.random.seed(3)
  t.eq(drawn, {net(x):tolist(), net(x):tolist()})
  net:eval()
  t.eq({(traces(f, net, x)), f(net, x):tolist()}, {0, net(x):tolist()}) -- the plan of before
  t.eq(f(other, x):tolist(), other(x):tolist())
  local s = ml.state(ml.zeros {2})
  local Counter = nn.class "Counter"
  function Counter:init() self.count, self.me = s, self end -- which holds itself
  function Counter:forward(by) ml.assign(self.count, self.count + by) return self.count * 1, self end
  local counter, count = Counter(), ml.compile(function(m, tree) return m(tree.by) end)
  for i = 1, 3 do
    local value, same = count(counter, {by = ml.ones {2}})
    t.eq({value:tolist(), s:tolist(), rawequal(same, counter)}, {{i + 0.0, i + 0.0}, {i + 0.0, i + 0.0}, true})
  end
  t.ok(ml.explain(function(module, v) return module(v) end, net, x):find "layers", "explain")
end)

t.test("a parameter that was changed in place is another", function()
  local layer = nn.Linear(1, 1)
  layer.weight = ml.ones {1, 1}
  local f, x = ml.compile(function(m, a) return m(a) end), ml.ones {1, 1}
  for i = 1, 3 do
    t.eq(f(layer, x):item(), i + 0.0)
    layer.weight:add_(1)
  end
end)

t.test("an expert's matrix of a weight that is an argument is refused by name", function()
  local w = ml.pack(ml.ones {2, 3, 32})
  local f = ml.compile(function(a, weight) return ml.linear(a, weight[2]) end)
  t.raises(function() f(ml.ones {1, 32}, w) end,
    "x%[i%]: one expert's matrix of a weight that a compiled function is given", "unsupported")
  t.eq(ml.linear(ml.ones {1, 32}, w[2]):tolist(), {{32.0, 32.0, 32.0}})
end)

t.test("a module that is gone takes its plans along", function()
  local f = ml.compile(function(module, x) return module(x) end)
  local x = ml.ones {2, 64}
  f(nn.Linear(64, 64), x)
  collectgarbage()
  collectgarbage()
  local held = ml.memory.active()
  for _ = 1, 20 do
    f(nn.Linear(64, 64), x)
    collectgarbage()
    collectgarbage()
  end
  t.ok(ml.memory.active() <= held + (128 << 10), ml.memory.active() - held)
end)

t.test("a table with a metatable is an error that says so", function()
  local x = ml.ones {2}
  local object = setmetatable({x = x}, {__index = {a = 1}, __name = "Thing"})
  local f = ml.compile(function(v) return v.x end)
  for _, args in ipairs {{object}, {{object}}, {{deep = {object}}, x}} do
    t.raises(function() f(table.unpack(args)) end, "compile: an argument: expected .* found a thing with a metatable",
      "usage")
  end
  t.raises(function() ml.compile(function() return object end)() end, "compile: a result: expected .* found a thing",
    "usage")
  t.raises(function() ml.explain(function(v) return v.x end, object) end, "an argument: expected", "usage")
  t.eq(f {x = x}:tolist(), {1.0, 1.0})
end)

t.done()
