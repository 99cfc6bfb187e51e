-- shrink.lua: a failing program made small, and printed as Lua that somebody can paste.
local interpret = require "tests.lua.programs.interpret"
local leaves = require "tests.lua.programs.leaves"

local M = {}

local function copy(x)
  if type(x) ~= "table" then return x end
  local out = {}
  for k, v in pairs(x) do out[k] = copy(v) end
  return out
end

-- Without instruction i and all that depends on it.
local function without(program, i)
  local p, gone = copy(program), {}
  local code = {}
  for k, instr in ipairs(p.code) do
    local stays = k ~= i
    interpret.refs(instr, function(id) stays = stays and not gone[id] end)
    if stays then code[#code + 1] = instr
    elseif not instr.whole and not instr.changes then gone[instr.id] = true end
  end
  p.code = code
  return p
end

local function renamed(x, from, to)
  if type(x) ~= "table" then return end
  if x.ref == from then x.ref = to end
  for _, v in pairs(x) do renamed(v, from, to) end
end

local function same_kind(a, b)
  return a.dtype == b.dtype and table.concat(a.shape, ",") == table.concat(b.shape, ",")
end

-- Instruction i's result replaced by an operand of the same kind.
local function bypassed(program, i)
  local p = copy(program)
  local instr = p.code[i]
  if instr.whole or instr.changes or instr.effect then return nil end
  local by
  local kinds = {}
  for _, leaf in ipairs(p.leaves) do
    if not leaf.wrap and not leaf.views then kinds[leaf.id] = leaf end
  end
  for k = 1, i - 1 do kinds[p.code[k].id] = p.code[k] end
  interpret.refs(instr, function(id)
    if not by and kinds[id] and not kinds[id].whole and same_kind(kinds[id], instr) then by = id end
  end)
  if not by then return nil end
  table.remove(p.code, i)
  for _, other in ipairs(p.code) do renamed(other.args, instr.id, by) end
  return p
end

-- Instruction i's result replaced by a tensor of its kind.
local function replaced(program, i)
  local p = copy(program)
  local instr = p.code[i]
  if instr.whole or instr.changes or instr.effect then return nil end
  table.remove(p.code, i)
  table.insert(p.leaves, {id = instr.id, shape = instr.shape, dtype = instr.dtype, seed = instr.id, style = "small"})
  return p
end

local function without_unused(program)
  local p, used, list = copy(program), {}, {}
  interpret.each_use(p, function(id) used[id] = true end)
  for _, leaf in ipairs(p.leaves) do
    if used[leaf.id] then list[#list + 1] = leaf end
  end
  if #list == #p.leaves then return nil end
  p.leaves = list
  return p
end

local function simpler(program)
  local list = {without_unused(program)}
  local function try(change)
    local p = copy(program)
    if change(p) ~= false then list[#list + 1] = p end
  end
  for _, key in ipairs {"scope", "inner", "limit", "deadline", "cancel", "breaks", "fault", "states_first"} do
    if program[key] then try(function(p) p[key] = nil end) end
  end
  for i, instr in ipairs(program.code) do
    if instr.event then try(function(p) p.code[i].event = nil end) end
    local fate = program.fates[instr.id]
    if fate and fate ~= "drop" then try(function(p) p.fates[instr.id] = "drop" end) end
  end
  for i, leaf in ipairs(program.leaves) do
    if leaf.views then
      try(function(p)
        if leaf.wrap then return false end
        p.leaves[i].views = nil
      end)
    end
    if leaf.style == "wild" then try(function(p) p.leaves[i].style = "small" end) end
  end
  return list
end

---The smallest program found that `fails` still. `fails` is asked at most `tries` times.
---@param program table
---@param fails fun(program: table): any
function M.shrink(program, fails, tries)
  tries = tries or 2000
  local function ask(p)
    if not p or tries == 0 or #p.code == 0 then return false end
    tries = tries - 1
    return fails(p)
  end
  for _ = 1, 20 do
    local before = tries
    local changed = false
    for i = #program.code, 1, -1 do
      for _, way in ipairs {without, bypassed, replaced} do
        local p = program.code[i] and way(program, i)
        if ask(p) then
          program, changed = p, true
          break
        end
      end
    end
    for _ = 1, 40 do
      local found
      for _, p in ipairs(simpler(program)) do
        if ask(p) then
          found = p
          break
        end
      end
      if not found then break end
      program, changed = found, true
    end
    if not changed or before == 0 then break end
  end
  return program
end

-- ---- as Lua ----

local function call_text(instr)
  local name = instr.name
  local drawn = name:match "^random_(.*)"
  if drawn and drawn ~= "bits" then return ("ml.random.%s(%s)"):format(drawn, leaves.arguments(instr.args, 1)) end
  if name:find "_$" then
    return ("%s:%s(%s)"):format(leaves.literal(instr.args[1]), name, leaves.arguments(instr.args, 2))
  end
  return ("ml.%s(%s)"):format(name, leaves.arguments(instr.args, 1))
end

local function event_text(event, alive)
  local names = {}
  for _, id in ipairs(event.ids) do
    if alive[id] then names[#names + 1] = "x" .. id end
  end
  local detail = event.bytes and (" with %d bytes more"):format(event.bytes) or
    event.seconds and (" within %g s"):format(event.seconds) or ""
  return ("  -- lazily here: %s %s%s"):format(event.kind, table.concat(names, " "), detail)
end

---The program as Lua: op by op, then in the way that failed.
function M.text(program, failure)
  local out = {"local core, ml = require \"moonlet.core\", require \"moonlet\"", leaves.FILL}
  local states, arguments = {}, {}
  for _, leaf in ipairs(program.leaves) do
    out[#out + 1] = ("local x%d = %s"):format(leaf.id, leaves.text(leaf))
    if leaf.wrap == "state" then states[#states + 1] = leaf end
    if program.arguments[leaf.id] or program.seed % 2 == 0 then arguments[#arguments + 1] = "x" .. leaf.id end
  end
  local mode = failure and failure.mode or ""
  local given = mode:find "arguments" and table.concat(arguments, ", ") or ""
  out[#out + 1] = ("local function program(e%s)"):format(given ~= "" and ", " .. given or "")
  local ends, alive, outputs = interpret.last_uses(program), {}, {}
  for i, instr in ipairs(program.code) do
    if program.scope and program.scope[1] == instr.id then out[#out + 1] = "  -- a scope begins here" end
    if program.breaks == instr.id then out[#out + 1] = "  -- compiled, a call may end here while it is recorded" end
    if program.fault == instr.id then out[#out + 1] = "  -- compiled, a call may fail here when it is run" end
    local inner = program.inner or {}
    if inner[1] == instr.id then out[#out + 1] = "  -- a compiled function of its own begins here" end
    if instr.refused then out[#out + 1] = ("  assert(not pcall(function() %s end))"):format(call_text(instr))
    elseif instr.whole or instr.changes then out[#out + 1] = ("  e(%s)"):format(call_text(instr))
    else
      out[#out + 1] = ("  local x%d = e(%s)"):format(instr.id, call_text(instr))
      alive[instr.id] = true
      if program.fates[instr.id] == "output" then outputs[#outputs + 1] = "x" .. instr.id end
    end
    local struck = instr.event and not mode:find "compiled" and mode ~= "lazily"
    if struck then out[#out + 1] = event_text(instr.event, alive) end
    if inner[2] == instr.id then out[#out + 1] = "  -- the function ends here" end
    if program.scope and program.scope[2] == instr.id then out[#out + 1] = "  -- the scope ends here" end
    for _, id in ipairs(ends[i] or {}) do
      local fate = program.fates[id]
      if fate == "close" then out[#out + 1] = ("  if e ~= same then x%d:close() end"):format(id) end
      if fate == "hold" then out[#out + 1] = ("  -- x%d is held"):format(id) end
    end
  end
  out[#out + 1] = ("  return %s"):format(table.concat(outputs, ", "))
  out[#out + 1] = "end"
  local head = "local function same(x) return x end\n"
  table.insert(out, #program.leaves + 3, head .. "local function now(x) ml.eval(x) return x end")
  out[#out + 1] = "ml.random.seed(" .. program.seed .. ")"
  local comma = given ~= "" and ", " .. given or ""
  out[#out + 1] = ("print(program(now%s))"):format(comma)
  local reset = {}
  for i, leaf in ipairs(states) do
    out[#out + 1] = ("print(x%d)"):format(leaf.id)
    local plain = copy(leaf)
    plain.wrap = nil
    reset[i] = ("ml.assign(x%d, %s)"):format(leaf.id, leaves.text(plain))
  end
  reset[#reset + 1] = "ml.random.seed(" .. program.seed .. ")"
  table.move(reset, 1, #reset, #out + 1, out)
  if mode:find "compiled" then
    out[#out + 1] = ("local f = ml.compile(program)\nprint(f(same%s))"):format(comma)
    table.move(reset, 1, #reset, #out + 1, out)
    out[#out + 1] = ("print(f(same%s)) -- a replay"):format(comma)
  else
    out[#out + 1] = ("print(program(same%s))"):format(comma)
  end
  for _, leaf in ipairs(states) do out[#out + 1] = ("print(x%d)"):format(leaf.id) end
  if failure then out[#out + 1] = "-- " .. tostring(failure.message):gsub("\n", "\n-- ") end
  return table.concat(out, "\n")
end

-- ---- as data ----

---The program as a Lua expression.
function M.dump(x)
  if type(x) ~= "table" then return leaves.literal(x) end
  local parts = {}
  for k, v in pairs(x) do parts[#parts + 1] = ("[%s] = %s"):format(leaves.literal(k), M.dump(v)) end
  return "{" .. table.concat(parts, ", ") .. "}"
end

return M
