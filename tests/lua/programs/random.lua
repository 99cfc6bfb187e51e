-- random.lua: choices that follow from a seed alone (splitmix64).
local Random = {}
Random.__index = Random

local function mix(z)
  z = (z ~ z >> 30) * 0xbf58476d1ce4e5b9
  z = (z ~ z >> 27) * 0x94d049bb133111eb
  return z ~ z >> 31
end

-- The streams of neighbouring seeds must not be one stream, begun a number later.
local function new(seed) return setmetatable({state = mix(seed * 0xd1342543de82ef95 + 1)}, Random) end

function Random:bits()
  self.state = self.state + 0x9e3779b97f4a7c15
  return mix(self.state) >> 1
end

---An integer from low to high, both included.
function Random:int(low, high) return low + self:bits() % (high - low + 1) end
function Random:chance(p) return self:bits() % 1000000 < p * 1000000 end
function Random:pick(list) return list[self:int(1, #list)] end

---Keys of {key = weight} in proportion; `order` lists them.
function Random:weighted(order, weights)
  local total = 0
  for _, key in ipairs(order) do total = total + weights[key] end
  local at = self:bits() % 1000000 / 1000000 * total
  for _, key in ipairs(order) do
    at = at - weights[key]
    if at < 0 then return key end
  end
  return order[#order]
end

return new
