-- Plans mean what was written: rewrites of the planner change time and memory and nothing else.
local ml = require "moonlet"
local nn = require "moonlet.nn"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

t.test("a selection moves above an operand that is broadcast", function()
  local b = ml.tensor {{10, 20, 30}}
  local f = ml.compile(function(x, i) return (x * 2 + b):take(i, 1) end)
  local x = ml.tensor {{1, 1, 1}, {2, 2, 2}, {3, 3, 3}}
  for row = 0, 2 do
    local own = 2 * (row + 1)
    t.eq(f(x, ml.tensor {row}):tolist(), {{10 + own, 20 + own, 30 + own}})
  end
  local column = ml.tensor {{1}, {2}, {3}}
  local g = ml.compile(function(y, i) return (y * column + b):take(i, 1) end)
  t.eq(g(x, ml.tensor {2, 0}):tolist(), {{19, 29, 39}, {11, 21, 31}})
end)

t.test("a reduction over an axis of one element is no work along rows", function()
  local x, y = ml.random.normal {1, 2, 64}, ml.random.normal {1, 64}
  ml.eval(x, y)
  for _, op in ipairs {"sum", "max", "logsumexp", "mean"} do
    local f = ml.compile(function(a, b)
      return ml[op](ml.sinh(a), {axis = {1}, keepdims = true}), (ml.max(b, {axis = -1}))
    end)
    local expected = ml.sinh(x)
    ml.eval(expected)
    expected = ml[op](expected, {axis = {1}, keepdims = true})
    t.eq(f(x, y):tolist(), expected:tolist(), op)
  end
end)

t.test("what is computed before a reduction of narrow rows has room that floats may lie in", function()
  for _, dtype in ipairs {"bfloat16", "float16", "uint8"} do
    local x = ml.ones({63, 17}, {dtype = dtype})
    t.eq(ml.argmax(x + x, 2):sum():item(), 0, dtype)
  end
end)

t.test("work along rows is done where its rows lie", function()
  local x, ids = ml.random.normal {5, 83}, ml.tensor {0, 4, 2}
  ml.eval(x)
  for _, op in ipairs {"softmax", "log_softmax"} do
    local f = ml.compile(function(y, i)
      local g = -y
      local rows = ml[op](g)
      return ml.max(g, {axis = 2}), ml.exp(rows), (ml.take(rows, i, 1))
    end)
    local g = -x
    ml.eval(g)
    local rows = ml[op](g)
    ml.eval(rows)
    local largest, exponents, some = f(x, ids)
    t.eq(largest:tolist(), ml.max(g, {axis = 2}):tolist(), op)
    t.eq(exponents:tolist(), ml.exp(rows):tolist(), op)
    t.eq(some:tolist(), ml.take(rows, ids, 1):tolist(), op)
  end
end)

t.test("layer norms of what is too large to square are done where their rows lie", function()
  local x, ids = ml.clip(ml.random.normal {3, 70} * 2e38, -3.3e38, 3.3e38), ml.tensor {0, 2}
  ml.eval(x)
  local f = ml.compile(function(y, i)
    local g = -y
    local rows = ml.layer_norm(g, nil, nil, 0.0)
    return ml.max(g, {axis = 2}), ml.exp(rows), (ml.take(rows, i, 1))
  end)
  local g = -x
  ml.eval(g)
  local rows = ml.layer_norm(g, nil, nil, 0.0)
  ml.eval(rows)
  local largest, exponents, some = f(x, ids)
  t.eq(largest:tolist(), ml.max(g, {axis = 2}):tolist())
  t.eq(exponents:tolist(), ml.exp(rows):tolist())
  t.eq(some:tolist(), ml.take(rows, ids, 1):tolist())
end)

t.test("depth under a selection costs no stack", function()
  local f = ml.compile(function(x, i)
    for _ = 1, 20000 do x = x + 1 end
    return x:take(i, 1)
  end)
  t.eq(f(ml.zeros {3, 2}, ml.tensor {1}):tolist(), {{20000.0, 20000.0}})
end)

t.test("a sum of many products is planned in time that grows as they do", function()
  local x, w = ml.ones {4, 32}, ml.pack(ml.ones {32, 32})
  local function seconds(n)
    local sum, best = 0, math.huge
    for _ = 1, 5 do
      local start = os.clock()
      local y = x
      for i = 1, n do y = y + ml.linear(x * i, w) end
      local total <close> = y:sum()
      sum = total:item()
      best = math.min(best, os.clock() - start)
      y = nil -- luacheck: ignore 311
      collectgarbage()
    end
    t.ok(math.abs(sum / (128 * (1 + 16 * n * (n + 1))) - 1) < 1e-3, sum)
    return best
  end
  local few, many = seconds(1000), seconds(8000)
  t.ok(many < 35 * few, ("1,000 take %.4f s, 8,000 %.4f s"):format(few, many))
end)

