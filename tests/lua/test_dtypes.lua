-- Computing in float16 and bfloat16: what is rounded is rounded after each operation, however it is run.
local core = require "moonlet.core"
local ml = require "moonlet"
local fn = require "moonlet.fn"
local nn = require "moonlet.nn"
local t = require "tests.lua.harness"
local tiny = require "tests.tiny"

t.leak_check = function() return ml.memory.active() end

local DTYPES = {"float32", "float16", "bfloat16"}
local NARROW = {"float16", "bfloat16"}

local function numbers(seed, ...) return ml.random.normal({...}, {key = ml.random.key(seed)}) end
local function largest(x) return x:abs():max():item() end
local function same(a, b) return a.dtype == b.dtype and a:tobytes() == b:tobytes() end

-- ---- products ----

local FORMATS = {"float32", "float16", "bfloat16", "q4_0", "q4_1", "q8_0", "q4_k", "q6_k"}

-- Where weights need not be multiplied exactly, a GPU's tensor cores multiply many rows of narrow dtypes, and sum up in
-- another order than what multiplies few.
local function in_one_order(exact, dtype) return exact or dtype == "float32" or not ml.default_device():find "cuda" end

t.test("a row's product does not depend on the rows beside it", function()
  for _, format in ipairs(FORMATS) do
    for _, exact in ipairs {true, false} do
      local inputs = format:find "_k$" and 768 or format:find "^q" and 544 or 529
      local w = core.random_packed(format, 39, inputs, 0.05, 7, exact)
      for i, dtype in ipairs(DTYPES) do
        local x = numbers(i, 35, inputs):astype(dtype)
        local all = ml.linear(x, w)
        t.eq(all.dtype, dtype)
        for _, rows in ipairs(in_one_order(exact, dtype) and {1, 2, 3, 4, 5, 7, 15, 16, 17, 18, 33} or {9, 16, 33}) do
          local part = ml.linear(x:slice {{1, rows}}, w)
          t.ok(same(part, all:slice {{1, rows}}), ("%s, %s, %d rows"):format(format, dtype, rows))
          local last = ml.linear(x:slice {{36 - rows, 35}}, w)
          t.ok(same(last, all:slice {{36 - rows, 35}}), ("%s, %s, the last %d rows"):format(format, dtype, rows))
        end
      end
    end
  end
end)

-- Terms that cancel leave what float32 lost on the way, which the order of a sum decides; rounding hides none of it.
local by_lanes = ml.default_device():find "cuda" -- where what is added and taken away again leaves nothing
t.test("sums have one order, whatever the number of rows", function()
  for _, half in ipairs {16, 33, 270, 600} do
    local a, b = numbers(half, 20, half), numbers(half + 1, 35, half)
    for _, format in ipairs(DTYPES) do
      local w = ml.pack(ml.concat({b, b}, 2):astype(format))
      for _, dtype in ipairs(DTYPES) do
        local x = ml.concat({a, -a}, 2):astype(dtype)
        local all = ml.linear(x, w)
        t.ok((largest(all) > 0 or by_lanes) and largest(all) < 1e-3, largest(all))
        for _, rows in ipairs {1, 2, 3, 4, 5, 9, 16, 17} do
          local part = ml.linear(x:slice {{1, rows}}, w)
          t.ok(same(part, all:slice {{1, rows}}), ("%s, %s, 2 x %d inputs, %d rows"):format(format, dtype, half, rows))
        end
      end
    end
  end
end)

t.test("what is next to nothing is the same for one row and many", function()
  local w = ml.pack(numbers(1, 40, 100):astype "bfloat16")
  for _, size in ipairs {1e-36, 1e-38, 1e-39} do
    local x = (numbers(2, 20, 100) * size):astype "bfloat16"
    local all = ml.linear(x, w)
    for _, rows in ipairs {1, 2, 3, 17} do
      t.ok(same(ml.linear(x:slice {{1, rows}}, w), all:slice {{1, rows}}), ("%g, %d rows"):format(size, rows))
    end
  end
end)

t.test("sums of products are float32, whatever the dtype of their terms", function()
  for _, dtype in ipairs(NARROW) do
    local w = ml.pack(ml.ones({16, 1000}, {dtype = dtype}))
    t.eq(ml.linear(ml.ones({1, 1000}, {dtype = dtype}), w)[1][1]:item(), 1000.0) -- bfloat16 would end at 256
    local x = numbers(3, 9, 300):astype(dtype)
    local v = numbers(4, 48, 300):astype "bfloat16"
    local wanted = ml.matmul(x:astype "float64", v:astype "float64":transpose())
    local off = (ml.linear(x, ml.pack(v)):astype "float64" - wanted):abs()
    local eps = dtype == "bfloat16" and 2.0 ^ -8 or 2.0 ^ -11
    t.ok((off - wanted:abs() * (eps * 1.01)):max():item() < 1e-4)
  end
end)

