---Small things that several modules share: errors and options.
local core = require "moonlet.core"

local M = {}

---Raises an error object at the user's line.
---@param code string  "usage", "mismatch", ...
function M.raise(code, format, ...)
  error(core.error.new(format:format(...), code, true), 0)
end

---What `tostring` gives, of numbers with a point whatever the decimal point of the host's locale.
---@param value any
---@return string
function M.text(value)
  local text = tostring(value)
  return math.type(value) == "float" and text:gsub("[^%w+-]+", ".") or text
end

---What models compute in.
M.compute_dtypes = {"float32", "float16", "bfloat16"}

---How a message says what it found: a text in quotes, a number, else what kind of value.
function M.show(value)
  local kind = type(value)
  if value == nil then return "nothing" end
  if kind == "string" then return (("%q"):format(value:sub(1, 60)):gsub("\\\n", "\\n")) end
  if kind == "number" or kind == "boolean" then return M.text(value) end
  local meta = getmetatable(value)
  local name = type(meta) == "table" and rawget(meta, "__name")
  if name == "moonlet.Tensor" then
    local open, shape = pcall(function() return table.concat(value.shape, ", ") end)
    return open and ("a tensor (%s), %s"):format(shape, value.dtype) or "a closed tensor"
  end
  return "a " .. (type(name) == "string" and name:gsub("^moonlet%.", ""):lower() or kind)
end

---Raises "what: expected .., found ..".
---@param what string  function and argument
---@param expected string
---@param value any
---@param code string|nil  "usage" unless given
function M.unexpected(what, expected, value, code)
  M.raise(code or "usage", "%s: expected %s, found %s", what, expected, M.show(value))
end

---Raises unless the value is a function or can be called like one.
---@param what string  function and argument, for messages
---@param value any
---@param expected string|nil  for messages; "a function" unless given
function M.callable(what, value, expected)
  local meta = type(value) ~= "function" and getmetatable(value)
  if type(value) == "function" or type(meta) == "table" and meta.__call then return end
  M.unexpected(what, expected or "a function", value)
end

---An integer, as its own type; floats of integer value are taken.
---@param what string  function and argument, for messages
---@param value any
---@param low integer|nil
---@param high integer|nil
---@return integer
function M.integer(what, value, low, high)
  local whole = type(value) == "number" and math.tointeger(value)
  if not whole or whole < (low or math.mininteger) or whole > (high or math.maxinteger) then
    local range = high and (" from %d to %d"):format(low, high) or low and (" from %d"):format(low) or ""
    M.unexpected(what, "an integer" .. range, value)
  end
  return whole
end

---A boolean, or nil.
---@param what string  function and argument, for messages
---@param value any
---@return boolean|nil
function M.flag(what, value)
  if value ~= nil and type(value) ~= "boolean" then M.unexpected(what, "true or false", value) end
  return value
end

---A number between bounds.
---@param what string  function and argument, for messages
---@param value any
---@param low number|nil
---@param high number|nil
---@return number
function M.number(what, value, low, high)
  if type(value) ~= "number" or not (value >= (low or -math.huge) and value <= (high or math.huge)) then
    local range = high and (" from %s to %s"):format(M.text(low), M.text(high)) or low and " from " .. M.text(low) or ""
    M.unexpected(what, "a number" .. range, value)
  end
  return value
end

---A path as the system takes it.
---@param what string  function and argument, for messages
---@return string
function M.path(what, value)
  if type(value) ~= "string" or value:find "\0" then M.unexpected(what, "a path", value) end
  return value
end

---A list: a table that has no names beside its entries, which would be lost. What `table.pack` gives is one.
---@param what string  function and argument, for messages
---@param value any
---@param expected string|nil  for messages; "a list" unless given
---@return table
function M.list(what, value, expected)
  if type(value) ~= "table" then M.unexpected(what, expected or "a list", value) end
  local meta = getmetatable(value)
  if type(meta) == "table" and meta.__index ~= nil then -- it may have entries without end
    M.raise("usage", "%s: expected %s, found a table whose metatable gives it entries", what, expected or "a list")
  end
  local n = rawlen(value)
  local key = next(value, n > 0 and n or nil) -- behind the last entry
  while key ~= nil do
    local entry = math.type(key) == "integer" and key >= 1 and key <= n -- of a list filled in another order
    if not entry and not (key == "n" and value.n == n) then
      M.raise("usage", "%s: expected %s, found the %s in it", what, expected or "a list",
        type(key) == "string" and ("name \"%s\""):format(key) or "key " .. M.text(key))
    end
    key = next(value, key)
  end
  return value
end

---The place of an item in a list, nil where it is not there.
function M.index_of(list, item)
  for i, v in ipairs(list) do
    if v == item then return i end
  end
end

---A shape: a list of sizes, or one size.
---@param what string  function and argument, for messages
---@return integer[]
function M.shape(what, shape)
  if type(shape) == "number" then shape = {shape} end
  M.list(what, shape, "a list of sizes")
  for i, n in ipairs(shape) do M.integer(("%s: size %d"):format(what, i), n, 0) end
  return shape
end

---Raises an error again. One that was made in a coroutine of ours, where no line of the user's was to be seen, gets the
---line here.
function M.again(err)
  if type(err) == "table" and err.code and err.message == err.reason then M.raise(err.code, "%s", err.reason) end
  error(err, 0)
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

