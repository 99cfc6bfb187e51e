---Random numbers from counters: the same key gives the same numbers on every device. Each function takes `{key = k}`;
---calls without a key draw from a sequence that `seed` begins anew.
---
---A key is two uint32 words. Numbers are Philox 4x32-10 of key, stream and position; see random_bits.
local ml = require "moonlet.init"
local util = require "moonlet.util"

local M = {}

local state = {seed = 0, count = 0} -- of calls that name no key
local SPLIT_STREAM = 0xffffffff     -- keys of a key come from another stream than its numbers

local function words(n) return {n & 0xffffffff, n >> 32 & 0xffffffff} end

---A key: two uint32 words.
---@param seed integer
---@return moonlet.Tensor
function M.key(seed) return ml.tensor(words(util.integer("key: seed", seed)), {dtype = "uint32"}) end

---Begins the sequence of calls that name no key anew.
---@param seed integer
function M.seed(seed) state = {seed = util.integer("seed", seed), count = 0} end

local function check_key(key)
  if not ml.is_tensor(key) or key.dtype ~= "uint32" or key.ndim ~= 1 or key.size < 2 or key.size > 3 then
    util.unexpected("key", "what random.key or random.split gives", key)
  end
  return key
end

---n keys that are independent of each other and of the numbers of the one given. A list.
---@param key moonlet.Tensor
---@param n integer|nil  2 unless given
---@return moonlet.Tensor[]
function M.split(key, n)
  n = util.integer("split: n", n or 2, 1, 65536)
  local stream = ml.tensor({SPLIT_STREAM}, {dtype = "uint32"})
  local bits = ml.random_bits(ml.concat({check_key(key):slice {{1, 2}}, stream}), {n, 2})
  local out = {}
  for i = 1, n do out[i] = bits[i]:copy() end
  ml.eval(table.unpack(out))
  return out
end

local function next_key(opts)
  if opts and opts.key then return check_key(opts.key) end
  state.count = state.count + 1
  local w = words(state.seed)
  return ml.tensor({w[1], w[2], state.count & 0xffffffff}, {dtype = "uint32"})
end

-- [0, 1) with 24 bits
local function unit(shape, opts)
  return ml.right_shift(ml.random_bits(next_key(opts), util.shape("shape", shape)), 8):astype "float32" * 2.0 ^ -24
end

local function read(opts, known, what)
  known.key = false
  return util.options(opts, known, what)
end

