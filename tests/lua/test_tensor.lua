-- Tensors: what is made of other operations, against values recorded from NumPy and PyTorch; in-place forms; errors.
local ml = require "moonlet"
local core = require "moonlet.core"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local a, b, i, v, f
local function setup()
  a = ml.arange(6):reshape {2, 3}:astype "float32"
  b = ml.arange(24):reshape {2, 3, 4}:astype "float32"
  i = ml.arange(6):reshape {2, 3}
  v = ml.tensor {3, 1, 2, 2}
  f = ml.tensor {{1.5, -2.0, 0.25}, {4.0, 0.5, -1.0}}
end
setup()
ml.eval(a, b, i, v, f)

-- First of all: a device may make room for what reductions put down when the first of them needs it.
t.test("reductions that give nothing", function()
  t.eq(ml.zeros({0, 70000}):sum({axis = 2}):tolist(), {})
  t.eq(ml.zeros({70000, 0}):max({axis = 1}):tolist(), {})
end)

local function case(name, fn, expected)
  t.test(name, function() t.close(fn():tolist(), expected, 2e-5) end)
end

-- ---- recorded values ----

case("arange of a negative step", function() return ml.arange(5, 0, -2) end, {5, 3, 1})
case("arange of floats", function() return ml.arange(0.0, 1.0, 0.25) end, {0, 0.25, 0.5, 0.75})
case("linspace", function() return ml.linspace(-1, 1, 5) end, {-1, -0.5, 0, 0.5, 1})
case("eye", function() return ml.eye(2, 3) end, {{1, 0, 0}, {0, 1, 0}})
case("tri", function() return ml.tri(3, 3, -1) end, {{0, 0, 0}, {1, 0, 0}, {1, 1, 0}})
case("tril", function()
  return b:tril(1)
end, {{{0, 1, 0, 0}, {4, 5, 6, 0}, {8, 9, 10, 11}}, {{12, 13, 0, 0}, {16, 17, 18, 0}, {20, 21, 22, 23}}})
case("triu", function() return a:triu(1) end, {{0, 1, 2}, {0, 0, 5}})
case("flatten", function()
  return b:flatten(2, 3)
end, {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, {12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}})
case("unflatten", function()
  return b:unflatten(3, {2, -1})
end, {{{{0, 1}, {2, 3}}, {{4, 5}, {6, 7}}, {{8, 9}, {10, 11}}}, {{{12, 13}, {14, 15}}, {{16, 17}, {18, 19}}, {{20,
  21}, {22, 23}}}})
case("squeeze", function() return a:reshape {1, 2, 1, 3}:squeeze() end, {{0, 1, 2}, {3, 4, 5}})
case("squeeze of one axis", function() return a:reshape {1, 2, 1, 3}:squeeze(1) end, {{{0, 1, 2}}, {{3, 4, 5}}})
case("expand_dims", function() return a:expand_dims {1, -1} end, {{{{0}, {1}, {2}}, {{3}, {4}, {5}}}})
case("swapaxes", function()
  return b:swapaxes(1, -1)
end, {{{0, 12}, {4, 16}, {8, 20}}, {{1, 13}, {5, 17}, {9, 21}}, {{2, 14}, {6, 18}, {10, 22}}, {{3, 15}, {7, 19}, {11,
  23}}})
case("moveaxis", function()
  return b:moveaxis(1, 3)
end, {{{0, 12}, {1, 13}, {2, 14}, {3, 15}}, {{4, 16}, {5, 17}, {6, 18}, {7, 19}}, {{8, 20}, {9, 21}, {10, 22}, {11,
  23}}})
