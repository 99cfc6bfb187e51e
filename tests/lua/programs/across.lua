-- across.lua: the same programs on two instruction sets.
--
-- One process runs each program op by op on the reference kernels and writes what every instruction gives; another, on
-- the instruction set that is checked, reads along. An error must not grow from instruction to instruction until no
-- bound means anything, so that each operation is compared by itself: wherever its result differs from the reference's,
-- within its bound (bounds.lua), the reference's takes its place before the program goes on. All operations thus have
-- the very inputs that they had on the reference kernels. What has no bound must be equal bit by bit: integers, views,
-- copies, conversions, comparisons, effects on states.
local ml = require "moonlet"
local bounds = require "tests.lua.programs.bounds"
local interpret = require "tests.lua.programs.interpret"
local leaves = require "tests.lua.programs.leaves"

local M = {}

local function states_of(program)
  local ids = {}
  for _, leaf in ipairs(program.leaves) do
    if leaf.wrap == "state" then ids[#ids + 1] = leaf.id end
  end
  return ids
end

-- Runs a program op by op; see(instr, x, args, replace) is called with each value that an instruction makes, evaluated,
-- and with what takes a tensor in its place. `args` gives the instruction's operands.
local function run(program, see)
  local r, leaf_handles = {}, {}
  for _, leaf in ipairs(program.leaves) do
    leaf_handles[#leaf_handles + 1] = leaves.make(leaf)
    r[leaf.id] = leaf_handles[#leaf_handles]
  end
  local _ <close> = setmetatable({}, {__close = function()
    for _, t in ipairs(leaf_handles) do t:close() end
  end})
  local states = states_of(program)
  ml.random.seed(program.seed)
  interpret.run(program, r, interpret.last_uses(program), {after = function(i, result)
    local instr = program.code[i]
    ml.eval()
    local id = instr.changes or not instr.whole and instr.id
    if id then
      local x = instr.changes and r[id] or result
      ml.eval(x)
      see(instr, x, r, function(other) r[id] = other end)
    end
    for _, state in ipairs(instr.effect and states or {}) do see(instr, r[state], r) end
  end})
end

---Writes what the instructions of a program give.
---@param write fun(bytes: string)
function M.write(program, write)
  run(program, function(_, x) write(string.pack("<s4", x:tobytes())) end)
end

---The values of the programs of seeds first to last, as a process on the reference kernels writes them.
---@return file*
function M.reference(build, first, last)
  local command = "MOONLET_ISA=ref '%s/moonlet' tests/checks/programs.lua values %d %d"
  return assert(io.popen(command:format(build, first, last)))
end

local function read_value(pipe)
  local head = pipe:read(4)
  if not head or #head < 4 then error("the reference's values end here", 0) end
  local n = string.unpack("<I4", head)
  return n == 0 and "" or pipe:read(n)
end

---Runs a program beside what the reference wrote of it. Returns nil, or what failed.
---@param seen table  gets, by row, how far results were from the reference's
function M.compare(program, pipe, seen)
  local ok, err = pcall(run, program, function(instr, x, registers, replace)
    local want, got = read_value(pipe), x:tobytes()
    if got == want then return end
    local wrong = bounds.check(instr, x, got, want, registers, seen)
    if wrong then
      error(("instruction x%d, %s: %s"):format(instr.id, instr.name, wrong), 0)
    end
    if replace then replace(ml.from_bytes(want, x.shape, x.dtype)) end
  end)
  return not ok and tostring(err) or nil
end

return M