t.test("plans are known by all that arguments that are no tensors say", function()
  local times = ml.compile(function(x, n) return x * n end)
  local whole, one = ml.tensor {1, 2, 3}, ml.tensor {1.0}
  for _, n in ipairs {1, 1.0, 2, 2.0, 1, 1.0} do
    t.eq(times(whole, n).dtype, (whole * n).dtype, tostring(n))
  end
  local over = ml.compile(function(x, opts) return x / opts.by end)
  for _, by in ipairs {0.0, -0.0, 0, 0.0, math.mininteger, -2.0 ^ 63} do
    t.eq(over(one, {by = by}):item(), (one / by):item(), tostring(by))
  end
  local named = ml.compile(function(x, opts) return x * (opts.a or 10) end)
  t.eq(named(one, {a = 1, b = 2}):item(), 1.0)
  t.eq(named(one, {["a=n1;stringb"] = 2}):item(), 10.0)
  t.eq(named(one, {["ai1;s1:b"] = 2}):item(), 10.0)
  local third = ml.compile(function(x, opts) return x * (opts[1 / 3] or 10) end)
  t.eq(third(one, {[1 / 3] = 2}):item(), 2.0)
  t.eq(third(one, {[0.33333333333333] = 2}):item(), 10.0)
  local integer = ml.compile(function(x, opts) return x * (opts["1"] or 10) end)
  t.eq(integer(one, {["1"] = 2}):item(), 2.0)
  t.eq(integer(one, {2}):item(), 10.0)
end)

t.test("a replay gives what the call that recorded gave: their number, nil, arguments, tables, many of them", function()
  local x, y = ml.tensor {1, 2}, ml.tensor {10, 20}
  local function counted(...) return select("#", ...), ... end
  local ends = ml.compile(function(a) return a + 1, nil end)
  local first = ml.compile(function(a) return nil, a + 1 end)
  local back = ml.compile(function(a, b) return b, a + b end)
  local tree = ml.compile(function(a) return {sum = a + 1}, a * 2 end)
  local none = ml.compile(function() end)
  local many = ml.compile(function(...)
    local sum = 0
    for i = 1, select("#", ...) do sum = sum + select(i, ...) end
    return sum
  end)
  local twenty = {}
  for i = 1, 20 do twenty[i] = x * i end
  for _ = 1, 3 do
    local n, a, b = counted(ends(x))
    t.eq({n, a:tolist(), b}, {2, {2, 3}})
    n, a, b = counted(first(x))
    t.eq({n, a == nil, b:tolist()}, {2, true, {2, 3}})
    a, b = back(x, y)
    t.ok(rawequal(a, y), "an argument came back as another tensor")
    t.eq(b:tolist(), {11, 22})
    a, b = tree(x)
    t.eq({a.sum:tolist(), b:tolist()}, {{2, 3}, {2, 4}})
    t.eq(counted(none()), 0)
    t.eq(many(table.unpack(twenty)):tolist(), {210, 420})
    t.eq(many(x, y):tolist(), {11, 22})
  end
end)

t.test("numbers as operands are what they were, however many there were before", function()
  local x = ml.tensor({3, 5}, {dtype = "int32"})
  local before = ml.stats().tensors
  local truths = ml.tensor {true, false}
  for round = 1, 3 do
    for i = 1, 40 do
      t.eq((x + i):tolist(), {3 + i, 5 + i})
      t.eq((x * (i + 0.5)):tolist(), {3 * (i + 0.5), 5 * (i + 0.5)})
      t.eq(ml.where(x:eq(3), i, -i):tolist(), {i, -i})
    end
    t.eq({1 / (x * 0.0)[1]:item(), 1 / (x * -0.0)[1]:item()}, {math.huge, -math.huge}, "round " .. round)
    t.eq({(x + 1).dtype, (x + 1.0).dtype, ml.add(x, true).dtype}, {"int32", "float32", "int32"})
  end
  local long = ml.tensor({0}, {dtype = "int64"})
  for _ = 1, 2 do -- numbers that one float64 stands for
    t.eq({(long + ((1 << 53) + 1)):item(), (long + (1 << 53)):item()}, {(1 << 53) + 1, 1 << 53})
  end
  long:close()
  for i = 1, 100 do -- one that stays beside one that is new
    t.eq(ml.where(truths, 0.5, i + 0.25):tolist(), {0.5, i + 0.25})
    t.eq(ml.where(truths, i, 7):tolist(), {i, 7})
    t.eq(ml.add(1000, i):item(), 1000 + i)
  end
  truths:close()
  ml.scope(function()
    local numbers = {}
    for i = 1, 40 do numbers[i] = i + 0.25 end
    t.raises(function() ml.concat(numbers, 1) end, "axis 1 is out of range for 0 axes")
  end)
  collectgarbage() collectgarbage()
  t.eq(ml.stats().tensors, before, "constants that the library keeps are in no count")
end)

