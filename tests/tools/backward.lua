-- backward.lua: a forward pass whose values are all kept for the backward one.
local core = require "moonlet.core"
local ml = require "moonlet"

-- Seconds of the evaluation of `nodes` operations, in thirds: forward, products with what was kept, backward.
return function(nodes)
  return ml.scope(function()
    local x, kept = ml.ones {16, 16}, {}
    for i = 1, nodes // 3 do
      x = ml.softmax(x, -1)
      kept[i] = x
    end
    for i = nodes // 3, 1, -1 do x = ml.softmax(x * kept[i], -1) end
    local began = core.clock()
    ml.eval(x)
    return core.clock() - began
  end)
end
