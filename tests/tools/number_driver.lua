-- number_driver.lua IN OUT: evaluates one Lua expression a line and writes what it gives, a line each.
--
-- An expression sees `ml`, `unpack` and `T(dtype, shape, hex)`, a tensor of bytes. Several results are joined by |. A
-- tensor is written DTYPE;SHAPE;HEX, a number i;N or f;HEX (of a float64), a boolean b;true, a string s;HEX, a list as
-- [a|b], nothing as nil, and an error as !CODE;MESSAGE, or !!CODE;MESSAGE when it names another line: that of the
-- driver where values are read, for what only they can show.
-- tests/tools/compare_numbers.py writes IN and reads OUT; tests/lua/test_numbers.lua reads the functions.
local ml = require "moonlet"

local M = {}

local to_hex, from_hex = {}, {}
for i = 0, 255 do
  local text = ("%02x"):format(i)
  to_hex[string.char(i)], from_hex[text] = text, string.char(i)
end

local env = {ml = ml, math = math, unpack = table.unpack}

---A tensor of the bytes that a text of hexadecimal digits names.
function env.T(dtype, shape, hex) return ml.from_bytes(hex:gsub("%x%x", from_hex), shape, dtype) end

local function write(value)
  if ml.is_tensor(value) then
    return ("%s;%s;%s"):format(value.dtype, table.concat(value.shape, ","), (value:tobytes():gsub(".", to_hex)))
  elseif type(value) == "table" then
    local parts = {}
    for i, v in ipairs(value) do parts[i] = write(v) end
    return "[" .. table.concat(parts, "|") .. "]"
  elseif math.type(value) == "integer" then return "i;" .. value
  elseif math.type(value) == "float" then return "f;" .. ("<d"):pack(value):gsub(".", to_hex)
  elseif type(value) == "string" then return "s;" .. value:gsub(".", to_hex)
  elseif type(value) == "boolean" then return "b;" .. tostring(value) end
  return tostring(value)
end

local function write_all(...)
  local parts = {...}
  for i = 1, select("#", ...) do parts[i] = write(parts[i]) end
  return table.concat(parts, "|")
end

---What the expression gives, as one line of text.
function M.evaluate(expression)
  local result
  env.out = function(...) result = write_all(...) end -- called, so that the expression's own line is there for errors
  local fn, why = load("out(" .. expression .. ")", "=case", "t", env)
  if not fn then return "!syntax;" .. why end
  local passed, err = pcall(fn)
  if passed then return result end
  local message = tostring(err):gsub("\n", " ")
  local code = type(err) ~= "string" and err.code or "none"
  return (message:find "^case:1: " and "!" or "!!") .. code .. ";" .. message
end

function M.run(from, to)
  local input <close> = assert(io.open(from, "rb"))
  local output <close> = assert(io.open(to, "wb"))
  for line in input:lines() do output:write(M.evaluate(line), "\n") end
end

if arg and arg[0] and arg[0]:find "number_driver%.lua$" then M.run(arg[1], arg[2]) end
return M
