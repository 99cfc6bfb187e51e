-- fixtures.lua: small valid files of each format, built from nothing: seeds of the fuzzers and of tests/damage.lua.
-- It uses nothing of moonlet, so that it also runs under stock lua5.4.
local M = {}

---GGUF's numbers of value types.
local gguf_types = {
  u8 = {0, "<I1"}, i8 = {1, "<i1"}, u16 = {2, "<I2"}, i16 = {3, "<i2"}, u32 = {4, "<I4"}, i32 = {5, "<i4"},
  f32 = {6, "<f"}, bool = {7, "<I1"}, string = {8, "<s8"}, u64 = {10, "<I8"}, i64 = {11, "<i8"}, f64 = {12, "<d"},
}

---@param pairs_ table[]  of {key, type, value} or {key, item_type, list}
---@param tensors table[]  of {name, dims in the file's order, ggml's type number, bytes}
---@param version? integer
---@return string
function M.gguf(pairs_, tensors, version)
  local out = {("<c4I4I8I8"):pack("GGUF", version or 3, #tensors, #pairs_)}
  local function put(format, ...) out[#out + 1] = format:pack(...) end
  for _, pair in ipairs(pairs_) do
    local key, kind, value = table.unpack(pair)
    local number, format = table.unpack(gguf_types[kind])
    if type(value) == "table" then
      put("<s8I4I4I8", key, 9, number, #value)
      for _, item in ipairs(value) do put(format, item) end
    else
      put("<s8I4", key, number)
      put(format, value)
    end
  end
  local data, offset = {}, 0
  for _, tensor in ipairs(tensors) do
    local name, dims, kind, bytes = table.unpack(tensor)
    put("<s8I4", name, #dims)
    for _, dim in ipairs(dims) do put("<I8", dim) end
    put("<I4I8", kind, offset)
    local padding = -#bytes % 32
    data[#data + 1] = bytes .. ("\0"):rep(padding)
    offset = offset + #bytes + padding
  end
  local head = table.concat(out)
  return head .. ("\0"):rep(-#head % 32) .. table.concat(data)
end

---@param tensors table[]  of {name, dtype, shape, bytes}
---@param metadata? string  JSON
---@return string
function M.safetensors(tensors, metadata)
  local parts, data, offset = {}, {}, 0
  if metadata then parts[1] = '"__metadata__":' .. metadata end
  for _, tensor in ipairs(tensors) do
    local name, dtype, shape, bytes = table.unpack(tensor)
    parts[#parts + 1] = ('"%s":{"dtype":"%s","shape":[%s],"data_offsets":[%d,%d]}'):format(name, dtype,
      table.concat(shape, ","), offset, offset + #bytes)
    data[#data + 1], offset = bytes, offset + #bytes
  end
  local header = "{" .. table.concat(parts, ",") .. "}"
  header = header .. (" "):rep(-#header % 8)
  return ("<s8"):pack(header) .. table.concat(data)
end

---One small file of each format, by name.
---@return table<string, string>
function M.all()
  local vocabulary = {"<s>", "</s>", "a", "b", "ab", "é", ""}
  return {
    ["model.gguf"] = M.gguf({
      {"general.architecture", "string", "llama"}, {"general.alignment", "u32", 32}, {"llama.block_count", "u32", 2},
      {"llama.rope.freq_base", "f32", 10000}, {"tokenizer.ggml.tokens", "string", vocabulary},
      {"tokenizer.ggml.scores", "f32", {0, 0, -1, -2, -3, -4, -5}},
      {"tokenizer.ggml.token_type", "i32", {3, 3, 1, 1, 1, 1, 1}}, {"tokenizer.ggml.add_bos_token", "bool", 1},
      {"some.u8", "u8", 255}, {"some.i64", "i64", -1}, {"some.f64", "f64", 0.5}, {"some.u64s", "u64", {1, 2}},
      {"some.bools", "bool", {1, 0, 1}},
    }, {
      {"token_embd.weight", {32, 7}, 2, ("\1"):rep(18 * 7)}, {"blk.0.attn_norm.weight", {32}, 0, ("\2"):rep(128)},
      {"blk.0.ffn_up.weight", {256, 2}, 12, ("\3"):rep(288)}, {"output_norm.weight", {4, 3, 2, 1}, 30, ("\4"):rep(48)},
    }),
    ["empty.gguf"] = M.gguf({}, {}, 2),
    ["model.safetensors"] = M.safetensors({
      {"model.embed_tokens.weight", "BF16", {7, 4}, ("\1"):rep(56)}, {"model.norm.weight", "F32", {4}, ("\2"):rep(16)},
      {"scalar", "I64", {}, ("\3"):rep(8)}, {"empty", "F16", {0, 3}, ""}, {"mask", "BOOL", {1, 1, 1, 3}, "\0\1\1"},
    }, '{"format":"pt","note":"a \\"quoted\\" \\u00e9"}'),
    ["empty.safetensors"] = M.safetensors({}),
    ["tokenizer.json"] = [==[
{
  "version": "1.0", "truncation": null,
  "added_tokens": [{"id": 0, "content": "<s>", "special": true, "normalized": false}],
  "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}]},
  "model": {"type": "BPE", "dropout": null, "byte_fallback": true, "ignore_merges": false,
            "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3, "\u00e9\ud83d\ude00": 4}, "merges": ["a b", ["a", "b"]]}
}
]==],
    ["config.json"] = [[
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2,
 "num_attention_heads": 4, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "rope_scaling": null, "vocab_size": 7,
 "tie_word_embeddings": true, "initializer_range": -0.02, "model_max_length": 1000000000000000019884624838656}
]],
  }
end

return M
