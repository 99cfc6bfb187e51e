---KV caches: state of fixed address and shape, appended in place.
---
---A store holds the keys and values of every layer for a number of slots. A view says which slots the rows of a batch
---use, where each begins and how many of its tokens are real; it is what a family's forward gets as `caches`, one entry
---a layer.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local util = require "moonlet.util"

local M = {}

-- The forward that a runtime records now: by layer, the module that appended to its cache; `unturned`, the first
-- module that took positions from no cache.
local watched

---@class moonlet.CacheStore
local Store = {}
Store.__index = Store

---@param slots integer
---@param capacity integer  tokens a slot
---@param dtype string  "float32", "float16" or "bfloat16"
function M.store(slots, capacity, dtype)
  dtype = dtype or "float32"
  local self = {slots = slots, capacity = capacity, dtype = dtype, layers = {}, row_bytes = 0, tokens = 0}
  return setmetatable(self, Store)
end

-- Address space for the whole context; it gets memory as it fills (Store:commit).
local function reserve(self, layer, k, v)
  local ks, vs = k.shape, v.shape
  local item = self.dtype == "float32" and 4 or 2
  self.layers[layer] = ml.keep {
    k = core.reserve_state({self.slots, ks[2], self.capacity, ks[4]}, self.dtype),
    v = core.reserve_state({self.slots, vs[2], self.capacity, vs[4]}, self.dtype),
  }
  for _, x in pairs(self.layers[layer]) do core.state_commit(x, 3, self.tokens) end
  self.row_bytes = self.row_bytes + (ks[2] * ks[4] + vs[2] * vs[4]) * item
end

---Has memory for `tokens` tokens in each slot of what layers there are, and of those to come; "limit" when the device's
---limit forbids it.
function Store:commit(tokens)
  for _, layer in pairs(self.layers) do
    for _, x in pairs(layer) do core.state_commit(x, 3, tokens) end
  end
  self.tokens = tokens
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

-- Two layers in one cache: the second would write over the first.
local function note_append(layer)
  local first = watched.appended[layer]
  if first then
    util.raise("usage", "the cache of layer %s is appended to a second time, first by %s: each layer has its own",
      tostring(layer), first)
  end
  watched.appended[layer] = core.module_path()
end

---Appends k and v (B, KV heads, T, d) and returns the whole keys and values of the slots.
function View:append(k, v)
  if watched then note_append(self.layer) end
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
    if math.type(layer) ~= "integer" or layer < 1 then
      util.raise("usage", "caches[%s]: expected the number of a layer, from 1", util.text(layer))
    end
    local view = setmetatable({store = self, layer = layer, slots = slots, start = start, count = count}, View)
    rawset(t, layer, view)
    return view
  end})
end

---Called where a module works out something causal without a cache: an error at the user's line while generation is
---recorded, where it would see nothing of what came before. Positions are found out at the end, so that attention
---speaks first.
---@param what string  "attention", or "RoPE"
function M.missing(what)
  if not watched then return end
  if what == "RoPE" then
    watched.unturned = watched.unturned or core.module_path()
    return
  end
  util.raise("usage", "%s: no cache, so that generation would forget all tokens before these: hand on what forward " ..
    "gets, cache = caches[layer]", what)
end

-- Caches are known by layer: those that are taken are 1 to n. Returns n.
local function check_names(store, caches)
  local n = 0
  for _, layers in ipairs {caches, store.layers} do
    for layer in next, layers do n = math.max(n, layer) end
  end
  for layer = 1, n do
    if not rawget(caches, layer) and not store.layers[layer] then
      util.raise("usage", "caches[%d] was taken and caches[%d] was not: layers are counted from 1", n, layer)
    end
  end
  return n
end

-- Every layer that took its cache, now or in another plan, has appended to it.
local function check_layers(store, caches)
  for _, layers in ipairs {caches, store.layers} do
    for layer in next, layers do
      if not watched.appended[layer] then
        util.raise("usage", "layer %s takes its cache and appends nothing: fn.attention wants it as cache = cache",
          tostring(layer))
      end
    end
  end
  if watched.unturned then
    util.raise("usage", "%s: RoPE: no cache, so that positions would begin at 0 with every token: hand it on, " ..
      "self.rope(x, cache)", watched.unturned)
  end
end

---What net(tokens, caches) gives, as a step of generation, which fails in silence where a layer goes without what came
---before: that each has its cache, and appends to it once, is looked at.
---@param net moonlet.Module
---@param tokens moonlet.Tensor
---@param caches table  a view of the store
---@param store moonlet.CacheStore
function M.forward(net, tokens, caches, store)
  local outer = watched
  watched = {appended = {}}
  local ok, result = pcall(function()
    local logits = net(tokens, caches)
    check_layers(store, caches)
    store.unused = check_names(store, caches) == 0
    return logits
  end)
  watched = outer
  if not ok then error(result, 0) end
  return result
end

---A net that takes no cache remembers nothing: right where its tokens do not see each other, and an error where the
---last of a few has other logits than it has alone.
---@param net moonlet.Module
---@param vocabulary integer
function M.check_memoryless(net, vocabulary)
  local n = math.min(vocabulary, 4)
  local differ = ml.scope(function()
    local ids = ml.arange(n):reshape {1, n}
    local among = net(ids)[1][n]:astype "float32"
    local alone = net(ids:slice {{}, {n, n}})[1][1]:astype "float32"
    return (among - alone):abs():gt(alone:abs():max() * 1e-3):any():item()
  end)
  if differ then
    util.raise("usage", "forward took none of its caches, and its tokens see each other or their positions: " ..
      "generation would forget all of them but the last; hand caches[layer] to fn.attention")
  end
end

return M
