-- bfloat16.lua: on AVX2, where it has no instructions of its own, bfloat16 is no slower than float32
--
-- A model of random weights of SmolLM2-135M's shapes computes in both, in turns, in processes of their own; the best of
-- ROUNDS (5) is compared with the best, and what is not there yet is taken up to MORE (15) times again. BOUND (0.97): a
-- line that is as fast in both falls as far below 1 as two measurements of one thing do.
--
--     [ROUNDS=5] [MORE=15] [MOONLET_ISA=avx2] make check-bfloat16
local turns = require "tests.tools.turns"

local build, isa = os.getenv "BUILD" or "build", os.getenv "MOONLET_ISA" or "avx2"
local rounds, more = tonumber(os.getenv "ROUNDS" or 5), tonumber(os.getenv "MORE" or 15)
local BOUND = 0.97

local folder = turns.shapes(build, "SmolLM2-135M", [[{"model_type": "llama", "hidden_size": 576,
  "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
  "vocab_size": 49152, "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "max_position_embeddings": 8192,
  "tie_word_embeddings": true}]])

local function bench(dtype)
  local command = "MOONLET_ISA=%s '%s/moonlet' bench --json --random '%s' --dtype %s -p 128,512 -n 32 -d 0,2048 -r 1"
  return command:format(isa, build, folder, dtype)
end

local passed = true
for _, line in ipairs(turns.compare(bench "bfloat16", bench "float32", rounds, more, function() return BOUND end)) do
  local enough = line.ratio >= line.bound
  passed = passed and enough
  print(("%s - %s, %s: bfloat16 %.1f, float32 %.1f tokens/s: %.2f (at least %.2f)"):format(enough and "ok" or "not ok",
    line.label, isa, line.first, line.second, line.ratio, line.bound))
end
os.exit(passed, true)
