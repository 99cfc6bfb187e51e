---Sampling: from logits (B, V) to ids (B).
---
---A step is a function of (logits, state) that gives new logits. Steps run in the order written. Logits of +inf are
---chosen among evenly, those of -inf never; where nothing is left to choose from, or one of the logits is NaN,
---generation ends with an error.
---
---A function of the user's own runs exactly once for every token of every sequence, in Lua, with values to read: logits
---(1, V) float32; `state.ids`, the list of the sequence's ids so far, the prompt's first; `state.recent` (1, n) int32,
---the last n of them (never more than the context), newest last, -1 where there are none; `state.uniform()` -> (1)
---float32, fresh random numbers in [0, 1) from the call's seed. It may keep state of its own (a tensor that it keeps
---for later goes through `ml.keep`), yield and raise. The last step may also give the id, as a number or as integers
---(1). It costs a synchronisation for every token.
---
---`S.traced(fn)` marks one that is made of tensor operations alone: it is recorded once, over B rows (logits (B, V),
---`state.recent` (B, n), `state.uniform()` (B)), and is part of the plan. What it reads that is no tensor is read when
---it is recorded, and reading the value of a tensor in it is an error.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local compile = require "moonlet.compile"
local util = require "moonlet.util"

local M = {}

-- The options that a chain stands for, with what they are unless given; false: nothing.
M.defaults = {
  temperature = 0, top_k = 0, top_p = 1, min_p = 0, xtc_probability = 0, xtc_threshold = 0.1,
  repeat_penalty = 1, repeat_last_n = 64, presence_penalty = 0, frequency_penalty = 0, logit_bias = false,
}

---@class moonlet.SampleStep
---@field name string
---@field last_n integer|nil  how many recent ids it looks at
---@field numbers number[]|nil  what it is made of, if it is numbers alone
---@field greedy boolean|nil  it leaves the likeliest alone
---@field custom boolean|nil  a function of the user's, which runs in Lua
---@field traced boolean|nil  a function of the user's, which is recorded
---@field forces boolean|nil  it may choose an id whatever its logit is
---@field of moonlet.SampleStep|nil  what S.traced gave, whose address may name plans
local Step = {}
Step.__index = Step
Step.__name = "moonlet.SampleStep"
Step.__call = function(self, logits, state)
  local _ <close> = core.beside(logits)
  return self.apply(logits, state)
end
Step.__tostring = function(self) return self.name end

local function step(name, apply, more)
  local self = more or {}
  self.name, self.apply = name, apply
  return setmetatable(self, Step)
end

-- A step that is numbers: where a plan holds it, `apply` has those of each row as a third argument, (B) or (B, n)
-- float64, in place of its own. A row whose numbers change nothing is as if it had no such step.
local function numeric(name, numbers, apply, n) return step(name, apply, {numbers = numbers, last_n = n}) end

-- The last ids in whatever order they lie: a ring, where a plan has one.
local function recent(state) return state.ring or state.recent end

local SMALLEST = 2.0 ^ -126 -- a normal float32

-- Whether a temperature takes the likeliest: none, 0, and what float32 cannot divide by.
local function is_zero(t) return not t or t < SMALLEST end

-- One that is an operation of one number, which changes nothing where it is `nothing`.
local function single(name, number, op, nothing)
  return numeric(name, {number}, function(logits, _, by_row)
    if by_row then return ml[op](logits, nothing, by_row) end
    return number == nothing and logits or ml[op](logits, number)
  end)
end

local function temperature(t) return single("temperature", t or 0, "temperature", 1) end

---Divides the logits; 0, and less than float32 divides by, takes the likeliest of what remains.
---@param t number
function M.temperature(t)
  util.number("temperature", t, 0)
  return is_zero(t) and M.greedy() or temperature(t)
end

-- The likeliest keeps its logit; a NaN counts as likeliest.
local function likeliest(logits)
  local best = logits:argmax(-1, true)
  return ml.where(ml.arange(logits.shape[2]):eq(best), logits, -math.huge)
end

---Whether options take the likeliest token.
---@param o table  options of m:generate
function M.is_greedy(o) return is_zero(o.temperature) end

---Takes the likeliest of what remains, of equal ones the first.
function M.greedy() return step("greedy", likeliest, {greedy = true}) end

