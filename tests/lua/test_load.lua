-- Loading: what is refused and how it says so, warnings, options, quantisation, random weights, cancellation, limits,
-- memory.
local ml = require "moonlet"
local core = require "moonlet.core"
local fixtures = require "tests.fixtures"
local tiny = require "tests.tiny"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local folder = tiny.folder "load"
local files = tiny.directory()
local config_text = files["config.json"]

-- A config with keys changed ({key = JSON text, false to drop it}).
local function config_with(changes)
  local text = config_text
  for key, value in pairs(changes) do
    text = text:gsub('\n  "' .. key .. '": %b{},?', "", 1)
    text = text:gsub('\n  "' .. key .. '": [^\n{]+', "", 1)
    if value then text = text:gsub("{", function() return '{\n  "' .. key .. '": ' .. value .. "," end, 1) end
  end
  return (text:gsub(",%s*}%s*$", "\n}\n"))
end

local count = 0
local function with_config(changes)
  count = count + 1
  return tiny.write_directory("load/config" .. count, {["config.json"] = config_with(changes)})
end

local ids = {90, 14, 79, 59, 97, 59}
local function continuation(m)
  local _, result = m:complete(ids, {max_tokens = 6, ignore_eos = true})
  return result.ids
end

-- ---- configurations ----

local refused = {
  {"no heads", {num_attention_heads = "0"}, "num_attention_heads", "corrupt"},
  {"no heads at all", {num_attention_heads = false}, "num_attention_heads", "corrupt"},
  {"null heads", {num_attention_heads = "null"}, "num_attention_heads", "corrupt"},
  {"a billion layers", {num_hidden_layers = "1000000000"}, "num_hidden_layers", "corrupt"},
  {"more layers than weights", {num_hidden_layers = "1999"}, "num_hidden_layers: found 1999", "mismatch"},
  {"fewer layers than weights", {num_hidden_layers = "1"}, "belongs to no parameter", "mismatch"},
  {"heads that do not divide", {num_attention_heads = "5", head_dim = false}, "does not divide", "corrupt"},
  {"groups that do not divide", {num_key_value_heads = "3"}, "num_key_value_heads", "corrupt"},
  {"a negative size", {hidden_size = "-24"}, "hidden_size: expected a positive integer", "corrupt"},
  {"a size that is no integer", {hidden_size = "24.5"}, "hidden_size: expected a positive integer", "corrupt"},
  {"a size that is text", {hidden_size = '"24"'}, 'hidden_size: expected a positive integer.*found "24"', "corrupt"},
  {"a size that is a table", {intermediate_size = "[40]"}, "intermediate_size", "corrupt"},
  {"an enormous size", {hidden_size = "9223372036854775807"}, "hidden_size", "corrupt"},
  {"another size", {intermediate_size = "41"},
    "mlp.gate_proj.weight: expected shape %(41, 24%), found %(40, 24%)", "mismatch"},
  {"another vocabulary", {vocab_size = "130"},
    "embed_tokens.weight: expected shape %(130, 24%), found %(131, 24%)", "mismatch"},
  {"an odd head", {head_dim = "9"}, "head_dim: expected an even number", "corrupt"},
  {"a theta of infinity", {rope_parameters = '{"rope_theta": 1e309}'}, "config.json", "corrupt"},
  {"a huge theta", {rope_parameters = '{"rope_theta": 1e300}'}, "rope_theta", "corrupt"},
  {"a theta of zero", {rope_parameters = '{"rope_theta": 0}'}, "rope_theta", "corrupt"},
  {"a theta of text", {rope_parameters = '{"rope_theta": "1e4"}'}, "rope_theta", "corrupt"},
  {"a theta of Python's infinity", {rope_parameters = '{"rope_theta": {"__float__": "Infinity"}}'},
    "rope_theta", "corrupt"},
  {"rope parameters that are a number", {rope_parameters = "7"}, "rope_parameters", "corrupt"},
  {"a rope that is not known", {rope_parameters = '{"rope_type": "yarn", "factor": 4.0, "rope_theta": 1000.0}'},
    'config.json: rope_parameters.rope_type: "yarn" is not supported', "unsupported"},
  {"a scaling without its factor", {rope_parameters = '{"rope_type": "linear", "rope_theta": 1000.0}'},
    "rope_parameters.factor: expected a positive number", "corrupt"},
  {"a rope of the old kind", {rope_parameters = false, rope_scaling = '{"type": "dynamic", "factor": 2.0}'},
    'rope_scaling.type: "dynamic" is not supported', "unsupported"},
  {"a rope without its factor", {rope_parameters = false, rope_scaling = '{"type": "linear"}'},
    "rope_scaling.factor: expected a positive number", "corrupt"},
  {"a rope of factor null", {rope_parameters = false, rope_scaling = '{"type": "linear", "factor": null}'},
    "rope_scaling.factor", "corrupt"},
  {"a rope type that is a list", {rope_parameters = '{"rope_type": [1]}'}, "rope_type", "unsupported"},
  {"an activation that is not known", {hidden_act = '"mish"'},
    'config.json: hidden_act: expected gelu, .*, found "mish"', "unsupported"},
  {"an activation that is a number", {hidden_act = "3"}, "hidden_act: expected a string", "corrupt"},
  {"a bias that is text", {attention_bias = '"no"'}, "attention_bias: expected a boolean", "corrupt"},
  {"a bias without weights", {attention_bias = "true"}, 'q_proj.bias" is missing', "not_found"},
  {"an epsilon of minus one", {rms_norm_eps = "-1"}, "rms_norm_eps", "corrupt"},
  {"a context of minus one", {max_position_embeddings = "-1"}, "max_position_embeddings", "corrupt"},
  {"a type that nobody serves", {model_type = '"mamba"'}, 'model_type "mamba": no family', "unsupported"},
  {"a type out of the folder", {model_type = '"../evil"'}, "no family serves it", "unsupported"},
  {"no type", {model_type = false}, "model_type: expected a string", "corrupt"},
  {"weights of another quantisation", {quantization_config = '{"quant_method": "gptq", "bits": 4}'},
    "quantization_config: .*gptq", "unsupported"},
  {"layer types of another count", {layer_types = '["full_attention"]'},
    "layer_types: expected 2 entries, found 1", "corrupt"},
  {"layer types that are not known", {layer_types = '["full_attention", "linear_attention"]'},
    'layer_types: entry 2: "linear_attention"', "unsupported"},
}
for _, case in ipairs(refused) do
  t.test("config: " .. case[1], function()
    local path = with_config(case[2])
    local from = core.clock()
    local err = t.fails(case[3], case[4], ml.load(path))
    t.ok(tostring(err):find(path, 1, true), "names no file: " .. tostring(err))
    t.ok(core.clock() - from < 5, "takes long")
  end)
