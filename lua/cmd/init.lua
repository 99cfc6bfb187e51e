---The subcommands of `moonlet`: finds the one that is asked for, reads its options, runs it, and answers with an exit
---code (0 done, 1 failed, 2 wrong usage, 130 interrupted). Results go to stdout, everything else to stderr.
local console = require "moonlet.console"
local options = require "moonlet.cmd.options"

local M = {}

---In the order of the help text. Each is a module of its own, read only when it is called.
M.commands = {
  {"chat", "talk with a model"},
  {"generate", "continue a text"},
  {"batch", "answer many prompts at once"},
  {"classify", "say which of some labels each text is"},
  {"tokenize", "turn text into token ids, or back"},
  {"perplexity", "measure how well a model predicts a text"},
  {"bench", "measure a model's speed"},
  {"info", "say what a model is"},
  {"ls", "list the models that are here"},
}

local function overview()
  local out = {[[
moonlet runs language models; a model is a Lua file.

  moonlet                        the REPL, on a terminal; what comes through a pipe is run as a script
  moonlet FILE.lua [ARGUMENTS]   runs a script; - reads it from stdin
  moonlet -e CODE [ARGUMENTS]    runs code, with `ml` at hand; -e may be given several times
  moonlet -v                     prints the version

]]}
  for _, c in ipairs(M.commands) do out[#out + 1] = ("  moonlet %-12s %s\n"):format(c[1], c[2]) end
  out[#out + 1] = "\n`moonlet COMMAND --help` explains a command. To begin:\n\n  moonlet chat -m MODEL.gguf\n"
  return table.concat(out)
end

-- What to do with a path that is no command, or nil: a model is to be talked with, and a file may be a script.
local function use_of(name)
  local file = io.open(name)
  if not file then return nil end
  local _, why = file:read(0) -- a message for folders alone
  file:close()
  local config = why and io.open(name .. "/config.json")
  if config then config:close() end
  if config or not why and name:find "%.gguf$" then
    return ("a model is named by -m: `moonlet chat -m %s`"):format(name)
  end
  if why then return ("it is a folder; `moonlet ls %s` lists the models in it"):format(name) end
  return ("a script is run by `moonlet ./%s`"):format(name)
end

local function find(name)
  local names = {}
  for _, c in ipairs(M.commands) do
    if c[1] == name then return require("moonlet.cmd." .. name) end
    names[#names + 1] = c[1]
  end
  if name:sub(1, 1) == "-" then options.wrong_usage("unknown option %s; see `moonlet --help`", name) end
  local near = options.nearest(name, names)
  local use = not near and use_of(name)
  if use then options.wrong_usage("no command is called '%s'; %s", name, use) end
  options.wrong_usage("no command is called '%s'%s", name,
    near and (" (did you mean %s?)"):format(near) or "; see `moonlet --help`")
end

local function code_of(err)
  local ok, code = pcall(function() return err.code end)
  return ok and type(code) == "string" and code or nil
end

-- What a failure means: the exit code, and whether it is one that users can expect.
local function judge(err)
  local kind = type(err)
  if kind ~= "table" and kind ~= "userdata" then return 1, false end
  if code_of(err) == "cancelled" then return 130, true end
  if kind == "table" and err.usage then return 2, true end
  return 1, (kind == "table" and err.expected) or code_of(err) ~= nil
end

-- An expected failure is its message; anything else is a fault of ours and comes with its traceback.
local function explain(err)
  local exit, expected = judge(err)
  return {exit = exit, text = expected and tostring(err) or debug.traceback(tostring(err), 2)}
end

---Runs a subcommand.
---@param argv string[]  its name and arguments
---@return integer exit code
function M.main(argv)
  local name = argv[1]
  if name == nil or name == "-h" or name == "--help" or name == "help" and not argv[2] then
    io.write(overview())
    return 0
  end
  local arguments = table.move(argv, 2, #argv, 1, {})
  if name == "help" then name, arguments = argv[2], {"--help"} end
  local known
  local ok, result = xpcall(function()
    local command = find(name)
    known = true
    local opts, words = options.parse(command, arguments)
    if opts.help then
      io.write(options.usage(command))
      return 0
    end
    return command.run(opts, words) or 0
  end, explain)
  local written, message = io.stdout:flush()
  if ok and not written then ok, result = false, {exit = 1, text = "standard output: " .. message} end
  local exit = ok and result or result.exit
  if ok and exit ~= 130 then return exit end
  if not ok and exit == 130 and console.is_terminal "stderr" then io.stderr:write "\n" end -- behind the ^C
  local text = exit == 130 and "cancelled" or result.text
  if known and text:sub(1, #name + 2) == name .. ": " then text = text:sub(#name + 3) end -- a method of the same name
  io.stderr:write("moonlet", known and " " .. name or "", ": ", text, "\n")
  return exit
end

return M
