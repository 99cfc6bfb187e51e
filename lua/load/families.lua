---Which family serves a model: by its model_type, by the architecture of a GGUF file, or as the call says.
local core = require "moonlet.core"
local util = require "moonlet.util"

local M = {}

---Whether a value is what a family's file has to return.
function M.is(x) return type(x) == "table" and type(x.model_types) == "table" end

local function serves(family, model_type)
  for _, name in ipairs(family.model_types) do
    if name == model_type then return true end
  end
  return false
end

-- The files that families were read from, for messages.
local read_from = setmetatable({}, {__mode = "k"})

-- What a family's file returns. Whatever goes wrong in it is about the file.
local function run_family(path, name)
  local chunk, message = loadfile(path, "t")
  if chunk then
    local ok, family = pcall(chunk, name, path)
    if ok and M.is(family) then read_from[family] = path end
    if ok then return family end
    if type(family) == "table" and family.code == "cancelled" then error(family, 0) end
    message = family
  end
  local text = tostring(message)
  util.raise("usage", "%s", text:find(path, 1, true) and text or path .. ": " .. text)
end

-- Whether a file lies in a folder: by its real path, or by a folder that its name leads through, so that a link in a
-- checkpoint is a part of it.
local function lies_in(path, folder)
  local place, last = path:sub(1, 1) == "/" and path or "./" .. path
  repeat
    local real = core.real_path(place)
    if real and (real .. "/"):sub(1, #folder) == folder then return true end
    place, last = place:match "^(.*)/([^/]*)$"
  until not place or place == "" or last == ".."
  return false
end

-- A checkpoint is data: a family's file in the directory of the model that it would serve is not run.
local function refuse_own(path, what)
  for _, of in ipairs {what, core.real_path(what)} do
    local own = core.real_path(of:match "^(.*/)[^/]*$" or "./")
    if own and lies_in(path, own .. "/") then
      util.raise("usage", "%s: the family's file %s lies in the model's own directory and is not run (copy it "
        .. "elsewhere, or name it as the option family)", what, path)
    end
  end
end

-- What a file of the user's may be called: no path.
local function is_name(model_type) return model_type:match "^[%w_%-]+$" ~= nil end

-- A family in a file of the user's: $MOONLET_PATH (directories, separated by colons) and ./models.
local function user_family(model_type, what)
  if not is_name(model_type) then return nil end
  local folders = (os.getenv "MOONLET_PATH" or "") .. ":./models"
  for folder in folders:gmatch "[^:]+" do
    local path = folder .. "/" .. model_type .. ".lua"
    if core.path_kind(path) == "file" then
      refuse_own(path, what)
      local family = run_family(path, "moonlet.models." .. model_type)
      if not M.is(family) then
        util.raise("usage", "%s: expected the file to return a model class of nn.model", path)
      end
      return family
    end
  end
end

local function builtin_families()
  local list = {}
  for _, name in ipairs(core.modules "models/") do list[#list + 1] = require("moonlet.models." .. name) end
  return list
end

-- Raises that nothing serves a name, and where a family was looked for.
local function unserved(what, key, name)
  local why = "only a name of letters, digits, _ and - is looked for"
  if is_name(name) then
    why = ("built-in ones, %s.lua in the folders of $MOONLET_PATH (%s), ./models/%s.lua"):format(name,
      os.getenv "MOONLET_PATH" or "not set", name)
  end
  util.raise("unsupported", "%s: %s \"%s\": no family serves it (%s)", what, key, name, why)
end

---The family that serves a model type.
---@param model_type string
---@param what string  the file in the model's directory that names it
function M.of_model_type(model_type, what)
  for _, family in ipairs(builtin_families()) do
    if serves(family, model_type) then return family end
  end
  return user_family(model_type, what) or unserved(what, "model_type", model_type)
end

---The family that serves an architecture of GGUF: one whose table `gguf` names it, else one whose model type it is.
function M.of_architecture(arch, path)
  for _, family in ipairs(builtin_families()) do
    for _, name in ipairs(family.gguf and family.gguf.architectures or {}) do
      if name == arch then return family end
    end
  end
  local family = user_family(arch, path)
  for _, other in ipairs(builtin_families()) do
    if not family and serves(other, arch) then family = other end
  end
  return family or unserved(path, "general.architecture", arch) -- whose table `gguf` is asked for by who reads it
end

local function family_module(name)
  local ok, family = pcall(require, name)
  if ok then return family end
  if tostring(family):find(("module '%s' not found"):format(name), 1, true) then
    util.raise("not_found", "load: family: no module \"%s\": expected a file NAME.lua, or a module; built-in ones are "
      .. "moonlet.models.%s", name, table.concat(core.modules "models/", ", moonlet.models."))
  end
  util.raise("usage", "load: family: %s", tostring(family))
end

---What the option may be, for messages.
M.EXPECTED = "a model class of nn.model, or a Lua file or module that returns one"

---The family that the option `family` of load names or is.
---@param option any
function M.given(option)
  local family = option
  if type(option) == "string" and option:match "%.lua$" then
    if core.path_kind(option) ~= "file" then util.raise("not_found", "load: family: %s: no such file", option) end
    family = run_family(option, "moonlet.models")
  elseif type(option) == "string" then
    family = family_module(option)
  end
  if M.is(family) then return family end
  if type(option) ~= "string" then util.unexpected("load: family", M.EXPECTED, family) end
  util.unexpected("load: family: " .. option, "it to return a model class of nn.model", family)
end

---Checks what a family's file has to define, so that a slip of the pen is told by its name.
function M.check(family)
  local known = type(family.init) == "function" and family.init or family.forward
  local file = read_from[family] or type(known) == "function" and core.source(known)
  local name = "family " .. family.model_types[1] .. (file and (" (%s)"):format(file) or "")
  for _, field in ipairs {"init", "forward"} do
    if type(family[field]) ~= "function" then util.unexpected(name .. ": " .. field, "a function", family[field]) end
  end
  for _, field in ipairs {"config", "ignore", "lora"} do
    if type(family[field]) ~= "table" then util.unexpected(name .. ": " .. field, "a table", family[field]) end
  end
  return family
end

return M
