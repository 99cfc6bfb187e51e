-- bandwidth.lua: reductions, copies, casts and assignments of 16M elements beside the read and copy rate of the minute
--
-- For each case: GB/s that it moves (what it must read and write, once), and that rate's share of what a plain loop of
-- all threads reaches over as many bytes, read or copied, or over 134 MB a thread where that is slower: then a last
-- cache holds the tensors, and memory, whose rate this is about, is slower than it. In each of ROUNDS rounds (9) the
-- limit is measured before and after the case, both as the best of five windows of 20 ms, so that what a cache keeps
-- from pass to pass serves both; the median of the rounds' shares counts. A case fails below its bound: 0.7, or what
-- `exceptions` has, for the reasons in docs/performance.md. With words, only the cases whose names contain one of them.
-- THREADS=1 takes less where others use the machine too, and SIDE=2048 (of squares; 4096) where its last cache holds
-- far less than 16 MB.
--
--     build/moonlet tests/checks/bandwidth.lua [WORD ...]
local ml = require "moonlet"
local core = require "moonlet.core"
local limits = require "tests.tools.limits"

if os.getenv "THREADS" then ml.threads(tonumber(os.getenv "THREADS")) end
local ROUNDS = tonumber(os.getenv "ROUNDS") or 9
local BOUND, SIDE = 0.7, tonumber(os.getenv "SIDE") or 4096
local N = SIDE * SIDE
local BYTES = {float64 = 8, int64 = 8, float32 = 4, int32 = 4, bfloat16 = 2, float16 = 2, uint8 = 1, bool = 1}

-- ---- cases ----

-- The first pattern that a name has.
local exceptions = {
  {"^logsumexp .*first axis", 0.18}, {"^logsumexp .*transposed", 0.18}, {"^logsumexp", 0.35},
  {"^softmax", 0.4}, {"^log_softmax", 0.3},
  {"^var %a*float16, first axis", 0.3}, {"^norm %a*float16, first axis", 0.35}, {"^var %a*float16", 0.4},
  {"^var uint8, first axis", 0.2}, {"^norm uint8, first axis", 0.2}, {"^var uint8", 0.4}, {"^norm uint8", 0.35},
  {"^var .*first axis", 0.35}, {"^norm .*first axis", 0.4},
  {"^var ", 0.5}, {"^std .*first axis", 0.35}, {"^std ", 0.5}, {"^norm ", 0.5}, {"^prod ", 0.5},
  {"^mean int64", 0.55}, {"^max float64", 0.5}, {"^argmax float64", 0.3},
  {"^arg%a+ .*first axis", 0.45}, {"^arg%a+ .*transposed", 0.45},
  {" uint8, first axis", 0.4}, {" bool, first axis", 0.4}, {" %a*float16, first axis", 0.5},
  {"short columns", 0.35}, {"short rows", 0.35}, {"all of 3, transposed", 0.45},
  {"float32, transposed", 0.45}, {"float64, transposed", 0.5}, {"bfloat16, transposed", 0.35},
  {"uint8, transposed", 0.25}, {"^cast %w+ to uint8", 0.5}, {"^cast float64 to %a*float16", 0.6},
}

local function bound_of(name)
  for _, e in ipairs(exceptions) do
    if name:find(e[1]) then return e[2] end
  end
  return BOUND
end

