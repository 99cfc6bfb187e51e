---Decoding: choosing a token from the model's logits, and running the model on it.
---
---A lane runs up to `rows` sequences side by side: it has the state that its plans read and write, for each row the
---last token, the slot, how many tokens that holds, the key of its random numbers and a ring of recent ids. What a row
---is can change from run to run, since all of that is data: `load` writes what is not there yet. So lanes are few, and
---whoever makes a token takes one that is free.
---
---A chain of built-in steps is part of the plan that runs the model, so that a token is one replay. Where functions of
---the user's stand in the chain, the plan ends with the model's logits as state, and the chain follows in parts: steps
---that can be recorded are plans of their own, recorded once, and between them the functions run in Lua.
---
---A plan says that no token can be chosen with the id -1; that is found where the id is read anyway.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local compile = require "moonlet.compile"
local plans = require "moonlet.plans"
local prefill = require "moonlet.prefill"
local util = require "moonlet.util"

local M = {}

local KEPT = 8 -- decoders of different sampling chains

---@class moonlet.Sequence
---@field slot moonlet.Slot
---@field chain moonlet.SampleChain
---@field key string  equal for chains that differ in their numbers alone
---@field wanted boolean  log probabilities are asked for
---@field seed integer
---@field drawn integer  how many random numbers it has used, as far as no lane knows better
---@field last integer|nil  the token that was picked, and is not fed yet

---@class moonlet.Lane
---@field rows integer
---@field logits moonlet.Tensor|nil  (rows, V) float32 state: those after a prefill, or of steps that functions follow
---@field loaded moonlet.Sequence[]  what the rows are
---@field ends_at number|nil  core.clock() at which runs end with "deadline"
local Lane = {}
Lane.__index = Lane

-- ---- what steps see ----

-- How many recent ids a step sees: there are never more than the context holds.
local function window_of(self, s) return s.last_n and math.min(s.last_n, self.runtime.capacity) end

-- Fresh random numbers (B) in [0, 1). Every call moves the random state on.
local function uniform(self)
  local bits = ml.random_bits(self.rng, {self.rows, 1}):reshape {self.rows}
  ml.assign(self.rng, self.rng + ml.tensor({0, 0, 1}, {dtype = "uint32"}))
  return ml.right_shift(bits, 8):astype "float32" * 2.0 ^ -24
end

-- The ids of a ring (B, n), newest last: the id at position p lies in column p mod n, the next one's is `start`.
local function in_order(self, ring)
  local n = ring.shape[2]
  local columns = (self.start:reshape {self.rows, 1} + ml.arange(n)) % n
  return ml.take_along_axis(ring, columns, -1)
end

-- Of a step that is recorded. `ring` is for steps that do not ask for the order.
local function recorded_state(self, entry, n)
  local ring = entry.rings[n]
  return setmetatable({ring = ring, uniform = function() return uniform(self) end}, {__index = function(_, key)
    if key == "recent" and ring then return in_order(self, ring) end
    if key == "ids" then
      util.raise("usage", "state.ids: a function given to S.traced is recorded once, before there are ids; " ..
        "state.recent holds them as a tensor")
    end
  end})
end