end

t.test("config: an untied head without weights", function()
  local config = tiny.read "tests/goldens/tiny/gemma3_untied_shards/config.json"
  local path = tiny.write_directory("load/tied", {["config.json"] = config})
  t.fails("", nil, ml.load(path)) -- another family's weights
end)

-- ---- keys that nobody reads ----

local warned = {
  {"an invented key", {moon_phase = "0.5"}, "moon_phase"},
  {"partial rotary positions", {partial_rotary_factor = "0.5"}, "partial_rotary_factor"},
  {"a soft cap", {final_logit_softcapping = "30.0"}, "final_logit_softcapping"},
  {"a window, which Llama does not know", {sliding_window = "2"}, "sliding_window"},
  {"layers with windows", {layer_types = '["full_attention", "sliding_attention"]'}, "layer_types"},
  {"attention both ways", {use_bidirectional_attention = "true"}, "use_bidirectional_attention"},
  {"windows on request", {use_sliding_window = "true"}, "use_sliding_window"},
  {"interleaved positions", {rope_interleaved = "true"}, "rope_interleaved"},
  {"a number inside rope", {rope_parameters = '{"rope_type": "default", "rope_theta": 1000.0, "beta_fast": 32}'},
    "rope_parameters.beta_fast"},
  {"rope by layer types", {rope_parameters = '{"full_attention": {"rope_type": "default", "rope_theta": 5000.0}}'},
    "rope_parameters"},
}
for _, case in ipairs(warned) do
  t.test("warning: " .. case[1], function()
    local path = with_config(case[2])
    do
      local m <close> = assert(ml.load(path))
      t.eq(#m.info.warnings, 1, m.info.warnings[1])
      t.ok(m.info.warnings[1]:find('key "' .. case[3] .. '" is not read by family llama', 1, true), m.info.warnings[1])
    end
    t.fails('"' .. case[3] .. '" is not read', "unsupported", ml.load(path, {strict = true}))
  end)
end

t.test("a key that the reference ignores changes nothing", function()
  local m <close> = assert(ml.load(tiny.write_directory("load/plain", {})))
  local windowed <close> = assert(ml.load(with_config {sliding_window = "2"}))
  t.ok(windowed:logits(ids):tobytes() == m:logits(ids):tobytes(), "Llama's sliding_window")
  local source, text = "tests/goldens/tiny/gemma3/", tiny.read "tests/goldens/tiny/gemma3/config.json"
  local capped = tiny.folder "load/capped"
  tiny.write(capped .. "/config.json", (text:gsub('("attn_logit_softcapping": )null', "%10.01", 1)))
  tiny.write(capped .. "/model.safetensors", tiny.read(source .. "model.safetensors"))
  local a <close> = assert(ml.load(source))
  local b <close> = assert(ml.load(capped))
  t.ok(b:logits(ids):tobytes() == a:logits(ids):tobytes(), "Gemma 3's attn_logit_softcapping")
  t.eq(#a.info.warnings, 0)
  t.ok(b.info.warnings[1]:find('key "attn_logit_softcapping" is not read', 1, true), b.info.warnings[1])
end)

-- What a file does not say is what the reference's class of its type says.
for _, case in ipairs {
  {"llama", "", kv = 16, context = 2048},
  {"mistral", "", kv = 8, window = 4096, context = 131072},
  {"mistral", '"sliding_window": null, "num_key_value_heads": null,', kv = 16, context = 131072},
  {"mistral", '"sliding_window": 3, "num_key_value_heads": 4, "max_position_embeddings": 64,', kv = 4, window = 3,
    context = 64},
  {"qwen3", '"num_key_value_heads": 4,', kv = 4, context = 32768},
  {"gemma3_text", '"num_key_value_heads": 1,', kv = 1, window = 4096, context = 131072},
} do
  t.test(("defaults of %s {%s}"):format(case[1], case[2]), function()
    local path = tiny.folder "load/defaults"
    tiny.write(path .. "/config.json", ([[{%s "model_type": "%s", "hidden_size": 64, "num_hidden_layers": 1,
      "num_attention_heads": 16, "intermediate_size": 32, "vocab_size": 40, "head_dim": 4}]]):format(case[2], case[1]))
    local m <close> = assert(ml.load(path, {random = 1}))
    local attention = m.net.model.layers[1].self_attn
    t.eq({attention.kv_heads, attention.window or 0, m.info.context}, {case.kv, case.window or 0, case.context})
    t.eq(#m.info.warnings, 0)
  end)
end

t.test("no warning where nothing changes", function()
  local path = with_config {
    use_sliding_window = "false", max_window_layers = "28", rope_scaling = "null", pruned_heads = "{}",
    use_bidirectional_attention = "false", layer_types = '["full_attention", "full_attention"]',
    ["transformers.js_config"] = "{}",
  }
  local m <close> = assert(ml.load(path, {strict = true}))
  t.eq(#m.info.warnings, 0)
end)

-- ---- weights ----

local function safetensors_with(change)
  local tensors, list = assert(ml.load_safetensors "tests/goldens/tiny/llama/model.safetensors"), {}
  local names = {}
  for name in pairs(tensors) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local x = tensors[name]
    local entry = {name, "F32", x.shape, x:tobytes()}
    entry = change(name, entry)
    if entry then list[#list + 1] = entry end
  end
  local extra = change(nil)
  if extra then list[#list + 1] = extra end
  return fixtures.safetensors(list)
end

local function with_weights(name, change)
  return tiny.write_directory("load/" .. name, {["model.safetensors"] = safetensors_with(change)})
end

t.test("a missing weight", function()
  local path = with_weights("missing", function(name, e)
    return name ~= "model.layers.1.mlp.up_proj.weight" and e or nil
  end)
  t.fails('"model.layers.1.mlp.up_proj.weight" is missing: expected shape %(40, 24%)', "not_found", ml.load(path))
end)

t.test("a leftover weight", function()
  local path = with_weights("leftover", function(name, e)
    return name and e or {"model.layers.0.self_attn.q_norm.weight", "F32", {10}, ("\0"):rep(40)}
  end)
  t.fails('"model.layers.0.self_attn.q_norm.weight" belongs to no parameter', "mismatch", ml.load(path))
end)

t.test("a module at two places, which would hold the weight that is read last", function()
  local nn, Llama = require "moonlet.nn", require "moonlet.models.llama"
  local Shared = nn.model "llama"
  Shared.config, Shared.ignore, Shared.forward = Llama.config, Llama.ignore, Llama.forward
  function Shared:init(c)
    Llama.init(self, c)
    self.model.norm = self.model.layers[2].input_layernorm
  end
  t.fails('"model.layers.1.input_layernorm.weight" and "model.norm.weight" are one parameter', "mismatch",
    ml.load(tiny.write_directory "load/shared", {family = Shared}))
end)

t.test("a norm of integers", function()
  local path = with_weights("dtype", function(name, e)
    if name == "model.norm.weight" then e[2] = "I32" end
    return e
  end)
  t.fails("model.norm.weight: expected a float dtype, found int32", "mismatch", ml.load(path))
end)

t.test("a matrix of integers", function()
  local path = with_weights("dtype2", function(name, e)
    if name == "lm_head.weight" then e[2] = "I32" end
    return e
  end)
  t.fails("lm_head.weight: .*int32", "unsupported", ml.load(path))
end)

t.test("a matrix of one axis", function()
  local path = with_weights("axes", function(name, e)
    if name == "lm_head.weight" then e[3] = {131 * 24} end
    return e
  end)
  t.fails("lm_head.weight: expected shape %(131, 24%), found %(3144%)", "mismatch", ml.load(path))
end)

-- ---- GGUF ----

local function gguf_with(name, change)
  local pairs_, tensors = tiny.gguf_parts()
  change(function(key, kind, value)
    for i, pair in ipairs(pairs_) do
      if pair[1] == key then
        if kind then pairs_[i] = {key, kind, value} else table.remove(pairs_, i) end
        return
      end
    end
    pairs_[#pairs_ + 1] = {key, kind, value}
  end, tensors)
  local path = folder .. "/" .. name .. ".gguf"
  tiny.write(path, fixtures.gguf(pairs_, tensors))
  return path
end

local gguf_refused = {
  {"an unknown architecture", {"general.architecture", "string", "mamba"},
    'general.architecture "mamba": no family serves it %(built%-in ones, mamba.lua in the folders of', "unsupported"},
  {"an architecture that is a number", {"general.architecture", "u32", 7}, "general.architecture", "corrupt"},
  {"no architecture", {"general.architecture"}, "general.architecture", "corrupt"},
  {"a block count of text", {"llama.block_count", "string", "2"},
    "num_hidden_layers: expected a positive integer", "corrupt"},
  {"a head count that is a list", {"llama.attention.head_count", "u32", {4, 4}}, "num_attention_heads", "corrupt"},
  {"an unknown pre-tokenizer", {"tokenizer.ggml.pre", "string", "moon"}, "tokenizer.ggml.pre: moon", "unsupported"},
  {"an unknown tokenizer", {"tokenizer.ggml.model", "string", "t5"}, "tokenizer.ggml.model: t5", "unsupported"},
  {"a tokenizer model that is a number", {"tokenizer.ggml.model", "u32", 5}, "tokenizer.ggml.model", "corrupt"},
  {"partial rotary positions", {"llama.rope.dimension_count", "u32", 6},
    "llama.rope.dimension_count: expected 10", "unsupported"},
  {"values of another size", {"llama.attention.value_length", "u32", 8},
    "llama.attention.value_length: expected 10", "unsupported"},
  {"yarn", {"llama.rope.scaling.type", "string", "yarn"}, '"yarn" is not supported', "unsupported"},
  {"a theta that is no number", {"llama.rope.freq_base", "f32", 0 / 0}, "rope_theta", "corrupt"},
  {"a template that is a number", {"tokenizer.chat_template", "u32", 5}, "chat_template: expected text", "corrupt"},
}
for i, case in ipairs(gguf_refused) do
  t.test("GGUF: " .. case[1], function()
    local path = gguf_with("refused" .. i, function(set) set(table.unpack(case[2])) end)
    local err = t.fails(case[3], case[4], ml.load(path))
    t.ok(tostring(err):find(path, 1, true), "names no file: " .. tostring(err))
  end)
end

t.test("GGUF: a key of the architecture that nobody reads", function()
  local m <close> = assert(ml.load(gguf_with("extra", function(set) set("llama.moon_phase", "f32", 0.5) end)))
  t.ok(m.info.warnings[1]:find('"llama.moon_phase" is not read', 1, true), m.info.warnings[1])
end)

t.test("GGUF: frequencies divided by rope_freqs", function()
  local path = gguf_with("factors", function(_, tensors)
    tensors[#tensors + 1] = {"rope_freqs.weight", {5}, 0, ("<f"):pack(2):rep(5)}
  end)
  local linear = with_config {
    rope_parameters = false, rope_scaling = '{"type": "linear", "factor": 2.0}', rope_theta = "1000.0",
  }
  local m <close> = assert(ml.load(path, {precision = "exact", strict = true}))
  local same <close> = assert(ml.load(linear, {precision = "exact"}))
  t.close(m:logits(ids), same:logits(ids), 1e-5)
end)

t.test("GGUF: without a tokenizer", function()
  local m <close> = assert(ml.load(gguf_with("bare", function(set)
    for _, key in ipairs {
      "model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "add_bos_token",
    } do set("tokenizer.ggml." .. key) end
  end)))
  t.eq(m.tokenizer, nil)
  t.eq(#continuation(m), 6)
  t.raises(function() m:complete "text" end, "no tokenizer", "not_found")
end)

-- ---- paths ----

t.test("a directory without a tokenizer", function()
  local path = tiny.write_directory("load/bare", {["tokenizer.json"] = false, ["tokenizer_config.json"] = false})
  local m <close> = assert(ml.load(path))
  t.eq(#continuation(m), 6)
  t.raises(function() m:complete "text" end, "no tokenizer", "not_found")
  t.raises(function() m:chat {{role = "user", content = "text"}} end, "no tokenizer", "not_found")
end)

t.test("paths that are no models", function()
  t.fails("no such file", "not_found", ml.load(folder .. "/nothing"))
  t.fails("config.json", "not_found", ml.load(tiny.folder "load/empty"))
  t.fails("", "not_found", ml.load(tiny.write_directory("load/unweighted", {["model.safetensors"] = false})))
  tiny.write(folder .. "/text.txt", "hello\n")
  t.fails("text.txt", "corrupt", ml.load(folder .. "/text.txt"))
  tiny.write(folder .. "/empty.gguf", "")
  t.fails("empty.gguf", "corrupt", ml.load(folder .. "/empty.gguf"))
  t.fails("", nil, ml.load "/dev/null")
  t.fails("no such file", "not_found", ml.load "some-org/some-model-that-is-not-here")
  t.raises(function() ml.load(7) end, nil, "usage")
  t.raises(function() ml.load "a\0b" end, nil, "usage")
end)

t.test("a path without permission", function()
  if io.popen("id -u"):read "n" == 0 then t.skip "root reads everything" end
  local path = tiny.write_directory "load/locked"
  os.execute("chmod 000 " .. path .. "/model.safetensors")
  t.fails("model.safetensors", "io", ml.load(path))
end)

-- ---- options ----

t.test("options that are wrong", function()
  local path = tiny.write_directory "load/options"
  for _, bad in ipairs {0, -1, 1.5, "8", 1 << 40} do
    t.raises(function() ml.load(path, {max_context = bad}) end, "max_context", "usage")
  end
  t.raises(function() ml.load(path, {precision = "sloppy"}) end, "precision", "usage")
  t.fails("^load: dtype: expected float32, float16, bfloat16, found \"float64\"$", "unsupported",
    ml.load(path, {dtype = "float64"}))
  t.fails("cache_dtype", "unsupported", ml.load(path, {cache_dtype = "q8"}))
  t.fails("adapter", "unsupported", ml.load(path, {adapter = "x"}))
  t.raises(function() ml.load(path, {threads = 0}) end, "threads", "usage")
  t.raises(function() ml.load(path, {random = "seed"}) end, "random", "usage")
  t.fails("group_size", "unsupported", ml.load(path, {quantize = {bits = 4, group_size = 64}}))
  t.fails("bits", "unsupported", ml.load(path, {quantize = {bits = 3}}))
  t.fails("^quantize: format: weights of a file are rounded to q4_0 or q8_0, not to q6_k$", "unsupported",
    ml.load(path, {quantize = {format = "q6_k"}}))
  for _, format in ipairs {"q9_0", "Q4_0", 4} do
    t.fails("^quantize: format: expected q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0, found "
      .. ml.json.encode(format) .. "$", "unsupported", ml.load(path, {quantize = {format = format}}))
  end
  t.fails("this process has no such device", "device", ml.load(path, {device = "nowhere"}))
  t.raises(function() ml.load(path, {quantize = {format = "q8_0", bits = 4}}) end, "bits", "usage")
  t.fails("no module .* built%-in ones are moonlet.models.gemma3", "not_found",
    ml.load(path, {family = "no.such.module"}))
  t.raises(function() ml.load(path, {progress = 5}) end, "progress", "usage")
  t.raises(function() ml.load(path, {contxt = 5}) end, 'no option "contxt"', "usage")
end)

t.test("a family's file that cannot be run", function()
  local path, dir = tiny.write_directory "load/family", tiny.folder "load-families"
  for name, text in pairs {raises = "error('boom')", breaks = "x =", indexes = "return (nil).x",
    throws = "error({code = 'usage'})"} do
    local file = dir .. "/" .. name .. ".lua"
    tiny.write(file, text)
    t.fails(name .. "%.lua", "usage", ml.load(path, {family = file}))
  end
  t.fails("^[^:]*/breaks%.lua:1: unexpected symbol", "usage", ml.load(path, {family = dir .. "/breaks.lua"}))
  t.fails("none%.lua: no such file", "not_found", ml.load(path, {family = dir .. "/none.lua"}))
end)

t.test("npy files that are cut short, and what is no tensor", function()
  local path = tiny.folder "load-npy" .. "/x.npy"
  assert(ml.save_npy(path, ml.arange(6)))
  local whole = tiny.read(path)
  t.eq(assert(ml.load_npy(path)):tolist(), {0, 1, 2, 3, 4, 5})
  for size, message in pairs {[8] = "not an npy file", [60] = "the header ends after 50 of 118 bytes",
    [#whole - 1] = "expected 24 bytes, found 23"} do
    tiny.write(path, whole:sub(1, size))
    t.fails("^[^ ]*x%.npy: " .. message .. "$", "corrupt", ml.load_npy(path))
  end
  t.raises(function() ml.save_npy(path, {1}) end, "save_npy: expected a tensor, found a table", "usage")
end)

t.test("weights that a module has not name their file", function()
  local path = tiny.folder "load-weights" .. "/w.safetensors"
  assert(ml.save_safetensors(path, {weight = ml.zeros {3, 2}, extra = ml.zeros {1}}))
  t.fails("^[^ ]*w%.safetensors: extra: the module has no such parameter", "not_found",
    require("moonlet.nn").Linear(2, 3):load_weights(path))
  t.fails("^[^ ]*w%.safetensors: weight: expected shape", "mismatch",
    require("moonlet.nn").Linear(3, 3):load_weights(path))
  local layer = require("moonlet.nn").Linear(2, 3, {bias = true})
  layer:update {weight = ml.ones {3, 2}}
  t.fails("extra", "not_found", layer:load_weights(path))
  assert(ml.save_safetensors(path, {weight = ml.zeros {3, 2}, bias = ml.zeros {2}}))
  t.fails("bias: expected shape", "mismatch", layer:load_weights(path))
  t.raises(function() layer:update {weight = ml.zeros {3, 2}, bias = 3} end, "bias", "usage")
  t.eq(layer.weight:tolist(), {{1.0, 1.0}, {1.0, 1.0}, {1.0, 1.0}}, "all of them or none")
end)

t.test("a family's file that returns no family is named", function()
  local path, file = tiny.write_directory "load/family", tiny.folder "load-families" .. "/none.lua"
  for text, found in pairs {["local _ = 1"] = "nothing", ["return 3"] = "3", ["return {}"] = "a table"} do
    tiny.write(file, text)
    t.fails("none%.lua: expected it to return a model class of nn.model, found " .. found, "usage",
      ml.load(path, {family = file}))
  end
end)

t.test("a family that cannot be built tells its own slips from keys that the file has not", function()
  local path, file = tiny.write_directory "load/family", tiny.folder "load-families" .. "/slip.lua"
  local source, at = tiny.read "lua/models/llama.lua", "function Llama:init(c)\n"
  local function build(line)
    tiny.write(file, (source:gsub("function Llama:init%(c%)\n", function(all) return all .. line .. "\n" end)))
    return ml.load(path, {family = file})
  end
  t.ok(source:find(at, 1, true))
  local keys = "config.json, which has not these keys that it reads: "
  for _, case in ipairs {
    {"local _ = c.rope_scaling, nothing()", "attempt to call a nil value %(global 'nothing'%) %(family llama"},
    {"local _ = c.n_embd; self.net = nn.Lineal(2, 2)", "attempt to call a nil value"},
    {"local _ = c.rope_scaling; self.x = nothing.x", "attempt to index a nil value"},
    {"local _ = c.n_embd; error 'my own'", "my own %(family llama, built for [^ ]*config.json%)$"},
    {"local _ = c.n_embd; nn.RMSNorm(4, {}, 1e-6)", "RMSNorm: an argument too many"},
    {"local _ = c.n_embd * 2", "arithmetic on a nil value .*" .. keys .. "n_embd%)$", "corrupt"},
    {"for _ = 1, c.n_layer do end", "bad 'for' limit .*" .. keys .. "n_layer%)$", "corrupt"},
    {"nn.Linear(c.n_embd, 2)", "Linear: .*found nothing .*" .. keys .. "n_embd%)$", "corrupt"},
  } do
    local err = t.fails(case[2], case[3] or "usage", build(case[1]))
    t.ok(tostring(err):find "^[^ ]*slip%.lua:%d+: ", tostring(err))
  end
  local config = tiny.read(path .. "/config.json"):gsub('"tie_word_embeddings": %a+,', "")
  tiny.write(path .. "/config.json", config)
  source = source:gsub("\n *tie_word_embeddings = %a+,", "")
  t.fails(keys .. "n_embd%)$", "corrupt", build "local _ = c.n_embd * 2") -- not what the loader read
  t.fails(keys .. "n_embd, tie_word_embeddings%)$", "corrupt", build "local _ = c.tie_word_embeddings, c.n_embd * 2")
end)

t.test("a family without init or forward, or with another spelling of them, is told as it loads", function()
  local path, file = tiny.write_directory "load/family", tiny.folder "load-families" .. "/odd.lua"
  local source = tiny.read "lua/models/llama.lua"
  local misspelt = source:gsub("Llama:forward", "Llama:foward")
  for message, text in pairs {
    ["llama (%s): forward: expected a function, found nothing"] = misspelt,
    ["llama (%s): init: expected a function, found nothing"] = source:gsub("Llama:init", "Llama:int"),
    ["llama (%s): forward: expected a function, found 1"] = source:gsub("return Llama\n$", "Llama.forward = 1 %0"),
    ["odd (%s): init: expected a function, found nothing"] = "return require 'moonlet.nn'.model 'odd'",
    ["llama (%s): ignore: expected a table, found true"] = source:gsub("Llama.ignore = [^\n]+", "Llama.ignore = true"),
  } do
    tiny.write(file, text)
    local err = t.fails("", "usage", ml.load(path, {family = file}))
    t.eq(tostring(err), "family " .. message:format(file))
  end
  t.fails("^family llama %(.*%): forward: expected a function", "usage", ml.load(path, {family = load(misspelt)()}))
end)

t.test("a user's family by its model type that raises", function()
  local path = with_config {model_type = '"boom"'}
  local dir = tiny.folder "load-path"
  tiny.write(dir .. "/boom.lua", "error('boom')")
  local pipe <close> = assert(io.popen(("MOONLET_PATH='%s' '%s/moonlet' info -m '%s' 2>&1"):format(dir,
    os.getenv "BUILD" or "build", path)))
  local text = pipe:read "a"
  t.ok(text:find "boom%.lua:1: boom" and not text:find "traceback", text)
end)

t.test("a load without threads leaves their number as it is", function()
  local path, was = tiny.write_directory "load/options", ml.threads()
  assert(ml.load(path, {threads = 1})):close()
  t.eq(ml.threads(), 1)
  assert(ml.load(path)):close()
  t.eq(ml.threads(), 1)
  ml.threads(was)
end)

t.test("the weights' dtype is told", function()
  local m <close> = assert(ml.load(tiny.write_directory "load/options"))
  t.eq(m.info.dtype, "float32")
  t.ok(tostring(m):find(" 17928 parameters, float32, context 256, on " .. ml.default_device(), 1, true), tostring(m))
  local random <close> = assert(ml.load(tiny.write_directory "load/options", {random = 1}))
  t.eq(random.info.dtype, "bfloat16")
end)

t.test("a smaller context", function()
  local m <close> = assert(ml.load(tiny.write_directory "load/context", {max_context = 16}))
  t.eq(m.info.context, 16)
  local long = {}
  for i = 1, 17 do long[i] = i end
  t.raises(function() m:complete(long, {max_tokens = 1}) end, "17 tokens", "limit")
  t.raises(function() m:logits(long) end, "logits: row 1 has 17 tokens, the context holds 16", "limit")
  t.raises(function() m:logits {{1}, long} end, "row 2", "limit")
  t.eq(m:perplexity(long, {context = 100}), m:perplexity(long, {context = 16})) -- a window is at most the context
end)

-- The context of a configuration that says none. `keys` are put into it, `default` is the family's own.
local function context_without(keys, default, opts)
  local path = tiny.folder "load/no-context"
  tiny.write(path .. "/config.json", [[{"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
 "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64, "vocab_size": 300, ]] .. keys .. "}")
  local family
  if default then
    family = tiny.folder "load-contexts" .. "/family.lua"
    tiny.write(family, (tiny.read "lua/models/llama.lua":gsub("max_position_embeddings = [^\n]+", default)))
  end
  local m, message, code = ml.load(path, {random = 1, family = family, max_context = opts and opts.max_context})
  local context = m and m.info.context
  if m then m:close() end
  return context, message, code
end

t.test("a context that the file does not say is the family's", function()
  for _, case in ipairs { -- as transformers' configuration classes have them
    {"llama", 2048}, {"mistral", 131072}, {"qwen3", 32768}, {"gemma3_text", 131072},
  } do
    for _, null in ipairs {"", ', "max_position_embeddings": null'} do
      t.eq(context_without(('"model_type": "%s"%s'):format(case[1], null)), case[2], case[1])
    end
  end
  t.eq(context_without('"model_type": "llama"', "max_position_embeddings = function() return 77 end,"), 77)
end)

t.test("a context that neither file nor family says is an error, unless the call says it", function()
  local none = ""
  t.fails("load/no%-context/config.json: max_position_embeddings: expected a positive integer, found nothing "
    .. "%(neither family llama nor load's max_context says it%)$", "corrupt",
    context_without('"model_type": "llama"', none))
  t.eq(context_without('"model_type": "llama"', none, {max_context = 24}), 24)
  t.eq(context_without('"model_type": "llama", "max_position_embeddings": 16', none, {max_context = 24}), 16)
end)

-- ---- random weights and quantisation ----

local shapes = tiny.folder "load/shapes"
tiny.write(shapes .. "/config.json", [[{"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 512, "vocab_size": 300,
 "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": true}]])

t.test("random weights are those of the seed", function()
  local a <close> = assert(ml.load(shapes, {random = 7}))
  local b <close> = assert(ml.load(shapes, {random = 7}))
  local c <close> = assert(ml.load(shapes, {random = 8}))
  t.eq(a:logits(ids):tobytes() == b:logits(ids):tobytes(), true)
  t.eq(a:logits(ids):tobytes() == c:logits(ids):tobytes(), false)
  t.eq(a.info.quantization, nil)
end)

for format, bits in pairs {q4_0 = 4, q4_1 = 4, q5_0 = 5, q5_1 = 5, q8_0 = 8, q4_k = 4, q5_k = 5, q6_k = 6} do
  t.test("random weights in " .. format, function()
    local a <close> = assert(ml.load(shapes, {random = 7, quantize = {format = format}}))
    local b <close> = assert(ml.load(shapes, {random = 7, quantize = {format = format}}))
    t.eq(a.info.quantization,
      {format = format, bits = bits, group_size = format:match "_k$" and 256 or 32, formats = {format}})
    local x = a:logits(ids)
    t.eq(x:tobytes() == b:logits(ids):tobytes(), true)
    t.ok(x:isfinite():all():item(), "finite")
    t.ok(x:std():item() > 0.01 and x:std():item() < 100, ("deviation %g"):format(x:std():item()))
  end)
end

t.test("bits name formats", function()
  for bits, format in pairs {[4] = "q4_0", [8] = "q8_0"} do
    local m <close> = assert(ml.load(shapes, {random = 1, quantize = {bits = bits, group_size = 32}}))
    t.eq(m.info.quantization.format, format)
  end
end)

-- A float checkpoint of widths that blocks divide.
local function wide_checkpoint()
  local path = tiny.folder "load/wide"
  local text = tiny.read(shapes .. "/config.json")
    :gsub('"hidden_size": 256', '"hidden_size": 64'):gsub('"intermediate_size": 512', '"intermediate_size": 96')
  tiny.write(path .. "/config.json", text)
  local m <close> = assert(ml.load(path, {random = 3, precision = "exact"}))
  local tensors, order = {}, {}
  m.net:each_parameter(function(_, _, x, name)
    order[#order + 1] = name
    tensors[name] = x.layout == "packed" and x:dequantize() or x
  end)
  assert(require("moonlet.files").save_safetensors(path .. "/model.safetensors", tensors, nil, order))
  return path
end

t.test("float weights rounded while they load", function()
  local path = wide_checkpoint()
  local float <close> = assert(ml.load(path, {precision = "exact"}))
  local want = float:logits(ids)
  for bits, bound in pairs {[8] = 0.03, [4] = 0.5} do
    local m <close> = assert(ml.load(path, {precision = "exact", quantize = {bits = bits, group_size = 32}}))
    t.eq(m.info.quantization.bits, bits)
    t.ok(m.info.bytes < float.info.bytes * (bits == 8 and 0.4 or 0.25), "smaller")
    local off = ((m:logits(ids) - want):square():mean():sqrt() / want:std()):item()
    t.ok(off > 0 and off < bound, ("%d bits are off by %.3g of a deviation"):format(bits, off))
  end
end)

t.test("blocks are not rounded again", function()
  local path = folder .. "/blocks.gguf"
  tiny.write(path, tiny.quantised_gguf())
  t.fails("expected float weights, found", "unsupported", ml.load(path, {quantize = {bits = 8}}))
end)

-- ---- reading what was loaded ----

for dtype, name in pairs {float32 = "llama", float16 = "llama_old_llama3", bfloat16 = "qwen3"} do
  t.test("weights are read and saved as the file has them: " .. dtype, function()
    local dir, path = "tests/goldens/tiny/" .. name, folder .. "/saved.safetensors"
    local file = assert(ml.load_safetensors(dir .. "/model.safetensors"))
    local m <close> = assert(ml.load(dir, {precision = "exact"}))
    assert(m.net:save_weights(path))
    local saved = assert(ml.load_safetensors(path))
    for key, x in pairs(m.net:parameters()) do
      local want = x.ndim == 2 and file[key] or file[key]:astype "float32" -- vectors become float32 as they load
      if x.ndim == 2 then t.eq(x.dtype, dtype) end
      t.ok(x:tobytes() == want:tobytes(), key .. ": tobytes")
      t.eq(x:tolist(), want:tolist())
      t.eq(tostring(x), tostring(want))
      t.ok(saved[key].dtype == x.dtype and saved[key]:tobytes() == want:tobytes(), key .. ": saved")
      file[key], saved[key] = nil, nil
    end
    t.eq({next(file) or next(saved)}, {})
    local fresh <close> = assert(ml.load(dir, {random = 1, precision = "exact"}))
    assert(fresh.net:load_weights(path))
    t.eq(continuation(fresh), continuation(m))
    local weight = m.net:parameters()["model.embed_tokens.weight"]
    local saved_npy, message, code = ml.save_npy(folder .. "/saved.npy", weight)
    if dtype == "bfloat16" then t.eq({saved_npy, code}, {nil, "unsupported"}, message)
    else t.eq(assert(ml.load_npy(folder .. "/saved.npy")):tolist(), weight:tolist()) end
  end)
end

for format in ("q4_0 q4_1 q5_0 q5_1 q8_0 q4_k q5_k q6_k"):gmatch "%S+" do
  t.test("blocks are read as the file has them: " .. format, function()
    local bytes_of = {q4_0 = 18, q4_1 = 20, q5_0 = 22, q5_1 = 24, q8_0 = 34, q4_k = 144, q5_k = 176, q6_k = 210}
    local block = format:match "_k$" and 256 or 32
    local state, text = 1, {}
    for i = 1, 19 * 2 * bytes_of[format] do -- two panels of rows, the second with a tail
      state = state * 1103515245 + 12345 & 0x7fffffff
      text[i] = string.char(state >> 16 & 255)
    end
    local bytes = table.concat(text)
    local weight = core.pack(ml.from_bytes(bytes, {19, 2 * block}, format))
    t.eq(weight.layout, "packed")
    t.ok(weight:tobytes() == bytes, "the same bytes")
    t.raises(function() weight:tolist() end, "tolist: .*dequantize it first, w:dequantize%(%)$")
    t.eq(tostring(weight), ("tensor (19, %d) %s on %s"):format(2 * block, format, ml.default_device()))
    t.fails("tensor 'w': safetensors cannot hold " .. format, "unsupported",
      ml.save_safetensors(folder .. "/blocks.safetensors", {w = weight}))
    t.fails("npy has no dtype " .. format, "unsupported", ml.save_npy(folder .. "/blocks.npy", weight))
  end)
end

-- ---- what a load that ends early leaves behind ----

t.test("cancelled: nothing stays", function()
  local path, before = tiny.write_directory "load/cancel", ml.memory.active()
  for n = 1, 5 do
    local seen = 0
    local err = t.raises(function()
      ml.load(path, {progress = function()
        seen = seen + 1
        if seen == n then core.cancel() end
      end})
    end, nil, "cancelled")
    t.eq(err.code, "cancelled")
    t.eq(ml.memory.active(), before)
    t.eq(core.cancelled(), nil)
  end
  t.raises(function() ml.load(path, {progress = function() error "stop" end}) end, "stop")
  t.eq(ml.memory.active(), before)
  local m <close> = assert(ml.load(path))
  t.eq(#continuation(m), 6)
end)

t.test("a cancel that a load does not answer as such is not left for the next call", function()
  local path = tiny.write_directory "load/cancel"
  local function works()
    t.eq(core.cancelled(), nil)
    t.eq((ml.tensor {1, 2} + 1):tolist(), {2, 3})
  end
  t.raises(function()
    ml.load(path, {progress = function()
      core.cancel()
      error "stop"
    end})
  end, "stop")
  works()
  core.cancel()
  t.fails(nil, "not_found", ml.load(folder .. "/nothing"))
  works()
  core.cancel()
  t.raises(function() ml.load(path) end, nil, "cancelled")
  works()
  local total = 0
  local m = assert(ml.load(path, {progress = function() total = total + 1 end}))
  m:close()
  local seen = 0
  t.raises(function()
    ml.load(path, {progress = function()
      seen = seen + 1
      if seen == total then core.cancel() end
    end})
  end, nil, "cancelled")
  works()
end)

t.test("the memory limit is an error, and what was loaded goes back", function()
  local path = tiny.write_directory "load/limit"
  collectgarbage()
  local before = ml.memory.active()
  for _, room in ipairs {1000, 20000, 60000} do
    ml.memory.limit(before + room)
    local ok, model, message, code = pcall(ml.load, path)
    ml.memory.limit(0)
    t.ok(ok, tostring(model))
    t.eq(model, nil)
    t.eq(code, "limit", message)
    t.eq(ml.memory.active(), before)
  end
  local m <close> = assert(ml.load(path))
  t.eq(#continuation(m), 6)
end)

-- ---- real models ----

t.test("one copy of the weights in memory", function()
  local path = t.checkpoint "SmolLM2-135M-Instruct.gguf"
  local file <close> = assert(io.open(path, "rb"))
  local size = file:seek "end"
  local script = folder .. "/resident.lua"
  tiny.write(script, ([[
local ml = require "moonlet"
local m <close> = assert(ml.load(%q))
m:complete({1, 2, 3}, {max_tokens = 2})
for line in io.lines "/proc/self/status" do
  local kilobytes = line:match "^VmHWM:%%s*(%%d+)"
  if kilobytes then print(kilobytes) end
end
]]):format(path))
  local pipe <close> = assert(io.popen(("%s/moonlet %s"):format(os.getenv "BUILD" or "build", script)))
  local resident = pipe:read "n" * 1024
  t.ok(resident < 1.2 * size + (30 << 20),
    ("%.1f MB resident for a file of %.1f MB"):format(resident / 2 ^ 20, size / 2 ^ 20))
end)

t.test("plans run where the system gives little address space", function()
  if (os.getenv "SANITIZE" or "") ~= "" then return end -- which take terabytes of it
  if ml.default_device():find "^cuda" then t.skip "the NVIDIA driver takes more address space than that" end
  local script = folder .. "/narrow.lua"
  tiny.write(script, [[
local ml = require "moonlet"
local x = ml.ones {64, 64}
print(ml.explain(function(y) return y:matmul(y):matmul(y):cumsum(1) end, x):match "arena %d+")
]])
  local command = "ulimit -v 4000000; MOONLET_DEVICE= MOONLET_DEVICE_LIBRARY= %s/moonlet %s 2>&1"
  local pipe <close> = assert(io.popen(command:format(os.getenv "BUILD" or "build", script)))
  local text = pipe:read "a"
  t.ok(text:find "^arena [1-9]", text)
end)

t.done()
