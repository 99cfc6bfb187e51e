-- ml.scope and ml.keep: what is freed and what is not.
local ml = require "moonlet"
local t = require "tests.lua.harness"

t.leak_check = ml.memory.active

local function big() return ml.ones {64, 64} end
local function is_closed(x) return tostring(x) == "tensor (closed)" end
local function evaluated(x)
  ml.eval(x)
  return x
end

t.test("a scope frees what is not returned, at once", function()
  local inside
  local before = ml.memory.active()
  local n = ml.scope(function()
    inside = evaluated(big() + 1)
    return inside:sum():item()
  end)
  t.eq({n, is_closed(inside), ml.memory.active()}, {8192.0, true, before})
end)

t.test("results live on: several, nil among them, in trees", function()
  local kept
  local a, b, c, tree = ml.scope(function()
    kept = evaluated(big())
    local x = evaluated(big() * 3)
    return x, nil, 5, {list = {evaluated(big() * 2)}, [1] = kept + 1}
  end)
  t.eq({a:max():item(), b, c}, {3.0, nil, 5})
  t.eq({is_closed(kept), tree.list[1]:max():item(), tree[1]:max():item()}, {true, 2.0, 2.0})
end)

t.test("keep takes out, of nested scopes too", function()
  local x, y
  ml.scope(function()
    y = big()
    ml.scope(function() x = ml.keep(evaluated(big())) end)
    t.eq(is_closed(x), false)
  end)
  t.eq({is_closed(x), is_closed(y), x:max():item()}, {false, true, 1.0})
end)

t.test("a result of an inner scope is the outer one's", function()
  local outside = evaluated(big())
  local inner
  local same = ml.scope(function()
    inner = ml.scope(function() return evaluated(big()) end)
    t.eq(is_closed(inner), false)
    return ml.scope(function() return outside end)
  end)
  t.eq({is_closed(inner), is_closed(outside), is_closed(same)}, {true, false, false})
end)

t.test("an error frees too, and comes through as it is", function()
  local inside
  local err = {mine = true}
  local ok, got = pcall(ml.scope, function()
    inside = evaluated(big())
    error(err)
  end)
  t.eq({ok, rawequal(got, err), is_closed(inside)}, {false, true, true})
  t.eq(is_closed(ml.scope(big)), false) -- which nobody closes any more
end)

t.test("fn may yield; what others make meanwhile is theirs", function()
  local inside, other
  local co = coroutine.wrap(function()
    return ml.scope(function()
      inside = evaluated(big())
      local got = coroutine.yield(1)
      local more = evaluated(big())
      t.eq(got, "back")
      return more
    end)
  end)
  t.eq(co(), 1)
  other = evaluated(big())
  local more = co "back"
  t.eq({is_closed(inside), is_closed(other), is_closed(more)}, {true, false, false})
  t.raises(function() ml.scope(function() inside = big() coroutine.yield() end) end, "yield")
  t.eq({is_closed(inside), is_closed(ml.scope(big))}, {true, false})
end)

t.test("a coroutine that is closed inside a scope frees it", function()
  local inside
  local co = coroutine.create(function() ml.scope(function() inside = big() coroutine.yield() end) end)
  coroutine.resume(co)
  t.eq(is_closed(inside), false)
  t.eq(coroutine.close(co), true)
  t.eq(is_closed(inside), true)
end)

t.test("models, plans and generations outlive the scope that they are first used in", function()
  local m, double
  ml.scope(function()
    m = assert(ml.load("tests/goldens/tiny/llama", {precision = "exact"}))
    double = ml.compile(function(x) return x * 2 end)
    m:complete({1, 2, 3}, {max_tokens = 2})
    t.eq(double(ml.tensor {1}):tolist(), {2})
  end)
  t.eq(double(ml.tensor {4}):tolist(), {8})
  t.eq(#select(2, m:complete({1, 2, 3}, {max_tokens = 4, ignore_eos = true})).ids, 4)
  t.eq(ml.scope(function() return m:logits {1, 2} end).shape[2], 2)
  m:close()
end)

t.test("collecting and closing inside a scope do no harm", function()
  ml.scope(function()
    for _ = 1, 50 do big():close() end
    for _ = 1, 50 do big() end
    collectgarbage()
    collectgarbage()
    big()
  end)
end)

t.test("a compiled function draws in a scope and after it", function()
  local function two()
    local first = ml.scope(function() return ml.random.uniform {3} end)
    return first, ml.random.uniform {3}
  end
  ml.random.seed(5)
  local a, b = two()
  ml.random.seed(5)
  local c, d = ml.compile(two)()
  t.eq({c:tolist(), d:tolist()}, {a:tolist(), b:tolist()})
end)

t.test("what is kept for reuse and no longer wanted makes way", function()
  local limit = ml.memory.cache_limit()
  ml.memory.clear()
  ml.memory.cache_limit((12 << 20) + (1 << 18)) -- and the end of a piece of workspace
  local old = {}
  for i = 1, 12 do old[i] = evaluated(ml.ones {256, 1024} * i) end
  for i = 1, 12 do old[i]:close() end
  local function kept_beside_a_larger_one()
    local _ <close> = evaluated(ml.ones {5, 256, 1024} * 2)
    return ml.memory.cached() >> 20
  end
  kept_beside_a_larger_one()
  local kept = kept_beside_a_larger_one()
  ml.memory.cache_limit(limit)
  t.eq(kept, 7) -- it was among the twelve
end)

-- A handle that nobody has any more stays until the collector comes: what it stands for is no reason to keep a value.
t.test("values whose handles are garbage are not kept", function()
  local x = ml.random.normal {256, 1024}
  local function chain(n)
    local y, held = x, {}
    for i = 1, n do
      y = y:softmax(-1)
      held[i] = i <= 3 and y or nil
    end
    return y, held
  end
  for _ = 1, 16 do ml.eval(x + 1) end -- evaluations that keep little: those before have taught to look rarely
  collectgarbage()
  ml.memory.clear()
  ml.memory.reset_peak()
  local before = ml.memory.active()
  collectgarbage "stop" -- all handles are there when the chain is
  local y, held = chain(100)
  collectgarbage "restart"
  ml.eval(y)
  t.ok(ml.memory.peak() - before <= 7 * x.nbytes, "a chain of 100: " .. (ml.memory.peak() - before) // 1000 .. " kB")
  local plans = ml.stats().plans
  ml.eval(table.unpack(held))
  t.eq(ml.stats().plans, plans, "what somebody has is there")
  collectgarbage "stop"
  local again = chain(100)
  t.eq(again:tobytes(), y:tobytes(), "with the collector stopped")
  collectgarbage "restart"
end)

t.done()
