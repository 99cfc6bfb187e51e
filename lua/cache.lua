---What layers keep of the tokens before: keys and values, or a state of fixed size, in pages (see pages.lua).
---
---A store has what all layers keep of all slots. A view says which slots the rows of a batch are, where each begins and
---how many of its tokens are real; it is what a family's forward gets as `caches`, one entry a layer.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local pages = require "moonlet.pages"
local util = require "moonlet.util"

local M = {}

-- The forward that a runtime records now: which layers wrote to their caches, and by part the module that did;
-- `unturned`, the first module that took positions from no cache.
local watched

---@class moonlet.CacheStore
---@field layers table[]  by layer, the parts that it keeps: {state, pool} by name
---@field pools moonlet.PagePool[]
---@field slots table<moonlet.Slot, boolean>
local Store = {}
Store.__index = Store

---@param capacity integer  tokens a slot
---@param dtype string  of keys and values: "float32", "float16" or "bfloat16"
function M.store(capacity, dtype)
  return setmetatable({
    capacity = capacity, dtype = dtype, layers = {}, pools = {}, by_window = {}, slots = {}, rows = 0, free_rows = {},
  }, Store)
end

---A row of the pools' tables for a slot, from 0.
function Store:take_row()
  local row = table.remove(self.free_rows)
  if row then return row end
  if self.rows >= pages.SLOTS then util.raise("limit", "no more than %d sequences at once", pages.SLOTS) end
  self.rows = self.rows + 1
  return self.rows - 1
end
function Store:give_row(row) table.insert(self.free_rows, row) end

-- The pool of layers that look back so far (0: on all), or of states of fixed size ("record").
local function pool_of(self, window)
  local record = window == "record"
  if record then window = -1 elseif window >= self.capacity then window = 0 end
  local pool = self.by_window[window]
  if not pool then
    pool = pages.pool(self.capacity, math.max(0, window), record)
    self.by_window[window] = pool
    table.insert(self.pools, pool)
  end
  return pool
end

local function keep(self, layer, name, pool, heads, size, dtype)
  self.layers[layer] = self.layers[layer] or {}
  self.layers[layer][name] = {pool = pool, state = pool:add(heads, size, dtype)}
end

---Whether saved contents (Slot:contents) of n tokens have the shapes of this store's.
function Store:fits(contents, n)
  if #contents ~= #self.layers or n > self.capacity then return false end
  local lengths = {}
  for i, layer in ipairs(self.layers) do
    for name, part in pairs(layer) do
      local x, shape, pool = contents[i][name], part.state.shape, part.pool
      if not x or x.ndim ~= 3 or x.dtype ~= part.state.dtype then return false end
      local has = x.shape
      if has[1] ~= shape[2] or has[3] ~= shape[4] then return false end
      if lengths[pool] and lengths[pool] ~= has[2] then return false end
      lengths[pool] = has[2]
      local least = pool.record and 1 or pool.window > 0 and math.min(n, pool.window - 1) or n
      if has[2] < least or has[2] > (pool.record and 1 or n) or not pool.record and (n - has[2]) % pool.page ~= 0 then
        return false
      end
    end
  end
  return true
end

---How many positions of a pool contents hold.
function Store:positions(contents, pool)
  for i, layer in ipairs(self.layers) do
    for name, part in pairs(layer) do
      if part.pool == pool then return contents[i][name].shape[2] end
    end
  end
end

