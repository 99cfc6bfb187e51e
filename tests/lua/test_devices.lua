-- Several devices in one engine: tensors made on each, brought from one to another, counted apart, and mixed, which is
-- an error that names both. With the processor alone, what is left of it.
local core = require "moonlet.core"
local ml = require "moonlet"
local nn = require "moonlet.nn"
local tiny = require "tests.tiny"
local t = require "tests.lua.harness"

local names = {}
for i, device in ipairs(ml.devices()) do names[i] = device.name end
local first, second = names[1], names[2]

t.leak_check = function()
  local sum = 0
  for _, name in ipairs(names) do sum = sum + ml.memory.active(name) end
  return sum
end

-- A test of two devices; `pair` is called for either order of them.
local function test_pair(name, pair)
  if not second then return end -- which FILE@twin has
  t.test(name, function()
    pair(first, second)
    pair(second, first)
  end)
end

t.test("devices have names", function()
  t.eq(first, "cpu")
  for _, name in ipairs(names) do
    local device = ml.device(name)
    t.eq(device.name, name)
    t.ok(device.available <= device.memory, device.available .. " of " .. device.memory)
  end
  t.raises(function() ml.device "cpu:7" end, "cpu:7", "device")
  t.raises(function() ml.zeros({2}, {device = "gpu"}) end, "gpu", "device")
  t.raises(function() ml.default_device "gpu" end, "gpu", "device")
  t.raises(function() ml.memory.active "gpu" end, "gpu", "device")
end)

t.test("a tensor brought to where it is is the same", function()
  local x = ml.arange(12):reshape {3, 4}
  t.eq(x:to(x.device):tolist(), x:tolist())
end)

test_pair("tensors are made where it is asked", function(a, b)
  local _ <close> = setmetatable({ml.default_device()}, {__close = function(d) ml.default_device(d[1]) end})
  ml.default_device(a)
  t.eq(ml.zeros {2}.device, a)
  t.eq(ml.zeros({2}, {device = b}).device, b)
  t.eq(ml.tensor({1, 2}, {device = b}).device, b)
  t.eq(ml.zeros {2}.device, a)
  ml.default_device(b)
  t.eq((ml.ones {2} + 1).device, b)
  t.eq(ml.random.uniform({2}).device, b)
end)

test_pair("values cross", function(a, b)
  local x = ml.arange(24, {device = a}):reshape {2, 3, 4}
  for _, view in ipairs {x, x:transpose(), x[2], x:slice {{1, 2, 1}, {2, 3, 1}, {1, 4, 2}}, x:astype "float16", x:lt(7),
    ml.zeros({0, 3}, {device = a}), ml.full({}, 2.5, {device = a})} do
    local there = view:to(b)
    t.eq({there.device, there.dtype, there.shape}, {b, view.dtype, view.shape})
    t.eq(there:tolist(), view:tolist())
    t.eq((there:to(a)):tolist(), view:tolist())
  end
  local s = ml.state(ml.ones({3}, {device = a}))
  ml.assign(s, s + 1)
  local there = s:to(b) -- what it holds now
  ml.assign(s, s * 5)
  t.eq({there:tolist(), s:tolist()}, {{2.0, 2.0, 2.0}, {10.0, 10.0, 10.0}})
end)

test_pair("weights cross in whatever order a device packs them", function(a, b)
  local dense = ml.random.normal({70, 64}, {key = ml.random.key(3)}):to(a)
  local x = ml.random.normal({5, 64}, {key = ml.random.key(4)}):to(a)
  for _, format in ipairs {"float32", "bfloat16", "q4_0", "q8_0"} do
    local w = core.random_packed(format, 70, 64, 0.1, 5, true):to(a)
    local there = w:to(b)
    t.eq({there.device, there.layout, there.dtype, there.shape}, {b, "packed", format, {70, 64}})
    t.eq(there:tobytes(), w:tobytes())
    t.eq(there:to(a):tobytes(), w:tobytes())
    t.close(ml.linear(x, w), ml.linear(x:to(b), there), 1e-5)
  end
  t.eq(dense:pack():to(b):unpack():tolist(), dense:tolist())
end)

