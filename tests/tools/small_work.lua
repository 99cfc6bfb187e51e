-- small_work.lua: what costs beside arithmetic: prints a line `SECONDS NAME` a case, the best of many but for the last
--
-- It keeps to operations that every build has, since tests/checks/before.lua runs it with an older one too.
local ml = require "moonlet"
local core = require "moonlet.core"
local backward = require "tests.tools.backward"

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

-- ---- a prefill, traced and planned ----

local LAYERS, TOKENS, HEADS, SIZE, WIDE = 32, 4, 2, 16, 64
local DIM = HEADS * SIZE

-- A weight as a model's file would give it: the one way to pack that every build has.
local function packed(outputs, inputs) return core.random_packed("q8_0", outputs, inputs, inputs ^ -0.5, 1, true) end

local layers, norm = {}, ml.ones {DIM}
for i = 1, LAYERS do
  layers[i] = {q = packed(DIM, DIM), k = packed(DIM, DIM), v = packed(DIM, DIM), o = packed(DIM, DIM),
    gate = packed(WIDE, DIM), up = packed(WIDE, DIM), down = packed(DIM, WIDE)}
end
local tokens, start = ml.ones {1, TOKENS, DIM}, ml.full({1}, 0, {dtype = "int32"})
local frequencies = ml.ones {SIZE // 2}
local positions = ml.zeros({1, TOKENS}, {dtype = "int32"})
ml.eval(norm, tokens, start, positions, frequencies)

-- Older builds take the first position and how many there are.
local by_positions = pcall(ml.rope_table, positions, frequencies)
local function table_of_turns()
  if by_positions then return ml.rope_table(positions, frequencies) end
  return ml.rope_table(start, frequencies, TOKENS)
end

local function heads(x) return x:reshape({1, TOKENS, HEADS, SIZE}):transpose {1, 3, 2, 4} end

local function prefill(x) -- (1, T, D)
  local turns = table_of_turns()
  for _, w in ipairs(layers) do
    local h = ml.rms_norm(x, norm, 1e-6)
    local q, k, v = heads(ml.linear(h, w.q)), heads(ml.linear(h, w.k)), heads(ml.linear(h, w.v))
    q, k = ml.rope(q, turns), ml.rope(k, turns)
    local shares = ml.softmax(q:matmul(k:transpose {1, 2, 4, 3}) * SIZE ^ -0.5, -1)
    local seen = shares:matmul(v):transpose({1, 3, 2, 4}):reshape {1, TOKENS, DIM}
    x = x + ml.linear(seen, w.o)
    h = ml.rms_norm(x, norm, 1e-6)
    x = x + ml.linear(ml.silu(ml.linear(h, w.gate)) * ml.linear(h, w.up), w.down)
  end
  return ml.rms_norm(x, norm, 1e-6)
end

-- The first call of a function that nobody has called, less a replay; and less the tracing in it.
local first, traced, replay = math.huge, math.huge, math.huge
for _ = 1, 100 do
  local tracing
  local fn = ml.compile(function(x)
    local began = core.clock()
    local y = prefill(x)
    tracing = core.clock() - began
    return y
  end)
  local function seconds()
    local began = core.clock()
    local _ <close> = fn(tokens)
    return core.clock() - began
  end
  collectgarbage()
  first = math.min(first, seconds())
  traced = math.min(traced, tracing)
  for _ = 1, 3 do replay = math.min(replay, seconds()) end
end
case("a prefill of 32 layers, traced and planned", first - replay)
case("a prefill of 32 layers, planned alone", first - replay - traced)

case("40,000 operations of long lives, planned and run", backward(40000))
