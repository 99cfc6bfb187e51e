---The token iterator behind generate, chat and sessions: stop conditions, text, metrics.
local cancel = require "moonlet.cancel"
local core = require "moonlet.core"
local decode = require "moonlet.decode"
local sample = require "moonlet.sample"
local trace = require "moonlet.trace"
local util = require "moonlet.util"

local M = {}

local sampling_names = util.sorted_keys(sample.defaults)

M.known = {
  max_tokens = 256, seed = false, stop = false, stop_tokens = false, logprobs = false, sampler = false,
  cancel = false, deadline = false, ignore_eos = false,
}
for name, default in pairs(sample.defaults) do M.known[name] = default end

---What calls with messages know besides.
M.chat_known = {
  tools = false, documents = false, template = false, template_vars = false, defaults = false, now = false,
  parse_special = false, continue_final_message = false,
}

-- ---- options ----

-- The largest value of each: numbers, integers from 0.
local numbers = {
  temperature = math.huge, repeat_penalty = math.huge, deadline = math.huge,
  top_p = 1, min_p = 1, xtc_probability = 1, xtc_threshold = 0.5,
}
local integers = {"max_tokens", "top_k", "repeat_last_n", "logprobs"}

local function check_list(what, v, expected, is)
  if type(v) ~= "table" then v = {v} end
  for _, entry in ipairs(util.list(what, v, expected)) do
    if entry == "" then util.raise("usage", "%s: a string must not be empty", what) end
    if not is(entry) then util.unexpected(what, expected, entry) end
  end
  return v
end

local function is_text(s) return type(s) == "string" and s ~= "" end
local function is_id(id) return type(id) == "number" and (math.tointeger(id) or -1) >= 0 end

local function check_bias(what, bias)
  if type(bias) ~= "table" then util.unexpected(what, "a table {[id] = number}", bias) end
  for id, v in pairs(bias) do
    util.integer(what .. ": an id", id, 0)
    if type(v) ~= "number" or v ~= v then util.unexpected(("%s: id %d"):format(what, id), "a number", v) end
  end
end

---Options with defaults, checked.
---@param given table|nil
---@param what string  the call, for messages
---@param more table|nil  further options that the call knows
function M.options(given, what, more)
  local known = {}
  for k, v in pairs(M.known) do known[k] = v end
  for k, v in pairs(more or {}) do known[k] = v end
  local o = util.options(given, known, what)
  local function check(name, fn, ...)
    if o[name] ~= nil then return fn(what .. ": " .. name, o[name], ...) end
  end
  local penalty = o.repeat_penalty
  if penalty ~= nil and not (type(penalty) == "number" and penalty > 0) then
    util.unexpected(what .. ": repeat_penalty", "a number above 0", penalty)
  end
  for name, most in pairs(numbers) do check(name, util.number, 0, most < math.huge and most or nil) end
  for _, name in ipairs {"presence_penalty", "frequency_penalty"} do check(name, util.number) end
  for _, name in ipairs(integers) do o[name] = check(name, util.integer, 0) end
  o.seed = check("seed", util.integer)
  o.stop = check("stop", check_list, "a string or a list of strings", is_text)
  o.stop_tokens = check("stop_tokens", check_list, "a token id or a list of them", is_id)
  check("ignore_eos", util.flag)
  check("logit_bias", check_bias)
  if o.cancel ~= nil and not cancel.is_token(o.cancel) then
    util.unexpected(what .. ": cancel", "a token of ml.cancel_token()", o.cancel)
  end
  if o.sampler ~= nil then
    check("sampler", util.callable, "a function, a step or a chain of moonlet.sample")
    for _, name in ipairs(sampling_names) do
      if given[name] ~= nil then
        util.raise("usage", "%s: option \"%s\" has no meaning beside a sampler", what, name)
      end
    end
  end
  return o
end

-- The options that a chain stands for.
local function sampling_of(o)
  local chosen = {}
  for _, name in ipairs(sampling_names) do chosen[name] = o[name] end
  return chosen
end

---Notes the steps of what is sampled by options, so that rows of different options have the same (sample.note_steps).
---@param o table  of M.options
---@param steps table
function M.note_steps(o, steps)
  if o.sampler == nil then sample.note_steps(sampling_of(o), steps) end
end

