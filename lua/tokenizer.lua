---Tokenizers as scripts see them: the C tokenizer, with the chat template that the checkpoint ships.
local core = require "moonlet.core"
local util = require "moonlet.util"

local M = {}

---@class moonlet.Tokenizer
---@field vocab_size integer
---@field bos_id integer|nil
---@field eos_ids integer[]  every id that ends a text
local Tokenizer = {}
Tokenizer.__index = Tokenizer
Tokenizer.__name = "moonlet.Tokenizer"

---Text to 0-based ids: opts {add_special_tokens = true, parse_special = true}.
function Tokenizer:encode(text, opts) return self.raw:encode(text, opts) end
---Ids to text: opts {skip_special_tokens = false}.
function Tokenizer:decode(ids, opts) return self.raw:decode(ids, opts) end
---An object with :push(id) -> text and :finish() -> the rest: opts {skip_special_tokens = false}.
function Tokenizer:stream(opts) return self.raw:stream(opts) end
---The id of a piece as the vocabulary spells it, or nil.
function Tokenizer:id(piece) return self.raw:id(piece) end
function Tokenizer:piece(id) return self.raw:piece(id) end
function Tokenizer:close() self.raw:close() end
Tokenizer.__close = Tokenizer.close

local function special_text(self, id) return id and self.raw:piece(id) or nil end

-- What the template engine gets, under the names of transformers.
local function template_options(self, opts)
  opts = util.options(opts, {
    add_generation_prompt = false, tools = false, documents = false, template = false, template_vars = false, continue_final_message = false,
    now = false, parse_special = false,
  }, "apply_chat_template")
  opts.bos_token, opts.eos_token = self.bos_token, self.eos_token
  return opts
end

-- The template to use: a name among those that the checkpoint ships, or a source.
local function choose(self, opts)
  local template = opts.template
  if template and not template:find "{[{%%]" and self.named_templates then
    local source = self.named_templates[template]
    if source then return source end
  end
  template = template or self.chat_template
  if not template then util.raise("not_found", "the checkpoint ships no chat template: give one in the option template") end
  return template
end

local function render(self, fn, messages, opts)
  local chat = require "moonlet.templates.chat"
  local options = template_options(self, opts)
  local template = choose(self, options)
  options.template, options.parse_special = nil, nil
  return chat[fn](template, messages, options)
end

---Messages to text through the checkpoint's template; nil, message, code when the template refuses.
function Tokenizer:apply_chat_template(messages, opts)
  return util.soft(function()
    local text, message, code = render(self, "apply", messages, opts)
    if text == nil then util.raise(code or "corrupt", "%s", message) end
    return text
  end)
end

---Messages to ids: text of messages never becomes a control token, unless parse_special.
function Tokenizer:encode_chat(messages, opts)
  local parse = opts and opts.parse_special
  if parse then
    local text = util.must(self:apply_chat_template(messages, opts))
    return self.raw:encode(text, {add_special_tokens = false})
  end
  opts = opts or {}
  local chat = require "moonlet.templates.chat"
  local options = template_options(self, opts)
  local template = choose(self, options)
  options.template, options.parse_special = nil, nil
  options.control_tokens = self:control_tokens()
  local segments, message, code = chat.segments(template, messages, options)
  if not segments then util.raise(code or "corrupt", "%s", message) end
  local ids = {}
  for _, s in ipairs(segments) do
    local part = self.raw:encode(s.text, {add_special_tokens = false, parse_special = s.special})
    table.move(part, 1, #part, #ids + 1, ids)
  end
  return ids
end

---Texts of the special tokens.
function Tokenizer:control_tokens()
  if not self.specials then
    self.specials = {}
    for _, id in ipairs(self.raw:special_ids()) do self.specials[#self.specials + 1] = self.raw:piece(id) end
  end
  return self.specials
end

local function add_ids(set, list, ids)
  if type(ids) == "number" then ids = {ids} end
  for _, id in ipairs(type(ids) == "table" and ids or {}) do
    if math.tointeger(id) and not set[id] then
      set[id] = true
      list[#list + 1] = math.tointeger(id)
    end
  end
end

local function wrap(raw, more)
  local facts = raw:facts()
  local self = setmetatable({raw = raw, vocab_size = facts.vocab_size, bos_id = facts.bos_id, adds_bos = facts.adds_bos, eos_ids = {}}, Tokenizer)
  local seen = {}
  add_ids(seen, self.eos_ids, facts.eos_ids)
  self.eos_token = special_text(self, self.eos_ids[1])
  add_ids(seen, self.eos_ids, more.eos_ids)
  self.bos_token = special_text(self, self.bos_id)
  self.chat_template = more.template
  return self
end

local function read_text(path)
  local f = io.open(path, "rb")
  if not f then return nil end
  local text = f:read "a"
  f:close()
  return text
end

-- {name = source} of a list of templates, and the one to use by default.
local function templates_of(config, directory)
  local file = read_text(directory .. "/chat_template.jinja")
  if file then return file end
  local template = config and config.chat_template
  if type(template) == "string" then return template end
  if type(template) == "table" then return template end
  return nil
end

local function open_directory(path, generation)
  local json, config_path = path .. "/tokenizer.json", path .. "/tokenizer_config.json"
  if core.path_kind(json) ~= "file" then return nil end
  local has_config = core.path_kind(config_path) == "file"
  local raw, message, code = core.tokenizer_from_json(json, has_config and config_path or nil)
  if not raw then util.raise(code, "%s", message) end
  local config = has_config and core.read_json(config_path) or nil
  return wrap(raw, {template = templates_of(config, path), eos_ids = generation and generation.eos_token_id})
end

local function open_gguf(file)
  local raw, message, code = core.tokenizer_from_gguf(file)
  if not raw then
    if code == "not_found" then return nil end
    util.raise(code, "%s", message)
  end
  local template = file:metadata(0)["tokenizer.chat_template"]
  return wrap(raw, {template = template})
end

---The tokenizer that a model's directory or open GGUF file has, or nil.
function M.of_model(path, gguf, generation)
  if gguf then return open_gguf(gguf) end
  return open_directory(path, generation)
end

---A tokenizer from a directory, a tokenizer.json or a .gguf file; raises.
function M.open(path)
  if core.path_kind(path) == "directory" then
    return open_directory(path) or util.raise("not_found", "%s/tokenizer.json: no such file", path)
  end
  if path:match "%.gguf$" then
    local file, message, code = core.open_gguf(path)
    if not file then util.raise(code, "%s", message) end
    local t = open_gguf(file)
    file:close()
    return t or util.raise("not_found", "%s: the file has no tokenizer", path)
  end
  local folder = path:match "^(.*)/[^/]*$" or "."
  local raw, message, code = core.tokenizer_from_json(path, core.path_kind(folder .. "/tokenizer_config.json") == "file" and folder .. "/tokenizer_config.json" or nil)
  if not raw then util.raise(code, "%s", message) end
  local config = core.read_json(folder .. "/tokenizer_config.json")
  return wrap(raw, {template = templates_of(config, folder)})
end

return M
