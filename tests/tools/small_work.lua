-- small_work.lua: what costs beside arithmetic: prints a line `SECONDS NAME` a case, the best of many
--
-- It keeps to operations that every build has, since tests/checks/before.lua runs it with an older one too.
local ml = require "moonlet"
local core = require "moonlet.core"

local row, square = ml.ones {8}, ml.ones {8, 8}
local weight, one = ml.ones {8, 8} * 0.125, ml.tensor(1.5)
ml.eval(row, square, weight, one)

local function best(rounds, times, step)
  local least = math.huge
  for _ = 1, rounds do
    local began = core.clock()
    for _ = 1, times do step() end
    least = math.min(least, (core.clock() - began) / times)
  end
  return least
end

local function case(name, seconds) print(("%.9f %s"):format(seconds, name)) end

local function replayed(name, x, step)
  local many = ml.compile(function(y)
    for _ = 1, 100 do y = step(y) end
    return y
  end)
  case(name, best(15, 500, function() local _ <close> = many(x) end))
end

case("a scalar addition, traced and evaluated", best(15, 5000, function()
  local y <close> = one + 1.0
  ml.eval(y)
end))
replayed("a replay of 100 softmaxes of 8", row, function(x) return ml.softmax(x, -1) end)
replayed("a replay of 100 norms of 8", row, function(x) return ml.rms_norm(x, row, 1e-6) end)
replayed("a replay of 100 running sums of 8", row, function(x) return x:cumsum(1) end)
replayed("a replay of 100 products of (8, 8)", square, function(x) return x:matmul(weight) end)

local function layers(x)
  for _ = 1, 32 do
    local h = ml.rms_norm(x, row, 1e-6)
    local q, k, v = h:matmul(weight), h:matmul(weight), h:matmul(weight)
    local scores = ml.softmax(q:matmul(k:transpose()) * 0.125, -1)
    x = x + scores:matmul(v):matmul(weight)
    h = ml.rms_norm(x, row, 1e-6)
    local gate, up = h:matmul(weight), h:matmul(weight)
    x = x + (ml.silu(gate) * up):matmul(weight)
  end
  return x
end
local least = math.huge
for _ = 1, 40 do
  ml.scope(function()
    local x = layers(square)
    local began = core.clock()
    ml.eval(x)
    least = math.min(least, core.clock() - began)
  end)
end
case("32 layers, planned and run", least)
