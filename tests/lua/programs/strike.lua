-- strike.lua: what happens to a program on its way, what strikes it in the middle, and what must hold then.
local core = require "moonlet.core"
local ml = require "moonlet"
local compare = require "tests.lua.programs.compare"
local world = require "tests.lua.programs.world"

-- Whether the device may still be at work on what it was given.
local function is_later() return ml.device(ml.default_device()).asynchronous end

-- pcall, where such a device has done what it was given: what failed is known then.
local function attempt(fn, ...)
  local later = is_later()
  local results = table.pack(pcall(fn, ...))
  local done, err = true, nil
  if later then done, err = pcall(ml.eval) end
  if results[1] and not done then return false, err end
  return table.unpack(results, 1, results.n)
end

local at, canonical, expect, expect_states = compare.at, compare.canonical, compare.expect, compare.expect_states
local fail, observe, show = compare.fail, compare.observe, compare.show

local M = {}

-- How often what was struck was.
M.struck = {}
for _, name in ipairs {"limit", "cancel", "deadline", "doomed", "broken", "limit of a call", "deadline of a call",
  "cancel of a call", "error while recorded", "cancel while recorded", "error in a part", "fault in a call"} do
  M.struck[name] = 0
end

local function note_struck(name) M.struck[name] = M.struck[name] + 1 end

M.abandoned = {} -- is raised where a lazy run has ended as it may
local Broken = {} -- what a function raises that ends before it is recorded

-- ---- states afterwards ----

-- By instruction the state that it writes, if any.
local function writes_of(program)
  local writes, base = {}, {}
  for i, instr in ipairs(program.code) do
    local first = instr.args[1]
    local id = type(first) == "table" and first.ref
    base[instr.id] = base[id] or id -- what is written next may be a window
    if instr.effect then writes[i] = base[instr.id] end
  end
  return writes
end

-- How instructions after `from` up to `to` write a state: "appended" by that alone, else "replaced", or nil.
local function how_written(w, id, from, to)
  w.writes = w.writes or writes_of(w.program)
  local how
  for i = from + 1, to do
    local appends = w.program.code[i].name == "cache_append"
    if w.writes[i] == id then how = appends and how ~= "replaced" and "appended" or "replaced" end
  end
  return how
end

local widths = {bfloat16 = 2, float16 = 2, float32 = 4}

