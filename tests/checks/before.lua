-- before.lua: this build beside an older one, in turns: what costs beside arithmetic, and bench at three depths
--
-- BEFORE names the other checkout, built. The best of ROUNDS (5) is compared with the best, since noise only ever
-- slows; what is not there yet is taken up to MORE (15) times again, both in turns. Of small work
-- (tests/tools/small_work.lua) `bounds` says what part of its time before each case may take; of bench, for each of
-- MODELS, rates are at least 0.97 of those before.
--
--     BEFORE=../moonlet-before [ROUNDS=5] [MORE=15] [MODELS="a.gguf b.gguf"] [DEPTHS=0,2048,7000] make check-before
local ml = require "moonlet"

local before = os.getenv "BEFORE"
if not before then
  print "skip - before: BEFORE names no built checkout to compare with"
  os.exit(true)
end
local build = os.getenv "BUILD" or "build"
local rounds, more = tonumber(os.getenv "ROUNDS" or 5), tonumber(os.getenv "MORE" or 15)
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
  {"a prefill of 32 layers, traced and planned", 0.7},
  {"a prefill of 32 layers, planned alone", 0.5},
  {"40,000 operations of long lives, planned and run", 0.1},
}

local best = {[NOW] = {}, [BEFORE] = {}}
local function take_small_work()
  for program, times in pairs(best) do
    for seconds, name in output_of(program, "tests/tools/small_work.lua"):gmatch "([%d.]+) ([^\n]+)" do
      times[name] = math.min(times[name] or math.huge, tonumber(seconds))
    end
  end
end
local function is_small_work_done()
  for _, case in ipairs(bounds) do
    if best[NOW][case[1]] > case[2] * best[BEFORE][case[1]] then return false end
  end
  return true
end
for _ = 1, rounds do take_small_work() end
for _ = 1, more do
  if is_small_work_done() then break end
  take_small_work()
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
  local most, labels = {[NOW] = {}, [BEFORE] = {}}, {}
  local function ratio(i) return most[NOW][i] / most[BEFORE][i] end
  local function is_done()
    for i = 1, #labels do
      if ratio(i) < 0.97 then return false end
    end
    return true
  end
  for round = 1, rounds + more do
    if round > rounds and is_done() then break end
    for _, program in ipairs(round % 2 == 0 and {BEFORE, NOW} or {NOW, BEFORE}) do
      for i, found in ipairs(rates(program, model)) do
        labels[i] = found[1]
        most[program][i] = math.max(most[program][i] or 0, found[2])
      end
    end
  end
  for i, label in ipairs(labels) do
    verdict(ratio(i) >= 0.97, "%s of %s: %.1f, before %.1f: %.2f (at least 0.97)", label, model:match "[^/]*$",
      most[NOW][i], most[BEFORE][i], ratio(i))
  end
end
os.exit(failed == 0, true)
