---From a path to a model: config, family, weights, tokenizer, template. The rooms lie in load/.
local core = require "moonlet.core"
local config = require "moonlet.config"
local configuration = require "moonlet.load.configuration"
local families = require "moonlet.load.families"
local files = require "moonlet.load.files"
local generation_config = require "moonlet.generation_config"
local hub = require "moonlet.hub"
local tokenizer = require "moonlet.tokenizer"
local util = require "moonlet.util"
local weights = require "moonlet.load.weights"

local M = {}

---A tokenizer from a directory, a tokenizer.json, a .gguf file, or a hub name in the local cache; nil, message, code
---when it cannot be. Tokens that tokenizer_config.json, special_tokens_map.json and added_tokens.json list beside a
---tokenizer.json are added as transformers adds them: with their flags, and with the next free ids where the vocabulary
---has none for them.
---@param path string
---@return moonlet.Tokenizer|nil
function M.tokenizer(path)
  return util.soft(function() return tokenizer.open(type(path) == "string" and files.resolve(path) or path) end)
end

-- ---- options ----

local known = {
  device = false, dtype = false, precision = "fast", backend = "native", adapter = false, family = false,
  max_context = false, quantize = false, python = false, progress = false, threads = false, strict = false,
  random = false, cache_dtype = false, share = false,
}

local formats = {q4_0 = 4, q4_1 = 4, q5_0 = 5, q5_1 = 5, q8_0 = 8, q4_k = 4, q5_k = 5, q6_k = 6}
local format_of_bits = {[4] = "q4_0", [8] = "q8_0"}
local rounded = {q4_0 = true, q8_0 = true} -- what float weights can be rounded to

-- {bits, group_size, format} -> the same, complete.
local function check_quantize(q, random)
  if q == nil then return nil end
  q = util.options(q, {bits = false, group_size = false, format = false}, "quantize")
  local format = q.format or format_of_bits[q.bits or 4]
    or util.unexpected("quantize: bits", "4 or 8", q.bits, "unsupported")
  local bits = formats[format]
    or util.unexpected("quantize: format", table.concat(util.sorted_keys(formats), ", "), format, "unsupported")
  local group = format:match "_k$" and 256 or 32
  if q.bits and q.bits ~= bits then
    util.raise("usage", "quantize: format %s has %d bits, not %s", format, bits, util.text(q.bits))
  end
  if q.group_size and q.group_size ~= group then
    util.raise("unsupported", "quantize: group_size: expected %d, found %s", group, util.text(q.group_size))
  end
  if not random and not rounded[format] then
    util.raise("unsupported", "quantize: format: weights of a file are rounded to %s, not to %s",
      table.concat(util.sorted_keys(rounded), " or "), format)
  end
  return {format = format, bits = bits, group_size = group}
end

local function check_options(opts)
  for name, most in pairs {threads = 1024, max_context = (1 << 31) - 1} do
    opts[name] = opts[name] and util.integer("load: " .. name, opts[name], 1, most)
  end
  if opts.precision ~= "fast" and opts.precision ~= "exact" then
    util.unexpected("load: precision", "\"fast\" or \"exact\"", opts.precision)
  end
  for _, name in ipairs {"dtype", "cache_dtype"} do
    if opts[name] and not util.contains(util.compute_dtypes, opts[name]) then
      util.unexpected("load: " .. name, table.concat(util.compute_dtypes, ", "), opts[name], "unsupported")
    end
  end
  if opts.adapter then util.raise("unsupported", "load: adapter: this version loads none") end
  if opts.family and type(opts.family) ~= "string" and not families.is(opts.family) then
    util.unexpected("load: family", families.EXPECTED, opts.family)
  end
  if opts.progress and type(opts.progress) ~= "function" then
    util.unexpected("load: progress", "a function", opts.progress)
  end
  opts.random = opts.random and util.integer("load: random", opts.random)
  opts.quantize = check_quantize(opts.quantize, opts.random)
  if opts.device then core.device(opts.device) end -- raises for one that is not there
  if opts.threads then core.threads(opts.threads) end
end

-- ---- the model ----

-- Closes what a load had opened; after one that failed also what it had made of a model.
local function drop(made, failed)
  for _, name in ipairs {"file", "gguf", failed and "tokenizer"} do
    if made[name] then made[name]:close() end
  end
  if failed then util.close(made.scope) end
end

