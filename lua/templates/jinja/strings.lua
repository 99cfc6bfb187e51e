---Python's methods of str.
local base = require "moonlet.templates.jinja.base"
local call = require "moonlet.templates.jinja.call"
local format = require "moonlet.templates.jinja.format"
local text = require "moonlet.templates.jinja.text"
local unicode = require "moonlet.templates.jinja.unicode"
local value = require "moonlet.templates.jinja.value"

local M = {}

local NONE, mismatch, plain, integer = base.NONE, base.mismatch, text.plain, call.integer

---Methods by name; each a specification of call.lua.
M.methods = {}

local function method(name, params, fn)
  M.methods[name] = call.spec(name, params, fn)
end

local function need_text(v, name)
  if not text.is(v) then
    if value.kind(v) == "undefined" then value.fail_undefined(v) end
    mismatch("%s must be str, not %s", name, value.type_name(v))
  end
  return plain(v)
end

local function absent(v)
  return v == nil or v == NONE
end

for _, name in ipairs {"upper", "lower", "title", "capitalize", "swapcase"} do
  local change = unicode[name]
  method(name, "", function(rt, s)
    base.step(rt, #plain(s) // 2)
    return text.derived(rt, change(plain(s)), s)
  end)
end

method("casefold", "", function(rt, s)
  base.step(rt, #plain(s) // 2)
  return text.derived(rt, unicode.lower(unicode.upper(plain(s))), s)
end)

for name, sides in pairs {strip = {true, true}, lstrip = {true, false}, rstrip = {false, true}} do
  method(name, "/ chars", function(rt, s, chars)
    local set = nil
    if not absent(chars) then set = need_text(chars, name .. " arg") end
    return text.strip(rt, s, set, sides[1], sides[2])
  end)
end

-- Splitting ----------------------------------------------------------------------------------------------------------

local function add(rt, list, v)
  base.bytes(rt, 16)
  list[#list + 1] = v
end

local function reversed(list)
  local n = #list
  for i = 1, n // 2 do list[i], list[n + 1 - i] = list[n + 1 - i], list[i] end
  return list
end

-- Words between white space, at most `limit` cuts (negative: any number), from the left.
local function split_words(rt, v, limit)
  local s, parts, at = plain(v), {}, 1
  while true do
    while at <= #s and unicode.is_space(utf8.codepoint(s, at)) do at = utf8.offset(s, 2, at) end
    base.step(rt, 1)
    if at > #s then return parts end
    local from = at
    if limit >= 0 and #parts >= limit then
      add(rt, parts, text.sub(rt, v, from, #s))
      return parts
    end
    while at <= #s and not unicode.is_space(utf8.codepoint(s, at)) do at = utf8.offset(s, 2, at) end
    base.step(rt, (at - from) // 8)
    add(rt, parts, text.sub(rt, v, from, at - 1))
  end
end

local function rsplit_words(rt, v, limit)
  local s, parts = plain(v), {}
  local at = #s
  local function space_before()
    return unicode.is_space(utf8.codepoint(s, (utf8.offset(s, 0, at))))
  end
  while true do
    while at > 0 and space_before() do at = utf8.offset(s, 0, at) - 1 end
    base.step(rt, 1)
    if at == 0 then return reversed(parts) end
    local last = at
    if limit >= 0 and #parts >= limit then
      add(rt, parts, text.sub(rt, v, 1, last))
      return reversed(parts)
    end
    while at > 0 and not space_before() do at = utf8.offset(s, 0, at) - 1 end
    base.step(rt, (last - at) // 8)
    add(rt, parts, text.sub(rt, v, at + 1, last))
  end
end

local function split_at(rt, v, sep, limit)
  local s, parts, at = plain(v), {}, 1
  while limit < 0 or #parts < limit do
    local found = text.find(rt, s, sep, at)
    if not found then break end
    add(rt, parts, text.sub(rt, v, at, found - 1))
    at = found + #sep
  end
  add(rt, parts, text.sub(rt, v, at, #s))
  return parts
end

local function rsplit_at(rt, v, sep, limit)
  local s, parts = plain(v), {}
  local stop = #s + 1
  while limit < 0 or #parts < limit do
    local found = text.rfind(rt, s, sep, stop)
    if not found then break end
    add(rt, parts, text.sub(rt, v, found + #sep, stop - 1))
    stop = found
  end
  add(rt, parts, text.sub(rt, v, 1, stop - 1))
  return reversed(parts)
end

local function splitter(words, at)
  return function(rt, v, sep, limit)
    limit = integer(limit, -1)
    local parts
    if absent(sep) then
      parts = words(rt, v, limit)
    else
      if not text.is(sep) then mismatch("must be str or None, not %s", value.type_name(sep)) end
      sep = plain(sep)
      if sep == "" then mismatch("empty separator") end
      parts = at(rt, v, sep, limit)
    end
    return value.list(rt, parts, #parts)
  end
end

method("split", "/ sep maxsplit", splitter(split_words, split_at))
method("rsplit", "/ sep maxsplit", splitter(rsplit_words, rsplit_at))

local LINE_ENDS = {[10] = true, [11] = true, [12] = true, [13] = true, [28] = true, [29] = true, [30] = true,
  [0x85] = true, [0x2028] = true, [0x2029] = true}

---Lines of a string value, as str.splitlines gives them.
---@return table lines  a sequence
function M.lines(rt, v, keep)
  local s, parts, at, from = plain(v), {}, 1, 1
  base.step(rt, #s // 16)
  while true do
    at = s:find("[\n\v\f\r\x1c-\x1e\xc2\xe2]", at)
    if not at then break end
    local c = utf8.codepoint(s, at)
    local after = utf8.offset(s, 2, at)
    if LINE_ENDS[c] then
      if c == 13 and s:byte(after) == 10 then after = after + 1 end
      add(rt, parts, text.sub(rt, v, from, keep and after - 1 or at - 1))
      from = after
    end
    at = after
  end
  if from <= #s then add(rt, parts, text.sub(rt, v, from, #s)) end
  return parts
end

method("splitlines", "/ keepends", function(rt, v, keep)
  local lines = M.lines(rt, v, keep ~= nil and value.truth(keep))
  return value.list(rt, lines, #lines)
end)

-- The three parts around the separator that `find` gives; `missing(v)` gives them where there is none.
local function partition(name, find, missing)
  method(name, "sep", function(rt, v, sep)
    sep = need_text(sep, "sep")
    if sep == "" then mismatch("empty separator") end
    local s = plain(v)
    local at = find(rt, s, sep)
    if not at then return value.tuple(rt, missing(v), 3) end
    return value.tuple(rt,
      {text.sub(rt, v, 1, at - 1), text.sub(rt, v, at, at + #sep - 1), text.sub(rt, v, at + #sep, #s)}, 3)
  end)
end
local function first(rt, s, needle) return text.find(rt, s, needle, 1) end
local function last(rt, s, needle) return text.rfind(rt, s, needle, #s + 1) end
partition("partition", first, function(v) return {v, "", ""} end)
partition("rpartition", last, function(v) return {"", "", v} end)

-- Searching ----------------------------------------------------------------------------------------------------------

-- The part of v between two positions (as in a slice), and how many code points stand before it; nil where the first
-- lies behind the second or behind the end.
local function part(rt, v, start, stop)
  local s = plain(v)
  if absent(start) and absent(stop) then return s, 0 end
  local n = text.len(rt, v)
  local function position(i, default)
    i = absent(i) and default or integer(i)
    return i < 0 and math.max(i + n, 0) or i
  end
  local from, to = position(start, 0), math.min(position(stop, n), n)
  if from > to then return nil end
  return s:sub(unicode.byte_of(s, from + 1), unicode.byte_of(s, to + 1) - 1), from
end

local function finder(search, missing)
  return function(rt, v, needle, start, stop)
    needle = need_text(needle, "argument")
    local s, before = part(rt, v, start, stop)
    local at = s and search(rt, s, needle)
    if at then
      base.step(rt, #s // 64)
      return before + unicode.points_before(s, at)
    end
    if missing then return missing end
    mismatch("substring not found")
  end
end
method("find", "sub / start end", finder(first, -1))
method("rfind", "sub / start end", finder(last, -1))
method("index", "sub / start end", finder(first))
method("rindex", "sub / start end", finder(last))

method("count", "sub / start end", function(rt, v, needle, start, stop)
  needle = need_text(needle, "argument")
  local s = part(rt, v, start, stop)
  if not s then return 0 end
  if needle == "" then return unicode.len(s) + 1 end
  local n, at = 0, 1
  while true do
    at = text.find(rt, s, needle, at)
    if not at then return n end
    n, at = n + 1, at + #needle
  end
end)

local function affix(name, test)
  return function(rt, v, affixes, start, stop)
    local s = part(rt, v, start, stop)
    local list = affixes
    if value.kind(affixes) ~= "tuple" then
      if not text.is(affixes) then
        if value.kind(affixes) == "undefined" then value.fail_undefined(affixes) end
        mismatch("%s first arg must be str or a tuple of str, not %s", name, value.type_name(affixes))
      end
      list = {affixes, n = 1}
    end
    for i = 1, list.n do
      local each = need_text(list[i], "tuple for " .. name .. " must only contain str")
      base.step(rt, #each // 64 + 1)
      if s and test(s, each) then return true end
    end
    return false
  end
end
local function starts(s, prefix) return s:sub(1, #prefix) == prefix end
local function ends(s, suffix) return suffix == "" or s:sub(-#suffix) == suffix end
method("startswith", "prefix / start end", affix("startswith", starts))
method("endswith", "suffix / start end", affix("endswith", ends))
method("removeprefix", "prefix", function(rt, v, prefix)
  prefix = need_text(prefix, "removeprefix() argument")
  return starts(plain(v), prefix) and text.sub(rt, v, #prefix + 1, #plain(v)) or v
end)
method("removesuffix", "suffix", function(rt, v, suffix)
  suffix = need_text(suffix, "removesuffix() argument")
  if suffix == "" or not ends(plain(v), suffix) then return v end
  return text.sub(rt, v, 1, #plain(v) - #suffix)
end)

-- Building -----------------------------------------------------------------------------------------------------------

---str.replace; `count` negative for all.
function M.replace(rt, v, old, new, count)
  local s, pieces, n = plain(v), {}, 0
  local needle = plain(old)
  local function put(piece)
    n = n + 1
    pieces[n] = piece
    base.bytes(rt, 16)
  end
  local at, done = 1, 0
  if needle == "" then
    for each in text.points(rt, v) do
      if count >= 0 and done >= count then break end
      put(new)
      put(each)
      at, done = at + #plain(each), done + 1
    end
    put(text.sub(rt, v, at, #s))
    if at > #s and (count < 0 or done < count) then put(new) end
    return text.concat(rt, pieces, n)
  end
  while count < 0 or done < count do
    local found = text.find(rt, s, needle, at)
    if not found then break end
    put(text.sub(rt, v, at, found - 1))
    put(new)
    at, done = found + #needle, done + 1
  end
  if done == 0 then return v end
  put(text.sub(rt, v, at, #s))
  return text.concat(rt, pieces, n)
end

method("replace", "old new / count", function(rt, v, old, new, count)
  need_text(old, "replace() argument 1")
  need_text(new, "replace() argument 2")
  return M.replace(rt, v, old, new, integer(count, -1))
end)

method("join", "iterable", function(rt, sep, iterable)
  if not value.try_iter(rt, iterable) then mismatch("can only join an iterable") end
  local items, n = value.collect(rt, iterable)
  for i = 1, n do
    if not text.is(items[i]) then
      mismatch("sequence item %d: expected str instance, %s found", i - 1, value.type_name(items[i]))
    end
  end
  return text.concat(rt, items, n, sep)
end)

local function fill_of(fill)
  if fill == nil then return " " end
  if unicode.len(need_text(fill, "fill character")) ~= 1 then
    mismatch("The fill character must be exactly one character long")
  end
  return plain(fill)
end

---str.center, whose odd space goes to the left when the width is odd.
function M.center(rt, v, width, fill)
  local missing = width - text.len(rt, v)
  if missing <= 0 then return v end
  local left = missing // 2 + (missing & width & 1)
  local padded = format.pad(rt, v, width - (missing - left), ">", fill)
  return format.pad(rt, padded, width, "<", fill)
end

method("center", "width / fillchar", function(rt, v, width, fill)
  return M.center(rt, v, integer(width), fill_of(fill))
end)
method("ljust", "width / fillchar", function(rt, v, width, fill)
  return format.pad(rt, v, integer(width), "<", fill_of(fill))
end)
method("rjust", "width / fillchar", function(rt, v, width, fill)
  return format.pad(rt, v, integer(width), ">", fill_of(fill))
end)
method("zfill", "width", function(rt, v, width)
  local missing = integer(width) - text.len(rt, v)
  if missing <= 0 then return v end
  if missing > rt.bytes then base.bytes(rt, missing) end
  local sign = plain(v):match("^[-+]") and 1 or 0
  return text.concat(rt, {text.sub(rt, v, 1, sign), ("0"):rep(missing), text.sub(rt, v, sign + 1, #plain(v))}, 3)
end)

method("expandtabs", "/ tabsize", function(rt, v, size)
  size = integer(size, 8)
  local out, column = {}, 0
  for each in text.points(rt, v) do
    local c = plain(each)
    if c == "\t" then
      local width = size > 0 and size - column % size or 0
      if width > rt.bytes then base.bytes(rt, width) end
      each, column = (" "):rep(width), column + width
    else
      column = (c == "\n" or c == "\r") and 0 or column + 1
    end
    base.bytes(rt, 16)
    out[#out + 1] = each
  end
  return text.concat(rt, out, #out)
end)

-- Classes ------------------------------------------------------------------------------------------------------------

local function class(name, test)
  method(name, "", function(rt, v)
    base.step(rt, #plain(v) // 2)
    return test(plain(v))
  end)
end

local function all_of(...)
  local classes = {...}
  return function(s)
    return unicode.all(s, function(c)
      for _, name in ipairs(classes) do
        if unicode.is(name, c) then return true end
      end
      return false
    end)
  end
end
class("isalpha", all_of("alpha"))
class("isdecimal", all_of("decimal"))
class("isdigit", all_of("digit"))
class("isnumeric", all_of("numeric"))
class("isalnum", all_of("alpha", "numeric"))
class("isspace", function(s) return unicode.all(s, unicode.is_space) end)
class("isprintable", function(s) return s == "" or all_of("printable")(s) end)
class("isascii", unicode.is_ascii)
class("islower", function(s) return unicode.has_only_case(s, "lower", "upper") end)
class("isupper", function(s) return unicode.has_only_case(s, "upper", "lower") end)
class("isidentifier", function(s)
  return s ~= "" and not s:find("^%d") and unicode.all(s, function(c)
    return c == 95 or unicode.is("alpha", c) or unicode.is("decimal", c)
  end)
end)
class("istitle", function(s)
  local some, in_word = false, false
  for _, c in utf8.codes(s) do
    if unicode.is("upper", c) then
      if in_word then return false end
      some, in_word = true, true
    elseif unicode.is("lower", c) then
      if not in_word then return false end
    else
      in_word = false
    end
  end
  return some
end)

return M
