---AdamW as a script writes it, in five statements over states: what the planner is to make one step of.
local ml = require "moonlet"

---@param p moonlet.Tensor  parameters; its values are where the state `p` begins
---@return table  the states: step (a count), p, and the moments m and v
---@return function  an update, of a gradient
return function(p)
  local o = {step = ml.state(ml.tensor(0.0)), p = ml.state(p), m = ml.state(p * 0), v = ml.state(p * 0)}
  return o, function(g)
    o.step:add_(1)
    local c1, c2 = 1 - (o.step * math.log(0.9)):exp(), 1 - (o.step * math.log(0.999)):exp()
    ml.assign(o.m, o.m * 0.9 + g * 0.1)
    o.v:mul_(0.999)
    o.v:add_(g * g * 0.001)
    ml.assign(o.p, o.p - ((o.m / c1) / ((o.v / c2):sqrt() + 1e-8) + o.p * 0.01) * 1e-3)
  end
end
