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

-- 128 bits of words, the lowest first, times n < 2^63: what lies above 2^128. In limbs of 16 bits.
local function scaled(words, n)
  local sums = {}
  for k = 0, 12 do sums[k] = 0 end
  for i = 0, 7 do
    for k = 0, 3 do
      sums[i + k] = sums[i + k] + (words[i // 2 + 1] >> i % 2 * 16 & 0xffff) * (n >> 16 * k & 0xffff)
    end
  end
  for k = 0, 11 do sums[k], sums[k + 1] = sums[k] & 0xffff, sums[k + 1] + (sums[k] >> 16) end
  return sums[8] | sums[9] << 16 | sums[10] << 32 | sums[11] << 48
end

t.test("wide ranges of integers are a share of 128 bits", function()
  for _, range in ipairs {{0, 1 << 32}, {-5, 3 << 61}, {-(1 << 62), (1 << 62) - 1}, {7, (1 << 40) + 12345}} do
    local low, n = range[1], range[2] - range[1]
    local words, want = ml.random_bits(random.key(13), {5, 4}):tolist(), {}
    for i = 1, 5 do want[i] = low + scaled(words[i], n) end
    t.eq(random.randint(low, low + n, {5}, {dtype = "int64", key = random.key(13)}):tolist(), want)
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

t.test("draws in float64 are computed in float64", function()
  local function wide(opts)
    opts.dtype, opts.key = "float64", random.key(11)
    return opts
  end
  local _, std = moments(random.normal({N}, wide {mean = 1e9}) - 1e9)
  t.close(std, 1, 0.02, "a deviation that float32 loses beside the mean")
  t.ok(random.normal({9}, wide {mean = 1e300}):isfinite():all():item(), "a large mean")
  t.ok(random.normal({9}, wide {std = 1e-300}):abs():gt(0):all():item(), "a small deviation")
  local units = random.uniform({N}, wide {}) * 2.0 ^ 53
  near((units % 2):mean():item(), 0.5, 0.5, "bit 53")
  t.eq((units % 1):max():item(), 0.0, "no bit beyond")
  near((units * 2.0 ^ -53):mean():item(), 0.5, 12 ^ -0.5, "mean")
  local few = random.uniform({4}, {dtype = "float64", key = random.key(3)}):tolist()
  t.eq(random.uniform({9}, {dtype = "float64", key = random.key(3)}):slice({{1, 4}}):tolist(), few, "as many drawn")
  local cut = random.truncated_normal(0, 1e-3, {N}, wide {})
  t.ok((cut:astype "float32":astype "float64"):ne(cut):any():item(), "bits that float32 does not have")
  local values = cut:unique()
  t.ok(#values > 0.99 * N, "hardly any number twice")
  near(random.gumbel({N}, wide {}):mean():item(), 0.5772157, math.pi / 6 ^ 0.5, "Euler's constant")
end)

t.test("numbers of float32 are what they were", function()
  local function hex(x) return (x:tobytes():gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end
  local o = {key = random.key(1)}
  t.eq(hex(random.uniform({2}, o)), "06e8633f0e0a653f")
  local normal = random.normal({2}, o)
  if ml.default_device():find "^cuda" then -- whose cosine and logarithm differ in the last place
    t.close(normal:at(1):item(), -1.80455685, 2e-7, "first")
    t.close(normal:at(2):item(), -0.511253476, 1e-7, "second")
  else t.eq(hex(normal), "b8fbe6bf82e102bf") end
  t.eq(random.randint(0, 1 << 31, {2}, o):tolist(), {1257836896, 1527436563})
  local gumbel = random.gumbel({2}, o)
  if ml.default_device():find "^cuda" then t.close(gumbel, {2.15207505, 2.19567037}, 1e-6, "gumbel")
  else t.eq(hex(gumbel), "99bb0940dd850c40") end
end)

t.test("a span that float64 does not hold", function()
  local x = random.uniform({N}, {low = -1e308, high = 1e308, dtype = "float64", key = random.key(12)})
  t.ok(x:ge(-1e308):all():item() and x:lt(1e308):all():item(), "bounds")
  near((x / 1e308):mean():item(), 0, 3 ^ -0.5, "mean")
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
  local third = random.randint(0, 3 << 61, {N}, {dtype = "int64", key = random.key(6)}):lt(1 << 61)
  near(third:astype("float64"):mean():item(), 1 / 3, 0.471, "below a third of the range")
  t.eq(random.randint(5, 6, {3}):tolist(), {5, 5, 5})
  t.raises(function() random.randint(3, 3, {1}) end, "low < high", "usage")
end)

t.test("bernoulli, gumbel", function()
  near(random.bernoulli(0.3, {N}, {key = random.key(6)}):astype("float32"):mean():item(), 0.3, 0.46, "share")
  t.eq(random.bernoulli(ml.tensor {0.0, 1.0}):tolist(), {false, true})
  t.eq(random.bernoulli(ml.tensor {-1.0, 2.0, 0 / 0}):tolist(), {false, true, false})
  t.eq(random.bernoulli(1e-12, {1 << 22}, {key = random.key(9)}):any():item(), false, "a rare event")
  t.raises(function() random.bernoulli(0 / 0) end, "bernoulli: p: expected a number from 0 to 1", "usage")
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
  local seen = {}
  for _, words in ipairs {{1, 2}, {1, 2, 0}, {1, 2, 3}, {1, 2, 4}} do
    local first = table.concat(random.split(uint32(words))[1]:tolist(), " ")
    t.ok(not seen[first], "a stream of its own")
    seen[first] = true
  end
end)

t.test("misuse is named", function()
  t.raises(function() random.key("x") end, "expected an integer", "usage")
  t.raises(function() random.uniform({2}, {lo = 1}) end, "no option \"lo\"", "usage")
  t.raises(function() random.uniform({2}, {key = 3}) end, "random.key", "usage")
end)

t.test("draws, and repetitions, of as many axes as there may be", function()
  local shape = {1, 1, 1, 1, 1, 1, 3, 2}
  for name, draw in pairs {
    normal = function() return ml.random.normal(shape) end,
    randint = function() return ml.random.randint(0, 5, shape) end,
    bernoulli = function() return ml.random.bernoulli(0.5, shape) end,
    repeat_interleave = function() return ml.zeros {1, 1, 1, 1, 1, 1, 3, 1}:repeat_interleave(2, 8) end,
  } do
    t.eq(draw().shape, shape, name)
  end
  t.eq(ml.tensor {{1, 2}, {3, 4}}:repeat_interleave(2, 1):tolist(), {{1, 2}, {1, 2}, {3, 4}, {3, 4}})
  t.eq(ml.tensor {{1, 2}, {3, 4}}:repeat_interleave(2, 2):tolist(), {{1, 1, 2, 2}, {3, 3, 4, 4}})
  t.eq(ml.zeros {2, 0}:repeat_interleave(3, 2).shape, {2, 0})
  local x = ml.ones {2}
  local y = x:tile {}
  y:add_(1)
  t.eq({x:tolist(), y:tolist()}, {{1.0, 1.0}, {2.0, 2.0}}, "no counts give a value of its own")
  t.eq(ml.eye(3):triu(math.mininteger):tolist(), ml.eye(3):tolist(), "nothing lies below the lowest diagonal")
  t.eq(ml.zeros {2, 3}:repeat_interleave(0, 1).shape, {0, 3})
end)

t.done()