test_pair("what lies on two devices is not mixed", function(a, b)
  local x, y = ml.ones({2, 2}, {device = a}), ml.ones({2, 2}, {device = b})
  local function refused(f, ...)
    local ok, err = pcall(f, ...)
    t.ok(not ok and err.code == "mismatch", tostring(err))
    t.ok(err.message:find(a, 1, true) and err.message:find(b, 1, true), err.message)
  end
  refused(function() return x + y end)
  refused(function() return x:matmul(y) end)
  refused(ml.concat, {x, y}, 1)
  refused(ml.where, x:gt(0), x, y)
  refused(ml.take, x, ml.tensor({0}, {dtype = "int32", device = b}), 1)
  refused(ml.assign, ml.state(x), y)
  refused(ml.linear, x, y:pack())
  local f = ml.compile(function(u, v) return u + v end)
  refused(f, x, y)
  t.eq(f(x, x):tolist(), {{2.0, 2.0}, {2.0, 2.0}})
  refused(ml.compile(function(u) return u * y end), x)
  t.eq((x + y:to(a) * 2):tolist(), {{3.0, 3.0}, {3.0, 3.0}})
  t.eq((x * 2 + 1).device, a) -- numbers lie nowhere
end)

test_pair("a value whose run fails does not cross: the error is the run's", function(a, b)
  for from, to in pairs {[a] = b, [b] = a} do
    for round = 1, 8 do
      local x = ml.tensor({{1, 2}, {3, 4}}, {device = from}):take(ml.tensor({0, 9}, {device = from}), 1)
      local y = round % 2 == 0 and x:transpose() or x
      t.raises(function() y:to(to) end, "take: index 9 is out of range for size 2")
      local s = ml.state(ml.ones({4, 32}, {device = from}))
      ml.assign(s, ml.ones({4, 32}, {device = from}):take(ml.tensor({0, 9, 0, 0}, {device = from}), 1))
      t.raises(function() s:to(to) end, "index 9 is out of range")
      ml.assign(s, s * 0 + round)
      t.raises(function() s:to(to) end, "state")
      ml.assign(s, ml.ones({4, 32}, {device = from}) * round)
      t.eq(s:to(to)[4][32]:item(), round + 0.0)
    end
  end
end)

test_pair("one evaluation of tensors on two devices", function(a, b)
  local x, y = ml.arange(6, {device = a}) * 2, ml.arange(6, {device = b}) * 3
  local s, r = ml.state(ml.zeros({2}, {device = a})), ml.state(ml.zeros({2}, {device = b}))
  ml.assign(s, s + 1)
  ml.assign(r, r + 2)
  ml.eval(y, x)
  t.eq({x[6]:item(), y[6]:item(), s[1]:item(), r[2]:item()}, {10, 15, 1.0, 2.0})
end)

test_pair("a compiled function has a plan for each device", function(a, b)
  local f = ml.compile(function(x) return x:exp():sum(1) end)
  local x = ml.random.uniform({9}, {key = ml.random.key(1)})
  local plans = ml.stats().plans
  for _ = 1, 3 do
    t.eq(f(x:to(a)).device, a)
    t.eq(f(x:to(b)).device, b)
  end
  t.close(f(x:to(a)):item(), f(x:to(b)):item(), 1e-6)
  t.eq(ml.stats().plans - plans >= 2, true)
end)

test_pair("a compiled function is refused where it would cross", function(a, b)
  local f = ml.compile(function(x) return x:to(b) + 1 end)
  t.raises(function() f(ml.ones({2}, {device = a})) end, "while a plan is recorded", "usage")
end)

test_pair("what a compiled function makes lies where the default device is when it is called", function(a, b)
  local _ <close> = setmetatable({ml.default_device()}, {__close = function(d) ml.default_device(d[1]) end})
  local functions = {
    ml.compile(function() return ml.zeros {2} + 1 end), ml.compile(function() return ml.random.uniform {2} end),
    ml.compile(function(n) return ml.full({2}, n or 4) end), ml.compile(function(x) return x:sum(), ml.ones {2} end),
  }
  for _ = 1, 2 do
    for _, device in ipairs {a, b} do
      ml.default_device(device)
      for i, f in ipairs(functions) do
        local x = ml.zeros {3}
        t.eq({f(i == 4 and x or nil).device, f(i == 4 and x or nil).device}, {device, device}, i)
      end
      ml.random.seed(9)
      local drawn = functions[2]():tolist()
      ml.random.seed(9)
      t.eq(drawn, ml.random.uniform({2}):tolist())
    end
  end
  local traces = ml.stats().traces
  for _ = 1, 3 do t.eq(functions[1](nil).device, b) end
  t.eq(ml.stats().traces, traces)
end)

test_pair("a module's methods work where its tensors are", function(a, b)
  local _ <close> = setmetatable({ml.default_device()}, {__close = function(d) ml.default_device(d[1]) end})
  ml.default_device(a)
  local Net = nn.class "Net"
  function Net:init() self.proj = nn.Linear(4, 3) end
  function Net:forward(x) return self.proj(x) + ml.zeros {3} end
  local net = Net()
  local x = ml.ones({2, 4}, {device = a})
  t.eq(net(x).device, a)
  t.eq(ml.default_device(), a)
  t.raises(function() net(x:to(b)) end, b, "mismatch")
  t.eq(ml.default_device(), a) -- also after an error
end)

