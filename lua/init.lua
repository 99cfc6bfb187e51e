---moonlet: tensors, models and text, for scripts. `local ml = require "moonlet"`.
local core = require "moonlet.core"

---@class moonlet
local ml = core.ops

ml.version = core.version
ml.json = core.json
ml.memory = core.memory
for _, name in ipairs {"eval", "stats", "devices", "device", "default_device", "threads"} do ml[name] = core[name] end

require "moonlet.tensor" -- what tensors do in terms of other operations

for name, value in pairs(require "moonlet.compile") do ml[name] = value end

-- Parts that not every script needs are loaded when they are first used.
local lazy = {
  load = "load", discover = "load", tokenizer = "load", register_backend = "load", backends = "load",
  load_safetensors = "files", save_safetensors = "files", load_gguf = "files", load_npy = "files", save_npy = "files",
  random = "random", cancel_token = "cancel",
}

setmetatable(ml, {
  __index = function(t, name)
    local module = lazy[name]
    if not module then return nil end
    local part = require("moonlet." .. module)
    local value = name == module and part[name] == nil and part or part[name]
    rawset(t, name, value)
    return value
  end,
  __dir = function()
    local names = {}
    for name in next, ml do names[#names + 1] = name end
    for name in pairs(lazy) do names[#names + 1] = name end
    return names
  end,
})

-- One table under both names, whether this file was found as one or as the other.
package.loaded["moonlet"], package.loaded["moonlet.init"] = ml, ml
return ml
