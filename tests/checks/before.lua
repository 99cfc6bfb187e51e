-- before.lua: this build beside an older one, in turns: what costs beside arithmetic, and bench at three depths
--
-- BEFORE names the other checkout, built. The best of ROUNDS (5) is compared with the best, since noise only ever
-- slows; what is not there yet is taken up to MORE (15) times again, both in turns. Of small work
-- (tests/tools/small_work.lua) `bounds` says what part of its time before each case may take; of bench, for each of
-- MODELS, rates are at least 0.97 of those before, and where `gains` says so, better by as much. Where the processor
-- has dot products of bfloat16, models of the shapes in `shapes`, in bfloat16, are set beside float32 before.
--
--     BEFORE=../moonlet-before [ROUNDS=5] [MORE=15] [MODELS="a.gguf b.gguf"] [DEPTHS=0,2048,7000] [SHAPES=0] \
--       make check-before
local turns = require "tests.tools.turns"

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
    local text = turns.output_of(("'%s' tests/tools/small_work.lua"):format(program))
    for seconds, name in text:gmatch "([%d.]+) ([^\n]+)" do
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

local function has_flag(name)
  for line in io.lines "/proc/cpuinfo" do
    if line:find "^flags" then return (line .. " "):find(" " .. name .. " ", 1, true) ~= nil end
  end
end

-- Of lines of bench: what is asked beside 0.97.
local gains = {}
if has_flag "avx512f" then gains["prefill 512 of SmolLM2-135M-Instruct.gguf"] = 1.15 end

-- Bench's rates, in turns; `now`: what this build is given beside `rest`.
local function compare(name, rest, now, bound_of)
  local bench = "'%s' bench --json %s %s"
  for _, line in ipairs(turns.compare(bench:format(NOW, rest, now), bench:format(BEFORE, rest, ""), rounds, more,
    bound_of)) do
    verdict(line.ratio >= line.bound, "%s of %s: %.1f, before %.1f: %.2f (at least %.2f)", line.label, name, line.first,
      line.second, line.ratio, line.bound)
  end
end

for model in models:gmatch "%S+" do
  local name = model:match "[^/]*$"
  compare(name, ("-m '%s' -p 512 -n 64 -d %s -r 1"):format(model, depths), "", function(label)
    return gains[label .. " of " .. name] or 0.97
  end)
end

-- ---- bfloat16 beside float32 before ----

local shapes = {
  ["Llama-3.2-1B"] = [[{"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "max_position_embeddings": 131072, "tie_word_embeddings": true,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3",
      "original_max_position_embeddings": 8192}}]],
}
local wanted = {["prefill 256"] = 2.3, ["decode after 0"] = 1.15}

if os.getenv "SHAPES" == "0" or not has_flag "avx512_bf16" then
  print "skip - shapes in bfloat16: asked not to, or this processor has no dot products of it"
  shapes = {}
end
for name, config in pairs(shapes) do
  compare(name, ("--random '%s' -p 256 -n 32 -d 0 -r 1"):format(turns.shapes(build, name, config)), "--dtype bfloat16",
    function(label) return wanted[label] end)
end
os.exit(failed == 0, true)
