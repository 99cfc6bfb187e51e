---What tensors do in terms of other operations, and functions that make them. Everything here is a function of `ml`
---and, where the first argument is a tensor, a method. Axes are 1-based, -1 is the last.
local core = require "moonlet.core"
local util = require "moonlet.util"

local ml, methods = core.ops, core.methods
local raw_tensor, raw_arange, raw_from_bytes = core.make_tensor, ml.arange, ml.from_bytes

local axis_of, whole_slice = util.axis_of, util.whole_slice

local function is_operand(x) return ml.is_tensor(x) or type(x) == "number" or type(x) == "boolean" end

-- What operations take beside a tensor: another, or a number.
local function operand(what, x)
  if not is_operand(x) then util.unexpected(what, "a tensor or a number", x) end
  return x
end

-- One axis or count, or a list of them, as a list; nil stays.
local function list_of(what, x)
  if type(x) == "number" then return {x} end
  return x ~= nil and util.list(what, x, "an integer or a list of them") or x
end

-- The axes that an argument names, each once, as a set; nil stays.
local function axes_of(name, axes, ndim)
  if axes == nil then return nil end
  local set = {}
  for _, a in ipairs(list_of(name .. ": axes", axes)) do
    a = axis_of(a, ndim)
    if set[a] then util.raise("usage", "%s: axis %d is named twice", name, a) end
    set[a] = true
  end
  return set
end

-- Makes a device the default one until the result is closed; raises for one that is not there.
local function on_device(opts) return opts.device and core.on(core.device(opts.device).name) end

-- ---- making ----

---A tensor of numbers, booleans, or nested lists of them; a tensor gives a copy of it. Integers are int32, with any
---float float32, booleans bool. A number that an integer dtype does not hold is an error, a fraction too; one
---beyond a float dtype is an infinity.
---@param values any
---@param opts table|nil  {dtype, device}
---@return moonlet.Tensor
function ml.tensor(values, opts)
  opts = util.options(opts, {dtype = false, device = false}, "tensor")
  if ml.is_tensor(values) then
    local x = values:astype(opts.dtype or values.dtype)
    return opts.device and opts.device ~= x.device and x:to(opts.device) or x:copy()
  end
  local _ <close> = on_device(opts)
  return raw_tensor(values, opts.dtype)
end

---A tensor of the little-endian values in a string, row-major. "mismatch" when the string's length does not fit.
---@param bytes string
---@param shape integer[]
---@param dtype string
---@return moonlet.Tensor
function ml.from_bytes(bytes, shape, dtype) return raw_from_bytes(bytes, shape, dtype) end

---One value everywhere.
---@param shape integer[]|integer
---@param value number|boolean|moonlet.Tensor
---@param opts table|nil  {dtype, device}
---@return moonlet.Tensor
function ml.full(shape, value, opts)
  opts = util.options(opts, {dtype = false, device = false}, "full")
  local _ <close> = on_device(opts)
  shape = util.shape("full: shape", shape)
  if not is_operand(value) then util.unexpected("full: value", "a number, a boolean or a tensor", value) end
  local x = ml.is_tensor(value) and value or raw_tensor(value, opts.dtype)
  if opts.dtype then x = x:astype(opts.dtype) end
  return x:broadcast_to(shape):copy()
end

local function filled(name, value)
  return function(shape, opts)
    return ml.full(shape, value, util.options(opts, {dtype = "float32", device = false}, name))
  end
end
---Zeros, float32 unless `dtype` says otherwise.
---@type fun(shape: integer[]|integer, opts: table|nil): moonlet.Tensor
ml.zeros = filled("zeros", 0)
---Ones, float32 unless `dtype` says otherwise.
---@type fun(shape: integer[]|integer, opts: table|nil): moonlet.Tensor
ml.ones = filled("ones", 1)

local function check_finite(what, n)
  if type(n) ~= "number" or n ~= n or math.abs(n) == math.huge then util.unexpected(what, "a finite number", n) end
end

-- a // b of 64 bits without sign.
local function unsigned_quotient(a, b)
  if b < 0 then return math.ult(a, b) and 0 or 1 end
  local q = (a >> 1) // b << 1
  return math.ult(a - q * b, b) and q or q + 1
end

