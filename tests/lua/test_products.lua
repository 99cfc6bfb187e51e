-- Products of packed weights: each format, inner lengths of every kind of remainder, one row and several.
local ml = require "moonlet"
local core = require "moonlet.core"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local FLOATS = {"float32", "float16", "bfloat16"}
local BLOCKS = {q4_0 = 32, q4_1 = 32, q5_0 = 32, q5_1 = 32, q8_0 = 32, q4_k = 256, q5_k = 256, q6_k = 256}

-- Largest difference of two results, in parts of what the products of absolute values sum up to.
local function difference(found, x, w)
  local wanted = x:astype "float64":matmul(w:astype "float64":transpose())
  local scale = x:abs():astype "float64":matmul(w:abs():astype "float64":transpose())
  return ((found:astype "float64" - wanted):abs() / (scale + 1e-30)):max():item()
end

-- Rows 1..5, and 9, of a product are what each of them is alone, bit for bit, and near what they should be.
local function check(what, packed, values, dtype)
  local K = values.shape[2]
  local own = ml.random.normal({9 * K}, {key = ml.random.key(K)})
  local beyond = ml.concat({own, ml.full({64}, 0 / 0)}, 1):astype(dtype)
  ml.eval(beyond)
  local x = beyond:slice {{1, 9 * K}}:reshape {9, K} -- behind whose last row lies what is no number
  local alone = {}
  for m = 1, 9 do alone[m] = ml.linear(x:slice {{m, m}}, packed):tobytes() end
  for _, rows in ipairs {2, 3, 4, 5, 9} do
    local found = ml.linear(x:slice {{1, rows}}, packed)
    t.eq(found:tobytes(), table.concat(alone, "", 1, rows), ("%s, %d rows"):format(what, rows))
    local limit = dtype == "float32" and 1e-6 or dtype == "float16" and 1e-3 or 8e-3
    t.ok(difference(found, x:slice {{1, rows}}, values) < limit, what)
  end
end

t.test("packed float weights of any inner length: a row does not depend on those beside it", function()
  for _, dtype in ipairs(FLOATS) do
    for _, K in ipairs {1, 4, 7, 8, 36, 40, 263, 520, 1032, 2056} do
      local w = ml.random.normal({19, K}, {key = ml.random.key(3)}):astype(dtype)
      check(("%s %d"):format(dtype, K), ml.pack(w), w, "float32")
      if dtype ~= "float32" then check(("%s %d, its own rows"):format(dtype, K), ml.pack(w), w, dtype) end
    end
  end
end)

