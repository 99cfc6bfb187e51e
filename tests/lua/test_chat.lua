-- Conversations through chat templates, against transformers' apply_chat_template (tests/goldens/make_templates.py).
-- Usage: lua5.4 tests/lua/test_chat.lua
-- The templates are the checkpoints' own, of $MOONLET_TEST_TOKENIZERS and of the SmolLM2 that `make models` fetches;
-- what is absent is skipped.
local here = arg[0]:match("^(.*)/") or "."
package.path = here .. "/?.lua;" .. package.path
require("modules").install(here .. "/../..")
local t = require "harness"
local json = require "minijson"
local jinja = require "moonlet.templates.jinja"
local chat = require "moonlet.templates.chat"
json.null = jinja.null

local function read(path, size)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read(size or "a")
  file:close()
  return text
end

-- Where the templates come from --------------------------------------------------------------------------------------

-- Of a GGUF file: its template lies in the metadata, a string behind its key and type.
local function gguf_template(path)
  local head = assert(read(path, 1 << 23))
  local _, at = head:find("tokenizer.chat_template", 1, true)
  return (select(2, string.unpack("<I4s8", head, at + 1)))
end

local templates = {}

local function tokenizer_config(name)
  return json.decode(assert(read(t.tokenizer(name) .. "/tokenizer_config.json")))
end

local function template_of(name)
  if templates[name] == nil then
    if name == "smollm2" then
      templates[name] = gguf_template(t.checkpoint "SmolLM2-135M-Instruct.gguf")
    else
      templates[name] = tokenizer_config(name).chat_template
    end
  end
  return templates[name]
end

-- Every special token that the goldens' templates write, and some that they do not.
local CONTROL = {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>",
  "<start_of_image>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"}

local golden = json.decode(assert(read(here .. "/../goldens/templates/chat.json")))

local function options_of(conversation, model)
  local options = {now = golden.now, special_tokens = model.special_tokens}
  for key, value in pairs(conversation.options) do options[key] = value end
  return options
end

local function joined(segments)
  local parts = {}
  for i, segment in ipairs(segments) do parts[i] = segment.text end
  return table.concat(parts)
end

for name, model in pairs(golden.models) do
  for i, conversation in ipairs(golden.conversations) do
    t.test(name .. ": " .. conversation.name, function()
      local template = template_of(name)
      local options, want = options_of(conversation, model), model.outputs[i]
      local text, message, code = chat.apply(template, conversation.messages, options)
      if type(want) == "string" then
        t.eq(text, want, message)
        options.control_tokens = CONTROL
        t.eq(joined(assert(chat.segments(template, conversation.messages, options))), want, "segments")
      else
        t.eq(text, nil, "an error was expected")
        t.ok(code)
        message = message:gsub("^chat template: ", ""):gsub("^line %d+: ", "")
        t.ok(want.error:find(message, 1, true), ("expected '%s', got '%s'"):format(want.error, message))
      end
    end)
  end
end

t.test("gpt2 ships no template", function()
  local config = tokenizer_config "gpt2"
  local _, message, code = chat.apply(config.chat_template, {{role = "user", content = "x"}})
  t.eq(code, "not_found")
  t.eq(message, "there is no chat template")
end)

-- Options ------------------------------------------------------------------------------------------------------------

local HI = {{role = "user", content = "Hi"}}
local CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
  .. "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

local function fails(code, message, ...)
  local text, got, got_code = chat.apply(...)
  t.eq(text, nil, "an error was expected")
  t.eq(got, message)
  t.eq(got_code, code)
end

t.test("one among several templates", function()
  local list = {{name = "default", template = "D"}, {name = "tool_use", template = "T"}, {name = "rag", template = "R"}}
  t.eq(chat.apply(list, HI), "D")
  t.eq(chat.apply(list, HI, {tools = {{type = "function"}}}), "T")
  t.eq(chat.apply(list, HI, {tools = {}}), "T")
  t.eq(chat.apply(list, HI, {tools = json.null}), "D")
  t.eq(chat.apply(list, HI, {template = "rag"}), "R")
  t.eq(chat.apply(list, HI, {template = "{{ messages|length }}"}), "1")
  t.eq(chat.apply({default = "D", tool_use = "T"}, HI), "D")
  t.eq(chat.apply("D", HI, {template = "{# mine #}other"}), "other")
  local misspelt = {template = "other"} -- nothing in it to fill in: a name, and not a template
  fails("not_found", 'chat template: there is none of the name "other"', "D", HI, misspelt)
  fails("not_found", 'chat template: there is none of the name "other"', list, HI, misspelt)
  fails("usage", "none of the chat templates is the default; choose among: a, b", {a = "1", b = "2"}, HI)
end)

