-- damage.lua: damaged variants of a GGUF, safetensors or JSON file, the same ones each time: truncations, flipped bits,
-- hostile counts.
--
--   local damage = require "tests.damage"
--   for _, v in ipairs(damage.variants(bytes, 300)) do ... damage.apply(bytes, v) ... end
--
--   lua5.4 tests/damage.lua FILE DIRECTORY [COUNT [SEED]]
--
-- writes DIRECTORY/NNN.EXT and prints for each a line of its name, `must fail` or `may pass`, and what was done. A
-- variant is {name, must_fail, cut = length or nil, edits = {{at, remove, insert}, ...}}: those of GGUF can be applied
-- to a file in place, so that a large model need not be copied for each. `must_fail` is false where the damage may fall
-- on something harmless (a bit of a weight, a character of a name).
local M = {}

-- ---- chance ----

---A generator apart, so that no other use of math.random changes what it gives.
local function new_random(seed)
  local state = seed * 2 + 1
  ---An integer from `low` to `high`.
  return function(low, high)
    state = state * 6364136223846793005 + 1442695040888963407
    return low + (state >> 33) % (high - low + 1)
  end
end

-- ---- where the fields are ----

local scalar_bytes = {[0] = 1, 1, 2, 2, 4, 4, 4, 1, nil, nil, 8, 8, 8}

