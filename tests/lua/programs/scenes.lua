-- scenes.lua: several instructions that belong together, such as planners look for.
local M = {names = {"block", "gated", "selection", "chain", "states", "sampler", "heads", "broadcasts", "shift",
  "lives", "hoard", "along", "parts", "crowd"}}

local activations = {"silu", "gelu", "gelu_tanh", "sigmoid", "tanh", "relu"}

local function rows_of(g)
  return g:axes(2, function(x) return x.dtype:find "^b?float" and x.dtype ~= "float64" end)
end

local function packed(g, outputs, inputs)
  local random = g.random
  return g:find_weight(function(w) return w.dims[1] == outputs and w.dims[2] == inputs end)
    or g:new_weight(outputs, inputs, random:chance(0.5) and "float32" or nil)
end

---A norm, products of it that share a step, what is done to them, and what was added up before.
function M.block(g)
  local random = g.random
  local x = rows_of(g)
  local y = random:chance(0.7) and g:row("rms_norm") or x
  if y.ndim < 2 then return end
  local n = y.dims[y.ndim]
  for _ = 1, random:int(1, 5) do
    local p = g:call("linear", {y, packed(g, random:chance(0.5) and n or random:pick(g.sizes), n)})
    if p and random:chance(0.1) then g:call("assign", {g:new_state(p.shape, p.dtype), p})
    elseif p and random:chance(0.5) then p = g:call(random:pick(activations), {p}) end
    if p and g.same(p.dims, x.dims) and random:chance(0.7) then x = g:call("add", {x, p}) or x end
  end
end

---Two products of one input that meet.
function M.gated(g)
  local random = g.random
  local x = rows_of(g)
  local n, m = x.dims[x.ndim], random:pick(g.sizes)
  local gate = g:call("linear", {x, packed(g, m, n)})
  local up = g:call("linear", {x, g:new_weight(m, n)})
  if not gate or not up then return end
  gate = g:call(random:pick(activations), {gate})
  local y = gate and g:call("mul", random:chance(0.5) and {gate, up} or {up, gate})
  if y and random:chance(0.6) then y = g:call("linear", {y, packed(g, n, m)}) end
  if y and g.same(y.dims, x.dims) then g:call("add", {x, y}) end
end