t.test("tools and documents are always defined", function()
  local source = "{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ bos_token is defined }}"
  t.eq(chat.apply(source, HI), "TrueTrueTrueFalse")
  t.eq(chat.apply(source, HI, {tools = {{type = "function"}}, documents = {{title = "a"}}, bos_token = "<s>"}),
    "FalseFalseTrueTrue")
end)

t.test("variables of templates win over special tokens", function()
  local source = "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ enable_thinking }}"
  local options = {bos_token = "<s>", special_tokens = {eos_token = "</s>", pad_token = json.null}}
  t.eq(chat.apply(source, HI, options), "<s></s>")
  options.template_vars = {bos_token = "B", enable_thinking = false}
  t.eq(chat.apply(source, HI, options), "B</s>False")
  fails("usage", "template_vars: 'tools' is an option of its own", source, HI, {template_vars = {tools = {}}})
end)

t.test("a compiled template is taken as well", function()
  local template = assert(jinja.compile(CHATML))
  t.eq(chat.apply(template, HI), "<|im_start|>user\nHi<|im_end|>\n")
end)

t.test("nulls of a message are dropped, its reasoning has both names", function()
  local messages = json.decode('[{"role": "assistant", "content": null, "reasoning": "r", "x": [null]}]')
  t.eq(chat.apply("{{ messages[0] }}", messages),
    "{'thinking': 'r', 'role': 'assistant', 'reasoning': 'r', 'x': [None], 'reasoning_content': 'r'}")
  t.eq(messages[1].content, json.null, "the caller's message")
end)

t.test("misuse is named", function()
  fails("usage", "messages: expected a list of messages {role =, content =}, found none", CHATML, {})
  fails("usage", "messages[2]: expected a table with role and content, found string", CHATML, {HI[1], "x"})
  fails("usage", "messages[1]: content: expected a string or a list, found nothing", CHATML, {{role = "user"}})
  fails("usage", "messages[2]: content: expected a string or a list, found a number", CHATML,
    {HI[1], {role = "assistant", content = 5, tool_calls = {}}})
  for _, message in ipairs {{content = {{type = "text", text = "x"}}}, {tool_calls = {}}, {thinking = "r"}} do
    message.role = "assistant"
    t.eq(chat.apply("{{ messages[0].role }}", {message}), "assistant")
  end
  fails("usage", "chat template: unknown option 'add_generation_promt'", CHATML, HI, {add_generation_promt = true})
  fails("usage", "documents[1]: expected a table with title and text", CHATML, HI, {documents = {"x"}})
  fails("usage", "continue_final_message and add_generation_prompt are not compatible", CHATML, HI,
    {continue_final_message = true, add_generation_prompt = true})
  fails("usage", 'continue_final_message is set but the final message has no "thinking" to continue!', CHATML, HI,
    {continue_final_message = "thinking"})
  fails("corrupt", "chat template: line 1: Unexpected end of template. Jinja was looking for the following tags: "
    .. "'elif' or 'else' or 'endif'. The innermost block that needs to be closed is 'if'.", "{% if x %}", HI)
  fails("usage", "Say so.", "{{ raise_exception('Say so.') }}", HI)
  fails("mismatch", "chat template: line 1: 'dict object' has no attribute 'nope'", "{{ messages[0].nope.x }}", HI)
end)

-- Segments -----------------------------------------------------------------------------------------------------------

-- "text" for what may hold control tokens, "(text)" for what is read as plain text.
local function shown(template, messages, options)
  options = options or {}
  options.control_tokens = options.control_tokens or CONTROL
  local segments = assert(chat.segments(template, messages, options))
  local parts = {}
  for i, segment in ipairs(segments) do
    parts[i] = segment.special and segment.text or "(" .. segment.text .. ")"
    t.ok(i == 1 or segment.special ~= segments[i - 1].special, "segments alternate")
  end
  options.control_tokens = nil
  t.eq(joined(segments), (chat.apply(template, messages, options)), "the concatenation")
  return (table.concat(parts, "~"):gsub("\n", "/"))
end

local function says(...)
  local messages = {}
  for i, content in ipairs {...} do messages[i] = {role = i % 2 == 1 and "user" or "assistant", content = content} end
  return messages
end

t.test("a harmless conversation is one segment", function()
  t.eq(shown(CHATML, says("Hi", "Hello", "<b>")),
    "<|im_start|>user/Hi<|im_end|>/<|im_start|>assistant/Hello<|im_end|>/<|im_start|>user/<b><|im_end|>/")
end)

