---The filters that work on one value; those on sequences are in sequences.lua.
local base = require "moonlet.templates.jinja.base"
local access = require "moonlet.templates.jinja.access"
local call = require "moonlet.templates.jinja.call"
local format = require "moonlet.templates.jinja.format"
local json = require "moonlet.templates.jinja.json"
local ops = require "moonlet.templates.jinja.ops"
local sequences = require "moonlet.templates.jinja.sequences"
local strings = require "moonlet.templates.jinja.strings"
local text = require "moonlet.templates.jinja.text"
local unicode = require "moonlet.templates.jinja.unicode"
local value = require "moonlet.templates.jinja.value"

local M = {}

local NONE, mismatch, plain = base.NONE, base.mismatch, text.plain
local kind, integer = value.kind, call.integer

---Filters by name; each a specification of call.lua.
M.filters = sequences.filters

local filter = sequences.filter

local function truth(v)
  return v ~= nil and value.truth(v)
end

-- Text ---------------------------------------------------------------------------------------------------------------

-- str() that leaves a string, safe or not, as it is
local function soft_str(rt, v)
  if text.is(v) then return v end
  return value.str(rt, v)
end

for _, name in ipairs {"upper", "lower", "capitalize"} do
  local spec = strings.methods[name]
  filter(name, "", function(rt, v) return spec.fn(rt, soft_str(rt, v)) end)
end

filter("string", "", soft_str)
filter("trim", "/ chars", function(rt, v, chars)
  return strings.methods.strip.fn(rt, soft_str(rt, v), chars)
end)

