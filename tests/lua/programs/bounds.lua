-- bounds.lua: how far an operation's result on one instruction set may be from another's, given the same inputs.
--
-- A difference is within bounds where it is some ulps of the result's dtype, or no larger than a slack that follows
-- from the inputs (of sums, whose terms may cancel). Functions that NumPy has are within the ulps of a wider
-- computation that tests/tools/number_oracle.py states (its ULPS are read here): two kernels may be twice that apart.
-- What NumPy lacks is stated below. All else must be equal, NaN for NaN.
local ml = require "moonlet"

local M = {}

-- ---- what is stated ----

local function numpy_ulps()
  local file <close> = assert(io.open "tests/tools/number_oracle.py")
  local list = {}
  for name, float, double in file:read "a":match "\nULPS = (%b{})":gmatch '"([%w_]+)": %((%d+), (%d+)%)' do
    list[name] = {float32 = 2 * tonumber(float), float64 = 2 * tonumber(double), float16 = 2, bfloat16 = 2}
  end
  return list
end

local function wide(x) return x:astype "float64" end

-- The largest finite magnitude.
local function largest(x)
  local y = wide(x):abs()
  return x.size == 0 and 0.0 or ml.where(y:isfinite(), y, 0):max():item()
end

local function eps_of(x) return x.dtype == "float64" and 0x1p-52 or 0x1p-23 end

-- A sum of n products rounded after each, in any order, is within n/2 eps of the sum of magnitudes.
local function of_products(magnitudes, n, result) return magnitudes * (n * eps_of(result)) + 0x1p-120 end

local function dense(w) return w.layout == "strided" and w or w:dequantize() end

local slack = {}

function slack.matmul(result, a, b)
  return of_products(ml.matmul(wide(a):abs(), wide(b):abs()), a.shape[a.ndim], result)
end

-- Against quantised weights x may be rounded, to steps of its largest in a block over 127: the same ones everywhere.
function slack.linear(result, x, w)
  local m, size = wide(dense(w)):abs(), wide(x):abs()
  if w.dtype:find "^q%d" then size = size + size:max {axis = -1, keepdims = true} / 127 end
  return of_products(ml.matmul(size, m:transpose()), m.shape[2], result)
end

function slack.gather_linear(result, x, w, ids)
  local own = x.ndim > ids.ndim
  local m, size = dense(w), wide(x):abs()
  if w.dtype:find "^q%d" then size = size + size:max {axis = -1, keepdims = true} / 127 end
  local row = own and size:expand_dims(-1) or size:expand_dims(-2):expand_dims(-1)
  local sums = ml.matmul(wide(m):abs():take(ids, 1), row)
  return of_products(sums:squeeze(-1), w.shape[3], result)
end

function slack.linear_transposed(result, y, w)
  local m = wide(dense(w)):abs()
  return of_products(ml.matmul(wide(y):abs(), m), m.shape[1], result)
end

-- Where x is all but constant along the axis, rounding its mean is what the result shows.
function slack.layer_norm(result, x, opts)
  local y, eps = wide(x), 8 * eps_of(result)
  local size = y:abs():max {axis = -1, keepdims = true} *
    (y:var {axis = -1, keepdims = true} + opts.eps):rsqrt() * (opts.weight and wide(opts.weight):abs() or 1)
  return ((opts.bias and size + wide(opts.bias):abs() or size) * eps):broadcast_to(x.shape)
end

-- log of a sum near 1 loses what its terms' size says.
function slack.log_softmax(result) return 8 * eps_of(result) end
-- So does the logarithm that the largest value is added to; the terms of what is narrower than float64 are float32, as
-- their sum is in part.
function slack.logsumexp(_, x) return (x.dtype == "float64" and 0 or 0x1.8p-21) + (1 + largest(x)) * 0x1p-50 end
-- x times what is all but 0 loses what its terms' size says: tests/ops/elementwise.h.
function slack.gelu(result) return 12 * eps_of(result) end
slack.gelu_tanh = slack.gelu

-- Results lie among the values, in proportions whose exponents are off by what scores are.
function slack.attention(_, q, k, v, opts)
  local sums = q.size > 0 and largest(wide(q):abs():sum {axis = -1}) or 0
  local score = (q.shape[4] + 4) * sums * largest(k) * opts.scale + (opts.mask and largest(opts.mask) or 0)
  return (2 * score + 16) * 0x1p-23 * largest(v)
