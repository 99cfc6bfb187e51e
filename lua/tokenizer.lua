---Tokenizers as scripts see them: the C tokenizer, with the chat template that the checkpoint ships.
local core = require "moonlet.core"
local util = require "moonlet.util"

local M = {}

---@class moonlet.Tokenizer
---@field vocab_size integer
---@field bos_id integer|nil
---@field eos_ids integer[]  every id that ends a text
local Tokenizer = {}
Tokenizer.__index = function(self, key)
  if key == "eos_ids" then -- the template is looked at when somebody asks
    rawset(self, key, self:ends())
    return rawget(self, key)
  end
  return Tokenizer[key]
end
Tokenizer.__name = "moonlet.Tokenizer"
Tokenizer.__dir = {"vocab_size", "bos_id", "eos_ids", "chat_template"}

---Text to 0-based ids.
---@param text string
---@param opts table|nil  {add_special_tokens = true, parse_special = true}
---@return integer[]
function Tokenizer:encode(text, opts) return self.raw:encode(text, opts) end
---Ids to text. Ids from 0 that the vocabulary has not, as of rows that a model has beyond it, have none.
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
  opts.bos_token, opts.eos_token, opts.special_tokens = self.bos_token, self.eos_token, self.special_tokens
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
  if type(messages) ~= "table" then util.unexpected("apply_chat_template", "a list of messages", messages) end
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

