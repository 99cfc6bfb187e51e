---`moonlet chat`: talks with a model. Ctrl-C stops an answer, and what there is of it stays in the conversation.
local ml = require "moonlet"
local common = require "moonlet.cmd.common"
local console = require "moonlet.console"
local options = require "moonlet.cmd.options"

local M = {
  name = "chat",
  summary = "talk with a model",
  usage = "-m MODEL [-p QUESTION] [options]",
  about = [[
With -p it answers one question and ends. Without a terminal, each line of stdin is a turn. --json prints
one object an answer: {text, ids, finish_reason, metrics}; an end token counts in metrics.generated_tokens
and is not among the ids.]],
  example = 'moonlet chat -m checkpoints/SmolLM2-135M-Instruct.gguf\n' ..
    'moonlet chat -m checkpoints/SmolLM2-135M-Instruct.gguf -p "Why do tides rise?"',
}

M.options = common.options(common.model, {
  {name = "prompt", short = "p", type = "string", value = "TEXT",
    help = "ask one question and end; - reads it from stdin"},
  {name = "file", type = "string", value = "PATH", help = "reads the question from a file"},
  {name = "system", type = "string", value = "TEXT", help = "the system message"},
  {name = "template", type = "string", value = "WHICH",
    help = "a chat template's file, or the name of one that the model ships"},
  {name = "max-tokens", short = "n", type = "integer", value = "N", min = 1, default = 1024,
    help = "the most tokens of an answer"},
}, common.sampling, common.loading)

