-- Operations on tensors against stored results of NumPy: a sample of what `make check-numbers` compares.
local t = require "tests.lua.harness"
local ml = require "moonlet"
local driver = require "tests.tools.number_driver"

t.leak_check = ml.memory.active

local BYTES = {float32 = 4, float16 = 2, bfloat16 = 2, float64 = 8}

local function half(bits)
  local sign, exponent, fraction = bits >> 15 == 1 and -1.0 or 1.0, bits >> 10 & 31, bits & 1023
  if exponent == 31 then return fraction == 0 and sign * math.huge or 0 / 0 end
  return sign * (exponent == 0 and fraction * 2.0 ^ -24 or (1024 + fraction) * 2.0 ^ (exponent - 25))
end

-- Entry i of hexadecimal bytes, its hexadecimal digits too.
local function entry(dtype, hex, i)
  local size = BYTES[dtype]
  local digits = hex:sub(2 * size * (i - 1) + 1, 2 * size * i)
  local bytes = digits:gsub("%x%x", function(byte) return string.char(tonumber(byte, 16)) end)
  if dtype == "float64" then return ("<d"):unpack(bytes), digits end
  if dtype == "float32" then return ("<f"):unpack(bytes), digits end
  if dtype == "bfloat16" then return ("<f"):unpack("\0\0" .. bytes), digits end
  return half(("<I2"):unpack(bytes)), digits
end

-- Whether every float is the one expected (any NaN for NaN), or lies between two.
local function within(dtype, got, low, high)
  if #got ~= #low then return false end
  for i = 1, #got // (2 * BYTES[dtype]) do
    local value, digits = entry(dtype, got, i)
    local least, exact = entry(dtype, low, i)
    if least ~= least then
      if value == value then return false end
    elseif high then
      if not (value >= least and value <= entry(dtype, high, i)) then return false end
    elseif digits ~= exact then return false end
  end
  return true
end

local function matches(got, want)
  if got == want then return true end
  local dtype, shape, low, high = want:match "^~?(%w+);([%d,]*);(%x*);?(%x*)$"
  if not BYTES[dtype] then return false end
  local got_dtype, got_shape, values = got:match "^(%w+);([%d,]*);(%x*)$"
  return got_dtype == dtype and got_shape == shape and within(dtype, values, low, want:find "^~" and high)
end

-- `!` expects an error that names the line of the expression, `!!` one that may come when values are read.
local function right(got, wanted)
  if wanted[1] == "!" then return got:find "^![um]" ~= nil end
  if wanted[1] == "!!" then return got:find "^!!?[um]" ~= nil end
  if #wanted == 1 then return matches(got, wanted[1]) end
  local n = 0
  for part in got:gmatch "[^|]+" do
    n = n + 1
    if not wanted[n] or not matches(part, wanted[n]) then return false end
  end
  return n == #wanted
end

local function check(cases)
  local wrong, first = 0, nil
  for _, case in ipairs(cases) do
    local got = driver.evaluate(case.expression)
    if not right(got, case.results) then
      wrong = wrong + 1
      local wanted = table.concat(case.results, " ")
      first = first or ("%s\n  gives    %s\n  expected %s"):format(case.expression, got, wanted)
    end
  end
  t.ok(wrong == 0, ("%d of %d cases differ; the first: %s\n "):format(wrong, #cases, tostring(first)))
end

local sections = {}
for line in io.lines "tests/goldens/numbers/cases.txt" do
  local name = line:match "^# (.*)$"
  if name then sections[#sections + 1] = {name = name}
  else
    local case = {results = {}}
    for part in line:gmatch "[^\t]+" do
      if not case.expression then case.expression = part else case.results[#case.results + 1] = part end
    end
    table.insert(sections[#sections], case)
  end
end

for _, cases in ipairs(sections) do
  t.test(("%s, %d cases"):format(cases.name, #cases), function() check(cases) end)
end

t.test("the sample is whole", function()
  local count = 0
  for _, cases in ipairs(sections) do count = count + #cases end
  t.ok(count > 3000, count .. " cases")
end)

-- Whether elements lie side by side or as columns, in one block, in one chunk or in several: the same bits.
t.test("columns are reduced as rows are", function()
  local dtypes = {"float32", "bfloat16", "float16", "float64", "int32", "int64", "uint8", "int8", "int16", "uint16",
    "bool"}
  for _, dtype in ipairs(dtypes) do
    for i, n in ipairs {1, 7, 64, 100, 129, 300, 5003, 9000, 5, 40, 1025} do
      local x = ml.random.normal {n, i > 8 and 64 or 37} * 50 + 60
      if dtype:find "uint" then x = x:abs() end
      x = x:astype(dtype)
      local rows = x:transpose():copy()
      for _, op in ipairs {"sum", "mean", "var", "std", "norm", "max", "argmax", "prod", "any",
        "logsumexp"} do
        local ok, columns = pcall(function() return x[op](x, 1) end)
        if ok then t.eq(columns:tobytes(), rows[op](rows, 2):tobytes(), ("%s of %d %s"):format(op, n, dtype)) end
      end
    end
  end
end)

-- A reduction of what a plan makes a row at a time is cut where one of a tensor is: these terms cancel otherwise.
t.test("rows of a plan are cut as rows of a tensor", function()
  local terms = {}
  for i = 1, 9216 do terms[i] = 0 end
  terms[1], terms[9216] = 1e17, -1e17
  for block = 0, 6 do terms[8193 + 128 * block] = 7 end
  for name, x in pairs {cancelling = ml.tensor {terms, terms}, normal = ml.random.normal {40, 12000} * 3} do
    ml.eval(x)
    for _, op in ipairs {"sum", "mean", "var", "std", "norm", "logsumexp", "argmax"} do
      t.eq((x * 1)[op](x * 1, 2):tobytes(), x[op](x, 2):tobytes(), ("%s of %s"):format(op, name))
    end
  end
end)

t.test("variances of float64 far from zero", function()
  for _, n in ipairs {128, 129, 256, 1000, 8192, 20000} do
    local x = ml.random.normal({n}, {dtype = "float64"}) + 1e9
    local distance = x - x:mean()
    distance = distance - distance:mean()
    t.ok(math.abs(x:var():item() / (distance * distance):mean():item() - 1) < 1e-14, "of " .. n)
    t.eq(x:reshape {n, 1}:broadcast_to {n, 16}:copy():var(1):at(16):item(), x:var():item(), "columns of " .. n)
  end
end)

-- Sums of a long row lose no more than those of a short one.
t.test("norms of long rows", function()
  for _, n in ipairs {4096, 65536, 1000003} do
    local x = ml.full({1, n}, 1 / 3)
    local one = 1 / math.sqrt(1 + 1e-5 / x:at(1):at(1):item() ^ 2)
    t.ok(math.abs(ml.rms_norm(x, nil, {eps = 1e-5}):at(1):at(1):item() / one - 1) < 1e-5, "of " .. n)
  end
end)

-- Distances are taken from a mean of what came before, which may be far from what follows; squares are float32.
t.test("variances keep their digits", function()
  local first = ml.concat {ml.ones {128} * 1e8, ml.random.normal {8000}}
  for name, x in pairs {["far from zero"] = ml.random.normal {100003} + 1e5, ["a first block far away"] = first} do
    local wide = x:astype "float64"
    local distance = wide - wide:mean()
    local expected = (distance * distance):mean():item()
    t.ok(math.abs(x:var():item() / expected - 1) < 4e-7, name)
  end
end)

t.done()
