---What every part of the template engine leans on: its errors and the budget of a rendering.
local M = {}

---Python's None inside the engine; the context's own null value is turned into it on the way in.
M.NONE = setmetatable({k = "none"}, {__tostring = function() return "None" end})

---Raises an error that `compile` or `render` hands to its caller as `nil, message, code`.
---@param code string  one of the codes of the library ("usage", "corrupt", "mismatch", "limit", "unsupported")
---@param message string  may be a format for the further arguments
function M.raise(code, message, ...)
  if select("#", ...) > 0 then message = message:format(...) end
  error({jinja = true, code = code, message = message}, 0)
end

---Raises what would be a TypeError, ValueError or UndefinedError in the reference.
function M.mismatch(message, ...)
  return M.raise("mismatch", message, ...)
end

---Counts `n` units of work: an operator, a call, a loop turn, a few dozen bytes looked at.
function M.step(rt, n)
  local left = rt.steps - n
  rt.steps = left
  if left < 0 then M.raise("limit", "the template takes more than %d steps", rt.max_steps) end
end

---Counts `n` bytes of text or of tables made. Text that is made must also be walked, hence the steps.
function M.bytes(rt, n)
  local left = rt.bytes - n
  rt.bytes = left
  if left < 0 then M.raise("limit", "the template makes more than %d bytes", rt.max_bytes) end
end

M.MAX_DEPTH = 200 -- calls of macros and recursive loops; nesting of values that are printed or compared

---Enters a call; `M.leave` must follow unless an error ends the rendering.
function M.enter(rt)
  rt.depth = rt.depth + 1
  if rt.depth > M.MAX_DEPTH then M.raise("limit", "calls nested more than %d deep", M.MAX_DEPTH) end
end

function M.leave(rt)
  rt.depth = rt.depth - 1
end

return M
