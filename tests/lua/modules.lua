---`require "moonlet.x"` from a source tree, whether or not the interpreter has the library inside.
local M = {}

---Forgets the modules that are loaded, and finds those of a tree before any others.
---@param root string  the source tree
function M.install(root)
  for name in pairs(package.loaded) do
    if name:find "^moonlet" then package.loaded[name] = nil end
  end
  table.insert(package.searchers, 2, function(name)
    local path = name:match("^moonlet%.(.*)$")
    if not path then return nil end
    path = root .. "/lua/" .. path:gsub("%.", "/")
    local chunk, message = loadfile(path .. ".lua")
    return chunk or loadfile(path .. "/init.lua") or error(message, 0)
  end)
end

return M
