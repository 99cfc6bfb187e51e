---Calls: binding arguments to the parameters of built-in functions, methods, filters and tests.
---
---A built-in is a specification {name, fn, params, need} or, where it takes any arguments, {name, fn, raw = true}.
local base = require "moonlet.templates.jinja.base"
local text = require "moonlet.templates.jinja.text"
local value = require "moonlet.templates.jinja.value"

local M = {}

local mismatch = base.mismatch

---@param params string  names with spaces between; those behind a "/" may be left out
---@param fn function  gets rt, the subject (for methods, filters and tests), then the arguments, nil where left out
function M.spec(name, params, fn)
  local spec = {name = name, fn = fn, params = {}, index = {}}
  for param in params:gmatch("%S+") do
    if param == "/" then
      spec.need = #spec.params
    else
      spec.params[#spec.params + 1] = param
      spec.index[param] = #spec.params
    end
  end
  spec.need = spec.need or #spec.params
  return spec
end

---@param fn function  gets rt, the subject, args {n, ...} and kwargs (a dict, or nil)
function M.raw_spec(name, fn)
  return {name = name, fn = fn, raw = true}
end

local function bind(spec, args, kwargs)
  local params = spec.params
  if args.n > #params then
    mismatch("%s() takes at most %d argument%s (%d given)", spec.name, #params, #params == 1 and "" or "s", args.n)
  end
  local bound = {table.unpack(args, 1, args.n)}
  for i = 1, kwargs and kwargs.n or 0 do
    local key = text.plain(kwargs.keys[i])
    local at = spec.index[key]
    if not at then mismatch("%s() got an unexpected keyword argument '%s'", spec.name, key) end
    if bound[at] ~= nil then mismatch("%s() got multiple values for argument '%s'", spec.name, key) end
    bound[at] = kwargs.map[key]
  end
  for i = 1, spec.need do
    if bound[i] == nil then mismatch("%s() missing 1 required positional argument: '%s'", spec.name, params[i]) end
  end
  return bound
end

---Calls a specification on a subject.
function M.apply(rt, spec, subject, args, kwargs)
  if spec.raw then return spec.fn(rt, subject, args, kwargs) end
  if args.n == 0 and not kwargs and spec.need == 0 then return spec.fn(rt, subject) end
  return spec.fn(rt, subject, table.unpack(bind(spec, args, kwargs), 1, #spec.params))
end

---An integer argument (bool counts), or `default` where it was left out.
function M.integer(v, default)
  if v == nil then return default end
  local n = value.number_of(v)
  if math.type(n) ~= "integer" then
    if value.kind(v) == "undefined" then value.fail_undefined(v) end
    mismatch("'%s' object cannot be interpreted as an integer", value.type_name(v))
  end
  return n
end

---Calls a value of the engine.
---@param args table  {n, ...}
---@param kwargs table?  a dict
function M.call(rt, f, args, kwargs)
  base.step(rt, 1)
  local kind = value.kind(f)
  if kind == "method" then return M.apply(rt, f.spec, f.self, args, kwargs) end
  if kind == "function" then return M.apply(rt, f.spec, f, args, kwargs) end
  if kind == "macro" or kind == "loop" or kind == "joiner" then return f.call(rt, args, kwargs) end
  if kind == "undefined" then value.fail_undefined(f) end
  mismatch("'%s' object is not callable", value.type_name(f))
end

return M
