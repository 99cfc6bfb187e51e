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

local function topics_text(docs)
  local names = {}
  for i, topic in ipairs(docs and docs.topics or {}) do names[i] = topic.name end
  return names[1] and '\n\nhelp "TOPIC" explains one of: ' .. table.concat(names, " ") or ""
end

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

-- Methods of C, by the classes that a state's registry and the library have.
local function method_of_c(value)
  local found, core = pcall(require, "moonlet.core")
  local classes = {tensor = found and core.methods or nil}
  for name, meta in next, debug.getregistry() do
    local class = type(name) == "string" and name:match "^moonlet%.(%a+)$"
    if class and type(meta) == "table" then classes[class:lower()] = classes[class:lower()] or meta end
  end
  for class, methods in next, classes do
    for name, method in next, methods do
      if rawequal(method, value) and not name:find "^__" then return class .. ":" .. name end
    end
  end
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
  if type(value) ~= "function" then return "" end
  local util = package.loaded["moonlet.util"]
  return util and util.names[value] or method_of_c(value) or ""
end

-- How the reference abbreviates what owns a function.
local owners = {
  tensor = "x", model = "m", session = "s", tokenizer = "t", generation = "g", sample = "S", jinja = "jinja",
}

-- Where operations of tensors go by the same name.
local of_tensors = {x = true, ml = true, fn = true}

-- "x" and "add_" of "tensor:add_", "jinja" and "compile" of "templates.jinja.compile".
local function split_name(name)
  local owner, key = name:match "([%w_]+)[.:]([%w_]+)$"
  if not owner then return nil, name end
  return owners[owner] or owner, key
end

-- The text about a function under its whole name; about a form in place with that of the operation.
local function document_of(docs, name)
  local owner, key = split_name(name)
  local found = docs[owner and owner .. "." .. key or key]
    or of_tensors[owner] and (docs["ml." .. key] or docs["x." .. key])
  if type(found) == "string" then return found end
  local base = key:match "^(.*%w)_$"
  base = base and (owner == "x" or not owner) and (docs["x." .. base] or docs["ml." .. base])
  if base then
    return "x:" .. key .. "(...)\n  In place: x holds the result from then on, in its own shape and dtype. The result "
      .. "is that of\n\n" .. base
  end
end

-- The text about what was asked for by name, under any spelling of it: ml.zeros, moonlet.zeros, zeros; model:generate
-- is written as m.generate.
local function find_document(docs, name)
  local bare = name:gsub("^ml%.", ""):gsub("^moonlet%.", "")
  for _, key in ipairs {name, bare, "ml." .. bare, "x." .. bare, "moonlet." .. bare, (bare:match "([%w_]+)$")} do
    local found = type(docs[key]) == "string" and docs[key] or document_of(docs, key)
    if found then return found end
  end
end

-- A page, by its name or by a word of its title: "sampling", "tokenizers", "template".
local function find_topic(docs, name, exactly)
  name = name:lower()
  for _, topic in ipairs(docs.topics or {}) do
    if topic.name == name then return topic.text end
  end
  if exactly or #name < 4 then return nil end
  for _, topic in ipairs(docs.topics or {}) do
    for word in topic.title:lower():gmatch "%a+" do
      if word:sub(1, #name) == name or name == word .. "s" then return topic.text end
    end
    if topic.name:sub(1, #name - 1) == name:sub(1, -2) then return topic.text end -- sample: sampling
  end
end

-- Names of the calls whose text has this word in it.
local function mentions(docs, word)
  local calls, seen = {}, {}
  word = word:lower()
  for _, text in pairs(docs) do
    local call = type(text) == "string" and #word > 2 and text:lower():find(word, 1, true) and text:match "^[%w_.:]+"
    if call and not seen[call] then
      seen[call] = true
      calls[#calls + 1] = call
    end
  end
  table.sort(calls)
  local left = #calls - 12
  if left > 0 then calls = table.move(calls, 1, 12, 1, {}) end
  return calls[1] and "; it is mentioned with " .. table.concat(calls, ", ") .. (left > 0 and ", ..." or "") or ""
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

-- What is known under a name that was asked for in quotes.
local function about_name(docs, name, nothing)
  local found = docs and (find_topic(docs, name, true) or find_document(docs, name) or find_topic(docs, name))
  if found then return found end
  local known = _G
  for part in name:gmatch "[%w_]+" do known = type(known) == "table" and known[part] or nil end
  if known ~= nil and type(known) ~= "string" then return M.text(known) end
  return name .. ": " .. nothing .. (docs and mentions(docs, name) or "")
end

---The text that `help(...)` prints.
---@param ... any  nothing, a name, a topic, a function, a module, or any value
---@return string
function M.text(...)
  local docs = documents()
  if select("#", ...) == 0 then return general .. topics_text(docs) end
  local value = ...
  local nothing = docs and "nothing is written about it" or "this build carries no documentation"
  if value == nil then return "nil: there is nothing of that name" end
  if type(value) == "string" then return about_name(docs, value, nothing) end
  local name = name_of(value)
  local found = docs and name ~= "" and document_of(docs, name)
  if found then return found end
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