t.test("packed weights in blocks: a row does not depend on those beside it", function()
  for format, block in pairs(BLOCKS) do
    for _, blocks in ipairs {1, 3, 2048 // block + 1} do
      local w = core.random_packed(format, 35, block * blocks, 0.1, blocks, true)
      check(("%s %d"):format(format, blocks * block), w, w:dequantize(), "float32")
    end
  end
end)

-- gate and up, and residual sums: what follows products is done in their step.
t.test("what follows products is done as if it came after them", function()
  local x = ml.random.normal({3, 264}, {key = ml.random.key(1)}):astype "bfloat16"
  local function weight(n, seed)
    return ml.pack(ml.random.normal({n, 264}, {key = ml.random.key(seed)}):astype "bfloat16")
  end
  local gate, up, w = weight(37, 2), weight(37, 3), weight(264, 4)
  local norm = ml.random.uniform({264}, {key = ml.random.key(5)})
  local function both(a) return ml.silu(ml.linear(a, gate)) * ml.linear(a, up), a + ml.linear(a, w) end
  local function normed(a) return both(ml.rms_norm(a, norm, 1e-5)) end
  for _, rows in ipairs {1, 2, 3} do
    local part = x:slice {{1, rows}}:copy()
    local g, u, v = ml.linear(part, gate), ml.linear(part, up), ml.linear(part, w)
    ml.eval(g, u, v)
    local first, second = ml.compile(both)(part)
    t.eq(first:tobytes(), (ml.silu(g) * u):tobytes(), rows .. " rows, gate and up")
    t.eq(second:tobytes(), (part + v):tobytes(), rows .. " rows, residual")
    local n = ml.rms_norm(part, norm, 1e-5)
    ml.eval(n)
    local a, b = both(n)
    local c, d = ml.compile(normed)(part)
    t.eq(c:tobytes() .. d:tobytes(), a:tobytes() .. b:tobytes(), rows .. " rows, normalised")
  end
end)

t.test("many rows by weights that are not multiplied exactly", function()
  for _, case in ipairs {
    {"bfloat16", 40, 128, 0}, {"bfloat16", 150, 192, 1}, {"float16", 17, 64, 2}, {"q4_0", 20, 128, 3},
    {"q8_0", 33, 64, 4},
    {"q4_k", 12, 256, 5}, {"q6_k", 12, 512, 6}, {"q5_k", 9, 256, 7}, {"q5_1", 9, 64, 8}, {"q4_1", 9, 192, 9},
    {"q5_0", 9, 64, 10}, {"bfloat16", 520, 128, 11}, {"float16", 390, 64, 12},
  } do
    local dtype, M, K, seed = table.unpack(case)
    local blocks, N = BLOCKS[dtype], 70
    local compute = blocks and "bfloat16" or dtype
    local function weight(n, key)
      if blocks then return core.random_packed(dtype, n, K, 0.1, key, false) end
      return ml.pack(ml.random.normal({n, K}, {key = ml.random.key(key)}):astype(dtype), {precision = "fast"})
    end
    local w, gate, up, square = weight(N, seed), weight(N, seed + 1), weight(N, seed + 2), weight(K, seed + 3)
    local x = ml.random.normal({M, K}, {key = ml.random.key(seed)}):astype(compute) * 0.1
    local function all(a)
      a = a * 2.0
      return ml.linear(a, w), ml.silu(ml.linear(a, gate)) * ml.linear(a, up), a + ml.linear(a, square),
        ml.linear(a, w):square() -- a program
    end
    local results, x2 = {ml.compile(all)(x)}, (x * 2.0):astype "float64"
    local function wanted(v) return x2:matmul(v:dequantize():astype "float64":transpose()) end
    local g = wanted(gate)
    local expected = {wanted(w), g * ml.sigmoid(g) * wanted(up), x2 + wanted(square), wanted(w):square()}
    for i, found in ipairs(results) do
      local off = (found:astype "float64" - expected[i]):abs():max():item()
      off = off / expected[i]:abs():max():item()
      t.ok(off < 0.02, ("%s %d x %d, result %d: off by %g"):format(dtype, M, K, i, off))
    end
    local one = ml.compile(all)(x:slice {{1, 9}}:copy())
    t.eq(one:tobytes(), results[1]:slice {{1, 9}}:tobytes(), dtype .. ": a row does not depend on those beside it")
  end
end)

t.test("where rows lie does not change what comes out", function()
  local K, N = 256, 70
  for _, dtype in ipairs {"bfloat16", "q4_0", "q8_0", "q4_1", "affine4_64_float16", "q6_k"} do
    local w = core.random_packed(dtype, N, K, 0.1, 3, false)
    local multiply = ml.compile(function(x) return ml.linear(x, w) end)
    local normed = ml.compile(function(x) return ml.linear(ml.rms_norm(x, nil, {eps = 1e-5}), w) end)
    for _, M in ipairs {1, 5, 9, 80} do
      local x = ml.random.normal({M, K}, {key = ml.random.key(M)}):astype "bfloat16"
      local want, want_normed = ml.linear(x, w):tobytes(), ml.linear(ml.rms_norm(x, nil, {eps = 1e-5}), w):tobytes()
      local long = ml.concat({ml.zeros({3}, {dtype = "bfloat16"}), x:reshape {M * K}}, 1)
      local turned = x:transpose():copy()
      ml.eval(long, turned)
      local where = {
        given = x, ["behind three others"] = long:slice {{4, M * K + 3}}:reshape {M, K}, turned = turned:transpose(),
      }
      for name, rows in pairs(where) do
        local what = ("%s, %d rows, %s"):format(dtype, M, name)
        t.eq(ml.linear(rows, w):tobytes(), want, what)
        t.eq(multiply(rows):tobytes(), want, what .. ", compiled")
        t.eq(normed(rows):tobytes(), want_normed, what .. ", behind a norm")
      end
    end
  end
end)

t.test("a few rows by weights that are not multiplied exactly", function()
  for seed, case in ipairs {
    {"bfloat16", 1, 64, 16}, {"bfloat16", 1, 576, 41}, {"bfloat16", 8, 128, 1}, {"float16", 3, 192, 200},
    {"float16", 33, 64, 7}, {"bfloat16", 64, 128, 24}, {"bfloat16", 16, 2048, 9},
  } do
    local dtype, M, K, N = table.unpack(case)
    local function random(shape, key)
      return ml.random.normal(shape, {key = ml.random.key(seed + key)}):astype(dtype)
    end
    local x, rest, norm = random({M, K}, 1), random({M, N}, 2), random({K}, 3):astype "float32"
    local w, gate, up = random({N, K}, 4), random({N, K}, 5), random({N, K}, 6)
    local function packed(a) return ml.pack(a, {precision = "fast"}) end
    local p, g, u = packed(w), packed(gate), packed(up)
    local found = {ml.compile(function(a, b)
      local h = ml.rms_norm(-a, norm, 1e-5)
      return ml.linear(-a, p), ml.linear(-a, p) + b, ml.silu(ml.linear(h, g)) * ml.linear(h, u)
    end)(x, rest)}
    local function product(a, b) return a:astype "float64":matmul(b:astype "float64":transpose()) end
    local y, h = product(-x, w), ml.rms_norm(-x, norm, 1e-5)
    for i, wanted in ipairs {y, y + rest:astype "float64", ml.silu(product(h, gate)) * product(h, up)} do
      local off = ((found[i]:astype "float64" - wanted):abs():max() / wanted:abs():max()):item()
      t.ok(off < 0.02, ("%s %d x %d x %d, result %d: off by %g"):format(dtype, M, K, N, i, off))
    end
  end
end)

-- Attention of a model whose weights are not multiplied exactly may be another kernel, in a plan with such a weight.
local function attend(q, k, v, opts, pages, slots, start, count)
  local w = ml.pack(ml.random.normal({32, q.shape[4]}, {key = ml.random.key(1)}), {precision = "fast"})
  local found = ml.compile(function(a)
    return ml.attention(a * 1.0, k, v, pages, slots, start, count, opts), ml.linear(a:reshape {-1, a.shape[4]}, w)
  end)(q)
  local wanted = ml.attention(q, k, v, pages, slots, start, count, opts)
  return ((found:astype "float64" - wanted:astype "float64"):abs()):max():item()
end

-- Keys or values (2, heads, n, size) in pages of 64 positions, and the table that says where.
local function paged(x)
  local B, heads, n, size = table.unpack(x.shape)
  local each = (n + 63) // 64
  local rest = ml.zeros({B, heads, each * 64 - n, size}, {dtype = x.dtype})
  local pool = ml.concat({x, rest}, 3):reshape {B, heads, each, 64, size}:transpose {1, 3, 2, 4, 5}
  pool = pool:reshape {B * each, heads, 64, size}
  ml.eval(pool)
  return pool, ml.arange(B * each):reshape {B, each}
end

t.test("attention of one query in a fast model is that of an exact one, nearly", function()
  local function int(list) return ml.tensor(list, {dtype = "int32"}) end
  for _, case in ipairs {
    {dtype = "bfloat16", size = 64, heads = 8, kv = 2, keys = 200},
    {dtype = "float16", size = 128, heads = 3, kv = 1, keys = 64},
    {dtype = "float32", size = 256, heads = 10, kv = 1, keys = 130},
    {dtype = "float32", size = 64, heads = 4, kv = 4, keys = 1},
  } do
    local function random(seed, h, n)
      return ml.random.normal({2, h, n, case.size}, {key = ml.random.key(seed)}):astype(case.dtype)
    end
    local q, k, v = random(1, case.heads, 1), random(2, case.kv, case.keys), random(3, case.kv, case.keys)
    ml.eval(k, v)
    local pool, pages = paged(k)
    local values = paged(v)
    local limit = case.dtype == "float32" and 1e-5 or case.dtype == "float16" and 2e-3 or 2e-2
    for _, opts in ipairs {{scale = 0.1}, {scale = 0.1, window = 70}, {scale = 0.3, softcap = 2.0}} do
      t.ok(attend(q, k, v, opts) < limit, case.dtype .. " whole")
      local ends = int {case.keys // 2, case.keys - 1}
      t.ok(attend(q, pool, values, opts, pages, int {1, 0}, ends, int {1, 1}) < limit, case.dtype .. " slots")
      t.ok(attend(q, pool, values, opts, pages, int {1, 0}, ends, int {0, 1}) < limit, case.dtype .. " an idle one")
    end
    local sinks = ml.random.normal({case.heads}, {key = ml.random.key(9)})
    t.ok(attend(q, k, v, {scale = 0.1, sinks = sinks}) < limit, case.dtype .. " sinks")
  end
end)

t.test("attention of many queries in a fast model is that of an exact one, nearly", function()
  local function int(list) return ml.tensor(list, {dtype = "int32"}) end
  for _, case in ipairs {
    {dtype = "bfloat16", size = 64, heads = 4, kv = 2, rows = 70, keys = 200},
    {dtype = "float16", size = 128, heads = 3, kv = 1, rows = 9, keys = 64},
    {dtype = "bfloat16", size = 128, heads = 2, kv = 1, rows = 64, keys = 130},
  } do
    local function random(seed, h, n)
      return ml.random.normal({2, h, n, case.size}, {key = ml.random.key(seed)}):astype(case.dtype)
    end
    local q, k, v = random(1, case.heads, case.rows), random(2, case.kv, case.keys), random(3, case.kv, case.keys)
    ml.eval(k, v)
    local pool, pages = paged(k)
    local values = paged(v)
    local limit = case.dtype == "float16" and 4e-3 or 3e-2
    for _, opts in ipairs {
      {scale = 0.1}, {scale = 0.1, window = 30}, {scale = 0.3, softcap = 2.0}, {scale = 0.1, causal = false},
    } do
      t.ok(attend(q, k, v, opts) < limit, case.dtype .. " whole")
      local start = int {5, case.keys - case.rows}
      local count = int {case.rows, case.rows - 3}
      t.ok(attend(q, pool, values, opts, pages, int {1, 0}, start, count) < limit, case.dtype .. " slots")
      t.ok(attend(q, pool, values, opts, pages, int {1, 0}, start, int {0, 1}) < limit, case.dtype .. " an idle one")
    end
    local sinks = ml.random.normal({case.heads}, {key = ml.random.key(9)})
    t.ok(attend(q, k, v, {scale = 0.1, sinks = sinks}) < limit, case.dtype .. " sinks")
  end
end)

t.test("a profile names what ran, and lets errors through", function()
  local x, w = ml.random.normal {3, 32}, ml.pack(ml.random.normal {40, 32})
  local f = ml.compile(function(a) return ml.linear(a, w) end)
  local text = ml.profile(function() for _ = 1, 3 do f(x):tolist() end end)
  t.ok(text:find("1 steps on", 1, true) and text:find("run 3 times", 1, true), text)
  t.ok(text:find("linears float32 (3, 40)", 1, true), text)
  t.eq(select(2, pcall(ml.profile, error, "mine", 0)), "mine")
  t.ok(ml.profile(function() end):find "no plan ran", "nothing")
  local co = coroutine.create(function() ml.profile(coroutine.yield) end) -- never gone on with
  coroutine.resume(co)
  t.raises(function() ml.profile(function() end) end, "one is under way already", "usage")
  coroutine.close(co)
  t.ok(ml.profile(function() end):find "no plan ran", "after a coroutine that was closed")
  local wrapped = coroutine.wrap(function() return ml.profile(function() coroutine.yield() f(x):tolist() end) end)
  wrapped()
  t.raises(function() ml.profile(function() end) end, "one is under way already", "usage")
  t.ok(wrapped():find("linears float32 (3, 40)", 1, true), "one that is refused leaves the other alone")
end)

t.done()
