---Sessions: a conversation, or raw text, that keeps its KV cache from turn to turn. Only what differs from the cache is
---computed.
---
---A conversation is what its messages say: each turn renders them anew, and the cache serves as far as the ids are the
---same. `tokens` are the ids of the session so far, the answer's last among them, which the cache gets with the next
---turn. A turn is what a user says and all that follows it. A sampler may read the session whose token it chooses; a
---call that would change it, or save or fork it, is a "usage" error there.
local chat = require "moonlet.templates.chat"
local core = require "moonlet.core"
local generate = require "moonlet.generate"
local ml = require "moonlet.init"
local util = require "moonlet.util"

local M = {}

---@class moonlet.Session
---@field tokens integer[]  ids of the session so far
---@field length integer
---@field messages table[]  the conversation
---@field forgotten integer  how many turns have left it, with the option `forget`
local Session = {}

Session.__index = function(self, key)
  if key == "tokens" then return table.move(self.ids, 1, #self.ids, 1, {}) end
  if key == "length" then return #self.ids end
  return Session[key]
end
Session.__name = "moonlet.Session"
Session.__dir = {"tokens", "length", "messages", "forgotten"}

local known = {
  system = false, messages = false, tools = false, documents = false, template = false, template_vars = false,
  now = false, forget = false,
}

function M.new(model, opts)
  local o = util.options(opts, known, "session")
  local messages = {}
  if o.system ~= nil and type(o.system) ~= "string" then util.unexpected("session: system", "text", o.system) end
  local right, why, code = chat.check(o.messages or messages)
  if not right then util.raise(code, "session: %s", why) end
  if o.system then messages[1] = {role = "system", content = o.system} end
  for _, message in ipairs(o.messages or {}) do messages[#messages + 1] = message end
  local self = {
    model = model, options = o, messages = messages, ids = {}, forgotten = 0, runtime = model:runtime(),
    slot = model:runtime():slot(),
  }
  model.users[self] = true
  return setmetatable(self, Session)
end

-- Every call ends an answer that is still on its way; but not while it makes a token, which changes the session when
-- it ends: what a sampler asks for then would be lost.
local function begin(self, name)
  if not self.model.net then util.raise("usage", "the model is closed") end
  if self.closed then util.raise("usage", "the session is closed") end
  if not self.answer then return end
  if self.answer.running then
    util.raise("usage", "%s: the session makes a token: its own sampler can read and close it, not change it", name)
  end
  self.answer:close()
end

-- Starts an answer to ids; nothing of the session has changed when this raises.
local function start(self, what, ids, o, release)
  self.runtime:check_prompt(ids, what)
  local g = generate.start(self.model, self.slot, ids, o, function(g, collected)
    self.answer = nil
    if not collected then release(g) end -- else the session, which holds g, is garbage too
    if self.closed then self.slot:close() end
  end)
  self.answer = g
  return g, nil, nil, g
end

-- The prompt and what is kept of the answer.
local function remember(self, g)
  self.ids = table.move(g.prompt, 1, #g.prompt, 1, {})
  local kept = g:kept_ids()
  table.move(kept, 1, #kept, #self.ids + 1, self.ids)
end

-- Where the last turn begins, or nil.
local function last_turn(messages)
  for i = #messages, 1, -1 do
    if messages[i].role == "user" then return i end
  end
end

-- The messages without their oldest turn, or nil where only the last is left. System messages stay.
local function without_oldest(messages)
  local kept, turn, last = {}, 0, last_turn(messages)
  for i, message in ipairs(messages) do
    if message.role == "user" then turn = turn + 1 end
    if turn ~= 1 or message.role == "system" then
      kept[#kept + 1] = message
    elseif i >= last then
      return nil
    end
  end
  return kept
end

-- The conversation as the context holds it with room for an answer: its messages, its ids, and how many of its oldest
-- turns are left out. When some must leave, a quarter of the room is made free, so that not every turn from then on is
-- computed with all those before it.
local function fit(self, messages, max_tokens)
  local ids, capacity = self.model:chat_ids(messages, self.options), self.runtime.capacity
  local most = capacity - math.min(max_tokens, capacity // 4)
  if #ids > capacity and not self.options.forget then
    util.raise("limit", "send: the conversation has %d tokens, the context holds %d: with `forget = true` its " ..
      "oldest turns leave it", #ids, capacity)
  elseif not self.options.forget or #ids <= most then
    return messages, ids, 0
  end
  local best = {messages = messages, ids = ids, left = 0}
  local shorter, left = messages, 0
  while #best.ids > most * 3 // 4 do
    shorter, left = without_oldest(shorter), left + 1
    if not shorter then break end
    local had_fitted = #best.ids <= most
    ids = self.model:chat_ids(shorter, self.options)
    if not had_fitted or #ids <= most * 3 // 4 then best = {messages = shorter, ids = ids, left = left} end
  end
  if #best.ids > capacity then
    util.raise("limit", "send: the question makes %d tokens by itself, the context holds %d", #best.ids, capacity)
  end
  return best.messages, best.ids, best.left
end

---Adds a user turn and gives the answer's tokens; the answer becomes a turn when it ends, as far as it came. A turn
---that failed, or was cancelled before any text came, is taken back.
---@param text string
---@param opts table|nil  as of m:generate, and {defaults = "model"}
function Session:send(text, opts)
  begin(self, "send")
  if type(text) ~= "string" then util.unexpected("send", "text", text) end
  local asked = type(opts) == "table" and opts.defaults ~= nil
  local o = generate.options(asked and self.model:generation_defaults(opts) or opts, "send")
  local messages = table.move(self.messages, 1, #self.messages, 1, {})
  messages[#messages + 1] = {role = "user", content = text}
  local ids, left
  messages, ids, left = fit(self, messages, o.max_tokens)
  o.ends = self.model.tokenizer:ends(self.options.template)
  local before, forgotten = self.messages, self.forgotten
  local function take_back() self.messages, self.forgotten = before, forgotten end
  self.messages, self.forgotten = messages, forgotten + left
  local ok, g = pcall(start, self, "send", ids, o, function(g)
    local reason = g.finish_reason
    if reason == "error" or g.text == "" and (reason == "cancelled" or reason == "deadline") then return take_back() end
    messages[#messages + 1] = {role = "assistant", content = g.text}
    remember(self, g)
  end)
  if not ok then
    take_back()
    error(g, 0)
  end
  return g, nil, nil, g
end

---Goes on behind what the session holds; `prompt` is put there as it is (text gets special tokens at the session's
---beginning alone).
---@param prompt string|integer[]
---@param opts table|nil  as of m:generate
function Session:generate(prompt, opts)
  begin(self, "generate")
  local o = generate.options(opts, "generate")
  local ids = self.tokens
  local more
  if type(prompt) == "string" and #ids > 0 and self.model.tokenizer then
    more = self.model.tokenizer:encode(prompt, {add_special_tokens = false})
  else
    more = self.model:prompt_ids(prompt, "generate")
  end
  table.move(more, 1, #more, #ids + 1, ids)
  return start(self, "generate", ids, o, function(g)
    if g.finish_reason ~= "error" then remember(self, g) end
  end)
end

---Keeps the first n tokens. Messages stay: the next `send` computes again what they need.
---@param n integer
function Session:trim(n)
  begin(self, "trim")
  local whole = util.integer("trim", n, 0)
  whole = math.min(whole, #self.ids)
  for i = #self.ids, whole + 1, -1 do self.ids[i] = nil end
  self.slot:trim(whole)
end

---Takes back the last turn, and gives what the user said in it; nil where there is none. The tokens of those before it
---stay.
---@return string|nil
function Session:undo()
  begin(self, "undo")
  local at = last_turn(self.messages)
  if not at then return nil end
  local said = self.messages[at].content
  self.messages = table.move(self.messages, 1, at - 1, 1, {})
  local o = {}
  for _, name in ipairs {"tools", "documents", "template", "template_vars", "now"} do o[name] = self.options[name] end
  -- A template may refuse a conversation without a question; then no token is known to stay.
  local ok, ids = pcall(function() return self.model.tokenizer:encode_chat(self.messages, o) end)
  local n = 0
  while ok and n < #ids and n < #self.ids and ids[n + 1] == self.ids[n + 1] do n = n + 1 end
  self:trim(n)
  return said
end

-- How many of the session's tokens the cache holds.
local function cached(self)
  local held, n = self.slot.ids, 0
  while n < #held and held[n + 1] == self.ids[n + 1] do n = n + 1 end
  return n
end

---A session that goes on from here on its own. Nothing of the cache is copied until one of the two writes to it.
function Session:fork()
  begin(self, "fork")
  local copy = M.new(self.model, {})
  copy.slot:close()
  copy.options, copy.forgotten, copy.slot = self.options, self.forgotten, self.slot:fork()
  table.move(self.messages, 1, #self.messages, 1, copy.messages)
  copy.ids = self.tokens
  return copy
end

-- ---- files ----

local FORMAT = "moonlet session 2"

-- Cache contents mean something to a model of the same weights, in the same precision.
local function cache_name(model) return model.precision .. " " .. model.cache_dtype end

local function content(self, n)
  local tensors, order = {}, {}
  local function put(name, x)
    tensors[name] = x
    order[#order + 1] = name
  end
  if #self.ids > 0 then put("tokens", ml.tensor(self.ids, {dtype = "int32"})) end
  for i, layer in ipairs(n > 0 and self.slot:contents(n) or {}) do
    for _, name in ipairs(util.sorted_keys(layer)) do put(("layers.%d.%s"):format(i - 1, name), layer[name]) end
  end
  return tensors, order
end

---Writes tokens, messages and the cache to a safetensors file, with a fingerprint of model and tokenizer. True, or nil,
---message, code.
---@param path string
function Session:save(path)
  begin(self, "save")
  util.path("save: path", path)
  local n = cached(self)
  if n < #self.slot.ids then n = self.slot:trim(n) end
  return util.soft(function()
    return ml.scope(function()
      local tensors, order = content(self, n)
      return util.must(require("moonlet.files").save_safetensors(path, tensors, {
        format = FORMAT, fingerprint = self.model:fingerprint(), cached = n, cache = cache_name(self.model),
        messages = ml.json.encode(ml.json.array(self.messages)),
      }, order))
    end)
  end)
end

-- The list that a file's "tokens" hold.
local function read_tokens(self, path, tensors)
  local x = tensors.tokens
  if not x then return {} end
  if x.ndim ~= 1 or x.dtype ~= "int32" then
    util.raise("corrupt", "%s: tokens: expected int32 (n), found %s (%s)", path, x.dtype, table.concat(x.shape, ", "))
  end
  local ids = x:tolist()
  for i, id in ipairs(ids) do
    if id < 0 or id >= self.model.info.vocab_size then
      util.raise("corrupt", "%s: tokens: entry %d: expected an id from 0 to %d, found %d", path, i,
        self.model.info.vocab_size - 1, id)
    end
  end
  return ids
end

local function read_messages(path, text)
  local messages, message = ml.json.decode(text or "")
  if type(messages) ~= "table" then
    util.raise("corrupt", "%s: messages: expected an array, found %s", path, message or type(messages))
  end
  local list = {}
  for i, m in ipairs(messages) do
    if type(m) ~= "table" or type(m.role) ~= "string" then
      util.raise("corrupt", "%s: messages: entry %d has no role", path, i)
    end
    list[i] = m
  end
  return list
end

-- What a file holds of each layer, by name.
local function read_layers(tensors)
  local layers = {}
  for name, x in pairs(tensors) do
    local index, part = name:match "^layers%.(%d+)%.(.+)$"
    local i = index and math.tointeger(index) + 1
    if i then
      layers[i] = layers[i] or {}
      layers[i][part] = x
    end
  end
  return layers
end

local function read_file(self, path)
  local _ <close> = core.on(self.model.device)
  local tensors, metadata, code = ml.load_safetensors(path)
  if not tensors then util.raise(code, code == "corrupt" and "%s: no saved session" or "%s", metadata) end
  if metadata.format ~= FORMAT then
    util.raise("corrupt", "%s: format: expected \"%s\", found \"%s\": no saved session", path, FORMAT,
      tostring(metadata.format))
  end
  if metadata.fingerprint ~= self.model:fingerprint() then
    util.raise("mismatch",
      "%s: fingerprint: expected %s, found %s: the session was saved with another model or tokenizer", path,
      self.model:fingerprint(), tostring(metadata.fingerprint))
  end
  local ids, messages = read_tokens(self, path, tensors), read_messages(path, metadata.messages)
  local n = math.tointeger(tonumber(metadata.cached))
  if not n or n < 0 or n > #ids then
    util.raise("corrupt", "%s: cached: expected 0 to %d, found %s", path, #ids, tostring(metadata.cached))
  end
  local capacity = self.runtime.capacity
  if #ids > capacity + 1 then
    util.raise("limit", "%s: the session has %d tokens, the context holds %d", path, #ids, capacity)
  end
  self.slot:trim(0)
  if n > 0 and metadata.cache == cache_name(self.model) then
    self.runtime:learn()
    local fits = self.slot:restore(read_layers(tensors), table.move(ids, 1, n, 1, {}))
    if not fits then util.raise("corrupt", "%s: the layers do not have the shapes of this model's cache", path) end
  end
  self.ids, self.messages, self.forgotten = ids, messages, 0
  return true
end

local HEADER_MOST = 1 << 27 -- bytes

---Whether a file holds a saved session, of whatever model.
---@param path string
---@return boolean
function Session:is_saved(path) -- luacheck: ignore self
  util.path("is_saved: path", path)
  local file <close> = io.open(path, "rb")
  local size = file and file:read(8)
  size = size and #size == 8 and string.unpack("<i8", size) or 0
  if size < 2 or size > HEADER_MOST then return false end
  local header = ml.json.decode(file:read(size) or "")
  local metadata = type(header) == "table" and header.__metadata__
  return type(metadata) == "table" and metadata.format == FORMAT
end

---Goes on with a saved session: true, or nil, message, code ("mismatch" where model or tokenizer is another), the
---session being as it was. Options such as tools stay those of this session. A cache of another precision is computed
---again.
---@param path string
function Session:load(path)
  begin(self, "load")
  util.path("load: path", path)
  return util.soft(ml.scope, function() return read_file(self, path) end)
end

-- ---- closing ----

---Frees the cache; twice is harmless. An answer that makes a token now, and closes the session from a callback, frees
---it when that returns.
function Session:close()
  if self.closed then return end
  if self.answer then self.answer:close() end
  self.closed = true
  if not self.answer then self.slot:close() end
end
local index = Session.__index
Session.__index = nil -- no method
util.guard(Session, "session:", true)
Session.__index = index
Session.__close = Session.close
function Session:__tostring()
  return ("session of %s: %d messages, %d tokens%s"):format(self.model.info.family, #self.messages, #self.ids,
    self.closed and " (closed)" or "")
end
Session.__gc = function(self)
  if not self.closed then self.slot:close() end
end

return M
