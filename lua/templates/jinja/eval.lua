---Expressions to Lua functions of (rt, env): rt is the rendering, env the slots of the function that runs.
local base = require "moonlet.templates.jinja.base"
local access = require "moonlet.templates.jinja.access"
local call = require "moonlet.templates.jinja.call"
local filters = require "moonlet.templates.jinja.filters".filters
local format = require "moonlet.templates.jinja.format"
local ops = require "moonlet.templates.jinja.ops"
local tests = require "moonlet.templates.jinja.tests".tests
local text = require "moonlet.templates.jinja.text"
local value = require "moonlet.templates.jinja.value"

local M = {}

local truth = value.truth
local step = base.step

local COMPILE = {}

---@param node table  an expression
---@param frame table  {scope, fn, soft, ...}: where it stands
---@return fun(rt: table, env: table): any
function M.compile(node, frame)
  return COMPILE[node.t](node, frame)
end
local compile = M.compile

local function compile_all(nodes, frame)
  local list = {}
  for i, node in ipairs(nodes or {}) do list[i] = compile(node, frame) end
  return list
end

---What the context, or else the engine, has under a name; nil where there is nothing.
local function resolve(rt, name)
  local v = rt.vars[name]
  if v ~= nil then return v end
  v = rt.context[name]
  if v ~= nil then return v end
  return rt.globals[name]
end
M.resolve = resolve

---A function that gives the content of a slot, nil when there is none.
function M.slot_reader(frame, slot, fn)
  local hops = frame.fn.depth - fn.depth
  if hops == 0 then return function(_, env) return env[slot] end end
  if hops == 1 then return function(_, env) return env.parent[slot] end end
  return function(_, env)
    for _ = 1, hops do env = env.parent end
    return env[slot]
  end
end

---A function that gives what a name means at a place, nil when it means nothing.
function M.name_reader(name, frame)
  local slot, fn = frame.scope:find(name)
  if not slot then return function(rt) return resolve(rt, name) end end
  return M.slot_reader(frame, slot, fn)
end

function COMPILE.Name(node, frame)
  local name = node.name
  local read = M.name_reader(name, frame)
  return function(rt, env)
    local v = read(rt, env)
    if v == nil then return value.undefined(name) end
    return v
  end
end

function COMPILE.Const(node)
  local v = node.value
  return function() return v end
end

-- Evaluates a display's items, in order, and makes a value of them.
local function compile_display(make)
  return function(node, frame)
    local items = compile_all(node.items, frame)
    local n = #items
    return function(rt, env)
      local made = {}
      for i = 1, n do made[i] = items[i](rt, env) end
      step(rt, n + 1)
      return make(rt, made, n)
    end
  end
end
COMPILE.Tuple, COMPILE.List = compile_display(value.tuple), compile_display(value.list)

function COMPILE.Dict(node, frame)
  local keys, items = {}, {}
  for i, pair in ipairs(node.items) do
    keys[i], items[i] = compile(pair.key, frame), compile(pair.value, frame)
  end
  local n = #keys
  return function(rt, env)
    local dict = value.dict(rt)
    step(rt, n + 1)
    for i = 1, n do
      local key = keys[i](rt, env)
      value.dict_set(rt, dict, key, items[i](rt, env))
    end
    return dict
  end
end

function COMPILE.CondExpr(node, frame)
  frame = frame:softened()
  local test, yes = compile(node.test, frame), compile(node.expr1, frame)
  local no = node.expr2 and compile(node.expr2, frame)
  local hint = ("the inline if-expression on line %d evaluated to false and no else section was defined."):format(
    node.line)
  return function(rt, env)
    step(rt, 1)
    if truth(test(rt, env)) then return yes(rt, env) end
    if no then return no(rt, env) end
    return value.undefined(nil, nil, hint)
  end
end

local function printf(rt, a, b)
  return format.printf(rt, a, b)
end

local BINARY = {["+"] = ops.add, ["-"] = ops.sub, ["*"] = ops.mul, ["/"] = ops.div, ["//"] = ops.floordiv,
  ["**"] = ops.pow, ["%"] = function(rt, a, b) return ops.mod(rt, a, b, printf) end}

function COMPILE.Binary(node, frame)
  local left, right = compile(node.left, frame), compile(node.right, frame)
  if node.op == "and" then
    return function(rt, env)
      step(rt, 1)
      local v = left(rt, env)
      if not truth(v) then return v end
      return right(rt, env)
    end
  elseif node.op == "or" then
    return function(rt, env)
      step(rt, 1)
      local v = left(rt, env)
      if truth(v) then return v end
      return right(rt, env)
    end
  end
  local op = BINARY[node.op]
  return function(rt, env)
    step(rt, 1)
    local a = left(rt, env)
    return op(rt, a, right(rt, env))
  end
end

local UNARY = {["-"] = ops.neg, ["+"] = ops.pos, ["not"] = function(_, v) return not truth(v) end}

function COMPILE.Unary(node, frame)
  local operand, op = compile(node.node, frame), UNARY[node.op]
  return function(rt, env)
    step(rt, 1)
    return op(rt, operand(rt, env))
  end
end

function COMPILE.Concat(node, frame)
  local parts = compile_all(node.nodes, frame)
  local n = #parts
  return function(rt, env)
    step(rt, n)
    local made = {}
    for i = 1, n do made[i] = value.str(rt, parts[i](rt, env)) end
    return text.concat(rt, made, n)
  end
end

