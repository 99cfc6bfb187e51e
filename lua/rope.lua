---Rotary frequencies under the scalings that configurations name.
---Sources: Su et al. 2021 (RoPE); Llama 3.1's published scaling rule; Peng et al. 2023 (YaRN) for the names.
local util = require "moonlet.util"

local M = {}

-- What the configuration calls a scaling table: "rope_scaling" unless it said otherwise.
local names = setmetatable({}, {__mode = "k"})

---Says what the configuration calls a scaling table, for messages.
---@return table scaling
function M.name(scaling, name)
  names[scaling] = name
  return scaling
end

local function key_of(s, key) return (names[s] or "rope_scaling") .. "." .. key end

local scalings = {}

function scalings.default(f) return f, 1.0 end

function scalings.linear(f, s)
  for i = 1, #f do f[i] = f[i] / s.factor end
  return f, 1.0
end

-- Wavelengths beyond the original context are stretched by `factor`, short ones kept, those between blended.
function scalings.llama3(f, s)
  local low, high = s.low_freq_factor, s.high_freq_factor
  local context = s.original_max_position_embeddings
  if high <= low then
    util.raise("corrupt", "%s: expected more than %s, found %s", key_of(s, "high_freq_factor"), low, high)
  end
  for i = 1, #f do
    local wavelength = 2 * math.pi / f[i]
    if wavelength > context / low then f[i] = f[i] / s.factor
    elseif wavelength >= context / high then
      local smooth = (context / wavelength - low) / (high - low)
      f[i] = (1 - smooth) * f[i] / s.factor + smooth * f[i]
    end
  end
  return f, 1.0
end

-- A divisor for each frequency, as GGUF files of scaled models carry them.
function scalings.factors(f, s)
  if #s.factors ~= #f then
    util.raise("mismatch", "%s: expected %d numbers, found %d", key_of(s, "factors"), #f, #s.factors)
  end
  for i = 1, #f do
    local by = s.factors[i]
    if not (by > 0 and by < math.huge) then
      util.unexpected(key_of(s, "factors"), "positive numbers", by, "corrupt")
    end
    f[i] = f[i] / by
  end
  return f, 1.0
end

local needs = {
  default = {}, linear = {"factor"}, factors = {},
  llama3 = {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}

-- These stand beside the rule's own numbers: the base is read by whoever asks for frequencies.
local beside = {rope_type = true, type = true, rope_theta = true, factors = true}

local function kind_of(s) return s.rope_type or s.type or "default" end

---Whether a scaling's rule asks how long the texts were that the model was trained on first.
function M.needs_context(s)
  return util.contains(needs[kind_of(s)] or {}, "original_max_position_embeddings")
end

---Whether a key of a scaling table is read, or says nothing new.
function M.reads(s, key)
  if beside[key] or (key == "partial_rotary_factor" and s[key] == 1) then return true end
  local kind = kind_of(s)
  if kind == "default" or kind == "linear" then -- numbers of other rules are left over in many files
    for _, name in ipairs(needs.llama3) do
      if name == key then return true end
    end
  end
  for _, name in ipairs(needs[kind] or {}) do
    if name == key then return true end
  end
  return false
end

local function check_numbers(s, kind)
  for _, name in ipairs(needs[kind]) do
    local v = s[name]
    if type(v) ~= "number" or not (v > 0 and v < 1e30) then
      util.raise("corrupt", "%s: expected a positive number, found %s", key_of(s, name), util.text(v))
    end
  end
end

-- Every key of a table that was written in Lua means something; of one that a configuration holds, the configuration
-- tells what nobody reads.
local function check_keys(s, kind, theta)
  if names[s] then return end
  for _, key in ipairs(util.sorted_keys(s)) do
    local known = key == "rope_type" or key == "type" or key == kind or util.contains(needs[kind], key)
      or key == "rope_theta" and s[key] == theta
    if not known then util.raise("usage", "rope_scaling: the rule \"%s\" reads no %s", kind, util.show(key)) end
  end
end

---The list of n/2 frequencies (radians a position) of heads of `size` elements, and the factor on cosines and sines.
---@param opts table  {theta, scaling = {rope_type, ...}, partial}
function M.frequencies(size, opts)
  if type(opts.theta) ~= "number" or not (opts.theta > 0 and opts.theta < 1e30) then
    util.unexpected("rope_theta", "a positive number", opts.theta, "corrupt")
  end
  local n = math.tointeger(size * (opts.partial or 1) // 2)
  if not n or n < 1 or (opts.partial or 1) == 1 and size % 2 ~= 0 then
    util.unexpected("head_dim", "an even number for rotary positions", size, "corrupt")
  end
  local f = {}
  for i = 0, n - 1 do f[i + 1] = opts.theta ^ -(2 * i / (2 * n)) end
  local s = opts.scaling or {}
  if type(s) ~= "table" then util.unexpected("rope_scaling", "a table", s, "corrupt") end
  local kind = kind_of(s)
  local rule = scalings[kind]
  if not rule then
    local key = key_of(s, s.rope_type and "rope_type" or "type")
    util.raise("unsupported", "%s: \"%s\" is not supported", key, tostring(kind))
  end
  check_numbers(s, kind)
  check_keys(s, kind, opts.theta)
  return rule(f, s)
end

return M