-- Of a function that runs in Lua.
local function lua_state(self, n)
  local held = self.loaded[1].slot.ids
  return setmetatable({uniform = function()
    local u = uniform(self)
    ml.eval(u)
    return u
  end}, {__index = function(state, key)
    if key == "ids" then
      state.ids = table.move(held, 1, #held, 1, {})
    elseif key == "recent" then
      local last = {}
      for i = 1, n do last[i] = held[#held - n + i] or -1 end
      state.recent = ml.tensor({last}, {dtype = "int32"})
    end
    return rawget(state, key)
  end})
end

-- The numbers of a step for each row, (B) or (B, n): `column` is the first one's place among those of the chain.
local function by_row(self, entry, s, column)
  if not s.numbers then return nil end
  local n = #s.numbers
  local own = entry.numbers:slice {{column, column + n - 1}, {}}
  return n == 1 and own:reshape {self.rows} or own:transpose()
end

-- ---- what steps give ----

-- What a function gave: logits (B, V) float32; or nil and ids (B), or an id as a number, which the last step may give.
local function outcome(self, s, given, last)
  local B, V = self.rows, self.logits.shape[2]
  local shape = ml.is_tensor(given) and table.concat(given.shape, ", ")
  if shape == B .. ", " .. V then return given:astype "float32" end
  if last and shape == tostring(B) and given.dtype:match "int" then return nil, given end
  if last and s.custom and math.type(given) then return nil, given end
  local expected = ("logits (%d, %d)"):format(B, V)
  if last then
    expected = ("%s%s integer ids (%d)%s"):format(expected, s.custom and "," or " or", B,
      s.custom and ", or an id as a number" or "")
  end
  util.unexpected("sampler", expected, given)
end

-- Records the steps from .. to of a chain: logits, or nil and ids where the last of all gives them.
local function follow(self, entry, from, to, logits)
  local steps = entry.chain.steps
  for i = from, to do
    local s, last = steps[i], i == #steps
    if s.greedy and last then break end -- `draw` takes the likeliest
    local state, numbers = recorded_state(self, entry, window_of(self, s)), by_row(self, entry, s, entry.columns[i])
    local given, ids = s.apply(logits, state, numbers), nil
    if s.traced then given, ids = outcome(self, s, given, last) end
    if ids then return nil, ids:astype "int32" end
    logits = given
  end
  return logits
end

-- Records: ids (B) of the logits that a chain leaves, -1 in rows where that is nothing.
local function draw(self, entry, logits)
  if not entry.chain.greedy then return ml.categorical(logits, uniform(self)) end
  local ids = logits:argmax(-1) -- of a NaN where there is one
  local best = ml.take_along_axis(logits, ids:reshape {self.rows, 1}, -1):reshape {self.rows}
  return ml.where(best:gt(-math.huge), ids, -1):astype "int32"
end

-- Records: the ids are the tokens to go on with, and the last of each ring.
local function push(self, entry, ids)
  for _, n in ipairs(entry.sizes) do ml.ring_push(entry.rings[n], ids, self.start) end
end

-- Records: the steps from .. to, and the choice from what they leave.
local function pick(self, entry, from, to, logits)
  local left, ids = follow(self, entry, from, to, logits)
  ids = ids or draw(self, entry, left)
  entry.gives_ids = left == nil
  -- A function, or a bias without end, may hide what the model gave.
  if entry.parts then ids = ml.where(self.usable:gt(0), ids, -1)
  elseif entry.forces then ids = ml.where(logits:max(-1):gt(-math.huge), ids, -1) end
  ml.assign(self.tokens, ids)
  push(self, entry, ids)
end

-- ---- plans ----

-- Steps that one plan holds are a part {from, to}, the last of which picks; a function that runs in Lua is a part
-- {at, fn} of its own.
local function parts_of(chain)
  local parts, from = {}, 1
  for i, s in ipairs(chain.steps) do
    if s.custom then
      if from < i then parts[#parts + 1] = {from = from, to = i - 1} end
      parts[#parts + 1] = {at = i, fn = s}
      from = i + 1
    end
  end
  parts[#parts + 1] = {from = from, to = #chain.steps, picks = true}
  return parts
end

local function state_like(logits) return compile.keep(core.make_state(logits.shape, "float32")) end

---Logits (.., V) that say the same without +inf: where there are any, these share alike, and the others have nothing.
---@param logits moonlet.Tensor  float32
---@return moonlet.Tensor
function M.shares(logits)
  local certain = logits:eq(math.huge)
  local others = ml.where(ml.logical_and(certain:any(-1, true), logits:eq(logits)), -math.huge, logits) -- a NaN stays
  return ml.where(certain, 0.0, others)
end

-- Records what the caller wants to know of the model's own logits, and where functions follow, those and whether
-- they mean anything: a number among them, and no NaN.
local function tell(self, entry, logits)
  if entry.wanted then
    self.log_p = self.log_p or state_like(logits)
    ml.assign(self.log_p, M.shares(logits):log_softmax())
  end
  if entry.parts then ml.assign(self.usable, logits:max(-1):gt(-math.huge):astype "int32") end
end

local function record_parts(self, entry)
  self.work = self.work or state_like(self.logits)
  for i, part in ipairs(entry.parts) do
    local logits = i == 1 and self.logits or self.work
    if part.picks then pick(self, entry, part.from, part.to, logits)
    elseif part.from then ml.assign(self.work, (follow(self, entry, part.from, part.to, logits))) end
    if part.from then part.plan = core.plan({}, {}) end
  end
  push(self, entry, self.tokens) -- of an id that Lua chose
  entry.push = core.plan({}, {})
end

-- Plans of one sampling chain: `first` begins with the prefill's logits, `step` runs the model on the last token.
local function record_decoder(self, entry)
  local steps = entry.chain.steps
  for _, n in ipairs(entry.sizes) do entry.rings[n] = plans.int_state(n, -1, self.rows) end
  local count = #entry.chain.numbers
  if count > 0 then entry.numbers = compile.keep(core.make_state({count, self.rows}, "float64")) end
  if entry.parts then self.usable = self.usable or compile.keep(plans.int_state(self.rows, 1)) end
  if self.logits then
    tell(self, entry, self.logits)
    if not entry.parts then pick(self, entry, 1, #steps, self.logits) end
    entry.first = core.plan({}, {})
  end
  local logits = self.runtime:net_logits(self.tokens:reshape {self.rows, 1}, self.slots, self.start, self.count)
  ml.assign(self.start, self.start + self.count)
  logits = logits:reshape {self.rows, logits.shape[3]}:astype "float32"
  tell(self, entry, logits)
  if entry.parts then ml.assign(self.logits, logits) else pick(self, entry, 1, #steps, logits) end
  entry.step = core.plan({}, {})
  if entry.parts then record_parts(self, entry) end
  return entry.rings
end

-- How many recent ids recorded steps look at: each number has a ring.
local function ring_sizes(self, chain)
  local sizes = {}
  for _, s in ipairs(chain.steps) do
    if s.last_n and not s.custom then sizes[window_of(self, s)] = true end
  end
  return util.sorted_keys(sizes)
end

local function close_entry(entry)
  for _, part in ipairs(entry.parts or {}) do plans.close_fields(part) end
  for _, t in ipairs {entry, entry.rings} do plans.close_fields(t) end
end

local function decoder(self, s)
  local key, chain, wanted = s.key .. (s.wanted and "+logprobs" or ""), s.chain, s.wanted
  local entry = self.decoders[key]
  if entry then return entry end
  entry = {chain = chain, wanted = wanted, sizes = ring_sizes(self, chain), rings = {}, columns = {}}
  if chain.custom or chain.traced then entry.parts = parts_of(chain) end
  local column = 1
  for i, step in ipairs(chain.steps) do
    entry.forces = entry.forces or step.forces
    entry.columns[i] = column
    column = column + #(step.numbers or {})
  end
  plans.record(function() return record_decoder(self, entry) end)
  self.decoders[key] = entry
  table.insert(self.order, key)
  if #self.order > KEPT then
    local oldest = table.remove(self.order, 1)
    close_entry(self.decoders[oldest])
    self.decoders[oldest] = nil
  end
  return entry
end

-- ---- what the rows are ----

-- Writes the state of rows: what is no sequence stands still at the beginning of slot 0.
local function write_rows(self)
  local tokens, start, slots, count, rng = {}, {}, {}, {}, {}
  for i = 1, self.rows do
    local s = self.loaded[i]
    tokens[i], start[i] = s and s.last or 0, s and #s.slot.ids or 0
    slots[i], count[i] = s and s.slot.row or 0, s and 1 or 0
    local seed = s and s.seed or 0
    table.move({seed & 0xffffffff, seed >> 32 & 0xffffffff, s and s.drawn or 0}, 1, 3, #rng + 1, rng)
  end
  core.state_write(self.tokens, tokens)
  core.state_write(self.start, start)
  core.state_write(self.slots, slots)
  core.state_write(self.count, count)
  core.state_write(self.rng, rng)
end

-- The numbers of each row's chain; what is no sequence has the first one's.
local function write_numbers(self, entry)
  local list = {}
  for k = 1, #entry.chain.numbers do
    for i = 1, self.rows do list[#list + 1] = (self.loaded[i] or self.loaded[1]).chain.numbers[k] + 0.0 end
  end
  if entry.numbers then core.state_write(entry.numbers, list) end
end

-- The rings of recent ids, of those that are held and the one that was picked: the first of all has position 0.
local function write_rings(self, entry)
  for _, n in ipairs(entry.sizes) do
    local ring = {}
    for i = 1, self.rows do
      local s, at = self.loaded[i], #ring
      for k = 1, n do ring[at + k] = -1 end
      local length = s and #s.slot.ids + (s.last and 1 or 0) or 0
      for p = math.max(0, length - n), length - 1 do ring[at + p % n + 1] = s.slot.ids[p + 1] or s.last end
    end
    core.state_write(entry.rings[n], ring)
  end
  entry.written = self.load_count
end

-- What only the device knows of the rows: how many random numbers they have used.
local function unload(self)
  if #self.loaded == 0 then return end
  local rng = self.rng:tolist()
  for i, s in ipairs(self.loaded) do
    if s.lane == self then s.drawn, s.lane = rng[i][3], nil end
  end
  self.loaded = {}
end

-- Has the rows be these sequences.
local function load(self, sequences, entry)
  local same = #self.loaded == #sequences
  for i, s in ipairs(sequences) do same = same and self.loaded[i] == s and s.lane == self end
  if not same then
    unload(self)
    for i, s in ipairs(sequences) do
      if s.lane then unload(s.lane) end
      self.loaded[i] = s
    end
    write_rows(self)
    for _, s in ipairs(sequences) do s.lane = self end
    self.load_count = self.load_count + 1
  end
  if entry.written == self.load_count then return end
  write_numbers(self, entry)
  write_rings(self, entry)
end

---Forgets what a lane knows of a sequence, so that the next run begins with what the sequence says.
---@param s moonlet.Sequence
function M.leave(s)
  if s.lane then unload(s.lane) end
end

-- ---- tokens ----

-- Raises for an id that is none; -1 may be one that a function gave (`given`). `stale` says that `logits` are not those
-- that it came from: these are computed again, so that a plan need not keep them.
local function refuse(self, slot, id, stale, given)
  local V = self.logits.shape[2]
  local held = slot.ids
  local function no_id() util.unexpected("sampler: an id", ("an integer from 0 to %d"):format(V - 1), id) end
  if id ~= -1 then no_id() end
  if stale then self:prefill(slot, table.move(held, 1, #held, 1, {})) end
  local nans, most = compile.scope(function() return self.logits:isnan():sum():item(), self.logits:max():item() end)
  local behind = ("behind %d token%s"):format(#held, #held == 1 and "" or "s")
  if nans > 0 or most == -math.huge then
    local what = nans > 0 and ("%d of %d are NaN"):format(nans, V) or ("all %d are -inf"):format(V)
    self.runtime:corrupt("the model gives no logits to choose a token from: %s, %s", what, behind)
  end
  if given then no_id() end
  util.raise("usage", "the sampler left nothing to choose from, %s: all of the logits are -inf, or one is NaN", behind)
end

-- Runs a function of the user's on a copy of the logits, which it may keep as they are. What it gives is the work of
-- the next part, or an id, which is returned. The lane is the caller's until it returns: the function may generate too.
local function call(self, part, first, last)
  local _ <close> = core.on(self.runtime.model.device) -- its own, as the scope is
  return compile.scope(function()
    local logits = (first and self.logits or self.work):copy()
    ml.eval(logits)
    local left, id = outcome(self, part.fn, part.fn.apply(logits, lua_state(self, window_of(self, part.fn))), last)
    if left then
      ml.assign(self.work, left)
      ml.eval()
      return nil
    end
    if not math.type(id) then id = id:item() end
    return util.integer("sampler: an id", id, 0, self.logits.shape[2] - 1)
  end)
end

-- Runs a chain in its parts.
local function pick_in_parts(self, entry)
  if entry.chain.custom and core.read_int(self.usable, 1) == 0 then refuse(self, self.loaded[1].slot, -1) end
  for i, part in ipairs(entry.parts) do
    local id = part.fn and call(self, part, i == 1, part.at == #entry.chain.steps)
    if id then
      core.state_write(self.tokens, {id})
      plans.run(self, entry.push)
      return
    elseif part.plan then
      plans.run(self, part.plan)
    end
  end
end

local function chosen(self, entry, stepped)
  if entry.parts then pick_in_parts(self, entry) end
  local id = core.read_int(self.tokens, 1)
  local s = self.loaded[1]
  if id < 0 or id >= self.logits.shape[2] then
    refuse(self, s.slot, id, stepped and not entry.parts, entry.gives_ids)
  end
  s.last = id
  return id
end

---The first token of a sequence behind what a prefill of its slot left here.
---@param s moonlet.Sequence
---@return integer
function Lane:first(s)
  local entry = decoder(self, s)
  load(self, {s}, entry)
  plans.run(self, entry.first)
  return chosen(self, entry, false)
end

-- Feeds the last tokens.
local function feed(self, sequences)
  for _, s in ipairs(sequences) do
    if #s.slot.ids >= self.runtime.capacity then
      util.raise("limit", "the context of %d tokens is full", self.runtime.capacity)
    end
    s.slot:reserve(#s.slot.ids + 1)
  end
  local entry = decoder(self, sequences[1])
  load(self, sequences, entry)
  local ok, err = pcall(plans.run, self, entry.step)
  if not ok then
    for _, s in ipairs(sequences) do
      M.leave(s)
      s.slot:fail()
    end
    error(err, 0)
  end
  for _, s in ipairs(sequences) do
    table.insert(s.slot.ids, s.last)
    s.last = nil
  end
  return entry
end

---Feeds a sequence's last token and picks the next.
---@param s moonlet.Sequence
---@return integer
function Lane:step(s) return chosen(self, feed(self, {s}), true) end

---Feeds the last token of each sequence, all of which have chains of the same built-in steps, and picks the next: the
---ids, in their order; where none can be picked the sequence's `last` is nil, and the id is what stands in its place.
---@param sequences moonlet.Sequence[]
---@return integer[]
function Lane:step_all(sequences)
  feed(self, sequences)
  local ids, V = self.tokens:tolist(), self.runtime.model.info.vocab_size
  for i, s in ipairs(sequences) do
    if ids[i] >= 0 and ids[i] < V then s.last = ids[i] end
  end
  return ids
end

---Raises for what stands in the place of an id, of a sequence whose last token `step_all` has fed.
---@param s moonlet.Sequence
---@param id integer
function Lane:refuse(s, id) refuse(self, s.slot, id, true) end

---Of the token picked last in a row: its log probability under the model itself, and the n likeliest {id, logprob}.
---Nothing is recorded.
---@param row integer
---@param id integer
---@param n integer
function Lane:logprobs(row, id, n)
  local ids, values, own = core.top(self.log_p, row, n, id)
  local top = {}
  for i, other in ipairs(ids) do top[i] = {id = other, logprob = values[i]} end
  return own, top
end

Lane.prefill, Lane.prefill_chunk = prefill.run, prefill.chunk

-- ---- making and closing ----

-- The state that all plans of a lane share.
local function states(rows)
  return {
    tokens = plans.int_state(rows, 0), start = plans.int_state(rows, 0), slots = plans.int_state(rows, 0),
    count = plans.int_state(rows, 1), rng = core.make_state(ml.zeros({rows, 3}, {dtype = "uint32"})),
  }
end

---@param runtime moonlet.Runtime
---@param rows integer
---@return moonlet.Lane
function M.lane(runtime, rows)
  local self = setmetatable({
    runtime = runtime, rows = rows, loaded = {}, load_count = 0, decoders = {}, order = {}, prefills = {},
  }, Lane)
  for name, x in pairs(compile.scope(states, rows)) do self[name] = x end
  return self
end

---Frees the plans and states.
function Lane:close()
  for _, entry in pairs(self.decoders) do close_entry(entry) end
  for _, entry in pairs(self.prefills) do plans.close_fields(entry) end
  for _, s in ipairs(self.loaded) do s.lane = nil end
  self.decoders, self.order, self.prefills, self.loaded = {}, {}, {}, {}
  plans.close_fields(self)
end

return M
