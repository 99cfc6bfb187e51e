-- interpret.lua: runs a program's instructions.
local ml = require "moonlet"

local M = {}

local function resolve(x, registers)
  if type(x) ~= "table" then return x end
  if x.ref then return registers[x.ref] or error(("x%d is gone"):format(x.ref), 0) end
  local out = {}
  for k, v in pairs(x) do out[k] = resolve(v, registers) end
  return out
end

---The result of an instruction. A state that it writes is looked up in `targets`, where there are some.
function M.call(instr, registers, targets)
  local args = instr.args
  local given = {}
  for i = 1, #args do given[i] = resolve(args[i], registers) end
  if targets and instr.whole and instr.effect then given[1] = targets[args[1].ref] end
  local name = instr.name
  local drawn = name:match "^random_(.*)"
  local fn = drawn and drawn ~= "bits" and ml.random[drawn] or name:find "_$" and given[1][name] or ml[name]
  if instr.result then return (select(instr.result, fn(table.unpack(given, 1, #args)))) end
  if not instr.refused then return (fn(table.unpack(given, 1, #args))) end
  local ok, err = pcall(fn, table.unpack(given, 1, #args))
  if ok or err.code ~= "usage" then
    error(("%s of a packed weight is not refused: %s"):format(name, tostring(err)), 0)
  end
end

local function each_ref(x, fn, i)
  if type(x) ~= "table" then return end
  if x.ref then return fn(x.ref, i) end
  for _, v in pairs(x) do each_ref(v, fn, i) end
end

---fn(id, i) for each reference of instruction i.
function M.each_use(program, fn)
  for i, instr in ipairs(program.code) do each_ref(instr.args, fn, i) end
end

function M.refs(instr, fn) each_ref(instr.args, fn) end

---For each instruction the results that nothing uses after it, and of a result the last instruction that uses it.
function M.last_uses(program)
  local last, ends = {}, {}
  for i, instr in ipairs(program.code) do
    last[instr.id] = i
  end
  M.each_use(program, function(id, i) last[id] = i end)
  for _, instr in ipairs(program.code) do
    local at = last[instr.id]
    ends[at] = ends[at] or {}
    table.insert(ends[at], instr.id)
  end
  return ends, last
end

-- What is there after instruction i.
local function finish(program, i, registers, ends)
  for _, id in ipairs(ends[i] or {}) do
    local fate = program.fates[id]
    if fate == "close" and registers[id] then registers[id]:close() end
    if fate == "close" or fate == "drop" or not fate then registers[id] = nil end
  end
end

-- Where a part of the code, {its first id, its last}, lies; one of them may be gone.
local function find_part(code, part)
  local from, to
  for i, instr in ipairs(part and code or {}) do
    if instr.id == part[1] then from = i elseif instr.id == part[2] then to = i end
  end
  return from or to, to or from
end

-- Runs instruction i over `registers`.
local function one(program, i, registers, hooks)
  local instr = program.code[i]
  if hooks.before then hooks.before(i, registers) end
  local result = M.call(instr, registers, hooks.targets)
  if not instr.changes and not instr.whole then registers[instr.id] = result end
  if hooks.after then hooks.after(i, result) end
end

-- Lets hooks.inner run the instructions of program.inner, over registers of its own. What was made before them and is
-- not used after them ends with them.
local function run_inner(program, from, to, registers, ends, hooks)
  local own = {}
  for i = from, to do own[program.code[i].id] = true end
  local inner_ends = {}
  for i = from, to do
    inner_ends[i] = {}
    for _, id in ipairs(ends[i] or {}) do
      if own[id] then table.insert(inner_ends[i], id) end
    end
  end
  hooks.inner({from = from, to = to, own = own, registers = registers, run = function(r)
    for i = from, to do
      one(program, i, r, hooks)
      finish(program, i, r, inner_ends)
    end
  end})
  for i = from, to do finish(program, i, registers, ends) end
end

---Runs all instructions over `registers`, which hold the leaves. `hooks.before(i, registers)` and `hooks.after(i,
---result)` are called around each; `hooks.targets` are registers too, of states that are written. With `hooks.inner`,
---which is given {from, to, own, registers, run}, it runs the program's inner part: run(r) over registers r, of which
---it puts what is left of the part's `own` into `registers`. `ends` is what last_uses gave.
function M.run(program, registers, ends, hooks)
  local code = program.code
  local from, to = find_part(code, program.scope)
  local inner_from, inner_to = find_part(code, hooks.inner and program.inner)
  local function range(first, last, scope_from)
    local i = first
    while i <= last do
      if i == scope_from then
        ml.scope(function()
          range(from, to)
          local stay = {}
          for _, instr in ipairs(code) do stay[#stay + 1] = registers[instr.id] end
          return stay
        end)
        i = to + 1
      elseif i == inner_from then
        run_inner(program, inner_from, inner_to, registers, ends, hooks)
        i = inner_to + 1
      else
        one(program, i, registers, hooks)
        finish(program, i, registers, ends)
        i = i + 1
      end
    end
  end
  range(1, #code, from)
end

return M
