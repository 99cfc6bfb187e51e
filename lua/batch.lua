---Continuous batching: many prompts through a few rows. A row whose text has ended leaves at once; the next prompt is
---prefilled in chunks between the steps of the others, and joins them.
---
---A row that finds no memory for its cache waits until another ends. Where all wait, the one that began last gives its
---cache up, and computes it again when there is room: so only a row that finds none while it is alone fails.
local decode = require "moonlet.decode"
local generate = require "moonlet.generate"
local trace = require "moonlet.trace"
local util = require "moonlet.util"

local M = {}

local ROWS = {1, 2, 4, 8, 16, 32} -- of lanes

local known = {slots = 8, on_token = false, iterate = false}

---@class moonlet.Batch
---@field results table[]  by prompt, those that have ended: as of `complete`, or {error, finish_reason = "error", ...}
local Batch = {}
Batch.__index = Batch
Batch.__name = "moonlet.Batch"

-- ---- prompts ----

local per_prompt = {prompt = true}
for _, names in ipairs {generate.known, generate.chat_known} do
  for name in pairs(names) do per_prompt[name] = true end
end

-- A prompt's own options over those of all.
local function options_of(prompt, shared, what)
  local own, o = type(prompt) == "table" and prompt.prompt ~= nil and prompt or {prompt = prompt}, {}
  for name, value in pairs(shared) do o[name] = value end
  if own ~= prompt then return own.prompt, o end
  for name, value in pairs(own) do
    if not per_prompt[name] then util.raise("usage", "%s: no option %s", what, util.show(name)) end
    if name ~= "prompt" then o[name] = value end
  end
  return own.prompt, o
end

-- The prompt at an index and all its options, those of the model among them where they are asked for.
local function request(self, index, what)
  local prompt, given = options_of(self.prompts[index], self.shared, what)
  if given.defaults ~= nil then given = self.model:generation_defaults(given) end
  return prompt, given
end

local function start_one(self, index)
  local model = self.model
  local what = ("batch_generate: prompt %d"):format(index)
  local prompt, given = request(self, index, what)
  local messages = type(prompt) == "table" and (type(prompt[1]) == "table" or prompt.role ~= nil)
  local o = generate.options(given, what, messages and generate.chat_known or nil)
  local ids = messages and model:chat_ids(prompt, o) or model:prompt_ids(prompt, what)
  if messages then o.ends = model.tokenizer:ends(o.template) end
  local runtime = model:runtime()
  runtime:check_prompt(ids, what)
  local slot = runtime:slot()
  local ok, g = pcall(generate.start, model, slot, ids, o, function() slot:close() end, self.steps)
  if not ok then
    slot:close()
    error(g, 0)
  end
  generate.begin(g)
  local row = {index = index, g = g}
  self.live[row] = true
  return row
end

-- ---- rows ----

