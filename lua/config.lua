---Configurations as families read them: defaults filled in, null as nil, both spellings of rope, and a record of what was read.
local core = require "moonlet.core"
local util = require "moonlet.util"

local M = {}

-- Keys that mean nothing for inference, or that the loader itself reads.
local meaningless = {}
for name in ([[
  architectures model_type transformers_version torch_dtype dtype use_cache initializer_range attention_dropout hidden_dropout
  embd_pdrop attn_pdrop resid_pdrop classifier_dropout pad_token_id bos_token_id eos_token_id cache_implementation pretraining_tp _name_or_path
  auto_map output_attentions output_hidden_states return_dict is_encoder_decoder is_decoder id2label label2id
  problem_type tokenizer_class task_specific_params unsloth_fixed unsloth_version is_llama_config rope_interleaved
  max_position_embeddings quantization quantization_config _attn_implementation_autoset _attn_implementation use_bidirectional_attention
  chunk_size_feed_forward finetuning_task prefix tie_encoder_decoder torchscript pruned_heads rope_parameters rope_theta rope_scaling
  rope_local_base_freq layer_types max_window_layers use_sliding_window sliding_window sliding_window_pattern _sliding_window_pattern
  original_max_position_embeddings
]]):gmatch "%S+" do meaningless[name] = true end
-- Of these, some change what is computed: reading one of them is the family's task, and a value that would change something without
-- being read is warned of.
local effective = {sliding_window = true, rope_scaling = true}

local function plain(value)
  if value == core.json.null then return nil end
  return value
end

-- {theta, scaling} of a kind of layer, whichever way the file spells it.
local function rope_of(c, raw, kind)
  local nested = plain(raw.rope_parameters)
  if nested and plain(nested[kind]) then nested = nested[kind]
  elseif nested and (plain(nested.full_attention) or plain(nested.sliding_attention)) then nested = nil end
  if nested then return {theta = plain(nested.rope_theta) or c.rope_theta, scaling = M.strip(nested)} end
  if kind == "sliding_attention" and c.rope_local_base_freq then return {theta = c.rope_local_base_freq} end
  return {theta = c.rope_theta, scaling = c.rope_scaling}
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

---What a family's init gets. Reading a key that neither file nor family has gives nil.
---@param raw table  the decoded file
---@param defaults table  key -> value or function of the configuration
function M.wrap(raw, defaults)
  local read = {}
  local flat = plain(raw.rope_parameters)
  local c
  c = setmetatable({}, {
    __index = function(_, key)
      if key == "rope_of" then return function(kind) return rope_of(c, raw, kind) end end
      read[key] = true
      local value = plain(raw[key])
      if value == nil and flat then
        if key == "rope_theta" then value = plain(flat.rope_theta)
        elseif key == "rope_scaling" and flat.rope_type then value = M.strip(flat) end
      end
      if value == nil then
        value = defaults[key]
        if type(value) == "function" then value = value(c) end
      end
      if type(value) == "table" then value = M.strip(value) end
      return value
    end,
    __newindex = function() util.raise("usage", "a configuration is read, not written") end,
    __pairs = function() return pairs(raw) end,
  })
  return c, function() -- keys that nobody read, sorted
    local unread = {}
    for _, key in ipairs(util.sorted_keys(raw)) do
      local value = plain(raw[key])
      if value ~= nil and not read[key] and (not meaningless[key] or (effective[key] and not raw.rope_parameters)) then
        if not (key == "sliding_window" and raw.use_sliding_window == false) then unread[#unread + 1] = key end
      end
    end
    return unread
  end
end

return M
