-- check.lua: one program in every way in which it can be run. All must give the same bits.
local core = require "moonlet.core"
local ml = require "moonlet"
local interpret = require "tests.lua.programs.interpret"
local leaves = require "tests.lua.programs.leaves"

local M = {}

-- ---- comparing ----

-- Bytes of a NaN's pattern of each float dtype: mask of what is all ones, mask of what is not all zeros.
local nans = {float16 = {"<I2", 2, 0x7c00, 0x3ff}, bfloat16 = {"<I2", 2, 0x7f80, 0x7f},
  float32 = {"<I4", 4, 0x7f800000, 0x7fffff}, float64 = {"<i8", 8, 0x7ff0000000000000, 0xfffffffffffff}}

-- The same bytes with one NaN for all.
local function canonical(bytes, dtype)
  local n = nans[dtype]
  if not n then return bytes end
  local out = {}
  for i = 1, #bytes, n[2] do
    local bits = string.unpack(n[1], bytes, i)
    out[#out + 1] = bits & n[3] == n[3] and bits & n[4] ~= 0 and "nan" or bytes:sub(i, i + n[2] - 1)
  end
  return table.concat(out)
end

local function observe(x)
  return {dtype = x.dtype, dims = x.shape, shape = table.concat(x.shape, ","), bytes = x:tobytes()}
end

local function equal(a, b)
  if a.dtype ~= b.dtype or a.shape ~= b.shape then return false end
  return a.bytes == b.bytes or canonical(a.bytes, a.dtype) == canonical(b.bytes, b.dtype)
end

local function text(list)
  if type(list) ~= "table" then return type(list) == "number" and ("%.9g"):format(list) or tostring(list) end
  local parts = {}
  for i, x in ipairs(list) do
    if i > 40 then
      parts[i] = "..."
      break
    end
    parts[i] = text(x)
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

local function show(o)
  if o.dtype:find "^q" then return ("%s (%s)"):format(o.dtype, o.shape) end
  local x <close> = ml.from_bytes(o.bytes, o.dims, o.dtype)
  return ("%s (%s) %s"):format(o.dtype, o.shape, text(x:tolist()))
end

local Failure = {__tostring = function(f) return f.message end}
local Abandoned = {}
local Broken = {} -- what a function raises that ends before it is recorded

local function fail(mode, what, format, ...)
  local message = ("%s: %s: %s"):format(mode, what, format:format(...))
  error(setmetatable({mode = mode, what = what, message = message}, Failure), 0)
end

local widths = {float16 = 2, float32 = 4}

local function expect(mode, what, got, want)
  if not want then fail(mode, what, "there is nothing to compare it with") end
  if not equal(got, want) then fail(mode, what, "expected %s, found %s", show(want), show(got)) end
end

-- ---- what a program uses ----

local function draws(program)
  for _, instr in ipairs(program.code) do
    if instr.name:find "^random_" and instr.name ~= "random_bits" then return true end
  end
  return false
end

local function has(program, id)
  for _, instr in ipairs(program.code) do
    if instr.id == id then return true end
  end
  return false
end

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
  local how
  for i = from + 1, to do
    local appends = w.program.code[i].name == "cache_append"
    if w.writes[i] == id then how = appends and how ~= "replaced" and "appended" or "replaced" end
  end
  return how
end

-- `given`: leaves that have other values, states aside.
local function world(program, given)
  local w = {program = program, handles = {}, first = {}, states = {}, variants = {}}
  for _, leaf in ipairs(program.leaves) do
    w.variants[leaf.id] = given and given[leaf.id] and leaf.wrap ~= "state" and 1 or 0
    w.handles[leaf.id] = leaves.make(leaf, w.variants[leaf.id])
    if leaf.wrap == "state" then
      w.first[leaf.id] = leaves.values(leaf)
      w.states[#w.states + 1] = leaf.id
    end
  end
  w.ends, w.last = interpret.last_uses(program)
  w.writes = writes_of(program)
  return w
end

local function close(w)
  for _, t in pairs(w.handles) do t:close() end
  for _, t in pairs(w.first) do t:close() end
end

local function reset(w)
  for _, id in ipairs(w.states) do ml.assign(w.handles[id], w.first[id]) end
end

local function registers_of(w)
  local r = {}
  for id, t in pairs(w.handles) do r[id] = t end
  return r
end

-- ---- op by op ----

-- The value that a history of {instruction, value} had after instruction i.
local function at(history, i)
  local value
  for _, entry in ipairs(history or {}) do
    if entry[1] <= i then value = entry[2] end
  end
  return value
end

-- What is packed reads as what it was made of.
local function check_packed(w)
  for _, leaf in ipairs(w.program.leaves) do
    if leaf.wrap == "pack" then
      local plain <close> = leaves.values(leaf, w.variants[leaf.id])
      expect("packed", "x" .. leaf.id, observe(w.handles[leaf.id]), observe(plain))
    end
  end
end

-- Evaluates after each call. Returns what each result and state was when.
local function op_by_op(w)
  check_packed(w)
  local program, seen = w.program, {results = {}, states = {}}
  local r = registers_of(w)
  local function note(to, id, i, x)
    to[id] = to[id] or {}
    table.insert(to[id], {i, observe(x)})
  end
  for _, id in ipairs(w.states) do note(seen.states, id, 0, w.handles[id]) end
  interpret.run(program, r, w.ends, {after = function(i, result)
    local instr = program.code[i]
    ml.eval()
    if instr.changes then
      note(seen.results, instr.changes, i, r[instr.changes])
    elseif not instr.whole then
      ml.eval(result)
      note(seen.results, instr.id, i, result)
    end
    if instr.effect then
      for _, id in ipairs(w.states) do note(seen.states, id, i, w.handles[id]) end
    end
  end})
  for _, instr in ipairs(program.code) do
    local id = instr.id
    if r[id] then
      expect("op by op", "x" .. id .. " in the end", observe(r[id]), at(seen.results[id], #program.code))
    end
  end
  return seen
end

-- ---- lazily ----

local function check_states(mode, w, seen, i)
  for _, id in ipairs(w.states) do expect(mode, "state x" .. id, observe(w.handles[id]), at(seen.states[id], i)) end
end

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
      if pcall(ml.eval, w.handles[id]:copy()) then fail(mode, "state x" .. id, "is read without values") end
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
  reset(w)
  for _, id in ipairs(w.states) do ml.assign(w.handles[id]:transpose(), w.first[id]:transpose()) end -- a part again
  check_states(mode .. ", assigned anew", w, seen, 0)
  for id, view in pairs(views) do
    if pcall(ml.eval, view) then fail(mode, "state x" .. id, "has values from before it was assigned anew") end
  end
  error(Abandoned, 0)
end

local function alive(r, ids)
  local list = {}
  for _, id in ipairs(ids) do list[#list + 1] = r[id] end
  return list
end

-- How often what was struck was.
M.struck = {}
for _, name in ipairs {"limit", "cancel", "deadline", "doomed", "broken", "limit of a call", "deadline of a call",
  "cancel of a call", "error while recorded", "cancel while recorded", "error in a part", "fault in a call"} do
  M.struck[name] = 0
end

local function note_struck(name) M.struck[name] = M.struck[name] + 1 end

local happen = {}

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
  local ok, err = pcall(ml.eval, table.unpack(list))
  ml.memory.limit(0)
  if not ok and err.code ~= "limit" then fail("memory limit", "after instruction " .. i, "raised %s", tostring(err)) end
  if not ok then note_struck "limit" end
  if not ok and event.bytes % 3 == 0 then check_states("memory limit", w, seen, i) end
end

function happen.cancel(_, _, _, list, i)
  core.cancel()
  local ok, err = pcall(ml.eval, table.unpack(list))
  core.take_cancel()
  if not ok and err.code ~= "cancelled" then fail("cancel", "after instruction " .. i, "raised %s", tostring(err)) end
  if not ok then note_struck "cancel" end
end

function happen.deadline(w, seen, r, list, i, event)
  local pending = core.effects()
  core.deadline(event.seconds)
  local ok, err = pcall(ml.eval, table.unpack(list))
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

-- Whatever else was asked for may come later.
function happen.doomed(w, seen, _, list, i, event)
  local ok, err = pcall(ml.eval, leaked[w.program.seed % 2 + 1], table.unpack(list))
  if ok or err.code ~= "usage" then fail("doomed", "after instruction " .. i, "raised %s", tostring(err)) end
  note_struck "doomed"
  if event.check then check_states("doomed", w, seen, i) end
end

-- What fails when it is run, behind all that is pending.
function happen.broken(w, seen, r, list, i)
  local x <close> = ml.zeros {2}
  local index <close> = ml.tensor({7}, {dtype = "int32"})
  local pending = core.effects()
  local ok = pcall(ml.eval, x:take(index, 1), table.unpack(list))
  if ok then fail("broken", "after instruction " .. i, "an index out of range is none") end
  note_struck "broken"
  check_struck("broken", w, seen, r, i, core.effects() < pending)
end

-- ---- recordings that end on the way ----

-- Before instruction i of a function that is recorded: where it is to end, an error or a cancel; where the call is to
-- fail when it is run, a look-up in the index that the call gives.
local function on_the_way(w, i, registers, arguments, outputs)
  local id = w.program.code[i].id
  if arguments.index and id == w.program.fault then outputs.found = ml.keep(w.table:take(arguments.index, 1)) end
  if id ~= w.breaks then return end
  if w.program.seed % 3 == 0 then return core.cancel() end
  w.left = {i = i}
  for _, instr in ipairs(w.program.code) do w.left[instr.id] = registers[instr.id] end
  error(Broken, 0)
end

-- Calls f, which is recorded and ends where the program says: nothing has happened since instruction i, and what is
-- left over has the value that it would have elsewhere, or none.
local function end_recording(mode, w, seen, i, f, ...)
  w.breaks = w.program.breaks
  local ok, err = pcall(f, ...)
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
  check_states(mode, w, seen, i)
end

-- Calls f as a part of what is recorded, which ends where the program says. Nothing of it is left.
local function end_part(w, f, ...)
  if w.program.seed % 3 == 0 then return end -- a cancel is met by what runs
  w.breaks = w.program.breaks
  local ok, err = pcall(f, ...)
  w.breaks, w.left = nil, nil
  if ok or err ~= Broken then fail("a part", "the call", "does not end as its recording does: %s", tostring(err)) end
  note_struck "error in a part"
end

-- ---- a function in the program ----

-- What the inner part of a program is given: of the leaves what the program's function is given too, and most results.
-- Windows that it writes are captured.
local function given_to(part, program)
  local given, written = {}, {}
  for i = part.from, part.to do
    local instr = program.code[i]
    if instr.effect and not instr.whole then written[instr.args[1].ref] = true end
    interpret.refs(instr, function(id)
      local wanted = program.arguments[id] or part.is_result[id] and id % 3 > 0
      if wanted and not part.own[id] then given["x" .. id] = part.registers[id] end
    end)
  end
  for id in pairs(written) do given["x" .. id] = nil end
  return given
end

-- The inner part as a compiled function, the same one in all ways of running: it is replayed, and recorded as a part of
-- other plans. Its first recording may end on the way.
local function inner_of(w, seen)
  local part, is_called
  local may_end = not draws(w.program)
  local is_result = {}
  for _, instr in ipairs(w.program.code) do is_result[instr.id] = true end
  local f = ml.compile(function(given)
    local r, results = {}, {}
    for id, x in pairs(part.registers) do r[id] = x end
    for name, x in pairs(given) do r[tonumber(name:sub(2))] = x end
    part.run(r)
    for id in pairs(part.own) do results[id] = r[id] end
    return results
  end)
  return function(now)
    part = now
    part.is_result = is_result
    local given = given_to(part, w.program)
    if not is_called and may_end and part.own[w.program.breaks] then
      end_recording("a compiled function", w, seen, part.from - 1, f, given)
    end
    local may_end_here = is_called and may_end and part.own[w.program.breaks] and not w.breaks
    if may_end_here and core.recording() then end_part(w, f, given) end
    is_called = true
    for id, x in pairs(f(given)) do part.registers[id] = x end
  end
end

local function lazily(w, seen, mode, with_events, inner)
  local program = w.program
  local r = registers_of(w)
  local hooks = {inner = inner, before = inner and function(i, registers) on_the_way(w, i, registers, {}) end}
  w.settled = nil -- all effects up to that instruction have happened
  if with_events then
    function hooks.after(i)
      local event = program.code[i].event
      if event then happen[event.kind](w, seen, r, alive(r, event.ids), i, event) end
      if event and core.effects() == 0 then w.settled = i end
    end
  end
  interpret.run(program, r, w.ends, hooks)
  if program.states_first then check_states(mode, w, seen, #program.code) end
  local outputs, ids = {}, {}
  for _, instr in ipairs(program.code) do
    if program.fates[instr.id] == "output" and r[instr.id] then
      outputs[#outputs + 1] = r[instr.id]
      ids[#ids + 1] = instr.id
    end
  end
  ml.eval(table.unpack(outputs))
  for k, id in ipairs(ids) do expect(mode, "x" .. id, observe(outputs[k]), at(seen.results[id], #program.code)) end
  check_states(mode, w, seen, #program.code)
  for _, instr in ipairs(program.code) do
    local id = instr.id
    if r[id] then
      expect(mode, "x" .. id .. ", read late", observe(r[id]), at(seen.results[id], #program.code))
    end
  end
end

-- ---- compiled ----

-- What is refused while a plan is recorded: values that are none, numbers of the host for a state.
local function check_refusals()
  for _, x in ipairs(leaked) do
    if pcall(ml.eval, ml.ones {2} + 1, x) then fail("compiled", "what nothing can evaluate", "has a value") end
  end
  local s <close> = ml.state(ml.zeros {2})
  if pcall(core.state_write, s, {0, 0}) then fail("compiled", "a state", "is written past the recording") end
end

-- What a function captures before it is computed: readers and views of states as they are now, and a draw. Each with
-- the value that it has for good.
local function captured_by(w)
  local list = {}
  local function add(x, value) list[#list + 1] = {x = x, value = value} end
  for _, id in ipairs(w.states) do
    local s = w.handles[id]
    local plain, turned = observe(s), observe(s:transpose())
    add(s:copy(), plain)
    add(s:transpose(), turned)
    add(s:reshape(s.shape), plain)
    add(s:transpose():transpose():copy(), plain)
  end
  ml.random.seed(w.program.seed)
  local draw = ml.random.uniform {3}
  ml.random.seed(w.program.seed)
  add(draw, observe(ml.random.uniform {3}))
  return list
end

local function compiled(w, given)
  local program = w.program
  local captured = program.seed % 2 == 0 and captured_by(w) or {}
  local ids = {}
  for _, instr in ipairs(program.code) do
    if program.fates[instr.id] == "output" then ids[#ids + 1] = instr.id end
  end
  local f = ml.compile(function(arguments)
    local r = registers_of(w)
    for name, x in pairs(arguments) do r[name == "index" and 0 or tonumber(name:sub(2))] = x end
    r[0] = nil
    if program.seed % 7 == 0 then check_refusals() end
    local old = {}
    for k, c in ipairs(captured) do old[k] = k % 3 == 0 and c.x:copy() or nil end
    local targets = program.seed % 3 == 0 and w.handles or nil -- by another name
    local outputs = {}
    interpret.run(program, r, w.ends, {targets = targets, inner = w.inner, before = function(i, registers)
      on_the_way(w, i, registers, arguments, outputs)
    end})
    for k, id in ipairs(ids) do outputs[k] = r[id] end
    outputs.other = arguments.x0 and arguments.x0:copy() -- after all writes
    for k, c in ipairs(captured) do old[k] = k % 3 == 1 and c.x or old[k] or c.x:copy() end
    outputs.captured = old
    return outputs
  end)
  return function(other, handles, index)
    local arguments = {index = index}
    for id, t in pairs(w.handles) do
      if given[id] then arguments["x" .. id] = handles and not w.first[id] and handles[id] or t end
    end
    arguments.x0 = other
    return f(arguments), ids, captured
  end, captured
end

local function check_captured(mode, captured, outputs)
  for k, c in ipairs(captured) do
    expect(mode, ("what was captured, %d of %d"):format(k, #captured), observe(outputs.captured[k]), c.value)
  end
end

local function check_call(mode, w, seen, f, other)
  local views, copies = {}, {} -- of what states held before: to be read afterwards
  for k, id in ipairs(w.states) do views[k], copies[k] = w.handles[id]:transpose(), w.handles[id]:copy() end
  local outputs, ids, captured = f(other)
  for k, id in ipairs(w.states) do
    expect(mode, "state x" .. id .. " before the call", observe(copies[k]), at(seen.states[id], 0))
    expect(mode, "state x" .. id .. " before the call, turned", observe(views[k]:transpose()), at(seen.states[id], 0))
  end
  for k, id in ipairs(ids) do
    expect(mode, "x" .. id, observe(outputs[k]), at(seen.results[id], #w.program.code))
  end
  check_captured(mode, captured, outputs)
  check_states(mode, w, seen, #w.program.code)
  return outputs
end

local function start(w)
  reset(w)
  ml.random.seed(w.program.seed)
end

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

-- A call that something may strike. Where it can do so before anything is done alone, what was still to be written may
-- be so meanwhile.
local function struck_call(mode, w, seen, f, kind)
  local strike = strikes[kind]
  start(w)
  if not strike.early or w.program.seed % 2 == 0 then ml.eval() end
  local views = {} -- of what states held, to be read afterwards
  for k, id in ipairs(w.states) do views[k] = w.handles[id]:transpose() end
  strike.begin(w.program)
  local ok, err = pcall(f)
  strike.stop()
  for k, id in ipairs(w.states) do
    expect(mode, "state x" .. id .. " before the call, turned", observe(views[k]:transpose()), at(seen.states[id], 0))
  end
  if ok and strike.always then fail(mode, "the call", "came to its end") end
  if ok then return end
  if err.code ~= strike.code then fail(mode, "the call", "raised %s", tostring(err)) end
  note_struck(kind .. " of a call")
  if strike.early then return check_states(mode, w, seen, 0) end
  for _, id in ipairs(w.states) do check_struck_state(mode, w, seen, id, 0, #w.program.code, false) end
end

-- A call of a new key that ends while it is recorded. The next one is right.
local function broken_call(mode, w, seen, f)
  start(w)
  local other <close> = ml.zeros {w.program.seed % 3 + 4}
  end_recording(mode, w, seen, 0, f, other)
  start(w)
  check_call(mode .. ", called again", w, seen, f, other)
end

-- A call that looks up what is not there: states that it replaces have no values, all others those that they had.
local function faulty_call(mode, w, seen, f)
  local table <close> = ml.tensor {1.0, 2}
  local good <close> = ml.tensor {1}
  local wrong <close> = ml.tensor {7}
  w.table = table
  start(w)
  local outputs = f(nil, nil, good)
  if outputs.found:item() ~= 2.0 then fail(mode, "what was looked up", "is %g", outputs.found:item()) end
  check_states(mode, w, seen, #w.program.code)
  start(w)
  ml.eval()
  local ok, err = pcall(f, nil, nil, wrong)
  if ok or err.code ~= "usage" then fail(mode, "the call", "finds what is not there: %s", tostring(err)) end
  note_struck "fault in a call"
  for _, id in ipairs(w.states) do
    if check_struck_state(mode, w, seen, id, 0, #w.program.code, false) and
      how_written(w, id, 0, #w.program.code) == "replaced" then
      fail(mode, "state x" .. id, "has values after the call")
    end
  end
end

local function check_compiled(mode, w, seen, again, given)
  local program = w.program
  local f, captured = compiled(w, given)
  if #captured > 0 then -- recorded while states are as they were then
    local ok, outputs = pcall(f)
    if ok then check_captured(mode, captured, outputs) end
  end
  start(w)
  check_call(mode, w, seen, f)
  if program.limit then struck_call(mode .. ", at the limit", w, seen, f, "limit") end
  if program.deadline then struck_call(mode .. ", with a deadline", w, seen, f, "deadline") end
  if program.cancel then struck_call(mode .. ", cancelled", w, seen, f, "cancel") end
  if has(program, program.breaks) then broken_call(mode .. ", ended while recorded", w, seen, f) end
  if has(program, program.fault) then faulty_call(mode .. ", with a fault", w, seen, f) end
  if program.seed % 4 == 0 then -- another shape in between
    start(w)
    local id = w.states[1] -- a view of a state that the call may write
    local other = id and w.handles[id]:transpose() or ml.zeros {program.seed % 3 + 1}
    local outputs = check_call(mode .. ", another key", w, seen, f, other)
    local was = outputs.other:transpose()
    if id then expect(mode, "a view of state x" .. id .. " as an argument", observe(was), at(seen.states[id], 0)) end
  end
  if program.seed % 5 == 0 then
    local w2 <close> = setmetatable(world(program, given), {__close = close})
    ml.random.seed(program.seed)
    local seen2 = op_by_op(w2)
    start(w)
    check_call(mode .. ", other values", w, seen2, function() return f(nil, w2.handles) end)
  end
  start(w)
  check_call(mode .. ", replayed", w, seen, f)
  if again then
    reset(w)
    check_call(mode .. ", replayed on", w, again, f)
  end
end

-- ---- the whole ----

local function run(program)
  local w <close> = setmetatable(world(program), {__close = close})
  ml.random.seed(program.seed)
  local ok, seen = pcall(op_by_op, w)
  if not ok then error(seen, 0) end
  local again
  if draws(program) then
    reset(w)
    again = op_by_op(w)
  end
  local states, everything = {}, {}
  for id in pairs(w.handles) do everything[id] = true end
  for _, id in ipairs(w.states) do states[id] = program.arguments[id] end
  start(w)
  lazily(w, seen, "lazily", false)
  start(w)
  local done, err = pcall(lazily, w, seen, "with events", true)
  if not done and err ~= Abandoned then error(err, 0) end
  if program.inner then
    w.inner = inner_of(w, seen)
    start(w)
    lazily(w, seen, "with a compiled function", false, w.inner)
    start(w)
    lazily(w, seen, "with a compiled function, replayed", false, w.inner)
  end
  check_compiled("compiled", w, seen, again, states)
  check_compiled("compiled with arguments", w, seen, again, program.seed % 2 == 0 and everything or program.arguments)
end

---Runs a program in all ways. Returns nil, or what failed: {message, mode, what}.
function M.check(program)
  local ok, err = xpcall(run, function(err)
    if getmetatable(err) == Failure or err == Abandoned then return err end
    return setmetatable({mode = "raised", what = "error", message = debug.traceback(tostring(err), 2)}, Failure)
  end, program)
  ml.memory.limit(0)
  core.deadline(nil)
  core.take_cancel()
  return not ok and err or nil
end

return M