---Remembers what functions are called that are handed out as they are.
---@param functions table
---@param prefix string  "generation:"
function M.know(functions, prefix)
  for name, fn in next, functions do
    if type(fn) == "function" and not name:find "^__" then M.names[fn] = prefix .. name end
  end
end

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

-- Of functions that take their parameters as `...`: the one that they hand them on to.
local handed_to = setmetatable({}, {__mode = "k"})

-- Names of a function's parameters, nil where they have none.
local function parameters(fn)
  while handed_to[fn] do fn = handed_to[fn] end
  return core.parameters(fn)
end

---Says that a function takes its parameters as `...` and hands them on to another, whose names for them hold.
---@param fn function
---@param inner function
---@return function fn
function M.hands_to(fn, inner)
  handed_to[fn] = inner
  return fn
end

-- Arguments in the order of `names`: by position, or by name in a last table, as operations of the core take them.
-- Names that are no parameter's are options, where the last parameter is `opts`.
local function in_order(what, names, ...)
  local given, n, most = {...}, select("#", ...), #names
  while n > 0 and given[n] == nil do n = n - 1 end -- nil at the end is what is not given
  local last = given[n]
  local named = type(last) == "table" and type(next(last)) == "string"
  local count = named and n - 1 or n
  if count > most then M.raise("usage", "%s: %d arguments too many", what, count - most) end
  if not named then return table.unpack(given, 1, n) end
  local opts = names[most] == "opts" and {} or nil
  given[n] = nil
  for name, value in next, last do
    local at = M.index_of(names, name)
    if at and not (opts and at == most) then
      if given[at] ~= nil then M.raise("usage", "%s: %s is given twice", what, name) end
      given[at] = value
    elseif not opts or n > most then M.raise("usage", "%s: no option \"%s\"", what, M.text(name))
    else opts[name] = value end
  end
  if opts and next(opts) ~= nil then given[most] = opts end
  return table.unpack(given, 1, most)
end

-- A function whose arguments can be given by name, and that takes no others; what it makes on the way lies where the
-- tensors do that it is given. What its arguments are called is asked when it is called first: few of all functions
-- are, in one process.
local function operation(what, fn)
  local names, most
  return function(...)
    local _ <close> = core.beside(...)
    if names == nil then
      names = parameters(fn) or false
      most = names and #names
    end
    if not names then return fn(...) end
    local n = select("#", ...)
    local last = n > 0 and select(n, ...)
    if n <= most and last ~= nil and type(last) ~= "table" then return fn(...) end
    return fn(in_order(what, names, ...))
  end
end

-- A method that says so when it is called without its object: m.generate("x").
local function method(class, prefix, name, fn, is_own)
  return function(self, ...)
    if is_own and not is_own(self) or not is_own and getmetatable(self) ~= class then
      M.raise("usage", "%s: expected a %s, found %s: methods are called with a colon, %s%s(...)", name,
        prefix:sub(1, -2), M.show(self), prefix, name)
    end
    return fn(self, ...)
  end
end

---The same for every Lua function of a table.
---@param functions table
---@param prefix string  "random."; "model:" where they are the methods of the class `functions`
---@param callbacks boolean|nil
---@param named boolean|nil  they are operations: arguments can be given by name in a last table, there are no others,
---  and what is made on the way lies where the tensors do that are given
---@param is_own (fun(self: any): boolean)|nil  tells the objects of a class that is not their metatable itself
function M.guard(functions, prefix, callbacks, named, is_own)
  local is_class = prefix:sub(-1) == ":"
  for name, fn in next, functions do
    if type(fn) == "function" and core.source(fn) then
      if is_class then fn = method(functions, prefix, name, fn, is_own) end
      if named then fn = operation(name, fn) end
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
  if type(given) ~= "table" then M.unexpected(what, "a table of options", given) end
  for name in pairs(given) do
    if known[name] == nil then M.raise("usage", "%s: no option \"%s\"", what, M.text(name)) end
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
  local a = M.integer("axis", axis)
  if a < 0 then a = a + ndim + 1 end
  if a < 1 or a > ndim then M.raise("usage", "axis %s is out of range for %d axes", M.text(axis), ndim) end
  return a
end

---The dtype that tensors meet at in arithmetic, and the one to compute in what is rounded once: float32 for float16 and
---bfloat16. Anything but tensors is passed over.
---@param what string  who asks, for errors
---@param ... any
---@return string dtype
---@return string wide
function M.common_dtype(what, ...)
  local meeting
  for i = 1, select("#", ...) do
    local x = select(i, ...)
    if core.ops.is_tensor(x) then
      core.check_strided(x, what)
      local zero = core.make_tensor(0, x.dtype)
      meeting = meeting and meeting + zero or zero
    end
  end
  local dtype = meeting.dtype
  return dtype, (dtype == "float16" or dtype == "bfloat16") and "float32" or dtype
end

---A tensor in another dtype; anything else, and a tensor that has it, as it is.
function M.in_dtype(x, dtype)
  return core.ops.is_tensor(x) and x.dtype ~= dtype and x:astype(dtype) or x
end

---Ranges for `slice`: `range` for one axis, all of the others.
function M.whole_slice(ndim, axis, range)
  local ranges = {}
  for d = 1, ndim do ranges[d] = d == axis and range or {} end
  return ranges
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

-- A tensor's value under a handle of its own: what is done to one in place is not done to the other, and of a state it
-- is what it holds now. A weight in another layout is refused.
function M.value_of(x) return x:astype(x.dtype) end

return M
