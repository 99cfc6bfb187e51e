-- What state means: an effect happens once, where it was written, whatever becomes of the evaluations around it.
local core = require "moonlet.core"
local ml = require "moonlet"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

-- Runs fn with `bytes` more memory than is in use.
local function within(bytes, fn)
  ml.memory.limit(ml.memory.active() + bytes)
  local ok, err = pcall(fn)
  ml.memory.limit(0)
  return ok, err
end

t.test("an effect that is pending when memory runs out happens once, afterwards", function()
  local s = ml.state(ml.zeros {4})
  local x = ml.ones {1 << 18} + 1
  ml.assign(s, ml.ones {4} * 3)
  local ok, err = within(1 << 12, function() ml.eval(x) end)
  t.eq(ok, false)
  t.eq(err.code, "limit")
  t.eq(s:tolist(), {3.0, 3.0, 3.0, 3.0})
  t.eq(x:sum():item(), 2.0 * (1 << 18))
  local count = ml.state(ml.zeros {1})
  for i = 1, 30 do
    ml.assign(count, count + 1)
    local fits = within(128, function() ml.eval(ml.ones {1 << 18} + i) end)
    t.eq(fits, false)
  end
  t.eq(count:item(), 30.0)
end)

t.test("a compiled function sees what was written before it was called", function()
  local s = ml.state(ml.ones {2})
  local f = ml.compile(function() return s + 1 end)
  t.eq(f():tolist(), {2.0, 2.0})
  ml.assign(s, s * 0 + 5)
  t.eq(f():tolist(), {6.0, 6.0})
  ml.assign(s, s * 2)
  ml.assign(s, s + 1)
  t.eq(f():tolist(), {12.0, 12.0})
  t.eq(s:tolist(), {11.0, 11.0})
end)

-- ---- what a compiled function captures ----

t.test("what is captured before it is computed has the value that it had then", function()
  local s = ml.state(ml.zeros {2})
  local reader, part, same, deep = s + 1, s:slice {{2, 2}}, s:reshape {2}, (s:slice {{1, 1}} + 1) * 2
  local draw = ml.random.uniform {2}
  local f = ml.compile(function(x) return x + reader, x + part, x + same, x + deep, x + draw, reader, same, part end)
  local first
  for i = 0, 2 do
    local values = {f(ml.zeros {1})}
    for k, x in ipairs(values) do values[k] = x:tolist() end
    first = first or values
    t.eq(values, first)
    t.eq(values[1], {1.0, 1.0})
    t.eq(values[2], {0.0})
    t.eq(values[3], {0.0, 0.0})
    t.eq(values[4], {2.0})
    t.eq(values[5], draw:tolist())
    t.eq(s:tolist(), {10.0 * i, 10.0 * i})
    ml.assign(s, s + 10)
  end
  t.eq(same:tolist(), {0.0, 0.0})
end)

t.test("what is captured is read as it was, whatever the function writes", function()
  local s = ml.state(ml.tensor {1.0, 2})
  local before, part = s:reshape {2}, s:slice {{1, 1}}
  local f = ml.compile(function(x)
    ml.assign(s, s * x)
    local found = before:tolist()
    ml.assign(part, x)
    return before + 0, part + 0, s + 0, ml.tensor(found)
  end)
  for i = 1, 3 do
    local was, first, now, found = f(ml.tensor {3.0})
    t.eq(was:tolist(), {1.0, 2.0})
    t.eq(first:tolist(), {1.0})
    t.eq(found:tolist(), {1.0, 2.0})
    t.eq(now:tolist(), {3.0, 2.0 * 3 ^ i})
  end
end)

t.test("what is left of another recording is refused", function()
  local left, given, state
  local s = ml.state(ml.zeros {1})
  ml.compile(function(x)
    ml.assign(s, s + x)
    left, given, state = x * 2, x, s:reshape {1}
    return x + 1
  end)(ml.ones {1})
  for _, x in ipairs {left, given, state} do
    local f = ml.compile(function(y) return y + x end)
    t.raises(function() f(ml.ones {1}) end, "what a compiled function made is used outside it", "usage")
    t.raises(ml.compile(function() return x end), "what a compiled function made is used outside it", "usage")
  end
  t.eq(s:tolist(), {1.0})
end)