-- How many numbers there are from start up to stop.
local function count_of(start, stop, step)
  local up = step > 0
  if up and start >= stop or not up and start <= stop then return 0 end
  local count
  if math.type(start) == "integer" and math.type(stop) == "integer" and math.type(step) == "integer" then
    local far = up and stop - start or start - stop -- wraps into the bits of the unsigned distance
    count = unsigned_quotient(far - 1, up and step or -step) + 1
  else
    count = math.tointeger(math.ceil((stop - start) / step))
  end
  if count and count > 0 then return count end
  util.raise("usage", "arange: from %s to %s by %s there are too many numbers", start, stop, step)
end

local function holds_in_int32(n) return n >= -(1 << 31) and n < 1 << 31 end

---0, 1 .. n-1 (`arange(n)`), or from start up to, not including, stop. Of integers int32, or int64 where int32 does not
---hold them all; of floats float32, each of them start + i step in float64 first. An integer `dtype` that does not hold
---them is an error.
---@param start number
---@param stop number|nil
---@param step number|nil  1 unless given; may be negative
---@param opts table|nil  {dtype, device}
---@return moonlet.Tensor
function ml.arange(start, stop, step, opts)
  if type(stop) == "table" then stop, opts = nil, stop end
  if type(step) == "table" then step, opts = nil, step end
  if stop == nil then start, stop = 0, start end
  step = step or 1
  opts = util.options(opts, {dtype = false, device = false}, "arange")
  local _ <close> = on_device(opts)
  check_finite("arange: start", start)
  check_finite("arange: stop", stop)
  check_finite("arange: step", step)
  if step == 0 then util.raise("usage", "arange: a step of 0") end
  local count = count_of(start, stop, step)
  local whole = math.type(start) == "integer" and math.type(step) == "integer"
  if whole then
    local small = count == 0 or holds_in_int32(start) and holds_in_int32(start + (count - 1) * step)
    local default = math.type(stop) == "float" and "float32" or small and "int32" or "int64"
    return raw_arange(start, step, count, opts.dtype or default)
  end
  local x = raw_arange(0, 1, count, "float64") * (step + 0.0) + (start + 0.0)
  local dtype = opts.dtype or "float32"
  local whole_dtype = type(dtype) == "string" and (dtype:find "int" or dtype == "bool")
  if whole_dtype and count > 0 then
    for _, i in ipairs {0, math.min(count, 2) - 1, count - 1} do -- raises
      raw_tensor(start + i * step, dtype):close()
    end
  end
  return x:astype(dtype)
end

---n numbers from first to last, both included; float32.
---@param first number
---@param last number
---@param n integer|nil  50 unless given
---@return moonlet.Tensor
function ml.linspace(first, last, n)
  util.number("linspace: first", first)
  util.number("linspace: last", last)
  n = util.integer("linspace: n", n or 50, 0)
  if n < 2 then return ml.full({n}, first + 0.0) end
  local steps = ml.arange(n, {dtype = "float64"}) / (n - 1)
  return (steps * last + (1 - steps) * first):astype "float32"
end

---The identity matrix: (n, m), ones where row and column are equal.
---@param n integer
---@param m integer|nil  n unless given
---@param opts table|nil  {dtype}
---@return moonlet.Tensor
function ml.eye(n, m, opts)
  if type(m) == "table" then m, opts = nil, m end
  opts = util.options(opts, {dtype = "float32"}, "eye")
  n, m = util.integer("eye: n", n, 0), util.integer("eye: m", m or n, 0)
  return ml.arange(n):reshape {n, 1}:eq(ml.arange(m)):astype(opts.dtype)
end

-- true where column - row <= k
local function below(n, m, k) return (ml.arange(m) - ml.arange(n):reshape {n, 1}):le(k) end

local function matrix_sizes(x, name)
  if x.ndim < 2 then util.raise("mismatch", "%s: expected at least 2 axes, found %d", name, x.ndim) end
  return x.shape[x.ndim - 1], x.shape[x.ndim]
end

---A matrix (n, m) of ones on and below diagonal k, zeros above; float32.
---@param n integer
---@param m integer|nil  n unless given
---@param k integer|nil  0 unless given; 1 is the diagonal above
---@return moonlet.Tensor
function ml.tri(n, m, k)
  n, m = util.integer("tri: n", n, 0), util.integer("tri: m", m or n, 0)
  return below(n, m, util.integer("tri: k", k or 0)):astype "float32"
