-- Slots and pages (@twin): whatever is done to sessions in whatever order, the next logits are those of a cold run over
-- the same ids; what is committed, shared, let go of and given back is counted.
local ml = require "moonlet"
local bytes = require "tests.lua.byte_model"
local new_random = require "tests.lua.programs.random"
local steps = require "tests.lua.session_steps"
local t = require "tests.lua.harness"
local tiny = require "tests.tiny"

local STEPS = math.tointeger(tonumber(os.getenv "STEPS" or 60))
local families, load, run, check, random_ids = steps.families, steps.load, steps.run, steps.check, steps.random_ids

for _, family in ipairs(families) do
  t.test(family.name .. ": sessions in any order", function()
    local m <close> = load(family)
    local all = steps.new(m, new_random(11), tiny.folder "slots" .. "/" .. family.name)
    for step = 1, STEPS do all:step(step) end
    all:close()
  end)
end

local function pages(m)
  local n = 0
  for _, pool in ipairs(m:runtime().store.pools) do n = n + pool:held() end
  return n
end

t.test("many short sequences of a long context take a page each", function()
  local path = bytes.make("slots-many", {context = 131072})
  local m <close> = assert(ml.load(path, {random = 3, max_context = 131072}))
  local before, list = nil, {}
  for i = 1, 200 do
    list[i] = m:session()
    run((list[i]:generate({1, 2, 3, 4, 5, 6, 7, i}, {max_tokens = 3, ignore_eos = true})))
    before = before or m:runtime().store.pools[1].committed
  end
  t.eq(pages(m), 200)
  t.ok(m:runtime().store.pools[1].committed <= 200 + before)
  for _, s in ipairs(list) do s:close() end
  t.eq(pages(m), 0)
  t.ok(m:runtime().store.pools[1].committed <= 2 * before)
end)

t.test("a fork copies nothing until one of the two writes", function()
  local m <close> = load(families[1])
  local s <close> = m:session()
  local ids = random_ids(new_random(5), 3000)
  run((s:generate(ids, {max_tokens = 1})))
  local held = pages(m)
  local forks = {}
  for i = 1, 10 do forks[i] = s:fork() end
  t.eq(pages(m), held)
  run((forks[1]:generate({5}, {max_tokens = 1})))
  t.eq(pages(m), held + 1)
  check(m, table.move({ids[3000], forks[1].tokens[3001], 5}, 1, 3, 3000, table.move(ids, 1, 3000, 1, {})), "the fork")
  for _, f in ipairs(forks) do f:close() end
  t.eq(pages(m), held)
end)

t.test("between calls a window holds itself and at most two pages more", function()
  local m <close> = load(families[2])
  local s <close> = m:session()
  local pool
  for _ = 1, 12 do
    run((s:generate(random_ids(new_random(5), 97), {max_tokens = 5, ignore_eos = true})))
    pool = pool or m:runtime().store.by_window[150]
    t.ok(pool:held() <= math.ceil(150 / 64) + 2, ("%d pages"):format(pool:held()))
  end
  local before = s.length
  s:trim(before - 30)
  local g = run((s:generate({1}, {max_tokens = 1})))
  t.ok(g.metrics.cached_tokens > 0, "a short way back is held")
  s:trim(40)
  g = run((s:generate({1}, {max_tokens = 1})))
  t.eq(g.metrics.cached_tokens, 0)
end)

t.test("a recurrent state is gone back to by its snapshots", function()
  local m <close> = load(families[3])
  t.ok(m.net.layers[1].taps:abs():max():item() > 0, "random vectors are random: the state matters")
  local s <close> = m:session()
  run((s:generate(random_ids(new_random(5), 40), {max_tokens = 5, ignore_eos = true})))
  s:trim(40)
  local g = run((s:generate({1, 2}, {max_tokens = 1})))
  t.eq(g.metrics.cached_tokens, 40)
  check(m, g.prompt, "behind a snapshot")
  s:trim(30)
  g = run((s:generate({1, 2}, {max_tokens = 1})))
  t.eq(g.metrics.cached_tokens, 0)
  check(m, g.prompt, "from the start")
end)

t.test("what is cut off by a limit leaves the session as it was", function()
  local m <close> = load(families[3])
  local s <close> = m:session()
  run((s:generate(random_ids(new_random(5), 40), {max_tokens = 2, ignore_eos = true})))
  local ids = s.tokens
  collectgarbage() -- else what is garbage now makes room
  collectgarbage()
  ml.memory.clear()
  ml.memory.limit(ml.memory.active() + 1)
  local ok = pcall(function() run((s:generate(random_ids(new_random(6), 900), {max_tokens = 2}))) end)
  ml.memory.limit(0)
  t.ok(not ok)
  t.eq(s.tokens, ids)
  check(m, run((s:generate({3}, {max_tokens = 1}))).prompt, "afterwards")
end)

t.done()