---Keeps the k likeliest; 0 keeps all.
---@param k integer
function M.top_k(k)
  return single("top_k", util.integer("top_k", k, 0), "top_k_mask", 0)
end

---Keeps the likeliest entries whose exclusive cumulative probability is at most p: at least one. 1 keeps all, 0 the
---likeliest alone.
---@param p number
function M.top_p(p)
  return single("top_p", util.number("top_p", p, 0, 1), "top_p_mask", 1)
end

---Keeps entries at least p times as likely as the likeliest; 0 keeps all.
---@param p number
function M.min_p(p)
  return single("min_p", util.number("min_p", p, 0, 1), "min_p_mask", 0)
end

local function penalties(name, factor, presence, frequency, n)
  return numeric(name, {factor, presence, frequency}, function(logits, state, by_row)
    return ml.repeat_penalty(logits, recent(state), factor, presence, frequency, by_row)
  end, n)
end

---Ids among the last n, the prompt's too: positive logits divided by, negative ones multiplied by the penalty.
---@param penalty number  1 changes nothing
---@param n integer|nil  64 unless given
function M.repeat_penalty(penalty, n)
  if not (type(penalty) == "number" and penalty > 0) then
    util.unexpected("repeat_penalty", "a number above 0", penalty)
  end
  return penalties("repeat_penalty", penalty, 0, 0, util.integer("repeat_penalty: n", n or 64, 1))
end

---Ids among the last n, the prompt's too, lose `presence` once and `frequency` for each time that they occur.
---@param presence number|nil  0 unless given
---@param frequency number|nil  0 unless given
---@param n integer|nil  64 unless given
function M.presence(presence, frequency, n)
  presence, frequency = util.number("presence", presence or 0), util.number("presence: frequency", frequency or 0)
  return penalties("presence", 1, presence, frequency, util.integer("presence: n", n or 64, 1))
end

local LARGEST = 0x1.fffffep+127 -- float32's

-- What the biases add (V), and where there are infinite ones, those (V), 0 elsewhere.
local function bias_tensors(bias, vocab)
  local added, forced, infinite = {}, {}, false
  for i = 1, vocab do added[i], forced[i] = 0.0, 0.0 end
  for _, id in ipairs(util.sorted_keys(bias)) do
    local v, at = bias[id], math.tointeger(id)
    if not at or at < 0 or at >= vocab or type(v) ~= "number" or v ~= v then
      util.raise("usage", "logit_bias: expected numbers by ids from 0 to %d, found %s = %s", vocab - 1, util.text(id),
        util.text(v))
    end
    if v > LARGEST or v < -LARGEST then
      forced[at + 1], infinite = v > 0 and math.huge or -math.huge, true
    else
      added[at + 1] = v + 0.0
    end
  end
  return compile.keep(ml.tensor(added, {dtype = "float32"})),
    infinite and compile.keep(ml.tensor(forced, {dtype = "float32"}))
end

---Adds to the logits of single ids: {[id] = bias}. -math.huge forbids one, math.huge demands it whatever its logit is;
---among several of these the choice is even.
---@param bias table<integer, number>
function M.logit_bias(bias)
  if type(bias) ~= "table" then util.unexpected("logit_bias", "a table {[id] = number}", bias) end
  local forces = false
  for _, v in pairs(bias) do forces = forces or type(v) == "number" and v > LARGEST end
  local made, place, added, forced -- for a vocabulary of `made` ids, on a device
  return step("logit_bias", function(logits)
    local vocab, device = logits.shape[2], logits.device
    if made ~= vocab or place ~= device then
      added, forced = bias_tensors(bias, vocab)
      made, place = vocab, device
    end
    if not forced then return logits + added end
    local known = logits:eq(logits) -- a NaN stays one
    return ml.where(ml.logical_and(forced:ne(0.0), known), forced, logits + added)
  end, {forces = forces})
end

---With the given probability, drops all but the least likely of the entries whose own probability is above the
---threshold.
---@param probability number
---@param threshold number|nil  0.1 unless given, 0.5 at most
function M.xtc(probability, threshold)
  util.number("xtc: probability", probability, 0, 1)
  threshold = util.number("xtc: threshold", threshold or 0.1, 0, 0.5)
  return step("xtc", function(logits, state)
    local p = logits:softmax()
    local above = p:gt(threshold)
    local least = ml.where(above, p, 2.0):min(-1, true)
    local on = state.uniform():lt(probability):reshape {logits.shape[1], 1}
    return ml.where(ml.logical_and(p:gt(least), on), -math.huge, logits)
  end)