-- Those that wait try again.
local function wake(self)
  table.move(self.waiting, 1, #self.waiting, #self.rows + 1, self.rows)
  self.waiting = {}
end

-- A row has ended, so that there is room.
local function leave(self, row)
  self.live[row], self.short = nil, false
  wake(self)
end

local function settle(self, row)
  if not self.live[row] then return end -- closing the batch has done it
  leave(self, row)
  self.results[row.index] = row.g:result()
  table.insert(self.finished, row.index)
end

local function settle_error(self, index, row, err)
  local result = {text = "", ids = {}, metrics = {}}
  if row then
    if not self.live[row] then return end
    if type(err) == "table" and err.code == "deadline" and row.g.ends_at then -- which came in the middle of a run
      generate.finish(row.g, "deadline")
      return settle(self, row)
    end
    leave(self, row)
    generate.finish(row.g, "error")
    result = row.g:result()
  end
  result.error, result.finish_reason = err, "error"
  self.results[index] = result
  table.insert(self.finished, index)
end

-- Hands a row its next id; whether it goes on. A callback may have closed the batch since the row was computed.
local function hand(self, row, id, logprob, top)
  if row.g.finish_reason then return false end
  local token = generate.accept(row.g, id, logprob, top)
  if token and self.on_token and self.on_token(row.index, token) == false then generate.finish(row.g, "cancelled") end
  if not row.g.finish_reason then return true end
  settle(self, row)
  return false
end

-- Whether nobody has asked that the row ends.
local function goes_on(self, row)
  if row.g.finish_reason then return false end
  local reason = generate.interrupted(row.g)
  if not reason then return true end
  generate.finish(row.g, reason)
  settle(self, row)
  return false
end

-- What is of the engine, not of a row: the whole batch ends with it.
local function is_everybodys(err) return type(err) == "table" and (err.code == "cancelled" or err.code == "device") end

-- Calls fn for one row; an error of its own ends it alone.
local function try(self, row, fn, ...)
  local results = table.pack(pcall(fn, ...))
  if results[1] then return table.unpack(results, 1, results.n) end
  if is_everybodys(results[2]) then error(results[2], 0) end
  settle_error(self, row.index, row, results[2])
  return false
end

-- ---- room ----

local function lacks_room(err) return type(err) == "table" and (err.code == "limit" or err.code == "memory") end

-- How many hold a cache and go on, or wait.
local function going(self) return #self.rows + #self.waiting end

-- A row's cache goes, to be computed again: from the prompt, or of a row that has a token from what it has fed.
local function give_up_cache(row)
  local slot, s = row.g.slot, row.g.sequence
  if s then decode.leave(s) end
  if s and s.last and not row.again then row.again = table.move(slot.ids, 1, #slot.ids, 1, {}) end
  slot:trim(0)
end

-- Whether a row has memory for its next token; if not, it waits.
local function has_room(self, row)
  local slot = row.g.slot
  local ok, err = pcall(slot.reserve, slot, #slot.ids + 1)
  if ok then return true end
  if is_everybodys(err) then error(err, 0) end
  if not lacks_room(err) then return settle_error(self, row.index, row, err) end
  self.short, row.lack = true, err
  table.insert(self.waiting, row)
  return false
end

-- All wait: one of them makes room.
local function make_room(self)
  if self.filling and #self.filling.g.slot.ids > 0 then
    give_up_cache(self.filling)
    return wake(self)
  end
  local last = 1
  for i, row in ipairs(self.waiting) do
    if row.index > self.waiting[last].index then last = i end
  end
  local row = table.remove(self.waiting, last)
  if #self.waiting == 0 then return settle_error(self, row.index, row, row.lack) end
  give_up_cache(row)
  table.insert(self.paused, 1, row)
  wake(self)
end

-- ---- prefill ----

local function first_of(lane, g)
  local id = lane:first(generate.make_sequence(g))
  if not g.options.logprobs then return id end
  return id, lane:logprobs(1, id, g.options.logprobs)
end

-- One chunk, and behind the last the first token. True of a row that has its cache again.
local function prefill_some(lane, row)
  local g = row.g
  if not lane:prefill_chunk(g.slot, row.again or g.prompt) then return nil end
  if row.again then return true end
  g.metrics.prefill_seconds = g:elapsed()
  return first_of(lane, g)
end

-- The row whose prompt comes next, or nil where it has ended already.
local function next_row(self)
  if self.filling then return self.filling end
  if #self.paused > 0 then return table.remove(self.paused, 1) end
  local index = self.coming
  self.coming = index + 1
  local ok, row = pcall(start_one, self, index)
  if not ok then
    if is_everybodys(row) then error(row, 0) end
    return settle_error(self, index, nil, row)
  end
  if row.g.options.max_tokens > 0 then return row end
  generate.finish(row.g, "length")
  settle(self, row)
end

-- Goes on with the prompt that is on its way, or begins the next.
local function prefill(self)
  local row = next_row(self)
  self.filling = nil
  if not row or not goes_on(self, row) then return end
  local runtime = self.model:runtime()
  local ok, id, logprob, top = pcall(runtime.with_lane, runtime, 1, row.g.ends_at, prefill_some, row)
  if not ok and lacks_room(id) and going(self) > 0 then
    give_up_cache(row)
    self.filling, self.short = row, true
  elseif not ok then
    if is_everybodys(id) then error(id, 0) end
    settle_error(self, row.index, row, id)
  elseif not id then
    self.filling = row
  elseif row.again then
    row.again = nil
    table.insert(self.rows, row)
  elseif hand(self, row, id, logprob, top) then
    table.insert(self.rows, row)
  end
end

-- ---- decode ----

local function step_rows(lane, sequences, rows)
  local ids, own, top = lane:step_all(sequences), {}, {}
  for i, row in ipairs(rows) do
    local n = row.g.options.logprobs
    if n and sequences[i].last then own[i], top[i] = lane:logprobs(i, ids[i], n) end
  end
  return ids, own, top
end

-- Rows whose chains have the same built-in steps, side by side.
local function step_together(self, rows)
  local runtime, sequences, size = self.model:runtime(), {}, ROWS[#ROWS]
  for i = #ROWS, 1, -1 do
    if ROWS[i] >= #rows then size = ROWS[i] end
  end
  local ready = {}
  for _, row in ipairs(rows) do
    if not row.g.finish_reason then -- nobody has closed the batch since
      table.insert(ready, row)
      table.insert(sequences, row.g.sequence)
    end
  end
  if #ready == 0 then return end
  local from = ready[1].g:elapsed()
  local ids, own, top = runtime:with_lane(size, nil, step_rows, sequences, ready)
  local seconds = ready[1].g:elapsed() - from
  for i, row in ipairs(ready) do
    row.g.metrics.decode_seconds = row.g.metrics.decode_seconds + seconds
    local fine = sequences[i].last or try(self, row, runtime.with_lane, runtime, 1, nil, function(lane)
      lane:refuse(sequences[i], ids[i])
    end)
    if fine and hand(self, row, ids[i], own[i], top[i]) then table.insert(self.rows, row) end
  end
end

-- A row in whose chain functions of the user's stand.
local function step_alone(self, row)
  local runtime, g = self.model:runtime(), row.g
  local ok, id, logprob, top = try(self, row, runtime.with_lane, runtime, 1, g.ends_at, function(lane)
    local from = g:elapsed()
    local id = lane:step(g.sequence)
    g.metrics.decode_seconds = g.metrics.decode_seconds + g:elapsed() - from
    if not g.options.logprobs then return id end
    return id, lane:logprobs(1, id, g.options.logprobs)
  end)
  if ok and hand(self, row, id, logprob, top) then table.insert(self.rows, row) end
end

local function decode_rows(self)
  local rows, groups, order = self.rows, {}, {}
  self.rows = {}
  for _, row in ipairs(self.waiting) do
    if generate.interrupted(row.g) then
      wake(self)
      break
    end
  end
  for _, row in ipairs(rows) do
    local s = row.g.sequence
    local stays = goes_on(self, row) and has_room(self, row)
    if stays and (s.chain.custom or s.chain.traced) then step_alone(self, row)
    elseif stays then
      local key = s.key .. (s.wanted and "+" or "")
      if not groups[key] then
        groups[key] = {}
        order[#order + 1] = groups[key]
      end
      table.insert(groups[key], row)
    end
  end
  for _, group in ipairs(order) do
    for at = 1, #group, ROWS[#ROWS] do
      step_together(self, table.move(group, at, math.min(#group, at + ROWS[#ROWS] - 1), 1, {}))
    end
  end
end

-- ---- the whole ----

-- Until another result is there; false when all are.
local function advance(self)
  while #self.finished == 0 and not self.closed do
    local room = going(self) < self.slots and self.coming <= #self.prompts
    local more = self.filling or #self.paused > 0 or room
    if not more and going(self) == 0 then return false end
    if more and not (self.short and going(self) > 0) then prefill(self) end
    if #self.rows > 0 then decode_rows(self) elseif #self.waiting > 0 then make_room(self) end
  end
  return true
end

---The next result in the order in which they end: the prompt's position, and the result; nil behind the last.
function Batch:next()
  if self.failure then util.raise("usage", "%s", self.failure) end
  if self.closed then return nil end
  if self.running then util.raise("usage", "the batch is asked for a result while it makes one") end
  self.running = true
  local ok, more = pcall(trace.unscoped, advance, self)
  self.running = nil
  if self.failure then util.raise("usage", "%s", self.failure) end
  if not ok then
    self:close(type(more) == "table" and more.code == "cancelled" and "cancelled" or "error")
    error(more, 0)
  end
  if not more or self.closed then
    self:close()
    return nil
  end
  local index = table.remove(self.finished, 1)
  return index, self.results[index]
end
Batch.__call = Batch.next

---Ends all that have not ended, with what there is of them in `results`; harmless afterwards.
function Batch:close(reason)
  if self.closed then return end
  self.closed = true
  for row in pairs(self.live) do
    generate.finish(row.g, reason or "cancelled")
    self.results[row.index] = row.g:result()
  end
  self.rows, self.waiting, self.paused, self.live, self.filling = {}, {}, {}, {}, nil
end

-- Its model is closed.
function Batch:abort(message)
  if self.closed then return end
  self.failure = message
  self:close "error"
end
Batch.__close = function(self) self:close() end
Batch.__gc = Batch.__close
function Batch:__tostring() return ("batch of %d prompts, at number %d"):format(#self.prompts, self.coming) end
util.know(Batch, "batch:")

-- Notes the steps of sampling of all prompts, so that rows of different options run side by side. A prompt with a
-- mistake in it ends alone, later.
local function note_steps(self)
  for i = 1, #self.prompts do
    local ok, o = pcall(function()
      local _, given = request(self, i, "prompt")
      return generate.options(given, "prompt", generate.chat_known)
    end)
    if ok then generate.note_steps(o, self.steps) end
  end
end

---See moonlet.Model:batch_generate.
function M.new(model, prompts, opts)
  if type(prompts) ~= "table" then util.unexpected("batch_generate: prompts", "a list", prompts) end
  local shared, own = {}, {}
  if opts ~= nil and type(opts) ~= "table" then util.unexpected("batch_generate", "a table of options", opts) end
  for name, value in pairs(opts or {}) do
    if known[name] ~= nil then own[name] = value else shared[name] = value end
  end
  generate.options(shared, "batch_generate", generate.chat_known) -- errors of all come before anything is done
  if own.on_token ~= nil then util.callable("batch_generate: on_token", own.on_token, "a function") end
  if own.iterate ~= nil then util.flag("batch_generate: iterate", own.iterate) end
  local self = setmetatable({
    model = model, prompts = prompts, shared = shared, on_token = own.on_token, coming = 1, rows = {},
    waiting = {}, paused = {}, live = {}, results = {}, finished = {}, steps = {},
    slots = util.integer("batch_generate: slots", own.slots or known.slots, 1),
  }, Batch)
  note_steps(self)
  model.users[self] = true
  if own.iterate then return self, nil, nil, self end
  while self:next() do end -- luacheck: ignore 542
  return self.results
end

return M
