---From a path to a model: config, family, weights, tokenizer, template.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local compile = require "moonlet.compile"
local util = require "moonlet.util"
local config = require "moonlet.config"
local generation_config = require "moonlet.generation_config"
local gguf = require "moonlet.gguf"
local hub = require "moonlet.hub"
local nn = require "moonlet.nn"

local M = {}

-- ---- families ----

local function is_family(x) return type(x) == "table" and type(x.model_types) == "table" end

local function serves(family, model_type)
  for _, name in ipairs(family.model_types) do
    if name == model_type then return true end
  end
  return false
end

-- What a family's file returns. Whatever goes wrong in it is about the file.
local function run_family(path, name)
  local chunk, message = loadfile(path, "t")
  if chunk then
    local ok, family = pcall(chunk, name, path)
    if ok then return family end
    if type(family) == "table" and family.code == "cancelled" then error(family, 0) end
    message = family
  end
  local text = tostring(message)
  util.raise("corrupt", "%s", text:find(path, 1, true) and text or path .. ": " .. text)
end

-- A family in a file of the user's: $MOONLET_PATH (directories, separated by colons) and ./models.
local function user_family(model_type)
  if not model_type:match "^[%w_%-]+$" then return nil end
  local folders = (os.getenv "MOONLET_PATH" or "") .. ":./models"
  for folder in folders:gmatch "[^:]+" do
    local path = folder .. "/" .. model_type .. ".lua"
    if core.path_kind(path) == "file" then
      local family = run_family(path, "moonlet.models." .. model_type)
      if not is_family(family) then
        util.raise("corrupt", "%s: expected the file to return a model class of nn.model", path)
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
function M.family(model_type, what)
  for _, family in ipairs(builtin_families()) do
    if serves(family, model_type) then return family end
  end
  return user_family(model_type)
    or util.raise("unsupported", "%s: model_type \"%s\": no family serves it (%s)", what or "load", model_type,
      searched(model_type))
end

local function family_of_architecture(arch, path)
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
  util.raise("corrupt", "load: family: %s", tostring(family))
end

local FAMILY = "a model class of nn.model, or a Lua file or module that returns one"

local function given_family(option)
  local family = option
  if type(option) == "string" and option:match "%.lua$" then
    if core.path_kind(option) ~= "file" then util.raise("not_found", "load: family: %s: no such file", option) end
    family = run_family(option, "moonlet.models")
  elseif type(option) == "string" then
    family = family_module(option)
  end
  if is_family(family) then return family end
  util.unexpected("load: family", FAMILY, family)
end

-- What a family's file has to define, so that a slip of the pen is told by its name.
local function check_family(family)
  local name = "family " .. family.model_types[1]
  if type(family.init) ~= "function" then
    local source = type(family.forward) == "function" and core.source(family.forward)
    util.unexpected(("%s%s: init"):format(name, source and " (" .. source .. ")" or ""), "a function", family.init)
  end
  for _, field in ipairs {"config", "ignore", "lora"} do
    if type(family[field]) ~= "table" then util.unexpected(name .. ": " .. field, "a table", family[field]) end
  end
  return family
end

-- ---- weights ----

local function shape_text(shape) return "(" .. table.concat(shape, ", ") .. ")" end
local function same_shape(a, b) return table.concat(a, ",") == table.concat(b, ",") end

-- The flag that a cancel raised has become an error.
local function raise_cancelled()
  core.take_cancel()
  util.raise("cancelled", "cancelled")
end

local float_types = {float32 = true, float16 = true, bfloat16 = true, float64 = true}

-- Values of a vector (norms, biases) as float32.
local function vector(source, path, tensor, name)
  if not float_types[tensor.dtype] then
    util.raise("mismatch", "%s: %s: expected a float dtype, found %s", source.path, name, tensor.dtype)
  end
  local values = compile.scope(function()
    local x = tensor:astype "float32"
    if source.norm_offset and path:match "norm%.weight$" then x = x - source.norm_offset end
    ml.eval(x)
    return x
  end)
  if values ~= tensor then tensor:close() end
  return values
end

-- The block format that a matrix is rounded to, or nil where it stays as it is: a width that no block divides stays
-- dense.
local function format_for(opts, inputs)
  local q = opts.quantize
  return q and inputs % q.group_size == 0 and q.format or nil
end

