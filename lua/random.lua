---Random numbers from counters: the same key gives the same numbers on every device.
local ml = require "moonlet.init"
local util = require "moonlet.util"

local M = {}

local state = {seed = 0, count = 0} -- of calls that name no key

local function words(n)
  return {n & 0xffffffff, n >> 32 & 0xffffffff}
end

---A key: two uint32 words.
function M.key(seed)
  return ml.tensor(words(math.tointeger(seed) or util.raise("usage", "key: expected an integer")), {dtype = "uint32"})
end

---Begins the sequence of calls that name no key anew.
function M.seed(seed) state = {seed = math.tointeger(seed), count = 0} end

---n keys that are independent of each other and of the one given. A list.
function M.split(key, n)
  n = n or 2
  if math.tointeger(n) == nil or n < 1 or n > 65536 then util.raise("usage", "split: expected 1 to 65536 keys, found %s", tostring(n)) end
  local bits = ml.random_bits(key, {n, 2})
  local out = {}
  for i = 1, n do out[i] = bits[i]:copy() end
  return out
end

local function next_key(opts)
  if opts and opts.key then return opts.key end
  state.count = state.count + 1
  local w = words(state.seed)
  return ml.tensor({w[1], w[2], state.count & 0xffffffff}, {dtype = "uint32"})
end

-- [0, 1) with 24 bits
local function unit(shape, opts)
  return ml.right_shift(ml.random_bits(next_key(opts), shape), 8):astype "float32" * 2.0 ^ -24
end

local function read(opts, known, what)
  known.key = false
  return util.options(opts, known, what)
end

---Uniform in [low, high).
function M.uniform(shape, opts)
  opts = read(opts, {low = 0.0, high = 1.0, dtype = "float32"}, "uniform")
  return (unit(shape, opts) * (opts.high - opts.low) + opts.low):astype(opts.dtype)
end

-- Box and Muller's transform of two uniform numbers.
function M.normal(shape, opts)
  opts = read(opts, {mean = 0.0, std = 1.0, dtype = "float32"}, "normal")
  local both = {2}
  table.move(shape, 1, #shape, 2, both)
  local u = unit(both, opts)
  local radius = ((1 - u[1]):log() * -2):sqrt()
  return (radius * (u[2] * (2 * math.pi)):cos() * opts.std + opts.mean):astype(opts.dtype)
end

function M.randint(low, high, shape, opts)
  opts = read(opts, {dtype = "int32"}, "randint")
  if high <= low then util.raise("usage", "randint: expected low < high") end
  local bits = ml.right_shift(ml.random_bits(next_key(opts), shape), 1):astype "int64"
  return (bits % (high - low) + low):astype(opts.dtype)
end

function M.bernoulli(p, shape, opts)
  opts = read(opts, {}, "bernoulli")
  return unit(shape, opts):lt(p)
end

function M.gumbel(shape, opts)
  opts = read(opts, {}, "gumbel")
  return -((-(unit(shape, opts) + 2.0 ^ -25):log()):log())
end

---Per row of logits (B, V) one 0-based id (B).
function M.categorical(logits, opts)
  opts = read(opts, {}, "categorical")
  return ml.categorical(logits, unit({logits.shape[1]}, opts))
end

---0 .. n-1 in random order.
function M.permutation(n, opts)
  opts = read(opts, {}, "permutation")
  return unit({n}, opts):argsort(1)
end

return util.guard(M, "random.")
