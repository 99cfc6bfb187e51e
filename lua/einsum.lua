---Sums of products: einsum and what it is made of, products of integers, convolution.
local core = require "moonlet.core"
local util = require "moonlet.util"

local ml, methods = core.ops, core.methods
local raw_matmul, in_dtype, index_of = ml.matmul, util.in_dtype, util.index_of

local function is_operand(x) return ml.is_tensor(x) or type(x) == "number" end
local function ndim_of(x) return type(x) == "number" and 0 or x.ndim end
local function axes_of(x) return type(x) == "number" and "" or table.concat(x.shape, ", ") end

---Matrix product over the last two axes, leading axes broadcast; a vector is a row on the left, a column on the right.
---Integers give integers (exact below 2^53), integers with floats floats.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function methods.matmul(a, b)
  if not (is_operand(a) and is_operand(b)) then return raw_matmul(a, b) end -- which says what it found
  if ndim_of(a) == 0 or ndim_of(b) == 0 then
    util.raise("mismatch", "matmul: expected one axis or more, found (%s) and (%s)", axes_of(a), axes_of(b))
  end
  if a.ndim == 1 or b.ndim == 1 then -- while the shapes are the caller's
    local na, nb = a.shape[a.ndim], b.shape[math.max(b.ndim - 1, 1)]
    if na ~= nb then
      util.raise("mismatch", "matmul: shapes (%s) and (%s): inner sizes %d and %d differ", table.concat(a.shape, ", "),
        table.concat(b.shape, ", "), na, nb)
    end
  end
  if a.ndim == 1 then return ml.matmul(a:expand_dims(1), b):squeeze(b.ndim == 1 and 1 or -2) end
  if b.ndim == 1 then return ml.matmul(a, b:expand_dims(2)):squeeze(-1) end
  local fa, fb = a.dtype:find "float", b.dtype:find "float"
  if fa and fb then return raw_matmul(a, b) end
  if fa then return raw_matmul(a, b:astype(a.dtype)) end
  if fb then return raw_matmul(a:astype(b.dtype), b) end
  local dtype = (ml.zeros({}, {dtype = a.dtype}) + ml.zeros({}, {dtype = b.dtype})).dtype
  return raw_matmul(a:astype "float64", b:astype "float64"):astype(dtype)
end
ml.matmul = methods.matmul

-- ---- labelled tensors: {x, labels}, a label (a letter) an axis ----

