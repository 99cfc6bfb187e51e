-- Random numbers: known answers, the same key the same numbers, moments, bounds, independence.
local ml = require "moonlet"
local t = require "tests.lua.harness"
local random = ml.random

t.leak_check = function() return ml.memory.active() end

local function uint32(list) return ml.tensor(list, {dtype = "uint32"}) end

-- Philox 4x32-10 in Lua (Salmon, Moraes, Dror, Shaw 2011).
local function philox(counter, key)
  local c0, c1, c2, c3 = table.unpack(counter)
  local k0, k1 = table.unpack(key)
  for _ = 1, 10 do
    local a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
    c0, c1, c2, c3 = b >> 32 ~ c1 ~ k0, b & 0xffffffff, a >> 32 ~ c3 ~ k1, a & 0xffffffff
    k0, k1 = k0 + 0x9E3779B9 & 0xffffffff, k1 + 0xBB67AE85 & 0xffffffff
  end
  return {c0, c1, c2, c3}
end

t.test("the Philox of this file gives its authors' known answers", function()
  t.eq(philox({0, 0, 0, 0}, {0, 0}), {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8})
  local f = 0xffffffff
  t.eq(philox({f, f, f, f}, {f, f}), {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd})
  t.eq(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
    {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1})
end)

t.test("random_bits is Philox of key, stream and position", function()
  for _, key in ipairs {{0, 0}, {1, 2, 3}, {0xdeadbeef, 0x12345678, 0xffffffff}} do
    local got, want = ml.random_bits(uint32(key), {3, 3}):flatten():tolist(), {}
    for block = 0, 2 do
      for _, word in ipairs(philox({block, 0, key[3] or 0, 0}, key)) do want[#want + 1] = word end
    end
    t.eq(got, table.move(want, 1, 9, 1, {}))
  end
end)

t.test("numbers do not depend on how many are drawn at once", function()
  local many = ml.random_bits(random.key(7), {5000}):tolist()
  for i, v in ipairs(ml.random_bits(random.key(7), {10}):tolist()) do t.eq(v, many[i]) end
end)

t.test("the same key gives the same numbers, another key others", function()
  local draws = {
    function(o) return random.uniform({8}, o) end, function(o) return random.normal({8}, o) end,
    function(o) return random.randint(0, 1 << 30, {8}, o) end, function(o) return random.gumbel({8}, o) end,
    function(o) return random.permutation(100, o) end, function(o) return random.truncated_normal(-1, 1, {8}, o) end,
    function(o) return random.bernoulli(0.5, {64}, o) end,
  }
  for i, draw in ipairs(draws) do
    local first = draw {key = random.key(3)}:tolist()
    t.eq(draw {key = random.key(3)}:tolist(), first, "draw " .. i)
    t.ok(not pcall(t.eq, draw {key = random.key(4)}:tolist(), first), "draw " .. i)
  end
end)

t.test("a seed begins the sequence anew", function()
  random.seed(5)
  local a, b = random.uniform({4}):tolist(), random.uniform({4}):tolist()
  random.seed(5)
  t.eq({random.uniform({4}):tolist(), random.uniform({4}):tolist()}, {a, b})
  t.ok(not pcall(t.eq, a, b), "calls differ")
end)

local N = 200000
local function moments(x)
  x = x:astype "float64"
  return x:mean():item(), x:std():item()
end
-- Five standard errors of a mean.
local function near(got, want, deviation, what) t.close(got, want, 5 * deviation / N ^ 0.5, what) end

t.test("uniform: moments and bounds", function()
  local x = random.uniform({N}, {low = -2, high = 4, key = random.key(1)})
  local mean, std = moments(x)
  near(mean, 1, 12 ^ 0.5, "mean")
  t.close(std, 6 / 12 ^ 0.5, 0.02, "deviation")
  t.ok(x:min():item() >= -2 and x:max():item() < 4, "bounds")
end)

t.test("normal: moments and tails", function()
  local x = random.normal({N}, {mean = 3, std = 2, key = random.key(2)})
  local mean, std = moments(x)
  near(mean, 3, 2, "mean")
  t.close(std, 2, 0.02, "deviation")
  local z = (x - 3) / 2
  near((z ^ 3):mean():item(), 0, 15 ^ 0.5, "skewness")
  near(z:abs():gt(1.959964):astype("float32"):mean():item(), 0.05, 0.05 ^ 0.5, "beyond 1.96")
  t.ok(x:isfinite():all():item(), "finite")
  t.eq(random.normal(3).shape, {3})
  t.eq(random.normal({2}, {dtype = "bfloat16"}).dtype, "bfloat16")
end)

t.test("truncated_normal: bounds and moments", function()
  local x = random.truncated_normal(-1, 2, {N}, {key = random.key(3)})
  t.ok(x:min():item() >= -1 and x:max():item() <= 2, "bounds")
  near(x:mean():item(), 0.2296378, 0.72, "mean") -- (phi(-1) - phi(2)) / (Phi(2) - Phi(-1))
end)

t.test("randint: bounds, every value, large ranges", function()
  local x = random.randint(-3, 4, {N}, {key = random.key(4)})
  local values, _, counts = x:unique()
  t.eq(values:tolist(), {-3, -2, -1, 0, 1, 2, 3})
  for _, n in ipairs(counts:tolist()) do t.close(n, N / 7, 5 * (N / 7) ^ 0.5, "count") end
  local wide = random.randint(-(1 << 40), 1 << 40, {1000}, {dtype = "int64", key = random.key(5)})
  t.ok(wide:max():item() > 1 << 39 and wide:min():item() < -(1 << 39), "uses the whole range")
  t.eq(random.randint(5, 6, {3}):tolist(), {5, 5, 5})
  t.raises(function() random.randint(3, 3, {1}) end, "low < high", "usage")
end)

t.test("bernoulli, gumbel", function()
  near(random.bernoulli(0.3, {N}, {key = random.key(6)}):astype("float32"):mean():item(), 0.3, 0.46, "share")
  t.eq(random.bernoulli(ml.tensor {0.0, 1.0}):tolist(), {false, true})
  near(random.gumbel({N}, {key = random.key(7)}):mean():item(), 0.5772157, math.pi / 6 ^ 0.5, "Euler's constant")
  local rare = random.gumbel({39759}, {key = random.key(207)}) -- the last comes of the largest uniform number
  t.close(rare:max():item(), 24 * math.log(2), 1e-3)
end)

t.test("categorical follows softmax", function()
  local logits = ml.tensor({{0.1, 0.2, 0.7}}):log():broadcast_to {N, 3}
  local ids = random.categorical(logits, {key = random.key(8)})
  for id, p in ipairs {0.1, 0.2, 0.7} do
    near(ids:eq(id - 1):astype("float32"):mean():item(), p, (p * (1 - p)) ^ 0.5, "id " .. id - 1)
  end
  t.eq(random.categorical(ml.zeros {2, 3, 4}).shape, {2, 3})
  t.eq(random.categorical(ml.tensor {0.0, 1e9}):item(), 1)
  local inf = math.huge
  local rows = {{0.0, inf, 0.0}, {0 / 0, 1.0, 2.0}, {-inf, -inf, -inf}, {-inf, -inf, 3.0}, {1.0, 0 / 0, inf}}
  t.eq(random.categorical(ml.tensor(rows)):tolist(), {1, -1, -1, 2, -1})
  t.eq(ml.categorical(ml.tensor {{0, inf, 0}}, ml.tensor {0.5}):tolist(), {1})
  ids = random.categorical(ml.tensor({{inf, 5.0, inf}}):broadcast_to {N, 3}, {key = random.key(9)})
  t.eq(ids:eq(1):any():item(), false)
  near(ids:eq(0):astype("float32"):mean():item(), 0.5, 0.5, "one of two")
end)

t.test("a permutation has each number once, in any place alike", function()
  local p = random.permutation(1000, {key = random.key(9)})
  t.eq(p:sort():tolist(), ml.arange(1000):tolist())
  local first = {}
  for seed = 1, 600 do
    local at = random.permutation(3, {key = random.key(seed)}):tolist()[1]
    first[at] = (first[at] or 0) + 1
  end
  for i = 0, 2 do t.close(first[i], 200, 60, "first") end
  t.eq(random.permutation(ml.tensor {{1, 2}, {3, 4}, {5, 6}}):sum(1):tolist(), {9, 12})
end)

t.test("keys of a split are independent of each other and of their key's numbers", function()
  local key = random.key(10)
  local a, b = table.unpack(random.split(key))
  local x, y, z = random.normal({N}, {key = key}), random.normal({N}, {key = a}), random.normal({N}, {key = b})
  near((x * y):mean():item(), 0, 1, "key and first")
  near((x * z):mean():item(), 0, 1, "key and second")
  near((y * z):mean():item(), 0, 1, "first and second")
  t.eq(#random.split(key, 5), 5)
  t.eq(random.split(key, 5)[1]:tolist(), a:tolist(), "a longer split begins alike")
  t.ok(not pcall(t.eq, a:tolist(), ml.random_bits(key, {2}):tolist()), "no number of the key")
end)

t.test("misuse is named", function()
  t.raises(function() random.key("x") end, "expected an integer", "usage")
  t.raises(function() random.uniform({2}, {lo = 1}) end, "no option \"lo\"", "usage")
  t.raises(function() random.uniform({2}, {key = 3}) end, "random.key", "usage")
end)

t.done()
