---The local cache of the Hugging Face hub: where it is, and what it holds. Nothing is ever downloaded.
---
---A repository org/name is the folder models--org--name, one without an organisation models--name; refs/main in it
---names the folder of snapshots/ that is used.
local core = require "moonlet.core"

local M = {}

-- A variable of the environment; an empty one counts as unset. `~` begins the home folder.
local function environment(name)
  local value = os.getenv(name)
  if not value or value == "" then return nil end
  return (value:gsub("^~%f[/\0]", os.getenv "HOME" or "~"))
end

---The cache's folder, as the hub's own tools find it.
---@return string
function M.folder()
  local set = environment "HF_HUB_CACHE" or environment "HUGGINGFACE_HUB_CACHE"
  if set then return set end
  local home = environment "HF_HOME"
  if home then return home .. "/hub" end
  return (environment "XDG_CACHE_HOME" or (environment "HOME" or "") .. "/.cache") .. "/huggingface/hub"
end

---Whether a path can be the name of a repository: with an organisation, or as the oldest ones without.
---@param path string
---@return boolean
function M.is_name(path)
  if path:find "^%.%.?/" or path:find "^%.%.?$" then return false end -- a folder
  return path:find "^[%w%-_.]+$" ~= nil or path:find "^[%w%-_.]+/[%w%-_.]+$" ~= nil
end

---The name of a repository by its folder in the cache, or nil: "models--org--name" is "org/name".
---@param folder string
---@return string|nil
function M.name_of(folder)
  local name = folder:match "^models%-%-(.+)$"
  return name and (name:gsub("%-%-", "/", 1)) or nil
end

---The files of a repository's main revision: their folder, or nil and what is missing.
---@param cache string  the cache's folder
---@param name string
---@return string|nil folder
---@return string|nil missing
function M.snapshot(cache, name)
  local repository = cache .. "/models--" .. name:gsub("/", "--")
  if core.path_kind(repository) ~= "directory" then return nil, "does not hold it" end
  local ref <close> = io.open(repository .. "/refs/main")
  local revision = ref and (ref:read "l" or ""):match "^%s*([%w%-_]+)%s*$"
  if not revision then return nil, "holds no main revision of it" end
  local snapshot = repository .. "/snapshots/" .. revision
  if core.path_kind(snapshot) == "directory" then return snapshot end
  return nil, "holds no files of its main revision"
end

return M
