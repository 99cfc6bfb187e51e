-- bfloat16.lua: on AVX2, where it has no instructions of its own, bfloat16 is no slower than float32
--
-- A model of random weights of SmolLM2-135M's shapes computes in both, in turns, in processes of their own; the best of
-- ROUNDS (5) is compared with the best, and what is not there yet is taken up to MORE (15) times again. BOUND (0.97): a
-- line that is as fast in both falls as far below 1 as two measurements of one thing do.
--
--     [ROUNDS=5] [MORE=15] [MOONLET_ISA=avx2] make check-bfloat16
local ml = require "moonlet"

local build, isa = os.getenv "BUILD" or "build", os.getenv "MOONLET_ISA" or "avx2"
local rounds, more = tonumber(os.getenv "ROUNDS" or 5), tonumber(os.getenv "MORE" or 15)
local BOUND = 0.97
local DTYPES = {"float32", "bfloat16"}

local folder = build .. "/shapes/SmolLM2-135M"
assert(os.execute(("mkdir -p '%s'"):format(folder)))
do
  local file <close> = assert(io.open(folder .. "/config.json", "w"))
  assert(file:write [[{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0, "max_position_embeddings": 8192, "tie_word_embeddings": true}]])
end

local most = {float32 = {}, bfloat16 = {}}
local labels = {}
local function take(dtype)
  local command = "MOONLET_ISA=%s '%s/moonlet' bench --json --random '%s' --dtype %s -p 128,512 -n 32 -d 0,2048 -r 1"
  local pipe <close> = assert(io.popen(command:format(isa, build, folder, dtype)))
  local found = ml.json.decode(pipe:read "a")
  local function keep(label, rate)
    if not most[dtype][label] and dtype == "float32" then labels[#labels + 1] = label end
    most[dtype][label] = math.max(most[dtype][label] or 0, rate)
  end
  for _, p in ipairs(found.prefill) do keep(("prefill %d"):format(p.tokens), p.median) end
  for _, d in ipairs(found.decode) do keep(("decode after %d"):format(d.depth), d.median) end
end

local function ratio(label) return most.bfloat16[label] / most.float32[label] end
local function is_done()
  for _, label in ipairs(labels) do
    if ratio(label) < BOUND then return false end
  end
  return true
end

for round = 1, rounds + more do
  if round > rounds and is_done() then break end
  for i = 1, 2 do take(DTYPES[round % 2 == 0 and i or 3 - i]) end
end
local passed = true
for _, label in ipairs(labels) do
  local enough = ratio(label) >= BOUND
  passed = passed and enough
  print(("%s - %s, %s: bfloat16 %.1f, float32 %.1f tokens/s: %.2f (at least %.2f)"):format(enough and "ok" or "not ok",
    label, isa, most.bfloat16[label], most.float32[label], ratio(label), BOUND))
end
os.exit(passed, true)
