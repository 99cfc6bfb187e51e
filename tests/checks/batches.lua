-- batches.lua: 500 prompts (PROMPTS) through 8 and 32 rows, coming and cancelled at random, give what each gives alone
--
-- Exact mode, greedy and seeded: ids, log probabilities and finish reason of each prompt are those it has alone; of one
-- that was cancelled, as far as it came. The prompts go through one batch, and through batches that begin at random
-- moments beside others and are closed early at times. Between tokens nothing is planned and nothing is allocated.
-- Fast mode, greedy: the first token that differs from the one alone, or from exact mode's, stands where exact mode's
-- two best logits lie no further apart than the two modes do, at most, on these prompts.
-- A tiny model with PROMPTS prompts, and SmolLM2 with a tenth of them.
--
--   SEED=1 PROMPTS=500 MODELS="tiny SmolLM2" make check-batches

local core = require "moonlet.core"
local ml = require "moonlet"
local bytes = require "tests.lua.byte_model"
local new_random = require "tests.lua.programs.random"
local t = require "tests.lua.harness"

local PROMPTS = math.tointeger(tonumber(os.getenv "PROMPTS" or 500))
local SEED = math.tointeger(tonumber(os.getenv "SEED" or 1))
local MODELS = os.getenv "MODELS" or "tiny SmolLM2"
local SLOTS = {8, 32}
local MOST_OPEN = 3 -- batches side by side

-- ---- prompts ----

local file = assert(io.open "docs/architecture.md")
local text = file:read "a":gsub("[^\x20-\x7e]", " ")
file:close()

local function options(random, i, drawn, longest)
  local o = {seed = i, max_tokens = random:int(1, longest), ignore_eos = random:chance(0.7)}
  if random:chance(0.7) then o.logprobs = random:int(0, 3) end
  if random:chance(0.2) then o.stop = {string.char(random:int(97, 122))} end
  if random:chance(0.2) then o.repeat_penalty, o.repeat_last_n = 1.3, random:pick {8, 64} end
  if random:chance(0.2) then o.presence_penalty, o.frequency_penalty = 0.5, 0.25 end
  if not drawn then return o end
  o.temperature = random:pick {0.5, 0.9, 1.3}
  if random:chance(0.3) then o.top_k = random:int(1, 60) end
  if random:chance(0.3) then o.top_p = random:pick {0.3, 0.8, 0.95} end
  if random:chance(0.3) then o.min_p = random:pick {0.01, 0.1} end
  return o
end

