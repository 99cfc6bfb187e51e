---Sessions: a conversation, or raw text, that keeps its KV cache from turn to turn. Only what differs from the cache is computed.
local generate = require "moonlet.generate"
local runtime = require "moonlet.runtime"
local util = require "moonlet.util"

local M = {}

---@class moonlet.Session
---@field tokens integer[]  what the cache holds
---@field length integer
local Session = {}

Session.__index = function(self, key)
  if key == "tokens" then return table.move(self.runtime.ids[1], 1, #self.runtime.ids[1], 1, {}) end
  if key == "length" then return #self.runtime.ids[1] end
  return Session[key]
end
Session.__name = "moonlet.Session"

local known = {system = false, messages = false, tools = false, documents = false, template = false, template_vars = false, now = false}

function M.new(model, opts)
  local o = util.options(opts, known, "session")
  local messages = {}
  if o.system then messages[1] = {role = "system", content = o.system} end
  for _, message in ipairs(o.messages or {}) do messages[#messages + 1] = message end
  return setmetatable({model = model, options = o, messages = messages, runtime = runtime.new(model, 1)}, Session)
end

local function check_open(self)
  if self.closed then util.raise("usage", "the session is closed") end
end

---Adds a user turn and gives the answer's tokens; the answer becomes a turn when it ends, as far as it came.
function Session:send(text, opts)
  check_open(self)
  local with = opts
  if opts and opts.defaults then with = self.model:generation_defaults(opts) end
  local o = generate.options(with, "send")
  self.messages[#self.messages + 1] = {role = "user", content = text}
  local ok, ids = pcall(self.model.chat_ids, self.model, self.messages, self.options)
  if ok and #ids > self.runtime.capacity then
    ok, ids = pcall(util.raise, "limit", "the conversation has %d tokens, the context holds %d", #ids, self.runtime.capacity)
  end
  if not ok then
    self.messages[#self.messages] = nil
    error(ids, 0)
  end
  local g = generate.start(self.model, self.runtime, ids, o, function(g)
    if g.finish_reason == "error" then self.messages[#self.messages] = nil
    else self.messages[#self.messages + 1] = {role = "assistant", content = g.text} end
  end)
  return g, nil, nil, g
end

---Tokens behind what the session holds; `prompt` is appended as it is (text without special tokens of its own, or ids).
function Session:generate(prompt, opts)
  check_open(self)
  local o = generate.options(opts, "generate")
  local ids = self.tokens
  local more
  if type(prompt) == "table" then more = self.model:prompt_ids(prompt, "generate")
  elseif #ids == 0 then more = self.model:prompt_ids(prompt, "generate")
  else more = self.model.tokenizer:encode(prompt, {add_special_tokens = false}) end
  table.move(more, 1, #more, #ids + 1, ids)
  if #ids > self.runtime.capacity then util.raise("limit", "the session has %d tokens, the context holds %d", #ids, self.runtime.capacity) end
  local g = generate.start(self.model, self.runtime, ids, o)
  return g, nil, nil, g
end

---Keeps the first n tokens.
function Session:trim(n)
  check_open(self)
  if math.tointeger(n) == nil or n < 0 then util.raise("usage", "trim: expected a number of tokens, found %s", tostring(n)) end
  self.runtime:trim(1, math.tointeger(n))
end

---A session that goes on from here on its own. The cache is computed again when it is first used.
function Session:fork()
  check_open(self)
  local copy = M.new(self.model, {})
  copy.options = self.options
  for i, message in ipairs(self.messages) do copy.messages[i] = message end
  copy.runtime:prefill(1, self.tokens)
  return copy
end

function Session:close()
  if self.closed then return end
  self.closed = true
  self.runtime:close()
end
for _, name in ipairs {"send", "generate", "trim", "fork", "close"} do Session[name] = util.interface("session:" .. name, Session[name], true) end
Session.__close = Session.close
Session.__gc = Session.close

return M
