---Statements to Lua functions of (rt, env, out): they append to `out` and give "break" or "continue" where a loop is to
---be left or taken on.
local base = require "moonlet.templates.jinja.base"
local eval = require "moonlet.templates.jinja.eval"
local loops = require "moonlet.templates.jinja.loop"
local scope = require "moonlet.templates.jinja.scope"
local text = require "moonlet.templates.jinja.text"
local value = require "moonlet.templates.jinja.value"

local M = {}

local truth, step = value.truth, base.step

local COMPILE = {}

-- Frames: where a statement stands ------------------------------------------------------------------------------------

local Frame = {}
Frame.__index = Frame

---A frame inside this one, with a scope of its own; in a function of its own where `fn` is given.
function Frame:inner(fn)
  fn = fn or self.fn
  return setmetatable({scope = scope.new(self.scope, fn), fn = fn}, Frame)
end

---The same frame within an `if`.
function Frame:softened()
  return setmetatable({scope = self.scope, fn = self.fn, toplevel = self.toplevel, soft = true}, Frame)
end

local function inner_function(frame)
  return {depth = frame.fn.depth + 1, loops = 0}
end

-- A function of (rt, env) that fills the slots of a scope as it is entered.
local function compile_entry(frame)
  local slots, fills = {}, {}
  for slot, load in pairs(frame.scope.loads) do
    if load.action == "resolve" then
      local name = load.from
      slots[#slots + 1], fills[#fills + 1] = slot, function(rt) return eval.resolve(rt, name) end
    elseif load.action == "alias" then
      slots[#slots + 1], fills[#fills + 1] = slot, eval.slot_reader(frame, load.from, load.fn)
    elseif load.action == "missing" then
      slots[#slots + 1], fills[#fills + 1] = slot, function() return nil end
    end
  end
  local n = #slots
  return function(rt, env)
    for i = 1, n do env[slots[i]] = fills[i](rt, env) end
  end
end

-- Output -------------------------------------------------------------------------------------------------------------

local function new_output()
  return {n = 0, size = 0, marks = nil}
end

-- Appends a value, as text.
local function emit(rt, out, v)
  if type(v) ~= "string" then
    v = value.str(rt, v)
    if type(v) == "table" then
      out.marks = text.shift_marks(rt, out.marks, v, out.size)
      v = v.s
    end
  end
  local n = out.n + 1
  out.n, out[n], out.size = n, v, out.size + #v
  base.bytes(rt, #v + 16)
end

local function captured(out)
  return text.make(table.concat(out, "", 1, out.n), out.marks)
end

local function compile_body(nodes, frame)
  local list = {}
  for i, node in ipairs(nodes) do list[i] = COMPILE[node.t](node, frame) end
  local n = #list
  if n == 1 then return list[1] end
  return function(rt, env, out)
    for i = 1, n do
      local signal = list[i](rt, env, out)
      if signal then return signal end
    end
  end
end

function COMPILE.Output(node, frame)
  local parts, lines = {}, {}
  for i, child in ipairs(node.nodes) do
    local data = child.data
    parts[i] = child.t == "Data" and function() return data end or eval.compile(child, frame)
    lines[i] = child.line
  end
  local n = #parts
  return function(rt, env, out)
    for i = 1, n do
      rt.line = lines[i]
      step(rt, 1)
      emit(rt, out, parts[i](rt, env))
    end
  end
end

-- Assignment ---------------------------------------------------------------------------------------------------------

local function unpack_items(rt, v, n)
  local next = value.try_iter(rt, v)
  if not next then base.mismatch("cannot unpack non-iterable %s object", value.type_name(v)) end
  local items, count = {}, 0
  for item in next do
    count = count + 1
    if count > n then base.mismatch("too many values to unpack (expected %d)", n) end
    items[count] = item
  end
  if count < n then base.mismatch("not enough values to unpack (expected %d, got %d)", n, count) end
  return items
end

-- A function of (rt, env, v) that stores v in a target.
local function compile_target(node, frame)
  if node.t == "Name" then
    local slot = frame.scope:find(node.name)
    local name, toplevel = node.name, frame.toplevel
    return function(rt, env, v)
      env[slot] = v
      if toplevel then rt.vars[name] = v end
    end
  elseif node.t == "NSRef" then
    local read, attr = eval.name_reader(node.name, frame), node.attr
    return function(rt, env, v)
      local namespace = read(rt, env)
      if attr:find("^_") then
        base.mismatch("Chat templates cannot store underscore-prefixed attributes on a namespace, but got %s. "
          .. "Please rename the attribute.", text.quote(attr))
      end
      value.dict_set(rt, namespace.attrs, attr, v)
    end
  end
  local targets = {}
  for i, item in ipairs(node.items) do targets[i] = compile_target(item, frame) end
  local n = #targets
  return function(rt, env, v)
    local items = unpack_items(rt, v, n)
    for i = 1, n do targets[i](rt, env, items[i]) end
  end
end

-- A function of (rt, env) that fails unless what the target's dotted names start with are namespaces.
local function compile_namespace_check(target, frame)
  local readers = {}
  scope.any({target}, function(node)
    if node.t == "NSRef" then readers[#readers + 1] = eval.name_reader(node.name, frame) end
    return false
  end)
  return function(rt, env)
    for _, read in ipairs(readers) do
      local v = read(rt, env)
      if v == nil or value.kind(v) ~= "namespace" then
        base.mismatch("cannot assign attribute on non-namespace object")
      end
    end
  end
end

function COMPILE.Assign(node, frame)
  local check, line = compile_namespace_check(node.target, frame), node.line
  local store, expression = compile_target(node.target, frame), eval.compile(node.node, frame)
  return function(rt, env)
    rt.line = line
    step(rt, 1)
    check(rt, env)
    store(rt, env, expression(rt, env))
  end
end

function COMPILE.AssignBlock(node, frame)
  local block = frame:inner()
  block.scope:analyse(node.body)
  local enter, body = compile_entry(block), compile_body(node.body, block)
  local filter = node.filter and eval.compile(node.filter, block)
  local store, line = compile_target(node.target, frame), node.line
  return function(rt, env)
    rt.line = line
    step(rt, 1)
    local inside = new_output()
    enter(rt, env)
    local signal = body(rt, env, inside)
    if signal then return signal end
    local v = captured(inside)
    if filter then
      rt.captured = v
      v = filter(rt, env)
    end
    store(rt, env, v)
  end
end

-- Branches and loops -------------------------------------------------------------------------------------------------

function COMPILE.If(node, frame)
  frame = frame:softened()
  local tests, bodies, lines = {}, {}, {}
  local branches = {node, table.unpack(node.elif_)}
  for i, branch in ipairs(branches) do
    tests[i], bodies[i], lines[i] = eval.compile(branch.test, frame), compile_body(branch.body, frame), branch.line
  end
  local otherwise, n = compile_body(node.else_, frame), #branches
  return function(rt, env, out)
    for i = 1, n do
      rt.line = lines[i]
      step(rt, 1)
      if truth(tests[i](rt, env)) then return bodies[i](rt, env, out) end
    end
    return otherwise(rt, env, out)
  end
end

-- "for x in y if test": a function of (rt, env, next) that gives the items for which the test holds.
local function compile_loop_filter(node, frame)
  if not node.test then return function(_, _, next) return next end end
  local test_frame = frame:inner(inner_function(frame))
  test_frame.scope:analyse({node.target}, true)
  test_frame.scope:analyse {node.test}
  local enter, store = compile_entry(test_frame), compile_target(node.target, test_frame)
  local test = eval.compile(node.test, test_frame)
  return function(rt, env, next)
    local inner = {parent = env}
    enter(rt, inner)
    return function()
      for item in next do
        step(rt, 1)
        store(rt, inner, item)
        if truth(test(rt, inner)) then return item end
      end
      return nil
    end
  end
end

local function is_scoped_block(node) return node.t == "Block" and node.scoped end
local function stores_loop(node) return node.t == "Name" and node.ctx == "store" and node.name == "loop" end

-- The body of a loop, compiled: what runs it, in the function of `body_frame`.
local function compile_loop(node, frame, body_frame)
  local extended = node.recursive or scope.undeclared(node.body, {loop = true}).loop
    or scope.any({node}, is_scoped_block)
  local loop_slot = extended and body_frame.scope:declare("loop")
  body_frame.scope:analyse({node.target}, true)
  body_frame.scope:analyse(node.body)
  if scope.any({node}, stores_loop) then
    base.raise("corrupt", "line %d: Can't assign to special loop variable in for-loop target", node.line)
  end
  local else_frame = frame:inner(body_frame.fn)
  else_frame.scope:analyse(node.else_)
  body_frame.fn.loops = body_frame.fn.loops + 1
  local c = {slot = loop_slot, line = node.line, filtered = node.test ~= nil, filter = compile_loop_filter(node, frame),
    store = compile_target(node.target, body_frame), enter = compile_entry(body_frame),
    body = compile_body(node.body, body_frame)}
  body_frame.fn.loops = body_frame.fn.loops - 1
  if #node.else_ > 0 then
    c.enter_else, c.body_else = compile_entry(else_frame), compile_body(node.else_, else_frame)
  end
  return c
end

-- Walks `iterable`; `filter_env` is where the loop's filter looks outward.
local function run_loop(c, rt, env, out, iterable, filter_env, depth0, recurse)
  local next = c.filter(rt, filter_env, value.iter(rt, iterable))
  local loop = c.slot and loops.new(rt, iterable, next, c.filtered, depth0, recurse)
  local completed = false
  while true do
    local item
    if loop then item = loops.advance(loop) else item = next() end
    if item == nil then break end
    step(rt, 1)
    rt.line = c.line
    c.store(rt, env, item)
    if loop then env[c.slot] = loop end
    c.enter(rt, env)
    local signal = c.body(rt, env, out)
    if signal == "break" then break end
    -- as in the reference, a turn that `continue` cut short does not keep `else` from running
    completed = completed or signal == nil
  end
  if c.body_else and not completed then
    c.enter_else(rt, env)
    return c.body_else(rt, env, out)
  end
end

function COMPILE.For(node, frame)
  local iter = eval.compile(node.iter, frame)
  local line = node.line
  if not node.recursive then
    local c = compile_loop(node, frame, frame:inner())
    return function(rt, env, out)
      rt.line = line
      return run_loop(c, rt, env, out, iter(rt, env), env, 0)
    end
  end
  local c = compile_loop(node, frame, frame:inner(inner_function(frame)))
  return function(rt, env, out)
    rt.line = line
    local function recurse(iterable, depth0)
      base.enter(rt)
      local inner, inside = {parent = env}, new_output()
      run_loop(c, rt, inner, inside, iterable, env, depth0, recurse)
      base.leave(rt)
      return captured(inside)
    end
    emit(rt, out, recurse(iter(rt, env), 0))
  end
end

local function compile_jump(name)
  return function(node, frame)
    if frame.fn.loops == 0 then base.raise("corrupt", "line %d: '%s' outside loop", node.line, name) end
    return function() return name end
  end
end
COMPILE.Break, COMPILE.Continue = compile_jump("break"), compile_jump("continue")

-- Macros -------------------------------------------------------------------------------------------------------------

-- The signature and body of a macro, or of the block of a call, compiled.
local function compile_macro(node, frame, name)
  local inner = frame:inner(inner_function(frame))
  local function analyse()
    inner.scope:analyse(node.args)
    inner.scope:analyse(node.defaults)
    inner.scope:analyse(node.body)
  end
  analyse()
  local m = {name = name, params = {}, slots = {}, defaults = {}, has = {}}
  local own = {}
  for i, arg in ipairs(node.args) do
    m.params[i], m.slots[i], own[arg.name] = arg.name, inner.scope:find(arg.name), true
  end
  local special = scope.undeclared(node.body, {caller = true, kwargs = true, varargs = true})
  local without_default = #node.args - #node.defaults
  if special.caller and own.caller then
    for i = 1, without_default do
      if m.params[i] == "caller" then
        base.raise("corrupt", "line %d: When defining macros or call blocks the special \"caller\" argument must be "
          .. "omitted or be given a default.", node.line)
      end
    end
  end
  m.accesses = special
  for _, each in ipairs {"caller", "kwargs", "varargs"} do
    if special[each] and not own[each] then m.has[each] = inner.scope:declare(each) end
  end
  analyse()
  m.explicit_caller = own.caller == true
  for i, default in ipairs(node.defaults) do m.defaults[without_default + i] = eval.compile(default, inner) end
  m.enter, m.body = compile_entry(inner), compile_body(node.body, inner)
  return m
end

-- Takes `name` out of the keyword arguments.
local function take(kwargs, name, taken)
  local v = kwargs and kwargs.map[name]
  if v == nil or taken[name] then return nil end
  taken[name] = true
  return v
end

-- Puts the arguments of a call into the slots of a macro.
local function bind_macro(m, rt, env, args, kwargs)
  local count, taken, found_caller = #m.params, {}, m.explicit_caller
  for i = 1, count do
    if i <= args.n then
      env[m.slots[i]] = args[i]
    else
      env[m.slots[i]] = take(kwargs, m.params[i], taken)
    end
  end
  if m.accesses.caller and not found_caller then
    local caller = take(kwargs, "caller", taken)
    if caller == nil or caller == base.NONE then caller = value.undefined("caller", nil, "No caller defined") end
    env[m.has.caller] = caller
  end
  local rest = value.dict(rt)
  for i = 1, kwargs and kwargs.n or 0 do
    local key = text.plain(kwargs.keys[i])
    if not taken[key] then value.dict_set(rt, rest, key, kwargs.map[key]) end
  end
  local name = m.name and text.quote(m.name) or "None"
  if m.has.kwargs then
    env[m.has.kwargs] = rest
  elseif rest.n > 0 then
    if rest.map.caller ~= nil then
      base.mismatch("macro %s was invoked with two values for the special caller argument. This is most likely a bug.",
        name)
    end
    base.mismatch("macro %s takes no keyword argument %s", name, text.quote(text.plain(rest.keys[1])))
  end
  if m.has.varargs then
    local more = math.max(args.n - count, 0)
    env[m.has.varargs] = value.tuple(rt, {table.unpack(args, count + 1, args.n)}, more)
  elseif args.n > count then
    base.mismatch("macro %s takes not more than %d argument(s)", name, count)
  end
end

local function call_macro(m, rt, outer, args, kwargs)
  base.enter(rt)
  base.bytes(rt, 256)
  local env, out = {parent = outer}, new_output()
  bind_macro(m, rt, env, args, kwargs)
  m.enter(rt, env)
  for i, slot in ipairs(m.slots) do
    if env[slot] == nil then
      local default = m.defaults[i]
      if default then
        env[slot] = default(rt, env)
      else
        env[slot] = value.undefined(m.params[i], nil, ("parameter '%s' was not provided"):format(m.params[i]))
      end
    end
  end
  local line = rt.line
  m.body(rt, env, out)
  rt.line = line
  base.leave(rt)
  return captured(out)
end

local function macro_value(m, rt, env)
  base.bytes(rt, 512)
  return {k = "macro", name = m.name, params = m.params, caller = m.accesses.caller == true,
    catch_kwargs = m.has.kwargs ~= nil, catch_varargs = m.has.varargs ~= nil,
    call = function(rt_, args, kwargs) return call_macro(m, rt_, env, args, kwargs) end}
end

function COMPILE.Macro(node, frame)
  local m = compile_macro(node, frame, node.name)
  local slot, name, toplevel = frame.scope:find(node.name), node.name, frame.toplevel
  return function(rt, env)
    step(rt, 1)
    local macro = macro_value(m, rt, env)
    env[slot] = macro
    if toplevel then rt.vars[name] = macro end
  end
end

function COMPILE.CallBlock(node, frame)
  local m = compile_macro(node, frame, nil)
  local invoke = eval.compile_call(node.call, frame, function(rt, env) return macro_value(m, rt, env) end)
  local line = node.line
  return function(rt, env, out)
    rt.line = line
    local v = invoke(rt, env)
    if not text.is(v) then base.mismatch("sequence item 0: expected str instance, %s found", value.type_name(v)) end
    emit(rt, out, v)
  end
end

-- {% generation %}: marks what an assistant said. Its body is a scope like that of a call.
function COMPILE.Generation(node, frame)
  local m = compile_macro(node, frame, nil)
  return function(rt, env, out)
    step(rt, 1)
    local v = call_macro(m, rt, env, {n = 0})
    local s = text.plain(v)
    if rt.generation and s ~= "" then
      local marks = type(v) == "table" and v.m or {}
      table.move(marks, 1, #marks, 4)
      marks[1], marks[2], marks[3] = 1, #s, "generation"
      v = text.make(s, marks)
    end
    emit(rt, out, v)
  end
end

-- Other blocks -------------------------------------------------------------------------------------------------------

function COMPILE.FilterBlock(node, frame)
  local block = frame:inner()
  block.scope:analyse(node.body)
  block.scope:analyse {node.filter}
  local enter, body, filter = compile_entry(block), compile_body(node.body, block), eval.compile(node.filter, block)
  return function(rt, env, out)
    step(rt, 1)
    local inside = new_output()
    enter(rt, env)
    local signal = body(rt, env, inside)
    if signal then return signal end
    rt.captured = captured(inside)
    emit(rt, out, filter(rt, env))
  end
end

function COMPILE.With(node, frame)
  local inner = frame:inner()
  inner.scope:analyse(node.targets)
  inner.scope:analyse(node.body)
  local enter, stores, values = compile_entry(inner), {}, {}
  for i, target in ipairs(node.targets) do
    stores[i], values[i] = compile_target(target, inner), eval.compile(node.values[i], frame)
  end
  local body = compile_body(node.body, inner)
  return function(rt, env, out)
    step(rt, 1)
    enter(rt, env)
    for i, store in ipairs(stores) do store(rt, env, values[i](rt, env)) end
    return body(rt, env, out)
  end
end

function COMPILE.Scope(node, frame)
  local inner = frame:inner()
  inner.scope:analyse(node.body)
  local enter, body = compile_entry(inner), compile_body(node.body, inner)
  return function(rt, env, out)
    enter(rt, env)
    return body(rt, env, out)
  end
end

-- A block that nobody can override: its body, which sees the template's top level through the context alone.
function COMPILE.Block(node, frame)
  local fn = inner_function(frame)
  local block = setmetatable({scope = scope.new(nil, fn), fn = fn}, Frame)
  if node.scoped then block = frame:inner(fn) end
  block.scope:analyse(node.body)
  local enter, body = compile_entry(block), compile_body(node.body, block)
  return function(rt, env, out)
    step(rt, 1)
    local inner = {parent = env}
    enter(rt, inner)
    body(rt, inner, out)
  end
end

function COMPILE.Loader(node)
  return function()
    base.raise("unsupported", "'%s': a chat template cannot read other templates", node.tag)
  end
end

---@param tree table  the parser's Template node
---@return fun(rt: table): string, table  runs the template: its text, and the marks of the text (text.lua), or nil
function M.compile(tree)
  local fn = {depth = 0, loops = 0}
  local frame = setmetatable({scope = scope.new(nil, fn), fn = fn, toplevel = true}, Frame)
  frame.scope:analyse(tree.body)
  local enter, body = compile_entry(frame), compile_body(tree.body, frame)
  return function(rt)
    local env, out = {}, new_output()
    enter(rt, env)
    body(rt, env, out)
    return table.concat(out, "", 1, out.n), out.marks
  end
end

return M
