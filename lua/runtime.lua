---Generation as plans: prefill by chunks, decode by replays.
---
---A runtime owns a KV cache of `slots` slots and the state that its plans read and write: per slot the last token, the number of tokens held, a
---ring of recent ids; the random state. Sizes of prefill chunks come from a short list, and how many tokens of a chunk are real
---is data, so prompts of any length share a few plans.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local cache = require "moonlet.cache"
local util = require "moonlet.util"

local M = {}

local CHUNKS = {8, 16, 32, 64, 128, 256, 512}
local KEPT_PLANS = 8 -- decode plans of different sampling chains

---@class moonlet.Runtime
local Runtime = {}
Runtime.__index = Runtime

local function int_state(n, fill)
  local values = {}
  for i = 1, n do values[i] = fill end
  return core.ops.state(ml.tensor(values, {dtype = "int32"}))
end

---@param model moonlet.Model
---@param slots integer
function M.new(model, slots)
  local self = setmetatable({model = model, slots = slots, capacity = model.info.context, prefills = {}, decoders = {}, order = {}}, Runtime)
  self.store = cache.store(slots, self.capacity, model.cache_dtype)
  self.tokens = int_state(slots, 0)
  self.start, self.one = int_state(slots, 0), int_state(slots, 1)
  self.rng = core.ops.state(ml.tensor({0, 0, 0}, {dtype = "uint32"}))
  self.logits = nil -- (slots, V) state: what the last prefill gave
  self.ids, self.committed = {}, 0
  local every = {}
  for i = 1, slots do
    every[i] = i - 1
    self.ids[i] = {}
  end
  self.every = ml.tensor(every, {dtype = "int32"})
  return self
end

-- ---- prefill ----

local function chunk_for(n)
  for i = #CHUNKS, 1, -1 do
    local size = CHUNKS[i]
    if size <= n then
      local next_size = CHUNKS[i + 1]
      if next_size and n > size and next_size <= n * 1.25 then return next_size end
      return size
    end
  end
  return CHUNKS[1]
end

-- The plan of one chunk: T tokens into a slot; `last` says that the logits after its last real token are wanted.
local function prefill_plan(self, T, last)
  local key = T .. (last and "+" or "")
  local entry = self.prefills[key]
  if entry then return entry end
  entry = {tokens = int_state(T, 0), slot = int_state(1, 0), start = int_state(1, 0), count = int_state(1, 0)}
  local before = core.effects()
  local ok, err = pcall(function()
    local caches = self.store:view(entry.slot, entry.start, entry.count)
    local logits = self.model.net(entry.tokens:reshape {1, T}, caches)
    if last then
      local row = ml.take(logits:reshape {T, logits.shape[3]}, entry.count - 1, 1) -- (1, V)
      self.logits = self.logits or core.ops.state({self.slots, row.shape[2]}, "float32")
      if self.slots == 1 then ml.assign(self.logits, row:astype "float32") end
      entry.plan = core.plan({}, self.slots == 1 and {} or {row})
    else
      entry.plan = core.plan({}, {})
    end
  end)
  if not ok then
    core.drop_effects(before)
    error(err, 0)
  end
  self.prefills[key] = entry
  return entry
end

local function commit(self, tokens)
  if tokens <= self.committed then return end
  self.store:commit(math.min(self.capacity, tokens + 255 & ~255) * self.slots)
  self.committed = tokens + 255 & ~255
end

