---Completion of names in the REPL: globals, keywords, fields and methods, found through metatables.
local M = {}

local keywords = {
  "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in", "local", "nil", "not",
  "or", "repeat", "return", "then", "true", "until", "while",
}

local function index(value, key)
  local ok, result = pcall(function() return value[key] end)
  if ok then return result end
end

local function callable(value)
  local meta = debug.getmetatable(value)
  return type(value) == "function" or (type(meta) == "table" and rawget(meta, "__call") ~= nil)
end

---The names behind a dot or colon of `value`: its fields and what its metatable has. A metatable may list the fields
---that are meant for users in `__dir` (a list, or a function of the value that returns one): the others are then left
---out.
---@param value any
---@return table<string, boolean>
function M.members(value)
  local names, seen = {}, {}
  local function add(t)
    if type(t) ~= "table" or seen[t] then return end
    seen[t] = true
    for key in next, t do
      if type(key) == "string" and not key:find "^__" then names[key] = true end
    end
    local meta = debug.getmetatable(t)
    if type(meta) == "table" then add(rawget(meta, "__index")) end
  end
  local meta = debug.getmetatable(value)
  if type(meta) ~= "table" or rawget(meta, "__dir") == nil then add(value) end
  if type(meta) ~= "table" then return names end
  local behind, listed = rawget(meta, "__index"), rawget(meta, "__dir")
  add(behind)
  if type(behind) == "function" then add(meta) end
  if type(listed) == "function" then
    local ok, list = pcall(listed, value)
    listed = ok and list
  end
  for _, name in ipairs(type(listed) == "table" and listed or {}) do names[name] = true end
  return names
end

-- The value of an expression such as `a.b[2].c`; nothing is called.
local function resolve(text, env)
  local value, rest
  local name, from = text:match "^([%a_][%w_]*)()"
  if not name then return nil end
  value, rest = index(env, name), text:sub(from)
  while rest ~= "" and value ~= nil do
    local key, after = rest:match "^[.:]([%a_][%w_]*)()"
    if not key then
      key, after = rest:match "^%[(%-?%d+)%]()"
      key = math.tointeger(key)
    end
    if not key then return nil end
    value, rest = index(value, key), rest:sub(after)
  end
  return value
end

---What `word`, the end of `line`, may become.
---@param word string
---@param line string
---@param env table  where globals are looked up
---@return string[]
function M.complete(word, line, env)
  local expression = line:match "[%w_.:%[%]%-]*$"
  local object, separator, partial = expression:match "^(.*)([.:])([%w_]*)$"
  local names
  if object then
    object = object:match "[%a_][%w_]*[%w_.:%[%]%-]*$" or ""
    while object ~= "" and resolve(object, env) == nil do -- `a[b.c` completes c in b
      object = object:match "^[%a_][%w_]*[^%w_](.*)$" or ""
      object = object:match "[%a_].*$" or ""
    end
    local value = resolve(object, env)
    if value == nil then return {} end
    names = M.members(value)
    if separator == ":" then
      for name in pairs(names) do
        if not callable(index(value, name)) then names[name] = nil end
      end
    end
  else
    partial = word:match "[%w_]*$"
    if partial == "" then return {} end
    names = M.members(env)
    for _, keyword in ipairs(keywords) do names[keyword] = true end
  end
  local head, list = word:sub(1, #word - #partial), {}
  for name in pairs(names) do
    local hidden = name:sub(1, 1) == "_" and partial:sub(1, 1) ~= "_"
    if not hidden and name:sub(1, #partial) == partial and name:find "^[%a_][%w_]*$" then
      list[#list + 1] = head .. name
    end
  end
  table.sort(list)
  return list
end

return M
