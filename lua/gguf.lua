---GGUF checkpoints as the families see them: metadata under the names of config.json, tensors under the names of module paths.
---Source: the GGUF specification (ggml, docs/gguf.md) for keys and tensor names.
local M = {}

-- config.json's key -> key of the metadata, without the architecture
local config_keys = {
  hidden_size = "embedding_length", num_hidden_layers = "block_count", intermediate_size = "feed_forward_length",
  num_attention_heads = "attention.head_count", num_key_value_heads = "attention.head_count_kv",
  rms_norm_eps = "attention.layer_norm_rms_epsilon", rope_theta = "rope.freq_base", max_position_embeddings = "context_length",
  head_dim = "attention.key_length",
}

-- part of a tensor's name -> module path
local names = {
  token_embd = "model.embed_tokens", output_norm = "model.norm", output = "lm_head",
  attn_q = "self_attn.q_proj", attn_k = "self_attn.k_proj", attn_v = "self_attn.v_proj", attn_output = "self_attn.o_proj",
  attn_norm = "input_layernorm", ffn_norm = "post_attention_layernorm",
  ffn_gate = "mlp.gate_proj", ffn_up = "mlp.up_proj", ffn_down = "mlp.down_proj",
}

---The configuration that the metadata describes.
---@param file userdata  an open GGUF file
---@param family table
function M.config(file, family)
  local meta = file:metadata(4096)
  local arch = meta["general.architecture"]
  local c = {model_type = family.model_types[1]}
  for _, keys in ipairs {config_keys, family.gguf.config} do
    for name, key in pairs(keys) do c[name] = meta[arch .. "." .. key] end
  end
  for name, value in pairs(family.gguf.defaults or {}) do
    if c[name] == nil then c[name] = type(value) == "function" and value(c) or value end
  end
  local scaling = meta[arch .. ".rope.scaling.type"]
  if scaling and scaling ~= "none" then
    c.rope_scaling = {rope_type = scaling, factor = meta[arch .. ".rope.scaling.factor"],
      original_max_position_embeddings = meta[arch .. ".rope.scaling.original_context_length"]}
  end
  local has_head = false
  for _, entry in ipairs(file:entries()) do
    if entry.name == "token_embd.weight" then c.vocab_size = entry.shape[1] end
    if entry.name == "output.weight" then has_head = true end
  end
  c.tie_word_embeddings = not has_head
  return c
end

---Module path of a tensor, or nil.
function M.path(family, name)
  local block, part, kind = name:match "^blk%.(%d+)%.([%w_]+)%.(%w+)$"
  if block then
    local path = family.gguf.names[part] or names[part]
    return path and ("model.layers.%s.%s.%s"):format(block, path, kind), part
  end
  part, kind = name:match "^([%w_]+)%.(%w+)$"
  local path = part and (family.gguf.names[part] or names[part])
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
