---KV caches: state of fixed address and shape, appended in place.
---
---A store holds the keys and values of every layer for a number of slots. A view says which slots the rows of a batch
---use, where each begins and how many of its tokens are real; it is what a family's forward gets as `caches`, one entry
---a layer.
local core = require "moonlet.core"
local ml = require "moonlet.init"

local M = {}

---@class moonlet.CacheStore
local Store = {}
Store.__index = Store

---@param slots integer
---@param capacity integer  tokens a slot
---@param dtype string  "float32" or "float16"
function M.store(slots, capacity, dtype)
  dtype = dtype or "float32"
  return setmetatable({slots = slots, capacity = capacity, dtype = dtype, layers = {}, row_bytes = 0}, Store)
end

-- Address space for the whole context; memory is committed as it fills.
local function reserve(self, layer, k, v)
  local ks, vs = k.shape, v.shape
  local item = self.dtype == "float16" and 2 or 4
  self.layers[layer] = ml.keep {
    k = core.ops.state({self.slots, ks[2], self.capacity, ks[4]}, self.dtype),
    v = core.ops.state({self.slots, vs[2], self.capacity, vs[4]}, self.dtype),
  }
  self.row_bytes = self.row_bytes + (ks[2] * ks[4] + vs[2] * vs[4]) * item
end

---Counts the memory of `tokens` tokens in all slots together; "limit" when the device's limit forbids it.
function Store:commit(tokens)
  for _, layer in pairs(self.layers) do
    for _, x in pairs(layer) do x:commit_(x.nbytes // (self.slots * self.capacity) * tokens) end
  end
end

function Store:close()
  for _, layer in pairs(self.layers) do
    layer.k:close()
    layer.v:close()
  end
  self.layers = {}
end

local View = {}
View.__index = View

---Appends k and v (B, KV heads, T, d) and returns the whole keys and values of the slots.
function View:append(k, v)
  if not self.store.layers[self.layer] then reserve(self.store, self.layer, k, v) end
  local layer = self.store.layers[self.layer]
  local slots, start, count = self.slots, self.start, self.count
  return ml.cache_append(layer.k, k, slots, start, count), ml.cache_append(layer.v, v, slots, start, count)
end

---One entry a layer, made when it is asked for.
---@param slots moonlet.Tensor  (B) int32: 0-based slot of each row
---@param start moonlet.Tensor  (B) int32: tokens that the slot holds before
---@param count moonlet.Tensor  (B) int32: how many of the T new tokens are real
function Store:view(slots, start, count)
  return setmetatable({}, {__index = function(t, layer)
    local view = setmetatable({store = self, layer = layer, slots = slots, start = start, count = count}, View)
    rawset(t, layer, view)
    return view
  end})
end

return M
