-- experts.lua: gather_linear of 8 of 128 experts takes at most 1.3 times a plain product of the same bytes for one row,
-- and of 512 rows reaches at least 0.6 of a dense product's rate
--
-- Both are measured in turn, in each round; the best of either are compared. Expert ids are drawn anew for each run, so
-- that no matrix of one row's is in a cache because it was there the last time.
--
--   ROUNDS=40 FORMATS="q4_0 q8_0 bfloat16" DTYPES="float32 bfloat16" make check-experts
--
-- DTYPES are those of the rows.

local ml = require "moonlet"
local core = require "moonlet.core"

local rounds = tonumber(os.getenv "ROUNDS" or 40)
local EXPERTS, NAMED, OUTPUTS, INPUTS, MANY = 128, 8, 768, 2048, 512
local MOST_TIME, LEAST_RATE = 1.3, 0.6

local function seconds(f, ...)
  local began = core.clock()
  local _ <close> = f(...)
  return core.clock() - began
end

-- Different experts for each of n rows.
local function draw(n)
  local ids = {}
  for i = 1, n do
    local left = {}
    for e = 1, EXPERTS do left[e] = e - 1 end
    ids[i] = {}
    for k = 1, NAMED do ids[i][k] = table.remove(left, math.random(#left)) end
  end
  local x = ml.tensor(ids)
  ml.eval(x)
  return x
end

local failed = 0
local function verdict(passed, format, ...)
  if not passed then failed = failed + 1 end
  print((passed and "ok - " or "not ok - ") .. format:format(...))
end

local function weight(format, outputs, precision, experts)
  return core.random_packed(format, outputs, INPUTS, INPUTS ^ -0.5, 3, precision == "exact", experts)
end

-- The best of `n` rounds of either, taken in turn.
local function compare(n, gather, plain)
  local best_gather, best_plain = math.huge, math.huge
  for _ = 1, n do
    best_gather = math.min(best_gather, gather())
    best_plain = math.min(best_plain, plain())
  end
  return best_gather, best_plain
end

local function normal(dtype, shape)
  local x = ml.random.normal(shape):astype(dtype)
  ml.eval(x)
  return x
end

local function check(format, precision, dtype)
  local what = ("%s %s by %s"):format(format, precision, dtype)
  local linear, gather_linear = ml.compile(ml.linear), ml.compile(ml.gather_linear)
  local experts <close> = weight(format, OUTPUTS, precision, EXPERTS)
  -- One row: the plain products are parts of as many bytes, taken in turn for the same reason.
  local parts, x = {}, normal(dtype, {1, INPUTS})
  for i = 1, EXPERTS // NAMED do parts[i] = weight(format, NAMED * OUTPUTS, precision) end
  local turn = 0
  local gathered, plain = compare(rounds, function()
    local ids <close> = draw(1)
    return seconds(gather_linear, x, experts, ids)
  end, function()
    turn = turn % #parts + 1
    return seconds(linear, x, parts[turn])
  end)
  verdict(gathered <= MOST_TIME * plain, "%s, one row: %.0f us, a plain product %.0f us, %.2f times (at most %.1f)",
    what, gathered * 1e6, plain * 1e6, gathered / plain, MOST_TIME)
  for i = 1, #parts do parts[i]:close() end

  local dense <close> = weight(format, OUTPUTS, precision)
  local rows, all = normal(dtype, {MANY, INPUTS}), normal(dtype, {MANY * NAMED, INPUTS})
  gathered, plain = compare(math.max(3, rounds // 8), function()
    local ids <close> = draw(MANY)
    return seconds(gather_linear, rows, experts, ids)
  end, function() return seconds(linear, all, dense) end)
  verdict(plain >= LEAST_RATE * gathered,
    "%s, %d rows: %.1f ms, a dense product of as much %.1f ms, %.2f of its rate (at least %.1f)", what, MANY,
    gathered * 1e3, plain * 1e3, plain / gathered, LEAST_RATE)
end

for format in (os.getenv "FORMATS" or "q4_0 q8_0 q4_k bfloat16"):gmatch "%S+" do
  for dtype in (os.getenv "DTYPES" or "float32 bfloat16"):gmatch "%S+" do
    check(format, "exact", dtype)
    if not format:find "float" then check(format, "fast", dtype) end
  end
end
os.exit(failed == 0, true)
