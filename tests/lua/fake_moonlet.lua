---A stand-in for `require "moonlet"` with the names of the real one and a model that repeats what it is told: for tests
---of the command and the REPL alone. A token is a byte, its id the byte's value; `slow` is the seconds that one takes.
local M = {}

local function fault(code, message)
  return setmetatable({code = code, message = message}, {
    __tostring = function(e) return e.message end,
    __concat = function(a, b) return tostring(a) .. tostring(b) end,
  })
end

-- ---- json ----

M.json = {null = setmetatable({}, {__tostring = function() return "null" end})}
local array_meta = {}
function M.json.array(t) return setmetatable(t, array_meta) end
function M.json.object(t) return t end

local function encode(v)
  if v == M.json.null then return "null" end
  local kind = type(v)
  if kind == "number" then
    if v ~= v or v == math.huge or v == -math.huge then error(fault("usage", "json: not a number")) end
    return math.type(v) == "integer" and ("%d"):format(v) or ("%.17g"):format(v)
  end
  if kind == "boolean" then return tostring(v) end
  if kind == "string" then
    return '"' .. v:gsub('[%c"\\]', function(c)
      return c == "\n" and "\\n" or (c == '"' or c == "\\") and "\\" .. c or ("\\u%04x"):format(c:byte())
    end) .. '"'
  end
  assert(kind == "table", "json: cannot encode a " .. kind)
  local out, keys = {}, {}
  if getmetatable(v) == array_meta or next(v) == nil or #v > 0 then
    for i, x in ipairs(v) do out[i] = encode(x) end
    return "[" .. table.concat(out, ",") .. "]"
  end
  for k in pairs(v) do keys[#keys + 1] = k end
  table.sort(keys)
  for _, k in ipairs(keys) do out[#out + 1] = encode(k) .. ":" .. encode(v[k]) end
  return "{" .. table.concat(out, ",") .. "}"
end
M.json.encode = encode

-- Turns JSON into a Lua expression piece by piece; enough for what tests write.
function M.json.decode(text)
  local at = 1
  local function skip() at = text:find("%S", at) or #text + 1 end
  local value
  local function list(close, item)
    local out = {}
    at = at + 1
    skip()
    if text:sub(at, at) == close then at = at + 1 return out end
    while true do
      item(out)
      skip()
      local c = text:sub(at, at)
      at = at + 1
      if c == close then return out end
      assert(c == ",", "expected , or " .. close)
    end
  end
  local escapes = {n = "\n", t = "\t", r = "\r", b = "\b", f = "\f"}
  local function str()
    local out = {}
    at = at + 1
    while true do
      local c = text:sub(at, at)
      assert(c ~= "", "unfinished string")
      at = at + 1
      if c == '"' then return table.concat(out) end
      if c == "\\" then
        c = text:sub(at, at)
        at = at + 1
        if c == "u" then
          c = utf8.char(tonumber(text:sub(at, at + 3), 16))
          at = at + 4
        else
          c = escapes[c] or c
        end
      end
      out[#out + 1] = c
    end
  end
  function value()
    skip()
    local c = text:sub(at, at)
    if c == '"' then return str() end
    if c == "[" then return M.json.array(list("]", function(out) out[#out + 1] = value() end)) end
    if c == "{" then
      return list("}", function(out)
        skip()
        local key = str()
        skip()
        assert(text:sub(at, at) == ":", "expected :")
        at = at + 1
        out[key] = value()
      end)
    end
    for word, v in pairs {["true"] = true, ["false"] = false, null = M.json.null} do
      if text:sub(at, at + #word - 1) == word then at = at + #word return v end
    end
    local number = text:match("^-?%d+%.?%d*[eE]?[-+]?%d*", at)
    assert(number and #number > 0, "expected a value")
    at = at + #number
    return math.tointeger(tonumber(number)) or tonumber(number)
  end
  local ok, result = pcall(function()
    local v = value()
    skip()
    assert(at > #text, "text behind the value")
    return v
  end)
  if ok then return result end
  return nil, "json: " .. tostring(result):gsub("^.-:%d+: ", ""), "corrupt"
end

-- ---- devices, memory, cancel ----

function M.devices() return {{name = "cpu", description = "fake", threads = 2, memory = 8e9}} end
function M.default_device() return "cpu" end
M.memory = {active = function() return 1000000 end, peak = function() return 2000000 end}
function M.cancel_token()
  local token = {cancelled = false}
  function token:cancel() self.cancelled = true end
  return token
end

-- ---- model ----

---Every call of load, generate and send leaves its arguments here, for tests to look at.
M.calls = {}

local Tokenizer = {}
Tokenizer.__index = Tokenizer
function Tokenizer.encode(_, text, opts)
  local ids = {}
  if opts == nil or opts.add_special_tokens ~= false then ids[1] = 1 end
  for i = 1, #text do ids[#ids + 1] = text:byte(i) end
  return ids
end
function Tokenizer.decode(_, ids, opts)
  local out = {}
  for _, id in ipairs(ids) do
    if id >= 32 or not (opts and opts.skip_special_tokens) then out[#out + 1] = id == 1 and "<s>" or string.char(id) end
  end
  return table.concat(out)
end

function Tokenizer.apply_chat_template(_, messages, opts)
  if opts.template == "nosuch" then return nil, "chat template: there is none of that name", "not_found" end
  return messages[1].content
end

function M.tokenizer(path)
  if not path:find "fake" then return nil, path .. ": no such file or directory", "not_found" end
  return setmetatable({vocab_size = 256, chat_template = not path:find "base" and "" or nil}, Tokenizer)
end

-- An iterator over the bytes of `answer`, as generate returns it.
local function tokens(model, answer, prompt_tokens, opts)
  table.insert(M.calls, opts)
  local most = math.min(opts.max_tokens or 256, model.info.context - prompt_tokens + 1)
  if opts.ignore_eos then answer = answer:rep(most // math.max(1, #answer) + 1) end
  local g = {metrics = nil}
  local i, reason = 0, nil
  local function finish(why)
    reason = why
    model.metrics = {
      prompt_tokens = prompt_tokens, cached_tokens = 0, generated_tokens = i,
      prefill_seconds = 0.5, decode_seconds = 0.25, total_seconds = 0.75,
      prefill_tokens_per_second = prompt_tokens / 0.5, decode_tokens_per_second = math.max(0, i - 1) / 0.25,
      peak_bytes = 2000000, active_bytes = 1000000, finish_reason = why,
    }
    g.metrics = model.metrics
  end
  return setmetatable(g, {
    __call = function()
      if reason then return nil end
      if opts.cancel and opts.cancel.cancelled then return finish "cancelled" end
      if i >= #answer then return finish "stop" end
      if i >= most then return finish "length" end
      i = i + 1
      if M.slow then
        local till = os.clock() + M.slow
        while os.clock() < till do end -- luacheck: ignore 542
      end
      return {id = answer:byte(i), text = answer:sub(i, i), index = i}
    end,
    __close = function() end,
  })
end

local Model = {}
Model.__index = Model
function Model:generation_defaults(opts)
  local merged, config = {}, self.generation_config
  if config.do_sample then merged.temperature, merged.top_p = config.temperature, config.top_p end
  for k, v in pairs(opts) do merged[k] = v end
  return merged, next(config) ~= nil
end
Model.__close = function(m) m.closed = true end

function Model:generate(prompt, opts)
  local n = type(prompt) == "table" and #prompt or #prompt + 1
  if n > self.info.context then error(fault("limit", "the prompt does not fit the context")) end
  return tokens(self, type(prompt) == "table" and "x" or prompt:upper(), n, opts or {})
end

function Model:complete(prompt, opts)
  local ids, text = {}, {}
  for tok in self:generate(prompt, opts) do ids[#ids + 1], text[#text + 1] = tok.id, tok.text end
  local metrics = self.metrics
  local result = {text = table.concat(text), ids = ids, finish_reason = metrics.finish_reason, metrics = metrics}
  return result.text, result
end

function Model.perplexity(_, text) return {nll = 0.5, perplexity = math.exp(0.5), tokens = #text} end

local Session = {}
Session.__index = Session
M.Session = Session
function Model:session(opts)
  M.session_options = opts
  return setmetatable({
    model = self, system = opts and opts.system, length = 0, tokens = {}, messages = {}, forgotten = 0,
  }, Session)
end
function Session:send(text, opts)
  if text == "overflow" then error(fault("limit", "send: the question makes 9 tokens by itself")) end
  self.length = self.length + #text
  if text:find "^forget" then self.forgotten = self.forgotten + 2 end
  table.insert(self.messages, {role = "user", content = text})
  table.insert(self.messages, {role = "assistant", content = text:upper()})
  local answer = (self.system and self.system .. ": " or "") .. text:upper()
  return tokens(self.model, text:find "^long" and ("ab"):rep(500) or answer, #text, opts or {})
end
function Session:save(path)
  local file, message = io.open(path, "w")
  if not file then return nil, message, "io" end
  file:write(tostring(self.length))
  file:close()
  return true
end
function Session:load(path)
  local file, message = io.open(path)
  if not file then return nil, message, "not_found" end
  self.length = file:read "n"
  file:close()
  return true
end
function Session:undo()
  local n = #self.messages
  if n == 0 then return nil end
  local text = self.messages[n - 1].content
  self.messages[n], self.messages[n - 1] = nil, nil
  self.length = self.length - #text
  return text
end
function Session.is_saved(_, path)
  local file <close> = assert(io.open(path))
  return file:read "a":find "^%d+$" ~= nil
end
function Session:close() self.closed = true end

function M.discover(directory)
  if directory == "somewhere" then
    return {{path = "somewhere/a.gguf", format = "gguf", model_type = "fake"},
      {path = "somewhere/b", format = "safetensors"}}
  end
  if directory == "empty" then return {} end
  return nil, directory .. ": no such directory", "not_found"
end

function M.load(path, opts)
  table.insert(M.calls, opts or {})
  if not path:find "fake" then return nil, path .. ": no such file or directory", "not_found" end
  if path:find "bug" then error("attempt to index a nil value") end
  if path:find "slow" then M.slow = 0.01 end
  return setmetatable({
    tokenizer = M.tokenizer(path), device = "cpu",
    generation_config = path:find "greedy" and {do_sample = false}
      or path:find "warm" and {do_sample = true, temperature = 0.6, top_p = 0.9} or {},
    info = {
      model_type = "fake", family = "fake", layers = 2, hidden_size = 8, vocab_size = 256, parameters = 134515008,
      quantization = {bits = 4, group_size = 32, format = "q4_1"}, context = 2048, bytes = 98e6, path = path,
      warnings = {"config.json: nobody reads 'moon'"},
    },
  }, Model)
end

return M