local help_text = [[
/help          this list
/clear         begins the conversation again
/system TEXT   sets the system message and begins again; without TEXT shows it
/save PATH     writes the conversation to a file
/load PATH     goes on with one that was saved
/stats         speed, context and memory
/exit          leaves, as Ctrl-D does

Ctrl-C stops an answer. A line that ends in \ goes on in the next; """ begins and ends a longer text.
A text that begins with a slash is written with two.]]

---@class moonlet.cmd.Chat  a conversation
---@field model table
---@field session table
---@field system? string
---@field template? string  the chat template, or its name; the model's own otherwise
---@field opts table      the command's options
---@field person boolean  whether somebody types, who can use the commands
---@field metrics? table  of the last answer
local Chat = {}
Chat.__index = Chat

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

local function open(model, opts, person)
  local template = template_of(model, opts.template)
  local chat = setmetatable(
    {model = model, opts = opts, person = person, system = opts.system, template = template}, Chat)
  chat:restart()
  return chat
end

function Chat:restart()
  if self.session then self.session:close() end
  self.metrics = nil
  self.session = self.model:session {system = self.system, template = self.template}
end

local function code_of(err)
  local ok, code = pcall(function() return err.code end)
  return ok and code or nil
end

-- Sends one turn and hands the answer's tokens to `on_token`. Returns the finish reason, or nil and the error.
function Chat:ask(text, on_token)
  local send = common.sampling_of(self.opts)
  send.cancel = ml.cancel_token()
  if not send.temperature then send.defaults = "model" end
  local ok, err, traceback = console.watch(function()
    local g <close> = self.session:send(text, send)
    for token in g do
      on_token(token)
      if console.interrupted() then send.cancel:cancel() end
    end
    self.metrics = g.metrics
    if console.interrupted() then self.metrics.finish_reason = "cancelled" end
  end)
  if ok then return self.metrics.finish_reason end
  local code = code_of(err)
  if code == "cancelled" then
    self.metrics = self.model.metrics
    return "cancelled"
  end
  if code == "limit" and self.session.length > 0 then
    local way_out = self.person and "; /clear begins again" or ""
    return nil, tostring(err) .. "\nthe conversation no longer fits the context" .. way_out
  end
  return nil, tostring(err) .. (code and "" or "\n" .. tostring(traceback))
end

-- Asks and prints the answer as it comes, or as one JSON object at the end. Returns as `ask`.
function Chat:turn(text)
  local texts, ids, last = {}, {}, "\n"
  local reason, message = self:ask(text, function(token)
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
    common.note(self.opts, common.cut_text(self.metrics, self.opts.max_tokens, self.model.info.context))
  end
  return reason, message
end

local function report(message) io.stderr:write("moonlet chat: ", message, "\n") end

---The commands that begin with a slash; true ends the conversation.
local commands = {}

function commands.help() print(help_text) end
function commands.exit() return true end
commands.quit = commands.exit

function commands.clear(chat)
  chat:restart()
  print("begun again")
end

function commands.system(chat, text)
  if text == "" then return print(chat.system or "no system message") end
  chat.system = text
  chat:restart()
  print("begun again, with this system message")
end

-- Not every engine behind a model can keep a session.
local function can(chat, what)
  if chat.session[what] then return true end
  report("this model's sessions have no " .. what)
end

function commands.save(chat, path)
  if path == "" then return report("/save needs a path") end
  if not can(chat, "save") then return end
  local ok, message = chat.session:save(path)
  if ok then print("saved " .. path) else report(message) end
end

function commands.load(chat, path)
  if path == "" then return report("/load needs a path") end
  if not can(chat, "load") then return end
  local ok, message = chat.session:load(path)
  if ok then print(("goes on after %d tokens"):format(chat.session.length)) else report(message) end
end

function commands.stats(chat)
  if chat.metrics then print("last answer: " .. common.speed_text(chat.metrics)) end
  print(("context: %d of %d tokens"):format(chat.session.length, chat.model.info.context))
  print(("memory: %s of tensors, the process at most %s"):format(
    common.bytes(ml.memory.active()), common.bytes(common.peak_bytes())))
end

local takes_text = {system = true, save = true, load = true}

-- Runs a command; what it raises is printed and the conversation goes on.
local function obey(chat, line)
  local name, rest = line:match "^/(%S*)%s*(.-)%s*$"
  local command = commands[name]
  if not command then return report("there is no command /" .. name .. "; /help lists them") end
  if rest ~= "" and not takes_text[name] then return report(("/%s stands alone, without '%s'"):format(name, rest)) end
  local ok, result = console.run(command, chat, rest)
  if ok then return result end
  report(tostring(result))
end

local function complete(word, line)
  if line:find("^/save%s") or line:find("^/load%s") then return true end
  if line:sub(1, 1) ~= "/" or line:find("%s") then return nil end
  local names = {}
  for name in pairs(commands) do
    if ("/" .. name):sub(1, #word) == word then names[#names + 1] = "/" .. name end
  end
  table.sort(names)
  return names
end

-- Reads one turn, which may have several lines. nil at the end of input, false after Ctrl-C.
local function read_turn()
  local line = console.readline("> ")
  if not line then return line end
  local lines = {}
  if line:match('^%s*"""') then
    line = line:gsub('^%s*"""', "", 1)
    while not line:find('"""%s*$') do
      lines[#lines + 1] = line
      line = console.readline("  ")
      if not line then return line end
    end
    lines[#lines + 1] = line:gsub('"""%s*$', "")
    -- Quotes on lines of their own are no part of the text.
    if lines[1] == "" then table.remove(lines, 1) end
    if lines[#lines] == "" then table.remove(lines) end
  else
    while line:sub(-1) == "\\" do
      lines[#lines + 1] = line:sub(1, -2)
      line = console.readline("  ")
      if not line then return line end
    end
    lines[#lines + 1] = line
  end
  return table.concat(lines, "\n")
end

local function banner(m, opts)
  local parts = {common.name_of(m.info.path or opts.model)}
  if m.info.parameters then parts[#parts + 1] = common.count(m.info.parameters) .. " parameters" end
  parts[#parts + 1] = common.quantization_text(m.info.quantization)
  parts[#parts + 1] = ("context %d"):format(m.info.context)
  common.note(opts, "%s\n/help lists commands, Ctrl-D leaves\n", table.concat(parts, ", "))
end

local function converse(chat)
  console.history(common.state_file("chat_history"))
  console.completer(complete, true)
  while true do
    local text = read_turn()
    if text == nil then
      print()
      return 0
    elseif text and text:find("%S") then
      console.remember(text)
      if text:find("^/[^/]") or text == "/" then
        if obey(chat, text) then return 0 end
      else
        local reason, message = chat:turn((text:gsub("^//", "/")))
        if reason == "cancelled" then common.note(chat.opts, "[stopped]") end
        if not reason then report(message) end
        print()
      end
    end
  end
end

-- Without a person: every turn must succeed.
local function answer_all(chat, turns)
  for text in turns do
    if text:find("%S") then
      local reason, message = chat:turn(text)
      if reason == "cancelled" then return 130 end
      if not reason then options.fail("%s", message) end
    end
  end
  return 0
end

function M.run(opts)
  local person = not opts.prompt and not opts.file and console.is_terminal("stdin")
  local question = (opts.prompt or opts.file) and common.prompt_of(opts)
  if question and not question:find("%S") then options.wrong_usage("the question is empty") end
  local m <close> = common.load(opts)
  local chat = open(m, opts, person)
  local function once()
    local text = question
    question = nil
    return text
  end
  if person then banner(m, opts) end
  local ok, code, traceback = console.watch(function()
    if person then return converse(chat) end
    return answer_all(chat, question and once or io.lines())
  end)
  chat.session:close()
  if ok then return code end
  error(code_of(code) and code or tostring(code) .. "\n" .. tostring(traceback), 0)
end

return M
