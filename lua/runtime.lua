---The runtime of a model: what all that generate with it share, its caches and its plans.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local cache = require "moonlet.cache"
local decode = require "moonlet.decode"
local plans = require "moonlet.plans"
local prefill = require "moonlet.prefill"
local scoring = require "moonlet.scoring"
local slots = require "moonlet.slot"
local trace = require "moonlet.trace"
local util = require "moonlet.util"

local M = {}

---@class moonlet.Runtime
---@field store moonlet.CacheStore
---@field capacity integer  tokens a sequence
---@field lanes table<integer, moonlet.Lane[]>  by rows
local Runtime = {}
Runtime.__index = Runtime

---@param model moonlet.Model
function M.new(model)
  return setmetatable({
    model = model, capacity = model.info.context, lanes = {}, scorers = {}, packed = {},
    store = cache.store(model.info.context, model.cache_dtype),
  }, Runtime)
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

---Raises "corrupt", of what the model gives that is no number or no choice; where that was computed in float16, the
---message says what may help.
---@param format string
function Runtime:corrupt(format, ...)
  local hint = self.model.info.compute_dtype == "float16"
    and ": it was computed in float16, whose largest number is 65504; float32 and bfloat16 have room for more" or ""
  util.raise("corrupt", "%s%s", format:format(...), hint)
end

---Records the model's logits of tokens (B, T) with caches.
function Runtime:forward(tokens, caches)
  return M.check_logits(self.model, tokens, cache.forward(self.model.net, tokens, caches, self.store))
end

---Records the model's logits of tokens (B, T), which are of slots (B), behind `start` tokens, `count` of them real.
function Runtime:net_logits(tokens, rows, start, count)
  return self:forward(tokens, self.store:view(rows, start, count, tokens.shape[2]))
end

---A prompt that cannot be run: "usage" when it is empty, "limit" when it is longer than the context.
---@param what string|nil  the call, for messages
function Runtime:check_prompt(ids, what)
  what = what and what .. ": " or ""
  if #ids == 0 then util.raise("usage", "%sthe prompt is empty: expected at least one token", what) end
  if #ids > self.capacity then
    util.raise("limit", "%sthe prompt has %d tokens, the context holds %d", what, #ids, self.capacity)
  end
end

---A slot that holds nothing.
---@return moonlet.Slot
function Runtime:slot() return slots.new(self.store) end

---Calls fn with a lane of so many rows, which is nobody else's until fn returns.
---@param rows integer
---@param ends_at number|nil  when runs end with "deadline"
---@param fn function
function Runtime:with_lane(rows, ends_at, fn, ...)
  local lanes = self.lanes[rows] or {}
  self.lanes[rows] = lanes
  local lane
  for _, l in ipairs(lanes) do
    if not l.busy then lane = l; break end
  end
  if not lane then
    lane = trace.unscoped(decode.lane, self, rows)
    table.insert(lanes, lane)
  end
  lane.busy, lane.ends_at = true, ends_at
  local results = table.pack(pcall(fn, lane, ...))
  lane.busy, lane.ends_at = nil, nil
  if self.closed then lane:close() end
  if not results[1] then error(results[2], 0) end
  return table.unpack(results, 2, results.n)
end

---Records what the store keeps of each layer, where nothing has been recorded yet.
function Runtime:learn() return self:with_lane(1, nil, prefill.learn) end

---Whether layers keep states of fixed size.
function Runtime:has_records()
  self:learn()
  for _, pool in ipairs(self.store.pools) do
    if pool.record then return true end
  end
  return false
end

---Minus the log probabilities of ids[2], ids[3] ... given all before.
---@param slot moonlet.Slot
---@param ids integer[]
function Runtime:score(slot, ids) return scoring.nll(self, slot, ids) end

---Frees everything; twice is harmless. A lane that is in use is freed when its user returns.
function Runtime:close()
  if self.closed then return end
  self.closed = true
  self.store:close()
  for _, lanes in pairs(self.lanes) do
    for _, lane in ipairs(lanes) do
      if not lane.busy then lane:close() end
    end
  end
  for _, entries in ipairs {self.scorers, self.packed} do
    for _, entry in pairs(entries) do plans.close_fields(entry) end
  end
  self.scorers, self.packed, self.lanes = {}, {}, {}
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
