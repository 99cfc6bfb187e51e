---Random numbers from counters: the same key gives the same numbers on every device. Each function takes `{key = k}`;
---calls without a key draw from a sequence that `seed` begins anew.
---
---A key is two uint32 words. Numbers are Philox 4x32-10 of key, stream and position; see random_bits. Of a draw in
---float64 each number has 53 random bits, and all that follows is computed in float64; of other dtypes it has 24, is
---computed in float32 and rounded to float16 or bfloat16 once.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local trace = require "moonlet.trace"
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
function M.seed(seed)
  if core.recording() then util.raise("usage", "seed: a plan is recorded, which would set it once and not again") end
  state = {seed = util.integer("seed", seed), count = 0}
end

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
  if check_key(key).size == 3 then key = ml.random_bits(key, {2}) end -- which names a stream: two words of it
  local bits = ml.random_bits(ml.concat {key, stream}, {n, 2})
  local out = {}
  for i = 1, n do out[i] = bits[i]:copy() end
  if not core.recording() then ml.eval(table.unpack(out)) end
  return out
end

-- The key before the next draw of the sequence, which then goes on behind n draws: those of a compiled function, on
-- the device that they are made on.
function trace.advance(n, device)
  local w, count = words(state.seed), state.count
  state.count = count + n
  return ml.tensor({w[1], w[2], count & 0xffffffff}, {dtype = "uint32", device = device})
end

-- The key of the next draw, also while a plan is recorded: of what is drawn once, and a constant of the plan.
function trace.key_now()
  state.count = state.count + 1
  local w = words(state.seed)
  return ml.tensor({w[1], w[2], state.count & 0xffffffff}, {dtype = "uint32"})
end

local function next_key(opts)
  if opts and opts.key then return check_key(opts.key) end
  return core.recording() and trace.next_key() or trace.key_now()
end

-- A shape that somebody gave, and how many numbers it has.
local function checked(shape)
  shape = util.shape("shape", shape)
  local size = 1
  for _, count in ipairs(shape) do size = size * count end
  return shape, size
end

-- Twice as much as a shape has, drawn by `draw` and parted: the first half, and the second. Not on an axis more, of
-- which there may be none.
local function halves(shape, draw)
  local own, size = checked(shape)
  local both = draw {2, size}
  return both[1]:reshape(own), both[2]:reshape(own)
end

-- [0, 1) with 24 bits, float32
local function unit(shape, opts)
  return ml.right_shift(ml.random_bits(next_key(opts), util.shape("shape", shape)), 8):astype "float32" * 2.0 ^ -24
end

-- n words for each number of a shape, uint32 tensors of that shape. Those of one number stand side by side, so that it
-- does not depend on how many are drawn at once.
local function words_for(shape, opts, n)
  local own, size = checked(shape)
  local bits, out = ml.random_bits(next_key(opts), {size, n}), {}
  for i = 1, n do out[i] = bits:slice {{}, {i, i}}:reshape(own) end
  return out
end

-- [0, 1) with 53 bits, float64, of two words; `inside` gives the middles of 2^52 steps: never 0.
local function fraction(high, low, inside)
  low = ml.right_shift(low, 11)
  if inside then low = ml.bitwise_or(low, 1) end
  return high:astype "float64" * 2.0 ^ -32 + low:astype "float64" * 2.0 ^ -53
end

local function unit64(shape, opts, inside)
  local w = words_for(shape, opts, 2)
  return fraction(w[1], w[2], inside)
end

-- The middles of the steps of [0, 1), float64 or float32: neither 0 nor 1.
local function unit_inside(shape, opts)
  if opts.dtype == "float64" then return unit64(shape, opts, true) end
  return ml.minimum(unit(shape, opts) + 2.0 ^ -25, 1 - 2.0 ^ -24) -- the last would be rounded to 1
end

-- [0, 1) with 53 bits, of which the first 24 are those of `unit`: to be compared with a probability.
local function chance(shape, opts)
  return fraction(halves(shape, function(wide) return ml.random_bits(next_key(opts), wide) end))
end

local function read(opts, known, what)
  known.key = false
  return util.options(opts, known, what)
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

---Uniform in [low, high): high never occurs, whatever the dtype rounds to. With low = high that one number. Of float64
---numbers in [0, 1) all multiples of 2^-53 occur, of others those of 2^-24.
---@param shape integer[]|integer
---@param opts table|nil  {low = 0, high = 1, dtype = "float32", key}
---@return moonlet.Tensor
function M.uniform(shape, opts)
  opts = read(opts, {low = 0.0, high = 1.0, dtype = "float32"}, "uniform")
  local dtype = float_dtype("uniform", opts.dtype)
  local low, high = finite("uniform: low", opts.low), finite("uniform: high", opts.high)
  if low > high then util.raise("usage", "uniform: expected low <= high, found %s and %s", low, high) end
  local u = dtype == "float64" and unit64(shape, opts) or unit(shape, opts)
  if low == high then return ml.full(u.shape, low, {dtype = dtype}) end
  local least, most = bounds("uniform", low, high, dtype)
  if math.max(-low, high, high - low) > 3e38 then u = u:astype "float64" end
  local x = high - low < math.huge and u * (high - low) + low or u * high + (1 - u) * low
  return ml.clip(x:astype(dtype), least, most)
