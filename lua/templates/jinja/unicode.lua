---Characters as Python's str sees them: classes, case, code-point positions in UTF-8.
local data = require "moonlet.templates.jinja.unicode_data"

local M = {}

local SPACES = {[0x85] = true, [0xa0] = true, [0x1680] = true, [0x2028] = true, [0x2029] = true, [0x202f] = true,
  [0x205f] = true, [0x3000] = true, [32] = true}
for c = 9, 13 do SPACES[c] = true end
for c = 28, 31 do SPACES[c] = true end
for c = 0x2000, 0x200a do SPACES[c] = true end

---Whether str.isspace holds for a code point.
function M.is_space(c)
  return SPACES[c] == true
end

-- "gap,length,..." -> sorted list of first and last code points
local function read_runs(text)
  local firsts, lasts, at = {}, {}, 128
  for gap, length in text:gmatch("(%d+),(%d+)") do
    local first = at + math.tointeger(gap)
    at = first + math.tointeger(length)
    firsts[#firsts + 1], lasts[#lasts + 1] = first, at - 1
  end
  return {firsts = firsts, lasts = lasts}
end

local sets = {}

-- the last run that starts at or before c, or nil
local function find_run(firsts, c)
  local low, high = 1, #firsts
  while low <= high do
    local mid = (low + high) // 2
    if firsts[mid] <= c then low = mid + 1 else high = mid - 1 end
  end
  return high > 0 and high or nil
end

local function in_set(name, c)
  local set = sets[name]
  if not set then
    set = read_runs(data[name])
    sets[name] = set
  end
  local i = find_run(set.firsts, c)
  return i ~= nil and c <= set.lasts[i]
end

local function ascii_class(low, high, low2, high2)
  return function(c) return (c >= low and c <= high) or (low2 ~= nil and c >= low2 and c <= high2) end
end

local ASCII = {
  printable = ascii_class(32, 126), alpha = ascii_class(65, 90, 97, 122), decimal = ascii_class(48, 57),
  digit = ascii_class(48, 57), numeric = ascii_class(48, 57), lower = ascii_class(97, 122),
  upper = ascii_class(65, 90),
}

---Whether a code point belongs to `class`: printable, alpha, decimal, digit, numeric, lower or upper.
function M.is(class, c)
  if c < 128 then return ASCII[class](c) end
  return in_set(class, c)
end

local function read_case(text)
  local rows = {firsts = {}}
  local at = 128
  for gap, count, stride, delta in text:gmatch("(%d+),(%d+),(%d+),(-?%d+)") do
    local first = at + math.tointeger(gap)
    local span = (math.tointeger(count) - 1) * math.tointeger(stride)
    rows.firsts[#rows.firsts + 1] = first
    rows[#rows + 1] = {last = first + span, stride = math.tointeger(stride), delta = math.tointeger(delta)}
    at = first + span + 1
  end
  return rows
end

local cases = {}

-- c mapped by the table `name`, or nil
local function map_point(name, c)
  local rows = cases[name]
  if not rows then
    rows = read_case(data[name])
    cases[name] = rows
  end
  local i = find_run(rows.firsts, c)
  local row = i and rows[i]
  if row and c <= row.last and (c - rows.firsts[i]) % row.stride == 0 then return c + row.delta end
  return nil
end

-- ASCII letters by table, from characters and from code points: string.upper and string.lower depend on the locale.
local ASCII_UPPER, ASCII_LOWER = {}, {}
for c = 0, 127 do
  local ch = string.char(c)
  local small, capital = c >= 97 and c <= 122, c >= 65 and c <= 90
  ASCII_UPPER[c] = small and string.char(c - 32) or ch
  ASCII_LOWER[c] = capital and string.char(c + 32) or ch
  ASCII_UPPER[ch], ASCII_LOWER[ch] = ASCII_UPPER[c], ASCII_LOWER[c]
end

---The upper-case form of a code point, as text.
function M.upper_point(c)
  if c < 128 then return ASCII_UPPER[c] end
  return data.upper_special[c] or utf8.char(map_point("to_upper", c) or c)
end

---The lower-case form of a code point, as text (without the rule of the final sigma).
function M.lower_point(c)
  if c < 128 then return ASCII_LOWER[c] end
  return data.lower_special[c] or utf8.char(map_point("to_lower", c) or c)
end

---The title-case form of a code point, as text.
function M.title_point(c)
  if c < 128 then return ASCII_UPPER[c] end
  local to = map_point("to_title", c)
  if to then return utf8.char(to) end
  return data.title_special[c] or M.upper_point(c)
end

local function is_ascii(s)
  return not s:find("[\x80-\xff]")
end
M.is_ascii = is_ascii

local function cased(c)
  return c ~= nil and (M.is("lower", c) or M.is("upper", c))
end

local BEYOND_ASCII = "()([\xc2-\xf4][\x80-\xbf]+)"

-- The code point before byte `at` and the one that starts there; nil where there is none.
local function neighbours(s, at)
  local before = at > 1 and utf8.codepoint(s, utf8.offset(s, -1, at)) or nil
  return before, at <= #s and utf8.codepoint(s, at) or nil
end

-- A capital sigma (at byte `at`, two bytes) that ends a word is lowered to the final form.
local function lower_sigma(s, at)
  local before = neighbours(s, at)
  local _, after = neighbours(s, at + 2)
  if cased(before) and not cased(after) then return "\u{3C2}" end
  return "\u{3C3}"
end

local function lower_at(s, at, c)
  if c == 0x3A3 then return lower_sigma(s, at) end
  return M.lower_point(c)
end

function M.lower(s)
  local lowered = s:gsub("[A-Z]", ASCII_LOWER)
  if is_ascii(s) then return lowered end
  return (lowered:gsub(BEYOND_ASCII, function(at, ch) return lower_at(s, at, utf8.codepoint(ch)) end))
end

function M.upper(s)
  local raised = s:gsub("[a-z]", ASCII_UPPER)
  if is_ascii(s) then return raised end
  return (raised:gsub(BEYOND_ASCII, function(_, ch) return M.upper_point(utf8.codepoint(ch)) end))
end

function M.capitalize(s)
  if s == "" then return s end
  local after = utf8.offset(s, 2)
  return M.title_point(utf8.codepoint(s, 1)) .. M.lower(s:sub(after))
end

-- Every character changed by fn(byte, code point).
local function each_point(s, fn)
  return (s:gsub("()(" .. utf8.charpattern .. ")", function(at, ch) return fn(at, utf8.codepoint(ch)) end))
end

---str.title: the first cased letter of each run of letters in title case, the others in lower case.
function M.title(s)
  local in_word = false
  return each_point(s, function(at, c)
    local changed = in_word and lower_at(s, at, c) or M.title_point(c)
    in_word = cased(c) or M.title_point(c) ~= M.lower_point(c)
    return changed
  end)
end

function M.swapcase(s)
  return each_point(s, function(at, c)
    if M.is("upper", c) then return lower_at(s, at, c) end
    if M.is("lower", c) then return M.upper_point(c) end
    return utf8.char(c)
  end)
end

---Whether every character (at least one) is in a class.
function M.all(s, test)
  if s == "" then return false end
  for _, c in utf8.codes(s) do
    if not test(c) then return false end
  end
  return true
end

---str.islower and str.isupper: some cased character, and none of the other case.
function M.has_only_case(s, wanted, other)
  local some = false
  for _, c in utf8.codes(s) do
    if M.is(other, c) then return false end
    some = some or M.is(wanted, c)
  end
  return some
end

---Length in code points.
function M.len(s)
  if is_ascii(s) then return #s end
  return utf8.len(s)
end

---The byte at which the i-th code point (1-based; one past the last is allowed) starts.
function M.byte_of(s, i)
  if is_ascii(s) then return i end
  return utf8.offset(s, i)
end

---The number of code points before byte `at`.
function M.points_before(s, at)
  if at <= 1 then return 0 end
  return utf8.len(s, 1, at - 1)
end

---The text with each maximal part that is not UTF-8 replaced by U+FFFD.
function M.repair(s)
  if utf8.len(s) then return s end
  local out, at = {}, 1
  while at <= #s do
    local _, bad = utf8.len(s, at)
    if not bad then
      out[#out + 1] = s:sub(at)
      break
    end
    out[#out + 1] = s:sub(at, bad - 1)
    out[#out + 1] = "\u{FFFD}"
    at = bad + M.invalid_length(s, bad)
  end
  return table.concat(out)
end

---Bytes in the maximal invalid part that starts at `at` (Unicode 15, section 3.9, U+FFFD substitution).
function M.invalid_length(s, at)
  local b1, b2 = s:byte(at, at + 1)
  local low, high, need = 0x80, 0xbf, 0
  if b1 >= 0xc2 and b1 <= 0xdf then
    need = 1
  elseif b1 >= 0xe0 and b1 <= 0xef then
    need = 2
    if b1 == 0xe0 then low = 0xa0 elseif b1 == 0xed then high = 0x9f end
  elseif b1 >= 0xf0 and b1 <= 0xf4 then
    need = 3
    if b1 == 0xf0 then low = 0x90 elseif b1 == 0xf4 then high = 0x8f end
  end
  if need == 0 or not b2 or b2 < low or b2 > high then return 1 end
  local length = 2
  while length <= need do
    local b = s:byte(at + length)
    if not b or b < 0x80 or b > 0xbf then break end
    length = length + 1
  end
  return length
end

return M
