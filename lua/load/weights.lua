---Weights into the parameters of a net: from a file, or random ones of the same shapes.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local compile = require "moonlet.compile"
local trace = require "moonlet.trace"
local util = require "moonlet.util"

local M = {}

local function shape_text(shape) return "(" .. table.concat(shape, ", ") .. ")" end
local function same_shape(a, b) return table.concat(a, ",") == table.concat(b, ",") end

-- The flag that a cancel raised has become an error.
local function raise_cancelled()
  core.take_cancel()
  util.raise("cancelled", "cancelled")
end

---Raises where a cancel is waiting.
function M.poll()
  if core.cancelled() then raise_cancelled() end
end

local float_types = {float32 = true, float16 = true, bfloat16 = true, float64 = true}

-- Values of a vector (norms, biases) as float32.
local function vector(source, path, tensor, name)
  if not float_types[tensor.dtype] then
    util.raise("mismatch", "%s: %s: expected a float dtype, found %s", source.path, name, tensor.dtype)
  end
  local values = compile.scope(function()
    local x = tensor:astype "float32"
    if source.norm_offset and path:match "norm%.weight$" then x = x - source.norm_offset end
    ml.eval(x)
    return x
  end)
  if values ~= tensor then tensor:close() end
  return values
end

-- The block format that a matrix is rounded to, or nil where it stays as it is: a width that no block divides stays
-- dense.
local function format_for(opts, inputs)
  local q = opts.quantize
  return q and inputs % q.group_size == 0 and q.format or nil
end

