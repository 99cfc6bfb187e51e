---What the plans of a runtime share: states, recording, running, freeing.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local compile = require "moonlet.compile"
local trace = require "moonlet.trace"

local M = {}

---State of n integers, or of rows of n.
---@param n integer
---@param fill integer
---@param rows integer|nil
---@return moonlet.Tensor  (n) or (rows, n) int32
function M.int_state(n, fill, rows)
  return core.make_state(ml.full(rows and {rows, n} or {n}, fill, {dtype = "int32"}))
end

---Records what fn plans; of the tensors that it makes, those stay that it returns or keeps.
---@param fn function
function M.record(fn) trace.record(trace.unscoped, compile.scope, fn) end

---Runs a plan of a lane; the deadline, which belongs to the engine, stands for that long only.
---@param lane moonlet.Lane
function M.run(lane, plan)
  if not lane.ends_at then return plan:run() end
  core.deadline(lane.ends_at - core.clock())
  local ok, err = pcall(plan.run, plan)
  core.deadline(nil)
  if not ok then error(err, 0) end
end

---Closes the plans and tensors that are fields of a table.
---@param t table|nil
function M.close_fields(t)
  for _, value in pairs(t or {}) do
    if type(value) == "userdata" then value:close() end
  end
end

return M