-- Each part between the separators [-\s({\[<]+ begins with a capital.
filter("title", "", function(rt, v)
  v = soft_str(rt, v)
  local start = true
  base.step(rt, #plain(v) // 2)
  local s = plain(v):gsub(utf8.charpattern, function(ch)
    local c = utf8.codepoint(ch)
    local changed = start and unicode.upper_point(c) or unicode.lower_point(c)
    start = c == 45 or c == 40 or c == 123 or c == 91 or c == 60 or unicode.is_space(c)
    return changed
  end)
  return text.derived(rt, s, v)
end)

filter("replace", "old new / count", function(rt, v, old, new, count)
  if count == nil or count == NONE then count = -1 end
  return strings.replace(rt, value.str(rt, v), value.str(rt, old), value.str(rt, new), integer(count))
end)

filter("center", "/ width", function(rt, v, width)
  return strings.center(rt, soft_str(rt, v), integer(width, 80), " ")
end)

M.filters.format = call.raw_spec("format", function(rt, v, args, kwargs)
  if args.n > 0 and kwargs then mismatch("can't handle positional and keyword arguments at the same time") end
  return format.printf(rt, soft_str(rt, v), kwargs or value.tuple(rt, {table.unpack(args, 1, args.n)}, args.n))
end)

filter("indent", "/ width first blank", function(rt, v, width, first, blank)
  if not text.is(v) then
    if kind(v) == "undefined" then value.fail_undefined(v) end
    mismatch("unsupported operand type(s) for +=: '%s' and 'str'", value.type_name(v))
  end
  local margin
  if width == nil then
    margin = "    "
  elseif text.is(width) then
    margin = width
  else
    margin = ops.mul(rt, " ", integer(width))
  end
  local lines = strings.lines(rt, text.join2(rt, v, "\n"))
  local out, n = {}, 0
  for i, line in ipairs(lines) do
    if i > 1 then
      n = n + 1
      out[n] = "\n"
    end
    if i == 1 and truth(first) or i > 1 and (truth(blank) or plain(line) ~= "") then
      n = n + 1
      out[n] = margin
    end
    n = n + 1
    out[n] = line
    base.bytes(rt, 48)
  end
  local indented = text.concat(rt, out, n)
  if type(v) == "string" or not v.safe then return indented end
  return text.make(plain(indented), type(indented) == "table" and indented.m or nil, true)
end)

filter("truncate", "/ length killwords end leeway", function(rt, v, length, killwords, tail, leeway)
  length = integer(length, 255)
  leeway = (leeway == nil or leeway == NONE) and 5 or integer(leeway)
  tail = tail or "..."
  local tail_length = value.len(rt, tail)
  if length < tail_length then mismatch("expected length >= %d, got %d", tail_length, length) end
  if leeway < 0 then mismatch("expected leeway >= 0, got %d", leeway) end
  local size = value.len(rt, v)
  if not size then mismatch("object of type '%s' has no len()", value.type_name(v)) end
  if size <= length + leeway then return v end
  if not text.is(v) then mismatch("'%s' object has no attribute 'rsplit'", value.type_name(v)) end
  local cut = ops.slice(rt, v, nil, length - tail_length, nil)
  if not truth(killwords) then
    local space = text.rfind(rt, plain(cut), " ", #plain(cut) + 1)
    if space then cut = text.sub(rt, cut, 1, space - 1) end
  end
  return ops.add(rt, cut, tail)
end)

filter("wordcount", "", function(rt, v)
  local n, inside = 0, false
  local s = plain(soft_str(rt, v))
  base.step(rt, #s // 2)
  for _, c in utf8.codes(s) do
    local word = c == 95 or unicode.is("alpha", c) or unicode.is("numeric", c)
    if word and not inside then n = n + 1 end
    inside = word
  end
  return n
end)

local function escaped(rt, v, force)
  if type(v) == "table" and v.safe and not force then return v end
  local s = value.str(rt, v)
  local out = text.escape_html(plain(s))
  base.bytes(rt, #out)
  return text.make(out, text.has_data(s) and out ~= "" and {1, #out, "data"} or nil, true)
end
filter("e escape", "", function(rt, v) return escaped(rt, v, false) end)
filter("forceescape", "", function(rt, v) return escaped(rt, v, true) end)
filter("safe", "", function(rt, v)
  local s = value.str(rt, v)
  return text.make(plain(s), type(s) == "table" and s.m or nil, true)
end)

-- quote() of Python's urllib
local function url_quote(rt, v, keep_slash)
  v = value.str(rt, v)
  local s = plain(v):gsub(keep_slash and "[^%w_.~/-]" or "[^%w_.~ -]", function(c)
    return ("%%%02X"):format(c:byte())
  end)
  if not keep_slash then s = s:gsub(" ", "+") end
  return text.derived(rt, s, v)
end

filter("urlencode", "", function(rt, v)
  if text.is(v) or not value.try_iter(rt, v) then return url_quote(rt, v, true) end
  local pairs_of = kind(v) == "dict" and call.call(rt, access.getattr(rt, v, "items"), {n = 0}) or v
  local out, n = {}, 0
  for pair in value.iter(rt, pairs_of) do
    local items, count = value.collect(rt, pair)
    if count ~= 2 then mismatch("not enough values to unpack (expected 2, got %d)", count) end
    n = n + 1
    out[n] = text.concat(rt, {url_quote(rt, items[1], false), "=", url_quote(rt, items[2], false)}, 3)
  end
  return text.concat(rt, out, n, "&")
end)

filter("tojson", "/ ensure_ascii indent separators sort_keys", json.dumps)

-- Numbers ------------------------------------------------------------------------------------------------------------

local MAX_DIGITS = 400

-- What Python's int() and float() allow around and within a number: spaces, single underscores.
local function number_text(rt, v)
  local s = plain(text.strip(rt, v, nil, true, true))
  if #s > MAX_DIGITS then base.raise("limit", "a number of more than %d digits", MAX_DIGITS) end
  if s:find("^_") or s:find("_$") or s:find("__") or s:find("[^%w_.+-]") then return nil end
  if s:find("[^%w]_") or s:find("_[^%w]") then return nil end
  return (s:gsub("_", ""))
end

local RADIX = {b = 2, o = 8, x = 16}

local function parse_int(rt, v, radix)
  local s = number_text(rt, v)
  if not s then return nil end
  local sign, digits = s:match("^([-+]?)(%w+)$")
  if not digits then return nil end
  local letter = digits:match("^0([bBoOxX])")
  local meant = letter and RADIX[letter:lower()]
  if meant and (radix == 0 or radix == meant) then
    digits, radix = digits:sub(3), meant
  elseif radix == 0 then
    if digits:find("^0") and digits:find("[^0]") then return nil end
    radix = 10
  end
  local n = 0
  if digits == "" then return nil end
  for c in digits:gmatch(".") do
    local d = tonumber(c, 36)
    if not d or d >= radix then return nil end
    if n > (math.maxinteger - d) // radix then base.raise("limit", "an integer beyond 64 bits") end
    n = n * radix + d
  end
  return sign == "-" and -n or n
end

local function parse_float(rt, v)
  local s = number_text(rt, v)
  if not s then return nil end
  local sign, name = s:lower():match("^([-+]?)(%a+)$")
  if name == "inf" or name == "infinity" then return sign == "-" and -math.huge or math.huge end
  if name == "nan" then return 0 / 0 end
  if not (s:find("^[-+]?%d+%.?%d*[eE]?[-+]?%d*$") or s:find("^[-+]?%.%d+[eE]?[-+]?%d*$")) then return nil end
  local x = tonumber((s:gsub("^%+", "")))
  return x and value.to_float(x)
end

local function truncated(x)
  if x ~= x then return nil end
  if x == math.huge or x == -math.huge then mismatch("cannot convert float infinity to integer") end
  local n = math.tointeger(x < 0 and math.ceil(x) or math.floor(x))
  if not n then base.raise("limit", "an integer beyond 64 bits") end
  return n
end

filter("int", "/ default base", function(rt, v, default, radix)
  if default == nil then default = 0 end
  if kind(v) == "undefined" then value.fail_undefined(v) end
  local x = value.number_of(v)
  if x then
    if math.type(x) == "integer" then return x end
    local n = truncated(x)
    if n == nil then return default end
    return n
  end
  if not text.is(v) then return default end
  radix = integer(radix, 10)
  if radix ~= 0 and (radix < 2 or radix > 36) then return default end
  local n = parse_int(rt, v, radix)
  if n then return n end
  x = parse_float(rt, v)
  if not x or x ~= x or x == math.huge or x == -math.huge then return default end
  return truncated(x)
end)

filter("float", "/ default", function(rt, v, default)
  if kind(v) == "undefined" then value.fail_undefined(v) end
  local x = value.number_of(v)
  if x then return value.to_float(x) end
  x = text.is(v) and parse_float(rt, v)
  if x then return x end
  if default == nil then return 0.0 end
  return default
end)

filter("abs", "", function(rt, v)
  local x = value.number_of(v)
  if not x then
    if kind(v) == "undefined" then value.fail_undefined(v) end
    mismatch("bad operand type for abs(): '%s'", value.type_name(v))
  end
  return x < 0 and ops.neg(rt, x) or math.type(x) == "float" and math.abs(x) or x
end)

local function round_int(n, precision)
  if precision >= 0 then return n end
  if precision < -18 then return 0 end
  local unit = math.tointeger(10 ^ -precision)
  local low = n // unit * unit
  local rest = n - low
  if rest * 2 > unit or (rest * 2 == unit and low // unit % 2 == 1) then return low + unit end
  return low
end

local function round_float(x, precision)
  if x ~= x or x == math.huge or x == -math.huge or precision > 98 then return x end
  if precision >= 0 then
    local digits = ("%." .. precision .. "f"):format(x):gsub(",", ".")
    return tonumber(precision == 0 and digits .. ".0" or digits)
  end
  local unit = 10.0 ^ -precision
  if unit == math.huge then return 0.0 * x end
  local scaled = x / unit
  local low = math.floor(scaled)
  local rest = scaled - low
  if rest > 0.5 or (rest == 0.5 and low % 2 == 1) then low = low + 1 end
  return low * unit + 0.0
end

filter("round", "/ precision method", function(rt, v, precision, method)
  method = method and plain(method) or "common"
  if method ~= "common" and method ~= "ceil" and method ~= "floor" then
    mismatch("method must be common, ceil or floor")
  end
  precision = integer(precision, 0)
  local x = value.number_of(v)
  if not x then
    if kind(v) == "undefined" then value.fail_undefined(v) end
    mismatch("type %s doesn't define __round__ method", value.type_name(v))
  end
  if method == "common" then
    if math.type(x) == "integer" then return round_int(x, precision) end
    return round_float(x, precision)
  end
  local unit = ops.pow(rt, 10, precision)
  local scaled = ops.mul(rt, x, unit)
  local whole = method == "ceil" and math.ceil(scaled) or math.floor(scaled)
  return whole / unit
end)

-- Any value ----------------------------------------------------------------------------------------------------------

filter("default d", "/ default_value boolean", function(_, v, default, boolean)
  if kind(v) ~= "undefined" and not (truth(boolean) and not value.truth(v)) then return v end
  if default == nil then return "" end
  return default
end)

filter("attr", "name", function(rt, v, name)
  if not text.is(name) then mismatch("attribute name must be string, not '%s'", value.type_name(name)) end
  return access.attr(rt, v, plain(name))
end)

return M
