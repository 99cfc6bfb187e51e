-- Losses: dtypes that they are computed in, masks, probabilities of 0.
local ml = require "moonlet"
local fn = require "moonlet.fn"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local nan, inf = 0 / 0, math.huge
local function of(dtype, values) return ml.tensor(values, {dtype = dtype}) end
local function gives(x, dtype, value)
  t.eq(x.dtype, dtype)
  t.close(x:item(), value, 1e-3)
end

t.test("mse fits where its mean does", function()
  for _, dtype in ipairs {"float16", "bfloat16"} do
    gives(fn.mse(of(dtype, {300, 0}), of(dtype, {0, 0})), dtype, dtype == "float16" and 44992 or 45056)
  end
  gives(fn.mse(of("float16", {300, 0}), 0), "float16", 44992)
  gives(fn.mse(of("float64", {1e-3}), of("float32", {0})), "float64", 1e-6)
  local far = fn.mse(ml.tensor {2147483647}, ml.tensor {-2147483648})
  t.close(far:item() / 2.0 ^ 64, 1, 1e-6)
  gives(fn.mse(of("uint8", {1, 2}), of("uint8", {2, 4})), "float32", 2.5)
end)

local rows = {{1.0, 2.0, 0.5}, {0.0, 3.0, 1.0}, {2.0, 2.0, 2.0}}
local losses = {0.4643688, 2.1698, 1.0986} -- of 1, 2, 0

t.test("cross_entropy: reductions and masks", function()
  local x, y = ml.tensor(rows), ml.tensor {1, 2, 0}
  t.close(fn.cross_entropy(x, y, {reduction = "none"}):tolist(), losses, 1e-3)
  gives(fn.cross_entropy(x, y, {reduction = "sum"}), "float32", 3.7328)
  gives(fn.cross_entropy(x, y), "float32", 3.7328 / 3)
  for _, mask in ipairs {ml.tensor {1, 0, 1}, ml.tensor {true, false, true}, ml.tensor {1.0, 0.0, 1.0}} do
    gives(fn.cross_entropy(x, y, {mask = mask}), "float32", (losses[1] + losses[3]) / 2)
  end
  gives(fn.cross_entropy(ml.stack {x, x}, ml.stack {y, y}, {mask = ml.tensor {1, 0, 1}}), "float32",
    (losses[1] + losses[3]) / 2)
  t.raises(function() fn.cross_entropy(x, y, {label_smoothing = 2}) end, "label_smoothing: expected a number from 0",
    "usage")
end)

t.test("cross_entropy: what the mask hides may be anything", function()
  local y = ml.tensor {1, -100, 0}
  for _, bad in ipairs {nan, inf, -inf} do
    local x = ml.tensor {rows[1], {bad, 1.0, bad}, rows[3]}
    for _, smoothing in ipairs {0, 0.1} do
      local opts = {mask = ml.tensor {1, 0, 1}, label_smoothing = smoothing}
      t.ok(fn.cross_entropy(x, y, opts):isfinite():item(), "finite")
      opts.reduction = "none"
      t.eq(fn.cross_entropy(x, y, opts)[2]:item(), 0.0)
    end
  end
end)

t.test("cross_entropy of float16 is a sum in float32", function()
  local x, y = ml.zeros({70000, 2}, {dtype = "float16"}), ml.zeros({70000}, {dtype = "int32"})
  gives(fn.cross_entropy(x, y, {mask = ml.ones {70000}}), "float16", 0.69336)
end)

t.test("kl_div: what has no probability adds nothing", function()
  gives(fn.kl_div(ml.tensor {{-inf, 0.0}}, ml.tensor {{-inf, 0.0}}), "float32", 0)
  gives(fn.kl_div(ml.tensor {{-0.5, -1.0}}, ml.tensor {{-inf, 0.0}}), "float32", 1)
  t.eq(fn.kl_div(ml.tensor {{-inf, 0.0}}, ml.tensor {{0.0, 0.0}}):item(), inf)
  t.eq(fn.kl_div(of("float16", {{-1, -1}}), of("float16", {{-1, -2}})).dtype, "float16")
end)

t.test("squares of int64 are of the difference itself", function()
  local function x(...) return ml.tensor({...}, {dtype = "int64"}) end
  t.eq(fn.mse(x((1 << 53) + 1), x(1 << 53)):item(), 1.0)
  t.eq(fn.mse(x(math.maxinteger), x(math.maxinteger - 3)):item(), 9.0)
  t.close(fn.mse(x(math.maxinteger), x(-1 << 62)):item(), 2.25 * 2.0 ^ 126, 2.0 ^ 104)
  t.raises(function() fn.cross_entropy(ml.tensor {{1.0, 2}}, {1}) end, "cross_entropy: targets: expected a tensor")
end)

t.done()
