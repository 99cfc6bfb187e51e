---Files of a model: where a path or a hub name leads, and the tensors that lie there under the names of parameters.
local core = require "moonlet.core"
local config = require "moonlet.config"
local families = require "moonlet.load.families"
local gguf = require "moonlet.gguf"
local hub = require "moonlet.hub"
local util = require "moonlet.util"

local M = {}

-- ---- paths and hub names ----

-- The .gguf files of a folder.
local function gguf_files(folder)
  local files = {}
  for _, name in ipairs(core.list_directory(folder) or {}) do
    if name:match "%.gguf$" then files[#files + 1] = folder .. "/" .. name end
  end
  return files
end

-- A hub name's folder in the cache; or its one .gguf file, where it has no config.json.
local function resolve_name(name)
  local cache = hub.folder()
  local snapshot, missing = hub.snapshot(cache, name)
  if not snapshot then
    util.raise("not_found", "%s: no such file or directory, and the hub cache %s %s (nothing is downloaded)", name,
      cache, missing)
  end
  local files = core.path_kind(snapshot .. "/config.json") and {} or gguf_files(snapshot)
  if #files > 1 then
    util.raise("usage", "%s: the hub cache holds %d .gguf files of it: give the path of one, such as %s", name, #files,
      files[1])
  end
  if files[1] then return files[1], "file" end
  return snapshot, "directory"
end

---A path as it is, or that of a hub name in the local cache; and whether it is a "directory" or a "file".
---@param path string
---@return string path
---@return string kind
function M.resolve(path)
  local kind = core.path_kind(path)
  if kind then return path, kind end
  if hub.is_name(path) then return resolve_name(path) end
  util.raise("not_found", "%s: no such file or directory", path)
end

-- ---- what lies there ----

---A file that holds a JSON object, with the special floats of configurations as numbers.
---@param path string
---@param optional boolean|nil  nil where there is no such file
---@return table|nil
function M.read_json(path, optional)
  local value, message, code = core.read_json(path)
  if value == nil then
    if optional and code == "not_found" then return nil end
    util.raise(code, "%s", message)
  end
  if type(value) ~= "table" or value[1] ~= nil then util.raise("corrupt", "%s: expected an object", path) end
  return config.floats(value)
end

-- Multimodal checkpoints keep the text model's weights under a name of their own.
local function text_name(name)
  for prefix, plain in pairs {["^language_model%.model%."] = "model.", ["^language_model%.lm_head%."] = "lm_head.",
    ["^model%.language_model%."] = "model."} do
    local short, n = name:gsub(prefix, plain)
    if n > 0 then return short end
  end
  return name
end

local function add_entry(source, path, entry)
  local other = source.entries[path]
  if other then
    util.raise("mismatch", "%s: tensors \"%s\" and \"%s\" are the same parameter %s", source.path, other.name,
      entry.name, path)
  end
  source.entries[path] = entry
end

---The tensors of a folder of safetensors, under the names of module paths. The file becomes `made.file` as soon as it
---is open.
---@return table source  {file, path, entries (module path -> entry), name_of(module path)}
function M.directory_source(made, path, family)
  local file, message, code = core.open_safetensors(path, true)
  if not file then util.raise(code, "%s", message) end
  made.file = file
  local source = {file = file, path = path, entries = {}, name_of = function(p) return p end}
  for _, entry in ipairs(file:entries()) do
    add_entry(source, family.text_config and text_name(entry.name) or entry.name, entry)
  end
  return source
end

---The same of the GGUF file `made.gguf`, whose norms may hold `norm_offset` beside the weight.
---@return table source
function M.gguf_source(made, path, family, c)
  local names = {}
  local divides = made.raw.rope_scaling and made.raw.rope_scaling.rope_type == "factors"
  local source = {
    file = made.gguf, path = path, entries = {}, norm_offset = family.gguf.norm_offset,
    name_of = function(p) return names[p] or p end,
  }
  for _, entry in ipairs(made.gguf:entries()) do
    local target, part = gguf.path(family, entry.name)
    if target and gguf.is_permuted(family, part) then
      entry.heads = part == "attn_q" and c.num_attention_heads or c.num_key_value_heads
    end
    if entry.name ~= "rope_freqs.weight" or not divides then -- else the configuration has read it
      add_entry(source, target or entry.name, entry)
      names[target or entry.name] = entry.name
    end
  end
  return source
end

-- ---- discovery ----

---{path, format, model_type} of a .gguf file or a folder with config.json; nil for what is no model.
---@param path string
---@return table|nil
function M.describe(path)
  if path:match "%.gguf$" then
    local file <close> = core.open_gguf(path)
    if not file then return nil end
    local architecture = file:metadata(0)["general.architecture"]
    local served, family = pcall(families.of_architecture, architecture, path)
    return {path = path, format = "gguf", model_type = served and family.model_types[1] or architecture}
  end
  if core.path_kind(path .. "/config.json") ~= "file" then return nil end
  local raw = core.read_json(path .. "/config.json")
  return {path = path, format = "safetensors", model_type = type(raw) == "table" and raw.model_type or nil}
end

---What a repository of the hub cache holds, by its name, behind the others of `out`: one model, or .gguf files.
---@param cache string  the hub's folder
---@param name string
---@param out table[]
function M.describe_repository(cache, name, out)
  local snapshot = hub.snapshot(cache, name)
  if not snapshot then return end
  local found = {M.describe(snapshot)}
  if not found[1] then
    for _, path in ipairs(gguf_files(snapshot)) do found[#found + 1] = M.describe(path) end
  end
  for _, model in ipairs(found) do
    model.name = name
    out[#out + 1] = model
  end
end

return M
