---Rotary frequencies under the scalings that configurations name.
---Sources: Su et al. 2021 (RoPE); Llama 3.1's published scaling rule; Peng et al. 2023 (YaRN) for the names.
local util = require "moonlet.util"

local M = {}

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

local needs = {linear = {"factor"}, llama3 = {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}}

---The list of n/2 frequencies (radians a position) of heads of `size` elements, and the factor on cosines and sines.
---@param opts table  {theta, scaling = {rope_type, ...}, partial}
function M.frequencies(size, opts)
  local n = math.tointeger(size * (opts.partial or 1) // 2)
  local f = {}
  for i = 0, n - 1 do f[i + 1] = opts.theta ^ -(2 * i / (2 * n)) end
  local s = opts.scaling or {}
  local kind = s.rope_type or s.type or "default"
  local rule = scalings[kind]
  if not rule then util.raise("unsupported", "rope_scaling.rope_type: \"%s\" is not supported", tostring(kind)) end
  for _, name in ipairs(needs[kind] or {}) do
    if type(s[name]) ~= "number" then util.raise("corrupt", "rope_scaling.%s: expected a number, found %s", name, tostring(s[name])) end
  end
  return rule(f, s)
end

return M
