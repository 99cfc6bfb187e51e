-- samplers.lua: each sampler draws by its definition beside rows of other parameters: chi-squared, 20,000 draws (DRAWS)
--
-- The model's logits are the same behind every token, so that an id's probability follows from the options and the ids
-- before it; here it is computed in plain Lua, in float64. Prompts of all cases take turns in 32 rows, two of each, so
-- that rows which draw the same numbers are found. Draws of one distribution have a table of counts; those of rare ones
-- share one. Ids of probability 0 never come.
--
--   SEED=1 DRAWS=20000 SLOTS=32 make check-samplers

local ml = require "moonlet"
local S = require "moonlet.sample"
local bytes = require "tests.lua.byte_model"
local t = require "tests.lua.harness"
local tiny = require "tests.tiny"

local DRAWS = math.tointeger(tonumber(os.getenv "DRAWS" or 20000))
local SEED = math.tointeger(tonumber(os.getenv "SEED" or 1))
local SLOTS = math.tointeger(tonumber(os.getenv "SLOTS" or 32))
local TOKENS = 100 -- a prompt
local OWN_TABLE = 500 -- draws of a distribution that has a table of its own
local LEAST = 5 -- expected draws of a cell; ids that are rarer share one
local MOST_Z = 4.5 -- a statistic so far from its mean comes once in 300,000

local V, PROMPT = 258, {5, 9, 5}

-- ---- the model ----

local logits = {} -- by id + 1; some are negative
for id = 0, V - 1 do
  local rank = (id * 101 + 7) % V + 1
  logits[id + 1] = string.unpack("f", string.pack("f", 4 - 1.2 * math.log(rank))) -- as float32
end

local function make_model()
  local path = bytes.make "samplers"
  tiny.write(path .. "/config.json", (tiny.read(path .. "/config.json"):gsub('("num_hidden_layers": )2', "%11")))
  tiny.write(path .. "/family.lua", [[
    local nn = require "moonlet.nn"
    local Same = nn.model "qwen3"
    function Same:init(c) self.rows = nn.Embedding(c.vocab_size, c.vocab_size) end
    function Same:forward(tokens) return self.rows(tokens) end
    Same.hidden = Same.forward
    return Same
  ]])
  local rows = {}
  for i = 1, V do rows[i] = logits end
  assert(ml.save_safetensors(path .. "/model.safetensors", {["rows.weight"] = ml.tensor(rows, {dtype = "float32"})}))
  return assert(ml.load(path, {family = path .. "/family.lua", precision = "exact", dtype = "float32"}))
end

-- ---- definitions: of logits x by id + 1, in place ----

local define = {}

local function softmax(x)
  local most, sum, p = -math.huge, 0, {}
  for i = 1, V do most = math.max(most, x[i]) end
  for i = 1, V do
    p[i] = math.exp(x[i] - most)
    sum = sum + p[i]
  end
  for i = 1, V do p[i] = p[i] / sum end
  return p
end

-- Ids + 1, the likeliest first.
local function ranked(x)
  local order = {}
  for i = 1, V do order[i] = i end
  table.sort(order, function(a, b) return x[a] > x[b] or x[a] == x[b] and a < b end)
  return order
end

function define.temperature(x, value)
  for i = 1, V do x[i] = x[i] / value end
end

function define.greedy(x)
  local best = ranked(x)[1]
  for i = 1, V do x[i] = i == best and 0 or -math.huge end
end

function define.top_k(x, k)
  for place, i in ipairs(ranked(x)) do
    if place > k then x[i] = -math.huge end
  end
end

function define.top_p(x, most)
  local p, before = softmax(x), 0
  for place, i in ipairs(ranked(x)) do
    assert(place == 1 or math.abs(before - most) > 1e-5, "a cut that rounding decides")
    if place > 1 and before > most then x[i] = -math.huge end
    before = before + p[i]
  end
end

function define.min_p(x, share)
  local p = softmax(x)
  local least = share * p[ranked(x)[1]]
  for i = 1, V do
    if p[i] < least then x[i] = -math.huge end
  end
end

