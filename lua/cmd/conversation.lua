---A conversation of `moonlet chat`: its session, how it samples, and the answers as they are printed.
local ml = require "moonlet"
local common = require "moonlet.cmd.common"
local console = require "moonlet.console"
local options = require "moonlet.cmd.options"

---@class moonlet.cmd.Conversation
---@field model table
---@field session table
---@field system? string
---@field template? string    the chat template, or its name; the model's own otherwise
---@field opts table          the command's options
---@field given table         what the user wants of the sampling, under generate's names
---@field unanswered? string  the last question, where it is no part of the conversation: failed, or stopped at once
---@field repeats integer      how often the last question was asked before
---@field metrics? table      of the last answer
local Conversation = {}
Conversation.__index = Conversation

-- What moonlet samples by where the model says nothing.
local own_sampling = {temperature = 0.8, top_k = 40, top_p = 0.95, min_p = 0.05}

local shown = {"temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed"}
local without_temperature = {"top_k", "top_p", "min_p"} -- which have no meaning

-- The source or the name that --template gives. What is wrong with it is told before anything is asked.
local function template_of(model, which)
  local tokenizer = model.tokenizer
  if not tokenizer then options.fail("the model has no tokenizer (%s)", model.info.path) end
  if not which then
    if not tokenizer.chat_template then options.fail(
      "the model ships no chat template: give one by --template, or use `moonlet generate`") end
    return nil
  end
  local file = io.open(which, "rb")
  if file then file:close() end
  local template = file and common.read(which) or which
  local text, message = tokenizer:apply_chat_template({{role = "user", content = "?"}}, {template = template})
  if text then return template end
  options.fail("--template %s: %s%s", which, file and "" or "no such file; ", message)
end

function Conversation.open(model, opts)
  local template = template_of(model, opts.template)
  local self = setmetatable({
    model = model, opts = opts, given = common.sampling_of(opts), system = opts.system, template = template,
    repeats = 0,
  }, Conversation)
  self:restart()
  return self
end

function Conversation:restart()
  if self.session then self.session:close() end
  self.metrics, self.unanswered, self.told = nil, nil, false
  self.session = self.model:session {system = self.system, template = self.template, forget = true}
end

---Goes on with what the session has just loaded.
function Conversation:adopt()
  self.metrics, self.unanswered, self.told = nil, nil, false
  local first = (self.session.messages or {})[1]
  self.system = first and first.role == "system" and first.content or nil
end

---How many turns the conversation has.
function Conversation:turns()
  local n = 0
  for _, message in ipairs(self.session.messages or {}) do
    if message.role == "user" then n = n + 1 end
  end
  return n
end

-- ---- sampling ----

---The options for `send`, and whose they are where the user has not said anything: "model" or "moonlet".
---@return table options
---@return string source
function Conversation:sampling()
  local model, given = self.model, self.given
  local send, present
  if model.generation_defaults then send, present = model:generation_defaults(given) end
  if present == nil then present = next(model.generation_config or {}) ~= nil end
  if not send or not present then
    send = {}
    for name, value in pairs(own_sampling) do send[name] = value end
    for name, value in pairs(given) do send[name] = value end
  end
  if (send.temperature or 0) == 0 then
    for _, name in ipairs(without_temperature) do send[name] = given[name] end
  end
  return send, present and "model" or "moonlet"
end

---"temperature 0.8, top_k 40, ...", and where that comes from.
function Conversation:sampling_text()
  local send, source = self:sampling()
  local greedy = (send.temperature or 0) == 0
  local parts, others = {}, false
  for _, name in ipairs(shown) do
    local value, given = send[name], self.given[name] ~= nil
    if name == "temperature" and greedy then value = nil end
    if value ~= nil then
      parts[#parts + 1] = ("%s %s%s"):format(name, value, given and " (as you set it)" or "")
      others = others or not given
    end
  end
  if greedy then
    table.insert(parts, 1, "greedy" .. (self.given.temperature and " (as you set it)" or ""))
    others = others or not self.given.temperature
  end
  local whose = source == "model" and "; from the model's generation_config.json"
    or "; moonlet's own, since the model brings none"
  return table.concat(parts, ", ") .. (others and whose or "")
end

-- ---- answers ----

-- The first time that turns leave the conversation it is told.
local function tell_of_forgotten(self)
  if self.told or (self.session.forgotten or 0) == 0 then return end
  self.told = true
  common.note(self.opts, "[the context of %d tokens is full: the oldest turns leave the conversation]",
    self.model.info.context)
end

-- Whether the last question has become a turn.
local function is_answered(self, text)
  local messages = self.session.messages
  if not messages then return true end
  local question, answer = messages[#messages - 1], messages[#messages]
  return question ~= nil and answer.role == "assistant" and question.content == text
end

-- Sends one turn and hands the answer's tokens to `on_token`. Returns the finish reason, or nil and the error.
local function ask(self, text, on_token)
  local send = self:sampling()
  send.cancel = ml.cancel_token()
  if send.seed then send.seed = send.seed + self.repeats end -- for another answer
  local ok, err, traceback = console.watch(function()
    local g <close> = self.session:send(text, send)
    tell_of_forgotten(self)
    for token in g do
      on_token(token)
      if console.interrupted() then send.cancel:cancel() end
    end
    self.metrics = g.metrics
    if console.interrupted() then self.metrics.finish_reason = "cancelled" end
  end)
  self.unanswered = not is_answered(self, text) and text or nil
  if ok then return self.metrics.finish_reason end
  if type(err) == "table" and err.expected then error(err, 0) end -- the answer could not be written
  local code = common.code_of(err)
  if code == "cancelled" then
    self.metrics = self.model.metrics
    return "cancelled"
  end
  return nil, tostring(err) .. (code and "" or "\n" .. tostring(traceback))
end

---Asks and prints the answer as it comes, or as one JSON object at the end.
---@param text string
---@return string? reason  why the answer ended; nil after an error
---@return string? message  the error
function Conversation:turn(text)
  local texts, ids, last = {}, {}, "\n"
  local reason, message = ask(self, text, function(token)
    ids[#ids + 1] = token.id
    local piece = token.text or ""
    texts[#texts + 1] = piece
    if self.opts.json or piece == "" then return end
    last = piece
    common.write(piece)
  end)
  if self.opts.json then
    if reason then
      common.print_json {
        text = table.concat(texts), ids = ml.json.array(ids), finish_reason = reason, metrics = self.metrics,
      }
    end
  elseif last:sub(-1) ~= "\n" then
    common.write("\n")
  end
  if reason == "length" then
    common.note(self.opts, common.cut_text(self.metrics, self.given.max_tokens, self.model.info.context))
  end
  return reason, message
end

return Conversation