case("transpose", function()
  return b:transpose {3, 1, 2}
end, {{{0, 4, 8}, {12, 16, 20}}, {{1, 5, 9}, {13, 17, 21}}, {{2, 6, 10}, {14, 18, 22}}, {{3, 7, 11}, {15, 19, 23}}})
case("broadcast_to", function() return a:broadcast_to {2, 2, 3} end, {{{0, 1, 2}, {3, 4, 5}}, {{0, 1, 2}, {3, 4, 5}}})
case("repeat_interleave", function() return a:repeat_interleave(2, 2) end, {{0, 0, 1, 1, 2, 2}, {3, 3, 4, 4, 5, 5}})
case("repeat_interleave of all", function() return v:repeat_interleave(2) end, {3, 3, 1, 1, 2, 2, 2, 2})
case("tile", function()
  return a:tile {2, 1, 2}
end, {{{0, 1, 2, 0, 1, 2}, {3, 4, 5, 3, 4, 5}}, {{0, 1, 2, 0, 1, 2}, {3, 4, 5, 3, 4, 5}}})
case("tile by a number", function() return a:tile(2) end, {{0, 1, 2, 0, 1, 2}, {3, 4, 5, 3, 4, 5}})
case("concat", function() return ml.concat({a, f}, 2) end, {{0, 1, 2, 1.5, -2, 0.25}, {3, 4, 5, 4, 0.5, -1}})
case("stack", function()
  return ml.stack({a, f}, -1)
end, {{{0, 1.5}, {1, -2}, {2, 0.25}}, {{3, 4}, {4, 0.5}, {5, -1}}})
case("pad", function() return a:pad({{1, 0}, {0, 2}}, 7) end, {{7, 7, 7, 7, 7}, {0, 1, 2, 7, 7}, {3, 4, 5, 7, 7}})
case("pad of every axis", function() return v:pad {1, 2} end, {0, 3, 1, 2, 2, 0, 0})
case("pad by one pair in a list", function() return a:pad({{1, 0}}, 7) end, {{7, 7, 7, 7}, {7, 0, 1, 2}, {7, 3, 4, 5}})
case("roll", function() return a:roll(1, 2) end, {{2, 0, 1}, {5, 3, 4}})
case("roll of all", function() return a:roll(-2) end, {{2, 3, 4}, {5, 0, 1}})
case("flip", function()
  return b:flip {1, 3}
end, {{{15, 14, 13, 12}, {19, 18, 17, 16}, {23, 22, 21, 20}}, {{3, 2, 1, 0}, {7, 6, 5, 4}, {11, 10, 9, 8}}})
case("flip of all", function() return a:flip() end, {{5, 4, 3}, {2, 1, 0}})
case("as_strided", function() return a:as_strided({2, 2}, {1, 2}, 1) end, {{1, 3}, {2, 4}})
case("diag of a vector", function()
  return v:diag(1)
end, {{0, 3, 0, 0, 0}, {0, 0, 1, 0, 0}, {0, 0, 0, 2, 0}, {0, 0, 0, 0, 2}, {0, 0, 0, 0, 0}})
case("diag of a vector, below", function()
  return v:diag(-2)
end, {{0, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 0}, {3, 0, 0, 0, 0, 0}, {0, 1, 0, 0, 0, 0}, {0, 0, 2, 0, 0, 0}, {0, 0, 0,
  2, 0, 0}})