-- How one parameter is read from its tensor: packed for products, else as float32.
local function read_parameter(source, owner, key, spec, path, entry, opts)
  local name = entry.name
  if not same_shape(entry.shape, spec.shape) then
    util.raise("mismatch", "%s: %s: expected shape %s, found %s", source.path, name, shape_text(spec.shape),
      shape_text(entry.shape))
  end
  local matrix = spec.kind == "matrix"
  local quantize = matrix and format_for(opts, spec.shape[2])
  if quantize and not float_types[entry.dtype] then
    util.raise("unsupported", "%s: %s: quantize: expected float weights, found %s", source.path, name, entry.dtype)
  end
  local tensor, message, code = source.file:load(name, {
    packed = matrix, exact = opts.precision == "exact", heads = entry.heads, quantize = quantize,
  })
  if code == "cancelled" then raise_cancelled() end
  if not tensor then util.raise(code, "%s: %s", source.path, message) end
  rawset(owner, key, matrix and tensor or vector(source, path, tensor, name))
end

local function ignored(family, name)
  for _, pattern in ipairs(family.ignore or {}) do
    if name:find(pattern) then return true end
  end
  return false
end

local MOST_FREQUENCIES = 1 << 16 -- of a table that is looked at

-- How far apart two numbers are that a dtype holds as one.
local rounding = {float32 = 2.0 ^ -20, float16 = 2.0 ^ -10, bfloat16 = 2.0 ^ -7}

-- Whether a table of rotary frequencies, as older files have them, is one that the net computes anyway.
local function is_computed(net, source, entry)
  local near = rounding[entry.dtype] or rounding.float32
  local values = compile.scope(function()
    local is_table = #entry.shape == 1 and entry.shape[1] <= MOST_FREQUENCIES and float_types[entry.dtype]
    local x = is_table and source.file:load(entry.name)
    return x and x:astype "float32":tolist()
  end)
  local function is(table_)
    local numbers = table_:tolist()
    for i, f in ipairs(numbers) do
      local same = values[i] and math.abs(values[i] - f) <= near * math.abs(f) + 2.0 ^ -24
      if not same then return false end
    end
    return #numbers == #values
  end
  local seen = {}
  for _, module in ipairs(values and net:named_modules() or {}) do
    local frequencies = rawget(module[2], "frequencies")
    if ml.is_tensor(frequencies) and not seen[frequencies] then
      if is(frequencies) then return true end
      seen[frequencies] = true
    end
  end
  return false
end