-- ---- a block, as models have them ----

local HEADS, SIZE, HIDDEN = 4, 8, 48

local function weights(matrix)
  local D = HEADS * SIZE
  local function packed(seed, outputs, inputs)
    return ml.pack((numbers(seed, outputs, inputs) * inputs ^ -0.5):astype(matrix))
  end
  local w = {
    q = packed(1, D, D), k = packed(2, D, D), v = packed(3, D, D), o = packed(4, D, D),
    gate = packed(5, HIDDEN, D), up = packed(6, HIDDEN, D), down = packed(7, D, HIDDEN), norm = numbers(8, D),
    frequencies = ml.tensor({1.0, 0.1}),
  }
  for _, x in pairs(w) do ml.eval(x) end
  return w
end

-- `step` is given each value on the way: what it does to it must not be seen in the bits.
local function block(w, keys, values, x, slots, start, count, step)
  local T, pages = x.shape[2], ml.arange(8):reshape {1, 8}
  local y = step(ml.rms_norm(x, w.norm, 1e-5, 1))
  local q, k = step(ml.linear(y, w.q)), step(ml.linear(y, w.k))
  local v = step(ml.linear(y, w.v)):split_heads(HEADS)
  local table_ = ml.rope_table(start:reshape {1, 1} + ml.arange(T), w.frequencies)
  q, k = step(ml.rope(q:split_heads(HEADS), table_)), step(ml.rope(k:split_heads(HEADS), table_))
  local where = {slots = slots, start = start, count = count}
  local held, kept = ml.cache_append(keys, k, pages, where), ml.cache_append(values, v, pages, where)
  local seen = step(ml.attention(q, held, kept, pages, slots, start, count, {scale = 0.4}))
  x = step(x + step(ml.linear(seen:merge_heads(), w.o)))
  y = step(ml.rms_norm(x, w.norm, 1e-5, 0))
  local gate, up = step(ml.silu(step(ml.linear(y, w.gate)))), step(ml.linear(y, w.up))
  return step(x + step(ml.linear(step(gate * up), w.down)))
end

local function now(x)
  ml.eval(x)
  return x
end
local function later(x) return x end

local function caches(dtype) return ml.state({8, HEADS, 4, SIZE}, dtype), ml.state({8, HEADS, 4, SIZE}, dtype) end

t.test("op by op, lazily and compiled: the same bits", function()
  for _, matrix in ipairs {"bfloat16", "float16"} do
    local w = weights(matrix)
    for _, dtype in ipairs(DTYPES) do
      for _, kept in ipairs {dtype, "float32", "float16"} do
        for _, T in ipairs {1, 3, 5, 20} do
          local x = now(numbers(T, 1, T, HEADS * SIZE):astype(dtype))
          local slots, start, count = ml.tensor {0}, ml.tensor {2}, ml.tensor {T}
          local k1, v1 = caches(kept)
          local wanted = block(w, k1, v1, x, slots, start, count, now)
          t.eq(wanted.dtype, dtype)
          local k2, v2 = caches(kept)
          local what = ("%s, %s, %s, %d rows"):format(matrix, dtype, kept, T)
          t.ok(same(now(block(w, k2, v2, x, slots, start, count, later)), wanted), what .. ": lazily")
          t.ok(same(k1, k2) and same(v1, v2), what .. ": caches")
          local k3, v3 = caches(kept)
          local f = ml.compile(function(a, b) return block(w, k3, v3, a, slots, b, count, later) end)
          for _ = 1, 2 do t.ok(same(f(x, start), wanted), what .. ": compiled") end
        end
      end
    end
  end
end)