case("diag of a matrix", function() return b[1]:diag() end, {0, 5, 10})
case("diag of a matrix, above", function() return b[1]:diag(2) end, {2, 7})
case("diag of a matrix, below", function() return b[1]:diag(-1) end, {4, 9})
case("slice", function() return b:slice {{2, 2}, {-1, 1, -2}, {2, 3}} end, {{{21, 22}, {13, 14}}})
case("clip", function() return f:clip(-1, 1) end, {{1, -1, 0.25}, {1, 0.5, -1}})
case("clip from below", function() return f:clip(0.5) end, {{1.5, 0.5, 0.5}, {4, 0.5, 0.5}})
case("power", function() return f:power(2) end, {{2.25, 4, 0.0625}, {16, 0.25, 1}})
case("operators", function() return (a + 1) * 2 - f / 2 end, {{1.25, 5, 5.875}, {6, 9.75, 12.5}})
case("floor division and remainder of negative integers", function()
  return (i - 3) // 2 * 10 + (i - 3) % 2
end, {{-19, -10, -9}, {0, 1, 10}})
case("arctan2", function()
  return ml.arctan2(f, a)
end, {{1.57079637, -1.10714877, 0.124354996}, {0.927295208, 0.124354996, -0.197395563}})
case("logaddexp", function()
  return ml.logaddexp(f, a)
end, {{1.70141327, 1.04858732, 2.1602242}, {4.31326151, 4.02975035, 5.00247574}})
case("erf", function()
  return f:erf()
end, {{0.966105146, -0.995322265, 0.27632639}, {0.999999985, 0.520499878, -0.842700793}})
case("erfinv", function()
  return ml.tensor {-0.999, -0.5, 0.0, 0.1, 0.75, 0.99999}:erfinv()
end, {-2.32675633, -0.476936276, 0, 0.0888559918, 0.813419848, 3.12320577})
case("expm1 and log1p of small numbers", function()
  return ml.tensor {1e-6, -1e-6}:expm1() + ml.tensor {1e-6, -1e-6}:log1p() * 2
end, {2.9999995e-06, -3.0000005e-06})
case("round to even", function() return ml.tensor {0.5, 1.5, -2.5, 2.4}:round() end, {0, 2, -2, 2})
case("var", function() return f:var(2) end, {2.09722209, 4.38888884})
case("var of a sample", function() return f:var {ddof = 1, keepdims = true} end, {{4.36041641}})
case("std", function() return f:std(1) end, {1.25, 1.25, 0.625})
case("norm", function() return f:norm(2, true) end, {{2.51246881}, {4.15331173}})
case("norm of all", function() return i:norm() end, 7.41619849)
case("logsumexp", function() return f:logsumexp(1) end, {4.07888973, 0.578889734, 0.501929081})
case("sum over two axes", function() return b:sum({1, -1}) end, {60, 92, 124})
case("prod", function() return f:prod(1) end, {6, -1, -0.25})
case("cumsum", function() return a:cumsum(1) end, {{0, 1, 2}, {3, 5, 7}})
case("cummax", function() return f:cummax(2) end, {{1.5, 1.5, 1.5}, {4, 4, 4}})
case("argmax", function() return f:argmax(2) end, {0, 0})
case("softmax of the first axis", function()
  return f:softmax(1)
end, {{0.07585818, 0.07585818, 0.777299861}, {0.92414182, 0.92414182, 0.222700139}})
case("log_softmax", function()
  return f:log_softmax {axis = 2}
end, {{-0.275130262, -3.77513026, -1.52513026}, {-0.0362695651, -3.53626957, -5.03626957}})
case("nan_to_num", function() return ml.tensor {0 / 0, 1 / 0, 2}:nan_to_num(5, 6) end, {5, 6, 2})
case("take by a table", function()
  return b:take({2, 0}, 2)
end, {{{8, 9, 10, 11}, {0, 1, 2, 3}}, {{20, 21, 22, 23}, {12, 13, 14, 15}}})
case("take by a matrix", function() return v:take(ml.tensor {{3, 0}, {1, 1}}) end, {{2, 3}, {1, 1}})
case("take_along_axis", function() return a:take_along_axis({{2, 0}, {1, 1}}, 2) end, {{2, 0}, {4, 4}})
case("gather", function() return a:gather({{1, 0, 1}}, 1) end, {{3, 1, 5}})
case("put_along_axis", function() return a:put_along_axis({{2}, {0}}, 9, 2) end, {{0, 1, 9}, {9, 4, 5}})
case("scatter_add", function() return v:scatter_add({1, 1, 3}, {10, 20, 30}) end, {3, 31, 2, 32})
case("scatter_add along the first axis", function()
  return a:scatter_add({{1, 0, 1}, {1, 1, 1}}, f, 1)
end, {{0, -1, 2}, {8.5, 4.5, 4.25}})
case("slice_update", function()
  return b:slice_update({{2, 2}, {1, 3, 2}, {-1, -2, -1}}, ml.tensor {{-1.0, -2.0}, {-3.0, -4.0}})
end, {{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}}, {{12, 13, -2, -1}, {16, 17, 18, 19}, {20, 21, -4, -3}}})
case("slice_update with a number", function() return a:slice_update({{}, {2}}, 0) end, {{0, 0, 0}, {3, 0, 0}})
case("at", function() return b:at(2, 3) end, {20, 21, 22, 23})
case("sort", function() return f:sort(1) end, {{1.5, -2, -1}, {4, 0.5, 0.25}})
case("argsort is stable", function() return v:argsort() end, {1, 2, 3, 0})
case("searchsorted", function()
  return ml.tensor {1.0, 2.0, 2.0, 5.0}:searchsorted {{2.0, 0.0}, {9.0, 3.0}}
end, {{1, 0}, {4, 3}})
case("searchsorted from the right", function()
  return ml.tensor {1.0, 2.0, 2.0, 5.0}:searchsorted(2.0, {right = true})
end, 3)
case("matmul", function() return a:matmul(f:transpose()) end, {{-1.5, -1.5}, {-2.25, 9}})
case("matmul of integers", function() return i:matmul(i:transpose()) end, {{5, 14}, {14, 50}})
case("matmul of a vector", function()
  return b:matmul(ml.tensor {1.0, 0.0, 2.0, 0.0})
end, {{4, 16, 28}, {40, 52, 64}})
case("addmm", function() return ml.addmm(ml.ones {2, 2}, a, f:transpose(), 2, 3) end, {{0, 0}, {-1.5, 21}})
case("outer", function() return ml.outer(v, ml.tensor {1, 10}) end, {{3, 30}, {1, 10}, {2, 20}, {2, 20}})
case("inner", function() return a:inner(f) end, {{-1.5, -1.5}, {-2.25, 9}})
case("tensordot", function() return a:tensordot(b, {{1, 2}, {1, 2}}) end, {220, 235, 250, 265})
case("tensordot over one axis", function()
  return f:tensordot(b:transpose {2, 1, 3}, 1)
end, {{{-6, -6.25, -6.5, -6.75}, {-9, -9.25, -9.5, -9.75}}, {{-6, -2.5, 1, 4.5}, {36, 39.5, 43, 46.5}}})
case("einsum: a batch", function()
  return ml.einsum("bij,bkj->bik", {b, b})
end, {{{14, 38, 62}, {38, 126, 214}, {62, 214, 366}}, {{734, 950, 1166}, {950, 1230, 1510}, {1166, 1510, 1854}}})
case("einsum: implied result", function() return ml.einsum("ij,jk", {a, a:transpose()}) end, {{5, 14}, {14, 50}})
case("einsum: trace", function() return ml.einsum("ii", {b[1]:slice {{}, {1, 3}}}) end, 15)
case("einsum: diagonal", function() return ml.einsum("ii->i", {b[1]:slice {{}, {1, 3}}}) end, {0, 5, 10})
case("einsum: transposed", function()
  return ml.einsum("ijk->kij", {b})
end, {{{0, 4, 8}, {12, 16, 20}}, {{1, 5, 9}, {13, 17, 21}}, {{2, 6, 10}, {14, 18, 22}}, {{3, 7, 11}, {15, 19, 23}}})
case("einsum: sums alone", function() return ml.einsum("ijk->j", {b}) end, {60, 92, 124})
case("einsum: three operands", function()
  return ml.einsum("ij,ik,il->jkl", {a, f, a})
end, {{{36, 48, 60}, {4.5, 6, 7.5}, {-9, -12, -15}}, {{48, 65.5, 83}, {6, 6, 6}, {-12, -15.75, -19.5}}, {{60, 83,
  106}, {7.5, 6, 4.5}, {-15, -19.5, -24}}})
