---Recording plans, for moonlet's own files: what is recorded, what it draws meanwhile, and whose tensors those are.
local core = require "moonlet.core"
local util = require "moonlet.util"

local M = {}

-- What lies behind true, or the error that lies behind false.
local function give(results)
  if results[1] then return table.unpack(results, 2, results.n) end
  error(results[2], 0)
end

---Runs fn(...) so that what it makes belongs to no scope: parts of the library that outlive the call.
function M.unscoped(fn, ...)
  local _ <close> = core.within(nil)
  return fn(...)
end

---Calls a function of the user's from within the library: what it makes is its own, and a default device that it sets
---is so until it returns.
function M.callback(fn, ...)
  local _ <close> = core.on()
  return M.unscoped(fn, ...)
end

-- What fn(...) returns, behind whether it does. One that fails leaves no effect behind.
local function attempt(fn, ...)
  local before = core.effects()
  local results = table.pack(core.call(fn, ...))
  if not results[1] then core.drop_effects(before) end
  return results
end

---What fn(...) returns, which records a plan: values that depend on state cannot be read meanwhile, and fn may not
---yield. One that fails leaves no effect behind.
---@param fn function
---@return any ...  what fn returns
function M.record(fn, ...)
  util.callable("record", fn)
  core.record(true)
  local results = attempt(fn, ...)
  core.record(false)
  return give(results)
end

---The same of a part of the plan that is recorded.
function M.record_part(fn, ...) return give(attempt(fn, ...)) end

-- The trace that is under way: `index`, of the plan's input behind all arguments; `key`, the placeholder there once
-- something was drawn; `draws`, how many times.
local tracing

---The key of the next draw without one, while a plan is recorded: a function of the plan's input, so that each replay
---draws anew, what it would draw if it were run op by op.
---@return moonlet.Tensor
function M.next_key()
  if not tracing then
    util.raise("usage", "a draw without a key in a step that is recorded would be the same each time: give it a key")
  end
  if not tracing.key then -- which later draws read too
    tracing.key = M.unscoped(function() return core.input(tracing.index, core.make_tensor({0, 0, 0}, "uint32")) end)
  end
  tracing.draws = tracing.draws + 1
  return tracing.key + core.make_tensor({0, 0, tracing.draws & 0xffffffff}, "uint32")
end

util.guard(M, "", true)

---Raises where a tree of arguments is too deep.
function M.check_depth(depth)
  if depth > 32 then util.raise("usage", "compile: arguments nested deeper than 32 tables") end
end

-- Of a module what is known beside its fields, {training, dtype}, nil of anything else; and whether a field is a
-- parameter without a value: nn.lua says it, where it is loaded.
function M.module_state() end
function M.is_parameter() end

---Raises for a table that is no part of a tree: what its metatable makes of it a copy would not have.
---@param value any
---@param what string  "an argument"
function M.check_plain(value, what)
  if getmetatable(value) == nil then return end
  util.raise("usage", "compile: %s: expected tensors, plain values, modules, and tables of these, found %s with a " ..
    "metatable: give its fields, or let the function read it without being given it", what, util.show(value))
end

-- What puts other tensors in the places of those that `describe` finds, in its order; those of this value go behind the
-- ones that `tensors` has. `given`, if any: of what the function was given and may give back, where it is found then.
local function builder(value, tensors, depth, given)
  local place = given and value ~= nil and given[value]
  if place then return function(replacements) return replacements[place.list][place.index] end end
  if core.type_key(value) then
    tensors[#tensors + 1] = value
    local index = #tensors
    return function(replacements) return replacements[index] end
  end
  if type(value) ~= "table" or M.module_state(value) then return function() return value end end
  M.check_depth(depth)
  M.check_plain(value, given and "a result" or "an argument")
  local names, parts = util.sorted_keys(value), {}
  for i, name in ipairs(names) do parts[i] = builder(value[name], tensors, depth + 1, given) end
  return function(replacements)
    local copy = {}
    for i, name in ipairs(names) do copy[name] = parts[i](replacements) end
    return copy
  end
end

---Records fn over placeholders; `known` are arguments that stand for themselves. Returns the plan, a builder of its
---results, which takes them with the lists `inputs` and `known` of the call, how many draws it makes, whether the
---results are the plan's as they are, and the device of the draws. `runs`: it is for a run.
function M.trace(fn, args, n, known, runs)
  local tensors, build = {}, {}
  for i = 1, n do build[i] = builder(args[i], tensors, 0) end
  local inputs, given, traced = {}, {}, {}
  for i, value in ipairs(known or {}) do given[value] = {list = "known", index = i} end
  local own, outer = {index = #tensors + 1, draws = 0}, tracing
  local _ <close> = setmetatable({}, {__close = function(_, err)
    tracing = outer
    if err ~= nil and runs and own.draws > 0 then M.advance(own.draws, own.key.device) end -- as if it were not compiled
  end})
  tracing = own
  return M.record(function()
    for i, t in ipairs(tensors) do
      inputs[i] = core.input(i, t)
      given[inputs[i]] = {list = "inputs", index = i}
    end
    for i = 1, n do traced[i] = build[i](inputs) end
    local results = table.pack(fn(table.unpack(traced, 1, n)))
    local outputs, parts = {}, {}
    local plain = true
    for i = 1, results.n do
      parts[i] = builder(results[i], outputs, 0, given)
      plain = plain and results[i] ~= nil and outputs[i] == results[i]
    end
    inputs[own.index] = own.key
    return core.plan(inputs, outputs), function(values)
      local out = {}
      for i, part in ipairs(parts) do out[i] = part(values) end
      return table.unpack(out, 1, results.n)
    end, own.draws, plain, own.key and own.key.device
  end)
end

return M