---Writes contents of n tokens to the pages of a slot.
function Store:write(slot, contents, n)
  ml.scope(function()
    local done = {}
    for i, layer in ipairs(self.layers) do
      for name, part in pairs(layer) do
        local x = contents[i][name]
        local where = {dtype = "int32", device = part.state.device}
        local row, start = ml.tensor({slot.row}, where), ml.tensor({part.pool.record and 0 or n - x.shape[2]}, where)
        done[#done + 1] = ml.cache_append(part.state, x:expand_dims(1), part.pool.table, row, start)
      end
    end
    ml.eval(table.unpack(done))
  end)
end

function Store:close()
  for _, pool in ipairs(self.pools) do pool:close() end
  self.layers, self.pools, self.by_window, self.slots = {}, {}, {}, {}
end

---@class moonlet.Cache
---@field positions moonlet.Tensor  (B, T) int32: of each token in its sequence
---@field pages moonlet.Tensor|nil  the table of what was appended last
---@field slots moonlet.Tensor|nil  (B) int32: row of the table of each sequence
---@field start moonlet.Tensor|nil  (B) int32: tokens that the slot holds before
---@field count moonlet.Tensor|nil  (B) int32: how many of the T new tokens are real
---@field offsets moonlet.Tensor|nil  (n + 1) int32: where each of n sequences that lie end to end begins
local View = {}
View.__index = View

-- Two layers in one cache: the second would write over the first.
local function note(layer, name)
  if not watched then return end
  local key = ("%d %s"):format(layer, name)
  local first = watched.written[key]
  if first then
    util.raise("usage", "the cache of layer %s is appended to a second time, first by %s: each layer has its own",
      tostring(layer), first)
  end
  watched.written[key], watched.appended[layer] = core.module_path(), true
end

local function put(self, part, x)
  return ml.cache_append(part.state, x, self.pages, self.slots, self.start, self.count, self.offsets)
end

---Appends k and v (B, KV heads, T, d) and returns the pools that hold the keys and values of the slots, for
---`ml.attention` with this cache's pages, slots, start, count and offsets. `window`: how many positions the layer looks
---back on, itself included.
---@param window integer|nil
function View:append(k, v, window)
  note(self.layer, "k")
  local store, layer = self.store, self.layer
  if not store then return k, v end
  local parts = store.layers[layer]
  if not parts or not parts.k then
    local pool, ks, vs = pool_of(store, window or 0), k.shape, v.shape
    keep(store, layer, "k", pool, ks[2], ks[4], store.dtype)
    keep(store, layer, "v", pool, vs[2], vs[4], store.dtype)
    parts = store.layers[layer]
  end
  self.pages = parts.k.pool.table
  return put(self, parts.k, k), put(self, parts.v, v)
end

---Appends x (B, 1, T, d), which keys and values are made of or are themselves, and returns the pool that holds it for
---the slots.
---@param x moonlet.Tensor
---@param window integer|nil
function View:append_latent(x, window)
  note(self.layer, "latent")
  local store, layer = self.store, self.layer
  if not store then return x end
  local parts = store.layers[layer]
  if not parts or not parts.latent then
    keep(store, layer, "latent", pool_of(store, window or 0), x.shape[2], x.shape[4], store.dtype)
    parts = store.layers[layer]
  end
  self.pages = parts.latent.pool.table
  return put(self, parts.latent, x)
end

---A state of fixed size that the layer keeps of each sequence: (B, ...), zeros before the first token.
---@param name string
---@param shape integer[]  of one sequence's
---@param dtype string|nil  "float32" unless given
---@return moonlet.Tensor
function View:state(name, shape, dtype)
  local store, layer = self.store, self.layer
  local size, whole = 1, {}
  for i, n in ipairs(shape) do size, whole[i + 1] = size * n, n end
  if not store or self.offsets then
    util.raise("unsupported", "state: sequences lie end to end here, without states of their own")
  end
  local parts = store.layers[layer]
  if not parts or not parts[name] then
    keep(store, layer, name, pool_of(store, "record"), 1, size, dtype or "float32")
  end
  local part = store.layers[layer][name]
  whole[1] = self.slots.shape[1]
  local rows = ml.take(part.pool.table, self.slots, 1):reshape {whole[1]}
  return ml.take(part.state, rows, 1):reshape(whole)
end

---Replaces such a state by that behind the last real token; sequences of which no token is real keep theirs.
---@param name string
---@param value moonlet.Tensor  (B, ...)
function View:update(name, value)
  note(self.layer, name)
  local part, B = self.store.layers[self.layer][name], value.shape[1]
  local zeros = ml.zeros({B}, {dtype = "int32"})
  ml.cache_append(part.state, value:reshape {B, 1, 1, part.state.shape[4]}, part.pool.table, self.slots, zeros,
    ml.minimum(self.count, 1))
end

---Of `longer` (B, n + T, D), which begins n tokens earlier: what came 1, 2 ... n tokens before each of T.
function M.earlier(longer, n, T)
  local out = {}
  for j = 1, n do out[j] = longer:slice {{}, {n - j + 1, n - j + T}, {}} end
  return out
end

---What came 1, 2 ... n tokens before each: a list of n tensors like x (B, T, D), zeros before a sequence begins.
---@param x moonlet.Tensor
---@param n integer
---@return moonlet.Tensor[]
function View:before(x, n)
  local B, T, D = table.unpack(x.shape)
  if not self.store or self.offsets then
    note(self.layer, "before")
    local out = M.earlier(ml.concat({ml.zeros({B, n, D}, {dtype = x.dtype}), x}, 2), n, T)
    for j = 1, n do out[j] = ml.where(self.positions:ge(j):reshape {B, T, 1}, out[j], 0) end
    return out
  end
  local held = self:state("before", {n, D}):astype(x.dtype)
  local longer = ml.concat({held, x}, 2) -- of which the last n real ones are the next to be held
  local first = ml.arange(B) * (n + T) + self.count
  local rows = first:reshape {B, 1} + ml.arange(n)
  self:update("before", ml.take(longer:reshape {B * (n + T), D}, rows, 1):astype "float32")
  return M.earlier(longer, n, T)
end

-- One entry a layer, made when it is asked for.
local function by_layer(fields)
  return setmetatable({}, {__index = function(t, layer)
    if math.type(layer) ~= "integer" or layer < 1 then
      util.raise("usage", "caches[%s]: expected the number of a layer, from 1", util.text(layer))
    end
    local view = {layer = layer}
    for name, value in pairs(fields) do view[name] = value end
    rawset(t, layer, setmetatable(view, View))
    return view
  end})
end

---@param slots moonlet.Tensor  (B) int32
---@param start moonlet.Tensor  (B) int32
---@param count moonlet.Tensor  (B) int32
---@param T integer  tokens a sequence
function Store:view(slots, start, count, T)
  local positions = start:reshape {start.shape[1], 1}
  if T > 1 then positions = positions + ml.arange(T):astype "int32" end
  return by_layer {store = self, slots = slots, start = start, count = count, positions = positions}
end

---Of sequences that lie end to end, in slots.
---@param slots moonlet.Tensor  (n) int32
---@param start moonlet.Tensor  (n) int32
---@param offsets moonlet.Tensor  (n + 1) int32
---@param positions moonlet.Tensor  (1, N) int32
function Store:packed(slots, start, offsets, positions)
  return by_layer {store = self, slots = slots, start = start, offsets = offsets, positions = positions}
end

---Of sequences that lie end to end and begin with nothing before them.
---@param offsets moonlet.Tensor  (n + 1) int32
---@param positions moonlet.Tensor  (1, N) int32
function M.packed(offsets, positions) return by_layer {offsets = offsets, positions = positions} end

---Called where a module works out something causal without a cache: an error at the user's line while generation is
---recorded, where it would see nothing of what came before. Positions are found out at the end, so that attention
---speaks first.
---@param what string  "attention", "before", or "RoPE"
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
  watched = {appended = {}, written = {}}
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
