---The values that templates compute with, and what Python does with any of them: truth, equality, order, printing,
---iteration. A value is a boolean, an integer, a float, a string value (text.lua), or a table with its kind in
---`k`: none, list and tuple {n, [1..n]}, dict {n, keys, map}, view (of a dict), range, iter {next}, undefined,
---namespace, macro, method, function, loop, cycler, joiner. Nothing in them has a metatable with functions, and no
---value of a context is reached before context.lua has copied it into this form.
local base = require "moonlet.templates.jinja.base"
local text = require "moonlet.templates.jinja.text"

local M = {}

local NONE, mismatch = base.NONE, base.mismatch
local plain = text.plain

local TYPE_NAMES = {none = "NoneType", str = "str", list = "list", tuple = "tuple", dict = "dict", range = "range",
  iter = "generator", undefined = "Undefined", namespace = "TemplateNamespace", macro = "Macro", loop = "LoopContext",
  method = "builtin_function_or_method", ["function"] = "function", cycler = "Cycler", joiner = "Joiner"}

---The kind of a value: "str", "int", "float", "bool", or a table's `k`.
function M.kind(v)
  local t = type(v)
  if t == "string" then return "str" end
  if t == "boolean" then return "bool" end
  if t == "number" then return math.type(v) == "integer" and "int" or "float" end
  return v.k
end

---The name of a value's type, as Python's messages have it.
function M.type_name(v)
  local kind = M.kind(v)
  if kind == "view" then return "dict_" .. v.what end
  if kind == "str" and type(v) == "table" and v.safe then return "Markup" end
  return TYPE_NAMES[kind] or kind
end

---A list over the table `items`, which it takes.
function M.list(rt, items, n)
  base.bytes(rt, 128 + 20 * n)
  items.k, items.n = "list", n
  return items
end

function M.tuple(rt, items, n)
  base.bytes(rt, 128 + 20 * n)
  items.k, items.n = "tuple", n
  return items
end

---An empty dict.
---@param rt table?  the rendering that pays for it
function M.dict(rt)
  if rt then base.bytes(rt, 320) end
  return {k = "dict", n = 0, keys = {}, map = {}}
end

local NAN = {}

