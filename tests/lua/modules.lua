---`require "moonlet.x"` from a source tree, in an interpreter without the library.
local M = {}

---@param root string  the source tree
function M.install(root)
  table.insert(package.searchers, 2, function(name)
    local path = name:match("^moonlet%.(.*)$")
    if not path then return nil end
    return assert(loadfile(root .. "/lua/" .. path:gsub("%.", "/") .. ".lua"))
  end)
end

return M