local function assemble(made, opts, given)
  local path, kind = files.resolve(given)
  configuration.open(made, path, kind, opts)
  local own = config.wrap(made.raw, made.family, made.what)
  if made.source then configuration.check_layers(made, own.num_hidden_layers) end
  local untied = made.source and weights.unties(made.source, own.tie_word_embeddings)
  if untied then made.raw.tie_word_embeddings = false end
  local c, unread, absent = config.wrap(made.raw, made.family, made.what) -- which notes what the family reads
  made.net = configuration.build(made, c, absent)
  made.net:compute_in(opts.dtype or "float32")
  local warnings = configuration.unread(made, c, unread, opts.strict)
  if untied then
    warnings[#warnings + 1] = ("%s: tie_word_embeddings: true, but %s differs from the embedding: it is used"):format(
      made.what, untied)
  end
  if opts.share then
    weights.adopt(made.net, opts.share)
  elseif made.source then
    warnings[#warnings + 1] = weights.load(made.net, made.family, made.source, opts)
  else
    weights.random(made.net, opts)
  end
  made.tokenizer = tokenizer.of_model(path, made.gguf, made.ends)
  weights.poll()
  local more = generation_config.warnings(made.generation or {}, path .. "/generation_config.json")
  table.move(more, 1, #more, #warnings + 1, warnings)
  if made.tokenizer and made.tokenizer.vocab_size > c.vocab_size then
    warnings[#warnings + 1] = ("%s: the tokenizer has %d ids, the embedding %d rows"):format(made.what,
      made.tokenizer.vocab_size, c.vocab_size)
  end
  return require("moonlet.model").new {
    net = made.net, config = c, raw = made.raw, family = made.family, path = path, options = opts, warnings = warnings,
    generation_config = made.generation, tokenizer = made.tokenizer, ends = made.ends,
    entries = weights.formats(made.net), precision = opts.precision, scope = made.scope,
  }
end

-- All tensors of the model belong to its scope, and lie on its device.
local function assemble_within(made, opts, path)
  local _ <close> = core.on(opts.device)
  local _ <close> = core.within(made.scope)
  return assemble(made, opts, path)
end

local function build(path, opts)
  local made = {scope = core.scope_new()}
  local ok, model = pcall(assemble_within, made, opts, path)
  drop(made, not ok)
  if ok then return model end
  core.take_cancel() -- one that came beside another failure was meant for this call
  error(model, 0)
end

-- ---- weights of another engine ----

-- What decides how weights are made, so that a model with those of another must have it as that one had.
local makes = {"device", "dtype", "precision", "family", "quantize", "random"}

---What is said about weights that are shared: where they came from, and the options that made them.
---@param model moonlet.Model
---@return string
function M.about(model)
  local about, o = {path = model.info.path, options = {}}, model.options
  for _, name in ipairs(makes) do about.options[name] = o[name] or nil end
  about.options.family = type(o.family) == "string" and o.family or nil
  about.options.device = model.device
  return core.json.encode(about)
end

-- Path and options of a load of shared weights.
local function of_shared(path, given)
  local about, opts = core.json.decode(util.must(core.shared_about(given.share))), {}
  for name, value in pairs(given) do opts[name] = value end
  for _, name in ipairs(makes) do
    local value = about.options[name]
    if opts[name] == nil then opts[name] = value
    elseif name == "quantize" or value ~= nil and opts[name] ~= value then
      util.raise("mismatch", "load: share: %s: the weights were made with %s, found %s", name, util.text(value),
        util.text(opts[name]))
    end
  end
  return path or about.path, opts
end

local backends = {}

---Another engine behind the same model interface: {load = function(path, opts)}.
---@param name string  for load's option `backend`
---@param backend table
function M.register_backend(name, backend)
  if type(backend) ~= "table" or type(backend.load) ~= "function" then
    util.unexpected("register_backend: backend", "{load = function}", backend)
  end
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
---@param opts table|nil  {device, dtype, precision = "fast", family, max_context, threads, progress, strict, random,
---  quantize, backend, cache_dtype, share}. `share` is what `m:share()` of another engine of this process gave: its
---  weights are used, and the path may be left out: load {share = token}.
---@return moonlet.Model|nil, string|nil, string|nil
function M.load(path, opts)
  if type(path) == "table" and opts == nil then path, opts = nil, path end
  if type(opts) == "table" and opts.share then
    if type(opts.share) ~= "string" then util.unexpected("load: share", "what m:share() gave", opts.share) end
    local ok, found, options = util.soft(function() return true, of_shared(path, opts) end) -- or nil, message, code
    if not ok then return nil, found, options end
    path, opts = found, options
  end
  opts = util.options(opts, known, "load")
  if opts.backend ~= "native" then
    local backend = backends[opts.backend]
    if not backend then
      return util.fail("unsupported", "load: backend: expected %s, found %s", table.concat(M.backends(), ", "),
        util.show(opts.backend))
    end
    return backend.load(path, opts)
  end
  util.path("load: path", path)
  local ok, err = pcall(check_options, opts)
  if not ok and (type(err) ~= "table" or err.code == "usage") then error(err, 0) end
  if not ok then return nil, err.reason, err.code end
  return util.soft(build, path, opts)
end

---Models in a directory: {path, format, model_type} each; nil, message, code when it cannot be read. Without a
---directory, those in the local hub cache, which also have their hub name as `name`.
---@param dir string|nil
---@return table[]|nil
function M.discover(dir)
  local out = {}
  if dir == nil then dir = hub.folder() end
  if type(dir) ~= "string" then util.unexpected("discover: dir", "a path", dir) end
  local names, message, code = core.list_directory(dir)
  if not names then return nil, message, code end
  for _, name in ipairs(names) do
    local repository = hub.name_of(name)
    if repository then files.describe_repository(dir, repository, out)
    else out[#out + 1] = files.describe(dir .. "/" .. name) end
  end
  return out
end

return util.guard(M, "", true)
