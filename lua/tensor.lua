---What tensors do in terms of other operations, and functions that make them. Everything here is a function of `ml` and, where
---the first argument is a tensor, a method.
local core = require "moonlet.core"
local util = require "moonlet.util"

local ml, methods = core.ops, core.methods
local raw_tensor = ml.tensor

-- 1-based, -1 the last -> 1-based
local function axis_of(axis, ndim)
  local a = math.tointeger(axis) or 0
  if a < 0 then a = a + ndim + 1 end
  if a < 1 or a > ndim then util.raise("usage", "axis %s is out of range for %d axes", tostring(axis), ndim) end
  return a
end

local function sizes(...)
  local first = ...
  if type(first) == "table" then return first end
  return {...}
end

---A tensor of numbers, booleans, or nested lists of them; a tensor gives a copy of it.
---@param values any
---@param opts table|nil  {dtype = "float32", device = nil}
function ml.tensor(values, opts)
  opts = util.options(opts, {dtype = false, device = false}, "tensor")
  if ml.is_tensor(values) then return values:astype(opts.dtype or values.dtype):copy() end
  return raw_tensor(values, opts.dtype)
end

-- One value everywhere.
function ml.full(shape, value, opts)
  opts = util.options(opts, {dtype = false, device = false}, "full")
  local x = ml.is_tensor(value) and value or raw_tensor(value, opts.dtype)
  return x:broadcast_to(shape):copy()
end
function ml.zeros(shape, opts) return ml.full(shape, 0, {dtype = opts and opts.dtype or "float32"}) end
function ml.ones(shape, opts) return ml.full(shape, 1, {dtype = opts and opts.dtype or "float32"}) end

local arange = ml.arange
---0, 1 .. n-1, or from start up to, not including, stop.
function ml.arange(start, stop, step, opts)
  if stop == nil then start, stop = 0, start end
  step = step or 1
  if step == 0 then util.raise("usage", "arange: a step of 0") end
  local count = math.max(0, math.ceil((stop - start) / step))
  local whole = math.type(start) == "integer" and math.type(stop) == "integer" and math.type(step) == "integer"
  local dtype = opts and opts.dtype or (whole and "int32" or "float32")
  return arange(start + 0.0, step + 0.0, math.tointeger(count), dtype)
end

---n numbers from first to last, both included.
function ml.linspace(first, last, n)
  n = n or 50
  if n == 1 then return raw_tensor {first + 0.0} end
  return ml.arange(n):astype("float32") * ((last - first) / (n - 1)) + first
end

function ml.eye(n, m, opts)
  m = m or n
  return ml.arange(n):reshape {n, 1}:eq(ml.arange(m)):astype(opts and opts.dtype or "float32")
end

-- mask(n, m, k) is true where column - row <= k
local function below(n, m, k) return (ml.arange(m) - ml.arange(n):reshape {n, 1}):le(k) end

---A matrix of ones on and below diagonal k.
function ml.tri(n, m, k) return below(n, m or n, k or 0):astype "float32" end
function methods.tril(x, k)
  return ml.where(below(x.shape[x.ndim - 1], x.shape[x.ndim], k or 0), x, ml.zeros({}, {dtype = x.dtype}))
end
function methods.triu(x, k)
  return ml.where(below(x.shape[x.ndim - 1], x.shape[x.ndim], (k or 0) - 1), ml.zeros({}, {dtype = x.dtype}), x)
end

