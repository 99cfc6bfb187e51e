-- Continuous batching: each prompt gives what it gives alone, however many run beside it; errors, ends and callbacks
-- are those of one row.
local ml = require "moonlet"
local S = require "moonlet.sample"
local bytes = require "tests.lua.byte_model"
local new_random = require "tests.lua.programs.random"
local t = require "tests.lua.harness"
local tiny = require "tests.tiny"

local m = assert(ml.load(bytes.make "batch", {random = 5, precision = "exact"}))

local function text_of(random, i) return ("Prompt %d, "):format(i):rep(random:int(1, 30)) end

local function options(random, i)
  local o = {seed = i, max_tokens = random:int(1, 40), ignore_eos = random:chance(0.7)}
  if random:chance(0.2) then o.stop = {string.char(random:int(97, 122))} end
  return o
end

local function alone(model, prompt, shared)
  local o = {}
  for name, value in pairs(shared) do o[name] = value end
  for name, value in pairs(prompt) do o[name] = value end
  o.prompt = nil
  return select(2, model:complete(prompt.prompt, o))
end

local function same(got, want, what)
  t.eq(got.ids, want.ids, what)
  t.eq({got.text, got.finish_reason}, {want.text, want.finish_reason}, what)
  t.eq(ml.json.encode(got.logprobs or {}), ml.json.encode(want.logprobs or {}), what)
end

local function hybrid()
  local path = bytes.make "batch-hybrid"
  tiny.write(path .. "/config.json", [[{"model_type": "hybrid", "hidden_size": 32, "num_hidden_layers": 3,
"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 258, "max_position_embeddings": 4096,
"sliding_window": 100, "conv_kernel": 4}]])
  return assert(ml.load(path, {random = 7, precision = "exact", family = "tests/lua/families/hybrid.lua"}))
end

