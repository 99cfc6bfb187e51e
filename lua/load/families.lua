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

-- A family in a file of the user's: $MOONLET_PATH (directories, separated by colons) and ./models.
local function user_family(model_type)
  if not model_type:match "^[%w_%-]+$" then return nil end
  local folders = (os.getenv "MOONLET_PATH" or "") .. ":./models"
  for folder in folders:gmatch "[^:]+" do
    local path = folder .. "/" .. model_type .. ".lua"
    if core.path_kind(path) == "file" then
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

-- Where families are looked for, as messages say it.
local function searched(name)
  return ("built-in ones, %s.lua in the folders of $MOONLET_PATH (%s), ./models/%s.lua"):format(name,
    os.getenv "MOONLET_PATH" or "not set", name)
end

---The family that serves a model type.
---@param model_type string
---@param what string  the file that names it, for messages
function M.of_model_type(model_type, what)
  for _, family in ipairs(builtin_families()) do
    if serves(family, model_type) then return family end
  end
  return user_family(model_type)
    or util.raise("unsupported", "%s: model_type \"%s\": no family serves it (%s)", what, model_type,
      searched(model_type))
end

---The family that serves an architecture of GGUF: one whose table `gguf` names it, else one whose model type it is.
function M.of_architecture(arch, path)
  for _, family in ipairs(builtin_families()) do
    for _, name in ipairs(family.gguf and family.gguf.architectures or {}) do
      if name == arch then return family end
    end
  end
  local family = user_family(arch)
  for _, other in ipairs(builtin_families()) do
    if not family and serves(other, arch) then family = other end
  end
  if not family then
    util.raise("unsupported", "%s: general.architecture \"%s\": no family serves it (%s)", path, arch, searched(arch))
  end
  return family -- whose table `gguf` is asked for by who reads it
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
  util.unexpected("load: family", M.EXPECTED, family)
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
