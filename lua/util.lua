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

---Functions of the interface by what they are called: "model:generate".
M.names = setmetatable({}, {__mode = "k"})

-- Operations of tensors by name, whose messages begin with it.
local operations = {}
for _, op in ipairs(core.op_list()) do operations[op.name] = true end

-- What Lua expects of a value that it can do something to.
local wanted = {
  index = "a tensor or a table", call = "a function", ["perform arithmetic on"] = "a number",
  ["get length of"] = "a list", concatenate = "a string",
}

-- What Lua says of an argument that our own code could not use, as our own messages say it.
local function plain(message)
  message = message:gsub("^%S+:%d+: ", "")
  local action, found, name = message:match "^attempt to (.-) a (%w+) value(.*)$"
  if wanted[action] then
    name = name:match "'([%a_][%w_]*)'"
    return ("%sexpected %s, found %s"):format(name and name .. ": " or "", wanted[action],
      found == "nil" and "nothing" or found)
  end
  local expected, other = message:match "^bad argument #%d+ to '.-' %((.-) expected, got (.-)%)$"
  if expected then return ("expected a %s, found %s"):format(expected, other == "nil" and "nothing" or other) end
  return message
end

-- A message without the module's path and the inner operation that it begins with: "broadcast_to: shape ...".
local function bare(reason, name)
  local path = core.module_path() .. ": "
  if reason:sub(1, #path) == path then reason = reason:sub(#path + 1) end
  local inner, rest = reason:match "^([%w_]+): (.*)$"
  if inner and (operations[inner] or name:match "[%w_]+$" == inner) then return rest end
  return reason
end

local misuse = {usage = true, mismatch = true, unsupported = true}

---A function of the interface: what goes wrong inside our own code because of its arguments is an error object at the
---caller's line that names the function called, not one inside it. Errors of callbacks pass as they are.
---@param name string  for messages
---@param fn function
---@param callbacks boolean|nil  whether it calls functions of the user's
function M.interface(name, fn, callbacks)
  local function finish(ok, ...)
    if ok then return ... end
    local err = ...
    if type(err) == "string" and (not callbacks or err:find "^moonlet/") then
      M.raise("usage", "%s: %s", name, plain(err))
    elseif type(err) == "table" and not callbacks and misuse[err.code] and err.reason then
      M.raise(err.code, "%s: %s", name, bare(err.reason, name))
    end
    error(err, 0)
  end
  local function call(...) return finish(pcall(fn, ...)) end
  operations[name] = true
  M.names[call] = name
  return call
end

---The same for every Lua function of a table.
function M.guard(functions, prefix, callbacks)
  for name, fn in next, functions do
    if type(fn) == "function" and debug.getinfo(fn, "S").what == "Lua" then
      functions[name] = M.interface(prefix .. name, fn, callbacks)
    end
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

---A 1-based axis, -1 the last, as 1 .. ndim.
function M.axis_of(axis, ndim)
  local a = math.tointeger(axis) or 0
  if a < 0 then a = a + ndim + 1 end
  if a < 1 or a > ndim then M.raise("usage", "axis %s is out of range for %d axes", tostring(axis), ndim) end
  return a
end

---Ranges for `slice`: `range` for one axis, all of the others.
function M.whole_slice(ndim, axis, range)
  local ranges = {}
  for d = 1, ndim do ranges[d] = d == axis and range or {} end
  return ranges
end

---Arguments by position, or by name in a last table: what operations of the core take, for those made of others.
---@param what string
---@param names string[]
function M.arguments(what, names, ...)
  local n = select("#", ...)
  local last = n > 0 and select(n, ...)
  if type(last) ~= "table" or type(next(last)) ~= "string" then
    if n > #names then M.raise("usage", "%s: %d arguments too many", what, n - #names) end
    return ...
  end
  local values, left = {...}, {}
  values[n] = nil
  for name, value in pairs(last) do left[name] = value end
  for i, name in ipairs(names) do
    if i >= n and left[name] ~= nil then values[i] = left[name] end
    if i >= n then left[name] = nil end
  end
  local unknown = next(left)
  if unknown then M.raise("usage", "%s: no option \"%s\"", what, tostring(unknown)) end
  return table.unpack(values, 1, #names)
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

---Closes a value that has nothing but __close.
function M.close(x)
  local _ <close> = x
end

return M
