-- tiny.lua: a whole tiny model, for tests that need files to damage or to change: the Llama of tests/goldens/tiny with
-- a byte-level tokenizer of its 131 ids, as the files of a directory and as one GGUF file.
local ml = require "moonlet"
local fixtures = require "tests.fixtures"

local M = {}

local source = "tests/goldens/tiny/llama"

function M.read(path)
  local file <close> = assert(io.open(path, "rb"))
  return assert(file:read "a")
end

function M.write(path, bytes)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(bytes))
end

---An empty folder under build/.
---@param name string
---@return string path
function M.folder(name)
  local path = (os.getenv "BUILD" or "build") .. "/test-files/" .. name
  assert(os.execute(("rm -rf '%s' && mkdir -p '%s'"):format(path, path)))
  return path
end

-- ---- the tokenizer ----

local function vocabulary()
  local pieces, merges = {"<unk>", "<s>", "</s>"}, {}
  for byte = 33, 126 do pieces[#pieces + 1] = string.char(byte) end
  for _, mark in ipairs {"Ġ", "Ċ"} do pieces[#pieces + 1] = mark end -- space and newline
  for _, pair in ipairs {
    "Ġ t", "Ġ a", "h e", "i n", "r e", "o n", "Ġt he", "e r", "Ġ s", "a t", "Ġ w", "Ġ o", "e n", "Ġ c", "i t", "i s",
    "a n", "o r", "e s", "Ġ b", "e d", "Ġ f", "in g", "Ġ p", "o u", "Ġa n", "a l", "a r", "Ġt o", "Ġ m", "Ġo f", "Ġ in",
  } do
    merges[#merges + 1] = pair
    pieces[#pieces + 1] = (pair:gsub(" ", ""))
  end
  return pieces, merges
end

local function tokenizer_json()
  local pieces, merges = vocabulary()
  local vocab, specials = {}, {}
  for i, piece in ipairs(pieces) do vocab[i] = ("%s: %d"):format(ml.json.encode(piece), i - 1) end
  for i = 1, 3 do
    specials[i] = ('{"id": %d, "content": "%s", "special": true, "normalized": false, ' ..
      '"lstrip": false, "rstrip": false, "single_word": false}'):format(i - 1, pieces[i])
  end
  return ([[
{"version": "1.0", "truncation": null, "padding": null,
 "added_tokens": [%s],
 "normalizer": null,
 "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
 "post_processor": null,
 "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
 "model": {"type": "BPE", "dropout": null, "unk_token": null, "byte_fallback": false, "ignore_merges": false,
  "vocab": {%s},
  "merges": %s}}
]]):format(table.concat(specials, ", "), table.concat(vocab, ", "), ml.json.encode(merges))
end

---The files of the model's directory, by name.
---@return table<string, string>
function M.directory()
  return {
    ["config.json"] = M.read(source .. "/config.json"),
    ["model.safetensors"] = M.read(source .. "/model.safetensors"),
    ["generation_config.json"] = [[
{"bos_token_id": 1, "eos_token_id": [2], "do_sample": true, "temperature": 0.6, "top_p": 0.9}
]],
    ["tokenizer.json"] = tokenizer_json(),
    ["tokenizer_config.json"] = [[
{"add_bos_token": false, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 256,
 "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false,
 "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}]] ..
      [[{% if add_generation_prompt %}assistant:{% endif %}"}
]],
  }
end

-- ---- GGUF ----

local parts = {
  ["self_attn.q_proj"] = "attn_q", ["self_attn.k_proj"] = "attn_k", ["self_attn.v_proj"] = "attn_v",
  ["self_attn.o_proj"] = "attn_output",
  ["mlp.gate_proj"] = "ffn_gate", ["mlp.up_proj"] = "ffn_up", ["mlp.down_proj"] = "ffn_down",
  input_layernorm = "attn_norm", post_attention_layernorm = "ffn_norm",
}
local whole = {
  ["model.embed_tokens.weight"] = "token_embd.weight", ["model.norm.weight"] = "output_norm.weight",
  ["lm_head.weight"] = "output.weight",
}

local function gguf_name(name)
  local layer, part = name:match "^model%.layers%.(%d+)%.(.+)%.weight$"
  return whole[name] or ("blk.%s.%s.weight"):format(layer, assert(parts[part], name))
end

-- Rows (head, half, pair) as GGUF wants them of queries and keys: (head, pair, half).
local function permuted(bytes, shape, heads)
  local row, d = #bytes // shape[1], shape[1] // heads
  local out = {}
  for at = 0, shape[1] - 1 do
    local head, r = at // d, at % d
    local from = head * d + r % 2 * (d // 2) + r // 2
    out[at + 1] = bytes:sub(from * row + 1, (from + 1) * row)
  end
  return table.concat(out)
end

---Pairs and tensors of the GGUF file, as fixtures.gguf takes them; tests may change them.
function M.gguf_parts()
  local pieces, merges = vocabulary()
  local kinds = {}
  for i = 1, #pieces do kinds[i] = i <= 3 and 3 or 1 end
  local pairs_ = {
    {"general.architecture", "string", "llama"}, {"general.name", "string", "Tiny"},
    {"llama.block_count", "u32", 2}, {"llama.context_length", "u32", 256},
    {"llama.embedding_length", "u32", 24}, {"llama.feed_forward_length", "u32", 40},
    {"llama.attention.head_count", "u32", 4}, {"llama.attention.head_count_kv", "u32", 2},
    {"llama.attention.key_length", "u32", 10}, {"llama.attention.value_length", "u32", 10},
    {"llama.rope.dimension_count", "u32", 10}, {"llama.attention.layer_norm_rms_epsilon", "f32", 1e-5},
    {"llama.rope.freq_base", "f32", 1000}, {"llama.vocab_size", "u32", 131},
    {"tokenizer.ggml.model", "string", "gpt2"}, {"tokenizer.ggml.pre", "string", "gpt-2"},
    {"tokenizer.ggml.tokens", "string", pieces}, {"tokenizer.ggml.token_type", "i32", kinds},
    {"tokenizer.ggml.merges", "string", merges}, {"tokenizer.ggml.bos_token_id", "u32", 1},
    {"tokenizer.ggml.eos_token_id", "u32", 2}, {"tokenizer.ggml.add_bos_token", "bool", 0},
  }
  local tensors, list = {}, assert(ml.load_safetensors(source .. "/model.safetensors"))
  local names = {}
  for name in pairs(list) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    local x = list[name]:astype "float32"
    local bytes, dims = x:tobytes(), {}
    for d, n in ipairs(x.shape) do dims[x.ndim - d + 1] = n end
    if name:find "q_proj" then bytes = permuted(bytes, x.shape, 4) end
    if name:find "k_proj" then bytes = permuted(bytes, x.shape, 2) end
    tensors[i] = {gguf_name(name), dims, 0, bytes}
  end
  return pairs_, tensors
end

---The whole GGUF file.
---@return string
function M.gguf() return fixtures.gguf(M.gguf_parts()) end

---A GGUF file of block formats, with weights of no meaning.
function M.quantised_gguf()
  local pairs_ = M.gguf_parts()
  local sizes = {
    ["llama.embedding_length"] = 256, ["llama.feed_forward_length"] = 256, ["llama.attention.head_count"] = 4,
    ["llama.attention.head_count_kv"] = 2, ["llama.attention.key_length"] = 64, ["llama.attention.value_length"] = 64,
    ["llama.rope.dimension_count"] = 64, ["llama.block_count"] = 1,
  }
  for _, pair in ipairs(pairs_) do pair[3] = sizes[pair[1]] or pair[3] end
  local kinds = { -- ggml's number, elements and bytes of a block, offset of its float16 scale
    q4_0 = {2, 32, 18, 0}, q4_1 = {3, 32, 20, 0}, q5_0 = {6, 32, 22, 0}, q5_1 = {7, 32, 24, 0}, q8_0 = {8, 32, 34, 0},
    q4_k = {12, 256, 144, 0}, q5_k = {13, 256, 176, 0}, q6_k = {14, 256, 210, 208},
  }
  local state = 1
  local function blocks(kind, count)
    local out = {}
    for b = 1, count // kind[2] do
      local bytes = {}
      for i = 1, kind[3] do
        state = state * 6364136223846793005 + 1442695040888963407
        bytes[i] = state >> 56
      end
      local block = string.char(table.unpack(bytes))
      out[b] = block:sub(1, kind[4]) .. "\0\x14" .. block:sub(kind[4] + 3) -- a scale of 2^-10
    end
    return table.concat(out)
  end
  local function matrix(name, inputs, rows, kind)
    return {name, {inputs, rows}, kinds[kind][1], blocks(kinds[kind], inputs * rows)}
  end
  local function norm(name) return {name, {256}, 0, ("<f"):pack(1):rep(256)} end
  return fixtures.gguf(pairs_, {
    matrix("token_embd.weight", 256, 131, "q8_0"),
    norm "output_norm.weight", norm "blk.0.attn_norm.weight", norm "blk.0.ffn_norm.weight",
    matrix("blk.0.attn_q.weight", 256, 256, "q4_0"), matrix("blk.0.attn_k.weight", 256, 128, "q4_1"),
    matrix("blk.0.attn_v.weight", 256, 128, "q6_k"),
    matrix("blk.0.attn_output.weight", 256, 256, "q5_0"), matrix("blk.0.ffn_gate.weight", 256, 256, "q4_k"),
    matrix("blk.0.ffn_up.weight", 256, 256, "q5_k"), matrix("blk.0.ffn_down.weight", 256, 256, "q5_1"),
  })
end

---Writes the model's directory; returns its path.
function M.write_directory(name, changes)
  local path = M.folder(name)
  local files = M.directory()
  for file, bytes in pairs(changes or {}) do files[file] = bytes or nil end
  for file, bytes in pairs(files) do M.write(path .. "/" .. file, bytes) end
  return path
end

return M