---Puts ids into a slot behind what it keeps of them already; afterwards `logits` holds those after the last. Returns how many tokens were
---found in the cache.
---@param slot integer  1-based
---@param ids integer[]
---@param check function|nil  called between chunks; true stops
function Runtime:prefill(slot, ids, check)
  local held = self.ids[slot]
  if #ids == 0 then util.raise("usage", "the prompt is empty: expected at least one token") end
  if #ids > self.capacity then util.raise("limit", "the prompt has %d tokens, the context holds %d", #ids, self.capacity) end
  local same = 0
  while same < #held and same < #ids - 1 and held[same + 1] == ids[same + 1] do same = same + 1 end
  for i = #held, same + 1, -1 do held[i] = nil end
  local at = same
  while at < #ids do
    if check and check() then return same, true end
    local T = chunk_for(#ids - at)
    local count = math.min(T, #ids - at)
    local last = at + count == #ids
    local room = {}
    for i = 1, T do room[i] = ids[at + i] or 0 end
    local entry = prefill_plan(self, T, last)
    commit(self, at + count)
    entry.tokens:write_(room)
    entry.slot:write_ {slot - 1}
    entry.start:write_ {at}
    entry.count:write_ {count}
    entry.plan:run()
    for i = at + 1, at + count do held[i] = ids[i] end
    at = at + count
  end
  return same, false
end

---Forgets all but the first n tokens of a slot.
function Runtime:trim(slot, n)
  local held = self.ids[slot]
  for i = #held, n + 1, -1 do held[i] = nil end
end

-- ---- decode ----

-- Sampling state that a chain's steps see.
local function chain_state(self, ring)
  return {
    recent = ring,
    uniform = function()
      local bits = ml.random_bits(self.rng, {self.slots})
      ml.assign(self.rng, self.rng + ml.tensor({0, 0, 1}, {dtype = "uint32"}))
      return ml.right_shift(bits, 8):astype "float32" * 2.0 ^ -24
    end,
  }
end

-- Records: logits (B, V) -> next tokens into the state, with what the caller wants to know of them.
local function pick(self, chain, ring, logits, wanted)
  local state = chain_state(self, ring)
  local chosen = chain(logits, state)
  local ids = chain.greedy and chosen:argmax(-1) or ml.categorical(chosen, state.uniform())
  ml.assign(self.tokens, ids)
  ml.ring_push(ring, ids, self.start)
  if not wanted then return {} end
  local log_p = logits:log_softmax()
  return {log_p}
end

-- Plans of one sampling chain: `first` picks from the prefill's logits, `step` runs the model on the last token and picks.
local function decoder(self, key, chain, wanted)
  key = key .. (wanted and "+logprobs" or "")
  local entry = self.decoders[key]
  if entry then return entry end
  entry = {ring = int_state(self.slots * math.max(1, chain.last_n), -1)}
  local ring = entry.ring:reshape {self.slots, math.max(1, chain.last_n)}
  entry.ring_size = math.max(1, chain.last_n)
  local before = core.effects()
  local ok, err = pcall(function()
    entry.first = core.plan({}, pick(self, chain, ring, self.logits, wanted))
    local caches = self.store:view(self.every, self.start, self.one)
    local logits = self.model.net(self.tokens:reshape {self.slots, 1}, caches)
    ml.assign(self.start, self.start + 1)
    logits = logits:reshape {self.slots, logits.shape[3]}:astype "float32"
    entry.step = core.plan({}, pick(self, chain, ring, logits, wanted))
  end)
  if not ok then
    core.drop_effects(before)
    error(err, 0)
  end
  self.decoders[key] = entry
  table.insert(self.order, key)
  if #self.order > KEPT_PLANS then self.decoders[table.remove(self.order, 1)] = nil end
  return entry
end

---Begins to decode slot 1 behind what prefill left: seeds the random state, fills the ring of recent ids.
---@return table  to hand to `first` and `step`
function Runtime:begin(key, chain, wanted, seed, prompt)
  local entry = decoder(self, key, chain, wanted)
  local n, ring = entry.ring_size, {}
  for i = 1, n do ring[i] = -1 end
  -- the id at position p lies at p mod n; the prompt's last token has position #prompt - 1
  for p = math.max(0, #prompt - n), #prompt - 1 do ring[p % n + 1] = prompt[p + 1] end
  entry.ring:write_(ring)
  self.start:write_ {#prompt}
  self.rng:write_ {seed & 0xffffffff, seed >> 32 & 0xffffffff, 0}
  return entry
end

---The first token after the prompt: its id, and the log probabilities (1, V) where they are wanted.
function Runtime:first(entry)
  local log_p = entry.first:run()
  return self.tokens:read(1), log_p
end

---Feeds the last token and picks the next.
function Runtime:step(entry)
  local held = self.ids[1]
  if #held >= self.capacity then util.raise("limit", "the context of %d tokens is full", self.capacity) end
  commit(self, #held + 1)
  local fed = self.tokens:read(1)
  local log_p = entry.step:run()
  held[#held + 1] = fed
  return self.tokens:read(1), log_p
end

function Runtime:close()
  self.store:close()
  for _, entry in pairs(self.prefills) do entry.plan:close() end
  for _, entry in pairs(self.decoders) do
    entry.first:close()
    entry.step:close()
  end
  self.prefills, self.decoders = {}, {}
end

return M
