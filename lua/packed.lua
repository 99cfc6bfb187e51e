---Sequences end to end: texts of different lengths in one forward, without padding.
---
---They may go on behind what slots hold, a prefix that all share. Sizes come from a short list, and which token is of
---which sequence is data, so that any texts share a few plans.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local cache = require "moonlet.cache"
local decode = require "moonlet.decode"
local nn = require "moonlet.nn"
local plans = require "moonlet.plans"
local util = require "moonlet.util"

local M = {}

---Tokens a forward, and of them the share of sequences.
M.SIZES = {32, 64, 128, 256, 512, 1024}
local TOKENS_A_ROW = 4

---@class moonlet.PackedRow
---@field ids integer[]
---@field slot moonlet.Slot|nil  that holds what comes before
---@field targets integer[]|nil  what should follow each of the ids, of the last ones of them

-- The hidden states (1, N, D) that a family's head is applied to.
local function hidden_of(runtime, tokens, caches)
  local net = runtime.model.net
  local body = net.hidden and function(...) return net:hidden(...) end or nn.is_module(net.model) and net.model
  if not body then
    util.raise("unsupported", "embed: family %s has neither a module `model` nor a method `hidden`",
      runtime.model.info.family)
  end
  local x = cache.forward(body, tokens, caches, runtime.store)
  if ml.is_tensor(x) and x.ndim == 3 and x.shape[2] == tokens.shape[2] then return x end
  util.unexpected(("family %s: hidden"):format(runtime.model.info.family), "a tensor (B, T, D)", x, "mismatch")
end

-- Records what stands for each sequence: what a token of it has, or the mean of all of them.
local function pool(entry, x, how)
  local N, rows = entry.size, entry.rows
  x = x:reshape {N, x.shape[3]}:astype "float32"
  if how == "last" then return ml.take(x, entry.last, 1) end
  local first = entry.offsets:slice {{1, rows}}:reshape {rows, 1}
  if how == "cls" then return ml.take(x, ml.minimum(first:reshape {rows}, N - 1), 1) end
  local behind, at = entry.offsets:slice {{2, rows + 1}}:reshape {rows, 1}, ml.arange(N):reshape {1, N}
  local own = ml.logical_and(ml.ge(at, first), ml.lt(at, behind)):astype "float32"
  return ml.matmul(own, x) / ml.maximum(behind - first, 1):astype "float32"
end

-- Records a plan of N tokens. `kind`: "last" gives logits (rows, V) behind each sequence, "targets" the log probability
-- of a target a token, and the likeliest id in its place; others are poolings of `embed`, (rows, D).
local function record(runtime, N, kind, in_slots)
  local rows, entry = N // TOKENS_A_ROW, nil
  plans.record(function()
    entry = {
      rows = rows, size = N, tokens = plans.int_state(N, 0), positions = plans.int_state(N, 0),
      offsets = plans.int_state(rows + 1, 0), slots = plans.int_state(rows, 0), start = plans.int_state(rows, 0),
    }
    local positions = entry.positions:reshape {1, N}
    local caches = in_slots and runtime.store:packed(entry.slots, entry.start, entry.offsets, positions)
      or cache.packed(entry.offsets, positions)
    local how = kind:match "^embed (%a+)$"
    if kind ~= "targets" then entry.last = plans.int_state(rows, 0) end
    if how then
      local x = pool(entry, hidden_of(runtime, entry.tokens:reshape {1, N}, caches), how)
      entry.vectors = core.make_state(x.shape, "float32")
      ml.assign(entry.vectors, x)
      entry.plan = core.plan({}, {})
      return entry
    end
    local logits = runtime:forward(entry.tokens:reshape {1, N}, caches)
    logits = logits:reshape {N, logits.shape[3]}
    if kind == "last" then
      logits = ml.take(logits, entry.last, 1):astype "float32"
      entry.logits = core.make_state(logits.shape, "float32")
      ml.assign(entry.logits, logits)
    else
      entry.targets, entry.chosen = plans.int_state(N, 0), plans.int_state(N, 0)
      entry.log_p = core.make_state(ml.zeros {N})
      logits = decode.shares(logits:astype "float32")
      local own = ml.take_along_axis(logits, entry.targets:reshape {N, 1}, -1):reshape {N}
      ml.assign(entry.log_p, own - logits:logsumexp(-1))
      ml.assign(entry.chosen, logits:argmax(-1):astype "int32")
    end
    entry.plan = core.plan({}, {})
    return entry
  end)
  return entry
end

local function plan_for(runtime, N, kind, in_slots)
  local key = ("%d %s %s"):format(N, kind, in_slots)
  runtime.packed[key] = runtime.packed[key] or record(runtime, N, kind, in_slots)
  return runtime.packed[key]