t.test("modules whose parameters nobody has made yet are compiled and explained, and keep what is made then", function()
  local x = ml.ones {2, 4}
  local first, second = nn.Linear(4, 3, {bias = true}), nn.Linear(4, 3, {bias = true})
  local both = ml.compile(function(a) return first(a), second(a) end)
  local a, b = both(x)
  t.eq({a:tolist(), b:tolist()}, {first(x):tolist(), second(x):tolist()})
  t.ok(a[1][1]:item() ~= b[1][1]:item(), "two layers begin with the same numbers")
  local third = nn.Linear(4, 3)
  t.ok(ml.explain(third, x):find "linear", "no linear in the plan")
  t.eq(third(x):tolist(), third(x):tolist())
end)

t.test("a selection of rows of an empty matrix", function()
  local index = ml.tensor({1}, {dtype = "int32"})
  local x = ml.ones {4, 0}
  for name, f in pairs {
    chain = function(a, i) return (a * 2):take(i, 1) end,
    reshape = function(a, i) return (a + 1):reshape {8, 0}:take(i, 1) end,
    linear = function(a, i) return ml.linear(a * 2, ml.ones {3, 0}):take(i, 1) end,
    rows = function(a, i) return ((a * 2):reshape {2, 0} + 1):take(i, 1) end,
  } do
    local wanted = name == "linear" and {1, 3} or {1, 0}
    t.eq(f(x, index).shape, wanted, name)
    t.eq(f(x, index):tolist(), name == "linear" and {{0.0, 0.0, 0.0}} or {{}}, name)
    t.eq(ml.compile(f)(x, index).shape, wanted, name)
  end
end)

-- What is computed on the way to another value is nobody's work any more, if somebody holds it.
t.test("values that somebody holds are computed once", function()
  local core = require "moonlet.core"
  local x = ml.random.normal {64, 64}
  ml.eval(x)
  -- To add one to it: what is known when a plan is made is computed then.
  local function steps_of(h)
    return tonumber(ml.explain(function() return h + 1 end):match "saved: fold (%d+) steps")
  end
  local forms = {
    sorted = function() return x:sort(1) * 2 end,
    turned = function() return x:matmul(x):transpose() end,
    reshaped = function() return x:reshape {32, 128}:matmul(ml.ones {128, 8}):reshape {16, 16} end,
    half = function() return x:matmul(x):split(2, 1)[1] end,
    scan = function() return x:cumsum(1) + 1 end,
    transposed = function() return ml.linear_transposed(x, x) * 2 end,
    drawn = function() return ml.random.normal {64, 64} end,
  }
  for name, make in pairs(forms) do
    local h = make()
    collectgarbage() collectgarbage() -- handles of operands
    local y = h + 1
    ml.eval(y)
    t.eq(steps_of(h), 1, name)
    t.eq((h + 1):tolist(), y:tolist(), name)
    local again = make()
    collectgarbage() collectgarbage()
    local sum = again:sum()
    ml.eval(sum)
    t.eq(steps_of(again), 1, name .. ", before a sum")
  end
  local y = x:matmul(x)
  local z = x:matmul(x) + 1
  ml.eval(z * y)
  t.eq(core.op_of(y), nil, "a product that was equal to another is computed again")
end)

t.test("a compiled function does not change what it is given in place, but states and values of its own", function()
  local x, s = ml.tensor {1.0}, ml.state(ml.tensor {1.0})
  local change = ml.compile(function(a)
    a:add_(1)
    return a * 1
  end)
  t.raises(function() change(x) end, "cannot change a tensor from outside", "usage")
  t.eq(x:item(), 1.0)
  local captured = ml.compile(function(a)
    x:add_(a)
    return x * 1
  end)
  t.raises(function() captured(ml.tensor {1.0}) end, "cannot change a tensor from outside", "usage")
  t.eq(x:item(), 1.0)
  local own = ml.compile(function(a)
    local b, c = a * 2, ml.zeros {1}
    b:add_(1)
    c:add_(b)
    return c
  end)
  t.eq(own(x):item(), 3.0)
  local state = ml.compile(function(a)
    a:add_(1)
    return a * 1
  end)
  t.eq({state(s):item(), state(s):item(), s:item()}, {2.0, 3.0, 3.0})
end)

t.test("a compiled function drops the plans of states and functions that are no more", function()
  local f = ml.compile(function(x, s, g) return g(x) + s, s end)
  local x = ml.ones {4}
  local sizes = {}
  for i = 1, 40 do
    local s = ml.state(ml.full({65536}, i))
    local y, same = f(x:reshape {4, 1}, s, function(v) return v * i end)
    t.eq(y[1][1]:item(), 2.0 * i)
    t.ok(same == s)
    s:close()
    y:close()
    if i % 2 == 0 then collectgarbage() end
    sizes[i] = ml.memory.active()
  end
  t.ok(sizes[40] < sizes[4] + 1000000, ("%d bytes became %d"):format(sizes[4], sizes[40]))
end)