local function with_front(n, shape)
  shape = util.shape("shape", shape)
  return table.move(shape, 1, #shape, 2, {n})
end

local patterns = {float16 = "<I2", bfloat16 = "<I2", float32 = "<I4", float64 = "<I8"} -- of a float's bits

local function float_dtype(what, dtype)
  if not patterns[dtype] then util.unexpected(what .. ": dtype", "a float dtype", dtype) end
  return dtype
end

-- The float of a dtype that comes next to x: below it where `down`, else above.
local function neighbour(x, dtype, down)
  local bits = string.unpack(patterns[dtype], x:tobytes())
  local away = (x:item() > 0) ~= down -- from zero: the next larger pattern
  if x:item() == 0 then bits = 1 | (down and 1 << 8 * x.nbytes - 1 or 0)
  else bits = bits + (away and 1 or -1) end
  return ml.from_bytes(string.pack(patterns[dtype], bits), {}, dtype)
end

-- The least and the largest float of a dtype in [low, high), or in [low, high] where `closed`: what a draw is confined
-- to after it was rounded.
local function bounds(what, low, high, dtype, closed)
  local least, most = ml.tensor(low, {dtype = dtype}), ml.tensor(high, {dtype = dtype})
  if least:item() < low then least = neighbour(least, dtype, false) end
  if most:item() > high or not closed and most:item() == high then most = neighbour(most, dtype, true) end
  if least:item() > most:item() then
    util.raise("usage", "%s: dtype %s has no number between %s and %s", what, dtype, low, high)
  end
  return least, most
end

local function finite(what, x)
  util.number(what, x)
  if math.abs(x) == math.huge then util.unexpected(what, "a finite number", x) end
  return x + 0.0
end

---Uniform in [low, high): high never occurs, whatever the dtype rounds to. With low = high that one number.
---@param shape integer[]|integer
---@param opts table|nil  {low = 0, high = 1, dtype = "float32", key}
---@return moonlet.Tensor
function M.uniform(shape, opts)
  opts = read(opts, {low = 0.0, high = 1.0, dtype = "float32"}, "uniform")
  local dtype = float_dtype("uniform", opts.dtype)
  local low, high = finite("uniform: low", opts.low), finite("uniform: high", opts.high)
  if low > high then util.raise("usage", "uniform: expected low <= high, found %s and %s", low, high) end
  local u = unit(shape, opts)
  if low == high then return ml.full(u.shape, low, {dtype = dtype}) end
  local least, most = bounds("uniform", low, high, dtype)
  if dtype == "float64" or math.max(-low, high, high - low) > 3e38 then u = u:astype "float64" end
  return ml.clip((u * (high - low) + low):astype(dtype), least, most)
end

---Normally distributed.
---@param shape integer[]|integer
---@param opts table|nil  {mean = 0, std = 1, dtype = "float32", key}
---@return moonlet.Tensor
function M.normal(shape, opts)
  opts = read(opts, {mean = 0.0, std = 1.0, dtype = "float32"}, "normal")
  float_dtype("normal", opts.dtype)
  local u = unit(with_front(2, shape), opts) -- Box and Muller 1958
  local radius = ((1 - u[1]):log() * -2):sqrt()
  return (radius * (u[2] * (2 * math.pi)):cos() * opts.std + opts.mean):astype(opts.dtype)
end

---Of the standard normal distribution between low and high, both included; exact in the tails too.
---@param low number
---@param high number
---@param shape integer[]|integer
---@param opts table|nil  {dtype = "float32", key}
---@return moonlet.Tensor
function M.truncated_normal(low, high, shape, opts)
  opts = read(opts, {dtype = "float32"}, "truncated_normal")
  local dtype = float_dtype("truncated_normal", opts.dtype)
  util.number("truncated_normal: low", low)
  util.number("truncated_normal: high", high)
  if low >= high then util.raise("usage", "truncated_normal: expected low < high, found %s and %s", low, high) end
  local least, most = bounds("truncated_normal", low, high, dtype, true)
  local u = unit(shape, opts) + 2.0 ^ -25 -- the middle of each step, so that no infinite bound is met
  return ml.clip(ml.normal_quantile(u:astype "float64", low, high):astype(dtype), least, most)
end

-- Integers of an integer dtype, and floats up to which every integer is one.
local whole_floats = {float16 = 11, bfloat16 = 8, float32 = 24, float64 = 53}
local function check_holds(what, dtype, number)
  local bits = whole_floats[dtype]
  if not bits then ml.tensor(number, {dtype = dtype}):close() -- raises
  elseif math.abs(number) > 1 << bits then
    util.raise("usage", "%s: %d does not fit dtype %s, whose integers end at 2^%d", what, number, dtype, bits)
  end
end

---Integers from low up to, not including, high; a dtype that does not hold them all is an error.
---@param low integer
---@param high integer
---@param shape integer[]|integer
---@param opts table|nil  {dtype = "int32", key}
---@return moonlet.Tensor
function M.randint(low, high, shape, opts)
  opts = read(opts, {dtype = "int32"}, "randint")
  low, high = util.integer("randint: low", low), util.integer("randint: high", high)
  if high <= low then util.raise("usage", "randint: expected low < high, found %d and %d", low, high) end
  if high - low <= 0 then util.raise("usage", "randint: from %d to %d there are too many integers", low, high) end
  check_holds("randint", opts.dtype, low)
  check_holds("randint", opts.dtype, high - 1)
  local bits = ml.random_bits(next_key(opts), with_front(2, shape)):astype "int64"
  local wide = ml.left_shift(bits[1], 31) + ml.right_shift(bits[2], 1) -- 63 bits: no value is visibly likelier
  return (wide % (high - low) + low):astype(opts.dtype)
end

---True with probability p.
---@param p number|moonlet.Tensor
---@param shape integer[]|integer|nil  p's unless given
---@param opts table|nil  {key}
---@return moonlet.Tensor
function M.bernoulli(p, shape, opts)
  opts = read(opts, {}, "bernoulli")
  if not ml.is_tensor(p) then util.number("bernoulli: p", p, 0, 1) end
  return unit(shape or (ml.is_tensor(p) and p.shape or {}), opts):lt(p)
end

---Of the Gumbel distribution: -log(-log(u)).
---@param shape integer[]|integer
---@param opts table|nil  {key}
---@return moonlet.Tensor
function M.gumbel(shape, opts)
  opts = read(opts, {}, "gumbel")
  local u = ml.minimum(unit(shape, opts) + 2.0 ^ -25, 1 - 2.0 ^ -24) -- never 0, and never rounded to 1
  return -((-(u:log())):log())
end

---Per row of logits (..., V) one 0-based id, with the probabilities of softmax; entries of +inf share all of the
---probability. -1 where there is nothing to draw: NaN among the logits, or all of them -inf.
---@param logits moonlet.Tensor
---@param opts table|nil  {key}
---@return moonlet.Tensor  (...) int32
function M.categorical(logits, opts)
  opts = read(opts, {}, "categorical")
  if not ml.is_tensor(logits) then util.unexpected("categorical: logits", "a tensor", logits) end
  local shape = logits.shape
  local vocab = table.remove(shape)
  local rows = logits:reshape {-1, vocab}
  return ml.categorical(rows, unit({rows.shape[1]}, opts)):reshape(shape)
end

---0 .. n-1 in random order (int32), or the entries of a tensor along its first axis.
---@param n integer|moonlet.Tensor
---@param opts table|nil  {key}
---@return moonlet.Tensor
function M.permutation(n, opts)
  opts = read(opts, {}, "permutation")
  local x = ml.is_tensor(n) and n
  local size = x and #x or util.integer("permutation: n", n, 0)
  local order = ml.random_bits(next_key(opts), {size}):argsort(1)
  return x and x:take(order, 1) or order
end

return util.guard(M, "random.")
