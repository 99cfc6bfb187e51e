---Generation as plans: prefill by chunks, decode by replays (see decode.lua).
---
---A runtime owns a KV cache of `slots` slots and the state that its plans read and write: per slot the last token, the
---number of tokens held, a ring of recent ids; the random state. Sizes of prefill chunks come from a short list, and
---how many tokens of a chunk are real is data, so prompts of any length share a few plans.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local cache = require "moonlet.cache"
local compile = require "moonlet.compile"
local decode = require "moonlet.decode"
local plans = require "moonlet.plans"
local trace = require "moonlet.trace"
local util = require "moonlet.util"

local M = {}

local CHUNKS = {8, 16, 32, 64, 128, 256, 512}
local SCORE_BYTES = 64 << 20 -- of the logits that `score` has at once

---@class moonlet.Runtime
---@field ids integer[][]  per slot, the ids that its cache holds
---@field logits moonlet.Tensor|nil  (slots, V) float32 state: those after the last prefill
---@field ends_at number|nil  core.clock() at which runs end with "deadline"
local Runtime = {}
Runtime.__index = Runtime

local int_state = plans.int_state

-- The state that all plans share.
local function states(slots)
  local every = {}
  for i = 1, slots do every[i] = i - 1 end
  return {
    tokens = int_state(slots, 0), start = int_state(slots, 0), one = int_state(slots, 1),
    rng = core.make_state(ml.tensor({0, 0, 0}, {dtype = "uint32"})), every = ml.tensor(every, {dtype = "int32"}),
  }
end

local function make(model, slots)
  local _ <close> = core.on(model.device)
  local self = setmetatable({
    model = model, slots = slots, capacity = model.info.context, prefills = {}, scorers = {}, decoders = {}, order = {},
  }, Runtime)
  self.store = cache.store(slots, self.capacity, model.cache_dtype)
  for name, x in pairs(compile.scope(states, slots)) do self[name] = x end
  self.ids, self.committed = {}, 0
  for i = 1, slots do self.ids[i] = {} end
  return self
end

---@param model moonlet.Model
---@param slots integer
function M.new(model, slots) return trace.unscoped(make, model, slots) end

-- ---- prefill ----

-- A chunk costs a pass over the weights, about what this many rows cost.
local PASS_ROWS = 12

-- The largest chunk that n tokens fill, or the next one, padded, where that saves a pass that costs more.
local function chunk_for(n)
  for i = #CHUNKS, 1, -1 do
    local size = CHUNKS[i]
    if size <= n then
      local next_size = CHUNKS[i + 1]
      local rest = n - size
      if next_size and rest > 0 and next_size - size <= PASS_ROWS + math.max(rest, CHUNKS[1]) then return next_size end
      return size
    end
  end
  return CHUNKS[1]
end

-- State of a chunk's plan: T tokens into a slot, how many are before and how many are real.
local function chunk_state(T)
  return {tokens = int_state(T, 0), slot = int_state(1, 0), start = int_state(1, 0), count = int_state(1, 0)}
end

---The logits that a family's forward gave for tokens (B, T): float (B, T, V), or an error that says what it is.
---@param model moonlet.Model
---@param tokens moonlet.Tensor
---@param logits any
---@return moonlet.Tensor
function M.check_logits(model, tokens, logits)
  local B, T, V = tokens.shape[1], tokens.shape[2], model.info.vocab_size
  local shape = ml.is_tensor(logits) and table.concat(logits.shape, ", ")
  if shape and shape == ("%d, %d, %d"):format(B, T, V) and logits.dtype:find "float" then return logits end
  util.unexpected(("family %s: forward"):format(model.info.family),
    ("float logits (B, T, V) of its tokens (B, T), here (%d, %d, %d)"):format(B, T, V), logits, "mismatch")
end

-- Records the model's logits of tokens (rows, T).
local function net_logits(self, tokens, slots, start, count)
  local caches = self.store:view(slots, start, count)
  return M.check_logits(self.model, tokens, cache.forward(self.model.net, tokens, caches, self.store))
