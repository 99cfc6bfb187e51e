-- endurance.lua: 2,000 generations (GENERATIONS) of 32 tokens leave resident memory flat, of a tiny model and SmolLM2
local ml = require "moonlet"
local bytes = require "tests.lua.byte_model"

local SETTLED, MOST_GROWTH = 100, 1 << 20 -- generations before which memory may grow; bytes after it
local GENERATIONS = tonumber(os.getenv "GENERATIONS") or 2000

local function resident()
  local file <close> = assert(io.open("/proc/self/statm"))
  return tonumber(file:read "a":match "^%d+ (%d+)") * 4096
end

local chat = {{role = "user", content = "Say something."}}

-- One generation: kinds of prompt, sampling and ending take turns. A quarter leaves its loop early.
local function generate(m, i)
  local opts = {max_tokens = 32, ignore_eos = true}
  if i % 3 > 0 then opts.temperature, opts.top_p, opts.seed = 0.8, 0.95, i end
  if i % 4 == 1 then opts.logprobs = 3 end
  if i % 5 == 0 then opts.repeat_penalty = 1.1 end
  local g <close> = i % 2 == 0 and m:chat(chat, opts) or m:generate(("Count to %d:"):format(i), opts)
  for tok in g do
    if i % 4 == 0 and tok.index == 16 then break end
  end
end

local function run(what, m)
  local base
  for i = 1, GENERATIONS do
    generate(m, i)
    if i == SETTLED then base = resident() end
    if i > SETTLED and (i % 100 == 0 or i == GENERATIONS) then
      local grown = resident() - base
      local text = "%s: %5d generations, resident %.1f MB, %+d KB since %d"
      print(text:format(what, i, resident() / 1e6, grown // 1024, SETTLED))
      if grown > MOST_GROWTH then
        print(("not ok - %s: memory grew by more than %d KB"):format(what, MOST_GROWTH // 1024))
        return false
      end
    end
  end
  print(("ok - %s: memory stays flat"):format(what))
  return true
end

local m <close> = assert(ml.load(bytes.make "endurance", {random = 1}))
local passed = run("tiny", m)
local path = (os.getenv "MOONLET_TEST_CHECKPOINTS" or "checkpoints") .. "/SmolLM2-135M-Instruct.gguf"
if io.open(path) then
  local real <close> = assert(ml.load(path))
  passed = run("SmolLM2", real) and passed
else
  print("skip - SmolLM2: " .. path .. " is not here; `make models` fetches it")
end
os.exit(passed, true)
