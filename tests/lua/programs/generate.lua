-- generate.lua: a program from a seed.
--
-- A program is data: {seed, leaves, code, ...}. An instruction is {id, name, args, ...}: a function of ml, or a method,
-- whose arguments name earlier results as {ref = id}. While it is generated it is recorded, which gives shapes and
-- dtypes and computes nothing; what the library refuses is not part of it.
local core = require "moonlet.core"
local ml = require "moonlet"
local trace = require "moonlet.trace"
local interpret = require "tests.lua.programs.interpret"
local leaves = require "tests.lua.programs.leaves"
local new_random = require "tests.lua.programs.random"
local rows = require "tests.lua.programs.rows"
local shapes = require "tests.lua.programs.scenes"

-- Of a result; of one in a program of large shapes; of a weight.
local MOST_ELEMENTS, MOST_IN_LARGE, MOST_IN_WEIGHT = 2048, 40000, 1 << 17

local G = {}
G.__index = G

-- A value of the program: what generators know of it. `x.shape` is a fresh table each time, as a tensor's is.
local Value = {}
Value.__index = function(x, key)
  if key == "shape" then return table.move(x.dims, 1, #x.dims, 1, {}) end
  return nil
end

local function describe(id, t, kind)
  return setmetatable({id = id, ref = id, kind = kind, dims = t.shape, ndim = t.ndim, size = t.size, dtype = t.dtype},
    Value)
end

function G.same(a, b) return table.concat(a, ",") == table.concat(b, ",") end

---Whether x broadcasts to y's shape without making it larger.
function G.fits(x, y)
  if x.ndim > y.ndim then return false end
  for i = 1, x.ndim do
    local n = x.dims[x.ndim - i + 1]
    if n ~= 1 and n ~= y.dims[y.ndim - i + 1] then return false end
  end
  return true
end

-- ---- leaves ----

local function add_leaf(g, leaf)
  g.last = g.last + 1
  leaf.id = g.last
  leaf.seed = g.random:int(1, 100000)
  local t = leaves.make(leaf)
  g.made[#g.made + 1] = t
  g.registers[leaf.id] = t
  table.insert(g.program.leaves, leaf)
  local value = describe(leaf.id, t, leaves.in_blocks(leaf) and "pack" or leaf.wrap or "plain")
  if leaf.style == "index" then value.bound = leaf.n end
  table.insert(g.values, value)
  return value
end

-- Views that make `shape` of a base shape, which is returned.
local function strided(random, shape)
  local base, views = table.move(shape, 1, #shape, 1, {}), {}
  local n = #shape
  if n == 0 then return base end
  local kind, axis = random:int(1, 5), random:int(1, n)
  local ranges = {}
  for i = 1, n do ranges[i] = {} end
  if kind == 1 then
    for i = 1, n do base[i] = shape[n + 1 - i] end
    views[1] = {"transpose"}
  elseif kind == 2 and shape[axis] > 0 then
    base[axis], ranges[axis] = shape[axis] * 2, {random:int(1, 2), -1, 2}
    views[1] = {"slice", ranges}
  elseif kind == 3 then
    base[axis] = 1
    views[1] = {"broadcast_to", shape}
  elseif kind == 4 and shape[axis] > 0 then
    base[axis], ranges[axis] = shape[axis] + 2, {2, shape[axis] + 1}
    views[1] = {"slice", ranges}
  else
    ranges[axis] = {-1, 1, -1}
    views[1] = {"slice", ranges}
  end
  return base, views
end

---A new plain leaf.
function G:leaf(shape, dtype, style)
  local leaf = {shape = shape, dtype = dtype, style = style or self.random:chance(self.wild) and "wild" or "small"}
  if self.random:chance(0.25) then leaf.shape, leaf.views = strided(self.random, shape) end
  return add_leaf(self, leaf)
end

---A new leaf of integers from 0 to n-1.
function G:index(shape, n)
  return add_leaf(self, {shape = shape, dtype = self.random:chance(0.7) and "int32" or "int64", style = "index", n = n})
end

function G:new_state(shape, dtype)
  return add_leaf(self, {shape = shape, dtype = dtype, style = "small", wrap = "state"})
end

local formats = {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0"}
local formats_of_256 = {"q4_k", "q5_k", "q6_k", "q4_0", "q8_0"}

-- Affine formats whose groups make whole rows of so many inputs; none where the device does not pack them.
local packs_affine = {}
local function affine_format(random, inputs)
  local device = ml.default_device()
  if packs_affine[device] == nil then
    packs_affine[device] = pcall(core.pack_affine, ml.zeros({1, 4}, {dtype = "uint32"}), ml.zeros {1, 1},
      ml.zeros {1, 1}, 4, 32, true)
  end
  local groups = {}
  for _, group in ipairs {32, 64, 128} do groups[#groups + 1] = inputs % group == 0 and group or nil end
  return packs_affine[device] and ("affine%d_%d_%s"):format(random:pick {2, 3, 4, 5, 6, 8}, random:pick(groups),
    random:pick {"float32", "float16", "bfloat16"}) or nil
end

-- A weight in a block format, where whole blocks make a row; most are packed, for products of either precision.
local function quantised(g, shape)
  local random, inputs = g.random, shape[#shape]
  if inputs % 32 ~= 0 or inputs == 0 then return nil end
  local packed = random:chance(0.75)
  local affine = #shape > 1 and #shape < 4 and shape[#shape - 1] > 0 and random:chance(0.3) and
    affine_format(random, inputs)
  return {shape = shape, dtype = affine or random:pick(inputs % 256 == 0 and formats_of_256 or formats),
    wrap = packed and "pack" or nil, precision = packed and random:pick {"exact", "fast"} or nil}
end

-- `dtype`: of the rows that it is multiplied with, where one is known.
local function new_weight(g, shape, dtype)
  local random = g.random
  if dtype == "float64" then return g:leaf(shape, "float64") end
  local other = dtype or "float32"
  local leaf = random:chance(0.6) and quantised(g, shape) or
    {shape = shape, style = "small", wrap = random:chance(0.7) and "pack" or nil,
      dtype = random:pick {"float32", other, other, "bfloat16", "float16"}}
  return add_leaf(g, leaf)
end

function G:new_weight(outputs, inputs, dtype)
  outputs = math.min(outputs, MOST_IN_WEIGHT // math.max(1, inputs))
  local value = new_weight(self, {outputs, inputs}, dtype)
  value.weight = dtype ~= "float64" or nil
  return value
end

---A weight with an experts axis, for rows of `inputs` elements of a dtype.
function G:experts(inputs, dtype)
  local random = self.random
  local known = self:find_value(function(w)
    return w.experts and w.dims[3] == inputs and (w.dtype == "float64") == (dtype == "float64")
  end)
  if known and random:chance(0.6) then return known end
  local experts = random:int(1, math.max(1, math.min(9, MOST_IN_WEIGHT // math.max(1, inputs))))
  local outputs = math.max(1, math.min(random:pick(self.sizes), MOST_IN_WEIGHT // math.max(1, inputs * experts)))
  local value = new_weight(self, {experts, outputs, inputs}, dtype)
  value.experts = true
  return value
end

-- ---- choosing ----

---A value for which `wanted` holds: a late one more often. States are read like any other.
function G:find(wanted)
  local found = {}
  for _, x in ipairs(self.values) do
    if x.kind ~= "pack" and not x.closed and (not wanted or wanted(x)) then found[#found + 1] = x end
  end
  if #found == 0 then return nil end
  local n = #found
  return found[self.random:chance(0.6) and math.max(1, n - self.random:int(0, 3)) or self.random:int(1, n)]
end

function G:find_state(wanted)
  local found = {}
  for _, x in ipairs(self.values) do
    if x.kind == "state" and (not wanted or wanted(x)) then found[#found + 1] = x end
  end
  return #found > 0 and self.random:pick(found) or nil
end

---A pool of pages (pages, heads, positions, d), the table that says which of its `slots` slots has which of them, none
---two slots', and how many positions a slot has.
function G:pool(heads, d)
  local random = self.random
  local pool = self:find_state(function(s)
    return s.slots and (not heads or s.dims[2] == heads) and (not d or s.dims[4] == d)
  end)
  if not pool then
    local slots, each = random:int(1, 3), random:int(1, 3)
    pool = self:new_state({slots * each, heads or random:int(1, 2), random:int(2, 5), d or random:pick {2, 4, 8, 16}},
      random:pick {"float32", "float32", "float16", "bfloat16"})
    pool.slots, pool.each = slots, each
  end
  local n = pool.slots * pool.each
  local pages = self:call("arange", random:chance(0.5) and {n - 1, -1, -1} or {0, n})
  pages = pages and self:call("reshape", {pages, {pool.slots, pool.each}})
  if pages then pages.bound = n end
  return pages and pool, pages, pool.dims[3] * pool.each
end

function G:find_weight(wanted)
  local found = self:find_value(function(x) return x.weight and wanted(x) end)
  return found and self.random:chance(0.7) and found or nil
end

---Any value of those for which `wanted` holds, packed ones too.
function G:find_value(wanted)
  local found = {}
  for _, x in ipairs(self.values) do
    if not x.closed and wanted(x) then found[#found + 1] = x end
  end
  return #found > 0 and self.random:pick(found) or nil
end

function G:shape()
  local random, s = self.random, self.sizes
  local kind = random:int(1, 20)
  if kind <= 7 then return {self.rows, self.width} end
  if kind <= 10 then return {1, self.rows, self.width} end
  if kind == 11 then return {2, self.rows, self.width} end
  if kind <= 13 then return {self.width} end
  if kind == 14 then return {self.rows, 1} end
  if kind == 15 then return {math.min(self.width, 256), self.width <= 256 and self.width or 2} end
  if kind == 16 then return {} end
  if kind == 17 then return {random:pick(s), random:pick(s)} end
  if kind == 18 then return {random:int(0, 3), random:int(1, 5)} end
  return {random:int(1, 2), random:int(1, 3), random:int(1, 3), random:int(1, 4)}
end

---Any value that can be computed with.
function G:any()
  return not self.random:chance(0.06) and self:find() or self:leaf(self:shape(), self.random:pick(rows.dtypes))
end

---One with at least n axes for which `wanted` holds; else a new one of float32.
function G:axes(n, wanted, exactly)
  local x = not self.random:chance(0.04) and self:find(function(x)
    return x.ndim >= n and (not exactly or x.ndim == exactly) and (not wanted or wanted(x)) and
      (n == 0 or x.dims[x.ndim] > 0)
  end)
  return x or self:leaf({self.rows, self.width}, "float32")
end

---One of x's shape and dtype.
function G:like(x)
  return self:of(x.shape, x.dtype)
end

---One of a shape and dtype, found, converted or new.
function G:of(shape, dtype)
  local random = self.random
  local exact = self:find(function(y) return y.dtype == dtype and self.same(y.dims, shape) end)
  if exact and not random:chance(0.1) then return exact end
  local other = random:chance(0.5) and self:find(function(y) return self.same(y.dims, shape) end)
  if other then return self:call("astype", {other, dtype}) or self:leaf(shape, dtype) end
  local size = 1
  for _, d in ipairs(shape) do size = size * d end
  other = random:chance(0.5) and self:find(function(y) return y.size == size and y.dtype == dtype end)
  return other and self:call("reshape", {other, shape}) or self:leaf(shape, dtype)
end

---One that broadcasts to x.
function G:broadcastable(x)
  local found = self:find(function(y) return self.fits(y, x) and y.size < x.size end)
  if found and self.random:chance(0.7) then return found end
  local shape = x.shape
  if #shape > 0 and self.random:chance(0.5) then
    while #shape > 1 do table.remove(shape, 1) end
  else
    for i = 1, #shape do
      if self.random:chance(0.5) then shape[i] = 1 end
    end
  end
  return self:leaf(shape, x.dtype)
end

---A weight for products of rows of `inputs` elements.
function G:weight(inputs, dtype)
  local w = dtype ~= "float64" and self:find_weight(function(w) return w.dims[2] == inputs end)
  local outputs = self.random:chance(0.6) and self.width <= 256 and self.width or self.random:pick(self.sizes)
  return w or self:new_weight(outputs, inputs, dtype)
end

-- ---- code ----

local function plain(x)
  if getmetatable(x) == Value then return {ref = x.id} end
  if type(x) ~= "table" then return x end
  local out = {}
  for k, v in pairs(x) do out[k] = plain(v) end
  return out
end

local effects = {assign = true, cache_append = true, ring_push = true}

---Adds an instruction; the value of its result (of an effect on a whole state: the state), or nil where it is refused.
---`which`: one of the results of an operation that has several.
function G:call(name, args, which)
  if #self.program.code >= self.most or #self.values > 200 then return nil end
  local target = args[1]
  local instr = {id = self.last + 1, name = name, args = plain(args), result = which}
  local on_state = getmetatable(target) == Value and target.kind == "state"
  instr.effect = effects[name] or name:find "_$" and on_state or nil
  instr.changes = name:find "_$" and not on_state and target.id or nil
  instr.whole = instr.effect and on_state or nil
  local ok, result = pcall(interpret.call, instr, self.registers)
  if not ok or result.size > self.most_elements then
    if not ok and os.getenv "REFUSED" then io.stderr:write(name, ": ", tostring(result), "\n") end
    return nil
  end
  instr.shape, instr.dtype = result.shape, result.dtype
  table.insert(self.program.code, instr)
  self.last = instr.id
  if instr.changes then target.bound, target.table, target.window = nil, nil, nil end
  if instr.changes or instr.whole then return target end
  self.registers[instr.id] = result
  local value = describe(instr.id, result, "plain")
  local base = getmetatable(target) == Value and target
  value.window = base and (base.kind == "state" or base.window) and
    (name == "slice" or name == "transpose" or effects[name]) or nil
  table.insert(self.values, value)
  return value
end

---An instruction that must be refused wherever it stands: all but products and look-ups of a packed weight.
function G:refusal()
  local random = self.random
  local w = self:find_weight(function(x) return x.kind == "pack" end) or self:new_weight(self.width, self.width)
  if w.kind ~= "pack" then return end
  local m, n, dtype = w.dims[1], w.dims[2], w.dtype:find "^b?float" and w.dtype or "float32"
  local name, args = table.unpack(random:pick {
    {"add", {w, 1}}, {"mul", {self:leaf({n}, dtype), w}}, {"neg", {w}}, {"silu", {w}}, {"sum", {w, {axis = 1}}},
    {"copy", {w}}, {"astype", {w, "float16"}}, {"take", {w, self:index({1}, m), 1}}, {"concat", {{w, w}, 1}},
    {"matmul", {self:leaf({2, m}, "float32"), w}}, {"where", {self:leaf({n}, "bool"), w, 1}}, {"reshape", {w, {m * n}}},
    {"transpose", {w}}, {"slice", {w, {{1, 1}}}}, {"softmax", {w}}, {"linear", {w, self:leaf({3, n}, "float32")}},
    {"embedding", {self:leaf({4, 2}, "float32"), w}}, {"assign", {self:new_state({m, n}, dtype), w}},
  })
  self.last = self.last + 1
  table.insert(self.program.code, {id = self.last, name = name, args = plain(args), refused = true, whole = true})
end

---The row of that name.
function G:row(name, kind)
  local build = rows[name]
  local args = build and build(self) or not build and rows.elementwise(self, kind)
  return args and self:call(name, args, args.result)
end

-- Whose indices are in range for one axis alone.
local pointing = {take = true, take_along_axis = true, put_along_axis = true, scatter_add = true}

-- An earlier instruction once more, or one that differs from it in one plain argument.
local function again(g)
  local code = g.program.code
  if #code == 0 then return end
  local instr = code[math.max(1, #code - g.random:int(0, 12))]
  if instr.refused then return end
  local args = {}
  for i, a in ipairs(instr.args) do args[i] = type(a) == "table" and a.ref and g:value(a.ref) or a end
  if g.random:chance(0.5) and not pointing[instr.name] then
    for i, a in ipairs(args) do
      if math.type(a) == "integer" then args[i] = math.max(1, a - 1)
      elseif type(a) == "number" then args[i] = a + 0.5
      elseif type(a) == "table" and not a.ref and a.keepdims ~= nil then args[i] = {axis = a.axis}
      elseif type(a) == "table" and not a.ref and a.eps then
        args[i] = {weight = a.weight, eps = a.eps * 10, offset = a.offset}
      end
    end
  end
  return g:call(instr.name, args, instr.result and g.random:int(1, 2))
end

function G:value(id)
  for _, x in ipairs(self.values) do
    if x.id == id then return x end
  end
end

-- ---- the whole ----

local risky = {exp = 0.2, expm1 = 0.2, sinh = 0.2, cosh = 0.2, pow = 0.3, prod = 0.4, cumprod = 0.4, log = 0.3,
  log2 = 0.3, tan = 0.3,
  arcsin = 0.3, arccos = 0.3, rsqrt = 0.3, reciprocal = 0.3, log1p = 0.3, sqrt = 0.5, left_shift = 0.5,
  isnan = 0.5, isinf = 0.5, isfinite = 0.5, logical_not = 0.5, logical_and = 0.5, logical_or = 0.5}
local busy = {reshape = 4, transpose = 3, slice = 3, broadcast_to = 2, add = 4, mul = 4, sub = 2, take = 3, linear = 3,
  rms_norm = 2, matmul = 2, concat = 2, astype = 2, copy = 2, where = 2, assign = 4, cache_append = 2, ring_push = 1.5,
  silu = 2, sigmoid = 2, tanh = 2, softmax = 2, embedding = 1.5, linear_transposed = 1.5, attention = 1.5,
  gather_linear = 2}

local names, weights, kinds = {}, {}, {}
for _, op in ipairs(core.op_list()) do
  names[#names + 1] = op.name
  weights[op.name] = risky[op.name] or busy[op.name] or 1
  kinds[op.name] = op.kind
end
for _, name in ipairs {"random_uniform", "random_normal", "random_randint", "random_bernoulli", "random_permutation"} do
  names[#names + 1] = name
  weights[name] = 0.4
end
local M = {rows = names}

local function step(g)
  local random = g.random
  local kind = random:int(1, 100)
  if kind <= 8 then return again(g) end
  if kind <= 22 then return shapes[random:pick(shapes.names)](g) end
  if kind == 23 and random:chance(0.5) then return g:refusal() end
  if kind <= 26 then -- in place, of a result or a state
    local x = g:find(function(x) return x.kind == "state" or x.kind == "plain" and not x.bound and not x.window end)
    local op = random:pick {"add", "mul", "sub", "neg", "maximum", "abs"}
    if x and (x.kind == "state" or g:is_result(x)) then
      local args = kinds[op] == "unary" and {x} or {x, random:chance(0.5) and g:like(x) or 2}
      return g:call(op .. "_", args)
    end
    return
  end
  local name = random:weighted(names, weights)
  return g:row(name, kinds[name])
end

function G:is_result(x)
  for _, leaf in ipairs(self.program.leaves) do
    if leaf.id == x.id then return false end
  end
  return true
end

-- What is read in the end, and what becomes of the rest: closed or dropped after its last use, or held and read late.
local function decide_fates(g)
  local p, random = g.program, g.random
  local used = {}
  interpret.each_use(p, function(id, i) used[id] = i end)
  p.fates = {}
  for i, instr in ipairs(p.code) do
    if g.registers[instr.id] then
      local fate = random:weighted({"close", "drop", "hold", "output"}, {close = 4, drop = 4, hold = 0.7, output = 0.7})
      if not used[instr.id] or i == #p.code then fate = random:chance(0.8) and "output" or "hold" end
      p.fates[instr.id] = fate
    end
  end
end

local event_names = {"eval", "read", "collect", "clear", "limit", "cancel", "deadline", "doomed", "broken"}
local event_weights = {eval = 5, read = 3, collect = 0.5, clear = 0.3, limit = 1.5, cancel = 0.6, deadline = 0.25,
  doomed = 0.5, broken = 0.3}

-- Whether instructions from..to can be a function of their own: it changes nothing in place that it is given, and gives
-- back values, so that nobody can write a state through them. A scope lies around it or beside it.
local function is_function(p, from, to, scope)
  local own = {}
  for i = from, to do
    local instr = p.code[i]
    own[instr.id] = true
    if instr.changes and not own[instr.changes] then return false end
  end
  for i = to + 1, #p.code do
    local instr = p.code[i]
    local first = instr.args[1]
    local given = type(first) == "table" and own[first.ref] -- or a view of what it gives
    if given and instr.effect and not instr.whole then return false end
    own[instr.id] = own[instr.id] or given
  end
  return not scope or to < scope[1] or from > scope[2] or from >= scope[1] and to <= scope[2]
end

-- The part of the program that is a compiled function of its own, as {first id, last id}, or nil.
local function choose_inner(p, random, scope)
  for _ = 1, 4 do
    local from = random:int(1, #p.code)
    local to = math.min(#p.code, from + random:int(0, 11))
    if is_function(p, from, to, scope) then return {p.code[from].id, p.code[to].id} end
  end
end

local function decide_events(g)
  local p, random = g.program, g.random
  local ids = {}
  for _, instr in ipairs(p.code) do
    if g.registers[instr.id] then ids[#ids + 1] = instr.id end
    if #ids > 0 and random:chance(0.25) then
      local event = {kind = random:weighted(event_names, event_weights)}
      event.ids = {ids[math.max(1, #ids - random:int(0, 4))], random:chance(0.3) and random:pick(ids) or nil}
      if event.kind == "limit" then event.bytes = random:pick {0, 64, 256, 1024, 4096, 16384} end
      if event.kind == "doomed" then event.check = random:chance(0.3) end
      if event.kind == "deadline" then event.seconds = random:int(1, 60) * 1e-6 end
      instr.event = event
    end
  end
  p.states_first = random:chance(0.3)
  local scope
  if #p.code > 3 and random:chance(0.2) then
    local from = random:int(1, #p.code - 1)
    scope = {from, random:int(from, #p.code)}
    p.scope = {p.code[from].id, p.code[scope[2]].id}
  end
  if #p.code > 1 and random:chance(0.15) then p.inner = choose_inner(p, random, scope) end
  p.arguments = {}
  for _, leaf in ipairs(p.leaves) do p.arguments[leaf.id] = random:chance(0.7) or nil end
  p.limit = random:chance(0.15) and random:pick {0, 256, 2048} or nil
  p.deadline = random:chance(0.08) and random:int(1, 100) * 1e-6 or nil
  p.cancel = random:chance(0.1) or nil
  p.breaks = #p.code > 0 and random:chance(0.08) and (p.inner and p.inner[2] or random:pick(p.code).id) or nil
  p.fault = #p.code > 0 and random:chance(0.08) and random:pick(p.code).id or nil
end

-- Some programs have one axis of thousands: long rows, or many rows for products. They are short.
local function enlarge(g)
  local p, random = g.program, g.random
  local kind = random:int(1, 1000)
  if kind > 50 then return end
  g.most_elements, g.large, g.most = MOST_IN_LARGE, true, math.min(g.most, 16)
  p.shapes = kind <= 25 and "long rows" or "many rows"
  if kind <= 20 then g.rows, g.width = random:int(1, 4), random:int(2000, 9000)
  elseif kind <= 25 then g.rows, g.width = random:int(1, 2), random:int(2000, 17000) -- beyond a step over rows
  else g.rows, g.width = random:int(200, 400), random:pick {16, 24, 32, 33, 64} end
end

---The program of a seed.
---@param seed integer
function M.generate(seed)
  local random = new_random(seed)
  local wide = {1, 2, 3, 4, 5, 8, 8, 16, 16, 17, 24, 32, 33}
  local g = setmetatable({random = random, values = {}, registers = {}, made = {}, last = 0,
    program = {seed = seed, leaves = {}, code = {}},
    rows = random:pick {1, 2, 3, 4, 5, 7, 8}, width = random:pick(wide), large = random:chance(0.03),
    most_elements = MOST_ELEMENTS, wild = random:chance(0.2) and 0.3 or 0}, G)
  if g.large then g.rows, g.width = 60, 33 end -- so that arenas are
  if not g.large and random:chance(0.15) then g.rows, g.width = random:pick {1, 2, 3, 5}, random:int(64, 150) end
  if random:chance(0.15) then g.rows, g.width = random:pick {1, 2, 3, 5, 7}, random:pick {32, 64, 96, 256} end -- blocks
  g.most = random:chance(0.6) and random:int(3, 20) or random:int(3, 60)
  enlarge(g)
  g.sizes = {g.width <= 256 and g.width or random:pick(wide), random:pick(wide), random:pick(wide)}
  local next_key = trace.next_key
  trace.next_key = function() return ml.random.key(seed) end -- whose numbers nobody reads
  local ok, err = pcall(trace.record, function()
    g:leaf({g.rows, g.width}, "float32")
    for _ = 1, random:int(0, 3) do
      local shape, dtype = random:chance(0.3) and {g.rows, g.width} or g:shape(), random:pick(rows.dtypes)
      if random:chance(0.4) then g:new_state(shape, dtype) else g:leaf(shape, dtype) end
    end
    local tries = 0
    while #g.program.code < g.most and tries < 4 * g.most do
      tries = tries + 1
      step(g)
    end
    decide_fates(g)
    decide_events(g)
  end)
  trace.next_key = next_key
  if not ok then error(err, 0) end
  for _, t in pairs(g.registers) do t:close() end
  return g.program
end

return M