-- The steps of a plan, without what is said of dtypes and bytes.
local function steps_of(w, dtype, T)
  local x, k, v = ml.zeros({1, T, HEADS * SIZE}, {dtype = dtype}), caches(dtype)
  ml.eval(x)
  local slots, start, count = ml.tensor {0}, ml.tensor {0}, ml.tensor {T}
  local steps = {}
  local text = ml.explain(function(a) return block(w, k, v, a, slots, start, count, later) end, x)
  for line in text:gmatch "[^\n]+" do
    local step = line:match "^%s*%d+%s+(%S+)"
    if step then steps[#steps + 1] = step end
  end
  return steps
end

t.test("a plan has the same steps in each dtype", function()
  local w = weights "bfloat16"
  for _, T in ipairs {1, 9} do
    local wanted = steps_of(w, "float32", T)
    t.ok(#wanted > 4 and #wanted < 16, #wanted)
    for _, dtype in ipairs(NARROW) do t.eq(steps_of(w, dtype, T), wanted) end
  end
end)

-- ---- modules ----

t.test("compute_in says what embeddings give, and biases do not widen", function()
  local C = nn.class "C"
  function C:init()
    self.embed = nn.Embedding(11, 32)
    self.layers = {nn.Linear(32, 32, {bias = true}), nn.Linear(32, 5, {bias = true})}
    self.norm = nn.RMSNorm(32)
  end
  function C:forward(ids)
    local x = self.embed(ids)
    return self.layers[2](self.norm(self.layers[1](x)))
  end
  local net = C()
  local ids = ml.tensor {{1, 2, 10}}
  t.eq(net(ids).dtype, "float32")
  for _, dtype in ipairs(DTYPES) do t.eq(net:compute_in(dtype)(ids).dtype, dtype) end
  t.raises(function() net:compute_in "float64" end, "compute_in: dtype", "usage")
  t.raises(function() ml.embedding(net.embed.weight, ids, "int32") end, "dtype: expected float32", "usage")
  t.raises(function() ml.embedding(net.embed.weight, ids, "half") end, "dtype", "usage")
  net:apply(function(x) x:close() end)
end)

t.test("a number that meets a narrow tensor is rounded to its dtype", function()
  local scale = 640 ^ 0.5 -- 25.298: Gemma's factor of embeddings, of which bfloat16 makes 25.25
  local one = ml.ones({4}, {dtype = "bfloat16"})
  t.eq((one * scale):tolist(), {25.25, 25.25, 25.25, 25.25})
  t.eq((ml.embedding(ml.pack(ml.ones {16, 32}), ml.tensor {3}, "bfloat16") * scale)[1][1]:item(), 25.25)
end)

-- ---- models ----

local root = "tests/goldens/tiny/"
local examples = {qwen2 = "examples/models/qwen2.lua"}
-- of the largest logit: these are random models, whose logits are sums of many layers' roundings
local allowed = {float16 = 0.02, bfloat16 = 0.12}

local function token_by_token(m, ids)
  local runtime, out = m:runtime(), {}
  runtime:learn()
  local slot = runtime:slot()
  for i, id in ipairs(ids) do
    slot:reserve(i)
    local view = runtime.store:view(ml.tensor {slot.row}, ml.tensor {i - 1}, ml.tensor {1}, 1)
    out[i] = now(m.net(ml.tensor {{id}}, view))
    slot.ids[i] = id
  end
  slot:close()
  return ml.concat(out, 2)
end

for _, name in ipairs(assert(core.list_directory(root:sub(1, -2)))) do
  for _, dtype in ipairs(NARROW) do
    t.test(name .. " in " .. dtype, function()
      local family = examples[name:match "^%w+"]
      local m <close> = assert(ml.load(root .. name, {precision = "exact", family = family, dtype = dtype}))
      t.eq(m.info.compute_dtype, dtype)
      t.eq(m.cache_dtype, dtype)
      local expected = assert(ml.load_safetensors(root .. name .. "/expected.safetensors"))
      local ids, want = expected["ids.0"]:tolist(), expected["logits.0"]
      local whole = now(m.net(ml.tensor {ids}))
      t.eq(whole.dtype, dtype)
      local off = largest(m:logits(ids)[1] - want) / largest(want)
      t.ok(off < allowed[dtype], ("off by %.3g of the largest logit"):format(off))
      t.ok(off > 1e-6, "it is not float32")
      t.ok(same(token_by_token(m, ids), whole), "token by token: other bits")
    end)
  end
end

t.test("load's options dtype and cache_dtype", function()
  local path = tiny.write_directory "dtypes/options"
  for _, dtype in ipairs(DTYPES) do
    local m <close> = assert(ml.load(path, {dtype = dtype, cache_dtype = "float16"}))
    t.eq(m.cache_dtype, "float16")
    local text, result = m:complete({1, 2, 3}, {max_tokens = 4, ignore_eos = true})
    t.eq(#result.ids, 4, text)
  end
  local plain <close> = assert(ml.load(path))
  t.eq(plain.info.compute_dtype, "float32")
  t.eq(plain.cache_dtype, "float32")
end)

t.test("attention without a cache takes each dtype", function()
  for _, dtype in ipairs(NARROW) do
    local q, k, v = numbers(1, 1, 4, 9, 8), numbers(2, 1, 2, 9, 8), numbers(3, 1, 2, 9, 8)
    local wanted = fn.attention(q, k, v)
    local got = fn.attention(q:astype(dtype), k:astype(dtype), v:astype(dtype))
    t.eq(got.dtype, dtype)
    t.ok(largest(got - wanted) < (dtype == "bfloat16" and 0.03 or 0.004))
    t.raises(function() ml.attention(q:astype(dtype), k:astype(dtype), v, {scale = 1}) end, "k and v", "unsupported")
  end
end)

t.done()