t.test("what kernels put down while they work is counted, stands under the limit and is given back", function()
  local x = ml.random.uniform {1 << 20}
  ml.eval(x)
  collectgarbage()
  collectgarbage()
  ml.memory.clear()
  local active = ml.memory.active()
  ml.memory.reset_peak()
  ml.eval(x:sort())
  local needs = ml.memory.peak() - active -- the result, and what kernels need
  if not ml.default_device():find "^cuda" then t.ok(needs > 6 << 20, needs) end -- whose sort needs less
  collectgarbage()
  collectgarbage()
  ml.memory.clear()
  ml.memory.limit(active + needs - 65536)
  t.raises(function() ml.eval(x:sort()) end, "a tensor %(1048576%), float32: memory limit of " ..
    ml.default_device(), "limit")
  ml.memory.limit(0)
  ml.memory.reset_peak()
  t.ok(x:sort()[2]:item() >= x:min():item())
  t.ok(ml.memory.peak() - active >= needs, ml.memory.peak() - active)
  collectgarbage()
  collectgarbage()
  ml.memory.clear()
  t.ok(ml.memory.active() - active < 1 << 20, ml.memory.active() - active)
  t.eq(ml.memory.cached(), 0)
end)

test_pair("memory is counted on each device apart, and so is its limit", function(a, b)
  collectgarbage()
  collectgarbage()
  local active = {ml.memory.active(a), ml.memory.active(b)}
  local x = ml.zeros({1 << 18}, {device = a})
  ml.eval(x)
  collectgarbage()
  t.eq({ml.memory.active(a) - active[1], ml.memory.active(b) - active[2]}, {1 << 20, 0})
  ml.memory.limit(ml.memory.active(a) + 4096, a)
  t.raises(function() ml.eval(ml.ones({1 << 18}, {device = a})) end, "memory limit of " .. a, "limit")
  ml.eval(ml.ones({1 << 18}, {device = b}))
  t.raises(function() x:to(b):to(a) end, "memory limit of " .. a, "limit")
  ml.memory.limit(0, a)
  t.eq(x:to(b):to(a)[7]:item(), 0.0)
end)

test_pair("tensors that nobody has are collected, also on a device that is not the default one", function(a, b)
  local device = a == ml.default_device() and b or a
  ml.memory.reset_peak(device)
  local base = ml.memory.active(device)
  for i = 1, 4000 do ml.eval(ml.full({1 << 14}, i + 0.5, {device = device})) end
  t.ok(ml.memory.peak(device) - base < 12 << 20, ml.memory.peak(device) - base)
  ml.memory.reset_peak(device)
  for i = 1, 200 do -- also while as much is given back elsewhere
    ml.eval(ml.full({1 << 18}, i + 0.5, {device = device}))
    local own <close> = ml.full({1 << 18}, i + 0.5, {device = device == a and b or a})
    ml.eval(own)
  end
  t.ok(ml.memory.peak(device) - base < 48 << 20, ml.memory.peak(device) - base)
end)

test_pair("draws are the same bits on every device", function(a, b)
  local function draws(device)
    local k = ml.random.key(11):to(device)
    return ml.random_bits(k, {5, 3}):tolist()
  end
  t.eq(draws(a), draws(b))
end)

t.test("outputs that are kept stay what they are", function()
  for _, name in ipairs(names) do
    local g = ml.compile(function(x) return x * 2, (x + 1):cumsum(1) end)
    local kept, views = {}, {}
    for i = 1, 9 do
      local y, z = g(ml.full({3}, i + 0.0, {device = name}))
      if i % 3 > 0 then kept[i], views[i] = y, z[3] end
    end
    for i = 1, 9 do
      if kept[i] then t.eq({kept[i]:tolist(), views[i]:item()}, {{2.0 * i, 2.0 * i, 2.0 * i}, 3.0 * (i + 1)}, name) end
    end
    local x = ml.ones({3}, {device = name})
    for _ = 1, 6 do x = g(x) end -- what it gives is what it takes
    t.eq(x:tolist(), {64.0, 64.0, 64.0}, name)
    local old = {x}
    for i = 2, 6 do old[i] = g(old[i - 1]) end
    for i = 1, 6 do t.eq(old[i][1]:item(), 64.0 * 2 ^ (i - 1), name) end
    local held = g(x)
    local h = ml.compile(function(y) return y + held end) -- a plan that knows where it lies
    for i = 1, 5 do
      g(x * i)
      t.eq(h(x)[2]:item(), 192.0, name)
    end
    local state = ml.state((g(x)))
    ml.assign(state, state + 1)
    for _ = 1, 4 do g(x) end
    t.eq(state:tolist(), {129.0, 129.0, 129.0}, name)
  end
end)