local cases = {}
local function case(name, moves, make)
  local wanted = #arg == 0
  for _, word in ipairs(arg) do wanted = wanted or name:find(word, 1, true) ~= nil end
  if wanted then cases[#cases + 1] = {name = name, moves = moves, make = make, bound = bound_of(name)} end
end

local function values(dtype, shape)
  local x = (ml.arange(N, {dtype = "int32"}) * 7919) % 251 -- neither sorted nor equal
  if BYTES[dtype] > 1 then x = x - 125 end
  if dtype:find "float" then x = x / 64 end
  x = x:astype(dtype):reshape(shape)
  ml.eval(x)
  return x
end

local SQUARE, CUBE = {SIDE, SIDE}, {N >> 16, 256, 256}
local shapes = {
  {"last axis", SQUARE, 2}, {"first axis", SQUARE, 1}, {"all", SQUARE}, {"all, flat", {N}},
  {"last, transposed", SQUARE, 2, true}, {"first, transposed", SQUARE, 1, true}, {"all, transposed", SQUARE, nil, true},
  {"middle", CUBE, 2}, {"first of 3", CUBE, 1}, {"outer two", CUBE, {1, 2}}, {"first and last", CUBE, {1, 3}},
  {"all of 3, transposed", CUBE, nil, true}, {"long rows", {16, N // 16}, 2}, {"short columns", {16, N // 16}, 1},
  {"short rows", {N // 16, 16}, 2}, {"long columns", {N // 16, 16}, 1},
}

local function reduction(op, dtype, shape)
  local what, dims, axis, transposed = table.unpack(shape, 1, 4)
  if (op == "argmax" or op == "argmin") and type(axis) == "table" then return end
  case(("%s %s, %s"):format(op, dtype, what), N * BYTES[dtype], function()
    local x = values(dtype, dims)
    if transposed then x = x:transpose() end
    return function() return x[op](x, axis) end
  end)
end

for _, shape in ipairs(shapes) do
  for _, op in ipairs {"sum", "max"} do reduction(op, "float32", shape) end
end
for _, op in ipairs {"mean", "prod", "min", "all", "any", "argmax", "argmin", "var", "std", "norm", "logsumexp"} do
  for i = 1, 5 do reduction(op, "float32", shapes[i]) end
end
for _, dtype in ipairs {"bfloat16", "float16", "float64", "int32", "int64", "uint8", "bool"} do
  for i = 1, 3 do
    for _, op in ipairs {"sum", "max", "argmax", "any"} do reduction(op, dtype, shapes[i]) end
    for _, op in ipairs {"mean", "var", "norm"} do
      if dtype ~= "bool" then reduction(op, dtype, shapes[i]) end
    end
  end
end

local function copying(name, from, to, make)
  case(name, {N * BYTES[from], N * BYTES[to]}, make)
end

for _, dtype in ipairs {"float32", "bfloat16", "float64", "uint8"} do
  copying("copy " .. dtype .. ", dense", dtype, dtype, function()
    local x = values(dtype, SQUARE)
    return function() return x:copy() end
  end)
  copying("copy " .. dtype .. ", transposed", dtype, dtype, function()
    local x = values(dtype, SQUARE):transpose()
    return function() return x:copy() end
  end)
  copying("assign " .. dtype .. ", dense", dtype, dtype, function()
    local x = values(dtype, SQUARE)
    local s = ml.state(x * 1)
    return function() return ml.assign(s, x) end
  end)
  copying("assign " .. dtype .. ", transposed", dtype, dtype, function()
    local x = values(dtype, SQUARE)
    local s = ml.state(x * 1)
    x = x:transpose()
    return function() return ml.assign(s, x) end
  end)
end
copying("copy float32, axes of 3 turned", "float32", "float32", function()
  local x = values("float32", CUBE):transpose {3, 1, 2}
  return function() return x:copy() end
end)
case("copy float32, rows sliced", {N * 2, N * 2}, function()
  local x = values("float32", SQUARE):slice {{}, {1, SIDE // 2}}
  return function() return x:copy() end
end)
case("copy float32, broadcast rows", {0, N * 4}, function()
  local x = values("float32", SQUARE):slice {{1, 1}, {}}:broadcast_to(SQUARE)
  return function() return x:copy() end
end)
for _, from in ipairs {"float32", "bfloat16", "float16", "int32", "uint8", "float64"} do
  for _, to in ipairs {"float32", "bfloat16", "float16", "int32", "uint8", "float64"} do
    if from ~= to then
      copying(("cast %s to %s"):format(from, to), from, to, function()
        local x = values(from, SQUARE)
        return function() return x:astype(to) end
      end)
    end
  end
end
for _, op in ipairs {"softmax", "log_softmax"} do
  copying(op .. " float32", "float32", "float32", function()
    local x = values("float32", SQUARE)
    return function() return x[op](x, -1) end
  end)
end

-- A step of AdamW in one program: it reads parameters, gradients and both moments, and writes all but the gradients.
case("adamw float32", {N * 16, N * 12}, function()
  local g = values("float32", {N})
  local _, step = require "tests.lua.adamw"(g * 0.5)
  local update = ml.compile(step)
  return function() update(g) end
end)

-- ---- measuring ----

local function run(step)
  local y <close> = step()
  if y then ml.eval(y) else ml.eval() end
end

-- Of a run: the least of five windows, each as long as those of limits.memory.
local function seconds(step)
  local best = math.huge
  for _ = 1, 5 do
    local from, runs, took = core.clock(), 0, 0
    while took < 0.02 do
      run(step)
      runs, took = runs + 1, core.clock() - from
    end
    best = math.min(best, took / runs)
  end
  return best
end

local function measure(c)
  local step, moves = c.make(), c.moves
  local read = type(moves) == "number"
  local bytes = read and moves or moves[1] + moves[2]
  local function limit(of)
    local found = limits.memory(of)
    return read and found.read_gb_s or found.copy_gb_s
  end
  local memory = limit(math.maxinteger)
  local rates, shares = {}, {}
  run(step)
  local before = limit(bytes)
  for round = 1, ROUNDS do
    local best = seconds(step)
    local after = limit(bytes)
    rates[round] = bytes / best * 1e-9
    shares[round] = rates[round] / math.min((before + after) / 2, memory)
    before = after
  end
  return limits.median(rates), limits.median(shares)
end

local failed = 0
for _, c in ipairs(cases) do
  local rate, share = measure(c)
  collectgarbage()
  local passed = share >= c.bound
  if not passed then failed = failed + 1 end
  print(("%s - %-36s %6.1f GB/s, %.2f of the machine%s"):format(passed and "ok" or "not ok", c.name, rate, share,
    c.bound < BOUND and (" (bound %.2f)"):format(c.bound) or ""))
end
print(("%d passed, %d failed"):format(#cases - failed, failed))
os.exit(failed == 0)
