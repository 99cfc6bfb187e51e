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
  rope_theta rope_local_base_freq query_pre_attn_scalar final_logit_softcapping
]]):gmatch "%S+" do kind_of[name] = "positive" end
for name in ([[
  attention_bias mlp_bias tie_word_embeddings use_sliding_window
]]):gmatch "%S+" do kind_of[name] = "boolean" end
for name in ([[model_type hidden_act hidden_activation]]):gmatch "%S+" do kind_of[name] = "string" end

-- The value of a key, or an error that names it. A default tells the type of a key that is not in the list.
local function checked(what, key, value, default)
  if value == nil then return nil end
  local kind = kinds[kind_of[key] or type(default)]
  if not kind then return value end
  local read = kind.read(value)
  if read == nil then util.unexpected(what .. ": " .. key, kind.name, value, "corrupt") end
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
  rope_theta = function(_, raw) return plain(raw.rope_parameters) ~= nil end,
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

-- {theta, scaling} of a kind of layer, whichever way the file spells it.
local function rope_of(c, raw, kind)
  local nested, name = c.rope_parameters, "rope_parameters"
  if nested and type(nested[kind]) == "table" then nested, name = nested[kind], name .. "." .. kind
  elseif nested and (nested.full_attention or nested.sliding_attention) then nested = nil end
  if nested then
    local theta = checked(name, "rope_theta", nested.rope_theta) or c.rope_theta
    return {theta = theta, scaling = rope.name(nested, name)}
  end
  if kind == "sliding_attention" then
    local theta = c.rope_local_base_freq
    if theta then return {theta = theta} end
  end
  return {theta = c.rope_theta, scaling = plain(raw.rope_scaling) and c.rope_scaling or nil}
end

-- Names of keys inside rope tables that no rule of lua/rope.lua reads: "rope_scaling.key".
local function unread_rope(raw)
  local names = {}
  local function look(name, value)
    if type(value) ~= "table" then return end
    for _, key in ipairs(util.sorted_keys(value)) do
      if type(plain(value[key])) == "table" and name == "rope_parameters" then look(name .. "." .. key, value[key])
      elseif plain(value[key]) ~= nil and not rope.reads(value, key) then names[#names + 1] = name .. "." .. key end
    end
  end
  look("rope_parameters", plain(raw.rope_parameters))
  if plain(raw.rope_parameters) == nil then look("rope_scaling", plain(raw.rope_scaling)) end
  return names
end

-- ---- the whole ----

---What a family's init gets. Reading a key that neither file nor family has gives nil.
---@param raw table  the decoded file
---@param defaults table  key -> value, or function of the configuration and of whether the file says null
---@param what string  the file, for messages
---@return table config
---@return fun(): string[] unread  keys that nobody read, sorted
---@return fun(): string[] absent  keys that were read and are nowhere, sorted
function M.wrap(raw, defaults, what)
  local read, missing = {}, {}
  local c
  local function find(key)
    local flat = plain(raw.rope_parameters)
    local value = checked(what, key, M.strip(raw[key]), defaults[key])
    if value == nil and type(flat) == "table" then
      if key == "rope_theta" then value = checked(what, "rope_parameters.rope_theta", plain(flat.rope_theta), 1.0)
      elseif key == "rope_scaling" and plain(flat.rope_type) then
        value = rope.name(M.strip(flat), "rope_parameters")
      end
      if value ~= nil then read.rope_parameters = true end
    end
    if value == nil then
      value = defaults[key]
      if type(value) == "function" then value = value(c, raw[key] ~= nil) end
    end
    return value
  end
  c = setmetatable({}, {
    __index = function(_, key)
      if key == "rope_of" then return function(kind) return rope_of(c, raw, kind) end end
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
      if not known then
        names[#names + 1] = tostring(key)
      end
    end
    local inside = unread_rope(raw)
    return table.move(inside, 1, #inside, #names + 1, names)
  end
  return c, unread, function() return util.sorted_keys(missing) end
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
function M.check(what, raw, family)
  local read = M.wrap(raw, family.config, what) -- apart from the family's own, which records what is read
  for _, key in ipairs {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"} do
    if read[key] == nil then util.raise("corrupt", "%s: %s: expected a positive integer, found nothing", what, key) end
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