-- The id of the control token that a template puts behind what an assistant says, or nil: read off a conversation.
local function turn_end(self, template)
  local said = "Yes indeed"
  local text = self:apply_chat_template(
    {{role = "user", content = "Is it so?"}, {role = "assistant", content = said}}, {template = template})
  local head = text and text:match("^.*" .. said)
  if not head then return nil end
  local first, token
  for _, piece in ipairs(self:control_tokens()) do
    local at = text:find(piece, #head + 1, true)
    if at and (not first or at < first or at == first and #piece > #token) then first, token = at, piece end
  end
  return token and self.raw:id(token)
end

---Ids that end an answer: those that end a text, and the one with which the chat template closes a turn.
---@param template string|nil  a name or a source; the checkpoint's own otherwise
---@return integer[]
function Tokenizer:ends(template)
  local ids = table.move(self.text_ends, 1, #self.text_ends, 1, {})
  if not (template or self.chat_template) then return ids end
  local key = template or self
  if self.turn_ends[key] == nil then self.turn_ends[key] = turn_end(self, template) or false end
  local id = self.turn_ends[key]
  if id and not util.contains(ids, id) then ids[#ids + 1] = id end
  return ids
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

---The ids that a checkpoint's configuration ends texts with.
---@param value any  eos_token_id there: an id, a list or null
---@param what string  file and key, for messages
---@return integer[]
function M.configured_ends(value, what)
  local ends = {}
  if value ~= nil and value ~= core.json.null then add_ends(ends, value, what) end
  return ends
end

-- The handle is closed where what stands beside it in the checkpoint is wrong.
local function wrap(raw, ends, more)
  local facts = raw:facts()
  local self = setmetatable({
    raw = raw, vocab_size = facts.vocab_size, bos_id = facts.bos_id, adds_bos = facts.adds_bos, text_ends = {},
    turn_ends = {},
  }, Tokenizer)
  local ok, err = pcall(function()
    add_ends(self.text_ends, facts.eos_ids, "tokenizer")
    self.eos_token, self.bos_token = special_text(self, self.text_ends[1]), special_text(self, self.bos_id)
    add_ends(self.text_ends, ends or {}, "tokenizer")
    self.chat_template, self.special_tokens = more(raw)
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

-- Texts of the special tokens that the files name, which templates see.
local function special_tokens(config)
  local tokens = {}
  local function add(name, token)
    if type(token) == "table" then token = token.content end
    if type(token) == "string" then tokens[name] = token end
  end
  for name, token in pairs(config) do
    if name:match "_token$" and name ~= "bos_token" and name ~= "eos_token" then add(name, token) end
  end
  for name, token in pairs(config.extra_special_tokens) do add(name, token) end
  return tokens
end

-- The folder's templates: chat_template.jinja, else what tokenizer_config.json holds; named ones beside it.
local function templates_of(folder, config, config_path)
  local own, others = folder .. "/chat_template.jinja", folder .. "/additional_chat_templates"
  local main
  if core.path_kind(own) == "file" then main = read_text(own)
  else main = check_template(config.chat_template, config_path) end
  if core.path_kind(others) ~= "directory" or type(main) == "table" then return main end
  local named = {default = main}
  for _, name in ipairs(util.must(core.list_directory(others))) do
    local title = name:match "^(.*)%.jinja$"
    if title then named[title] = read_text(others .. "/" .. name) end
  end
  return next(named) and named or nil
end

local function read_config(path)
  local config, message, code = core.read_json(path)
  return config or util.raise(code, "%s", message)
end

local common = {}
for name in ("bos eos unk sep pad cls mask"):gmatch "%a+" do common[name .. "_token"] = true end

-- A token of a name that a model has of its own, as a text: an object gives way to special_tokens_map.json.
local function is_own(name, token)
  return name:find "_token$" and not common[name] and type(token) == "string"
end

-- tokenizer_config.json, over which an older special_tokens_map.json counts where that one does not list added tokens
-- itself, as in transformers; texts under names of a model's own stay, and objects that name tokens are brought
-- together.
local function configuration(paths)
  local config = paths.tokenizer_config and read_config(paths.tokenizer_config) or {}
  local listed, names = config.added_tokens_decoder, {}
  local function note(extra)
    for name, token in pairs(type(extra) == "table" and extra or {}) do
      if type(name) == "string" then names[name] = token end
    end
  end
  note(config.extra_special_tokens)
  if paths.special_tokens_map and (listed == nil or listed == core.json.null) then
    local map = read_config(paths.special_tokens_map)
    note(map.extra_special_tokens)
    for name, token in pairs(map) do
      if not is_own(name, config[name]) then config[name] = token end
    end
  end
  config.extra_special_tokens = names
  return config
end

local function open_json(json, folder, ends)
  local paths = {}
  for _, name in ipairs {"tokenizer_config", "special_tokens_map", "added_tokens"} do
    local path = folder .. "/" .. name .. ".json"
    if core.path_kind(path) == "file" then paths[name] = path end
  end
  local raw, message, code = core.tokenizer_from_json(json, paths.tokenizer_config, paths.special_tokens_map,
    paths.added_tokens)
  if not raw then util.raise(code, "%s", message) end
  return wrap(raw, ends, function()
    local config = configuration(paths)
    return templates_of(folder, config, folder .. "/tokenizer_config.json"), special_tokens(config)
  end)
end

local function open_directory(path, ends)
  if core.path_kind(path .. "/tokenizer.json") ~= "file" then return nil end
  return open_json(path .. "/tokenizer.json", path, ends)
end

-- The template of a GGUF file, and named ones beside it: tokenizer.chat_template.NAME.
local function gguf_templates(metadata, path)
  local what, key = path .. ": tokenizer", "tokenizer.chat_template"
  local main = check_template(metadata[key], what)
  local named = {default = main}
  for _, name in ipairs(util.sorted_keys(metadata)) do
    local title = name:sub(1, #key + 1) == key .. "." and name:sub(#key + 2) or ""
    if title ~= "" then named[title] = check_template(metadata[name], what .. "." .. title) end
  end
  return next(named, next(named)) and named or main or next(named) and named or nil
end

local function open_gguf(file, path)
  local raw, message, code = core.tokenizer_from_gguf(file)
  if not raw then
    if code == "not_found" then return nil end
    util.raise(code, "%s", message)
  end
  return wrap(raw, nil, function()
    local metadata, tokens = file:metadata(0), {}
    for name, key in pairs {unk_token = "unknown_token_id", pad_token = "padding_token_id"} do
      local id = metadata["tokenizer.ggml." .. key]
      tokens[name] = math.type(id) == "integer" and id >= 0 and raw:piece(id) or nil
    end
    return gguf_templates(metadata, path), tokens
  end)
end

---The tokenizer that a model's directory or open GGUF file has, or nil.
---@param ends integer[]  ids that its configuration ends texts with
function M.of_model(path, gguf, ends)
  if gguf then return open_gguf(gguf, path) end
  return open_directory(path, ends)
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
