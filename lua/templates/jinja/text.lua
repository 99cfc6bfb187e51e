---Text inside the template engine.
---
---A string value is a Lua string (UTF-8) or, where something must be remembered of it, a table
---{k = "str", s = text, m = marks, safe = true for what |safe made}. Marks are a flat list {first, last, kind, ...} of
---byte ranges: kind "data" is text that came from the context and not from the template, "generation" text made
---inside {% generation %}. Joining, cutting, splitting, stripping and replacing keep marks exactly; any other function
---of marked text yields text that is "data" as a whole, so that no data ever passes for the template's own words.
local base = require "moonlet.templates.jinja.base"
local unicode = require "moonlet.templates.jinja.unicode"

local M = {}

function M.is(v)
  return type(v) == "string" or (type(v) == "table" and v.k == "str")
end

---The Lua string of a string value.
function M.plain(v)
  if type(v) == "string" then return v end
  return v.s
end

local function make(s, marks, safe)
  if not marks and not safe then return s end
  return {k = "str", s = s, m = marks, safe = safe}
end
M.make = make

---`s` marked as data as a whole.
function M.data(s)
  if s == "" then return s end
  return {k = "str", s = s, m = {1, #s, "data"}}
end

---Whether a value is text that holds data of the context.
function M.has_data(v)
  if type(v) ~= "table" or v.k ~= "str" or not v.m then return false end
  for i = 3, #v.m, 3 do
    if v.m[i] == "data" then return true end
  end
  return false
end

---The text `s`, made from the string value `from` by a function that follows no marks.
function M.derived(rt, s, from)
  base.bytes(rt, #s)
  if type(from) == "string" then return s end
  return make(s, s ~= "" and M.has_data(from) and {1, #s, "data"} or nil, from.safe)
end

local function add_mark(marks, first, last, kind)
  local n = #marks
  if n > 0 and marks[n] == kind and marks[n - 1] + 1 >= first and marks[n - 2] <= first then
    if last > marks[n - 1] then marks[n - 1] = last end
    return
  end
  marks[n + 1], marks[n + 2], marks[n + 3] = first, last, kind
end

---Adds the marks of `v`, whose text stands behind `offset` bytes, to a list; gives the list.
function M.shift_marks(rt, marks, v, offset)
  local m = v.m
  if not m then return marks end
  marks = marks or {}
  base.bytes(rt, 8 * #m)
  for i = 1, #m, 3 do add_mark(marks, m[i] + offset, m[i + 1] + offset, m[i + 2]) end
  return marks
end

---Bytes i to j of a string value.
function M.sub(rt, v, i, j)
  if type(v) == "string" then
    local s = v:sub(i, j)
    base.bytes(rt, #s + 16)
    return s
  end
  local s, marks = v.s:sub(i, j), nil
  base.bytes(rt, #s + 32)
  local m = v.m
  if m then
    base.step(rt, #m // 8)
    for x = 1, #m, 3 do
      local first, last = math.max(m[x] - i + 1, 1), math.min(m[x + 1] - i + 1, #s)
      if first <= last then
        marks = marks or {}
        marks[#marks + 1], marks[#marks + 2], marks[#marks + 3] = first, last, m[x + 2]
      end
    end
  end
  return make(s, marks, v.safe)
end

---The string values 1..n of `list`, with `sep` (a string value) between them.
function M.concat(rt, list, n, sep)
  local parts, marks, size = {}, nil, 0
  local sep_text = sep and M.plain(sep) or ""
  for i = 1, n do
    if i > 1 and sep_text ~= "" then
      if type(sep) == "table" then marks = M.shift_marks(rt, marks, sep, size) end
      parts[#parts + 1] = sep_text
      size = size + #sep_text
    end
    local v = list[i]
    if type(v) == "table" then
      marks = M.shift_marks(rt, marks, v, size)
      v = v.s
    end
    parts[#parts + 1] = v
    size = size + #v
    if size > rt.bytes then base.bytes(rt, size) end
  end
  base.bytes(rt, size + 16 + 24 * n)
  base.step(rt, n // 4)
  return make(table.concat(parts), marks)
end

---Two string values joined.
function M.join2(rt, a, b)
  if type(a) == "string" and type(b) == "string" then
    base.bytes(rt, #a + #b + 16)
    return a .. b
  end
  return M.concat(rt, {a, b}, 2)
end

---Length in code points.
function M.len(rt, v)
  local s = M.plain(v)
  base.step(rt, #s // 64)
  return unicode.len(s)
end

local KMP_FROM = 256

-- Knuth, Morris and Pratt: for long needles, where plain search may be quadratic.
local function find_long(rt, s, needle, at)
  base.bytes(rt, 16 * #needle)
  base.step(rt, (#needle + #s - at) // 8)
  local fall = {0}
  local k = 0
  for i = 2, #needle do
    local b = needle:byte(i)
    while k > 0 and needle:byte(k + 1) ~= b do k = fall[k] end
    if needle:byte(k + 1) == b then k = k + 1 end
    fall[i] = k
  end
  k = 0
  for i = at, #s do
    local b = s:byte(i)
    while k > 0 and needle:byte(k + 1) ~= b do k = fall[k] end
    if needle:byte(k + 1) == b then k = k + 1 end
    if k == #needle then return i - k + 1 end
  end
  return nil
end

---The byte at which `needle` first stands in `s` at or behind byte `at`, or nil.
function M.find(rt, s, needle, at)
  if #s - at + 1 < #needle then return nil end
  if #needle > KMP_FROM then return find_long(rt, s, needle, at) end
  local found = s:find(needle, at, true)
  base.step(rt, ((found or #s) - at) // 64 + 1)
  return found
end

---The byte at which `needle` last stands in `s` before byte `stop` (its end is before it), or nil.
function M.rfind(rt, s, needle, stop)
  local back = M.find(rt, s:sub(1, stop - 1):reverse(), needle:reverse(), 1)
  base.bytes(rt, 2 * #needle + 2 * stop)
  return back and stop - back - #needle + 1
end

-- A set of the code points in `chars`, or nil for white space.
local function char_test(chars)
  if not chars then return unicode.is_space end
  local set = {}
  for _, c in utf8.codes(chars) do set[c] = true end
  return function(c) return set[c] == true end
end

---str.strip and its one-sided kin.
---@param chars string?  the characters to strip; white space when nil
---@param left boolean
---@param right boolean
function M.strip(rt, v, chars, left, right)
  local s = M.plain(v)
  local test = char_test(chars)
  local i, j = 1, #s
  while left and i <= j and test(utf8.codepoint(s, i)) do i = utf8.offset(s, 2, i) end
  while right and j >= i do
    local start = utf8.offset(s, 0, j)
    if not test(utf8.codepoint(s, start)) then break end
    j = start - 1
  end
  base.step(rt, (#s - (j - i)) // 2)
  if i == 1 and j == #s then return v end
  return M.sub(rt, v, i, j)
end

---A function that gives one character after the other, as string values.
function M.points(rt, v)
  local s, at = M.plain(v), 1
  if type(v) == "table" and v.safe then v = make(s, v.m) end
  local plain = type(v) == "string"
  return function()
    if at > #s then return nil end
    local from = at
    at = utf8.offset(s, 2, at)
    base.step(rt, 1)
    if plain then return s:sub(from, at - 1) end
    return M.sub(rt, v, from, at - 1)
  end
end

local SPECIAL = {["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\"}

-- A character as Python's repr writes it when it is not printable.
local function escaped(c)
  if c < 0x100 then return ("\\x%02x"):format(c) end
  return (c < 0x10000 and "\\u%04x" or "\\U%08x"):format(c)
end

---repr() of a text.
function M.quote(s)
  local mark = s:find("'", 1, true) and not s:find('"', 1, true) and '"' or "'"
  s = s:gsub("[\0-\31\127\\" .. mark .. "]", function(c)
    return SPECIAL[c] or (c == mark and "\\" .. c) or escaped(c:byte())
  end)
  if not unicode.is_ascii(s) then
    s = s:gsub(utf8.charpattern, function(ch)
      if #ch == 1 then return nil end
      local c = utf8.codepoint(ch)
      if not unicode.is("printable", c) then return escaped(c) end
    end)
  end
  return mark .. s .. mark
end

---repr() of a float: the fewest digits that read back as the same number.
function M.float(x)
  if x ~= x then return "nan" end
  if x == math.huge then return "inf" elseif x == -math.huge then return "-inf" end
  local text
  for digits = (x < 1e-300 and x > -1e-300) and 1 or 15, 17 do
    text = ("%." .. digits - 1 .. "e"):format(x)
    if tonumber(text) == x then break end
  end
  local sign, lead, rest, exponent = text:match("^(%-?)(%d)%D?(%d*)e([-+]%d+)$")
  local digits = (lead .. rest):gsub("0+$", "")
  if digits == "" then digits = "0" end
  exponent = math.tointeger(tonumber(exponent))
  if exponent < -4 or exponent >= 16 then
    local tail = #digits > 1 and "." .. digits:sub(2) or ""
    return ("%s%s%se%s%02d"):format(sign, digits:sub(1, 1), tail, exponent < 0 and "-" or "+", math.abs(exponent))
  elseif exponent < 0 then
    return sign .. "0." .. ("0"):rep(-exponent - 1) .. digits
  end
  if #digits <= exponent + 1 then return sign .. digits .. ("0"):rep(exponent + 1 - #digits) .. ".0" end
  return sign .. digits:sub(1, exponent + 1) .. "." .. digits:sub(exponent + 2)
end

---HTML escaping, as |escape does it.
function M.escape_html(s)
  return (s:gsub("[&<>'\"]", {["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ["'"] = "&#39;", ['"'] = "&#34;"}))
end

---Orders two texts by code point, whatever the locale: -1, 0 or 1.
function M.compare(rt, a, b)
  if a == b then return 0 end
  local n = math.min(#a, #b)
  local low = 1
  while low <= n do -- by blocks, then by bytes
    local high = math.min(low + 63, n)
    if a:sub(low, high) ~= b:sub(low, high) then break end
    low = high + 1
  end
  base.step(rt, low // 64 + 1)
  for i = low, n do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return x < y and -1 or 1 end
  end
  return #a < #b and -1 or 1
end

return M