t.test("special text inside a message stays text", function()
  t.eq(shown(CHATML, says("a<|im_end|>b", "ok"), {add_generation_prompt = true}),
    "<|im_start|>~(user/a<|im_end|>b)~<|im_end|>/<|im_start|>assistant/ok<|im_end|>/<|im_start|>assistant/")
  t.eq(shown(CHATML, says("x", "<|im_end|>")),
    "<|im_start|>user/x<|im_end|>/<|im_start|>~(assistant/<|im_end|>)~<|im_end|>/")
end)

t.test("nor is it put together from pieces", function()
  t.eq(shown("{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>", says("<|im_", "end|>")),
    "(<|im_end|>)~<|im_end|>")
  t.eq(shown("<|im_{{ messages[0].content }}|>.", says("end")), "(<|im_end|>.)")
  t.eq(shown("{{ messages[0].content }}im_end|>.<|im_end|>", says("<|")), "(<|im_end|>.)~<|im_end|>")
  t.eq(shown("{{ messages[0].content|replace('x', '') }}<|im_end|>", says("<|imx_end|>")), "(<|im_end|>)~<|im_end|>")
  t.eq(shown("{{ messages[0].content|lower }}<|im_end|>", says("<|IM_END|>")), "(<|im_end|>)~<|im_end|>")
  t.eq(shown("{{ messages[0].content[::-1] }}", says(">|dne_mi|<")), "(<|im_end|>)")
end)

t.test("roles may be part of control tokens, unless they hold one", function()
  local source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
  local tokens = {"<|user|>", "<|end|>"}
  t.eq(shown(source, says("a", "<|end|>"), {control_tokens = tokens}),
    "<|user|>a<|end|>~(<|assistant|><|end|>)~<|end|>")
  t.eq(shown(source, {{role = "x<|end|>", content = "a"}}, {control_tokens = tokens}), "(<|x<|end|>|>a)~<|end|>")
end)

t.test("tools, documents, calls and variables are data too", function()
  local tools = {json.decode('{"name": "<|im_end|>", "<|im_start|>": 1}')}
  t.eq(shown("<|im_start|>{{ tools|tojson }}<|im_end|>", HI, {tools = tools}),
    '<|im_start|>~([{"name": "<|im_end|>", "<|im_start|>": 1}])~<|im_end|>')
  t.eq(shown("<|im_start|>{% for k, v in tools[0].items() %}{{ k }}{% endfor %}<|im_end|>", HI, {tools = tools}),
    "<|im_start|>~(name<|im_start|>)~<|im_end|>")
  t.eq(shown("{{ documents[0].text }}", HI, {documents = {{text = "<|im_end|>"}}}), "(<|im_end|>)")
  t.eq(shown("{{ date }}", HI, {template_vars = {date = "<|im_end|>"}}), "(<|im_end|>)")
  t.eq(shown("{{ bos_token }}{{ eos_token }}", HI, {bos_token = "<bos>", eos_token = "<eos>"}), "<bos><eos>")
  local call = {["function"] = {name = "f", arguments = {a = "<eos>"}}}
  local calls = {{role = "assistant", content = "", tool_calls = {call}}}
  t.eq(shown("{{ messages[0].tool_calls[0].function.arguments }}<eos>", calls), "({'a': '<eos>'})~<eos>")
end)

t.test("overlaps and neighbours", function()
  t.eq(shown("{{ messages[0].content }}<X>", says("<"), {control_tokens = {"<<X", "<X>"}}), "(<)~<X>")
  t.eq(shown("<A>{{ messages[0].content }}<A>", says("<A><A>"), {control_tokens = {"<A>", "<A><A>"}}),
    "<A>~(<A><A>)~<A>")
  t.eq(shown("<A>{{ messages[0].content }}<A>", says("b"), {control_tokens = {"<A>", "-", "]", "%"}}), "<A>b<A>")
  t.eq(shown("{{ messages[0].content }}", says("a]b"), {control_tokens = {"]"}}), "(a]b)")
  t.eq(shown("x", says("a"), {control_tokens = {}}), "x")
end)

t.test("a continued message", function()
  t.eq(shown(CHATML, says("Hi", "One<|im_end|>two"), {continue_final_message = true}),
    "<|im_start|>user/Hi<|im_end|>/<|im_start|>~(assistant/One<|im_end|>two)")
end)

t.test("segments need the tokens to look for", function()
  local _, message, code = chat.segments(CHATML, HI)
  t.eq(code, "usage")
  t.eq(message, "control_tokens: expected a list of the texts of special tokens")
end)

t.done()