-- A cache to which something was appended half way: each element is what it was before instruction `from`, or what one
-- of those up to `to` made it.
local function expect_on_the_way(mode, what, got, history, from, to)
  local size, before = widths[got.dtype], at(history, from)
  for k = 1, #got.bytes, size do
    local function is(o) return canonical(o.bytes:sub(k, k + size - 1), o.dtype) end
    local found = is(got) == is(before)
    for _, entry in ipairs(history) do
      found = found or entry[1] > from and entry[1] <= to and is(got) == is(entry[2])
    end
    if not found then
      fail(mode, what, "element %d of %s was never so; before: %s", k // size, show(got), show(before))
    end
  end
end

-- A state after something was struck that began with the values of instruction `from` (nil: with the first, still
-- to be written) and ran up to `to`: as it was in the end, or without values. Returns whether it has some.
local function check_struck_state(mode, w, seen, id, from, to, is_last)
  local what, how = "state x" .. id .. ", struck", how_written(w, id, from or 0, to)
  local ok, got = pcall(observe, w.handles[id])
  if not ok and got.code ~= "usage" then fail(mode, what, "raised %s", tostring(got)) end
  if not ok and from and how ~= "replaced" then fail(mode, what, "has no values, and was not replaced") end
  if not ok then return false end
  if how == "appended" then expect_on_the_way(mode, what, got, seen.states[id], from or 0, to)
  else expect(mode, what, got, at(seen.states[id], is_last and to or from)) end
  return true
end

-- After an evaluation that was struck on the way, at instruction i: what has a value has the right one; states that
-- have none raise until they are assigned. `lost`: effects were pending before, and are no more.
local function check_struck(mode, w, seen, r, i, lost)
  local views = {}
  for _, id in ipairs(w.states) do
    if not check_struck_state(mode, w, seen, id, w.settled, i, true) then
      if attempt(ml.eval, w.handles[id]:copy()) then fail(mode, "state x" .. id, "is read without values") end
      views[id] = w.handles[id]:transpose()
      lost = true
    end
  end
  if not lost then return end
  for _, instr in ipairs(w.program.code) do
    local ok, got = false, nil
    if r[instr.id] then ok, got = pcall(observe, r[instr.id]) end
    if ok then expect(mode, "x" .. instr.id .. ", struck", got, at(seen.results[instr.id], i)) end
  end
  world.reset(w)
  for _, id in ipairs(w.states) do ml.assign(w.handles[id]:transpose(), w.first[id]:transpose()) end -- a part again
  expect_states(mode .. ", assigned anew", w, seen, 0)
  for id, view in pairs(views) do
    if attempt(ml.eval, view) then fail(mode, "state x" .. id, "has values from before it was assigned anew") end
  end
  error(M.abandoned, 0)
end

-- ---- in the middle of lazy work ----

---By the kind of an event of the program: what it does after instruction i, to `list` of what is alive.
M.happen = {}
local happen = M.happen

function happen.eval(_, _, _, list) ml.eval(table.unpack(list)) end
function happen.collect() collectgarbage() end
function happen.clear() ml.memory.clear() end

function happen.read(_, seen, r, _, i, event)
  for _, id in ipairs(event.ids) do
    if r[id] then
      expect("read on the way", "x" .. id, observe(r[id]), at(seen.results[id], i))
    end
  end
end

function happen.limit(w, seen, _, list, i, event)
  ml.memory.limit(ml.memory.active() + event.bytes)
  local ok, err = attempt(ml.eval, table.unpack(list))
  ml.memory.limit(0)
  if not ok and err.code ~= "limit" then fail("memory limit", "after instruction " .. i, "raised %s", tostring(err)) end
  if not ok then note_struck "limit" end
  if not ok and event.bytes % 3 == 0 then expect_states("memory limit", w, seen, i) end
end

function happen.cancel(_, _, _, list, i)
  core.cancel()
  local ok, err = attempt(ml.eval, table.unpack(list))
  core.take_cancel()
  if not ok and err.code ~= "cancelled" then fail("cancel", "after instruction " .. i, "raised %s", tostring(err)) end
  if not ok then note_struck "cancel" end
end

function happen.deadline(w, seen, r, list, i, event)
  local pending = core.effects()
  core.deadline(event.seconds)
  local ok, err = attempt(ml.eval, table.unpack(list))
  core.deadline(nil)
  if ok then return end
  if err.code ~= "deadline" then fail("deadline", "after instruction " .. i, "raised %s", tostring(err)) end
  note_struck "deadline"
  check_struck("deadline", w, seen, r, i, core.effects() < pending)
end

-- What is left of a trace that is over, which nothing can evaluate: a result, and what a state was to hold.
local leaked = {}
do
  local s = ml.state(ml.zeros {1})
  ml.compile(function(x)
    ml.assign(s, s + 1)
    leaked[1], leaked[2] = ml.keep(x + 1), ml.keep(s:reshape {1})
    return x * 1
  end)(ml.zeros {1})
end

---What is refused while a plan is recorded: values that are none, numbers of the host for a state.
function M.check_refusals()
  for _, x in ipairs(leaked) do
    if attempt(ml.eval, ml.ones {2} + 1, x) then fail("compiled", "what nothing can evaluate", "has a value") end
  end
  local s <close> = core.make_state(ml.zeros {2})
  if pcall(core.state_write, s, {0, 0}) then fail("compiled", "a state", "is written past the recording") end
  if pcall(ml.state, {2}, "float32") then fail("compiled", "a state", "is made once for all calls") end
end

-- Whatever else was asked for may come later.
function happen.doomed(w, seen, _, list, i, event)
  local ok, err = attempt(ml.eval, leaked[w.program.seed % 2 + 1], table.unpack(list))
  if ok or err.code ~= "usage" then fail("doomed", "after instruction " .. i, "raised %s", tostring(err)) end
  note_struck "doomed"
  if event.check then expect_states("doomed", w, seen, i) end
end

-- What fails when it is run, behind all that is pending.
function happen.broken(w, seen, r, list, i)
  local x <close> = ml.zeros {2}
  local index <close> = ml.tensor({7}, {dtype = "int32"})
  local pending = core.effects()
  local ok = attempt(ml.eval, x:take(index, 1), table.unpack(list))
  if ok then fail("broken", "after instruction " .. i, "an index out of range is none") end
  note_struck "broken"
  check_struck("broken", w, seen, r, i, core.effects() < pending)
end

-- ---- recordings that end on the way ----

---Before instruction i of a function that is recorded: where it is to end, an error or a cancel; where the call is to
---fail when it is run, a look-up in the index that the call gives.
function M.on_the_way(w, i, registers, arguments, outputs)
  local id = w.program.code[i].id
  if arguments.index and id == w.program.fault then outputs.found = ml.keep(w.table:take(arguments.index, 1)) end
  if id ~= w.breaks then return end
  if w.program.seed % 3 == 0 then return core.cancel() end
  w.left = {i = i}
  for _, instr in ipairs(w.program.code) do w.left[instr.id] = registers[instr.id] end
  error(Broken, 0)
end

---Calls f, which is recorded and ends where the program says: nothing has happened since instruction i, and what is
---left over has the value that it would have elsewhere, or none. `registers`: what f may capture.
function M.end_recording(mode, w, seen, i, registers, f, ...)
  if is_later() then -- else the cancel meets what is under way: what was written before, or is computed when captured
    local list = {}
    for _, x in pairs(registers) do list[#list + 1] = x end
    if w.program.seed % 3 == 0 then ml.eval(table.unpack(list)) end
    ml.eval()
  end
  w.breaks = w.program.breaks
  local ok, err = attempt(f, ...)
  w.breaks = nil
  core.take_cancel()
  local cancelled = w.program.seed % 3 == 0
  if ok or not (cancelled and err.code == "cancelled" or err == Broken) then
    fail(mode, "the call", "does not end as its recording does: %s", tostring(err))
  end
  note_struck(cancelled and "cancel while recorded" or "error while recorded")
  for id, x in pairs(w.left or {}) do
    local read, got
    if id ~= "i" then read, got = pcall(observe, x) end
    if read then expect(mode, "x" .. id .. ", left over", got, at(seen.results[id], w.left.i - 1)) end
  end
  w.left = nil
  expect_states(mode, w, seen, i)
end

---Calls f as a part of what is recorded, which ends where the program says. Nothing of it is left.
function M.end_part(w, f, ...)
  if w.program.seed % 3 == 0 then return end -- a cancel is met by what runs
  w.breaks = w.program.breaks
  local ok, err = attempt(f, ...)
  w.breaks, w.left = nil, nil
  if ok or err ~= Broken then fail("a part", "the call", "does not end as its recording does: %s", tostring(err)) end
  note_struck "error in a part"
end

-- ---- calls ----

-- What may strike a call: how it begins and ends, its error, whether it strikes before anything is done, and whether
-- it always strikes.
local strikes = {
  limit = {code = "limit", early = true,
    begin = function(program) ml.memory.limit(ml.memory.active() + program.limit) end,
    stop = function() ml.memory.limit(0) end},
  deadline = {code = "deadline", begin = function(program) core.deadline(program.deadline) end,
    stop = function() core.deadline(nil) end},
  cancel = {code = "cancelled", early = true, always = true, begin = core.cancel, stop = core.take_cancel},
}

---A call that something may strike. Where it can do so before anything is done alone, what was still to be written may
---be so meanwhile.
function M.call(mode, w, seen, f, kind)
  local strike = strikes[kind]
  world.start(w)
  if not strike.early or w.program.seed % 2 == 0 then ml.eval() end
  local views = {} -- of what states held, to be read afterwards
  for k, id in ipairs(w.states) do views[k] = w.handles[id]:transpose() end
  strike.begin(w.program)
  local ok, err = attempt(f)
  strike.stop()
  for k, id in ipairs(w.states) do
    expect(mode, "state x" .. id .. " before the call, turned", observe(views[k]:transpose()), at(seen.states[id], 0))
  end
  if ok and strike.always then fail(mode, "the call", "came to its end") end
  if ok then return end
  if err.code ~= strike.code then fail(mode, "the call", "raised %s", tostring(err)) end
  note_struck(kind .. " of a call")
  if strike.early then return expect_states(mode, w, seen, 0) end
  for _, id in ipairs(w.states) do check_struck_state(mode, w, seen, id, 0, #w.program.code, false) end
end

---A call that looks up what is not there: states that it replaces have no values, all others those that they had.
function M.faulty_call(mode, w, seen, f)
  local table <close> = ml.tensor {1.0, 2}
  local good <close> = ml.tensor {1}
  local wrong <close> = ml.tensor {7}
  w.table = table
  world.start(w)
  local outputs = f(nil, nil, good)
  if outputs.found:item() ~= 2.0 then fail(mode, "what was looked up", "is %g", outputs.found:item()) end
  expect_states(mode, w, seen, #w.program.code)
  world.start(w)
  ml.eval()
  local ok, err = attempt(f, nil, nil, wrong)
  if ok or err.code ~= "usage" then fail(mode, "the call", "finds what is not there: %s", tostring(err)) end
  note_struck "fault in a call"
  for _, id in ipairs(w.states) do
    if check_struck_state(mode, w, seen, id, 0, #w.program.code, false) and
      how_written(w, id, 0, #w.program.code) == "replaced" then
      fail(mode, "state x" .. id, "has values after the call")
    end
  end
end

return M
