---Conversations to text through a checkpoint's own chat template, as transformers' apply_chat_template does it.
---
---`apply` gives the text; `segments` gives the same text in pieces, so that it can be turned into ids without letting
---what a message says become a control token:
---
---    local ids = {}
---    for _, s in ipairs(assert(chat.segments(template, messages, {control_tokens = specials, ...}))) do
---      append(ids, tokenizer:encode(s.text, {add_special_tokens = false, parse_special = s.special}))
---    end
---
---The engine follows, through every operation on strings, which bytes of the output come from messages, tools,
---documents and template variables ("data", see jinja/text.lua). The template's own control tokens are those that
---touch no data. Where the text holds any other occurrence of one (within a message, or put together from several
---messages, or from a message and the template's words around it), the stretch between the two nearest control tokens
---of the template is a segment with `special = false`: the tokenizer reads it as ordinary text, added tokens that are
---not special aside. Everything else is `special = true`; a conversation without such text is one segment, so that its
---ids are those of encoding the whole text. A message's role is the caller's word, which templates build control tokens
---from, and counts as the template's unless it holds a whole control token.
local jinja = require "moonlet.templates.jinja"

local M = {}

-- A table whose keys are walked in the order in which they were set.
local function ordered()
  local keys = {}
  local object = setmetatable({}, {
    __name = "moonlet.json.object",
    __pairs = function(t)
      local i = 0
      return function()
        i = i + 1
        if keys[i] ~= nil then return keys[i], rawget(t, keys[i]) end
      end
    end,
  })
  return object, function(key, v)
    if rawget(object, key) == nil then keys[#keys + 1] = key end
    rawset(object, key, v)
  end
end

local function fail(code, message, ...)
  error({chat = true, code = code, message = select("#", ...) > 0 and message:format(...) or message}, 0)
end

local function is_null(v)
  return v == nil or rawequal(v, jinja.null)
end

-- Whether t may stand for a JSON object.
local function has_keys(t)
  if type(t) ~= "table" then return false end
  for key in pairs(t) do
    if type(key) ~= "string" then return false end
  end
  return true
end

-- pairs in a fixed order: an object's own, or that of its keys
local function each(t)
  local meta = getmetatable(t)
  if type(meta) == "table" and rawget(meta, "__pairs") then return pairs(t) end
  local keys, i = {}, 0
  for key in next, t do keys[#keys + 1] = key end
  table.sort(keys)
  return function()
    i = i + 1
    return keys[i], t[keys[i]]
  end
end

-- The names under which reasoning is passed; the first is what templates read.
local REASONING = {"reasoning_content", "thinking", "reasoning"}

-- Fields beside which a message needs no content.
local INSTEAD = {"tool_calls", "tool_responses", table.unpack(REASONING)}

-- Text, parts of one or what a tool gave; null, which says that there is none; or nothing, where the message has
-- something else.
local function check_content(message, i)
  local content = message.content
  if type(content) == "string" or type(content) == "table" or rawequal(content, jinja.null) then return end
  for _, name in ipairs(content == nil and INSTEAD or {}) do
    if not is_null(message[name]) then return end
  end
  fail("usage", "messages[%d]: content: expected a string or a list, found %s", i,
    content == nil and "nothing" or "a " .. type(content))
end

local function check_message(message, i)
  if type(message) ~= "table" or not has_keys(message) then
    fail("usage", "messages[%d]: expected a table with role and content, found %s", i,
      type(message) == "table" and "an empty one" or type(message))
  end
  if type(message.role) ~= "string" then
    fail("usage", "messages[%d]: role: expected a string, found %s", i,
      is_null(message.role) and "nothing" or "a " .. type(message.role))
  end
  check_content(message, i)
end

-- Whether this is a list of messages; what a template will say of them is not known yet.
local function check_messages(messages, least)
  if type(messages) ~= "table" or #messages < least or has_keys(messages) and next(messages) ~= nil then
    local one = type(messages) == "table" and not is_null(messages.role)
    fail("usage", "messages: expected a list of messages {role =, content =}, found %s",
      one and "one message" or type(messages) == "table" and "none" or type(messages))
  end
  for i, message in ipairs(messages) do check_message(message, i) end
end

-- A copy of a message without its nulls, with its reasoning under both names that templates read.
local function copy_message(message)
  local copy, set = ordered()
  local reasoning
  for _, name in ipairs(REASONING) do
    if is_null(reasoning) then reasoning = message[name] end
  end
  if not is_null(reasoning) then set("thinking", reasoning) end
  for key, v in each(message) do
    if not is_null(v) then set(key, v) end
  end
  if not is_null(reasoning) then set("reasoning_content", reasoning) end
  return {object = copy, set = set}
end

-- Which template ---------------------------------------------------------------------------------------------------

-- A list {{name =, template =}, ...} or a map as a map from names.
local function by_name(templates)
  local named = {}
  for key, entry in pairs(templates) do
    if type(entry) == "table" and type(entry.template) == "string" then
      named[tostring(entry.name)] = entry.template
    else
      named[key] = entry
    end
  end
  return named
end

local function is_compiled(t)
  return type(t) == "table" and type(t.render) == "function"
end

-- A source given instead of a name. One that has nothing to fill in is a name that was not found.
local function own_source(wanted)
  if type(wanted) == "string" and not wanted:find "{[{%%#]" then
    fail("not_found", "chat template: there is none of the name \"%s\"", wanted:sub(1, 60))
  end
  return wanted
end

-- The source or compiled template that is meant.
local function choose(template, wanted, tools)
  if is_null(template) or type(template) == "string" or is_compiled(template) then
    if not is_null(wanted) then return own_source(wanted) end
    if is_null(template) then fail("not_found", "there is no chat template") end
    return template
  end
  local named = by_name(template)
  if not is_null(wanted) then return named[wanted] or own_source(wanted) end
  if not is_null(tools) and named.tool_use then return named.tool_use end
  if named.default then return named.default end
  local names = {}
  for name in pairs(named) do names[#names + 1] = tostring(name) end
  table.sort(names)
  fail("usage", "none of the chat templates is the default; choose among: %s", table.concat(names, ", "))
end

local function compiled(template, wanted, tools)
  local chosen = choose(template, wanted, tools)
  if is_compiled(chosen) then return chosen end
  local made, message, code = jinja.compile(chosen)
  if not made then fail(code, "chat template: %s", message) end
  return made
end

-- Continuing the last message ---------------------------------------------------------------------------------------

local TAG = "CONTINUE_FINAL_MESSAGE_TAG "
local STRIPPED_TAG = "CONTINUE_FINAL_MESSAGE_TAG"

-- Python's strip, through the engine's own.
local function strip(s, left)
  local unicode = require "moonlet.templates.jinja.unicode"
  local i, j = 1, #s
  while left and i <= j and unicode.is_space(utf8.codepoint(s, i)) do i = utf8.offset(s, 2, i) end
  while j >= i do
    local start = utf8.offset(s, 0, j)
    if not unicode.is_space(utf8.codepoint(s, start)) then break end
    j = start - 1
  end
  return s:sub(i, j)
end

local function find_last(s, needle)
  local found, at = nil, 1
  while true do
    at = s:find(needle, at, true)
    if not at then return found end
    found, at = at, at + 1
  end
end

-- A copy of a message's content parts whose last text ends with the tag, and that text.
local function tag_parts(parts)
  local copy, text = setmetatable({}, {__name = "moonlet.json.array"}), nil
  for i = #parts, 1, -1 do
    local part = parts[i]
    if not text and type(part) == "table" and type(part.text) == "string" then
      local tagged, set = ordered()
      for key, v in each(part) do set(key, v) end
      text = part.text
      set("text", text .. TAG)
      part = tagged
    end
    copy[i] = part
  end
  if not text then
    fail("usage", "continue_final_message is set but we could not find any text to continue in the final message!")
  end
  return copy, text
end

-- Appends the tag to what the last message says in `field`; gives what it said.
local function tag_final(messages, field, source)
  local last = messages[#messages]
  local said = rawget(last.object, field)
  if is_null(said) then
    fail("usage", 'continue_final_message is set but the final message has no "%s" to continue!', field)
  end
  local fields = {field}
  for _, name in ipairs(REASONING) do
    if name == field then
      fields = {}
      for _, other in ipairs(REASONING) do
        if rawget(last.object, other) == said then fields[#fields + 1] = other end
      end
    end
  end
  local accepted = false
  for _, name in ipairs(fields) do accepted = accepted or source:find(name, 1, true) ~= nil end
  if not accepted then
    fail("usage", 'continue_final_message is set to "%s" but this is not an accepted field in the chat_template', field)
  end
  if type(said) == "table" then
    local parts, text = tag_parts(said)
    last.set(field, parts)
    return text
  end
  for _, name in ipairs(fields) do last.set(name, said .. TAG) end
  return said
end

-- The text up to where the last message ends.
local function cut_at_tag(text, said)
  local at = find_last(text, STRIPPED_TAG)
  if not at or not text:find(strip(said, true), 1, true) then
    fail("usage", "continue_final_message is set but the final message does not appear in the chat after applying "
      .. "the chat template! This can happen if the chat template deletes portions of the final message.")
  end
  local head = text:sub(1, at - 1)
  if text:sub(at, at + #TAG - 1) == TAG then return head end
  return strip(head, false)
end

-- Rendering ----------------------------------------------------------------------------------------------------------

local OPTIONS = {}
for name in ("add_generation_prompt continue_final_message tools documents template template_vars now bos_token "
  .. "eos_token special_tokens control_tokens max_steps max_bytes generation"):gmatch("[%w_]+") do
  OPTIONS[name] = true
end
local OWN_NAMES = {messages = true, tools = true, documents = true, add_generation_prompt = true}

local function check_options(options)
  for name in pairs(options) do
    if not OPTIONS[name] then fail("usage", "chat template: unknown option '%s'", tostring(name)) end
  end
  for i, document in ipairs(is_null(options.documents) and {} or options.documents) do
    if not has_keys(document) then fail("usage", "documents[%d]: expected a table with title and text", i) end
  end
  for i, tool in ipairs(is_null(options.tools) and {} or options.tools) do
    if not has_keys(tool) then fail("usage", "tools[%d]: expected a JSON schema", i) end
  end
  if options.continue_final_message and options.add_generation_prompt then
    fail("usage", "continue_final_message and add_generation_prompt are not compatible")
  end
end

-- The names that a template sees.
local function make_context(messages, options)
  local null = jinja.null
  local context = {}
  for name, token in pairs(options.special_tokens or {}) do
    if not is_null(token) then context[name] = token end
  end
  context.bos_token, context.eos_token = options.bos_token or context.bos_token, options.eos_token or context.eos_token
  for name, v in pairs(options.template_vars or {}) do
    if OWN_NAMES[name] then fail("usage", "template_vars: '%s' is an option of its own", name) end
    context[name] = v
  end
  local list = setmetatable({}, {__name = "moonlet.json.array"})
  for i, message in ipairs(messages) do list[i] = message.object end
  context.messages = list
  context.tools = options.tools == nil and null or options.tools
  context.documents = options.documents == nil and null or options.documents
  context.add_generation_prompt = options.add_generation_prompt and true or false
  return context
end

---@param track nil|fun(path: table, s: string): boolean
local function render(template, messages, options, track)
  check_options(options)
  check_messages(messages, 1)
  local program = compiled(template, options.template, options.tools)
  local copies = {}
  for i, message in ipairs(messages) do copies[i] = copy_message(message) end
  local field = options.continue_final_message
  local said = field and tag_final(copies, type(field) == "string" and field or "content", program.source)
  local text, info, code = program:render(make_context(copies, options), {now = options.now,
    max_steps = options.max_steps, max_bytes = options.max_bytes, track = track, generation = options.generation})
  if not text then fail(code, code == "usage" and "%s" or "chat template: %s", info) end
  if field then text = cut_at_tag(text, said) end
  return text, info
end

local function guarded(fn, ...)
  local results = table.pack(pcall(fn, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  local err = results[2]
  if type(err) == "table" and err.chat then return nil, err.message, err.code end
  error(err, 0)
end

---@class moonlet.ChatOptions
---@field add_generation_prompt boolean?  end with the opening of an answer
---@field continue_final_message boolean|string|nil  leave the last message open (a name: that field of it)
---@field tools table?  a list of JSON schemas; chooses the template "tool_use" where there are several
---@field documents table?
---@field template string?  a name among several templates, or a source instead of them
---@field template_vars table?  more names for the template (enable_thinking ...)
---@field now string|number|nil  what the template takes for the time: ISO 8601, or seconds since the epoch
---@field bos_token string?
---@field eos_token string?
---@field special_tokens table?  more of them by name (pad_token, image_token ...)
---@field control_tokens string[]?  segments: the texts of the tokenizer's special tokens
---@field generation boolean?  apply: tell where the template marks what assistants say
---@field max_steps integer?
---@field max_bytes integer?

---Checks a list of messages before a template runs. True, or nil, message, code.
---@param messages table  it may be empty
---@return boolean?, string?, string?
function M.check(messages)
  return guarded(function()
    check_messages(messages, 0)
    return true
  end)
end

---The text of a conversation.
---@param template string|moonlet.Template|table  source, compiled, or several: {{name =, template =}, ...} or by name
---@param messages table  a list of {role =, content =, ...}
---@param options moonlet.ChatOptions?
---@return string? text
---@return table|string spans  byte ranges {first, last} inside {% generation %}; or the message of the failure
---@return string? code
function M.apply(template, messages, options)
  return guarded(function()
    local text, info = render(template, messages, options or {}, nil)
    return text, info.generation
  end)
end

-- Control tokens by length, the longest first.
local function index_tokens(tokens)
  local index, lengths, firsts = {}, {}, {}
  for _, token in ipairs(tokens) do
    if token ~= "" then
      if not index[#token] then
        index[#token] = {}
        lengths[#lengths + 1] = #token
      end
      index[#token][token] = true
      firsts["%" .. token:sub(1, 1)] = true
    end
  end
  table.sort(lengths, function(a, b) return a > b end)
  local class = {}
  for first in pairs(firsts) do class[#class + 1] = first:find("%w$") and first:sub(2) or first end
  index.lengths, index.start = lengths, #class > 0 and "[" .. table.concat(class) .. "]" or nil
  return index
end

-- The control tokens in bytes first to last, the leftmost and longest first: calls found(first, last).
local function scan(text, first, last, index, found)
  local at = first
  while index.start do
    at = text:find(index.start, at)
    if not at or at > last then return end
    local stop
    for _, length in ipairs(index.lengths) do
      if not stop and at + length - 1 <= last and index[length][text:sub(at, at + length - 1)] then
        stop = at + length - 1
      end
    end
    if stop then found(at, stop) end
    at = (stop or at) + 1
  end
end

-- Stretches of the text with no data in them: {first, last}.
local function gaps(text, spans)
  local list, at = {}, 1
  for _, span in ipairs(spans) do
    if span[1] > at then list[#list + 1] = {at, math.min(span[1] - 1, #text)} end
    at = span[2] + 1
  end
  if at <= #text then list[#list + 1] = {at, #text} end
  return list
end

-- Splits the text at the template's control tokens; says of each stretch between them whether it holds another.
local function stretches(text, spans, index)
  local own, starts_own = {}, {}
  for _, gap in ipairs(gaps(text, spans)) do
    scan(text, gap[1], gap[2], index, function(first, last)
      own[#own + 1] = {first, last}
      starts_own[first] = last
    end)
  end
  local list, at = {}, 1
  for _, token in ipairs(own) do
    list[#list + 1] = {at, token[1] - 1, true}
    list[#list + 1] = {token[1], token[2], true, own = true}
    at = token[2] + 1
  end
  list[#list + 1] = {at, #text, true}
  local i = 1
  scan(text, 1, #text, index, function(first, last)
    if starts_own[first] == last then return end
    while list[i][2] < first do i = i + 1 end
    local j = i
    while list[j] and list[j][1] <= last do
      if not list[j].own then list[j][3] = false end
      j = j + 1
    end
  end)
  return list
end

---The text of a conversation in segments, for a tokenizer; their concatenation is what `apply` gives.
---@param template string|moonlet.Template|table
---@param messages table
---@param options moonlet.ChatOptions  with control_tokens
---@return {text: string, special: boolean}[]? segments
---@return string? message
---@return string? code
function M.segments(template, messages, options)
  return guarded(function()
    options = options or {}
    if type(options.control_tokens) ~= "table" then
      fail("usage", "control_tokens: expected a list of the texts of special tokens")
    end
    local index = index_tokens(options.control_tokens)
    local function holds_token(s)
      local held = false
      scan(s, 1, #s, index, function() held = true end)
      return held
    end
    local vars = options.template_vars or {}
    local function is_data(path, s)
      if path[1] == "messages" then return not (#path == 3 and path[3] == "role") or holds_token(s) end
      return path[1] == "tools" or path[1] == "documents" or vars[path[1]] ~= nil
    end
    local text, info = render(template, messages, options, is_data)
    local segments = {}
    for _, stretch in ipairs(stretches(text, info.data, index)) do
      local last = segments[#segments]
      local piece = text:sub(stretch[1], stretch[2])
      if last and last.special == stretch[3] then
        last[#last + 1] = piece
      elseif piece ~= "" then
        segments[#segments + 1] = {special = stretch[3], piece}
      end
    end
    local result = {}
    for i, segment in ipairs(segments) do
      result[i] = {text = table.concat(segment), special = segment.special}
    end
    return result
  end)
end

return M
