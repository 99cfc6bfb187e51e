-- Sampling through a model whose logits are known: what cannot be chosen from, functions of the user's own, options
-- that do nothing, log probabilities.
local ml = require "moonlet"
local S = require "moonlet.sample"
local bytes = require "tests.lua.byte_model"
local tiny = require "tests.tiny"
local t = require "tests.lua.harness"

t.leak_check = ml.memory.active

local inf, nan = math.huge, 0 / 0
local V = 258

-- ---- models of which every row of logits is known ----

-- The logits behind a byte are what `rows` says, one value or a list by ids; elsewhere the next byte is the
-- likeliest, and each one behind it less so.
local function bigrams(name, rows)
  local path = bytes.make("sampler-" .. name)
  tiny.write(path .. "/config.json", (tiny.read(path .. "/config.json"):gsub('("num_hidden_layers": )2', "%11")))
  tiny.write(path .. "/family.lua", [[
    local nn = require "moonlet.nn"
    local Bigrams = nn.model "qwen3"
    function Bigrams:init(c) self.rows = nn.Embedding(c.vocab_size, c.vocab_size) end
    function Bigrams:forward(tokens) return self.rows(tokens) end
    Bigrams.hidden = Bigrams.forward
    return Bigrams
  ]])
  local values = {}
  for i = 1, V do
    local row, given = {}, rows[i - 1]
    for k = 1, V do row[k] = type(given) == "number" and given or -((k - i - 1) % V) / 4 end
    for id, v in pairs(type(given) == "table" and given or {}) do row[id + 1] = v end
    values[i] = row
  end
  assert(ml.save_safetensors(path .. "/model.safetensors", {
    ["rows.weight"] = ml.tensor(values, {dtype = "float32"}),
  }))
  return function(dtype)
    return assert(ml.load(path, {family = path .. "/family.lua", precision = "exact", dtype = dtype}))
  end, path
end

local function id(letter) return letter:byte() end
local load = bigrams("model", {
  [id "N"] = nan, [id "Z"] = -inf, [id "C"] = {[0] = nan}, -- NaN alone; nothing; one NaN
  [id "E"] = {[0] = inf, [7] = inf, [200] = inf}, -- several certain ones
  [id "x"] = {[id "N"] = 60}, [id "y"] = {[id "Z"] = 60}, -- on the way to those
})

local load_plain, plain_path = bigrams("plain", {})

-- Chains of every kind, as options.
local kinds = {
  greedy = {}, temperature = {temperature = 0.7, seed = 1}, ["temperature 1"] = {temperature = 1, seed = 1},
  ["a tiny temperature"] = {temperature = 1e-38}, ["a small temperature"] = {temperature = 1e-30},
  ["every option"] = {
    temperature = 0.9, top_k = 20, top_p = 0.9, min_p = 0.01, xtc_probability = 1, xtc_threshold = 0.2,
    repeat_penalty = 1.2, presence_penalty = 0.1, frequency_penalty = 0.1, logit_bias = {[9] = 1.0}, seed = 3,
  },
  top_k = {temperature = 1, top_k = 3, seed = 1}, ["top_p"] = {temperature = 1, top_p = 0.5, seed = 1},
  min_p = {temperature = 1, min_p = 0.5, seed = 1}, logprobs = {logprobs = 3},
  ["an infinite bias"] = {logit_bias = {[9] = -inf}},
  ["greedy in the middle"] = {sampler = S.chain {S.greedy(), S.top_p(0.9)}},
  ["a traced function"] = {sampler = S.traced(function(logits) return logits * 2 end)},
  ["a traced function that gives ids"] = {sampler = S.traced(function(logits) return logits:argmax(-1) end)},
  ["a traced function that hides it"] = {sampler = S.traced(function(logits) return logits:nan_to_num() end)},
  ["a function"] = {sampler = function(logits) return logits end},
  ["a function that gives an id"] = {sampler = function() return 65 end},
  ["a function that gives ids"] = {sampler = function(logits) return logits:argmax(-1) end},
  ["a function behind steps"] = {sampler = S.chain {S.top_k(3), function(logits) return logits end, S.greedy()}},
}

