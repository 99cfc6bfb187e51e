---Small things that several modules share: errors and options.
local core = require "moonlet.core"

local M = {}

---Raises an error object at the user's line.
---@param code string  "usage", "mismatch", ...
function M.raise(code, format, ...)
  error(core.error.new(format:format(...), code, true), 0)
end

---Results of a call that reports failure as nil, message, code.
function M.fail(code, format, ...)
  return nil, format:format(...), code
end

---Runs fn so that an error object that it raises becomes nil, message, code.
function M.soft(fn, ...)
  local results = table.pack(pcall(fn, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  local err = results[2]
  if type(err) == "table" and err.code then
    if err.code == "cancelled" then error(err, 0) end
    return nil, err.reason or err.message, err.code
  end
  error(err, 0)
end

---Raises the error that nil, message, code stands for.
function M.must(value, message, code)
  if value == nil then error(core.error.new(message, code or "usage", false), 0) end
  return value
end

---A function of the interface: what goes wrong inside our own code because of its arguments (an index of nil, arithmetic on a table) is
---an error object at the caller's line, as misuse is everywhere else. Errors of callbacks pass as they are.
---@param name string  for messages
---@param fn function
---@param callbacks boolean|nil  whether it calls functions of the user's
function M.interface(name, fn, callbacks)
  local function finish(ok, ...)
    if ok then return ... end
    local err = ...
    if type(err) == "string" and (not callbacks or err:find "^moonlet/") then M.raise("usage", "%s: %s", name, err:gsub("^%S+:%d+: ", "")) end
    error(err, 0)
  end
  return function(...) return finish(pcall(fn, ...)) end
end

---The same for every Lua function of a table.
function M.guard(functions, prefix, callbacks)
  for name, fn in next, functions do
    if type(fn) == "function" and debug.getinfo(fn, "S").what == "Lua" then functions[name] = M.interface(prefix .. name, fn, callbacks) end
  end
  return functions
end

---Reads options by name and knows which were never read.
---@param given table|nil  what the user wrote
---@param known table  name -> default value; `false` for options without one
---@param what string  the call, for messages
function M.options(given, known, what)
  if given == nil then given = {} end
  if type(given) ~= "table" then M.raise("usage", "%s: expected a table of options, found %s", what, type(given)) end
  for name in pairs(given) do
    if known[name] == nil then M.raise("usage", "%s: no option \"%s\"", what, tostring(name)) end
  end
  local options = {}
  for name, default in pairs(known) do
    options[name] = given[name]
    if options[name] == nil and default ~= false then options[name] = default end
  end
  return options
end

function M.contains(list, value)
  for _, v in ipairs(list) do
    if v == value then return true end
  end
  return false
end

---Keys of a table in a fixed order.
function M.sorted_keys(t)
  local keys = {}
  for k in pairs(t) do keys[#keys + 1] = k end
  table.sort(keys, function(a, b)
    if math.type(a) and math.type(b) then return a < b end
    return tostring(a) < tostring(b)
  end)
  return keys
end

return M
