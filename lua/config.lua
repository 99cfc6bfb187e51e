---Configurations as families read them: defaults filled in, types checked, null as nil, both spellings of rope, and a
---record of what was read, so that a key that nobody reads can be named.
local core = require "moonlet.core"
local rope = require "moonlet.rope"
local util = require "moonlet.util"

local M = {}

local function plain(value)
  if value == core.json.null then return nil end
  return value
end

---A copy of a decoded JSON value without nulls.
function M.strip(value)
  if type(value) ~= "table" then return plain(value) end
  local copy = {}
  for k, v in pairs(value) do
    if v ~= core.json.null then copy[k] = M.strip(v) end
  end
  return copy
end

local special_floats = {Infinity = math.huge, ["-Infinity"] = -math.huge, NaN = 0 / 0}

---Puts numbers where a decoded file has {"__float__": "Infinity"}, as newer configurations write what JSON has not.
---@return any value
function M.floats(value)
  if type(value) ~= "table" then return value end
  local float = special_floats[value.__float__]
  if float and next(value, next(value)) == nil then return float end
  for _, key in ipairs(util.sorted_keys(value)) do value[key] = M.floats(value[key]) end
  return value
end

-- ---- what values may be ----

local function number_between(low, high, name)
  return {name = name, read = function(v) return type(v) == "number" and v >= low and v <= high and v or nil end}
end

local kinds = {
  count = {name = "a positive integer below 2^31", read = function(v)
    local whole = math.tointeger(v)
    return type(v) == "number" and whole and whole >= 1 and whole < 1 << 31 and whole or nil
  end},
  positive = number_between(1e-30, 1e30, "a positive number"),
  epsilon = number_between(0, 1, "a number from 0 to 1"),
}
for _, name in ipairs {"number", "boolean", "string", "table"} do
  kinds[name] = {name = "a " .. name, read = function(v)
    if type(v) == name and v == v then return v end
  end}
end

local kind_of = {
  rms_norm_eps = "epsilon", layer_norm_eps = "epsilon",
  layer_types = "table", rope_scaling = "table", rope_parameters = "table",
}
for name in ([[
  hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size vocab_size
  sliding_window sliding_window_pattern _sliding_window_pattern max_position_embeddings
]]):gmatch "%S+" do kind_of[name] = "count" end
for name in ([[
  rope_theta rope_local_base_freq query_pre_attn_scalar final_logit_softcapping partial_rotary_factor
]]):gmatch "%S+" do kind_of[name] = "positive" end
for name in ([[
  attention_bias mlp_bias tie_word_embeddings use_sliding_window
]]):gmatch "%S+" do kind_of[name] = "boolean" end
for name in ([[model_type hidden_act hidden_activation]]):gmatch "%S+" do kind_of[name] = "string" end

-- The value of a key, or an error that names it (`label`, where it stands inside a table). A default tells the type of
-- a key that is not in the list.
local function checked(what, key, value, default, label)
  if value == nil then return nil end
  local kind = kinds[kind_of[key] or type(default)]
  if not kind then return value end
  local read = kind.read(value)
  if read == nil then util.unexpected(what .. ": " .. (label or key), kind.name, value, "corrupt") end
  return read
end

-- ---- keys that need no reader ----

-- These mean nothing for inference, or the loader, the tokenizer or the runtime reads them.
local meaningless = {}
for name in ([[
  architectures model_type transformers_version torch_dtype dtype use_cache initializer_range auto_map _name_or_path
  attention_dropout hidden_dropout embd_pdrop attn_pdrop resid_pdrop classifier_dropout classifier_dropout_prob
  attention_probs_dropout_prob hidden_dropout_prob pad_token_id bos_token_id eos_token_id sep_token_id
  decoder_start_token_id cache_implementation pretraining_tp output_attentions output_hidden_states output_scores
  return_dict return_dict_in_generate id2label label2id problem_type tokenizer_class task_specific_params
  finetuning_task is_llama_config max_position_embeddings torchscript tf_legacy_loss use_bfloat16
  chunk_size_feed_forward prefix transformers.js_config _attn_implementation _attn_implementation_autoset
  _attn_implementation_internal _flash_attn_2_enabled _pre_quantization_dtype unsloth_fixed unsloth_version
  max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
  typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
  num_return_sequences forced_bos_token_id forced_eos_token_id remove_invalid_values
  exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
]]):gmatch "%S+" do meaningless[name] = true end