t.test("what a compiled function draws it draws anew, as it would uncompiled", function()
  local r = ml.random
  local function draws(x)
    local kept = r.uniform {2}
    return x + r.normal {3}, r.randint(0, 1000, {4}), r.permutation(5), kept, r.bernoulli(0.5, {8}),
      r.uniform({2}, {dtype = "float64"}), r.truncated_normal(-1, 1, {2}), r.split(r.key(7))[2]
  end
  local function run(fn)
    r.seed(11)
    local out = {}
    for i = 1, 4 do
      local results = {fn(ml.ones {3})}
      for _, v in ipairs(results) do out[#out + 1] = v:tolist() end
      if i == 2 then out[#out + 1] = r.uniform({2}):tolist() end -- the sequence goes on between calls
    end
    return out
  end
  local eager, compiled = run(draws), run(ml.compile(draws))
  t.eq(compiled, eager)
  t.ok(ml.json.encode(compiled[1]) ~= ml.json.encode(compiled[9]), "two calls drew the same")
  local outer = ml.compile(function(x) return (ml.compile(draws)(x)) end)
  r.seed(11)
  t.eq(outer(ml.ones {3}):tolist(), eager[1])
  local seeding = ml.compile(function(x) r.seed(3) return x end)
  t.raises(function() seeding(ml.ones {1}) end, "seed: a plan is recorded", "usage")
  local key = r.key(5)
  local keyed = ml.compile(function(k) return r.uniform({3}, {key = k}) end)
  t.eq(keyed(key):tolist(), keyed(key):tolist())
end)

t.test("an operation with several results is computed once, for whichever of them is asked", function()
  local core = require "moonlet.core"
  local function plans() return ml.stats().replays end
  local x = ml.tensor {{3, 1, 2}, {5, 9, 7}}
  local values, at = (x * 2):topk(2)
  local before = plans()
  t.eq(at:tolist(), {{0, 2}, {1, 2}})
  t.eq(values:tolist(), {{6, 4}, {18, 14}})
  t.eq(plans() - before, 1)
  local _, alone = (x + 1):topk(1) -- the other result is nobody's
  collectgarbage()
  t.eq((alone + 1):tolist(), {{1}, {2}})
  local rewrites = core.rewrites().several
  local f = ml.compile(function(y, k)
    local v, i = y:topk(k)
    local w, j = y:topk(k) -- the same again
    return v + w, i, (i + j):sum(), y:topk(1)
  end)
  local v, i, sum, best, where = f(x, 2)
  t.eq({v:tolist(), i:tolist(), sum:item()}, {{{6, 4}, {18, 14}}, {{0, 2}, {1, 2}}, 10})
  t.eq({best:tolist(), where:tolist()}, {{{3}, {9}}, {{0}, {1}}})
  t.eq(core.rewrites().several - rewrites, 2)
  local s = ml.state(ml.tensor {1, 5, 3})
  local largest, place = s:topk(1)
  ml.assign(s, s * -1) -- which the results that are lazy still do not see
  t.eq({largest:tolist(), place:tolist(), s:tolist()}, {{5}, {1}, {-1, -5, -3}})
  t.eq(ml.tensor({1, 2, 300}, {dtype = "int64"}):topk(3):tolist(), {300, 2, 1})
  local one, two = x:topk(2), x:topk(2) -- equal ones, of which one is asked for and both are held
  t.eq({(two + 1):tolist(), one:tolist()}, {{{4, 3}, {10, 8}}, {{3, 2}, {9, 7}}})
end)

t.test("indices are int64 where int32 does not hold them", function()
  local huge = ml.broadcast_to(ml.tensor({1}, {dtype = "int8"}), {2, 1 << 31})
  t.eq({huge:argmax(2).dtype, huge:argmax(1).dtype, huge:argmax().dtype}, {"int64", "int32", "int64"})
  t.eq({huge:argsort(2).dtype, huge:argsort(1).dtype}, {"int64", "int32"})
  t.eq({select(2, huge:topk(3, 2)).dtype, select(2, huge:topk(1, 1)).dtype}, {"int64", "int32"})
end)

t.test("what is folded holds what the plan reads", function()
  local a, b = ml.tensor({3}, {dtype = "int32"}), ml.tensor({1, 2, 3, 4, 5}, {dtype = "int64"})
  local first, second = ml.compile(function()
    local x = ml.le(a, b)
    local y = ml.reshape(x, {1, 5})
    x:close()
    return y, ml.le(a, b)
  end)()
  t.eq(first:tolist(), {{false, false, true, true, true}})
  t.eq(second:tolist(), {false, false, true, true, true})
end)

-- ---- programs with several outputs, and those that write states ----

local function adamw(n) return require "tests.lua.adamw"(ml.linspace(-1, 1, n)) end

t.test("AdamW is one step that moves 28 bytes a parameter", function()
  local n = 1000
  local o, update = adamw(n)
  local g = ml.linspace(2, -3, n)
  local text = ml.explain(update, g)
  local bytes
  for line in text:gmatch "[^\n]+" do
    local b = line:match "%(1000%)%s+(%d+) B"
    if b then
      t.ok(not bytes, "a second step over the parameters:\n" .. text)
      bytes = math.tointeger(b)
    end
  end
  t.ok(bytes and bytes >= 28 * n and bytes < 28 * n + 16, text)
  local eager, step = adamw(n)
  local compiled = ml.compile(update)
  for _ = 1, 3 do
    compiled(g)
    step(g)
    ml.eval()
  end
  for _, name in ipairs {"step", "p", "m", "v"} do t.eq(o[name]:tobytes(), eager[name]:tobytes(), name) end
  -- one operation at a time
  local p, m, v = ml.linspace(-1, 1, n), ml.zeros {n}, ml.zeros {n}
  for i = 1, 3 do
    local function now(x) ml.eval(x) return x end
    local s = ml.tensor(i + 0.0)
    local c1 = now(1 - now(now(s * math.log(0.9)):exp()))
    local c2 = now(1 - now(now(s * math.log(0.999)):exp()))
    m = now(now(m * 0.9) + now(g * 0.1))
    v = now(now(v * 0.999) + now(now(g * g) * 0.001))
    local ratio = now(now(m / c1) / now(now(now(v / c2):sqrt()) + 1e-8))
    p = now(p - now(now(ratio + now(p * 0.01)) * 1e-3))
  end
  t.eq(o.p:tobytes(), p:tobytes())
  t.eq(o.m:tobytes(), m:tobytes())
  t.eq(o.v:tobytes(), v:tobytes())
end)

t.test("a program writes a state that it reads in another order from a copy", function()
  local s = ml.state(ml.arange(9):reshape({3, 3}):astype "float32")
  local f = ml.compile(function()
    ml.assign(s, s:transpose() + s)
    return s * 1
  end)
  t.eq(f():tolist(), {{0.0, 4.0, 8.0}, {4.0, 8.0, 12.0}, {8.0, 12.0, 16.0}})
  local moved = ml.state(ml.arange(5):astype "float32")
  local g = ml.compile(function()
    ml.assign(moved:slice {{2, 5}}, moved:slice {{1, 4}} + 10)
    return moved:slice {{1, 4}} * 2
  end)
  t.eq(g():tolist(), {0.0, 20.0, 22.0, 24.0})
  t.eq(moved:tolist(), {0.0, 10.0, 11.0, 12.0, 13.0})
end)

t.test("readers of a value, and of the state that it goes to, see what they should", function()
  local a, b = ml.state(ml.tensor {1.0, 2.0}), ml.state(ml.tensor {10.0, 20.0})
  local f = ml.compile(function(x)
    local old = a * 1
    local sum = a + x
    ml.assign(a, sum)
    ml.assign(b, sum)
    local between = b + old
    ml.assign(a, a * 2)
    return sum, between, a + b, old, b:sum()
  end)
  local sum, between, both, old, total = f(ml.tensor {100.0, 200.0})
  t.eq(sum:tolist(), {101.0, 202.0})
  t.eq(between:tolist(), {102.0, 204.0})
  t.eq(both:tolist(), {303.0, 606.0})
  t.eq(old:tolist(), {1.0, 2.0})
  t.eq(total:item(), 303.0)
  t.eq(a:tolist(), {202.0, 404.0})
  t.eq(b:tolist(), {101.0, 202.0})
end)

t.test("a value that is read later too is an output beside the last", function()
  local f = ml.compile(function(x)
    local y = x:exp()
    local z = y * 2 + 1
    return y:sum(), z, y:transpose():copy()
  end)
  local x = ml.linspace(0, 1, 6):reshape {2, 3}
  local text = ml.explain(function(v)
    local y = v:exp()
    return y * 2 + 1, y:sum()
  end, x)
  local _, programs = text:gsub("elementwise", "")
  t.eq(programs, 1, text)
  local total, z, turned = f(x)
  local y = x:exp()
  ml.eval(y)
  t.eq(total:item(), y:sum():item())
  t.eq(z:tobytes(), (y * 2 + 1):tobytes())
  t.eq(turned:tobytes(), y:transpose():copy():tobytes())
end)

-- Whether fn(e, ...) gives the same, to the bit, with every value that it passes through e evaluated at once, and
-- compiled, where it takes `steps` steps.
local function check_steps(steps, fn, ...)
  local arguments = table.pack(...)
  local function each(x)
    ml.eval(x)
    return x
  end
  local function whole(...) return fn(function(x) return x end, ...) end
  local wanted, compiled = {fn(each, ...)}, ml.compile(whole)
  local found = {compiled(table.unpack(arguments, 1, arguments.n))}
  for i, x in ipairs(wanted) do
    t.eq(found[i].shape, x.shape)
    t.ok(found[i]:tobytes() == x:tobytes(), ("result %d differs"):format(i))
  end
  local text = ml.explain(whole, ...)
  t.eq(math.tointeger(text:match "^%d+"), steps, text)
end

t.test("what is done with a statistic of each row joins its step, with the axis or without", function()
  for _, dtype in ipairs {"float32", "bfloat16", "float64"} do
    local function numbers(...) return ml.random.normal {...}:astype(dtype) end
    local x, b, c = numbers(64, 64), numbers(64), numbers(64, 1)
    ml.eval(x, b, c)
    check_steps(1, function(e, u, v) return e(e(e(e(u * 2):sum(2)) * v) + 1) end, x, b)
    check_steps(2, function(e, u, v) return e(e(e(u * v):sum(2)) * v) end, x, b) -- v is read as a row, and by the row
    check_steps(2, function(e, u, v) -- so is the sum
      local s = e(e(u * v):sum(2))
      return e(e(s:exp()) * 3), e(u - s)
    end, x, c)
    check_steps(1, function(e, u)
      local d = e(u - e(u:mean(2, true)))
      return e(e(e(d * d):sum(2)) / 64), d
    end, x)
  end
  local s, x = ml.state(ml.zeros {3, 5}), ml.random.normal {3, 5, 70}
  ml.eval(x)
  local f = ml.compile(function(u) ml.assign(s, (u * u):sum(-1):sqrt()) end)
  f(x)
  t.eq(s:tolist(), (x * x):sum(-1):sqrt():tolist())
end)

t.test("what is one element for all is computed in the step of those, once", function()
  local x, w = ml.random.normal {40, 700}, ml.pack(ml.random.normal {24, 700})
  local one, rate, row = ml.tensor {1.5}, ml.tensor(0.25), ml.random.normal {700}
  ml.eval(x, one, rate, row)
  check_steps(1, function(e, a, b, c) return e(a * e(e(b + 1) / e(c:exp()))) end, x, one, rate)
  check_steps(3, function(e, a, b, c) return e(a:transpose() * e(b + c)), e(e(a * e(b + c)):relu()) end, x, one, rate)
  check_steps(1, function(e, a, b) return e(e(ml.linear(a, w)) * e(b:exp())) end, x, one)
  check_steps(1, function(e, a, b) return e(e(a:matmul(a:transpose())) * e(b:exp())) end, x, one)
  check_steps(2, function(e, a, b) -- it is read by others too
    local s = e(b:exp())
    return e(a * s), s
  end, x, one)
  local count = ml.state(ml.zeros {})
  local f = ml.compile(function(a)
    local after = count + 1
    ml.assign(count, after)
    return a * (after * 2)
  end)
  for i = 1, 2 do t.ok(f(x):tobytes() == (x * (2 * i)):tobytes(), "a state of one element") end
end)

t.test("a product has several outputs of any dtype, and is written to states at once", function()
  local x, w, v = ml.random.normal {5, 32}, ml.pack(ml.random.normal {40, 32}), ml.pack(ml.random.normal {40, 32})
  local added = ml.random.normal {5, 40}
  ml.eval(x, added)
  check_steps(1, function(e, a) return e(e(ml.linear(a, w)):astype "bfloat16") end, x)
  check_steps(1, function(e, a) -- a forward that its backward reads
    local gate, up = e(ml.linear(a, w)), e(ml.linear(a, v))
    local active = e(gate:silu())
    return e(active * up), gate, up, active
  end, x)
  check_steps(2, function(e, a, b) -- more than a program writes
    local y = e(ml.linear(a, w))
    local p, q, r = e(y + b), e(y - b), e(y * b)
    return e(e(e(p + q) + r):gt(0)), y, p, q, r
  end, x, added)
  check_steps(3, function(e, a, b) return e(e(ml.linear(a, w)):relu()), e(e(ml.linear(a, w)) * b):sum(1) end, x, added)
  local updates = {
    {1, function(e, s, a) -- the product itself
      ml.assign(s, e(ml.linear(a, w)))
      return {}
    end},
    {2, function(e, s, a) -- and what is read of it
      local y = e(ml.linear(a, w))
      ml.assign(s, y)
      return {y, e(y:sum())}
    end},
    {2, function(e, s, a, b) -- the state is read on the way, before and after
      local before, y = e(s * 1), e(ml.linear(a, w))
      local z = e(e(s + y):tanh())
      ml.assign(s, z)
      return {before, z, e(s + b)}
    end},
  }
  for _, case in ipairs(updates) do
    local steps, fn = case[1], case[2]
    local start = ml.random.normal {5, 40}
    local s, eager = ml.state(start), ml.state(start)
    local function each(y) ml.eval(y) return y end
    local function whole_fn(a, b) return fn(function(y) return y end, s, a, b) end
    local f = ml.compile(whole_fn)
    for _ = 1, 2 do
      local wanted = fn(each, eager, x, added)
      for i, y in ipairs(f(x, added)) do t.ok(y:tobytes() == wanted[i]:tobytes(), "result " .. i) end
      t.ok(s:tobytes() == eager:tobytes(), steps .. ": the state")
    end
    t.eq(math.tointeger(ml.explain(whole_fn, x, added):match "^%d+"), steps)
  end
end)

t.test("products of float64 have programs behind them as others have", function()
  for _, size in ipairs {1, 5, 40, 400} do
    local x, y, z = ml.random.normal {3, size, 30}, ml.random.normal {30, size}, ml.random.normal {size}
    x, y, z = x:astype "float64", y:astype "float64", z:astype "float64"
    ml.eval(x, y, z)
    check_steps(1, function(e, a, b, c) return e(e(e(a:matmul(b)) + c):relu()):astype "float32", a end, x, y, z)
    check_steps(1, function(e, a, b, c) return e(e(ml.linear(a, b)) * c) end, x, y:transpose():copy(), z)
  end
end)

t.test("what a kernel gives is written to a state at once, unless it reads that state or others read it", function()
  local x = ml.random.normal {4, 6, 16}
  ml.eval(x)
  for name, fn in pairs {
    cumsum = function(a) return a:transpose {2, 1, 3}:cumsum(1) end,
    norm = function(a) return ml.rms_norm(a:transpose {2, 1, 3}) end,
    matmul = function(a) return a:matmul(a:transpose {1, 3, 2}) end,
    mean = function(a) return a:mean(1) end,
    take = function(a) return a:take(ml.tensor {1, 3}, 1) end,
    concat = function(a) return ml.concat({a, a}, 2) end,
  } do
    local wanted = fn(x)
    local s = ml.state(ml.zeros(wanted.shape))
    local function update(a) ml.assign(s, fn(a)) end
    ml.compile(update)(x)
    t.ok(s:tobytes() == wanted:tobytes(), name)
    t.eq(ml.explain(update, x):match "^%d+", "1", name)
  end
  local square = ml.random.normal {8, 8}
  local s, wanted = ml.state(square), square:matmul(square)
  ml.eval(wanted)
  ml.compile(function() ml.assign(s, s:matmul(s)) end)()
  t.ok(s:tobytes() == wanted:tobytes(), "it reads the state")
  local both = ml.state(square)
  local f = ml.compile(function()
    local old, product = both * 1, both:matmul(both)
    ml.assign(both, product)
    return old, product, both + old
  end)
  local old, product, sum = f()
  t.ok(old:tobytes() == square:tobytes() and product:tobytes() == wanted:tobytes(), "others read it")
  t.ok(sum:tobytes() == (wanted + square):tobytes())
end)

t.test("what is computed before a reduction over any axes is what it would be apart", function()
  local random = require "tests.lua.programs.random"(5)
  local lengths = {1, 2, 3, 16, 17, 63, 64, 65, 130, 300, 1030}
  local joined = 0
  for case = 1, 150 do
    local dtype = random:pick {"float32", "bfloat16", "float16", "float64", "int32"}
    local names = {"sum", "mean", "max", "min", "prod", "argmax", "argmin", "any", "all"}
    if dtype ~= "int32" then table.move({"var", "std", "norm", "logsumexp"}, 1, 4, #names + 1, names) end
    local op, shape, other, axes, size = random:pick(names), {}, {}, {}, 1
    for d = 1, random:int(1, 4) do
      shape[d] = random:pick(lengths)
      if size * shape[d] > 30000 then shape[d] = 2 end
      size = size * shape[d]
      other[d] = random:chance(0.5) and shape[d] or 1
      if random:chance(0.5) then axes[#axes + 1] = d end
    end
    if case % 15 == 0 then shape, other, axes = {random:int(16385, 40000)}, {1}, {1} end
    if #axes == 0 or op:find "arg" then axes = axes[1] or 1 end
    local function numbers(of) return (ml.random.normal(of) * 9):astype(dtype) end
    local x, y = numbers(shape), numbers(other)
    local function fn(e, a, b)
      local before = e(e(a * b) + b)
      return before[op](before, axes)
    end
    local function whole(...) return fn(function(v) return v end, ...) end
    ml.eval(x, y)
    local wanted = fn(function(v) ml.eval(v) return v end, x, y)
    t.ok(ml.compile(whole)(x, y):tobytes() == wanted:tobytes(), op .. " of " .. dtype .. " " .. ml.json.encode(shape))
    joined = joined + (ml.explain(whole, x, y):match "^1 steps" and 1 or 0)
  end
  t.ok(joined > 75, joined .. " of 150 in one step")
end)

t.test("work along rows is written to the state that it reads, without a copy where a row is read first", function()
  for name, case in pairs {
    softmax = {1, function(e, s) return e(s:softmax()) end},
    norm = {1, function(e, s) return e(ml.rms_norm(e(s * 2))) end},
    ["norm and residual"] = {2, function(e, s) return e(e(ml.rms_norm(s)) + s) end}, -- s is read to the end
  } do
    local start = ml.random.normal {7, 100}
    ml.eval(start)
    local s, wanted = ml.state(start), case[2](function(x) ml.eval(x) return x end, start)
    local function update() ml.assign(s, case[2](function(x) return x end, s)) end
    local text = ml.explain(update)
    t.eq(math.tointeger(text:match "^%d+"), case[1], text)
    ml.compile(update)()
    t.ok(s:tobytes() == wanted:tobytes(), name)
  end
end)

t.test("a compiled function refuses to yield, and what it drew before an error is drawn", function()
  local f = ml.compile(function(x)
    coroutine.yield(1)
    return x + 1
  end)
  local co = coroutine.create(function() return f(ml.ones {1}) end)
  local ok, message = coroutine.resume(co)
  t.ok(not ok and tostring(message):find("yield", 1, true), message)
  t.eq((ml.state(ml.ones {1}) + 1):tolist(), {2.0}) -- nothing is recorded any more
  local function draws()
    ml.random.uniform {2}
    error "no"
  end
  local next_draw = {}
  for i, fn in ipairs {draws, ml.compile(draws)} do
    ml.random.seed(7)
    t.ok(not pcall(fn))
    next_draw[i] = ml.random.uniform({1}):item()
  end
  t.eq(next_draw[2], next_draw[1])
end)

t.test("a product with the transpose of a weight takes what is done with its result", function()
  for _, shape in ipairs {{3, 40, 33}, {70, 130, 300}} do
    local rows, outputs, inputs = table.unpack(shape)
    local y, other = ml.random.normal {rows, outputs}, ml.random.normal {rows, inputs}
    local plain = ml.random.normal {outputs, inputs}
    local s = ml.state(ml.zeros {rows, inputs})
    ml.eval(y, other, plain)
    for _, weight in ipairs {plain, plain:astype "bfloat16", ml.pack(plain), ml.pack(plain:astype "bfloat16")} do
      local function f(x, z)
        local product = x:linear_transposed(weight)
        local sum = product * 0.5 + z:tanh()
        ml.assign(s, sum * sum)
        return sum, product
      end
      t.eq(ml.explain(f, y, other):match "^(%d+) steps", "1")
      local product, turned = y:linear_transposed(weight), other:tanh()
      ml.eval(product, turned)
      local half = product * 0.5
      ml.eval(half)
      local sum = half + turned
      ml.eval(sum)
      local a, b = ml.compile(f)(y, other)
      t.eq(a:tobytes(), sum:tobytes())
      t.eq(b:tobytes(), product:tobytes())
      t.eq(s:tobytes(), (sum * sum):tobytes())
    end
  end
end)

t.test("steps that come earlier than they were written read and write what they did", function()
  local core = require "moonlet.core"
  local s, log = ml.state(ml.ones {32, 32}), ml.state(ml.zeros {6})
  local function program(x, e)
    local held, turned, sum = {}, {}, ml.zeros {}
    for i = 1, 6 do
      held[i] = e(e(s + x * i):cumsum(1))
      turned[i] = e(e(x * i):cumsum(2))
      if i == 3 then e(ml.assign(s:slice {{1, 16}, {}}, e(held[i]:slice {{1, 16}, {}} * 0.125))) end
    end
    for i = 1, 6 do
      e(ml.assign(log:slice {{i, i}}, e(held[i]:max()):reshape {1}))
      sum = e(sum + e(held[i]:sum()) * e(held[i]:min()) + e(s:slice {{i, i + 8}, {}}:cumsum(1)):sum())
    end
    turned[6] = e(turned[6] * e(sum:sigmoid()))
    for i = 6, 1, -1 do -- windows that overlap, of which the first has to wait, behind those that read the state
      e(ml.assign(s:slice {{i, i + 8}, {}}, e(turned[i]:slice {{1, 9}, {}}:cumsum(1))))
    end
    return e(sum), e(s + 0), e(log + 0)
  end
  local first, x = ml.random.uniform {32, 32}, ml.random.uniform {32, 32}
  ml.eval(first, x)
  local function values(fn)
    ml.assign(s, first)
    ml.assign(log, log * 0)
    local list = {fn(x)}
    for k, y in ipairs(list) do list[k] = y:tolist() end
    return list
  end
  local function same(y) return y end
  local expected = values(function(y) return program(y, function(z) ml.eval(z) return z end) end)
  local before = core.rewrites().scheduled
  t.eq(values(function(y) return program(y, same) end), expected)
  local compiled = ml.compile(function(y) return program(y, same) end)
  for _ = 1, 3 do t.eq(values(compiled), expected) end
  t.ok(core.rewrites().scheduled > before, "steps came earlier")
end)

t.test("what one product's readers give to another's is there when it is read", function()
  local weights = {}
  for i = 1, 4 do weights[i] = ml.random.normal({16, 32}, {key = ml.random.key(i)}):pack() end
  local x = ml.random.normal({2, 32}, {key = ml.random.key(9)})
  local function f(input)
    local p = {}
    for i, w in ipairs(weights) do p[i] = input:linear(w) end
    local b = p[4]:silu()
    return p[3] * b, p[1] * 2, p[2] + b
  end
  local alone = {f(x)}
  for i, y in ipairs(alone) do alone[i] = y:tobytes() end -- one after the other
  for i, y in ipairs {ml.compile(f)(x)} do t.eq(y:tobytes(), alone[i]) end
end)

t.done()
