---`moonlet chat`: talks with a model. Ctrl-C stops an answer, and what there is of it stays in the conversation.
local ml = require "moonlet"
local common = require "moonlet.cmd.common"
local console = require "moonlet.console"
local Conversation = require "moonlet.cmd.conversation"
local options = require "moonlet.cmd.options"

local M = {
  name = "chat",
  summary = "talk with a model",
  usage = "-m MODEL [-p QUESTION] [options]",
  about = [[
With -p it answers one question and ends. Without a terminal, each line of stdin is a turn. --json prints
one object an answer: {text, ids, finish_reason, metrics}; an end token counts in metrics.generated_tokens
and is not among the ids. Answers are sampled as the model's generation_config.json says; where it has none,
with temperature 0.8, top-k 40, top-p 0.95 and min-p 0.05. --temp 0 takes the likeliest token each time; any
other --temp samples, by the file's other values, where the file itself does not ask for it.
When the context is full, the oldest turns leave the conversation, never the system message.]],
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
/help            this list
/clear           begins the conversation again
/retry           answers the last question anew
/undo            takes back the last question and its answer
/system TEXT     sets the system message and begins again; without TEXT shows it
/set NAME VALUE  changes how answers are sampled: temp, top-k, top-p, min-p, repeat-penalty, seed, max-tokens;
                 VALUE may be "default"; without anything shows what holds
/save PATH       writes the conversation to a file
/load PATH       goes on with one that was saved
/stats           speed, context and memory
/exit            leaves, as Ctrl-D does

Ctrl-C stops an answer. A line that ends in \ goes on in the next; """ begins and ends a longer text.
A text that begins with a slash is written with two. When the context is full, the oldest turns leave it.]]

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

-- Asks a question of the person's and says how it went; `again`: the one that was asked last.
local function answer(chat, text, again)
  chat.repeats = again and chat.repeats + 1 or 0
  local reason, message = chat:turn(text)
  if reason == "cancelled" then common.note(chat.opts, "[stopped]") end
  if not reason then report(message) end
  print()
end

-- Not every engine behind a model can keep a session.
local function can(chat, what)
  if chat.session[what] then return true end
  report("this model's sessions have no " .. what)
end

-- Takes back the last question; nil, and a message, where there is none.
local function take_back(chat)
  if chat.unanswered then
    local text = chat.unanswered
    chat.unanswered = nil
    return text
  end
  if not can(chat, "undo") then return nil end
  local text = chat.session:undo()
  if type(text) == "string" then return text end
  report "there is no question yet"
end

function commands.retry(chat)
  local text = take_back(chat)
  if text then answer(chat, text, true) end
end

function commands.undo(chat)
  local text = take_back(chat)
  if not text then return end
  local brief = text:gsub("%s+", " ")
  if utf8.len(brief, 1, -1, true) and utf8.len(brief, 1, -1, true) > 60 then
    brief = brief:sub(1, utf8.offset(brief, 61) - 1) .. "..."
  end
  print(("took back: %s"):format(brief))
end

-- What /set knows, by the names of the options.
local settable = {}
for _, option in ipairs(M.options) do
  local of_sampling = option.type == "number" or option.type == "integer"
  for _, o in ipairs(common.sampling) do
    if option == o and of_sampling then settable[option.name] = option end
  end
  if option.name == "max-tokens" then settable[option.name] = option end
end

function commands.set(chat, text)
  if text == "" then return print(("%s\nmax_tokens %d"):format(chat:sampling_text(), chat.given.max_tokens)) end
  local name, value = text:match "^([^%s=]+)[%s=]*(.*)$"
  if not name then return report("/set needs a name; /help lists what it knows") end
  local bare = name:gsub("_", "-"):gsub("^%-+", "")
  local option = settable[bare == "temperature" and "temp" or bare]
  if not option then return report(("/set knows no '%s'; /help lists what it knows"):format(name)) end
  local key = option.key or (option.name:gsub("-", "_"))
  if value == "" then return report(("/set %s needs a value, or \"default\""):format(name)) end
  if value == "default" then chat.given[key] = option.default
  else chat.given[key] = options.value(option, "/set " .. option.name, value) end
  print(key == "max_tokens" and ("max_tokens %d"):format(chat.given[key]) or chat:sampling_text())
end

-- Whether a conversation may be written there: nothing is lost, or the person says so.
local function may_write(chat, path)
  local file, _, code = io.open(path, "rb")
  if not file and code == 2 then return true end -- there is no such file
  local begins = not file and "?" or file:read(1)
  if file then file:close() end
  if not begins then return true end -- an empty file, or a folder, of which `save` says what it is
  if chat.session.is_saved and chat.session:is_saved(path) then return true end
  local yes = console.readline(("%s is no saved conversation; overwrite it? [y/N] "):format(path))
  if yes and yes:find "^%s*[yY]" then return true end
  print "not saved"
end

function commands.save(chat, path)
  if path == "" then return report("/save needs a path") end
  if not can(chat, "save") or not may_write(chat, path) then return end
  local ok, message = chat.session:save(path)
  if ok then print("saved " .. path) else report(message) end
end

function commands.load(chat, path)
  if path == "" then return report("/load needs a path") end
  if not can(chat, "load") then return end
  local ok, message = chat.session:load(path)
  if not ok then return report(message) end
  chat:adopt()
  print(("goes on after %d tokens"):format(chat.session.length))
end

function commands.stats(chat)
  if chat.metrics then print("last answer: " .. common.speed_text(chat.metrics)) end
  local n, context, turns = chat.session.length, chat.model.info.context, chat:turns()
  local left = chat.session.forgotten or 0
  print(("context: %d of %d tokens, %d turn%s%s"):format(math.min(n, context), context, turns, turns == 1 and "" or "s",
    left > 0 and ("; %d older left it"):format(left) or ""))
  print(("memory: %s of tensors, the process at most %s"):format(
    common.bytes(ml.memory.active()), common.bytes(common.peak_bytes())))
end

local takes_text = {system = true, save = true, load = true, set = true}

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

local function banner(chat)
  local m = chat.model
  local parts = {common.name_of(m.info.path or chat.opts.model)}
  if m.info.parameters then parts[#parts + 1] = common.count(m.info.parameters) .. " parameters" end
  parts[#parts + 1] = common.quantization_text(m.info.quantization)
  parts[#parts + 1] = ("context %d"):format(m.info.context)
  common.note(chat.opts, "%s\nsampling: %s\n/help lists commands, Ctrl-D leaves\n", table.concat(parts, ", "),
    chat:sampling_text())
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
      local slashed = text:match "^%s*(/.*)$"
      if slashed and slashed:sub(1, 2) ~= "//" then
        if obey(chat, slashed) then return 0 end
      else
        answer(chat, slashed and slashed:sub(2) or text)
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
  local chat = Conversation.open(m, opts)
  local function once()
    local text = question
    question = nil
    return text
  end
  if person then banner(chat) end
  local ok, code, traceback = console.watch(function()
    if person then return converse(chat) end
    return answer_all(chat, question and once or io.lines())
  end)
  chat.session:close()
  if ok then return code end
  local known = type(code) == "table" and code.expected or common.code_of(code)
  error(known and code or tostring(code) .. "\n" .. tostring(traceback), 0)
end

return M
