-- Tokens that stand in files beside tokenizer.json: what AutoTokenizer makes of the same files.
local ml = require "moonlet"
local tiny = require "tests.tiny"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local function check(case, path)
  local tk <close> = assert(ml.tokenizer(path))
  t.eq({tk.vocab_size, tk.bos_id, tk.eos_ids}, {case.size, ml.json.null ~= case.bos and case.bos or nil,
    {ml.json.null ~= case.eos and case.eos or nil}})
  for _, entry in ipairs(case.added) do
    local id, piece, special = entry[1], entry[2], entry[3]
    t.eq({tk:piece(id), tk:id(piece), tk.raw:is_special(id)}, {piece, id, special})
  end
  for _, pair in ipairs(case.encoded) do
    t.eq(tk:encode(pair[1], {add_special_tokens = false}), pair[2], pair[1])
  end
  local all = {}
  for id = 0, case.size - 1 do all[#all + 1] = id end
  -- the reference gives tokens that are looked for in normalised text as they look there: in lower case
  t.eq(tk:decode(all, {skip_special_tokens = true}):lower(), case.decoded:lower())
end

for i, case in ipairs(assert(ml.json.decode(tiny.read "tests/goldens/added_tokens.json"))) do
  t.test("as the reference: " .. case.name, function()
    local path = tiny.folder("added_tokens/" .. i)
    for name, text in pairs(case.files) do tiny.write(path .. "/" .. name, text) end
    check(case, path)
    check(case, path .. "/tokenizer.json")
  end)
end

-- A model whose turns end with a token that one of the files beside tokenizer.json alone lists.
local CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
local listed = '{"content": "%s", "special": true, "normalized": false}'
for name, files in pairs {
  added_tokens_decoder = {["tokenizer_config.json"] = ('{"chat_template": "%s", "added_tokens_decoder": {"131": %s, '
    .. '"132": %s}}'):format(CHATML:gsub("\n", "\\n"), listed:format "<|im_start|>", listed:format "<|im_end|>")},
  additional_special_tokens = {["tokenizer_config.json"] = ('{"chat_template": "%s", "additional_special_tokens": '
    .. '["<|im_start|>", "<|im_end|>"]}'):format((CHATML:gsub("\n", "\\n")))},
  added_tokens = {["tokenizer_config.json"] = ('{"chat_template": "%s", "pad_token": "<|im_start|>", "cls_token": '
    .. '"<|im_end|>"}'):format((CHATML:gsub("\n", "\\n"))),
    ["added_tokens.json"] = '{"<|im_end|>": 132, "<|im_start|>": 131}'},
} do
  t.test("the end of a turn that " .. name .. " lists", function()
    local tk <close> = assert(ml.tokenizer(tiny.write_directory("added_tokens/turns", files)))
    t.eq(tk:ends(), {132})
    t.eq(tk:encode_chat {{role = "a", content = "<|im_end|>"}}[1], 131)
    t.eq(tk:decode({131, 69, 132}, {skip_special_tokens = true}), tk:decode {69})
    t.eq(tk:decode {132}, "<|im_end|>")
  end)
end

-- {tokenizer_config.json, special_tokens_map.json, what of <a> and <b> AutoTokenizer adds}
local plain, typed = '{"content": "%s"}', '{"content": "%s", "__type": "AddedToken"}'
for i, case in ipairs {
  {plain:format "<a>", false, ""}, {typed:format "<a>", false, "<a>"}, {typed:format "<a>", '"<b>"', "<b>"},
  {'"<a>"', '"<b>"', "<a>"}, {plain:format "<a>", '"<b>"', "<b>"}, {'"<a>"', typed:format "<b>", "<a>"},
  {false, plain:format "<b>", "<b>"}, {false, '"<b>"', "<b>"}, {typed:format "<a>", typed:format "<b>", "<b>"},
  {plain:format "<a>", plain:format "<b>", "<b>"},
} do
  t.test(("a name of a model's own in both files, %d"):format(i), function()
    local function file(value) return value and ('{"own_token": %s}'):format(value) or "{}" end
    local tk <close> = assert(ml.tokenizer(tiny.write_directory("added_tokens/own", {
      ["tokenizer_config.json"] = file(case[1]), ["special_tokens_map.json"] = file(case[2]),
    })))
    local added = ""
    for _, piece in ipairs {"<a>", "<b>"} do added = added .. (tk:id(piece) and piece or "") end
    t.eq(added, case[3])
  end)
end

t.test("named special tokens reach templates from either file", function()
  local path = tiny.write_directory("added_tokens/names", {
    ["tokenizer_config.json"] = '{"image_token": "<i>", "pad_token": "</s>", "chat_template": '
      .. '"{{ image_token }} {{ pad_token }} {{ eos_token }}"}',
    ["special_tokens_map.json"] = '{"pad_token": {"content": "<p>"}, "eos_token": "<e>"}',
  })
  local tk <close> = assert(ml.tokenizer(path))
  t.eq(tk:apply_chat_template {{role = "user", content = "x"}}, "<i> <p> <e>")
  t.eq(tk.eos_ids, {tk:id "<e>"})
end)

t.test("named special tokens of both files reach templates as the tokenizer has them", function()
  local path = tiny.write_directory("added_tokens/names", {
    ["tokenizer_config.json"] = '{"image_token": "<i>", "extra_special_tokens": {"a_token": "<a>", "b_token": "<b>"}, '
      .. '"chat_template": "{{ image_token }} {{ a_token }} {{ b_token }} {{ c_token }}"}',
    ["special_tokens_map.json"] = '{"image_token": "<j>", "extra_special_tokens": {"b_token": "<B>"}, '
      .. '"c_token": "<c>"}',
  })
  local tk <close> = assert(ml.tokenizer(path))
  t.eq(tk:apply_chat_template {{role = "user", content = "x"}}, "<i> <a> <B> <c>")
  for _, piece in ipairs {"<i>", "<a>", "<B>", "<c>"} do t.ok(tk:id(piece), piece) end
  for _, piece in ipairs {"<j>", "<b>"} do t.eq(tk:id(piece), nil) end
end)

t.test("an object in tokenizer_config.json gives way to special_tokens_map.json, for templates too", function()
  for _, own in ipairs {plain, typed} do
    local tk <close> = assert(ml.tokenizer(tiny.write_directory("added_tokens/names", {
      ["tokenizer_config.json"] = ('{"image_token": %s, "chat_template": "{{ image_token }}"}'):format(
        own:format "<i>"),
      ["special_tokens_map.json"] = '{"image_token": "<j>"}',
    })))
    t.eq(tk:apply_chat_template {{role = "user", content = "x"}}, "<j>")
    t.eq({tk:id "<i>", tk:id "<j>" ~= nil}, {nil, true})
  end
end)

t.test("what is no token is named, with its file", function()
  for text, message in pairs {
    ['{"added_tokens_decoder": []}'] = "_config.json: added_tokens_decoder: expected an object, found an array",
    ['{"added_tokens_decoder": {"x": {"content": "y"}}}'] = "added_tokens_decoder: x: expected an id",
    ['{"added_tokens_decoder": {"7": "y"}}'] = "added_tokens_decoder: expected an object, found a string",
    ['{"added_tokens_decoder": {"7": {"content": 3}}}'] = "added_tokens_decoder: content: expected a string",
    ['{"added_tokens_decoder": {"7": {"content": "y", "lstrip": 1}}}'] = "lstrip: expected true or false",
    ['{"extra_special_tokens": "x"}'] = "extra_special_tokens: expected an array, found a string",
    ['{"additional_special_tokens": [1]}'] = "expected a string, found an integer",
    ['{"pad_token": 1}'] = "tokenizer_config.json: pad_token: expected a string, found an integer",
  } do
    local path = tiny.write_directory("added_tokens/bad", {["tokenizer_config.json"] = text})
    t.fails(message, "corrupt", ml.tokenizer(path))
  end
  t.fails("added_tokens.json: <x>: expected an id, found a string", "corrupt",
    ml.tokenizer(tiny.write_directory("added_tokens/bad", {["added_tokens.json"] = '{"<x>": "3"}'})))
  t.fails("special_tokens_map.json: expected an object", "corrupt",
    ml.tokenizer(tiny.write_directory("added_tokens/bad", {["special_tokens_map.json"] = "[]"})))
  t.fails("special_tokens_map.json: pad_token: expected a string", "corrupt",
    ml.tokenizer(tiny.write_directory("added_tokens/bad", {["special_tokens_map.json"] = '{"pad_token": 3}'})))
end)

t.test("a token behind the embedding's rows is warned of", function()
  local config = '{"bos_token": "<none>", "eos_token": {"content": "</s>"}}'
  local m <close> = assert(ml.load(tiny.write_directory("added_tokens/rows", {["tokenizer_config.json"] = config})))
  t.eq({m.tokenizer.bos_id, #m.info.warnings}, {131, 1})
  t.ok(m.info.warnings[1]:find("the tokenizer has 132 ids, the embedding 131 rows", 1, true), m.info.warnings[1])
end)

t.done()
