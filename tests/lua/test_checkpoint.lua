-- What a checkpoint holds beyond what its family asks for: heads of tied models, GGUF files without a tokenizer, with
-- named templates, and of families that do not know GGUF.
local ml = require "moonlet"
local fixtures = require "tests.fixtures"
local tiny = require "tests.tiny"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local folder = tiny.folder "checkpoint"
local files = tiny.directory()
local ids = {90, 14, 79, 59, 97, 59}
local HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

-- ---- the head ----

-- A folder of the tiny Llama, tied or not, with the tensors that `change` leaves: {name, dtype, shape, bytes} by name.
local count = 0
local function with(tied, change)
  count = count + 1
  local list, names, tensors = {}, {}, assert(ml.load_safetensors "tests/goldens/tiny/llama/model.safetensors")
  for name, x in pairs(tensors) do
    list[name] = {name, "F32", x.shape, x:tobytes()}
    x:close()
  end
  change(list)
  for name in pairs(list) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do names[i] = list[name] end
  local config = files["config.json"]:gsub('"tie_word_embeddings": %l+', '"tie_word_embeddings": ' .. tostring(tied))
  return tiny.write_directory("checkpoint/head" .. count, {
    ["config.json"] = config, ["model.safetensors"] = fixtures.safetensors(names),
  })
end

local function logits(path, opts)
  local m <close> = assert(ml.load(path, opts))
  local x <close> = m:logits(ids)
  return x:tobytes(), m.info.warnings, m.config.tie_word_embeddings
end
local function nothing() end
local function embedding_as_head(list) list[HEAD] = {HEAD, "F32", list[EMBEDDING][3], list[EMBEDDING][4]} end
local function without_head(list) list[HEAD] = nil end

