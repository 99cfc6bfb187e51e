-- rows.lua: for each row of ops.def, how a program calls it.
--
-- rows[name](g) gives a call's arguments, references to what the program has and plain values, or nil where there is
-- nothing to call it with. `g` is the generator (generate.lua).
local rows = {}

local integers = {"int32", "int32", "int64", "uint8", "int8", "int16", "uint16", "uint32", "uint64"}
local narrow = {"float32", "float32", "float16", "bfloat16"} -- what products, attention and caches take
local all = {"float32", "float32", "float32", "float16", "bfloat16", "float64", "int32", "int64", "uint8", "int8",
  "int16", "uint16", "uint32", "uint64", "bool"}
rows.dtypes = all

local function is_float(x) return x.dtype:find "^b?float" ~= nil end
local function is_integer(x) return x.dtype:find "int" ~= nil end

-- ---- elementwise ----

function rows.astype(g) return {g:any(), g.random:pick(all)} end

local function binary(g, x)
  local random = g.random
  local kind = random:int(1, 8)
  if kind <= 2 then return {x, g:like(x)} end
  if kind == 3 then return {x, x} end
  if kind == 4 then return {x, g:broadcastable(x)} end
  if kind == 5 then return {g:broadcastable(x), x} end
  if kind == 6 then return {x, g:any()} end
  local number = is_float(x) and random:int(-8, 8) / 4 or random:int(x.dtype:find "^u" and 0 or -3, 5)
  if x.dtype == "bool" then number = random:int(0, 1) end
  if kind == 7 then return {x, number} end
  return {number, x}
end

local function on_integers(g) return binary(g, g:find(is_integer) or g:leaf(g:shape(), g.random:pick(integers))) end
for _, name in ipairs {"bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift"} do
  rows[name] = on_integers
end

function rows.where(g)
  local x = g:any()
  local pair = binary(g, x)
  local condition = g:find(function(c) return c.dtype == "bool" and g.fits(c, x) end) or g:leaf(x.shape, "bool")
  return {condition, pair[1], pair[2]}
end

-- ---- views ----