-- Shape.
function methods.flatten(x, first, last)
  if x.ndim == 0 then return x:reshape {1} end
  first, last = axis_of(first or 1, x.ndim), axis_of(last or -1, x.ndim)
  local shape, size = {}, 1
  for i, n in ipairs(x.shape) do
    if i >= first and i <= last then size = size * n end
    if i < first or i > last then shape[#shape + 1] = n
    elseif i == last then shape[#shape + 1] = size end
  end
  return x:reshape(shape)
end

function methods.unflatten(x, axis, shape)
  axis = axis_of(axis, x.ndim)
  local out = {}
  for i, n in ipairs(x.shape) do
    if i == axis then table.move(shape, 1, #shape, #out + 1, out) else out[#out + 1] = n end
  end
  return x:reshape(out)
end

function methods.squeeze(x, axes)
  local gone = {}
  if type(axes) == "number" then axes = {axes} end
  for _, a in ipairs(axes or {}) do
    a = axis_of(a, x.ndim)
    if x.shape[a] ~= 1 then util.raise("usage", "squeeze: axis %d has size %d", a, x.shape[a]) end
    gone[a] = true
  end
  local shape = {}
  for i, n in ipairs(x.shape) do
    if not (gone[i] or (not axes and n == 1)) then shape[#shape + 1] = n end
  end
  return x:reshape(shape)
end

function methods.expand_dims(x, axes)
  if type(axes) == "number" then axes = {axes} end
  local ndim, new, shape, from = x.ndim + #axes, {}, {}, 1
  for _, a in ipairs(axes) do new[axis_of(a, ndim)] = true end
  for i = 1, ndim do
    if new[i] then shape[i] = 1 else shape[i], from = x.shape[from], from + 1 end
  end
  return x:reshape(shape)
end

function methods.swapaxes(x, a, b)
  a, b = axis_of(a, x.ndim), axis_of(b, x.ndim)
  local order = {}
  for i = 1, x.ndim do order[i] = i end
  order[a], order[b] = b, a
  return x:transpose(order)
end

function methods.moveaxis(x, from, to)
  from, to = axis_of(from, x.ndim), axis_of(to, x.ndim)
  local order = {}
  for i = 1, x.ndim do
    if i ~= from then order[#order + 1] = i end
  end
  table.insert(order, to, from)
  return x:transpose(order)
end

function methods.contiguous(x) return x:copy() end

---Parts along an axis: n equal ones, or ends at the given 0-based positions. A list.
function methods.split(x, parts, axis)
  axis = axis_of(axis or 1, x.ndim)
  local size, ends = x.shape[axis], {}
  if type(parts) == "number" then
    if parts < 1 or parts > math.max(size, 1) or size % parts ~= 0 then util.raise("usage", "split: size %d does not divide into %d parts", size, parts) end
    for i = 1, parts - 1 do ends[i] = i * (size // parts) end
  else
    table.move(parts, 1, #parts, 1, ends)
  end
  ends[#ends + 1] = size
  local out, from = {}, 0
  for i, to in ipairs(ends) do
    local ranges = {}
    for d = 1, x.ndim do ranges[d] = {} end
    ranges[axis] = {from + 1, to}
    out[i] = x:slice(ranges)
    from = to
  end
  return out
end

function ml.stack(tensors, axis)
  local out = {}
  for i, t in ipairs(tensors) do out[i] = t:expand_dims(axis or 1) end
  return ml.concat(out, axis or 1)
end

function methods.flip(x, axes)
  if type(axes) == "number" then axes = {axes} end
  local ranges = {}
  for d = 1, x.ndim do ranges[d] = axes and {} or {-1, 1, -1} end
  for _, a in ipairs(axes or {}) do ranges[axis_of(a, x.ndim)] = {-1, 1, -1} end
  return x:slice(ranges)
end

function methods.roll(x, shift, axis)
  if not axis then return x:flatten():roll(shift, 1):reshape(x.shape) end
  axis = axis_of(axis, x.ndim)
  local n = x.shape[axis]
  local at = n > 0 and shift % n or 0
  if at == 0 then return x end
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

function methods.tile(x, counts)
  counts = sizes(counts)
  while x.ndim < #counts do x = x:expand_dims(1) end
  for d, count in ipairs(counts) do x = repeated(x, d - #counts + x.ndim, count) end
  return x
end

function methods.repeat_interleave(x, n, axis)
  if not axis then return x:flatten():repeat_interleave(n, 1) end
  axis = axis_of(axis, x.ndim)
  local shape = x.shape
  table.insert(shape, axis + 1, n)
  return x:expand_dims(axis + 1):broadcast_to(shape):flatten(axis, axis + 1)
end

---Edges of `value`: widths is {before, after} for each axis, or one pair for all.
function methods.pad(x, widths, value)
  for d = 1, x.ndim do
    local w = type(widths[1]) == "table" and (widths[d] or {0, 0}) or widths
    local parts, shape = {}, x.shape
    for _, part in ipairs {w[1], false, w[2]} do
      if not part then parts[#parts + 1] = x
      elseif part > 0 then
        shape[d] = part
        parts[#parts + 1] = ml.full(shape, value or 0, {dtype = x.dtype})
      end
    end
    if #parts > 1 then x = ml.concat(parts, d) end
  end
  return x
end

---Entry at 1-based positions: x:at(i, j) is x[i][j].
function methods.at(x, ...)
  for _, i in ipairs {...} do
    local part = x[i]
    if part == nil then util.raise("usage", "at: index %s is out of range", tostring(i)) end
    x = part
  end
  return x
end

function methods.diag(x)
  if x.ndim == 1 then return ml.eye(x.size, nil, {dtype = x.dtype}) * x:reshape {x.size, 1} end
  local n = math.min(x.shape[1], x.shape[2])
  return x:flatten():slice {{1, (n - 1) * (x.shape[2] + 1) + 1, x.shape[2] + 1}}
end

-- Heads: (B, T, n * d) <-> (B, n, T, d).
function methods.split_heads(x, n)
  local s = x.shape
  if s[3] == nil or s[3] % n ~= 0 then util.raise("mismatch", "split_heads: shape does not divide into %d heads", n) end
  return x:reshape {s[1], s[2], n, s[3] // n}:transpose {1, 3, 2, 4}
end
function methods.merge_heads(x)
  local s = x.shape
  return x:transpose {1, 3, 2, 4}:reshape {s[1], s[3], s[2] * s[4]}
end

-- Arithmetic.
function methods.clip(x, low, high)
  if low then x = ml.maximum(x, low) end
  return high and ml.minimum(x, high) or x
end
function methods.power(x, y) return x ^ y end
function methods.var(x, axis, keepdims, ddof)
  local mean = x:mean(axis, true)
  local n = x.size // math.max(1, mean.size)
  return (x - mean):square():sum(axis, keepdims) / (n - (ddof or 0))
end
function methods.std(x, axis, keepdims, ddof) return x:var(axis, keepdims, ddof):sqrt() end
function methods.norm(x, axis, keepdims) return x:square():sum(axis, keepdims):sqrt() end
function methods.nan_to_num(x, nan, high, low)
  x = ml.where(x:isnan(), nan or 0.0, x)
  x = ml.where(x:eq(math.huge), high or 3.4028234663852886e38, x)
  return ml.where(x:eq(-math.huge), low or -3.4028234663852886e38, x)
end
function methods.outer(x, y) return x:reshape {x.size, 1} * y:reshape {1, y.size} end
function methods.inner(x, y) return (x * y):sum(-1) end
function methods.addmm(c, a, b, alpha, beta) return a:matmul(b) * (alpha or 1) + c * (beta or 1) end

function methods.gather(x, index, axis) return x:take_along_axis(index, axis or -1) end

---The k largest along the last axis, in descending order: values, 0-based indices.
function methods.topk(x, k, axis)
  axis = axis_of(axis or -1, x.ndim)
  local order = (-x):argsort(axis)
  local ranges = {}
  for d = 1, x.ndim do ranges[d] = {} end
  ranges[axis] = {1, k}
  local best = order:slice(ranges)
  return x:take_along_axis(best:copy(), axis), best
end

function methods.to(x, what)
  if what == x.device then return x end
  return x:astype(what)
end

---Values of a quantised or packed weight as float32.
function methods.dequantize(w)
  local packed = core.is_packed(w) and w or core.pack(w)
  return ml.embedding(packed, ml.arange(w.shape[1]))
end

-- In-place forms give the handle's variable a new value: x = x:add_(y).
for _, name in ipairs {"add", "sub", "mul", "div", "maximum", "minimum"} do
  methods[name .. "_"] = function(x, y) return ml[name](x, y) end
end

util.guard(methods, "")
util.guard(ml, "")
for name, fn in pairs(methods) do
  if ml[name] == nil and not name:find "_$" then ml[name] = fn end
end

return ml