end

---The smallest size that holds so many tokens and sequences; of one that is longer than all, a power of two.
function M.size_for(tokens, rows)
  for _, N in ipairs(M.SIZES) do
    if tokens <= N and rows <= N // TOKENS_A_ROW then return N end
  end
  local N = M.SIZES[#M.SIZES]
  while N < tokens do N = 2 * N end
  return N
end

---How many of the rows from position `at` on go into one forward: at least one.
---@param rows moonlet.PackedRow[]
---@param at integer
---@param most integer|nil  rows at most
function M.fitting(rows, at, most)
  local tokens, n, N = 0, 0, M.SIZES[#M.SIZES]
  for i = at, #rows do
    tokens = tokens + #rows[i].ids
    if n > 0 and (tokens > N or n + 1 > N // TOKENS_A_ROW or most and n + 1 > most) then break end
    n = n + 1
  end
  return n
end

-- Writes what a plan reads of rows.
local function fill(entry, rows, in_slots)
  local tokens, positions, offsets, slots, start, last = {}, {}, {0}, {}, {}, {}
  for i, row in ipairs(rows) do
    local before = row.slot and #row.slot.ids or 0
    for k, id in ipairs(row.ids) do
      tokens[#tokens + 1], positions[#positions + 1] = id, before + k - 1
    end
    offsets[i + 1], slots[i], start[i], last[i] = #tokens, row.slot and row.slot.row or 0, before, #tokens - 1
  end
  for i = #tokens + 1, entry.size do tokens[i], positions[i] = 0, 0 end
  for i = #rows + 1, entry.rows do offsets[i + 1], slots[i], start[i], last[i] = offsets[i], slots[1], 0, 0 end
  core.state_write(entry.tokens, tokens)
  core.state_write(entry.positions, positions)
  core.state_write(entry.offsets, offsets)
  if in_slots then
    core.state_write(entry.slots, slots)
    core.state_write(entry.start, start)
  end
  if entry.last then core.state_write(entry.last, last) end
end

-- Runs rows that fit one forward. Slots of theirs hold their ids afterwards.
local function run(runtime, rows, kind)
  local tokens, in_slots = 0, rows[1].slot ~= nil
  for _, row in ipairs(rows) do tokens = tokens + #row.ids end
  local entry = plan_for(runtime, M.size_for(tokens, #rows), kind, in_slots)
  for _, row in ipairs(rows) do
    if in_slots then row.slot:reserve(#row.slot.ids + #row.ids) end
  end
  fill(entry, rows, in_slots)
  return entry
end

local function advance_slots(rows)
  for _, row in ipairs(rows) do
    if row.slot then table.move(row.ids, 1, #row.ids, #row.slot.ids + 1, row.slot.ids) end
  end
end

---Logits (rows, V) behind each of a few rows that fit one forward: a state, to be read before the next call.
---@param runtime moonlet.Runtime
---@param rows moonlet.PackedRow[]
---@return moonlet.Tensor
function M.last(runtime, rows)
  local entry = run(runtime, rows, "last")
  entry.plan:run()
  advance_slots(rows)
  return entry.logits
end

---What stands for each of a few rows that fit one forward, (rows, D): a state, to be read before the next call.
---@param pooling string  "mean", "last" or "cls"
---@return moonlet.Tensor
function M.embed(runtime, rows, pooling)
  local entry = run(runtime, rows, "embed " .. pooling)
  entry.plan:run()
  return entry.vectors
end

---Of rows that fit one forward, for each target: its log probability, and the id that is likeliest in its place.
---@param runtime moonlet.Runtime
---@param rows moonlet.PackedRow[]
---@return number[][] log_p
---@return integer[][] likeliest
function M.targets(runtime, rows)
  local entry, targets, at = run(runtime, rows, "targets"), {}, 0
  for i = 1, entry.size do targets[i] = 0 end
  for _, row in ipairs(rows) do
    at = at + #row.ids
    table.move(row.targets, 1, #row.targets, at - #row.targets + 1, targets)
  end
  core.state_write(entry.targets, targets)
  entry.plan:run()
  advance_slots(rows)
  local log_p, chosen, all_p, all_chosen = {}, {}, entry.log_p:tolist(), entry.chosen:tolist()
  at = 0
  for i, row in ipairs(rows) do
    at = at + #row.ids
    log_p[i] = table.move(all_p, at - #row.targets + 1, at, 1, {})
    chosen[i] = table.move(all_chosen, at - #row.targets + 1, at, 1, {})
  end
  return log_p, chosen
end

return M
