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

---Uniform in [low, high).
---@param shape integer[]|integer
---@param opts table|nil  {low = 0, high = 1, dtype = "float32", key}
---@return moonlet.Tensor
function M.uniform(shape, opts)
  opts = read(opts, {low = 0.0, high = 1.0, dtype = "float32"}, "uniform")
  return (unit(shape, opts) * (opts.high - opts.low) + opts.low):astype(opts.dtype)
end

---Normally distributed.
---@param shape integer[]|integer
---@param opts table|nil  {mean = 0, std = 1, dtype = "float32", key}
---@return moonlet.Tensor
function M.normal(shape, opts)
  opts = read(opts, {mean = 0.0, std = 1.0, dtype = "float32"}, "normal")
  local u = unit(with_front(2, shape), opts) -- Box and Muller 1958
  local radius = ((1 - u[1]):log() * -2):sqrt()
  return (radius * (u[2] * (2 * math.pi)):cos() * opts.std + opts.mean):astype(opts.dtype)
end

---Of the standard normal distribution between low and high.
---@param low number
---@param high number
---@param shape integer[]|integer
---@param opts table|nil  {dtype = "float32", key}
---@return moonlet.Tensor
function M.truncated_normal(low, high, shape, opts)
  opts = read(opts, {dtype = "float32"}, "truncated_normal")
  util.number("truncated_normal: low", low)
  util.number("truncated_normal: high", high)
  if low >= high then util.raise("usage", "truncated_normal: expected low < high, found %s and %s", low, high) end
  local ends = (ml.tensor {low + 0.0, high + 0.0} * 0.5 ^ 0.5):erf()
  local u = unit(shape, opts) * (ends[2] - ends[1]) + ends[1] -- of erf, which the inverse takes back
  return (ml.clip(u:erfinv() * 2 ^ 0.5, low, high)):astype(opts.dtype)
end

---Integers from low up to, not including, high.
---@param low integer
---@param high integer
---@param shape integer[]|integer
---@param opts table|nil  {dtype = "int32", key}
---@return moonlet.Tensor
function M.randint(low, high, shape, opts)
  opts = read(opts, {dtype = "int32"}, "randint")
  low, high = util.integer("randint: low", low), util.integer("randint: high", high)
  if high <= low then util.raise("usage", "randint: expected low < high, found %d and %d", low, high) end
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
  local u = (unit(shape, opts) + 2.0 ^ -25):minimum(1 - 2.0 ^ -24) -- never 0, and rounded never 1
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
