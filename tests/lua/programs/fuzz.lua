-- fuzz.lua: many programs, what they covered, and those that fail, made small.
local core = require "moonlet.core"
local check = require "tests.lua.programs.check"
local generate = require "tests.lua.programs.generate"
local shrink = require "tests.lua.programs.shrink"

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

---Runs the programs of seeds first to last. Calls failed(seed, text) for those that fail, and after each tick(seed).
---@return table report  {programs, instructions, rows = {[name] = times}, rewrites = {[name] = times}}
function M.run(first, last, failed, tick)
  local report = {programs = 0, instructions = 0, rows = {}, rewrites = {}}
  for _, op in ipairs(core.op_list()) do report.rows[op.name] = 0 end
  local before = core.rewrites()
  for seed = first, last do
    local program = generate.generate(seed)
    local failure = check.check(program)
    report.programs = report.programs + 1
    report.instructions = report.instructions + #program.code
    for _, instr in ipairs(program.code) do
      local name = instr.name:gsub("_$", "")
      if not instr.refused then report.rows[name] = (report.rows[name] or 0) + 1 end
    end
    if failure then failed(seed, M.explain(program, failure)) end
    if tick then tick(seed) end
  end
  for name, n in pairs(core.rewrites()) do report.rewrites[name] = n - before[name] end
  return report
end

return M