-- Prompts with options of their own, and how each is cancelled, if it is: by its callback behind token `leaves`, by a
-- token of another (`cancel`), before it begins (`never`), by its deadline.
local function make_prompts(random, total, drawn, longest)
  local list = {}
  for i = 1, total do
    local at, o = random:int(1, #text - 200), options(random, i, drawn, longest)
    o.prompt = text:sub(at, at + random:pick {0, random:int(1, 20), random:int(20, 150)})
    local fate = random:pick {"leaves", "cancel", "never", "deadline"}
    list[i] = {options = o}
    if random:chance(0.25) then
      list[i].fate = fate
      if fate == "leaves" then list[i].leaves = random:pick {1, 2, random:int(1, longest)} end
      if fate == "deadline" then o.deadline = 1e-9 end
      if fate == "cancel" or fate == "never" then o.cancel = ml.cancel_token() end
      if fate == "never" then o.cancel:cancel() end
    end
  end
  return list
end

-- Cancel tokens of prompts that may be cancelled by others: fresh ones for each time that they run.
local function renew(list)
  for _, p in ipairs(list) do
    if p.fate == "cancel" then p.options.cancel = ml.cancel_token() end
  end
end

local function alone(m, p)
  local o = {}
  for name, value in pairs(p.options) do o[name] = value end
  o.prompt, o.cancel, o.deadline = nil, nil, nil
  return select(2, m:complete(p.options.prompt, o))
end

-- ---- running ----

local function count(set)
  local n = 0
  for _ in pairs(set) do n = n + 1 end
  return n
end

-- What is called with each token: whether its row goes on. Notes how many sequences there were at once.
local function watch(m, random, list, seen)
  return function(p, token)
    seen.most = math.max(seen.most, count(m:runtime().store.slots))
    if random:chance(0.05) then
      local other = list[random:int(1, #list)]
      if other.fate == "cancel" then other.options.cancel:cancel() end
    end
    return token.index ~= p.leaves
  end
end

local function through_one(m, list, slots, on_token)
  local given = {}
  for i, p in ipairs(list) do given[i] = p.options end
  return m:batch_generate(given, {slots = slots, on_token = function(i, token) return on_token(list[i], token) end})
end

-- In batches that begin and are closed at random moments; what had not begun in one that is closed comes again.
local function as_they_come(m, list, slots, on_token, random)
  local results, coming, open = {}, {}, {}
  for i = 1, #list do coming[i] = i end
  local function begin()
    local places, given = {}, {}
    for k = 1, math.min(#coming, random:int(1, 2 * slots)) do
      places[k] = table.remove(coming, 1)
      given[k] = list[places[k]].options
    end
    local batch = m:batch_generate(given, {slots = slots, iterate = true, on_token = function(k, token)
      return on_token(list[places[k]], token)
    end})
    table.insert(open, {batch = batch, places = places})
  end
  local function close(k)
    local one = table.remove(open, k)
    one.batch:close()
    for at, i in ipairs(one.places) do
      results[i] = one.batch.results[at]
      if results[i] and results[i].finish_reason == "cancelled" then results[i].closed = true end
      if not results[i] then table.insert(coming, i) end
    end
  end
  while #coming > 0 or #open > 0 do
    if #coming > 0 and (#open == 0 or #open < MOST_OPEN and random:chance(0.2)) then begin() end
    local k = random:int(1, #open)
    local more = open[k].batch()
    if not more or random:chance(0.01) then close(k) end
  end
  return results
end

-- ---- comparing ----

local function reads(list) return ml.json.encode(list or {}) end

local function first(list, n) return list and table.move(list, 1, n, 1, {}) end

-- A prompt's result beside the one alone; whether it was cut off.
local function compare(p, got, want, what)
  t.eq(got.error, nil, what)
  local cut = got.finish_reason == "cancelled" or got.finish_reason == "deadline"
  local n = #got.ids
  if cut then
    t.ok(p.fate or got.closed, what .. ": nobody has cancelled it")
    t.ok(n <= #want.ids, what .. ": it is longer than alone")
    if p.fate == "leaves" and not got.closed then t.eq(n, p.leaves, what .. ": tokens before it left") end
    if p.fate == "never" or p.fate == "deadline" then t.eq(n, 0, what .. ": tokens") end
    if got.finish_reason == "deadline" then t.eq(p.fate, "deadline", what) end
  else
    local missed = p.fate == "never" or p.fate == "deadline" or p.fate == "leaves" and p.leaves < n
    t.ok(not missed, what .. ": it was not cancelled")
    t.eq({got.finish_reason, got.text, n}, {want.finish_reason, want.text, #want.ids}, what)
  end
  t.eq(got.ids, first(want.ids, n), what)
  t.eq(reads(got.logprobs), reads(first(want.logprobs, n)), what .. ": log probabilities")
  return cut
end

local function nothing_is_held(m)
  local store = m:runtime().store
  t.eq(next(store.slots), nil, "slots in use")
  for _, pool in ipairs(store.pools) do t.eq(pool:held(), 0, "pages in use") end
end

-- ---- exact mode ----

local function exact(name, m, total, longest)
  for _, drawn in ipairs {false, true} do
    local kind = drawn and "seeded" or "greedy"
    local list = make_prompts(new_random(SEED), total, drawn, longest)
    local want, tokens = {}, 0
    t.test(("%s, %s: each prompt alone"):format(name, kind), function()
      for i, p in ipairs(list) do
        want[i] = alone(m, p)
        tokens = tokens + #want[i].ids
      end
    end)
    for _, slots in ipairs(SLOTS) do
      for _, way in ipairs {{"in one batch", through_one}, {"as they come", as_they_come}} do
        t.test(("%s, %s: %d prompts through %d rows, %s"):format(name, kind, total, slots, way[1]), function()
          renew(list)
          local random, began, cut, seen = new_random(SEED + slots), core.clock(), 0, {most = 0}
          local got = way[2](m, list, slots, watch(m, random, list, seen), random)
          for i, p in ipairs(list) do
            if compare(p, got[i], want[i], "prompt " .. i) then cut = cut + 1 end
          end
          nothing_is_held(m)
          print(("# %d prompts as alone, %d tokens; %d cut off; %d at once; %.1f s"):format(total - cut, tokens, cut,
            seen.most, core.clock() - began))
          t.ok(seen.most >= math.min(slots, total // 2), ("%d rows are taken"):format(seen.most))
        end)
      end
    end
  end
end

-- From the moment when all rows have tokens until the first of them ends.
local function steady(name, m)
  for _, slots in ipairs(SLOTS) do
    t.test(("%s: %d rows go on without a new plan or memory"):format(name, slots), function()
      local prompts, before, now, steps = {}, nil, nil, 10
      for i = 1, slots do prompts[i] = {prompt = "Say", seed = i, max_tokens = slots + steps + 6, ignore_eos = true} end
      local function note(index, token)
        if index == slots and token.index == 3 then before = ml.stats() end
        if index == slots and token.index == 3 + steps then now = ml.stats() end
      end
      for _ = 1, 2 do m:batch_generate(prompts, {slots = slots, temperature = 0.9, top_p = 0.9, on_token = note}) end
      t.eq({traces = now.traces - before.traces, plans = now.plans - before.plans,
        replays = now.replays - before.replays, allocations = now.allocations - before.allocations,
        tensors = now.tensors - before.tensors}, {traces = 0, plans = 0, replays = steps, allocations = 0, tensors = 0})
    end)
  end
end

-- ---- fast mode ----

-- Logits of the places at which tokens of an answer were chosen, (tokens, V).
local function logits_of(m, prompt, ids)
  local all = table.move(prompt, 1, #prompt, 1, {})
  table.move(ids, 1, #ids, #all + 1, all)
  return m:logits(all)[1]:slice {{#prompt, #all - 1}, {}}
end

-- How far apart the two best are.
local function gap(logits)
  local best = logits:topk(2):tolist()
  return math.abs(best[1] - best[2])
end

-- Where two lists differ first, or nil: the shorter may be the other's beginning.
local function first_difference(a, b)
  for i = 1, math.min(#a, #b) do
    if a[i] ~= b[i] then return i end
  end
end

local function fast(name, slow, quick, total, longest)
  t.test(name .. ": fast mode differs where two tokens are as good as each other", function()
    local list, random = {}, new_random(SEED + 1)
    for i = 1, total do
      local at = random:int(1, #text - 200)
      local prompt = slow:prompt_ids(text:sub(at, at + random:int(5, 100)), "prompt")
      list[i] = {options = {prompt = prompt, max_tokens = longest, ignore_eos = true}}
    end
    local exact_ids, alone_ids, apart = {}, {}, 0
    for i, p in ipairs(list) do
      exact_ids[i], alone_ids[i] = alone(slow, p).ids, alone(quick, p).ids
      apart = math.max(apart, ml.scope(function()
        local prompt = p.options.prompt
        return (logits_of(slow, prompt, exact_ids[i]) - logits_of(quick, prompt, exact_ids[i])):abs():max():item()
      end))
    end
    t.ok(apart > 0, "the modes differ")
    local function judge(got, want, what)
      local differ, widest = 0, 0
      for i, p in ipairs(list) do
        local at = first_difference(got[i], want[i])
        if at then
          local before = first(want[i], at)
          local between = ml.scope(function()
            local all = logits_of(slow, p.options.prompt, before)
            return gap(all[#all])
          end)
          differ, widest = differ + 1, math.max(widest, between)
        end
      end
      print(("# %s: %s: %d of %d prompts differ, where the two best are %.3g apart at most; the modes are %.3g apart")
        :format(name, what, differ, total, widest, apart))
      t.ok(widest <= apart, ("%s: a difference where the two best are %.3g apart"):format(what, widest))
    end
    judge(alone_ids, exact_ids, "alone")
    for _, slots in ipairs(SLOTS) do
      local got = {}
      for i, result in ipairs(through_one(quick, list, slots, function() end)) do
        t.eq({result.error, #result.ids}, {nil, #alone_ids[i]})
        got[i] = result.ids
      end
      judge(got, alone_ids, ("%d rows, beside alone"):format(slots))
      judge(got, exact_ids, ("%d rows, beside exact mode"):format(slots))
    end
    nothing_is_held(quick)
  end)
end

-- ---- models ----

if MODELS:find("tiny", 1, true) then
  local m <close> = assert(ml.load(bytes.make "batches", {random = 5, precision = "exact"}))
  exact("tiny", m, PROMPTS, 100)
  steady("tiny", m)
  local function load(precision)
    return assert(ml.load(bytes.make "batches", {random = 5, precision = precision, quantize = {format = "q4_0"}}))
  end
  local slow <close> = load "exact"
  local quick <close> = load "fast"
  fast("tiny", slow, quick, PROMPTS, 24)
end

local path = (os.getenv "MOONLET_TEST_CHECKPOINTS" or "checkpoints") .. "/SmolLM2-135M-Instruct.gguf"
if not MODELS:find("SmolLM2", 1, true) then t.done() end
t.test("SmolLM2 is there", function() t.checkpoint "SmolLM2-135M-Instruct.gguf" end)
if io.open(path) then
  local total = PROMPTS // 10
  local slow <close> = assert(ml.load(path, {precision = "exact"}))
  exact("SmolLM2", slow, total, 64)
  steady("SmolLM2", slow)
  local quick <close> = assert(ml.load(path, {precision = "fast"}))
  fast("SmolLM2", slow, quick, total, 12)
end
t.done()
