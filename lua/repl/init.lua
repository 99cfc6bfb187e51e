---The REPL: reads a chunk, runs it, prints what it returns.
local ml = require "moonlet"
local console = require "moonlet.console"
local common = require "moonlet.cmd.common"
local complete = require "moonlet.repl.complete"
local help = require "moonlet.repl.help"
local show = require "moonlet.repl.show"

local M = {}

---"cpu (AVX-512), 2 threads, 23.0 GB", as far as it is known.
local function device_text()
  local ok, name, facts = pcall(common.device)
  if not ok then return "" end
  local parts = {name}
  if facts.description then parts[1] = ("%s (%s)"):format(name, facts.description) end
  if facts.threads then parts[#parts + 1] = ("%d threads"):format(facts.threads) end
  if facts.memory then parts[#parts + 1] = common.bytes(facts.memory) .. " of memory" end
  return table.concat(parts, ", ")
end

function M.banner()
  return ("moonlet %s, %s\n%s\nhelp() tells more, Ctrl-D leaves"):format(console.version, _VERSION, device_text())
end

-- Whether more lines could mend what the compiler complains of. A quoted string goes on only if its line ends in \.
local function unfinished(message, text)
  if message:find "unfinished string near <eof>$" then return text:find "\\z?%s*$" ~= nil end
  return message:find "<eof>$" ~= nil
end

---Turns input into a function.
---@param text string
---@return function? chunk  nil when the text is unfinished or wrong
---@return string? message  what is wrong; nil when more lines are needed
function M.compile(text)
  -- A variable to be closed makes the last call no tail call, so that errors inside it find their line here.
  local expression, why_not = load("local _repl_ <close> = nil return " .. text:gsub("^%s*=", ""), "=(repl)")
  if expression then return expression end
  local chunk, message = load(text, "=(repl)")
  if chunk then return chunk end
  if unfinished(message, text) or unfinished(why_not, text) then return nil end
  if text:find "^%s*=" then message = why_not end
  return nil, message
end

---Reads lines until they make a chunk. Returns nil at the end of input, false when there is nothing to run.
local function read_chunk()
  local text = console.readline("> ")
  if not text or not text:find "%S" then return text and false end
  while true do
    local chunk, message = M.compile(text)
    if chunk or message then
      console.remember(text)
      return chunk or false, message, text
    end
    local more = console.readline(">> ")
    if more == false then return false end
    if more == nil then
      console.remember(text)
      return false, select(2, load(text, "=(repl)")), text
    end
    text = text .. "\n" .. more
  end
end

-- A traceback of the functions of the user's, where there are any: what was typed alone says no more than the message.
local function of_functions(traceback)
  local _, lines = (traceback or ""):gsub("\n", "\n")
  return lines > 1 and traceback:gsub("%(repl%):(%d+): in main chunk", "(repl):%1: in what was typed") or nil
end

local function report(err, traceback)
  io.stdout:flush()
  local code = (type(err) == "table" or type(err) == "userdata") and select(2, pcall(function() return err.code end))
  io.stderr:write(code == "cancelled" and code or show.show(err), "\n")
  local lines = code ~= "cancelled" and of_functions(traceback)
  if lines then io.stderr:write(lines, "\n") end
end

local noted = {}

-- Tells of a stumbling stone, once in a session.
local function note(text)
  if noted[text] then return end
  noted[text] = true
  io.stderr:write("note: ", text, "\n")
end

-- Whether these are what `for` takes: an iterator that is its own closing value.
local function is_stream(results)
  return results.n == 4 and type(results[1]) == "table" and rawequal(results[1], results[4])
end

-- Runs inside the protected call, since showing a value may compute it. Short results share a line, as with `print`.
local function run_and_print(chunk)
  local results = table.pack(chunk())
  if results.n == 0 then return end
  if is_stream(results) then
    print(show.show(results[1]))
    return note "tokens come when they are asked for: for tok in ... do io.write(tok.text) end"
  end
  local length, lines = 0, false
  for i = 1, results.n do
    results[i] = show.show(results[i])
    length, lines = length + #results[i], lines or results[i]:find "\n"
  end
  print(table.concat(results, (lines or length > 100) and "\n" or "\t"))
end

-- A stream of tokens seldom ends its line; the prompt begins one of its own all the same.
local line_is_open = false

local function follow_output()
  local write, print_ = io.write, print
  io.write = function(...) -- luacheck: ignore 122
    local ok, result, message = pcall(write, ...)
    if not ok then error(type(result) == "string" and result:gsub("'%?'", "'write'") or result, 2) end
    local last = select("#", ...) > 0 and tostring((select(-1, ...))) or ""
    if last ~= "" then line_is_open = last:sub(-1) ~= "\n" end
    if message == nil then return result end
    return result, message
  end
  _G.print = function(...)
    print_(...)
    line_is_open = false
  end
end

-- People paste `local x = 1` and then miss x, and leave as they leave other prompts.
local function hint(text, ok)
  if ok and text:find "^%s*local%s" and not text:find "\n" then
    note "a local lasts for one input only; without `local` the name stays"
  end
  local word = text:match "^%s*(%a+)[%s()]*$"
  if (word == "exit" or word == "quit") and _G[word] == nil then note "Ctrl-D leaves" end
  if text:find "^%s*help%s*$" then note "help() tells more" end
end

---Runs until the end of input.
---@return integer exit code
function M.main()
  _G.ml = ml
  _G.help = function(...) print(help.text(...)) end
  follow_output()
  console.history(common.state_file("history"))
  console.completer(function(word, line) return complete.complete(word, line, _G) end)
  print(M.banner())
  while true do
    local chunk, message, text = read_chunk()
    if chunk == nil then break end
    if message then
      io.stderr:write(message, "\n")
    elseif chunk then
      local ok, err, traceback = console.run(run_and_print, chunk)
      if line_is_open then print() end
      if not ok then report(err, traceback) end
      hint(text, ok)
    end
  end
  print()
  return 0
end

return M