end

-- Of the four float dtypes; those rounded from float32 may be on two sides of a tie.
local function ulps(float32, float64)
  return {float32 = float32, float64 = float64 or float32, float16 = 2, bfloat16 = 2}
end

local stated = numpy_ulps()
for name, u in pairs {
  silu = ulps(10, 6), gelu = ulps(12), gelu_tanh = ulps(12), softmax = ulps(8), log_softmax = ulps(8),
  rms_norm = ulps(8), layer_norm = ulps(8), attention = ulps(8),
  linear = ulps(2), gather_linear = ulps(2), linear_transposed = ulps(2),
} do
  stated[name] = u
end
stated.arange = nil -- exact where programs call it

-- ---- comparing ----

-- Of a float dtype: how its bits are read as an integer and as a number, all bits but the sign, those of infinity.
local formats = {
  float16 = {"<i2", 2, 0x7fff, 0x7c00}, bfloat16 = {"<i2", 2, 0x7fff, 0x7f80},
  float32 = {"<i4", 4, 0x7fffffff, 0x7f800000}, float64 = {"<i8", 8, math.maxinteger, 0x7ff0000000000000},
}

local function values(bytes, dtype)
  local n = #bytes // formats[dtype][2]
  local x <close> = ml.from_bytes(bytes, {n}, dtype)
  local y <close> = x:astype "float64"
  return y:tolist()
end

local function resolve(x, registers)
  if type(x) ~= "table" then return x end
  if x.ref then return registers[x.ref] end
  local out = {}
  for k, v in pairs(x) do out[k] = resolve(v, registers) end
  return out
end

-- The slack of each element, or of all: a list, or a number.
local function slack_of(instr, x, registers)
  local fn = slack[instr.name]
  if not fn then return 0 end
  return ml.scope(function()
    local args = {}
    for i, a in ipairs(instr.args) do args[i] = resolve(a, registers) end
    local s = fn(x, table.unpack(args))
    if type(s) == "number" then return s end
    return s:broadcast_to(x.shape):reshape({x.size}):tolist()
  end)
end

-- Indices of elements that are further apart than `limit` ulps, and the largest distance of those that are not.
local function far_ones(got, want, format, limit)
  local list, far = {}, 0
  local code, size, all, infinity = table.unpack(format)
  for i = 1, #got, size do
    local a, b = string.unpack(code, got, i), string.unpack(code, want, i)
    local size_a, size_b = a & all, b & all
    if size_a <= infinity or size_b <= infinity then
      local distance = math.huge
      if size_a <= infinity and size_b <= infinity then
        distance = math.abs((a < 0 and -size_a or size_a) - (b < 0 and -size_b or size_b))
      end
      if distance > limit then list[#list + 1] = i // size + 1
      elseif distance > far then far = distance end
    end
  end
  return list, far
end

---What is wrong with the bytes of an instruction's result x beside those of the reference; nil where they are within
---bounds. `seen` gets, by row and dtype, {n = results that differ, far = ulps, slack = results that needed slack}.
function M.check(instr, x, got, want, registers, seen)
  local dtype, format, name = x.dtype, formats[x.dtype], instr.name:gsub("_$", "")
  if #got ~= #want then return ("%d bytes and not %d"):format(#got, #want) end
  if not format then return "integers differ" end
  local limit = stated[name] and stated[name][dtype] or 0
  local list, far = far_ones(got, want, format, limit)
  local key = name .. " " .. dtype
  local s = seen[key] or {n = 0, far = 0, slack = 0}
  seen[key] = s
  s.n, s.far = s.n + 1, math.max(s.far, far)
  if #list == 0 then return nil end
  s.slack = s.slack + 1
  local a, b, room = values(got, dtype), values(want, dtype), slack_of(instr, x, registers)
  for _, i in ipairs(list) do
    local most = type(room) == "table" and room[i] or room
    local apart = math.abs(a[i] - b[i])
    if apart ~= apart or apart == math.huge or apart > most then
      return ("element %d of %s (%s): %.9g, and %.9g on the reference kernels; %d ulps or %.3g allowed"):format(i,
        dtype, table.concat(x.shape, ","), a[i], b[i], limit, most)
    end
  end
end

return M
