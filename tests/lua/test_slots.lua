-- Slots and pages (@twin): whatever is done to sessions in whatever order, the next logits are those of a cold run over
-- the same ids; what is committed, shared, let go of and given back is counted.
local ml = require "moonlet"
local bytes = require "tests.lua.byte_model"
local new_random = require "tests.lua.programs.random"
local t = require "tests.lua.harness"
local tiny = require "tests.tiny"

local STEPS = math.tointeger(tonumber(os.getenv "STEPS" or 60))

local function config(model_type, more)
  return ([[{"model_type": "%s", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 258, "max_position_embeddings": 4096,
"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu"%s}]]):format(model_type,
    more or "")
end

local families = {
  {name = "full", config = config "llama"},
  {name = "sliding", config = config("mistral", ', "sliding_window": 150')},
  {name = "recurrent", config = config("hybrid", ', "sliding_window": 100, "conv_kernel": 4'),
    family = "tests/lua/families/hybrid.lua"},
}

local function load(family)
  local path = bytes.make("slots-" .. family.name)
  tiny.write(path .. "/config.json", family.config)
  return assert(ml.load(path, {random = 7, precision = "exact", family = family.family}))
end

local function run(g)
  for _ in g do end -- luacheck: ignore 542
  return g
end

-- What the lane holds of the last prefill, against the model without a cache.
local function check(m, ids, what)
  local got = m:runtime().lanes[1][1].logits:copy()
  ml.eval(got)
  local all = m:logits(ids)[1]
  local want = all[#all]
  local off = (got[1] - want):abs():max():item() / want:abs():max():item()
  t.ok(off <= 1e-5, ("%s: off by %.3g of the largest logit"):format(what, off))
end

local function random_ids(random, n)
  local ids = {}
  for i = 1, n do ids[i] = random:int(0, 255) end
  return ids
end

-- One thing done to one of the sessions.
local function act(m, random, sessions, file, what)
  local i = random:int(1, #sessions)
  local s = sessions[i]
  local kind = random:pick {"generate", "generate", "generate", "send", "trim", "trim", "fork", "save", "new", "close",
    "cancel"}
  local opts = {max_tokens = random:int(1, 12), ignore_eos = true, temperature = 1, seed = random:int(1, 1 << 30)}
  if s.length > 1500 then kind = "close" end
  if kind == "generate" then
    local more = random_ids(random, random:pick {1, 3, 20, 70, 300})
    check(m, run((s:generate(more, opts))).prompt, what .. ": generate")
  elseif kind == "send" then
    check(m, run((s:send(("word "):rep(random:int(1, 40)), opts))).prompt, what .. ": send")
  elseif kind == "trim" then
    s:trim(random:int(0, s.length))
    check(m, run((s:generate(random_ids(random, 2), opts))).prompt, what .. ": trim")
  elseif kind == "fork" then
    sessions[#sessions + 1] = s:fork()
    for _, one in ipairs {s, sessions[#sessions]} do
      check(m, run((one:generate(random_ids(random, 3), opts))).prompt, what .. ": fork")
    end
  elseif kind == "save" then
    assert(s:save(file))
    local other = m:session()
    assert(other:load(file))
    t.eq(other.tokens, s.tokens)
    sessions[#sessions + 1] = other
    check(m, run((other:generate(random_ids(random, 3), opts))).prompt, what .. ": load")
  elseif kind == "cancel" then
    local g = s:generate(random_ids(random, 30), opts)
    g()
    g:close()
  elseif kind == "new" then
    sessions[#sessions + 1] = m:session()
  end
  if kind == "close" or #sessions > 5 then table.remove(sessions, i):close() end
  if #sessions == 0 then sessions[1] = m:session() end
end

for _, family in ipairs(families) do
  t.test(family.name .. ": sessions in any order", function()
    local m <close> = load(family)
    local file = tiny.folder "slots" .. "/" .. family.name
    local random, sessions = new_random(11), {m:session()}
    for step = 1, STEPS do act(m, random, sessions, file, ("step %d"):format(step)) end
    for _, s in ipairs(sessions) do s:close() end
    local store = m:runtime().store
    t.eq(next(store.slots), nil, "slots in use")
    for _, pool in ipairs(store.pools) do t.eq(pool:held(), 0, "pages in use") end
    os.remove(file)
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
