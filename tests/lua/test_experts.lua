-- Weights with an experts axis, and products of rows with the experts that are named for them.
local ml = require "moonlet"
local core = require "moonlet.core"
local load_weights = require "moonlet.load.weights"
local nn = require "moonlet.nn"
local fixtures = require "tests.fixtures"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local formats = {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"}

-- Random weights (experts, outputs, inputs) of a format as they were before they were packed.
local function weights(format, experts, outputs, inputs)
  if not format:find "float" then
    return core.unpack(core.random_packed(format, outputs, inputs, 0.1, 3, true, experts))
  end
  local w = ml.random.normal({experts, outputs, inputs}):astype(format)
  ml.eval(w)
  return w
end

-- The matrix of expert e, counted from 0, in the same layout.
local function matrix(w, e)
  local bytes, size = w:tobytes(), w.nbytes // w.shape[1]
  return ml.from_bytes(bytes:sub(e * size + 1, (e + 1) * size), {w.shape[2], w.shape[3]}, w.dtype)
end

-- Random experts for N rows: some of none, some of many.
local function random_ids(shape, experts, dtype)
  local n, list = 1, {}
  for _, d in ipairs(shape) do n = n * d end
  for i = 1, n do list[i] = math.random() < 0.3 and experts // 2 or math.random(0, experts - 1) end
  if n == 0 then return ml.zeros(shape, {dtype = dtype or "int32"}) end
  return ml.tensor(list, {dtype = dtype or "int32"}):reshape(shape)
end

-- What linear gives for each entry of ids, as bytes: x (rows, inputs), ids (rows, k) as a list. Rows are multiplied by
-- an expert all at once, which changes no bit.
local function expected(x, per_expert, ids, k)
  local rows, parts = {}, {}
  for i, e in ipairs(ids) do
    rows[e] = rows[e] or {}
    table.insert(rows[e], {at = i, row = (i - 1) // k})
  end
  for e, list in pairs(rows) do
    local index = {}
    for i, r in ipairs(list) do index[i] = r.row end
    local y = ml.linear(x:take(ml.tensor(index), 1), per_expert[e])
    local bytes, size = y:tobytes(), y.nbytes // #list
    for i, r in ipairs(list) do parts[r.at] = bytes:sub((i - 1) * size + 1, i * size) end
  end
  return table.concat(parts)
end

local function check(x, w, plain, ids, k, precision, what)
  local per_expert = {}
  for e = 0, plain.shape[1] - 1 do
    local m = matrix(plain, e)
    per_expert[e] = w.layout == "packed" and ml.pack(m, {precision = precision}) or m
  end
  local y = ml.gather_linear(x, w, ids)
  local flat = ids:reshape {-1}:tolist()
  t.eq(y.dtype, x.dtype)
  t.ok(y:tobytes() == expected(x:reshape {-1, x.shape[x.ndim]}, per_expert, flat, k), what)
  return y
end

-- Rows of one expert: none, one, few, more than one block of them, and several experts for a row.
local sizes = {{1, 8, 1}, {1, 8, 4}, {4, 8, 4}, {5, 3, 7}, {70, 6, 2}, {300, 2, 2}, {9, 1, 1}}

local dtypes = {"float32", "float16", "bfloat16"}

-- Rows of each dtype; of strided weights the test of every dtype beside every other has more of them.
local function check_format(format, precision)
  for i, size in ipairs(sizes) do
    local n, experts, k = table.unpack(size)
    local outputs = ({37, 16, 150, 1, 33, 48, 7})[i]
    local plain = weights(format, experts, outputs, format:find "float" and 40 or 512)
    local w = precision and ml.pack(plain, {precision = precision}) or plain
    local ids, inputs = random_ids({n, k}, experts), plain.shape[3]
    local what = ("%s %s: %d rows, %d of %d experts"):format(format, precision or "strided", n, k, experts)
    -- Of many rows in narrow dtypes a GPU's tensor cores make other sums, where these need not be exact.
    local narrow = precision and not (precision == "fast" and ml.default_device():find "cuda")
    for _, dtype in ipairs(narrow and dtypes or {"float32"}) do
      local x, own = ml.random.normal({n, inputs}):astype(dtype), ml.random.normal({n, k, inputs}):astype(dtype)
      check(x, w, plain, ids, k, precision, what .. ", rows of " .. dtype)
      check(own, w, plain, ids, 1, precision, what .. ", each its own row of " .. dtype)
    end
  end
end

for _, format in ipairs(formats) do
  t.test(format .. ": linear's bits, whatever else is computed", function()
    check_format(format, "exact")
    check_format(format, "fast")
  end)
end
for _, format in ipairs {"float32", "float16", "bfloat16"} do
  t.test(format .. ": linear's bits, whatever else is computed", function()
    check_format(format, "exact")
    check_format(format, nil)
  end)
end

t.test("strided weights of every dtype beside rows of every dtype", function()
  for _, a in ipairs(dtypes) do
    for _, b in ipairs(dtypes) do
      local plain = weights(b, 5, 65, 97)
      local x = ml.random.normal({20, 97}):astype(a)
      check(x, plain, plain, random_ids({20, 3}, 5), 3, nil, a .. " by " .. b)
    end
  end
  local many = weights("bfloat16", 5, 500, 97) -- so many that pairs of terms are told from single ones, once rounded
  check(ml.random.normal({200, 97}):astype "bfloat16", many, many, random_ids({200, 4}, 5), 4, nil, "many bfloat16")
  local plain = weights("float64", 5, 30, 21)
  check(ml.random.normal({7, 21}):astype "float64", plain, plain, random_ids({7, 2}, 5), 2, nil, "float64")
end)

t.test("long rows of bfloat16, with values that tiles take for zero", function()
  local plain = weights("bfloat16", 5, 70, 1100) -- more than a block of pairs, and no whole number of their steps
  local w, tiny = ml.pack(plain), ml.where(ml.random.uniform {90, 1100}:lt(0.1), 0x1p-130, ml.random.normal {90, 1100})
  for _, n in ipairs {1, 2, 3, 11, 17, 90} do
    local x = ml.concat({tiny:slice {{1, n}, {1, 1000}}, ml.full({n, 100}, 0x1p-128)}, 2):astype "bfloat16"
    check(x, w, plain, random_ids({n, 3}, 5), 3, "exact", n .. " rows")
    check(x, w, plain, ml.zeros({n, 1}, {dtype = "int32"}), 1, "exact", n .. " rows of one expert")
  end
end)

t.test("near what float64 gives", function()
  local n, k, experts, outputs, inputs = 40, 3, 6, 50, 256
  local ids = random_ids({n, k}, experts)
  for _, case in ipairs {{"q4_0"}, {"q8_0"}, {"q6_k"}, {"bfloat16"}, {"float32"}, {"q4_0", "bfloat16"},
    {"bfloat16", "bfloat16"}, {"bfloat16", "float16"}, {"float32", "float16"}} do
    local format, dtype = case[1], case[2] or "float32"
    local x, rounding = ml.random.normal({n, inputs}):astype(dtype), case[2] == "bfloat16" and 0x1p-8 or 0x1p-11
    local plain = weights(format, experts, outputs, inputs)
    local w = ml.pack(plain)
    local wide = w:dequantize():astype "float64"
    local oracle = wide:take(ids, 1):matmul(x:astype "float64":reshape {n, 1, inputs, 1}):reshape {n, k, outputs}
    local slack = 2e-3 + (case[2] and oracle:abs():max():item() * rounding or 0)
    t.close(ml.gather_linear(x, w, ids), oracle, slack, format)
    if plain.layout == "strided" then t.close(ml.gather_linear(x, plain, ids), oracle, slack, format) end
    t.close(ml.gather_linear(x, ml.pack(plain, {precision = "fast"}), ids), oracle, 0.3 + slack, format .. " fast")
  end
end)

t.test("ids of every integer dtype, views of everything, and more axes", function()
  local plain = weights("q8_0", 6, 20, 64)
  local w = ml.pack(plain)
  local x, ids = ml.random.normal {12, 64}, random_ids({12, 4}, 6, "int64")
  local y = ml.gather_linear(x, w, ids)
  for _, dtype in ipairs {"int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64"} do
    t.eq(ml.gather_linear(x, w, ids:astype(dtype)):tobytes(), y:tobytes(), dtype)
  end
  local turned = ml.eval(x:transpose():contiguous()) or x:transpose():contiguous()
  t.eq(ml.gather_linear(turned:transpose(), w, ids):tobytes(), y:tobytes())
  local wide = ml.concat({x, x}, 2)
  t.eq(ml.gather_linear(wide:slice {{1, 12}, {65, 128}}, w, ids):tobytes(), y:tobytes())
  t.eq(ml.gather_linear(x, w, ids:transpose():contiguous():transpose()):tobytes(), y:tobytes())
  t.eq(ml.gather_linear(x, w, ml.concat({ids, ids}, 2):slice {{1, 12}, {5, 8}}):tobytes(), y:tobytes())
  t.eq(ml.gather_linear(x:reshape {3, 4, 64}, w, ids:reshape {3, 4, 4}):tobytes(), y:tobytes())
  t.eq(ml.gather_linear(x:reshape {3, 4, 64}, w, ids:reshape {3, 4, 4}).shape, {3, 4, 4, 20})
  local first = ids:slice {{1, 12}, {1, 1}}
  t.eq(ml.gather_linear(x, w, first:reshape {12}):tobytes(), ml.gather_linear(x, w, first):tobytes())
  t.eq(ml.gather_linear(x:at(1), w, ids:at(1)):tobytes(), y:at(1):tobytes())
  t.eq(ml.gather_linear(x:at(1), w, ml.tensor(3)).shape, {20})
  local bf16, narrow = ml.pack(weights("bfloat16", 6, 20, 64)), x:astype "bfloat16"
  local doubled = ml.concat({narrow, narrow}, 2)
  for _, e in ipairs {bf16, w} do
    local of_narrow = ml.gather_linear(narrow, e, ids):tobytes()
    t.eq(ml.gather_linear(doubled:slice {{1, 12}, {65, 128}}, e, ids):tobytes(), of_narrow)
    t.eq(ml.gather_linear(narrow:transpose():contiguous():transpose(), e, ids):tobytes(), of_narrow)
    t.eq(ml.gather_linear(narrow:reshape {3, 4, 64}, e, ids:reshape {3, 4, 4}):tobytes(), of_narrow)
    t.eq(ml.gather_linear(narrow:at(1), e, ids:at(1)):tobytes(), of_narrow:sub(1, 4 * 20 * 2))
  end
  local floats = weights("float32", 6, 20, 64)
  local z = ml.gather_linear(x, floats, ids):tobytes()
  t.eq(ml.gather_linear(x, floats:swapaxes(2, 3):contiguous():swapaxes(2, 3), ids):tobytes(), z)
  t.eq(ml.gather_linear(x, ml.concat({floats, floats}, 1):slice {{1, 12, 2}, {1, 20}, {1, 64}}, ids).shape, {12, 4, 20})
  t.eq(ml.gather_linear(x, ml.concat({floats, floats}, 1):slice {{7, 12}, {1, 20}, {1, 64}}, ids):tobytes(), z)
  t.eq(ml.gather_linear(x:broadcast_to {12, 64}, floats, ids):tobytes(), z)
end)

t.test("more experts than a digit of the sort has", function()
  local plain = weights("float32", 700, 3, 8)
  local ids = random_ids({90, 3}, 700)
  check(ml.random.normal {90, 8}, plain, plain, ids, 3, nil, "strided")
  check(ml.random.normal {90, 8}, ml.pack(plain), plain, ids, 3, "exact", "packed")
  local none = ml.zeros {70000, 0, 4}
  t.eq(ml.gather_linear(ml.zeros {2, 4}, none, ml.tensor {{69999, 3}, {0, 70}}).shape, {2, 2, 0})
end)

t.test("nothing to do is done", function()
  local w = ml.pack(weights("q4_0", 4, 20, 32))
  t.eq(ml.gather_linear(ml.zeros {0, 32}, w, ml.zeros({0, 3}, {dtype = "int32"})).shape, {0, 3, 20})
  t.eq(ml.gather_linear(ml.zeros {2, 32}, w, ml.zeros({2, 0}, {dtype = "int32"})).shape, {2, 0, 20})
  t.eq(#ml.gather_linear(ml.zeros {0, 32}, w, ml.zeros({0, 3}, {dtype = "int32"})):tobytes(), 0)
  t.eq(#ml.gather_linear(ml.zeros {2, 32}, w, ml.zeros({2, 0}, {dtype = "int32"})):tobytes(), 0)
  local empty = ml.zeros {4, 5, 0}
  local zeros = {0.0, 0.0, 0.0, 0.0, 0.0}
  t.eq(ml.gather_linear(ml.zeros {1, 0}, empty, ml.tensor {{1, 3}}):tolist(), {{zeros, zeros}})
  t.raises(function()
    return ml.gather_linear(ml.zeros {1, 4}, ml.zeros {0, 5, 4}, ml.tensor {{0}}):tolist()
  end, "index 0 is out of range for size 0", "usage")
end)

t.test("experts that are none are faults, and the process goes on", function()
  local x = ml.random.normal {40, 32}
  local q4, bf16, narrow = ml.pack(weights("q4_0", 4, 20, 32)), ml.pack(weights("bfloat16", 4, 20, 32)),
    x:astype "bfloat16"
  for _, case in ipairs {{q4, x}, {weights("float32", 4, 20, 32), x}, {ml.zeros {4, 0, 32}, x}, {q4, narrow},
    {bf16, narrow}, {bf16, x:astype "float16"}} do
    local w, rows = table.unpack(case)
    for _, bad in ipairs {4, -1, 1 << 40} do
      for _, n in ipairs {1, 40} do
        local ids = {}
        for i = 1, n do ids[i] = {0, i == n and bad or 3} end
        t.raises(function()
          return ml.gather_linear(rows:slice {{1, n}, {1, 32}}, w, ml.tensor(ids, {dtype = "int64"})):tolist()
        end, ("gather_linear: index %d is out of range for size 4"):format(bad):gsub("%-", "%%-"), "usage")
      end
    end
  end
  t.eq(ml.gather_linear(x, ml.zeros {4, 2, 32}, ml.zeros({40, 1}, {dtype = "int32"})):max():item(), 0.0)
end)

t.test("a replay is what it was, with other experts and with what follows in its step", function()
  local q8, bf16 = ml.pack(weights("q8_0", 8, 150, 64), {precision = "fast"}), ml.pack(weights("bfloat16", 8, 150, 64))
  for _, case in ipairs {{q8, "float32"}, {q8, "float16"}, {bf16, "float32"}, {bf16, "float16"}, {bf16, "bfloat16"},
    {weights("float32", 8, 150, 64), "float32"}} do
    local w, dtype = table.unpack(case)
    local function mixture(x, experts, ids, shares)
      local y = ml.gather_linear(x, experts, ids)
      return (y:silu() * shares + 1), y:astype "bfloat16"
    end
    local f = ml.compile(mixture)
    for _, n in ipairs {1, 50} do
      for _ = 1, 2 do
        local x, shares = ml.random.normal({n, 64}):astype(dtype), ml.random.normal({n, 3, 1}):astype(dtype)
        local ids = random_ids({n, 3}, 8)
        ml.eval(x, ids, shares)
        local a, b = f(x, w, ids, shares)
        local y = ml.gather_linear(x, w, ids)
        ml.eval(y)
        t.eq(a:tobytes(), (y:silu() * shares + 1):tobytes())
        t.eq(b:tobytes(), y:astype "bfloat16":tobytes())
      end
    end
    local x, shares = ml.zeros({2, 64}, {dtype = dtype}), ml.zeros({2, 3, 1}, {dtype = dtype})
    local text = ml.explain(mixture, x, w, ml.zeros({2, 3}, {dtype = "int32"}), shares)
    t.ok(text:find("gather_linear", 1, true) and not text:find "fused", text)
  end
end)

t.test("what is assigned is written to the state", function()
  local q4, bf16 = ml.pack(weights("q4_0", 4, 37, 64)), ml.pack(weights("bfloat16", 4, 37, 64))
  for _, case in ipairs {{q4, "float32"}, {q4, "bfloat16"}, {bf16, "bfloat16"}, {weights("float32", 4, 37, 64),
    "float32"}} do
    local w, dtype = table.unpack(case)
    local x, ids = ml.random.normal({5, 64}):astype(dtype), random_ids({5, 2}, 4)
    local s, doubled = ml.state({5, 2, 37}, dtype), ml.state({5, 2, 37}, dtype)
    local f = ml.compile(function(a, i)
      ml.assign(s, ml.gather_linear(a, w, i))
      ml.assign(doubled, ml.gather_linear(a, w, i) * 2)
    end)
    f(x, ids)
    local y = ml.gather_linear(x, w, ids)
    t.eq(s:tobytes(), y:tobytes())
    t.eq(doubled:tobytes(), (y * 2):tobytes())
  end
end)

t.test("any number of threads gives the same", function()
  local before = ml.threads()
  local x, ids = ml.random.normal {60, 256}, random_ids({60, 4}, 9)
  local q4, bf16 = ml.pack(weights("q4_k", 9, 70, 256), {precision = "fast"}), ml.pack(weights("bfloat16", 9, 70, 256))
  local list = {{q4, x}, {weights("float32", 9, 70, 256), x}, {q4, x:astype "bfloat16"}, {bf16, x:astype "float16"},
    {bf16, x:astype "bfloat16"}}
  local first = {}
  for threads = 1, 4 do
    ml.threads(threads)
    for i, case in ipairs(list) do
      local w, rows = case[1], case[2]
      local bytes = ml.gather_linear(rows, w, ids):tobytes() .. ml.gather_linear(rows:at(1), w, ids:at(1)):tobytes()
      first[i] = first[i] or bytes
      t.ok(bytes == first[i])
    end
  end
  ml.threads(before)
end)

t.test("packing and unpacking change no byte", function()
  for _, format in ipairs {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k", "float32", "bfloat16"} do
    for _, outputs in ipairs {1, 16, 37} do
      local plain = weights(format, 3, outputs, 256)
      local w = ml.pack(plain)
      t.eq(w.layout, "packed")
      t.eq(w.shape, {3, outputs, 256})
      t.eq(w.nbytes, plain.nbytes)
      t.ok(w:tobytes() == plain:tobytes(), format)
      t.ok(w:unpack():tobytes() == plain:tobytes(), format)
      t.eq(w:unpack().layout, plain.layout)
      t.ok(ml.pack(w) == w)
    end
  end
  local blocks = weights("q4_0", 3, 20, 64)
  local x, ids = ml.random.normal {2, 64}, ml.tensor {{1, 2}, {0, 1}}
  t.eq(ml.gather_linear(x, blocks, ids):tobytes(), ml.gather_linear(x, ml.pack(blocks), ids):tobytes())
  local turned = weights("float32", 3, 20, 64):swapaxes(1, 2)
  t.eq(ml.pack(turned):tobytes(), turned:tobytes())
end)

t.test("an expert's matrix is a part of the same storage, in the same layout", function()
  for _, format in ipairs {"q8_0", "q4_k", "bfloat16"} do
    local plain = weights(format, 3, 37, 256)
    local x = ml.random.normal {4, 256}
    for _, precision in ipairs {"exact", "fast"} do
      local w = ml.pack(plain, {precision = precision})
      local held = ml.memory.active()
      for e = 1, 3 do
        local one = ml.pack(matrix(plain, e - 1), {precision = precision})
        t.eq(w[e].shape, {37, 256})
        t.eq(w[e].layout, "packed")
        t.ok(ml.linear(x, w[e]):tobytes() == ml.linear(x, one):tobytes())
        local y, ids = ml.ones {2, 37}, ml.tensor {36, 0}
        t.ok(ml.linear_transposed(y, w[e]):tobytes() == ml.linear_transposed(y, one):tobytes())
        t.ok(ml.embedding(w[e], ids):tobytes() == ml.embedding(one, ids):tobytes())
        t.ok(plain[e]:tobytes() == w[e]:tobytes() and plain[e].layout == plain.layout)
        t.ok(w[e - 4]:tobytes() == w[e]:tobytes())
      end
      t.eq(#w, 3)
      t.eq(w[4], nil)
      collectgarbage()
      collectgarbage()
      t.ok(ml.memory.active() <= held + 4096, "copies are held")
      t.raises(function() return w[5] end, "index 5 is out of range for size 3", "usage")
      t.raises(function() return w[1][1] end, "x%[i%]: a weight of", "usage")
    end
    t.eq(ml.pack(plain):dequantize():tobytes(), ml.stack {ml.pack(plain)[1]:dequantize(),
      ml.pack(plain)[2]:dequantize(), ml.pack(plain)[3]:dequantize()}:tobytes())
    local w, linear = ml.pack(plain), ml.compile(ml.linear)
    local both = ml.concat({ml.linear(x, w[1]), ml.linear(x, w[3])}, 1)
    t.ok(both:tobytes() == linear(x, w[1]):tobytes() .. linear(x, w[3]):tobytes(), "captured, and arguments")
    local first = ml.pack(plain)[1]
    collectgarbage()
    t.ok(first:tobytes() == matrix(plain, 0):tobytes(), "the whole is closed, its part is not")
  end
end)

t.test("files hold experts: blocks, floats, and floats that are rounded as they are read", function()
  local function open(how, text)
    local path = os.tmpname()
    local file <close> = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
    local opened = assert(core[how](path))
    os.remove(path)
    return opened
  end
  local numbers = {q4_0 = 2, q8_0 = 8, q4_k = 12, q6_k = 14, float32 = 0}
  for format, number in pairs(numbers) do
    local plain = weights(format, 3, 37, 256)
    local file <close> = open("open_gguf", fixtures.gguf({}, {{"w", {256, 37, 3}, number, plain:tobytes()}}))
    local w = assert(file:load("w", {packed = true, exact = true}))
    t.eq(w.shape, {3, 37, 256})
    t.eq(w.layout, "packed")
    t.ok(w:tobytes() == plain:tobytes(), format)
    t.ok(assert(file:load "w"):tobytes() == plain:tobytes(), format)
  end
  local plain = weights("bfloat16", 3, 37, 256)
  local file <close> = open("open_safetensors", fixtures.safetensors {{"w", "BF16", {3, 37, 256}, plain:tobytes()},
    {"one", "BF16", {37, 256}, matrix(plain, 1):tobytes()}, {"four", "BF16", {3, 37, 16, 16}, plain:tobytes()}})
  local w = assert(file:load("w", {packed = true, exact = true, quantize = "q8_0"}))
  t.eq(w.dtype, "q8_0")
  t.eq(w.shape, {3, 37, 256})
  t.ok(w[2]:tobytes() == assert(file:load("one", {packed = true, quantize = "q8_0"})):tobytes())
  local Net = nn.class "Net"
  function Net:init() self.experts = nn.parameter({3, 37, 256}, "matrix") end
  local net = Net()
  local source = {file = file, path = "here"}
  source.entries = {experts = {name = "w", dtype = "bfloat16", shape = {3, 37, 256}}}
  load_weights.load(net, {}, source, {precision = "fast", quantize = {format = "q8_0", group_size = 32}})
  t.ok(net.experts:tobytes() == w:tobytes())
  net = Net()
  load_weights.random(net, {precision = "exact", random = 1, quantize = {format = "q4_0", group_size = 32}})
  t.eq({net.experts.dtype, net.experts.shape, net.experts.layout}, {"q4_0", {3, 37, 256}, "packed"})
  t.fails("four: expected 2 or 3 axes, found 4", "mismatch", file:load("four", {packed = true}))
end)

t.test("what does not fit is said", function()
  local w = ml.pack(weights("q8_0", 4, 20, 32))
  local x, ids = ml.zeros {2, 32}, ml.zeros({2, 3}, {dtype = "int32"})
  local g = ml.gather_linear
  t.raises(function() g(x, ml.pack(ml.zeros {20, 32}), ids) end,
    "gather_linear: weight: expected 3 axes, found shape %(20, 32%)", "mismatch")
  t.raises(function() g(ml.zeros {2, 31}, w, ids) end, "gather_linear: last axis 31, weight wants 32", "mismatch")
  t.raises(function() g(x, w, ids:astype "float32") end, "ids: expected an integer dtype, found float32", "usage")
  t.raises(function() g(x, w, ml.zeros({3, 3}, {dtype = "int32"})) end,
    "ids of shape %(3, 3%) do not fit x of shape %(2, 32%)", "mismatch")
  t.raises(function() g(x, w, ml.zeros({2, 3, 1}, {dtype = "int32"})) end, "ids of shape", "mismatch")
  t.raises(function() g(x:astype "float64", w, ids) end, "takes float32, float16 or bfloat16, found float64",
    "unsupported")
  t.raises(function() g(ml.zeros({2, 32}, {dtype = "int32"}), w, ids) end, "x: expected floats", "usage")
  t.raises(function() g(x:astype "float64", ml.zeros {4, 20, 32}, ids) end, "wants a weight of float64", "mismatch")
  for _, weight in ipairs {w, w:unpack()} do
    local before = ml.memory.active()
    t.raises(function() ml.linear(x, weight) end, "linear: weight: expected 2 axes, found shape %(4, 20, 32%)",
      "mismatch")
    t.raises(function() ml.linear_transposed(ml.zeros {2, 20}, weight) end, "weight: expected 2 axes", "mismatch")
    t.raises(function() ml.embedding(weight, ids) end, "weight: expected 2 axes", "mismatch")
    t.raises(function() return weight + 1 end, "add: a: a weight of q8_0 .* it first %(gather_linear takes it", "usage")
    t.raises(function() weight:astype "float32" end, "a weight of q8_0", "usage")
    t.ok(ml.memory.active() < before + 1024, "what is refused is not packed")
  end
  t.raises(function() ml.pack(ml.zeros {1, 2, 3, 4}) end, "pack: expected 2 or 3 axes, found 4", "usage")
  t.raises(function() ml.pack(ml.zeros {0, 2, 3}) end, "an empty weight %(0, 2, 3%) of float32 is not packed",
    "unsupported")
end)

t.done()
