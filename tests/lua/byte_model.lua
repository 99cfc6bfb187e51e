-- byte_model.lua: a tiny model with a tokenizer of single bytes, made at test time under the build folder: what texts,
-- stop strings and chat are tested with. Id i below 256 is byte i; END ends a turn, START begins one.
local M = {END = 256, START = 257}

-- The character that byte-level vocabularies write for a byte (the table of GPT-2).
local function letter(byte)
  local plain = byte >= 33 and byte <= 126 or byte >= 161 and byte <= 172 or byte >= 174
  if plain then return utf8.char(byte) end
  local rank = byte <= 32 and byte or byte <= 160 and byte - 127 + 33 or 67
  return utf8.char(256 + rank)
end

local function quoted(text) return '"' .. text:gsub('["\\]', "\\%0"):gsub("\n", "\\n") .. '"' end

local plain = "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}" ..
  "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"

---Like Qwen 3's, which drops the reasoning of earlier answers: of all answers but the last, the first five characters
---alone are shown.
M.rewriting = "{% for m in messages %}<|start|>{{ m.role }}\n" ..
  "{% if m.role == 'assistant' and loop.index < messages|length - 1 %}{{ m.content[:5] }}" ..
  "{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}" ..
  "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"

local function write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
end

local config = [[{"model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": %d, "max_position_embeddings": %d,
"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu"}]]

---Makes the folder; load it with `random = seed`.
---@param name string
---@param opts? {context: integer, template: string, rows: integer}  rows: of the embedding, 258 as the tokenizer has
---@return string path
function M.make(name, opts)
  opts = opts or {}
  local path = (os.getenv "BUILD" or "build") .. "/test-" .. name
  assert(os.execute("mkdir -p '" .. path .. "'"))
  local vocabulary = {}
  for byte = 0, 255 do vocabulary[byte + 1] = quoted(letter(byte)) .. ": " .. byte end
  write(path .. "/config.json", config:format(opts.rows or 258, opts.context or 4096))
  write(path .. "/tokenizer.json", ([[{"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
"added_tokens": [
{"id": 256, "content": "<|end|>", "special": true,
"normalized": false, "single_word": false, "lstrip": false, "rstrip": false},
{"id": 257, "content": "<|start|>", "special": true,
"normalized": false, "single_word": false, "lstrip": false, "rstrip": false}],
"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
"post_processor": null,
"decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
"model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
"end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
"vocab": {%s}, "merges": []}}]]):format(table.concat(vocabulary, ", ")))
  local template = quoted(opts.template or plain)
  write(path .. "/tokenizer_config.json", ('{"eos_token": "<|end|>", "chat_template": %s}'):format(template))
  return path
end

---A sampler that says this text, then the end token; or the ids of a list.
function M.says(what)
  local ids = type(what) == "table" and what or {what:byte(1, -1)}
  local at = 0
  return function(logits)
    local _ = logits:max():item() -- looks at a value: runs for each token
    at = at + 1
    return ids[at] or M.END
  end
end

return M
