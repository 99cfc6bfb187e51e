-- What a checkpoint's files say beside its weights: ids that end texts and turns, templates, their special tokens, null
-- in conversations, BOS once.
local ml = require "moonlet"
local tiny = require "tests.tiny"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local bare = {["tokenizer.json"] = false, ["tokenizer_config.json"] = false, ["generation_config.json"] = false}
local config = tiny.directory()["config.json"]

local function with(base, more)
  local files = {}
  for _, list in ipairs {base, more} do
    for name, text in pairs(list) do files[name] = text end
  end
  return files
end

-- The greedy continuation of one id, and its reason.
local function continue(path, opts)
  local m <close> = assert(ml.load(path))
  local _, result = m:complete({5}, {max_tokens = 10, ignore_eos = opts and opts.ignore_eos})
  return result.ids, result.finish_reason
end

t.test("end tokens without a tokenizer", function()
  local free, reason = continue(tiny.write_directory("ends/free", with(bare, {["config.json"] = config:gsub(
    '"eos_token_id": [^\n]+', "")})))
  t.eq(reason, "length")
  local third = free[3]
  for i = 1, 2 do t.ok(free[i] ~= third) end
  local function check(name, files)
    local path = tiny.write_directory("ends/" .. name, with(bare, files))
    local ids, why = continue(path)
    t.eq(ids, {free[1], free[2]})
    t.eq(why, "stop")
    t.eq(continue(path, {ignore_eos = true}), free)
  end
  check("generation", {["generation_config.json"] = ('{"eos_token_id": [130, %d]}'):format(third)})
  check("config", {["config.json"] = config:gsub('"eos_token_id": [^\n,]+', '"eos_token_id": ' .. third)})
  for _, bad in ipairs {'"x"', "-1", "[1.5]"} do
    local text = '{"eos_token_id": ' .. bad .. "}"
    local path = tiny.write_directory("ends/bad", with(bare, {["generation_config.json"] = text}))
    t.fails("generation_config.json: eos_token_id: expected token ids", "corrupt", ml.load(path))
  end
end)

-- A tokenizer with control tokens for turns, <|im_start|> and <|im_end|>, behind its 131 ids' last two.
local files = tiny.directory()
local turns = files["tokenizer.json"]:gsub('"added_tokens": %[(.-)%],\n', function(list)
  local more = {}
  for i, piece in ipairs {"<|im_start|>", "<|im_end|>"} do
    more[i] = (', {"id": %d, "content": "%s", "special": true, "normalized": false, "lstrip": false, '
      .. '"rstrip": false, "single_word": false}'):format(130 + i, piece)
  end
  return '"added_tokens": [' .. list .. table.concat(more) .. "],\n"
end)
local CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
  .. "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

local function tokenizer(more)
  local path = tiny.write_directory("ends/tokenizer", with({
    ["tokenizer.json"] = turns, ["tokenizer_config.json"] = '{"eos_token": "</s>", "pad_token": {"content": "<unk>"}}',
  }, more))
  return assert(ml.tokenizer(path)), path
end

t.test("the template's end of a turn ends an answer", function()
  local without <close> = tokenizer {["chat_template.jinja"] = false}
  t.eq(without.eos_ids, {2})
  t.eq(without:ends(CHATML), {2, 132})
  local tk <close> = tokenizer {["chat_template.jinja"] = CHATML}
  t.eq(tk.eos_ids, {2, 132})
  t.eq(tk:ends "{{ messages[-1].content }}</s>", {2})
  t.eq(tk:ends "{{ raise_exception('no') }}", {2})
  t.eq(tk:ends "{% for m in messages %}{{ m.content }}{% endfor %}", {2})
end)

t.test("templates see the special tokens that the checkpoint names", function()
  local tk <close> = tokenizer {["chat_template.jinja"] = "{{ eos_token }}{{ pad_token }}{{ mask_token is defined }}"}
  t.eq(tk:apply_chat_template {{role = "user", content = "x"}}, "</s><unk>False")
end)

t.test("templates of additional_chat_templates", function()
  local tk, path = tokenizer {["chat_template.jinja"] = "main"}
  tk:close()
  os.execute(("mkdir -p '%s/additional_chat_templates'"):format(path))
  tiny.write(path .. "/additional_chat_templates/tool_use.jinja", "tools")
  tiny.write(path .. "/additional_chat_templates/notes.txt", "none")
  local both <close> = assert(ml.tokenizer(path))
  local messages = {{role = "user", content = "x"}}
  t.eq(both:apply_chat_template(messages), "main")
  t.eq(both:apply_chat_template(messages, {template = "tool_use"}), "tools")
  t.eq(both:apply_chat_template(messages, {tools = {{name = "f"}}}), "tools")
end)

t.test("null in conversations", function()
  local source = "{% for m in messages %}{{ m.content is defined }}{{ tools }}{% endfor %}"
  local tk <close> = tokenizer {["chat_template.jinja"] = source}
  local messages = {{role = "assistant", content = ml.json.null}}
  t.eq(tk:apply_chat_template(messages), "FalseNone")
  t.eq(tk:apply_chat_template(messages, {tools = ml.json.null}), "FalseNone")
  t.eq(tk:apply_chat_template(messages, {tools = ml.json.decode '[{"default": null}]'}), "False[{'default': None}]")
  t.eq(tk:apply_chat_template(messages, {template = "{{ x is none }}", template_vars = {x = ml.json.null}}), "True")
  t.fails("messages%[1%]: role: expected a string, found nothing", "usage", tk:apply_chat_template {{rol = "user"}})
  t.fails("messages%[1%]: role: expected a string, found a number", "usage", tk:apply_chat_template {{role = 5}})
end)

t.test("BOS stands before a prompt once", function()
  local processor = [["post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}]]
  local path = tiny.write_directory("ends/bos", {
    ["tokenizer.json"] = turns:gsub('"post_processor": null', processor),
  })
  local tk <close> = assert(ml.tokenizer(path))
  local once, twice = tk:encode "the", tk:encode "<s>the"
  t.eq(once[1], 1)
  t.eq(twice[2], 1) -- as the reference does it
  local m <close> = assert(ml.load(path))
  for _, prompt in ipairs {"the", "<s>the"} do
    t.eq(m:prompt_ids(prompt, "generate"), once)
    local _, result = m:complete(prompt, {max_tokens = 1})
    t.eq(result.metrics.prompt_tokens, #once)
  end
end)

t.done()
