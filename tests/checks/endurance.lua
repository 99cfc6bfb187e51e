-- endurance.lua: 2,000 generations (GENERATIONS) of 32 tokens and 5,000 in batches, with cancels, leave memory flat
--
-- Of a tiny model and of SmolLM2, which takes a tenth of those in batches (BATCHED). Prompts are cancelled at random by
-- their callbacks, by tokens of others and by deadlines, and batches are closed early. Between batches no page and no
-- slot is held; resident memory and what the engine counts stay as they were.
local ml = require "moonlet"
local bytes = require "tests.lua.byte_model"
local new_random = require "tests.lua.programs.random"

local SETTLED, MOST_GROWTH = 100, 1 << 20 -- generations before which memory may grow; bytes after it
local GENERATIONS = math.tointeger(tonumber(os.getenv "GENERATIONS") or 2000)
local BATCHED = math.tointeger(tonumber(os.getenv "BATCHED") or GENERATIONS * 5 // 2)
local SETTLED_BATCHED, MOST_ROWS = 1000, 16

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

-- ---- in batches ----

-- A prompt of a batch, some of which are to be cancelled: behind a token, by another's, by its deadline.
local function prompt_of(random, i)
  local o = {
    prompt = ("Count to %d:"):format(i):rep(random:int(1, 8)), max_tokens = random:int(1, 32), ignore_eos = true,
    seed = i,
  }
  if random:chance(0.5) then o.temperature, o.top_p = 0.8, 0.95 end
  if random:chance(0.25) then o.logprobs = 3 end
  if random:chance(0.25) then o.repeat_penalty = 1.1 end
  if random:chance(0.3) then o.cancel = ml.cancel_token() end
  if random:chance(0.05) then o.deadline = 0.001 * random:int(1, 20) end
  return o
end

-- One batch of `count` prompts from number `first` on: how many were cut off.
local function generate_batch(m, random, first, count)
  local prompts, last, cut = {}, {}, 0
  for i = 1, count do
    prompts[i] = prompt_of(random, first + i - 1)
    if random:chance(0.2) then last[i] = random:int(1, 32) end
  end
  local batch <close> = m:batch_generate(prompts, {
    slots = random:pick {1, 3, 8, MOST_ROWS}, iterate = true, on_token = function(i, token)
      local other = random:chance(0.05) and prompts[random:int(1, count)].cancel
      if other then other:cancel() end
      return token.index ~= last[i]
    end,
  })
  local ends = random:chance(0.2) and random:int(1, count) or count
  for _, result in batch do
    assert(not result.error, result.error)
    if result.finish_reason ~= "length" then cut = cut + 1 end
    ends = ends - 1
    if ends == 0 then break end
  end
  return cut
end

local function held(m)
  local n = 0
  for _, pool in ipairs(m:runtime().store.pools) do n = n + pool:held() end
  return n, next(m:runtime().store.slots) ~= nil
end

local function counted()
  collectgarbage()
  collectgarbage()
  return ml.memory.active()
end

-- What grows must not come back with more prompts: after SETTLED_BATCHED, or half where they are few.
local function run_batched(what, m, total)
  local random, done, cut, base, base_counted = new_random(1), 0, 0, nil, nil
  local settled, said = math.min(SETTLED_BATCHED, total // 2), 0
  local function failed(text, ...)
    print(("not ok - %s, in batches: "):format(what) .. text:format(...))
    return false
  end
  while done < total do
    local count = math.min(total - done, random:int(1, 3 * MOST_ROWS))
    cut = cut + generate_batch(m, random, done + 1, count)
    done = done + count
    local pages, slots = held(m)
    if pages > 0 or slots then return failed("%d pages are held behind %d generations", pages, done) end
    if not base and done >= settled then
      base_counted, base = counted(), resident()
    elseif base and (done - said >= 500 or done == total) then
      said = done
      local more, grown = counted() - base_counted, resident() - base
      print(("%s: %5d in batches, %d cut off, resident %.1f MB, %+d KB, counted %+d KB since %d"):format(what, done,
        cut, resident() / 1e6, grown // 1024, more // 1024, settled))
      if grown > MOST_GROWTH then return failed("memory grew by more than %d KB", MOST_GROWTH // 1024) end
      if more > MOST_GROWTH then return failed("%d bytes more are counted", more) end
    end
  end
  print(("ok - %s: memory stays flat behind %d generations in batches"):format(what, done))
  return true
end

-- ---- the whole ----

local m <close> = assert(ml.load(bytes.make "endurance", {random = 1}))
local passed = run("tiny", m)
passed = run_batched("tiny", m, BATCHED) and passed
local path = (os.getenv "MOONLET_TEST_CHECKPOINTS" or "checkpoints") .. "/SmolLM2-135M-Instruct.gguf"
if io.open(path) then
  local real <close> = assert(ml.load(path))
  passed = run("SmolLM2", real) and passed
  passed = run_batched("SmolLM2", real, BATCHED // 10) and passed
else
  print("skip - SmolLM2: " .. path .. " is not here; `make models` fetches it")
end
os.exit(passed, true)
