---The token iterator behind generate, chat and sessions: stop conditions, text, metrics.
local core = require "moonlet.core"
local sample = require "moonlet.sample"
local util = require "moonlet.util"

local M = {}

M.known = {
  max_tokens = 256, temperature = 0, top_k = 0, top_p = 0, min_p = 0, xtc_probability = 0, xtc_threshold = 0.1, repeat_penalty = 1,
  repeat_last_n = 64, presence_penalty = 0, frequency_penalty = 0, logit_bias = false, seed = false, stop = false, stop_tokens = false,
  logprobs = false, sampler = false, cancel = false, deadline = false, ignore_eos = false,
}

local function check_number(o, name, low, high)
  local v = o[name]
  if v ~= nil and v ~= false and (type(v) ~= "number" or v ~= v or v < low or v > (high or math.huge)) then
    util.raise("usage", "%s: expected a number from %s%s, found %s", name, low, high and " to " .. high or "", tostring(v))
  end
end

---Options with defaults, checked.
function M.options(given, what, more)
  local known = setmetatable({}, {__index = M.known})
  for k, v in pairs(M.known) do known[k] = v end
  for k, v in pairs(more or {}) do known[k] = v end
  local o = util.options(given, known, what)
  for _, name in ipairs {"temperature", "top_k", "min_p", "xtc_probability", "max_tokens", "repeat_last_n", "deadline"} do check_number(o, name, 0) end
  check_number(o, "top_p", 0, 1)
  if o.repeat_penalty <= 0 then util.raise("usage", "repeat_penalty: expected a number above 0, found %s", tostring(o.repeat_penalty)) end
  if type(o.stop) == "string" then o.stop = {o.stop} end
  return o
end

