-- Sampling: what each step keeps, and how often each id is drawn.
local ml = require "moonlet"
local S = require "moonlet.sample"
local t = require "tests.lua.harness"

t.leak_check = ml.memory.active

local probabilities = {0.4, 0.25, 0.15, 0.1, 0.06, 0.04}
local values = {}
for i, p in ipairs(probabilities) do values[i] = math.log(p) end
local ROWS = 20000

-- `rows` independent draws of a chain on these logits: how often each id came.
local function draw(chain, logits, recent)
  local rows = {}
  for i = 1, ROWS do rows[i] = logits or values end
  local uniform = ml.random.uniform({ROWS}, {key = ml.random.key(42)})
  local other = ml.random.uniform({ROWS}, {key = ml.random.key(43)})
  local calls = 0
  local state = {uniform = function()
    calls = calls + 1
    return calls == 1 and other or uniform
  end}
  if recent then state.recent = ml.tensor({recent}):broadcast_to {ROWS, #recent} end
  local kept = chain(ml.tensor(rows, {dtype = "float32"}), state)
  local ids = chain.greedy and kept:argmax(-1) or ml.categorical(kept, uniform)
  local counts = {}
  for i = 1, #(logits or values) do counts[i] = 0 end
  for _, id in ipairs(ids:tolist()) do counts[id + 1] = counts[id + 1] + 1 end
  return counts
end

-- Pearson's statistic; ids of probability 0 must not come at all.
local function check(counts, expected, what)
  local sum, statistic, free = 0, 0, -1
  for _, p in ipairs(expected) do sum = sum + p end
  for i, p in ipairs(expected) do
    local want = p / sum * ROWS
    if p == 0 then t.eq(counts[i], 0, what .. ": id " .. i - 1)
    else
      statistic, free = statistic + (counts[i] - want) ^ 2 / want, free + 1
    end
  end
  local bound = free + 4 * math.sqrt(2 * free + 1) + 4 -- far in the tail
  t.ok(statistic <= bound, ("%s: statistic %.1f, at most %.1f"):format(what, statistic, bound))
end

local function scaled(power)
  local out = {}
  for i, p in ipairs(probabilities) do out[i] = p ^ power end
  return out
end

t.test("plain draws", function() check(draw(S.chain {}), probabilities, "plain") end)
t.test("temperature", function()
  check(draw(S.chain {S.temperature(0.5)}), scaled(2), "0.5")
  check(draw(S.chain {S.temperature(2)}), scaled(0.5), "2")
  t.eq(draw(S.chain {S.temperature(0)}), {ROWS, 0, 0, 0, 0, 0})
end)
t.test("top_k", function()
  check(draw(S.chain {S.top_k(2)}), {0.4, 0.25, 0, 0, 0, 0}, "2")
  check(draw(S.chain {S.top_k(0)}), probabilities, "0")
  check(draw(S.chain {S.top_k(99)}), probabilities, "99")
  t.eq(draw(S.chain {S.top_k(1)}), {ROWS, 0, 0, 0, 0, 0})
end)
t.test("top_p keeps what has at most p before it", function()
  check(draw(S.chain {S.top_p(0.5)}), {0.4, 0.25, 0, 0, 0, 0}, "0.5")
  check(draw(S.chain {S.top_p(0.39)}), {0.4, 0, 0, 0, 0, 0}, "0.39")
  check(draw(S.chain {S.top_p(0.7)}), {0.4, 0.25, 0.15, 0, 0, 0}, "0.7")
  check(draw(S.chain {S.top_p(0)}), {0.4, 0, 0, 0, 0, 0}, "0")
end)
t.test("min_p", function()
  check(draw(S.chain {S.min_p(0.3)}), {0.4, 0.25, 0.15, 0, 0, 0}, "0.3")
  check(draw(S.chain {S.min_p(1)}), {0.4, 0, 0, 0, 0, 0}, "1")
end)
t.test("the order of steps is the script's", function()
  local all = {0.4 ^ 0.5, 0.25 ^ 0.5, 0.15 ^ 0.5, 0.1 ^ 0.5, 0.06 ^ 0.5, 0.04 ^ 0.5}
  check(draw(S.chain {S.temperature(2), S.min_p(0.3)}), all, "temperature first")
  check(draw(S.chain {S.min_p(0.3), S.temperature(2)}), {0.4 ^ 0.5, 0.25 ^ 0.5, 0.15 ^ 0.5, 0, 0, 0}, "min_p first")
end)
t.test("xtc drops all above the threshold but the least likely", function()
  check(draw(S.chain {S.xtc(1, 0.12)}), {0, 0, 0.15, 0.1, 0.06, 0.04}, "always")
  check(draw(S.chain {S.xtc(0, 0.12)}), probabilities, "never")
  check(draw(S.chain {S.xtc(1, 0.3)}), probabilities, "one above")
  check(draw(S.chain {S.xtc(1, 0.5)}), probabilities, "none above")
  local half, rest = {}, 0.15 + 0.1 + 0.06 + 0.04
  for i, p in ipairs(probabilities) do half[i] = 0.5 * p + (i > 2 and 0.5 * p / rest or 0) end
  check(draw(S.chain {S.xtc(0.5, 0.12)}), half, "half of the time")
end)
t.test("logit_bias", function()
  check(draw(S.chain {S.logit_bias {[0] = -math.huge, [5] = math.log(2)}}), {0, 0.25, 0.15, 0.1, 0.06, 0.08}, "bias")
end)
-- Rows by numbers of their own: draws of chains of the same steps, rows of one after rows of the other.
local function draw_by_row(chains, recent)
  local n, logits = #chains, {}
  for i = 1, n * ROWS do logits[i] = values end
  local x = ml.tensor(logits, {dtype = "float32"})
  local state = {recent = ml.tensor({recent}):broadcast_to {n * ROWS, #recent}}
  for i, s in ipairs(chains[1].steps) do
    local numbers = {}
    for k, chain in ipairs(chains) do
      t.eq(chain.steps[i].name, s.name)
      numbers[k] = #s.numbers > 1 and chain.steps[i].numbers or chain.steps[i].numbers[1]
    end
    local own = ml.tensor(numbers, {dtype = "float64"})
    x = s.apply(x, state, ml.tile(own, #s.numbers > 1 and {ROWS, 1} or {ROWS}))
  end
  local ids = ml.categorical(x, ml.random.uniform({n * ROWS}, {key = ml.random.key(44)})):tolist()
  local counts = {}
  for k = 1, n do counts[k] = {0, 0, 0, 0, 0, 0} end
  for r, id in ipairs(ids) do
    local own = counts[(r - 1) % n + 1]
    own[id + 1] = own[id + 1] + 1
  end
  return counts
end
t.test("each row by its own numbers", function()
  local cases = {
    {{}, {1, 0, 0, 0, 0, 0}}, {{temperature = 1}, probabilities}, {{temperature = 0.5}, scaled(2)},
    {{temperature = 2, top_k = 2}, {0.4 ^ 0.5, 0.25 ^ 0.5, 0, 0, 0, 0}},
    {{temperature = 1, top_p = 0.7}, {0.4, 0.25, 0.15, 0, 0, 0}},
    {{temperature = 1, min_p = 0.3}, {0.4, 0.25, 0.15, 0, 0, 0}},
    {{repeat_penalty = 3}, {0, 1, 0, 0, 0, 0}},
    {{temperature = 1, repeat_penalty = 2}, {0.4 ^ 2, 0.25, 0.15, 0.1 ^ 2, 0.06, 0.04}},
    {{temperature = 1, presence_penalty = math.log(2), frequency_penalty = math.log(2)},
      {0.4 / 8, 0.25, 0.15, 0.1 / 4, 0.06, 0.04}},
  }
  local steps, chains, keys = {}, {}, {}
  for _, case in ipairs(cases) do S.note_steps(case[1], steps) end
  for k, case in ipairs(cases) do
    local key
    chains[k], key = S.from_options(case[1], steps)
    keys[key] = true
  end
  t.eq(#chains[1].steps, 6)
  t.eq(next(keys, next(keys)), nil, "one key")
  for k, counts in ipairs(draw_by_row(chains, {0, 3, 0, -1})) do check(counts, cases[k][2], "row " .. k) end
end)
t.test("numbers by row: as one row alone with each, whatever the logits are", function()
  local inf, nan = math.huge, 0 / 0
  local x = ml.tensor {{1, 2, 3, 4, 5.5}, {5, 4, 3, 2, 1}, {-inf, -inf, -inf, -inf, -inf}, {1, nan, 3, 4, nan},
    {2, 7, 7, 0, -1}, {inf, 1, inf, 2, 3}}
  local recent = ml.tensor({{0, 1, 1}, {4, 4, 4}, {0, 1, -1}, {1, 2, 3}, {-1, -1, 2}, {0, 0, 3}}, {dtype = "int32"})
  local function row(y, i) return y:slice {{i, i}, {}} end
  local function rows(numbers, all, one)
    local got = all(ml.tensor(numbers, {dtype = "float64"}))
    for i, n in ipairs(numbers) do
      t.eq(row(got, i):tobytes(), one(i, table.unpack(type(n) == "table" and n or {n})):tobytes(), i)
    end
  end
  for name, numbers in pairs {
    top_k_mask = {0, 1, 2, 3, 7, 2}, top_p_mask = {0, 0.3, 0.5, 0.9, 1, 0.7}, min_p_mask = {0, 0.3, 0.5, 0.9, 1, 0.7},
    temperature = {1, 0.7, 2, 0.5, 1e-30, 1.3},
  } do
    rows(numbers, function(by_row) return ml[name](x, 1, by_row) end, function(i, n) return ml[name](row(x, i), n) end)
  end
  rows({{1, 0, 0}, {2, 0.5, 0.25}, {1.3, 0, 1}, {1, inf, 0}, {0.5, 0, 0}, {3, 1, 1}},
    function(by_row) return ml.repeat_penalty(x, recent, {by_row = by_row}) end,
    function(i, ...) return ml.repeat_penalty(row(x, i), row(recent, i), ...) end)
  local likeliest = ml.temperature(x, 1, ml.tensor({0, 0, 1e-39, 0, 0, 0}, {dtype = "float64"}))
  t.eq(likeliest:argmax(-1):tolist(), {4, 0, 0, 1, 1, 0})
  t.eq(likeliest:ne(-inf):sum(-1):tolist(), {1, 1, 0, 1, 1, 1})
  t.raises(function() return ml.top_k_mask(x, 0, ml.zeros {6}) end, "top_k_mask: by_row: expected float64", "usage")
  t.raises(function() return ml.top_k_mask(x, 0, ml.zeros({2}, {dtype = "float64"})) end,
    "by_row: expected shape %(6%), found %(2%)", "mismatch")
end)
t.test("penalties", function()
  local logits = {2.0, -1.0, 0.5, 0.0}
  local function after(chain, recent)
    return chain(ml.tensor({logits}), {recent = ml.tensor {recent}})[1]
  end
  t.close(after(S.chain {S.repeat_penalty(2)}, {0, 1, 0, -1}), {1.0, -2.0, 0.5, 0.0}, 1e-6)
  t.close(after(S.chain {S.presence(0.5, 0.25)}, {0, 2, 0, -1}), {1.0, -1.0, -0.25, 0.0}, 1e-6)
end)
t.test("equal logits: greedy takes the first", function()
  t.eq(draw(S.chain {S.greedy()}, {1, 3, 3, 2, 3, 0}), {0, ROWS, 0, 0, 0, 0})
end)
t.test("chains in chains, callable tables, and what is no step", function()
  local inner = S.chain {S.top_k(3), S.temperature(0)}
  local outer = S.chain {S.top_p(0.9), inner}
  t.eq({outer.greedy, outer.custom, outer.last_n}, {true, false, 1})
  local own = S.chain {setmetatable({}, {__call = function(_, x) return x end}), last_n = 7}
  t.eq({own.greedy, own.custom, own.last_n}, {false, true, 7})
  t.raises(function() S.chain {5} end, "chain: step 1: expected a function or a step, found 5", "usage")
  t.raises(function() S.top_p(2) end, "top_p", "usage")
end)

-- ---- through a model ----

t.test("repeat penalties see the prompt and what was generated, in their window", function()
  local m <close> = assert(ml.load("tests/goldens/tiny/qwen3", {precision = "exact"}))
  local function penalised(ids, n) -- the greedy ids worked out by hand
    local out = {}
    for _ = 1, 8 do
      local row = m:logits(ids)[1][#ids]:tolist()
      for p = math.max(1, #ids - n + 1), #ids do row[ids[p] + 1] = -1e9 end
      local best = 1
      for i, v in ipairs(row) do if v > row[best] then best = i end end
      out[#out + 1], ids[#ids + 1] = best - 1, best - 1
    end
    return out
  end
  local prompt = {3, 48, 85, 47, 20}
  for _, n in ipairs {2, 4, 64} do
    local _, r = m:complete(prompt, {max_tokens = 8, ignore_eos = true, presence_penalty = 1e9, repeat_last_n = n})
    t.eq(r.ids, penalised(table.move(prompt, 1, 5, 1, {}), n), "window " .. n)
  end
end)

t.test("a window beyond the context is the context", function()
  local m <close> = assert(ml.load("tests/goldens/tiny/qwen3", {precision = "exact", max_context = 24}))
  local prompt, far = {3, 48, 85, 47, 20}, 1 << 40
  local function ids(opts)
    opts.max_tokens, opts.ignore_eos = 40, true
    local before = ml.memory.active()
    local _, r = m:complete(prompt, opts)
    t.ok(ml.memory.active() - before < 1 << 20, "no ring beyond the context")
    return r.ids
  end
  local want = ids {presence_penalty = 1e9, repeat_last_n = 24}
  t.eq(#want, 20)
  t.eq(ids {presence_penalty = 1e9, repeat_last_n = far}, want)
  t.eq(ids {sampler = S.chain {S.presence(1e9, 0, far), S.greedy()}}, want)
  t.eq(ids {repeat_penalty = 1.5, repeat_last_n = far}, ids {repeat_penalty = 1.5, repeat_last_n = 24})
  t.eq(ids {sampler = S.chain {S.repeat_penalty(1.5, far), S.greedy()}}, ids {repeat_penalty = 1.5, repeat_last_n = 24})
  local seen = {}
  local function look(logits, state)
    seen[#seen + 1] = state.recent.shape[2]
    return logits
  end
  ids {sampler = S.chain {last_n = far, look, S.traced(look), S.greedy()}}
  for _, n in ipairs(seen) do t.eq(n, 24) end
  t.eq(#seen, 21) -- recorded once
end)

t.test("a step that looks at values gives what a recorded one gives", function()
  local m <close> = assert(ml.load("tests/goldens/tiny/qwen3", {precision = "exact"}))
  local function ids(...)
    local opts = {max_tokens = 12, seed = 5, ignore_eos = true, sampler = S.chain {...}}
    return select(2, m:complete({1, 2, 3}, opts)).ids
  end
  local looked = 0
  local function look(logits, state)
    looked = looked + (state.recent:tolist()[1][1] and 1 or 0)
    return logits
  end
  local want = ids(S.repeat_penalty(1.3, 8), S.xtc(0.5, 0.01), S.top_k(20), S.temperature(0.8))
  t.eq(ids(S.repeat_penalty(1.3, 8), S.xtc(0.5, 0.01), S.top_k(20), S.temperature(0.8), look), want)
  t.ok(looked >= 12, "it ran for each token")
end)

t.done()
