-- fuzz.lua: many programs, what they covered, and those that fail, made small.
local core = require "moonlet.core"
local check = require "tests.lua.programs.check"
local generate = require "tests.lua.programs.generate"
local leaves = require "tests.lua.programs.leaves"
local shrink = require "tests.lua.programs.shrink"
local strike = require "tests.lua.programs.strike"

local M = {}

-- The first line of what failed without its numbers: a smaller program must fail alike.
local function kind(failure)
  local mode = failure.mode:match "^%w+"
  return mode == "raised" and failure.message:match "[^\n]*":gsub("%d+", "") or mode
end

---A failing program and its failure as Lua text, as small as it becomes.
function M.explain(program, failure)
  local wanted, last = kind(failure), failure
  local small = shrink.shrink(program, function(p)
    local found = check.check(p)
    if not found or kind(found) ~= wanted then return false end
    last = found
    return true
  end)
  return shrink.text(small, check.check(small) or last)
end

-- What is in programs beside operations.
local happenings = {"long rows", "many rows", "views", "wild values", "packed captured", "packed as arguments",
  "quantised captured", "quantised as arguments", "quantised in blocks", "affine", "rounded activations",
  "states captured",
  "states as arguments", "states written", "windows written", "written in place", "refused", "draws",
  "lazy ones captured", "scopes", "functions inside", "held", "closed", "another key between", "eval", "read",
  "collect", "clear", "limit", "cancel", "deadline", "doomed", "broken", "limit of a call", "deadline of a call",
  "cancel of a call", "error while recorded", "cancel while recorded", "fault in a call"}

local function note_happenings(program, counts)
  local function note(name, yes)
    if yes then counts[name] = counts[name] + 1 end
  end
  for _, leaf in ipairs(program.leaves) do
    local given = program.arguments[leaf.id] or program.seed % 2 == 0 and leaf.wrap ~= "state"
    note("views", leaf.views)
    note("wild values", leaf.style == "wild")
    note(given and "packed as arguments" or "packed captured", leaf.wrap == "pack")
    note(given and "quantised as arguments" or "quantised captured", leaves.in_blocks(leaf))
    note("quantised in blocks", leaves.in_blocks(leaf) and not leaf.wrap)
    note("affine", leaf.dtype:find "^affine")
    note("rounded activations", leaf.precision == "fast")
    note(given and "states as arguments" or "states captured", leaf.wrap == "state")
  end
  for _, instr in ipairs(program.code) do
    note("states written", instr.effect and instr.whole)
    note("windows written", instr.effect and not instr.whole)
    note("written in place", instr.changes)
    note("refused", instr.refused)
    note("draws", instr.name:find "^random_" and instr.name ~= "random_bits")
    note(instr.event and instr.event.kind, instr.event)
  end
  for _, fate in pairs(program.fates) do
    note("held", fate == "hold")
    note("closed", fate == "close")
  end
  note(program.shapes, program.shapes)
  for _, name in ipairs {"limit", "deadline", "cancel"} do note(name .. " of a call", program[name]) end
  note(program.seed % 3 == 0 and "cancel while recorded" or "error while recorded", program.breaks)
  note("fault in a call", program.fault)
  note("lazy ones captured", program.seed % 2 == 0)
  note("scopes", program.scope)
  note("functions inside", program.inner)
  note("another key between", program.seed % 4 == 0)
end

local function difference(now, before)
  local list = {}
  for name, n in pairs(now) do list[name] = n - before[name] end
  return list
end

local function copy(list)
  local out = {}
  for k, v in pairs(list) do out[k] = v end
  return out
end

---Runs the programs of seeds first to last. Calls failed(seed, text) for those that fail, and after each tick(seed).
---@return table report  {programs, instructions, and by name how often: rows, rewrites, happenings, struck}
function M.run(first, last, failed, tick)
  local report = {programs = 0, instructions = 0, rows = {}, happenings = {}}
  for _, op in ipairs(core.op_list()) do report.rows[op.name] = 0 end
  for _, name in ipairs(happenings) do report.happenings[name] = 0 end
  local rewrites, struck = core.rewrites(), copy(strike.struck)
  for seed = first, last do
    local program = generate.generate(seed)
    local failure = check.check(program)
    report.programs = report.programs + 1
    report.instructions = report.instructions + #program.code
    for _, instr in ipairs(program.code) do
      local name = instr.name:gsub("_$", "")
      if not instr.refused then report.rows[name] = (report.rows[name] or 0) + 1 end
    end
    note_happenings(program, report.happenings)
    if failure then failed(seed, M.explain(program, failure)) end
    if tick then tick(seed) end
  end
  report.rewrites, report.struck = difference(core.rewrites(), rewrites), difference(strike.struck, struck)
  return report
end

return M
