-- Numbers at the edges of what dtypes hold: remainders, plain integers outside a dtype, sums, uint64, ranges, draws.
local ml = require "moonlet"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local integers = {"int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"}
local floats = {"float16", "bfloat16", "float32", "float64"}
local function x(values, dtype) return ml.tensor(values, {dtype = dtype}) end

-- ---- remainders ----

t.test("the remainder of floats is exact", function()
  t.eq((x({1e9}, "float32") % math.pi):item(), string.unpack("<f", string.pack("<f", math.fmod(1e9,
    string.unpack("<f", string.pack("<f", math.pi))))))
  t.close((x({1e9}, "float32") % math.pi):item(), 1.024195, 1e-6)
  t.eq((x({1e17}, "float64") % 7.0):item(), 5.0)
  local small = (x({1e30}, "float64") % 1e-30):item()
  t.ok(small >= 0 and small <= 1e-30, "within the divisor")
  t.eq((x({5, -5, 5, -5, 5.5}, "float32") % x({math.huge, math.huge, -math.huge, -math.huge, -2}, "float32")):tolist(),
    {5.0, math.huge, -math.huge, -5.0, -0.5})
  for _, dtype in ipairs(floats) do
    t.eq((x({2050}, dtype) % 65536):item(), x({2050}, dtype):item(), dtype)
    t.eq((x({-4}, dtype) // math.huge):item(), -1.0, dtype)
    t.eq((x({7, -7, 7, -7}, dtype) // x({2, 2, -2, -2}, dtype)):tolist(), {3.0, -4.0, -4.0, 3.0}, dtype)
    local inf = (x({math.huge}, dtype) // 2):item()
    t.ok(inf ~= inf, "as NumPy: NaN")
  end
  t.eq(tostring((x({0.0, -4.0}, "float32") % -2):tolist()[1]), "-0.0")
end)

-- ---- plain integers outside a dtype ----

t.test("plain integers are compared by value", function()
  t.eq(x({255}, "uint8"):lt(300):item(), true)
  t.eq(x({255}, "uint8"):eq(-1):item(), false)
  t.eq(x({1}, "int32"):lt(3000000000):item(), true)
  t.eq(x({1}, "int32"):eq(4294967297):item(), false)
  for _, dtype in ipairs(integers) do
    local one = x({1}, dtype)
    if dtype ~= "int64" and dtype ~= "uint64" then
      local beyond = 1 << tonumber(dtype:match "%d+")
      t.eq({one:lt(beyond + 1):item(), one:ge(beyond + 1):item(), one:eq(beyond + 1):item(), one:ne(beyond + 1):item()},
        {true, false, false, true}, dtype)
      t.eq(one:logical_and(beyond):item(), true, dtype)
    end
    t.eq({one:gt(-1):item(), one:eq(-255):item()}, {true, false}, dtype)
  end
  t.eq(ml.lt(300, x({255}, "uint8")):item(), false) -- on the left
end)

t.test("maximum, minimum and clip look at a number's value where the result need not hold it", function()
  local u = x({0, 100, 255}, "uint8")
  t.eq(u:clip(-5, 300):tolist(), {0, 100, 255})
  t.eq(u:maximum(-1):tolist(), {0, 100, 255})
  t.eq(ml.minimum(300, u):tolist(), {0, 100, 255})
  t.eq(u:clip(nil, 300).dtype, "uint8")
  t.eq(x({-7}, "int8"):clip(-1000, 1000):item(), -7)
end)

t.test("a result that would have to hold the number is an error at the line that asked for it", function()
  local u = x({0, 100, 255}, "uint8")
  for name, fn in pairs {
    maximum = function() local _ = u:maximum(300) end,
    minimum = function() local _ = u:minimum(-1) end,
    clip = function() local _ = u:clip(300) end,
    add = function() local _ = u + 300 end,
    mod = function() local _ = 300 % u end,
    left_shift = function() local _ = u:left_shift(65537) end,
    bitwise_xor = function() local _ = u:bitwise_xor(-1) end,
    where = function() local _ = ml.where(u:gt(1), 256, u) end,
    slice_update = function() local _ = u:slice_update({{1, 1}}, 300) end,
    put_along_axis = function() local _ = u:put_along_axis({0}, -1) end,
    scatter_add = function() local _ = u:scatter_add({0, 1}, {1, 300}) end,
    pad = function() local _ = u:pad({1, 1}, 256) end,
    full = function() local _ = ml.full({2}, 300, {dtype = "uint8"}) end,
    tensor = function() local _ = x({300}, "uint8") end,
    ["random.randint"] = function() local _ = ml.random.randint(0, 300, {4}, {dtype = "uint8"}) end,
    arange = function() local _ = ml.arange(0, 400, 100, {dtype = "uint8"}) end,
  } do
    local err = t.raises(fn, name:gsub("%.", "%%.") .. ": .*does not fit dtype uint8", "usage")
    t.ok(tostring(err):find("test_arithmetic.lua", 1, true), name .. ": the line")
  end
  t.raises(function() return x({1}, "int32") + 3000000000 end, "add: 3000000000 does not fit dtype int32")
  for _, door in ipairs {function() return x({-5}, "uint64") end,
    function() return ml.full({1}, -5, {dtype = "uint64"}) end, function() return x({5}, "uint64") + -1 end} do
    t.raises(door, "%-[15] does not fit dtype uint64")
  end
end)

t.test("plain numbers are written as they are", function()
  t.eq(x({0, 0}, "float32"):slice_update({{2}}, 3000000000):tolist(), {0.0, 3e9})
  t.eq(x({0, 0}, "float64"):slice_update({{2}}, 5e-324):tolist(), {0.0, 5e-324})
  t.eq(x({0, 0}, "int32"):put_along_axis({1}, 16777217.0):tolist(), {0, 16777217})
  t.eq(x({0, 0}, "int64"):scatter_add({1}, 1 << 62):tolist(), {0, 1 << 62})
  t.eq(x({0, 0}, "uint32"):slice_update({{2}}, 4294967295):tolist(), {0, 4294967295})
  t.eq(x({0, 0}, "int8"):slice_update({{}}, -2.75):tolist(), {-2, -2}) -- fractions are lost, as in a cast
  for _, n in ipairs {0 / 0, math.huge, 300.0, -129.0} do
    t.raises(function() return x({0, 0}, "int8"):slice_update({{2}}, n) end, "slice_update: .*dtype int8")
  end
end)

t.test("plain floats beside integers are compared as float64", function()
  t.eq(x({2147483647}, "int32"):lt(2.0 ^ 31):item(), true)
  t.eq(x({2147483647}, "int32"):eq(2.0 ^ 31):item(), false)
  t.eq(x({16777217}, "int32"):eq(16777216.0):item(), false)
  t.eq(x({4294967295}, "uint32"):ge(2.0 ^ 32):item(), false)
  t.eq(ml.gt(2.0 ^ 31, x({2147483647}, "int32")):item(), true)
  for _, dtype in ipairs(integers) do
    local three = x({3}, dtype)
    t.eq(three:lt(3.5):item(), true, dtype)
    t.eq(three:eq(3.0):item(), true, dtype)
    t.eq(three:le(-math.huge):item(), false, dtype)
    t.eq(three:ne(0 / 0):item(), true, dtype)
    t.eq(ml.compile(function(v) return v:lt(3.25) end)(three):item(), true, dtype)
  end
  t.eq(x({true}, "bool"):gt(0.5):item(), true)
end)

t.test("numbers are rounded to half precision once", function()
  local near = 1 + 2.0 ^ -11 + 2.0 ^ -40 -- beyond halfway, which float32 forgets
  local up = 1 + 2.0 ^ -10
  t.eq(x({near}, "float16"):item(), up)
  t.eq(x({near}, "float64"):astype "float16":item(), up)
  t.eq((x({1}, "float16") * near):item(), up)
  t.eq(x({0}, "float16"):slice_update({{}}, near):item(), up)
  t.eq(x({65519.99}, "float64"):astype "float16":item(), 65504.0)
  t.eq(x({1 + 2.0 ^ -8 + 2.0 ^ -45}, "bfloat16"):item(), 1 + 2.0 ^ -7)
  for e = 30, 62 do -- beyond halfway by 1, which neither float32 nor, in the end, float64 holds
    local n = (1 << e) + (1 << e - 8) + 1
    for _, dtype in ipairs(e < 31 and {"int32", "uint32", "int64", "uint64"} or {"int64", "uint64"}) do
      t.eq(x({n}, dtype):astype "bfloat16":item(), (1.0 + 2.0 ^ -7) * 2.0 ^ e, dtype)
      if dtype == "int64" then t.eq(x({-n}, dtype):astype "bfloat16":item(), -(1.0 + 2.0 ^ -7) * 2.0 ^ e) end
    end
  end
  local top = ml.from_bytes(string.pack("<I8", (1 << 63) + (1 << 55) + 1), {1}, "uint64")
  t.eq(top:astype "bfloat16":item(), (1.0 + 2.0 ^ -7) * 2.0 ^ 63)
end)

t.test("half floats become those of the other kind, and integers bytes, together as each does alone", function()
  local function check_views(all, to)
    local alone = {}
    local function check(first, last, step)
      local wanted = {}
      for i = first, last, step do
        alone[i] = alone[i] or all:slice {{i, i}}:astype(to):tobytes()
        wanted[#wanted + 1] = alone[i]
      end
      local found = all:slice {{first, last, step}}:astype(to):tobytes()
      t.ok(found == table.concat(wanted), table.concat({all.dtype, to, first, last, step}, " "))
    end
    for _, n in ipairs {1, 15, 16, 17, 255, 256, 257, 1000} do
      for _, first in ipairs {1, 0x3bf0, 0x7bf0, 0x7f70, 0xfbf0} do -- the least, near one, infinities and NaNs
        check(first, first + n - 1, 1)
        check(first + n - 1, first, -1)
        check(first, math.min(first + 2 * n - 1, 1 << 16), 2)
      end
    end
  end
  local patterns = ml.arange(1 << 16, {dtype = "int32"})
  check_views(ml.from_bytes(patterns:astype "uint16":tobytes(), {1 << 16}, "float16"), "bfloat16")
  check_views(ml.from_bytes(patterns:astype "uint16":tobytes(), {1 << 16}, "bfloat16"), "float16")
  local numbers <close> = (patterns - 40000) * 65537
  ml.eval(numbers)
  for _, to in ipairs {"uint8", "int8", "uint16", "int16"} do check_views(numbers, to) end
end)

-- ---- sums ----

t.test("sums of squares are wider than any dtype", function()
  t.eq(x({1000}, "float16"):norm():item(), 1000.0)
  t.eq(x({-300, 300}, "float16"):std():item(), 300.0)
  t.eq(x({2e-5}, "float16"):norm():item(), x({2e-5}, "float16"):item())
  t.eq(x({3e30, 4e30}, "float32"):norm():item(), x({5e30}, "float32"):item())
  t.eq(x({3e-30, 4e-30}, "bfloat16"):norm().dtype, "bfloat16")
  t.eq(x({-300, 300}, "float16"):var():item(), math.huge) -- 90000 is no float16
  t.eq(ml.full({3}, 1 << 62, {dtype = "int64"}):std():item(), 0.0)
  t.eq(x({{3, 4}, {6, 8}}, "int32"):norm(2, true):tolist(), {{5.0}, {10.0}})
end)

t.test("norms of rows whose squares float32 does not hold", function()
  local function near(a, b) for i, v in ipairs(b) do t.close(a:tolist()[i], v, 2.0 ^ -9 * math.abs(v)) end end
  for _, dtype in ipairs {"float32", "bfloat16"} do
    near(ml.rms_norm(x({1e20, 1e20}, dtype)), {1, 1})
    near(ml.rms_norm(x({-1e-30, 1e-30}, dtype), nil, 0.0), {-1, 1})
    near(ml.rms_norm(x({1e20, 0}, dtype), x({2, 1}, dtype)), {2 * 2 ^ 0.5, 0})
    near(ml.layer_norm(x({1e30, -1e30}, dtype)), {1, -1})
    near(ml.layer_norm(x({3e38, 3e38, -3e38}, dtype)), {0.5 ^ 0.5, 0.5 ^ 0.5, -2 * 0.5 ^ 0.5})
  end
  near(ml.layer_norm(x({1e8, 1e8 + 8, 1e8 + 16}, "float32")), {-1.5 ^ 0.5, 0, 1.5 ^ 0.5}) -- the mean is no float32
end)

t.test("small products read no more than their operands", function()
  local pages, ones <close> = {}, ml.ones {1, 512}
  for i = 1, 9 do pages[i] = ml.state({512, 2}, "float32") end -- behind one of them nothing is mapped
  for _, page in ipairs(pages) do
    for _, view in ipairs {page, page:flip {1}, page:slice {{512, 1, -2}, {}}} do
      local found <close> = ones:slice {{}, {1, view.shape[1]}}:matmul(view)
      t.eq(found:tolist(), {{0.0, 0.0}})
    end
  end
  for _, page in ipairs(pages) do page:close() end
end)

-- The same bits, or both NaN.
local function same(found, wanted, ...)
  t.ok(string.pack("<d", found) == string.pack("<d", wanted) or found ~= found and wanted ~= wanted,
    table.concat({found, "instead of", wanted, "for", ...}, " "))
end

t.test("short rows are reduced together as each is alone", function()
  local special = {0.0 / 0.0, -1 / 0.0, 1 / 0.0, -0.0, 0.0}
  for n = 1, 64, 3 do
    for _, rows in ipairs {16, 23, 270} do
      local values = (ml.arange(rows * n, {dtype = "float32"}) * 1.37):sin():tolist()
      for i = 1, #values, 29 do values[i] = special[i % 5 + 1] end
      for i = n + 1, 2 * n do values[i] = -0.0 end -- a row
      for _, dtype in ipairs {"float32", "float16", "bfloat16"} do
        local dense <close> = x(values, dtype):reshape {rows, n}
        local wider <close> = ml.concat({dense, dense}, 2)
        local views = {dense, wider:slice {{}, {n + 1, 2 * n}}, -(-dense)}
        for _, op in ipairs {"sum", "mean", "max", "min"} do
          for k, view in ipairs(views) do
            local found = view[op](view, 2):tolist()
            for row = 1, rows, 7 do
              local alone = dense[row][op](dense[row]):item()
              same(found[row], alone, op, dtype, row, rows, n, k)
            end
          end
        end
        for k = 2, 3 do views[k]:close() end
      end
    end
  end
end)

t.test("columns are reduced together as each is alone", function()
  for _, rows in ipairs {5, 16, 31, 140} do
    for _, width in ipairs {16, 17, 40} do
      local values = (ml.arange(rows * width, {dtype = "float32"}) * 1.37):sin():tolist()
      values[rows * width // 2], values[width] = 0.0 / 0.0, -1 / 0.0
      for i = 2, rows % 2 * rows * width, width do values[i] = -0.0 end -- a column
      local dense <close> = x(values, "float32"):reshape {rows, width}
      local wider <close> = ml.concat({dense, dense, dense}, 2)
      local far <close> = wider:slice {{}, {width + 1, 2 * width}}
      for _, op in ipairs {"sum", "mean", "max", "min", "prod", "norm"} do
        local near_found, far_found = dense[op](dense, 1):tolist(), far[op](far, 1):tolist()
        for c = 1, width do
          local column = dense:slice {{}, {c, c}}:copy()
          local alone = column[op](column):item()
          same(near_found[c], alone, op, c, rows, width)
          same(far_found[c], alone, op, c, rows, width)
        end
      end
    end
  end
end)

t.test("norms and variances of bytes are those of exact sums", function()
  local least = {uint8 = 0, int8 = -128, bool = 0}
  local function float(v) return (string.unpack("<f", string.pack("<f", v))) end
  local function expect(view, axis, sum, squares, n, ...)
    local variance = (squares * n - sum * sum) / n / n
    for op, wanted in pairs {norm = squares ^ 0.5, var = variance, std = variance ^ 0.5} do
      for _, found in ipairs(view[op](view, axis):reshape {-1}:tolist()) do same(found, float(wanted), op, n, ...) end
    end
  end
  for dtype, low in pairs(least) do
    for _, n in ipairs {1, 15, 31, 32, 33, 65, 127, 128, 129, 2047, 2048, 2049, 8193} do
      for _, ends in ipairs {false, true} do -- the farthest from 0 alone, or all of them
        local values, sum, squares = {}, 0, 0
        for i = 1, n do
          local v = dtype == "bool" and (ends and 1 or i * 7 // 3 % 2) or ends and (low < 0 and low or 255) or
            low + i * 89 % 256
          values[i], sum, squares = v, sum + v, squares + v * v
        end
        local row <close> = x(values, "int32"):astype(dtype)
        local far <close> = ml.broadcast_to(row:reshape {n, 1}, {n, 50}):copy()
        expect(row, nil, sum, squares, n, dtype, "row")
        expect(row:flip {1}, nil, sum, squares, n, dtype, "reversed")
        expect(far:transpose(), 2, sum, squares, n, dtype, "rows that lie across")
        expect(far, 1, sum, squares, n, dtype, "columns")
        expect(far:slice {{}, {3, 49, 2}}, 1, sum, squares, n, dtype, "every other column")
        expect(far:slice {{}, {3, 35}}, 1, sum, squares, n, dtype, "columns far apart")
      end
    end
  end
end)

t.test("means of integers do not wrap", function()
  t.eq(x({math.maxinteger, math.maxinteger}, "int64"):mean():item(), 2.0 ^ 63)
  t.eq(x({math.mininteger, math.mininteger}, "int64"):mean():item(), -2.0 ^ 63)
  t.eq(x({-100, -100, -100}, "int8"):mean():item(), -100.0)
end)

t.test("running sums and products widen as sum does", function()
  t.eq(x({200, 100}, "uint8"):cumsum():tolist(), {200, 300})
  t.eq(x({100, 100}, "int8"):cumprod():tolist(), {100, 10000})
  for _, dtype in ipairs {"bool", table.unpack(integers)} do
    local one = dtype == "bool" and x({true}, dtype) or x({1}, dtype)
    t.eq(one:cumsum().dtype, one:sum().dtype, dtype)
    t.eq(one:cumprod().dtype, one:prod().dtype, dtype)
  end
  t.eq(x({200, 100}, "uint8"):cummax().dtype, "uint8")
end)

t.test("variances of what holds an infinity are NaN, wherever it stands; that of huge ones is infinite", function()
  local function nan(v) return v ~= v end
  for _, dtype in ipairs {"float32", "float64", "float16", "bfloat16"} do
    for _, at in ipairs {1, 128, 129, 600, 1000} do
      for _, inf in ipairs {math.huge, -math.huge} do
        local list = {}
        for i = 1, 1000 do list[i] = i == at and inf or i % 7 end
        local rows = x(list, dtype)
        local columns = rows:reshape({1000, 1}):broadcast_to({1000, 20}):copy()
        for _, op in ipairs {"var", "std"} do
          t.ok(nan(rows[op](rows):item()), dtype .. " " .. op)
          for _, y in ipairs(columns[op](columns, 1):tolist()) do t.ok(nan(y), dtype .. " of columns") end
        end
      end
    end
  end
  local far = x({1e200, -1e200, 3}, "float64")
  t.eq(far:var():item(), math.huge)
  t.eq(far:reshape({3, 1}):broadcast_to({3, 2}):copy():var(1):tolist(), {math.huge, math.huge})
end)

t.test("a variance of fewer values than its divisor wants", function()
  local function nan(v) return v ~= v end
  for _, dtype in ipairs {"float32", "float16", "float64", "int32", "uint8"} do
    t.eq(x({1, 2}, dtype):var {ddof = 3}:item(), math.huge, dtype)
    t.eq(x({1, 2}, dtype):std {ddof = 2}:item(), math.huge, dtype)
    t.ok(nan(x({2, 2}, dtype):var {ddof = 3}:item()), dtype)
  end
  t.ok(nan(ml.zeros {0}:var():item()), "of nothing")
  t.ok(nan(x({1, 2}, "float32"):var {ddof = 0 / 0}:item()), "by nothing")
end)

-- ---- uint64 ----

t.test("uint64 is unsigned everywhere", function()
  local u = ml.from_bytes(string.pack("<I8I8I8", -1, 1, 1 << 63), {3}, "uint64")
  local top, half = 2.0 ^ 64, 2.0 ^ 63
  t.eq(tostring(u):match "^[^\n]*", "[18446744073709551615, 1, 9223372036854775808]")
  t.eq(u:tolist(), {-1, 1, math.mininteger}) -- the 64 bits
  for _, name in ipairs {"take", "embedding", "take_along_axis"} do
    t.raises(function()
      local from = name == "embedding" and ml.zeros {5, 2} or ml.arange(5)
      local result = ml[name](from, u:slice {{1, 1}})
      ml.eval(result)
    end, name .. ": index 18446744073709551615 is out of range")
  end
  t.eq({u:max():item(), u:min():item(), u:argmax():item(), u:argmin():item()}, {-1, 1, 0, 1})
  t.eq(u:sort():tolist(), {1, math.mininteger, -1})
  t.eq(u:argsort():tolist(), {1, 2, 0})
  t.eq({(u:topk(2)):tolist(), select(2, u:topk(2)):tolist()}, {{-1, math.mininteger}, {0, 2}})
  t.eq(u:gt(1):tolist(), {true, false, true})
  t.eq(u:gt(-1):tolist(), {true, true, true})
  t.eq(x({-1, 1, 5}, "int64"):lt(u):tolist(), {true, false, true})
  t.eq(u:eq(x({-1, 1, math.mininteger}, "int64")):tolist(), {false, true, false})
  t.eq(u:astype "float64":tolist(), {top, 1.0, half})
  t.eq(u:astype "float32":tolist(), {top, 1.0, half})
  t.eq(x({top, 1.5, half, -1, 0 / 0}, "float64"):astype "uint64":tolist(), {-1, 1, math.mininteger, -1, 0})
  t.eq(u:mean():item(), x({(top + half) / 3}, "float32"):item())
  t.eq((u // 10):tolist(), {1844674407370955161, 0, 922337203685477580})
  t.eq((u % 10):tolist(), {5, 1, 8})
  t.eq(u:right_shift(60):tolist(), {15, 0, 8})
  t.eq(u:sign():tolist(), {1, 1, 1})
  t.eq(u:abs():tolist(), u:tolist())
  t.eq(u:relu():tolist(), u:tolist())
  t.eq(u:maximum(5):tolist(), {-1, 5, math.mininteger})
  t.eq(u:clip(2, 7):tolist(), {7, 2, 7})
  t.eq(u:cummax():tolist(), {-1, -1, -1})
  t.eq(u:cummin():tolist(), {-1, 1, 1})
  t.eq((u / 2):tolist(), {half, 0.5, half / 2})
  t.eq(u:sqrt():tolist()[1], 2.0 ^ 32)
  t.eq(u:sort():searchsorted(u):tolist(), {2, 0, 1})
  t.eq((u:unique()):tolist(), {1, math.mininteger, -1})
  t.eq((u ^ ml.full({}, 1, {dtype = "uint64"})):tolist(), u:tolist())
  t.eq(u:logsumexp():item(), x({2.0 ^ 64}, "float32"):item())
end)

t.test("uint64 from a file", function()
  local path = os.tmpname()
  local u = ml.from_bytes(string.pack("<I8I8", -1, 7), {2}, "uint64")
  assert(ml.save_safetensors(path, {u = u}))
  local back = assert(ml.load_safetensors(path)).u
  t.eq({back.dtype, back:gt(8):tolist(), back:astype "float64":tolist()}, {"uint64", {true, false}, {2.0 ^ 64, 7.0}})
  os.remove(path)
end)

-- ---- ranges ----

t.test("products are computed in the dtype that all operands meet at", function()
  local function einsum(equation, ...) return ml.einsum(equation, {...}) end
  local function of(dtype, values) return ml.tensor(values, {dtype = dtype}) end
  local one = of("int64", {1})
  t.eq(einsum("ab,b->", ml.tensor {{2147483647}, {1}}, one):item(), 2147483648)
  local big = ml.tensor {2000000000}
  t.eq(einsum("a,a,a->", big, big, one):item(), 4000000000000000000)
  t.eq(einsum("a,a->a", of("int64", {(1 << 60) + 1}), of("int64", {3})):item(), 3 * ((1 << 60) + 1))
  t.eq(einsum("ab,bc->", of("uint64", {{9, 7}}), of("int8", {{-7}, {9}})):item(), 0)
  local high = ml.full({3, 1}, 60000.0, {dtype = "float16"})
  local half = einsum("ab,b->", high, of("float16", {0.001}))
  t.eq({half.dtype, half:item()}, {"float16", 180.125})
  t.close(einsum("ab,b->", high, of("float32", {0.001})):item(), 180.00002, 1e-4)
  half = einsum("a,a,a->", of("bfloat16", {3e38}), of("bfloat16", {3e38}), of("bfloat16", {1e-38})):item()
  t.eq(half, 1 / 0, "what float32 does not hold") -- as NumPy's
  t.eq({einsum("a,a->", of("int8", {100, 100}), of("int8", {1, 1})).dtype, einsum("ab,b->", of("int8", {{1}}),
    of("int8", {1})).dtype}, {"int8", "int8"})
  local c = ml.full({2, 2}, 300.0, {dtype = "float16"})
  t.close(c:addmm(c, c, {alpha = 1e-3}):tolist(), {{480, 480}, {480, 480}}, 0.5)
  local w = of("float16", {{{1.0}, {1.0}, {-1.0}}})
  t.eq(ml.full({1, 3, 1}, 60000.0, {dtype = "float16"}):conv1d(w):item(), 60000.0, "a sum that is large on its way")
end)

t.test("plain numbers are looked up as they are", function()
  local function find(dtype, list, ...) return ml.tensor(list, {dtype = dtype}):searchsorted(...):tolist() end
  t.eq(find("float64", {0.1}, 0.1), 0)
  t.eq(find("float64", {1.0, 1e300}, 1e299), 1)
  t.eq(find("float64", {0.1, 0.2}, {0.1, 0.2}, {right = true}), {1, 2})
  t.eq(find("int64", {1, 1 << 41}, 1 << 40), 1)
  t.eq(find("int64", {1, 1 << 41}, {1 << 40, 0}), {1, 0})
  t.eq(find("int32", {1, 2, 3}, {1.5, 2.0}), {1, 1})
  t.eq(find("int8", {1, 2, 3}, 1000), 3)
  t.eq({find("float32", {1.0, 0 / 0}, 0 / 0), find("float32", {1.0, 0 / 0}, 0 / 0, {right = true})}, {1, 2})
  t.raises(function() find("int32", {1}, "a") end, "searchsorted: values: expected a tensor or a number", "usage")
end)

t.test("nan_to_num replaces each by its own", function()
  local all = ml.tensor {0 / 0, 1.0, 1 / 0, -1 / 0}
  t.eq(all:nan_to_num(1 / 0, 5, 6):tolist(), {1 / 0, 1.0, 5.0, 6.0})
  t.eq(all:nan_to_num(0, -1 / 0, 6):tolist(), {0.0, 1.0, -1 / 0, 6.0})
end)

t.test("ranges of integers are exact", function()
  local function range(...)
    local r = ml.arange(...)
    return {r.dtype, r:tolist()}
  end
  t.eq(range(2147483646, 2147483648), {"int32", {2147483646, 2147483647}})
  t.eq(range(2147483647, 2147483650), {"int64", {2147483647, 2147483648, 2147483649}})
  t.eq(range(1 << 40, (1 << 40) + 3), {"int64", {1 << 40, (1 << 40) + 1, (1 << 40) + 2}})
  t.eq(range(-2147483648, -2147483650, -1), {"int64", {-2147483648, -2147483649}})
  t.eq(range((1 << 53) - 1, (1 << 53) + 2, 1, {dtype = "int64"})[2], {(1 << 53) - 1, 1 << 53, (1 << 53) + 1})
  t.eq(range(math.maxinteger - 1, math.maxinteger), {"int64", {math.maxinteger - 1}})
  t.eq(range(math.mininteger, math.maxinteger, math.maxinteger)[2], {math.mininteger, -1, math.maxinteger - 1})
  t.eq(range(0, 256, 51, {dtype = "uint8"})[2], {0, 51, 102, 153, 204, 255})
  t.raises(function() ml.arange(0, 257, 64, {dtype = "uint8"}) end, "arange: 256 does not fit dtype uint8", "usage")
  t.raises(function() ml.arange(-3, 7, 2, {dtype = "uint8"}) end, "arange: %-3 does not fit dtype uint8", "usage")
  t.raises(function() ml.arange(0.0, 300.5, 100, {dtype = "int8"}) end, "arange: 300 does not fit dtype int8", "usage")
  t.raises(function() ml.arange(math.mininteger, math.maxinteger) end, "arange: ", "usage")
  t.eq(range(5, 0, -2), {"int32", {5, 3, 1}})
  t.eq(range(3, 3), {"int32", {}})
  t.eq(range(0, 2, 0.5), {"float32", {0.0, 0.5, 1.0, 1.5}})
  t.eq(range(0.0, 3.0, 1.0, {dtype = "int32"}), {"int32", {0, 1, 2}})
  t.eq(range(0.0, 0.5, 0.7, {dtype = "uint8"}), {"uint8", {0}})
end)

-- ---- draws ----

t.test("uniform numbers lie in [low, high) in every dtype", function()
  for _, case in ipairs {{0, 1}, {1e8, 1e8 + 8}, {-1, 1}, {1000, 1004}, {-2.0 ^ -24, 2.0 ^ -24}} do
    for _, dtype in ipairs(floats) do
      local low, high = case[1], case[2]
      if high < 6e4 or dtype ~= "float16" then
        if dtype ~= "bfloat16" or high < 1e8 then
          local draws = ml.random.uniform({20000}, {low = low, high = high, dtype = dtype}):astype "float64"
          local least, most = draws:min():item(), draws:max():item()
          t.ok(least >= low and most < high, ("%s: %s..%s in [%s, %s)"):format(dtype, least, most, low, high))
        end
      end
    end
  end
  t.eq(ml.random.uniform({3}, {low = 2, high = 2}):tolist(), {2.0, 2.0, 2.0})
  t.raises(function() ml.random.uniform({3}, {low = 3, high = 2}) end, "uniform: expected low <= high", "usage")
  t.raises(function() ml.random.uniform({3}, {low = 1000.1, high = 1000.2, dtype = "float16"}) end,
    "uniform: dtype float16 has no number between", "usage")
  t.raises(function() ml.random.uniform({3}, {dtype = "int32"}) end, "uniform: dtype: expected a float dtype", "usage")
  local wide = ml.random.uniform({1000}, {low = -3e38, high = 3e38})
  t.ok(wide:isfinite():all():item() and wide:std():item() > 1e38, "a span that float32 does not hold")
end)

t.test("integers are drawn within what a dtype holds", function()
  t.eq(ml.random.randint(0, 256, {2}, {dtype = "uint8"}).dtype, "uint8")
  t.raises(function() ml.random.randint(-1, 2, {4}, {dtype = "uint32"}) end, "%-1 does not fit dtype uint32", "usage")
  t.raises(function() ml.random.randint(0, 4098, {4}, {dtype = "float16"}) end, "does not fit dtype float16", "usage")
  t.raises(function() ml.random.randint(math.mininteger, math.maxinteger, {4}, {dtype = "int64"}) end, "too many",
    "usage")
end)

t.test("gumbel numbers are finite", function()
  t.ok(ml.random.gumbel({1 << 22}, {key = ml.random.key(3)}):isfinite():all():item())
end)

-- Kolmogorov and Smirnov: the largest distance between the share of draws below x and the probability of it.
local function distance(draws, cumulative)
  local sorted, worst = draws:sort():tolist(), 0
  for i, v in ipairs(sorted) do
    local p = cumulative(v)
    worst = math.max(worst, math.abs(p - i / #sorted), math.abs(p - (i - 1) / #sorted))
  end
  return worst
end

-- The upper tail of the normal distribution, by Laplace's continued fraction (x > 0) from far out inwards.
local function tail(v)
  local fraction = v
  for k = 200, 1, -1 do fraction = v + k / fraction end
  return math.exp(-v * v / 2) / fraction
end

t.test("truncated normal numbers follow their distribution into the tails", function()
  local N = 20000
  for i, case in ipairs {{6, 7, 6.1572}, {-9, -8, -8.1212}, {5, 6, 5.1831}, {40, 41, 40.025}, {3, math.huge, 3.2831}} do
    local low, high, mean = table.unpack(case)
    local draws = ml.random.truncated_normal(low, high, {N}, {key = ml.random.key(i)})
    t.close(draws:mean():item(), mean, 6 * draws:std():item() / N ^ 0.5 + 1e-4, "mean")
    t.ok(draws:min():item() >= low and draws:max():item() <= high, "bounds")
    local a, b = tail(math.min(math.abs(low), math.abs(high))), tail(math.max(math.abs(low), math.abs(high)))
    if high == math.huge then b = 0 end
    local share = distance(draws:abs(), function(v) return (a - tail(v)) / (a - b) end)
    t.ok(share < 1.95 / N ^ 0.5, ("%s to %s: a distance of %s"):format(low, high, share)) -- 0.1 % exceed it
  end
end)

-- ---- arguments ----

t.test("arguments that say nothing, and those that say too much", function()
  local v = ml.tensor {{3, 1}, {2, 2}}
  t.eq(v:sort(-1, nil):tolist(), {{1, 3}, {2, 2}})
  t.eq(v:sum(nil, nil):item(), 8)
  t.eq(v:sum({axis = 1}, nil):tolist(), {5, 3})
  for _, name in ipairs {"sum", "mean", "prod", "max", "any", "var", "norm", "logsumexp"} do
    t.raises(function() return v[name](v, {1, 1}) end, name .. ": axis 1 is named twice", "usage")
    t.raises(function() return v[name](v, {1, -2}) end, name .. ": axis 1 is named twice", "usage")
    t.raises(function() return v[name](v, 1, 2) end, name .. ": keepdims: expected true or false, found 2", "usage")
  end
  t.raises(function() return v:rope(v, 1) end, "true or false", "usage")
end)

t.done()
