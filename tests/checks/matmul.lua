-- matmul.lua: products of matrices reach 0.85 of the machine's rate from 1,024 on, 0.7 at 256; transposed weights 0.6
--
-- The machine's rate is what tools/measure_limits.c finds for float32 multiply-adds; for bfloat16 the better of its dot
-- products and of those multiply-adds, since operands that are widened take the latter. In each round it is measured
-- before every product, for as long as that takes, so that what else the machine does falls on both; a product is taken
-- several times in a row, as a training step takes it. The best of the products is compared with the best of all
-- measurements, and products that are not there after ROUNDS rounds are taken up to MORE times again, since on a
-- machine that others use a calm moment has to be met.
--
--   ROUNDS=9 MORE=60 SIZES="256 512 1024 2048" make check-matmul

local ml = require "moonlet"
local core = require "moonlet.core"
local limits = require "tests.tools.limits"

local rounds, more = tonumber(os.getenv "ROUNDS" or 9), tonumber(os.getenv "MORE" or 60)
local BOUNDS = {[256] = 0.7, [512] = 0.7} -- elsewhere 0.85
local SPREAD_BOUND = 0.8 -- from 1,024 on: twice as many lines are read
local TRANSPOSED_BOUND = 0.6

-- ---- products ----

local function seconds(f, ...)
  local began = core.clock()
  local _ <close> = f(...)
  return core.clock() - began
end

local function whole(x) return x end
local function turned(x) return x:transpose() end
local function corner(x) return x:slice {{1, x.shape[1] // 2}, {1, x.shape[2] // 2}} end
local function every_second(x) return x:slice {{1, x.shape[1], 2}, {1, x.shape[2], 2}} end
local forms = {
  {"A B", whole, whole}, {"A'B", turned, whole}, {"A B'", whole, turned}, {"A'B'", turned, turned},
  {"batched", whole, whole, batch = 3}, {"strided", corner, corner, larger = 2},
  {"every second element", every_second, every_second, larger = 2, bound = SPREAD_BOUND},
}

local cases = {}
local function add_cases(n, dtype)
  for _, form in ipairs(forms) do
    local side, a, b = n * (form.larger or 1), form[2], form[3]
    local shape = form.batch and {form.batch, side, side} or {side, side}
    local x, y = ml.random.normal(shape):astype(dtype), ml.random.normal(shape):astype(dtype)
    ml.eval(x, y)
    cases[#cases + 1] = {
      name = ("%s, %d^3, %s"):format(form[1], n, dtype), dtype = dtype,
      bound = BOUNDS[n] or form.bound or 0.85,
      operations = 2 * n ^ 3 * (form.batch or 1), repeats = n <= 512 and 10 or 3, rate = 0,
      run = ml.compile(function(p, q) return a(p):matmul(b(q)) end), inputs = {x, y},
    }
  end
end

-- ---- the transpose of packed weights, beside the product that it belongs to ----

local pairs_of = {}
local function add_pair(format)
  local m, outputs, inputs = 512, 2048, 2048
  local floats = format == "bfloat16" or format == "float32"
  local w = floats and core.pack(ml.random.normal({outputs, inputs}):astype(format), true)
    or core.random_packed(format, outputs, inputs, 0.1, 3, true)
  local x, y = ml.random.normal {m, inputs}, ml.random.normal {m, outputs}
  ml.eval(x, y, w)
  pairs_of[#pairs_of + 1] = {
    name = format, x = x, y = y, w = w, forward = ml.compile(ml.linear), back = ml.compile(ml.linear_transposed),
    best_forward = math.huge, best_back = math.huge, operations = 2 * m * outputs * inputs,
  }
end

for n in (os.getenv "SIZES" or "256 512 1024 2048"):gmatch "%d+" do
  for _, dtype in ipairs {"float32", "bfloat16"} do add_cases(math.tointeger(n), dtype) end
end
for _, format in ipairs {"q4_0", "q8_0", "q4_k", "bfloat16", "float32"} do add_pair(format) end

-- Operations a second of the machine, for as long as `case` takes.
local function machine_rate(case)
  local found = limits.arithmetic(case.seconds)
  local best = case.dtype == "float32" and found.f32_gflop_s or math.max(found.f32_gflop_s, found.bf16_gflop_s)
  return best * 1e9
end

local function take(case)
  local best = math.huge
  for _ = 1, case.repeats do best = math.min(best, seconds(case.run, table.unpack(case.inputs))) end
  return best
end

local limit_of = {float32 = 0, bfloat16 = 0}
local function measure(case)
  limit_of[case.dtype] = math.max(limit_of[case.dtype], machine_rate(case))
  case.rate = math.max(case.rate, case.operations / take(case))
end
local function share(case) return case.rate / limit_of[case.dtype] end

for _, case in ipairs(cases) do case.seconds = take(case) end
for round = 1, rounds + more do
  for _, case in ipairs(cases) do
    if round <= rounds or share(case) < case.bound then measure(case) end
  end
  for _, p in ipairs(round <= rounds and pairs_of or {}) do
    p.best_forward = math.min(p.best_forward, seconds(p.forward, p.x, p.w))
    p.best_back = math.min(p.best_back, seconds(p.back, p.y, p.w))
  end
end

-- ---- verdicts ----

local failed = 0
local function verdict(passed, format, ...)
  if not passed then failed = failed + 1 end
  print((passed and "ok - " or "not ok - ") .. format:format(...))
end

for _, case in ipairs(cases) do
  verdict(share(case) >= case.bound, "%s: %.0f GFLOP/s, %.2f of the machine (at least %.2f)", case.name,
    case.rate * 1e-9, share(case), case.bound)
end
for _, p in ipairs(pairs_of) do
  local ratio = p.best_forward / p.best_back
  verdict(ratio >= TRANSPOSED_BOUND, "%s, 512 rows of 2048 x 2048: forward %.0f, transposed %.0f GFLOP/s, ratio %.2f",
    p.name, p.operations / p.best_forward * 1e-9, p.operations / p.best_back * 1e-9, ratio)
end
os.exit(failed == 0, true)
