-- Plans of programs of every kind, as stored texts (tests/goldens/plans): their steps and the order of these, the bytes
-- that they move, the arena, and how often each rewrite of the planner came up. A planner that gives right values at
-- another cost changes a text. Where that is meant,
--
--   build/moonlet tests/lua/test_plan_texts.lua write
--
-- writes all texts anew, and `git diff tests/goldens/plans` shows what it means. They are the same on each instruction
-- set, with any number of threads.
local core = require "moonlet.core"
local ml = require "moonlet"
local cache = require "moonlet.cache"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local FOLDER = "tests/goldens/plans/"

-- ---- texts ----

-- What fn did to the counts of rewrites, but that of `aside`, in a line.
local function counted(what, aside, fn, ...)
  local before = core.rewrites()
  local result = fn(...)
  local parts = {}
  for name, n in pairs(core.rewrites()) do
    if n > before[name] and name ~= aside then parts[#parts + 1] = ("%s %d"):format(name, n - before[name]) end
  end
  table.sort(parts)
  return ("%s: %s\n"):format(what, #parts > 0 and table.concat(parts, ", ") or "no rewrites"), result
end

-- What is kept of constants that a plan folds depends on which handles are collected by then: it is left out.
local function explained(fn, ...)
  local line, text = counted("planned", "kept", ml.explain, fn, ...)
  return text .. line
end

-- How much kernels work in depends on threads and instruction set: as long as this plan has most of it, no other adds
-- any.
local works <const> = ml.compile(function(x) return x:sort() end)
ml.eval(works(ml.zeros {1 << 16}))

-- The most memory that fn obtains, the workspace aside, whose results come first.
local function most_memory(fn, ...)
  collectgarbage()
  ml.memory.clear()
  ml.memory.reset_peak()
  local active = ml.memory.active()
  collectgarbage "stop"
  local results = table.pack(fn(...))
  collectgarbage "restart"
  return results, ml.memory.peak() - active
end

-- What an evaluation of the results of fn, and of what it writes, obtains and runs, while fn's second list is held too.
local function evaluated(fn)
  return ml.scope(function()
    local results, _ <const> = fn()
    local plans = ml.stats().plans
    local line, bytes = most_memory(counted, "evaluated", nil, ml.eval, table.unpack(results))
    return ("%s%d B in use at most, %d plans\n"):format(line[1], bytes, ml.stats().plans - plans)
  end)
end

-- What a second call of a compiled function costs beside its plan: copies of arguments, of what states held.
local function called(fn, ...)
  local f = ml.compile(fn)
  f(...)
  local before = ml.stats()
  local results, bytes = most_memory(f, ...)
  local now = ml.stats()
  local line = ("called: %d operations traced, %d plans, %d runs, %d B in use at most\n"):format(
    now.traces - before.traces, now.plans - before.plans, now.replays - before.replays, bytes)
  for i = 1, results.n do results[i]:close() end
  return line
end

-- ---- programs ----

local cases, names = {}, {}
local function case(name, fn)
  cases[name] = fn
  names[#names + 1] = name
end

local function numbers(...)
  local n = 1
  for _, d in ipairs {...} do n = n * d end
  local x = ml.linspace(-1, 1, n):reshape {...}
  ml.eval(x)
  return x
end

local function indices(...)
  local x = ml.tensor({...}, {dtype = "int32"})
  ml.eval(x)
  return x
end

-- A step of generation of a tiny model: n tokens into a slot of a cache, logits of the last one.
local function step(name, n)
  return function()
    local m <close> = assert(ml.load("tests/goldens/tiny/" .. name, {precision = "exact"}))
    local store <close> = setmetatable({store = cache.store(64, "float32")},
      {__close = function(s) s.store:close() end})
    local row = {}
    for i = 1, n do row[i] = i end
    return explained(function(ids, start)
      local view = store.store:view(indices(0), start, indices(n), n)
      local logits = m.net(ids, view)
      return logits:reshape({n, logits.shape[3]}):take(indices(n - 1), 1):argmax(-1)
    end, ml.tensor({row}, {dtype = "int32"}), indices(0))
  end
end
for _, name in ipairs {"llama", "gemma3", "qwen3"} do
  case("decode-" .. name, step(name, 1))
  case("prefill-" .. name, step(name, 7))
end

case("adamw", function()
  local _, update = require "tests.lua.adamw"(numbers(1000))
  return explained(update, numbers(1000))
end)

case("shared-input", function() -- products that share a step, and those that do not: inputs, order, number, shapes
  local a, b, c, d, e, f = ml.pack(numbers(8, 16)), ml.pack(numbers(24, 16)), ml.pack(numbers(8, 16)),
    ml.pack(numbers(8, 16)), ml.pack(numbers(16, 16)), ml.pack(numbers(8, 16))
  return explained(function(x, other)
    local first = {ml.linear(x, a), ml.linear(x, b), ml.linear(x, c), ml.linear(x, d), ml.linear(x, f)}
    local behind = ml.linear(ml.concat({first[1] * other, other}, 2), c)
    local y = ml.linear(x, e):silu() * x + x
    return first[2]:sum(), first[3] + first[4], behind, first[5], ml.linear(y, a)
  end, numbers(3, 16), numbers(3, 8))
end)

case("rows", function() -- what joins norms, softmax and statistics of rows, and what does not
  local x, y, w, s = numbers(3, 5, 80), numbers(3, 5, 80), numbers(80), ml.state(numbers(3, 5, 80))
  local short, long = numbers(4, 63), numbers(2, 16385)
  return explained(function(a, b)
    local n = ml.rms_norm(a, w) -- after a product, before what is added up
    local sum = n + b
    local weights = ml.exp(a - a:max(-1, true))
    local shares = weights / weights:sum(-1, true)
    local centred = b - b:mean(-1, true)
    ml.assign(s, centred * (centred:square():mean(-1, true) + 1e-5):rsqrt())
    local flat = (a - b):sum(-1)
    return sum, ml.layer_norm(sum, w, w), shares, (a * b):sum(-1), (a * 2):argmax(-1):reshape {15}, s + 1,
      (a * b):sum(2), (flat * 2):exp(), flat + w:slice {{1, 5}},
      (short * 2):softmax(), (long * 2):sum(-1), ml.rms_norm(a:transpose {2, 1, 3} * 3)
  end, x, y)
end)

case("tails", function() -- what is done with products of strided tensors and with attention
  local w, s = ml.state(numbers(6, 8)), ml.state(numbers(4, 6))
  return explained(function(x, q, gate)
    local y = ml.linear(x, w)
    local h = (x:astype "bfloat16"):matmul(w:transpose():astype "bfloat16")
    local o = ml.attention(q, q, q, {scale = 0.5})
    ml.assign(s, ml.linear(x * 2, w) * 0.1 + s)
    return ml.gelu(y) * 2 + y, h + 1, (o * gate):transpose {1, 3, 2, 4}:reshape {1, 3, 8}, s + 0,
      ml.matmul(x, x:transpose()):sum()
  end, numbers(4, 8), numbers(1, 2, 3, 4), numbers(1, 2, 3, 4))
end)

case("parts", function() -- of one product: those that can be products of their own, and those that cannot
  local function weight(n) return ml.pack(numbers(n, 16)) end
  local fused, qkv, odd, read = weight(48), weight(64), weight(48), weight(32)
  return explained(function(x)
    local function part(y, from, to) return y:slice {{}, {from, to}} end
    local a, b, c, d = ml.linear(x, fused), ml.linear(x, qkv), ml.linear(x, odd), ml.linear(x, read)
    return part(a, 1, 16):silu() * part(a, 17, 32), part(b, 1, 32), part(b, 33, 48) + 1, part(b, 49, 64),
      part(c, 9, 16), part(d, 1, 16), d:sum(), part(a, 33, 48)
  end, numbers(3, 16))
end)

case("several-results", function()
  return explained(function(x)
    local values, at = x:topk(3)
    local other = x:topk(2, 1)
    local same = x:topk(3)
    return values * 2, at, other, same, select(2, (x + 1):topk(1))
  end, numbers(4, 9))
end)

case("heads", function() -- what is computed before a reduction, and where it is not
  return explained(function(a, b, c)
    local shared = a * b
    return (a - b):square():mean(), (a * c):sum(1), (a * c:slice {{1, 1}, {1, 1}}):max(3):sum(),
      a:exp():norm {1, 2},
      (a + b):sum {axis = {1, 3}}, (a + b):slice({{}, {}, {1, 60}}):sum(1), a:tanh():logsumexp(1),
      shared:sum(1), shared,
      (a:reshape {3, 5, 5, 16} * 2):argmax(4)
  end, numbers(3, 5, 80), numbers(3, 5, 80), numbers(5, 80))
end)

case("gate-and-up", function()
  local gate, up, down, half = ml.pack(numbers(24, 16)), ml.pack(numbers(24, 16)), ml.pack(numbers(16, 24)),
    ml.pack(numbers(24, 16):astype "bfloat16")
  return explained(function(x, bias)
    local y = ml.rms_norm(x, {weight = numbers(16)})
    local h = ml.linear(ml.linear(y, gate):silu() * ml.linear(y, up), down) + x
    local apart = ml.linear(x, gate):silu() * ml.linear(x, half) + bias
    local twice = ml.linear(y, up)
    return h, apart, twice * 2, twice:sum()
  end, numbers(2, 16), numbers(24))
end)

case("rows-in-place", function() -- what dies where a row is begun gives its place to what ends it
  return explained(function(x)
    local held = ml.cumsum(x, 1)
    local out = ml.cumsum(ml.softmax(held * 2, -1) + 1, 1)
    return out + ml.rms_norm(out * 2 + ml.softmax(out, -1)):sum(1)
  end, ml.ones {64, 128})
end)

case("norms", function() -- inside a step of products for few rows, and where something else reads them
  local w = ml.pack(numbers(8, 16))
  local function fn(x)
    local a, b = ml.rms_norm(x, {weight = numbers(16)}), ml.rms_norm(x, {eps = 1e-3})
    return ml.linear(a, w), ml.linear(b, w), b + 1, ml.layer_norm(x)
  end
  return explained(fn, numbers(4, 16)) .. explained(fn, numbers(5, 16)) .. explained(fn, numbers(2, 2, 16))
end)

case("selection", function() -- pushed through what works row by row, stopped by an effect, by another index, by depth
  local w, s = ml.pack(numbers(16, 16)), ml.state(numbers(6, 16))
  return explained(function(x, i, k)
    local y = x
    for _ = 1, 3 do y = ml.rms_norm(ml.linear(y, w) + x:mul(0.5):silu(), {weight = numbers(16)}) end
    local wide = y:reshape({1, 6, 16}):reshape {6, 16}
    local z = ml.linear(s * 2, w)
    ml.assign(s, s + 1)
    local turned = x:transpose():softmax(-1):transpose()
    local both = ml.linear(x, w)
    local one, same = both:tanh(), both:tanh()
    return wide:take(i, 1), z:take(i, 1), (x:exp() + turned):take(k, 1), x:exp():take(i, 1), one:take(i, 1),
      both:take(i, 1), same:take(i, 1)
  end, numbers(6, 16), indices(5), indices(0, 2))
end)

case("folds", function()
  local table, s, packed = numbers(4, 4), ml.state(numbers(4)), ml.pack(numbers(4, 4))
  return explained(function(x)
    local scale = (table * 2 + 1):sum {axis = 1}
    local more = ml.arange(0, 4):astype("float32") / 4
    local large = ml.ones {2100, 2000}
    return x * scale + more, s * 2 + scale, scale, ((large + 1) * x:sum()):sum(), ml.linear(table, packed) + x,
      ml.ones {2, 4} * x
  end, numbers(4)) .. explained(function() return ml.arange(0, 4) end) .. explained(function() return ml.ones {4} end)
end)

case("states", function() -- reads forwarded, writes that nobody sees, windows, readers that are saved, shifts
  local a, b, c = ml.state(numbers(4, 8)), ml.state(numbers(4, 8)), ml.state(numbers(4, 8))
  return explained(function(x)
    local old, turned = b:slice {{2, 3}, {}}, c:transpose()
    ml.assign(a, x + 1)
    a:mul_(2)
    ml.assign(a, a:tanh() + old:sum())
    ml.assign(b:slice {{1, 2}, {}}, b:slice {{3, 4}, {}})
    ml.assign(b:slice {{2, 4}, {}}, b:slice {{1, 3}, {}} * 2)
    ml.assign(c, c:slice({{-1, 1, -1}, {}}) + x)
    ml.assign(c, x:softmax(-1))
    local late = a:sum() + c:copy():sum()
    ml.assign(c, x)
    return old, turned, late, b * 1
  end, numbers(4, 8))
end)

case("caches", function()
  local k, pages = ml.state(ml.zeros {4, 2, 3, 4}), ml.tensor {{2, 1}, {3, 0}}
  local ring = ml.state(ml.zeros({1, 3}, {dtype = "int32"}))
  return explained(function(x, slots, start)
    local q = x:reshape({1, 3, 2, 4}):transpose {1, 3, 2, 4}
    ml.cache_append(k, q, pages, slots, start, indices(3))
    local y = ml.attention(q, k, k, {pages = pages, slots = slots, start = start, scale = 0.5})
    ml.ring_push(ring, slots, start)
    return y:transpose({1, 3, 2, 4}):reshape({1, 3, 8}) + x:reshape {1, 3, 8}, ring * 1
  end, numbers(3, 8), indices(1), indices(2))
end)

case("elementwise", function() -- several outputs, dtypes, constants, broadcasts, what is too large for one program
  return explained(function(x, y)
    local e = x:exp()
    local long, many = x, x
    for i = 1, 60 do long = long * 2 + i end
    for i = 1, 16 do many = many + y:slice {{i, i}, {}} end
    local outputs = {e:sum(), e + y:slice {{1, 1}, {}}, e * 3, x:tanh(), long, many}
    for i = 1, 6 do outputs[#outputs + 1] = (e + i):astype(i % 2 == 0 and "float16" or "int32") end
    outputs[#outputs + 1] = (x:transpose() * 2 + 1):transpose()
    local choice = x
    for i = 1, 16 do choice = ml.where(choice:gt(i), i, -i) end
    outputs[#outputs + 1] = choice
    return table.unpack(outputs)
  end, numbers(16, 8), numbers(16, 8))
end)

case("repeated", function() -- equal nodes, dead ones, outputs that are one, inputs and constants as outputs
  return explained(function(x, y)
    local function sum() return (x + y):sum {axis = 1} end
    local _ = x:softmax(-1)
    local one, other = sum(), sum()
    return one, other, x, ml.tensor(2.0), x:transpose(), x:sum {axis = 1, keepdims = true}, x:add(y) * 2, x
  end, numbers(4, 4), numbers(4, 4))
end)

case("layouts", function() -- dense copies where a kernel takes no strides, orders that results keep
  return explained(function(x, ids)
    local turned = x:transpose {2, 1, 3}
    local sorted, norm = ml.sort(turned, 1), ml.rms_norm(turned)
    local rows = ml.take(x:transpose {3, 2, 1}, ids, 2)
    return sorted, norm:transpose {2, 1, 3}, rows, ml.matmul(x:transpose {1, 3, 2}, x), turned:sum {axis = 2},
      ml.concat({turned, turned + 1}, 3),
      ml.sort((turned * 2 + 1):transpose {2, 1, 3}, 1), ml.softmax(x:slice {{}, {}, {-1, 1, -1}}),
      ml.cumsum(x:transpose(), 1),
      x:slice({{}, {}, {1, 5, 2}}):reshape {12, 3}
  end, numbers(3, 4, 5), indices(1, 3))
end)

case("one-copy", function() -- for all that take no strides; of what is the same values under another view, another
  return explained(function(x, ids)
    local turned = x:transpose()
    return ml.sort(turned, 1), ml.argsort(turned, 1), ml.take(turned, ids, 1), ml.softmax(turned),
      ml.cumsum(turned * 2, 1), ml.sort(x:transpose {2, 1}:slice {{1, 3}, {}}, 1)
  end, numbers(4, 5), indices(1, 3))
end)

case("called", function() -- dense arguments and others, views of states that are written and of those that are not
  local a, b = ml.state(numbers(4, 8)), ml.state(numbers(4, 8))
  local function fn(x) return x + a, ml.assign(b, x * 2):sum() end
  local x = numbers(8, 4)
  ml.assign(b, b + 1)
  return called(fn, numbers(4, 8)) .. called(fn, x:transpose()) .. called(fn, x:reshape {4, 8}) ..
    called(fn, a:slice {{-1, 1, -1}, {}}) .. called(fn, b:transpose():transpose())
end)

case("arena", function() -- lives of many lengths and sizes in one arena
  return explained(function(x)
    local held, y = {}, x
    for i = 1, 24 do
      y = y:softmax(-1):matmul(x)
      if i % 3 == 0 then held[#held + 1] = y:slice({{1, 1 + i % 5}, {}}):cumsum(1) end
      if i % 7 == 0 then y = ml.concat({y, y}, 1):slice({{1, 16}, {}}):cumsum(2) end
    end
    for i = #held, 1, -2 do y = y + held[i]:sum() end
    for i = 1, #held, 2 do y = y:cumsum(1) + held[i]:cumsum(2):max() end
    return y
  end, numbers(16, 16))
end)

case("arena-large", function() -- where a sweep leaves holes, and all pairs are looked at
  return explained(function(x)
    local held, y = {}, x
    for i = 1, 30 do
      y = y:cumsum(1)
      held[i] = y:slice({{1, 8 + i * 37 % 56}, {}}):cumsum(1)
      local k = i * 17 % 23
      if i > 4 and held[k] then
        y = y + (held[k] * y:sum()):cumsum(2):sum() -- no earlier than y
        held[k] = nil
      end
    end
    for i = 1, 30 do
      if held[i] then y = y:cumsum(2) + (held[i] * y:sum()):cumsum(1):sum() end
    end
    return y
  end, numbers(64, 128))
end)

case("scheduled", function() -- what is written first and used up later is used up at once, whatever it is used by
  local function parts(x, use)
    local held, sum = {}, ml.zeros {}
    for i = 1, 5 do held[i] = (x + i):cumsum(1) end
    for i = 1, 5 do sum = sum + use(held[i], held[6 - i]) end
    return sum
  end
  local s = ml.state(numbers(5, 16, 64))
  local function update(x)
    local held = {}
    for i = 1, 5 do held[i] = (x * i):cumsum(1):cumsum(2) end
    for i = 1, 5 do ml.assign(s:slice {{i, i}, {}, {}}:reshape {16, 64}, held[i]:cumsum(1)) end
    return s:sum()
  end
  local x = numbers(16, 64)
  return explained(parts, x, function(y) return y:cumsum(2):cumsum(1):sum() end) ..
    explained(parts, x, function(y) return y:sum() + y:max() end) ..
    explained(parts, x, function(y, z) return y:sum() * z:max() end) .. explained(update, x)
end)

case("arenas", function() -- what lives end and begin at random leaves of an arena
  local random = require "tests.lua.programs.random"(1)
  local lines = {}
  for i = 1, 12 do
    local text = ml.explain(function(x)
      local held = {x}
      for _ = 1, 60 do
        local y = held[random:int(1, #held)]
        held[#held + 1] = y:slice({{1, random:int(1, y.shape[1])}, {}}):cumsum(2)
        if random:chance(0.5) then
          held[#held + 1] = ml.concat({y, x:slice {{1, random:int(1, 30)}, {}}}, 1):cumsum(2)
        end
        if #held > 8 then table.remove(held, random:int(1, #held)) end
      end
      return ml.concat(held, 1):sum()
    end, numbers(40, 16 * i))
    lines[i] = text:match "[^\n]*\n"
  end
  return table.concat(lines)
end)

-- n operations on x that take little, each of whose results nobody holds but the last.
local function light(x, n)
  local y = x + 1
  for i = 2, n do
    local before <close> = y
    y = i % 2 == 0 and before:abs() or before + 1
  end
  return y
end

case("held", function() -- of equal values, of which one is asked for; before others in a program, and slow
  local function three()
    local x = numbers(4, 8)
    return x:cumsum(1), x:cumsum(1), x:cumsum(1)
  end
  return evaluated(function()
    local a, b, c = three()
    return {a, b + c}, {b, c}
  end) .. evaluated(function()
    local a, b, c = three()
    return {b, a + c}, {a, c}
  end) .. evaluated(function()
    local a, b, c = three()
    return {a + b, c}, {a, b}
  end) .. evaluated(function()
    local slow = numbers(4, 8):sin()
    return {slow * 2 + 1}, {slow}
  end) .. evaluated(function()
    local fast = numbers(4, 8):neg()
    return {fast * 2 + 1}, {fast}
  end) .. evaluated(function() -- ten members, with the last: just enough
    local y = numbers(4, 8):neg()
    local last <close> = light(y, 8)
    return {last + 1}, {y}
  end) .. evaluated(function() -- nine
    local y = numbers(4, 8):neg()
    return {light(y, 8)}, {y}
  end)
end)

case("evaluated", function() -- once: what is held is kept, versions that are read later are copied out, the rest is not
  local s, count = ml.state(numbers(4, 8)), ml.state(ml.zeros {2})
  return evaluated(function()
    local x = numbers(4, 8)
    local held, other = x:exp():cumsum(1), x * 2
    local y, z = held + 1, other:sum() + held:sum()
    local before, turned = s + 0, s:transpose()
    ml.assign(s, s * 2)
    local between = s:slice {{1, 2}, {}}
    ml.assign(s, s + y)
    return {z, s:sum()}, {held, between, before, turned, x:softmax(-1)}
  end) .. evaluated(function()
    local x, w = numbers(6, 16), ml.pack(numbers(16, 16))
    local h = ml.linear(x, w)
    local a = h:silu()
    local b = ml.linear(a, w) + x
    return {b:take(indices(5), 1):sum(), a:max()}, {a, b, b:take(indices(3), 1)}
  end) .. evaluated(function()
    local versions = {}
    for i = 1, 4 do
      ml.assign(count, count + i)
      versions[i] = i % 2 == 0 and count:reshape {1, 2} or nil
    end
    return {count}, versions
  end)
end)

-- ---- comparing ----

local function read(path)
  local file <close> = io.open(path, "rb")
  return file and file:read "a"
end

if arg and arg[1] == "write" then
  for _, name in ipairs(names) do
    local file <close> = assert(io.open(FOLDER .. name .. ".txt", "wb"))
    file:write(cases[name]())
  end
  print(#names .. " texts written to " .. FOLDER)
  return
end

-- The first line that differs.
local function difference(got, want)
  local lines = want:gmatch "[^\n]*"
  local i = 0
  for line in got:gmatch "[^\n]*" do
    local wanted = lines()
    i = i + 1
    if line ~= wanted then return ("line %d: expected %q, found %q"):format(i, wanted or "", line) end
  end
  return "the end is missing"
end

for _, name in ipairs(names) do
  t.test(name, function()
    local want, got = read(FOLDER .. name .. ".txt"), cases[name]()
    t.ok(want, "there is no text: see the head of this file")
    if got ~= want then error(difference(got, want) .. "\nthe plan is now\n" .. got, 0) end
  end)
end

t.done()
