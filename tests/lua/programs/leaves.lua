-- leaves.lua: what a program begins with: tensors, weights and states, as data that makes them.
--
-- A leaf is {id, shape, dtype, seed, style, n, views, wrap, precision}: numbers that follow from `seed` in a base
-- shape, seen through `views` ({name, arguments} each), and packed (for products of that precision) or made a state by
-- `wrap`. One whose dtype is a block format is a weight as files have them, packed or not.
local core = require "moonlet.core"
local ml = require "moonlet"

local M = {}

-- Also printed at the head of a program that failed.
M.FILL = [[
-- Numbers from a seed: "small" eighths or integers, "unit" 0 to 1, "index" 0 to n-1, "wild" with what is no number.
local function fill(shape, dtype, seed, style, n)
  local odd = {0.0, -0.0, 1 / 0, -1 / 0, 0 / 0, 100.0, -0.001, 0.5}
  local is_float, unsigned = dtype:find "float", dtype:find "^u"
  local size, x, list = 1, seed * 2654435761 + 12345 & 0x7fffffff, {}
  for _, d in ipairs(shape) do size = size * d end
  local n_own = math.min(size, 2053) -- then they come again
  for i = 1, n_own do
    x = (x * 1103515245 + 12345) & 0x7fffffff
    local k = x >> 12
    if dtype == "bool" then list[i] = k % 2 == 0
    elseif style == "index" then list[i] = k % n
    elseif not is_float then list[i] = unsigned and k % 40 or k % 40 - 20
    elseif style == "unit" then list[i] = (k % 64) / 64
    elseif style == "wild" and k % 5 == 0 then list[i] = odd[k // 5 % #odd + 1]
    else list[i] = (k % 64 - 32) / 16 end
  end
  if size == 0 then return ml.zeros(shape, {dtype = dtype}) end
  local y = ml.tensor(list, {dtype = dtype})
  if size == n_own then return y:reshape(shape) end
  local bytes = y:tobytes()
  return ml.from_bytes(bytes:rep(size // n_own + 1):sub(1, #bytes // n_own * size), shape, dtype)
end
-- A weight in blocks, whose scales differ from block to block.
local function quantised(shape, format, seed)
  local texts, parts, outputs, inputs = {}, {}, 1, shape[#shape]
  for k = 1, #shape - 1 do outputs = outputs * shape[k] end
  for k = 1, 3 do
    local w <close> = core.random_packed(format, outputs, inputs, 0.0625 * k, seed + k, true)
    texts[k] = w:tobytes()
  end
  local n = outputs * inputs // (format:find "_k$" and 256 or 32)
  local size = n > 0 and #texts[1] // n or 0
  for i = 1, n do parts[i] = texts[(i ~ i >> 1) % 3 + 1]:sub((i - 1) * size + 1, i * size) end
  return ml.from_bytes(table.concat(parts), shape, format)
end
-- An affine weight (codes of so many bits; groups, whose scales are of that dtype).
local function affine(shape, bits, group, dtype, seed)
  local words, groups = {table.unpack(shape)}, {table.unpack(shape)}
  words[#shape], groups[#shape] = shape[#shape] * bits // 32, shape[#shape] // group
  local scales = fill(groups, dtype, seed, "small") * (1 / (8 << bits))
  local biases = fill(groups, dtype, seed + 1, "small") / 8
  local codes, n, x, size = {}, 1, seed, 1
  for _, d in ipairs(words) do size = size * d end
  for i = 1, math.min(size, 2053) do
    x = x * 6364136223846793005 + 1442695040888963407
    codes[i], n = string.pack("<I4", x >> 32), i
  end
  local text = table.concat(codes):rep(size // n + 1):sub(1, 4 * size)
  local w <close> = core.pack_affine(ml.from_bytes(text, words, "uint32"), scales, biases, bits, group, true)
  return core.unpack(w)
end
]]

local makers = "local ml, core = ...\n" .. M.FILL .. "return fill, quantised, affine"
local fill, quantised, affine = load(makers, "=fill")(ml, core)

-- Bits, group and dtype of the scales where the leaf is an affine weight.
local function affine_of(leaf)
  local bits, group, dtype = leaf.dtype:match "^affine(%d+)_(%d+)_(%w+)$"
  if bits then return math.tointeger(bits), math.tointeger(group), dtype end
end

---Whether the leaf is a weight in a block format.
function M.in_blocks(leaf) return leaf.dtype:find "^q%d_" ~= nil or affine_of(leaf) ~= nil end

---The leaf's values as a tensor of storage; another `variant` has others.
function M.values(leaf, variant)
  local seed = leaf.seed + (variant or 0) * 7919
  local bits, group, scales = affine_of(leaf)
  if bits then return affine(leaf.shape, bits, group, scales, seed) end
  if M.in_blocks(leaf) then return quantised(leaf.shape, leaf.dtype, seed) end
  local x = fill(leaf.shape, leaf.dtype, seed, leaf.style, leaf.n)
  ml.eval(x)
  for _, view in ipairs(leaf.views or {}) do x = x[view[1]](x, table.unpack(view, 2)) end
  return x
end

---What programs use: the handle.
function M.make(leaf, variant)
  local x = M.values(leaf, variant)
  if leaf.wrap == "pack" then return ml.pack(x, {precision = leaf.precision}) end
  if leaf.wrap == "state" then return core.make_state(x) end -- while programs are made, too
  ml.eval(x)
  return x
end

-- ---- as Lua ----

local function literal(x)
  if type(x) == "table" then
    if x.ref then return "x" .. x.ref end
    local parts, done = {}, #x
    for i = 1, done do parts[i] = literal(x[i]) end
    local names = {}
    for k in pairs(x) do
      if math.type(k) ~= "integer" or k < 1 or k > done then names[#names + 1] = k end
    end
    table.sort(names)
    for _, k in ipairs(names) do parts[#parts + 1] = k .. " = " .. literal(x[k]) end
    return "{" .. table.concat(parts, ", ") .. "}"
  end
  if x == math.huge then return "math.huge" elseif x == -math.huge then return "-math.huge" end
  if type(x) == "number" and x ~= x then return "0 / 0" end
  if math.type(x) == "float" then
    local text = ("%.17g"):format(x)
    return text:find "[.e]" and text or text .. ".0"
  end
  return type(x) == "string" and ("%q"):format(x) or tostring(x)
end
M.literal = literal

local function arguments(list, from)
  local out = {}
  for i = from, list.n or #list do out[#out + 1] = literal(list[i]) end
  return table.concat(out, ", ")
end
M.arguments = arguments

---The leaf as an expression.
function M.text(leaf)
  local text = ("fill(%s, %q, %d, %q%s)"):format(literal(leaf.shape), leaf.dtype, leaf.seed, leaf.style,
    leaf.n and ", " .. leaf.n or "")
  local bits, group, scales = affine_of(leaf)
  if bits then text = ("affine(%s, %d, %d, %q, %d)"):format(literal(leaf.shape), bits, group, scales, leaf.seed)
  elseif M.in_blocks(leaf) then
    text = ("quantised(%s, %q, %d)"):format(literal(leaf.shape), leaf.dtype, leaf.seed)
  end
  for _, view in ipairs(leaf.views or {}) do text = ("%s:%s(%s)"):format(text, view[1], arguments(view, 2)) end
  local option = leaf.precision and (", {precision = %q}"):format(leaf.precision) or ""
  return leaf.wrap and ("ml.%s(%s%s)"):format(leaf.wrap, text, option) or text
end

return M
