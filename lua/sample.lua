---Sampling: from logits (B, V) to ids (B).
---
---A step is a function of (logits, state) that gives new logits, or the ids themselves (B, integers; the last step may
---give one id as a number). Steps made of tensor operations become part of the decode plan; what such a step reads that
---is no tensor is read once, when the plan is made. A step of the user's own that looks at values (`item`, `tolist`)
---splits the plan there: it runs in Lua for every token and costs a synchronisation each time. `state` has `recent`
---(B, n) int32: the last ids, the prompt's too, -1 where there are none yet (the id at position p lies in column
---p mod n); and `uniform()` -> (B) float32: fresh random numbers in [0, 1) from the call's seed.
local ml = require "moonlet.init"
local compile = require "moonlet.compile"
local util = require "moonlet.util"

local M = {}

---@class moonlet.SampleStep
---@field name string
---@field last_n integer|nil  how many recent ids it looks at
---@field greedy boolean|nil  of what remains behind it the likeliest is taken
local Step = {}
Step.__index = Step
Step.__name = "moonlet.SampleStep"
Step.__call = function(self, logits, state) return self.apply(logits, state) end

local function step(name, apply, more)
  local self = more or {}
  self.name, self.apply = name, apply
  return setmetatable(self, Step)
end

-- The last n ids: a chain whose steps look at different numbers of them has a ring for each.
local function window(state, n) return state.windows and state.windows[n] or state.recent end

---Divides the logits; 0 takes the likeliest of what remains.
---@param t number
function M.temperature(t)
  util.number("temperature", t, 0)
  if t == 0 then return M.greedy() end
  return step("temperature", function(logits) return logits * (1.0 / t) end)
end

---Takes the likeliest of what remains, of equal ones the first.
function M.greedy() return step("greedy", function(logits) return logits end, {greedy = true}) end

---Keeps the k likeliest; 0 keeps all.
---@param k integer
function M.top_k(k)
  util.integer("top_k", k, 0)
  return step("top_k", function(logits) return k > 0 and k < logits.shape[2] and ml.top_k_mask(logits, k) or logits end)
end

---Keeps the likeliest entries whose exclusive cumulative probability is at most p: at least one.
function M.top_p(p)
  util.number("top_p", p, 0, 1)
  return step("top_p", function(logits) return ml.top_p_mask(logits, p) end)
end

---Keeps entries at least p times as likely as the likeliest.
function M.min_p(p)
  util.number("min_p", p, 0, 1)
  return step("min_p", function(logits) return ml.min_p_mask(logits, p) end)
end

---Ids among the last n, the prompt's too: positive logits divided by, negative ones multiplied by the penalty.
---@param penalty number  1 changes nothing
---@param n integer|nil  64 unless given
function M.repeat_penalty(penalty, n)
  if not (type(penalty) == "number" and penalty > 0) then
    util.unexpected("repeat_penalty", "a number above 0", penalty)
  end
  n = util.integer("repeat_penalty: n", n or 64, 1)
  return step("repeat_penalty", function(logits, state)
    return ml.repeat_penalty(logits, window(state, n), {penalty = penalty})
  end, {last_n = n})
end

---Ids among the last n, the prompt's too, lose `presence` once and `frequency` for each time that they occur.
---@param presence number|nil  0 unless given
---@param frequency number|nil  0 unless given
---@param n integer|nil  64 unless given
function M.presence(presence, frequency, n)
  presence, frequency = util.number("presence", presence or 0), util.number("presence: frequency", frequency or 0)
  n = util.integer("presence: n", n or 64, 1)
  return step("presence", function(logits, state)
    return ml.repeat_penalty(logits, window(state, n), {presence = presence, frequency = frequency})
  end, {last_n = n})
end