end
Runtime.net_logits = net_logits

local function chunk_logits(self, entry, T)
  local logits = net_logits(self, entry.tokens:reshape {1, T}, entry.slot, entry.start, entry.count)
  return logits:reshape {T, logits.shape[3]}
end

-- The plan of one chunk; `last` says that the logits after its last real token are wanted.
local function prefill_plan(self, T, last)
  local key = T .. (last and "+" or "")
  if self.prefills[key] then return self.prefills[key] end
  local entry
  plans.record(function()
    entry = chunk_state(T)
    local logits = chunk_logits(self, entry, T)
    if last then
      local row = ml.take(logits, entry.count - 1, 1):astype "float32" -- (1, V)
      self.logits = self.logits or ml.keep(core.make_state({self.slots, row.shape[2]}, "float32"))
      if self.slots > 1 then util.raise("unsupported", "prefill: one slot at a time so far") end
      ml.assign(self.logits, row)
    end
    entry.plan = core.plan({}, {})
    return entry
  end)
  if self.store.unused and not self.memoryless then
    cache.check_memoryless(self.model.net, self.model.info.vocab_size)
    self.memoryless = true
  end
  self.prefills[key] = entry
  return entry
end

-- Puts `count` ids from position `at` + 1 of the list on into a chunk's state.
local function fill(entry, slot, ids, at, count, T)
  local room = {}
  for i = 1, T do room[i] = i <= count and ids[at + i] or 0 end
  core.state_write(entry.tokens, room)
  core.state_write(entry.slot, {slot - 1})
  core.state_write(entry.start, {at})
  core.state_write(entry.count, {count})
end

---How many of the first ids a slot holds already; at least the last is left to compute.
function Runtime:shared(slot, ids)
  local held, same = self.ids[slot], 0
  while same < #held and same < #ids - 1 and held[same + 1] == ids[same + 1] do same = same + 1 end
  return same
end

