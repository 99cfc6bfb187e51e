---Attributes and items of values: what the reference's sandbox gives, and nothing of Lua's.
local base = require "moonlet.templates.jinja.base"
local call = require "moonlet.templates.jinja.call"
local format = require "moonlet.templates.jinja.format"
local strings = require "moonlet.templates.jinja.strings"
local text = require "moonlet.templates.jinja.text"
local unicode = require "moonlet.templates.jinja.unicode"
local value = require "moonlet.templates.jinja.value"

local M = {}

local mismatch, integer = base.mismatch, call.integer

local function specs(list)
  local by_name = {}
  for _, spec in ipairs(list) do by_name[spec.name] = spec end
  return by_name
end

-- A view of a dict as it is now (no template can change one).
local function view(what, item)
  return call.spec(what, "", function(rt, dict)
    local v = {k = "view", what = what, n = dict.n}
    for i = 1, dict.n do v[i] = item(rt, dict, dict.keys[i]) end
    base.bytes(rt, 64 + 16 * dict.n)
    base.step(rt, dict.n // 4)
    return v
  end)
end

local function entry(rt, dict, key)
  return dict.map[value.hash(rt, key)]
end
M.entry = entry

local function copy(rt, v)
  local items = {}
  for i = 1, v.n do items[i] = v[i] end
  base.step(rt, v.n // 4)
  return value.list(rt, items, v.n)
end

local function count_items(rt, v, item)
  local n = 0
  for each in value.iter(rt, v) do
    if value.eq(rt, each, item) then n = n + 1 end
  end
  return n
end

local function index_item(rt, v, item, start, stop)
  start, stop = integer(start, 0), integer(stop, v.n)
  if start < 0 then start = math.max(start + v.n, 0) end
  if stop < 0 then stop = stop + v.n end
  for i = start + 1, math.min(stop, v.n) do
    base.step(rt, 1)
    if value.eq(rt, v[i], item) then return i - 1 end
  end
  mismatch("%s is not in list", text.plain(value.repr(rt, item)))
end

local SEQUENCE = {
  call.spec("count", "value", count_items), call.spec("index", "value / start stop", index_item),
  call.spec("copy", "", copy),
}

local METHODS = {
  str = strings.methods,
  list = specs(SEQUENCE), tuple = specs {SEQUENCE[1], SEQUENCE[2]},
  dict = specs {
    view("keys", function(_, _, key) return key end),
    view("values", function(rt, dict, key) return entry(rt, dict, key) end),
    view("items", function(rt, dict, key) return value.tuple(rt, {key, entry(rt, dict, key)}, 2) end),
    call.spec("get", "key / default", function(rt, dict, key, default)
      local found = entry(rt, dict, key)
      if found ~= nil then return found end
      if default ~= nil then return default end
      return base.NONE
    end),
    call.spec("copy", "", function(rt, dict)
      local twin = value.dict(rt)
      for i = 1, dict.n do value.dict_set(rt, twin, dict.keys[i], entry(rt, dict, dict.keys[i])) end
      return twin
    end),
  },
  float = specs {call.spec("is_integer", "", function(_, x) return x % 1 == 0 end)},
  range = specs {call.spec("count", "value", count_items)},
}

-- Methods that Python has and the sandbox refuses.
local FORBIDDEN = {list = {}, dict = {}}
for name in ("append clear extend insert pop remove reverse sort"):gmatch("%a+") do FORBIDDEN.list[name] = true end
for name in ("clear pop popitem setdefault update"):gmatch("%a+") do FORBIDDEN.dict[name] = true end

METHODS.str.format = call.raw_spec("format", function(rt, s, args, kwargs)
  return format.format(rt, s, args, kwargs, M)
end)
METHODS.str.format_map = call.spec("format_map", "mapping", function(rt, s, mapping)
  if value.kind(mapping) ~= "dict" then mismatch("format_map() argument must be a mapping") end
  return format.format(rt, s, {n = 0}, mapping, M)
end)

local function bound(rt, spec, self)
  base.bytes(rt, 200)
  return {k = "method", name = spec.name, spec = spec, self = self}
end

-- Attributes that are no methods.
local FIELDS = {
  namespace = function(_, v, name) return v.attrs.map[name] end,
  tuple = function(_, v, name)
    if not v.group then return nil end
    return name == "grouper" and v[1] or name == "list" and v[2] or nil
  end,
  range = function(_, v, name)
    if name == "start" or name == "stop" or name == "step" then return v[name] end
    return nil
  end,
  macro = function(rt, v, name)
    if name == "name" then return v.name or base.NONE end
    if name == "arguments" then return value.tuple(rt, {table.unpack(v.params)}, #v.params) end
    if name == "caller" or name == "catch_kwargs" or name == "catch_varargs" then return v[name] end
    return nil
  end,
  loop = function(rt, v, name)
    local get = v.fields[name]
    return get and get(rt, v)
  end,
}
FIELDS.cycler, FIELDS.joiner, FIELDS["function"] = FIELDS.loop, FIELDS.loop, FIELDS.loop

-- An attribute in Python's sense, or nil. `name` is a Lua string.
local function attribute(rt, v, name)
  local kind = value.kind(v)
  if kind == "undefined" then value.fail_undefined(v) end
  local methods, field = METHODS[kind], FIELDS[kind]
  local spec = methods and methods[name]
  if spec then return bound(rt, spec, v) end
  local found = field and field(rt, v, name)
  if found ~= nil then return found end
  if (FORBIDDEN[kind] and FORBIDDEN[kind][name]) or name:find("^__.*__$") then
    return value.undefined(name, v,
      ("access to attribute %s of '%s' object is unsafe."):format(text.quote(name), value.type_name(v)))
  end
  return nil
end

---`v|attr(name)`: no items.
function M.attr(rt, v, name)
  if value.kind(v) == "undefined" then value.fail_undefined(v) end
  local found = attribute(rt, v, name)
  if found ~= nil then return found end
  return value.undefined(name, v)
end

---`v.name`: the attribute, else the item.
function M.getattr(rt, v, name)
  base.step(rt, 1)
  if type(v) == "table" and v.k == "dict" and not METHODS.dict[name] and not FORBIDDEN.dict[name] then
    local item = v.map[name]
    if item ~= nil then return item end
  end
  local found = attribute(rt, v, name)
  if found ~= nil then return found end
  return value.undefined(name, v)
end

local function sequence_item(v, i)
  if type(i) == "boolean" then i = i and 1 or 0 end
  if math.type(i) ~= "integer" then return nil end
  if i < 0 then i = i + v.n end
  if i < 0 or i >= v.n then return nil end
  if v.k == "range" then return v.start + i * v.step end
  return v[i + 1]
end

local function text_item(rt, v, i)
  if type(i) == "boolean" then i = i and 1 or 0 end
  if math.type(i) ~= "integer" then return nil end
  local s, n = text.plain(v), text.len(rt, v)
  if i < 0 then i = i + n end
  if i < 0 or i >= n then return nil end
  return text.sub(rt, v, unicode.byte_of(s, i + 1), unicode.byte_of(s, i + 2) - 1)
end

local UNHASHABLE = {list = true, dict = true, view = true}

---`v[key]`: the item, else the attribute.
function M.getitem(rt, v, key)
  base.step(rt, 1)
  local kind, found = value.kind(v), nil
  if kind == "dict" then
    if not UNHASHABLE[value.kind(key)] then found = entry(rt, v, key) end
  elseif kind == "list" or kind == "tuple" or kind == "range" then
    found = sequence_item(v, key)
  elseif kind == "str" then
    found = text_item(rt, v, key)
  elseif kind == "undefined" then
    value.fail_undefined(v)
  end
  if found == nil and text.is(key) then found = attribute(rt, v, text.plain(key)) end
  if found ~= nil then return found end
  return value.undefined(key, v)
end

return M
