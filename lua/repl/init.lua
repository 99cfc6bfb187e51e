---The REPL: reads a chunk, runs it, prints what it returns.
local ml = require "moonlet"
local console = require "moonlet.console"
local common = require "moonlet.cmd.common"
local complete = require "moonlet.repl.complete"
local help = require "moonlet.repl.help"
local input = require "moonlet.repl.input"
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

-- What was pasted and has not run yet, as `plan` of moonlet.repl.input gives it.
local pasted = {}

-- Takes lines that came together; what is to run first of them, false when nothing is.
local function take_lines(text)
  pasted = input.plan(input.split(input.lines(text)))
  return table.remove(pasted, 1) or false
end

-- The first line of an input, or lines that came together.
local function read_first()
  if #pasted > 0 then return table.remove(pasted, 1) end
  local line = console.readline("> ")
  if not line or not line:find "%S" then return line and false end
  if line:find "\n" then return take_lines(line) end
  local text, prompted = input.without_prompt(line)
  return {text = text, prompted = prompted}
end

---The next input: {text, chunk or message}, or {text, chunk, merged = true} for a chunk that shows its values itself.
---nil at the end, false when there is nothing to run.
local function read_input()
  local one = read_first()
  while one and not one.merged do
    one.chunk, one.message = input.compile(one.text)
    if one.chunk or one.message then break end
    local more = console.readline(">> ")
    if more == nil then
      one.message = select(2, load(one.text, "=(repl)"))
      break
    end
    if not more then return false end
    if more:find "\n" then one = take_lines(one.text .. "\n" .. more)
    else one.text = input.add(one.text, more, one.prompted) end
  end
  return one
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
  return code
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

-- Prints values. Short ones share a line, as with `print`.
local function print_values(...)
  local results = table.pack(...)
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

-- Runs inside the protected call, since showing a value may compute it.
local function run_and_print(chunk) print_values(chunk()) end

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

-- Runs one input. What was pasted behind one that Ctrl-C stopped is dropped.
local function run(one)
  console.remember(one.text)
  if one.message then return io.stderr:write(one.message, "\n") end
  local ok, err, traceback
  if one.merged then ok, err, traceback = console.run(one.chunk, print_values)
  else ok, err, traceback = console.run(run_and_print, one.chunk) end
  if line_is_open then print() end
  if not ok and report(err, traceback) == "cancelled" then pasted = {} end
  hint(one.text, ok)
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
    local one = read_input()
    if one == nil then break end
    if one then run(one) elseif one == false then pasted = {} end
  end
  print()
  return 0
end

return M
