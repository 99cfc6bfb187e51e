---Tracing: compile, explain, scope, no_grad, and the calls of differentiation.
local core = require "moonlet.core"
local trace = require "moonlet.trace"
local util = require "moonlet.util"

local M = {}

local is_tensor = core.is_tensor

-- A value that the key knows by its address, which another one may have later: `key.known` lists such values.
local function by_address(value, key)
  key[#key + 1] = ("%s%p;"):format(type(value), value)
  key.known = key.known or {}
  table.insert(key.known, value)
end

-- A number, text, boolean or nil as a part of the key: what differs in type or in a bit differs, and where one ends is
-- plain. Of anything else nil.
local function plain_key(value)
  local kind = math.type(value) or type(value)
  if kind == "integer" then return "i" .. value .. ";" end
  if kind == "float" then return string.format("f%a;", value) end
  if kind == "string" then return "s" .. #value .. ":" .. value end
  return (kind == "boolean" or kind == "nil") and tostring(value) .. ";" or nil
end

-- Of a module, or what lies in one, all that a plan may have read: what it holds now belongs to the plan, tensors by
-- their addresses, and how often each has been changed in place. A parameter without a value gets one when it is first
-- needed, which makes no other module of it: `key.unset` has the places of such.
local function describe_module(value, key, seen)
  local plain = plain_key(value)
  if plain then
    key[#key + 1] = plain
    return
  end
  by_address(value, key)
  if is_tensor(value) and not core.is_closed(value) then key[#key] = key[#key] .. core.changes(value) .. ";" end
  if type(value) ~= "table" or seen[value] then return end
  seen[value] = true
  if trace.is_parameter(value) then
    key.unset = key.unset or {}
    key.unset[#key] = true
    return
  end
  local state, fields = trace.module_state(value) or {}, {}
  for name, field in next, value do fields[name] = field end
  key[#key + 1] = plain_key(state.training) .. plain_key(state.dtype)
  for _, name in ipairs(util.sorted_keys(fields)) do
    describe_module(name, key, seen)
    describe_module(fields[name], key, seen)
  end
  key[#key + 1] = "}"
end

-- Walks a tree of arguments: tensors go to `tensors` in a fixed order, all the rest into the key. A state is the same
-- storage inside and outside, and weights in blocks are constants of a plan: they have no type to go by.
local function describe(value, tensors, key, depth)
  local tensor_type = core.type_key(value)
  if tensor_type then
    tensors[#tensors + 1] = value
    key[#key + 1] = tensor_type
    return
  end
  local plain = plain_key(value)
  if plain then key[#key + 1] = plain
  elseif trace.module_state(value) then describe_module(value, key, {})
  elseif type(value) == "table" then
    trace.check_depth(depth)
    trace.check_plain(value, "an argument")
    key[#key + 1] = "{"
    for _, name in ipairs(util.sorted_keys(value)) do
      local plain_name = plain_key(name)
      if plain_name then key[#key + 1] = plain_name
      else by_address(name, key) end
      describe(value[name], tensors, key, depth + 1)
    end
    key[#key + 1] = "}"
  else by_address(value, key) end
end

-- ---- scopes ----

-- Takes the tensors of a value, whatever tables they lie in, out of their scopes; with `from`, those of that scope go
-- to the one around it.
local function hand_on(value, from, seen)
  if is_tensor(value) and from then core.scope_give(value, from)
  elseif is_tensor(value) then core.scope_keep(value) end
  if type(value) ~= "table" or seen[value] then return end
  seen[value] = true
  for k, v in next, value do
    hand_on(k, from, seen)
    hand_on(v, from, seen)
  end
end

local function run_within(scope, fn, ...)
  local _ <close> = core.within(scope)
  return fn(...)
end

---Runs fn(...) and frees every tensor made inside that is not returned (in tables too) or kept, on errors as well. fn
---may yield: what others make meanwhile is not the scope's.
---@param fn function
---@return any ...  what fn returns
function M.scope(fn, ...)
  if type(fn) ~= "function" then util.unexpected("scope", "a function", fn) end
  local scope <close> = core.scope_new()
  local results = table.pack(run_within(scope, fn, ...))
  local seen = {}
  for i = 1, results.n do hand_on(results[i], scope, seen) end
  return table.unpack(results, 1, results.n)
end

---Takes a tensor, or the tensors of a table, out of the scope that would free them. Returns its argument.
function M.keep(x)
  hand_on(x, nil, {})
  return x
end

-- ---- tracing ----

local MOST_PLANS = 64 -- of one function

-- A plan that a call is about to run, which a finalizer may have interrupted, is left to the collector.
local function drop(plans, name)
  if plans[name].calls == 0 then plans[name].plan:close() end
  plans[name] = nil
end

-- Makes room for one plan more: drops those whose key names what is no more, by address, which are never run again, and
-- the one that was used longest ago where `most` are left.
local function make_room(plans, most)
  local count, oldest = 0, nil
  for name, entry in pairs(plans) do
    local stale = false
    for i = 1, entry.n_known do
      local value = entry.known[i]
      stale = stale or value == nil or (is_tensor(value) and core.is_closed(value))
    end
    if stale then
      drop(plans, name)
    else
      count = count + 1
      if not oldest or entry.used < plans[oldest].used then oldest = name end
    end
  end
  if count >= most then drop(plans, oldest) end
end

-- The entry of a key, for as long as what it names by address is what it was.
local function find_plan(plans, name, known)
  local entry = plans[name]
  for i = 1, entry and entry.n_known or 0 do
    if entry.known[i] ~= known[i] then return nil end
  end
  return entry
end

-- The key of a call.
local function key_of(args, n, tensors)
  local key = {core.call_key()}
  for i = 1, n do describe(args[i], tensors, key, 0) end
  return key
end

-- The key under which the same call finds the plan that was just made: parameters that had no value have one now.
local function key_after(key, args, n)
  if not key.unset then return key end
  local after = key_of(args, n, {})
  for i = 1, math.max(#key, #after) do
    if key[i] ~= after[i] and not key.unset[i] then return key end
  end
  return after
end

local function results_of(entry, tensors, known, ...)
  local values = {...}
  values.inputs, values.known = tensors, known
  return entry.build(values)
end

---A function that records fn once for each combination of argument types (shape, dtype, layout, device), non-tensor
---values and default device, and from then on replays the plan. Of the values 2 and 2.0 are two: of integers x, x * 2
---is integers and x * 2.0 float32. A state that it is given, a function, a weight in a file's blocks have a plan each,
---which is dropped once they are gone and another plan is made. So has a module, for as long as it holds what it held:
---its parameters are constants of the plan, and where one is another tensor, a field has another value, or training is
---switched, another plan is made. Other tables with a metatable (objects of whatever class) are an error.
---
---Tensors that fn reads without being given them (of a module, upvalues) are constants of the plan, with the value that
---they had when it was made, views of a state and what was still to be computed too: to see a new value, give them as
---arguments, or make them state that is written in place. A state that it captures stays for as long as the plan does,
---also when its handle is closed. What else fn reads without being given it (a number, whether a module trains) is what
---it was when the plan was made. Of what fn is given or captures it changes states alone in place. What fn draws it
---draws anew with every call, as it would uncompiled. An error that fn raises while it is recorded leaves all states as
---they were.
---
---Give what changes from call to call, such as a learning rate, as a tensor: a plain number makes a plan for each of
---its values. The plans that were used last are kept, with the memory that each works in.
---@param fn function  of tensors, trees of tensors, and plain values
---@param opts table|nil  plans: how many are kept (64)
---@return function
function M.compile(fn, opts)
  util.callable("compile", fn)
  opts = util.options(opts, {state = false, plans = MOST_PLANS}, "compile") -- state: effects find it by themselves
  local most = util.integer("compile: plans", opts.plans, 1)
  local plans, calls = {}, 0
  return function(...)
    if core.recording() then return trace.record_part(fn, ...) end
    calls = calls + 1
    local ready = plans[core.call_key(...) or false]
    if ready and ready.plain then -- of tensors alone, as most are
      ready.used = calls
      return ready.plan:run(...)
    end
    local n, args, tensors = select("#", ...), {...}, {}
    local key = key_of(args, n, tensors)
    local name, known = table.concat(key), key.known
    local entry = find_plan(plans, name, known)
    if not entry then
      make_room(plans, most)
      local plan, build, draws, plain, place = trace.unscoped(trace.trace, fn, args, n, known, true)
      key = key_after(key, args, n)
      name, known = table.concat(key), key.known
      entry = {plan = plan, build = build, draws = draws, draws_on = place, n_known = known and #known or 0, calls = 0}
      entry.plain = plain and draws == 0
      entry.known = known and setmetatable(table.move(known, 1, #known, 1, {}), {__mode = "v"})
      plans[name] = entry
    end
    entry.used, entry.calls = calls, entry.calls + 1
    if entry.draws > 0 then tensors[#tensors + 1] = trace.advance(entry.draws, entry.draws_on) end
    entry.calls = entry.calls - 1 -- the run itself takes care of the plan
    return results_of(entry, tensors, known, entry.plan:run(table.unpack(tensors)))
  end
end

---The plan of fn(...) as text. First, how many steps it has, how often threads wait for one another (barriers), the
---bytes of intermediates (the arena) and of outputs, and how many of both hold values at one time at the most. Then a
---line a step: what it is, dtype and shape of its first result, the bytes that it reads and writes, what it computes
---(of products the units, which share an input), what it saves over a step for each operation, the path of its module.
---At the end the bytes of all, and what each pass of the planner saved.
---@param fn function
---@return string
function M.explain(fn, ...)
  util.callable("explain", fn)
  if core.recording() then util.raise("usage", "explain: a plan is being recorded already") end
  local plan = trace.unscoped(trace.trace, fn, {...}, select("#", ...))
  local text = plan:explain()
  plan:close()
  return text
end

---Runs fn(...), and gives as text how long the steps of each plan took that ran meanwhile, compiled or not: the plans
---by the time that they took, and of each the ten kinds of step that took longest (steps that compute the same on the
---same shapes are one kind), with their time in a run, how many there are, the bytes a second that they read and
---write (beside what attention reads from caches), the share that this is of what the device's memory gives, where that
---is known, and operations a second of products. Steps run one after another then, with clocks between them, so that a
---run takes longer than it does otherwise.
---@param fn function
---@return string
function M.profile(fn, ...)
  util.callable("profile", fn)
  if core.recording() then util.raise("usage", "profile: a plan is being recorded") end
  core.eval()
  core.profile "begin"
  local text
  local function stop()
    text = text or core.profile "end"
    return text
  end
  local _ <close> = setmetatable({}, {__close = stop}) -- also where fn yields, and is not gone on with
  fn(...)
  core.eval()
  return stop()
end

---Runs fn(...). Nothing is recorded for gradients in this version.
---@param fn function
function M.no_grad(fn, ...)
  util.callable("no_grad", fn)
  return fn(...)
end

---x, which no gradient passes.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function M.stop_gradient(x) return is_tensor(x) and x.layout == "strided" and util.value_of(x) or x end

-- Whether an operation has a gradient is declared in its row of the table of operations; none has one yet. The
-- operation that fn's result comes from is the first that would be asked for its own.
local function no_gradient(name, fn, args, n)
  local op
  trace.unscoped(trace.trace, function(...)
    local x = fn(...)
    op = is_tensor(x) and core.op_of(x)
    return x
  end, args, n):close()
  util.raise("unsupported", "%s: operation %s has no gradient in this version", name, op or "input")
end

local function no_gradient_of(name, fn)
  util.callable(name, fn)
  return function(...) no_gradient(name, fn, {...}, select("#", ...)) end
end

local function no_product(name, fn, primals)
  util.callable(name, fn)
  if type(primals) ~= "table" then util.unexpected(name .. ": primals", "a list of arguments", primals) end
  no_gradient(name, fn, primals, #primals)
end

---A function that gives the gradient of fn. No operation has one in this version: calling it raises "unsupported".
---@param fn function  of tensors or trees of tensors
---@return function
function M.grad(fn) return no_gradient_of("grad", fn) end
---The same with fn's value before the gradient; "unsupported" in this version.
---@param fn function
---@return function
function M.value_and_grad(fn) return no_gradient_of("value_and_grad", fn) end
---fn's value and its vector-Jacobian products; "unsupported" in this version.
---@param fn function
---@param primals table  fn's arguments
function M.vjp(fn, primals) no_product("vjp", fn, primals) end
---fn's value and its Jacobian-vector products; "unsupported" in this version.
---@param fn function
---@param primals table  fn's arguments
function M.jvp(fn, primals) no_product("jvp", fn, primals) end
---fn, computed again when gradients are taken; "unsupported" in this version.
function M.checkpoint() util.raise("unsupported", "checkpoint: no operation has a gradient in this version") end
---fn with a gradient of its own; "unsupported" in this version.
function M.custom_vjp() util.raise("unsupported", "custom_vjp: no operation has a gradient in this version") end

---Whether x is a tensor.
---@type fun(x: any): boolean
M.is_tensor = is_tensor

return util.guard(M, "", true)