t.test("a compiled function that fails leaves no effect, inside another one too", function()
  local s = ml.state(ml.zeros {1})
  local inner = ml.compile(function(x)
    ml.assign(s, s + x)
    error "no"
  end)
  local function outer(x)
    ml.assign(s, s + 10)
    pcall(inner, x)
    return s + x
  end
  t.eq(outer(ml.ones {1}):item(), 11.0)
  t.eq(s:item(), 10.0)
  local f = ml.compile(outer)
  for i = 2, 3 do
    t.eq(f(ml.ones {1}):item(), 10.0 * i + 1)
    t.eq(s:item(), 10.0 * i)
  end
end)

-- ---- versions ----

t.test("a reader keeps the version that it was given", function()
  local s = ml.state(ml.tensor {1.0, 2})
  local y, row = s + 1, s:slice {{2, 2}}
  ml.assign(s, s * 100)
  t.eq(s:tolist(), {100.0, 200.0})
  t.eq(y:tolist(), {2.0, 3.0})
  t.eq(row:tolist(), {2.0})
  local versions = {}
  for i = 1, 5 do
    versions[i] = s:reshape {1, 2}
    ml.assign(s, s + i)
  end
  t.eq(s:tolist(), {115.0, 215.0})
  local wanted = 100.0
  for i = 1, 5 do
    t.eq(versions[i]:tolist(), {{wanted, wanted + 100}}, "version " .. i)
    wanted = wanted + i
  end
end)

t.test("in one evaluation, readers of every version see their own", function()
  local s = ml.state(ml.tensor {{1.0, 2}, {3, 4}})
  local whole, turned, window = s:copy(), s:transpose(), s:slice {{2, 2}, {}}
  ml.assign(s, turned)
  local after = s + 0
  ml.assign(s, s * 10 + window)
  local late = turned + window -- written after both effects
  ml.eval(whole, turned, window, after, late, s)
  t.eq(whole:tolist(), {{1.0, 2.0}, {3.0, 4.0}})
  t.eq(turned:tolist(), {{1.0, 3.0}, {2.0, 4.0}})
  t.eq(window:tolist(), {{3.0, 4.0}})
  t.eq(after:tolist(), {{1.0, 3.0}, {2.0, 4.0}})
  t.eq(late:tolist(), {{4.0, 7.0}, {5.0, 8.0}})
  t.eq(s:tolist(), {{13.0, 34.0}, {23.0, 44.0}})
end)

t.test("a part that is held of a state that is written costs the part, not a copy of the state", function()
  local id = ml.tensor({3}, {dtype = "int32"})
  for i = 1, 20 do
    local evaluated = i > 1
    local s = ml.state(ml.arange(100000.0):reshape {1000, 100})
    local part = s:take(id, 1)
    ml.eval(s, evaluated and part or s) -- the part may be under way for a while
    local text = ml.profile(function()
      ml.scope(function() ml.assign(s:slice {{1, 1}, {}}, part * 2) end)
      ml.eval()
    end)
    t.ok(not text:find("(1000, 100)", 1, true), text)
    t.eq(part:slice {{}, {1, 3}}:tolist(), {{300.0, 301.0, 302.0}})
    t.eq(s:slice {{1, 3}, {1, 2}}:tolist(), {{600.0, 602.0}, {100.0, 101.0}, {200.0, 201.0}})
  end
end)

t.test("what a state becomes is held, and the state as it was is not copied", function()
  local s = ml.state(ml.random.normal {1000, 100})
  local text = ml.profile(function()
    local doubled = s * 2
    ml.assign(s, doubled)
    ml.eval()
    t.ok(doubled:tobytes() == s:tobytes(), "the same")
  end)
  t.ok(text:find "^1 step", text)
end)

t.test("what is read of a state before an append that fails is that, or an error", function()
  local function whole(list) return ml.tensor(list, {dtype = "int32"}) end
  for _ = 1, 10 do -- where the device does it later
    local s = ml.state(ml.arange(16.0):reshape {4, 1, 2, 2}) -- pages, heads, positions, elements
    local part = s:take(whole {1}, 1)
    ml.cache_append(s, part + 5, whole {{1}}, {start = whole {0}})
    ml.cache_append(s, part, whole {{9}}, {start = whole {0}})
    t.raises(function() ml.eval() end, "9", "usage")
    local ok, values = pcall(part.tolist, part)
    if ok then t.eq(values, {{{{4.0, 5.0}, {6.0, 7.0}}}}) end
  end
end)