-- One axis a label: the diagonal of axes that share one.
local function diagonal(x, labels)
  local out = {}
  for _, label in ipairs(labels) do
    local first = index_of(out, label)
    if not first then out[#out + 1] = label
    else -- axes `first` and #out + 1 become one
      local at = #out + 1
      local n, shape = x.shape[first], {}
      if x.shape[at] ~= n then
        util.raise("mismatch", "einsum: %s stands for the sizes %d and %d", label, n, x.shape[at])
      end
      for d = 1, x.ndim do shape[d] = 1 end
      shape[first] = n
      local index = ml.arange(n):reshape(shape)
      local wide = x.shape
      wide[at] = 1
      x = ml.take_along_axis(x, index:broadcast_to(wide), at):squeeze(at)
    end
  end
  return x, out
end

-- Sums axes away whose label nobody needs.
local function drop(x, labels, needed)
  local axes, left = {}, {}
  for i, label in ipairs(labels) do
    if needed[label] then left[#left + 1] = label else axes[#axes + 1] = i end
  end
  if #axes > 0 then x = x:sum(axes) end
  return x, left
end

local function sizes_of(x, labels, sizes)
  for i, label in ipairs(labels) do
    local n = x.shape[i]
    if sizes[label] == nil or sizes[label] == 1 then sizes[label] = n
    elseif n ~= 1 and n ~= sizes[label] then
      util.raise("mismatch", "einsum: %s stands for the sizes %d and %d", label, sizes[label], n)
    end
  end
end

-- x with its axes in the order of `groups` (lists of labels), each group one axis. A missing label cannot be.
local function arrange(x, labels, sizes, groups)
  local order, full, shape = {}, {}, {}
  for g, group in ipairs(groups) do
    shape[g] = 1
    for _, label in ipairs(group) do
      order[#order + 1] = index_of(labels, label)
      full[#full + 1] = sizes[label]
      shape[g] = shape[g] * sizes[label]
    end
  end
  if x.ndim > 0 then x = x:transpose(order) end
  return x:broadcast_to(full):reshape(shape)
end

-- One product of two labelled tensors; labels in `needed` stay.
local function contract(a, la, b, lb, needed)
  local batch, rows, columns, inner, sizes = {}, {}, {}, {}, {}
  sizes_of(a, la, sizes)
  sizes_of(b, lb, sizes)
  for _, label in ipairs(la) do
    local list = not index_of(lb, label) and rows or needed[label] and batch or inner
    list[#list + 1] = label
  end
  for _, label in ipairs(lb) do
    if not index_of(la, label) then columns[#columns + 1] = label end
  end
  local left, right = arrange(a, la, sizes, {batch, rows, inner}), arrange(b, lb, sizes, {batch, inner, columns})
  local x = #inner > 0 and ml.matmul(left, right) or left * right -- exact for all integers
  local labels, shape = {}, {}
  for _, list in ipairs {batch, rows, columns} do
    for _, label in ipairs(list) do
      labels[#labels + 1] = label
      shape[#shape + 1] = sizes[label]
    end
  end
  return x:reshape(shape), labels
end

-- "ij...": letters in order; the axes of an ellipsis are named 8 .. 1, so that they align at the right.
local function read_labels(text, ndim, what)
  local labels, before = {}, text:find("...", 1, true)
  local letters = text:gsub("%.%.%.", "")
  if letters:find "[^%a]" then util.raise("usage", "einsum: %s: expected letters and one ..., found %s", what, text) end
  local rest = ndim and ndim - #letters or 0
  if rest < 0 or (rest > 0 and not before) then
    util.raise("mismatch", "einsum: %s: %d labels for %d axes", what, #letters, ndim)
  end
  for i = 1, #letters + 1 do
    if i == before then
      for d = rest, 1, -1 do labels[#labels + 1] = tostring(d) end
    end
    if i <= #letters then labels[#labels + 1] = letters:sub(i, i) end
  end
  return labels, before ~= nil
end

-- Without an arrow: the ellipsis, then the letters that stand once, in alphabetical order.
local function implied_output(terms)
  local count, letters = {}, {}
  for _, labels in ipairs(terms) do
    for _, label in ipairs(labels) do
      if not count[label] and label:find "%a" then letters[#letters + 1] = label end
      count[label] = (count[label] or 0) + 1
    end
  end
  table.sort(letters)
  local out = {}
  for d = 8, 1, -1 do
    if count[tostring(d)] then out[#out + 1] = tostring(d) end
  end
  for _, label in ipairs(letters) do
    if count[label] == 1 then out[#out + 1] = label end
  end
  return out
end

local function stated_output(text, terms)
  local widest, known = 0, {}
  for _, labels in ipairs(terms) do
    for _, label in ipairs(labels) do
      known[label] = true
      widest = math.max(widest, math.tointeger(label) or 0)
    end
  end
  local _, letters = text:gsub("%a", "")
  local ndim = text:find("...", 1, true) and letters + widest or letters
  local out, seen = read_labels(text, ndim, "the result"), {}
  for _, label in ipairs(out) do
    if seen[label] or not known[label] then
      util.raise("usage", "einsum: the result names %s %s", label, seen[label] and "twice" or "that no operand has")
    end
    seen[label] = true
  end
  return out
end

---Sums of products by labels: einsum("bij,bjk->bik", {a, b}). A letter names an axis; letters that the result does not
---name are summed over; without an arrow the result has the letters that stand once, in alphabetical order; `...`
---stands for leading axes that broadcast. Operands are multiplied in turn from the left, in the dtype that all of them
---meet at, which is the result's; for float16 and bfloat16 in float32, rounded once.
---@param equation string
---@param operands moonlet.Tensor[]
---@return moonlet.Tensor
function ml.einsum(equation, operands)
  if type(equation) ~= "string" then util.unexpected("einsum: equation", "a string", equation) end
  util.list("einsum: operands", operands, "a list of tensors, {a, b}")
  for i, x in ipairs(operands) do
    if not ml.is_tensor(x) then util.unexpected(("einsum: operand %d"):format(i), "a tensor", x) end
  end
  local left, right = equation:gsub("%s", ""):match "^([^>-]*)(.*)$"
  local terms, n = {}, 0
  for text in (left .. ","):gmatch "([^,]*)," do
    n = n + 1
    if not operands[n] then break end
    terms[n] = read_labels(text, operands[n].ndim, "operand " .. n)
  end
  if n ~= #operands then
    util.raise("usage", "einsum: \"%s\" names %d operands, %d were given", equation, n, #operands)
  end
  if right ~= "" and right:sub(1, 2) ~= "->" then
    util.raise("usage", "einsum: expected an equation, found \"%s\"", equation)
  end
  local output = right == "" and implied_output(terms) or stated_output(right:sub(3), terms)
  local dtype, wide = util.common_dtype("einsum", table.unpack(operands, 1, n))
  if dtype == "uint64" then wide = "int64" end -- the same bits, and small negative numbers stay small
  local x, labels
  for i = 1, n do
    local y, ly = diagonal(n > 1 and in_dtype(in_dtype(operands[i], dtype), wide) or operands[i], terms[i])
    local needed, later = {}, {} -- labels of the result and of operands to come
    for _, label in ipairs(output) do later[label] = true end
    for k = i + 1, n do
      for _, label in ipairs(terms[k]) do later[label] = true end
    end
    for label in pairs(later) do needed[label] = true end
    for _, label in ipairs(labels or {}) do needed[label] = true end
    y, ly = drop(y, ly, needed)
    if not x then x, labels = y, ly
    else
      local both = {}
      for label in pairs(later) do both[label] = true end
      for _, label in ipairs(ly) do both[label] = true end
      x, labels = drop(x, labels, both)
      x, labels = contract(x, labels, y, ly, later)
    end
  end
  local order = {}
  for i, label in ipairs(output) do order[i] = index_of(labels, label) end
  if #order > 0 then x = x:transpose(order) end
  return n > 1 and in_dtype(x, dtype) or x
end

-- The axes of one operand of tensordot, each once.
local function axis_list(axes, ndim, expected)
  local out = {}
  for i, axis in ipairs(util.list("tensordot: axes", axes, expected)) do
    out[i] = util.axis_of(axis, ndim)
    if index_of(out, out[i]) < i then util.raise("usage", "tensordot: axis %d is named twice", out[i]) end
  end
  return out
end

---Sum of products over pairs of axes: the last n of a with the first n of b, or {{axes of a}, {axes of b}}.
---@param b moonlet.Tensor
---@param axes integer|integer[][]|nil  2 unless given
---@return moonlet.Tensor
function methods.tensordot(a, b, axes)
  axes = axes or 2
  if not ml.is_tensor(b) then util.unexpected("tensordot: b", "a tensor", b) end
  local from, to = {}, {}
  if type(axes) == "number" then
    axes = util.integer("tensordot: axes", axes, 0, math.min(a.ndim, b.ndim))
    for i = 1, axes do from[i], to[i] = a.ndim - axes + i, i end
  else
    local expected = "a count, or a list of axes of each, {{1}, {2}}"
    util.list("tensordot: axes", axes, expected)
    if #axes ~= 2 then util.raise("usage", "tensordot: axes: expected two lists, found %d", #axes) end
    from, to = axis_list(axes[1], a.ndim, expected), axis_list(axes[2], b.ndim, expected)
    if #from ~= #to then util.raise("usage", "tensordot: %d axes against %d", #from, #to) end
  end
  local la, lb, needed = {}, {}, {}
  for d = 1, a.ndim do la[d] = "a" .. d end
  for d = 1, b.ndim do lb[d] = "b" .. d end
  for i = 1, #from do
    if a.shape[from[i]] ~= b.shape[to[i]] then
      util.raise("mismatch", "tensordot: axis %d of size %d, axis %d of size %d", from[i], a.shape[from[i]], to[i],
        b.shape[to[i]])
    end
    lb[to[i]] = la[from[i]]
  end
  return (contract(a, la, b, lb, needed))
end

---Products of all entries of x with all entries of y: (x.size, y.size).
---@param y moonlet.Tensor
---@return moonlet.Tensor
function methods.outer(x, y) return x:reshape {x.size, 1} * y:reshape {1, y.size} end

---Sum of products over the last axes of both.
---@param y moonlet.Tensor
---@return moonlet.Tensor
function methods.inner(x, y)
  if x.ndim == 0 or y.ndim == 0 then return x * y end
  return methods.tensordot(x, y, {{-1}, {-1}})
end

---alpha a b + beta c, a b being the matrix product; float16 and bfloat16 are computed in float32 and rounded once.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@param alpha number|nil  1 unless given
---@param beta number|nil  1 unless given
---@return moonlet.Tensor
function methods.addmm(c, a, b, alpha, beta)
  local dtype, wide = util.common_dtype("addmm", c, a, b)
  local half = wide ~= dtype
  if half then a, b, c = in_dtype(a, wide), in_dtype(b, wide), in_dtype(c, wide) end
  local x = ml.matmul(a, b)
  if alpha and alpha ~= 1 then x = x * alpha end
  x = x + (beta and beta ~= 1 and c * beta or c)
  return half and x:astype(dtype) or x
end

---Convolution along the middle axis: x (B, T, inputs), weight (outputs, width, inputs / groups) -> (B, T', outputs),
---with T' = (T + 2 padding - dilation (width - 1) - 1) // stride + 1. The weight is not reversed (cross-correlation).
---float16 and bfloat16 are computed in float32 and rounded once.
---@param weight moonlet.Tensor
---@param opts table|nil  {stride = 1, padding = 0, dilation = 1, groups = 1}
---@return moonlet.Tensor
function methods.conv1d(x, weight, opts)
  opts = util.options(opts, {stride = 1, padding = 0, dilation = 1, groups = 1}, "conv1d")
  for _, name in ipairs {"stride", "padding", "dilation", "groups"} do
    opts[name] = util.integer("conv1d: " .. name, opts[name], name == "padding" and 0 or 1)
  end
  if not ml.is_tensor(weight) then util.unexpected("conv1d: weight", "a tensor", weight) end
  if x.ndim ~= 3 or weight.ndim ~= 3 then
    util.raise("mismatch", "conv1d: expected 3 axes each, found %d and %d", x.ndim, weight.ndim)
  end
  local dtype, wide = util.common_dtype("conv1d", x, weight)
  if wide ~= dtype then x, weight = in_dtype(x, wide), in_dtype(weight, wide) end
  local groups, outputs, width = opts.groups, weight.shape[1], weight.shape[2]
  if x.shape[3] ~= weight.shape[3] * groups or outputs % groups ~= 0 then
    util.raise("mismatch", "conv1d: %d inputs and %d groups do not fit weight (%s)", x.shape[3], groups,
      table.concat(weight.shape, ", "))
  end
  if opts.padding > 0 then x = x:pad {{0, 0}, {opts.padding, opts.padding}, {0, 0}} end
  local reach = opts.dilation * (width - 1)
  local length = (x.shape[2] - reach - 1) // opts.stride + 1
  if length < 1 then
    util.raise("mismatch", "conv1d: width %d with dilation %d is longer than the input", width, opts.dilation)
  end
  local parts, weights = x:split(groups, 3), weight:split(groups, 1)
  for g = 1, groups do
    local sum
    for k = 1, width do
      local first = 1 + (k - 1) * opts.dilation
      local piece = parts[g]:slice {{}, {first, first + (length - 1) * opts.stride, opts.stride}}
      local w = weights[g]:slice {{}, {k, k}}:squeeze(2):transpose()
      local product = ml.matmul(piece, w)
      sum = sum and sum + product or product
    end
    parts[g] = sum
  end
  local y = groups == 1 and parts[1] or ml.concat(parts, 3)
  return wide ~= dtype and y:astype(dtype) or y
end

return ml