-- The table that says how positions turn, and its name. Where a file has both, the older one counts, as in the
-- reference.
local function rope_table(raw)
  for _, name in ipairs {"rope_scaling", "rope_parameters"} do
    local value = plain(raw[name])
    if type(value) == "table" and next(value) ~= nil then return value, name end
  end
end

-- Whether the rope table says a key itself, so that the one outside does not count.
local function said_inside(key)
  return function(_, raw)
    local inside = rope_table(raw)
    return inside ~= nil and plain(inside[key]) ~= nil
  end
end

-- Where these are nowhere, that says something: no scaling, no window, no capping.
local optional = {}
for name in ([[
  rope_scaling rope_parameters layer_types sliding_window quantization quantization_config final_logit_softcapping
  attn_logit_softcapping
]]):gmatch "%S+" do optional[name] = true end

local function absent_or_false(v) return v == false end
local function plain_rope(v)
  local kind = type(v) == "table" and (plain(v.rope_type) or plain(v.type))
  return kind == nil and type(v) == "table" or kind == "default"
end
local function no_windows(_, raw) return plain(raw.use_sliding_window) == false end

-- These may change what is computed: left unread, they pass in silence only where their value says that they do not.
local neutral = {
  is_decoder = function() return true end, -- of configurations that serve encoders as well
  is_encoder_decoder = absent_or_false, add_cross_attention = absent_or_false, tie_encoder_decoder = absent_or_false,
  use_bidirectional_attention = absent_or_false, rope_interleaved = absent_or_false, use_mrope = absent_or_false,
  cross_attention_hidden_size = function() return false end,
  pruned_heads = function(v) return type(v) == "table" and next(v) == nil end,
  rope_scaling = function(v, raw) return plain_rope(v) or plain(raw.rope_parameters) ~= nil end,
  rope_theta = function(v, raw) return plain(raw.rope_parameters) ~= nil or said_inside "rope_theta"(v, raw) end,
  partial_rotary_factor = function(v, raw) return v == 1 or said_inside "partial_rotary_factor"(v, raw) end,
  rope_local_base_freq = function(_, raw) return plain(raw.rope_parameters) ~= nil end,
  sliding_window = no_windows,
  use_sliding_window = function(v, raw) return v == false or plain(raw.layer_types) ~= nil end,
  max_window_layers = function(_, raw)
    return plain(raw.use_sliding_window) ~= true or plain(raw.layer_types) ~= nil
  end,
  sliding_window_pattern = function(_, raw) return plain(raw.layer_types) ~= nil end,
  _sliding_window_pattern = function(_, raw) return plain(raw.layer_types) ~= nil end,
  layer_types = function(v)
    for _, kind in ipairs(type(v) == "table" and v or {"?"}) do
      if kind ~= "full_attention" then return false end
    end
    return true
  end,
}

-- ---- rope ----

-- These count inside the rope table before they do outside.
local inner_first = {rope_theta = true, partial_rotary_factor = true}

-- A rule that was trained on shorter texts, and does not say on how short ones, means the configuration's.
local function complete(scaling, c)
  if rope.needs_context(scaling) and scaling.original_max_position_embeddings == nil then
    scaling.original_max_position_embeddings = c.max_position_embeddings
  end
  return scaling
end

local function is_object(x) return type(x) == "table" and x[1] == nil and next(x) ~= nil end

