---Python's operators on the engine's values.
local base = require "moonlet.templates.jinja.base"
local text = require "moonlet.templates.jinja.text"
local unicode = require "moonlet.templates.jinja.unicode"
local value = require "moonlet.templates.jinja.value"

local M = {}

local NONE, mismatch = base.NONE, base.mismatch
local number_of, kind, type_name = value.number_of, value.kind, value.type_name

local function overflow()
  base.raise("limit", "an integer beyond 64 bits")
end

-- A list or tuple of the items of several, `times` over.
local function join_items(rt, shape, parts, times)
  local items, n, total = {}, 0, 0
  for _, part in ipairs(parts) do total = total + part.n end
  if total > 0 and times > rt.bytes // total then base.bytes(rt, rt.bytes + 1) end
  base.step(rt, total * times // 4)
  for _ = 1, times do
    for _, part in ipairs(parts) do
      for i = 1, part.n do items[n + i] = part[i] end
      n = n + part.n
    end
  end
  return shape == "list" and value.list(rt, items, n) or value.tuple(rt, items, n)
end

local function fail_operands(op, a, b)
  if kind(a) == "undefined" then value.fail_undefined(a) end
  if kind(b) == "undefined" then value.fail_undefined(b) end
  mismatch("unsupported operand type(s) for %s: '%s' and '%s'", op, type_name(a), type_name(b))
end

-- Python's Markup escapes what is joined to it.
local function as_markup(v)
  if type(v) == "table" and v.safe then return v end
  return text.make(text.escape_html(text.plain(v)), type(v) == "table" and v.m and {1, #text.plain(v), "data"} or nil)
end

local function is_safe(v)
  return type(v) == "table" and v.safe == true
end

---Two string values joined; escaped where one is |safe.
function M.join(rt, a, b)
  if is_safe(a) or is_safe(b) then
    local joined = text.join2(rt, as_markup(a), as_markup(b))
    return text.make(text.plain(joined), type(joined) == "table" and joined.m or nil, true)
  end
  return text.join2(rt, a, b)
end

function M.add(rt, a, b)
  local x, y = number_of(a), number_of(b)
  if x and y then
    local sum = x + y
    if math.type(sum) == "integer" and (x ~ sum) & (y ~ sum) < 0 then overflow() end
    return sum
  end
  local k, other = kind(a), kind(b)
  if k == "str" and other == "str" then return M.join(rt, a, b) end
  if (k == "list" or k == "tuple") and other == k then return join_items(rt, k, {a, b}, 1) end
  if other ~= "undefined" and (k == "str" or k == "list" or k == "tuple") then
    mismatch('can only concatenate %s (not "%s") to %s', k, type_name(b), k)
  end
  return fail_operands("+", a, b)
end

function M.sub(_, a, b)
  local x, y = number_of(a), number_of(b)
  if not (x and y) then return fail_operands("-", a, b) end
  local difference = x - y
  if math.type(difference) == "integer" and (x ~ y) & (x ~ difference) < 0 then overflow() end
  return difference
end

local function mul_ints(x, y)
  if math.type(x) == "float" or math.type(y) == "float" then return x * y end
  local product = x * y
  if x ~= 0 and (product // x ~= y or (x == -1 and y == math.mininteger)) then overflow() end
  return product
end

local function repeat_text(rt, v, times)
  local s = text.plain(v)
  if times <= 0 or s == "" then return "" end
  if times > rt.bytes // #s then base.bytes(rt, rt.bytes + 1) end
  base.bytes(rt, #s * times)
  base.step(rt, #s * times // 64)
  return text.derived(rt, s:rep(times), v)
end

function M.mul(rt, a, b)
  local x, y = number_of(a), number_of(b)
  if x and y then return mul_ints(x, y) end
  if x then a, b, y = b, a, x end
  local k = kind(a)
  if k ~= "str" and k ~= "list" and k ~= "tuple" or kind(b) == "undefined" then
    if x then a, b = b, a end
    return fail_operands("*", a, b)
  end
  if math.type(y) ~= "integer" then mismatch("can't multiply sequence by non-int of type '%s'", type_name(b)) end
  if k == "str" then return repeat_text(rt, a, y) end
  return join_items(rt, k, {a}, math.max(y, 0))
end

function M.div(_, a, b)
  local x, y = number_of(a), number_of(b)
  if not (x and y) then return fail_operands("/", a, b) end
  if y == 0 then mismatch(math.type(x + y) == "float" and "float division by zero" or "division by zero") end
  return x / y
end

local function signed_zero(like)
  return (like < 0 or 1 / like < 0) and -0.0 or 0.0
end

-- Python's divmod of floats, which takes care of the sign of a zero.
local function float_divmod(x, y)
  local rest = math.fmod(x, y)
  local quotient = (x - rest) / y
  if rest ~= 0 then
    if (y < 0) ~= (rest < 0) then rest, quotient = rest + y, quotient - 1.0 end
  else
    rest = signed_zero(y)
  end
  if quotient == 0 then return signed_zero(x / y), rest end
  local whole = math.floor(quotient) + 0.0
  if quotient - whole > 0.5 then whole = whole + 1.0 end
  return whole, rest
end

function M.floordiv(_, a, b)
  local x, y = number_of(a), number_of(b)
  if not (x and y) then return fail_operands("//", a, b) end
  if y == 0 then
    mismatch(math.type(x + y) == "float" and "float floor division by zero" or "integer division or modulo by zero")
  end
  if math.type(x + y) == "float" then return (float_divmod(value.to_float(x), value.to_float(y))) end
  if x == math.mininteger and y == -1 then overflow() end
  return x // y
end

---@param format function  text % values
function M.mod(rt, a, b, format)
  if text.is(a) then return format(rt, a, b) end
  local x, y = number_of(a), number_of(b)
  if not (x and y) then return fail_operands("%", a, b) end
  if y == 0 then mismatch(math.type(x + y) == "float" and "float modulo" or "integer modulo by zero") end
  if math.type(x + y) == "float" then return select(2, float_divmod(value.to_float(x), value.to_float(y))) end
  return x % y
end

local function pow_ints(x, y)
  local result = 1
  while y > 0 do
    if y & 1 == 1 then result = mul_ints(result, x) end
    y = y >> 1
    if y > 0 then x = (x == 1 or x == 0) and x or mul_ints(x, x) end
  end
  return result
end

function M.pow(_, a, b)
  local x, y = number_of(a), number_of(b)
  if not (x and y) then return fail_operands("** or pow()", a, b) end
  if math.type(x) == "integer" and math.type(y) == "integer" and y >= 0 then return pow_ints(x, y) end
  if x == 0 and y < 0 then mismatch("0.0 cannot be raised to a negative power") end
  if x < 0 and y % 1 ~= 0 and y == y and y ~= math.huge and y ~= -math.huge then
    mismatch("complex numbers are not supported")
  end
  local result = value.to_float(x) ^ y
  if (result == math.huge or result == -math.huge) and x ~= math.huge and x ~= -math.huge and y ~= math.huge
    and y ~= -math.huge then
    mismatch("(34, 'Numerical result out of range')")
  end
  return result
end

local function sole_operand(v, sign)
  local x = number_of(v)
  if x then return x end
  if kind(v) == "undefined" then value.fail_undefined(v) end
  mismatch("bad operand type for unary %s: '%s'", sign, type_name(v))
end

function M.neg(_, v)
  local x = sole_operand(v, "-")
  if x == math.mininteger and math.type(x) == "integer" then overflow() end
  return -x
end

function M.pos(_, v) return sole_operand(v, "+") end

-- Slices -------------------------------------------------------------------------------------------------------------

local function slice_index(v)
  if v == nil or v == NONE then return nil end
  if type(v) == "boolean" then return v and 1 or 0 end
  if math.type(v) == "integer" then return v end
  mismatch("slice indices must be integers or None or have an __index__ method")
end

-- 0-based start, step, count and stop of a slice of n items.
local function slice_bounds(n, start, stop, step)
  start, stop, step = slice_index(start), slice_index(stop), slice_index(step) or 1
  if step == 0 then mismatch("slice step cannot be zero") end
  local low, high = 0, n
  if step < 0 then low, high = -1, n - 1 end
  local function clip(i, default)
    if i == nil then return default end
    if i < 0 then i = i + n end
    return math.max(low, math.min(i, high))
  end
  start = clip(start, step > 0 and 0 or n - 1)
  stop = clip(stop, step > 0 and n or -1)
  local count
  if step > 0 then
    count = stop > start and (stop - start - 1) // step + 1 or 0
  else
    count = start > stop and (start - stop - 1) // -step + 1 or 0
  end
  return start, step, count, stop
end
M.slice_bounds = slice_bounds

local function slice_text(rt, v, start, stop, step)
  local s = text.plain(v)
  local n = text.len(rt, v)
  local count
  start, step, count = slice_bounds(n, start, stop, step)
  if count == 0 then return "" end
  if step == 1 then
    return text.sub(rt, v, unicode.byte_of(s, start + 1), unicode.byte_of(s, start + count + 1) - 1)
  end
  local points, parts = {}, {}
  base.bytes(rt, 32 * n)
  for each in text.points(rt, v) do points[#points + 1] = each end
  for i = 0, count - 1 do parts[i + 1] = points[start + i * step + 1] end
  return text.concat(rt, parts, count)
end

---Python's obj[start:stop:step]; bounds are nil where they are left out.
function M.slice(rt, v, start, stop, step)
  local k = kind(v)
  if k == "str" then return slice_text(rt, v, start, stop, step) end
  if k == "undefined" then value.fail_undefined(v) end
  if k == "dict" then mismatch("unhashable type: 'slice'") end
  if k ~= "list" and k ~= "tuple" and k ~= "range" then
    mismatch("'%s' object is not subscriptable", type_name(v))
  end
  local count
  start, step, count, stop = slice_bounds(v.n, start, stop, step)
  if k == "range" then
    return {k = "range", start = v.start + start * v.step, step = v.step * step, n = count,
      stop = v.start + stop * v.step}
  end
  local items = {}
  base.step(rt, count // 4)
  for i = 0, count - 1 do items[i + 1] = v[start + i * step + 1] end
  return k == "list" and value.list(rt, items, count) or value.tuple(rt, items, count)
end

return M