t.test("a selection does not move past a write", function()
  local x, id = ml.random.normal({4, 8}), ml.tensor({2}, {dtype = "int32"})
  local function step(w)
    return function()
      local y = ml.linear(x, w)
      ml.assign(w, w * 100)
      return y:take(id, 1)
    end
  end
  local start = ml.random.normal({16, 8})
  local wanted = ml.linear(x, start):take(id, 1):tolist()
  t.eq(ml.compile(step(ml.state(start)))():tolist(), wanted)
  t.eq(step(ml.state(start))():tolist(), wanted)
end)

t.test("a state that is an argument is the same storage inside", function()
  local s = ml.state(ml.zeros {4})
  local f = ml.compile(function(x)
    local before = x + 1
    ml.assign(s, x + 10)
    return before, x * 2, s
  end)
  for i = 0, 20 do
    local before, after, same = f(s)
    t.eq(before:tolist(), {10.0 * i + 1, 10.0 * i + 1, 10.0 * i + 1, 10.0 * i + 1})
    t.eq(after:tolist(), (s * 2):tolist())
    t.ok(rawequal(same, s))
    t.eq(s:tolist(), {10.0 * i + 10, 10.0 * i + 10, 10.0 * i + 10, 10.0 * i + 10})
  end
  local other = ml.state(ml.ones {4})
  local seen, twice = f(other)
  t.eq(seen:tolist(), {2.0, 2.0, 2.0, 2.0})
  t.eq(twice:tolist(), {2.0, 2.0, 2.0, 2.0})
  t.eq(other:tolist(), {1.0, 1.0, 1.0, 1.0})
  t.eq(s:tolist(), {11.0, 11.0, 11.0, 11.0})
end)

t.test("a replay leaves what was read before as it was", function()
  local s = ml.state(ml.zeros {3})
  local count = ml.compile(function() ml.assign(s, s + 1) end)
  local seen = {}
  for i = 1, 4 do
    seen[i] = s * 1
    count()
  end
  for i = 1, 4 do t.eq(seen[i]:tolist(), {i - 1.0, i - 1.0, i - 1.0}) end
  t.eq(s:tolist(), {4.0, 4.0, 4.0})
end)

t.test("windows and in-place forms write the state", function()
  local s = ml.state(ml.zeros {3, 2})
  local row = s:slice {{2, 2}, {}}
  t.eq(ml.assign(row, ml.tensor {{5.0, 6}}):tolist(), {{5.0, 6.0}})
  t.eq(row:tolist(), {{0.0, 0.0}}) -- a value, as it was then
  t.eq(s:tolist(), {{0.0, 0.0}, {5.0, 6.0}, {0.0, 0.0}})
  ml.assign(row:transpose(), ml.tensor {{7.0}, {8}}) -- and the same window still
  t.eq(s:tolist(), {{0.0, 0.0}, {7.0, 8.0}, {0.0, 0.0}})
  ml.assign(row, ml.tensor {{5.0, 6}})
  local before = s + 0
  s:add_(1)
  s:mul_(s)
  t.eq(s:tolist(), {{1.0, 1.0}, {36.0, 49.0}, {1.0, 1.0}})
  t.eq(before:tolist(), {{0.0, 0.0}, {5.0, 6.0}, {0.0, 0.0}})
  t.raises(function() ml.assign(s:broadcast_to {2, 3, 2}, ml.zeros {2, 3, 2}) end, "no window", "usage")
  t.raises(function() ml.assign(s:transpose():reshape {6}, ml.zeros {6}) end, "no window", "usage")
  t.raises(function() ml.assign(s + 1, ml.zeros {3, 2}) end, "not state", "usage")
  t.raises(function() ml.assign(ml.zeros {2}, ml.zeros {2}) end, "not state", "usage")
end)

t.test("what reads a state behind an append that failed has no value", function()
  local cache <close> = core.make_state(ml.zeros {1, 1, 4, 2})
  local function number(n) return ml.tensor({n}, {dtype = "int32"}) end
  local page = ml.tensor({{0}}, {dtype = "int32"})
  ml.cache_append(cache, ml.ones {1, 1, 1, 2}, page, number(0), number(1))
  local y <close> = cache * 2
  local none <close> = ml.zeros({2}):take(number(7), 1)
  t.raises(function()
    ml.eval(y, none)
    ml.eval() -- where the device was still at work
  end, "out of range", "usage")
  t.raises(function() y:tolist() end, "lost", "usage")
  t.eq(cache:tolist()[1][1][1], {0.0, 0.0}) -- what was there is
  ml.cache_append(cache, ml.ones {1, 1, 1, 2}, page, number(0), number(1))
  t.eq(cache:tolist()[1][1][2], {1.0, 1.0})
end)

