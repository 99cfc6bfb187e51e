-- Affine weights: codes, scales and biases of three tensors, packed together, against the formula scale * code + bias.
local core = require "moonlet.core"
local ml = require "moonlet"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local scales_of = {"float32", "float16", "bfloat16"}
local OUTPUTS, INPUTS = 37, 384

-- Codes of so many bits, row by row, as 32-bit words whose lowest bits come first.
local function words_of(codes, bits)
  local words = {}
  for r, row in ipairs(codes) do
    local out, held, n = {}, 0, 0
    for _, code in ipairs(row) do
      held, n = held | code << n, n + bits
      if n >= 32 then
        out[#out + 1], held, n = held & 0xffffffff, held >> 32, n - 32
      end
    end
    words[r] = out
  end
  return ml.tensor(words, {dtype = "uint32"})
end

local function make(bits, group, dtype, seed)
  local codes, x = {}, seed * 2654435761 & 0x7fffffff
  for r = 1, OUTPUTS do
    codes[r] = {}
    for k = 1, INPUTS do
      x = x * 1103515245 + 12345 & 0x7fffffff
      codes[r][k] = (x >> 13) % (1 << bits)
    end
  end
  local key = ml.random.key(seed)
  local scales = (ml.random.normal({OUTPUTS, INPUTS // group}, {key = key}) * 0.1):astype(dtype) -- of either sign
  local biases = ml.random.normal({OUTPUTS, INPUTS // group}, {key = ml.random.key(seed + 1)}):astype(dtype)
  local q = ml.tensor(codes, {dtype = "float32"}):reshape {OUTPUTS, INPUTS // group, group}
  local dense = (q * scales:astype "float32":expand_dims(3) + biases:astype "float32":expand_dims(3)):reshape {OUTPUTS,
    INPUTS}
  return words_of(codes, bits), scales, biases, dense
end

for _, bits in ipairs {2, 3, 4, 5, 6, 8} do
  t.test(("affine weights of %d bits"):format(bits), function()
    local x = ml.random.normal({23, INPUTS}, {key = ml.random.key(9)})
    for i, group in ipairs {32, 64, 128} do
      for j, dtype in ipairs(scales_of) do
        local codes, scales, biases, dense = make(bits, group, dtype, 100 * bits + 10 * i + j)
        local w = core.pack_affine(codes, scales, biases, bits, group, true)
        local what = ("%s, groups of %d"):format(dtype, group)
        t.eq({w.shape, w.layout}, {{OUTPUTS, INPUTS}, "packed"}, what)
        t.eq(w:dequantize():tobytes(), dense:tobytes(), what)
        local want = x:astype "float64":matmul(dense:astype "float64":transpose())
        for _, rows in ipairs {1, 2, 7, 23} do
          local y = ml.linear(x:slice {{1, rows, 1}, {1, INPUTS, 1}}, w)
          t.close(y, want:slice {{1, rows, 1}, {1, OUTPUTS, 1}}, 1e-3 * (1 + (1 << bits) / 32), what)
        end
        local fast = core.pack_affine(codes, scales, biases, bits, group, false)
        for _, rows in ipairs {1, 2, 7} do
          local y = ml.linear(x:slice {{1, rows, 1}, {1, INPUTS, 1}}, fast)
          t.close(y, want:slice {{1, rows, 1}, {1, OUTPUTS, 1}}, 1 + 0.05 * (1 << bits), what .. ", rounded")
        end
        local halves = x:astype "bfloat16" -- what a device has for many such rows is another kernel
        t.close(ml.linear(halves, fast), halves:astype "float64":matmul(dense:astype "float64":transpose()),
                1 + 0.05 * (1 << bits), what .. ", bfloat16")
        local y = ml.random.normal({3, OUTPUTS}, {key = ml.random.key(5)})
        t.close(ml.linear_transposed(y, w), y:astype "float64":matmul(dense:astype "float64"), 1e-3 * (1 << bits), what)
        local blocks = w:unpack() -- in the file's own order, which packs again
        t.eq({blocks.layout, blocks.dtype}, {"blocks", w.dtype}, what)
        t.eq(blocks:pack():tobytes(), w:tobytes(), what)
        t.eq(ml.embedding(w, ml.tensor {36, 0}):tolist(), dense:take(ml.tensor {36, 0}, 1):tolist(), what)
      end
    end
  end)
end

t.test("affine weights of several experts", function()
  local codes, scales, biases, dense = {}, {}, {}, {}
  for e = 1, 3 do codes[e], scales[e], biases[e], dense[e] = make(4, 64, "bfloat16", 40 + e) end
  local w = core.pack_affine(ml.stack(codes), ml.stack(scales), ml.stack(biases), 4, 64, true)
  t.eq(w.shape, {3, OUTPUTS, INPUTS})
  t.eq(w:dequantize():tobytes(), ml.stack(dense):tobytes())
  local x = ml.random.normal({5, INPUTS}, {key = ml.random.key(2)})
  local ids = ml.tensor {{2, 0}, {1, 1}, {0, 2}, {2, 1}, {0, 0}}
  local y = ml.gather_linear(x, w, ids)
  for i, row in ipairs(ids:tolist()) do
    for k, e in ipairs(row) do t.eq(y[i][k]:tobytes(), ml.linear(x[i], w[e + 1]):tobytes()) end
  end
end)

t.test("affine weights that do not fit together are refused", function()
  local codes, scales, biases = make(4, 64, "float16", 5)
  for _, case in ipairs {
    {"bits: expected 2, 3, 4, 5, 6 or 8, found 7", {codes, scales, biases, 7, 64}},
    {"group: expected 32, 64 or 128, found 48", {codes, scales, biases, 4, 48}},
    {"scales: expected shape %(37, 12%), found %(37, 6%)", {codes, scales, biases, 4, 32}},
    {"biases: expected float16, found float32", {codes, scales, biases:astype "float32", 4, 64}},
    {"codes: expected uint32, found int32", {codes:astype "int32", scales, biases, 4, 64}},
    {"biases: expected shape %(37, 6%), found %(6%)", {codes, scales, biases[1], 4, 64}},
    {"codes: expected 2 or 3 axes, found 1", {codes[1], scales[1], biases[1], 4, 64}},
  } do
    t.raises(function() core.pack_affine(table.unpack(case[2])) end, case[1])
  end
end)

t.done()
