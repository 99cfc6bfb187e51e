---Python's two ways of formatting text: `text % values` and `text.format(...)`.
local base = require "moonlet.templates.jinja.base"
local ops = require "moonlet.templates.jinja.ops"
local text = require "moonlet.templates.jinja.text"
local unicode = require "moonlet.templates.jinja.unicode"
local value = require "moonlet.templates.jinja.value"

local M = {}

local mismatch, plain = base.mismatch, text.plain

local MAX_PRECISION = 99 -- what C's printf is asked for, at most

local function check_size(rt, n, what)
  if n and n > (what == "precision" and MAX_PRECISION or rt.bytes) then
    base.raise("limit", "a %s of %d in a format", what, n)
  end
end

-- `s` (a string value) padded to `width` code points. align: "<", ">", "^", or "=" (behind the sign of a number)
local function pad(rt, s, width, align, fill)
  local missing = (width or 0) - text.len(rt, s)
  if missing <= 0 then return s end
  check_size(rt, missing * #fill, "width")
  if align == "<" then return ops.join(rt, s, fill:rep(missing)) end
  if align == ">" then return ops.join(rt, fill:rep(missing), s) end
  if align == "^" then
    return text.concat(rt, {fill:rep(missing // 2), s, fill:rep(missing - missing // 2)}, 3)
  end
  local sign, rest = plain(s):match("^([-+ ]?0?[xXobB]?)(.*)$")
  if not sign:find("[xXobB]$") then sign, rest = plain(s):match("^([-+ ]?)(.*)$") end
  return sign .. fill:rep(missing) .. rest
end
M.pad = pad

local RADIX = {b = 2, o = 8, x = 16, X = 16}

-- Digits of a non-negative integer (mininteger's magnitude is its own bit pattern).
local function digits_of(n, kind)
  local radix = RADIX[kind]
  if not radix then return (("%d"):format(n):gsub("^%-", "")) end
  if radix ~= 2 then return ((kind == "o" and "%o" or "%" .. kind):format(n)) end
  local out = {}
  repeat
    table.insert(out, 1, n & 1 == 1 and "1" or "0")
    n = n >> 1
  until n == 0
  return table.concat(out)
end

-- printf of a float in the C locale, with Python's names for what is not a number.
local function float_text(x, kind, precision, alternate)
  if x ~= x or x == math.huge or x == -math.huge then
    local name = x ~= x and "nan" or x > 0 and "inf" or "-inf"
    return kind:find("%u") and name:upper() or name
  end
  local spec = "%" .. (alternate and "#" or "") .. "." .. precision .. (kind == "F" and "f" or kind)
  return (spec:format(x):gsub(",", "."))
end

local function with_sign(digits, negative, sign)
  if negative then return "-" .. digits end
  return (sign == "+" or sign == " ") and sign .. digits or digits
end

-- text % values ------------------------------------------------------------------------------------------------------

local function whole_number(v, kind)
  local x = value.number_of(v)
  if not x then
    if value.kind(v) == "undefined" then value.fail_undefined(v) end
    mismatch("%%%s format: %s is required, not %s", kind, RADIX[kind] and "an integer" or "a real number",
      value.type_name(v))
  end
  if math.type(x) == "integer" then return x end
  if RADIX[kind] then mismatch("%%%s format: an integer is required, not float", kind) end
  local truncated = x == x and math.tointeger(x < 0 and math.ceil(x) or math.floor(x))
  if not truncated then base.raise("limit", "an integer beyond 64 bits") end
  return truncated
end

local function printf_number(v, spec)
  local kind, flags = spec.kind, spec.flags
  local sign = flags:find("+", 1, true) and "+" or flags:find(" ", 1, true) and " " or ""
  if kind == "d" or kind == "i" or kind == "u" or RADIX[kind] then
    local n = whole_number(v, kind)
    local digits = digits_of(n < 0 and -n or n, kind)
    if spec.precision then digits = ("0"):rep(spec.precision - #digits) .. digits end
    if flags:find("#", 1, true) and RADIX[kind] then digits = "0" .. kind .. digits end
    return with_sign(digits, n < 0, sign)
  end
  local x = value.number_of(v)
  if not x then
    if value.kind(v) == "undefined" then value.fail_undefined(v) end
    mismatch("must be real number, not %s", value.type_name(v))
  end
  x = value.to_float(x)
  local digits = float_text(math.abs(x), kind, spec.precision or 6, flags:find("#", 1, true))
  return with_sign(digits, x < 0 or 1 / x < 0, sign)
end

local function printf_char(rt, v)
  if text.is(v) and text.len(rt, v) == 1 then return v end
  if math.type(v) ~= "integer" then mismatch("%%c requires int or char") end
  if v < 0 or v > 0x10ffff then mismatch("%%c arg not in range(0x110000)") end
  return utf8.char(v)
end

local function printf_one(rt, v, spec)
  local kind = spec.kind
  check_size(rt, spec.precision, "precision")
  local result
  if kind == "s" or kind == "r" or kind == "a" then
    result = kind == "s" and value.str(rt, v) or value.repr(rt, v)
    if spec.precision then result = ops.slice(rt, result, nil, spec.precision, nil) end
  elseif kind == "c" then
    result = printf_char(rt, v)
  elseif kind:find("^[diuoxXeEfFgG]$") then
    result = printf_number(v, spec)
    if spec.flags:find("0", 1, true) and not spec.flags:find("-", 1, true) then
      return pad(rt, result, spec.width, "=", "0")
    end
  else
    mismatch("unsupported format character '%s' (0x%x) at index %d", kind, utf8.codepoint(kind), spec.at)
  end
  return pad(rt, result, spec.width, spec.flags:find("-", 1, true) and "<" or ">", " ")
end

-- The values for a format, one after the other or by name.
local function printf_source(rt, values)
  local kind, used = value.kind(values), 0
  local source = {}
  function source.next()
    used = used + 1
    if kind == "tuple" then
      if used > values.n then mismatch("not enough arguments for format string") end
      return values[used]
    end
    if used > 1 then mismatch("not enough arguments for format string") end
    return values
  end
  function source.named(name)
    if kind ~= "dict" then mismatch("format requires a mapping") end
    local item = values.map[name]
    if item == nil then mismatch("%s", text.quote(name)) end
    used = 1
    return item
  end
  function source.finish()
    local count = kind == "tuple" and values.n or 1
    if used < count and kind ~= "dict" and kind ~= "list" and kind ~= "undefined" then
      mismatch("not all arguments converted during string formatting")
    end
  end
  base.step(rt, 1)
  return source
end

-- Reads what follows a "%" at byte `at`; gives the specification and the byte behind it.
local function printf_spec(rt, s, at, source)
  local spec = {}
  if s:sub(at, at) == "(" then
    local depth, close = 1, at
    while depth > 0 do
      close = s:find("[()]", close + 1)
      if not close then mismatch("incomplete format key") end
      depth = depth + (s:sub(close, close) == "(" and 1 or -1)
    end
    spec.name = s:sub(at + 1, close - 1)
    at = close + 1
  end
  local function number()
    local digits = s:match("^%d+", at)
    if digits then
      at = at + #digits
      return #digits < 10 and math.tointeger(tonumber(digits)) or base.raise("limit", "a width of %s", digits)
    end
    if s:sub(at, at) ~= "*" then return nil end
    at = at + 1
    local n = source.next()
    if math.type(n) ~= "integer" then mismatch("* wants int") end
    return n
  end
  spec.flags = s:match("^[-+ #0]*", at)
  at = at + #spec.flags
  spec.width = number()
  if spec.width and spec.width < 0 then spec.flags, spec.width = spec.flags .. "-", -spec.width end
  if s:sub(at, at) == "." then
    at = at + 1
    spec.precision = math.max(number() or 0, 0)
  end
  at = at + #s:match("^[hlL]?", at)
  if at > #s then mismatch("incomplete format") end
  local after = utf8.offset(s, 2, at)
  spec.kind = s:sub(at, after - 1)
  spec.at = unicode.points_before(s, at)
  base.step(rt, 1)
  return spec, after
end

---Python's `format % values`.
function M.printf(rt, format, values)
  local s, at = plain(format), 1
  local source = printf_source(rt, values)
  local parts, n = {}, 0
  local function put(part)
    n = n + 1
    parts[n] = part
  end
  while true do
    local percent = s:find("%", at, true)
    put(text.sub(rt, format, at, (percent or 0) - 1))
    if not percent then break end
    local spec
    spec, at = printf_spec(rt, s, percent + 1, source)
    if spec.kind == "%" then
      put("%")
    else
      put(printf_one(rt, spec.name and source.named(spec.name) or source.next(), spec))
    end
  end
  source.finish()
  return text.concat(rt, parts, n)
end

-- text.format(...) ---------------------------------------------------------------------------------------------------

local function read_spec(rt, s)
  local spec, at = {fill = " "}, 1
  local first = s ~= "" and s:sub(1, utf8.offset(s, 2) - 1) or ""
  local align = s:match("^[<>=^]", #first + 1)
  if align then
    spec.fill, spec.align, at = first, align, #first + 2
  elseif first:find("^[<>=^]") then
    spec.align, at = first, 2
  end
  local function take(pattern)
    local found = s:match("^" .. pattern, at)
    at = at + #(found or "")
    return found ~= "" and found or nil
  end
  spec.sign = take("[-+ ]")
  spec.alternate = take("#")
  if take("0") and not spec.align then spec.fill, spec.align = "0", "=" end
  local width = take("%d+")
  spec.group = take("[,_]")
  local precision = take("%.%d+")
  spec.kind = take("[%a%%]")
  if at <= #s then mismatch("Invalid format specifier") end
  if (width and #width > 9) or (precision and #precision > 9) then base.raise("limit", "a width of %s", s) end
  spec.width = width and math.tointeger(tonumber(width))
  spec.precision = precision and math.tointeger(tonumber(precision:sub(2)))
  check_size(rt, spec.precision, "precision")
  return spec
end

local function group_digits(digits, mark, size)
  local whole, rest = digits:match("^(%w+)(.*)$")
  if not whole then return digits end
  local parts = {}
  while #whole > size do
    table.insert(parts, 1, whole:sub(-size))
    whole = whole:sub(1, -size - 1)
  end
  table.insert(parts, 1, whole)
  return table.concat(parts, mark) .. rest
end

local function format_int(rt, n, spec)
  local kind = spec.kind or "d"
  if kind == "n" then kind = "d" end
  if spec.precision then mismatch("Precision not allowed in integer format specifier") end
  local digits = kind == "c" and utf8.char(n) or digits_of(n < 0 and -n or n, kind)
  if spec.group then digits = group_digits(digits, spec.group, RADIX[kind] and 4 or 3) end
  if spec.alternate and RADIX[kind] then digits = "0" .. kind .. digits end
  return pad(rt, with_sign(digits, n < 0, spec.sign), spec.width, spec.align or ">", spec.fill)
end

local function format_float(rt, x, spec)
  local kind, percent = spec.kind, spec.kind == "%"
  local magnitude = math.abs(x)
  if percent then magnitude, kind = magnitude * 100, "f" end
  local digits
  if kind == nil and not spec.precision then
    digits = text.float(magnitude)
  elseif kind == nil then
    digits = float_text(magnitude, "g", spec.precision == 0 and 1 or spec.precision, false)
    if not digits:find("[.en]") then digits = digits .. ".0" end
  else
    digits = float_text(magnitude, kind == "n" and "g" or kind, spec.precision or 6, spec.alternate)
  end
  if spec.group then digits = group_digits(digits, spec.group, 3) end
  if percent then digits = digits .. "%" end
  return pad(rt, with_sign(digits, x < 0 or 1 / x < 0, spec.sign), spec.width, spec.align or ">", spec.fill)
end

local function format_text(rt, v, spec)
  if spec.kind and spec.kind ~= "s" then
    mismatch("Unknown format code '%s' for object of type 'str'", spec.kind)
  end
  if spec.sign then mismatch("Sign not allowed in string format specifier") end
  if spec.align == "=" then mismatch("'=' alignment not allowed in string format specifier") end
  if spec.precision then v = ops.slice(rt, v, nil, spec.precision, nil) end
  return pad(rt, v, spec.width, spec.align or "<", spec.fill)
end

---Python's format(v, spec).
function M.format_value(rt, v, spec_text)
  if spec_text == "" then return value.str(rt, v) end
  local kind = value.kind(v)
  if kind == "undefined" or not (kind == "str" or kind == "bool" or kind == "int" or kind == "float") then
    mismatch("unsupported format string passed to %s.__format__", value.type_name(v))
  end
  local spec = read_spec(rt, spec_text)
  if kind == "str" then return format_text(rt, v, spec) end
  local x = value.number_of(v)
  local as = spec.kind
  if math.type(x) == "integer" and (as == nil or as:find("^[bcdnoxX]$")) then return format_int(rt, x, spec) end
  if as ~= nil and not as:find("^[eEfFgGn%%]$") then
    mismatch("Unknown format code '%s' for object of type '%s'", as, value.type_name(v))
  end
  return format_float(rt, value.to_float(x), spec)
end

-- The value that a field's name means: "0.a[b]".
local function field_value(rt, name, state)
  local first, rest = name:match("^([^.%[]*)(.*)$")
  if first == "" then
    if state.numbering == "manual" then
      mismatch("cannot switch from manual field specification to automatic field numbering")
    end
    state.numbering = "automatic"
    first = tostring(state.count)
    state.count = state.count + 1
  elseif first:find("^%d+$") then
    if state.numbering == "automatic" then
      mismatch("cannot switch from manual field specification to automatic field numbering")
    end
    state.numbering = "manual"
  end
  local v
  if first:find("^%d+$") then
    if #first < 10 then v = state.args[math.tointeger(tonumber(first)) + 1] end
    if v == nil then mismatch("tuple index out of range") end
  else
    v = state.kwargs and state.kwargs.map[first]
    if v == nil then mismatch("%s", text.quote(first)) end
  end
  while rest ~= "" do
    local attr, after = rest:match("^%.([^.%[]+)(.*)$")
    local key, behind = rest:match("^%[([^%]]+)%](.*)$")
    if not attr and not key then mismatch("Empty attribute in format string") end
    if attr then
      v = state.getattr(rt, v, attr)
    else
      v = state.getitem(rt, v, key:find("^%d+$") and #key < 10 and math.tointeger(tonumber(key)) or key)
    end
    rest = after or behind
  end
  return v
end

local expand

-- One "{...}" without its braces.
local function expand_field(rt, field, state)
  local name, conversion, spec = field:match("^([^!:]*)!(.):?(.*)$")
  if not name then name, spec = field:match("^([^:]*):?(.*)$") end
  local v = field_value(rt, name, state)
  if conversion == "r" or conversion == "a" then
    v = value.repr(rt, v)
  elseif conversion == "s" then
    v = value.str(rt, v)
  elseif conversion then
    mismatch("Unknown conversion specifier '%s'", conversion)
  end
  if spec:find("{", 1, true) then
    if state.nested then mismatch("Max string recursion exceeded") end
    state.nested = true
    spec = plain(expand(rt, spec, state))
    state.nested = false
  end
  return M.format_value(rt, v, spec)
end

function expand(rt, format, state)
  local s, at = plain(format), 1
  local parts, n = {}, 0
  while true do
    local brace = s:find("[{}]", at)
    n = n + 1
    parts[n] = text.sub(rt, format, at, (brace or 0) - 1)
    if not brace then return text.concat(rt, parts, n) end
    local c = s:sub(brace, brace)
    n = n + 1
    base.step(rt, 1)
    if s:sub(brace + 1, brace + 1) == c then
      parts[n], at = c, brace + 2
    elseif c == "}" then
      mismatch("Single '}' encountered in format string")
    else
      local depth, close = 1, brace
      while depth > 0 do
        close = s:find("[{}]", close + 1)
        if not close then
          mismatch(brace == #s and "Single '{' encountered in format string" or "expected '}' before end of string")
        end
        depth = depth + (s:sub(close, close) == "{" and 1 or -1)
      end
      parts[n], at = expand_field(rt, s:sub(brace + 1, close - 1), state), close + 1
    end
  end
end

---Python's format.format(*args, **kwargs). `access` brings getattr and getitem.
function M.format(rt, format, args, kwargs, access)
  return expand(rt, format, {args = args, kwargs = kwargs, count = 0, getattr = access.getattr,
    getitem = access.getitem})
end

return M