t.test("a tied head that differs is used, with a warning", function()
  local want = logits(with(false, nothing))
  local path = with(true, nothing)
  for _, strict in ipairs {false, true} do
    local got, warnings, tied = logits(path, {strict = strict})
    t.ok(got == want, "the head is not used")
    t.eq(tied, false)
    t.eq(warnings,
      {path .. "/config.json: tie_word_embeddings: true, but lm_head.weight differs from the embedding: it is used"})
  end
  t.ok(logits(with(true, without_head)) ~= want)
  local one = with(true, function(list) -- the last of its numbers
    embedding_as_head(list)
    list[HEAD][4] = list[HEAD][4]:sub(1, -5) .. ("<f"):pack(3)
  end)
  t.eq(#select(2, logits(one)), 1)
  t.fails("lm_head.weight: expected shape %(131, 24%), found %(130, 24%)", "mismatch", ml.load(with(true, function(list)
    list[HEAD][3], list[HEAD][4] = {130, 24}, list[HEAD][4]:sub(1, 130 * 96)
  end)))
end)

t.test("tensors that a family leaves out on purpose are told", function()
  local family = assert(load(tiny.read "lua/models/llama.lua"))()
  table.insert(family.ignore, "^eyes%.")
  local function add(names)
    return function(list)
      for _, name in ipairs(names) do list[name] = {name, "F32", {1}, ("<f"):pack(1)} end
    end
  end
  local path = with(false, add {"eyes.a", "eyes.b"})
  local _, warnings = logits(path, {family = family, strict = true})
  t.eq(warnings, {path .. ': family llama leaves out 2 tensors that its list `ignore` names, from "eyes.a" on'})
  t.fails('tensor "eyes.a" belongs to no parameter', "mismatch", ml.load(path))
end)

t.test("a table of rotary frequencies is told of where it is not what the model computes", function()
  local m <close> = assert(ml.load(with(false, nothing)))
  local own
  for _, module in ipairs(m.net:named_modules()) do own = own or rawget(module[2], "frequencies") end
  own = own:tolist()
  local first, second = "model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.1.self_attn.rotary_emb.inv_freq"
  local function tables(changes, dtype)
    return with(false, function(list)
      for name, by in pairs(changes) do
        local x = ml.tensor(own, {dtype = "float32"}) * ml.tensor(by, {dtype = "float32"})
        list[name] = {name, dtype == "bfloat16" and "BF16" or "F32", {#by}, x:astype(dtype or "float32"):tobytes()}
      end
    end)
  end
  local one, off = {}, {}
  for i = 1, #own do one[i], off[i] = 1, i == #own and 1.001 or 1 end
  local function warnings(path) return select(2, logits(path)) end
  t.eq(#warnings(tables {[first] = one, [second] = one}), 0)
  local near = {}
  for i = 1, #own do near[i] = 1 + 2.0 ^ -23 end
  t.eq(#warnings(tables {[first] = near}), 0)
  t.eq(#warnings(tables({[first] = one}, "bfloat16")), 0)
  local path = tables {[first] = one, [second] = off}
  t.eq(warnings(path), {path .. ': family llama leaves out 1 tensor that its list `ignore` names, from "' .. second
    .. '" on; of these 1 rotary frequencies that are not what it computes'})
  path = with(false, function(list) list[first] = {first, "F32", {1}, ("<f"):pack(1)} end)
  t.eq(#warnings(path), 1)
end)

t.test("a tied head that is the embedding is not kept twice", function()
  local want = logits(with(true, without_head))
  local path = with(true, embedding_as_head)
  local got, warnings, tied = logits(path, {strict = true})
  t.ok(got == want)
  t.eq({#warnings, tied}, {0, true})
end)

t.test("a tied head alone is the embedding", function()
  local path = with(true, function(list) list[EMBEDDING] = nil end)
  local got, warnings = logits(path, {strict = true})
  t.eq(#warnings, 0)
  t.ok(got == logits(with(true, function(list)
    list[EMBEDDING] = {EMBEDDING, "F32", list[HEAD][3], list[HEAD][4]}
    list[HEAD] = nil
  end)))
  t.fails('"model.embed_tokens.weight" is missing', "not_found",
    ml.load(with(false, function(list) list[EMBEDDING] = nil end)))
end)

-- ---- GGUF ----

local function gguf_with(name, pairs_of, tensors_of)
  local pairs_, tensors = tiny.gguf_parts()
  for _, change in ipairs(pairs_of or {}) do
    local kept = {}
    for _, pair in ipairs(pairs_) do
      if pair[1] ~= change[1] then kept[#kept + 1] = pair end
    end
    if change[2] then kept[#kept + 1] = change end
    pairs_ = kept
  end
  if tensors_of then tensors_of(tensors) end
  local path = folder .. "/" .. name .. ".gguf"
  tiny.write(path, fixtures.gguf(pairs_, tensors))
  return path
end

local no_pieces = {}
for i, key in ipairs {"pre", "tokens", "token_type", "merges", "bos_token_id", "add_bos_token"} do
  no_pieces[i] = {"tokenizer.ggml." .. key}
end

for _, kind in ipairs {"none", "no_vocab", "nothing"} do
  t.test("GGUF: a tokenizer of kind " .. kind, function()
    local changes = {{"tokenizer.ggml.model", kind ~= "nothing" and "string" or nil, kind}}
    table.move(no_pieces, 1, #no_pieces, 2, changes)
    changes[#changes + 1] = {"tokenizer.ggml.eos_token_id"}
    local m <close> = assert(ml.load(gguf_with(kind, changes)))
    t.eq(m.tokenizer, nil)
    local _, free = m:complete(ids, {max_tokens = 6})
    t.eq({#free.ids, free.finish_reason, free.text}, {6, "length", ""})
    t.raises(function() m:complete "text" end, "no tokenizer", "not_found")
    t.fails("the file has no tokenizer", "not_found", ml.tokenizer(folder .. "/" .. kind .. ".gguf"))
    changes[#changes] = {"tokenizer.ggml.eos_token_id", "u32", free.ids[3]}
    local ended <close> = assert(ml.load(gguf_with(kind .. "-ends", changes)))
    t.eq(select(2, ended:complete(ids, {max_tokens = 6})).finish_reason, "stop")
  end)
end

t.test("GGUF: named templates", function()
  local messages = {{role = "user", content = "hi"}}
  local path = gguf_with("named", {
    {"tokenizer.chat_template", "string", "plain: {{ messages[0].content }}"},
    {"tokenizer.chat_template.tool_use", "string", "tools: {{ messages[0].content }}"},
    {"tokenizer.chat_template.rag", "string", "rag: {{ messages[0].content }}"},
  })
  local tk <close> = assert(ml.tokenizer(path))
  t.eq(tk:apply_chat_template(messages), "plain: hi")
  t.eq(tk:apply_chat_template(messages, {template = "rag"}), "rag: hi")
  t.eq(tk:apply_chat_template(messages, {tools = {{type = "function", ["function"] = {name = "f"}}}}), "tools: hi")
  local alone <close> = assert(ml.tokenizer(gguf_with("rag", {
    {"tokenizer.chat_template"}, {"tokenizer.chat_template.rag", "string", "rag: {{ messages[0].content }}"}})))
  t.eq(alone:apply_chat_template(messages, {template = "rag"}), "rag: hi")
  t.fails("tokenizer.rag: chat_template: expected text or a list, found number", "corrupt",
    ml.tokenizer(gguf_with("bad", {{"tokenizer.chat_template.rag", "u32", 3}})))
end)

t.test("GGUF: a family that does not know the format says so", function()
  local path = gguf_with "plain"
  local family = assert(load(tiny.read "lua/models/llama.lua"))()
  family.gguf = nil
  t.fails('general.architecture "llama": family llama has no table `gguf`', "unsupported",
    ml.load(path, {family = family}))
  local models = tiny.folder "checkpoint-models"
  local text = tiny.read "lua/models/llama.lua":gsub('"llama", "mistral"', '"moon"')
  tiny.write(models .. "/moon.lua", (text:gsub("Llama.gguf = ", "Llama.other = ")))
  local moon = gguf_with("moon", {{"general.architecture", "string", "moon"}})
  local code = ([[print(select(2, require("moonlet").load("%s")))]]):format(moon)
  local command = ("MOONLET_PATH=%s %s/moonlet -e '%s'"):format(models, os.getenv "BUILD" or "build", code)
  local pipe <close> = assert(io.popen(command))
  local said = pipe:read "a"
  t.ok(said:find('general.architecture "moon": family moon has no table `gguf`', 1, true), said)
  t.ok(said:find(models .. "/moon.lua", 1, true), said)
  t.fails('architecture "moon": no family serves it %(built%-in ones, moon.lua in the folders of $MOONLET_PATH '
    .. "%(.*%), ./models/moon.lua%)", "unsupported", ml.load(moon))
end)

t.test("GGUF: frequencies beside a rule that does not use them are not left out", function()
  local path = gguf_with("both", {{"llama.rope.scaling.type", "string", "linear"},
    {"llama.rope.scaling.factor", "f32", 2}}, function(tensors)
    tensors[#tensors + 1] = {"rope_freqs.weight", {5}, 0, ("<f"):pack(2):rep(5)}
  end)
  t.fails('"rope_freqs.weight" belongs to no parameter', "mismatch", ml.load(path))
end)

t.done()