---What stands for a value as a key of a dict: equal for values that Python finds equal and of one hash.
function M.hash(rt, v)
  local t = type(v)
  if t == "string" then return v end
  if t == "number" then return v == v and v or NAN end
  if t == "boolean" then return v and 1 or 0 end
  local k = v.k
  if k == "str" then return v.s end
  if k == "tuple" then
    local parts = {}
    base.enter(rt)
    for i = 1, v.n do
      local h = M.hash(rt, v[i])
      if type(h) == "string" then
        parts[i] = #h .. ":" .. h
      else
        parts[i] = tostring(math.type(h) == "float" and math.tointeger(h) or h)
      end
      base.bytes(rt, 2 * #parts[i] + 64)
    end
    base.leave(rt)
    return "\0tuple:" .. table.concat(parts, ",")
  end
  if k == "list" or k == "dict" or k == "view" then mismatch("unhashable type: '%s'", M.type_name(v)) end
  if k == "undefined" then return "\0undefined" end
  return v
end

---Sets an entry; an old key keeps its place.
function M.dict_set(rt, dict, key, value)
  local h = M.hash(rt, key)
  if dict.map[h] == nil then
    base.bytes(rt, 96)
    dict.n = dict.n + 1
    dict.keys[dict.n] = key
  end
  dict.map[h] = value
end

---@param hint string?  the whole message of the error that using it raises
function M.undefined(name, obj, hint)
  return {k = "undefined", name = name, obj = obj, hint = hint}
end

---Raises what using an undefined value raises.
function M.fail_undefined(u)
  local message = u.hint
  if not message and u.obj == nil then
    message = ("'%s' is undefined"):format(u.name)
  elseif not message then
    local owner = u.obj == NONE and "None" or M.type_name(u.obj) .. " object"
    if text.is(u.name) then
      message = ("'%s' has no attribute %s"):format(owner, text.quote(plain(u.name)))
    else
      message = ("%s has no element %s"):format(owner, type(u.name) == "number" and M.number(u.name) or "of that kind")
    end
  end
  base.raise("mismatch", "%s", message)
end

---The text of a number.
function M.number(v)
  if math.type(v) == "integer" then return ("%d"):format(v) end
  return text.float(v)
end

---Python's bool().
function M.truth(v)
  local t = type(v)
  if t == "boolean" then return v end
  if t == "string" then return v ~= "" end
  if t == "number" then return v ~= 0 end
  local k = v.k
  if k == "none" or k == "undefined" then return false end
  if k == "str" then return v.s ~= "" end
  if k == "list" or k == "tuple" or k == "dict" or k == "view" or k == "range" then return v.n > 0 end
  return true
end

---Python's len(), or nil where there is none.
function M.len(rt, v)
  local kind = M.kind(v)
  if kind == "str" then return text.len(rt, v) end
  if kind == "list" or kind == "tuple" or kind == "dict" or kind == "view" or kind == "range" then return v.n end
  if kind == "undefined" then return 0 end
  if kind == "loop" then return v.length(rt) end
  return nil
end

-- repr ---------------------------------------------------------------------------------------------------------------

local write

local function write_items(rt, out, v, open, close)
  out[#out + 1] = open
  for i = 1, v.n do
    if i > 1 then out[#out + 1] = ", " end
    write(rt, out, v[i])
  end
  out[#out + 1] = close
end

local WRITERS = {
  none = function(_, out) out[#out + 1] = "None" end,
  undefined = function(_, out) out[#out + 1] = "Undefined" end,
  list = function(rt, out, v) write_items(rt, out, v, "[", "]") end,
  tuple = function(rt, out, v) write_items(rt, out, v, "(", v.n == 1 and ",)" or ")") end,
  dict = function(rt, out, v)
    out[#out + 1] = "{"
    for i = 1, v.n do
      if i > 1 then out[#out + 1] = ", " end
      write(rt, out, v.keys[i])
      out[#out + 1] = ": "
      write(rt, out, v.map[M.hash(rt, v.keys[i])])
    end
    out[#out + 1] = "}"
  end,
  view = function(rt, out, v) write_items(rt, out, v, "dict_" .. v.what .. "([", "])") end,
  range = function(_, out, v)
    out[#out + 1] = (v.step == 1 and "range(%d, %d)" or "range(%d, %d, %d)"):format(v.start, v.stop, v.step)
  end,
  namespace = function(rt, out, v)
    out[#out + 1] = "<Namespace "
    write(rt, out, v.attrs)
    out[#out + 1] = ">"
  end,
  macro = function(_, out, v)
    out[#out + 1] = "<Macro " .. (v.name and text.quote(v.name) or "anonymous") .. ">"
  end,
  loop = function(rt, out, v) out[#out + 1] = ("<LoopContext %d/%d>"):format(v.index0 + 1, v.length(rt)) end,
}

function write(rt, out, v)
  local at = #out
  local kind = M.kind(v)
  if kind == "str" then
    local quoted = text.quote(plain(v))
    out.data = out.data or text.has_data(v)
    out[at + 1] = type(v) == "table" and v.safe and "Markup(" .. quoted .. ")" or quoted
  elseif kind == "int" or kind == "float" then
    out[at + 1] = M.number(v)
  elseif kind == "bool" then
    out[at + 1] = v and "True" or "False"
  elseif WRITERS[kind] then
    base.enter(rt)
    WRITERS[kind](rt, out, v)
    base.leave(rt)
  else
    out[at + 1] = "<" .. M.type_name(v) .. " object>"
  end
  local size = out[at + 1] and #out[at + 1] or 0
  base.bytes(rt, 2 * size + 32)
  base.step(rt, size // 8 + 1)
end

---Python's repr(), a string value.
function M.repr(rt, v)
  local out = {}
  write(rt, out, v)
  local s = table.concat(out)
  return out.data and text.data(s) or s
end

---Python's str(), a string value.
function M.str(rt, v)
  local t = type(v)
  if t == "string" then return v end
  if t == "number" then return M.number(v) end
  if t == "table" then
    if v.k == "str" then return v.safe and text.make(v.s, v.m) or v end
    if v.k == "undefined" then return "" end
  end
  return M.repr(rt, v)
end

-- Equality and order -------------------------------------------------------------------------------------------------

local function number_of(v)
  if type(v) == "boolean" then return v and 1 or 0 end
  return type(v) == "number" and v or nil
end
M.number_of = number_of

---A number as a float; minus zero stays what it is.
function M.to_float(x)
  if math.type(x) == "integer" then return x + 0.0 end
  return x
end

local eq

local function eq_items(rt, a, b)
  if a.n ~= b.n then return false end
  for i = 1, a.n do
    base.step(rt, 1)
    if not eq(rt, a[i], b[i]) then return false end
  end
  return true
end

local function eq_dicts(rt, a, b)
  if a.n ~= b.n then return false end
  for h, value in pairs(a.map) do
    base.step(rt, 1)
    local other = b.map[h]
    if other == nil or not eq(rt, value, other) then return false end
  end
  return true
end

-- Lua looks at long texts of one length byte by byte.
local function eq_texts(rt, a, b)
  if #a == #b then base.step(rt, #a // 512) end
  return a == b
end

---Python's ==.
function eq(rt, a, b)
  if text.is(a) then return text.is(b) and eq_texts(rt, plain(a), plain(b)) end
  if rawequal(a, b) then return a == a end
  local x, y = number_of(a), number_of(b)
  if x or y then return x == y end
  if text.is(b) or a.k ~= b.k then return false end
  base.step(rt, 1)
  local k, same = a.k, false
  base.enter(rt)
  if k == "list" or k == "tuple" then
    same = eq_items(rt, a, b)
  elseif k == "dict" then
    same = eq_dicts(rt, a, b)
  elseif k == "undefined" then
    same = true
  elseif k == "range" then
    same = a.n == b.n and (a.n == 0 or a.start == b.start and (a.n == 1 or a.step == b.step))
  elseif k == "method" then
    same = a.name == b.name and rawequal(a.self, b.self)
  end
  base.leave(rt)
  return same
end
M.eq = eq

-- -1, 0, 1, or nil where a float is not a number
local function order_numbers(x, y)
  if x < y then return -1 elseif x > y then return 1 elseif x == y then return 0 end
  return nil
end

-- The order of two values; false where Python has none.
local function order(rt, a, b)
  local x, y = number_of(a), number_of(b)
  if x and y then return order_numbers(x, y) end
  if x or y then return false end
  if text.is(a) and text.is(b) then return text.compare(rt, plain(a), plain(b)) end
  if M.kind(a) ~= M.kind(b) or (a.k ~= "list" and a.k ~= "tuple") then return false end
  base.enter(rt)
  for i = 1, math.min(a.n, b.n) do
    base.step(rt, 1)
    if not eq(rt, a[i], b[i]) then
      local result = order(rt, a[i], b[i])
      if result == false then M.fail_order(a[i], b[i], "<") end
      base.leave(rt)
      return result
    end
  end
  base.leave(rt)
  return order_numbers(a.n, b.n)
end

function M.fail_order(a, b, op)
  for _, v in ipairs {a, b} do
    if M.kind(v) == "undefined" then M.fail_undefined(v) end
  end
  mismatch("'%s' not supported between instances of '%s' and '%s'", op, M.type_name(a), M.type_name(b))
end

local ORDERS = {
  ["<"] = function(o) return o == -1 end, [">"] = function(o) return o == 1 end,
  ["<="] = function(o) return o == -1 or o == 0 end, [">="] = function(o) return o == 1 or o == 0 end,
}

---Python's < <= > >=.
function M.compare(rt, op, a, b)
  local o = order(rt, a, b)
  if o == false then M.fail_order(a, b, op) end
  return ORDERS[op](o)
end

---A stable sort of items[1..n] by keys[1..n], in place, as sorted() does it.
function M.sort(rt, items, keys, n, reverse)
  local index, spare = {}, {}
  base.bytes(rt, 32 * n)
  for i = 1, n do index[i] = reverse and n + 1 - i or i end
  local width = 1
  while width < n do
    for low = 1, n, 2 * width do
      local mid, high = math.min(low + width, n + 1), math.min(low + 2 * width, n + 1)
      local i, j = low, mid
      for at = low, high - 1 do
        base.step(rt, 1)
        if i < mid and (j >= high or not M.compare(rt, "<", keys[index[j]], keys[index[i]])) then
          spare[at], i = index[i], i + 1
        else
          spare[at], j = index[j], j + 1
        end
      end
    end
    index, spare = spare, index
    width = 2 * width
  end
  local sorted = {}
  for i = 1, n do sorted[i] = items[index[reverse and n + 1 - i or i]] end
  return sorted
end

-- Iteration ----------------------------------------------------------------------------------------------------------

local function each_item(rt, v)
  local i = 0
  return function()
    i = i + 1
    if i > v.n then return nil end
    base.step(rt, 1)
    return v[i]
  end
end

local ITERATORS = {
  str = text.points, list = each_item, tuple = each_item, view = each_item,
  dict = function(rt, v)
    local i = 0
    return function()
      i = i + 1
      if i > v.n then return nil end
      base.step(rt, 1)
      return v.keys[i]
    end
  end,
  range = function(rt, v)
    local i = -1
    return function()
      i = i + 1
      if i >= v.n then return nil end
      base.step(rt, 1)
      return v.start + i * v.step
    end
  end,
  iter = function(_, v) return v.next end,
  undefined = function() return function() return nil end end,
}

---Python's iter(): a function that gives the next value, nil at the end; nil where a value has none.
function M.try_iter(rt, v)
  local make = ITERATORS[M.kind(v)]
  return make and make(rt, v)
end

function M.iter(rt, v)
  local make = ITERATORS[M.kind(v)]
  if not make then mismatch("'%s' object is not iterable", M.type_name(v)) end
  return make(rt, v)
end

---All values of an iterable: a fresh table and their number.
function M.collect(rt, v)
  local items, n = {}, 0
  for item in M.iter(rt, v) do
    n = n + 1
    items[n] = item
    base.bytes(rt, 16)
  end
  return items, n
end

---A lazy sequence, as filters give it.
function M.lazy(rt, next)
  base.bytes(rt, 320)
  return {k = "iter", next = next}
end

---Python's `item in container`.
function M.contains(rt, item, container)
  local kind = M.kind(container)
  if kind == "str" then
    if M.kind(item) ~= "str" then
      if M.kind(item) == "undefined" then M.fail_in(item) end
      mismatch("'in <string>' requires string as left operand, not %s", M.type_name(item))
    end
    return text.find(rt, plain(container), plain(item), 1) ~= nil
  elseif kind == "dict" then
    return container.map[M.hash(rt, item)] ~= nil
  end
  local next = M.try_iter(rt, container)
  if not next then mismatch("argument of type '%s' is not iterable", M.type_name(container)) end
  for each in next do
    if eq(rt, each, item) then return true end
  end
  return false
end

function M.fail_in(item)
  mismatch("'in <string>' requires string as left operand, not %s", M.type_name(item))
end

return M
