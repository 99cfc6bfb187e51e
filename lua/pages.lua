---Pools of pages: memory of fixed addresses for what layers keep of sequences.
---
---A pool serves all layers that keep the same positions of a sequence: those that see all of it, those of one window,
---those whose state has a fixed size. Each layer's share is a state (pages, heads, positions, size) that gets memory as
---pages are taken; a page has the same number in all of them. Which pages a slot has is a row of a table on the device,
---beside what Lua knows here. Pages are counted: one that two slots hold is copied before either writes to it.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local util = require "moonlet.util"

local M = {}

---Positions a page, and rows that a table has room for.
M.PAGE, M.SLOTS = 64, 4096

local CHUNK = 8 -- pages that get memory together
local CONTEXTS, LEAST = 16, 4096 -- full contexts, and pages, that a pool has room for
local MOST_BYTES = 1 << 36 -- of address space that a layer's share takes

---@class moonlet.PagePool
---@field page integer  positions a page
---@field window integer  0: positions stay as long as the slot has them
---@field record boolean  a state of fixed size, which every step reads and writes
---@field table moonlet.Tensor  (slots, pages a slot) int32 state
local Pool = {}
Pool.__index = Pool

---@param capacity integer  positions a slot
---@param window integer  how many of them layers look back on, or 0
---@param record boolean|nil
function M.pool(capacity, window, record)
  local page = record and 1 or M.PAGE
  local entries = record and 1 or (capacity + page - 1) // page
  return setmetatable({
    page = page, window = window, record = record or false, entries = entries,
    most = math.max(CONTEXTS * entries, LEAST), states = {}, counts = {}, free = {}, used = 0, committed = 0, rows = 0,
    table = ml.keep(core.reserve_state({M.SLOTS, entries}, "int32")),
  }, Pool)
end

