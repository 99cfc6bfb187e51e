-- compare.lua: what values are, whether two have the same bits, and the failure that is raised where they have not.
local ml = require "moonlet"

local M = {}

-- Bytes of a NaN's pattern of each float dtype: mask of what is all ones, mask of what is not all zeros.
local nans = {float16 = {"<I2", 2, 0x7c00, 0x3ff}, bfloat16 = {"<I2", 2, 0x7f80, 0x7f},
  float32 = {"<I4", 4, 0x7f800000, 0x7fffff}, float64 = {"<i8", 8, 0x7ff0000000000000, 0xfffffffffffff}}

-- The same bytes with one NaN for all.
function M.canonical(bytes, dtype)
  local n = nans[dtype]
  if not n then return bytes end
  local out = {}
  for i = 1, #bytes, n[2] do
    local bits = string.unpack(n[1], bytes, i)
    out[#out + 1] = bits & n[3] == n[3] and bits & n[4] ~= 0 and "nan" or bytes:sub(i, i + n[2] - 1)
  end
  return table.concat(out)
end

function M.observe(x)
  return {dtype = x.dtype, dims = x.shape, shape = table.concat(x.shape, ","), bytes = x:tobytes()}
end

local function equal(a, b)
  if a.dtype ~= b.dtype or a.shape ~= b.shape then return false end
  return a.bytes == b.bytes or M.canonical(a.bytes, a.dtype) == M.canonical(b.bytes, b.dtype)
end

local function text(list)
  if type(list) ~= "table" then return type(list) == "number" and ("%.9g"):format(list) or tostring(list) end
  local parts = {}
  for i, x in ipairs(list) do
    if i > 40 then
      parts[i] = "..."
      break
    end
    parts[i] = text(x)
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

function M.show(o)
  if o.dtype:find "^q" or o.dtype:find "^affine" then return ("%s (%s)"):format(o.dtype, o.shape) end
  local x <close> = ml.from_bytes(o.bytes, o.dims, o.dtype)
  return ("%s (%s) %s"):format(o.dtype, o.shape, text(x:tolist()))
end

local Failure = {__tostring = function(f) return f.message end}

---What is raised where `what` is wrong in that way of running.
function M.failure(mode, what, message)
  return setmetatable({mode = mode, what = what, message = message}, Failure)
end

function M.is_failure(err) return getmetatable(err) == Failure end

function M.fail(mode, what, format, ...)
  error(M.failure(mode, what, ("%s: %s: %s"):format(mode, what, format:format(...))), 0)
end

function M.expect(mode, what, got, want)
  if not want then M.fail(mode, what, "there is nothing to compare it with") end
  if not equal(got, want) then M.fail(mode, what, "expected %s, found %s", M.show(want), M.show(got)) end
end

-- ---- what was when ----

---The value that a history of {instruction, value} had after instruction i.
function M.at(history, i)
  local value
  for _, entry in ipairs(history or {}) do
    if entry[1] <= i then value = entry[2] end
  end
  return value
end

---States are what they were after instruction i.
function M.expect_states(mode, w, seen, i)
  for _, id in ipairs(w.states) do
    M.expect(mode, "state x" .. id, M.observe(w.handles[id]), M.at(seen.states[id], i))
  end
end

return M