-- The sampling chain, and a text that is equal where chains have the same steps.
local function chain_of(o, also)
  local s = o.sampler
  if s ~= nil then
    local chain = sample.is_chain(s) and s or sample.chain {s}
    return chain, ("sampler %p"):format(s) -- the plans made for it hold it, so that no other has this address
  end
  return sample.from_options(sampling_of(o), also)
end

-- What choosing the likeliest token leaves without effect.
local function warnings_of(o)
  local idle = {}
  if o.sampler ~= nil or not sample.is_greedy(o) then return nil end
  if o.top_p < 1 then idle[1] = "top_p" end
  for _, name in ipairs {"top_k", "min_p", "xtc_probability"} do
    if o[name] > 0 then idle[#idle + 1] = name end
  end
  if #idle == 0 then return nil end
  local does = #idle == 1 and "does" or "do"
  return {("%s %s nothing without a temperature: the likeliest token is taken"):format(table.concat(idle, ", "), does)}
end

-- ---- the iterator ----

---@class moonlet.Generation
---@field metrics table
---@field finish_reason string|nil
---@field text string  so far
---@field ids integer[]  so far, without an end token
---@field logprobs table[]|nil  of those ids, where they were asked for: {id, logprob, top_logprobs}
local Generation = {}
Generation.__index = Generation
Generation.__name = "moonlet.Generation"
Generation.__dir = {"metrics", "finish_reason", "text", "ids", "logprobs"}

function Generation:__tostring()
  return ("generation: %d tokens%s"):format(#self.ids, self.finish_reason and ", ended by " .. self.finish_reason or "")
end

---@param model moonlet.Model
---@param slot moonlet.Slot
---@param ids integer[]  the prompt
---@param o table  of M.options
---@param release function|nil  called once at the end with this generation, and true when nobody held it any more
---@param also table|nil  steps of others, whose rows it may stand beside
function M.start(model, slot, ids, o, release, also)
  if core.recording() then util.raise("usage", "generate: a compiled function cannot make tokens: call it outside") end
  local chain, key = chain_of(o, also)
  local self = setmetatable({
    model = model, runtime = model:runtime(), slot = slot, prompt = ids, options = o, chain = chain, key = key,
    release = release, text = "", ids = {}, logprobs = o.logprobs and {}, pending = "", stops = o.stop or {}, ends = {},
    text_ends = {}, text_size = 0,
    metrics = {
      prompt_tokens = #ids, cached_tokens = 0, generated_tokens = 0,
      prefill_seconds = 0.0, decode_seconds = 0.0, total_seconds = 0.0,
      prefill_tokens_per_second = 0.0, decode_tokens_per_second = 0.0, warnings = warnings_of(o),
    },
  }, Generation)
  for _, id in ipairs(o.stop_tokens or {}) do
    self.ends[util.integer("stop_tokens: an id", id, 0, model.info.vocab_size - 1)] = true
  end
  local tokenizer = model.tokenizer
  if not o.ignore_eos then
    for _, id in ipairs(o.ends or tokenizer and tokenizer.text_ends or model.ends) do self.ends[id] = true end
  end
  self.hidden, self.settled, self.shown_ends, self.shown_size = {}, 0, {}, 0 -- see take_text
  if tokenizer then
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

local function finish(self, reason, collected)
  if self.finish_reason then return end
  self.finish_reason = reason
  local m = self.metrics
  m.finish_reason = reason
  m.total_seconds = self.began and core.clock() - self.began or 0.0
  local fresh = m.prompt_tokens - m.cached_tokens
  m.prefill_tokens_per_second = m.prefill_seconds > 0 and fresh / m.prefill_seconds or 0.0
  m.decode_tokens_per_second = m.decode_seconds > 0 and (m.generated_tokens - 1) / m.decode_seconds or 0.0
  m.peak_bytes, m.active_bytes = core.memory.peak(), core.memory.active()
  if self.stream then self.stream:close() end
  local release, slot, sequence, runtime = self.release, self.slot, self.sequence, self.runtime
  self.release, self.slot, self.sequence, self.runtime = nil, nil, nil, nil
  if sequence then decode.leave(sequence) end
  if not runtime.closed then slot:settle() end
  if release then release(self, collected) end
end

-- ---- text ----

-- Where the first stop string begins; or how long the tail is with which one may begin.
local function find_stop(text, stops)
  local first
  for _, s in ipairs(stops) do
    local at = text:find(s, 1, true)
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

-- Text is shown without special tokens, and stop strings are looked for in the text with them: `pending` is what may
-- yet begin one, `hidden` the places of special tokens in it, {first byte, last byte} each. Of all text, special tokens
-- in it, `text_size` bytes have come, and of `settled` it is known whether they are shown.
local function append(self, text, is_hidden)
  if text == "" then return end
  if is_hidden then self.hidden[#self.hidden + 1] = {#self.pending + 1, #self.pending + #text}
  else self.shown_size = self.shown_size + #text end
  self.pending = self.pending .. text
  self.text_size = self.text_size + #text
end

-- Takes the first n pending bytes away; what of them is shown.
local function take(self, n)
  local parts, at, left = {}, 1, {}
  for _, place in ipairs(self.hidden) do
    local first, last = place[1], place[2]
    if first <= n then
      parts[#parts + 1] = self.pending:sub(at, first - 1)
      at = math.min(last, n) + 1
    end
    if last > n then left[#left + 1] = {math.max(first - n, 1), last - n} end
  end
  parts[#parts + 1] = self.pending:sub(at, n)
  self.pending, self.hidden, self.settled = self.pending:sub(n + 1), left, self.settled + n
  return table.concat(parts)
end

-- What of the pending text can be shown, and whether a stop string was met.
local function settle(self, last)
  local at, held = find_stop(self.pending, self.stops)
  if at then
    local text = take(self, at - 1)
    self.pending, self.hidden = "", {}
    return text, true
  end
  return take(self, #self.pending - (last and 0 or held)), false
end

-- Text that the token completes, with stop strings looked for. Returns the text to show and whether a stop string was
-- met.
local function take_text(self, id, last)
  if not self.stream then return nil, false end
  local new, tail = self.stream:push(id), last and self.stream:finish() or ""
  if #self.stops == 0 then return new .. tail, false end
  local tokenizer = self.model.tokenizer
  append(self, new)
  if tokenizer.raw:is_special(id) then append(self, tokenizer:piece(id), true) end
  append(self, tail)
  self.text_ends[#self.ids], self.shown_ends[#self.ids] = self.text_size, self.shown_size
  return settle(self, last)
end

-- What is left of the text when an end token comes.
local function rest(self)
  if not self.stream then return "" end
  local tail = self.stream:finish()
  if #self.stops == 0 then return tail end
  append(self, tail)
  return (settle(self, true))
end

---The ids that say what `text` says: of an answer that a stop string ended, those before it, a token of which only the
---beginning counts being written anew.
function Generation:kept_ids()
  local n = #self.ids
  if self.settled < self.text_size then
    while n > 0 and self.text_ends[n] > self.settled do n = n - 1 end
    while n > 0 and self.text_ends[n] == (self.text_ends[n - 1] or 0) do n = n - 1 end -- whose text came later
  end
  local kept = table.move(self.ids, 1, n, 1, {})
  if n < #self.ids then
    local tail = self.text:sub((self.shown_ends[n] or 0) + 1)
    local more = self.model.tokenizer:encode(tail, {add_special_tokens = false, parse_special = false})
    table.move(more, 1, #more, n + 1, kept)
  end
  return kept
end

-- ---- tokens ----

-- What the lanes need to know of it.
local function make_sequence(self)
  local o = self.options
  self.sequence = {
    slot = self.slot, key = self.key, chain = self.chain, wanted = o.logprobs ~= nil, drawn = 0,
    seed = o.seed or (os.time() << 20 ~ math.floor(core.clock() * 1e6)),
  }
  return self.sequence
end

-- The first token; nil where the prompt was not taken to its end.
local function begin_sequence(lane, self)
  local cached, stopped = lane:prefill(self.slot, self.prompt, function() return interrupted(self) ~= nil end)
  self.metrics.cached_tokens = cached
  if stopped then return nil end
  local id = lane:first(make_sequence(self))
  self.metrics.prefill_seconds = core.clock() - self.began
  return id
end

local function go_on(lane, self)
  local from = core.clock()
  local id = lane:step(self.sequence)
  self.metrics.decode_seconds = self.metrics.decode_seconds + core.clock() - from
  return id
end

-- The next id, and where log probabilities are asked for its own and the likeliest.
local function next_id(lane, self)
  local id = (self.sequence and go_on or begin_sequence)(lane, self)
  if not id or not self.options.logprobs then return id end
  return id, lane:logprobs(1, id, self.options.logprobs)
end

-- The first call begins the clock.
local function begin(self)
  if self.began then return end
  self.began = core.clock()
  if self.options.deadline then self.ends_at = self.began + self.options.deadline end
end

-- What becomes of the next id: a token, or nil where it only ends the text.
local function accept(self, id, logprob, top)
  local o, m, capacity = self.options, self.metrics, self.runtime.capacity
  local index = m.generated_tokens + 1
  m.generated_tokens = index
  if self.ends[id] then
    local text = rest(self)
    self.text = self.text .. text
    finish(self, "stop")
    return text ~= "" and {id = id, text = text, index = index} or nil
  end
  self.ids[index] = id
  local full = #self.prompt + index > capacity -- a token behind a full context cannot be fed
  local last = index >= o.max_tokens or full
  local text, stopped = take_text(self, id, last)
  local token = {id = id, text = text, index = index}
  if o.logprobs then
    token.logprob, token.top_logprobs = logprob, top
    self.logprobs[index] = {id = id, logprob = token.logprob, top_logprobs = token.top_logprobs}
  end
  if text then self.text = self.text .. text end
  if stopped then finish(self, "stop") elseif last then finish(self, "length") end
  return token
end

local function advance(self)
  if self.options.max_tokens == 0 then return finish(self, "length") end
  begin(self)
  local reason = interrupted(self)
  if reason then return finish(self, reason) end
  local id, logprob, top = self.runtime:with_lane(1, self.ends_at, next_id, self)
  if not id then return finish(self, interrupted(self)) end
  return accept(self, id, logprob, top)
end

-- Of those that others advance (batch.lua).
M.begin, M.interrupted, M.finish, M.accept, M.make_sequence = begin, interrupted, finish, accept, make_sequence

local function raise_failure(self)
  local message = self.failure
  self.failure = nil
  util.raise("usage", "%s", message)
end

---Its model is closed: the next call raises, or the one that runs when it returns. One that has ended stays as it is.
function Generation:abort(message)
  if self.finish_reason then return end
  self.failure = message
  if not self.running then finish(self, "error") end
end

-- A coroutine that is closed while a callback waits in it makes the token no more.
local Running = {__close = function(r) r[1].running = nil end}

---The next token, or nil at the end. An error raises and leaves finish_reason = "error"; cancellation and deadline end
---normally.
function Generation:next()
  if self.failure and not self.running then raise_failure(self) end
  if self.finish_reason then return nil end
  if self.running then util.raise("usage", "the generation is asked for a token while it makes one") end
  self.running = true
  local _ <close> = setmetatable({self}, Running)
  local ok, token = pcall(trace.unscoped, advance, self)
  self.running = nil
  if self.failure then
    finish(self, "error")
    raise_failure(self)
  end
  if self.closing then finish(self, "cancelled") end
  if ok then return not self.closing and token or nil end
  local err = token
  local code = type(err) == "table" and err.code
  local asked = self.options.cancel and self.options.cancel.cancelled
  if code == "deadline" and self.ends_at or code == "cancelled" and asked then
    finish(self, code)
    return nil
  end
  finish(self, code == "cancelled" and "cancelled" or "error")
  error(err, 0)
end

Generation.__call = Generation.next

---Ends the generation early; harmless afterwards. From within a callback it takes effect when that returns.
function Generation:close()
  if self.running then self.closing = true else finish(self, "cancelled") end
end
Generation.__close = Generation.close
Generation.__gc = function(self) finish(self, "cancelled", true) end

---Seconds since it began.
---@return number
function Generation:elapsed() return core.clock() - self.began end

---What there is of it so far: {text, ids, finish_reason, metrics, logprobs}.
function Generation:result()
  return {
    text = self.text, ids = self.ids, finish_reason = self.finish_reason, metrics = self.metrics,
    logprobs = self.logprobs,
  }
end

---Runs to the end; the whole result.
---@return string text, table result  {text, ids, finish_reason, metrics, logprobs}
function Generation:complete()
  while self:next() do end -- luacheck: ignore 542
  return self.text, self:result()
end
util.know(Generation, "generation:")

return M