---Some rows of what is done to all rows.
function M.selection(g)
  local random = g.random
  local x = rows_of(g)
  for _ = 1, random:int(0, 4) do
    local kind = random:int(1, 5)
    local y
    if kind == 1 then y = g:call("rms_norm", {x, {weight = g:leaf({x.dims[x.ndim]}, "float32")}})
    elseif kind == 2 then y = g:call("linear", {x, packed(g, random:pick(g.sizes), x.dims[x.ndim])})
    elseif kind == 3 then y = g:call(random:pick(activations), {x})
    elseif kind == 4 then y = g:call(random:pick {"add", "mul"}, {x, g:broadcastable(x)})
    else y = g:call("add", {x, g:like(x)}) end
    x = y or x
  end
  local n = x.dims[x.ndim]
  if n == 0 or x.size == 0 then return end
  local flat = x.ndim == 2 and x or g:call("reshape", {x, {x.size // n, n}})
  if not flat then return end
  local count = flat.dims[1]
  local index = random:chance(0.4) and g:find(function(i)
    return i.bound and i.bound <= count and i.ndim == 1 and i.size < count
  end) or g:index({random:int(1, math.max(1, count - 1))}, count)
  if random:chance(0.3) then g:row("assign") end
  local some = g:call("take", {flat, index, 1})
  if some and random:chance(0.3) then g:call("take", {flat, random:chance(0.5) and index or g:index({1}, count), 1}) end
  if some and random:chance(0.5) then g:call("linear", {some, packed(g, random:pick(g.sizes), n)}) end
end

---Elementwise operations on one shape.
function M.chain(g)
  local random = g.random
  local x = g:any()
  for _ = 1, random:int(2, 8) do
    local kind = random:int(1, 6)
    local y
    if kind == 1 then y = g:call(random:pick {"neg", "abs", "square", "tanh", "sigmoid", "copy"}, {x})
    elseif kind == 6 then y = g:call("where", {g:call("gt", {x, random:int(0, 3)}) or x, x, random:int(0, 3)})
    elseif kind == 2 then y = g:call(random:pick {"add", "mul", "sub", "maximum"}, {x, random:int(0, 3)})
    elseif kind == 3 then y = g:call(random:pick {"add", "mul", "minimum"}, {x, g:broadcastable(x)})
    elseif kind == 4 then y = g:call("astype", {x, random:pick {"float32", "float16", "bfloat16", "int32"}})
    else y = g:call(random:pick {"add", "sub", "mul"}, {g:like(x), x}) end
    x = y or x
  end
end

---Rows with what is known of each, norms of them, and what is done about both.
function M.along(g)
  local random = g.random
  local x = g:axes(2, function(x) return x.dims[x.ndim] >= 64 end)
  if x.dims[x.ndim] < 64 then
    local dtype = random:pick {"float32", "float32", "bfloat16", "float16", "int32"}
    x = g:leaf({random:int(1, 5), random:int(64, 150)}, dtype)
  end
  local wide, stat = x, nil
  for _ = 1, random:int(3, 9) do
    local kind, y = random:int(1, 9), nil
    local rank, length = x.ndim, x.dims[x.ndim]
    if kind <= 2 then
      local name = random:pick {"sum", "mean", "max", "min", "var", "norm", "logsumexp"}
      stat = g:call(name, {x, {axis = -1, keepdims = true}}) or stat
    elseif kind == 3 and stat then
      stat = g:call(random:pick {"square", "abs", "sigmoid", "neg"}, {stat}) or stat
    elseif kind == 4 and stat then
      y = g:call(random:pick {"sub", "mul", "add"}, random:chance(0.5) and {x, stat} or {stat, x})
    elseif kind == 5 then
      local name = random:pick {"rms_norm", "layer_norm", "softmax", "log_softmax"}
      local weight = name:find "norm" and random:chance(0.7) and g:leaf({length}, random:pick {"float32", "bfloat16"})
      y = g:call(name, {x, weight and {weight = weight} or nil})
    elseif kind == 6 then g:call(random:pick {"sum", "argmax", "any", "mean"}, {x, {axis = random:pick {-1, rank}}})
    elseif kind == 7 then y = g:call("add", {x, random:chance(0.5) and wide or g:like(x)})
    elseif kind == 8 and random:chance(0.5) then
      local s = g:find_state(function(s) return g.same(s.dims, x.dims) end) or g:new_state(x.shape, x.dtype)
      if s.dtype == x.dtype then g:call("assign", {s, x}) end
      if random:chance(0.5) then y = g:call("add", {s, x}) end
    else y = g:call(random:pick(activations), {x}) end
    if y and g.same(y.dims, x.dims) then wide, x = x, y end
  end
end

---Parts of one product's outputs, which meet.
function M.parts(g)
  local random = g.random
  local x = rows_of(g)
  local n, cut = x.dims[x.ndim], random:pick {16, 16, 32, 8, 17}
  local all = g:call("linear", {x, g:new_weight(2 * cut, n)})
  if not all then return end
  local function part(from, to)
    local ranges = {}
    for d = 1, all.ndim do ranges[d] = {} end
    ranges[all.ndim] = {from, to}
    return g:call("slice", {all, ranges})
  end
  local a, b = part(1, cut), part(cut + 1, 2 * cut)
  a = a and g:call(random:pick(activations), {a})
  local y = a and b and g:call("mul", {a, b})
  if y and random:chance(0.2) then g:call("add", {all, 1}) end
  if y and random:chance(0.5) then g:call("linear", {y, packed(g, n, cut)}) end
end

---Reads and writes of one state, in turns.
function M.states(g)
  local random = g.random
  local s = g:find_state() or g:new_state({g.rows, g.width}, "float32")
  local seen = {}
  for _ = 1, random:int(2, 6) do
    local kind = random:int(1, 7)
    if kind == 1 then seen[#seen + 1] = g:call("add", {s, random:int(0, 2)})
    elseif kind == 2 then seen[#seen + 1] = g:call("transpose", {s})
    elseif kind == 3 and s.size > 0 and s.ndim > 0 then
      local ranges, n = {}, s.dims[1]
      ranges[1] = {random:int(1, n), n}
      for i = 2, s.ndim do ranges[i] = {} end
      local window = g:call("slice", {s, ranges})
      if window and random:chance(0.5) then g:call("assign", {window, g:of(window.shape, s.dtype)}) end
      seen[#seen + 1] = window
    elseif kind == 4 then g:call("assign", {s, g:like(s)})
    elseif kind == 5 then g:call("assign", {s, g:call("astype", {g:call("add", {s, 1}) or s, s.dtype}) or g:like(s)})
    elseif kind == 6 then g:call(random:pick {"add_", "mul_", "maximum_"}, {s, random:int(0, 2)})
    else seen[#seen + 1] = g:call("copy", {s}) end
  end
  if #seen > 1 then g:call("concat", {{seen[1], seen[#seen]}, 1}) end
end

---A part of a state written over another part of it.
function M.shift(g)
  local random = g.random
  local s = g:find_state(function(s) return s.ndim > 0 and s.dims[1] > 1 end) or g:new_state({4, g.width}, "float32")
  if random:chance(0.15) then -- all of it, turned
    local square = g:find_state(function(x) return x.ndim == 2 and x.dims[1] == x.dims[2] and x.dims[1] > 1 end)
      or g:new_state({3, 3}, random:pick {"float32", "int32"})
    local turned = g:call("transpose", {square})
    if turned then g:call("assign", random:chance(0.5) and {turned, square} or {square, turned}) end
    return
  end
  local n, by = s.dims[1], random:int(1, 2)
  if n <= by then return end
  if random:chance(0.2) then -- one row over all, which it is itself among
    local row = g:call("slice", {s, {{by, by}}})
    local sum = row and g:call(random:pick {"add", "maximum"}, {row, g:like(s)})
    if sum then g:call("assign", {s, sum.dtype == s.dtype and sum or g:call("astype", {sum, s.dtype})}) end
    return
  end
  local low, high = g:call("slice", {s, {{1, n - by}}}), g:call("slice", {s, {{by + 1, n}}})
  if not low or not high then return end
  if random:chance(0.3) then high = g:call("add", {high, 1}) or high end
  g:call("assign", random:chance(0.5) and low.size == high.size and high.window and {high, low} or {low, high})
end

---What a sampler does with logits.
function M.sampler(g)
  local random = g.random
  local x = g:row("temperature")
  for _, name in ipairs {"top_k_mask", "top_p_mask", "min_p_mask", "repeat_penalty"} do
    if x and random:chance(0.5) then g:row(name) end
  end
  g:row "categorical"
  if random:chance(0.5) then g:row "ring_push" end
end

---Products split into heads, turned, and attended to.
function M.heads(g)
  local random = g.random
  local d, t = random:pick {2, 4, 8}, random:int(1, 3)
  local x = g:of({1, t, g.width}, random:pick {"float32", "float16", "bfloat16"})
  local q = x and g:call("linear", {x, packed(g, 2 * d, g.width)})
  q = q and g:call("reshape", {q, {1, t, 2, d}})
  q = q and g:call("transpose", {q, {1, 3, 2, 4}})
  if not q then return end
  local cache, pages, positions = g:pool(2, d)
  if not cache or positions < t then return end
  local slots, start = g:index({1}, cache.slots), g:index({1}, positions - t + 1)
  g:call("cache_append", {cache, q, pages, slots, start, g:index({1}, t + 1)})
  local y = g:call("attention", {q, cache, cache, {pages = pages, slots = slots, start = start, scale = 0.5}})
  y = y and g:call("transpose", {y, {1, 3, 2, 4}})
  y = y and g:call("reshape", {y, {1, t, 2 * d}})
  if y then g:call("linear", {y, packed(g, g.width, 2 * d)}) end
end

---Many values of several sizes that no program is made of, whose lives end in any order.
function M.lives(g)
  local random = g.random
  local x = g:axes(2, function(x) return x.ndim == 2 and x.dims[1] > 2 end)
  if x.ndim ~= 2 then return end
  local held = {x}
  for _ = 1, random:int(4, 16) do
    local y = random:pick(held)
    local z
    if random:chance(0.6) then z = g:call("slice", {y, {{1, random:int(1, y.dims[1])}, {}}})
    else z = g:call("concat", {{y, random:pick(held)}, 1}) end
    z = z and g:call(random:pick {"cumsum", "cummax", "sort"}, {z, 1})
    if z and z.dtype == x.dtype then held[#held + 1] = z end
    if #held > 5 then table.remove(held, random:int(1, #held)) end
  end
  g:call("concat", {held, 1})
end

local makers = {{"cumsum", 1}, {"cumsum", 2}, {"cummax", 1}, {"cummax", 2}, {"cummin", 1}, {"cummin", 2}, {"sort", 1},
  {"sort", 2}, {"softmax"}}

-- What is made of x that no program is made of, or drawn.
local function made_of(g, x)
  local random = g.random
  if random:chance(0.06) then return g:call(random:pick {"random_uniform", "random_normal"}, {x.shape}) end
  local name, axis = table.unpack(random:pick(makers))
  return g:call(name, {x, axis})
end

-- What is left of a value by columns goes to a part of state s, to all of it, or to `total`, which has read it; or it
-- stays. In some programs it goes to parts alone, which nothing reads in between.
local function disposal(g, s)
  local random = g.random
  local parts, windows, total = random:chance(0.4), {}, s
  return function(left)
    local kind, row = parts and 1 or random:int(1, 6), random:int(1, s.dims[1])
    if kind == 1 then
      windows[row] = windows[row] or g:call("slice", {s, {{row, row}, {}}})
      local value = random:chance(0.7) and g:call("mul", {left, 2}) or left -- a step that writes there itself
      if windows[row] then g:call("assign", {windows[row], value}) end
    elseif kind == 2 then g:call(random:pick {"add_", "maximum_"}, {s, left})
    elseif kind == 3 then g:call("mul", {s, left})
    elseif kind == 4 then total = g:call("add", {total, left}) or total end
  end
end

---Many values that are written first, each of which is used up later.
function M.hoard(g)
  local random = g.random
  local n = math.min(random:int(6, 16), (g.most - #g.program.code) // 3)
  if n < 3 then return end
  local function is_float(y) return y.ndim == 2 and y.dtype == "float32" and y.dims[1] > 0 end
  local x = g:find(function(y) return is_float(y) and y.dims[1] >= 4 and y.dims[2] >= 64 end)
    or g:leaf({random:int(6, 16), random:pick {64, 80, 96}}, "float32")
  local s = g:find_state(function(y) return is_float(y) and y.dims[2] == x.dims[2] end)
    or g:new_state({random:int(1, 3), x.dims[2]}, "float32")
  local held, dispose = {}, disposal(g, s)
  for _ = 1, n do held[#held + 1] = made_of(g, #held > 0 and random:chance(0.3) and random:pick(held) or x) end
  local at = random:pick {"first", "last", "any"}
  while #held > 0 do
    local y = table.remove(held, at == "first" and 1 or at == "last" and #held or random:int(1, #held))
    if #held > 0 and random:chance(0.2) then y = g:call("mul", {y, random:pick(held)}) or y end
    local left = g:call(random:pick {"sum", "max", "min", "mean"}, {y, {axis = 1, keepdims = true}})
    if left then dispose(left) end
  end
end

---Parts of several shapes in one expression.
function M.broadcasts(g)
  local random = g.random
  local x = g:any()
  local mean = g:call("mean", {x, {axis = x.ndim > 0 and -1 or nil, keepdims = true}})
  local y = mean and g:call("sub", {x, mean})
  local z = y and g:call("mul", {y, g:broadcastable(x)})
  if z and random:chance(0.5) then g:call("broadcast_to", {z, {2, table.unpack(z.dims)}}) end
end

---Several products of one input, and what is computed of them, of which others read one.
function M.crowd(g)
  local random = g.random
  local x = rows_of(g)
  local n, m = x.dims[x.ndim], random:pick(g.sizes)
  local all = {}
  for _ = 1, random:int(3, 5) do all[#all + 1] = g:call("linear", {x, packed(g, m, n)}) end
  if #all < 3 then return end
  local read = g:call(random:pick(activations), {all[#all]}) or all[1]
  for _ = 1, #all do
    local own = random:pick(all)
    if random:chance(0.4) then g:call(random:pick(activations), {own})
    else g:call(random:pick {"add", "mul"}, random:chance(0.7) and {own, read} or {own, random:pick(all)}) end
  end
end

return M