case("einsum: outer and elementwise", function()
  return ml.einsum("ij,ij->ij", {a, f})
end, {{0, -2, 0.5}, {12, 2, -5}})
case("einsum: ellipsis", function()
  return ml.einsum("...ij,kj->...ik", {b, f:pad {{0, 0}, {0, 1}}})
end, {{{-1.5, -1.5}, {-2.5, 12.5}, {-3.5, 26.5}}, {{-4.5, 40.5}, {-5.5, 54.5}, {-6.5, 68.5}}})
case("einsum: a sum to one number", function() return ml.einsum("i,i->", {v, v}) end, 18)
case("conv1d", function()
  return b:transpose {1, 3, 2}:conv1d(ml.arange(12):reshape {2, 2, 3}:astype "float32" - 5)
end, {{{-47, 115}, {-62, 136}, {-77, 157}}, {{-227, 367}, {-242, 388}, {-257, 409}}})
case("conv1d with stride, padding and dilation", function()
  return b:transpose {1, 3, 2}:conv1d(ml.arange(12):reshape {2, 2, 3}:astype "float32" - 5, {stride = 2, padding = 1,
  dilation = 2})
end, {{{-7, 83}, {-65, 151}}, {{-43, 263}, {-245, 403}}})
case("conv1d by groups", function()
  return b:transpose {1, 3, 2}:conv1d(ml.arange(6):reshape {3, 2, 1}:astype "float32", {groups = 3})
end, {{{1, 23, 77}, {2, 28, 86}, {3, 33, 95}}, {{13, 83, 185}, {14, 88, 194}, {15, 93, 203}}})

