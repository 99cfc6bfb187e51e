-- before.lua: this build beside an older one, in turns: what costs beside arithmetic, and bench at three depths
--
-- BEFORE names the other checkout, built. Of small work (tests/tools/small_work.lua) the best of ROUNDS (5) is
-- compared, since noise only ever slows it, and `bounds` says what part of its time before each case may take. Of
-- bench, for each of MODELS, the median of the rounds' ratios counts: at least 0.97 of the rates before.
--
--     BEFORE=../moonlet-before [ROUNDS=5] [MODELS="a.gguf b.gguf"] [DEPTHS=0,2048,7000] make check-before
local ml = require "moonlet"
local limits = require "tests.tools.limits"

local before = os.getenv "BEFORE"
if not before then
  print "skip - before: BEFORE names no built checkout to compare with"
  os.exit(true)
end
local build = os.getenv "BUILD" or "build"
local rounds = tonumber(os.getenv "ROUNDS" or 5)
local models = os.getenv "MODELS" or "checkpoints/SmolLM2-135M-Instruct.gguf checkpoints/gemma-3-270m.gguf"
local depths = os.getenv "DEPTHS" or "0,2048,7000"
local NOW, BEFORE = build .. "/moonlet", before .. "/build/moonlet"

local failed = 0
local function verdict(passed, format, ...)
  if not passed then failed = failed + 1 end
  print((passed and "ok - " or "not ok - ") .. format:format(...))
end

local function output_of(program, rest)
  local pipe <close> = assert(io.popen(("'%s' %s 2>/dev/null"):format(program, rest)))
  local text = pipe:read "a"
  assert(text ~= "", program .. " " .. rest .. " prints nothing")
  return text
end

-- ---- small work ----

local bounds = {
  {"a scalar addition, traced and evaluated", 0.7},
  {"a replay of 100 softmaxes of 8", 0.5},
  {"a replay of 100 norms of 8", 0.5},
  {"a replay of 100 running sums of 8", 0.5},
  {"a replay of 100 products of (8, 8)", 0.5},
  {"a prefill of 32 layers, traced and planned", 0.5},
  {"a prefill of 32 layers, planned alone", 0.5},
  {"40,000 operations of long lives, planned and run", 0.1},
}

local best = {[NOW] = {}, [BEFORE] = {}}
for _ = 1, rounds do
  for program, times in pairs(best) do
    for seconds, name in output_of(program, "tests/tools/small_work.lua"):gmatch "([%d.]+) ([^\n]+)" do
      times[name] = math.min(times[name] or math.huge, tonumber(seconds))
    end
  end
end
for _, case in ipairs(bounds) do
  local name, bound = case[1], case[2]
  local now, then_ = best[NOW][name], best[BEFORE][name]
  verdict(now <= bound * then_, "%s: %.2f us, before %.2f: %.2f (at most %.1f)", name, now * 1e6, then_ * 1e6,
    now / then_, bound)
end

-- ---- models ----

local function rates(program, model)
  local bench = ("bench -m '%s' -p 512 -n 64 -d %s -r 1 --json"):format(model, depths)
  local found = ml.json.decode(output_of(program, bench))
  local list = {{"prefill 512", found.prefill[1].median}}
  for _, d in ipairs(found.decode) do list[#list + 1] = {("decode after %d"):format(d.depth), d.median} end
  return list
end

for model in models:gmatch "%S+" do
  local ratios, labels = {}, {}
  for round = 1, rounds do
    local first, second = NOW, BEFORE
    if round % 2 == 0 then first, second = second, first end
    local by = {[first] = rates(first, model)}
    by[second] = rates(second, model)
    for i, now in ipairs(by[NOW]) do
      labels[i], ratios[i] = now[1], ratios[i] or {}
      ratios[i][round] = now[2] / by[BEFORE][i][2]
    end
  end
  for i, label in ipairs(labels) do
    local ratio = limits.median(ratios[i])
    verdict(ratio >= 0.97, "%s of %s: %.2f of before (at least 0.97)", label, model:match "[^/]*$", ratio)
  end
end
os.exit(failed == 0, true)
