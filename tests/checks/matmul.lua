-- matmul.lua: products of matrices reach 0.85 of the machine's rate from 1,024 on, 0.7 at 256; transposed weights 0.6
--
-- The machine's rate is what tools/measure_limits.c finds for float32 multiply-adds; for bfloat16 the better of its dot
-- products and of those multiply-adds, since operands that are widened take the latter. It is measured anew in every
-- round, between the products, and for as long as a product of that size takes, so that what else the machine does
-- falls on both; a product is taken several times in a row, as a training step takes it. What is compared is the best
-- of ROUNDS.
--
--   ROUNDS=9 SIZES="256 512 1024 2048" make check-matmul

local ml = require "moonlet"
local core = require "moonlet.core"

local BUILD = os.getenv "BUILD" or "build"
local rounds = tonumber(os.getenv "ROUNDS" or 9)
local BOUNDS = {[256] = 0.7, [512] = 0.7} -- elsewhere 0.85
local TRANSPOSED_BOUND = 0.6

-- ---- the machine ----

local program = BUILD .. "/measure_limits"
assert(os.execute(("%s -std=gnu17 -O3 -pthread -o %s tools/measure_limits.c"):format(os.getenv "CC" or "cc", program)))
local machine = {} -- operations a second by size and dtype

local function measure_machine(n)
  local best = machine[n] or {float32 = 0, bfloat16 = 0}
  machine[n] = best
  local window = best.float32 > 0 and 2 * n ^ 3 / best.float32 or 0.01 -- seconds
  local pipe <close> = assert(io.popen(("%s %d %.6f"):format(program, ml.threads(), window)))
  local all = assert(ml.json.decode(pipe:read "a")).all
  best.float32 = math.max(best.float32, all.f32_gflop_s * 1e9)
  best.bfloat16 = math.max(best.bfloat16, best.float32, all.bf16_gflop_s * 1e9)
end

-- ---- products ----

local function seconds(f, ...)
  local began = core.clock()
  local _ <close> = f(...)
  return core.clock() - began
end

local function whole(x) return x end
local function turned(x) return x:transpose() end
local function every_second(x) return x:slice {{1, x.shape[1], 2}, {1, x.shape[2], 2}} end
local forms = {
  {"A B", whole, whole}, {"A'B", turned, whole}, {"A B'", whole, turned}, {"A'B'", turned, turned},
  {"batched", whole, whole, batch = 3}, {"strided", every_second, every_second, stride = 2},
}

local cases = {}
local function add_cases(n, dtype)
  for _, form in ipairs(forms) do
    local side, a, b = n * (form.stride or 1), form[2], form[3]
    local shape = form.batch and {form.batch, side, side} or {side, side}
    local x, y = ml.random.normal(shape):astype(dtype), ml.random.normal(shape):astype(dtype)
    ml.eval(x, y)
    cases[#cases + 1] = {
      name = ("%s, %d^3, %s"):format(form[1], n, dtype), size = n, dtype = dtype, bound = BOUNDS[n] or 0.85,
      operations = 2 * n ^ 3 * (form.batch or 1), best = math.huge, repeats = n <= 512 and 10 or 3,
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

local sizes = {}
for n in (os.getenv "SIZES" or "256 512 1024 2048"):gmatch "%d+" do
  sizes[#sizes + 1] = math.tointeger(n)
  for _, dtype in ipairs {"float32", "bfloat16"} do add_cases(sizes[#sizes], dtype) end
end
for _, format in ipairs {"q4_0", "q8_0", "q4_k", "bfloat16", "float32"} do add_pair(format) end

for _ = 0, rounds do
  for _, n in ipairs(sizes) do measure_machine(n) end
  for _, case in ipairs(cases) do
    for _ = 1, case.repeats do
      case.best = math.min(case.best, seconds(case.run, table.unpack(case.inputs)))
    end
  end
  for _, p in ipairs(pairs_of) do
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

for _, n in ipairs(sizes) do
  print(("machine, as long as %d^3: %d threads, float32 %.0f GFLOP/s, bfloat16 %.0f"):format(n, ml.threads(),
    machine[n].float32 * 1e-9, machine[n].bfloat16 * 1e-9))
end
for _, case in ipairs(cases) do
  local rate = case.operations / case.best
  local share = rate / machine[case.size][case.dtype]
  verdict(share >= case.bound, "%s: %.0f GFLOP/s, %.2f of the machine (at least %.2f)", case.name, rate * 1e-9, share,
    case.bound)
end
for _, p in ipairs(pairs_of) do
  local ratio = p.best_forward / p.best_back
  verdict(ratio >= TRANSPOSED_BOUND, "%s, 512 rows of 2048 x 2048: forward %.0f, transposed %.0f GFLOP/s, ratio %.2f",
    p.name, p.operations / p.best_forward * 1e-9, p.operations / p.best_back * 1e-9, ratio)
end
os.exit(failed == 0, true)
