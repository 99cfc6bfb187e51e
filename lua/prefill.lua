---Prefill: a prompt into a slot, chunk after chunk. Sizes of chunks come from a short list, and how many tokens of one
---are real is data, so prompts of any length share a few plans.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local cache = require "moonlet.cache"
local plans = require "moonlet.plans"

local M = {}

---Sizes of chunks. Those on a device that is asynchronous are up to as large as leaves none of it idle.
M.CHUNKS = {8, 16, 32, 64, 128, 256, 512, 1024, 2048}
local CHUNKS = M.CHUNKS
local MOST_AT_ONCE = 7 -- of them on a device that gives its results at once

local function most_chunks(device)
  return core.device(device).asynchronous and #CHUNKS or MOST_AT_ONCE
end

-- A chunk costs a pass over the weights, about what this many rows cost.
local PASS_ROWS = 12

---The largest chunk that n tokens fill, or the next one, padded, where that saves a pass that costs more.
---@param n integer
---@param device string
function M.chunk_for(n, device)
  local most = most_chunks(device)
  for i = most, 1, -1 do
    local size = CHUNKS[i]
    if size <= n then
      local next_size = i < most and CHUNKS[i + 1]
      local rest = n - size
      if next_size and rest > 0 and next_size - size <= PASS_ROWS + math.max(rest, CHUNKS[1]) then return next_size end
      return size
    end
  end
  return CHUNKS[1]
end

---State of a chunk's plan: T tokens into a slot, how many are before and how many are real.
function M.state(T)
  return {
    tokens = plans.int_state(T, 0), slot = plans.int_state(1, 0), start = plans.int_state(1, 0),
    count = plans.int_state(1, 0),
  }
end

---Records the logits (T, V) of a chunk.
---@param runtime moonlet.Runtime
function M.logits(runtime, entry, T)
  local logits = runtime:net_logits(entry.tokens:reshape {1, T}, entry.slot, entry.start, entry.count)
  return logits:reshape {T, logits.shape[3]}
end

---Puts `count` ids from position `at` + 1 of the list on into a chunk's state.
---@param slot moonlet.Slot
function M.fill(entry, slot, ids, at, count, T)
  local room = {}
  for i = 1, T do room[i] = i <= count and ids[at + i] or 0 end
  core.state_write(entry.tokens, room)
  core.state_write(entry.slot, {slot.row})
  core.state_write(entry.start, {at})
  core.state_write(entry.count, {count})
end

-- The plan of one chunk; `last` says that the logits after its last real token are wanted.
local function chunk_plan(self, T, last)
  local key = T .. (last and "+" or "")
  if self.prefills[key] then return self.prefills[key] end
  local runtime, entry = self.runtime, nil
  plans.record(function()
    entry = M.state(T)
    local logits = M.logits(runtime, entry, T)
    if last then
      local row = ml.take(logits, entry.count - 1, 1):astype "float32" -- (1, V)
      self.logits = self.logits or ml.keep(core.make_state({1, row.shape[2]}, "float32"))
      ml.assign(self.logits, row)
    end
    entry.plan = core.plan({}, {})
    return entry
  end)
  if runtime.store.unused and not runtime.memoryless then
    cache.check_memoryless(runtime.model.net, runtime.model.info.vocab_size)
    runtime.memoryless = true
  end
  self.prefills[key] = entry
  return entry
end

---Records what a store keeps of each layer, where nothing has been recorded yet.
function M.learn(self)
  if next(self.runtime.store.layers) == nil then chunk_plan(self, CHUNKS[1], false) end
end

---One chunk of ids behind what a slot holds of them. Returns whether it was the last: then `logits` holds those after
---it.
---@param self moonlet.Lane  of one row
---@param slot moonlet.Slot
---@param ids integer[]
---@return boolean
function M.chunk(self, slot, ids)
  local at, held = #slot.ids, slot.ids
  local T = M.chunk_for(#ids - at, self.runtime.model.device)
  local count = math.min(T, #ids - at)
  local entry = chunk_plan(self, T, at + count == #ids)
  slot:reserve(at + count)
  M.fill(entry, slot, ids, at, count, T)
  local ok, err = pcall(plans.run, self, entry.plan)
  if not ok then
    slot:fail()
    error(err, 0)
  end
  table.move(ids, at + 1, at + count, at + 1, held)
  if #held < #ids then return false end
  slot:snapshot()
  return true
end

---Puts ids into a slot behind what it keeps of them already; afterwards `logits` holds those after the last. Returns
---how many tokens were found in the cache, and whether `check` stopped it.
---@param self moonlet.Lane  of one row
---@param slot moonlet.Slot
---@param ids integer[]
---@param check function|nil  called between chunks; true stops
function M.run(self, slot, ids, check)
  self.runtime:check_prompt(ids)
  local same = slot:trim(slot:shared(ids))
  repeat
    if check and check() then return same, true end
  until M.chunk(self, slot, ids)
  return same, false
end

return M