end

-- ---- functions of the user's ----

-- Runs a function that a plan is to hold. It sees no values and cannot wait for any.
local function record(fn, logits, state)
  local co = coroutine.create(function() return fn(logits, state) end)
  local ok, result = coroutine.resume(co)
  local yielded = coroutine.status(co) ~= "dead"
  coroutine.close(co)
  if yielded then util.raise("usage", "S.traced: the function yields, which one that is recorded cannot") end
  if ok then return result end
  if tostring(result):find("a value is read while a plan is recorded", 1, true) then
    local message = "S.traced: %s; a function that looks at values is given without S.traced"
    error(core.error.new(message:format(result), "usage", false), 0)
  end
  util.again(result)
end

---Marks a function of one's own, of (logits, state), that is made of tensor operations alone: a step that is recorded
---once, over B rows, and is part of the plan. It gets logits (B, V) float32, `state.recent` (B, n) int32 (newest last,
---and -1 where there are none) and `state.uniform()` -> (B) float32, and gives logits (B, V), or as the last step ids
---(B). What it reads that is no tensor stays as it was then; reading a tensor's value in it is an error.
---@param fn function
---@return moonlet.SampleStep
function M.traced(fn)
  util.callable("traced", fn)
  return step("traced function", function(logits, state) return record(fn, logits, state) end, {traced = true})
end