local function chain_of(o)
  local s = o.sampler
  if s == nil then
    local key = {}
    for _, name in ipairs {"temperature", "top_k", "top_p", "min_p", "xtc_probability", "xtc_threshold", "repeat_penalty", "repeat_last_n",
      "presence_penalty", "frequency_penalty"} do key[#key + 1] = tostring(o[name]) end
    if o.logit_bias then
      for _, id in ipairs(util.sorted_keys(o.logit_bias)) do key[#key + 1] = id .. "=" .. o.logit_bias[id] end
    end
    return sample.from_options(o), table.concat(key, " ")
  end
  if type(s) == "function" then s = sample.chain {s} end
  return s, ("sampler %p"):format(o.sampler)
end

-- Longest tail of text that a stop string begins with; or where a stop string begins.
local function find_stop(text, stops)
  local first
  for _, s in ipairs(stops) do
    local at = s ~= "" and text:find(s, 1, true)
    if at and (not first or at < first) then first = at end
  end
  if first then return first, 0 end
  local held = 0
  for _, s in ipairs(stops) do
    for n = math.min(#s - 1, #text), held + 1, -1 do
      if text:sub(-n) == s:sub(1, n) then
        held = n
        break
      end
    end
  end
  return nil, held
end

---@class moonlet.Generation
---@field metrics table
---@field finish_reason string|nil
local Generation = {}
Generation.__index = Generation

---@param model moonlet.Model
---@param runtime moonlet.Runtime
---@param ids integer[]  the prompt
---@param o table  of M.options
---@param release function|nil  called once at the end
function M.start(model, runtime, ids, o, release)
  local chain, key = chain_of(o)
  local self = setmetatable({
    model = model, runtime = runtime, prompt = ids, options = o, chain = chain, key = key, release = release,
    text = "", ids = {}, pending = "", stops = o.stop or {}, ends = {},
    metrics = {prompt_tokens = #ids, cached_tokens = 0, generated_tokens = 0, prefill_seconds = 0.0, decode_seconds = 0.0, total_seconds = 0.0,
      prefill_tokens_per_second = 0.0, decode_tokens_per_second = 0.0},
  }, Generation)
  for _, id in ipairs(o.stop_tokens or {}) do self.ends[id] = true end
  local tokenizer = model.tokenizer
  if tokenizer then
    if not o.ignore_eos then
      for _, id in ipairs(tokenizer.eos_ids) do self.ends[id] = true end
    end
    self.stream = tokenizer:stream {skip_special_tokens = true}
  elseif #self.stops > 0 then
    util.raise("usage", "stop: the model has no tokenizer, so that there is no text to look at")
  end
  model.metrics = self.metrics
  return self
end

local function interrupted(self)
  if self.options.cancel and self.options.cancel.cancelled then return "cancelled" end
  if self.ends_at and core.clock() >= self.ends_at then return "deadline" end
  return nil
end

local function finish(self, reason)
  if self.finish_reason then return end
  self.finish_reason = reason
  local m = self.metrics
  m.finish_reason = reason
  m.total_seconds = self.began and core.clock() - self.began or 0.0
  local fresh = m.prompt_tokens - m.cached_tokens
  m.prefill_tokens_per_second = m.prefill_seconds > 0 and fresh / m.prefill_seconds or 0.0
  m.decode_tokens_per_second = m.decode_seconds > 0 and (m.generated_tokens - 1) / m.decode_seconds or 0.0
  m.peak_bytes, m.active_bytes = core.memory.peak(), core.memory.active()
  core.deadline(nil)
  if self.stream then self.stream:close() end
  if self.release then self.release(self) end
end

-- Log probability of an id and the n likeliest: from (1, V) log probabilities.
local function logprobs(log_p, id, n)
  local values = log_p:flatten()
  local own = values[id + 1]:item()
  local top = {}
  if n > 0 then
    local order = (-values):argsort():slice {{1, n}}:tolist()
    for i, other in ipairs(order) do top[i] = {id = other, logprob = values[other + 1]:item()} end
  end
  return own, top
end

-- Text that the token completes, with stop strings looked for. Returns the text to show and whether a stop string was met.
local function take_text(self, id, last)
  if not self.stream then return nil, false end
  local text = self.pending .. self.stream:push(id)
  if last then text = text .. self.stream:finish() end
  local at, held = find_stop(text, self.stops)
  if at then
    self.pending = ""
    return text:sub(1, at - 1), true
  end
  if last then held = 0 end
  self.pending = text:sub(#text - held + 1)
  return text:sub(1, #text - held), false
end

-- What is left of the text when an end token comes.
local function rest(self)
  if not self.stream then return "" end
  local text = self.pending .. self.stream:finish()
  self.pending = ""
  return text
end

local function prefill(self)
  local m = self.metrics
  self.began = core.clock()
  if self.options.deadline then
    self.ends_at = self.began + self.options.deadline
    core.deadline(self.options.deadline)
  end
  local stopped
  m.cached_tokens, stopped = self.runtime:prefill(1, self.prompt, function() return interrupted(self) ~= nil end)
  if stopped then return nil end
  local seed = self.options.seed or (os.time() << 20 ~ math.floor(core.clock() * 1e6))
  self.entry = self.runtime:begin(self.key, self.chain, self.options.logprobs ~= nil, math.tointeger(seed) or 0, self.prompt)
  local id, log_p = self.runtime:first(self.entry)
  m.prefill_seconds = core.clock() - self.began
  return id, log_p
end

local function decode(self)
  local from = core.clock()
  local id, log_p = self.runtime:step(self.entry)
  self.metrics.decode_seconds = self.metrics.decode_seconds + core.clock() - from
  return id, log_p
end

local function advance(self)
  local o, m = self.options, self.metrics
  if o.max_tokens == 0 then return finish(self, "length") end
  local reason = interrupted(self)
  if reason then return finish(self, reason) end
  local id, log_p
  if not self.entry then id, log_p = prefill(self) else id, log_p = decode(self) end
  if not id then return finish(self, interrupted(self) or "cancelled") end
  local index = m.generated_tokens + 1
  m.generated_tokens = index
  self.ids[index] = id
  if self.ends[id] then
    local text = rest(self)
    finish(self, "stop")
    self.ids[index] = nil
    if text == "" then return nil end
    self.text = self.text .. text
    return {id = id, text = text, index = index}
  end
  local full = #self.prompt + index >= self.runtime.capacity + 1
  local last = index >= o.max_tokens or full
  local text, stopped = take_text(self, id, last)
  local token = {id = id, text = text, index = index}
  if log_p then token.logprob, token.top_logprobs = logprobs(log_p, id, o.logprobs) end
  if text then self.text = self.text .. text end
  if stopped then finish(self, "stop") elseif last then finish(self, "length") end
  return token
end

---The next token, or nil at the end. An error raises and leaves finish_reason = "error"; cancellation and deadline end normally.
function Generation:next()
  if self.finish_reason then return nil end
  local ok, token = pcall(advance, self)
  if ok then return token end
  local err = token
  local code = type(err) == "table" and err.code
  local own_cancel = self.options.cancel and self.options.cancel.cancelled
  if code == "deadline" or (code == "cancelled" and own_cancel) then
    finish(self, code)
    return nil
  end
  finish(self, code == "cancelled" and "cancelled" or "error")
  error(err, 0)
end

Generation.__call = function(self) return self:next() end

---Ends the generation early; harmless afterwards.
function Generation:close() finish(self, "cancelled") end
Generation.__close = Generation.close
Generation.__gc = Generation.close

---Runs to the end; the whole result.
function Generation:complete()
  while self:next() do end -- luacheck: ignore 542
  return self.text, {text = self.text, ids = self.ids, finish_reason = self.finish_reason, metrics = self.metrics}
end

return M