for _, case in ipairs {
  {"greedy", {}}, {"drawn, with log probabilities", {temperature = 0.9, top_k = 30, logprobs = 2}},
  {"penalised", {temperature = 1.1, top_p = 0.9, repeat_penalty = 1.3, presence_penalty = 0.2}},
} do
  t.test(case[1] .. ": as alone, through 1, 3, 8 and 32 rows", function()
    local random, prompts, want = new_random(3), {}, {}
    for i = 1, 40 do
      prompts[i] = options(random, i)
      prompts[i].prompt = text_of(random, i)
      want[i] = alone(m, prompts[i], case[2])
    end
    for _, slots in ipairs {1, 3, 8, 32} do
      local shared = {slots = slots}
      for name, value in pairs(case[2]) do shared[name] = value end
      local got = m:batch_generate(prompts, shared)
      t.eq(#got, #prompts)
      for i, result in ipairs(got) do same(result, want[i], ("prompt %d of %d rows"):format(i, slots)) end
    end
  end)
end

t.test("rows of different parameters run side by side, as alone", function()
  local random, prompts, want = new_random(5), {}, {}
  local own = {
    {}, {temperature = 0.7}, {temperature = 1.2, top_k = 20}, {temperature = 1, top_p = 0.8, min_p = 0.02},
    {repeat_penalty = 1.4, repeat_last_n = 16}, {temperature = 0.9, repeat_penalty = 1.2, repeat_last_n = 32},
    {temperature = 1.1, presence_penalty = 0.5, frequency_penalty = 0.25, logprobs = 1}, {top_p = 0.5, logprobs = 3},
  }
  for i = 1, 24 do
    prompts[i] = {prompt = text_of(random, i), seed = i, max_tokens = 6 + i % 9}
    for name, value in pairs(own[i % #own + 1]) do prompts[i][name] = value end
    want[i] = alone(m, prompts[i], {})
  end
  for _, slots in ipairs {5, 32} do
    for i, result in ipairs(m:batch_generate(prompts, {slots = slots})) do same(result, want[i], "prompt " .. i) end
  end
  local fresh <close> = assert(ml.load(bytes.make "batch-rows", {random = 5, precision = "exact"}))
  for i = 1, 24 do prompts[i].logprobs = nil end
  fresh:batch_generate(prompts, {slots = 32})
  for rows, lanes in pairs(fresh:runtime().lanes) do
    for _, lane in ipairs(lanes) do t.eq(#lane.order, 1, ("chains of lanes of %d rows"):format(rows)) end
  end
end)

t.test("states of fixed size and windows", function()
  local h <close> = hybrid()
  local random, prompts, want = new_random(4), {}, {}
  for i = 1, 20 do
    prompts[i] = options(random, i)
    prompts[i].prompt = text_of(random, i)
    want[i] = alone(h, prompts[i], {temperature = 1})
  end
  for i, result in ipairs(h:batch_generate(prompts, {temperature = 1, slots = 5})) do
    same(result, want[i], "prompt " .. i)
  end
  for _, pool in ipairs(h:runtime().store.pools) do t.eq(pool:held(), 0, "pages in use") end
end)

t.test("texts, ids and messages; options of each and of all", function()
  local conversation = {{role = "user", content = "Hi"}}
  local got = m:batch_generate({
    "plain", {72, 105}, conversation, {prompt = conversation, max_tokens = 2}, {prompt = "none", max_tokens = 0},
  }, {max_tokens = 4, ignore_eos = true})
  t.eq({#got[1].ids, #got[2].ids, #got[3].ids, #got[4].ids, #got[5].ids}, {4, 4, 4, 2, 0})
  t.eq(got[5].finish_reason, "length")
  same(got[2], alone(m, {prompt = {72, 105}}, {max_tokens = 4, ignore_eos = true}))
  t.eq(got[3].metrics.prompt_tokens, #m:chat_ids(conversation, {}))
  t.eq(m:batch_generate {}, {})
end)

t.test("functions of the user's: a state of its own for each sequence", function()
  local seen = {}
  local function sampler(logits, state)
    seen[#state.ids] = (seen[#state.ids] or 0) + 1
    t.eq({logits.shape[1], state.recent and state.recent.shape[1] or 1}, {1, 1})
    return state.ids[1] % 26 + 97
  end
  local got = m:batch_generate({"abc", "bcd", "cdefgh"}, {sampler = sampler, max_tokens = 3, slots = 2})
  t.eq({got[1].text, got[2].text, got[3].text}, {"ttt", "uuu", "vvv"})
  local chain = S.chain {S.traced(function(logits) return logits * 0.5 end), S.temperature(0.8)}
  for i, result in ipairs(m:batch_generate({"abc", "bcd"}, {sampler = chain, seed = 3, max_tokens = 6})) do
    same(result, alone(m, {prompt = ({"abc", "bcd"})[i]}, {sampler = chain, seed = 3, max_tokens = 6}))
  end
end)

t.test("results as they end, tokens as they come", function()
  local prompts, order, tokens = {}, {}, {}
  for i = 1, 6 do prompts[i] = {prompt = "p" .. i, max_tokens = i == 1 and 40 or 2, ignore_eos = true} end
  local function note(index, token) tokens[index] = (tokens[index] or "") .. token.text end
  for index, result in m:batch_generate(prompts, {iterate = true, slots = 6, on_token = note}) do
    order[#order + 1] = index
    t.eq(result.text, tokens[index])
  end
  t.eq(#order, 6)
  t.eq(order[6], 1)
  for _ in m:batch_generate(prompts, {iterate = true}) do break end -- luacheck: ignore 512
  t.eq(next(m:runtime().store.slots), nil, "left early, it frees all")
end)

t.test("an error is that prompt's", function()
  local wrong = function(_, state)
    if #state.ids > 4 then error "mine" end
    return 97
  end
  local got = m:batch_generate({
    "fine", {prompt = ""}, {prompt = {1, 2, 999}}, {prompt = "x", top_p = 3}, {prompt = "abc", sampler = wrong},
    {prompt = ("long "):rep(2000)}, {prompt = "also fine", nonsense = 1}, "fine",
  }, {max_tokens = 5, ignore_eos = true, slots = 3})
  t.eq({#got[1].ids, #got[8].ids}, {5, 5})
  local function failed(i, pattern, code)
    t.eq(got[i].finish_reason, "error")
    t.ok(tostring(got[i].error):find(pattern), tostring(got[i].error))
    if code then t.eq(got[i].error.code, code) end
  end
  failed(2, "empty", "usage")
  failed(3, "prompt 3: entry 3", "usage")
  failed(4, "top_p", "usage")
  failed(5, "mine")
  failed(6, "the context holds", "limit")
  failed(7, "nonsense", "usage")
  t.raises(function() m:batch_generate({"a"}, {nonsense = 1}) end, "nonsense", "usage")
  t.raises(function() m:batch_generate({"a"}, {slots = 0}) end, "slots", "usage")
  t.raises(function() m:batch_generate("a") end, "prompts", "usage")
end)

t.test("cancelled and overdue rows leave, the others go on", function()
  local token = ml.cancel_token()
  local n = 0
  local got = m:batch_generate({
    {prompt = "first", cancel = token}, {prompt = "second"}, {prompt = "third", deadline = 1e-6}, "fourth",
  }, {max_tokens = 12, ignore_eos = true, slots = 4, on_token = function(index)
    n = n + (index == 1 and 1 or 0)
    if n == 3 then token:cancel() end
  end})
  t.eq({got[1].finish_reason, #got[1].ids}, {"cancelled", 3})
  t.eq(got[3].finish_reason, "deadline")
  same(got[2], alone(m, {prompt = "second"}, {max_tokens = 12, ignore_eos = true}))
  same(got[4], alone(m, {prompt = "fourth"}, {max_tokens = 12, ignore_eos = true}))
  t.raises(function()
    m:batch_generate({"a", "b"}, {on_token = function() error "stop all" end})
  end, "stop all")
  t.eq(next(m:runtime().store.slots), nil, "slots in use")
end)

t.test("a deadline that comes in the middle of a run ends its row as one between runs does", function()
  local core = require "moonlet.core"
  local prompts, overdue = {}, 0
  for i = 1, 12 do prompts[i] = {prompt = ("long "):rep(700), deadline = 0.002 * i, max_tokens = 2} end
  prompts[13] = "short"
  local got = m:batch_generate(prompts, {max_tokens = 3, ignore_eos = true, slots = 2})
  for i, result in ipairs(got) do
    t.eq(result.error, nil, "prompt " .. i)
    if result.finish_reason == "deadline" then overdue = overdue + 1 else t.eq(result.finish_reason, "length") end
  end
  t.ok(overdue > 0, "prompts were overdue")
  local function slow(logits)
    local from = core.clock()
    while core.clock() < from + 0.06 do end -- luacheck: ignore 542
    local _ = logits:max():item()
    return logits
  end
  prompts = {{prompt = "x", deadline = 0.05, sampler = slow}, "short"}
  got = m:batch_generate(prompts, {max_tokens = 3, ignore_eos = true})
  t.eq({got[1].error, got[1].finish_reason, #got[1].ids}, {nil, "deadline", 0})
  t.eq(got[2].finish_reason, "length")
  t.eq(next(m:runtime().store.slots), nil, "slots in use")
end)

t.test("a callback ends a row, the batch or the model", function()
  local o = {max_tokens = 12, ignore_eos = true, slots = 4}
  local prompts = {"first", "second", "third", "fourth", "fifth"}
  o.on_token = function(index, token) return not (index == 2 and token.index == 4) end
  local got = m:batch_generate(prompts, o)
  t.eq({got[2].finish_reason, #got[2].ids}, {"cancelled", 4})
  for _, i in ipairs {1, 3, 4, 5} do
    same(got[i], alone(m, {prompt = prompts[i]}, {max_tokens = 12, ignore_eos = true}))
  end
  local batch, n
  o.iterate, n = true, 0
  o.on_token = function()
    n = n + 1
    if n == 20 then batch:close() end
  end
  batch = m:batch_generate(prompts, o)
  t.eq({batch()}, {})
  t.eq(n, 20, "none comes behind the end")
  local tokens = 0
  for i = 1, 4 do
    t.eq(batch.results[i].finish_reason, "cancelled")
    tokens = tokens + #batch.results[i].ids
  end
  t.eq({tokens, batch.results[5]}, {20, nil})
  local other <close> = assert(ml.load(bytes.make "batch", {random = 5, precision = "exact"}))
  o.iterate, n = false, 0
  o.on_token = function()
    n = n + 1
    if n == 7 then other:close() end
  end
  t.raises(function() other:batch_generate(prompts, o) end, "the model was closed", "usage")
  t.eq(n, 7)
  t.eq(next(m:runtime().store.slots), nil, "slots in use")
end)

t.test("rows that find no memory wait for others, or give their cache up and compute it again", function()
  local o, prompts, want, text = {ignore_eos = true, temperature = 0.8, logprobs = 1}, {}, {}, {}
  local warm = {}
  for i = 1, 12 do
    prompts[i] = {prompt = ("Text %d, "):format(i):rep(i), seed = i, max_tokens = 30 + 40 * (i % 5)}
    want[i] = alone(m, prompts[i], o)
    warm[i] = {prompt = ("w"):rep(i == 1 and 300 or 3), max_tokens = 20}
    text[i] = ""
  end
  ml.memory.clear()
  local again <close> = assert(ml.load(bytes.make "batch", {random = 5, precision = "exact"}))
  for _, slots in ipairs {1, 2, 4, 8, 12} do
    o.slots = slots
    again:batch_generate(warm, o)
  end
  local _ <close> = setmetatable({}, {__close = function() ml.memory.limit(0) end})
  o.on_token = function(index, token) text[index] = text[index] .. token.text end
  local active = ml.memory.active()
  for _, more in ipairs {300000, 200000, 220000, 240000, 260000} do -- only with the first there is room for each
    for i = 1, 12 do text[i] = "" end
    ml.memory.limit(active + more)
    for i, result in ipairs(again:batch_generate(prompts, o)) do
      if result.error then t.eq({result.error.code, more < 300000}, {"limit", true}, tostring(result.error))
      else same(result, want[i], "prompt " .. i) end
      t.eq(text[i], result.text, "each token once")
    end
  end
  t.eq(next(again:runtime().store.slots), nil, "slots in use")
  ml.memory.limit(ml.memory.active() + 30000)
  local alone_too = again:batch_generate({{prompt = ("long "):rep(400), max_tokens = 3}}, {})
  t.eq(alone_too[1].error.code, "limit")
end)

t.test("rows that find no memory to compute their cache again fail with that", function()
  local model <close> = assert(ml.load("tests/goldens/tiny/llama", {precision = "exact"}))
  local prompts, whole = {}, 0
  for i = 1, 32 do prompts[i] = {prompt = {90, 14, 79, 59, 97, 59}, max_tokens = 4, ignore_eos = true} end
  ml.memory.reset_peak()
  model:batch_generate(prompts, {slots = 32})
  ml.memory.limit(ml.memory.peak() + 1000)
  local _ <close> = setmetatable({}, {__close = function() ml.memory.limit(0) end})
  for i = 1, 32 do prompts[i].max_tokens = 240 end
  local got = model:batch_generate(prompts, {slots = 32})
  for _, result in ipairs(got) do
    if not result.error then whole = whole + 1 else t.eq(result.error.code, "limit", tostring(result.error)) end
  end
  t.ok(whole >= 8, ("%d rows came to their end"):format(whole))
end)

t.test("a cancelled batch keeps what its rows came to", function()
  local core = require "moonlet.core"
  local batch = m:batch_generate({"one", "two", "three"}, {
    max_tokens = 12, ignore_eos = true, slots = 2, iterate = true,
    on_token = function(index, token)
      if index == 2 and token.index == 3 then core.cancel() end
    end,
  })
  t.raises(function() return batch() end, "cancelled", "cancelled")
  t.eq({batch.results[1].finish_reason, batch.results[2].finish_reason}, {"cancelled", "cancelled"})
  t.eq({#batch.results[2].ids, batch.results[3]}, {3, nil})
  t.eq(core.take_cancel(), false)
end)

t.test("chat's options, of one prompt and of all", function()
  local conversation, template = {{role = "user", content = "Hi"}}, "{{ messages[0].content }}{{ mark }}"
  local o = {max_tokens = 4, ignore_eos = true}
  local got = m:batch_generate({
    conversation, {prompt = conversation, template = template, template_vars = {mark = "!!"}},
    {prompt = "x", tools = {}},
  }, o)
  t.eq({got[1].metrics.prompt_tokens, got[2].metrics.prompt_tokens}, {#m:chat_ids(conversation, {}), 4})
  t.ok(tostring(got[3].error):find "tools", tostring(got[3].error))
  o.template = template
  t.eq(m:batch_generate({conversation}, o)[1].metrics.prompt_tokens, 2)
end)

t.test("defaults of the model's files, of one prompt and of all", function()
  m.generation_config.do_sample, m.generation_config.temperature, m.generation_config.top_k = true, 0.9, 20
  local conversation = {{role = "user", content = "Hi"}}
  local o = {seed = 4, max_tokens = 12, ignore_eos = true}
  local asked = {seed = 4, max_tokens = 12, ignore_eos = true, defaults = "model"}
  local _, want = m:complete(conversation, asked)
  same(m:batch_generate({{prompt = conversation, defaults = "model"}, conversation}, o)[1], want)
  same(m:batch_generate({conversation}, asked)[1], want)
  local got = m:batch_generate({{prompt = conversation, defaults = "mine"}}, o)[1]
  t.ok(tostring(got.error):find "defaults", tostring(got.error))
  m.generation_config = {}
end)

t.test("decode replays plans and makes nothing new", function()
  local prompts = {}
  for i = 1, 8 do prompts[i] = {prompt = ("text %d"):format(i), max_tokens = 40, ignore_eos = true} end
  m:batch_generate(prompts, {slots = 8})
  local before = ml.stats()
  m:batch_generate(prompts, {slots = 8})
  local now = ml.stats()
  t.eq({now.traces - before.traces, now.plans - before.plans}, {0, 0})
end)

m:close()
t.done()