t.test("what can never be computed takes nothing else along", function()
  local function broken()
    local s = ml.state(ml.zeros {2})
    ml.assign(s, s + 1)
    t.raises(function() ml.eval(ml.zeros({3}):take(ml.tensor {7}, 1)) ml.eval() end, "out of range", "usage")
    return s
  end
  local function pending()
    local s, a, b = broken(), ml.state(ml.ones {2}), ml.state(ml.ones {2})
    ml.assign(a, s + 1)
    ml.assign(b, b + 1)
    return s, a, b
  end
  for _, fails in ipairs {
    function() ml.eval() end,
    function() ml.eval(ml.ones {2} * 3) end, -- what has nothing to do with any of them
  } do
    local s, a, b = pending()
    t.raises(fails, "no values since", "usage")
    t.raises(function() a:tolist() end, "no values since", "usage") -- what it was to hold does not exist
    t.eq(b:tolist(), {2.0, 2.0})
    ml.eval()
    ml.assign(s, ml.ones {2})
    ml.assign(a, s * 5)
    t.eq(a:tolist(), {5.0, 5.0})
  end
  local leaked
  local f = ml.compile(function(x)
    leaked = x + 1
    return x * 2
  end)
  ml.eval(f(ml.ones {2}))
  local c, d = ml.state(ml.ones {2}), ml.state(ml.ones {2})
  ml.assign(c, leaked)
  ml.assign(d, d + 1)
  t.raises(function() ml.eval() end, "used outside it", "usage")
  t.eq(d:tolist(), {2.0, 2.0})
  local s = broken()
  local function again()
    s:add_(1)
    ml.eval()
  end
  local first = select(2, pcall(again))
  for _ = 1, 20 do pcall(again) end
  t.ok(#select(2, pcall(again)).message <= #first.message, "the reason does not grow")
end)

t.test("a run that fails leaves the states that it replaces without values", function()
  local s, other = ml.state(ml.zeros {2}), ml.state(ml.ones {2})
  local id = ml.tensor({7}, {dtype = "int32"})
  local f = ml.compile(function(x, i)
    ml.assign(s, s + 1)
    return x:take(i, 1)
  end)
  local kept = s + 5
  t.raises(function() ml.eval(f(ml.zeros {3}, id)) end, "out of range", "usage")
  t.raises(function() s:tolist() end, "no values since", "usage")
  t.raises(function() (s + 1):tolist() end, "no values since", "usage")
  t.raises(function() f(ml.zeros {3}, id - 6) end, "no values since", "usage")
  for name, same in pairs { -- operations that have nothing to do
    astype = s:astype "float32", reshape = s:reshape {2}, broadcast_to = s:broadcast_to {2}, to = s:to "float32",
  } do
    t.raises(function() same:tolist() end, "no values since", "usage")
    t.raises(function() ml.compile(function(x) return x + 1 end)(same) end, "no values since", "usage")
    t.raises(function() ml.eval(same) end, "no values since", "usage", name)
  end
  t.eq(kept:tolist(), {5.0, 5.0})
  t.eq(other:tolist(), {1.0, 1.0})
  ml.assign(s, other)
  t.eq(s:tolist(), {1.0, 1.0})
  t.eq(f(ml.zeros {3}, id - 6):tolist(), {0.0})
  t.eq(s:tolist(), {2.0, 2.0})
  -- the same of an evaluation
  ml.assign(s, s + 1)
  t.raises(function() ml.eval(ml.zeros({3}):take(id, 1)) end, "out of range", "usage")
  t.raises(function() s:tolist() end, "no values since", "usage")
  ml.assign(s, other * 3)
  t.eq(s:tolist(), {3.0, 3.0})
end)

t.test("an evaluation that cannot begin leaves effects pending", function()
  local s, leaked = ml.state(ml.zeros {2}), nil
  ml.compile(function(x) leaked = x * 2 return x end)(ml.ones {2})
  ml.assign(s, s + 1)
  t.raises(function() ml.eval(leaked) end, "outside it", "usage")
  t.eq(s:tolist(), {1.0, 1.0})
end)

t.test("values of a trace have none outside it", function()
  local s, leaked, written = ml.state(ml.zeros {2}), nil, nil
  local f = ml.compile(function()
    leaked = s + 1
    ml.assign(s, leaked)
    written = s * 2
    return written
  end)
  t.eq(f():tolist(), {2.0, 2.0})
  t.raises(function() leaked:tolist() end, "outside it", "usage")
  t.raises(function() written:tolist() end, "outside it", "usage")
  t.raises(function() ml.compile(function() ml.assign(s, s + 1) error "stop" end)() end, "stop")
  t.eq(s:tolist(), {1.0, 1.0})
  t.eq(f():tolist(), {4.0, 4.0})
end)

t.test("a state is made by a method too, and not of a weight in another layout", function()
  local x = ml.tensor {1, 2}
  local s = x:state()
  s:add_(1)
  t.eq({s:tolist(), x:tolist()}, {{2, 3}, {1, 2}})
  local w = ml.pack(ml.ones {16, 32})
  t.raises(function() ml.state(w) end, "state: x: a weight of float32", "usage")
  t.raises(function() w:state() end, "state: x: a weight of float32", "usage")
end)

t.test("a state is not made by what is recorded, which would make it once", function()
  for _, make in ipairs {
    function() return ml.state({2}, "float32") end, function() return ml.state(ml.zeros {2}) end,
    function() return ml.zeros({2}):state() end,
  } do
    local f = ml.compile(function(x) return make():add_(x) * 1 end)
    t.raises(function() f(ml.ones {2}) end, "state: a plan is recorded", "usage")
  end
end)

t.test("a value that somebody holds is computed once", function()
  local x = ml.random.normal({64, 64})
  local y = x:matmul(x)
  local row = y[1]
  row:tolist()
  t.eq(core.op_of(y), nil, "y after its row was read")
  local traced = ml.stats().traces
  for i = 1, 8 do
    for j = 1, 8 do y[i][j]:item() end
  end
  t.eq(ml.stats().traces, traced, "views of what has values are made at once")
  local text = ml.explain(function() return y + 1 end)
  t.ok(not text:find "matmul", text)
end)

t.test("views of views of a state take memory as they are many, and name what they named before", function()
  local s = ml.state(ml.arange(6):reshape {2, 3})
  local v, held = s, {}
  for i = 1, 3000 do
    v = v:flip(1)
    held[i] = v
  end
  local function resident() return tonumber(io.open("/proc/self/status"):read "a":match "VmRSS:%s*(%d+)") << 10 end
  local before = resident()
  ml.eval(table.unpack(held))
  t.ok(resident() - before < 256 << 20, "each holds its own part of the way")
  ml.assign(held[2999], ml.tensor {{10, 11, 12}, {13, 14, 15}})
  t.eq(s:tolist(), {{13, 14, 15}, {10, 11, 12}})
  t.eq(held[2999]:tolist(), {{3, 4, 5}, {0, 1, 2}})
end)

t.test("of equal values that are held, none is computed again", function()
  local x = ml.random.normal({64, 64})
  ml.eval(x)
  local function three() return x:matmul(x), x:matmul(x), x:matmul(x) end
  local a, b, c = three()
  ml.eval(a * b + c)
  t.eq({core.op_of(a), core.op_of(b), core.op_of(c)}, {}, "on the way to another")
  local first, second, third = three() -- which is asked for: the first, or the last
  ml.eval(first, second + third)
  t.eq({core.op_of(first), core.op_of(second), core.op_of(third)}, {}, "the first asked for")
  local one, two, last = three()
  ml.eval(one + two, last)
  t.eq({core.op_of(one), core.op_of(two), core.op_of(last)}, {}, "the last asked for")
  for _, y in ipairs {b, c, first, second, third, one, two, last} do t.eq(y:tolist(), a:tolist()) end
end)

t.test("of many values held behind a product, more than a step has outputs, none takes another product", function()
  local x, w = ml.random.normal {16, 64}, ml.random.normal {64, 64}
  for name, make in pairs {
    product = function() return x:matmul(w) end, softmax = function() return x:softmax(-1) end,
  } do
    local held, first = {}, make()
    held[1] = first + 1
    first:close()
    for i = 2, 12 do held[i] = held[i - 1] * 1.25 end
    ml.eval(held[12])
    t.eq(core.op_of(held[1]), nil, name .. ": the first has a value, so that none is computed from further back")
  end
end)

t.test("a product, or work along rows, that somebody holds is computed once where it is fused too", function()
  local x, w = ml.random.normal {8, 64}, ml.random.normal {64, 64}
  local packed = ml.pack(w)
  ml.eval(x, w, packed)
  for name, make in pairs {
    matmul = function() return x:matmul(w) end,
    packed = function() return ml.linear(x, packed) end,
    attention = function()
      local q = x:reshape {1, 4, 8, 16}
      return ml.attention(q, q, q, {scale = 0.25})
    end,
    softmax = function() return ml.softmax(x * 2, -1) end,
    sum = function() return x:sum(-1, true) end,
  } do
    local y = make()
    local wanted = make():tolist()
    local whole <close> = (y * 2 + 1):sum()
    whole:item()
    t.eq(core.op_of(y), nil, name)
    t.eq(y:tolist(), wanted, name)
  end
  for _, name in ipairs {"sin", "exp", "tanh"} do -- elementwise, but as long as ten additions or more
    local slow = x[name](x)
    ml.eval((slow * 2):sum())
    t.eq(core.op_of(slow), nil, name)
  end
  local much = x:neg()
  for i = 1, 10 do
    local before <close> = much
    much = i % 2 == 0 and before:neg() or before:abs()
  end
  ml.eval(much + 1)
  t.eq(core.op_of(much), nil, "much work")
  local little = x:neg()
  ml.eval(little + 1)
  t.eq(core.op_of(little), "neg", "what is computed faster than written")
  local y = ml.linear(x, packed):tanh() -- what stands behind a product is the product's to be computed again
  local other <close> = (y * 2):sum()
  other:item()
  local text = ml.explain(function() return y + 1 end)
  t.ok(not text:find "linears", text)
end)

t.test("numbers of the host go past the graph by functions of core alone", function()
  local s, n = ml.state(ml.zeros {3}), ml.state(ml.zeros({2}, {dtype = "int32"}))
  for _, name in ipairs {"write_", "commit_", "read"} do
    t.eq(s[name], nil, name)
    for _, known in ipairs(getmetatable(s).__dir(s)) do t.ok(known ~= name, name) end
  end
  local before = s + 1
  t.eq(core.state_write(s, {1, 2.5, -3}), s)
  t.eq(s:tolist(), {1.0, 2.5, -3.0})
  t.eq(before:tolist(), {1.0, 1.0, 1.0}, "what was read before")
  core.state_write(n, {7, -8})
  t.eq(core.read_int(n, 2), -8)
  ml.assign(n, n * 2)
  t.eq(core.read_int(n, 1), 14, "a pending effect")
  t.raises(function() core.read_int(n, 0) end, "out of range", "usage")
  t.raises(function() core.read_int(n, 3) end, "out of range", "usage")
  t.raises(function() core.read_int(s, 1) end, "int32", "usage")
  t.raises(function() core.state_write(s, {1, 2}) end, "expected 3 values, found 2", "usage")
  t.raises(function() core.state_write(ml.zeros {1}, {1}) end, "no state", "usage")
  t.raises(function() core.state_commit(s, 1, 3) end, "no reservation", "usage")
  local room = core.reserve_state({1024, 1024}, "float32")
  local held = ml.memory.active()
  core.state_commit(room, 2, 256)
  t.eq(ml.memory.active() - held, 1 << 20)
  t.raises(function() core.state_commit(room, 2, 1025) end, "1025 entries of axis 2", "usage")
  t.ok(not within(0, function() core.state_commit(room, 1, 1024) end))
end)

t.test("a state of zeros counts as memory, all of it", function()
  local held = ml.memory.active()
  local s <close> = ml.state {1024, 1024}
  t.eq({s.dtype, ml.memory.active() - held}, {"float32", 4 << 20})
  local limit = ml.memory.limit()
  ml.memory.limit(ml.memory.active() + (1 << 20))
  t.raises(function() ml.state({1024, 1024}, "float32") end, "memory limit of " .. ml.default_device(), "limit")
  ml.memory.limit(limit)
  t.eq(ml.memory.active() - held, 4 << 20)
end)

-- What no variable holds any more gives way to what is wanted: the collector is asked before memory is refused.
t.test("garbage gives way to every kind of request", function()
  local bytes, row = string.rep("\1\2\3\4", 1 << 20), {}
  for i = 1, 1 << 16 do row[i] = i end
  local weight, blocks = ml.random.normal {1024, 1024}, core.random_packed("q8_0", 1024, 1024, 1, 1)
  local here = ml.default_device()
  ml.eval(weight)
  local requests = { -- each of at least 256 KB
    bytes = function() return ml.from_bytes(bytes, {1024, 1024}, "float32") end,
    numbers = function() return ml.tensor(row) end,
    state = function() return ml.state {1024, 1024} end,
    values = function() return ml.ones {1024, 1024} * 2 end,
    pack = function() return ml.pack(weight) end,
    unpack = function() return ml.unpack(blocks) end,
  }
  if here ~= "cpu" then
    local away = weight:to "cpu"
    requests.to = function() return away:to(here) end
  end
  for name, make in pairs(requests) do
    collectgarbage()
    ml.memory.clear()
    collectgarbage "stop"
    ml.state {4, 1024, 1024} -- garbage at once
    ml.memory.limit(ml.memory.active() + (1 << 17))
    local ok, made = pcall(function() return ml.eval(make()) end)
    ml.memory.limit(0)
    collectgarbage "restart"
    t.ok(ok, name .. ": " .. tostring(made))
  end
end)

t.test("reservations that nobody holds any more give their addresses back", function()
  collectgarbage()
  collectgarbage "stop"
  for _ = 1, 32 do t.eq(core.reserve_state({3, 1 << 30}, "float32").shape[1], 3) end -- 12 GB each
  collectgarbage "restart"
end)

t.test("a state that is closed, or only its readers are left", function()
  local s = ml.state(ml.ones {2})
  local y = s + 1
  ml.assign(s, s * 5)
  local z = s + 1
  s:close()
  t.eq(y:tolist(), {2.0, 2.0})
  t.eq(z:tolist(), {6.0, 6.0})
end)

-- Two windows on a state of which they are all that is left.
local function windows(how)
  local s = ml.state(ml.tensor {1.0, 2.0, 3.0})
  local w, other = s:slice {{2, 3}}, s:slice {{1, 2}}
  if how == "closed with windows evaluated" then ml.eval(w, other) end
  if how == "closed before it is evaluated" then ml.assign(s, s * 10) end
  if how ~= "collected" then s:close() end
  return w, other
end

t.test("a window writes its state also when the state's handle is gone", function()
  for _, how in ipairs {"closed", "collected", "closed before it is evaluated", "closed with windows evaluated"} do
    local w, other = windows(how)
    collectgarbage()
    collectgarbage()
    t.eq(w:assign(ml.tensor {7.0, 8.0}):tolist(), {7.0, 8.0}, how)
    t.eq(other:assign(other * 0 + 4):tolist(), {4.0, 4.0}, how)
    t.eq(w:tolist(), {2.0, 3.0}, how)
  end
  local alone <close> = ml.state(ml.tensor {1.0, 2.0}):slice {{2, 2}}
  collectgarbage()
  collectgarbage()
  t.eq(alone:assign(ml.tensor {9.0}):tolist(), {9.0})
  t.eq(alone:tolist(), {2.0})
end)

t.test("functions with nothing to do give the value of now, under a handle of its own", function()
  local nothing = {
    to = function(x) return x:to(x.device) end, clip = function(x) return x:clip() end,
    at = function(x) return x:at() end,
    roll = function(x) return x:roll(0, 1) end, pad = function(x) return x:pad {0, 0} end,
    stop_gradient = ml.stop_gradient, nan_to_num = function(x) return x:nan_to_num() end,
    dropout = require "moonlet.nn".Dropout(0.5),
  }
  for name, fn in pairs(nothing) do
    local dtype = name == "nan_to_num" and "int32" or "float32"
    local s, x = ml.state(ml.zeros({2}, {dtype = dtype})), ml.zeros({2}, {dtype = dtype})
    local before, other = fn(s), fn(x)
    ml.assign(s, s + 9)
    other:add_(1)
    t.eq(before:tolist()[1] + 0.0, 0.0, name)
    t.eq(x:tolist()[1] + 0.0, 0.0, name)
  end
  local w = ml.pack(ml.ones {16, 16})
  t.ok(w:to(w.device) == w, "packed weights are what they are")
end)

t.done()