-- What belongs to no parameter is an error; what the family leaves out on purpose (the eyes of a model that reads text)
-- is told in the warning that comes back, but for rotary frequencies of older files, which are computed anyway.
local function check_leftover(net, family, source, used)
  local count, first, tables = 0, nil, {}
  for _, path in ipairs(util.sorted_keys(source.entries)) do
    local name = source.entries[path].name
    if not used[path] and not ignored(family, name) then
      util.raise("mismatch", "%s: tensor \"%s\" belongs to no parameter of family %s", source.path, name,
        family.model_types[1])
    elseif not used[path] and name:find "%.inv_freq$" then
      tables[#tables + 1] = source.entries[path]
    elseif not used[path] then
      count, first = count + 1, first or name
    end
  end
  local others = 0
  for _, entry in ipairs(tables) do
    if not is_computed(net, source, entry) then
      count, others, first = count + 1, others + 1, first or entry.name
    end
  end
  if count == 0 then return nil end
  local why = others == 0 and "" or ("; of these %d rotary frequencies that are not what it computes"):format(others)
  return ("%s: family %s leaves out %d tensor%s that its list `ignore` names, from \"%s\" on%s"):format(source.path,
    family.model_types[1], count, count > 1 and "s" or "", first, why)
end

---Gives every parameter its value. source: {file, path, entries (module path -> entry), norm_offset}. Returns a warning
---where the family leaves tensors out.
local function load_weights(net, family, source, opts)
  local used, done, total = {}, 0, 0
  -- All names first: a file that does not fit is refused before a byte is read.
  net:each_parameter(function(_, _, spec, path)
    total = total + 1
    used[path] = true
    if not source.entries[path] then
      util.raise("not_found", "%s: weight \"%s\" is missing: expected shape %s", source.path, source.name_of(path),
        shape_text(spec.shape))
    end
  end)
  local warning = check_leftover(net, family, source, used)
  net:each_parameter(function(owner, key, spec, path)
    read_parameter(source, owner, key, spec, path, source.entries[path], opts)
    done = done + 1
    if opts.progress then compile.unscoped(opts.progress, done / total, path) end
    if core.cancelled() then raise_cancelled() end
  end)
  return warning
end

local HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
local COMPARED_ROWS = 4096

-- Whether two matrices of the file hold the same numbers.
local function same_numbers(source, a, b)
  if not same_shape(a.shape, b.shape) or #a.shape ~= 2 then return false end
  return compile.scope(function()
    local x, y = util.must(source.file:load(a.name)), util.must(source.file:load(b.name))
    for first = 1, a.shape[1], COMPARED_ROWS do
      local rows = {first, math.min(first + COMPARED_ROWS - 1, a.shape[1])}
      local same = ml.scope(function() return x:slice {rows}:eq(y:slice {rows}):all():item() end)
      if not same then return false end
      if core.cancelled() then raise_cancelled() end
    end
    return true
  end)
end

-- What becomes of a head in the file of a configuration that ties it to the embedding, as in the reference: a head
-- alone is the embedding too; one that says the same is not kept twice; one that differs is used. True in the last
-- case, where the net must have a head.
local function unties(source, tied)
  local head, embedding = source.entries[HEAD], source.entries[EMBEDDING]
  if not tied or not head then return false end
  if embedding and not same_numbers(source, head, embedding) then return true end
  source.entries[EMBEDDING], source.entries[HEAD] = embedding or head, nil
  return false
end

-- Random weights at true shapes: matrices of deviation 1 / sqrt(inputs), norms near what leaves a vector as it is.
local function random_weights(net, opts)
  local seed, exact = opts.random, opts.precision == "exact"
  net:each_parameter(function(owner, key, spec)
    seed = seed + 1
    if spec.kind == "matrix" then
      local rows, inputs = spec.shape[1], spec.shape[2]
      local format = format_for(opts, inputs) or "bfloat16"
      rawset(owner, key, core.random_packed(format, rows, inputs, inputs ^ -0.5, seed, exact))
    else
      rawset(owner, key, spec.init == "ones" and ml.ones(spec.shape) or ml.zeros(spec.shape))
      ml.eval(owner[key])
    end
    if core.cancelled() then raise_cancelled() end
  end)
end

-- Closes what a load had opened; after one that failed also what it had made of a model.
local function drop(made, failed)
  for _, name in ipairs {"file", "gguf", failed and "tokenizer"} do
    if made[name] then made[name]:close() end
  end
  if failed then util.close(made.scope) end
end

-- ---- sources ----

local function read_json(path, optional)
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

local function directory_source(made, path, family)
  local file, message, code = core.open_safetensors(path, true)
  if not file then util.raise(code, "%s", message) end
  made.file = file
  local source = {file = file, path = path, entries = {}, name_of = function(p) return p end}
  for _, entry in ipairs(file:entries()) do
    add_entry(source, family.text_config and text_name(entry.name) or entry.name, entry)
  end
  return source
end

local function gguf_source(made, path, family, c)
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

local function resolve(path)
  local kind = core.path_kind(path)
  if kind then return path, kind end
  if hub.is_name(path) then return resolve_name(path) end
  util.raise("not_found", "%s: no such file or directory", path)
end

-- ---- tokenizers ----

local tokenizer = require "moonlet.tokenizer"

---A tokenizer from a directory, a tokenizer.json, a .gguf file, or a hub name in the local cache; nil, message, code
---when it cannot be. Tokens that tokenizer_config.json, special_tokens_map.json and added_tokens.json list beside a
---tokenizer.json are added as transformers adds them: with their flags, and with the next free ids where the vocabulary
---has none for them.
---@param path string
---@return moonlet.Tokenizer|nil
function M.tokenizer(path)
  return util.soft(function() return tokenizer.open(type(path) == "string" and resolve(path) or path) end)
end

-- ---- options ----

local known = {
  device = false, dtype = false, precision = "fast", backend = "native", adapter = false, family = false,
  max_context = false, quantize = false, python = false, progress = false, threads = false, strict = false,
  random = false,
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
    or util.raise("unsupported", "quantize: format \"%s\" is not supported", tostring(format))
  local group = format:match "_k$" and 256 or 32
  if q.bits and q.bits ~= bits then
    util.raise("usage", "quantize: format %s has %d bits, not %s", format, bits, util.text(q.bits))
  end
  if q.group_size and q.group_size ~= group then
    util.raise("unsupported", "quantize: group_size: expected %d, found %s", group, util.text(q.group_size))
  end
  if not random and not rounded[format] then
    util.raise("unsupported", "quantize: weights of a file cannot be rounded to %s yet", format)
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
  if opts.dtype and opts.dtype ~= "float32" then
    util.raise("unsupported", "load: dtype: the CPU computes in float32, not %s", tostring(opts.dtype))
  end
  if opts.adapter then util.raise("unsupported", "load: adapter: this version loads none") end
  if opts.family and type(opts.family) ~= "string" and not is_family(opts.family) then
    util.unexpected("load: family", FAMILY, opts.family)
  end
  if opts.progress and type(opts.progress) ~= "function" then
    util.unexpected("load: progress", "a function", opts.progress)
  end
  opts.random = opts.random and util.integer("load: random", opts.random)
  opts.quantize = check_quantize(opts.quantize, opts.random)
  if opts.device then core.default_device(opts.device) end
  if opts.threads then core.threads(opts.threads) end
end

-- ---- the model ----

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

-- The configuration, the family and where weights come from.
local function open_directory(made, path, opts)
  local what = path .. "/config.json"
  local raw = read_json(what)
  local model_type = raw.model_type
  if type(model_type) ~= "string" then
    util.raise("corrupt", "%s: model_type: expected a string, found %s", what, type(model_type))
  end
  local family = check_family(opts.family and given_family(opts.family) or M.family(model_type, what))
  local whole = raw
  if family.text_config and type(raw.text_config) == "table" then raw = raw.text_config end
  if not opts.random then check_quantization(raw, what) end
  config.check(what, raw, family)
  made.raw, made.family, made.what = raw, family, what
  made.generation = read_json(path .. "/generation_config.json", true)
  local ends = (made.generation or {}).eos_token_id
  if ends ~= nil then made.ends = tokenizer.configured_ends(ends, path .. "/generation_config.json: eos_token_id")
  else made.ends = tokenizer.configured_ends(raw.eos_token_id or whole.eos_token_id, what .. ": eos_token_id") end
  if not opts.random then made.source = directory_source(made, path, family) end
end

local function open_gguf(made, path, opts)
  local file, message, code = core.open_gguf(path)
  if not file then util.raise(code, "%s", message) end
  made.gguf = file
  local arch = file:metadata(0)["general.architecture"]
  if type(arch) ~= "string" then
    util.raise("corrupt", "%s: general.architecture: expected a string, found %s", path, type(arch))
  end
  local family = check_family(opts.family and given_family(opts.family) or family_of_architecture(arch, path))
  if not family.gguf then
    util.raise("unsupported", "%s: general.architecture \"%s\": family %s has no table `gguf`, which says how GGUF "
      .. "files name its tensors (%s)", path, arch, family.model_types[1], core.source(family.init) or "no file")
  end
  made.raw, made.family, made.what = gguf.config(file, family, path), family, path
  made.ends = gguf.ends(file, path)
  config.check(path, made.raw, family)
  if not opts.random then made.source = gguf_source(made, path, family, config.wrap(made.raw, family, path)) end
end

-- A layer has a weight at the least: a count beyond that is refused before a net of so many layers is built.
local function check_layers(made, layers)
  local n = #util.sorted_keys(made.source.entries)
  if layers > n then
    util.raise("mismatch", "%s: num_hidden_layers: found %d, but the checkpoint has %d tensors", made.what, layers, n)
  end
end

-- The family's net for a configuration. Whatever goes wrong inside is about the file that it was made from.
local function build_net(made, c, absent)
  local ok, net = pcall(nn.build, made.family, c)
  if ok then
    net:set_name(made.family.model_types[1])
    return net
  end
  if type(net) == "table" and net.code then
    local own = (core.source(made.family.init) or "") .. ":" -- what the family's own lines raise says where
    local message = tostring(net.message)
    local told = net.code == "usage" or message:sub(1, #own) == own
    local text = told and message or net.reason or message
    if text:find(made.what .. ": ", 1, true) then util.raise(net.code, "%s", text) end -- it says the file itself
    util.raise(net.code, "%s: %s", made.what, text)
  end
  local keys = table.concat(absent(), ", ")
  util.raise("corrupt", "%s: family %s cannot be built from it: %s (keys that it reads and the file has not: %s)",
    made.what, made.family.model_types[1], tostring(net), keys == "" and "none" or keys)
end

local function warn_of_unread(made, c, unread, strict)
  local _, _ = c.num_hidden_layers, c.vocab_size -- m.info tells them
  local warnings = {}
  for _, key in ipairs(unread()) do
    local text = ("%s: key \"%s\" is not read by family %s"):format(made.what, key, made.family.model_types[1])
    if strict then util.raise("unsupported", "%s", text) end
    warnings[#warnings + 1] = text
  end
  return warnings
end

local function warn_of_generation(made, path, warnings)
  local more = generation_config.warnings(made.generation or {}, path .. "/generation_config.json")
  table.move(more, 1, #more, #warnings + 1, warnings)
end

-- What model.lua counts formats from: {dtype, bytes} of each matrix.
local function formats_in(net)
  local list = {}
  net:each_parameter(function(_, _, tensor) list[#list + 1] = {dtype = tensor.dtype, bytes = tensor.nbytes} end)
  return list
end

local function assemble(made, opts, given)
  local path, kind = resolve(given)
  local open = kind == "directory" and open_directory or open_gguf
  open(made, path, opts)
  local c, unread, absent = config.wrap(made.raw, made.family, made.what)
  if made.source then check_layers(made, c.num_hidden_layers) end
  local untied = made.source and unties(made.source, c.tie_word_embeddings)
  if untied then
    made.raw.tie_word_embeddings = false
    c, unread, absent = config.wrap(made.raw, made.family, made.what)
  end
  made.net = build_net(made, c, absent)
  local warnings = warn_of_unread(made, c, unread, opts.strict)
  if untied then
    warnings[#warnings + 1] = ("%s: tie_word_embeddings: true, but %s differs from the embedding: it is used"):format(
      made.what, made.source.entries[HEAD].name)
  end
  if made.source then
    warnings[#warnings + 1] = load_weights(made.net, made.family, made.source, opts)
  else
    random_weights(made.net, opts)
  end
  made.tokenizer = tokenizer.of_model(path, made.gguf, made.ends)
  if core.cancelled() then raise_cancelled() end
  warn_of_generation(made, path, warnings)
  if made.tokenizer and made.tokenizer.vocab_size > c.vocab_size then
    warnings[#warnings + 1] = ("%s: the tokenizer has %d ids, the embedding %d rows"):format(made.what,
      made.tokenizer.vocab_size, c.vocab_size)
  end
  return require("moonlet.model").new {
    net = made.net, config = c, raw = made.raw, family = made.family, path = path, options = opts, warnings = warnings,
    generation_config = made.generation, tokenizer = made.tokenizer, ends = made.ends, entries = formats_in(made.net),
    precision = opts.precision, scope = made.scope,
  }
end

local function build(path, opts)
  local made = {scope = core.scope_new()} -- which all tensors of the model belong to
  local outer = core.scope_use(made.scope)
  local ok, model = pcall(assemble, made, opts, path)
  core.scope_use(outer)
  drop(made, not ok)
  if ok then return model end
  core.take_cancel() -- one that came beside another failure was meant for this call
  error(model, 0)
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
---  quantize, backend}
---@return moonlet.Model|nil, string|nil, string|nil
function M.load(path, opts)
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

-- {path, format, model_type} of a .gguf file or a folder with config.json; nil for what is no model.
local function describe(path)
  if path:match "%.gguf$" then
    local file <close> = core.open_gguf(path)
    if not file then return nil end
    local architecture = file:metadata(0)["general.architecture"]
    local served, family = pcall(family_of_architecture, architecture, path)
    return {path = path, format = "gguf", model_type = served and family.model_types[1] or architecture}
  end
  if core.path_kind(path .. "/config.json") ~= "file" then return nil end
  local raw = core.read_json(path .. "/config.json")
  return {path = path, format = "safetensors", model_type = type(raw) == "table" and raw.model_type or nil}
end

-- What a repository of the hub cache holds, by its name: one model, or .gguf files.
local function describe_repository(cache, name, out)
  local snapshot = hub.snapshot(cache, name)
  if not snapshot then return end
  local found = {describe(snapshot)}
  if not found[1] then
    for _, path in ipairs(gguf_files(snapshot)) do found[#found + 1] = describe(path) end
  end
  for _, model in ipairs(found) do
    model.name = name
    out[#out + 1] = model
  end
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
    if repository then describe_repository(dir, repository, out) else out[#out + 1] = describe(dir .. "/" .. name) end
  end
  return out
end

return util.guard(M, "", true)
