---GGUF checkpoints as the families see them: metadata under the names of config.json, tensors under the names of module
---paths.
---Source: the GGUF specification (ggml, docs/gguf.md) for keys and tensor names.
local util = require "moonlet.util"

local M = {}

-- config.json's key -> key of the metadata, without the architecture
local config_keys = {
  hidden_size = "embedding_length", num_hidden_layers = "block_count", intermediate_size = "feed_forward_length",
  num_attention_heads = "attention.head_count", num_key_value_heads = "attention.head_count_kv",
  rms_norm_eps = "attention.layer_norm_rms_epsilon", rope_theta = "rope.freq_base",
  max_position_embeddings = "context_length", head_dim = "attention.key_length",
}

-- part of a tensor's name -> module path
local names = {
  token_embd = "model.embed_tokens", output_norm = "model.norm", output = "lm_head",
  attn_q = "self_attn.q_proj", attn_k = "self_attn.k_proj", attn_v = "self_attn.v_proj",
  attn_output = "self_attn.o_proj",
  attn_norm = "input_layernorm", ffn_norm = "post_attention_layernorm",
  ffn_gate = "mlp.gate_proj", ffn_up = "mlp.up_proj", ffn_down = "mlp.down_proj",
}

-- keys that say nothing that the tensors or the tokenizer do not say
local meaningless = {
  vocab_size = true, tensor_data_layout = true,
  ["rope.scaling.finetuned"] = true, ["rope.scaling.type"] = true, ["rope.scaling.factor"] = true,
  ["rope.scaling.original_context_length"] = true,
}

-- The rope scaling that the metadata tells: a rule by name, or a divisor for each frequency in a tensor.
local function scaling_of(file, of, entries)
  local kind = of "rope.scaling.type"
  if kind ~= nil and kind ~= "none" then
    return {
      rope_type = kind, factor = of "rope.scaling.factor",
      original_max_position_embeddings = of "rope.scaling.original_context_length",
    }
  end
  if not entries["rope_freqs.weight"] then return nil end
  local factors, message, code = file:load("rope_freqs.weight")
  if not factors then util.raise(code, "%s", message) end
  return {rope_type = "factors", factors = factors:astype("float32"):flatten():tolist()}
end

-- Metadata of the architecture that found no place in the configuration, under its own name: it will be warned of.
local function add_rest(c, meta, prefix, used)
  for key, value in pairs(meta) do
    local name = key:sub(1, #prefix) == prefix and key:sub(#prefix + 1)
    if name and not used[name] and not meaningless[name] then c[key] = value end
  end
end

---The configuration that the metadata describes.
---@param file userdata  an open GGUF file
---@param family table
---@param path string  for messages
function M.config(file, family, path)
  local meta, entries = file:metadata(4096), {}
  for _, entry in ipairs(file:entries()) do entries[entry.name] = entry end
  local prefix = meta["general.architecture"] .. "."
  local function of(key) return meta[prefix .. key] end
  local c, used = {model_type = family.model_types[1]}, {}
  for _, keys in ipairs {config_keys, family.gguf.config or {}} do
    for name, key in pairs(keys) do c[name], used[key] = of(key), true end
  end
  c.rope_scaling = scaling_of(file, of, entries)
  local embedding = entries["token_embd.weight"]
  if embedding then c.vocab_size = embedding.shape[1] end
  c.tie_word_embeddings = entries["output.weight"] == nil
  local size = c.head_dim or (math.type(c.hidden_size) == "integer" and math.type(c.num_attention_heads) == "integer"
    and c.num_attention_heads > 0 and c.hidden_size // c.num_attention_heads) or nil
  -- heads of two sizes, partial rotary positions
  for _, key in ipairs {"attention.value_length", "rope.dimension_count"} do
    used[key] = true
    if of(key) ~= nil and of(key) ~= size then
      util.raise("unsupported", "%s: %s%s: expected %s, the size of a head, found %s", path, prefix, key,
        util.text(size), util.text(of(key)))
    end
  end
  for name, value in pairs(family.gguf.defaults or {}) do
    if c[name] == nil then c[name] = type(value) == "function" and value(c) or value end
  end
  add_rest(c, meta, prefix, used)
  return c
end

---The ids that the metadata ends texts with: what a model without a tokenizer goes by.
---@param path string  for messages
---@return integer[]
function M.ends(file, path)
  local meta, ends = file:metadata(0), {}
  for _, name in ipairs {"eos", "eot"} do
    local key = ("tokenizer.ggml.%s_token_id"):format(name)
    local id = meta[key]
    if id ~= nil and (math.type(id) ~= "integer" or id < 0) then
      util.unexpected(path .. ": " .. key, "a token id", id, "corrupt")
    end
    ends[#ends + 1] = id
  end
  return ends
end

---Module path of a tensor, or nil.
function M.path(family, name)
  local own = family.gguf.names or {}
  local block, part, kind = name:match "^blk%.(%d+)%.([%w_]+)%.(%w+)$"
  if block then
    local path = own[part] or names[part]
    return path and ("model.layers.%s.%s.%s"):format(block, path, kind), part
  end
  part, kind = name:match "^([%w_]+)%.(%w+)$"
  local path = part and (own[part] or names[part])
  return path and path .. "." .. kind, part
end

---Whether a part's rows are those of interleaved rope.
function M.is_permuted(family, part)
  for _, p in ipairs(family.gguf.permuted or {}) do
    if p == part then return true end
  end
  return false
end

return M
