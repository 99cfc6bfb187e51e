-- Weights as a GGUF file holds them, in products and look-ups: packed once, whatever reads them.
local ml = require "moonlet"
local core = require "moonlet.core"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

-- Random blocks (outputs, inputs) in the order of a file, and their values.
local function blocks(format, outputs, inputs)
  local w = core.unpack(core.random_packed(format, outputs, inputs, 0.1, 3, true))
  local rows = {}
  for i = 1, outputs do rows[i] = i - 1 end
  return w, ml.embedding(core.pack(w, true), ml.tensor(rows))
end

for _, format in ipairs {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"} do
  t.test(format .. " as in the file: products and look-ups", function()
    local w, values = blocks(format, 37, 512)
    local x, y = ml.random.normal {3, 512}, ml.random.normal {3, 37}
    t.close(ml.linear(x, w), x:matmul(values:transpose()), 2e-4)
    t.close(ml.linear_transposed(y, w), y:matmul(values), 2e-4)
    t.eq(ml.embedding(w, ml.tensor {36, 0, 5}):tolist(), values:take(ml.tensor {36, 0, 5}, 1):tolist())
  end)
end

t.test("blocks are packed once, and stay what they are", function()
  local w = blocks("q4_k", 64, 256)
  local bytes = w:tobytes()
  local x = ml.random.normal {2, 256}
  local f = ml.compile(function(a) return ml.linear(a, w) end)
  local first = f(x):tolist()
  local held = ml.memory.active()
  for _ = 1, 3 do t.eq(f(x):tolist(), first) end
  t.eq(ml.linear(x, w):tolist(), first)
  collectgarbage()
  collectgarbage()
  t.ok(ml.memory.active() <= held + 4096, "another copy was made")
  t.eq(w:tobytes(), bytes)
end)

t.test("weights are arguments of a compiled function too", function()
  local x, y, ids = ml.random.normal {3, 512}, ml.random.normal {3, 37}, ml.tensor {36, 0, 5}
  local linear = ml.compile(function(a, tree) return ml.linear(a, tree.w) end)
  local transposed, look_up = ml.compile(ml.linear_transposed), ml.compile(ml.embedding)
  for _, format in ipairs {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"} do
    local w = blocks(format, 37, 512)
    t.eq(w.layout, "blocks")
    for _, weight in ipairs {w, core.pack(w, true)} do
      for _ = 1, 2 do
        t.eq(linear(x, {w = weight}):tolist(), ml.linear(x, weight):tolist(), format)
        t.eq(transposed(y, weight):tolist(), ml.linear_transposed(y, weight):tolist(), format)
        t.eq(look_up(weight, ids):tolist(), ml.embedding(weight, ids):tolist(), format)
      end
    end
    t.eq(core.pack(w, true).layout, "packed")
    t.ok(ml.explain(ml.linear, x, w):find("linear", 1, true))
  end
  t.eq(x.layout, "strided")
end)

t.test("packed weights of a type share a plan, and are kept by nobody", function()
  local f = ml.compile(function(a, w) return ml.linear(a, w):relu(), w, {w = w, a = a} end)
  local x, weights = ml.random.normal {2, 64}, {}
  ml.eval(x)
  for i = 1, 4 do weights[i] = core.random_packed("q8_0", 48, 64, 0.1, i, true) end
  local other = core.random_packed("q8_0", 48, 64, 0.1, 9, false) -- of another precision: another type
  local function plans_of(weight)
    local before = ml.stats().plans
    local y, w, both = f(x, weight)
    local made = ml.stats().plans - before
    t.eq(y:tolist(), ml.linear(x, weight):relu():tolist())
    t.ok(w == weight and both.w == w and both.a == x, "what it was given is what it gives back")
    return made
  end
  t.eq(plans_of(weights[1]), 1)
  for i = 1, 4 do t.eq(plans_of(weights[i]), 0) end
  t.eq(plans_of(other), 1)
  local before
  for i = 1, 2 do -- what the plan works in stays
    before = ml.memory.active()
    local large = core.random_packed("q8_0", 4096, 64, 0.1, i, true)
    f(x, large)
    large:close()
  end
  t.ok(ml.memory.active() < before + 100000, "a closed weight is still held")
end)

t.test("parts of a packed weight that is an argument are products of their own", function()
  local w = core.random_packed("q4_0", 128, 64, 0.1, 3, true)
  local x = ml.random.normal {3, 64}
  local function halves(a, weight)
    local y = ml.linear(a, weight)
    return y:slice {{1, 3}, {1, 64}}:silu() * y:slice {{1, 3}, {65, 128}}
  end
  t.ok(ml.explain(halves, x, w):find("2 x q4_0", 1, true))
  local f = ml.compile(halves)
  for _ = 1, 2 do t.eq(f(x, w):tolist(), halves(x, w):tolist()) end
end)

t.test("a plan knows its weights from others that come to lie where they lay", function()
  local f = ml.compile(function(a, w) return ml.linear(a, w) end)
  local x = ml.ones {1, 64}
  for seed = 1, 40 do
    local w = core.random_packed("q4_0", 4, 64, 0.1, seed, true)
    t.eq(f(x, w):tolist(), ml.linear(x, w):tolist())
    w = nil -- luacheck: ignore
    collectgarbage()
  end
end)

t.done()
