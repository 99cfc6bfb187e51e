---From a path to a model: config, family, weights, tokenizer, template.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local util = require "moonlet.util"
local config = require "moonlet.config"
local gguf = require "moonlet.gguf"

local M = {}

-- ---- families ----

local function is_family(x) return type(x) == "table" and type(x.model_types) == "table" end

local function serves(family, model_type)
  for _, name in ipairs(family.model_types) do
    if name == model_type then return true end
  end
  return false
end

-- A family in a file of the user's: $MOONLET_PATH (directories, separated by colons) and ./models.
local function user_family(model_type)
  if not model_type:match "^[%w_%-]+$" then return nil end
  local folders = (os.getenv "MOONLET_PATH" or "") .. ":./models"
  for folder in folders:gmatch "[^:]+" do
    local path = folder .. "/" .. model_type .. ".lua"
    if core.path_kind(path) == "file" then
      local chunk, message = loadfile(path, "t")
      if not chunk then util.raise("corrupt", "%s", message) end
      local family = chunk("moonlet.models." .. model_type, path)
      if not is_family(family) then util.raise("corrupt", "%s: expected the file to return a model class of nn.model", path) end
      return family
    end
  end
end

local function builtin_families()
  local list = {}
  for _, name in ipairs(core.modules "models/") do list[#list + 1] = require("moonlet.models." .. name) end
  return list
end

---The family that serves a model type.
function M.family(model_type)
  for _, family in ipairs(builtin_families()) do
    if serves(family, model_type) then return family end
  end
  return user_family(model_type)
    or util.raise("unsupported", "model_type \"%s\": no family serves it (built-in ones, $MOONLET_PATH, ./models)", tostring(model_type))
end

local function family_of_architecture(arch)
  for _, family in ipairs(builtin_families()) do
    for _, name in ipairs(family.gguf and family.gguf.architectures or {}) do
      if name == arch then return family end
    end
  end
  local family = user_family(tostring(arch))
  if family and family.gguf then return family end
  util.raise("unsupported", "general.architecture \"%s\": no family serves it", tostring(arch))
end

local function given_family(option)
  if type(option) == "table" and is_family(option) then return option end
  if type(option) == "string" and option:match "%.lua$" then
    local chunk, message = loadfile(option, "t")
    if not chunk then util.raise("not_found", "%s", message) end
    local family = chunk("moonlet.models", option)
    if is_family(family) then return family end
  elseif type(option) == "string" then
    local family = require(option)
    if is_family(family) then return family end
  end
  util.raise("usage", "family: expected a Lua file or module that returns a model class")
end

-- ---- weights ----

local function shape_text(shape) return "(" .. table.concat(shape, ", ") .. ")" end
local function same_shape(a, b) return table.concat(a, ",") == table.concat(b, ",") end

-- How one parameter is read from its tensor: packed for products, else as float32.
local function read_parameter(source, owner, key, spec, path, entry, opts)
  local name = entry.name
  if not same_shape(entry.shape, spec.shape) then
    util.raise("mismatch", "%s: %s: expected shape %s, found %s", source.path, name, shape_text(spec.shape), shape_text(entry.shape))
  end
  local matrix = spec.kind == "matrix"
  local tensor, message, code = source.file:load(name, {packed = matrix, exact = opts.precision == "exact", heads = entry.heads})
  if not tensor then util.raise(code, "%s: %s", source.path, message) end
  if not matrix then
    local raw = tensor
    tensor = raw:astype(opts.dtype or "float32")
    if source.norm_offset and path:match "norm%.weight$" then tensor = tensor - source.norm_offset end
    ml.eval(tensor)
  end
  rawset(owner, key, tensor)
end

local function ignored(family, name)
  for _, pattern in ipairs(family.ignore or {}) do
    if name:find(pattern) then return true end
  end
  return false
end

---Gives every parameter its value. source: {file, path, entries (module path -> entry), norm_offset}.
local function load_weights(net, family, source, opts)
  local used, done, total = {}, 0, 0
  net:each_parameter(function() total = total + 1 end)
  net:each_parameter(function(owner, key, spec, path)
    local entry = source.entries[path]
    if not entry then
      util.raise("not_found", "%s: weight \"%s\" is missing: expected shape %s", source.path, source.name_of(path), shape_text(spec.shape))
    end
    used[path] = true
    read_parameter(source, owner, key, spec, path, entry, opts)
    done = done + 1
    if opts.progress then opts.progress(done / total, path) end
    if core.cancelled() then util.raise("cancelled", "cancelled") end
  end)
  for _, path in ipairs(util.sorted_keys(source.entries)) do
    local name = source.entries[path].name
    if not used[path] and not ignored(family, name) and not (path == "lm_head.weight" and source.tied) then
      util.raise("mismatch", "%s: tensor \"%s\" belongs to no parameter of family %s", source.path, name, family.model_types[1])
    end
  end
end

-- Random weights at true shapes: matrices of deviation 1 / sqrt(inputs), norms near what leaves a vector as it is.
local function random_weights(net, opts, bits)
  local seed = opts.random
  net:each_parameter(function(owner, key, spec)
    seed = seed + 1
    if spec.kind == "matrix" then
      rawset(owner, key, core.random_packed(bits or "bfloat16", spec.shape[1], spec.shape[2], spec.shape[2] ^ -0.5, seed, opts.precision == "exact"))
    else
      rawset(owner, key, spec.init == "ones" and ml.ones(spec.shape) or ml.zeros(spec.shape))
      ml.eval(owner[key])
    end
  end)
end

-- ---- sources ----

local function read_json(path, optional)
  local value, message, code = core.read_json(path)
  if value == nil and not (optional and code == "not_found") then util.raise(code, "%s", message) end
  return value
end

local function directory_source(path, family, net_config)
  local file, message, code = core.open_safetensors(path, true)
  if not file then util.raise(code, "%s", message) end
  local entries = {}
  for _, entry in ipairs(file:entries()) do
    local name = entry.name
    if family.text_config then
      name = name:gsub("^language_model%.model%.", "model."):gsub("^language_model%.lm_head", "lm_head"):gsub("^model%.language_model%.", "model.")
    end
    entries[name] = entry
  end
  return {file = file, path = path, entries = entries, tied = net_config.tie_word_embeddings, name_of = function(p) return p end}
end

local function gguf_source(file, path, family, net_config)
  local entries, names = {}, {}
  for _, entry in ipairs(file:entries()) do
    local target, part = gguf.path(family, entry.name)
    if target and gguf.is_permuted(family, part) then
      entry.heads = part == "attn_q" and net_config.num_attention_heads or net_config.num_key_value_heads
    end
    if entry.name ~= "rope_freqs.weight" then
      entries[target or entry.name] = entry
      names[target or entry.name] = entry.name
    end
  end
  return {file = file, path = path, entries = entries, norm_offset = family.gguf.norm_offset, name_of = function(p) return names[p] or p end}
end

-- ---- tokenizers ----

local tokenizer = require "moonlet.tokenizer"

---A tokenizer from a directory, a tokenizer.json or a .gguf file.
function M.tokenizer(path)
  return util.soft(tokenizer.open, path)
end

-- ---- the model ----

local known = {
  device = false, dtype = false, precision = "fast", backend = "native", adapter = false, family = false, max_context = false, quantize = false,
  python = false, progress = false, threads = false, strict = false, random = false,
}

local function resolve(path)
  if type(path) ~= "string" then util.raise("usage", "load: expected a path, found %s", type(path)) end
  local kind = core.path_kind(path)
  if kind then return path, kind end
  if path:match "^[%w%-_.]+/[%w%-_.]+$" then
    local home = os.getenv "HF_HOME" or (os.getenv "HOME" or "") .. "/.cache/huggingface"
    local repo = (os.getenv "HF_HUB_CACHE" or home .. "/hub") .. "/models--" .. path:gsub("/", "--")
    local ref = io.open(repo .. "/refs/main")
    if ref then
      local snapshot = repo .. "/snapshots/" .. ref:read "l"
      ref:close()
      if core.path_kind(snapshot) == "directory" then return snapshot, "directory" end
    end
  end
  util.raise("not_found", "%s: no such file or directory", path)
end

-- The configuration, the family and where weights come from.
local function open_directory(path, opts)
  local raw = read_json(path .. "/config.json")
  if type(raw) ~= "table" then util.raise("corrupt", "%s/config.json: expected an object", path) end
  local model_type = raw.model_type
  if type(model_type) ~= "string" then util.raise("corrupt", "%s/config.json: model_type: expected a string, found %s", path, type(model_type)) end
  local family = opts.family and given_family(opts.family) or M.family(model_type)
  if family.text_config and type(raw.text_config) == "table" then raw = raw.text_config end
  return {raw = raw, family = family, source = function(c) return directory_source(path, family, c) end,
    generation = read_json(path .. "/generation_config.json", true), what = path .. "/config.json"}
end

local function open_gguf(path, opts)
  local file, message, code = core.open_gguf(path)
  if not file then util.raise(code, "%s", message) end
  local arch = file:metadata(0)["general.architecture"]
  local family = opts.family and given_family(opts.family) or family_of_architecture(arch)
  if not family.gguf then util.raise("unsupported", "%s: family %s does not say how GGUF files name its tensors", path, family.model_types[1]) end
  return {raw = gguf.config(file, family), family = family, gguf = file, source = function(c) return gguf_source(file, path, family, c) end, what = path}
end

local function check_config(what, c)
  for _, key in ipairs {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size", "num_key_value_heads", "head_dim"} do
    local value = c[key]
    if value ~= nil and (math.tointeger(value) == nil or value < 1 or value > 1 << 31) then
      util.raise("corrupt", "%s: %s: expected a positive integer, found %s", what, key, tostring(value))
    end
  end
end

local function build(path, opts)
  local resolved, kind = resolve(path)
  if opts.threads then core.threads(opts.threads) end
  if opts.device then core.default_device(opts.device) end
  if opts.precision ~= "fast" and opts.precision ~= "exact" then util.raise("usage", "precision: expected \"fast\" or \"exact\", found %s", tostring(opts.precision)) end
  local parts = kind == "directory" and open_directory(resolved, opts) or open_gguf(resolved, opts)
  local family = parts.family
  local c, unread = config.wrap(parts.raw, family.config)
  check_config(parts.what, c)
  local net = family(c)
  net:set_name(family.model_types[1])
  local warnings = {}
  for _, key in ipairs(unread()) do
    if opts.strict then util.raise("unsupported", "%s: key \"%s\" is not read by family %s", parts.what, key, family.model_types[1]) end
    warnings[#warnings + 1] = ("%s: key \"%s\" is not read by family %s"):format(parts.what, key, family.model_types[1])
  end
  local source
  if opts.random then
    random_weights(net, opts, type(opts.quantize) == "table" and opts.quantize.format or nil)
  else
    source = parts.source(c)
    load_weights(net, family, source, opts)
  end
  local model = require("moonlet.model").new {
    net = net, config = c, raw = parts.raw, family = family, path = resolved, options = opts, warnings = warnings, generation_config = parts.generation,
    tokenizer = tokenizer.of_model(resolved, parts.gguf, parts.generation),
    entries = source and source.entries, precision = opts.precision,
  }
  if parts.gguf then parts.gguf:close() end
  if source and source.file ~= parts.gguf then source.file:close() end
  return model
end

local backends = {}

---Another engine behind the same model interface: {load = function(path, opts)}.
function M.register_backend(name, backend)
  if type(backend) ~= "table" or type(backend.load) ~= "function" then util.raise("usage", "register_backend: expected {load = function}") end
  backends[name] = backend
end

---Names of the engines that models can run on.
---@return string[]
function M.backends()
  local names = {"native"}
  for _, name in ipairs(util.sorted_keys(backends)) do names[#names + 1] = name end
  return names
end

---A model: its config, family, weights, tokenizer and template. nil, message, code when it cannot be.
---@param path string  a directory with config.json, a .gguf file, or a hub name in the local cache
---@param opts table|nil
---@return moonlet.Model|nil, string|nil, string|nil
function M.load(path, opts)
  opts = util.options(opts, known, "load")
  if opts.backend ~= "native" then
    local backend = backends[opts.backend]
    if not backend then return util.fail("unsupported", "backend \"%s\" is not registered", tostring(opts.backend)) end
    return backend.load(path, opts)
  end
  return util.soft(build, path, opts)
end

---Models below a directory: {path, format, model_type} each.
function M.discover(dir)
  local out = {}
  local names, message, code = core.list_directory(dir)
  if not names then return nil, message, code end
  for _, name in ipairs(names) do
    local path = dir .. "/" .. name
    if name:match "%.gguf$" then
      local file = core.open_gguf(path)
      if file then
        out[#out + 1] = {path = path, format = "gguf", model_type = file:metadata(0)["general.architecture"]}
        file:close()
      end
    elseif core.path_kind(path .. "/config.json") == "file" then
      local raw = core.read_json(path .. "/config.json")
      out[#out + 1] = {path = path, format = "safetensors", model_type = type(raw) == "table" and raw.model_type or nil}
    end
  end
  return out
end

return M