---@class moonlet.SampleChain
---@field steps moonlet.SampleStep[]
---@field last_n integer  how many recent ids its steps look at, at most
---@field numbers number[]  of all its steps that are numbers
---@field greedy boolean  its last step leaves the likeliest alone
---@field custom boolean  a function of the user's, which runs in Lua, is among them
---@field traced boolean  one that is recorded is among them
local Chain = {}
Chain.__index = Chain
Chain.__name = "moonlet.SampleChain"
Chain.__call = function(self, logits, state)
  for i, s in ipairs(self.steps) do
    if not (s.greedy and i == #self.steps) then logits = s(logits, state) end
  end
  return logits
end
Chain.__tostring = function(self)
  local names = {}
  for i, s in ipairs(self.steps) do names[i] = s.custom and s.name .. " (in Lua, for every token)" or s.name end
  return "chain: " .. (names[1] and table.concat(names, ", ") or "no steps")
end

-- The steps that an entry of a chain stands for: those of a chain in it, or one. `n` is how many recent ids functions
-- see.
local function steps_of(s, n, what)
  local meta = getmetatable(s)
  if meta == Chain then return s.steps end
  if meta == Step and not s.traced then return {s} end
  if meta == Step then return {step(s.name, s.apply, {traced = true, last_n = n, of = s})} end
  util.callable(what, s, "a function or a step")
  return {step("function", s, {custom = true, last_n = n})}
end

---Steps in the order written; of what remains behind the last, one id is drawn at random (behind `greedy`, the
---likeliest is taken). A chain may stand in a chain. Printed, a chain says which steps run in Lua.
---@param steps table  of steps; {last_n = n} says how many ids `state.recent` has in functions of one's own: 64
---  unless given, and never more than the model's context
---@return moonlet.SampleChain
function M.chain(steps)
  local meta = getmetatable(steps)
  if type(steps) ~= "table" or meta == Step or meta == Chain then
    local one = meta == Step and "a step" or meta == Chain and "a chain" or util.show(steps)
    util.raise("usage", "chain: expected a list of steps, found %s", one)
  end
  for key in pairs(steps) do
    if type(key) == "string" and key ~= "last_n" then util.raise("usage", "chain: no option \"%s\"", key) end
  end
  local own_n = util.integer("chain: last_n", steps.last_n or 64, 1)
  local self = setmetatable({steps = {}, last_n = 1, numbers = {}, greedy = false, custom = false, traced = false},
    Chain)
  for i, given in ipairs(steps) do
    for _, s in ipairs(steps_of(given, own_n, ("chain: step %d"):format(i))) do
      self.steps[#self.steps + 1] = s
      self.last_n = math.max(self.last_n, s.last_n or 1)
      for _, number in ipairs(s.numbers or {}) do table.insert(self.numbers, number) end
      self.custom, self.traced = self.custom or s.custom or false, self.traced or s.traced or false
      self.greedy = s.greedy or false
    end
  end
  return self
end

---Whether x is a chain.
---@return boolean
function M.is_chain(x) return getmetatable(x) == Chain end

-- How many recent ids a penalty of the options looks at; nil: there is none.
local function seen_by(o, name)
  local does = (o.repeat_penalty or 1) ~= 1
  if name == "presence" then does = (o.presence_penalty or 0) ~= 0 or (o.frequency_penalty or 0) ~= 0 end
  return does and o.repeat_last_n ~= 0 and o.repeat_last_n or nil
end

---Notes which steps the chain of some options has that are numbers alone, so that rows of different options can have
---chains of the same steps: `from_options` takes what was noted of all.
---@param o table  options as `from_options` has them
---@param steps table  of other options before: {repeat_penalty = {[n] = true}, presence, top_p, min_p, top_k, ...}
function M.note_steps(o, steps)
  o = util.options(o, M.defaults, "note_steps")
  for _, name in ipairs {"repeat_penalty", "presence"} do
    local n = seen_by(o, name)
    steps[name] = steps[name] or {}
    if n then steps[name][n] = true end
  end
  if is_zero(o.temperature) then return end
  steps.temperature = true
  steps.top_p = steps.top_p or (o.top_p or 1) < 1
  steps.min_p, steps.top_k = steps.min_p or (o.min_p or 0) > 0, steps.top_k or (o.top_k or 0) > 0
end

-- As text, exactly.
local function exactly(v) return math.type(v) == "float" and ("%a"):format(v) or tostring(v) end

---The chain that the options of m:generate mean: bias and penalties, then top-p, min-p, xtc, top-k, temperature (the
---order of mlx-lm). Without a temperature, the likeliest behind bias and penalties.
---@param o table|nil  options of m:generate by name, those of sampling alone
---@param also table|nil  steps that the chain has even where they do nothing (`note_steps`)
---@return moonlet.SampleChain
---@return string  equal for chains that differ in `numbers` alone
function M.from_options(o, also)
  o, also = util.options(o, M.defaults, "from_options"), also or {}
  local steps, key = {}, {}
  local function add(s, ...)
    steps[#steps + 1] = s
    key[#key + 1] = table.concat({s.name, s.last_n or "", ...}, " ")
  end
  local function result() return M.chain(steps), table.concat(key, ", ") end
  if o.logit_bias and next(o.logit_bias) then
    local entries = {}
    for i, id in ipairs(util.sorted_keys(o.logit_bias)) do entries[i] = id .. "=" .. exactly(o.logit_bias[id]) end
    add(M.logit_bias(o.logit_bias), table.unpack(entries))
  end
  for _, name in ipairs {"repeat_penalty", "presence"} do
    local own, sizes = seen_by(o, name), {}
    for n in pairs(also[name] or {}) do sizes[n] = true end
    if own then sizes[own] = true end
    for _, n in ipairs(util.sorted_keys(sizes)) do
      if n ~= own then add(penalties(name, 1, 0, 0, n))
      elseif name == "presence" then add(M.presence(o.presence_penalty, o.frequency_penalty, n))
      else add(M.repeat_penalty(o.repeat_penalty, n)) end
    end
  end
  local greedy = is_zero(o.temperature)
  if greedy and not also.temperature then
    add(M.greedy())
    return result()
  end
  local function of(name, nothing) return not greedy and o[name] or nothing end
  if also.top_p or of("top_p", 1) < 1 then add(M.top_p(of("top_p", 1))) end
  if also.min_p or of("min_p", 0) > 0 then add(M.min_p(of("min_p", 0))) end
  if of("xtc_probability", 0) > 0 then
    add(M.xtc(o.xtc_probability, o.xtc_threshold), exactly(o.xtc_probability), exactly(o.xtc_threshold))
  end
  if also.top_k or of("top_k", 0) > 0 then add(M.top_k(of("top_k", 0))) end
  if also.temperature or o.temperature ~= 1 then add(temperature(o.temperature)) end
  return result()
end

return util.guard(M, "sample.")