---Fields of a GGUF file: {at (1-based), format, kind, name}, and the length of the head.
local function gguf_fields(bytes)
  local fields, at = {}, 9
  local function field(kind, format, name)
    fields[#fields + 1] = {at = at, format = format, kind = kind, name = name}
    local value
    value, at = format:unpack(bytes, at)
    return value
  end
  local function text(kind, name)
    local length = field(kind, "<I8", name)
    at = at + length
    return bytes:sub(at - length, at - 1)
  end
  fields[1] = {at = 5, format = "<I4", kind = "version", name = "version"}
  local n_tensors, n_pairs = field("count", "<I8", "number of tensors"), field("count", "<I8", "number of keys")
  for _ = 1, n_pairs do
    local key = text("length", "length of a key")
    local kind = field("value type", "<I4", "type of " .. key)
    if kind == 8 then
      text("length", "length of " .. key)
    elseif kind == 9 then
      local item, n = field("value type", "<I4", "item type of " .. key), field("count", "<I8", "items of " .. key)
      for i = 1, item == 8 and n or 0 do
        if i <= 3 then text("length", "length in " .. key) else at = at + 8 + ("<I8"):unpack(bytes, at) end
      end
      at = at + n * (scalar_bytes[item] or 0)
    else
      at = at + scalar_bytes[kind]
    end
  end
  for _ = 1, n_tensors do
    local name = text("length", "length of a tensor's name")
    for _ = 1, field("dims", "<I4", "dims of " .. name) do field("dim", "<I8", "a dim of " .. name) end
    field("tensor type", "<I4", "type of " .. name)
    field("offset", "<I8", "offset of " .. name)
  end
  return fields, at - 1
end

---Values that no file may have in such a field. Signed: -1 is 2^64-1.
local gguf_hostile = {
  version = {0, 1, 4, 0x03000000, 0xffffffff},
  count = {-1, 1 << 63, 1 << 62, (1 << 61) + 1, 1 << 60, 1 << 48},
  length = {-1, -8, 1 << 63, (1 << 63) - 1, 1 << 40},
  ["value type"] = {13, 255, 0xffffffff},
  dims = {5, 8, 9, 255, 0xffffffff},
  dim = {-1, 1 << 63, 1 << 62, 1 << 61},
  ["tensor type"] = {4, 5, 31, 99, 0xffffffff},
  offset = {-1, -32, 1 << 63, 1, (1 << 62) + 32},
}

-- ---- one variant of each kind ----

local function edit(name, must_fail, at, remove, insert)
  name = name:gsub("[^ -~]", function(c) return ("\\x%02x"):format(c:byte()) end)
  return {name = name, must_fail = must_fail, edits = {{at = at, remove = remove, insert = insert}}}
end

---Anywhere in the head, or in the whole file but for its last 64 bytes, which may be padding.
local function truncation(file, random)
  local limit = random(0, 2) == 0 and #file.bytes - 64 or file.head
  local length = random(0, math.max(0, math.min(limit, #file.bytes) - 1))
  return {name = ("cut after %d bytes of %d"):format(length, #file.bytes), must_fail = true, cut = length, edits = {}}
end

local function flipped_bit(file, random)
  local at, bit = random(1, file.head), random(0, 7)
  return edit(("bit %d of byte %d"):format(bit, at - 1), false, at, 1, string.char(file.bytes:byte(at) ~ (1 << bit)))
end

local function hostile_field(file, random)
  local field = file.fields[random(1, #file.fields)]
  local values = gguf_hostile[field.kind]
  local value = values[random(1, #values)]
  local packed = (field.format == "<I8" and "<i8" or "<I4"):pack(value)
  return edit(("%s = 0x%x"):format(field.name, value), true, field.at, #packed, packed)
end

---Another length of the header.
local function hostile_header(file, random)
  local lengths = {-1, 1 << 63, (1 << 63) - 1, 100000001, 0, 1, file.head - 9, file.head - 7, #file.bytes}
  local value = lengths[random(1, #lengths)]
  return edit(("length of the header = 0x%x"):format(value), true, 1, 8, ("<i8"):pack(value))
end

---Positions in a JSON text: of its structure (quotes too), of its numbers, of the first characters of its strings.
local function json_places(bytes, first, last)
  local structure, numbers, strings, at = {}, {}, {}, first
  while at <= last do
    local c = bytes:sub(at, at)
    if c == '"' then
      local stop = at + 1
      while bytes:sub(stop, stop) ~= '"' do stop = stop + (bytes:sub(stop, stop) == "\\" and 2 or 1) end
      structure[#structure + 1], structure[#structure + 2] = at, stop
      if stop > at + 1 then strings[#strings + 1] = at + 1 end
      at = stop + 1
    elseif c:find "[%d%-]" then
      local stop = select(2, bytes:find("^[%d%-+.eE]+", at))
      numbers[#numbers + 1] = {at = at, size = stop - at + 1}
      at = stop + 1
    else
      if c:find "[%[%]{}:,]" then structure[#structure + 1] = at end
      at = at + 1
    end
  end
  return structure, numbers, strings
end

local function dropped_character(file, random)
  local at = file.structure[random(1, #file.structure)]
  local joins_numbers = file.bytes:find("^%d,%d", at - 1)
  return edit(("byte %d, %s, dropped"):format(at - 1, file.bytes:sub(at, at)), not joins_numbers, at, 1, "")
end

local function bad_text(file, random)
  local texts = {"\0", "\n", "\xff", "\xc0\xaf", "\xed\xa0\x80", "\\ud800", "\\x"}
  local at, text = file.strings[random(1, #file.strings)], texts[random(1, #texts)]
  return edit(("'%s' put into the string at byte %d"):format(text, at - 1), true, at, 0, text)
end

local function hostile_number(file, random)
  local texts = {"1e999", "-", "01", "NaN", "Infinity", ("["):rep(200), "{}{}", ("["):rep(100000)}
  local number, text = file.numbers[random(1, #file.numbers)], texts[random(1, #texts)]
  local name = ("the number at byte %d replaced by %.20s"):format(number.at - 1, text)
  return edit(name, true, number.at, number.size, text)
end

---A number that JSON allows; whether the place allows it is another matter.
local function odd_number(file, random)
  local texts = {"-1", "0", "2147483648", "4294967296", "9223372036854775807", "18446744073709551616", "1e30",
    "0.5", "null", "\"text\"", "[]", "true"}
  local number, text = file.numbers[random(1, #file.numbers)], texts[random(1, #texts)]
  return edit(("the number at byte %d replaced by %s"):format(number.at - 1, text), false, number.at, number.size, text)
end

---Edits in the header of a safetensors file change its length, which stands before it.
local function in_header(damage)
  return function(file, random)
    local v = damage(file, random)
    local change = v.edits[1]
    local length = ("<I8"):unpack(file.bytes) - change.remove + #change.insert
    table.insert(v.edits, 1, {at = 1, remove = 8, insert = ("<I8"):pack(length)})
    return v
  end
end

---A number in a safetensors header is a dim or an offset; of an offset only one value is right.
local function wrong_number(file, random)
  local number, by = file.numbers[random(1, #file.numbers)], {1, 2, 7, 1 << 20, 1 << 62}
  local value = math.tointeger(file.bytes:sub(number.at, number.at + number.size - 1)) or 0
  local text = ("%d"):format(value + by[random(1, #by)])
  local is_offset = file.bytes:sub(math.max(1, number.at - 60), number.at - 1):find 'data_offsets":%[[%d,]*$'
  local name = ("the number at byte %d replaced by %s"):format(number.at - 1, text)
  return edit(name, is_offset ~= nil, number.at, number.size, text)
end

-- ---- formats ----

---The file's fields, and the kinds of damage that it can take.
local function describe(bytes)
  local file = {bytes = bytes}
  if bytes:sub(1, 4) == "GGUF" then
    file.fields, file.head = gguf_fields(bytes)
    return file, {truncation, flipped_bit, hostile_field, hostile_field}
  end
  local is_json = bytes:find "^%s*[{%[]" ~= nil
  local wrap = is_json and function(damage) return damage end or in_header
  file.head = is_json and #bytes:match "^(.-)%s*$" or 8 + ("<I8"):unpack(bytes)
  file.structure, file.numbers, file.strings = json_places(bytes, is_json and 1 or 9, file.head)
  local kinds = {truncation, flipped_bit, wrap(dropped_character)}
  if not is_json then kinds[#kinds + 1] = hostile_header end
  if #file.strings > 0 then kinds[#kinds + 1] = wrap(bad_text) end
  if #file.numbers > 0 then
    kinds[#kinds + 1] = wrap(hostile_number)
    kinds[#kinds + 1] = wrap(is_json and odd_number or wrong_number)
  end
  return file, kinds
end

---@param bytes string   a valid file
---@param count integer
---@param seed? integer  1
---@return table[] variants
function M.variants(bytes, count, seed)
  local file, kinds = describe(bytes)
  local random, list = new_random(seed or 1), {}
  for i = 1, count do list[i] = kinds[(i - 1) % #kinds + 1](file, random) end
  return list
end

---The damaged bytes.
function M.apply(bytes, variant)
  if variant.cut then return bytes:sub(1, variant.cut) end
  local parts, at = {}, 1
  for _, change in ipairs(variant.edits) do -- in ascending order
    parts[#parts + 1] = bytes:sub(at, change.at - 1)
    parts[#parts + 1] = change.insert
    at = change.at + change.remove
  end
  parts[#parts + 1] = bytes:sub(at)
  return table.concat(parts)
end

local function main(path, directory, count, seed)
  local file = assert(io.open(path, "rb"))
  local bytes = assert(file:read "a")
  file:close()
  local variants = M.variants(bytes, math.tointeger(count) or 300, math.tointeger(seed))
  local digits = #tostring(#variants)
  for i, variant in ipairs(variants) do
    local name = ("%0" .. digits .. "d%s"):format(i, path:match "%.%w+$" or "")
    local out = assert(io.open(directory .. "/" .. name, "wb"))
    assert(out:write(M.apply(bytes, variant)))
    assert(out:close())
    print(name, variant.must_fail and "must fail" or "may pass", variant.name)
  end
end

if arg and arg[0] and arg[0]:find "damage%.lua$" then
  assert(arg[2], "usage: damage.lua FILE DIRECTORY [COUNT [SEED]]")
  main(table.unpack(arg, 1, 4))
end

return M