end

-- Two numbers in [0, 1) for each of a shape.
local function two_units(shape, opts)
  if opts.dtype ~= "float64" then
    return halves(shape, function(wide) return unit(wide, opts) end)
  end
  local w = words_for(shape, opts, 4)
  return fraction(w[1], w[2]), fraction(w[3], w[4])
end

---Normally distributed. A negative `std` is an error.
---@param shape integer[]|integer
---@param opts table|nil  {mean = 0, std = 1, dtype = "float32", key}
---@return moonlet.Tensor
function M.normal(shape, opts)
  opts = read(opts, {mean = 0.0, std = 1.0, dtype = "float32"}, "normal")
  float_dtype("normal", opts.dtype)
  if not ml.is_tensor(opts.mean) then util.number("normal: mean", opts.mean) end
  if not ml.is_tensor(opts.std) then util.number("normal: std", opts.std, 0) end
  local a, b = two_units(shape, opts) -- Box and Muller 1958
  local radius = ((1 - a):log() * -2):sqrt()
  return (radius * (b * (2 * math.pi)):cos() * opts.std + opts.mean):astype(opts.dtype)
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
  local u = unit_inside(shape, opts):astype "float64" -- so that no infinite bound is met
  return ml.clip(ml.normal_quantile(u, low, high):astype(dtype), least, most)
end

-- Integers of an integer dtype, and floats up to which every integer is one.
local whole_floats = {float16 = 11, bfloat16 = 8, float32 = 24, float64 = 53}
local function check_holds(what, dtype, number)
  local bits = whole_floats[dtype]
  if dtype == "bool" and number ~= 0 and number ~= 1 then
    util.raise("usage", "%s: %d does not fit dtype bool", what, number)
  elseif not bits then ml.tensor(number, {dtype = dtype}):close() -- raises
  elseif math.abs(number) > 1 << bits then
    util.raise("usage", "%s: %d does not fit dtype %s, whose integers end at 2^%d", what, number, dtype, bits)
  end
end

-- floor(w n / 2^128) of 128 random bits w, uint64: each of 0 .. n-1 with probability 1/n to within 2^-128. From the
-- lowest word of w upwards, so that what is carried stays below n.
local function scaled(bits, n)
  local low, high = n & 0xffffffff, n >> 32
  local carried
  for i, word in ipairs(bits) do
    word = word:astype "uint64"
    local product = word * low
    local up = ml.right_shift(product, 32)
    if i > 1 then
      local rest = ml.bitwise_and(carried, 0xffffffff) + ml.bitwise_and(product, 0xffffffff)
      up = up + ml.right_shift(carried, 32) + ml.right_shift(rest, 32)
    end
    carried = word * high + up
  end
  return carried
end

---Integers from low up to, not including, high; a dtype that does not hold them all is an error, and so are 2^63 of
---them or more. Of n < 2^32 integers any set has its share of the probability to within 2^-33, of more to within
---2^-67.
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
  if high - low >= 1 << 32 then
    return (scaled(words_for(shape, opts, 4), high - low):astype "int64" + low):astype(opts.dtype)
  end
  local high_word, low_word = halves(shape, function(both) return ml.random_bits(next_key(opts), both) end)
  local wide = ml.left_shift(high_word:astype "int64", 31) + ml.right_shift(low_word:astype "int64", 1) -- 63 bits
  return (wide % (high - low) + low):astype(opts.dtype)
end

---True with probability p, which is compared with 53 random bits. A number that is no probability is an error; of a
---tensor, entries above 1 count as 1, and those below 0 and NaN as 0.
---@param p number|moonlet.Tensor
---@param shape integer[]|integer|nil  p's unless given
---@param opts table|nil  {key}
---@return moonlet.Tensor
function M.bernoulli(p, shape, opts)
  opts = read(opts, {}, "bernoulli")
  if not ml.is_tensor(p) then util.number("bernoulli: p", p, 0, 1) end
  return chance(shape or (ml.is_tensor(p) and p.shape or {}), opts):lt(p)
end

---Of the Gumbel distribution: -log(-log(u)).
---@param shape integer[]|integer
---@param opts table|nil  {dtype = "float32", key}
---@return moonlet.Tensor
function M.gumbel(shape, opts)
  opts = read(opts, {dtype = "float32"}, "gumbel")
  float_dtype("gumbel", opts.dtype)
  return (-((-(unit_inside(shape, opts):log())):log())):astype(opts.dtype)
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
  if not vocab or vocab == 0 then
    util.raise("mismatch", "categorical: logits: expected a last axis with entries, found shape (%s)",
      table.concat(logits.shape, ", "))
  end
  local rows = logits.size // vocab
  return ml.categorical(logits:reshape {rows, vocab}, unit({rows}, opts)):reshape(shape)
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

return util.guard(M, "random.", false, true)