-- ---- several results ----

t.test("split into equal parts", function()
  local parts = b:split(2, 3)
  t.eq(#parts, 2)
  t.eq(parts[2]:tolist()[1], {{2.0, 3.0}, {6.0, 7.0}, {10.0, 11.0}})
end)

t.test("split at positions", function()
  local parts = v:split({1, 1, 3})
  t.eq({parts[1]:tolist(), parts[2]:tolist(), parts[3]:tolist(), parts[4]:tolist()}, {{3}, {}, {1, 2}, {2}})
end)

t.test("topk", function()
  local values, at = f:topk(2)
  t.eq(values:tolist(), {{1.5, 0.25}, {4.0, 0.5}})
  t.eq(at:tolist(), {{0, 2}, {0, 1}})
  values, at = v:topk(3)
  t.eq({values:tolist(), at:tolist()}, {{3, 2, 2}, {0, 2, 3}})
  values = ml.tensor({0, 255, 7}, {dtype = "uint8"}):topk(2)
  t.eq(values:tolist(), {255, 7})
  values = ml.tensor({-128, 127, 0}, {dtype = "int8"}):topk(3)
  t.eq(values:tolist(), {127, 0, -128})
  t.eq(f:topk(0).shape, {2, 0})
end)

t.test("unique", function()
  local values, inverse, counts = ml.tensor {{2.0, 0 / 0, 1.0}, {1.0, 0 / 0, 2.0}}:unique()
  t.eq(values:slice {{1, 2}}:tolist(), {1.0, 2.0})
  t.ok(values[3]:isnan():item(), "NaN comes last, once")
  t.eq(inverse:tolist(), {{1, 2, 0}, {0, 2, 1}})
  t.eq(counts:tolist(), {2, 2, 2})
  t.eq(ml.zeros({0}):unique().shape, {0})
end)

t.test("partition puts entry k where sorting would", function()
  t.eq(f:partition(1, 2):tolist()[2][2], 0.5)
  t.eq(f:argpartition(1, 2):tolist()[1][2], 2)
end)

-- ---- dtypes and edges ----

t.test("dtypes of literals, and of what is made", function()
  t.eq(ml.tensor({1, 2}).dtype, "int32")
  t.eq(ml.tensor({1, 2.0}).dtype, "float32")
  t.eq(ml.tensor({true}).dtype, "bool")
  t.eq({ml.zeros({2}).dtype, ml.ones({2}, {dtype = "int64"}).dtype, ml.full({2}, 3).dtype},
    {"float32", "int64", "int32"})
  t.eq({ml.arange(3).dtype, ml.arange(3.0).dtype, ml.arange(0, 1, 0.5).dtype}, {"int32", "float32", "float32"})
  t.eq({(i + 1).dtype, (i + 1.0).dtype, (i / 2).dtype, i:sum().dtype, i:mean().dtype},
    {"int32", "float32", "float32", "int32", "float32"})
  t.eq((a:astype "float16" * 2.0).dtype, "float16")
end)

t.test("no entries", function()
  local none = ml.zeros {0, 3}
  t.eq(none:sum(1):tolist(), {0.0, 0.0, 0.0})
  t.eq(ml.concat({none, a}, 1):tolist(), a:tolist())
  t.eq(none:flatten():tolist(), {})
  t.eq(none:matmul(ml.zeros {3, 2}).shape, {0, 2})
  t.eq(ml.zeros({2, 0}):matmul(ml.zeros {0, 2}):tolist(), {{0.0, 0.0}, {0.0, 0.0}})
  t.eq(v:tile(0):tolist(), {})
  t.eq(a:tile({1, 0}).shape, {2, 0})
  t.eq(ml.arange(0):tolist(), {})
  t.eq(ml.linspace(1, 2, 0):tolist(), {})
end)

t.test("many lists without entries", function()
  local none = ml.zeros {1 << 40, 0}
  t.ok(tostring(none):find("...", 1, true), "a summary")
  t.raises(function() none:tolist() end, "too many lists without entries", "limit")
  t.eq(ml.zeros({3, 0}):tolist(), {{}, {}, {}})
end)

t.test("erfinv at the ends", function()
  local x = ml.tensor {1.0, -1.0, 2.0}:erfinv()
  t.eq(x[1]:item(), 1 / 0)
  t.eq(x[2]:item(), -1 / 0)
  t.ok(x[3]:isnan():item(), "erfinv(2)")
end)

t.test("erfinv of float64, nearer to 1 than float32 comes", function() -- beside torch.special.erfinv
  for u, wanted in pairs {
    [0.9] = 1.1630871536766743, [1 - 1e-8] = 4.052237243268763, [1 - 1e-12] = 5.042031898572696,
    [1 - 1e-14] = 5.4725525174145355,
  } do
    for _, sign in ipairs {1, -1} do
      local found = ml.tensor({sign * u}, {dtype = "float64"}):erfinv():item()
      t.ok(math.abs(found / (sign * wanted) - 1) < 1e-6, ("%.17g: %.17g"):format(sign * u, found))
    end
  end
end)

t.test("indices are looked at where there is nothing to take", function()
  for _, row in ipairs {{{5, 0}, {0, 99}, 1, 99}, {{5, 0}, {-1}, 1, -1}, {{0, 0}, {0}, 1, 0}, {{0, 5}, {5}, 2, 5}} do
    local shape, ids, axis, bad = table.unpack(row)
    local function taken() return ml.zeros(shape):take(ml.tensor(ids), axis) end
    for _, make in ipairs {taken, ml.compile(taken)} do
      local message = ("index %d is out of range for size %d"):format(bad, shape[axis])
      t.raises(function() make():tolist() end, (message:gsub("%-", "%%-")))
    end
  end
  t.eq(ml.zeros {5, 0}:take(ml.tensor {0, 4}).shape, {2, 0})
end)

t.test("erfinv of narrow floats is rounded once", function()
  for _, dtype in ipairs {"float16", "bfloat16"} do
    local x = (ml.arange(199) / 100 - 0.99):astype(dtype)
    local once = x:astype "float32":erfinv():astype(dtype)
    t.eq(x:erfinv():tolist(), once:tolist(), dtype)
  end
end)

t.test("infinities become the largest number of the dtype", function()
  for dtype, most in pairs {float16 = 65504.0, float32 = 0x1.fffffep127} do
    t.eq(ml.tensor({1 / 0, -1 / 0}, {dtype = dtype}):nan_to_num():tolist(), {most, -most})
  end
end)

t.test("indexing counts from 1, and ipairs ends", function()
  local rows = {}
  for k, row in ipairs(a) do rows[k] = row:tolist() end
  t.eq(rows, {{0.0, 1.0, 2.0}, {3.0, 4.0, 5.0}})
  t.eq(a[-1][-1]:item(), 5.0)
  t.raises(function() return a[4] end, "out of range", "usage")
  t.raises(function() a[1] = 2 end, "cannot be assigned")
end)

t.test("bytes there and back", function()
  t.eq(ml.from_bytes(f:tobytes(), {2, 3}, "float32"):tolist(), f:tolist())
  t.raises(function() return ml.from_bytes("abc", {1}, "float32") end)
end)

-- ---- in place ----

t.test("in-place forms change what the handle holds", function()
  local x = ml.tensor {1.0, 2.0, 3.0}
  local view, same = x:slice {{1, 2}}, x
  t.ok(rawequal(x:add_(1), x), "returns the handle")
  t.eq(same:tolist(), {2.0, 3.0, 4.0})
  t.eq(view:tolist(), {1.0, 2.0}, "a view taken before")
  x:mul_(ml.tensor {2.0, 0.0, 1.0}):neg_()
  t.eq(x:tolist(), {-4.0, 0.0, -4.0})
  x:clip_(-1, 1):slice_update_({{1, 1}}, 5)
  t.eq(x:tolist(), {5.0, 0.0, -1.0})
  local n = ml.tensor {1, 2, 3}
  n:scatter_add_({0, 0}, {1, 1}):put_along_axis_({2}, 9)
  t.eq(n:tolist(), {3, 2, 9})
  t.eq(n:div_(2):tolist(), {1, 1, 4}, "the dtype stays")
end)

t.test("in-place forms keep shape", function()
  local x = ml.tensor {1.0, 2.0}
  t.raises(function() x:add_(ml.ones {2, 2}) end, "does not fit", "usage")
  t.eq(x:tolist(), {1.0, 2.0})
  local s = core.make_state(x)
  t.raises(function() s:add_(ml.ones {2, 2}) end, "does not fit", "usage")
  t.eq(s:add_(1):tolist(), {2.0, 3.0})
  t.eq(x:tolist(), {1.0, 2.0})
end)

t.test("in-place forms work inside a compiled function", function()
  local double = ml.compile(function(x)
    local y = x + 0
    y:mul_(2)
    return y
  end)
  t.eq(double(ml.tensor {1.0, 2.0}):tolist(), {2.0, 4.0})
  t.eq(double(ml.tensor {3.0, 2.0}):tolist(), {6.0, 4.0})
end)

t.test("values are not there while a plan is recorded", function()
  local state = ml.state(ml.tensor {5})
  local text, refused
  local traced = ml.compile(function(x)
    text = {tostring(x), tostring(x + 1), tostring(state)}
    refused = {pcall(x.item, x), pcall(x.tolist, x + 1), pcall(state.item, state), pcall(ml.eval, state + 1)}
    local known = ml.arange(0, 4):sum():item() -- constants are known
    return x + known
  end)
  t.eq(traced(ml.tensor {1}):item(), 7)
  local expected = ("tensor (1) int32 on %s, recorded: no values yet"):format(ml.default_device())
  for _, s in ipairs(text) do t.eq(s, expected) end
  for n = 1, #refused - 1 do t.eq(refused[n], false) end
  t.ok(tostring(refused[#refused]):find "a value is read while a plan is recorded")
  t.eq(state:item(), 5)
end)

t.test("what was assigned before belongs to no plan", function()
  local state = ml.state(ml.tensor {1})
  ml.assign(state, state + 1)
  local traced = ml.compile(function(x) return x + state end)
  t.eq(traced(ml.tensor {1}):item(), 3)
  t.eq(traced(ml.tensor {1}):item(), 3)
  t.eq(state:item(), 2)
end)

t.test("a compiled function inside another is a part of it", function()
  local double = ml.compile(function(x) return x * 2 end)
  local traced = ml.compile(function(x) return double(x) + 1 end)
  t.eq(traced(ml.tensor {1}):item(), 3)
  t.eq(traced(ml.tensor {4}):item(), 9)
  t.raises(function() ml.compile(function(x) return ml.explain(double, x) end)(ml.tensor {1}) end, "already", "usage")
end)

-- ---- functions and methods ----

t.test("each method is a function, and what takes a list is none", function()
  for _, name in ipairs {"at", "flatten", "topk", "einsum", "scatter_add", "softmax", "take", "matmul", "conv1d"} do
    t.eq(type(ml[name]), "function", name)
  end
  for _, name in ipairs {"concat", "stack", "einsum"} do t.eq(a[name], nil, name) end
  t.eq(ml.flatten(a):tolist(), a:flatten():tolist())
  t.eq(ml.scatter_add(v, {0}, 1):tolist(), {4, 1, 2, 2})
end)

-- ---- errors ----

t.test("errors name the operation, what it expected and what it found", function()
  t.raises(function() a:matmul(a) end, "matmul", "mismatch")
  local at = a:astype "int32"
  for _, axis in ipairs {3, 9, -3, -9, 1 << 40, math.maxinteger, math.mininteger} do
    local message = ("axis %d is out of range for 2 axes"):format(axis):gsub("%-", "%%-")
    for _, fn in ipairs {
      function() a:sum(axis) end, function() a:max {1, axis} end, function() a:transpose {1, axis} end,
      function() a:cumsum(axis) end, function() ml.concat({a, a}, axis) end, function() a:take(0, axis) end,
      function() a:take_along_axis(at, axis) end, function() a:put_along_axis(at, 1, axis) end,
      function() a:sort(axis) end, function() a:topk(1, axis) end, function() a:softmax(axis) end,
      function() a:expand_dims(1):squeeze(1):flip(axis) end, function() a:split(1, axis) end,
    } do t.raises(fn, message, "usage") end
  end
  t.raises(function() a:sum {axis = 1, keepdim = true} end, "keepdim", "usage")
  t.raises(function() a:var {dof = 1} end, "var: no option \"dof\"", "usage")
  t.raises(function() ml.zeros({2}, {dtpe = "int32"}) end, "zeros: no option \"dtpe\"", "usage")
  t.raises(function() a:squeeze(1) end, "axis 1 has size 2", "usage")
  t.raises(function() a:split(4, 2) end, "size 3 does not divide into 4 parts", "usage")
  t.raises(function() a:topk(4) end, "topk: k: expected an integer from 0 to 3, found 4", "usage")
  t.raises(function() v:take({4}):tolist() end, "4")
  t.raises(function() v:scatter_add({-1}, {1}):tolist() end, "-1")
  t.raises(function() ml.einsum("ij,jk->ik", {a}) end, "names 2 operands, 1 were given", "usage")
  t.raises(function() ml.einsum("ij->ik", {a}) end, "that no operand has", "usage")
  t.raises(function() ml.einsum("ij,ij", {a, f:transpose()}) end, "stands for the sizes", "mismatch")
  t.raises(function() ml.stack({a, v}) end, "stack: expected shape", "mismatch")
  t.raises(function() a:expand_dims {1, 1} end, "named twice", "usage")
  t.raises(function() ml.conv1d(b, ml.zeros {2, 2, 3}) end, "conv1d", "mismatch")
  t.raises(function() a:to "floaty" end, "dtype", "usage")
end)

t.test("a list is one in whatever order it was filled", function()
  for n = 1, 40 do
    for _, step in ipairs {41, -1, 37} do -- by any of which every place is filled once
      local list, wanted = {}, {}
      for k = 1, n do wanted[k] = k end
      for k = 1, step == -1 and n or 41 do
        local place = step == -1 and n + 1 - k or k * step % 41 + (step == 41 and k or 0)
        if place >= 1 and place <= n then list[place] = place end
      end
      t.eq(ml.tensor(list):tolist(), wanted)
    end
  end
  local bytes = ml.from_bytes("\3\0\100\7\9\7\7\1\1\127\255\255\255\128\3", {3, 5}, "uint8")
  t.eq(select(2, bytes:slice {{1, -1, 2}}:unique()):tolist()[1], {1, 0, 4, 2, 3})
end)

t.test("lists of tensors are as long as one likes", function()
  local list = {}
  for k = 1, 3000 do list[k] = ml.full({2}, k) end
  local joined = ml.compile(function(l) return ml.concat(l, 1), ml.stack(l, 2) end)
  for _, fn in ipairs {joined, joined, function(l) return ml.concat(l, 1), ml.stack(l, 2) end} do
    local row, stacked = fn(list)
    t.eq(row.shape, {6000})
    t.eq(stacked.shape, {2, 3000})
    t.eq(row:slice {{5999, 6000}}:tolist(), {3000, 3000})
    t.eq(stacked[2]:slice {{17, 18}}:tolist(), {17, 18})
  end
end)

-- Copies from a few megabytes on are written past the caches: transposed ones as squares of lines, with what is left of
-- them at the edges, others by rows, which need not begin with a line.
t.test("copies of large tensors", function()
  local function rows_are(y, rows, row, name)
    for _, k in ipairs(rows) do t.eq(y:slice {{k, k}}:tobytes(), row(k):tobytes(), ("%s: row %d"):format(name, k)) end
  end
  local shapes = {uint8 = {2112, 2100}, bfloat16 = {1056, 2100}, float32 = {1040, 1030}, float64 = {520, 1101}}
  for dtype, shape in pairs(shapes) do
    local x = (ml.random.uniform(shape) * 250):astype(dtype)
    local rows = {1, 2, 64, 65, shape[2] - 1, shape[2]}
    local function column(k) return x:slice {{}, {k, k}} end
    rows_are(x:transpose():copy(), rows, column, "copy of " .. dtype)
    local s = ml.state(x:transpose() * 0)
    ml.assign(s, x:transpose())
    rows_are(s, rows, column, "assign of " .. dtype)
    local from_second = x:slice {{}, {2, -1}}:transpose():copy()
    rows_are(from_second, {1, 63, shape[2] - 1}, function(k) return column(k + 1) end, "slice of " .. dtype)
  end
  local x = ml.arange(2060 * 2050):reshape({2060, 2050}):astype "float64"
  local y = x:slice {{}, {2, -1}}:copy()
  rows_are(y, {1, 2, 1030, 2060}, function(k) return x:slice {{k, k}, {2, -1}} end, "rows")
end)

t.done()
