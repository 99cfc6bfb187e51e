-- Layouts of weights: what reads them as they are, and that everything else refuses them at the user's line.
local ml = require "moonlet"
local core = require "moonlet.core"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local attributes = {f = 0.5, i = 1, b = false, A = 1, S = {2048}, D = "float32", L = {}}

-- Calls operation `op` with w as its k-th tensor and x as all others; nothing where it has no k-th.
local function call(op, k, w, x)
  local args, n, tensors = {}, 0, 0
  for kind in op.signature:gmatch ":(%S+)" do
    n = n + 1
    local letter = kind:sub(1, 1)
    if letter == "T" or letter == "W" then
      tensors = tensors + 1
      args[n] = tensors == k and w or not kind:find "?" and x or nil
      if kind:sub(2, 2) == "*" then args[n] = {x, args[n]} end
      if tensors == k and letter == "W" then return nil end
    elseif letter ~= "X" then
      args[n] = attributes[letter]
    end
  end
  if tensors < k then return nil end
  return table.pack(pcall(core.ops[op.name], table.unpack(args, 1, n)))
end

t.test("every operation but products and look-ups refuses a weight in another layout", function()
  local x = ml.arange(2048):astype "float32":reshape {32, 64}
  local blocks = core.unpack(core.random_packed("q8_0", 32, 64, 0.1, 1, true))
  local calls = 0
  for what, w in pairs {["float32 packed for products: unpack"] = ml.pack(x), ["q8_0 in blocks: dequantize"] = blocks,
    ["q8_0 packed for products: dequantize"] = ml.pack(blocks)} do
    for _, op in ipairs(core.op_list()) do
      for k = 1, 8 do
        local result = call(op, k, w, x)
        if result then
          calls = calls + 1
          t.eq(result[1], false, op.name)
          local message = tostring(result[2])
          local says = op.name .. ": [%w_]+: a weight of " .. what .. " it first"
          t.ok(message:find(says) or message:find "no cast from float32 to q8_0", message) -- put_along_axis casts
        end
      end
    end
  end
  t.ok(calls > 300, "calls")
end)

t.test("what is written in Lua refuses them too, also where it has nothing to do", function()
  local x = ml.arange(2048):astype "float32":reshape {32, 64}
  local takes = {close = true, dequantize = true, pack = true, stop_gradient = true, tobytes = true, tolist = true,
    unpack = true}
  local arguments = {{}, {nil, nil}, {0}, {0, 1}, {{0, 0}}, {1}, {x}}
  for _, w in ipairs {ml.pack(x), ml.pack(core.unpack(core.random_packed("q8_0", 32, 64, 0.1, 1, true)))} do
    for name, f in pairs(core.methods) do
      for _, args in ipairs(takes[name] and {} or arguments) do
        local ok, result = pcall(f, w, table.unpack(args))
        t.ok(not ok or ml.is_tensor(result) and result.layout == "strided", name)
      end
    end
    for _, name in ipairs {"clip", "at", "nan_to_num", "contiguous"} do
      t.raises(function() w[name](w) end, name .. ": %w: a weight of %S+ packed for products: %w+ it first", "usage")
    end
    t.raises(function() w:roll(0, 1) end, "roll: x: a weight", "usage")
    t.raises(function() w:pad {0, 0} end, "pad: x: a weight", "usage")
    t.eq({w:to(w.device).layout, ml.stop_gradient(w).layout}, {"packed", "packed"})
  end
end)

t.test("packing and unpacking change no value", function()
  for _, dtype in ipairs {"float32", "float16", "bfloat16"} do
    local x = ml.random.normal({33, 20}):astype(dtype)
    local w = ml.pack(x)
    t.eq(w.layout, "packed")
    t.eq(w:tobytes(), x:tobytes(), dtype)
    t.eq(w:unpack().layout, "strided")
    t.eq(w:unpack():tobytes(), x:tobytes())
    t.eq(x:transpose():pack():unpack():tobytes(), x:transpose():tobytes(), "a view is packed as it reads")
    t.eq(w:dequantize():tolist(), x:astype "float32":tolist())
  end
  local blocks = core.unpack(core.random_packed("q4_k", 8, 256, 0.1, 1, true))
  t.eq(ml.pack(blocks):unpack():tobytes(), blocks:tobytes())
  t.eq(ml.pack(blocks):unpack().layout, "blocks")
  t.raises(function() ml.unpack(ml.zeros {2, 2}) end, "unpack: expected a packed weight", "usage")
  t.raises(function() ml.pack(ml.zeros {2, 2}, {precision = "half"}) end, "pack: precision: expected", "usage")
  t.raises(function() ml.pack(ml.zeros {2}) end, "pack: expected 2 or 3 axes", "usage")
end)

t.test("a loaded model's weights read as what they are, or not at all", function()
  local m <close> = assert(ml.load("tests/goldens/tiny/llama", {precision = "exact"}))
  local w = m.net.model.layers[1].mlp.up_proj.weight
  t.eq(w.layout, "packed")
  t.raises(function() local _ = w * 1 end, "mul: a: a weight of %S+ packed for products: unpack it first", "usage")
  t.eq((w:unpack() * 1):astype "float32":tolist(), w:dequantize():tolist())
end)

t.test("a packed weight is packed again where it is to be of another precision", function()
  local x = ml.random.normal({3, 64}, {key = ml.random.key(1)})
  local fast = require "moonlet.core".random_packed("q4_0", 32, 64, 0.3, 1, false)
  local exact = fast:unpack():pack()
  local rounds = not ml.default_device():find "cuda" -- which leaves what it multiplies as it is
  t.eq(ml.linear(x, fast):tobytes() ~= ml.linear(x, exact):tobytes(), rounds)
  t.eq(ml.linear(x, fast:pack {precision = "exact"}):tobytes(), ml.linear(x, exact):tobytes())
  t.eq(ml.linear(x, exact:pack {precision = "fast"}):tobytes(), ml.linear(x, fast):tobytes())
end)

t.done()
