-- planning.lua: what plans cost: 40,000 nodes with long lifetimes, a million under a selection, small programs, arenas
--
-- A forward pass whose values are all kept for the backward one is traced, planned and run (bound: 0.5 s of its
-- evaluation); sixteen times as many take at most 32 times as long: n log n is 20, what caches hold no more the rest; a
-- square would be 256. A chain of a million operations under a selection is evaluated. Random lifetimes are placed:
-- arena and outputs take at most 1.05 of what lives at once, on average. A scalar addition takes at most twice its time
-- where 300,000 blocks are cached. Printed without bounds: that addition, traced and evaluated, and a hundred tiny
-- steps replayed. Times are the best of ROUNDS (5).
local ml = require "moonlet"
local core = require "moonlet.core"
local backward = require "tests.tools.backward"

local rounds = tonumber(os.getenv "ROUNDS" or 5)
local failed = 0
local function verdict(passed, format, ...)
  if not passed then failed = failed + 1 end
  print((passed and "ok - " or "not ok - ") .. format:format(...))
end

-- The least seconds of fn(n), for each n, which take turns; without any, of fn().
local function best(fn, ...)
  local sizes, least = select("#", ...) > 0 and {...} or {false}, {}
  for _ = 1, rounds do
    for i, n in ipairs(sizes) do
      collectgarbage()
      local seconds = fn(n)
      least[i] = math.min(least[i] or seconds, seconds)
    end
  end
  return table.unpack(least)
end

-- ---- large programs ----

local allowed = 0.5
local few, many = best(backward, 40000, 640000)
verdict(few <= allowed, "40,000 nodes with long lifetimes: %.3f s (at most %.1f)", few, allowed)
verdict(many <= 32 * few, "640,000 of them: %.3f s, %.1f times as long (at most 32)", many, many / few)

local function chain(nodes)
  return ml.scope(function()
    local x = ml.ones {4, 4}
    for _ = 1, nodes do x = -x end
    local y = x:take(ml.tensor({1}, {dtype = "int32"}), 1)
    local began = core.clock()
    ml.eval(y)
    local seconds = core.clock() - began
    return seconds, y[1][1]:item()
  end)
end
local long, value = chain(1000000)
verdict(value == 1, "a chain of a million nodes under a selection: %.2f s", long)

-- ---- arenas ----

-- How much larger the memory of a plan of random lifetimes is than what lives at once.
local function waste(seed, least, most)
  math.randomseed(seed)
  local steps, share = math.random(least, most), math.random()
  local text = ml.explain(function(x)
    local held = {}
    for _ = 1, steps do
      x = x:cumsum(1)
      held[#held + 1] = x:slice({{1, math.random(1, 64)}, {}}):cumsum(1)
      if #held > 3 and math.random() < share then
        x = x + (table.remove(held, math.random(1, #held)) * x:sum()):cumsum(2):sum() -- no earlier than x
      end
    end
    for _, h in ipairs(held) do x = x:cumsum(2) + (h * x:sum()):cumsum(1):sum() end
    return x
  end, ml.ones {64, 128})
  local arena, outputs, live = text:match "arena (%d+) B, outputs (%d+) B, of which (%d+) B"
  return (arena + outputs) / live
end
local function arenas(programs, least, most)
  local sum, worst = 0, 0
  for seed = 1, programs do
    local w = waste(seed, least, most)
    sum, worst = sum + w, math.max(worst, w)
  end
  verdict(sum / programs <= 1.05,
    "memory of %d random programs of %d to %d steps: %.3f of what lives at once (at most 1.05), %.2f at worst",
    programs, 2 * least, 5 * most, sum / programs, worst)
end
arenas(60, 20, 120)
arenas(10, 300, 1500)
arenas(4, 7500, 7500)

-- What is written first and used up later.
local text = ml.explain(function(x)
  local held, sum = {}, ml.zeros {}
  for i = 1, 32 do held[i] = (x * i):cumsum(1) end
  for i = 1, 32 do sum = sum + held[i]:cumsum(2):sum() end
  return sum
end, ml.ones {64, 128})
local live = text:match "of which (%d+) B" / (4 * 64 * 128)
verdict(live < 3, "32 values that are written before the first is used up: %.1f live at once (less than 3)", live)

-- ---- small programs ----

local ADDITIONS, REPLAYS = 20000, 2000
local one, row = ml.tensor(1.5), ml.ones {8}
ml.eval(one, row)
local function add()
  local began = core.clock()
  for _ = 1, ADDITIONS do
    local y <close> = one + 1.0
    ml.eval(y)
  end
  return (core.clock() - began) / ADDITIONS
end
local addition = best(add)
local steps = ml.compile(function(x)
  for _ = 1, 100 do x = ml.softmax(x, -1) end
  return x
end)
local replay = best(function()
  local began = core.clock()
  for _ = 1, REPLAYS do
    local _ <close> = steps(row)
  end
  return (core.clock() - began) / REPLAYS
end)

local BLOCKS = 300000
ml.memory.clear()
ml.scope(function()
  local held = {}
  for i = 1, BLOCKS do
    held[i] = one + i
    if i % 1000 == 0 then ml.eval(table.unpack(held, i - 999)) end
  end
end)
local cached, beside = ml.memory.cached(), best(add)
verdict(cached >= 64 * BLOCKS and beside <= 2 * addition,
  "beside %d cached blocks (%d bytes) an addition takes %.2f us, without %.2f (at most twice)", BLOCKS, cached,
  beside * 1e6, addition * 1e6)
print(("a scalar addition traced and evaluated: %.2f us; a hundred tiny steps replayed: %.2f us"):format(addition * 1e6,
  replay * 1e6))
os.exit(failed == 0, true)
