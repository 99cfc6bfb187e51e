---A slot: what the caches of all layers hold of one sequence.
---
---A layer that sees all that came before keeps every position; one with a window the last ones, and a page more; a
---state of fixed size is that behind the last token, of which snapshots are kept. So not every length can be gone back
---to.
local M = {}

local SNAPSHOTS = 3 -- that a slot keeps

---@class moonlet.Slot
---@field ids integer[]  that are held
---@field row integer  of the pools' tables, from 0
local Slot = {}
Slot.__index = Slot

---@param store moonlet.CacheStore
function M.new(store)
  local self = setmetatable({store = store, row = store:take_row(), ids = {}, pages = {}, snapshots = {}}, Slot)
  store.slots[self] = true
  return self
end

-- Of a pool that came into being later too.
local function own(self, pool)
  local pages = self.pages[pool]
  if not pages then
    pages = {first = 0}
    self.pages[pool] = pages
  end
  return pages
end

-- Positions before this one are seen by no token behind `length` that come.
local function needed_from(pool, length) return pool.window > 0 and math.max(0, length + 1 - pool.window) or 0 end

---Has memory for the tokens behind those that are held, up to `length` of them in all. Nothing has changed when it
---raises.
---@param length integer
function Slot:reserve(length)
  local held = #self.ids
  for _, pool in ipairs(self.store.pools) do
    local pages = own(self, pool)
    if pool.window > 0 then pool:forget(pages, needed_from(pool, held) - pool.page) end
    if pool.record then pool:reserve(self.row, pages, 0, 0)
    elseif length > held then pool:reserve(self.row, pages, held, length - 1) end
  end
end

---Between calls: what no token to come sees is let go of, but for a page.
function Slot:settle()
  for _, pool in ipairs(self.store.pools) do
    local pages = own(self, pool)
    if pool.window > 0 then pool:forget(pages, needed_from(pool, #self.ids) - pool.page) end
    if not pool.record then pool:trim(pages, #self.ids) end
    pool:shrink()
  end
end

local function has_records(self)
  for _, pool in ipairs(self.store.pools) do
    if pool.record then return true end
  end
  return false
end

local function release_snapshot(snapshot)
  for pool, id in pairs(snapshot.pages) do pool:drop(id) end
end

---Remembers the states of fixed size as they are now.
function Slot:snapshot()
  local list, length = self.snapshots, #self.ids
  if length == 0 or not has_records(self) or list[#list] and list[#list].length == length then return end
  local pages = {}
  for _, pool in ipairs(self.store.pools) do
    if pool.record then
      pages[pool] = own(self, pool)[0]
      pool:hold(pages[pool])
    end
  end
  list[#list + 1] = {length = length, pages = pages}
  if #list > SNAPSHOTS then release_snapshot(table.remove(list, 1)) end
end

-- Whether windows reach far enough back from a length.
local function is_held(self, length)
  for _, pool in ipairs(self.store.pools) do
    if not pool.record and own(self, pool).first * pool.page > needed_from(pool, length) then return false end
  end
  return true
end

-- The most tokens up to n that can be gone back to, and the snapshot that holds their states.
local function length_before(self, n)
  if not has_records(self) then return is_held(self, n) and n or 0 end
  if n == #self.ids and is_held(self, n) and not self.lost then return n end
  for i = #self.snapshots, 1, -1 do
    local s = self.snapshots[i]
    if s.length <= n and is_held(self, s.length) then return s.length, s end
  end
  return 0
end

---Forgets all but the first n tokens, or more of them where what is held does not allow that length.
---@param n integer
---@return integer  how many stay
function Slot:trim(n)
  if n >= #self.ids and not self.lost then return #self.ids end
  local length, snapshot = length_before(self, math.min(n, #self.ids))
  for _, pool in ipairs(self.store.pools) do
    local pages = own(self, pool)
    if not pool.record then pool:trim(pages, length)
    elseif length == 0 then pool:trim(pages, 0)
    elseif snapshot then
      pool:hold(snapshot.pages[pool])
      pool:replace(self.row, pages, 0, snapshot.pages[pool])
    end
  end
  for i = #self.snapshots, 1, -1 do
    if self.snapshots[i].length > length then release_snapshot(table.remove(self.snapshots, i)) end
  end
  for i = #self.ids, length + 1, -1 do self.ids[i] = nil end
  self.lost = nil
  return length
end

---Says that a run which began has failed: states of fixed size may be anything now, so that the slot goes back to where
---they are known.
function Slot:fail()
  if not has_records(self) then return end
  self.lost = true
  self:trim(#self.ids)
end

---How many of the first ids are held already; at least the last is left to compute.
---@param ids integer[]
function Slot:shared(ids)
  local held, same = self.ids, 0
  while same < #held and same < #ids - 1 and held[same + 1] == ids[same + 1] do same = same + 1 end
  return same
end

---A slot that goes on from here on its own. Nothing is copied until one of the two writes.
---@return moonlet.Slot
function Slot:fork()
  local other = M.new(self.store)
  for _, pool in ipairs(self.store.pools) do other.pages[pool] = pool:share(own(self, pool), other.row) end
  for i, s in ipairs(self.snapshots) do
    for pool, id in pairs(s.pages) do pool:hold(id) end
    other.snapshots[i] = s
  end
  table.move(self.ids, 1, #self.ids, 1, other.ids)
  return other
end

---What is held of the first n tokens, of which no more are held than n and what a page has more: by layer and name,
---(heads, positions, size); of windows the last positions. To be read before anything is written.
---@param n integer
---@return table
function Slot:contents(n)
  local out = {}
  for layer, parts in ipairs(self.store.layers) do
    out[layer] = {}
    for name, part in pairs(parts) do
      local pages = own(self, part.pool)
      out[layer][name] = part.pool:contents(part.state, pages, part.pool.record and 1 or n)
    end
  end
  return out
end

---Takes such contents, of the tokens `ids`, for what the slot held. False where they do not fit this store.
---@param contents table
---@param ids integer[]
function Slot:restore(contents, ids)
  self:trim(0)
  if not self.store:fits(contents, #ids) then return false end
  local n = #ids
  for _, pool in ipairs(self.store.pools) do
    local from = pool.window > 0 and n - self.store:positions(contents, pool) or 0
    local pages = own(self, pool)
    pages.first = from // pool.page
    if pool.record then pool:reserve(self.row, pages, 0, 0) else pool:reserve(self.row, pages, from, n - 1) end
  end
  self.store:write(self, contents, n)
  table.move(ids, 1, n, 1, self.ids)
  self:snapshot()
  return true
end

---Gives all back; twice is harmless.
function Slot:close()
  if not self.store.slots[self] then return end
  self.lost = nil
  for i = #self.ids, 1, -1 do self.ids[i] = nil end
  for pool, pages in pairs(self.pages) do
    pool:trim(pages, pages.first * pool.page)
  end
  for _, s in ipairs(self.snapshots) do release_snapshot(s) end
  self.pages, self.snapshots = {}, {}
  for _, pool in ipairs(self.store.pools) do pool:shrink() end
  self.store:give_row(self.row)
  self.store.slots[self] = nil
end

return M