-- How one parameter is read from its tensor: packed for products, else as float32.
local function read_parameter(source, owner, key, spec, path, entry, opts)
  local name = entry.name
  if not same_shape(entry.shape, spec.shape) then
    util.raise("mismatch", "%s: %s: expected shape %s, found %s", source.path, name, shape_text(spec.shape),
      shape_text(entry.shape))
  end
  local matrix = spec.kind == "matrix"
  local quantize = matrix and format_for(opts, spec.shape[#spec.shape])
  if quantize and not float_types[entry.dtype] then
    util.raise("unsupported", "%s: %s: quantize: expected float weights, found %s", source.path, name, entry.dtype)
  end
  local tensor, message, code = source.file:load(name, {
    packed = matrix, exact = opts.precision == "exact", heads = entry.heads, quantize = quantize,
  })
  if code == "cancelled" then raise_cancelled() end
  if not tensor then util.raise(code, "%s: %s", source.path, message) end
  rawset(owner, key, matrix and tensor or vector(source, path, tensor, name))
end

local function ignored(family, name)
  for _, pattern in ipairs(family.ignore or {}) do
    if name:find(pattern) then return true end
  end
  return false
end

local MOST_FREQUENCIES = 1 << 16 -- of a table that is looked at

-- How far apart two numbers are that a dtype holds as one.
local rounding = {float32 = 2.0 ^ -20, float16 = 2.0 ^ -10, bfloat16 = 2.0 ^ -7}

-- Whether a table of rotary frequencies, as older files have them, is one that the net computes anyway.
local function is_computed(net, source, entry)
  local near = rounding[entry.dtype] or rounding.float32
  local values = compile.scope(function()
    local is_table = #entry.shape == 1 and entry.shape[1] <= MOST_FREQUENCIES and float_types[entry.dtype]
    local x = is_table and source.file:load(entry.name)
    return x and x:astype "float32":tolist()
  end)
  local function is(table_)
    local numbers = table_:tolist()
    for i, f in ipairs(numbers) do
      local same = values[i] and math.abs(values[i] - f) <= near * math.abs(f) + 2.0 ^ -24
      if not same then return false end
    end
    return #numbers == #values
  end
  local seen = {}
  for _, module in ipairs(values and net:named_modules() or {}) do
    local frequencies = rawget(module[2], "frequencies")
    if ml.is_tensor(frequencies) and not seen[frequencies] then
      if is(frequencies) then return true end
      seen[frequencies] = true
    end
  end
  return false
end

-- What belongs to no parameter is an error; what the family leaves out on purpose (the eyes of a model that reads text)
-- is told in the warning that comes back, but for rotary frequencies of older files, which are computed anyway.
local function check_leftover(net, family, source, used)
  local count, first, tables = 0, nil, {}
  for _, path in ipairs(util.sorted_keys(source.entries)) do
    local name = source.entries[path].name
    if not used[path] and not ignored(family, name) then
      util.raise("mismatch", "%s: tensor \"%s\" belongs to no parameter of family %s", source.path, name,
        family.model_types[1])
    elseif not used[path] and name:find "%.inv_freq$" then
      tables[#tables + 1] = source.entries[path]
    elseif not used[path] then
      count, first = count + 1, first or name
    end
  end
  local others = 0
  for _, entry in ipairs(tables) do
    if not is_computed(net, source, entry) then
      count, others, first = count + 1, others + 1, first or entry.name
    end
  end
  if count == 0 then return nil end
  local why = others == 0 and "" or ("; of these %d rotary frequencies that are not what it computes"):format(others)
  return ("%s: family %s leaves out %d tensor%s that its list `ignore` names, from \"%s\" on%s"):format(source.path,
    family.model_types[1], count, count > 1 and "s" or "", first, why)
end

-- A module that stands at two places of the net would hold what is read last.
local function check_place(places, source, owner, key, path)
  local known = places[owner] or {}
  if known[key] and source.entries[path] and source.entries[known[key]] then
    util.raise("mismatch", "%s: \"%s\" and \"%s\" are one parameter of the net, since a module stands at two of its " ..
      "places: the file has a tensor for each", source.path, source.entries[known[key]].name, source.entries[path].name)
  end
  known[key] = known[key] or path
  places[owner] = known
end

---Gives every parameter its value. source: {file, path, entries (module path -> entry), norm_offset}. Returns a warning
---where the family leaves tensors out.
function M.load(net, family, source, opts)
  local used, places, done, total = {}, {}, 0, 0
  -- All names first: a file that does not fit is refused before a byte is read.
  net:each_parameter(function(owner, key, spec, path)
    total = total + 1
    used[path] = true
    check_place(places, source, owner, key, path)
    if not source.entries[path] then
      util.raise("not_found", "%s: weight \"%s\" is missing: expected shape %s", source.path, source.name_of(path),
        shape_text(spec.shape))
    end
  end)
  local warning = check_leftover(net, family, source, used)
  net:each_parameter(function(owner, key, spec, path)
    read_parameter(source, owner, key, spec, path, source.entries[path], opts)
    done = done + 1
    if opts.progress then trace.callback(opts.progress, done / total, path) end
    M.poll()
  end)
  return warning
end

---Gives every parameter what another engine has published under a token.
function M.adopt(net, token)
  net:each_parameter(function(owner, key, spec, path)
    local tensor = util.must(core.take_shared(token, path))
    if not same_shape(tensor.shape, spec.shape) then
      util.raise("mismatch", "share: %s: expected shape %s, found %s: the weights are another model's", path,
        shape_text(spec.shape), shape_text(tensor.shape))
    end
    rawset(owner, key, tensor)
  end)
end

local HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
local COMPARED_ROWS = 4096

-- Whether two matrices of the file hold the same numbers.
local function same_numbers(source, a, b)
  if not same_shape(a.shape, b.shape) or #a.shape ~= 2 then return false end
  return compile.scope(function()
    local x, y = util.must(source.file:load(a.name)), util.must(source.file:load(b.name))
    for first = 1, a.shape[1], COMPARED_ROWS do
      local rows = {first, math.min(first + COMPARED_ROWS - 1, a.shape[1])}
      local same = ml.scope(function() return x:slice {rows}:eq(y:slice {rows}):all():item() end)
      if not same then return false end
      M.poll()
    end
    return true
  end)
end

---What becomes of a head in the file of a configuration that ties it to the embedding, as in the reference: a head
---alone is the embedding too; one that says the same is not kept twice; one that differs is used. Gives the
---head's name in the last case, where the net must have a head, else nil.
function M.unties(source, tied)
  local head, embedding = source.entries[HEAD], source.entries[EMBEDDING]
  if not tied or not head then return nil end
  if embedding and not same_numbers(source, head, embedding) then return head.name end
  source.entries[EMBEDDING], source.entries[HEAD] = embedding or head, nil
  return nil
end

-- A vector as it begins: of ones, zeros, or random numbers.
local function fresh_vector(spec, seed)
  local n = spec.shape[#spec.shape]
  local x = spec.init == "normal" and ml.random.normal(spec.shape, {key = ml.random.key(seed)}) * (n or 1) ^ -0.5
    or ml[spec.init](spec.shape)
  ml.eval(x)
  return x
end

---Random weights at true shapes: of deviation 1 / sqrt(inputs), norms near what leaves a vector as it is.
function M.random(net, opts)
  local seed, exact = opts.random, opts.precision == "exact"
  net:each_parameter(function(owner, key, spec)
    seed = seed + 1
    if spec.kind == "matrix" then
      local axes = #spec.shape
      local rows, inputs, experts = spec.shape[axes - 1], spec.shape[axes], axes > 2 and spec.shape[1] or nil
      local format = format_for(opts, inputs) or "bfloat16"
      rawset(owner, key, core.random_packed(format, rows, inputs, inputs ^ -0.5, seed, exact, experts))
    else
      rawset(owner, key, fresh_vector(spec, seed))
    end
    M.poll()
  end)
end

---What model.lua counts formats from: {dtype, bytes} of each matrix.
function M.formats(net)
  local list = {}
  net:each_parameter(function(_, _, tensor) list[#list + 1] = {dtype = tensor.dtype, bytes = tensor.nbytes} end)
  return list
end

return M