local COMPARE = {
  ["=="] = value.eq, ["!="] = function(rt, a, b) return not value.eq(rt, a, b) end,
  ["in"] = value.contains, ["not in"] = function(rt, a, b) return not value.contains(rt, a, b) end,
}
for _, op in ipairs {"<", "<=", ">", ">="} do
  COMPARE[op] = function(rt, a, b) return value.compare(rt, op, a, b) end
end

function COMPILE.Compare(node, frame)
  local first, tests_of, operands = compile(node.expr, frame), {}, {}
  for i, operand in ipairs(node.ops) do
    tests_of[i], operands[i] = COMPARE[operand.op], compile(operand.expr, frame)
  end
  local n = #operands
  return function(rt, env)
    local left = first(rt, env)
    for i = 1, n do
      step(rt, 1)
      local right = operands[i](rt, env)
      if not tests_of[i](rt, left, right) then return false end
      left = right
    end
    return true
  end
end

function COMPILE.Getattr(node, frame)
  local object, name = compile(node.node, frame), node.attr
  return function(rt, env) return access.getattr(rt, object(rt, env), name) end
end

function COMPILE.Slice(node, frame)
  local start = node.start and compile(node.start, frame)
  local stop = node.stop and compile(node.stop, frame)
  local by = node.step and compile(node.step, frame)
  return function(rt, env, object)
    if object == nil then base.mismatch("a slice stands for no value") end
    step(rt, 1)
    local first, last
    if start then first = start(rt, env) end
    if stop then last = stop(rt, env) end
    return ops.slice(rt, object, first, last, by and by(rt, env))
  end
end

function COMPILE.Getitem(node, frame)
  local object, key = compile(node.node, frame), compile(node.arg, frame)
  if node.arg.t == "Slice" then
    return function(rt, env) return key(rt, env, object(rt, env)) end
  end
  return function(rt, env)
    local v = object(rt, env)
    return access.getitem(rt, v, key(rt, env))
  end
end

-- Calls --------------------------------------------------------------------------------------------------------------

local NO_ARGS = {n = 0}

local function spread(rt, args, v)
  for item in value.iter(rt, v) do
    args.n = args.n + 1
    args[args.n] = item
    base.bytes(rt, 16)
  end
end

local function spread_named(rt, kwargs, v)
  if value.kind(v) ~= "dict" then
    base.mismatch("argument after ** must be a mapping, not %s", value.type_name(v))
  end
  for i = 1, v.n do
    local key = v.keys[i]
    if not text.is(key) then base.mismatch("keywords must be strings") end
    if kwargs.map[value.hash(rt, key)] ~= nil then
      base.mismatch("got multiple values for keyword argument %s", text.quote(text.plain(key)))
    end
    value.dict_set(rt, kwargs, key, access.entry(rt, v, key))
  end
end

---A function of (rt, env) that gives the arguments of a call: {n, ...} and a dict or nil.
---@param caller fun(rt, env)?  gives a block's body, passed as `caller`
local function compile_args(node, frame, caller)
  local args, names, items = compile_all(node.args, frame), {}, {}
  for i, keyword in ipairs(node.kwargs or {}) do
    names[i], items[i] = keyword.key, compile(keyword.value, frame)
  end
  local rest = node.dyn_args and compile(node.dyn_args, frame)
  local named = node.dyn_kwargs and compile(node.dyn_kwargs, frame)
  local n, named_n = #args, #names
  if n == 0 and named_n == 0 and not rest and not named and not caller then
    return function() return NO_ARGS end
  end
  return function(rt, env)
    local made, kwargs = {n = n}, nil
    for i = 1, n do made[i] = args[i](rt, env) end
    base.bytes(rt, 32 + 16 * n)
    if rest then spread(rt, made, rest(rt, env)) end
    if named_n > 0 or named or caller then
      kwargs = value.dict(rt)
      for i = 1, named_n do value.dict_set(rt, kwargs, names[i], items[i](rt, env)) end
      if caller then value.dict_set(rt, kwargs, "caller", caller(rt, env)) end
      if named then spread_named(rt, kwargs, named(rt, env)) end
      if kwargs.n == 0 then kwargs = nil end
    end
    return made, kwargs
  end
end

---@param caller fun(rt, env)?  see compile_args
function M.compile_call(node, frame, caller)
  local target, arguments = compile(node.node, frame), compile_args(node, frame, caller)
  return function(rt, env)
    local f = target(rt, env)
    return call.call(rt, f, arguments(rt, env))
  end
end
COMPILE.Call = M.compile_call

-- A filter or a test: its specification is looked up now, and its absence is an error now, unless it stands within
-- an `if`, which may ask first whether it exists.
local function compile_applied(node, frame, kinds, what)
  local spec, name = kinds[node.name], node.name
  if not spec and not frame.soft then
    base.raise("unsupported", "line %d: No %s named '%s'.", node.line, what, name)
  end
  local subject = node.node and compile(node.node, frame) or function(rt) return rt.captured end
  local arguments = compile_args(node, frame)
  return function(rt, env)
    step(rt, 1)
    local v = subject(rt, env)
    local args, kwargs = arguments(rt, env)
    if not spec then base.raise("unsupported", "No %s named '%s' found.", what, name) end
    return call.apply(rt, spec, v, args, kwargs)
  end
end

function COMPILE.Filter(node, frame)
  return compile_applied(node, frame, filters, "filter")
end

function COMPILE.Test(node, frame)
  return compile_applied(node, frame, tests, "test")
end

tests.filter = call.spec("filter", "", function(_, v) return text.is(v) and filters[text.plain(v)] ~= nil end)
tests.test = call.spec("test", "", function(_, v) return text.is(v) and tests[text.plain(v)] ~= nil end)

return M
