---A checkpoint's configuration: the family that reads it, the net that comes of it, and what is to be said about it.
local core = require "moonlet.core"
local config = require "moonlet.config"
local families = require "moonlet.load.families"
local files = require "moonlet.load.files"
local gguf = require "moonlet.gguf"
local nn = require "moonlet.nn"
local tokenizer = require "moonlet.tokenizer"
local util = require "moonlet.util"

local M = {}

-- Weights under a quantisation that is not read would be leftovers by names that tell nobody why.
local function check_quantization(raw, what)
  for _, key in ipairs {"quantization", "quantization_config"} do
    local q = raw[key]
    if type(q) == "table" then
      util.raise("unsupported", "%s: %s: weights in the format %s are not supported", what, key,
        tostring(q.quant_method or q.mode or "affine"))
    end
  end
end

local function open_directory(made, path, opts)
  local what = path .. "/config.json"
  local raw = files.read_json(what)
  local model_type = raw.model_type
  if type(model_type) ~= "string" then
    util.raise("corrupt", "%s: model_type: expected a string, found %s", what, type(model_type))
  end
  local family = families.check(opts.family and families.given(opts.family)
    or families.of_model_type(model_type, what))
  local whole = raw
  if family.text_config and type(raw.text_config) == "table" then raw = raw.text_config end
  if not opts.random then check_quantization(raw, what) end
  config.check(what, raw, family, opts.max_context)
  made.raw, made.family, made.what = raw, family, what
  made.generation = files.read_json(path .. "/generation_config.json", true)
  local ends = (made.generation or {}).eos_token_id
  if ends ~= nil then made.ends = tokenizer.configured_ends(ends, path .. "/generation_config.json: eos_token_id")
  else made.ends = tokenizer.configured_ends(raw.eos_token_id or whole.eos_token_id, what .. ": eos_token_id") end
  if not opts.random then made.source = files.directory_source(made, path, family) end
end

local function open_gguf(made, path, opts)
  local file, message, code = core.open_gguf(path)
  if not file then util.raise(code, "%s", message) end
  made.gguf = file
  local arch = file:metadata(0)["general.architecture"]
  if type(arch) ~= "string" then
    util.raise("corrupt", "%s: general.architecture: expected a string, found %s", path, type(arch))
  end
  local family = families.check(opts.family and families.given(opts.family) or families.of_architecture(arch, path))
  if not family.gguf then
    util.raise("unsupported", "%s: general.architecture \"%s\": family %s has no table `gguf`, which says how GGUF "
      .. "files name its tensors (%s)", path, arch, family.model_types[1], core.source(family.init) or "no file")
  end
  made.raw, made.family, made.what = gguf.config(file, family, path), family, path
  made.ends = gguf.ends(file, path)
  config.check(path, made.raw, family, opts.max_context)
  if not opts.random then made.source = files.gguf_source(made, path, family, config.wrap(made.raw, family, path)) end
end

---Reads the configuration, finds the family and where weights come from. They become fields of `made`: raw, what (the
---file that messages name), family, ends, source (nil for random weights) and, of a directory, generation.
---@param made table
---@param path string
---@param kind string  "directory" or "file"
---@param opts table  of load
function M.open(made, path, kind, opts)
  local open = kind == "directory" and open_directory or open_gguf
  open(made, path, opts)
end

---A layer has a weight at the least: a count beyond that is refused before a net of so many layers is built.
function M.check_layers(made, layers)
  local n = #util.sorted_keys(made.source.entries)
  if layers > n then
    util.raise("mismatch", "%s: num_hidden_layers: found %d, but the checkpoint has %d tensors", made.what, layers, n)
  end
end

-- How messages sound where something is done with a nil that is no function: a key that is missing may be behind it.
local function is_about_nil(text)
  if text:find "attempt to call" then return false end
  for _, pattern in ipairs {"nil value", "got nil", "found nothing", "with nil", "compare nil"} do
    if text:find(pattern) then return true end
  end
  return false
end

---The family's net for a configuration. What is raised by a code other than "usage" is about the file that the net is
---made from; the rest is about the family's lines, unless they do something with a key that the file has not.
function M.build(made, c, absent)
  local ok, net = pcall(nn.build, made.family, c)
  if ok then
    net:set_name(made.family.model_types[1])
    return net
  end
  local text, name = tostring(net), made.family.model_types[1]
  if type(net) == "table" and net.code then
    local own = (core.source(made.family.init) or "") .. ":" -- what the family's own lines raise says where
    text = tostring(net.message)
    if net.code ~= "usage" and text:sub(1, #own) ~= own then text = net.reason or text end
    if text:find(made.what .. ": ", 1, true) then util.raise(net.code, "%s", text) end -- it says the file itself
    if net.code ~= "usage" then util.raise(net.code, "%s: %s", made.what, text) end
  end
  local keys = is_about_nil(text) and table.concat(absent(), ", ") or ""
  if keys == "" then util.raise("usage", "%s (family %s, built for %s)", text, name, made.what) end
  util.raise("corrupt", "%s (family %s, built for %s, which has not these keys that it reads: %s)", text, name,
    made.what, keys)
end

---A warning for each key that nobody has read; an error where `strict` is set.
---@return string[]
function M.unread(made, c, unread, strict)
  local _, _ = c.num_hidden_layers, c.vocab_size -- m.info tells them
  if made.source then _ = c.tie_word_embeddings end -- which is compared with the weights
  local warnings = {}
  for _, key in ipairs(unread()) do
    local text = ("%s: key \"%s\" is not read by family %s"):format(made.what, key, made.family.model_types[1])
    if strict then util.raise("unsupported", "%s", text) end
    warnings[#warnings + 1] = text
  end
  return warnings
end

return M
