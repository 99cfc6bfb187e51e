---Looking up, writing and ordering entries. Indices in tensors and tables are data: 0-based.
local core = require "moonlet.core"
local util = require "moonlet.util"

local ml, methods = core.ops, core.methods
local axis_of = util.axis_of
local raw_take, raw_take_along = ml.take, ml.take_along_axis
local raw_put_along, raw_scatter_add = ml.put_along_axis, ml.scatter_add

-- A table of indices as a tensor.
local function indices(index)
  if type(index) == "table" then return ml.tensor(index, {dtype = "int32"}) end
  return index
end

-- Values for a write into x: numbers and smaller shapes broadcast, other dtypes are converted. Plain numbers are put
-- into x's dtype as they are, which must hold them; fractions are lost in integers.
local function values_for(x, values, shape)
  if not ml.is_tensor(values) then values = core.make_tensor(values, x.dtype, true) end
  if values.dtype ~= x.dtype then values = values:astype(x.dtype) end
  return values:broadcast_to(shape)
end

---Entry at 1-based positions: x:at(i, j) is x[i][j].
---@param ... integer
---@return moonlet.Tensor
function methods.at(x, ...)
  for axis, i in ipairs {...} do
    local part = x[util.integer(("at: position %d"):format(axis), i)]
    if part == nil then util.raise("usage", "at: index %d is out of range for size %d", i, #x) end
    x = part
  end
  return select("#", ...) > 0 and x or util.value_of(x)
end

---Entries of x along an axis at 0-based `index`, a tensor, a table or a number; the axis is replaced by index's shape.
---@param index moonlet.Tensor|table|integer
---@param axis integer|nil  1 unless given
---@return moonlet.Tensor
function methods.take(x, index, axis) return raw_take(x, indices(index), axis) end
ml.take = methods.take

---Per position, the entry of x along `axis` that `index` (0-based, as many axes as x) names.
---@param index moonlet.Tensor|table
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function methods.take_along_axis(x, index, axis) return raw_take_along(x, indices(index), axis) end
ml.take_along_axis = methods.take_along_axis

---The same as take_along_axis.
---@param index moonlet.Tensor|table
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function methods.gather(x, index, axis) return methods.take_along_axis(x, index, axis or -1) end

---x with `values` written along `axis` at 0-based `index` (as many axes as x); of an index named twice the last value
---stays.
---@param index moonlet.Tensor|table
---@param values moonlet.Tensor|number  broadcast to index's shape
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function methods.put_along_axis(x, index, values, axis)
  index = indices(index)
  return raw_put_along(x, index, values_for(x, values, index.shape), axis or -1)
end
ml.put_along_axis = methods.put_along_axis

---The same as put_along_axis.
---@param index moonlet.Tensor|table
---@param values moonlet.Tensor|number
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function methods.scatter(x, index, values, axis) return methods.put_along_axis(x, index, values, axis) end

---x with `values` added along `axis` at 0-based `index`; entries named twice get both.
---@param index moonlet.Tensor|table
---@param values moonlet.Tensor|number  broadcast to index's shape
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function methods.scatter_add(x, index, values, axis)
  index = indices(index)
  return raw_scatter_add(x, index, values_for(x, values, index.shape), axis or -1)
end
ml.scatter_add = methods.scatter_add

-- The place of every entry in row-major order, in x's shape.
local function places(x)
  return ml.arange(x.size, {dtype = x.size < 1 << 31 and "int32" or "int64"}):reshape(x.shape)
end

---x with the entries of a slice replaced.
---@param ranges table  as of slice: {first, last, step} for each axis, 1-based, inclusive
---@param values moonlet.Tensor|number  broadcast to the slice's shape
---@return moonlet.Tensor
function methods.slice_update(x, ranges, values)
  local at = places(x):slice(ranges)
  values = values_for(x, values, at.shape)
  return raw_put_along(x:flatten(), at:reshape {-1}, values:reshape {at.size}, 1):reshape(x.shape)
end

---Entries of x's row-major values at offset + i1 stride1 + i2 stride2 + ..; a copy.
---@param shape integer[]
---@param strides integer[]|nil  in elements; those of row-major order unless given
---@param offset integer|nil  in elements, 0 unless given
---@return moonlet.Tensor
function methods.as_strided(x, shape, strides, offset)
  shape = util.shape("as_strided: shape", shape)
  if strides and #util.list("as_strided: strides", strides) ~= #shape then
    util.raise("usage", "as_strided: %d strides for %d axes", #strides, #shape)
  end
  local first = util.integer("as_strided: offset", offset or 0)
  local at, step, least, most = ml.full({}, first, {dtype = "int64"}), 1, first + 0.0, first + 0.0
  local count = 1.0
  for d = #shape, 1, -1 do
    local n, sizes = shape[d], {}
    local stride = util.integer(("as_strided: stride %d"):format(d), strides and strides[d] or step)
    for i = 1, #shape do sizes[i] = i == d and n or 1 end
    at = at + (ml.arange(n, {dtype = "int64"}) * stride):reshape(sizes)
    local reach = (n - 1.0) * stride
    least, most = least + math.min(reach, 0.0), most + math.max(reach, 0.0)
    step, count = step * n, count * n
  end
  if count > 0 and (least < 0 or most >= x.size) then
    util.raise("usage", "as_strided: entries %.0f to %.0f of %d", least, most, x.size)
  end
  return raw_take(x:flatten(), at, 1)
end

-- ---- order ----

-- Raises unless an axis has an entry k.
local function check_place(name, x, k, axis)
  util.integer(name .. ": k", k, 0, x.shape[axis_of(axis, x.ndim)] - 1)
end

---Values along an axis in an order in which entry k (0-based) is where sorting would put it: sorted, here. A k that the
---axis does not have is an error.
---@param k integer
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function methods.partition(x, k, axis)
  check_place("partition", x, k, axis or -1)
  return ml.sort(x, axis or -1)
end

---0-based indices of `partition`.
---@param k integer
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function methods.argpartition(x, k, axis)
  check_place("argpartition", x, k, axis or -1)
  return ml.argsort(x, axis or -1)
end

-- A table of values to look for in x: in x's own float dtype, as plain numbers are; beside integers as integers where
-- they are such.
local function sought(x, values)
  if x.dtype:find "float" then return ml.tensor(values, {dtype = x.dtype}) end
  local whole, list = pcall(ml.tensor, values, {dtype = "int64"})
  return whole and list or ml.tensor(values, {dtype = "float64"})
end

---Where values would have to go into x (one axis, ascending, NaN last) to keep its order: the number of smaller
---entries, int32 (int64 where that does not hold their number). Plain numbers, and those of a table, are compared as
---they are.
---@param values moonlet.Tensor|table|number
---@param opts table|nil  {right = false}: behind equal entries
---@return moonlet.Tensor
function methods.searchsorted(x, values, opts)
  opts = util.options(opts, {right = false}, "searchsorted")
  if x.ndim ~= 1 then util.raise("mismatch", "searchsorted: expected 1 axis, found %d", x.ndim) end
  if type(values) == "table" then values = sought(x, values) end
  local behind -- NaN is behind all numbers, and beside its like
  if ml.is_tensor(values) then
    values = values:expand_dims(-1)
    behind = values:isnan()
  elseif type(values) == "number" or type(values) == "boolean" then behind = core.make_tensor(values ~= values, "bool")
  else util.unexpected("searchsorted: values", "a tensor or a number", values) end
  local before = opts.right and x:le(values) or x:lt(values)
  if not opts.right then behind = behind:logical_and(x:isnan():logical_not()) end
  before = before:logical_or(behind)
  return before:sum(-1):astype(#x > 2 ^ 31 - 1 and "int64" or "int32")
end

---The different values in ascending order, for each entry of x the 0-based index of its value, and how often each
---comes (int32). Reads x; NaN is one value.
---@return moonlet.Tensor values
---@return moonlet.Tensor inverse  in x's shape
---@return moonlet.Tensor counts
function methods.unique(x)
  local flat = x:flatten()
  local order, values = flat:argsort(1):tolist(), flat:tolist()
  local inverse, first, counts = {}, {}, {}
  for i, at in ipairs(order) do
    local v, last = values[at + 1], i > 1 and values[order[i - 1] + 1]
    if i == 1 or not (v == last or (v ~= v and last ~= last)) then
      first[#first + 1], counts[#counts + 1] = at, 0
    end
    counts[#counts] = counts[#counts] + 1
    inverse[at + 1] = #first - 1
  end
  local function ints(list) return ml.tensor(list, {dtype = "int32"}) end
  return raw_take(flat, ints(first), 1), ints(inverse):reshape(x.shape), ints(counts)
end

return ml
