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
Tokenizer.__dir = {"vocab_size", "bos_id", "eos_ids", "chat_template"}

---Text to 0-based ids.
---@param text string
---@param opts table|nil  {add_special_tokens = true, parse_special = true}
---@return integer[]
function Tokenizer:encode(text, opts) return self.raw:encode(text, opts) end
---Ids to text.
---@param ids integer[]
---@param opts table|nil  {skip_special_tokens = false}
---@return string
function Tokenizer:decode(ids, opts) return self.raw:decode(ids, opts) end
---An object with :push(id) -> text ("" while a character is incomplete) and :finish() -> the rest.
---@param opts table|nil  {skip_special_tokens = false}
function Tokenizer:stream(opts) return self.raw:stream(opts) end
---The id of a piece as the vocabulary spells it, or nil.
---@param piece string
---@return integer|nil
function Tokenizer:id(piece) return self.raw:id(piece) end
---The piece of an id as the vocabulary spells it, or nil.
---@param id integer
---@return string|nil
function Tokenizer:piece(id) return self.raw:piece(id) end
---Frees it; twice is harmless.
function Tokenizer:close() self.raw:close() end
Tokenizer.__close = Tokenizer.close

local function special_text(self, id) return id and self.raw:piece(id) or nil end

-- What the template engine gets, under the names of transformers.
local function template_options(self, opts)
  opts = util.options(opts, {
    add_generation_prompt = false, continue_final_message = false, tools = false, documents = false,
    template = false, template_vars = false, now = false, parse_special = false,
  }, "apply_chat_template")
  opts.bos_token, opts.eos_token = self.bos_token, self.eos_token
  return opts
end

-- Calls the template engine; the option `template` is a name among those that the checkpoint ships, or a source.
local function render(self, fn, messages, options)
  if not self.chat_template and not options.template then
    util.raise("not_found", "the checkpoint ships no chat template: give one in the option template")
  end
  return require("moonlet.templates.chat")[fn](self.chat_template, messages, options)
end

---Messages to text through the checkpoint's template; nil, message, code when the template refuses.
---@param messages table  a list of {role =, content =}
---@param opts table|nil  {add_generation_prompt, continue_final_message, tools, documents, template (a name or a
---  source), template_vars, now}
---@return string|nil
function Tokenizer:apply_chat_template(messages, opts)
  return util.soft(function()
    local options = template_options(self, opts)
    options.parse_special = nil
    local text, message, code = render(self, "apply", messages, options)
    if text == nil then util.raise(code or "corrupt", "%s", message) end
    return text
  end)
end

---Messages to ids: text of messages never becomes a control token, unless parse_special.
---@param messages table
---@param opts table|nil  apply_chat_template's, and {parse_special = false}
---@return integer[]
function Tokenizer:encode_chat(messages, opts)
  local parse = opts and opts.parse_special
  if parse then
    local text = util.must(self:apply_chat_template(messages, opts))
    return self.raw:encode(text, {add_special_tokens = false})
  end
  local options = template_options(self, opts)
  options.parse_special = nil
  options.control_tokens = self:control_tokens()
  local segments, message, code = render(self, "segments", messages, options)
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

util.guard(Tokenizer, "tokenizer:", true)

-- Adds ids that end a text: one, or a list.
local function add_ends(ends, ids, what)
  for _, id in ipairs(type(ids) == "table" and ids or {ids}) do
    local whole = type(id) == "number" and math.tointeger(id)
    if not whole or whole < 0 then util.unexpected(what, "token ids", id, "corrupt") end
    if not util.contains(ends, whole) then ends[#ends + 1] = whole end
  end
end

-- The handle is closed where what stands beside it in the checkpoint is wrong.
local function wrap(raw, more)
  local facts = raw:facts()
  local self = setmetatable({
    raw = raw, vocab_size = facts.vocab_size, bos_id = facts.bos_id, adds_bos = facts.adds_bos, eos_ids = {},
  }, Tokenizer)
  local ok, err = pcall(function()
    add_ends(self.eos_ids, facts.eos_ids, "tokenizer")
    self.eos_token, self.bos_token = special_text(self, self.eos_ids[1]), special_text(self, self.bos_id)
    local ends = more.generation and more.generation.eos_token_id
    if ends ~= nil and ends ~= core.json.null then
      add_ends(self.eos_ids, ends, more.path .. "/generation_config.json: eos_token_id")
    end
    self.chat_template = more.template and more.template()
  end)
  if not ok then
    raw:close()
    error(err, 0)
  end
  return self
end

local function read_text(path)
  local f, why = io.open(path, "rb")
  if not f then util.raise("io", "%s", why) end
  local text = f:read "a"
  f:close()
  return text or util.raise("io", "%s: cannot be read", path)
end

local function check_template(template, what)
  if template == nil or template == core.json.null then return nil end
  if type(template) ~= "string" and type(template) ~= "table" then
    util.raise("corrupt", "%s: chat_template: expected text or a list, found %s", what, type(template))
  end
  return template
end

-- What opens the tokenizer of a folder: handle, options of wrap.
local function open_json(json, folder, generation)
  local config_path = folder .. "/tokenizer_config.json"
  local has_config = core.path_kind(config_path) == "file"
  local raw, message, code = core.tokenizer_from_json(json, has_config and config_path or nil)
  if not raw then util.raise(code, "%s", message) end
  return wrap(raw, {path = folder, generation = generation, template = function()
    local own = folder .. "/chat_template.jinja"
    if core.path_kind(own) == "file" then return read_text(own) end
    if not has_config then return nil end
    local config, why, what = core.read_json(config_path)
    if config == nil then util.raise(what, "%s", why) end
    return check_template(type(config) == "table" and config.chat_template, config_path)
  end})
end

local function open_directory(path, generation)
  if core.path_kind(path .. "/tokenizer.json") ~= "file" then return nil end
  return open_json(path .. "/tokenizer.json", path, generation)
end

local function open_gguf(file, path)
  local raw, message, code = core.tokenizer_from_gguf(file)
  if not raw then
    if code == "not_found" then return nil end
    util.raise(code, "%s", message)
  end
  return wrap(raw, {template = function()
    return check_template(file:metadata(0)["tokenizer.chat_template"], path .. ": tokenizer")
  end})
end

---The tokenizer that a model's directory or open GGUF file has, or nil.
function M.of_model(path, gguf, generation)
  if gguf then return open_gguf(gguf, path) end
  return open_directory(path, generation)
end

---A tokenizer from a directory, a tokenizer.json or a .gguf file; raises.
function M.open(path)
  if type(path) ~= "string" then util.unexpected("tokenizer", "a path", path) end
  if core.path_kind(path) == "directory" then
    return open_directory(path) or util.raise("not_found", "%s/tokenizer.json: no such file", path)
  end
  if path:match "%.gguf$" then
    local file, message, code = core.open_gguf(path)
    if not file then util.raise(code, "%s", message) end
    local ok, t = pcall(open_gguf, file, path)
    file:close()
    if not ok then error(t, 0) end
    return t or util.raise("not_found", "%s: the file has no tokenizer", path)
  end
  return open_json(path, path:match "^(.*)/[^/]*$" or ".")
end

return M
