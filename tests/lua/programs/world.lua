-- world.lua: what a program runs over: handles of its leaves, and what its states hold first.
local ml = require "moonlet"
local interpret = require "tests.lua.programs.interpret"
local leaves = require "tests.lua.programs.leaves"

local M = {}

local function close(w)
  for _, t in pairs(w.handles) do t:close() end
  for _, t in pairs(w.first) do t:close() end
end

---The world of a program. `given`: leaves that have other values, states aside.
function M.new(program, given)
  local w = {program = program, handles = {}, first = {}, states = {}, variants = {}}
  for _, leaf in ipairs(program.leaves) do
    w.variants[leaf.id] = given and given[leaf.id] and leaf.wrap ~= "state" and 1 or 0
    w.handles[leaf.id] = leaves.make(leaf, w.variants[leaf.id])
    if leaf.wrap == "state" then
      w.first[leaf.id] = leaves.values(leaf)
      w.states[#w.states + 1] = leaf.id
    end
  end
  w.ends = interpret.last_uses(program)
  return setmetatable(w, {__close = close})
end

---States hold again what they held first.
function M.reset(w)
  for _, id in ipairs(w.states) do ml.assign(w.handles[id], w.first[id]) end
end

---All is as it was before the first run.
function M.start(w)
  M.reset(w)
  ml.random.seed(w.program.seed)
end

return M