---Adds to the logits of single ids: {[id] = bias}; -math.huge forbids one.
function M.logit_bias(bias)
  if type(bias) ~= "table" then util.unexpected("logit_bias", "a table {[id] = number}", bias) end
  local tensor
  return step("logit_bias", function(logits)
    if not tensor then
      local values, vocab = {}, logits.shape[2]
      for i = 1, vocab do values[i] = 0.0 end
      for id, v in pairs(bias) do
        if not math.tointeger(id) or id < 0 or id >= vocab or type(v) ~= "number" then
          util.raise("usage", "logit_bias: expected numbers by ids from 0 to %d, found %s = %s", vocab - 1,
            util.text(id), util.text(v))
        end
        values[math.tointeger(id) + 1] = v + 0.0
      end
      tensor = compile.keep(ml.tensor(values, {dtype = "float32"}))
    end
    return logits + tensor
  end)
end

---With the given probability, drops all but the least likely of the entries above the threshold.
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

---@class moonlet.SampleChain
---@field last_n integer  how many recent ids its steps look at, at most
---@field windows table<integer, boolean>  the numbers that its steps ask for
---@field greedy boolean
---@field custom boolean  a step of the user's own is among them
local Chain = {}
Chain.__index = Chain
Chain.__name = "moonlet.SampleChain"
Chain.__call = function(self, logits, state)
  for _, s in ipairs(self.steps) do logits = s(logits, state) end
  return logits
end

---Steps in the order written; of what remains behind the last, one id is drawn at random (behind `greedy`, the
---likeliest is taken). A chain may stand in a chain.
---@param steps table  of steps; {last_n = n} says how many recent ids a function of one's own wants to see (64)
function M.chain(steps)
  if type(steps) ~= "table" then util.unexpected("chain", "a list of steps", steps) end
  local self = setmetatable({steps = {}, last_n = 1, windows = {}, greedy = false, custom = false}, Chain)
  local function see(n)
    self.windows[n] = true
    self.last_n = math.max(self.last_n, n)
  end
  for i, s in ipairs(steps) do
    local meta = getmetatable(s)
    if meta ~= Step and meta ~= Chain then
      if type(s) ~= "function" and not (type(s) == "table" and meta and meta.__call) then
        util.unexpected(("chain: step %d"):format(i), "a function or a step", s)
      end
      self.custom = true
      see(steps.last_n or 64)
    else
      for n in pairs(s.windows or {[s.last_n or 1] = true}) do see(n) end
      self.custom = self.custom or s.custom or false
    end
    self.greedy = meta == Step and s.greedy or meta == Chain and s.greedy or false
    self.steps[i] = s
  end
  return self
end

---Whether x is a chain.
---@return boolean
function M.is_chain(x) return getmetatable(x) == Chain end

---The chain that the options of m:generate mean: bias and penalties, then top-p, min-p, xtc, top-k, temperature (the
---order of mlx-lm).
function M.from_options(o)
  local steps = {}
  local function add(s) steps[#steps + 1] = s end
  local function on(name) return o[name] and o[name] ~= 0 end
  if o.logit_bias and next(o.logit_bias) then add(M.logit_bias(o.logit_bias)) end
  if o.repeat_last_n ~= 0 then
    if o.repeat_penalty and o.repeat_penalty ~= 1 then add(M.repeat_penalty(o.repeat_penalty, o.repeat_last_n)) end
    if on "presence_penalty" or on "frequency_penalty" then
      add(M.presence(o.presence_penalty, o.frequency_penalty, o.repeat_last_n))
    end
  end
  if not on "temperature" then
    add(M.greedy())
    return M.chain(steps)
  end
  if on "top_p" and o.top_p < 1 then add(M.top_p(o.top_p)) end
  if on "min_p" then add(M.min_p(o.min_p)) end
  if on "xtc_probability" then add(M.xtc(o.xtc_probability, o.xtc_threshold)) end
  if on "top_k" then add(M.top_k(o.top_k)) end
  if o.temperature ~= 1 then add(M.temperature(o.temperature)) end
  return M.chain(steps)
end

return util.guard(M, "sample.")
