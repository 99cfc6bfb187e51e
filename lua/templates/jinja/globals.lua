---The functions that every template can call: range, dict, namespace, cycler, joiner, raise_exception, strftime_now.
local base = require "moonlet.templates.jinja.base"
local access = require "moonlet.templates.jinja.access"
local call = require "moonlet.templates.jinja.call"
local text = require "moonlet.templates.jinja.text"
local time = require "moonlet.templates.jinja.time"
local value = require "moonlet.templates.jinja.value"

local M = {}

local mismatch, integer = base.mismatch, call.integer

M.MAX_RANGE = 100000

---Global names to values; shared by all renderings, changed by none.
M.globals = {}

local function global(spec, fields)
  M.globals[spec.name] = {k = "function", spec = spec, fields = fields or {}}
end

-- Every function gets itself as the subject.
global(call.spec("range", "start / stop step", function(rt, _, start, stop, by)
  local first, last, step = integer(start), integer(stop), integer(by, 1)
  if last == nil then first, last = 0, first end
  if step == 0 then mismatch("range() arg 3 must not be zero") end
  local n = 0
  if step > 0 and last > first then
    n = (last - first - 1) // step + 1
  elseif step < 0 and first > last then
    n = (first - last - 1) // -step + 1
  end
  if n > M.MAX_RANGE or n < 0 then
    base.raise("limit", "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", M.MAX_RANGE)
  end
  base.bytes(rt, 64)
  return {k = "range", start = first, stop = last, step = step, n = n}
end))

-- dict(mapping or pairs, **more)
local function make_dict(rt, _, args, kwargs)
  if args.n > 1 then mismatch("dict expected at most 1 argument, got %d", args.n) end
  local dict = value.dict(rt)
  local source = args[1]
  if source ~= nil and value.kind(source) == "dict" then
    for i = 1, source.n do value.dict_set(rt, dict, source.keys[i], access.entry(rt, source, source.keys[i])) end
  elseif source ~= nil then
    local i = 0
    for pair in value.iter(rt, source) do
      if not value.try_iter(rt, pair) then
        mismatch("cannot convert dictionary update sequence element #%d to a sequence", i)
      end
      local items, n = value.collect(rt, pair)
      if n ~= 2 then
        mismatch("dictionary update sequence element #%d has length %d; 2 is required", i, n)
      end
      value.dict_set(rt, dict, items[1], items[2])
      i = i + 1
    end
  end
  for i = 1, kwargs and kwargs.n or 0 do
    value.dict_set(rt, dict, kwargs.keys[i], access.entry(rt, kwargs, kwargs.keys[i]))
  end
  return dict
end

local fromkeys = call.spec("fromkeys", "iterable / value", function(rt, _, iterable, item)
  local dict = value.dict(rt)
  if item == nil then item = base.NONE end
  for key in value.iter(rt, iterable) do value.dict_set(rt, dict, key, item) end
  return dict
end)
global(call.raw_spec("dict", make_dict), {
  fromkeys = function(_, self) return {k = "method", name = "fromkeys", spec = fromkeys, self = self} end,
})

global(call.raw_spec("namespace", function(rt, self, args, kwargs)
  local attrs = make_dict(rt, self, args, kwargs)
  for i = 1, attrs.n do
    local key = attrs.keys[i]
    if text.is(key) and text.plain(key):find("^_") then
      mismatch("Chat templates cannot store underscore-prefixed attributes on a namespace, but got %s. "
        .. "Please rename the attribute.", text.quote(text.plain(key)))
    end
  end
  return {k = "namespace", attrs = attrs}
end))

local cycler_next = call.spec("next", "", function(_, self)
  local item = self[self.at]
  self.at = self.at % self.n + 1
  return item
end)
local cycler_reset = call.spec("reset", "", function(_, self)
  self.at = 1
  return base.NONE
end)
local CYCLER = {
  current = function(_, self) return self[self.at] end,
  next = function(_, self) return {k = "method", name = "next", spec = cycler_next, self = self} end,
  reset = function(_, self) return {k = "method", name = "reset", spec = cycler_reset, self = self} end,
}
global(call.raw_spec("cycler", function(rt, _, args)
  if args.n == 0 then mismatch("at least one item has to be provided") end
  base.bytes(rt, 256 + 32 * args.n)
  return {k = "cycler", at = 1, n = args.n, fields = CYCLER, table.unpack(args, 1, args.n)}
end))

global(call.spec("joiner", "/ sep", function(rt, _, sep)
  local used = false
  base.bytes(rt, 400)
  return {k = "joiner", fields = {}, call = function()
    if used then return sep or ", " end
    used = true
    return ""
  end}
end))

global(call.spec("raise_exception", "message", function(rt, _, message)
  base.raise("usage", "%s", text.plain(value.str(rt, message)))
end))

global(call.spec("strftime_now", "format", function(rt, _, format)
  if not text.is(format) then
    mismatch("strftime() argument 1 must be str, not %s", value.type_name(format))
  end
  return text.derived(rt, time.now(rt, text.plain(format)), format)
end))

return M
