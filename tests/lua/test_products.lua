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
  local x = ml.random.normal({9, K}, {key = ml.random.key(K)}):astype(dtype)
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
    for _, K in ipairs {1, 7, 8, 40, 263, 520, 1032, 2056} do
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

t.done()