---A prompt that cannot be run: "usage" when it is empty, "limit" when it is longer than the context.
function Runtime:check_prompt(ids)
  if #ids == 0 then util.raise("usage", "the prompt is empty: expected at least one token") end
  if #ids > self.capacity then
    util.raise("limit", "the prompt has %d tokens, the context holds %d", #ids, self.capacity)
  end
end

---Puts ids into a slot behind what it keeps of them already; afterwards `logits` holds those after the last. Returns
---how many tokens were found in the cache, and whether `check` stopped it.
---@param slot integer  1-based
---@param ids integer[]
---@param check function|nil  called between chunks; true stops
function Runtime:prefill(slot, ids, check)
  self:check_prompt(ids)
  local held, same = self.ids[slot], self:shared(slot, ids)
  self:trim(slot, same)
  local at = same
  while at < #ids do
    if check and check() then return same, true end
    local T = chunk_for(#ids - at)
    local count = math.min(T, #ids - at)
    local entry = prefill_plan(self, T, at + count == #ids)
    plans.commit(self, at + count)
    fill(entry, slot, ids, at, count, T)
    plans.run(self, entry.plan)
    table.move(ids, at + 1, at + count, at + 1, held)
    at = at + count
  end
  return same, false
end

---Forgets all but the first n tokens of a slot.
function Runtime:trim(slot, n)
  local held = self.ids[slot]
  for i = #held, n + 1, -1 do held[i] = nil end
end

-- ---- whole sequences: how likely each token was ----

-- Like a prefill's plan, with the negative log likelihood (T) of a target a position.
local function score_plan(self, T)
  if self.scorers[T] then return self.scorers[T] end
  local entry
  plans.record(function()
    entry = chunk_state(T)
    entry.targets, entry.nll = int_state(T, 0), core.make_state(ml.zeros {T})
    local logits = decode.shares(chunk_logits(self, entry, T):astype "float32")
    local own = ml.take_along_axis(logits, entry.targets:reshape {T, 1}, -1):reshape {T}
    ml.assign(entry.nll, logits:logsumexp(-1) - own)
    entry.plan = core.plan({}, {})
    return entry
  end)
  self.scorers[T] = entry
  return entry
end

---Natural logarithms: minus the log probability of ids[2], ids[3] ... given all before. The logits of a few rows exist
---at a time.
---@param slot integer
---@param ids integer[]
---@return number[]
function Runtime:score(slot, ids)
  self:check_prompt(ids)
  self:trim(slot, 0)
  local most = math.max(CHUNKS[1], SCORE_BYTES // (4 * self.model.info.vocab_size))
  local at, total, nll = 0, #ids - 1, {}
  while at < total do
    local T = chunk_for(total - at)
    while T > most and T > CHUNKS[1] do T = T // 2 end
    local count = math.min(T, total - at)
    local entry, targets = score_plan(self, T), {}
    plans.commit(self, at + count)
    fill(entry, slot, ids, at, count, T)
    for i = 1, T do targets[i] = i <= count and ids[at + i + 1] or 0 end
    core.state_write(entry.targets, targets)
    plans.run(self, entry.plan)
    table.move(entry.nll:tolist(), 1, count, at + 1, nll)
    for i = at + 1, at + count do
      if nll[i] ~= nll[i] then
        util.raise("corrupt", "the model gives no probabilities: its logits hold a NaN, or nothing but -inf, behind %d "
          .. "token%s", i, i == 1 and "" or "s")
      end
    end
    at = at + count
  end
  return nll
end

-- ---- copies of a cache ----

-- The cache has a layer's shape once a forward has been recorded.
local function reserve(self)
  if next(self.store.layers) == nil then prefill_plan(self, CHUNKS[1], false) end
end

---Keys and values of the first n tokens of slot 1: a list of {k, v} a layer, each (1, heads, n, d): views of the cache,
---to be read before it changes.
function Runtime:cache_contents(n)
  local out = {}
  for i, layer in ipairs(self.store.layers) do
    out[i] = {k = layer.k:slice {{1, 1}, {}, {1, n}, {}}, v = layer.v:slice {{1, 1}, {}, {1, n}, {}}}
  end
  return out
end

---Puts such contents, of the tokens `ids`, into slot 1. False where they do not fit this model's cache.
function Runtime:set_cache(contents, ids)
  reserve(self)
  self:trim(1, 0)
  local n = #ids
  if #contents ~= #self.store.layers or n > self.capacity then return false end
  for i, layer in ipairs(self.store.layers) do
    for name, state in pairs(layer) do
      local x, heads, size = contents[i][name], state.shape[2], state.shape[4]
      local shape = ("1,%d,%d,%d"):format(heads, n, size)
      if x.dtype ~= state.dtype or table.concat(x.shape, ",") ~= shape then return false end
    end
  end
  plans.commit(self, n)
  local zero, count, done = ml.tensor({0}, {dtype = "int32"}), ml.tensor({n}, {dtype = "int32"}), {}
  for i, layer in ipairs(self.store.layers) do
    done[#done + 1] = ml.cache_append(layer.k, contents[i].k, zero, zero, count)
    done[#done + 1] = ml.cache_append(layer.v, contents[i].v, zero, zero, count)
  end
  ml.eval(table.unpack(done))
  table.move(ids, 1, n, 1, self.ids[1])
  return true
end

-- ---- decode ----

Runtime.begin, Runtime.first, Runtime.step, Runtime.logprobs = decode.begin, decode.first, decode.step, decode.logprobs

---Frees everything; twice is harmless.
function Runtime:close()
  self.store:close()
  for _, entries in ipairs {self.prefills, self.scorers} do
    for _, entry in pairs(entries) do plans.close_fields(entry) end
  end
  decode.close(self)
  self.prefills, self.scorers = {}, {}
  plans.close_fields(self)
end

-- What a runtime makes lies where its model does.
for name, fn in pairs(Runtime) do
  if type(fn) == "function" then
    Runtime[name] = function(self, ...)
      local _ <close> = core.on(self.model.device)
      return fn(self, ...)
    end
  end
end

return M