-- A rope table as a family sees it: what is read from it is noted as "name.key".
local function noted(value, name, read)
  local view = setmetatable({}, {
    __index = function(_, key)
      local label, inner = ("%s.%s"):format(name, key), value[key]
      read[label] = true
      return is_object(inner) and noted(inner, label, read) or inner
    end,
    __pairs = function() return pairs(value) end,
  })
  return rope.name(view, name)
end

-- {theta, scaling, partial} of a kind of layer, whichever way the file spells it.
local function rope_of(c, raw, kind, read)
  local nested, name = c.rope_parameters, "rope_parameters"
  if nested and type(nested[kind]) == "table" then nested, name = nested[kind], name .. "." .. kind
  elseif nested and (nested.full_attention or nested.sliding_attention) then nested = nil end
  local own = {theta = c.rope_theta}
  if nested then
    own.theta = checked(name, "rope_theta", nested.rope_theta) or own.theta
    own.scaling = rope.name(complete(nested, c), name)
  elseif kind == "sliding_attention" and c.rope_local_base_freq then own.theta = c.rope_local_base_freq
  else own.scaling = plain(raw.rope_scaling) and c.rope_scaling or nil end
  return setmetatable(own, {__index = function(_, key) -- so that only a family that asks counts as reading it
    if key ~= "partial" then return nil end
    read[name .. ".partial_rotary_factor"] = true
    return nested and checked(name, "partial_rotary_factor", nested.partial_rotary_factor) or c.partial_rotary_factor
  end})
end