-- ---- what cannot be chosen from ----

for kind, opts in pairs(kinds) do
  t.test("NaN and nothing but -inf from the model are errors: " .. kind, function()
    local m <close> = load()
    local function fails(prompt, pattern, count)
      local all = {max_tokens = 8, ignore_eos = true}
      for k, v in pairs(opts) do all[k] = v end
      local g = m:generate(prompt, all)
      local got = {}
      t.raises(function() for tok in g do got[#got + 1] = tok.id end end, pattern, "corrupt")
      t.eq({#got, g.finish_reason, g.metrics.finish_reason, g()}, {count, "error", "error"}, prompt)
      t.eq({#g.ids, g.metrics.generated_tokens}, {count, count})
    end
    fails("N", "258 of 258 are NaN, behind 1 token$", 0)
    fails("xxZ", "all 258 are %-inf, behind 3 tokens", 0)
    fails("C", "1 of 258 are NaN, behind 1 token$", 0)
    if kind ~= "a function that gives an id" then
      fails("x", "258 of 258 are NaN, behind 2 tokens", 1)
      fails("aay", "all 258 are %-inf, behind 4 tokens", 1)
    end
    t.eq((m:complete("a", {max_tokens = 3})), "bcd")
  end)
end

t.test("they are errors by every door", function()
  local m <close> = load()
  local function check(what, g)
    t.raises(function() while g() do end end, "behind %d+ tokens?", "corrupt") -- luacheck: ignore 542
    t.eq({g.finish_reason, m.metrics.finish_reason}, {"error", "error"}, what)
  end
  t.raises(function() m:complete("x") end, "are NaN", "corrupt")
  t.eq(m.metrics.finish_reason, "error")
  check("chat", (m:chat({{role = "user", content = "hm"}}, {sampler = S.chain {S.logit_bias {[id "N"] = inf}}})))
  local s <close> = m:session()
  check("session:generate", (s:generate("aaax")))
  check("session:send", (s:send("hm", {logit_bias = {[id "N"] = inf}})))
  check("a bias without end", (m:generate("aZ", {logit_bias = {[7] = inf}})))
  check("with a temperature", (m:generate("aZ", {logit_bias = {[7] = inf}, temperature = 1, seed = 1})))
  check("in a chain", (m:generate("aZ", {sampler = S.chain {S.logit_bias {[7] = inf}, S.greedy()}})))
  check("beside a NaN", (m:generate("aC", {logit_bias = {[7] = inf}})))
  check("with a traced function", (m:generate("aZ", {sampler = S.traced(function(x) return x:argmax(-1) * 0 end)})))
  for _, text in ipairs {"aNb", "aZb", "aCb"} do
    t.raises(function() m:perplexity(text) end, "the model gives no probabilities.*behind 2 tokens", "corrupt")
  end
  for _, more in ipairs {"dNe", "dZe", "dCe"} do
    t.raises(function() m:score("ab", {"c", more}) end,
      "score: continuation 2: the model gives no probabilities: .* hold a NaN, or nothing but %-inf$", "corrupt")
  end
  t.raises(function() m:embed({"ab", "aN"}, {pooling = "last"}) end, "embed: text 2: .*no vector: it holds a NaN$",
    "corrupt")
  t.eq({#s.messages, s.length}, {0, 0})
  t.eq((s:generate("ab", {max_tokens = 2}):complete()), "cd")
  t.eq(s.length, 4)
end)

t.test("what was computed in float16 is an error that says so", function()
  local m <close> = load "float16"
  local why = ": it was computed in float16, whose largest number is 65504; float32 and bfloat16 have room for more$"
  for _, fn in ipairs {
    function() m:complete "aN" end, function() m:perplexity "aNb" end, function() m:score("a", {"Nb"}) end,
    function() m:classify {"aN"} end, function() m:embed {"aN"} end,
  } do t.raises(fn, why, "corrupt") end
end)

for name, opts in pairs {
  fast = {quantize = {bits = 8}, precision = "fast"}, exact = {quantize = {bits = 8}, precision = "exact"},
  ["fast, 4 bits"] = {quantize = {bits = 4}, precision = "fast"},
} do
  t.test("NaN inside a quantised model is found: " .. name, function()
    local path = bytes.make "sampler-quantised"
    tiny.write(path .. "/family.lua", [[
      local nn, ml = require "moonlet.nn", require "moonlet"
      local Odd = nn.model "qwen3"
      function Odd:init(c)
        self.embed, self.head = nn.Embedding(c.vocab_size, c.hidden_size), nn.Linear(c.hidden_size, c.vocab_size)
      end
      function Odd:forward(tokens) -- one NaN behind the byte N
        local at = ml.logical_and(tokens:eq(78):expand_dims(-1), ml.arange(32):eq(5))
        return self.head(ml.where(at, 0 / 0, self.embed(tokens)))
      end
      return Odd
    ]])
    opts.family, opts.random = path .. "/family.lua", 5
    local odd <close> = assert(ml.load(path, opts))
    local to_n = {[id "N"] = inf}
    for _, more in ipairs {
      {logit_bias = to_n}, {logit_bias = to_n, temperature = 1, top_p = 0.9},
      {sampler = S.chain {S.logit_bias(to_n), function(logits) return logits end}},
    } do
      more.ignore_eos = true
      local g = odd:generate("a", more)
      t.eq(g().id, id "N")
      t.raises(g, "258 of 258 are NaN, behind 2 tokens", "corrupt")
      t.raises(function() odd:complete("N", more) end, "258 of 258 are NaN, behind 1 token$", "corrupt")
    end
  end)
end

t.test("a sampler that leaves nothing is an error that says so", function()
  local m <close> = load()
  local none = {}
  for i = 0, V - 1 do none[i] = -inf end
  local pattern = "the sampler left nothing to choose from, behind 2 tokens: all of the logits are %-inf, or one is NaN"
  for what, opts in pairs {
    bias = {logit_bias = none}, ["bias, sampled"] = {logit_bias = none, temperature = 1},
    traced = {sampler = S.traced(function(logits) return logits - inf end)},
    ["traced, NaN"] = {sampler = S.traced(function(logits) return logits * nan end)},
    ["in Lua"] = {sampler = function(logits) return logits - inf end},
    ["in Lua, one NaN, greedy"] = {
      sampler = S.chain {function(logits) return ml.where(ml.arange(V):eq(3), nan, logits) end, S.greedy()},
    },
    ["in Lua, then top_k"] = {sampler = S.chain {function(logits) return logits * nan end, S.top_k(3)}},
  } do
    local g = m:generate("ab", opts)
    t.raises(g, pattern, "usage")
    t.eq({g.finish_reason, g()}, {"error"}, what)
  end
  for _, wrap in ipairs {S.traced, function(fn) return fn end} do
    local at = 0
    local g = m:generate("ab", {sampler = S.chain {S.logit_bias {[5] = -inf}, wrap(function(logits)
      at = at + 1
      return ml.where(ml.arange(V):eq(id "d"):logical_not(), logits, -inf)
    end), S.top_k(1)}})
    t.eq(g().id, id "c")
    t.eq(g().id, id "e") -- d is banned
    g:close()
  end
end)

-- ---- what is certain, and what is cold ----

t.test("logits and biases of +inf: one of them, evenly", function()
  local m <close> = load()
  local function count(prompt, opts)
    local counts = {}
    opts.max_tokens, opts.ignore_eos = 1, true
    for seed = 1, 300 do
      opts.seed = seed
      local _, r = m:complete(prompt, opts)
      counts[r.ids[1]] = (counts[r.ids[1]] or 0) + 1
    end
    return counts
  end
  for what, opts in pairs {
    plain = {}, cold = {temperature = 0.01}, hot = {temperature = 1e30}, top_k = {top_k = 2}, top_p = {top_p = 0.7},
    min_p = {min_p = 1}, xtc = {xtc_probability = 1, xtc_threshold = 0.2}, penalty = {repeat_penalty = 1e30},
    banned = {logit_bias = {[id "f"] = 30}},
  } do
    opts.temperature = opts.temperature or 1
    local counts = count("E", opts)
    t.eq(counts[0] + counts[7] + counts[200], 300, what)
    for _, certain in ipairs {0, 7, 200} do t.ok(math.abs(counts[certain] - 100) < 40, what) end
  end
  local counts = count("a", {temperature = 1, logit_bias = {[100] = inf, [3] = inf, [5] = 1e300, [6] = 1e30}})
  t.eq(counts[100] + counts[3] + counts[5], 300)
  for _, certain in ipairs {3, 5, 100} do t.ok(math.abs(counts[certain] - 100) < 40) end
  t.eq(count("E", {temperature = 1, logit_bias = {[0] = -inf, [7] = -inf}}), {[200] = 300})
  t.eq(count("E", {logit_bias = {[0] = -inf}}), {[7] = 300})
  t.eq(count("E", {temperature = 1, top_p = 0}), {[0] = 300}) -- the first, as without a temperature
  t.eq(count("E", {temperature = 1, top_p = 0.5, logit_bias = {[0] = -inf}})[0], nil)
  for _, temperature in ipairs {0, 1e-38, 0.5, 1, 1e30, inf} do
    t.eq(count("a", {temperature = temperature, logit_bias = {[100] = inf}}), {[100] = 300})
    t.eq(count("a", {temperature = temperature, presence_penalty = 1, logit_bias = {[100] = inf}}), {[100] = 300})
  end
end)

t.test("a tiny temperature gives what greedy gives, at any size of the logits", function()
  local wide = {}
  for i = 0, 255 do wide[i] = {} end
  for i = 0, 255 do
    for k = 0, 255 do wide[i][k] = math.sin(i * 7 + k * 13) * 10.0 ^ (i % 39) end
  end
  local m <close> = bigrams("wide", wide)()
  for _, prompt in ipairs {"a", "b", "~", "!", "K"} do
    local opts = {max_tokens = 12, ignore_eos = true}
    local _, greedy = m:complete(prompt, opts)
    for _, temperature in ipairs {1e-320, 1e-60, 1e-46, 1e-45, 1e-39, 1e-38, 1e-37, 1e-30, 1e-20} do
      opts.temperature = temperature
      t.eq(select(2, m:complete(prompt, opts)).ids, greedy.ids, "temperature " .. temperature)
      local chain = S.chain {S.temperature(temperature), S.top_k(50), S.top_p(0.99), S.min_p(0.01)}
      t.eq(select(2, m:complete(prompt, {max_tokens = 12, ignore_eos = true, sampler = chain})).ids, greedy.ids)
    end
  end
end)

-- ---- functions of one's own ----

t.test("a function of one's own runs exactly once for every token, with values", function()
  local m <close> = load()
  local seen = {}
  local function look(logits, state)
    local u = state.uniform()
    seen[#seen + 1] = {
      logits.shape, logits.dtype, logits:argmax(-1):item(), state.ids, state.recent:tolist(), state.recent.dtype,
      u.shape, u:item() >= 0 and u:item() < 1, u:item() ~= state.uniform():item(),
    }
    return logits * 2 -- tensor operations, which were recorded once
  end
  local function want(ids, recent)
    return {{1, V}, "float32", ids[#ids] + 1, ids, {recent}, "int32", {1}, true, true}
  end
  local prompt = {97, 98}
  local _, r = m:complete(prompt, {max_tokens = 8, sampler = S.chain {look, S.greedy(), last_n = 4}})
  t.eq(#r.ids, 8)
  t.eq(#seen, 8)
  t.eq(seen[1], want({97, 98}, {-1, -1, 97, 98}))
  t.eq(seen[3], want({97, 98, 99, 100}, {97, 98, 99, 100}))
  t.eq(seen[8], want({97, 98, 99, 100, 101, 102, 103, 104, 105}, {102, 103, 104, 105}))
  seen = {}
  m:complete("a", {max_tokens = 2, sampler = look})
  t.eq(#seen[1][5][1], 64)
  t.eq({#seen, seen[2][5][1][64], seen[2][5][1][62]}, {2, seen[2][4][2], -1})
end)

t.test("its counters and schedules go on, it may keep tensors, and change what it was given", function()
  local m <close> = load_plain()
  local n, before = 0, nil
  local function step(logits, state)
    n = n + 1
    local changed = before ~= nil and not before:eq(logits):all():item()
    before = ml.keep(logits)
    state.ids[1] = 9999
    local bias = {}
    for i = 1, V do bias[i] = i - 1 == 65 + n and 100.0 or 0.0 end
    return changed == (n > 1) and logits + ml.tensor {bias}
  end
  t.eq((m:complete("a", {max_tokens = 5, sampler = step})), "BCDEF")
  n, before = 0, nil
  local s <close> = m:session()
  t.eq((s:generate("ab", {max_tokens = 3, sampler = step}):complete()), "BCD")
  t.eq(s.tokens, {97, 98, 66, 67, 68})
  local past
  s:generate("e", {max_tokens = 1, sampler = function(_, state)
    past = state.ids
    return 65
  end}):complete()
  t.eq(past, {97, 98, 66, 67, 68, 101})
end)

t.test("the order written holds, whatever stands beside a function", function()
  local m <close> = load_plain()
  local kept = {}
  local function look(logits)
    kept[#kept + 1] = logits:gt(-inf):sum():item()
    return logits
  end
  local function with(...)
    kept = {}
    local _, r = m:complete("k", {max_tokens = 2, seed = 4, sampler = S.chain {...}})
    t.eq(#r.ids, 2)
    return r.ids, kept
  end
  t.eq({select(2, with(S.top_k(5), look, S.top_k(2), look, S.temperature(0.5)))}, {{5, 2, 5, 2}})
  t.eq({select(2, with(look, S.top_k(5), S.traced(function(x) return x end), look))}, {{V, 5, V, 5}})
  t.eq({select(2, with(look, S.temperature(0), look, S.top_k(5)))}, {{V, 1, V, 1}})
  t.eq({select(2, with(look, S.chain {S.top_k(3), look}, S.greedy()))}, {{V, 3, V, 3}})
  -- the same numbers are drawn whether it runs in Lua or not
  local function random(logits, state) return logits * (state.uniform() + 0.5):reshape {1, 1} end
  local steps = {S.repeat_penalty(1.3, 3), S.xtc(0.5, 0.01), S.top_k(20)}
  local function ids(fn, where)
    local list = {table.unpack(steps)}
    table.insert(list, where, fn)
    return select(2, m:complete("k", {max_tokens = 12, seed = 8, ignore_eos = true, sampler = S.chain(list)})).ids
  end
  for where = 1, 4 do t.eq(ids(random, where), ids(S.traced(random), where)) end
end)

t.test("a traced function is recorded once, and its recent ids are in order", function()
  local m <close> = load_plain()
  local n, shapes = 0, nil
  local function newest(logits, state) -- bans the newest id but one, and all that were not among the last three
    n = n + 1
    shapes = {logits.shape, state.recent.shape, state.uniform().shape}
    local before = state.recent:slice {{}, {-2, -2}}
    return ml.where(ml.arange(V):eq(before + 5), 50.0, logits)
  end
  for _, last_n in ipairs {2, 3, 5, 64} do
    n = 0
    local chain = S.chain {S.repeat_penalty(1.0001, 7), S.traced(newest), S.greedy(), last_n = last_n}
    local _, r = m:complete({97, 107}, {max_tokens = 12, sampler = chain})
    t.eq({n, #r.ids}, {1, 12})
    t.eq(shapes, {{1, V}, {1, last_n}, {1}})
    local want = {97, 107}
    for i = 3, 14 do want[i] = want[i - 2] + 5 end
    t.eq(r.ids, table.move(want, 3, 14, 1, {}), "last_n " .. last_n)
    t.eq(select(2, m:complete({97, 107}, {max_tokens = 12, sampler = chain})).ids, r.ids)
    t.eq(n, 1)
  end
  local mixed = 0 -- beside a function that runs in Lua too
  n = 0
  local _, r = m:complete({97, 107}, {max_tokens = 6, sampler = S.chain {S.traced(newest), function(logits)
    mixed = mixed + 1
    return logits
  end, S.greedy(), last_n = 4}})
  t.eq({n, mixed, r.ids}, {1, 6, {102, 112, 107, 117, 112, 122}})
end)

t.test("samplers made anew for each call are told apart", function()
  local m <close> = load_plain()
  local function ids(i)
    local function always(logits) return logits:argmax(-1) * 0 + i end
    local sampler = i % 3 == 0 and always or i % 3 == 1 and S.traced(always) or S.chain {S.traced(always)}
    return select(2, m:complete("a", {max_tokens = 2, sampler = sampler})).ids
  end
  for i = 1, 60 do
    t.eq(ids(i), {i, i})
    collectgarbage()
  end
end)

t.test("what a traced function cannot do is an error that says so", function()
  local m <close> = load_plain()
  local function refused(pattern, fn, ...)
    local chain = S.chain {S.top_k(9), S.traced(fn), ...}
    local g = m:generate("ab", {sampler = chain})
    local err = t.raises(g, pattern, "usage")
    t.eq(g.finish_reason, "error")
    return tostring(err)
  end
  for _, more in ipairs {{}, {function(logits) return logits end}} do
    local err = refused("S.traced: .*a value is read while a plan is recorded.*without S.traced", function(logits)
      return logits:max():item() > 0 and logits or logits * 2
    end, more[1])
    t.ok(err:find "test_sampler.lua:%d+", "it names the line: " .. err)
    refused("a value is read while", function(logits, state) return state.recent:tolist() and logits end, more[1])
    refused("state.ids: a function given to S.traced", function(logits, state) return state.ids and logits end, more[1])
    refused("S.traced: the function yields", function(logits) return coroutine.yield(logits) end, more[1])
  end
  refused("sampler: expected logits %(1, 258%) or integer ids %(1%), found 65", function() return 65 end)
  refused("sampler: expected logits %(1, 258%), found a tensor %(1%), int32",
    function(logits) return logits:argmax(-1) end, S.top_k(2))
  refused("sampler: an id: expected an integer from 0 to 257, found 300",
    function(logits) return logits:argmax(-1) * 0 + 300 end)
  for _, none in ipairs {-1, -2} do
    refused("sampler: an id: expected an integer from 0 to 257, found %" .. none,
      function(logits) return logits:argmax(-1) * 0 + none end)
  end
  refused("the sampler left nothing", function(logits) return logits * 0 - inf end)
  t.raises(function() S.traced(5) end, "traced: expected a function, found 5", "usage")
  local g = m:generate("ab", {sampler = S.chain {function(logits) return logits:argmax(-1) end, S.top_k(2)}})
  t.raises(g, "sampler: expected logits %(1, 258%), found a tensor %(1%)", "usage")
  t.raises(m:generate("ab", {sampler = function() end}), "found nothing", "usage")
  t.eq((m:complete("ab", {max_tokens = 2})), "cd")
end)

t.test("a chain says what runs in Lua, and knows its options", function()
  t.raises(function() S.chain {S.top_k(3), lastn = 4} end, 'chain: no option "lastn"', "usage")
  t.raises(function() S.chain {S.top_k(3), last_n = 0} end, "chain: last_n: expected an integer from 1", "usage")
  t.eq(tostring(S.chain {S.top_k(3), function() end, S.traced(function() end), S.greedy()}),
    "chain: top_k, function (in Lua, for every token), traced function, greedy")
end)

-- ---- options ----

t.test("top_p = 0 is the likeliest; 0 of top_k and min_p and 1 of top_p change nothing", function()
  local m <close> = load_plain()
  local function ids(opts)
    opts.seed, opts.max_tokens, opts.ignore_eos = 9, 20, true
    return select(2, m:complete("k", opts)).ids
  end
  local greedy, sampled = ids {}, ids {temperature = 3}
  t.ok(ml.json.encode(greedy) ~= ml.json.encode(sampled))
  t.eq(ids {temperature = 3, top_p = 0}, greedy)
  t.eq(ids {sampler = S.chain {S.top_p(0), S.temperature(3)}}, greedy)
  t.eq(ids {temperature = 3, top_p = 1}, sampled)
  t.eq(ids {temperature = 3, top_k = 0, min_p = 0, top_p = 1, xtc_probability = 0}, sampled)
  t.eq(ids {sampler = S.chain {S.top_k(0), S.top_p(1), S.min_p(0), S.temperature(3)}}, sampled)
  t.eq(ids {sampler = S.from_options {temperature = 3, top_p = 0}}, greedy)
  t.eq(ids {sampler = S.chain {S.temperature(0), S.top_p(0.9), S.temperature(3)}}, greedy)
end)

t.test("metrics.warnings names what does nothing without a temperature", function()
  local m <close> = load_plain()
  local function warnings(opts)
    opts.max_tokens = 1
    local _, r = m:complete("a", opts)
    t.eq(m.metrics.warnings, r.metrics.warnings)
    return r.metrics.warnings
  end
  local says = " nothing without a temperature: the likeliest token is taken"
  t.eq(warnings {top_k = 5}, {"top_k does" .. says})
  t.eq(warnings {top_k = 5, top_p = 0.5, min_p = 0.1, xtc_probability = 0.5, temperature = 0},
    {"top_p, top_k, min_p, xtc_probability do" .. says})
  t.eq(warnings {top_p = 0, temperature = 1e-39}, {"top_p does" .. says})
  for _, opts in ipairs {
    {}, {top_k = 0, top_p = 1, min_p = 0}, {temperature = 1, top_k = 5}, {seed = 3, repeat_penalty = 1.1},
    {sampler = S.top_k(3)}, {sampler = S.greedy()},
  } do t.eq(warnings(opts), nil) end
end)

t.test("moonlet generate prints them on stderr", function()
  local binary, path = (os.getenv "BUILD" or "build") .. "/moonlet", plain_path
  local function run(more)
    local command = ("%s generate -m %s --family %s/family.lua -p ab -n 2 %s 2>%s/stderr"):format(binary, path, path,
      more, path)
    local pipe <close> = assert(io.popen(command))
    return pipe:read "a", tiny.read(path .. "/stderr")
  end
  local says = "\nwarning: top_k does nothing without a temperature: the likeliest token is taken\n"
  local text, err = run "--top-k 5"
  t.eq(text, "cd\n")
  t.ok(err:find(says, 1, true), err)
  t.ok(not select(2, run "--top-k 5 --temp 1"):find "top_k")
  t.eq(select(2, run "-q --top-k 5"), "")
  t.ok(run("--top-k 5 --json"):find('"warnings":%s*%["top_k does nothing'))
end)

t.test("beside logits of +inf the others have no probability, and these share alike", function()
  local m <close> = load()
  local g = m:generate("E", {max_tokens = 1, logprobs = 4})
  local tok = g()
  t.eq(tok.id, 0)
  t.close(tok.logprob, -math.log(3), 1e-6)
  for i, entry in ipairs(tok.top_logprobs) do
    t.close(entry.logprob, i <= 3 and -math.log(3) or -inf, 1e-6)
  end
  t.close(m:perplexity({id "E", 7}).nll, math.log(3), 1e-6)
  t.eq(m:perplexity({id "E", 8}).nll, inf)
end)

t.test("options that mean nothing are refused by name", function()
  local m <close> = load_plain()
  local function refused(pattern, opts)
    t.raises(function() m:complete("ab", opts) end, pattern, "usage")
    t.raises(function() m:chat({{role = "user", content = "x"}}, opts) end, pattern, "usage")
  end
  refused("stop: expected a string or a list of strings, found the name \"a\" in it", {stop = {a = "x"}})
  refused("stop: expected .*, found the key 3 in it", {stop = {"x", [3] = "y"}})
  refused("stop_tokens: expected a token id or a list of them, found the name \"n\" in it", {stop_tokens = {1, n = 2}})
  refused("stop_tokens: expected a token id or a list of them, found %-5", {stop_tokens = {-5}})
  refused("stop_tokens: expected a token id or a list of them, found \"5\"", {stop_tokens = {"5"}})
  refused("stop_tokens: an id: expected an integer from 0 to 257, found 258", {stop_tokens = {5, 258}})
  refused("stop_tokens: an id: expected an integer from 0 to 257, found 99999", {stop_tokens = 99999})
  t.raises(function() S.from_options {temprature = 1} end, 'from_options: no option "temprature"', "usage")
  t.raises(function() S.from_options {max_tokens = 1} end, 'from_options: no option "max_tokens"', "usage")
  t.eq(tostring(S.from_options {temperature = 1, top_k = 3}), "chain: top_k")
  t.eq(tostring(S.from_options()), "chain: greedy")
end)

t.test("complete returns the log probabilities that it was asked for", function()
  local m <close> = load_plain()
  for _, more in ipairs {{}, {temperature = 2, seed = 1, top_k = 3}, {sampler = function() return 101 end}} do
    local opts = {max_tokens = 5, logprobs = 2}
    for k, v in pairs(more) do opts[k] = v end
    local want = {}
    for tok in m:generate("ab", opts) do
      want[#want + 1] = {id = tok.id, logprob = tok.logprob, top_logprobs = tok.top_logprobs}
    end
    local _, r = m:complete("ab", opts)
    t.eq({#r.logprobs, #r.ids, #r.logprobs[1].top_logprobs}, {5, 5, 2})
    t.eq(r.logprobs, want)
    local own = m:logits({97, 98})[1][2]:log_softmax():tolist() -- the model's own
    t.close(r.logprobs[1].logprob, own[r.ids[1] + 1], 1e-5)
  end
  t.eq(select(2, m:complete("ab", {max_tokens = 2})).logprobs, nil)
  t.eq(#select(2, m:complete({{role = "user", content = "x"}}, {max_tokens = 2, logprobs = 0})).logprobs, 2)
  local _, r = m:complete("ab", {max_tokens = 9, logprobs = 1, stop_tokens = {id "f"}}) -- an end token is no token
  t.eq({r.text, #r.logprobs, r.logprobs[3].id}, {"cde", 3, id "e"})
  local s <close> = m:session()
  _, r = s:generate("ab", {max_tokens = 3, logprobs = 1}):complete()
  t.eq(#r.logprobs, 3)
  local g = m:generate("ab", {max_tokens = 4, logprobs = 1})
  g()
  _, r = g:complete()
  t.eq({#r.logprobs, r.logprobs[1].id}, {4, id "c"})
end)

t.done()
