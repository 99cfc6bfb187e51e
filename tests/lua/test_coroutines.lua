-- Callbacks that yield: what the library has set for their sake (default device, scope, module path) is theirs alone,
-- and there again when they are resumed. With the processor alone, what is left of it.
local core = require "moonlet.core"
local ml = require "moonlet"
local nn = require "moonlet.nn"
local sample = require "moonlet.sample"
local tiny = require "tests.tiny"
local t = require "tests.lua.harness"

local sanitized = (os.getenv "SANITIZE" or "") ~= ""
local names = {}
for i, device in ipairs(ml.devices()) do names[i] = device.name end
local home, other -- the host's default device, and where models lie

t.leak_check = function()
  local sum = 0
  for _, name in ipairs(names) do sum = sum + ml.memory.active(name) end
  return sum
end

local path = tiny.write_directory "coroutines"
local is_closed = core.is_closed

-- What a call finds around it.
local function around()
  local x = ml.zeros {2}
  return {x.device, ml.default_device(), core.module_path()}
end
local at_home, away

-- A coroutine that completes with a sampler which yields, and returns the text; `seen` gets what the sampler finds.
local function completion(m, seen, yields)
  return coroutine.create(function()
    return (m:complete({90, 14, 79}, {max_tokens = 3, ignore_eos = true, seed = 3, sampler = sample.chain {
      function(logits)
        seen[#seen + 1] = around()
        if yields then coroutine.yield "asked" end
        seen[#seen + 1] = around()
        return logits
      end,
    }}))
  end)
end

local function resume(co, ...)
  local results = table.pack(coroutine.resume(co, ...))
  t.ok(results[1], tostring(results[2]))
  return table.unpack(results, 2, results.n)
end

local function count(set)
  local n = 0
  for _ in pairs(set) do n = n + 1 end
  return n
end

local function model() return assert(ml.load(path, {device = other, precision = "exact"})) end

local function run_tests(first, second)
  home, other = first, second
  at_home, away = {home, home, ""}, {other, other, ""}
  ml.default_device(home)

  t.test("a sampler that yields, and the host, each find their own device", function()
    local m <close> = model()
    local seen, plain = {}, {}
    local text = resume(completion(m, plain))
    local co, result = completion(m, seen, true), "asked"
    for _ = 1, 4 do
      t.eq(result, "asked")
      result = resume(co)
      t.eq(around(), at_home)
    end
    t.eq({result, coroutine.status(co)}, {text, "dead"})
    t.eq(#seen, 6)
    for i = 1, 6 do t.eq({seen[i], plain[i]}, {away, away}) end
  end)

  t.test("two of them in turn, in an order that nests nowhere", function()
    local m <close> = model()
    local n <close> = assert(ml.load(path, {precision = "exact"}))
    t.eq(n.device, home)
    local there, here = {}, {}
    local a, b = completion(m, there, true), completion(n, here, true)
    for _, co in ipairs {a, b, a, a, b, a, b, b} do
      resume(co)
      t.eq(around(), at_home)
    end
    t.eq({coroutine.status(a), coroutine.status(b)}, {"dead", "dead"})
    for i = 1, 6 do t.eq({there[i], here[i]}, {away, at_home}) end
  end)

  t.test("one that is never resumed, is closed, or ends with an error, leaves nothing behind", function()
    local m <close> = model()
    for round = 1, 30 do
      local co = completion(m, {}, true)
      resume(co)
      if round % 3 == 0 then
        local busy = count(m:runtime().store.slots)
        t.eq(coroutine.close(co), true)
        t.ok(count(m:runtime().store.slots) < busy, "its memory is there for the next one")
      end
      co = nil -- luacheck: ignore 311
      if round % 3 == 1 then
        collectgarbage() -- whose memory the next one may get
        collectgarbage()
      end
      local next_one = coroutine.create(around)
      t.eq(resume(next_one), at_home)
      t.eq(around(), at_home)
    end
    local co = coroutine.create(function()
      m:complete({1, 2}, {sampler = function() coroutine.yield() error "stop" end})
    end)
    resume(co)
    t.eq(coroutine.resume(co), false)
    t.eq(around(), at_home)
    collectgarbage()
  end)

  t.test("what the host sets between two resumes stays the host's", function()
    local m <close> = model()
    local seen = {}
    local co = completion(m, seen, true)
    resume(co)
    for _, name in ipairs(names) do
      ml.default_device(name)
      t.eq(around(), {name, name, ""})
      resume(co)
      t.eq(around(), {name, name, ""})
    end
    ml.default_device(home)
    while coroutine.status(co) ~= "dead" do resume(co) end
    for i = 1, 6 do t.eq(seen[i], away) end
  end)

  t.test("a default device that a callback sets ends with it", function()
    local m <close> = model()
    local seen = {}
    local function sampler(logits)
      ml.default_device(home)
      seen[#seen + 1] = around()
      ml.scope(function() seen[#seen + 1] = around() end)
      coroutine.yield()
      seen[#seen + 1] = around()
      return logits
    end
    local co = coroutine.create(function()
      m:complete({1, 2}, {max_tokens = 3, ignore_eos = true, sampler = sampler})
    end)
    while coroutine.status(co) ~= "dead" do
      resume(co)
      t.eq(around(), at_home)
    end
    for i = 1, 9 do t.eq(seen[i], at_home) end
    ml.scope(function() ml.default_device(other) end) -- which sets none itself
    t.eq(around(), away)
    ml.default_device(home)
    t.raises(function() ml.compile(function() ml.default_device(home) return ml.zeros {1} end)() end,
      "default_device: a plan is recorded", "usage")
  end)

  t.test("what a callback resumes finds what the callback does", function()
    local m <close> = model()
    local seen, freed = {}, nil
    local waits = coroutine.wrap(function() while true do coroutine.yield(around()) end end)
    t.eq(waits(), at_home)
    m:complete({1, 2}, {max_tokens = 1, sampler = function(logits)
      seen[1] = coroutine.wrap(around)()
      seen[2] = waits()
      freed = coroutine.wrap(function() return ml.ones {3} end)() -- made in the scope of the call
      return logits
    end})
    t.eq({seen, is_closed(freed)}, {{away, away}, true})
    t.eq(waits(), at_home)
  end)

  t.test("tensors belong to the scope of who makes them", function()
    local m <close> = model()
    local inside, host, late = {}, {}, nil
    local co = coroutine.create(function()
      m:complete({1, 2}, {max_tokens = 2, ignore_eos = true, sampler = function(logits)
        inside[#inside + 1] = ml.ones {3}
        coroutine.yield()
        inside[#inside + 1] = ml.ones {3}
        return logits
      end})
    end)
    ml.scope(function()
      resume(co) -- begun in a scope
      host[1] = ml.zeros {2} + 1
      ml.eval(host[1])
      t.eq({is_closed(inside[1]), is_closed(host[1])}, {false, false})
    end)
    t.eq({is_closed(inside[1]), is_closed(host[1])}, {false, true})
    host[2] = ml.ones {2}
    ml.scope(function()
      resume(co) -- resumed in another
      late = ml.ones {2}
    end)
    resume(co)
    t.eq(coroutine.status(co), "dead")
    t.eq({is_closed(host[2]), is_closed(late), is_closed(ml.ones {2})}, {false, true, false})
    for i = 1, 4 do t.eq(is_closed(inside[i]), true) end
    t.eq(#select(2, m:complete({1, 2}, {max_tokens = 2, ignore_eos = true})).ids, 2) -- with what was made meanwhile
  end)

  t.test("scopes of two coroutines in turn", function()
    local made = {}
    local function work(name)
      return coroutine.create(function()
        return ml.scope(function()
          made[name .. 1] = ml.ones {2}
          coroutine.yield()
          local inner = ml.scope(function()
            made[name .. 2] = ml.ones {2}
            coroutine.yield()
            made[name .. 3] = ml.ones {2}
            return ml.ones {2} * 2
          end)
          made[name .. 4] = inner
          coroutine.yield()
          return ml.no_grad(function()
            coroutine.yield()
            return inner * 2
          end)
        end)
      end)
    end
    local a, b, results = work "a", work "b", {}
    for _, co in ipairs {a, b, b, a, b, a, a, b} do
      resume(co)
      made[#made + 1] = ml.ones {2}
    end
    results.a, results.b = resume(a), resume(b)
    for _, name in ipairs {"a", "b"} do
      t.eq(results[name]:tolist(), {4.0, 4.0})
      for i = 1, 4 do t.eq(is_closed(made[name .. i]), true, name .. i) end
    end
    for i = 1, 8 do t.eq(is_closed(made[i]), false) end
    local left = coroutine.create(function() ml.scope(function() made.left = ml.ones {2} coroutine.yield() end) end)
    resume(left)
    t.eq(is_closed(ml.ones {2}), false)
  end)

  t.test("load's progress may yield, keep tensors and never come back", function()
    local function loading(kept)
      return coroutine.create(function()
        return assert(ml.load(path, {device = other, progress = function(share)
          kept[#kept + 1] = ml.ones {2}
          coroutine.yield(share)
          kept[#kept + 1] = around()
        end}))
      end)
    end
    local kept, m = {}, nil
    local co = loading(kept)
    while coroutine.status(co) ~= "dead" do
      m = resume(co)
      t.eq(around(), at_home)
    end
    t.eq({m.device, kept[2], kept[1].device}, {other, away, other})
    m:close()
    t.eq(is_closed(kept[1]), false)
    co = loading {}
    resume(co)
    co = nil -- luacheck: ignore 311
    t.eq(around(), at_home)
  end)

  t.test("a module that waits names nobody else's errors", function()
    local Net = nn.class "Net"
    function Net:init() self.l = nn.Linear(4, 3) end
    function Net:forward()
      local path_here = core.module_path()
      coroutine.yield(path_here)
      local deeper = coroutine.wrap(function() return select(2, pcall(self.l, ml.ones {2, 5})) end)()
      return core.module_path(), tostring(deeper)
    end
    local function run(net, x) return net(x) end
    local a, b = coroutine.create(run), coroutine.create(run)
    t.eq({resume(a, Net(), ml.ones {2}), resume(b, Net()), core.module_path()}, {"Net", "Net", ""})
    local _, err = pcall(function() return ml.ones {2}:matmul(ml.ones {3}) end)
    t.ok(not err.message:find "Net", err.message)
    for _, co in ipairs {a, b} do
      local name, message = resume(co)
      t.eq(name, "Net")
      t.ok(message:find "Net%.l: linear", message)
    end
    t.eq(around(), at_home)
  end)

  t.test("a coroutine in the place of one that was collected takes nothing over", function()
    local Net = nn.class "Net"
    function Net.init() end
    function Net.forward() coroutine.yield() end
    local net, gone, again = Net(), {}, 0
    for _ = 1, 20 do
      local co = coroutine.create(net.forward)
      coroutine.resume(co)
      co = coroutine.create(function() net(ml.zeros({1}, {device = other})) end)
      coroutine.resume(co)
      gone[("%p"):format(co)] = true
    end
    collectgarbage()
    collectgarbage()
    local held = {}
    for i = 1, 400 do
      held[i] = coroutine.create(around)
      again = again + (gone[("%p"):format(held[i])] and 1 or 0)
      t.eq(resume(held[i]), at_home)
    end
    if sanitized then t.skip "a sanitizer keeps memory that was freed from being used again" end
    t.ok(again > 0, "places that are used again")
  end)
end

run_tests(names[1], names[2] or names[1])
if names[2] then run_tests(names[2], names[1]) end -- which FILE@twin has
t.done()