-- Names of keys inside the rope table that nobody reads: "rope_scaling.key".
local function unread_rope(raw, read)
  local names = {}
  local function look(name, value)
    for _, key in ipairs(util.sorted_keys(value)) do
      local inner, label = plain(value[key]), name .. "." .. key
      if is_object(inner) then look(label, inner)
      elseif inner ~= nil and not read[label] and not rope.reads(value, key) then names[#names + 1] = label end
    end
  end
  local value, name = rope_table(raw)
  if value then look(name, value) end
  return names
end

-- ---- the whole ----

local function named(list, what)
  local set = {}
  if list ~= nil and type(list) ~= "table" then util.unexpected(what, "a list of keys", list) end
  for _, key in ipairs(list or {}) do
    if type(key) ~= "string" then util.unexpected(what, "a list of keys", key) end
    set[key] = true
  end
  return set
end

---What a family's init gets. Reading a key that neither file nor family has gives nil.
---@param raw table  the decoded file
---@param family table  its `config` (key -> value, or function of the configuration and of whether the file says null)
---  and `ignore_keys`
---@param what string  the file, for messages
---@return table config
---@return fun(): string[] unread  keys that nobody read, sorted
---@return fun(): string[] absent  keys that were read and are nowhere, sorted, without those that files may leave out
function M.wrap(raw, family, what)
  local defaults = family.config
  local read, missing, c = {}, {}, nil
  local asked = {} -- keys whose defaults are being worked out
  local ignored = named(family.ignore_keys, ("family %s: ignore_keys"):format(family.model_types[1]))
  local turns, turns_name = rope_table(raw)
  local flat = turns and turns.full_attention == nil and turns.sliding_attention == nil

  -- What the rope table says of a key, where one table is for all layers.
  local function inside(key)
    if not flat then return nil end
    if key == "rope_scaling" then
      read[turns_name] = true
      return complete(rope.name(M.strip(turns), turns_name), c)
    end
    local value = M.strip(turns[key])
    if value == nil then return nil end
    local label = turns_name .. "." .. key
    read[turns_name], read[label] = true, true
    return checked(what, key, value, defaults[key], label)
  end
  local function outside(key) return checked(what, key, M.strip(raw[key]), defaults[key]) end
  local function find(key)
    local value
    if key == "rope_parameters" then value = outside(key) and noted(outside(key), key, read)
    elseif key == "rope_scaling" then
      value = inside(key)
      if value == nil then value = outside(key) and rope.name(outside(key), key) end
    elseif inner_first[key] then value = inside(key) or outside(key)
    else
      value = outside(key)
      if value == nil then value = inside(key) end
    end
    if value == nil then
      value = defaults[key]
      if type(value) == "function" then
        if asked[key] then util.raise("usage", "%s: the family's default of %s reads %s itself", what, key, key) end
        asked[key] = true
        local ok, result = pcall(value, c, raw[key] ~= nil)
        asked[key] = nil
        if not ok then error(result, 0) end
        value = result
      end
    end
    return value
  end
  c = setmetatable({}, {
    __index = function(_, key)
      if key == "rope_of" then return function(kind) return rope_of(c, raw, kind, read) end end
      read[key] = true
      local value = find(key)
      if value == nil then missing[key] = true end
      return value
    end,
    __newindex = function() util.raise("usage", "a configuration is read, not written") end,
    __pairs = function() return pairs(raw) end,
  })
  local function unread()
    local names = {}
    for _, key in ipairs(util.sorted_keys(raw)) do
      local value = plain(raw[key])
      local known = value == nil or read[key] or meaningless[key] or (neutral[key] and neutral[key](value, raw))
      if not known and not ignored[key] then names[#names + 1] = tostring(key) end
    end
    for _, name in ipairs(unread_rope(raw, read)) do
      if not ignored[name] then names[#names + 1] = name end
    end
    return names
  end
  local function absent()
    local names = {}
    for _, key in ipairs(util.sorted_keys(missing)) do
      if not optional[key] then names[#names + 1] = key end
    end
    return names
  end
  return c, unread, absent
end

-- Layers beyond any model's: a net of them is built before a weight is looked for.
local MOST_LAYERS = 2000

local function check_layer_types(what, types, layers, known)
  if types == nil then return end
  if #types ~= layers then
    util.raise("corrupt", "%s: layer_types: expected %d entries, found %d", what, layers, #types)
  end
  for i, kind in ipairs(types) do
    if not util.contains(known, kind) then
      util.raise("unsupported", "%s: layer_types: entry %d: %s is not supported", what, i, util.show(kind))
    end
  end
end

---What every family needs, and how sizes depend on each other: raises where a configuration cannot be that of a model.
---@param what string  the file, for messages
---@param raw table  the decoded file
---@param family table
---@param context integer|nil  the longest one that the call wants
function M.check(what, raw, family, context)
  local read = M.wrap(raw, family, what) -- apart from the family's own, which records what is read
  for _, key in ipairs {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"} do
    if read[key] == nil then util.raise("corrupt", "%s: %s: expected a positive integer, found nothing", what, key) end
  end
  if read.max_position_embeddings == nil and not context then
    util.raise("corrupt", "%s: max_position_embeddings: expected a positive integer, found nothing (neither family %s "
      .. "nor load's max_context says it)", what, family.model_types[1])
  end
  local layers, heads, hidden = read.num_hidden_layers, read.num_attention_heads, read.hidden_size
  if layers > MOST_LAYERS then
    util.raise("corrupt", "%s: num_hidden_layers: expected at most %d, found %d", what, MOST_LAYERS, layers)
  end
  local head_dim = read.head_dim
  if plain(raw.head_dim) == nil and hidden % heads ~= 0 and (head_dim == nil or head_dim == hidden // heads) then
    util.raise("corrupt", "%s: hidden_size: %d does not divide into num_attention_heads: %d", what, hidden, heads)
  end
  local kv_heads = read.num_key_value_heads
  if kv_heads and heads % kv_heads ~= 0 then
    util.raise("corrupt", "%s: num_attention_heads: %d does not divide by num_key_value_heads: %d", what, heads,
      kv_heads)
  end
  for _, key in ipairs {"max_position_embeddings", "rope_parameters", "rope_scaling"} do
    checked(what, key, plain(raw[key]))
  end
  local types = checked(what, "layer_types", M.strip(raw.layer_types))
  check_layer_types(what, types, layers, family.layer_kinds or {"full_attention", "sliding_attention"})
end

return M