-- What lay where memory is used again, here zeros, may be what ought to be there: the twin makes it something else.
t.test("memory that is used again holds nothing", function()
  local function leave_zeros(n, name)
    local left = {}
    for i = 1, 4 do left[i] = ml.zeros({n}, {device = name}) end
    ml.eval(table.unpack(left))
    for i = 1, 4 do left[i]:close() end
  end
  for _, name in ipairs(names) do
    local total = ml.compile(function(x) return x:sum(2) end)
    for _ = 1, 6 do
      leave_zeros(16, name)
      t.eq(total(ml.zeros({16, 0}, {device = name})):tolist(), ml.zeros {16}:tolist(), name)
    end
    local list = {7}
    for i = 2, 4096 do list[i] = 0 end
    for _ = 1, 3 do
      leave_zeros(4096, name)
      local item = ml.take(ml.tensor(list, {device = name}), 0)
      t.eq(item:item(), 7, name)
    end
  end
end)

local function said(tokens)
  local texts = {}
  for token in tokens do texts[#texts + 1] = token.text end
  return table.concat(texts)
end

t.test("what the host writes comes after what was asked for before", function()
  for _, name in ipairs(names) do
    local s <close> = core.make_state(ml.zeros({4}, {device = name}))
    local f = ml.compile(function() return s * 2 + 1 end)
    local seen = {}
    for i = 1, 40 do
      core.state_write(s, {i, i, i, i})
      seen[i] = f()
    end
    for i = 1, 40 do t.eq(seen[i]:tolist()[4], 2.0 * i + 1, name) end
    for i = 1, 40 do -- memory that a run may still read, and somebody else gets
      local x = ml.full({64}, i + 0.0, {device = name})
      seen[i] = x:cumsum(1)
      ml.eval(seen[i])
      x:close()
      local y <close> = ml.tensor(table.move(ml.zeros({64}):tolist(), 1, 64, 1, {}), {device = name})
      ml.eval(y)
    end
    for i = 1, 40 do t.eq(seen[i][64]:item(), 64.0 * i, name) end
  end
end)

test_pair("two models at once, each on a device of its own", function(a, b)
  local path = tiny.write_directory("devices/" .. a)
  local before = {ml.memory.active(a), ml.memory.active(b)}
  do
    local here <close> = assert(ml.load(path, {device = a, precision = "exact"}))
    local there <close> = assert(ml.load(path, {device = b, precision = "exact"}))
    t.eq({here.device, there.device}, {a, b})
    local alone = {}
    for i, m in ipairs {here, there} do
      alone[i] = m:complete({90, 14, 79, 59}, {max_tokens = 40, ignore_eos = true, temperature = 0})
    end
    t.eq(alone[1], alone[2])
    local one = here:generate("the moon", {max_tokens = 40, ignore_eos = true, temperature = 0.9, seed = 5})
    local two = there:generate("the moon", {max_tokens = 40, ignore_eos = true, temperature = 0.9, seed = 5})
    local texts, steps = {{}, {}}, 0
    while true do -- a token of one, a token of the other
      local x, y = one(), two()
      if not x and not y then break end
      texts[1][#texts[1] + 1], texts[2][#texts[2] + 1] = x and x.text or "", y and y.text or ""
      steps = steps + 1
    end
    t.ok(steps >= 30, steps)
    t.eq(table.concat(texts[1]), table.concat(texts[2]))
    local s, r = here:session(), there:session()
    local files = {path .. "/here.session", path .. "/there.session"}
    for turn = 1, 3 do
      local say = {temperature = 0, max_tokens = 8}
      local answers = {}
      for i, session in ipairs {s, r} do answers[i] = said(session:send("turn " .. turn, say)) end
      t.eq(answers[1], answers[2])
    end
    for i, session in ipairs {s, r} do assert(session:save(files[i])) end
    for i, m in ipairs {here, there} do -- whatever device they were made on
      for _, file in ipairs(files) do
        local again <close> = m:session()
        t.eq(again:load(file), true)
        t.eq(again.ids, s.ids, i)
      end
    end
    t.close(here:logits({1, 2, 3}):sum():item(), there:logits({1, 2, 3}):sum():item(), 1e-3)
    t.eq(ml.default_device(), core.default_device())
  end
  collectgarbage()
  collectgarbage()
  t.eq({ml.memory.active(a), ml.memory.active(b)}, before)
end)

t.done()
