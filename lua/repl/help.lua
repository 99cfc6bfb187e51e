---`help(x)`: what is known about a function, a module or a value.
local complete = require "moonlet.repl.complete"

local M = {}

local general = [[
Type an expression to see its value, or a statement to run it; unfinished input goes on in the next line.

  m = assert(ml.load("model.gguf"))     loads a model: a .gguf file, or a directory
  =m:complete("The moon", {max_tokens = 20})
  for tok in m:chat{{role = "user", content = "Why do tides rise?"}} do io.write(tok.text) end
  x = ml.tensor{{1, 2}, {3, 4}}         makes a tensor
  =x:matmul(x)

`ml` is require "moonlet". Tab completes names, methods, and paths in strings. help(x) or help "name" says
what x is. Ctrl-C stops what runs, Ctrl-D leaves.]]

local function documents()
  local ok, docs = pcall(require, "moonlet.docs")
  return ok and type(docs) == "table" and docs or nil
end

-- Modules of ours that are loaded, as {short name, module}: "ml" first.
local function modules()
  local list = {}
  for name, module in pairs(package.loaded) do
    local short = name == "moonlet" and "ml" or name:match "^moonlet%.(.+)$"
    if short and type(module) == "table" then list[#list + 1] = {short, module} end
  end
  table.sort(list, function(a, b)
    if (a[1] == "ml") ~= (b[1] == "ml") then return a[1] == "ml" end
    return a[1] < b[1]
  end)
  return list
end

-- "ml.zeros" for a function or a module, "model:generate" for a method, "" for what has no name.
local function name_of(value)
  for _, entry in ipairs(modules()) do
    if rawequal(entry[2], value) then return entry[1] end
    for key, field in next, entry[2] do
      if type(key) == "string" and rawequal(field, value) then return entry[1] .. "." .. key end
    end
  end
  for _, name in ipairs {"json", "memory"} do -- tables of functions in `ml`
    for key, field in next, (package.loaded.moonlet or {})[name] or {} do
      if rawequal(field, value) then return "ml." .. name .. "." .. key end
    end
  end
  for key, field in next, _G do
    if type(key) == "string" and rawequal(field, value) then return key end
  end
  local util = package.loaded["moonlet.util"]
  return util and type(value) == "function" and util.names[value] or ""
end

-- The text of the documentation under any spelling of a name: ml.zeros, moonlet.zeros, zeros; model:generate is written
-- as m.generate.
local function find_document(docs, name)
  local bare = name:gsub("^ml%.", ""):gsub("^moonlet%.", "")
  for _, key in ipairs {
    name, (name:gsub("^(%a)%a*:", "%1.")), bare, "ml." .. bare, "moonlet." .. bare, (bare:match "([%w_]+)$"),
  } do
    if type(docs[key]) == "string" then return docs[key] end
  end
end

-- The comment above a Lua function, where its source can be read.
local function comment_of(fn)
  local info = debug.getinfo(fn, "S")
  local path = info.source:match "^@(.+)$"
  local file = info.what == "Lua" and path and io.open(path)
  if not file then return nil end
  local lines = {}
  for line in file:lines() do
    lines[#lines + 1] = line
    if #lines >= info.linedefined then break end
  end
  file:close()
  local first = #lines
  while first > 1 and lines[first - 1]:find "^%s*%-%-%-" do first = first - 1 end
  local text = {}
  for i = first, #lines do
    text[#text + 1] = (lines[i]:gsub("^%s*%-%-%-%s?", ""):gsub("^%s*local%s+function", "function"))
  end
  return #text > 0 and table.concat(text, "\n") or nil
end

local function list_members(value)
  local names = {}
  for name in pairs(complete.members(value)) do
    if name:sub(1, 1) ~= "_" then names[#names + 1] = name end
  end
  if #names == 0 then return nil end
  table.sort(names)
  local lines, line = {}, " "
  for _, name in ipairs(names) do
    if #line + #name + 1 > 98 then lines[#lines + 1], line = line, " " end
    line = line .. " " .. name
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n")
end

---The text that `help(...)` prints.
---@param ... any  nothing, a name, a function, a module, or any value
---@return string
function M.text(...)
  if select("#", ...) == 0 then return general end
  local value = ...
  local docs = documents()
  local nothing = docs and "nothing is written about it" or "this build carries no documentation"
  if value == nil then return "nil: there is nothing of that name" end
  local name = type(value) == "string" and value or name_of(value)
  local found = docs and name ~= "" and find_document(docs, name)
  if found then return found end
  if type(value) == "string" then
    local known = _G
    for part in value:gmatch "[%w_]+" do known = type(known) == "table" and known[part] or nil end
    if known ~= nil and type(known) ~= "string" then return M.text(known) end
    return value .. ": " .. nothing
  end
  local meta = debug.getmetatable(value)
  local class = type(meta) == "table" and type(rawget(meta, "__name")) == "string" and meta.__name
  local what = (name ~= "" and name .. ": " or "") .. (class or "a " .. type(value))
  if type(value) == "function" then
    return comment_of(value) or what .. "; " .. nothing
  end
  local members = list_members(value)
  return what .. (members and " with\n" .. members or "")
end

return M
