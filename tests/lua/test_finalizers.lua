-- Finalizers of scripts, which run wherever Lua asks for memory: in the middle of calls, recordings and scopes.
local ml = require "moonlet"
local core = require "moonlet.core"
local t = require "tests.lua.harness"

t.leak_check = ml.memory.active

-- Runs fn once the collector has seen that nobody has what is made here.
local function finally(fn) setmetatable({}, {__gc = fn}) end

t.test("one that closes the tensor that is read", function()
  local held = {ml.random.normal {1024, 1024}}
  ml.eval(held[1])
  for i = 2, 7 do held[i] = held[i - 1]:softmax() end -- more than is kept before the collector is asked
  local x = held[7] + 0.25
  local ran = false
  finally(function()
    ran = true
    x:close()
  end)
  local y = ml.from_bytes(x:tobytes(), {1024, 1024}, "float32")
  collectgarbage()
  t.ok(ran and core.is_closed(x), "closed")
  t.ok(math.abs(y:mean():item() - 0.25 - 1 / 1024) < 1e-6, "its values")
end)

t.test("one that changes in place the tensor that is read", function()
  local x = ml.arange(100000):astype "float32"
  local calls = 0
  for i = 1, 50 do
    finally(function()
      calls = calls + 1
      ml.eval(x:add_(1))
    end)
    t.eq(#x:tobytes(), 400000, i)
  end
  collectgarbage()
  t.eq(x[1]:item(), calls + 0.0)
end)

t.test("one that calls the compiled function that it interrupts, with other shapes", function()
  local f = ml.compile(function(x) return x * 2, x + 1, x - 1 end, {plans = 1})
  local shared = ml.compile(function(x, n) return x * n end, {plans = 1})
  local a, b = ml.ones {16}, ml.ones {8}
  ml.eval(a, b)
  for i = 1, 20000 do
    if i % 5 == 0 then
      finally(function()
        f(b)
        shared(b, 3)
      end)
    end
    local p, q = f(a), shared(a, 2)
    if i % 100 == 0 then t.eq({p[1]:item(), q[1]:item()}, {2.0, 2.0}) end
  end
end)

t.test("one while a plan is recorded is no part of it", function()
  local counter, calls = ml.zeros({1}):state(), 0
  local f = ml.compile(function(x)
    finally(function()
      calls = calls + 1
      counter:add_(1)
    end)
    for _ = 1, 20000 do x = setmetatable({x}, {})[1] end -- enough for the collector to come round
    return x * 2
  end)
  for i = 1, 5 do t.eq(f(ml.full({2}, 1.0 * i)):tolist(), {2.0 * i, 2.0 * i}) end
  collectgarbage()
  t.eq({calls, counter:item()}, {1, 1.0})
  t.ok(collectgarbage "isrunning", "the collector runs again")
  collectgarbage "stop"
  ml.compile(function(x) return x + 1 end)(ml.ones {1})
  t.ok(not collectgarbage "isrunning", "or stands still, as it did")
  collectgarbage "restart"
  t.raises(function() ml.compile(function() error "no" end)() end, "no")
  t.ok(collectgarbage "isrunning", "after an error")
end)

t.test("what one makes belongs to no scope that it interrupts", function()
  local made
  ml.scope(function()
    finally(function() made = ml.ones {3} end)
    collectgarbage()
  end)
  t.eq(made:tolist(), {1.0, 1.0, 1.0})
end)

t.test("metamethods of arguments run no code between their tensors", function()
  local x = ml.ones {64, 64}
  ml.eval(x)
  local ran = false
  local function run()
    ran = true
    x:close()
  end
  local ranges, options = setmetatable({1}, {__index = run}), setmetatable({keepdims = true}, {__index = run})
  t.eq(x:slice({ranges}):sum():item(), 4096.0)
  t.eq(x:sum(options).shape, {1, 1})
  t.ok(not ran)
end)
