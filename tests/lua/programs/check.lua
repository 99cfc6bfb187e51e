-- check.lua: one program in every way in which it can be run. All must give the same bits.
local core = require "moonlet.core"
local ml = require "moonlet"
local compare = require "tests.lua.programs.compare"
local interpret = require "tests.lua.programs.interpret"
local leaves = require "tests.lua.programs.leaves"
local strike = require "tests.lua.programs.strike"
local world = require "tests.lua.programs.world"

local at, expect, expect_states, observe = compare.at, compare.expect, compare.expect_states, compare.observe

local M = {}

core.check_places(true) -- for plans of all programs, whoever checks them

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

local function registers_of(w)
  local r = {}
  for id, t in pairs(w.handles) do r[id] = t end
  return r
end

-- ---- op by op ----

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

local function alive(r, ids)
  local list = {}
  for _, id in ipairs(ids) do list[#list + 1] = r[id] end
  return list
end

local function lazily(w, seen, mode, with_events, inner)
  local program = w.program
  local r = registers_of(w)
  local hooks = {inner = inner, before = inner and function(i, registers) strike.on_the_way(w, i, registers, {}) end}
  w.settled = nil -- all effects up to that instruction have happened
  if with_events then
    function hooks.after(i)
      local event = program.code[i].event
      if event then strike.happen[event.kind](w, seen, r, alive(r, event.ids), i, event) end
      if event and core.effects() == 0 then w.settled = i end
    end
  end
  interpret.run(program, r, w.ends, hooks)
  if program.states_first then expect_states(mode, w, seen, #program.code) end
  local outputs, ids = {}, {}
  for _, instr in ipairs(program.code) do
    if program.fates[instr.id] == "output" and r[instr.id] then
      outputs[#outputs + 1] = r[instr.id]
      ids[#ids + 1] = instr.id
    end
  end
  ml.eval(table.unpack(outputs))
  for k, id in ipairs(ids) do expect(mode, "x" .. id, observe(outputs[k]), at(seen.results[id], #program.code)) end
  expect_states(mode, w, seen, #program.code)
  for _, instr in ipairs(program.code) do
    local id = instr.id
    if r[id] then
      expect(mode, "x" .. id .. ", read late", observe(r[id]), at(seen.results[id], #program.code))
    end
  end
end

-- ---- a function in the program ----

-- What the inner part of a program is given: of the leaves what the program's function is given too, and most results.
-- Windows that it writes, or writes a part of, are captured.
local function given_to(part, program)
  local given, written, views = {}, {}, {} -- views: what each of the part's own results may be a view of
  for i = part.from, part.to do
    local instr = program.code[i]
    local first = type(instr.args[1]) == "table" and instr.args[1].ref
    first = views[first] or first
    views[instr.id] = first
    if instr.effect and not instr.whole then written[first] = true end
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
      strike.end_recording("a compiled function", w, seen, part.from - 1, part.registers, f, given)
    end
    local may_end_here = is_called and may_end and part.own[w.program.breaks] and not w.breaks
    if may_end_here and core.recording() then strike.end_part(w, f, given) end
    is_called = true
    for id, x in pairs(f(given)) do part.registers[id] = x end
  end
end

-- ---- compiled ----

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
    if program.seed % 7 == 0 then strike.check_refusals() end
    local old = {}
    for k, c in ipairs(captured) do old[k] = k % 3 == 0 and c.x:copy() or nil end
    local targets = program.seed % 3 == 0 and w.handles or nil -- by another name
    local outputs = {}
    interpret.run(program, r, w.ends, {targets = targets, inner = w.inner, before = function(i, registers)
      strike.on_the_way(w, i, registers, arguments, outputs)
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
  expect_states(mode, w, seen, #w.program.code)
  return outputs
end

-- A call of a new key that ends while it is recorded. The next one is right.
local function broken_call(mode, w, seen, f)
  world.start(w)
  local other <close> = ml.zeros {w.program.seed % 3 + 4}
  strike.end_recording(mode, w, seen, 0, {}, f, other)
  world.start(w)
  check_call(mode .. ", called again", w, seen, f, other)
end

local function check_compiled(mode, w, seen, again, given)
  local program = w.program
  local f, captured = compiled(w, given)
  if #captured > 0 then -- recorded while states are as they were then
    local ok, outputs = pcall(f)
    if ok then check_captured(mode, captured, outputs) end
  end
  world.start(w)
  check_call(mode, w, seen, f)
  if program.limit then strike.call(mode .. ", at the limit", w, seen, f, "limit") end
  if program.deadline then strike.call(mode .. ", with a deadline", w, seen, f, "deadline") end
  if program.cancel then strike.call(mode .. ", cancelled", w, seen, f, "cancel") end
  if has(program, program.breaks) then broken_call(mode .. ", ended while recorded", w, seen, f) end
  if has(program, program.fault) then strike.faulty_call(mode .. ", with a fault", w, seen, f) end
  if program.seed % 4 == 0 then -- another shape in between
    world.start(w)
    local id = w.states[1] -- a view of a state that the call may write
    local other = id and w.handles[id]:transpose() or ml.zeros {program.seed % 3 + 1}
    local outputs = check_call(mode .. ", another key", w, seen, f, other)
    local was = outputs.other:transpose()
    if id then expect(mode, "a view of state x" .. id .. " as an argument", observe(was), at(seen.states[id], 0)) end
  end
  if program.seed % 5 == 0 then
    local w2 <close> = world.new(program, given)
    ml.random.seed(program.seed)
    local seen2 = op_by_op(w2)
    world.start(w)
    check_call(mode .. ", other values", w, seen2, function() return f(nil, w2.handles) end)
  end
  world.start(w)
  check_call(mode .. ", replayed", w, seen, f)
  world.start(w)
  check_call(mode .. ", replayed again", w, seen, f) -- where sets of outputs come in turn, in the first one's
  if again then
    world.reset(w)
    check_call(mode .. ", replayed on", w, again, f)
  end
end

-- ---- the whole ----

local function run(program)
  local w <close> = world.new(program)
  ml.random.seed(program.seed)
  local ok, seen = pcall(op_by_op, w)
  if not ok then error(seen, 0) end
  local again
  if draws(program) then
    world.reset(w)
    again = op_by_op(w)
  end
  local states, everything = {}, {}
  for id in pairs(w.handles) do everything[id] = true end
  for _, id in ipairs(w.states) do states[id] = program.arguments[id] end
  world.start(w)
  lazily(w, seen, "lazily", false)
  world.start(w)
  local done, err = pcall(lazily, w, seen, "with events", true)
  if not done and err ~= strike.abandoned then error(err, 0) end
  if program.inner then
    w.inner = inner_of(w, seen)
    world.start(w)
    lazily(w, seen, "with a compiled function", false, w.inner)
    world.start(w)
    lazily(w, seen, "with a compiled function, replayed", false, w.inner)
  end
  check_compiled("compiled", w, seen, again, states)
  check_compiled("compiled with arguments", w, seen, again, program.seed % 2 == 0 and everything or program.arguments)
end

---Runs a program in all ways. Returns nil, or what failed: {message, mode, what}.
function M.check(program)
  local ok, err = xpcall(run, function(err)
    if compare.is_failure(err) then return err end
    return compare.failure("raised", "error", debug.traceback(tostring(err), 2))
  end, program)
  ml.memory.limit(0)
  core.deadline(nil)
  core.take_cancel()
  return not ok and err or nil
end

return M