---A layer's share: (pages, heads, positions, size).
---@param heads integer
---@param size integer
---@param dtype string
---@return moonlet.Tensor
function Pool:add(heads, size, dtype)
  local bytes = heads * self.page * size * (dtype == "float32" and 4 or 2)
  if #self.states == 0 then
    self.most = math.max(self.entries, math.min(self.most, MOST_BYTES // math.max(1, bytes)))
  end
  local state = ml.keep(core.reserve_state({self.most, heads, self.page, size}, dtype))
  core.state_commit(state, 1, self.committed)
  table.insert(self.states, state)
  return state
end

-- ---- pages ----

local function sift_up(heap, i)
  while i > 1 and heap[i // 2] > heap[i] do
    heap[i // 2], heap[i] = heap[i], heap[i // 2]
    i = i // 2
  end
end

local function push(heap, id)
  heap[#heap + 1] = id
  sift_up(heap, #heap)
end

local function pop(heap)
  local least, last = heap[1], table.remove(heap)
  if #heap == 0 then return least end
  local i = 1
  while 2 * i <= #heap do
    local child = 2 * i
    if child < #heap and heap[child + 1] < heap[child] then child = child + 1 end
    if heap[child] >= last then break end
    heap[i] = heap[child]
    i = child
  end
  heap[i] = last
  return least
end

local function commit(self, pages)
  for i, state in ipairs(self.states) do
    local ok, err = pcall(core.state_commit, state, 1, pages)
    if not ok then
      for k = 1, i - 1 do core.state_commit(self.states[k], 1, self.committed) end
      error(err, 0)
    end
  end
  self.committed = pages
end

-- A page of one holder: the lowest that is free. "limit" where there is none, or no memory for it.
local function take(self)
  local id = self.free[1]
  if id then pop(self.free)
  else
    id = self.used
    if id >= self.most then util.raise("limit", "the cache has no more than %d pages", self.most) end
    if id >= self.committed then commit(self, math.min(self.most, self.committed + CHUNK)) end
    self.used = id + 1
  end
  self.counts[id] = 1
  return id
end

local function drop(self, id)
  self.counts[id] = self.counts[id] - 1
  if self.counts[id] == 0 then push(self.free, id) end
end

---Gives back memory of free pages behind the last that is held.
function Pool:shrink()
  local used = self.used
  while used > 0 and self.counts[used - 1] == 0 do used = used - 1 end
  local wanted = (used + CHUNK - 1) // CHUNK * CHUNK
  if self.committed - wanted < 2 * CHUNK then return end
  local free = {}
  for _, id in ipairs(self.free) do
    if id < used then push(free, id) end
  end
  self.free, self.used = free, used
  commit(self, wanted)
end

---How many pages are held.
---@return integer
function Pool:held() return self.used - #self.free end

-- ---- what a slot has of a pool: {[index] = page, first = index}, indices counted from 0 ----

-- The slot's row of the table, from index `first` to `last`.
local function write(self, row, own, first, last)
  if row >= self.rows then
    core.state_commit(self.table, 1, row + 1)
    self.rows = row + 1
  end
  core.state_write(self.table, table.move(own, first, last, 1, {}), row * self.entries + first + 1)
end

-- Whole numbers where the pool lies.
local function integers(self, list) return ml.tensor(list, {dtype = "int32", device = self.table.device}) end

-- Copies pages `from` to pages `to`, or makes these zero.
local function copy(self, from, to)
  if #to == 0 then return end
  ml.scope(function()
    local n = #to
    local source, target = from and integers(self, from), integers(self, to):reshape {n, 1}
    local start = ml.zeros({n}, {dtype = "int32", device = target.device})
    local done = {}
    for i, state in ipairs(self.states) do
      local shape = state.shape
      local x = source and ml.take(state, source, 1)
        or ml.zeros({n, shape[2], shape[3], shape[4]}, {dtype = state.dtype, device = state.device})
      done[i] = ml.cache_append(state, x, target, {start = start})
    end
    ml.eval(table.unpack(done))
  end)
end

---Makes positions first..last (from 0) of a slot writable: pages that are missing are taken (those of states of fixed
---size begin as zeros), shared ones are copied. Nothing has changed when it raises.
---@param row integer  the slot's row of the table, from 0
---@param own table
function Pool:reserve(row, own, first, last)
  local fresh, sources, targets, zeros, from, to = {}, {}, {}, {}, nil, nil
  local ok, err = pcall(function()
    for index = first // self.page, last // self.page do
      local id = own[index]
      if not id or self.counts[id] > 1 then
        fresh[index] = take(self)
        if id and (self.record or first > index * self.page) then
          table.insert(sources, id)
          table.insert(targets, fresh[index])
        elseif self.record then
          table.insert(zeros, fresh[index])
        end
        from, to = from or index, index
      end
    end
    copy(self, sources, targets)
    copy(self, nil, zeros)
  end)
  if not ok then
    for _, id in pairs(fresh) do drop(self, id) end
    error(err, 0)
  end
  for index, id in pairs(fresh) do
    if own[index] then drop(self, own[index]) end
    own[index] = id
  end
  if from then write(self, row, own, from, to) end
end

---Lets go of the pages behind the first `positions`.
function Pool:trim(own, positions)
  local behind = (positions + self.page - 1) // self.page
  local index = math.max(behind, own.first)
  while own[index] do
    drop(self, own[index])
    own[index], index = nil, index + 1
  end
  own.first = math.min(own.first, behind)
end

---Lets go of the pages that end before `position`.
function Pool:forget(own, position)
  while own[own.first] and (own.first + 1) * self.page <= position do
    drop(self, own[own.first])
    own[own.first], own.first = nil, own.first + 1
  end
end

---The same pages for another slot.
---@return table
function Pool:share(own, row)
  local other, last = {first = own.first}, own.first - 1
  while own[last + 1] do
    last = last + 1
    other[last] = own[last]
    self.counts[own[last]] = self.counts[own[last]] + 1
  end
  if last >= own.first then write(self, row, other, own.first, last) end
  return other
end

---One more holder of a page, or one less.
function Pool:hold(id) self.counts[id] = self.counts[id] + 1 end
function Pool:drop(id) drop(self, id) end

---Puts a page that is held in the place of what the slot has there.
function Pool:replace(row, own, index, id)
  if own[index] then drop(self, own[index]) end
  own[index] = id
  write(self, row, own, index, index)
end

---What the slot has of a layer's share, from its first page on: (heads, positions, size).
---@param state moonlet.Tensor
---@param positions integer  where it ends
---@return moonlet.Tensor
function Pool:contents(state, own, positions)
  local last = (positions - 1) // self.page
  local ids = integers(self, table.move(own, own.first, last, 1, {}))
  local x = ml.take(state, ids, 1):transpose {2, 1, 3, 4} -- (heads, pages, positions, size)
  local n = positions - own.first * self.page
  return x:reshape {x.shape[1], x.shape[2] * x.shape[3], x.shape[4]}:slice {{}, {1, n}, {}}
end

function Pool:close()
  self.table:close()
  for _, state in ipairs(self.states) do state:close() end
  self.states = {}
end

return M