-- The sizes of x's elements in another shape.
local function reshaped(g, x)
  local random, size = g.random, x.size
  local shape = {}
  if random:chance(0.3) and x.ndim > 1 then -- rows of the last axis: what selections pass through
    local last = x.shape[x.ndim]
    local n = last > 0 and size // last or 0
    return random:pick {{n, last}, {1, n, last}, {n, 1, last}}
  end
  if size == 0 then return {0, random:int(0, 3)} end
  while size > 1 and #shape < 4 do
    local divisors = {}
    for d = 1, size do
      if size % d == 0 then divisors[#divisors + 1] = d end
    end
    local d = random:pick(divisors)
    shape[#shape + 1] = d
    size = size // d
  end
  if size > 1 or random:chance(0.2) then shape[#shape + 1] = size end
  return shape
end

function rows.reshape(g)
  local x = g:any()
  return {x, reshaped(g, x)}
end

function rows.transpose(g)
  local x = g:any()
  if g.random:chance(0.3) then return {x} end
  local axes = {}
  for i = 1, x.ndim do table.insert(axes, g.random:int(1, i), i) end
  return {x, axes}
end

function rows.broadcast_to(g)
  local x = g:any()
  local shape = x.shape
  for i, n in ipairs(shape) do
    if n == 1 then shape[i] = g.random:int(1, 4) end
  end
  if #shape < 5 and g.random:chance(0.5) then table.insert(shape, 1, g.random:int(1, 3)) end
  return {x, shape}
end

function rows.slice(g)
  local x, random = g:any(), g.random
  local ranges = {}
  for i = 1, x.ndim do
    local n, kind = x.shape[i], random:int(1, 6)
    if kind == 1 and n > 1 then ranges[i] = {random:int(1, n), random:int(1, n), random:pick {1, 2, -1, -2}}
    elseif kind == 2 then ranges[i] = {-1, 1, -1}
    elseif kind == 3 and n > 0 then
      local at = random:int(1, n)
      ranges[i] = {at, random:int(at, n)}
    else ranges[i] = {} end
  end
  return {x, ranges}
end

function rows.topk(g)
  local x = g:axes(1)
  local axis = g.random:int(1, x.ndim)
  return {x, g.random:int(0, math.min(5, x.dims[axis])), axis, result = g.random:int(1, 2)}
end

-- ---- reductions ----

local function axis_of(g, x, one)
  local random = g.random
  if random:chance(0.2) or x.ndim == 0 then return nil end
  if one or random:chance(0.7) then return random:chance(0.4) and -1 or random:int(1, x.ndim) end
  local axes = {}
  for i = 1, x.ndim do
    if random:chance(0.5) then axes[#axes + 1] = i end
  end
  return #axes > 0 and axes or nil
end

local function reduction(one, more)
  return function(g)
    local x = g:any()
    local opts = {axis = axis_of(g, x, one), keepdims = g.random:chance(0.5) or nil}
    if more then more(g, opts) end
    return next(opts) and {x, opts} or {x}
  end
end
for _, name in ipairs {"sum", "mean", "prod", "max", "min", "all", "any", "norm", "logsumexp"} do
  rows[name] = reduction(false)
end
rows.argmax, rows.argmin = reduction(true), reduction(true)
rows.var = reduction(false, function(g, opts) opts.ddof = g.random:pick {0, 1, 0.5} end)
rows.std = rows.var

local function along(g)
  local x = g:axes(1)
  return {x, g.random:chance(0.3) and -1 or g.random:int(1, x.ndim)}
end
for _, name in ipairs {"cumsum", "cumprod", "cummax", "cummin", "sort", "argsort"} do rows[name] = along end

-- ---- making, joining, indexing ----

function rows.arange(g)
  local first = g.random:int(-3, 6)
  local n = g.random:pick {1, 2, 3, 5, 8, 16}
  return {first, first + n, 1, {dtype = g.random:pick {"int32", "float32", "int64", "int8", "float64", "bfloat16"}}}
end

function rows.concat(g)
  local x = g:axes(1)
  local list = {x}
  for i = 2, g.random:int(2, 4) do list[i] = g.random:chance(0.3) and x or g:like(x) end
  return {list, g.random:int(1, x.ndim)}
end

-- Indices below n of a shape.
local function index(g, shape, n)
  local of = g:find(function(x) return x.bound and x.bound <= n and g.same(x.shape, shape) end)
  if of and g.random:chance(0.5) then return of end
  local whole = g:find(function(x) return is_integer(x) and g.same(x.shape, shape) and x.dtype ~= "uint64" end)
  if whole and n < 100 and g.random:chance(0.4) then -- computed ones
    whole = g:call("mod", {whole, n})
    if whole then
      whole.bound = n
      return whole
    end
  end
  return g:index(shape, n)
end

function rows.take(g)
  local x, random = g:axes(1), g.random
  local axis = random:chance(0.5) and 1 or random:int(1, x.ndim)
  local n = x.shape[axis]
  if n == 0 then return end
  local shape = random:pick {{1}, {1}, {random:int(1, n)}, {2}, {n}, {2, 2}, {}}
  return {x, index(g, shape, n), axis}
end

local function pointed(g)
  local x = g:axes(1)
  local axis = g.random:int(1, x.ndim)
  local shape = x.shape
  if shape[axis] == 0 then return end
  local n = shape[axis]
  shape[axis] = g.random:int(1, n)
  return x, axis, index(g, shape, n), shape
end

function rows.take_along_axis(g)
  local x, axis, at = pointed(g)
  return x and {x, at, axis}
end

local function putting(g)
  local x, axis, at, shape = pointed(g)
  return x and {x, at, g:of(shape, x.dtype), axis}
end
rows.put_along_axis, rows.scatter_add = putting, putting

-- ---- networks ----

local function last_axis(g) return {g:axes(1, is_float)} end
rows.softmax, rows.log_softmax = last_axis, last_axis

local function narrow_float(x) return is_float(x) and x.dtype ~= "float64" end

function rows.rms_norm(g)
  local x, random = g:axes(1, narrow_float), g.random
  local weight = random:chance(0.8) and g:leaf({x.shape[x.ndim]}, random:chance(0.8) and "float32" or "bfloat16")
  return {x, {weight = weight or nil, eps = random:pick {1e-5, 1e-6, 0.1}, offset = random:pick {0, 0, 1}}}
end

function rows.layer_norm(g)
  local x, random = g:axes(1, narrow_float), g.random
  local n = x.shape[x.ndim]
  return {x, {weight = random:chance(0.7) and g:leaf({n}, "float32") or nil,
    bias = random:chance(0.5) and g:leaf({n}, "float32") or nil, eps = random:pick {1e-5, 1e-3}}}
end

function rows.matmul(g)
  local x, random = g:axes(2, is_float), g.random
  local shape = x.shape
  local inner, n = shape[#shape], random:pick(g.sizes)
  local right = g:find(function(y) return is_float(y) and y.ndim >= 2 and y.shape[y.ndim - 1] == inner end)
  if not right or random:chance(0.5) then
    if random:chance(0.3) then right = g:call("transpose", {g:leaf({n, inner}, x.dtype)})
    else right = g:leaf({inner, n}, random:chance(0.7) and x.dtype or "float32") end
  end
  return {x, right}
end

function rows.linear(g)
  local x = g:axes(1, is_float)
  return {x, g:weight(x.shape[x.ndim], x.dtype)}
end

function rows.linear_transposed(g)
  local y = g:axes(1, function(x) return is_float(x) and x.dtype ~= "float64" end)
  local n = y.shape[y.ndim]
  local w = g:find_weight(function(w) return w.shape[1] == n end) or g:new_weight(n, g.random:pick(g.sizes))
  return {y, w}
end

function rows.embedding(g)
  local w = g:find_weight(function(w) return w.shape[1] > 0 end)
    or g:new_weight(g.random:int(2, 9), g.random:pick(g.sizes))
  local opts = g.random:chance(0.5) and {dtype = g.random:pick(narrow)} or nil
  return {w, index(g, g.random:pick {{1}, {3}, {1, 4}, {2, 2}}, w.shape[1]), opts}
end

-- Each row with several experts, or with its own. Few values of a program are of float16 and bfloat16.
function rows.gather_linear(g)
  local x = g:axes(1, is_float)
  if g.random:chance(0.4) and x.dtype ~= "float64" then x = g:of(x.shape, g.random:pick {"float16", "bfloat16"}) end
  local w, shape = g:experts(x.shape[x.ndim], x.dtype), x.shape
  shape[x.ndim] = g.random:chance(0.6) and g.random:int(1, 4) or nil
  if #shape + 1 > 8 then return end
  return {x, w, index(g, shape, w.shape[1])}
end

function rows.rope_table(g)
  local random = g.random
  return {g:index({random:int(1, 2), random:int(1, 5)}, 20), g:leaf({random:int(1, 3)}, "float32", "unit"),
    random:pick {1, 0.5}}
end

function rows.rope(g)
  local table = g:find(function(t) return t.ndim == 3 and t.table end) or g:call("rope_table", rows.rope_table(g))
  if not table then return end
  table.table = true
  local b, t, n = table.shape[1], table.shape[2], table.shape[3]
  local shape, dtype = {b, g.random:int(1, 3), t, n + g.random:pick {0, 0, 2, 4}}, g.random:pick(narrow)
  return {g:of(shape, dtype), table, g.random:chance(0.3) or nil}
end

-- Offsets of n sequences of at most `most` tokens each, and how many tokens there are, some of them nobody's.
local function offsets(g, n, most)
  local list, tokens = g:call("cumsum", {g:index({n + 1}, most + 1), 1}), (n + 1) * most
  if list then list.bound = tokens + 1 end
  return list, tokens
end

function rows.attention(g)
  local random = g.random
  local b, kv, t, d = random:int(1, 2), random:int(1, 2), random:int(1, 3), random:pick {2, 4, 8, 16}
  local opts = {scale = random:pick {0.5, 0.25, 1.0}, causal = random:chance(0.7), window = random:pick {0, 0, 2, 3},
    softcap = random:pick {0, 0, 5.0}}
  local k, v, packed
  local s, n = t + random:int(0, 6), t
  if random:chance(0.2) then packed, n = offsets(g, b, t) end
  if n == 0 then return end
  if random:chance(0.4) then
    local pool, pages, positions = g:pool()
    if not pool or positions < t then return end
    k, v, opts.pages, s = pool, pool, pages, positions
    kv, d = pool.dims[2], pool.dims[4]
    opts.slots, opts.start = g:index({b}, pool.slots), g:index({b}, s - t + 1)
    if not packed and random:chance(0.3) then opts.count = g:call("minimum", {g:index({b}, t + 1), t}) end
  else
    local dtype = random:pick(narrow)
    local tokens, batch = packed and n or s, packed and 1 or b
    k = g:of({batch, kv, tokens, d}, dtype)
    v = g:of({batch, kv, tokens, random:chance(0.8) and d or d * 2}, dtype)
  end
  opts.offsets = packed
  local h = kv * random:int(1, 2)
  if random:chance(0.3) and not packed then
    opts.mask = random:chance(0.5) and g:leaf({b, 1, t, s}, "bool") or g:leaf({t, s}, "float32")
  end
  if random:chance(0.2) then opts.sinks = g:leaf({h}, "float32") end
  return {g:of({packed and 1 or b, h, n, d}, random:pick(narrow)), k, v, opts}
end

-- ---- sampling ----

local function logits(g) return g:axes(2, function(x) return x.ndim == 2 and x.dtype == "float32" end, 2) end

-- Numbers of each row, at times.
local function by_row(g, x, columns)
  if not g.random:chance(0.3) then return nil end
  return g:leaf({x.shape[1], columns}, "float64", g.random:pick {"small", "unit"})
end

function rows.repeat_penalty(g)
  local x, random = logits(g), g.random
  local recent = g:leaf({x.shape[1], random:int(1, 4)}, "int32", "small")
  local opts = {penalty = random:pick {1, 1.5}, presence = random:pick {0, 0.5}, frequency = random:pick {0, 0.25}}
  opts.by_row = by_row(g, x, 3)
  return {x, recent, opts}
end
local function sampling(numbers)
  return function(g)
    local x = logits(g)
    return {x, g.random:pick(numbers), by_row(g, x)}
  end
end
rows.top_k_mask, rows.top_p_mask = sampling {1, 2, 3, 4, 5}, sampling {0.0, 0.3, 0.9, 1.0}
rows.min_p_mask, rows.temperature = sampling {0.0, 0.1, 0.5}, sampling {0.5, 1.0, 2.0}

function rows.random_bits(g)
  local key = g:find(function(x) return x.dtype == "uint32" and x.ndim == 1 and (x.size == 2 or x.size == 3) end)
  return {key or g:leaf({g.random:int(2, 3)}, "uint32"), g:shape()}
end
function rows.normal_quantile(g)
  local low = g.random:pick {-math.huge, -1.0}
  return {g:axes(0, is_float), low, low == -1.0 and 2.0 or math.huge}
end
function rows.categorical(g)
  local x = logits(g)
  return {x, g:leaf({x.shape[1]}, "float32", "unit")}
end

-- ---- states ----

-- A state, or a window on one.
local function target(g, wanted)
  local windows = g:find(function(x) return x.window and (not wanted or wanted(x)) end)
  if windows and g.random:chance(0.5) then return windows end
  return g:find_state(wanted) or not wanted and g:new_state(g:shape(), g.random:pick(all))
end

function rows.assign(g)
  local to = target(g)
  return {to, g:of(to.shape, to.dtype)}
end

function rows.cache_append(g)
  local random = g.random
  local pool, pages, positions = g:pool()
  if not pool then return end
  local b, t = random:int(1, pool.slots), random:int(1, positions)
  local slots = g:call("arange", {0, b}) -- no two sequences in one slot
  if not slots then return end
  slots.bound = b
  local packed, n
  if random:chance(0.3) then packed, n = offsets(g, b, t) end
  if n == 0 then return end
  local x = g:of({packed and 1 or b, pool.dims[2], n or t, pool.dims[4]}, random:pick(narrow))
  return {pool, x, pages, slots, g:index({b}, positions - t + 1),
    {count = not packed and g:index({b}, t + 1) or nil, offsets = packed}}
end

function rows.ring_push(g)
  local ring = g:find_state(function(s) return s.ring end)
    or g:new_state({g.random:int(1, 3), g.random:int(1, 4)}, "int32")
  ring.ring = true
  local b = ring.shape[1]
  return {ring, g:index({b}, 50), g:index({b}, 9)}
end

-- ---- what is made of several rows ----

function rows.random_uniform(g) return {g:shape(), {dtype = g.random:pick {"float32", "float16", "float64"}}} end
function rows.random_normal(g) return {g:shape()} end
function rows.random_randint(g) return {0, 5, g:shape()} end
function rows.random_bernoulli(g) return {0.5, g:shape()} end
function rows.random_permutation(g) return {g.random:int(1, 6)} end

---Arguments for any elementwise row.
function rows.elementwise(g, kind) return kind == "unary" and {g:any()} or binary(g, g:any()) end

return rows