function define.xtc(x, threshold)
  local p, above = softmax(x), {}
  for _, i in ipairs(ranked(x)) do
    if p[i] > threshold then above[#above + 1] = i end
  end
  for place = 1, #above - 1 do x[above[place]] = -math.huge end
end

function define.bias(x, bias)
  for id, added in pairs(bias) do x[id + 1] = x[id + 1] + added end
end

-- `seen`: {[id] = how often} among the last ids.
function define.repeat_penalty(x, penalty, seen)
  for id in pairs(seen) do
    local i = id + 1
    x[i] = x[i] > 0 and x[i] / penalty or x[i] * penalty
  end
end

function define.presence(x, presence, frequency, seen)
  for id, n in pairs(seen) do x[id + 1] = x[id + 1] - presence - n * frequency end
end

local function seen_in(recent)
  local seen = {}
  for _, id in ipairs(recent) do seen[id] = (seen[id] or 0) + 1 end
  return seen
end

-- Probabilities by id + 1 that options mean behind these recent ids, in the order of mlx-lm.
local function by_options(o)
  return function(recent)
    local x, seen = table.move(logits, 1, V, 1, {}), seen_in(recent)
    if o.logit_bias then define.bias(x, o.logit_bias) end
    if o.repeat_penalty then define.repeat_penalty(x, o.repeat_penalty, seen) end
    define.presence(x, o.presence_penalty or 0, o.frequency_penalty or 0, seen)
    if not o.temperature then
      define.greedy(x)
      return softmax(x)
    end
    if o.top_p then define.top_p(x, o.top_p) end
    if o.min_p then define.min_p(x, o.min_p) end
    local function rest(y)
      if o.top_k then define.top_k(y, o.top_k) end
      define.temperature(y, o.temperature)
      return softmax(y)
    end
    if not o.xtc_probability then return rest(x) end
    local y = table.move(x, 1, V, 1, {})
    define.xtc(y, o.xtc_threshold)
    local without, with, mixed = rest(x), rest(y), {}
    for i = 1, V do mixed[i] = (1 - o.xtc_probability) * without[i] + o.xtc_probability * with[i] end
    return mixed
  end
end

-- ---- cases ----

local cases = {}
local function add(name, o) cases[#cases + 1] = {name = name, options = o, meant = by_options(o)} end

-- A chain of one's own: steps {name, arguments of its definition}.
local function add_chain(name, chain, steps, share)
  cases[#cases + 1] = {name = name, options = {sampler = S.chain(chain)}, share = share, meant = function()
    local x = table.move(logits, 1, V, 1, {})
    for _, step in ipairs(steps) do define[step[1]](x, step[2]) end
    return softmax(x)
  end}
end

add("greedy", {})
add("greedy with penalties", {repeat_penalty = 1.7, repeat_last_n = 3})
for _, temperature in ipairs {0.4, 1, 1.6} do add("temperature " .. temperature, {temperature = temperature}) end
for _, k in ipairs {1, 2, 10, 257} do add("top_k " .. k, {temperature = 1, top_k = k}) end
for _, p in ipairs {0, 0.35, 0.61, 0.97} do add("top_p " .. p, {temperature = 1, top_p = p}) end
for _, p in ipairs {0.003, 0.05, 0.33} do add("min_p " .. p, {temperature = 1.2, min_p = p}) end
add("xtc always", {temperature = 1, xtc_probability = 1, xtc_threshold = 0.04})
add("xtc at times", {temperature = 0.8, xtc_probability = 0.4, xtc_threshold = 0.1})
add("repeat_penalty 1.5 of 1", {temperature = 1, repeat_penalty = 1.5, repeat_last_n = 1})
add("repeat_penalty 2 of 3", {temperature = 0.7, repeat_penalty = 2, repeat_last_n = 3})
add("repeat_penalty 0.8 of 2", {temperature = 1, repeat_penalty = 0.8, repeat_last_n = 2})
add("presence 1 of 2", {temperature = 1, presence_penalty = 1, repeat_last_n = 2})
add("frequency 0.7 of 4", {temperature = 0.6, frequency_penalty = 0.7, repeat_last_n = 4})
add("both of 2", {temperature = 1, presence_penalty = -0.5, frequency_penalty = 0.25, repeat_last_n = 2})
add("logit_bias", {temperature = 1, logit_bias = {[3] = 2.5, [12] = -math.huge, [200] = 4}})
add("all", {
  temperature = 1.3, top_k = 12, top_p = 0.9, min_p = 0.02, xtc_probability = 0.5, xtc_threshold = 0.12,
  repeat_penalty = 1.2, presence_penalty = 0.2, frequency_penalty = 0.1, repeat_last_n = 1, logit_bias = {[7] = 1},
})
add_chain("min_p behind a temperature", {S.temperature(2), S.min_p(0.2)}, {{"temperature", 2}, {"min_p", 0.2}})
add_chain("top_k before top_p", {S.top_k(9), S.top_p(0.7)}, {{"top_k", 9}, {"top_p", 0.7}})
add_chain("a traced function", {S.traced(function(x) return x * 0.5 end), S.top_k(20)},
  {{"temperature", 2}, {"top_k", 20}}, 0.1)
add_chain("a function", {S.top_k(20), function(x) return x * 2 end}, {{"top_k", 20}, {"temperature", 0.5}}, 0.1)

-- ---- counting ----

-- The last ids that options look at.
local function recent_of(o, ids)
  local n = (o.repeat_penalty or o.presence_penalty or o.frequency_penalty) and o.repeat_last_n or 0
  return table.move(ids, math.max(1, #ids - n + 1), #ids, 1, {})
end

-- Counts a draw behind `ids`.
local function count(case, ids, id)
  local recent = recent_of(case.options, ids)
  table.sort(recent)
  local key = table.concat(recent, " ")
  case.tables = case.tables or {}
  local one = case.tables[key]
  if not one then
    one = {p = case.meant(recent), n = 0, counts = {}, seen = seen_in(recent)}
    case.tables[key] = one
  end
  one.n, one.counts[id] = one.n + 1, (one.counts[id] or 0) + 1
  if one.p[id + 1] == 0 then case.impossible = case.impossible or id end
end

-- Pearson's statistic of counts by id and what is expected by id + 1, and its degrees of freedom. No less than LEAST is
-- expected of a cell.
local function pearson(counts, expected)
  local statistic, cells, few, came = 0, 0, 0, 0
  local function cell(want, got)
    statistic, cells = statistic + (got - want) ^ 2 / want, cells + 1
  end
  for i = 1, V do
    if expected[i] >= LEAST then cell(expected[i], counts[i - 1] or 0)
    else few, came = few + expected[i], came + (counts[i - 1] or 0) end
  end
  if few > 0.5 then cell(few, came) end
  return statistic, math.max(0, cells - 1)
end

-- How many standard deviations a statistic is above its mean (Wilson and Hilferty, 1931).
local function deviation(statistic, free)
  if free == 0 then return 0 end
  local v = 2 / (9 * free)
  return ((statistic / free) ^ (1 / 3) - (1 - v)) / math.sqrt(v)
end

-- How many standard deviations the draws of ids that stood `times` times or more among the recent ones are from what is
-- expected: those of all tables together, where a statistic of many ids sees little.
local function seen_deviation(case, times)
  local drawn, expected, variance = 0, 0, 0
  for _, one in pairs(case.tables) do
    local p = 0
    for id, n in pairs(one.seen) do
      if n >= times then p, drawn = p + one.p[id + 1], drawn + (one.counts[id] or 0) end
    end
    expected, variance = expected + one.n * p, variance + one.n * p * (1 - p)
  end
  return variance > LEAST and (drawn - expected) / variance ^ 0.5 or 0
end

local function judge(case)
  local statistic, free, rare, expected, draws, n = 0, 0, {}, {}, 0, 0
  t.ok(case.tables, "draws")
  for i = 1, V do expected[i] = 0 end
  local function add_table(counts, want)
    local more, of = pearson(counts, want)
    statistic, free, n = statistic + more, free + of, n + 1
  end
  for _, one in pairs(case.tables) do
    draws = draws + one.n
    local want = {}
    for i = 1, V do want[i] = one.p[i] * one.n end
    if one.n >= OWN_TABLE then add_table(one.counts, want)
    else
      for i = 1, V do
        expected[i] = expected[i] + want[i]
        rare[i - 1] = (rare[i - 1] or 0) + (one.counts[i - 1] or 0)
      end
    end
  end
  if next(rare) then add_table(rare, expected) end
  local z, seen, again = deviation(statistic, free), seen_deviation(case, 1), seen_deviation(case, 2)
  print(("# %-28s %6d draws, %3d tables: chi-squared %7.1f, %4d degrees of freedom, z %5.2f%s"):format(case.name,
    draws, n, statistic, free, z, seen ~= 0 and ("; recent ids: z %.2f, %.2f"):format(seen, again) or ""))
  t.eq(case.impossible, nil, "an id of probability 0")
  t.ok(z <= MOST_Z, ("chi-squared %.1f, %d degrees of freedom: z %.2f, not %.1f"):format(statistic, free, z, MOST_Z))
  t.ok(math.abs(seen) <= MOST_Z, ("recent ids are drawn too often or too seldom: z %.2f"):format(seen))
  t.ok(math.abs(again) <= MOST_Z, ("ids that came twice are drawn too often or too seldom: z %.2f"):format(again))
end

-- ---- the whole ----

local m <close> = make_model()

t.test(("%d cases side by side in %d rows"):format(#cases, SLOTS), function()
  local prompts, of = {}, {}
  for round = 1, math.ceil(DRAWS / TOKENS / 2) do
    for _, case in ipairs(cases) do
      for _ = 1, round <= math.max(1, DRAWS / TOKENS / 2 * (case.share or 1)) and 2 or 0 do
        local own = {prompt = PROMPT, seed = SEED * 1000003 + #prompts}
        for name, value in pairs(case.options) do own[name] = value end
        table.insert(prompts, own)
        of[#prompts] = case
      end
    end
  end
  for i, result in m:batch_generate(prompts, {
    slots = SLOTS, max_tokens = TOKENS, ignore_eos = true, iterate = true,
  }) do
    t.eq({result.error, #result.ids}, {nil, TOKENS})
    local ids = table.move(PROMPT, 1, #PROMPT, 1, {})
    for _, id in ipairs(result.ids) do
      count(of[i], ids, id)
      ids[#ids + 1] = id
    end
  end
end)
for _, case in ipairs(cases) do t.test(case.name, function() judge(case) end) end
t.done()