end

---The last two axes with zeros above diagonal k.
---@param k integer|nil  0 unless given
---@return moonlet.Tensor
function methods.tril(x, k)
  local n, m = matrix_sizes(x, "tril")
  return ml.where(below(n, m, util.integer("tril: k", k or 0)), x, ml.zeros({}, {dtype = x.dtype}))
end

---The last two axes with zeros below diagonal k.
---@param k integer|nil  0 unless given
---@return moonlet.Tensor
function methods.triu(x, k)
  local n, m = matrix_sizes(x, "triu")
  k = math.max(util.integer("triu: k", k or 0), -n) -- nothing lies below the lowest
  return ml.where(below(n, m, k - 1), ml.zeros({}, {dtype = x.dtype}), x)
end

-- ---- shape ----

---Axes first to last as one.
---@param first integer|nil  1 unless given
---@param last integer|nil  -1 unless given
---@return moonlet.Tensor
function methods.flatten(x, first, last)
  if x.ndim == 0 then return x:reshape {1} end
  first, last = axis_of(first or 1, x.ndim), axis_of(last or -1, x.ndim)
  if first > last then util.raise("usage", "flatten: axis %d comes after axis %d", first, last) end
  local shape, size = {}, 1
  for i, n in ipairs(x.shape) do
    if i >= first and i <= last then size = size * n end
    if i < first or i > last then shape[#shape + 1] = n
    elseif i == last then shape[#shape + 1] = size end
  end
  return x:reshape(shape)
end

---One axis as several of the sizes given, one of which may be -1.
---@param axis integer
---@param shape integer[]
---@return moonlet.Tensor
function methods.unflatten(x, axis, shape)
  axis = axis_of(axis, x.ndim)
  util.list("unflatten: shape", shape, "a list of sizes")
  local known, sizes = 1, table.move(shape, 1, #shape, 1, {})
  for _, n in ipairs(sizes) do known = known * (n == -1 and 1 or n) end
  for i, n in ipairs(sizes) do
    if n == -1 and known > 0 and x.shape[axis] % known == 0 then sizes[i] = x.shape[axis] // known end
  end
  local out = {}
  for i, n in ipairs(x.shape) do
    if i == axis then table.move(sizes, 1, #sizes, #out + 1, out) else out[#out + 1] = n end
  end
  return x:reshape(out)
end

---Without axes of size 1: those named, or all.
---@param axes integer|integer[]|nil
---@return moonlet.Tensor
function methods.squeeze(x, axes)
  local gone, shape = axes_of("squeeze", axes, x.ndim), {}
  for i, n in ipairs(x.shape) do
    if gone and gone[i] and n ~= 1 then util.raise("usage", "squeeze: axis %d has size %d", i, n) end
    if gone and not gone[i] or not gone and n ~= 1 then shape[#shape + 1] = n end
  end
  return x:reshape(shape)
end

---With axes of size 1 at the places that they have in the result.
---@param axes integer|integer[]
---@return moonlet.Tensor
function methods.expand_dims(x, axes)
  axes = list_of("expand_dims: axes", axes)
  if not axes then util.unexpected("expand_dims: axes", "an integer or a list of them", axes) end
  local ndim, shape, from = x.ndim + #axes, {}, 1
  local new = axes_of("expand_dims", axes, ndim)
  for i = 1, ndim do
    if new[i] then shape[i] = 1 else shape[i], from = x.shape[from], from + 1 end
  end
  return x:reshape(shape)
end

---Two axes exchanged.
---@param a integer
---@param b integer
---@return moonlet.Tensor
function methods.swapaxes(x, a, b)
  a, b = axis_of(a, x.ndim), axis_of(b, x.ndim)
  local order = {}
  for i = 1, x.ndim do order[i] = i end
  order[a], order[b] = b, a
  return x:transpose(order)
end

---One axis moved to another place, the others keeping their order.
---@param from integer
---@param to integer
---@return moonlet.Tensor
function methods.moveaxis(x, from, to)
  from, to = axis_of(from, x.ndim), axis_of(to, x.ndim)
  local order = {}
  for i = 1, x.ndim do
    if i ~= from then order[#order + 1] = i end
  end
  table.insert(order, to, from)
  return x:transpose(order)
end

---The same values in row-major storage of their own.
---@return moonlet.Tensor
function methods.contiguous(x) return x:copy() end

---Parts along an axis, a list: n equal ones, or parts that end at the positions given (inclusive; the last part is the
---rest).
---@param parts integer|integer[]
---@param axis integer|nil  1 unless given
---@return moonlet.Tensor[]
function methods.split(x, parts, axis)
  axis = axis_of(axis or 1, x.ndim)
  local size, ends = x.shape[axis], {}
  if type(parts) == "number" then
    parts = util.integer("split: parts", parts, 1)
    if size % parts ~= 0 then
      util.raise("usage", "split: size %d does not divide into %s parts", size, util.text(parts))
    end
    for i = 1, parts - 1 do ends[i] = i * (size // parts) end
  else
    util.list("split: parts", parts, "a count or a list of positions")
    table.move(parts, 1, #parts, 1, ends)
  end
  ends[#ends + 1] = size
  local out, from = {}, 0
  for i, to in ipairs(ends) do
    to = math.tointeger(to)
    if not to or to < from or to > size then
      util.raise("usage", "split: expected rising positions up to %d, found %s", size, util.text(ends[i]))
    end
    out[i] = x:slice(whole_slice(x.ndim, axis, to > from and {from + 1, to} or {1, 0}))
    from = to
  end
  return out
end

---Tensors of one shape joined along a new axis.
---@param tensors moonlet.Tensor[]
---@param axis integer|nil  the place of the new axis, 1 unless given
---@return moonlet.Tensor
function ml.stack(tensors, axis)
  util.list("stack", tensors, "a list of tensors")
  local out = {}
  for i = 1, #tensors do
    local t = tensors[i]
    if not ml.is_tensor(t) then util.unexpected(("stack: entry %d"):format(i), "a tensor", t) end
    if table.concat(t.shape, ",") ~= table.concat(tensors[1].shape, ",") then
      util.raise("mismatch", "stack: expected shape (%s), found (%s)", table.concat(tensors[1].shape, ", "),
        table.concat(t.shape, ", "))
    end
    out[i] = t:expand_dims(axis or 1)
  end
  return ml.concat(out, axis or 1)
end

---In reverse order along the axes named, or all.
---@param axes integer|integer[]|nil
---@return moonlet.Tensor
function methods.flip(x, axes)
  local turned, ranges = axes_of("flip", axes, x.ndim), {}
  for d = 1, x.ndim do ranges[d] = turned and not turned[d] and {} or {-1, 1, -1} end
  return x:slice(ranges)
end

---Moved by `shift` places along an axis, what leaves at one end coming in at the other; of the flattened values without
---one.
---@param shift integer
---@param axis integer|nil
---@return moonlet.Tensor
function methods.roll(x, shift, axis)
  shift = util.integer("roll: shift", shift)
  if not axis then return x:flatten():roll(shift, 1):reshape(x.shape) end
  axis = axis_of(axis, x.ndim)
  local n = x.shape[axis]
  local at = n > 0 and shift % n or 0
  if at == 0 then return util.value_of(x) end
  local parts = x:split({n - at}, axis)
  return ml.concat({parts[2], parts[1]}, axis)
end

-- x repeated `count` times along an axis, by a broadcast of an axis of its own.
local function repeated(x, axis, count)
  local before, after, shape = 1, 1, x.shape
  for d = 1, x.ndim do
    if d < axis then before = before * shape[d] elseif d > axis then after = after * shape[d] end
  end
  local n = shape[axis]
  shape[axis] = n * count
  return x:reshape({before, 1, n, after}):broadcast_to({before, count, n, after}):reshape(shape)
end

---Repeated as a whole: counts for the last axes.
---@param counts integer|integer[]
---@return moonlet.Tensor
function methods.tile(x, counts)
  counts = list_of("tile: counts", counts)
  if not counts then util.unexpected("tile: counts", "an integer or a list of them", counts) end
  for i, count in ipairs(counts) do util.integer(("tile: count %d"):format(i), count, 0) end
  while x.ndim < #counts do x = x:expand_dims(1) end
  for d, count in ipairs(counts) do x = repeated(x, d - #counts + x.ndim, count) end
  return #counts > 0 and x or util.value_of(x)
end

---Each entry n times in a row along an axis; of the flattened values without one.
---@param n integer
---@param axis integer|nil
---@return moonlet.Tensor
function methods.repeat_interleave(x, n, axis)
  n = util.integer("repeat_interleave: n", n, 0)
  if not axis then return x:flatten():repeat_interleave(n, 1) end
  axis = axis_of(axis, x.ndim)
  local shape, before, after = x.shape, 1, 1
  for d = 1, axis do before = before * shape[d] end
  for d = axis + 1, x.ndim do after = after * shape[d] end
  shape[axis] = shape[axis] * n
  return x:reshape {before, 1, after}:broadcast_to {before, n, after}:reshape(shape)
end

---Edges of `value` around it.
---@param widths integer[]|integer[][]  one pair {before, after} for all axes, or a list of as many pairs as axes
---@param value number|nil  0 unless given
---@return moonlet.Tensor
function methods.pad(x, widths, value)
  local expected = "{before, after}, or such a pair an axis"
  util.list("pad: widths", widths, expected)
  if type(widths[1]) ~= "table" then widths = {widths} end
  if #widths ~= 1 and #widths ~= x.ndim then
    util.raise("usage", "pad: widths: expected %s, found %d pairs for %d axes", expected, #widths, x.ndim)
  end
  x = util.value_of(x)
  for d = 1, x.ndim do
    local w = util.list("pad: widths", widths[d] or widths[1], expected)
    local parts, shape = {}, x.shape
    if #w > 2 then util.raise("usage", "pad: widths: expected %s, found %d entries", expected, #w) end
    for _, part in ipairs {w[1] or 0, false, w[2] or 0} do
      if not part then parts[#parts + 1] = x
      elseif util.integer("pad: a width", part, 0) > 0 then
        shape[d] = part
        parts[#parts + 1] = ml.full(shape, value or 0, {dtype = x.dtype})
      end
    end
    if #parts > 1 then x = ml.concat(parts, d) end
  end
  return x
end

---Of a vector the matrix that has it on diagonal k, of a matrix its diagonal k.
---@param k integer|nil  0 unless given; 1 is the diagonal above
---@return moonlet.Tensor
function methods.diag(x, k)
  k = util.integer("diag: k", k or 0)
  if x.ndim == 1 then
    local n = x.size + math.abs(k)
    local on = (ml.arange(n) - ml.arange(n):reshape {n, 1}):eq(k)
    local row = x:pad {math.max(k, 0), math.max(-k, 0)} -- entry j stands in column j
    return ml.where(on, row, ml.zeros({}, {dtype = x.dtype}))
  end
  if x.ndim ~= 2 then util.raise("mismatch", "diag: expected 1 or 2 axes, found %d", x.ndim) end
  local rows, columns = x.shape[1], x.shape[2]
  local n = math.min(rows + math.min(k, 0), columns - math.max(k, 0))
  local first = k >= 0 and k or -k * columns
  if n <= 0 then return x:flatten():slice {{1, 0}} end
  return x:flatten():slice {{first + 1, first + (n - 1) * (columns + 1) + 1, columns + 1}}
end

---Heads apart: (B, T, n d) -> (B, n, T, d).
---@param n integer
---@return moonlet.Tensor
function methods.split_heads(x, n)
  local s = x.shape
  n = util.integer("split_heads: n", n, 1)
  if #s ~= 3 then util.raise("mismatch", "split_heads: expected 3 axes (B, T, n d), found %d", #s) end
  if s[3] % n ~= 0 then
    util.raise("mismatch", "split_heads: shape (%s) does not divide into %d heads", table.concat(s, ", "), n)
  end
  return x:reshape {s[1], s[2], n, s[3] // n}:transpose {1, 3, 2, 4}
end

---Heads together: (B, n, T, d) -> (B, T, n d).
---@return moonlet.Tensor
function methods.merge_heads(x)
  local s = x.shape
  if #s ~= 4 then util.raise("mismatch", "merge_heads: expected 4 axes, found %d", #s) end
  return x:transpose {1, 3, 2, 4}:reshape {s[1], s[3], s[2] * s[4]}
end

-- ---- arithmetic ----

---Not below low and not above high; either may be nil.
---@param low number|moonlet.Tensor|nil
---@param high number|moonlet.Tensor|nil
---@return moonlet.Tensor
function methods.clip(x, low, high)
  if low ~= nil then x = ml.maximum(x, operand("clip: low", low)) end
  if high ~= nil then x = ml.minimum(x, operand("clip: high", high)) end
  return low == nil and high == nil and util.value_of(ml.is_tensor(x) and x or raw_tensor(x)) or x
end

---x to the power y.
---@return moonlet.Tensor
function methods.power(x, y) return ml.pow(x, operand("power: y", y)) end

local largest = {float16 = 65504.0, bfloat16 = 0x1.fep127, float32 = 0x1.fffffep127, float64 = 0x1.fffffffffffffp1023}
---NaN and infinities replaced: 0 and the dtype's largest and smallest numbers unless given.
---@param nan number|nil
---@param high number|nil  for infinity
---@param low number|nil  for minus infinity
---@return moonlet.Tensor
function methods.nan_to_num(x, nan, high, low)
  local most = largest[x.dtype]
  if not most then return util.value_of(x) end
  local infinite, negative = x:eq(math.huge), x:eq(-math.huge) -- of x itself: what stands for NaN stays
  local y = ml.where(infinite, high or most, ml.where(negative, low or -most, x))
  return ml.where(x:isnan(), nan or 0.0, y)
end

-- Giles 2010, "Approximating the erfinv function", single precision; highest power first.
local CENTRE = {2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
  -0.00417768164, 0.246640727, 1.50140941}
local TAIL = {-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
  0.00943887047, 1.00167406, 2.83297682}
local function polynomial(coefficients, x)
  local sum = x * coefficients[1] + coefficients[2]
  for i = 3, #coefficients do sum = sum * x + coefficients[i] end
  return sum
end

---Inverse of the error function, to about 1e-6 of the value; infinite at -1 and 1, NaN beyond.
---@return moonlet.Tensor
function methods.erfinv(x)
  local dtype, wide = util.common_dtype("erfinv", x)
  if not dtype:find "float" then dtype, wide = "float32", "float32" end
  x = util.in_dtype(x, wide)
  local w = -((1 - x) * (1 + x)):log()
  local near = polynomial(CENTRE, w - 2.5) * x
  local far = polynomial(TAIL, w:sqrt() - 3.0) * x
  if wide == "float64" then -- whose numbers come nearer to 1 than the polynomials go
    far = ml.normal_quantile((1 - x:abs()) / 2) * -math.sqrt(0.5) * x:sign()
  end
  return util.in_dtype(ml.where(x:abs():eq(1), x * math.huge, ml.where(w:lt(5.0), near, far)), dtype)
end

---The device or dtype named: x:to "float16", x:to "cpu".
---@param what string
---@return moonlet.Tensor
function methods.to(x, what)
  if type(what) ~= "string" then util.unexpected("to", "a dtype or a device", what) end
  if what == x.device then return x.layout == "strided" and util.value_of(x) or x end
  if core.is_open(what) or what:find "^cuda" then return core.to(x, what) end -- raises for a GPU that is not there
  if not core.is_dtype(what) then util.unexpected("to", "a dtype or a device", what) end
  return x:astype(what)
end

---Values of a quantised or packed weight as float32.
---@return moonlet.Tensor
function methods.dequantize(w)
  if w.ndim == 3 and #w > 0 then
    local experts = {}
    for i = 1, #w do experts[i] = w[i]:dequantize() end
    return ml.stack(experts)
  end
  if w.ndim ~= 2 then
    util.raise("mismatch", "dequantize: expected 2 axes, or 3 with experts, found %d", w.ndim)
  end
  return ml.embedding(w.layout == "strided" and core.pack(w) or w, ml.arange(w.shape[1]))
end

---A weight (outputs, inputs) in the layout that products on its device read fastest, the same values: `linear`,
---`linear_transposed`, `embedding`, `dequantize`, `unpack` and reading take it, every other operation refuses it.
---Values of blocks are read from what `dequantize` gives. Of float32, bfloat16 or float16, or of blocks as a file has
---them. One of (experts, outputs, inputs) is what `gather_linear` reads: `dequantize`, `unpack` and reading take it
---too, and `w[i]` is the i-th expert's matrix, in the same storage.
---@param opts table|nil  {precision = "exact"}: "fast" lets products round what they multiply with quantised weights
---@return moonlet.Tensor
function methods.pack(w, opts)
  opts = util.options(opts, {precision = "exact"}, "pack")
  if opts.precision ~= "exact" and opts.precision ~= "fast" then
    util.unexpected("pack: precision", '"exact" or "fast"', opts.precision)
  end
  return core.pack(w, opts.precision == "exact")
end

---A packed weight in the layout that it had before: floats, or a file's blocks.
---@return moonlet.Tensor
function methods.unpack(w)
  return core.unpack(w)
end

-- A cache's state is made where it is first appended to, once for all plans; what a user's function makes with each
-- call a replay would not make.
local function make_state(...)
  if core.recording() then
    util.raise("usage", "state: a plan is recorded, which would make it once and not again: make it before")
  end
  return core.make_state(...)
end

---A copy of x in storage of its own, which `assign` and in-place operations write. `assign` to a view of it writes the
---part that the view shows, and where an operation had nothing to do (`astype` to the dtype that x has) what it gave is
---such a view; the view keeps the values that it showed, and an in-place operation on it changes that handle alone.
---@return moonlet.Tensor
function methods.state(x) return make_state(x) end

---A copy of x in storage of its own, which `assign` and in-place operations write. `state(shape, dtype)` is one of
---zeros, all of which counts as memory, and is taken from the system as it is written.
---@param x moonlet.Tensor|integer[]
---@param dtype string|nil  of zeros: "float32" unless given
---@return moonlet.Tensor
function ml.state(x, dtype) return make_state(x, dtype) end

-- Softmax over any axis; kernels know the last.
for _, name in ipairs {"softmax", "log_softmax"} do
  local last = ml[name]
  methods[name] = function(x, axis)
    if not axis or axis == -1 then return last(x) end
    axis = axis_of(axis, x.ndim)
    if axis == x.ndim then return last(x) end
    return last(x:swapaxes(axis, -1)):swapaxes(axis, -1)
  end
  ml[name] = methods[name]
end

require "moonlet.indexing"
require "moonlet.einsum"

-- ---- in place ----

-- x:add_(y) gives the handle x another value of the same shape and dtype; views and copies taken before keep theirs.
local function in_place(name, fn)
  methods[name .. "_"] = util.hands_to(function(x, ...)
    local value = fn(x, ...)
    if value.dtype ~= x.dtype then value = value:astype(x.dtype) end
    return core.rebind(x, value)
  end, fn)
end
local made_elsewhere = {astype = true, copy = true, where = true}
for _, op in ipairs(core.op_list()) do
  if (op.kind == "unary" or op.kind == "binary") and not made_elsewhere[op.name] then in_place(op.name, ml[op.name]) end
end
local composed = {"clip", "power", "nan_to_num", "erfinv", "slice_update", "scatter", "scatter_add", "put_along_axis"}
for _, name in ipairs(composed) do
  in_place(name, methods[name])
end

-- What takes a list is no method.
for _, name in ipairs {"concat", "stack", "einsum", "arange"} do methods[name] = nil end

-- Methods as functions take a plain number for their tensor; these go by its value, so that the dtype of what it meets
-- counts, all others by the tensor that `ml.tensor` makes of it.
local takes_number = {power = true, clip = true}
for name, fn in pairs(methods) do
  if core.source(fn) then
    local function method(x, ...)
      x = operand(name .. ": x", x)
      if not takes_number[name] and not ml.is_tensor(x) then x = raw_tensor(x) end
      return fn(x, ...)
    end
    methods[name] = util.hands_to(method, fn)
    if ml[name] == fn then ml[name] = methods[name] end
  end
end
util.guard(methods, "", false, true)
util.guard(ml, "", false, true)
for name, fn in pairs(methods) do
  if rawget(ml, name) == nil and not name:find "_$" then ml[name] = fn end
end

return ml
